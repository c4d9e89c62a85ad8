# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for apertures with backgrounds of their own.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_array_equal
from photutils.aperture import EllipticalAperture

from hyperphotutils.aperture import make_local_apertures, measure_sources
from hyperphotutils.noise import CorrelatedNoise, WhiteNoise
from hyperphotutils.utils import add_gaussians, gaussian_flux

SHAPE = (41, 45)
RADIUS = 9.0
N_DRAWS = 4000
UNIT_NOISE = WhiteNoise(1.0)


@pytest.fixture(name='sources')
def fixture_sources():
    """
    Two fitted sources, one of them at an edge, and one without a fit.
    """
    table = QTable({
        'x_fit': [20.3, np.nan, 42.2], 'y_fit': [18.6, np.nan, 30.4],
        'amplitude_fit': [10.0, np.nan, 4.0],
        'fwhm_major_fit': [5.0, np.nan, 4.5],
        'fwhm_minor_fit': [4.0, np.nan, 4.0],
        'theta_fit': [30.0, np.nan, 110.0] << u.deg})
    table['flux_fit'] = gaussian_flux(
        table['amplitude_fit'], table['fwhm_major_fit'],
        table['fwhm_minor_fit'])
    table['flux_err'] = np.zeros(3)
    return table


@pytest.fixture(name='no_mask')
def fixture_no_mask():
    return np.zeros(SHAPE, dtype=bool)


def gaussian_image(row):
    """
    The image of a source.
    """
    image = np.zeros(SHAPE)
    add_gaussians(image, [row['x_fit']], [row['y_fit']],
                  [row['amplitude_fit']], [row['fwhm_major_fit']],
                  [row['fwhm_minor_fit']], [row['theta_fit'].to_value('deg')])
    return image


def disk_apertures(mask, *, order=1, x=20.3, y=18.6):
    """
    The apertures around one position.
    """
    return make_local_apertures(
        np.array([x]), np.array([y]), np.array([5.0]), np.array([4.0]),
        np.array([30.0]), mask=mask, radius=RADIUS, order=order)


def without_flux_error(sources):
    """
    The same sources, as if their fluxes were known.
    """
    sources = QTable(sources, copy=True)
    sources['flux_err'] = 0.0
    return sources


@pytest.mark.parametrize('order', [0, 1, 2])
@pytest.mark.parametrize('position', [(20.3, 18.6), (1.2, 39.5)])
def test_polynomials_are_removed_exactly(no_mask, order, position):
    """
    In the middle of the map and in its corner.
    """
    y, x = np.mgrid[:SHAPE[0], :SHAPE[1]] / 10.0
    image = 7.0 + (order > 0) * (2.0 * x - 3.0 * y)
    image += (order > 1) * (x**2 - 0.4 * x * y + 0.7 * y**2)
    apertures = disk_apertures(no_mask, order=order, x=position[0],
                               y=position[1])
    assert_allclose(apertures.sums(image), 0.0, atol=1e-9)
    dx, dy = position[0] / 10.0, position[1] / 10.0
    level = 7.0 + (order > 0) * (2.0 * dx - 3.0 * dy) + (order > 1) * (
        dx**2 - 0.4 * dx * dy + 0.7 * dy**2)
    assert_allclose(apertures.level(image), level)
    background = apertures.background(image, RADIUS)
    known = np.isfinite(background)
    assert_allclose(background[known], image[known])
    near = np.hypot(10 * x - round(position[0]),
                    10 * y - round(position[1])) <= RADIUS
    assert_array_equal(known, near)


def test_sum_is_that_of_photutils_minus_a_fitted_plane(no_mask):
    rng = np.random.default_rng(1)
    image = rng.normal(5.0, 1.0, SHAPE)
    rows, cols = np.mgrid[:SHAPE[0], :SHAPE[1]]
    near = np.hypot(cols - 20, rows - 19) <= RADIUS
    design = np.column_stack((np.ones(near.sum()), cols[near], rows[near]))
    coeffs = np.linalg.lstsq(design, image[near], rcond=None)[0]
    plane = coeffs[0] + coeffs[1] * cols + coeffs[2] * rows
    aperture = EllipticalAperture((20.3, 18.6), 5.0, 4.0,
                                  theta=np.deg2rad(30.0))
    expected = aperture.do_photometry(image - plane, method='exact')[0]
    apertures = disk_apertures(no_mask)
    assert_allclose(apertures.sums(image), expected)
    assert_allclose(apertures.background_weights.sum(), aperture.area)
    assert_allclose(apertures.weights.sum(), 0.0, atol=1e-10)


