# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Elliptical Gaussians defined by their full widths at half maximum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import astropy.units as u
import numpy as np
from astropy.stats import gaussian_fwhm_to_sigma
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from hyperphotutils.utils.typing import FloatOrArray

__all__ = ['add_gaussians', 'gaussian_flux', 'gaussian_matrix',
           'wrap_angle']

# The largest number of pixels that are evaluated at once: they stay in the
# cache of a processor.
_CHUNK_PIXELS = 1 << 16


def gaussian_flux(amplitude: ArrayLike | u.Quantity, fwhm_major: ArrayLike,
                  fwhm_minor: ArrayLike) -> FloatOrArray | u.Quantity:
    r"""
    Return the integral of an elliptical Gaussian.

    .. math::

        F = 2 \pi \, A \, \sigma_{major} \, \sigma_{minor}
          = \frac{\pi}{4 \ln 2} \, A \,
            \mathrm{FWHM}_{major} \, \mathrm{FWHM}_{minor}

    Parameters
    ----------
    amplitude : float, array_like, or `~astropy.units.Quantity`
        The peak value.

    fwhm_major, fwhm_minor : float, array_like
        The full widths at half maximum in pixels.

    Returns
    -------
    flux : float, `~numpy.ndarray`, or `~astropy.units.Quantity`
        The integral over the plane, in the unit of ``amplitude`` times
        pixels.

    Examples
    --------
    >>> from hyperphotutils.utils import gaussian_flux
    >>> print(f'{gaussian_flux(1.0, 4.0, 3.0):.4f}')
    13.5971
    """
    return np.pi / (4.0 * np.log(2.0)) * amplitude * fwhm_major * fwhm_minor


def wrap_angle(theta: ArrayLike | u.Quantity) -> FloatOrArray | u.Quantity:
    """
    Wrap the position angle of an axis to the range [0, 180) degrees.

    Parameters
    ----------
    theta : float, array_like, or `~astropy.units.Quantity`
        The angle, in degrees if it is not a `~astropy.units.Quantity`.

    Returns
    -------
    theta : float, `~numpy.ndarray`, or `~astropy.units.Quantity`
        The equivalent angle in [0, 180) degrees.

    Examples
    --------
    >>> from hyperphotutils.utils import wrap_angle
    >>> print(wrap_angle(-30.0), wrap_angle(180.0))
    150.0 0.0
    """
    if hasattr(theta, 'unit'):
        return wrap_angle(theta.to_value(u.deg)) << u.deg
    wrapped = np.mod(theta, 180.0)
    # Tiny negative angles are rounded up to exactly 180.
    return np.where(wrapped == 180.0, 0.0, wrapped)[()]


def gaussian_matrix(fwhm_major: ArrayLike, fwhm_minor: ArrayLike,
                    theta: ArrayLike
                    ) -> tuple[FloatOrArray, FloatOrArray, FloatOrArray]:
    r"""
    Return the covariance matrices of elliptical Gaussians.

    Parameters
    ----------
    fwhm_major, fwhm_minor : array_like
        The full widths at half maximum in pixels.

    theta : array_like
        The angle of the major axis in degrees, counterclockwise from
        the positive x axis.

    Returns
    -------
    cov_xx, cov_xy, cov_yy : float or `~numpy.ndarray`
        The elements of the matrix
        :math:`R \, \mathrm{diag}(\sigma_{major}^2, \sigma_{minor}^2) \,
        R^T`, in square pixels.

    Examples
    --------
    >>> from hyperphotutils.utils import gaussian_matrix
    >>> xx, xy, yy = gaussian_matrix(4.0, 3.0, 90.0)
    >>> print(f'{xx:.3f} {xy:.3f} {yy:.3f}')
    1.623 0.000 2.885
    """
    var_major = (np.asarray(fwhm_major) * gaussian_fwhm_to_sigma)**2
    var_minor = (np.asarray(fwhm_minor) * gaussian_fwhm_to_sigma)**2
    angle = np.deg2rad(theta)
    cos, sin = np.cos(angle), np.sin(angle)
    return (var_major * cos**2 + var_minor * sin**2,
            (var_major - var_minor) * cos * sin,
            var_major * sin**2 + var_minor * cos**2)


