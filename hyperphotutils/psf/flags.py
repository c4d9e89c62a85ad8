# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The bits of the ``flags`` column of star tables: why a candidate is not
used.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

__all__ = ['STAR_FLAGS', 'STAR_FLAG_DESCRIPTIONS', 'decode_star_flags']

_REGISTRY = (
    ('edge', 'the core is not fully on the image'),
    ('bad_pixels', 'too many masked or non-finite pixels in the core'),
    ('saturated', 'a pixel of the core reaches the saturation level'),
    ('faint', 'the signal-to-noise ratio or the flux is below the limit'),
    ('cosmic_ray', 'sharper than a star can be'),
    ('not_in_list', 'not near any of the given positions'),
    ('size', 'larger or smaller than the stars of its flux'),
    ('elongated', 'the ellipticity differs from that of the stars'),
    ('neighbor', 'another source is too near and too bright'),
    ('rejected_id', 'rejected by its id'),
    ('not_brightest', 'beyond the largest number of stars'),
    ('bad_fit', 'the PSF does not fit: chi-squared is too large, or there '
     'is no positive flux'),
    ('extended', 'wider than the PSF: a galaxy or a blend'),
    ('sharp', 'narrower than the PSF: a cosmic ray or a hot pixel'),
)

STAR_FLAGS = MappingProxyType(
    {name: 1 << bit for bit, (name, _) in enumerate(_REGISTRY)})
"""
The bit value of each flag by name.
"""

STAR_FLAG_DESCRIPTIONS = MappingProxyType(dict(_REGISTRY))
"""
What each flag means, by name.
"""


def decode_star_flags(flags: ArrayLike) -> list[str] | list[list[str]]:
    """
    Decode the values of the ``flags`` column of a star table.

    Parameters
    ----------
    flags : int or 1D array_like of int
        The bit mask of one candidate or of several.

    Returns
    -------
    names : list of str or list of list of str
        The names of the bits that are set; a list for each candidate
        when ``flags`` is an array.

    Examples
    --------
    >>> from hyperphotutils.psf import decode_star_flags
    >>> decode_star_flags(65)
    ['edge', 'size']
    """
    if np.ndim(flags) > 0:
        return [decode_star_flags(value) for value in np.asarray(flags)]
    return [name for name, bit in STAR_FLAGS.items() if int(flags) & bit]
