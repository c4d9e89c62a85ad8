# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the models module: astropy models, and astropy fitters in the
place of the kernel.
"""

import numpy as np
import pytest
from astropy.modeling.fitting import (
    DogBoxLSQFitter,
    LevMarLSQFitter,
    SLSQPLSQFitter,
    TRFLSQFitter,
)
from astropy.modeling.models import Gaussian2D, Polynomial2D
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_array_equal

from hyperphotutils.blend import (
    BlendGroupFitter,
    GroupSolver,
    make_group_model,
)
from hyperphotutils.utils import FLAGS

FWHM = 4.0
TO_SIGMA = 1.0 / np.sqrt(8.0 * np.log(2.0))


class TestMakeGroupModel:
    @pytest.mark.parametrize('order', range(5))
    def test_values(self, order):
        """
        The model is the sum of the Gaussians and the polynomial, whose
        terms come in the order of their degree.
        """
        rng = np.random.default_rng(order)
        x, y = rng.uniform(0.0, 20.0, (2, 50))
        sources = [[2.0, 5.0, 6.0, 9.0, 4.0, 0.3],
                   [3.0, 9.0, 8.0, 5.0, 4.0, 2.0]]
        powers = [(degree - j, j) for degree in range(order + 1)
                  for j in range(degree + 1)]
        coeffs = rng.normal(size=len(powers))
        model = make_group_model(sources, coeffs, 7.0, 8.0, 10.0)
        expected = sum(
            value * ((x - 7.0) / 10.0)**i * ((y - 8.0) / 10.0)**j
            for value, (i, j) in zip(coeffs, powers, strict=True))
        for amplitude, x0, y0, var_a, var_b, theta in sources:
            expected = expected + Gaussian2D(
                amplitude, x0, y0, np.sqrt(var_a), np.sqrt(var_b),
                theta=theta)(x, y)
        assert_allclose(model(x, y), expected, rtol=1e-12, atol=1e-12)

    def test_parts(self):
        """
        Gaussians first, then one polynomial.
        """
        model = make_group_model([[1.0, 2.0, 3.0, 4.0, 4.0, 0.0]] * 3,
                                 [0.0, 0.0, 0.0], 0.0, 0.0, 8.0)
        assert model.n_submodels == 4
        assert all(isinstance(model[i], Gaussian2D) for i in range(3))
        assert isinstance(model[3], Polynomial2D)
        assert model[3].degree == 1

    @pytest.mark.parametrize('order', range(5))
    def test_derivatives_are_right(self, order):
        """
        What astropy's fitters are told about the derivatives is true,
        those of the polynomial with its domain included.
        """
        rng = np.random.default_rng(order)
        n_terms = (order + 1) * (order + 2) // 2
        model = make_group_model([[2.0, 35.0, 36.0, 9.0, 4.0, 0.3]],
                                 rng.normal(size=n_terms), 35.0, 36.0, 8.0)
        x, y = rng.uniform(28.0, 44.0, (2, 40))
        derivatives = np.array(model.fit_deriv(x, y, *model.parameters))
        h = 1e-6
        for i, value in enumerate(model.parameters):
            values = []
            for sign in (1.0, -1.0):
                params = model.parameters.copy()
                params[i] = value + sign * h
                values.append(model.evaluate(x, y, *params))
            numerical = (values[0] - values[1]) / (2.0 * h)
            assert_allclose(derivatives[i], numerical, rtol=1e-6, atol=1e-7)


def blended_map(seed=0):
    """
    Three groups of one, two, and three sources, far apart, with pixels of
    different errors and a sloped background.
    """
    rng = np.random.default_rng(seed)
    x_true = np.array([22.0, 60.0, 65.0, 30.0, 34.5, 29.0])
    y_true = np.array([20.0, 22.0, 24.0, 65.0, 66.0, 70.0])
    y, x = np.indices((90, 90))
    error = rng.uniform(0.5, 1.5, x.shape)
    data = 5.0 + 0.1 * x - 0.05 * y + error * rng.normal(size=x.shape)
    for i, (x0, y0) in enumerate(zip(x_true, y_true, strict=True)):
        data += Gaussian2D(30.0 + 5.0 * i, x0, y0, 5.4 * TO_SIGMA,
                           3.8 * TO_SIGMA, theta=0.5 * i)(x, y)
    mask = rng.random(x.shape) < 0.03
    init = QTable({'x_init': x_true + rng.uniform(-0.3, 0.3, 6),
                   'y_init': y_true + rng.uniform(-0.3, 0.3, 6)})
    return data, mask, error, init


def assert_same_tables(table, expected):
    """
    Two fits of the same map: equal to a hundredth of an error.
    """
    assert table.colnames == expected.colnames
    for name in ('id', 'group_id', 'group_size', 'n_pixels_fit', 'flags',
                 'bkg_order'):
        assert_array_equal(table[name], expected[name], err_msg=name)
    for name in ('x', 'y', 'amplitude', 'fwhm_major', 'fwhm_minor', 'theta',
                 'flux'):
        error = expected[f'{name}_err']
        pull = (table[f'{name}_fit'] - expected[f'{name}_fit']) / error
        assert_allclose(pull, 0.0, atol=0.01, err_msg=name)
        assert_allclose(table[f'{name}_err'] / error, 1.0, rtol=5e-3,
                        err_msg=name)
    for name in ('reduced_chi2', 'nmse', 'bic', 'local_bkg'):
        assert_allclose(table[name], expected[name], rtol=2e-3,
                        err_msg=name)


class TestAstropyFitters:
    @pytest.mark.parametrize('order', [0, 1, 2])
    @pytest.mark.parametrize('make_fitter', [
        TRFLSQFitter, DogBoxLSQFitter, LevMarLSQFitter])
    def test_gives_the_same_table(self, make_fitter, order):
        """
        Any astropy fitter gives the table that the kernel gives, with
        its errors.
        """
        data, mask, error, init = blended_map()
        expected = BlendGroupFitter(FWHM, poly_order=order)(
            data, mask=mask, error=error, init_params=init)
        fitter = BlendGroupFitter(
            FWHM, poly_order=order, solver=GroupSolver(
                astropy_fitter=make_fitter(calc_uncertainties=True)))
        table = fitter(data, mask=mask, error=error, init_params=init)
        assert_same_tables(table, expected)

    def test_without_errors_of_the_pixels(self):
        """
        The same when the noise comes from the residuals.
        """
        data, mask, _, init = blended_map()
        expected = BlendGroupFitter(FWHM)(data, mask=mask, init_params=init)
        fitter = BlendGroupFitter(
            FWHM, solver=GroupSolver(
                astropy_fitter=TRFLSQFitter(calc_uncertainties=True)))
        assert_same_tables(fitter(data, mask=mask, init_params=init),
                           expected)

    def test_without_uncertainties(self):
        """
        A fitter that gives no covariance gives no errors, and a flag.
        """
        data, mask, error, init = blended_map()
        expected = BlendGroupFitter(FWHM, poly_order=0)(
            data, mask=mask, error=error, init_params=init[:1])
        fitter = BlendGroupFitter(
            FWHM, poly_order=0, solver=GroupSolver(
                astropy_fitter=SLSQPLSQFitter()))
        table = fitter(data, mask=mask, error=error, init_params=init[:1])
        assert_allclose(table['flux_fit'], expected['flux_fit'], rtol=1e-2)
        assert np.all(np.isnan(table['flux_err']))
        assert all('no_covariance' in names
                   for names in fitter.decode_flags(table['flags']))

    @pytest.mark.parametrize('fixed', [('position',), ('shape',),
                                       ('position', 'shape')])
    def test_fixed(self, fixed):
        """
        What is fixed is fixed for astropy's fitters too.
        """
        data, mask, error, init = blended_map()
        init['fwhm_major_init'] = 5.0
        init['fwhm_minor_init'] = 4.0
        init['theta_init'] = 30.0 * np.arange(6)
        expected = BlendGroupFitter(FWHM, fixed=fixed)(
            data, mask=mask, error=error, init_params=init)
        fitter = BlendGroupFitter(
            FWHM, fixed=fixed, solver=GroupSolver(
                astropy_fitter=TRFLSQFitter(calc_uncertainties=True)))
        table = fitter(data, mask=mask, error=error, init_params=init)
        assert_allclose(table['flux_fit'], expected['flux_fit'], rtol=1e-4)
        assert_allclose(table['flux_err'], expected['flux_err'], rtol=5e-3)
        if 'position' in fixed:
            assert_allclose(table['x_fit'], init['x_init'], rtol=0,
                            atol=1e-12)
            assert_array_equal(table['x_err'], 0.0)
        if 'shape' in fixed:
            assert_allclose(table['fwhm_major_fit'], 5.0, rtol=1e-12)
            assert_array_equal(table['fwhm_major_err'], 0.0)
            assert_array_equal(table['theta_err'].value, 0.0)

    def test_round_start_and_bounds(self):
        """
        A round source that starts and ends at the lower bound of the
        widths is no trap for astropy's fitters.
        """
        y, x = np.indices((41, 41))
        sigma = 3.0 * TO_SIGMA
        data = Gaussian2D(20.0, 20.2, 19.9, sigma, sigma)(x, y)
        data += 0.2 * np.random.default_rng(0).normal(size=x.shape)
        init = QTable({'x_init': [20.0], 'y_init': [20.0]})
        options = {'fwhm_range': (1.0, 3.0)}
        expected = BlendGroupFitter(FWHM, **options)(data, init_params=init)
        table = BlendGroupFitter(
            FWHM, **options, solver=GroupSolver(
                astropy_fitter=TRFLSQFitter(calc_uncertainties=True)))(
                data, init_params=init)
        for name in ('flux_fit', 'amplitude_fit', 'fwhm_major_fit',
                     'fwhm_minor_fit'):
            assert_allclose(table[name], expected[name], rtol=1e-3,
                            err_msg=name)
        bound = FLAGS['near_bound']
        assert_array_equal(table['flags'] & bound, expected['flags'] & bound)
