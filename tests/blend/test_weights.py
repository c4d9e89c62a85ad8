# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the weights of pixels.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.modeling.fitting import TRFLSQFitter
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import least_squares

from hyperphotutils.blend import BlendGroupFitter, GroupSolver
from hyperphotutils.blend.weights import pixel_weights
from hyperphotutils.noise import CorrelatedNoise
from hyperphotutils.utils import add_gaussians

FWHM = 4.0
TO_SIGMA = 1.0 / np.sqrt(8.0 * np.log(2.0))
RADIUS = 2.0 * FWHM
NOISE = 0.2


def one_source(seed=0, amplitude=6.0):
    """
    A source on a constant background with white noise.
    """
    rng = np.random.default_rng(seed)
    data = NOISE * rng.normal(size=(41, 41)) + 0.5
    add_gaussians(data, 20.2, 19.8, amplitude, 5.5, 4.2, 30.0)
    return data, QTable({'x_init': [20.2], 'y_init': [19.8]})


def many_sources(seed, amplitude, noise=NOISE):
    """
    400 isolated sources in white noise.
    """
    rng = np.random.default_rng(seed)
    grid = 20.0 * np.arange(20) + 15.0
    x, y = (axis.ravel() + rng.uniform(-0.5, 0.5, 400)
            for axis in np.meshgrid(grid, grid))
    data = noise * rng.normal(size=(420, 420)) + 0.5
    truth = {'amplitude': amplitude, 'x': x, 'y': y, 'fwhm_major': 5.5,
             'fwhm_minor': 4.0,
             'flux': amplitude * np.pi / (4.0 * np.log(2.0)) * 22.0}
    add_gaussians(data, x, y, np.full(400, amplitude), np.full(400, 5.5),
                  np.full(400, 4.0), rng.uniform(0.0, 180.0, 400))
    init = QTable({'x_init': x + rng.uniform(-0.3, 0.3, 400),
                   'y_init': y + rng.uniform(-0.3, 0.3, 400)})
    return data, init, truth


def gaussian(params, x, y):
    amplitude, x_0, y_0, major, minor, theta = params
    cos, sin = np.cos(theta), np.sin(theta)
    a = cos * (x - x_0) + sin * (y - y_0)
    b = cos * (y - y_0) - sin * (x - x_0)
    return amplitude * np.exp(-0.5 * ((a / major)**2 + (b / minor)**2))


def scipy_fit(data, weights_of, **kwargs):
    """
    The same fit by scipy, with weights from the pixels' x and y.
    """
    y, x = np.indices(data.shape)
    used = np.hypot(x - 20, y - 20) <= RADIUS
    x, y, d = x[used], y[used], data[used]
    weight = weights_of(x, y)
    weight = weight / np.sqrt(np.mean(weight[weight > 0.0]**2))

    def residual(p):
        return weight * (gaussian(p[:6], x, y) + p[6] - d) / NOISE

    start = [6.0, 20.2, 19.8, 5.5 * TO_SIGMA, 4.2 * TO_SIGMA,
             np.deg2rad(30.0), 0.5]
    return least_squares(residual, start, xtol=1e-14, ftol=1e-14,
                         gtol=1e-14, x_scale='jac', max_nfev=5000, **kwargs)


def weight_map():
    y, x = np.indices((41, 41))
    return 0.2 + (x + 2.0 * y) / 60.0


def model_snr(table):
    row = table[0]
    params = (row['amplitude_fit'], row['x_fit'], row['y_fit'],
              row['fwhm_major_fit'] * TO_SIGMA,
              row['fwhm_minor_fit'] * TO_SIGMA,
              row['theta_fit'].to_value(u.rad))
    return lambda x, y: np.maximum(gaussian(params, x, y) / NOISE, 1.0)


