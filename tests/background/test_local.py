# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the local polynomial background.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.modeling.models import Polynomial2D
from astropy.nddata import CCDData
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_array_equal
from photutils.aperture import ApertureStats, CircularAperture
from photutils.background import LocalBackground
from photutils.psf import CircularGaussianPRF, PSFPhotometry

from hyperphotutils.background import (
    LocalPolynomialBackground,
    PolynomialBackground2D,
    make_source_mask,
)
from hyperphotutils.noise import CorrelatedNoise

SHAPE = (150, 170)
YY, XX = np.mgrid[:SHAPE[0], :SHAPE[1]]


def surface(x, y):
    return 4.0 + 0.03 * x - 0.02 * y + 6.0e-4 * (x - 80) * (y - 60)


@pytest.fixture(name='positions')
def fixture_positions():
    return np.random.default_rng(4).uniform(5, 145, (2, 40))


@pytest.fixture(name='noisy')
def fixture_noisy():
    noise = np.random.default_rng(5).normal(0.0, 0.2, SHAPE)
    return surface(XX, YY) + noise


@pytest.mark.parametrize('method', ['lsq', 'huber', 'theilsen'])
@pytest.mark.parametrize('box_sizes', [21, (15, 31), (21, 0), 0])
def test_exact_surface_is_recovered(positions, method, box_sizes):
    estimator = LocalPolynomialBackground(box_sizes, orders=(0, 1, 2),
                                          methods=method)
    value = estimator(surface(XX, YY), *positions)
    assert_allclose(value, surface(*positions), rtol=1.0e-3)


def test_noise_and_masked_sources(noisy, positions):
    x, y = positions
    sources = make_source_mask(SHAPE, x, y, 4.0, factor=1.0)
    noisy[sources] += 50.0
    masked = LocalPolynomialBackground(31, source_fwhm=4.0)
    value = masked(noisy, x, y)
    assert np.std(value - surface(x, y)) < 0.2 * 0.3
    assert abs(np.mean(value - surface(x, y))) < 0.02
    plain = LocalPolynomialBackground(31)
    assert np.mean(plain(noisy, x, y) - surface(x, y)) > 1.0
    assert_allclose(plain(noisy, x, y, mask=sources), surface(x, y),
                    atol=0.3)
    fits = plain.fit(noisy, x, y, source_mask=sources)
    assert_allclose(fits.value, plain(noisy, x, y, mask=sources))


def test_single_box_agrees_with_the_background_of_its_cutout(noisy):
    fits = LocalPolynomialBackground(31, orders=2).fit(noisy, 60.3, 70.8)
    cutout = PolynomialBackground2D(noisy[56:87, 45:76], orders=2)
    image, slices = fits.make_image(0)
    assert slices == (slice(56, 87), slice(45, 76))
    assert_allclose(image, cutout.background, rtol=1.0e-10)
    for name in ('nmse', 'reduced_chi2', 'bic'):
        assert_allclose(fits.table[name][0], cutout.candidates[name][0])
    assert_allclose(fits.table['bkg_rms'][0], cutout.background_rms_median)


def test_whole_map_agrees_with_the_background_of_the_map(noisy, positions):
    fits = LocalPolynomialBackground(0, orders=2).fit(noisy, *positions)
    bkg = PolynomialBackground2D(noisy, orders=2)
    assert_allclose(fits.value, bkg.model(*positions))
    assert set(fits.table['bkg_size']) == {0}
    image, _ = fits.make_image(3)
    assert_allclose(image, bkg.background)


@pytest.mark.parametrize('box_sizes', [31, (21, 31, 0)])
def test_models_are_valid_in_pixel_positions(noisy, positions, box_sizes):
    fits = LocalPolynomialBackground(box_sizes).fit(noisy, *positions)
    for k, model in enumerate(fits.models):
        assert isinstance(model, Polynomial2D)
        assert_allclose(model(positions[0][k], positions[1][k]),
                        fits.value[k])


def test_sources_do_not_depend_on_each_other(noisy, positions, monkeypatch):
    kwargs = {'methods': ('lsq', 'huber'), 'criterion': 'bic'}
    estimator = LocalPolynomialBackground((15, 21, 41, 0), **kwargs)
    together = estimator.fit(noisy, *positions)
    alone = estimator.fit(noisy, positions[0][7], positions[1][7])
    assert together.table['bkg_method'][7] == alone.table['bkg_method'][0]
    for name in ('local_bkg', 'bkg_rms', 'bkg_order', 'bkg_size', 'nmse',
                 'reduced_chi2', 'bic', 'n_pixels'):
        assert_allclose(together.table[name][7], alone.table[name][0],
                        rtol=1.0e-6)
    assert_allclose(together.candidates[together.candidates['id'] == 8]['bic'],
                    alone.candidates['bic'], rtol=1.0e-6)
    monkeypatch.setattr('hyperphotutils.background.local._MAX_PIXELS', 20_000)
    lots = estimator.fit(noisy, *positions)
    assert_allclose(lots.value, together.value, rtol=1.0e-6)
    assert_allclose(lots.candidates['bic'], together.candidates['bic'],
                    rtol=1.0e-6)


