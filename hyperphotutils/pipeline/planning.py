# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Which maps a run has, where their products go, what became of them, and
what of it is left to do.
"""

import contextlib
import glob
import hashlib
import os
import re
import shutil
import socket
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from hyperphotutils.pipeline.config import ConfigError
from hyperphotutils.pipeline.resume import (
    Journal,
    describe_files,
    describe_settings,
    find_differences,
)
from hyperphotutils.pipeline.text import expand_path, read_text

__all__ = [
    'MapJob',
    'MapOutcome',
    'OutputError',
    'PipelineError',
    'expand_maps',
    'plan_jobs',
]

# Files of all maps
COMBINED, DIAGNOSTICS = 'catalog_all.ecsv', 'diagnostics.ecsv'
BANDS = 'catalog_bands.ecsv'
LOG, JOURNAL = 'run.log', 'journal.log'
_RESERVED = frozenset({COMBINED, DIAGNOSTICS, BANDS, LOG, JOURNAL})

# All that a map's folder can hold; only such folders are ever replaced
_PRODUCTS = frozenset({
    'catalog.ecsv', 'catalog.ipac', 'catalog.csv', 'ellipses.reg',
    'centroids.reg', 'rejected.ecsv', 'rejected.reg', 'overview.png', LOG,
    # of cubes
    'background.fits', 'subtracted.fits', 'channels.ecsv',
})
# Folders in it, and what these can hold
_PRODUCT_FOLDERS = frozenset({
    'fits_groups', 'fits_sources', 'plots_groups', 'plots_sources',
    'plots_backgrounds',
})
_CUTOUT = re.compile(r'(group|source)_\d+\.(fits|png)')

# What a name of a folder and of a column must not have. A '$' begins a
# formula in the title of a picture.
_UNSAFE = re.compile(r"""[\\/:*?"'<>|$`]|^[\s#~=@+-]+|[\s.]+$""")
# A temporary name, of up to 255 bytes, is the name of a map and more
_MAX_NAME = 120

_SUFFIXES = ('.gz', '.fz', '.bz2', '.xz', '.z', '.fits', '.fit', '.fts')
_LISTS = ('.txt', '.lst', '.list')

# A folder that a process writes to, and the older one that it replaces
_SCRATCH = re.compile(
    r'\.(?P<name>.+)\.(?P<pid>\d+)@(?P<host>[^@]+)\.(partial|old)')

_REMEDY = ('do it again by --overwrite (output.overwrite), or choose another '
           '--output-dir (output.directory)')


class OutputError(OSError):
    """
    The output cannot be written, or there is something in its place.

    Nothing was done, and nothing was touched, when this is raised.
    """


class PipelineError(RuntimeError):
    """
    No map of a run could be done, or the run could not go on.
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
        Characters that cannot be in a table or a folder are replaced,
        and the name then ends with a code.

    folder : `~pathlib.Path`
        The folder of the products.
    """

    path: str
    map_id: str
    folder: Path


@dataclass(frozen=True)
class MapOutcome:
    """
    What became of one map.

    Parameters
    ----------
    job : `MapJob`
        The map.

    summary : str
        A line on what was found.

    numbers : dict
        The same as numbers: ``n_detected``, ``n_companions``,
        ``n_rejected``, ``n_measured``, ``rms`` (in Jy/pixel), and
        ``seconds``.

    reason : str or `None`
        A line on why the map failed.

    details : str or `None`
        The traceback of an error that nobody expected.

    earlier : bool
        Whether it was done by an earlier run.
    """

    job: MapJob
    summary: str = ''
    numbers: dict = field(default_factory=dict)
    reason: str | None = None
    details: str | None = None
    earlier: bool = False

    @cached_property
    def table(self):
        """
        The sources, read from ``catalog.ecsv``, or the channels of a
        cube of which only the backgrounds were estimated, from
        ``channels.ecsv``; `None` if the map failed.
        """
        if self.reason:
            return None
        from hyperphotutils.catalog import read_catalog

        path = self.job.folder / 'catalog.ecsv'
        return read_catalog(path if path.exists()
                            else path.with_name('channels.ecsv'))


