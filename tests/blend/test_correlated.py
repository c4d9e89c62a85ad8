# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for fits with correlated noise.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.modeling.fitting import LMLSQFitter
from astropy.stats import gaussian_fwhm_to_sigma
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import least_squares

from hyperphotutils.blend import BlendGroupFitter, GroupSolver, joint
from hyperphotutils.noise import CorrelatedNoise
from hyperphotutils.utils import FLAGS, add_gaussians

FWHM = 4.0
SHAPE = (61, 71)
NAMES = ('amplitude', 'x', 'y', 'fwhm_major', 'fwhm_minor', 'theta')
# amplitude, x, y, major, minor, theta
PAIR = np.array([[10.0, 30.2, 28.7, 5.2, 4.0, 30.0],
                 [7.0, 35.6, 31.1, 5.8, 4.4, 120.0]])


@pytest.fixture(name='noise')
def fixture_noise():
    """
    Noise of the beam, structured background, and a little white noise.
    """
    return CorrelatedNoise(
        [0.002, 0.05, 0.2], [5.8 * np.eye(2), 80.0 * np.eye(2)])


@pytest.fixture(name='pair')
def fixture_pair(noise):
    """
    An image of two blended sources, with where to begin.
    """
    image = 2.0 + noise.simulate(SHAPE, seed=3)
    add_gaussians(image, *PAIR[:, [1, 2, 0, 3, 4, 5]].T)
    init = QTable({'x_init': PAIR[:, 1] + 0.4, 'y_init': PAIR[:, 2] - 0.1,
                   'group_id': [1, 1]})
    return image, init


def model(params, x, y):
    """
    Gaussians and a plane, written out from the textbook.
    """
    values = params[-3] + params[-2] * (x - 30.0) + params[-1] * (y - 30.0)
    for amplitude, x0, y0, major, minor, theta in params[:-3].reshape(-1, 6):
        cos, sin = np.cos(np.deg2rad(theta)), np.sin(np.deg2rad(theta))
        a = cos * (x - x0) + sin * (y - y0)
        b = -sin * (x - x0) + cos * (y - y0)
        values += amplitude * np.exp(-0.5 * (
            (a / (major * gaussian_fwhm_to_sigma))**2
            + (b / (minor * gaussian_fwhm_to_sigma))**2))
    return values


def footprint(init, radius, mask):
    """
    The usable pixels within the radius of the start of any source.
    """
    y, x = np.mgrid[:mask.shape[0], :mask.shape[1]]
    near = np.zeros(mask.shape, dtype=bool)
    for x0, y0 in zip(init['x_init'], init['y_init'], strict=True):
        near |= np.hypot(x - round(x0), y - round(y0)) <= radius
    near &= ~mask
    return x[near], y[near]


@pytest.mark.parametrize('masked', [False, True])
def test_fit_is_that_of_generalized_least_squares(noise, pair, masked):
    """
    Values, errors, and chi2 of a pair equal those of scipy on the pixels
    whitened with the covariance matrix.
    """
    image, init = pair
    mask = np.zeros(SHAPE, dtype=bool)
    if masked:
        mask[26:29, 32:35] = True
        mask[:, 41:] = True
    table = BlendGroupFitter(FWHM)(np.where(mask, 1e5, image), mask=mask,
                                   noise=noise, init_params=init)

    x, y = footprint(init, 2.0 * FWHM, mask)
    factor = cholesky(noise.covariance(x, y), lower=True)

    def residuals(params):
        return solve_triangular(factor, model(params, x, y) - image[y, x],
                                lower=True)

    fit = least_squares(residuals, np.append(PAIR.ravel(), [2.0, 0.0, 0.0]),
                        x_scale='jac', jac='3-point', xtol=1e-12, ftol=1e-12)
    covariance = np.linalg.inv(fit.jac.T @ fit.jac)
    errors = np.sqrt(np.diag(covariance))[:-3].reshape(-1, 6)
    values = fit.x[:-3].reshape(-1, 6)
    assert_array_equal(table['n_pixels_fit'], len(x))
    assert_array_equal(table['group_size'], 2)
    for k, name in enumerate(NAMES):
        for kind, expected, rtol in (('fit', values, 1e-3),
                                     ('err', errors, 1e-3)):
            column = table[f'{name}_{kind}']
            assert_allclose(getattr(column, 'value', column),
                            expected[:, k], rtol=rtol)
    for k in range(2):
        amplitude, _, _, major, minor, _ = values[k]
        flux = np.pi / (4.0 * np.log(2.0)) * amplitude * major * minor
        gradient = np.zeros(15)
        gradient[6 * k + np.array([0, 3, 4])] = flux / np.array(
            [amplitude, major, minor])
        assert_allclose(table['flux_fit'][k], flux, rtol=1e-3)
        assert_allclose(table['flux_err'][k],
                        np.sqrt(gradient @ covariance @ gradient), rtol=1e-3)
    assert_allclose(table['reduced_chi2'], 2.0 * fit.cost / (len(x) - 15),
                    rtol=1e-4)


