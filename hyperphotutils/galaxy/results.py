# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From fits of galaxies to the result table.
"""

import astropy.units as u
import numpy as np
from astropy.table import QTable

from hyperphotutils.catalog.columns import describe_columns
from hyperphotutils.utils.gaussians import wrap_angle
from hyperphotutils.utils.tables import result_meta
from hyperphotutils.utils.wcs import pixel_to_sky_ellipse

__all__ = ['make_table']

_PARAMS = ('flux', 'x', 'y', 'r_eff', 'n', 'q', 'theta')
_GRID = ('n_grid', 'r_eff_grid', 'q_grid', 'theta_grid', 'chi2_grid')
_QUALITY = ('chi2', 'reduced_chi2', 'n_pixels_fit', 'n_iterations', 'snr')
# The error of an unconstrained angle: the standard deviation
# of a uniform distribution over 180 degrees.
_UNKNOWN_ANGLE = 180.0 / np.sqrt(12.0)


def make_table(fit, unit, config, wcs=None):
    """
    Return the result table of the fits of a call, a row a galaxy.
    """
    table = QTable(meta=result_meta(config))
    table['id'] = fit.targets.id[fit.rows]
    table['group_size'] = fit.columns['group_size']
    # the columns of the parameters, angles in degrees
    columns = {f'{name}_{suffix}': column
               for suffix, values in (('init', fit.start),
                                      ('fit', fit.params),
                                      ('err', fit.errors))
               for name, column in zip(_PARAMS, values.T, strict=True)}
    for suffix in ('init', 'fit', 'err'):
        angle = np.rad2deg(columns[f'theta_{suffix}'])
        angle = (np.minimum(angle, _UNKNOWN_ANGLE) if suffix == 'err'
                 else wrap_angle(angle))
        columns[f'theta_{suffix}'] = angle << u.deg
    table.update(columns)
    for name in ('flux_stamp_fit', 'sky_fit', 'sky_err'):
        table[name] = fit.columns[name]
    # the last of the grid is the flux, which is flux_init
    for name, column in zip(_GRID, fit.grid_params.T[:-1], strict=True):
        table[name] = column
    table['theta_grid'] <<= u.deg
    for name in _QUALITY:
        table[name] = fit.columns[name]
    if wcs is not None:
        known = np.isfinite(table['x_fit'])
        x, y, major, q, theta = (
            np.where(known, getattr(table[name], 'value', table[name]), 1.0)
            for name in ('x_fit', 'y_fit', 'r_eff_fit', 'q_fit',
                         'theta_fit'))
        major, _, angle = pixel_to_sky_ellipse(wcs, x, y, major, q * major,
                                               theta)
        table['sky_centroid'] = wcs.celestial.pixel_to_world(table['x_fit'],
                                                             table['y_fit'])
        for name, values in (('r_eff_sky_fit', major << u.arcsec),
                             ('orientation', angle << u.deg)):
            values[~known] = np.nan
            table[name] = values
    table['flags'] = fit.flags
    return describe_columns(table, unit=unit, kind='galaxies')
