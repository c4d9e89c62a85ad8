# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The columns of Hyper's catalogs, and the comments that explain them.
"""

import re
import textwrap
from contextlib import suppress

import astropy.units as u
import numpy as np
from astropy.coordinates import FK4, FK5, SkyCoord
from astropy.table import Column, MaskedColumn, Table
from astropy.time import Time

from hyperphotutils.catalog.columns import RESULT_COLUMNS
from hyperphotutils.catalog.errors import CatalogError
from hyperphotutils.utils.flags import FLAGS

__all__ = ['frames_of_comments', 'make_hyper_table', 'units_of_comments']

_WIDTH = 76

_EQUINOXES = {'fk5': FK5().equinox, 'fk4': FK4().equinox}

# the columns described by each comment on units
_UNIT_COMMENTS = (
    ('FLUX_PEAK', 'FLUX_PEAK'),
    ('FLUX, FLUX_ERR, RESIDUALS', 'FLUX'),
    ('FWHM_1, FWHM_2', 'FWHM_1'),
    ('PA, GLON, GLAT, RA, DEC', 'RA'),
)
# The flags of rows without a measurement, or with an unreliable one; the
# other flags describe how it was made.
_SPOILING = ('off_map', 'too_few_pixels', 'no_convergence', 'non_finite_flux',
             'no_covariance', 'no_position')
_SPOILED = sum(FLAGS[name] for name in _SPOILING)
# Columns of cubes: the channel, and the quantity of its spectral axis
_CUBE_NAMES = ('channel', 'velocity', 'frequency', 'wavelength',
               'spectral_value')
_UNIT_LINE = re.compile(r'^([A-Z0-9_]+(?:, [A-Z0-9_]+)*) in (\S.*)$')
_FRAME_LINE = re.compile(r'RA, DEC in (.+); PA East of North in (.+)$')


def make_hyper_table(table, map_id):
    """
    Return a table with the columns of Hyper's catalogs, which
    `~hyperphotutils.catalog.write_catalog` lists, and the comments of the
    header in ``meta['comments']``.
    """
    missing = [name for name in ('id', 'amplitude_fit')
               if name not in table.colnames]
    if missing:
        msg = ('table must have the columns of the photometry for an IPAC '
               f'or CSV catalog: {missing} are missing')
        raise CatalogError(msg)
    columns = {'MAP_ID': Column([str(map_id)] * len(table), dtype=str)}
    if 'channel' in table.colnames:
        for name in _CUBE_NAMES:
            if name in table.colnames:
                columns[name.upper()] = _column(table[name], len(table),
                                                RESULT_COLUMNS[name].dtype)
    for hyper_name in _HYPER_NAMES:
        known = _REGISTERED.get(hyper_name)
        values = None
        if hyper_name in _DERIVED:
            # (without the columns that it is derived from, it is null)
            with suppress(KeyError):
                values = _DERIVED[hyper_name](table)
        elif known.name in table.colnames:
            values = table[known.name]
        columns[hyper_name] = _column(values, len(table),
                                      known.dtype if known else 'f8')
    output = Table(columns)
    output.meta['comments'] = _comments(table, output)
    return output


def units_of_comments(table):
    """
    Return the units of columns, by name, from the comments of a table.
    """
    units = {}
    for line in table.meta.get('comments', ()):
        match = _UNIT_LINE.match(line)
        if match is None:
            continue
        names = match[1].split(', ')
        with suppress(ValueError):
            unit = u.Unit(match[2])
            units |= {name: unit for name in names if name in table.colnames}
    return units


def frames_of_comments(table):
    """
    Return the frame of RA and DEC, and the frame whose North is the origin
    of PA, from the comments of a table; `None` if these do not state them.
    """
    for line in table.meta.get('comments', ()):
        match = _FRAME_LINE.match(line)
        # comments of other programs may match with another meaning
        with suppress(ValueError):
            if match is not None:
                return tuple(_parse_frame(*text.split())
                             for text in match.groups())
    return None


def _parse_frame(name, equinox=None):
    kwargs = {} if equinox is None else {'equinox': Time(equinox)}
    blank = SkyCoord(0, 0, unit='deg', frame=name.lower(), **kwargs)
    return blank.frame.replicate_without_data()


def _column(values, n_rows, dtype):
    unit = getattr(values, 'unit', None)
    if values is None:
        values = np.full(n_rows, np.nan)
    elif dtype == 'i8' and values.dtype.kind in 'iuU':
        # integer IDs of any length, or names
        return MaskedColumn(values)
    values = np.ma.asarray(getattr(values, 'value', values), dtype=float)
    values = np.ma.masked_invalid(values)
    return MaskedColumn(values.filled(0), mask=np.ma.getmaskarray(values),
                        dtype=dtype, unit=unit)


def _sky_angle(table, which):
    sky = table['sky_centroid']
    if which in ('l', 'b'):
        return getattr(sky.galactic, which).to(u.deg)
    return getattr(_equatorial(sky), which).to(u.deg)


def _equatorial(sky):
    names = sky.frame.get_representation_component_names()
    return sky if 'ra' in names else sky.icrs


def _comments(table, output):
    # values at the top level, or one below as in meta['call']
    groups = [table.meta, *(group for group in table.meta.values()
                            if isinstance(group, dict))]
    rms, rms_of, threshold, n_sigma, area, detection_rms, date = (
        next((group[name] for group in groups
              if str(group.get(name)) != 'None'), None)
        for name in ('rms', 'rms_of', 'threshold', 'n_sigma',
                     'beam_area_pix', 'detection_rms', 'date'))
    if rms is not None and rms_of is not None:
        rms = f'{rms}, of {rms_of}'
    if threshold is not None and n_sigma is not None:
        threshold = f'{threshold}, {n_sigma} times the detection rms'
    lines = ['Sources measured with hyperphotutils']
    lines += [f'{name}: {value}' for name, value in (
        ('Threshold', threshold), ('Detection rms', detection_rms),
        ('Noise rms', rms),
        ('Beam area', None if area is None else f'{area:.6g} pixels'),
        ('Date', date)) if value is not None]
    versions = table.meta.get('version')
    if isinstance(versions, dict):
        text = ', '.join(f'{key} {value}' for key, value in versions.items())
        lines.append(f'Versions: {text}')
    known = [*_UNIT_COMMENTS, *((name.upper(), name.upper())
                                for name in _CUBE_NAMES)]
    lines += [f'{names} in {output[name].unit.to_string()}'
              for names, name in known
              if name in output.colnames and output[name].unit is not None]
    if 'sky_centroid' in table.colnames:
        sky = table['sky_centroid']
        lines.append(f'RA, DEC in {_frame_text(_equatorial(sky))}; '
                     f'PA East of North in {_frame_text(sky)}')
    lines.append('STATUS is 1 for good measurements, and 0 with one of the '
                 f'flags {", ".join(_SPOILING)}')
    return [part for line in lines for part in textwrap.wrap(line, _WIDTH)]


def _frame_text(sky):
    # in the format of _parse_frame; the usual equinoxes are omitted
    name = sky.frame.name
    equinox = getattr(sky.frame, 'equinox', None)
    if equinox is None or equinox == _EQUINOXES.get(name):
        return name.upper()
    return f'{name.upper()} {equinox.value}'


# The columns of Hyper's catalogs in their order; those that are in no
# result table are derived from it.
_HYPER_NAMES = (
    'HYPER_ID', 'FLUX_PEAK', 'FLUX', 'FLUX_ERR', 'RESIDUALS', 'POLYN',
    'NMSE', 'CHI2_RED', 'BIC', 'FWHM_1', 'FWHM_2', 'PA', 'STATUS', 'GLON',
    'GLAT', 'RA', 'DEC', 'DEBLEND', 'CLUSTER', 'SHOULDER_SCORE')
_REGISTERED = {column.hyper_name: column
               for column in RESULT_COLUMNS.values() if column.hyper_name}


def _fwhm(table, axis):
    name = f'fwhm_{axis}_sky'
    if name in table.colnames:
        return u.Quantity(table[name], u.arcsec)
    return table[f'fwhm_{axis}_fit'] * u.pix


_DERIVED = {
    'STATUS': lambda table: (np.asarray(table['flags']) & _SPOILED) == 0,
    'FWHM_1': lambda table: _fwhm(table, 'major'),
    'FWHM_2': lambda table: _fwhm(table, 'minor'),
    'GLON': lambda table: _sky_angle(table, 'l'),
    'GLAT': lambda table: _sky_angle(table, 'b'),
    'RA': lambda table: _sky_angle(table, 'ra'),
    'DEC': lambda table: _sky_angle(table, 'dec'),
    'DEBLEND': lambda table: np.asarray(table['group_size']) > 1,
}
