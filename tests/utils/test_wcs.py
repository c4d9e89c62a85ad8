# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the wcs module.

The oracle of the angles knows nothing of matrices: walk a small arc from
the center in the given direction on the sphere, convert both ends to
pixels, and look at the direction between them.
"""


import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal
from photutils.aperture import EllipticalAperture

from hyperphotutils.utils.wcs import (
    local_jacobian,
    pixel_scale,
    pixel_to_sky_ellipse,
    pixel_to_sky_errors,
    sky_to_pixel_ellipse,
)

CENTERS = {
    'equatorial': ('RA---TAN', 'DEC--TAN', 83.8, -5.4),
    'sin': ('RA---SIN', 'DEC--SIN', 84.7, -69.1),
    'galactic': ('GLON-TAN', 'GLAT-TAN', 120.0, 30.0),
    'car': ('GLON-CAR', 'GLAT-CAR', 35.0, 0.0),
    'seam': ('GLON-CAR', 'GLAT-CAR', 359.9999, 0.0003),
    'seam_ra': ('RA---TAN', 'DEC--TAN', 0.0001, 40.0),
    'dec85': ('RA---TAN', 'DEC--TAN', 200.0, 85.0),
    'dec85_sin': ('RA---SIN', 'DEC--SIN', 10.0, 85.0),
    'pole': ('RA---TAN', 'DEC--TAN', 77.0, 89.97),
    'south_pole': ('RA---SIN', 'DEC--SIN', 77.0, -89.999),
}


def make_wcs(ctype1, ctype2, lon, lat, *, rotation=0.0, flipped=False,
             scale=2.0, crpix=(51.0, 41.0)):
    """
    Make a WCS rotated by ``rotation`` degrees with pixels in arcsec.
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [ctype1, ctype2]
    wcs.wcs.crval = [lon, lat]
    wcs.wcs.crpix = crpix
    angle = np.deg2rad(rotation)
    turn = np.array([[np.cos(angle), -np.sin(angle)],
                     [np.sin(angle), np.cos(angle)]])
    sign = 1.0 if flipped else -1.0
    wcs.wcs.cd = np.diag([sign * scale, scale]) / 3600.0 @ turn
    wcs.wcs.set()
    return wcs


def angle_difference(first, second):
    """
    Return the difference of two axes' angles, in [-90, 90) degrees.
    """
    return (np.asarray(first) - np.asarray(second) + 90.0) % 180.0 - 90.0


def walk(wcs, x, y, position_angle, step):
    """
    Return the pixel offset of a step on the sky along a position angle.
    """
    start = wcs.pixel_to_world(x, y)
    end = start.directional_offset_by(position_angle, step)
    x1, y1 = wcs.world_to_pixel(end)
    return x1 - x, y1 - y


@pytest.fixture(params=CENTERS)
def center(request):
    return CENTERS[request.param]


