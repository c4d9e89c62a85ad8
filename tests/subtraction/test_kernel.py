# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the kernel module.
"""

import astropy.units as u
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.signal import convolve2d

from hyperphotutils.subtraction import RegionKernel, SpatialKernel
from hyperphotutils.subtraction.tiling import cut, tiles

RNG = np.random.default_rng(5)
SHAPE = (45, 62)
PLACES = [(0, 0), (61, 0), (0, 44), (30, 20), (57, 41)]


@pytest.fixture(name='kernel')
def fixture_kernel():
    return SpatialKernel(RNG.normal(size=(6, 7, 7)), SHAPE)


def test_each_pixel_has_its_own_kernel(kernel):
    """
    A pixel is what scipy gives with the kernel at its place, so that
    neither x and y nor the orientation are mixed up.
    """
    image = RNG.normal(size=SHAPE)
    convolved = kernel.convolve(image)
    for x, y in PLACES:
        expected = convolve2d(image, kernel(x, y), mode='same')[y, x]
        assert_allclose(convolved[y, x], expected, rtol=1e-10)


def test_single_precision(kernel):
    image = RNG.normal(size=SHAPE)
    single = kernel.convolve(image.astype(np.float32))
    assert single.dtype == np.float32
    scale = np.abs(kernel.terms).sum()
    assert_allclose(single, kernel.convolve(image), rtol=0,
                    atol=1e-5 * scale)


def test_variances_take_the_square(kernel):
    variance = RNG.uniform(1.0, 2.0, SHAPE)
    convolved = kernel.convolve_variance(variance)
    for x, y in PLACES:
        expected = convolve2d(variance, kernel(x, y)**2, mode='same')[y, x]
        assert_allclose(convolved[y, x], expected, rtol=1e-6)


def test_tiles_change_nothing(kernel):
    image = RNG.normal(size=SHAPE)
    tiled = kernel.tiled()
    out = np.full(SHAPE, np.nan)
    for y0, y1, x0, x1 in tiles(SHAPE, 16):
        part = cut(image, y0 - 3, y1 + 3, x0 - 3, x1 + 3, fill=0.0)
        out[y0:y1, x0:x1] = tiled(part, y0, x0)
    assert_allclose(out, kernel.convolve(image), atol=1e-10)


def test_sum(kernel):
    assert_allclose(kernel.sum(10, 30), kernel(10, 30).sum())
    assert_allclose(kernel.sum([1, 2], [3, 4]),
                    kernel([1, 2], [3, 4]).sum(axis=(1, 2)))


def test_mosaic(kernel):
    mosaic = kernel.image((2, 3))
    assert mosaic.shape == (14, 21)
    x, y = (np.array([2, 0]) + 0.5) / [3, 2] * [62, 45] - 0.5
    assert_allclose(mosaic[:7, 14:], kernel(x, y))


def test_file(kernel, tmp_path):
    kernel.write(tmp_path / 'kernel.fits')
    again = SpatialKernel.read(tmp_path / 'kernel.fits')
    assert_array_equal(again.terms, kernel.terms)
    assert again.shape == kernel.shape
    with pytest.raises(OSError, match='exists'):
        kernel.write(tmp_path / 'kernel.fits')


def test_units(kernel):
    image = RNG.normal(size=SHAPE)
    assert_array_equal(kernel.convolve(image << u.Jy).value,
                       kernel.convolve(image))
    assert kernel.convolve(image << u.Jy).unit == u.Jy


@pytest.mark.parametrize(('image', 'match'), [
    (np.ones((3, 3)), 'shape of the kernel'),
    (np.full(SHAPE, np.nan), 'finite'),
])
def test_wrong_images(kernel, image, match):
    with pytest.raises(ValueError, match=match):
        kernel.convolve(image)


@pytest.mark.parametrize(('terms', 'match'), [
    (np.ones((2, 3, 3)), '1, 3, 6'),
    (np.ones((1, 4, 4)), 'odd'),
])
def test_wrong_terms(terms, match):
    with pytest.raises(ValueError, match=match):
        SpatialKernel(terms, SHAPE)


class TestRegions:
    @pytest.fixture(name='regions')
    def fixture_regions(self):
        return RegionKernel(
            [SpatialKernel(RNG.normal(size=(n_terms, 7, 7)), SHAPE)
             for n_terms in (1, 3, 6, 1, 3, 3)], (2, 3))

    def test_each_region_has_its_kernel(self, regions):
        for number, (x, y) in enumerate(
                [(5, 5), (30, 8), (57, 5), (5, 40), (30, 40), (57, 40)]):
            assert_allclose(regions(x, y), regions.kernels[number](x, y))

    def test_kernels_are_blended(self, regions):
        """
        On a border the kernel is the mean of both, and it is continuous.
        """
        border = 62 / 3 - 0.5
        expected = 0.5 * (regions.kernels[0](border, 5)
                          + regions.kernels[1](border, 5))
        assert_allclose(regions(border, 5), expected)
        x = np.linspace(0, 61, 2000)
        weights = regions.weights(x, 21.0)
        assert_allclose(weights.sum(axis=0), 1.0)
        assert np.abs(np.diff(weights)).max() < 0.01

    def test_each_pixel_has_its_own_kernel(self, regions):
        image = RNG.normal(size=SHAPE)
        convolved = regions.convolve(image)
        for x, y in [*PLACES, (20, 22), (22, 21), (41, 5)]:
            expected = convolve2d(image, regions(x, y), mode='same')[y, x]
            assert_allclose(convolved[y, x], expected, rtol=1e-9)
        assert_allclose(regions.sum(20, 22), regions(20, 22).sum())

    def test_variances(self, regions):
        variance = RNG.uniform(1.0, 2.0, SHAPE)
        convolved = regions.convolve_variance(variance)
        for x, y in [(5, 5), (30, 40)]:
            expected = convolve2d(variance, regions(x, y)**2,
                                  mode='same')[y, x]
            assert_allclose(convolved[y, x], expected, rtol=1e-6)

    def test_file(self, regions, tmp_path):
        regions.write(tmp_path / 'kernel.fits')
        again = SpatialKernel.read(tmp_path / 'kernel.fits')
        assert again.n_regions == (2, 3)
        assert_allclose(again([3, 20], [5, 22]), regions([3, 20], [5, 22]))

    @pytest.mark.parametrize(('sizes', 'match'), [
        ((3,), '1 x 2'), ((3, 5), 'same radius')])
    def test_wrong_kernels(self, sizes, match):
        with pytest.raises(ValueError, match=match):
            RegionKernel([SpatialKernel(np.ones((1, size, size)), SHAPE)
                          for size in sizes], (1, 2))
