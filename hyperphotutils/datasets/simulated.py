# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated maps of blended sources on a structured background.

The noise and the background are drawn in Fourier space from a known
power spectrum, on a grid larger than the map, so that the covariance
between any two pixels of the map is known exactly. A measurement on such
a map can be compared both with the truth and with the smallest errors
that an unbiased measurement can have.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, product
from numbers import Integral
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS
from numpy.typing import ArrayLike
from scipy.fft import fftfreq, irfft2, next_fast_len, rfft2, rfftfreq

from hyperphotutils.datasets.parts import (
    beam_transfer,
    check_beam,
    check_number,
    check_shape,
    make_sky_beam,
    make_wcs,
)
from hyperphotutils.maps import read_map
from hyperphotutils.utils.checks import check_range
from hyperphotutils.utils.gaussians import add_gaussians, gaussian_flux
from hyperphotutils.utils.tables import result_meta
from hyperphotutils.utils.wcs import pixel_to_sky_ellipse

if TYPE_CHECKING:
    from astropy.nddata import CCDData
    from astropy.table import Table
    from radio_beam import Beam

    from hyperphotutils.utils.typing import FilePath, FloatOrArray

__all__ = [
    'BLENDED_MAP_RECIPES',
    'Autocovariance',
    'SimulatedMap',
    'make_blended_map',
]

_RECIPE = {
    'shape': (600, 600),
    'n_sources': 500,
    'beam': (3.7, 3.0, 30.0),
    'snr_range': (12.0, 40.0),
    'size_range': (1.0, 1.5),
    'axis_ratio_range': (0.7, 1.0),
    'background_ratio': 2.0,
    'background_index': 3.0,
    'background_scale': 60.0,
}

#: Read-only arguments of `make_blended_map` by name: ``'dense'``, in
#: which 40 % of the sources are placed 0.8 to 2 beams from another, and
#: ``'moderate'``, in which 20 % are placed 1.2 to 2 beams from another.
BLENDED_MAP_RECIPES: Mapping[str, Mapping] = MappingProxyType({
    'dense': MappingProxyType(
        {**_RECIPE, 'blend_fraction': 0.4, 'blend_distance': (0.8, 2.0)}),
    'moderate': MappingProxyType(
        {**_RECIPE, 'blend_fraction': 0.2, 'blend_distance': (1.2, 2.0)}),
})

_SOURCE_COLUMNS = ('x_fit', 'y_fit', 'amplitude_fit', 'fwhm_major_fit',
                   'fwhm_minor_fit', 'theta_fit')

# Smallest distances in beams: between sources that are not meant to blend,
# and of all sources from the edges of the map.
_ISOLATION = 2.0
_EDGE_MARGIN = 2.0

# Columns and rows from a cell to itself and to the adjacent ones
_ADJACENT = tuple(product((-1, 0, 1), repeat=2))

# Draws per source before giving up: a map in which less than 0.1 % of the
# area is free is treated as full.
_MAX_DRAWS = 1000

# Maps with more pixels are drawn in float32 and on a grid with a smaller
# margin, so that their memory is bounded. Smaller maps are not, so that
# a seed makes the same map in all versions of the package.
_MAX_DOUBLE_PIXELS = 2048**2

# Rows of a power spectrum that are evaluated at a time
_STRIP = 64


