# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fit of the kernel to the stars.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.fft import irfft2, rfft2
from scipy.ndimage import gaussian_filter, uniform_filter
from scipy.signal import fftconvolve

from hyperphotutils.subtraction.basis import GaussianPolynomialBasis
from hyperphotutils.subtraction.kernel import RegionKernel, SpatialKernel
from hyperphotutils.subtraction.polynomials import (
    polynomial_order,
    polynomial_terms,
)
from hyperphotutils.subtraction.solver import (
    StampEquations,
    solve_kernel,
    stamp_equations,
)
from hyperphotutils.subtraction.stamps import STAMP_STATUS, Stamps
from hyperphotutils.subtraction.tiling import smoothed

if TYPE_CHECKING:
    from astropy.table import QTable

    from hyperphotutils.subtraction.basis import DeltaBasis, FixedBasis
    from hyperphotutils.subtraction.frames import Frame

__all__ = ['Direction', 'KernelFit', 'StampCutouts', 'default_basis',
           'fit_kernel', 'flux_error']

# Gaussians of the default basis, in units of the sigma by which the PSFs
# differ, their least sigmas in pixels, and the degrees of the polynomials.
# The degrees 6, 4, and 2 are those of Alard & Lupton (1998, ApJ 503, 325).
# The wide Gaussian is for the wings of real PSFs: without it the flux scale
# of simulated Moffat functions is wrong by 0.7 per cent.
_SIGMA_FACTORS = (0.5, 1.0, 2.0, 4.0)
_SIGMA_FLOORS = (0.6, 0.9, 1.8, 3.6)
_DEGREES = (6, 4, 2, 2)
# The radius in sigmas of the widest Gaussian, and its range in pixels
_RADIUS_FACTOR, _RADIUS_RANGE = 3.2, (8, 20)
# So many stamps at a time stay in the cache of the processor
_BATCH = 16
# Of the kernel of a single star, in units of the diagonal
_RIDGE = 1e-4
# Of the reduced chi squared of all stars; the rest may vary
_MERIT_QUANTILE = 0.8


@dataclass(frozen=True)
class Direction:
    """
    Which image is convolved, and why.

    Parameters
    ----------
    convolve : str
        ``'template'`` or ``'science'``.

    reason : str
        ``'given'``, ``'widths'`` if the widths of the PSFs leave no
        doubt, or ``'trial'`` if both were fitted.

    merits : dict
        The error of the flux of a transient in the sky for each
        direction that was tried, times the root of the reduced chi
        squared below which four fifths of the stars are, in the unit of
        the science image. The smaller one is chosen.

    fits : dict
        The `KernelFit` of each direction that was tried.
    """

    convolve: str
    reason: str = 'given'
    merits: dict = field(default_factory=dict)
    fits: dict = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class StampCutouts:
    """
    The images, models, and residuals of one star.

    Parameters
    ----------
    science, template, error : 2D `~numpy.ndarray`
        The images above the levels of their skies, and the standard
        deviation of the difference, NaN where a pixel has no weight.

    model, local_model : 2D `~numpy.ndarray`
        The convolved image with the kernel of the field, and with the
        kernel that fits this star best, both with the background that
        fits best.

    residual, local_residual : 2D `~numpy.ndarray`
        The image that is not convolved minus these models.

    functions : 3D `~numpy.ndarray`
        The image convolved with each function of the basis.
    """

    science: np.ndarray
    template: np.ndarray
    error: np.ndarray
    model: np.ndarray
    local_model: np.ndarray
    residual: np.ndarray
    local_residual: np.ndarray
    functions: np.ndarray


