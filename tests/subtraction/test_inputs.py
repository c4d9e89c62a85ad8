# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the inputs module: the kinds of images, errors, and masks.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import (
    CCDData,
    InverseVariance,
    NDData,
    StdDevUncertainty,
    VarianceUncertainty,
)
from astropy.utils.exceptions import AstropyUserWarning
from numpy.testing import assert_array_equal

from hyperphotutils.subtraction import ccd_error
from hyperphotutils.subtraction.inputs import read_image, read_pair

SHAPE = (6, 8)
VALUES = np.arange(48.0).reshape(SHAPE)
NOTHING = dict.fromkeys(('error', 'template_error', 'mask',
                         'template_mask'))


@pytest.fixture(name='bad')
def fixture_bad():
    bad = np.zeros(SHAPE, dtype=bool)
    bad[1, 2] = True
    return bad


def test_masked_array(bad):
    """
    What a masked array hides is added to the mask that is given.
    """
    data = np.ma.masked_equal(VALUES, 7.0)
    image = read_image(data, 'science', None, 'error', bad, 'mask')
    assert_array_equal(image.mask, bad | (VALUES == 7.0))
    assert_array_equal(image.data, VALUES)
    assert_array_equal(read_image(data, 'science').mask, VALUES == 7.0)


@pytest.mark.parametrize('kind', [
    lambda bad: bad.astype(np.int16) * 4, lambda bad: bad * u.one,
    lambda bad: fits.ImageHDU(bad.astype(np.uint8))])
def test_kinds_of_masks(bad, kind):
    """
    Any bit of an integer masks, whatever the mask is given as.
    """
    image = read_image(VALUES, 'science', None, 'error', kind(bad), 'mask')
    assert_array_equal(image.mask, bad)


@pytest.mark.parametrize('kind', [
    lambda error: error * u.Jy, lambda error: NDData(error, unit='Jy')])
def test_kinds_of_errors(kind):
    """
    Errors need the unit of the image, whatever they are given as.
    """
    error = np.full(SHAPE, 0.5)
    image = read_image(VALUES * u.Jy, 'science', kind(error))
    assert image.unit == u.Jy
    assert_array_equal(image.error, error)
    with pytest.raises(ValueError, match='must all have the same unit'):
        read_image(VALUES * u.K, 'science', kind(error))


def test_variances_of_nddata():
    """
    Another kind of uncertainty becomes standard deviations.
    """
    image = read_image(NDData(VALUES, uncertainty=VarianceUncertainty(
        np.full(SHAPE, 9.0))), 'science')
    assert_array_equal(image.error, 3.0)


def test_units_are_converted():
    science, template = read_pair(VALUES * u.Jy, VALUES * 1e3 * u.mJy,
                                  **NOTHING | {
        'template_error': np.full(SHAPE, 2e3) * u.mJy})
    assert science.unit == template.unit == u.Jy
    np.testing.assert_allclose(template.data, VALUES)
    np.testing.assert_allclose(template.error, 2.0)


def test_units_of_another_kind():
    with pytest.raises(ValueError, match=r'same kind \(science: Jy, '
                                         'template: K'):
        read_pair(VALUES * u.Jy, VALUES * u.K, **NOTHING)


@pytest.mark.parametrize(('unit', 'expected'), [
    ('Jy', u.Jy), ('ADU', u.adu), ('', None)])
def test_file(tmp_path, unit, expected):
    """
    An image may have axes of length one, and its unit may be spelled in
    capitals.
    """
    hdu = fits.PrimaryHDU(VALUES[None].astype('>f4'))
    hdu.header['BUNIT'] = unit
    hdu.writeto(tmp_path / 'image.fits')
    image = read_image(tmp_path / 'image.fits', 'science')
    assert_array_equal(image.data, VALUES)
    assert image.data.dtype.isnative
    assert image.unit == expected


def test_unknown_unit():
    hdu = fits.PrimaryHDU(VALUES)
    hdu.header['BUNIT'] = 'bananas'
    with pytest.warns(AstropyUserWarning, match="science: BUNIT='bananas' is "
                                                'no unit'):
        image = read_image(hdu, 'science')
    assert image.unit is None


@pytest.mark.parametrize(('dtype', 'expected'), [
    ('i2', np.float32), ('u1', np.float32), ('i4', float), ('f2', np.float32),
    ('>f8', float), ('f4', np.float32)])
def test_types_of_data(dtype, expected):
    """
    The type is the least one that keeps the values.
    """
    image = read_image(VALUES.astype(dtype), 'science')
    assert image.data.dtype == np.dtype(expected)
    assert_array_equal(image.data, VALUES)


@pytest.mark.parametrize(('data', 'error', 'match'), [
    (VALUES + 1j, TypeError, 'science must be an array of real numbers'),
    (VALUES[0], ValueError, r'science must be 2D, got the shape \(8,\)'),
    (VALUES[None], ValueError, 'science must be 2D')])
def test_wrong_data(data, error, match):
    with pytest.raises(error, match=match):
        read_image(data, 'science')


@pytest.mark.parametrize(('options', 'match'), [
    ({'gain': 0.0}, 'gain must be'), ({'gain': np.nan}, 'gain must be'),
    ({'gain': 1.0, 'read_noise': -1.0}, 'read_noise must be')])
