# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
A PSF as a short sum of concentric Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.stats import gaussian_fwhm_to_sigma
from numpy.typing import ArrayLike

from hyperphotutils.utils.checks import check_integer

__all__ = ['ConcentricGaussians', 'fit_concentric_gaussians',
           'fit_gaussian_series']

# Bounds of the standard deviations, in pixels and relative to the size.
_MIN_SIGMA = 0.3
_MAX_SIGMA = 1.0

# Penalty of large weights of either sign.
_RIDGE = 5.0e-4

# Starts of the search: ratio of the widths of neighbors in the sum.
_RATIOS = (1.3, 1.6, 2.0, 2.8)

# For series of widths: the penalty, and the starts of the smallest width
# (relative to that of the core) and of the ratio, with their bounds.
_SERIES_RIDGE = 1.0e-4
_SERIES_STARTS = ((0.9, 1.12), (0.75, 1.2), (0.6, 1.4), (0.5, 1.3))
_SERIES_BOUNDS = ((0.4, 1.1), (1.05, 2.5))


@dataclass(frozen=True)
class ConcentricGaussians:
    """
    A sum of elliptical Gaussians with one center.

    Parameters
    ----------
    weights : 1D `~numpy.ndarray`
        The integral of each Gaussian; of either sign.

    matrices : 3D `~numpy.ndarray`
        The covariance matrices in square pixels, shape ``(n, 2, 2)``.

    center : tuple of 2 floats
        The center (x, y), relative to the central pixel.

    misfit : float
        The largest difference from the image, relative to its peak.
    """

    weights: np.ndarray
    matrices: np.ndarray
    center: tuple
    misfit: float

    def image(self, size: int) -> np.ndarray:
        """
        Return the sum at the pixel centers of a square image.

        Parameters
        ----------
        size : odd int
            The side of the image.

        Returns
        -------
        image : 2D `~numpy.ndarray`
            The image.
        """
        grid = np.arange(size) - size // 2
        profiles = _profiles(self.matrices, grid - self.center[0],
                             grid - self.center[1])
        return np.tensordot(self.weights, profiles, 1)


def fit_concentric_gaussians(image: ArrayLike,
                             n_gaussians: int = 3) -> ConcentricGaussians:
    """
    Fit a short sum of concentric Gaussians to an image of a PSF.

    Sources whose beam is such a sum have closed forms: a Gaussian source
    with the covariance matrix S is the sum of Gaussians with matrices
    ``matrices[i] + S``. The sum describes the values at the pixel
    centers, so that it holds the pixel if the image does.

    Parameters
    ----------
    image : 2D array_like
        The PSF, of odd size, centered on the central pixel.

    n_gaussians : int, optional
        The number of Gaussians. Wings take two or three; side lobes take
        one of a negative weight more.

    Returns
    -------
    mixture : `ConcentricGaussians`
        The Gaussians, by increasing width.

    Raises
    ------
    ValueError
        If the image is not square, of odd size, finite, and positive in
        its sum.

    Notes
    -----
    The weights are the solution of a linear problem for given matrices;
    center and matrices are found by `scipy.optimize.least_squares`.
    All pixels have the same weight: the largest error, which is what
    limits the search for companions, is then the smallest relative to
    the peak.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.utils import fit_concentric_gaussians
    >>> y, x = np.mgrid[-20:21, -20:21]
    >>> moffat = (1.0 + (x**2 + y**2) / 4.0**2)**-3.0
    >>> mixture = fit_concentric_gaussians(moffat / moffat.sum(), 3)
    >>> bool(mixture.misfit < 0.005)
    True
    """
    image = np.asarray(image, dtype=float)
    if (image.ndim != 2 or image.shape[0] != image.shape[1]
            or image.shape[0] % 2 == 0):
        msg = ('image must be square and of odd size, centered on its '
               f'central pixel: got the shape {image.shape}')
        raise ValueError(msg)
    if not (np.isfinite(image).all() and image.sum() > 0):
        msg = 'image must be finite and have a positive sum'
        raise ValueError(msg)
    check_integer(n_gaussians, 'n_gaussians')
    fits = [_fit(image, n_gaussians, ratio)
            for ratio in (_RATIOS if n_gaussians > 1 else _RATIOS[:1])]
    return min(fits, key=lambda fit: fit[0])[1]