@dataclass(frozen=True)
class KernelFit:
    """
    A fitted kernel and how it was found.

    Parameters
    ----------
    stamps : `Stamps`
        The images and the stars.

    direction : `Direction`
        Which image is convolved.

    basis : object
        The functions of which the kernel is made.

    kernel : `SpatialKernel` or `RegionKernel`
        The kernel.

    solutions : tuple of `Solution`
        The solution of the equations of each region.

    table : `~astropy.table.QTable`
        The stars, with the reduced chi squared ``chi2``, the number of
        pixels ``n_pixels``, and the ``scale`` of those that were in the
        fit: their flux relative to the model.
    """

    stamps: Stamps
    direction: Direction
    basis: GaussianPolynomialBasis | DeltaBasis | FixedBasis
    kernel: SpatialKernel | RegionKernel
    solutions: tuple
    table: QTable

    @property
    def target(self) -> Frame:
        """
        The image that is not convolved.
        """
        return (self.stamps.science if self.direction.convolve == 'template'
                else self.stamps.template)

    @property
    def source(self) -> Frame:
        """
        The image that is convolved.
        """
        return (self.stamps.template if self.direction.convolve == 'template'
                else self.stamps.science)

    def stamp(self, number: int) -> StampCutouts:
        """
        Return the cutouts of a star.

        Parameters
        ----------
        number : int
            Its ``id`` in the table.

        Returns
        -------
        cutouts : `StampCutouts`
            The cutouts.
        """
        place = np.flatnonzero(self.table['id'] == number)
        if len(place) != 1:
            msg = f'there is no star with the id {number!r}'
            raise ValueError(msg)
        x, y = (np.asarray(self.table[name])[place] for name in ('x', 'y'))
        source, _, target, weight = _stamp_data(self, x, y)
        functions = self.basis.convolve(source)[0]
        equations = stamp_equations(self.basis, source, target, weight)
        normal, right = equations.normal[0], equations.right[0]
        scale = np.maximum(np.diag(normal), 1e-300)**-0.5
        # a small ridge: one star does not determine all coefficients
        local = scale * np.linalg.solve(
            normal * scale[:, None] * scale + _RIDGE * np.eye(len(right)),
            right * scale)
        local_model = np.tensordot(local[:-1], functions, 1) + local[-1]
        model = fftconvolve(source[0], self.kernel(x[0], y[0]),
                            mode='valid')
        if weight.any():
            model += np.average(target[0] - model, weights=weight[0])
        half = self.stamps.half
        science, template = (frame.stamps(x, y, half)[0][0] for frame in (
            self.stamps.science, self.stamps.template))
        with np.errstate(divide='ignore'):
            error = np.where(weight[0] > 0.0, weight[0]**-0.5, np.nan)
        return StampCutouts(science, template, error, model, local_model,
                            target[0] - model, target[0] - local_model,
                            functions)


