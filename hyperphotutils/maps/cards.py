# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Values of header keywords, checked when they are read.

The readers of maps and cubes use only these functions to read values from a
header: an unusable value is a `MapError` that names the keyword,
its value, and the remedy.
"""

import numpy as np
from astropy.io import fits

from hyperphotutils.maps.errors import MapError

__all__ = ['read_ctype', 'read_number', 'read_text']

_REMEDY = 'correct the header, and pass the HDU'


def read_number(header, key, default=None, *, remedy=_REMEDY):
    """
    Return the value of a keyword as a finite number, or the default if the
    header does not have it.

    Raises a `MapError`, with the ``remedy``, if the value is text, boolean,
    complex, empty, not finite, or not readable, or if the header has two
    different values.

    Examples
    --------
    >>> from astropy.io import fits
    >>> from hyperphotutils.maps.cards import read_number
    >>> read_number(fits.Header({'CRVAL1': 83}), 'CRVAL1')
    83.0
    """
    value = _read(header, key, remedy)
    if value is None:
        return default
    if (isinstance(value, bool | np.bool_)
            or not isinstance(value, int | float | np.number)
            or isinstance(value, np.complexfloating)):
        msg = (f'{key} = {_show(value)} is not a number: {remedy}')
        raise MapError(msg)
    try:
        value = float(value)
    except OverflowError:
        value = np.inf
    if not np.isfinite(value):
        msg = f'{key} = {value} is not a finite number: {remedy}'
        raise MapError(msg)
    return value


def read_text(header, key, *, remedy=_REMEDY):
    """
    Return the value of a keyword as text without leading and trailing
    blanks, which is empty if there is no value.

    Raises a `MapError`, with the ``remedy``, if the value is not text or not
    readable, or if the header has two different values.

    Examples
    --------
    >>> from astropy.io import fits
    >>> from hyperphotutils.maps.cards import read_text
    >>> read_text(fits.Header({'CTYPE1': 'RA---TAN '}), 'CTYPE1')
    'RA---TAN'
    """
    value = _read(header, key, remedy)
    if value is None or isinstance(value, fits.card.Undefined):
        return ''
    if not isinstance(value, str):
        msg = f'{key} = {_show(value)} is not text: {remedy}'
        raise MapError(msg)
    return value.strip()


def read_ctype(header, axis):
    """
    Return the type of an axis in upper case, without trailing blanks.
    """
    return read_text(header, f'CTYPE{axis}').upper()


def _read(header, key, remedy):
    """
    Return the unique value of a keyword, or `None` if it is missing.
    """
    try:
        if key not in header:
            return None
        values = [header[key, number] for number in range(header.count(key))]
    # astropy raises these for a card that the FITS standard forbids
    except (fits.VerifyError, ValueError, TypeError):
        msg = f'the card of {key} is not valid FITS: {remedy}'
        raise MapError(msg) from None
    first = values[0] if values[0] is not None else fits.card.Undefined()
    if any(value != values[0] for value in values[1:]):
        msg = (f'{key} occurs {len(values)} times with different values: '
               f'{remedy}')
        raise MapError(msg)
    return first


def _show(value):
    if isinstance(value, fits.card.Undefined):
        return '(empty)'
    text = repr(value)
    return text if len(text) <= 40 else f'{text[:36]}...'
