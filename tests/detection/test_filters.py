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

from hyperphotutils.detection import HighPassStarFinder, high_pass_filter

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


@pytest.mark.parametrize(('kernel', 'kernel_size'), KERNELS)
def test_plane_leaves_nothing_inside(kernel, kernel_size):
    """
    A plane vanishes away from the borders, and nearly so at them.
    """
    data = np.arange(60.0) + 2 * np.arange(50.0)[:, np.newaxis]
    filtered = high_pass_filter(data, 3.3, kernel=kernel,
                                kernel_size=kernel_size)
    assert np.abs(filtered[15:-15, 15:-15]).max() < 1.0e-10
    # less than the plane rises within the kernel
    assert np.abs(filtered).max() < 3 * 6


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
    finder = HighPassStarFinder(5.0, 3.0, kernel='box')
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
