# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Batched measurements around given positions of an image.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial import KDTree

from hyperphotutils.detection.filters import check_fwhm, open_image
from hyperphotutils.detection.moments import cut_out
from hyperphotutils.utils.checks import check_integer
from hyperphotutils.utils.tables import as_masked_image, strip_units

if TYPE_CHECKING:
    from astropy.nddata import NDData
    from astropy.units import Quantity

    from hyperphotutils.utils.typing import FloatOrArray

__all__ = ['shoulder_score']

# Radii of the circles of the shoulder score in units of the ring radius.
_RING_RADII = (1 / 2, 2 / 3, 5 / 6, 1.0)

# Radius of the fitted top of a source in units of the FWHM.
_TOP_RADIUS = 0.7
# How often it is fitted, each time centered on the last fit.
_N_FITS = 3


def shoulder_score(data: np.ndarray | Quantity | NDData, x: ArrayLike,
                   y: ArrayLike, fwhm: float, *,
                   mask: NDArray[np.bool_] | None = None,
                   ring_factor: float = 1.5, n_angles: int = 32,
                   mask_neighbors: bool = False) -> FloatOrArray:
    """
    Calculate the asymmetry of the surroundings of sources.

    Use it to identify local maxima on the flank of a brighter structure.
    The image is sampled in ``n_angles`` directions on circles with 1/2,
    2/3, 5/6 and 1 times the radius of the ring, which is ``ring_factor``
    times the FWHM, and the median of each circle is subtracted. Let
    :math:`a` be the mean over the circles in the direction where it is
    highest, and :math:`h` the value of the source's pixel minus the mean
    of the medians, or zero if that is negative. The score is
    :math:`a / (a + h)`: zero for an isolated round source on any constant
    background, about 0.5 if the surroundings on one side are as bright
    as the source itself, and close to one for a bump on the shoulder of
    a much brighter source.

    Parameters
    ----------
    data : 2D `~numpy.ndarray`, `~astropy.units.Quantity`, or \
            `~astropy.nddata.NDData`
        The image. Its own mask is honored, if it has one, and
        non-finite pixels are treated as masked.

    x, y : float or 1D array_like
        The pixel positions of the sources.

    fwhm : float
        The FWHM of the beam in pixels.

    mask : 2D bool `~numpy.ndarray`, optional
        A mask with the shape of ``data``, where `True` means that the
        pixel is ignored.

    ring_factor : float, optional
        The radius of the ring in units of the FWHM. The default is 1.5.

    n_angles : int, optional
        The number of directions. The default is 32.

    mask_neighbors : bool, optional
        Whether to ignore samples that are closer to another one of the
        positions. The default is `False`: a bright neighbor increases
        the score. If `True`, only structures that are not among the
        positions do.

    Returns
    -------
    score : float or 1D `~numpy.ndarray`
        The score of each source, from 0 to 1. Samples on masked pixels
        and outside of the image are ignored. The score is NaN if fewer
        than three directions remain on each circle, or if the pixel of
        the source is masked.

    Raises
    ------
    TypeError
        If ``n_angles`` is not an integer.

    ValueError
        If ``fwhm`` or ``ring_factor`` is not positive, or ``n_angles``
        is less than 3.

    See Also
    --------
    ShoulderFilter

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
    [0.  0.7]
    """
    fwhm = check_fwhm(fwhm)
    check_ring(ring_factor, n_angles)
    data, mask = open_image(data, mask)
    arrays, _ = strip_units(data=data)
    image, bad = as_masked_image(arrays['data'], mask)
    image = np.where(bad, np.nan, image)
    x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
    score = ring_scores(image, x.ravel(), y.ravel(), fwhm,
                        ring_factor=ring_factor, n_angles=n_angles,
                        mask_neighbors=mask_neighbors)
    return score.reshape(x.shape)[()]


def check_ring(ring_factor, n_angles):
    """
    Check the radius and the number of directions of the ring.
    """
    if not (np.isfinite(ring_factor) and ring_factor > 0):
        msg = f'ring_factor must be positive and finite: got {ring_factor}'
        raise ValueError(msg)
    check_integer(n_angles, 'n_angles', 3)