def fit_kernel(stamps, direction, basis, *, n_regions=(1, 1),
               kernel_order, scale_order, background_order, sigma_clip):
    """
    Fit the kernel, or one for each region, to the stars.
    """
    used = stamps.used
    x, y = (np.asarray(stamps.table[name])[used] for name in 'xy')
    fit = KernelFit(stamps, direction, basis, None, None, None)
    equations = _equations_of_stamps(fit, x, y)
    shape = stamps.science.shape
    highest = max(*np.atleast_1d(kernel_order), scale_order,
                  background_order)
    terms = polynomial_terms(x, y, highest, shape)
    values = np.full((3, len(x)), np.nan)
    # each region has its own stars, but all share the positions from -1 to 1
    rows, columns = (np.clip(axis * n // size, 0, n - 1) for axis, size, n
                     in zip((y, x), shape, n_regions, strict=True))
    solutions = []
    for region in np.ndindex(*n_regions):
        inside = (rows == region[0]) & (columns == region[1])
        if not inside.any():
            msg = (f'the region {region} (along y and x) has no star for the '
                   'kernel: take fewer n_regions, or a lower threshold')
            raise ValueError(msg)
        # two stars for each term determine a background
        n_terms = max(np.count_nonzero(inside) // 2, 1)
        solution = solve_kernel(
            equations[inside], terms[inside], kernel_order=kernel_order,
            scale_order=scale_order,
            background_order=min(background_order,
                                 polynomial_order(n_terms)),
            penalty=basis.penalty, sigma_clip=sigma_clip,
            smoothness=getattr(basis, 'smoothness', None))
        solutions.append(solution)
        values[:, inside] = (solution.chi2, solution.scale,
                             solution.weight)
    images = basis.images
    kernels = [SpatialKernel(np.tensordot(solution.coefficients, images, 1),
                             shape) for solution in solutions]
    kernel = (kernels[0] if len(kernels) == 1
              else RegionKernel(kernels, n_regions))
    chi2, scale, weight = values
    table = stamps.table.copy()
    status = np.array(table['status'])
    status[used[weight == 0.0]] = 'CLIPPED'
    table['status'] = status
    table['reason'] = [STAMP_STATUS[name] for name in status]
    for name, column, missing in (('chi2', chi2, np.nan),
                                  ('scale', scale, np.nan),
                                  ('n_pixels', equations.n_pixels, 0)):
        table[name] = missing
        table[name][used] = column
    return replace(fit, kernel=kernel, solutions=tuple(solutions),
                   table=table)


def default_basis(stamps, radius):
    """
    Return Gaussians that suit the widths of the stars.
    """
    matching = stamps.matching_sigma
    sigmas = np.maximum(np.multiply(_SIGMA_FACTORS, matching),
                        _SIGMA_FLOORS)
    if radius is None:
        radius = int(np.clip(np.ceil(_RADIUS_FACTOR * sigmas[-1]),
                             *_RADIUS_RANGE))
    return GaussianPolynomialBasis(sigmas, _DEGREES, radius)


def _equations_of_stamps(fit, x, y):
    """
    Set up the equations a batch at a time, as the stamps of all stars
    convolved with all functions are much larger than an image.
    """
    parts = []
    for first in range(0, len(x), _BATCH):
        batch = slice(first, first + _BATCH)
        source, variance, target, weight = _stamp_data(fit, x[batch],
                                                       y[batch])
        # the variance of the sky: where there is much light, noise is not
        # what matters, and the variances of filled pixels are no noise
        parts.append(stamp_equations(
            fit.basis, source, target, weight,
            source_variance=np.median(variance, axis=(1, 2)),
            noise_kernel=fit.source.noise_kernel))
    return StampEquations(*(
        np.concatenate([getattr(part, name) for part in parts])
        for name in ('normal', 'right', 'square', 'n_pixels', 'noise')),
        parts[0].noise_form)


def _stamp_data(fit, x, y):
    """
    Return the source, its variance, the target, and the weights of
    stamps.
    """
    stamps, radius = fit.stamps, fit.basis.radius
    source, source_variance, _ = fit.source.stamps(x, y,
                                                   stamps.half + radius)
    target, variance, bad = fit.target.stamps(x, y, stamps.half + 1)
    # the noise of the data must not decide which of them count
    variance = uniform_filter(variance, (0, 3, 3))
    inner = np.s_[:, 1:-1, 1:-1]
    margin = np.s_[:, radius:-radius, radius:-radius]
    if fit.kernel is None:
        # the square of a Gaussian is one, too
        ratio = (stamps.flux_ratio if fit.source is stamps.template
                 else 1.0 / stamps.flux_ratio)
        sigma = max(stamps.matching_sigma, _SIGMA_FLOORS[0])
        convolved = gaussian_filter(
            source_variance, (0, sigma / np.sqrt(2), sigma / np.sqrt(2)))
        grid = np.arange(-4 * _RADIUS_RANGE[1], 4 * _RADIUS_RANGE[1] + 1)
        along = np.exp(-0.5 * (grid / sigma)**2)
        gaussian = np.outer(along, along)[None] / along.sum()**2
        convolved = convolved[margin] * ratio**2 * np.sum(
            smoothed(gaussian, fit.source.noise_kernel)**2)
    else:
        squares = smoothed(fit.kernel(x, y), fit.source.noise_kernel)**2
        convolved = fftconvolve(source_variance, squares, mode='valid',
                                axes=(1, 2))
    weight = np.where(bad[inner], 0.0,
                      1.0 / (variance[inner] + convolved))
    return source, source_variance, target[inner], weight


def flux_error(fit):
    """
    Return the error of a transient's flux on the scale of the science
    image, for comparing directions.

    The PSF of the target is taken for a Gaussian. The noise of the
    difference has the power V_t + V_s |K(k)|^2, so that the smallest
    variance of a flux is the inverse of the mean of |P(k)|^2 over it.
    """
    kernel = fit.kernel
    middle = [0.5 * (size - 1) for size in kernel.shape[::-1]]
    image = kernel(*middle)
    size = 4 * kernel.radius
    is_science = fit.direction.convolve == 'template'
    sigma = (fit.stamps.sigma_science if is_science
             else fit.stamps.sigma_template)
    grid = np.minimum(np.arange(size), size - np.arange(size))
    psf = np.exp(-0.5 * (grid[:, None]**2 + grid**2) / sigma**2)
    signal = np.abs(rfft2(psf / psf.sum()))**2
    spectra = [1.0 if frame.noise_kernel is None else
               np.abs(rfft2(frame.noise_kernel, s=(size, size)))**2
               for frame in (fit.target, fit.source)]
    noise = (fit.target.sky_variance * spectra[0] + fit.source.sky_variance
             * spectra[1] * np.abs(rfft2(image, s=(size, size)))**2)
    # the inverse transform at zero is the mean over all frequencies
    information = irfft2(signal / noise, s=(size, size))[0, 0]
    # all stars, as those that one direction clips may fit in the other
    chi2 = np.asarray(fit.table['chi2'])
    chi2 = np.quantile(chi2[np.isfinite(chi2)], _MERIT_QUANTILE)
    error = np.sqrt(chi2 / information)
    return float(error if is_science else error / abs(image.sum()))
