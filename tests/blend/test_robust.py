# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for robust losses, penalties, and fits without a background.
"""

import numpy as np
import pytest
from astropy.table import QTable
from numpy.testing import assert_allclose
from scipy.optimize import least_squares

from hyperphotutils.blend import BlendGroupFitter, GroupSolver
from hyperphotutils.utils import add_gaussians

FWHM = 4.0
TO_SIGMA = 1.0 / np.sqrt(8.0 * np.log(2.0))
RADIUS = 2.0 * FWHM


def contaminated_source(seed, *, outliers=0.1):
    """
    A source on noise of 0.1, where a part of the pixels is off by 3.
    """
    rng = np.random.default_rng(seed)
    data = 0.1 * rng.normal(size=(41, 41)) + 0.5
    add_gaussians(data, 20.2, 19.8, 4.0, 5.5, 4.2, 30.0)
    bad = rng.random(data.shape) < outliers
    data[bad] += 3.0
    return data


def scipy_fit(data, loss, f_scale, ridge=0.0):
    """
    The same fit by scipy: amplitude, x, y, and background.
    """
    y, x = np.indices(data.shape)
    used = np.hypot(x - 20, y - 20) <= RADIUS
    x, y, d = x[used], y[used], data[used]
    u, v = (x - 20.0) / RADIUS, (y - 20.0) / RADIUS

    def residual(p):
        amplitude, x_0, y_0, major, minor, theta, *c = p
        cos, sin = np.cos(theta), np.sin(theta)
        a = cos * (x - x_0) + sin * (y - y_0)
        b = cos * (y - y_0) - sin * (x - x_0)
        model = amplitude * np.exp(-0.5 * ((a / major)**2 + (b / minor)**2))
        model += c[0] + c[1] * u + c[2] * v
        rows = (model - d) / 0.1
        if ridge:
            rows = np.append(rows, np.sqrt(ridge) * np.array(c) / 0.1)
        return rows

    start = [4.0, 20.2, 19.8, 5.5 * TO_SIGMA, 4.2 * TO_SIGMA,
             np.deg2rad(30.0), 0.5, 0.0, 0.0]
    return least_squares(residual, start, loss=loss, f_scale=f_scale,
                         xtol=1e-14, ftol=1e-14, gtol=1e-14,
                         x_scale='jac', max_nfev=5000)


def our_fit(data, **kwargs):
    fitter = BlendGroupFitter(
        FWHM, solver=GroupSolver(ftol=1e-14, max_iter=2000, **kwargs))
    init = QTable({'x_init': [20.2], 'y_init': [19.8]})
    return fitter, fitter(data, error=0.1, init_params=init)


@pytest.mark.parametrize('loss', ['linear', 'soft_l1', 'huber', 'cauchy'])
@pytest.mark.parametrize('f_scale', [1.0, 2.5])
def test_losses_are_those_of_scipy(loss, f_scale):
    """
    The kernel ends at the minimum of scipy's cost.
    """
    for seed in range(3):
        data = contaminated_source(seed)
        expected = scipy_fit(data, loss, f_scale)
        _, table = our_fit(data, loss=loss, f_scale=f_scale)
        assert_allclose(table['amplitude_fit'][0], expected.x[0], rtol=1e-4)
        assert_allclose([table['x_fit'][0], table['y_fit'][0]],
                        expected.x[1:3], rtol=1e-5)
        assert_allclose(table['fwhm_major_fit'][0] * TO_SIGMA,
                        np.max(np.abs(expected.x[3:5])), rtol=1e-4)


def test_robust_losses_resist_outliers():
    """
    With a tenth of the pixels off by 30 sigma, the Cauchy loss keeps the
    flux within 3 percent, which least squares misses by more.
    """
    flux = np.pi / (4.0 * np.log(2.0)) * 4.0 * 5.5 * 4.2
    off = {'linear': [], 'cauchy': []}
    for seed in range(12):
        data = contaminated_source(seed)
        for loss, found in off.items():
            _, table = our_fit(data, loss=loss)
            found.append(table['flux_fit'][0] / flux - 1.0)
    assert np.median(np.abs(off['cauchy'])) < 0.03
    assert np.std(off['linear']) > 3.0 * np.std(off['cauchy'])


@pytest.mark.parametrize('ridge', [1.0, 100.0])
def test_ridge_is_a_row_of_the_least_squares_problem(ridge):
    """
    The penalty equals extra residuals, the square root of the ridge times
    the coefficients.
    """
    data = contaminated_source(1, outliers=0.0)
    expected = scipy_fit(data, 'linear', 1.0, ridge)
    fitter, table = our_fit(data, ridge=ridge)
    assert_allclose(table['amplitude_fit'][0], expected.x[0], rtol=1e-5)
    model = fitter.models[1]
    assert_allclose([model.c0_0_1.value, model.c1_0_1.value,
                     model.c0_1_1.value],
                    expected.x[6:], rtol=1e-3, atol=1e-5)


def test_no_background():
    """
    With the order -1 nothing but the sources is fitted.
    """
    data = np.zeros((41, 41))
    add_gaussians(data, [18.0, 24.0], [20.0, 21.0], [4.0, 2.0], 5.0, 4.5,
                  0.0)
    fitter = BlendGroupFitter(FWHM, poly_order=-1)
    init = QTable({'x_init': [18.3, 24.0], 'y_init': [20.0, 20.8]})
    table = fitter(data, init_params=init)
    assert_allclose(table['amplitude_fit'], [4.0, 2.0], rtol=1e-6)
    assert np.all(table['bkg_order'] == -1)
    assert np.all(table['local_bkg'] == 0.0)
    assert fitter.models[1].n_submodels == 2
    assert fitter.fit_info[0]['covariance'].shape == (12, 12)


@pytest.mark.parametrize(('kwargs', 'match'), [
    ({'loss': 'arctan'}, r"loss must be one of .*: 'arctan'"),
    ({'f_scale': 0.0}, 'f_scale must be a positive number: 0.0'),
    ({'ridge': -1.0}, 'ridge must be a number of at least 0: -1.0'),
    ({'ftol': 0.0}, 'ftol must be a positive number: 0.0')])
def test_bad_arguments(kwargs, match):
    """
    Each is named.
    """
    with pytest.raises(ValueError, match=match):
        GroupSolver(**kwargs)


@pytest.mark.parametrize('name', ['ftol', 'xtol', 'gtol'])
def test_each_tolerance_ends_fits(name):
    """
    A loose one spares steps and stays within a tenth of the errors, and
    is no failure; a tight one beside a loose one changes nothing.
    """
    data = contaminated_source(1, outliers=0.0)
    init = QTable({'x_init': [21.0], 'y_init': [19.0]})
    loose = {'ftol': 1e-4, 'xtol': 1e-4, 'gtol': 1e-2}[name]
    tables, steps = [], []
    for options in ({}, {name: loose}, {name: loose} | {
            other: 1e-15 for other in ('xtol', 'gtol') if other != name}):
        fitter = BlendGroupFitter(
            FWHM, solver=GroupSolver(**{'ftol': 1e-14} | options))
        tables.append(fitter(data, error=0.1, init_params=init))
        steps.append(fitter.fit_info[0]['n_iter'])
        assert fitter.fit_info[0]['converged']
        assert tables[-1]['flags'][0] == 0
    assert steps[1] == steps[2] < steps[0]
    for column in ('x', 'amplitude', 'flux'):
        assert_allclose(tables[1][f'{column}_fit'], tables[0][f'{column}_fit'],
                        atol=0.1 * tables[0][f'{column}_err'][0])
        assert_allclose(tables[2][f'{column}_fit'],
                        tables[1][f'{column}_fit'], rtol=1e-12)
