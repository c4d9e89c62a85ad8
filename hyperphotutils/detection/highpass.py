# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Star finder for blended sources on structured backgrounds.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from astropy.stats import gaussian_fwhm_to_sigma
from astropy.table import QTable
from astropy.units import Quantity
from numpy.typing import ArrayLike, NDArray
from photutils.detection import StarFinderBase
from photutils.utils.exceptions import NoDetectionsWarning
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from hyperphotutils.catalog.columns import describe_columns
from hyperphotutils.detection.edges import distance_to_edge
from hyperphotutils.detection.filters import (
    check_fwhm,
    check_kernel,
    filter_image,
    high_pass_filter,
    kernel_width,
    of_mask,
    open_image,
)
from hyperphotutils.detection.shapes import (
    cutout_stack,
    daofind_roundness,
    daofind_sharpness,
    fit_peaks,
    highest_pixels,
    ring_scores,
)
from hyperphotutils.detection.shoulders import ShoulderFilter
from hyperphotutils.noise.clipped import clipped_rms
from hyperphotutils.noise.fill import find_fill_values
from hyperphotutils.noise.local import measure_noise_variation
from hyperphotutils.utils.checks import (
    check_integer,
    check_positive,
    check_relative_rms,
)
from hyperphotutils.utils.gaussians import gaussian_flux
from hyperphotutils.utils.tables import (
    as_masked_image,
    make_repr,
    result_meta,
    strip_units,
)

if TYPE_CHECKING:
    from astropy.nddata import NDData
    from matplotlib.axes import Axes

    from hyperphotutils.utils.typing import ArrayOrQuantity, FloatOrArray

__all__ = ['HighPassStarFinder']

# Rounding errors of the filtered image, relative to the largest absolute
# value of the image. A smaller rms is not noise.
_ROUNDING = 1.0e-12

# The noise may be higher within this distance of bad pixels. There it is
# measured in rings of this width (both in FWHM), with at least this many
# pixels.
_MARGIN = 4.0
_RING = 0.5
MIN_RING_PIXELS = 100
N_RINGS = int(_MARGIN / _RING) + 1


