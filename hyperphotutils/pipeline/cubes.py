# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The measurement of a cube: the background of each channel, and its sources.

The results of completed channels are kept in the unfinished folder of the
products, each in files of its own, so that a run that was killed continues
with the other channels.
"""

import contextlib
import functools
import os
import threading
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.table import QTable, vstack
from astropy.utils.exceptions import AstropyUserWarning

from hyperphotutils.background import ChannelBackground
from hyperphotutils.catalog import (
    describe_columns,
    make_empty_table,
    read_catalog,
    write_catalog,
)
from hyperphotutils.maps import MapCube, MapError, read_cube
from hyperphotutils.pipeline.config import find_unused_keys
from hyperphotutils.pipeline.extraction import beam_shapes, extract_image
from hyperphotutils.pipeline.folders import PARTS, read_record, write_record
from hyperphotutils.pipeline.logs import (
    describe_bad_pixels,
    describe_mask,
    describe_reasons,
    format_rows,
    number_of,
)
from hyperphotutils.pipeline.products import REJECTED
from hyperphotutils.pipeline.text import printable
from hyperphotutils.utils.executors import (
    describe_death,
    error_of,
    one_blas_thread,
    was_killed,
    work_through,
)
from hyperphotutils.utils.tables import with_plain_units

__all__ = ['CubeKind', 'CubeResult']

# Written while the cube is measured, one channel at a time
BACKGROUND, SUBTRACTED = 'background.fits', 'subtracted.fits'

_LOCK = threading.Lock()

# The table of a channel without sources, which is the same for all of them
_EMPTY = 'empty.ecsv'

# Metadata of channels that are summed
_COUNTED = ('n_detected', 'n_companions')
_COUNTED_BY_KIND = ('n_rejected', 'n_bad_pixels')


class CubeKind:
    """
    The kind of jobs that measure a cube, see
    `~hyperphotutils.pipeline.process`.
    """

    keeps_parts = True

    def read(self, job, config):
        """
        Read the header of the cube.
        """
        return read_cube(job.path, **config.input.make_reader_options())

    def measure(self, cube, job, config, folder, *, executor=None,
                progress_bar=False, report=None):
        """
        Estimate the backgrounds of the channels, and measure their
        sources.
        """
        # processes may have another working folder
        for section, key in (('sources', 'table'), ('fit', 'weight_map'),
                             ('cubes', 'region')):
            options = getattr(config, section)
            if (path := getattr(options, key)) is not None:
                options = options.model_copy(
                    update={key: os.path.realpath(path)})
                config = config.model_copy(update={section: options})
        work = _CubeWork(cube, config, folder, executor, progress_bar)
        earlier = work.describe_earlier()
        if earlier and report is not None:
            report(f'{job.map_id}: continuing: {earlier}')
        for line in find_unused_keys(config):
            warnings.warn(line, AstropyUserWarning, stacklevel=1)
        start = time.perf_counter()
        channels = work.estimate_backgrounds()
        times = {'backgrounds': time.perf_counter() - start}
        result = CubeResult(cube, channels, folder, config.sources.given,
                            earlier=earlier, times=times)
        if config.run.background_only:
            return result
        start = time.perf_counter()
        tables = work.extract_sources(channels)
        times['extraction'] = time.perf_counter() - start
        tables['table'].meta['filename'] = printable(job.path)
        return replace(result, table_name='catalog.ecsv', **tables)


@dataclass(frozen=True, eq=False)
class CubeResult:
    """
    The result of the measurement of one cube.

    Parameters
    ----------
    image : `~hyperphotutils.maps.MapCube`
        The cube.

    all_channels : `~astropy.table.QTable`
        A row for each channel, with its summary.

    folder : `~pathlib.Path`
        The folder with the cube of backgrounds.

    given : bool
        Whether the sources were given instead of detected.

    table : `~astropy.table.QTable` or `None`
        The sources of all channels; `None` if only the backgrounds were
        estimated.

    rejected : `~astropy.table.QTable` or `None`
        The rejected detections of all channels; `None` if the sources
        were given.

    shapes : `~astropy.table.QTable` or `None`
        The sources with shapes.

    earlier : str
        The part that an earlier run has completed.

    times : dict
        The duration of each step in seconds.

    table_name : str
        The name of the file with the main table.
    """

    image: MapCube
    all_channels: QTable
    folder: Path
    given: bool
    table: QTable | None = None
    rejected: QTable | None = None
    shapes: QTable | None = None
    earlier: str = ''
    times: dict = field(default_factory=dict)
    table_name: str = 'channels.ecsv'

    # cubes have no images of the fit
    model = background = residual = None

    @property
    def channels(self):
        """
        The table of the channels, without their summaries.
        """
        return self.all_channels[[name for name in self.all_channels.colnames
                                  if name != 'summary']]

    @property
    def numbers(self):
        """
        The numbers of sources, and the median rms in Jy/pixel.
        """
        table = self.all_channels
        detected = 'n_given' if self.given else 'n_detected'
        numbers = {
            name: int(table[column].sum()) if column in table.colnames else 0
            for name, column in (
                ('n_detected', detected), ('n_companions', 'n_companions'),
                ('n_rejected', 'n_rejected'), ('n_measured', 'n_measured'))}
        rms = table['rms'].value if 'rms' in table.colnames else np.nan
        known = np.isfinite(rms)
        return numbers | {
            'rms': float(np.nanmedian(rms)) if np.any(known) else np.nan}

    @property
    def summary(self):
        """
        The numbers of channels and sources, and the rms, as text.
        """
        table, numbers = self.all_channels, self.numbers
        text = f'{len(table)} channels'
        if 'n_measured' in table.colnames:
            text += (f': {table["n_given"].max()} given in each'
                     if self.given else
                     f': {numbers["n_detected"]} detected')
            if n_companions := numbers['n_companions']:
                text += f', {number_of(n_companions, "companion")}'
            text += f', {numbers["n_measured"]} measured'
            if numbers['n_rejected']:
                text += f', {numbers["n_rejected"]} rejected (see {REJECTED})'
        if n_lost := int(np.count_nonzero(table['order'] < 0)):
            text += f'; {n_lost} without a background'
        rms = u.Quantity(table['background_rms'])
        if np.any(np.isfinite(rms)):
            text += f', median rms {np.nanmedian(rms):.3g}'
        return text

    def describe(self):
        """
        Describe the cube, the result, and each channel.
        """
        cube, axis = self.image, self.image.spectral_axis
        ny, nx = cube.shape[1:]
        meta = {} if self.table is None else self.table.meta
        rows = [
            ('extension', cube.extension),
            ('mask', describe_mask(cube.mask_extension, cube.unused_masks)),
            ('size', f'{len(cube)} channels of {nx} x {ny} pixels of '
                     f'{cube.pixel_scale:.4g}'),
            (cube.spectral_name, f'{axis[0]:.8g} to {axis[-1]:.8g} '
                                 f'({cube.spectral_type})'),
            ('unit', cube.original_unit),
            ('result', self.summary),
        ]
        if text := describe_reasons(meta.get('n_rejected', {})):
            rows.append(('rejected', text))
        if text := describe_bad_pixels(meta.get('n_bad_pixels', {})):
            rows.append(('bad pixels', text))
        lines = []
        for row in self.all_channels:
            text = 'no background'
            if row['order'] >= 0:
                text = (f'background of order {row["order"]} by '
                        f'{row["method"]}, rms {row["background_rms"]:.4g}, '
                        f'{row["n_sources"]} masked')
            if 'summary' in row.colnames:
                text += f'; {row["summary"]}'
            lines.append(f'channel {row["channel"]} '
                         f'({row[cube.spectral_name]:.8g}): {text}')
        return [format_rows(rows), '\n'.join(lines)]

    def plot_overview(self, map_id):
        """
        Plot some channels without their backgrounds.
        """
        from hyperphotutils.visualization import (
            choose_channels,
            plot_channels,
        )

        cube, sources = self.image, self.table
        background = read_cube(self.folder / BACKGROUND)
        channels = [i for i in choose_channels(len(cube), sources)
                    if np.isfinite(background.plane(i)).any()]
        if not channels:
            return None
        title = f'{map_id}: {self.summary}; without the backgrounds'
        if len(channels) < len(cube):
            title += f'; {len(channels)} of the channels'
        return plot_channels(cube, sources, background=background,
                             channels=channels, title=title)


@dataclass(frozen=True)
class _CubeWork:
    """
    The processing of one cube, channel by channel.
    """

    cube: MapCube
    config: object
    folder: Path
    executor: object
    progress_bar: bool

    def describe_earlier(self):
        """
        Describe the part of the work that an earlier run has completed.
        """
        n_channels = len(self.cube)
        stages = [('', 'sources'), ('the backgrounds of ', 'background')]
        for what, stage in stages[self.config.run.background_only:]:
            if n_done := len(self._finished(stage)):
                return f'{what}{n_done} of {n_channels} channels are done'
        return ''

    def estimate_backgrounds(self):
        """
        Write the cubes of backgrounds, and return the table of the
        channels.
        """
        bkg = self.config.make_cube_background(self.cube)
        names = [BACKGROUND]
        if self.config.cubes.subtract:
            names.append(SUBTRACTED)
        parts = {i: ChannelBackground.from_dict(result)
                 for i, result in self._finished('background').items()}
        missing = [name for name in names
                   if not (self.folder / name).exists()]
        with contextlib.ExitStack() as stack:
            writers = {name: stack.enter_context(self.cube.make_writer(
                self.folder / name, resume=True,
                history=['background by hyperphotutils']))
                for name in missing}
            left = np.zeros(len(self.cube), dtype=bool)
            for writer in writers.values():
                left |= ~writer.written
            for part in self._backgrounds(bkg, parts, left):
                plane, background = bkg.evaluate(self.cube, part)
                for name, writer in writers.items():
                    writer.write(part.channel, background
                                 if name == BACKGROUND
                                 else plane - background)
                self._note(parts, part)
        return bkg.make_table(self.cube, parts.values())

    def _backgrounds(self, bkg, parts, left):
        """
        Yield the backgrounds of the channels that are left to write.
        """
        fit = bkg.prepare(self.cube)
        channels = range(len(self.cube))
        if bkg.smoothing > 0.0:
            # smoothing needs the backgrounds of all channels
            unknown = [i for i in channels if i not in parts]
            for part in self._work('background', _fit_channel, unknown, fit):
                self._note(parts, part)
            ready = bkg.smooth(parts.values())
            yield from (part for part in ready if left[part.channel])
            return
        # backgrounds of boxes are not stored, because they are large
        stored = {} if bkg.box_sizes is not None else parts
        yield from (stored[i] for i in channels if left[i] and i in stored)
        todo = [i for i in channels if left[i] and i not in stored]
        yield from self._work('background', _fit_channel, todo, fit)

    def _note(self, parts, part):
        """
        Keep a fitted background, before it is smoothed.
        """
        if part.channel not in parts:
            parts[part.channel] = part
        path = self._part('background', part.channel)
        if not path.exists():
            write_record(path, part.to_dict())

    def extract_sources(self, channels):
        """
        Measure the sources of all channels, and add their numbers to the
        table of the channels.

        Returns the tables of the sources, of the rejected detections
        (`None` for given sources), and of the sources with shapes.
        """
        cube = self.cube
        if self.config.cubes.subtract:
            # input.extension is that of the given cube
            cube = read_cube(self.folder / SUBTRACTED,
                             **self.config.input.make_reader_options()
                             | {'ext': None})
        done = {i: row for i, row in self._finished('sources').items()
                if (self._part('table', i).exists() or not row['n_rows'])
                and (self._part('rejected', i).exists()
                     or not row['n_listed'])}
        tables = {}
        todo = [i for i in range(len(cube)) if i not in done]
        for index, sources, rejected, numbers in self._work(
                'sources', _extract_channel, todo, cube, self.config):
            if sources is not None:
                self._keep(index, sources, rejected, tables)
            # (written last, when the tables are there)
            write_record(self._part('sources', index), numbers)
            done[index] = numbers
        self._add_numbers(channels, [done[i] for i in range(len(cube))])
        parts = {i: tables[i] if i in tables
                 else read_catalog(self._part('table', i))
                 for i in range(len(cube)) if self._part('table', i).exists()}
        empty = self.folder / PARTS / _EMPTY
        if not parts and not empty.exists():
            msg = f'{self.cube.name}: no channel has values'
            raise MapError(msg)
        if not parts:
            parts = {-1: read_catalog(empty)}
        counts = [done[i]['counts'] for i in range(len(cube))]
        table = shapes = _stack(list(parts.values()), counts)
        if self.config.run.detection_only:
            first = np.flatnonzero(np.isfinite(cube.beam_fwhm_pix))[0]
            shapes = _stack([beam_shapes(part, cube.channel(max(i, first)))
                             for i, part in parts.items()], counts)
        rejected = None
        if not self.config.sources.given:
            empty = make_empty_table('rejected', wcs=self.cube.wcs)
            self._add_channel(empty, 0)
            listed = [QTable.read(self._part('rejected', i))
                      for i in sorted(done) if done[i]['n_listed']]
            rejected = with_plain_units(vstack(listed or [empty],
                                               metadata_conflicts='silent'))
        return {'table': table, 'shapes': shapes, 'rejected': rejected}

    def _keep(self, index, sources, rejected, tables):
        """
        Keep the sources and the rejected detections of a channel, in
        memory and for a run that continues this one.

        One table without rows is enough: all have the same columns.
        """
        if rejected is not None and len(rejected):
            self._add_channel(rejected, index)
            rejected.write(self._part('rejected', index), overwrite=True)
        self._add_channel(sources, index)
        empty = self.folder / PARTS / _EMPTY
        if len(sources) > 0:
            tables[index] = sources
            write_catalog(sources, self._part('table', index), overwrite=True)
        elif not empty.exists():
            write_catalog(sources, empty)

    def _add_numbers(self, table, rows):
        for name in ('n_detected', 'n_companions', 'n_rejected', 'n_measured',
                     'rms', 'noise', 'n_warnings', 'summary'):
            values = np.array([row[name] for row in rows])
            table[name] = values << (u.Jy / u.pix) if name == 'rms' else values
        if self.config.sources.given:
            table.rename_column('n_detected', 'n_given')
            table.remove_columns(['n_companions', 'n_rejected'])
        if self.config.run.detection_only:
            table.remove_columns(['n_companions', 'noise'])
        for name, unit in (('major', u.arcsec), ('minor', u.arcsec),
                           ('pa', u.deg)):
            table[f'beam_{name}'] = [
                np.nan if beam is None else getattr(beam, name).to_value(unit)
                for beam in self.cube.beams] << unit

    def _add_channel(self, sources, index):
        """
        Add the columns of the channel to a table of sources.
        """
        cube, n_rows = self.cube, len(sources)
        columns = {'channel': np.full(n_rows, index),
                   cube.spectral_name: np.full(
                       n_rows, cube.spectral_axis[index].value)
                   << cube.spectral_axis.unit}
        for position, (name, column) in enumerate(columns.items()):
            sources.add_column(column, name=name, index=position)
        describe_columns(sources)

    def _part(self, stage, index):
        suffix = 'json' if stage in {'background', 'sources'} else 'ecsv'
        folder = self.folder / PARTS
        folder.mkdir(exist_ok=True)
        return folder / f'{stage}_{index:06}.{suffix}'

    def _finished(self, stage):
        results = {i: read_record(self._part(stage, i))
                   for i in range(len(self.cube))}
        return {i: result for i, result in results.items() if result}

    def _work(self, stage, function, channels, *shared):
        """
        Process channels, and yield their results.
        """
        from tqdm import tqdm

        n_workers = min(self.config.run.n_workers, max(len(channels), 1))
        if self.executor is not None:
            function = functools.partial(_one_at_a_time, function)
        pairs = work_through(function, channels, *shared,
                             executor=self.executor, n_workers=n_workers)
        with (contextlib.closing(pairs),
              tqdm(total=len(self.cube), desc=stage, unit='channel',
                   initial=len(self.cube) - len(channels),
                   disable=not self.progress_bar) as bar):
            for index, future in pairs:
                error = error_of(future)
                if was_killed(error):
                    msg = (f'{self.cube.name}: channel {index}: '
                           f'{describe_death(error)}')
                    raise OSError(None, msg)
                if error is not None:
                    raise error
                bar.update()
                yield future.result()


def _one_at_a_time(function, *args):
    """
    Process a channel in one of several threads, which share warnings.
    """
    with _LOCK, one_blas_thread():
        return function(*args)


def _fit_channel(index, fit):
    """
    Fit the background of a channel, in any process.
    """
    return fit(index)


def _extract_channel(index, cube, config):
    """
    Extract the sources of a channel, in any process.

    Returns the index, the sources (`None` if the channel has no values),
    the rejected detections (`None` also if the sources are given), and
    the numbers of the channel.
    """
    numbers = {'n_rows': 0, 'n_listed': 0, 'counts': {}, 'n_detected': 0,
               'n_companions': 0, 'n_rejected': 0, 'n_measured': 0,
               'rms': np.nan, 'noise': '', 'n_warnings': 0,
               'summary': 'no values'}
    values = cube.plane(index)
    values = values[np.isfinite(values)]
    if values.size == 0 or values.min() == values.max():
        return index, None, None, numbers
    image = cube.channel(index)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        extraction = extract_image(image, config)
    messages = {str(item.message) for item in caught
                if item.category.__name__ != 'NoDetectionsWarning'}
    rejected = extraction.rejected
    meta = extraction.table.meta
    texts = [extraction.counts]
    if image.meta['n_fill']:
        values = ', '.join(f'{value:g}' for value in image.meta['fill_values'])
        texts.append(f'{image.meta["n_fill"]} pixels with the fill value '
                     f'{values}')
    if text := describe_bad_pixels(meta.get('n_bad_pixels', {})):
        texts.append(f'bad pixels: {text}')
    counts = {name: meta[name] for name in _COUNTED if name in meta}
    counts |= {name: dict(meta[name]) for name in _COUNTED_BY_KIND
               if name in meta}
    numbers |= extraction.numbers | {
        'n_rows': len(extraction.table),
        'n_listed': 0 if rejected is None else len(rejected),
        'noise': meta.get('noise', ''), 'counts': counts,
        'n_warnings': len(messages),
        'summary': '; '.join([*texts, *sorted(messages)])}
    return index, extraction.table, rejected, numbers


def _stack(parts, numbers):
    """
    Stack the sources of the channels.

    Metadata that differ between channels, such as the rms, are in the
    table of the channels only; numbers of sources are summed.
    """
    metas = [dict(part.meta) for part in parts]
    # tables that were read from files have sorted names
    meta = {name: dict(sorted(value.items())) if isinstance(value, dict)
            else value for name, value in sorted(metas[0].items())
            if all(other.get(name) == value for other in metas)}
    if len(numbers) > 1 and len(parts) == 1:
        # the other channels have no sources, but their own noise
        for name in ('rms', 'noise'):
            meta.pop(name, None)
    for name in _COUNTED:
        if name in metas[0]:
            meta[name] = sum(row.get(name, 0) for row in numbers)
    for name in _COUNTED_BY_KIND:
        if any(name in row for row in numbers):
            meta[name] = dict(sum(
                (Counter(row.get(name, {})) for row in numbers), Counter()))
    copies = [QTable(part, copy=False) for part in parts]
    for part in copies:
        part.meta.clear()
    stacked = with_plain_units(vstack(copies, metadata_conflicts='silent'))
    stacked.meta.update(meta)
    return stacked
