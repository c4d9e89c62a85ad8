# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The processing of jobs: one by one, in parallel, or on a cluster.

`process_map` is the path of every job, whatever its kind: read, measure,
write the products, report. `process_maps` applies it to all maps that
earlier runs have not completed.

This module is light: what a job needs is imported when it is processed, so
that ``hyperphot --help`` is quick.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import os
import re
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hyperphotutils.pipeline.bands import check_bands, write_bands
from hyperphotutils.pipeline.config import (
    ConfigError,
    PipelineConfig,
    check_config,
)
from hyperphotutils.pipeline.folders import (
    OutputDirectory,
    describe_inputs,
    describe_settings,
    product_folder,
    remove_leftovers,
    write_record,
)
from hyperphotutils.pipeline.jobs import MapOutcome, PipelineError, plan_jobs
from hyperphotutils.pipeline.loading import load_config
from hyperphotutils.pipeline.products import (
    BANDS,
    BANDS_REPORT,
    COMBINED,
    DIAGNOSTICS,
    LOG,
    RECORD,
    REPORT,
    list_products,
    write_products,
)
from hyperphotutils.pipeline.progress import Stages
from hyperphotutils.pipeline.text import printable

if TYPE_CHECKING:
    from astropy.table import QTable

    from hyperphotutils.pipeline.jobs import MapJob
    from hyperphotutils.utils.typing import ExecutorLike, FilePath

__all__ = [
    'merge_outcomes',
    'process_map',
    'process_maps',
    'run',
]

# The kinds of jobs. A kind is a class, here by module and name, with
#
# * ``read(job, config)``, which returns the data, and
# * ``measure(data, job, config, folder, *, executor, progress_bar,
#   report)``, which returns the result.
#
# Its ``keeps_parts`` says, after reading, whether the folder is kept for the
# next run if the measurement is interrupted.
#
# A result has the attributes that its products need (see products.py), its
# main table in the file ``table_name``, ``numbers`` and ``summary`` for the
# outcome, ``times`` of its steps, ``describe()`` for the log, and the text
# ``earlier`` on the part that an earlier run has completed.
_KINDS = {
    'map': ('hyperphotutils.pipeline.extraction', 'MapKind'),
    'cube': ('hyperphotutils.pipeline.cubes', 'CubeKind'),
    'subtraction': ('hyperphotutils.pipeline.subtraction',
                    'SubtractionKind'),
    **dict.fromkeys(('sky', 'psf', 'stamps', 'galaxies'), (
        'hyperphotutils.pipeline.galaxies', 'ImageKind')),
}

# The kinds whose parts, instead of jobs, are processed in parallel
_IN_PARTS = frozenset({'cube'})

# Output errors that end the whole run
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})

# The threads of an executor share warnings and the working folder.
_ONE_AT_A_TIME = threading.Lock()