class HighPassStarFinder(StarFinderBase):
    """
    Detect compact sources as local maxima of a high-pass filtered image.

    Use it for blended sources on bright and structured backgrounds. The
    filter is narrower than the beam, so that close pairs are not merged,
    and removes structures larger than the beam. A source is a local
    maximum of the filtered image above a threshold, which is absolute or
    in units of the noise of the filtered image: give exactly one of
    ``threshold`` and ``n_sigma``. Masked and non-finite pixels are
    excluded from all averages: neither they nor the borders of the image
    cause spurious detections, and sources next to them are found.

    Parameters
    ----------
    threshold : float, 2D array_like, `~astropy.units.Quantity`, or \
`None`, optional
        The absolute value of the filtered image above which sources are
        detected, as one number or for each pixel, with the unit of the
        image if it has one. Nothing is detected where it is not finite.
        As with ``scale_threshold=False`` in
        `~photutils.detection.DAOStarFinder`, it is not scaled to the
        filter, see :ref:`detection-noise`. If `None` (default),
        ``n_sigma`` is required.

    fwhm : float
        The FWHM of the beam in pixels (required).

    n_sigma : float or `None`, optional
        The threshold in units of the noise of the filtered image (see
        ``rms``). If `None` (default), ``threshold`` is required.

    kernel : {'gaussian', 'box'}, optional
        The filter, see `high_pass_filter`: a difference of Gaussians
        (``'gaussian'``, the default), or the image minus its mean in a
        box (``'box'``).

    kernel_size : odd int or `None`, optional
        The side in pixels of the box over which the local background is
        averaged. With `None` (default) or 0 it is chosen from ``fwhm``,
        see `high_pass_filter`.

    rms : float, 2D array_like, `~astropy.units.Quantity` or `None`, \
optional
        The noise of the filtered image, as one number or for each
        pixel, with the unit of the image if that has one. The default
        is the sigma-clipped rms of the filtered image. It follows the
        noise of the place where that varies by more than a factor of 2,
        see `~hyperphotutils.noise.measure_noise_variation`, and is
        raised within 4 FWHM of the borders and of masked pixels where
        the rms at that distance from them is higher: the last rows of a
        scanned map are often noisier. The noise of the image itself is
        another number, see :ref:`detection-noise`.

    relative_rms : 2D array_like or `None`, optional
        The variation of the noise: a map with the shape of the image of the
        local rms in units of the typical one. The clipped rms is then
        that of the filtered image divided by it. If `None` (default), it
        is measured on the image. It cannot be combined with ``rms``.

    sharpness_range : tuple of 2 floats or `None`, optional
        The inclusive lower and upper bounds of ``sharpness``. The
        default is `None`, no limits, because blended sources often have
        unusual shapes.

    roundness_range : tuple of 2 floats or `None`, optional
        The inclusive lower and upper bounds of ``roundness``. The
        default is `None`, no limits.

    min_separation : float or `None`, optional
        The smallest distance in pixels between two peaks of the
        filtered image. Of closer peaks only the highest is kept. The
        default is 0.6 ``fwhm``.

    exclude_border : bool, optional
        Whether to exclude sources within half the kernel size of the
        borders of the image. The default is `False`.

    n_brightest : int or `None`, optional
        The number of sources with the highest ``snr`` to keep. The
        default is to keep all.

    peak_max : float, scalar `~astropy.units.Quantity` or `None`, \
optional
        The largest allowed value of the image at the peak, with the
        unit of the image if it has one. The default is no limit.

    snap_radius : float or `None`, optional
        The distance in pixels within which each detection is moved to
        the highest pixel of the (unfiltered) image before its centroid
        is measured. If moved detections are closer to each other than
        ``min_separation``, only the one with the highest filtered peak
        is kept. With `None` (default) or 0 detections are not moved.

    shoulder_filter : `ShoulderFilter` or `None`, optional
        The limit on the ``shoulder_score`` and the parameters of its
        measurement. The default is `None`, no limit.

    See Also
    --------
    ShoulderFilter
    photutils.detection.DAOStarFinder

    Notes
    -----
    The finder can be used wherever photutils accepts one, for example in
    `~photutils.psf.PSFPhotometry`, and on residual images.

    ``sharpness`` and ``roundness`` are defined as in DAOFIND [1]_, with
    the filtered image instead of the convolved image, from the pixels
    within 0.6 FWHM (at least 1 pixel) in x and y of the peak:

    * ``sharpness`` is the value of the image at the peak minus the mean
      of the other pixels, divided by the height of a source of the size
      of the beam with the same filtered peak. It is about 0.5 for
      sources and a few for single bright pixels.
    * ``roundness`` is :math:`2 \\Sigma_2 / \\Sigma_4`, where
      :math:`\\Sigma_4` is the sum of the absolute filtered values of
      the other pixels, and :math:`\\Sigma_2` the sum of the filtered
      values in the upper left and lower right quadrants minus that in
      the upper right and lower left ones. Each quadrant contains one
      half axis, so that a source elongated along x has a negative and
      one elongated along y a positive roundness. It is between -2 and
      2.

    References
    ----------
    .. [1] Stetson, P. 1987; PASP 99, 191
           (https://ui.adsabs.harvard.edu/abs/1987PASP...99..191S/abstract)

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.modeling.models import Gaussian2D
    >>> from hyperphotutils.detection import HighPassStarFinder
    >>> yy, xx = np.mgrid[:80, :80]
    >>> data = np.random.default_rng(0).normal(0, 0.1, xx.shape)
    >>> data += 0.05 * xx
    >>> data += Gaussian2D(4, 20.3, 30.8, 1.7, 1.7)(xx, yy)
    >>> data += Gaussian2D(3, 25.0, 31.2, 1.7, 1.7)(xx, yy)
    >>> finder = HighPassStarFinder(fwhm=4.0, n_sigma=6.0)
    >>> table = finder(data)
    >>> for row in table:
    ...     print(f'{row["x_centroid"]:.1f} {row["y_centroid"]:.1f}')
    20.6 30.8
    24.6 31.2
    """

    _repr_params = ('threshold', 'fwhm', 'n_sigma', 'kernel', 'kernel_size',
                    'rms', 'relative_rms', 'sharpness_range',
                    'roundness_range', 'min_separation', 'exclude_border',
                    'n_brightest', 'peak_max', 'snap_radius',
                    'shoulder_filter')

    def __init__(self, threshold: ArrayLike | Quantity | None = None,
                 fwhm: float | None = None, *, n_sigma: float | None = None,
                 kernel: Literal['gaussian', 'box'] = 'gaussian',
                 kernel_size: int | None = None,
                 rms: ArrayLike | Quantity | None = None,
                 relative_rms: ArrayLike | None = None,
                 sharpness_range: tuple[float, float] | None = None,
                 roundness_range: tuple[float, float] | None = None,
                 min_separation: float | None = None,
                 exclude_border: bool = False, n_brightest: int | None = None,
                 peak_max: float | Quantity | None = None,
                 snap_radius: float | None = None,
                 shoulder_filter: ShoulderFilter | None = None) -> None:
        if fwhm is None:
            msg = 'fwhm is required: the FWHM of the beam in pixels'
            raise TypeError(msg)
        self.fwhm = check_fwhm(fwhm)
        if (threshold is None) == (n_sigma is None):
            got = ('none, n_sigma=5 is a good start' if threshold is None
                   else 'both')
            msg = ('give exactly one of threshold (absolute) and n_sigma (in '
                   f'units of the noise): got {got}')
            raise TypeError(msg)
        if rms is not None and relative_rms is not None:
            msg = ('give only one of rms and relative_rms: a given rms may '
                   'be a map')
            raise TypeError(msg)
        self.threshold = _check_level('threshold', threshold)
        self.n_sigma = (None if n_sigma is None
                        else check_positive(n_sigma, 'n_sigma'))
        self.rms = _check_level('rms', rms)
        self.relative_rms = (None if relative_rms is None
                             else check_relative_rms(relative_rms))
        check_kernel(kernel, kernel_size, self.fwhm)
        self.kernel = kernel
        self.kernel_size = kernel_size
        self.sharpness_range = _check_range('sharpness_range',
                                            sharpness_range)
        self.roundness_range = _check_range('roundness_range',
                                            roundness_range)
        if min_separation is None:
            min_separation = 0.6 * self.fwhm
        self.min_separation = _check_distance('min_separation',
                                              min_separation)
        self.exclude_border = exclude_border
        if n_brightest is not None:
            n_brightest = check_integer(n_brightest, 'n_brightest')
        self.n_brightest = n_brightest
        self.peak_max = peak_max
        if snap_radius is not None:
            snap_radius = _check_distance('snap_radius', snap_radius)
        self.snap_radius = snap_radius
        if not isinstance(shoulder_filter, ShoulderFilter | None):
            msg = ('shoulder_filter must be a ShoulderFilter or None: got '
                   f'{shoulder_filter!r}')
            raise TypeError(msg)
        self.shoulder_filter = shoulder_filter

    def __repr__(self) -> str:
        return make_repr(self)

    @property
    def beam_response(self) -> float:
        """
        The peak of a point source of unit height in the filtered image:
        a threshold divided by it is the height of the faintest point
        source that is detected.
        """
        return _beam_response(self.fwhm, self.kernel, self.kernel_size)

    def filter(self, data: np.ndarray | Quantity | NDData,
               mask: NDArray[np.bool_] | None = None) -> ArrayOrQuantity:
        """
        Return the filtered image in which sources are detected.

        Parameters
        ----------
        data : 2D `~numpy.ndarray`, `~astropy.units.Quantity`, or \
                `~astropy.nddata.NDData`
            The image. Its own mask is honored, if it has one, and
            non-finite pixels are treated as masked.

        mask : 2D bool `~numpy.ndarray`, optional
            A mask with the shape of ``data``, where `True` means that
            the pixel is ignored.

        Returns
        -------
        filtered : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The filtered image, with the unit of ``data``. Masked pixels
            are NaN.
        """
        return high_pass_filter(data, self.fwhm, mask=mask,
                                kernel=self.kernel,
                                kernel_size=self.kernel_size)

    def plot(self, data: np.ndarray | Quantity | NDData, *,
             mask: NDArray[np.bool_] | None = None,
             ax: Axes | None = None) -> Axes:
        """
        Plot the filtered image in units of its noise, with the sources.

        Use it to choose the threshold.

        Parameters
        ----------
        data, mask
            See `find_stars`.

        ax : `~matplotlib.axes.Axes`, optional
            Where to plot; the current axes of pyplot by default.

        Returns
        -------
        ax : `~matplotlib.axes.Axes`
            The axes.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from hyperphotutils.datasets import make_blended_map
        >>> from hyperphotutils.detection import HighPassStarFinder
        >>> sim = make_blended_map((100, 100), 8, seed=1)
        >>> finder = HighPassStarFinder(fwhm=4.0, n_sigma=5.0)
        >>> fig, ax = plt.subplots()
        >>> ax = finder.plot(sim.image, ax=ax)
        >>> ax.get_title(loc='right')
        '6 sources'
        >>> plt.close(fig)
        """
        from hyperphotutils.visualization.images import plot_image

        image, bad, levels, _ = self._strip(data, mask)
        filtered, rms, _ = self._filter_and_measure(image, bad, levels)
        table, _, _ = self.search(data, mask=mask)
        return plot_image(filtered / rms, table, ax=ax, mask=bad,
                          beam=self.fwhm, label='filtered image / noise')

    def find_stars(self, data: np.ndarray | Quantity | NDData, *,
                   mask: NDArray[np.bool_] | None = None) -> QTable | None:
        """
        Detect sources in an image.

        Parameters
        ----------
        data : 2D `~numpy.ndarray`, `~astropy.units.Quantity`, or \
                `~astropy.nddata.NDData`
            The image. Its own mask is honored, if it has one, and
            non-finite pixels are treated as masked. It is not necessary
            to subtract a background.

        mask : 2D bool `~numpy.ndarray`, optional
            A mask with the shape of ``data``, where `True` means that
            the pixel is ignored.

        Returns
        -------
        table : `~astropy.table.QTable` or `None`
            The sources, ordered by row and column of the image. If
            there are no sources, `None` is returned and a
            `~photutils.utils.exceptions.NoDetectionsWarning` is issued.
            The columns are:

            * ``id``: identification number, from 1.
            * ``x_centroid``, ``y_centroid``: maximum of a paraboloid
              fitted to the image within 0.7 FWHM of the peak (moved
              within ``snap_radius``), or to the filtered image if that
              fit has no maximum within 1 pixel.
            * ``peak``: value of the image at the (moved) peak pixel.
            * ``snr``: value of the filtered image at its peak pixel
              divided by the noise at that pixel.
            * ``sharpness``, ``roundness``: see the class.
            * ``shoulder_score``: asymmetry of the surroundings, see
              `shoulder_score`, with the parameters of
              ``shoulder_filter``.
            * ``flux``: flux of a source of the size of the beam with
              the same filtered peak: correct for point sources and too
              small for extended ones.

            ``table.meta['n_rejected']`` holds the number of detections
            that each active selection rejected, by the name of the
            argument. A detection that fails several selections is
            counted for the first.

        Raises
        ------
        TypeError
            If ``data`` is not an array of real numbers.

        ValueError
            If ``data`` is not 2D, smaller than the kernel or masked
            everywhere, if ``mask``, ``threshold``, ``rms`` or
            ``relative_rms`` have another shape, or if only some of them
            have units.
        """
        table, rejected, _ = self.search(data, mask=mask)
        if table is None:
            causes = ', '.join(f'{name}: {count}'
                               for name, count in rejected.items() if count)
            msg = 'No sources were found' + (
                f': all were rejected ({causes}).' if causes else '.')
            warnings.warn(msg, NoDetectionsWarning, stacklevel=3)
        return table

    def measure_rms(self, data: np.ndarray | Quantity | NDData, *,
                    mask: NDArray[np.bool_] | None = None
                    ) -> FloatOrArray | Quantity:
        """
        Measure the noise of the filtered image, to which ``n_sigma``
        refers.

        Parameters
        ----------
        data, mask
            See `find_stars`.

        Returns
        -------
        rms : float, 2D `~numpy.ndarray`, or `~astropy.units.Quantity`
            The noise; an image if it varies. It can be the ``rms`` of
            another finder, for parts of the image.
        """
        image, bad, levels, unit = self._strip(data, mask)
        _, rms, _ = self._filter_and_measure(image, bad, levels)
        return rms if unit is None else rms << unit

    def search(self, data: np.ndarray | Quantity | NDData, *,
               mask: NDArray[np.bool_] | None = None,
               origin: tuple[int, int] | None = None
               ) -> tuple[QTable | None, dict, FloatOrArray | Quantity]:
        """
        Detect sources as `find_stars` does, but without a warning if
        there are none.

        Warnings cannot be suppressed safely where several threads search
        at the same time.

        Parameters
        ----------
        data, mask
            See `find_stars`.

        origin : tuple of 2 ints, optional
            The first row and column with a good pixel of a larger image,
            as seen from this one. At edges, detections on a part of an
            image are then those on the whole.

        Returns
        -------
        table : `~astropy.table.QTable` or `None`
            The sources.

        rejected : dict
            The number of detections that each active selection rejected.

        rms : float, 2D `~numpy.ndarray`, or `~astropy.units.Quantity`
            The noise as from `measure_rms`.
        """
        image, bad, levels, unit = self._strip(data, mask)
        filtered, rms, rounding = self._filter_and_measure(image, bad,
                                                           levels, origin)
        noise = rms if unit is None else rms << unit
        limit = (levels['threshold'] if self.n_sigma is None
                 else self.n_sigma * rms)
        x, y = _find_peaks(filtered, limit, self.min_separation, rounding)
        rejected = {}
        if self.exclude_border:
            width = kernel_width(self.kernel, self.kernel_size, self.fwhm)
            half, (ny, nx) = int(width) // 2, image.shape
            inside = ((x >= half) & (x < nx - half)
                      & (y >= half) & (y < ny - half))
            rejected['exclude_border'] = int(np.count_nonzero(~inside))
            x, y = x[inside], y[inside]

        table = None
        if len(x) > 0:
            image = np.where(bad, np.nan, image)
            columns = self._measure(image, filtered, rms, x, y, rejected)
            table = QTable(columns)
            limits = {'sharpness_range': ('sharpness', self.sharpness_range),
                      'roundness_range': ('roundness', self.roundness_range),
                      'peak_max': ('peak', _upper(levels['peak_max']))}
            if self.shoulder_filter is not None:
                limits['shoulder_filter'] = (
                    'shoulder_score', _upper(self.shoulder_filter.max_score))
            for name, (column, allowed) in limits.items():
                if allowed is not None:
                    outside = ((table[column] < allowed[0])
                               | (table[column] > allowed[1]))  # False for NaN
                    rejected[name] = int(np.count_nonzero(outside))
                    table = table[~outside]
            if self.n_brightest is not None:
                rejected['n_brightest'] = max(len(table) - self.n_brightest,
                                              0)
                brightest = np.argsort(-table['snr'], kind='stable')
                table = table[np.sort(brightest[:self.n_brightest])]
        if not table:  # None, or without rows
            return None, rejected, noise

        table.add_column(np.arange(1, len(table) + 1), name='id', index=0)
        describe_columns(table, unit=unit)
        table.meta.update(result_meta(self))
        table.meta['n_rejected'] = rejected
        return table, rejected, noise

    def _strip(self, data, mask):
        """
        Return the image, its bad pixels, the levels and the unit.

        The levels are 'threshold', 'rms' and 'peak_max'.
        """
        data, mask = open_image(data, mask)
        levels, unit = strip_units(
            data=data, threshold=self.threshold, rms=self.rms,
            peak_max=self.peak_max)
        image, bad = as_masked_image(levels.pop('data'), mask)
        # Zeros around a field are fill values, not low noise.
        bad |= find_fill_values(image, self.fwhm, mask=bad)[0]
        for name in ('threshold', 'rms'):
            shape = np.shape(levels[name])
            if shape not in ((), image.shape):
                msg = (f'{name} must have the shape of data, {image.shape}, '
                       f'got {shape}')
                raise ValueError(msg)
        return image, bad, levels, unit

    def _filter_and_measure(self, image, bad, levels, origin=None):
        """
        Return the filtered image, its noise, and its numerical errors.
        """
        relative_rms = self.relative_rms
        if relative_rms is not None:
            check_relative_rms(relative_rms, image.shape)
        filtered = filter_image(image, bad, self.fwhm, self.kernel,
                                self.kernel_size, origin)
        size = np.abs(image)
        size[bad] = 0.0
        rounding = _ROUNDING * np.max(size)
        if (relative_rms is None and levels['rms'] is None
                and levels['threshold'] is None):
            relative_rms = measure_noise_variation(image, self.fwhm,
                                                   mask=bad)
        rms = levels['rms']
        if rms is None:
            even = (filtered if relative_rms is None
                    else filtered / relative_rms)
            rms = max(clipped_rms(even, mask=bad), rounding)
            rms = _raise_along_margin(even, bad, rms, self.fwhm)
            if relative_rms is not None:
                rms = rms * relative_rms
        return filtered, rms, rounding

    def _measure(self, image, filtered, rms, x, y, rejected):
        """
        Return the columns of the sources with peaks at given pixels.

        The number of detections that coincide after they were moved is
        added to ``rejected``.
        """
        x_top, y_top = x, y
        if self.snap_radius:
            x_top, y_top = highest_pixels(image, x, y, self.snap_radius)
            kept = _keep_highest(x_top, y_top, filtered[y, x],
                                 self.min_separation)
            rejected['snap_radius'] = len(x) - len(kept)
            x, y, x_top, y_top = (a[kept] for a in (x, y, x_top, y_top))
        # Where the fit to the image fails, take the peak of the filtered
        # image, and the pixel where that fails, too.
        x_fit, y_fit = fit_peaks(image, x_top, y_top, self.fwhm)
        lost = np.isnan(x_fit)
        if lost.any():
            x_fit[lost], y_fit[lost] = fit_peaks(
                filtered, x_top[lost], y_top[lost], self.fwhm)
            x_fit = np.where(np.isnan(x_fit), x_top, x_fit)
            y_fit = np.where(np.isnan(y_fit), y_top, y_fit)
        x_fit = x_fit.clip(-0.5, image.shape[1] - 0.5)
        y_fit = y_fit.clip(-0.5, image.shape[0] - 0.5)
        if self.shoulder_filter is None:
            score = ring_scores(image, x_fit, y_fit, self.fwhm)
        else:
            score = self.shoulder_filter.score(image, x_fit, y_fit,
                                               self.fwhm)

        half = max(1, round(0.6 * self.fwhm))
        cutouts, dx, dy = cutout_stack(image, x, y, half)
        smooth_cutouts, _, _ = cutout_stack(filtered, x, y, half)
        height = filtered[y, x]
        amplitude = height / self.beam_response
        noise = rms if np.ndim(rms) == 0 else rms[y, x]
        return {'x_centroid': x_fit,
                'y_centroid': y_fit,
                'peak': image[y_top, x_top],
                'snr': height / noise,
                'sharpness': daofind_sharpness(cutouts, amplitude),
                'roundness': daofind_roundness(smooth_cutouts, dx, dy),
                'shoulder_score': score,
                'flux': gaussian_flux(amplitude, self.fwhm, self.fwhm)}


