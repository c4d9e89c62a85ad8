# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the clipped rms.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.stats import SigmaClip
from numpy.testing import assert_allclose
from scipy.special import erf

from hyperphotutils.noise import clipped_rms


@pytest.fixture(name='noise')
def fixture_noise():
    return np.random.default_rng(3).normal(-4.0, 2.5, (500, 500))


@pytest.mark.parametrize('n_sigma', [1.5, 2.0, 3.0, 5.0])
def test_gaussian_noise_is_unbiased(noise, n_sigma):
    assert_allclose(clipped_rms(noise, n_sigma=n_sigma), 2.5, rtol=0.01)


@pytest.mark.parametrize('amplitude', [12.0, 40.0, 1.0e4])
def test_five_percent_bright_pixels_change_little(noise, amplitude):
    rng = np.random.default_rng(4)
    bright = rng.random(noise.shape) < 0.05
    noise[bright] += amplitude * 2.5
    assert_allclose(clipped_rms(noise), 2.5, rtol=0.01)


def test_correction_separates_it_from_plain_clipping(noise):
    """
    Plain clipping at 2 sigma is far too low: the correction matters.
    """
    plain = SigmaClip(sigma=2.0, maxiters=None)(noise).std()
    assert plain < 0.85 * 2.5
    assert_allclose(clipped_rms(noise, n_sigma=2.0), 2.5, rtol=0.01)


def test_mask_and_nan_are_ignored(noise):
    expected = clipped_rms(noise[:250])
    mask = np.zeros(noise.shape, dtype=bool)
    mask[250:] = True
    assert clipped_rms(noise, mask=mask) == expected
    assert clipped_rms(np.ma.array(noise, mask=mask)) == expected
    noise[250:400] = np.nan
    noise[400:] = np.inf
    assert clipped_rms(noise) == expected


def test_it_is_that_of_clipping_all_pixels_in_every_round(noise):
    """
    Only the pixels next to the limit are looked at again, which changes
    nothing, also where the limit falls far below its first guess.
    """
    values = np.concatenate((noise.ravel(), 30.0 + 20.0 * noise[:230].ravel()))
    center = np.median(values)
    rms = 1.4826 * np.median(np.abs(values - center))
    cut = np.exp(-0.5 * 1.5**2) / np.sqrt(2.0 * np.pi)
    correction = np.sqrt(1.0 - 3.0 * cut / erf(1.5 / np.sqrt(2.0)))
    first = rms
    for _ in range(100):
        kept = values[np.abs(values - center) <= 1.5 * rms]
        center, rms = kept.mean(), kept.std(ddof=1) / correction
    assert rms < 0.6 * first
    assert_allclose(clipped_rms(values, n_sigma=1.5, max_iter=100), rms,
                    rtol=1e-6)


def test_input_is_not_changed(noise):
    before = noise.copy()
    clipped_rms(noise)
    assert np.array_equal(noise, before)


def test_unit_in_unit_out(noise):
    rms = clipped_rms(noise << u.Jy)
    assert rms.unit == u.Jy
    assert rms.value == clipped_rms(noise)


def test_scale_and_offset(noise):
    expected = clipped_rms(noise)
    assert_allclose(clipped_rms(noise * 1.0e-9 + 3.0), expected * 1.0e-9,
                    rtol=1.0e-6)


def test_constant_map_has_no_noise():
    rms = clipped_rms(np.full((20, 30), 7.3))
    assert rms == 0.0
    assert isinstance(rms, float)
    assert clipped_rms([5.0]) == 0.0


def test_map_with_more_than_half_zeros_is_not_zero(noise):
    noise[:300] = 0.0
    assert 0.0 < clipped_rms(noise) < 5.0


def test_integer_data():
    data = np.random.default_rng(0).normal(1000, 50, 40000).astype(np.int16)
    assert_allclose(clipped_rms(data), 50.0, rtol=0.02)


def test_no_good_pixel():
    with pytest.raises(ValueError, match='data has no good pixel'):
        clipped_rms(np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match='data has no good pixel'):
        clipped_rms(np.ones((3, 3)), mask=np.ones((3, 3), dtype=bool))


def test_bad_input():
    data = np.ones((3, 4))
    with pytest.raises(ValueError, match='mask must have the same shape'):
        clipped_rms(data, mask=np.zeros((4, 3), dtype=bool))
    with pytest.raises(TypeError, match='data must be real numbers'):
        clipped_rms(data * 1j)
    for value in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match='n_sigma must be positive'):
            clipped_rms(data, n_sigma=value)
    with pytest.raises(ValueError, match='max_iter must be at least 1'):
        clipped_rms(data, max_iter=0)
