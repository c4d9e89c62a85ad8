# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of planning, running and accounting for maps.
"""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning
from matplotlib import colormaps
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from hyperphotutils.catalog import read_catalog
from hyperphotutils.datasets import make_blended_map
from hyperphotutils.detection import HighPassStarFinder
from hyperphotutils.maps import read_map
from hyperphotutils.noise import clipped_rms
from hyperphotutils.pipeline import (
    ConfigError,
    MapJob,
    OutputError,
    PipelineConfig,
    PipelineError,
    config_to_yaml,
    plan_jobs,
    process_map,
    process_maps,
    run,
)
from hyperphotutils.pipeline import process as process_module
from hyperphotutils.pipeline import products as products_module
from hyperphotutils.pipeline.extraction import extract_map
from hyperphotutils.pipeline.folders import (
    describe_files,
    describe_settings,
    read_finished,
)
from hyperphotutils.pipeline.products import Product

ALL_PRODUCTS = {
    'catalog.ecsv', 'catalog.ipac', 'ellipses.reg', 'centroids.reg',
    'rejected.ecsv', 'rejected.reg', 'overview.png', 'report.html', 'run.log',
    'run.json',
}


def make_config(maps, directory, **sections):
    output = {'directory': str(directory), 'overview': False}
    output.update(sections.pop('output', {}))
    return PipelineConfig(input={'maps': [str(path) for path in maps]},
                          output=output, **sections)


def tree(folder):
    """
    All files below a folder with their bytes.
    """
    return {path: path.read_bytes() for path in folder.rglob('*')
            if path.is_file()}


@pytest.mark.parametrize(
    ('paths', 'names'),
    [
        (['a/map.fits'], ['map']),
        (['map.fits.gz', 'x.FITS', 'y.fit'], ['map', 'x', 'y']),
        (['noext', 'v1.2.fits'], ['noext', 'v1.2']),
        (['a/m.fits', 'b/m.fits'], ['a_m', 'b_m']),
        (['a/x/m.fits', 'b/x/m.fits'], ['a_x_m', 'b_x_m']),
        (['a/m.fits', 'b/m.fits', 'c_m.fits'], ['a_m', 'b_m', 'c_m']),
    ],
)
def test_every_map_has_a_folder_of_its_own(tmp_path, paths, names):
    paths = [tmp_path / 'top' / path for path in paths]
    jobs = plan_jobs(make_config(paths, 'out'))
    ids = [job.map_id for job in jobs]
    assert len({name.casefold() for name in ids}) == len(paths)
    assert ids == names
    assert [job.folder for job in jobs] == [Path('out', name)
                                            for name in ids]


@pytest.mark.parametrize('name', ['a/M.fits.gz', 'a_m.fits', 'a/m.fit'])
def test_maps_that_only_a_code_tells_apart(tmp_path, name):
    """
    The code depends on the path alone, not on the other maps.
    """
    paths = [tmp_path / path for path in ('a/m.fits', 'b/m.fits', name)]
    ids = [job.map_id for job in plan_jobs(make_config(paths, 'out'))]
    assert len({map_id.casefold() for map_id in ids}) == 3
    assert ids[1] == 'b_m'
    again = plan_jobs(make_config([*paths[::-1], tmp_path / 'c.fits'], 'out'))
    assert [job.map_id for job in again] == [*ids[::-1], 'c']


def test_a_link_has_the_name_that_it_was_given(copy_map, tmp_path):
    target = copy_map('archive/x123.fits')
    link = tmp_path / 'm1.fits'
    link.symlink_to(target)
    job, = plan_jobs(make_config([link], tmp_path))
    assert job.map_id == 'm1'
    with pytest.raises(ConfigError, match='named twice'):
        plan_jobs(make_config([link, target], tmp_path))


def test_names_do_not_depend_on_the_order_of_the_maps(tmp_path):
    paths = [tmp_path / path for path in ('a/m.fits', 'b/m.fits', 'c/n.fits')]
    there = plan_jobs(make_config(paths, 'out'))
    back = plan_jobs(make_config(paths[::-1], 'out'))
    assert [job.map_id for job in there] == [job.map_id for job in back[::-1]]


def test_a_map_named_twice_is_an_error(tmp_path):
    path = tmp_path / 'm.fits'
    with pytest.raises(ConfigError, match='named twice'):
        plan_jobs(make_config([path, tmp_path / 'x' / '..' / 'm.fits'], 'o'))
    with pytest.raises(ConfigError, match='no map is given'):
        plan_jobs(PipelineConfig())


def test_one_map_gives_all_products(map_file, simulated, tmp_path):
    out = tmp_path / 'deep' / 'out'
    table = run(make_config([map_file], out, output={'overview': True}))
    assert {path.name for path in out.iterdir()} == {'field', 'run.log'}
    names = {path.name for path in (out / 'field').iterdir()}
    assert names == ALL_PRODUCTS
    assert len(table) == len(simulated.truth)
    stored = read_catalog(out / 'field' / 'catalog.ecsv')
    assert_array_equal(stored['flux_fit'], table['flux_fit'])
    assert stored.meta['map_id'] == 'field'
    assert len(read_catalog(out / 'field' / 'catalog.ipac')) == len(table)
    picture = (out / 'field' / 'overview.png').read_bytes()
    assert picture.startswith(b'\x89PNG')


def test_regions_can_be_read_and_lie_on_the_sources(map_file, tmp_path):
    regions = pytest.importorskip('regions')
    table = run(make_config([map_file], tmp_path / 'out'))
    for name in ('ellipses.reg', 'centroids.reg'):
        read = regions.Regions.read(tmp_path / 'out' / 'field' / name)
        separation = [region.center.separation(sky).arcsec for region, sky
                      in zip(read, table['sky_centroid'], strict=True)]
        assert_allclose(separation, 0, atol=1e-3)


def test_log_says_what_was_run(map_file, tmp_path):
    config = make_config([map_file], tmp_path, detection={'n_sigma': 5.5})
    table = run(config)
    log = (tmp_path / 'field' / 'run.log').read_text(encoding='utf-8')
    for part in (str(map_file), 'hyperphotutils', 'numpy', 'Jy/beam',
                 'n_sigma: 5.5', f'{len(table)} measured (', ' detected on '
                 'the map', 'beam area', '100 x 90 pixels',
                 '5.5 times the rms of the filtered map',
                 ', of the map about the local backgrounds', 'groups',
                 'flags', 'warnings', 'reading', 'extraction'):
        assert part in log, part
    assert config_to_yaml(config, comments=False) in log


def test_only_finite_fits_count_as_measured(map_file):
    """
    What is told adds up: detected + companions = measured + without a
    fit + rejected.
    """
    extraction = extract_map(map_file, PipelineConfig())
    table = extraction.table
    n_rows = len(table)
    table.meta.update(n_detected=n_rows + 1, n_companions=3)
    told = (f'({n_rows + 1} detected on the map, 4 of them rejected, '
            '3 companions)')
    assert extraction.counts == f'{n_rows} measured {told}'
    table['flux_fit'][1] = np.nan
    assert extraction.counts == (
        f'{n_rows - 1} measured, 1 without a fit {told}')


def test_numbers_of_any_kind_can_be_noted(tmp_path):
    """
    A map on which pairs are split: its numbers go into the record.
    """
    make_blended_map((200, 200), 60, seed=1).write(tmp_path / 'field.fits')
    outcome, = process_maps(make_config([tmp_path / 'field.fits'],
                                        tmp_path / 'out'))
    assert outcome.reason is None
    kinds = {type(value) for value in outcome.numbers.values()}
    assert kinds <= {int, float}


def test_catalog_knows_beam_and_unit(map_file, simulated, copy_map,
                                     tmp_path):
    """
    Its metadata lead back to the unit of the file, from each format.
    """
    run(make_config([map_file], tmp_path / 'out'))
    meta = read_catalog(tmp_path / 'out' / 'field' / 'catalog.ecsv').meta
    assert meta['original_unit'] == 'Jy/beam'
    assert_allclose(meta['beam_area_pix'],
                    simulated.image.meta['beam_area_pix'], rtol=1e-6)
    beam = simulated.image.meta['beam']
    for name, value in (('beam_major', beam.major),
                        ('beam_minor', beam.minor), ('beam_pa', beam.pa)):
        assert u.isclose(meta[name], value, rtol=1e-6)
    assert meta['rms'].unit == u.Jy / u.pix
    assert 'local backgrounds' in meta['rms_of']
    both = run(make_config([map_file, copy_map('b.fits')], tmp_path / 'two'))
    for name in ('field', 'b'):
        assert (both.meta['map_meta'][name]['beam_area_pix']
                == meta['beam_area_pix'])


@pytest.mark.parametrize(
    ('detection_only', 'words'),
    [(False, 'of the map about the local backgrounds'),
     (True, 'of the filtered map')],
)
def test_ipac_header_tells_which_rms(map_file, tmp_path, detection_only,
                                     words):
    run(make_config([map_file], tmp_path,
                    run={'detection_only': detection_only}))
    lines = (tmp_path / 'field' / 'catalog.ipac').read_text('utf-8')
    header = ' '.join(line[1:].strip() for line in lines.splitlines()
                      if line.startswith('\\'))
    assert re.search(r'Threshold: \S+ Jy / pix, 5.0 times the detection rms',
                     header)
    image = read_map(map_file)
    value, unit = re.search(r'Detection rms: (\S+) (.*) Noise rms:',
                            header).groups()
    assert unit == 'Jy / pix'
    finder = HighPassStarFinder(n_sigma=5.0, fwhm=image.meta['beam_fwhm_pix'])
    assert_allclose(float(value), clipped_rms(finder.filter(image.data)))
    log = (tmp_path / 'field' / 'run.log').read_text(encoding='utf-8')
    assert re.search(r'rms +\S+ Jy / beam, of the filtered map', log)
    assert f'Jy / pix, {words}' in header
    assert header.count(f', {words}') == 1


def test_overview_is_small_and_has_true_colors(map_file, tmp_path):
    """
    The palette has the colors of the maps, evenly.
    """
    run(make_config([map_file], tmp_path, output={'overview': True}))
    path = tmp_path / 'field' / 'overview.png'
    with Image.open(path) as image:
        assert image.mode == 'P'
        pixels = np.asarray(image.convert('RGB')).reshape(-1, 3)
    assert path.stat().st_size < 3e5
    found = np.unique(pixels, axis=0).astype(float)
    for name in ('cividis', 'RdBu_r'):
        colors = 255 * colormaps[name](np.linspace(0, 1, 256))[:, :3]
        distance = np.linalg.norm(colors[:, None] - found, axis=2).min(axis=1)
        assert distance.max() < 5


def test_optional_products_can_be_left_out(map_file, tmp_path):
    run(make_config([map_file], tmp_path,
                    output={'ipac': False, 'regions': False}))
    names = {path.name for path in (tmp_path / 'field').iterdir()}
    assert names == {'catalog.ecsv', 'rejected.ecsv', 'report.html',
                     'run.log', 'run.json'}


def test_configuration_reaches_the_classes(map_file, tmp_path):
    full = run(make_config([map_file], tmp_path / 'full'))
    table = run(make_config(
        [map_file], tmp_path / 'few', detection={'n_brightest': 2},
        fit={'max_rounds': 0, 'poly_order': 2},
        photometry={'aperture_correction': False}))
    assert len(table) == 2 < len(full)
    assert_array_equal(table['bkg_order'], 2)
    assert_array_equal(table['aperture_correction'], 1)


def test_manual_rms_sets_the_threshold(map_file, tmp_path):
    only = {'detection_only': True}
    full = run(make_config([map_file], tmp_path / 'full', run=only))
    measured = full.meta['rms']
    rms = measured * np.median(full['snr']) / 5
    table = run(make_config([map_file], tmp_path / 'half', run=only,
                            detection={'rms': rms.value}))
    assert len(table) == np.sum(full['snr'] > np.median(full['snr']))
    assert table.meta['rms'] == rms


def test_detection_only_makes_all_products(map_file, simulated, tmp_path):
    config = make_config([map_file], tmp_path, run={'detection_only': True},
                         output={'overview': True})
    table = run(config)
    assert 'x_fit' not in table.colnames
    assert len(table) >= len(simulated.truth) - 2
    names = {path.name for path in (tmp_path / 'field').iterdir()}
    assert names == ALL_PRODUCTS
    ipac = read_catalog(tmp_path / 'field' / 'catalog.ipac')
    assert_allclose(ipac['RA'].value, table['sky_centroid'].ra.deg,
                    atol=1e-7)
    assert np.all(~np.isfinite(np.ma.filled(ipac['FLUX_PEAK'], np.nan)))


@pytest.mark.parametrize('detection_only', [True, False])
def test_map_without_detection_is_a_success(map_file, tmp_path,
                                            detection_only):
    full = run(make_config([map_file], tmp_path / 'full',
                           run={'detection_only': detection_only}))
    outcome, = process_maps(make_config(
        [map_file], tmp_path / 'none', detection={'n_sigma': 1e6},
        run={'detection_only': detection_only}, output={'overview': True}))
    assert outcome.reason is None
    assert outcome.summary.startswith('no source found')
    folder = tmp_path / 'none' / 'field'
    assert {path.name for path in folder.iterdir()} == ALL_PRODUCTS
    empty = read_catalog(folder / 'catalog.ecsv')
    assert len(empty) == 0
    assert empty.colnames == full.colnames
    for name in full.colnames:
        assert getattr(empty[name], 'unit', None) == getattr(
            full[name], 'unit', None), name


def test_several_maps_give_one_table_in_their_order(copy_map, tmp_path):
    maps = [copy_map(name) for name in ('b.fits', 'a.fits')]
    out = tmp_path / 'out'
    table = run(make_config(maps, out))
    assert table.colnames[0] == 'map_id'
    n_each = len(table) // 2
    assert list(table['map_id']) == ['b'] * n_each + ['a'] * n_each
    stored = read_catalog(out / 'catalog_all.ecsv')
    assert_array_equal(stored['map_id'], table['map_id'])
    assert_array_equal(stored['flux_fit'], table['flux_fit'])
    assert {path.name for path in out.iterdir()} == {
        'a', 'b', 'catalog_all.ecsv', 'diagnostics.ecsv', 'report.html',
        'run.log', 'run.json'}


@pytest.mark.parametrize('empty_first', [True, False])
def test_map_without_sources_may_be_in_another_frame(map_file, tmp_path,
                                                     empty_first):
    """
    The positions of all are in the frame of the first, even if that has
    no source.
    """
    strict = tmp_path / 'fk5.fits'
    with fits.open(map_file) as hdus:
        hdus[0].header['RADESYS'] = 'FK5'
        hdus[0].header['EQUINOX'] = 2000.0
        hdus[0].data = np.random.default_rng(1).normal(
            0.0, 1e-5, hdus[0].data.shape)
        hdus.writeto(strict)
    maps = [strict, map_file] if empty_first else [map_file, strict]
    out = tmp_path / 'out'
    table = run(make_config(maps, out, detection={'n_sigma': 8.0}))
    assert len(table) == 8
    frame = 'fk5' if empty_first else 'icrs'
    stored = read_catalog(out / 'catalog_all.ecsv')
    assert stored['sky_centroid'].frame.name == frame
    own = read_catalog(out / 'field' / 'catalog.ecsv')
    assert np.all(stored['sky_centroid'].icrs.separation(
        own['sky_centroid'].icrs) < 1e-6 * u.arcsec)


def test_error_in_combining_does_not_lose_the_accounting(
    copy_map, tmp_path, monkeypatch
):
    from hyperphotutils.pipeline import logs

    maps = [copy_map(name) for name in ('a.fits', 'b.fits')]

    def fail(_):
        msg = 'they do\nnot suit'
        raise ValueError(msg)

    config = make_config(maps, tmp_path / 'out')
    with monkeypatch.context() as patch:
        patch.setattr(logs, 'combine_outcomes', fail)
        with pytest.raises(PipelineError, match=r'catalog_all\.ecsv: not '
                           r'written: they do not suit; .*run\.log'):
            process_maps(config)
    log = (tmp_path / 'out' / 'run.log').read_text(encoding='utf-8')
    assert 'a: 8 measured' in log
    assert 'Traceback (most recent call last)' in log
    assert len(Table.read(tmp_path / 'out' / 'diagnostics.ecsv')) == 2
    outcomes = process_maps(config)
    assert all(item.earlier for item in outcomes)
    assert (tmp_path / 'out' / 'catalog_all.ecsv').exists()


def test_parallel_and_serial_results_are_the_same(copy_map, tmp_path):
    maps = [copy_map(name) for name in ('c.fits', 'a.fits', 'b.fits')]
    maps.insert(1, tmp_path / 'missing.fits')
    serial = process_maps(make_config(maps, tmp_path / 'serial'))
    parallel = process_maps(make_config(maps, tmp_path / 'parallel',
                                        run={'n_workers': 2}))
    assert [item.job.map_id for item in parallel] == ['c', 'missing', 'a',
                                                      'b']
    for one, other in zip(serial, parallel, strict=True):
        assert one.reason == other.reason
        if not one.reason:
            assert_array_equal(one.table['flux_fit'],
                               other.table['flux_fit'])
            assert_array_equal(one.table['sky_centroid'].ra,
                               other.table['sky_centroid'].ra)
    assert (tmp_path / 'serial' / 'catalog_all.ecsv').is_file()
    left = [path for path in tmp_path.rglob('*') if 'partial' in path.name]
    assert left == []


def test_bad_maps_do_not_touch_the_others(copy_map, tmp_path):
    good = copy_map('good.fits')
    bad = tmp_path / 'bad.fits'
    bad.write_text('no FITS at all')
    with pytest.warns(AstropyUserWarning, match=r'1 of 2 maps .*bad.fits'):
        table = run(make_config([bad, good], tmp_path / 'out'))
    assert set(table['map_id']) == {'good'}
    log = (tmp_path / 'out' / 'run.log').read_text(encoding='utf-8')
    assert 'bad: failed: ' in log
    assert not (tmp_path / 'out' / 'bad').exists()


def test_all_maps_failed_is_an_error_that_leaves_nothing(tmp_path):
    out = tmp_path / 'new' / 'out'
    with pytest.raises(PipelineError, match=r'missing.fits: no such file'):
        run(make_config([tmp_path / 'missing.fits'], out))
    assert not out.parent.exists()


def test_unexpected_error_is_logged_with_its_traceback(
    copy_map, tmp_path, monkeypatch
):
    """
    It is told in one line, and the other maps are done.
    """
    maps = [copy_map(name) for name in ('a.fits', 'b.fits')]
    original = process_module.process_map

    def fail(job, config, **kwargs):
        if job.map_id == 'a':
            msg = 'two\nlines'
            raise KeyError(msg)
        return original(job, config, **kwargs)

    monkeypatch.setattr(process_module, 'process_map', fail)
    first, second = process_maps(make_config(maps, tmp_path / 'out'))
    assert second.reason is None
    assert first.reason.startswith(f'{maps[0]}: unexpected KeyError: ')
    assert '\n' not in first.reason
    assert first.reason.endswith(f'(details in {tmp_path}/out/run.log)')
    log = (tmp_path / 'out' / 'run.log').read_text(encoding='utf-8')
    assert 'Traceback (most recent call last)' in log
    assert 'details in' not in log
    assert 'b: ' in log


def test_interrupt_is_not_taken_for_an_error_of_a_map(
    map_file, tmp_path, monkeypatch
):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(process_module, 'process_map', interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(make_config([map_file], tmp_path / 'out'))
    assert not (tmp_path / 'out').exists()


def test_killed_worker_costs_only_its_own_map(copy_map, tmp_path):
    """
    One process of the pool dies; the others' maps are done.
    """
    maps = [copy_map(name) for name in ('a.fits', 'b.fits', 'c.fits')]
    script = tmp_path / 'script.py'
    script.write_text(
        'import os, signal\n'
        'from hyperphotutils.pipeline import PipelineConfig, process_maps\n'
        'from hyperphotutils.pipeline import process\n'
        'original = process.process_map\n'
        'def process_map(job, config):\n'
        '    if job.map_id == "b":\n'
        '        os.kill(os.getpid(), signal.SIGKILL)\n'
        '    return original(job, config)\n'
        'if __name__ == "__main__":\n'
        '    process.process_map = process_map\n'
        f'    maps = {[str(path) for path in maps]}\n'
        '    config = PipelineConfig(input={"maps": maps},\n'
        '        run={"n_workers": 2},\n'
        '        output={"directory": "out", "overview": False})\n'
        '    for item in process_maps(config):\n'
        '        print(item.job.map_id, item.reason)\n', encoding='utf-8')
    root = Path(process_module.__file__).parents[2]
    result = subprocess.run(
        [sys.executable, script], cwd=tmp_path, check=True,
        capture_output=True, text=True,
        env=dict(os.environ, PYTHONPATH=str(root)))
    lines = result.stdout.splitlines()
    assert lines[0] == 'a None'
    assert lines[1].endswith(
        'b.fits: its process was killed by the signal SIGKILL')
    assert lines[2] == 'c None'


def test_existing_output_is_refused_before_any_work(copy_map, tmp_path):
    maps = [copy_map(name) for name in ('a.fits', 'b.fits')]
    out = tmp_path / 'out'
    run(make_config(maps[:1], out))
    (out / 'a' / 'run.json').unlink()
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r'a: exists already.*--overwrite'):
        run(make_config(maps, out))
    assert tree(tmp_path) == before
    (out / 'a').rename(tmp_path / 'elsewhere')
    (out / 'catalog_all.ecsv').touch()
    with pytest.raises(OutputError, match=r'catalog_all.ecsv: exists'):
        run(make_config(maps, out))


def test_overwrite_replaces_when_the_new_one_is_whole(copy_map, tmp_path):
    path = copy_map('a.fits')
    out = tmp_path / 'out'
    run(make_config([path], out))
    allowed = {'overwrite': True, 'ipac': False}
    run(make_config([path], out, output=allowed))
    assert not (out / 'a' / 'catalog.ipac').exists()
    assert (out / 'a' / 'catalog.ecsv').exists()
    assert {item.name for item in out.iterdir()} == {'a', 'run.log'}

    path.write_text('damaged')
    before = tree(out / 'a')
    with pytest.raises(PipelineError, match=r'a.fits: '):
        run(make_config([path], out, output=allowed))
    assert tree(out / 'a') == before


def test_failure_while_writing_keeps_the_old_products(
    map_file, tmp_path, monkeypatch
):
    run(make_config([map_file], tmp_path))
    before = tree(tmp_path / 'field')

    def fail(*_, **__):
        raise OSError(28, 'No space left on device', 'overview.png')

    monkeypatch.setattr('PIL.Image.Image.save', fail)
    with pytest.raises(PipelineError, match='No space left on device'):
        run(make_config([map_file], tmp_path,
                        output={'overwrite': True, 'overview': True}))
    assert tree(tmp_path / 'field') == before
    assert {path.name for path in tmp_path.iterdir()} == {
        'field', 'run.log', 'run.json'}


@pytest.mark.parametrize('overwrite', [True, False])
def test_what_others_wrote_is_never_replaced(map_file, tmp_path, overwrite):
    folder = tmp_path / 'field'
    folder.mkdir()
    (folder / 'thesis.tex').write_text('years of work')
    before = tree(tmp_path)
    message = 'did not write: thesis.tex' if overwrite else 'exists already'
    with pytest.raises(OutputError, match=message):
        run(make_config([map_file], tmp_path,
                        output={'overwrite': overwrite}))
    assert tree(tmp_path) == before


def test_a_file_in_the_place_of_the_folder_is_never_replaced(
    map_file, tmp_path
):
    (tmp_path / 'field').write_text('a file')
    with pytest.raises(OutputError, match='not a folder of products'):
        run(make_config([map_file], tmp_path, output={'overwrite': True}))
    assert (tmp_path / 'field').read_text() == 'a file'


def test_unwritable_output_is_one_line(map_file, tmp_path):
    """
    A path below a regular file cannot be written, even by root.
    """
    (tmp_path / 'file').write_text('')
    for name in ('file', 'file/below'):
        with pytest.raises(OutputError, match=f'{name}: cannot be written'):
            run(make_config([map_file], tmp_path / name))


def test_configuration_file_is_run(map_file, tmp_path):
    config = make_config([map_file], tmp_path / 'out')
    path = tmp_path / 'my.yaml'
    path.write_text(config_to_yaml(config), encoding='utf-8')
    assert len(run(path)) == len(run(make_config([map_file],
                                                 tmp_path / 'again')))


def test_job_is_a_plain_record():
    job = MapJob('a.fits', 'a', Path('out/a'))
    assert job == MapJob('a.fits', 'a', Path('out/a'))


def test_another_kind_of_job_uses_the_same_steps(map_file, tmp_path,
                                                 monkeypatch):
    """
    A class with two methods, and a product: folder, record, log, and
    outcome are those of all jobs.
    """
    class SumResult:
        table, table_name, earlier = None, 'sum.txt', ''

        def __init__(self, total):
            self.total = total
            self.summary = f'sum {total:.3g}'
            self.numbers = {'sum': total}
            self.times = {}

        def describe(self):
            return ['a section of the log']

    class SumKind:
        keeps_parts = False

        def read(self, job, config):
            assert config.input.unit is None
            return fits.getdata(job.path)

        def measure(self, data, *_, **__):
            return SumResult(float(np.nansum(data)))

    def write_sum(writing):
        writing.path.write_text(writing.result.summary)

    module = types.ModuleType('kinds')
    module.SumKind = SumKind
    monkeypatch.setitem(sys.modules, 'kinds', module)
    monkeypatch.setitem(process_module._KINDS, 'sum', ('kinds', 'SumKind'))
    monkeypatch.setattr(products_module, 'PRODUCTS', (
        *products_module.PRODUCTS,
        Product('sum.txt', write_sum, 'the sum', kinds=('sum',),
                needs='total')))
    job = MapJob(str(map_file), 'field', tmp_path / 'field', kind='sum')
    config = make_config([map_file], tmp_path)
    outcome = process_map(job, config)
    assert outcome.summary.startswith('sum ')
    assert {path.name for path in job.folder.iterdir()} == {
        'sum.txt', 'run.log', 'run.json'}
    assert 'a section of the log' in (job.folder / 'run.log').read_text()
    record = read_finished(job.folder, describe_settings(config),
                           describe_files(map_file))
    assert record['numbers'] == outcome.numbers