@dataclass(frozen=True, eq=False)
class Autocovariance:
    """
    The covariance between the pixels of a stationary map.

    Parameters
    ----------
    grid : 2-D `~numpy.ndarray`
        The periodic autocovariance: the element ``[dy, dx]``, counted
        modulo the shape of the grid, is the covariance of two pixels
        that are ``dx`` columns and ``dy`` rows apart.

    shape : tuple of int
        The ``(ny, nx)`` shape of the map within which the separations
        lie.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_blended_map
    >>> sim = make_blended_map((64, 64), 0, rms=2.0, background_ratio=0,
    ...                        seed=1)
    >>> print(f'{sim.autocovariance(0, 0):.3f}')
    4.000
    >>> print(sim.autocovariance([0, 4], [0, 0]).round(3))
    [4. 1.]
    """

    grid: np.ndarray
    shape: tuple

    def __call__(self, dx: ArrayLike, dy: ArrayLike) -> FloatOrArray:
        """
        Return the covariance of pixels at given separations.

        Parameters
        ----------
        dx, dy : int or array_like of int
            The separations in columns and rows, of either sign. They are
            broadcast against each other.

        Returns
        -------
        covariance : float or `~numpy.ndarray`
            The covariance in (Jy/pixel)\\ :sup:`2`, without unit.

        Raises
        ------
        ValueError
            If a separation is not an integer or exceeds the map.
        """
        lags = []
        for name, lag, size in (('dx', dx, self.shape[1]),
                                ('dy', dy, self.shape[0])):
            lags.append(np.asarray(lag))
            if not (np.all(np.abs(lag) < size)
                    and np.all(np.rint(lag) == lag)):
                msg = (f'{name} must hold whole numbers of pixels between '
                       f'{1 - size} and {size - 1}: got {lag!r}')
                raise ValueError(msg)
        dx, dy = (lag.astype(int) for lag in lags)
        covariance = self.grid[dy, dx]
        return covariance.astype(float)

    def __repr__(self) -> str:
        return (f'<{self.__class__.__name__}(shape={self.shape}, '
                f'variance={self.grid[0, 0]:.4g})>')


@dataclass(frozen=True, eq=False)
class SimulatedMap:
    """
    A simulated map with its true sources, background, and noise.

    It is returned by `make_blended_map`.

    Parameters
    ----------
    image : `~astropy.nddata.CCDData`
        The map in Jy/pixel with its WCS, mask and metadata, as
        `~hyperphotutils.maps.read_map` returns it.

    truth : `~astropy.table.QTable`
        The true sources, one per row, with the column names of the
        photometry results.

    beam : `~radio_beam.Beam`
        The beam on the sky.

    rms : `~astropy.units.Quantity`
        The standard deviation of the noise alone, in Jy/pixel.

    background : `~astropy.units.Quantity`
        The structured background in ``image``, in Jy/pixel.

    autocovariance : `Autocovariance`
        The exact covariance of noise plus background as a function of
        the separation ``(dx, dy)`` in pixels, in (Jy/pixel)\\ :sup:`2`.
    """

    image: CCDData
    truth: QTable
    beam: Beam
    rms: u.Quantity
    background: u.Quantity
    autocovariance: Autocovariance

    @property
    def wcs(self) -> WCS:
        """
        The WCS of the map.
        """
        return self.image.wcs

    def write(self, path: FilePath, *,
              unit: Literal['Jy/beam', 'Jy/pixel'] = 'Jy/beam',
              overwrite: bool = False) -> None:
        """
        Write the map as a FITS file.

        Parameters
        ----------
        path : str or path-like
            The file to write.

        unit : {'Jy/beam', 'Jy/pixel'}, optional
            The unit of the values in the file.

        overwrite : bool, optional
            Whether to replace an existing file.

        Raises
        ------
        ValueError
            If ``unit`` is not one of these.

        OSError
            If the file exists and ``overwrite`` is `False`.

        Examples
        --------
        >>> from tempfile import TemporaryDirectory
        >>> from hyperphotutils.datasets import make_blended_map
        >>> from hyperphotutils.maps import read_map
        >>> sim = make_blended_map((64, 64), 4, seed=1)
        >>> with TemporaryDirectory() as folder:
        ...     sim.write(f'{folder}/map.fits')
        ...     print(read_map(f'{folder}/map.fits').meta['original_unit'])
        Jy/beam
        """
        factors = {'Jy/beam': self.image.meta['beam_area_pix'],
                   'Jy/pixel': 1.0}
        if unit not in factors:
            msg = f'unit must be one of {tuple(factors)}: got {unit!r}'
            raise ValueError(msg)
        hdu = _make_hdu(self.image.data * factors[unit], self.wcs,
                        self.beam, unit)
        hdu.writeto(path, overwrite=overwrite)

    def __repr__(self) -> str:
        return (f'<{self.__class__.__name__}(shape={self.image.shape}, '
                f'n_sources={len(self.truth)}, rms={self.rms:.4g})>')


