# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The difference between real sources and Gaussian fits.
"""

import numpy as np
from scipy.spatial import KDTree

from hyperphotutils.blend.footprints import make_footprints

__all__ = ['Misfit', 'measure_misfit', 'systematic_misfit']

# The profile is measured in rings of this width out to this radius, both in
# FWHM; the noise is measured in the rings beyond _NOISE_RADIUS.
_RING = 0.25
_RADIUS = 3.0
_NOISE_RADIUS = 2.5
# It is measured on the brightest sources without a brighter neighbor within
# _ISOLATION FWHM and above the signal-to-noise ratio _MIN_SNR: on at most
# _MAX_SOURCES, and not at all if there are fewer than _MIN_SOURCES.
_ISOLATION = 2.0
_MAX_SOURCES = 100
_MIN_SNR = 20.0
_MIN_SOURCES = 3
# A ring counts if its excess is so many standard errors above zero.
_SIGNIFICANCE = 3.0
# The same for residuals that sources have in common, and the sources needed.
_SYSTEMATIC_SIGNIFICANCE = 5.0
_MIN_SYSTEMATIC = 5


class Misfit:
    """
    The rms difference between sources and their fits: ``profile`` is that in
    rings around a source, in units of its peak.
    """

    def __init__(self, profile, fwhm):
        self.profile = profile
        self.fwhm = fwhm

    def variance(self, x, y, amplitude, shape):
        """
        Return an image of the variance that the misfits of all sources add.
        """
        variance = np.zeros(shape)
        known = np.isfinite(x) & np.isfinite(y) & np.isfinite(amplitude)
        x, y, power = x[known], y[known], amplitude[known]**2
        radius = _RADIUS * self.fwhm
        foot = make_footprints(x[:, None], y[:, None],
                               np.zeros(shape, dtype=bool), radius)
        ring = _rings(foot, x, y, self.fwhm)
        values = np.append(self.profile**2, 0.0)[ring] * power[:, None]
        np.add.at(variance, (foot.y, foot.x),
                  np.where(foot.usable, values, 0.0))
        return variance


def measure_misfit(residual, x, y, amplitude, snr, fwhm, *, mask):
    """
    Return how much bright sources differ from their fits, as a `Misfit`, or
    `None` where that is not significant in any ring.

    Around each bright source the mean square of the residual is measured in
    rings. That of the outermost rings, the noise, is subtracted, and the
    result is divided by the square of the peak. The median over the sources is
    the squared profile of the misfit, zero in the rings of the noise. It is
    significant for beams with side lobes and for sources that are not
    Gaussian.
    """
    bright = _find_bright(x, y, amplitude, snr, fwhm)
    if len(bright) < _MIN_SOURCES:
        return None
    values, inside = _rings_around(residual, x[bright], y[bright], fwhm, mask)
    square = _ring_means(values**2, inside)
    first = round(_NOISE_RADIUS / _RING)
    noise = np.mean(square[:, first:], axis=1, keepdims=True)
    middle, error = _median((square - noise) / amplitude[bright, None]**2)
    significant = middle > _SIGNIFICANCE * error
    # A slope of the background rises outward: the last ring is above the mean
    # of those of the noise on any map with structure.
    significant[first:] = False
    profile = np.sqrt(np.where(significant, middle, 0.0))
    return Misfit(profile, fwhm) if profile.any() else None


def systematic_misfit(residual, x, y, amplitude, snr, fwhm, *, mask):
    """
    Return the residual that bright sources have in common: the largest median
    in a ring around them, in units of their peaks; 0 where none is
    significant.

    Structure of the background and noise have another sign from source to
    source; the difference between the beam and the profile of the fit has not.
    """
    bright = _find_bright(x, y, amplitude, snr, fwhm)
    if len(bright) < _MIN_SYSTEMATIC:
        return 0.0
    values, inside = _rings_around(residual, x[bright], y[bright], fwhm, mask)
    middle, error = _median(_ring_means(values, inside)
                            / amplitude[bright, None])
    significant = np.abs(middle) > _SYSTEMATIC_SIGNIFICANCE * error
    return float(np.max(np.abs(middle[significant]), initial=0.0))


def _find_bright(x, y, amplitude, snr, fwhm):
    """
    Return the indices of the brightest sources without a brighter
    neighbor.
    """
    bright = np.flatnonzero(np.isfinite(x) & np.isfinite(y)
                            & (snr > _MIN_SNR) & (amplitude > 0.0))
    bright = bright[np.argsort(-amplitude[bright], kind='stable')]
    if len(bright) == 0:
        return bright
    pairs = KDTree(np.column_stack((x, y))[bright]).query_pairs(
        _ISOLATION * fwhm, output_type='ndarray')
    return np.delete(bright, pairs.max(axis=1))[:_MAX_SOURCES]


def _rings_around(residual, x, y, fwhm, mask):
    """
    Return the residuals around sources, without their means, and the
    pixels of each ring.
    """
    foot = make_footprints(x[:, None], y[:, None], mask, _RADIUS * fwhm)
    values = np.where(foot.usable, residual[foot.y, foot.x], 0.0)
    n_pixels = np.maximum(foot.usable.sum(axis=1, keepdims=True), 1)
    values = values - values.sum(axis=1, keepdims=True) / n_pixels
    n_rings = round(_RADIUS / _RING)
    ring = np.where(foot.usable, _rings(foot, x, y, fwhm), n_rings)
    return values, ring[:, None, :] == np.arange(n_rings)[:, None]


def _ring_means(values, inside):
    """
    Return the mean of the values in each ring.
    """
    return (inside @ values[:, :, None])[:, :, 0] / np.maximum(
        inside.sum(axis=2), 1)


def _median(values):
    """
    Return the median over the sources and its standard error.
    """
    middle = np.median(values, axis=0)
    return middle, 1.2533 * 1.4826 * np.median(
        np.abs(values - middle), axis=0) / np.sqrt(len(values))


def _rings(foot, x, y, fwhm):
    """
    Return the number of the ring of each pixel of single sources.
    """
    distance = np.hypot(foot.x - x[:, None], foot.y - y[:, None])
    return np.minimum((distance / (_RING * fwhm)).astype(int),
                      round(_RADIUS / _RING))
