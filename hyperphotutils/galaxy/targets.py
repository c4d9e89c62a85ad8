# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What is fitted where: targets, their neighbors, and their stamps.
"""

from dataclasses import dataclass

import numpy as np
from astropy.stats import mad_std
from astropy.table import Table

__all__ = ['Stamps', 'Targets', 'measure_segments', 'read_positions']

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
        self.data = data
        self.error = error
        self.mask = mask
        self.segmentation = segmentation
        self.size = size

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
        return (np.floor(x + 0.5).astype(int) - self.size // 2,
                np.floor(y + 0.5).astype(int) - self.size // 2)

    def cut(self, plane, x0, y0, size=None):
        """
        Return the data, 0 where there are none, the inverse standard
        deviations, 0 for pixels that are masked or off the image, and the
        labels of segments or `None` of stamps with these corners.
        """
        size = self.size if size is None else size
        ny, nx = self.data.shape[1:]
        rows = y0[:, None] + np.arange(size)
        columns = x0[:, None] + np.arange(size)
        on_image = (((rows >= 0) & (rows < ny))[:, :, None]
                    & ((columns >= 0) & (columns < nx))[:, None, :])
        index = (plane[:, None, None], np.clip(rows, 0, ny - 1)[:, :, None],
                 np.clip(columns, 0, nx - 1)[:, None, :])
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
            # the inverse of the standard deviation of each stamp, from its
            # pixels without sources
            inverse = np.zeros(len(data))
            for i, image in enumerate(data):
                sky = good[i] if labels is None else good[i] & (labels[i] == 0)
                values = image[sky if sky.any() else good[i]]
                deviation = mad_std(values) if len(values) else 0.0
                if deviation == 0.0 and len(values):
                    deviation = values.std()
                inverse[i] = 1.0 / deviation if deviation > 0.0 else 1.0
            weight *= inverse[:, None, None]
        return np.where(weight > 0.0, data, 0.0), weight, labels


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
                   f'{", ".join(table.colnames)}')
            raise ValueError(msg)
    return values
