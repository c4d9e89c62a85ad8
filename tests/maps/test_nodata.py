# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of what is no data in a file: fill values, and images that are not
the map; and of the errors beside it.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import StdDevUncertainty
from astropy.utils.exceptions import AstropyUserWarning
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

from hyperphotutils.maps import MapError, load_image, read_cube, read_map
from hyperphotutils.maps.reader import read_map_to_file

AUXILIARY = [
    'ERR', 'error', 'Error_1', 'STDDEV', 'stDev', 'RMS', 'RMSMAP', 'NOISE',
    'SCI_ERR', 'UNCERT', 'VAR', 'VAR_POISSON', 'VARIANCE', 'IVAR', 'WEIGHT',
    'Weights2', 'WHT', 'COVERAGE', 'COV', 'EXPOSURE', 'EXP', 'MASK',
    'FLAG', 'FLAGS', 'DQ', 'BKG', 'BACKGROUND']
MAPS = ['MAP', 'I', 'CLEANED', 'BKG_SUB', 'EXPANDED', 'STOKES_I', 'COVENTRY']


@pytest.fixture
def field():
    """
    Noise that the beam has smoothed, with a frame of zeros.
    """
    noise = gaussian_filter(np.random.default_rng(1).normal(size=(60, 70)),
                            1.9, mode='wrap')
    data = np.zeros((60, 70))
    data[10:-10, 10:-10] = (noise / noise.std())[10:-10, 10:-10]
    return data


@pytest.fixture
def make_file(make_hdu, field):
    """
    A function that makes an HDU list of a map and other images, each
    with values and cards.
    """

    def make(name='SCI', **others):
        hdus = [fits.PrimaryHDU(),
                fits.ImageHDU(field, make_hdu(field).header, name=name)]
        for other, (values, cards) in others.items():
            header = make_hdu(values).header
            del header['BUNIT']
            header.update(cards)
            hdus.append(fits.ImageHDU(values, header, name=other))
        return fits.HDUList(hdus)

    return make


class TestFillValues:
    def test_zeros_around_a_field(self, make_hdu, field):
        """
        The values become NaN, are masked, and counted.
        """
        image = read_map(make_hdu(field))
        assert_array_equal(image.mask, field == 0.0)
        assert_array_equal(np.isnan(image.data), field == 0.0)
        assert image.meta['fill_values'] == (0.0,)
        assert image.meta['n_fill'] == np.count_nonzero(field == 0.0)

    def test_wide_map(self, make_hdu, field):
        """
        They are found as they are in the file, however pixels differ.
        """
        field[field == 0.0] = -32768.0
        hdu = make_hdu(field, BUNIT='MJy/sr', CTYPE1='RA---CAR',
                       CTYPE2='DEC--CAR', CRVAL2=0.0, CRPIX2=-2000.0,
                       CDELT1=-0.02, CDELT2=0.02, BMAJ=0.08, BMIN=0.08)
        assert_array_equal(read_map(hdu).mask, field == -32768.0)

    def test_model_maps_and_constants(self, make_hdu):
        """
        Without noise nothing is fill.
        """
        y, x = np.indices((60, 70))
        model = np.exp(-((x - 30)**2 + (y - 30)**2) / 8.0)
        for data in (model, np.where(model > 0.01, model, 0.0),
                     np.zeros((60, 70))):
            image = read_map(make_hdu(data))
            assert not image.mask.any()
            assert (image.meta['fill_values'], image.meta['n_fill']) == (
                (), 0)

    def test_saturated_sources_are_no_fill(self, make_hdu, field):
        """
        A flat top is left for the photometry to find.
        """
        y, x = np.indices(field.shape)
        field = field[10:-10, 10:-10]
        top = 1000.0 * np.exp(-((x - 30)**2 + (y - 30)**2) / 8.0)
        data = np.minimum(field + top[10:-10, 10:-10], 50.0)
        assert not read_map(make_hdu(data)).mask.any()

    @pytest.mark.parametrize(('fill_value', 'expected'), [
        (False, []), (-1.0, [-1.0]), ([-1.0, 99.9], [-1.0, 99.9]), (7.0, []),
        (np.array([99.9]), [99.9]), (-1, [-1.0]), ([], []),
        ([-1, -1.0, 99.9, -1], [-1.0, 99.9])])
    def test_given_values(self, make_hdu, field, fill_value, expected):
        """
        Given values are blanked wherever they are, and no others; each is
        named once.
        """
        field[30, 30], field[31, 40] = -1.0, 99.9
        data = field.astype('f4')
        image = read_map(make_hdu(data), fill_value=fill_value)
        wanted = np.isin(data, np.array(expected, dtype='f4'))
        assert_array_equal(image.mask, wanted)
        assert list(image.meta['fill_values']) == expected
        assert image.meta['n_fill'] == wanted.sum()

    def test_all_filled(self, make_hdu):
        """
        A map of nothing else says so.
        """
        with pytest.raises(MapError, match='but the fill value 1: give '
                                           'another fill_value'):
            read_map(make_hdu(np.ones((30, 40))), fill_value=1.0)

    @pytest.mark.parametrize('fill_value', [
        True, '0', [0.0, '1'], [None], 0.0 * u.Jy, np.zeros((1, 2))])
    def test_wrong_kind(self, make_hdu, fill_value):
        """
        What is no number is refused, by the reader of cubes, too.
        """
        for read in (read_map, read_cube):
            with pytest.raises(TypeError, match='fill_value must be a numb'):
                read(make_hdu(), fill_value=fill_value)


