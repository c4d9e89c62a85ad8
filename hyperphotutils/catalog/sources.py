# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Lists of sources that are to be measured.
"""

import warnings
from contextlib import suppress
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import (
    ICRS,
    BaseCoordinateFrame,
    Galactic,
    SkyCoord,
)
from astropy.table import QTable, Table
from astropy.utils.exceptions import AstropyUserWarning

from hyperphotutils.catalog.formats import read_table
from hyperphotutils.catalog.hyper import frames_of_comments
from hyperphotutils.utils.gaussians import wrap_angle
from hyperphotutils.utils.wcs import position_angle_in_frame

__all__ = ['read_source_list']

# What the columns may be called, in lower case
_NAMES = {
    'id': ('id', 'hyper_id'),
    'sky': ('sky_centroid',),
    'ra': ('ra',),
    'dec': ('dec',),
    'glon': ('glon',),
    'glat': ('glat',),
    'fwhm_major': ('fwhm_1', 'fwhm_major_sky'),
    'fwhm_minor': ('fwhm_2', 'fwhm_minor_sky'),
    'position_angle': ('pa', 'position_angle'),
}
_EQUATORIAL = ('ra', 'dec')
_GALACTIC = ('glon', 'glat')
_SHAPE = ('fwhm_major', 'fwhm_minor', 'position_angle')
_UNITS = {'fwhm_major': u.arcsec, 'fwhm_minor': u.arcsec,
          'position_angle': u.deg}

# Units as IPAC tables and people spell them
_SPELLINGS = {'degree': u.deg, 'degrees': u.deg, 'arcseconds': u.arcsec,
              'arcsecs': u.arcsec, 'asec': u.arcsec, 'arcmins': u.arcmin,
              'arcminutes': u.arcmin, 'radian': u.rad, 'radians': u.rad}

# Two pairs of coordinates of the same source may differ by rounding
_AGREE = 10.0 * u.arcsec


def read_source_list(source=None, *, x=None, y=None, frame=None,
                     fwhm_major=None, fwhm_minor=None, position_angle=None,
                     format=None):  # noqa: A002
    """
    Read positions, and perhaps shapes, of sources to measure.

    They come either from a table or from lists of coordinates.

    Parameters
    ----------
    source : str, `~pathlib.Path`, `~astropy.table.Table` or `None`, optional
        A table, or the file of one. The case of the names of its columns
        does not matter. Those it needs are RA and DEC, or GLON and GLAT;
        or ``sky_centroid``, as in our own results. It may have ID (or
        HYPER_ID), else the sources are numbered from 1; and FWHM_1,
        FWHM_2 and PA (or ``fwhm_major_sky``, ``fwhm_minor_sky`` and
        ``position_angle``), where PA is the direction of FWHM_1, East of
        North. Columns without a unit are in degrees, FWHMs in arcsec.
        Other columns are ignored.

    x, y : array_like or `~astropy.units.Quantity`, optional
        Instead of a table, the longitudes and the latitudes, in degrees
        if they have no unit.

    frame : str, `~astropy.coordinates.BaseCoordinateFrame` or `None`, \
            optional
        The frame of the coordinates and of the North from which the
        position angles count, such as ``'icrs'``, ``'fk5'``, ``'fk4'``
        or ``'galactic'``. It is needed with ``x`` and ``y``. For a table
        the default is what the comments of its file say, if it is one of
        ours; ICRS for RA and DEC; and Galactic for GLON and GLAT. It
        decides for tables with both pairs.

    fwhm_major, fwhm_minor : float, array_like or Quantity, optional
        The FWHMs along and across ``position_angle``, in arcsec if they
        have no unit: one for all sources or one for each. Only for lists
        and for tables without shapes.

    position_angle : float, array_like or Quantity, optional
        The position angles East of North, in degrees if they have no
        unit. They may be left out for circles.

    format : str or `None`, optional
        The format of the file; from its suffix or its beginning if
        `None` (default). See `read_catalog`.

    Returns
    -------
    table : `~astropy.table.QTable`
        One row per source: ``id``, ``sky_centroid``
        (`~astropy.coordinates.SkyCoord`) and, if they are known,
        ``fwhm_major_sky``, ``fwhm_minor_sky`` (arcsec, the larger first)
        and ``position_angle`` (degrees in [0, 180), in the frame of
        ``sky_centroid``). The metadata name the file. Rows without a
        position are kept as NaN; without a shape, their shape is NaN.

    Raises
    ------
    TypeError
        If ``source`` is neither a file nor a table.

    ValueError
        If the file is no table; a needed column is missing; a column is
        not of numbers or has a unit that is not an angle; two rows have
        the same ID; a width is not positive; a latitude is beyond a
        pole; the options exclude each other; or there is no source.

    FileNotFoundError
        If there is no such file.

    See Also
    --------
    hyperphotutils.utils.sources_to_pixels

    Examples
    --------
    >>> from hyperphotutils.catalog import read_source_list
    >>> table = read_source_list(x=[10.0, 10.1], y=[-5.0, -5.1],
    ...                          frame='galactic', fwhm_major=12,
    ...                          fwhm_minor=[8, 15], position_angle=20)
    >>> print(table['fwhm_major_sky'], table['position_angle'])
    [12. 15.] arcsec [ 20. 110.] deg
    """
    shape = {'fwhm_major': fwhm_major, 'fwhm_minor': fwhm_minor,
             'position_angle': position_angle}
    shape = {name: value for name, value in shape.items()
             if value is not None}
    if source is not None and (x is not None or y is not None):
        msg = ('source and x, y exclude each other: give a table or lists of '
               'positions')
        raise ValueError(msg)
    if source is None:
        where = 'the lists of positions'
        ids, sky = _read_lists(x, y, frame)
    else:
        where, table = _open_table(source, format)
        ids, sky, found = _read_columns(table, frame, where)
        if found and shape:
            msg = (f'{where} has shapes already: leave out '
                   f'{", ".join(shape)}')
            raise ValueError(msg)
        shape = found or shape
    if len(sky) == 0:
        msg = f'{where} has no sources'
        raise ValueError(msg)
    result = QTable({'id': ids, 'sky_centroid': sky})
    if shape:
        _add_shapes(result, shape, where)
    if isinstance(source, str | Path):
        result.meta['source_list'] = str(source)
    return result


def _read_lists(x, y, frame):
    if x is None or y is None:
        missing = [name for name, value in (('x', x), ('y', y))
                   if value is None]
        msg = ('a table or the lists x and y are needed: '
               f'{", ".join(missing)} missing')
        raise ValueError(msg)
    if frame is None:
        msg = ("frame is needed with x and y: give 'icrs', 'fk5', 'fk4' or "
               "'galactic'")
        raise ValueError(msg)
    lon = _angles(np.atleast_1d(x), u.deg, 'x')
    lat = _angles(np.atleast_1d(y), u.deg, 'y')
    if lon.shape != lat.shape or lon.ndim != 1:
        msg = ('x and y must be lists of the same length: got the shapes '
               f'{lon.shape} and {lat.shape}')
        raise ValueError(msg)
    sky = _make_sky(lon, lat, _read_frame(frame), 'x', 'y')
    return np.arange(1, len(lon) + 1), sky


def _open_table(source, format):  # noqa: A002
    # how to call the table in messages, and the table
    if isinstance(source, Table):
        return 'the table of sources', source
    if not isinstance(source, str | Path):
        msg = ('source must be a file or an astropy Table: got '
               f'{type(source).__name__}')
        raise TypeError(msg)
    with warnings.catch_warnings():
        # columns that matter are checked one by one
        warnings.simplefilter('ignore', u.UnitsWarning)
        warnings.filterwarnings('ignore', '(?s).*has a unit but is kept',
                                AstropyUserWarning)
        warnings.filterwarnings('ignore', '(?s).*Invalid unit string')
        return f"'{source}'", read_table(source, format=format)


def _read_columns(table, frame, where):
    # the IDs, the positions and the columns of shapes that there are
    columns = _find_columns(table, where)
    ids = _read_ids(table, columns, where)
    sky, north = _read_sky(table, columns, frame, where)
    shape = {}
    for key in _SHAPE:
        if key in columns:
            name = columns[key]
            shape[key] = _angles(table[name], _UNITS[key], name, where)
    if 'position_angle' in shape and north is not None:
        shape['position_angle'] = position_angle_in_frame(
            sky.transform_to(north), shape['position_angle'], sky.frame)
    # an angle alone is no shape
    return ids, sky, shape if set(shape) - {'position_angle'} else {}


def _find_columns(table, where):
    # the name in the table by the key of _NAMES
    columns = {}
    for key, names in _NAMES.items():
        found = [name for name in table.colnames if name.lower() in names]
        if len(found) > 1:
            msg = (f'{where} has several columns for {key.upper()}: '
                   f'{", ".join(found)}')
            raise ValueError(msg)
        if found:
            columns[key] = found[0]
    pairs = (_EQUATORIAL, _GALACTIC)
    if 'sky' not in columns and not any(
            first in columns and second in columns
            for first, second in pairs):
        halves = [name.upper() for pair in pairs for name in pair
                  if name not in columns
                  and set(pair) & set(columns)]
        needed = ' and '.join(halves) or 'RA and DEC, or GLON and GLAT'
        msg = (f'{where} needs the columns of positions, {needed}: it has '
               f'{", ".join(table.colnames) or "no columns"}')
        raise ValueError(msg)
    return columns


def _read_ids(table, columns, where):
    if 'id' not in columns:
        return np.arange(1, len(table) + 1)
    column = table[columns['id']]
    if np.any(getattr(column, 'mask', False)):
        row = int(np.argmax(column.mask))
        msg = f"{where}: column {columns['id']} has no value in row {row}"
        raise ValueError(msg)
    ids = np.asarray(column)
    if ids.dtype.kind == 'S':
        ids = np.char.decode(ids, 'utf-8')
    values, counts = np.unique(ids, return_counts=True)
    if np.any(counts > 1):
        twice = values[counts > 1]
        rows = np.flatnonzero(ids == twice[0])
        msg = (f'{where}: each ID must be unique: {twice[0]} is in the rows '
               f'{", ".join(map(str, rows[:5]))}'
               + (f', and {len(twice) - 1} more IDs are not unique'
                  if len(twice) > 1 else ''))
        raise ValueError(msg)
    return ids


def _read_sky(table, columns, frame, where):
    # the positions, and the frame of the angles if it is another one;
    # a frame without data is false, so all are compared with None
    frame = None if frame is None else _read_frame(frame)
    if 'sky' in columns:
        sky = table[columns['sky']]
        if not isinstance(sky, SkyCoord):
            msg = (f"{where}: column {columns['sky']} must be a SkyCoord: "
                   f'got {type(sky).__name__}')
            raise ValueError(msg)
        if getattr(sky, 'masked', False):
            lon, lat = (_angles(angle, u.deg, columns['sky'], where)
                        for angle in (sky.spherical.lon, sky.spherical.lat))
            sky = SkyCoord(lon, lat,
                           frame=sky.frame.replicate_without_data())
        if frame is not None and not sky.is_equivalent_frame(frame):
            msg = (f'frame is {frame.name} but the positions of {where} are '
                   f'in {sky.frame.name}: leave out frame')
            raise ValueError(msg)
        return sky, None
    stated, north = frames_of_comments(table) or (None, None)
    pair = _choose_pair(columns, north if frame is None else frame, where)
    if pair == _GALACTIC:
        own = Galactic()
    else:
        own = _equatorial_frame(stated, frame, where)
    sky = _read_pair(table, columns, pair, own, where)
    if pair == _EQUATORIAL and set(_GALACTIC) <= set(columns):
        _check_pairs(sky, _read_pair(table, columns, _GALACTIC, Galactic(),
                                     where), where)
    if north is None or sky.is_equivalent_frame(north):
        return sky, None
    return sky, north


def _equatorial_frame(stated, given, where):
    # the frame of RA and DEC: as the file states, as given, or ICRS
    if stated is None:
        return ICRS() if given is None else given
    if given is not None and not stated.is_equivalent_frame(given):
        msg = (f'frame is {given.name} but RA and DEC of {where} are in '
               f'{stated.name}: leave out frame')
        raise ValueError(msg)
    return stated


def _choose_pair(columns, frame, where):
    # the keys of longitude and latitude
    pairs = [pair for pair in (_EQUATORIAL, _GALACTIC)
             if set(pair) <= set(columns)]
    if frame is None:
        return pairs[0]
    wanted = _GALACTIC if frame.name == 'galactic' else _EQUATORIAL
    if wanted not in pairs:
        names = ' and '.join(columns[key] for key in pairs[0])
        msg = (f'frame is {frame.name} but the positions of {where} are '
               f'{names}')
        raise ValueError(msg)
    return wanted


def _read_pair(table, columns, pair, frame, where):
    lon, lat = (_angles(table[columns[key]], u.deg, columns[key], where)
                for key in pair)
    return _make_sky(lon, lat, frame, *(columns[key] for key in pair), where)


def _check_pairs(sky, galactic, where):
    # RA and DEC taken for ICRS may be of 1950
    distance = sky.separation(galactic.transform_to(sky.frame))
    if np.any(distance > _AGREE):
        row = int(np.nanargmax(distance))
        msg = (f'{where}: RA, DEC in {sky.frame.name} and GLON, GLAT are '
               f'{distance[row].to(u.arcsec):.4g} apart in row {row}: give '
               'the right frame')
        raise ValueError(msg)


def _make_sky(lon, lat, frame, lon_name, lat_name, where='the lists'):
    for values, limit, name in ((lon, 360.0, lon_name),
                                (lat, 90.0, lat_name)):
        beyond = np.abs(values.to_value(u.deg)) > limit
        if np.any(beyond):
            row = int(np.argmax(beyond))
            msg = (f'{where}: {name} must be within {limit:.0f} deg: got '
                   f'{values[row]} in row {row}')
            raise ValueError(msg)
    # a position without one of its angles is none
    bad = ~np.isfinite(lon) | ~np.isfinite(lat)
    lon, lat = (np.where(bad, np.nan, values) for values in (lon, lat))
    return SkyCoord(lon, lat, frame=frame)


def _read_frame(frame):
    if isinstance(frame, BaseCoordinateFrame | SkyCoord):
        return getattr(frame, 'frame', frame).replicate_without_data()
    try:
        blank = SkyCoord(0, 0, unit='deg', frame=frame)
    except (ValueError, TypeError):
        msg = ("frame must be 'icrs', 'fk5', 'fk4', 'galactic' or another "
               f'celestial frame: got {frame!r}')
        raise ValueError(msg) from None
    return blank.frame.replicate_without_data()


def _angles(column, unit, name, where='the lists'):
    # a column as 64-bit angles, NaN where there is no value
    own = getattr(column, 'unit', None)
    if isinstance(own, u.UnrecognizedUnit):
        own = _SPELLINGS.get(str(own).strip().lower(), own)
    if own is None or own == u.dimensionless_unscaled:
        own = unit
    if not own.is_equivalent(u.deg):
        msg = (f"{where}: the unit '{own}' of {name} is no angle such as "
               "'deg' or 'arcsec'")
        raise ValueError(msg)
    values = getattr(column, 'value', column)
    mask = getattr(values, 'mask', False)
    values = np.asarray(getattr(values, 'unmasked', values))
    if values.dtype.kind in 'US':
        values = _parse_numbers(values)
    if values.dtype.kind not in 'fiu':
        text = f': got {values.flat[0]!s}' if values.size else ''
        msg = f'{where}: {name} must be numbers, in {own}{text}'
        raise ValueError(msg)
    values = np.where(mask, np.nan, values.astype(float))
    values = np.where(np.isfinite(values), values, np.nan)
    return u.Quantity(values, own).to(unit)


def _parse_numbers(texts):
    # texts as they are if they are no numbers; blank ones are NaN
    blank = np.char.strip(texts.astype(str)) == ''
    with suppress(ValueError):
        return np.where(blank, 'nan', texts.astype(str)).astype(float)
    return texts


def _add_shapes(table, shape, where):
    # in place; the larger axis first
    n_rows = len(table)
    if 'fwhm_major' not in shape or 'fwhm_minor' not in shape:
        msg = (f'{where}: FWHM_1 and FWHM_2 must both be given, equal ones '
               f'for circles: got {", ".join(shape)}')
        raise ValueError(msg)
    values = {}
    for name, value in shape.items():
        value = _angles(value, _UNITS[name], name, where)
        if value.ndim and value.shape != (n_rows,):
            msg = (f'{name} must be one value or one for each of the '
                   f'{n_rows} sources: got {len(value)}')
            raise ValueError(msg)
        values[name] = np.array(np.broadcast_to(value.value, n_rows))
    major, minor = values['fwhm_major'], values['fwhm_minor']
    for name, width in (('FWHM_1', major), ('FWHM_2', minor)):
        if np.any(width <= 0):
            row = int(np.argmax(width <= 0))
            msg = (f'{where}: {name} must be positive: got {width[row]} in '
                   f'row {row}')
            raise ValueError(msg)
    if 'position_angle' not in values and np.any(
            np.abs(major - minor) > 1e-6 * major):
        msg = f'{where}: ellipses need PA, the direction of FWHM_1'
        raise ValueError(msg)
    angle = values.get('position_angle', np.zeros(n_rows))
    angle = wrap_angle(np.where(minor > major, angle + 90.0, angle))
    table['fwhm_major_sky'] = np.maximum(major, minor) * u.arcsec
    table['fwhm_minor_sky'] = np.minimum(major, minor) * u.arcsec
    table['position_angle'] = angle * u.deg
