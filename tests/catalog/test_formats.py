# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the formats module.
"""

import csv

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import FK4, FK5, SkyCoord
from astropy.io import fits
from astropy.table import Column, MaskedColumn, QTable, Table
from numpy.testing import assert_allclose, assert_array_equal

from hyperphotutils.catalog import read_catalog, write_catalog
from hyperphotutils.utils import FLAGS

IPAC_NAMES = [
    'MAP_ID', 'HYPER_ID', 'FLUX_PEAK', 'FLUX', 'FLUX_ERR', 'RESIDUALS',
    'POLYN', 'NMSE', 'CHI2_RED', 'BIC', 'FWHM_1', 'FWHM_2', 'PA',
    'STATUS', 'GLON', 'GLAT', 'RA', 'DEC', 'DEBLEND', 'CLUSTER',
    'SHOULDER_SCORE',
]
LOSSLESS = ['catalog.ecsv', 'catalog.fits', 'catalog.vot', 'catalog.xml']


def make_table(*, unit=True, sky=True, frame='icrs', n_rows=3):
    """
    A result table; its last row is a failed fit.
    """
    rng = np.random.default_rng(1)
    flux = u.Jy if unit else 1
    peak = u.Jy / u.pix if unit else 1
    index = np.arange(n_rows)

    def values(scale=1.0):
        numbers = scale * rng.uniform(0.1, 1.0, n_rows)
        numbers[-1:] = np.nan
        return numbers

    table = QTable()
    table['id'] = index + 1
    table['group_id'] = index // 2 + 1
    table['group_size'] = np.where(index < 2, 2, 1)
    for name in ('x_init', 'y_init', 'x_fit', 'y_fit', 'x_err', 'y_err'):
        table[name] = values(100)
    for name in ('amplitude_fit', 'amplitude_err', 'local_bkg'):
        table[name] = values(1e-5) * peak
    for name in ('fwhm_major_fit', 'fwhm_minor_fit'):
        table[name] = values(5)
    for name in ('theta_fit', 'theta_err'):
        table[name] = values(180) * u.deg
    for name in ('flux_fit', 'flux_err', 'aperture_flux',
                 'aperture_flux_err', 'aperture_residual'):
        table[name] = values() * flux
    table['aperture_correction'] = values()
    table['bkg_order'] = np.ones(n_rows, dtype=int)
    table['bkg_method'] = np.where(index == n_rows - 1, '', 'lsq')
    for name in ('bkg_size', 'snr', 'shoulder_score', 'nmse',
                 'reduced_chi2', 'bic'):
        table[name] = values()
    table['n_pixels_fit'] = np.full(n_rows, 81, dtype=np.int32)
    table['flags'] = 2**index
    table['is_good'] = index < n_rows - 1
    if sky:
        lon, lat = values(360), values(80)
        table['sky_centroid'] = SkyCoord(lon, lat, unit='deg', frame=frame)
        table['fwhm_major_sky'] = values(20) * u.arcsec
        table['fwhm_minor_sky'] = values(10) * u.arcsec
        table['position_angle'] = values(180) * u.deg
    table['x_fit'].info.description = 'The x position (pixel)'
    table.meta = {
        'date': '2025-01-01 12:00:00',
        'version': {'numpy': '2.0', 'Python': '3.12'},
        'call': {'threshold': '5.0', 'fwhm': '4.1', 'text': 'a "b" \'c\''},
        'rms': 0.25 * u.mJy if unit else 0.25,
        'n_rounds': 2,
        'names': ['a', 'b\nc <&>'],
        'config': '# comment\n\nkey: 1\n  sub: "x"\n' + 80 * 'long ',
        'nothing': None,
    }
    return table


def assert_same_column(ours, theirs):
    assert type(ours) is type(theirs)
    assert ours.info.description == theirs.info.description
    if isinstance(theirs, SkyCoord):
        assert ours.is_equivalent_frame(theirs.frame)
        assert_array_equal(ours.spherical.lon, theirs.spherical.lon)
        assert_array_equal(ours.spherical.lat, theirs.spherical.lat)
        return
    assert ours.unit == theirs.unit
    assert ours.dtype.kind == theirs.dtype.kind
    if theirs.dtype.kind != 'U':
        assert ours.dtype == theirs.dtype
    assert_array_equal(ours, theirs)


def assert_same_table(ours, theirs):
    assert type(ours) is QTable
    assert ours.colnames == theirs.colnames
    for name in theirs.colnames:
        assert_same_column(ours[name], theirs[name])
    assert ours.meta == theirs.meta


class TestRoundTrip:
    @pytest.mark.parametrize('name', LOSSLESS)
    @pytest.mark.parametrize('unit', [True, False])
    @pytest.mark.parametrize('sky', [True, False])
    def test_no_loss(self, tmp_path, name, unit, sky):
        """
        All columns, units, NaN, strings and the metadata come back.
        """
        table = make_table(unit=unit, sky=sky)
        original = table.copy()
        write_catalog(table, tmp_path / name)
        assert_same_table(table, original)
        assert_same_table(read_catalog(tmp_path / name), table)
        assert [path.name for path in tmp_path.iterdir()] == [name]

    @pytest.mark.parametrize('name', LOSSLESS)
    @pytest.mark.parametrize('frame', ['galactic', 'fk5', FK5(equinox='J2010'),
                                       FK4(equinox='B1975')], ids=str)
    def test_frames(self, tmp_path, name, frame):
        """
        Coordinates come back in their frame, equinox included.
        """
        table = make_table(frame=frame)
        write_catalog(table, tmp_path / name)
        assert_same_table(read_catalog(tmp_path / name), table)

    @pytest.mark.parametrize('name', LOSSLESS)
    def test_empty_table(self, tmp_path, name):
        """
        A table without rows keeps its columns and units.
        """
        table = make_table(n_rows=0)
        write_catalog(table, tmp_path / name)
        result = read_catalog(tmp_path / name)
        assert result.colnames == table.colnames
        assert len(result) == 0
        assert result['flux_fit'].unit == u.Jy

    @pytest.mark.parametrize('name', LOSSLESS)
    def test_two_coordinate_columns(self, tmp_path, name):
        """
        A second column of coordinates does not collide with the first.
        """
        table = make_table()
        table['ra'] = [1.0, 2.0, 3.0]
        table['offset_position'] = table['sky_centroid'].galactic
        write_catalog(table, tmp_path / name)
        assert_same_table(read_catalog(tmp_path / name), table)

    @pytest.mark.parametrize('name', LOSSLESS)
    def test_plain_table_with_masks(self, tmp_path, name):
        """
        A masked integer stays masked; a masked float is NaN.
        """
        table = Table({'id': [1, 2], 'n': MaskedColumn([7, 8],
                                                       mask=[False, True]),
                       'flux': MaskedColumn([1.0, 2.0], unit='Jy',
                                            mask=[True, False])})
        write_catalog(table, tmp_path / name)
        result = read_catalog(tmp_path / name)
        assert_array_equal(result['n'].mask, [False, True])
        assert result['n'][0] == 7
        assert_array_equal(result['flux'], [np.nan, 2.0] * u.Jy)
        assert type(result['flux']) is u.Quantity

    def test_angle_columns_in_other_programs(self, tmp_path):
        """
        FITS and VOTable have plain 64-bit angle columns in degrees.
        """
        table = make_table(frame='galactic')
        write_catalog(table, tmp_path / 'a.fits')
        write_catalog(table, tmp_path / 'a.vot')
        with fits.open(tmp_path / 'a.fits') as hdus:
            plain = hdus['CATALOG'].data
            assert_array_equal(plain['l'], table['sky_centroid'].l.deg)
            assert hdus['CATALOG'].columns['b'].unit == 'deg'
        plain = Table.read(tmp_path / 'a.vot', format='votable')
        assert plain['b'].dtype == np.float64
        assert plain['b'].unit == u.deg

    @pytest.mark.parametrize('name', LOSSLESS)
    def test_metadata(self, tmp_path, name):
        """
        Numbers of numpy, tuples, nested dicts and quantities come back;
        what cannot be stored is named, and no file appears.
        """
        meta = {'n': np.int64(5), 'x': np.float64(0.5), 'yes': np.bool_(1),
                'counts': {'a': {'b': 1, 3: [1.5, None]}}, 'pair': (1, 'a'),
                'rms': 0.5 * u.Jy / u.pix, 'none': {}}
        write_catalog(QTable({'id': [1]}, meta=meta), tmp_path / name)
        assert read_catalog(tmp_path / name).meta == meta
        table = QTable({'id': [1]}, meta={'path': tmp_path})
        with pytest.raises(TypeError, match=r'holds .*Path.* cannot store'):
            write_catalog(table, tmp_path / f'b{name}')
        assert [path.name for path in tmp_path.iterdir()] == [name]

    def test_explicit_format(self, tmp_path):
        """
        With a format given the suffix does not matter.
        """
        table = make_table()
        write_catalog(table, tmp_path / 'catalog.txt', format='ecsv')
        result = read_catalog(tmp_path / 'catalog.txt', format='ecsv')
        assert_same_table(result, table)

    @pytest.mark.parametrize('format', ['fits', 'votable', 'ecsv', 'ipac',
                                        'csv'])
    @pytest.mark.parametrize('name', ['a.txt', 'a.dat', 'a'])
    def test_content_decides(self, tmp_path, name, format):  # noqa: A002
        """
        A suffix that means no format does not matter for reading.
        """
        path = tmp_path / name
        write_catalog(make_table(), path, format=format)
        result = read_catalog(path)
        assert result.colnames == read_catalog(path, format=format).colnames
        assert len(result) == 3

    def test_header_of_columns_alone(self, tmp_path):
        """
        An IPAC table need not begin with comments or keywords.
        """
        path = tmp_path / 'source_table.txt'
        path.write_text('\n|  ID|    RA|\n|long|double|\n|    |   deg|\n'
                        '    1   10.5 \n')
        assert read_catalog(path)['RA'][0] == 10.5 * u.deg

    def test_unknown_content(self, tmp_path):
        path = tmp_path / 'a.txt'
        path.write_text('# a comment\n1 2 3\n')
        with pytest.raises(ValueError, match=r"'.*a.txt' is unknown: it"):
            read_catalog(path)

    @pytest.mark.parametrize('name', ['a.txt', 'a.ipac', 'a.csv', 'a'])
    def test_missing_file(self, tmp_path, name):
        with pytest.raises(FileNotFoundError, match='No such file'):
            read_catalog(tmp_path / name)

    @pytest.mark.parametrize('name', ['a.fits', 'a.vot', 'a.ecsv', 'a.ipac'])
    def test_foreign_tables(self, tmp_path, name):
        """
        A table that another program wrote can be read.
        """
        table = Table({'ID': [1, 2], 'FWHM_1': Column([3.0, 4.0],
                                                      unit='arcsec')})
        formats = {'ecsv': 'ascii.ecsv', 'ipac': 'ascii.ipac',
                   'vot': 'votable', 'fits': 'fits'}
        table.write(tmp_path / name, format=formats[name[2:]])
        result = read_catalog(tmp_path / name)
        assert_array_equal(result['FWHM_1'], [3.0, 4.0] * u.arcsec)
        assert result['ID'].dtype.isnative


class TestIPAC:
    def test_columns(self, tmp_path):
        """
        Hyper's columns, in order, have the values of ours.
        """
        table = make_table(frame='galactic')
        write_catalog(table, tmp_path / 'a.ipac', map_id='field 1')
        result = read_catalog(tmp_path / 'a.ipac')
        assert result.colnames == IPAC_NAMES
        for ipac, ours in (('HYPER_ID', 'id'), ('FLUX_PEAK', 'amplitude_fit'),
                           ('FLUX', 'aperture_flux'), ('BIC', 'bic'),
                           ('FLUX_ERR', 'aperture_flux_err'),
                           ('FWHM_1', 'fwhm_major_sky'),
                           ('FWHM_2', 'fwhm_minor_sky'),
                           ('PA', 'position_angle'),
                           ('RESIDUALS', 'aperture_residual'),
                           ('CLUSTER', 'group_id'), ('POLYN', 'bkg_order'),
                           ('NMSE', 'nmse'), ('CHI2_RED', 'reduced_chi2'),
                           ('SHOULDER_SCORE', 'shoulder_score')):
            assert_array_equal(result[ipac], table[ours])
            assert result[ipac].unit == table[ours].unit
        assert_array_equal(result['DEBLEND'], [1, 1, 0])
        assert_array_equal(result['MAP_ID'], 'field 1')
        sky = table['sky_centroid']
        assert_array_equal(result['GLON'], sky.l.to('deg'))
        assert_array_equal(result['GLAT'], sky.b.to('deg'))
        assert_array_equal(result['RA'], sky.icrs.ra.to('deg'))
        assert_array_equal(result['DEC'], sky.icrs.dec.to('deg'))
        assert result['RA'].dtype == np.float64

    @pytest.mark.parametrize('frame', ['fk5', 'fk4', 'icrs'])
    def test_equatorial_frame_is_kept(self, tmp_path, frame):
        """
        RA and DEC are those of an equatorial map, which the header names.
        """
        table = make_table(frame=frame)
        write_catalog(table, tmp_path / 'a.tbl')
        result = read_catalog(tmp_path / 'a.tbl')
        assert_array_equal(result['RA'], table['sky_centroid'].ra.to('deg'))
        assert (f'RA, DEC in {frame.upper()}; PA East of North in '
                f'{frame.upper()}') in result.meta['comments']

    def test_header(self, tmp_path):
        """
        The header has threshold, rms and units, as text and as a row.
        """
        table = make_table()
        for name in ('flux_fit', 'aperture_flux', 'aperture_flux_err',
                     'aperture_residual'):
            table[name] = table[name].to('mJy')
        write_catalog(table, tmp_path / 'a.ipac')
        comments = read_catalog(tmp_path / 'a.ipac').meta['comments']
        for line in ('Threshold: 5.0', 'Noise rms: 0.25 mJy',
                     'FLUX, FLUX_ERR, RESIDUALS in mJy',
                     'FWHM_1, FWHM_2 in arcsec', 'FLUX_PEAK in Jy / pix'):
            assert line in comments
        lines = (tmp_path / 'a.ipac').read_text().splitlines()
        units = next(line for line in lines if 'Jy / pix|' in line)
        assert units.count('mJy|') == 3

    def test_without_wcs(self, tmp_path):
        """
        Without sky coordinates these columns are null, sizes in pixels.
        """
        table = make_table(sky=False, unit=False)
        write_catalog(table, tmp_path / 'a.ipac')
        result = read_catalog(tmp_path / 'a.ipac')
        for name in ('GLON', 'GLAT', 'RA', 'DEC', 'PA'):
            assert np.all(np.isnan(result[name]))
        assert_array_equal(result['FWHM_1'], table['fwhm_major_fit'] * u.pix)

    def test_few_columns(self, tmp_path):
        """
        Columns that the table does not have are null.
        """
        table = make_table()[['id', 'amplitude_fit']]
        write_catalog(table, tmp_path / 'a.ipac')
        result = read_catalog(tmp_path / 'a.ipac')
        assert result.colnames == IPAC_NAMES
        assert np.all(np.isnan(result['FLUX']))
        assert np.all(result['CLUSTER'].mask)

    def test_missing_columns_raise(self, tmp_path):
        """
        A table without a peak is refused by the name of the column.
        """
        with pytest.raises(ValueError, match=r"'amplitude_fit'\] are missing"):
            write_catalog(make_table()[['id']], tmp_path / 'a.ipac')
        assert not list(tmp_path.iterdir())

    def test_names_as_ids(self, tmp_path):
        """
        Sources may have names, or numbers of any length.
        """
        table = make_table()
        for ids in (['a', 'b', 'G1.2'], [2**62 + 1, 2, 3]):
            table['id'] = ids
            write_catalog(table, tmp_path / 'a.ipac', overwrite=True)
            assert_array_equal(read_catalog(tmp_path / 'a.ipac')['HYPER_ID'],
                               ids)

    def test_which_rms(self, tmp_path):
        """
        The header says of what the rms is, how large the beam is, and
        what STATUS means.
        """
        table = make_table()
        table.meta |= {'rms_of': 'the filtered map', 'beam_area_pix': 20.5}
        write_catalog(table, tmp_path / 'a.ipac')
        comments = read_catalog(tmp_path / 'a.ipac').meta['comments']
        assert 'Noise rms: 0.25 mJy, of the filtered map' in comments
        assert 'Beam area: 20.5 pixels' in comments
        assert 'STATUS is 1 for good measurements' in ' '.join(comments)

    def test_status_is_one_for_good_rows(self, tmp_path):
        """
        What tells how a source was measured does not make it a bad one.
        """
        table = make_table()
        table['flags'] = [FLAGS['fixed_position'] | FLAGS['near_bound'],
                          FLAGS['partial_aperture'] | FLAGS['no_convergence'],
                          FLAGS['non_finite_flux'] | FLAGS['no_position']]
        write_catalog(table, tmp_path / 'a.ipac')
        result = read_catalog(tmp_path / 'a.ipac')
        assert_array_equal(result['STATUS'], [1, 0, 0])

    def test_units_of_choice(self, tmp_path):
        """
        Fluxes in mJy and peaks per beam differ by the factors they should.
        """
        table = make_table()
        table.meta |= {'beam_area_pix': 20.0, 'rms': 0.001 * u.Jy / u.pix}
        for name in ('a.ipac', 'a.csv'):
            write_catalog(table, tmp_path / name, flux_unit='mJy',
                          peak_unit='Jy/beam')
            result = read_catalog(tmp_path / name)
            assert result['FLUX'].unit == u.mJy
            assert_allclose(result['FLUX'].value,
                            1e3 * table['aperture_flux'].value)
            assert result['RESIDUALS'].unit == u.mJy
            assert result['FLUX_PEAK'].unit == u.Jy / u.beam
            assert_allclose(result['FLUX_PEAK'].value,
                            20 * table['amplitude_fit'].value)
            assert 'FLUX_PEAK in Jy / beam' in result.meta['comments']
            assert 'Noise rms: 0.02 Jy / beam' in result.meta['comments']
        assert table['aperture_flux'].unit == u.Jy

    def test_map_id_of_the_metadata(self, tmp_path):
        """
        The name of the map may come with the table.
        """
        table = make_table()
        table.meta['map_id'] = 'south'
        write_catalog(table, tmp_path / 'a.ipac')
        result = read_catalog(tmp_path / 'a.ipac')
        assert_array_equal(result['MAP_ID'], 'south')


class TestCSV:
    @pytest.mark.parametrize('frame', ['icrs', 'galactic', 'fk4'])
    def test_all_digits(self, tmp_path, frame):
        """
        CSV has the columns, values, digits and units of IPAC.
        """
        table = make_table(frame=frame)
        write_catalog(table, tmp_path / 'a.ipac', map_id='field')
        write_catalog(table, tmp_path / 'a.csv', map_id='field')
        result = read_catalog(tmp_path / 'a.csv')
        expected = read_catalog(tmp_path / 'a.ipac')
        assert result.colnames == IPAC_NAMES
        for name in IPAC_NAMES:
            assert_array_equal(result[name], expected[name])
            assert (getattr(result[name], 'unit', None)
                    == getattr(expected[name], 'unit', None)), name
        assert_array_equal(result['GLON'],
                           table['sky_centroid'].galactic.l.to('deg'))
        assert result['RA'].dtype == np.float64

    def test_plain_readers(self, tmp_path):
        """
        A reader that skips lines with # finds one line of names and one
        per source, empty where there is no value.
        """
        write_catalog(make_table(), tmp_path / 'a.csv')
        with (tmp_path / 'a.csv').open(newline='') as file:
            rows = list(csv.DictReader(
                line for line in file if not line.startswith('#')))
        assert list(rows[0]) == IPAC_NAMES
        assert [row['HYPER_ID'] for row in rows] == ['1', '2', '3']
        assert rows[2]['FLUX'] == ''
        assert float(rows[0]['FLUX']) == make_table()['aperture_flux'][0].value

    def test_foreign(self, tmp_path):
        """
        Any other CSV file can be read.
        """
        (tmp_path / 'a.csv').write_text('ID,RA\n1,2.5\n2,\n')
        table = read_catalog(tmp_path / 'a.csv')
        assert_array_equal(table['RA'], [2.5, np.nan])
        (tmp_path / 'a.csv').write_text('ID,RA\n1,2.5,7,8\n')
        with pytest.raises(ValueError, match=r"a\.csv' cannot be read as csv"):
            read_catalog(tmp_path / 'a.csv')


class TestBadInput:
    @pytest.mark.parametrize('name', [*LOSSLESS, 'catalog.ipac',
                                      'catalog.csv'])
    def test_existing_file(self, tmp_path, name):
        """
        An existing file is kept without overwrite, replaced with it.
        """
        path = tmp_path / name
        path.write_text('old')
        with pytest.raises(FileExistsError, match='exists already: use over'):
            write_catalog(make_table(), path)
        assert path.read_text() == 'old'
        write_catalog(make_table(), path, overwrite=True)
        assert len(read_catalog(path)) == 3
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize('name', [*LOSSLESS, 'catalog.ipac',
                                      'catalog.csv'])
    def test_unwritable(self, tmp_path, name):
        """
        A folder that cannot be written to is one error, without files.
        """
        (tmp_path / 'file').write_text('')
        with pytest.raises(OSError, match=f'cannot be written .*{name}'):
            write_catalog(make_table(), tmp_path / 'file' / name)
        with pytest.raises(OSError, match=f'cannot be written .*{name}'):
            write_catalog(make_table(), tmp_path / 'missing' / name)
        assert [path.name for path in tmp_path.iterdir()] == ['file']

    @pytest.mark.parametrize('name', [*LOSSLESS, 'catalog.ipac',
                                      'catalog.csv'])
    def test_not_a_catalog(self, tmp_path, name):
        """
        A missing file and one of another kind are told apart.
        """
        path = tmp_path / name
        with pytest.raises(FileNotFoundError, match=name):
            read_catalog(path)
        path.write_text('This is prose,\nand, well, it is no table.\n')
        with pytest.raises(ValueError, match=f'{name}.* cannot be read as'):
            read_catalog(path)

    @pytest.mark.parametrize('name', ['catalog.fits', 'catalog.vot'])
    def test_truncated(self, tmp_path, name):
        """
        A truncated file is refused.
        """
        path = tmp_path / name
        write_catalog(make_table(n_rows=200), path)
        path.write_bytes(path.read_bytes()[:20000])
        with pytest.raises(ValueError, match=f'{name}.* cannot be read as'):
            read_catalog(path)

    def test_fits_image(self, tmp_path):
        """
        A FITS file without a table is refused.
        """
        fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / 'a.fits')
        with pytest.raises(ValueError, match='as fits: it has no table'):
            read_catalog(tmp_path / 'a.fits')

    def test_bad_arguments(self, tmp_path):
        """
        Unknown formats and other objects than tables are refused.
        """
        with pytest.raises(ValueError, match=r"format of '.*a\.dat' is unkn"):
            write_catalog(make_table(), tmp_path / 'a.dat')
        with pytest.raises(ValueError, match=r"must be one of .*: got 'tsv'"):
            read_catalog(tmp_path / 'a.dat', format='tsv')
        with pytest.raises(TypeError, match='table must be an astropy Table'):
            write_catalog([1, 2], tmp_path / 'a.fits')
        with pytest.raises(TypeError, match='no sources were found'):
            write_catalog(None, tmp_path / 'a.fits')
        assert not list(tmp_path.iterdir())
