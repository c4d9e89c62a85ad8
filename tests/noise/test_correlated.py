# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for correlated noise.
"""

import copy
import tracemalloc

import astropy.units as u
import numpy as np
import pytest
from astropy.convolution import Gaussian2DKernel, convolve_fft
from astropy.nddata import CCDData
from astropy.stats import gaussian_fwhm_to_sigma
from numpy.testing import assert_allclose, assert_array_equal

from hyperphotutils.datasets import make_blended_map
from hyperphotutils.noise import CorrelatedNoise, correlated
from hyperphotutils.photometry import HyperPhotometry

UNIT = u.Jy / u.pix
LAGS = [(0, 0), (1, 0), (0, 1), (2, 0), (0, 2), (2, 2), (2, -2), (4, 0),
        (0, 4), (6, 3), (8, 0)]


@pytest.fixture(name='noise')
def fixture_noise():
    """
    A pixel's own noise, a narrow tilted part, and a wide round one.
    """
    return CorrelatedNoise(
        [0.5, 2.0, 3.0], [[[4.0, 1.0], [1.0, 2.5]], 25.0 * np.eye(2)])


@pytest.fixture(name='background_map', scope='module')
def fixture_background_map():
    """
    Noise and structured background with a known covariance.
    """
    return make_blended_map((600, 600), 0, beam=(3.7, 3.0, 30.0), seed=11)


def sample_covariance(image, dx, dy):
    """
    The mean product of all pixels that are this far apart, for a map
    whose mean is 0.
    """
    ny, nx = image.shape
    first = image[max(0, -dy):ny - max(0, dy), max(0, -dx):nx - max(0, dx)]
    second = image[max(0, dy):ny + min(0, dy), max(0, dx):nx + min(0, dx)]
    return np.mean(first * second)


def disk(radius):
    """
    The pixels of a disk.
    """
    half = int(radius)
    y, x = np.mgrid[-half:half + 1, -half:half + 1]
    inside = np.hypot(x, y) <= radius
    return x[inside], y[inside]


@pytest.mark.parametrize('axes', [
    {}, {'fwhm_minor': 3.0}, {'fwhm_minor': 2.5, 'theta': 65.0}])
def test_noise_of_a_beam_is_the_autocorrelation_of_that_beam(axes):
    """
    White noise seen through a beam: the covariance is the convolution of
    the beam with itself.
    """
    noise = CorrelatedNoise.from_beam(2.0, 4.0, **axes)
    beam = Gaussian2DKernel(
        4.0 * gaussian_fwhm_to_sigma,
        axes.get('fwhm_minor', 4.0) * gaussian_fwhm_to_sigma,
        theta=np.deg2rad(axes.get('theta', 0.0)), x_size=41, y_size=41).array
    transform = np.abs(np.fft.fft2(beam, (101, 101)))**2
    expected = np.fft.ifft2(transform).real
    expected *= 4.0 / expected[0, 0]
    dx, dy = np.transpose(LAGS)
    assert_allclose(noise.autocovariance(dx, dy), expected[dy, dx],
                    atol=1e-4)
    assert noise.rms == 2.0


def test_beam_agrees_with_the_exact_covariance_of_simulated_maps():
    sim = make_blended_map((64, 64), 0, beam=(4.5, 3.0, 20.0), rms=1.5,
                           background_ratio=0, seed=1)
    noise = CorrelatedNoise.from_beam(1.5, 4.5, fwhm_minor=3.0, theta=20.0)
    dx, dy = np.transpose(LAGS)
    assert_allclose(noise.autocovariance(dx, dy),
                    sim.autocovariance(dx, dy), atol=1e-3)


def test_simulated_maps_have_the_autocovariance(noise):
    """
    Averaged over many draws, within five standard errors of the mean.
    """
    draws = np.array([[sample_covariance(image, *lag) for lag in LAGS]
                      for image in (noise.simulate((61, 80), seed=seed)
                                    for seed in range(300))])
    error = draws.std(axis=0) / np.sqrt(len(draws))
    expected = noise.autocovariance(*np.transpose(LAGS))
    assert np.all(error < 0.05 * noise.rms**2)
    assert np.all(np.abs(draws.mean(axis=0) - expected) < 5.0 * error)


def test_simulated_maps_do_not_wrap_around(noise):
    """
    Opposite edges have as much in common as their distance allows.
    """
    edges = np.array([image[:, [0, -1]] for image in (
        noise.simulate((60, 60), seed=seed) for seed in range(200))])
    assert abs(np.mean(edges[:, :, 0] * edges[:, :, 1])) < 0.5


def test_seed_decides_the_map(noise):
    first = noise.simulate((30, 40), seed=3)
    assert first.shape == (30, 40)
    assert_array_equal(noise.simulate((30, 40), seed=3), first)
    assert not np.array_equal(noise.simulate((30, 40), seed=4), first)
    rng = np.random.default_rng(3)
    assert_array_equal(noise.simulate((30, 40), seed=rng), first)


def test_covariance_matrix_holds_the_autocovariance(noise):
    x, y = disk(5)
    matrix = noise.covariance(x, y)
    assert_allclose(matrix, matrix.T)
    for i, j in ((0, 0), (3, 17), (40, 8)):
        assert_allclose(matrix[i, j], noise.autocovariance(x[i] - x[j],
                                                           y[i] - y[j]))


def test_formula_of_the_autocovariance(noise):
    offset = np.array([3.0, -2.0])
    tilted = np.linalg.inv([[4.0, 1.0], [1.0, 2.5]])
    expected = (2.0 * np.exp(-0.5 * offset @ tilted @ offset)
                + 3.0 * np.exp(-0.5 * offset @ offset / 25.0))
    assert_allclose(noise.autocovariance(*offset), expected)
    assert_allclose(noise.autocovariance(0.0, 0.0), 5.5)
    assert_allclose(noise.rms, np.sqrt(5.5))


def test_covariance_is_recovered_from_a_map(background_map):
    """
    The mean of the map is lost, so what is compared is the variance of
    differences, which is what counts for a source: out to two beams
    within a few percent.
    """
    sim = background_map
    noise = CorrelatedNoise.from_image(sim.image, 3.7, fwhm_minor=3.0,
                                       theta=30.0)
    dx, dy = np.transpose(LAGS[1:])
    true = sim.autocovariance(0, 0) - sim.autocovariance(dx, dy)
    measured = (noise.autocovariance(0, 0)
                - noise.autocovariance(dx, dy)).to_value(UNIT**2)
    assert_allclose(measured, true, rtol=0.06)


def test_white_noise_is_found_to_be_white():
    data = np.random.default_rng(8).normal(0.0, 3.0, (400, 400))
    noise = CorrelatedNoise.from_image(data, 4.0)
    assert_allclose(noise.rms, 3.0, rtol=0.01)
    assert noise.variances[0] > 0.97 * noise.rms**2
    assert_allclose(noise.uncorrelated_fraction,
                    noise.variances[0] / noise.rms**2)


def test_noise_narrower_than_the_beam_is_found():
    """
    Pixels correlated over 80 % of the beam, as by gridding.
    """
    rng = np.random.default_rng(9)
    kernel = Gaussian2DKernel(3.2 * gaussian_fwhm_to_sigma)
    data = convolve_fft(rng.normal(size=(400, 400)), kernel, boundary='wrap')
    data /= data.std()
    noise = CorrelatedNoise.from_image(data, 4.0)
    true = CorrelatedNoise.from_beam(1.0, 3.2)
    dx, dy = np.transpose(LAGS)
    assert_allclose(noise.autocovariance(dx, dy),
                    true.autocovariance(dx, dy), atol=0.03)


def test_masked_pixels_do_not_count(background_map):
    """
    However bright they are; and neither do pixels that are not finite.
    """
    data = background_map.image.data
    mask = np.random.default_rng(5).random(data.shape) < 0.2
    whole = CorrelatedNoise.from_image(data, 3.33)
    noise = CorrelatedNoise.from_image(np.where(mask, 1e6, data), 3.33,
                                       mask=mask)
    again = CorrelatedNoise.from_image(np.where(mask, np.nan, data), 3.33)
    dx, dy = np.transpose(LAGS)
    assert_allclose(noise.autocovariance(dx, dy),
                    whole.autocovariance(dx, dy), rtol=0.05)
    assert_array_equal(noise.autocovariance(dx, dy),
                       again.autocovariance(dx, dy))


def test_positive_definite_whatever_the_map():
    """
    Even for a map that is no stationary noise at all.
    """
    y, x = np.mgrid[:80, :90]
    data = np.sin(x / 5.0) + 0.3 * np.cos(y / 3.0) + 0.01 * x
    noise = CorrelatedNoise.from_image(data, 3.0)
    dx, dy = disk(12)
    matrix = noise.covariance(dx, dy)
    assert np.linalg.eigvalsh(matrix)[0] > -1e-10 * noise.rms**2
    assert np.all(noise.variances >= 0.0)
    white = noise.factors(dx[None], dy[None]).whiten(np.eye(len(dx))[None])
    assert np.isfinite(white).all()


def test_map_smaller_than_the_reach_of_the_fit():
    """
    The total variance is not known without the mean, but the mean square
    difference of pixels a beam apart is, to a third.
    """
    true = CorrelatedNoise.from_beam(1.0, 4.0)
    noise = CorrelatedNoise.from_image(true.simulate((40, 25), seed=1), 4.0)
    first, second = (one.autocovariance([0, 4], [0, 0])
                     for one in (noise, true))
    assert_allclose(first[0] - first[1], second[0] - second[1], rtol=0.3)


def test_relative_rms_scales_the_noise(noise):
    relative = np.ones((50, 60))
    relative[:, 30:] = 3.0
    scaled = CorrelatedNoise(noise.variances, noise.matrices,
                             relative_rms=relative)
    x, y = np.array([28, 29, 30, 31]), np.array([5, 6, 7, 8])
    scale = np.array([1.0, 1.0, 3.0, 3.0])
    assert_allclose(scaled.covariance(x, y),
                    noise.covariance(x, y) * np.outer(scale, scale))
    assert_allclose(scaled.simulate((50, 60), seed=1),
                    noise.simulate((50, 60), seed=1) * relative)
    assert scaled.rms == noise.rms


def test_relative_rms_is_divided_out_of_a_map(noise):
    """
    Only the background that is removed first differs a little.
    """
    y, _ = np.mgrid[:300, :300]
    relative = 1.0 + y / 150.0
    data = noise.simulate((300, 300), seed=2)
    plain = CorrelatedNoise.from_image(data, 3.0)
    scaled = CorrelatedNoise.from_image(data * relative, 3.0,
                                        relative_rms=relative)
    assert_allclose(scaled.variances, plain.variances, rtol=0.01)
    assert_array_equal(scaled.relative_rms, relative)


def test_units_are_kept(noise):
    with_unit = CorrelatedNoise(noise.variances << UNIT**2, noise.matrices)
    x, y = disk(2)
    assert_allclose(with_unit.rms.to_value(UNIT), noise.rms)
    assert with_unit.variances.unit == UNIT**2
    assert_allclose(with_unit.covariance(x, y).to_value(UNIT**2),
                    noise.covariance(x, y))
    assert with_unit.autocovariance(1, 0).unit == UNIT**2
    image = with_unit.simulate((20, 20), seed=1)
    assert_allclose(image.to_value(UNIT), noise.simulate((20, 20), seed=1))
    assert CorrelatedNoise.from_beam(2.0 * UNIT, 4.0).rms == 2.0 * UNIT
    for data in (image, CCDData(image)):
        assert CorrelatedNoise.from_image(data, 2.0).rms.unit == UNIT
    plain = CorrelatedNoise.from_image(image.value, 2.0)
    assert_array_equal(
        CorrelatedNoise.from_image(image, 2.0).variances.value,
        plain.variances)


def sum_variance(noise, weights, x, y):
    """
    The central pixels of sums do not matter to stationary noise.
    """
    center = np.zeros(len(weights), dtype=int)
    return noise.sum_variance(weights, center, center, x, y)


def test_variance_of_weighted_sums(noise):
    x, y = disk(4)
    weights = np.random.default_rng(2).normal(size=(3, len(x)))
    matrix = noise.covariance(x, y)
    expected = [w @ matrix @ w for w in weights]
    assert_allclose(sum_variance(noise, weights, x, y), expected)


@pytest.mark.parametrize('shape', [(40, 31), (33, 45)])
def test_large_sums_agree_with_the_dense_matrix(noise, shape, monkeypatch):
    """
    The variances by Fourier transforms, in one batch or several, are
    those of the matrix of covariances.
    """
    y, x = (axis.ravel() for axis in np.indices(shape))
    chosen = (x - 12)**2 + (y - 15)**2 < 500
    x, y = x[chosen] - 7, y[chosen] + 100
    weights = np.random.default_rng(2).normal(size=(5, len(x)))
    matrix = noise.covariance(x, y)
    expected = np.einsum('np,pq,nq->n', weights, matrix, weights)
    monkeypatch.setattr(correlated, '_MAX_DENSE', 100)
    assert_allclose(sum_variance(noise, weights, x, y), expected, rtol=1e-10)
    monkeypatch.setattr(correlated, '_MAX_ELEMENTS', 2**14)
    assert_allclose(sum_variance(noise, weights, x, y), expected, rtol=1e-10)


def test_memory_of_large_sums_is_bounded(noise):
    """
    The apertures of a beam of 40 pixels need the memory of some images
    of them, not of the square of their pixels (here 6 GB).
    """
    x, y = disk(95)
    weights = np.ones((20, len(x)))
    tracemalloc.start()
    try:
        sum_variance(noise, weights, x, y)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2.0e8


def test_table_of_separations_is_bounded(noise):
    """
    Pixels that are far apart are not looked up in a table.
    """
    x, y = np.array([0, 1, 3, 90000]), np.array([0, 2, 2, 70000])
    weights = np.array([[1.0, -2.0, 0.5, 3.0]])
    expected = weights[0] @ noise.covariance(x, y) @ weights[0]
    assert_allclose(sum_variance(noise, weights, x, y), expected)
    factor = noise.factors(x[None], y[None]).whiten(np.eye(4)[None])[0].T
    assert_allclose(factor @ noise.covariance(x, y) @ factor.T, np.eye(4),
                    atol=1e-6)
    assert (sum(table.size for table in noise._tables.values())
            <= correlated._MAX_ELEMENTS)


def test_tables_that_another_thread_removes_are_not_needed(noise):
    class Emptied(dict):
        def __setitem__(self, level, table):
            """
            Keep nothing, as if another thread removed it at once.
            """

    y, x = np.mgrid[:3, :4].reshape(2, -1)
    expected = noise._half_matrix(x, y, 0.0)
    other = copy.copy(noise)
    other._tables = Emptied()
    assert_array_equal(np.triu(other._half_matrix(x, y, 0.0)),
                       np.triu(expected))


def test_background_does_not_get_the_pattern_of_the_noise(noise):
    """
    A constant and a plane change nothing where the noise varies either,
    though the map is divided by its relative rms.
    """
    cols = np.indices((200, 200))[1]
    varying = CorrelatedNoise(noise.variances, noise.matrices,
                              relative_rms=1.0 + 3.0 * (cols / 200)**3)
    image = varying.simulate((200, 200), seed=1)
    flat, raised = (
        CorrelatedNoise.from_image(data, 4.0,
                                   relative_rms=varying.relative_rms)
        for data in (image, image + 1e4 + 5.0 * cols))
    lags = np.array([0, 1, 2, 4, 8])
    assert_allclose(raised.autocovariance(lags, 0),
                    flat.autocovariance(lags, 0), rtol=0.01)


def test_repr_tells_the_parts(noise):
    assert repr(noise) == (
        '<CorrelatedNoise(rms=2.345, uncorrelated=0.7071, n_parts=2)>')


def test_plot_shows_the_correlation(noise):
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots()
    assert noise.plot(ax=ax) is ax
    line = ax.lines[0]
    assert_allclose(line.get_ydata()[0], 1.0)
    assert_allclose(line.get_ydata()[-1],
                    noise.autocovariance(line.get_xdata()[-1], 0.0) / 5.5)
    noise.plot(ax=ax, max_separation=7.0)
    assert ax.lines[-1].get_xdata()[-1] == 7.0
    plt.close(figure)


@pytest.mark.parametrize(('variances', 'matrices', 'match'), [
    ([1.0], [np.eye(2)], 'variances must have one element more'),
    ([1.0, -1.0], [np.eye(2)], 'variances must be finite, not negative'),
    ([0.0, 0.0], [np.eye(2)], 'variances must be finite, not negative'),
    ([1.0, np.nan], [np.eye(2)], 'variances must be finite'),
    ([1.0, np.inf], [np.eye(2)], 'variances must be finite'),
    ([1.0, 1.0], [np.diag([1.0, -1.0])], 'matrices must be symmetric'),
    ([1.0, 1.0], [[[2.0, 1.0], [0.0, 2.0]]], 'matrices must be symmetric'),
    ([1.0, 1.0], [[[np.nan, 0.0], [0.0, 2.0]]], 'matrices must be symm'),
    ([1.0, 1.0], [1.0], r'matrices must have the shape \(n, 2, 2\)'),
])
def test_bad_parts(variances, matrices, match):
    with pytest.raises(ValueError, match=match):
        CorrelatedNoise(variances, matrices)


@pytest.mark.parametrize('bad', [
    np.ones(5), np.zeros((5, 5)), np.full((5, 5), np.nan),
    np.full((5, 5), np.inf)])
def test_bad_relative_rms(bad):
    with pytest.raises(ValueError, match='relative_rms must be a 2D array'):
        CorrelatedNoise([1.0], [], relative_rms=bad)


def test_uncorrelated_noise_has_no_other_parts():
    noise = CorrelatedNoise([4.0], [])
    assert_array_equal(noise.covariance([0, 1], [0, 0]), 4.0 * np.eye(2))


@pytest.mark.parametrize('rms', [0.0, -1.0, np.nan, 0.0 * UNIT, -2.0 * UNIT])
def test_bad_rms(rms):
    with pytest.raises(ValueError, match='rms must be positive'):
        CorrelatedNoise.from_beam(rms, 4.0)


@pytest.mark.parametrize('axes', [
    {'fwhm': 0.0}, {'fwhm': -3.0}, {'fwhm': np.nan}, {'fwhm': np.inf},
    {'fwhm': 4.0, 'fwhm_minor': 0.0}])
def test_bad_beam(axes):
    with pytest.raises(ValueError, match='FWHMs of the beam must be positiv'):
        CorrelatedNoise.from_beam(1.0, **axes)
    with pytest.raises(ValueError, match='FWHMs of the beam must be positiv'):
        CorrelatedNoise.from_image(np.eye(30), **axes)


def test_maps_without_noise_are_refused():
    with pytest.raises(ValueError, match='data is constant'):
        CorrelatedNoise.from_image(np.full((40, 40), 7.0), 4.0)
    with pytest.raises(ValueError, match='data has no usable pixel'):
        CorrelatedNoise.from_image(np.full((40, 40), np.nan), 4.0)


def test_shapes_must_agree(noise):
    data = noise.simulate((30, 40), seed=1)
    with pytest.raises(ValueError, match='mask must have the shape of data'):
        CorrelatedNoise.from_image(data, 3.0, mask=np.zeros((30, 30), bool))
    with pytest.raises(ValueError,
                       match='relative_rms must have the shape of data'):
        CorrelatedNoise.from_image(data, 3.0, relative_rms=np.ones((3, 3)))
    scaled = CorrelatedNoise([1.0], [], relative_rms=np.ones((30, 40)))
    with pytest.raises(ValueError, match='shape must be that of relative_rm'):
        scaled.simulate((40, 30))


class TestFromAutocovariance:
    """
    Noise that is known is not measured.
    """

    def test_function_and_array(self):
        """
        Any mixture of the beam and of what is seen through it is
        described to a per cent of the variance at all separations.
        """
        given = CorrelatedNoise([0.5, 4.0, 2.0], [
            2.0 * np.diag([2.9, 2.9]), np.diag([30.0, 30.0])])
        lag = np.arange(-50.0, 51.0)
        array = given.autocovariance(lag[None, :], lag[:, None])
        for what in (given.autocovariance, array):
            noise = CorrelatedNoise.from_autocovariance(what, 4.0)
            assert_allclose(
                noise.autocovariance(lag[None, :], lag[:, None]), array,
                atol=0.01 * 6.5)
            assert_allclose(noise.variances[0], 0.5, rtol=0.05)

    def test_unit(self):
        def decay(dx, dy):
            return np.exp(-0.1 * (dx**2 + dy**2)) * u.Jy**2

        noise = CorrelatedNoise.from_autocovariance(decay, 4.0)
        assert noise.rms.unit == u.Jy
        assert_allclose(noise.rms.value, 1.0, rtol=0.01)

    @pytest.mark.parametrize(('array', 'match'), [
        (np.ones((4, 5)), 'odd number'), (np.ones(5), 'odd number'),
        (np.zeros((5, 5)), 'largest, and positive, at the center'),
        (np.arange(25.0).reshape(5, 5), 'the same for opposite'),
        (np.full((5, 5), np.nan), 'must be finite')])
    def test_no_autocovariance(self, array, match):
        with pytest.raises(ValueError, match=match):
            CorrelatedNoise.from_autocovariance(array, 4.0)


@pytest.mark.parametrize('with_unit', [True, False])
def test_exact_noise_of_a_simulated_map_is_given(with_unit):
    """
    Its autocovariance is a plain number; the noise must have the unit of
    the map.
    """
    sim = make_blended_map((150, 150), 12, beam=4.0, seed=1)
    scale = UNIT**2 if with_unit else 1.0
    noise = CorrelatedNoise.from_autocovariance(
        lambda dx, dy: sim.autocovariance(dx, dy) * scale, 4.0)
    phot = HyperPhotometry(4.0, noise=noise)
    if with_unit:
        assert phot(sim.image)['flux_err'].unit == u.Jy
        assert_allclose(noise.rms.value**2, sim.autocovariance(0, 0),
                        rtol=0.01)
    else:
        with pytest.raises(ValueError, match=r'unit \(data: .*noise: none'):
            phot(sim.image)
