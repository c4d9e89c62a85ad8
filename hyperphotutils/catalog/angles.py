# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Columns of angles, as numbers or as sexagesimal strings.
"""

import re

import astropy.units as u
import numpy as np
from astropy.table import Column
from astropy.utils.masked import Masked

from hyperphotutils.catalog.errors import CatalogError

__all__ = ['as_text', 'plain_values', 'read_angles', 'show_value']

# Common spellings of units in tables
_SPELLINGS = {'degree': u.deg, 'degrees': u.deg, 'deg.': u.deg,
              'arcseconds': u.arcsec, 'arcsecs': u.arcsec,
              'asec': u.arcsec, 'arcmins': u.arcmin,
              'arcminutes': u.arcmin, 'radian': u.rad, 'radians': u.rad}
# Units of sexagesimal strings, and of right ascensions in hours
_HOURS = ('h:m:s', 'hms', 'hh:mm:ss', 'hh:mm:ss.s', 'hh mm ss', 'h m s')
_DEGREES = ('d:m:s', 'dms', 'dd:mm:ss', 'dd:mm:ss.s', 'dd mm ss', 'd m s')

_NUMBER = re.compile(r'[+-]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][+-]?\d+)?',
                     re.ASCII)
_BLANK = ('', 'nan', 'null', '--', 'inf', '+inf', '-inf')
_SEXAGESIMAL = re.compile(
    r'(?P<sign>[+-]?)\s*(?P<whole>\d{1,3})\s*(?P<unit>[hHdD°: ])\s*'
    r"(?P<minutes>\d{1,2}(?:\.\d*)?)\s*(?:[mM'\u2032: ]\s*"
    r"(?:(?P<seconds>\d{1,2}(?:\.\d*)?)\s*(?:[sS\"\u2033]|'')?)?)?", re.ASCII)
# signs of typeset tables
_MINUS = str.maketrans('\N{MINUS SIGN}\N{EN DASH}', '--')


def read_angles(column, unit, name, where='the lists', *, sexagesimal=None):
    """
    Read a column of numbers or strings as float64 angles.

    Parameters
    ----------
    column : `~astropy.table.Column`, array_like or \
            `~astropy.units.Quantity`
        The numbers, or strings of them.

    unit : `~astropy.units.Unit`
        The unit of the result, and of numbers without a unit.

    name, where : str
        The names of the column and of the file or table, for the messages.

    sexagesimal : `~astropy.units.Unit` or `None`, optional
        The unit of the first part of strings such as ``'05:35:14.5'``,
        hours or degrees, if neither the string nor the column states it.
        If `None` (default), such strings are refused.

    Returns
    -------
    angles : `~astropy.units.Quantity`
        The angles in ``unit``; NaN where the column is masked, blank or
        not finite.

    Examples
    --------
    >>> import astropy.units as u
    >>> from hyperphotutils.catalog.angles import read_angles
    >>> texts = ['05:35:14.5', '5h35m14.5s', ' ']
    >>> print(read_angles(texts, u.deg, 'RA', sexagesimal=u.hourangle))
    [83.81041667 83.81041667 nan] deg
    """
    own, written = _unit_of(column, name, where)
    if sexagesimal is None and written is not None:
        msg = f"{where}: {name} must be numbers, not in '{written}'"
        raise CatalogError(msg)
    if (not isinstance(column, Column | u.Quantity | np.ndarray | Masked)
            and hasattr(column, 'info')):
        msg = (f'{where}: {name} must be a column of numbers: got '
               f'{type(column).__name__}')
        raise CatalogError(msg)
    values, mask = plain_values(column)
    if values.ndim > 1:
        msg = (f'{where}: {name} must hold one value per row: got the shape '
               f'{values.shape[1:]} in each; make a column of each part')
        raise CatalogError(msg)
    if values.dtype.kind in 'SU':
        texts = [' '.join(as_text(value).split())
                 for value in values.ravel().tolist()]
        if written is None and not any(map(_match_sexagesimal, texts)):
            sexagesimal = None
        values = _parse_texts(texts, own, unit, written or sexagesimal, name,
                              where)
        if written or sexagesimal:
            own = u.deg
    elif values.dtype.kind not in 'fiu':
        shown = show_value(values.flat[0]) if values.size else values.dtype
        msg = (f'{where}: {name} must be numbers, in {own or unit}: got '
               f'{shown}')
        raise CatalogError(msg)
    elif written is not None:
        msg = (f"{where}: {name} in '{written}' must be texts such as "
               f"'05:35:14.5': got numbers; if these are degrees, state the "
               "unit 'deg'")
        raise CatalogError(msg)
    values = values.astype(float)
    good = np.isfinite(values) & ~mask
    with np.errstate(over='ignore'):
        return u.Quantity(np.where(good, values, np.nan),
                          own or unit).to(unit)


def plain_values(column):
    """
    Return the values of a column of any kind as an array, and their mask.

    Strings and numbers in one column become strings, in which `None` is a
    masked value.
    """
    values = getattr(column, 'value', column)
    mask = np.asarray(getattr(values, 'mask', False))
    values = np.asarray(getattr(values, 'unmasked', values))
    if values.dtype.kind == 'O':
        mask = mask | np.array([value is None or value is np.ma.masked
                                for value in values.flat],
                               dtype=bool).reshape(values.shape)
        if all(isinstance(value, str | bytes | int | float | np.number)
               for value in values[~mask].flat):
            values = np.array([
                '' if bad else as_text(value) for value, bad
                in zip(values.flat, mask.flat, strict=True)],
                dtype=str).reshape(values.shape)
    return values, mask


def show_value(value):
    """
    Return a value as text for a message, in at most 60 characters.
    """
    if isinstance(value, np.generic):
        value = value.item()
    text = ascii(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def _unit_of(column, name, where):
    # the unit of numbers and the unit of sexagesimal strings, or None
    own = getattr(column, 'unit', None)
    spelled = str(own).strip().strip('"\'').strip().lower()
    if own is None or spelled == '':
        return None, None
    if isinstance(own, u.UnrecognizedUnit):
        if spelled in _HOURS:
            return None, u.hourangle
        if spelled in _DEGREES:
            return None, u.deg
        own = _SPELLINGS.get(spelled, own)
    # right ascension in hours
    if own == u.hour:
        own = u.hourangle
    if own == u.dimensionless_unscaled:
        return None, None
    if (not isinstance(own, u.UnitBase) or not own.is_equivalent(u.deg)
            or not 0.0 < own.to(u.deg) < np.inf):
        msg = (f"{where}: the unit '{own}' of {name} is not an angle "
               "such as 'deg' or 'arcsec'")
        raise CatalogError(msg)
    return own, None


def as_text(value):
    """
    Return a value as text, in which bytes that are not UTF-8 are escaped.
    """
    if isinstance(value, bytes):
        return value.decode('utf-8', 'backslashreplace')
    return str(value)


def _match_sexagesimal(text):
    return _SEXAGESIMAL.fullmatch(text.translate(_MINUS))


def _parse_texts(texts, own, unit, sexagesimal, name, where):
    # degrees if the texts are sexagesimal, else in their own unit
    values = np.full(len(texts), np.nan)
    for row, text in enumerate(texts):
        if text.lower() in _BLANK:
            continue
        match = (_match_sexagesimal if sexagesimal else _NUMBER.fullmatch)(
            text)
        if match is None:
            kind = ("texts like '05:35:14.5'" if sexagesimal
                    else f'numbers, in {own or unit}')
            msg = (f'{where}: {name} must be {kind}: got {show_value(text)} '
                   f'in row {row}')
            raise CatalogError(msg)
        if not sexagesimal:
            values[row] = float(text.lower().replace('d', 'e'))
            continue
        if own is not None:
            msg = (f"{where}: {name} has the unit '{own}' and the text "
                   f'{show_value(text)} in row {row}: state the unit '
                   "'h:m:s' or 'd:m:s', or none")
            raise CatalogError(msg)
        minutes = float(match['minutes'])
        seconds = float(match['seconds'] or 0.0)
        # (rounding may leave 60 seconds; decimals of minutes exclude seconds)
        if minutes >= 60.0 or seconds > 60.0 or (
                match['seconds'] and '.' in match['minutes']):
            msg = (f'{where}: {name} must have minutes and seconds below 60: '
                   f'got {show_value(text)} in row {row}')
            raise CatalogError(msg)
        first = {'h': u.hourangle, 'd': u.deg, '°': u.deg}.get(
            match['unit'].lower(), sexagesimal)
        value = float(match['whole']) + minutes / 60.0 + seconds / 3600.0
        if first == u.hourangle:
            value *= 15.0
        values[row] = -value if match['sign'] == '-' else value
    return values
