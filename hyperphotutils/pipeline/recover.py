# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The command ``hyperphot recover``: completeness and reliability of a map.

This module is imported by ``hyperphot --help``: whatever needs numpy is
imported in the functions that use it.
"""

import contextlib
import math
import os
import shutil
import warnings
from pathlib import Path

from hyperphotutils.pipeline.config import ConfigError
from hyperphotutils.pipeline.folders import remove_leftovers, scratch_folder
from hyperphotutils.pipeline.jobs import OutputError, PipelineError
from hyperphotutils.pipeline.process import advise, open_executor
from hyperphotutils.pipeline.text import expand_path, printable

__all__ = ['recover_map', 'summarize_recovery']

_TABLE, _INJECTED, _PICTURE, _PAGE = _FILES = (
    'recovery.ecsv', 'injected.ecsv', 'completeness.png', 'report.html')

# The columns of the injected sources on the page.
_SHOWN = ('id', 'recovered', 'flux_true', 'flux_fit', 'flux_err',
          'aperture_flux', 'aperture_flux_err', 'snr_true', 'snr', 'x_true',
          'y_true', 'distance', 'known_distance', 'flags')

# Number of sources for an error of a completeness of 50 % below 10 %: the
# binomial error sqrt(p (1 - p) / n) is 9 %
_ENOUGH = 30


def recover_map(path, config, directory, *, overwrite=False,
                progress_bar=False, **kwargs):
    """
    Inject sources into a map, recover them, and write the results.

    Parameters
    ----------
    path : str or path-like
        The FITS file.

    config : `~hyperphotutils.pipeline.PipelineConfig`
        The configuration of the extraction. With ``run.detection_only``
        sources are only detected.

    directory : str or path-like
        The folder in which ``recovery.ecsv``, ``injected.ecsv``,
        ``completeness.png``, and ``report.html`` are written.

    overwrite : bool, optional
        Whether these files may be replaced.

    progress_bar : bool, optional
        Whether to show a progress bar.

    **kwargs
        More arguments of
        `~hyperphotutils.photometry.InjectionRecovery`.

    Returns
    -------
    result : `~hyperphotutils.photometry.RecoveryResult`
        The result.

    Raises
    ------
    ConfigError
        If the configuration has known sources or a map of weights.

    OutputError
        If the files already exist, and then they are not changed, or if
        they cannot be written.

    PipelineError
        If the map cannot be used.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from hyperphotutils.datasets import make_blended_map
    >>> from hyperphotutils.pipeline import PipelineConfig
    >>> from hyperphotutils.pipeline.recover import recover_map
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, 'map.fits')
    ...     make_blended_map((100, 100), 8, seed=1).write(path)
    ...     result = recover_map(path, PipelineConfig(),
    ...                          Path(folder, 'recovery'), n_repeats=2,
    ...                          seed=1)
    ...     sorted(item.name for item in Path(folder, 'recovery').iterdir())
    ['completeness.png', 'injected.ecsv', 'recovery.ecsv', 'report.html']
    """
    if config.sources.given:
        msg = ('sources: recovery tests the detection; it cannot be used '
               'with known sources')
        raise ConfigError([msg])
    if config.fit.weight_map is not None:
        msg = ('fit.weight_map: recovery cannot use maps of weights; remove '
               'this key and the weights that need it')
        raise ConfigError([msg])
    try:
        path, directory = expand_path(path), Path(expand_path(directory))
    except ValueError as exc:
        raise ConfigError([str(exc)]) from exc
    existing = [directory / name for name in _FILES
                if os.path.lexists(directory / name)]
    if existing and not overwrite:
        msg = (f'{existing[0]}: already exists; use --overwrite to replace '
               'it, or choose another --output-dir')
        raise OutputError(msg)
    with _scratch_folder(directory) as scratch:
        result = _recover(path, config, progress_bar=progress_bar, **kwargs)
        try:
            _write(result, scratch, title=printable(Path(path).name))
            for name in _FILES:
                (scratch / name).replace(directory / name)
        except OSError as exc:
            msg = f'{directory}: cannot be written: {exc.strerror or exc}'
            raise OutputError(msg) from exc
    return result


def summarize_recovery(result):
    """
    Return the lines of a summary of the result.
    """
    table = result.table
    lines = result.summary().splitlines()
    if result.curve is None:
        lines[1] += ' (--snr)'
    fewest = int(table['n_injected'].min())
    if fewest < _ENOUGH:
        n_repeats = math.ceil(table.meta['n_repeats'] * _ENOUGH
                              / max(1, fewest))
        lines.append(f'too few sources: with fewer than {_ENOUGH} in a bin, '
                     'the error of its completeness is above 10 %; use '
                     f'--n-repeats {n_repeats}, or a smaller range (--snr)')
    return lines


@contextlib.contextmanager
def _scratch_folder(directory):
    """
    Make the folder and a temporary one in it; remove empty folders at
    the end.
    """
    made = [path for path in (directory, *directory.parents)
            if not path.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        remove_leftovers(directory)
        scratch = scratch_folder(directory / 'recover')
        # a killed process may have had the same number
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
    except OSError as exc:
        msg = f'{directory}: cannot be written: {exc.strerror}'
        raise OutputError(msg) from exc
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        for path in made:
            # fails unless the folder is empty
            with contextlib.suppress(OSError):
                path.rmdir()


def _recover(path, config, **kwargs):
    """
    Read the map, make the extractor, and run the recovery.
    """
    from hyperphotutils.photometry import InjectionRecovery
    from hyperphotutils.pipeline.extraction import read_input

    try:
        image = read_input(path, config.input, psf=config.input.psf)
        extractor = (config.make_finder(image) if config.run.detection_only
                     else config.make_photometry(image))
        with open_executor(config) as executor, warnings.catch_warnings():
            # the summary reports it
            warnings.filterwarnings('ignore', 'no curve of the completeness')
            return InjectionRecovery(extractor, executor=executor, **kwargs)(
                image, psf=image.meta.get('psf'))
    except ConfigError:
        raise
    except OSError as exc:
        msg = f'{path}: {exc.strerror or exc}'
        raise PipelineError(msg) from exc
    except (ValueError, RuntimeError) as exc:
        reason = ' '.join(str(exc).split())
        if 'a cube, not a map' in reason:
            reason, _, _ = reason.partition('; read it with')
            reason += '; recovery needs a plane of it in a file of its own'
        elif type(exc).__name__ == 'MapError':
            reason = advise(reason)
        msg = reason if str(path) in reason else f'{path}: {reason}'
        raise PipelineError(msg) from exc


def _write(result, folder, *, title):
    """
    Write the files.
    """
    from matplotlib.figure import Figure

    from hyperphotutils.catalog import write_catalog

    write_catalog(result.table, folder / _TABLE)
    write_catalog(result.injected, folder / _INJECTED)
    figure = Figure(figsize=(6.0, 8.0), layout='constrained')
    result.plot(figure=figure)
    # (a dollar sign in a name does not start a formula)
    figure.suptitle(title, parse_math=False)
    figure.savefig(folder / _PICTURE, dpi=110)
    (folder / _PAGE).write_text(_make_page(result, title), encoding='utf-8')


def _make_page(result, title):
    """
    Return a web page with the results and all injected sources.
    """
    import numpy as np

    from hyperphotutils.catalog.units import to_readable_units
    from hyperphotutils.visualization import make_report

    table = to_readable_units(result.table)
    against = {'x': table['flux'].value, 'x_log': True,
               'x_label': f'flux ({table["flux"].unit})'}
    summary = result.summary()
    # the last lines are a table of the bins
    recovered, *curve = summary.splitlines()[:-len(table) - 1]
    facts = {'sources': recovered, 'curve': '; '.join(curve)}
    injected = to_readable_units(result.injected)
    return make_report(
        injected[[name for name in _SHOWN if name in injected.colnames]],
        title=f'Completeness of {title}', facts=facts, charts={
            'Completeness and reliability': {
                **against, 'y_label': 'fraction', 'y': {
                    name: np.asarray(table[name])
                    for name in ('completeness', 'reliability')}},
            'Flux: (measured - true) / true': {
                **against, 'y_label': '%', 'y': {
                    name: 100.0 * np.asarray(table[f'flux_{name}'])
                    for name in ('bias', 'scatter')}},
            'Flux: (measured - true) / error': {
                **against, 'y_label': 'pull', 'y': {
                    name: np.asarray(table[f'flux_pull_{name}'])
                    for name in ('median', 'scatter')}}},
        texts={'Summary': summary})
