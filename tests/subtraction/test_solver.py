# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the solver module.
"""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.signal import fftconvolve

from hyperphotutils.subtraction import DeltaBasis, GaussianPolynomialBasis
from hyperphotutils.subtraction.polynomials import polynomial_terms
from hyperphotutils.subtraction.solver import solve_kernel, stamp_equations

SHAPE = (400, 400)
HALF = 8


def make_stamps(n_stamps, *, order=1, noise=0.0, seed=1):
    """
    Stamps of stars, and what a known kernel makes of them.
    """
    rng = np.random.default_rng(seed)
    basis = GaussianPolynomialBasis([1.0, 2.0], [2, 0], 5)
    x, y = rng.uniform(0, 400, (2, n_stamps))
    grid = np.arange(-HALF - 5, HALF + 6)
    flux = rng.uniform(500, 5000, n_stamps)
    source = flux[:, None, None] * np.exp(
        -0.5 * (grid[:, None]**2 + grid**2) / 1.3**2)
    terms = polynomial_terms(x, y, max(order, 1), SHAPE)
    truth = rng.normal(0.0, 0.1, (terms.shape[1], basis.n_functions))
    truth[:, 0] = 0.0
    truth[0, 0] = 1.3
    background = rng.normal(0.0, 1.0, 3)
    local = terms @ truth
    target = np.einsum('si,siyx->syx', local, basis.convolve(source))
    target += (polynomial_terms(x, y, 1, SHAPE) @ background)[:, None, None]
    target += noise * rng.normal(size=target.shape)
    weight = np.full(target.shape, 1.0 / max(noise, 1.0)**2)
    return basis, source, target, weight, (x, y), truth, background


def solve(basis, source, target, weight, xy, **options):
    equations = stamp_equations(basis, source, target, weight)
    options = {'kernel_order': 1, 'scale_order': 0, 'background_order': 1,
               'penalty': basis.penalty, **options}
    return solve_kernel(equations, polynomial_terms(*xy, 3, SHAPE),
                        **options)


def test_known_kernel_is_found():
    """
    Without noise, all coefficients are found.
    """
    *data, truth, background = make_stamps(30)
    solution = solve(*data, smoothness=1e-12)
    assert_allclose(solution.coefficients, truth, atol=1e-5)
    assert_allclose(solution.background, background, atol=1e-4)
    assert_allclose(solution.scale, 1.0, atol=1e-6)


def test_equations_are_those_of_least_squares():
    basis, source, target, weight, *_ = make_stamps(3, noise=2.0)
    rng = np.random.default_rng(4)
    weight = rng.uniform(0.0, 1.0, weight.shape)
    weight[weight < 0.2] = 0.0
    equations = stamp_equations(basis, source, target, weight)
    design = np.concatenate([basis.convolve(source), np.ones_like(
        target)[:, None]], axis=1).reshape(3, basis.n_functions + 1, -1)
    flat = weight.reshape(3, 1, -1)
    assert_allclose(equations.normal, (design * flat)
                    @ design.transpose(0, 2, 1), rtol=1e-10)
    assert_allclose(equations.right, ((design * flat)
                    @ target.reshape(3, -1, 1))[..., 0], rtol=1e-10)
    assert_allclose(equations.square, np.sum(weight * target**2,
                                             axis=(1, 2)))
    assert equations.n_pixels.tolist() == np.count_nonzero(
        weight, axis=(1, 2)).tolist()


@pytest.mark.parametrize('smoothing', [None, 0.8])
def test_noise_of_the_source_is_known(smoothing):
    """
    What noise adds to the equations is what is stated, also if it is
    correlated.
    """
    rng = np.random.default_rng(5)
    basis = GaussianPolynomialBasis([1.0, 2.0], [2, 0], 7)
    kernel = None
    noise = rng.normal(0.0, 3.0, (200, 43, 43))
    if smoothing is not None:
        grid = np.arange(-7, 8)
        kernel = np.exp(-0.5 * (grid[:, None]**2 + grid**2) / smoothing**2)
        kernel /= np.sqrt(np.sum(kernel**2))
        noise = fftconvolve(noise, kernel[None], mode='same', axes=(1, 2))
    weight = np.full((200, 29, 29), 0.25)
    equations = stamp_equations(basis, noise, np.zeros(weight.shape), weight,
                                source_variance=9.0, noise_kernel=kernel)
    measured = equations.normal[:, :-1, :-1].sum(axis=0)
    stated = equations.noise.sum() * equations.noise_form
    scale = np.sqrt(np.diag(stated))
    # about 10,000 independent places: five standard errors
    assert_allclose(measured / scale / scale[:, None],
                    stated / scale / scale[:, None], atol=0.06)


@pytest.mark.parametrize(('snr', 'limit'), [
    (20, 0.01), (50, 0.003), (100, 0.001), (1000, 0.0001)])
def test_noise_of_the_source_does_not_bias_the_sum(snr, limit):
    """
    If all stars of the convolved image have a signal-to-noise ratio of
    100, the sum of the kernel is right to 0.1 per cent in the mean. With
    the noise left in, it is too small by 1 per cent, and by 5 at 20.
    """
    basis, source, target, weight, xy, truth, _ = make_stamps(100)
    # the fluxes of the stars are all the same, and the weights are 1
    flux = source.sum(axis=(1, 2), keepdims=True)
    clean = stamp_equations(basis, source / flux, target / flux, weight)
    variance = 1.0 / (snr**2 * 4.0 * np.pi * 1.3**2)
    clean.noise[:] = variance * weight.sum(axis=(1, 2))
    noisy = clean[:]
    noisy.normal = clean.normal.copy()
    noisy.normal[:, :-1, :-1] += (clean.noise[:, None, None]
                                  * clean.noise_form)
    terms = polynomial_terms(*xy, 3, SHAPE)
    sums = []
    for equations in (noisy, replace(noisy, noise=np.zeros(100))):
        solution = solve_kernel(equations, terms, kernel_order=1,
                                scale_order=0, background_order=1,
                                smoothness=1e-9)
        sums.append(solution.coefficients[0, 0] / truth[0, 0] - 1.0)
    assert abs(sums[0]) < limit
    assert abs(sums[0]) < 0.2 * abs(sums[1])


def test_chi2_needs_no_pixels():
    """
    The reduced chi squared of the equations is that of the residual.
    """
    *data, _truth, _ = make_stamps(40, noise=3.0)
    solution = solve(*data)
    basis, source, target, weight, xy = data
    local = polynomial_terms(*xy, 1, SHAPE) @ solution.coefficients
    model = np.einsum('si,siyx->syx', local, basis.convolve(source))
    model += (polynomial_terms(*xy, 1, SHAPE)
              @ solution.background)[:, None, None]
    # but for stamps in which noise looks like a change
    whole = stamp_equations(basis, source, target,
                            weight).n_pixels == weight[0].size
    assert np.count_nonzero(whole) >= 38
    assert_allclose(solution.chi2[whole], np.mean(
        weight * (target - model)**2, axis=(1, 2))[whole], rtol=1e-6)
    assert abs(solution.chi2.mean() - 1.0) < 0.05


def test_variable_stars_are_clipped():
    """
    Stars that vary are left out and do not change the flux scale.
    """
    basis, source, target, weight, xy, _truth, _ = make_stamps(60, noise=3.0)
    varies = np.arange(60) < 12
    target[varies] += 0.5 * (target[varies] - 1.0)
    solution = solve(basis, source, target, weight, xy)
    assert np.all(solution.weight[varies] == 0.0)
    assert np.count_nonzero(solution.weight[~varies]) > 44
    # five times the noise of the 48 others
    assert abs(solution.coefficients[0, 0] / 1.3 - 1.0) < 5e-3


@pytest.mark.parametrize('change', [0.5, 1.17])
@pytest.mark.parametrize('basis', [None, DeltaBasis(5)])
def test_bright_variable_star_does_not_lead(basis, change):
    """
    The brightest of few stars, with nearly all information about the
    kernel, varies: the kernel is still that of the others.
    """
    for seed in range(1, 6):
        own, source, target, weight, xy, *_ = make_stamps(
            20, noise=20.0, seed=seed)
        source[0] *= 300.0
        target[0] *= 300.0 * change
        solution = solve(basis or own, source, target, weight, xy,
                         kernel_order=(0, 1))
        assert solution.weight[0] == 0.0
        assert np.count_nonzero(solution.weight) >= 18
        # five times the noise of the others
        assert abs(solution.coefficients[0, 0] / 1.3 - 1.0) < 5e-3


@pytest.mark.parametrize('factor', [1.0, 10.0])
def test_change_beside_a_star(factor):
    """
    A new source in the stamp of the brightest star costs its pixels, not
    the star, also if the errors are too small.
    """
    basis, source, target, weight, xy, *_ = make_stamps(12)
    source[0] *= 30.0
    target[0] *= 30.0
    target += np.random.default_rng(2).normal(0.0, 20.0, target.shape)
    weight *= factor / 20.0**2
    clean = stamp_equations(basis, source, target, weight)
    assert np.all(clean.n_pixels == weight[0].size)
    grid = np.arange(-HALF, HALF + 1)
    target[0] += 600.0 * np.exp(-0.5 * ((grid[:, None] - 5)**2
                                        + (grid + 5)**2) / 1.5**2)
    equations = stamp_equations(basis, source, target, weight)
    assert 50 < weight[0].size - equations.n_pixels[0] < 150
    assert np.all(equations.n_pixels[1:] == weight[0].size)
    solution = solve(basis, source, target, weight, xy, smoothness=1e-6)
    assert solution.weight[0] == 1.0
    # the new source has several per cent of the light of the star
    assert abs(solution.coefficients[0, 0] / 1.3 - 1.0) < 5e-3


def test_sum_has_its_error():
    """
    The scatter of the kernel's sum is the stated error.
    """
    pulls = []
    for seed in range(40):
        *data, _, _ = make_stamps(15, noise=20.0, seed=seed)
        solution = solve(*data, smoothness=1e-6)
        pulls.append((solution.coefficients[0, 0] - 1.3)
                     / solution.scale_error)
    # three standard errors of a standard deviation of 40
    assert 0.66 < np.std(pulls) < 1.34


@pytest.mark.parametrize('order', [0, 1, 2])
def test_order_is_chosen(order):
    *data, _, _ = make_stamps(80, order=order, noise=3.0)
    if order == 0:
        data[2] = data[2].copy()
        basis, source, target, _weight, _xy, truth, _ = make_stamps(
            80, order=1, noise=3.0)
        model = np.tensordot(truth[0], basis.convolve(source), (0, 1))
        data[2] = model + np.random.default_rng(3).normal(
            0.0, 3.0, target.shape)
    assert solve(*data, kernel_order=(0, 1, 2, 3)).order == order


def test_smoothness_of_delta_functions():
    """
    A larger weight of the penalty makes a smoother kernel.
    """
    _, source, target, weight, xy, *_ = make_stamps(20, noise=20.0)
    basis = DeltaBasis(4)
    source = source[:, 1:-1, 1:-1]
    rough = []
    for smoothness in (1e-6, 1e-3, 1e-1):
        solution = solve(basis, source, target, weight, xy, kernel_order=0,
                         smoothness=smoothness)
        kernel = solution.coefficients[0]
        rough.append(kernel @ basis.penalty @ kernel)
    assert rough[0] > rough[1] > rough[2]


def test_singular_equations():
    """
    Functions that repeat each other do not make the fit fail.
    """
    basis, source, target, weight, xy, *_ = make_stamps(10)
    equations = stamp_equations(basis, source, target, weight)
    twice = np.r_[:basis.n_functions, 1, basis.n_functions]
    equations.normal = equations.normal[:, twice][:, :, twice]
    equations.right = equations.right[:, twice]
    equations.noise_form = equations.noise_form[twice[:-1]][:, twice[:-1]]
    solution = solve_kernel(
        equations, polynomial_terms(*xy, 1, SHAPE), kernel_order=1,
        scale_order=0, background_order=1, smoothness=1e-300)
    assert_allclose(solution.coefficients[0, 0], 1.3, rtol=1e-4)
