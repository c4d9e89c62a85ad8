# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The detections of a map that have no row in its catalog.
"""

import numpy as np
from astropy.table import QTable

from hyperphotutils.catalog import describe_columns, write_regions
from hyperphotutils.catalog.output import atomic_output
from hyperphotutils.photometry import REJECTION_REASONS
from hyperphotutils.utils.tables import result_meta

__all__ = [
    'REJECTED',
    'count_reasons',
    'describe_bad_pixels',
    'describe_reasons',
    'write_rejected',
]

REJECTED, _REGIONS = 'rejected.ecsv', 'rejected.reg'

_BAD_PIXELS = {'glitch': ('glitch', 'glitches'),
               'saturated': ('saturated', 'saturated'),
               'fill': ('without data', 'without data')}


def write_rejected(rejected, folder, options, *, map_id, meta):
    """
    Write the rejected detections of a map or a cube.

    Parameters
    ----------
    rejected : `~astropy.table.QTable`
        The detections; without rows if none was rejected.

    folder : `~pathlib.Path`
        Where to write.

    options : `~hyperphotutils.pipeline.OutputOptions`
        The section ``output``.

    map_id : str
        The name of the map.

    meta : dict
        The metadata of the catalog.
    """
    table = describe_columns(QTable(rejected, copy=True))
    counts = count_reasons(rejected)
    table.meta.clear()
    table.meta |= result_meta() | {
        'map_id': map_id, 'filename': meta['filename'],
        'reasons': dict(REJECTION_REASONS), 'n_rejected': counts}
    selected = {name: number
                for name, number in meta.get('n_rejected', {}).items()
                if number and name not in REJECTION_REASONS}
    if selected:
        # selections of the finder are counted, but not listed
        table.meta['not_listed'] = selected
    with atomic_output(folder / REJECTED, overwrite=True) as path:
        table.write(path, format='ascii.ecsv')
    if options.regions:
        points = QTable({'id': table['reason'], 'x_fit': table['x_init'],
                         'y_fit': table['y_init'],
                         'sky_centroid': table['sky_centroid']})
        write_regions(points, folder / _REGIONS, frame=options.region_frame,
                      shape='point', overwrite=True)


def count_reasons(rejected):
    """
    Count rejected detections by reason.

    Parameters
    ----------
    rejected : `~astropy.table.QTable`
        The detections.

    Returns
    -------
    counts : dict
        The number for each reason, in the order of
        `~hyperphotutils.photometry.REJECTION_REASONS`.
    """
    reasons = np.asarray(rejected['reason'])
    return {reason: number for reason in REJECTION_REASONS
            if (number := int(np.count_nonzero(reasons == reason)))}


def describe_reasons(n_rejected):
    """
    Return the numbers of rejected detections in words.

    Parameters
    ----------
    n_rejected : dict
        The number for each reason, and for each selection of the
        finder.

    Returns
    -------
    text : str
        The words, such as ``'25 no usable pixels, 5 duplicates'``; empty
        if there are none.
    """
    words = []
    order = dict.fromkeys(REJECTION_REASONS, 0) | dict(n_rejected)
    for reason, number in order.items():
        if not number:
            continue
        text = reason.replace('_', ' ')
        if reason == 'duplicate':
            text += 's' * (number != 1)
        elif reason not in REJECTION_REASONS:
            text = f'by {reason}'
        words.append(f'{number} {text}')
    return ', '.join(words)


def describe_bad_pixels(n_bad_pixels):
    """
    Return the numbers of bad pixels in words.

    Parameters
    ----------
    n_bad_pixels : dict
        The number of pixels of each kind.

    Returns
    -------
    text : str
        The words, such as ``'1 glitch, 12 saturated'``; empty if there
        are none.
    """
    return ', '.join(f'{number} {_BAD_PIXELS[kind][number != 1]}'
                     for kind, number in n_bad_pixels.items() if number)
