# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the regions module.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import FK5, SkyCoord
from astropy.table import QTable
from astropy.wcs import WCS
from numpy.testing import assert_allclose
from regions import (
    EllipsePixelRegion,
    EllipseSkyRegion,
    PointPixelRegion,
    PointSkyRegion,
    Regions,
)

from hyperphotutils.catalog import to_regions, write_regions
from hyperphotutils.utils.wcs import pixel_to_sky_ellipse

KINDS = {
    'equatorial': (150.0, 2.0, 'RA---TAN', 'DEC--TAN'),
    'seam': (0.0, -20.0, 'RA---SIN', 'DEC--SIN'),
    'high': (150.0, 85.0, 'RA---TAN', 'DEC--TAN'),
    'galactic': (0.0, 0.0, 'GLON-CAR', 'GLAT-CAR'),
}


def make_wcs(kind, rotation, *, flip):
    lon, lat, *ctype = KINDS[kind]
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ctype
    wcs.wcs.crval = [lon, lat]
    wcs.wcs.crpix = [31, 31]
    wcs.wcs.cdelt = [(1 if flip else -1) / 1800, 1 / 1800]
    cos, sin = np.cos(np.deg2rad(rotation)), np.sin(np.deg2rad(rotation))
    wcs.wcs.pc = [[cos, -sin], [sin, cos]]
    return wcs


def make_table(wcs, theta=(25.0, 100.0, 170.0)):
    """
    Sources in a map, their sky columns from the pixels.
    """
    table = QTable({'id': [4, 7, 9]})
    table['x_fit'] = [30.0, 40.0, 22.0]
    table['y_fit'] = [30.0, 25.0, 38.0]
    table['fwhm_major_fit'] = [6.0, 5.0, 7.0]
    table['fwhm_minor_fit'] = [4.0, 3.0, 4.5]
    table['theta_fit'] = theta * u.deg
    table['sky_centroid'] = wcs.pixel_to_world(table['x_fit'], table['y_fit'])
    (table['fwhm_major_sky'], table['fwhm_minor_sky'],
     table['position_angle']) = pixel_to_sky_ellipse(
         wcs, *(table[name] for name in ('x_fit', 'y_fit', 'fwhm_major_fit',
                                         'fwhm_minor_fit', 'theta_fit')))
    return table


def angle_difference(first, second):
    difference = u.Quantity(first - second).to_value('deg')
    return abs((difference + 90) % 180 - 90)


class TestAngles:
    @pytest.mark.parametrize('kind', list(KINDS))
    @pytest.mark.parametrize('rotation', [0, 30, 90])
    @pytest.mark.parametrize('flip', [False, True])
    def test_file_equals_pixel_ellipse(self, tmp_path, kind, rotation, flip):
        """
        The sky file read back is the pixel ellipse in every kind of map.
        """
        wcs = make_wcs(kind, rotation, flip=flip)
        table = make_table(wcs)
        write_regions(table, tmp_path / 'a.reg')
        regions = Regions.read(tmp_path / 'a.reg', format='ds9')
        assert len(regions) == 3
        for row, region in zip(table, regions, strict=True):
            pixel = region.to_pixel(wcs)
            assert angle_difference(pixel.angle, row['theta_fit']) < 0.1
            assert_allclose([pixel.width, pixel.height],
                            [row['fwhm_major_fit'], row['fwhm_minor_fit']],
                            rtol=1e-3)
            assert_allclose(pixel.center.xy, (row['x_fit'], row['y_fit']),
                            atol=1e-4)

    @pytest.mark.parametrize('kind', list(KINDS))
    def test_known_position_angle(self, kind):
        """
        A source elongated towards PA 40 has its region's width there.
        """
        wcs = make_wcs(kind, 30, flip=False)
        center = wcs.pixel_to_world(30, 30)
        tip = center.directional_offset_by(40 * u.deg, 10 * u.arcsec)
        step = np.subtract(wcs.world_to_pixel(tip), 30)
        theta = np.rad2deg(np.arctan2(step[1], step[0]))
        table = make_table(wcs, theta=(theta, 0.0, 0.0))
        region = to_regions(table)[0]
        assert angle_difference(table['position_angle'][0], 40 * u.deg) < 0.01
        assert angle_difference(region.angle, 130 * u.deg) < 0.01

    @pytest.mark.parametrize('frame', ['barycentrictrueecliptic',
                                       FK5(equinox='J1975')], ids=str)
    def test_other_frames_become_icrs(self, tmp_path, frame):
        """
        A frame that viewers do not know is turned, with its angles.
        """
        wcs = make_wcs('equatorial', 0, flip=False)
        table = make_table(wcs)
        expected = to_regions(table)
        turned = table.copy()
        turned['sky_centroid'] = table['sky_centroid'].transform_to(frame)
        for i, center in enumerate(table['sky_centroid']):
            tip = center.directional_offset_by(table['position_angle'][i],
                                               1 * u.arcsec)
            turned['position_angle'][i] = turned[
                'sky_centroid'][i].position_angle(tip.transform_to(frame))
        write_regions(turned, tmp_path / 'a.reg')
        regions = Regions.read(tmp_path / 'a.reg', format='ds9')
        for region, other in zip(regions, expected, strict=True):
            assert region.center.frame.name == 'icrs'
            assert region.center.separation(other.center) < 1 * u.mas
            assert angle_difference(region.angle, other.angle) < 0.01


