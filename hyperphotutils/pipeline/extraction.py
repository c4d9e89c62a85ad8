# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The measurement of one map with the classes of a configuration.
"""

import shutil
import time
import warnings
from dataclasses import dataclass, field, replace
from multiprocessing import parent_process
from pathlib import Path
from typing import NamedTuple

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData, NDData
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning

from hyperphotutils.blend.fitter import usable_weights
from hyperphotutils.catalog import (
    convert_flux_units,
    describe_columns,
    make_empty_table,
)
from hyperphotutils.catalog.units import in_map_unit
from hyperphotutils.maps import MapError, load_image
from hyperphotutils.maps.images import find_image
from hyperphotutils.maps.reader import read_map_to_file
from hyperphotutils.noise import detect_bad_pixels
from hyperphotutils.photometry import TiledPhotometry
from hyperphotutils.pipeline.config import ConfigError
from hyperphotutils.pipeline.folders import PARTS, scratch_folder
from hyperphotutils.pipeline.logs import (
    describe_bad_pixels,
    describe_mask,
    describe_reasons,
    describe_threshold,
    format_rows,
    number_of,
)
from hyperphotutils.pipeline.products import REJECTED, count_reasons
from hyperphotutils.pipeline.text import printable
from hyperphotutils.utils.flags import FLAG_DESCRIPTIONS, FLAGS
from hyperphotutils.utils.stored import StoredImage, count_true, row_blocks
from hyperphotutils.utils.tables import result_meta
from hyperphotutils.utils.wcs import sources_to_pixels

__all__ = [
    'Extraction',
    'MapKind',
    'extract_image',
    'extract_map',
    'read_input',
]

# Maps with more pixels along an axis are averaged down before they are
# plotted, so that half as many are left.
_MAX_PLOTTED = 4096

# The file with the values of a large map
_VALUES, _MASK = 'map.dat', 'map.mask'

# BITPIX values that float32 represents exactly
_FLOAT32_BITPIX = frozenset({8, 16, -32})


class MapKind:
    """
    The kind of jobs that measure a map, see
    `~hyperphotutils.pipeline.process`.
    """

    keeps_parts = False

    def read(self, job, config):
        """
        Read the map, keeping single precision for large maps stored in it.
        """
        self._tiles = choose_tile_size(job, config)
        self.keeps_parts = self._tiles.size > 0
        if not self.keeps_parts:
            return read_input(job.path, config.input, psf=job.psf)
        # The folder of the products is made when the map has been read.
        folder = scratch_folder(job.folder)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            return read_input(job.path, config.input, psf=job.psf,
                              dtype=self._tiles.dtype, file=folder / _VALUES)
        except BaseException:
            shutil.rmtree(folder)
            raise

    def measure(self, image, job, config, folder, *, executor=None,
                progress_bar=False, report=None):
        """
        Measure the sources of the map.
        """
        tiles, earlier = None, ''
        if self.keeps_parts:
            tiles = _Tiling(self._tiles.size, folder / PARTS, executor)
            earlier = tiles.describe_earlier()
            if earlier and report is not None:
                report(f'{job.map_id}: continuing: {earlier}')
            tiles.take_values(image, scratch_folder(job.folder))
        extraction = extract_image(image, config, progress_bar=progress_bar,
                                   tiles=tiles)
        extraction.table.meta['filename'] = printable(job.path)
        return replace(extraction, earlier=earlier)


class TileSize(NamedTuple):
    """
    The side of the tiles of a map, 0 for none, and the type of its values.
    """

    size: int
    dtype: type = float


def choose_tile_size(job, config):
    """
    Return the `TileSize` with which a map is read and measured.
    """
    if config.fit.tile_size == 0 or config.run.detection_only:
        return TileSize(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', AstropyUserWarning)
            with find_image(job.path, ext=config.input.extension) as (hdu, _):
                size = config.find_tile_size(hdu.shape)
                is_single = hdu.header['BITPIX'] in _FLOAT32_BITPIX
    except MapError:
        # read_input reports this error
        return TileSize(0)
    return TileSize(size, np.float32 if size and is_single else float)


@dataclass(frozen=True)
class _Tiling:
    """
    Settings of tiled measurement and the folder of its results.
    """

    size: int
    folder: Path
    executor: object = None

    def describe_earlier(self):
        """
        Describe the part of the work that an earlier run has completed.
        """
        n_done = len(list(self.folder.glob('tile_*')))
        return f'{number_of(n_done, "tile")} done' if n_done else ''

    def take_values(self, image, scratch):
        """
        Move the files with the values and the mask of a map here from the
        folder in which it was read, and remove that and what a killed run
        has left.
        """
        self.folder.mkdir(exist_ok=True)
        # results are files; folders are temporary ones of a killed process
        for left in self.folder.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
        for name, file in (('data', _VALUES), ('mask', _MASK)):
            values = getattr(image, name)
            read = StoredImage.find(values)
            path = self.folder / file
            if read is None:  # the sky axes are not the last two of the file
                moved = StoredImage.store(values, path)
            else:
                read.path.replace(path)
                moved = StoredImage(path, read.shape, read.dtype)
            setattr(image, name, moved.map())
        shutil.rmtree(scratch)

    def make_photometry(self, phot, config, shape, *, progress_bar):
        """
        Return the photometry in tiles, with files for the images of the fit.
        """
        images = {name: StoredImage.create(self.folder / f'{name}.dat', shape,
                                           'f4')
                  for name in ('background', 'model', 'residual')}
        # worker processes do not start workers of their own
        n_workers = (config.run.n_workers if parent_process() is None else 1)
        return TiledPhotometry(phot, self.size, executor=self.executor,
                               n_workers=n_workers, folder=self.folder,
                               images=images, progress_bar=progress_bar)


@dataclass(eq=False)
class Extraction:
    """
    The result of the measurement of one map, from `extract_map`.

    Parameters
    ----------
    image : `~astropy.nddata.CCDData`
        The map in Jy/pixel.

    table : `~astropy.table.QTable`
        The sources; without rows if there are none.

    rms : `~astropy.units.Quantity`
        The noise of the map or, if sources were only detected, of the
        filtered map.

    background, model, residual : `~astropy.units.Quantity` or `None`
        The images of the fit; `None` if sources were only detected.

    times : dict
        The duration of each step in seconds.

    given : bool
        Whether the sources were given instead of detected.

    n_rejected : dict
        The number of rejected detections for each reason and for each
        selection of the finder.

    rejected : `~astropy.table.QTable` or `None`
        The detections without a row in the table; `None` if the sources
        were given.

    earlier : str
        The part that an earlier run has completed.
    """

    image: CCDData
    table: QTable
    rms: u.Quantity
    background: u.Quantity | None = None
    model: u.Quantity | None = None
    residual: u.Quantity | None = None
    times: dict = field(default_factory=dict)
    given: bool = False
    n_rejected: dict = field(default_factory=dict)
    rejected: QTable | None = None
    earlier: str = ''

    # part of the interface of results, see process.py
    table_name = 'catalog.ecsv'

    @property
    def n_detected(self):
        """
        The number of sources that were detected on the map, or given.
        """
        n_rows = len(self.table)
        if self.given:
            return n_rows
        return int(self.table.meta.get('n_detected', n_rows))

    @property
    def n_companions(self):
        """
        The number of sources that were found on the residual of the fit.
        """
        return int(self.table.meta.get('n_companions', 0))

    @property
    def n_measured(self):
        """
        The number of sources with a finite flux.
        """
        if self.model is None or 'flux_fit' not in self.table.colnames:
            return 0
        return int(np.count_nonzero(np.isfinite(self.table['flux_fit'])))

    @property
    def n_groups(self):
        """
        The number of groups; sources that were not fitted are in none.
        """
        if 'group_id' not in self.table.colnames:
            return 0
        groups = np.unique(np.asarray(self.table['group_id']))
        return int(np.count_nonzero(groups))

    @property
    def numbers(self):
        """
        The numbers of sources, and the rms in Jy/pixel.
        """
        return {'n_detected': self.n_detected,
                'n_companions': self.n_companions,
                'n_rejected': sum(self.n_rejected.values()),
                'n_measured': self.n_measured,
                'rms': float(self.rms.value)}

    @property
    def shapes(self):
        """
        The table; unfitted detections have the shape of the beam.
        """
        return beam_shapes(self.table, self.image)

    @property
    def counts(self):
        """
        The numbers of detected, measured, and rejected sources as text.
        """
        n_rows, n_measured = len(self.table), self.n_measured
        if n_rows == 0:
            n_rejected = 0 if self.rejected is None else len(self.rejected)
            return ('no source found' if n_rejected == 0 else
                    f'no source found, {n_rejected} rejected')
        if self.model is None:
            return f'{n_rows} detected (detection only)'
        text = (f'{n_rows} given, {n_measured} measured' if self.given
                else f'{n_measured} measured')
        for reason, number in self._count_unmeasured().items():
            text += f', {number} {reason}'
        if self.given:
            return text
        n_companions = self.n_companions
        text += f' ({self.n_detected} detected on the map'
        if n_rejected := self.n_detected + n_companions - n_rows:
            text += f', {n_rejected} of them rejected'
        if n_companions:
            text += f', {number_of(n_companions, "companion")}'
        return f'{text})'

    def _count_unmeasured(self):
        """
        Count the sources that were not measured by reason.
        """
        table, (ny, nx) = self.table, self.image.shape
        lost = ~np.isfinite(table['flux_fit'])
        unknown = lost & (table['flags'] & FLAGS['no_position'] > 0)
        unused = lost & (table['flags'] & FLAGS['off_map'] > 0)
        # positions outside of the projection are not finite
        on_map = ((np.abs(table['x_init'] - 0.5 * (nx - 1)) <= 0.5 * nx)
                  & (np.abs(table['y_init'] - 0.5 * (ny - 1)) <= 0.5 * ny))
        reasons = {'off the map': unused & ~on_map,
                   'among masked pixels': unused & on_map,
                   'without a position': unknown,
                   'without a fit': lost & ~unused & ~unknown}
        return {reason: number for reason, rows in reasons.items()
                if (number := int(np.count_nonzero(rows)))}

    @property
    def summary(self):
        """
        The numbers of sources and groups, and the rms, as text.
        """
        text = self.counts
        if self.n_groups:
            text += f'; {number_of(self.n_groups, "group")}'
        kind = 'of the filtered map' if self.model is None else 'of the map'
        rms = in_map_unit(self.rms, self.image.meta)
        text += f', rms {rms:.3g} {kind}'
        if 'flags' in self.table.colnames:
            flags = np.asarray(self.table['flags'], dtype=int)
            different = int(np.count_nonzero(flags & FLAGS['beam_mismatch']))
            if different:
                text += (f'; {number_of(different, "source")} with '
                         'beam_mismatch, see --psf')
        return text

    def describe(self):
        """
        Describe the map, the result, and the flags.
        """
        return [_describe_map(self.image), self._describe_result(),
                self._describe_flags()]

    def _describe_result(self):
        # in one unit, that of the file if it is one per beam
        meta = self.table.meta | {
            name: in_map_unit(self.table.meta[name], self.image.meta)
            for name in ('threshold', 'detection_rms')
            if name in self.table.meta}
        rms = in_map_unit(self.rms, self.image.meta)
        rows = [('threshold', describe_threshold(meta))]
        if 'detection_rms' in meta and self.model is not None:
            rows.append(('detection rms', f'{meta["detection_rms"]:.4g}, of '
                                          'the filtered map'))
        rows += [('rms', f'{rms:.4g}, of {meta["rms_of"]}'),
                 ('sources', self.counts)]
        if self.rejected is not None:
            text = describe_reasons(self.n_rejected) or 'none'
            if len(self.rejected):
                text += f'; see {REJECTED}'
            rows.append(('rejected', text))
        if text := describe_bad_pixels(meta.get('n_bad_pixels', {})):
            rows.append(('bad pixels', f'{text}; left out'))
        if 'noise' in meta:
            rows.append(('noise', meta['noise']))
        if self.n_groups:
            largest = int(self.table['group_size'].max())
            rows.append(('groups', f'{self.n_groups}, the largest with '
                                   f'{number_of(largest, "source")}'))
        return format_rows(rows)

    def _describe_flags(self):
        if 'flags' not in self.table.colnames:
            return 'flags         none: sources were only detected'
        flags = np.asarray(self.table['flags'], dtype=int)
        lines = [f'  {name} ({bit}): '
                 f'{number_of(np.count_nonzero(flags & bit), "source")}: '
                 f'{FLAG_DESCRIPTIONS[name]}'
                 for name, bit in FLAGS.items() if np.any(flags & bit)]
        return '\n'.join([f'flags         {np.count_nonzero(flags)} of '
                          f'{len(flags)} sources have one', *lines])

    def plot_overview(self, map_id):
        """
        Plot the map and the images of the fit.
        """
        from hyperphotutils.visualization import plot_overview
        from hyperphotutils.visualization.maps import average

        def reduced(image):
            if image is None:
                return None
            stored = StoredImage.find(image.value)
            values = image.value if stored is None else stored
            return average(values, None, side) << image.unit

        image, meta = self.image, self.image.meta
        side = (-(-2 * max(image.shape) // _MAX_PLOTTED)
                if max(image.shape) > _MAX_PLOTTED else 1)
        names = ('background', 'model', 'residual')
        images = {'data': image.data << image.unit} | {
            name: getattr(self, name) for name in names}
        table, wcs, mask = self.table, image.wcs, image.mask
        if side > 1:
            images = {name: reduced(one) for name, one in images.items()}
            table, mask, wcs = table.copy(), None, wcs[::side, ::side]
            for name in ('x_fit', 'y_fit', 'x_centroid', 'y_centroid'):
                if name in table.colnames:
                    table[name] = (table[name] + 0.5) / side - 0.5
            for name in ('fwhm_major_fit', 'fwhm_minor_fit'):
                if name in table.colnames:
                    table[name] = table[name] / side
        images = {name: None if values is None else in_map_unit(values, meta)
                  for name, values in images.items()}
        return plot_overview(
            **images, table=table, wcs=wcs, mask=mask,
            rms=None if self.model is None else in_map_unit(self.rms, meta),
            title=f'{map_id}: {self.counts}',
            beam=(meta['beam_major_pix'] / side,
                  meta['beam_minor_pix'] / side, meta['beam_theta']))


def beam_shapes(table, image):
    """
    Return detections with the shape of the beam and no peak flux, for
    formats that need shapes.
    """
    if 'x_fit' in table.colnames:
        return table
    n_rows, meta = len(table), image.meta
    shaped = table.copy()
    shaped['x_fit'] = table['x_centroid']
    shaped['y_fit'] = table['y_centroid']
    shaped['amplitude_fit'] = np.full(n_rows, np.nan) << table['peak'].unit
    for axis in ('major', 'minor'):
        shaped[f'fwhm_{axis}_fit'] = np.full(n_rows,
                                             meta[f'beam_{axis}_pix'])
    shaped['theta_fit'] = np.full(n_rows, meta['beam_theta']) << u.deg
    beam = meta['beam']
    for name, value in (('fwhm_major_sky', beam.major.to(u.arcsec)),
                        ('fwhm_minor_sky', beam.minor.to(u.arcsec)),
                        ('position_angle', beam.pa.to(u.deg))):
        shaped[name] = np.full(n_rows, value.value) << value.unit
    return shaped


def _describe_map(image):
    meta = image.meta
    beam = meta['beam']
    ny, nx = image.shape
    filled = ''
    if meta['n_fill']:
        values = ', '.join(f'{value:g}' for value in meta['fill_values'])
        filled = f' ({meta["n_fill"]} with the fill value {values})'
    return format_rows([
        ('extension', meta['extension']),
        ('errors', meta['error_extension'] or 'none in the file'),
        ('mask', describe_mask(meta['mask_extension'], meta['unused_masks'],
                               meta['n_masked'])),
        ('size', f'{nx} x {ny} pixels of {meta["pixel_scale"]:.4g}, '
                 f'{count_true(image.mask)} of them missing{filled}'),
        ('unit', f'{meta["original_unit"]}, converted to {image.unit}'),
        ('beam', f'{beam.major.to(u.arcsec):.4g} x '
                 f'{beam.minor.to(u.arcsec):.4g}, position angle '
                 f'{beam.pa.to(u.deg):.1f}'),
        ('beam area', f'{meta["beam_area_pix"]:.4g} pixels'),
        ('psf', meta.get('psf_source', 'none: a Gaussian beam')),
    ])


def extract_map(path, config, *, progress_bar=False):
    """
    Read a map, and detect, fit, and measure its sources.

    Raises a `~hyperphotutils.maps.MapError` if the map cannot be used, and
    a `ValueError` if the configuration is not suitable for it, for example
    if the map is smaller than the filter.
    """
    start = time.perf_counter()
    image = read_input(path, config.input, psf=config.input.psf)
    times = {'reading': time.perf_counter() - start}
    extraction = extract_image(image, config, progress_bar=progress_bar)
    extraction.table.meta['filename'] = printable(path)
    return replace(extraction, times=times | extraction.times)


def extract_image(image, config, *, progress_bar=False, tiles=None):
    """
    Detect, fit, and measure the sources of a map in memory.

    The ``image`` is one of `~hyperphotutils.maps.read_map`; ``tiles`` says
    how `MapKind` measures it in tiles. Raises the same exceptions as
    `extract_map`.
    """
    start = time.perf_counter()
    if config.run.detection_only:
        finder = config.make_finder(image)
        extraction = _detect(image, finder, config.fit.mask_bad_pixels)
    else:
        phot = config.make_photometry(image, progress_bar=progress_bar)
        if tiles is not None:
            phot = tiles.make_photometry(phot, config, image.shape,
                                         progress_bar=progress_bar)
        extraction = _measure(image, phot, config, tiles)
    extraction.times['extraction'] = time.perf_counter() - start
    if not config.sources.given:
        if extraction.model is None:
            rms = extraction.rms
        elif tiles is None:
            rms = phot.detection_rms
        elif phot.photometry.finder.rms is not None:
            rms = phot.photometry.finder.rms
        else:
            rms = phot.noise.detection_rms[0]
            rms = np.median(getattr(rms, 'typical', rms)) << image.unit
        n_sigma = config.detection.n_sigma
        peak = (n_sigma * rms / config.make_finder(image).beam_response
                * image.meta['beam_area_pix'] * u.pix / u.beam)
        extraction.table.meta |= {'threshold': n_sigma * rms,
                                  'threshold_peak': peak.to('Jy / beam'),
                                  'n_sigma': n_sigma,
                                  'detection_rms': rms}
    table, meta, beam = extraction.table, image.meta, image.meta['beam']
    extraction.n_rejected.update(table.meta.get('n_rejected', {}))
    # what any file format can store
    table.meta |= {
        'original_unit': meta['original_unit'],
        'beam_major': beam.major.to(u.arcsec),
        'beam_minor': beam.minor.to(u.arcsec), 'beam_pa': beam.pa.to(u.deg),
        'beam_area_pix': meta['beam_area_pix'],
        **({'psf': meta['psf_source']} if 'psf' in meta else {}),
        'filename': printable(meta['filename']), 'rms': extraction.rms,
        'rms_of': _RMS_OF[extraction.model is None]}
    units = {'flux_unit': config.output.flux_unit,
             'peak_unit': config.output.peak_unit}
    # those of the table; detections have no fluxes
    own = {'flux_unit': units['flux_unit'] if extraction.model is None
           else 'Jy', 'peak_unit': 'Jy/pix'}
    if units := dict(units.items() - own.items()):
        table = convert_flux_units(table, **units)
    return replace(extraction, table=table)


# The image that the rms refers to, with fits and without
_RMS_OF = ('the map about the local backgrounds, without the sources',
           'the filtered map')


def read_input(path, options, *, dtype=float, psf=None, file=None):
    """
    Read a map with the section ``input`` of a configuration; its values into
    a new ``file`` if it is given.

    ``psf`` is the file of the measured beam; that of the section, which may
    be a list, is not used. With it, the
    `~hyperphotutils.blend.BeamProfile` is in ``meta['psf']`` of the
    `~astropy.nddata.CCDData`, which is in Jy/pixel.
    """
    if isinstance(psf, tuple):
        msg = (f'{path}: input.psf is a list with one file for each map of a '
               'run: give the file of this map')
        raise ConfigError([msg])
    measured = None

    def measure_beam(wcs, shape):
        from hyperphotutils.pipeline.beams import MeasuredBeam

        nonlocal measured
        measured = MeasuredBeam(psf).on_map(wcs, shape)
        return measured.beam, measured.area

    image = read_map_to_file(
        path, file, error_extension=options.error_extension, dtype=dtype,
        measured_beam=None if psf is None else measure_beam,
        **options.make_reader_options())
    if measured is not None:
        image.meta['psf'] = measured.profile
        image.meta['psf_source'] = printable(measured.text)
    lowest, highest = np.inf, -np.inf
    values, mask = (StoredImage.find(plane) or plane
                    for plane in (image.data, image.mask))
    for rows in row_blocks(values.shape):
        part, good = values[rows], ~mask[rows]
        lowest = np.min(part, where=good, initial=lowest)
        highest = np.max(part, where=good, initial=highest)
    if lowest == highest:
        msg = f'{path}: all pixels have the same value, {lowest:g}'
        raise MapError(msg)
    return image


def _detect(image, finder, mask_bad_pixels):
    data = image.data << image.unit
    mask, counts = image.mask, {}
    if mask_bad_pixels:
        bad = detect_bad_pixels(image.data, image.meta['beam_minor_pix'],
                                mask=mask)
        # as in HyperPhotometry: saturated pixels belong to sources
        mask = mask | (bad.mask & ~bad.saturated)
        counts = {'n_bad_pixels': bad.counts} if bad.mask.any() else {}
    table = finder(data, mask=mask)
    if table is None:
        table = make_empty_table('detection', unit=image.unit)
    table = QTable(table, copy=False)
    table.meta |= counts
    rms = np.median(np.broadcast_to(finder.measure_rms(data, mask=mask),
                                    mask.shape, subok=True)[~mask])
    table['sky_centroid'] = image.wcs.pixel_to_world(
        np.asarray(table['x_centroid']), np.asarray(table['y_centroid']))
    table.meta.update(result_meta(finder))
    describe_columns(table)
    return Extraction(image, table, rms,
                      rejected=make_empty_table('rejected', wcs=image.wcs))


def _measure(image, phot, config, tiles):
    init = None
    if config.sources.given:
        sources = config.sources.read_table(image.wcs)
        init = sources_to_pixels(sources, image.wcs)
    weight_map = None
    if config.fit.weight_map is not None:
        weight_map = _read_weights(image, config.fit.weight_map)
    data = image
    if tiles is not None:
        # The mask is omitted because masked values are NaN already.
        data = NDData(image.data, unit=image.unit, wcs=image.wcs,
                      meta=image.meta, uncertainty=image.uncertainty)
    table = phot(data, init_params=init, weight_map=weight_map)
    if table is None:
        return _empty_extraction(image, phot)
    if tiles is None:
        images = {name: getattr(phot, f'make_{name}_image')()
                  for name in ('background', 'model', 'residual')}
    else:
        images = {name: u.Quantity(file.map(), image.unit, copy=False,
                                   dtype='f4')
                  for name, file in phot.images.items()}
    if init is not None:
        # distinguish sources without a position from sources off the map
        sky = sources['sky_centroid'].spherical
        unknown = ~(np.isfinite(sky.lon) & np.isfinite(sky.lat))
        rows = np.isin(table['id'], sources['id'][unknown])
        table['flags'][rows] &= ~FLAGS['off_map']
        table['flags'][rows] |= FLAGS['no_position']
    return Extraction(
        image, table, phot.rms, **images, given=init is not None,
        rejected=phot.rejected if init is None else None)


def _read_weights(image, path):
    """
    Read the map of weights, which must have the shape of the map.
    """
    try:
        weights = np.squeeze(load_image(path).data)
        weights, mask = usable_weights(weights, image.mask)
    except ValueError as error:
        msg = f'{path}: fit.weight_map: {error}'
        raise MapError(msg) from None
    if mask.all():
        msg = f'{path}: fit.weight_map is nowhere positive'
        raise MapError(msg)
    return weights


def _empty_extraction(image, phot):
    """
    Return the result for a map on which no source was found.
    """
    data = image.data << image.unit
    # images without memory of their own, as the map may be large
    background, model = (np.broadcast_to(value, image.shape) << image.unit
                         for value in (np.nan, 0.0))
    table = make_empty_table('photometry', unit=image.unit, wcs=image.wcs)
    n_detected = int(np.count_nonzero(phot.rejected['search'] == 0))
    table.meta.update(
        result_meta(phot), n_detected=n_detected, n_companions=0,
        n_rejected=count_reasons(phot.rejected))
    return Extraction(image, table, phot.rms, background=background,
                      model=model, residual=data,
                      rejected=phot.rejected)
