# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The folders of a run: written under temporary names, renamed when
complete, never replaced by accident, and continued after an interruption.

Each finished folder of products holds a record, ``run.json``: the settings
and the states of the input files that its contents depend on. A later run
compares them with its own, and skips the maps for which they are the same.
The record of the output directory, which exists only while it is needed,
describes the files of all maps, and what an unfinished run has begun.

This module is light: it imports none of the scientific libraries.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import tempfile
from pathlib import Path
from typing import NamedTuple

from hyperphotutils import __version__
from hyperphotutils.pipeline.image_config import PairsOptions
from hyperphotutils.pipeline.jobs import RESERVED, OutputError, input_files
from hyperphotutils.pipeline.products import (
    BANDS,
    DIAGNOSTICS,
    LOG,
    RECORD,
    REPORT,
    find_foreign_files,
)

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

__all__ = []  # shared by the modules of the pipeline only

# The folder of intermediate results in an unfinished folder of products
PARTS = 'parts'

# Keys of the configuration that change neither results nor products. Each
# map or pair is compared with its own files, so that the list may change;
# the section 'bands' matters for the table of bands only.
_NO_RESULT = frozenset({
    'input.maps', 'output.directory', 'output.overwrite', 'run.n_workers',
    'run.quiet', 'run.scheduler',
    *(f'input.{name}' for name in PairsOptions.model_fields),
})

# The names of scratch_folder
_SCRATCH = re.compile(
    r'\.(?P<name>.+)\.(?P<pid>\d+)@(?P<host>[^@]+)\.(partial|old)')

_REMEDY = ('use --overwrite (output.overwrite) to repeat it, or choose '
           'another --output-dir (output.directory)')


def describe_settings(config, *, sections=None):
    """
    Return the settings that a result depends on.
    """
    if sections is None:
        sections = set(type(config).model_fields) - {'bands'}
    tree = config.model_dump(mode='json', include=set(sections))
    settings = {f'{section}.{key}': value
                for section, values in tree.items()
                for key, value in values.items()
                if f'{section}.{key}' not in _NO_RESULT}
    return settings | {'hyperphotutils': __version__}


def describe_files(*paths):
    """
    Return the states of files.

    The contents are not read, because this takes as long as the
    processing itself for large cubes. A file that was only touched thus
    counts as changed.
    """
    states = {}
    for path in paths:
        # Path.resolve raises an error for links that form a loop
        name = os.path.realpath(path)
        try:
            status = Path(path).stat()
            states[name] = [status.st_size, status.st_mtime_ns]
        except OSError:
            states[name] = None
    return states


def describe_inputs(job, config):
    """
    Return the states of the input files of a job, and their roles.
    """
    return (describe_files(*input_files(job, config))
            | {role: os.path.realpath(path)
               for role, path in job.files.items()})


def find_differences(old, new):
    """
    Return the differences between two descriptions as texts.
    """
    differences = []
    for key in [*new, *(key for key in old if key not in new)]:
        if key in old and key in new and old[key] == new[key]:
            continue
        if not Path(key).is_absolute():
            values = [f'{verb} {json.dumps(values[key])}'
                      for verb, values in (('is', new), ('was', old))
                      if key in values]
            differences.append(f'{key} {", ".join(values)}')
        elif key not in new:
            differences.append(f'{key} was used instead')
        elif key not in old:
            differences.append(f'{key} was not used')
        else:
            change = 'is gone' if new[key] is None else 'has changed'
            differences.append(f'{key} {change}')
    return differences


def _compare(record, settings, inputs):
    return (find_differences(record['settings'], settings)
            + find_differences(record['inputs'], inputs))


def write_record(path, record):
    """
    Write a record so that it is either complete or does not exist.
    """
    # a fixed name, so that the next attempt replaces what is left of it
    partial = path.with_name(f'.{path.name}.partial')
    try:
        with partial.open('w', encoding='ascii') as file:
            json.dump(record, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, str(path)) from exc
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def read_record(path):
    """
    Read a record; `None` if there is no file that `write_record` wrote.
    """
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def read_finished(folder, settings, inputs):
    """
    Return the record of a finished folder of products; `None` if it was
    made with other settings or from other files, or lacks its main table.
    """
    record = read_map_record(folder)
    if (record is None or _compare(record, settings, inputs)
            or not (folder / record['table_name']).exists()):
        return None
    return record


