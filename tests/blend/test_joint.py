# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the iteration over groups.
"""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from hyperphotutils.blend.joint import _halfway


def covariance(states):
    """
    Return the elements of the covariance matrices of ellipses.
    """
    var_a, var_b, theta = states[:, 3:].T
    cos, sin = np.cos(theta), np.sin(theta)
    return np.stack((cos**2 * var_a + sin**2 * var_b,
                     cos * sin * (var_a - var_b),
                     sin**2 * var_a + cos**2 * var_b))


def test_halfway_is_the_mean_of_matrices():
    """
    Half of the way between two ellipses is the mean of their matrices, in
    particular for angles that differ by more than a right angle.
    """
    rng = np.random.default_rng(0)
    before, after = rng.uniform(1.0, 5.0, size=(2, 50, 6))
    for states in (before, after):
        states[:, 3:5] = -np.sort(-states[:, 3:5], axis=1)
    middle = _halfway(before, after)
    assert_allclose(middle[:, :3], 0.5 * (before + after)[:, :3])
    assert_allclose(covariance(middle), 0.5 * (
        covariance(before) + covariance(after)), atol=1e-13)
    assert np.all(middle[:, 3] >= middle[:, 4])


def test_halfway_keeps_all_bits_of_equal_shapes():
    """
    The shape of a source that is held does not change by rounding.
    """
    before = np.array([[1.0, 2.0, 3.0, 4.1, 3.3, 0.7]])
    after = before + np.array([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    assert_array_equal(_halfway(before, after),
                       [[1.5, 2.5, 3.5, 4.1, 3.3, 0.7]])
