# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the regressors.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn import linear_model

from hyperphotutils.background import (
    evaluate_polynomial,
    fit_estimator,
    fit_huber,
    fit_lsq,
    fit_theilsen,
    polynomial_terms,
)

NX, NY = 31, 25
X = (np.arange(NX) - 15) / 15.5
Y = (np.arange(NY) - 12) / 12.5


@pytest.fixture(name='stack')
def fixture_stack():
    """
    Five noisy images with outliers, their weights, and coefficients.
    """
    rng = np.random.default_rng(1)
    true = rng.normal(0.0, 1.0, (5, 3, 3))
    true[:, [1, 2, 2], [2, 1, 2]] = 0.0
    values = evaluate_polynomial(true, X, Y)
    values += rng.normal(0.0, 0.2, values.shape)
    values[rng.random(values.shape) < 0.05] += 5.0
    weights = (rng.random(values.shape) < 0.8).astype(float)
    return values, weights, true


def design_matrix(order):
    i, j = polynomial_terms(order)
    yy, xx = np.meshgrid(Y, X, indexing='ij')
    return xx.ravel()[:, np.newaxis]**i * yy.ravel()[:, np.newaxis]**j


@pytest.mark.parametrize('order', [0, 1, 2, 3, 4])
def test_least_squares_agrees_with_numpy(stack, order):
    values, weights, _ = stack
    weights = weights * np.random.default_rng(0).uniform(0.5, 2, NX)
    result = fit_lsq(values, weights, X, Y, order)
    i, j = polynomial_terms(order)
    for k in range(len(values)):
        root = np.sqrt(weights[k].ravel())
        expected = np.linalg.lstsq(design_matrix(order) * root[:, np.newaxis],
                                   values[k].ravel() * root)[0]
        assert_allclose(result[k, j, i], expected, rtol=1.0e-9, atol=1.0e-12)
    outside = np.add.outer(np.arange(order + 1), np.arange(order + 1)) > order
    assert np.all(result[:, outside] == 0)


@pytest.mark.parametrize('epsilon', [1.05, 1.35, 2.0])
@pytest.mark.parametrize('order', [0, 1, 2])
def test_huber_agrees_with_scikit_learn(stack, order, epsilon):
    values, weights, _ = stack
    result = fit_huber(values, weights, X, Y, order, epsilon=epsilon)
    i, j = polynomial_terms(order)
    for k in range(len(values)):
        good = weights[k].ravel() > 0
        regressor = linear_model.HuberRegressor(
            epsilon=epsilon, alpha=0, fit_intercept=False, max_iter=1000,
            tol=1.0e-9)
        regressor.fit(design_matrix(order)[good], values[k].ravel()[good])
        assert_allclose(result[k, j, i], regressor.coef_, atol=2.0e-4)


def test_huber_is_the_same_alone_and_in_a_stack(stack):
    values, weights, _ = stack
    together = fit_huber(values, weights, X, Y, 2)
    for k in range(len(values)):
        alone = fit_huber(values[[k]], weights[[k]], X, Y, 2)
        assert_allclose(alone[0], together[k], atol=1.0e-12)


def test_huber_with_weights_is_scale_invariant(stack):
    values, weights, _ = stack
    weights = weights * np.random.default_rng(0).uniform(0.5, 2, NX)
    plain = fit_huber(values, weights, X, Y, 1)
    scaled = fit_huber(values, weights * 1.0e6, X, Y, 1)
    assert_allclose(scaled, plain, atol=1.0e-8)
    assert_allclose(fit_huber(values * 1.0e-6, weights, X, Y, 1),
                    plain * 1.0e-6, atol=1.0e-12)


def test_huber_of_perfect_data_is_exact(stack):
    true = stack[2]
    values = evaluate_polynomial(true, X, Y)
    result = fit_huber(values, np.ones(values.shape), X, Y, 2)
    assert_allclose(result, true, atol=1.0e-12)


@pytest.mark.parametrize('order', [0, 1, 2])
def test_theilsen_agrees_with_scikit_learn(stack, order):
    """
    Both take random subsets: they agree within the scatter of that.
    """
    values, weights, _ = stack
    result = fit_theilsen(values, weights, X, Y, order, n_subsets=10_000)
    i, j = polynomial_terms(order)
    good = weights[0].ravel() > 0
    regressor = linear_model.TheilSenRegressor(
        max_subpopulation=10_000, random_state=0, fit_intercept=False,
        n_subsamples=i.size)
    regressor.fit(design_matrix(order)[good], values[0].ravel()[good])
    assert_allclose(result[0, j, i], regressor.coef_, atol=0.06)