def assert_same_fit(table, solution, rtol):
    """
    Compare the values of a row with parameters of scipy.
    """
    assert_allclose(table['amplitude_fit'][0], solution.x[0], rtol=rtol)
    assert_allclose([table['x_fit'][0], table['y_fit'][0]],
                    solution.x[1:3], rtol=rtol)
    widths = np.sort(np.abs(solution.x[3:5]))[::-1]
    assert_allclose([table['fwhm_major_fit'][0] * TO_SIGMA,
                     table['fwhm_minor_fit'][0] * TO_SIGMA], widths,
                    rtol=10.0 * rtol)
    assert_allclose(table['local_bkg'][0], solution.x[6], rtol=10.0 * rtol)


@pytest.mark.parametrize('loss', ['linear', 'huber', 'cauchy'])
@pytest.mark.parametrize(('weights', 'weights_of'), [
    ('spatial',
     lambda x, y: np.exp(-0.5 * np.hypot(x - 20.2, y - 19.8)**2 / FWHM**2)),
    ('map', lambda x, y: weight_map()[y, x]),
    ('mask', lambda x, y: (weight_map()[y, x] > 0.4).astype(float)),
    (('spatial', 'map'),
     lambda x, y: (weight_map()[y, x] * np.exp(
         -0.5 * np.hypot(x - 20.2, y - 19.8)**2 / FWHM**2)))])
def test_weighted_fits_are_those_of_scipy(weights, weights_of, loss):
    """
    The kernel ends at the minimum of the same weighted problem, with
    robust losses too.
    """
    data, init = one_source()
    given = {}
    if 'map' in weights:
        given['weight_map'] = weight_map()
    elif weights == 'mask':
        given['weight_map'] = np.where(weight_map() > 0.4, 7.0, 0.0)
    fitter = BlendGroupFitter(
        FWHM, poly_order=0, solver=GroupSolver(
            weights=weights, loss=loss, ftol=1e-14, max_iter=1000))
    table = fitter(data, error=NOISE, init_params=init, **given)
    assert_same_fit(table, scipy_fit(data, weights_of, loss=loss), 1e-5)


@pytest.mark.parametrize(('weights', 'power'), [
    ('snr', 1.0), ('power_snr', 2.0), ('power_snr', 3.0)])
def test_signal_weights_are_those_of_the_model(weights, power):
    """
    With the signal-to-noise ratio of the fitted source as weights, scipy
    finds the same source to a fraction of its errors.
    """
    data, init = one_source()
    fitter = BlendGroupFitter(
        FWHM, poly_order=0, solver=GroupSolver(
            weights=weights, weight_power=power, ftol=1e-14, max_iter=1000))
    table = fitter(data, error=NOISE, init_params=init)
    snr = model_snr(table)

    def weights_of(x, y):
        weight = snr(x, y)**power
        return np.maximum(weight, 0.1 * weight.max())

    solution = scipy_fit(data, weights_of)
    assert_allclose(table['amplitude_fit'][0], solution.x[0],
                    atol=0.03 * table['amplitude_err'][0])
    assert_allclose(table['x_fit'][0], solution.x[1],
                    atol=0.03 * table['x_err'][0])
    assert_allclose(table['fwhm_major_fit'][0] * TO_SIGMA,
                    np.max(np.abs(solution.x[3:5])),
                    atol=0.03 * table['fwhm_major_err'][0])


def test_covariance_is_the_sandwich():
    """
    It is that of matrix algebra with scipy's derivatives, and far from
    the inverse of the normal matrix.
    """
    data, init = one_source()
    steep = weight_map()**3
    fitter = BlendGroupFitter(
        FWHM, poly_order=0, solver=GroupSolver(weights='map', ftol=1e-14))
    table = fitter(data, error=NOISE, weight_map=steep, init_params=init)
    jac = scipy_fit(data, lambda x, y: steep[y, x]).jac
    y, x = np.indices(data.shape)
    weight = steep[np.hypot(x - 20, y - 20) <= RADIUS]
    weight /= np.sqrt(np.mean(weight**2))
    bread = np.linalg.inv(jac.T @ jac)
    errors = np.sqrt(np.diag(
        bread @ (jac.T @ (weight[:, None]**2 * jac)) @ bread))
    assert_allclose([table[f'{name}_err'][0]
                     for name in ('amplitude', 'x', 'y')], errors[:3],
                    rtol=1e-4)
    covariance = fitter.fit_info[0]['covariance']
    assert_allclose(np.sqrt(covariance[6, 6]), errors[6], rtol=1e-4)
    naive = np.sqrt(np.diag(bread))
    assert np.max(np.abs(errors / naive - 1.0)) > 0.1


