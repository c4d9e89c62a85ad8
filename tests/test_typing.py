# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the annotations of the public signatures.
"""

import ast
import builtins
import functools
import importlib
import inspect
import pkgutil
import re
import sys
import typing
from importlib.resources import files
from pathlib import Path

import pytest
from numpy.typing import ArrayLike, DTypeLike

import hyperphotutils

# Constructors and calls are public, other special methods are not.
SPECIAL = {'__init__', '__call__'}
EMPTY = inspect.Parameter.empty


def plain_function(member):
    """
    The function behind a method or a property, `None` without one.
    """
    if isinstance(member, classmethod | staticmethod):
        member = member.__func__
    elif isinstance(member, property):
        member = member.fget
    elif isinstance(member, functools.cached_property):
        member = member.func
    member = inspect.unwrap(member) if callable(member) else None
    return member if inspect.isfunction(member) else None


@functools.cache
def public_functions():
    """
    All functions and methods that subpackages hand on, by dotted name, and
    the objects whose docstrings describe their parameters.
    """
    functions = {}
    for info in pkgutil.walk_packages(hyperphotutils.__path__,
                                      'hyperphotutils.'):
        if info.ispkg or info.name.endswith('__main__'):
            continue
        module = importlib.import_module(info.name)
        package = importlib.import_module(module.__package__)
        for name in getattr(module, '__all__', ()):
            public = getattr(module, name)
            if getattr(package, name, None) is not public:
                continue
            members = [(public, public)]
            if inspect.isclass(public):
                members = [(member, public if key == '__init__' else member)
                           for cls in public.__mro__
                           for key, member in vars(cls).items()
                           if key in SPECIAL or not key.startswith('_')]
            for member, documented in members:
                function = plain_function(member)
                # dataclasses and other packages write some of them
                if (function and function.__module__.startswith(
                        'hyperphotutils') and Path(
                            function.__code__.co_filename).exists()):
                    functions[f'{function.__module__}.'
                              f'{function.__qualname__}'] = (function,
                                                             documented)
    return functions



@functools.cache
def names_for_annotations(module):
    """
    The names of a module, with those imported for annotations only.
    """
    module = sys.modules[module]
    names = dict(vars(module))
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.If) and ast.unparse(
                node.test) == 'TYPE_CHECKING':
            code = ast.Module(node.body, type_ignores=[])
            exec(compile(code, module.__file__, 'exec'), names)
    return names


def hints_of(function):
    """
    The types of the parameters and of the return value of a function.
    """
    return typing.get_type_hints(
        function, names_for_annotations(function.__module__))


def alternatives(hint):
    """
    The members of a union of types; array_like is kept as a whole.
    """
    if hint in (ArrayLike, DTypeLike):
        return {hint}
    # a union with array_like has its members, but not its name
    members = set(typing.get_args(hint)) if typing.get_origin(
        hint) in {typing.Union, type(int | str)} else {hint}
    return members | {arrays for arrays in (ArrayLike, DTypeLike)
                      if set(typing.get_args(arrays)) <= members}


def accepts(hint, default):
    """
    Whether a default value has one of the types of its annotation.

    Only `None`, booleans, numbers, and strings are compared.
    """
    members = alternatives(hint)
    if typing.Any in members or object in members:
        return True
    if default is None:
        return type(None) in members
    choices = {(type(choice), choice) for member in members
               if typing.get_origin(member) is typing.Literal
               for choice in typing.get_args(member)}
    if (type(default), default) in choices:
        return True
    wider = {bool: {bool}, int: {int, float}, float: {float}, str: {str}}
    if isinstance(default, bool | int | float):
        return bool(members & (wider[type(default)] | {ArrayLike}))
    if isinstance(default, str):
        return bool(members & {str, DTypeLike})
    return True


def documented_types(documented):
    """
    The types of those parameters whose docstring names one plain type.
    """
    section = re.search(r'^Parameters\n-+\n(.*?)(?=^\w[\w ]*\n---|\Z)',
                        inspect.getdoc(documented) or '',
                        re.DOTALL | re.MULTILINE)
    entries = re.findall(r'^([\w, ]+) : (bool|int|float|str)(?:, optional)?$',
                         section.group(1) if section else '', re.MULTILINE)
    return {name: getattr(builtins, kind) for names, kind in entries
            for name in names.split(', ')}


def test_public_functions_are_found():
    """
    The functions of the package, methods, properties, and constructors.
    """
    names = '\n'.join(public_functions())
    for name in ('maps.reader.read_map', 'HyperPhotometry.__init__',
                 'HyperPhotometry.__call__', 'WhiteNoise.rms',
                 'MapCube.unit', 'EmpiricalPSF.as_gaussians',
                 'GaussianEllipseAperture.from_table'):
        assert name in names


def test_signatures_are_annotated():
    """
    Every parameter and the return value of a public function has a type.
    """
    missing = []
    for name, (function, _) in public_functions().items():
        signature = inspect.signature(function)
        missing += [f'{name}({parameter.name})'
                    for parameter in signature.parameters.values()
                    if parameter.annotation is EMPTY
                    and parameter.name not in {'self', 'cls'}]
        if signature.return_annotation is EMPTY:
            missing.append(f'{name}: return value')
    assert not missing


# optional packages, which are imported for their types, may warn
@pytest.mark.filterwarnings('ignore')
def test_annotations_agree_with_defaults_and_docstrings():
    """
    All annotations can be evaluated, and all defaults have their types,
    which are those of the docstring where it names a plain one.
    """
    wrong = []
    for name, (function, documented) in public_functions().items():
        hints = hints_of(function)
        wrong += [f'{name}({parameter})'
                  for parameter in inspect.signature(
                      function).parameters.values()
                  if parameter.default is not EMPTY
                  and not accepts(hints[parameter.name], parameter.default)]
        wrong += [f'{name}({parameter}): {kind.__name__} in the docstring'
                  for parameter, kind in documented_types(documented).items()
                  if parameter in hints and alternatives(
                      hints[parameter]) - {type(None)} != {kind}]
    assert not wrong


def test_plain_types_are_found_in_docstrings():
    """
    The names share a type, and other sections are not read.
    """
    def documented():
        """
        Do nothing.

        Parameters
        ----------
        a, b : float, optional
            Numbers.

        c : int or str
            Not plain.

        Returns
        -------
        d : bool
            A result.
        """

    assert documented_types(documented) == {'a': float, 'b': float}


@pytest.mark.parametrize(('hint', 'default', 'expected'), [
    (float, 1, True), (float, None, False), (float | None, None, True),
    (int, 1.0, False), (int, True, False), (str, 'a', True),
    (typing.Literal['a', 'b'] | None, 'c', False), (ArrayLike, 1.0, True),
    (ArrayLike | None, None, True), (typing.Literal[False], False, True)])
def test_defaults_are_compared(hint, default, expected):
    """
    A default that does not have the type of its annotation is found.
    """
    assert accepts(hint, default) is expected


def test_marker_is_a_resource():
    """
    Type checkers read the annotations only with this file in the package.
    """
    assert files('hyperphotutils').joinpath('py.typed').is_file()
