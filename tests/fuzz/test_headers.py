# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Headers and files of maps and cubes with damage of all kinds.

Whatever is wrong, `read_map` and `read_cube` give an image that agrees
with what astropy reads, or a `MapError`: no other error, no warning, no
hang.
"""

import gzip
import io
import warnings
from contextlib import suppress

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from radio_beam import Beam

from hyperphotutils.maps import MapError, parse_unit, read_cube, read_map

NY, NX = 8, 12
GAUSSIAN = np.pi / (4 * np.log(2))

# Values as they are in a card
NUMBERS = ('0.0', '1.0', '-1.0', '1', '2', '-3', '1E300', '-1E300', '1E-300',
           '1.0D0', '1E999', '90.0', '180.0', '360.0', '1000000000',
           '99999999999999999999', '0.5', '1E-3', '2000.0', '1950.0')
ODD = ("'unknown'", "''", "'nan'", "'1.0'", 'NaN', 'nan', 'inf', 'T', 'F',
       '(1.0, 2.0)', '', '1,5', "'J2000'", "'FK5 J2000'", "'deg'", "'\t'",
       "'\0'", "'a''b", '--1', "'ICRS'", "'Jy/beam'", "'[0, 1]'")
TYPES = ("'RA---TAN'", "'DEC--TAN'", "'RA---SIN'", "'DEC--SIN'", "'GLON-CAR'",
         "'GLAT-CAR'", "'ELON-TAN'", "'ELAT-TAN'", "'SLON-TAN'", "'SLAT-TAN'",
         "'HPLN-TAN'", "'HPLT-TAN'", "'RA'", "'DEC'", "'FREQ'", "'VRAD'",
         "'FELO-HEL'", "'VOPT-F2W'", "'WAVE-TAB'", "'STOKES'", "'LINEAR'",
         "'RA---TPV'", "'DEC--TPV'", "'RA---TAN-SIP'", "'DEC--TAN-SIP'",
         "'ra---tan'", "'RA---TNX'", "'GLON-HPX'", "'RA---ZPN'", "'AZ'")
UNITS = ("'Jy/beam'", "'mJy/beam'", "'MJy/sr'", "'Jy/pixel'", "'K'", "'mK'",
         "'Jy/arcsec2'", "'dex(Jy/beam)'", "'-1 Jy/beam'", "'mag'",
         "'MJY/SR'", "'1E3 Jy/beam'", "'Jy/beam.km/s'")
RAW = st.one_of(
    st.sampled_from(NUMBERS), st.sampled_from(ODD), st.sampled_from(TYPES),
    st.sampled_from(UNITS),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.text(st.characters(min_codepoint=1, max_codepoint=255),
            max_size=20).map(lambda text: f"'{text}'"))

PAIRS = (('RA---TAN', 'DEC--TAN'), ('RA---SIN', 'DEC--SIN'),
         ('GLON-CAR', 'GLAT-CAR'), ('GLON-TAN', 'GLAT-TAN'),
         ('RA---ZEA', 'DEC--ZEA'), ('RA---TPV', 'DEC--TPV'),
         ('RA---SFL', 'DEC--SFL'), ('GLON-AIT', 'GLAT-AIT'))
STRUCTURE = {'SIMPLE', 'BITPIX', 'NAXIS', 'NAXIS1', 'NAXIS2', 'NAXIS3'}
MORE = ('CTYPE3', 'CRVAL3', 'CDELT3', 'CUNIT3', 'CRPIX3', 'CTYPE4', 'CDELT4',
        'CRVAL4', 'WCSAXES', 'CD1_1', 'CD1_2', 'CD2_2', 'CD1_3', 'PC1_1',
        'PC1_2', 'PC2_1', 'PC1_3', 'PC3_3', 'PC001001', 'CROTA1', 'CROTA2',
        'PV1_1', 'PV2_1', 'PV2_5', 'LONPOLE', 'LATPOLE', 'RADESYS',
        'RADECSYS', 'EQUINOX', 'EPOCH', 'MJD-OBS', 'DATE-OBS', 'A_ORDER',
        'B_ORDER', 'A_2_0', 'B_0_2', 'AP_ORDER', 'CPDIS1', 'D2IMDIS1',
        'RESTFRQ', 'RESTFREQ', 'VELREF', 'SPECSYS', 'BSCALE', 'BZERO',
        'BLANK', 'OBJECT', 'PPBEAM', 'CASAMBM', 'EXTEND', 'CTYPE1A',
        'CUNIT1', 'CUNIT2', 'WAT1_001', 'PS2_0', 'CTYPE5', 'INHERIT',
        'XTENSION', 'PCOUNT', 'GCOUNT', 'ZNAXIS', 'EXTNAME', 'HISTORY')


@st.composite
def valid_cards(draw):
    """
    The cards of a good map or cube, as pairs of text.
    """
    lon, lat = draw(st.sampled_from(PAIRS))
    number = st.floats(1.0, 12.0).map(repr)
    cube = draw(st.booleans())
    step = draw(st.floats(0.5, 100.0)) / 3600
    cards = [('SIMPLE', 'T'), ('BITPIX', '-32'), ('NAXIS', '3' if cube
                                                  else '2'),
             ('NAXIS1', str(NX)), ('NAXIS2', str(NY))]
    if cube:
        cards.append(('NAXIS3', '2'))
    cards += [('CTYPE1', f"'{lon}'"), ('CTYPE2', f"'{lat}'"),
              ('CRVAL1', repr(draw(st.floats(0.0, 360.0)))),
              ('CRVAL2', '0.0' if 'CAR' in lon
               else repr(draw(st.floats(-90.0, 90.0)))),
              ('CRPIX1', draw(number)), ('CRPIX2', draw(number))]
    form = draw(st.sampled_from(('cdelt', 'crota', 'pc', 'cd')))
    if form == 'cd':
        cards += [('CD1_1', repr(-step)), ('CD2_2', repr(step)),
                  ('CD1_2', repr(0.1 * step)), ('CD2_1', '0.0')]
    else:
        cards += [('CDELT1', repr(-step)), ('CDELT2', repr(1.2 * step))]
        cards += {'crota': [('CROTA2', '30.0')],
                  'pc': [('PC1_1', '0.8'), ('PC1_2', '-0.6'),
                         ('PC2_1', '0.6'), ('PC2_2', '0.8')]}.get(form, [])
    if cube:
        cards += [('CTYPE3', "'VRAD'"), ('CRVAL3', '1000.0'),
                  ('CRPIX3', '1.0'), ('CDELT3', '500.0'),
                  ('CUNIT3', "'m/s'"), ('RESTFRQ', '2.3E11')]
    cards += draw(st.sampled_from((
        [], [('RADESYS', "'ICRS'")], [('RADESYS', "'FK5'"),
                                      ('EQUINOX', '2000.0')],
        [('RADESYS', "'FK4'"), ('EQUINOX', '1950.0')], [('EPOCH', '1950.0')],
        [('EQUINOX', '2000.0')])))
    return [*cards, ('BUNIT', draw(st.sampled_from(UNITS))),
            ('BMAJ', repr(4 * step)), ('BMIN', repr(3 * step)),
            ('BPA', '30.0')]


@st.composite
def damaged_cards(draw):
    """
    Cards of which some are replaced, dropped, doubled, or added.
    """
    cards = draw(valid_cards())
    for _ in range(draw(st.integers(0, 3))):
        how = draw(st.sampled_from(('replace', 'drop', 'double', 'add')))
        # sizes that cannot be are a matter of the file
        places = [i for i, (key, _) in enumerate(cards)
                  if key not in STRUCTURE]
        place = draw(st.sampled_from(places)) if places else len(cards)
        if how == 'add' or not places:
            cards.append((draw(st.sampled_from(MORE)), draw(RAW)))
        elif how == 'drop':
            del cards[place]
        else:
            card = (cards[place][0], draw(RAW))
            cards[place:place + (how == 'replace')] = [card]
    return cards


def make_file(cards):
    """
    Write cards and values as a FITS file.
    """
    text = ''.join(f'{key:8s}= {value:>20s}'.ljust(80)[:80]
                   for key, value in [*cards[:5], *cards[5:]])
    text += 'END'.ljust(80)
    head = text.encode('latin-1')
    shape = (2, NY, NX) if ('NAXIS3', '2') in cards else (NY, NX)
    values = np.arange(1.0, 1.0 + np.prod(shape)).astype('>f4').tobytes()
    return b''.join(part.ljust(-(-len(part) // 2880) * 2880, fill)
                    for part, fill in ((head, b' '), (values, b'\0')))


def read_all(path, limit):
    """
    Read a file as a map and as a cube; return what is read.
    """
    found = []
    for read in (read_map, lambda name: read_cube(name).channel(0)):
        with warnings.catch_warnings(), limit(5):
            warnings.simplefilter('error')
            # astropy leaves files open that it cannot read
            warnings.simplefilter('ignore', ResourceWarning)
            warnings.filterwarnings('ignore', 'several images')
            with suppress(MapError):
                found.append(read(path))
    return found


def check_sky(image, header):
    """
    Check positions and pixel scale against astropy's WCS.
    """
    x, y = np.array([0.0, NX - 1.0, 0.0, 5.0]), np.array([0.0, 0, NY - 1, 3])
    try:
        wcs = WCS(header).celestial
        world = wcs.pixel_to_world_values(x, y)
        frame = wcs_to_celestial_frame(wcs)
        if isinstance(header.get('EQUINOX', header.get('EPOCH')), str):
            return  # which astropy ignores
        lon, lat = world[wcs.wcs.lng], world[wcs.wcs.lat]
        expected = SkyCoord(lon, lat, unit='deg', frame=frame)
    except Exception:  # noqa: BLE001 - then there is nothing to agree with
        return
    good = np.isfinite(lon) & np.isfinite(lat)
    apart = image.wcs.pixel_to_world(x, y).icrs.separation(expected.icrs)
    scale = image.meta['pixel_scale']
    assert np.all(apart[good] < 1e-3 * scale + 1e-6 * u.arcsec)
    corners = SkyCoord(*_celestial(wcs, [5.0, 6.0, 5.5, 5.5],
                                   [3.5, 3.5, 3.0, 4.0]), unit='deg')
    if scale < 0.1 * u.deg and np.all(np.isfinite(corners.ra)):
        east, north = (corners[i].cartesian.xyz - corners[i - 1].cartesian.xyz
                       for i in (1, 3))
        area = np.linalg.norm(np.cross(east, north)) * u.sr
        assert_allclose(scale.to_value('rad'), np.sqrt(area.value), rtol=1e-3)


def _celestial(wcs, x, y):
    world = wcs.pixel_to_world_values(x, y)
    return world[wcs.wcs.lng], world[wcs.wcs.lat]


def check_values(image, header, raw):
    """
    Check the beam against radio-beam's, and the factor by units.
    """
    beam = image.meta['beam']
    if isinstance(header.get('BMAJ'), float) and header['BMAJ'] > 0:
        expected = Beam.from_fits_header(header)
        assert u.isclose(beam.major, expected.major)
        assert u.isclose(beam.minor, expected.minor)
    if 'BSCALE' in header or 'BZERO' in header:
        return
    unit = parse_unit(image.meta['original_unit'])
    pixel = image.meta['pixel_scale']**2
    beam_area = GAUSSIAN * beam.major * beam.minor
    per_pixel = 1.0 * unit
    if unit.is_equivalent(u.K):
        per_pixel = per_pixel.to(u.Jy / u.sr, u.brightness_temperature(
            image.meta['frequency']))
    if per_pixel.unit.is_equivalent(u.Jy / u.beam):
        per_pixel *= u.beam / beam_area
    if per_pixel.unit.is_equivalent(u.Jy / u.sr):
        per_pixel *= pixel
    if per_pixel.unit.is_equivalent(u.Jy / u.pix):
        per_pixel *= u.pix
    ny, nx = image.shape
    middle = (ny // 2, nx // 2)
    low, high = image.meta['pixel_area_range']
    assert_allclose(image.data[middle] / raw[middle],
                    per_pixel.to_value(u.Jy),
                    rtol=1e-3 + 0.1 * (high - low))


@given(cards=damaged_cards())
def test_cards(cards, tmp_path_factory, cpu_limit):
    """
    What is read agrees with astropy; all else is a MapError.
    """
    content = make_file(cards)
    path = tmp_path_factory.getbasetemp() / 'cards.fits'
    path.write_bytes(content)
    for image in read_all(path, cpu_limit):
        with warnings.catch_warnings(), np.errstate(all='ignore'):
            warnings.simplefilter('ignore')
            header = fits.Header.fromstring(
                content[:content.index(b'END     ')].decode('latin-1'))
            with fits.open(io.BytesIO(content)) as hdus:
                raw = np.array(hdus[0].data, dtype=float)
            check_sky(image, header)
            if np.isfinite(image.data).all():
                check_values(image, header, raw.reshape(-1, NY, NX)[0])


def make_other_file(kind):
    """
    Make a good file of several HDUs.
    """
    header = fits.Header.fromstring(''.join(
        f'{key:8s}= {value:>20s}'.ljust(80) for key, value in (
            ('CTYPE1', "'RA---TAN'"), ('CTYPE2', "'DEC--TAN'"),
            ('CRVAL1', '83.8'), ('CRVAL2', '-5.4'), ('CRPIX1', '6.5'),
            ('CRPIX2', '4.5'), ('CDELT1', '-1E-3'), ('CDELT2', '1E-3'),
            ('CTYPE3', "'VRAD'"), ('CRVAL3', '0.0'), ('CRPIX3', '1.0'),
            ('CDELT3', '500.0'), ('BUNIT', "'Jy/beam'"), ('BMAJ', '4E-3'))))
    values = np.arange(1.0, 193.0, dtype='f4').reshape(2, NY, NX)
    hdus = fits.HDUList([fits.PrimaryHDU()])
    if kind == 'compressed':
        hdus.append(fits.CompImageHDU(values[0], header))
    elif kind == 'integers':
        header['BLANK'] = 5
        hdus.append(fits.ImageHDU(values[0].astype('i2'), header))
    elif kind == 'beams':
        header['CASAMBM'] = True
        hdus[0] = fits.PrimaryHDU(values, header)
        hdus.append(fits.BinTableHDU.from_columns([
            fits.Column(name, 'E', unit=unit, array=[15.0, 15.0])
            for name, unit in (('bmaj', 'arcsec'), ('bmin', 'arcsec'),
                               ('bpa', 'deg'))], name='BEAMS'))
    else:
        hdus += [fits.ImageHDU(values[0], header, name='SCI'),
                 fits.ImageHDU(values[0], header, name='ERR')]
    file = io.BytesIO()
    hdus.writeto(file)
    return file.getvalue()


FILES = {kind: make_other_file(kind) for kind in (
    'compressed', 'integers', 'beams', 'errors')}
STRUCTURE_CARDS = tuple(
    f'{key:8s}= {value:>20s}'.ljust(80).encode() for key in (
        'BITPIX', 'NAXIS', 'NAXIS1', 'NAXIS2', 'PCOUNT', 'GCOUNT', 'TFIELDS',
        'ZNAXIS1', 'ZTILE1', 'ZBITPIX', 'BLANK', 'BSCALE', 'TFORM1', 'TTYPE1')
    for value in ('0', '-1', '12', '1000000000', '99999999999999999999',
                  "'text'", '1.5')) + (b' ' * 80, b'END'.ljust(80),
                                       b'END = 3'.ljust(80), b'\0' * 80)


@given(data=st.data())
def test_bytes(data, tmp_path_factory, cpu_limit):
    """
    Files with wrong bytes, wrong sizes, and without their ends.
    """
    kind = data.draw(st.sampled_from(sorted(FILES)))
    content = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        how = data.draw(st.sampled_from(('byte', 'card', 'cut', 'insert')))
        place = data.draw(st.integers(0, len(content)))
        if how == 'byte':
            content[place:place + 1] = bytes([data.draw(
                st.integers(0, 255))])
        elif how == 'cut':
            del content[place:]
        else:
            first = place // 80 * 80
            content[first:first + 80 * (how == 'card')] = data.draw(
                st.sampled_from(STRUCTURE_CARDS))
    packed = data.draw(st.booleans())
    if packed:
        content = bytearray(gzip.compress(bytes(content), 1))
        if data.draw(st.booleans()):
            del content[data.draw(st.integers(0, len(content))):]
    path = tmp_path_factory.getbasetemp() / (
        'bytes.fits.gz' if packed else 'bytes.fits')
    path.write_bytes(content)
    for image in read_all(path, cpu_limit):
        assert image.unit == u.Jy / u.pix
        assert image.data.ndim == 2


@pytest.mark.parametrize('compress', [False, True])
def test_header_without_end(tmp_path, compress, cpu_limit):
    """
    A header that never ends is refused, and not read for ever.
    """
    content = make_file([('SIMPLE', 'T')])[:80] + b' ' * (2880 * 50 - 80)
    path = tmp_path / ('a.fits.gz' if compress else 'a.fits')
    path.write_bytes(gzip.compress(content) if compress else content)
    with cpu_limit(5), pytest.raises(MapError, match='does not end'):
        read_map(path)
