# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Registry of the bits of the ``flags`` column, with values, names, and
descriptions.
"""

from types import MappingProxyType

import numpy as np

__all__ = ['FLAGS', 'FLAG_DESCRIPTIONS', 'decode_flags']

_REGISTRY = (
    ('off_map', 'the position is off the map or among masked pixels: '
     'not fitted'),
    ('too_few_pixels', 'the footprint has fewer usable pixels than '
     'parameters: not fitted'),
    ('not_converged', 'the fit stopped at the largest number of '
     'iterations'),
    ('fit_failed', 'the fit has no finite result: values are NaN'),
    ('at_bound', 'a position or a FWHM is at its bound'),
    ('partial_footprint', 'part of the fitted footprint is off the map or '
     'masked'),
    ('group_split', 'the group had more sources than allowed and was '
     'split'),
    ('residual_detection', 'detected in the residual of the model'),
    ('partial_aperture', 'part of the aperture is off the map or masked '
     'and was filled with the model'),
    ('fixed_position', 'the position was fixed'),
    ('fixed_shape', 'FWHMs and angle were fixed'),
    ('no_covariance', 'the covariance matrix is singular: errors are NaN'),
    ('thinned', 'not all pixels of the footprint were fitted: the beam has '
     'more of them than tell anything'),
    ('split_pair', 'one of two sources that were found as one: two fit the '
     'map better, by the Bayesian information criterion'),
    ('no_position', 'the position is not known: nothing was fitted'),
    ('held_shape', 'widths and angle were held at those of the beam, since '
     'a free fit moved away from the detection'),
    ('doubtful', 'the fitted peak is not compact, not significant, or less '
     'than 1 % of that of a neighbor'),
    ('bad_pixels', 'bad pixels in the core of the source were not fitted'),
    ('saturated', 'the top of the source is cut off: its flat pixels were '
     'not fitted'),
    ('unresolved', 'the effective radius is below a quarter of the FWHM of '
     'the PSF, or smaller than its error'),
    ('neighbor_masked', 'pixels of other sources were masked'),
    ('too_large', 'the effective radius is more than a quarter of the '
     'stamp'),
    ('grid_edge', 'the best model of the grid is the smallest or the '
     'largest'),
    ('beam_mismatch', 'bright sources of the map differ from the profile of '
     'the fit, here by more than the noise: another beam is needed (psf)'),
)

FLAGS = MappingProxyType(
    {name: 1 << bit for bit, (name, _) in enumerate(_REGISTRY)})
"""
The bit value of each flag by name.
"""

FLAG_DESCRIPTIONS = MappingProxyType(dict(_REGISTRY))
"""
The description of each flag by name.
"""


def decode_flags(flags):
    """
    Decode the values of a ``flags`` column.

    Parameters
    ----------
    flags : int or 1D array_like of int
        The bit mask of one source or of several.

    Returns
    -------
    names : list of str or list of list of str
        The names of the bits that are set, a list for each source if
        ``flags`` is an array.

    Raises
    ------
    ValueError
        If ``flags`` has an unknown bit.

    Examples
    --------
    >>> from hyperphotutils.utils import FLAGS, decode_flags
    >>> FLAGS['at_bound']
    16
    >>> decode_flags(20)
    ['not_converged', 'at_bound']
    >>> decode_flags([0, 1])
    [[], ['off_map']]
    """
    values = np.atleast_1d(flags)
    if not np.issubdtype(values.dtype, np.integer):
        msg = f'flags must be integers, got dtype {values.dtype}'
        raise TypeError(msg)
    unknown = values & ~(sum(FLAGS.values()))
    if np.any(unknown):
        msg = f'flags has unknown bits: {int(unknown[unknown != 0][0])}'
        raise ValueError(msg)
    names = [[name for name, bit in FLAGS.items() if value & bit]
             for value in values.ravel()]
    return names if np.ndim(flags) else names[0]