def make_blended_map(
        shape: tuple[int, ...] = (300, 300), n_sources: int = 100, *,
        beam: float | tuple[float, ...] = 4.0,
        snr_range: tuple[float, ...] = (12.0, 40.0),
        size_range: tuple[float, ...] = (1.0, 1.5),
        axis_ratio_range: tuple[float, ...] = (0.7, 1.0),
        blend_fraction: float = 0.4,
        blend_distance: tuple[float, ...] = (0.8, 2.0),
        rms: float | u.Quantity = 1e-5, background_ratio: float = 2.0,
        background_index: float = 3.0, background_scale: float = 60.0,
        pixel_scale: float | u.Quantity = 1.0, wcs: WCS | None = None,
        sources: Table | None = None,
        seed: int | np.random.Generator | None = None) -> SimulatedMap:
    """
    Make a map of blended elliptical sources with noise and background.

    Use it to test detection and photometry against exactly known
    sources and noise. Lengths "in beams" are multiples of the geometric
    mean FWHM of the beam, the square root of the product of its axes.

    Parameters
    ----------
    shape : tuple of int, optional
        The ``(ny, nx)`` shape of the map.

    n_sources : int, optional
        The number of sources, which may be 0.

    beam : float or tuple of float, optional
        The FWHM of the beam in pixels: one number for a round beam, or
        ``(major, minor, theta)`` with the angle of the major axis in
        degrees counterclockwise from +x.

    snr_range : tuple of float, optional
        The range of the true peak divided by the standard deviation of
        the noise (without background), drawn uniformly in its
        logarithm.

    size_range : tuple of float, optional
        The range of the geometric mean of a source's FWHMs in beams,
        drawn uniformly. These are the sizes after convolution with the
        beam.

    axis_ratio_range : tuple of float, optional
        The range of the minor over the major FWHM, drawn uniformly. The
        angle of the major axis is drawn uniformly.

    blend_fraction : float, optional
        The fraction of the sources (from 0 to below 1) that are placed
        at ``blend_distance`` from a random source placed before. The
        distance of a source from all others is at least ``max(2,
        blend_distance[1])`` beams.

    blend_distance : tuple of float, optional
        The range of the distance in beams, drawn uniformly, to the
        source next to which a source is placed.

    rms : float or `~astropy.units.Quantity`, optional
        The standard deviation of the noise; Jy/pixel if it has no unit.

    background_ratio : float, optional
        The standard deviation of the background divided by ``rms``; 0
        for no background.

    background_index : float, optional
        The power-law index of the decrease of the background's power
        spectrum with the spatial frequency, before convolution with the
        beam.

    background_scale : float, optional
        The scale in pixels above which the background's power spectrum
        is flat, i.e. below the frequency ``1 / background_scale``.

    pixel_scale : float or `~astropy.units.Quantity`, optional
        The angular size of a pixel; arcsec if it has no unit. Ignored
        when ``wcs`` is given.

    wcs : `~astropy.wcs.WCS`, optional
        The celestial WCS of the map. By default a gnomonic projection
        (ICRS, North up, East to the left) centered on the Orion nebula.

    sources : `~astropy.table.Table`, optional
        The sources of the map, after convolution with its beam, instead
        of random ones. It must have the columns ``x_fit``, ``y_fit``,
        ``amplitude_fit`` (Jy/pixel), ``fwhm_major_fit``,
        ``fwhm_minor_fit`` (pixels), and ``theta_fit`` (degrees), as the
        truth of another map. The arguments for random sources are then
        ignored.

    seed : int, `~numpy.random.Generator` or `None`, optional
        The seed of all random numbers. Sources, noise and background
        have separate random streams: changing the arguments of one does
        not change the others. Distances are in beams, so that positions
        depend on the beam; use ``sources`` to keep them.

    Returns
    -------
    simulated : `SimulatedMap`
        The map, the true sources, the beam, the background and the
        exact covariance of noise plus background. The columns of the
        truth table are those of the photometry's results (``id``,
        ``x_fit``, ``y_fit``, ``amplitude_fit``, ``fwhm_major_fit``,
        ``fwhm_minor_fit``, ``theta_fit``, ``flux_fit``, the sky
        columns), the true ``snr``, and ``host_id``, the ``id`` of the
        source next to which this one was placed (0 if none).

    Raises
    ------
    TypeError
        If ``n_sources`` is not a whole number or ``wcs`` is not a WCS.

    ValueError
        If an argument is out of its range, or if the sources do not fit
        in the map.

    Notes
    -----
    The noise is white Gaussian noise convolved with the beam: its power
    spectrum is the square of the beam's transfer function. The
    background is a Gaussian random field of zero mean with the power
    spectrum :math:`\\max(k, 1/s)^{-\\gamma}` for the scale :math:`s` and
    index :math:`\\gamma`, convolved with the same beam. Both are drawn on
    a periodic grid at least twice as large as the map. The given
    standard deviations are those of the random process; the standard
    deviation of a single map scatters about them.

    Maps of more than 2048\\ :sup:`2` pixels are drawn in float32, on a
    grid that exceeds the map by four times ``background_scale`` or the
    major axis of the beam, whichever is larger. Opposite edges of such a
    map are correlated as weakly as pixels at that distance, as the
    returned covariance states.

    `BLENDED_MAP_RECIPES` has the arguments of the maps with which the
    accuracy of this package is measured.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_blended_map
    >>> sim = make_blended_map((128, 128), 20, seed=42)
    >>> sim.image.shape, sim.image.unit.to_string()
    ((128, 128), 'Jy / pix')
    >>> len(sim.truth), int((sim.truth['host_id'] > 0).sum())
    (20, 8)

    A standard recipe:

    >>> from hyperphotutils.datasets import BLENDED_MAP_RECIPES
    >>> sim = make_blended_map(**BLENDED_MAP_RECIPES['moderate'], seed=1)
    >>> len(sim.truth)
    500
    """
    call = {name: repr(value) for name, value in locals().items()}
    if sources is not None:
        call['sources'] = f'<{len(sources)} given>'
    shape = check_shape(shape)
    beam = check_beam(beam)
    rms = check_number('rms', u.Quantity(rms, u.Jy / u.pix).value)
    if wcs is None:
        wcs = make_wcs(shape, pixel_scale)
    elif not isinstance(wcs, WCS):
        msg = f'wcs must be an astropy WCS: got {wcs!r}'
        raise TypeError(msg)
    elif not wcs.has_celestial:
        msg = f'wcs must have two celestial axes: got {wcs.wcs.ctype}'
        raise ValueError(msg)
    wcs = wcs.celestial
    rngs = np.random.default_rng(seed).spawn(3)

    if sources is not None:
        truth = _given_sources(sources, rms)
    else:
        truth = draw_sources(
            rngs[0], shape, beam, rms, n_sources=n_sources,
            blend_fraction=blend_fraction, blend_distance=blend_distance,
            snr_range=snr_range, size_range=size_range,
            axis_ratio_range=axis_ratio_range)
    x, y = truth['x_fit'], truth['y_fit']
    truth['sky_centroid'] = wcs.pixel_to_world(x, y)
    (truth['fwhm_major_sky'], truth['fwhm_minor_sky'],
     truth['position_angle']) = pixel_to_sky_ellipse(
        wcs, x, y, truth['fwhm_major_fit'], truth['fwhm_minor_fit'],
        truth['theta_fit'].value)
    truth.meta.update(result_meta(), call=call)

    data, background, autocovariance = _draw_noise(
        rngs[1:], shape, beam, rms, ratio=background_ratio,
        index=background_index, scale=background_scale)
    data += background
    add_gaussians(data, truth['x_fit'], truth['y_fit'],
                  truth['amplitude_fit'].value, truth['fwhm_major_fit'],
                  truth['fwhm_minor_fit'], truth['theta_fit'].value)

    sky_beam = make_sky_beam(wcs, shape, beam)
    return SimulatedMap(
        image=read_map(_make_hdu(data, wcs, sky_beam, 'Jy/pixel'),
                       fill_value=False),
        truth=truth, beam=sky_beam, rms=rms << u.Jy / u.pix,
        background=background << u.Jy / u.pix, autocovariance=autocovariance)


