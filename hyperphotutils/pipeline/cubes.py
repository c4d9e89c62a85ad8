# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Cubes: the background of every channel, and its sources.

What is done of a cube lies in a hidden folder until all of it is, with a
journal of the channels, so that a run that is killed can be continued.
"""

import contextlib
import functools
import os
import shutil
import threading
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import QTable, vstack
from astropy.utils.exceptions import AstropyUserWarning
from threadpoolctl import threadpool_limits

from hyperphotutils.background import ChannelBackground
from hyperphotutils.catalog import (
    describe_columns,
    make_empty_table,
    read_catalog,
    write_catalog,
)
from hyperphotutils.maps import MapError, read_cube
from hyperphotutils.pipeline.config import config_to_yaml, find_unused_keys
from hyperphotutils.pipeline.extraction import extract_image
from hyperphotutils.pipeline.planning import JOURNAL, LOG, MapOutcome
from hyperphotutils.pipeline.products import (
    put_in_place,
    save_picture,
    sync_files,
    table_of,
    with_shapes,
    write_catalogs,
)
from hyperphotutils.pipeline.rejected import (
    REJECTED,
    describe_bad_pixels,
    describe_reasons,
    write_rejected,
)
from hyperphotutils.pipeline.resume import (
    Journal,
    describe_files,
    describe_settings,
)
from hyperphotutils.pipeline.text import printable
from hyperphotutils.utils.executors import (
    describe_death,
    error_of,
    was_killed,
    work_through,
)
from hyperphotutils.utils.tables import result_meta

__all__ = ['process_cube']

BACKGROUND, SUBTRACTED = 'background.fits', 'subtracted.fits'
CHANNELS, OVERVIEW = 'channels.ecsv', 'overview.png'

_LOCK = threading.Lock()

# Where the sources of the channels lie until all are there
_PARTS, _EMPTY = 'parts', 'empty.ecsv'

# Metadata of channels that are summed up
_COUNTED = ('n_detected', 'n_companions')
_COUNTED_BY_KIND = ('n_rejected', 'n_bad_pixels')


def process_cube(job, config, *, executor=None, progress_bar=False,
                 tell=None):
    """
    Estimate the backgrounds of a cube, and extract its sources.

    Parameters
    ----------
    job : `~hyperphotutils.pipeline.MapJob`
        The cube and its folder.

    config : `~hyperphotutils.pipeline.PipelineConfig`
        The configuration.

    executor : `~concurrent.futures.Executor` or `None`, optional
        What works on the channels, instead of ``run.n_workers`` processes.

    progress_bar : bool, optional
        Whether to show a progress bar over the channels.

    tell : callable, optional
        Called with a line if the work of an earlier run is continued.

    Returns
    -------
    outcome : `~hyperphotutils.pipeline.MapOutcome`
        What was found.

    Raises
    ------
    ~hyperphotutils.maps.MapError
        If the cube cannot be used.

    ValueError
        If the configuration does not suit the cube.

    OSError
        If the products cannot be written. What is done of the cube then
        waits for the next run.
    """
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        config = _with_absolute_paths(config)
        cube = read_cube(job.path, **config.input.make_reader_options())
        with _unfinished_folder(job, config, len(cube)) as (folder, journal):
            work = _CubeWork(cube, config, folder, journal, executor,
                             progress_bar)
            earlier = work.describe_earlier()
            if earlier and tell is not None:
                tell(f'{job.map_id}: continuing: {earlier}')
            for line in find_unused_keys(config):
                warnings.warn(line, AstropyUserWarning, stacklevel=1)
            table = work.estimate_backgrounds()
            sources = None
            if not config.run.background_only:
                table, sources, rejected, shapes = work.extract_sources(table)
                sources.meta['filename'] = printable(job.path)
                write_catalogs(sources, config.output, folder,
                               map_id=job.map_id, shapes=shapes)
                if rejected is not None:
                    write_rejected(rejected, folder, config.output,
                                   map_id=job.map_id, meta=sources.meta)
            table[[name for name in table.colnames if name != 'summary']
                  ].write(folder / CHANNELS, format='ascii.ecsv',
                          overwrite=True)
            summary, numbers = _summarize(table, config)
            if config.output.overview:
                _write_overview(cube, sources, f'{job.map_id}: {summary}',
                                folder)
            seconds = time.perf_counter() - start
            numbers['seconds'] = round(seconds, 2)
            summary += f', {seconds:.1f} s'
            if earlier:
                summary += f' for what was left ({earlier})'
            text = _log_text(job, cube, table, config, caught, summary,
                             {} if sources is None else sources.meta)
            (folder / LOG).write_text(text, encoding='utf-8',
                                      errors='backslashreplace')
            sync_files(folder)
        shutil.rmtree(folder / _PARTS, ignore_errors=True)
        put_in_place(folder, job.folder)
    return MapOutcome(job, summary=summary, numbers=numbers)


def _with_absolute_paths(config):
    """
    Let a configuration name the same files wherever it is read.
    """
    updates = {}
    for section, key in (('sources', 'table'), ('fit', 'weight_map'),
                         ('cubes', 'region')):
        options = getattr(config, section)
        path = getattr(options, key)
        if path is not None:
            updates[section] = options.model_copy(
                update={key: os.path.realpath(path)})
    return config.model_copy(update=updates)


@contextlib.contextmanager
def _unfinished_folder(job, config, n_channels):
    """
    Open the folder in which a cube is worked on, with its journal.

    What another configuration, or another state of the files, has left
    there is of no use. It stays if the work is interrupted, or cannot be
    written, and goes if the cube cannot be used.
    """
    folder = job.folder.with_name(f'.{job.folder.name}.unfinished')
    settings = describe_settings(config)
    inputs = describe_files(job.path, *filter(None, (
        config.sources.table, config.fit.weight_map, config.cubes.region)))
    items = {'cube': inputs | {'n_channels': n_channels}}
    with contextlib.ExitStack() as stack:
        journal = _open_journal(stack, folder)
        if 'cube' in journal.items and journal.find_differences(
                'cube', settings, items['cube']):
            stack.close()
            shutil.rmtree(folder)
            journal = _open_journal(stack, folder)
        if 'cube' not in journal.items:
            journal.begin(settings, items | {
                f'{stage} {i}': {} for stage in ('background', 'sources')
                for i in range(n_channels)})
        try:
            yield folder, journal
            journal.remove()
        except (OSError, KeyboardInterrupt):
            raise
        except BaseException:
            stack.close()
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _open_journal(stack, folder):
    """
    Open the journal; without one nobody knows what is in the folder.
    """
    if folder.exists() and not (folder / JOURNAL).exists():
        shutil.rmtree(folder)
    folder.mkdir(exist_ok=True)
    return stack.enter_context(Journal(folder / JOURNAL))


@dataclass(frozen=True)
class _CubeWork:
    """
    The work on one cube.
    """

    cube: object
    config: object
    folder: Path
    journal: Journal
    executor: object
    progress_bar: bool

    def describe_earlier(self):
        """
        Say how much of the work is done; nothing if none is.
        """
        n_channels = len(self.cube)
        stages = [('', 'sources')]
        stages.append(('the backgrounds of ', 'background'))
        for what, stage in stages[self.config.run.background_only:]:
            if n_done := len(self._finished(stage)):
                return f'{what}{n_done} of {n_channels} channels are done'
        return ''

    def estimate_backgrounds(self):
        """
        Write the cubes of backgrounds; return the table of the channels.
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
            # all have to be known before the first is smooth
            unknown = [i for i in channels if i not in parts]
            for part in self._work('background', _fit_channel, unknown, fit):
                self._note(parts, part)
            ready = bkg.smooth(parts.values())
            yield from (part for part in ready if left[part.channel])
            return
        # those of boxes are too large for the journal
        stored = {} if bkg.box_sizes is not None else parts
        yield from (stored[i] for i in channels if left[i] and i in stored)
        todo = [i for i in channels if left[i] and i not in stored]
        yield from self._work('background', _fit_channel, todo, fit)

    def _note(self, parts, part):
        """
        Keep in mind what was fitted, before it is smoothed.
        """
        name = f'background {part.channel}'
        if part.channel not in parts:
            parts[part.channel] = part
        if self.journal.items[name].state != 'done':
            self.journal.finish(name, part.to_dict())

    def extract_sources(self, table):
        """
        Measure the sources of all channels; return the table of the
        channels, with their numbers, that of the sources, that of the
        rejected detections (`None` for given sources), and that of the
        sources with shapes if they were only detected.
        """
        cube = self.cube
        if self.config.cubes.subtract:
            cube = read_cube(self.folder / SUBTRACTED,
                             **self.config.input.make_reader_options())
        (self.folder / _PARTS).mkdir(exist_ok=True)
        # (a table is there before the journal knows of it)
        done = {i: row for i, row in self._finished('sources').items()
                if (self._part(i).exists() or not row['n_rows'])
                and (self._rejected_part(i).exists()
                     or not row['n_listed'])}
        tables = {}
        todo = [i for i in range(len(cube)) if i not in done]
        for index, sources, listed, numbers in self._work(
                'sources', _extract_channel, todo, cube, self.config):
            if sources is not None:
                self._keep(index, sources, listed, tables)
            self.journal.finish(f'sources {index}', numbers)
            done[index] = numbers
        self._add_numbers(table, [done[i] for i in range(len(cube))])
        for i in range(len(cube)):
            if i not in tables and self._part(i).exists():
                tables[i] = read_catalog(self._part(i))
        parts = {i: tables[i] for i in sorted(tables)}
        empty = self.folder / _PARTS / _EMPTY
        if not parts and not empty.exists():
            msg = f'{self.cube.name}: no channel has values'
            raise MapError(msg)
        if not parts:
            parts = {-1: read_catalog(empty)}
        numbers = [done[i]['counts'] for i in range(len(cube))]
        shapes = None
        if self.config.run.detection_only:
            first = np.flatnonzero(np.isfinite(cube.beam_fwhm_pix))[0]
            shapes = _stack([with_shapes(part, cube.channel(max(i, first)))
                             for i, part in parts.items()], numbers)
        return (table, _stack(list(parts.values()), numbers),
                self._stack_rejected(done), shapes)

    def _stack_rejected(self, done):
        """
        Stack the rejected detections of the channels.
        """
        if self.config.sources.given:
            return None
        empty = make_empty_table('rejected', wcs=self.cube.wcs)
        self._add_channel(empty, 0)
        parts = [QTable.read(self._rejected_part(i))
                 for i in sorted(done) if done[i]['n_listed']]
        return _with_plain_units(vstack(parts or [empty],
                                        metadata_conflicts='silent'))

    def _keep(self, index, sources, rejected, tables):
        """
        Keep the sources of a channel, here and for those who continue,
        and its rejected detections.

        Of tables without rows one will do: they have the same columns.
        """
        if rejected is not None and len(rejected):
            self._add_channel(rejected, index)
            rejected.write(self._rejected_part(index), overwrite=True)
        self._add_channel(sources, index)
        empty = self.folder / _PARTS / _EMPTY
        if len(sources) > 0:
            tables[index] = sources
            write_catalog(sources, self._part(index), overwrite=True)
        elif not empty.exists():
            write_catalog(sources, empty)

    def _add_numbers(self, table, rows):
        """
        List the numbers of the channels.
        """
        counted = ('n_given' if self.config.sources.given else 'n_detected')
        for name, key, unit in ((counted, 'n_detected', None),
                                ('n_companions', 'n_companions', None),
                                ('n_rejected', 'n_rejected', None),
                                ('n_measured', 'n_measured', None),
                                ('rms', 'rms', u.Jy / u.pix),
                                ('noise', 'noise', None),
                                ('n_warnings', 'n_warnings', None),
                                ('summary', 'summary', None)):
            values = np.array([row[key] for row in rows])
            table[name] = values if unit is None else values << unit
        unused = []
        if self.config.sources.given:
            unused = ['n_companions', 'n_rejected']
        if self.config.run.detection_only:
            unused = ['n_companions', 'noise']
        table.remove_columns(unused)
        for name, unit in (('major', u.arcsec), ('minor', u.arcsec),
                           ('pa', u.deg)):
            table[f'beam_{name}'] = [
                np.nan if beam is None else getattr(beam, name).to_value(unit)
                for beam in self.cube.beams] << unit

    def _add_channel(self, sources, index):
        """
        Let each source know its channel.
        """
        cube, n_rows = self.cube, len(sources)
        columns = {'channel': np.full(n_rows, index),
                   cube.spectral_name: np.full(
                       n_rows, cube.spectral_axis[index].value)
                   << cube.spectral_axis.unit}
        for position, (name, column) in enumerate(columns.items()):
            sources.add_column(column, name=name, index=position)
        describe_columns(sources)

    def _part(self, index):
        return self.folder / _PARTS / f'{index:06}.ecsv'

    def _rejected_part(self, index):
        return self.folder / _PARTS / f'{index:06}_rejected.ecsv'

    def _finished(self, stage):
        """
        Return the results of the channels that are done.
        """
        return {i: item.result for i in range(len(self.cube))
                if (item := self.journal.items[f'{stage} {i}']
                    ).state == 'done'}

    def _work(self, stage, function, channels, *shared):
        """
        Work on channels, with what can do it.
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
    Work in a process that may have threads, which share warnings.
    """
    with _LOCK, threadpool_limits(1):
        return function(*args)


