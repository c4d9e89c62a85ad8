# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated cubes: sources in some channels, on polynomial backgrounds
that differ from channel to channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import QTable
from scipy.fft import fftfreq, irfft2, rfft2, rfftfreq
from scipy.ndimage import gaussian_filter1d

from hyperphotutils.background.regressors import (
    evaluate_polynomial,
    polynomial_terms,
)
from hyperphotutils.datasets.parts import (
    beam_transfer,
    check_beam,
    check_number,
    check_shape,
    make_sky_beam,
    make_wcs,
)
from hyperphotutils.datasets.simulated import draw_sources
from hyperphotutils.maps import read_cube
from hyperphotutils.utils.checks import check_range
from hyperphotutils.utils.gaussians import add_gaussians
from hyperphotutils.utils.tables import result_meta

if TYPE_CHECKING:
    from radio_beam import Beam

    from hyperphotutils.maps.cubes import MapCube
    from hyperphotutils.utils.typing import FilePath

__all__ = ['SimulatedCube', 'make_map_cube']

# Lines are truncated at this many standard deviations from the center.
_LINE_EDGE = 2.0


@dataclass(frozen=True, eq=False)
class SimulatedCube:
    """
    A simulated cube with its true sources, background, and noise.

    It is returned by `make_map_cube`.

    Parameters
    ----------
    hdu : `~astropy.io.fits.PrimaryHDU`
        The cube as float32 in Jy/beam, with its header.

    truth : `~astropy.table.QTable`
        The true sources: a row for each source in each channel where it
        is present, with the column names of the photometry results,
        ``channel``, and ``velocity``.

    background : `~astropy.units.Quantity`
        The background in the cube, in Jy/beam, including pixels where
        the cube has no values.

    rms : `~astropy.units.Quantity`
        The standard deviation of the noise in Jy/beam.

    beam : `~radio_beam.Beam`
        The beam on the sky.
    """

    hdu: fits.PrimaryHDU
    truth: QTable
    background: u.Quantity
    rms: u.Quantity
    beam: Beam

    @property
    def cube(self) -> MapCube:
        """
        The cube as `~hyperphotutils.maps.read_cube` returns it.
        """
        return read_cube(self.hdu)

    def write(self, path: FilePath, *, overwrite: bool = False) -> None:
        """
        Write the cube as a FITS file.

        Parameters
        ----------
        path : str or path-like
            The file to write.

        overwrite : bool, optional
            Whether to replace an existing file.
        """
        self.hdu.writeto(path, overwrite=overwrite)

    def __repr__(self) -> str:
        return (f'<{self.__class__.__name__}(shape={self.hdu.shape}, '
                f'n_sources={len(set(self.truth["id"]))}, '
                f'rms={self.rms:.4g})>')


