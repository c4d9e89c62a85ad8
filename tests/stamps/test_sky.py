# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of skies, masks, and errors.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import NDData
from numpy.testing import assert_allclose

from hyperphotutils.datasets import make_star_field
from hyperphotutils.galaxy import SersicRenderer
from hyperphotutils.stamps import (
    find_gain,
    grow_mask,
    make_sigma_image,
    make_stamp_mask,
    subtract_sky,
)


@pytest.fixture(scope='module')
def field():
    return make_star_field((300, 300), 20, n_galaxies=15, seed=1)


@pytest.fixture(scope='module')
def sky():
    y, x = np.mgrid[-1:1:300j, -1:1:300j]
    return 30.0 + 9.0 * x - 6.0 * y**2 + 8.0 * x**3 - 5.0 * x * y**2


def test_cubic_sky(field, sky):
    """
    A cubic sky is found to a few percent of the noise, below sources,
    too.
    """
    result = subtract_sky(field.data + sky, fwhm=3.0)
    difference = result.background - sky
    # sqrt(10 terms / pixels that are left)
    expected = np.sqrt(10.0 / np.count_nonzero(~result.mask))
    assert difference.std() < 3.0 * expected
    assert abs(difference[result.mask].mean()) < 4.0 * expected
    assert_allclose(result.rms, 1.0, atol=0.02)
    assert_allclose(result.data, field.data + sky - result.background)


def test_two_rounds_are_better(field, sky):
    """
    Boxes hide sources where the sky is curved; the second round does not.
    """
    errors = [np.abs(subtract_sky(field.data + 3.0 * sky, fwhm=3.0,
                                  n_rounds=number).background
                     - 3.0 * sky).mean() for number in (1, 2)]
    assert errors[1] <= errors[0]


def test_wings_of_large_sources_are_masked():
    """
    Galaxies of n = 3 raise the sky by a tenth of the noise at most; with
    the same margin for all sources, by an eighth.
    """
    y, x = np.mgrid[-15:16, -15:16]
    psf = np.exp(-0.5 * (x**2 + y**2) / 1.3**2)
    places = np.linspace(50.0, 350.0, 4)
    x, y = (place.ravel() for place in np.meshgrid(places, places))
    data = SersicRenderer(psf / psf.sum(), 400)(
        flux=2e4, x=x, y=y, r_eff=5.0, n=3.0).sum(axis=0)
    data += np.random.default_rng(1).normal(size=data.shape)
    result = subtract_sky(data, fwhm=3.0, order=0)
    assert 0.0 < result.background.mean() < 0.1
    # but not by more than three margins
    assert np.mean(result.mask) < 0.7


def test_median(field):
    result = subtract_sky(field.data + 7.0, fwhm=3.0, method='median')
    assert_allclose(result.background, 7.0, atol=0.05)


def test_units_and_bad_pixels(field, sky):
    """
    Quantities and NDData give the same sky; NaN stays NaN.
    """
    data = field.data + sky
    plain = subtract_sky(data, fwhm=3.0)
    image = subtract_sky(NDData(data, unit=u.Jy), fwhm=3.0)
    assert_allclose(image.background.value, plain.background)
    assert image.rms.unit == u.Jy
    data = data.copy()
    data[10:20, 30:40] = np.nan
    result = subtract_sky(data, fwhm=3.0)
    assert np.isnan(result.data[15, 35])
    assert np.isfinite(result.background).all()
    assert result.mask[15, 35]
    assert_allclose(result.background, plain.background, atol=0.1)


def test_sky_arguments(field):
    with pytest.raises(ValueError, match='method must be'):
        subtract_sky(field.data, fwhm=3.0, method='mode')
    with pytest.raises(ValueError, match='fwhm must be a positive'):
        subtract_sky(field.data, fwhm=0.0)
    with pytest.raises(ValueError, match='n_rounds must be'):
        subtract_sky(field.data, fwhm=3.0, n_rounds=0)
    with pytest.raises(ValueError, match='pixels are left for the sky'):
        subtract_sky(field.data, fwhm=3.0, grow=300)


def test_sigma_image():
    """
    The variance is that of the sky and of the photons.
    """
    data = np.array([[0.0, 100.0, -5.0, np.nan]])
    sigma = make_sigma_image(data, gain=4.0, background_rms=2.0)
    assert_allclose(sigma, [[2.0, np.sqrt(4.0 + 25.0), 2.0, np.nan]])
    rate = make_sigma_image(data, gain=4.0, exposure=10.0 * u.s,
                            background_rms=2.0)
    assert_allclose(rate[0, 1], np.sqrt(4.0 + 2.5))
    quantity = make_sigma_image(data << u.ct, gain=4.0,
                                background_rms=2.0 * u.ct)
    assert_allclose(quantity.value, sigma)
    exposure = np.array([[1.0, 0.0, 1.0, 1.0]])
    assert np.isnan(make_sigma_image(data, gain=4.0, exposure=exposure,
                                     background_rms=2.0)[0, 1])


