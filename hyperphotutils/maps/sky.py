# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sky coordinates of a header, from its celestial axes only.

The header is rewritten for astropy: it contains only the keywords of the
two celestial axes, checked and in their current spelling. Missing or
wrong keywords of other axes can therefore not prevent a map from being
read, and wcslib has nothing to repair.
"""

import re
import warnings

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning, WcsError

from hyperphotutils.maps.cards import read_ctype, read_number, read_text
from hyperphotutils.maps.errors import MapError
from hyperphotutils.utils.wcs import pixel_scale

__all__ = ['celestial_wcs', 'count_axes', 'find_sky_axes', 'make_wcs',
           'select_axes']

_REMEDY = 'correct the header, and pass the HDU'

# CD and CDELT of one header may differ by rounding, but not by more.
_SCALE_TOLERANCE = 0.01

# The supported pairs of celestial axes.
_FRAMES = (('RA', 'DEC'), ('GLON', 'GLAT'), ('ELON', 'ELAT'),
           ('SLON', 'SLAT'))
_NAMES = frozenset(name for pair in _FRAMES for name in pair)

# Solar, planetary, terrestrial, and horizontal axes, and those that FITS
# leaves to the user (xxLN/xxLT and yLON/yLAT).
_OTHER_SKY = re.compile(r'^([A-Z]LON|[A-Z]LAT|[A-Z]{2}LN|[A-Z]{2}LT|AZ|EL|'
                        r'ALT|HA)(-|$)')

# RADESYS without blanks, dashes, and similar characters, its FITS spelling
# (Calabretta & Greisen 2002, A&A, 395, 1077, section 3.1), and the equinox
# that it implies.
_RADESYS = {
    'ICRS': ('ICRS', None), 'ICRF': ('ICRS', None), 'ICRSJ2000':
    ('ICRS', None), 'ICRFJ2000': ('ICRS', None), 'ICRS2000': ('ICRS', None),
    'FK5': ('FK5', None), 'J2000': ('FK5', 2000.0),
    'FK5J2000': ('FK5', 2000.0), 'FK52000': ('FK5', 2000.0),
    'FK4': ('FK4', None), 'B1950': ('FK4', 1950.0),
    'FK4B1950': ('FK4', 1950.0), 'FK41950': ('FK4', 1950.0),
    'FK4NOE': ('FK4-NO-E', None),
}

# Equinoxes for which the precession is defined.
_EQUINOXES = (1750.0, 2250.0)

# Units of angles by their lower-case spellings.
_ANGLES = {
    **dict.fromkeys(('', 'deg', 'degs', 'degree', 'degrees', 'degr', '°'),
                    'deg'),
    **dict.fromkeys(('arcmin', 'arcmins', 'arcminute', 'arcminutes', 'amin'),
                    'arcmin'),
    **dict.fromkeys(('arcsec', 'arcsecs', 'arcsecond', 'arcseconds', 'asec'),
                    'arcsec'),
    **dict.fromkeys(('mas', 'marcsec', 'milliarcsec'), 'mas'),
    **dict.fromkeys(('rad', 'radian', 'radians'), 'rad'),
}

# An element of a matrix, in current and in old spelling.
_ELEMENT = re.compile(r'(?:CD|PC)(?:0*(\d+)_0*(\d+)|(\d\d\d)(\d\d\d))')

# The largest longitude or rotation in degrees.
_MAX_ANGLE = 720.0

# The largest parameter of a projection: an angle, or a coefficient.
_MAX_PARAMETER = 1e6

# Highest order of a polynomial of the SIP convention (Shupe et al. 2005,
# ADASS XIV, ASP Conference Series, 347, 491).
_MAX_ORDER = 9

# Projections in which a shift along x is a rotation about the pole
# (Calabretta & Greisen 2002, section 5.2).
_CYLINDRICAL = ('CAR', 'CEA', 'MER')

# Plausible pixel scales in arcsec; a scale outside this range is an error
# of the header.
_SCALES = (1e-6, 90.0 * 3600.0)

# Errors that astropy raises for headers that are not a valid WCS.
_UNUSABLE = (WcsError, fits.VerifyError, ValueError, TypeError, KeyError,
             IndexError, AttributeError, AssertionError, OverflowError,
             MemoryError)


def count_axes(header):
    """
    Return the largest number of an axis with a ``CTYPE``, 0 if there is
    none.
    """
    return max((int(key[5:]) for key in header
                if re.fullmatch(r'CTYPE[1-9]\d?', key)), default=0)


def find_sky_axes(header):
    """
    Return the numbers of the longitude and latitude axes, counted from 0.

    Raises a `MapError` if there is not exactly one pair of axes of a known
    frame.
    """
    found, others, problem = {}, [], None
    for axis in range(1, count_axes(header) + 1):
        try:
            ctype = read_ctype(header, axis)
        except MapError as error:
            # report it only if no sky axes are found
            problem = problem or error
            continue
        if ctype:
            others.append(f'CTYPE{axis} = {ctype!r}')
        name, _, projection = ctype.partition('-')
        if name in _NAMES:
            found.setdefault((name, bool(projection)), []).append(axis)
        elif _OTHER_SKY.match(ctype):
            msg = (f'CTYPE{axis} = {ctype!r}: these coordinates are not '
                   'supported; reproject the map to RA and DEC, GLON and '
                   'GLAT, ELON and ELAT, or SLON and SLAT')
            raise MapError(msg)
    # telescope pointings may be on axes of length 1, without a projection
    for projected in (True, False):
        pairs = [(lon, lat) for lon, lat in _FRAMES
                 if (lon, projected) in found and (lat, projected) in found]
        if pairs:
            break
    axes = [found[name, projected] for name in pairs[0]] if pairs else []
    if len(pairs) == 1 and all(len(numbers) == 1 for numbers in axes):
        return tuple(numbers[0] - 1 for numbers in axes)
    if problem is not None:
        raise problem
    msg = ('more than one pair of sky coordinates' if pairs else
           'no sky coordinates')
    msg += (" in the header (CTYPE1, CTYPE2 such as 'RA---TAN', "
            f"'DEC--TAN'): found {', '.join(others) or 'none'}")
    raise MapError(msg)


def celestial_wcs(header, shape):
    """
    Return the celestial WCS of an image of the shape ``(ny, nx)``.

    Coordinates are ICRS, FK5, FK4, Galactic, ecliptic (the mean ecliptic
    of ``EQUINOX``, `~astropy.coordinates.BarycentricMeanEcliptic`) or
    supergalactic; ``RADESYS`` and ``EQUINOX`` are read as the FITS
    standard says [1]_, and any other frame is an error. If a map crosses
    the edge of a cylindrical projection (CAR, CEA, MER), 180 degrees
    from its reference, the reference longitude is moved to the center of
    the map.

    Raises a `MapError` if the header has no sky coordinates, if they are
    invalid, or if the center of the image is not on the sky.

    References
    ----------
    .. [1] Calabretta, M. R. & Greisen, E. W. 2002, A&A, 395, 1077
    """
    lon, lat = find_sky_axes(header)
    axes = sorted((lon + 1, lat + 1))
    made = select_axes(header, axes)
    for number, axis in enumerate(axes, start=1):
        text = read_text(header, f'CUNIT{axis}')
        unit = _ANGLES.get(text.lower().strip('.[]() '))
        if unit is None:
            msg = (f'CUNIT{axis} = {text!r} is not a unit of angles such as '
                   f"'deg': {_REMEDY}")
            raise MapError(msg)
        made[f'CUNIT{number}'] = unit
        value = made[f'CRVAL{number}'] * u.Unit(unit)
        limit = 90.0 if axis == lat + 1 else _MAX_ANGLE
        if abs(value.to_value(u.deg)) > limit + 1e-9:
            msg = (f'CRVAL{axis} = {value:g} is not on the sky: beyond '
                   f'{limit:g} deg; {_REMEDY}')
            raise MapError(msg)
    _copy_projection(made, header, lon + 1, lat + 1)
    _set_frame(made, header, lon + 1)
    _copy_distortion(made, header, axes)
    for number, axis in enumerate(axes, start=1):
        ctype = read_ctype(header, axis).removesuffix('-SIP')
        if ctype.endswith('-TNX') and list(header['WAT*']):
            msg = (f'CTYPE{axis} = {ctype!r}: the distortion in the WAT '
                   'keywords is not supported; resample the map to TAN')
            raise MapError(msg)
        # astropy logs its doubts about polynomials without the suffix
        has_sip = 'A_ORDER' in made and ctype.endswith('-TAN')
        made[f'CTYPE{number}'] = f'{ctype}-SIP' if has_sip else ctype
    with np.errstate(all='ignore'):
        _recenter_longitude(made, shape, 1 if lon < lat else 2)
    wcs = make_wcs(made, 'the sky coordinates of the header (CTYPE, CRVAL, '
                         'CDELT, CD, PC, PV)')
    if not wcs.has_celestial:
        msg = ('no sky coordinates in the header: found CTYPE = '
               f'{made["CTYPE1"]!r}, {made["CTYPE2"]!r}')
        raise MapError(msg)
    wcs.array_shape = shape
    # check that the center of the map is on the sky, and the pixel scale
    with np.errstate(all='ignore'):
        center = wcs.pixel_to_world_values((shape[1] - 1) / 2,
                                           (shape[0] - 1) / 2)
        scale = pixel_scale(wcs, shape).value
        steps = 3600.0 * np.linalg.norm(wcs.pixel_scale_matrix, axis=0)
    if not np.all(np.isfinite(center)):
        msg = ('the center of the map is off the sky: check CRPIX, CDELT '
               'and CTYPE in the header')
        raise MapError(msg)
    if not (_SCALES[0] <= scale <= _SCALES[1] and steps.max() <= _SCALES[1]):
        msg = (f'the pixel scale of {scale:.3g} arcsec cannot be right: '
               'check CDELT or CD and CUNIT in the header')
        raise MapError(msg)
    return wcs


def select_axes(header, axes, *, strict=True):
    """
    Return a header with the ``CRVAL``, ``CRPIX``, ``CDELT``, ``CD``, and
    ``PC`` of the axes with these numbers, renumbered as 1, 2, ...

    Unless ``strict``, missing ``CRVAL``, ``CRPIX`` and ``CDELT`` have their
    defaults in FITS: 0, 0, and 1. Raises a `MapError` if something is
    missing, contradictory, or not a number, or if these axes depend on other
    axes.
    """
    made = fits.Header({'NAXIS': len(axes)})
    for number, axis in enumerate(axes, start=1):
        for name in ('CRVAL', 'CRPIX'):
            value = read_number(header, f'{name}{axis}',
                                None if strict else 0.0)
            if value is None:
                msg = f'no number {name}{axis} in the header: {_REMEDY}'
                raise MapError(msg)
            made[f'{name}{number}'] = value
    cd, pc = (_read_matrix(header, name, axes) for name in ('CD', 'PC'))
    # of all axes: wcslib does not read CD and PC of different axes as
    # separate matrices
    kinds = {key[:2]: key for key in header if _ELEMENT.fullmatch(key)}
    if len(kinds) == 2:
        msg = (f'{kinds["CD"]} and {kinds["PC"]} are both in the header: '
               f'remove the CD or the PC matrix; {_REMEDY}')
        raise MapError(msg)
    if 'CD' in kinds and not cd:
        msg = (f'{kinds["CD"]} is in the header, but no CD{axes[0]}_{axes[0]}'
               f', and FITS ignores CDELT{axes[0]} then: {_REMEDY}')
        raise MapError(msg)
    # missing elements are those of the unit matrix in PC, but 0 in CD
    # (FITS standard 4.0, section 8.1)
    matrix = (0.0 if cd else 1.0) * np.eye(len(axes))
    for i, j, value in (cd or pc).values():
        matrix[axes.index(i), axes.index(j)] = value
    # FITS sets CDELT to 1 if there is a PC matrix
    steps = _read_steps(header, axes, matrix if cd else None,
                        1.0 if pc or not strict else None)
    if cd or pc:
        made.update({f'{"CD" if cd else "PC"}{i + 1}_{j + 1}': float(value)
                     for (i, j), value in np.ndenumerate(matrix)})
    if not cd:
        made.update({f'CDELT{number}': step
                     for number, step in enumerate(steps, start=1)})
    return made


def _read_angle(header, key):
    """
    Return an angle in degrees, small enough to be precise, or `None`.
    """
    angle = read_number(header, key)
    if angle is not None and abs(angle) > _MAX_ANGLE:
        msg = f'{key} = {angle:g} is not an angle in degrees: {_REMEDY}'
        raise MapError(msg)
    return angle


def make_wcs(header, what):
    """
    Return the WCS of a checked header; ``what`` names its part in the error
    if astropy or wcslib does not accept it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', FITSFixedWarning)
            wcs = WCS(header)
            wcs.wcs.set()
    except _UNUSABLE as error:
        lines = [line for line in str(error).splitlines()
                 if line.strip() and not line.startswith('ERROR')]
        reason = lines[0].strip().rstrip('.') if lines else (
            type(error).__name__)
        msg = f'{what} cannot be used: {reason}'
        raise MapError(msg) from None
    return wcs


