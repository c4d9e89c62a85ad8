# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the significance of candidates.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.stats import gaussian_fwhm_to_sigma
from astropy.table import QTable
from numpy.testing import assert_allclose

from hyperphotutils.blend.candidates import candidate_snr
from hyperphotutils.noise import CorrelatedNoise

FWHM = 4.0
SHAPE = (61, 71)
RADIUS = 2.0 * FWHM
NEIGHBOR = np.array([30.0, 34.1, 31.6, 5.2, 4.1, 30.0])
FAR = np.array([50.0, 60.0, 12.0, 5.0, 4.2, 80.0])


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


def derivatives(params, x, y):
    """
    The derivatives of a Gaussian by its parameters.
    """
    step = 1e-5
    return [(gaussian(params + shift, x, y) - gaussian(params - shift, x, y))
            / (2.0 * step) for shift in step * np.eye(6)]


def fitted(*sources):
    """
    A table of fitted sources.
    """
    values = dict(zip(
        ('amplitude_fit', 'x_fit', 'y_fit', 'fwhm_major_fit',
         'fwhm_minor_fit', 'theta_fit'), np.transpose(sources), strict=True))
    values['theta_fit'] = values['theta_fit'] * u.deg
    return QTable(values)


def at(*places):
    """
    Candidates at these places.
    """
    x, y = np.transpose(places)
    return QTable({'x_init': x, 'y_init': y})


@pytest.fixture(name='noise')
def fixture_noise():
    return CorrelatedNoise(
        [0.02, 1.0, 0.5], [5.8 * np.eye(2), 80.0 * np.eye(2)])


@pytest.mark.parametrize('option', ['plain', 'mask', 'relative_rms',
                                    'extra_variance'])
def test_ratio_is_that_of_generalized_least_squares(noise, option):
    """
    One candidate beside a fitted source: the amplitude in units of its
    error is that of a linear fit with the full covariance matrix, in
    which the derivatives of the neighbor and a plane are free.
    """
    rows, cols = np.indices(SHAPE)
    mask = np.zeros(SHAPE, dtype=bool)
    extra_variance = None
    if option == 'mask':
        mask[24:27, 28:31] = True
    if option == 'relative_rms':
        noise = CorrelatedNoise(noise.variances, noise.matrices,
                                relative_rms=1.0 + cols / 50.0)
    if option == 'extra_variance':
        extra_variance = gaussian(NEIGHBOR, cols, rows)**2 * 0.01
    candidate = np.array([5.0, 29.3, 28.8, FWHM, FWHM, 0.0])
    residual = noise.simulate(SHAPE, seed=2) + gaussian(candidate, cols, rows)
    snr = candidate_snr(residual, at(candidate[1:3]), fitted(NEIGHBOR, FAR),
                        noise, FWHM, mask=mask, fit_radius=RADIUS,
                        extra_variance=extra_variance)

    near = (np.hypot(cols - 29, rows - 29) <= RADIUS) & ~mask
    x, y = cols[near], rows[near]
    template = gaussian(np.array([1.0, *candidate[1:]]), x, y)
    design = np.array([template, *derivatives(NEIGHBOR, x, y),
                       np.ones(len(x)), x - 29.0, y - 29.0])
    matrix = noise.covariance(x, y)
    if extra_variance is not None:
        matrix += np.diag(extra_variance[near])
    weighted = np.linalg.solve(matrix, design.T)
    covariance = np.linalg.inv(design @ weighted)
    amplitude = (covariance @ (weighted.T @ residual[near]))[0]
    assert_allclose(snr, amplitude / np.sqrt(covariance[0, 0]), rtol=1e-4)
    assert snr[0] > 4.0


def test_candidates_do_not_depend_on_each_other(noise):
    """
    Many candidates at once have the ratios that each has by itself, with
    any number of neighbors, at a border too.
    """
    rng = np.random.default_rng(1)
    places = rng.uniform(0.0, 60.0, (30, 2))
    table = fitted(NEIGHBOR, FAR)
    residual = noise.simulate(SHAPE, seed=3)
    options = {'mask': np.zeros(SHAPE, dtype=bool), 'fit_radius': RADIUS}
    together = candidate_snr(residual, at(*places), table, noise, FWHM,
                             **options)
    single = [candidate_snr(residual, at(place), table, noise, FWHM,
                            **options)[0] for place in places]
    assert_allclose(together, single, rtol=1e-6, atol=1e-9)


def test_ratio_of_noise_has_unit_variance(noise):
    """
    The statistic is in units of its error.
    """
    shape = (400, 400)
    y, x = np.mgrid[20:390:20, 20:390:20].reshape(2, -1) + 0.3
    snr = candidate_snr(
        noise.simulate(shape, seed=4), at(*zip(x, y, strict=True)),
        fitted(NEIGHBOR), noise, FWHM, mask=np.zeros(shape, dtype=bool),
        fit_radius=RADIUS)
    assert abs(np.std(snr) - 1.0) < 5.0 / np.sqrt(2.0 * len(x))
    assert abs(np.mean(snr)) < 5.0 / np.sqrt(len(x))


def test_neighbor_can_account_for_a_candidate(noise):
    """
    At the center of a fitted source nothing can be told apart from it,
    whatever the residual; nor without any usable pixel.
    """
    rows, cols = np.indices(SHAPE)
    residual = 100.0 * gaussian(NEIGHBOR, cols, rows)
    round_source = np.array([30.0, 34.1, 31.6, FWHM, FWHM, 0.0])
    mask = np.hypot(cols - 10, rows - 50) < 10.0
    snr = candidate_snr(residual, at(round_source[1:3], (10.0, 50.0)),
                        fitted(round_source), noise, FWHM, mask=mask,
                        fit_radius=RADIUS)
    assert_allclose(snr, 0.0)
