# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Pairs of images that several tests subtract.
"""

import pytest

from hyperphotutils.datasets import make_image_pair
from hyperphotutils.subtraction import ImageSubtractor


@pytest.fixture(name='pair', scope='session')
def fixture_pair():
    return make_image_pair((300, 320), seed=2)


@pytest.fixture(name='result', scope='session')
def fixture_result(pair):
    return ImageSubtractor()(pair.science, pair.template,
                             psf=pair.science_psf.image)