@lru_cache(maxsize=16)
def _beam_response(fwhm, kernel, kernel_size):
    """
    Return the filtered peak of a Gaussian beam of unit height.
    """
    half = math.ceil(kernel_width(kernel, kernel_size, fwhm) + 3 * fwhm)
    profile = np.exp(-0.5 * (np.arange(-half, half + 1)
                             / (fwhm * gaussian_fwhm_to_sigma))**2)
    return high_pass_filter(np.outer(profile, profile), fwhm, kernel=kernel,
                            kernel_size=kernel_size)[half, half]


def _upper(limit):
    """
    Return the range below an upper limit, `None` if there is none.
    """
    return None if limit is None else (-np.inf, limit)


def _raise_along_margin(filtered, bad, rms, fwhm):
    """
    Return the noise of each pixel, increased along a noisy margin.

    The last beams before the end of the coverage of a scanned map were
    covered by few scans, and the averages of the filter have fewer pixels
    there. Pixels at the same distance from bad pixels or from the
    border share the clipped rms of them all; the noise is never lower
    than that of the whole image.
    """
    near, ring = margin_rings(bad, fwhm)
    values = filtered[near]
    levels = np.full(N_RINGS, rms)
    for k in range(1, len(levels)):
        chosen = values[ring == k]
        if chosen.size >= MIN_RING_PIXELS:
            levels[k] = max(rms, clipped_rms(chosen))
    if np.all(levels == rms):
        return rms
    noise = np.full(filtered.shape, rms)
    noise[near] = levels[ring]
    return noise


