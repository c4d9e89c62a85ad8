# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Apertures with a local background for each source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperphotutils.aperture.photometry import (
    ellipse_overlap,
    measure_apertures,
)
from hyperphotutils.background.regressors import polynomial_terms
from hyperphotutils.utils.gaussians import gaussian_flux, gaussian_matrix

if TYPE_CHECKING:
    from astropy.table import Table

    from hyperphotutils.blend.beams import BeamProfile
    from hyperphotutils.noise.model import NoiseModel

__all__ = ['LocalApertures', 'make_local_apertures', 'measure_sources']

# Eigenvalues of the normal matrix below this fraction of the largest are
# treated as zero, so that a source with few pixels gets the part of the
# polynomial that they determine.
_RCOND = 1e-10


@dataclass(frozen=True)
class LocalApertures:
    """
    Pixel weights of apertures with a local background.

    The weighted sum over the residual of a map (with all sources
    subtracted) is its sum in the aperture minus that of a polynomial
    fitted by least squares to a disk around the source.

    Parameters
    ----------
    rows, cols : int `~numpy.ndarray` of shape (n, p)
        The pixel indices around each source, clipped to the map.

    usable : bool `~numpy.ndarray` of shape (n, p)
        Whether the pixels are on the map and not masked.

    dx, dy : 1D int `~numpy.ndarray` of shape (p,)
        The offsets from the central pixel.

    weights : `~numpy.ndarray` of shape (n, p)
        The weights, 0 where not usable.

    background_weights : `~numpy.ndarray` of shape (n, p)
        The part of the weights that subtracts the background.

    solution : `~numpy.ndarray` of shape (n, k, p)
        The matrix that converts pixel values to the coefficients of the
        polynomial.

    basis : `~numpy.ndarray` of shape (n, k, p)
        The terms of the polynomial at the pixels, relative to the
        position of the source.
    """

    rows: np.ndarray
    cols: np.ndarray
    usable: np.ndarray
    dx: np.ndarray
    dy: np.ndarray
    weights: np.ndarray
    background_weights: np.ndarray
    solution: np.ndarray
    basis: np.ndarray

    def values(self, image: np.ndarray) -> np.ndarray:
        """
        Return the pixel values around each source, 0 where not usable.

        Parameters
        ----------
        image : 2D `~numpy.ndarray`
            The image.

        Returns
        -------
        values : `~numpy.ndarray` of shape (n, p)
            The values.
        """
        return np.where(self.usable, image[self.rows, self.cols], 0.0)

    def sums(self, residual: np.ndarray) -> np.ndarray:
        """
        Return the weighted sum for each source.

        Parameters
        ----------
        residual : 2D `~numpy.ndarray`
            The map minus the Gaussians of all sources.

        Returns
        -------
        sums : 1D `~numpy.ndarray` of shape (n,)
            The sums.
        """
        return np.sum(self.weights * self.values(residual), axis=1)

    def level(self, residual: np.ndarray) -> np.ndarray:
        """
        Return the background at the position of each source.

        Parameters
        ----------
        residual : 2D `~numpy.ndarray`
            The map minus the Gaussians of all sources.

        Returns
        -------
        level : 1D `~numpy.ndarray` of shape (n,)
            The values of the polynomials.
        """
        values = self.values(residual)
        return (self.solution[:, :1] * values[:, None, :]).sum(axis=(1, 2))

    def variance(self, noise: NoiseModel) -> np.ndarray:
        """
        Return the variance of the weighted sum for each source.

        Parameters
        ----------
        noise : `~hyperphotutils.noise.NoiseModel`
            The noise of the map.

        Returns
        -------
        variance : 1D `~numpy.ndarray` of shape (n,)
            The variances.
        """
        center = np.flatnonzero((self.dx == 0) & (self.dy == 0))[0]
        return noise.sum_variance(self.weights, self.cols[:, center],
                                  self.rows[:, center], self.dx, self.dy)

    def background(self, residual: np.ndarray, radius: float) -> np.ndarray:
        """
        Return an image of the background.

        It is the mean of the polynomials, weighted by a Gaussian of the
        distance from their sources, and NaN farther than ``radius`` from
        all sources.

        Parameters
        ----------
        residual : 2D `~numpy.ndarray`
            The map minus the Gaussians of all sources.

        radius : float
            The radius in pixels.

        Returns
        -------
        background : 2D `~numpy.ndarray`
            The image of the background.
        """
        total, norm = np.zeros(residual.shape), np.zeros(residual.shape)
        self.add_background(residual, radius, total, norm)
        return np.where(norm > 0.0, total / np.where(norm > 0.0, norm, 1.0),
                        np.nan)

    def add_background(self, residual: np.ndarray, radius: float,
                       total: np.ndarray, norm: np.ndarray) -> None:
        """
        Add the weighted backgrounds and their weights to two images.

        The weight of a polynomial is a Gaussian of the distance from its
        source, and zero farther than ``radius``.

        Parameters
        ----------
        residual : 2D `~numpy.ndarray`
            The map minus the Gaussians of all sources.

        radius : float
            The radius in pixels.

        total, norm : 2D `~numpy.ndarray`
            The sums of the weighted backgrounds and of the weights,
            changed in place.
        """
        values = self.values(residual)
        coeffs = (self.solution @ values[:, :, None])[:, :, 0]
        polynomial = (coeffs[:, None, :] @ self.basis)[:, 0]
        distance2 = np.broadcast_to(self.dx**2 + self.dy**2,
                                    self.usable.shape)
        near = np.exp(-2.0 * distance2 / radius**2)
        use = self.usable & (distance2 <= radius**2)
        pixels = self.rows[use], self.cols[use]
        np.add.at(total, pixels, (near * polynomial)[use])
        np.add.at(norm, pixels, near[use])


