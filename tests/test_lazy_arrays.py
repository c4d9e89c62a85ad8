# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of images as arrays of dask and in memory-mapped files.
"""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from hyperphotutils.background import PolynomialBackground2D, local_rms
from hyperphotutils.datasets import make_blended_map, make_image_pair
from hyperphotutils.detection import HighPassStarFinder
from hyperphotutils.noise import CorrelatedNoise, clipped_rms
from hyperphotutils.photometry import HyperPhotometry
from hyperphotutils.subtraction import ImageSubtractor

FWHM = 4.0


def as_dask(values, _):
    return pytest.importorskip('dask.array').from_array(values, chunks=50)


def as_memmap(values, folder):
    path = folder / 'image.npy'
    np.save(path, values)
    return np.load(path, mmap_mode='r')


@pytest.fixture(name='values', scope='module')
def fixture_values():
    return make_blended_map((120, 120), 12, seed=1).image.data


@pytest.mark.parametrize('wrap', [as_dask, as_memmap])
@pytest.mark.parametrize('measure', [
    lambda image: HyperPhotometry(FWHM)(image)['flux_fit'],
    lambda image: HighPassStarFinder(fwhm=FWHM, n_sigma=5.0)(image)['flux'],
    lambda image: PolynomialBackground2D(image, orders=(1,)).background,
    lambda image: CorrelatedNoise.from_image(image, FWHM).rms,
    lambda image: local_rms(image, 15),
    clipped_rms], ids=['photometry', 'finder', 'background', 'noise',
                       'local rms', 'clipped rms'])
def test_maps(values, wrap, measure, tmp_path):
    """
    They give the results of arrays in memory.
    """
    assert_array_equal(measure(wrap(values, tmp_path)), measure(values))


@pytest.mark.parametrize('wrap', [as_dask, as_memmap])
def test_pairs(wrap, tmp_path):
    """
    Images to subtract can be such arrays, too.
    """
    pair = make_image_pair(shape=(128, 128), seed=1)
    subtract = ImageSubtractor()
    errors = {'error': pair.science.uncertainty.array,
              'template_error': pair.template.uncertainty.array}
    expected = subtract(pair.science.data, pair.template.data, **errors)
    found = subtract(wrap(pair.science.data, tmp_path), pair.template.data,
                     **errors)
    assert_array_equal(found.difference, expected.difference)