def test_uncorrelated_noise_is_ordinary_least_squares(pair):
    image, init = pair
    fitter = BlendGroupFitter(FWHM, poly_order=1)
    white = fitter(image, error=0.3, init_params=init)
    noise = CorrelatedNoise([0.09], [])
    same = fitter(image, noise=noise, init_params=init)
    for name in white.colnames:
        if name.endswith(('_fit', '_err')) or name == 'reduced_chi2':
            assert_allclose(np.asarray(same[name]), np.asarray(white[name]),
                            rtol=1e-4, err_msg=name)


def test_relative_rms_weighs_the_pixels(noise, pair):
    """
    A map divided by its relative rms has stationary noise: where it is
    constant over a group, errors scale with it.
    """
    image, init = pair
    plain = BlendGroupFitter(FWHM)(image, noise=noise, init_params=init)
    scaled = CorrelatedNoise(noise.variances, noise.matrices,
                             relative_rms=np.full(SHAPE, 2.0))
    table = BlendGroupFitter(FWHM)(image, noise=scaled, init_params=init)
    assert_allclose(table['flux_fit'], plain['flux_fit'], rtol=1e-5)
    assert_allclose(table['flux_err'], 2.0 * plain['flux_err'], rtol=1e-5)


@pytest.mark.parametrize('limit', ['_CHUNK_ELEMENTS', '_FACTOR_ELEMENTS'])
def test_sizes_of_batches_do_not_matter(noise, limit, monkeypatch):
    """
    Groups of one, two, and three sources, some of them at a border, in
    batches of one group each.
    """
    x = np.array([10.0, 1.0, 60.0, 69.0, 30.0, 36.0, 30.0, 36.0, 33.0])
    y = np.array([10.0, 30.0, 52.0, 20.0, 22.0, 23.0, 45.0, 46.0, 50.0])
    image = noise.simulate(SHAPE, seed=4)
    ones = np.ones(len(x))
    add_gaussians(image, x, y, 10.0 * ones, 5.0 * ones, 4.0 * ones, 0 * ones)
    image[8:10, 5:7] = np.nan
    init = QTable({'x_init': x, 'y_init': y,
                   'group_id': [1, 2, 3, 4, 5, 5, 6, 6, 6]})
    fitter = BlendGroupFitter(FWHM)
    expected = fitter(image, noise=noise, init_params=init)
    assert np.isfinite(expected['flux_fit']).all()
    monkeypatch.setattr(joint, limit, 1)
    table = fitter(image, noise=noise, init_params=init)
    for name in ('flux_fit', 'flux_err', 'x_fit', 'reduced_chi2'):
        assert_allclose(table[name], expected[name], rtol=1e-6)


