# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exact overlap of ellipses with pixels, and photometry in ellipses.

All functions take arrays without units, with one entry per source, and
do not loop over the sources.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperphotutils.aperture.limits import check_limits
from hyperphotutils.utils.gaussians import gaussian_flux

if TYPE_CHECKING:
    from hyperphotutils.blend.beams import BeamProfile
    from hyperphotutils.utils.typing import FloatOrArray

__all__ = [
    'ellipse_overlap',
    'gaussian_enclosed_fraction',
    'measure_apertures',
]

# Pixels processed at once, which bounds the memory to about 100 MB.
_CHUNK_PIXELS = 400_000

# Sampling of one quadrant in the enclosed-fraction integral.
_N_QUADRANT = 256


def ellipse_overlap(x: ArrayLike, y: ArrayLike, semimajor: ArrayLike,
                    semiminor: ArrayLike, theta_deg: ArrayLike, *,
                    shape: tuple[int, int] | None = None
        ) -> (tuple[NDArray[np.integer], NDArray[np.integer],
              NDArray[np.integer], np.ndarray]):
    """
    Compute the exact overlap of many ellipses with the pixels.

    Each ellipse is mapped to the unit circle, where a pixel becomes a
    parallelogram. Its intersection with the circle is summed edge by
    edge with Green's theorem: the part of an edge inside the circle
    contributes a triangle with the center, the part outside a circular
    sector. Only the pixels that the ellipse's edge can cross need this.

    Parameters
    ----------
    x, y : array_like
        The centers of the N ellipses in pixels. The center of the first
        pixel is at (0, 0).

    semimajor, semiminor : array_like
        The semi-axes in pixels, of shape (N,) or scalars. They must be
        positive; ``semimajor`` may be the shorter one.

    theta_deg : array_like
        The angle of ``semimajor`` from the positive x axis,
        counterclockwise, in degrees.

    shape : 2-tuple of int or `None`, optional
        The shape ``(ny, nx)`` of an image. If given, only pixels within
        it are returned. If `None` (default), all the pixels are
        returned, including those with negative indices.

    Returns
    -------
    source, y_index, x_index : 1D `~numpy.ndarray` of int
        The index of the ellipse and of the pixel, for every pixel with
        a non-zero overlap, ordered by ellipse and row. Ellipses with a
        non-finite parameter have no pixels.

    weight : 1D `~numpy.ndarray`
        The overlap as a fraction of the pixel's area, in (0, 1].

    Raises
    ------
    ValueError
        If a semi-axis is zero or negative.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.aperture import ellipse_overlap
    >>> source, y_index, x_index, weight = ellipse_overlap(
    ...     [10.2, 31.0], [12.0, 8.7], [4.0, 5.0], [3.0, 2.0], [30.0, 0.0])
    >>> area = np.bincount(source, weights=weight)
    >>> print(area / np.pi)
    [12. 10.]
    """
    ellipses = _broadcast_ellipses(x, y, semimajor, semiminor, theta_deg)
    chunks = list(_iter_overlaps(ellipses, shape=shape))
    if not chunks:
        empty = np.zeros(0, dtype=int)
        return empty, empty.copy(), empty.copy(), np.zeros(0)
    return tuple(np.concatenate(parts) for parts in zip(*chunks, strict=True))


def gaussian_enclosed_fraction(fwhm_major: ArrayLike, fwhm_minor: ArrayLike,
                               semimajor: ArrayLike,
                               semiminor: ArrayLike) -> FloatOrArray:
    """
    Compute the fraction of a Gaussian's flux inside a coaxial ellipse.

    The ellipse has the center and the orientation of the Gaussian, but
    axes of any length. If the ratio r of semi-axis to FWHM is the same
    on both axes, the fraction is ``1 - exp(-4 ln(2) r**2)``. In general
    it is the mean of ``1 - exp(-rho**2 / 2)`` over the angle, where rho
    is the distance of the edge of the ellipse from the center, in
    coordinates scaled to unit standard deviations.

    Parameters
    ----------
    fwhm_major, fwhm_minor : float or array_like
        The full widths at half maximum of the Gaussian.

    semimajor, semiminor : float or array_like
        The semi-axes of the ellipse along ``fwhm_major`` and
        ``fwhm_minor``, in the same unit.

    Returns
    -------
    fraction : float or `~numpy.ndarray`
        The enclosed fraction in [0, 1]. NaN where an input is NaN.

    Examples
    --------
    >>> from hyperphotutils.aperture import gaussian_enclosed_fraction
    >>> print(gaussian_enclosed_fraction(5.0, 4.0, 5.0, 4.0))
    0.9375
    >>> print(round(gaussian_enclosed_fraction(5.0, 4.0, 4.0, 4.0), 4))
    0.8846
    """
    # axes of the ellipse in standard deviations
    to_sigma = math.sqrt(8.0 * math.log(2.0))
    major = to_sigma * np.divide(semimajor, fwhm_major)
    minor = to_sigma * np.divide(semiminor, fwhm_minor)

    # midpoint rule: converges exponentially for a periodic integrand
    # (Trefethen & Weideman 2014, SIAM Rev. 56, 385)
    phi = (np.arange(_N_QUADRANT) + 0.5) * (0.5 * np.pi / _N_QUADRANT)
    inverse_square = (np.multiply.outer(major**-2.0, np.cos(phi)**2)
                      + np.multiply.outer(minor**-2.0, np.sin(phi)**2))
    fraction = np.mean(-np.expm1(-0.5 / inverse_square), axis=-1)
    return float(fraction) if np.ndim(fraction) == 0 else fraction


