# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of images of Sersic profiles and of their derivatives.
"""

import numpy as np
import pytest
from astropy.nddata import NDData
from astropy.utils.exceptions import AstropyUserWarning
from photutils.psf import CircularGaussianPRF, GriddedPSFModel, ImagePSF
from scipy.special import kv

from hyperphotutils.galaxy import SersicRenderer, sersic_transform
from hyperphotutils.galaxy.render import coordinates_of, make_kernel, render
from hyperphotutils.galaxy.transforms import sample_psf
from hyperphotutils.psf import EmpiricalPSF

FWHM = 3.0
GALAXY = {'flux': 1.0, 'x': 31.7, 'y': 31.2, 'r_eff': 3.0, 'n': 2.0,
          'q': 0.6, 'theta': 40.0}


def moffat_transform(kx, ky):
    """
    Moffat PSF with beta 3, integrated over the pixels.
    """
    beta = 3.0
    alpha = 0.5 * FWHM / np.sqrt(2.0**(1.0 / beta) - 1.0)
    z = np.maximum(2.0 * np.pi * alpha * np.hypot(kx, ky), 1e-8)
    return 2.0 * (0.5 * z)**(beta - 1.0) * kv(beta - 1.0, z) * (
        np.sinc(kx) * np.sinc(ky))


def exact_image(size, x, y, r_eff, n, q, theta, side=400):
    """
    The inverse transform of the exact transforms, with aliases.
    """
    offset = (side - size) // 2
    frequency = np.fft.fftfreq(side)
    total = 0.0
    transform = sersic_transform(n)
    cos, sin = np.cos(np.deg2rad(theta)), np.sin(np.deg2rad(theta))
    for shift_y in (-1, 0, 1):
        for shift_x in (-1, 0, 1):
            kx, ky = frequency + shift_x, (frequency + shift_y)[:, None]
            along, across = kx * cos + ky * sin, ky * cos - kx * sin
            total = total + moffat_transform(kx, ky) * np.exp(
                -2j * np.pi * (kx * (x + offset) + ky * (y + offset))
            ) * transform(2.0 * np.pi * r_eff * np.hypot(along, q * across))
    part = slice(offset, offset + size)
    return np.fft.ifft2(total).real[part, part]


@pytest.fixture(scope='module')
def moffat():
    """
    The effective PSF, sampled twice a pixel.
    """
    side, half = 513, 50
    frequency = 2.0 * np.fft.fftfreq(side)
    image = np.fft.fftshift(np.fft.ifft2(moffat_transform(
        frequency, frequency[:, None])).real)
    part = slice(side // 2 - half, side // 2 + half + 1)
    image = image[part, part]
    return ImagePSF(4.0 * image / image.sum(), oversampling=2)


@pytest.fixture(scope='module')
def kernel(moffat):
    """
    The kernel of stamps of 64 pixels.
    """
    return make_kernel(moffat, 64)


@pytest.mark.parametrize(('r_eff', 'n', 'q', 'theta'), [
    (0.5, 1.0, 1.0, 0.0), (0.5, 8.0, 0.4, 30.0), (1.0, 4.0, 0.7, 100.0),
    (3.0, 0.7, 0.3, 60.0), (3.0, 2.5, 0.1, 170.0), (8.0, 1.0, 0.5, 45.0),
    (8.0, 6.0, 0.8, 20.0), (15.0, 4.0, 0.9, 0.0),
    # thin and large
    (4.5, 4.0, 0.1, 70.0), (8.0, 2.0, 0.1, 0.0), (15.0, 1.0, 0.1, 130.0),
    (15.0, 0.5, 0.3, 10.0), (15.0, 8.0, 0.1, 45.0)])
def test_image_is_the_exact_convolution(kernel, r_eff, n, q, theta):
    """
    To 5e-4 of the peak, cusps within a pixel included.
    """
    coords = coordinates_of(31.7, 31.2, r_eff, n, q, np.deg2rad(theta))
    image = render(kernel, coords)[0]
    truth = exact_image(64, 31.7, 31.2, r_eff, n, q, theta)
    assert np.abs(image - truth).max() < 5e-4 * truth.max()


def test_star_is_the_psf(moffat):
    renderer = SersicRenderer(moffat, 32)
    image = renderer(flux=2.0, x=16.0, y=16.0, r_eff=0.0, n=1.0)
    y, x = np.mgrid[:32, :32]
    truth = moffat.evaluate(x, y, 2.0, 16.0, 16.0)
    np.testing.assert_allclose(image[8:25, 8:25], truth[8:25, 8:25],
                               atol=1e-4 * truth.max())


def test_derivatives_are_those_of_the_image(kernel):
    """
    By differences, for a narrow, a wide, an elongated source, and one that
    is thin and large.
    """
    coords = coordinates_of([30.3, 31.0, 32.2, 31.1], [32.1, 31.5, 31.0, 30],
                            [0.7, 3.0, 12.0, 9.0], [2.0, 4.0, 1.1, 2.0],
                            [0.5, 0.3, 0.9, 0.15], [0.5, 1.0, 2.0, 1.2])
    images = render(kernel, coords, derivatives=True)
    step = 1e-5

    def difference(i):
        up, down = coords.copy(), coords.copy()
        up[:, i] += step
        down[:, i] -= step
        return (render(kernel, up) - render(kernel, down)) / (2.0 * step)

    def matrix(g1, g2):
        size = np.hypot(g1, g2)
        factor = np.sinh(size) / size
        return np.array([np.cosh(size) + factor * g1, factor * g2,
                         np.cosh(size) - factor * g1]).T

    g1, g2 = coords[:, 3], coords[:, 4]
    by_g1, by_g2 = (
        (matrix(g1 + a, g2 + b) - matrix(g1 - a, g2 - b)) / (2.0 * step)
        for a, b in ((step, 0.0), (0.0, step)))

    def chain(factors):
        return np.einsum('bi,biyx->byx', factors, images[:, 3:6])

    analytic = {0: images[:, 1], 1: images[:, 2],
                2: chain(2.0 * matrix(g1, g2)), 3: chain(by_g1),
                4: chain(by_g2), 5: images[:, 6]}
    np.testing.assert_allclose(images[:, 0], render(kernel, coords),
                               atol=1e-15)
    for i, value in analytic.items():
        scale = np.abs(value).max(axis=(1, 2), keepdims=True)
        assert np.abs((difference(i) - value) / scale).max() < 1e-6, i


def test_single_precision_is_near(moffat):
    coords = coordinates_of([31.7, 30.0], [31.2, 33.0], [2.0, 9.0],
                            [4.0, 1.0], 0.5, 1.0)
    exact, single = (
        render(make_kernel(moffat, 64, dtype=dtype), coords,
               derivatives=True) for dtype in ('float64', 'float32'))
    assert single.dtype == np.float32
    scale = np.abs(exact).max(axis=(2, 3), keepdims=True)
    assert np.abs((single - exact) / scale).max() < 2e-5


@pytest.mark.parametrize('library', ['array_api_strict',
                                     'array_api_compat.torch'])
def test_other_array_libraries_give_the_same(moffat, library):
    xp = pytest.importorskip(library)
    coords = coordinates_of([15.7, 14.0, 15.0], [15.2, 17.0, 14.2],
                            [2.0, 5.0, 6.0], [4.0, 1.0, 2.0],
                            [0.5, 0.5, 0.2], 1.0)
    expected = render(make_kernel(moffat, 32), coords, derivatives=True)
    given = xp.asarray(coords)
    found = render(make_kernel(moffat, 32, xp=xp), given, derivatives=True)
    assert isinstance(found, type(given))
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-12)


def test_scalars_give_an_image_and_arrays_a_stack(moffat):
    renderer = SersicRenderer(moffat, 64)
    single = renderer(**GALAXY)
    several = renderer(**(GALAXY | {'flux': [1.0, 3.0]}))
    assert single.shape == (64, 64)
    np.testing.assert_allclose(several, [single, 3.0 * single], atol=1e-15)


@pytest.mark.parametrize('kind', ['array', 'model', 'oversampled',
                                  'empirical', 'gridded'])
def test_all_kinds_of_psf_are_the_same(kind):
    """
    A Gaussian PSF, however it is given, gives the same galaxy.
    """
    model = CircularGaussianPRF(fwhm=FWHM)

    def image(oversampling):
        half = 20 * oversampling
        y, x = np.mgrid[-half:half + 1, -half:half + 1] / oversampling
        return model.evaluate(x, y, 1.0, 0.0, 0.0, FWHM)

    psf = {'array': image(1), 'model': model,
           'oversampled': ImagePSF(image(3), oversampling=3),
           'empirical': EmpiricalPSF(image(1)),
           'gridded': GriddedPSFModel(NDData(
               np.stack([image(1)] * 4), meta={
                   'grid_xypos': [(0, 0), (0, 99), (99, 0), (99, 99)],
                   'oversampling': 1}))}[kind]
    expected = SersicRenderer(image(3)[::3, ::3], 64)(**GALAXY)
    found = SersicRenderer(psf, 64)(**GALAXY)
    assert np.abs(found - expected).max() < 2e-4 * expected.max()


def test_faults_of_a_psf_are_named():
    good = np.zeros((9, 9))
    good[4, 4] = 1.0
    with pytest.raises(ValueError, match='psf has an even size'):
        sample_psf(np.ones((10, 10)))
    with pytest.raises(ValueError, match='psf must be finite'):
        sample_psf(np.full((9, 9), np.nan))
    with pytest.raises(ValueError, match='positive sum'):
        sample_psf(np.zeros((9, 9)))
    with pytest.raises(TypeError, match='read_psf'):
        sample_psf('image.psf')
    with pytest.raises(TypeError, match='psf must be a 2D array'):
        sample_psf(np.ones(5))
    with pytest.warns(AstropyUserWarning, match='has the sum 2'):
        samples, _ = sample_psf(2.0 * good)
    assert samples.sum() == pytest.approx(1.0)
    with pytest.warns(AstropyUserWarning, match=r'\(1\.00, 0\.00\) pixels'):
        sample_psf(np.roll(good, 1, axis=1))
    with pytest.raises(ValueError, match='size must be at least 8'):
        SersicRenderer(good, 4)
