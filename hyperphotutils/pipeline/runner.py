# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Many maps: worked on one by one, in parallel, or on a cluster, and
accounted for.

This module is light: what one map needs is imported where it is worked
on, so that ``hyperphot --help`` is quick.
"""

import contextlib
import errno
import functools
import os
import re
import threading
import time
import traceback
import warnings
from datetime import UTC, datetime
from pathlib import Path

from hyperphotutils.pipeline.bands import check_bands, write_bands
from hyperphotutils.pipeline.config import (
    ConfigError,
    PipelineConfig,
    check_config,
)
from hyperphotutils.pipeline.planning import (
    BANDS,
    COMBINED,
    LOG,
    MapOutcome,
    PipelineError,
    find_work,
    leave_none_empty,
    make_writable,
    open_journal,
    plan_jobs,
    remove_leftovers,
)
from hyperphotutils.pipeline.search import load_config
from hyperphotutils.pipeline.text import printable

__all__ = [
    'merge_outcomes',
    'process_map',
    'process_maps',
    'run',
]

# What befalls all maps to come, too
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})

# An executor may have threads; warnings and folders are shared by them
_ONE_AT_A_TIME = threading.Lock()


def run(config=None, *, executor=None):
    """
    Extract the sources of all maps of a configuration, and write them.

    Parameters
    ----------
    config : str, path-like, `PipelineConfig` or `None`, optional
        The configuration, or the YAML file that holds it: ours, or one
        of Hyper-py. With `None` (default), the file that `find_config`
        finds, or the built-in defaults.

    executor : `~concurrent.futures.Executor` or `None`, optional
        Where the maps are worked on instead of in ``run.n_workers``
        processes, see `process_maps`.

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
        If no map could be done, or the disk is full.

    Warns
    -----
    `~astropy.utils.exceptions.AstropyUserWarning`
        If some of the maps failed: one warning that names them all. If
        the configuration is one of Hyper-py: one that says so, and what
        of it is not supported.

    Notes
    -----
    With ``run.n_workers`` above 1 the maps are worked on in processes of
    their own. These do not import the main script: its statements need
    not be below ``if __name__ == '__main__':``.

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
    'overview.png', 'rejected.ecsv', 'rejected.reg', 'run.log']
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
    check_config(config)
    outcomes = process_maps(config, origin=origin, executor=executor)
    if config.bands.merge:
        merge_outcomes(outcomes, config)
    failed = [outcome for outcome in outcomes if outcome.reason]
    lines = printable('; '.join(outcome.reason for outcome in failed))
    if len(failed) == len(outcomes):
        raise PipelineError(lines)
    if failed:
        from astropy.utils.exceptions import AstropyUserWarning

        msg = f'{len(failed)} of {len(outcomes)} maps failed: {lines}'
        warnings.warn(msg, AstropyUserWarning, stacklevel=2)
    if len(outcomes) == 1:
        return outcomes[0].table
    from hyperphotutils.pipeline.recording import combine_outcomes

    return combine_outcomes(outcomes)


