# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Finding and loading the configuration of a run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hyperphotutils.pipeline.config import PipelineConfig
from hyperphotutils.pipeline.config_files import (
    config_to_yaml,
    make_config,
    read_yaml,
)
from hyperphotutils.pipeline.text import printable

if TYPE_CHECKING:
    from hyperphotutils.utils.typing import FilePath

__all__ = [
    'LoadedConfig',
    'find_config',
    'load_config',
    'show_config',
    'user_config_file',
]

_NAME = 'hyperphot.yaml'


class LoadedConfig(NamedTuple):
    """
    A configuration and its origin.

    Parameters
    ----------
    config : `PipelineConfig`
        The configuration.

    source : `~pathlib.Path` or `None`
        The file; `None` for the built-in defaults.

    origins : dict
        The position in the file, by key, such as
        ``{'detection.n_sigma': 'line 3'}``; other keys have their
        defaults.

    hyper_py : `~hyperphotutils.compat.hyper_py.HyperPyConfig` or `None`
        The report on the conversion of a file of Hyper-py.
    """

    config: PipelineConfig
    source: Path | None = None
    origins: dict = {}  # noqa: RUF012 (a NamedTuple; never changed)
    hyper_py: tuple | None = None

    @property
    def origin(self) -> str:
        """
        The origin of the configuration, for messages.
        """
        if self.source is None:
            return 'built-in defaults'
        kind = ', a configuration of Hyper-py' if self.hyper_py else ''
        return f'{self.source}{kind}'


def user_config_file() -> Path:
    """
    Return the path of the user's configuration file, which may not
    exist.

    Returns
    -------
    path : `~pathlib.Path`
        ``hyperphot/hyperphot.yaml`` in the platform's folder for
        configurations: ``$XDG_CONFIG_HOME`` or ``~/.config``,
        ``~/Library/Application Support`` (macOS), or ``%APPDATA%``
        (Windows).

    Examples
    --------
    >>> from hyperphotutils.pipeline import user_config_file
    >>> user_config_file().name
    'hyperphot.yaml'
    """
    if sys.platform == 'win32':
        folder = os.environ.get('APPDATA') or '~/AppData/Roaming'
    elif sys.platform == 'darwin':
        folder = '~/Library/Application Support'
    else:
        folder = os.environ.get('XDG_CONFIG_HOME') or '~/.config'
    # Path.expanduser raises an error for a user without a home.
    folder = os.path.expanduser(folder)  # noqa: PTH111
    return Path(folder) / 'hyperphot' / _NAME


def find_config() -> Path | None:
    """
    Return the path of the configuration file that is used by default.

    Returns
    -------
    path : `~pathlib.Path` or `None`
        ``hyperphot.yaml`` in the working folder or, if there is none,
        `user_config_file`; `None` if neither exists.

    Examples
    --------
    >>> from hyperphotutils.pipeline import find_config
    >>> path = find_config()
    """
    candidates = (Path(_NAME), user_config_file())
    # Path.is_file raises an error in a folder without permission.
    return next((path for path in candidates
                 if os.path.isfile(path)), None)  # noqa: PTH113


def load_config(path: FilePath | None = None) -> LoadedConfig:
    """
    Read the configuration of a run from one file.

    Parameters
    ----------
    path : str, path-like or `None`, optional
        The file, of ``hyperphot`` or of Hyper-py. With `None`
        (default), the result of `find_config`, or the built-in defaults.

    Returns
    -------
    loaded : `LoadedConfig`
        The configuration and its origin.

    Raises
    ------
    ConfigError
        If the file cannot be used.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from hyperphotutils.pipeline import load_config
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, 'my.yaml')
    ...     _ = path.write_text('detection: {n_sigma: 6}')
    ...     loaded = load_config(path)
    >>> loaded.origins
    {'detection.n_sigma': 'line 1'}
    """
    name = find_config() if path is None else path
    if name is None:
        return LoadedConfig(PipelineConfig())
    # A Path would drop the ./ of a file with the name ~.
    values, lines = read_yaml(name)
    path = Path(name)
    if not set(values) <= set(PipelineConfig.model_fields):
        from hyperphotutils.compat.hyper_py import is_hyper_py, read_hyper_py

        if is_hyper_py(values):
            converted = read_hyper_py(name)
            return LoadedConfig(converted.config, path, converted.origins,
                                converted)
    origins = {'.'.join(loc): f'line {number}'
               for loc, number in lines.items() if len(loc) == 2}
    return LoadedConfig(make_config(values, lines, path), path, origins)


def show_config(loaded: LoadedConfig) -> str:
    """
    Convert a configuration to YAML, with the origin of each value.

    Parameters
    ----------
    loaded : `LoadedConfig`
        The configuration.

    Returns
    -------
    text : str
        The text of the file.

    Examples
    --------
    >>> from hyperphotutils.pipeline import (LoadedConfig, PipelineConfig,
    ...                                      show_config)
    >>> text = show_config(LoadedConfig(PipelineConfig()))
    >>> print(text.splitlines()[0])
    # Configuration from built-in defaults
    """
    origins = {f'{section}.{name}': 'default'
               for section, field in PipelineConfig.model_fields.items()
               for name in field.annotation.model_fields}
    head = [
        f'# Configuration from {printable(loaded.origin)}',
        '# The first existing one of: the argument of --config or run(),',
        f'# ./{_NAME}, {user_config_file()}, built-in defaults',
    ]
    return '\n'.join(head) + '\n' + config_to_yaml(
        loaded.config, comments=False, origins=origins | loaded.origins)
