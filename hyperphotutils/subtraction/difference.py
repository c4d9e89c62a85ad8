# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The difference of two images, tile by tile.
"""

from typing import NamedTuple

import numpy as np

from hyperphotutils.subtraction.flags import DIFFERENCE_FLAGS
from hyperphotutils.subtraction.frames import masked_medians
from hyperphotutils.subtraction.polynomials import (
    polynomial_surface,
    polynomial_terms,
)
from hyperphotutils.subtraction.tiling import convolve_fixed, over_tiles

__all__ = ['MASKED_BITS', 'Products', 'add_polynomial', 'fit_background',
           'make_difference']

#: The bits of the flags of pixels that are masked.
MASKED_BITS = sum(DIFFERENCE_FLAGS.values()) - DIFFERENCE_FLAGS['filled']

# The flag "filled" begins at this part of the limit
_SOME_DOUBT = 0.1
# The sky is measured in blocks of so many pixels squared, larger than the
# core of a star, which its median then ignores
_BLOCK = 32
_MIN_BLOCK_PIXELS = 30
_ALL_BITS = 255


class Products(NamedTuple):
    """
    Target minus convolved source, the convolved source, the standard
    deviation of the difference (all float32), and the flags (uint8).
    """

    difference: np.ndarray
    convolved: np.ndarray
    error: np.ndarray
    flags: np.ndarray


def make_difference(target, source, kernel, *, mask_limit, tile_size=None,
                    n_workers=1, target_is_science=True):
    """
    Subtract the convolved source from the target, without a background.

    ``mask_limit`` is the largest error by filled pixels, in units of the
    standard deviation of the difference.
    """
    shape, radius = target.shape, kernel.radius
    products = Products(*(np.empty(shape, dtype=np.float32)
                          for _ in range(3)), np.zeros(shape, np.uint8))
    convolve = kernel.tiled()
    square = kernel.tiled_square(noise_kernel=source.noise_kernel)
    target_bit = DIFFERENCE_FLAGS['bad_science' if target_is_science
                                  else 'bad_template']

    def one(y0, y1, x0, x1):
        tile = np.s_[y0:y1, x0:x1]
        value, variance, doubt = source.window(
            y0 - radius, y1 + radius, x0 - radius, x1 + radius)
        # the variances of independent pixels add up with the squares of
        # their weights
        convolved = convolve(value, y0, x0)
        total = np.maximum(square(variance, y0, x0), 0.0)
        value, variance, _ = target.window(y0, y1, x0, x1)
        total += variance
        products.convolved[tile] = convolved
        np.subtract(value, convolved, out=products.difference[tile])
        error = np.sqrt(total, out=products.error[tile])
        flags = products.flags[tile]
        flags[target.bad[tile]] |= target_bit
        if not doubt.any():
            return
        # this needs no more than the kernel of the tile
        local = np.abs(kernel(0.5 * (x0 + x1 - 1), 0.5 * (y0 + y1 - 1)))
        part = convolve_fixed(local, doubt, shape) / (mask_limit * error)
        y, x = np.ogrid[y0:y1, x0:x1]
        near_edge = (np.minimum(y, shape[0] - 1 - y) < radius) | (
            np.minimum(x, shape[1] - 1 - x) < radius)
        flags[(part > 1.0) & near_edge] |= DIFFERENCE_FLAGS['edge']
        flags[(part > 1.0) & ~near_edge] |= (
            DIFFERENCE_FLAGS['near_bad_pixels'])
        flags[(part > _SOME_DOUBT) & (part <= 1.0)] |= (
            DIFFERENCE_FLAGS['filled'])

    over_tiles(one, shape, tile_size, n_workers)
    return products


def fit_background(products, order):
    """
    Fit a polynomial to what is left of the sky in a difference; `None` if
    there is too little sky.

    The clipped medians of blocks are fitted. Leaving out what is bright in
    one of the images would select its noise, and bias the difference.
    """
    shape = products.difference.shape
    # neighbors are correlated: every other pixel tells nearly as much
    step = 2 if min(shape) >= 8 * _BLOCK else 1
    block = _BLOCK // step
    rows, columns = (range(0, size, _BLOCK) for size in shape)
    means, errors, xs, ys = [], [], [], []
    for y0 in rows:
        strip = np.s_[y0:y0 + _BLOCK:step, ::step]
        value, masked, sigma = (
            _in_blocks(array[strip], block, len(columns)) for array in (
                products.difference, products.flags, products.error))
        good = (masked & MASKED_BITS) == 0
        for _ in range(4):
            center = masked_medians(value, good)
            good &= np.abs(value - center) <= 3.0 * sigma
        count = good.sum(axis=1)
        chosen = count >= _MIN_BLOCK_PIXELS
        # wings of sources beyond the kernel move a median less
        means.append(masked_medians(value, good)[chosen, 0])
        total = np.sum(sigma, axis=1, where=good, dtype=float)
        errors.append(total[chosen] / count[chosen]**1.5)
        xs.append((np.array(columns) + 0.5 * (_BLOCK - 1))[chosen])
        ys.append(np.full(np.count_nonzero(chosen),
                          y0 + 0.5 * (_BLOCK - 1)))
    value, error, x, y = (np.concatenate(part)
                          for part in (means, errors, xs, ys))
    n_terms = (order + 1) * (order + 2) // 2
    if len(value) < 2 * n_terms:
        return None
    terms = polynomial_terms(x, y, order, shape)
    # blocks full of light, or of the residuals of a saturated star, deviate
    kept = np.ones(len(value), dtype=bool)
    for _ in range(5):
        coefficients = np.linalg.lstsq(terms[kept] / error[kept, None],
                                       value[kept] / error[kept],
                                       rcond=None)[0]
        pull = (value - terms @ coefficients) / error
        limit = 4.0 * 1.4826 * np.median(np.abs(pull[kept]))
        now = np.abs(pull) <= max(limit, 1e-12)
        if np.array_equal(now, kept) or np.count_nonzero(now) < 2 * n_terms:
            break
        kept = now
    return coefficients


def _in_blocks(strip, block, n_blocks):
    """
    Rearrange a strip of rows into blocks; all bits of what is added at
    the end are set.
    """
    pad = n_blocks * block - strip.shape[1]
    fill = _ALL_BITS if strip.dtype == np.uint8 else 0
    strip = np.pad(strip, ((0, 0), (0, pad)), constant_values=fill)
    return strip.reshape(len(strip), n_blocks, block).transpose(
        1, 0, 2).reshape(n_blocks, -1)


def add_polynomial(image, coefficients, factor=1.0):
    """
    Add a polynomial of the position to an image, in place.
    """
    ny, nx = image.shape
    for y0 in range(0, ny, 256):
        y = np.arange(y0, min(y0 + 256, ny))
        image[y] += (factor * polynomial_surface(
            np.arange(nx), y, coefficients, image.shape)).astype(
                image.dtype)
