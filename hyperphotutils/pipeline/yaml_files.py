# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reading YAML files so that every mistake can be told with its line.
"""

import re
from pathlib import Path

import yaml

__all__ = ['ConfigError', 'read_yaml']


class ConfigError(ValueError):
    """
    A configuration that cannot be used.

    Parameters
    ----------
    problems : list of str
        One line for each problem.

    Attributes
    ----------
    problems : tuple of str
        One line for each problem; the message is these lines.
    """

    def __init__(self, problems):
        self.problems = tuple(problems)
        super().__init__('\n'.join(self.problems))

    def __reduce__(self):
        return type(self), (list(self.problems),)


def read_yaml(path):
    """
    Read a YAML file of nested keys.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    values : dict
        The nested values.

    lines : dict
        The number of the line of every key path, a tuple.

    Raises
    ------
    ConfigError
        If the file cannot be read or is not such a file.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding='utf-8')
    except UnicodeDecodeError as exc:
        msg = f'{path}: not a text file in UTF-8 ({exc.reason})'
        raise ConfigError([msg]) from exc
    except OSError as exc:
        raise ConfigError([f'{path}: {exc.strerror}']) from exc
    return _parse(text, path)


class _Loader(yaml.SafeLoader):
    """
    Safe YAML, where 1e-3 is a number and a key is named only once.
    """

    def construct_mapping(self, node, deep=False):  # noqa: FBT002 (PyYAML)
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"'{key}' is named twice", key_node.start_mark
                )
            seen.add(str(key))
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 (PyYAML) takes 1e-3 for text; YAML 1.2 and people do not
_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float',
    re.compile(r'^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$'),
    list('-+.0123456789'),
)


def _parse(text, path):
    """
    Return the nested values and the line of every key path.
    """
    try:
        values = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        what = ' '.join(filter(None, (exc.context, exc.problem)))
        raise ConfigError([f'{path}: line {line}: {what}']) from exc
    except yaml.reader.ReaderError as exc:
        line = text.count('\n', 0, exc.position) + 1
        msg = f'{path}: line {line}: a character that YAML does not allow'
        raise ConfigError([msg]) from exc
    if values is None:
        return {}, {}
    if not isinstance(values, dict):
        msg = f'{path}: must have sections, each with its keys'
        raise ConfigError([msg])
    return values, dict(_key_lines(node, ()))


def _key_lines(node, loc):
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        here = (*loc, key.value)
        yield here, key.start_mark.line + 1
        yield from _key_lines(value, here)