class Work(NamedTuple):
    """
    What is left to do of a run.

    Parameters
    ----------
    todo : list of `MapJob`
        The maps that are to be done.

    tables : set of str
        Which of the files of all maps are to be written.

    settings, items : dict
        What `Journal.begin` is told of them.
    """

    todo: list
    tables: set
    settings: dict
    items: dict


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
    maps = expand_maps(config.input.maps)
    if not maps:
        raise ConfigError(['input.maps: no map is given'])
    resolved = [os.path.realpath(path) for path in maps]
    # a link has the name that it was given
    named = [Path(os.path.abspath(path)) for path in maps]  # noqa: PTH100
    known = set()
    for path, place in zip(maps, resolved, strict=True):
        if place in known:
            raise ConfigError([f'{path}: this map is named twice'])
        known.add(place)
    directory = Path(config.output.directory)
    return [MapJob(path=path, map_id=map_id, folder=directory / map_id)
            for path, map_id in zip(maps, _map_ids(named), strict=True)]


def expand_maps(maps):
    """
    Replace lists and patterns by the files that they name.

    Parameters
    ----------
    maps : list of str
        FITS files; patterns such as ``'*/250um.fits'`` (``**`` for any
        folders); and text files, ``'@name'`` or with the suffix
        ``.txt``, ``.lst`` or ``.list``, with one of the former in a
        line, relative to the working folder. ``#`` begins a comment. A
        leading ``~`` and environment variables (``$NAME``) are
        expanded.

    Returns
    -------
    files : list of str
        The files, those of a pattern sorted by name.

    Raises
    ------
    ConfigError
        If a list cannot be read or is empty, a pattern matches no
        file, or a user or an environment variable is not known.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from hyperphotutils.pipeline import expand_maps
    >>> with TemporaryDirectory() as folder:
    ...     for name in ('b.fits', 'a.fits'):
    ...         Path(folder, name).touch()
    ...     files = expand_maps([f'{folder}/*.fits'])
    >>> [Path(file).name for file in files]
    ['a.fits', 'b.fits']
    """
    files = []
    for name in maps:
        if name.startswith('@') or name.lower().endswith(_LISTS):
            path = _expand(name.removeprefix('@'), 'input.maps')
            for line in _read_list(path):
                files += _match(_expand(line, path))
        else:
            files += _match(_expand(name, 'input.maps'))
    return files


def _expand(name, where):
    try:
        return expand_path(name)
    except ValueError as exc:
        raise ConfigError([f'{where}: {exc}']) from exc


def _read_list(path):
    """
    Read the lines of a text file, without comments.
    """
    try:
        text = read_text(path)
    except OSError as exc:
        msg = f'{path}: the list of maps cannot be read: {exc.strerror}'
        raise ConfigError([msg]) from exc
    except UnicodeDecodeError as exc:
        msg = f'{path}: not a list of maps: no text in UTF-8'
        raise ConfigError([msg]) from exc
    except ValueError as exc:
        raise ConfigError([f'{path}: not a list of maps: {exc}']) from exc
    # (str.splitlines would split at characters that a name may have)
    lines = [re.sub(r'(^|[ \t])#.*', '', line).strip(' \t\r')
             for line in text.split('\n')]
    lines = [line for line in lines if line]
    if not lines:
        raise ConfigError([f'{path}: the list names no map'])
    return lines


def _match(name):
    """
    List the files that match, if it is a pattern and not itself a file.
    """
    if not glob.has_magic(name) or os.path.lexists(name):
        return [name]
    # (a pattern of pathlib is never absolute)
    found = sorted(glob.glob(name, recursive=True))  # noqa: PTH207
    if not found:
        raise ConfigError([f'{name}: no file matches this pattern'])
    return [expand_path(f'./{path}') if path.startswith('~') else path
            for path in found]


def find_work(jobs, config, journal):
    """
    Find what is left to do, and refuse what may not be replaced.

    Parameters
    ----------
    jobs : list of `MapJob`
        All maps of the run.

    config : `PipelineConfig`
        The configuration.

    journal : `~hyperphotutils.pipeline.resume.Journal`
        What earlier runs have done.

    Returns
    -------
    work : `Work`
        What is left to do.

    Raises
    ------
    OutputError
        If there is something in the place of what is to be written.

    Notes
    -----
    ``output.overwrite`` does all again, unless an earlier run of the
    same was killed or stopped: then that one is continued.
    """
    settings = describe_settings(config, sections=[
        name for name in type(config).model_fields if name != 'bands'])
    items = {job.map_id: _describe_inputs(job, config) for job in jobs}
    tables = _describe_tables(jobs, config)
    items |= tables
    overwrite = config.output.overwrite
    if not overwrite:
        _refuse_replacing(jobs, settings, items, tables, journal)
    main = ('channels.ecsv' if config.run.background_only
            else 'catalog.ecsv')
    places = {job.map_id: job.folder / main for job in jobs}
    places |= {name: Path(config.output.directory, name) for name in tables}
    same = [name for name in items if name in journal.items
            and not journal.find_differences(name, settings, items[name])]
    done = {name for name in same if journal.items[name].state == 'done'
            and places[name].exists()}
    if overwrite and all(journal.items[name].state != 'begun'
                         for name in same):
        done = set()
    todo = [job for job in jobs if job.map_id not in done]
    for job in todo:
        _check_ours(job.folder)
    _refuse_replacing_inputs(todo, tables, config)
    left = {name for name in tables if todo or name not in done}
    names = [*(job.map_id for job in todo), *left]
    return Work(todo, left, settings, {name: items[name] for name in names})