def make_local_apertures(x: np.ndarray, y: np.ndarray, semimajor: np.ndarray,
                         semiminor: np.ndarray, theta_deg: np.ndarray, *,
                         mask: NDArray[np.bool_], radius: float,
                         order: int = 1) -> LocalApertures:
    """
    Return elliptical apertures with local backgrounds.

    Parameters
    ----------
    x, y : 1D `~numpy.ndarray`
        The pixel coordinates of the sources, all finite.

    semimajor, semiminor : 1D `~numpy.ndarray`
        The semi-axes of the apertures in pixels.

    theta_deg : 1D `~numpy.ndarray`
        The angles of the major axes in degrees, counterclockwise from
        the positive x axis.

    mask : 2D bool `~numpy.ndarray`
        `True` for pixels that are not used.

    radius : float
        The radius in pixels of the disk in which the background is
        fitted.

    order : int, optional
        The total degree of the background polynomial, -1 for none.

    Returns
    -------
    apertures : `LocalApertures`
        The apertures.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.aperture import make_local_apertures
    >>> image = 5.0 + 0.1 * np.arange(41.0) * np.ones((41, 1))
    >>> apertures = make_local_apertures(
    ...     np.array([20.0]), np.array([20.0]), np.array([4.0]),
    ...     np.array([3.0]), np.array([30.0]), radius=8.0,
    ...     mask=np.zeros((41, 41), dtype=bool))
    >>> print(abs(apertures.sums(image)).max() < 1e-9)
    True
    """
    ny, nx = mask.shape
    col = np.clip(np.floor(x + 0.5).astype(int), 0, nx - 1)
    row = np.clip(np.floor(y + 0.5).astype(int), 0, ny - 1)
    reach = max(radius, np.max(semimajor, initial=0.0)) + 1.0
    half = int(np.ceil(reach))
    dy, dx = np.mgrid[-half:half + 1, -half:half + 1].reshape(2, -1)
    rows, cols = row[:, None] + dy, col[:, None] + dx
    on_map = (rows >= 0) & (rows < ny) & (cols >= 0) & (cols < nx)
    rows, cols = np.where(on_map, rows, 0), np.where(on_map, cols, 0)
    usable = on_map & ~mask[rows, cols]

    source, y_pix, x_pix, overlap = ellipse_overlap(
        x, y, semimajor, semiminor, theta_deg)
    inside = np.zeros(usable.shape)
    column = ((y_pix - row[source] + half) * (2 * half + 1)
              + x_pix - col[source] + half)
    inside[source, column] = overlap
    inside *= usable

    u_x = (col - x)[:, None] + dx
    u_y = (row - y)[:, None] + dy
    terms = ([] if order < 0
             else list(zip(*polynomial_terms(order), strict=True)))
    basis = np.empty((len(x), len(terms), len(dx)))
    for k, (i, j) in enumerate(terms):
        basis[:, k] = (u_x / radius)**i * (u_y / radius)**j
    fitted = basis * (usable & (dx**2 + dy**2 <= radius**2))[:, None, :]
    inverse = np.linalg.pinv(fitted @ np.swapaxes(fitted, 1, 2),
                             rcond=_RCOND, hermitian=True)
    solution = inverse @ fitted
    background = (inside[:, None, :] @ np.swapaxes(basis, 1, 2)) @ solution
    return LocalApertures(rows, cols, usable, dx, dy,
                          inside - background[:, 0], background[:, 0],
                          solution, basis)