def test_masked_pixels_do_not_count(no_mask):
    rng = np.random.default_rng(2)
    image = rng.normal(size=SHAPE)
    mask = no_mask.copy()
    mask[15:18, 18:24] = True
    apertures = disk_apertures(mask)
    expected = apertures.sums(image)
    image[mask] = 1e9
    assert_array_equal(apertures.sums(image), expected)
    assert np.all(apertures.weights[~apertures.usable] == 0.0)


def test_flux_of_sources_is_exact(sources, no_mask):
    """
    Whether fitted right or not: what the fit has missed is in the
    residual. At the edge, the model takes the place of what is not on
    the map.
    """
    truth = sources['flux_fit'].copy()
    residual = 3.0 + 0.1 * np.arange(SHAPE[1]) * np.ones(SHAPE)
    measured, _ = measure_sources(residual, sources, UNIT_NOISE, mask=no_mask,
                                  radius=RADIUS)
    assert_allclose(measured['aperture_flux'], truth, rtol=1e-3)
    assert_array_equal(measured['partial'][[0, 2]], [False, True])
    assert np.isnan(measured['aperture_flux'][1])
    assert np.isnan(measured['aperture_flux_err'][1])
    assert np.isnan(measured['local_bkg'][1])
    assert_allclose(measured['local_bkg'][[0, 2]],
                    3.0 + 0.1 * sources['x_fit'][[0, 2]])
    missed = gaussian_image(sources[0]) * 0.3
    sources['amplitude_fit'][0] *= 0.7
    wrong, _ = measure_sources(residual + missed, sources, UNIT_NOISE,
                               mask=no_mask,
                               radius=2 * RADIUS)
    assert_allclose(wrong['aperture_flux'][0], truth[0], rtol=0.03)


def test_masked_part_of_a_source_is_that_of_its_model(sources, no_mask):
    mask = no_mask.copy()
    mask[17:20, 19:21] = True
    residual = np.where(mask, -1e6, 0.0)
    measured, _ = measure_sources(residual, sources, UNIT_NOISE, mask=mask,
                                  radius=RADIUS)
    assert measured['partial'][0]
    assert_allclose(measured['aperture_flux'][0], sources['flux_fit'][0],
                    rtol=1e-3)


def test_correction_is_the_missing_part(sources, no_mask):
    residual = np.random.default_rng(6).normal(size=SHAPE)
    whole, _ = measure_sources(residual, sources, UNIT_NOISE, mask=no_mask,
                               radius=RADIUS)
    plain, _ = measure_sources(residual, sources, UNIT_NOISE, mask=no_mask,
                               radius=RADIUS, correct=False)
    fraction = 1.0 / whole['aperture_correction'][0]
    # up to the size of the pixels
    assert_allclose(fraction, 1.0 - np.exp(-4.0 * np.log(2.0)), rtol=0.01)
    assert_allclose(plain['aperture_correction'][0], 1.0)
    for name in ('aperture_flux', 'aperture_flux_err'):
        assert_allclose(plain[name][0], whole[name][0] * fraction)


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('kind', ['white', 'map', 'beam', 'relative'])
def test_error_is_the_scatter_over_many_noise_maps(sources, no_mask, kind,
                                                   masked):
    """
    The sources being known, the scatter is that of the noise in the
    weighted sums alone.
    """
    rng = np.random.default_rng(3)
    y, _ = np.mgrid[:SHAPE[0], :SHAPE[1]]
    relative = 0.5 + y / 20.0
    noise = {'white': WhiteNoise(0.7),
             'map': WhiteNoise(0.7, relative_rms=relative),
             'beam': CorrelatedNoise.from_beam(0.7, 4.0),
             'relative': CorrelatedNoise(
                 [0.0, 0.5], [6.0 * np.eye(2)], relative_rms=relative)}[kind]
    mask = no_mask.copy()
    if masked:
        mask[20:24, 17:22] = True
    measured, apertures = measure_sources(
        np.zeros(SHAPE), sources, noise, mask=mask, radius=RADIUS)
    sums = np.array([apertures.sums(
        noise.simulate(SHAPE, seed=rng)
        if isinstance(noise, CorrelatedNoise)
        else noise.rms_at(*np.indices(SHAPE)[::-1])
        * rng.normal(size=SHAPE)) for _ in range(N_DRAWS)])
    known = [0, 2]
    scatter = sums.std(axis=0) * measured['aperture_correction'][known]
    # five standard errors of a standard deviation
    assert_allclose(measured['aperture_flux_err'][known], scatter,
                    rtol=5.0 / np.sqrt(2 * N_DRAWS))


