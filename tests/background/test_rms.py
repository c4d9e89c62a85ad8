# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the rms module.
"""

import astropy.units as u
import numpy as np
import pytest
from numpy.testing import assert_allclose

from hyperphotutils.background import local_rms

SHAPE = (300, 320)


@pytest.fixture(name='noise')
def _noise():
    return np.random.default_rng(5).normal(0.0, 2.0, SHAPE)


def test_planes_do_not_count(noise):
    """
    White noise on a steep plane has the rms of the noise. The median of
    440 boxes with 222 degrees of freedom each scatters by 0.3 %.
    """
    yy, xx = np.mgrid[:SHAPE[0], :SHAPE[1]]
    rms = local_rms(noise + 3.0 * xx - 7.0 * yy + 1e4, 15)
    assert_allclose(rms, 2.0, rtol=0.015)


def test_order_of_the_polynomial(noise):
    """
    A curved background needs the second order.
    """
    yy, _ = np.mgrid[:SHAPE[0], :SHAPE[1]]
    curved = noise + 0.2 * (yy - 150.0)**2
    assert_allclose(local_rms(curved, 15, order=2), 2.0, rtol=0.015)
    assert local_rms(curved, 15, order=1) > 2.5


def test_bright_structure_has_little_influence(noise):
    """
    Structure in a tenth of the boxes shifts a median by a few percent.
    """
    noise[:90, :100] += np.random.default_rng(6).normal(0, 50.0, (90, 100))
    assert_allclose(local_rms(noise, 15), 2.0, rtol=0.03)


def test_masked_and_nan_pixels_do_not_count(noise):
    """
    Bad values behind a mask or NaN change nothing but the sample.
    """
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:, 100] = True
    noise[:, 100] = 1e6
    noise[200] = np.nan
    assert_allclose(local_rms(noise, 15, mask=mask), 2.0, rtol=0.02)


def test_small_image_is_one_box(noise):
    """
    Boxes larger than the image shrink to it.
    """
    assert_allclose(local_rms(noise[:20, :20], 51), 2.0, rtol=0.15)


def test_units(noise):
    """
    A Quantity in gives a Quantity out.
    """
    rms = local_rms(noise << u.mJy, 15)
    assert rms.unit == u.mJy
    assert rms.value == local_rms(noise, 15)


def test_box_must_hold_the_polynomial(noise):
    """
    A box with fewer pixels than terms is refused.
    """
    with pytest.raises(ValueError, match=r'box_size is too small .* order 2'):
        local_rms(noise, 2, order=2)
