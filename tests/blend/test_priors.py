# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for priors and bounds of single sources, given as columns of
``init_params``.
"""

import numpy as np
import pytest
from astropy.stats import gaussian_fwhm_to_sigma
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import least_squares

from hyperphotutils.blend import BlendGroupFitter
from hyperphotutils.noise import CorrelatedNoise
from hyperphotutils.utils import FLAGS

FWHM = 4.0
SHAPE = (61, 71)
TRUE = np.array([10.0, 30.4, 29.7, 5.4, 4.1, 30.0])
NAMES = ('amplitude', 'x', 'y', 'fwhm_major', 'fwhm_minor', 'theta')


def gaussian(params, x, y):
    """
    A Gaussian, written out from the textbook.
    """
    amplitude, x0, y0, major, minor, theta = params
    cos, sin = np.cos(np.deg2rad(theta)), np.sin(np.deg2rad(theta))
    a = cos * (x - x0) + sin * (y - y0)
    b = -sin * (x - x0) + cos * (y - y0)
    return amplitude * np.exp(-0.5 * (
        (a / (major * gaussian_fwhm_to_sigma))**2
        + (b / (minor * gaussian_fwhm_to_sigma))**2))


def image_of(*sources, noise=0.0):
    """
    An image of Gaussians.
    """
    rows, cols = np.indices(SHAPE)
    return noise + sum(gaussian(source, cols, rows) for source in sources)


def column(table, name):
    """
    The plain values of a column.
    """
    return np.asarray(getattr(table[name], 'value', table[name]))


def start(x=31.0, y=29.0, **columns):
    """
    The initial values of one source.
    """
    return QTable({'x_init': [x], 'y_init': [y],
                   **{name: [value] for name, value in columns.items()}})


@pytest.mark.parametrize('kind', ['white', 'correlated'])
@pytest.mark.parametrize('sigma', [0.05, 0.3])
def test_position_prior_is_that_of_bayes(kind, sigma):
    """
    The fit is the maximum of the posterior, and its errors are the widths
    of that: least squares with one more residual for x and for y.
    """
    noise = (CorrelatedNoise([0.36], []) if kind == 'white' else
             CorrelatedNoise([0.01, 0.35], [5.8 * np.eye(2)]))
    image = image_of(TRUE, noise=noise.simulate(SHAPE, seed=1))
    weights = {'error': 0.6} if kind == 'white' else {'noise': noise}
    table = BlendGroupFitter(FWHM)(
        image, init_params=start(position_prior=sigma), **weights)

    rows, cols = np.indices(SHAPE)
    near = np.hypot(cols - 31, rows - 29) <= 2.0 * FWHM
    x, y = cols[near], rows[near]
    factor = cholesky(noise.covariance(x, y), lower=True)

    def residuals(params):
        plane = params[6] + params[7] * (x - 30) + params[8] * (y - 30)
        model = gaussian(params[:6], x, y) + plane
        return np.concatenate((
            solve_triangular(factor, model - image[near], lower=True),
            (params[1:3] - [31.0, 29.0]) / sigma))

    fit = least_squares(residuals, [*TRUE, 0.0, 0.0, 0.0], x_scale='jac',
                        jac='3-point', xtol=1e-12, ftol=1e-12)
    errors = np.sqrt(np.diag(np.linalg.inv(fit.jac.T @ fit.jac)))
    for k, name in enumerate(NAMES):
        assert_allclose(column(table, f'{name}_fit')[0], fit.x[k],
                        atol=0.01 * errors[k], err_msg=name)
        assert_allclose(column(table, f'{name}_err')[0], errors[k],
                        rtol=0.01, err_msg=name)


def test_prior_without_errors_is_in_units_of_the_noise():
    """
    With the noise taken from the map, a source with shape and background
    fixed is near the mean of measurement and prior, weighted by their
    variances.
    """
    sigma = 0.1
    noise = 0.6 * np.random.default_rng(1).normal(size=SHAPE)
    image = image_of(TRUE, noise=noise)
    fitter = BlendGroupFitter(FWHM)
    free = fitter(image, init_params=start())
    table = fitter(image, init_params=start(position_prior=sigma))
    for name, detected in (('x', 31.0), ('y', 29.0)):
        weight = free[f'{name}_err'][0]**-2
        mean = (weight * free[f'{name}_fit'][0] + detected / sigma**2) / (
            weight + sigma**-2)
        move = free[f'{name}_fit'][0] - detected
        assert abs(table[f'{name}_fit'][0] - mean) < 0.15 * abs(move)


def test_fit_may_begin_elsewhere():
    """
    ``x_previous`` and ``y_previous`` are only where the fit begins: the
    prior and the pixels are those of the detection.
    """
    noise = 0.6 * np.random.default_rng(1).normal(size=SHAPE)
    image = image_of(TRUE, noise=noise)
    fitter = BlendGroupFitter(FWHM)
    options = {'position_prior': 0.2, 'group_id': 1}
    plain = fitter(image, error=0.6, init_params=start(**options))
    moved = fitter(image, error=0.6, init_params=start(
        x_previous=29.0, y_previous=31.5, **options))
    assert_array_equal(moved['x_init'], plain['x_init'])
    assert_array_equal(moved['n_pixels_fit'], plain['n_pixels_fit'])
    for name in NAMES:
        assert_allclose(column(moved, f'{name}_fit'),
                        column(plain, f'{name}_fit'),
                        atol=0.02 * column(plain, f'{name}_err')[0],
                        err_msg=name)


@pytest.mark.parametrize('positive', [True, False])
def test_positive_sources_cannot_cancel(positive):
    """
    Beside a hole in the map one of two sources is fitted with a negative
    peak, unless it must be positive: then it vanishes in the noise, and
    the other one is measured as if it were alone.
    """
    hole = np.array([-4.0, 36.0, 31.0, 4.0, 4.0, 0.0])
    noise = 0.1 * np.random.default_rng(3).normal(size=SHAPE)
    image = image_of(TRUE, hole, noise=noise)
    init = QTable({'x_init': [30.4, 36.0], 'y_init': [29.7, 31.0],
                   'group_id': [1, 1], 'positive': [positive] * 2,
                   'hold_shape': [False, True]})
    peaks = column(BlendGroupFitter(FWHM)(image, error=0.1, init_params=init),
                   'amplitude_fit')
    if positive:
        assert 0.0 < peaks[1] < 0.1
    else:
        assert_allclose(peaks, [10.0, -4.0], atol=0.5)


def test_bound_that_is_not_reached_changes_nothing():
    """
    A source with a positive peak is fitted as without the bound.
    """
    image = image_of(TRUE, noise=0.1 * np.random.default_rng(3).normal(
        size=SHAPE))
    plain, bounded = (
        BlendGroupFitter(FWHM)(image, error=0.1,
                               init_params=start(positive=positive))
        for positive in (False, True))
    for name in NAMES:
        assert_allclose(column(bounded, f'{name}_fit'),
                        column(plain, f'{name}_fit'), rtol=1e-9)
        assert_allclose(column(bounded, f'{name}_err'),
                        column(plain, f'{name}_err'), rtol=1e-9)


def test_hold_shape_holds_the_shape_of_its_row():
    """
    The held source of a pair keeps its widths and angle to the last bit;
    its neighbor is free, and both are measured right.
    """
    held = np.array([7.0, 36.5, 31.0, 5.0, 4.4, 120.0])
    image = image_of(TRUE, held)
    init = QTable({
        'x_init': [30.0, 36.8], 'y_init': [30.0, 31.3], 'group_id': [1, 1],
        'fwhm_major_init': [4.0, 5.0], 'fwhm_minor_init': [4.0, 4.4],
        'theta_init': [0.0, 120.0], 'hold_shape': [False, True]})
    table = BlendGroupFitter(FWHM)(image, error=0.1, init_params=init)
    for name, value in (('fwhm_major', 5.0), ('fwhm_minor', 4.4),
                        ('theta', 120.0)):
        assert_allclose(column(table, f'{name}_fit')[1], value, rtol=1e-12)
    fixed = (table['flags'] & FLAGS['fixed_shape']) > 0
    assert_array_equal(fixed, [False, True])
    for k, name in enumerate(NAMES):
        assert_allclose(column(table, f'{name}_fit'), [TRUE[k], held[k]],
                        rtol=1e-3, err_msg=name)
