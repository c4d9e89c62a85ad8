# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reading of source lists.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import QTable, Table
from numpy.typing import ArrayLike

from hyperphotutils.catalog.angles import as_text, read_angles, show_value
from hyperphotutils.catalog.errors import CatalogError
from hyperphotutils.catalog.formats import read_table
from hyperphotutils.catalog.positions import (
    is_equatorial,
    make_sky,
    read_frame,
    read_positions,
)
from hyperphotutils.utils.gaussians import wrap_angle
from hyperphotutils.utils.wcs import position_angle_in_frame

if TYPE_CHECKING:
    from astropy.coordinates import BaseCoordinateFrame

    from hyperphotutils.utils.typing import FilePath

__all__ = ['read_source_list']

# Accepted names of columns other than positions, in lower case
_NAMES = {
    'id': ('id', 'hyper_id'),
    'fwhm_major': ('fwhm_1', 'fwhm_major_sky'),
    'fwhm_minor': ('fwhm_2', 'fwhm_minor_sky'),
    'position_angle': ('pa', 'position_angle'),
}
_SHAPE = ('fwhm_major', 'fwhm_minor', 'position_angle')
_UNITS = {'fwhm_major': u.arcsec, 'fwhm_minor': u.arcsec,
          'position_angle': u.deg}