def run(config: FilePath | PipelineConfig | None = None, *,
        executor: ExecutorLike | None = None) -> QTable:
    """
    Extract the sources of all maps of a configuration, and write them.

    Parameters
    ----------
    config : str, path-like, `PipelineConfig` or `None`, optional
        The configuration, or the YAML file that contains it, in the
        format of this package or of Hyper-py. If `None` (default), the
        file found by `find_config`, or the built-in defaults.

    executor : `~concurrent.futures.Executor` or `None`, optional
        The executor to use instead of ``run.n_workers`` processes, see
        `process_maps`.

    Returns
    -------
    table : `~astropy.table.QTable`
        The sources; for several maps, all in one table with the column
        ``map_id``.

    Raises
    ------
    ConfigError
        If the configuration cannot be used.

    OutputError
        If the output exists already or cannot be written.

    PipelineError
        If all maps have failed, or the disk is full.

    Warns
    -----
    `~astropy.utils.exceptions.AstropyUserWarning`
        If some of the maps failed: one warning that names them all. If
        the configuration is one of Hyper-py: one that states this, and
        which of its keys are not supported.

    Notes
    -----
    With ``run.n_workers`` above 1, the maps are processed in separate
    processes. Workers do not import the main script, so that no
    ``if __name__ == '__main__'`` guard is needed.

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
    'overview.png', 'rejected.ecsv', 'rejected.reg', 'report.html', 'run.json',
    'run.log']
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
    from hyperphotutils.pipeline.logs import combine_outcomes

    return combine_outcomes(outcomes)


def process_maps(config: PipelineConfig, *, progress_bar: bool = False,
                 origin: str | None = None,
                 executor: ExecutorLike | None = None,
                 report: Callable | None = None) -> list[MapOutcome]:
    """
    Process all maps that earlier runs have not completed.

    Parameters
    ----------
    config : `PipelineConfig`
        The configuration.

    progress_bar : bool, optional
        Whether to show a progress bar.

    origin : str, optional
        The origin of the configuration, for the log.

    executor : `~concurrent.futures.Executor` or `None`, optional
        The executor that processes the maps: any object with its method
        ``submit``, or a client of dask.distributed whose workers have
        access to the same files under the same names. With `None`
        (default), the cluster of ``run.scheduler``, or
        ``run.n_workers`` processes.

    report : callable, optional
        Called with a line before the processing if an earlier run has
        completed some of the maps, and for each cube of which it has
        completed a part.

    Returns
    -------
    outcomes : list of `MapOutcome`
        The outcome of each map, in the order of the maps. An error of
        one map does not affect the others.

    Raises
    ------
    ConfigError
        If there is no map, a map is named twice, or the scheduler does
        not answer.

    OutputError
        If the output exists already and was not made by the same
        configuration from the same files, or cannot be written.

    PipelineError
        If the run cannot go on, for example because the disk is full.

    Notes
    -----
    Maps that an earlier run has completed, with the same configuration
    and from the same files, are not processed again.
    """
    jobs = plan_jobs(config)
    if config.merges_bands:
        check_bands(config, len(jobs))
    if any(job.psf is not None for job in jobs):
        from hyperphotutils.pipeline.beams import check_psfs

        check_psfs(config, jobs)
    with OutputDirectory(config.output.directory) as output:
        work = output.find_work(jobs, config)
        outcomes = {job.map_id: MapOutcome(
            job, earlier=True, **{name: work.done[job.map_id][name] for name
                                  in ('summary', 'numbers', 'table_name')})
            for job in jobs if job.map_id in work.done}
        if work.done and work.todo and report is not None:
            report(f'continuing: {len(work.done)} of {len(jobs)} '
                   f'{config.noun}s are done already')
        if work.todo or work.tables:
            remove_leftovers(output.path)
            with open_executor(config, executor) as workers, \
                    _explain_errors(output.path, jobs, outcomes,
                                   config.noun):
                output.begin(work)
                _process(work, config, outcomes, workers, progress_bar, report)
                _write_tables([outcomes[job.map_id] for job in jobs], work,
                              config, output, origin)
                output.end(work)
    return [outcomes[job.map_id] for job in jobs]


def process_map(job: MapJob, config: PipelineConfig, *,
                executor: ExecutorLike | None = None,
                progress_bar: bool = False,
                report: Callable | None = None) -> MapOutcome:
    """
    Measure one map or cube and write its products.

    Parameters
    ----------
    job : `MapJob`
        The map.

    config : `PipelineConfig`
        The configuration.

    executor : `~concurrent.futures.Executor` or `None`, optional
        The executor that processes the channels of a cube, instead of
        ``run.n_workers`` processes.

    progress_bar : bool, optional
        Whether to show the progress of fits, channels, and figures.

    report : callable, optional
        Called with a line if an earlier run has completed a part of a
        cube.

    Returns
    -------
    outcome : `MapOutcome`
        The outcome.

    Raises
    ------
    ~hyperphotutils.maps.MapError
        If the map cannot be used.

    ValueError
        If the configuration is not suitable for the map.

    OSError
        If the products cannot be written. The channels of a cube that
        are completed are kept for the next run.
    """
    from hyperphotutils.pipeline.logs import summarize, write_log
    from hyperphotutils.utils.executors import one_blas_thread
    from hyperphotutils.utils.tables import result_meta

    start = time.perf_counter()
    stages = Stages(('read', 'measure', 'write'), progress_bar)
    module, name = _KINDS[job.kind]
    kind = getattr(importlib.import_module(module), name)()
    # before the files are read, so that later changes are noticed
    record = {'settings': describe_settings(config),
              'inputs': describe_inputs(job, config)}
    with (warnings.catch_warnings(record=True) as caught, stages,
          one_blas_thread()):
        warnings.simplefilter('always')
        stages.begin('read')
        data = kind.read(job, config)
        times = {'reading': time.perf_counter() - start}
        before = time.perf_counter()
        with product_folder(job, record, keep=kind.keeps_parts) as folder:
            stages.begin('measure')
            result = kind.measure(data, job, config, folder,
                                  executor=executor,
                                  progress_bar=progress_bar, report=report)
            times |= (result.times
                      or {'measuring': time.perf_counter() - before})
            stages.begin('write')
            before = time.perf_counter()
            write_products(result, job, config, folder,
                           progress_bar=progress_bar)
            times['writing'] = time.perf_counter() - before
            seconds = time.perf_counter() - start
            outcome = MapOutcome(
                job, summary=summarize(result, caught, seconds),
                numbers=result.numbers | {'seconds': round(seconds, 2)},
                table_name=result.table_name)
            write_log(folder / LOG, job, result, config, caught, times)
            if REPORT in (product.name for product
                          in list_products(job, config)):
                from hyperphotutils.pipeline.pages import write_page

                write_page(folder / REPORT, result, job)
            write_record(folder / RECORD, record | {
                'versions': result_meta()['version'],
                'finished': datetime.now(UTC).isoformat(),
                'summary': outcome.summary, 'numbers': outcome.numbers,
                'table_name': outcome.table_name})
    return outcome


def _process(work, config, outcomes, executor, progress_bar, report):
    """
    Process the maps that are left, and add their outcomes.
    """
    from tqdm import tqdm

    from hyperphotutils.utils.executors import work_through

    jobs = work.todo
    several = progress_bar and len(jobs) > 1
    function, shared, options = process_map, [config], {}
    if any(job.kind in _IN_PARTS for job in jobs) or (
            executor is not None and len(jobs) == 1
            and _is_in_tiles(jobs[0], config)):
        # one by one: the executor processes their parts
        function = functools.partial(
            process_map, executor=executor, report=report,
            progress_bar=progress_bar and not several)
    elif executor is not None:
        function, options = _process_elsewhere, {'executor': executor}
        shared.append(str(Path.cwd()))
    else:
        n_workers = max(1, min(config.run.n_workers, len(jobs)))
        options['n_workers'] = n_workers
        if n_workers == 1 and getattr(config.output, 'overview', False):
            # Exceptions within these imports keep the frames of all callers,
            # and so the images of a map, until garbage is collected.
            import astropy.visualization.wcsaxes  # noqa: F401
            import matplotlib.backends.backend_agg  # noqa: F401
        if progress_bar and not several:
            function = functools.partial(process_map, progress_bar=True)
    try:
        with (contextlib.closing(work_through(function, jobs, *shared,
                                              **options)) as pairs,
              tqdm(total=len(jobs), unit=config.noun,
                   disable=not several) as bar):
            for job, future in pairs:
                outcomes[job.map_id] = outcome = _outcome(job, future)
                if COMBINED in work.tables:
                    # read it while other maps are processed
                    _ = outcome.table
                bar.update()
    finally:
        remove_leftovers(Path(config.output.directory))


def _is_in_tiles(job, config):
    """
    Whether a map is measured in tiles.
    """
    from hyperphotutils.pipeline.extraction import choose_tile_size

    return choose_tile_size(job, config).size > 0


def _process_elsewhere(job, config, cwd):
    """
    Process a map in the working folder of the run, in any process.
    """
    with _ONE_AT_A_TIME, contextlib.chdir(cwd):
        return process_map(job, config)


def _outcome(job, future):
    """
    Return the outcome of a map; re-raise errors that concern all maps.
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
            isinstance(exc, OSError) and _errno_of(exc) in _FULL):
        raise exc
    reason, details = _reason(exc), None
    if isinstance(exc, OSError) or type(exc).__name__ == 'MapError':
        reason = advise(reason)
    else:
        details = ''.join(traceback.format_exception(exc))
        if not isinstance(exc, ValueError):
            reason = f'unexpected {type(exc).__name__}: {reason}'
        reason += f' (details in {job.folder.with_name(LOG)})'
    if job.path not in reason:
        reason = f'{job.path}: {reason}'
    return MapOutcome(job, reason=reason, details=details)


