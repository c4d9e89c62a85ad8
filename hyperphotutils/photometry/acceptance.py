# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Which detections are sources.
"""

import numpy as np
from scipy.spatial import KDTree

from hyperphotutils.detection.filters import gaussian_response
from hyperphotutils.photometry.state import plain, positions

__all__ = ['are_apart', 'find_fallen']

# A detection on the residual this near (in FWHM) to a known source is a
# misfit of that source, not a companion.
_MIN_SEPARATION = 0.5
# The smallest height of a fitted source on the high-pass filtered map in
# units of the noise.
_MIN_CONTRAST = 4.0
# The smallest peak in units of its error, where that is known: a peak that
# its neighbours could as well account for is no source of its own.
_MIN_SNR = 3.0
# The smallest peak in units of that of a neighbour within so many FWHM:
# real sources are not Gaussian to better than this.
_DYNAMIC_RANGE = 0.01
_NEAR = 3.0


def are_apart(found, known, fwhm):
    """
    Tell which detections are no misfits of known sources.

    Parameters
    ----------
    found, known : `~numpy.ndarray` of shape (n, 2)
        The positions of the detections and of the known sources, NaN
        for those without a fit.

    fwhm : float
        The FWHM of the beam in pixels.

    Returns
    -------
    apart : 1D bool `~numpy.ndarray`
        `True` for detections that are near to no known source.
    """
    known = known[np.isfinite(known).all(axis=1)]
    if len(known) == 0:
        return np.ones(len(found), dtype=bool)
    distance, _ = KDTree(known).query(found)
    return distance > _MIN_SEPARATION * fwhm


def find_fallen(image, table, fwhm):
    """
    Tell which detections are to be dropped next: of each group the
    fainter half of those that do not stand. Without these, others may.

    Parameters
    ----------
    image : `~hyperphotutils.photometry.state.MapState`
        The map, with its noise.

    table : `~astropy.table.QTable`
        The fitted sources.

    fwhm : float
        The FWHM of the beam in pixels.

    Returns
    -------
    fallen : 1D bool `~numpy.ndarray`
        `True` for those to be dropped.
    """
    fallen = np.flatnonzero(~_stand(image, table, fwhm))
    amplitude = np.nan_to_num(plain(table['amplitude_fit'])[fallen],
                              nan=-np.inf)
    group = np.asarray(table['group_id'])[fallen]
    order = np.lexsort((amplitude, group))
    _, first, size = np.unique(group[order], return_index=True,
                               return_counts=True)
    rank = np.arange(len(fallen)) - np.repeat(first, size)
    # What could not be fitted is in no group.
    chosen = (2 * rank < np.repeat(size, size)) | (group[order] == 0)
    return np.isin(np.arange(len(table)), fallen[order][chosen])


def _stand(image, table, fwhm):
    """
    Tell which sources are compact, above the noise, and apart from
    others.

    A fit may turn a detection into a hump of the background below a
    brighter neighbour, or move it off the map. The height of its
    Gaussian on the high-pass filtered map, in units of the noise
    there, tells humps from sources. What is much fainter than a
    neighbour may be no more than the misfit of that. Detections
    without a fit fall, too.
    """
    amplitude = plain(table['amplitude_fit'])
    response = gaussian_response(
        *(np.maximum(table[name], fwhm)
          for name in ('fwhm_major_fit', 'fwhm_minor_fit')), fwhm)
    contrast = amplitude * response / image.threshold_noise_at(table)
    stands = contrast > _MIN_CONTRAST
    if image.covariance is not None:
        stands &= amplitude > _MIN_SNR * image.peak_noise(table)
    stands &= amplitude > _DYNAMIC_RANGE * _brightest_near(table, fwhm)
    known = np.flatnonzero(np.isfinite(contrast))
    pairs = KDTree(positions(table[known], 'fit')).query_pairs(
        _MIN_SEPARATION * fwhm, output_type='ndarray')
    first, second = known[pairs].T
    stands[np.where(contrast[first] < contrast[second], first,
                    second)] = False
    stands[known] &= image.is_usable(table[known])
    return stands


def _brightest_near(table, fwhm):
    """
    Return the largest amplitude among each source and its neighbours.
    """
    amplitude = np.nan_to_num(plain(table['amplitude_fit']))
    brightest = amplitude.copy()
    known = np.flatnonzero(np.isfinite(table['x_fit']))
    pairs = known[KDTree(positions(table[known], 'fit')).query_pairs(
        _NEAR * fwhm, output_type='ndarray')]
    np.maximum.at(brightest, pairs[:, 0], amplitude[pairs[:, 1]])
    np.maximum.at(brightest, pairs[:, 1], amplitude[pairs[:, 0]])
    return brightest