def make_map_cube(shape: tuple[int, ...] = (16, 128, 128), n_sources: int = 8,
                  *, beam: float | tuple[float, ...] = 4.0,
                  snr_range: tuple[float, ...] = (10.0, 40.0),
                  size_range: tuple[float, ...] = (1.0, 1.5),
                  axis_ratio_range: tuple[float, ...] = (0.7, 1.0),
                  line_width_range: tuple[float, ...] = (1.0, 3.0),
                  rms: float | u.Quantity = 1e-3,
                  correlated_noise: bool = True, background_ratio: float = 5.0,
                  orders: int | Sequence[int] | np.ndarray = (0, 1, 2),
                  background_width: float = 0.0, border: int = 4,
                  pixel_scale: float | u.Quantity = 1.0,
                  channel_width: float | u.Quantity = 0.5,
                  seed: int | np.random.Generator | None = None
                  ) -> SimulatedCube:
    """
    Make a cube with sources on polynomial backgrounds.

    Use it to test the background subtraction and photometry of cubes:
    the sources and the background of each channel are known exactly.

    Parameters
    ----------
    shape : tuple of int, optional
        The shape ``(n_channels, ny, nx)``.

    n_sources : int, optional
        The number of sources. Each has a Gaussian line at a random
        channel, truncated at 2 standard deviations, so that it is
        present in some channels only. There may be channels without
        sources.

    beam : float or tuple of float, optional
        The FWHM of the beam in pixels: one number for a round beam, or
        ``(major, minor, theta)`` with the angle in degrees
        counterclockwise from +x.

    snr_range : tuple of float, optional
        The range of the peak at the center of the line divided by the
        noise.

    size_range, axis_ratio_range : tuple of float, optional
        The sizes and shapes of the sources; see `make_blended_map`.

    line_width_range : tuple of float, optional
        The range of the standard deviation of the lines in channels.

    rms : float or `~astropy.units.Quantity`, optional
        The standard deviation of the noise; Jy/beam if it has no unit.

    correlated_noise : bool, optional
        Whether the noise is correlated over the beam (it then repeats
        at the edges of the map) or independent in each pixel.

    background_ratio : float, optional
        The standard deviation of each coefficient of the backgrounds,
        for coordinates from -1 to 1 over the map, divided by ``rms``.

    orders : int or sequence of int, optional
        The orders of the backgrounds, which are assigned to the channels
        in turn.

    background_width : float, optional
        The standard deviation, in channels, of the Gaussian with which
        the coefficients are smoothed along the spectral axis; 0 for
        independent backgrounds.

    border : int, optional
        The width in pixels of the NaN border of the channels.

    pixel_scale : float or `~astropy.units.Quantity`, optional
        The angular size of a pixel; arcsec if it has no unit.

    channel_width : float or `~astropy.units.Quantity`, optional
        The width of a channel; km/s if it has no unit.

    seed : int, `~numpy.random.Generator` or `None`, optional
        The seed of all random numbers. Sources, backgrounds and noise
        have separate random streams: changing the arguments of one does
        not change the others.

    Returns
    -------
    simulated : `SimulatedCube`
        The cube, the true sources, the backgrounds and the noise.

    Raises
    ------
    ValueError
        If an argument is out of its range, or if the sources do not fit
        in the map.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_map_cube
    >>> sim = make_map_cube((8, 64, 64), 3, seed=1)
    >>> print(sim.cube.shape, sim.cube.unit)
    (8, 64, 64) Jy / beam
    >>> print(sim.truth.colnames[:4])
    ['id', 'channel', 'velocity', 'x_fit']
    """
    n_channels, *sky = check_shape(shape, 3)
    beam = check_beam(beam)
    rms = check_number('rms', u.Quantity(rms, u.Jy / u.beam).value)
    border = int(check_number('border', border, closed=True))
    width = u.Quantity(channel_width, u.km / u.s)
    rngs = np.random.default_rng(seed).spawn(4)

    wcs = make_wcs(sky, pixel_scale)
    sky_beam = make_sky_beam(wcs, sky, beam)
    sources = draw_sources(
        rngs[0], tuple(n - 2 * border for n in sky), beam, rms,
        n_sources=n_sources, blend_fraction=0.0, blend_distance=(2.0, 2.0),
        snr_range=snr_range, size_range=size_range,
        axis_ratio_range=axis_ratio_range)
    truth = _draw_lines(rngs[1], sources, n_channels, border,
                        check_range(line_width_range, 'line_width_range'))
    truth['amplitude_fit'] = truth['amplitude_fit'] * rms << u.Jy / u.beam
    truth['velocity'] = truth['channel'] * width
    truth.meta.update(result_meta())

    coefficients = _draw_coefficients(rngs[2], n_channels, orders,
                                      background_width)
    grid = [np.linspace(-1.0, 1.0, n) for n in sky]
    background = evaluate_polynomial(
        check_number('background_ratio', background_ratio, closed=True)
        * rms * coefficients, grid[1], grid[0])
    data = rngs[3].standard_normal((n_channels, *sky))
    if correlated_noise:
        transfer = beam_transfer(rfftfreq(sky[1]),
                                 fftfreq(sky[0])[:, np.newaxis], beam)
        # of unit variance
        transfer /= np.sqrt(irfft2(transfer**2, s=sky)[0, 0])
        for plane in data:
            plane[:] = irfft2(transfer * rfft2(plane), s=sky)
    data *= rms
    data += background
    # add the sources to their channels
    for channel in np.unique(truth['channel']):
        rows = truth[truth['channel'] == channel]
        add_gaussians(data[channel], rows['x_fit'], rows['y_fit'],
                      rows['amplitude_fit'].value, rows['fwhm_major_fit'],
                      rows['fwhm_minor_fit'], rows['theta_fit'].value)
    inner = np.zeros(sky, dtype=bool)
    inner[border:sky[0] - border, border:sky[1] - border] = True
    data[:, ~inner] = np.nan
    header = wcs.to_header()
    header['WCSAXES'] = 3
    header.update({
        'CTYPE3': 'VRAD', 'CUNIT3': 'km/s', 'CRVAL3': 0.0, 'CRPIX3': 1.0,
        'CDELT3': width.to_value(u.km / u.s),
        # of CO(2-1)
        'SPECSYS': 'LSRK', 'RESTFRQ': 230.538e9, 'BUNIT': 'Jy/beam',
        **sky_beam.to_header_keywords(), 'OBJECT': 'simulated'})
    return SimulatedCube(
        hdu=fits.PrimaryHDU(data.astype(np.float32), header), truth=truth,
        background=background << u.Jy / u.beam, rms=rms << u.Jy / u.beam,
        beam=sky_beam)


def _draw_lines(rng, sources, n_channels, border, width_range):
    """
    Draw the lines of the sources.

    Returns a table with a row for each source and channel. The amplitude
    is the peak in units of the noise.
    """
    center = rng.uniform(0, n_channels - 1, len(sources))
    width = rng.uniform(*width_range, len(sources))
    distance = ((np.arange(n_channels) - center[:, np.newaxis])
                / width[:, np.newaxis])
    row, channel = np.nonzero(np.abs(distance) <= _LINE_EDGE)
    rows = sources[row]
    return QTable({
        'id': rows['id'], 'channel': channel,
        'velocity': np.zeros(len(rows)) << u.km / u.s,
        'x_fit': rows['x_fit'] + border, 'y_fit': rows['y_fit'] + border,
        'amplitude_fit': (rows['snr']
                          * np.exp(-0.5 * distance[row, channel]**2)),
        'fwhm_major_fit': rows['fwhm_major_fit'],
        'fwhm_minor_fit': rows['fwhm_minor_fit'],
        'theta_fit': rows['theta_fit']})


def _draw_coefficients(rng, n_channels, orders, width):
    """
    Draw the coefficients of all backgrounds, of unit variance.
    """
    orders = np.resize(np.atleast_1d(orders), n_channels)
    i, j = polynomial_terms(int(orders.max()))
    # channels before the first, so that all have the same variance
    reach = int(np.ceil(4.0 * width))
    drawn = rng.standard_normal((n_channels + 2 * reach, i.size))
    if width > 0.0:
        pulse = np.zeros(2 * reach + 1)
        pulse[reach] = 1.0
        # the standard deviation that smoothing leaves of white noise
        gain = np.linalg.norm(gaussian_filter1d(pulse, width))
        drawn = gaussian_filter1d(drawn, width, axis=0) / gain
    coefficients = np.zeros((n_channels, orders.max() + 1,
                             orders.max() + 1))
    coefficients[:, j, i] = drawn[reach:reach + n_channels] * (
        i + j <= orders[:, np.newaxis])
    return coefficients
