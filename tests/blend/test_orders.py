# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the choice between degrees of the background.
"""

import numpy as np
import pytest
from astropy.modeling.fitting import TRFLSQFitter
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_array_equal

from hyperphotutils.blend import BlendGroupFitter, GroupSolver
from hyperphotutils.noise import CorrelatedNoise
from hyperphotutils.utils import add_gaussians

FWHM = 4.0
N_SIDE = 15
CELL = 30
VALUES = ('amplitude_fit', 'x_fit', 'y_fit', 'fwhm_major_fit',
          'fwhm_minor_fit', 'flux_fit', 'amplitude_err', 'flux_err',
          'local_bkg', 'nmse', 'reduced_chi2', 'bic', 'n_pixels_fit')


def groups_on_polynomials(order, seed, noise=1.0):
    """
    225 groups, every third a pair, on backgrounds of a degree: random
    slopes and curvatures of some noise over a footprint.
    """
    rng = np.random.default_rng(seed)
    grid = CELL * np.arange(N_SIDE) + CELL // 2
    x, y = (axis.ravel() + rng.uniform(-0.5, 0.5, N_SIDE**2)
            for axis in np.meshgrid(grid, grid))
    data = noise * rng.normal(size=(N_SIDE * CELL,) * 2)
    v, u = (np.mgrid[:CELL, :CELL] - CELL / 2.0) / (2.0 * FWHM)
    for x_0, y_0 in zip(x, y, strict=True):
        col, row = (int(value // CELL) * CELL for value in (x_0, y_0))
        c = rng.uniform(2.0, 4.0, 6) * rng.choice([-1.0, 1.0], 6)
        cell = np.full((CELL, CELL), c[0])
        if order > 0:
            cell += c[1] * u + c[2] * v
        if order > 1:
            cell += c[3] * u**2 + c[4] * u * v + c[5] * v**2
        data[row:row + CELL, col:col + CELL] += cell
    pair = np.arange(len(x)) % 3 == 0
    group_id = np.arange(1, len(x) + 1)
    angle = rng.uniform(0.0, 2.0 * np.pi, np.sum(pair))
    x = np.append(x, x[pair] + 5.0 * np.cos(angle))
    y = np.append(y, y[pair] + 5.0 * np.sin(angle))
    group_id = np.append(group_id, group_id[pair])
    add_gaussians(data, x, y, rng.uniform(20.0, 60.0, len(x)),
                  np.full(len(x), 5.0), np.full(len(x), 4.2),
                  rng.uniform(0.0, 180.0, len(x)))
    init = QTable({'x_init': x + rng.uniform(-0.2, 0.2, len(x)),
                   'y_init': y + rng.uniform(-0.2, 0.2, len(x)),
                   'group_id': group_id})
    return data, init


@pytest.mark.parametrize('error', [1.0, None])
@pytest.mark.parametrize('order', [0, 1, 2])
def test_bic_chooses_the_true_order(order, error):
    """
    In at least 95 percent of 225 groups, with and without errors.
    """
    data, init = groups_on_polynomials(order, seed=order)
    fitter = BlendGroupFitter(FWHM, poly_order=(0, 1, 2))
    table = fitter(data, error=error, init_params=init)
    _, first = np.unique(table['group_id'], return_index=True)
    assert len(first) == 225
    assert np.mean(table['bkg_order'][first] == order) >= 0.95


@pytest.mark.parametrize('criterion', ['nmse', 'reduced_chi2', 'bic'])
def test_results_are_those_of_the_chosen_order(criterion):
    """
    Each group has the values, errors and images that a fit with its
    order alone gives it, and the order with the smallest criterion, or
    a lower one that ties with it.
    """
    data, init = groups_on_polynomials(1, seed=7, noise=5.0)
    fitter = BlendGroupFitter(
        FWHM, poly_order=[2, 0, 1], solver=GroupSolver(
            criterion=criterion, ftol=1e-12))
    table = fitter(data, error=5.0, init_params=init)
    singles = {}
    for order in (0, 1, 2):
        single = BlendGroupFitter(
            FWHM, poly_order=order, solver=GroupSolver(ftol=1e-12))
        singles[order] = single(data, error=5.0, init_params=init)
        chosen = table['bkg_order'] == order
        for name in VALUES:
            assert_allclose(table[name][chosen],
                            singles[order][name][chosen], rtol=2e-4,
                            atol=1e-5, err_msg=name)
    assert len(np.unique(table['bkg_order'])) >= 2
    scores = np.array([singles[order][criterion] for order in (0, 1, 2)])
    best = scores.min(axis=0)
    limit = best + (2.0 if criterion == 'bic' else 0.06 * best)
    assert np.all(table[criterion] <= limit + 1e-6)
    residual = fitter.make_residual_image(data)
    near = np.isfinite(fitter.make_background_image())
    assert abs(np.std(residual[near]) / 5.0 - 1.0) < 0.05
    row = table[np.argmax(table['bkg_order'])]
    model = fitter.models[row['group_id']]
    assert model[model.n_submodels - 1].degree == row['bkg_order']


def test_nmse_prefers_lower_orders():
    """
    On a constant background, higher orders always have a smaller NMSE,
    and lose all the same.
    """
    data, init = groups_on_polynomials(0, seed=8)
    orders = {}
    for criterion in ('nmse', 'reduced_chi2'):
        fitter = BlendGroupFitter(
            FWHM, poly_order=(0, 1, 2), solver=GroupSolver(
                criterion=criterion))
        orders[criterion] = fitter(data, error=1.0, init_params=init)[
            'bkg_order']
    high, low = (BlendGroupFitter(FWHM, poly_order=order)(
        data, error=1.0, init_params=init) for order in (2, 0))
    assert np.mean(high['nmse'] < low['nmse']) > 0.99
    assert np.mean(orders['nmse'] == 0) > 0.9
    assert np.mean(orders['reduced_chi2'] == 0) > 0.9


def test_order_of_orders_does_not_matter():
    """
    Nor do repeated ones, or the kind of sequence.
    """
    data, init = groups_on_polynomials(1, seed=9)
    tables = [BlendGroupFitter(FWHM, poly_order=orders)(
        data, error=1.0, init_params=init)
        for orders in ((0, 1), [1, 0, 0], np.array([0, 1]))]
    for table in tables[1:]:
        for name in ('bkg_order', 'flux_fit', 'flux_err'):
            assert_array_equal(table[name], tables[0][name])


def test_one_order_in_a_sequence():
    """
    It is like that order alone, and no background loses against a
    constant where there is one.
    """
    data, init = groups_on_polynomials(0, seed=10)
    table = BlendGroupFitter(FWHM, poly_order=(0,))(data, init)
    expected = BlendGroupFitter(FWHM, poly_order=0)(data, init_params=init)
    for name in VALUES:
        assert_array_equal(table[name], expected[name], err_msg=name)
    table = BlendGroupFitter(FWHM, poly_order=(-1, 0))(data, init)
    assert set(table['bkg_order']) == {0}


def test_too_few_pixels_for_high_orders():
    """
    Orders that have more parameters than there are pixels are out.
    """
    rng = np.random.default_rng(1)
    data = rng.normal(size=(31, 31))
    add_gaussians(data, 15.0, 15.0, 100.0, 4.5, 4.0, 0.0)
    init = QTable({'x_init': [15.2, 100.0], 'y_init': [14.9, 5.0]})
    fitter = BlendGroupFitter(FWHM, poly_order=(0, 4), fit_radius=2.0)
    table = fitter(data, error=1.0, init_params=init)
    assert table['n_pixels_fit'][0] == 13
    assert table['bkg_order'][0] == 0
    assert table['flags'][0] & 2 == 0
    assert np.isnan(table['flux_fit'][1])


def test_orders_with_correlated_noise_and_weights():
    """
    The choice is made on whitened data, and with weights.
    """
    noise = CorrelatedNoise.from_beam(1.0, fwhm=FWHM)
    data = noise.simulate((60, 60), seed=3)
    y, x = np.indices(data.shape)
    data += 0.3 * (x - 30) + 0.08 * (y - 30)**2
    add_gaussians(data, 30.2, 29.8, 60.0, 5.0, 4.2, 30.0)
    init = QTable({'x_init': [30.0], 'y_init': [30.0]})
    fitter = BlendGroupFitter(FWHM, poly_order=(0, 1, 2))
    table = fitter(data, noise=noise, init_params=init)
    assert table['bkg_order'][0] == 2
    fitter = BlendGroupFitter(
        FWHM, poly_order=(0, 1, 2), solver=GroupSolver(weights='snr'))
    table = fitter(data, init_params=init)
    assert table['bkg_order'][0] == 2


def test_astropy_fitters_choose_the_same():
    """
    The slow way ends where the kernel does.
    """
    data, init = groups_on_polynomials(2, seed=11)
    init = init[:4]
    slow = BlendGroupFitter(
        FWHM, poly_order=(0, 1, 2), solver=GroupSolver(
            astropy_fitter=TRFLSQFitter(calc_uncertainties=True)))
    table = slow(data, error=1.0, init_params=init)
    expected = BlendGroupFitter(FWHM, poly_order=(0, 1, 2))(
        data, error=1.0, init_params=init)
    assert_array_equal(table['bkg_order'], expected['bkg_order'])
    assert_allclose(table['flux_fit'], expected['flux_fit'], rtol=1e-2)


@pytest.mark.parametrize('orders', [(), (0, 5), (0, 1.5), 'ab', (True,)])
def test_bad_orders(orders):
    match = 'poly_order must be an integer from -1 to 4, or several'
    with pytest.raises(ValueError, match=match):
        BlendGroupFitter(FWHM, poly_order=orders)


def test_bad_criterion():
    match = r"criterion must be one of \('nmse', .*'aic'"
    with pytest.raises(ValueError, match=match):
        GroupSolver(criterion='aic')
