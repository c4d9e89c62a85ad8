# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fill values, which mark pixels without data.
"""

from numbers import Real

import numpy as np

from hyperphotutils.noise.fill import find_fill_values

__all__ = ['as_fill_value', 'blank_fill_values']

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
    # an integer that a float cannot represent occurs in no pixel
    return tuple(float(value) for value in values
                 if not isinstance(value, int) or abs(value) < 1e308)


def blank_fill_values(values, fill_value, fwhm):
    """
    Set the pixels with a fill value to NaN, in place; return the metadata
    ``'fill_values'``, those found, and ``'n_fill'``, their number of pixels.

    The FWHM of the beam is in pixels.
    """
    if fill_value is None:
        fill, found = find_fill_values(values, fwhm)
    else:
        fill, found = np.zeros(values.shape, dtype=bool), []
        for value in fill_value:
            equal = np.isclose(values, value, rtol=_PRECISION, atol=0.0)
            if equal.any():
                found.append(value)
                fill |= equal
    values[fill] = np.nan
    return {'fill_values': tuple(found),
            'n_fill': int(np.count_nonzero(fill))}
