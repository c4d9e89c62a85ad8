# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the files of single groups and sources.
"""

import re
import time

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose
from PIL import Image

from hyperphotutils.catalog import read_catalog
from hyperphotutils.maps import read_map
from hyperphotutils.pipeline import (
    OutputError,
    PipelineConfig,
    process_maps,
    run,
    source_images,
)

NAMES = ('fits_groups', 'fits_sources', 'plots_groups', 'plots_sources',
         'plots_backgrounds')


def make_config(map_file, directory, *, detection=None, **output):
    return PipelineConfig(
        input={'maps': [str(map_file)]}, detection=detection or {},
        output={'directory': str(directory), 'overview': False, **output})


@pytest.fixture(scope='module', name='written')
def fixture_written(map_file, tmp_path_factory):
    """
    The folder of a map with all files, and its table.
    """
    folder = tmp_path_factory.mktemp('all')
    table = run(make_config(map_file, folder, peak_unit='Jy/beam',
                            **dict.fromkeys(NAMES, True)))
    return folder / 'field', table


def test_there_is_one_file_for_each(written):
    folder, table = written
    groups = sorted(f'group_{number:04d}' for number
                    in set(table['group_id']))
    sources = [f'source_{number:04d}' for number in table['id']]
    for name in NAMES:
        expected = sources if 'sources' in name else groups
        files = sorted((folder / name).iterdir())
        assert [path.stem for path in files] == expected
        assert {path.suffix for path in files} == {
            '.fits' if 'fits' in name else '.png'}


def test_files_are_off_by_default(map_file, tmp_path):
    run(make_config(map_file, tmp_path))
    assert not {item.name for item in (tmp_path / 'field').iterdir()} & set(
        NAMES)


def test_group_files_are_parts_of_the_map(written, simulated):
    """
    On the sky, pixel by pixel, with a unit and a beam that read_map reads.
    """
    folder, table = written
    whole = simulated.image
    for path in (folder / 'fits_groups').iterdir():
        part = read_map(path, ext='DATA')
        assert part.unit == u.Jy / u.pix
        assert_allclose(part.meta['beam_area_pix'],
                        whole.meta['beam_area_pix'], rtol=1e-6)
        y, x = np.indices(part.shape)
        x, y = whole.wcs.world_to_pixel(part.wcs.pixel_to_world(x, y))
        x, y = np.rint(x).astype(int), np.rint(y).astype(int)
        assert_allclose(part.data, whole.data[y, x], rtol=1e-6)
        rows = table[table['group_id'] == int(path.stem[-4:])]
        for sky in rows['sky_centroid']:
            assert part.wcs.footprint_contains(sky)


def test_images_of_a_group_add_up(written):
    folder, table = written
    for path in (folder / 'fits_groups').iterdir():
        with fits.open(path) as hdus:
            assert [hdu.name for hdu in hdus[1:]] == [
                'DATA', 'MASKED', 'MODEL', 'RESIDUAL', 'BACKGROUND']
            images = {hdu.name: hdu.data for hdu in hdus[1:]}
            assert {hdu.header['BUNIT'] for hdu in hdus[1:]} == {
                'Jy pix-1'}
        known = np.isfinite(images['MASKED']) & np.isfinite(
            images['BACKGROUND'])
        assert known.sum() > 30
        total = images['MODEL'] + images['RESIDUAL'] + images['BACKGROUND']
        assert_allclose(images['MASKED'][known], total[known], atol=1e-9)
        assert np.isnan(images['MASKED'][0, 0])
        rows = table[table['group_id'] == int(path.stem[-4:])]
        flux = np.sum(rows['flux_fit'].value)
        assert_allclose(images['MODEL'].sum(), flux, rtol=0.02)


def test_deblended_source_has_the_flux_of_its_fit(written):
    folder, table = written
    for row in table:
        path = folder / 'fits_sources' / f'source_{row["id"]:04d}.fits'
        with fits.open(path) as hdus:
            assert [hdu.name for hdu in hdus[1:]] == [
                'DATA', 'DEBLENDED', 'MODEL', 'RESIDUAL', 'BACKGROUND']
            model = hdus['MODEL'].data
            deblended = hdus['DEBLENDED'].data
            residual = hdus['RESIDUAL'].data
        assert_allclose(model.sum(), row['flux_fit'].value, rtol=0.02)
        known = np.isfinite(residual)
        assert_allclose(deblended[known], (model + residual)[known],
                        atol=1e-12)
        # no companion is left
        peak = np.unravel_index(np.nanargmax(deblended), deblended.shape)
        top = np.unravel_index(np.argmax(model), model.shape)
        assert np.hypot(*np.subtract(peak, top)) < 3


def test_pictures_are_whole(written):
    folder, _ = written
    for name in NAMES[2:]:
        for path in (folder / name).iterdir():
            with Image.open(path) as image:
                assert min(image.size) > 300
                image.load()
            assert path.stat().st_size < 3e5


def test_sources_without_a_fit_or_at_the_edge_are_no_obstacle(
    map_file, simulated, tmp_path
):
    corner = simulated.image.wcs.pixel_to_world([0.0, -2000.0], [0.0, 30.0])
    config = PipelineConfig(
        input={'maps': [str(map_file)]},
        sources={'x': corner.ra.deg.tolist(), 'y': corner.dec.deg.tolist()},
        output={'directory': str(tmp_path), 'overview': False,
                **dict.fromkeys(NAMES, True)})
    outcome, = process_maps(config)
    assert outcome.reason is None
    files = list((tmp_path / 'field' / 'fits_sources').iterdir())
    assert len(files) <= 1


@pytest.mark.parametrize(
    'sections',
    [{'detection': {'n_sigma': 1e6}}, {'run': {'detection_only': True}}],
)
def test_nothing_to_cut_is_no_error(map_file, tmp_path, sections):
    output = {'directory': str(tmp_path), 'overview': False,
              **dict.fromkeys(NAMES, True)}
    outcome, = process_maps(PipelineConfig(
        input={'maps': [str(map_file)]}, output=output, **sections))
    assert outcome.reason is None
    assert not list((tmp_path / 'field').rglob('*.png'))


def test_own_folders_are_replaced_and_those_of_others_not(
    map_file, tmp_path
):
    config = make_config(map_file, tmp_path, fits_groups=True,
                         overwrite=True)
    run(config)
    n_files = len(list((tmp_path / 'field' / 'fits_groups').iterdir()))
    run(config)
    folder = tmp_path / 'field' / 'fits_groups'
    assert len(list(folder.iterdir())) == n_files
    assert len(read_catalog(tmp_path / 'field' / 'catalog.ecsv')) > 0
    (folder / 'thesis.tex').write_text('years of work')
    with pytest.raises(OutputError, match=r'fits_groups/thesis.tex'):
        run(config)
    assert (folder / 'thesis.tex').read_text() == 'years of work'


def test_time_of_writing_is_told_and_its_progress_shown(
    map_file, tmp_path, monkeypatch, capsys
):
    """
    Writing many pictures takes longer than measuring their sources.
    """
    offset = 0.0
    original = time.perf_counter

    def take_long(*_):
        nonlocal offset
        offset += 1000.0

    monkeypatch.setattr(time, 'perf_counter', lambda: original() + offset)
    monkeypatch.setattr(source_images, '_plot', take_long)
    config = make_config(map_file, tmp_path, plots_sources=True)
    outcome, = process_maps(config, progress_bar=True)
    seconds = float(re.search(r'([\d.]+) s$', outcome.summary)[1])
    assert seconds == pytest.approx(outcome.numbers['seconds'], abs=0.06)
    assert seconds > 8000
    log = (tmp_path / 'field' / 'run.log').read_text()
    assert float(re.search(r'writing +([\d.]+) s', log)[1]) > 8000
    assert '/8' in capsys.readouterr().err.split('Write plots_sources')[-1]
