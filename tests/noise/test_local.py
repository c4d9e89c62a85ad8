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
    measure_noise_variation,
    measure_relative_rms,
)
from hyperphotutils.noise.local import GridImage
from hyperphotutils.utils import add_gaussians

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


def test_a_plane_does_not_vary():
    """
    Noise on a steep plane has the same relative rms as without it, at the
    edges of the map and around a masked corner too.
    """
    noise = np.random.default_rng(1).normal(size=(90, 80))
    rows, cols = np.indices(noise.shape)
    mask = rows + cols < 40
    expected, relative = (
        measure_relative_rms(data, 4.0, mask=mask)
        for data in (noise, noise + 10.0 * cols - 7.0 * rows))
    assert_allclose(relative[~mask], expected[~mask], rtol=0.01)


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


def test_single_pixels_of_a_grid_are_those_of_its_image():
    """
    So is what is subtracted from an image, piece by piece.
    """
    rng = np.random.default_rng(8)
    grid = GridImage(rng.normal(size=(31, 5)), (-2.0, 1.0), (5.0, 8.0),
                     (150, 37))
    row, col = rng.integers(0, 150, 50), rng.integers(0, 37, 50)
    assert_allclose(grid.at(row, col), grid[:, :][row, col])
    image = np.zeros(grid.shape)
    grid.subtract_from(image)
    assert_allclose(image, -grid[:, :])


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
    monkeypatch.setattr(local, '_SMALL_BLOCK', 0.0)
    expected = measure_relative_rms(data, FWHM, mask=mask)
    assert not np.array_equal(relative, expected)
    assert_allclose(relative[~mask], expected[~mask], rtol=5e-3)


def vary_from_one_to_five(shape):
    """
    Return a rms that rises fivefold along x, with a step.
    """
    ny, nx = shape
    return np.ones((ny, 1)) * np.where(
        np.arange(nx) < nx // 2, 1.0, np.linspace(1.0, 5.0, nx))


@pytest.mark.parametrize('smooth', [True, False])
def test_variation_is_measured_among_sources(noise, smooth):
    """
    The variation of white noise and of noise seen through the beam is
    measured on a map full of sources within 15 %, away from the step.
    """
    rng = np.random.default_rng(6)
    image = noise if smooth else rng.normal(size=noise.shape)
    true = vary_from_one_to_five(image.shape)
    x, y = rng.uniform(0, 400, (2, 300))
    width = np.full(300, FWHM)
    data = image * true
    add_gaussians(data, x, y, rng.uniform(5.0, 100.0, 300), width, width,
                  0.0 * width)
    relative = measure_noise_variation(data, FWHM)
    for part in (slice(10, 175), slice(225, 390)):
        ratio = np.median(relative / true, axis=0)[part] * np.median(true)
        assert_allclose(ratio, 1.0, atol=0.2)
        assert_allclose(np.median(ratio), 1.0, atol=0.1)


@pytest.mark.parametrize('fwhm', [2.0, 4.0, 12.0])
def test_stationary_noise_does_not_vary(fwhm):
    """
    Neither white noise nor noise seen through the beam.
    """
    white = np.random.default_rng(2).normal(size=(160, 200))
    smooth = CorrelatedNoise.from_beam(1.0, fwhm).simulate((160, 200),
                                                           seed=3)
    for data in (white, smooth, smooth.astype(np.float32)):
        assert measure_noise_variation(data, fwhm) is None


@pytest.mark.parametrize('recipe', BLENDED_MAP_RECIPES)
def test_sources_are_not_taken_for_noise(recipe):
    """
    Crowded maps with a structured background have stationary noise.
    """
    sim = make_blended_map(**BLENDED_MAP_RECIPES[recipe], seed=5)
    fwhm = sim.image.meta['beam_fwhm_pix']
    assert measure_noise_variation(sim.image.data, fwhm) is None


def test_bright_crowds_hide_the_noise():
    """
    Sources of up to 1000 rms everywhere are not taken for noise.
    """
    rng = np.random.default_rng(0)
    data = CorrelatedNoise.from_beam(1.0, FWHM).simulate((200, 200), seed=1)
    x, y = rng.uniform(0, 200, (2, 250))
    width = np.full(250, FWHM)
    add_gaussians(data, x, y, 10.0**rng.uniform(0.7, 3.0, 250), width,
                  width, 0.0 * width)
    assert measure_noise_variation(data, FWHM) is None


def test_padding_and_planes_do_not_change_the_variation(noise):
    """
    Only good pixels count, whatever is around them or beneath them.
    """
    data = noise * vary_from_one_to_five(noise.shape)
    mask = np.zeros(data.shape, dtype=bool)
    mask[:30, :50] = mask[200:203, 100] = True
    expected = measure_noise_variation(data, FWHM, mask=mask)
    broken = np.where(mask, np.nan, data + 5.0 * np.arange(400.0))
    padded = np.pad(broken, ((17, 40), (3, 9)), constant_values=np.nan)
    relative = measure_noise_variation(padded << u.Jy, FWHM)
    assert_allclose(relative[17:-40, 3:-9], expected, rtol=1e-6)


@pytest.mark.parametrize('data', [
    np.ones((50, 50)), np.zeros((3, 4)), np.arange(2000.0).reshape(40, 50)])
def test_no_noise_no_variation(data):
    """
    A map without noise, or too small to tell, has none that varies.
    """
    assert measure_noise_variation(data, FWHM) is None