def measure_sources(residual: np.ndarray, table: Table, noise: NoiseModel, *,
                    mask: NDArray[np.bool_], radius: float, order: int = 1,
                    fwhm_radius_ratio: float = 1.0,
                    fwhm_limits: tuple[float, float] | None = None,
                    ellipse: Sequence[ArrayLike] | None = None,
                    correct: bool = True, beam: BeamProfile | None = None
                    ) -> tuple[dict[str, np.ndarray], LocalApertures]:
    """
    Measure fitted sources in the apertures defined by their Gaussians.

    Parameters
    ----------
    residual : 2D `~numpy.ndarray`
        The map minus the Gaussians of all sources.

    table : `~astropy.table.Table`
        The fitted sources, with the columns ``x_fit``, ``y_fit``,
        ``amplitude_fit``, ``fwhm_major_fit``, ``fwhm_minor_fit``,
        ``theta_fit``, and ``flux_err``. Rows without a fit give NaN.

    noise : `~hyperphotutils.noise.NoiseModel`
        The noise of the map.

    mask : 2D bool `~numpy.ndarray`
        `True` for pixels to ignore; they are replaced by the model of
        the source.

    radius : float
        The radius in pixels of the disk in which the background of each
        source is fitted.

    order : int, optional
        The total degree of the background polynomial, -1 for none.

    fwhm_radius_ratio : float, optional
        The semi-axes of the apertures in units of the FWHMs.

    fwhm_limits : tuple of 2 floats, optional
        The smallest and the largest FWHM in pixels, to which the FWHMs
        are clipped.

    ellipse : tuple of 3 floats or array_like, optional
        The FWHMs in pixels and the angle in degrees of apertures that
        replace the fitted ellipses. Where one of them is not finite, the
        fitted ellipse is used.

    correct : bool, optional
        Whether to divide by the fraction of the Gaussian inside.

    beam : `~hyperphotutils.blend.BeamProfile`, optional
        The measured beam, if the sources are Gaussians convolved with
        one.

    Returns
    -------
    measured : dict of 1D `~numpy.ndarray`
        ``aperture_flux``, ``aperture_flux_err``,
        ``aperture_correction``, ``aperture_residual`` (the sum of the
        residual in the aperture, without the correction), ``local_bkg``,
        and ``partial``.

    apertures : `LocalApertures`
        The apertures of the rows with a fit.

    Notes
    -----
    The flux in the aperture is :math:`S = w^T (d - P r)`, with the
    aperture weights :math:`w`, the map :math:`d` without other sources,
    the matrix :math:`P` of the background fit, and the residual
    :math:`r = n - g \\, \\delta F`, where :math:`n` is the noise,
    :math:`\\delta F` the error of the fitted flux, and :math:`g` the
    profile of unit flux. The error of the flux is therefore

    .. math::

        \\delta S = (w - P^T w)^T n + f \\, \\delta F ,
        \\quad f = (P^T w)^T g .

    The fitted flux is the best linear unbiased estimate, so its
    covariance with any other unbiased estimate equals its own variance
    (Gauss-Markov theorem). This gives the covariance of the two terms.
    """
    columns = [np.asarray(getattr(table[name], 'value', table[name]), float)
               for name in ('x_fit', 'y_fit', 'amplitude_fit',
                            'fwhm_major_fit', 'fwhm_minor_fit')]
    columns.append(table['theta_fit'].to_value('deg'))
    # Given ellipses replace the fitted shapes.
    shape = columns[3:]
    if ellipse is not None:
        given = np.all([np.isfinite(value) for value in np.broadcast_arrays(
            *ellipse)], axis=0)
        shape = [np.where(given, value, fitted) for value, fitted in
                 zip(ellipse, shape, strict=True)]
    *widths, theta = shape
    if fwhm_limits is not None:
        widths = np.clip(widths, *fwhm_limits)
    axes = (*(fwhm_radius_ratio * width for width in widths), theta)
    measured = measure_apertures(np.zeros(residual.shape), *columns,
                                 mask=mask, axes=axes, correct=correct,
                                 beam=beam)
    known = np.isfinite(measured['aperture_flux'])
    x, y, _, major, minor, theta = (column[known] for column in columns)
    apertures = make_local_apertures(
        x, y, *(axis[known] for axis in axes), mask=mask, radius=radius,
        order=order)
    correction = measured['aperture_correction'][known]
    left = apertures.sums(residual)
    measured['aperture_flux'][known] += correction * left
    measured['aperture_residual'] = np.full(len(known), np.nan)
    measured['aperture_residual'][known] = left
    flux_err = np.asarray(getattr(table['flux_err'], 'value',
                                  table['flux_err']), float)[known]
    variance = apertures.variance(noise) + flux_err**2 * _shared_noise(
        apertures, x, y, (major, minor, theta), beam)
    measured['aperture_flux_err'][known] = correction * np.sqrt(variance)
    measured['local_bkg'] = np.full(len(known), np.nan)
    measured['local_bkg'][known] = apertures.level(residual)
    return measured, apertures


def _shared_noise(apertures, x, y, shape, beam):
    """
    Return the variances due to the error of the fitted flux, in units of
    its square.
    """
    components, area = [(1.0, *shape)], gaussian_flux(1.0, *shape[:2])
    if beam is not None:
        *components, area = beam.components(*shape)
        components = zip(*components, strict=True)
    u_x, u_y = apertures.cols - x[:, None], apertures.rows - y[:, None]
    profile = np.zeros(u_x.shape)
    for share, *ellipse in components:
        xx, xy, yy = gaussian_matrix(*ellipse)
        det = (xx * yy - xy**2)[:, None]
        xx, xy, yy = (element[:, None] / det for element in (xx, xy, yy))
        profile += np.reshape(share, (-1, 1)) * np.exp(
            -0.5 * (yy * u_x**2 - 2.0 * xy * u_x * u_y + xx * u_y**2))
    profile /= area[:, None]
    lost = np.sum(apertures.background_weights * profile, axis=1)
    kept = np.sum(apertures.weights * profile, axis=1)
    # The theorem does not apply if fixed shapes are far from the true ones.
    return np.maximum(lost**2 + 2.0 * lost * kept, 0.0)
