# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The results of earlier runs, from their files, and their pages.
"""

from dataclasses import replace

import numpy as np
from astropy.table import QTable, Table
from pydantic import ValidationError

from hyperphotutils.catalog import convert_flux_units, read_catalog
from hyperphotutils.maps import MapError, read_cube
from hyperphotutils.photometry.images import SourceImages
from hyperphotutils.photometry.measurement import MeasuredMap
from hyperphotutils.pipeline import pages
from hyperphotutils.pipeline.config import PipelineConfig
from hyperphotutils.pipeline.cubes import CubeResult
from hyperphotutils.pipeline.extraction import Extraction, read_input
from hyperphotutils.pipeline.folders import (
    describe_files,
    read_map_record,
    read_record,
)
from hyperphotutils.pipeline.jobs import MapJob, MapOutcome, OutputError
from hyperphotutils.pipeline.products import (
    BANDS,
    BANDS_REPORT,
    DIAGNOSTICS,
    RECORD,
    REJECTED,
    REPORT,
)

__all__ = []  # shared by the modules of the pipeline only


def restore_pages(directory):
    """
    Write the pages of an earlier run again, from its files; return their
    paths.

    The directory is that of the run, or the folder of one map. Raises an
    `OutputError` if there are no products, or those of another version.
    """
    if not directory.is_dir():
        msg = f'{directory}: no such folder; give that of a run, or of a map'
        raise OutputError(msg)
    order = _order_of_maps(directory)
    records = {folder: read_map_record(folder) for folder in (
        directory, *sorted((item for item in directory.glob('*')
                            if item.is_dir()), key=lambda item: (
                                order.get(item.name, len(order)), item)))}
    records = {folder: record for folder, record in records.items()
               if record and (folder / record['table_name']).exists()}
    if not records:
        msg = (f'{directory}: has no products of hyperphot, of which '
               f'{RECORD} is one')
        raise OutputError(msg)
    outcomes = [_restore_page(folder, record)
                for folder, record in records.items()]
    paths = [folder / REPORT for folder in records]
    if (directory / DIAGNOSTICS).exists():
        table = Table.read(directory / DIAGNOSTICS, format='ascii.ecsv')
        outcomes += [
            MapOutcome(MapJob(str(row['filename']), str(row['map_id']),
                              directory / str(row['map_id'])),
                       reason=str(row['reason']))
            for row in table[table['status'] == 'failed']]
    outcomes.sort(key=lambda item: order.get(item.job.map_id, len(order)))
    if len(outcomes) > 1:
        pages.write_run_page(directory / REPORT, outcomes)
        paths.append(directory / REPORT)
    if (directory / BANDS).exists():
        pages.write_bands_page(directory / BANDS_REPORT,
                               read_catalog(directory / BANDS))
        paths.append(directory / BANDS_REPORT)
    return paths


def _order_of_maps(directory):
    """
    Return the place of each map in the order of the run, by name; empty if
    it is not known.
    """
    record = read_record(directory / RECORD) or {}
    tables = record.get('tables', {}).values()
    maps = max((table['inputs']['maps'] for table in tables), key=len,
               default=[])
    return {name: place for place, name in enumerate(maps)}


def _restore_page(folder, record):
    """
    Write the page of a map or cube, and return its outcome.
    """
    tree = {}
    for key, value in record['settings'].items():
        section, _, name = key.partition('.')
        if name:
            tree.setdefault(section, {})[name] = value
    if {'image', 'kernel'} & set(tree):  # of galaxies, or of pairs
        msg = (f'{folder}: not made by hyperphot run: only its pages can be '
               'made again')
        raise OutputError(msg)
    try:
        config = PipelineConfig.model_validate(tree)
    except ValidationError as exc:
        msg = (f'{folder}: made by hyperphotutils '
               f'{record["settings"].get("hyperphotutils")}, whose settings '
               'differ from those of this version; repeat the run')
        raise OutputError(msg) from exc
    path = next(iter(record['inputs']))
    kind = 'cube' if config.input.datacube else 'map'
    job = MapJob(path, folder.name, folder, kind)
    table = read_catalog(folder / record['table_name'])
    rejected = None
    if (folder / REJECTED).exists():
        rejected = QTable.read(folder / REJECTED, format='ascii.ecsv')
    result = None
    # of a file that has changed, cut-outs would be wrong
    if describe_files(path)[path] == record['inputs'][path]:
        result = (_restore_cube(path, folder, config, table, rejected)
                  if kind == 'cube' else
                  _restore_map(path, config, table, rejected))
    if result is None:
        pages.write_table_page(folder / REPORT, table, rejected, folder.name)
    else:
        pages.write_page(folder / REPORT, result, job)
    return MapOutcome(job, summary=record['summary'],
                      numbers=record['numbers'],
                      table_name=record['table_name'])


def _restore_cube(path, folder, config, table, rejected):
    """
    Return the result of a cube; `None` if it cannot be read.
    """
    try:
        cube = read_cube(path, **config.input.make_reader_options())
    except MapError:
        return None
    channels = read_catalog(folder / 'channels.ecsv')
    result = CubeResult(cube, channels, folder, config.sources.given,
                        rejected=rejected)
    if config.run.background_only:
        return result
    return replace(result, table=table, table_name='catalog.ecsv')


def _restore_map(path, config, table, rejected):
    """
    Return the result of a map, with the images of its sources; `None` if
    it cannot be read.
    """
    if isinstance(config.input.psf, tuple):
        return None  # the record does not say which file was that of the map
    try:
        image = read_input(path, config.input, psf=config.input.psf)
    except MapError:
        return None
    plain = convert_flux_units(table, peak_unit='Jy/pix')
    images = {}
    if 'flux_fit' in table.colnames:
        images = _render(image, plain, config)
    return Extraction(image, table, plain.meta['rms'], rejected=rejected,
                      given=config.sources.given,
                      n_rejected=table.meta.get('n_rejected', {}), **images)


def _render(image, table, config):
    """
    Return the images of a fit, as `HyperPhotometry` makes them.

    A background that was subtracted before the fits is not known.
    """
    measured = MeasuredMap(image, profile=image.meta.get('psf'))
    if config.fit.mask_bad_pixels:
        measured.mask_bad_pixels(image.meta['beam_fwhm_pix'])
    joint = np.asarray(table['bkg_method']) == 'joint'
    sources = SourceImages(
        measured, table, radius=0.5 * float(np.max(table['bkg_size'],
                                                   initial=1.0)),
        order=max(1, int(np.max(table['bkg_order'], initial=1))),
        has_background=joint & np.isfinite(table['aperture_flux']))
    return sources.draw(('background', 'model', 'residual'))
