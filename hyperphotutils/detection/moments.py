# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Cutouts around positions, and their Gaussian-weighted moments.
"""

import numpy as np
from astropy.stats import gaussian_fwhm_to_sigma

__all__ = ['LOCUS_SCATTER', 'WEIGHT_WIDTH', 'cut_out', 'find_locus',
           'weighted_moments', 'weighted_size']

# Width of the weight function relative to the PSF: wide enough that the
# size of a star is measured well, narrow enough to exclude neighbors.
WEIGHT_WIDTH = 1.4

# Intrinsic scatter of the stellar locus in ln(size), apart from noise.
LOCUS_SCATTER = 0.02

# Range of sizes, relative to the PSF, in which the locus is searched: the
# weighted sizes of 0.75 and 1.35 times its FWHM.
_LOCUS_SEARCH = (0.8, 1.2)
# Least density of sizes of a locus, relative to the maximum.
_FIRST_MODE = 0.3

_MAX_ITERATIONS = 10


def cut_out(image, x, y, half, fill=0.0):
    """
    Return squares of ``2 * half + 1`` pixels a side around pixels of an image.
    """
    offset = np.arange(-half, half + 1)
    rows = np.asarray(y)[:, None] + offset
    cols = np.asarray(x)[:, None] + offset
    ny, nx = image.shape
    inside = (((rows >= 0) & (rows < ny))[:, :, None]
              & ((cols >= 0) & (cols < nx))[:, None, :])
    values = image[np.clip(rows, 0, ny - 1)[:, :, None],
                   np.clip(cols, 0, nx - 1)[:, None, :]]
    return np.where(inside, values, fill)


def weighted_moments(image, error, x, y, fwhm):
    """
    Return Gaussian-weighted moments of sources around pixels of an image
    without background, which is zero for bad pixels.

    They are the centers ``x`` and ``y``; ``flux``, that of a source of the
    given FWHM with the same weighted sum; ``snr``; ``size``, the rms size
    under the weight; ``e1`` and ``e2``, the ellipticity under the weight;
    ``peak``, the highest pixel of the core, and ``peak_fraction``, its part
    of the weighted sum.
    """
    sigma = fwhm * gaussian_fwhm_to_sigma
    width = WEIGHT_WIDTH * sigma
    half = int(np.ceil(3.0 * width))
    data = cut_out(image, x, y, half)
    variance = cut_out(error, x, y, half)**2
    grid = np.arange(-half, half + 1.0)
    dx, dy = np.zeros(len(x)), np.zeros(len(x))
    core = np.hypot(grid[:, None], grid) <= max(1.5, 0.6 * fwhm)

    for _ in range(_MAX_ITERATIONS):
        weight = _gaussians(grid, dx, dy, width)
        product = weight * data
        total = product.sum((1, 2))
        safe = np.where(total > 0.0, total, np.inf)
        # twice the weighted offset, as the weight follows the center
        mx = product.sum(1) @ grid / safe - dx
        my = product.sum(2) @ grid / safe - dy
        limit = 0.5 * fwhm
        dx = np.clip(dx + np.where(total > 0, 1.5 * mx, 0), -limit, limit)
        dy = np.clip(dy + np.where(total > 0, 1.5 * my, 0), -limit, limit)

    weight = _gaussians(grid, dx, dy, width)
    product = weight * data
    total = product.sum((1, 2))
    safe = np.where(total > 0.0, total, np.nan)
    px, py = product.sum(1), product.sum(2)
    rx, ry = grid - dx[:, None], grid - dy[:, None]
    xx = (px * rx**2).sum(1) / safe
    yy = (py * ry**2).sum(1) / safe
    xy = np.einsum('ijk,ij,ik->i', product, ry, rx) / safe
    noise = np.sqrt((weight**2 * variance).sum((1, 2)))
    expected = width**2 / (sigma**2 + width**2)
    # The size and the orientation of a single pixel are undefined.
    trace = np.where(xx + yy > 0.0, xx + yy, 1.0)
    peak = np.where(core, data, -np.inf).max((1, 2))
    return {'x': x + dx, 'y': y + dy, 'flux': total / expected,
            'snr': total / noise,
            'size': np.sqrt(np.maximum(0.5 * (xx + yy), 0.0)),
            'e1': (xx - yy) / trace, 'e2': 2.0 * xy / trace,
            'peak': peak, 'peak_fraction': peak / safe}


def _gaussians(grid, dx, dy, width):
    """
    Return Gaussians of unit peak at the given centers.
    """
    gx = np.exp(-0.5 * ((grid - dx[:, None]) / width)**2)
    gy = np.exp(-0.5 * ((grid - dy[:, None]) / width)**2)
    return gy[:, :, None] * gx[:, None, :]


def weighted_size(fwhm):
    """
    Return the ``size`` of `weighted_moments` of a Gaussian with the FWHM.
    """
    return (fwhm * gaussian_fwhm_to_sigma * WEIGHT_WIDTH
            / np.hypot(1.0, WEIGHT_WIDTH))


def find_locus(size, snr, fwhm):
    """
    Return the size of the stars and the density of sources there; the size
    of a Gaussian of the FWHM and 0 if no source is near it.

    It is the first dense size near that of the PSF, the median of the sizes
    within 3 errors of the mode: nothing is smaller than a star, but galaxies
    may be more.
    """
    expected = weighted_size(fwhm)
    near = ((size > _LOCUS_SEARCH[0] * expected)
            & (size < _LOCUS_SEARCH[1] * expected))
    if not near.any():
        return expected, 0.0
    values, errors = np.log(size[near]), np.hypot(LOCUS_SCATTER,
                                                  1.0 / snr[near])
    step = 0.1 * errors.min()
    low, high = values.min() - 3.0 * step, values.max() + 3.0 * step
    grid = np.linspace(low, high, min(int((high - low) / step) + 1, 20_000))
    # each value is a Gaussian of 1.5 times its error
    density = (1.0 / errors * np.exp(
        -0.5 * ((grid[:, None] - values) / (1.5 * errors))**2)).sum(1)
    first = int(np.argmax(density > _FIRST_MODE * density.max()))
    ahead = max(int(1.5 * np.median(errors) / (grid[1] - grid[0])), 2)
    # Ascend to the mode; ripples narrower than the errors are noise.
    while (up := int(density[first:first + ahead].argmax())) > 0:
        first += up
    near = np.abs(values - grid[first]) < 3.0 * errors
    center = np.median(values[near]) if near.any() else grid[first]
    return float(np.exp(center)), float(density[first])