def add_gaussians(image: NDArray[np.floating], x: ArrayLike, y: ArrayLike,
                  amplitude: ArrayLike, fwhm_major: ArrayLike,
                  fwhm_minor: ArrayLike, theta: ArrayLike, *,
                  n_sigma: float = 6.0, sign: Literal[1, -1] = 1) -> None:
    """
    Add elliptical Gaussians to an image, in place.

    Each Gaussian is evaluated at the pixel centers inside a square of
    half-width ``n_sigma`` standard deviations of its major axis,
    truncated at the edges of the image.

    Parameters
    ----------
    image : 2D `~numpy.ndarray` of float
        The image, which is modified.

    x, y : array_like
        The pixel coordinates of the centers.

    amplitude : array_like
        The peak values, in the unit of ``image``.

    fwhm_major, fwhm_minor : array_like
        The full widths at half maximum in pixels.

    theta : array_like
        The angle of the major axis in degrees, counterclockwise from
        the positive x axis.

    n_sigma : float, optional
        The half-width of the evaluated square in standard deviations.

    sign : {1, -1}, optional
        Add (1) or subtract (-1).

    Notes
    -----
    Sources with a parameter that is not finite are skipped, such as
    sources without a fit.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.utils import add_gaussians
    >>> image = np.zeros((41, 41))
    >>> add_gaussians(image, [20.0], [20.0], [1.0], [6.0], [4.0], [30.0])
    >>> print(f'{image[20, 20]:.1f} {image.sum():.3f}')
    1.0 27.194
    """
    params = np.stack(np.broadcast_arrays(
        *(np.ravel(np.asarray(value, dtype=float)) for value in
          (x, y, amplitude, fwhm_major, fwhm_minor, theta))))
    params = params[:, np.all(np.isfinite(params), axis=0)]
    half = np.ceil(n_sigma * params[3] * gaussian_fwhm_to_sigma)
    # Round up, so that there are only a few stamp sizes.
    half = (2 * np.ceil(half / 2)).astype(int)
    for size in np.unique(half):
        chosen = params[:, half == size]
        step = max(1, _CHUNK_PIXELS // (2 * size + 1)**2)
        for start in range(0, chosen.shape[1], step):
            _add_stamps(image, chosen[:, start:start + step], int(size),
                        sign)


def _add_stamps(image, params, half, sign):
    """
    Add Gaussians whose stamps all have the same half-width.
    """
    x, y, amplitude, fwhm_major, fwhm_minor, theta = params[:, :, None, None]
    xx, xy, yy = gaussian_matrix(fwhm_major, fwhm_minor, theta)
    det = xx * yy - xy**2
    offset = np.arange(-half, half + 1)
    col = np.rint(x).astype(int) + offset[None, None, :]
    row = np.rint(y).astype(int) + offset[None, :, None]
    dx, dy = col - x, row - y
    # The exponent, with few operations on whole stamps
    values = (xy / det * dy) * dx
    values -= 0.5 * yy / det * dx**2
    values -= 0.5 * xx / det * dy**2
    np.exp(values, out=values)
    values *= sign * amplitude
    add_stamps(image, row, col, values)


def add_stamps(image, row, col, values):
    """
    Add stamps to an image, in place, truncated at its edges.

    ``row`` and ``col`` broadcast to the 3D shape of ``values``.
    """
    ny, nx = image.shape
    inside = (col >= 0) & (col < nx) & (row >= 0) & (row < ny)
    if image.flags.c_contiguous:  # a single index is much faster
        index = row * nx + col
        if not inside.all():
            index, values = index[inside], values[inside]
        np.add.at(image.reshape(-1), index.ravel(), values.ravel())
        return
    rows, cols = np.broadcast_arrays(row, col)
    np.add.at(image, (rows[inside], cols[inside]), values[inside])


def add_stamp(image, stamp, x0, y0):
    """
    Add a stamp to an image, in place, truncated at its edges; its first pixel
    is (x0, y0) of the image.
    """
    low_y, low_x = max(y0, 0), max(x0, 0)
    part = image[low_y:max(y0 + stamp.shape[0], 0),
                 low_x:max(x0 + stamp.shape[1], 0)]
    ny, nx = part.shape
    part += stamp[low_y - y0:low_y - y0 + ny, low_x - x0:low_x - x0 + nx]