@pytest.mark.parametrize('flipped', [False, True])
@pytest.mark.parametrize('rotation', [0.0, 30.0, 90.0])
class TestAngles:
    """
    Angles hold on any sky, to far better than 0.1 degree.
    """

    x = np.array([50.0, 12.0, 90.0, 50.2])
    y = np.array([40.0, 70.0, 3.0, 39.9])

    def test_pixel_angle_of_known_position_angle(self, center, rotation,
                                                 flipped):
        """
        A source of known PA is drawn along the walked direction.
        """
        wcs = make_wcs(*center, rotation=rotation, flipped=flipped)
        angles = np.array([0.0, 25.0, 90.0, 163.0])
        sky = wcs.pixel_to_world(self.x, self.y)
        x, y, major, minor, theta = sky_to_pixel_ellipse(
            wcs, sky, 12 * u.arcsec, 6 * u.arcsec, angles * u.deg)
        assert_allclose(x, self.x, atol=1e-6)
        assert_allclose(y, self.y, atol=1e-6)
        dx, dy = walk(wcs, self.x, self.y, angles * u.deg, 0.2 * u.arcsec)
        expected = np.rad2deg(np.arctan2(dy, dx))
        assert_allclose(angle_difference(theta, expected), 0, atol=0.01)
        assert_allclose(major, 6.0, rtol=1e-4)
        assert_allclose(minor, 3.0, rtol=1e-4)

    def test_position_angle_of_known_pixel_angle(self, center, rotation,
                                                 flipped):
        """
        A source drawn along +x has the PA seen between two sky points.
        """
        wcs = make_wcs(*center, rotation=rotation, flipped=flipped)
        start = wcs.pixel_to_world(self.x - 0.05, self.y)
        middle = wcs.pixel_to_world(self.x, self.y)
        end = wcs.pixel_to_world(self.x + 0.05, self.y)
        expected = middle.position_angle(end).deg
        back = middle.position_angle(start).deg
        major, minor, angle = pixel_to_sky_ellipse(wcs, self.x, self.y,
                                                   6.0, 3.0, 0.0)
        assert_allclose(angle_difference(angle.value, expected), 0,
                        atol=0.05)
        assert_allclose(angle_difference(angle.value, back), 0, atol=0.05)
        assert_allclose(major.to_value('arcsec'), 12.0, rtol=1e-4)
        assert_allclose(minor.to_value('arcsec'), 6.0, rtol=1e-4)

    def test_round_trip(self, center, rotation, flipped):
        """
        Pixel to sky to pixel gives back every parameter.
        """
        wcs = make_wcs(*center, rotation=rotation, flipped=flipped)
        theta = np.array([0.0, 44.0, 91.0, 179.9])
        major, minor, angle = pixel_to_sky_ellipse(wcs, self.x, self.y,
                                                   6.0, 5.5, theta)
        result = sky_to_pixel_ellipse(wcs,
                                      wcs.pixel_to_world(self.x, self.y),
                                      major, minor, angle)
        assert_allclose(result[2], 6.0, rtol=1e-6)
        assert_allclose(result[3], 5.5, rtol=1e-6)
        assert_allclose(angle_difference(result[4], theta), 0, atol=1e-4)
        assert np.all((result[4] >= 0) & (result[4] < 180))
        assert np.all((angle.value >= 0) & (angle.value < 180))


@pytest.mark.parametrize('name', ['equatorial', 'sin', 'galactic', 'car'])
def test_agrees_with_photutils_away_from_the_seam(name):
    """
    Where photutils' conversion is sound, both agree.
    """
    wcs = make_wcs(*CENTERS[name], rotation=30.0, scale=0.5)
    aperture = EllipticalAperture((20.0, 60.0), 6.0, 3.0,
                                  theta=70 * u.deg)
    expected = aperture.to_sky(wcs)
    major, minor, angle = pixel_to_sky_ellipse(wcs, 20.0, 60.0, 6.0, 3.0,
                                               70.0)
    assert_allclose(major[0].value, expected.a.to_value('arcsec'), rtol=1e-3)
    assert_allclose(minor[0].value, expected.b.to_value('arcsec'), rtol=1e-3)
    difference = angle_difference(angle.value,
                                  expected.theta.to_value('deg'))
    assert_allclose(difference, 0, atol=0.02)


def test_known_angle_by_hand():
    """
    With East to the left, theta is the position angle plus 90 degrees.
    """
    wcs = make_wcs(*CENTERS['equatorial'])
    angle = pixel_to_sky_ellipse(wcs, 50.0, 40.0, 6.0, 3.0, 110.0)[2]
    assert_allclose(angle.value, 20.0, atol=1e-3)
    angle = pixel_to_sky_ellipse(wcs, 50.0, 40.0, 6.0, 3.0,
                                 110.0 * u.deg)[2]
    assert_allclose(angle.value, 20.0, atol=1e-3)


