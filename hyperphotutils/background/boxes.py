# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Stacks of cutouts of a map, with their weights and coordinates.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from astropy.modeling.models import Polynomial2D
from astropy.nddata import NDData

from hyperphotutils.background.regressors import polynomial_terms
from hyperphotutils.utils import (
    as_masked_image,
    check_positive,
    strip_units,
)

__all__ = [
    'Cutouts',
    'Frame',
    'cut_out_boxes',
    'known_fwhm',
    'prepare_image',
    'whole_map',
]


@dataclass(frozen=True)
class Frame:
    """
    The scaled coordinates of boxes of ``nx`` by ``ny`` pixels around some
    centers.

    The coordinates run from -1 to 1 between the edges of a box.
    """

    x_center: np.ndarray
    y_center: np.ndarray
    nx: int
    ny: int

    @classmethod
    def of_map(cls, shape):
        """
        Return the frame of a whole map of shape ``(ny, nx)``.
        """
        ny, nx = shape
        return cls(np.array([(nx - 1) / 2]), np.array([(ny - 1) / 2]), nx, ny)

    @property
    def grid(self):
        """
        The scaled coordinates of the columns and rows, which are the
        same in all boxes.
        """
        return _offsets(self.nx) / self.nx * 2, _offsets(self.ny) / self.ny * 2

    def pixel_grid(self, members=slice(None)):
        """
        Return the pixel positions in the map of columns and rows, of shape
        ``(n, nx)`` and ``(n, ny)``.
        """
        return (self.x_center[members, np.newaxis] + _offsets(self.nx),
                self.y_center[members, np.newaxis] + _offsets(self.ny))

    def scale(self, x, y, members=slice(None)):
        """
        Scale pixel positions in the map, of shape ``(n, nx)`` and ``(n, ny)``.
        """
        return ((x - self.x_center[members, np.newaxis]) / (self.nx / 2),
                (y - self.y_center[members, np.newaxis]) / (self.ny / 2))

    def make_model(self, coefficients, index=0):
        """
        Return an astropy model as a function of pixel positions, from
        coefficients in the scaled coordinates.

        Its domain is the area of the box.
        """
        order = len(coefficients) - 1
        i, j = polynomial_terms(order)
        x, y = self.x_center[index], self.y_center[index]
        return Polynomial2D(
            order, x_domain=(x - self.nx / 2, x + self.nx / 2),
            y_domain=(y - self.ny / 2, y + self.ny / 2),
            **{f'c{p}_{q}': coefficients[q, p]
               for p, q in zip(i.tolist(), j.tolist(), strict=True)})


@dataclass(frozen=True)
class Cutouts:
    """
    Cutouts of one size around some centers.

    The pixels and their weights (inverse variances, or 1; 0 for excluded
    pixels) have the shape ``(n, ny, nx)``. A single cutout is shared by all
    centers.
    """

    values: np.ndarray = field(repr=False)
    weights: np.ndarray = field(repr=False)
    frame: Frame

    @cached_property
    def n_good(self):
        """
        The number of pixels with nonzero weight in each cutout.
        """
        return np.count_nonzero(self.weights, axis=(1, 2))

    def members(self, index):
        """
        Return the indices of the cutouts of some centers: the same, or a slice
        of the single cutout for all centers.
        """
        return slice(None) if len(self.values) == 1 else index


def prepare_image(data, *, mask=None, error=None):
    """
    Check a map and return its values, weights, and unit.

    The weights are inverse variances, or ones without ``error``. Excluded
    pixels have the value and the weight 0.
    """
    if isinstance(data, NDData):
        if data.mask is not None:
            mask = data.mask if mask is None else data.mask | mask
        data = data.data if data.unit is None else data.data << data.unit
    if isinstance(data, np.ma.MaskedArray):
        hidden = np.ma.getmaskarray(data)
        mask = hidden if mask is None else hidden | mask
        data = data.data
    plain, unit = strip_units(data=data, error=error)
    values, bad = as_masked_image(plain['data'], mask)
    if plain['error'] is None:
        weights = (~bad).astype(float)
    else:
        error = np.asarray(plain['error'], dtype=float)
        if error.shape != bad.shape:
            msg = (f'error must have the same shape as data, {bad.shape}: '
                   f'got {error.shape}')
            raise ValueError(msg)
        bad = bad | ~np.isfinite(error)
        if np.any(error[~bad] <= 0):
            msg = ('error must be positive in all pixels that are not '
                   f'masked: got {error[~bad].min()}')
            raise ValueError(msg)
        weights = np.where(bad, 0.0, 1.0 / np.where(bad, 1.0, error)**2)
    if bad.any():
        values = np.where(bad, 0.0, values)
    return values, weights, unit


def known_fwhm(data, fwhm):
    """
    Return the given FWHM, or that of the beam of ``data``, in pixels; `None`
    if neither is known.
    """
    if fwhm is None and isinstance(data, NDData):
        fwhm = data.meta.get('beam_fwhm_pix')
    return None if fwhm is None else check_positive(fwhm, 'fwhm', of='pixels')


def whole_map(values, weights):
    """
    Return a map from `prepare_image` as a single cutout.
    """
    return Cutouts(values[np.newaxis], weights[np.newaxis],
                   Frame.of_map(values.shape))


def cut_out_boxes(values, weights, x, y, size):
    """
    Cut square boxes of an odd size around pixels out of a map from
    `prepare_image`. Pixels outside of the map have zero weight.
    """
    ny, nx = values.shape
    # one gather instead of a slice for each source, in Python
    offset = np.arange(size) - size // 2
    column, row = x[:, np.newaxis] + offset, y[:, np.newaxis] + offset
    inside = (((row >= 0) & (row < ny))[:, :, np.newaxis]
              & ((column >= 0) & (column < nx))[:, np.newaxis])
    row = np.clip(row, 0, ny - 1)[:, :, np.newaxis]
    column = np.clip(column, 0, nx - 1)[:, np.newaxis]
    frame = Frame(x.astype(float), y.astype(float), size, size)
    return Cutouts(values[row, column], weights[row, column] * inside, frame)


def _offsets(size):
    return np.arange(size) - (size - 1) / 2
