# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Noise that is correlated from pixel to pixel, as in resampled images, or
between two images, as in an image and a stack with it.
"""

import numpy as np
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import binary_dilation, uniform_filter

__all__ = ['measure_noise_kernel', 'shared_noise', 'sky_noise']

_MAX_LAG = 7
_MAX_SIZE = 1024
_MIN_PIXELS = 5000
# The sky is the mean over so many pixels squared
_SKY_SIZE = 33
# Light of sources is looked for in means over so many pixels squared
_LIGHT_SIZE = 5
_CLIP = 3.0
# More scatter of these means (in units of the error of a pixel) or of
# pixels than noise can have is that of unresolved sources
_MAX_SPREAD = 0.5
_POWER_RANGE = 0.2, 1.5
# The noise of a pixel that no neighbor shares is at least this part
_MIN_POWER = 0.02


def sky_noise(frame):
    """
    Return the noise of the middle of an image in units of its error, and
    where it is known.

    It is the sky, where no light of sources is seen, after a local mean is
    subtracted; 0 elsewhere.
    """
    ny, nx = frame.shape
    size_y, size_x = min(ny, _MAX_SIZE), min(nx, _MAX_SIZE)
    y0, x0 = (ny - size_y) // 2, (nx - size_x) // 2
    value, variance, doubt = frame.window(y0, y0 + size_y, x0, x0 + size_x)
    value /= np.sqrt(variance)
    good = doubt == 0.0
    for _ in range(2):
        sky = _local_mean(value, good, _SKY_SIZE)
        smooth = _local_mean(value - sky, good, _LIGHT_SIZE)
        inner = smooth[good]
        if inner.size < _MIN_PIXELS:
            return np.zeros(good.shape), np.zeros(good.shape, dtype=bool)
        spread = min(1.4826 * np.median(np.abs(inner)), _MAX_SPREAD)
        light = smooth > _CLIP * spread
        good &= ~binary_dilation(light, iterations=_LIGHT_SIZE)
    return np.where(good, value - _local_mean(value, good, _SKY_SIZE),
                    0.0), good


def measure_noise_kernel(noise, good):
    """
    Measure the kernel that makes the `sky_noise` of an image of white noise.

    Return the kernel, whose sum of squares is one (`None` if there is too
    little sky); the largest correlation of neighbors that is certainly not
    that of unresolved sources; and the measured variance in units of the
    square of the error.
    """
    if np.count_nonzero(good) < _MIN_PIXELS:
        return None, 0.0, 1.0
    measured = float(np.mean(noise[good]**2))
    if not _POWER_RANGE[0] < measured < _POWER_RANGE[1]:
        # unresolved sources, or errors that are not those of the noise
        return None, 0.0, 1.0
    # The autocorrelation is the transform of the power spectrum; that of the
    # mask counts the pairs of good pixels at each lag.
    shape = [next_fast_len(size + _MAX_LAG, real=True)
             for size in noise.shape]
    products = irfft2(np.abs(rfft2(noise, s=shape))**2, s=shape)
    pairs = irfft2(np.abs(rfft2(good.astype(np.float32), s=shape))**2,
                   s=shape)
    lags = np.arange(-_MAX_LAG, _MAX_LAG + 1)
    place = np.ix_(lags, lags)
    correlation = products[place] / np.maximum(pairs[place], 1.0)
    middle = _MAX_LAG
    correlation /= correlation[middle, middle]
    nearest = max(correlation[middle, middle + 1],
                  correlation[middle + 1, middle])
    # All variance beyond that of the error may be light, which is smooth: the
    # correlation of its neighbors is at most one.
    light = max(measured - 1.0, 0.0)
    nearest = (measured * nearest - light) / (measured - light)
    # what is measured far out is noise of the measurement
    distance = np.hypot(lags[:, None], lags)
    correlation *= np.cos(0.5 * np.pi * np.clip(
        (distance - 2.0) / (_MAX_LAG - 2.0), 0.0, 1.0))**2
    side = 8 * _MAX_LAG
    padded = np.zeros((side, side))
    padded[place] = correlation
    # many kernels have this power spectrum; the root of the power is the
    # symmetric one
    power = np.maximum(rfft2(padded).real, _MIN_POWER)
    kernel = irfft2(np.sqrt(power), s=(side, side))[place]
    return (kernel / np.sqrt(np.sum(kernel**2)), float(nearest), measured)


def shared_noise(science, template):
    """
    Measure the correlation of the noise of two images, from the `sky_noise`
    of both.

    The noise of a pixel in one image is correlated with that of the same
    pixel in the other, but less with that of its neighbors; the light of
    unresolved sources is smooth, and not counted.
    """
    good = science[1] & template[1]
    if np.count_nonzero(good) < _MIN_PIXELS:
        return 0.0
    first, second = (np.where(good, noise, 0.0) for noise in (science[0],
                                                              template[0]))

    def correlation(first, second):
        return np.sum(first * second) / np.sqrt(
            np.sum(first**2, where=second != 0.0)
            * np.sum(second**2, where=first != 0.0))

    neighbors = [correlation(one[1:], other[:-1])
                 for first, second in ((first, second), (first.T, second.T))
                 for one, other in ((first, second), (second, first))]
    return float(correlation(first, second) - np.mean(neighbors))


def _local_mean(value, good, size):
    """
    Return the means of the good pixels around each pixel.
    """
    weight = uniform_filter(good.astype(np.float32), size, mode='constant')
    total = uniform_filter(np.where(good, value, 0.0).astype(np.float32),
                           size, mode='constant')
    return total / np.maximum(weight, 1e-6)
