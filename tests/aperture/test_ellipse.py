# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the ellipse module.
"""

import pickle

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import QTable
from astropy.wcs import WCS
from numpy.testing import assert_allclose
from photutils.aperture import (
    ApertureStats,
    EllipticalAperture,
    SkyEllipticalAperture,
    aperture_photometry,
    aperture_to_region,
    region_to_aperture,
)

from hyperphotutils.aperture import (
    GaussianEllipseAperture,
    SkyGaussianEllipseAperture,
)

POSITIONS = [(20.3, 30.2), (40.0, 25.5), (10.1, 12.7)]


def make_wcs(lon=150.0, lat=2.0, *, kind=('RA---TAN', 'DEC--TAN'), rotation=0,
             flip=False, scale=2.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = kind
    wcs.wcs.crval = [lon, lat]
    wcs.wcs.crpix = [31, 31]
    wcs.wcs.cdelt = [scale / 3600 * (1 if flip else -1), scale / 3600]
    angle = np.deg2rad(rotation)
    wcs.wcs.pc = [[np.cos(angle), -np.sin(angle)],
                  [np.sin(angle), np.cos(angle)]]
    return wcs


def make_aperture(positions=POSITIONS, **kwargs):
    kwargs = {'theta': 25 * u.deg, 'fwhm_radius_ratio': 0.8} | kwargs
    return GaussianEllipseAperture(positions, 5.0, 3.5, **kwargs)


def make_sky_aperture(positions=None, **kwargs):
    if positions is None:
        positions = SkyCoord([150.0, 150.001], [2.0, 2.001], unit='deg')
    kwargs = {'theta': 25 * u.deg, 'fwhm_radius_ratio': 0.8} | kwargs
    return SkyGaussianEllipseAperture(positions, 9 * u.arcsec, 6 * u.arcsec,
                                      **kwargs)


class TestGaussianEllipseAperture:
    def test_axes_from_fwhm(self):
        """
        The semi-axes are the ratio times the FWHMs.
        """
        aperture = make_aperture()
        assert_allclose([aperture.a, aperture.b], [4.0, 2.8])
        assert_allclose(aperture.area, np.pi * 4.0 * 2.8)
        aperture.fwhm_major = 10.0
        assert_allclose(aperture.area, np.pi * 8.0 * 2.8)

    def test_theta_is_positional(self):
        """
        theta may follow the axes, as up to photutils 3 in the base class,
        and its attributes can be set.
        """
        aperture = GaussianEllipseAperture(POSITIONS, 4.0, 2.8, 0.3)
        plain = EllipticalAperture(POSITIONS, 4.0, 2.8, theta=0.3)
        assert aperture.theta == plain.theta
        assert_allclose([aperture.a, aperture.b], [plain.a, plain.b])
        for name, value in (('a', 5.0), ('b', 3.0), ('theta', 0.7),
                            ('positions', (30.0, 20.0))):
            for item in (aperture, plain):
                setattr(item, name, value)
        data = np.random.default_rng(0).normal(size=(60, 60))
        assert_allclose(aperture.area, plain.area)
        assert_allclose(aperture.do_photometry(data)[0],
                        plain.do_photometry(data)[0], rtol=1e-13)
        position = SkyCoord(150.0, 2.0, unit='deg')
        sky = SkyGaussianEllipseAperture(position, 9 * u.arcsec,
                                         6 * u.arcsec, 0.3 * u.rad)
        assert sky.theta == 0.3 * u.rad

    @pytest.mark.parametrize(('make', 'value'), [
        (make_aperture, 6.0), (make_sky_aperture, 12.0 * u.arcsec)])
    def test_set_axes(self, make, value):
        """
        Setting a semi-axis sets the FWHM; limits and signs are checked.
        """
        aperture = make()
        aperture.a = value
        aperture.b = 0.5 * value
        assert_allclose([aperture.a / value, aperture.b / value], [1, 0.5])
        assert_allclose(aperture.fwhm_major / value, 1.0 / 0.8)
        with pytest.raises(ValueError, match=r'fwhm_minor. must be'):
            aperture.b = -value
        aperture = make(fwhm_limits=(0.5 * value, 1.5 * value))
        with pytest.raises(ValueError, match='which is outside of fwhm_lim'):
            aperture.a = 2.0 * value
        assert_allclose(aperture.copy().fwhm_major / aperture.fwhm_major, 1)

    def test_enclosed_fraction(self):
        """
        The stated fraction is the aperture sum of a well-sampled Gaussian.
        """
        aperture = GaussianEllipseAperture((100, 100), 50, 40, theta=0.3,
                                           fwhm_radius_ratio=0.8)
        y, x = np.indices((201, 201)) - 100
        major = x * np.cos(0.3) + y * np.sin(0.3)
        minor = y * np.cos(0.3) - x * np.sin(0.3)
        data = np.exp(-4 * np.log(2) * ((major / 50)**2 + (minor / 40)**2))
        total = np.pi / (4 * np.log(2)) * 50 * 40
        sums, _ = aperture.do_photometry(data)
        assert_allclose(sums[0] / total, aperture.enclosed_fraction,
                        rtol=1e-3)

    def test_photutils_protocol(self):
        """
        Copy, indexing, iteration, comparison, repr and pickle all work.
        """
        aperture = make_aperture()
        assert aperture.copy() == aperture
        assert aperture.copy() is not aperture
        assert pickle.loads(pickle.dumps(aperture)) == aperture
        assert make_aperture(fwhm_radius_ratio=1) != aperture
        plain = EllipticalAperture(POSITIONS, 4.0, 2.8, theta=25 * u.deg)
        assert plain != aperture
        assert aperture[1] == make_aperture(POSITIONS[1])
        assert len(aperture[:2]) == 2
        assert [single.b for single in aperture] == [aperture.b] * 3
        assert 'fwhm_major=5.0' in repr(aperture)
        assert 'fwhm_radius_ratio: 0.8' in str(aperture)
        assert isinstance(aperture, EllipticalAperture)

    def test_photutils_tools(self):
        """
        photutils' tools give what they give for the plain ellipse.
        """
        rng = np.random.default_rng(0)
        data = rng.normal(size=(60, 60))
        aperture = make_aperture()
        plain = EllipticalAperture(POSITIONS, 4.0, 2.8, theta=25 * u.deg)
        table = aperture_photometry(data, aperture)
        expected = aperture_photometry(data, plain)
        assert_allclose(table['aperture_sum'], expected['aperture_sum'],
                        rtol=1e-13)
        assert table.meta['aperture'] == 'GaussianEllipseAperture'
        assert_allclose(ApertureStats(data, aperture).std,
                        ApertureStats(data, plain).std)
        aperture.plot()

    def test_region(self):
        """
        The region of the aperture is that of the plain ellipse.
        """
        region = aperture_to_region(make_aperture(POSITIONS[0]))
        plain = region_to_aperture(region)
        assert_allclose([plain.a, plain.b], [4.0, 2.8])
        assert plain.theta == 25 * u.deg

    def test_from_table(self):
        """
        A table of fitted sources gives one aperture per row.
        """
        table = QTable({'x_fit': [3.0, 8.0], 'y_fit': [4.0, 9.0],
                        'fwhm_major_fit': [5.0, 6.0],
                        'fwhm_minor_fit': [4.0, 3.0],
                        'theta_fit': [10.0, 170.0] * u.deg})
        apertures = GaussianEllipseAperture.from_table(
            table, fwhm_radius_ratio=0.5)
        assert apertures[1] == GaussianEllipseAperture(
            (8.0, 9.0), 6.0, 3.0, theta=170 * u.deg, fwhm_radius_ratio=0.5)
        assert len(apertures) == 2
        table['theta_fit'] = [10.0, 170.0]
        assert (GaussianEllipseAperture.from_table(table)[0].theta
                == 10 * u.deg)

    def test_clipped_widths(self):
        """
        With limits the semi-axes are the ratio times the clipped FWHMs,
        and the fraction is the sum of the Gaussian there.
        """
        aperture = GaussianEllipseAperture((100, 100), 50, 30, theta=0.3,
                                           fwhm_radius_ratio=0.8,
                                           fwhm_limits=(35, 45))
        assert_allclose([aperture.a, aperture.b], [36, 28])
        assert_allclose(aperture.area, np.pi * 36 * 28)
        y, x = np.indices((201, 201)) - 100
        major = x * np.cos(0.3) + y * np.sin(0.3)
        minor = y * np.cos(0.3) - x * np.sin(0.3)
        data = np.exp(-4 * np.log(2) * ((major / 50)**2 + (minor / 30)**2))
        total = np.pi / (4 * np.log(2)) * 50 * 30
        sums, _ = aperture.do_photometry(data)
        assert_allclose(sums[0] / total, aperture.enclosed_fraction,
                        rtol=1e-3)
        aperture.fwhm_limits = (35, np.inf)
        assert_allclose(aperture.area, np.pi * 40 * 28)
        aperture.fwhm_limits = None
        assert_allclose(aperture.area, np.pi * 40 * 24)

    def test_limits_in_the_photutils_protocol(self):
        """
        The limits survive copies, indexing and pickle, and are compared.
        """
        aperture = make_aperture(fwhm_limits=(4, 4.5))
        for same in (aperture.copy(), pickle.loads(pickle.dumps(aperture))):
            assert same == aperture
            assert same.fwhm_limits == (4.0, 4.5)
        assert aperture[1].a == 0.8 * 4.5
        assert aperture != make_aperture()
        assert aperture != make_aperture(fwhm_limits=(4, 4.6))
        assert 'fwhm_limits=(4.0, 4.5)' in repr(aperture)
        table = aperture_photometry(np.ones((60, 60)), aperture)
        assert_allclose(table['aperture_sum'], np.pi * 3.6 * 3.2)

    def test_from_table_with_limits(self):
        """
        The limits of a table's apertures may differ from row to row.
        """
        table = QTable({'x_fit': [3.0, 8.0], 'y_fit': [4.0, 9.0],
                        'fwhm_major_fit': [5.0, 6.0],
                        'fwhm_minor_fit': [4.0, 3.0],
                        'theta_fit': [10.0, 170.0] * u.deg})
        apertures = GaussianEllipseAperture.from_table(
            table, fwhm_limits=(3.5, [4.5, 5.5]))
        assert [(aperture.a, aperture.b) for aperture in apertures] == [
            (4.5, 4.0), (5.5, 3.5)]
        with pytest.raises(ValueError, match='one entry per row, 2: got'):
            GaussianEllipseAperture.from_table(table, fwhm_limits=(
                3.5, [4.5, 5.5, 6.5]))

    @pytest.mark.parametrize(('limits', 'error', 'match'), [
        ((5, 4), ValueError, 'the smallest first'),
        (4, ValueError, 'must be two values'),
        (([1, 2], 4), ValueError, 'two scalars for one aperture'),
        ([3, 4] * u.arcsec, TypeError, 'numbers without a unit')], ids=str)
    def test_bad_limits_raise(self, limits, error, match):
        """
        Limits that are none are refused by name.
        """
        with pytest.raises(error, match=match):
            make_aperture(fwhm_limits=limits)

    def test_from_table_bad_raises(self):
        """
        A failed fit or a missing column is named.
        """
        table = QTable({'x_fit': [3.0, np.nan], 'y_fit': [4.0, 9.0],
                        'fwhm_major_fit': [5.0, 6.0],
                        'fwhm_minor_fit': [4.0, 3.0],
                        'theta_fit': [10.0, 170.0] * u.deg})
        with pytest.raises(ValueError, match=r'NaN in 1 rows .* row 1; drop '
                           r"them with table\[np.isfinite\(table\['x_fit'\]"):
            GaussianEllipseAperture.from_table(table)
        good = table[np.isfinite(table['x_fit'])]
        assert len(GaussianEllipseAperture.from_table(good)) == 1
        with pytest.raises(ValueError, match=r"\['theta_fit'\] are missing"):
            GaussianEllipseAperture.from_table(table[['x_fit', 'y_fit',
                                                      'fwhm_major_fit',
                                                      'fwhm_minor_fit']])

    @pytest.mark.parametrize('name', ['fwhm_major', 'fwhm_minor',
                                      'fwhm_radius_ratio'])
    def test_bad_size_raises(self, name):
        """
        Sizes that are not positive are refused by name.
        """
        kwargs = {'fwhm_major': 5, 'fwhm_minor': 4, name: -1}
        with pytest.raises(ValueError, match=f"'{name}' must be a positive"):
            GaussianEllipseAperture((3, 4), **kwargs)


class TestSkyConversion:
    @pytest.mark.parametrize('wcs', [
        make_wcs(),
        make_wcs(rotation=30, flip=True),
        make_wcs(lat=85, rotation=90),
        make_wcs(lon=0.0, lat=0.1, kind=('GLON-CAR', 'GLAT-CAR')),
        make_wcs(lon=0.0, lat=-20.0, kind=('RA---SIN', 'DEC--SIN')),
    ], ids=['plain', 'rotated-flipped', 'high', 'galactic-seam', 'ra-seam'])
    def test_round_trip(self, wcs):
        """
        To the sky and back gives the aperture, also at longitude 0.
        """
        aperture = make_aperture([(30.0, 30.0), (20.0, 25.0)])
        sky = aperture.to_sky(wcs)
        assert isinstance(sky, SkyGaussianEllipseAperture)
        assert sky.fwhm_radius_ratio == 0.8
        assert_allclose(sky.fwhm_major.to_value('arcsec'), 10.0, rtol=1e-3)
        back = sky.to_pixel(wcs)
        assert_allclose(back.positions, aperture.positions, atol=1e-6)
        assert_allclose([back.a, back.b], [aperture.a, aperture.b], rtol=1e-6)
        assert_allclose(back.theta.to_value('deg'), 25.0, atol=1e-4)

    @pytest.mark.parametrize('rotation', [0, 30, 90])
    @pytest.mark.parametrize('flip', [False, True])
    def test_equals_spherical_trigonometry(self, rotation, flip):
        """
        The position angle is that of two points on the major axis.
        """
        wcs = make_wcs(rotation=rotation, flip=flip)
        aperture = make_aperture()
        sky = aperture.to_sky(wcs)
        step = np.array([np.cos(np.deg2rad(25)), np.sin(np.deg2rad(25))])
        start, end = (wcs.pixel_to_world(*(aperture.positions[0] + offset))
                      for offset in (-step, step))
        angle = start.position_angle(end).to_value('deg')
        difference = (sky.theta.to_value('deg') - angle + 90) % 180 - 90
        assert_allclose(difference, 0, atol=1e-3)
        assert_allclose(sky.fwhm_major.to_value('arcsec'),
                        2.5 * start.separation(end).to_value('arcsec'),
                        rtol=1e-5)
        assert np.all(sky.positions.separation(
            wcs.pixel_to_world(*np.transpose(POSITIONS)))
            < 1e-6 * u.arcsec)

    def test_limits_round_trip(self):
        """
        The limits become angles and pixels again, with the axes.
        """
        wcs = make_wcs(rotation=30)
        aperture = make_aperture(POSITIONS[0], fwhm_limits=(4, 4.5))
        sky = aperture.to_sky(wcs)
        assert_allclose(u.Quantity([sky.a, sky.b]).to_value('arcsec'),
                        [7.2, 6.4], rtol=1e-4)
        assert_allclose(sky.enclosed_fraction, aperture.enclosed_fraction,
                        rtol=1e-6)
        assert sky.copy() == sky
        back = sky.to_pixel(wcs)
        assert_allclose(back.fwhm_limits, (4, 4.5), rtol=1e-6)
        assert_allclose([back.a, back.b], [aperture.a, aperture.b], rtol=1e-6)
        for limits, error in (((4, 5), TypeError), ([4, 5] * u.Jy,
                                                    ValueError)):
            with pytest.raises(error, match='convertible to arcsec'):
                make_sky_aperture(fwhm_limits=limits)

    def test_other_frame(self):
        """
        An aperture in another frame than the WCS keeps its direction.
        """
        wcs = make_wcs(lon=266.0, lat=-29.0)
        center = SkyCoord(266.0, -29.0, unit='deg')
        tip = center.directional_offset_by(40 * u.deg, 6 * u.arcsec)
        angle = center.galactic.position_angle(tip.galactic)
        sky = make_sky_aperture(center.galactic, theta=angle)
        expected = make_sky_aperture(center, theta=40 * u.deg).to_pixel(wcs)
        found = sky.to_pixel(wcs)
        assert_allclose(found.theta.to_value('deg'),
                        expected.theta.to_value('deg'), atol=1e-4)
        assert_allclose(found.positions, expected.positions, atol=1e-6)

    def test_photutils_protocol(self):
        """
        Copy, indexing, comparison, repr and region conversion all work.
        """
        aperture = make_sky_aperture()
        assert isinstance(aperture, SkyEllipticalAperture)
        assert aperture.copy() == aperture
        assert aperture[0] == make_sky_aperture(aperture.positions[0])
        assert aperture[0] != make_sky_aperture(aperture.positions[1])
        assert 'fwhm_minor=6.0 arcsec' in repr(aperture)
        region = aperture_to_region(aperture[0])
        assert_allclose(region.width.to_value('arcsec'), 2 * 0.8 * 9)
        assert region.angle == 115 * u.deg

    def test_aperture_photometry(self):
        """
        photutils measures the sky aperture like the pixel aperture.
        """
        wcs = make_wcs()
        data = np.random.default_rng(0).normal(size=(60, 60))
        aperture = make_aperture(POSITIONS[0])
        table = aperture_photometry(data, aperture.to_sky(wcs), wcs=wcs)
        sums, _ = aperture.do_photometry(data)
        assert_allclose(table['aperture_sum'], sums, rtol=1e-5)

    def test_from_table(self):
        """
        A table with sky columns gives one sky aperture per row.
        """
        table = QTable({'sky_centroid': SkyCoord([1.0, 2.0], [3.0, 4.0],
                                                 unit='deg'),
                        'fwhm_major_sky': [9, 8] * u.arcsec,
                        'fwhm_minor_sky': [6, 5] * u.arcsec,
                        'position_angle': [25, 35] * u.deg})
        apertures = SkyGaussianEllipseAperture.from_table(
            table, fwhm_radius_ratio=0.8)
        assert apertures[0] == make_sky_aperture(table['sky_centroid'][0])
        assert len(apertures) == 2
        apertures = SkyGaussianEllipseAperture.from_table(
            table, fwhm_limits=([0, 8.5] * u.arcsec, 0.2 * u.arcmin))
        assert_allclose([aperture.a.to_value('arcsec')
                         for aperture in apertures], [9.0, 8.5])
        table['position_angle'][1] = np.nan
        with pytest.raises(ValueError, match='NaN in 1 rows'):
            SkyGaussianEllipseAperture.from_table(table)