def _describe_inputs(job, config):
    """
    Describe the files that a map's result depends on.
    """
    others = (config.sources.table, config.fit.weight_map,
              config.cubes.region)
    return describe_files(job.path, *filter(None, others))


def _refuse_replacing_inputs(jobs, tables, config):
    """
    Refuse to write to the place of a file that is read.
    """
    others = (config.sources.table, config.fit.weight_map,
              config.cubes.region)
    inputs = [Path(os.path.realpath(path)) for path in (
        *(job.path for job in jobs), *filter(None, others))]
    directory = Path(os.path.realpath(config.output.directory))
    outputs = {directory / job.folder.name for job in jobs}
    outputs |= {directory / name for name in (*tables, DIAGNOSTICS, LOG)}
    for path in inputs:
        if outputs & {path, *path.parents}:
            msg = (f'{path}: is read by this run, which would replace it; '
                   'choose another --output-dir (output.directory)')
            raise OutputError(msg)


def _describe_tables(jobs, config):
    """
    Describe what the files of all maps depend on, beside the settings.
    """
    maps = {'maps': [job.map_id for job in jobs]}
    tables = {}
    if len(jobs) > 1 and not config.run.background_only:
        tables[COMBINED] = maps
    if config.bands.merge:
        tables[BANDS] = maps | describe_settings(config, sections=['bands'])
    return tables


def _refuse_replacing(jobs, settings, items, tables, journal):
    """
    Refuse to touch what is there and was not made by the same command.
    """
    strange, changed, differences = [], [], []
    for job in jobs:
        if not os.path.lexists(job.folder):
            continue
        item = journal.items.get(job.map_id)
        if item is None or item.state == 'failed':
            strange.append(job.folder)
            continue
        found = journal.find_differences(job.map_id, settings,
                                         items[job.map_id])
        if found:
            changed.append(job.folder)
            differences += found
    for name, inputs in tables.items():
        path = jobs[0].folder.with_name(name)
        item = journal.items.get(name)
        if os.path.lexists(path) and item is None:
            strange.append(path)
        elif os.path.lexists(path):
            found = _table_differences(item, settings, inputs)
            changed += [path] if found else []
            differences += found
    if strange:
        msg = f'{_first_of(strange)}: exists already; {_REMEDY}'
        raise OutputError(msg)
    if changed:
        told = list(dict.fromkeys(differences))
        more = f'; and {len(told) - 5} more' if len(told) > 5 else ''
        msg = (f'{_first_of(changed)}: made by another run: '
               f'{"; ".join(told[:5])}{more}; {_REMEDY}')
        raise OutputError(msg)


def _table_differences(item, settings, inputs):
    """
    Say what differs for a file of all maps; it may get more maps.
    """
    gone = [name for name in item.inputs['maps']
            if name not in inputs['maps']]
    differences = find_differences(item.settings, settings)
    differences += find_differences(item.inputs | {'maps': inputs['maps']},
                                    inputs)
    if gone:
        differences.append(f'it has maps that are not among those given '
                           f'now: {", ".join(gone[:5])}')
    return differences


def _first_of(paths):
    more = f' (and {len(paths) - 1} more)' if len(paths) > 1 else ''
    return f'{paths[0]}{more}'


