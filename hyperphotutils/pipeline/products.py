# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The files of one map, and the catalog of several maps.

All files of a map are written into a temporary folder beside the final
one, which is renamed when they are whole.
"""

import os
import shutil
import time
from collections import Counter
from datetime import UTC, datetime

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import QTable, vstack

from hyperphotutils.catalog import write_catalog, write_regions
from hyperphotutils.pipeline.config import config_to_yaml
from hyperphotutils.pipeline.cutouts import write_cutouts
from hyperphotutils.pipeline.planning import scratch_folder
from hyperphotutils.pipeline.rejected import (
    REJECTED,
    describe_bad_pixels,
    describe_reasons,
    write_rejected,
)
from hyperphotutils.pipeline.text import printable
from hyperphotutils.utils.flags import FLAG_DESCRIPTIONS, FLAGS
from hyperphotutils.utils.tables import result_meta

__all__ = [
    'combine_tables',
    'describe_maps',
    'put_in_place',
    'save_picture',
    'sync_files',
    'table_of',
    'with_shapes',
    'write_catalogs',
    'write_products',
]

# What the catalog of several maps tells of each
_MAP_META = ('filename', 'original_unit', 'beam_major', 'beam_minor',
             'beam_pa', 'beam_area_pix', 'threshold', 'detection_rms', 'rms',
             'rms_of', 'n_detected', 'n_companions', 'n_rejected',
             'n_bad_pixels')

# Panels of large maps have one to two dots a pixel of the map
_DPI = 110

# Greys in the palette of a picture, beside the colours of its maps
_N_GREYS = 32


def write_products(job, extraction, config, *, caught=(), progress_bar=False):
    """
    Write all files of one map.

    Parameters
    ----------
    job : `~hyperphotutils.pipeline.MapJob`
        The map and its folder.

    extraction : `~hyperphotutils.pipeline.extraction.Extraction`
        What was measured.

    config : `~hyperphotutils.pipeline.PipelineConfig`
        What to write.

    caught : list of `warnings.WarningMessage`, optional
        The warnings for the log; those of the writing itself may be
        appended to the list meanwhile.

    progress_bar : bool, optional
        Whether to show the progress of pictures and cut-outs.

    Raises
    ------
    OSError
        If a file cannot be written. Nothing appears under the final
        name then.
    """
    scratch = scratch_folder(job.folder)
    # a process of this number may have been killed here
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir()
        _write_files(job, extraction, config, caught, scratch, progress_bar)
        put_in_place(scratch, job.folder)
    except OSError as exc:
        # the reader knows the final name, not the temporary one
        name = str(exc.filename or job.folder).replace(str(scratch),
                                                       str(job.folder))
        raise OSError(exc.errno, exc.strerror or str(exc), name) from exc
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_files(job, extraction, config, caught, folder, progress_bar):
    """
    Write all files into a folder, and wait until they are on the disk.
    """
    start = time.perf_counter()
    table = extraction.table
    write_catalogs(table, config.output, folder, map_id=job.map_id,
                   shapes=with_shapes(table, extraction.image))
    if extraction.rejected is not None:
        write_rejected(extraction.rejected, folder, config.output,
                       map_id=job.map_id, meta=table.meta)
    if config.output.overview:
        _write_overview(job, extraction, folder)
    fwhm = extraction.image.meta['beam_fwhm_pix']
    write_cutouts(extraction, folder, config.output,
                  config.fit.fit_radius * fwhm, progress_bar=progress_bar)
    extraction.times['writing'] = time.perf_counter() - start
    log = _log_text(job, extraction, config, caught)
    (folder / 'run.log').write_text(log, encoding='utf-8',
                                    errors='backslashreplace')
    sync_files(folder)


def sync_files(folder):
    """
    Wait until all files of a folder are on the disk.

    Parameters
    ----------
    folder : `~pathlib.Path`
        The folder.
    """
    for path in folder.rglob('*'):
        if path.is_file():
            with path.open('r+b') as file:
                os.fsync(file.fileno())


def combine_tables(tables):
    """
    Stack the tables of several maps.

    Parameters
    ----------
    tables : dict
        The tables by the map's name.

    Returns
    -------
    table : `~astropy.table.QTable`
        All rows, with the map's name in the first column, ``map_id``.
        Positions are in the frame of the first map. What is known of
        each map is in ``meta['map_meta']``.
    """
    parts = []
    frame = None
    for map_id, table in tables.items():
        part = QTable(table, copy=True)
        part.meta.clear()
        if 'sky_centroid' in part.colnames:
            if frame is None:
                # (one without rows is false)
                frame = part['sky_centroid'].frame
            part['sky_centroid'] = _in_frame(part['sky_centroid'], frame)
        width = max(len(name) for name in tables)
        part.add_column(np.full(len(part), map_id, dtype=f'<U{width}'),
                        name='map_id', index=0)
        parts.append(part)
    combined = vstack(parts, metadata_conflicts='silent')
    combined.meta.update(
        result_meta(), maps=list(tables), map_meta=describe_maps(tables))
    return combined


def describe_maps(tables):
    """
    Return what the tables of several maps tell of each map.

    Parameters
    ----------
    tables : dict
        The tables by the map's name.

    Returns
    -------
    map_meta : dict
        The metadata by the map's name.
    """
    return {map_id: {name: table.meta[name] for name in _MAP_META
                     if name in table.meta}
            for map_id, table in tables.items()}


def _in_frame(sky, frame):
    """
    Transform positions, and drop what differs from map to map otherwise.
    """
    frame = frame.replicate_without_data()
    sky = sky.transform_to(frame)
    return SkyCoord(sky.spherical.lon, sky.spherical.lat, frame=frame)


def write_catalogs(table, options, folder, *, map_id, shapes=None):
    """
    Write the catalogs and regions of a map or a cube.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        The sources.

    options : `~hyperphotutils.pipeline.OutputOptions`
        The section ``output``.

    folder : `~pathlib.Path`
        Where to write.

    map_id : str
        The name of the map.

    shapes : `~astropy.table.QTable`, optional
        The sources with shapes, for all but ``catalog.ecsv``, if they
        were only detected.
    """
    table.meta['map_id'] = map_id
    write_catalog(table, folder / 'catalog.ecsv', overwrite=True)
    shapes = table if shapes is None else shapes
    for name, wanted in (('catalog.ipac', options.ipac),
                         ('catalog.csv', options.csv)):
        if wanted:
            write_catalog(shapes, folder / name, map_id=map_id,
                          overwrite=True)
    if options.regions:
        for name, shape in (('ellipses.reg', 'ellipse'),
                            ('centroids.reg', 'point')):
            write_regions(shapes, folder / name, frame=options.region_frame,
                          shape=shape, overwrite=True)


def with_shapes(table, image):
    """
    Give detections without a fit the beam's shape, and no peak flux.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        The sources, detected or measured.

    image : `~astropy.nddata.CCDData`
        Their map.

    Returns
    -------
    table : `~astropy.table.QTable`
        The table with shapes; the same one if it has them.
    """
    if 'x_fit' in table.colnames:
        return table
    n_rows = len(table)
    beam = image.meta['beam']
    shaped = table.copy()
    shaped['x_fit'] = table['x_centroid']
    shaped['y_fit'] = table['y_centroid']
    shaped['amplitude_fit'] = np.full(n_rows, np.nan) << table['peak'].unit
    for name, value in (
            ('fwhm_major_fit', image.meta['beam_major_pix']),
            ('fwhm_minor_fit', image.meta['beam_minor_pix']),
            ('theta_fit', image.meta['beam_theta'] * u.deg),
            ('fwhm_major_sky', beam.major.to(u.arcsec)),
            ('fwhm_minor_sky', beam.minor.to(u.arcsec)),
            ('position_angle', beam.pa.to(u.deg))):
        unit = getattr(value, 'unit', None)
        filled = np.full(n_rows, getattr(value, 'value', value))
        shaped[name] = filled if unit is None else filled << unit
    return shaped


def _write_overview(job, extraction, folder):
    from hyperphotutils.visualization import plot_overview

    image = extraction.image
    meta = image.meta
    fitted = extraction.model is not None
    figure = plot_overview(
        image.data << image.unit, extraction.table, wcs=image.wcs,
        mask=image.mask, background=extraction.background,
        model=extraction.model, residual=extraction.residual,
        rms=extraction.rms if fitted else None,
        title=f'{job.map_id}: {extraction.counts}',
        beam=(meta['beam_major_pix'], meta['beam_minor_pix'],
              meta['beam_theta']))
    save_picture(figure, folder / 'overview.png')


def save_picture(figure, path):
    """
    Write a picture with the colours of its colour maps, and greys.

    The file is a third as large as in full colour.

    Parameters
    ----------
    figure : `~matplotlib.figure.Figure`
        The picture.

    path : `~pathlib.Path`
        The file.
    """
    from PIL import Image

    cmaps = {image.cmap.name: image.cmap for axes in figure.axes
             for image in axes.images}
    n_levels = (256 - _N_GREYS) // len(cmaps)
    colors = [np.repeat(np.linspace(0, 1, _N_GREYS)[:, None], 3, axis=1)]
    colors += [cmap(np.linspace(0, 1, n_levels))[:, :3]
               for cmap in cmaps.values()]
    palette = Image.new('P', (1, 1))
    palette.putpalette(np.rint(255 * np.vstack(colors)).astype('u1').tobytes())
    figure.set_dpi(_DPI)
    figure.canvas.draw()
    # nothing in it is transparent
    image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(
        path, dpi=(_DPI, _DPI))


def put_in_place(scratch, folder):
    """
    Rename the temporary folder; an older one gives way only now.

    Parameters
    ----------
    scratch, folder : `~pathlib.Path`
        The folder under its temporary and its final name.
    """
    old = scratch_folder(folder, 'old')
    if not folder.exists():
        scratch.rename(folder)
        return
    folder.rename(old)
    try:
        scratch.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)


def _log_text(job, extraction, config, caught):
    sections = [
        _describe_run(job),
        _describe_map(extraction.image),
        _describe_result(extraction),
        _describe_flags(extraction.table),
        _describe_warnings(caught),
        'configuration\n' + config_to_yaml(config, comments=False),
    ]
    return '\n\n'.join(section.rstrip() for section in sections) + '\n'


def table_of(rows):
    """
    Write rows of a name and a value, as they are in logs.

    Parameters
    ----------
    rows : list of tuple
        The names and values.

    Returns
    -------
    text : str
        The lines.
    """
    return '\n'.join(f'{name:<14}{printable(value)}' for name, value in rows)


def _describe_run(job):
    versions = result_meta()['version']
    return table_of([
        ('map', job.path),
        ('finished', datetime.now(UTC).isoformat(timespec='seconds')),
        ('versions', ', '.join(f'{name} {version}'
                               for name, version in versions.items())),
    ])


def _describe_map(image):
    meta = image.meta
    beam = meta['beam']
    ny, nx = image.shape
    n_missing = int(image.mask.sum())
    filled = ''
    if meta['n_fill']:
        values = ', '.join(f'{value:g}' for value in meta['fill_values'])
        filled = f' ({meta["n_fill"]} with the fill value {values})'
    return table_of([
        ('extension', meta['extension']),
        ('errors', meta['error_extension'] or 'none in the file'),
        ('size', f'{nx} x {ny} pixels of {meta["pixel_scale"]:.4g}, '
                 f'{n_missing} of them missing{filled}'),
        ('unit', f'{meta["original_unit"]}, converted to {image.unit}'),
        ('beam', f'{beam.major.to(u.arcsec):.4g} x '
                 f'{beam.minor.to(u.arcsec):.4g}, position angle '
                 f'{beam.pa.to(u.deg):.1f}'),
        ('beam area', f'{meta["beam_area_pix"]:.4g} pixels'),
    ])


def _describe_result(extraction):
    table = extraction.table
    meta = table.meta
    rows = [('threshold', meta['threshold'])]
    if 'detection_rms' in meta and extraction.model is not None:
        rows.append(('detection rms', f'{meta["detection_rms"]:.4g}, of the '
                                      'filtered map'))
    rows += [('rms', f'{extraction.rms:.4g}, of {meta["rms_of"]}'),
             ('sources', extraction.counts)]
    if extraction.rejected is not None:
        told = describe_reasons(extraction.n_rejected) or 'none'
        if len(extraction.rejected):
            told += f'; see {REJECTED}'
        rows.append(('rejected', told))
    if told := describe_bad_pixels(meta.get('n_bad_pixels', {})):
        rows.append(('bad pixels', f'{told}; left out'))
    if 'noise' in meta:
        rows.append(('noise', meta['noise']))
    if extraction.n_groups:
        largest = int(table['group_size'].max())
        rows.append(('groups', f'{extraction.n_groups}, the largest with '
                               f'{largest} source{"s" * (largest != 1)}'))
    rows += [(name, f'{seconds:.2f} s')
             for name, seconds in extraction.times.items()]
    return table_of(rows)


def _describe_flags(table):
    if 'flags' not in table.colnames:
        return 'flags         none: sources were only detected'
    flags = np.asarray(table['flags'], dtype=int)
    rows = [f'  {name} ({bit}): {np.sum(flags & bit > 0)} sources: '
            f'{FLAG_DESCRIPTIONS[name]}'
            for name, bit in FLAGS.items() if np.any(flags & bit)]
    n_flagged = np.count_nonzero(flags)
    return '\n'.join([f'flags         {n_flagged} of {len(table)} sources '
                      'have one', *rows])


def _describe_warnings(caught):
    counts = Counter(
        printable(f'{item.category.__name__}: {item.message}')
        for item in caught)
    rows = [f'  {text}' + (f' ({number} times)' if number > 1 else '')
            for text, number in counts.items()]
    return '\n'.join([f'warnings      {len(counts)}', *rows])
