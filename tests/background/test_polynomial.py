# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the polynomial background of a map.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.modeling.fitting import LinearLSQFitter
from astropy.modeling.models import Polynomial2D
from astropy.nddata import CCDData
from numpy.testing import assert_allclose

from hyperphotutils.background import (
    PolynomialBackground2D,
    make_source_mask,
)
from hyperphotutils.noise import CorrelatedNoise

SHAPE = (60, 80)
YY, XX = np.mgrid[:SHAPE[0], :SHAPE[1]]
TRUE_2 = 3.0 + 0.05 * XX - 0.03 * YY + 1.0e-3 * (XX - 30) * (YY - 20)


@pytest.fixture(name='noisy')
def fixture_noisy():
    return TRUE_2 + np.random.default_rng(5).normal(0.0, 0.2, SHAPE)


@pytest.mark.parametrize('order', [0, 1, 2, 3, 4])
@pytest.mark.parametrize('weighted', [False, True])
def test_least_squares_agrees_with_astropy(noisy, order, weighted):
    rng = np.random.default_rng(6)
    mask = rng.random(SHAPE) < 0.3
    mask[:20, :30] = True
    error = rng.uniform(0.1, 0.5, SHAPE) if weighted else None
    bkg = PolynomialBackground2D(noisy, mask=mask, orders=order, error=error)
    with np.errstate(all='raise'):
        model = LinearLSQFitter()(
            Polynomial2D(order, x_domain=(0, 79), y_domain=(0, 59)),
            XX[~mask], YY[~mask], noisy[~mask],
            weights=None if error is None else 1 / error[~mask])
    assert_allclose(bkg.background, model(XX, YY), rtol=1.0e-9)


def test_model_gives_the_background_in_pixel_positions(noisy):
    bkg = PolynomialBackground2D(noisy)
    assert isinstance(bkg.model, Polynomial2D)
    assert_allclose(bkg.model(XX, YY), bkg.background, rtol=1.0e-12)


def test_background_and_rms_are_recovered(noisy):
    mask = make_source_mask(SHAPE, [20, 50], [20, 40], 5.0)
    noisy[mask] += 100.0
    bkg = PolynomialBackground2D(noisy, mask=mask)
    assert bkg.order == 2
    assert np.std(bkg.background - TRUE_2) < 0.2 * 0.15
    assert_allclose(bkg.background_rms, 0.2, rtol=0.03)
    assert bkg.background_rms.shape == SHAPE
    assert bkg.background_rms_median == bkg.background_rms[0, 0]
    assert_allclose(bkg.background_median, np.median(TRUE_2), rtol=0.01)


def test_unit_in_unit_out(noisy):
    mask = XX < 10
    plain = PolynomialBackground2D(noisy, mask=mask)
    unit = PolynomialBackground2D(noisy << u.Jy, mask=mask)
    for name in ('background', 'background_rms', 'background_median',
                 'background_rms_median'):
        value = getattr(unit, name)
        assert value.unit == u.Jy
        assert np.array_equal(value.value, getattr(plain, name))
    assert unit.candidates['rms'].unit == u.Jy
    assert np.array_equal(unit.model.parameters, plain.model.parameters)
    ccd = PolynomialBackground2D(CCDData(noisy, unit=u.Jy, mask=mask))
    assert np.array_equal(ccd.background, unit.background)


def test_result_scales_with_the_data(noisy):
    bkg = PolynomialBackground2D(noisy)
    small = PolynomialBackground2D(noisy * 1.0e-9)
    assert_allclose(small.background, bkg.background * 1.0e-9)
    assert_allclose(small.background_rms_median,
                    bkg.background_rms_median * 1.0e-9)


def test_masks_are_filled_and_coverage_is_not(noisy):
    reference = PolynomialBackground2D(noisy[:, :70], orders=2)
    mask = np.zeros(SHAPE, dtype=bool)
    mask[10:20, 10:20] = True
    coverage_mask = XX >= 70
    noisy[mask] = 1.0e6
    noisy[coverage_mask] = -1.0e6
    bkg = PolynomialBackground2D(noisy, mask=mask, orders=2,
                                 coverage_mask=coverage_mask,
                                 fill_value=-1.5)
    assert_allclose(bkg.background[:, :70], reference.background, rtol=0.01)
    assert np.all(bkg.background[:, 70:] == -1.5)
    assert np.all(bkg.background_rms[:, 70:] == -1.5)
    assert_allclose(bkg.background_median,
                    np.median(bkg.background[:, :70]))


