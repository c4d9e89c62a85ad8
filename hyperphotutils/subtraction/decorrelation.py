# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Decorrelation of the noise of a difference.
"""

import numpy as np
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.signal import fftconvolve

from hyperphotutils.subtraction.kernel import SpatialKernel
from hyperphotutils.subtraction.polynomials import (
    polynomial_terms,
    sample_grid,
)
from hyperphotutils.subtraction.tiling import (
    convolve_fixed,
    cut,
    low_rank_kernel,
    over_tiles,
    smoothed,
)

__all__ = ['Decorrelation', 'decorrelate', 'whitening_kernel']

# The kernels are polynomials of the position. Their order is higher than that
# of the kernel, of whose power they are a nonlinear function.
_ORDER = 4
# What may be dropped of the kernels, see low_rank_kernel; as they change
# fluxes, they must be more accurate than those of variances
_TOLERANCE = 3e-3
# The least power of noise that is correlated, in units of the largest
_MIN_POWER = 1e-3
# The least variance in units of that of the target in the same pixel
_LEAST = 0.5
# The largest weight of masked pixels
_MAX_MASKED = 0.1


def whitening_kernel(kernel, target_variance, source_variance, *,
                     target_kernel=None, source_kernel=None):
    """
    Calculate the kernels that make the noise of a difference white.

    The Fourier transform of each is

    .. math::

        \\phi(k) = \\sqrt{\\frac{V_t + s^2 V_s}
                               {V_t + V_s |K(k)|^2}}

    with the sum s of the kernel K (Reiss & Lupton 2016, DMTN-021). As it is
    one at :math:`k = 0`, fluxes are kept. The signal-to-noise ratio of a
    point source on the result is that of the proper difference of Zackay,
    Ofek & Gal-Yam (2016, ApJ 830, 27).

    If the noise of an image is correlated, ``target_kernel`` or
    ``source_kernel`` makes it of white noise, of which V is then the
    variance.
    """
    side = kernel.shape[-1]
    # the inverse of the kernel reaches farther than the kernel does
    size = next_fast_len(3 * side, real=True)
    power = np.abs(rfft2(kernel, s=(size, size)))**2
    total = 0.0
    for variance, noise, part in ((target_variance, target_kernel, 1.0),
                                  (source_variance, source_kernel, power)):
        if noise is not None:
            own = np.abs(rfft2(noise, s=(size, size)))**2
            # what has no power cannot be made white; a floor keeps the
            # whitening kernel finite
            part = part * np.maximum(own, _MIN_POWER * own.max())
        total = total + np.asarray(variance, float)[:, None, None] * part
    # the power at k = 0 stands first
    phi = np.sqrt(total[:, :1, :1] / total)
    image = np.fft.fftshift(irfft2(phi, s=(size, size)),
                            axes=(1, 2))
    half, radius = size // 2, side // 2
    image = image[:, half - radius:half + radius + 1,
                  half - radius:half + radius + 1]
    return image / image.sum(axis=(1, 2))[:, None, None]


class Decorrelation:
    """
    The whitening kernel of a pair of images at each position.

    ``noise`` is the `NoiseGrid` of target and source, and ``psf`` the PSF
    of the target.
    """

    def __init__(self, kernel, noise, psf):
        self.kernel = kernel
        self.noise = noise
        self.psf = psf
        x, y = sample_grid(kernel.shape)
        self._samples = self(x, y)

    def __call__(self, x, y):
        """
        Return the kernel at a position; a stack of them for arrays.
        """
        xs, ys = np.atleast_1d(x), np.atleast_1d(y)
        target, source = self.noise.kernels
        phi = whitening_kernel(self.kernel(xs, ys), *self.noise(xs, ys),
                               target_kernel=target, source_kernel=source)
        return phi if np.ndim(x) else phi[0]

    def tiled(self):
        """
        Return the kernels of the difference and of the variances of the
        target and of the source, as they are applied to tiles.

        Where there is light, the noise of one image is more than in the
        sky, and the sum is not white: the noise of the convolved image is
        that of low frequencies. The variances of both are therefore scaled
        so that the error of a PSF flux, calculated as for white noise, is
        right. In the sky this changes nothing.
        """
        shape = self.kernel.shape
        x, y = sample_grid(shape)
        phi = self._samples
        noise = self.noise.kernels
        target = smoothed(phi, noise[0])
        source = smoothed(fftconvolve(phi, self.kernel(x, y), mode='same',
                                      axes=(1, 2)), noise[1])
        # the PSF of what is fitted to the decorrelated difference
        point = fftconvolve(self.psf(x, y), phi, axes=(1, 2))
        tiled = [low_rank_kernel(phi, x, y, shape, _ORDER,
                                 tolerance=_TOLERANCE)]
        for image in (target, source):
            filtered = fftconvolve(point, image[:, ::-1, ::-1], axes=(1, 2))
            in_fluxes, of_point, in_pixels = (
                np.sum(part**2, axis=(1, 2), keepdims=True)
                for part in (filtered, point, image))
            # the variance of PSF fluxes with this noise, in units of what
            # the variance of the pixels alone would tell
            share = in_fluxes / (of_point * in_pixels)
            tiled.append(low_rank_kernel(image**2 * share, x, y, shape,
                                         _ORDER))
        return tuple(tiled)

    def as_spatial_kernel(self):
        """
        Return the whitening kernel as a polynomial of the position.
        """
        x, y = sample_grid(self.kernel.shape)
        terms = polynomial_terms(x, y, _ORDER, self.kernel.shape)
        fitted = np.linalg.lstsq(
            terms, self._samples.reshape(len(x), -1), rcond=None)[0]
        return SpatialKernel(
            fitted.reshape(-1, *self._samples.shape[1:]), self.kernel.shape)


def decorrelate(products, decorrelation, target, source, *, masked, unknown,
                tile_size=None, n_workers=1):
    """
    Convolve a difference so that its noise becomes white.

    ``masked`` and ``unknown`` are the bits of the flags of all masked
    pixels, and of those whose value is not even known roughly. Return the
    difference, its standard deviation, and the mask.
    """
    shape = target.shape
    radius = decorrelation.kernel.radius
    whiten, target_square, source_square = decorrelation.tiled()
    difference, error = (np.empty(shape, dtype=np.float32)
                         for _ in range(2))
    mask = np.empty(shape, dtype=bool)

    def one(y0, y1, x0, x1):
        tile = np.s_[y0:y1, x0:x1]
        window = (y0 - radius, y1 + radius, x0 - radius, x1 + radius)
        flags = cut(products.flags, *window, fill=masked)
        value = cut(products.difference, *window, fill=0.0)
        value[(flags & unknown) > 0] = 0.0
        difference[tile] = whiten(value, y0, x0)
        own = target.window(*window)[1]
        variance = target_square(own, y0, x0)
        variance += source_square(source.window(*window)[1], y0, x0)
        # next to bad pixels a short sum may even be negative
        inner = np.s_[radius:-radius, radius:-radius]
        error[tile] = np.sqrt(np.maximum(variance, _LEAST * own[inner]))
        bad = (flags & masked) > 0
        mask[tile] = bad[inner]
        if bad.any():
            weight = np.abs(decorrelation(0.5 * (x0 + x1 - 1),
                                          0.5 * (y0 + y1 - 1)))
            mask[tile] |= convolve_fixed(
                weight / weight.sum(), bad.astype(np.float32),
                shape) > _MAX_MASKED

    over_tiles(one, shape, tile_size, n_workers)
    return difference, error, mask