class TestCubes:
    @pytest.fixture
    def make_cube(self, make_hdu, field):
        """
        A function that makes the HDU of a cube with zeros in one plane.
        """

        def make(**cards):
            full = np.random.default_rng(2).normal(size=field.shape)
            return make_hdu(np.array([field, full]), **{
                'CTYPE3': 'VRAD', 'CRVAL3': 0.0, 'CRPIX3': 1.0,
                'CDELT3': 500.0, 'CUNIT3': 'm/s', **cards})

        return make

    def test_each_plane(self, make_cube, field):
        """
        Each plane is examined by itself, when it is read.
        """
        cube = read_cube(make_cube())
        expected = np.array([field == 0.0, np.zeros(field.shape)])
        for index, blank in enumerate(expected):
            assert_array_equal(np.isnan(cube.plane(index)), blank)
            image = cube.channel(index)
            assert_array_equal(image.mask, blank)
            assert image.meta['n_fill'] == blank.sum()
        assert read_cube(make_cube(), fill_value=False).plane(0)[0, 0] == 0.0

    def test_without_a_beam(self, make_cube, field):
        """
        Planes need no beam.
        """
        cube = read_cube(make_cube(BMAJ=None, BMIN=None, BPA=None))
        assert_array_equal(np.isnan(cube.plane(0)), field == 0.0)


class TestChoice:
    @pytest.mark.parametrize('name', AUXILIARY)
    def test_auxiliary_image_before_the_map(self, make_hdu, name):
        """
        Errors, weights and the like are never taken for the map.
        """
        header = make_hdu().header
        hdus = fits.HDUList([
            fits.PrimaryHDU(), fits.ImageHDU(np.ones((30, 40)), header, name),
            fits.ImageHDU(np.ones((30, 40)), header, name='MAP')])
        assert load_image(hdus).extension == '2 (MAP)'
        hdus[2].name = ''
        assert load_image(hdus).extension == '2 (unnamed)'

    @pytest.mark.parametrize('name', MAPS)
    def test_maps_with_similar_names(self, make_hdu, name):
        """
        A name that only looks like it is that of a map.
        """
        header = make_hdu().header
        hdus = fits.HDUList([
            fits.PrimaryHDU(), fits.ImageHDU(np.ones((30, 40)), header, name),
            fits.ImageHDU(np.ones((30, 40)), header, name='WEIGHT')])
        assert load_image(hdus).extension == f'1 ({name})'

    def test_only_auxiliary_images(self, make_hdu):
        """
        The only image is the map by any name; of several, none.
        """
        image = fits.ImageHDU(np.ones((30, 40)), make_hdu().header, 'ERR')
        hdus = fits.HDUList([fits.PrimaryHDU(), image])
        assert load_image(hdus).extension == '1 (ERR)'
        hdus.append(fits.ImageHDU(np.ones((30, 40)), name='WHT'))
        with pytest.raises(MapError, match=r'no map among its images.*give '
                                           'ext= for one of them'):
            load_image(hdus)
        assert load_image(hdus, ext='ERR').extension == '1 (ERR)'