def _write_tables(outcomes, work, config, output, origin):
    """
    Write the tables of all maps, and the log of the run.
    """
    from hyperphotutils.pipeline import logs

    problem = None
    # write nothing if all maps failed, so that the settings can be changed
    any_done = any(not item.reason for item in outcomes)
    if REPORT in work.tables and any_done:
        from hyperphotutils.pipeline.pages import write_run_page

        write_run_page(output.path / REPORT, outcomes)
        output.finish_table(REPORT)
    try:
        for name in (COMBINED, DIAGNOSTICS):
            if name in work.tables and (any_done or name == DIAGNOSTICS):
                logs.write_tables(outcomes, output.path,
                                  combine=name == COMBINED)
                output.finish_table(name)
    except (ValueError, TypeError) as exc:
        problem = traceback.format_exc()
        msg = (f'{output.path / COMBINED}: not written: {_reason(exc)}; the '
               'catalogs of the maps are there (details in '
               f'{output.path / LOG})')
        raise PipelineError(msg) from exc
    finally:
        output.append_to_log(logs.run_log(outcomes, config, origin,
                                          problem=problem))


def merge_outcomes(outcomes: Sequence[MapOutcome], config: PipelineConfig, *,
                   progress_bar: bool = False) -> tuple[QTable, Path]:
    """
    Merge the catalogs of a run into one catalog of several bands.

    Parameters
    ----------
    outcomes : list of `MapOutcome`
        The outcomes of the maps, as `process_maps` returns them.

    config : `PipelineConfig`
        The configuration.

    progress_bar : bool, optional
        Whether to show a progress bar.

    Returns
    -------
    table : `~astropy.table.QTable`
        A row for each source, see `merge_bands`. If an earlier run has
        written it, it is read.

    path : `~pathlib.Path`
        The file with the table.

    Raises
    ------
    PipelineError
        If the catalogs cannot be merged.
    """
    from hyperphotutils.catalog import read_catalog

    with OutputDirectory(config.output.directory) as output:
        path, page = output.path / BANDS, output.path / BANDS_REPORT
        done = output.tables.get(BANDS, {}).get('done') and path.exists()
        if done and (page.exists() or not config.writes_pages):
            return read_catalog(path), path
        try:
            table = read_catalog(path) if done else write_bands(
                outcomes, config, path, progress_bar=progress_bar)
            if config.writes_pages:
                from hyperphotutils.pipeline.pages import write_bands_page

                write_bands_page(page, table)
        except (ValueError, OSError) as exc:
            msg = f'{path}: not written: {_reason(exc)}'
            raise PipelineError(msg) from exc
        output.finish_table(BANDS)
    return table, path


