# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Configurations as YAML: reading, messages about errors, and writing.

Messages, the commented template, and the names of unknown keys are made
from the models in `hyperphotutils.pipeline.config`.
"""

from __future__ import annotations

import difflib
import os
import re
import textwrap
from types import NoneType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    get_args,
    get_origin,
)

import yaml
from pydantic import BaseModel, ValidationError

from hyperphotutils.pipeline.config import ConfigError, PipelineConfig
from hyperphotutils.pipeline.text import expand_path, quote, read_text

if TYPE_CHECKING:

    from hyperphotutils.pipeline.config import JobsConfig
    from hyperphotutils.utils.typing import FilePath

__all__ = [
    'config_template',
    'config_to_yaml',
    'override_config',
    'read_config',
]

# Limits of a configuration file, so that reading it takes about a second
# at most.
_MAX_CHARACTERS = 2**19
_MAX_VALUES = 20_000
_MAX_DEPTH = 20
_MAX_INTEGER = 2**63 - 1
_LINE_WIDTH = 76


def read_config(path: FilePath) -> PipelineConfig:
    """
    Read a YAML configuration file.

    Parameters
    ----------
    path : str or path-like
        The file. Missing sections and keys have their defaults.

    Returns
    -------
    config : `PipelineConfig`
        The configuration.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not YAML, or has an unknown key or
        a value of the wrong type or range. The message names file, line,
        key, value, and the allowed values.

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
    return make_config(*read_yaml(path), path)


def make_config(values, lines, path):
    """
    Make a configuration of the result of `read_yaml`.

    ``path`` is the name of the file in messages.
    """
    # a section all of whose keys are commented out
    values = {key: value for key, value in values.items()
              if value is not None or key not in PipelineConfig.model_fields}

    return _validate(PipelineConfig, values, str(path), {
        loc: f'{path}: line {line}' for loc, line in lines.items()})


