# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Stars for the fit of an empirical PSF: images with weights, and the fit of
center, flux, and sky of each star to a given PSF.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation

from hyperphotutils.psf.moffat import moffat_images, solve_templates

__all__ = [
    'MIN_STARS',
    'FieldModel',
    'StarImages',
    'TooFewStarsError',
    'fit_stars',
]

# The smallest number of stars of a PSF.
MIN_STARS = 2

_MAX_STEP = 0.5


class TooFewStarsError(ValueError):
    """
    Error for too few stars of a PSF.

    ``problem`` is the message without the remedies, and ``reasons`` has the
    names of the star flags for which stars were rejected, or 'order' if the
    polynomial has too many terms.
    """

    def __init__(self, problem, remedies, reasons=()):
        # the arguments, with which processes send it to each other
        super().__init__(problem, remedies, tuple(reasons))
        self.problem = problem
        self.remedies = remedies
        self.reasons = tuple(reasons)

    def __str__(self):
        return f'{self.problem}: {self.remedies}'


@dataclass
class FieldModel:
    """
    A Moffat profile, unless ``moffat`` is `None`, plus splines
    ``(n_terms, size, size)``, both varying over the field.
    """

    grid: object
    moffat: object
    splines: np.ndarray

    def images(self, terms, x, y):
        """
        Return the PSF and its derivatives by the center, for each star.
        """
        n = 2 * self.grid.half + 1
        pixels = np.arange(n) - self.grid.half
        values = np.zeros((3, len(x), n, n))
        coefficients = np.tensordot(terms, self.splines, 1)
        for index, order in enumerate(((0, 0), (1, 0), (0, 1))):
            values[index] = self.grid.images(coefficients, x, y, order)
        if self.moffat is not None:
            image, slopes = moffat_images(
                self.moffat.shapes(terms), self.moffat.beta, x, y, pixels,
                pixels, derivatives='center')
            values[0] += image
            values[1:] += slopes
        return values

    def baseline(self, terms, x, y):
        """
        Return the Moffat profile, for each star.
        """
        n = 2 * self.grid.half + 1
        pixels = np.arange(n) - self.grid.half
        if self.moffat is None:
            return np.zeros((len(x), n, n))
        return moffat_images(self.moffat.shapes(terms), self.moffat.beta,
                             x, y, pixels, pixels)


@dataclass
class StarImages:
    """
    The images of stars and their parameters.
    """

    data: np.ndarray  # 0 for bad pixels
    weights: np.ndarray  # inverse variances; 0 for bad pixels
    x: np.ndarray  # the centers, relative to the central pixel
    y: np.ndarray
    terms: np.ndarray  # polynomial terms at the stars
    flux: np.ndarray = None
    sky: np.ndarray = None
    chi2: np.ndarray = None  # reduced
    excess: np.ndarray = None  # variance per axis beyond the PSF's, pixels^2
    excess_err: np.ndarray = None
    robust: np.ndarray = None  # factors of weights; 0 for rejected pixels

    def __len__(self):
        return len(self.data)

    def select(self, chosen):
        """
        Return a part of the stars.
        """
        parts = {name: None if value is None else value[chosen]
                 for name, value in vars(self).items()}
        return StarImages(**parts)


def fit_stars(stars, model, *, model_error, core, sky=True, n_steps=3,
              profile_error=(0.01, 0.01), chi2_radius=np.inf):
    """
    Fit center, flux, and sky of each star in ``n_steps`` linear steps,
    and set them, the robust weights, chi-squared, and excess in place.

    ``model_error`` is the error of the PSF as a fraction for the rejection
    of pixels, ``profile_error`` for their weights and for chi-squared,
    which is summed within ``chi2_radius``. Pixels within ``core`` are
    weighted down, but not rejected: without its core, a star would go
    astray.
    """
    half = model.grid.half
    grid = np.arange(-half, half + 1.0)
    radius = np.hypot(grid[:, None], grid)
    inner = radius <= min(half, chi2_radius)
    keep = radius <= core
    for step in range(n_steps + 1):
        psf, by_x, by_y = model.images(stars.terms, stars.x, stars.y)
        if step == 0:
            robust = (np.ones_like(psf) if stars.robust is None
                      else stars.robust)
            values, _ = solve_templates(
                [psf, np.ones_like(psf)] if sky else [psf], stars.data,
                stars.weights * robust)
            flux = values[:, 0]
            level = values[:, 1] if sky else np.zeros(len(stars))
        profile = flux[:, None, None] * psf
        residual = stars.data - profile - level[:, None, None]
        # Huber's weights (1964, Ann. Math. Stat. 35, 73) with 3 sigma; beyond
        # 6 sigma, no star is a cause: cosmic rays and faint companions are
        # rejected with the pixels around them
        deviation = np.abs(residual) / np.sqrt(
            _variance(stars.weights, profile, model_error))
        rejected = (deviation > 6.0) & (stars.weights > 0) & ~keep
        rejected = binary_dilation(rejected, np.ones((1, 3, 3), bool)) & ~keep
        robust = np.where(rejected, 0.0, np.minimum(
            1.0, 3.0 / np.maximum(deviation, 1e-12)))
        variance = _variance(stars.weights, profile, profile_error[0])
        weight = np.where(stars.weights > 0, robust / variance, 0.0)
        templates = [psf, flux[:, None, None] * by_x,
                     flux[:, None, None] * by_y]
        if sky:
            templates.append(np.ones_like(psf))
        if step == n_steps:
            break
        values, _ = solve_templates(templates, residual, weight)
        flux = flux + values[:, 0]
        stars.x = np.clip(stars.x + np.clip(values[:, 1], -_MAX_STEP,
                                            _MAX_STEP), -0.98, 0.98)
        stars.y = np.clip(stars.y + np.clip(values[:, 2], -_MAX_STEP,
                                            _MAX_STEP), -0.98, 0.98)
        if sky:
            level = level + values[:, 3]
    stars.flux, stars.sky, stars.robust = flux, level, robust
    used = (weight > 0) & inner
    dof = np.maximum(used.sum((1, 2)) - len(templates), 1)
    variance = _variance(stars.weights, profile, profile_error[1])
    stars.chi2 = np.where(used, robust * residual**2 / variance, 0.0).sum(
        (1, 2)) / dof
    # Half of the Laplacian is the derivative of a blurred star by the variance
    # of the blur: its coefficient is the variance along each axis beyond that
    # of the PSF, 0 for a star, more for a galaxy or a blend
    padded = np.pad(profile, ((0, 0), (1, 1), (1, 1)), mode='edge')
    laplacian = (padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1]
                 + padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2]
                 - 4.0 * profile)
    values, errors = solve_templates([*templates, 0.5 * laplacian], residual,
                                     weight)
    stars.excess, stars.excess_err = values[:, -1], errors[:, -1]


def _variance(weights, profile, profile_error):
    """
    Return the variance with the error of the PSF itself.
    """
    return (1.0 / np.maximum(weights, 1e-300)
            + (profile_error * profile)**2)