def _fit_channel(index, fit):
    """
    Fit the background of a channel, in whatever process.
    """
    return fit(index)


def _extract_channel(index, cube, config):
    """
    Extract the sources of a channel, in whatever process.

    Returns the index, the sources (`None` if the channel has no values),
    the rejected detections (likewise, or if the sources are given), and
    their numbers.
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
    numbers.update(
        n_detected=extraction.n_detected,
        n_companions=extraction.n_companions,
        n_rejected=sum(extraction.n_rejected.values()),
        n_measured=extraction.n_measured,
        rms=float(extraction.rms.value),
        n_rows=len(extraction.table),
        n_listed=0 if rejected is None else len(rejected),
        noise=extraction.table.meta.get('noise', ''),
        counts=_numbers_of(extraction.table.meta),
        n_warnings=len(messages),
        summary='; '.join([extraction.counts, *_filled(image.meta),
                           *_bad_pixels(extraction.table.meta),
                           *sorted(messages)]))
    return index, extraction.table, rejected, numbers


def _filled(meta):
    """
    Describe the fill values of a channel, if it has any.
    """
    if meta['n_fill']:
        values = ', '.join(f'{value:g}' for value in meta['fill_values'])
        yield f'{meta["n_fill"]} pixels with the fill value {values}'


def _bad_pixels(meta):
    """
    Describe the bad pixels of a channel, if it has any.
    """
    if text := describe_bad_pixels(meta.get('n_bad_pixels', {})):
        yield f'bad pixels: {text}'


def _numbers_of(meta):
    """
    Return the numbers of sources in the metadata of a channel.
    """
    numbers = {name: meta[name] for name in _COUNTED if name in meta}
    return numbers | {name: dict(meta[name]) for name in _COUNTED_BY_KIND
                      if name in meta}


def _stack(parts, numbers):
    """
    Stack the sources of the channels.

    What is not the same in all channels, as their rms, is told by the
    table of the channels; numbers of sources are summed up.
    """
    metas = [dict(part.meta) for part in parts]
    # (names are sorted in what was read from files)
    meta = {name: dict(sorted(value.items())) if isinstance(value, dict)
            else value for name, value in sorted(metas[0].items())
            if all(other.get(name) == value for other in metas)}
    if len(numbers) > 1 and len(parts) == 1:
        # others have no sources, and their own noise
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
    stacked = _with_plain_units(vstack(copies, metadata_conflicts='silent'))
    stacked.meta.update(meta)
    return stacked


def _with_plain_units(table):
    """
    Return a table whose file does not tell where its units came from.

    ECSV says which units are one object, and another process or file
    makes others.
    """
    plain, units = QTable(), {}

    def unit_of(column):
        return units.setdefault(str(column.unit), u.Unit(str(column.unit)))

    for name in table.colnames:
        column = table[name]
        new = column
        if isinstance(column, u.Quantity):
            new = np.array(column.value) << unit_of(column)
        elif isinstance(column, SkyCoord):
            sky = column.spherical
            new = SkyCoord(*(np.array(angle.value) << unit_of(angle)
                             for angle in (sky.lon, sky.lat)),
                           frame=column.frame.replicate_without_data())
        plain[name] = new
        plain[name].info.description = column.info.description
    return plain


def _write_overview(cube, sources, title, folder):
    """
    Write a picture of the channels without their backgrounds.
    """
    from hyperphotutils.visualization import choose_channels, plot_channels

    background = read_cube(folder / BACKGROUND)
    channels = [i for i in choose_channels(len(cube), sources)
                if np.isfinite(background.plane(i)).any()]
    if not channels:
        return
    title += '; without the backgrounds'
    if len(channels) < len(cube):
        title += f'; {len(channels)} of the channels'
    figure = plot_channels(cube, sources, background=background,
                           channels=channels, title=title)
    save_picture(figure, folder / OVERVIEW)


def _summarize(table, config):
    """
    Tell what was found in a line, and in numbers.
    """
    n_lost = int(np.count_nonzero(table['order'] < 0))
    text = f'{len(table)} channels'
    numbers = {'n_detected': 0, 'n_companions': 0, 'n_rejected': 0,
               'n_measured': 0, 'rms': np.nan}
    if 'n_measured' in table.colnames:
        given = config.sources.given
        counted = 'n_given' if given else 'n_detected'
        numbers.update(n_detected=int(table[counted].sum()),
                       n_companions=_total(table, 'n_companions'),
                       n_rejected=_total(table, 'n_rejected'),
                       n_measured=int(table['n_measured'].sum()))
        n_found = (f'{table[counted].max()} given in each' if given
                   else f'{numbers["n_detected"]} detected')
        if n_companions := numbers['n_companions']:
            n_found += f', {n_companions} companion{"s" * (n_companions != 1)}'
        text += f': {n_found}, {numbers["n_measured"]} measured'
        if numbers['n_rejected']:
            text += f', {numbers["n_rejected"]} rejected (see {REJECTED})'
        rms = table['rms'].value
        if np.any(np.isfinite(rms)):
            numbers['rms'] = float(np.nanmedian(rms))
    if n_lost:
        text += f'; {n_lost} without a background'
    rms = u.Quantity(table['background_rms'])
    if np.any(np.isfinite(rms)):
        text += f', median rms {np.nanmedian(rms):.3g}'
    return text, numbers


def _total(table, name):
    """
    Return the sum of a column, 0 if it is missing.
    """
    return int(table[name].sum()) if name in table.colnames else 0


def _log_text(job, cube, table, config, caught, summary, meta):
    """
    Make the log of a cube, with a line for each channel.
    """
    axis = cube.spectral_axis
    ny, nx = cube.shape[1:]
    versions = result_meta()['version']
    head = table_of([
        ('cube', job.path),
        ('finished', datetime.now(UTC).isoformat(timespec='seconds')),
        ('versions', ', '.join(f'{name} {version}'
                               for name, version in versions.items())),
        ('extension', cube.extension),
        ('size', f'{len(cube)} channels of {nx} x {ny} pixels of '
                 f'{cube.pixel_scale:.4g}'),
        (cube.spectral_name, f'{axis[0]:.8g} to {axis[-1]:.8g} '
                             f'({cube.spectral_type})'),
        ('unit', cube.original_unit),
        ('result', summary),
        *((name, text) for name, text in (
            ('rejected', describe_reasons(meta.get('n_rejected', {}))),
            ('bad pixels', describe_bad_pixels(meta.get('n_bad_pixels', {}))),
        ) if text),
    ])
    counts = Counter(
        printable(f'{item.category.__name__}: {item.message}')
        for item in caught)
    told = [f'warnings      {len(counts)}',
            *(f'  {text} ({number} times)' if number > 1 else f'  {text}'
              for text, number in counts.items())]
    return '\n\n'.join([
        head, '\n'.join(told), '\n'.join(_log_lines(table, cube)),
        'configuration\n' + config_to_yaml(config, comments=False)])


def _log_lines(table, cube):
    """
    Tell of each channel in a line.
    """
    lines = []
    for row in table:
        text = 'no background'
        if row['order'] >= 0:
            text = (f'background of order {row["order"]} by '
                    f'{row["method"]}, rms {row["background_rms"]:.4g}, '
                    f'{row["n_sources"]} masked')
        if 'summary' in table.colnames:
            text += f'; {row["summary"]}'
        lines.append(f'channel {row["channel"]} '
                     f'({row[cube.spectral_name]:.8g}): {text}')
    return lines
