# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the misfit of bright sources.
"""

import numpy as np
import pytest
from astropy.table import QTable
from numpy.testing import assert_allclose
from scipy.special import j1

from hyperphotutils.blend import BlendGroupFitter
from hyperphotutils.blend.misfit import Misfit, measure_misfit
from hyperphotutils.noise import CorrelatedNoise
from hyperphotutils.utils import add_gaussians

FWHM = 4.0
SHAPE = (240, 240)
# The FWHM of the pattern (2 J1(r) / r)^2.
AIRY_FWHM = 3.2327


def places():
    """
    Thirty-six isolated positions.
    """
    rng = np.random.default_rng(7)
    y, x = np.mgrid[20:230:40, 20:230:40].reshape(2, -1)
    return x + rng.uniform(-0.5, 0.5, 36), y + rng.uniform(-0.5, 0.5, 36)


def airy_image(x, y, amplitude):
    """
    An image of Airy patterns.
    """
    rows, cols = np.indices(SHAPE)
    image = np.zeros(SHAPE)
    for x0, y0, peak in zip(x, y, amplitude, strict=True):
        r = np.hypot(cols - x0, rows - y0) * AIRY_FWHM / FWHM + 1e-9
        image += peak * (2.0 * j1(r) / r)**2
    return image


def residual_of_fits(image, error, x, y, **options):
    """
    The table of fits, and what they leave of the image.
    """
    fitter = BlendGroupFitter(FWHM)
    table = fitter._fit_image(image, QTable({'x_init': x, 'y_init': y}),
                              error=error, **options)
    return table, image - fitter.make_model_image()


def misfit_of(image, rms, x, y):
    """
    The misfit of fits to an image.
    """
    table, residual = residual_of_fits(image, rms, x, y)
    amplitude = np.asarray(table['amplitude_fit'])
    return measure_misfit(
        residual, np.asarray(table['x_fit']), np.asarray(table['y_fit']),
        amplitude, amplitude / rms, FWHM, mask=np.zeros(SHAPE, dtype=bool))


@pytest.mark.parametrize('peak', [30.0, 1000.0])
def test_gaussians_have_none(peak):
    """
    However bright they are.
    """
    x, y = places()
    image = np.random.default_rng(1).normal(size=SHAPE)
    ones = np.ones(len(x))
    add_gaussians(image, x, y, peak * ones, 5.0 * ones, 4.2 * ones,
                  30.0 * ones)
    assert misfit_of(image, 1.0, x, y) is None


def test_slopes_of_the_background_are_none():
    """
    Although the residual rises outward around each source.
    """
    x, y = places()
    rows, cols = np.indices(SHAPE)
    residual = np.random.default_rng(1).normal(size=SHAPE) + 0.3 * (
        rows + cols)
    peak = np.full(len(x), 300.0)
    assert measure_misfit(residual, x, y, peak, peak, FWHM,
                          mask=np.zeros(SHAPE, dtype=bool)) is None


@pytest.mark.parametrize('peak', [300.0, 3000.0])
def test_side_lobes_have_the_same_at_any_brightness(peak):
    """
    The profile is in units of the peak: it is the rms that a Gaussian
    leaves of an Airy pattern in rings, without noise.
    """
    x, y = places()
    image = airy_image(x, y, peak * np.ones(len(x)))
    noise = np.random.default_rng(1).normal(size=SHAPE)
    profile = misfit_of(image + noise, 1.0, x, y).profile
    table, residual = residual_of_fits(image, 1.0, x, y)
    rows, cols = np.indices(SHAPE)
    for k, measured in enumerate(profile[:6]):
        expected = []
        for row in table:
            radius = np.hypot(cols - row['x_fit'], rows - row['y_fit']) / FWHM
            inside = (radius >= 0.25 * k) & (radius < 0.25 * (k + 1))
            near = radius < 3.0
            level = np.mean(residual[near])
            expected.append(np.mean((residual[inside] - level)**2)
                            / row['amplitude_fit']**2)
        assert_allclose(measured, np.sqrt(np.median(expected)),
                        atol=0.3 * np.max(profile))


def test_few_or_faint_or_blended_sources_give_none():
    """
    It cannot be measured on them.
    """
    x, y = places()
    ones = np.ones(len(x))
    image = airy_image(x, y, 300.0 * ones)
    mask = np.zeros(SHAPE, dtype=bool)
    for number, snr in ((2, 300.0), (36, 15.0)):
        assert measure_misfit(
            image, x[:number], y[:number], 300.0 * ones[:number],
            snr * ones[:number], FWHM, mask=mask) is None
    assert measure_misfit(image, x[0] + 0.01 * np.arange(36),
                          y[0] * ones, 300.0 * ones, 300.0 * ones, FWHM,
                          mask=mask) is None


def test_variances_of_sources_add():
    """
    Pixel by pixel, the squared profile times the squared peak; sources
    off the map or without a position add nothing.
    """
    profile = np.linspace(0.12, 0.01, 12)
    misfit = Misfit(profile, FWHM)
    x, y = np.array([50.3, 55.0, np.nan]), np.array([40.0, 42.4, 3.0])
    peak = np.array([10.0, 20.0, 5.0])
    image = misfit.variance(x, y, peak, (90, 100))
    rows, cols = np.indices((90, 100))
    expected = np.zeros((90, 100))
    for k in range(2):
        radius = np.hypot(cols - x[k], rows - y[k])
        ring = (radius / (0.25 * FWHM)).astype(int)
        disk = np.hypot(cols - np.rint(x[k]), rows - np.rint(y[k])) <= 12.0
        expected += np.where(disk & (ring < 12),
                             (profile[np.minimum(ring, 11)] * peak[k])**2, 0)
    assert_allclose(image, expected, rtol=1e-12)


def test_bright_sources_are_nearer_the_truth_with_it():
    """
    Fits with the covariance of smooth noise take the side lobes of bright
    sources for signal; with the misfit as additional noise, their fluxes
    are nearer those of fits to the same sources without any noise
    correlation.
    """
    noise = CorrelatedNoise([1e-4, 1.0], [5.8 * np.eye(2)])
    x, y = places()
    image = airy_image(x, y, 300.0 * np.ones(len(x)))
    image += noise.simulate(SHAPE, seed=1)
    white, residual = residual_of_fits(image, 1.0, x, y)
    amplitude = np.asarray(white['amplitude_fit'])
    misfit = measure_misfit(
        residual, np.asarray(white['x_fit']), np.asarray(white['y_fit']),
        amplitude, amplitude, FWHM, mask=np.zeros(SHAPE, dtype=bool))
    extra = misfit.variance(np.asarray(white['x_fit']),
                            np.asarray(white['y_fit']), amplitude, SHAPE)
    plain, _ = residual_of_fits(image, None, x, y, noise=noise)
    with_misfit, _ = residual_of_fits(image, None, x, y, noise=noise,
                                      extra_variance=extra)
    true = 300.0 * 4.0 * np.pi * (FWHM / AIRY_FWHM)**2
    off = [np.median(np.abs(np.asarray(table['flux_fit']) - true)) / true
           for table in (plain, with_misfit, white)]
    assert off[1] < 0.5 * off[0]
