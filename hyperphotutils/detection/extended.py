# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Detection of extended sources as segments of an image.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy.stats import SigmaClip
from astropy.table import QTable
from numpy.typing import ArrayLike, NDArray
from photutils.utils.exceptions import NoDetectionsWarning
from scipy.ndimage import binary_dilation
from scipy.special import ndtr

from hyperphotutils.detection.moments import (
    LOCUS_SCATTER,
    find_locus,
    weighted_moments,
)
from hyperphotutils.noise import clipped_rms
from hyperphotutils.utils import (
    FLAGS,
    as_masked_image,
    check_positive,
    make_repr,
    open_nddata,
    result_meta,
    strip_units,
)

# photutils.segmentation imports scipy.stats, which takes a third of a
# second; only extended sources need it.
if TYPE_CHECKING:
    from astropy.units import Quantity
    from astropy.wcs import WCS
    from photutils.segmentation import SegmentationImage

    from hyperphotutils.utils.typing import ImageLike

__all__ = ['ExtendedSourceFinder', 'ExtendedSources', 'detect_segments',
           'measure_star_index']

# The prior of the sizes of galaxies is uniform in ln(size), from that of a
# star to this multiple of it.
_LARGEST_GALAXY = 3.0

# The size of stars is measured on sources of at least this signal-to-noise
# ratio.
_LOCUS_SNR = 20.0

# Columns of `~photutils.segmentation.SourceCatalog`, in our order.
_COLUMNS = ('x_centroid', 'y_centroid', 'sky_centroid', 'area',
            'semimajor_axis', 'semiminor_axis', 'orientation',
            'ellipticity', 'fwhm', 'max_value', 'segment_flux',
            'segment_flux_err', 'kron_flux', 'kron_flux_err')


@dataclass(frozen=True, eq=False)
class ExtendedSources:
    """
    The sources of an image, their segments, and the background.

    It is returned by `ExtendedSourceFinder`.

    Parameters
    ----------
    catalog : `~astropy.table.QTable`
        A row for each source; see `ExtendedSourceFinder`.

    segmentation : `~photutils.segmentation.SegmentationImage`
        The segments; their labels are the column ``id``.

    data : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
        The image without background; NaN where it is masked.

    background : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
        The background.

    background_rms : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
        The standard deviation of the pixels without sources.
    """

    catalog: QTable
    segmentation: SegmentationImage
    data: np.ndarray
    background: np.ndarray
    background_rms: np.ndarray