def test_error_holds_when_the_flux_is_fitted(sources, no_mask):
    """
    The error of the fitted flux is in the residual that the background
    is fitted to. Here the amplitude and a plane are fitted by
    generalized least squares, the best linear unbiased estimate.
    """
    sources = sources[:1]
    noise = CorrelatedNoise.from_beam(0.7, 4.0)
    profile = gaussian_image(sources[0]) / sources['amplitude_fit'][0]
    rows, cols = np.mgrid[:SHAPE[0], :SHAPE[1]]
    near = np.hypot(cols - 20, rows - 19) <= RADIUS
    x, y = cols[near], rows[near]
    design = np.column_stack((profile[near], np.ones(len(x)), x, y))
    weighted = np.linalg.solve(noise.covariance(x, y)
                               + 1e-9 * np.eye(len(x)), design)
    covariance = np.linalg.inv(design.T @ weighted)
    integral = gaussian_flux(1.0, 5.0, 4.0)
    sources['flux_err'] = integral * np.sqrt(covariance[0, 0])
    measured, apertures = measure_sources(
        np.zeros(SHAPE), sources, noise, mask=no_mask, radius=RADIUS)
    inside = (apertures.weights + apertures.background_weights)[0]
    own = np.sum(inside * apertures.values(profile)[0])
    rng = np.random.default_rng(4)
    errors = []
    for _ in range(N_DRAWS):
        image = noise.simulate(SHAPE, seed=rng)
        amplitude = (covariance @ (weighted.T @ image[near]))[0]
        residual = image - amplitude * profile
        errors.append(amplitude * own + apertures.sums(residual)[0])
    scatter = np.std(errors) * measured['aperture_correction'][0]
    assert_allclose(measured['aperture_flux_err'][0], scatter,
                    rtol=5.0 / np.sqrt(2 * N_DRAWS))
    naive, _ = measure_sources(
        np.zeros(SHAPE), without_flux_error(sources), noise, mask=no_mask,
        radius=RADIUS)
    assert naive['aperture_flux_err'][0] < 0.97 * scatter


def test_units_of_the_table_do_not_matter(sources, no_mask):
    residual = np.random.default_rng(5).normal(size=SHAPE)
    plain, _ = measure_sources(residual, sources, UNIT_NOISE, mask=no_mask,
                               radius=RADIUS)
    sources['amplitude_fit'] <<= u.Jy / u.pix
    sources['flux_err'] <<= u.Jy
    units, _ = measure_sources(residual, sources, UNIT_NOISE, mask=no_mask,
                               radius=RADIUS)
    for name, values in plain.items():
        assert_array_equal(units[name], values)


def test_no_sources(sources, no_mask):
    measured, apertures = measure_sources(
        np.zeros(SHAPE), sources[:0], UNIT_NOISE, mask=no_mask, radius=RADIUS)
    assert all(len(values) == 0 for values in measured.values())
    assert np.isnan(apertures.background(np.zeros(SHAPE), RADIUS)).all()


def test_almost_everything_masked(no_mask):
    """
    Two pixels know no plane; what they know is taken.
    """
    mask = ~no_mask
    mask[18, 20:22] = False
    apertures = disk_apertures(mask)
    assert np.isfinite(apertures.weights).all()
    assert_allclose(apertures.sums(np.full(SHAPE, 3.0)), 0.0, atol=1e-6)
