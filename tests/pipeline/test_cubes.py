# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of runs on cubes: the backgrounds and sources of their channels.
"""

import errno
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_array_equal
from regions import Regions

import hyperphotutils
from hyperphotutils.background import CubeBackground
from hyperphotutils.catalog import (
    find_column,
    read_catalog,
    write_catalog,
)
from hyperphotutils.datasets import make_map_cube
from hyperphotutils.detection import HighPassStarFinder
from hyperphotutils.maps import read_cube
from hyperphotutils.pipeline import (
    ConfigError,
    PipelineConfig,
    PipelineError,
    process_maps,
    run,
)
from hyperphotutils.pipeline.cli import main
from hyperphotutils.pipeline.extraction import extract_image

ROOT = Path(hyperphotutils.__file__).parents[1]
UNFINISHED = '.cube.unfinished'

# Kills the process as soon as so many channels of a cube are recorded
KILLED = """
import os, signal, sys
from hyperphotutils.pipeline import cubes
from hyperphotutils.pipeline.cli import main

left = int(sys.argv[1])
write_record = cubes.write_record

def write_and_die(path, record):
    global left
    write_record(path, record)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

cubes.write_record = write_and_die
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope='module', name='sim')
def fixture_sim():
    return make_map_cube((5, 80, 72), 4, line_width_range=(1.5, 2.5),
                         seed=21)


@pytest.fixture(name='cube')
def fixture_cube(sim, tmp_path, monkeypatch):
    """
    The name of a cube in the working folder.
    """
    monkeypatch.chdir(tmp_path)
    sim.write('cube.fits')
    return 'cube.fits'


def make_config(*cubes, **sections):
    sections = {'fit': {'noise': 'white'}, 'output': {'directory': 'out'},
                **sections}
    return PipelineConfig(input={'maps': cubes, 'datacube': True},
                          **sections)


def read_all(folder='out/cube'):
    """
    The bytes of all products, other than logs and reports.
    """
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()
            if path.name not in {'report.html', 'run.log', 'run.json'}}


def noted(module, name, done):
    """
    A function of a module that notes for which channels it is called.
    """
    original = getattr(module, name)

    def note(index, *args):
        done.append((name, index))
        return original(index, *args)

    return note