class TestErrors:
    @pytest.mark.parametrize(('name', 'power'), [
        ('ERR', 1), ('error', 1), ('STDDEV', 1), ('stDev', 1), ('RMS', 1),
        ('RMSMAP', 1), ('UNCERT', 1), ('VAR', 2), ('VARIANCE', 2)])
    def test_recognized(self, make_file, field, name, power):
        """
        Errors are recognized, and converted as the map is.
        """
        values = np.random.default_rng(3).uniform(1.0, 2.0, field.shape)
        image = read_map(make_file(**{name: (values**power, {})}),
                         fill_value=False)
        assert isinstance(image.uncertainty, StdDevUncertainty)
        assert image.uncertainty.unit == image.unit
        scale = image.data[30, 30] / field[30, 30]
        assert_allclose(image.uncertainty.array, values * scale)
        assert image.meta['error_extension'] == f'2 ({name.upper()})'

    @pytest.mark.parametrize(('kind', 'power'), [
        ('StdDevUncertainty', 1), ('VarianceUncertainty', 2),
        ('InverseVariance', -2), ('var', 2), ('Data.Error', 1)])
    def test_kind_of_ccddata(self, make_file, field, kind, power):
        """
        CCDData states the kind of its uncertainty; other texts are none.
        """
        plain = read_map(make_file(UNCERT=(np.full(field.shape, 2.0), {})))
        image = read_map(make_file(UNCERT=(
            np.full(field.shape, 2.0**power), {'UTYPE': kind})))
        assert_allclose(image.uncertainty.array, plain.uncertainty.array)

    def test_none(self, make_file, make_hdu, field):
        """
        Other images are no errors, and errors can be refused.
        """
        ones = (np.ones(field.shape), {})
        for hdus, options in (
                (make_file(VAR_POISSON=ones, WHT=ones, ERR2=ones), {}),
                (make_file(ERR=ones), {'error_extension': False}),
                (make_hdu(field), {})):
            image = read_map(hdus, **options)
            assert image.uncertainty is None
            assert image.meta['error_extension'] is None

    def test_preference_and_number(self, make_file, field):
        """
        Errors come before variances, and those with the number of the
        map belong to it.
        """
        ones = np.ones(field.shape)
        hdus = make_file('SCI2', ERR=(ones, {}), VAR2=(ones, {}),
                         ERR2=(ones, {}))
        image = read_map(hdus, ext='SCI2')
        assert image.meta['error_extension'] == '4 (ERR2)'

    def test_versions(self, make_file, field):
        """
        So do those with its version.
        """
        hdus = make_file(ERR=(np.ones(field.shape), {}))
        for hdu in [hdu.copy() for hdu in hdus[1:]]:
            hdu.ver = 2
            hdus.append(hdu)
        for version, expected in ((1, '2 (ERR)'), (2, '4 (ERR)')):
            image = read_map(hdus, ext=('SCI', version))
            assert image.meta['error_extension'] == expected

    @pytest.mark.parametrize(('name', 'unit', 'factor'), [
        ('ERR', 'Jy/beam', 1.0), ('ERR', 'mJy/beam', 1e-3),
        ('ERR', 'JY/BEAM', 1.0), ('VAR', 'mJy2/beam2', 1e-6),
        ('VAR', '(mJy/beam)2', 1e-6), ('VAR', 'mJy/beam', 1e-6)])
    def test_own_unit(self, make_file, field, name, unit, factor):
        """
        Errors may have another unit of the same kind.
        """
        ones = np.ones(field.shape)
        image = read_map(make_file(**{name: (ones, {'BUNIT': unit})}))
        plain = read_map(make_file(**{name: (ones, {})}))
        power = 2 if name == 'VAR' else 1
        assert_allclose((image.uncertainty.array
                         / plain.uncertainty.array)**power, factor)

    @pytest.mark.parametrize('unit', [
        'K', 'counts', 'Jy2/beam2', 'what', '-1 Jy/beam', '0 Jy/beam'])
    def test_wrong_unit(self, make_file, field, unit):
        """
        A unit of another kind is refused, with the remedy.
        """
        hdus = make_file(ERR=(np.ones(field.shape), {'BUNIT': unit}))
        with pytest.raises(MapError, match=f"BUNIT = '{unit}', the map 'Jy / "
                           "beam': give another error_extension, or False"):
            read_map(hdus)

    def test_wrong_shape(self, make_file):
        """
        Errors of another size are refused, with the remedy.
        """
        hdus = make_file(ERR=(np.ones((20, 30)), {}))
        with pytest.raises(MapError, match=r'extension 2 \(ERR\).*30 x 20 '
                           'pixels instead of 70 x 60: give another'):
            read_map(hdus)

    def test_unusable_values(self, make_file, field):
        """
        Errors that are not positive are NaN: the pixel is not fitted.
        """
        values = np.ones(field.shape)
        values[20, 20:23] = 0.0, -1.0, np.nan
        image = read_map(make_file(ERR=(values, {})))
        assert_array_equal(np.isnan(image.uncertainty.array),
                           ~(values > 0.0))

    @pytest.mark.parametrize('value', [0.0, -1.0, np.nan])
    def test_no_usable_value(self, make_file, field, value):
        """
        Errors of which none is positive are refused, with the remedy.
        """
        hdus = make_file(ERR=(np.full(field.shape, value), {}))
        with pytest.raises(MapError, match='no positive value: give another'):
            read_map(hdus)

    def test_degenerate_axes(self, make_hdu, field):
        """
        Axes of length 1 are dropped here as in the map.
        """
        cube = make_hdu(field[np.newaxis])
        hdus = fits.HDUList([cube, fits.ImageHDU(
            np.full((1, *field.shape), 2.0), name='ERR')])
        image = read_map(hdus)
        assert image.uncertainty.array.shape == field.shape

    def test_given(self, make_file, field):
        """
        Any image can be named, and what is none is refused.
        """
        hdus = make_file(NOISE=(np.ones(field.shape), {}))
        for given in ('NOISE', 2, ('noise', 1)):
            image = read_map(hdus, error_extension=given)
            assert image.meta['error_extension'] == '2 (NOISE)'
        with pytest.raises(MapError, match="error_extension='X'"):
            read_map(hdus, error_extension='X')
        with pytest.raises(MapError, match='error_extension=0 is not an'):
            read_map(hdus, error_extension=0)
        with pytest.raises(MapError, match='error_extension=1 is the map'):
            read_map(hdus, error_extension=1)

    def test_given_with_an_hdu(self, make_hdu, field):
        """
        An HDU alone has no errors beside it.
        """
        with pytest.raises(MapError, match="no extension error_extension='E"):
            read_map(make_hdu(field), error_extension='ERR')

    @pytest.mark.parametrize('given', [
        1.5, True, b'ERR', ['ERR'], ('ERR',), ('ERR', 1, 2), ('ERR', '1')])
    @pytest.mark.parametrize('keyword', ['ext', 'error_extension'])
    def test_no_name_of_an_extension(self, make_file, keyword, given):
        """
        What names no extension is a wrong argument, not a damaged file.
        """
        with pytest.raises(TypeError, match=f'^{keyword} must be the number'):
            read_map(make_file(), **{keyword: given})

    def test_errors_read_as_a_map(self, make_file, field):
        """
        Errors that are asked for as the map have no errors.
        """
        hdus = make_file(ERR=(np.ones(field.shape), {'BUNIT': 'Jy/beam'}))
        assert read_map(hdus, ext='ERR').uncertainty is None

    def test_unit_of_quantity(self, make_file, field):
        """
        The uncertainty has the unit of the data for astropy, too.
        """
        image = read_map(make_file(ERR=(np.ones(field.shape), {})))
        assert image.uncertainty.quantity.unit == u.Jy / u.pix