def measure_apertures(
        residual: np.ndarray, x: ArrayLike, y: ArrayLike, amplitude: ArrayLike,
        fwhm_major: ArrayLike, fwhm_minor: ArrayLike, theta_deg: ArrayLike, *,
        mask: NDArray[np.bool_] | None = None,
        error: float | np.ndarray | None = None,
        fwhm_radius_ratio: float = 1.0,
        fwhm_limits: Sequence[ArrayLike] | None = None,
        axes: Sequence[ArrayLike] | None = None, correct: bool = True,
        beam: BeamProfile | None = None) -> dict[str, np.ndarray]:
    """
    Measure the flux of each source in its own elliptical aperture.

    Use it after a simultaneous fit of blended sources. The semi-axes of
    the aperture are ``fwhm_radius_ratio`` times the FWHMs of the source,
    optionally clipped to limits, or are given by ``axes``. Each source
    is measured on the data minus the background minus all *other*
    sources, i.e., the residual of the full model plus the Gaussian of
    the source itself. Pixels that are off the map, masked, or non-finite
    are replaced by this Gaussian, and the source is marked as partial.

    The sum is multiplied by the aperture correction, the inverse of the
    fraction of the Gaussian's flux in the aperture. That fraction is
    taken from the Gaussian sampled at the pixel centers, like the data,
    so that a noiseless Gaussian gives exactly its flux; for sources of
    several pixels it tends to ``1 - exp(-4 ln(2) fwhm_radius_ratio**2)``,
    or to `gaussian_enclosed_fraction` for clipped FWHMs.

    Parameters
    ----------
    residual : 2D `~numpy.ndarray`
        The data minus the background minus all the Gaussians.

    x, y : array_like
        The positions of the N sources in pixels.

    amplitude : array_like
        The peaks of the Gaussians in the unit of ``residual``.

    fwhm_major, fwhm_minor : array_like
        The full widths at half maximum in pixels.

    theta_deg : array_like
        The angle of the major axis from the positive x axis,
        counterclockwise, in degrees.

    mask : 2D bool `~numpy.ndarray` or `None`, optional
        The pixels to ignore (`True`).

    error : float, 2D `~numpy.ndarray` or `None`, optional
        The 1-sigma noise of each pixel. The noise is assumed to be
        independent between pixels. If `None` (default), the flux errors
        are NaN.

    fwhm_radius_ratio : float, optional
        The semi-axes of the aperture in units of the FWHMs.

    fwhm_limits : pair of float or array_like, or `None`, optional
        The smallest and the largest FWHM in pixels from which apertures
        are made: each FWHM is replaced by ``numpy.clip(fwhm,
        *fwhm_limits)``. Arrays of shape (N,) have one limit per source;
        use 0 or infinity for no limit. The Gaussians themselves are not
        changed. If `None` (default), no FWHM is clipped.

    axes : tuple of 3 float or array_like, or `None`, optional
        The semi-major and semi-minor axes in pixels and the angle in
        degrees (as ``theta_deg``) of apertures that do not depend on the
        FWHMs of the sources. ``fwhm_radius_ratio`` is then ignored, and
        ``fwhm_limits`` must be `None`.

    correct : bool, optional
        Whether to apply the aperture correction.

    beam : `~hyperphotutils.blend.BeamProfile`, optional
        The measured beam, if the sources are Gaussians convolved with
        one.

    Returns
    -------
    result : dict of `~numpy.ndarray`
        ``aperture_flux`` and ``aperture_flux_err`` in the unit of
        ``residual`` (summed over pixels), ``aperture_correction`` (the
        factor applied to the sum, 1 if ``correct`` is `False`) and
        ``partial`` (bool), each of shape (N,). A source with a
        non-finite parameter or without any valid pixel is NaN.

    Raises
    ------
    ValueError
        If ``residual`` is not 2D, ``mask`` or ``error`` has a different
        shape, ``fwhm_radius_ratio``, a FWHM or an axis is not positive,
        or ``fwhm_limits`` is invalid or given together with ``axes``.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.aperture import measure_apertures
    >>> residual = np.zeros((41, 41))
    >>> result = measure_apertures(residual, [20.0], [20.0], [3.0], [5.0],
    ...                            [4.0], [30.0], error=0.1)
    >>> print(round(result['aperture_flux'][0] / 3.0, 3))
    22.662
    """
    residual = np.asarray(residual, dtype=float)
    if residual.ndim != 2:
        msg = f'residual must be a 2D array: got {residual.ndim} dimensions'
        raise ValueError(msg)
    if not fwhm_radius_ratio > 0:
        msg = f'fwhm_radius_ratio must be positive: got {fwhm_radius_ratio}'
        raise ValueError(msg)
    if mask is not None:
        mask = np.asarray(mask, dtype=bool)
        if mask.shape != residual.shape:
            msg = ('mask must have the same shape as residual, '
                   f'{residual.shape}: got {mask.shape}')
            raise ValueError(msg)
    if error is not None:
        error = np.asarray(error, dtype=float)
        if error.ndim and error.shape != residual.shape:
            msg = ('error must be a scalar or have the same shape as '
                   f'residual, {residual.shape}: got {error.shape}')
            raise ValueError(msg)

    amplitude, x = np.broadcast_arrays(np.asarray(amplitude, dtype=float), x)
    gaussians = _broadcast_ellipses(x, y, fwhm_major, fwhm_minor, theta_deg,
                                    names=('fwhm_major', 'fwhm_minor'))
    amplitude = np.broadcast_to(amplitude, gaussians.shape[1:])
    ellipses = _aperture_ellipses(gaussians, fwhm_radius_ratio, fwhm_limits,
                                  axes)
    share, components = [1.0], [gaussians]
    area = gaussian_flux(1.0, *gaussians[2:4])
    if beam is not None:
        share, *shapes, area = beam.components(
            *gaussians[2:4], np.rad2deg(gaussians[4]))
        shapes[2] = np.deg2rad(shapes[2])
        components = [np.array([*gaussians[:2], *shape])
                      for shape in zip(*shapes, strict=True)]
    sums = _sum_apertures(residual, ellipses, share, components, mask, error)
    # The correction is the integral of the profile over its sum in the
    # aperture, which is sampled like the data: the analytic fraction holds
    # for sources of several pixels only.
    usable = (sums['n_valid'] > 0) & np.isfinite(amplitude * area)
    blank = np.where(usable, 1.0, np.nan)
    correction = np.ones(len(blank))
    if correct:
        inside = np.where(sums['gaussian'] > 0, sums['gaussian'], np.nan)
        correction = area / inside
    flux = correction * (sums['residual'] + amplitude * sums['gaussian'])
    flux_err = correction * np.sqrt(sums['variance'])
    if error is None:
        flux_err = np.full(len(blank), np.nan)
    return {'aperture_flux': flux * blank,
            'aperture_flux_err': flux_err * blank,
            'aperture_correction': correction * blank,
            'partial': sums['n_invalid'] > 0}