class ExtendedSourceFinder:
    """
    Class to detect and measure extended sources, such as galaxies.

    It does what SExtractor does, with photutils: the background is
    estimated in boxes, the image is smoothed by a Gaussian, connected
    pixels above a threshold are segments, segments with several peaks are
    split, and each segment is measured.

    Parameters
    ----------
    fwhm : float
        The full width at half maximum of the PSF in pixels. The image is
        smoothed by a Gaussian of this width.

    threshold : float, optional
        The threshold for the smoothed image, in units of the standard
        deviation of a pixel that is not smoothed (``DETECT_THRESH``).

    n_pixels : int, optional
        The smallest number of connected pixels (``DETECT_MINAREA``).

    deblend : bool, optional
        Whether to split segments with several peaks. It needs
        scikit-image, which comes with ``hyperphotutils[galaxies]``.

    n_levels : int, optional
        The number of levels of the deblending (``DEBLEND_NTHRESH``).

    contrast : float, optional
        The part of the flux that a peak needs to be split off
        (``DEBLEND_MINCONT``).

    bkg_size : int, optional
        The side of the boxes of the background in pixels (``BACK_SIZE``).
        With 0 no background is subtracted.

    bkg_filter_size : int, optional
        The size of the median filter of the boxes
        (``BACK_FILTERSIZE``).

    zero_point : float, optional
        The magnitude of a flux of 1, for the column ``mag``.

    saturation : float, optional
        The value from which pixels are saturated, in the unit of the
        data (``SATUR_LEVEL``).

    Raises
    ------
    ValueError
        If an argument is out of its range.

    See Also
    --------
    HighPassStarFinder : For compact sources on structured backgrounds.
    hyperphotutils.galaxy.SersicFitter : For fits of galaxies.

    Notes
    -----
    The columns of the catalog are ``id`` (the label of the segment);
    ``x_centroid`` and ``y_centroid``; ``sky_centroid`` (with a WCS);
    ``area`` (pixels), ``semimajor_axis`` and ``semiminor_axis`` (standard
    deviations), ``orientation`` (from the x axis), ``ellipticity``,
    ``fwhm``, ``max_value``, ``segment_flux``, and ``kron_flux``, as
    photutils has them; ``half_light_radius``, that of half of the Kron
    flux (pixels); ``snr``; ``star_index``; ``mag`` and ``mag_err`` of the
    Kron flux; and ``flags``.

    ``star_index`` takes the place of ``CLASS_STAR``: the probability that
    the source is a star and no galaxy, from its size and the size that
    stars have. It is near 0.5 where nothing is known. See
    `measure_star_index`.

    The flags are ``n_pixels_fit_partial``, a segment that touches the edge
    of the image or masked pixels; ``split_pair``, one that was split off
    a larger one; and ``saturated``.

    References
    ----------
    Bertin & Arnouts 1996, A&AS 117, 393.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_galaxy_field
    >>> from hyperphotutils.detection import ExtendedSourceFinder
    >>> field = make_galaxy_field((250, 250), 8, n_stars=4, sky=3.0, seed=4)
    >>> finder = ExtendedSourceFinder(3.0, deblend=False)
    >>> sources = finder(field.data)
    >>> len(sources.catalog)
    12
    >>> print(sources.catalog.colnames[:3])
    ['id', 'x_centroid', 'y_centroid']
    """

    _repr_params = ('fwhm', 'threshold', 'n_pixels', 'deblend', 'n_levels',
                    'contrast', 'bkg_size', 'bkg_filter_size', 'zero_point',
                    'saturation')

    def __init__(self, fwhm: float, *, threshold: float = 1.5,
                 n_pixels: int = 5, deblend: bool = True, n_levels: int = 32,
                 contrast: float = 0.005, bkg_size: int = 64,
                 bkg_filter_size: int = 3, zero_point: float | None = None,
                 saturation: float | None = None) -> None:
        self.fwhm = check_positive(fwhm, 'fwhm', of='pixels')
        self.threshold = check_positive(threshold, 'threshold')
        self.n_pixels = int(check_positive(n_pixels, 'n_pixels'))
        self.deblend = bool(deblend)
        self.n_levels = int(check_positive(n_levels, 'n_levels'))
        if not 0.0 <= contrast <= 1.0:
            msg = f'contrast must be from 0 to 1: {contrast!r}'
            raise ValueError(msg)
        self.contrast = float(contrast)
        if int(bkg_size) != bkg_size or bkg_size < 0:
            msg = ('bkg_size must be a whole number of pixels, or 0: '
                   f'{bkg_size!r}')
            raise ValueError(msg)
        self.bkg_size = int(bkg_size)
        self.bkg_filter_size = int(check_positive(bkg_filter_size,
                                                  'bkg_filter_size'))
        self.zero_point = None if zero_point is None else float(zero_point)
        self.saturation = saturation

    def __repr__(self) -> str:
        return make_repr(self)

    def __call__(self, data: ImageLike, *,
                 error: ArrayLike | Quantity | None = None,
                 mask: ArrayLike | None = None, wcs: WCS | None = None,
                 detection_data: ArrayLike | None = None
                 ) -> ExtendedSources | None:
        """
        Detect and measure sources.

        Parameters
        ----------
        data : 2D array_like, `~astropy.units.Quantity`, or \
                `~astropy.nddata.NDData`
            The image.

        error : 2D array_like or `~astropy.units.Quantity`, optional
            The standard deviations of the pixels, for the errors of the
            fluxes. The default is that of the background.

        mask : 2D bool array_like, optional
            `True` for pixels to ignore.

        wcs : `~astropy.wcs.WCS`, optional
            The coordinates of the image. The default is that of an
            `~astropy.nddata.NDData`.

        detection_data : 2D array_like, optional
            Another image of the same pixels in which sources are
            detected; they are measured in ``data``. It has a background
            of its own.

        Returns
        -------
        sources : `ExtendedSources` or `None`
            The sources; `None`, with a warning, if there are none.
        """
        if wcs is None:
            wcs = getattr(data, 'wcs', None)
        data, mask, error = open_nddata(data, mask, error)
        arrays = {'data': data, 'error': error}
        if self.saturation is not None:
            arrays['saturation'] = self.saturation
        arrays, unit = strip_units(**arrays)
        values, bad = as_masked_image(arrays['data'], mask)
        background, rms = self._measure_background(values, bad)
        clean = values - background
        error = arrays['error']
        error = rms if error is None else np.broadcast_to(
            np.asarray(error, dtype=float), values.shape)
        ratio = clean / rms
        if detection_data is not None:
            if np.shape(detection_data) != values.shape:
                msg = ('detection_data must have the shape of data, '
                       f'{values.shape}: got {np.shape(detection_data)}')
                raise ValueError(msg)
            other, other_bad = as_masked_image(
                getattr(detection_data, 'value', detection_data), bad,
                name='detection_data')
            level, scatter = self._measure_background(other, other_bad)
            ratio = (other - level) / scatter
        segments = detect_segments(
            ratio, fwhm=self.fwhm, threshold=self.threshold,
            n_pixels=self.n_pixels, mask=bad, deblend=self.deblend,
            n_levels=self.n_levels, contrast=self.contrast)
        if segments is None:
            msg = (f'no sources were found above threshold={self.threshold} '
                   f'in {self.n_pixels} connected pixels')
            warnings.warn(msg, NoDetectionsWarning, stacklevel=2)
            return None
        catalog = self._measure(values, clean, error, bad, segments, wcs,
                                arrays.get('saturation'), unit)
        clean = np.where(bad, np.nan, clean)
        if unit is not None:
            clean, background, rms = (part << unit for part in
                                      (clean, background, rms))
        return ExtendedSources(catalog, segments, clean, background, rms)

    def _measure_background(self, values, bad):
        """
        Return the background and the standard deviation around it.
        """
        from photutils.background import Background2D, SExtractorBackground

        # A map of fewer than two boxes a side has one level.
        if self.bkg_size == 0 or min(values.shape) < 2 * self.bkg_size:
            clip = SigmaClip(3.0)
            kept = clip(values[~bad], masked=False)
            level = float(np.median(kept)) if self.bkg_size else 0.0
            rms = clipped_rms(values - np.median(kept), mask=bad)
            return (np.full(values.shape, level),
                    np.full(values.shape, rms))
        # Boxes need few good pixels next to large masks. The estimator is
        # 2.5 median - 1.5 mean, where that is not skewed (Bertin & Arnouts
        # 1996).
        result = Background2D(
            np.where(bad, 0.0, values), self.bkg_size, mask=bad,
            filter_size=self.bkg_filter_size, exclude_percentile=90.0,
            sigma_clip=SigmaClip(3.0), bkg_estimator=SExtractorBackground())
        return result.background, result.background_rms

    def _measure(self, values, clean, error, bad, segments, wcs, saturation,
                 unit):
        """
        Make the table of the sources.
        """
        from photutils.segmentation import SourceCatalog

        source = SourceCatalog(clean, segments, error=error, mask=bad,
                               wcs=wcs)
        names = [name for name in _COLUMNS
                 if wcs is not None or name != 'sky_centroid']
        plain = source.to_table(columns=['label', *names])
        table = QTable({'id': np.asarray(plain['label'])})
        for name in names:
            table[name] = plain[name]
        with warnings.catch_warnings(), np.errstate(invalid='ignore'):
            # sources whose Kron flux is not positive have no radius
            warnings.simplefilter('ignore', RuntimeWarning)
            table['half_light_radius'] = source.flux_radius(0.5)
            table['snr'] = table['segment_flux'] / table['segment_flux_err']
            table['star_index'] = measure_star_index(
                clean, error, table['x_centroid'], table['y_centroid'],
                fwhm=self.fwhm, mask=bad)
            if self.zero_point is not None:
                flux = np.where(table['kron_flux'] > 0.0,
                                table['kron_flux'], np.nan)
                table['mag'] = self.zero_point - 2.5 * np.log10(flux)
                # |dm / dF| = 2.5 / (ln 10 F)
                table['mag_err'] = (2.5 / np.log(10.0)
                                    * table['kron_flux_err'] / flux)
        # A segment is cut off where it touches what is not measured.
        outside = np.pad(bad, 1, constant_values=True)
        edge = binary_dilation(outside, np.ones((3, 3)))[1:-1, 1:-1]
        flagged = {'n_pixels_fit_partial': segments.data[edge],
                   'split_pair': segments.deblended_labels}
        if saturation is not None:
            flagged['saturated'] = segments.data[values >= saturation]
        table['flags'] = sum(
            FLAGS[name] * np.isin(segments.labels, labels)
            for name, labels in flagged.items())
        if unit is not None:
            for name in ('max_value', 'segment_flux', 'segment_flux_err',
                         'kron_flux', 'kron_flux_err'):
                table[name] <<= unit
        table.meta.update(result_meta(self))
        return table


