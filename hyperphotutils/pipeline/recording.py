# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The files of a run beside those of its maps: the catalogue of all maps,
their diagnostics, and the log.
"""

import numpy as np
from astropy.table import MaskedColumn, Table

from hyperphotutils.catalog import write_catalog
from hyperphotutils.catalog.output import atomic_output
from hyperphotutils.pipeline.config import config_to_yaml
from hyperphotutils.pipeline.planning import COMBINED, DIAGNOSTICS, LOG
from hyperphotutils.pipeline.products import combine_tables
from hyperphotutils.pipeline.text import printable

__all__ = ['combine_outcomes', 'write_combined', 'write_run_log']


def combine_outcomes(outcomes):
    """
    Stack the tables of all maps that were done.

    Parameters
    ----------
    outcomes : list of `~hyperphotutils.pipeline.MapOutcome`
        What became of the maps.

    Returns
    -------
    table : `~astropy.table.QTable`
        See `~hyperphotutils.pipeline.products.combine_tables`.
    """
    return combine_tables({outcome.job.map_id: outcome.table
                           for outcome in outcomes if not outcome.reason})


def write_combined(outcomes, directory):
    """
    Write the catalogue of all maps, and a table with a row for each map.

    Both tell the same for the same maps, whatever happened on the way:
    how long it took is told by the log.

    Parameters
    ----------
    outcomes : list of `~hyperphotutils.pipeline.MapOutcome`
        What became of the maps.

    directory : `~pathlib.Path`
        The folder of the products.

    Raises
    ------
    OSError
        If they cannot be written.

    ValueError
        If the catalogues of the maps do not suit each other. The table
        with a row for each map is written nevertheless.
    """
    with atomic_output(directory / DIAGNOSTICS, overwrite=True) as path:
        _diagnose(outcomes).write(path, format='ascii.ecsv')
    write_catalog(combine_outcomes(outcomes), directory / COMBINED,
                  overwrite=True)


def _diagnose(outcomes):
    """
    Make the table with a row for each map.
    """
    failed = np.array([bool(item.reason) for item in outcomes])
    table = Table({
        'map_id': [item.job.map_id for item in outcomes],
        'filename': [printable(item.job.path) for item in outcomes],
        'status': np.where(failed, 'failed', 'done')})
    for name, dtype, unit in (('n_detected', int, None),
                              ('n_companions', int, None),
                              ('n_rejected', int, None),
                              ('n_measured', int, None),
                              ('rms', float, 'Jy / pix')):
        values = [item.numbers.get(name, 0) for item in outcomes]
        table[name] = MaskedColumn(values, dtype=dtype, mask=failed,
                                   unit=unit)
    table['reason'] = [printable(item.reason or '') for item in outcomes]
    return table


def write_run_log(outcomes, config, directory, finished, origin, *,
                  problem=None):
    """
    Append to the log of all runs in this folder.

    When nothing was done, for reasons that the message tells in full,
    there is nothing to log, and no folder to be made for it.

    Parameters
    ----------
    outcomes : list of `~hyperphotutils.pipeline.MapOutcome`
        What became of the maps.

    config : `~hyperphotutils.pipeline.PipelineConfig`
        The configuration.

    directory : `~pathlib.Path`
        The folder of the products.

    finished : `~datetime.datetime`
        The time.

    origin : str or `None`
        Where the configuration comes from.

    problem : str or `None`, optional
        What went wrong after the maps were done.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    if not any(item.details or not item.reason for item in outcomes):
        return
    lines = [f'run finished {finished.isoformat(timespec="seconds")}']
    for item in outcomes:
        earlier = 'done by an earlier run: ' if item.earlier else ''
        status = f'failed: {item.reason}' if item.reason else item.summary
        lines.append(printable(f'{item.job.map_id}: {earlier}{status}'))
        if item.details:
            lines.append(item.details.rstrip())
    if problem:
        lines.append(problem.rstrip())
    told = f' (from {printable(origin)})' if origin else ''
    lines += [f'configuration{told}',
              config_to_yaml(config, comments=False), '']
    with (directory / LOG).open('a', encoding='utf-8',
                                errors='backslashreplace') as file:
        file.write('\n'.join(lines))