class TestMasks:
    @pytest.fixture
    def bad(self, field):
        """
        Pixels to be masked, inside the field.
        """
        bad = np.zeros(field.shape, dtype=bool)
        bad[20:24, 30:40] = True
        return bad

    @pytest.mark.parametrize(('dtype', 'value'), [
        ('u1', 1), ('u1', 255), ('i2', 1), ('i4', 255), ('f4', 1.0),
        ('f8', 255.0)])
    def test_used(self, make_file, field, bad, dtype, value):
        """
        Masked pixels have no values, whatever the type of the mask and the
        number with which it is written.
        """
        hdus = make_file(MASK=((bad * value).astype(dtype), {}))
        image = read_map(hdus)
        assert_array_equal(image.mask, bad | (field == 0.0))
        assert_array_equal(np.isnan(image.data), image.mask)
        assert image.meta['mask_extension'] == '2 (MASK)'
        assert image.meta['n_masked'] == bad.sum()
        assert image.meta['unused_masks'] is None
        # the HDU alone has no mask beside it
        alone = read_map(hdus['SCI'])
        assert_array_equal(alone.mask, field == 0.0)
        assert (alone.meta['mask_extension'], alone.meta['n_masked']) == (
            None, 0)

    def test_masked_values_do_not_matter(self, make_file, field, bad):
        """
        They are not even looked at as fill values.
        """
        field[bad] = 1e30
        hdus = make_file(MASK=((bad | (field == 0.0)).astype('u1'), {}))
        image = read_map(hdus)
        assert image.meta['n_fill'] == 0
        assert np.nanmax(np.abs(image.data)) < 10.0

    def test_in_a_file(self, make_hdu, field, bad, tmp_path):
        """
        So they are in maps that are too large for the memory, and with axes
        of length 1.
        """
        hdus = fits.HDUList([
            make_hdu(field[np.newaxis]),
            fits.ImageHDU(bad[np.newaxis].astype('u1'), name='MASK')])
        hdus.writeto(tmp_path / 'map.fits')
        image = read_map(tmp_path / 'map.fits')
        large = read_map_to_file(tmp_path / 'map.fits',
                                 tmp_path / 'values.dat')
        for one in (image, large):
            assert_array_equal(one.mask, bad | (field == 0.0))
            assert_array_equal(np.isnan(one.data), one.mask)

    @pytest.mark.parametrize(('name', 'dtype'), [
        ('MASK', 'i4'), ('MASK', 'u1'), ('DQ', 'u1'), ('FLAGS', 'i2'),
        ('QUALITY', 'i4')])
    def test_bit_flags(self, make_file, field, bad, name, dtype):
        """
        Flags may mark good pixels: they are not used, and named.
        """
        flags = bad * np.array(32, dtype)
        if dtype == 'u1':
            flags[0, 0] = 2
        with pytest.warns(AstropyUserWarning,
                          match=rf'without.*2 \({name}\) has bit flags.*: '
                          'set the bad pixels of the map to NaN') as caught:
            image = read_map(make_file(**{name: (flags, {})}))
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert_array_equal(image.mask, field == 0.0)
        assert image.meta['mask_extension'] is None
        assert image.meta['unused_masks'] == f'2 ({name})'

    @pytest.mark.parametrize(('dtype', 'value'), [
        ('u1', 2), ('i1', -1), ('i2', 2), ('i4', 32), ('f4', 2.0),
        ('f4', 0.5), ('f4', np.nan)])
    def test_other_values(self, make_file, field, bad, dtype, value):
        """
        A single value that is not one of masks may be a flag of good pixels,
        such as those of sources, whatever its type: it is not used.
        """
        values = np.where(bad, value, 0).astype(dtype)
        with pytest.warns(AstropyUserWarning, match=r'extension 2 \(MASK\) '
                          'has bit flags or values other than 0 and 1, or 0 '
                          'and 255, some of which may mark good pixels: set '
                          'the bad pixels of the map to NaN'):
            image = read_map(make_file(MASK=(values, {})))
        assert_array_equal(image.mask, field == 0.0)

    def test_two_values(self, make_file, field, bad):
        """
        Both values of masks in one are two flags.
        """
        values = bad.astype('u1')
        values[22] *= 255
        with pytest.warns(AstropyUserWarning, match='has bit flags or values'):
            image = read_map(make_file(MASK=(values, {})))
        assert_array_equal(image.mask, field == 0.0)

    def test_used_beside_unused(self, make_file, field, bad):
        """
        The metadata tell masks that are used from others.
        """
        hdus = make_file(MASK=(bad.astype('u1'), {}), DQ=(4 * bad, {}),
                         FLAGS=(2 * bad, {}))
        with pytest.warns(AstropyUserWarning, match='has bit flags'):
            image = read_map(hdus)
        assert image.meta['mask_extension'] == '2 (MASK)'
        assert image.meta['unused_masks'] == '3 (DQ) and 4 (FLAGS)'

    def test_other_shape(self, make_file, field):
        """
        A mask of other pixels cannot be used.
        """
        with pytest.warns(AstropyUserWarning, match='has other pixels'):
            image = read_map(make_file(MASK=(np.ones((3, 4), 'u1'), {})))
        assert_array_equal(image.mask, field == 0.0)
        assert image.meta['unused_masks'] == '2 (MASK)'

    @pytest.mark.parametrize(('name', 'mask'), [
        ('SCI', 'SCI_MASK'), ('SCI', 'mask_sci'), ('F160W', 'F160W_MASK'),
        ('SIGNAL_MAP', 'SIGNAL MASK'), ('SCI_2', 'MASK2'),
        ('SCI_2', 'SCI_2_MASK'), ('SCI_2', 'SCI_MASK_2'), ('', 'MASK')])
    def test_with_the_name_of_the_map(self, make_file, field, bad, name, mask):
        """
        A mask may also have the name of the map.
        """
        image = read_map(make_file(name, **{mask: (bad.astype('u1'), {})}))
        assert_array_equal(image.mask, bad | (field == 0.0))
        assert image.meta['mask_extension'] == f'2 ({mask.upper()})'

    @pytest.mark.parametrize(('mask', 'version', 'advice'), [
        ('MASK_2', 1, {'EXTNAME': 'MASK'}), ('MASK', 2, {'EXTVER': 1}),
        ('CLOUDMASK', 1, {'EXTNAME': 'MASK'}), ('SCI_MASK', 2, {'EXTVER': 1}),
        ('ERR_MASK', 2, {'EXTNAME': 'MASK', 'EXTVER': 1})])
    def test_of_no_image(self, make_file, field, bad, mask, version, advice):
        """
        A mask that belongs to no image in the file is named, with how to use
        it.
        """
        hdus = make_file(**{mask: (bad.astype('u1'), {'EXTVER': version})})
        changes = ' and '.join(f'{key} = {value!r}'
                               for key, value in advice.items())
        with pytest.warns(AstropyUserWarning, match=rf'2 \({mask}\) is not '
                          'that of the image by its EXTNAME or EXTVER: if it '
                          rf'masks extension 1 \(SCI\), set its {changes}$'
                          ) as caught:
            image = read_map(hdus)
        assert len(caught) == 1
        assert_array_equal(image.mask, field == 0.0)
        assert image.meta['mask_extension'] is None
        assert image.meta['unused_masks'] == f'2 ({mask})'
        hdus[2].header.update(advice)
        hdus = fits.HDUList([*hdus[:2], fits.ImageHDU(hdus[2].data,
                                                      hdus[2].header)])
        assert_array_equal(read_map(hdus).mask, bad | (field == 0.0))

    @pytest.mark.parametrize(('names', 'versions'), [
        (('SCI', 'SCI_2', 'MASK', 'MASK_2'), (1, 1, 1, 1)),
        (('SCI', 'SCI', 'MASK', 'MASK'), (1, 2, 1, 2)),
        (('LOW', 'HIGH', 'LOW_MASK', 'HIGH_MASK'), (1, 1, 1, 1))])
    def test_of_another_image(self, make_hdu, field, bad, names, versions):
        """
        Each image has its own mask, that of another is not reported.
        """
        other = np.roll(bad, 5, axis=0)
        values = (field, field, bad.astype('u1'), other.astype('u1'))
        hdus = fits.HDUList([fits.PrimaryHDU(), *(
            fits.ImageHDU(one, make_hdu(one).header, name=name, ver=version)
            for one, name, version in zip(values, names, versions,
                                          strict=True))])
        for number, mask in ((1, bad), (2, other)):
            image = read_map(hdus, ext=number)
            assert_array_equal(image.mask, mask | (field == 0.0))
            assert image.meta['mask_extension'] == (
                f'{number + 2} ({names[number + 1]})')

    @pytest.mark.parametrize('name', ['SOURCE_MASK', 'MASKED_SCI',
                                      'SMALL_MASK'])
    def test_no_masks_of_bad_pixels(self, make_file, field, bad, name):
        """
        Masks of sources, maps without their bad pixels, and masks of other
        pixels are no masks of the map, and are not reported.
        """
        values = bad[:9] if name == 'SMALL_MASK' else bad
        image = read_map(make_file(**{name: (values.astype('u1'), {})}),
                         ext='SCI')
        assert_array_equal(image.mask, field == 0.0)

    @pytest.mark.parametrize('fill', [0.0, -99.0])
    def test_most_values_masked(self, make_file, field, fill):
        """
        A mask that may be 1 at good pixels is warned of, with an advice that
        also those who have only the command can follow; one of the frame
        without values is not.
        """
        frame = field == 0.0
        field[frame] = fill
        most = ~frame
        most[:20] = False
        with pytest.warns(AstropyUserWarning, match=r'extension 2 \(MASK\) of '
                          r'the FITS file masks [6-9]\d % of the values of '
                          'the map: if it is not 0 at good pixels, invert it '
                          'in the file, or remove it from the file$'):
            read_map(make_file(MASK=((most | frame).astype('u1'), {})))
        assert read_map(make_file(MASK=(frame.astype('u1'), {}))).meta[
            'n_masked'] == np.count_nonzero(frame)

    @pytest.mark.parametrize('fill', [0.0, -99.0])
    def test_inverted_mask(self, make_file, field, fill):
        """
        One that is 1 at the good pixels and 0 around them is named.
        """
        frame = field == 0.0
        field[frame] = fill
        with pytest.raises(MapError, match=r'extension 2 \(MASK\).*must be 0 '
                           'at good pixels'):
            read_map(make_file(MASK=((~frame).astype('u1'), {})))

    def test_all_masked(self, make_file, field):
        """
        A mask that is 1 at good pixels is explained.
        """
        hdus = make_file(MASK=(np.ones(field.shape, 'u1'), {}))
        with pytest.raises(MapError, match=r'has no value that extension '
                           r'2 \(MASK\) does not mask: it must be 0 at good'):
            read_map(hdus)
