# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The pixels that each group of sources is fitted on.
"""

from typing import NamedTuple

import numpy as np

from hyperphotutils.background.regressors import polynomial_terms

__all__ = ['MAX_GROUP_PIXELS', 'Footprints', 'background_basis',
           'core_is_usable', 'disk_offsets', 'make_footprints', 'n_terms',
           'nearest_pixel', 'pixel_step']

# With correlated noise, the largest numbers of pixels that sample a beam, and
# of pixels of a group: the matrices grow with the square of their number. Two
# pixels a beam are enough for the initial values of a better fit.
_PIXELS_PER_FWHM = 4
_FEW_PIXELS_PER_FWHM = 2
MAX_GROUP_PIXELS = 2000
# A source needs this fraction of the pixels within one FWHM: not more than
# the half that is beyond the margin of a map, or a large saturated core.
_CORE_FRACTION = 0.5


class Footprints(NamedTuple):
    """
    The pixels of ``g`` groups, padded to the same number ``p`` with (0, 0),
    where ``usable`` is `False`.

    ``partial`` of shape (g, n) tells whether a part of the footprint of a
    source is off the map or masked.
    """

    x: np.ndarray
    y: np.ndarray
    usable: np.ndarray
    partial: np.ndarray


def disk_offsets(radius, step=1):
    """
    Return the offsets ``dx, dy`` from the central pixel to every ``step``-th
    pixel inside a disk.
    """
    half = int(np.floor(radius))
    dy, dx = np.mgrid[-half:half + 1, -half:half + 1]
    inside = ((dx**2 + dy**2 <= radius**2) & (dx % step == 0)
              & (dy % step == 0))
    return dx[inside], dy[inside]


def pixel_step(fwhm, radius, *, few=False):
    """
    Return the step between the fitted pixels where the noise is correlated
    over the beam: more pixels add no information. ``few`` is for the initial
    values of a better fit.
    """
    step = max(1, int(fwhm / (_FEW_PIXELS_PER_FWHM if few
                              else _PIXELS_PER_FWHM)))
    while len(disk_offsets(radius, step)[0]) > MAX_GROUP_PIXELS:
        step += 1
    return step


def nearest_pixel(position, size):
    """
    Return the index of the pixel that a coordinate is in, -1 for NaN; both
    edges of the map belong to it.
    """
    known = np.where(np.isfinite(position), position, -1.0)
    index = np.floor(known + 0.5).astype(int)
    return np.where(known == size - 0.5, size - 1, index)


def core_is_usable(x, y, mask, fwhm):
    """
    Return which sources are on the map with at most half of the pixels within
    one FWHM masked.

    Only masked pixels count as missing: half of a core may be off the map.
    """
    ny, nx = mask.shape
    dx, dy = disk_offsets(max(1.0, fwhm))
    col, row = nearest_pixel(x, nx), nearest_pixel(y, ny)
    inside = (col >= 0) & (col < nx) & (row >= 0) & (row < ny)
    cols, rows = col[:, None] + dx, row[:, None] + dy
    on_map = (cols >= 0) & (cols < nx) & (rows >= 0) & (rows < ny)
    used = on_map & ~mask[np.where(on_map, rows, 0),
                          np.where(on_map, cols, 0)]
    fraction = used.sum(axis=1) / np.maximum(on_map.sum(axis=1), 1)
    return inside & (fraction >= _CORE_FRACTION)


def make_footprints(x, y, mask, radius, step=1):
    """
    Return the `Footprints` of groups, each pixel once: those in the disks
    around the sources at ``x, y`` of shape (g, n), of every ``step``-th row
    and column only.
    """
    ny, nx = mask.shape
    dx, dy = disk_offsets(radius + step - 1, step)
    cols = nearest_pixel(x, nx)[:, :, None]
    rows = nearest_pixel(y, ny)[:, :, None]
    # to the rows and columns that all sources of a group share
    dx = dx + (cols.min(axis=1, keepdims=True) - cols) % step
    dy = dy + (rows.min(axis=1, keepdims=True) - rows) % step
    inside = dx**2 + dy**2 <= radius**2
    cols, rows = cols + dx, rows + dy
    usable = (cols >= 0) & (cols < nx) & (rows >= 0) & (rows < ny) & inside
    unused = nx * ny
    index = np.where(usable, rows * nx + cols, 0)
    usable &= ~mask.ravel()[index]
    partial = ~np.all(usable | ~inside, axis=2)
    index = np.where(usable, index, unused).reshape(len(x), -1)
    # Padding comes last; in sorted groups, pixels of several disks are next
    # to each other.
    if x.shape[1] > 1 or not usable.all():
        index.sort(axis=1)
    if x.shape[1] > 1:
        index[:, 1:][index[:, 1:] == index[:, :-1]] = unused
        index.sort(axis=1)
    usable = index < unused
    n_pixels = max(1, int(usable.any(axis=0).nonzero()[0].max(initial=0)) + 1)
    index, usable = index[:, :n_pixels], usable[:, :n_pixels]
    index = np.where(usable, index, 0)
    return Footprints(index % nx, index // nx, usable, partial)


def n_terms(order):
    """
    Return the number of terms of a 2D polynomial; 0 for the degree -1.
    """
    return (order + 1) * (order + 2) // 2


def background_basis(x, y, x_center, y_center, scale, order):
    """
    Return the terms of 2D polynomials at the pixels of each group, of shape
    (g, k, p).

    The ``k = (order + 1) (order + 2) / 2`` terms, none for the order -1, are
    those of `~hyperphotutils.background.polynomial_terms` in the coordinates
    ``(x - x_center) / scale`` and ``(y - y_center) / scale``.
    """
    u = (x - x_center[:, None]) / scale
    v = (y - y_center[:, None]) / scale
    terms = ([] if order < 0
             else list(zip(*polynomial_terms(order), strict=True)))
    basis = np.empty((len(x), len(terms), x.shape[1]))
    for k, (i, j) in enumerate(terms):
        basis[:, k] = u**i * v**j
    return basis
