# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Averages next to masked pixels and image borders.

A kernel that is cut off averages over fewer pixels, and their center of
mass is not the pixel that it belongs to: on a slope, two kernels of
different widths no longer have the same mean. Both effects depend on the
mask alone. They are calculated where a kernel meets a bad pixel or the
border of the image, and nowhere else.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import (
    correlate1d,
    distance_transform_edt,
    maximum_filter,
)

from hyperphotutils.utils.tables import good_extent

__all__ = ['Edge', 'LocalSlopes', 'distance_to_edge', 'find_edges']

# Distances are measured in blocks of this side (pixels) near edges only. If
# more than this fraction of the blocks is near an edge, the blocks are larger
# by this factor.
_BLOCK = 32
_MANY = 0.25
_LARGER = 8

# A kernel that lacks less than this fraction is not cut off.
_WHOLE = 1e-12

# Slopes are measured in cells of this size on pixels this far apart, both in
# FWHM: enough beams that sources can be clipped, but few enough that a plane
# follows a background of several beams.
_CELL = 4.0
_STEP = 0.5
# Pixels farther than this from the plane, in units of the rms, are sources.
_CLIP = 3.0
_MAX_ITER = 20
# Least number of pixels of a plane, and least standard deviation of their
# positions in any direction, as a fraction of the cell.
_MIN_PIXELS = 10
_MIN_SCATTER = 0.1


@dataclass(frozen=True)
class Edge:
    """
    A part of an image where kernels are cut off.

    ``total`` has the fractions of the narrow and of the broad kernel on good
    pixels, ``offset`` the distance in x and in y from the center of mass of
    the broad kernel to that of the narrow one in pixels.
    """

    slices: tuple
    total: tuple
    offset: tuple


def find_edges(bad, narrow, broad):
    """
    Return the parts of an image where kernels are cut off, which do not
    overlap.

    The weights ``narrow`` and ``broad`` are those along one axis, the same
    for both.
    """
    reach = len(broad) // 2
    edges = []
    for slices in _parts_near_edges(bad, reach):
        outer = tuple(slice(max(0, part.start - reach), part.stop + reach)
                      for part in slices)
        inner = tuple(slice(part.start - around.start,
                            part.stop - around.start)
                      for part, around in zip(slices, outer, strict=True))
        good = (~bad[outer]).astype(float)
        (n_total, *n_center), (b_total, *b_center) = (
            [moment[inner] for moment in _moments(good, np.array(kernel))]
            for kernel in (narrow, broad))
        cut = good_extent(b_total > 1.0 - _WHOLE)
        if cut[0].stop == 0:
            continue
        slices = tuple(slice(part.start + one.start, part.start + one.stop)
                       for part, one in zip(slices, cut, strict=True))
        offset = tuple(n[cut] - b[cut] for n, b in zip(n_center, b_center,
                                                       strict=True))
        edges.append(Edge(slices, (n_total[cut], b_total[cut]), offset))
    return edges


def distance_to_edge(bad, limit):
    """
    Return the rows and columns of good pixels near bad ones and near the
    borders, and their distances from the nearest bad pixel, or pixel beyond
    the border.
    """
    reach = int(limit) + 1
    found = [(np.empty(0, dtype=int),) * 2 + (np.empty(0),)]
    for rows, columns in _parts_near_edges(bad, reach):
        # Pixels beyond the border are bad ones.
        shift = rows.start - reach, columns.start - reach
        part = [np.arange(first, axis.stop + reach)
                for first, axis in zip(shift, (rows, columns), strict=True)]
        inside = [(index >= 0) & (index < size)
                  for index, size in zip(part, bad.shape, strict=True)]
        good = np.zeros([len(index) for index in part], dtype=bool)
        good[np.ix_(*inside)] = ~bad[np.ix_(*(
            index[one] for index, one in zip(part, inside, strict=True)))]
        distance = distance_transform_edt(good)[
            reach:-reach, reach:-reach]
        y, x = np.nonzero((distance > 0.0) & (distance <= limit))
        found.append((y + rows.start, x + columns.start, distance[y, x]))
    *near, distance = (np.concatenate(parts)
                       for parts in zip(*found, strict=True))
    return tuple(near), distance


