# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reading YAML files so that every mistake is reported with its line.
"""

import os
import re

import yaml

from hyperphotutils.pipeline.names import expand_path, printable, read_text

__all__ = ['ConfigError', 'read_yaml']

# A configuration that is larger takes more than a second to read. Long
# lists of sources belong into a table.
_MAX_CHARACTERS = 2**19
_MAX_VALUES = 20_000
# Ours have three levels, those of Hyper-py four.
_MAX_DEPTH = 20
_MAX_INTEGER = 2**63 - 1


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
        self.problems = tuple(printable(line) for line in problems)
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


class _Loader(yaml.SafeLoader):
    """
    YAML without tags of its own, whose size is bounded.

    Numbers are those of YAML 1.2: ``1e-3`` is one, ``05:35:17`` is not.
    Aliases count as often as they are used, so that a small file cannot
    stand for a huge configuration.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 (an attribute of PyYAML)
    yaml_constructors = {}  # noqa: RUF012

    def __init__(self, text):
        super().__init__(text)
        self.n_values = 0
        self.depth = 0
        # the values in each node that is complete
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
        """
        Make a text that can be the name of a file.
        """
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
        """
        Make an integer or floating-point number.
        """
        text = self.construct_scalar(node)
        kind = node.tag.rpartition(':')[2]
        try:
            if kind == 'float':
                return float(text.replace('.inf', 'inf').replace('.nan',
                                                                 'nan'))
            number = int(text, 16 if 'x' in text else 10)
        except ValueError:
            if len(text) <= 20:
                _refuse(f'{text!r} is not a number ({kind})', node)
            number = _MAX_INTEGER + 1
        if abs(number) > _MAX_INTEGER:
            _refuse(f'a number with too many digits ({len(text)})', node)
        return number

    def construct_truth(self, node):
        """
        Make a true or false of any of its words.
        """
        text = self.construct_scalar(node)
        if text.lower() not in self.bool_values:
            _refuse(f'{text!r} is not true or false', node)
        return self.bool_values[text.lower()]

    def construct_list(self, node):
        """
        Make a list.
        """
        return self.construct_sequence(node, deep=True)

    def construct_keys(self, node):
        """
        Make a dictionary in which each key is a text and named once.
        """
        if not isinstance(node, yaml.MappingNode):
            _refuse('must be keys and values', node)
        values = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                _refuse(f'the key {key!r} is not allowed, must be text',
                        key_node)
            if key in values:
                _refuse(f'{key!r} is named twice', key_node)
            values[key] = self.construct_object(value_node, deep=True)
        return values

    def construct_unknown(self, node):
        """
        Refuse all other tags.
        """
        tag = node.tag.replace('tag:yaml.org,2002:', '!!')
        _refuse(f'the tag {tag!r} is not allowed', node)


def _refuse(problem, place):
    """
    Raise an error of YAML at the beginning of a node or event.
    """
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


for _kind, _first, _pattern, _construct in (
        ('bool', 'yYnNtTfFoO', r'(?i:yes|no|true|false|on|off)',
         _Loader.construct_truth),
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


def _parse(text, path):
    """
    Return the nested values and the line of every key path.
    """
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
        what = ' '.join(filter(None, (exc.context, exc.problem)))
        raise ConfigError([f'{path}: line {line}: {what}']) from exc
    except (ValueError, OverflowError) as exc:
        # PyYAML does not check the numbers in escapes and directives
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
    return values, dict(_key_lines(node, ()))


def _key_lines(node, loc):
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        here = (*loc, key.value)
        yield here, key.start_mark.line + 1
        yield from _key_lines(value, here)