def test_pixels_that_are_not_square():
    """
    A circle in pixels twice as wide as high is an ellipse on the sky.
    """
    wcs = make_wcs(*CENTERS['equatorial'])
    wcs.wcs.cd = np.array([[-4.0, 0.0], [0.0, 2.0]]) / 3600.0
    major, minor, angle = pixel_to_sky_ellipse(wcs, 50.0, 40.0, 3.0, 3.0,
                                               0.0)
    assert_allclose(major.value, 12.0, rtol=1e-5)
    assert_allclose(minor.value, 6.0, rtol=1e-5)
    assert_allclose(angle.value, 90.0, atol=1e-3)
    assert_allclose(pixel_scale(wcs).to_value('arcsec'), np.sqrt(8.0),
                    rtol=1e-6)


def test_skewed_pixels_keep_the_area():
    """
    The area of an ellipse scales with the determinant, whatever the skew.
    """
    wcs = make_wcs(*CENTERS['equatorial'])
    wcs.wcs.cd = np.array([[-2.0, 0.7], [0.3, 2.5]]) / 3600.0
    major, minor, _ = pixel_to_sky_ellipse(wcs, 50.0, 40.0, 6.0, 3.0, 20.0)
    assert_allclose((major * minor).value, 18.0 * (5.0 + 0.21), rtol=1e-6)


def test_latitude_first():
    """
    A header that stores the latitude as its first axis is no exception.
    """
    straight = make_wcs(*CENTERS['galactic'])
    swapped = WCS(naxis=2)
    swapped.wcs.ctype = ['GLAT-TAN', 'GLON-TAN']
    swapped.wcs.crval = [30.0, 120.0]
    swapped.wcs.crpix = [41.0, 51.0]
    swapped.wcs.cdelt = np.array([2.0, -2.0]) / 3600.0
    expected = pixel_to_sky_ellipse(straight, 50.0, 40.0, 6.0, 3.0, 20.0)
    result = pixel_to_sky_ellipse(swapped, 40.0, 50.0, 6.0, 3.0, 70.0)
    for one, other in zip(result, expected, strict=True):
        assert_allclose(one.value, other.value, rtol=1e-6)
    sky = straight.pixel_to_world(50.0, 40.0)
    x, y = sky_to_pixel_ellipse(swapped, sky, 3 * u.arcsec, 2 * u.arcsec,
                                0.0)[:2]
    assert_allclose([x[0], y[0]], [40.0, 50.0], atol=1e-6)


def test_other_axes_are_ignored():
    """
    A 4-axis WCS gives the numbers of its celestial part.
    """
    flat = make_wcs(*CENTERS['sin'])
    deep = WCS(naxis=4)
    deep.wcs.ctype = ['RA---SIN', 'DEC--SIN', 'FREQ', 'STOKES']
    deep.wcs.crval = [*flat.wcs.crval, 2.2e11, 1.0]
    deep.wcs.crpix = [*flat.wcs.crpix, 1.0, 1.0]
    deep.wcs.cdelt = [-2.0 / 3600.0, 2.0 / 3600.0, 1e9, 1.0]
    assert_allclose(local_jacobian(deep, 3.0, 4.0),
                    local_jacobian(flat, 3.0, 4.0), rtol=1e-9, atol=1e-9)
    assert pixel_scale(deep).unit == u.arcsec


def test_sky_in_another_frame():
    """
    Positions may come in any frame; the PA is of the WCS's own frame.
    """
    wcs = make_wcs(*CENTERS['galactic'])
    galactic = wcs.pixel_to_world(10.0, 20.0)
    sizes = (12 * u.arcsec, 6 * u.arcsec, 30 * u.deg)
    for own, other in zip(sky_to_pixel_ellipse(wcs, galactic, *sizes),
                          sky_to_pixel_ellipse(wcs, galactic.icrs, *sizes),
                          strict=True):
        assert_allclose(own, other, rtol=1e-6)


