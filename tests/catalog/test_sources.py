# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the sources module.
"""

import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import FK4, FK5, SkyCoord
from astropy.io import fits
from astropy.table import Column, MaskedColumn, QTable, Table
from astropy.utils.masked import Masked
from astropy.wcs import WCS, FITSFixedWarning
from numpy.testing import assert_allclose, assert_array_equal

from hyperphotutils.blend import BlendGroupFitter
from hyperphotutils.catalog import (
    CatalogError,
    read_source_list,
    write_catalog,
)
from hyperphotutils.utils import add_gaussians, sources_to_pixels

FILES = ['a.ecsv', 'a.fits', 'a.vot', 'a.ipac', 'a.csv']
ASTROPY_FORMATS = {'ecsv': 'ascii.ecsv', 'fits': 'fits', 'vot': 'votable',
                   'ipac': 'ascii.ipac', 'csv': 'ascii.csv'}


def make_columns(**extra):
    return {'ID': [7, 3], 'RA': [83.8, 83.9], 'DEC': [-5.4, -5.5], **extra}


def make_shapes():
    return {'FWHM_1': [12.0, 9.0], 'FWHM_2': [8.0, 9.5], 'PA': [30.0, 100.0]}


def make_wcs(kind=('RA---TAN', 'DEC--TAN'), center=(83.85, -5.45), *,
             rotation=0.0, radesys='', scale=5.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = kind
    wcs.wcs.crval = center
    wcs.wcs.crpix = [40.0, 40.0]
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    angle = np.deg2rad(rotation)
    wcs.wcs.pc = [[np.cos(angle), -np.sin(angle)],
                  [np.sin(angle), np.cos(angle)]]
    wcs.wcs.radesys = radesys
    wcs.wcs.set()
    return wcs


class TestTables:
    @pytest.mark.parametrize('name', FILES)
    def test_files(self, tmp_path, name):
        """
        A table of any format is read, without units as deg and arcsec.
        """
        table = Table(make_columns(**make_shapes(), note=['x', 'y']))
        table.write(tmp_path / name, format=ASTROPY_FORMATS[name[2:]])
        result = read_source_list(tmp_path / name)
        assert type(result) is QTable
        assert_array_equal(result['id'], [7, 3])
        assert result['sky_centroid'].frame.name == 'icrs'
        assert_array_equal(result['sky_centroid'].ra.deg, [83.8, 83.9])
        assert_array_equal(result['sky_centroid'].dec.deg, [-5.4, -5.5])
        assert_array_equal(result['fwhm_major_sky'], [12.0, 9.5] * u.arcsec)
        assert_array_equal(result['fwhm_minor_sky'], [8.0, 9.0] * u.arcsec)
        assert_array_equal(result['position_angle'], [30.0, 10.0] * u.deg)
        assert result.meta == {'source_list': str(tmp_path / name)}
        same = read_source_list(str(tmp_path / name))
        assert_array_equal(same['id'], result['id'])

    def test_names_in_any_case_and_units(self):
        """
        The case of names does not matter, and units are obeyed.
        """
        table = Table({'Glon': Column([0.01, 6.28], unit='rad'),
                       'gLAT': Column([60.0, -60.0], unit='arcmin'),
                       'fwhm_1': Column([0.2, 0.3], unit='arcmin'),
                       'Fwhm_2': Column([0.002, 0.003], unit='degrees'),
                       'pa': Column([0.1, 0.2], unit='rad')})
        result = read_source_list(table)
        sky = result['sky_centroid']
        assert sky.frame.name == 'galactic'
        assert_allclose(sky.l.deg, np.rad2deg([0.01, 6.28]))
        assert_allclose(sky.b.deg, [1, -1])
        assert_allclose(result['fwhm_major_sky'].value, [12, 18])
        assert_allclose(result['fwhm_minor_sky'].value, [7.2, 10.8])
        assert_allclose(result['position_angle'].value,
                        np.rad2deg([0.1, 0.2]))
        assert_array_equal(result['id'], [1, 2])

    @pytest.mark.parametrize('frame', ['icrs', 'fk5', 'fk4', 'galactic',
                                       FK5(equinox='J2010')], ids=str)
    @pytest.mark.parametrize('name', FILES)
    def test_own_results(self, tmp_path, name, frame):
        """
        Our own catalogs come back with the same places and directions on
        the sky, in whatever frame the map was.
        """
        sky = SkyCoord([83.8, 83.9], [-5.4, -5.5], unit='deg',
                       frame='icrs').transform_to(frame)
        table = QTable({'id': [7, 3], 'sky_centroid': sky,
                        'amplitude_fit': [1.0, 2.0],
                        'fwhm_major_sky': [12.0, 9.0] * u.arcsec,
                        'fwhm_minor_sky': [8.0, 7.0] * u.arcsec,
                        'position_angle': [30.0, 100.0] * u.deg})
        write_catalog(table, tmp_path / name)
        result = read_source_list(tmp_path / name)
        assert_array_equal(result['id'], [7, 3])
        found = result['sky_centroid']
        assert np.all(found.separation(sky.transform_to(found.frame))
                      < 1e-9 * u.arcsec)
        assert_array_equal(result['fwhm_major_sky'], table['fwhm_major_sky'])
        tip = sky.directional_offset_by(table['position_angle'],
                                        1 * u.arcsec)
        angle = found.position_angle(tip.transform_to(found.frame))
        difference = (result['position_angle'] - angle).to_value(u.deg)
        assert_allclose((difference + 90) % 180 - 90, 0, atol=1e-4)

    def test_frame_decides(self):
        """
        With both pairs the frame tells which to take; FK4 is no ICRS.
        """
        sky = SkyCoord([83.8, 83.9], [-5.4, -5.5], unit='deg')
        table = Table({'ID': [1, 2], 'RA': sky.fk4.ra.deg,
                       'DEC': sky.fk4.dec.deg, 'GLON': sky.galactic.l.deg,
                       'GLAT': sky.galactic.b.deg})
        result = read_source_list(table, frame='galactic')['sky_centroid']
        assert result.frame.name == 'galactic'
        result = read_source_list(table, frame='fk4')['sky_centroid']
        assert_array_equal(result.ra.deg, table['RA'])
        assert np.all(result.separation(sky.fk4) < 1e-9 * u.arcsec)
        with pytest.raises(ValueError, match=r'apart in row \d: give the'):
            read_source_list(table)
        result = read_source_list(table[['ID', 'RA', 'DEC']],
                                  frame=FK4(equinox='B1950'))
        assert result['sky_centroid'].frame.name == 'fk4'

    def test_nan_rows_are_kept(self):
        """
        Rows without a number keep their place with NaN.
        """
        table = Table({'ID': ['a', 'b', 'c', 'd'],
                       'RA': MaskedColumn([1.0, 2, 3, np.inf],
                                          mask=[0, 1, 0, 0]),
                       'DEC': [1.0, 2.0, np.nan, 4.0],
                       'FWHM_1': [5.0, 5, 5, np.nan],
                       'FWHM_2': [4.0, 4, 4, 4]})
        table['PA'] = 10.0
        result = read_source_list(table)
        assert_array_equal(result['id'], ['a', 'b', 'c', 'd'])
        assert_array_equal(np.isnan(result['sky_centroid'].ra.deg),
                           [0, 1, 1, 1])
        assert_array_equal(np.isnan(result['sky_centroid'].dec.deg),
                           [0, 1, 1, 1])
        init = sources_to_pixels(result, make_wcs(center=(1.0, 1.0)))
        assert_allclose(init['x_init'][0], 39.0)
        assert_array_equal(np.isnan(init['x_init']), [0, 1, 1, 1])

    def test_numbers_as_texts(self):
        """
        Numbers that a file has as texts are numbers; blanks are NaN.
        """
        result = read_source_list(Table(make_columns(RA=['83.8', ' '])))
        assert_array_equal(result['sky_centroid'].ra.deg, [83.8, np.nan])

    @pytest.mark.real_data
    def test_published_catalog(self, real_data):
        """
        The sources of a survey are where its own pixels have them.
        """
        table = read_source_list(real_data('bgps_v1_sources_in_gc_map.ecsv'))
        original = Table.read(real_data('bgps_v1_sources_in_gc_map.ecsv'))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', FITSFixedWarning)
            wcs = WCS(fits.getheader(real_data('bgps_gc_1mm.fits')))
        init = sources_to_pixels(table, wcs)
        assert len(init) == len(original)
        assert_allclose(init['x_init'], original['x_pix'], atol=1.0)
        assert_allclose(init['y_init'], original['y_pix'], atol=1.0)

    def test_masked_positions(self):
        """
        A masked position is none, whatever is below the mask.
        """
        angles = Masked([10.0, 20.0] * u.deg, mask=[False, True])
        sky = SkyCoord(angles, angles)
        result = read_source_list(QTable({'sky_centroid': sky}))
        assert_array_equal(np.isnan(result['sky_centroid'].ra.deg), [0, 1])
        init = sources_to_pixels(result, make_wcs(center=(10.0, 10.0)))
        assert_array_equal(np.isnan(init['x_init']), [0, 1])

    @pytest.mark.parametrize(('columns', 'match'), [
        ({'ID': [1], 'RA': [2.0]}, r'positions, DEC: it has ID, RA$'),
        ({'ID': [1], 'x': [2.0]}, 'RA and DEC, or GLON and GLAT: it has ID'),
        (make_columns(ra=[1.0, 2.0]), 'several columns for RA: RA, ra'),
        (make_columns(ID=[5, 5]), r'must be unique: 5 is in the rows 0, 1$'),
        (make_columns(DEC=[-5.0, 95.0]), r'DEC must be within 90 deg: got 95'),
        (make_columns(RA=['5:35', 'x']),
         "RA must be texts like.*: got 'x' in row 1"),
        (make_columns(FWHM_1=[3.0, 4.0]), 'FWHM_1 and FWHM_2 must both'),
        (make_columns(FWHM_1=[3.0, 0.0], FWHM_2=[3.0, 3.0]),
         'FWHM_1 must be positive: got 0.0 in row 1'),
        (make_columns(FWHM_1=[3.0, 4.0], FWHM_2=[3.0, 3.0]),
         'ellipses need PA'),
        ({'ID': [], 'RA': [], 'DEC': []}, 'has no sources'),
    ], ids=str)
    def test_bad_tables(self, columns, match):
        """
        What is wrong with a table is said in one line.
        """
        with pytest.raises(ValueError, match=match) as info:
            read_source_list(Table(columns))
        assert '\n' not in str(info.value)

    @pytest.mark.parametrize('name', ['a.ecsv', 'a.fits', 'a.vot', 'a.ipac'])
    @pytest.mark.parametrize('unit', ['Jy', 'foo'])
    @pytest.mark.parametrize('column', ['RA', 'FWHM_1'])
    @pytest.mark.filterwarnings('ignore::astropy.units.UnitsWarning')
    @pytest.mark.filterwarnings(
        'ignore::astropy.io.votable.exceptions.W50')
    def test_unknown_units(self, tmp_path, name, unit, column):
        """
        A unit that is not an angle is named with its column and file.
        """
        table = Table(make_columns(**make_shapes()))
        table[column].unit = u.Unit(unit, parse_strict='silent')
        table.write(tmp_path / name, format=ASTROPY_FORMATS[name[2:]])
        with pytest.raises(ValueError, match=rf"{name}': the unit '{unit}' of "
                           rf'{column} is not an angle'):
            read_source_list(tmp_path / name)

    @pytest.mark.filterwarnings('ignore::astropy.units.UnitsWarning')
    def test_unknown_units_elsewhere(self, tmp_path):
        """
        Units of other columns do not matter.
        """
        table = Table(make_columns(flux=[1.0, 2.0]))
        table['flux'].unit = u.Unit('foo', parse_strict='silent')
        table.write(tmp_path / 'a.ecsv')
        assert len(read_source_list(tmp_path / 'a.ecsv')) == 2

    def test_bad_files(self, tmp_path):
        """
        Files that are missing or no table are told apart.
        """
        with pytest.raises(FileNotFoundError, match=r'a\.fits'):
            read_source_list(tmp_path / 'a.fits')
        (tmp_path / 'a.ecsv').write_text('prose')
        with pytest.raises(ValueError, match=r"a\.ecsv' cannot be read as"):
            read_source_list(tmp_path / 'a.ecsv')
        with pytest.raises(TypeError, match='a file or an astropy Table: got'):
            read_source_list([1.0, 2.0])

    def test_masked_id(self):
        """
        An ID without a value is refused.
        """
        table = Table(make_columns(ID=MaskedColumn([1, 2], mask=[0, 1])))
        with pytest.raises(ValueError, match='ID has no value in row 1'):
            read_source_list(table)


class TestOtherPrograms:
    @pytest.mark.parametrize(('header', 'row', 'frame', 'expected'), [
        ('_RAJ2000,_DEJ2000', '83.81,-5.39', 'fk5', (83.81, -5.39)),
        ('RA_ICRS;DE_ICRS', '83.81;-5.39', 'icrs', (83.81, -5.39)),
        ('RAB1950|DEB1950', '05:32:46.0|-05:25:10', 'fk4',
         (83.191666667, -5.419444444)),
        ('ALPHA_J2000,DELTA_J2000', '83.81,-0.39', 'fk5', (83.81, -0.39)),
        ('RA,DEC', '5h35m14.5s,-00d23m28s', 'icrs',
         (83.810416667, -0.391111111)),
        ('_Glon\t_Glat', '209.0\t-19.4', 'galactic', (209.0, -19.4)),
        ('ELON,ELAT', '83,-28.7', 'barycentricmeanecliptic', (83, -28.7)),
    ])
    def test_names_state_the_frame(self, tmp_path, header, row, frame,
                                   expected):
        """
        Columns of other programs are in the frame of their names.
        """
        (tmp_path / 'a.csv').write_text(f'{header}\n{row}\n')
        sky = read_source_list(tmp_path / 'a.csv')['sky_centroid']
        assert sky.frame.name == frame
        assert_allclose((sky.spherical.lon.deg[0], sky.spherical.lat.deg[0]),
                        expected)

    @pytest.mark.parametrize(('text', 'match'), [
        ('RA,DEC\n05:61:14,1', "below 60: got '05:61:14' in row 0"),
        ('ALPHA_SKY,DELTA_SKY\n1,2', 'is that of a map, which is not known'),
        ('id,pos\n1,"83.8,-5.4"', 'pos has both angles in one text'),
        ('RAJ2000,GLAT\n1,2', 'positions, DECJ2000 and GLON'),
        ('', 'it has no columns'),
    ])
    def test_refused(self, tmp_path, text, match):
        """
        The message names file, column, and value.
        """
        (tmp_path / 'a.csv').write_text(text)
        with pytest.raises(CatalogError, match=match) as info:
            read_source_list(tmp_path / 'a.csv')
        assert 'a.csv' in str(info.value)


class TestLists:
    def test_positions(self):
        """
        Lists in degrees, or angles, become a table.
        """
        for x, y in (([10, 10.5], [-5.0, -5.5]),
                     ([600, 630] * u.arcmin, [-300, -330] * u.arcmin)):
            result = read_source_list(x=x, y=y, frame='galactic')
            assert_array_equal(result['id'], [1, 2])
            assert_allclose(result['sky_centroid'].l.deg, [10, 10.5])
            assert_allclose(result['sky_centroid'].b.deg, [-5, -5.5])
            assert result.colnames == ['id', 'sky_centroid']

    def test_shapes(self):
        """
        One shape for all or one for each; also for a table without any.
        """
        shape = {'fwhm_major': 12, 'fwhm_minor': [8, 20] * u.arcsec,
                 'position_angle': 40 * u.deg}
        for source in ({'x': [10, 10.5], 'y': [-5, -5], 'frame': 'icrs'},
                       {'source': Table(make_columns())}):
            result = read_source_list(**source, **shape)
            assert_array_equal(result['fwhm_major_sky'], [12, 20] * u.arcsec)
            assert_array_equal(result['fwhm_minor_sky'], [8, 12] * u.arcsec)
            assert_array_equal(result['position_angle'], [40, 130] * u.deg)
        circles = read_source_list(x=[1], y=[2], frame='icrs', fwhm_major=5,
                                   fwhm_minor=5)
        assert circles['position_angle'][0] == 0

    @pytest.mark.parametrize(('options', 'match'), [
        ({}, 'a table or the lists x and y are needed: x, y missing'),
        ({'x': [1.0]}, 'are needed: y missing'),
        ({'x': [1.0], 'y': [2.0]}, 'frame is needed with x and y'),
        ({'x': [1.0], 'y': [2.0], 'frame': 'mars'}, "frame must be 'icrs'"),
        ({'x': [1.0], 'y': [2.0, 3.0], 'frame': 'icrs'}, 'the same length'),
        ({'x': [1.0] * u.Jy, 'y': [2.0], 'frame': 'icrs'}, "unit 'Jy' of x"),
        ({'source': Table(make_columns()), 'x': [1.0], 'y': [2.0]},
         'source and x, y exclude each other'),
        ({'source': Table(make_columns(**make_shapes())), 'fwhm_major': 3},
         'has shapes already: leave out fwhm_major'),
        ({'source': Table(make_columns()), 'frame': 'galactic'},
         'frame is galactic but the positions of .* are RA and DEC'),
        ({'source': QTable({'sky_centroid': SkyCoord([1], [2], unit='deg')}),
          'frame': 'fk5'}, 'are in icrs: leave out frame'),
        ({'x': [1, 2], 'y': [2, 3], 'frame': 'icrs',
          'fwhm_major': [1, 2, 3], 'fwhm_minor': 3},
         'of the 2 sources: got 3'),
        ({'x': [1, 2], 'y': [2, 3], 'frame': 'icrs', 'position_angle': 3},
         'must both be given'),
    ], ids=str)
    def test_conflicts(self, options, match):
        """
        Options that exclude each other are refused in one line.
        """
        with pytest.raises(ValueError, match=match) as info:
            read_source_list(**options)
        assert '\n' not in str(info.value)


class TestSourcesToPixels:
    @pytest.mark.parametrize('frame', ['icrs', 'fk5', 'fk4', 'galactic'])
    @pytest.mark.parametrize('map_frame', ['ICRS', 'FK5', 'FK4', 'galactic'])
    def test_frames(self, frame, map_frame):
        """
        Positions and directions of any frame are right on a map of any
        other, by the pixels of points walked to on the sky.
        """
        rotation = 25.0
        sky = SkyCoord([83.84, 83.86], [-5.45, -5.46], unit='deg')
        if map_frame == 'galactic':
            center = SkyCoord(83.85, -5.45, unit='deg').galactic
            wcs = make_wcs(('GLON-TAN', 'GLAT-TAN'), (center.l.deg,
                                                      center.b.deg),
                           rotation=rotation)
        else:
            center = SkyCoord(83.85, -5.45, unit='deg').transform_to(
                map_frame.lower())
            wcs = make_wcs(center=(center.ra.deg, center.dec.deg),
                           rotation=rotation, radesys=map_frame)
        angle = [30.0, 110.0] * u.deg
        start = sky.transform_to(frame)
        tip = start.directional_offset_by(angle, 20 * u.arcsec)
        table = QTable({'id': [4, 2], 'sky_centroid': start,
                        'fwhm_major_sky': [40.0, 40.0] * u.arcsec,
                        'fwhm_minor_sky': [20.0, 10.0] * u.arcsec,
                        'position_angle': angle})
        init = sources_to_pixels(table, wcs)
        assert_array_equal(init['id'], [4, 2])
        x, y = wcs.world_to_pixel(start)
        tip_x, tip_y = wcs.world_to_pixel(tip)
        assert_allclose(init['x_init'], x, atol=1e-6)
        assert_allclose(init['y_init'], y, atol=1e-6)
        expected = np.rad2deg(np.arctan2(tip_y - y, tip_x - x))
        difference = init['theta_init'].to_value(u.deg) - expected
        assert_allclose((difference + 90) % 180 - 90, 0, atol=0.02)
        assert_allclose(init['fwhm_major_init'],
                        2 * np.hypot(tip_x - x, tip_y - y), rtol=1e-3)
        assert_allclose(init['fwhm_minor_init'], [4, 2], rtol=1e-3)

    def test_the_fitter_starts_with_them(self):
        """
        A fit with everything fixed to the list finds the fluxes; sources
        off the map and without a position keep their rows and IDs.
        """
        wcs = make_wcs()
        x, y = np.array([30.0, 50.0]), np.array([35.0, 44.0])
        data = np.random.default_rng(1).normal(scale=1e-3, size=(80, 80))
        add_gaussians(data, x, y, [1.0, 2.0], [6.0, 5.0], [4.0, 4.0],
                      [30.0, 100.0])
        sky = wcs.pixel_to_world([30.0, 50.0, 500.0, 10.0],
                                 [35.0, 44.0, 10.0, 10.0])
        table = Table({'ID': [11, 12, 13, 14], 'RA': sky.ra.deg,
                       'DEC': sky.dec.deg, 'FWHM_1': 5 * np.array(
                           [6.0, 5.0, 5.0, 5.0]), 'FWHM_2': [20.0] * 4,
                       'PA': (np.array([30.0, 100.0, 0.0, 0.0]) - 90) % 180})
        table['RA'][3] = np.nan
        init = sources_to_pixels(read_source_list(table), wcs)
        assert_allclose(init['theta_init'][:2].value, [30, 100], atol=0.01)
        fitter = BlendGroupFitter(4.0, fixed=('position', 'shape'))
        result = fitter(data, init_params=init)
        assert_array_equal(result['id'], [11, 12, 13, 14])
        assert_allclose(result['amplitude_fit'][:2], [1, 2], rtol=0.01)
        assert np.all(np.isnan(result['flux_fit'][2:]))
        assert np.all(result['flags'][2:] != 0)

    def test_positions_alone(self):
        """
        Without shapes there are positions only, numbered without IDs.
        """
        table = QTable({'sky_centroid': SkyCoord([83.85], [-5.45],
                                                 unit='deg')})
        init = sources_to_pixels(table, make_wcs())
        assert init.colnames == ['id', 'x_init', 'y_init']
        assert_allclose(init['x_init'], 39.0)

    def test_other_side_of_the_sky(self):
        """
        What the projection cannot show is NaN and spoils no other row,
        also with distortions.
        """
        header = make_wcs().to_header()
        header.update(CTYPE1='RA---TAN-SIP', CTYPE2='DEC--TAN-SIP',
                      A_ORDER=2, B_ORDER=2, A_2_0=1e-5, B_0_2=1e-5)
        sky = SkyCoord([83.85, 263.0, 120.0, np.nan], [-5.45, 5.0, 20.0, 1.0],
                       unit='deg')
        table = QTable({'id': [1, 2, 3, 4], 'sky_centroid': sky})
        for wcs, n_nan in ((make_wcs(), 2), (WCS(header), 3)):
            init = sources_to_pixels(table, wcs)
            assert_allclose(init['x_init'][0], 39.0, atol=1e-6)
            assert np.count_nonzero(np.isnan(init['x_init'])) == n_nan

    def test_bad_input(self):
        """
        Tables without positions or with half a shape are refused.
        """
        sky = SkyCoord([83.85], [-5.45], unit='deg')
        with pytest.raises(TypeError, match='table must be an astropy Table'):
            sources_to_pixels(None, make_wcs())
        with pytest.raises(TypeError, match=r'wcs must be an astropy\.wcs'):
            sources_to_pixels(QTable({'sky_centroid': sky}), None)
        with pytest.raises(ValueError, match="'sky_centroid': it has id"):
            sources_to_pixels(QTable({'id': [1]}), make_wcs())
        with pytest.raises(ValueError, match='fwhm_minor_sky, position_angle'):
            sources_to_pixels(QTable({'sky_centroid': sky, 'fwhm_major_sky':
                                      [5.0] * u.arcsec}), make_wcs())


@pytest.mark.parametrize('text', ['# Region file format: DS9\nicrs\n'
                                  'circle(10.0, 2.0, 5")\n', 'junk'])
def test_regions_are_no_table(tmp_path, text):
    path = tmp_path / 'sources.reg'
    path.write_text(text)
    with pytest.raises(CatalogError, match='a file of regions, not a table: '
                                           'read it with read_regions'):
        read_source_list(path)
