# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Masks of the pixels that sources cover.
"""

import astropy.units as u
import numpy as np

__all__ = ['make_source_mask']

# Largest number of elements in a temporary array.
_MAX_ELEMENTS = 1_000_000


def make_source_mask(shape, x, y, fwhm_major, fwhm_minor=None, theta=0.0, *,
                     factor=1.5):
    """
    Make a mask of the pixels inside ellipses around sources.

    Parameters
    ----------
    shape : tuple of int
        The shape ``(ny, nx)`` of the mask.

    x, y : array_like
        The pixel positions of the sources. Sources may lie outside of
        the image; those whose position, size, or angle is not finite
        are left out.

    fwhm_major : array_like
        The full width at half maximum along the major axis in pixels,
        one for each source or one for all.

    fwhm_minor : array_like, optional
        The same along the minor axis. The default is a circle.

    theta : array_like or `~astropy.units.Quantity`, optional
        The angle of the major axis, counter-clockwise from the x axis.
        Plain numbers are degrees.

    factor : float, optional
        The semi-axes of the masked ellipses in units of the FWHM. A
        Gaussian has fallen to 0.2 % of its peak at the default, 1.5.

    Returns
    -------
    mask : 2D `~numpy.ndarray` of bool
        `True` where the center of the pixel is inside an ellipse.

    Raises
    ------
    ValueError
        If ``shape`` is not two-dimensional, a FWHM is negative, or
        ``factor`` is not positive.

    Examples
    --------
    >>> from hyperphotutils.background import make_source_mask
    >>> mask = make_source_mask((5, 7), 3, 2, 4.0, 2.0, factor=0.5)
    >>> print(mask.astype(int))
    [[0 0 0 0 0 0 0]
     [0 0 0 1 0 0 0]
     [0 1 1 1 1 1 0]
     [0 0 0 1 0 0 0]
     [0 0 0 0 0 0 0]]
    """
    if len(shape) != 2:
        msg = f'shape must be (ny, nx): got {shape}'
        raise ValueError(msg)
    if not (np.isfinite(factor) and factor > 0):
        msg = f'factor must be positive and finite: got {factor}'
        raise ValueError(msg)
    if fwhm_minor is None:
        fwhm_minor = fwhm_major
    ellipses = _as_columns(x, y, fwhm_major, fwhm_minor, theta)
    for name, fwhm in zip(('fwhm_major', 'fwhm_minor'), ellipses[2:4],
                          strict=True):
        if np.any(fwhm < 0):
            msg = f'{name} must not be negative: got {np.nanmin(fwhm)}'
            raise ValueError(msg)
    ellipses = ellipses[:, np.all(np.isfinite(ellipses), axis=0)]
    ellipses[2:4] *= factor

    mask = np.zeros(shape, dtype=bool)
    half = np.ceil(ellipses[2:4].max(axis=0, initial=0)).astype(int) + 1
    half = np.minimum(half, max(shape) + 1)
    # sources of similar size share one batch
    size_class = np.ceil(np.log2(half)).astype(int)
    for value in np.unique(size_class):
        batch = ellipses[:, size_class == value]
        largest = half[size_class == value].max()
        step = max(1, _MAX_ELEMENTS // (2 * largest + 1)**2)
        for start in range(0, batch.shape[1], step):
            _mask_batch(mask, batch[:, start:start + step], largest)
    return mask


def _as_columns(x, y, fwhm_major, fwhm_minor, theta):
    """
    Return the parameters of the ellipses as an array of shape (5, n).
    """
    if isinstance(theta, u.Quantity):
        theta = theta.to_value(u.deg)
    columns = np.broadcast_arrays(*[
        np.atleast_1d(np.asarray(column, dtype=float))
        for column in (x, y, fwhm_major, fwhm_minor, theta)])
    return np.array(columns)


def _mask_batch(mask, ellipses, half):
    """
    Set the mask inside ellipses that fit into +-half pixels, in place.
    """
    x, y, semi_major, semi_minor, theta = ellipses[:, :, np.newaxis,
                                                   np.newaxis]
    offset = np.arange(-half, half + 1)
    limit = 4 * max(mask.shape) + 4 * half  # keeps the integers in range
    column = np.round(np.clip(x, -limit, limit)).astype(int) + offset
    row = (np.round(np.clip(y, -limit, limit)).astype(int)
           + offset[:, np.newaxis])
    cos, sin = np.cos(np.radians(theta)), np.sin(np.radians(theta))
    dx, dy = column - x, row - y
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    # without a division: an axis of zero length covers nothing
    inside = ((along * semi_minor)**2 + (across * semi_major)**2
              <= (semi_major * semi_minor)**2)
    inside &= (semi_major > 0) & (semi_minor > 0)
    inside &= (row >= 0) & (row < mask.shape[0])
    inside &= (column >= 0) & (column < mask.shape[1])
    row, column = np.broadcast_arrays(row, column)
    mask[row[inside], column[inside]] = True
