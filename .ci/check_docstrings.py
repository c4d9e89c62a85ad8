# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Validate the docstrings of the public API with numpydoc.

The objects are imported, so that what is public is what a subpackage
hands on, and dataclasses and inherited constructors are seen as they
are.
The checks are those of ``[tool.numpydoc_validation]`` in pyproject.toml.
"""

import importlib
import inspect
import pkgutil
import sys
import tomllib
from pathlib import Path

from numpydoc.validate import ERROR_MSGS, validate

import hyperphotutils

__all__ = ['main', 'public_names']

_CONFIG = ('hyperphotutils.pipeline.config.',
           'hyperphotutils.pipeline.image_config.')
# Methods with the same arguments as these refer to their docstrings.
_REFERENCES = ('; see `NoiseModel.', '; see `FootprintFactors.')
_INTERFACES = {'hyperphotutils.background.interface.LocalBackground',
               'hyperphotutils.noise.model.NoiseModel'}


def public_names():
    """
    Find the names of all public objects and the members they define.

    Yields
    ------
    name : str
        The dotted name of a function, class, method, or property, at
        the place where it is defined.
    """
    for info in pkgutil.walk_packages(hyperphotutils.__path__,
                                      'hyperphotutils.'):
        if info.ispkg:
            continue
        module = importlib.import_module(info.name)
        subpackage = importlib.import_module(module.__package__)
        for name in getattr(module, '__all__', ()):
            obj = getattr(module, name)
            if getattr(subpackage, name, None) is not obj or not (
                    inspect.isclass(obj) or inspect.isfunction(obj)):
                continue
            yield f'{info.name}.{name}'
            if inspect.isclass(obj):
                yield from (f'{info.name}.{name}.{member}'
                            for member, value in vars(obj).items()
                            if _is_documented(member, value))


def _is_documented(member, value):
    """
    Whether a member of a class needs a docstring of its own.
    """
    kinds = (property, classmethod, staticmethod)
    return (not member.startswith('_')
            and (inspect.isfunction(value) or isinstance(value, kinds)))


def main():
    """
    Print every problem.

    Returns
    -------
    status : int
        The exit status: 1 if there is a problem, otherwise 0.
    """
    config = tomllib.loads(
        Path('pyproject.toml').read_text(encoding='utf-8'))
    ignored = set(config['tool']['numpydoc_validation']['checks'])
    checks = set(ERROR_MSGS) - ignored
    n_problems = n_names = 0
    for name in public_names():
        n_names += 1
        result = validate(name)
        docstring = ' '.join(result['docstring'].split())
        for code, message in result['errors']:
            # The fields of a configuration describe themselves, and
            # interfaces have no constructor.
            if code == 'PR01' and (
                    name.startswith(_CONFIG) or name in _INTERFACES
                    or any(part in docstring for part in _REFERENCES)):
                continue
            if code in checks:
                n_problems += 1
                place = f'{result["file"]}:{result["file_line"]}'
                sys.stdout.write(f'{place}: {name}: {code} {message}\n')
    sys.stdout.write(f'{n_problems} problems in the docstrings of '
                     f'{n_names} public names\n')
    return int(n_problems > 0)


if __name__ == '__main__':
    sys.exit(main())