def test_theilsen_has_its_breakdown_point():
    """
    A plane survives 15 % of huge outliers, but not 60 %.
    """
    rng = np.random.default_rng(2)
    true = np.array([[1.0, 0.5], [-0.3, 0.0]])
    values = np.repeat(evaluate_polynomial(true, X, Y)[np.newaxis], 2, axis=0)
    values += rng.normal(0.0, 0.1, values.shape)
    values[0, rng.random((NY, NX)) < 0.15] += 1.0e4
    values[1, rng.random((NY, NX)) < 0.60] += 1.0e4
    result = fit_theilsen(values, np.ones(values.shape), X, Y, 1)
    assert_allclose(result[0], true, atol=0.3)
    assert np.abs(result[1] - true).max() > 1.0


def test_theilsen_does_not_depend_on_masked_pixels(stack):
    values, weights, _ = stack
    first = fit_theilsen(values, weights, X, Y, 1, seed=3)
    values[weights == 0] = 1.0e9
    assert np.array_equal(fit_theilsen(values, weights, X, Y, 1, seed=3),
                          first)


def test_theilsen_memory_is_bounded(monkeypatch, stack):
    """
    Small lots of images give valid results too.
    """
    monkeypatch.setattr(
        'hyperphotutils.background.regressors._MAX_ELEMENTS', 1000)
    values, weights, true = stack
    result = fit_theilsen(values, weights, X, Y, 2, n_subsets=500)
    assert_allclose(result[:, 0, 0], true[:, 0, 0], atol=0.5)


@pytest.mark.parametrize('fit', [fit_lsq, fit_huber, fit_theilsen])
def test_undetermined_polynomials_are_nan(fit):
    """
    No pixels, and pixels in one column, do not make a plane; the
    neighbors in the stack are not touched.
    """
    values = np.ones((3, NY, NX))
    weights = np.ones(values.shape)
    weights[0] = 0.0
    weights[1, :, 1:] = 0.0
    result = fit(values, weights, X, Y, 1)
    assert np.all(np.isnan(result[:2, [0, 0, 1], [0, 1, 0]]))
    assert_allclose(result[2], [[1.0, 0.0], [0.0, 0.0]], atol=1.0e-12)


@pytest.mark.parametrize('order', [0, 1, 2])
@pytest.mark.parametrize('name', [
    'LinearRegression', 'Ridge', 'BayesianRidge', 'HuberRegressor',
    'TheilSenRegressor', 'RANSACRegressor'])
def test_any_linear_regressor_fits_a_surface(name, order):
    """
    Each finds the coefficients, and leaves out pixels without weight.
    """
    estimator = getattr(linear_model, name)()
    rng = np.random.default_rng(1)
    true = np.array([[3.0, 2.0, -1.0], [1.0, 0.5, 0.0], [0.3, 0.0, 0.0]])
    true = true[:order + 1, :order + 1] * (
        np.add.outer(np.arange(order + 1), np.arange(order + 1)) <= order)
    values = evaluate_polynomial(true, X, Y) + rng.normal(
        0.0, 0.01, (2, NY, NX))
    weights = np.ones(values.shape)
    values[:, :3], weights[:, :3] = 1e6, 0.0
    result = fit_estimator(values, weights, X, Y, order, estimator=estimator)
    assert_allclose(result, np.broadcast_to(true, result.shape), atol=0.05)
    assert not hasattr(estimator, 'n_features_in_')  # a copy was fitted


def test_regressor_uses_weights_if_it_can(stack):
    """
    Ordinary least squares is that of `fit_lsq`.
    """
    values, weights, _ = stack
    weights = weights * np.random.default_rng(0).uniform(0.5, 2, NX)
    assert_allclose(
        fit_estimator(values, weights, X, Y, 2,
                      estimator=linear_model.LinearRegression()),
        fit_lsq(values, weights, X, Y, 2), atol=1e-8)


def test_regressor_with_too_few_pixels(stack):
    values, weights, _ = stack
    few = np.zeros(weights.shape)
    few[:, 0, :2] = 1.0
    result = fit_estimator(values, few, X, Y, 1,
                           estimator=linear_model.LinearRegression())
    assert np.isnan(result[:, 0, 0]).all()
