# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tables of sources: written in many ways, damaged, and of odd columns.
"""

import io
import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import (
    FK4,
    FK5,
    GCRS,
    ICRS,
    AltAz,
    BarycentricMeanEcliptic,
    Galactic,
    SkyCoord,
    Supergalactic,
)
from astropy.table import Column, MaskedColumn, QTable, Table
from astropy.time import Time
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from hyperphotutils.catalog import (
    CatalogError,
    match_catalogs,
    read_catalog,
    read_source_list,
    to_regions,
    write_catalog,
)

# Names of columns, the frame that they mean, and whether texts are hours
PAIRS = (
    ('RA', 'DEC', ICRS(), True), ('_RAJ2000', '_DEJ2000', FK5(), True),
    ('RAJ2000', 'DEJ2000', FK5(), True), ('RA_ICRS', 'DE_ICRS', ICRS(), True),
    ('RAB1950', 'DEB1950', FK4(), True), ('_RA', '_DE', ICRS(), True),
    ('ALPHA_J2000', 'DELTA_J2000', FK5(), True),
    ('_Glon', '_Glat', Galactic(), False),
    ('GLON', 'GLAT', Galactic(), False),
    ('ELON', 'ELAT', BarycentricMeanEcliptic(), False),
    ('SGL', 'SGB', Supergalactic(), False),
)
FORMATS = {'a.ecsv': 'ascii.ecsv', 'a.fits': 'fits', 'a.vot': 'votable',
           'a.ipac': 'ascii.ipac', 'a.csv': 'ascii.csv'}
SEPARATED = ('a.tsv', 'a.txt', 'b.csv')
# with a SkyCoord, written by astropy and by this package
OWN = ('sky.ecsv', 'sky.fits', 'own.ecsv', 'own.fits', 'own.vot')

ANGLES = st.tuples(st.floats(0, 360, exclude_max=True), st.floats(-90, 90))
TOKENS = (
    b'nan', b'inf', b'-', b'+', b'1e400', b'-1e308', b'9' * 30, b'999999999',
    b'0', b'\0', b'\xff', b'"', b"'", b'<', b'>', b'&', b'&a;', b'|', b'#',
    b'\n', b'\r', b',', b';', b'\t', b' ', b'{', b'}', b'[', b'*a', b'&a ',
    b'!!python/name:os.system', b': ', b'- ', b'char', b'object', b'string',
    b'float16', b'complex128', b'bool', b'h:m:s', b'd:m:s', b'deg', b'mag',
    b'dex(deg)', b'Jy', b'arcsec', b'10', b'5:35:14', b'-05 23 28', b'null',
    b'--', b'---', b'ID', b'RA', b'DEC', b'SkyCoord', b'__class__', b'\\',
    b'href="file:///etc/passwd"', '\u2028\N{MINUS SIGN}'.encode())


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('fuzz')


def read_quietly(path, cpu_limit):
    """
    Read the sources of a file; `None` if it is refused in one line.
    """
    with warnings.catch_warnings():
        # several tables in a file; no RuntimeWarning
        warnings.filterwarnings('ignore', '.*only the first is read')
        try:
            with cpu_limit(5):
                return read_source_list(path)
        except CatalogError as exc:
            check_message(str(exc))
            assert path.name in str(exc)
            return None


def check_message(text):
    assert text.isprintable()
    assert len(text) < 2000


@st.composite
def written_tables(draw):
    """
    Draw the name and the bytes of a file, and the positions that astropy
    reads from what was written.
    """
    lon_name, lat_name, frame, hours = draw(st.sampled_from(PAIRS))
    angles = draw(st.lists(ANGLES, min_size=1, max_size=4))
    lon, lat = np.array(angles).T
    name = draw(st.sampled_from((*FORMATS, *SEPARATED)))
    style = draw(st.sampled_from(('number', 'arcmin', ':', ' ', 'hms')))
    units = (None, None)
    if style in ('number', 'arcmin'):
        columns = [lon, lat]
        if style == 'arcmin' and name != 'a.csv':
            units = ('arcmin', 'arcmin')
            columns = [60 * lon, 60 * lat]
        elif draw(st.booleans()) and name != 'a.csv':
            units = ('deg', 'deg')
        expected = SkyCoord(*columns, unit=[u.Unit(unit or 'deg')
                                            for unit in units], frame=frame)
    else:
        first = u.hourangle if hours else u.deg
        text = {'unit': first, 'sep': style if style != 'hms' else 'fromunit',
                'precision': draw(st.integers(0, 6)), 'pad': True}
        columns = [(lon * u.deg).to(first)]
        columns = [np.atleast_1d(u_angle.to_string(**kwargs)) for
                   u_angle, kwargs in (
            (SkyCoord(lon, lat, unit='deg').ra, text),
            (SkyCoord(lon, lat, unit='deg').dec,
             text | {'unit': u.deg, 'alwayssign': True}))]
        with warnings.catch_warnings():
            # rounded to 24 hours or to 60 seconds
            warnings.simplefilter('ignore')
            expected = SkyCoord(*columns, unit=(first, u.deg), frame=frame)
        if name != 'a.csv' and draw(st.booleans()):
            units = ('h:m:s' if hours else 'd:m:s', 'd:m:s')
    table = Table({'ID': np.arange(len(lon)) + 5})
    for column, values, unit in zip((lon_name, lat_name), columns, units,
                                    strict=True):
        unit = unit and u.Unit(unit, parse_strict='silent')
        table[column] = Column(values, unit=unit)
    return name, write(table, name), expected


def write(table, name):
    if name in SEPARATED:
        return write_vizier(table, {'a.tsv': '\t', 'a.txt': ';',
                                    'b.csv': '|'}[name])
    file = io.BytesIO() if name.endswith(('fits', 'vot')) else io.StringIO()
    with warnings.catch_warnings():
        # units that are none in a format
        warnings.simplefilter('ignore')
        table.write(file, format=FORMATS[name.replace('sky', 'a')])
    content = file.getvalue()
    return content if isinstance(content, bytes) else content.encode()


def write_vizier(table, separator):
    """
    Write a table as VizieR does.
    """
    rows = [table.colnames,
            [f'"{table[name].unit}"' if ':' in str(table[name].unit)
             else str(table[name].unit or '') for name in table.colnames],
            ['-' * 8] * len(table.colnames),
            *([str(value) for value in row] for row in table)]
    lines = ['#', '#   VizieR Astronomical Server', '#Title: Sources', '',
             *(separator.join(row) for row in rows), '']
    return '\n'.join(lines).encode()


@given(written_tables())
def test_written_tables(folder, cpu_limit, written):
    """
    Positions of any frame, format and spelling are those of astropy.
    """
    name, content, expected = written
    path = folder / name
    path.write_bytes(content)
    with cpu_limit(5):
        sky = read_source_list(path)['sky_centroid']
    assert sky.is_equivalent_frame(expected.frame)
    assert np.all(sky.separation(expected) < 1e-8 * u.arcsec)


@st.composite
def damages(draw):
    """
    Draw changes of bytes: places as fractions of the file.
    """
    place = st.floats(0, 1, exclude_max=True)
    change = st.tuples(
        st.sampled_from(('insert', 'replace', 'cut', 'double', 'end')), place,
        st.one_of(st.sampled_from(TOKENS), st.binary(max_size=4)),
        st.integers(1, 80))
    return draw(st.lists(change, min_size=1, max_size=4))


def damage(content, changes):
    for kind, place, token, length in changes:
        k = int(place * len(content))
        if kind == 'insert':
            content = content[:k] + token + content[k:]
        elif kind == 'replace':
            content = content[:k] + token + content[k + len(token):]
        elif kind == 'cut':
            content = content[:k] + content[k + length:]
        elif kind == 'double':
            content = content[:k + length] + content[k:]
        elif length > 70:
            content = content[:k]
    return content


@pytest.fixture(scope='module')
def originals(folder):
    """
    A function that returns whole files by name.
    """
    table = QTable({'ID': [7, 3, 12], 'RA': [83.8, 0.5, 359.9] * u.deg,
                    'DEC': [-5.4, 88.2, 0.0] * u.deg,
                    'FWHM_1': [12.0, 9.0, 10.0] * u.arcsec,
                    'FWHM_2': [8.0, 9.0, 9.5] * u.arcsec,
                    'PA': [30.0, 100.0, 0.0] * u.deg,
                    'note': ['a', 'b c', '']})
    files = {name: write(table, name) for name in (*FORMATS, *SEPARATED)}
    sky = SkyCoord(table['RA'], table['DEC'], frame=FK5(equinox='J2010'))
    own = QTable({'id': [1, 2, 3], 'sky_centroid': sky,
                  'flags': MaskedColumn([0, 1, 2], mask=[0, 1, 0])})
    for name in ('sky.ecsv', 'sky.fits'):
        files[name] = write(own, name)
    own.meta['note'] = 'two\nlines'
    for name in ('own.ecsv', 'own.fits', 'own.vot'):
        write_catalog(own, folder / name)
        files[name] = (folder / name).read_bytes()
    # (not the files: hypothesis shows what a test is called with)
    return files.get


@given(st.sampled_from((*FORMATS, *SEPARATED, *OWN)), damages())
@example('a.vot', [('cut', 0.0, b'', 1)])
@example('a.fits', [('cut', 0.5, b'', 10**9)])
@example('a.ecsv', [('insert', 0.2, b'[' * 3000, 1)])
@example('a.csv', [('cut', 0.0, b'', 10**9)])
def test_damaged_files(folder, cpu_limit, originals, name, changes):
    """
    A damaged file has the positions that astropy reads, or is refused.
    """
    path = folder / name
    content = damage(originals(name), changes)
    path.write_bytes(content)
    table = read_quietly(path, cpu_limit)
    if table is None:
        return
    sky = table['sky_centroid'].spherical
    assert np.all((np.abs(sky.lat.deg) <= 90) | np.isnan(sky.lat.deg))
    if name not in FORMATS:
        return
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            other = Table.read(path, format=FORMATS[name])
        except Exception:  # noqa: BLE001 (astropy may stumble anywhere)
            return
    for column, angle in (('RA', sky.lon), ('DEC', sky.lat)):
        if (column in other.colnames and other[column].dtype.kind in 'fiu'
                and other[column].unit in (None, u.deg)):
            values = np.ma.filled(np.ma.asarray(other[column]).astype(float),
                                  np.nan)
            values = np.where(np.isfinite(values), values, np.nan)
            good = np.isfinite(angle.deg)
            assert_allclose((angle.deg[good] - values[good]) % 360.0 % 360.0,
                            0.0, atol=1e-9)


@given(st.sampled_from((*FORMATS, *OWN)), damages())
def test_damaged_catalogs(folder, cpu_limit, originals, name, changes):
    """
    A catalog is read or refused.
    """
    path = folder / name
    path.write_bytes(damage(originals(name), changes))
    with warnings.catch_warnings():
        # units that are kept as they are, and several tables
        warnings.simplefilter('ignore', u.UnitsWarning)
        warnings.filterwarnings('ignore', '(?s).*a unit but is kept')
        warnings.filterwarnings('ignore', '.*only the first is read')
        try:
            with cpu_limit(5):
                read_catalog(path)
        except CatalogError as exc:
            check_message(str(exc))


NUMBERS = st.one_of(st.floats(), st.integers(-2**63, 2**63 - 1))
TEXTS = st.one_of(
    st.sampled_from((
        '05:35:14.5', '-05 23 28', '5h35m14.5s', '-5d23m', '60', '12:60:00',
        '1_0', '0x10', '१२', '1e5', '8.3D1', '', '--', 'inf',
        '\N{MINUS SIGN}5:10', '5:35:60.0', '\0', '24:00:00')),
    st.text(max_size=10))
UNITS = st.sampled_from((None, '', 'deg', 'arcsec', 'rad', 'h', 'hourangle',
                         'h:m:s', '"d:m:s"', 'Jy', 'mag', 'dex(deg)',
                         '-1 deg', '0 deg', '1e300 deg', 'pix', '%', 'foo',
                         'degrees', 'mas', '\n'))


@st.composite
def odd_columns(draw, n_rows):
    kind = draw(st.sampled_from(('float', 'text', 'bytes', 'object', 'bool',
                                 'complex', 'wide', 'time', 'angle',
                                 'masked')))
    rows = {'min_size': n_rows, 'max_size': n_rows}
    floats = st.lists(st.floats(width=64), **rows)
    if kind == 'time':
        return Time(draw(st.lists(st.floats(2000, 2100), **rows)),
                    format='jyear')
    if kind == 'angle':
        return u.Quantity(draw(floats), draw(st.sampled_from(
            ('deg', 'rad', 'Jy', 'arcsec'))))
    if kind == 'text':
        values = draw(st.lists(TEXTS, **rows))
        values = np.array(values, dtype=str)
    elif kind == 'bytes':
        values = np.array(draw(st.lists(st.binary(max_size=4), **rows)),
                          dtype='S4')
    elif kind == 'object':
        values = np.array([*draw(st.lists(st.one_of(
            TEXTS, NUMBERS, st.none(), st.binary(max_size=3)), **rows)),
            None], dtype=object)[:n_rows]
    elif kind == 'wide':
        values = np.zeros((n_rows, 2))
    else:
        values = np.array(draw(floats)).astype(
            {'bool': bool, 'complex': complex}.get(kind, float))
    unit = draw(UNITS)
    unit = None if unit is None else u.Unit(unit, parse_strict='silent')
    if kind == 'masked':
        return MaskedColumn(values, unit=unit,
                            mask=draw(st.lists(st.booleans(), **rows)))
    return Column(values, unit=unit)


@st.composite
def odd_tables(draw):
    n_rows = draw(st.integers(0, 3))
    names = draw(st.lists(st.sampled_from(
        ('ID', 'RA', 'DEC', 'ra', '_RAJ2000', '_DEJ2000', 'GLON', 'GLAT',
         'ELON', 'ELAT', 'sky_centroid', 'pos', 'FWHM_1', 'FWHM_2', 'PA',
         'fwhm_major_sky', 'fwhm_minor_sky', 'position_angle', 'id', 'x_fit',
         'y_fit', 'flux_fit', 'pos.ra', 'pos.dec', 'ALPHA_SKY',
         'DELTA_SKY')), unique=True, max_size=8))
    table = QTable()
    if draw(st.booleans()):
        names = ['RA', 'DEC', *(name for name in names
                                if name not in ('RA', 'DEC'))]
    for name in names:
        if name in ('sky_centroid', 'pos') and draw(st.booleans()):
            lon, lat = (np.array(draw(st.lists(
                st.one_of(st.floats(-80, 80), st.just(np.nan)),
                min_size=n_rows, max_size=n_rows))) for _ in range(2))
            frame = draw(st.sampled_from((
                'icrs', 'fk4', 'galactic', GCRS(), AltAz(),
                FK5(equinox='J1980'), BarycentricMeanEcliptic())))
            table[name] = SkyCoord(lon * u.deg, lat * u.deg, frame=frame)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                table[name] = draw(odd_columns(n_rows))
    return table


@given(odd_tables(), st.sampled_from((None, 'icrs', 'fk5', 'fk4',
                                      'galactic')))
def test_odd_tables(cpu_limit, table, frame):
    """
    Columns of any kind are read or refused, by name.
    """
    try:
        with cpu_limit(5):
            result = read_source_list(table, frame=frame)
    except CatalogError as exc:
        check_message(str(exc))
        return
    sky = result['sky_centroid']
    assert len(result) == len(table)
    assert np.all((np.abs(sky.spherical.lat.deg) <= 90)
                  | np.isnan(sky.spherical.lat.deg))
    assert frame is None or sky.frame.name == frame
    if 'fwhm_major_sky' in result.colnames:
        major = result['fwhm_major_sky']
        assert np.all((major >= result['fwhm_minor_sky'])
                      | np.isnan(major) | np.isnan(result['fwhm_minor_sky']))


@given(odd_tables(), odd_tables())
def test_odd_catalogs(cpu_limit, one, two):
    """
    Catalogs of any columns are matched and drawn, or refused.
    """
    beam = 20 * u.arcsec
    for use in (
            lambda: match_catalogs({'a': one, 'b': two},
                                   beams={'a': beam, 'b': beam}),
            lambda: to_regions(one),
            lambda: to_regions(one, frame='pixel', shape='point')):
        try:
            with cpu_limit(5), warnings.catch_warnings():
                # texts with a unit
                warnings.filterwarnings('ignore', '(?s).*a unit but is kept')
                use()
        except (ValueError, TypeError) as exc:
            # (a wrong kind of column is a TypeError; nothing of astropy)
            assert type(exc) in (CatalogError, ValueError, TypeError)
            check_message(str(exc))