def test_units_do_not_matter(noise, pair):
    image, init = pair
    unit = u.Jy / u.pix
    plain = BlendGroupFitter(FWHM)(image, noise=noise, init_params=init)
    with_unit = CorrelatedNoise(noise.variances << unit**2, noise.matrices)
    table = BlendGroupFitter(FWHM)(image << unit, noise=with_unit,
                                   init_params=init)
    for name in ('amplitude_fit', 'amplitude_err', 'x_err'):
        assert_allclose(np.asarray(table[name]), np.asarray(plain[name]))
    assert table['amplitude_err'].unit == unit
    assert table['flux_err'].unit == u.Jy


def test_errors_are_the_scatter_over_many_maps(noise):
    """
    Sources of one map, far apart, with the true covariance: the pulls of
    all columns have a scatter of 1; and half the scatter of ordinary
    least squares.
    """
    y, x = np.mgrid[15:600:30, 15:600:30].reshape(2, -1) + 0.25
    n_sources = len(x)
    image = noise.simulate((600, 600), seed=8)
    add_gaussians(image, x, y, np.full(n_sources, 8.0),
                  np.full(n_sources, 5.5), np.full(n_sources, 4.0),
                  np.full(n_sources, 40.0))
    init = QTable({'x_init': x + 0.3, 'y_init': y - 0.3})
    table = BlendGroupFitter(FWHM)(image, noise=noise, init_params=init)
    # five standard errors of a standard deviation
    margin = 5.0 / np.sqrt(2.0 * n_sources)
    true = {'amplitude': 8.0, 'x': x, 'y': y, 'fwhm_major': 5.5,
            'fwhm_minor': 4.0, 'theta': 40.0,
            'flux': np.pi / (4.0 * np.log(2.0)) * 8.0 * 5.5 * 4.0}
    for name, value in true.items():
        pull = ((np.asarray(table[f'{name}_fit']) - value)
                / np.asarray(table[f'{name}_err']))
        assert_allclose(np.std(pull), 1.0, atol=margin, err_msg=name)
        assert abs(np.mean(pull)) < 0.25, name
    white = BlendGroupFitter(FWHM)(image, init_params=init)
    assert (np.std(table['flux_fit']) < 0.7 * np.std(white['flux_fit']))


def test_pixels_of_a_group_are_bounded(noise):
    """
    A group whose covariance would be too large is split, and says so,
    with as many pixels as that of the largest group allowed.
    """
    y, x = np.mgrid[20:100:8, 20:100:8].reshape(2, -1).astype(float)
    image = noise.simulate((120, 120), seed=1)
    add_gaussians(image, x, y, np.full(100, 20.0), np.full(100, 4.5),
                  np.full(100, 4.5), np.zeros(100))
    init = QTable({'x_init': x, 'y_init': y, 'group_id': np.ones(100, int)})
    fitter = BlendGroupFitter(FWHM, solver=GroupSolver(max_group_size=100))
    table = fitter(image, noise=noise, init_params=init)
    assert table['n_pixels_fit'].max() <= 2000
    assert table['n_pixels_fit'].max() > 500
    assert np.all(table['flags'] & FLAGS['group_split'])
    assert table['group_size'].max() > 5
    assert_allclose(table['amplitude_fit'], 20.0, atol=3.0)


def test_large_beams_are_fitted_on_fewer_pixels(noise):
    """
    A beam of 16 pixels needs no more of them than one of 4: every fourth
    pixel along both axes.
    """
    wide = CorrelatedNoise(noise.variances, 16.0 * noise.matrices)
    image = wide.simulate((200, 200), seed=5)
    add_gaussians(image, [100.0], [100.0], [10.0], [20.0], [18.0], [0.0])
    init = QTable({'x_init': [101.0], 'y_init': [99.0]})
    table = BlendGroupFitter(16.0)(image, noise=wide, init_params=init)
    narrow = BlendGroupFitter(4.0)(image, noise=noise, init_params=init)
    assert table['n_pixels_fit'][0] == narrow['n_pixels_fit'][0]
    assert abs(table['x_fit'][0] - 100.0) < 5.0 * table['x_err'][0] < 1.0