def ring_scores(image, x, y, fwhm, *, ring_factor=1.5, n_angles=32,
                mask_neighbors=False):
    """
    Return the shoulder scores in an image whose masked pixels are NaN.
    """
    angle = 2 * np.pi * np.arange(n_angles) / n_angles
    radius = ring_factor * fwhm * np.array(_RING_RADII)[:, np.newaxis]
    dx, dy = radius * np.cos(angle), radius * np.sin(angle)
    # NaN outside and next to masked pixels
    ring = map_coordinates(
        image, [y[:, np.newaxis, np.newaxis] + dy,
                x[:, np.newaxis, np.newaxis] + dx],
        order=1, mode='constant', cval=np.nan)
    if mask_neighbors:
        _mask_neighbors(ring, x, y, dx, dy)
    # The median level of each ring, NaN if it has fewer than three samples.
    values = np.sort(ring, axis=-1)  # NaN are sorted to the end
    count = np.isfinite(values).sum(axis=-1, keepdims=True)
    last = np.maximum(count - 1, 0)
    middle = 0.5 * (np.take_along_axis(values, last // 2, axis=-1)
                    + np.take_along_axis(values, (last + 1) // 2, axis=-1))
    level = np.where(count < 3, np.nan, middle)[..., 0]
    ring = ring - level[..., np.newaxis]
    profile = _mean(np.swapaxes(ring, 1, 2))

    excess = np.max(profile, axis=1, where=np.isfinite(profile),
                    initial=0.0)
    center = map_coordinates(image, [y, x], order=0, mode='grid-constant',
                             cval=np.nan)
    height = center - _mean(level)
    total = excess + np.maximum(height, 0.0)  # NaN stays
    # A constant image has zero excess and height: the score is 0.
    return np.divide(excess, total, out=np.array(total), where=total > 0)


def _mask_neighbors(ring, x, y, dx, dy):
    """
    Set the samples that are closer to another source to NaN.

    ``dx`` and ``dy`` are the offsets of the samples from their source.
    """
    known = np.nonzero(np.isfinite(x) & np.isfinite(y))[0]
    position = np.column_stack([x, y])[known]
    reach = 2 * np.hypot(dx, dy).max()
    pairs = known[KDTree(position).query_pairs(reach, output_type='ndarray')]
    source, other = np.concatenate([pairs, pairs[:, ::-1]]).T
    x_other = (x[other] - x[source])[:, np.newaxis, np.newaxis]
    y_other = (y[other] - y[source])[:, np.newaxis, np.newaxis]
    # Beyond the perpendicular bisector of the two positions.
    nearer = x_other * dx + y_other * dy > (x_other**2 + y_other**2) / 2
    foreign = np.zeros(ring.shape, dtype=bool)
    np.logical_or.at(foreign, source, nearer)
    ring[foreign] = np.nan


def fit_peaks(image, x_peak, y_peak, fwhm):
    """
    Fit paraboloids to the tops of sources and return their positions, NaN
    where there is no maximum within one pixel of the peak.

    The pixels within 0.7 FWHM (at least 2 pixels) have weights
    :math:`(1 - r^2 / r_\\mathrm{max}^2)^2`. The weights are centered on
    the fitted position, and fall smoothly to zero, so that the position is not
    biased toward the center of the pixel.
    """
    radius = max(_TOP_RADIUS * fwhm, 2.0)
    half = math.ceil(radius + 0.5)
    cutouts, dx, dy = cutout_stack(image, x_peak, y_peak, half)
    valid = np.isfinite(cutouts)
    # NaN have no weight, but would spread through the sums.
    level = np.where(valid, cutouts, 0.0)
    terms = np.stack([np.ones_like(dx), dx, dy, dx**2, dx * dy, dy**2])
    products = (terms[:, np.newaxis] * terms).reshape(36, -1)

    shift_x = np.zeros(len(x_peak))
    shift_y = np.zeros(len(x_peak))
    for _ in range(_N_FITS):
        distance2 = ((dx - shift_x[:, np.newaxis])**2
                     + (dy - shift_y[:, np.newaxis])**2)
        weight = valid * np.maximum(1 - distance2 / radius**2, 0)**2
        normal = (weight @ products.T).reshape(-1, 6, 6)
        right = (weight * level) @ terms.T
        _, cx, cy, cxx, cxy, cyy = _solve_regular(normal, right).T
        # A negative determinant is that of a saddle point.
        det = 4 * cxx * cyy - cxy**2
        det = np.where((det > 0) & (cxx < 0), det, np.nan)
        shift_x = (cxy * cy - 2 * cyy * cx) / det
        shift_y = (cxy * cx - 2 * cxx * cy) / det
        good = np.hypot(shift_x, shift_y) <= 1.0  # False for NaN
        # Failed fits stay NaN in all further iterations.
        shift_x = np.where(good, shift_x, np.nan)
        shift_y = np.where(good, shift_y, np.nan)
    return x_peak + shift_x, y_peak + shift_y


def cutout_stack(image, x, y, half):
    """
    Return the square cutouts around pixels, one row per source.

    Pixels outside of the image are NaN. The second and third results are
    the offsets of the pixels from the central pixel.
    """
    offset = np.arange(-half, half + 1)
    dy, dx = (a.ravel() for a in np.meshgrid(offset, offset, indexing='ij'))
    return (cut_out(image, x, y, half, fill=np.nan).reshape(-1, dx.size),
            dx, dy)


def highest_pixels(image, x, y, radius):
    """
    Return the highest pixels within a radius of given pixels.

    Of equally high pixels the closest is returned.
    """
    cutouts, dx, dy = cutout_stack(image, x, y, int(radius))
    distance = np.hypot(dx, dy)
    order = np.argsort(distance, kind='stable')
    order = order[distance[order] <= radius]
    level = cutouts[:, order]
    # The first of equal values is the nearest one.
    highest = order[np.where(np.isnan(level), -np.inf, level).argmax(axis=1)]
    return x + dx[highest], y + dy[highest]


def daofind_sharpness(cutouts, height):
    """
    Return the DAOFIND sharpness: the peak minus the mean of its
    surroundings, divided by the height.
    """
    center = cutouts.shape[1] // 2
    valid = np.isfinite(cutouts)
    valid[:, center] = False
    count = np.maximum(valid.sum(axis=1), 1)
    mean = np.where(valid, cutouts, 0.0).sum(axis=1) / count
    return (cutouts[:, center] - mean) / height


def daofind_roundness(cutouts, dx, dy):
    """
    Return the DAOFIND roundness: twice the ratio of the two-fold to the
    four-fold symmetry.
    """
    # Each quadrant has one of the half axes (Stetson 1987, PASP 99, 191).
    sign = np.select([(dx > 0) & (dy >= 0) | (dx < 0) & (dy <= 0),
                      (dx == 0) & (dy == 0)], [-1.0, 0.0], 1.0)
    level = np.where(np.isfinite(cutouts), cutouts, 0.0)
    twofold = level @ sign
    fourfold = np.abs(level) @ np.abs(sign)
    return np.divide(2 * twofold, fourfold, out=np.zeros_like(twofold),
                     where=fourfold > 0)


def _mean(values):
    """
    Return the mean of the finite values along the last axis.
    """
    valid = np.isfinite(values)
    count = valid.sum(axis=-1)
    total = np.where(valid, values, 0.0).sum(axis=-1)
    return np.divide(total, count, out=np.full(count.shape, np.nan),
                     where=count > 0)


def _solve_regular(normal, right):
    """
    Solve stacked linear systems; NaN for those without a solution.
    """
    scale = np.sqrt(np.einsum('nii->ni', normal))  # may contain NaN
    scale = np.where(scale > 0, scale, 1.0)
    scaled = normal / (scale[:, :, np.newaxis] * scale[:, np.newaxis])
    regular = np.isfinite(scaled).all(axis=(1, 2))
    regular[regular] = np.linalg.det(scaled[regular]) > 1.0e-9
    solution = np.full(right.shape, np.nan)
    solution[regular] = np.linalg.solve(
        normal[regular], right[regular][..., np.newaxis])[..., 0]
    return solution
