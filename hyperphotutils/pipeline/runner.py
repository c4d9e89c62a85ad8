# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Many maps: planned, worked on one by one or in parallel, and accounted
for.

This module is light: what one map needs is imported where it is worked
on, so that ``hyperphot --help`` is quick and worker processes can limit
their threads before any numerical library is loaded.
"""

import contextlib
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hyperphotutils.pipeline.bands import check_bands, write_bands
from hyperphotutils.pipeline.config import (
    ConfigError,
    PipelineConfig,
    config_to_yaml,
)
from hyperphotutils.pipeline.search import load_config

__all__ = [
    'MapJob',
    'MapOutcome',
    'OutputError',
    'PipelineError',
    'merge_outcomes',
    'plan_jobs',
    'process_map',
    'process_maps',
    'run',
]

# All that a map's folder can hold; only such folders are ever replaced
_PRODUCTS = frozenset({
    'catalog.ecsv', 'catalog.ipac', 'catalog.csv', 'ellipses.reg',
    'centroids.reg', 'overview.png', 'run.log',
})
# Folders in it, and what these can hold
_PRODUCT_FOLDERS = frozenset({
    'fits_groups', 'fits_sources', 'plots_groups', 'plots_sources',
    'plots_backgrounds',
})
_CUTOUT = re.compile(r'(group|source)_\d+\.(fits|png)')
_COMBINED = 'catalog_all.ecsv'
_BANDS = 'catalog_bands.ecsv'
_LOG = 'run.log'

_SUFFIXES = ('.gz', '.fz', '.bz2', '.xz', '.z', '.fits', '.fit', '.fts')

_THREAD_VARIABLES = ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS',
                     'MKL_NUM_THREADS', 'VECLIB_MAXIMUM_THREADS')


class OutputError(OSError):
    """
    The output cannot be written, or there is something in its place.

    Nothing was done, and nothing was touched, when this is raised.
    """


class PipelineError(RuntimeError):
    """
    No map of a run could be done.
    """


@dataclass(frozen=True)
class MapJob:
    """
    One map, and where its products go.

    Parameters
    ----------
    path : str
        The FITS file.

    map_id : str
        The name of the map: that of its file without suffix, after
        those of its folders where that is needed to tell two apart.

    folder : `~pathlib.Path`
        The folder of the products.

    scratch : `~pathlib.Path`
        The folder in which they are written, beside ``folder``.
    """

    path: str
    map_id: str
    folder: Path
    scratch: Path


@dataclass(frozen=True)
class MapOutcome:
    """
    What became of one map.

    Parameters
    ----------
    job : `MapJob`
        The map.

    table : `~astropy.table.QTable` or `None`
        The sources, `None` if the map failed.

    summary : str
        A line on what was found.

    reason : str or `None`
        A line on why the map failed.

    details : str or `None`
        The traceback of an error that nobody expected.
    """

    job: MapJob
    table: Any = None
    summary: str = ''
    reason: str | None = None
    details: str | None = None


def run(config=None):
    """
    Extract the sources of all maps of a configuration, and write them.

    Parameters
    ----------
    config : str, path-like, `PipelineConfig` or `None`, optional
        The configuration, or the YAML file that holds it: ours, or one
        of Hyper-py. With `None` (default), the file that `find_config`
        finds, or the built-in defaults.

    Returns
    -------
    table : `~astropy.table.QTable`
        The sources; of several maps all in one table with the column
        ``map_id``.

    Raises
    ------
    ConfigError
        If the configuration cannot be used.

    OutputError
        If the output exists already or cannot be written.

    PipelineError
        If no map could be done.

    Warns
    -----
    `~astropy.utils.exceptions.AstropyUserWarning`
        If some of the maps failed: one warning that names them all. If
        the configuration is one of Hyper-py: one that says so, and what
        of it is not supported.

    Notes
    -----
    With ``run.jobs`` above 1 the maps are worked on in processes of
    their own. As always in Python, a script that does this must keep
    its own statements below ``if __name__ == '__main__':``.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from hyperphotutils.datasets import make_blended_map
    >>> from hyperphotutils.pipeline import PipelineConfig, run
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, 'map.fits')
    ...     make_blended_map((100, 100), 8, seed=1).write(path)
    ...     config = PipelineConfig(input={'maps': [str(path)]},
    ...                             output={'directory': folder})
    ...     table = run(config)
    ...     sorted(item.name for item in Path(folder, 'map').iterdir())
    ['catalog.ecsv', 'catalog.ipac', 'centroids.reg', 'ellipses.reg',
    'overview.png', 'run.log']
    >>> table['flux_fit'].unit
    Unit("Jy")
    """
    origin = None
    if not isinstance(config, PipelineConfig):
        loaded = load_config(config)
        config, origin = loaded.config, loaded.origin
        if loaded.hyper_py:
            from astropy.utils.exceptions import AstropyUserWarning

            warnings.warn('\n'.join([origin, *loaded.hyper_py.unsupported]),
                          AstropyUserWarning, stacklevel=2)
    outcomes = process_maps(config, origin=origin)
    if config.bands.merge:
        merge_outcomes(outcomes, config)
    failed = [outcome for outcome in outcomes if outcome.reason]
    lines = '; '.join(outcome.reason for outcome in failed)
    if len(failed) == len(outcomes):
        raise PipelineError(lines)
    if failed:
        from astropy.utils.exceptions import AstropyUserWarning

        msg = f'{len(failed)} of {len(outcomes)} maps failed: {lines}'
        warnings.warn(msg, AstropyUserWarning, stacklevel=2)
    if len(outcomes) == 1:
        return outcomes[0].table
    return _combine(outcomes)


def process_maps(config, *, progress_bar=False, origin=None):
    """
    Work on all maps, and tell what became of each.

    Parameters
    ----------
    config : `PipelineConfig`
        The configuration.

    progress_bar : bool, optional
        Whether to show a progress bar.

    origin : str, optional
        Where the configuration comes from, for the log.

    Returns
    -------
    outcomes : list of `MapOutcome`
        One for each map, in the order of the maps. An error of one map
        does not touch the others.

    Raises
    ------
    ConfigError
        If there is no map, or one is named twice.

    OutputError
        If the output exists already or cannot be written.
    """
    jobs = plan_jobs(config)
    directory = Path(config.output.directory)
    if config.bands.merge:
        check_bands(config)
    _check_existing(jobs, directory, config)
    with _output_folder(directory):
        started = datetime.now(UTC)
        outcomes = _work(jobs, config, progress_bar=progress_bar)
        if len(jobs) > 1 and any(not item.reason for item in outcomes):
            _write_combined(outcomes, directory / _COMBINED)
        _write_run_log(outcomes, config, directory / _LOG, started, origin)
    return outcomes


def merge_outcomes(outcomes, config, *, progress_bar=False):
    """
    Merge the catalogs of a run into one of several bands.

    Parameters
    ----------
    outcomes : list of `MapOutcome`
        The maps, as `process_maps` returns them.

    config : `PipelineConfig`
        The configuration.

    progress_bar : bool, optional
        Whether to show a progress bar.

    Returns
    -------
    table : `~astropy.table.QTable`
        A row a source, see `merge_bands`.

    path : `~pathlib.Path`
        The file with the table.

    Raises
    ------
    PipelineError
        If the catalogs cannot be merged.
    """
    path = Path(config.output.directory) / _BANDS
    try:
        table = write_bands(outcomes, config, path, progress_bar=progress_bar)
    except (ValueError, OSError) as exc:
        msg = f'{path}: not written: {_reason(exc)}'
        raise PipelineError(msg) from exc
    return table, path


def plan_jobs(config):
    """
    Give every map a name and a folder of its own.

    Parameters
    ----------
    config : `PipelineConfig`
        The configuration.

    Returns
    -------
    jobs : list of `MapJob`
        The maps in their order.

    Raises
    ------
    ConfigError
        If there is no map, or one is named twice.

    Examples
    --------
    >>> from hyperphotutils.pipeline import PipelineConfig, plan_jobs
    >>> maps = ['a/250um.fits', 'b/250um.fits', 'b/350um.fits']
    >>> config = PipelineConfig(input={'maps': maps})
    >>> [job.map_id for job in plan_jobs(config)]
    ['a_250um', 'b_250um', '350um']
    """
    maps = config.input.maps
    if not maps:
        raise ConfigError(['input.maps: no map is given'])
    resolved = [Path(path).resolve() for path in maps]
    for path in maps:
        if resolved.count(Path(path).resolve()) > 1:
            raise ConfigError([f'{path}: this map is named twice'])
    directory = Path(config.output.directory)
    token = f'{os.getpid()}.partial'
    return [MapJob(path=path, map_id=map_id, folder=directory / map_id,
                   scratch=directory / f'.{map_id}.{token}')
            for path, map_id in zip(maps, _map_ids(resolved), strict=True)]


def process_map(job, config, *, progress_bar=False):
    """
    Extract the sources of one map and write its products.

    Parameters
    ----------
    job : `MapJob`
        The map.

    config : `PipelineConfig`
        The configuration.

    progress_bar : bool, optional
        Whether to show the progress of the fits.

    Returns
    -------
    outcome : `MapOutcome`
        What was found.

    Raises
    ------
    ~hyperphotutils.maps.MapError
        If the map cannot be used.

    ValueError
        If the configuration does not suit the map.

    OSError
        If the products cannot be written.
    """
    from hyperphotutils.pipeline.extraction import extract_map
    from hyperphotutils.pipeline.products import write_products

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        extraction = extract_map(job.path, config, progress_bar=progress_bar)
        write_products(job, extraction, config, caught=caught)
    n_warnings = len({str(item.message) for item in caught
                      if item.category.__name__ != 'NoDetectionsWarning'})
    return MapOutcome(job, table=extraction.table,
                      summary=_summary(extraction, n_warnings))


def _summary(extraction, n_warnings):
    table = extraction.table
    text = extraction.counts
    if len(table) > 0 and 'group_id' in table.colnames:
        n_groups = len(set(table['group_id']))
        text += f'; {n_groups} group{"s" * (n_groups != 1)}'
    text += f', rms {extraction.rms:.3g}'
    text += f', {sum(extraction.times.values()):.1f} s'
    if n_warnings:
        text += f', {n_warnings} warning{"s" * (n_warnings != 1)}: see {_LOG}'
    return text


def _map_ids(paths):
    """
    Name maps by their files; equal names get those of folders before
    them.
    """
    names = [[_stem(path), *(part.name for part in path.parents)]
             for path in paths]
    ids = [name[0] for name in names]
    depths = [1] * len(names)
    while True:
        keys = [name.casefold() for name in ids]
        clashing = [number for number, key in enumerate(keys)
                    if keys.count(key) > 1
                    or key in {_LOG, _COMBINED, _BANDS}]
        if not clashing:
            return ids
        for number in clashing:
            depths[number] += 1
            if depths[number] > len(names[number]):
                pair = ' and '.join(
                    str(path) for path, key in zip(paths, keys, strict=True)
                    if key == keys[number])
                msg = (f'{pair}: no names can be made that tell their '
                       'products apart: rename one of the files, or run '
                       'them one by one, each with its own --output-dir '
                       '(output.directory)')
                raise ConfigError([msg])
            parts = names[number][:depths[number]]
            ids[number] = '_'.join(part for part in reversed(parts) if part)


def _stem(path):
    name = path.name
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            name = name[:-len(suffix)]
    return name.lstrip('.') or 'map'


def _check_existing(jobs, directory, config):
    """
    Refuse to touch what is there, as far as it may not be replaced.
    """
    there = [job.folder for job in jobs if os.path.lexists(job.folder)]
    for name, made in ((_COMBINED, len(jobs) > 1),
                       (_BANDS, config.bands.merge)):
        if made and os.path.lexists(directory / name):
            there.append(directory / name)
    if there and not config.output.overwrite:
        more = f' (and {len(there) - 1} more)' if len(there) > 1 else ''
        msg = (f'{there[0]}{more}: exists already; allow to replace it by '
               '--overwrite (output.overwrite), or choose another '
               '--output-dir (output.directory)')
        raise OutputError(msg)
    for job in jobs:
        _check_ours(job.folder)


def _check_ours(folder):
    """
    Refuse to replace a folder that a run cannot have made.
    """
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        msg = f'{folder}: is in the way: not a folder of products'
        raise OutputError(msg)
    foreign = []
    for item in sorted(folder.iterdir()):
        if item.name in _PRODUCT_FOLDERS and item.is_dir():
            foreign += [f'{item.name}/{part.name}' for part in item.iterdir()
                        if not _CUTOUT.fullmatch(part.name)]
        elif item.name not in _PRODUCTS:
            foreign.append(item.name)
    if foreign:
        msg = (f'{folder}: not replaced, it holds what hyperphot did not '
               f'write: {", ".join(foreign[:3])}')
        raise OutputError(msg)


@contextlib.contextmanager
def _output_folder(directory):
    """
    Make the folder, be sure to be able to write, and leave none empty.
    """
    made = [path for path in (directory, *directory.parents)
            if not path.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as exc:
        msg = f'{directory}: cannot be written: {exc.strerror}'
        raise OutputError(msg) from exc
    try:
        yield
    finally:
        for path in made:
            # only an empty folder goes
            with contextlib.suppress(OSError):
                path.rmdir()


def _work(jobs, config, *, progress_bar):
    """
    Work on all jobs in processes, or in this one.
    """
    n_workers = min(config.run.jobs, len(jobs))
    several = len(jobs) > 1
    bar = _progress_bar(len(jobs), shown=progress_bar and several)
    with bar:
        if n_workers == 1:
            single = progress_bar and not several
            futures = _submit(_SerialExecutor(), jobs, config, bar,
                              progress_bar=single)
        else:
            futures = _work_in_pool(jobs, config, bar, n_workers)
    return [_outcome(job, future)
            for job, future in zip(jobs, futures, strict=True)]


def _work_in_pool(jobs, config, bar, n_workers):
    with _process_pool(jobs, n_workers) as pool:
        futures = _submit(pool, jobs, config, bar)
    for number, job in enumerate(jobs):
        # A dying worker takes the whole pool with it. Alone in a pool,
        # each map shows whether it was the one.
        if isinstance(futures[number].exception(), BrokenProcessPool):
            with _process_pool([job], 1) as pool:
                futures[number:number + 1] = _submit(pool, [job], config, bar)
    return futures


def _submit(executor, jobs, config, bar, **kwargs):
    futures = []
    for job in jobs:
        future = executor.submit(process_map, job, config, **kwargs)
        future.add_done_callback(lambda _: bar.update())
        futures.append(future)
    return futures


def _outcome(job, future):
    exc = future.exception()
    if exc is None:
        return future.result()
    if isinstance(exc, BrokenProcessPool):
        reason = 'its process was killed, perhaps for want of memory'
        return MapOutcome(job, reason=f'{job.path}: {reason}')
    reason = _reason(exc)
    plain = isinstance(exc, OSError) or type(exc).__name__ == 'MapError'
    if plain:
        details = None
        reason += _hint(reason)
    else:
        details = ''.join(traceback.format_exception(exc))
        if not isinstance(exc, ValueError):
            reason = f'unexpected {type(exc).__name__}: {reason}'
        reason += f' (details in {job.folder.with_name(_LOG)})'
    if job.path not in reason:
        reason = f'{job.path}: {reason}'
    return MapOutcome(job, reason=reason, details=details)


def _reason(exc):
    """
    Say in one line what went wrong.
    """
    if isinstance(exc, OSError) and exc.strerror:
        name = f'{exc.filename}: ' if exc.filename else ''
        return f'{name}{exc.strerror}'
    return ' '.join(str(exc).split()) or type(exc).__name__


def _hint(reason):
    """
    Name the options and keys for the arguments that an error of read_map
    names.
    """
    names = dict.fromkeys(
        re.findall(r'\b(unit|beam|survey|frequency|ext)=', reason))
    options = [f'--{name}' for name in names
               if name in {'unit', 'beam', 'survey'}]
    keys = [f'input.{"extension" if name == "ext" else name}'
            for name in names]
    told = [f'{where}: {", ".join(found)}'
            for where, found in (('on the command line', options),
                                 ('in the configuration', keys)) if found]
    return f' ({"; ".join(told)})' if told else ''


class _SerialExecutor(Executor):
    """
    Works at once, in this process; errors wait in the future as in a
    pool, so that the runner has one way to account for them.
    """

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        with _ErrorsInto(future):
            future.set_result(function(*args, **kwargs))
        return future


class _ErrorsInto(contextlib.AbstractContextManager):
    """
    Moves an error to a future. Interrupts and exits go on.
    """

    def __init__(self, future):
        self.future = future

    def __exit__(self, kind, exc, trace):
        if isinstance(exc, Exception):
            self.future.set_exception(exc)
            return True
        return False


@contextlib.contextmanager
def _process_pool(jobs, n_workers):
    """
    A pool that ends at once, and leaves nothing behind, if interrupted.
    """
    n_threads = max(1, (os.cpu_count() or 1) // n_workers)
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        n_workers, mp_context=multiprocessing.get_context('spawn'),
        initializer=_prepare_worker, initargs=(n_threads,))
    finished = False
    try:
        yield pool
        pool.shutdown()
        finished = True
    finally:
        if not finished:
            workers = set(multiprocessing.active_children()) - others
            for worker in workers:
                worker.terminate()
            pool.shutdown(cancel_futures=True)
            for job in jobs:
                shutil.rmtree(job.scratch, ignore_errors=True)


def _prepare_worker(n_threads):
    """
    Leave Ctrl-C to the parent, and the other cores to the other workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(n_threads)
    if 'numpy' in sys.modules:
        # the main script imported it before: too late for the variables
        with contextlib.suppress(ImportError):
            from threadpoolctl import threadpool_limits

            threadpool_limits(n_threads)


def _progress_bar(total, *, shown):
    from tqdm import tqdm

    return tqdm(total=total, unit='map', disable=not shown)


def _combine(outcomes):
    from hyperphotutils.pipeline.products import combine_tables

    return combine_tables({outcome.job.map_id: outcome.table
                           for outcome in outcomes if not outcome.reason})


def _write_combined(outcomes, path):
    from hyperphotutils.catalog import write_catalog

    write_catalog(_combine(outcomes), path, overwrite=True)


def _write_run_log(outcomes, config, path, started, origin):
    """
    Append to the log of all runs in this folder.

    When nothing was done, for reasons that the message tells in full,
    there is nothing to log, and no folder to be made for it.
    """
    if not any(item.details or not item.reason for item in outcomes):
        return
    lines = [f'run of {started.isoformat(timespec="seconds")}']
    for item in outcomes:
        status = f'failed: {item.reason}' if item.reason else item.summary
        lines.append(f'{item.job.map_id}: {status}')
        if item.details:
            lines.append(item.details.rstrip())
    told = f' (from {origin})' if origin else ''
    lines += [f'configuration{told}',
              config_to_yaml(config, comments=False), '']
    with path.open('a', encoding='utf-8') as file:
        file.write('\n'.join(lines))
