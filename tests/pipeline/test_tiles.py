# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of maps that are measured in tiles.
"""

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose, assert_array_equal

from hyperphotutils.catalog import read_catalog
from hyperphotutils.datasets import make_blended_map
from hyperphotutils.photometry import TiledPhotometry
from hyperphotutils.photometry import tiles as tiles_module
from hyperphotutils.pipeline import PipelineConfig, process_maps
from hyperphotutils.pipeline.cli import main

SIZE = 150
PRODUCTS = {'catalog.ecsv', 'catalog.ipac', 'centroids.reg', 'ellipses.reg',
            'overview.png', 'rejected.ecsv', 'rejected.reg', 'report.html',
            'run.json', 'run.log', 'model.fits', 'background.fits',
            'residual.fits'}


@pytest.fixture(name='folder', scope='module')
def fixture_folder(tmp_path_factory):
    """
    A folder with a map in single precision.
    """
    folder = tmp_path_factory.mktemp('tiles')
    image = make_blended_map((300, 280), 60, beam=4.0, seed=4)
    image.write(folder / 'map.fits')
    with fits.open(folder / 'map.fits', mode='update') as hdus:
        hdus[0].data = hdus[0].data.astype('f4')
    return folder


def make_config(folder, name, **options):
    return PipelineConfig(
        input={'maps': [str(folder / 'map.fits')]}, fit=options,
        output={'directory': str(folder / name), 'images': True})


@pytest.fixture(name='whole', scope='module')
def fixture_whole(folder):
    process_maps(make_config(folder, 'whole'))
    return folder / 'whole' / 'map'


def test_products_are_those_of_the_whole_map(folder, whole):
    """
    With tiles, the products are the same files with the same sources;
    the noise is that of the whole map within its accuracy.
    """
    process_maps(make_config(folder, 'tiles', tile_size=SIZE))
    made = folder / 'tiles' / 'map'
    assert {path.name for path in made.iterdir()} == PRODUCTS
    assert {path.name for path in whole.iterdir()} == PRODUCTS
    table, expected = (read_catalog(path / 'catalog.ecsv')
                       for path in (made, whole))
    assert table.colnames == expected.colnames
    assert abs(len(table) - len(expected)) <= 1
    for name in ('n_detected', 'rms', 'detection_rms', 'threshold'):
        assert_allclose(*(np.array(getattr(one.meta[name], 'value', 0.0))
                          for one in (table, expected)), rtol=0.03)
    for name in ('model', 'residual', 'background'):
        images = [fits.getdata(path / f'{name}.fits')
                  for path in (made, whole)]
        assert images[0].dtype == images[1].dtype
        error = expected.meta['rms'].value
        difference = np.abs(images[0] - images[1])
        assert np.nanmedian(difference) < 0.1 * error, name


def test_a_run_that_is_interrupted_keeps_finished_tiles(
        folder, monkeypatch, capsys):
    """
    The same command continues with the tiles that are left, and gives
    what a run that was not interrupted gives.
    """
    command = ['run', str(folder / 'map.fits'), '--tile-size', str(SIZE),
               '--output-dir']
    assert main([*command, str(folder / 'once')]) == 0
    measured = []
    original = tiles_module._measure_tile

    def stop(tile, *args):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(tile)
        return original(tile, *args)

    monkeypatch.setattr(tiles_module, '_measure_tile', stop)
    assert main([*command, str(folder / 'stopped')]) != 0
    assert not (folder / 'stopped' / 'map').exists()
    # a killed run leaves a copy of the map for its processes
    left = folder / 'stopped' / '.map.unfinished' / 'parts' / 'copy'
    left.mkdir()
    (left / 'values').touch()
    assert main([*command, str(folder / 'stopped')]) != 0
    assert not left.exists()
    monkeypatch.setattr(tiles_module, '_measure_tile', original)
    capsys.readouterr()
    assert main([*command, str(folder / 'stopped')]) == 0
    assert '(2 tiles done)' in capsys.readouterr().out
    for name in ('catalog.ecsv', 'rejected.ecsv', 'ellipses.reg'):
        once, twice = ((folder / run / 'map' / name).read_bytes()
                       for run in ('once', 'stopped'))
        assert once == twice, name


def test_tiles_of_one_map_are_shared_among_processes(folder):
    """
    With several processes, the results of one map are the same.
    """
    config = make_config(folder, 'serial', tile_size=SIZE)
    parallel = make_config(folder, 'parallel', tile_size=SIZE)
    parallel = parallel.model_copy(update={
        'run': parallel.run.model_copy(update={'n_workers': 2})})
    tables = [process_maps(one)[0].table for one in (config, parallel)]
    for name in ('flux_fit', 'flux_err', 'group_id'):
        assert_array_equal(tables[0][name], tables[1][name])


@pytest.mark.parametrize(('shape', 'options', 'expected'), [
    ((4096, 4096), {}, 0), ((4097, 4096), {}, 2048),
    ((8000, 8000), {'tile_size': 0}, 0), ((100, 100), {'tile_size': 50}, 50)])
def test_large_maps_are_measured_in_tiles(shape, options, expected):
    """
    Maps of more than 4096 x 4096 pixels are measured in tiles unless the
    configuration says otherwise.
    """
    config = PipelineConfig(fit=options)
    assert config.find_tile_size(shape) == expected
    assert PipelineConfig(fit=options, background={'box_sizes': [5.0]}
                          ).find_tile_size(shape) == options.get(
                              'tile_size', 0)


def test_tiles_need_a_background_in_the_fit(folder):
    """
    A background that is subtracted from the whole map is refused.
    """
    config = PipelineConfig(
        input={'maps': [str(folder / 'map.fits')]}, fit={'tile_size': SIZE},
        background={'box_sizes': [5.0]},
        output={'directory': str(folder / 'refused')})
    outcome = process_maps(config)[0]
    assert 'photometry must have no background' in outcome.reason
    assert TiledPhotometry.__name__ not in outcome.reason