@pytest.mark.parametrize('error', [NOISE, None])
@pytest.mark.parametrize(('weights', 'power'), [
    ('snr', 1.0), ('power_snr', 2.0), ('power_snr', 5.0), ('spatial', 1.0)])
def test_errors_hold_with_weights(weights, power, error):
    """
    Pulls of 800 sources in white noise scatter by 1.0 +- 0.1 around 0,
    with and without known errors.
    """
    pulls = {name: [] for name in ('amplitude', 'flux', 'x', 'y')}
    fitter = BlendGroupFitter(
        FWHM, solver=GroupSolver(weights=weights, weight_power=power))
    for seed in range(2):
        data, init, truth = many_sources(seed, 50.0 * NOISE)
        table = fitter(data, error=error, init_params=init)
        for name, values in pulls.items():
            values.append((table[f'{name}_fit'] - truth[name])
                          / table[f'{name}_err'])
    for name, values in pulls.items():
        pull = np.concatenate(values)
        assert 0.9 < np.std(pull) < 1.1, name
        assert abs(np.mean(pull)) < 0.25, name


@pytest.mark.parametrize('weights', ['snr', 'spatial'])
def test_errors_hold_with_weights_and_correlated_noise(weights):
    """
    The fit is that with the weights, not one of generalised least
    squares; its errors have the covariance of the noise in them.
    """
    noise = CorrelatedNoise.from_beam(NOISE, fwhm=FWHM)
    fitter = BlendGroupFitter(FWHM, solver=GroupSolver(weights=weights))
    pulls = {name: [] for name in ('amplitude', 'flux', 'x', 'y')}
    for seed in range(2):
        clean, init, truth = many_sources(seed, 50.0 * NOISE, noise=0.0)
        data = clean + noise.simulate(clean.shape, seed=seed)
        table = fitter(data, noise=noise, init_params=init)
        white = fitter(data, error=NOISE, init_params=init)
        assert_allclose(table['amplitude_fit'], white['amplitude_fit'],
                        rtol=1e-4)
        assert np.median(table['flux_err'] / white['flux_err']) > 1.4
        best = BlendGroupFitter(FWHM, poly_order=1)(
            data, noise=noise, init_params=init)
        assert np.median(table['flux_err'] / best['flux_err']) > 1.02
        assert 1.0 < np.median(table['reduced_chi2']) < 1.5
        for name, values in pulls.items():
            values.append((table[f'{name}_fit'] - truth[name])
                          / table[f'{name}_err'])
    for name, values in pulls.items():
        pull = np.concatenate(values)
        assert 0.9 < np.std(pull) < 1.1, name
        assert abs(np.mean(pull)) < 0.25, name


def test_blends_with_weights_and_correlated_noise():
    """
    Groups with footprints of their own have the covariance that matrix
    algebra gives.
    """
    noise = CorrelatedNoise.from_beam(NOISE, fwhm=FWHM)
    data = noise.simulate((41, 41), seed=3)
    add_gaussians(data, [18.0, 22.5], [20.0, 21.0], [6.0, 4.0], 5.0, 4.4,
                  [30.0, 70.0])
    init = QTable({'x_init': [18.0, 22.5], 'y_init': [20.0, 21.0]})
    fitter = BlendGroupFitter(
        FWHM, poly_order=0, fixed=('position', 'shape'), solver=GroupSolver(
            weights='map'))
    table = fitter(data, noise=noise, weight_map=weight_map(),
                   init_params=init)
    y, x = np.indices(data.shape)
    used = ((np.hypot(x - 18, y - 20) <= RADIUS)
            | (np.hypot(x - 23, y - 21) <= RADIUS))
    x, y, weight = x[used], y[used], weight_map()[used]
    beam = [(1.0, x_0, y_0, FWHM * TO_SIGMA, FWHM * TO_SIGMA, 0.0)
            for x_0, y_0 in ((18.0, 20.0), (22.5, 21.0))]
    jac = np.stack([*(gaussian(p, x, y) for p in beam), np.ones(len(x))], 1)
    bread = np.linalg.inv(jac.T @ (weight[:, None]**2 * jac))
    middle = weight[:, None]**2 * jac
    expected = bread @ (middle.T @ noise.covariance(x, y) @ middle) @ bread
    assert_allclose(table['amplitude_err'],
                    np.sqrt(np.diag(expected))[:2], rtol=1e-5)
    assert_allclose(table['amplitude_fit'],
                    (bread @ (middle.T @ data[used]))[:2], rtol=1e-5)