def _parts_near_edges(bad, reach):
    """
    Return slices that cover all good pixels within reach of bad pixels
    and of the borders.
    """
    side = max(_BLOCK, reach)
    near = _near_edges(bad, reach, side)
    if near.mean() > _MANY:
        side *= _LARGER
        near = _near_edges(bad, reach, side)
    ny, nx = bad.shape
    return [(slice(row, min(row + side, ny)),
             slice(column, min(column + side, nx)))
            for row, column in (np.argwhere(near) * side).tolist()]


def _near_edges(bad, reach, side):
    """
    Return which blocks have good pixels within reach of an edge.
    """
    starts = [np.arange(0, size, side) for size in bad.shape]
    near, lost = (
        whole.reduceat(whole.reduceat(bad, starts[0], axis=0), starts[1],
                       axis=1)
        for whole in (np.logical_or, np.logical_and))
    # Pixels within reach of a block are in its neighbors.
    near = maximum_filter(near, 3)
    rows, columns = (
        (first < reach) | (np.minimum(first + side, size) > size - reach)
        for first, size in zip(starts, bad.shape, strict=True))
    near |= rows[:, np.newaxis] | columns
    return near & ~lost


def _moments(good, kernel):
    """
    Return the sum of the weights of good pixels and their center of mass
    in x and y.
    """
    half = len(kernel) // 2
    lever = kernel * np.arange(-half, half + 1)
    # The kernels are products of two: one axis at a time.
    along_x = correlate1d(good, kernel, axis=1, mode='constant')
    total = correlate1d(along_x, kernel, axis=0, mode='constant')
    total = np.maximum(total, 1.0e-12)  # zero far inside the mask
    if half == 0:
        return total, 0.0 * total, 0.0 * total
    y_sum = correlate1d(along_x, lever, axis=0, mode='constant')
    x_sum = correlate1d(correlate1d(good, lever, axis=1, mode='constant'),
                        kernel, axis=0, mode='constant')
    return total, x_sum / total, y_sum / total


