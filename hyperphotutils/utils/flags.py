# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Registry of the bits of the ``flags`` column, with values, names, and
descriptions.
"""

from __future__ import annotations

import operator
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

__all__ = ['FLAGS', 'FLAG_DESCRIPTIONS', 'decode_flags']

# Below 2**16, value, name, and meaning are those of photutils, so that
# `photutils.psf.decode_psf_flags` is right about our tables. It ignores
# the bits from 2**16 up, which are ours.
_REGISTRY = (
    (1 << 0, 'n_pixels_fit_partial', 'part of the fitted footprint is off '
     'the map or masked'),
    (1 << 3, 'no_convergence', 'the fit stopped at the largest number of '
     'iterations'),
    (1 << 4, 'no_covariance', 'the covariance matrix is singular: errors '
     'are NaN'),
    (1 << 5, 'near_bound', 'a position, a size, or a shape is at its bound'),
    (1 << 8, 'too_few_pixels', 'the footprint has fewer usable pixels than '
     'parameters: not fitted'),
    (1 << 10, 'non_finite_flux', 'the fit has no finite result: values are '
     'NaN'),
    (1 << 16, 'off_map', 'the position is off the map or among masked '
     'pixels: not fitted'),
    (1 << 17, 'no_position', 'the position is not known: nothing was '
     'fitted'),
    (1 << 18, 'doubtful', 'the fitted peak is not compact, not significant, '
     'or less than 1 % of that of a neighbor'),
    (1 << 19, 'residual_detection', 'detected in the residual of the '
     'model'),
    (1 << 20, 'split_pair', 'one of two sources that were found as one: two '
     'fit the map better, by the Bayesian information criterion'),
    (1 << 21, 'group_split', 'the group had more sources than allowed and '
     'was split'),
    (1 << 22, 'fixed_position', 'the position was fixed'),
    (1 << 23, 'fixed_shape', 'FWHMs and angle were fixed'),
    (1 << 24, 'held_shape', 'FWHMs and angle were fixed to those of the '
     'beam, since a free fit moved away from the detection'),
    (1 << 25, 'partial_aperture', 'part of the aperture is off the map or '
     'masked and was filled with the model'),
    (1 << 26, 'thinned', 'only some pixels of the footprint were fitted, '
     'since the beam is sampled by more pixels than the fit needs'),
    (1 << 27, 'bad_pixels', 'bad pixels in the core of the source were not '
     'fitted'),
    (1 << 28, 'saturated', 'the top of the source is cut off: its flat '
     'pixels were not fitted'),
    (1 << 29, 'unresolved', 'the effective radius is below a quarter of the '
     'FWHM of the PSF, or smaller than its error'),
    (1 << 30, 'neighbor_masked', 'pixels of other sources with more than 5 % '
     'of the light of the galaxy were masked'),
    (1 << 31, 'too_large', 'the effective radius is more than a quarter of '
     'the stamp'),
    (1 << 32, 'grid_edge', 'the best model of the grid is the smallest or '
     'the largest, and the fit went beyond it'),
    (1 << 33, 'beam_mismatch', 'bright sources of the map differ from the '
     'profile of the fit, here by more than the noise: another beam is '
     'needed (psf)'),
    (1 << 34, 'same_position', 'another source was given at the same '
     'position: their fluxes cannot be separated unless their shapes '
     'differ'),
)

FLAGS = MappingProxyType({name: bit for bit, name, _ in _REGISTRY})
"""
The bit value of each flag by name.
"""

FLAG_DESCRIPTIONS = MappingProxyType(
    {name: description for _, name, description in _REGISTRY})
"""
The description of each flag by name.
"""


def decode_flags(flags: ArrayLike, *, return_bit_values: bool = False) -> list:
    """
    Decode the values of a ``flags`` column.

    Use it as `photutils.psf.decode_psf_flags`, which decodes the bits
    below 2**16 in the same way and ignores the others.

    Parameters
    ----------
    flags : int or array_like of int
        The bit mask of one source or of several.

    return_bit_values : bool, optional
        Whether to return the values of the bits instead of their names.
        The default is `False`.

    Returns
    -------
    decoded : list of str or int, or list of list
        The names (or values) of the bits that are set, a list for each
        source if ``flags`` is an array.

    Raises
    ------
    TypeError
        If ``flags`` are not integers.

    ValueError
        If ``flags`` are negative or have an unknown bit.

    Examples
    --------
    >>> from hyperphotutils.utils import FLAGS, decode_flags
    >>> FLAGS['near_bound']
    32
    >>> decode_flags(40)
    ['no_convergence', 'near_bound']
    >>> decode_flags([0, FLAGS['off_map']])
    [[], ['off_map']]
    """
    if np.ndim(flags) > 0:
        # (an empty list has a dtype of float)
        return [decode_flags(value, return_bit_values=return_bit_values)
                for value in np.asarray(flags).flat]
    try:
        value = operator.index(flags)
    except TypeError:
        msg = f'flags must be integers: got {flags!r}'
        raise TypeError(msg) from None
    if value < 0:
        msg = f'flags must not be negative: got {value}'
        raise ValueError(msg)
    unknown = value & ~sum(FLAGS.values())
    if unknown:
        msg = f'flags has unknown bits: {unknown}'
        raise ValueError(msg)
    return [bit if return_bit_values else name
            for name, bit in FLAGS.items() if value & bit]
