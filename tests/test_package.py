# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the package as a whole: its version and its structure.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

import hyperphotutils

ROOT = Path(hyperphotutils.__file__).parent
MODULES = sorted(path for path in ROOT.rglob('*.py')
                 if path.name != '_version.py')
LICENCE = ('# Licensed under a 3-clause BSD style license '
           '- see LICENSE.rst')

# A room imports from lower floors, or from rooms of its own floor where
# that is listed in SHARED.
FLOORS = {
    'utils': 1, 'maps': 1, 'noise': 1, 'background': 1,
    'visualization': 1,
    'detection': 2, 'blend': 2, 'aperture': 2, 'datasets': 2, 'catalog': 2,
    'photometry': 3, 'psf': 3, 'stamps': 3, 'subtraction': 3, 'galaxy': 3,
    'compat': 4,
    'pipeline': 5,
}
SHARED = {'utils', 'noise'}


def module_id(path):
    return str(path.relative_to(ROOT))


def imported_names(path):
    """
    The absolute dotted names that a module imports, wherever it does so.
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            names.update(f'{node.module}.{alias.name}'
                         for alias in node.names)
    return names


def modules_after(statement):
    """
    The names of all modules that a fresh Python has after a statement.
    """
    code = f'import sys; {statement}; print(*sys.modules)'
    result = subprocess.run([sys.executable, '-c', code], check=True,
                            cwd=ROOT.parent, capture_output=True, text=True)
    return set(result.stdout.split())


def test_version():
    """
    The package knows a valid version of itself.
    """
    assert Version(hyperphotutils.__version__) >= Version('0.1.dev0')


def test_package_import_loads_nothing():
    """
    Importing the package alone loads none of the scientific libraries.
    """
    loaded = modules_after('import hyperphotutils')
    assert not loaded & {'numpy', 'scipy', 'astropy', 'photutils'}


def test_photometry_import_is_light():
    """
    Importing the photometry loads no library that only some users need.

    What photutils.psf itself loads comes for free.
    """
    pytest.importorskip('hyperphotutils.photometry')
    free = modules_after('import photutils.psf')
    loaded = modules_after('import hyperphotutils.photometry') - free
    assert not loaded & {'sklearn', 'matplotlib', 'matplotlib.pyplot',
                         'pydantic', 'regions', 'yaml', 'radio_beam', 'tqdm'}


@pytest.mark.parametrize('path', MODULES, ids=module_id)
def test_imports_go_downwards(path):
    """
    No room imports from a higher floor, or from a neighbour.
    """
    room = path.relative_to(ROOT).parts[0]
    if room not in FLOORS:
        assert room in {'__init__.py', '__main__.py', 'startup.py'}, (
            f'{room} stands on no floor')
        return
    for name in imported_names(path):
        parts = name.split('.')
        if parts[0] != 'hyperphotutils' or parts[1] == room:
            continue
        target = parts[1]
        if target in {'__version__', '__main__', 'startup'}:
            continue
        below = FLOORS[target] < FLOORS[room]
        shared = target in SHARED and room != 'utils'
        assert below or shared, f'{room} imports {name}'


def test_imports_make_no_circle():
    """
    No module needs itself by way of others, wherever they are imported.
    """
    names = {'.'.join(('hyperphotutils',
                       *path.relative_to(ROOT).with_suffix('').parts)): path
             for path in MODULES}
    needs = {name: {part.rpartition('.')[0] for part in imported_names(path)}
             & names.keys() for name, path in names.items()}
    # a module that needs none of those left is in no circle
    while free := [name for name in needs if not needs[name] & needs.keys()]:
        for name in free:
            del needs[name]
    assert not needs


@pytest.mark.parametrize('path', MODULES, ids=module_id)
def test_no_private_module_of_photutils(path):
    """
    Private modules and names of photutils move between its releases.
    """
    for name in imported_names(path):
        parts = name.split('.')
        if parts[0] == 'photutils':
            assert not any(part.startswith('_') for part in parts), name


@pytest.mark.parametrize('path', MODULES, ids=module_id)
def test_module_form(path):
    """
    A module begins with its licence, says what it is, and lists its names.
    """
    text = path.read_text(encoding='utf-8')
    assert text.startswith(LICENCE)
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    if path.name in {'__init__.py', '__main__.py'}:
        return
    names = [target.id for node in tree.body if isinstance(node, ast.Assign)
             for target in node.targets if isinstance(target, ast.Name)]
    assert '__all__' in names


def test_subpackages_only_hand_on_names():
    """
    The __init__ of a subpackage holds imports and a docstring, no code.
    """
    for path in ROOT.glob('*/__init__.py'):
        body = ast.parse(path.read_text(encoding='utf-8')).body
        for node in body[1:]:
            assert isinstance(node, ast.ImportFrom), f'{path}: {node.lineno}'
