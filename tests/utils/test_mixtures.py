# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of PSFs as sums of concentric Gaussians.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import j1

from hyperphotutils.utils import ConcentricGaussians, fit_concentric_gaussians

HALF = 20
Y, X = np.mgrid[-HALF:HALF + 1, -HALF:HALF + 1]
R = np.hypot(X, Y)


def airy(radius, fwhm):
    """
    The Airy pattern (Born & Wolf); its FWHM is 1.029 lambda / D.
    """
    z = np.maximum(np.pi * 1.029 / fwhm * radius, 1e-9)
    return (2.0 * j1(z) / z)**2


BEAMS = {
    'Gaussian': (np.exp(-0.5 * (X**2 / 9.0 + Y**2 / 4.0)), 1, 1e-6),
    'Moffat 2.5': ((1.0 + R**2 / 3.5**2)**-2.5, 3, 0.01),
    'Moffat 4': ((1.0 + R**2 / 4.6**2)**-4.0, 3, 0.003),
    'Airy': (airy(R, 5.0), 4, 0.02),
    '5 % ring': (np.exp(-0.5 * R**2 / 2.5**2)
                 + 0.05 * np.exp(-0.5 * (R - 8.0)**2 / 1.5**2), 4, 0.02),
}


@pytest.mark.parametrize('name', BEAMS)
def test_beams(name):
    """
    Usual beams are described to the stated part of the peak, and the
    stated misfit is the true one.
    """
    image, n, limit = BEAMS[name]
    image = image / image.sum()
    mixture = fit_concentric_gaussians(image, n)
    assert len(mixture.weights) == n
    difference = np.abs(mixture.image(2 * HALF + 1) - image).max()
    assert_allclose(difference / image.max(), mixture.misfit)
    assert mixture.misfit < limit
    assert np.all(np.linalg.eigvalsh(mixture.matrices) > 0)


def test_parameters_of_a_gaussian():
    """
    One elliptical Gaussian is found as it is, off center.
    """
    matrix = np.array([[6.0, 1.5], [1.5, 4.0]])
    true = ConcentricGaussians(np.array([2.0]), matrix[None], (0.3, -0.2),
                               0.0)
    mixture = fit_concentric_gaussians(true.image(31), 1)
    assert_allclose(mixture.weights, [2.0], rtol=1e-5)
    assert_allclose(mixture.matrices[0], matrix, rtol=1e-5)
    assert_allclose(mixture.center, (0.3, -0.2), atol=1e-5)



def test_invalid_images():
    image = BEAMS['Airy'][0]
    with pytest.raises(ValueError, match='square and of odd size'):
        fit_concentric_gaussians(image[:-1], 2)
    with pytest.raises(ValueError, match='finite and have a positive sum'):
        fit_concentric_gaussians(-image, 2)
    with pytest.raises(ValueError, match='n_gaussians must be at least 1'):
        fit_concentric_gaussians(image, 0)