@contextlib.contextmanager
def open_executor(config, executor=None):
    """
    Yield the executor, by default the cluster of the configuration, or
    `None` if there is none.
    """
    with contextlib.ExitStack() as stack:
        if executor is None and config.run.scheduler is not None:
            from hyperphotutils.utils.executors import connect_scheduler

            try:
                executor = stack.enter_context(
                    connect_scheduler(config.run.scheduler))
            except (ImportError, ConnectionError) as exc:
                raise ConfigError([f'run.scheduler: {exc}']) from exc
        yield executor


@contextlib.contextmanager
def _explain_errors(directory, jobs, outcomes, noun):
    """
    Explain why a run cannot go on, and how it can be continued.
    """
    try:
        yield
    except OSError as exc:
        n_done = sum(not item.reason for item in outcomes.values())
        number = _errno_of(exc)
        advice = 'make room, and ' if number in _FULL else ''
        if isinstance(exc, ConnectionError | ChildProcessError):
            reason = str(exc)
        else:
            reason = (f'{exc.filename or directory}: cannot be written: '
                      f'{os.strerror(number) if number else exc}')
        msg = (f'{reason}; {n_done} of {len(jobs)} {noun}s are done; '
               f'{advice}rerun the same command to continue')
        raise PipelineError(msg) from exc


def _errno_of(exc):
    """
    Return the errno of a system error, which astropy may wrap.
    """
    while exc is not None:
        if getattr(exc, 'errno', None):
            return exc.errno
        exc = exc.__cause__ or exc.__context__
    return None


def _reason(exc):
    """
    Return the message of an error in one line.
    """
    if isinstance(exc, OSError) and exc.strerror:
        name = f'{exc.filename}: ' if exc.filename else ''
        return f'{name}{exc.strerror}'
    return ' '.join(str(exc).split()) or type(exc).__name__


def advise(reason):
    """
    Replace the reader arguments named in an error message by the options
    and keys that set them.
    """
    for mistake, advice in (
            ('a cube, not a map', 'on the command line: --datacube; in the '
             'configuration: input.datacube: true'),
            ('not a cube: NAXIS', 'in the configuration: input.datacube: '
             'false')):
        if mistake in reason:
            reason, _, _ = reason.partition('; read it with read_')
            return f'{reason} ({advice})'
    # without option
    reason = re.sub(r'\bext=', 'input.extension', reason)
    arguments = r'\b(unit|beam|survey|frequency)='
    names = dict.fromkeys(re.findall(arguments, reason))
    if not names:
        return reason
    # an option keeps the equals sign before a value
    reason = re.sub(rf"{arguments}(?=['\d])", r'--\1=', reason)
    reason = re.sub(rf'(?<!-){arguments}', r'--\1', reason)
    reason = reason.replace(' (a radio_beam.Beam or a FWHM)', '')
    keys = ', '.join(f'input.{name}' for name in names)
    return f'{reason} (in the configuration: {keys})'
