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
    The sources of a call.

    Parameters
    ----------
    id : 1D `~numpy.ndarray`
        The identification numbers.

    plane : 1D int `~numpy.ndarray`
        The plane of a stack in which each source is; 0 for an image.

    x, y, flux : 1D `~numpy.ndarray`
        Positions in pixels of the plane, and rough fluxes (NaN if not
        known).

    radius : 1D `~numpy.ndarray`
        Rough sizes in pixels.

    label : 1D int `~numpy.ndarray`
        The label of the segment, 0 for none.

    is_target : 1D bool `~numpy.ndarray`
        Whether the source gets a row; others are neighbors only.

    init : dict of 1D `~numpy.ndarray`
        Given initial values of r_eff, n, q, and theta (degrees).
    """

    id: np.ndarray
    plane: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    radius: np.ndarray
    label: np.ndarray
    is_target: np.ndarray
    init: dict


class Stamps:
    """
    Cut stamps from an image or from a stack of stamps.

    Parameters
    ----------
    data : 3D `~numpy.ndarray`
        The planes, shape (n, ny, nx).

    error, mask, segmentation : 3D `~numpy.ndarray` or None
        Standard deviations, masked pixels, and labels of segments.

    size : int
        The side of the stamps.
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
        Return the pixel of the plane that is pixel (0, 0) of the stamp.

        Parameters
        ----------
        x, y : 1D `~numpy.ndarray`
            The positions.

        Returns
        -------
        x0, y0 : 1D int `~numpy.ndarray`
            The corners.
        """
        if self.is_stack:
            zeros = np.zeros(len(x), dtype=int)
            return zeros, zeros
        return (np.floor(x + 0.5).astype(int) - self.size // 2,
                np.floor(y + 0.5).astype(int) - self.size // 2)

    def cut(self, plane, x0, y0, size=None):
        """
        Cut stamps.

        Parameters
        ----------
        plane, x0, y0 : 1D int `~numpy.ndarray`
            The planes and the corners.

        size : int, optional
            Another side.

        Returns
        -------
        data, weight : 3D `~numpy.ndarray`
            The values, 0 where there are none, and the inverse standard
            deviations, 0 for pixels that are masked or off the image.

        labels : 3D int `~numpy.ndarray` or None
            The segments.
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
    Measure position, flux, and size of all segments.

    Parameters
    ----------
    data : 3D `~numpy.ndarray`
        The planes.

    segmentation : 3D int `~numpy.ndarray`
        The labels, 0 for no source; each plane has its own.

    Returns
    -------
    plane, label : 1D int `~numpy.ndarray`
        The plane and the label of each segment.

    x, y, flux, radius : 1D `~numpy.ndarray`
        The center of light and the flux above the median of the pixels
        without a source, and the radius that contains half of the area.
    """
    parts = []
    for plane, (image, labels) in enumerate(zip(data, segmentation,
                                                strict=True)):
        row, column = np.nonzero(labels)
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
    Read positions and initial values from a table.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The table of the user.

    Returns
    -------
    values : dict of 1D `~numpy.ndarray`
        Those of x, y, flux, r_eff, n, q, and theta (degrees) that the
        table has, as floats.
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
