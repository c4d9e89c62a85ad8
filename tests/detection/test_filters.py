# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the filters module.
"""

import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.convolution import Box2DKernel, Gaussian2DKernel, convolve
from astropy.utils.exceptions import AstropyUserWarning
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import distance_transform_edt

from hyperphotutils.detection import (
    HighPassStarFinder,
    edges,
    filters,
    high_pass_filter,
)
from hyperphotutils.detection.edges import LocalSlopes

KERNELS = [('gaussian', None), ('gaussian', 11), ('box', None), ('box', 7)]


def astropy_mean(data, kernel):
    """
    Return the mean over valid pixels, calculated by astropy.
    """
    size = kernel.shape[0] // 2
    padded = np.pad(data, size, constant_values=np.nan)
    with warnings.catch_warnings():
        # about the padding, which has nothing to interpolate from
        warnings.simplefilter('ignore', AstropyUserWarning)
        mean = convolve(padded, kernel, boundary='fill', fill_value=np.nan,
                        nan_treatment='interpolate')
    return mean[size:-size, size:-size]


def gaussian_kernel(sigma):
    """
    Return a Gaussian cut at 4 sigma.
    """
    return Gaussian2DKernel(sigma, x_size=2 * int(4 * sigma + 0.5) + 1)


def make_data():
    """
    Return noise with a slope and bad pixels, and a mask.
    """
    rng = np.random.default_rng(5)
    data = rng.normal(100.0, 1.0, (50, 61)) + np.arange(61)
    data[20:24, 30:33] = np.nan
    data[0, 7] = np.inf
    mask = np.zeros(data.shape, dtype=bool)
    mask[40:, :5] = True
    return data, mask


def ragged_mask(shape):
    """
    Return a mask of a ragged margin and of some single pixels.
    """
    y, x = np.indices(shape)
    rng = np.random.default_rng(2)
    mask = y < 9 + 4 * np.sin(x / 5.0) + rng.integers(0, 3, shape[1])
    mask |= x > shape[1] - 6 - 3 * np.sin(y / 4.0)
    mask[40, 20] = mask[30:32, 25] = True
    return mask


@pytest.fixture
def no_slopes(monkeypatch):
    """
    Leave only the averages.
    """
    monkeypatch.setattr(LocalSlopes, 'at', lambda *_: np.zeros(2))


@pytest.mark.usefixtures('no_slopes')
@pytest.mark.parametrize('size', [7, 11])
def test_gaussian_agrees_with_astropy(size):
    """
    The difference of the means over valid pixels, at the borders too.
    """
    fwhm = 4.0
    data, mask = make_data()
    filtered = high_pass_filter(data, fwhm, mask=mask, kernel_size=size)
    data[mask | ~np.isfinite(data)] = np.nan
    broad = gaussian_kernel(np.sqrt((size**2 - 1) / 12))
    expected = (astropy_mean(data, gaussian_kernel(0.25 * fwhm))
                - astropy_mean(data, broad))
    valid = np.isfinite(data)
    assert_allclose(filtered[valid], expected[valid], atol=1.0e-9)
    assert np.isnan(filtered[~valid]).all()


@pytest.mark.usefixtures('no_slopes')
@pytest.mark.parametrize(('kernel_size', 'size'), [(5, 5), (None, 9)])
def test_box_agrees_with_astropy(kernel_size, size):
    """
    The image minus the mean of the valid pixels of the box.
    """
    data, mask = make_data()
    filtered = high_pass_filter(data, 4.4, mask=mask, kernel='box',
                                kernel_size=kernel_size)
    data[mask | ~np.isfinite(data)] = np.nan
    expected = data - astropy_mean(data, Box2DKernel(size))
    assert_allclose(filtered, expected, atol=1.0e-9)


@pytest.mark.parametrize(('kernel', 'kernel_size'), KERNELS)
def test_constant_leaves_nothing(kernel, kernel_size):
    """
    A constant vanishes, next to borders and masked pixels too.
    """
    data = np.full((40, 40), 1.0e6)
    data[10:20, :15] = np.nan
    filtered = high_pass_filter(data, 3.3, kernel=kernel,
                                kernel_size=kernel_size)
    assert np.nanmax(np.abs(filtered)) < 1.0e-8
    assert_array_equal(np.isnan(filtered), np.isnan(data))


@pytest.mark.parametrize('slope', [(3.0, 0.0), (-2.0, 10.0)])
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize(('kernel', 'kernel_size'), KERNELS)
def test_plane_leaves_nothing(kernel, kernel_size, masked, slope):
    """
    A plane vanishes at the borders, along a ragged margin, and next to
    single masked pixels, too.
    """
    y, x = np.mgrid[:70, :60]
    data = slope[0] * x + slope[1] * y
    mask = ragged_mask(data.shape) if masked else None
    filtered = high_pass_filter(data, 3.3, mask=mask, kernel=kernel,
                                kernel_size=kernel_size)
    assert np.nanmax(np.abs(filtered)) < 1.0e-9


def test_curved_background_leaves_less_at_the_border_than_inside():
    """
    Half a cloud at the border has no higher peak than a whole one.
    """
    y, x = np.mgrid[:160, :160]
    whole, half = (
        high_pass_filter(np.exp(-0.5 * ((x - 80)**2 + (y - y_0)**2) / 15**2),
                         4.0) for y_0 in (80, -10))
    assert half.max() < 1.4 * whole.max()


def test_sources_at_the_border_keep_their_height():
    """
    They are not taken for slopes: a beam on the border is as high after
    the filter as one inside, within a quarter, and nothing else is.
    """
    for shift in ((0, 30), (0, 0), (30, 59), (2, 57)):
        height = beam_after_filter(*shift)
        assert_allclose(height[shift], beam_after_filter(30, 30)[30, 30],
                        rtol=0.25)
        y, x = np.indices(height.shape)
        far = np.hypot(x - shift[1], y - shift[0]) > 5.0
        assert height[far].max() < 1.0e-3 * height[shift]


def beam_after_filter(y_0, x_0, fwhm=4.0):
    """
    Return the filtered image of a beam.
    """
    y, x = np.mgrid[:60, :60]
    distance = np.hypot(x - x_0, y - y_0)
    return high_pass_filter(np.exp(-4 * np.log(2) * (distance / fwhm)**2),
                            fwhm)


def test_bright_sources_do_not_tilt_the_border():
    """
    Bright sources on a steep plane, anywhere near the border, leave
    nothing but their own peaks.
    """
    y, x = np.mgrid[:80, :80]
    rng = np.random.default_rng(3)
    data = 30.0 * x + rng.normal(0.0, 0.01, x.shape)
    far = np.ones(x.shape, dtype=bool)
    for y_0, x_0 in ((5, 20), (7, 60), (70, 74), (40, 3)):
        distance = np.hypot(x - x_0, y - y_0)
        data += 1000.0 * np.exp(-4 * np.log(2) * (distance / 4.0)**2)
        far &= distance > 6.0
    assert high_pass_filter(data, 4.0)[far].max() < 0.5


def test_blocks_change_nothing(monkeypatch):
    """
    The corrections are the same in blocks near the edges, of whatever
    size, as on the whole image.
    """
    rng = np.random.default_rng(1)
    data = rng.normal(size=(150, 170)) + np.arange(170.0)
    mask = ragged_mask(data.shape)
    expected = high_pass_filter(data, 3.0, mask=mask)
    monkeypatch.setattr(edges, '_BLOCK', 8)
    for many in (0.0, 1.0):
        monkeypatch.setattr(edges, '_MANY', many)
        filters._kept_of_mask.cache_clear()
        assert_allclose(high_pass_filter(data, 3.0, mask=mask), expected,
                        atol=1.0e-10)
    filters._kept_of_mask.cache_clear()


@pytest.mark.parametrize('kernel', ['gaussian', 'box'])
def test_padding_changes_nothing(kernel):
    """
    Rows and columns without a value are no part of the image.
    """
    data, mask = make_data()
    expected = high_pass_filter(data, 4.0, mask=mask, kernel=kernel)
    padded = np.pad(data, ((7, 30), (11, 3)), constant_values=np.nan)
    filtered = high_pass_filter(padded, 4.0, kernel=kernel,
                                mask=np.pad(mask, ((7, 30), (11, 3))))
    assert_array_equal(filtered[7:-30, 11:-3], expected)


@pytest.mark.parametrize('masked', [False, True])
def test_distance_to_the_edge(masked):
    """
    It is the distance from bad pixels and from those beyond the border.
    """
    shape = (150, 120)
    bad = ragged_mask(shape) if masked else np.zeros(shape, dtype=bool)
    expected = distance_transform_edt(np.pad(~bad, 1))[1:-1, 1:-1]
    near, distance = edges.distance_to_edge(bad, 14.5)
    image = np.zeros(shape)
    image[near] = distance
    assert len(distance) == np.count_nonzero(image)
    assert_allclose(image, np.where(expected <= 14.5, expected, 0.0))


def test_islands_have_the_slope_of_their_neighbors():
    """
    Where too few pixels are good, the nearest plane counts.
    """
    y, x = np.mgrid[:80, :80]
    data = 5.0 * x - 3.0 * y
    mask = (x < 40) & ~((x % 17 < 2) & (y % 17 < 2))
    filtered = high_pass_filter(data, 3.0, mask=mask)
    assert np.nanmax(np.abs(filtered)) < 1.0e-9


def test_zero_kernel_size_is_automatic():
    """
    Zero means automatic, as in Hyper.
    """
    data, mask = make_data()
    for kernel in ('gaussian', 'box'):
        assert_array_equal(
            high_pass_filter(data, 3, mask=mask, kernel=kernel,
                             kernel_size=0),
            high_pass_filter(data, 3, mask=mask, kernel=kernel))


def test_input_is_not_changed():
    """
    Neither the data nor the mask are written to.
    """
    data, mask = make_data()
    copies = data.copy(), mask.copy()
    high_pass_filter(data, 3.0, mask=mask)
    assert_array_equal(data, copies[0])
    assert_array_equal(mask, copies[1])


def test_unit_and_finder():
    """
    Quantity in, Quantity out; the finder filters in the same way.
    """
    data, mask = make_data()
    filtered = high_pass_filter(data * u.Jy, 3.0, mask=mask, kernel='box')
    assert filtered.unit == u.Jy
    finder = HighPassStarFinder(fwhm=3.0, n_sigma=5.0, kernel='box')
    assert_array_equal(finder.filter(data, mask), filtered.value)


@pytest.mark.parametrize(('kwargs', 'match'), [
    ({'fwhm': 0}, 'fwhm must be positive'),
    ({'kernel': 'top'}, "kernel must be 'gaussian' or 'box'"),
    ({'kernel_size': 4}, 'kernel_size must be an odd number'),
    ({'kernel_size': 51}, r'must not be smaller than the kernel: got shape '
                          r'\(50, 61\) for a kernel of 51'),
    ({'mask': np.ones((50, 61))}, 'no usable pixel'),
])
def test_bad_input(kwargs, match):
    """
    Bad input is named.
    """
    kwargs = {'fwhm': 3.0} | kwargs
    with pytest.raises(ValueError, match=match):
        high_pass_filter(make_data()[0], **kwargs)