def process_maps(config, *, progress_bar=False, origin=None, executor=None,
                 tell=None):
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

    executor : `~concurrent.futures.Executor` or `None`, optional
        Where the maps are worked on: anything with its method
        ``submit``, or a client of dask.distributed, whose workers see
        the same files under the same names. With `None` (default) that
        is the cluster of ``run.scheduler``, or ``run.n_workers`` processes.

    tell : callable, optional
        Called with a line before the work begins if an earlier run has
        done some of the maps, and for each cube of which it has done a
        part.

    Returns
    -------
    outcomes : list of `MapOutcome`
        One for each map, in the order of the maps. An error of one map
        does not touch the others.

    Raises
    ------
    ConfigError
        If there is no map, or one is named twice, or the scheduler does
        not answer.

    OutputError
        If the output exists already and was not made by the same
        configuration from the same files, or cannot be written.

    PipelineError
        If the run cannot go on, for example because the disk is full.

    Notes
    -----
    Maps that an earlier run has done, with the same configuration and
    from the same files, are not done again.
    """
    jobs = plan_jobs(config)
    if config.bands.merge:
        check_bands(config, len(jobs))
    directory = Path(config.output.directory)
    with leave_none_empty(directory), open_journal(directory) as journal:
        work = find_work(jobs, config, journal)
        outcomes = {
            job.map_id: MapOutcome(job, earlier=True,
                                   **journal.items[job.map_id].result)
            for job in jobs if job.map_id not in work.items}
        n_done = len(jobs) - len(work.todo)
        if n_done and work.todo and tell is not None:
            tell(f'continuing: {n_done} of {len(jobs)} maps are done already')
        if work.items:
            make_writable(directory)
            remove_leftovers(directory)
            with _connection(config, executor) as workers, \
                    _ended_in_words(directory, jobs, outcomes):
                journal.begin(work.settings, work.items)
                _do(work, config, outcomes, journal, workers, progress_bar,
                    tell)
                outcomes = {job.map_id: outcomes[job.map_id] for job in jobs}
                _record(outcomes, work, config, journal, origin)
    return [outcomes[job.map_id] for job in jobs]


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
        A row a source, see `merge_bands`. If an earlier run has written
        it, it is read.

    path : `~pathlib.Path`
        The file with the table.

    Raises
    ------
    PipelineError
        If the catalogs cannot be merged.
    """
    from hyperphotutils.catalog import read_catalog

    directory = Path(config.output.directory)
    path = directory / BANDS
    with open_journal(directory) as journal:
        item = journal.items.get(BANDS)
        if item is not None and item.state == 'done' and path.exists():
            return read_catalog(path), path
        try:
            table = write_bands(outcomes, config, path,
                                progress_bar=progress_bar)
        except (ValueError, OSError) as exc:
            if item is not None:
                with contextlib.suppress(OSError):
                    journal.fail(BANDS)
            msg = f'{path}: not written: {_reason(exc)}'
            raise PipelineError(msg) from exc
        if item is not None:
            journal.finish(BANDS)
    return table, path


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
        Whether to show the progress of the fits, and of pictures.

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

    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        extraction = extract_map(job.path, config, progress_bar=progress_bar)
        write_products(job, extraction, config, caught=caught,
                       progress_bar=progress_bar)
    n_warnings = len({str(item.message) for item in caught
                      if item.category.__name__ != 'NoDetectionsWarning'})
    seconds = time.perf_counter() - start
    numbers = {'n_detected': extraction.n_detected,
               'n_companions': extraction.n_companions,
               'n_rejected': sum(extraction.n_rejected.values()),
               'n_measured': extraction.n_measured,
               'rms': float(extraction.rms.value),
               'seconds': round(seconds, 2)}
    return MapOutcome(job, numbers=numbers,
                      summary=_summary(extraction, n_warnings, seconds))


def _process_elsewhere(job, config, folder):
    """
    Process a map in the working folder of the run, wherever that is done.
    """
    from threadpoolctl import threadpool_limits

    with (_ONE_AT_A_TIME, threadpool_limits(1), contextlib.chdir(folder)):
        return process_map(job, config)


def _summary(extraction, n_warnings, seconds):
    text = extraction.counts
    n_groups = extraction.n_groups
    if n_groups:
        text += f'; {n_groups} group{"s" * (n_groups != 1)}'
    text += f', {extraction.noise}'
    text += f', {seconds:.1f} s'
    if n_warnings:
        text += f', {n_warnings} warning{"s" * (n_warnings != 1)}: see {LOG}'
    return text


def _do(work, config, outcomes, journal, executor, progress_bar, tell):
    """
    Work on the maps that are left, and note each that is finished.
    """
    from tqdm import tqdm

    jobs = work.todo
    shown = progress_bar and len(jobs) > 1
    try:
        with (contextlib.closing(_work(jobs, config, executor,
                                       progress_bar and not shown,
                                       tell)) as pairs,
              tqdm(total=len(jobs), unit='map', disable=not shown) as bar):
            for job, future in pairs:
                outcome = _outcome(job, future)
                outcomes[job.map_id] = outcome
                if outcome.reason:
                    journal.fail(job.map_id)
                else:
                    journal.finish(job.map_id, {
                        'summary': outcome.summary,
                        'numbers': outcome.numbers})
                    if COMBINED in work.tables:
                        # read it while others are at work
                        _ = outcome.table
                bar.update()
    finally:
        remove_leftovers(Path(config.output.directory))


def _work(jobs, config, executor, progress_bar, tell):
    """
    Begin the work, with what can do it.
    """
    from hyperphotutils.utils.executors import work_through

    if config.input.datacube:
        # one by one: it is the channels that are shared out
        from hyperphotutils.pipeline.cubes import process_cube

        return work_through(
            functools.partial(process_cube, executor=executor,
                              progress_bar=progress_bar, tell=tell),
            jobs, config)
    if executor is not None:
        return work_through(_process_elsewhere, jobs, config,
                            str(Path.cwd()), executor=executor)
    n_workers = min(config.run.n_workers, len(jobs))
    function = process_map
    if progress_bar and n_workers == 1:
        function = functools.partial(process_map, progress_bar=True)
    return work_through(function, jobs, config, n_workers=max(n_workers, 1))


@contextlib.contextmanager
def _connection(config, executor):
    """
    Connect to the scheduler of the configuration, if there is one.
    """
    address = config.run.scheduler
    if executor is not None or address is None:
        yield executor
        return
    with contextlib.ExitStack() as stack:
        yield connect(stack, address)