def test_wrong_cameras(options, match):
    with pytest.raises(ValueError, match=match):
        ccd_error(VALUES, **options)


@pytest.mark.parametrize(('factors', 'name'), [
    ((1e-30, 1e-30), 'science'), ((1.0, 1e30), 'template')])
def test_values_beyond_single_precision(factors, name):
    """
    Images whose variances would be lost are refused, unless the values are
    masked.
    """
    images = [factor * VALUES for factor in factors]
    with pytest.raises(ValueError, match=f'the largest value of {name} is'):
        read_pair(*images, **NOTHING)
    huge = VALUES.copy()
    huge[1, 2] = 1e30
    mask = huge == 1e30
    read_pair(huge, VALUES, **NOTHING | {'mask': mask})


@pytest.fixture(name='write_ccd')
def fixture_write_ccd(tmp_path, bad):
    """
    A function that writes an image with a mask and errors of 0.5 as CCDData
    does.
    """
    def write(kind=StdDevUncertainty, power=1):
        path = tmp_path / f'{kind.__name__}.fits'
        CCDData(VALUES, unit='adu', mask=bad, uncertainty=kind(
            np.full(SHAPE, 0.5**power))).write(path)
        return path

    return write


@pytest.mark.parametrize(('kind', 'power'), [
    (StdDevUncertainty, 1), (VarianceUncertainty, 2), (InverseVariance, -2)])
def test_extensions_of_ccddata(write_ccd, bad, kind, power):
    """
    Files of CCDData are read as the CCDData, whatever its uncertainty is,
    and by all ways to name them.
    """
    path = write_ccd(kind, power)
    with fits.open(path) as hdus:
        images = [read_image(one, 'science') for one in (
            path, str(path), hdus, CCDData.read(path))]
    for image in images:
        assert image.unit == u.adu
        assert_array_equal(image.mask, bad)
        assert_array_equal(image.error, 0.5)


def test_given_errors_and_masks_come_first(write_ccd, bad):
    """
    Errors that are given replace those of the file; masks are combined.
    """
    path, other = write_ccd(), np.zeros(SHAPE, dtype=bool)
    other[3, 3] = True
    image = read_image(path, 'science', np.full(SHAPE, 3.0) * u.adu, 'error',
                       other, 'mask')
    assert_array_equal(image.error, 3.0)
    assert_array_equal(image.mask, bad | other)


def test_bad_errors_of_a_file_are_nan(write_ccd):
    """
    Pixels without a positive error are not used, and never count fully.
    """
    path = write_ccd(InverseVariance, -2)
    with fits.open(path, mode='update') as hdus:
        hdus['UNCERT'].data[0, :3] = 0.0, np.nan, np.inf
    error = read_image(path, 'science').error
    assert_array_equal(np.isnan(error[0, :4]), [True, True, True, False])


@pytest.mark.parametrize(('name', 'change', 'message'), [
    ('UNCERT', {'data': np.ones((3, 3))}, 'has 3 x 3 pixels instead of 8 x 6'),
    ('UNCERT', {'data': np.zeros(SHAPE)}, 'has no positive value'),
    ('UNCERT', {'header': fits.Header({'BUNIT': 'Jy'})},
     "has BUNIT = 'Jy', the map 'adu'"),
    ('MASK', {'data': np.full(SHAPE, 4)}, 'has bit flags'),
    ('MASK', {'data': np.ones((3, 3), int)}, 'has other pixels')])
def test_unusable_extensions(write_ccd, name, change, message):
    """
    What is not used of a file is named, with the remedy, in one warning.
    """
    path = write_ccd()
    with fits.open(path) as hdus:
        hdu = hdus[name]
        new = fits.ImageHDU(change.get('data', hdu.data), change.get('header'),
                            name=name)
        hdus[hdus.index_of(name)] = new
        hdus.writeto(path, overwrite=True)
    with pytest.warns(AstropyUserWarning) as caught:
        image = read_image(path, 'science')
    assert len(caught) == 1
    text = str(caught[0].message)
    assert str(path) in text
    assert f'({name})' in text
    assert message in text
    assert 'as a file' in text
    assert (image.error if name == 'UNCERT' else image.mask) is None
    # errors of a CCD are from its image only, and what is given is enough
    assert ccd_error(path, 2.0).unit == u.adu
    read_image(path, 'science', np.ones(SHAPE) * u.adu, 'error',
               np.zeros(SHAPE, bool), 'mask')


def test_errors_in_a_file_without_unit(write_ccd, tmp_path):
    """
    An error image whose header lacks BUNIT is in the unit of the image.
    """
    fits.PrimaryHDU(np.full(SHAPE, 3.0)).writeto(tmp_path / 'rms.fits')
    image = read_image(write_ccd(), 'science', tmp_path / 'rms.fits')
    assert image.unit == u.adu
    assert_array_equal(image.error, np.full(SHAPE, 3.0))


def test_origins_are_known(write_ccd):
    """
    Results can say which extensions were used.
    """
    image = read_image(write_ccd(), 'science')
    assert image.origins == {'error': '2 (UNCERT) of the file',
                             'mask': '1 (MASK) of the file'}
    assert read_image(np.ones(SHAPE), 'science').origins == {}
