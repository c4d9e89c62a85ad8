# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the columns module, on the files of all formats, too.
"""

import io
import re
import warnings
from dataclasses import FrozenInstanceError

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.io.votable import parse, validate
from astropy.io.votable.ucd import check_ucd
from astropy.table import QTable
from numpy.testing import assert_array_equal

from hyperphotutils.catalog import (
    RESULT_COLUMNS,
    RESULT_TABLES,
    describe_columns,
    find_column,
    make_empty_table,
    match_catalogs,
    read_catalog,
    write_catalog,
)
from hyperphotutils.catalog.hyper import make_hyper_table
from hyperphotutils.datasets import make_blended_map, make_galaxy_field
from hyperphotutils.detection import HighPassStarFinder
from hyperphotutils.galaxy import SersicCube, SersicFitter
from hyperphotutils.photometry import ForcedPhotometry, HyperPhotometry


@pytest.fixture(scope='module')
def results():
    """
    One table of each kind.
    """
    sim = make_blended_map((100, 100), 8, seed=1)
    fwhm = sim.image.meta['beam_fwhm_pix']
    phot = HyperPhotometry(fwhm)
    table = phot(sim.image)
    plain = HyperPhotometry(fwhm, noise='white')(sim.image.data)
    finder = HighPassStarFinder(fwhm=fwhm, n_sigma=5.0)
    bands = {'red': table, 'blue': table[:5]}
    matched = match_catalogs(bands, beams=dict.fromkeys(bands, 5 * u.arcsec))
    forced = ForcedPhotometry(noise='white')(
        table[['id', 'sky_centroid', 'fwhm_major_sky', 'fwhm_minor_sky',
               'position_angle']], {'red': sim.image})
    field = make_galaxy_field((100, 100), 2, seed=1)
    fitter = SersicFitter(field.psf, size=48)
    unit = u.Jy / u.pix
    galaxies = fitter(field.data << unit, error=field.error << unit,
                      init_params=field.truth['x', 'y'], wcs=sim.image.wcs)
    grid = SersicCube(field.psf, n=[1, 4], r_eff=[1, 2, 4], q=[0.5, 1],
                      theta=[0, 90], size=48).fit(
        field.data[:48, :48] << unit)
    return {'photometry': table, 'plain': plain, 'rejected': phot.rejected,
            'galaxies': galaxies, 'galaxy_grid': grid.summary(),
            'detection': finder(sim.image), 'matched': matched,
            'forced': forced, 'wcs': sim.image.wcs}


class TestRegistry:
    def test_entries_are_frozen_and_complete(self):
        """
        Nobody can change the registry; each entry describes its column.
        """
        with pytest.raises(TypeError, match='does not support item assign'):
            RESULT_COLUMNS['id'] = None
        with pytest.raises(FrozenInstanceError):
            RESULT_COLUMNS['id'].unit = 'pix'
        for name, column in RESULT_COLUMNS.items():
            assert column.name == name
            assert column.description
            assert '\n' not in column.description
            assert column.unit in {'', 'data', 'flux', 'pix'} or u.Unit(
                column.unit)
        descriptions = [column.description
                        for column in RESULT_COLUMNS.values()]
        assert len(set(descriptions)) == len(descriptions)

    @pytest.mark.parametrize('name', RESULT_COLUMNS)
    def test_names_and_ucds_are_valid(self, name):
        """
        Names are good in FITS, too, and UCDs are words of the IVOA.
        """
        assert re.fullmatch('[a-z][a-z0-9_]{0,67}', name)
        ucd = RESULT_COLUMNS[name].ucd
        assert not ucd or check_ucd(ucd, check_controlled_vocabulary=True)

    def test_hyper_names_are_unique(self):
        """
        A column of Hyper's catalogs comes from one of ours.
        """
        names = [column.hyper_name for column in RESULT_COLUMNS.values()
                 if column.hyper_name]
        assert len(set(names)) == len(names)

    def test_bands(self):
        """
        A column of a band is that column, with the band in its words.
        """
        assert find_column('flux_fit_red') is None
        column = find_column('flux_fit_red', bands=['blue', 'red'])
        assert column.unit == 'flux'
        assert column.description.endswith('; band red')
        assert find_column('id_red', bands=['red']).ucd == 'meta.id'


class TestResults:
    @pytest.mark.parametrize('kind', ['photometry', 'plain', 'rejected',
                                      'detection', 'matched', 'forced',
                                      'galaxies', 'galaxy_grid'])
    def test_every_column_is_registered_and_described(self, results, kind):
        """
        The registry has what is in a table: unit, type, and words.
        """
        table = results[kind]
        unit = None if kind == 'plain' else u.Jy / u.pix
        for name in table.colnames:
            known = find_column(name, bands=table.meta.get('bands', ()),
                                kind=kind)
            assert known is not None, name
            column = table[name]
            assert column.info.description == known.description
            if isinstance(column, SkyCoord):
                continue
            own = known.unit_for(unit)
            assert getattr(column, 'unit', None) == own, name
            assert column.dtype.kind == np.dtype(known.dtype).kind, name

    @pytest.mark.parametrize('kind', RESULT_TABLES)
    def test_empty_tables_are_like_results(self, results, kind):
        """
        A table without rows has the columns of one with rows.
        """
        table = results[kind]
        empty = make_empty_table(kind, unit=u.Jy / u.pix,
                                 wcs=results['wcs'])
        assert len(empty) == 0
        assert empty.colnames == table.colnames
        for name in table.colnames:
            column, blank = table[name], empty[name]
            assert type(blank) is type(column)
            assert blank.info.description == column.info.description
            if not isinstance(column, SkyCoord):
                assert getattr(blank, 'unit', None) == getattr(
                    column, 'unit', None)
                assert blank.dtype.kind == column.dtype.kind
        plain = make_empty_table(kind)
        assert 'sky_centroid' not in plain.colnames

    def test_units_and_foreign_columns_are_kept(self):
        """
        Neither a given unit nor the column of a user is changed.
        """
        table = QTable({'flux_fit': [1.0] * u.mJy, 'mine': [2.0]})
        table['mine'].info.description = 'my words'
        describe_columns(table, unit=u.Jy / u.pix)
        assert table['flux_fit'].unit == u.mJy
        assert table['mine'].info.description == 'my words'
        assert table['mine'].unit is None

    def test_meta_has_quantities(self, results):
        """
        Numbers in the metadata are numbers, with their unit.
        """
        rms = results['photometry'].meta['rms']
        assert rms.unit == u.Jy / u.pix
        assert results['forced'].meta['rms']['red'].unit == u.Jy / u.pix
        assert isinstance(results['plain'].meta['rms'], float)


class TestFiles:
    @pytest.mark.parametrize('name', ['a.ecsv', 'a.fits', 'a.vot'])
    @pytest.mark.parametrize('kind', ['photometry', 'matched', 'forced',
                                      'detection', 'galaxies', 'galaxy_grid'])
    def test_round_trip(self, results, tmp_path, kind, name):
        """
        Units, descriptions, and metadata come back.
        """
        table = results[kind]
        write_catalog(table, tmp_path / name)
        found = read_catalog(tmp_path / name)
        assert found.colnames == table.colnames
        assert found.meta == table.meta
        for column in table.colnames:
            assert found[column].info.description == (
                table[column].info.description)
            assert getattr(found[column], 'unit', None) == getattr(
                table[column], 'unit', None)

    @pytest.mark.parametrize('kind', ['galaxies', 'galaxy_grid'])
    def test_galaxies_in_votable_and_fits(self, results, tmp_path, kind):
        """
        Tables of galaxies are valid VOTables, and every column has a UCD and
        a description there and in FITS.
        """
        table = results[kind]
        write_catalog(table, tmp_path / 'a.vot')
        report = io.StringIO()
        assert validate(str(tmp_path / 'a.vot'),
                        output=report), report.getvalue()
        fields = parse(tmp_path / 'a.vot').get_first_table().fields
        write_catalog(table, tmp_path / 'a.fits')
        header = fits.getheader(tmp_path / 'a.fits', 1)
        for number, field in enumerate(fields, 1):
            assert header[f'TTYPE{number}'] == field.name
            assert field.ucd == header[f'TUCD{number}']
            assert ' '.join(field.description.split()) == (
                header[f'TCOMM{number}'])
        assert ({field.name: field for field in fields}['r_eff_grid'].ucd
                == 'src.morph.scLength')

    @pytest.mark.parametrize(('frame', 'system', 'equinox'), [
        ('icrs', 'ICRS', None), ('fk5', 'eq_FK5', 'J2000.000'),
        ('fk4', 'eq_FK4', 'B1950.000'), ('galactic', 'galactic', None)])
    def test_votable(self, results, tmp_path, frame, system, equinox):
        """
        VOTables are valid, and have UCDs, descriptions, and the frame.
        """
        table = results['photometry'].copy()
        table['sky_centroid'] = table['sky_centroid'].transform_to(frame)
        path = tmp_path / 'a.vot'
        write_catalog(table, path)
        report = io.StringIO()
        assert validate(str(path), output=report), report.getvalue()
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            votable = parse(path, verify='exception')
        coosys, = votable.iter_coosys()
        assert (coosys.system, coosys.equinox) == (system, equinox)
        fields = {field.name: field
                  for field in votable.get_first_table().fields}
        assert fields['flux_fit'].ucd == 'phot.flux.density;meta.modelled'
        assert fields['flux_fit'].description == (
            RESULT_COLUMNS['flux_fit'].description)
        angle = fields['l' if frame == 'galactic' else 'ra']
        assert angle.ref == coosys.ID
        assert angle.ucd in {'pos.galactic.lon;meta.main',
                             'pos.eq.ra;meta.main'}
        assert all(field.ucd and field.description
                   for field in fields.values())

    @pytest.mark.parametrize(('frame', 'system', 'equinox'), [
        ('icrs', 'ICRS', None), ('fk5', 'FK5', 2000.0),
        ('fk4', 'FK4', 1950.0), ('galactic', None, None)])
    def test_fits(self, results, tmp_path, frame, system, equinox):
        """
        FITS files have units, UCDs, descriptions, and the frame.
        """
        table = results['photometry'].copy()
        table['sky_centroid'] = table['sky_centroid'].transform_to(frame)
        write_catalog(table, tmp_path / 'a.fits')
        with fits.open(tmp_path / 'a.fits') as hdus:
            hdus.verify('exception')
            header = hdus[1].header
        assert header.get('RADESYS') == system
        assert header.get('EQUINOX') == equinox
        numbers = {header[f'TTYPE{k}']: k
                   for k in range(1, header['TFIELDS'] + 1)}
        for name, number in numbers.items():
            assert header[f'TCOMM{number}']
            known = RESULT_COLUMNS.get(name)
            if known is not None:
                assert header[f'TUCD{number}'] == known.ucd
                assert header[f'TCOMM{number}'] == known.description
        assert header[f"TUNIT{numbers['amplitude_fit']}"] == 'Jy pix-1'

    @pytest.mark.parametrize('kind', ['photometry', 'plain', 'rejected',
                                      'detection', 'matched', 'forced',
                                      'odd', 'empty'])
    def test_text_is_that_of_astropy(self, results, tmp_path, kind):
        """
        ECSV and IPAC files are byte by byte those of astropy.
        """
        if kind == 'odd':
            table = results['photometry'][:4].copy()
            table['id'] = ['a b', 'q"x', '', '#']
            table['snr'] = [np.nan, np.inf, 1e300, -0.0]
            table['small'] = np.array([0.1, 1e-7, 3, 4], dtype=np.float32)
            table['good'] = table['snr'] > 1
            table['pair'] = np.zeros((4, 2))
        elif kind == 'empty':
            table = results['photometry'][:0]
        else:
            table = results[kind]
        write_catalog(table, tmp_path / 'a.ecsv')
        table.write(tmp_path / 'b.ecsv', format='ascii.ecsv')
        assert (tmp_path / 'a.ecsv').read_bytes() == (
            tmp_path / 'b.ecsv').read_bytes()
        if 'amplitude_fit' in table.colnames:
            write_catalog(table, tmp_path / 'a.ipac')
            hyper = make_hyper_table(table, '')
            hyper.write(tmp_path / 'b.ipac', format='ascii.ipac')
            assert (tmp_path / 'a.ipac').read_bytes() == (
                tmp_path / 'b.ipac').read_bytes()

    def test_writing_does_not_change_the_table(self, results, tmp_path):
        """
        UCDs are in the file only.
        """
        table = results['photometry'].copy()
        for name in ('a.vot', 'a.fits', 'a.ecsv'):
            write_catalog(table, tmp_path / name)
        assert not any(table[name].info.meta for name in table.colnames)

    def test_same_bytes_whatever_objects_the_units_are(self, results,
                                                       tmp_path):
        """
        Equal metadata give equal files.
        """
        for number in range(2):
            table = results['photometry'].copy()
            table.meta['rms'] = u.Quantity(0.5, u.Jy / u.pix if number
                                           else table['local_bkg'].unit)
            table.meta['bands'] = {'a': 1 * u.Unit('Jy/pix')}
            for suffix in ('ecsv', 'fits', 'vot'):
                write_catalog(table, tmp_path / f'{number}.{suffix}')
        for suffix in ('ecsv', 'fits', 'vot'):
            assert_array_equal(*(
                np.frombuffer((tmp_path / f'{k}.{suffix}').read_bytes(), 'u1')
                for k in range(2)))