def test_nan_and_nan_error_are_masked(noisy):
    mask = (XX > 50) & (YY > 30)
    expected = PolynomialBackground2D(noisy, mask=mask).background
    broken = noisy.copy()
    broken[mask] = np.nan
    broken[-1, -1] = np.inf
    assert np.array_equal(PolynomialBackground2D(broken).background, expected)
    error = np.ones(SHAPE)
    error[mask] = np.nan
    bkg = PolynomialBackground2D(noisy, error=error)
    assert_allclose(bkg.background, expected, rtol=1.0e-10)
    masked = np.ma.array(noisy, mask=mask)
    assert np.array_equal(PolynomialBackground2D(masked).background, expected)


def test_huber_beats_least_squares_five_times_with_outliers(noisy):
    outlier = np.random.default_rng(8).random(SHAPE) < 0.08
    noisy[outlier] += np.random.default_rng(9).uniform(2, 20, outlier.sum())
    rms = {}
    for method in ('lsq', 'huber'):
        bkg = PolynomialBackground2D(noisy, methods=method, orders=2)
        rms[method] = np.sqrt(np.mean((bkg.background - TRUE_2)**2))
    assert rms['huber'] < rms['lsq'] / 5
    assert rms['huber'] < 0.2 * 0.3


def test_robust_method_is_selected_only_if_there_are_outliers(noisy):
    methods = ('lsq', 'huber')
    clean = PolynomialBackground2D(noisy, methods=methods)
    assert clean.method == 'lsq'
    outlier = np.random.default_rng(8).random(SHAPE) < 0.08
    noisy[outlier] += 5.0
    assert PolynomialBackground2D(noisy, methods=methods).method == 'huber'


def test_theilsen_survives_ten_percent_on_a_plane():
    rng = np.random.default_rng(3)
    true = 1.0 + 0.02 * XX + 0.05 * YY
    data = true + rng.normal(0.0, 0.3, SHAPE)
    data[rng.random(SHAPE) < 0.1] += 30.0
    rms = {}
    for method in ('lsq', 'theilsen'):
        bkg = PolynomialBackground2D(data, methods=method, orders=1)
        rms[method] = np.sqrt(np.mean((bkg.background - true)**2))
    assert rms['theilsen'] < 0.3 * 0.5
    assert rms['theilsen'] < rms['lsq'] / 20


@pytest.mark.parametrize('true_order', [0, 1, 2])
def test_bic_selects_the_true_order(true_order):
    shape = (24, 24)
    yy, xx = (np.mgrid[:24, :24] - 11.5) / 12
    surface = [1.0 + 0 * xx, 1.0 + 0.5 * xx, 1.0 + 0.5 * xx + 0.8 * xx * yy]
    rng = np.random.default_rng(true_order)
    correct = 0
    for _ in range(200):
        data = surface[true_order] + rng.normal(0.0, 0.5, shape)
        bkg = PolynomialBackground2D(data, orders=(0, 1, 2, 3),
                                     criterion='bic')
        correct += bkg.order == true_order
    assert correct >= 190


@pytest.mark.parametrize('criterion', ['nmse', 'reduced_chi2', 'bic'])
@pytest.mark.parametrize('noise', [0.0, 0.3])
def test_lower_order_wins_a_tie(criterion, noise):
    data = 2.0 + 0.1 * XX + np.random.default_rng(2).normal(0, noise, SHAPE)
    bkg = PolynomialBackground2D(data, orders=(4, 3, 2, 1, 0),
                                 criterion=criterion)
    assert bkg.order == 1


def test_scores_follow_their_definitions(noisy):
    error = np.full(SHAPE, 0.2)
    table = PolynomialBackground2D(noisy, error=error, orders=1).candidates
    bkg = PolynomialBackground2D(noisy, error=error, orders=1).background
    square = (noisy - bkg)**2
    n_pixels = noisy.size
    assert table['n_pixels'][0] == n_pixels
    chi2 = square.sum() / 0.2**2
    assert_allclose(table['nmse'][0], square.sum() / (noisy**2).sum())
    assert_allclose(table['reduced_chi2'][0], chi2 / (n_pixels - 3))
    assert_allclose(table['bic'][0], chi2 + 3 * np.log(n_pixels))
    table = PolynomialBackground2D(noisy, orders=1).candidates
    assert_allclose(table['bic'][0],
                    n_pixels * np.log(square.mean()) + 3 * np.log(n_pixels))


