# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of catalogs of several bands.
"""

from functools import partial

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.table import QTable
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal
from radio_beam import Beam

from hyperphotutils.catalog import (
    find_column,
    match_catalogs,
    read_catalog,
)
from hyperphotutils.photometry import ForcedPhotometry, HyperPhotometry
from hyperphotutils.pipeline import (
    ConfigError,
    PipelineConfig,
    merge_bands,
    run,
)
from hyperphotutils.pipeline.bands import (
    bands_overlap,
    check_bands,
    summarize_bands,
)
from hyperphotutils.pipeline.cli import main
from hyperphotutils.utils import FLAGS, add_gaussians, sky_to_pixel_ellipse

CENTER = SkyCoord(359.99 * u.deg, 31.0 * u.deg)
RMS = 1e-3
# beams of 1, 1.5, and 2.3; projection, pixel, size, rotation, frame
BANDS = {'blue': (11.0, 'TAN', 3.0, 340, 25.0, 'RA'),
         'green': (16.5, 'SIN', 4.4, 230, -70.0, 'RA'),
         'red': (25.3, 'CAR', 6.0, 180, 0.0, 'GLON')}
FIXED = FLAGS['fixed_position'] | FLAGS['fixed_shape']
white = partial(ForcedPhotometry, noise='white')


def make_wcs(projection, pixel, size, rotation, frame):
    """
    The WCS of a square map around the common center.
    """
    wcs = WCS(naxis=2)
    lon, lat = ('RA--', 'DEC-') if frame == 'RA' else ('GLON', 'GLAT')
    wcs.wcs.ctype = [f'{lon}-{projection}', f'{lat}-{projection}']
    wcs.wcs.cdelt = [-pixel / 3600.0, pixel / 3600.0]
    angle = np.deg2rad(rotation)
    wcs.wcs.pc = [[np.cos(angle), -np.sin(angle)],
                  [np.sin(angle), np.cos(angle)]]
    center = CENTER if frame == 'RA' else CENTER.galactic
    lon, lat = center.spherical.lon.deg, center.spherical.lat.deg
    wcs.wcs.crval = [lon, 0.0 if projection == 'CAR' else lat]
    wcs.wcs.crpix = [1.0, 1.0]
    wcs.wcs.crpix += 0.5 * (size - 1) - np.array(wcs.world_to_pixel(center))
    wcs.array_shape = (size, size)
    return wcs


def make_map(name, rng, sky, size, snr, *, beam=None):
    """
    A map of round sources with white noise, and their fluxes.
    """
    fwhm, *geometry = BANDS[name]
    wcs = make_wcs(*geometry)
    width = np.hypot(size, fwhm) * u.arcsec
    x, y, major, minor, theta = sky_to_pixel_ellipse(wcs, sky, width, width,
                                                     0.0)
    data = rng.normal(5 * RMS, RMS, wcs.array_shape)
    add_gaussians(data, x, y, snr * RMS, major, minor, theta)
    if beam is None:
        beam = Beam(fwhm * u.arcsec)
    image = CCDData(data, unit='Jy/pix', wcs=wcs, meta={'beam': beam})
    return image, snr * RMS * np.pi / (4 * np.log(2)) * major * minor


def detect(name, image):
    """
    The catalog of a map.
    """
    fwhm, _, pixel, *_ = BANDS[name]
    return HyperPhotometry(fwhm / pixel, noise='white')(image)


def on_grid(rng, radius, spacing):
    """
    Positions that are apart from each other.
    """
    steps = np.arange(-radius, radius + 1, spacing)
    grid = np.array(np.meshgrid(steps, steps)).reshape(2, -1)
    grid = grid + rng.uniform(-0.15 * spacing, 0.15 * spacing, grid.shape)
    return CENTER.spherical_offsets_by(*(grid * u.arcsec))


def simulate(seed, faint=0.25):
    """
    One sky in three bands: in each, some sources are too faint to be
    found, though no source is in all.
    """
    rng = np.random.default_rng(seed)
    sky = on_grid(rng, 320.0, 64.0)
    n_sources = len(sky)
    size = rng.uniform(3.0, 8.0, n_sources)
    band = rng.integers(0, 3, n_sources)
    faint = rng.random(n_sources) < faint
    maps, truth, lost = {}, {}, {}
    for k, name in enumerate(BANDS):
        lost[name] = faint & (band == k)
        snr = np.where(lost[name], rng.uniform(0.2, 0.8, n_sources),
                       rng.uniform(50.0, 150.0, n_sources))
        maps[name], truth[name] = make_map(name, rng, sky, size, snr)
    return sky, maps, truth, lost


@pytest.fixture(scope='module', name='skies')
def fixture_skies():
    """
    Several skies with their merged catalogs.
    """
    result = []
    for seed in range(5):
        sky, maps, truth, lost = simulate(seed)
        tables = {name: detect(name, image) for name, image in maps.items()}
        merged = merge_bands(tables, maps, forced=white)
        result.append((sky, maps, truth, lost, tables, merged))
    return result


def identify(sky, merged):
    """
    The true source of each row, which must be near it.
    """
    number, distance, _ = merged['sky_centroid'].match_to_catalog_sky(sky)
    assert np.all(distance < 3 * u.arcsec)
    return number


class TestMerging:
    def test_each_source_has_one_row(self, skies):
        """
        Every source that was found in any band has one row, and there
        are no others.
        """
        for sky, _, _, lost, _, merged in skies:
            number = identify(sky, merged)
            assert len(np.unique(number)) == len(number) == len(sky)
            for name in BANDS:
                assert_array_equal(merged[f'forced_{name}'],
                                   lost[name][number])

    def test_forced_fluxes(self, skies):
        """
        Forced fluxes are unbiased, and their errors hold.
        """
        pulls, fluxes = [], []
        for sky, _, truth, _, _, merged in skies:
            number = identify(sky, merged)
            for name in BANDS:
                forced = merged[f'forced_{name}']
                expected = truth[name][number][forced]
                flux = merged[f'flux_fit_{name}'].to_value('Jy')[forced]
                error = merged[f'flux_err_{name}'].to_value('Jy')[forced]
                pulls.append((flux - expected) / error)
                fluxes.append([flux / error**2, expected / error**2])
        pulls = np.concatenate(pulls)
        assert len(pulls) > 120
        assert abs(np.mean(pulls)) < 3.0 / np.sqrt(len(pulls))
        assert_allclose(np.std(pulls), 1.0, atol=0.1)

    def test_forced_fluxes_of_bright_sources(self, skies):
        """
        Sources that a catalog lacks by accident get their fluxes to 2
        per cent, and errors in which those of their widths are.
        """
        ratios, pulls = [], []
        for sky, maps, truth, lost, tables, _ in skies[:3]:
            for name in BANDS:
                some = dict(tables)
                some[name] = tables[name][::3]
                merged = merge_bands(some, maps, forced=white)
                number = identify(sky, merged)
                forced = merged[f'forced_{name}'] & ~lost[name][number]
                assert forced.sum() > 30
                flux = merged[f'flux_fit_{name}'].to_value('Jy')[forced]
                expected = truth[name][number][forced]
                ratios.append(flux / expected)
                error = merged[f'flux_err_{name}'].to_value('Jy')[forced]
                pulls.append((flux - expected) / error)
                snr = merged[f'snr_{name}'][forced]
                assert np.all(snr >= (flux / error) * (1.0 - 1e-9))
        assert abs(np.mean(np.concatenate(ratios)) - 1.0) < 0.02
        assert_allclose(np.std(np.concatenate(pulls)), 1.0, atol=0.1)

    def test_flags_and_values(self, skies):
        """
        Forced rows are flagged, others have the values of their map.
        """
        _, _, _, _, tables, merged = skies[0]
        for name, table in tables.items():
            forced = merged[f'forced_{name}']
            assert np.all((merged[f'flags_{name}'][forced] & FIXED) == FIXED)
            own = np.asarray(merged[f'id_{name}'][~forced]) - 1
            for column in ('flux_fit', 'aperture_flux_err', 'amplitude_fit',
                           'local_bkg', 'snr', 'flags'):
                assert_array_equal(merged[f'{column}_{name}'][~forced],
                                   table[column][own])
            assert_allclose(merged[f'snr_{name}'][forced],
                            (merged[f'flux_fit_{name}']
                             / merged[f'flux_err_{name}'])[forced], rtol=0.1)
            names = merged.colnames
            assert (names.index(f'forced_{name}')
                    == names.index(f'flags_{name}') + 1)
        assert merged.meta['bands'] == list(BANDS)
        assert "ellipse='matched'" in merged.meta['call']

    def test_as_forced_photometry(self):
        """
        With one reference band the result is that of ForcedPhotometry,
        elliptical beams in different frames included.
        """
        rng = np.random.default_rng(1)
        sky = on_grid(rng, 250.0, 100.0)
        snr = np.full(len(sky), 60.0)
        beams = {'blue': Beam(14 * u.arcsec, 9 * u.arcsec, 40 * u.deg),
                 'red': Beam(28 * u.arcsec, 23 * u.arcsec, 10 * u.deg)}
        maps = {name: make_map(name, rng, sky, 5.0, snr, beam=beam)[0]
                for name, beam in beams.items()}
        table = detect('blue', maps['blue'])
        phot = ForcedPhotometry(ellipse='matched', reference_beam='blue',
                                noise='white')
        expected = phot(table, maps)
        for tables in ({'blue': table, 'red': None},
                       {'red': None, 'blue': table}):
            merged = merge_bands(tables, maps, forced=white)
            assert_allclose(merged['flux_fit_red'].value,
                            expected['flux_fit_red'].value, rtol=1e-6)

    def test_blends_of_a_coarse_band(self):
        """
        Two sources that are one in a coarse band share its flux, and it
        is not counted twice.
        """
        rng = np.random.default_rng(5)
        first = on_grid(rng, 300.0, 100.0)
        second = first.spherical_offsets_by(16 * u.arcsec, 0 * u.arcsec)
        sky = SkyCoord([*first, *second])
        snr = np.full(len(sky), 100.0)
        maps, truth = {}, {}
        for name in ('blue', 'red'):
            maps[name], truth[name] = make_map(name, rng, sky, 4.0, snr)
        tables = {'blue': detect('blue', maps['blue'])}
        # fitted as one source
        red = HyperPhotometry(25.3 / 6.0, noise='white', max_rounds=0)
        tables['red'] = red(maps['red'])
        assert len(tables['red']) < 0.7 * len(sky)
        merged = merge_bands(tables, maps, forced=white)
        number = identify(sky, merged)
        assert len(np.unique(number)) == len(number) == len(sky)
        error = merged['flux_err_red'].to_value('Jy')
        flux = merged['flux_fit_red'].to_value('Jy')
        forced = merged['forced_red']
        assert forced.sum() > 0.6 * len(sky)
        pull = (flux - truth['red'][number]) / error
        assert np.all(np.abs(pull[forced]) < 6.0)
        assert_allclose(flux[forced].sum(),
                        truth['red'][number][forced].sum(), rtol=0.02)
        assert np.asarray(merged['n_candidates_red']).max() == 2

    def test_which_are_measured(self, skies):
        """
        All sources are measured, or none, if that is asked for.
        """
        _, maps, _, _, tables, merged = skies[0]
        everything = merge_bands(tables, maps, forced=white, measure='all')
        for name in BANDS:
            forced = merged[f'forced_{name}']
            assert np.all(everything[f'forced_{name}'])
            assert_allclose(everything[f'flux_fit_{name}'][forced].value,
                            merged[f'flux_fit_{name}'][forced].value)
        nothing = merge_bands(tables, maps, measure='none')
        beams = {name: image.meta['beam'] for name, image in maps.items()}
        expected = match_catalogs(tables, beams=beams)
        assert nothing.colnames == expected.colnames
        assert_array_equal(nothing['flux_fit_red'], expected['flux_fit_red'])

    def test_off_the_map(self, skies):
        """
        Sources off the map of a band keep NaN and are flagged.
        """
        _, maps, _, _, tables, _ = skies[0]
        image = maps['red']
        far = image.wcs.deepcopy()
        far.wcs.crpix += 5000.0
        away = CCDData(image.data, unit=image.unit, wcs=far,
                       meta=dict(image.meta))
        merged = merge_bands(tables | {'red': None}, maps | {'red': away},
                             forced=white)
        assert np.all(np.isnan(merged['flux_fit_red']))
        assert np.all(merged['flags_red'] & FLAGS['off_map'])
        assert np.all(merged['forced_red'])
        text = summarize_bands(merged)
        assert text.endswith(f', 0 in red ({len(merged)} off the map)')
        assert bands_overlap(merged)  # blue and green do
        apart = merge_bands({'blue': tables['blue'], 'red': None},
                            {'blue': maps['blue'], 'red': away},
                            forced=white)
        assert not bands_overlap(apart)

    def test_units(self, skies):
        """
        Forced values have the units of the catalogs.
        """
        _, maps, _, _, tables, merged = skies[0]
        milli = {}
        for name, table in tables.items():
            milli[name] = table.copy()
            for column in ('flux_fit', 'flux_err'):
                milli[name][column] = table[column].to('mJy')
        again = merge_bands(milli, maps, forced=white)
        for name in BANDS:
            assert again[f'flux_fit_{name}'].unit == u.mJy
            assert_allclose(again[f'flux_fit_{name}'].to_value('Jy'),
                            merged[f'flux_fit_{name}'].value)

    def test_detections_without_fluxes(self, skies):
        """
        Catalogs of mere positions are measured throughout.
        """
        sky, maps, truth, *_ = skies[0]
        tables = {name: QTable({'sky_centroid': sky}) for name in BANDS}
        merged = merge_bands(tables, maps, forced=white)
        assert np.all(merged['forced_blue'])
        # as points, they miss a part of the flux
        ratio = merged['flux_fit_red'].value / truth['red']
        assert 0.8 < np.median(ratio) < 1.05

    @pytest.mark.parametrize(('change', 'match'), [
        ({'measure': 'some'}, "measure must be one of .*: 'some'"),
        ({'maps': {}}, 'must be of the same bands: blue, green, red and $'),
        ({'max_separation': -1}, 'max_separation must be a positive'),
    ])
    def test_bad_arguments(self, skies, change, match):
        _, maps, _, _, tables, _ = skies[0]
        options = {'maps': maps} | change
        with pytest.raises(ValueError, match=match):
            merge_bands(tables, **options)

    def test_missing_beam(self, skies):
        _, maps, _, _, tables, _ = skies[0]
        bare = CCDData(maps['red'].data, unit='Jy/pix', wcs=maps['red'].wcs)
        with pytest.raises(ValueError, match="map of band 'red' needs a bea"):
            merge_bands(tables, maps | {'red': bare})


@pytest.fixture(scope='module', name='files')
def fixture_files(skies, tmp_path_factory):
    """
    The maps of a sky as files in different units.
    """
    folder = tmp_path_factory.mktemp('bands')
    paths = []
    for name, image in skies[0][1].items():
        header = image.wcs.to_header()
        beam = image.meta['beam']
        header['BMAJ'] = header['BMIN'] = beam.major.to_value('deg')
        header['BUNIT'] = 'Jy/pixel' if name == 'red' else 'mJy/pixel'
        data = image.data * (1.0 if name == 'red' else 1e3)
        paths.append(str(folder / f'{name}.fits'))
        fits.writeto(paths[-1], data, header)
    return paths


class TestRun:
    def config(self, files, folder, **sections):
        """
        A configuration without pictures.
        """
        output = {'directory': str(folder), 'overview': False}
        return PipelineConfig(
            input={'maps': files}, fit={'noise': 'white'},
            output=output | sections.pop('output', {}), **sections)

    def test_command_line(self, files, skies, tmp_path, capsys):
        """
        One option merges the maps, one line says what came of it.
        """
        path = tmp_path / 'hyperphot.yaml'
        path.write_text('fit: {noise: white}\noutput: {overview: false}\n')
        status = main(['run', *files, '--config', str(path), '--merge',
                       '--output-dir', str(tmp_path / 'out')])
        assert status == 0
        told = capsys.readouterr().out.splitlines()[-1]
        table = read_catalog(tmp_path / 'out' / 'catalog_bands.ecsv')
        assert told.startswith(f'bands: {len(table)} sources in 3 maps, ')
        assert told.endswith('catalog_bands.ecsv')
        merged = skies[0][-1]
        assert len(table) == len(merged)
        for name in BANDS:
            assert_array_equal(table[f'forced_{name}'],
                               merged[f'forced_{name}'])
            assert_allclose(table[f'flux_fit_{name}'].value,
                            merged[f'flux_fit_{name}'].value, rtol=0.02)
        for name in table.colnames:
            assert table[name].info.description == find_column(
                name, bands=BANDS).description
        beam = table.meta['map_meta']['blue']['beam_major']
        assert u.isclose(beam, 11 * u.arcsec)

    def test_page(self, files, tmp_path, read_page, capsys):
        """
        The page explains each source, and can be made again.
        """
        config = self.config(files, tmp_path, bands={'merge': True})
        run(config)
        path = tmp_path / 'report_bands.html'
        page = path.read_text(encoding='utf-8')
        data = read_page(path)
        table = read_catalog(tmp_path / 'catalog_bands.ecsv')
        assert len(data['explanations']) == len(table) > 3
        assert data['catalog']['columns'][0]['name'] == 'id'
        for row, text in zip(table, data['explanations'], strict=True):
            lines = text.splitlines()
            assert lines[0].startswith(f'Detected in {row["n_bands"]} of 3 ')
            for name, line in zip(table.meta['bands'], lines[1:],
                                  strict=True):
                assert line.startswith(f'{name}: ')
                assert (('measured at this position' in line)
                        == row[f'forced_{name}'])
                assert (('not detected' in line)
                        == (row[f'id_{name}'] is np.ma.masked))
        path.unlink()
        run(config)
        assert path.read_text(encoding='utf-8') == page
        path.unlink()
        assert main(['report', str(tmp_path)]) == 0
        assert 'report_bands.html' in capsys.readouterr().out
        assert path.read_text(encoding='utf-8') == page

    def test_same_bytes(self, files, tmp_path):
        """
        The same run gives the same file, with nothing of the process.
        """
        written = []
        for name in ('one', 'two'):
            run(self.config(files, tmp_path / name, bands={'merge': True}))
            path = tmp_path / name / 'catalog_bands.ecsv'
            written.append(path.read_bytes())
        assert b'make_fitter=make_fitter' in written[0]
        assert b'0x' not in written[0]
        assert written[0] == written[1]

    @pytest.mark.parametrize('max_separation', [0.01, 100.0])
    def test_forced_fits_use_all_keys(self, skies, max_separation):
        """
        The fitter is that of the photometry, including its grouper.
        """
        config = PipelineConfig(
            grouping={'max_separation': max_separation,
                      'max_group_size': 100},
            fit={'noise': 'white', 'max_iter': 33, 'max_shift': 0.7})
        _, maps, _, _, tables, _ = skies[0]
        name = 'blue'
        forced = config.make_forced(ellipse='same')
        forced(tables[name], {name: maps[name]})
        table, fitter = forced.tables[name], forced.fitters[name]
        n_groups = len(set(table['group_id']))
        assert (n_groups == len(table) if max_separation < 1.0
                else n_groups < 0.1 * len(table))
        fixed = ('position', 'shape')
        assert repr(fitter) == repr(config.fit.make_fitter(
            fitter.fwhm, config.grouping, fixed=fixed))
        assert fitter.fixed == fixed

    def test_bad_names_of_bands(self):
        config = PipelineConfig(bands={'merge': True, 'names': ['a\nb', 'c']})
        with pytest.raises(ConfigError, match=r'must be printable'):
            check_bands(config, 2)

    def test_configuration(self, files, tmp_path):
        """
        Names, units, and the limit are those of the configuration.
        """
        config = self.config(
            files, tmp_path / 'out', output={'flux_unit': 'mJy'},
            bands={'merge': True, 'names': ['b', 'g', 'r'],
                   'measure': 'all', 'max_separation': 0.4})
        run(config)
        table = read_catalog(tmp_path / 'out' / 'catalog_bands.ecsv')
        assert table['flux_fit_g'].unit == u.mJy
        assert np.all(table['forced_r'])
        assert table.meta['max_separation'] == 0.4

    def test_failed_map_is_left_out(self, files, tmp_path, capsys):
        """
        The others are merged.
        """
        arguments = ['run', '--merge', '--output-dir', str(tmp_path / 'out')]
        status = main([*arguments, files[0], files[2],
                       str(tmp_path / 'none.fits')])
        assert status == 1
        table = read_catalog(tmp_path / 'out' / 'catalog_bands.ecsv')
        assert table.meta['bands'] == ['blue', 'red']
        status = main([*arguments, files[0], str(tmp_path / 'none.fits'),
                       '--overwrite'])
        assert status == 1
        assert 'nothing to merge' in capsys.readouterr().err

    def test_maps_apart_are_noticed(self, files, tmp_path, capsys):
        far = tmp_path / 'far.fits'
        with fits.open(files[2]) as hdus:
            for hdu in hdus:
                if 'CRVAL1' in hdu.header:
                    hdu.header['CRVAL1'] += 10.0
            hdus.writeto(far)
        assert main(['run', '--merge', '--output-dir', str(tmp_path / 'out'),
                     files[0], str(far)]) == 0
        assert ('warning: the maps do not overlap'
                in capsys.readouterr().err)

    def test_existing_table_is_refused(self, files, tmp_path, capsys):
        (tmp_path / 'out').mkdir()
        (tmp_path / 'out' / 'catalog_bands.ecsv').write_text('mine')
        status = main(['run', '--merge', '--output-dir',
                       str(tmp_path / 'out'), *files])
        assert status == 2
        assert 'catalog_bands.ecsv: exists already' in capsys.readouterr().err

    def test_maps_of_weights_are_refused(self):
        """
        That of one band does not suit the others.
        """
        fit = {'weights': 'map', 'weight_map': 'a.fits'}
        match = 'fit.weight_map: sources that a map lacks'
        with pytest.raises(ConfigError, match=match):
            check_bands(PipelineConfig(fit=fit), 2)
        check_bands(PipelineConfig(fit=fit, bands={'measure': 'none'}), 2)

    @pytest.mark.parametrize(('bands', 'count', 'match'), [
        ({}, 1, 'bands.merge: needs two maps at least, not 1'),
        ({'names': ['a']}, 3, 'bands.names: must have a name for each of'),
        ({'names': ['a', 'b', 'a']}, 3, 'bands.names: must differ: a, b, a'),
    ])
    def test_bad_configuration(self, files, tmp_path, bands, count, match):
        config = self.config(files[:count], tmp_path / 'out',
                             bands={'merge': True} | bands)
        with pytest.raises(ValueError, match=match):
            run(config)
        assert not (tmp_path / 'out').exists()
