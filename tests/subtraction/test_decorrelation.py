# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the decorrelation and the correlation module.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve

from hyperphotutils.subtraction import SpatialKernel
from hyperphotutils.subtraction.correlation import (
    measure_noise_kernel,
    shared_noise,
    sky_noise,
)
from hyperphotutils.subtraction.decorrelation import (
    Decorrelation,
    whitening_kernel,
)
from hyperphotutils.subtraction.frames import Frame, NoiseGrid

GRID = np.arange(-15, 16)


def gaussian(sigma, total=1.0):
    image = np.exp(-0.5 * (GRID[:, None]**2 + GRID**2) / sigma**2)
    return total * image / image.sum()


def autocorrelation(image):
    return fftconvolve(image, image[::-1, ::-1])


def test_whitened_noise_is_white():
    """
    After the whitening the covariance of neighbors, which is known in
    closed form, vanishes, and the variance is that of large scales.
    """
    kernel = gaussian(1.5, 1.3)
    phi = whitening_kernel(kernel[None], [4.0], [9.0])[0]
    assert_allclose(phi.sum(), 1.0)
    covariance = (4.0 * autocorrelation(phi)
                  + 9.0 * autocorrelation(fftconvolve(phi, kernel,
                                                      mode='same')))
    middle = covariance.shape[0] // 2
    total = 4.0 + 1.3**2 * 9.0
    assert_allclose(covariance[middle, middle], total, rtol=5e-3)
    covariance[middle, middle] = 0.0
    assert np.abs(covariance).max() < 5e-3 * total


def test_correlated_noise_of_the_images():
    """
    Noise that is correlated in both images becomes white, too.
    """
    kernel, smooth = gaussian(1.5, 0.8), gaussian(0.6)
    smooth /= np.sqrt(np.sum(smooth**2))
    phi = whitening_kernel(kernel[None], [4.0], [9.0], target_kernel=smooth,
                           source_kernel=smooth)[0]
    covariance = sum(
        variance * autocorrelation(fftconvolve(
            fftconvolve(phi, image, mode='same'), smooth, mode='same'))
        for variance, image in ((4.0, gaussian(0.05)), (9.0, kernel)))
    middle = covariance.shape[0] // 2
    peak = covariance[middle, middle]
    covariance[middle, middle] = 0.0
    assert np.abs(covariance).max() < 0.02 * peak


def test_errors_of_psf_fluxes():
    """
    The error of a PSF flux by the formula for white noise is the exact
    one, also where the noise of one image is much more than in the sky.
    """
    shape = (200, 200)
    kernel = gaussian(1.5, 1.2)
    psf = gaussian(2.0)
    noise = NoiseGrid(np.full((7, 7), 4.0), np.full((7, 7), 9.0), shape)
    decorrelation = Decorrelation(SpatialKernel(kernel[None], shape), noise,
                                  SpatialKernel(psf[None], shape))
    _, target, source = decorrelation.tiled()
    phi = decorrelation(100.0, 100.0)
    point = fftconvolve(psf, phi)
    norm = np.sum(point**2)
    for tiled, image in ((target, phi),
                         (source, fftconvolve(phi, kernel, mode='same'))):
        exact = np.sum(fftconvolve(point, image[::-1, ::-1])**2) / norm**2
        pixel = tiled(np.ones((2 * tiled.radius + 1,) * 2), 0, 0)[0, 0]
        assert_allclose(pixel / norm, exact, rtol=5e-3)


@pytest.mark.parametrize('sigma', [0.0, 0.6, 0.9])
def test_noise_kernel_is_measured(sigma):
    """
    The covariance of neighbors is found again beside stars and a slope.
    """
    rng = np.random.default_rng(2)
    image = rng.normal(size=(400, 420))
    if sigma:
        image = gaussian_filter(image, sigma)
        image /= image.std()
    expected = [np.mean(image * np.roll(image, shift, (0, 1)))
                for shift in ((0, 1), (1, 1), (2, 0))]
    yy, xx = np.mgrid[:400, :420]
    for x, y in rng.uniform(0, 400, (40, 2)):
        image += 50.0 * np.exp(-0.5 * ((xx - x)**2 + (yy - y)**2) / 4.0)
    image += 0.02 * xx
    frame = Frame(image, np.ones(image.shape), None, 'image')
    kernel, nearest, power = measure_noise_kernel(*sky_noise(frame))
    covariance = autocorrelation(kernel)
    middle = covariance.shape[0] // 2
    measured = [covariance[middle + dy, middle + dx]
                for dy, dx in ((0, 1), (1, 1), (2, 0))]
    assert_allclose(measured, expected, atol=0.04)
    assert_allclose(nearest, expected[0], atol=0.04)
    assert_allclose(power, 1.0, atol=0.05)


def test_unresolved_light_is_no_correlation():
    """
    Smooth light of a third of the variance of the noise correlates
    neighbors by more than a tenth, but the noise is white.
    """
    rng = np.random.default_rng(3)
    light = gaussian_filter(rng.normal(size=(300, 300)), 1.8)
    light *= np.sqrt(0.35) / np.std(light)
    noise = rng.normal(size=light.shape)
    for size, correlated in ((1.0, False), (np.sqrt(1.35), True)):
        frame = Frame(100.0 + noise + light, np.full(light.shape, size),
                      None, 'science')
        _, nearest, power = measure_noise_kernel(*sky_noise(frame))
        assert_allclose(power * size**2, 1.3, atol=0.1)
        assert (nearest > 0.1) is correlated


def test_crowded_field_has_no_noise_kernel():
    """
    The light of unresolved sources is not taken for correlated noise.
    """
    rng = np.random.default_rng(2)
    image = rng.normal(size=(200, 200))
    confusion = gaussian_filter(rng.normal(size=(200, 200)), 2.0)
    image += 5.0 * confusion / confusion.std()
    frame = Frame(image, np.ones(image.shape), None, 'image')
    assert measure_noise_kernel(*sky_noise(frame))[0] is None


@pytest.mark.parametrize(('n_parts', 'expected'), [
    (1, 1.0), (4, 0.5), (9, 1.0 / 3.0)])
def test_noise_of_a_stack_is_shared(n_parts, expected):
    """
    An image has a part of its noise in common with a stack that it is in, and
    none with other stacks.
    """
    rng = np.random.default_rng(4)
    parts = rng.normal(size=(n_parts, 200, 210))
    stack = parts.mean(axis=0)
    others = rng.normal(size=stack.shape)
    error = np.ones(stack.shape)
    first, second, third = (sky_noise(Frame(image + 100.0, size * error,
                                            None, 'image'))
                            for image, size in ((parts[0], 1.0),
                                                (stack, n_parts**-0.5),
                                                (others, 1.0)))
    assert_allclose(shared_noise(first, second), expected, atol=0.03)
    assert_allclose(shared_noise(first, third), 0.0, atol=0.03)


@pytest.mark.parametrize('size', [1.0, np.sqrt(2.0)])
def test_unresolved_light_is_no_shared_noise(size):
    """
    Light that both images show is not taken for their noise, whether the
    errors are those of the noise or of the scatter.
    """
    rng = np.random.default_rng(3)
    light = gaussian_filter(rng.normal(size=(300, 300)), 1.5)
    light /= np.std(light)
    images = [sky_noise(Frame(
        100.0 + light + rng.normal(size=light.shape),
        np.full(light.shape, size), None, 'image')) for _ in range(2)]
    assert abs(shared_noise(*images)) < 0.1
