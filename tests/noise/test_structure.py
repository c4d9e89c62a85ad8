# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for noise with a structured background whose strength varies.
"""

import astropy.units as u
import numpy as np
import pytest
from numpy.testing import assert_allclose

from hyperphotutils.noise import CorrelatedNoise

FWHM = 4.0
# The autocovariances of the beam, and of structure of two beams seen
# through it.
BEAM = 2.0 * (FWHM / 2.3548)**2 * np.eye(2)
WIDE = BEAM + (2.0 * FWHM)**2 * np.eye(2)


def disk(radius):
    """
    The pixels of a disk.
    """
    rows, cols = np.mgrid[-radius:radius + 1, -radius:radius + 1]
    inside = np.hypot(rows, cols) <= radius
    return cols[inside] + 30, rows[inside] + 30


def with_structure(relative_rms=None, level_rms=None):
    """
    Noise, structure, and both together.
    """
    noise = CorrelatedNoise([0.5, 1.0], [BEAM], relative_rms=relative_rms)
    structure = CorrelatedNoise([0.0, 2.0], [WIDE], relative_rms=level_rms)
    both = CorrelatedNoise(noise.variances, noise.matrices,
                           relative_rms=relative_rms, structure=structure)
    return noise, structure, both


def test_covariance_is_the_sum_of_both():
    """
    Each with its own relative rms.
    """
    rows, cols = np.indices((70, 70))
    noise, structure, both = with_structure(1.0 + cols / 70.0,
                                            0.5 + rows / 35.0)
    x, y = disk(5)
    assert_allclose(both.covariance(x, y),
                    noise.covariance(x, y) + structure.covariance(x, y))
    assert_allclose(both.autocovariance([0, 3], [0, -1]),
                    noise.autocovariance([0, 3], [0, -1])
                    + structure.autocovariance([0, 3], [0, -1]))
    assert_allclose(both.rms, np.sqrt(3.5))


@pytest.mark.parametrize(('rms', 'level_rms', 'level'), [
    (1.0, 1.0, 1.0), (1.0, 2.0, 4.0), (2.0, 4.0, 4.0), (4.0, 1.0, 0.0625)])
@pytest.mark.parametrize('radius', [5, 19])
def test_sums_and_factors_agree_with_the_matrix(rms, level_rms, level,
                                                radius):
    """
    Where the level is a power of two, the variance of sums and the
    whitened pixels are those of the full covariance matrix; with many
    pixels too, where sums are made in Fourier space.
    """
    shape = (70, 70)
    _, _, both = with_structure(np.full(shape, rms),
                                np.full(shape, level_rms))
    x, y = disk(radius)
    matrix = both.covariance(x, y)
    assert_allclose(both.structure_level(x, y), level)
    weights = np.random.default_rng(1).normal(size=(3, len(x)))
    weights[0] = 1.0
    assert_allclose(
        both.sum_variance(weights, *np.full((2, 3), 30), x - 30, y - 30),
        np.sum((weights @ matrix) * weights, axis=1), rtol=1e-8)
    white = both.factors(x[None], y[None]).whiten(
        np.linalg.cholesky(matrix).T[None] / rms)[0]
    assert_allclose(white @ white.T, np.eye(len(x)), atol=1e-4)


def test_levels_are_rounded_to_share_factors():
    """
    By no more than a factor of the square root of 2 in the variance.
    """
    cols = np.indices((70, 200))[1]
    _, _, both = with_structure(level_rms=0.2 * 1.02**cols)
    x, y = np.arange(200), np.full(200, 5)
    ratio = both.structure_level(x, y) / both.structure.relative_rms[y, x]**2
    assert np.all(np.abs(np.log2(ratio)) <= 0.5 + 1e-9)
    cols = 10 + np.arange(3) + np.array([[0], [1], [150]])
    both.factors(cols, np.full(cols.shape, 5))
    assert len(both._factors) == 2


def test_simulated_maps_have_both():
    """
    The variance of many maps is that of the covariance matrix.
    """
    level_rms = np.ones((8, 40))
    level_rms[:, 20:] = 3.0
    _, _, both = with_structure(level_rms=level_rms)
    maps = np.array([both.simulate((8, 40), seed=k) for k in range(400)])
    x = np.array([4, 10, 30, 36])
    y = np.full(4, 3)
    measured = np.cov(maps[:, y, x], rowvar=False)
    exact = both.covariance(x, y)
    # five standard errors of a covariance
    error = np.sqrt((exact**2 + np.outer(np.diag(exact), np.diag(exact)))
                    / 400)
    assert np.all(np.abs(measured - exact) < 5.0 * error)


@pytest.fixture(name='ridge', scope='module')
def fixture_ridge():
    """
    White noise everywhere, and structure that is ten times stronger in
    one half of the map than in the other; what is measured of both.
    """
    shape = (400, 400)
    level_rms = np.ones(shape)
    level_rms[:, 200:] = 10.0
    structure = CorrelatedNoise([0.0, 1.0], [WIDE], relative_rms=level_rms)
    true = CorrelatedNoise([1.0], [], structure=structure)
    image = true.simulate(shape, seed=1)
    return image, true, CorrelatedNoise.from_image(
        image << u.Jy, FWHM, varying_structure=True)


def test_structure_is_described_where_it_varies(ridge):
    """
    If that is left open, a map of two halves has structure of its own,
    and a stationary one has not.
    """
    image, *_ = ridge
    noise = CorrelatedNoise.from_image(image, FWHM, varying_structure=None)
    assert noise.structure is not None
    even = CorrelatedNoise([1.0, 1.0], [WIDE]).simulate((400, 400), seed=4)
    noise = CorrelatedNoise.from_image(even, FWHM, varying_structure=None)
    assert noise.structure is None


@pytest.mark.parametrize('x', [60, 300])
def test_measured_levels(ridge, x):
    """
    In either half the noise is that of the map: the white one, and the
    differences of pixels that a fit sees, within 30 %.
    """
    _, true, noise = ridge
    lags = np.array([0, 2, 4, 6, 8])
    assert_allclose(noise.variances[0].value, 1.0, rtol=0.3)
    for y in (60, 200, 340):
        difference = []
        for one in (true, noise):
            matrix = one.covariance(x + lags, np.full(5, y))
            matrix = np.asarray(getattr(matrix, 'value', matrix))
            difference.append(np.sqrt(matrix[0, 0] - matrix[0, 1:]))
        assert_allclose(*difference, rtol=0.3)


def test_unit_of_the_structure(ridge):
    """
    Noise and structure have that of the map.
    """
    _, _, noise = ridge
    assert noise.rms.unit == u.Jy
    assert noise.structure.rms.unit == u.Jy
    assert noise.covariance([5, 6], [7, 7]).unit == u.Jy**2
    assert 'structure=' in repr(noise)


def test_stationary_maps_have_levels_of_one():
    """
    With structure that does not vary, its level is 1 by chance of the
    place only, and the whole covariance is that of one description.
    """
    _, _, both = with_structure()
    image = both.simulate((400, 400), seed=3)
    noise = CorrelatedNoise.from_image(image, FWHM, varying_structure=True)
    middle = np.median(noise.structure.relative_rms)
    assert_allclose(middle, 1.0, rtol=0.3)
    lags = np.array([1, 2, 4, 8])
    exact = both.autocovariance(0, 0) - both.autocovariance(lags, 0)
    measured = noise.autocovariance(0, 0) - noise.autocovariance(lags, 0)
    assert_allclose(measured, exact, rtol=0.3)
