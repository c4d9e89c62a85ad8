# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Cubes: the background of every channel, and its sources.

What is done of a cube lies in a hidden folder until all of it is, with a
journal of the channels, so that a run that is killed can be continued.
"""

import contextlib
import functools
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
from astropy.table import QTable, vstack
from threadpoolctl import threadpool_limits

from hyperphotutils.background import ChannelBackground, CubeBackground
from hyperphotutils.catalog import read_catalog, write_catalog, write_regions
from hyperphotutils.maps import MapError, read_cube
from hyperphotutils.pipeline.config import config_to_yaml
from hyperphotutils.pipeline.extraction import (
    extract_image,
    make_finder,
    read_sources,
    reading_options,
)
from hyperphotutils.pipeline.planning import JOURNAL, LOG, MapOutcome
from hyperphotutils.pipeline.products import (
    put_in_place,
    sync_files,
    table_of,
)
from hyperphotutils.pipeline.resume import (
    Journal,
    describe_files,
    describe_settings,
)
from hyperphotutils.utils.executors import error_of, was_killed, work_through
from hyperphotutils.utils.tables import result_meta

__all__ = ['make_cube_background', 'process_cube']

BACKGROUND, SUBTRACTED = 'background.fits', 'subtracted.fits'
CATALOG, CHANNELS = 'catalog.ecsv', 'channels.ecsv'

_LOCK = threading.Lock()

# Where the sources of the channels lie until all are there
_PARTS = 'parts'


def process_cube(job, config, *, executor=None, progress_bar=False):
    """
    Estimate the backgrounds of a cube, and extract its sources.

    Parameters
    ----------
    job : `~hyperphotutils.pipeline.MapJob`
        The cube and its folder.

    config : `~hyperphotutils.pipeline.PipelineConfig`
        The configuration.

    executor : `~concurrent.futures.Executor` or `None`, optional
        What works on the channels, instead of ``run.jobs`` processes.

    progress_bar : bool, optional
        Whether to show a progress bar over the channels.

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
        cube = read_cube(job.path, **reading_options(config.input))
        with _unfinished_folder(job, config, len(cube)) as (folder, journal):
            work = _CubeWork(cube, config, folder, journal, executor,
                             progress_bar)
            table = work.estimate_backgrounds()
            sources = None
            if not config.run.background_only:
                table, sources = work.extract_sources(table)
                sources.meta.update(filename=job.path, map_id=job.map_id)
            _write_tables(folder, table, sources, config)
            seconds = time.perf_counter() - start
            summary, numbers = _summarize(table, sources, seconds)
            text = _log_text(job, cube, table, config, caught, summary)
            (folder / LOG).write_text(text, encoding='utf-8')
            sync_files(folder)
        shutil.rmtree(folder / _PARTS, ignore_errors=True)
        put_in_place(folder, job.folder)
    return MapOutcome(job, summary=summary, numbers=numbers)


def make_cube_background(cube, config):
    """
    Make the estimator of the backgrounds of a cube.

    Parameters
    ----------
    cube : `~hyperphotutils.maps.MapCube`
        The cube; widths in beams become pixels here.

    config : `~hyperphotutils.pipeline.PipelineConfig`
        The configuration.

    Returns
    -------
    bkg : `~hyperphotutils.background.CubeBackground`
        The estimator.
    """
    options, cubes = config.background, config.cubes
    finder = sources = region = box_sizes = None
    if config.sources.given:
        sources = read_sources(cube.wcs, config.sources)
    else:
        # the planes are in the unit of the file: their rms is measured
        detection = config.detection.model_copy(update={'rms': None})
        first = np.flatnonzero(np.isfinite(cube.beam_fwhm_pix))[0]
        finder = make_finder(cube.channel(first), detection)
    if cubes.region is not None:
        region = _read_region(cubes.region)
    if options.box_sizes is not None:
        fwhm = float(np.nanmedian(cube.beam_fwhm_pix))
        box_sizes = [size * fwhm for size in options.box_sizes]
    return CubeBackground(
        orders=options.orders, empty_orders=cubes.empty_orders,
        methods=options.methods, criterion=options.criterion,
        huber_epsilons=options.huber_epsilons, box_sizes=box_sizes,
        positions=sources if cubes.around_sources else None, region=region,
        finder=finder, detect_on=cubes.detect_on, sources=sources,
        mask_factor=cubes.mask_factor, smoothing=cubes.smoothing)


