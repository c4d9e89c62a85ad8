# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What is fitted where: targets, their neighbors, and their stamps.
"""

from dataclasses import dataclass

import numpy as np
from astropy.stats import mad_std
from astropy.table import Table
from scipy.spatial import cKDTree

from hyperphotutils.utils.tables import list_columns

__all__ = ['Stamps', 'Targets', 'find_neighbors', 'find_targets',
           'mask_others', 'stamp_index']

# Largest distance (pixels) of a segment from the position of its target.
_LABEL_REACH = 3

_NAMES = {
    'x': ('x_init', 'x_centroid', 'xcentroid', 'x_fit', 'x', 'x_0'),
    'y': ('y_init', 'y_centroid', 'ycentroid', 'y_fit', 'y', 'y_0'),
    'flux': ('flux_init', 'flux_fit', 'segment_flux', 'kron_flux', 'flux'),
    'r_eff': ('r_eff_init', 'r_eff_fit', 'r_eff'),
    'n': ('n_init', 'n_fit', 'n'),
    'q': ('q_init', 'q_fit', 'q'),
    'theta': ('theta_init', 'theta_fit', 'theta'),
}


@dataclass
class Targets:
    """
    The sources of a call, as 1D arrays: targets and their neighbors.
    """

    id: np.ndarray
    plane: np.ndarray  # of a stack; 0 for an image
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray  # rough; NaN if not known
    radius: np.ndarray  # rough, in pixels
    label: np.ndarray  # of the segment; 0 for none
    is_target: np.ndarray  # gets a row; others are neighbors only
    init: dict  # given values of r_eff, n, q, and theta (degrees)


class Stamps:
    """
    Cut stamps from the planes (n, ny, nx) of an image or of a stack of
    stamps.
    """

    def __init__(self, data, error, mask, segmentation, size):
        data = np.asarray(data)
        if data.dtype.kind not in 'fiu':
            msg = f'data must be an array of real numbers, got {data.dtype}'
            raise TypeError(msg)
        if data.ndim not in {2, 3}:
            msg = ('data must be an image or a stack of stamps, got the '
                   f'shape {data.shape}')
            raise ValueError(msg)
        if data.ndim == 3 and data.shape[1:] != (size, size):
            msg = (f'stamps must have the shape ({size}, {size}) of '
                   f'size={size}, got {data.shape[1:]}')
            raise ValueError(msg)
        self.is_image = data.ndim == 2
        self.data = data[None] if self.is_image else data
        self.error = self._as_planes(error, 'error', float)
        self.mask = self._as_planes(mask, 'mask', bool)
        self.segmentation = self._as_planes(segmentation, 'segmentation',
                                            int)
        self.size = size

    def _as_planes(self, array, name, kind):
        """
        Return an array with the shape of the planes, or `None`.
        """
        if array is None:
            return None
        array, shape = np.asarray(array), self.data.shape
        if array.ndim == 0:
            return np.broadcast_to(array.astype(kind), shape)
        planes = array[None] if array.ndim == 2 else array
        if planes.shape != shape:
            plain = shape[1:] if shape[0] == 1 else shape
            msg = f'{name} must have the shape of data, {plain}: {array.shape}'
            raise ValueError(msg)
        # an image of 64 bits is not copied to 32 or back
        return planes if planes.dtype.kind == np.dtype(kind).kind else (
            planes.astype(kind))

    @property
    def is_stack(self):
        """
        Whether each plane is a stamp.
        """
        return self.data.shape[1:] == (self.size, self.size)

    def origin(self, x, y):
        """
        Return x and y of the pixel of the plane that is pixel (0, 0) of the
        stamp of each position.
        """
        if self.is_stack:
            zeros = np.zeros(len(x), dtype=int)
            return zeros, zeros
        # np.rint would round halves to even: steps of 0 or 2 pixels
        return (np.floor(x + 0.5).astype(int) - self.size // 2,
                np.floor(y + 0.5).astype(int) - self.size // 2)

    def cut(self, plane, x0, y0, size=None):
        """
        Return the data, 0 where there are none, the inverse standard
        deviations, 0 for pixels that are masked or off the image, and the
        labels of segments or `None` of stamps with these corners.
        """
        size = self.size if size is None else size
        index, on_image = stamp_index(plane, x0, y0, size, self.data.shape)
        data = self.data[index].astype(float)
        good = on_image & np.isfinite(data)
        if self.mask is not None:
            good &= ~self.mask[index]
        weight = np.where(good, 1.0, 0.0)
        labels = (None if self.segmentation is None
                  else np.where(on_image, self.segmentation[index], 0))
        if self.error is not None:
            error = self.error[index]
            usable = good & np.isfinite(error) & (error > 0.0)
            weight = np.where(usable, 1.0 / np.where(usable, error, 1.0),
                              0.0)
        else:
            for i, image in enumerate(data):
                sky = good[i] if labels is None else good[i] & (labels[i] == 0)
                values = image[sky if sky.any() else good[i]]
                # the scatter of the sky, robust to wings of sources; it is 0
                # if most pixels are equal, as in an image of few counts
                deviation = len(values) and (mad_std(values) or values.std())
                weight[i] /= deviation or 1.0
        return np.where(weight > 0.0, data, 0.0), weight, labels


def stamp_index(plane, x0, y0, size, shape):
    """
    Return the index of stamps with these corners in planes of a shape (n,
    ny, nx), the nearest pixel where they are off the image, and where they
    are on it.
    """
    ny, nx = shape[1:]
    rows = y0[:, None] + np.arange(size)
    columns = x0[:, None] + np.arange(size)
    on_image = (((rows >= 0) & (rows < ny))[:, :, None]
                & ((columns >= 0) & (columns < nx))[:, None, :])
    return (plane[:, None, None], np.clip(rows, 0, ny - 1)[:, :, None],
            np.clip(columns, 0, nx - 1)[:, None, :]), on_image


def find_targets(stamps, init_params):
    """
    Return all sources as `Targets`: those that get a row come first.
    """
    # where a source is and how bright, if the table does not say so
    segments = (None if stamps.segmentation is None else measure_segments(
        stamps.data, stamps.segmentation))
    values = {} if init_params is None else read_positions(init_params)
    n_rows = len(stamps.data if init_params is None else init_params)
    plane = np.zeros(n_rows, int) if stamps.is_image else np.arange(n_rows)
    ids = np.arange(1, n_rows + 1)
    if init_params is not None:
        if not stamps.is_image and n_rows != len(stamps.data):
            msg = (f'init_params must have a row for each stamp: {n_rows} '
                   f'rows for {len(stamps.data)} stamps')
            raise ValueError(msg)
        if 'id' in init_params.colnames:
            ids = np.asarray(init_params['id'])
    elif not stamps.is_image:
        center = np.full(n_rows, 0.5 * (stamps.size - 1))
        values = {'x': center, 'y': center}
    elif segments is not None:
        plane, ids, x, y, flux, _ = segments
        values = {'x': x, 'y': y, 'flux': flux}
        n_rows = len(ids)
    else:
        msg = ('init_params or segmentation must be given: it is not known '
               'where the galaxies are')
        raise ValueError(msg)
    none = np.full(n_rows, np.nan)
    x, y = values['x'].copy(), values['y'].copy()
    flux, radius = values.get('flux', none).copy(), none.copy()
    label = np.zeros(n_rows, dtype=int)
    init = {name: values[name] for name in ('r_eff', 'n', 'q', 'theta')
            if name in values}
    if segments is not None:
        label = _labels_at(stamps.segmentation, plane, x, y)
        # segments are sorted by plane, and by label on each
        n_labels = int(stamps.segmentation.max(initial=0)) + 1
        keys, wanted = (p * n_labels + name
                        for p, name in (segments[:2], (plane, label)))
        found = np.isin(wanted, keys)
        match = np.searchsorted(keys, wanted[found])
        unknown = ~np.isfinite(flux[found])
        flux[found] = np.where(unknown, segments[4][match], flux[found])
        radius[found] = segments[5][match]
        if init_params is None:
            x[found], y[found] = segments[2][match], segments[3][match]
        rest = np.setdiff1d(np.arange(len(keys)), match)
        plane, x, y, flux, radius, label = (
            np.concatenate((own, segments[k][rest])) for own, k in (
                (plane, 0), (x, 2), (y, 3), (flux, 4), (radius, 5),
                (label, 1)))
        ids = np.concatenate((ids, np.zeros(len(rest), dtype=ids.dtype)))
        init = {name: np.concatenate((value, np.full(len(rest), np.nan)))
                for name, value in init.items()}
    is_target = np.arange(len(x)) < n_rows
    return Targets(ids, plane, x, y, flux, radius, label, is_target, init)


def find_neighbors(targets, stamps, own, max_neighbors):
    """
    Return the sources that are fitted with each of the targets ``own``, a
    list each.
    """
    size = stamps.size
    # planes are so far apart that no source is near one of another plane
    place = np.column_stack([targets.x, targets.y,
                             targets.plane * 4.0 * size])
    known = np.flatnonzero(np.isfinite(place).all(axis=1))
    near = cKDTree(place[known]).query_ball_point(place[own], 0.75 * size)
    x0, y0 = stamps.origin(targets.x[own], targets.y[own])
    chosen = []
    for i, index, left, low in zip(own, near, x0, y0, strict=True):
        others = known[index]
        x, y = targets.x[others] - left, targets.y[others] - low
        others = others[(others != i) & (x > 0) & (x < size - 1)
                        & (y > 0) & (y < size - 1)]
        distance = np.hypot(targets.x[others] - targets.x[i],
                            targets.y[others] - targets.y[i])
        flux = np.nan_to_num(targets.flux[others], nan=1.0)
        # roughly, the light of its wings at the target
        influence = np.maximum(flux, 0.0) / (distance + 1.0)**2
        chosen.append(others[np.argsort(-influence)[:max_neighbors]])
    return chosen


def mask_others(targets, own, neighbors, labels, x0, y0, size, radius):
    """
    Return the pixels of other sources on the stamps of the targets ``own``,
    and those of them that are not of the fitted ``neighbors``.

    They are segments, or disks if ``labels`` is `None`.
    """
    if labels is not None:
        def is_of(index):
            return labels == targets.label[index][:, None, None]

        # also those with negative labels, which are subtracted already: what
        # is left of a bright galaxy is more than the noise
        others = (labels != 0) & ~is_of(own)
        rest = others.copy()
        for column in neighbors.T:
            rest &= ~is_of(column)
        return others, rest
    grid = np.arange(size)
    others, rest = np.zeros((2, len(own), size, size), dtype=bool)
    for k, i in enumerate(own):
        near = ((targets.plane == targets.plane[i])
                & (np.abs(targets.x - targets.x[i]) < size)
                & (np.abs(targets.y - targets.y[i]) < size))
        near[i] = False
        for j in np.flatnonzero(near):
            # a disk, but at most half of the way to the target
            to_target, to_other = (
                (grid - targets.x[m] + x0[k])**2
                + (grid - targets.y[m] + y0[k])[:, None]**2 for m in (i, j))
            disk = (to_other < radius**2) & (to_other < to_target)
            others[k] |= disk
            if j not in neighbors[k]:
                rest[k] |= disk
    return others, rest


def _labels_at(segmentation, plane, x, y):
    """
    Return the label at each position, or the nearest one within reach.
    """
    # positions that are unknown or far off the image are off it here, too
    side = 2 * _LABEL_REACH + 1
    x, y = (np.clip(np.nan_to_num(place, nan=-np.inf), -side, length + side)
            for place, length in ((x, segmentation.shape[2]),
                                  (y, segmentation.shape[1])))
    column, row = (np.floor(place + 0.5).astype(int) for place in (x, y))
    index, on_image = stamp_index(plane, column - _LABEL_REACH,
                                  row - _LABEL_REACH, side,
                                  segmentation.shape)
    labels = np.where(on_image, segmentation[index], 0)
    labels = labels.reshape(len(x), side**2)
    offset = np.arange(-_LABEL_REACH, _LABEL_REACH + 1)
    distance = np.hypot(((row - y)[:, None] + offset)[:, :, None],
                        ((column - x)[:, None] + offset)[:, None, :]
                        ).reshape(len(x), side**2)
    # the pixel of the position itself comes first, also at its border
    distance[:, side**2 // 2] = -1.0
    nearest = np.where(labels > 0, distance, np.inf).argmin(axis=1)
    return np.maximum(labels[np.arange(len(x)), nearest], 0)


def measure_segments(data, segmentation):
    """
    Return plane, label, x, y, flux, and radius of all segments with
    positive labels.

    Each plane has its own labels. Position and flux are the center and the
    sum of the light above the median of the pixels without a source; the
    radius is that which contains half of the area.
    """
    parts = []
    for plane, (image, labels) in enumerate(zip(data, segmentation,
                                                strict=True)):
        row, column = np.nonzero(labels > 0)
        if len(row) == 0:
            continue
        outside = image[(labels == 0) & np.isfinite(image)]
        sky = np.median(outside) if len(outside) else 0.0
        names, which = np.unique(labels[row, column], return_inverse=True)
        light = np.nan_to_num(image[row, column] - sky)
        # a segment without light has its center where its pixels are
        bright = np.maximum(light, 0.0) + 1e-300
        total = np.bincount(which, bright)
        x = np.bincount(which, bright * column) / total
        y = np.bincount(which, bright * row) / total
        radius = np.sqrt(np.bincount(which) / (2.0 * np.pi))
        parts.append((np.full(len(names), plane), names, x, y,
                      np.bincount(which, light), radius))
    if not parts:
        none = np.zeros(0)
        return none.astype(int), none.astype(int), none, none, none, none
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def read_positions(table):
    """
    Return those of x, y, flux, r_eff, n, q, and theta (degrees) that a
    table of the user has, as float arrays by name.
    """
    if not isinstance(table, Table):
        msg = ('init_params must be an astropy Table, got '
               f'{type(table).__name__}')
        raise TypeError(msg)
    values = {}
    for key, names in _NAMES.items():
        name = next((n for n in names if n in table.colnames), None)
        if name is not None:
            column = table[name]
            if hasattr(column, 'filled'):
                column = column.astype(float).filled(np.nan)
            values[key] = np.asarray(
                getattr(column, 'value', column), dtype=float)
    for key in 'xy':
        if key not in values:
            msg = (f'init_params needs the column {key}_init (or one of '
                   f'{", ".join(_NAMES[key][1:])}); it has '
                   f'{list_columns(table)}')
            raise ValueError(msg)
    return values
