# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The rules that fitted sources must meet.
"""

from types import MappingProxyType

import numpy as np
from scipy.spatial import KDTree

from hyperphotutils.detection.filters import gaussian_response
from hyperphotutils.photometry.measurement import plain, positions

__all__ = ['REJECTION_REASONS']

REJECTION_REASONS = MappingProxyType({
    'no_usable_pixels': 'most pixels of the core of the source are masked '
                        'or off the map',
    'not_compact': 'the fitted source has a height of less than 3.5 times '
                   'the noise on the high-pass filtered map',
    'not_significant': 'the peak is not significant beside its neighbors',
    'below_dynamic_range': 'the peak is less than 1 % of that of a brighter '
                           'source within 3 FWHM, or less than twice the '
                           'misfit of bright sources there',
    'duplicate': 'closer than half a FWHM to a brighter source',
})
"""
The reasons why a detection can have no row, by name.
"""

# Sources closer to each other than this, in FWHM, cannot be separated: a
# detection on the residual there is a misfit of the source.
MIN_SEPARATION = 0.5
# The smallest height of a fitted source on the high-pass filtered map in
# units of the noise. On crowded simulated maps, 3.5 finds 0.1 % more of the
# sources than 4, and as few false ones.
_MIN_CONTRAST = 3.5
# The smallest peak in units of its error, if the covariance is known. The
# error is large for a source that its neighbors can explain as well.
_MIN_SNR = 3.0
# The smallest peak in units of that of a brighter neighbor within so many
# FWHM: real sources differ from Gaussians by about this much.
_DYNAMIC_RANGE = 0.01
_NEAR = 3.0
# The largest side lobe, in units of the peak.
_LOBE = 0.1
# The smallest peak in units of the rms misfit of other sources there.
_MIN_MISFIT_RATIO = 2.0


def find_failures(noise, table):
    """
    Return which rule each fitted source fails: a key of `REJECTION_REASONS`,
    the last of several in the registry, or an empty string.

    A fit may turn a detection into a wide hump of the background below a
    brighter neighbor, or move it off the map. Humps are recognized by their
    small height on the high-pass filtered map, in units of the noise there. A
    source much fainter than a neighbor may be only the misfit of the neighbor.
    """
    image, fwhm = noise.image, noise.fwhm
    amplitude = plain(table['amplitude_fit'])
    response = gaussian_response(
        *(np.maximum(table[name], fwhm)
          for name in ('fwhm_major_fit', 'fwhm_minor_fit')), fwhm)
    contrast = amplitude * response / noise.threshold_at(table)
    failure = np.full(len(table), '', dtype=object)
    failure[~(contrast > _MIN_CONTRAST)] = 'not_compact'
    if image.noise.is_correlated:
        significant = amplitude > _MIN_SNR * image.peak_noise(table)
        failure[~significant] = 'not_significant'
    pairs, distance = _near_pairs(table, fwhm)
    faint = amplitude <= np.maximum(
        _DYNAMIC_RANGE * _brightest_near(amplitude, pairs),
        _MIN_MISFIT_RATIO * noise.misfit_at(table))
    failure[faint] = 'below_dynamic_range'
    same = ((distance <= MIN_SEPARATION * fwhm)
            & np.isfinite(contrast)[pairs].all(axis=1))
    first, second = pairs[same].T
    failure[np.where(contrast[first] < contrast[second], first,
                     second)] = 'duplicate'
    failure[~image.has_core(table, fwhm)] = 'no_usable_pixels'
    return failure


def find_lobes(table, failure, fwhm):
    """
    Return which failed sources are near a much brighter one, ``failure`` being
    that of `find_failures`.

    With a measured beam, the model of the brighter source contains its side
    lobes, and a detection on one of them is left without a significant peak.
    """
    amplitude = plain(table['amplitude_fit'])
    pairs, _ = _near_pairs(table, fwhm)
    return ((amplitude < _LOBE * _brightest_near(amplitude, pairs))
            & (failure != ''))


def _near_pairs(table, fwhm):
    """
    Return the rows of each pair of neighbors and their distances in pixels.
    """
    place = positions(table, 'fit')
    known = np.flatnonzero(np.isfinite(place).all(axis=1))
    pairs = known[KDTree(place[known]).query_pairs(
        _NEAR * fwhm, output_type='ndarray')]
    return pairs, np.hypot(*(place[pairs[:, 0]] - place[pairs[:, 1]]).T)


def _brightest_near(amplitude, pairs):
    """
    Return the largest amplitude among each source and its neighbors.
    """
    amplitude = np.nan_to_num(amplitude)
    brightest = amplitude.copy()
    np.maximum.at(brightest, pairs[:, 0], amplitude[pairs[:, 1]])
    np.maximum.at(brightest, pairs[:, 1], amplitude[pairs[:, 0]])
    return brightest
