# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The jobs of a run: the maps, the names and folders of their products, and
their outcomes.

This module is light: it imports none of the scientific libraries.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hyperphotutils.pipeline.config import ConfigError
from hyperphotutils.pipeline.products import (
    BANDS,
    BANDS_REPORT,
    COMBINED,
    DIAGNOSTICS,
    LOG,
    RECORD,
    REPORT,
)
from hyperphotutils.pipeline.text import expand_path, read_text

if TYPE_CHECKING:
    from astropy.table import QTable

    from hyperphotutils.pipeline.config import PipelineConfig
    from hyperphotutils.pipeline.image_config import (
        ImageConfig,
        SubtractConfig,
    )

__all__ = [
    'MapJob',
    'MapOutcome',
    'OutputError',
    'PipelineError',
    'expand_maps',
    'plan_jobs',
]

# The files of a run that are not in the folder of a map
RESERVED = frozenset({COMBINED, DIAGNOSTICS, BANDS, BANDS_REPORT, LOG, RECORD,
                      REPORT})

# Characters that the names of folders and table entries must not have. A
# '$' starts a formula in the title of a figure.
_UNSAFE = re.compile(r"""[\\/:*?"'<>|$`]|^[\s#~=@+-]+|[\s.]+$""")
# Temporary names, of up to 255 bytes, contain the name of the map.
_MAX_NAME = 120

_SUFFIXES = ('.gz', '.fz', '.bz2', '.xz', '.z', '.fits', '.fit', '.fts')
_LISTS = ('.txt', '.lst', '.list')


class OutputError(OSError):
    """
    Error of an output that cannot be written or that exists already.

    Nothing has been modified when it is raised.
    """


class PipelineError(RuntimeError):
    """
    Error of a run that cannot go on or in which all maps have failed.
    """


@dataclass(frozen=True)
class MapJob:
    """
    One map and the folder of its products.

    Parameters
    ----------
    path : str
        The FITS file.

    map_id : str
        The name of the map: the name of its file without suffix,
        prefixed with the names of its folders where this is needed to
        distinguish maps. Characters that are not possible in a table or
        the name of a folder are replaced, and the name then ends with a
        code.

    folder : `~pathlib.Path`
        The folder of the products.

    kind : str, optional
        The kind of job, which selects how the file is read and measured
        and which products it has, such as ``'map'`` (default),
        ``'cube'``, or ``'subtraction'``.

    files : dict, optional
        The other files of the job by their role, such as ``'template'``
        or ``'psf'``.
    """

    path: str
    map_id: str
    folder: Path
    kind: str = 'map'
    files: dict = field(default_factory=dict, hash=False)

    @property
    def psf(self) -> str | None:
        """
        The file of the measured beam, `None` if there is none.
        """
        return self.files.get('psf')


@dataclass(frozen=True)
class MapOutcome:
    """
    The outcome of one map.

    Parameters
    ----------
    job : `MapJob`
        The map.

    summary : str
        A line that summarizes the result.

    numbers : dict
        The numbers in it: ``n_detected``, ``n_companions``,
        ``n_rejected``, ``n_measured``, ``rms`` (in Jy/pixel), and
        ``seconds``.

    reason : str or `None`
        A line with the reason if the map failed.

    details : str or `None`
        The traceback of an unexpected error.

    earlier : bool
        Whether the map was completed by an earlier run.

    table_name : str
        The name of the main product, a table in most cases.
    """

    job: MapJob
    summary: str = ''
    numbers: dict = field(default_factory=dict)
    reason: str | None = None
    details: str | None = None
    earlier: bool = False
    table_name: str = 'catalog.ecsv'

    @cached_property
    def table(self) -> QTable | None:
        """
        The main table: the sources, from ``catalog.ecsv``; the channels,
        from ``channels.ecsv``, if only the backgrounds of a cube were
        estimated; `None` if the map failed or has no table.
        """
        if self.reason or not self.table_name.endswith('.ecsv'):
            return None
        from hyperphotutils.catalog import read_catalog

        return read_catalog(self.job.folder / self.table_name)