def test_circle_round_trips():
    """
    A circle keeps the angle it came with: round-off invents none.
    """
    wcs = make_wcs(*CENTERS['dec85'], rotation=30.0)
    major, minor, angle = pixel_to_sky_ellipse(wcs, 50.0, 40.0, 4.0, 4.0,
                                               60.0)
    assert_allclose(major.value, minor.value, rtol=1e-6)
    theta = sky_to_pixel_ellipse(wcs, wcs.pixel_to_world(50.0, 40.0),
                                 major, minor, angle)[4]
    assert_allclose(theta, 60.0, atol=1e-3)


def test_bad_positions_give_nan():
    """
    NaN positions and positions off the sphere are NaN, not an error.
    """
    wcs = make_wcs(*CENTERS['sin'], scale=3600.0)
    x = np.array([50.0, np.nan, 5000.0])
    major, minor, angle = pixel_to_sky_ellipse(wcs, x, 40.0, 4.0, 3.0, 0.0)
    for values in (major, minor, angle):
        assert_allclose(np.isfinite(values), [True, False, False])


def test_empty_input():
    """
    No sources are as good as many.
    """
    wcs = make_wcs(*CENTERS['sin'])
    empty = np.array([])
    for values in pixel_to_sky_ellipse(wcs, empty, empty, empty, empty,
                                       empty):
        assert values.shape == (0,)


class TestPixelScale:
    def test_center_of_the_map(self):
        """
        In a SIN projection pixels far from the reference cover more sky.
        """
        wcs = make_wcs(*CENTERS['sin'], scale=60.0, crpix=(1.0, 1.0))
        assert_allclose(pixel_scale(wcs).value, 60.0, rtol=1e-6)
        distance = np.hypot(1000.0, 1000.0) * 60.0 / 206264.806
        expected = 60.0 / np.sqrt(np.sqrt(1.0 - distance**2))
        result = pixel_scale(wcs, shape=(2001, 2001))
        assert_allclose(result.value, expected, rtol=1e-6)
        wcs.array_shape = (2001, 2001)
        assert_allclose(pixel_scale(wcs).value, expected, rtol=1e-6)

    def test_center_off_the_sphere(self):
        """
        The reference pixel serves where the center is off the sphere.
        """
        wcs = make_wcs(*CENTERS['sin'], scale=3600.0, crpix=(1.0, 1.0))
        result = pixel_scale(wcs, shape=(2001, 2001))
        assert_allclose(result.value, 3600.0, rtol=1e-4)