def _read_matrix(header, name, axes):
    """
    Return the elements of a matrix for these axes, by keyword.

    Elements that couple these axes to another one must be zero, unless
    that axis is at its reference, as an axis of length 1 is.
    """
    found = {}
    for key in header:
        match = _ELEMENT.fullmatch(key)
        if match is None or not key.startswith(name):
            continue
        i, j = (int(number) for number in match.groups() if number)
        if i not in axes:
            continue
        value = read_number(header, key)
        if j in axes:
            found[key] = (i, j, value)
        elif value and (read_number(header, f'CRPIX{j}', 0.0) != 1.0
                        or read_number(header, f'NAXIS{j}', 1.0) > 1):
            msg = (f'{key} = {value:g} mixes axis {j} into axis {i}: '
                   'a map and a cube have axes of their own for the sky; '
                   'resample it')
            raise MapError(msg)
    return found


def _read_steps(header, axes, matrix, default):
    """
    Return CDELT of the axes, `None` if it is missing; check it, and the CD
    matrix if there is one.
    """
    steps = [read_number(header, f'CDELT{axis}', default) for axis in axes]
    if matrix is None:
        if None in steps:
            missing = axes[steps.index(None)]
            msg = (f'no pixel scale in the header: CDELT{missing} is '
                   f'missing, and there is no matrix CD or PC; {_REMEDY}')
            raise MapError(msg)
        if 0.0 in steps:
            msg = (f'CDELT{axes[steps.index(0.0)]} = 0 is not a step: '
                   f'{_REMEDY}')
            raise MapError(msg)
        return steps
    with np.errstate(over='ignore', under='ignore', invalid='ignore'):
        area = abs(np.linalg.det(matrix))
        # many headers have both; CDELT = 1 or 0 is then a placeholder
        stated = (None not in steps and not {0.0, 1.0}.issuperset(steps)
                  and abs(np.prod(steps)))
    if not (np.isfinite(area) and area > 0.0):
        # wcslib would use pixels of one degree for an empty row
        msg = f'the CD matrix is singular: {_REMEDY}'
        raise MapError(msg)
    if stated and not np.isclose(area, stated, atol=0.0,
                                 rtol=_SCALE_TOLERANCE):
        names = ' and '.join(f'CDELT{axis}' for axis in axes)
        msg = (f'{names} contradict the CD matrix: remove the wrong ones; '
               f'{_REMEDY}')
        raise MapError(msg)
    return steps