def hyper(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


class TestRun:
    def test_page_explains_each_source(self, cube, read_page):
        """
        Groups and sizes are those of the channel of the source.
        """
        outcome, = process_maps(make_config(cube))
        data = read_page(Path('out/cube/report.html'))
        table = outcome.table
        assert len(data['explanations']) == len(table) > 3
        fwhm = read_cube(cube).beam_fwhm_pix
        for row, text in zip(table, data['explanations'], strict=True):
            assert text.startswith('Detection: at ')
            alone = 'Group: fitted alone.' in text
            assert alone == (row['group_size'] == 1)
            beams = row['fwhm_major_fit'] / fwhm[row['channel']]
            assert f'Size: FWHMs of {beams:.2f} ' in text

    def test_products(self, cube, sim):
        """
        A cube gives one catalog with channels, its backgrounds, and
        what was done of each channel.
        """
        outcome, = process_maps(make_config(cube))
        assert outcome.reason is None
        assert sorted(read_all()) == [
            'background.fits', 'catalog.ecsv', 'catalog.ipac',
            'centroids.reg', 'channels.ecsv', 'ellipses.reg',
            'overview.png', 'rejected.ecsv', 'rejected.reg']
        assert not Path('out', UNFINISHED).exists()
        table = outcome.table
        assert table.colnames[:3] == ['channel', 'velocity', 'id']
        assert_allclose(table['velocity'].to_value('km/s'),
                        0.5 * table['channel'])
        assert table.meta['filename'] == cube
        channels = QTable.read('out/cube/channels.ecsv')
        assert_array_equal(channels['channel'], np.arange(5))
        assert_array_equal(channels['n_measured'],
                           np.bincount(table['channel'], minlength=5))
        assert outcome.numbers['n_measured'] == len(table)
        numbers = outcome.numbers
        assert numbers['n_detected'] + numbers['n_companions'] == len(table)
        assert (f'5 channels: {numbers["n_detected"]} detected, '
                f'{numbers["n_companions"]} companions' in outcome.summary)
        log = Path('out/cube/run.log').read_text()
        assert 'channel 4 (2 km / s): background of order' in log
        assert log.count(' masked; ') == 5

    def test_sources_are_those_of_the_planes(self, cube):
        """
        Each channel is measured as a map of its own.
        """
        config = make_config(cube)
        table = run(config)
        image = read_cube(cube).channel(2)
        expected = extract_image(image, config).table
        here = table[table['channel'] == 2]
        assert len(here) == len(expected) > 1
        for name in ('x_fit', 'flux_fit', 'flux_err'):
            assert_array_equal(here[name], expected[name])

    def test_true_fluxes(self, cube, sim):
        """
        The sources are where they are, with their fluxes.
        """
        table = run(make_config(cube))
        bright = sim.truth[sim.truth['amplitude_fit'] > 10 * sim.rms]
        area = read_cube(cube).channel(0).meta['beam_area_pix']
        for row in bright:
            here = table[table['channel'] == row['channel']]
            distance = np.hypot(here['x_fit'] - row['x_fit'],
                                here['y_fit'] - row['y_fit'])
            nearest = np.argmin(distance)
            assert distance[nearest] < 1.0
            assert_allclose(here['amplitude_fit'][nearest].value * area,
                            row['amplitude_fit'].value, rtol=0.3)

    def test_subtracted(self, cube):
        """
        The sources can be measured on the cube without its background.
        """
        table = run(make_config(cube, cubes={'subtract': True}))
        data, background, difference = (
            fits.getdata(name) for name in (
                cube, 'out/cube/background.fits', 'out/cube/subtracted.fits'))
        assert_allclose(difference, data - background, atol=1e-8)
        assert len(table) > 5
        assert table.meta['filename'] == cube

    def test_detection_only(self, cube):
        """
        Sources can be detected only.
        """
        table = run(make_config(cube, run={'detection_only': True}))
        assert 'x_centroid' in table.colnames
        assert set(table['channel']) == set(range(5))
        shapes = read_catalog('out/cube/catalog.ipac')
        assert len(shapes) == len(table)
        assert_allclose(np.asarray(shapes['FWHM_1']), 4.0, rtol=1e-6)
        assert not np.isfinite(shapes['FLUX_PEAK']).any()
        assert len(Regions.read('out/cube/ellipses.reg')) == len(table)

    def test_catalogs_with_columns_of_hyper(self, cube):
        """
        So are the catalogs with Hyper's columns, with the channels.
        """
        table = run(make_config(cube, output={
            'directory': 'out', 'csv': True, 'overview': False}))
        for name in ('catalog.ipac', 'catalog.csv'):
            read = read_catalog(f'out/cube/{name}')
            assert read.colnames[:4] == ['MAP_ID', 'CHANNEL', 'VELOCITY',
                                         'HYPER_ID']
            assert_array_equal(read['CHANNEL'], table['channel'])
            assert read['VELOCITY'].unit == 'km/s'
            for column, name in (('VELOCITY', 'velocity'),
                                 ('FLUX', 'aperture_flux')):
                assert_allclose(np.asarray(read[column]), table[name].value)
        assert 'overview.png' not in read_all()
        run(make_config(cube, output={
            'directory': 'two', 'ipac': False, 'regions': False}))
        assert not {'catalog.ipac', 'catalog.csv', 'ellipses.reg'} & set(
            read_all('two/cube'))

    def test_what_only_maps_have(self, cube, capsys):
        """
        Files of single groups are asked for in vain, which is said.
        """
        Path('c.yaml').write_text(
            'input: {datacube: true}\nfit: {noise: white}\n'
            'output: {plots_groups: true, fits_sources: true}\n')
        status, _, err = hyper(capsys, 'run', cube, '--config', 'c.yaml',
                               '--output-dir', 'out')
        line = ('output.fits_sources, output.plots_groups have no effect: '
                'they are for maps, not for cubes')
        assert status == 0
        assert err == f'hyperphot: note: {line}\n'
        assert line in Path('out/cube/run.log').read_text()

    def test_metadata_are_true_of_all_channels(self, cube):
        """
        Noise and rms differ from channel to channel: they are told of
        each, not of all; numbers of sources are sums.
        """
        with fits.open(cube, mode='update') as hdus:
            hdus[0].data[2] *= 3.0
        table = run(make_config(cube, fit={'noise': 'correlated'}))
        assert not {'rms', 'noise'} & set(table.meta)
        assert u.isclose(table.meta['beam_major'], 4 * u.arcsec)
        rejected = QTable.read('out/cube/rejected.ecsv')
        for part in (table, rejected, read_catalog('out/cube/catalog.ecsv')):
            for name in part.colnames:
                assert part[name].info.description == find_column(
                    name).description
        channels = QTable.read('out/cube/channels.ecsv')
        assert table.meta['n_detected'] == sum(channels['n_detected'])
        config = make_config(cube, fit={'noise': 'correlated'})
        for i in (1, 2):
            image = extract_image(read_cube(cube).channel(i), config)
            assert_allclose(channels['rms'][i].value, image.rms.value)
            assert channels['noise'][i] == image.table.meta['noise']
        assert_allclose(channels['beam_minor'].to_value('arcsec'), 4.0)

    def test_tables_are_kept(self, cube, monkeypatch):
        """
        Only a run that continues another reads the tables of channels,
        and of channels without sources there is one table for all.
        """
        from hyperphotutils.pipeline import cubes

        written, read = [], []

        def note_written(table, path, **options):
            written.append(path.name)
            write_catalog(table, path, **options)

        def note_read(path):
            read.append(path.name)
            return read_catalog(path)

        monkeypatch.setattr(cubes, 'write_catalog', note_written)
        monkeypatch.setattr(cubes, 'read_catalog', note_read)
        assert len(run(make_config(cube))) > 0
        assert len(written) == 5
        assert read == []
        table = run(make_config(cube, detection={'n_sigma': 1e3},
                                output={'directory': 'two'}))
        assert len(table) == 0
        assert table.colnames[:3] == ['channel', 'velocity', 'id']
        assert not {'rms', 'noise'} & set(table.meta)
        assert written[5:] == read == ['empty.ecsv']

    def test_given_sources(self, cube, capsys):
        """
        Given sources are called so.
        """
        sky = read_cube(cube).wcs.pixel_to_world([30.0, 50], [40.0, 20])
        write_catalog(QTable({'id': [1, 2], 'sky_centroid': sky}),
                      'sources.ecsv')
        Path('c.yaml').write_text(
            'input: {datacube: true}\nfit: {noise: white}\n'
            'sources: {table: sources.ecsv}\n')
        _, out, _ = hyper(capsys, 'run', cube, '--config', 'c.yaml',
                          '--output-dir', 'out')
        assert 'cube: 5 channels: 2 given in each, ' in out
        assert 'detected' not in out
        channels = QTable.read('out/cube/channels.ecsv')
        assert_array_equal(channels['n_given'], 2)
        assert 'n_detected' not in channels.colnames

    def test_channels_without_sources_or_values(self, cube):
        """
        Such channels are no errors, and have a row.
        """
        with fits.open(cube, mode='update') as hdus:
            hdus[0].data[1] = np.nan
            hdus[0].data[3] = np.random.default_rng(1).normal(
                0.0, 1e-3, hdus[0].data[3].shape)
        outcome, = process_maps(make_config(cube))
        assert set(outcome.table['channel']) == {0, 2, 4}
        channels = QTable.read('out/cube/channels.ecsv')
        assert_array_equal(channels['order'] < 0,
                           [False, True, False, False, False])
        assert '1 without a background' in outcome.summary
        assert 'no background; no values' in Path(
            'out/cube/run.log').read_text()

    def test_channel_that_was_not_imaged(self, cube):
        """
        The first channel of CASA's cubes often has neither values nor a
        beam.
        """
        with fits.open(cube) as hdus:
            hdu = fits.PrimaryHDU(hdus[0].data.copy(), hdus[0].header)
        hdu.data[0] = np.nan
        hdu.header['CASAMBM'] = True
        sizes = [0.0, 4.0, 4.0, 4.0, 4.0]
        beams = QTable({'BMAJ': sizes * u.arcsec, 'BMIN': sizes * u.arcsec,
                        'BPA': np.zeros(5) * u.deg, 'CHAN': np.arange(5),
                        'POL': np.zeros(5, int)})
        fits.HDUList([hdu, fits.BinTableHDU(beams, name='BEAMS')]).writeto(
            cube, overwrite=True)
        outcome, = process_maps(make_config(cube))
        assert outcome.reason is None
        assert set(outcome.table['channel']) == {1, 2, 3, 4}
        again = read_cube('out/cube/background.fits')
        assert_array_equal(np.isnan(again.beam_fwhm_pix),
                           [True, False, False, False, False])

    def test_two_cubes(self, cube, sim):
        """
        Several cubes have one combined catalog; a broken one does not
        touch the others.
        """
        make_map_cube((3, 64, 64), 2, seed=1).write('other.fits')
        Path('broken.fits').write_text('nothing')
        with pytest.warns(UserWarning, match=r'1 of 3 maps failed: broken'):
            table = run(make_config(cube, 'broken.fits', 'other.fits'))
        assert set(table['map_id']) == {'cube', 'other'}
        assert {'channel', 'velocity'} <= set(table.colnames)
        assert Path('out/catalog_all.ecsv').exists()

    def test_processes(self, cube):
        """
        With several processes the products are the same.
        """
        run(make_config(cube))
        serial = read_all()
        run(make_config(cube, output={'directory': 'two'},
                        run={'n_workers': 2}))
        assert read_all('two/cube') == serial


    def test_executor(self, cube):
        """
        Anything with submit() can work on the channels.
        """
        run(make_config(cube))
        serial = read_all()
        with ThreadPoolExecutor(2) as executor:
            run(make_config(cube, output={'directory': 'two'}),
                executor=executor)
        assert read_all('two/cube') == serial


class TestBackground:
    def test_command(self, cube, capsys):
        """
        The command writes what the class makes.
        """
        status, out, err = hyper(capsys, 'background', cube, '--output-dir',
                                 'out', '--subtract')
        assert (status, err) == (0, '')
        assert out.startswith('cube: 5 channels, median rms 0.0')
        assert sorted(read_all()) == ['background.fits', 'channels.ecsv',
                                      'overview.png', 'subtracted.fits']
        data = read_cube(cube)
        finder = HighPassStarFinder(
            fwhm=data.channel(0).meta['beam_fwhm_pix'], n_sigma=5.0)
        expected = CubeBackground(finder=finder)(data)
        assert_allclose(fits.getdata('out/cube/background.fits'),
                        expected.background.value, rtol=1e-6)
        header = fits.getheader('out/cube/background.fits')
        for card in fits.getheader(cube).cards:
            assert header[card.keyword] == card.value
        table = QTable.read('out/cube/channels.ecsv')
        assert_array_equal(table['order'], expected.table['order'])
        status, out, _ = hyper(capsys, 'background', cube, '--output-dir',
                               'out', '--subtract')
        assert status == 0
        assert out.startswith('nothing left to do')

    def test_switch(self, cube, capsys):
        """
        An option of the command does what the key does.
        """
        Path('c.yaml').write_text('fit: {noise: white}\n')
        status, out, err = hyper(
            capsys, 'run', cube, '--config', 'c.yaml', '--output-dir',
            'switch', '--datacube')
        assert (status, err) == (0, '')
        assert out.startswith('cube: ')
        process_maps(make_config(cube))
        assert read_all('switch/cube') == read_all()
        status, _, err = hyper(capsys, 'run', cube, cube, '--datacube',
                               '--merge')
        assert status == 2
        assert 'cannot be used with input.datacube' in err

    def test_options(self, cube, capsys):
        """
        Region, smoothing, boxes, and the rest of the section arrive.
        """
        Path('part.reg').write_text('image\ncircle(30,40,10)\n')
        Path('c.yaml').write_text(
            'background: {orders: [1], methods: [huber], '
            'huber_epsilons: [1.35]}\n'
            'cubes: {empty_orders: [0], detect_on: moment0}\n')
        status, _, err = hyper(
            capsys, 'background', cube, '--config', 'c.yaml', '--region',
            'part.reg', '--smoothing', 1, '--output-dir', 'out')
        assert (status, err) == (0, '')
        y, x = np.mgrid[:80, :72]
        inside = (x - 29)**2 + (y - 39)**2 < 100
        data = fits.getdata('out/cube/background.fits')
        assert_array_equal(np.isfinite(data[2]), inside)
        table = QTable.read('out/cube/channels.ecsv')
        assert set(table['method']) == {'huber'}
        assert set(table['order']) == {1}
        assert 'smoothing=1.0' in table.meta['call']

    def test_around_given_sources(self, cube, sim):
        """
        Only boxes around given sources.
        """
        sky = read_cube(cube).wcs.pixel_to_world([30.0], [40.0])
        table = run(make_config(
            cube, sources={'x': [sky.ra.deg[0]], 'y': [sky.dec.deg[0]]},
            background={'box_sizes': [6]}, cubes={'around_sources': True},
            run={'background_only': True}))
        assert set(table['n_sources']) == {1}
        assert set(table['box_size']) == {25}
        data = fits.getdata('out/cube/background.fits')
        assert_array_equal(np.argwhere(np.isfinite(data[1])).min(axis=0),
                           [28, 18])

    def test_not_a_cube(self, cube, capsys):
        """
        A map is told from a cube, and a cube from a map, in one line.
        """
        fits.writeto('map.fits', fits.getdata(cube)[0],
                     fits.getheader(cube))
        status, _, err = hyper(capsys, 'background', 'map.fits')
        assert status == 1
        assert err.count('\n') == 1
        assert 'a map of 72 x 80 pixels, not a cube' in err
        status, _, err = hyper(capsys, 'run', cube)
        assert status == 1
        assert 'input.datacube: true' in err

    @pytest.mark.parametrize(('sections', 'message'), [
        ({'cubes': {'smoothing': 1.0}, 'background': {'box_sizes': [5]}},
         'whole planes'),
        ({'cubes': {'around_sources': True}}, 'needs positions'),
        ({'bands': {'merge': True}}, 'bands.merge is for maps'),
        ({'cubes': {'empty_orders': []}}, 'empty_orders'),
    ])
    def test_contradictions(self, sections, message):
        """
        Contradictions are errors before the work.
        """
        with pytest.raises(ValueError, match=message):
            make_config('cube.fits', **sections)
        with pytest.raises(ValueError, match=r'needs input.datacube'):
            PipelineConfig(run={'background_only': True})

    def test_channel_to_detect_on(self, cube):
        """
        A channel that the cube does not have is named, with its key.
        """
        config = make_config(cube, cubes={'detect_on': 99})
        with pytest.raises(PipelineError, match=r'cube.fits: cubes.detect_on '
                           r'is channel 99, but it has 5 channels, 0 to 4$'):
            run(config)

    def test_region_file(self, cube):
        """
        A region file that is missing or none is named.
        """
        config = make_config(cube, cubes={'region': 'nowhere.reg'})
        with pytest.raises(ConfigError, match=r'cubes.region: nowhere.reg'):
            run(config)
        Path('off.reg').write_text('fk5\ncircle(10,10,5")\n')
        config = make_config(cube, cubes={'region': 'off.reg'})
        with pytest.raises(PipelineError, match=r'cube.fits: region has no '
                           r'pixel of the image inside'):
            run(config)
        Path('none.reg').write_text('# Region file format: DS9\n')
        config = make_config(cube, cubes={'region': 'none.reg'})
        with pytest.raises(ConfigError,
                           match=r'cubes.region: no region in none.reg'):
            run(config)


class TestContinued:
    def kill(self, n_channels, *arguments):
        """
        Run the command, and kill it after so many channels.
        """
        killed = subprocess.run(
            [sys.executable, '-c', KILLED, str(n_channels), *arguments],
            check=False, capture_output=True, text=True,
            env={**os.environ, 'PYTHONPATH': str(ROOT)})
        assert killed.returncode < 0, killed.stderr
        assert not Path('out/cube').exists()

    @pytest.mark.parametrize('n_channels', [1, 3, 5, 7, 10])
    def test_killed(self, cube, capsys, n_channels):
        """
        A run that is killed is continued by the same command, and makes
        the same files.
        """
        Path('c.yaml').write_text(
            'input: {datacube: true}\nfit: {noise: white}\n'
            'cubes: {subtract: true}\n')
        command = ['run', cube, '--config', 'c.yaml', '--output-dir']
        assert main([*command, 'undisturbed']) == 0
        capsys.readouterr()
        self.kill(n_channels, *command, 'out')
        status, out, err = hyper(capsys, *command, 'out')
        assert (status, err) == (0, '')
        done = (f'the backgrounds of {n_channels} of 5 channels are done'
                if n_channels <= 5 else
                f'{n_channels - 5} of 5 channels are done')
        first, last = out.splitlines()
        assert first == f'cube: continuing: {done}'
        assert f' s for what was left ({done})' in last
        assert read_all() == read_all('undisturbed/cube')
        assert not Path('out', UNFINISHED).exists()

    @pytest.mark.parametrize('option', ['--smoothing=1.5', '--jobs=2',
                                        '--config=boxes.yaml'])
    def test_killed_background(self, cube, capsys, option):
        """
        So are the backgrounds alone.
        """
        Path('boxes.yaml').write_text('background: {box_sizes: [8]}')
        command = ['background', cube, option, '--output-dir']
        assert main([*command, 'undisturbed']) == 0
        self.kill(3, *command, 'out')
        assert hyper(capsys, *command, 'out')[0] == 0
        assert read_all() == read_all('undisturbed/cube')

    def test_nothing_is_done_twice(self, cube, monkeypatch):
        """
        Channels that are done are not done again.
        """
        self.kill(7, 'run', cube, '--config', self.write_config(),
                  '--output-dir', 'out')
        done = []
        from hyperphotutils.pipeline import cubes

        for name in ('_fit_channel', '_extract_channel'):
            monkeypatch.setattr(cubes, name, noted(cubes, name, done))
        assert main(['run', cube, '--config', 'c.yaml', '--output-dir',
                     'out']) == 0
        assert done == [('_extract_channel', i) for i in (2, 3, 4)]

    def write_config(self):
        Path('c.yaml').write_text(
            'input: {datacube: true}\nfit: {noise: white}\n')
        return 'c.yaml'

    @pytest.mark.parametrize('change', ['configuration', 'input'])
    def test_changes_are_noticed(self, cube, change, capsys):
        """
        What another configuration or another cube has left is not used.
        """
        command = ['background', cube, '--output-dir']
        self.kill(3, *command, 'out')
        if change == 'configuration':
            command = ['background', cube, '--n-sigma', '9', '--output-dir']
        else:
            with fits.open(cube, mode='update') as hdus:
                hdus[0].data += 1.0
        assert hyper(capsys, *command, 'out')[0] == 0
        assert main([*command, 'undisturbed']) == 0
        assert read_all() == read_all('undisturbed/cube')

    def test_finished_run_is_not_replaced(self, cube, capsys):
        """
        A finished run with another configuration is refused.
        """
        assert main(['background', cube, '--output-dir', 'out']) == 0
        before = read_all()
        status, _, err = hyper(capsys, 'background', cube, '--n-sigma', 9,
                               '--output-dir', 'out')
        assert status == 2
        assert 'detection.n_sigma is 9.0, was 5.0' in err
        assert read_all() == before
        assert main(['background', cube, '--n-sigma', '9', '--output-dir',
                     'out', '--overwrite']) == 0

    def test_disk_full(self, cube, monkeypatch, capsys):
        """
        A full disk is told in a line, leaves no damaged file, and the
        run can be continued.
        """

        def no_room(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        from hyperphotutils.maps import writer

        with monkeypatch.context() as patch:
            patch.setattr(writer, '_write_all', no_room)
            status, _, err = hyper(capsys, 'background', cube,
                                   '--output-dir', 'out')
        assert status == 1
        assert err.count('\n') == 1
        assert 'No space left on device' in err
        assert 'rerun the same command to continue' in err
        assert not Path('out/cube').exists()
        assert hyper(capsys, 'background', cube, '--output-dir', 'out')[0] == 0
        assert Path('out/cube/background.fits').exists()

    def test_interrupted(self, cube, monkeypatch, capsys):
        """
        Ctrl-C keeps the channels that are done.
        """
        from hyperphotutils.pipeline import cubes

        original = cubes._fit_channel

        def interrupt(index, fit):
            if index == 2:
                raise KeyboardInterrupt
            return original(index, fit)

        with monkeypatch.context() as patch:
            patch.setattr(cubes, '_fit_channel', interrupt)
            status, _, err = hyper(capsys, 'background', cube,
                                   '--output-dir', 'out')
        assert status == 130
        assert 'rerun the same command to continue' in err
        assert Path('out', UNFINISHED, 'background.fits.part').exists()
        assert hyper(capsys, 'background', cube, '--output-dir', 'out')[0] == 0

    def test_error_leaves_nothing(self, cube, capsys):
        """
        A cube that cannot be used leaves no folder.
        """
        with fits.open(cube, mode='update') as hdus:
            for key in ('BMAJ', 'BMIN', 'BPA'):
                del hdus[0].header[key]
        status, _, err = hyper(capsys, 'background', cube, '--output-dir',
                               'out')
        assert status == 1
        assert 'no BMAJ in the header' in err
        assert '--beam' in err
        assert not any(path.is_dir() for path in Path('out').glob('*'))
        status, _, _ = hyper(capsys, 'background', cube, '--beam', 4,
                             '--output-dir', 'out')
        assert status == 0


@pytest.mark.parametrize('subtract', [True, False])
def test_mask_in_the_file_of_a_cube(sim, tmp_path, subtract):
    """
    Masked pixels have no values in the products, masked channels no sources,
    and the log names the mask; the extension of the cube is that of the
    given file only.
    """
    mask = np.zeros(sim.hdu.data.shape, 'u1')
    mask[2, 10:30, 10:30] = mask[4] = 1
    path = tmp_path / 'masked.fits'
    fits.HDUList([
        fits.PrimaryHDU(), fits.ImageHDU(sim.hdu.data, sim.hdu.header,
                                         name='SCI'),
        fits.ImageHDU(mask, name='MASK')]).writeto(path)
    config = PipelineConfig(
        input={'maps': [str(path)], 'datacube': True, 'extension': 'SCI'},
        cubes={'subtract': subtract},
        output={'directory': str(tmp_path / 'out'), 'overview': False,
                'report': False})
    (outcome,) = process_maps(config)
    folder = tmp_path / 'out' / 'masked'
    bad = (mask != 0) | ~np.isfinite(sim.hdu.data)
    if subtract:
        values = fits.getdata(folder / 'subtracted.fits')
        assert_array_equal(np.isnan(values), bad)
    table = outcome.table
    assert set(table['channel']) == {0, 1, 2, 3}
    x, y = (np.rint(table[name]).astype(int) for name in ('x_fit', 'y_fit'))
    assert not bad[table['channel'], y, x].any()
    log = (folder / 'run.log').read_text(encoding='utf-8')
    assert re.search(r'mask +2 \(MASK\)\n', log)


def test_unused_mask_in_the_file_of_a_cube(sim, tmp_path):
    """
    The log does not say that there is none.
    """
    path = tmp_path / 'flagged.fits'
    fits.HDUList([
        fits.PrimaryHDU(), fits.ImageHDU(sim.hdu.data, sim.hdu.header,
                                         name='SCI'),
        fits.ImageHDU(np.ones((3, 4), 'u1'), name='MASK')]).writeto(path)
    process_maps(PipelineConfig(
        input={'maps': [str(path)], 'datacube': True},
        run={'detection_only': True},
        output={'directory': str(tmp_path / 'out'), 'overview': False,
                'report': False}))
    log = (tmp_path / 'out' / 'flagged' / 'run.log').read_text('utf-8')
    assert re.search(r'mask +2 \(MASK\) not used: see the warnings\n', log)
    assert '2 (MASK) has other pixels' in log


def test_command_line_refuses(cube, capsys):
    """
    The command needs a cube.
    """
    status, _, err = hyper(capsys, 'background')
    assert status == 2
    assert 'no map' in err
    with pytest.raises(ConfigError, match='no map'):
        process_maps(make_config())
    assert cube == 'cube.fits'


@pytest.mark.real_data
@pytest.mark.parametrize(('name', 'n_channels'), [
    ('test_datacube.fits', 4), ('orion_kl_alma_ch3oh_cube.fits', 41)])
def test_real_cubes(real_data, tmp_path, monkeypatch, name, n_channels):
    """
    The real cubes run, with the axis of theirs in the catalog.
    """
    monkeypatch.chdir(tmp_path)
    outcome, = process_maps(make_config(
        str(real_data(name)), run={'detection_only': True}))
    assert outcome.reason is None
    channels = QTable.read(outcome.job.folder / 'channels.ecsv')
    assert len(channels) == n_channels
    axis = 'frequency' if n_channels == 41 else 'velocity'
    assert channels[axis].unit.is_equivalent(
        u.Hz if axis == 'frequency' else u.km / u.s)
    table = read_catalog(outcome.job.folder / 'catalog.ecsv')
    assert table.colnames[:2] == ['channel', axis]


def test_kelvin(cube, capsys):
    """
    The background of a cube in K stays in K and needs no frequency; its
    sources do, and the option gives it.
    """
    with fits.open(cube, mode='update') as hdus:
        hdus[0].header['BUNIT'] = 'K'
        for key in ('RESTFRQ', 'RESTFREQ'):
            hdus[0].header.remove(key, ignore_missing=True)
    assert main(['background', cube, '--output-dir', 'bkg']) == 0
    command = ['run', cube, '--datacube', '--detection-only',
               '--output-dir', 'out']
    assert main(command) == 1
    assert '--frequency' in capsys.readouterr().err
    assert main([*command, '--frequency', '230']) == 0
