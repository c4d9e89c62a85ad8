# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The configuration of a run as a file: read, checked, changed, and written.
"""

import difflib
import textwrap
from types import NoneType
from typing import Annotated, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from hyperphotutils.pipeline.options import PipelineConfig
from hyperphotutils.pipeline.yaml_files import ConfigError, read_yaml

__all__ = [
    'ConfigError',
    'config_template',
    'config_to_yaml',
    'override_config',
    'read_config',
]

_LINE_WIDTH = 76

# More would only hide the first
_MAX_PROBLEMS = 20


def read_config(path):
    """
    Read a YAML configuration file.

    Parameters
    ----------
    path : str or path-like
        The file. Sections and keys that it does not name have their
        defaults.

    Returns
    -------
    config : `PipelineConfig`
        The checked configuration.

    Raises
    ------
    ConfigError
        If the file cannot be read, is no YAML, or names an unknown key
        or a value of the wrong type or range. The message names file,
        line, key, value and what is allowed.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from hyperphotutils.pipeline import read_config
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, 'hyperphot.yaml')
    ...     _ = path.write_text('detection: {n_sigma: 5}')
    ...     config = read_config(path)
    >>> config.detection.n_sigma
    5.0
    """
    return config_of_values(*read_yaml(path), path)


def config_of_values(values, lines, path):
    """
    Check what a file says.

    Parameters
    ----------
    values : dict
        The nested values.

    lines : dict
        The number of the line of every key path, a tuple.

    path : str or path-like
        What the messages call the file.

    Returns
    -------
    config : `PipelineConfig`
        The checked configuration.

    Raises
    ------
    ConfigError
        If a key is unknown, or a value has the wrong type or range.
    """
    # a section of which every key is commented out
    values = {
        key: value
        for key, value in values.items()
        if value is not None or key not in PipelineConfig.model_fields
    }

    def where(loc):
        # the deepest part of the key that the file really has
        for end in range(len(loc), 0, -1):
            if loc[:end] in lines:
                return f'{path}: line {lines[loc[:end]]}'
        return str(path)

    return _validate(values, where)


def override_config(config, values, *, names=None):
    """
    Make a configuration with some values replaced.

    Parameters
    ----------
    config : `PipelineConfig`
        The configuration to begin with; it is left as it is.

    values : dict
        The new values by key path, such as ``{'detection.n_sigma': 5}``.

    names : dict, optional
        What an error message calls the origin of a key path, such as
        ``{'detection.n_sigma': '--n-sigma'}``.

    Returns
    -------
    config : `PipelineConfig`
        The new configuration.

    Raises
    ------
    ConfigError
        If a key is unknown, or a value has the wrong type or range.

    Examples
    --------
    >>> from hyperphotutils.pipeline import PipelineConfig, override_config
    >>> config = override_config(PipelineConfig(), {'run.n_workers': 4})
    >>> config.run.n_workers
    4
    """
    names = names or {}
    tree = config.model_dump()
    for key, value in values.items():
        *sections, last = key.split('.')
        branch = tree
        for section in sections:
            if not isinstance(branch.get(section), dict):
                branch[section] = {}
            branch = branch[section]
        branch[last] = value

    def where(loc):
        for end in range(len(loc), 0, -1):
            key = '.'.join(str(part) for part in loc[:end])
            if key in names:
                return names[key]
        return 'configuration'

    return _validate(tree, where)


def config_template():
    """
    Make the commented YAML file of all keys and defaults.

    Returns
    -------
    text : str
        The file's text; `read_config` makes the defaults of it.

    Examples
    --------
    >>> from hyperphotutils.pipeline import config_template
    >>> 'n_sigma' in config_template()
    True
    """
    return config_to_yaml(PipelineConfig())


def config_to_yaml(config, *, comments=True, origins=None):
    """
    Write a configuration as YAML text.

    Parameters
    ----------
    config : `PipelineConfig`
        The configuration.

    comments : bool, optional
        Whether every key is explained. The default is `True`.

    origins : dict, optional
        What to write behind a key as its origin, by key path, such as
        ``{'detection.n_sigma': 'line 3'}``.

    Returns
    -------
    text : str
        The text; `read_config` makes an equal configuration of it.

    Examples
    --------
    >>> from hyperphotutils.pipeline import PipelineConfig, config_to_yaml
    >>> text = config_to_yaml(PipelineConfig(), comments=False)
    >>> print(text[text.index('run:'):])
    run:
      n_workers: 1
      scheduler: null
      detection_only: false
      background_only: false
      quiet: false
    """
    lines = []
    if comments:
        lines += [
            '# Configuration of hyperphot. Every key may be left out: the',
            '# values below are its default.'
            if config == PipelineConfig()
            else '# values below are those of this run.',
        ]
    for name, field in type(config).model_fields.items():
        if comments:
            doc = ' '.join(field.annotation.__doc__.split())
            lines += ['', *_comment(doc, '')]
        lines.append(f'{name}:')
        lines += _section_lines(getattr(config, name), comments, name,
                                origins or {})
    return '\n'.join(lines) + '\n'


def _section_lines(section, comments, name, origins):
    lines = []
    for key, field in type(section).model_fields.items():
        if comments:
            allowed = _allowed(field.annotation, field.metadata)
            lines += _comment(f'{field.description} ({allowed})', '  ')
        line = f'  {key}: {_yaml_value(getattr(section, key))}'
        origin = origins.get(f'{name}.{key}')
        lines.append(f'{line}  # {origin}' if origin else line)
    return lines


def _comment(text, indent):
    return textwrap.wrap(
        text,
        _LINE_WIDTH,
        initial_indent=f'{indent}# ',
        subsequent_indent=f'{indent}#   ',
        break_on_hyphens=False,
    )


def _yaml_value(value):
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(
        value, default_flow_style=True, width=2**20, sort_keys=False
    )
    return text.removesuffix('...\n').strip()


def _allowed(annotation, metadata=()):
    """
    Say in words what a type accepts.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        extra = args[1].metadata if hasattr(args[1], 'metadata') else args[1:]
        return _allowed(args[0], (*extra, *metadata))
    if origin is Literal:
        return ' or '.join('false' if arg is False else repr(arg)
                           for arg in args)
    if origin is tuple:
        size = '' if args[-1] is Ellipsis else f' {len(args)}'
        return f'a list of{size or " any length"}, each {_allowed(args[0])}'
    if args:
        return ' or '.join(_allowed(arg) for arg in args)
    return _allowed_plain(annotation, metadata)