def _aperture_ellipses(gaussians, ratio, limits, axes):
    """
    Return the apertures of Gaussians: x, y, FWHMs, and theta in radians.
    """
    x, y, *widths, theta = gaussians
    if axes is None:
        if limits is not None:
            widths = np.clip(widths, *check_limits(limits))
        return np.array([x, y, *(ratio * np.asarray(widths)), theta])
    if limits is not None:
        msg = ('fwhm_limits and axes are mutually exclusive: give only one '
               'of them')
        raise ValueError(msg)
    if len(axes) != 3:
        msg = ('axes must have three items, the semi-major axis, the '
               f'semi-minor axis, and the angle: got {len(axes)}')
        raise ValueError(msg)
    ellipses = _broadcast_ellipses(x, y, *axes)
    if ellipses.shape != gaussians.shape:
        msg = (f'axes must be scalars or have one entry per source, '
               f'{gaussians.shape[1]}: got {ellipses.shape[1]}')
        raise ValueError(msg)
    return ellipses


def _sum_apertures(residual, ellipses, share, components, mask, error):
    """
    Return the sums over each aperture, by name: those of w * residual, (w *
    error)**2, and w * (profile of unit amplitude) with the overlap w, and the
    numbers of valid and invalid pixels. The profile is a sum of Gaussians.
    """
    n_sources = ellipses.shape[1]
    names = ('residual', 'variance', 'gaussian', 'n_valid', 'n_invalid')
    sums = {name: np.zeros(n_sources) for name in names}
    valid_map = np.isfinite(residual)
    if mask is not None:
        valid_map &= ~mask
    if np.ndim(error):
        valid_map &= np.isfinite(error)

    ny, nx = valid_map.shape
    for source, iy, ix, weight in _iter_overlaps(ellipses):
        # bincount sums all sources of a chunk at once, without a loop.
        pixel = iy * nx + ix
        on_map = (iy >= 0) & (iy < ny) & (ix >= 0) & (ix < nx)
        valid = np.zeros(len(pixel), dtype=bool)
        valid[on_map] = valid_map.ravel()[pixel[on_map]]
        pixel = pixel[valid]
        weight_valid = weight[valid]
        values = {
            'residual': (valid, weight_valid * residual.ravel()[pixel]),
            'n_valid': (valid, None),
            'n_invalid': (~valid, None),
        }
        for peak, (x, y, fwhm_major, fwhm_minor, theta) in zip(
                share, components, strict=True):
            cos, sin = np.cos(theta)[source], np.sin(theta)[source]
            dx, dy = ix - x[source], iy - y[source]
            major = (dx * cos + dy * sin) / fwhm_major[source]
            minor = (dy * cos - dx * sin) / fwhm_minor[source]
            profile = np.exp(-4.0 * math.log(2.0) * (major * major
                                                     + minor * minor))
            sums['gaussian'] += peak * np.bincount(
                source, weights=weight * profile, minlength=n_sources)
        if error is not None:
            noise = error.ravel()[pixel] if error.ndim else error
            values['variance'] = (valid, (weight_valid * noise)**2)
        for name, (chosen, value) in values.items():
            sums[name] += np.bincount(source[chosen], weights=value,
                                      minlength=n_sources)
    return sums


