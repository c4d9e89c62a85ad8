# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the sky coordinates and the frequencies of headers.
"""

import bz2
import gzip
import lzma

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import (
    FK4,
    FK5,
    ICRS,
    BarycentricMeanEcliptic,
    Galactic,
    SkyCoord,
    Supergalactic,
)
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS
from numpy.testing import assert_allclose

from hyperphotutils.catalog import read_catalog, write_catalog
from hyperphotutils.maps import MapError, read_cube, read_map

CENTER = (19.5, 14.5)
J2000 = FK5(equinox='J2000')
B1950 = FK4(equinox='B1950')


def position(image):
    """
    The position at the reference pixel, which is (83.8, -5.4).
    """
    return image.wcs.pixel_to_world(*CENTER)


class TestFrames:
    @pytest.mark.parametrize(('cards', 'frame'), [
        ({}, ICRS()),
        ({'EQUINOX': 2000.0}, J2000),
        ({'EQUINOX': 1950.0}, B1950),
        ({'EPOCH': 1950.0}, B1950),
        ({'EPOCH': 1950.0, 'EQUINOX': 2000.0}, J2000),
        ({'EQUINOX': 1975.0, 'RADESYS': 'FK5'}, FK5(equinox='J1975')),
        ({'EQUINOX': 'J2000'}, J2000),
        ({'EQUINOX': 'J2000.0'}, J2000),
        ({'EQUINOX': 'B1950'}, B1950),
        ({'EQUINOX': '', 'EPOCH': 2000.0}, J2000),
        ({'RADESYS': 'FK5     '}, J2000),
        ({'RADESYS': 'fk5'}, J2000),
        ({'RADESYS': 'J2000'}, J2000),
        ({'RADESYS': 'J2000.0'}, J2000),
        ({'RADESYS': 'FK5 J2000', 'EQUINOX': 2000.0}, J2000),
        ({'RADESYS': 'FK5 (J2000)'}, J2000),
        ({'RADESYS': 'B1950'}, B1950),
        ({'RADESYS': 'FK4'}, B1950),
        ({'RADECSYS': 'FK4', 'EQUINOX': 1950.0}, B1950),
        ({'RADESYS': 'icrs'}, ICRS()),
        ({'RADESYS': 'ICRS (J2000)'}, ICRS()),
        # of no meaning for ICRS
        ({'RADESYS': 'ICRS', 'EQUINOX': 'unknown'}, ICRS()),
        ({'CTYPE1': 'ra---tan', 'CTYPE2': 'dec--tan'}, ICRS()),
        ({'CTYPE1': 'GLON-TAN', 'CTYPE2': 'GLAT-TAN'}, Galactic()),
        ({'CTYPE1': 'GLON-TAN', 'CTYPE2': 'GLAT-TAN', 'RADESYS': 'FK5',
          'EQUINOX': 2000.0}, Galactic()),
        ({'CTYPE1': 'ELON-TAN', 'CTYPE2': 'ELAT-TAN'},
         BarycentricMeanEcliptic()),
        ({'CTYPE1': 'ELON-TAN', 'CTYPE2': 'ELAT-TAN', 'RADESYS': 'FK5',
          'EQUINOX': 2000.0}, BarycentricMeanEcliptic()),
        ({'CTYPE1': 'ELON-TAN', 'CTYPE2': 'ELAT-TAN', 'EQUINOX': 2015.5},
         BarycentricMeanEcliptic(equinox='J2015.5')),
        ({'CTYPE1': 'SLON-TAN', 'CTYPE2': 'SLAT-TAN'}, Supergalactic()),
        ({'CTYPE1': 'SLON-TAN', 'CTYPE2': 'SLAT-TAN', 'RADESYS': 'FK5',
          'EQUINOX': 2000.0}, Supergalactic()),
    ])
    def test_known(self, make_hdu, cards, frame):
        """
        Positions are those of the frame, there and in all others.
        """
        expected = SkyCoord(83.8 * u.deg, -5.4 * u.deg, frame=frame)
        sky = position(read_map(make_hdu(**cards)))
        assert sky.frame.is_equivalent_frame(frame)
        for name in ('icrs', 'galactic'):
            assert (sky.transform_to(name).separation(
                expected.transform_to(name)) < 1e-6 * u.arcsec)

    @pytest.mark.parametrize(('cards', 'match'), [
        ({'RADESYS': 'GAPPT'}, "RADESYS = 'GAPPT' is not a frame"),
        ({'RADESYS': 'ICRS, FK5'}, "RADESYS = 'ICRS, FK5' is not a frame"),
        ({'RADESYS': 5}, 'RADESYS = 5 is not text'),
        ({'RADESYS': 'B1950', 'EQUINOX': 2000.0}, "'B1950' contradicts EQ"),
        ({'EQUINOX': 0.0}, 'EQUINOX = 0.0 is not an equinox'),
        ({'EQUINOX': 1e9}, 'EQUINOX = 1000000000.0 is not an equinox'),
        ({'EPOCH': 'unknown'}, "EPOCH = 'unknown' is not an equinox"),
        ({'CTYPE1': 'HPLN-TAN', 'CTYPE2': 'HPLT-TAN'}, 'not supported; repr'),
        ({'CTYPE1': 'HGLN-CAR', 'CTYPE2': 'HGLT-CAR'}, 'not supported; repr'),
        ({'CTYPE1': 'MALN-CAR', 'CTYPE2': 'MALT-CAR'}, 'not supported; repr'),
        ({'CTYPE1': 'TLON-CAR', 'CTYPE2': 'TLAT-CAR'}, 'not supported; repr'),
        ({'CTYPE1': 'ELON-TAN', 'CTYPE2': 'ELAT-TAN', 'EQUINOX': 1950.0},
         'ecliptic coordinates of FK4 are not supported'),
        ({'CTYPE1': 5}, 'CTYPE1 = 5 is not text'),
        ({'CTYPE1': 'RA---TAN', 'CTYPE2': 'GLAT-TAN'}, 'no sky coordinates'),
        ({'CTYPE1': 'RA---TAN', 'CTYPE2': 'RA---TAN'}, 'no sky coordinates'),
        ({'CTYPE3': 'GLON-TAN', 'CTYPE4': 'GLAT-TAN'}, 'more than one pair'),
    ])
    def test_refused(self, make_hdu, cards, match):
        """
        A frame that is not known is named, for maps and cubes.
        """
        with pytest.raises(MapError, match=match):
            read_map(make_hdu(**cards))
        cube = make_hdu(np.ones((2, 30, 40)), **{
            'CTYPE3': 'VRAD', **cards, **({'CTYPE5': 'VRAD'} if 'CTYPE3'
                                          in cards else {})})
        with pytest.raises(MapError, match=match):
            read_cube(cube)

    @pytest.mark.parametrize('name', ['a.ecsv', 'a.fits'])
    def test_catalog(self, make_hdu, tmp_path, name):
        """
        Catalogs of an ecliptic map have the right positions.
        """
        image = read_map(make_hdu(CTYPE1='ELON-TAN', CTYPE2='ELAT-TAN'))
        sky = image.wcs.pixel_to_world([CENTER[0]] * 2, [CENTER[1], 3.0])
        table = QTable({'id': [1, 2], 'sky_centroid': sky})
        write_catalog(table, tmp_path / name)
        back = read_catalog(tmp_path / name)['sky_centroid']
        assert np.all(back.icrs.separation(sky.icrs) < 1e-6 * u.arcsec)


class TestAxes:
    """
    What other axes say is no reason to refuse a map in Jy/beam.
    """

    @pytest.mark.parametrize('cards', [
        {'CTYPE3': 'FREQ', 'CRVAL3': 1.4e9, 'CRPIX3': 1.0, 'CDELT3': 0.0},
        {'CTYPE3': 'FREQ', 'CRVAL3': 'unknown'},
        {'CTYPE3': 'FREQ', 'CUNIT3': 'furlong', 'CRVAL3': 1.0},
        {'CTYPE3': 'FELO-HEL', 'CUNIT3': 'm/s', 'CRVAL3': 1e5},
        {'CTYPE3': 'VOPT-F2W', 'CRVAL3': 1e5},
        {'CTYPE3': 'WAVE-TAB', 'PS3_0': 'WCS-TAB', 'PS3_1': 'WAVELENGTH'},
        {'CTYPE3': 'STOKES', 'CDELT3': 0.0},
        {'CTYPE3': 17},
        {'CTYPE3': ''},
        {'CRVAL3': 1.0, 'CDELT3': 0.0},
        {'WCSAXES': 7},
        {'WCSAXES': 1},
        {'CTYPE3': 'VELO-LSR', 'CUNIT3': 'KM/S', 'VELREF': 'LSR'},
        {'CTYPE3': 'RA', 'CTYPE4': 'DEC', 'CRVAL3': 83.0},
        {'MJD-OBS': 'unknown', 'DATE-OBS': 'yesterday'},
        {'RESTFRQ': 'high', 'SPECSYS': 3},
        {'OBJECT': 5},
    ])
    @pytest.mark.parametrize('shape', [(30, 40), (1, 30, 40), (1, 1, 30, 40)])
    def test_degenerate(self, make_hdu, cards, shape):
        """
        The sky and the values are those without these cards.
        """
        expected = read_map(make_hdu())
        data = make_hdu().data.reshape(shape)
        image = read_map(make_hdu(data, **cards))
        assert_allclose(image.data, expected.data, rtol=1e-12)
        assert position(image).separation(position(expected)) < (
            1e-9 * u.arcsec)

    @pytest.mark.parametrize('cards', [
        {'PC1_3': 0.1, 'CRPIX3': 5.0}, {'CD1_3': 0.1, 'CRPIX3': 5.0,
                                       'CD1_1': -2 / 3600,
                                       'CD2_2': 2 / 3600}])
    def test_mixed(self, make_hdu, cards):
        """
        An axis that shifts the sky is not dropped.
        """
        with pytest.raises(MapError, match='mixes axis 3 into axis 1'):
            read_map(make_hdu(CTYPE3='FREQ', **cards))


class TestScale:
    def test_pc_without_cdelt(self, make_hdu):
        """
        CDELT is 1 where a PC matrix is there, as FITS says.
        """
        image = read_map(make_hdu(CDELT1=None, CDELT2=None, PC1_1=-2 / 3600,
                                  PC2_2=2 / 3600))
        assert_allclose(image.meta['pixel_scale'].value, 2.0)

    @pytest.mark.parametrize(('cards', 'match'), [
        ({'PC1_1': 1.0, 'CD1_1': -2 / 3600, 'CD2_2': 2 / 3600},
         'CD2_2 and PC1_1 are both in the header'),
        ({'PC3_3': 1.0, 'CD1_1': -2 / 3600, 'CD2_2': 2 / 3600},
         'CD2_2 and PC3_3 are both in the header'),
        ({'CD3_3': 1.0}, 'CD3_3 is in the header, but no CD1_1'),
        ({'PC1_1': 1.0, 'CROTA2': 30.0}, 'CROTA2 and PC1_1 are both'),
        ({'CDELT1': 1e-300, 'CDELT2': 1e-300}, 'pixel scale of 0 arcsec'),
        ({'CDELT2': 300.0}, 'pixel scale of .* cannot be right'),
        ({'CRVAL2': -1e16}, 'CRVAL2 = .* is not on the sky'),
        ({'CROTA2': 1e16}, r'CROTA2 = 1e\+16 is not an angle'),
        ({'LONPOLE': -1e4}, 'LONPOLE = -10000 is not an angle'),
        ({'CRVAL1': 1e5}, 'CRVAL1 = .* is not on the sky'),
        ({'CRVAL1': True}, 'CRVAL1 = True is not a number'),
        ({'CRVAL1': '83.8'}, "CRVAL1 = '83.8' is not a number"),
        ({'CUNIT1': 'furlong'}, "CUNIT1 = 'furlong' is not a unit of angles"),
        ({'CUNIT1': 'm'}, "CUNIT1 = 'm' is not a unit of angles"),
        ({'CUNIT1': 3}, 'CUNIT1 = 3 is not text'),
        ({'LONPOLE': 'north'}, "LONPOLE = 'north' is not a number"),
        ({'PV2_1': 'x'}, "PV2_1 = 'x' is not a number"),
        ({'A_ORDER': 2}, 'A_ORDER is in the header without B_ORDER'),
        ({'A_ORDER': 10**9, 'B_ORDER': 2}, 'A_ORDER = 1e.09 is not an order'),
        ({'A_ORDER': 2, 'B_ORDER': 2, 'A_2_0': 'x'}, 'A_2_0 ='),
        ({'CPDIS1': 'LOOKUP'}, 'CPDIS1: distortions in tables'),
        ({'CTYPE1': 'RA---TNX', 'CTYPE2': 'DEC--TNX', 'WAT1_001': 'x'},
         'WAT keywords'),
    ])
    def test_refused(self, make_hdu, cards, match):
        """
        What contradicts itself or is not a number is named.
        """
        with pytest.raises(MapError, match=match):
            read_map(make_hdu(**cards))

    def test_two_values(self, make_hdu):
        """
        A keyword with two values is refused, twice the same is not.
        """
        hdu = make_hdu()
        hdu.header.append(('CRVAL1', 83.8), end=True)
        read_map(hdu)
        hdu.header.append(('CRVAL1', 84.8), end=True)
        with pytest.raises(MapError, match='CRVAL1 occurs 3 times'):
            read_map(hdu)

    @pytest.mark.parametrize('key', ['CRVAL1', 'PC2_1', 'CROTA2', 'BMAJ'])
    def test_empty_card(self, make_hdu, key):
        """
        A keyword without a value is not one that is missing.
        """
        hdu = make_hdu()
        hdu.header[key] = None
        with pytest.raises(MapError, match=rf'{key} = \(empty\) is not a'):
            read_map(hdu)

    @pytest.mark.parametrize('cards', [
        {'A_ORDER': 2, 'B_ORDER': 2, 'A_2_0': 1e-3, 'B_1_1': 1e-3},
        {'CTYPE1': 'RA---TAN-SIP', 'CTYPE2': 'DEC--TAN-SIP', 'A_ORDER': 2,
         'B_ORDER': 2, 'A_2_0': 1e-3, 'B_1_1': 1e-3},
        {'CTYPE1': 'RA---TPV', 'CTYPE2': 'DEC--TPV', 'PV1_1': 1.0,
         'PV1_4': 5.0, 'PV2_1': 1.0},
        {'CTYPE1': 'RA---ZPN', 'CTYPE2': 'DEC--ZPN', 'PV2_1': 1.0,
         'PV2_3': 20.0},
        {'LONPOLE': 150.0},
        {'CROTA2': 30.0},
        {'CUNIT1': 'DEGREES', 'CUNIT2': 'deg'},
        {'CUNIT1': 'arcsec', 'CUNIT2': 'arcsec', 'CDELT1': -2.0,
         'CDELT2': 2.0, 'CRVAL1': 3e5, 'CRVAL2': 1000.0},
    ])
    @pytest.mark.filterwarnings('ignore::astropy.wcs.FITSFixedWarning')
    def test_as_astropy(self, make_hdu, cards):
        """
        Projections and distortions are those that astropy reads.
        """
        hdu = make_hdu(**cards)
        x, y = np.array([0.0, 39.0, 5.0]), np.array([0.0, 29.0, 20.0])
        expected = WCS(hdu.header).pixel_to_world(x, y)
        sky = read_map(hdu).wcs.pixel_to_world(x, y)
        assert np.all(sky.separation(expected) < 1e-7 * u.arcsec)


class TestFrequency:
    @pytest.mark.parametrize(('cards', 'expected'), [
        ({'CTYPE3': 'FREQ', 'CRVAL3': 230.0, 'CUNIT3': 'GHZ'}, 230.0),
        ({'CTYPE3': 'FREQ', 'CRVAL3': 230e9, 'CUNIT3': 'HZ'}, 230.0),
        ({'CTYPE3': 'FREQ', 'CRVAL3': 230e3, 'CUNIT3': 'mhz'}, 230.0),
        ({'CTYPE3': 'FREQUENCY', 'CRVAL3': 230e9}, 230.0),
        ({'CTYPE3': 'WAVE', 'CRVAL3': 850.0, 'CUNIT3': 'micron'},
         299792.458 / 850),
        ({'CTYPE3': 'WAVE', 'CRVAL3': 850e-6}, 299792.458 / 850),
        ({'CTYPE3': 'VRAD', 'CRVAL3': 2997.92458, 'CUNIT3': 'KM/S',
          'RESTFREQ': 230e9}, 0.99 * 230.0),
        ({'CTYPE3': 'VOPT', 'CRVAL3': 2997.92458, 'CUNIT3': 'km s-1',
          'RESTFRQ': 230e9}, 230.0 / 1.01),
        ({'CTYPE3': 'VELO', 'CRVAL3': 2997924.58, 'CUNIT3': 'm/sec',
          'RESTFRQ': 230e9}, 230.0 * np.sqrt(0.99 / 1.01)),
        ({'CTYPE3': 'FREQ', 'CRVAL3': 230e9, 'CDELT3': 0.0, 'CRPIX3': 7.0},
         230.0),
        ({'RESTWAV': 1e-3}, 299.792458),
    ])
    def test_any_axis(self, make_hdu, cards, expected):
        """
        Any spectral axis and spelling of its unit gives the frequency.
        """
        image = read_map(make_hdu(BUNIT='K', **cards))
        assert_allclose(image.meta['frequency'].to_value(u.GHz), expected)

    @pytest.mark.parametrize(('cards', 'match'), [
        ({'CTYPE3': 'FREQ', 'CRVAL3': 'unknown'}, 'CRVAL3 = .*frequency='),
        ({'CTYPE3': 'FREQ', 'CRVAL3': 1.0, 'CUNIT3': 'furlong'}, 'CUNIT3 = '),
        ({'CTYPE3': 'FREQ', 'CRVAL3': 230.0}, '230 Hz, cannot be right'),
        ({'CTYPE3': 'VRAD', 'CRVAL3': 1e3}, 'RESTFRQ.*give frequency='),
        ({'CTYPE3': 'FELO-HEL', 'CRVAL3': 1e3}, 'RESTFRQ.*give frequency='),
        ({'CTYPE3': 'WAVE-TAB', 'CRVAL3': 1.0}, 'in a table'),
        ({'RESTFRQ': True}, 'RESTFRQ = True is not a number'),
    ])
    def test_refused(self, make_hdu, cards, match):
        """
        A temperature names the keyword that it needs; the argument
        replaces it.
        """
        with pytest.raises(MapError, match=match):
            read_map(make_hdu(BUNIT='K', **cards))
        read_map(make_hdu(BUNIT='K', **cards), frequency=230 * u.GHz)

    def test_cube_that_stays_in_kelvin(self, make_hdu):
        """
        The planes of a cube in K need no frequency; its channels do.
        """
        cube = read_cube(make_hdu(np.ones((2, 30, 40)), BUNIT='K',
                                  CTYPE3='VRAD', CUNIT3='KM/S', CRVAL3=5.0))
        assert cube.unit == u.K
        assert cube.beam_fwhm_pix.shape == (2,)
        assert_allclose(cube.plane(1), 1.0)
        assert_allclose(cube.spectral_axis.to_value(u.km / u.s), [6.0, 7.0])
        with pytest.raises(MapError, match='RESTFRQ'):
            cube.channel(0)

    @pytest.mark.parametrize('unit', ['furlong', 'Hz', 'Jy', 'dex(m/s)',
                                      '3 km/s', 5])
    def test_unit_of_a_cube(self, make_hdu, unit):
        """
        A unit that does not suit the axis of a cube is named.
        """
        with pytest.raises(MapError, match='CUNIT3 = '):
            read_cube(make_hdu(np.ones((2, 30, 40)), CTYPE3='VRAD',
                               CUNIT3=unit))

    def test_felo_cube(self, make_hdu):
        """
        Channels that are linear in frequency need the rest frequency.
        """
        cards = {'CTYPE3': 'FELO-HEL', 'CUNIT3': 'm/s', 'CRVAL3': 1e5,
                 'CRPIX3': 1.0, 'CDELT3': 1e3}
        with pytest.raises(MapError, match=r'CTYPE3 .* set RESTFRQ'):
            read_cube(make_hdu(np.ones((2, 30, 40)), **cards))
        cube = read_cube(make_hdu(np.ones((2, 30, 40)), RESTFRQ=1.42e9,
                                  **cards))
        assert_allclose(cube.spectral_axis.value, [1e5, 1.01e5], rtol=1e-5)


class TestFiles:
    """
    Files that are damaged are refused before astropy loops or asks for
    all memory.
    """

    @pytest.mark.parametrize(('old', 'new', 'match'), [
        ('NAXIS1  =                   40', 'NAXIS1  =           1000000000',
         'before the values of the extension 0'),
        ('NAXIS   =                    2', 'NAXIS   =           1000000000',
         'NAXIS = 1000000000 of HDU 0'),
        ('NAXIS   =                    2', 'NAXIS   =                    3',
         'has no NAXIS3'),
        ('NAXIS1  =                   40', 'NAXIS1  =                  -40',
         'NAXIS1 = -40 of HDU 0 is negative'),
        ('BITPIX  =                  -64', 'BITPIX  =                   12',
         'BITPIX = 12 of HDU 0'),
        ('BITPIX  =                  -64', "BITPIX  =                 'F8'",
         'BITPIX = .* not an integer'),
        ('EXTEND  =                    T', 'NAXIS2  =                   29',
         'NAXIS2 occurs twice'),
        ('END     ', 'EMD     ', 'does not end'),
    ])
    def test_structure(self, make_hdu, tmp_path, old, new, match):
        """
        A header that cannot be right names the keyword.
        """
        path = tmp_path / 'a.fits'
        hdu = make_hdu()
        hdu.header['EXTEND'] = True
        hdu.writeto(path)
        content = path.read_bytes()
        assert old.encode() in content
        path.write_bytes(content.replace(old.encode(), new.encode(), 1))
        for read in (read_map, read_cube):
            with pytest.raises(MapError, match=rf'a\.fits: .*{match}'):
                read(path)

    @pytest.mark.parametrize(('key', 'value'), [
        ('ZNAXIS1', 10**9), ('ZTILE2', 7), ('ZNAXIS', 500)])
    def test_tiles(self, make_hdu, tmp_path, key, value):
        """
        A compressed image is not larger than its tiles.
        """
        path = tmp_path / 'a.fits.fz'
        hdu = make_hdu()
        fits.CompImageHDU(hdu.data, hdu.header).writeto(path)
        with fits.open(path, mode='update',
                       disable_image_compression=True) as hdus:
            hdus[1].header[key] = value
        with pytest.raises(MapError, match=r'a\.fits\.fz: .*ZNAXIS'):
            read_map(path)

    @pytest.mark.parametrize('suffix', ['gz', 'bz2', 'xz'])
    def test_compressed(self, make_hdu, tmp_path, suffix):
        """
        Files that are compressed as a whole are read, and refused where
        they end too early.
        """
        compress = {'gz': gzip.compress, 'bz2': bz2.compress,
                    'xz': lzma.compress}[suffix]
        make_hdu().writeto(tmp_path / 'a.fits')
        content = (tmp_path / 'a.fits').read_bytes()
        path = tmp_path / f'a.fits.{suffix}'
        path.write_bytes(compress(content))
        assert_allclose(read_map(path).data, read_map(make_hdu()).data)
        for packed in (compress(content[:6000]), compress(content)[:-99]):
            path.write_bytes(packed)
            with pytest.raises(MapError, match='truncated or damaged'):
                read_map(path)
