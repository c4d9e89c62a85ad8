# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Close pairs are split, and nothing else is.
"""

import numpy as np
import pytest
from astropy.table import QTable
from numpy.testing import assert_allclose

from hyperphotutils.blend import BlendGroupFitter
from hyperphotutils.blend.pairs import find_pairs
from hyperphotutils.noise import CorrelatedNoise
from hyperphotutils.photometry import HyperPhotometry
from hyperphotutils.utils import add_gaussians

FWHM = 4.0
SIZE = 31
NOISE = CorrelatedNoise.from_beam(1.0, FWHM)


def simulate(parts, *, n_rows=12, seed=0):
    """
    A map of n_rows x n_rows equal sources, each the sum of Gaussians: dx,
    dy, amplitude, major, minor, and theta; and what the fit of one
    Gaussian to each leaves, as a first fit with independent pixels does.
    """
    y, x = np.mgrid[:n_rows, :n_rows] * SIZE + SIZE // 2
    x, y = x.ravel().astype(float), y.ravel().astype(float)
    data = NOISE.simulate((n_rows * SIZE,) * 2, seed=seed)
    for dx, dy, *shape in parts:
        add_gaussians(data, x + dx, y + dy,
                      *(np.full(len(x), value) for value in shape))
    fitter = BlendGroupFitter(FWHM)
    table = fitter(data, init_params=QTable({'x_init': x, 'y_init': y}))
    return data, data - fitter.make_model_image(), table


def pairs_of(residual, table, mask=None):
    """
    Find the pairs with the defaults of the photometry.
    """
    pairs, _ = find_pairs(residual, table, NOISE, FWHM, fit_radius=2 * FWHM,
                          mask=(np.zeros(residual.shape, dtype=bool)
                                if mask is None else mask))
    return pairs


def pair(separation, ratio=1.0, width=1.1):
    """
    Two round sources at a separation in beams, at 30 degrees.
    """
    step = 0.5 * separation * FWHM * np.array([np.cos(0.5), np.sin(0.5)])
    shape = (width * FWHM, width * FWHM, 0.0)
    return [(*step, 30.0, *shape), (*-step, 30.0 * ratio, *shape)]


@pytest.mark.parametrize('ratio', [1.0, 0.5])
def test_pairs_are_found_where_they_are(ratio):
    """
    At a peak of 30 times the noise, nine of ten pairs less than a beam
    apart, within a fifth of a beam.
    """
    _, residual, table = simulate(pair(0.9, ratio))
    pairs = pairs_of(residual, table)
    rows = np.unique(pairs['row'])
    assert len(pairs) == 2 * len(rows) > 2 * 0.9 * len(table)
    true = pair(0.9, ratio)
    for k in range(0, len(pairs), 2):
        center = pairs['row'][k] % 12 * SIZE + 15, (
            pairs['row'][k] // 12 * SIZE + 15)
        found = np.sort(pairs['x_init'][k:k + 2]) - center[0]
        assert_allclose(found, np.sort([part[0] for part in true]),
                        atol=0.2 * FWHM)


@pytest.mark.parametrize('parts', [
    [(0, 0, 30.0, FWHM, FWHM, 0.0)],
    [(0, 0, 30.0, 1.5 * FWHM, 1.05 * FWHM, 40.0)],
    [(0, 0, 8.0, 1.6 * FWHM, 1.2 * FWHM, 40.0)]],
    ids=['beam', 'elongated', 'faint'])
def test_single_sources_stay_single(parts):
    """
    Fewer than one in a hundred Gaussians is split by chance.
    """
    n_split = sum(len(pairs_of(*simulate(parts, seed=seed)[1:])) // 2
                  for seed in range(2))
    assert n_split < 0.01 * 288


def test_cores_with_halos_are_no_pairs():
    """
    No Gaussian, but one source.
    """
    parts = [(0, 0, 40.0, FWHM, FWHM, 0.0),
             (0, 0, 20.0, 2.0 * FWHM, 2.0 * FWHM, 0.0)]
    _, residual, table = simulate(parts, n_rows=6)
    assert len(pairs_of(residual, table)) == 0


def test_masked_pixels_are_not_used():
    """
    What is wrong in masked pixels makes no pair and hides none.
    """
    _, residual, table = simulate(pair(1.0), n_rows=6)
    mask = np.zeros(residual.shape, dtype=bool)
    mask[12::SIZE] = True
    spoiled = np.where(mask, 1e6, residual)
    expected = pairs_of(np.where(mask, 0.0, residual), table, mask)
    pairs = pairs_of(spoiled, table, mask)
    assert len(pairs) == len(expected) > 1.6 * len(table)
    assert_allclose(pairs['x_init'], expected['x_init'])


def test_noise_that_varies():
    """
    A pair in the noisy half of a map needs more flux.
    """
    data, residual, table = simulate(pair(0.8))
    relative = np.ones(data.shape)
    relative[:, data.shape[1] // 2:] = 10.0
    noise = CorrelatedNoise(NOISE.variances, NOISE.matrices,
                            relative_rms=relative)
    pairs, _ = find_pairs(residual, table, noise, FWHM, fit_radius=2 * FWHM,
                          mask=np.zeros(data.shape, dtype=bool))
    assert len(pairs) > 0
    assert np.all(pairs['x_init'] < data.shape[1] // 2)


def test_what_is_far_from_a_pair():
    """
    Single Gaussians are, and pairs that are split are not.
    """
    for parts, far in (([(0, 0, 30.0, 1.5 * FWHM, 1.1 * FWHM, 0.0)], True),
                       (pair(0.9), False)):
        _, residual, table = simulate(parts)
        pairs, single = find_pairs(
            residual, table, NOISE, FWHM, fit_radius=2 * FWHM,
            mask=np.zeros(residual.shape, dtype=bool))
        assert not np.intersect1d(pairs['row'], single).size
        assert (len(single) > 0.6 * len(table)) == far


def test_nothing_to_split():
    _, residual, table = simulate([(0, 0, 30.0, FWHM, FWHM, 0.0)], n_rows=2)
    pairs = pairs_of(residual, table[:0])
    assert len(pairs) == 0
    assert set(pairs.colnames) >= {'row', 'x_init', 'y_init'}


def test_photometry_measures_and_flags_both():
    """
    Of pairs 0.85 beams apart that the finder sees as one, with the noise
    measured on the map.
    """
    data, *_ = simulate(pair(0.85), n_rows=7)
    phot = HyperPhotometry(FWHM)
    table = phot(data)
    split = ['split_pair' in names
             for names in phot.decode_flags(table['flags'])]
    assert len(table) > 0.9 * 98
    assert sum(split) > 10
    assert_allclose(np.median(table['amplitude_fit']), 30.0, rtol=0.1)
