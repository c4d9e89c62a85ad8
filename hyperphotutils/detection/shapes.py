# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Batched measurements around given positions of an image.
"""

import math

import numpy as np
from scipy.ndimage import map_coordinates

from hyperphotutils.utils.tables import as_masked_image, strip_units

__all__ = ['shoulder_score']

# The ring of the shoulder score: radii in units of the FWHM
_RING_RADII = (0.75, 1.0, 1.25, 1.5)

# Radius of the top of a source in units of the FWHM
_TOP_RADIUS = 0.7


def shoulder_score(data, x, y, fwhm, *, mask=None, n_angles=32):
    """
    Calculate how lopsided the surroundings of sources are.

    The image is sampled along ``n_angles`` directions and averaged
    between 0.75 and 1.5 FWHM from the source. With :math:`r_i` the
    average in direction :math:`i` and :math:`p` the value of the
    source's pixel, the score is

    .. math::

        \\frac{\\max_i r_i - \\mathrm{median}_i r_i}
             {p - \\mathrm{median}_i r_i} .

    It is zero for an isolated round source, whatever constant
    background it sits on, and one or more for a peak on the shoulder of
    a brighter source.

    Parameters
    ----------
    data : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
        The image. Non-finite pixels are treated as masked.

    x, y : float or 1D `~numpy.ndarray`
        The pixel positions of the sources.

    fwhm : float
        The FWHM of the beam in pixels.

    mask : 2D bool `~numpy.ndarray`, optional
        A mask with the shape of ``data``, where `True` means that the
        pixel is ignored.

    n_angles : int, optional
        The number of directions. The default is 32.

    Returns
    -------
    score : float or 1D `~numpy.ndarray`
        The score of each source. Directions without a valid pixel are
        ignored. It is NaN if there are less than three directions left,
        or if the source does not rise above the median of its
        surroundings.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.modeling.models import Gaussian2D
    >>> from hyperphotutils.detection import shoulder_score
    >>> yy, xx = np.mgrid[:41, :41]
    >>> data = Gaussian2D(1, 10, 20, 1.7, 1.7)(xx, yy)
    >>> data += Gaussian2D(1, 30, 20, 1.7, 1.7)(xx, yy)
    >>> data += Gaussian2D(3, 36, 20, 1.7, 1.7)(xx, yy)
    >>> score = shoulder_score(data, [10, 30], [20, 20], 4.0)
    >>> print(np.round(score, 1) + 0.0)
    [0.  2.1]
    """
    arrays, _ = strip_units(data=data)
    image, bad = as_masked_image(arrays['data'], mask)
    image = np.where(bad, np.nan, image)
    x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
    score = ring_scores(image, x.ravel(), y.ravel(), fwhm,
                        n_angles=n_angles)
    return score.reshape(x.shape)[()]


def ring_scores(image, x, y, fwhm, *, n_angles=32):
    """
    Return the shoulder scores on an image with NaN as masked pixels.
    """
    angle = 2 * np.pi * np.arange(n_angles) / n_angles
    radius = fwhm * np.array(_RING_RADII)[:, np.newaxis]
    ring = _sample(image, x[:, np.newaxis, np.newaxis]
                   + radius * np.cos(angle),
                   y[:, np.newaxis, np.newaxis] + radius * np.sin(angle))
    valid = np.isfinite(ring)
    count = valid.sum(axis=1)
    profile = np.divide(np.where(valid, ring, 0.0).sum(axis=1), count,
                        out=np.full(count.shape, np.nan), where=count > 0)

    highest, middle = _max_and_median(profile)
    height = _nearest(image, x, y) - middle
    return np.divide(highest - middle, height,
                     out=np.full(x.shape, np.nan), where=height > 0)


def fit_peaks(image, x_peak, y_peak, fwhm, *, n_iter=3):
    """
    Fit paraboloids to the tops of sources.

    The pixels within 0.7 FWHM (at least 2 pixels) have weights
    :math:`(1 - r^2 / r_\\mathrm{max}^2)^2`. The weights follow the
    fitted center and end softly, so that there is no pull towards the
    center of the pixel.

    Parameters
    ----------
    image : 2D `~numpy.ndarray`
        The image, NaN where masked.

    x_peak, y_peak : 1D `~numpy.ndarray` of int
        The pixels of the peaks.

    fwhm : float
        The FWHM of the beam in pixels.

    n_iter : int, optional
        The number of times the weights are centered.

    Returns
    -------
    x, y : 1D `~numpy.ndarray`
        The positions; NaN where the top is no maximum within one pixel
        of the peak.
    """
    radius = max(_TOP_RADIUS * fwhm, 2.0)
    half = math.ceil(radius + 0.5)
    cutouts, dx, dy = cutout_stack(image, x_peak, y_peak, half)
    valid = np.isfinite(cutouts)
    level = np.where(valid, cutouts, 0.0)
    terms = np.stack([np.ones_like(dx), dx, dy, dx**2, dx * dy, dy**2])
    products = (terms[:, np.newaxis] * terms).reshape(36, -1)

    shift_x = np.zeros(len(x_peak))
    shift_y = np.zeros(len(x_peak))
    for _ in range(n_iter):
        distance2 = ((dx - shift_x[:, np.newaxis])**2
                     + (dy - shift_y[:, np.newaxis])**2)
        weight = valid * np.maximum(1 - distance2 / radius**2, 0)**2
        normal = (weight @ products.T).reshape(-1, 6, 6)
        right = (weight * level) @ terms.T
        coeffs = _solve_regular(normal, right)
        shift_x, shift_y = _paraboloid_top(coeffs)
        good = np.hypot(shift_x, shift_y) <= 1.0  # False for NaN
        # the weights of the lost ones do not matter any more
        shift_x = np.where(good, shift_x, np.nan)
        shift_y = np.where(good, shift_y, np.nan)
    return x_peak + shift_x, y_peak + shift_y


def cutout_stack(image, x, y, half):
    """
    Return the square cutouts around pixels, one row a source.

    Pixels outside of the image are NaN. The second and the third result
    are the offsets of the pixels from the central one.
    """
    offset = np.arange(-half, half + 1)
    dy, dx = (a.ravel() for a in np.meshgrid(offset, offset, indexing='ij'))
    ny, nx = image.shape
    row = y[:, np.newaxis] + dy
    col = x[:, np.newaxis] + dx
    inside = (row >= 0) & (row < ny) & (col >= 0) & (col < nx)
    values = image[row.clip(0, ny - 1), col.clip(0, nx - 1)]
    return np.where(inside, values, np.nan), dx, dy


def daofind_sharpness(cutouts, height):
    """
    Return the peak above the mean of its surroundings per height.
    """
    center = cutouts.shape[1] // 2
    valid = np.isfinite(cutouts)
    valid[:, center] = False
    count = np.maximum(valid.sum(axis=1), 1)
    mean = np.where(valid, cutouts, 0.0).sum(axis=1) / count
    return (cutouts[:, center] - mean) / height


def daofind_roundness(cutouts, dx, dy):
    """
    Return twice the ratio of the two-fold to the four-fold symmetry.
    """
    sign = np.select([(dx > 0) & (dy >= 0) | (dx < 0) & (dy <= 0),
                      (dx == 0) & (dy == 0)], [-1.0, 0.0], 1.0)
    level = np.where(np.isfinite(cutouts), cutouts, 0.0)
    twofold = level @ sign
    fourfold = np.abs(level) @ np.abs(sign)
    return np.divide(2 * twofold, fourfold, out=np.zeros_like(twofold),
                     where=fourfold > 0)


def _sample(image, x, y):
    """
    Interpolate an image linearly; NaN outside and next to masked pixels.
    """
    return map_coordinates(image, [y, x], order=1, mode='constant',
                           cval=np.nan)


def _nearest(image, x, y):
    """
    Return the values of the pixels of positions; NaN outside.
    """
    return map_coordinates(image, [y, x], order=0, mode='grid-constant',
                           cval=np.nan)


def _max_and_median(values):
    """
    Return the largest and the middle of the finite values of each row.

    Both are NaN where a row has less than three of them.
    """
    values = np.sort(values, axis=1)  # NaN come last
    count = np.isfinite(values).sum(axis=1)
    row = np.arange(len(values))
    last = np.maximum(count - 1, 0)
    highest = values[row, last]
    middle = 0.5 * (values[row, last // 2] + values[row, (last + 1) // 2])
    few = count < 3
    return np.where(few, np.nan, highest), np.where(few, np.nan, middle)


def _solve_regular(normal, right):
    """
    Solve stacked linear systems; NaN for those without a solution.
    """
    solution = np.full(right.shape, np.nan)
    finite = np.isfinite(normal).all(axis=(1, 2))
    regular = np.zeros(len(normal), dtype=bool)
    scale = np.sqrt(np.einsum('nii->ni', normal[finite]))
    scaled = normal[finite] / np.where(
        scale > 0, scale, 1.0)[:, :, None] / np.where(
        scale > 0, scale, 1.0)[:, None, :]
    regular[finite] = np.linalg.det(scaled) > 1.0e-9
    solution[regular] = np.linalg.solve(
        normal[regular], right[regular][..., np.newaxis])[..., 0]
    return solution


def _paraboloid_top(coeffs):
    """
    Return the position of the maximum of quadratic polynomials.

    It is NaN where there is a minimum or a saddle point.
    """
    _, cx, cy, cxx, cxy, cyy = coeffs.T
    det = 4 * cxx * cyy - cxy**2
    maximum = (det > 0) & (cxx < 0)
    det = np.where(maximum, det, np.nan)
    return (cxy * cy - 2 * cyy * cx) / det, (cxy * cx - 2 * cxx * cy) / det
