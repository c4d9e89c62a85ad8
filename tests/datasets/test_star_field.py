# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of simulated star fields.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from hyperphotutils.datasets import make_star_field


def test_same_seed_same_field():
    first, second, other = (
        make_star_field((100, 120), 5, n_galaxies=2, n_cosmic_rays=3,
                        neighbor_fraction=0.5, seed=seed)
        for seed in (1, 1, 2))
    assert np.array_equal(first.data, second.data)
    assert not np.array_equal(first.data, other.data)
    assert first.data.shape == (100, 120)
    kinds = list(first.truth['kind'])
    assert kinds.count('star') == 5
    assert kinds.count('galaxy') == 2


def test_noise_is_as_stated():
    """
    What is left without sources and cosmic rays is noise of the stated
    error.
    """
    field = make_star_field((150, 150), 4, snr=(50, 50), variation=1.0,
                            sky=3.0, n_cosmic_rays=5, seed=3)
    model = np.full(field.data.shape, 3.0)
    yy, xx = np.mgrid[:150, :150]
    for row in field.truth:
        psf = field.psf(row['x'], row['y'], size=51)
        # rendered here at the nearest pixel only: keep away from cores
        column, line = round(row['x']), round(row['y'])
        near = np.hypot(xx - column, yy - line) < 12
        model[near] = np.nan
        assert_allclose(psf.sum(), 1.0, atol=0.03)
    pull = ((field.data - model) / field.error)[~field.cosmic_rays]
    pull = pull[np.isfinite(pull)]
    assert_allclose(pull.std(), 1.0, atol=0.03)
    assert_allclose(pull.mean(), 0.0, atol=0.05)


def test_psf_varies_only_if_asked():
    constant = make_star_field((100, 100), 1, seed=0)
    assert np.array_equal(constant.psf(5, 5), constant.psf(90, 90))
    varying = make_star_field((100, 100), 1, variation=1.0, seed=0)
    ratio = varying.psf(95, 5).max() / varying.psf(50, 50).max()
    assert ratio < 0.9


@pytest.mark.parametrize('name', ['fwhm', 'noise', 'gain'])
def test_arguments_are_checked(name):
    with pytest.raises(ValueError, match=name):
        make_star_field((50, 50), 1, **{name: 0.0})