def test_every_candidate_is_in_the_table(noisy):
    bkg = PolynomialBackground2D(
        noisy, orders=(0, 2), methods=('lsq', 'huber', 'theilsen'),
        huber_epsilons=(1.2, 1.5))
    table = bkg.candidates
    assert table.colnames == [
        'method', 'epsilon', 'order', 'box_size', 'nmse', 'reduced_chi2',
        'bic', 'rms', 'n_pixels', 'selected']
    assert len(table) == 8
    assert table['selected'].sum() == 1
    row = table[table['selected']][0]
    assert (row['order'], row['method']) == (bkg.order, bkg.method)
    assert sorted(set(table['epsilon'][table['method'] == 'huber'])) == [
        1.2, 1.5]
    assert len(set(table['n_pixels'])) == 1
    assert 'PolynomialBackground2D(orders=(0, 2)' in table.meta['call']


def test_theilsen_is_reproducible(noisy):
    first, second, other = (
        PolynomialBackground2D(noisy, methods='theilsen', seed=seed)
        for seed in (1, 1, 2))
    assert np.array_equal(first.background, second.background)
    assert not np.array_equal(first.background, other.background)


@pytest.mark.parametrize(('dtype', 'expected'), [
    (np.float32, np.float32), ('>f4', np.float32), (float, float),
    (np.int32, float)])
def test_type_of_the_background(dtype, expected):
    data = (np.arange(600).reshape(20, 30) % 7).astype(dtype)
    bkg = PolynomialBackground2D(data)
    assert bkg.background.dtype == expected
    assert bkg.background_rms.dtype == expected


def test_constant_map():
    bkg = PolynomialBackground2D(np.full(SHAPE, 4.0))
    assert_allclose(bkg.background, 4.0)
    assert bkg.order == 0
    assert_allclose(bkg.background_rms_median, 0.0, atol=1.0e-12)
    assert np.all(PolynomialBackground2D(np.zeros(SHAPE)).background == 0)


def test_too_few_pixels_fall_back_to_lower_orders():
    data = np.full(SHAPE, np.nan)
    data[5, 10:15] = [1.0, 2.0, 3.0, 4.0, 5.0]
    bkg = PolynomialBackground2D(data, orders=(0, 1, 2))
    assert bkg.order == 0  # all pixels in one row: no plane
    data[5:10, 10] = 1.0
    assert PolynomialBackground2D(data, orders=(0, 1, 4)).order <= 1
    with pytest.raises(ValueError, match='data has 9 good pixels, too few'):
        PolynomialBackground2D(data, orders=4)


def beam_noise(fwhm, seed, shape=(80, 80)):
    """
    Return noise of unit variance seen through a beam.
    """
    return CorrelatedNoise.from_beam(1.0, fwhm).simulate(shape, seed=seed)


@pytest.mark.parametrize('fwhm', [2.0, 4.0, 6.0])
@pytest.mark.parametrize('criterion', ['nmse', 'reduced_chi2', 'bic'])
def test_noise_of_a_beam_is_no_background(criterion, fwhm):
    """
    The lowest order is chosen on the noise of a beam, in at least nine
    of ten maps.
    """
    orders = [PolynomialBackground2D(5.0 + beam_noise(fwhm, seed), fwhm=fwhm,
                                     criterion=criterion).order
              for seed in range(20)]
    assert np.count_nonzero(np.array(orders) == 0) >= 18


@pytest.mark.parametrize('fwhm', [2.0, 4.0, 6.0])
@pytest.mark.parametrize('criterion', ['nmse', 'reduced_chi2', 'bic'])
def test_backgrounds_beneath_noise_of_a_beam_are_found(criterion, fwhm):
    """
    Slopes and curved backgrounds well above the noise have their order.
    """
    y, x = np.mgrid[-1.0:1.0:80j, -1.0:1.0:80j]
    for order, true in ((1, 3.0 * x), (2, 4.0 * (x**2 - y**2))):
        found = [PolynomialBackground2D(true + beam_noise(fwhm, seed),
                                        fwhm=fwhm, criterion=criterion).order
                 for seed in range(5)]
        assert found == 5 * [order]


