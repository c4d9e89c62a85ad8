# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Convolution with kernels that vary over the image, tile by tile.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from numpy.polynomial.legendre import legvander
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.signal import fftconvolve

from hyperphotutils.subtraction.polynomials import (
    polynomial_degrees,
    polynomial_terms,
    scaled_position,
)

__all__ = ['TiledKernel', 'convolve_fixed', 'cut', 'fast_shape',
           'low_rank_kernel', 'over_tiles', 'smoothed', 'tiles']

# The side of a tile without its margin; with that of the largest default
# kernel it is 560, a fast length of Fourier transforms
_TILE_SIZE = 520


class TiledKernel:
    """
    A kernel that varies over the image, applied to one tile of it.

    It is :math:`\\sum_r w_r(x, y) U_r` with images :math:`U_r` and the
    coefficients ``weights`` of products of Legendre polynomials, of shape
    (n_images, order + 1, order + 1), those of y first.
    """

    def __init__(self, images, weights, shape):
        self.images = images
        self.weights = weights
        self.shape = shape
        self.radius = images.shape[-1] // 2
        self._spectra = {}

    def spectra(self, fft_shape, dtype):
        """
        Return the Fourier transforms of the images, kept for later.
        """
        key = (*fft_shape, np.dtype(dtype).char)
        if key not in self._spectra:
            self._spectra[key] = rfft2(self.images.astype(dtype),
                                       s=fft_shape)
        return self._spectra[key]

    def __call__(self, padded, y0, x0, *, spectrum=None):
        """
        Convolve a tile with a margin, which is left out of the result.

        ``y0`` and ``x0`` are the place of its first pixel without the
        margin; ``spectrum`` is its Fourier transform, if it is known.
        """
        height, width = np.subtract(padded.shape, 2 * self.radius)
        fft_shape = fast_shape(padded.shape)
        if spectrum is None:
            spectrum = rfft2(padded, s=fft_shape)
        spectra = self.spectra(fft_shape, padded.dtype)
        ny, nx = self.shape
        order = self.weights.shape[-1] - 1
        along_y = legvander(scaled_position(y0 + np.arange(height), ny),
                            order)
        along_x = legvander(scaled_position(x0 + np.arange(width), nx),
                            order)
        # Overlap-save: what wraps around stays in the margin. The full
        # convolution is shifted by the radius of the kernel.
        first = 2 * self.radius
        cut = np.s_[first:first + height, first:first + width]
        out = np.zeros((height, width), dtype=padded.dtype)
        for weight, kernel in zip(self.weights, spectra, strict=True):
            part = irfft2(spectrum * kernel, s=fft_shape,
                          overwrite_x=True)[cut]
            if np.any(weight.ravel()[1:]):
                # the last product makes the weight of each pixel
                part = part * ((along_y @ weight).astype(out.dtype)
                               @ along_x.T.astype(out.dtype))
            else:
                part = part * out.dtype.type(weight[0, 0])
            out += part
        return out


def low_rank_kernel(samples, x, y, shape, order, *, tolerance=1e-2):
    """
    Approximate a kernel that is known at some positions by a short sum.

    The samples are decomposed into singular vectors, and the weights of the
    largest are made polynomials of the position. ``tolerance`` is what may
    be dropped, as the root of the sum of the squares of the singular
    values, in units of that of all.
    """
    # Lauer (2002, Proc. SPIE 4847, 167) convolves with varying PSFs in the
    # same way: one transform for each singular vector, not for each position
    side = samples.shape[-1]
    u, s, vt = np.linalg.svd(samples.reshape(len(x), -1),
                             full_matrices=False)
    rest = np.sqrt(np.cumsum(s[::-1]**2)[::-1] / max((s**2).sum(), 1e-300))
    rank = max(1, int(np.count_nonzero(rest > tolerance)))
    terms = polynomial_terms(x, y, order, shape)
    coefficients = np.linalg.lstsq(terms, u[:, :rank] * s[:rank],
                                   rcond=None)[0]
    weights = np.zeros((rank, order + 1, order + 1))
    for n, (i, j) in enumerate(polynomial_degrees(order)):
        weights[:, j, i] = coefficients[n]
    return TiledKernel(vt[:rank].reshape(rank, side, side), weights, shape)


def smoothed(kernels, noise_kernel):
    """
    Convolve kernels with that of the noise, if there is one.
    """
    if noise_kernel is None:
        return kernels
    return fftconvolve(kernels, noise_kernel[None], mode='same',
                       axes=(1, 2))


def convolve_fixed(image, padded, shape):
    """
    Convolve a tile, with a margin of its radius, with one kernel.
    """
    return TiledKernel(image[None], np.ones((1, 1, 1)), shape)(padded, 0, 0)


def fast_shape(shape):
    """
    Return a shape of at least this size for fast Fourier transforms.

    The kernel may wrap around into the margin, which is cut off.
    """
    return tuple(next_fast_len(int(size), real=True) for size in shape)


def tiles(shape, size=None):
    """
    Cut an image into tiles of nearly equal size, of at most ``size``: a
    list of (y0, y1, x0, x1).
    """
    size = size or _TILE_SIZE
    edges = []
    for length in shape:
        n_tiles = -(-length // size)
        edges.append([length * i // n_tiles for i in range(n_tiles + 1)])
    rows, columns = edges
    return [(y0, y1, x0, x1)
            for y0, y1 in pairwise(rows) for x0, x1 in pairwise(columns)]


def cut(image, y0, y1, x0, x1, *, fill):
    """
    Cut a part out of an image that may reach beyond its edges, with
    ``fill`` outside of it.
    """
    ny, nx = image.shape
    a0, a1, b0, b1 = max(y0, 0), min(y1, ny), max(x0, 0), min(x1, nx)
    part = np.full((y1 - y0, x1 - x0), fill, dtype=image.dtype)
    part[a0 - y0:a1 - y0, b0 - x0:b1 - x0] = image[a0:a1, b0:b1]
    return part


def over_tiles(function, shape, tile_size, n_workers):
    """
    Call a function with the limits of each tile of an image, in threads.
    """
    limits = tiles(shape, tile_size)
    if n_workers == 1 or len(limits) == 1:
        for limit in limits:
            function(*limit)
        return
    with ThreadPoolExecutor(n_workers) as pool:
        # list() raises what a thread has raised
        list(pool.map(lambda limit: function(*limit), limits))