def draw_sources(rng, shape, beam, rms, *, n_sources, blend_fraction,
                  blend_distance, snr_range, size_range, axis_ratio_range):
    """
    Draw the sources of a map, with positions and sizes in pixels; see
    `make_blended_map` for the arguments.
    """
    if isinstance(n_sources, bool) or not isinstance(n_sources, Integral):
        msg = f'n_sources must be a whole number: got {n_sources!r}'
        raise TypeError(msg)
    n_sources = int(check_number('n_sources', n_sources, lower=0,
                                  closed=True))
    blend_fraction = check_number('blend_fraction', blend_fraction,
                                   upper=1.0, closed=True)
    blend_distance = check_range(blend_distance, 'blend_distance')
    snr_range = check_range(snr_range, 'snr_range')
    size_range = check_range(size_range, 'size_range')
    axis_ratio_range = check_range(axis_ratio_range, 'axis_ratio_range',
                                   upper=1.0)

    beam_fwhm = np.sqrt(beam[0] * beam[1])
    x, y, host_id = _place_sources(rng, shape, n_sources, beam_fwhm,
                                   blend_fraction, blend_distance)
    # uniform in the logarithm: faint sources, which are hard, are not few
    snr = np.exp(rng.uniform(*np.log(snr_range), n_sources))
    size = rng.uniform(*size_range, n_sources) * beam_fwhm
    root_ratio = np.sqrt(rng.uniform(*axis_ratio_range, n_sources))
    amplitude = snr * rms
    return QTable({
        'id': np.arange(1, n_sources + 1),
        'x_fit': x,
        'y_fit': y,
        'amplitude_fit': amplitude << u.Jy / u.pix,
        'fwhm_major_fit': size / root_ratio,
        'fwhm_minor_fit': size * root_ratio,
        'theta_fit': rng.uniform(0.0, 180.0, n_sources) << u.deg,
        'flux_fit': gaussian_flux(amplitude, size, size) << u.Jy,
        'snr': snr,
        'host_id': host_id,
    })


