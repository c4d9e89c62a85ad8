# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
A star field with galaxies, neighbors, and cosmic rays, and its PSF.
"""

import pytest

from hyperphotutils.datasets import make_star_field
from hyperphotutils.psf import EmpiricalPSFBuilder, StarSelector

SIZE = 25


@pytest.fixture(scope='session')
def field():
    return make_star_field((320, 320), 30, n_galaxies=12, n_cosmic_rays=15,
                           neighbor_fraction=0.2, sky=7.0, seed=3)


@pytest.fixture(scope='session')
def stars(field):
    return StarSelector(3.0)(field.data, error=field.error)


@pytest.fixture(scope='session')
def psf(field, stars):
    builder = EmpiricalPSFBuilder(SIZE, order=0)
    return builder(field.data, stars, error=field.error)