def test_errors_are_larger_than_those_of_inverse_variances():
    """
    Other weights give larger errors (Gauss and Markov), and the
    criteria do not hold them.
    """
    data, init, _ = many_sources(3, 50.0 * NOISE)
    best = BlendGroupFitter(FWHM)(data, error=NOISE, init_params=init)
    for weights in ('snr', 'spatial'):
        fitter = BlendGroupFitter(FWHM, solver=GroupSolver(weights=weights))
        table = fitter(data, error=NOISE, init_params=init)
        for name in ('amplitude_err', 'flux_err', 'x_err'):
            assert np.median(table[name] / best[name]) > 1.005, name
        assert abs(np.median(table['reduced_chi2']) - 1.0) < 0.1
        assert np.all(table['nmse'] > 0.999 * best['nmse'])


def test_inverse_rms_is_the_default():
    """
    The errors already are in the residuals.
    """
    data, init = one_source()
    error = NOISE * (1.0 + weight_map())
    tables = [BlendGroupFitter(FWHM, solver=GroupSolver(weights=weights))(
        data, error=error, init_params=init)
        for weights in (None, 'inverse_rms')]
    for name in ('amplitude_fit', 'flux_fit', 'flux_err', 'reduced_chi2'):
        assert_allclose(tables[0][name], tables[1][name], rtol=1e-10)


def test_scale_of_weights_does_not_matter():
    """
    Weights are relative.
    """
    data, init = one_source()
    fitter = BlendGroupFitter(
        FWHM, solver=GroupSolver(weights='map', loss='huber', ridge=0.1))
    first, second = (fitter(data, error=NOISE, weight_map=c * weight_map(),
                            init_params=init) for c in (1.0, 1e6))
    for name in ('amplitude_fit', 'flux_fit', 'flux_err', 'reduced_chi2'):
        assert_allclose(first[name], second[name], rtol=1e-9)


@pytest.mark.parametrize('weights', ['map', 'mask'])
def test_pixels_without_weight_are_masked(weights):
    """
    NaN or zero weights, and a mask, are the same.
    """
    data, init = one_source()
    hole = np.zeros(data.shape, dtype=bool)
    hole[22:27, 15:19] = True
    missing = np.where(hole, np.nan, 2.0)
    missing[0] = 0.0
    table = BlendGroupFitter(FWHM, solver=GroupSolver(weights=weights))(
        data, error=NOISE, weight_map=missing, init_params=init)
    expected = BlendGroupFitter(FWHM)(data, error=NOISE, mask=hole,
                                      init_params=init)
    for name in ('amplitude_fit', 'flux_fit', 'flux_err', 'n_pixels_fit',
                 'flags', 'bic'):
        assert_allclose(table[name], expected[name], rtol=1e-8)


def test_units_and_blends():
    """
    A blended pair in a unit is fitted as without one.
    """
    data, _ = one_source()
    add_gaussians(data, 24.5, 21.0, 4.0, 5.0, 4.5, 80.0)
    init = QTable({'x_init': [20.0, 24.7], 'y_init': [20.0, 20.8]})
    fitter = BlendGroupFitter(FWHM, solver=GroupSolver(weights='snr'))
    plain = fitter(data, init_params=init)
    table = fitter(data << u.Jy, init_params=init)
    assert table['amplitude_err'].unit == u.Jy
    assert_array_equal(table['amplitude_fit'].value, plain['amplitude_fit'])
    assert_allclose(plain['x_fit'], [20.2, 24.5], atol=0.3)
    assert np.all(plain['flags'] == 0)