def _given_sources(sources, rms):
    """
    Return the truth table of given sources.
    """
    missing = [name for name in _SOURCE_COLUMNS
               if name not in getattr(sources, 'colnames', ())]
    if missing:
        msg = ('sources must be a table with the columns '
               f'{", ".join(_SOURCE_COLUMNS)}: {", ".join(missing)} missing')
        raise ValueError(msg)
    units = {'amplitude_fit': u.Jy / u.pix, 'theta_fit': u.deg}
    truth = QTable({'id': np.arange(1, len(sources) + 1)})
    if 'id' in sources.colnames:
        truth['id'] = sources['id']
    for name in _SOURCE_COLUMNS:
        values = u.Quantity(sources[name], units.get(name, u.one),
                            dtype=float)
        truth[name] = values if name in units else values.value
    wrong = ((truth['fwhm_minor_fit'] <= 0.0)
             | (truth['fwhm_major_fit'] < truth['fwhm_minor_fit']))
    if wrong.any():
        msg = ('sources must have positive widths, the larger one first: '
               f'{truth["fwhm_major_fit"][wrong][0]} x '
               f'{truth["fwhm_minor_fit"][wrong][0]}')
        raise ValueError(msg)
    truth['flux_fit'] = gaussian_flux(
        truth['amplitude_fit'].value, truth['fwhm_major_fit'],
        truth['fwhm_minor_fit']) << u.Jy
    truth['snr'] = truth['amplitude_fit'].value / rms
    truth['host_id'] = (sources['host_id'] if 'host_id' in sources.colnames
                        else np.zeros(len(sources), dtype=int))
    return truth