def override_config(config: JobsConfig, values: dict, *,
                    names: dict | None = None) -> Any:
    """
    Return a copy of a configuration with some values replaced.

    Parameters
    ----------
    config : `PipelineConfig` or another `JobsConfig`
        The configuration.

    values : dict
        The new values by key, such as ``{'detection.n_sigma': 5}``.

    names : dict, optional
        The origins of values in error messages, by key, such as
        ``{'detection.n_sigma': '--n-sigma'}``.

    Returns
    -------
    config : object
        The new configuration, of the same class.

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
    tree = config.model_dump()
    for key, value in values.items():
        *sections, last = key.split('.')
        branch = tree
        for section in sections:
            if not isinstance(branch.get(section), dict):
                branch[section] = {}
            branch = branch[section]
        branch[last] = value

    return _validate(type(config), tree, 'configuration', {
        tuple(key.split('.')): name for key, name in (names or {}).items()})


def config_template() -> str:
    """
    Return a commented YAML file of all keys and defaults.

    Returns
    -------
    text : str
        The text of the file.

    Examples
    --------
    >>> from hyperphotutils.pipeline import config_template
    >>> 'n_sigma' in config_template()
    True
    """
    return config_to_yaml(PipelineConfig())


def config_to_yaml(config: PipelineConfig, *, comments: bool = True,
                   origins: dict | None = None) -> str:
    """
    Convert a configuration to YAML.

    Parameters
    ----------
    config : `PipelineConfig`
        The configuration.

    comments : bool, optional
        Whether to add the description of each key.

    origins : dict, optional
        Comments on the origins of values, by key, such as
        ``{'detection.n_sigma': 'line 3'}``.

    Returns
    -------
    text : str
        The text, from which `read_config` makes an equal configuration.

    Examples
    --------
    >>> from hyperphotutils.pipeline import PipelineConfig, config_to_yaml
    >>> text = config_to_yaml(PipelineConfig(), comments=False)
    >>> print(text[text.index('run:'):])
    run:
      n_workers: 1
      scheduler: null
      quiet: false
      detection_only: false
      background_only: false
    """
    def comment(text, indent):
        return textwrap.wrap(
            ' '.join(text.split()), _LINE_WIDTH, break_on_hyphens=False,
            initial_indent=f'{indent}# ', subsequent_indent=f'{indent}#   ')

    lines = []
    if comments:
        what = ('their defaults' if config == PipelineConfig()
                else 'those of this run')
        lines += ['# Configuration of hyperphot. All keys are optional; the',
                  f'# values below are {what}.']
    for name, section in config:
        if comments:
            lines += ['', *comment(type(section).__doc__, '')]
        lines.append(f'{name}:')
        for key, value in section.model_dump().items():
            field = type(section).model_fields[key]
            if comments:
                allowed = _describe_allowed(field.annotation, field.metadata)
                lines += comment(f'{field.description} ({allowed})', '  ')
            value = list(value) if isinstance(value, tuple) else value
            text = yaml.safe_dump(value, default_flow_style=True,
                                  width=2**20, sort_keys=False)
            line = f'  {key}: ' + text.removesuffix('...\n').strip()
            origin = (origins or {}).get(f'{name}.{key}')
            lines.append(f'{line}  # {origin}' if origin else line)
    return '\n'.join(lines) + '\n'


def _validate(model, values, origin, origins):
    """
    Make a configuration, a ``model``, of nested dictionaries.

    ``origins`` are the origins of keys (tuples) in messages; that of a key
    without one is the origin of its section, or else ``origin``.
    """
    try:
        return model.model_validate(values)
    except ValidationError as exc:
        errors = exc.errors(include_url=False)

    def precision(error):
        return error['type'] == 'value_error', len(error['loc'])

    # A value that may have one of several types has an error for each of
    # them: keep the innermost, and those of keys rather than that of
    # their mapping.
    chosen = {}
    for error in errors:
        loc = error['loc']
        keys = _find_field(model, loc)[0]
        if error['type'] in {'extra_forbidden', 'invalid_key'}:
            keys = (*_find_field(model, loc[:-1])[0], loc[-1])
        if keys not in chosen or precision(error) > precision(chosen[keys]):
            chosen[keys] = error
    problems = []
    parents = {keys[:end] for keys in chosen for end in range(len(keys))}
    for keys, error in chosen.items():
        if keys in parents:
            continue
        place = keys[:-1] if error['type'] == 'invalid_key' else keys
        while place and place not in origins:
            place = place[:-1]
        problems.append(f'{origins.get(place, origin)}: '
                        f'{_describe_problem(model, keys, error)}')
    raise ConfigError(problems)


def _find_field(model, loc):
    """
    Return the keys in a location of pydantic, which also has the types of
    unions and the indices of lists, and the type and limits of the value.
    """
    keys, annotation, metadata = [], model, ()
    for part in loc:
        field = _find_model(annotation).model_fields.get(part)
        if field is not None:
            annotation, metadata = field.annotation, field.metadata
            keys.append(part)
    return tuple(keys), annotation, metadata


def _find_model(annotation):
    """
    Return the model in a type, an empty one if there is none.
    """
    return next((part for part in (annotation, *get_args(annotation))
                 if isinstance(part, type) and issubclass(part, BaseModel)),
                BaseModel)


def _describe_problem(model, keys, error):
    kind = error['type']
    if kind == 'extra_forbidden':
        return _describe_unknown_key(model, keys)
    if kind == 'invalid_key':
        return ': '.join(filter(None, (
            '.'.join(keys[:-1]),
            f'the key {keys[-1]!r} is not allowed, must be text')))
    if kind == 'value_error':
        text = str(error['ctx']['error'])
    elif kind == 'missing' and isinstance(error['loc'][-1], str):
        text = 'is required'
    else:
        allowed = _describe_allowed(*_find_field(model, keys)[1:])
        text = f'{quote(error["input"])} is not allowed, must be {allowed}'
    return ': '.join(filter(None, ('.'.join(keys), text)))


def _describe_unknown_key(model, keys):
    *parents, key = keys
    key = str(key)
    fields = _find_model(_find_field(model, parents)[1]).model_fields
    known = {name: '.'.join((*parents, name)) for name in fields}
    near = difflib.get_close_matches(key, known, n=1)
    if near:
        hint = f"did you mean '{known[near[0]]}'?"
    else:
        elsewhere = {name: f'{section}.{name}' for section, field
                     in model.model_fields.items()
                     for name in field.annotation.model_fields}
        near = difflib.get_close_matches(key, elsewhere, n=1, cutoff=0.8)
        hint = f"did you mean '{elsewhere[near[0]]}'? " if near else ''
        hint += f'known here: {", ".join(known)}'
    path = '.'.join((*parents, key))
    return f"unknown key '{path}'; {hint}"


def _describe_allowed(annotation, metadata=()):
    """
    Describe the values of a type, with limits from its metadata.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        for item in args[1:]:
            metadata = (*getattr(item, 'metadata', (item,)), *metadata)
        return _describe_allowed(args[0], metadata)
    if origin is Literal:
        return ' or '.join('false' if arg is False else repr(arg)
                           for arg in args)
    limits = {name: getattr(item, name) for item in metadata
              for name in ('gt', 'ge', 'lt', 'le', 'min_length')
              if getattr(item, name, None) is not None}
    if origin is tuple:
        size = 'any length'
        if args[-1] is not Ellipsis:
            size = f'{len(args)}'
        elif 'min_length' in limits:
            size = f'{limits["min_length"]} or more'
        return f'a list of {size}, each {_describe_allowed(args[0])}'
    if args:
        return ' or '.join(map(_describe_allowed, args))
    if issubclass(annotation, BaseModel):
        fields = annotation.model_fields
        text = f'the keys {", ".join(fields)}'
        if annotation.number_key:
            field = fields[annotation.number_key]
            number = _describe_allowed(field.annotation, field.metadata)
            text = f'{number} or {text}'
        return text
    text = {NoneType: 'null', bool: 'true or false', int: 'a whole number',
            float: 'a finite number', str: 'a text'}[annotation]
    signs = {'gt': '>', 'ge': '>=', 'lt': '<', 'le': '<='}
    limits = [f'{signs[name]} {limit:g}' for name, limit in limits.items()
              if name in signs]
    return ' '.join(filter(None, (text, ' and '.join(limits))))