def read_map_record(folder):
    """
    Return the record of a finished folder of products; `None` for others.
    """
    record = read_record(folder / RECORD)
    # a record without a time is that of an unfinished cube
    return record if record and {'settings', 'inputs', 'finished',
                                 'table_name'} <= set(record) else None


class Work(NamedTuple):
    """
    The work that is left to do in a run.

    Parameters
    ----------
    todo : list of `~hyperphotutils.pipeline.MapJob`
        The maps to process.

    done : dict
        The records of the other maps by name.

    tables : dict
        The records of the files of all maps that have to be written, by
        name.
    """

    todo: list
    done: dict
    tables: dict


class OutputDirectory:
    """
    Class for the output directory of a run.

    This is a context manager. While it is active, no other run can use
    the directory, provided that the file system has locks. At the end,
    the directory is removed if nothing was written.

    Parameters
    ----------
    path : `~pathlib.Path`
        The directory. It is created if it does not exist.

    Attributes
    ----------
    tables : dict
        The records of the files of all maps by name: ``'settings'``,
        ``'inputs'``, and whether the file is ``'done'``.

    unfinished : dict
        The maps that runs have begun and not finished: the time at which
        their existing products were finished, or `None`, by name.

    Raises
    ------
    OutputError
        On entering, if the directory cannot be written or another run
        uses it.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.tables = {}
        self.unfinished = {}
        self._log = None
        self._created = []

    def __enter__(self):
        self._created = [path for path in (self.path, *self.path.parents)
                         if not path.exists()]
        try:
            self._check_writable()
            self._lock()
            self._load()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *_):
        names = (*self.tables, *self.unfinished)
        if not any(os.path.lexists(self.path / name) for name in names):
            with contextlib.suppress(OSError):
                (self.path / RECORD).unlink(missing_ok=True)
        self._leave()

    def _check_writable(self):
        if os.path.lexists(self.path) and not self.path.is_dir():
            msg = f'{self.path}: cannot be written: not a folder'
            raise OutputError(msg)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as exc:
            msg = f'{self.path}: cannot be written: {exc.strerror}'
            raise OutputError(msg) from exc
        for path in (self.path / name for name in sorted(RESERVED)):
            if os.path.lexists(path) and not path.is_file():
                msg = f'{path}: is in the way: not a file'
                raise OutputError(msg)
            if path.is_file() and not os.access(path, os.W_OK):
                msg = f'{path}: cannot be written: Permission denied'
                raise OutputError(msg)

    def _lock(self):
        """
        Open the log of the run, and lock it against other runs.
        """
        path = self.path / LOG
        while self._log is None:
            log = path.open('a', encoding='utf-8', errors='backslashreplace')
            try:
                if fcntl is not None:
                    fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                log.close()
                msg = f'{path}: another run is at work here'
                raise OutputError(msg) from exc
            except OSError:
                # a file system without locks
                pass
            # a run that has just ended may have removed the empty file
            if path.exists() and os.path.samestat(os.fstat(log.fileno()),
                                                  path.stat()):
                self._log = log
            else:
                log.close()

    def _load(self):
        path = self.path / RECORD
        if not os.path.lexists(path):
            return
        record = read_record(path) or {}
        if set(record) != {'tables', 'unfinished'}:
            msg = f'{path}: is in the way: not a record of hyperphot'
            raise OutputError(msg)
        self.tables, self.unfinished = record['tables'], record['unfinished']

    def _leave(self):
        """
        Close the log, and remove it and the directories if it is empty.
        """
        if self._log is not None:
            empty = os.fstat(self._log.fileno()).st_size == 0
            if fcntl is None:
                # Windows cannot remove open files
                self._log.close()
            if empty:
                with contextlib.suppress(OSError):
                    (self.path / LOG).unlink()
            self._log.close()
            self._log = None
        for path in self._created:
            # only empty directories can be removed
            with contextlib.suppress(OSError):
                path.rmdir()

    def append_to_log(self, text):
        """
        Append to the log of all runs in this directory.
        """
        self._log.write(text)
        self._log.flush()

    def find_work(self, jobs, config):
        """
        Find what is left to do, and refuse what may not be replaced.

        ``output.overwrite`` repeats all maps, unless an earlier run was
        interrupted or killed: then that run is continued, and only the
        products that it has not yet replaced are made.
        """
        overwrite = config.output.overwrite
        settings = describe_settings(config)
        inputs = {job.map_id: describe_inputs(job, config) for job in jobs}
        tables = {name: {'settings': settings, 'inputs': files, 'done': False}
                  for name, files in _table_inputs(jobs, config).items()}
        if not overwrite:
            self._refuse_replacing(jobs, settings, inputs, tables)
        done, done_tables = {}, set()
        if not overwrite or any(job.map_id in self.unfinished
                                for job in jobs):
            for job in jobs:
                record = read_finished(job.folder, settings,
                                       inputs[job.map_id])
                if record and (record['finished']
                               != self.unfinished.get(job.map_id)):
                    done[job.map_id] = record
            done_tables = {
                name for name, table in tables.items()
                if self.tables.get(name) == table | {'done': True}
                and (self.path / name).exists()}
        todo = [job for job in jobs if job.map_id not in done]
        for job in todo:
            _check_replaceable(job.folder)
        directory = Path(os.path.realpath(self.path))
        outputs = {directory / name for name in (
            *(job.folder.name for job in todo), *tables, DIAGNOSTICS, LOG)}
        read = {path for job in jobs for path in input_files(job, config)}
        for path in sorted(Path(os.path.realpath(path)) for path in read):
            if outputs & {path, *path.parents}:
                msg = (f'{path}: is read by this run, which would replace '
                       'it; choose another --output-dir (output.directory)')
                raise OutputError(msg)
        return Work(todo, done, {name: table for name, table in tables.items()
                                 if todo or name not in done_tables})

    def _refuse_replacing(self, jobs, settings, inputs, tables):
        """
        Refuse to modify what was not made by the same command.
        """
        # the differences of each folder and file; None without a record
        found = {}
        for job in jobs:
            record = read_map_record(job.folder)
            found[job.folder] = record and _compare(record, settings,
                                                    inputs[job.map_id])
        for name, table in tables.items():
            record = self.tables.get(name)
            found[self.path / name] = record and _compare_tables(record,
                                                                 table)
        found = {path: texts for path, texts in found.items()
                 if os.path.lexists(path)}
        unknown = [path for path, texts in found.items() if texts is None]
        changed = [path for path, texts in found.items() if texts]
        if unknown:
            msg = f'{_first_of(unknown)}: exists already; {_REMEDY}'
            raise OutputError(msg)
        if changed:
            texts = list(dict.fromkeys(
                text for path in changed for text in found[path]))
            more = f'; and {len(texts) - 5} more' if len(texts) > 5 else ''
            msg = (f'{_first_of(changed)}: made by another run: '
                   f'{"; ".join(texts[:5])}{more}; {_REMEDY}')
            raise OutputError(msg)

    def begin(self, work):
        """
        Record that work is begun.
        """
        for job in work.todo:
            record = read_map_record(job.folder)
            self.unfinished[job.map_id] = record and record['finished']
        self.tables |= work.tables
        self._save()

    def finish_table(self, name):
        """
        Record that a file of all maps is written.
        """
        if name in self.tables:
            self.tables[name] = self.tables[name] | {'done': True}
            self._save()

    def end(self, work):
        """
        Record that a run has come to its end, be it that maps have failed.
        """
        for job in work.todo:
            self.unfinished.pop(job.map_id, None)
        for name in work.tables:
            if not os.path.lexists(self.path / name) and name != BANDS:
                del self.tables[name]
        self._save()

    def _save(self):
        if self.tables or self.unfinished:
            write_record(self.path / RECORD, {
                'unfinished': self.unfinished, 'tables': self.tables})
        else:
            (self.path / RECORD).unlink(missing_ok=True)


def _table_inputs(jobs, config):
    """
    Return what the files of all maps depend on, besides the settings.
    """
    maps = {'maps': [job.map_id for job in jobs]}
    tables = {}
    if len(jobs) > 1 and config.table_of_all:
        tables[config.table_of_all] = maps
    if len(jobs) > 1 and config.writes_pages:
        tables[REPORT] = maps
    if config.merges_bands:
        tables[BANDS] = maps | describe_settings(config, sections=['bands'])
    return tables


def _compare_tables(old, new):
    """
    Return the differences of a file of all maps, to which maps may be
    added.
    """
    maps = new['inputs']['maps']
    missing = [name for name in old['inputs']['maps'] if name not in maps]
    differences = find_differences(old['settings'], new['settings'])
    if missing:
        differences.append('it has maps that are not among those given now: '
                           f'{", ".join(missing)}')
    return differences + find_differences(old['inputs'] | {'maps': maps},
                                          new['inputs'])


def _first_of(paths):
    more = f' (and {len(paths) - 1} more)' if len(paths) > 1 else ''
    return f'{paths[0]}{more}'


def _check_replaceable(folder):
    """
    Refuse to replace a folder that is not a folder of products.
    """
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        msg = f'{folder}: is in the way: not a folder of products'
        raise OutputError(msg)
    if not os.access(folder, os.W_OK | os.X_OK):
        msg = f'{folder}: cannot be replaced: Permission denied'
        raise OutputError(msg)
    if foreign := find_foreign_files(folder):
        msg = (f'{folder}: not replaced, it holds what hyperphot did not '
               f'write: {", ".join(foreign[:3])}')
        raise OutputError(msg)


@contextlib.contextmanager
def product_folder(job, record, *, keep=False):
    """
    Create the folder of the products of a job.

    This is a context manager. Files are written into a temporary folder,
    which is renamed at the end of the block. An existing folder of
    products is kept until then.

    With ``keep``, the temporary folder is kept if the block is interrupted
    or cannot write, but not after other errors, so that the next run with
    the same ``record``, the settings and states of input files, continues
    with it. An `OSError` names the final file.
    """
    if keep:
        folder = job.folder.with_name(f'.{job.folder.name}.unfinished')
        # a finished folder that was not renamed has lost its parts
        if read_record(folder / RECORD) != json.loads(json.dumps(record)):
            shutil.rmtree(folder, ignore_errors=True)
    else:
        folder = scratch_folder(job.folder)
        # a killed process may have had the same number
        shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(exist_ok=True)
        if keep:
            write_record(folder / RECORD, record)
        yield folder
        shutil.rmtree(folder / PARTS, ignore_errors=True)
        for path in folder.rglob('*'):
            if path.is_file():
                with path.open('r+b') as file:
                    os.fsync(file.fileno())
        _replace_folder(folder, job.folder)
    except BaseException as exc:
        if not keep or not isinstance(exc, OSError | KeyboardInterrupt):
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(exc, ConnectionError) or not isinstance(exc, OSError):
            raise
        # the user knows the final name, not the temporary one
        name = exc.filename or (exc.errno and job.folder)
        name, text = (value and str(value).replace(
            str(folder), str(job.folder))
            for value in (name, exc.strerror or str(exc)))
        raise OSError(exc.errno, text, name) from exc


def _replace_folder(scratch, folder):
    """
    Rename the temporary folder; only now remove an older folder.
    """
    if not folder.exists():
        scratch.rename(folder)
        return
    old = scratch_folder(folder, 'old')
    folder.rename(old)
    try:
        scratch.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)


def scratch_folder(folder, kind='partial'):
    """
    Return the name of a temporary folder of this process.
    """
    return folder.with_name(f'.{folder.name}.{os.getpid()}@{_host()}.{kind}')


def remove_leftovers(directory):
    """
    Remove the temporary folders of processes that do not exist any more.

    Only folders with a name of `scratch_folder` are removed, and only
    those of processes of this machine. An old folder that was not
    replaced gets its name back.
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
        # signal 0 would end the process there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # it belongs to another user
        return True
    return True