def test_sigma_image_is_the_scatter(field):
    """
    The errors of an image are those with which it was made.
    """
    sigma = make_sigma_image(field.data, gain=5.0)
    model = np.sqrt(1.0 + np.maximum(field.error**2 - 1.0, 0.0))
    bright = field.error > 3.0
    assert bright.sum() > 20
    assert_allclose(np.median(sigma[bright] / model[bright]), 1.0, atol=0.03)
    assert_allclose(np.median(sigma), 1.0, atol=0.1)


def test_sigma_image_without_gain():
    with pytest.raises(ValueError, match='gain must be given'):
        make_sigma_image(np.ones((2, 2)), gain=None, background_rms=1.0)
    with pytest.raises(ValueError, match='gain and exposure must be'):
        make_sigma_image(np.ones((2, 2)), gain=0.0, background_rms=1.0)


def test_grow_mask():
    mask = np.zeros((11, 11), dtype=bool)
    mask[5, 5] = True
    y, x = np.mgrid[-5:6, -5:6]
    assert np.array_equal(grow_mask(mask, 3.0), np.hypot(x, y) <= 3.0)
    assert np.array_equal(grow_mask(mask, 0.0), mask)


@pytest.fixture(scope='module')
def stamp():
    y, x = np.mgrid[:61, :61]
    data = np.random.default_rng(1).normal(0.0, 0.1, x.shape)
    for x0, width in ((30, 2.0), (46, 3.0)):
        data += 10.0 * np.exp(-np.hypot(x - x0, y - 30) / width)
    return data


def test_central_source_is_kept(stamp):
    """
    The neighbor is masked, the source is not; the growth of one never
    covers the other.
    """
    mask = make_stamp_mask(stamp, fwhm=3.0, grow=20)
    assert mask[30, 46]
    assert not mask[30, 30]
    small = make_stamp_mask(stamp, fwhm=3.0)
    assert 0 < small.sum() < mask.sum()
    both = make_stamp_mask(stamp, fwhm=3.0, keep='none')
    assert both[30, 30]
    assert both[30, 46]
    other = make_stamp_mask(stamp, fwhm=3.0, position=(46.0, 30.0))
    assert other[30, 30]
    assert not other[30, 46]


def test_isophotes_reach_the_noise(stamp):
    """
    The light that is left around a mask grown to the noise is less than
    the noise, and the largest distance holds.
    """
    mask = make_stamp_mask(stamp, fwhm=3.0, grow='isophote')
    y, x = np.mgrid[:61, :61]
    light = 10.0 * np.exp(-np.hypot(x - 46, y - 30) / 3.0)
    right = x > 40
    assert light[right & ~mask].max() < 0.1
    limited = make_stamp_mask(stamp, fwhm=3.0, grow='isophote', max_grow=1)
    assert limited.sum() < mask.sum()


def test_given_segments_and_bad_pixels(stamp):
    labels = np.zeros(stamp.shape, dtype=int)
    labels[28:33, 28:33] = 4
    labels[50:55, 10:15] = 9
    data = stamp.copy()
    data[0, 0] = np.nan
    mask = make_stamp_mask(data, fwhm=3.0, segmentation=labels)
    expected = labels == 9
    expected[0, 0] = True
    assert np.array_equal(mask, expected)
    with pytest.raises(ValueError, match='segmentation must have the shape'):
        make_stamp_mask(data, fwhm=3.0, segmentation=labels[1:])


def test_stamp_without_data_is_masked():
    assert make_stamp_mask(np.full((9, 9), np.nan), fwhm=3.0).all()
    assert make_stamp_mask(np.ones((9, 9)), fwhm=3.0,
                           mask=np.ones((9, 9), dtype=bool)).all()


def test_empty_stamp_has_no_mask():
    noise = np.random.default_rng(2).normal(size=(40, 40))
    assert not make_stamp_mask(noise, fwhm=3.0, n_sigma=8.0).any()


@pytest.mark.parametrize('arguments', [{'keep': 'all'}, {'grow': -1},
                                       {'grow': 'profile'}])
def test_mask_arguments(stamp, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        make_stamp_mask(stamp, fwhm=3.0, **arguments)


def test_gain_of_headers():
    """
    One gain is taken, several are named, and rates need the exposure time.
    """
    assert find_gain({'GAIN': 2.0}) == 2.0
    assert find_gain({'EGAIN': 2.0, 'EXPTIME': 10.0}, 'cps') == 20.0
    assert find_gain({'GAIN': 2.0, 'EGAIN': 3.0}, key='EGAIN') == 3.0
    assert find_gain({}, 1.5) == 1.5
    with pytest.raises(ValueError, match=r'GAIN = 2\.0, EGAIN = 3\.0'):
        find_gain({'GAIN': 2.0, 'EGAIN': 3.0})
    with pytest.raises(ValueError, match='no gain'):
        find_gain({'GAINKEY': 'x'})
    with pytest.raises(ValueError, match='EXPTIME'):
        find_gain({'GAIN': 2.0}, 'cps')
    with pytest.raises(ValueError, match='must be a number'):
        find_gain({'GAIN': 2.0}, 'many')
    with pytest.raises(ValueError, match='no positive EGAIN'):
        find_gain({'GAIN': 2.0}, key='EGAIN')
