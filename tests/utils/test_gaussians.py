# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the gaussians module.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.modeling.models import Gaussian2D
from astropy.stats import gaussian_fwhm_to_sigma
from numpy.testing import assert_allclose

from hyperphotutils.utils import (
    add_gaussians,
    gaussian_flux,
    gaussian_matrix,
    wrap_angle,
)
from hyperphotutils.utils.gaussians import add_stamp

SHAPE = (61, 71)
SOURCES = {'x': [30.2, 5.0, 69.5], 'y': [25.7, 58.0, 0.0],
           'amplitude': [2.0, -1.0, 3.0], 'fwhm_major': [7.0, 4.0, 5.0],
           'fwhm_minor': [4.0, 4.0, 2.5], 'theta': [35.0, 0.0, 120.0]}


def _astropy_image(sources):
    yy, xx = np.mgrid[:SHAPE[0], :SHAPE[1]]
    image = np.zeros(SHAPE)
    for x, y, amp, major, minor, theta in zip(*sources.values(),
                                              strict=True):
        image += Gaussian2D(amp, x, y, major * gaussian_fwhm_to_sigma,
                            minor * gaussian_fwhm_to_sigma,
                            theta=np.deg2rad(theta))(xx, yy)
    return image


def test_add_gaussians_equals_astropy():
    """
    Inside the truncation radius the image is that of Gaussian2D, also
    at the edges of the map.
    """
    image = np.zeros(SHAPE)
    add_gaussians(image, **SOURCES, n_sigma=20)
    assert_allclose(image, _astropy_image(SOURCES), atol=1e-12)


def test_add_gaussians_truncation_is_negligible():
    """
    The default truncation leaves out less than 1e-7 of a peak.
    """
    image = np.zeros(SHAPE)
    add_gaussians(image, **SOURCES)
    assert_allclose(image, _astropy_image(SOURCES), atol=1e-7)


def test_add_gaussians_subtracts_what_it_added():
    """
    The sign -1 takes back what the sign 1 added.
    """
    image = np.ones(SHAPE)
    add_gaussians(image, **SOURCES)
    add_gaussians(image, **SOURCES, sign=-1)
    assert_allclose(image, 1.0, atol=1e-14)


def test_add_gaussians_skips_sources_without_a_fit():
    """
    A row of NaN adds nothing and spoils nothing.
    """
    image = np.zeros(SHAPE)
    add_gaussians(image, np.nan, 3.0, 1.0, 4.0, 4.0, 0.0)
    assert_allclose(image, 0.0)


def test_gaussian_flux_is_the_sum_over_pixels():
    """
    The flux is the integral, with the unit of the amplitude.
    """
    image = np.zeros((81, 81))
    add_gaussians(image, 40.3, 39.8, 1.5, 8.0, 5.0, 20.0, n_sigma=9)
    assert_allclose(gaussian_flux(1.5, 8.0, 5.0), image.sum(), rtol=1e-9)
    flux = gaussian_flux(1.5 * u.Jy, 8.0, 5.0)
    assert flux.unit == u.Jy


def test_gaussian_matrix_has_the_widths_as_eigenvalues():
    """
    Its eigenvalues are the variances along the axes.
    """
    xx, xy, yy = gaussian_matrix(6.0, 3.0, 50.0)
    eigenvalues = np.linalg.eigvalsh([[xx, xy], [xy, yy]])
    assert_allclose(np.sqrt(eigenvalues) / gaussian_fwhm_to_sigma,
                    [3.0, 6.0])


@pytest.mark.parametrize(('angle', 'expected'), [
    (-30.0, 150.0), (180.0, 0.0), (359.0, 179.0), (-1e-20, 0.0)])
def test_wrap_angle(angle, expected):
    """
    An axis has an angle in [0, 180), with or without a unit.
    """
    assert wrap_angle(angle) == expected
    assert wrap_angle(np.deg2rad(angle) * u.rad).unit == u.deg
    assert_allclose(wrap_angle([angle] * u.deg).value, [expected])


@pytest.mark.parametrize('y0', [-9, -4, -3, 2, 5, 9])
@pytest.mark.parametrize('x0', [-9, -1, 3, 7, 20])
def test_stamp_is_truncated_at_the_edges(x0, y0):
    """
    A stamp adds its pixels on the image, and none if it is off the image.
    """
    stamp = np.arange(1.0, 13.0).reshape(4, 3)
    image = np.zeros((6, 8))
    padded = np.pad(image, 30)
    padded[30 + y0:34 + y0, 30 + x0:33 + x0] += stamp
    add_stamp(image, stamp, x0, y0)
    assert np.array_equal(image, padded[30:36, 30:38])