def plan_jobs(config: PipelineConfig | ImageConfig | SubtractConfig
              ) -> list[MapJob]:
    """
    Assign a unique name and a folder to each map.

    Parameters
    ----------
    config : `PipelineConfig`, `ImageConfig`, or `SubtractConfig`
        The configuration.

    Returns
    -------
    jobs : list of `MapJob`
        The maps, images, or pairs in the given order.

    Raises
    ------
    ConfigError
        If there is no map, a map is named twice, or the number of
        measured beams is not that of the maps.

    Examples
    --------
    >>> from hyperphotutils.pipeline import PipelineConfig, plan_jobs
    >>> maps = ['a/250um.fits', 'b/250um.fits', 'b/350um.fits']
    >>> config = PipelineConfig(input={'maps': maps})
    >>> [job.map_id for job in plan_jobs(config)]
    ['a_250um', 'b_250um', '350um']
    """
    directory = Path(config.output.directory)
    if config.kind == 'subtraction':
        key, noun, roles = 'pairs', 'pair of images', ('science', 'template')
        found = config.list_pairs()
    else:
        key, noun, roles = 'maps', config.noun, ('map',)
        found = [{'map': path} for path in expand_maps(config.input.maps)]
    if not found:
        raise ConfigError([f'input.{key}: no {noun} is given'])
    known = set()
    for files in found:
        target = tuple(os.path.realpath(files[role]) for role in roles)
        if target in known:
            names = ' and '.join(files[role] for role in roles)
            raise ConfigError([f'{names}: this {config.noun} is named twice'])
        known.add(target)
    if config.kind in {'map', 'cube'} and config.input.psf is not None:
        psfs = config.input.psf
        if not isinstance(psfs, tuple):
            psfs = (psfs,) * len(found)
        if len(psfs) != len(found):
            msg = ('input.psf: must be one file, or one for each of the '
                   f'{len(found)} maps, not {len(psfs)}')
            raise ConfigError([msg])
        found = [files if psf is None else files | {'psf': psf}
                 for files, psf in zip(found, psfs, strict=True)]
    counts = Counter(first for first, *_ in known)
    named = []
    for files in found:
        # a link keeps its own name
        path = Path(os.path.abspath(files[roles[0]]))  # noqa: PTH100
        # an image of several pairs has the names of their templates
        if counts[os.path.realpath(files[roles[0]])] > 1:
            path = path.with_name(f'{_stem(path)}-'
                                  f'{_stem(Path(files["template"]))}')
        named.append(path)
    return [MapJob(files.pop(roles[0]), map_id, directory / map_id,
                   config.kind, files)
            for files, map_id in zip(found, _map_ids(named), strict=True)]


def input_files(job, config):
    """
    Return the paths of the files that the result of a job depends on: the
    map, the other files of the job, and those that the configuration names.
    """
    return [job.path, *job.files.values(), *config.shared_files]


def expand_maps(maps: Sequence[str]) -> list[str]:
    """
    Expand lists and patterns to the files that they name.

    Parameters
    ----------
    maps : list of str
        FITS files; patterns such as ``'*/250um.fits'`` (``**`` for any
        folders); and text files, ``'@name'`` or with the suffix
        ``.txt``, ``.lst``, or ``.list``, with one file or pattern per
        line, relative to the working folder. ``#`` starts a comment. A
        leading ``~`` and environment variables (``$NAME``) are
        expanded.

    Returns
    -------
    files : list of str
        The files; the files of a pattern are sorted by name.

    Raises
    ------
    ConfigError
        If a list cannot be read or is empty, a pattern matches no
        file, or a user or an environment variable is unknown.

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
            path = expand_name(name.removeprefix('@'), 'input.maps')
            lines = [re.sub(r'(^|[ \t])#.*', '', line).strip(' \t\r')
                     for line in read_list(path, 'map')]
            lines = [line for line in lines if line]
            if not lines:
                raise ConfigError([f'{path}: the list names no map'])
            for line in lines:
                files += _match(expand_name(line, path))
        else:
            files += _match(expand_name(name, 'input.maps'))
    return files


def expand_name(name, where):
    """
    Expand the name of a file; a `ConfigError` states where it is given.
    """
    try:
        return expand_path(name)
    except ValueError as exc:
        raise ConfigError([f'{where}: {exc}']) from exc


def read_list(path, noun):
    """
    Return the lines of a list of maps or pairs.
    """
    try:
        # str.splitlines would split at characters that a name may contain
        return read_text(path).split('\n')
    except OSError as exc:
        problem = f'the list of {noun}s cannot be read: {exc.strerror}'
    except UnicodeDecodeError:
        problem = f'not a list of {noun}s: no text in UTF-8'
    except ValueError as exc:
        problem = f'not a list of {noun}s: {exc}'
    raise ConfigError([f'{path}: {problem}'])


def _match(name):
    """
    Return the files that match, or the name itself if it is no pattern
    or the name of a file.
    """
    if not glob.has_magic(name) or os.path.lexists(name):
        return [name]
    # patterns of pathlib cannot be absolute
    found = sorted(glob.glob(name, recursive=True))  # noqa: PTH207
    if not found:
        raise ConfigError([f'{name}: no file matches this pattern'])
    return [expand_path(f'./{path}') if path.startswith('~') else path
            for path in found]


def _map_ids(paths):
    """
    Return unique names of maps: the names of their files, prefixed with
    the names of folders where they are equal, and with a code where this
    does not distinguish them.
    """
    names = [[_stem(path), *(part.name for part in path.parents)]
             for path in paths]
    ids = [name[0] for name in names]
    depths = [1] * len(names)
    while True:
        keys = [name.casefold() for name in ids]
        clashing = [number for number, key in enumerate(keys)
                    if keys.count(key) > 1 or key in RESERVED]
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
    Return a name that can be used for a folder and in tables and
    figures.
    """
    safe = _UNSAFE.sub('_', ''.join(
        char if char.isprintable() else '_' for char in name))
    if len(os.fsencode(safe)) > _MAX_NAME:
        safe = os.fsencode(safe)[:_MAX_NAME].decode('utf-8', 'ignore')
    return name if safe == name else f'{safe}-{_code(name)}'


def _code(text):
    """
    Return a short code that is different for different texts.
    """
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]
