# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the batched Levenberg-Marquardt loop.
"""

from importlib.util import find_spec
from typing import Any, NamedTuple

import array_api_strict
import numpy as np
import pytest
from scipy.optimize import least_squares

from hyperphotutils.utils.lm import (
    array_namespace,
    invert_normal,
    minimize_batch,
)

X = np.linspace(0.0, 4.0, 30)


class Decay(NamedTuple):
    """
    Exponential decays ``a exp(-b x)``, with ``b`` at least ``low``.
    """

    x: Any
    data: Any
    low: float = 0.0
    tolerance: float = 1e-12

    def evaluate(self, state):
        (params,) = state
        xp = array_namespace(params)
        a, b = params[:, 0, None], params[:, 1, None]
        profile = xp.exp(-b * self.x[None, :])
        jacobian = xp.stack((profile, -a * self.x[None, :] * profile),
                            axis=1)
        residual = a * profile - self.data
        normal = jacobian @ xp.matrix_transpose(jacobian)
        gradient = (jacobian @ residual[:, :, None])[:, :, 0]
        return state, (xp.sum(residual * residual, axis=1), normal, gradient)

    def system(self, state, terms):
        xp = array_namespace(terms[0])
        stuck = (state[0][:, 1] <= self.low) & (terms[2][:, 1] > 0.0)
        return terms[1], terms[2], xp.stack(
            (xp.ones_like(stuck), ~stuck), axis=1)

    def limit(self, state, step):
        return step

    def move(self, state, step):
        xp = array_namespace(step)
        moved = state[0] + step
        rate = xp.maximum(moved[:, 1], xp.full_like(moved[:, 1], self.low))
        return (xp.stack((moved[:, 0], rate), axis=1),)

    def is_converged(self, state, terms, step, promise, gain):
        return promise <= self.tolerance * terms[0]

    def take(self, index):
        xp = array_namespace(self.data)
        return self._replace(data=xp.take(self.data, index, axis=0))


@pytest.fixture
def data():
    """
    Decays of different speed, so that they converge at different steps.
    """
    rng = np.random.default_rng(3)
    rates = np.array([0.2, 1.0, 3.0, 0.7, 5.0])
    return 5.0 * np.exp(-rates[:, None] * X) + rng.normal(0, 0.1, (5, 30))


START = np.tile([1.0, 1.0], (5, 1))


def test_each_member_ends_where_a_single_fit_does(data):
    result = minimize_batch(Decay(X, data), (START,), max_iter=100)
    assert result.converged.all()
    for values, found, chi2 in zip(data, result.state[0], result.terms[0],
                                   strict=True):
        single = least_squares(
            lambda p, values=values: p[0] * np.exp(-p[1] * X) - values,
            START[0], xtol=1e-12, ftol=1e-12)
        np.testing.assert_allclose(found, single.x, rtol=1e-5)
        assert chi2 == pytest.approx(2.0 * single.cost)


def test_members_leave_when_they_have_converged(data):
    result = minimize_batch(Decay(X, data), (START,), max_iter=100)
    assert len(set(result.n_iter.tolist())) > 1


def test_largest_number_of_steps_is_kept(data):
    result = minimize_batch(Decay(X, data), (START,), max_iter=2)
    assert not result.converged.any()
    assert (result.n_iter == 2).all()
    # the best state so far is returned
    first = Decay(X, data).evaluate((START,))[1][0]
    assert (result.terms[0] <= first).all()
    assert (result.terms[0] < 0.1 * first).sum() >= 4


def test_bounds_hold(data):
    result = minimize_batch(Decay(X, data, low=2.0), (START + [0.0, 2.0],),
                            max_iter=100)
    assert result.converged.all()
    assert result.state[0][0, 1] == 2.0
    # with the rate at its bound, the amplitude is a linear fit
    profile = np.exp(-2.0 * X)
    expected = data[0] @ profile / (profile @ profile)
    assert result.state[0][0, 0] == pytest.approx(expected)


def test_nan_ends_without_harm_to_others(data):
    expected = minimize_batch(Decay(X, data), (START,), max_iter=30)
    spoiled = data.copy()
    spoiled[2, 4] = np.nan
    result = minimize_batch(Decay(X, spoiled), (START,), max_iter=30)
    others = [0, 1, 3, 4]
    assert not result.converged[2]
    np.testing.assert_array_equal(result.state[0][others],
                                  expected.state[0][others])


def test_array_api_strict_gives_the_same(data):
    expected = minimize_batch(Decay(X, data), (START,), max_iter=100)
    xp = array_api_strict
    result = minimize_batch(Decay(xp.asarray(X), xp.asarray(data)),
                            (xp.asarray(START),), max_iter=100)
    assert result.state[0].__array_namespace__() is xp
    np.testing.assert_allclose(np.asarray(result.state[0]),
                               expected.state[0], rtol=1e-9)
    np.testing.assert_array_equal(np.asarray(result.n_iter),
                                  expected.n_iter)


def test_covariance_is_the_inverse():
    rng = np.random.default_rng(1)
    design = rng.normal(size=(2, 20, 3)) * [1.0, 1e4, 1e-4]
    normal = design.swapaxes(1, 2) @ design
    free = np.array([[True, True, True], [True, False, True]])
    found = invert_normal(normal, free)
    np.testing.assert_allclose(found[0], np.linalg.inv(normal[0]), rtol=1e-8)
    part = np.ix_([0, 2], [0, 2])
    np.testing.assert_allclose(found[1][part],
                               np.linalg.inv(normal[1][part]), rtol=1e-8)
    assert (found[1][1] == 0.0).all()


def test_singular_matrix_has_no_covariance():
    normal = np.ones((1, 2, 2))
    assert np.isnan(invert_normal(normal, np.ones((1, 2), bool))).all()


@pytest.mark.skipif(find_spec('array_api_compat') is not None,
                    reason='array_api_compat knows more libraries')
def test_unknown_library_is_named():
    with pytest.raises(ImportError, match='array_api_compat'):
        array_namespace(object())
