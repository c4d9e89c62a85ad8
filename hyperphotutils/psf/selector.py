# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Selection of stars from an image.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from astropy.stats import (
    SigmaClip,
    gaussian_fwhm_to_sigma,
    gaussian_sigma_to_fwhm,
)
from astropy.table import QTable, Table
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import ArrayLike
from photutils.background import Background2D, SExtractorBackground
from photutils.utils.exceptions import NoDetectionsWarning
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.spatial import KDTree

from hyperphotutils.detection.moments import (
    LOCUS_SCATTER,
    WEIGHT_WIDTH,
    cut_out,
    find_locus,
    weighted_moments,
    weighted_size,
)
from hyperphotutils.noise import clipped_rms
from hyperphotutils.psf.flags import STAR_FLAGS, decode_star_flags
from hyperphotutils.utils import (
    as_masked_image,
    check_integer,
    check_positive,
    integrated_unit,
    make_repr,
    open_nddata,
    result_meta,
    strip_units,
)
from hyperphotutils.utils.checks import check_plane
from hyperphotutils.utils.wcs import position_table, table_positions

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord
    from astropy.units import Quantity
    from astropy.wcs import WCS

    from hyperphotutils.utils.typing import ImageLike

__all__ = ['StarSelector']

# Detection limit. Faint detections are used as neighbors only.
_DETECTION_SNR = 5.0

# Trial values of the FWHM (pixels) if it is not given.
_TRIAL_FWHM = 2.0 * 1.3**np.arange(9)

# Cosmic rays and hot pixels: smaller than the first number, or with more of
# the flux in one pixel than the second, both relative to a Gaussian star. They
# are rejected before the size of the stars is sought: 60 rays outvoted 20
# stars, and the densest size was theirs.
_MIN_SIZE = 0.72
_MAX_PEAK = 2.0
_MAX_RAY_ELLIPTICITY = 0.3

# The first trial whose density of sizes is above this fraction of the
# largest density is chosen.
_FIRST_TRIAL = 0.3