def read_yaml(path):
    """
    Return the nested values of a YAML file, and the line of each key (a
    tuple of names).
    """
    try:
        path = expand_path(path)
    except ValueError as exc:
        raise ConfigError([str(exc)]) from exc
    try:
        text = read_text(path)
    except UnicodeDecodeError as exc:
        line = exc.object.count(b'\n', 0, exc.start) + 1
        msg = f'{path}: line {line}: not a text file in UTF-8 ({exc.reason})'
        raise ConfigError([msg]) from exc
    except OSError as exc:
        raise ConfigError([f'{path}: {exc.strerror}']) from exc
    except ValueError as exc:
        msg = f'{path}: not a configuration: {exc}'
        raise ConfigError([msg]) from exc
    if len(text) > _MAX_CHARACTERS:
        msg = (f'{path}: too large for a configuration: {len(text)} '
               f'characters, at most {_MAX_CHARACTERS} are read')
        raise ConfigError([msg])
    return _parse(text, path)


def _parse(text, path):
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as exc:
        line = text.count('\n', 0, exc.position) + 1
        msg = f'{path}: line {line}: a character that YAML does not allow'
        raise ConfigError([msg]) from exc
    try:
        node = loader.get_single_node()
        values = {} if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = mark.line + 1 if mark else 1
        problem = ' '.join(filter(None, (exc.context, exc.problem)))
        raise ConfigError([f'{path}: line {line}: {problem}']) from exc
    except (ValueError, OverflowError) as exc:
        # PyYAML does not check the numbers in escapes and directives.
        msg = (f'{path}: line {loader.line + 1}: a character escape or '
               'directive is out of range')
        raise ConfigError([msg]) from exc
    finally:
        loader.dispose()
    if values is None:
        return {}, {}
    if not isinstance(values, dict):
        msg = f'{path}: must have sections, each with its keys'
        raise ConfigError([msg])
    return values, dict(_find_lines(node, ()))


def _find_lines(node, loc):
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            keys = (*loc, key.value)
            yield keys, key.start_mark.line + 1
            yield from _find_lines(value, keys)


