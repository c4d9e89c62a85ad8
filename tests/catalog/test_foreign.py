# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of files of other programs: their frames and angles, and the messages
about those that cannot be used.
"""

import astropy.units as u
import pytest
from astropy.coordinates import (
    AltAz,
    BaseCoordinateFrame,
    SkyCoord,
    SphericalRepresentation,
)
from astropy.io import fits
from astropy.io.votable import from_table
from astropy.io.votable.tree import CooSys
from astropy.table import Column, QTable, Table
from numpy.testing import assert_allclose
from regions import CircleSkyRegion, Regions

from hyperphotutils.catalog import (
    CatalogError,
    match_catalogs,
    read_catalog,
    read_regions,
    read_source_list,
    write_regions,
)
from hyperphotutils.catalog.angles import read_angles
from hyperphotutils.catalog.foreign import describe_error
from hyperphotutils.catalog.separated import read_separated
from hyperphotutils.catalog.votables import check_votable

PLACE = SkyCoord(83.8, -5.4, unit='deg')


def angles(frame, names=('RA', 'DEC')):
    """
    The columns of a place in a frame.
    """
    sky = PLACE.transform_to(frame)
    return {names[0]: [sky.spherical.lon.deg],
            names[1]: [sky.spherical.lat.deg]}


class TestFrames:
    """
    A table states the frame of its RA and DEC.
    """

    @pytest.mark.parametrize(('meta', 'frame'), [
        ({'RADESYS': 'FK4', 'EQUINOX': 1950.0}, 'fk4'),
        ({'EQUINOX': 1950.0}, 'fk4'),
        ({'EQUINOX': 'J2000.0'}, 'fk5'),
        ({'RADESYS': 'ICRS'}, 'icrs'),
        ({'keywords': {'EQUINOX': {'value': '1950.0'}}}, 'fk4'),
        ({'keywords': {'RADECSYS': 'FK5'}}, 'fk5'),
        ({}, 'icrs')])
    def test_in_the_header(self, meta, frame):
        table = read_source_list(Table(angles(frame), meta=meta))
        sky = table['sky_centroid']
        assert sky.frame.name == frame
        assert sky.icrs.separation(PLACE)[0] < 0.2 * u.arcsec

    def test_in_the_description_of_a_column(self):
        table = Table(angles('fk4'))
        table['RA'].description = 'Right ascension (FK4, Equinox=B1950.0)'
        assert read_source_list(table)['sky_centroid'].frame.name == 'fk4'

    def test_in_the_system_of_a_votable(self, tmp_path):
        votable = from_table(Table(angles('fk4')))
        votable.resources[0].coordinate_systems.append(
            CooSys(ID='system', system='eq_FK4', equinox='B1950'))
        for field in votable.resources[0].tables[0].fields:
            field.ref = 'system'
        votable.to_xml(str(tmp_path / 'a.vot'))
        table = read_source_list(tmp_path / 'a.vot')
        assert table['sky_centroid'].frame.name == 'fk4'

    def test_against_the_names(self):
        table = Table(angles('fk4', ('RAB1950', 'DEB1950')))
        table['RAB1950'].description = 'Right ascension (FK5, J2000)'
        with pytest.raises(CatalogError, match='are fk4 by their names, fk5 '
                           'by the description in the file: rename them'):
            read_source_list(table)
        table['RAB1950'].description = 'galactic'
        with pytest.raises(CatalogError, match='by their names, galactic'):
            read_source_list(table)

    def test_against_the_argument(self):
        table = Table(angles('fk4', ('RAB1950', 'DEB1950')))
        with pytest.raises(CatalogError, match=r'frame is galactic but '
                           r'RAB1950 and DEB1950 of .* are in fk4: leave'):
            read_source_list(table, frame='galactic')

    def test_against_other_columns(self):
        """
        B1950 without a statement would be 20 arcmin away as ICRS.
        """
        columns = angles('fk4') | angles('galactic', ('GLON', 'GLAT'))
        with pytest.raises(CatalogError, match=r'RA, DEC in icrs and GLON, '
                           r'GLAT are .* apart in row 0: give the right'):
            read_source_list(Table(columns))
        # neither rounded texts nor angles out of range are compared
        for other in ({'GLON': ['209'], 'GLAT': ['-19']},
                      {'GLON': [209.0], 'GLAT': [-119.0]}):
            table = read_source_list(Table(angles('icrs') | other))
            assert table['sky_centroid'].frame.name == 'icrs'

    def test_of_the_position_angles(self, tmp_path):
        """
        The comments of a catalog of ours state both frames.
        """
        path = tmp_path / 'a.csv'
        sky = PLACE.icrs
        path.write_text('# RA, DEC in ICRS; PA East of North in GALACTIC\n'
                        'ID,RA,DEC,FWHM_1,FWHM_2,PA\n'
                        f'1,{sky.ra.deg},{sky.dec.deg},12,8,0\n')
        table = read_source_list(path)
        # the direction to the Galactic pole, east of North
        north = PLACE.position_angle(
            SkyCoord(0, 90, unit='deg', frame='galactic').icrs)
        assert table['sky_centroid'].frame.name == 'icrs'
        assert_allclose(table['position_angle'][0].to_value('deg'),
                        north.deg % 180.0, atol=1e-6)


class TestAngles:
    @pytest.mark.parametrize(('column', 'match'), [
        (Column(['05:35:14.5'], unit='deg'), "RA has the unit 'deg' and the "
         "text '05:35:14.5' in row 0: state the unit 'h:m:s'"),
        (Column([5.5], unit='"h:m:s"'), "must be texts such as '05:35:14.5': "
         'got numbers; if these are degrees')])
    def test_units_against_values(self, column, match):
        with pytest.raises(CatalogError, match=match):
            read_source_list(Table({'RA': column, 'DEC': [-5.4]}))

    def test_sexagesimal_sizes(self):
        columns = angles('icrs') | {'FWHM_2': [8.0], 'PA': [0.0]}
        columns['FWHM_1'] = Column([12.0], unit='d:m:s')
        with pytest.raises(CatalogError, match='FWHM_1 must be numbers, not '
                           "in 'deg'"):
            read_source_list(Table(columns))

    def test_coordinates_as_an_angle(self):
        with pytest.raises(CatalogError, match='the table: RA must be a '
                           'column of numbers: got SkyCoord'):
            read_angles(PLACE.reshape(1), u.deg, 'RA', 'the table')

    def test_numbers_without_dimension_are_degrees(self):
        table = Table(angles('icrs'))
        table['RA'].unit = u.dimensionless_unscaled
        assert_allclose(
            read_source_list(table)['sky_centroid'].ra.deg, 83.8)


def test_long_names_of_columns_are_cut():
    table = Table({f'column_{number}': [1] for number in range(100)})
    with pytest.raises(CatalogError, match=r'\.\.\. \(100 columns\)$'):
        read_source_list(table)


def test_several_columns_of_positions():
    sky = PLACE.reshape(1)
    with pytest.raises(CatalogError, match='several columns of positions: a, '
                       'b; name the one to use sky_centroid'):
        read_source_list(QTable({'a': sky, 'b': sky}))


class TestRegions:
    def test_of_a_fits_file(self, tmp_path):
        pixel = Regions.parse('image\ncircle(11, 21, 5)', format='ds9')
        pixel.write(tmp_path / 'a.fits', format='fits')
        region, = read_regions(tmp_path / 'a.fits')
        assert (region.center.x, region.center.y, region.radius) == (
            10.0, 20.0, 5.0)

    def test_of_a_crtf_file(self, tmp_path):
        circle = CircleSkyRegion(PLACE, 5.0 * u.arcsec)
        (tmp_path / 'a.txt').write_text(
            Regions([circle]).serialize(format='crtf'))
        region, = read_regions(tmp_path / 'a.txt')
        assert region.center.separation(PLACE) < 0.01 * u.arcsec

    def test_label_with_all_quotes(self, tmp_path):
        table = QTable({'id': ['a}b"c\'d'], 'x_fit': [1.0], 'y_fit': [2.0]})
        write_regions(table, tmp_path / 'a.reg', frame='pixel',
                      shape='point')
        region, = read_regions(tmp_path / 'a.reg')
        assert region.meta['text'] == 'a)b"c\'d'

    @pytest.mark.parametrize(('column', 'frame', 'match'), [
        ({'sky_centroid': ['a']}, 'sky', 'sky_centroid must be a SkyCoord: '
         'got'),
        ({'x_fit': ['a'], 'y_fit': [1.0]}, 'pixel', 'x_fit must be a column '
         'of numbers: got')])
    def test_columns_of_another_kind(self, tmp_path, column, frame, match):
        with pytest.raises(CatalogError, match=match):
            write_regions(QTable({'id': [1]} | column), tmp_path / 'a.reg',
                          frame=frame, shape='point')


BEAMS = {'a': 10.0 * u.arcsec, 'b': 20.0 * u.arcsec}


class Detector(BaseCoordinateFrame):
    """
    A frame whose place on the sky is not known.
    """

    default_representation = SphericalRepresentation


class TestMatching:
    def test_angles_are_in_the_common_frame(self):
        sky = PLACE.reshape(1)
        tables = {'a': QTable({'sky_centroid': sky,
                               'position_angle': [10.0] * u.deg}),
                  'b': QTable({'sky_centroid': sky.galactic,
                               'position_angle': [0.0] * u.deg})}
        table = match_catalogs(tables, beams=BEAMS,
                               columns=['position_angle'])
        north = PLACE.position_angle(
            SkyCoord(0, 90, unit='deg', frame='galactic').icrs)
        assert_allclose(table['position_angle_a'].value, 10.0)
        assert_allclose(table['position_angle_b'].value, north.deg % 180.0,
                        atol=1e-6)

    @pytest.mark.parametrize('frame', [Detector, AltAz])
    def test_frames_without_a_transformation(self, frame):
        """
        Unknown ones, and those whose place and time are not known.
        """
        tables = {'a': QTable({'sky_centroid': PLACE.reshape(1)}),
                  'b': QTable({'sky_centroid': SkyCoord(frame(
                      [10.0] * u.deg, [20.0] * u.deg))})}
        with pytest.raises(CatalogError, match=f"of band 'b' in {frame.name} "
                           'cannot be transformed to icrs of the first'):
            match_catalogs(tables, beams=BEAMS)

    def test_positions_of_several_dimensions(self):
        tables = {'a': QTable({'sky_centroid': PLACE.reshape(1, 1)})}
        with pytest.raises(CatalogError, match=r'one position per row: got '
                           r'the shape \(1, 1\)'):
            match_catalogs(tables, beams=BEAMS)


class TestFiles:
    def test_only_the_first_of_several_tables(self, tmp_path):
        path = tmp_path / 'a.fits'
        fits.HDUList([fits.PrimaryHDU(), *(
            fits.BinTableHDU.from_columns([fits.Column(name, 'D', array=[1.])])
            for name in 'ab')]).writeto(path)
        with pytest.warns(UserWarning, match='has 2 tables: only the first'):
            assert read_catalog(path).colnames == ['a']

    def test_vizier(self):
        lines = ['#Column\tRAJ2000\t(F8.4)\tRight ascension [ucd=pos]',
                 'RAJ2000\tDEJ2000', 'deg\tdeg', '-------\t-------',
                 '83.8\t-5.4']
        table = read_separated(lines)
        assert table['RAJ2000'].description == 'Right ascension'
        with pytest.raises(CatalogError, match='it holds 2 tables: keep one'):
            read_separated([*lines, *lines[1:]])

    def test_nesting_is_limited(self):
        content = b'<a>' * 200 + b'</a>' * 200
        with pytest.raises(CatalogError, match='nested too deeply'):
            check_votable(content)

    @pytest.mark.parametrize(('error', 'text'), [
        (RecursionError('x'), 'it is nested too deeply'),
        (MemoryError(), 'it states a size that does not fit into memory'),
        (KeyError('NAXIS'), "'NAXIS' is missing"),
        (ValueError(), 'ValueError'), (ValueError('x' * 400), 'x' * 297 +
                                       '...')])
    def test_errors_of_other_packages(self, error, text):
        assert describe_error(error) == text
