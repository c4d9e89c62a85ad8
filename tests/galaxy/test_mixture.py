# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of Sersic profiles as sums of Gaussians.
"""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import j0

from hyperphotutils.galaxy import (
    mixture_weights,
    sersic_b,
    sersic_flux,
    sersic_transform,
)


@pytest.mark.parametrize('n', [0.5, 1.0, 2.7, 4.0])
def test_half_of_the_flux_is_within_the_radius(n):
    def integral(limit):
        return quad(lambda r: 2.0 * np.pi * r * np.exp(
            -sersic_b(n) * ((r / 2.0)**(1.0 / n) - 1.0)), 0.0, limit,
            limit=200)[0]

    total = sersic_flux(1.0, 2.0, n)
    assert integral(2.0) == pytest.approx(0.5 * total, rel=1e-6)
    assert sersic_flux(3.0, 2.0, n, q=0.3) == pytest.approx(0.9 * total)


def test_transform_of_an_exponential_is_exact():
    k = np.geomspace(1e-3, 100.0, 50)
    exact = (1.0 + (k / sersic_b(1.0))**2)**-1.5
    np.testing.assert_allclose(sersic_transform(1.0)(k), exact, atol=1e-9)


def test_transform_is_the_hankel_integral():
    n, k = 2.5, 1.7
    b = sersic_b(n)
    # r = s^4 takes the cusp away
    value = quad(lambda s: 8.0 * np.pi * s**7 * j0(k * s**4)
                 * np.exp(-b * s**(4.0 / n)), 0.0, 5.0, limit=500)[0]
    total = sersic_flux(np.exp(-b), 1.0, n)
    assert sersic_transform(n)(k) == pytest.approx(value / total, abs=1e-6)


@pytest.mark.parametrize(('n', 'tolerance'), [
    (0.3, 3e-3), (0.4, 1.5e-3), (0.5, 3e-4), (0.7, 1e-4), (0.83, 1e-4),
    (1.0, 1e-5), (2.0, 1e-5), (3.3, 3e-5), (4.0, 1e-4), (6.0, 3e-4),
    (8.0, 1e-3)])
def test_gaussians_have_the_transform_of_the_profile(n, tolerance):
    """
    Also between the nodes of the table.
    """
    k = np.geomspace(0.003, 300.0, 300)
    sigmas = 0.01 * 2.0**(0.5 * np.arange(26))
    weights = mixture_weights(n)
    found = weights[0] + weights[1:] @ np.exp(
        -0.5 * (sigmas[:, None] * k)**2)
    assert np.abs(found - sersic_transform(n)(k)).max() < tolerance


def test_index_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r'n must be from 0\.3 to 8'):
        mixture_weights([1.0, 9.0])