def test_backgrounds_are_planes(noise, pair):
    """
    Unless another order is asked for: a plane added to the map changes
    nothing, with either noise.
    """
    image, init = pair
    y, x = np.indices(SHAPE)
    for weights in ({'noise': noise}, {'error': 1.0}):
        plain, tilted = (
            BlendGroupFitter(FWHM)(data, init_params=init, **weights)
            for data in (image, image + 3.0 * x - 2.0 * y))
        for name in NAMES:
            change = np.asarray(tilted[f'{name}_fit']
                                - plain[f'{name}_fit'])
            assert_allclose(change, 0.0, atol=1e-2 * np.min(
                np.asarray(plain[f'{name}_err'])), err_msg=name)
    for order, expected in ((None, 1), (0, 0), (2, 2)):
        fitter = BlendGroupFitter(FWHM, poly_order=order)
        table = fitter(image, noise=noise, init_params=init)
        assert_array_equal(table['bkg_order'], expected)
    assert_array_equal(
        BlendGroupFitter(FWHM)(image, init_params=init)['bkg_order'], 1)


def test_noise_goes_with_nothing_else(noise, pair):
    image, init = pair
    match = ('noise and error are mutually exclusive, and an astropy fitter '
             'cannot')
    with pytest.raises(ValueError, match=match):
        BlendGroupFitter(FWHM)(image, noise=noise, error=1.0,
                               init_params=init)
    with pytest.raises(ValueError, match=match):
        BlendGroupFitter(
            FWHM, solver=GroupSolver(astropy_fitter=LMLSQFitter()))(
            image, noise=noise, init_params=init)


def test_units_must_agree(noise, pair):
    image, init = pair
    with pytest.raises(ValueError, match='must all have the same unit'):
        BlendGroupFitter(FWHM)(image << u.Jy, noise=noise, init_params=init)


@pytest.mark.parametrize('noise', ['correlated', 1.0, [1]])
def test_noise_of_a_wrong_kind(noise):
    """
    The fitter takes nothing but a `CorrelatedNoise`.
    """
    init = QTable({'x_init': [20.0], 'y_init': [20.0]})
    with pytest.raises(TypeError, match='noise must be a NoiseModel'):
        BlendGroupFitter(4.0)(np.zeros((41, 41)), noise=noise,
                              init_params=init)


def test_relative_rms_of_another_map():
    """
    The message names what has the wrong shape.
    """
    noise = CorrelatedNoise([0.0, 1.0], [np.eye(2)],
                            relative_rms=np.ones((3, 3)))
    init = QTable({'x_init': [20.0], 'y_init': [20.0]})
    with pytest.raises(ValueError, match=r'noise\.relative_rms must have the'):
        BlendGroupFitter(4.0)(np.zeros((41, 41)), noise=noise,
                              init_params=init)


class TestThinning:
    """
    Matrices stay small, whatever the sampling and the radius.
    """

    @pytest.mark.parametrize(('fwhm', 'fit_radius', 'thinned'), [
        (4.0, 8.0, False), (12.0, 24.0, True), (4.0, 40.0, True)])
    def test_pixels_are_bounded_and_thinning_is_flagged(self, fwhm,
                                                        fit_radius, thinned):
        """
        And nothing is lost by it: of smooth noise, every fourth part of
        a beam tells it all.
        """
        noise = CorrelatedNoise.from_beam(1.0, fwhm)
        data = noise.simulate((121, 121), seed=1)
        add_gaussians(data, [60.3], [59.8], [200.0], [fwhm], [fwhm], [0.0])
        init = QTable({'x_init': [60.0], 'y_init': [60.0]})
        fitter = BlendGroupFitter(fwhm, fit_radius=fit_radius)
        table = fitter(data, noise=noise, init_params=init)
        assert ('thinned' in fitter.decode_flags(table['flags'])[0]) == thinned
        assert table['n_pixels_fit'][0] <= 2000
        assert_allclose(table['amplitude_fit'][0], 200.0,
                        atol=5.0 * table['amplitude_err'][0])
