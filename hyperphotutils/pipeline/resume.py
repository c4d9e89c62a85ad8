# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What a run has done, and with which settings and inputs, so that the
same command continues it.

`describe_settings` and `describe_files` say what a result depends on,
`find_differences` compares two such descriptions in words, and a
`Journal` keeps them with each item (a map, a channel of a cube) that is
begun and done.
"""

import contextlib
import errno
import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from hyperphotutils import __version__

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

__all__ = [
    'Journal',
    'JournalItem',
    'describe_files',
    'describe_settings',
    'find_differences',
    'fingerprint',
]

# Keys of the configuration that do not change what is measured or
# written. The maps are the inputs, each of its own item.
_NO_RESULT = frozenset({
    'input.maps', 'output.directory', 'output.overwrite', 'run.n_workers',
    'run.quiet', 'run.scheduler',
})

_HEAD = {'journal': 'hyperphotutils', 'format': 1}
_STATES = ('begun', 'done', 'failed')


def describe_settings(config, *, sections=None):
    """
    Say which settings a result depends on.

    Parameters
    ----------
    config : `~hyperphotutils.pipeline.PipelineConfig`
        The configuration.

    sections : tuple of str, optional
        The sections of it that count. The default is all.

    Returns
    -------
    settings : dict
        The values by key path, as they are stored in JSON, and the
        version of ``hyperphotutils``. Keys that do not change results
        (``run.n_workers``, ``run.quiet``, ``run.scheduler``,
        ``output.directory``, ``output.overwrite``), and ``input.maps``,
        are left out.

    Examples
    --------
    >>> from hyperphotutils.pipeline import PipelineConfig
    >>> from hyperphotutils.pipeline.resume import describe_settings
    >>> config = PipelineConfig(detection={'n_sigma': 4}, run={'n_workers': 2})
    >>> settings = describe_settings(config)
    >>> settings['detection.n_sigma']
    4.0
    >>> 'run.n_workers' in settings
    False
    """
    tree = config.model_dump(mode='json', include=sections and set(sections))
    settings = {f'{section}.{key}': value
                for section, values in tree.items()
                for key, value in values.items()
                if f'{section}.{key}' not in _NO_RESULT}
    return settings | {'hyperphotutils': __version__}


def describe_files(*paths):
    """
    Say in which state files are.

    Parameters
    ----------
    *paths : str or path-like
        The files.

    Returns
    -------
    inputs : dict
        The size in bytes and the time of the last change, in ns, by
        absolute path; `None` for a file that cannot be found.

    Notes
    -----
    The contents are not read: that would take as long as the work
    itself on large cubes. A file that was only touched thus counts as
    changed.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from hyperphotutils.pipeline.resume import describe_files
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, 'map.fits')
    ...     _ = path.write_bytes(b'12345')
    ...     (size, mtime_ns), = describe_files(path).values()
    >>> size
    5
    """
    # (Path.resolve raises an error where links go in a circle)
    return {os.path.realpath(path): _state_of(path) for path in paths}


def _state_of(path):
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def fingerprint(*descriptions):
    """
    Make a short text that is the same only for equal descriptions.

    Parameters
    ----------
    *descriptions : dict
        What `describe_settings` or `describe_files` return, or any that
        JSON can hold.

    Returns
    -------
    text : str
        20 hexadecimal digits.

    Examples
    --------
    >>> from hyperphotutils.pipeline.resume import fingerprint
    >>> fingerprint({'a': 1, 'b': 2}) == fingerprint({'b': 2, 'a': 1})
    True
    >>> fingerprint({'a': 1}) == fingerprint({'a': 2})
    False
    """
    text = json.dumps(descriptions, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def find_differences(old, new):
    """
    Say in words what differs between two descriptions.

    Parameters
    ----------
    old, new : dict
        What `describe_settings` or `describe_files` returned then and
        now.

    Returns
    -------
    differences : list of str
        A text for each key that differs.

    Examples
    --------
    >>> from hyperphotutils.pipeline.resume import find_differences
    >>> find_differences({'fit.ridge': 0.0, 'run.x': 1}, {'fit.ridge': 0.5})
    ['fit.ridge is 0.5, was 0.0', 'run.x was 1']
    """
    differences = []
    for key in [*new, *(key for key in old if key not in new)]:
        if key in old and key in new and old[key] == new[key]:
            continue
        if Path(key).is_absolute():
            differences.append(f'{key} {_file_change(key, old, new)}')
            continue
        words = [f'{verb} {json.dumps(values[key])}'
                 for verb, values in (('is', new), ('was', old))
                 if key in values]
        differences.append(f'{key} {", ".join(words)}')
    return differences


def _file_change(path, old, new):
    if path not in new:
        return 'was used instead'
    if path not in old:
        return 'was not used'
    if new[path] is None:
        return 'is gone'
    return 'has changed'


@dataclass(frozen=True)
class JournalItem:
    """
    What a journal knows of an item.

    Parameters
    ----------
    state : {'begun', 'done', 'failed'}
        What became of it. Begun and nothing more is what a killed run
        leaves.

    settings : dict
        The settings of the run, see `describe_settings`.

    inputs : dict
        Its inputs, see `describe_files`.

    result : dict
        What was stored with it when it was done or failed.
    """

    state: str
    settings: dict
    inputs: dict
    result: dict = field(default_factory=dict)


class Journal:
    """
    A file with all that runs have begun and done in a folder.

    A context manager: nobody else can open the journal until it is left
    (where the file system has locks). Each line is on the disk when the
    method that writes it returns. If the process is killed, at whatever
    moment, the lines before are intact, and half a line at the end is
    ignored and overwritten.

    Parameters
    ----------
    path : str or path-like
        The file. It is made when the first item is begun.

    Attributes
    ----------
    items : dict of `JournalItem`
        The latest of each item by name.

    Raises
    ------
    BlockingIOError
        When it is entered, if another process has opened it.

    OSError
        If the file cannot be read or written, or is no journal.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from hyperphotutils.pipeline.resume import Journal
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, 'journal.log')
    ...     with Journal(path) as journal:
    ...         journal.begin({'order': 2}, {'0': {}, '1': {}})
    ...         journal.finish('0', {'rms': 1.5})
    ...     with Journal(path) as journal:
    ...         journal.unfinished
    ...         journal.items['0'].result
    ['1']
    {'rms': 1.5}
    """

    def __init__(self, path):
        self.path = Path(path)
        self.items = {}
        self._settings = {}
        self._file = None
        # what of the file is whole lines
        self._size = 0

    def __enter__(self):
        if self.path.exists():
            self._open()
        return self

    def __exit__(self, *_):
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def unfinished(self):
        """
        The names of the items that were begun, and neither done nor
        failed.
        """
        return [name for name, item in self.items.items()
                if item.state == 'begun']

    def begin(self, settings, items):
        """
        Note that items are begun; what is known of them is forgotten.

        Parameters
        ----------
        settings : dict
            What the results depend on, see `describe_settings`.

        items : dict of dict
            The inputs of each item by its name, see `describe_files`.

        Raises
        ------
        OSError
            If the journal cannot be written.
        """
        if self._file is None:
            self._open()
        key = fingerprint(settings)
        lines = []
        if self._size == 0:
            lines.append(_HEAD)
        if key not in self._settings:
            lines.append({'settings': key, 'values': settings})
        lines.append({'begun': items, 'settings': key})
        self._write(lines)

    def finish(self, name, result=None):
        """
        Note that an item is done, all its products being in place.

        Parameters
        ----------
        name : str
            The item; it must have been begun.

        result : dict, optional
            What to store with it, as far as JSON can hold it.

        Raises
        ------
        OSError
            If the journal cannot be written.
        """
        self._write([{'done': name, 'result': result or {}}])

    def fail(self, name, result=None):
        """
        Note that an item could not be done.

        Parameters
        ----------
        name : str
            The item; it must have been begun.

        result : dict, optional
            What to store with it, as far as JSON can hold it.

        Raises
        ------
        OSError
            If the journal cannot be written.
        """
        self._write([{'failed': name, 'result': result or {}}])

    def remove(self):
        """
        Remove the file, because none of its items is worth to continue.
        """
        if self._file is not None:
            self.path.unlink(missing_ok=True)

    def find_differences(self, name, settings, inputs):
        """
        Say what differs from when an item was begun.

        Parameters
        ----------
        name : str
            The item; one that the journal knows.

        settings, inputs : dict
            The settings and the item's inputs now.

        Returns
        -------
        differences : list of str
            A text for each difference; empty if the item is the same.
        """
        item = self.items[name]
        return (find_differences(item.settings, settings)
                + find_differences(item.inputs, inputs))

    def _open(self):
        mode = 'r+b' if self.path.exists() else 'x+b'
        self._file = self.path.open(mode, buffering=0)
        try:
            self._lock()
            self._read(self._file.read())
        except OSError:
            self._file.close()
            self._file = None
            raise

    def _lock(self):
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise BlockingIOError(
                exc.errno, 'another run is at work here', str(self.path)
            ) from exc
        except OSError:
            # a file system without locks
            return

    def _read(self, content):
        """
        Take up all whole lines; the rest is what a killed run leaves.
        """
        head = _encode(_HEAD)
        if not content.startswith(head[:len(content)]):
            raise OSError(errno.EEXIST, 'is in the way: not a journal of '
                          'hyperphot', str(self.path))
        for line in content.splitlines(keepends=True):
            try:
                entry = json.loads(line) if line.endswith(b'\n') else None
            except ValueError:
                entry = None
            if not isinstance(entry, dict):
                break
            self._take(entry)
            self._size += len(line)

    def _take(self, entry):
        if 'values' in entry:
            self._settings[entry['settings']] = entry['values']
        elif 'begun' in entry:
            settings = self._settings[entry['settings']]
            for name, inputs in entry['begun'].items():
                self.items[name] = JournalItem('begun', settings, inputs)
        for state in _STATES[1:]:
            if state in entry:
                self.items[entry[state]] = replace(
                    self.items[entry[state]], state=state,
                    result=entry['result'])

    def _write(self, entries):
        """
        Append whole lines, or nothing.
        """
        lines = [_encode(entry) for entry in entries]
        content = b''.join(lines)
        try:
            self._file.truncate(self._size)
            self._file.seek(self._size)
            written = 0
            while written < len(content):
                written += self._file.write(content[written:])
            os.fsync(self._file.fileno())
        except OSError as exc:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            raise OSError(exc.errno, exc.strerror, str(self.path)) from exc
        self._size += len(content)
        for line in lines:
            # as it will be read again: names are texts, tuples are lists
            self._take(json.loads(line))


def _encode(entry):
    return json.dumps(entry).encode() + b'\n'
