# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the factors of covariance matrices.
"""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hyperphotutils.noise import CorrelatedNoise
from hyperphotutils.noise.factors import FactorCache


@pytest.fixture(name='noise')
def fixture_noise():
    return CorrelatedNoise([0.5, 3.0, 1.0], [[[4.0, 0.5], [0.5, 3.0]],
                                             [[40.0, 0.0], [0.0, 40.0]]])


def disk(radius):
    """
    The pixels of a disk.
    """
    y, x = np.mgrid[-radius:radius + 1, -radius:radius + 1]
    inside = np.hypot(x, y) <= radius
    return x[inside], y[inside]


def whitening(factors, n_pixels):
    """
    The matrices that the factors multiply vectors by.
    """
    rows = np.tile(np.eye(n_pixels), (len(factors), 1, 1))
    return np.swapaxes(factors.whiten(rows), 1, 2)


def assert_white(matrix, covariance):
    assert_allclose(matrix @ covariance @ matrix.T, np.eye(len(matrix)),
                    atol=1e-6)


def test_whitening_makes_the_noise_white(noise):
    x, y = disk(6)
    matrix = whitening(noise.factors(x[None], y[None]), len(x))[0]
    assert_white(matrix, noise.covariance(x, y))


@pytest.mark.parametrize('n_groups', [2, 30])
def test_scalar_products_are_those_of_the_covariance(noise, n_groups):
    """
    By solving with factors, and by inverses where many share one.
    """
    x, y = disk(5)
    rows = np.random.default_rng(2).normal(size=(n_groups, 4, len(x)))
    factors = noise.factors(np.tile(x, (n_groups, 1)),
                            np.tile(y, (n_groups, 1)))
    assert factors._inverted[0] == (n_groups > 10)
    covariance = noise.covariance(x, y)
    for after, matrix in (
            (factors.correlate(rows.copy()), covariance),
            (factors.whiten(rows.copy()), np.linalg.inv(covariance))):
        assert_allclose(after @ np.swapaxes(after, 1, 2),
                        rows @ matrix @ np.swapaxes(rows, 1, 2), rtol=1e-5,
                        atol=1e-6)


def test_transposed_whitening_gives_the_inverse_covariance(noise):
    x, y = disk(5)
    rows = np.random.default_rng(2).normal(size=(2, 3, len(x)))
    factors = noise.factors(np.tile(x, (2, 1)), np.tile(y, (2, 1)))
    assert_allclose(factors.whiten_transposed(factors.whiten(rows.copy())),
                    rows @ np.linalg.inv(noise.covariance(x, y)), rtol=1e-5,
                    atol=1e-5)


def test_footprints_of_all_kinds_at_once(noise):
    """
    Different footprints, equal ones that are not next to each other, and
    padding, wherever it lies, which stays as it is.
    """
    x, y = disk(3)
    cols = np.stack([x + shift for shift in (500, 20, 0, 7, 9)])
    rows = np.stack([y + shift for shift in (400, 30, 0, 5, 2)])
    cols[3] *= 2
    usable = np.ones(cols.shape, dtype=bool)
    usable[0, [0, 5]] = False
    usable[1, 10:] = False
    usable[3, 12:] = False
    cols[~usable] = rows[~usable] = 0
    factors = noise.factors(cols, rows, usable)
    matrix = whitening(factors, len(x))
    for k, use in enumerate(usable):
        assert_white(matrix[k][np.ix_(use, use)],
                     noise.covariance(cols[k, use], rows[k, use]))
        assert_array_equal(matrix[k][~use], np.eye(len(x))[~use])
        assert_array_equal(matrix[k][use][:, ~use], 0.0)
    for index in ([4, 1, 2], slice(1, 4)):
        assert_array_equal(whitening(factors.take(index), len(x)),
                           matrix[index])


def test_footprint_without_pixels(noise):
    pixels = np.zeros((2, 3), dtype=int)
    usable = np.array([[False, False, False], [False, True, False]])
    matrix = whitening(noise.factors(pixels, pixels, usable), 3)
    assert_allclose(matrix[0], np.eye(3))
    assert_allclose(matrix[1], np.diag([1.0, 1.0 / noise.rms, 1.0]),
                    rtol=1e-6)


def test_extra_noise_of_the_pixels(noise):
    """
    It is added to the diagonal, and footprints share a factor only where
    it is the same.
    """
    x, y = disk(3)
    cols, rows = np.tile(x, (3, 1)), np.tile(y, (3, 1))
    extra = np.zeros(cols.shape)
    extra[1:] = np.hypot(x, y)
    factors = noise.factors(cols, rows, extra=extra)
    for matrix, level in zip(whitening(factors, len(x)), extra, strict=True):
        assert_white(matrix, noise.covariance(x, y) + np.diag(level**2))
    assert len(noise._factors) == 2
    usable = np.ones(cols.shape, dtype=bool)
    usable[:, 3] = False
    extra[:, 3] = np.nan
    factors = noise.factors(cols, rows, usable, extra=extra)
    assert np.isfinite(whitening(factors, len(x))).all()


def test_equal_footprints_share_one_factor(noise):
    """
    Wherever they lie on the map, in one call and in later ones.
    """
    x, y = disk(4)
    shift = np.array([[0], [17], [90]])
    noise.factors(x + shift, y + 2 * shift)
    assert len(noise._factors) == 1
    usable = np.ones((1, len(x)), dtype=bool)
    usable[0, -3:] = False
    noise.factors(x[None], y[None], usable)
    noise.factors(x[None, :-3] + 5, y[None, :-3] - 2)
    assert len(noise._factors) == 2


def test_padding_costs_no_memory():
    """
    The table of separations is no larger than the footprints, wherever
    on a large map they and their padding lie.
    """
    noise = CorrelatedNoise.from_beam(1.0, 4.0)
    cols = np.array([[20001, 20002, 0], [0, 4, 5]])
    rows = np.array([[30001, 30003, 0], [0, 4, 5]])
    usable = np.array([[True, True, False], [False, True, True]])
    matrix = whitening(noise.factors(cols, rows, usable), 3)
    assert_white(matrix[0, :2, :2],
                 noise.covariance(cols[0, :2], rows[0, :2]))
    assert noise._tables[0.0].size < 100


def test_kept_factors_are_bounded():
    """
    A factor that is larger than all that may be kept displaces no other,
    and is not kept.
    """
    cache = FactorCache(max_bytes=200)
    for key in 'abcadb':
        factor = cache.get(key, lambda: np.zeros((1, 10)))
        assert cache.get(key, pytest.fail) is factor
        assert cache.n_bytes == 80 * len(cache) <= 200
    assert len(cache) == 2
    assert len(cache.get('huge', lambda: np.zeros(1000))) == 1000
    assert len(cache) == 2


def test_kept_factors_are_found_again_in_the_next_sweep():
    """
    When many more factors are used in turn than are kept: if the least
    recent ones were replaced, none would be.
    """
    n_kept, n_used, n_sweeps = 50, 100, 20
    cache = FactorCache(max_bytes=8 * n_kept)
    made = []
    for _ in range(n_sweeps):
        for key in range(n_used):
            cache.get(key, lambda: made.append(1) or np.zeros(1))
    assert len(made) < 0.9 * n_used * n_sweeps


def test_two_threads_make_the_same_factor():
    """
    It is kept once, so that the cache knows its size and can replace it.
    """
    cache = FactorCache(max_bytes=8 * 4)
    factor = np.ones(2)

    def make():
        # as another thread does meanwhile
        cache.get('a', lambda: factor)
        return np.ones(2)

    assert cache.get('a', make) is factor
    assert (len(cache), cache.n_bytes) == (1, factor.nbytes)
    for key in range(20):
        cache.get(key, lambda: np.ones(3))
    assert cache.n_bytes <= 8 * 4


def test_factors_are_not_pickled(noise):
    x, y = disk(20)
    size = len(pickle.dumps(noise))
    noise.factors(x[None], y[None])
    pickled = pickle.dumps(noise)
    assert len(noise._factors) == 1
    assert len(pickled) - size < 8 * noise._tables[0.0].size + 100
    assert len(pickle.loads(pickled)._factors) == 0


def test_matrices_that_are_not_positive_definite():
    noise = CorrelatedNoise.from_beam(1.0, 4.0)
    noise._tables[0.0] = np.full((9, 9), 2.0)
    noise._tables[0.0][4, 4] = 1.0  # no more than its neighbors
    with pytest.raises(np.linalg.LinAlgError, match='not positive definite'):
        noise.factors(np.array([[0, 1]]), np.array([[0, 1]]))


def test_parts_of_a_map_keep_their_own_factors(noise):
    """
    The factors of one part are not in memory while others are fitted.
    """
    part = noise.cutout((slice(0, 20), slice(0, 30)))
    part.factors([[3, 4, 5]], [[7, 7, 7]])
    assert len(part._factors) == 1
    assert len(noise._factors) == 0
