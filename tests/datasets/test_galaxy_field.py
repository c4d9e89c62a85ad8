# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of simulated fields of galaxies.
"""

import numpy as np
import pytest

from hyperphotutils.datasets import make_galaxy_field


def test_same_seed_gives_the_same_field():
    one, two, other = (make_galaxy_field((120, 140), 2, seed=seed)
                       for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.data, two.data)
    assert not np.array_equal(one.data, other.data)
    assert one.data.shape == (120, 140)


def test_star_has_its_flux_and_the_psf():
    field = make_galaxy_field((121, 121), 0, n_stars=1, snr=(1e6, 1e6),
                              gain=1e12, seed=1)
    row = field.truth[0]
    assert row['kind'] == 'star'
    assert field.data.sum() == pytest.approx(row['flux'], rel=2e-3)
    light = field.data.sum(axis=0)
    assert light @ np.arange(121) / light.sum() == pytest.approx(row['x'],
                                                                 abs=0.1)
    assert field.psf.sum() == pytest.approx(1.0)
    assert field.psf.shape == (51, 51)


def test_half_of_the_flux_is_within_the_radius():
    """
    Of a galaxy that is large for the PSF.
    """
    field = make_galaxy_field((301, 301), 1, fwhm=1.0, snr=(1e6, 1e6),
                              r_eff=(12.0, 12.0), n_sersic=(1.0, 1.0),
                              q=(1.0, 1.0), gain=1e12, seed=3)
    row = field.truth[0]
    y, x = np.mgrid[:301, :301]
    inside = np.hypot(x - row['x'], y - row['y']) < row['r_eff']
    assert field.data[inside].sum() / row['flux'] == pytest.approx(0.5,
                                                                   abs=0.01)


def test_signal_to_noise_is_as_asked():
    field = make_galaxy_field((150, 150), 1, snr=(50.0, 50.0), seed=4)
    clean = field.error**2 - 1.0
    model = clean * 5.0
    assert np.sqrt(np.sum((model / field.error)**2)) == pytest.approx(
        50.0, rel=0.01)


def test_segments_are_those_of_the_sources():
    field = make_galaxy_field((300, 300), 5, n_stars=2, seed=6, sky=4.0)
    at = field.segmentation[np.rint(field.truth['y']).astype(int),
                            np.rint(field.truth['x']).astype(int)]
    np.testing.assert_array_equal(at, field.truth['id'])
    outside = field.data[field.segmentation == 0]
    assert np.median(outside) == pytest.approx(4.0, abs=0.1)