def _copy_projection(made, header, lon, lat):
    for name in ('LONPOLE', 'LATPOLE'):
        value = _read_angle(header, name)
        if value is not None:
            made[name] = value
    numbers = {axis: i for i, axis in enumerate(sorted((lon, lat)), start=1)}
    # the rotation of old headers, which have no matrix: CROTA must not occur
    # with PC (FITS standard 4.0, section 8.1)
    for axis, number in numbers.items():
        angle = (None if 'CD1_1' in made
                 else _read_angle(header, f'CROTA{axis}'))
        if angle and 'PC1_1' in made:
            element = next(filter(_ELEMENT.fullmatch, header))
            msg = (f'CROTA{axis} and {element} are both in the header: '
                   f'remove the rotation or the matrix; {_REMEDY}')
            raise MapError(msg)
        if angle is not None and 'PC1_1' not in made:
            made[f'CROTA{number}'] = angle
    for key in header:
        match = re.fullmatch(r'PV0*(\d+)_(\d+)', key)
        if match and int(match[1]) in numbers:
            value = read_number(header, key)
            if abs(value) > _MAX_PARAMETER:
                msg = (f'{key} = {value:g} is not a parameter of a '
                       f'projection: {_REMEDY}')
                raise MapError(msg)
            made[f'PV{numbers[int(match[1])]}_{int(match[2])}'] = value


