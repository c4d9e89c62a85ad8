# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The command ``hyperphot example``: a simulated map, and the accuracy of
its measured sources.
"""

from pathlib import Path

import numpy as np
from scipy.spatial import KDTree

from hyperphotutils.catalog import write_catalog
from hyperphotutils.datasets import make_blended_map

__all__ = ['compare_with_truth', 'write_example']

_MAP = 'simulated_map.fits'
_TRUTH = 'truth.ecsv'

# Largest distance of a measured source from a true one in beam FWHM
_MATCH_RADIUS = 0.5


def write_example(directory):
    """
    Write the simulated map and its true sources; return the path of the
    map and the `~hyperphotutils.datasets.SimulatedMap`.

    Files of an earlier example are replaced; a `FileExistsError` is raised
    for files of the same name that do not belong to one.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    existing = [name for name in (_MAP, _TRUTH)
                if (directory / name).exists()]
    if len(existing) == 1:
        msg = (f'{directory / existing[0]} does not belong to an example: '
               'choose another folder')
        raise FileExistsError(msg)
    simulated = make_blended_map((300, 300), 100, seed=1)
    path = directory / _MAP
    temporary = path.with_name(f'.{_MAP}')
    try:
        simulated.write(temporary, overwrite=True)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    write_catalog(simulated.truth, directory / _TRUTH, overwrite=True)
    return path, simulated


def compare_with_truth(table, simulated):
    """
    Return the lines of a summary of the accuracy of the measured sources.
    """
    truth = simulated.truth
    fwhm = simulated.image.meta['beam_fwhm_pix']
    measured, true, distance = _match(table, truth, _MATCH_RADIUS * fwhm)
    lines = [
        f'true sources          {len(truth)}',
        f'found                 {len(true)} (within {_MATCH_RADIUS:g} beam '
        'FWHM)',
        f'not in the truth      {len(table) - len(true)}',
    ]
    if len(true) == 0:
        return lines
    lines.append(f'position error        {np.median(distance):.3f} pixels '
                 '(median)')
    for name, label in (('amplitude_fit', 'peak'), ('flux_fit', 'flux')):
        ratio = (table[name][measured] / truth[name][true]).to_value('') - 1
        center = np.median(ratio)
        scatter = 1.4826 * np.median(np.abs(ratio - center))
        lines.append(f'{label} error            {100 * center:+.1f} % '
                     f'(median), scatter {100 * scatter:.1f} %')
    return lines


def _match(table, truth, radius):
    """
    Match sources that are each other's nearest neighbors, and return
    their rows in both tables and their distances.
    """
    good = np.flatnonzero(np.isfinite(table['x_fit'] + table['y_fit']))
    if len(good) == 0 or len(truth) == 0:
        return good[:0], good[:0], np.empty(0)
    ours, theirs = (np.column_stack([rows['x_fit'], rows['y_fit']])
                    for rows in (table[good], truth))
    distance, true = KDTree(theirs).query(ours, distance_upper_bound=radius)
    _, nearest = KDTree(ours).query(theirs)
    near = np.isfinite(distance)
    mutual = np.flatnonzero(near)[
        nearest[true[near]] == np.flatnonzero(near)]
    return good[mutual], true[mutual], distance[mutual]