@contextlib.contextmanager
def open_journal(directory):
    """
    Open the journal of a folder of products, if there is none other who
    works in it.

    A context manager.

    Parameters
    ----------
    directory : `~pathlib.Path`
        The folder; it need not exist.

    Yields
    ------
    journal : `~hyperphotutils.pipeline.resume.Journal`
        The journal.

    Raises
    ------
    OutputError
        If it cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        try:
            journal = stack.enter_context(Journal(directory / JOURNAL))
        except OSError as exc:
            msg = f'{exc.filename}: {exc.strerror}'
            raise OutputError(msg) from exc
        try:
            yield journal
        finally:
            if not any(os.path.lexists(directory / name)
                       for name in journal.items):
                journal.remove()


@contextlib.contextmanager
def leave_none_empty(directory):
    """
    Remove those folders in the end that were made and stay empty.

    A context manager.

    Parameters
    ----------
    directory : `~pathlib.Path`
        A folder, which may be made meanwhile.
    """
    missing = [path for path in (directory, *directory.parents)
               if not path.exists()]
    try:
        yield
    finally:
        for path in missing:
            # only an empty folder goes
            with contextlib.suppress(OSError):
                path.rmdir()


def make_writable(directory):
    """
    Make the folder of the products, and be sure to be able to write.

    Parameters
    ----------
    directory : `~pathlib.Path`
        The folder.

    Raises
    ------
    OutputError
        If it cannot be made or written.
    """
    if os.path.lexists(directory) and not directory.is_dir():
        msg = f'{directory}: cannot be written: not a folder'
        raise OutputError(msg)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as exc:
        msg = f'{directory}: cannot be written: {exc.strerror}'
        raise OutputError(msg) from exc
    for path in (directory / name for name in sorted(_RESERVED)):
        if os.path.lexists(path) and not path.is_file():
            msg = f'{path}: is in the way: not a file'
            raise OutputError(msg)
        if path.is_file() and not os.access(path, os.W_OK):
            msg = f'{path}: cannot be written: Permission denied'
            raise OutputError(msg)


def scratch_folder(folder, kind='partial'):
    """
    Name the folder in which a process writes what another shall hold.

    Parameters
    ----------
    folder : `~pathlib.Path`
        The folder under its final name.

    kind : {'partial', 'old'}, optional
        Whether it is the new one that is not yet whole, or the old one
        that is to be replaced.

    Returns
    -------
    scratch : `~pathlib.Path`
        A hidden one beside it, named after this process.
    """
    return folder.with_name(f'.{folder.name}.{os.getpid()}@{_host()}.{kind}')


def remove_leftovers(directory):
    """
    Remove what processes that are no more left behind.

    Parameters
    ----------
    directory : `~pathlib.Path`
        The folder of the products.

    Notes
    -----
    Only folders with the name of `scratch_folder` go, and of those only
    of processes of this machine that do not run. An old folder that was
    not replaced gets its name back.
    """
    for path in directory.glob('.*@*.*'):
        match = _SCRATCH.fullmatch(path.name)
        if (match is None or match['host'] != _host() or not path.is_dir()
                or _is_running(int(match['pid']))):
            continue
        folder = path.with_name(match['name'])
        if path.suffix == '.old' and not folder.exists():
            with contextlib.suppress(OSError):
                path.rename(folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _host():
    return re.sub(r'[^\w.-]', '-', socket.gethostname()) or 'localhost'


def _is_running(pid):
    if pid == os.getpid():
        return False
    if os.name == 'nt':
        # signal 0 is no question there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # there, but of another user
        return True
    return True


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
    if not os.access(folder, os.W_OK | os.X_OK):
        msg = f'{folder}: cannot be replaced: Permission denied'
        raise OutputError(msg)
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


def _map_ids(paths):
    """
    Name maps by their files; equal names get those of folders before
    them, and a code if these do not tell them apart.
    """
    names = [[_stem(path), *(part.name for part in path.parents)]
             for path in paths]
    ids = [name[0] for name in names]
    depths = [1] * len(names)
    while True:
        keys = [name.casefold() for name in ids]
        clashing = [number for number, key in enumerate(keys)
                    if keys.count(key) > 1 or key in _RESERVED]
        if not clashing:
            return ids
        for number in clashing:
            depths[number] += 1
            parts = names[number][:depths[number]]
            ids[number] = _safe_name('_'.join(
                part for part in reversed(parts) if part))
            if depths[number] > len(names[number]):
                ids[number] = f'{names[number][0]}-{_code(str(paths[number]))}'


def _stem(path):
    name = path.name
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            name = name[:-len(suffix)]
    return _safe_name(name.lstrip('.') or 'map')


def _safe_name(name):
    """
    Make a name that can be a folder, and a word in tables and pictures.
    """
    safe = _UNSAFE.sub('_', ''.join(
        char if char.isprintable() else '_' for char in name))
    if len(os.fsencode(safe)) > _MAX_NAME:
        safe = os.fsencode(safe)[:_MAX_NAME].decode('utf-8', 'ignore')
    return name if safe == name else f'{safe}-{_code(name)}'


def _code(text):
    """
    Make a short word that two texts hardly ever have in common.
    """
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]