def margin_rings(bad, fwhm):
    """
    Return the rows and columns of the pixels near bad pixels and borders,
    and the numbers of their rings, below `N_RINGS`.
    """
    return of_mask(_find_rings, bad, fwhm)


def _find_rings(bad, fwhm):
    """
    Return the pixels near edges, and the numbers of their rings.
    """
    near, distance = distance_to_edge(bad, _MARGIN * fwhm)
    return near, np.ceil(distance / (_RING * fwhm)).astype(int)


def _find_peaks(filtered, limit, min_separation, rounding):
    """
    Return the pixels of the local maxima above the limit, x and y.

    Connected pixels of the same height, within the rounding errors of
    the filter, are one maximum. Then each maximum suppresses all lower
    ones within ``min_separation``.
    """
    y, x = np.nonzero(filtered > limit)
    ny, nx = filtered.shape
    highest = filtered[y, x]
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            # Beyond the edge the nearest pixel stands in; NaN are ignored.
            neighbor = filtered[(y + dy).clip(0, ny - 1),
                                (x + dx).clip(0, nx - 1)]
            highest = np.fmax(highest, neighbor)
    height = filtered[y, x]
    peak = height >= highest - rounding
    x, y, height = _merge_plateaus(x[peak], y[peak], height[peak])

    kept = _keep_highest(x, y, height, min_separation)
    return x[kept], y[kept]