def test_noise_free_data():
    """
    Without noise, weights change nothing.
    """
    data = np.zeros((41, 41))
    add_gaussians(data, 20.2, 19.8, 6.0, 5.5, 4.2, 30.0)
    init = QTable({'x_init': [20.5], 'y_init': [19.5]})
    for weights in ('snr', 'power_snr', 'spatial'):
        fitter = BlendGroupFitter(
            FWHM, solver=GroupSolver(weights=weights, weight_power=5.0))
        table = fitter(data, init_params=init)
        assert_allclose(table['amplitude_fit'], 6.0, rtol=1e-4)
        assert_allclose(table['fwhm_major_fit'], 5.5, rtol=1e-4)


def test_pixel_weights():
    """
    The factors, their product and its scale.
    """
    usable = np.array([[True, True, True, False]])
    snr = np.array([[4.0, -3.0, 0.5, 9.0]])
    weights = pixel_weights(('snr',), usable, snr=snr)
    assert_allclose(weights / weights[0, 1], [[4.0, 1.0, 1.0, 0.0]])
    assert_allclose(np.mean(weights[usable]**2), 1.0)
    weights = pixel_weights(('power_snr', 'map'), usable, snr=0.75 * snr,
                            power=2.0, weight_map=np.array([[1, 2, 4, 8]]))
    assert_allclose(weights / weights[0, 1], [[4.5, 1.0, 2.0, 0.0]])
    weights = pixel_weights(('power_snr',), usable, snr=1e3 * snr, power=5.0)
    assert_allclose(weights / weights[0, 0], [[1.0, 0.1, 0.1, 0.0]])


@pytest.mark.parametrize(('kwargs', 'match'), [
    ({'weights': 'signal'}, r"weights must hold nothing but \('inverse_rms'"
     r".*'signal'"),
    ({'weights': ('snr', 'power_snr')},
     "weights must not hold both 'snr' and 'power_snr'"),
    ({'weights': ('map', 'mask')},
     "weights must not hold both 'map' and 'mask'"),
    ({'weight_power': 0.0}, 'weight_power must be a positive number: 0.0'),
    ({'xtol': 0.0}, 'xtol must be a positive number: 0.0'),
    ({'gtol': -1.0}, 'gtol must be a positive number: -1.0')])
def test_bad_arguments(kwargs, match):
    """
    Each is named.
    """
    with pytest.raises(ValueError, match=match):
        GroupSolver(**kwargs)


@pytest.mark.parametrize(('weights', 'call', 'error', 'match'), [
    ('map', {}, ValueError, "weights='map' needs a weight_map in the call"),
    (None, {'weight_map': np.ones((41, 41))}, ValueError,
     r"weight_map needs weights='map' or weights='mask': the solver has "
     r'weights=\(\)'),
    ('map', {'weight_map': np.ones((4, 5))}, ValueError,
     r'weight_map must have the shape of data, \(41, 41\), got \(4, 5\)'),
    ('map', {'weight_map': np.full((41, 41), -2.0)}, ValueError,
     'weight_map must not be negative, its smallest value is -2'),
    ('map', {'weight_map': np.full((41, 41), 'a')}, TypeError,
     'weight_map must hold plain numbers, got ndarray of <U1'),
    ('map', {'weight_map': np.ones((41, 41)) << u.Jy}, TypeError,
     'weight_map must hold plain numbers, got Quantity of float64')])
def test_bad_calls(weights, call, error, match):
    """
    Each says what to do.
    """
    data, init = one_source()
    fitter = BlendGroupFitter(FWHM, solver=GroupSolver(weights=weights))
    with pytest.raises(error, match=match):
        fitter(data, init_params=init, **call)


def test_astropy_fitters_take_no_weights():
    """
    Their covariance would not hold.
    """
    with pytest.raises(ValueError, match=r'weights is an option of the '
                       r"kernel.*leave out astropy_fitter or weights="
                       r"\('snr',\)"):
        GroupSolver(weights='snr', astropy_fitter=TRFLSQFitter())
