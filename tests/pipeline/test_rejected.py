# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the lists of rejected detections that a run writes.
"""

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_array_equal
from regions import Regions

from hyperphotutils.catalog import read_catalog
from hyperphotutils.datasets import make_blended_map, make_map_cube
from hyperphotutils.photometry import REJECTION_REASONS, HyperPhotometry
from hyperphotutils.pipeline import PipelineConfig, process_maps
from hyperphotutils.pipeline.logs import (
    describe_bad_pixels,
    describe_reasons,
)

REJECTED = {'rejected.ecsv', 'rejected.reg'}


@pytest.fixture(name='hole', scope='module')
def fixture_hole(tmp_path_factory):
    """
    A map whose brightest source lacks its core: what is detected on the
    rim of the hole is rejected.
    """
    sim = make_blended_map((120, 120), 25, seed=1)
    path = tmp_path_factory.mktemp('hole') / 'field.fits'
    sim.write(path)
    source = sim.truth[np.argmax(sim.truth['flux_fit'])]
    y, x = np.mgrid[:120, :120]
    with fits.open(path, mode='update') as hdus:
        hole = np.hypot(x - source['x_fit'], y - source['y_fit']) < 3.0
        hdus[0].data[hole] = np.nan
    return path


def process(path, directory, **sections):
    output = {'directory': str(directory), 'overview': False}
    output |= sections.pop('output', {})
    config = {'input': {'maps': [str(path)]}, 'output': output} | sections
    outcome, = process_maps(PipelineConfig(**config))
    assert outcome.reason is None
    return outcome, directory / 'field'


def test_all_that_is_rejected_is_listed(hole, tmp_path):
    """
    Detections = rows + rejected; each has a position and a reason, in
    the table, the regions, the log, and the numbers of the run.
    """
    outcome, folder = process(hole, tmp_path)
    meta = outcome.table.meta
    rejected = QTable.read(folder / 'rejected.ecsv')
    assert rejected.colnames == ['x_init', 'y_init', 'sky_centroid', 'snr',
                                 'search', 'reason']
    n_lost = np.count_nonzero(rejected['search'] == 0)
    assert n_lost > 0
    assert meta['n_detected'] + meta['n_companions'] - n_lost == len(
        outcome.table)
    reasons, counts = np.unique(rejected['reason'], return_counts=True)
    numbers = dict(zip(reasons.tolist(), counts.tolist(), strict=True))
    assert meta['n_rejected'] == rejected.meta['n_rejected'] == numbers
    assert rejected.meta['reasons'] == dict(REJECTION_REASONS)
    assert all(rejected[name].info.description for name in rejected.colnames)
    regions = Regions.read(folder / 'rejected.reg')
    assert [region.meta['text'] for region in regions] == list(
        rejected['reason'])
    for region, sky in zip(regions, rejected['sky_centroid'], strict=True):
        assert region.center.separation(sky).arcsec < 1e-3
    log = (folder / 'run.log').read_text('utf-8')
    for reason, number in numbers.items():
        assert f'{number} {reason.replace("_", " ")}' in log
    assert '; see rejected.ecsv\n' in log
    assert f'{n_lost} of them rejected' in outcome.summary
    assert outcome.numbers['n_rejected'] == len(rejected)


def test_regions_in_pixels(hole, tmp_path):
    """
    The list follows the frame of the other regions, and their switch.
    """
    _, folder = process(hole, tmp_path / 'a',
                        output={'region_frame': 'pixel'})
    rejected = QTable.read(folder / 'rejected.ecsv')
    for region, row in zip(Regions.read(folder / 'rejected.reg'), rejected,
                           strict=True):
        assert_allclose(region.center.xy, (row['x_init'], row['y_init']))
    _, folder = process(hole, tmp_path / 'b', output={'regions': False})
    assert REJECTED & {path.name for path in folder.iterdir()} == {
        'rejected.ecsv'}


@pytest.mark.parametrize('sections', [
    {}, {'detection': {'n_sigma': 1e4}}, {'run': {'detection_only': True}}])
def test_an_empty_list_is_written(map_file, tmp_path, sections):
    """
    It tells that nothing was rejected, also where nothing was found.
    """
    _, folder = process(map_file, tmp_path, **sections)
    rejected = QTable.read(folder / 'rejected.ecsv')
    assert len(rejected) == 0
    assert 'sky_centroid' in rejected.colnames
    assert rejected.meta['n_rejected'] == {}
    assert (folder / 'rejected.reg').read_text().startswith('# Region')
    assert 'rejected      none\n' in (folder / 'run.log').read_text('utf-8')


def test_given_sources_have_no_list(map_file, simulated, tmp_path):
    """
    They keep their rows, whatever becomes of their fits.
    """
    sky = simulated.truth['sky_centroid'][:2]
    _, folder = process(map_file, tmp_path, sources={
        'x': sky.ra.deg.tolist(), 'y': sky.dec.deg.tolist()})
    assert not REJECTED & {path.name for path in folder.iterdir()}
    assert 'rejected' not in (folder / 'run.log').read_text('utf-8').split(
        'configuration')[0]


def test_a_map_can_lose_all_its_detections(hole, tmp_path, monkeypatch):
    """
    The list and the line of the run tell why there is no source.
    """
    rejected = process(hole, tmp_path / 'a')[1] / 'rejected.ecsv'
    rejected = QTable.read(rejected)
    call = HyperPhotometry.__call__

    def reject_all(self, *args, **options):
        call(self, *args, **options)
        self._last = replace(self._last, rejected=rejected)

    monkeypatch.setattr(HyperPhotometry, '__call__', reject_all)
    outcome, folder = process(hole, tmp_path / 'b')
    assert len(outcome.table) == 0
    assert outcome.summary.startswith(
        f'no source found, {len(rejected)} rejected, rms ')
    assert outcome.numbers['n_detected'] == np.count_nonzero(
        rejected['search'] == 0)
    assert_array_equal(QTable.read(folder / 'rejected.ecsv')['reason'],
                       rejected['reason'])


def test_selections_of_the_finder_are_counted(map_file, tmp_path):
    """
    They have no row in the list, which says so.
    """
    found, _ = process(map_file, tmp_path / 'all')
    limit = float(np.median(found.table['shoulder_score']))
    outcome, folder = process(map_file, tmp_path / 'some',
                              detection={'shoulder_filter': limit})
    meta = QTable.read(folder / 'rejected.ecsv').meta
    number = outcome.table.meta['n_rejected']['shoulder_filter']
    assert number > 0
    assert meta['not_listed'] == {'shoulder_filter': number}
    assert f'{number} by shoulder_filter' in (
        folder / 'run.log').read_text('utf-8')


@pytest.mark.parametrize('detection_only', [False, True])
def test_bad_pixels_are_counted_and_can_be_kept(map_file, tmp_path,
                                                detection_only):
    """
    A glitch is left out by default, which the log tells; it is no
    source.
    """
    run = {'detection_only': detection_only}
    path = tmp_path / 'field.fits'
    with fits.open(map_file) as hdus:
        hdus[0].data[20, 30] += 1e3 * np.nanstd(hdus[0].data)
        hdus.writeto(path)
    outcome, folder = process(path, tmp_path / 'a', run=run)
    number = len(outcome.table)
    assert outcome.table.meta['n_bad_pixels']['glitch'] == 1
    line = 'bad pixels    1 glitch; left out\n'
    assert line in (folder / 'run.log').read_text('utf-8')
    outcome, folder = process(path, tmp_path / 'b', run=run,
                              fit={'mask_bad_pixels': False})
    if detection_only:
        assert len(outcome.table) == number + 1
    assert 'n_bad_pixels' not in outcome.table.meta
    assert 'bad pixels' not in (folder / 'run.log').read_text('utf-8').split(
        'configuration')[0]


def test_words():
    assert describe_reasons({
        'snap_radius': 2, 'duplicate': 5, 'not_compact': 0,
        'no_usable_pixels': 25}) == (
            '25 no usable pixels, 5 duplicates, 2 by snap_radius')
    assert describe_reasons({'duplicate': 1}) == '1 duplicate'
    assert describe_reasons({}) == ''
    assert describe_bad_pixels({'glitch': 2, 'saturated': 0, 'fill': 4}) == (
        '2 glitches, 4 without data')


def test_cubes_have_one_list(tmp_path, monkeypatch):
    """
    With the channel of each detection, also after the run was cut off;
    numbers are sums over the channels.
    """
    from hyperphotutils.pipeline import cubes

    path = tmp_path / 'field.fits'
    make_map_cube((4, 80, 72), 4, seed=21).write(path)
    extract_image = cubes.extract_image

    def extract(image, config):
        # Each channel has a rejected detection at its first source.
        result = extract_image(image, config)
        names = ['x_fit', 'y_fit', 'sky_centroid', 'snr']
        rejected = result.table[names][:1]
        rejected.rename_columns(names[:2], ['x_init', 'y_init'])
        rejected['search'], rejected['reason'] = [0], ['duplicate']
        rejected.meta.clear()
        result.table.meta['n_rejected'] = {'duplicate': 1}
        result.table.meta['n_bad_pixels'] = {'glitch': 2}
        return replace(result, rejected=rejected,
                       n_rejected={'duplicate': 1})

    def stop(*_):
        monkeypatch.undo()
        monkeypatch.setattr(cubes, 'extract_image', extract)
        raise KeyboardInterrupt

    monkeypatch.setattr(cubes, 'extract_image', extract)
    monkeypatch.setattr(cubes._CubeWork, '_add_numbers', stop)
    sections = {'input': {'maps': [str(path)], 'datacube': True},
                'fit': {'noise': 'white'}}
    with pytest.raises(KeyboardInterrupt):
        process(path, tmp_path / 'out', **sections)
    outcome, folder = process(path, tmp_path / 'out', **sections)
    rejected = QTable.read(folder / 'rejected.ecsv')
    assert rejected.colnames[:2] == ['channel', 'velocity']
    assert_array_equal(rejected['channel'], np.arange(4))
    first = np.unique(outcome.table['channel'], return_index=True)[1]
    assert_allclose(rejected['x_init'], outcome.table['x_fit'][first])
    assert len(Regions.read(folder / 'rejected.reg')) == 4
    meta = read_catalog(folder / 'catalog.ecsv').meta
    assert meta['n_rejected'] == {'duplicate': 4}
    assert meta['n_bad_pixels'] == {'glitch': 8}
    assert_array_equal(QTable.read(folder / 'channels.ecsv')['n_rejected'], 1)
    assert '4 rejected (see rejected.ecsv)' in outcome.summary
    assert outcome.numbers['n_rejected'] == 4
    log = (folder / 'run.log').read_text('utf-8')
    assert 'rejected      4 duplicates\n' in log
    assert 'bad pixels    8 glitches\n' in log
