# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The start values of a fit, read from the table of the user.
"""

from typing import NamedTuple

import astropy.units as u
import numpy as np
from astropy.table import Table

__all__ = ['Start', 'read_start']

_NAMES = {
    'x': ('x_init', 'x_centroid', 'x_fit', 'x', 'x_0'),
    'y': ('y_init', 'y_centroid', 'y_fit', 'y', 'y_0'),
    'fwhm_major': ('fwhm_major_init', 'fwhm_major_fit', 'fwhm_major'),
    'fwhm_minor': ('fwhm_minor_init', 'fwhm_minor_fit', 'fwhm_minor'),
    'theta': ('theta_init', 'theta_fit', 'theta'),
    'group_id': ('group_id',),
    'id': ('id',),
}

# What columns of tables that have no pixels yet are called
_ON_SKY = frozenset({'sky_centroid', 'ra', 'dec', 'glon', 'glat'})


class Start(NamedTuple):
    """
    The start values of each source.

    Parameters
    ----------
    id : 1D `~numpy.ndarray`
        The identification number.

    x, y : 1D `~numpy.ndarray`
        The position in pixels.

    fwhm_major, fwhm_minor : 1D `~numpy.ndarray`
        The widths in pixels.

    theta : 1D `~numpy.ndarray`
        The angle of the major axis in degrees.

    group_id : 1D int `~numpy.ndarray` or None
        The group when the table has one.
    """

    id: np.ndarray
    x: np.ndarray
    y: np.ndarray
    fwhm_major: np.ndarray
    fwhm_minor: np.ndarray
    theta: np.ndarray
    group_id: np.ndarray | None


def read_start(init_params, fwhm):
    """
    Read the start values.

    Parameters
    ----------
    init_params : `~astropy.table.Table`
        The table, see `~hyperphotutils.blend.BlendGroupFitter`.

    fwhm : float
        The width of sources for which the table gives none.

    Returns
    -------
    start : `Start`
        The start values.
    """
    if not isinstance(init_params, Table):
        msg = ('init_params must be an astropy Table, got '
               f'{type(init_params).__name__}')
        raise TypeError(msg)
    columns = {key: next((name for name in names
                          if name in init_params.colnames), None)
               for key, names in _NAMES.items()}
    for key in 'xy':
        if columns[key] is None:
            msg = (f'init_params needs the column {key}_init (or one of '
                   f'{", ".join(_NAMES[key][1:])}); it has '
                   f'{", ".join(init_params.colnames)}')
            if _ON_SKY & {name.lower() for name in init_params.colnames}:
                msg += ('; hyperphotutils.utils.sources_to_pixels makes it '
                        'from the positions on the sky')
            raise ValueError(msg)
    n_sources = len(init_params)

    def read(key, default):
        if columns[key] is None:
            return np.full(n_sources, default, dtype=float)
        values = _plain(init_params[columns[key]], key, columns[key])
        return np.where(np.isfinite(values), values, default)

    major = read('fwhm_major', fwhm)
    minor = read('fwhm_minor', fwhm)
    _check_widths(major, minor)
    ids = (np.arange(1, n_sources + 1) if columns['id'] is None
           else np.asarray(init_params['id']))
    groups = (None if columns['group_id'] is None
              else _groups(init_params['group_id']))
    return Start(ids, read('x', np.nan), read('y', np.nan),
                 np.maximum(major, minor), np.minimum(major, minor),
                 np.where(minor > major, 90.0, 0.0) + read('theta', 0.0),
                 groups)


def _plain(column, key, name):
    """
    Return a column as floats: pixels without unit, angles in degrees.
    """
    unit = getattr(column, 'unit', None)
    if column.ndim != 1 or column.dtype.kind not in 'fiu':
        msg = (f'the column {name} of init_params must be a column of '
               f'numbers: {column.dtype} with the shape {column.shape}')
        raise ValueError(msg)
    if hasattr(column, 'filled'):
        column = column.astype(float).filled(np.nan)
    values = np.asarray(column, dtype=float)
    if unit in {None, u.pix, u.dimensionless_unscaled}:
        return values
    if key != 'theta':
        msg = f'the column {name} of init_params must be in pixels: {unit}'
        raise ValueError(msg)
    if unit.physical_type != 'angle':
        msg = f'the column {name} of init_params must be an angle: {unit}'
        raise ValueError(msg)
    return u.Quantity(values, unit).to_value(u.deg)


def _groups(column):
    """
    Return the column of groups.
    """
    values = np.asarray(column)
    if values.dtype.kind not in 'iu':
        msg = ('the column group_id of init_params must hold integers: '
               f'{values.dtype}')
        raise ValueError(msg)
    return values.astype(int)


def _check_widths(major, minor):
    """
    Refuse widths that are not positive.
    """
    for widths in (major, minor):
        if np.any(widths <= 0.0):
            row = int(np.argmax(widths <= 0.0))
            msg = ('the widths in init_params must be positive: '
                   f'{widths[row]} in row {row}')
            raise ValueError(msg)
