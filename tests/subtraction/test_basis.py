# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the basis module.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.signal import convolve2d

from hyperphotutils.subtraction import (
    DeltaBasis,
    FixedBasis,
    GaussianPolynomialBasis,
)

RNG = np.random.default_rng(1)
BASES = [GaussianPolynomialBasis([0.8, 1.6], [3, 2], 5), DeltaBasis(2),
         FixedBasis(RNG.normal(1.0, 1.0, (3, 7, 7)))]


@pytest.mark.parametrize('basis', BASES, ids=lambda b: type(b).__name__)
class TestAll:
    def test_convolution(self, basis):
        """
        Images are convolved as scipy does, each with each function.
        """
        cutouts = RNG.normal(size=(2, 17, 15))
        expected = [[convolve2d(cutout, image, mode='valid')
                     for image in basis.images] for cutout in cutouts]
        assert_allclose(basis.convolve(cutouts), expected, atol=1e-12)

    def test_only_the_first_has_a_sum(self, basis):
        sums = basis.images.sum(axis=(1, 2))
        assert_allclose(sums[0], 1.0, rtol=1e-12)
        assert_allclose(sums[1:], 0.0, atol=1e-10)

    def test_functions_are_independent(self, basis):
        images = basis.images.reshape(basis.n_functions, -1)
        assert np.linalg.matrix_rank(images) == basis.n_functions


def test_gaussians_are_those_of_the_formula():
    basis = GaussianPolynomialBasis([1.5], [2], 6)
    v, u = np.mgrid[-6:7, -6:7]
    gaussian = np.exp(-(u**2 + v**2) / (2 * 1.5**2))
    even = gaussian / gaussian.sum()
    assert_allclose(basis.images[0], even, atol=1e-15)
    # 1, v, v^2, u, u v, u^2
    for image, factor in zip(basis.images[[1, 3, 4]], (v, u, u * v),
                             strict=True):
        ratio = image[gaussian * abs(factor) > 1e-12] / (
            (gaussian * factor)[gaussian * abs(factor) > 1e-12])
        assert_allclose(ratio, ratio[0], rtol=1e-9)
    square = gaussian * v**2
    assert_allclose(basis.images[2], square / square.sum() - even,
                    atol=1e-15)


def test_penalty_is_the_roughness_of_the_kernel():
    basis = DeltaBasis(3)
    coefficients = RNG.normal(size=basis.n_functions)
    kernel = np.tensordot(coefficients, basis.images, 1)
    laplacian = [[0, 1, 0], [1, -4, 1], [0, 1, 0]]
    rough = np.sum(convolve2d(kernel, laplacian)**2)
    assert_allclose(coefficients @ basis.penalty @ coefficients, rough)


@pytest.mark.parametrize(('make', 'match'), [
    (lambda: GaussianPolynomialBasis([1.0, -1.0], [1, 1], 3), 'sigmas'),
    (lambda: GaussianPolynomialBasis([1.0, 2.0], [1], 3), 'degrees'),
    (lambda: GaussianPolynomialBasis([1.0], [-1], 3), 'degrees'),
    (lambda: GaussianPolynomialBasis([1.0], [1], 0), 'radius'),
    (lambda: DeltaBasis(2.5), 'radius'),
    (lambda: DeltaBasis(2, smoothness=0), 'smoothness'),
    (lambda: FixedBasis(np.ones((2, 4, 4))), 'odd'),
    (lambda: FixedBasis(np.zeros((1, 3, 3))), 'must not be zero'),
    (lambda: FixedBasis(np.full((1, 3, 3), np.nan)), 'finite'),
])
def test_wrong_arguments(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_repr_is_the_call():
    text = 'GaussianPolynomialBasis(sigmas=(1.0,), degrees=(2,), radius=4)'
    assert repr(eval(text)) == text
