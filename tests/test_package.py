# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the package as a whole: its version and its structure.
"""

import ast
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

import hyperphotutils
from hyperphotutils.datasets import make_blended_map

ROOT = Path(hyperphotutils.__file__).parent
MODULES = sorted(path for path in ROOT.rglob('*.py')
                 if path.name != '_version.py')
LICENCE = ('# Licensed under a 3-clause BSD style license '
           '- see LICENSE.rst')

# The layers of the subpackages, and of modules with a layer of their own.
# A module imports only from lower layers, from its own subpackage, and
# from the subpackages in SHARED in its own layer.
LAYERS = {
    'utils': 1, 'maps': 1, 'noise': 1, 'background': 1,
    'visualization': 1, 'catalog': 1,
    'detection': 2, 'blend': 2, 'aperture': 2, 'datasets': 2,
    'photometry': 3, 'psf': 3, 'stamps': 3, 'subtraction': 3, 'galaxy': 3,
    'pipeline.text': 4, 'pipeline.config': 4, 'pipeline.config_files': 4,
    'compat': 5, 'pipeline': 6,
}
SHARED = {'utils', 'noise', 'visualization'}


def module_id(path):
    return str(path.relative_to(ROOT))


def imported_names(path, *, annotations=True):
    """
    The absolute dotted names that a module imports, wherever it does so.

    Those imported for annotations only, which nothing loads when a
    program runs, can be left out.
    """
    tree = ast.parse(path.read_text(encoding='utf-8'))
    if not annotations:
        tree.body = [node for node in tree.body
                     if not isinstance(node, ast.If)
                     or ast.unparse(node.test) != 'TYPE_CHECKING']
    names = set()
    for node in ast.walk(tree):
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


def test_run_imports_no_module_of_other_tasks(tmp_path):
    """
    A run with its default products loads nothing that it does not use.
    """
    make_blended_map((64, 64), 3, seed=1).write(tmp_path / 'map.fits')
    command = ['run', str(tmp_path / 'map.fits'), '--quiet',
               '--output-dir', str(tmp_path / 'out')]
    loaded = modules_after(
        'from hyperphotutils.pipeline.cli import main; '
        f'assert main({command!r}) == 0')
    assert (tmp_path / 'out' / 'map' / 'overview.png').exists()
    assert 'hyperphotutils.visualization.maps' in loaded
    assert not loaded & {
        'dask', 'distributed', 'matplotlib.pyplot', 'photutils.psf',
        'photutils.segmentation', 'regions', 'scipy.cluster',
        'scipy.interpolate', 'scipy.signal', 'scipy.stats', 'skimage',
        'sklearn'}


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


def layer_of(parts):
    """
    The layer of a module, given by the parts of its name.
    """
    return LAYERS.get('.'.join(parts[:2]), LAYERS.get(parts[0]))


@pytest.mark.parametrize('path', MODULES, ids=module_id)
def test_imports_from_lower_layers(path):
    """
    No subpackage imports from a higher layer, or from its own.

    Annotations may name the types of its own layer, but of no higher one.
    """
    package, *module = path.relative_to(ROOT).with_suffix('').parts
    layer = layer_of((package, *module))
    if layer is None:
        assert package in {'__init__', '__main__', 'startup'}, (
            f'{package} is in no layer')
        return
    loaded = imported_names(path, annotations=False)
    for name in imported_names(path):
        root, *parts = name.split('.')
        if root != 'hyperphotutils' or parts[0] == package or parts[0] in {
                '__version__', '__main__', 'startup'}:
            continue
        below = layer_of(parts) < layer + (name not in loaded)
        shared = parts[0] in SHARED and package != 'utils'
        assert below or shared, f'{package} imports {name}'


def test_imports_make_no_circle():
    """
    No module needs itself by way of others, wherever they are imported.

    Types that name each other in annotations are no circle: a program
    loads neither for the other.
    """
    names = {'.'.join(('hyperphotutils',
                       *path.relative_to(ROOT).with_suffix('').parts)): path
             for path in MODULES}
    needs = {}
    for name, path in names.items():
        imported = imported_names(path, annotations=False)
        # an import names a module, or what is in one
        needs[name] = names.keys() & (
            imported | {part.rpartition('.')[0] for part in imported})
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


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc',
                    reason='other C libraries decide themselves')
def test_memory_of_a_run_is_kept():
    """
    A run gets the memory of its images once from the system, and does not
    search its objects for cycles when it ends.
    """
    code = """
import atexit, gc, resource
import numpy as np
from hyperphotutils.startup import tune_memory

tune_memory()
faults = []
for _ in range(3):
    images = [np.ones(400_000) for _ in range(8)]
    del images
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
atexit._run_exitfuncs()
print(faults[1] - faults[0], faults[2] - faults[1], gc.get_freeze_count(),
      len(gc.get_objects()))
"""
    result = subprocess.run([sys.executable, '-c', code], check=True,
                            cwd=ROOT.parent, capture_output=True, text=True)
    *n_faults, n_frozen, n_left = map(int, result.stdout.split())
    # 8 images have 6250 pages.
    assert max(n_faults) < 1000
    assert n_frozen > 10 * n_left


def test_garbage_is_collected_after_the_imports(tmp_path):
    """
    A run of a map collects no garbage, as its imports make none; one of
    many maps collects it often.
    """
    make_blended_map((64, 64), 3, seed=1).write(tmp_path / 'map.fits')
    code = f"""
import gc, sys
from hyperphotutils.__main__ import main

n_before = gc.get_stats()[0]['collections']
sys.argv = ['hyperphot', 'run', {str(tmp_path / 'map.fits')!r}, '--quiet',
            '--output-dir', {str(tmp_path / 'out')!r}]
assert main() == 0
n_run = gc.get_stats()[0]['collections'] - n_before
kept = [[] for _ in range(500_000)]
print(n_run, gc.get_threshold()[0])
"""
    result = subprocess.run([sys.executable, '-c', code], check=True,
                            cwd=ROOT.parent, capture_output=True, text=True)
    n_run, threshold = map(int, result.stdout.split())
    assert n_run == 0
    assert threshold <= 100_000
