# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the pages of maps and runs.
"""

import json
import shutil

import numpy as np
import pytest
from astropy.io import fits

from hyperphotutils.catalog import read_catalog
from hyperphotutils.datasets import make_map_cube
from hyperphotutils.pipeline import PipelineConfig, pages, process_maps
from hyperphotutils.pipeline.cli import main
from hyperphotutils.pipeline.extraction import extract_map
from hyperphotutils.pipeline.pages import (
    _local_rms,
    _noise_charts,
    write_map_page,
)
from hyperphotutils.utils import stored


@pytest.fixture(scope='module', name='run')
def fixture_run(map_file, tmp_path_factory):
    """
    The output directory of two maps, one of which fails.
    """
    folder = tmp_path_factory.mktemp('pages')
    shutil.copy(map_file, folder / 'good.fits')
    shutil.copy(map_file, folder / 'bad.fits')
    with fits.open(folder / 'bad.fits', mode='update') as hdus:
        del hdus[0].header['BUNIT']
    process_maps(PipelineConfig(
        input={'maps': [str(folder / 'good.fits'), str(folder / 'bad.fits')]},
        output={'directory': str(folder / 'out')}))
    return folder / 'out'


def test_map_page_has_the_catalog(read_page, run):
    """
    All sources, with an explanation and cut-outs; the overview, the log,
    and the configuration.
    """
    table = read_catalog(run / 'good' / 'catalog.ecsv')
    path = run / 'good' / 'report.html'
    data = read_page(path)
    assert len(data['catalog']['rows']) == len(table) > 3
    assert len(data['explanations']) == len(table)
    assert data['cutouts']['names'] == ['data', 'model', 'residual']
    page = path.read_text(encoding='utf-8')
    for text in ('data:image/png;base64', '<summary>Log</summary>',
                 'n_sigma: 5.0', 'Autocovariance of the residual',
                 'Power spectrum of the residual', 'Reduced chi2'):
        assert text in page
    assert '/good.fits' in page.split('<summary>Log</summary>')[1]


@pytest.mark.parametrize('unit', ['Jy/beam', 'mJy/beam'])
def test_map_per_beam_is_shown_in_its_unit(read_page, simulated, tmp_path,
                                           unit):
    """
    The page and the summary have no other unit of peaks, and fluxes have
    its prefix; the catalog is in Jy/pix and Jy.
    """
    simulated.write(tmp_path / 'map.fits')
    if unit[0] == 'm':
        with fits.open(tmp_path / 'map.fits', mode='update') as hdus:
            hdus[0].data *= 1e3
            hdus[0].header['BUNIT'] = unit
    result = extract_map(tmp_path / 'map.fits', PipelineConfig())
    assert str(result.table['local_bkg'].unit) == 'Jy / pix'
    assert str(result.table['flux_fit'].unit) == 'Jy'
    text = unit.replace('/', ' / ')
    rms = result.rms.to_value('Jy/pix') * result.image.meta['beam_area_pix']
    rms *= 1e3 if unit[0] == 'm' else 1.0
    assert f'rms {rms:.3g} {text} of the map' in result.summary
    # the log has one unit, too
    rows = result.describe()[1].splitlines()
    for name in ('threshold', 'detection rms', 'rms'):
        row, = (row for row in rows if row.startswith(f'{name} '))
        assert text in row
        assert 'pix' not in row
    write_map_page(tmp_path / 'page.html', result, 'map')
    data = read_page(tmp_path / 'page.html')
    units = {column['name']: column['unit']
             for column in data['catalog']['columns']}
    assert units['amplitude_fit'] == units['local_bkg'] == text
    assert units['flux_fit'] == unit.partition('/')[0]
    page = (tmp_path / 'page.html').read_text(encoding='utf-8')
    facts = page[page.index('id="summary"'):page.index('id="catalog"')]
    assert f'{rms:.3g} {text}' in facts
    assert 'threshold has a peak of' in facts
    assert 'Jy / pix' not in page


def test_page_of_many_sources_shows_the_brightest(read_page, map_file,
                                                  tmp_path, monkeypatch):
    """
    A browser must be able to open it; it says how many the catalog has.
    """
    result = extract_map(map_file, PipelineConfig())
    write_map_page(tmp_path / 'all.html', result, 'map')
    monkeypatch.setattr(pages, '_MAX_SOURCES', 3)
    write_map_page(tmp_path / 'page.html', result, 'map')
    shown, every = (read_page(tmp_path / name)
                    for name in ('page.html', 'all.html'))
    rows = np.sort(np.argsort(-result.table['snr'])[:3])
    assert shown['catalog']['rows'] == [every['catalog']['rows'][row]
                                        for row in rows]
    assert shown['explanations'] == [every['explanations'][row]
                                     for row in rows]
    assert (f'the catalog has all {len(result.table)}'
            in (tmp_path / 'page.html').read_text(encoding='utf-8'))


def test_page_does_not_depend_on_the_blocks_of_rows(map_file, tmp_path,
                                                    monkeypatch):
    """
    Cut-outs and charts are those of whole images, also where no background
    was fitted.
    """
    result = extract_map(map_file, PipelineConfig())
    assert np.isnan(result.background).any()
    write_map_page(tmp_path / 'whole.html', result, 'map')
    monkeypatch.setattr(stored, '_BLOCK', 7 * result.image.shape[1])
    write_map_page(tmp_path / 'blocks.html', result, 'map')
    whole, blocks = ((tmp_path / f'{name}.html').read_bytes()
                     for name in ('whole', 'blocks'))
    assert blocks == whole


def test_run_page_links_to_maps(read_page, run):
    """
    Only maps with a page have a link; failed maps have their reason.
    """
    data = read_page(run / 'report.html')
    assert data['links'] == {'good': 'good/report.html'}
    # that of the maps, as on their own pages
    rms, = (column for column in data['catalog']['columns']
            if column['name'] == 'rms')
    assert rms['unit'] == 'Jy / beam'
    text = json.dumps(data['catalog']['rows'])
    assert 'no BUNIT in the header' in text


def test_failed_run_can_be_repeated_with_other_settings(
    read_page, map_file, tmp_path
):
    """
    A run in which all maps failed leaves no page that would be replaced.
    """
    paths = [str(tmp_path / 'a.fits'), str(tmp_path / 'b.fits')]
    for path in paths:
        shutil.copy(map_file, path)
        with fits.open(path, mode='update') as hdus:
            del hdus[0].header['BUNIT']
    output = {'directory': str(tmp_path / 'out'), 'overview': False}
    process_maps(PipelineConfig(input={'maps': paths}, output=output))
    assert not (tmp_path / 'out' / 'report.html').exists()
    outcomes = process_maps(PipelineConfig(
        input={'maps': paths, 'unit': 'Jy/pixel'}, output=output))
    assert not any(item.reason for item in outcomes)
    assert len(read_page(tmp_path / 'out' / 'report.html')['links']) == 2


def test_pages_can_be_made_again(read_page, run, capsys):
    """
    From the files of the run come the same pages as from its memory.
    """
    paths = [run / 'report.html', run / 'good' / 'report.html']
    before = [path.read_text(encoding='utf-8') for path in paths]
    for path in paths:
        path.unlink()
    assert main(['report', str(run)]) == 0
    assert str(paths[0]) in capsys.readouterr().out
    assert paths[1].read_text(encoding='utf-8') == before[1]
    rows = read_page(paths[0])['catalog']['rows']
    assert sorted(row[1] for row in rows) == ['done', 'failed']


@pytest.mark.parametrize('products', [{}, {'report': False}])
def test_pages_made_again_keep_the_order_of_maps(
    read_page, map_file, tmp_path, products
):
    """
    It is that of the run, for failed maps, too, and not that of the names.
    """
    names = ['zebra', 'ant', 'wasp', 'bee']
    paths = [str(tmp_path / f'{name}.fits') for name in names]
    for path in paths:
        shutil.copy(map_file, path)
    with fits.open(paths[2], mode='update') as hdus:
        del hdus[0].header['BUNIT']
    folder = tmp_path / 'out'
    process_maps(PipelineConfig(input={'maps': paths}, output={
        'directory': str(folder), 'overview': False, **products}))
    assert main(['report', str(folder)]) == 0
    rows = read_page(folder / 'report.html')['catalog']['rows']
    assert [row[0] for row in rows] == names


def test_page_of_a_changed_map_has_no_cutouts(read_page, map_file, tmp_path):
    """
    Cut-outs of another map would be wrong.
    """
    path = tmp_path / 'field.fits'
    shutil.copy(map_file, path)
    process_maps(PipelineConfig(
        input={'maps': [str(path)]},
        output={'directory': str(tmp_path / 'out'), 'overview': False,
                'report': False}))
    folder = tmp_path / 'out' / 'field'
    assert not (folder / 'report.html').exists()
    path.unlink()
    assert main(['report', str(folder)]) == 0
    data = read_page(folder / 'report.html')
    assert data['cutouts'] is None
    assert len(data['explanations']) == len(data['catalog']['rows']) > 3


def test_folder_without_products(tmp_path, capsys):
    assert main(['report', str(tmp_path)]) == 2
    assert 'has no products of hyperphot' in capsys.readouterr().err


def test_missing_folder(tmp_path, capsys):
    assert main(['report', str(tmp_path / 'none')]) == 2
    assert 'none: no such folder' in capsys.readouterr().err


@pytest.mark.parametrize(('config', 'n_rows'), [
    ({'detection': {'n_sigma': 1e6}}, 0),
    ({'run': {'detection_only': True}}, None)])
def test_page_without_fits(read_page, map_file, tmp_path, config, n_rows):
    """
    Maps without sources, and detections, have a page.
    """
    outcome, = process_maps(PipelineConfig(
        input={'maps': [str(map_file)]},
        output={'directory': str(tmp_path)}, **config))
    assert outcome.reason is None
    path = outcome.job.folder / 'report.html'
    before = path.read_text(encoding='utf-8')
    rows = read_page(path)['catalog']['rows']
    assert len(rows) == n_rows if n_rows is not None else len(rows) > 3
    assert main(['report', str(outcome.job.folder)]) == 0
    assert path.read_text(encoding='utf-8') == before


@pytest.mark.parametrize('step', ['catalog', 'background_only'])
def test_page_of_a_cube_can_be_made_again(tmp_path, step):
    """
    From the files of a cube come the same pages as from memory; that of a
    cube which is gone has the table only.
    """
    path = tmp_path / 'cube.fits'
    make_map_cube((3, 48, 48), 2, seed=2).write(path)
    outcome, = process_maps(PipelineConfig(
        input={'maps': [str(path)], 'datacube': True},
        output={'directory': str(tmp_path / 'out'), 'overview': False},
        run={'background_only': step == 'background_only'}))
    assert outcome.reason is None
    page = outcome.job.folder / 'report.html'
    before = page.read_text(encoding='utf-8')
    assert main(['report', str(outcome.job.folder)]) == 0
    assert page.read_text(encoding='utf-8') == before
    path.unlink()
    assert main(['report', str(outcome.job.folder)]) == 0
    page = page.read_text(encoding='utf-8')
    assert 'not found, or changed since' in page
    assert 'Noise of the channels' not in page


def test_pages_of_other_settings_are_refused(run, capsys):
    """
    The settings of another version may have had other effects.
    """
    path = run / 'good' / 'run.json'
    before = path.read_text(encoding='ascii')
    record = json.loads(before)
    record['settings']['detection.old_key'] = 1
    path.write_text(json.dumps(record), encoding='ascii')
    try:
        assert main(['report', str(run)]) == 2
    finally:
        path.write_text(before, encoding='ascii')
    assert ('whose settings differ from those of this version; repeat the '
            'run') in capsys.readouterr().err


class TestNoise:
    def test_white_noise(self):
        """
        The autocovariance of white noise is 0 except at separation 0, its
        power spectrum is its variance, and its local rms is its rms.
        """
        rng = np.random.default_rng(1)
        image = rng.normal(0.0, 3.0, (300, 320))
        image[:, :20] = np.nan
        charts = _noise_charts(image, 4.0, 'mJy / beam')
        lines = charts['Autocovariance of the residual']['y']
        for name in ('along x', 'along y'):
            assert lines[name][0] == pytest.approx(1.0)
            assert np.abs(lines[name][1:]).max() < 0.03
        power = charts['Power spectrum of the residual']['y']
        assert power[-8:] == pytest.approx(9.0, rel=0.1)
        local = charts['Local rms of the residual']['image']
        assert np.nanmedian(local) == pytest.approx(3.0, rel=0.05)

    def test_local_rms(self):
        """
        Boxes with few values have none.
        """
        image = np.full((20, 30), np.nan)
        image[:10, :10] = np.arange(100.0).reshape(10, 10)
        local = _local_rms(image, 10)
        assert local.shape == (2, 3)
        assert np.isfinite(local).sum() == 1

    def test_no_noise(self):
        for value in (np.nan, 0.0):
            assert _noise_charts(np.full((30, 30), value), 4.0, '') == {}