def test_all_candidates_share_the_pixels_of_the_smallest_box(noisy):
    fits = LocalPolynomialBackground((11, 21, 41)).fit(
        noisy, [50, 0, 169], [60, 0, 70])
    table = fits.candidates
    assert len(table) == 3 * 9
    assert set(table['n_pixels'][table['id'] == 1]) == {121}
    assert set(table['n_pixels'][table['id'] == 2]) == {36}
    assert set(table['n_pixels'][table['id'] == 3]) == {66}
    assert table['selected'].sum() == 3
    assert set(table['box_size']) == {11, 21, 41}


def test_masked_small_boxes_leave_the_larger_ones(noisy):
    mask = make_source_mask(SHAPE, 80, 80, 10.0)
    noisy[mask] = np.nan
    fits = LocalPolynomialBackground((11, 41)).fit(noisy, 80, 80)
    assert fits.table['bkg_size'][0] == 41
    assert_allclose(fits.value, surface(80, 80), atol=0.1)
    small = fits.candidates['box_size'] == 11
    assert np.all(np.isnan(fits.candidates['nmse'][small]))


def test_larger_box_wins_on_a_flat_background():
    noise = np.random.default_rng(0).normal(3.0, 1.0, SHAPE)
    fits = LocalPolynomialBackground((25, 51), criterion='bic').fit(
        noise, [50, 90], [60, 90])
    assert fits.table['bkg_order'].tolist() == [0, 0]
    assert fits.table['bkg_size'].tolist() == [51, 51]


def test_smaller_box_wins_on_a_curved_background(noisy):
    noisy += 1.0e-6 * (XX - 80.0)**4
    fits = LocalPolynomialBackground((25, 101), criterion='bic').fit(
        noisy, 60, 80)
    assert fits.table['bkg_size'].tolist() == [25]


def test_positions_without_background_are_nan(noisy):
    estimator = LocalPolynomialBackground((11, 15))
    x, y = [50, -100, np.nan, 50, 1.0e20], [60, 50, 50, 1000, 50]
    fits = estimator.fit(noisy, x, y)
    assert_allclose(fits.value, [surface(50, 60), *[np.nan] * 4], atol=0.3)
    assert fits.models[1:] == [None] * 4
    assert fits.table['bkg_order'].tolist()[1:] == [-1] * 4
    assert fits.table['n_pixels'].tolist()[1:] == [0] * 4
    image, _ = fits.make_image(2)
    assert image.size == 0
    for box_sizes in (11, (11, 0), 0):
        fits = LocalPolynomialBackground(box_sizes).fit(noisy, [], [])
        assert len(fits.table) == len(fits.candidates) == 0
    assert np.isnan(estimator(noisy, -50, -50))


def test_unit_in_unit_out(noisy, positions):
    estimator = LocalPolynomialBackground((15, 25))
    plain = estimator(noisy, *positions)
    assert type(plain) is np.ndarray
    for data in (noisy << u.Jy, CCDData(noisy, unit=u.Jy)):
        value = estimator(data, *positions)
        assert value.unit == u.Jy
        assert np.array_equal(value.value, plain)
    fits = estimator.fit(noisy << u.Jy, *positions,
                         error=np.full(SHAPE, 0.2) << u.Jy)
    assert fits.table['local_bkg'].unit == u.Jy
    assert fits.table['bkg_rms'].unit == u.Jy
    assert fits.candidates['rms'].unit == u.Jy
    assert fits.make_image(0)[0].unit == u.Jy


def test_scalar_in_scalar_out(noisy):
    value = LocalPolynomialBackground(21)(noisy, 50.2, 60)
    assert np.ndim(value) == 0
    assert LocalPolynomialBackground(21)(noisy, [50.2], [60]).shape == (1,)


def test_errors_weight_the_fit(noisy):
    error = np.full(SHAPE, 0.2)
    noisy[:, 80:] += 30.0
    error[:, 80:] = 1.0e4
    estimator = LocalPolynomialBackground(31, orders=1)
    weighted = estimator.fit(noisy, 75, 70, error=error)
    assert_allclose(weighted.value, surface(75, 70), atol=0.1)
    assert estimator(noisy, 75, 70) > surface(75, 70) + 1.0


def test_reduced_chi2_is_one_with_the_right_errors(noisy, positions):
    fits = LocalPolynomialBackground(31).fit(noisy, *positions,
                                             error=np.full(SHAPE, 0.2))
    assert_allclose(np.mean(fits.table['reduced_chi2']), 1.0, atol=0.02)
    assert_allclose(np.mean(fits.table['bkg_rms']), 0.2, rtol=0.02)