def detect_segments(data: np.ndarray, *, fwhm: float, n_sigma: float = 3.5,
                    threshold: float | None = None, n_pixels: int = 5,
                    mask: NDArray[np.bool_] | None = None,
                    deblend: bool = False, n_levels: int = 32,
                    contrast: float = 0.001) -> SegmentationImage | None:
    """
    Detect the segments of sources in a smoothed image.

    Parameters
    ----------
    data : 2D `~numpy.ndarray`
        The image, without background.

    fwhm : float
        The full width at half maximum of the Gaussian that smooths it,
        in pixels.

    n_sigma : float, optional
        The threshold in units of the clipped rms of the smoothed image.

    threshold : float, optional
        The threshold in units of the data, in place of ``n_sigma``.

    n_pixels : int, optional
        The smallest number of connected pixels.

    mask : 2D bool `~numpy.ndarray`, optional
        `True` for pixels to ignore.

    deblend : bool, optional
        Whether to split segments with several peaks.

    n_levels : int, optional
        The number of levels of the deblending.

    contrast : float, optional
        The part of the flux that a peak needs to be split off.

    Returns
    -------
    segments : `~photutils.segmentation.SegmentationImage` or `None`
        The segments, `None` if there are none.

    Raises
    ------
    ImportError
        If ``deblend`` is `True` and scikit-image is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.detection import detect_segments
    >>> y, x = np.mgrid[:41, :41]
    >>> data = np.random.default_rng(1).normal(size=x.shape)
    >>> data += 20.0 * np.exp(-((x - 20)**2 + (y - 12)**2) / 18.0)
    >>> detect_segments(data, fwhm=3.0).n_labels
    1
    """
    from astropy.convolution import convolve_fft
    from photutils.segmentation import (
        deblend_sources,
        detect_sources,
        make_2dgaussian_kernel,
    )

    check_positive(fwhm, 'fwhm', of='pixels')
    check_positive(n_sigma, 'n_sigma')
    data, bad = as_masked_image(data, mask)
    # out to 3.5 sigma, with less than 0.3 % of a Gaussian outside
    side = 2 * int(np.ceil(1.5 * fwhm)) + 1
    kernel = make_2dgaussian_kernel(fwhm, side)
    smooth = convolve_fft(np.where(bad, np.nan, data), kernel,
                          nan_treatment='interpolate', allow_huge=True)
    if threshold is None:
        threshold = n_sigma * clipped_rms(smooth, mask=bad)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NoDetectionsWarning)
        segments = detect_sources(smooth, threshold, n_pixels, mask=bad)
    if segments is None or not deblend:
        return segments
    try:
        return deblend_sources(smooth, segments, n_pixels,
                               n_levels=n_levels, contrast=contrast,
                               progress_bar=False)
    except ImportError as exc:
        msg = ('deblending needs scikit-image: install it, or '
               'hyperphotutils[galaxies], or use deblend=False')
        raise ImportError(msg) from exc


