# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fill values, which mark pixels without data.
"""

from numbers import Real

import numpy as np

from hyperphotutils.noise.fill import recognize_fill
from hyperphotutils.utils.stored import row_blocks

__all__ = ['as_fill_value', 'blank_fill_values', 'blank_masked']

# Tolerance for fill values given by the user, that of 32-bit floats: the
# file may have rounded them.
_PRECISION = 1e-6


def as_fill_value(fill_value):
    """
    Return the argument ``fill_value`` of a reader as a tuple of float, or
    `None` to recognize fill values.
    """
    if fill_value is None or fill_value is False:
        return None if fill_value is None else ()
    values = fill_value
    if isinstance(values, np.ndarray):
        values = values.tolist() if type(values) is np.ndarray else None
    if not isinstance(values, list | tuple):
        values = (values,)
    if not all(isinstance(value, Real) and not isinstance(value, bool)
               for value in values):
        msg = ('fill_value must be a number, a list of numbers, None to '
               f'recognize fill values, or False for none: {fill_value!r}')
        raise TypeError(msg)
    # an integer that a float cannot represent occurs in no pixel; a value
    # given twice is one
    return tuple(dict.fromkeys(
        float(value) for value in values
        if not isinstance(value, int) or abs(value) < 1e308))


def blank_fill_values(values, fill_value, fwhm):
    """
    Set the pixels with a fill value to NaN, in place; return the metadata
    ``'fill_values'``, those found, and ``'n_fill'``, their number of pixels.

    The values can be a `~hyperphotutils.utils.StoredImage`. The FWHM of the
    beam is in pixels.
    """
    blocks = row_blocks(values.shape)
    if fill_value is None:
        finite = _FiniteImage(values)
        with np.errstate(over='ignore', invalid='ignore'):
            fill = recognize_fill(finite, fwhm)
            # all before the first is blanked: they depend on the rows beside
            masks = [_pack(fill.mask(finite, rows)) for rows in blocks]
        found = [float(value) for value in fill.values]
    else:
        masks, present = [], set()
        for rows in blocks:
            equal = {value: np.isclose(values[rows], value, rtol=_PRECISION,
                                       atol=0.0) for value in fill_value}
            present |= {value for value in equal if equal[value].any()}
            masks.append(_pack(np.any(list(equal.values()), axis=0)
                               if equal else None))
        found = [value for value in fill_value if value in present]
    n_fill = 0
    for rows, packed in zip(blocks, masks, strict=True):
        if packed is None:
            continue
        part = values[rows]
        mask = np.unpackbits(packed, count=part.size).view(bool).reshape(
            part.shape)
        part[mask] = np.nan
        values[rows] = part
        n_fill += int(np.count_nonzero(mask))
    return {'fill_values': tuple(found), 'n_fill': n_fill}


def blank_masked(values, mask):
    """
    Set the pixels of a mask, which may be `None`, to NaN, in place; return
    their number, and the fraction of the values that is lost.

    Zeros and the value of the first masked pixel are not counted: they may
    fill the frame of a map. The fraction is 1 if one value is left.
    The values can be a `~hyperphotutils.utils.StoredImage`.
    """
    if mask is None:
        return 0, 0.0
    n_values = n_lost = 0
    fill, low, high = np.nan, np.inf, -np.inf
    for rows in row_blocks(values.shape):
        part, bad = values[rows], mask[rows]
        masked = part[bad & np.isfinite(part)]
        if np.isnan(fill) and masked.size:
            fill = masked[0]
        known = np.isfinite(part) & (part != 0.0) & (part != fill)
        n_values += np.count_nonzero(known)
        if bad.any():
            n_lost += np.count_nonzero(known & bad)
            part[bad] = np.nan
            values[rows] = part
        left = np.isfinite(part)
        low = np.min(part, where=left, initial=low)
        high = np.max(part, where=left, initial=high)
    lost = 1.0 if n_lost and low >= high else n_lost / max(n_values, 1)
    return int(np.count_nonzero(mask)), lost


class _FiniteImage:
    """
    An image with NaN for all pixels that are not finite.
    """

    def __init__(self, values):
        self._values = values
        self.shape = values.shape

    def __getitem__(self, rows):
        values = np.array(self._values[rows])
        values[~np.isfinite(values)] = np.nan
        return values


def _pack(mask):
    """
    Return a mask in an eighth of its memory; `None` if it has no pixel.
    """
    return np.packbits(mask) if mask is not None and mask.any() else None