def _allowed_plain(annotation, metadata):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        keys = ', '.join(annotation.model_fields)
        return f'{annotation.short_form}the keys {keys}'
    words = {
        NoneType: 'null',
        bool: 'true or false',
        int: 'a whole number',
        float: 'a finite number',
        str: 'a text',
    }[annotation]
    signs = {'gt': '>', 'ge': '>=', 'lt': '<', 'le': '<='}
    limits = [
        f'{sign} {getattr(item, name):g}'
        for item in metadata
        for name, sign in signs.items()
        if getattr(item, name, None) is not None
    ]
    if not limits:
        return words
    return f'{words} {" and ".join(limits)}'


def _validate(values, where):
    """
    Make a configuration of nested dictionaries, or say what is wrong.

    ``where(loc)`` is what the messages call the origin of a key.
    """
    try:
        return PipelineConfig.model_validate(values)
    except ValidationError as exc:
        errors = _one_for_each_key(exc.errors(include_url=False))
    problems = [_problem(error, where) for error in errors[:_MAX_PROBLEMS]]
    if len(errors) > _MAX_PROBLEMS:
        problems.append(f'and {len(errors) - _MAX_PROBLEMS} more problems')
    raise ConfigError(dict.fromkeys(problems))


def _one_for_each_key(errors):
    """
    Keep the most precise error of each value: a value that may be of
    several types has one for each of them.
    """
    kept, parents = {}, set()
    for error in errors:
        loc = tuple(error['loc'])
        key = _known_part(loc)
        if error['type'] in {'extra_forbidden', 'invalid_key', 'missing'}:
            key = loc
            parents.add(_known_part(loc[:-1]))
        if key not in kept or len(loc) > len(kept[key]['loc']):
            kept[key] = error
    # what is wrong with its keys says more than that it is of no type
    return [error for key, error in kept.items() if key not in parents]


def _problem(error, where):
    loc = tuple(error['loc'])
    known = _known_part(loc)
    key = '.'.join(str(part) for part in known)
    prefix = f'{where(known)}: {key}' if key else where(known)
    if error['type'] == 'extra_forbidden':
        prefix = where(loc)
        return f'{prefix}: {_unknown_key(loc)}'
    if error['type'] == 'invalid_key':
        return f'{prefix}: the key {loc[-1]!r} is not allowed, must be text'
    if error['type'] == 'value_error':
        return f'{prefix}: {error["ctx"]["error"]}'
    if error['type'] == 'missing' and isinstance(loc[-1], str):
        missing = '.'.join((*_known_part(loc[:-1]), loc[-1]))
        return f'{where(known)}: {missing}: is required'
    allowed = _allowed_at(known)
    value = _shown(error['input'])
    return f'{prefix}: {value} is not allowed, must be {allowed}'


def _known_part(loc):
    """
    Return the part of pydantic's location that a user's file knows.

    pydantic also names the member of a union and the index in a tuple.
    """
    model = PipelineConfig
    known = []
    for part in loc:
        if model is None or part not in model.model_fields:
            break
        known.append(part)
        model = _submodel(model.model_fields[part].annotation)
    return tuple(known)


def _submodel(annotation):
    members = (annotation, *get_args(annotation))
    for member in members:
        if isinstance(member, type) and issubclass(member, BaseModel):
            return member
    return None


def _allowed_at(known):
    model = PipelineConfig
    for part in known[:-1]:
        model = _submodel(model.model_fields[part].annotation)
    if not known:
        return f'sections {", ".join(model.model_fields)}'
    field = model.model_fields[known[-1]]
    return _allowed(field.annotation, field.metadata)


def _unknown_key(loc):
    parents, key = loc[:-1], str(loc[-1])
    model = PipelineConfig
    parts = []
    for part in parents:
        if part in model.model_fields:
            model = _submodel(model.model_fields[part].annotation)
            parts.append(str(part))
    path = '.'.join([*parts, key])
    near = difflib.get_close_matches(key, model.model_fields, n=1)
    if near:
        hint = f"did you mean '{'.'.join([*parts, near[0]])}'?"
    else:
        elsewhere = _elsewhere(key)
        hint = f"did you mean '{elsewhere}'? " if elsewhere else ''
        hint += f'known here: {", ".join(model.model_fields)}'
    return f"unknown key '{path}'; {hint}"


def _elsewhere(key):
    """
    Look for a key of this or nearly this name in the other sections.
    """
    paths = {
        name: f'{section}.{name}'
        for section, field in PipelineConfig.model_fields.items()
        for name in field.annotation.model_fields
    }
    near = difflib.get_close_matches(key, paths, n=1, cutoff=0.8)
    return paths[near[0]] if near else None


def _shown(value):
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