def read_source_list(source: FilePath | Table | None = None, *,
                     x: ArrayLike | u.Quantity | None = None,
                     y: ArrayLike | u.Quantity | None = None,
                     frame: str | BaseCoordinateFrame | None = None,
                     fwhm_major: ArrayLike | u.Quantity | None = None,
                     fwhm_minor: ArrayLike | u.Quantity | None = None,
                     position_angle: ArrayLike | u.Quantity | None = None,
                     format: str | None = None) -> QTable:  # noqa: A002
    """
    Read positions, and optionally shapes, of sources to measure.

    They are given either as a table or as lists of coordinates.

    Parameters
    ----------
    source : str, `~pathlib.Path`, `~astropy.table.Table` or `None`, optional
        A table, or its file. The names of its columns are not case
        sensitive. Positions are required: a
        `~astropy.coordinates.SkyCoord`, such as ``sky_centroid`` of a
        result, or a pair of columns (see Notes). Optional are ID (or
        HYPER_ID), without which the sources are numbered from 1; and
        FWHM_1, FWHM_2 and PA (or ``fwhm_major_sky``, ``fwhm_minor_sky``
        and ``position_angle``), where PA is the direction of FWHM_1,
        east of north. Columns without a unit are in degrees, FWHMs in
        arcsec. Other columns are ignored.

    x, y : array_like or `~astropy.units.Quantity`, optional
        The longitudes and latitudes instead of a table, in degrees if
        they have no unit.

    frame : str, `~astropy.coordinates.BaseCoordinateFrame` or `None`, \
            optional
        The frame of the coordinates and of the North for the position
        angles, such as ``'icrs'``, ``'fk5'``, ``'fk4'`` or
        ``'galactic'``. It is required with ``x`` and ``y``. For a table
        the default is the frame stated by the names of the columns or by
        the file, and ICRS for RA and DEC without a frame. It selects one
        of several pairs of columns.

    fwhm_major, fwhm_minor : float, array_like or Quantity, optional
        The FWHMs along and across ``position_angle``, in arcsec if they
        have no unit: one value for all sources or one per source. Only
        for lists and for tables without shapes.

    position_angle : float, array_like or Quantity, optional
        The position angles east of north, in degrees if they have no
        unit. Optional for circles.

    format : str or `None`, optional
        The format of the file. If `None` (default), it is found from the
        suffix or the content. See `read_catalog`.

    Returns
    -------
    table : `~astropy.table.QTable`
        One row per source: ``id``, ``sky_centroid``
        (`~astropy.coordinates.SkyCoord`) and, if known,
        ``fwhm_major_sky``, ``fwhm_minor_sky`` (arcsec, the larger first)
        and ``position_angle`` (degrees in [0, 180), in the frame of
        ``sky_centroid``). The metadata name the file. Rows without a
        position or shape are kept, with NaN.

    Raises
    ------
    TypeError
        If ``source`` is neither a file nor a table.

    CatalogError
        If the file is not a table; a required column is missing; a
        column is not numeric or has a unit that is not an angle; two
        rows have the same ID; a width is not positive; a latitude is
        beyond a pole; ``frame`` differs from that of the positions; or
        there is no source.

    ValueError
        If the arguments exclude each other.

    FileNotFoundError
        If there is no such file.

    See Also
    --------
    hyperphotutils.utils.sources_to_pixels

    Notes
    -----
    Positions are read from these pairs of columns, named as in VizieR,
    TOPCAT, SExtractor, Gaia, and the catalogs of this package. Case and
    underscores are ignored.

    ===========================  =========================================
    Columns                      Frame
    ===========================  =========================================
    RA, DEC (RA, DE)             as the file states, else ICRS
    RA_ICRS, DE_ICRS             ICRS
    RAJ2000, DEJ2000,            as the file states, else FK5 J2000
    RA_2000, Dec_2000,
    ALPHA_J2000, DELTA_J2000
    RAB1950, DEB1950             FK4 B1950
    GLON, GLAT (l, b)            Galactic
    ELON, ELAT                   barycentric mean ecliptic of J2000
    SGL, SGB                     Supergalactic
    ALPHA_SKY, DELTA_SKY         that of the map: ``frame`` is needed
    ===========================  =========================================

    A file states the frame by the COOSYS of a VOTable, the description
    of a column (``'(FK5, Equinox=J2000.0)'``), RADESYS or EQUINOX in a
    header, or the comments of catalogs of this package. Several pairs of
    numbers must agree within 10 arcsec.

    Angles are numbers with a unit (degrees by default, hours for ``h``),
    or sexagesimal strings such as ``05:35:14.5``, ``05 35 14.5`` or
    ``5h35m14.5s``: hours for right ascensions and degrees for all others
    unless their letters or the unit (``h:m:s``, ``d:m:s``) state it.

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
        if isinstance(source, Table):
            where, table = 'the table of sources', source
        elif isinstance(source, str | Path):
            where, table = f"'{source}'", read_table(source, format=format)
        else:
            msg = ('source must be a file or an astropy Table: got '
                   f'{type(source).__name__}')
            raise TypeError(msg)
        ids, sky, found = _read_columns(table, frame, where)
        if found and shape:
            msg = (f'{where} has shapes already: leave out '
                   f'{", ".join(shape)}')
            raise ValueError(msg)
        shape = found or shape
    if len(sky) == 0:
        msg = f'{where} has no sources'
        raise CatalogError(msg)
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
    frame = read_frame(frame)
    hours = is_equatorial(frame)
    lon = read_angles(np.atleast_1d(x), u.deg, 'x',
                      sexagesimal=u.hourangle if hours else u.deg)
    lat = read_angles(np.atleast_1d(y), u.deg, 'y', sexagesimal=u.deg)
    if lon.shape != lat.shape or lon.ndim != 1:
        msg = ('x and y must be lists of the same length: got the shapes '
               f'{lon.shape} and {lat.shape}')
        raise ValueError(msg)
    sky = make_sky(lon, lat, frame, 'x', 'y')
    return np.arange(1, len(lon) + 1), sky


def _read_columns(table, frame, where):
    # the IDs, the positions, and the columns of shapes, if any
    columns = {}
    for key, names in _NAMES.items():
        found = [name for name in table.colnames if name.lower() in names]
        if len(found) > 1:
            msg = (f'{where} has several columns for {key.upper()}: '
                   f'{", ".join(found)}')
            raise CatalogError(msg)
        if found:
            columns[key] = found[0]
    ids = _read_ids(table, columns, where)
    sky, north = _read_sky(table, frame, where)
    shape = {}
    for key in _SHAPE:
        if key in columns:
            name = columns[key]
            shape[key] = read_angles(table[name], _UNITS[key], name, where)
    if 'position_angle' in shape and north is not None:
        shape['position_angle'] = position_angle_in_frame(
            sky.transform_to(north), shape['position_angle'], sky.frame)
    # an angle without widths is not a shape
    return ids, sky, shape if set(shape) - {'position_angle'} else {}


def _read_ids(table, columns, where):
    if 'id' not in columns:
        return np.arange(1, len(table) + 1)
    name = columns['id']
    column = table[name]
    if np.any(getattr(column, 'mask', False)):
        row = int(np.argmax(column.mask))
        msg = f'{where}: column {name} has no value in row {row}'
        raise CatalogError(msg)
    ids = np.asarray(getattr(column, 'value', column))
    if ids.dtype.kind in 'SO' and all(isinstance(value, str | bytes)
                                      for value in ids.flat):
        ids = np.array([as_text(value) for value in ids.tolist()], dtype=str)
    # (a column of integers with missing values is often stored as floats)
    if ids.dtype.kind == 'f' and np.all(np.abs(ids) < 2**53) and np.all(
            ids == np.round(ids)):
        ids = ids.astype(np.int64)
    if ids.ndim != 1 or ids.dtype.kind not in 'iuU':
        shown = show_value(ids.flat[0]) if ids.size else ids.dtype
        msg = (f'{where}: column {name} must be whole numbers or texts: got '
               f'{shown}')
        raise CatalogError(msg)
    values, counts = np.unique(ids, return_counts=True)
    if np.any(counts > 1):
        twice = values[counts > 1]
        rows = np.flatnonzero(ids == twice[0])
        shown = (show_value(twice[0]) if ids.dtype.kind == 'U'
                 else str(twice[0]))
        msg = (f'{where}: each ID must be unique: {shown} is in the rows '
               f'{", ".join(map(str, rows[:5]))}'
               + (f', and {len(twice) - 1} more IDs are not unique'
                  if len(twice) > 1 else ''))
        raise CatalogError(msg)
    return ids


def _read_sky(table, frame, where):
    # the positions, and the frame of the angles if it differs; a frame
    # without data is false, so compare with None
    frame = None if frame is None else read_frame(frame)
    named = [name for name in table.colnames
             if name.lower() == 'sky_centroid']
    found = named or [name for name in table.colnames
                      if isinstance(table[name], SkyCoord)]
    if len(found) > 1:
        msg = (f'{where} has several columns of positions: '
               f'{", ".join(found)}; name the one to use sky_centroid')
        raise CatalogError(msg)
    if not found:
        return read_positions(table, frame, where)
    name = found[0]
    sky = table[name]
    if not isinstance(sky, SkyCoord) or sky.ndim != 1:
        msg = (f'{where}: column {name} must be a SkyCoord with one position '
               f'per row: got {type(sky).__name__}')
        raise CatalogError(msg)
    try:
        own = read_frame(sky)
    except ValueError:
        msg = (f'{where}: the positions of {name} are in {sky.frame.name}, '
               'which moves with the Earth: transform them to ICRS')
        raise CatalogError(msg) from None
    if frame is not None and not own.is_equivalent_frame(frame):
        msg = (f'frame is {frame.name} but the positions of {where} are '
               f'in {own.name}: leave out frame')
        raise CatalogError(msg)
    # without distances, masks, and proper motions
    lon, lat = (read_angles(angle, u.deg, name, where)
                for angle in (sky.spherical.lon, sky.spherical.lat))
    return make_sky(lon, lat, own, name, name, where), None


def _add_shapes(table, shape, where):
    # in place; the larger axis comes first
    n_rows = len(table)
    if 'fwhm_major' not in shape or 'fwhm_minor' not in shape:
        msg = (f'{where}: FWHM_1 and FWHM_2 must both be given, equal ones '
               f'for circles: got {", ".join(shape)}')
        raise CatalogError(msg)
    values = {}
    for name, value in shape.items():
        value = read_angles(value, _UNITS[name], name, where)
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
            raise CatalogError(msg)
    if 'position_angle' not in values and np.any(
            np.abs(major - minor) > 1e-6 * major):
        msg = f'{where}: ellipses need PA, the direction of FWHM_1'
        raise CatalogError(msg)
    angle = values.get('position_angle', np.zeros(n_rows))
    angle = wrap_angle(np.where(minor > major, angle + 90.0, angle))
    table['fwhm_major_sky'] = np.maximum(major, minor) * u.arcsec
    table['fwhm_minor_sky'] = np.minimum(major, minor) * u.arcsec
    table['position_angle'] = angle * u.deg
