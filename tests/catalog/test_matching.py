# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the matching module.
"""


import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Column, MaskedColumn, QTable, Table
from numpy.testing import assert_allclose, assert_array_equal
from radio_beam import Beam
from scipy.optimize import linear_sum_assignment

from hyperphotutils.catalog import (
    CatalogError,
    match_catalogs,
    read_catalog,
    write_catalog,
)

BEAMS = {'blue': 10 * u.arcsec, 'green': 15 * u.arcsec, 'red': 23 * u.arcsec}
CENTER = SkyCoord(83.6 * u.deg, -5.4 * u.deg)


def offset(east, north, center=CENTER):
    """
    Positions at offsets in arcsec.
    """
    return center.spherical_offsets_by(east * u.arcsec, north * u.arcsec)


def catalog(east, north, *, center=CENTER, flux=None):
    """
    A catalog at offsets in arcsec.
    """
    east, north = np.broadcast_arrays(np.atleast_1d(east),
                                      np.atleast_1d(north))
    n_sources = len(east)
    flux = np.arange(1.0, n_sources + 1) if flux is None else flux
    return QTable({'id': np.arange(1, n_sources + 1),
                   'sky_centroid': offset(east, north, center),
                   'flux_fit': flux * u.Jy,
                   'flags': np.zeros(n_sources, dtype=int)})


def observe(rng, sky, name, part=0.7, frame='icrs'):
    """
    A part of the sources as seen in one band, and which they are.
    """
    seen = np.flatnonzero(rng.random(len(sky)) < part)
    shift = rng.normal(0.0, 0.05 * BEAMS[name].value, (2, len(seen)))
    place = sky[seen].spherical_offsets_by(*(shift * u.arcsec))
    table = QTable({'id': 1 + np.arange(len(seen)),
                    'sky_centroid': place.transform_to(frame),
                    'flux_fit': (1.0 + seen) * u.Jy})
    return table, seen


def column(table, name):
    """
    A column of integers, -1 where it is masked.
    """
    values = table[name]
    return np.asarray(values.filled(-1) if hasattr(values, 'filled')
                      else values)


class TestPairs:
    @pytest.mark.parametrize('center', [
        CENTER, SkyCoord(0 * u.deg, 40 * u.deg),
        SkyCoord(0 * u.deg, 0 * u.deg, frame='galactic'),
        SkyCoord(120 * u.deg, 89.95 * u.deg)])
    def test_each_source_has_one_row(self, center):
        """
        Each true source has one row, with the right source of each band:
        in several frames, across longitude 0, and at a pole.
        """
        rng = np.random.default_rng(3)
        grid = 60.0 * np.array([(i, j) for i in range(-8, 8)
                                for j in range(-8, 8)]).T
        sky = offset(*(grid + rng.uniform(-15, 15, grid.shape)),
                     center=center)
        tables, seen = {}, {}
        for name, frame in zip(BEAMS, ('icrs', 'galactic', 'fk5'),
                               strict=True):
            tables[name], seen[name] = observe(rng, sky, name, frame=frame)
        result = match_catalogs(tables, beams=BEAMS)
        union = np.unique(np.concatenate(list(seen.values())))
        assert len(result) == len(union)
        found = np.array([np.isin(np.arange(len(sky)), number)
                          for number in seen.values()])
        assert_array_equal(np.bincount(result['n_bands'], minlength=4),
                           np.bincount(found.sum(axis=0)[union], minlength=4))
        fluxes = np.array([result[f'flux_fit_{name}'].value
                           for name in BEAMS])
        truth = np.nanmax(fluxes, axis=0)
        assert_array_equal(np.sort(truth), 1.0 + union)
        for flux, name in zip(fluxes, BEAMS, strict=True):
            has = np.isin(truth - 1.0, seen[name])
            assert_array_equal(flux, np.where(has, truth, np.nan))
            assert_array_equal(column(result, f'id_{name}') > 0, has)
        true_sky = sky[truth.astype(int) - 1]
        assert result['sky_centroid'].frame.name == 'icrs'
        assert np.all(true_sky.separation(result['sky_centroid'])
                      < 6.0 * u.arcsec)

    def test_position_of_the_smallest_beam(self):
        """
        A row has the position of the smallest beam, whatever the order
        of the bands, and the separation from it.
        """
        tables = {'red': catalog(9.0, 0.0), 'green': catalog(5.0, 0.0),
                  'blue': catalog(0.0, 0.0)}
        result = match_catalogs(tables, beams=BEAMS)
        assert len(result) == 1
        assert result['reference_band'][0] == 'blue'
        assert result['sky_centroid'].separation(CENTER)[0] < 1 * u.uas
        for name, distance in (('blue', 0.0), ('green', 5.0), ('red', 9.0)):
            assert_allclose(result[f'separation_{name}'][0].value, distance,
                            atol=1e-6)
            assert result[f'separation_{name}'].unit == u.arcsec

    def test_no_chains(self):
        """
        Small steps from band to band do not add up: separations count
        from the position of the smallest beam.
        """
        tables = {'blue': catalog(0.0, 0.0), 'green': catalog(7.0, 0.0),
                  'red': catalog(14.0, 0.0)}
        result = match_catalogs(tables, beams=BEAMS)
        assert_array_equal(result['n_bands'], [2, 1])
        assert_allclose(result['flux_fit_red'].value, [np.nan, 1.0])

    def test_one_band_never_merges(self):
        """
        Two sources of one band stay two, even at the same position.
        """
        tables = {'blue': catalog([0.0, 0.0, 1.0], 0.0),
                  'red': catalog([0.5, 0.5], 0.0)}
        result = match_catalogs(tables, beams=BEAMS)
        assert len(result) == 3
        assert_array_equal(column(result, 'id_blue'), [1, 2, 3])
        assert sorted(column(result, 'id_red')) == [-1, 1, 2]
        tables = {'blue': tables['red'], 'red': tables['blue']}
        result = match_catalogs(tables, beams=BEAMS)
        assert_array_equal(result['n_bands'], [2, 2, 1])

    def test_best_of_all_assignments(self):
        """
        Sources are assigned so that all are as near as possible: taking
        the nearest pair first would leave two sources alone.
        """
        tables = {'blue': catalog([0.0, 8.0], 0.0),
                  'red': catalog([6.0, 18.0], 0.0)}
        result = match_catalogs(tables, beams=BEAMS)
        assert_array_equal(column(result, 'id_red'), [1, 2])

    @pytest.mark.parametrize('seed', range(5))
    def test_crowded_field(self, seed):
        """
        In a crowded field the assignment is that of a dense solver.
        """
        rng = np.random.default_rng(seed)
        blue = rng.uniform(0.0, 120.0, (2, 60))
        red = rng.uniform(0.0, 120.0, (2, 60))
        result = match_catalogs({'blue': catalog(*blue),
                                 'red': catalog(*red)}, beams=BEAMS)
        cost = np.sum((blue[:, :, None] - red[:, None])**2, axis=0) / 11.5**2
        rows, cols = linear_sum_assignment(np.minimum(cost, 1.0))
        paired = cost[rows, cols] < 1.0
        expected = np.full(60, -1)
        expected[rows[paired]] = cols[paired] + 1
        assert_array_equal(column(result, 'id_red')[:60], expected)
        assert len(result) == 120 - np.count_nonzero(paired)
        near = np.count_nonzero(cost < 1.0, axis=0)
        order = column(result, 'id_red')
        assert_array_equal(column(result, 'n_candidates_red')[order > 0],
                           near[order[order > 0] - 1])

    def test_limit(self):
        """
        The limit is in beams of the larger beam.
        """
        tables = {'blue': catalog([0.0, 200.0], 0.0),
                  'red': catalog([11.4, 211.6], 0.0)}
        assert len(match_catalogs(tables, beams=BEAMS)) == 3
        assert len(match_catalogs(tables, beams=BEAMS,
                                  max_separation=0.51)) == 2

    def test_ellipses(self):
        """
        An elongated source reaches along its own axis: a blend of two is
        no third source between them.
        """
        tables = {'blue': catalog([-13.0, 13.0], [-13.0, 13.0]),
                  'red': catalog([0.0], [0.0])}
        assert len(match_catalogs(tables, beams=BEAMS)) == 3
        red = tables['red']
        red['fwhm_major_sky'] = [40.0] * u.arcsec
        red['fwhm_minor_sky'] = [0.4] * u.arcmin
        red['position_angle'] = [45.0] * u.deg
        result = match_catalogs(tables, beams=BEAMS)
        assert len(result) == 2
        assert column(result, 'n_candidates_red').max() == 2
        red['position_angle'] = [135.0] * u.deg
        assert len(match_catalogs(tables, beams=BEAMS)) == 3

    def test_ellipses_of_other_frames(self):
        """
        Position angles count from the North of their own frame.
        """
        place = CENTER.galactic
        tip = place.directional_offset_by(30 * u.deg, 18 * u.arcsec)
        blue = QTable({'sky_centroid': tip.icrs.reshape(1)})
        red = QTable({'sky_centroid': place.reshape(1),
                      'fwhm_major_sky': [40.0] * u.arcsec,
                      'fwhm_minor_sky': [23.0] * u.arcsec,
                      'position_angle': [30.0] * u.deg})
        tables = {'blue': blue, 'red': red}
        assert len(match_catalogs(tables, beams=BEAMS)) == 1
        red['position_angle'] = [100.0] * u.deg
        assert len(match_catalogs(tables, beams=BEAMS)) == 2

    def test_no_loop_over_sources(self, count_calls):
        """
        Five bands of 10,000 sources take as many calls as those of 100.
        """
        names = ['blue', 'green', 'red', 'blue', 'green']
        n_calls = {}
        # (the first run fills caches)
        for n_sources in (100, 100, 10000):
            rng = np.random.default_rng(1)
            sky = SkyCoord(*(rng.uniform(-1, 1, (2, n_sources)) * u.deg))
            tables = {f'{name}{k}': observe(rng, sky, name, 0.9)[0]
                      for k, name in enumerate(names)}
            beams = {name: BEAMS[name[:-1]] for name in tables}
            n_calls[n_sources] = count_calls(match_catalogs, tables,
                                             beams=beams)
        assert n_calls[10000] < 1.1 * n_calls[100]


class TestColumns:
    def test_units(self):
        """
        Fluxes of all bands are in the unit of the first.
        """
        tables = {'blue': catalog(0.0, 0.0), 'red': catalog(1.0, 0.0)}
        tables['red']['flux_fit'] = [2500.0] * u.mJy
        result = match_catalogs(tables, beams=BEAMS)
        assert result['flux_fit_blue'].unit == u.Jy
        assert result['flux_fit_red'].unit == u.Jy
        assert_allclose(result['flux_fit_red'].value, 2.5)
        result = match_catalogs(dict(reversed(tables.items())), beams=BEAMS)
        assert_allclose(result['flux_fit_blue'].to_value(u.mJy), 1000.0)
        assert result['flux_fit_blue'].unit == u.mJy

    def test_units_that_do_not_convert(self):
        """
        Peaks per beam and per pixel keep their units.
        """
        tables = {'blue': catalog(0.0, 0.0), 'red': catalog(1.0, 0.0)}
        tables['blue']['amplitude_fit'] = [1.0] * u.Jy / u.pix
        tables['red']['amplitude_fit'] = [3.0] * u.Jy / u.beam
        result = match_catalogs(tables, beams=BEAMS)
        assert result['amplitude_fit_blue'].unit == u.Jy / u.pix
        assert result['amplitude_fit_red'].unit == u.Jy / u.beam
        assert result['amplitude_fit_red'].value == 3.0

    def test_missing_values(self):
        """
        What a band has not is NaN or masked.
        """
        tables = {'blue': catalog([0.0, 100.0], 0.0),
                  'red': catalog(0.0, 0.0)}
        result = match_catalogs(tables, beams=BEAMS)
        assert np.isnan(result['flux_fit_red'][1])
        assert np.isnan(result['separation_red'][1])
        for name in ('id', 'flags', 'n_candidates'):
            assert_array_equal(result[f'{name}_red'].mask, [False, True])
            assert not hasattr(result[f'{name}_blue'], 'mask')

    def test_columns_of_some_bands(self):
        """
        A column that only some bands have is empty in the others.
        """
        tables = {'blue': catalog(0.0, 0.0), 'red': catalog(0.0, 0.0)}
        tables['blue']['snr'] = [5.0]
        tables['red']['note'] = ['seen']
        result = match_catalogs(tables, beams=BEAMS,
                                columns=('snr', 'note', 'flux_fit', 'x_fit'))
        assert np.isnan(result['snr_red'][0])
        assert result['note_red'][0] == 'seen'
        assert result['note_blue'].mask.all()
        assert 'flags_red' not in result.colnames
        assert 'x_fit_red' not in result.colnames

    def test_shape_of_the_reference(self):
        """
        Ellipse and errors are those of the reference band, the angle in
        the frame of the result.
        """
        place = CENTER.galactic
        tip = place.directional_offset_by(30 * u.deg, 1 * u.arcsec)
        red = QTable({'sky_centroid': place.reshape(1),
                      'fwhm_major_sky': [0.5] * u.arcmin,
                      'fwhm_minor_sky': [0.4] * u.arcmin,
                      'position_angle': [30.0] * u.deg,
                      'lon_err': [0.3] * u.arcsec})
        blue = catalog([100.0], 0.0)
        for name, value, unit in (('fwhm_major_sky', 12.0, 'arcsec'),
                                  ('fwhm_minor_sky', 11.0, 'arcsec'),
                                  ('position_angle', 80.0, 'deg')):
            blue[name] = [value] * u.Unit(unit)
        result = match_catalogs({'blue': blue, 'red': red}, beams=BEAMS)
        assert_allclose(result['fwhm_major_sky'].to_value(u.arcsec),
                        [12.0, 30.0])
        assert_allclose(result['position_angle'].to_value(u.deg), [
            80.0, CENTER.position_angle(tip.icrs).to_value(u.deg) % 180.0],
            atol=1e-3)
        assert_allclose(result['lon_err'].value, [np.nan, 0.3])

    def test_band_without_sources(self):
        """
        A band without sources has empty columns, and needs no beam.
        """
        for empty in (None, catalog(0.0, 0.0)[:0], QTable()):
            result = match_catalogs(
                {'red': empty, 'blue': catalog([0.0, 50.0], 0.0)},
                beams={'blue': BEAMS['blue']})
            assert_array_equal(result['n_bands'], [1, 1])
            assert np.all(np.isnan(result['flux_fit_red']))
            assert result['flux_fit_red'].unit == u.Jy
            assert result['flags_red'].mask.all()
            assert result['id_red'].mask.all()

    def test_beams_of_the_metadata(self):
        """
        Beams are those of the metadata, of Beam objects, or of FWHMs.
        """
        tables = {'blue': catalog(0.0, 0.0), 'red': catalog(11.0, 0.0)}
        for table in tables.values():
            table.meta |= {'beam_major': '26 arcsec',
                           'beam_minor': '0.4 arcmin'}
        assert len(match_catalogs(tables)) == 1
        red = Beam(12 * u.arcsec, 10 * u.arcsec, 0 * u.deg)
        for small in (red, 11 * u.arcsec):
            assert len(match_catalogs(tables, beams={
                'blue': 10 * u.arcsec, 'red': small})) == 2

    def test_positions_that_are_missing(self):
        """
        Rows without a position are left out, and counted.
        """
        blue = catalog([0.0, 50.0], 0.0)
        ra = blue['sky_centroid'].ra.deg
        ra[1] = np.nan
        blue['sky_centroid'] = SkyCoord(ra, blue['sky_centroid'].dec.deg,
                                        unit='deg')
        result = match_catalogs({'blue': blue}, beams={'blue': 9 * u.arcsec})
        assert len(result) == 1
        assert result.meta['n_without_position'] == 1

    @pytest.mark.parametrize('suffix', ['ecsv', 'fits', 'vot'])
    def test_files(self, tmp_path, suffix):
        """
        The table survives in files.
        """
        tables = {'blue': catalog([0.0, 100.0], 0.0),
                  'red': catalog(0.0, 0.0)}
        result = match_catalogs(tables, beams=BEAMS)
        path = tmp_path / f'bands.{suffix}'
        write_catalog(result, path)
        back = read_catalog(path)
        assert back.colnames == result.colnames
        assert_array_equal(column(back, 'id_red'), column(result, 'id_red'))
        assert_array_equal(back['flux_fit_red'], result['flux_fit_red'])
        assert back.meta['bands'] == ['blue', 'red']

    def test_plain_tables(self):
        """
        Tables with masked columns and text for id are read, and not
        changed.
        """
        blue = Table({'id': ['a', 'b'], 'sky_centroid': offset(
            np.array([0.0, 50.0]), np.zeros(2)),
            'flux_fit': MaskedColumn([1.0, 2.0], mask=[False, True],
                                     unit='Jy')})
        result = match_catalogs({'blue': blue}, beams={'blue': 9 * u.arcsec})
        assert list(result['id_blue']) == ['a', 'b']
        assert_array_equal(result['flux_fit_blue'].value, [1.0, np.nan])
        assert blue.colnames == ['id', 'sky_centroid', 'flux_fit']


class TestBadInput:
    @pytest.mark.parametrize(('tables', 'error', 'match'), [
        ([1], TypeError, 'tables must be a dictionary of tables by band'),
        ({'a': [1]}, TypeError, "the catalog of band 'a' must be an"),
        ({1: None}, ValueError, 'names of bands must be strings: 1'),
        ({}, ValueError, 'tables must hold a catalog with sources'),
        ({'a': None}, ValueError, 'must hold a catalog with sources'),
        ({'a': QTable({'id': [1]})}, ValueError,
         "'a' needs the column sky_centroid; it has id"),
        ({'a': QTable({'sky_centroid': [1.0]})}, TypeError,
         "sky_centroid of band 'a' must hold a SkyCoord, got Column"),
        ({'a': QTable({'sky_centroid': CENTER.reshape(1)})}, ValueError,
         r"beam of band 'a' is not known: give beams=\{'a': 18 \* u.arcsec"),
    ])
    def test_tables(self, tables, error, match):
        with pytest.raises(error, match=match):
            match_catalogs(tables)

    @pytest.mark.parametrize(('beams', 'match'), [
        ({'b': 3 * u.arcsec}, "the beam of band 'a' is not known"),
        ({'a': 3 * u.Jy}, "beam of band 'a' must be a radio_beam.Beam or"),
        ({'a': 3.0}, "beam of band 'a' must be a radio_beam.Beam or"),
        ({'a': -3 * u.arcsec}, "'a' must be a positive number of arcsec"),
    ])
    def test_beams(self, beams, match):
        with pytest.raises(ValueError, match=match):
            match_catalogs({'a': catalog(0.0, 0.0)}, beams=beams)

    def test_no_dictionary_of_beams(self):
        with pytest.raises(TypeError, match='beams must be a dictionary of'):
            match_catalogs({'a': catalog(0.0, 0.0)}, beams=3 * u.arcsec)

    def test_separation(self):
        with pytest.raises(ValueError, match='max_separation must be a pos'):
            match_catalogs({'blue': catalog(0.0, 0.0)}, max_separation=0)


@pytest.mark.parametrize('values', [[False, True], [1j, 2j]])
def test_shapes_that_are_no_angles(values):
    """
    Shapes are angles also where only one band has any.
    """
    table = Table(catalog([0.0, 90.0], 0.0))
    table['fwhm_major_sky'] = Column(values, unit='arcsec')
    for tables in ({'blue': QTable(), 'red': table},
                   {'blue': table, 'red': catalog([0.0], 0.0)}):
        with pytest.raises(CatalogError, match='fwhm_major_sky must be '):
            match_catalogs(tables, beams=BEAMS)