def measure_star_index(data: ArrayLike, error: ArrayLike, x: ArrayLike,
                       y: ArrayLike, *, fwhm: float,
                       mask: ArrayLike | None = None) -> np.ndarray:
    r"""
    Measure how probable it is that sources are stars and not galaxies.

    Parameters
    ----------
    data : 2D array_like
        The image, without background.

    error : float or 2D array_like
        The standard deviations.

    x, y : 1D array_like
        The positions in pixels.

    fwhm : float
        The full width at half maximum of the PSF in pixels.

    mask : 2D bool array_like, optional
        `True` for pixels to ignore.

    Returns
    -------
    index : 1D `~numpy.ndarray`
        From 0 for a galaxy to 1 for a star; NaN for sources off the image
        and without a positive flux.

    Notes
    -----
    The size is the rms radius under a Gaussian weight. The size
    :math:`s_0` of stars is the first dense place in the distribution of
    the sizes of bright sources, near that of a Gaussian of the FWHM. With
    :math:`t = \ln(s / s_0) / \sigma` and :math:`\sigma^2 = 0.02^2 +
    (\mathrm{S/N})^{-2}`, the index is :math:`\phi(t) / (\phi(t) +
    \sigma / \ln 3\; \Phi(t))`: stars scatter around their size by the
    noise, galaxies have any size between that and 3 times of it, and both
    are as frequent.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_star_field
    >>> from hyperphotutils.detection import measure_star_index
    >>> field = make_star_field((300, 300), 20, n_galaxies=10, seed=1)
    >>> index = measure_star_index(field.data, field.error,
    ...                            field.truth['x'], field.truth['y'],
    ...                            fwhm=3.0)
    >>> print((index[:20] > 0.5).sum(), (index[20:] > 0.5).sum())
    19 0
    """
    check_positive(fwhm, 'fwhm', of='pixels')
    values, bad = as_masked_image(data, mask)
    error = np.broadcast_to(np.asarray(error, dtype=float), values.shape)
    bad |= ~(np.isfinite(error) & (error > 0.0))
    x, y = (np.asarray(value, dtype=float) for value in (x, y))
    ny, nx = values.shape
    with np.errstate(invalid='ignore'):
        inside = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
    index = np.full(len(x), np.nan)
    if not inside.any():
        return index
    moments = weighted_moments(
        np.where(bad, 0.0, values), np.where(bad, 0.0, error),
        np.rint(x[inside]).astype(int), np.rint(y[inside]).astype(int), fwhm)
    size, snr = moments['size'], moments['snr']
    known = np.isfinite(size) & (snr > 0.0)
    bright = known & (snr > _LOCUS_SNR)
    locus, _ = find_locus(size[bright], snr[bright], fwhm)
    sigma = np.hypot(LOCUS_SCATTER, 1.0 / np.where(known, snr, 1.0))
    # a single bright pixel has the size 0
    ratio = np.maximum(np.where(known, size, locus) / locus, 1e-3)
    t = np.log(ratio) / sigma
    star = np.exp(-0.5 * t**2) / np.sqrt(2.0 * np.pi)
    galaxy = sigma / np.log(_LARGEST_GALAXY) * ndtr(t)
    # Both densities vanish for sources much smaller than a star, which are
    # not galaxies.
    total = star + galaxy
    index[inside] = np.where(known, np.where(
        total > 0.0, star / np.where(total > 0.0, total, 1.0), 1.0), np.nan)
    return index
