# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The point-spread function of the differences.
"""

import numpy as np
from scipy.ndimage import shift

from hyperphotutils.subtraction.kernel import SpatialKernel
from hyperphotutils.subtraction.polynomials import (
    polynomial_terms,
    sample_grid,
)
from hyperphotutils.subtraction.stamps import gaussian_moments

__all__ = ['as_spatial_psf', 'measure_psf']

_MAX_STARS = 200
# Stars that are needed for each order of the variation
_STARS_FOR_ORDER = (1, 15, 100)
_N_ROUNDS = 3
_GIVEN_ORDER = 4
# What is wider than the sharper stars by so much is a galaxy
_WIDEST = 1.2


def as_spatial_psf(psf, shape):
    """
    Make a given PSF a function of the position.

    Parameters
    ----------
    psf : 2D array_like, callable, or `SpatialKernel`
        The PSF as an image of an odd side whose sum is one, or a
        function of x and y that returns such an image.

    shape : tuple of int
        The shape of the whole image.

    Returns
    -------
    psf : `SpatialKernel`
        The PSF.
    """
    if isinstance(psf, SpatialKernel):
        return psf
    if not callable(psf):
        return SpatialKernel(np.asarray(psf, dtype=float)[None], shape)
    x, y = sample_grid(shape)
    images = np.array([psf(*xy) for xy in zip(x, y, strict=True)], float)
    if images.ndim != 3:
        msg = 'psf must return an image for each position x, y'
        raise ValueError(msg)
    terms = polynomial_terms(x, y, _GIVEN_ORDER, shape)
    fitted = np.linalg.lstsq(terms, images.reshape(len(x), -1),
                             rcond=None)[0]
    return SpatialKernel(fitted.reshape(-1, *images.shape[1:]), shape)


def measure_psf(frame, x, y, half):
    """
    Measure the PSF of an image on its stars.

    The stars are shifted to the centers of pixels, scaled to the same
    flux, and averaged without outliers; with enough of them the average
    is a polynomial of the position.

    Parameters
    ----------
    frame : `Frame`
        The image.

    x, y : 1D `~numpy.ndarray` of int
        The stars, brightest first.

    half : int
        The half width of the PSF.

    Returns
    -------
    psf : `SpatialKernel`
        The PSF, with a sum of one.
    """
    x, y = x[:_MAX_STARS], y[:_MAX_STARS]
    value, variance, bad = frame.stamps(x, y, half + 2)
    border = np.ones(value.shape[1:], dtype=bool)
    border[3:-3, 3:-3] = False
    value = value - np.median(value[:, border], axis=1)[:, None, None]
    sigma, flux, dx, dy = gaussian_moments(value)
    grid = np.arange(-half - 2, half + 3)
    near = grid[:, None]**2 + grid**2 < (half / 2)**2
    total = np.sum(value[:, near], axis=1)
    good = ((total > 0.0) & (flux > 0.0) & np.isfinite(dx)
            & np.isfinite(dy) & ~bad[:, near].any(axis=1))
    good &= np.isfinite(sigma)
    if good.any():
        good &= sigma < _WIDEST * np.quantile(sigma[good], 0.3)
    else:
        good = np.ones(len(x), dtype=bool)
        dx = dy = np.zeros(len(x))
        total = np.maximum(total, 1e-300)
    chosen = np.flatnonzero(good)
    images = np.array([
        shift(value[i], (-dy[i], -dx[i]), order=3)[2:-2, 2:-2] / total[i]
        for i in chosen]).reshape(len(chosen), -1)
    error = (np.sqrt(variance[chosen, 2:-2, 2:-2]).reshape(len(chosen), -1)
             / total[chosen, None])
    # where the stars are shifted well, their shapes differ by this much
    error = np.sqrt(error**2 + (0.05 * np.maximum(images, 0.0))**2)
    order = sum(len(chosen) >= number for number in _STARS_FOR_ORDER) - 1
    terms = polynomial_terms(x[chosen], y[chosen], order, frame.shape)
    weight = error**-2.0
    model = np.median(images, axis=0)
    for _ in range(_N_ROUNDS):
        kept = weight * (np.abs(images - model) <= 4.0 * error)
        normal = np.einsum('sp,sq,si->ipq', terms, terms, kept)
        right = np.einsum('sp,si->ip', terms, kept * images)
        ridge = 1e-6 * np.trace(normal, axis1=1, axis2=2).max()
        normal += (ridge + 1e-300) * np.eye(terms.shape[1])
        solution = np.linalg.solve(normal, right[..., None])[..., 0]
        model = terms @ solution.T
    side = 2 * half + 1
    psf = solution.T.reshape(-1, side, side)
    # the sum is one everywhere
    psf /= psf[0].sum()
    psf[1:] -= psf[1:].sum(axis=(1, 2))[:, None, None] * psf[0]
    return SpatialKernel(psf, frame.shape)
