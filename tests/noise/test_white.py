# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of noise that is independent between pixels.
"""

import astropy.units as u
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hyperphotutils.noise import CorrelatedNoise, WhiteNoise


def test_from_error():
    """
    The rms is the median of the errors that are known and not masked.
    """
    error = np.array([[2.0, 2.0, np.nan], [4.0, np.inf, 9.0]])
    mask = np.zeros((2, 3), dtype=bool)
    mask[1, 2] = True
    noise = WhiteNoise.from_error(error, mask=mask)
    assert noise.rms == 2.0
    assert WhiteNoise.from_error(error).rms == 3.0
    assert_array_equal(noise.rms_at([0, 0, 2], [0, 1, 1]), [2.0, 4.0, 9.0])
    assert not np.isfinite(noise.rms_at([2], [0]))
    assert WhiteNoise.from_error(0.5).rms == 0.5
    assert WhiteNoise.from_error(None).rms is None
    assert WhiteNoise.from_error(error * u.Jy).rms == 3.0 * u.Jy


def test_weights_and_sums_are_those_of_uncorrelated_noise():
    """
    White noise agrees with a covariance that has a white part only.
    """
    relative = np.linspace(0.5, 2.0, 30) * np.ones((20, 1))
    white = WhiteNoise(3.0, relative_rms=relative)
    same = CorrelatedNoise([9.0], [], relative_rms=relative)
    x, y = np.array([[3, 4, 29]]), np.array([[7, 7, 19]])
    usable = np.array([[True, True, False]])
    assert_allclose(white.rms_at(x, y), same.rms_at(x, y))
    assert_allclose(white.pixel_weights(x, y, usable) * 3.0,
                    same.pixel_weights(x, y, usable))
    weights = np.array([[1.0, -2.0, 0.5], [0.0, 1.0, 1.0]])
    for noise in (white, same):
        assert_allclose(noise.sum_variance(
            weights, np.array([4, 0]), np.array([7, 0]),
            np.array([-1, 0, 1]), np.array([0, 0, 0])), [
                9.0 * np.sum((weights[0] * relative[7, 3:6])**2),
                9.0 * np.sum((weights[1, 1:] * relative[0, :2])**2)])
    rows = np.random.default_rng(1).normal(size=(1, 2, 3))
    extra = np.array([[0.0, 2.0, 0.0]])
    factors = white.factors(x, y, usable, extra)
    other = same.factors(x, y, usable, 3.0 * extra)
    assert_allclose(factors.whiten(rows.copy()),
                    other.whiten(rows.copy()) * [3.0, 3.0, 1.0], rtol=1e-6)
    assert_allclose(factors.correlate(factors.whiten(rows)), rows)
    assert white.factors(x, y, usable) is None


@pytest.mark.parametrize('noise', [
    WhiteNoise(2.0 * u.Jy, relative_rms=np.arange(1.0, 21.0).reshape(4, 5)),
    CorrelatedNoise([1.0, 3.0] * u.Jy**2, [np.eye(2)],
                    relative_rms=np.arange(1.0, 21.0).reshape(4, 5),
                    structure=CorrelatedNoise([0.0, 1.0] * u.Jy**2,
                                              [4.0 * np.eye(2)]))])
def test_scale_and_cutout(noise):
    """
    Both keep everything else.
    """
    scaled = noise.scale(1e3, u.mJy)
    assert u.isclose(scaled.rms, noise.rms)
    assert_allclose(scaled.rms_at([1], [2]), 1e3 * noise.rms_at([1], [2]))
    part = noise.cutout((slice(1, 4), slice(2, 5)))
    assert part.rms == noise.rms
    assert_allclose(part.rms_at([0, 2], [1, 0]), noise.rms_at([2, 4], [2, 1]))


@pytest.mark.parametrize(('make', 'match'), [
    (lambda: WhiteNoise(0.0), 'rms must be positive: 0.0'),
    (lambda: WhiteNoise(np.nan), 'rms must be positive'),
    (lambda: WhiteNoise(1.0, relative_rms=[1.0]), 'relative_rms must be a 2D'),
    (lambda: WhiteNoise(1.0, relative_rms=[[-1.0]]), 'relative_rms must be'),
    (lambda: WhiteNoise.from_error(-1.0), 'error must be positive'),
    (lambda: WhiteNoise.from_error(np.full((2, 2), np.nan)),
     'error has no finite value')])
def test_bad_arguments(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_repr():
    assert repr(WhiteNoise(1.5)) == '<WhiteNoise(rms=1.5)>'
    assert repr(WhiteNoise(relative_rms=np.ones((2, 2)))) == (
        '<WhiteNoise(rms=None, relative_rms=<array>)>')
