# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the psf module.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from hyperphotutils.subtraction.frames import Frame
from hyperphotutils.subtraction.psf import as_spatial_psf, measure_psf


def make_stars(sigmas, *, slope=0.0, seed=1):
    """
    Stars with Gaussian PSFs on a grid; the width may change along x.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[20:400:40, 20:400:40].reshape(2, -1)
    yy, xx = np.mgrid[:400, :400]
    image = rng.normal(0.0, 1.0, (400, 400))
    for xi, yi, sigma in zip(x, y, np.resize(sigmas, x.size), strict=True):
        sigma = sigma * (1.0 + slope * (xi / 200.0 - 1.0))
        dx, dy = rng.uniform(-0.5, 0.5, 2)
        image += 1e4 / (2 * np.pi * sigma**2) * np.exp(
            -0.5 * ((xx - xi - dx)**2 + (yy - yi - dy)**2) / sigma**2)
    return Frame(image, np.ones(image.shape), None, 'image'), x, y


def true_psf(sigma):
    grid = np.arange(-10, 11)
    image = np.exp(-0.5 * (grid[:, None]**2 + grid**2) / sigma**2)
    return image / image.sum()


def test_constant_psf():
    psf = measure_psf(*make_stars([2.0]), 10)
    for x, y in ((200, 200), (30, 370)):
        assert_allclose(psf(x, y), true_psf(2.0), atol=0.02 * 0.04)


def test_varying_psf():
    """
    The PSF follows the width of the stars over the field.
    """
    psf = measure_psf(*make_stars([2.0], slope=0.1), 10)
    for x in (100, 300):
        expected = true_psf(2.0 * (1.0 + 0.1 * (x / 200.0 - 1.0)))
        assert_allclose(psf(x, 200), expected, atol=0.03 * expected.max())


def test_galaxies_do_not_broaden_it():
    """
    That half of the sources are twice as wide changes little.
    """
    psf = measure_psf(*make_stars([2.0, 4.0]), 10)
    assert_allclose(psf(200, 200), true_psf(2.0), atol=0.03 * 0.04)


def test_widths_that_vary_much_are_kept():
    """
    Stars at one side of the field may be half as wide again as those at
    the other: none of them is taken for a galaxy.
    """
    psf = measure_psf(*make_stars([2.0], slope=0.2), 10)
    for x in (60, 340):
        expected = true_psf(2.0 * (1.0 + 0.2 * (x / 200.0 - 1.0)))
        assert_allclose(psf(x, 200), expected, atol=0.03 * expected.max())


def test_neighbors_and_sky_do_not_change_it():
    """
    A neighbor beside each star, and a sky that rises over the field,
    leave the PSF and its wings as they are.
    """
    frame, x, y = make_stars([2.0])
    rng = np.random.default_rng(5)
    yy, xx = np.mgrid[:400, :400]
    data = frame.data + 0.05 * xx
    for xi, yi in zip(x, y, strict=True):
        angle, flux = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(1e3, 5e3)
        dx, dy = 9.0 * np.cos(angle), 9.0 * np.sin(angle)
        data += flux / (8.0 * np.pi) * np.exp(
            -((xx - xi - dx)**2 + (yy - yi - dy)**2) / 8.0)
    psf = measure_psf(Frame(data, np.ones(data.shape), None, 'image'), x, y,
                      12)
    measured, true = psf(200, 200)[2:-2, 2:-2], true_psf(2.0)
    assert abs(np.sum(measured * true) / np.sum(measured**2) - 1.0) < 0.02


def test_given_psf():
    """
    An image is the same everywhere, and a function is followed.
    """
    image = true_psf(2.0)
    assert_allclose(as_spatial_psf(image, (90, 80))(3, 70), image)

    def varying(x, y):
        return true_psf(2.0 + 0.002 * x + 0.001 * y)

    given = as_spatial_psf(varying, (90, 80))
    assert_allclose(given(70, 20), varying(70, 20), atol=1e-5)
    with pytest.raises(ValueError, match='must return an image'):
        as_spatial_psf(lambda *_: 1.0, (90, 80))