def _read_region(path):
    """
    Read the regions of a file.
    """
    from regions import Regions
    from regions.io.ds9.core import DS9ParserError

    try:
        return Regions.read(path)
    except (OSError, ValueError, DS9ParserError) as error:
        msg = f'{path}: cubes.region cannot be read: {error}'
        raise MapError(msg) from None


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
                update={key: str(Path(path).resolve())})
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

    def estimate_backgrounds(self):
        """
        Write the cubes of backgrounds; return the table of the channels.
        """
        bkg = make_cube_background(self.cube, self.config)
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
        channels, with their numbers, and that of the sources.
        """
        cube = self.cube
        if self.config.cubes.subtract:
            cube = read_cube(self.folder / SUBTRACTED,
                             **reading_options(self.config.input))
        (self.folder / _PARTS).mkdir(exist_ok=True)
        # (a table is there before the journal knows of it)
        done = {i: row for i, row in self._finished('sources').items()
                if self._part(i).exists() or not row['has_table']}
        todo = [i for i in range(len(cube)) if i not in done]
        for index, sources, numbers in self._work(
                'sources', _extract_channel, todo, cube, self.config):
            if sources is not None:
                self._add_channel(sources, index)
                write_catalog(sources, self._part(index), overwrite=True)
            numbers['has_table'] = sources is not None
            self.journal.finish(f'sources {index}', numbers)
            done[index] = numbers
        rows = [done[i] for i in range(len(cube))]
        for name, unit in (('n_detected', None), ('n_measured', None),
                           ('rms', u.Jy / u.pix), ('n_warnings', None)):
            values = np.array([row[name] for row in rows])
            table[name] = values if unit is None else values << unit
        parts = [read_catalog(self._part(i)) for i in range(len(cube))
                 if self._part(i).exists()]
        if not parts:
            msg = f'{self.cube.name}: no channel has values'
            raise MapError(msg)
        table['summary'] = [row['summary'] for row in rows]
        return table, _stack(parts)

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

    def _part(self, index):
        return self.folder / _PARTS / f'{index:06}.ecsv'

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

        n_workers = min(self.config.run.jobs, max(len(channels), 1))
        if self.executor is not None:
            function = functools.partial(_one_at_a_time, function)
        pairs = work_through(function, channels, *shared,
                             executor=self.executor, n_workers=n_workers)
        with (contextlib.closing(pairs),
              tqdm(total=len(channels), desc=stage, unit='channel',
                   disable=not self.progress_bar) as bar):
            for index, future in pairs:
                error = error_of(future)
                if was_killed(error):
                    msg = (f'{self.cube.name}: the process that worked on '
                           f'channel {index} was killed, perhaps for want '
                           'of memory')
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
    and their numbers.
    """
    numbers = {'n_detected': 0, 'n_measured': 0, 'rms': np.nan,
               'n_warnings': 0, 'summary': 'no values'}
    values = cube.plane(index)
    values = values[np.isfinite(values)]
    if values.size == 0 or values.min() == values.max():
        return index, None, numbers
    image = cube.channel(index)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        extraction = extract_image(image, config)
    messages = {str(item.message) for item in caught
                if item.category.__name__ != 'NoDetectionsWarning'}
    numbers.update(
        n_detected=extraction.n_detected, n_measured=extraction.n_measured,
        rms=float(extraction.rms.value), n_warnings=len(messages),
        summary='; '.join([extraction.counts, *sorted(messages)]))
    return index, extraction.table, numbers


def _stack(parts):
    """
    Stack the sources of the channels.
    """
    meta = dict(parts[0].meta)
    for name in ('n_detected', 'n_dropped'):
        if name in meta:
            meta[name] = sum(part.meta.get(name, 0) for part in parts)
    for part in parts:
        part.meta.clear()
    stacked = QTable(vstack(parts, metadata_conflicts='silent'))
    stacked.meta.update(meta)
    return stacked


def _write_tables(folder, table, sources, config):
    """
    Write the tables of channels and sources.
    """
    table = table[[name for name in table.colnames if name != 'summary']]
    table.write(folder / CHANNELS, format='ascii.ecsv', overwrite=True)
    if sources is None:
        return
    write_catalog(sources, folder / CATALOG, overwrite=True)
    if config.output.regions and 'x_fit' in sources.colnames:
        for name, shape in (('ellipses.reg', 'ellipse'),
                            ('centroids.reg', 'point')):
            write_regions(sources, folder / name, shape=shape,
                          frame=config.output.region_frame, overwrite=True)


def _summarize(table, sources, seconds):
    """
    Tell what was found in a line, and in numbers.
    """
    n_lost = int(np.count_nonzero(table['order'] < 0))
    text = f'{len(table)} channels'
    numbers = {'n_detected': 0, 'n_measured': 0, 'rms': np.nan}
    if sources is not None:
        numbers.update({name: int(table[name].sum())
                        for name in ('n_detected', 'n_measured')})
        text += (f': {numbers["n_detected"]} detected, '
                 f'{numbers["n_measured"]} measured')
        rms = table['rms'].value
        if np.any(np.isfinite(rms)):
            numbers['rms'] = float(np.nanmedian(rms))
    if n_lost:
        text += f'; {n_lost} without a background'
    rms = u.Quantity(table['background_rms'])
    if np.any(np.isfinite(rms)):
        text += f', median rms {np.nanmedian(rms):.3g}'
    return f'{text}, {seconds:.1f} s', {**numbers,
                                        'seconds': round(seconds, 2)}


def _log_text(job, cube, table, config, caught, summary):
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
    ])
    counts = Counter(f'{item.category.__name__}: {item.message}'
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