def connect(stack, address):
    """
    Connect to a scheduler, or say in a line why that cannot be.

    Parameters
    ----------
    stack : `contextlib.ExitStack`
        Closes the connection.

    address : str
        The address, or the file that holds it.

    Returns
    -------
    client : ``distributed.Client``
        The client.

    Raises
    ------
    ConfigError
        If there is no such scheduler, or dask.distributed is missing.
    """
    from hyperphotutils.utils.executors import connect_scheduler

    try:
        return stack.enter_context(connect_scheduler(address))
    except (ImportError, ConnectionError) as exc:
        raise ConfigError([f'run.scheduler: {exc}']) from exc


def _record(outcomes, work, config, journal, origin):
    """
    Write the files of all maps, and the log of the run.
    """
    from hyperphotutils.pipeline import recording

    directory = Path(config.output.directory)
    outcomes = list(outcomes.values())
    problem = None
    try:
        if COMBINED in work.tables and any(not item.reason
                                           for item in outcomes):
            recording.write_combined(outcomes, directory)
            journal.finish(COMBINED)
        elif COMBINED in work.tables:
            journal.fail(COMBINED)
    except (ValueError, TypeError) as exc:
        problem = traceback.format_exc()
        journal.fail(COMBINED)
        msg = (f'{directory / COMBINED}: not written: {_reason(exc)}; the '
               'catalogs of the maps are there (details in '
               f'{directory / LOG})')
        raise PipelineError(msg) from exc
    finally:
        recording.write_run_log(outcomes, config, directory,
                                datetime.now(UTC), origin, problem=problem)


@contextlib.contextmanager
def _ended_in_words(directory, jobs, outcomes):
    """
    Say in a line why a run cannot go on, and how it can be continued.
    """
    try:
        yield
    except OSError as exc:
        n_done = sum(not item.reason for item in outcomes.values())
        number = _number_of(exc)
        advice = 'make room, and ' if number in _FULL else ''
        if isinstance(exc, ConnectionError | ChildProcessError):
            reason = str(exc)
        else:
            reason = (f'{exc.filename or directory}: cannot be written: '
                      f'{os.strerror(number) if number else exc}')
        msg = (f'{reason}; {n_done} of {len(jobs)} maps are done; {advice}'
               'the same command continues')
        raise PipelineError(msg) from exc


def _number_of(exc):
    """
    Find the number of an error; astropy tells of a full disk in words.
    """
    while exc is not None:
        if getattr(exc, 'errno', None):
            return exc.errno
        exc = exc.__cause__ or exc.__context__
    return None


def _outcome(job, future):
    """
    Tell what became of a map; what befalls all the others, too, is
    raised.
    """
    from hyperphotutils.utils.executors import (
        describe_death,
        error_of,
        was_killed,
    )

    exc = error_of(future)
    if exc is None:
        return future.result()
    if was_killed(exc):
        return MapOutcome(job, reason=f'{job.path}: {describe_death(exc)}')
    if isinstance(exc, ConnectionError) or (
            isinstance(exc, OSError) and _number_of(exc) in _FULL):
        raise exc
    reason = _reason(exc)
    plain = isinstance(exc, OSError) or type(exc).__name__ == 'MapError'
    if plain:
        details = None
        reason = advise(reason)
    else:
        details = ''.join(traceback.format_exception(exc))
        if not isinstance(exc, ValueError):
            reason = f'unexpected {type(exc).__name__}: {reason}'
        reason += f' (details in {job.folder.with_name(LOG)})'
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


def advise(reason):
    """
    Say what the options and keys are for the arguments and functions
    that an error of a reader names.

    Parameters
    ----------
    reason : str
        The error of `~hyperphotutils.maps.read_map` or
        `~hyperphotutils.maps.read_cube`.

    Returns
    -------
    reason : str
        The same in terms of the command line and the configuration.
    """
    # what is to be done in Python is for those who write it
    for mistake, advice in (
            ('a cube, not a map', 'on the command line: --datacube; in the '
             'configuration: input.datacube: true'),
            ('not a cube: NAXIS', 'in the configuration: input.datacube: '
             'false')):
        if mistake in reason:
            reason, _, _ = reason.partition('; read it with read_')
            return f'{reason} ({advice})'
    names = dict.fromkeys(
        re.findall(r'\b(unit|beam|survey|frequency|ext)=', reason))
    options = [f'--{name}' for name in names
               if name in {'unit', 'beam', 'survey', 'frequency'}]
    keys = [f'input.{"extension" if name == "ext" else name}'
            for name in names]
    told = [f'{where}: {", ".join(found)}'
            for where, found in (('on the command line', options),
                                 ('in the configuration', keys)) if found]
    return f'{reason} ({"; ".join(told)})' if told else reason