@pytest.mark.parametrize('ctype', [['FREQ', 'STOKES'], ['RA---TAN', 'FREQ']])
def test_no_celestial_axes(ctype):
    """
    A WCS without a sky is refused by its CTYPEs.
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ctype
    with pytest.raises(ValueError, match=f"two celestial axes.*'{ctype[1]}"):
        pixel_scale(wcs)


def test_not_a_wcs():
    """
    A wrong kind of WCS is named.
    """
    with pytest.raises(TypeError, match=r'must be an astropy.*got str'):
        local_jacobian('wcs', 1.0, 2.0)


def test_no_loop_over_sources(count_calls):
    """
    Five hundred ellipses take as many calls as five.
    """
    wcs = make_wcs(*CENTERS['car'])
    rng = np.random.default_rng(1)
    n_calls = {}
    # (the first run fills caches)
    for n_sources in (5, 5, 500):
        x, y = rng.uniform(0, 600, (2, n_sources))
        n_calls[n_sources] = count_calls(pixel_to_sky_ellipse, wcs, x, y,
                                         4.0, 3.0, 10.0)
    assert n_calls[500] < 1.1 * n_calls[5]


def test_seam_position():
    """
    The oracle's own ground: the seam map does cross longitude 0.
    """
    wcs = make_wcs(*CENTERS['seam'])
    lon = wcs.pixel_to_world(np.array([0.0, 99.0]), 40.0).l.deg
    assert lon[0] < 1.0
    assert lon[1] > 359.0
    assert isinstance(wcs.pixel_to_world(0.0, 0.0), SkyCoord)


class TestErrors:
    def oblique(self, kind):
        """
        A WCS whose pixels are neither square nor perpendicular.
        """
        wcs = WCS(naxis=2)
        ctype1, ctype2, lon, lat = CENTERS[kind]
        wcs.wcs.ctype = [ctype1, ctype2]
        wcs.wcs.crval = [lon, lat]
        wcs.wcs.crpix = [51.0, 41.0]
        wcs.wcs.cd = np.array([[-2.0, 0.9], [0.5, 1.2]]) / 3600.0
        wcs.wcs.set()
        return wcs

    @pytest.mark.parametrize('kind', ['equatorial', 'seam', 'pole'])
    def test_monte_carlo(self, kind):
        """
        Errors are the scatter of what is converted one by one.
        """
        rng = np.random.default_rng(2)
        wcs = self.oblique(kind)
        position = np.array([[4.0, 1.7], [1.7, 1.0]]) * 1e-4
        root = rng.normal(0.0, 0.02, (3, 3))
        shape, shape_cov = np.array([5.0, 1.2, 2.5]), root @ root.T
        n_draws = 20000
        x, y = rng.multivariate_normal([60.0, 50.0], position, n_draws).T
        xx, xy, yy = rng.multivariate_normal(shape, shape_cov, n_draws).T
        mean, spread = 0.5 * (xx + yy), np.hypot(0.5 * (xx - yy), xy)
        theta = np.rad2deg(0.5 * np.arctan2(2.0 * xy, xx - yy))
        factor = np.sqrt(8.0 * np.log(2.0))
        major, minor, angle = pixel_to_sky_ellipse(
            wcs, np.full(n_draws, 60.0), 50.0,
            factor * np.sqrt(mean + spread), factor * np.sqrt(mean - spread),
            theta)
        center = wcs.pixel_to_world(60.0, 50.0)
        sky = wcs.pixel_to_world(x, y)
        distance, direction = (center.separation(sky).to_value('arcsec'),
                               center.position_angle(sky))
        turned = (angle - angle[0]).to_value('deg')
        turned = (turned + 90.0) % 180.0 - 90.0
        errors = pixel_to_sky_errors(wcs, 60.0, 50.0, position[None],
                                     shape[None], shape_cov[None])
        for error, values in zip(errors, (
                distance * np.sin(direction), distance * np.cos(direction),
                major.value, minor.value, turned), strict=True):
            assert_allclose(error.value, np.std(values), rtol=0.03)
        assert [str(error.unit) for error in errors] == (
            4 * ['arcsec'] + ['deg'])

    def test_square_pixels(self):
        """
        On square pixels widths and their errors scale alike.
        """
        wcs = make_wcs(*CENTERS['galactic'], rotation=25.0, flipped=True)
        shape = np.array([[4.0, 0.0, 1.0]])
        errors = pixel_to_sky_errors(
            wcs, 50.0, 40.0, 0.01 * np.eye(2)[None], shape,
            np.diag([0.04, 0.09, 0.01])[None])
        factor = 2.0 * np.sqrt(8.0 * np.log(2.0))
        assert_allclose([error.value[0] for error in errors], [
            0.2, 0.2, factor * 0.2 / 4.0, factor * 0.1 / 2.0,
            np.rad2deg(0.3 / 3.0)], rtol=1e-6)

    def test_special_shapes(self):
        """
        The angle of a round source is not known; what is fixed has no
        error; what is unknown is NaN.
        """
        wcs = make_wcs(*CENTERS['equatorial'])
        shape = np.array([[2.0, 0.0, 2.0], [2.0, 0.0, 2.0],
                          [np.nan, 0.0, 1.0]])
        scale = np.array([0.01, 0.0, 0.01])[:, None, None]
        errors = pixel_to_sky_errors(
            wcs, [50.0, 51.0, np.nan], 40.0, scale * np.eye(2), shape,
            scale * np.eye(3))
        assert_allclose(errors[4].value, [180.0 / np.sqrt(12.0), 0.0,
                                          np.nan])
        for error in errors[:4]:
            assert_array_equal(error.value > 0.0, [True, False, False])
            assert np.isnan(error[2])