def fit_gaussian_series(image: np.ndarray, n_gaussians: int,
                        core: ConcentricGaussians) -> ConcentricGaussians:
    """
    Fit a sum of concentric Gaussians whose widths are a geometric series.

    All Gaussians have the same axis ratio and angle. With only two
    parameters for all widths, sums of many Gaussians are found quickly
    and reliably; they also describe rings and side lobes.

    Parameters
    ----------
    image : 2D `~numpy.ndarray`
        The PSF, as for `fit_concentric_gaussians`.

    n_gaussians : int
        The number of Gaussians.

    core : `ConcentricGaussians`
        The fit of a single Gaussian, where this one begins.

    Returns
    -------
    mixture : `ConcentricGaussians`
        The Gaussians, by increasing width.
    """
    # slow to import, and only needed here
    from scipy.optimize import least_squares

    half = image.shape[0] // 2
    grid = np.arange(-half, half + 1.0)
    peak = image.max()
    sigma = np.linalg.det(core.matrices[0])**0.25
    unit = core.matrices[0] / sigma**2
    # the logarithm of the unit matrix, which is traceless
    values, vectors = np.linalg.eigh(unit)
    log = vectors @ np.diag(np.log(values)) @ vectors.T
    elongation = [log[0, 0], log[0, 1]]

    def solve(params):
        smallest, ratio, g1, g2, x, y = params
        widths = smallest + ratio * np.arange(n_gaussians)
        shape = np.column_stack((np.log(sigma) + widths,
                                 np.full(n_gaussians, g1),
                                 np.full(n_gaussians, g2)))
        matrices = _matrices(shape)
        design = _profiles(matrices, grid - x, grid - y).reshape(
            n_gaussians, -1)
        scale = np.linalg.norm(design, axis=1)
        design /= scale[:, None]
        scaled = np.linalg.solve(
            design @ design.T + _SERIES_RIDGE**2 * np.eye(n_gaussians),
            design @ image.ravel())
        return matrices, scaled / scale, (
            scaled @ design - image.ravel()) / peak

    lower, upper = np.transpose(
        [*np.log(_SERIES_BOUNDS), *[(-2.0, 2.0)] * 2, *[(-1.0, 1.0)] * 2])
    fits = [least_squares(
        lambda params: solve(params)[2],
        [*np.log(start), *elongation, *core.center],
        bounds=(lower, upper), max_nfev=15) for start in _SERIES_STARTS]
    best = min(fits, key=lambda fit: fit.cost).x
    matrices, weights, residual = solve(best)
    return ConcentricGaussians(weights, matrices,
                               (float(best[-2]), float(best[-1])),
                               float(np.abs(residual).max()))


def _fit(image, n, ratio):
    """
    Fit from one start; return the cost and the Gaussians.
    """
    # slow to import, and only needed here
    from scipy.optimize import least_squares

    half = image.shape[0] // 2
    grid = np.arange(-half, half + 1.0)
    # the FWHM of the disk with as many pixels above half the peak
    above = np.count_nonzero(image > 0.5 * image.max())
    sigma = 2.0 * np.sqrt(above / np.pi) * gaussian_fwhm_to_sigma
    widths = sigma * 0.9 * ratio**np.arange(n)
    bounds = np.log([_MIN_SIGMA, max(_MAX_SIGMA * half, 2.0 * sigma)])
    start = np.zeros((n, 3))
    start[:, 0] = np.clip(np.log(widths), bounds[0] + 1e-3, bounds[1] - 1e-3)
    start = np.append(start.ravel(), [0.0, 0.0])
    lower = np.append(np.tile([bounds[0], -1.0, -1.0], n), [-1.0, -1.0])
    upper = np.append(np.tile([bounds[1], 1.0, 1.0], n), [1.0, 1.0])
    peak = image.max()

    def solve(params):
        matrices = _matrices(params[:-2].reshape(n, 3))
        profiles = _profiles(matrices, grid - params[-2], grid - params[-1])
        design = profiles.reshape(n, -1).T
        # Gaussians of nearly the same width would cancel with large
        # weights: a ridge keeps them small
        scale = np.linalg.norm(design, axis=0)
        scaled = np.linalg.lstsq(
            np.vstack([design / scale, _RIDGE * np.eye(n)]),
            np.append(image.ravel(), np.zeros(n)), rcond=None)[0]
        weights = scaled / scale
        residual = design @ weights - image.ravel()
        return matrices, weights, residual / peak, _RIDGE * scaled / peak

    def cost(params):
        return np.concatenate(solve(params)[2:])

    result = least_squares(cost, start, bounds=(lower, upper), max_nfev=60)
    matrices, weights, residual, _ = solve(result.x)
    order = np.argsort(np.linalg.det(matrices))
    return result.cost, ConcentricGaussians(
        weights[order], matrices[order],
        (float(result.x[-2]), float(result.x[-1])),
        float(np.abs(residual).max()))


def _matrices(params):
    """
    Return covariance matrices from logarithmic sizes and two components
    of the elongation: sigma^2 times the exponential of a traceless
    symmetric matrix, which is positive for any values.
    """
    ln_sigma, g1, g2 = params.T
    size = np.hypot(g1, g2)
    cosh = np.cosh(size)
    ratio = np.where(size > 1e-8, np.sinh(size) / np.maximum(size, 1e-8),
                     1.0)
    variance = np.exp(2.0 * ln_sigma)
    return np.stack([
        np.stack([cosh + ratio * g1, ratio * g2], -1),
        np.stack([ratio * g2, cosh - ratio * g1], -1)],
        -2) * variance[:, None, None]


def _profiles(matrices, x, y):
    """
    Return Gaussians of unit integral, shape ``(n, len(y), len(x))``.
    """
    det = np.linalg.det(matrices)[:, None, None]
    xx, xy, yy = (matrices[:, i, j, None, None]
                  for i, j in ((0, 0), (0, 1), (1, 1)))
    quadratic = (yy * x**2 - 2.0 * xy * x * y[:, None]
                 + xx * y[:, None]**2) / det
    return np.exp(-0.5 * quadratic) / (2.0 * np.pi * np.sqrt(det))