class _Loader(yaml.SafeLoader):
    """
    A YAML loader without tags, and of limited size.

    Numbers are those of YAML 1.2: ``1e-3`` is a number, ``05:35:17`` is
    not. Each alias counts as all of its values, so that a small file
    cannot expand to a huge configuration.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 (an attribute of PyYAML)
    yaml_constructors = {}  # noqa: RUF012

    def __init__(self, text):
        super().__init__(text)
        self.n_values = 0
        self.depth = 0
        # number of values in each completed node
        self.sizes = {}

    def compose_node(self, parent, index):
        event = self.peek_event()
        n_before = self.n_values
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            _refuse('values are nested too deeply', event)
        node = super().compose_node(parent, index)
        if not isinstance(event, yaml.AliasEvent):
            self.n_values += 1
        elif node in self.sizes:
            self.n_values += self.sizes[node]
        else:
            _refuse(f'the alias {event.anchor!r} is part of itself', event)
        if self.n_values > _MAX_VALUES:
            _refuse(f'more than {_MAX_VALUES} values; write long lists of '
                    'maps or sources into files of their own', event)
        self.sizes.setdefault(node, self.n_values - n_before)
        self.depth -= 1
        return node

    def construct_text(self, node):
        text = self.construct_scalar(node)
        try:
            if '\0' in text:
                _refuse('the character NUL is not allowed', node)
            os.fsencode(text)
        except UnicodeEncodeError:
            _refuse(f'{text!r} contains half of a character (a surrogate)',
                    node)
        return text

    def construct_number(self, node):
        text = self.construct_scalar(node)
        kind = node.tag.rpartition(':')[2]
        try:
            if kind == 'float':
                # '.inf' and '.nan' of YAML are 'inf' and 'nan' of Python
                return float(re.sub(r'\.(?=[in])', '', text.lower()))
            number = int(text, 16 if 'x' in text else 10)
        except ValueError:
            if len(text) <= 20:
                _refuse(f'{text!r} is not a number ({kind})', node)
            number = _MAX_INTEGER + 1
        if abs(number) > _MAX_INTEGER:
            _refuse(f'a number with too many digits ({len(text)})', node)
        return number

    def construct_bool(self, node):
        text = self.construct_scalar(node)
        if text.lower() not in self.bool_values:
            _refuse(f'{text!r} is not true or false', node)
        return self.bool_values[text.lower()]

    def construct_list(self, node):
        return self.construct_sequence(node, deep=True)

    def construct_keys(self, node):
        if not isinstance(node, yaml.MappingNode):
            _refuse('must be keys and values', node)
        values = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                _refuse(f'the key {key!r} is not allowed, must be text',
                        key_node)
            if key in values:
                _refuse(f'the key {key!r} is given twice', key_node)
            values[key] = self.construct_object(value_node, deep=True)
        return values

    def construct_unknown(self, node):
        tag = node.tag.replace('tag:yaml.org,2002:', '!!')
        _refuse(f'the tag {tag!r} is not allowed', node)


def _refuse(problem, place):
    """
    Raise a YAML error with the position of a node or event.
    """
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


for _kind, _first, _pattern, _construct in (
        ('bool', 'yYnNtTfFoO', r'(?i:yes|no|true|false|on|off)',
         _Loader.construct_bool),
        ('null', ['~', 'n', 'N', ''], r'~|null|Null|NULL|',
         _Loader.construct_yaml_null),
        ('int', '-+0123456789', r'[-+]?[0-9]+|0x[0-9a-fA-F]+',
         _Loader.construct_number),
        ('float', '-+.0123456789',
         r'[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?'
         r'|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)',
         _Loader.construct_number),
        ('str', '', '', _Loader.construct_text),
        ('seq', '', '', _Loader.construct_list),
        ('map', '', '', _Loader.construct_keys)):
    _tag = f'tag:yaml.org,2002:{_kind}'
    _Loader.add_constructor(_tag, _construct)
    if _first:
        _Loader.add_implicit_resolver(
            _tag, re.compile(f'(?:{_pattern})$'), list(_first))
_Loader.add_constructor(None, _Loader.construct_unknown)