class LocalSlopes:
    """
    Class to measure the slopes of an image near its edges, in ``parts``.

    In cells of a few beams a plane is fitted by least squares to the
    pixels that are not clipped as sources. Between the centers of the
    cells the slopes are interpolated. A cell with too few pixels has the
    slope of the nearest one. A cell begins at the row and column ``origin``,
    which may be outside: with the same origin, a part of an image has the
    slopes of the whole.
    """

    def __init__(self, image, bad, fwhm, parts, origin=(0, 0)):
        self._side = side = math.ceil(_CELL * fwhm)
        # The pixels of the first cells that are before the image.
        self._skipped = [-first % side for first in origin]
        n_cells = [-(-(skipped + size) // side) for skipped, size in
                   zip(self._skipped, image.shape, strict=True)]
        wanted = np.zeros(n_cells, dtype=bool)
        for part in parts:
            wanted[tuple(
                slice(max(0, (axis.start + skipped) // side - 1),
                      (axis.stop - 1 + skipped) // side + 2)
                for axis, skipped in zip(part, self._skipped, strict=True)
            )] = True
        self._slopes = np.zeros((2, *n_cells))
        step = max(1, int(_STEP * fwhm))
        chosen = np.nonzero(wanted)
        slopes = self._fit(image, bad, chosen, step)
        # A cell without enough pixels has the slope of the nearest one.
        known = np.isfinite(slopes[0])
        if known.any():
            unknown = np.ones(n_cells, dtype=bool)
            self._slopes[:, *(axis[known] for axis in chosen)] = slopes[
                :, known]
            unknown[*(axis[known] for axis in chosen)] = False
            nearest = distance_transform_edt(
                unknown, return_distances=False, return_indices=True)
            self._slopes = self._slopes[:, *nearest]
        # The cells before each row and column, and the fractions of the way
        # to the next ones.
        self._places = []
        for size, skipped, number in zip(image.shape, self._skipped, n_cells,
                                         strict=True):
            place = np.clip((np.arange(size) + skipped + 0.5) / side - 0.5,
                            0.0, number - 1)
            low = place.astype(int)
            self._places.append((low, place - low))

    def _fit(self, image, bad, cells, step):
        """
        Return the slopes along x and y in cells; NaN where unknown.
        """
        offset = np.arange(0, self._side, step)
        rows, columns = (
            cell[:, np.newaxis] * self._side + offset - skipped
            for cell, skipped in zip(cells, self._skipped, strict=True))
        ny, nx = image.shape
        inside = (((rows >= 0) & (rows < ny))[:, :, np.newaxis]
                  & ((columns >= 0) & (columns < nx))[:, np.newaxis, :])
        place = (rows.clip(0, ny - 1)[:, :, np.newaxis],
                 columns.clip(0, nx - 1)[:, np.newaxis, :])
        good = inside & ~bad[place]
        values = np.where(good, image[place], 0.0)
        good, values = (one.reshape(len(values), -1)
                        for one in (good, values))
        values -= (values.sum(axis=1) / np.maximum(good.sum(axis=1), 1)
                   )[:, np.newaxis]
        y, x = (axis.ravel() for axis in np.meshgrid(
            *[offset / self._side - 0.5] * 2, indexing='ij'))
        terms = np.array([np.ones_like(x), x, y, x * x, x * y, y * y])
        slopes = np.full((2, len(values)), np.nan)
        active, weights = np.arange(len(values)), good.astype(float)
        chosen = _determine_planes(weights @ terms.T)
        for _ in range(_MAX_ITER):
            # Cells whose pixels no longer change have converged and leave.
            active, values, good, weights = (
                one[chosen] for one in (active, values, good, weights))
            if active.size == 0:
                break
            plane = _fit_planes(values, weights, terms)
            slopes[:, active] = plane[:, 1:].T
            distance = values - plane @ terms[:3]
            # Sources are positive: the pixels below the plane have less of
            # them.
            below = weights * (distance <= 0.0)
            distance *= distance
            variance = np.einsum('ij,ij->i', below, distance)
            variance /= np.maximum(below.sum(axis=1), 1.0)
            clipped = (good & (distance <= _CLIP**2 * variance[:, np.newaxis])
                       ).astype(float)
            chosen = (np.any(clipped != weights, axis=1)
                      & _determine_planes(clipped @ terms.T))
            weights = clipped
        return slopes / self._side

    def at(self, part):
        """
        Return the slopes along x and y, per pixel, in a part of the image, of
        shape (2, ny, nx).
        """
        slopes = self._slopes
        for axis, (pixels, (low, fraction)) in enumerate(
                zip(part, self._places, strict=True), start=1):
            low, fraction = low[pixels], fraction[pixels]
            if axis == 1:
                fraction = fraction[:, np.newaxis]
            slopes = ((1.0 - fraction) * slopes.take(low, axis)
                      + fraction * slopes.take(low + 1, axis, mode='clip'))
        return slopes


def _place_and_scatter(sums):
    """
    Return the mean x and y of the pixels of each cell, and the elements of
    the covariance matrix of their positions.

    ``sums`` are those of the weights times 1, x, y, xx, xy, and yy.
    """
    x, y, xx, xy, yy = sums[:, 1:].T / np.maximum(sums[:, 0], 1.0)
    return x, y, xx - x * x, xy - x * y, yy - y * y


def _determine_planes(sums):
    """
    Whether the pixels of each cell determine a plane.
    """
    _, _, xx, xy, yy = _place_and_scatter(sums)
    smaller_eigenvalue = 0.5 * (xx + yy - np.hypot(xx - yy, 2.0 * xy))
    return ((sums[:, 0] >= _MIN_PIXELS)
            & (smaller_eigenvalue >= _MIN_SCATTER**2))


def _fit_planes(values, weights, terms):
    """
    Return the level and both slopes of the least-squares plane of each cell.
    """
    sums = weights @ terms.T
    x, y, xx, xy, yy = _place_and_scatter(sums)
    level, x_value, y_value = (
        (weights * values) @ terms[:3].T / sums[:, :1]).T
    x_value -= x * level
    y_value -= y * level
    det = xx * yy - xy * xy
    x_slope = (yy * x_value - xy * y_value) / det
    y_slope = (xx * y_value - xy * x_value) / det
    return np.array([level - x_slope * x - y_slope * y, x_slope, y_slope]).T