def _place_sources(rng, shape, n_sources, beam_fwhm, blend_fraction,
                   blend_distance):
    """
    Draw positions such that only the intended pairs are close.

    Each source is checked against all sources placed before that could
    be too close, so that the smallest separation holds for every pair.
    """
    isolation = max(_ISOLATION, blend_distance[1]) * beam_fwhm
    lower = np.full(2, _EDGE_MARGIN * beam_fwhm)
    upper = np.subtract(shape[::-1], 1) - lower
    n_companions = min(round(blend_fraction * n_sources), n_sources - 1)
    first_companion = n_sources - max(n_companions, 0)

    placed = []
    hosts = []
    # The placed sources by square cells, so that only those in the
    # adjacent cells have to be checked.
    cells = defaultdict(list)
    n_draws = 0
    while len(placed) < n_sources:
        if n_draws == _MAX_DRAWS or np.any(upper < lower):
            msg = (f'n_sources={n_sources} sources do not fit in a map of '
                   f'shape {shape}: no place for number {len(placed) + 1} '
                   f'at {isolation:.1f} pixels from the others and '
                   f'{lower[0]:.1f} from the edges')
            raise ValueError(msg)
        n_draws += 1
        host = -1
        if len(placed) < first_companion:
            x, y = rng.uniform(lower, upper)
        else:
            host = int(rng.integers(len(placed)))
            distance = rng.uniform(*blend_distance) * beam_fwhm
            angle = rng.uniform(0.0, 2.0 * np.pi)
            x = placed[host][0] + distance * np.cos(angle)
            y = placed[host][1] + distance * np.sin(angle)
        if not (lower[0] <= x <= upper[0] and lower[1] <= y <= upper[1]):
            continue
        column, row = int(x // isolation), int(y // isolation)
        near = chain.from_iterable(
            cells[column + dx, row + dy] for dx, dy in _ADJACENT
            if (column + dx, row + dy) in cells)
        if any(math.dist(placed[k], (x, y)) < isolation
               for k in near if k != host):
            continue
        cells[column, row].append(len(placed))
        placed.append((float(x), float(y)))
        hosts.append(host)
        n_draws = 0
    x, y = np.reshape(placed, (-1, 2)).T
    return x.copy(), y.copy(), np.array(hosts, dtype=int) + 1


def _draw_noise(rngs, shape, beam, rms, *, ratio, index, scale):
    """
    Draw noise and background and return them with the autocovariance of
    their sum.
    """
    ratio = check_number('background_ratio', ratio, closed=True)
    index = check_number('background_index', index, closed=True)
    scale = check_number('background_scale', scale)

    is_large = shape[0] * shape[1] > _MAX_DOUBLE_PIXELS
    dtype = np.float32 if is_large else float
    margin = 4.0 * (max(scale, beam[0]) if is_large else scale)
    # The grid exceeds the map by the margin, at least by the map itself unless
    # that is large, and at most by two maps. It is odd, so that there is no
    # Nyquist frequency, at which an anisotropic spectrum has no symmetric
    # sampling, and a product of primes up to 11, for which FFTs are fast.
    least = [size + int(np.clip(np.ceil(margin), 0 if is_large else size,
                                2 * size)) for size in shape]
    grid_shape = tuple(next(n for n in range(size, 2 * size)
                            if n % 2 and next_fast_len(n) == n)
                       for size in least)
    kx, ky = rfftfreq(grid_shape[1]), fftfreq(grid_shape[0])[:, np.newaxis]
    fields = []
    grid = np.zeros(grid_shape, dtype)
    for rng, structure, level in (
            (rngs[0], None, rms),
            (rngs[1], (index, scale), ratio * rms)):
        power = np.empty((grid_shape[0], kx.size), dtype)
        # in strips, so that no other array is as large
        for start in range(0, grid_shape[0], _STRIP):
            strip = slice(start, start + _STRIP)
            values = beam_transfer(kx, ky[strip], beam)**2
            if structure is not None:
                index, scale = structure
                values = values * np.maximum(np.hypot(kx, ky[strip]),
                                             1.0 / scale)**-index
            power[strip] = values
        # The autocovariance is the inverse transform of the power spectrum
        # (Wiener-Khinchin theorem).
        covariance = irfft2(power, s=grid_shape)
        variance = covariance[0, 0]
        covariance *= level**2 / variance
        grid += covariance
        # Grids are large: each is deleted as soon as possible.
        del covariance
        power /= variance
        np.sqrt(power, out=power)
        spectrum = rfft2(rng.standard_normal(grid_shape, dtype))
        spectrum *= power
        del power
        field = irfft2(spectrum, s=grid_shape, overwrite_x=True)
        del spectrum
        fields.append(dtype(level) * field[:shape[0], :shape[1]])
        del field
    return *fields, Autocovariance(grid, shape)


def _make_hdu(data, wcs, beam, unit):
    """
    Return the FITS image with the header of an observation.
    """
    header = wcs.to_header()
    header['BUNIT'] = unit
    header.update(beam.to_header_keywords())
    header['OBJECT'] = 'simulated'
    return fits.PrimaryHDU(data, header)