def _set_frame(made, header, lon):
    name = read_ctype(header, lon).split('-')[0]
    if name in {'GLON', 'SLON'}:
        # RADESYS has no effect on these frames, and is left out
        return
    key = 'RADESYS' if read_text(header, 'RADESYS') else 'RADECSYS'
    stated = read_text(header, key)
    radesys, implied, equinox = 'ICRS', None, None
    if stated:
        plain = re.sub(r'[^A-Z0-9]', '', stated.upper().replace('.0', ''))
        if plain not in _RADESYS:
            msg = (f'{key} = {stated!r} is not a frame that is supported '
                   f'(ICRS, FK5, FK4, FK4-NO-E): {_REMEDY}')
            raise MapError(msg)
        radesys, implied = _RADESYS[plain]
    if not stated or radesys != 'ICRS' or name == 'ELON':
        equinox, epoch_key = _read_equinox(header)
    # the defaults of Calabretta & Greisen 2002, section 3.1; ICRS if there
    # is neither RADESYS nor EQUINOX
    if not stated and equinox is not None:
        radesys = 'FK4' if equinox < 1984.0 else 'FK5'
    if None not in (implied, equinox) and implied != equinox:
        msg = (f'{key} = {stated!r} contradicts {epoch_key} = {equinox:g}: '
               f'{_REMEDY}')
        raise MapError(msg)
    if name == 'ELON' and radesys.startswith('FK4'):
        msg = (f'RADESYS, EQUINOX: ecliptic coordinates of {radesys} are not '
               'supported; reproject the map to ICRS')
        raise MapError(msg)
    made['RADESYS'] = radesys
    if radesys != 'ICRS' or name == 'ELON':
        default = 1950.0 if radesys.startswith('FK4') else 2000.0
        made['EQUINOX'] = implied or equinox or default