def _keep_highest(x, y, height, min_separation):
    """
    Return the indices of the peaks that are not suppressed.
    """
    # Indices in the order of brightness, so that pairs are (brighter,
    # fainter).
    order = np.argsort(-height, kind='stable')
    position = np.column_stack([x, y])[order]
    kept = np.ones(len(order), dtype=bool)
    if len(order) > 1:
        pairs = KDTree(position).query_pairs(min_separation,
                                             output_type='ndarray')
        brighter, fainter = pairs.min(axis=1), pairs.max(axis=1)
        kept[:] = False
        undecided = ~kept
        # Each round decides on all peaks that have no undecided brighter
        # neighbor; a suppressed peak does not suppress others.
        while undecided.any():
            waiting = np.zeros(len(order), dtype=bool)
            open_pair = undecided[brighter] & undecided[fainter]
            waiting[fainter[open_pair]] = True
            chosen = undecided & ~waiting
            kept |= chosen
            undecided &= waiting
            undecided[fainter[chosen[brighter]]] = False
    return np.sort(order[kept])  # back in the order of the image


def _merge_plateaus(x, y, height):
    """
    Return one pixel, the most central one, of each connected maximum.
    """
    position = np.column_stack([x, y])
    if len(position) < 2:
        return x, y, height
    pairs = KDTree(position).query_pairs(1.5, output_type='ndarray')
    if len(pairs) == 0:
        return x, y, height
    n_pixels = len(x)
    graph = coo_array((np.ones(len(pairs)), pairs.T), (n_pixels, n_pixels))
    n_labels, label = connected_components(graph, directed=False)
    count = np.bincount(label)
    center = np.column_stack([np.bincount(label, x) / count,
                              np.bincount(label, y) / count])
    distance = np.hypot(*(position - center[label]).T)
    first = np.lexsort((distance, label))
    first = first[np.searchsorted(label[first], np.arange(n_labels))]
    first = np.sort(first)
    return x[first], y[first], height[first]