class StarSelector:
    """
    Class to select the stars of an image from which a PSF can be made.

    Sources are detected in the image smoothed by a Gaussian, and
    measured by Gaussian-weighted moments. Cosmic rays are rejected
    first, since they would outvote the stars; then the stars are those
    at the densest size that are bright, round, and isolated.

    Parameters
    ----------
    fwhm : float or `None`, optional
        The full width at half maximum of the PSF in pixels. With `None`
        (default) it is found from the image, which needs more stars
        than cosmic rays and galaxies of any one size.

    min_snr : float, optional
        The smallest signal-to-noise ratio of a star.

    max_ellipticity : float, optional
        The largest difference of the (weighted) ellipticity from the
        median of the stars, beyond what noise explains.

    locus_width : float, optional
        The largest distance from the locus of the stars in the
        size-flux plane, in units of the error of the size (with 2 %
        that no noise explains).

    isolation : float, optional
        The largest flux of a neighbor relative to that of the star.

    isolation_radius : float or `None`, optional
        The distance in pixels within which neighbors count. The default
        is 3 times the FWHM.

    central_tolerance : int, optional
        The number of bad pixels allowed within 1.5 FWHM of the center.

    saturation : float, `~astropy.units.Quantity`, or `None`, optional
        The value at which pixels are saturated, in the unit of the data.

    positions : array_like, `~astropy.table.Table`, \
`~astropy.coordinates.SkyCoord`, or `None`, optional
        Positions of known stars, such as those of a Gaia table: only
        detections within 1.5 FWHM of one are used. An array has the
        shape ``(n, 2)`` and contains pixels ``(x, y)``; a table has the
        columns ``x`` and ``y`` or ``x_centroid`` and ``y_centroid``, or
        ``sky_centroid``, or ``ra`` and ``dec`` (degrees).

    min_flux_fraction : float, optional
        The smallest flux relative to the mean of all sources that are
        bright enough.

    reject : sequence of int, optional
        The ids of detections that are not to be used.

    max_stars : int, optional
        The largest number of stars; the brightest are used.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_star_field
    >>> from hyperphotutils.psf import StarSelector
    >>> field = make_star_field((300, 300), n_stars=25, seed=1)
    >>> stars = StarSelector()(field.data, error=field.error)
    >>> print(stars.colnames[:6])
    ['id', 'x_centroid', 'y_centroid', 'flux', 'peak', 'snr']
    >>> print(f'{stars.meta["fwhm"]:.1f}')
    3.7
    """

    _repr_params = ('fwhm', 'min_snr', 'max_ellipticity', 'locus_width',
                    'isolation', 'isolation_radius', 'central_tolerance',
                    'saturation', 'positions', 'min_flux_fraction',
                    'reject', 'max_stars')

    def __init__(self, fwhm: float | None = None, *, min_snr: float = 20.0,
                 max_ellipticity: float = 0.15, locus_width: float = 3.0,
                 isolation: float = 0.05,
                 isolation_radius: float | None = None,
                 central_tolerance: int = 0,
                 saturation: float | Quantity | None = None,
                 positions: ArrayLike | Table | SkyCoord | None = None,
                 min_flux_fraction: float = 0.0,
                 reject: Sequence[int] | np.ndarray = (),
                 max_stars: int = 300) -> None:
        self.fwhm = None if fwhm is None else check_positive(
            fwhm, 'fwhm', of='pixels')
        self.min_snr = check_positive(min_snr, 'min_snr')
        self.max_ellipticity = check_positive(max_ellipticity,
                                              'max_ellipticity')
        self.locus_width = check_positive(locus_width, 'locus_width')
        self.isolation = check_positive(isolation, 'isolation')
        self.isolation_radius = (
            None if isolation_radius is None
            else check_positive(isolation_radius, 'isolation_radius'))
        self.central_tolerance = int(central_tolerance)
        self.saturation = saturation
        self.positions = positions
        self.min_flux_fraction = float(min_flux_fraction)
        self.reject = tuple(reject)
        self.max_stars = check_integer(max_stars, 'max_stars')

    def __repr__(self) -> str:
        return make_repr(self)

    def __call__(self, data: ImageLike, *,
                 error: ArrayLike | Quantity | None = None,
                 mask: ArrayLike | None = None,
                 wcs: WCS | None = None) -> QTable | None:
        """
        Select stars.

        Parameters
        ----------
        data : 2D array_like, `~astropy.units.Quantity`, or \
                `~astropy.nddata.NDData`
            The image. A smooth background is subtracted.

        error : 2D array_like or `~astropy.units.Quantity`, optional
            The standard deviations of the pixels. The default is the
            clipped rms of the image, the same everywhere.

        mask : 2D bool array_like, optional
            `True` for pixels to ignore.

        wcs : `~astropy.wcs.WCS`, optional
            The coordinates of the image, for ``positions`` on the sky.
            The default is that of an `~astropy.nddata.NDData`.

        Returns
        -------
        stars : `~astropy.table.QTable` or `None`
            One row for each detection, the brightest first: ``id``,
            ``x_centroid``, ``y_centroid``, ``flux`` and ``peak`` (in
            the unit of the data; the flux is that of a Gaussian of the
            FWHM and good for comparisons only), ``snr``, ``fwhm`` (in
            pixels, that of a Gaussian with the same weighted size,
            which is larger than that of a PSF with wings; NaN if much
            wider than the PSF), ``ellipticity``, ``e1``, ``e2`` (under
            the weight), ``accepted``, ``flags`` and ``reason`` (see
            `decode_star_flags`). ``meta['fwhm']`` is the median of the
            stars' FWHM. `None`, with a warning, if
            nothing is detected.
        """
        if wcs is None:
            wcs = getattr(data, 'wcs', None)
        data, mask, error = open_nddata(data, mask, error)
        arrays = {'data': data, 'error': error}
        if self.saturation is not None:
            arrays['saturation'] = self.saturation
        arrays, unit = strip_units(**arrays)
        values, bad = as_masked_image(arrays['data'], mask)
        deviation = check_plane(arrays['error'], values.shape, 'error')
        if deviation is not None:
            bad |= ~(np.isfinite(deviation) & (deviation > 0.0))
            if bad.all():
                msg = 'error must be positive and finite for some usable pixel'
                raise ValueError(msg)
            deviation = np.where(bad, np.inf, deviation)
        box = tuple(min(50, side) for side in values.shape)
        # the mode of boxes (Bertin & Arnouts 1996, A&AS 117, 393)
        background = Background2D(
            np.where(bad, 0.0, values), box, mask=bad, filter_size=3,
            exclude_percentile=90.0, sigma_clip=SigmaClip(3.0),
            bkg_estimator=SExtractorBackground()).background
        values = values - background
        if deviation is None:
            deviation = np.full(values.shape, clipped_rms(values, mask=bad))
        values = np.where(bad, 0.0, values)
        fwhm = self.fwhm or self._find_fwhm(values, deviation, bad)
        moments, ray, (locus, _) = self._try(values, deviation, bad, fwhm)
        if len(ray) == 0:
            msg = ('no sources were found: check data, or fwhm='
                   f'{self.fwhm}')
            warnings.warn(msg, NoDetectionsWarning, stacklevel=2)
            return None
        moments |= {'locus': np.full(len(ray), locus), 'ray': ray,
                    'fwhm': _intrinsic_fwhm(moments['size'], fwhm)}
        order = np.argsort(-moments['flux'], kind='stable')
        moments = {name: column[order] for name, column in moments.items()}
        raw, _ = as_masked_image(arrays['data'], mask)
        flags = self._flag(moments, fwhm, raw, bad,
                           arrays.get('saturation'), wcs)
        return self._make_table(moments, flags, fwhm, unit)

    def _try(self, values, deviation, bad, fwhm):
        """
        Detect and measure sources with a given FWHM.
        """
        # the signal-to-noise ratio of a Gaussian matched to the PSF (Stetson
        # 1987, PASP 99, 191)
        sigma = fwhm * gaussian_fwhm_to_sigma
        with np.errstate(divide='ignore', invalid='ignore'):
            weight = np.where(bad, 0.0, deviation**-2.0)
            # the squared Gaussian is one of sigma / sqrt(2), times a constant
            power = gaussian_filter(
                weight, sigma / np.sqrt(2.0), mode='constant') / (
                    4.0 * np.pi * sigma**2)
            snr = np.where(power > 0.0, gaussian_filter(
                values * weight, sigma, mode='constant') / np.sqrt(power), 0.0)
        size = 2 * int(np.ceil(0.5 * fwhm)) + 1
        y, x = np.nonzero((snr == maximum_filter(snr, size))
                          & (snr > _DETECTION_SNR))
        # bad pixels have neither signal nor noise
        moments = weighted_moments(values, np.where(bad, 0.0, deviation), x,
                                   y, fwhm)
        # cosmic rays are sharper than the PSF, or tracks
        expected = weighted_size(fwhm)
        peak = 1.0 / (2.0 * np.pi * expected**2)
        elongation = np.hypot(moments['e1'], moments['e2'])
        ray = moments['peak_fraction'] > min(_MAX_PEAK * peak, 0.8)
        ray |= ~(moments['size'] > _MIN_SIZE * expected)
        ray |= (elongation > _MAX_RAY_ELLIPTICITY) & (
            moments['size'] < 0.95 * expected)
        usable = (moments['snr'] > self.min_snr) & ~ray & (
            elongation < _MAX_RAY_ELLIPTICITY)
        return moments, ray, find_locus(moments['size'][usable],
                                         moments['snr'][usable], fwhm)

    def _find_fwhm(self, values, deviation, bad):
        """
        Find the FWHM: the smallest at which many sources have one size.
        """
        found = []
        for fwhm in _TRIAL_FWHM:
            if found and fwhm > 0.2 * min(values.shape):
                break
            _, _, (locus, density) = self._try(values, deviation, bad, fwhm)
            found.append((_intrinsic_fwhm(locus, fwhm), density))
        # galaxies are larger than stars, and often more numerous: not the
        # densest size, but the first that is dense
        densities = np.array([density for _, density in found])
        first = np.argmax(densities >= _FIRST_TRIAL * densities.max())
        return float(found[first][0])

    def _flag(self, moments, fwhm, raw, bad, saturation, wcs):
        """
        Return the flags of all detections.
        """
        places = np.stack([moments['x'], moments['y']], axis=1)
        n = len(places)
        flags = np.zeros(n, dtype=int)
        x, y = np.rint(places.T).astype(int)
        half = int(np.ceil(1.5 * fwhm))
        grid = np.arange(-half, half + 1)
        core = np.hypot(grid[:, None], grid) <= 1.5 * fwhm
        outside = cut_out(np.zeros(bad.shape, bool), x, y, half, fill=True)
        n_bad = (cut_out(bad, x, y, half, fill=False) & core).sum((1, 2))

        def put(name, where):
            flags[where] |= STAR_FLAGS[name]

        put('edge', (outside & core).any((1, 2)))
        put('bad_pixels', n_bad > self.central_tolerance)
        if saturation is not None:
            brightest = cut_out(np.where(bad, -np.inf, raw), x, y, half,
                                fill=-np.inf)
            put('saturated', np.where(core, brightest, -np.inf).max(
                (1, 2)) >= saturation)
        bright = moments['snr'] >= self.min_snr
        if bright.any():
            mean = moments['flux'][bright].mean()
            bright &= moments['flux'] >= self.min_flux_fraction * mean
        put('faint', ~bright)
        put('cosmic_ray', moments['ray'])
        if self.positions is not None:
            known = np.stack(table_positions(
                position_table(self.positions, 'positions'),
                (('x', 'y'), ('x_centroid', 'y_centroid')), wcs,
                'positions'), axis=1)
            # masked, or outside of the projection of the image
            known = known[np.isfinite(known).all(axis=1)]
            distance, _ = KDTree(known).query(places)
            put('not_in_list', distance > 1.5 * fwhm)
        # the error of ln(size) is about that of ln(flux)
        size_error = np.hypot(LOCUS_SCATTER,
                              1.0 / np.maximum(moments['snr'], 1e-6))
        offset = np.log(np.maximum(moments['size'], 1e-6)
                        / moments['locus'])
        put('size', ~(np.abs(offset) <= self.locus_width * size_error))
        pairs = KDTree(places).query_pairs(
            self.isolation_radius or 3.0 * fwhm, output_type='ndarray')
        flux = moments['flux']
        for own, other in (pairs.T, pairs.T[::-1]):
            put('neighbor', own[flux[other] > self.isolation * flux[own]])
        like_star = flags == 0
        if like_star.any():
            # relative to the stars, not to 0: PSFs are elliptical, too
            e1, e2 = (moments[name] - np.median(moments[name][like_star])
                      for name in ('e1', 'e2'))
            limit = np.hypot(self.max_ellipticity,
                             3.0 / np.maximum(moments['snr'], 1e-6))
            put('elongated', ~(np.hypot(e1, e2) <= limit))
        put('rejected_id', np.isin(np.arange(1, n + 1), self.reject))
        left = np.flatnonzero(flags == 0)
        if len(left) > self.max_stars:
            dim = left[np.argsort(-moments['snr'][left],
                                  kind='stable')][self.max_stars:]
            put('not_brightest', dim)
        return flags

    def _make_table(self, moments, flags, fwhm, unit):
        """
        Make the table of all detections.
        """
        accepted = flags == 0
        table = QTable({'id': np.arange(1, len(flags) + 1),
                        'x_centroid': moments['x'],
                        'y_centroid': moments['y']})
        for name, column_unit in (('flux', integrated_unit(unit)),
                                  ('peak', unit)):
            table[name] = (moments[name] if column_unit is None
                           else moments[name] << column_unit)
        table['snr'] = moments['snr']
        table['fwhm'] = moments['fwhm']
        table['ellipticity'] = np.hypot(moments['e1'], moments['e2'])
        table['e1'], table['e2'] = moments['e1'], moments['e2']
        table['accepted'] = accepted
        table['flags'] = flags
        table['reason'] = [', '.join(names) for names in
                           decode_star_flags(flags)]
        table.meta.update(result_meta(self))
        table.meta['fwhm'] = float(
            np.nanmedian(moments['fwhm'][accepted]) if accepted.any()
            else fwhm)
        if not accepted.any():
            msg = (f'none of {len(flags)} detections is a usable star: see '
                   "the column 'reason'")
            warnings.warn(msg, AstropyUserWarning, stacklevel=3)
        return table


def _intrinsic_fwhm(size, fwhm):
    """
    Undo the weight: the FWHM of a Gaussian with this weighted size.
    """
    width = WEIGHT_WIDTH * fwhm * gaussian_fwhm_to_sigma
    with np.errstate(divide='ignore', invalid='ignore'):
        inverse = 1.0 / np.square(size) - 1.0 / width**2
        variance = np.where(inverse > 0.0, 1.0 / inverse, np.nan)
    return gaussian_sigma_to_fwhm * np.sqrt(variance)
