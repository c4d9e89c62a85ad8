# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Where the configuration of a run comes from.
"""

import os
import sys
from pathlib import Path
from typing import NamedTuple

from hyperphotutils.pipeline.config import (
    config_of_values,
    config_to_yaml,
)
from hyperphotutils.pipeline.hyper_py import is_hyper_py, read_hyper_py
from hyperphotutils.pipeline.names import printable
from hyperphotutils.pipeline.options import PipelineConfig
from hyperphotutils.pipeline.yaml_files import read_yaml

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
    A configuration, and where it comes from.

    Parameters
    ----------
    config : `PipelineConfig`
        The configuration.

    source : `~pathlib.Path` or `None`
        The file, `None` for the built-in defaults.

    origins : dict
        The place in the file by key path, such as
        ``{'detection.n_sigma': 'line 3'}``; other keys have their
        defaults.

    hyper_py : `HyperPyConfig` or `None`
        What became of the keys of Hyper-py, if the file is one of it.
    """

    config: PipelineConfig
    source: Path | None = None
    origins: dict = {}  # noqa: RUF012 (a NamedTuple; never changed)
    hyper_py: tuple | None = None

    @property
    def origin(self):
        """
        Where the configuration comes from, in words.
        """
        if self.source is None:
            return 'built-in defaults'
        kind = ', a configuration of Hyper-py' if self.hyper_py else ''
        return f'{self.source}{kind}'


def user_config_file():
    """
    Name the configuration file of the user, whether it exists or not.

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
    # (Path.expanduser raises an error for a user without a home)
    folder = os.path.expanduser(folder)  # noqa: PTH111
    return Path(folder) / 'hyperphot' / _NAME


def find_config():
    """
    Look for a configuration file.

    Returns
    -------
    path : `~pathlib.Path` or `None`
        ``hyperphot.yaml`` in the working folder, else that of
        `user_config_file`, else `None`.

    Examples
    --------
    >>> from hyperphotutils.pipeline import find_config
    >>> path = find_config()
    """
    candidates = (Path(_NAME), user_config_file())
    # (Path.is_file raises an error in a folder that may not be read)
    return next((path for path in candidates
                 if os.path.isfile(path)), None)  # noqa: PTH113


def load_config(path=None):
    """
    Read the configuration of a run.

    Parameters
    ----------
    path : str, path-like or `None`, optional
        The file, ours or one of Hyper-py. With `None` (default), that
        which `find_config` finds, or the built-in defaults.

    Returns
    -------
    loaded : `LoadedConfig`
        The configuration, and where it comes from.

    Raises
    ------
    ConfigError
        If the file cannot be used.

    Notes
    -----
    Only one file is read: the first that there is. Keys that it does
    not name have the built-in defaults.

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
    # (a Path would drop the ./ of a file with the name ~)
    values, lines = read_yaml(name)
    path = Path(name)
    if is_hyper_py(values):
        converted = read_hyper_py(name)
        return LoadedConfig(converted.config, path, converted.origins,
                            converted)
    origins = {'.'.join(loc): f'line {number}'
               for loc, number in lines.items() if len(loc) == 2}
    return LoadedConfig(config_of_values(values, lines, path), path, origins)


def show_config(loaded):
    """
    Write a configuration with the origin of each key.

    Parameters
    ----------
    loaded : `LoadedConfig`
        The configuration.

    Returns
    -------
    text : str
        A YAML file.

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
        '# The first that there is: the argument of --config or of run(),',
        f'# ./{_NAME}, {user_config_file()}, built-in defaults',
    ]
    return '\n'.join(head) + '\n' + config_to_yaml(
        loaded.config, comments=False, origins=origins | loaded.origins)