def _broadcast_ellipses(x, y, major, minor, theta_deg, *,
                        names=('semimajor axes', 'semiminor axes')):
    """
    Return one array with the rows x, y, major, minor, and theta (radians).
    """
    args = [np.asarray(arg, dtype=float)
            for arg in (x, y, major, minor, theta_deg)]
    for name, axis in zip(names, args[2:4], strict=True):
        if np.any(axis <= 0):
            msg = f'{name} must be positive: got {np.nanmin(axis)}'
            raise ValueError(msg)
    ellipses = np.array(np.broadcast_arrays(*np.atleast_1d(*args)))
    if ellipses.ndim != 2:
        msg = ('the parameters of the ellipses must be scalars or 1D: got '
               f'{ellipses.ndim - 1} dimensions')
        raise ValueError(msg)
    ellipses[4] = np.deg2rad(ellipses[4])
    return ellipses


def _iter_overlaps(ellipses, *, shape=None):
    """
    Yield (source, iy, ix, weight) for bounded numbers of pixels.
    """
    x, y, semimajor, semiminor, theta = ellipses
    cos, sin = np.cos(theta), np.sin(theta)
    along_x = np.array([cos / semimajor, -sin / semiminor])
    along_y = np.array([sin / semimajor, cos / semiminor])
    for source, iy, ix in _iter_candidates(ellipses, shape):
        # pixel centers on the plane where the ellipse is the unit circle
        dx = ix - x[source]
        dy = iy - y[source]
        u = dx * along_x[0, source] + dy * along_y[0, source]
        v = dx * along_x[1, source] + dy * along_y[1, source]
        radius = np.sqrt(u * u + v * v)
        # A pixel is a parallelogram on this plane, with half diagonals up to
        # ``reach``: most are entirely inside or outside of the circle.
        reach = 0.5 * np.maximum(np.hypot(*(along_x + along_y)),
                                 np.hypot(*(along_x - along_y)))[source]

        weight = (radius + reach <= 1.0).astype(float)
        edge = np.flatnonzero((radius + reach > 1.0) & (radius - reach < 1.0))
        chosen = source[edge]
        area = _parallelogram_overlap(u[edge], v[edge], along_x[:, chosen],
                                      along_y[:, chosen])
        weight[edge] = np.minimum(area * (semimajor * semiminor)[chosen], 1.0)
        keep = np.flatnonzero(weight > 0)
        yield source[keep], iy[keep], ix[keep], weight[keep]


