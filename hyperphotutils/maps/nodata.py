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
    Check the argument ``fill_value`` of a reader.

    Parameters
    ----------
    fill_value : float, list of float, `None`, or `False`
        The argument; see `~hyperphotutils.maps.read_map`.

    Returns
    -------
    fill_value : tuple of float or `None`
        The fill values; `None` to recognize them.

    Raises
    ------
    TypeError
        If it has another type.
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
    Set the pixels with a fill value to NaN.

    Parameters
    ----------
    values : 2D `~numpy.ndarray` of float
        The values as stored in the file, modified in place.

    fill_value : tuple of float or `None`
        The result of `as_fill_value`.

    fwhm : float
        The FWHM of the beam in pixels.

    Returns
    -------
    meta : dict
        ``'fill_values'``, the fill values found, and ``'n_fill'``, the
        number of their pixels.
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
