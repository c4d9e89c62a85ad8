# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Frequencies of a header, from its spectral axis only.
"""

import re

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.wcs import WcsError

from hyperphotutils.maps.cards import read_ctype, read_number, read_text
from hyperphotutils.maps.errors import MapError
from hyperphotutils.maps.sky import count_axes, make_wcs, select_axes

__all__ = ['find_spectral_axis', 'header_frequency', 'rest_frequency',
           'spectral_values', 'to_frequency']

_REMEDY = 'correct it in the header, or give frequency='

# The quantities that FITS (Greisen et al. 2006, A&A, 446, 747, table 1) and
# AIPS (FELO) define for spectral axes.
_TYPES = re.compile(
    r'^(FREQ|ENER|WAVN|VRAD|WAVE|VOPT|ZOPT|AWAV|VELO|BETA|FELO)')

# Units by their lower-case spellings, without blanks and signs of
# exponents; astropy parses others.
_UNITS = {
    **{f'{prefix}hz'.lower(): f'{prefix}Hz'
       for prefix in ('', 'k', 'M', 'G', 'T')},
    'hertz': 'Hz',
    **{f'{length}{per}': f'{length} / s' for length in ('m', 'km', 'cm')
       for per in ('/s', '/sec', 's-1', '.s-1', '*s-1', 'sec-1')},
    'kms': 'km / s',
    'm': 'm', 'meter': 'm', 'metre': 'm', 'cm': 'cm', 'mm': 'mm',
    'nm': 'nm', 'um': 'um', 'micron': 'um', 'microns': 'um',
    'micrometer': 'um', 'angstrom': 'Angstrom', 'angstroms': 'Angstrom',
    'ev': 'eV', 'kev': 'keV', 'm-1': '1 / m', 'cm-1': '1 / cm',
    '1/cm': '1 / cm', '1/m': '1 / m',
}

# Default units (no CUNIT) by the first letters of the type, those of Greisen
# et al. 2006, table 1; others are velocities.
_DEFAULTS = {'FREQ': 'Hz', 'ENER': 'J', 'WAVN': '1 / m', 'WAVE': 'm',
             'AWAV': 'm', 'ZOPT': '', 'BETA': ''}

# Velocity axes by the first letters of their type, with their conversion
# to frequency (Greisen et al. 2006, table 1).
_DOPPLER = {'VRAD': u.doppler_radio, 'VOPT': u.doppler_optical,
            'VELO': u.doppler_relativistic}

# Plausible frequencies of a map in Hz, from radio to optical.
_FREQUENCIES = (1e6, 1e16)


def find_spectral_axis(header):
    """
    Return the number of the first spectral axis, counted from 0, or `None`.
    """
    for axis in range(1, count_axes(header) + 1):
        try:
            ctype = read_ctype(header, axis)
        except MapError:
            continue
        if _TYPES.match(ctype):
            return axis - 1
    return None


def header_frequency(header):
    """
    Return the frequency of a map in Hz from its header, or `None`.

    The spectral axis, if there is one, has the frequency of the band;
    for velocities, it is the frequency at that velocity. RESTFRQ is used
    only without such an axis, since in continuum maps it is often the
    frequency of some line in the band.
    """
    rest = rest_frequency(header)
    axis = find_spectral_axis(header)
    if axis is None:
        return rest
    velocity = read_ctype(header, axis + 1)[:2] in {'VR', 'VO', 'VE', 'FE'}
    if velocity and rest is None:
        return None
    values, kind = spectral_values(header, axis, 1, remedy=_REMEDY)
    frequency = to_frequency(values, kind, rest)
    return None if frequency is None else _check(
        frequency[0], f'CTYPE{axis + 1}')


def rest_frequency(header):
    """
    Return the rest frequency of the line in Hz from a header; `None` if
    there is none or it is zero.
    """
    for key, unit in (('RESTFRQ', u.Hz), ('RESTFREQ', u.Hz),
                      ('RESTWAV', u.m)):
        value = read_number(header, key, 0.0, remedy=_REMEDY)
        if value > 0.0:
            return _check((value * unit).to(u.Hz, u.spectral()), key)
    return None


def spectral_values(header, axis, n_channels, *, remedy=None):
    """
    Return the spectral coordinates of the channels in the unit of the
    header, and the type of the axis, such as ``'FREQ'`` or ``'VRAD'``.

    The axis is counted from 0. The step is not needed for a single channel.
    Raises a `MapError`, with the ``remedy``, if they are missing or invalid.
    """
    number = axis + 1
    ctype = read_ctype(header, number)
    name = _TYPES.match(ctype)[0]
    if not ctype.startswith(f'{name}-'):
        ctype = name  # spelled out, such as FREQUENCY
    unit = _read_unit(header, number, name)
    made = (_single_plane(header, number, remedy) if n_channels == 1
            else select_axes(header, [number], strict=False))
    made['CTYPE1'], made['CUNIT1'] = ctype, unit.to_string('fits')
    if ctype.endswith('-TAB'):
        msg = (f'CTYPE{number} = {ctype!r}: the coordinates are in a table, '
               'which is not supported; '
               + (remedy or 'give the cube a linear axis'))
        raise MapError(msg)
    # copy the other parameters of the coordinates of a spectral axis
    for key in ('RESTFRQ', 'RESTFREQ', 'RESTWAV', 'VELREF'):
        value = read_number(header, key)
        if value:
            made[key.replace('FREQ', 'FRQ')] = (int(value) if key == 'VELREF'
                                                else value)
    for key in header:
        match = re.fullmatch(rf'PV{number}_(\d+)', key)
        if match:
            made[f'PV1_{match[1]}'] = read_number(header, key)
    # wcslib needs it if velocities are not linear in the channel
    if (name in {'FELO', 'VOPT'} and ctype != 'VOPT'
            and not {'RESTFRQ', 'RESTWAV'} & set(made)):
        msg = (f'CTYPE{number} = {ctype!r} needs the rest frequency: set '
               'RESTFRQ in the header')
        raise MapError(msg)
    wcs = make_wcs(made, 'the spectral coordinates of the header')
    try:
        with np.errstate(all='ignore'):
            values = wcs.pixel_to_world_values(np.arange(n_channels))
    except WcsError as error:
        msg = ('the spectral coordinates of the header cannot be used: '
               f'{str(error).splitlines()[0]}')
        raise MapError(msg) from None
    with np.errstate(all='ignore'):
        values = np.atleast_1d(values) << u.Unit(wcs.world_axis_units[0])
        values = values.to(unit)
    if not np.all(np.isfinite(values)):
        msg = (f'the spectral axis {number} has values that are not finite: '
               f'check CRVAL{number} and CDELT{number}')
        raise MapError(msg)
    return values, wcs.wcs.ctype[0].strip()


def to_frequency(values, kind, rest):
    """
    Return spectral coordinates of a type of axis as frequencies in Hz;
    `None` for velocities without the frequency at rest.
    """
    if values.unit.is_equivalent(u.Hz, u.spectral()):
        with np.errstate(divide='ignore'):
            return values.to(u.Hz, u.spectral())
    doppler = _DOPPLER.get(kind[:4])
    if rest is None or doppler is None:
        return None
    with np.errstate(all='ignore'):
        return values.to(u.Hz, doppler(rest))


def _single_plane(header, number, remedy):
    """
    Return the linear coordinates of an axis of length 1.
    """
    remedy = {} if remedy is None else {'remedy': remedy}
    value = read_number(header, f'CRVAL{number}', **remedy)
    if value is None:
        msg = (f'no number CRVAL{number} in the header: '
               f'{remedy.get("remedy", "correct the header")}')
        raise MapError(msg)
    step = read_number(header, f'CD{number}_{number}', read_number(
        header, f'CDELT{number}', 0.0, **remedy), **remedy)
    # without a step, the plane is at the reference
    pixel = read_number(header, f'CRPIX{number}', 0.0, **remedy)
    made = {'NAXIS': 1, 'CRVAL1': value, 'CRPIX1': pixel if step else 1.0,
            'CDELT1': step or 1.0}
    return fits.Header(made)


def _read_unit(header, number, name):
    key = f'CUNIT{number}'
    text = read_text(header, key)
    if not text:
        return u.Unit(_DEFAULTS.get(name, 'm / s'))
    plain = re.sub(r'[\s()\[\]^{}$"\']|\*\*', '', text.lower())
    default = u.Unit(_DEFAULTS.get(name, 'm / s'))
    try:
        unit = u.Unit(_UNITS.get(plain, text))
        unit.to_string('fits')
        usable = isinstance(unit, u.UnitBase) and unit.is_equivalent(default)
    except (ValueError, TypeError, ArithmeticError):
        usable = False
    if not usable:
        msg = (f'{key} = {text!r} is not a unit of a spectral axis {name} '
               f"such as '{default}': correct the header, and pass the HDU")
        raise MapError(msg)
    return unit


def _check(frequency, key):
    if not _FREQUENCIES[0] <= frequency.to_value(u.Hz) <= _FREQUENCIES[1]:
        msg = (f'the frequency of {key}, {frequency:.4g}, cannot be right: '
               f'{_REMEDY}')
        raise MapError(msg)
    return frequency