def _read_equinox(header):
    """
    Return the equinox in years and its keyword, `None` if it is missing.

    It may be text such as 'J2000'.
    """
    # EPOCH is the former name of EQUINOX (FITS standard 4.0, section 8.3)
    for key in ('EQUINOX', 'EPOCH'):
        if key not in header:
            continue
        try:
            year = read_number(header, key)
        except MapError:
            text = read_text(header, key).upper()
            match = re.fullmatch(r'[JB]?\s*(\d{4}(?:\.\d*)?)', text)
            if not text:
                continue
            year = float(match[1]) if match else np.nan
        if not _EQUINOXES[0] <= year <= _EQUINOXES[1]:
            msg = (f'{key} = {header[key]!r} is not an equinox such as '
                   f'2000.0: {_REMEDY}')
            raise MapError(msg)
        return year, key
    return None, ''


def _copy_distortion(made, header, axes):
    """
    Copy the polynomials of the SIP convention.

    Other distortions belong to the projection (TPV), or are refused.
    """
    for key in header:
        if re.match(r'(CPDIS|CQDIS|D2IMDIS|D2IMARR)', key):
            msg = (f'{key}: distortions in tables are not supported; '
                   'resample the map to a projection without them')
            raise MapError(msg)
    orders = _read_orders(header)
    if not {'A', 'B'} <= set(orders):
        return
    if axes != [1, 2]:
        msg = ('A_ORDER: SIP distortions belong to axes 1 and 2, but the sky '
               f'is on axes {axes[0]} and {axes[1]}: {_REMEDY}')
        raise MapError(msg)
    for name, order in orders.items():
        made[f'{name}_ORDER'] = order
        for i, j in np.ndindex(order + 1, order + 1):
            value = (read_number(header, f'{name}_{i}_{j}')
                     if i + j <= order else None)
            if value is not None:
                made[f'{name}_{i}_{j}'] = value