def _check_level(name, value):
    """
    Check a positive number or an image of positive numbers, or `None`.
    """
    if value is None:
        return None
    if not isinstance(value, Quantity):
        value = np.asanyarray(value)
    if value.dtype.kind not in 'fiu':
        msg = f'{name} must be real: got {value!r}'
        raise TypeError(msg)
    if value.ndim not in (0, 2):
        msg = f'{name} must be a scalar or 2D: got shape {value.shape}'
        raise ValueError(msg)
    plain = value.value if isinstance(value, Quantity) else value
    good = plain[np.isfinite(plain)]
    if good.size == 0 or (good <= 0).any():
        stated = (f'got {value}' if value.ndim == 0
                  else 'got values that are not')
        msg = f'{name} must be positive and finite: {stated}'
        raise ValueError(msg)
    if value.ndim == 0 and not isinstance(value, Quantity):
        return float(value)
    return value


def _check_range(name, limits):
    """
    Check a pair of lower and upper limits.
    """
    if limits is None:
        return None
    if np.shape(limits) != (2,):
        msg = f'{name} must be (lower, upper) or None: got {limits!r}'
        raise ValueError(msg)
    lower, upper = limits
    if not lower <= upper:
        msg = f'{name} must have lower <= upper: got {limits!r}'
        raise ValueError(msg)
    return lower, upper


def _check_distance(name, distance):
    """
    Check a distance in pixels.
    """
    if not (np.isfinite(distance) and distance >= 0):
        msg = f'{name} must be finite and not negative: got {distance}'
        raise ValueError(msg)
    return float(distance)
