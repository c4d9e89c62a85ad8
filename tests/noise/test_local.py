# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the local module.
"""

import astropy.units as u
import numpy as np
import pytest
from numpy.testing import assert_allclose

from hyperphotutils.datasets import BLENDED_MAP_RECIPES, make_blended_map
from hyperphotutils.noise import (
    CorrelatedNoise,
    local,
    measure_relative_rms,
)

FWHM = 4.0


@pytest.fixture(name='noise', scope='module')
def _noise():
    return CorrelatedNoise.from_beam(1.0, FWHM).simulate((400, 400), seed=3)


def test_ramp_of_the_noise_is_followed(noise):
    """
    Noise that rises fourfold across the map is measured as such, away
    from the borders of the window.
    """
    ramp = np.geomspace(0.5, 2.0, 400)
    relative = measure_relative_rms(noise * ramp, FWHM)
    columns = np.median(relative, axis=0)
    middle = slice(60, 340)
    ratio = columns[middle] / ramp[middle]
    assert_allclose(ratio / np.median(ratio), 1.0, atol=0.12)


def test_stationary_noise_varies_by_chance_only():
    """
    Noise and structured background of the recipes vary by less than 1.3
    from the 16th to the 84th percentile.
    """
    for seed in (3000, 3001):
        sim = make_blended_map(**BLENDED_MAP_RECIPES['dense'] | {
            'n_sources': 0}, seed=seed)
        relative = measure_relative_rms(
            sim.image.data, sim.image.meta['beam_fwhm_pix'])
        low, high = np.percentile(relative, [16.0, 84.0])
        assert high / low < 1.3


def test_masked_pixels_and_units_do_not_count(noise):
    """
    Bad pixels behind a mask or NaN have no influence on others.
    """
    mask = np.zeros(noise.shape, dtype=bool)
    mask[100:110, 100:110] = True
    expected = measure_relative_rms(noise, FWHM, mask=mask)
    broken = np.where(mask, 1e6, noise)
    assert_allclose(measure_relative_rms(broken << u.Jy, FWHM, mask=mask),
                    expected)
    assert_allclose(
        measure_relative_rms(np.where(mask, np.nan, noise), FWHM), expected)


def test_a_constant_map_does_not_vary():
    """
    Without noise there is nothing to scale.
    """
    assert np.all(measure_relative_rms(np.ones((50, 50)), FWHM) == 1.0)


def test_blocks_change_nothing(noise, monkeypatch):
    """
    The mean over a wide window is taken of blocks, which is the same to
    half a percent, to the very edges and beside masked pixels.
    """
    ramp = np.geomspace(0.5, 2.0, 397)
    mask = np.zeros((400, 397), dtype=bool)
    mask[:, :50] = True
    mask[200:230, 300:340] = True
    data = noise[:, :397] * ramp
    relative = measure_relative_rms(data, FWHM, mask=mask)
    monkeypatch.setattr(
        local, 'mean_in_blocks', lambda values, good, sigma, _:
        local._mean_of_good(values, good, sigma))
    expected = measure_relative_rms(data, FWHM, mask=mask)
    assert not np.array_equal(relative, expected)
    assert_allclose(relative[~mask], expected[~mask], rtol=5e-3)
