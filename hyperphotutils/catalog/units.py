# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Units of fluxes and peaks in catalogs.
"""

from __future__ import annotations

import astropy.units as u
import numpy as np
from astropy.table import QTable, Table
from numpy.typing import ArrayLike

from hyperphotutils.utils.checks import check_table

__all__ = ['convert_flux_units']

_PER_PIXEL = u.Jy / u.pix
_PER_BEAM = u.Jy / u.beam


def convert_flux_units(table: Table, *,
                       flux_unit: str | u.UnitBase | None = None,
                       peak_unit: str | u.UnitBase | None = None,
                       beam_area_pix: ArrayLike | None = None) -> QTable:
    """
    Convert the fluxes and peaks of a table to other units.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The sources. It is not changed.

    flux_unit : str, `~astropy.units.Unit` or `None`, optional
        The unit of all flux columns, such as ``'Jy'`` or ``'mJy'``. If
        `None` (default), they are not converted.

    peak_unit : str, `~astropy.units.Unit` or `None`, optional
        The unit of all columns with a flux per pixel or per beam (peaks,
        backgrounds and their errors), such as ``'Jy/pix'`` or
        ``'mJy/beam'``. If `None` (default), they are not converted.

    beam_area_pix : float, 1D array_like or `None`, optional
        The area of the beam in pixels, needed to convert between fluxes
        per pixel and per beam: one number, or one per row if the solid
        angle of the pixels varies over the map. If `None` (default), it
        is taken from the column ``'beam_area_pix'`` or, without one,
        from ``table.meta['beam_area_pix']``.

    Returns
    -------
    table : `~astropy.table.QTable`
        The table with the new units. An ``'rms'`` in its metadata is
        converted, too, if it is a flux per pixel or per beam.

    Raises
    ------
    TypeError
        If ``table`` is not a table.

    ValueError
        If a unit has another physical type, the table has no matching
        column, or the area of the beam is needed and unknown.

    Notes
    -----
    A peak in Jy/pixel times the number of pixels in a beam is the peak
    in Jy/beam. The columns to convert are selected by their units alone,
    so that tables of several bands can be converted as well, unless
    peaks need the beam, which differs between bands.

    Examples
    --------
    >>> import astropy.units as u
    >>> from astropy.table import QTable
    >>> from hyperphotutils.catalog import convert_flux_units
    >>> table = QTable({'amplitude_fit': [0.01] * u.Jy / u.pix,
    ...                 'flux_fit': [0.3] * u.Jy},
    ...                meta={'beam_area_pix': 20.0})
    >>> result = convert_flux_units(table, flux_unit='mJy',
    ...                             peak_unit='Jy/beam')
    >>> print(result['amplitude_fit'], result['flux_fit'])
    [0.2] Jy / beam [300.] mJy
    """
    check_table(table)
    result = QTable(table, copy=True)
    if flux_unit is not None:
        unit = _parse('flux_unit', flux_unit, (u.Jy,), "'Jy' or 'mJy'")
        _convert_columns(result, unit, (u.Jy,), 'flux_unit')
    if peak_unit is not None:
        unit = _parse('peak_unit', peak_unit, (_PER_PIXEL, _PER_BEAM),
                      "'Jy/pix' or 'Jy/beam'")
        area = _beam_area(beam_area_pix, result)
        _convert_columns(result, unit, (_PER_PIXEL, _PER_BEAM), 'peak_unit',
                         area)
        rms = result.meta.get('rms')
        if isinstance(rms, u.Quantity) and any(
                rms.unit.is_equivalent(kind)
                for kind in (_PER_PIXEL, _PER_BEAM)):
            if np.ndim(area) == 1:
                # a single value for the map: use the beam at its center
                area = result.meta.get('beam_area_pix', np.nanmedian(area))
            result.meta['rms'] = in_unit(rms, unit, area)
    return result


def map_unit(meta):
    """
    Return the unit of the pixels of a map in its file, from the metadata of
    the map or of its table, if it is a flux per beam; else `None`.
    """
    text = str(meta.get('original_unit', ''))
    for spelling in (text, text.lower().replace('jy', 'Jy')):
        unit = u.Unit(spelling, parse_strict='silent')
        if unit.is_equivalent(_PER_BEAM):
            return unit
    return None


def in_map_unit(value, meta):
    """
    Return a flux per pixel in the `map_unit`, if there is one.
    """
    unit = map_unit(meta)
    return value if unit is None else in_unit(
        value, unit, meta['beam_area_pix'])


def to_readable_units(table):
    """
    Return a table in the units in which a person reads it.

    Fluxes are in Jy, mJy, or uJy, so that their median has few digits, or,
    if the map has a unit per beam, with the prefix of that. Peaks and
    backgrounds are per beam, if its area is known. Columns in other units
    are kept.
    """
    own = map_unit(table.meta)
    for key, kinds in (('peak_unit', (_PER_PIXEL, _PER_BEAM)),
                       ('flux_unit', (u.Jy,))):
        names = [name for name in table.colnames
                 if any(kind.is_equivalent(getattr(table[name], 'unit', None)
                                           or u.one) for kind in kinds)]
        if not names:
            continue
        first = table[next((name for name in _LEADING if name in names),
                           names[0])]
        area = _beam_area(None, table) if key == 'peak_unit' else None
        unit = (kinds[0] if first.unit.is_equivalent(kinds[0])
                and area is None else kinds[-1])
        values = np.abs(in_unit(first, unit, area).value)
        values = values[np.isfinite(values) & (values != 0.0)]
        # the median, so that a few bright sources do not set the prefix
        typical = np.median(values) if len(values) else 1.0
        unit *= next((prefix for prefix in (u.Jy, u.mJy)
                      if typical >= 0.3 * prefix.to(u.Jy)), u.uJy) / u.Jy
        if own is not None:
            unit = own * u.beam if key == 'flux_unit' else own
        if all(table[name].unit == unit for name in names):
            continue
        table = convert_flux_units(table, **{key: unit})
    return table


# The columns that prefixes of units are chosen for
_LEADING = ('amplitude_fit', 'flux_fit', 'peak')


def _parse(name, unit, kinds, examples):
    try:
        parsed = u.Unit(unit)
    except (ValueError, TypeError):
        parsed = None
    if parsed is None or not any(parsed.is_equivalent(kind)
                                 for kind in kinds):
        msg = f'{name} must be a unit such as {examples}: got {str(unit)!r}'
        raise ValueError(msg)
    return parsed


def _beam_area(area, table):
    if area is None and 'beam_area_pix' in table.colnames:
        area = table['beam_area_pix']
    if area is None:
        area = table.meta.get('beam_area_pix')
    if area is None:
        return None
    try:
        values = np.asarray(getattr(area, 'value', area), dtype=float)
    except (TypeError, ValueError):
        values = np.array(np.nan)
    # rows without a position have a NaN area
    valid = (values.ndim == 0 and values > 0.0) or (
        values.shape == (len(table),) and not np.any(values <= 0.0))
    if not valid:
        msg = ('beam_area_pix must be positive, one number or one for each '
               f'of the {len(table)} rows: got {area!r}')
        raise ValueError(msg)
    return values


def _convert_columns(table, unit, kinds, name, area=None):
    # all columns with these units
    found = False
    for column in table.colnames:
        old = getattr(table[column], 'unit', None)
        if old is None or not any(old.is_equivalent(kind) for kind in kinds):
            continue
        found = True
        # a new column has no description
        description = table[column].info.description
        table[column] = in_unit(table[column], unit, area)
        table[column].info.description = description
    if not found:
        msg = (f"cannot convert to {name}='{unit}': the table has no column "
               f'in a unit like {kinds[0]}')
        raise ValueError(msg)


def in_unit(values, unit, area):
    """
    Return fluxes, or fluxes per pixel or per beam, in a unit; the ``area`` of
    the beam is in pixels.
    """
    if values.unit.is_equivalent(unit):
        return values.to(unit)
    if area is None:
        msg = (f"the conversion from '{values.unit}' to '{unit}' needs the "
               'area of the beam: give beam_area_pix or set '
               "table.meta['beam_area_pix']")
        raise ValueError(msg)
    per_beam = area * u.pix / u.beam
    if values.unit.is_equivalent(_PER_BEAM):
        return (values / per_beam).to(unit)
    return (values * per_beam).to(unit)
