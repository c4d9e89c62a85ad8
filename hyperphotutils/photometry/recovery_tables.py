# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tables of injected sources, of detections, and of bins.
"""

import math

import astropy.units as u
import numpy as np
from astropy.stats import binom_conf_interval
from astropy.table import QTable
from scipy.spatial import KDTree

from hyperphotutils.utils.tables import integrated_unit

__all__ = [
    'FEWEST_COMPARED',
    'make_bin_table',
    'make_detections_table',
    'make_injected_table',
    'read_measured',
    'summarize_bin',
]

# Medians and scatters of fewer recovered sources are not significant: they
# are in the table, but not printed and not plotted.
FEWEST_COMPARED = 5

# The measured quantities, their errors, and their true values.
_QUANTITIES = {
    'flux': ('flux_fit', 'flux_err', 'flux_true'),
    'aperture_flux': ('aperture_flux', 'aperture_flux_err', 'flux_true'),
    'peak': ('amplitude_fit', 'amplitude_err', 'amplitude_true'),
    'x': ('x_fit', 'x_err', 'x_true'),
    'y': ('y_fit', 'y_err', 'y_true'),
}
_SIZES = ('fwhm_major', 'fwhm_minor', 'theta')
_MEASURED = (
    *dict.fromkeys(name for names in _QUANTITIES.values()
                   for name in names[:2]),
    *(f'{name}_{end}' for name in _SIZES for end in ('fit', 'err')), 'snr')


def make_injected_table(sky, rms, known, batches, outcomes):
    """
    Return the table of all injected sources.
    """
    sizes = [len(batch['x']) for batch in batches]
    joined = {name: np.concatenate([batch[name] for batch in batches])
              for name in batches[0]}
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    table = QTable({'id': np.arange(1, sum(sizes) + 1),
                    'repeat': np.repeat(np.arange(len(sizes)), sizes)})
    table['host_id'] = np.where(joined['host'] >= 0,
                                first + joined['host'] + 1, 0)
    joined['flux'] = joined['amplitude'] * sky.area_of(
        *(joined[name] for name in _SIZES))
    for name in ('x', 'y', 'amplitude', *_SIZES, 'flux'):
        _add_column(table, f'{name}_true', joined[name], sky.unit)
    table['snr_true'] = joined['amplitude'] / rms if rms > 0.0 else np.nan
    known = known[np.isfinite(known).all(axis=1)]
    table['known_distance'] = np.nan if len(known) == 0 else KDTree(
        known).query(np.column_stack((joined['x'], joined['y'])))[0]
    # the row of each source in the catalog of its map, -1 if it is lost
    found = np.concatenate([item['found'] for item in outcomes])
    table['recovered'] = found >= 0
    table['distance'] = np.concatenate([item['distance']
                                        for item in outcomes])
    for name in _MEASURED:
        _add_column(table, name, np.concatenate([
            _pick(item['measured'].get(name), item['found'])
            for item in outcomes]), sky.unit)
    table['flags'] = np.concatenate([
        np.where(item['found'] >= 0,
                 np.append(item['flags'], 0)[item['found']], 0)
        for item in outcomes])
    return table


def make_detections_table(sky, rms, outcomes):
    """
    Return the table of the detections other than known sources.
    """
    table = QTable({'repeat': np.repeat(
        np.arange(len(outcomes)),
        [np.count_nonzero(item['new']) for item in outcomes])})
    positions = np.concatenate([item['positions'][item['new']]
                                for item in outcomes])
    table['x'], table['y'] = positions.T
    for name, column in (('flux', 'flux_fit'), ('snr', 'amplitude_fit')):
        values = np.concatenate([
            _pick(item['measured'].get(column), np.flatnonzero(item['new']))
            for item in outcomes])
        if name == 'snr':
            values = values / rms if rms > 0.0 else np.full_like(values,
                                                                 np.nan)
        _add_column(table, f'{name}_measured', values, sky.unit)
    for name in ('false', 'changed'):
        table[name] = np.concatenate([item[name][item['new']]
                                      for item in outcomes])
    return table


def make_bin_table(kind, edges, injected, detections, unit, *,
                   confidence_level):
    """
    Return the table of the bins in 'snr' or 'flux'.
    """
    n_bins = len(edges) - 1
    column_unit = _unit_of(kind, unit)
    true = _plain(injected[f'{kind}_true'], column_unit)
    # rounding may put a source outside of the first or the last edge
    bins = np.clip(np.searchsorted(edges, true, side='right') - 1, 0,
                   n_bins - 1)
    members = [bins == number for number in range(n_bins)]
    table = QTable()
    _add_column(table, f'{kind}_low', edges[:-1], unit)
    _add_column(table, f'{kind}_high', edges[1:], unit)
    for name in ('flux', 'snr'):
        values = _plain(injected[f'{name}_true'], None)
        _add_column(table, name, np.array([
            _median_and_scatter(values[chosen])[0]
            for chosen in members]), unit)
    table['n_injected'] = [np.count_nonzero(chosen) for chosen in members]
    table['n_recovered'] = [np.count_nonzero(injected['recovered'][chosen])
                            for chosen in members]
    _add_fraction(table, 'completeness', table['n_recovered'],
                  table['n_injected'], confidence_level)
    # A false detection has no true flux: reliability is a function of the
    # measured one, of recovered sources as well. -1 is outside of all bins.
    values = _plain(detections[f'{kind}_measured'], column_unit)
    measured = np.where(values < edges[-1],
                        np.searchsorted(edges, values, side='right') - 1, -1)
    for name, chosen in (('n_new', measured[~detections['changed']]),
                         ('n_false', measured[detections['false']])):
        table[name] = [np.count_nonzero(chosen == number)
                       for number in range(n_bins)]
    _add_fraction(table, 'reliability', table['n_new'] - table['n_false'],
                  table['n_new'], confidence_level)
    for name, columns in _QUANTITIES.items():
        measured, error, true = (_plain(injected[column], None)
                                 for column in columns)
        offset = measured - true
        pull = np.divide(offset, error, where=error > 0.0,
                         out=np.full(len(offset), np.nan))
        if name not in {'x', 'y'}:
            offset /= true
        for prefix, ends, values in (('', ('bias', 'scatter'), offset),
                                     ('pull_', ('median', 'scatter'), pull)):
            statistics = [_median_and_scatter(values[chosen])
                          for chosen in members]
            for end, column in zip(ends, zip(*statistics, strict=True),
                                   strict=True):
                table[f'{name}_{prefix}{end}'] = np.array(column)
    return table


def read_measured(table, unit):
    """
    Return the measured values as plain arrays in the units of the map.
    """
    if table is None:
        return {}
    return {name: _plain(table[name], _unit_of(name, unit))
            for name in _MEASURED if name in table.colnames}


def summarize_bin(row):
    """
    Return the line of a bin in a summary, with a dash for unknown values:
    signal-to-noise ratio, number of injected sources, completeness,
    reliability, and bias and pull of the flux.
    """
    def percent(value, width):
        return (f'{100 * value:{width}.1f} %' if math.isfinite(value)
                else f'{"-":>{width}}  ')

    enough = row['n_recovered'] >= FEWEST_COMPARED
    bias = row['flux_bias'] if enough else math.nan
    pull = f'{"-":>5}'
    if enough and math.isfinite(row['flux_pull_median']):
        pull = f'{row["flux_pull_median"]:5.2f}'
        if math.isfinite(row['flux_pull_scatter']):
            pull += f' +/- {row["flux_pull_scatter"]:.2f}'
    snr = row['snr']
    if row['n_injected'] == 0 and 'snr_low' in row.colnames:
        snr = math.sqrt(row['snr_low'] * row['snr_high'])
    return (f'{snr:6.1f} {row["n_injected"]:9d} '
            f'{percent(row["completeness"], 12)} '
            f'{percent(row["reliability"], 11)} '
            f'{percent(bias, 9)}   {pull}')


def _add_fraction(table, name, successes, trials, confidence_level):
    """
    Add a fraction and its interval, NaN without trials.
    """
    tried = np.asarray(trials) > 0
    columns = np.full((3, len(tried)), np.nan)
    successes = np.asarray(successes)[tried]
    trials = np.asarray(trials)[tried]
    if tried.any():
        columns[0, tried] = successes / trials
        # Wilson 1927, JASA 22, 209: valid near 0 and 1, too (Brown, Cai &
        # DasGupta 2001, Statist. Sci. 16, 101)
        columns[1:, tried] = binom_conf_interval(
            successes, trials, confidence_level, interval='wilson')
    # rounding must not move a limit to the wrong side of the fraction
    columns[1] = np.minimum(columns[0], columns[1])
    columns[2] = np.maximum(columns[0], columns[2])
    for end, values in zip(('', '_low', '_high'), columns, strict=True):
        table[f'{name}{end}'] = values


def _unit_of(name, unit):
    """
    Return the unit of a column of the results, or None.
    """
    if name.startswith('theta'):
        return u.deg
    if unit is None:
        return None
    if name.startswith('amplitude'):
        return unit
    return integrated_unit(unit) if 'flux' in name else None


def _plain(column, unit):
    """
    Return the values of a column without unit; masked ones are NaN.
    """
    if getattr(column, 'unit', None) is not None and unit is not None:
        column = u.Quantity(column).to(unit)
    values = getattr(column, 'value', column)
    return np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)


def _add_column(table, name, values, unit):
    """
    Add a column with the unit of the results.
    """
    unit = _unit_of(name, unit)
    table[name] = values if unit is None else values << unit


def _pick(values, rows):
    """
    Return values by row, NaN for the rows -1 and without values.
    """
    if values is None:
        return np.full(len(rows), np.nan)
    return np.append(values, np.nan)[rows]


def _median_and_scatter(values):
    """
    Return the median of the finite values and the standard deviation
    estimated from their median absolute deviation; NaN for too few values.
    """
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return np.nan, np.nan
    median = np.median(values)
    # 1 / Phi^-1(3/4), of a normal distribution (Hampel 1974, JASA 69, 383)
    return median, (1.4826 * np.median(np.abs(values - median))
                    if len(values) > 1 else np.nan)
