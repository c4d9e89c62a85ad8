# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fixtures of the tests of galaxies.
"""

import pytest

from hyperphotutils.datasets import make_galaxy_field
from hyperphotutils.galaxy import SersicFitter


@pytest.fixture(scope='session')
def field():
    """
    Galaxies and stars, some of them near to each other.
    """
    return make_galaxy_field((300, 300), 14, n_stars=4, seed=5, sky=3.0,
                             separation=14.0)


@pytest.fixture(scope='session')
def fitted(field):
    """
    A fitter and its table of the galaxies of the field.
    """
    fitter = SersicFitter(field.psf)
    table = fitter(field.data, error=field.error,
                   init_params=field.truth['id', 'x', 'y'],
                   segmentation=field.segmentation)
    return fitter, table
