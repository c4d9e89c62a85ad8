# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The difference of two images, tile by tile.
"""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import binary_dilation

from hyperphotutils.subtraction.flags import DIFFERENCE_FLAGS
from hyperphotutils.subtraction.frames import masked_medians
from hyperphotutils.subtraction.polynomials import (
    polynomial_surface,
    polynomial_terms,
)
from hyperphotutils.subtraction.tiling import convolve_fixed, over_tiles

__all__ = ['MASKED_BITS', 'Products', 'add_polynomial', 'make_difference',
           'subtract_background']

#: The bits of the flags of pixels that are masked.
MASKED_BITS = sum(DIFFERENCE_FLAGS.values()) - DIFFERENCE_FLAGS['filled']

# The flag "filled" begins at this part of the limit
_SOME_DOUBT = 0.1
# The sky is measured in blocks of so many pixels squared, larger than the
# core of a star, which its median then ignores
_BLOCK = 32
_MIN_BLOCK_PIXELS = 30
# Changes are looked for in the sums over cells of so many pixels squared that
# deviate by so many times their scatter
_CELL, _CHANGE = 8, 5.0


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


def subtract_background(products, order):
    """
    Subtract a polynomial that is fitted to what is left of the sky in a
    difference, in place; return its coefficients, `None` if there is too
    little sky.

    The clipped medians of blocks are fitted, the second time without what
    has changed, as most changes are new light. Leaving out what is bright
    in one of the images would select its noise, and bias the difference.
    """
    ny, nx = shape = products.difference.shape
    n_terms = (order + 1) * (order + 2) // 2
    cells = np.zeros((-(-ny // _CELL), -(-nx // _CELL)))
    changed = cells > 0.0
    total = None
    for _ in range(2):
        value, error, x, y = _sky_blocks(products, changed)
        if len(value) < 2 * n_terms:
            break
        terms = polynomial_terms(x, y, order, shape)
        # blocks full of light, or of the residuals of a saturated star,
        # deviate
        kept = np.ones(len(value), dtype=bool)
        for _ in range(5):
            coefficients = np.linalg.lstsq(
                terms[kept] / error[kept, None], value[kept] / error[kept],
                rcond=None)[0]
            pull = (value - terms @ coefficients) / error
            limit = 4.0 * 1.4826 * np.median(np.abs(pull[kept]))
            now = np.abs(pull) <= max(limit, 1e-12)
            if (np.array_equal(now, kept)
                    or np.count_nonzero(now) < 2 * n_terms):
                break
            kept = now
        add_polynomial(products.difference, coefficients, -1.0)
        total = coefficients if total is None else total + coefficients
        for row, y0 in enumerate(range(0, ny, _CELL)):
            strip = slice(y0, y0 + _CELL)
            pull = np.where(products.flags[strip] & MASKED_BITS, 0.0,
                            products.difference[strip]
                            / products.error[strip])
            cells[row] = np.add.reduceat(pull.sum(axis=0),
                                         np.arange(0, nx, _CELL))
        # of white noise the sum would scatter by the side of the cell
        spread = max(1.4826 * np.median(np.abs(cells)), _CELL)
        # the wings reach into the cells around
        changed = binary_dilation(np.abs(cells) > _CHANGE * spread,
                                  np.ones((3, 3)))
    return total


def _sky_blocks(products, changed):
    """
    Return the medians of the blocks with enough sky, their errors, and
    their centers x and y, without the cells that have changed.
    """
    shape = products.difference.shape
    # neighbors are correlated: every other pixel tells nearly as much
    step = 2 if min(shape) >= 8 * _BLOCK else 1
    block = _BLOCK // step
    columns = np.arange(0, shape[1], _BLOCK)
    pad = len(columns) * block - len(range(0, shape[1], step))
    found = []
    for y0 in range(0, shape[0], _BLOCK):
        strip = np.s_[y0:y0 + _BLOCK:step, ::step]
        good = (products.flags[strip] & MASKED_BITS) == 0
        near = changed[y0 // _CELL:(y0 + _BLOCK) // _CELL].repeat(
            _CELL // step, axis=0).repeat(_CELL // step, axis=1)
        good &= ~near[:good.shape[0], :good.shape[1]]
        # what is added at the end is not good
        value, sigma, good = (
            np.pad(array, ((0, 0), (0, pad))).reshape(
                len(good), len(columns), block).transpose(1, 0, 2).reshape(
                    len(columns), -1)
            for array in (products.difference[strip], products.error[strip],
                          good))
        for _ in range(4):
            center = masked_medians(value, good)
            good &= np.abs(value - center) <= 3.0 * sigma
        count = good.sum(axis=1)
        chosen = count >= _MIN_BLOCK_PIXELS
        total = np.sum(sigma, axis=1, where=good, dtype=float)
        middle = 0.5 * (_BLOCK - 1)
        # wings of sources beyond the kernel move a median less
        found.append([masked_medians(value, good)[chosen, 0],
                      total[chosen] / count[chosen]**1.5,
                      (columns + middle)[chosen],
                      np.full(np.count_nonzero(chosen), y0 + middle)])
    return np.concatenate(found, axis=1)


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