def _read_orders(header):
    """
    Return the orders of the SIP polynomials, which come in pairs.
    """
    orders = {}
    for name in ('A', 'B', 'AP', 'BP'):
        order = read_number(header, f'{name}_ORDER')
        if order is not None:
            if order not in range(_MAX_ORDER + 1):
                msg = (f'{name}_ORDER = {order:g} is not an order from 0 to '
                       f'{_MAX_ORDER}: {_REMEDY}')
                raise MapError(msg)
            orders[name] = int(order)
    for one, other in (('A', 'B'), ('AP', 'BP')):
        if (one in orders) != (other in orders):
            there, missing = ((one, other) if one in orders
                              else (other, one))
            msg = (f'{there}_ORDER is in the header without {missing}_ORDER: '
                   f'{_REMEDY}')
            raise MapError(msg)
    return orders


def _recenter_longitude(made, shape, lon):
    """
    Move the reference longitude to a map that is 180 degrees from it.

    wcslib returns no coordinates beyond the edge of the projection.
    """
    lat = 3 - lon
    plain = (made[f'CTYPE{lon}'].endswith(_CYLINDRICAL)
             and made[f'CRVAL{lat}'] == 0.0 and 'LONPOLE' not in made
             and 'LATPOLE' not in made and 'A_ORDER' not in made
             and not list(made['PV*']) and not list(made['CROTA*']))
    if not plain:
        return
    matrix = np.array([[made.get(f'CD{i}_{j}', made.get(
        f'PC{i}_{j}', float(i == j)) * made.get(f'CDELT{i}', 1.0))
        for j in (1, 2)] for i in (1, 2)])
    to_degrees = [u.Unit(made[f'CUNIT{i}']).to(u.deg) for i in (1, 2)]
    matrix *= np.array(to_degrees)[:, np.newaxis]
    # With CRVAL on the equator and the default LONPOLE, the native longitude
    # is x, and the celestial one is CRVAL + x (Calabretta & Greisen 2002,
    # equation 2 and section 5.2): both can be shifted together.
    reference = np.array([made['CRPIX1'], made['CRPIX2']]) - 1.0
    ny, nx = shape
    corners = np.array([[0, 0], [nx, 0], [0, ny], [nx, ny]]) - 0.5
    longitudes = (matrix @ (corners - reference).T)[lon - 1]
    middle = np.round(np.mean(longitudes))
    if (not 180.0 < np.abs(longitudes).max() < 1e6
            or np.linalg.det(matrix) == 0.0):
        return
    shift = np.zeros(2)
    shift[lon - 1] = middle
    made['CRPIX1'], made['CRPIX2'] = (
        1.0 + reference + np.linalg.solve(matrix, shift))
    made[f'CRVAL{lon}'] = (made[f'CRVAL{lon}'] + middle
                           / to_degrees[lon - 1])
