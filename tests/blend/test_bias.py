# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What is taken off is what the noise adds on the average: against second
derivatives by differences, and against the mean of many fits.
"""

import numpy as np
import pytest
from astropy.stats import gaussian_fwhm_to_sigma
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_array_equal

from hyperphotutils.blend import BlendGroupFitter, GroupSolver
from hyperphotutils.blend.bias import second_order_bias, unbiased_sources
from hyperphotutils.blend.solver import BatchProblem, BatchResult, evaluate
from hyperphotutils.utils import add_gaussians, gaussian_flux

FWHM = 4.0
SHAPE = (4.8, 3.6, 25.0)
PAIR = np.array([[5.0, -1.2, 0.3, 3.1, 2.4, 0.4],
                 [3.0, 1.9, -0.6, 2.7, 2.6, -0.9]])
STEP = 1e-3


def surface(coords, x, y, theta):
    """
    A Gaussian of amplitude, position, and matrix in axes turned by theta.
    """
    amplitude, x0, y0, aa, ab, bb = coords
    cos, sin = np.cos(theta), np.sin(theta)
    a = cos * (x - x0) + sin * (y - y0)
    b = cos * (y - y0) - sin * (x - x0)
    inverse = np.linalg.inv([[aa, ab], [ab, bb]])
    return amplitude * np.exp(-0.5 * (
        inverse[0, 0] * a**2 + 2 * inverse[0, 1] * a * b
        + inverse[1, 1] * b**2))


def second_derivatives(source, x, y):
    """
    All second derivatives of a Gaussian by central differences.
    """
    amplitude, x0, y0, var_a, var_b, theta = source
    center = np.array([amplitude, x0, y0, var_a, 0.0, var_b])
    unit = STEP * np.eye(6)
    result = np.empty((6, 6, len(x)))
    for i in range(6):
        for j in range(6):
            result[i, j] = sum(
                si * sj * surface(center + si * unit[i] + sj * unit[j], x, y,
                                  theta)
                for si in (-1, 1) for sj in (-1, 1)) / (4 * STEP**2)
    return result


@pytest.mark.parametrize('whitened', [False, True])
def test_formula_of_box(whitened):
    """
    The bias is -C J^T W tr(H C) / 2, with the matrices written out.
    """
    rng = np.random.default_rng(3)
    y, x = (grid.ravel().astype(float) for grid in np.mgrid[-6:7, -7:8])
    weight = rng.uniform(0.5, 2.0, len(x))
    whitening = np.eye(len(x))
    if whitened:
        whitening += np.tril(0.1 * rng.normal(size=(len(x),) * 2), -1)
    basis = (whitening @ weight)[None, None, :]
    given = (x[None], y[None], weight[None], basis)
    matrix = whitening[None] if whitened else None
    _, jacobian = evaluate(PAIR[None], np.zeros((1, 1)), *given, matrix)
    covariance = np.linalg.inv(jacobian[0] @ jacobian[0].T)
    problem = BatchProblem(np.zeros((1, len(x))), *given,
                           np.ones((1, 13), dtype=bool), None, None, 0.1,
                           50.0, matrix)
    result = BatchResult(PAIR[None], np.zeros((1, 1)), covariance[None], None,
                         None, None)

    trace = sum(np.einsum('ijp,ij->p', second_derivatives(source, x, y),
                          covariance[6 * k:6 * k + 6, 6 * k:6 * k + 6])
                for k, source in enumerate(PAIR))
    expected = -0.5 * covariance @ (jacobian[0] @ (whitening
                                                   @ (weight * trace)))
    bias = second_order_bias(problem, result)[0]
    assert_allclose(bias, expected, rtol=1e-4, atol=1e-5 * np.abs(bias).max())


@pytest.fixture(scope='module')
def fits():
    """
    Two thousand fits of a source whose peak is 6 times the noise, with
    and without the correction.
    """
    n_rows, n_cols, size = 40, 50, 21
    y, x = np.mgrid[:n_rows, :n_cols] * size + size // 2
    x, y = x.ravel() + 0.3, y.ravel() - 0.2
    data = np.random.default_rng(11).normal(
        0.0, 1.0 / 6.0, (n_rows * size, n_cols * size))
    add_gaussians(data, x, y, np.ones(len(x)),
                  *(np.full(len(x), value) for value in SHAPE))
    init = QTable({'x_init': x, 'y_init': y})
    return [BlendGroupFitter(
        FWHM, poly_order=0, solver=GroupSolver(bias_correction=on))(
        data, error=1.0 / 6.0, init_params=init) for on in (False, True)]


@pytest.mark.parametrize(('name', 'true'), [
    ('flux_fit', gaussian_flux(1.0, *SHAPE[:2])), ('amplitude_fit', 1.0),
    ('fwhm_major_fit', SHAPE[0]), ('fwhm_minor_fit', SHAPE[1])])
def test_mean_of_many_fits_is_the_truth(fits, name, true):
    """
    To a tenth of the scatter at most, and the correction costs none.
    """
    raw, corrected = (table[name] / true for table in fits)
    error = raw.std() / np.sqrt(len(raw))
    assert abs(raw.mean() - 1.0) > 4.0 * error
    assert abs(corrected.mean() - 1.0) < 0.1 * raw.std() + 2.0 * error
    assert abs(corrected.mean() - 1.0) < 0.5 * abs(raw.mean() - 1.0)
    assert corrected.std() < 1.03 * raw.std()



def test_falls_with_the_square_of_the_brightness():
    """
    As everything of second order in the noise.
    """
    changes = []
    for rms in (0.01, 0.001):
        data = np.zeros((31, 31))
        add_gaussians(data, [15.2], [14.9], [1.0], *([v] for v in SHAPE))
        init = QTable({'x_init': [15.0], 'y_init': [15.0]})
        raw, corrected = (
            BlendGroupFitter(
                FWHM, solver=GroupSolver(ftol=1e-14, bias_correction=on))(
                data, error=rms, init_params=init)['flux_fit'][0]
            for on in (False, True))
        changes.append(raw / corrected - 1.0)
    assert changes[0] > 0.0
    assert_allclose(changes[0] / changes[1], 100.0, rtol=0.05)


def test_what_is_not_of_second_order_stays():
    """
    A group with a bias of more than half an error is left as it is, and
    so is one whose errors are not known.
    """
    sources = np.repeat(PAIR[None], 3, axis=0)
    covariance = np.broadcast_to(0.01 * np.eye(6), (3, 2, 6, 6)).copy()
    bias = np.full((3, 2, 6), 0.02)
    bias[1, 1, 3] = 0.06
    covariance[2] = np.nan
    bias[2] = np.nan
    state, flux = unbiased_sources(sources, covariance, bias, (0.1, 50.0))
    assert np.all(state[0] != sources[0])
    assert_array_equal(state[1:], sources[1:])
    assert np.all(flux[0] < flux[1])
    assert_array_equal(flux[1], flux[2])


def test_what_is_fixed_or_at_a_bound_stays():
    """
    To the last bit.
    """
    rng = np.random.default_rng(5)
    variance = (FWHM * gaussian_fwhm_to_sigma)**2
    sources = np.array([[[1.0, 2.0, 3.0, 1.7 * variance, 0.9 * variance, 0.3],
                         [1.0, 8.0, 3.0, 1.7 * variance, 0.5, 0.3]]])
    covariance = np.einsum('ij,kj->ik', *(rng.normal(size=(2, 6, 6))[[0, 0]]))
    covariance = np.broadcast_to(0.01 * covariance, (1, 2, 6, 6)).copy()
    covariance[0, 0, 1:] = covariance[0, 0, :, 1:] = 0.0
    bias = np.full((1, 2, 6), 0.01)
    bias[0, 0, 1:] = 0.0
    state, flux = unbiased_sources(sources, covariance, bias,
                                   (0.5, 9.0 * variance))
    assert_array_equal(state[0, 0, 1:], sources[0, 0, 1:])
    assert_array_equal(state[0, 1, 3:], sources[0, 1, 3:])
    assert state[0, 0, 0] == pytest.approx(1.0 / 1.01)
    assert flux[0, 0] == pytest.approx(
        2.0 * np.pi * variance * np.sqrt(1.7 * 0.9) / 1.01)
