# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Objects that are copied, pickled, and used by several threads.
"""

import copy
import importlib
import inspect
import pickle
import pkgutil
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Barrier

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.wcs import WCS
from numpy.testing import assert_array_equal
from pydantic import BaseModel

import hyperphotutils
from hyperphotutils.aperture import (
    GaussianEllipseAperture,
    SkyGaussianEllipseAperture,
)
from hyperphotutils.background import (
    CubeBackground,
    ImageBackground,
    LocalPolynomialBackground,
    PolynomialBackground2D,
)
from hyperphotutils.blend import BlendGroupFitter
from hyperphotutils.catalog import RESULT_COLUMNS, CatalogError
from hyperphotutils.datasets import (
    make_blended_map,
    make_galaxy_field,
    make_map_cube,
    make_star_field,
)
from hyperphotutils.detection import (
    ExtendedSourceFinder,
    HighPassStarFinder,
    ShoulderFilter,
)
from hyperphotutils.galaxy import SersicCube, SersicFitter, SersicRenderer
from hyperphotutils.maps import FitsImage, MapError, get_survey
from hyperphotutils.noise import (
    CorrelatedNoise,
    GridImage,
    WhiteNoise,
    detect_bad_pixels,
)
from hyperphotutils.noise.factors import FactorCache
from hyperphotutils.photometry import (
    ForcedPhotometry,
    HyperPhotometry,
    InjectionRecovery,
    TiledPhotometry,
)
from hyperphotutils.pipeline import (
    ConfigError,
    ImageConfig,
    LoadedConfig,
    MapJob,
    MapOutcome,
    OutputError,
    PipelineConfig,
    PipelineError,
    SubtractConfig,
)
from hyperphotutils.psf import EmpiricalPSFBuilder, StarSelector
from hyperphotutils.stamps import make_stamps, subtract_sky
from hyperphotutils.utils import PixelAreas, StoredImage

FWHM = 4.0
# Interfaces; what holds an open file or processes; parts that a call makes and
# drops; and what the tests of maps and of Hyper-py make of files
EXEMPT = {'CubeWriter', 'ChannelBackground', 'LocalApertures',
          'LocalBackground', 'LocalBackgroundFits', 'MapCube', 'NoiseModel',
          'HyperPyConfig', 'ErrorPlane', 'JobsConfig', 'WorkerProcesses'}
# Packages that are not covered yet, with their simulated data.
NOT_COVERED = ('hyperphotutils.subtraction',
               'hyperphotutils.datasets.image_pairs')


@cache
def make_objects():
    """
    Objects of the package by name: used ones, with all their results.
    """
    simulated = make_blended_map((100, 100), 8, seed=1)
    finder = HighPassStarFinder(fwhm=FWHM, n_sigma=5.0)
    photometry = HyperPhotometry(FWHM, finder=finder)
    table = photometry(simulated.image)
    fitter = BlendGroupFitter(FWHM)
    fitter(simulated.image.data, init_params=QTable(
        {'x_init': table['x_fit'], 'y_init': table['y_fit']}))
    local = LocalPolynomialBackground((21, 31), orders=(0, 1))
    local(simulated.image.data, [50.0], [50.0])
    cube = make_map_cube((4, 48, 48), 2, seed=1)
    background = CubeBackground(orders=(0, 1))
    forced = ForcedPhotometry()
    forced(simulated.truth, {'a': simulated.image})
    recovery = InjectionRecovery(finder, snr=(1.0, 20.0), n_repeats=6,
                                 n_per_map=5, seed=1)
    job = MapJob('a.fits', 'a', Path('out'))
    stars = make_star_field((150, 150), 8, seed=1)
    selector, builder = StarSelector(3.0), EmpiricalPSFBuilder(21, order=0)
    psf = builder(stars.data, selector(stars.data, error=stars.error),
                  error=stars.error)
    field = make_galaxy_field((100, 100), 2, seed=1)
    galaxies = SersicFitter(field.psf, size=32)
    galaxies(field.data, error=field.error, segmentation=field.segmentation)
    extended = ExtendedSourceFinder(3.0, deblend=False)
    models = SersicCube(field.psf, n=[1.0, 4.0], r_eff=[1.0, 2.0, 4.0],
                        q=[0.5, 1.0], theta=[0.0, 90.0], size=32)
    y, x = np.mgrid[-15:16, -15:16]
    moffat = (1.0 + (x**2 + y**2) / FWHM**2)**-3.0
    convolving = BlendGroupFitter(FWHM, psf=moffat / moffat.sum())
    return {
        'star field': stars,
        'selector': selector,
        'builder': builder,
        'psf': psf,
        'gaussians': psf.as_gaussians(2),
        'galaxy field': field,
        'galaxies': galaxies,
        'renderer': SersicRenderer(field.psf, 32),
        'models': models,
        'chi2': models.fit(field.data[:32, :32]),
        'extended': extended,
        'extended sources': extended(field.data),
        'sky': subtract_sky(field.data, fwhm=3.0, order=0),
        'stamps': make_stamps(field.data, field.truth, size=16),
        'simulated': simulated,
        'cube': cube,
        'survey': get_survey('spire250'),
        'finder': finder,
        'shoulders': ShoulderFilter(0.5),
        'noise': CorrelatedNoise.from_beam(1.0, FWHM),
        'factors': CorrelatedNoise.from_beam(1.0, FWHM).factors(
            [[3, 4, 5]], [[7, 7, 7]]),
        'white noise': WhiteNoise(1.0, relative_rms=np.ones((4, 4))),
        'diagonal factors': WhiteNoise(1.0).factors(
            [[3, 4, 5]], [[7, 7, 7]], extra=[[0.0, 1.0, 0.0]]),
        'grid image': GridImage(np.array([[1.0, 3.0]]), (0, 0), (1, 4),
                                (1, 6)),
        'stored image': StoredImage('a.raw', (2, 3), np.dtype('f4')),
        'bad pixels': detect_bad_pixels(simulated.image, FWHM),
        'areas': PixelAreas(simulated.image.wcs, (100, 100)),
        'photometry': photometry,
        'map noise': photometry.measure_noise(simulated.image),
        'tiles': TiledPhotometry(HyperPhotometry(FWHM), 50),
        'table': table,
        'fitter': fitter,
        'fitter with a PSF': convolving,
        'forced': forced,
        'aperture': GaussianEllipseAperture((5.0, 6.0), 3.0, 2.0),
        'sky aperture': SkyGaussianEllipseAperture(
            SkyCoord(1.0, 2.0, unit='deg'), 3 * u.arcsec, 2 * u.arcsec),
        'local background': local,
        'image background': ImageBackground(PolynomialBackground2D),
        'background': PolynomialBackground2D(simulated.image.data),
        'cube background': background,
        'cube background result': background(cube.cube),
        'recovery': recovery,
        'recovery result': recovery(simulated.image, fwhm=FWHM),
        'image': FitsImage(np.ones((2, 2)), fits.Header(), 'a.fits',
                           'PRIMARY', Table({'BMAJ': [1.0]})),
        'column': RESULT_COLUMNS['flux_fit'],
        'config': PipelineConfig(),
        'image config': ImageConfig(),
        'subtraction config': SubtractConfig(),
        'job': job,
        'outcome': MapOutcome(job, 'done', {'rms': 1.0}),
        'loaded': LoadedConfig(PipelineConfig(), Path('a.yaml'),
                               {'fit.poly_order': 'line 3'}, None),
        'catalog error': CatalogError("'a.csv' has no sources"),
        'map error': MapError('a.fits: no such file'),
        'config error': ConfigError(['a.yaml: line 1: no']),
        'output error': OutputError(28, 'No space', 'a.fits'),
        'pipeline error': PipelineError('no map'),
    }


NAMES = (
    'star field', 'selector', 'builder', 'psf', 'gaussians', 'galaxy field',
    'galaxies', 'renderer', 'models', 'chi2', 'extended', 'extended sources',
    'sky', 'stamps', 'simulated', 'cube', 'survey', 'finder', 'shoulders',
    'noise', 'factors', 'white noise', 'diagonal factors', 'bad pixels',
    'grid image', 'stored image',
    'areas', 'photometry', 'map noise', 'tiles', 'table', 'fitter',
    'fitter with a PSF', 'forced', 'aperture', 'sky aperture',
    'local background', 'image background', 'background', 'cube background',
    'cube background result', 'recovery', 'recovery result', 'image',
    'column', 'config', 'image config',
    'subtraction config', 'job', 'outcome', 'loaded', 'catalog error',
    'map error', 'config error', 'output error', 'pipeline error')


def parts_of(thing):
    """
    What an object consists of, by name; `None` for what has no parts.
    """
    if isinstance(thing, dict):
        return dict(thing)
    if isinstance(thing, list | tuple):
        return dict(enumerate(thing))
    if isinstance(thing, BaseException):
        return {'args': thing.args}
    if isinstance(thing, FactorCache):
        return {}  # copies begin with an empty one
    own = type(thing).__module__.startswith('hyperphotutils')
    if own and not isinstance(thing, type) and not inspect.isroutine(thing):
        parts = dict(getattr(thing, '__dict__', {}))
        for kind in type(thing).__mro__:
            for name in getattr(kind, '__slots__', ()):
                if hasattr(thing, name):
                    parts[name] = getattr(thing, name)
        return parts
    return None


def assert_same(one, two, place='it', seen=()):
    """
    Assert that two objects have the same parts to the last one.
    """
    assert type(one) is type(two), place
    if id(one) in seen:  # parts may refer to the whole
        return
    seen = {*seen, id(one)}
    parts = parts_of(one)
    if isinstance(one, BaseModel) or (parts is None and isinstance(
            one, str | bytes | Path | int | None)):
        assert one == two, place
    elif parts is not None:
        others = parts_of(two)
        assert parts.keys() == others.keys(), place
        for name, part in parts.items():
            assert_same(part, others[name], f'{place}.{name}', seen)
    elif isinstance(one, Table):
        assert one.colnames == two.colnames, place
        for name in one.colnames:
            assert_same(one[name], two[name], f'{place}[{name!r}]', seen)
        assert one.meta.keys() == two.meta.keys(), place
    elif isinstance(one, SkyCoord):
        assert np.all(one == two), place
    elif isinstance(one, WCS):
        assert one.to_header() == two.to_header(), place
    elif isinstance(one, np.ndarray) and one.dtype.kind != 'O':
        assert getattr(one, 'unit', None) == getattr(two, 'unit', None), place
        assert_array_equal(np.asarray(one), np.asarray(two), err_msg=place)


def kinds_in(thing, kinds, seen):
    """
    Collect the names of the classes in an object.
    """
    if id(thing) in seen:
        return
    seen.add(id(thing))
    kinds.add(type(thing).__name__)
    for part in (parts_of(thing) or {}).values():
        kinds_in(part, kinds, seen)


def public_classes():
    names = set()
    for module in pkgutil.iter_modules(hyperphotutils.__path__):
        if not module.ispkg:
            continue
        package = importlib.import_module(f'hyperphotutils.{module.name}')
        names |= {name for name, kind in vars(package).items()
                  if inspect.isclass(kind) and not name.startswith('_')
                  and kind.__module__.startswith('hyperphotutils')
                  and not kind.__module__.startswith(NOT_COVERED)}
    return names


def test_all_public_classes_are_here():
    """
    No class is forgotten.
    """
    objects = make_objects()
    assert set(NAMES) == set(objects)
    kinds, seen = set(), set()
    for thing in objects.values():
        kinds_in(thing, kinds, seen)
    # (options are pydantic's parts of the configuration)
    missing = {name for name in public_classes() - kinds - EXEMPT
               if not name.endswith('Options')}
    assert missing == set()


@pytest.mark.parametrize('how', ['deepcopy', 'copy', 'pickle'])
@pytest.mark.parametrize('name', NAMES)
def test_copies(name, how):
    """
    A copy has the same parts, and a deep one shares no array.
    """
    thing = make_objects()[name]
    make = {'deepcopy': copy.deepcopy, 'copy': copy.copy,
            'pickle': lambda one: pickle.loads(pickle.dumps(one))}[how]
    other = make(thing)
    if thing is not other:
        assert_same(thing, other, name)
    if how != 'copy':
        assert_apart(thing, other, name)


def assert_apart(one, two, place, seen=()):
    if id(one) in seen:
        return
    seen = {*seen, id(one)}
    if isinstance(one, np.ndarray) and one.flags.writeable and one.size:
        assert not np.shares_memory(one, two), place
    others = parts_of(two) or {}
    for name, part in (parts_of(one) or {}).items():
        assert_apart(part, others[name], f'{place}.{name}', seen)


def test_results_of_copies():
    """
    A copied photometry knows its last map, and measures the next one.
    """
    photometry = make_objects()['photometry']
    for other in (copy.deepcopy(photometry),
                  pickle.loads(pickle.dumps(photometry))):
        assert_array_equal(other.make_model_image(),
                           photometry.make_model_image())
        simulated = make_blended_map((80, 80), 4, seed=3)
        other(simulated.image)
        assert other.make_model_image().shape == (80, 80)
        assert photometry.make_model_image().shape == (100, 100)


def test_two_threads():
    """
    One photometry in two threads gives the tables of two, or refuses.
    """
    maps = [make_blended_map((90 + 20 * k,) * 2, 8, seed=k).image
            for k in range(2)]
    expected = [HyperPhotometry(FWHM)(image) for image in maps]
    shared = HyperPhotometry(FWHM)
    barrier = Barrier(2)

    def measure(image):
        barrier.wait(60)
        try:
            return shared(image)
        except RuntimeError as exc:
            assert 'thread' in str(exc)
            return None

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(measure, maps))
    assert any(table is not None for table in found)
    for table, own in zip(found, expected, strict=True):
        if table is not None:
            assert_array_equal(table['flux_fit'], own['flux_fit'])
            assert_array_equal(table['aperture_flux_err'],
                               own['aperture_flux_err'])


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc',
                    reason='other C libraries decide themselves')
def test_memory_of_a_map_is_kept():
    """
    The steps of a measurement get the memory of their images once from the
    system, not page by page for each image.
    """
    code = """
import resource
import numpy as np
from hyperphotutils.photometry.measurement import MeasuredMap

MeasuredMap(np.ones((9, 9)))
faults = []
for _ in range(3):
    images = [np.ones(400_000) for _ in range(8)]
    del images
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[1] - faults[0], faults[2] - faults[1])
"""
    result = subprocess.run(
        [sys.executable, '-c', code], check=True, capture_output=True,
        text=True, cwd=Path(hyperphotutils.__file__).parents[1])
    # 8 images have 6250 pages
    assert max(map(int, result.stdout.split())) < 1000
