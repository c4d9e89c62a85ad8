# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Maps that are measured with given noise, and in tiles.
"""

import gc
import json
import os
import pickle
import signal
from copy import deepcopy
from itertools import chain
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import MaskedColumn, QTable
from numpy.testing import assert_allclose, assert_array_equal
from photutils.utils.exceptions import NoDetectionsWarning
from scipy.spatial import KDTree

from hyperphotutils.datasets import make_blended_map
from hyperphotutils.detection import HighPassStarFinder
from hyperphotutils.noise import CorrelatedNoise
from hyperphotutils.noise.local import GridImage
from hyperphotutils.photometry import (
    HyperPhotometry,
    MapNoise,
    TiledPhotometry,
    measurement,
)
from hyperphotutils.photometry.tile_results import read_result, write_result
from hyperphotutils.utils import StoredImage

FWHM = 4.0


@pytest.fixture(name='image', scope='module')
def fixture_image():
    return make_blended_map((300, 260), 110, beam=FWHM, blend_fraction=0.5,
                            seed=3).image


@pytest.fixture(name='shared', scope='module')
def fixture_shared(image):
    return HyperPhotometry(FWHM).measure_noise(image)


@pytest.fixture(name='white', scope='module')
def fixture_white(image):
    """
    White noise, with which fits are faster.
    """
    return HyperPhotometry(FWHM, noise='white').measure_noise(image)


def match(table, other):
    """
    The row of each source in another table.
    """
    distance, row = KDTree(np.column_stack(
        (other['x_fit'], other['y_fit']))).query(np.column_stack(
            (table['x_fit'], table['y_fit'])))
    assert distance.max() < 0.01
    assert len(set(row.tolist())) == len(row)
    return other[row]


@pytest.mark.parametrize(('kind', 'tile_size'), [('image', 100),
                                                 ('array', 131)])
def test_tiles_are_equal_to_the_whole_map(image, shared, kind, tile_size):
    """
    With the noise of the whole map each source has one row, in the same
    group, with the same flags, and the same values but for rounding.
    """
    noise, data = shared, image
    if kind == 'array':
        data = image.data
        noise = HyperPhotometry(FWHM).measure_noise(data)
    whole = HyperPhotometry(FWHM, noise=noise)
    expected = whole(data)
    table = TiledPhotometry(whole, tile_size)(data)
    assert len(table) == len(expected)
    assert table.colnames == expected.colnames
    table = match(expected, table)
    for name, error in (('flux_fit', 'flux_err'), ('x_fit', 'x_err'),
                        ('y_fit', 'y_err'),
                        ('aperture_flux', 'aperture_flux_err')):
        difference = np.abs(table[name] - expected[name]) / expected[error]
        assert np.max(difference) < 1e-6, name
    for name in ('flags', 'group_size', 'bkg_order'):
        assert_array_equal(table[name], expected[name])
    same = np.equal.outer(table['group_id'], table['group_id'])
    assert_array_equal(same, np.equal.outer(expected['group_id'],
                                            expected['group_id']))
    assert np.max(expected['group_size']) > 1
    if kind == 'image':
        assert np.all(table['sky_centroid'].separation(
            expected['sky_centroid']).arcsec < 1e-3)


def test_side_lobes_in_tiles_are_those_of_the_whole_map():
    """
    With a measured beam, detections on side lobes are rejected, and their
    neighbors fitted again, as on the whole map, also at its border.
    """
    rng = np.random.default_rng(5)
    rows, columns = np.indices((61, 61)) - 30

    def beam(dx, dy):
        radius = np.hypot(columns - dx, rows - dy)
        return (np.exp(-0.5 * (radius / 1.7)**2)
                + 0.06 * np.exp(-0.5 * ((radius - 9.0) / 1.2)**2))

    psf = beam(0.0, 0.0)
    data = rng.normal(size=(100 + 60, 240 + 60))
    for x, y in rng.uniform((0, 0), (240, 100), (30, 2)):
        column, row = int(x), int(y)
        data[row:row + 61, column:column + 61] += (
            rng.uniform(5.0, 60.0) * rng.choice([1.0, 20.0])
            * beam(x - column, y - row))
    data = data[30:-30, 30:-30]
    phot = HyperPhotometry(FWHM, psf=psf / psf.sum())
    phot.noise = phot.measure_noise(data)
    expected = phot(data)
    assert expected.meta['n_rejected']['below_dynamic_range'] > 10
    tiles = TiledPhotometry(phot, 120)
    table = match(expected, tiles(data))
    assert len(table) == len(expected)
    assert_array_equal(table['flags'], expected['flags'])
    assert len(tiles.rejected) == len(phot.rejected)
    assert np.max(np.abs(table['flux_fit'] - expected['flux_fit'])
                  / expected['flux_err']) < 1e-3


@pytest.mark.parametrize('kind', ['correlated', 'white'])
def test_masks_errors_and_empty_tiles(image, kind):
    """
    Masks and errors are cut like the map, the noise with given errors is
    that of the whole map, and tiles without data or sources are skipped.
    """
    data = image.data.copy()
    data[:140] = np.nan
    mask = np.zeros(data.shape, dtype=bool)
    mask[:, 240:] = True
    error = np.full(data.shape, 2e-5)
    error[:, :100] *= 1.5
    phot = HyperPhotometry(FWHM, noise=kind)
    whole = phot.measure_noise(data, mask=mask, error=error)
    assert whole.model.relative_rms is not None
    tiles = TiledPhotometry(phot, 130)
    table = tiles(data, mask=mask, error=error)
    assert len(pickle.dumps(tiles.noise)) < 0.1 * data.nbytes
    assert tiles.noise.pixel_rms == pytest.approx(whole.pixel_rms)
    assert tiles.noise.model.rms == pytest.approx(whole.model.rms, rel=0.03)
    assert tiles.noise.filtered_rms == pytest.approx(whole.filtered_rms,
                                                     rel=0.03)
    noise = tiles.noise.cutout((slice(0, 300), slice(0, 260)))
    noise = noise.with_variation(error / whole.pixel_rms)
    expected = HyperPhotometry(FWHM, noise=noise)(data, mask=mask)
    table = match(expected, table)
    assert np.max(np.abs(table['flux_fit'] - expected['flux_fit'])
                  / expected['flux_err']) < 1e-6


def test_noise_of_a_map_is_used_and_pickled(image, shared):
    """
    With the noise of another map, nothing is measured on this one.
    """
    again = pickle.loads(pickle.dumps(shared))
    assert isinstance(again, MapNoise)
    louder = MapNoise(again.model.scale(3.0, image.unit),
                      3.0 * again.pixel_rms, 3.0 * again.filtered_rms,
                      tuple(3.0 * rms for rms in again.detection_rms),
                      again.relative_rms, again.misfit)
    tables = [HyperPhotometry(FWHM, noise=noise)(image)
              for noise in (shared, again, louder)]
    assert_array_equal(tables[0]['flux_fit'], tables[1]['flux_fit'])
    assert len(tables[2]) < len(tables[0])
    init = QTable({'x_init': tables[2]['x_fit'],
                   'y_init': tables[2]['y_fit']})
    errors = [HyperPhotometry(FWHM, noise=noise)(
        image, init_params=init)['aperture_flux_err']
        for noise in (shared, louder)]
    assert np.median(errors[1] / errors[0]) > 2.5


class DeadlyFinder(HighPassStarFinder):
    """
    A finder that kills its first ``n_deaths`` processes.
    """

    folder, n_deaths = None, 0

    def search(self, *args, **kwargs):
        deaths = len(list(Path(self.folder).iterdir()))
        if deaths < self.n_deaths:
            Path(self.folder, str(deaths)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().search(*args, **kwargs)


def test_images_and_numbers_are_those_of_the_whole_map(image, shared,
                                                       tmp_path):
    """
    Images, total flux, numbers of detections, and rejected detections
    are those of the untiled call, also for sources in two tiles.
    """
    whole = HyperPhotometry(FWHM, noise=shared)
    expected = whole(image)
    files = {kind: StoredImage.create(tmp_path / kind, image.shape)
             for kind in ('model', 'background', 'residual')}
    tiles = TiledPhotometry(whole, 100, images=files)
    with pytest.raises(ValueError, match='no map has been measured'):
        tiles.make_model_image()
    with pytest.raises(ValueError, match='no results: call the'):
        tiles.total_flux()
    table = tiles(image)
    for name in ('n_detected', 'n_companions'):
        assert table.meta[name] == expected.meta[name], name
    assert_array_equal(np.sort(tiles.rejected['x_init'].round(3)),
                       np.sort(whole.rejected['x_init'].round(3)))
    assert tiles.rms == whole.rms
    for mine, its in zip(tiles.total_flux(), whole.total_flux(),
                         strict=True):
        assert abs(mine / its - 1.0) < 1e-4
    level = 1e-3 * shared.pixel_rms
    for kind in ('model', 'background', 'residual'):
        mine = getattr(tiles, f'make_{kind}_image')()
        its = getattr(whole, f'make_{kind}_image')()
        assert mine.unit == its.unit
        for one in (mine, files[kind][:] << mine.unit):
            assert_array_equal(np.isfinite(one), np.isfinite(its))
            assert np.nanmax(np.abs(one - its)).value < level, kind
    out = np.zeros(image.shape, dtype='f4')
    assert tiles.make_model_image(out) is out
    assert np.max(np.abs(out - whole.make_model_image().value)) < level


@pytest.mark.parametrize('varying', [False, True])
def test_noise_of_tiles_is_that_of_the_whole_map(varying):
    """
    The noise that is measured tile by tile is that of the whole map
    within its accuracy, and small when it is sent to processes.
    """
    data = make_blended_map((400, 440), 100, beam=FWHM, seed=5).image.data
    if varying:
        rms = np.std(data[:20])
        loud = CorrelatedNoise.from_beam(10.0 * rms, 0.3 * FWHM)
        data[:, 300:] += loud.simulate((400, 140), seed=2)
    phot = HyperPhotometry(FWHM)
    whole = phot.measure_noise(data)
    tiles = TiledPhotometry(phot, 220)
    tiles(data)
    noise = tiles.noise
    assert len(pickle.dumps(noise)) < 0.1 * data.nbytes
    full = noise.cutout((slice(0, 400), slice(0, 440)))
    for name in ('pixel_rms', 'filtered_rms'):
        ratio = getattr(full, name) / getattr(whole, name)
        assert abs(ratio - 1.0) < 0.03, name
    lag = np.arange(6.0)
    ratio = (full.model.autocovariance(lag, 0.0 * lag)
             / whole.model.autocovariance(lag, 0.0 * lag))
    assert np.all(np.abs(ratio - 1.0) < 0.05)
    assert (full.relative_rms is not None) is varying
    assert (whole.relative_rms is not None) is varying
    if varying:
        assert np.max(np.abs(full.relative_rms / whole.relative_rms
                             - 1.0)) < 1e-6
    bad = np.zeros(data.shape, dtype=bool)
    for mine, its in zip(full.detection_rms, whole.detection_rms,
                         strict=True):
        ratio = mine.image(bad, FWHM) / its
        assert np.max(np.abs(ratio - 1.0)) < 0.1


def test_noise_of_tiles_can_be_scaled():
    """
    Noise and structure are multiplied by a relative rms, also if the
    structure is on the coarse grid of a large map.
    """
    structure = CorrelatedNoise.from_beam(2.0, 8.0)
    structure.relative_rms = GridImage(
        np.arange(1.0, 13.0).reshape(3, 4), (5, 5), (10, 10), (30, 40))
    noise = MapNoise(CorrelatedNoise.from_beam(1.0, 4.0), 1.0, 1.0,
                     (1.0, 1.0))
    noise.model.structure = structure
    factor = np.linspace(1.0, 3.0, 1200).reshape(30, 40)
    scaled = noise.with_variation(factor)
    plain = noise.cutout((slice(0, 30), slice(0, 40)))
    y, x = np.indices(factor.shape)
    assert_allclose(scaled.model.rms_at(x, y),
                    factor * plain.model.rms_at(x, y))
    for rms in scaled.detection_rms:
        assert_array_equal(rms, factor)


def test_first_fits_are_used_again(image, tmp_path, monkeypatch):
    """
    The detections with which the noise was measured are not repeated.
    """
    phot = HyperPhotometry(FWHM, noise='white')
    expected = TiledPhotometry(phot, 150, folder=tmp_path)(image)
    searches, search = [], HighPassStarFinder.search

    def count(*args, **kwargs):
        searches[-1] += 1
        return search(*args, **kwargs)

    monkeypatch.setattr(HighPassStarFinder, 'search', count)
    for lost in (['tile_*'], ['tile_*', 'fits_*']):
        for path in chain.from_iterable(map(tmp_path.glob, lost)):
            path.unlink()
        searches.append(0)
        table = TiledPhotometry(phot, 150, folder=tmp_path)(image)
        assert_array_equal(table['flux_fit'], expected['flux_fit'])
    again, from_start = searches
    assert from_start - again == 4  # once for each tile


def test_bad_pixels_are_detected_once(image, tmp_path, monkeypatch):
    """
    Those of a tile, with the noise, are those with which it is measured.
    """
    image = deepcopy(image)
    image.data[50, 60] = image.data[200, 149] = 1e3 * image.data.std()
    phot = HyperPhotometry(FWHM, noise='white')
    expected = TiledPhotometry(phot, 150, folder=tmp_path)(image)
    assert expected.meta['n_bad_pixels'] == {'glitch': 2}
    for path in tmp_path.glob('tile_*'):
        path.unlink()
    # It would raise.
    monkeypatch.setattr(measurement, 'detect_bad_pixels', None)
    table = TiledPhotometry(phot, 150, folder=tmp_path)(image)
    assert table.meta['n_bad_pixels'] == {'glitch': 2}
    assert_array_equal(table['flux_fit'], expected['flux_fit'])


def test_given_sources(image, shared, tmp_path):
    """
    Given sources keep their order and ids, and each is measured once, also
    if only some tiles have any.
    """
    whole = HyperPhotometry(FWHM, noise=shared)
    found = whole(image)
    init = QTable({'id': [f's{i}' for i in range(len(found))][::-1],
                   'x': found['x_fit'], 'y': found['y_fit']})
    init['x'][3] = 400.0
    expected = whole(image, init_params=init)
    table = TiledPhotometry(whole, 131)(image, init_params=init)
    assert_array_equal(table['id'], expected['id'])
    assert np.nanmax(np.abs(table['flux_fit'] - expected['flux_fit'])
                     / expected['flux_err']) < 1e-3
    assert_array_equal(table['flags'], expected['flags'])
    assert 'n_companions' not in table.meta
    few = init[init['x'] < 40.0]
    residual = StoredImage.create(tmp_path / 'residual', image.shape)
    tiles = TiledPhotometry(whole, 100, images={'residual': residual})
    table = tiles(image, init_params=few)
    expected = whole(image, init_params=few)
    assert np.nanmax(np.abs(table['flux_fit'] - expected['flux_fit'])
                     / expected['flux_err']) < 1e-3
    difference = residual[:] - whole.make_residual_image().value
    assert np.nanmax(np.abs(difference)) < 1e-6 * np.nanmax(image.data)


@pytest.mark.parametrize('noise', ['white', 'correlated'])
def test_no_given_sources(image, noise, tmp_path):
    """
    An empty table of given sources is no search without results: the table
    has no rows, but the columns and images of that of the whole map, also
    if tiles are read from files.
    """
    init = QTable({'id': ['a'], 'x': [1.0], 'y': [2.0]})[:0]
    whole = HyperPhotometry(FWHM, noise=noise)
    expected = whole(image, init_params=init)
    for folder in (None, tmp_path, tmp_path):
        tiles = TiledPhotometry(HyperPhotometry(FWHM, noise=noise), 131,
                                folder=folder)
        table = tiles(image, init_params=init)
        assert len(table) == 0
        assert table.colnames == expected.colnames
        for name in expected.colnames:
            assert table[name].info.unit == expected[name].info.unit
            assert table[name].info.dtype == expected[name].info.dtype
        assert table.meta['rms'] == tiles.rms
        assert tiles.total_flux()[0] == whole.total_flux()[0]
        assert_array_equal(tiles.make_model_image(),
                           whole.make_model_image())


@pytest.mark.parametrize(('columns', 'has'), [
    ({}, 'no columns'), ({'a': [1.0]}, 'a')])
def test_given_sources_without_positions(image, columns, has):
    """
    The whole map and tiles say what is needed, and what the table of the user
    has, also if the beam would add columns.
    """
    assert image.meta['beam_fwhm_pix'] > 0.0
    photometry = HyperPhotometry(FWHM)
    for measure in (photometry, TiledPhotometry(photometry, 131)):
        with pytest.raises(ValueError, match=r'^init_params needs the column '
                           rf'x_init \(or one of .*\); it has {has}$'):
            measure(image, init_params=QTable(columns))


def test_workers_and_earlier_results_change_nothing(image, white, tmp_path):
    """
    Results do not depend on the number of processes or on what an
    earlier call has finished, and a killed process is replaced.
    """
    finder = DeadlyFinder(fwhm=FWHM, n_sigma=5.0)
    finder.folder = tmp_path / 'deaths'
    finder.folder.mkdir()
    phot = HyperPhotometry(FWHM, finder=finder, noise=white)
    # with more digits than a header has
    image = deepcopy(image)
    image.wcs.wcs.crval += 1.0 / np.array([7.0, 13.0])
    image.wcs.wcs.crpix += 1.0 / 17.0
    expected = TiledPhotometry(phot, 131)(image)
    finder.n_deaths = 1
    folder = tmp_path / 'tiles'
    folder.mkdir()
    first = TiledPhotometry(phot, 131, n_workers=2, folder=folder)
    tables = [first(image)]
    kept = sorted(folder.iterdir())
    assert len(kept) == 6
    kept[2].unlink()
    tables.append(TiledPhotometry(phot, 131, folder=folder)(image))
    for table in tables:
        for name in ('flux_fit', 'flux_err', 'group_id', 'flags',
                     'fwhm_major_sky', 'position_angle'):
            assert_array_equal(table[name], expected[name])
        assert_array_equal(table['sky_centroid'].ra,
                           expected['sky_centroid'].ra)
    finder.n_deaths = 100
    with pytest.raises(OSError, match=r'the tile at x=.* killed'):
        TiledPhotometry(phot, 131, n_workers=2)(image)


def test_images_of_tiles_that_were_measured_before(image, tmp_path):
    """
    They are made in new files, too, and a lost file of the noise is made
    again.
    """
    phot, folder = HyperPhotometry(FWHM), tmp_path / 'tiles'
    folder.mkdir()

    def measure(name):
        files = {kind: StoredImage.create(tmp_path / f'{name}_{kind}',
                                          image.shape)
                 for kind in ('model', 'background', 'residual')}
        tiles = TiledPhotometry(phot, 131, folder=folder, images=files)
        return tiles(image), [file[:] for file in files.values()]

    expected, images = measure('first')
    for lost in ((), ('tile_131_000131_000000.npz',), (
            *(path.name for path in folder.glob('tile_*')), 'noise.npz',
            *(path.name for path in folder.glob('covariance_*')),
            'first_residual.dat')):
        for name in lost:
            (folder / name).unlink()
        table, again = measure(len(lost))
        assert_array_equal(table['flux_fit'], expected['flux_fit'])
        for mine, its in zip(again, images, strict=True):
            assert_allclose(mine, its, rtol=0.0,
                            atol=1e-7 * np.nanmax(image.data))


def test_tiles_of_another_size_are_not_used(image, white, tmp_path):
    """
    A folder may have results of several sizes of tiles.
    """
    phot = HyperPhotometry(FWHM, noise=white)
    for tile_size in (131, 100, 131):
        table = TiledPhotometry(phot, tile_size, folder=tmp_path)(image)
        expected = TiledPhotometry(phot, tile_size)(image)
        assert_array_equal(table['flux_fit'], expected['flux_fit'])
    assert len(list(tmp_path.iterdir())) == 6 + 9


def test_tiles_leave_no_garbage(image, white):
    """
    The columns of the tables of a tile, which refer to themselves, do not
    stay in memory while the next tiles are measured.
    """
    phot = TiledPhotometry(HyperPhotometry(FWHM, noise=white), tile_size=100)
    gc.collect()
    gc.disable()
    try:
        table = phot(image)
        n_left = gc.collect()
    finally:
        gc.enable()
    assert len(table) > 50
    # a tile leaves about a thousand objects
    assert n_left < 200


def test_nothing_in_any_tile(shared):
    phot = HyperPhotometry(FWHM, noise=shared)
    data = np.random.default_rng(1).normal(0.0, 1e-6, (300, 260))
    tiles = TiledPhotometry(phot, 150)
    with pytest.raises(ValueError, match='must all have the same unit'):
        tiles(data)
    phot = HyperPhotometry(FWHM, noise=HyperPhotometry(FWHM).measure_noise(
        make_blended_map((300, 260), 30, beam=FWHM, seed=3).image.data))
    with pytest.warns(NoDetectionsWarning, match='No sources were found'):
        assert TiledPhotometry(phot, 150)(data) is None
    # with a noise measured in tiles
    for noise in ('correlated', 'white'):
        tiles = TiledPhotometry(HyperPhotometry(FWHM, noise=noise), 150)
        with pytest.warns(NoDetectionsWarning, match='No sources were found'):
            assert tiles(np.zeros((300, 260))) is None
        with pytest.raises(ValueError, match='data has no usable pixel'):
            tiles(np.full((300, 260), np.nan))
    with pytest.raises(ValueError, match='no sources were detected in data'):
        HyperPhotometry(FWHM).measure_noise(np.random.default_rng(1).normal(
            size=(60, 60)))


@pytest.mark.parametrize(('args', 'error', 'match_'), [
    ((3, 100), TypeError, 'photometry must be a HyperPhotometry: 3'),
    ((HyperPhotometry(FWHM), 0), ValueError, 'tile_size must be at least 1'),
    ((HyperPhotometry(FWHM), 1.5), TypeError, 'tile_size must be an integer'),
    ((HyperPhotometry(FWHM, finder=HighPassStarFinder(
        fwhm=FWHM, n_sigma=5.0, n_brightest=9)), 100), ValueError,
     'n_brightest'),
    ((HyperPhotometry(FWHM), 10), ValueError,
     r'tile_size must be at least 48 pixels, .* \(12 FWHM\), .*: 10')])
def test_bad_arguments(args, error, match_):
    with pytest.raises(error, match=match_):
        TiledPhotometry(*args)


def test_bad_images(image, tmp_path):
    phot = HyperPhotometry(FWHM)
    with pytest.raises(FileNotFoundError, match='must be an existing folder'):
        TiledPhotometry(phot, 100, folder=tmp_path / 'none')(image)
    file = StoredImage.create(tmp_path / 'image', (3, 4))
    with pytest.raises(ValueError, match="images has an unknown key: 'data'"):
        TiledPhotometry(phot, 100, images={'data': file})
    tiles = TiledPhotometry(phot, 100, images={'model': file})
    with pytest.raises(ValueError, match=r"images\['model'\] must have the "
                                         r'shape of data, \(300, 260\)'):
        tiles(image)


class Opened:
    """
    What makes a file when it is unpickled.
    """

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_files_of_tiles_run_no_code(image, white, tmp_path):
    """
    A foreign file in the folder is not used: no pickle is read, neither
    as a file nor in an array, and no other class than those of results.
    """
    phot = HyperPhotometry(FWHM, noise=white)
    expected = TiledPhotometry(phot, 150, folder=tmp_path)(image)
    kept = sorted(tmp_path.iterdir())
    assert {path.suffix for path in kept} == {'.npz'}
    made = tmp_path / 'made'
    kept[0].write_bytes(pickle.dumps(Opened(made)))
    np.savez(kept[1], tree=np.array([Opened(made)], dtype=object))
    tree = json.dumps({'object': ['Popen', {'dict': []}]})
    np.savez(kept[2], tree=np.frombuffer(tree.encode(), dtype=np.uint8))
    table = TiledPhotometry(phot, 150, folder=tmp_path)(image)
    assert not made.exists()
    assert_array_equal(table['flux_fit'], expected['flux_fit'])
    assert table.colnames == expected.colnames


def test_results_of_tiles_are_read_as_they_were_written(tmp_path):
    """
    Values, units, types of columns, and metadata come back exactly.
    """
    table = QTable({
        'flux_fit': np.array([1 / 3, np.nan]) * u.Jy,
        'sky_centroid': SkyCoord([10.0, 20.0], [-5.0, 1 / 3], unit='deg'),
        'bkg_method': np.array(['', 'fit'], dtype='U20'),
        'score': MaskedColumn([0.1, 0.2]), 'flags': np.array([1, 2], 'i4')})
    table.meta.update(rms=2 * u.mJy, n_rejected={'shape': 3}, limits=(1, 2))
    write_result(tmp_path / 'a.npz', table, ())
    again = read_result(tmp_path / 'a.npz', ())
    assert again.colnames == table.colnames
    for name in table.colnames:
        assert type(again[name]) is type(table[name]), name
    for name in ('flux_fit', 'bkg_method', 'score', 'flags'):
        assert again[name].dtype == table[name].dtype
        assert_array_equal(again[name], table[name])
    assert again['flux_fit'].unit == u.Jy
    assert_array_equal(again['sky_centroid'].dec, table['sky_centroid'].dec)
    assert dict(again.meta) == dict(table.meta)
    with pytest.raises(TypeError, match='is no result of a tile'):
        write_result(tmp_path / 'b.npz', Path('x'), ())
    assert not (tmp_path / 'b.npz').exists()