def test_drops_into_psf_photometry():
    """
    Fluxes on a tilted background are right in both kinds of input.
    """
    params = QTable({'x_0': [40.3, 90.1, 50.0, 53.0],
                     'y_0': [30.2, 70.7, 100.2, 103.0],
                     'flux': [100.0, 200.0, 150.0, 80.0]})
    psf = CircularGaussianPRF(fwhm=3.0)
    data = surface(XX, YY)
    for row in params:
        data += CircularGaussianPRF(fwhm=3.0, **dict(row))(XX, YY)
    estimator = LocalPolynomialBackground(31, source_fwhm=3.0)
    phot = PSFPhotometry(psf, (7, 7), local_bkg_estimator=estimator,
                         aperture_radius=4)
    init = QTable({'x': params['x_0'], 'y': params['y_0']})
    result = phot(data, init_params=init)
    assert_allclose(result['local_bkg'],
                    surface(params['x_0'], params['y_0']), rtol=1.0e-3)
    assert_allclose(phot(data << u.Jy, init_params=init)['local_bkg'].value,
                    result['local_bkg'])
    assert_allclose(result['flux_fit'][:2], params['flux'][:2], rtol=2.0e-3)
    assert 'LocalPolynomialBackground(box_sizes=31' in repr(phot)


def test_drops_into_aperture_stats(noisy, positions):
    noisy[:] = surface(XX, YY)
    local_bkg = LocalPolynomialBackground(31)(noisy, *positions)
    aperture = CircularAperture(np.transpose(positions), 4.0)
    stats = ApertureStats(noisy, aperture, local_bkg=local_bkg)
    assert_allclose(stats.mean, 0.0, atol=0.02)


def test_is_a_local_background_with_the_box_as_aperture():
    estimator = LocalPolynomialBackground((10, 20, 0))
    assert isinstance(estimator, LocalBackground)
    aperture = estimator.to_aperture([10.2, 30], [20, 40.4])
    assert (aperture.w, aperture.h) == (21, 21)
    assert_allclose(aperture.positions, [[10, 20], [30, 40]])
    with pytest.raises(ValueError, match='box_sizes contains only the whole'):
        LocalPolynomialBackground(0).to_aperture(1, 1)


def test_noise_of_a_beam_is_no_background():
    """
    In boxes, too, the lowest order is chosen on the noise of a beam.
    """
    data = CorrelatedNoise.from_beam(1.0, 4.0).simulate((200, 200), seed=2)
    x, y = (grid.ravel() for grid in np.mgrid[30:171:20, 30:171:20])
    local = LocalPolynomialBackground(41, fwhm=4.0)
    order = local.fit(data, x, y).table['bkg_order']
    assert np.mean(order == 0) >= 0.9
    image = CCDData(data, unit='Jy', meta={'beam_fwhm_pix': 4.0})
    assert_array_equal(LocalPolynomialBackground(41).fit(
        image, x, y).table['bkg_order'], order)


def test_repr():
    assert repr(LocalPolynomialBackground(11, orders=1)) == (
        "LocalPolynomialBackground(box_sizes=11, orders=1, methods=('lsq',), "
        "criterion='nmse', huber_epsilons=(1.1, 1.35, 1.7, 2.0), "
        'tolerance=None, fwhm=None, source_fwhm=None, mask_factor=1.5, '
        'seed=0)')


@pytest.mark.parametrize(('args', 'kwargs', 'error', 'match'), [
    ((-3,), {}, ValueError, 'box_sizes must be at least 1.*got -3'),
    ((np.nan,), {}, ValueError, 'box_sizes must be at least 1.*got nan'),
    (((),), {}, ValueError, 'box_sizes must not be empty'),
    (('big',), {}, TypeError, "box_sizes must be numbers: got 'big'"),
    ((11,), {'orders': -1}, ValueError, 'orders must be integers'),
    ((11,), {'methods': 'x'}, ValueError, 'methods must be some of'),
    ((11,), {'criterion': 'x'}, ValueError, 'criterion must be one of'),
    ((11,), {'fwhm': 0}, ValueError, 'fwhm must be positive'),
    ((11,), {'source_fwhm': -1}, ValueError, 'source_fwhm must be positive'),
    ((11,), {'mask_factor': 0}, ValueError, 'mask_factor must be positive'),
])
def test_bad_arguments(args, kwargs, error, match):
    with pytest.raises(error, match=match):
        LocalPolynomialBackground(*args, **kwargs)


def test_bad_input(noisy):
    estimator = LocalPolynomialBackground(11)
    with pytest.raises(ValueError, match='x and y must be'):
        estimator(noisy, [1, 2], [1])
    with pytest.raises(ValueError, match='source_mask must have'):
        estimator.fit(noisy, 1, 1, source_mask=np.zeros((2, 2), dtype=bool))
    with pytest.raises(ValueError, match='no usable pixel'):
        estimator(noisy * np.nan, 1, 1)
