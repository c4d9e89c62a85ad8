# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Position columns in tables of other programs, and their frames.
"""

import re
from dataclasses import dataclass
from itertools import product

import astropy.units as u
import numpy as np
from astropy.coordinates import (
    CIRS,
    FK4,
    FK5,
    GCRS,
    ICRS,
    ITRS,
    TEME,
    TETE,
    AltAz,
    BarycentricMeanEcliptic,
    BaseCoordinateFrame,
    Galactic,
    HADec,
    PrecessedGeocentric,
    SkyCoord,
    Supergalactic,
)

from hyperphotutils.catalog.angles import read_angles
from hyperphotutils.catalog.errors import CatalogError
from hyperphotutils.catalog.hyper import frames_of_comments
from hyperphotutils.utils.tables import list_columns

__all__ = ['PositionColumns', 'find_positions', 'is_equatorial', 'make_sky',
           'read_frame', 'read_positions']

_J2000 = FK5()
# Frames by the suffix of a name after its stem; None without a suffix
_TAGS = {'': None, 'deg': None, 'icrs': ICRS(), 'icrsdeg': ICRS(),
         'fk5': _J2000, 'j2000': _J2000, '2000': _J2000,
         'j2000deg': _J2000, 'fk4': FK4(), 'b1950': FK4(), '1950': FK4()}
_EQUATORIAL_STEMS = (('ra', 'dec'), ('ra', 'de'), ('ra', 'decl'),
                     ('rightascension', 'declination'), ('alpha', 'delta'),
                     ('alphawin', 'deltawin'), ('alphapeak', 'deltapeak'),
                     ('alphapsf', 'deltapsf'))
# SExtractor: in the frame of the map
_NATIVE = (('alphasky', 'deltasky'), ('alphawinsky', 'deltawinsky'),
           ('alphapeaksky', 'deltapeaksky'))
_OTHERS = (
    (Galactic(), (('glon', 'glat'), ('glondeg', 'glatdeg'), ('l', 'b'),
                  ('lii', 'bii'), ('gallon', 'gallat'))),
    (BarycentricMeanEcliptic(), (('elon', 'elat'), ('ecllon', 'ecllat'))),
    (Supergalactic(), (('sgl', 'sgb'), ('sglon', 'sglat'))),
)

# Frames that rotate or move with the Earth, in which sources are not fixed
_MOVING = (AltAz, CIRS, GCRS, HADec, ITRS, PrecessedGeocentric, TEME, TETE)

# Length limit of the names of columns in a message, in characters
_MAX_LENGTH = 500

# Two pairs of coordinates of the same source may differ by rounding; those
# of B1950 and J2000, by up to 0.7 deg of precession
_AGREE = 10.0 * u.arcsec


@dataclass(eq=False)
class PositionColumns:
    """
    Class for two columns of a table that are a position.

    ``frame`` is that of the table; `None` for RA and DEC without a frame and
    for columns in the frame of the map. ``equatorial`` is true for right
    ascension and declination, ``native`` for columns in the frame of the
    map, and ``by_name`` if only the names tell the frame.
    """

    lon: str
    lat: str
    frame: BaseCoordinateFrame | None
    equatorial: bool = False
    native: bool = False
    by_name: bool = True

    @property
    def names(self):
        """
        The names for messages.
        """
        return f'{self.lon} and {self.lat}'


# Frame, equatorial, native by the canonical names, in order of preference
_KNOWN = {(lon + tag, lat + tag): (frame, True, False)
          for (tag, frame), (lon, lat) in product(
              sorted(_TAGS.items(), key=lambda item: item[1] is None),
              _EQUATORIAL_STEMS)}
for _frame, _pairs in _OTHERS:
    _KNOWN |= dict.fromkeys(_pairs, (_frame, False, False))
_KNOWN |= dict.fromkeys(_NATIVE, (None, True, True))
_HALVES = {name: pair for pair in reversed(_KNOWN) for name in pair}


def _canonical(name):
    return re.sub(r'[^a-z0-9]', '', name.lower())


def find_positions(table, where):
    """
    Return the `PositionColumns` of a table in order of preference.

    These are equatorial pairs whose names state the frame, then RA and DEC,
    then those of other frames; columns computed by VizieR before the
    original ones. Raises a `CatalogError` if there is none, or a column
    occurs twice.

    Examples
    --------
    >>> from astropy.table import Table
    >>> from hyperphotutils.catalog.positions import find_positions
    >>> table = Table({'GLON': [1], 'GLAT': [2], 'RAJ2000': [3],
    ...                'DEJ2000': [4]})
    >>> for pair in find_positions(table, 'the table'):
    ...     print(pair.names, pair.frame.name)
    RAJ2000 and DEJ2000 fk5
    GLON and GLAT galactic
    """
    names = {}
    for name in table.colnames:
        # columns computed by VizieR begin with '_'; the components of a
        # SkyCoord written to a file are named like 'sky.ra'
        groups = [(name.startswith('_'), _canonical(name))]
        if '.' in name:
            stem, _, tail = name.rpartition('.')
            groups.append((stem, _canonical(tail)))
        for group in groups:
            names.setdefault(group, []).append(name)
    groups = sorted({group for group, _ in names},
                    key=lambda group: (group is not True, str(group)))
    pairs = []
    for (lon, lat), (frame, equatorial, native) in _KNOWN.items():
        for group in groups:
            found = [names.get((group, half), []) for half in (lon, lat)]
            if not all(found):
                continue
            twice = max(found, key=len)
            if len(twice) > 1:
                half = (lon, lat)[found.index(twice)]
                msg = (f'{where} has several columns for {half.upper()}: '
                       f'{", ".join(twice)}')
                raise CatalogError(msg)
            pairs.append(PositionColumns(found[0][0], found[1][0], frame,
                                         equatorial, native))
    if pairs:
        return pairs
    canonical = [_canonical(name) for name in table.colnames]
    halves = [half.upper() for name in canonical if name in _HALVES
              for half in _HALVES[name] if half not in canonical]
    needed = (' and '.join(dict.fromkeys(halves))
              or 'RA and DEC, or GLON and GLAT')
    has = list_columns(table)
    has = has if len(has) <= _MAX_LENGTH else (
        f'{has[:_MAX_LENGTH]}... ({len(table.colnames)} columns)')
    msg = f'{where} needs the columns of positions, {needed}: it has {has}'
    # as astropy writes a SkyCoord to IPAC and CSV
    both = [name for name in table.colnames
            if getattr(table[name], 'dtype', np.dtype('O')).kind == 'U'
            and len(table) > 0 and re.fullmatch(
                r'[+-]?[\d.]+,[+-]?[\d.]+', str(table[name][0]))]
    if both:
        msg += (f'; {both[0]} has both angles in one text: make it two '
                'columns, or write the table as ECSV')
    raise CatalogError(msg)


def read_positions(table, frame, where):
    """
    Return the positions of a table as a
    `~astropy.coordinates.SkyCoord`, and the frame of its position angles,
    if it differs.

    ``frame`` is that given by the user, or `None`; ``where`` names the table
    in messages.

    Examples
    --------
    >>> from astropy.table import Table
    >>> from hyperphotutils.catalog.positions import read_positions
    >>> table = Table({'_RAB1950': ['05 32 46.8'],
    ...                '_DEB1950': ['-05 25 10']})
    >>> sky, _ = read_positions(table, None, 'the table')
    >>> print(sky.frame.name, sky.icrs.to_string('hmsdms', precision=0))
    fk4 ['05h35m14s -05d23m17s']
    """
    pairs = find_positions(table, where)
    comments, north = frames_of_comments(table) or (None, None)
    for pair in pairs:
        if pair.equatorial:
            _state_frame(pair, table, comments, where)
    pair = _choose(pairs, frame, north, where)
    own = pair.frame
    if own is None or (frame is not None and pair.by_name):
        own = ICRS() if frame is None else frame
    sky = _read_pair(table, pair, own, where)
    # RA and DEC without a frame may be B1950 instead of ICRS; strings are
    # rounded, and need not agree
    for other in pairs:
        if other is pair or other.frame is None or any(
                getattr(table[name], 'dtype', np.dtype('O')).kind not in 'fiu'
                for name in (pair.lon, pair.lat, other.lon, other.lat)):
            continue
        try:
            same = _read_pair(table, other, other.frame, where)
        except CatalogError:
            continue  # the pair was not requested
        distance = sky.separation(same.transform_to(sky.frame))
        if np.any(distance > _AGREE):
            row = int(np.nanargmax(distance))
            msg = (f'{where}: {pair.lon}, {pair.lat} in {sky.frame.name} and '
                   f'{other.lon}, {other.lat} are '
                   f'{distance[row].to(u.arcsec):.4g} apart in row {row}: '
                   'give the right frame')
            raise CatalogError(msg)
    if north is None or sky.is_equivalent_frame(north):
        return sky, None
    return sky, north


def _state_frame(pair, table, comments, where):
    # in place; the statement of the file is more specific than the names
    stated = None
    if comments is not None and (pair.lon.lower(),
                                 pair.lat.lower()) == ('ra', 'dec'):
        stated = comments
    for name in (pair.lon, pair.lat):
        if stated is None:
            # by the VOTable's system or by the description
            column = table[name]
            words = (getattr(column, 'meta', None) or {}).get('coosys')
            if words is None:
                words = getattr(getattr(column, 'info', None),
                                'description', None) or ''
            stated = _frame_of_words(str(words))
    if stated is None and pair.frame is None and not pair.native:
        stated = _frame_of_header(table.meta)
    if stated is None:
        return
    named = pair.frame
    if not is_equatorial(stated) or (named is not None and (
            (named.name == 'fk4') != (stated.name == 'fk4'))):
        frames = stated.name if named is None else (
            f'{named.name} by their names, {stated.name}')
        msg = (f'{where}: {pair.names} are {frames} by the description in '
               'the file: rename them or correct the description')
        raise CatalogError(msg)
    if named is None or named.name == 'fk5':
        pair.frame, pair.by_name = stated, False


def _frame_of_header(meta):
    # of a FITS table, or of an IPAC table with its 'keywords'
    keywords = meta.get('keywords')
    keywords = keywords if isinstance(keywords, dict) else {}
    words = []
    for key in ('RADESYS', 'RADECSYS', 'EQUINOX'):
        value = meta.get(key, keywords.get(key))
        value = value.get('value') if isinstance(value, dict) else value
        if value is not None:
            words.append(str(value))
    if words and re.fullmatch(r'[JB]?(2000|1950)(\.0*)?', words[-1].strip()):
        words[-1] = 'J2000' if '2000' in words[-1] else 'B1950'
    return _frame_of_words(' '.join(words))


def _frame_of_words(text):
    if re.search(r'\bICRS\b|_ICRS', text, re.IGNORECASE):
        return ICRS()
    if re.search(r'FK4|B1950', text, re.IGNORECASE):
        return FK4()
    if re.search(r'FK5|J2000', text, re.IGNORECASE):
        return FK5()
    if re.search(r'^(super)?_?galactic$', text.strip(), re.IGNORECASE):
        return (Supergalactic() if 'super' in text.lower() else Galactic())
    return None


def _choose(pairs, frame, north, where):
    if frame is None:
        pair = pairs[0]
        if north is not None and not is_equatorial(north):
            pair = next((other for other in pairs if other.frame is not None
                         and other.frame.is_equivalent_frame(north)), pair)
        if pair.native and pair.frame is None:
            msg = (f'{where}: the frame of {pair.names} is that of a map, '
                   "which is not known: give frame, such as 'fk5'")
            raise CatalogError(msg)
        return pair
    for pair in pairs:
        own = pair.frame
        if own is None and (pair.native or is_equatorial(frame)):
            return pair
        # J2000 in names may be FK5 or ICRS, less than 0.1 arcsec apart
        # (Feissel & Mignard 1998, A&A, 331, L33)
        if own is not None and (own.is_equivalent_frame(frame) or (
                pair.by_name and own.name == 'fk5' and frame.name == 'icrs')):
            return pair
    pair = pairs[0]
    if pair.equatorial and pair.frame is not None:
        msg = (f'frame is {frame.name} but {pair.names} of {where} are in '
               f'{pair.frame.name}: leave out frame')
    else:
        msg = (f'frame is {frame.name} but the positions of {where} are '
               f'{pair.names}')
    raise CatalogError(msg)


def is_equatorial(frame):
    """
    Whether a frame has right ascensions and declinations.
    """
    return 'ra' in frame.get_representation_component_names()


def _read_pair(table, pair, frame, where):
    hours = u.hourangle if pair.equatorial else u.deg
    lon, lat = (read_angles(table[name], u.deg, name, where,
                            sexagesimal=unit)
                for name, unit in ((pair.lon, hours), (pair.lat, u.deg)))
    return make_sky(lon, lat, frame, pair.lon, pair.lat, where)


def make_sky(lon, lat, frame, lon_name, lat_name, where='the lists'):
    """
    Return positions from angles, NaN where one of the angles is.

    The names of the columns and of the table are for the error about angles
    out of range.
    """
    for values, limit, name in ((lon, 360.0, lon_name),
                                (lat, 90.0, lat_name)):
        beyond = np.abs(values.to_value(u.deg)) > limit
        if np.any(beyond):
            row = int(np.argmax(beyond))
            msg = (f'{where}: {name} must be within {limit:.0f} deg: got '
                   f'{values[row]} in row {row}')
            raise CatalogError(msg)
    # a position with a missing angle is missing
    bad = ~np.isfinite(lon) | ~np.isfinite(lat)
    lon, lat = (np.where(bad, np.nan, values) for values in (lon, lat))
    return SkyCoord(lon, lat, frame=frame)


def read_frame(frame):
    """
    Return the frame given by the user, as a name or a frame, without data.

    Raises a `ValueError` if it is not a frame in which sources are fixed.
    """
    if isinstance(frame, BaseCoordinateFrame | SkyCoord):
        blank = getattr(frame, 'frame', frame)
    else:
        try:
            blank = SkyCoord(0, 0, unit='deg', frame=frame).frame
        except (ValueError, TypeError):
            blank = None
    if blank is None or isinstance(blank, _MOVING):
        msg = ("frame must be 'icrs', 'fk5', 'fk4', 'galactic' or another "
               f'celestial frame: got {frame!r}')
        raise ValueError(msg)
    return blank.replicate_without_data()
