# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the reader module.
"""

import copy
import pickle

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal
from radio_beam import Beam

from hyperphotutils.maps import MapError, read_map

DATA = np.arange(1200.0).reshape(30, 40)
GAUSSIAN = np.pi / (4 * np.log(2))
BEAM_AREA = GAUSSIAN * 80.0
SR = (np.pi / 180 / 3600)**2


class TestMap:
    def test_result(self, make_hdu):
        """
        A map is a CCDData in Jy/pixel that knows its beam.
        """
        image = read_map(make_hdu(OBJECT=' W3 '))
        assert isinstance(image, CCDData)
        assert image.unit == u.Jy / u.pix
        assert image.data.dtype == np.dtype('f8')
        assert_allclose(image.data, DATA / (BEAM_AREA / 4.0), rtol=1e-6)
        assert image.mask.dtype == np.dtype(bool)
        assert not image.mask.any()
        assert image.wcs.naxis == 2
        assert image.wcs.array_shape == (30, 40)
        meta = image.meta
        assert isinstance(meta['beam'], Beam)
        assert_allclose(meta['beam'].major.to_value(u.arcsec), 10.0)
        assert_allclose(meta['beam_area_pix'], BEAM_AREA / 4, rtol=1e-6)
        assert_allclose(meta['beam_fwhm_pix'], np.sqrt(20.0), rtol=1e-6)
        assert_allclose(meta['beam_major_pix'], 5.0, rtol=1e-6)
        assert_allclose(meta['beam_minor_pix'], 4.0, rtol=1e-6)
        assert_allclose(meta['beam_theta'], 120.0, atol=1e-3)
        assert meta['pixel_scale'].unit == u.arcsec
        assert_allclose(meta['pixel_scale'].value, 2.0, rtol=1e-6)
        assert meta['original_unit'] == 'Jy/beam'
        assert meta['object'] == 'W3'
        assert meta['filename'] is None
        assert meta['extension'] == '0 (PRIMARY)'
        assert meta['survey'] is None
        assert meta['frequency'] is None

    def test_file(self, make_hdu, tmp_path):
        """
        A map from a file knows the file.
        """
        path = tmp_path / 'map.fits'
        make_hdu().writeto(path)
        image = read_map(path)
        assert image.meta['filename'] == str(path)
        assert image.meta['object'] == ''
        assert_allclose(image.data, read_map(make_hdu()).data, rtol=1e-12)

    def test_mask(self, make_hdu):
        """
        NaN and infinity are masked and stay what they are.
        """
        data = DATA.copy()
        data[3, 4], data[5, 6] = np.nan, -np.inf
        image = read_map(make_hdu(data))
        assert_array_equal(np.argwhere(image.mask), [[3, 4], [5, 6]])
        assert np.isnan(image.data[3, 4])

    def test_result_can_be_sent(self, make_hdu):
        """
        Maps and errors travel between processes.
        """
        image = pickle.loads(pickle.dumps(read_map(make_hdu())))
        assert image.meta['beam'] == read_map(make_hdu()).meta['beam']
        with pytest.raises(MapError, match='give unit=') as error:
            read_map(make_hdu(BUNIT=None))
        assert str(pickle.loads(pickle.dumps(error.value))) == str(
            error.value)

    def test_input_is_not_changed(self, make_hdu):
        """
        Reading an HDU leaves it alone.
        """
        hdu = make_hdu()
        header = hdu.header.copy()
        read_map(hdu)
        assert_array_equal(hdu.data, DATA)
        assert hdu.header == header


class TestUnit:
    @pytest.mark.parametrize(('unit', 'factor'), [
        ('Jy', 1.0),
        ('Jy/pixel', 1.0),
        ('mJy', 1e-3),
        ('JY/BEAM', 4.0 / BEAM_AREA),
        ('beam-1 Jy', 4.0 / BEAM_AREA),
        ('mJy beam-1', 4e-3 / BEAM_AREA),
        ('MJy/sr', 4e6 * SR),
        ('Jy/sr', 4 * SR),
    ])
    def test_header_or_argument(self, make_hdu, unit, factor):
        """
        The unit converts the same from BUNIT, the argument, and both.
        """
        for image in (read_map(make_hdu(BUNIT=unit)),
                      read_map(make_hdu(BUNIT=None), unit=unit),
                      read_map(make_hdu(BUNIT=''), unit=unit),
                      read_map(make_hdu(BUNIT=unit), unit=unit)):
            assert_allclose(image.data, factor * DATA, rtol=1e-6)

    def test_kinds_agree(self, make_hdu):
        """
        One sky in four units is one map.
        """
        nu = 230e9
        kelvin = 2 * 1.380649e-23 * nu**2 / 299792458.0**2 * 1e26 * 4 * SR
        maps = [read_map(make_hdu(DATA / factor, BUNIT=unit),
                         frequency=230 * u.GHz).data
                for unit, factor in (('Jy', 1.0), ('Jy/sr', 4 * SR),
                                     ('Jy/beam', 4 / BEAM_AREA),
                                     ('K', kelvin))]
        for image in maps:
            assert_allclose(image, DATA, rtol=1e-6)

    def test_missing(self, make_hdu):
        """
        No unit names the keyword and the argument.
        """
        with pytest.raises(MapError, match='the PrimaryHDU: no BUNIT in the '
                                           r'header: give unit='):
            read_map(make_hdu(BUNIT=None))

    def test_contradiction(self, make_hdu):
        """
        Two units for one map: the user must say which to drop.
        """
        with pytest.raises(MapError, match="BUNIT = 'Jy/beam' contradicts "
                           "unit='Jy / pix': drop unit= or correct BUNIT"):
            read_map(make_hdu(), unit='Jy/pixel')

    def test_no_contradiction(self, make_hdu):
        """
        Jy and Jy/pixel are the same statement.
        """
        image = read_map(make_hdu(BUNIT='Jy'), unit='Jy/pixel')
        assert_allclose(image.data, DATA)
        assert image.meta['original_unit'] == 'Jy'

    @pytest.mark.parametrize('bunit', ['bananas', 'MJY/BEAM', 'K (Ta*)'])
    def test_argument_replaces_what_cannot_be_read(self, make_hdu, bunit):
        """
        A BUNIT that says nothing yields to the argument.
        """
        with pytest.raises(MapError, match='the PrimaryHDU: BUNIT: the unit'):
            read_map(make_hdu(BUNIT=bunit))
        image = read_map(make_hdu(BUNIT=bunit), unit=u.Jy / u.beam)
        assert_allclose(image.data, DATA * 4 / BEAM_AREA, rtol=1e-6)

    def test_survey_area(self, make_hdu):
        """
        The published area converts values per beam.
        """
        hdu = make_hdu(BMAJ=None, BMIN=None, BPA=None)
        image = read_map(hdu, survey='SPIRE 250')
        assert_allclose(image.data, DATA * 4 / 423.0, rtol=1e-6)
        assert_allclose(image.meta['beam_area_pix'], 423.0 / 4, rtol=1e-6)
        assert_allclose(image.meta['beam_fwhm_pix'], 9.0, rtol=1e-6)
        assert image.meta['survey'] == 'spire250'
        image = read_map(hdu, survey=1)
        assert_allclose(image.meta['beam_area_pix'],
                        GAUSSIAN * 5.2**2 / 4, rtol=1e-6)


class TestFrequency:
    @pytest.mark.parametrize('cards', [
        {'RESTFRQ': 230e9},
        {'RESTFREQ': 230e9},
        {'CTYPE3': 'FREQ', 'CRVAL3': 230e9, 'CRPIX3': 1.0, 'CDELT3': 1e9},
        {'CTYPE3': 'FREQ', 'CRVAL3': 229e9, 'CRPIX3': 0.0, 'CDELT3': 1e9},
        {'CTYPE4': 'FREQ', 'CRVAL4': 230.0, 'CUNIT4': 'GHz',
         'CTYPE3': 'STOKES'},
        # the axis tells the band of a continuum map, RESTFRQ some line's
        {'CTYPE3': 'FREQ-LSR', 'CRVAL3': 230e9, 'RESTFRQ': 218e9},
        # at 1 percent of the speed of light
        {'CTYPE3': 'VRAD', 'CRVAL3': 2997924.58, 'RESTFRQ': 230e9 / 0.99},
    ])
    def test_header(self, make_hdu, cards):
        """
        The header's frequency serves like the argument.
        """
        image = read_map(make_hdu(BUNIT='K', **cards))
        assert_allclose(image.meta['frequency'].to_value(u.GHz), 230.0)
        expected = read_map(make_hdu(BUNIT='K'), frequency=230 * u.GHz)
        assert_allclose(image.data, expected.data)

    def test_argument_first(self, make_hdu):
        """
        The argument refines what the header says; wavelengths will do.
        """
        image = read_map(make_hdu(BUNIT='K', RESTFRQ=218e9),
                         frequency=1.3034454695652174 * u.mm)
        assert_allclose(image.meta['frequency'].to_value(u.GHz), 230.0)

    def test_missing(self, make_hdu):
        """
        A temperature without a frequency names the argument.
        """
        for cards in ({}, {'RESTFRQ': 0.0}):
            with pytest.raises(MapError, match=r'RESTFRQ.*give '
                                               r'frequency='):
                read_map(make_hdu(BUNIT='K', **cards))

    def test_bad_argument(self, make_hdu):
        """
        A frequency is one positive frequency.
        """
        with pytest.raises(TypeError, match=r'such as 230 .*: got float'):
            read_map(make_hdu(), frequency=230e9)
        with pytest.raises(MapError, match='a frequency or wavelength: got'):
            read_map(make_hdu(), frequency=3 * u.Jy)
        with pytest.raises(MapError, match='one positive number'):
            read_map(make_hdu(), frequency=-3 * u.GHz)

    def test_bad_header(self, make_hdu):
        """
        A frequency that is none names its keyword.
        """
        with pytest.raises(MapError, match="RESTFRQ = 'high' is not a number"):
            read_map(make_hdu(RESTFRQ='high', BUNIT='K'))
        assert read_map(make_hdu(RESTFRQ='high')).meta['frequency'] is None


class TestBeam:
    def test_missing(self, make_hdu):
        """
        No beam names the keyword and the arguments.
        """
        with pytest.raises(MapError, match=r'the PrimaryHDU: no BMAJ.*beam='):
            read_map(make_hdu(BMAJ=None, BMIN=None))

    def test_argument(self, make_hdu):
        """
        The argument supplies it.
        """
        image = read_map(make_hdu(BMAJ=None, BMIN=None), beam=9 * u.arcsec)
        assert_allclose(image.meta['beam_fwhm_pix'], 4.5, rtol=1e-6)

    def test_history(self, make_hdu):
        """
        AIPS's note supplies it.
        """
        hdu = make_hdu(BMAJ=None, BMIN=None, BPA=None)
        hdu.header['HISTORY'] = ('AIPS   CLEAN BMAJ=  2.7778E-03 '
                                 'BMIN=  2.2222E-03 BPA=  30.00')
        image = read_map(hdu)
        assert_allclose(image.meta['beam_major_pix'], 5.0, rtol=1e-4)
        assert_allclose(image.meta['beam_theta'], 120.0, atol=1e-3)

    @pytest.mark.parametrize('flipped', [False, True])
    @pytest.mark.parametrize('rotation', [0.0, 30.0, 90.0])
    def test_angle(self, make_hdu, rotation, flipped):
        """
        The beam's angle in pixels is the direction walked on the sky.
        """
        angle = np.deg2rad(rotation)
        sign = 1.0 if flipped else -1.0
        matrix = (2 / 3600) * np.array(
            [[sign * np.cos(angle), -sign * np.sin(angle)],
             [np.sin(angle), np.cos(angle)]])
        hdu = make_hdu(CDELT1=None, CDELT2=None, CD1_1=matrix[0, 0],
                       CD1_2=matrix[0, 1], CD2_1=matrix[1, 0],
                       CD2_2=matrix[1, 1], CRVAL2=85.0)
        image = read_map(hdu)
        start = image.wcs.pixel_to_world(19.5, 14.5)
        x, y = image.wcs.world_to_pixel(start.directional_offset_by(
            30 * u.deg, 0.2 * u.arcsec))
        expected = np.rad2deg(np.arctan2(y - 14.5, x - 19.5)) % 180
        assert_allclose(image.meta['beam_theta'], expected, atol=0.01)
        assert_allclose(image.meta['beam_major_pix'], 5.0, rtol=1e-5)


def rotated_header(form):
    """
    Write one rotation by 30 degrees in one of the ways of FITS.
    """
    cos, sin, step = np.sqrt(0.75), 0.5, 2 / 3600
    plain = {'CDELT1': -step, 'CDELT2': step}
    pc = (cos, sin, -sin, cos)
    cd = (-step * cos, -step * sin, -step * sin, step * cos)
    places = ('1_1', '1_2', '2_1', '2_2')
    old_places = ('001001', '001002', '002001', '002002')
    matrix = {f'CD{place}': value
              for place, value in zip(places, cd, strict=True)}
    return {
        'crota': {**plain, 'CROTA2': 30.0},
        'pc': {**plain, **{f'PC{place}': value for place, value
                           in zip(places, pc, strict=True)}},
        'old_pc': {**plain, **{f'PC{place}': value for place, value
                               in zip(old_places, pc, strict=True)}},
        'cd': {'CDELT1': None, 'CDELT2': None, **matrix},
        'cd_and_cdelt': {**plain, **matrix},
    }[form]


class TestWCS:
    @pytest.mark.parametrize('form', ['crota', 'pc', 'old_pc', 'cd',
                                      'cd_and_cdelt'])
    def test_forms(self, make_hdu, form):
        """
        CROTA, PC and CD say the same.
        """
        image = read_map(make_hdu(**rotated_header(form)))
        sky = image.wcs.pixel_to_world(19.5, 24.5)
        center = SkyCoord(83.8 * u.deg, -5.4 * u.deg)
        assert_allclose(center.separation(sky).arcsec, 20.0, rtol=1e-6)
        assert_allclose(center.position_angle(sky).deg, 330.0, atol=0.01)
        assert_allclose(image.meta['beam_theta'], 150.0, atol=0.01)

    def test_degenerate_axes(self, make_hdu):
        """
        Axes of length 1 disappear, wherever they are.
        """
        expected = read_map(make_hdu())
        cards = {'CTYPE3': 'FREQ', 'CRVAL3': 2.3e11, 'CRPIX3': 1.0,
                 'CDELT3': 1e9, 'CTYPE4': 'STOKES', 'CRVAL4': 1.0,
                 'CRPIX4': 1.0, 'CDELT4': 1.0}
        sky = expected.wcs.pixel_to_world(3.0, 4.0)
        # 2-D data under a 4-axis header too
        for shape in ((1, 1, 30, 40), (1, 30, 40), (30, 40)):
            image = read_map(make_hdu(DATA.reshape(shape), **cards))
            assert_array_equal(image.data, expected.data)
            assert image.wcs.naxis == 2
            assert sky.separation(image.wcs.pixel_to_world(3.0, 4.0)) < (
                1e-9 * u.arcsec)

    def test_frequency_axis_first(self, make_hdu):
        """
        The sky need not be on the first two axes.
        """
        first = make_hdu()
        cards = {f'{key}{axis + 1}': first.header[f'{key}{axis}']
                 for key in ('CTYPE', 'CRVAL', 'CRPIX', 'CDELT')
                 for axis in (1, 2)}
        hdu = make_hdu(DATA.reshape(30, 40, 1), **{
            **cards, 'CTYPE1': 'FREQ', 'CRVAL1': 2.3e11, 'CDELT1': 1e9,
            'CRPIX1': 1.0})
        image = read_map(hdu)
        assert_allclose(image.data, read_map(first).data)
        assert image.wcs.wcs.ctype[0] == 'RA---TAN'

    def test_latitude_first(self, make_hdu):
        """
        Latitude before longitude is a map like any other.
        """
        expected = read_map(make_hdu())
        image = read_map(make_hdu(
            DATA.T, CTYPE1='DEC--TAN', CTYPE2='RA---TAN', CRVAL1=-5.4,
            CRVAL2=83.8, CRPIX1=15.5, CRPIX2=20.5, CDELT1=2 / 3600,
            CDELT2=-2 / 3600))
        assert_allclose(image.data, expected.data.T)
        sky = image.wcs.pixel_to_world(4.0, 3.0)
        assert sky.separation(expected.wcs.pixel_to_world(3.0, 4.0)) < (
            1e-9 * u.arcsec)
        assert_allclose(image.meta['beam_theta'], 150.0, atol=1e-3)

    def test_pixels_that_are_not_square(self, make_hdu):
        """
        The area of a pixel is the product of its sides.
        """
        image = read_map(make_hdu(CDELT1=-4 / 3600, BUNIT='Jy/sr'))
        assert_allclose(image.data, DATA * 8 * SR, rtol=1e-6)
        assert_allclose(image.meta['beam_area_pix'], BEAM_AREA / 8,
                        rtol=1e-6)

    def test_no_noise(self, make_hdu):
        """
        What astropy mends silently in real headers makes no warning.
        """
        read_map(make_hdu(**rotated_header('old_pc'), RADECSYS='FK5',
                          EPOCH=2000.0, CUNIT1='DEGREES', CUNIT2='DEGREES'))

    @pytest.mark.parametrize('cards', [
        {'CTYPE1': None, 'CTYPE2': None},
        {'CTYPE1': 'LINEAR', 'CTYPE2': 'LINEAR'},
        {'CTYPE1': 'FREQ', 'CTYPE2': 'STOKES'},
        {'CTYPE2': None},
    ])
    def test_no_sky(self, make_hdu, cards):
        """
        A header without sky names the keywords.
        """
        with pytest.raises(MapError, match=r'PrimaryHDU: .*CTYPE'):
            read_map(make_hdu(**cards))

    @pytest.mark.parametrize('cards', [
        {'CTYPE2': 'DEC--SIN'},
        {'CTYPE1': 'RA---XXX', 'CTYPE2': 'DEC--XXX'},
        {'CTYPE1': 'RA---ZPN', 'CTYPE2': 'DEC--ZPN'},
    ])
    def test_impossible(self, make_hdu, cards):
        """
        What wcslib refuses is one line.
        """
        with pytest.raises(MapError, match='cannot be used: ') as error:
            read_map(make_hdu(**cards))
        assert '\n' not in str(error.value)

    @pytest.mark.parametrize(('cards', 'key'), [
        ({'CDELT1': None, 'CDELT2': None}, 'CDELT1 is missing'),
        ({'CDELT1': None}, 'CDELT1 is missing'),
        ({'CDELT2': 'small'}, "CDELT2 = 'small' is not a number"),
        ({'CDELT1': 0.0}, 'CDELT1 = 0'),
        ({'CDELT2': 0.0}, 'CDELT2 = 0'),
    ])
    def test_no_scale(self, make_hdu, cards, key):
        """
        A missing scale is not taken for a degree.
        """
        with pytest.raises(MapError, match=key):
            read_map(make_hdu(**cards))

    @pytest.mark.parametrize('key', ['CRVAL1', 'CRVAL2', 'CRPIX1', 'CRPIX2'])
    def test_no_reference(self, make_hdu, key):
        """
        A missing reference is not taken for zero.
        """
        with pytest.raises(MapError, match=f'no number {key} in the header'):
            read_map(make_hdu(**{key: None}))

    def test_singular_matrix(self, make_hdu):
        """
        An empty row of CD is not taken for pixels of a degree.
        """
        with pytest.raises(MapError, match='the CD matrix is singular'):
            read_map(make_hdu(CDELT1=None, CDELT2=None, CD1_1=0.0,
                              CD2_2=0.001))

    def test_contradictory_scale(self, make_hdu):
        """
        CDELT and CD of different sizes: one of them is wrong.
        """
        with pytest.raises(MapError, match='CDELT1 and CDELT2 contradict'):
            read_map(make_hdu(CD1_1=-0.001, CD2_2=0.001))

    def test_center_off_the_sky(self, make_hdu):
        """
        A map that begins off the sphere has a wrong header.
        """
        with pytest.raises(MapError, match='is off the sky: check CRPIX'):
            read_map(make_hdu(CTYPE1='RA---SIN', CTYPE2='DEC--SIN',
                              CRPIX1=1e6))


class TestBadInput:
    def test_cube(self, make_hdu):
        """
        A cube names the axis that makes it one.
        """
        with pytest.raises(MapError, match=r'a cube, not a map: axis 3 '
                           r'\(VRAD\) has 3 planes; read it with '
                           'read_cube, or take one in Python'):
            read_map(make_hdu(np.ones((1, 3, 30, 40)), CTYPE3='VRAD'))

    @pytest.mark.parametrize('shape', [(3, 30, 40), (1, 3, 30, 40)])
    def test_cube_remedy(self, make_hdu, tmp_path, shape):
        """
        What the error tells to do gives a map, in both ways.
        """
        hdu = make_hdu(np.arange(np.prod(shape)).reshape(shape) + 1.0,
                       CTYPE3='VRAD', CRVAL3=0.0, CDELT3=1.0)
        with pytest.raises(MapError) as caught:
            read_map(hdu)
        advice = str(caught.value).split('take one in Python: ')[1]
        read, write = advice.split(', or ')
        names = {'fits': fits, 'read_map': read_map, 'cube': hdu.data,
                 'header': hdu.header}
        path = tmp_path / 'plane.fits'
        eval(write.replace("'plane.fits'", 'path'), names | {'path': path})
        for image in (eval(read, names), read_map(path)):
            assert image.shape == (30, 40)
            assert_allclose(image.data / image.data[0, 0],
                            np.arange(1200.0).reshape(30, 40) + 1)

    def test_all_that_is_missing_is_named_at_once(self, make_hdu):
        """
        A header without unit and beam gives one error that names both.
        """
        with pytest.raises(MapError, match=r'BUNIT.*unit=.*BMAJ.*beam=.*'
                                           'survey='):
            read_map(make_hdu(BUNIT=None, BMAJ=None, BMIN=None, BPA=None))

    def test_sky_on_missing_axes(self, make_hdu):
        """
        2-D data whose sky is said to be on axis 3 are contradictory.
        """
        with pytest.raises(MapError, match=r'cube|on axes 2 and 3'):
            read_map(make_hdu(
                np.ones((30, 1)), CTYPE1='FREQ', CTYPE2='RA---TAN',
                CTYPE3='DEC--TAN', CRVAL3=2.0, CRPIX3=1.0, CDELT3=0.01,
                CDELT2=-0.01))

    @pytest.mark.parametrize('value', [np.nan, np.inf])
    def test_nothing_finite(self, make_hdu, value):
        """
        A map of NaN is no map.
        """
        with pytest.raises(MapError, match=r'0 \(PRIMARY\) has no finite'):
            read_map(make_hdu(np.full((30, 40), value)))

    def test_file_is_named(self, tmp_path, make_hdu):
        """
        Every message names the file as the user did.
        """
        path = tmp_path / 'map.fits'
        with pytest.raises(MapError, match=r'map\.fits: no such file'):
            read_map(path)
        path.write_text('hello')
        with pytest.raises(MapError, match=r'map\.fits: .* not a FITS file'):
            read_map(path)
        make_hdu(BUNIT=None).writeto(path, overwrite=True)
        with pytest.raises(MapError, match=r'map\.fits: no BUNIT'):
            read_map(path)
        with fits.open(path) as hdus, pytest.raises(
                MapError, match=r'map\.fits: no BUNIT'):
            read_map(hdus)

    def test_unreadable_card(self, make_hdu):
        """
        A card that FITS does not allow is one line too.
        """
        hdu = make_hdu(BUNIT=None)
        hdu.header.append(fits.Card.fromstring('BUNIT   = NaN  x'))
        with pytest.raises(MapError, match=r'PrimaryHDU: .*BUNIT'):
            read_map(hdu)

    def test_wrong_kind(self):
        """
        An array is no map; a unit and a survey are what they are.
        """
        with pytest.raises(TypeError, match='path_or_hdu must be'):
            read_map(DATA)
        with pytest.raises(MapError, match='survey must be one of'):
            read_map('map.fits', survey='iras')
        with pytest.raises(TypeError, match='unit must be a string'):
            read_map('map.fits', unit=3)


@pytest.mark.real_data
class TestRealMaps:
    """
    Maps as archives hand them out, without a warning.
    """

    def test_paper_map(self, real_data):
        """
        Jy per pixel, four axes over 2-D data, an ALMA beam.
        """
        image = read_map(real_data('map_500_Gaussians_1.fits'))
        assert image.shape == (565, 635)
        assert_array_equal(image.data, fits.getdata(
            real_data('map_500_Gaussians_1.fits')))
        assert_allclose(image.meta['beam_major_pix'], 3.70, atol=0.005)
        assert_allclose(image.meta['beam_minor_pix'], 2.96, atol=0.005)
        assert_allclose(image.meta['beam_theta'], 112.69, atol=0.05)
        assert_allclose(image.meta['frequency'].to_value(u.GHz), 226.559,
                        atol=0.01)

    def test_small_map(self, real_data):
        """
        A map whose reference pixel lies far outside.
        """
        image = read_map(real_data('test_2d_map_1.fits'))
        assert image.shape == (300, 300)
        assert_allclose(image.meta['beam_fwhm_pix'], 4.154, atol=0.001)
        assert_allclose(image.meta['pixel_scale'].value, 0.013, rtol=1e-5)

    def test_bolocam(self, real_data):
        """
        The beam covers as many pixels as the survey itself states.
        """
        path = real_data('bgps_gc_1mm.fits')
        image = read_map(path)
        assert_allclose(image.meta['beam_area_pix'],
                        fits.getheader(path)['PPBEAM'], rtol=1e-3)
        assert_allclose(image.meta['beam_area_pix'], 23.80, rtol=1e-3)
        original = fits.getdata(path)
        assert_array_equal(image.mask, ~np.isfinite(original))
        assert_allclose(image.data * image.meta['beam_area_pix'], original,
                        rtol=1e-6)
        assert image.meta['original_unit'] == 'Jy/Beam'
        lon = image.wcs.pixel_to_world([0, 639], [320, 320]).l.deg
        assert lon[0] < 1.0
        assert lon[1] > 359.0

    def test_scuba(self, real_data):
        """
        A map without unit and beam needs both arguments.
        """
        path = real_data('l1551_scuba_850um.fits')
        with pytest.raises(MapError, match=(
                r'850um\.fits: no BUNIT.*unit=.*no BMAJ.*beam=')):
            read_map(path)
        with pytest.raises(MapError, match=r'850um\.fits: no BMAJ.*beam='):
            read_map(path, unit='Jy/beam')
        image = read_map(path, unit='Jy/beam', beam=14.5 * u.arcsec)
        assert_allclose(image.meta['beam_area_pix'],
                        GAUSSIAN * (14.5 / 6.0)**2, rtol=1e-3)
        other = read_map(path, unit='Jy/beam', survey='jcmt850')
        assert_array_equal(image.data, other.data)

    def test_alma(self, real_data):
        """
        Degenerate axes and capital letters.
        """
        path = real_data('orion_kl_alma_cont.fits')
        image = read_map(path)
        assert image.shape == (100, 100)
        area = GAUSSIAN * 1.857642 * 1.368527 / 0.4**2
        assert_allclose(image.meta['beam_area_pix'], area, rtol=1e-4)
        assert_allclose(image.data * area, fits.getdata(path)[0, 0],
                        rtol=1e-4)
        assert_allclose(image.meta['beam_theta'], 85.82, atol=0.02)

    def test_alma_beam_in_history_only(self, real_data):
        """
        CASA's note in the HISTORY is the beam of the keywords.
        """
        with fits.open(real_data('orion_kl_alma_cont.fits')) as hdus:
            expected = read_map(hdus).meta
            for key in ('BMAJ', 'BMIN', 'BPA'):
                del hdus[0].header[key]
            meta = read_map(hdus).meta
        for key in ('beam_major_pix', 'beam_minor_pix', 'beam_theta'):
            assert_allclose(meta[key], expected[key], rtol=1e-5)

    def test_plateau_de_bure(self, real_data):
        """
        A map that is NaN for the most part.
        """
        image = read_map(real_data('g035_pdbi_cont.fits'))
        assert image.shape == (512, 256)
        assert_allclose(image.mask.mean(), 0.857, atol=0.001)
        assert_allclose(image.meta['beam_theta'], 108.33, atol=0.02)

    @pytest.mark.parametrize(('name', 'axis'), [
        ('test_datacube.fits', r'axis 3 \(VRAD\) has 4 planes'),
        ('orion_kl_alma_ch3oh_cube.fits', r'axis 3 \(FREQ\) has 41 planes'),
    ])
    def test_cubes(self, real_data, name, axis):
        """
        Cubes are not maps.
        """
        with pytest.raises(MapError, match=f'{name}: a cube.*{axis}'):
            read_map(real_data(name))


def test_wcs_is_plain(make_hdu):
    """
    The WCS of a map is one that astropy's tools take.
    """
    assert isinstance(read_map(make_hdu()).wcs, WCS)


@pytest.mark.parametrize('duplicate', [
    lambda value: value.copy(), copy.copy, copy.deepcopy,
    lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_keep_unit_and_metadata(make_hdu, duplicate):
    """
    A copy of a map has its unit, beam, and other metadata; the beam of
    radio_beam alone would lose its axes, also if it is copied by itself.
    """
    image = read_map(make_hdu())
    image.meta['beam'].meta['note'] = 'kept'
    copied = duplicate(image)
    assert copied.unit == image.unit
    assert copied.meta.keys() == image.meta.keys()
    for beam in (copied.meta['beam'], duplicate(image.meta['beam'])):
        assert isinstance(beam, Beam)
        assert beam == Beam(10 * u.arcsec, 8 * u.arcsec, 30 * u.deg)
        assert beam.meta == {'note': 'kept'}
        assert_allclose(beam.sr, image.meta['beam'].sr)
