# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The logs of a run and of its jobs, the tables of all maps, and the texts
that describe results and errors.
"""

from collections import Counter
from datetime import UTC, datetime

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import MaskedColumn, QTable, Table, vstack

from hyperphotutils.catalog import write_catalog
from hyperphotutils.catalog.units import in_unit
from hyperphotutils.photometry import REJECTION_REASONS
from hyperphotutils.pipeline.config_files import config_to_yaml
from hyperphotutils.pipeline.products import COMBINED, DIAGNOSTICS, LOG
from hyperphotutils.pipeline.text import printable
from hyperphotutils.utils.output import atomic_output
from hyperphotutils.utils.tables import result_meta

__all__ = []  # shared by the modules of the pipeline only

# The metadata of each map in the catalog of several maps
_MAP_META = ('filename', 'original_unit', 'beam_major', 'beam_minor',
             'beam_pa', 'beam_area_pix', 'threshold', 'threshold_peak',
             'n_sigma', 'detection_rms', 'rms', 'rms_of', 'n_detected',
             'n_companions', 'n_rejected', 'n_bad_pixels')

_BAD_PIXELS = {'glitch': ('glitch', 'glitches'),
               'saturated': ('saturated', 'saturated'),
               'fill': ('without data', 'without data')}


def number_of(number, noun):
    """
    Return a number with its noun in the singular or plural.
    """
    return f'{number} {noun}{"" if number == 1 else "s"}'


def format_rows(rows):
    """
    Format names and values as lines of a log.
    """
    return '\n'.join(f'{name:<13} {printable(value)}' for name, value in rows)


def summarize(result, caught, seconds):
    """
    Summarize the result of a job in one line.
    """
    text = f'{result.summary}, {seconds:.1f} s'
    if result.earlier:
        text += f' for what was left ({result.earlier})'
    # the summary states this itself
    n_warnings = len({str(item.message) for item in caught
                      if item.category.__name__ != 'NoDetectionsWarning'})
    if n_warnings:
        text += f', {number_of(n_warnings, "warning")}: see {LOG}'
    return text


def write_log(path, job, result, config, caught, times):
    """
    Write the log of a job.
    """
    counts = Counter(printable(f'{item.category.__name__}: {item.message}')
                     for item in caught)
    versions = result_meta()['version']
    sections = [
        format_rows([
            (job.kind, job.path),
            ('finished', datetime.now(UTC).isoformat(timespec='seconds')),
            ('versions', ', '.join(f'{name} {version}'
                                   for name, version in versions.items())),
            *((name, f'{seconds:.2f} s') for name, seconds in times.items()),
        ]),
        *result.describe(),
        '\n'.join([f'warnings      {len(counts)}',
                   *(f'  {text}' + (f' ({number} times)' if number > 1 else '')
                     for text, number in counts.items())]),
        'configuration\n' + config_to_yaml(config, comments=False),
    ]
    path.write_text('\n\n'.join(section.rstrip() for section in sections)
                    + '\n', encoding='utf-8', errors='backslashreplace')


def run_log(outcomes, config, origin, *, problem):
    """
    Return the log of a run.
    """
    if not any(item.details or not item.reason for item in outcomes):
        return ''
    lines = [f'run finished {datetime.now(UTC).isoformat(timespec="seconds")}']
    for item in outcomes:
        earlier = 'done by an earlier run: ' if item.earlier else ''
        # (the details are below)
        status = (f'failed: {item.reason.partition(" (details in ")[0]}'
                  if item.reason else item.summary)
        lines.append(printable(f'{item.job.map_id}: {earlier}{status}'))
        if item.details:
            lines.append(item.details.rstrip())
    if problem:
        lines.append(problem.rstrip())
    source = f' (from {printable(origin)})' if origin else ''
    lines += [f'configuration{source}',
              config_to_yaml(config, comments=False), '']
    return '\n'.join(lines)


def write_tables(outcomes, directory, *, combine):
    """
    Write the table with a row for each job: its status and the numbers of
    its outcome; and, with ``combine``, the catalog of all maps.

    Both depend on the jobs only; times are in the log.
    """
    table = Table({
        'map_id': [item.job.map_id for item in outcomes],
        'filename': [printable(item.job.path) for item in outcomes],
        'status': ['failed' if item.reason else 'done' for item in outcomes]})
    names = dict.fromkeys(name for item in outcomes for name in item.numbers
                          if name != 'seconds')
    for name in names:
        known = [item.numbers.get(name) for item in outcomes]
        missing = [value is None for value in known]
        blank = type(next(value for value in known if value is not None))()
        table[name] = MaskedColumn(
            [blank if value is None else value for value in known],
            mask=missing, unit='Jy / pix' if name == 'rms' else None)
    table['reason'] = [printable(item.reason or '') for item in outcomes]
    with atomic_output(directory / DIAGNOSTICS, overwrite=True) as temporary:
        table.write(temporary, format='ascii.ecsv')
    if combine:
        write_catalog(combine_outcomes(outcomes), directory / COMBINED,
                      overwrite=True)


def combine_outcomes(outcomes):
    """
    Stack the tables of all maps that have not failed.
    """
    tables = {item.job.map_id: item.table for item in outcomes
              if not item.reason}
    width = max(len(name) for name in tables)
    parts = []
    frame = None
    for map_id, table in tables.items():
        part = QTable(table, copy=True)
        part.meta.clear()
        if 'sky_centroid' in part.colnames:
            sky = part['sky_centroid']
            if frame is None:
                frame = sky.frame.replicate_without_data()
            # drop other attributes, which differ from map to map
            sky = sky.transform_to(frame).spherical
            part['sky_centroid'] = SkyCoord(sky.lon, sky.lat, frame=frame)
        part.add_column(np.full(len(part), map_id, dtype=f'<U{width}'),
                        name='map_id', index=0)
        parts.append(part)
    combined = vstack(parts, metadata_conflicts='silent')
    combined.meta.update(
        result_meta(), maps=list(tables), map_meta=describe_maps(tables))
    return combined


def describe_maps(tables):
    """
    Return the metadata of several maps.
    """
    return {map_id: {name: table.meta[name] for name in _MAP_META
                     if name in table.meta}
            for map_id, table in tables.items()}


def describe_mask(used, unused, n_masked=None):
    """
    Describe the extensions with masks of a map or a cube: those that are used,
    with their number of pixels if it is known, and others.
    """
    if used and n_masked is not None:
        used += f': {number_of(n_masked, "pixel")}'
    if unused:
        unused += ' not used: see the warnings'
    return '; '.join(filter(None, (used, unused))) or 'none in the file'


def describe_reasons(n_rejected):
    """
    Return the numbers of rejected detections as text.
    """
    texts = []
    ordered = dict.fromkeys(REJECTION_REASONS, 0) | dict(n_rejected)
    for reason, number in ordered.items():
        if not number:
            continue
        if reason == 'duplicate':
            texts.append(number_of(number, reason))
        elif reason in REJECTION_REASONS:
            texts.append(f'{number} {reason.replace("_", " ")}')
        else:
            texts.append(f'{number} by {reason}')
    return ', '.join(texts)


def describe_threshold(meta):
    """
    Describe the threshold in the metadata of a table of sources.
    """
    if 'threshold' not in meta:
        return 'none, the sources were given'
    text = (f'{meta["threshold"]:.4g}, {meta["n_sigma"]} times the rms of the '
            'filtered map')
    if 'threshold_peak' in meta:  # not in catalogs of earlier versions
        peak = in_unit(meta['threshold_peak'], meta['threshold'].unit,
                       meta['beam_area_pix'])
        text += ('; a point source at the threshold has a peak of '
                 f'{peak:.4g}')
    return text


def describe_bad_pixels(n_bad_pixels):
    """
    Return the numbers of bad pixels as text.
    """
    return ', '.join(f'{number} {_BAD_PIXELS[kind][number != 1]}'
                     for kind, number in n_bad_pixels.items() if number)