def test_beam_of_an_image_is_used():
    """
    The FWHM comes from the image, where that was read from a file.
    """
    data = beam_noise(4.0, 3)
    image = CCDData(data, unit='Jy', meta={'beam_fwhm_pix': 4.0})
    bkg = PolynomialBackground2D(image)
    given = PolynomialBackground2D(data, fwhm=4.0)
    assert bkg.fwhm == 4.0
    for name in ('nmse', 'reduced_chi2', 'bic', 'selected'):
        assert_allclose(bkg.candidates[name], given.candidates[name])
    assert PolynomialBackground2D(image, fwhm=2.0).fwhm == 2.0


def test_reduced_chi2_is_one_for_noise_of_a_beam():
    """
    The terms of a polynomial take so many times more of the noise as
    fewer of its pixels are independent.
    """
    chi2 = [PolynomialBackground2D(
        beam_noise(4.0, seed, (50, 50)), error=np.ones((50, 50)), orders=2,
        fwhm=4.0).candidates['reduced_chi2'][0] for seed in range(60)]
    assert_allclose(np.mean(chi2), 1.0, atol=0.05)


def test_few_independent_pixels_leave_the_lowest_order():
    """
    In a map of a few beams there is a background all the same.
    """
    for criterion in ('nmse', 'reduced_chi2', 'bic'):
        bkg = PolynomialBackground2D(beam_noise(6.0, 1, (12, 12)), fwhm=6.0,
                                     criterion=criterion)
        assert bkg.order == 0


def test_repr():
    bkg = PolynomialBackground2D(np.ones((5, 6)), orders=1)
    assert repr(bkg) == (
        "PolynomialBackground2D(orders=1, methods=('lsq',), criterion='nmse',"
        ' huber_epsilons=(1.1, 1.35, 1.7, 2.0), tolerance=None,'
        ' fwhm=None, fill_value=0.0, seed=0)')


@pytest.mark.parametrize(('kwargs', 'error', 'match'), [
    ({'orders': -1}, ValueError, 'orders must be integers.*got -1'),
    ({'orders': np.nan}, ValueError, 'orders must be integers.*got nan'),
    ({'orders': 1.0}, TypeError, 'orders must be integers: got 1.0'),
    ({'orders': 'two'}, TypeError, "orders must be integers: got 'two'"),
    ({'orders': ()}, ValueError, 'orders must not be empty'),
    ({'methods': 'magic'}, ValueError, "methods must be some of.*'magic'"),
    ({'methods': ()}, ValueError, 'methods must be some of'),
    ({'fwhm': -1.0}, ValueError, 'fwhm must be'),
    ({'criterion': 'aic'}, ValueError, "criterion must be one of.*'aic'"),
    ({'tolerance': -1}, ValueError, 'tolerance must not be negative: got -1'),
    ({'methods': 'huber', 'huber_epsilons': 1.0}, ValueError,
     'huber_epsilons must be more than 1: got 1.0'),
    ({'methods': 'huber', 'huber_epsilons': 'a'}, TypeError,
     "huber_epsilons must be numbers: got 'a'"),
    ({'methods': 'huber', 'huber_epsilons': ()}, ValueError,
     'huber_epsilons must not be empty'),
    ({'mask': np.zeros((3, 3), dtype=bool)}, ValueError, 'mask must have'),
    ({'coverage_mask': np.zeros((3, 3), dtype=bool)}, ValueError,
     'coverage_mask must have the same shape'),
    ({'error': np.ones((3, 3))}, ValueError, 'error must have the same'),
    ({'error': np.zeros(SHAPE)}, ValueError, 'error must be positive'),
    ({'error': np.ones(SHAPE) << u.Jy}, ValueError, 'data.*error must all'),
    ({'mask': np.ones(SHAPE, dtype=bool)}, ValueError, 'no usable pixel'),
    ({'coverage_mask': np.ones(SHAPE, dtype=bool)}, ValueError,
     'data has 0 good pixels'),
    ({'fill_value': 1.0 * u.Jy}, ValueError, 'fill_value must have no unit'),
])
def test_bad_arguments(noisy, kwargs, error, match):
    with pytest.raises(error, match=match):
        PolynomialBackground2D(noisy, **kwargs)


def test_bad_data():
    with pytest.raises(ValueError, match='data must be 2D'):
        PolynomialBackground2D(np.ones(5))
    with pytest.raises(TypeError, match='real numbers'):
        PolynomialBackground2D(np.ones((5, 5)) * 1j)
    with pytest.raises(ValueError, match='no usable pixel'):
        PolynomialBackground2D(np.full((5, 5), np.nan))