def _iter_candidates(ellipses, shape):
    """
    Yield the pixels of the bounding boxes of ellipses, in chunks of rows.
    """
    finite = np.flatnonzero(np.all(np.isfinite(ellipses), axis=0))
    x, y, semimajor, semiminor, theta = ellipses[:, finite]
    cos, sin = np.cos(theta), np.sin(theta)
    limits = []
    # the half sides of the box around a turned ellipse: its projections are
    # those of the two axes, added in quadrature
    for center, extent, n_pixels in (
            (x, np.hypot(semimajor * cos, semiminor * sin),
             None if shape is None else shape[1]),
            (y, np.hypot(semimajor * sin, semiminor * cos),
             None if shape is None else shape[0])):
        first = np.floor(center - extent + 0.5)
        last = np.ceil(center + extent - 0.5)
        if n_pixels is not None:
            first = np.clip(first, 0, n_pixels)
            last = np.clip(last, -1, n_pixels - 1)
        limits += [first.astype(int),
                   np.maximum((last - first).astype(int) + 1, 0)]
    x_first, width, y_first, height = limits

    # one entry per row: its ellipse, y, first x, and number of pixels
    n_rows = np.where(width > 0, height, 0)
    box = np.repeat(np.arange(len(finite)), n_rows)
    iy = np.arange(len(box)) - np.repeat(
        np.cumsum(n_rows) - n_rows - y_first, n_rows)
    source, x_first, width = finite[box], x_first[box], width[box]
    total = np.cumsum(width)
    start = 0
    while start < len(source):
        done = total[start - 1] if start else 0
        stop = np.searchsorted(total, done + _CHUNK_PIXELS, side='right')
        stop = max(stop, start + 1)
        counts = width[start:stop]
        row_start = total[start:stop] - counts - done
        ix = np.arange(total[stop - 1] - done)
        ix += np.repeat(x_first[start:stop] - row_start, counts)
        yield (np.repeat(source[start:stop], counts),
               np.repeat(iy[start:stop], counts), ix)
        start = stop


def _parallelogram_overlap(u, v, along_x, along_y):
    """
    Return the areas of parallelograms around (u, v) inside the unit circle.
    """
    plus = 0.5 * (along_x + along_y)
    minus = 0.5 * (along_x - along_y)
    u0 = np.stack([u - plus[0], u + minus[0], u + plus[0], u - minus[0]])
    v0 = np.stack([v - plus[1], v + minus[1], v + plus[1], v - minus[1]])
    u1, v1 = np.roll(u0, -1, axis=0), np.roll(v0, -1, axis=0)
    # Green's theorem: the sum over the sides, from P0 to P1, of the signed
    # area of the circle in the triangle between the side and the center. The
    # line of a side meets the circle at t = (middle -+ half) / length_square.
    du, dv = u1 - u0, v1 - v0
    length_square = du * du + dv * dv
    cross = u0 * dv - v0 * du
    middle = -(u0 * du + v0 * dv)
    half = np.sqrt(np.maximum(length_square - cross * cross, 0.0))
    t0 = np.clip((middle - half) / length_square, 0.0, 1.0)
    t1 = np.clip((middle + half) / length_square, 0.0, 1.0)
    # a triangle for the part inside, sectors for those before and after
    area = cross * (t1 - t0)
    area += _angle(u0, v0, u0 + t0 * du, v0 + t0 * dv, t0 * cross)
    area += _angle(u0 + t1 * du, v0 + t1 * dv, u1, v1, (1.0 - t1) * cross)
    area = 0.5 * area.sum(axis=0)
    full = np.abs(along_x[0] * along_y[1] - along_x[1] * along_y[0])
    # Rounding gives about 1e-17 for pixels that do not overlap.
    return np.where(area > 1e-14 * full, area, 0.0)


def _angle(u0, v0, u1, v1, cross):
    """
    Return the angle from one vector to another with a given cross product.
    """
    return np.arctan2(cross, u0 * u1 + v0 * v1)
