# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Flux units of maps: their spellings, and their conversion to Jy per pixel.
"""

from __future__ import annotations

import re
import warnings

import astropy.units as u
import numpy as np

from hyperphotutils.maps.errors import MapError

__all__ = ['flux_factor', 'parse_unit']

# Lower-case spellings in headers, and those of astropy. The jansky with its
# prefixes is not included, since its upper and lower case differ.
_SPELLINGS = {
    **dict.fromkeys(('beam', 'beams', 'bm'), 'beam'),
    **dict.fromkeys(('pixel', 'pixels', 'pix', 'px'), 'pix'),
    **dict.fromkeys(('sr', 'ster', 'steradian', 'steradians'), 'sr'),
    **dict.fromkeys(('arcsec', 'arcsecs', 'asec'), 'arcsec'),
    **dict.fromkeys(('kelvin', 'kelvins', 'k'), 'K'),
    'per': '/',
}

# Spellings in LaTeX and in common use, and their meaning.
_NOTATION = (
    (re.compile(r'\\mu\b|\\mu(?=[A-Z])'), 'u'),
    (re.compile(r'\\[,;: ]'), ' '),
    (re.compile(r'[{}$]'), ''),
    (re.compile(r"(?<=[/ ])(\"|'')"), 'arcsec'),
    (re.compile(r'\b(?:sq|square)[._ ]*(arcsec|arcmin|deg)[a-z]*\.?',
                re.IGNORECASE), r'\g<1>2'),
    (re.compile(r'\b(arcsec|arcmin|deg)[a-z]*[._ ]*(?:sq|squared)\b\.?',
                re.IGNORECASE), r'\g<1>2'),
)

# K with the name of a brightness temperature, such as 'K (Tmb)'.
_BRIGHTNESS_NAME = re.compile(r'^([mµμun]?K)[\s_(]*(T_?MB|T_?B|MB|RJ)\)?$',
                              re.IGNORECASE)
_NAME_BRIGHTNESS = re.compile(r'^T_?(?:MB|B)\s*[(\[/]?\s*([mµμun]?K)[)\]]?$',
                              re.IGNORECASE)
# T_A and T_A* are not corrected for the efficiency of the beam (Kutner &
# Ulich 1981, ApJ, 250, 341).
_ANTENNA_NAME = re.compile(r'\bT_?A\b', re.IGNORECASE)
_JANSKY = re.compile(r'^(milli|micro|nano|kilo|mega|[munkµμ]?)'
                     r'(jy|janskys?|janskies)$', re.IGNORECASE)
_PREFIXES = {'milli': 'm', 'micro': 'u', 'nano': 'n', 'kilo': 'k',
             'mega': 'M'}

# Range of frequencies in Hz for the conversion of brightness temperatures.
_FREQUENCIES = (1e6, 1e16)

# Longer texts are not units, and astropy is very slow for large powers.
_MAX_LENGTH = 100
_HUGE_POWER = re.compile(r'[^\d.\s/]\s*\d{4}')

_ACCEPTED = ("'Jy/pixel', 'Jy/beam', 'MJy/sr', 'K' or the like "
             "('mJy/beam', 'Jy/arcsec2', 'mK', ...)")


def parse_unit(unit: str | u.UnitBase) -> u.UnitBase:
    """
    Read a unit in any of the spellings found in maps.

    Parameters
    ----------
    unit : str or `~astropy.units.UnitBase`
        The unit. ``'Jy/beam'``, ``'beam-1 Jy'``, ``'JY/BEAM'``,
        ``'Jy beam^-1'`` and ``'Jansky per beam'`` are the same unit, and
        ``'K (Tmb)'`` is K.

    Returns
    -------
    unit : `~astropy.units.UnitBase`
        The unit.

    Raises
    ------
    TypeError
        If ``unit`` is neither a string nor a unit.

    MapError
        If the string is not a unit; if the unit is logarithmic or its
        scale is not a positive number; if it is ``'MJY'``, ``'mjy'`` or
        ``'MK'`` and ambiguous between mega and milli; or if it is an
        antenna temperature.

    Examples
    --------
    >>> from hyperphotutils.maps import parse_unit
    >>> print(parse_unit('JY/BEAM'), parse_unit('MJY/SR'))
    Jy / beam MJy / sr
    """
    if isinstance(unit, u.UnitBase | u.function.FunctionUnitBase):
        return _check_factor(unit, unit)
    if not isinstance(unit, str):
        msg = f'unit must be a string or a unit: got {type(unit).__name__}'
        raise TypeError(msg)
    text = unit.strip(' []\'"')
    if text.upper().startswith(('K', 'MK')) and _ANTENNA_NAME.search(text):
        msg = (f'the unit {unit!r} is an antenna temperature: divide the map '
               "by the main-beam efficiency and give unit='K'")
        raise MapError(msg)
    spelled = _NAME_BRIGHTNESS.sub(r'\1', _BRIGHTNESS_NAME.sub(r'\1', text))
    for pattern, meaning in _NOTATION:
        spelled = pattern.sub(meaning, spelled)
    if re.fullmatch(r'\([^()]*\)', spelled):
        spelled = spelled[1:-1]
    spelled = re.sub('[A-Za-zµμ]+',
                     lambda match: _spell(match[0], spelled), spelled)
    with warnings.catch_warnings():
        # two slashes in a unit are discouraged but unambiguous
        warnings.simplefilter('ignore', u.UnitsWarning)
        try:
            parsed = None
            if len(spelled) <= _MAX_LENGTH and not _HUGE_POWER.search(spelled):
                parsed = u.Unit(spelled)
        except (ValueError, TypeError, ArithmeticError):
            parsed = None
    if parsed is None:
        shown = unit if len(unit) <= _MAX_LENGTH else f'{unit[:60]}...'
        msg = f'the unit {shown!r} cannot be read: give unit= as {_ACCEPTED}'
        raise MapError(msg)
    return _check_factor(parsed, unit)


def _check_factor(unit, text):
    """
    Return the unit if its scale is a positive factor.
    """
    if isinstance(unit, u.UnitBase):
        scale = unit.decompose().scale
        if np.isreal(scale) and np.isfinite(scale) and scale > 0.0:
            return unit
        problem = 'does not have a positive scale'
    else:
        problem = 'is logarithmic'
    msg = (f"the unit '{text}' {problem}: convert the map to {_ACCEPTED}")
    raise MapError(msg)


def flux_factor(unit: u.UnitBase, *, pixel_area: u.Quantity,
                beam_area: u.Quantity | None = None,
                frequency: u.Quantity | None = None) -> float:
    """
    Return the value in Jy per pixel of 1 in a map's unit.

    Parameters
    ----------
    unit : `~astropy.units.UnitBase`
        A flux per pixel (the pixel may be left out), per beam or per
        solid angle, or a brightness temperature in the Rayleigh-Jeans
        limit.

    pixel_area : `~astropy.units.Quantity`
        The solid angle of a pixel.

    beam_area : `~astropy.units.Quantity`, optional
        The solid angle of the beam, needed for a flux per beam.

    frequency : `~astropy.units.Quantity`, optional
        The frequency, needed for a brightness temperature.

    Returns
    -------
    factor : float
        The factor that converts the values of the map.

    Raises
    ------
    MapError
        If the unit is none of these, or if the beam or frequency needed
        for it is missing.

    Examples
    --------
    >>> import astropy.units as u
    >>> from hyperphotutils.maps import flux_factor
    >>> area = 4.0 * u.arcsec**2
    >>> print(flux_factor(u.mJy / u.arcsec**2, pixel_area=area))
    0.004
    >>> print(flux_factor(u.Jy / u.beam, pixel_area=area,
    ...                   beam_area=100.0 * u.arcsec**2))
    0.04
    """
    if beam_area is None and unit.is_equivalent(u.Jy / u.beam):
        msg = 'a unit per beam needs the beam: give beam= or survey='
        raise MapError(msg)
    if unit.is_equivalent(u.K):
        if frequency is None:
            msg = ('a unit of temperature needs the frequency, which the '
                   'header does not give (FREQ axis, RESTFRQ): give '
                   'frequency=')
            raise MapError(msg)
        if not _FREQUENCIES[0] <= frequency.to_value(u.Hz) <= _FREQUENCIES[1]:
            msg = (f'the frequency of {frequency:.4g} cannot be right: give '
                   'frequency=')
            raise MapError(msg)
    for reference, factor in _FACTORS:
        if unit.is_equivalent(reference):
            scale = unit.to(reference)
            return float(scale * factor(pixel_area, beam_area, frequency))
    msg = (f"the unit '{unit}' (BUNIT or unit=) is not a flux or brightness: "
           f'a map must be in {_ACCEPTED}')
    raise MapError(msg)


def _spell(word, text):
    """
    Return a word of the unit ``text`` as astropy spells it.
    """
    if word == 'MK':
        return _mega_or_milli(word, text)
    match = _JANSKY.match(word)
    if match is None:
        return _SPELLINGS.get(word.lower(), word)
    prefix = match[1]
    if prefix.lower() in _PREFIXES:
        return _PREFIXES[prefix.lower()] + 'Jy'
    if prefix in {'m', 'M'} and (
            word.isupper() or (word.islower() and match[2] == 'jy')):
        return _mega_or_milli(word, text) + 'Jy'
    return (prefix if prefix == 'M' else prefix.lower()) + 'Jy'


def _mega_or_milli(word, text):
    """
    Return the prefix of 'MJY', 'mjy' or 'MK', whose case is ambiguous.
    """
    per_solid_angle = re.search(r'sr|ster', text, re.IGNORECASE)
    if word.isupper() and per_solid_angle and word != 'MK':
        return 'M'
    if word.islower() and not per_solid_angle:
        return 'm'
    msg = (f'the unit {text!r} may mean mega or milli: give unit= in '
           'correct upper and lower case')
    raise MapError(msg)


# A unit is converted by the first row that it is equivalent to.
_FACTORS = (
    (u.Jy / u.pix, lambda *_: 1.0),
    (u.Jy, lambda *_: 1.0),
    (u.Jy / u.beam, lambda pixel_area, beam_area, _: (
        pixel_area / beam_area).to_value(u.one)),
    (u.Jy / u.sr, lambda pixel_area, *_: pixel_area.to_value(u.sr)),
    (u.K, lambda pixel_area, _, frequency: ((1.0 * u.K).to(
        u.Jy / u.sr, u.brightness_temperature(frequency))
        * pixel_area).to_value(u.Jy)),
)
