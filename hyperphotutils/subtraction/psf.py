# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The point-spread function of the differences.
"""

import numpy as np
from scipy.ndimage import binary_dilation, shift
from scipy.signal import fftconvolve

from hyperphotutils.subtraction.kernel import SpatialKernel
from hyperphotutils.subtraction.polynomials import (
    polynomial_terms,
    sample_grid,
)
from hyperphotutils.subtraction.stamps import gaussian_moments

__all__ = ['as_spatial_psf', 'convolved_psf', 'measure_psf']

_MAX_STARS = 200
# Stars that are needed for each order of the variation
_STARS_FOR_ORDER = (1, 15, 60)
_SAMPLED_ORDER = 4
# The widths of stars differ by less than this factor over the field
_WIDEST = 1.2
_N_CLIPS = 10
# Stars may differ in width by this part, however little the others do
_LEAST_SPREAD = 0.03
# The sky is measured out to so many half widths of a stamp
_SKY_FACTOR = 2
# Stars may differ from the model by these parts of it in each turn
_SHAPE_ERRORS = (0.1, 0.05, 0.03)
_N_ROUNDS = 5
# Stars with fewer good pixels in the core are left out
_CLEAN = 0.7
# The median of the stars counts as so many more, where few pixels are left
_PRIOR_STARS = 1.0


def as_spatial_psf(psf, shape):
    """
    Make a given PSF, an image or a function of x and y, a `SpatialKernel`.
    """
    if not callable(psf):
        return SpatialKernel(np.asarray(psf, dtype=float)[None], shape)
    x, y = sample_grid(shape)
    images = np.array([psf(*xy) for xy in zip(x, y, strict=True)], float)
    if images.ndim != 3:
        msg = 'psf must return an image for each position x, y'
        raise ValueError(msg)
    return _fit_polynomial(images, x, y, shape)


def convolved_psf(psf, kernel):
    """
    Return the PSF of an image that was convolved with a kernel.

    It has a sum of one in the middle of the image as long as the kernel
    moves no light out of it, and the shift of the kernel: it belongs to
    positions in the image before the convolution.
    """
    x, y = sample_grid(psf.shape)
    middle = [0.5 * (size - 1) for size in psf.shape[::-1]]
    images = fftconvolve(np.pad(psf(x, y), (
        (0, 0), *(2 * [(kernel.radius,) * 2]))), kernel(x, y), mode='same',
        axes=(1, 2)) / kernel.sum(*middle)
    return _fit_polynomial(images, x, y, psf.shape)


def _fit_polynomial(images, x, y, shape):
    """
    Make images at some positions a polynomial of the position.
    """
    terms = polynomial_terms(x, y, _SAMPLED_ORDER, shape)
    fitted = np.linalg.lstsq(terms, images.reshape(len(x), -1),
                             rcond=None)[0]
    return SpatialKernel(fitted.reshape(-1, *images.shape[1:]), shape)


def measure_psf(frame, x, y, half):
    """
    Measure the PSF of an image on its stars, the brightest first.

    The stars are shifted to the centers of pixels, scaled to the same flux,
    and averaged without neighbors; with enough of them the average is a
    polynomial of the position. Its sum is one.
    """
    images, variance, usable, flux, x, y = _centered_stars(
        frame, x[:_MAX_STARS], y[:_MAX_STARS], half)
    side = images.shape[1]
    grid = np.arange(side) - half
    core = (grid[:, None]**2 + grid**2 < (half / 2)**2).ravel()
    images, variance, usable = (array.reshape(len(x), -1)
                                for array in (images, variance, usable))
    flux = flux[:, None]
    terms = polynomial_terms(x, y, _order_for(len(x)), frame.shape)
    n_terms = terms.shape[1]
    products = (terms[:, :, None] * terms[:, None]).reshape(len(terms), -1)
    start = np.median(images / flux, axis=0)
    start /= start.sum()
    model = np.broadcast_to(start, images.shape)
    for turn in range(_N_ROUNDS):
        # stars that are shifted well still differ by a part of their light
        part = _SHAPE_ERRORS[min(turn, len(_SHAPE_ERRORS) - 1)]
        error = np.sqrt(variance + (part * flux * model)**2)
        off = np.abs(images - flux * model) > 4.0 * error
        # what surrounds the peak of a neighbor is its light, too
        kept = usable & ~binary_dilation(
            off.reshape(-1, side, side), np.ones((1, 3, 3))).reshape(
                images.shape)
        clean = kept[:, core].mean(axis=1)
        kept[clean < min(_CLEAN, np.median(clean))] = False
        weight = kept / error**2
        new = (np.sum(weight * model * images, axis=1) / np.maximum(
            np.sum(weight * model**2, axis=1), 1e-300))[:, None]
        flux = np.where(new > 0.0, new, flux)
        # least squares for the PSF of each pixel, with the star's flux as
        # the factor of its terms
        scaled = weight * flux**2
        normal = (scaled.T @ products).reshape(-1, n_terms, n_terms)
        right = (scaled * images / flux).T @ terms
        # in the wings all may be clipped: then the mean PSF is left
        prior = _PRIOR_STARS * np.median(flux**2 / error**2, axis=0)
        normal += prior[:, None, None] * np.eye(n_terms)
        right[:, 0] += prior * start
        solution = np.linalg.solve(normal, right[..., None])[..., 0]
        psf = solution.T.reshape(-1, side, side)
        # the sum is one everywhere
        psf /= psf[0].sum()
        psf[1:] -= psf[1:].sum(axis=(1, 2))[:, None, None] * psf[0]
        model = terms @ psf.reshape(len(psf), -1)
    return SpatialKernel(psf, frame.shape)


def _centered_stars(frame, x, y, half):
    """
    Return the stars among some sources, shifted to the centers of pixels.

    Return their images without the sky, the variances, which pixels are
    usable, their fluxes, and their pixels x and y.
    """
    value, variance, bad = frame.stamps(x, y, half + 2)
    value = value - _local_sky(frame, x, y, half)[:, None, None]
    sigma, flux, dx, dy = gaussian_moments(value)
    grid = np.arange(-half - 2, half + 3)
    near = grid[:, None]**2 + grid**2 < (half / 2)**2
    good = ((flux > 0.0) & np.isfinite(dx + dy + sigma)
            & ~bad[:, near].any(axis=1))
    if good.any():
        place = np.flatnonzero(good)
        good[place] = _are_stars(sigma[place], x[place], y[place],
                                 frame.shape)
    else:
        # nothing like a star: take all as they are
        good = np.ones(len(x), dtype=bool)
        dx = dy = np.zeros(len(x))
        flux = np.maximum(value[:, near].sum(axis=1), 1e-300)
    # the spline must not reach beyond the cutout: two pixels are cut off
    images = np.array([shift(image, by, order=3) for image, *by in zip(
        value[good], -dy[good], -dx[good], strict=True)])
    inner = np.s_[:, 2:-2, 2:-2]
    return (images[inner], variance[good][inner], ~bad[good][inner],
            flux[good], x[good], y[good])


def _order_for(n_stars):
    """
    Return the order of the variation that so many stars determine.
    """
    return sum(n_stars >= number for number in _STARS_FOR_ORDER[1:])


def _local_sky(frame, x, y, half):
    """
    Return the level of the sky around stars, beyond their wings.
    """
    outer = _SKY_FACTOR * half
    value, variance, bad = frame.stamps(x, y, outer)
    grid = np.arange(-outer, outer + 1)
    ring = grid[:, None]**2 + grid**2 > (1.3 * half)**2
    # every other row is enough
    ring[::2] = False
    value = np.sort(np.where(bad, np.inf, value)[:, ring], axis=1)
    count = np.isfinite(value).sum(axis=1)

    def quantile(part):
        place = (part * np.maximum(count - 1, 0)).astype(int)
        level = np.take_along_axis(value, place[:, None], axis=1)
        return np.where(np.isfinite(level), level, 0.0)

    sigma = np.sqrt(np.median(variance[:, ring], axis=1))[:, None]
    for _ in range(_N_CLIPS):
        # most of the ring may be sources: then the lower spread is theirs
        level = quantile(0.5)
        spread = np.minimum(level - quantile(0.16), sigma)
        count = np.sum(value <= level + 2.0 * spread, axis=1)
    return quantile(0.5)[:, 0]


def _are_stars(sigma, x, y, shape):
    """
    Return which sources are no wider than the stars around them.
    """
    width = np.log(sigma)
    # Nothing is narrower than the stars, and their widths are alike: they
    # are the narrowest group, though galaxies may be more numerous.
    ordered = np.sort(width)
    ends = ordered + np.log(_WIDEST)
    count = (np.searchsorted(ordered, ends, side='right')
             - np.arange(len(ordered)))
    first = np.argmax(count >= 0.5 * count.max())
    kept = (width >= ordered[first]) & (width <= ends[first])
    for _ in range(_N_CLIPS):
        order = _order_for(np.count_nonzero(kept))
        terms = polynomial_terms(x, y, order, shape)
        trend = terms @ np.linalg.lstsq(terms[kept], width[kept],
                                        rcond=None)[0]
        spread = 1.4826 * np.median(np.abs((width - trend)[kept]))
        now = np.abs(width - trend) < max(3.0 * spread, _LEAST_SPREAD)
        if not now.any() or np.array_equal(now, kept):
            break
        kept = now
    return kept
