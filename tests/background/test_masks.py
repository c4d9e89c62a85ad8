# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the masks of sources.
"""

import astropy.units as u
import numpy as np
import pytest
from photutils.aperture import EllipticalAperture

from hyperphotutils.background import make_source_mask

SHAPE = (120, 150)


def test_mask_agrees_with_photutils_apertures():
    """
    Sources of many sizes, also at and beyond the edges.
    """
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-15, 165, 60), rng.uniform(-15, 135, 60)
    major = 10.0**rng.uniform(0, 1.3, 60)
    minor = major * rng.uniform(0.3, 1.0, 60)
    theta = rng.uniform(0, 180, 60)
    expected = np.zeros(SHAPE, dtype=bool)
    for k in range(60):
        aperture = EllipticalAperture((x[k], y[k]), 1.2 * major[k],
                                      1.2 * minor[k],
                                      theta=theta[k] * u.deg)
        image = aperture.to_mask(method='center').to_image(SHAPE)
        if image is not None:
            expected |= image.astype(bool)
    mask = make_source_mask(SHAPE, x, y, major, minor, theta, factor=1.2)
    assert np.array_equal(mask, expected)
    assert np.array_equal(
        make_source_mask(SHAPE, x, y, major, minor,
                         np.radians(theta) * u.rad, factor=1.2), mask)


def test_batches_give_the_same(monkeypatch):
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 120, (2, 50))
    mask = make_source_mask(SHAPE, x, y, 6.0)
    monkeypatch.setattr('hyperphotutils.background.masks._MAX_ELEMENTS', 100)
    assert np.array_equal(make_source_mask(SHAPE, x, y, 6.0), mask)


def test_scalar_circle():
    mask = make_source_mask((21, 21), 10, 10, 4.0, factor=1.0)
    yy, xx = np.mgrid[:21, :21] - 10
    assert np.array_equal(mask, xx**2 + yy**2 <= 16)


def test_odd_sources_mask_nothing():
    nan, inf = np.nan, np.inf
    mask = make_source_mask(SHAPE, [nan, 5, 5, inf, 1.0e30, 5],
                            [5, nan, 5, 5, 5, 5], [4, 4, nan, 4, 4, 0])
    assert not mask.any()
    assert not make_source_mask(SHAPE, [], [], []).any()


def test_huge_source_masks_everything():
    assert make_source_mask(SHAPE, 50, 50, 1.0e4).all()


def test_bad_arguments():
    with pytest.raises(ValueError, match=r'shape must be \(ny, nx\)'):
        make_source_mask((5,), 1, 1, 1.0)
    with pytest.raises(ValueError, match='factor must be positive'):
        make_source_mask(SHAPE, 1, 1, 1.0, factor=np.nan)
    with pytest.raises(ValueError, match='fwhm_major must not be negative'):
        make_source_mask(SHAPE, 1, 1, [-1.0, np.nan])
    with pytest.raises(ValueError, match='fwhm_minor must not be negative'):
        make_source_mask(SHAPE, 1, 1, 1.0, -2.0)
