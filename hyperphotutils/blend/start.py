# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The initial values of a fit, read from the table of the user.
"""

from typing import NamedTuple

import astropy.units as u
import numpy as np
from astropy.stats import gaussian_fwhm_to_sigma
from astropy.table import Table

from hyperphotutils.utils.tables import list_columns

__all__ = ['Start', 'position_columns', 'read_start', 'source_states',
           'start_columns']

_NAMES = {
    'x': ('x_init', 'x_centroid', 'x_fit', 'x', 'x_0'),
    'y': ('y_init', 'y_centroid', 'y_fit', 'y', 'y_0'),
    'fwhm_major': ('fwhm_major_init', 'fwhm_major_fit', 'fwhm_major'),
    'fwhm_minor': ('fwhm_minor_init', 'fwhm_minor_fit', 'fwhm_minor'),
    'theta': ('theta_init', 'theta_fit', 'theta'),
    'group_id': ('group_id',),
    'id': ('id',),
    'x_previous': ('x_previous',),
    'y_previous': ('y_previous',),
    'amplitude_previous': ('amplitude_previous',),
    'position_prior': ('position_prior',),
    'hold_shape': ('hold_shape',),
    'positive': ('positive',),
}

# Names of columns of tables without pixel positions
_ON_SKY = frozenset({'sky_centroid', 'ra', 'dec', 'glon', 'glat'})


class Start(NamedTuple):
    """
    The initial values of each source: the position and the widths in pixels,
    the angle of the major axis in degrees, and the group if the table has one.

    The fit begins at ``x_previous, y_previous``, which an earlier fit has
    found, as it has ``amplitude_previous`` (0 if it is not known); the
    footprint, the bounds, and the prior are centered on ``x`` and ``y`` all
    the same. ``position_prior`` is the standard deviation of the
    position in pixels along each axis, infinite for no prior. ``hold_shape``
    tells whether the widths and the angle are held, and ``positive`` whether
    the amplitude must be positive.
    """

    id: np.ndarray
    x: np.ndarray
    y: np.ndarray
    fwhm_major: np.ndarray
    fwhm_minor: np.ndarray
    theta: np.ndarray
    group_id: np.ndarray | None
    x_previous: np.ndarray
    y_previous: np.ndarray
    amplitude_previous: np.ndarray
    position_prior: np.ndarray
    hold_shape: np.ndarray
    positive: np.ndarray

    def states(self):
        """
        Return the states of the sources for the kernel.
        """
        return np.column_stack((
            self.amplitude_previous, self.x_previous, self.y_previous,
            (self.fwhm_major * gaussian_fwhm_to_sigma)**2,
            (self.fwhm_minor * gaussian_fwhm_to_sigma)**2,
            np.deg2rad(self.theta)))


def source_states(table):
    """
    Return the fitted sources of a table as states of the kernel, of shape (n,
    6).
    """
    columns = [np.asarray(getattr(table[name], 'value', table[name]), float)
               for name in ('amplitude_fit', 'x_fit', 'y_fit',
                            'fwhm_major_fit', 'fwhm_minor_fit')]
    columns.append(table['theta_fit'].to_value('rad'))
    states = np.column_stack(columns)
    states[:, 3:5] = (states[:, 3:5] * gaussian_fwhm_to_sigma)**2
    return states


def position_columns(table, axis):
    """
    Return the names of the columns of a table that hold pixel coordinates
    along the axis 'x' or 'y'.
    """
    return [name for name in (*_NAMES[axis], *_NAMES[f'{axis}_previous'])
            if name in table.colnames]


def start_columns(init_params):
    """
    Return the names of the columns of a table with initial values, `None` for
    those that it does not have; positions are required.
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
                   f'{list_columns(init_params)}')
            if _ON_SKY & {name.lower() for name in init_params.colnames}:
                msg += ('; hyperphotutils.utils.sources_to_pixels makes it '
                        'from the positions on the sky')
            raise ValueError(msg)
    return columns


def read_start(init_params, fwhm, beam=None):
    """
    Read the initial values of a table for `BlendGroupFitter`; sources without
    a shape have ``fwhm`` or the FWHMs and the angle of ``beam``.
    """
    columns = start_columns(init_params)
    n_sources = len(init_params)

    def read(key, default):
        if columns[key] is None:
            return np.full(n_sources, 1.0) * default
        values = _plain(init_params[columns[key]], key, columns[key])
        return np.where(np.isfinite(values), values, default)

    shape = ((fwhm, fwhm, 0.0) if beam is None else
             (beam.fwhm_major, beam.fwhm_minor, beam.theta))
    major = read('fwhm_major', shape[0])
    minor = read('fwhm_minor', shape[1])
    smaller = np.minimum(major, minor)
    if np.any(smaller <= 0.0):
        row = int(np.argmax(smaller <= 0.0))
        msg = ('the widths in init_params must be positive: '
               f'{smaller[row]} in row {row}')
        raise ValueError(msg)
    ids = (np.arange(1, n_sources + 1) if columns['id'] is None
           else np.asarray(init_params['id']))
    groups = None
    if columns['group_id'] is not None:
        groups = np.asarray(init_params['group_id'])
        if groups.dtype.kind not in 'iu':
            msg = ('the column group_id of init_params must hold integers: '
                   f'{groups.dtype}')
            raise ValueError(msg)
        groups = groups.astype(int)
    x, y = read('x', np.nan), read('y', np.nan)
    hold_shape, positive = (
        np.zeros(n_sources, dtype=bool) if columns[key] is None
        else np.asarray(init_params[key], dtype=bool)
        for key in ('hold_shape', 'positive'))
    return Start(ids, x, y,
                 np.maximum(major, minor), smaller,
                 np.where(minor > major, 90.0, 0.0) + read('theta', shape[2]),
                 groups, read('x_previous', x), read('y_previous', y),
                 read('amplitude_previous', 0.0),
                 read('position_prior', np.inf), hold_shape, positive)


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