class TestToRegions:
    table = make_table(make_wcs('equatorial', 0, flip=False))

    def test_pixel_ellipses(self, tmp_path):
        """
        Pixel ellipses are the pixel columns, in the file, too.
        """
        write_regions(self.table, tmp_path / 'a.reg', frame='pixel')
        read = Regions.read(tmp_path / 'a.reg', format='ds9')
        for regions in (to_regions(self.table, frame='pixel'), read):
            for row, region in zip(self.table, regions, strict=True):
                assert isinstance(region, EllipsePixelRegion)
                assert_allclose(region.center.xy, (row['x_fit'],
                                                   row['y_fit']))
                assert_allclose(region.width, row['fwhm_major_fit'])
                assert_allclose(region.height, row['fwhm_minor_fit'])
                assert_allclose(region.angle, row['theta_fit'])

    @pytest.mark.parametrize('frame', ['sky', 'pixel'])
    def test_ratio_scales_both_axes(self, frame):
        """
        The semi-axes are the ratio times the FWHMs.
        """
        small = to_regions(self.table, frame=frame)[0]
        large = to_regions(self.table, frame=frame, fwhm_radius_ratio=1.2)[0]
        assert_allclose(large.width / small.width, 2.4)
        assert_allclose(large.height / small.height, 2.4)

    @pytest.mark.parametrize(('frame', 'kind'), [('sky', PointSkyRegion),
                                                 ('pixel', PointPixelRegion)])
    def test_points(self, tmp_path, frame, kind):
        """
        Points need positions only and keep them in the file.
        """
        name = {'sky': ['sky_centroid'], 'pixel': ['x_fit', 'y_fit']}[frame]
        table = self.table[['id', *name]]
        write_regions(table, tmp_path / 'a.reg', frame=frame, shape='point')
        regions = Regions.read(tmp_path / 'a.reg', format='ds9')
        assert all(isinstance(region, kind) for region in regions)
        center = regions[2].center
        if frame == 'sky':
            assert (center.separation(table['sky_centroid'][2])
                    < 1e-5 * u.arcsec)
        else:
            assert_allclose(center.xy, (22.0, 38.0))

    @pytest.mark.parametrize('frame', ['sky', 'pixel'])
    @pytest.mark.parametrize('shape', ['ellipse', 'point'])
    def test_labels(self, tmp_path, frame, shape):
        """
        The text of a region is the id of its source.
        """
        write_regions(self.table, tmp_path / 'a.reg', frame=frame,
                      shape=shape)
        regions = Regions.read(tmp_path / 'a.reg', format='ds9')
        assert [str(region.meta['text']) for region in regions] == [
            '4', '7', '9']

    @pytest.mark.parametrize('frame', ['icrs', 'galactic', 'fk5', 'fk4',
                                       'geocentrictrueecliptic', 'pixel'])
    @pytest.mark.parametrize('shape', ['ellipse', 'point'])
    def test_file_has_the_regions(self, tmp_path, frame, shape):
        """
        The regions of a file are those of to_regions.
        """
        table = self.table.copy()
        if frame != 'pixel':
            table['sky_centroid'] = table['sky_centroid'].transform_to(frame)
        options = {'frame': 'pixel' if frame == 'pixel' else 'sky',
                   'shape': shape, 'fwhm_radius_ratio': 0.7}
        write_regions(table, tmp_path / 'a.reg', **options)
        found = Regions.read(tmp_path / 'a.reg', format='ds9')
        for region, expected in zip(found, to_regions(table, **options),
                                    strict=True):
            assert type(region) is type(expected)
            assert str(region.meta['text']) == expected.meta['text']
            if frame == 'pixel':
                assert_allclose(region.center.xy, expected.center.xy,
                                atol=1e-9, rtol=0)
            else:
                assert region.center.frame.is_equivalent_frame(
                    expected.center.frame)
                assert (region.center.separation(expected.center)
                        < 1e-9 * u.deg)
            if shape == 'ellipse':
                for name in ('width', 'height', 'angle'):
                    ratio = getattr(region, name) / getattr(expected, name)
                    assert_allclose(ratio, 1.0, rtol=1e-9)

    def test_odd_names(self, tmp_path):
        """
        Quotes, braces, and line breaks of an ID stay in its text.
        """
        table = self.table.copy()
        table['id'] = ['a}b{', 'a"b\'c', 'a\ncircle(1,1,5)']
        for frame in ('sky', 'pixel'):
            write_regions(table, tmp_path / 'a.reg', frame=frame,
                          overwrite=True)
            regions = Regions.read(tmp_path / 'a.reg', format='ds9')
            assert [region.meta['text'] for region in regions] == [
                'a}b{', 'a"b\'c', 'a circle(1,1,5)']

    def test_small_sources_keep_their_digits(self, tmp_path):
        """
        Sizes of milli-arcseconds survive the file.
        """
        table = self.table.copy()
        table['fwhm_major_sky'] = [3, 2, 1] * u.mas
        table['fwhm_minor_sky'] = [2, 1, 0.5] * u.mas
        write_regions(table, tmp_path / 'a.reg')
        regions = Regions.read(tmp_path / 'a.reg', format='ds9')
        for row, region in zip(table, regions, strict=True):
            assert isinstance(region, EllipseSkyRegion)
            assert_allclose(region.width.to_value('mas'),
                            row['fwhm_major_sky'].to_value('mas'), rtol=1e-3)

    def test_failed_fits_are_left_out(self):
        """
        A row with NaN has no region.
        """
        table = self.table.copy()
        table['x_fit'][1] = np.nan
        table['fwhm_minor_sky'][0] = np.nan
        regions = to_regions(table, frame='pixel')
        assert [region.meta['text'] for region in regions] == ['4', '9']
        assert len(to_regions(table)) == 2
        table['sky_centroid'] = SkyCoord(np.full(3, np.nan),
                                         np.full(3, np.nan), unit='deg')
        assert len(to_regions(table, shape='point')) == 0

    def test_no_sources(self, tmp_path):
        """
        No sources give a valid file without regions.
        """
        write_regions(self.table[:0], tmp_path / 'a.reg')
        assert len(Regions.read(tmp_path / 'a.reg', format='ds9')) == 0

    def test_existing_file(self, tmp_path):
        """
        An existing file is kept without overwrite, replaced with it.
        """
        path = tmp_path / 'a.reg'
        path.write_text('old')
        with pytest.raises(FileExistsError, match='exists already'):
            write_regions(self.table, path)
        assert path.read_text() == 'old'
        write_regions(self.table, path, overwrite=True)
        assert path.read_text() != 'old'
        with pytest.raises(OSError, match='cannot be written'):
            write_regions(self.table, path / 'b.reg')
        assert list(tmp_path.iterdir()) == [path]

    def test_bad_arguments(self):
        """
        Unknown frames and shapes and missing columns are refused.
        """
        with pytest.raises(ValueError, match="got 'world' and 'ellipse'"):
            to_regions(self.table, frame='world')
        with pytest.raises(ValueError, match="got 'sky' and 'box'"):
            to_regions(self.table, shape='box')
        with pytest.raises(ValueError, match='must be positive: got 0'):
            to_regions(self.table, fwhm_radius_ratio=0)
        table = self.table[['id', 'x_fit', 'y_fit']]
        with pytest.raises(ValueError, match="without a WCS use frame='pix"):
            to_regions(table)

    def test_none(self, tmp_path):
        """
        The None of a map without sources is refused as such.
        """
        for make in (to_regions, lambda table: write_regions(
                table, tmp_path / 'a.reg')):
            with pytest.raises(TypeError, match=r'got NoneType \(no sources'):
                make(None)
        with pytest.raises(TypeError, match='Table: got list'):
            to_regions([1])
        assert not list(tmp_path.iterdir())
