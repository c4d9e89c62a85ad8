# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the photometry module.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from photutils.aperture import EllipticalAperture
from scipy.integrate import dblquad

from hyperphotutils.aperture import (
    ellipse_overlap,
    gaussian_enclosed_fraction,
    measure_apertures,
    photometry,
)


def random_ellipses(n_sources, *, size, max_axis=6.0, seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-0.02 * size, 1.02 * size, (2, n_sources))
    semimajor = rng.uniform(0.05, max_axis, n_sources)
    semiminor = semimajor * rng.uniform(0.1, 1.5, n_sources)
    theta = rng.uniform(-360, 360, n_sources)
    return x, y, semimajor, semiminor, theta


def gaussian(shape, x, y, amplitude, fwhm_major, fwhm_minor, theta_deg):
    theta = np.deg2rad(theta_deg)
    y_index, x_index = np.indices(shape)
    dx, dy = x_index - x, y_index - y
    major = (dx * np.cos(theta) + dy * np.sin(theta)) / fwhm_major
    minor = (dy * np.cos(theta) - dx * np.sin(theta)) / fwhm_minor
    return amplitude * np.exp(-4 * np.log(2) * (major**2 + minor**2))


def gaussian_flux(amplitude, fwhm_major, fwhm_minor):
    return amplitude * fwhm_major * fwhm_minor * np.pi / (4 * np.log(2))


class TestEllipseOverlap:
    def test_equals_photutils_exact(self):
        """
        Random ellipses have photutils' exact weights in every pixel.
        """
        ellipses = random_ellipses(300, size=100)
        source, iy, ix, weight = ellipse_overlap(*ellipses)
        for i, (x, y, a, b, theta) in enumerate(zip(*ellipses, strict=True)):
            mask = EllipticalAperture((x, y), a, b,
                                      theta=np.deg2rad(theta)).to_mask()
            ours = np.zeros(mask.shape)
            own = source == i
            ours[iy[own] - mask.bbox.iymin, ix[own] - mask.bbox.ixmin] = (
                weight[own])
            assert_allclose(ours, mask.data, rtol=0, atol=1e-10)

    def test_sums_to_the_area(self):
        """
        The weights of an ellipse sum to its area, large or tiny.
        """
        x, y, a, b, theta = random_ellipses(300, size=100, max_axis=40)
        a[:50] *= 1e-3
        source, _, _, weight = ellipse_overlap(x, y, a, b, theta)
        area = np.bincount(source, weights=weight, minlength=300)
        assert_allclose(area, np.pi * a * b, rtol=1e-11)
        assert np.all((weight > 0) & (weight <= 1))

    @pytest.mark.parametrize('center', [(10.0, 10.0), (10.5, 10.5),
                                        (10.0, 10.5)])
    @pytest.mark.parametrize('radius', [0.5, 1.0, 1.5, 2.5, 5.0])
    def test_tangent_edges(self, center, radius):
        """
        Edges that touch the circle in one point are no special case.
        """
        _, iy, ix, weight = ellipse_overlap(*center, radius, radius, 0.0)
        assert_allclose(weight.sum(), np.pi * radius**2, rtol=1e-12)
        # both axes through the center are lines of symmetry
        full = np.zeros((41, 41))
        full[iy + 10, ix + 10] = weight
        y, x = np.indices(full.shape) - 10
        mirror_x = np.round(2 * center[0] - x).astype(int) + 10
        mirror_y = np.round(2 * center[1] - y).astype(int) + 10
        used = full > 0
        for rows, columns in ((y + 10, mirror_x), (mirror_y, x + 10)):
            assert_allclose(full[rows[used], columns[used]], full[used],
                            rtol=1e-12)
        far = np.hypot(x - center[0], y - center[1]) < radius - 0.71
        assert_allclose(full[far], 1.0, rtol=1e-12)

    def test_chunks_change_nothing(self, monkeypatch):
        """
        The number of pixels handled at once does not change the result.
        """
        ellipses = random_ellipses(30, size=50)
        expected = ellipse_overlap(*ellipses)
        monkeypatch.setattr(photometry, '_CHUNK_PIXELS', 7)
        for ours, theirs in zip(ellipse_overlap(*ellipses), expected,
                                strict=True):
            assert_array_equal(ours, theirs)

    def test_shape_drops_pixels_off_the_image(self):
        """
        With a shape, exactly the pixels of the image are returned.
        """
        ellipses = random_ellipses(100, size=30)
        source, iy, ix, weight = ellipse_overlap(*ellipses)
        inside = (iy >= 0) & (iy < 25) & (ix >= 0) & (ix < 30)
        assert not np.all(inside)
        clipped = ellipse_overlap(*ellipses, shape=(25, 30))
        for ours, full in zip(clipped, (source, iy, ix, weight), strict=True):
            assert_array_equal(ours, full[inside])

    def test_nan_has_no_pixels(self):
        """
        An ellipse with NaN has no pixels and disturbs no other one.
        """
        source, *_ = ellipse_overlap([np.nan, 5, 5], 5, [2, 2, np.inf], 2, 0)
        assert_array_equal(np.unique(source), [1])

    def test_no_ellipses(self):
        """
        No ellipses give empty arrays.
        """
        source, iy, ix, weight = ellipse_overlap([], [], [], [], [])
        assert len(source) == len(iy) == len(ix) == len(weight) == 0

    def test_bad_axis_raises(self):
        """
        A zero or negative axis is refused by name.
        """
        with pytest.raises(ValueError, match='semiminor axes must be pos'):
            ellipse_overlap(5, 5, 2, [1, -1], 0)
        with pytest.raises(ValueError, match='scalars or 1D: got 2 dim'):
            ellipse_overlap(np.ones((2, 2)), 5, 2, 1, 0)


class TestEnclosedFraction:
    @pytest.mark.parametrize('ratio', [0.3, 0.5, 1.0, 2.0])
    def test_same_shape(self, ratio):
        """
        An ellipse of the Gaussian's shape has the closed-form fraction.
        """
        fraction = gaussian_enclosed_fraction(5, 3, 5 * ratio, 3 * ratio)
        assert isinstance(fraction, float)
        assert_allclose(fraction, 1 - np.exp(-4 * np.log(2) * ratio**2),
                        rtol=1e-13)

    @pytest.mark.parametrize('axes', [(4.0, 4.0), (2.0, 6.0), (9.0, 0.9)])
    def test_other_shape(self, axes):
        """
        Any other co-axial ellipse agrees with a numerical integral.
        """
        a, b = axes

        def integrand(v, u):
            return np.exp(-4 * np.log(2) * ((u / 5)**2 + (v / 3)**2))

        integral, _ = dblquad(integrand, -a, a,
                              lambda u: -b * np.sqrt(1 - (u / a)**2),
                              lambda u: b * np.sqrt(1 - (u / a)**2),
                              epsabs=1e-9)
        assert_allclose(gaussian_enclosed_fraction(5, 3, a, b),
                        integral / gaussian_flux(1, 5, 3), rtol=1e-7)

    def test_arrays(self):
        """
        Arrays are handled entry by entry, NaN stays NaN.
        """
        fraction = gaussian_enclosed_fraction([5, np.nan], 3, 4, 4)
        assert_allclose(fraction[0], gaussian_enclosed_fraction(5, 3, 4, 4))
        assert np.isnan(fraction[1])


class TestMeasureApertures:
    shape = (60, 70)
    sources = (np.array([20.3, 24.1, 50.0]), np.array([30.2, 28.0, 40.4]),
               np.array([3.0, 2.0, 5.0]), np.array([5.0, 4.0, 4.5]),
               np.array([4.0, 3.5, 3.0]), np.array([30.0, 0.0, 120.0]))

    def test_uncorrected_equals_photutils(self):
        """
        Without correction it is photutils' exact sum, companions removed.
        """
        rng = np.random.default_rng(2)
        residual = rng.normal(size=self.shape)
        result = measure_apertures(residual, *self.sources, correct=False,
                                   error=0.3, fwhm_radius_ratio=1.2)
        assert_array_equal(result['aperture_correction'], 1.0)
        assert not np.any(result['partial'])
        for i, source in enumerate(zip(*self.sources, strict=True)):
            x, y, _, major, minor, theta = source
            aperture = EllipticalAperture((x, y), 1.2 * major, 1.2 * minor,
                                          theta=np.deg2rad(theta))
            cleaned = residual + gaussian(self.shape, *source)
            expected = aperture.do_photometry(cleaned)[0][0]
            assert_allclose(result['aperture_flux'][i], expected, rtol=1e-10)
            weight = aperture.to_mask().data
            assert_allclose(result['aperture_flux_err'][i],
                            0.3 * np.sqrt(np.sum(weight**2)), rtol=1e-10)

    @pytest.mark.parametrize('ratio', [0.6, 1.0, 1.5])
    def test_noiseless_gaussian_gives_its_flux(self, ratio):
        """
        With correction a noiseless Gaussian gives exactly its integral.
        """
        result = measure_apertures(np.zeros(self.shape), *self.sources,
                                   fwhm_radius_ratio=ratio)
        assert_allclose(result['aperture_flux'],
                        gaussian_flux(*self.sources[2:5]), rtol=1e-12)
        assert np.all(np.isnan(result['aperture_flux_err']))
        fraction = 1 - np.exp(-4 * np.log(2) * ratio**2)
        assert_allclose(1 / result['aperture_correction'], fraction, rtol=0.03)

    def test_correction_tends_to_the_formula(self):
        """
        For a well-sampled source the correction is the analytic one.
        """
        result = measure_apertures(np.zeros((401, 401)), 200.2, 200.4, 1.0,
                                   60.0, 50.0, 20.0)
        assert_allclose(result['aperture_correction'], 16 / 15, rtol=2e-4)

    def test_wrong_model_is_mended_by_the_residual(self):
        """
        A model of too low a peak gives the flux of the data.
        """
        data = gaussian(self.shape, 30, 30, 2.0, 5, 4, 30)
        model = gaussian(self.shape, 30, 30, 1.5, 5, 4, 30)
        result = measure_apertures(data - model, 30, 30, 1.5, 5, 4, 30)
        assert_allclose(result['aperture_flux'], gaussian_flux(2, 5, 4))

    @pytest.mark.parametrize('how', ['mask', 'nan', 'edge', 'error'])
    def test_missing_pixels_are_replaced_by_the_model(self, how):
        """
        Masked, NaN and off-map pixels leave a true model's flux unbiased.
        """
        residual = np.zeros(self.shape)
        error = np.full(self.shape, 0.1)
        mask = np.zeros(self.shape, dtype=bool)
        x, y = 30.0, 30.0
        if how == 'edge':
            x = -0.4
        else:
            residual[28:30, 30] = 1e3
        if how == 'nan':
            residual[28:30, 30] = np.nan
        elif how == 'mask':
            mask[28:30, 30] = True
        elif how == 'error':
            error[28:30, 30] = np.nan
        result = measure_apertures(residual, [x, 50], [y, 50], 2.0, 5, 4, 30,
                                   mask=mask, error=error)
        assert_allclose(result['aperture_flux'], gaussian_flux(2, 5, 4))
        assert_array_equal(result['partial'], [True, False])
        assert np.all(np.isfinite(result['aperture_flux_err']))
        assert (result['aperture_flux_err'][0]
                < result['aperture_flux_err'][1])

    def test_error_is_the_scatter(self):
        """
        The error is the scatter of the flux over white noise.
        """
        rng = np.random.default_rng(3)
        y, x = np.indices((20, 20)).reshape(2, -1) * 20.0 + 15.3
        residual = rng.normal(scale=0.5, size=(420, 420))
        result = measure_apertures(residual, x, y, 1.0, 5, 4, 30, error=0.5)
        assert_allclose(np.std(result['aperture_flux']),
                        np.mean(result['aperture_flux_err']), rtol=0.15)

    def test_error_ignores_the_source(self):
        """
        The error does not depend on how bright the source is.
        """
        residual = np.zeros(self.shape)
        result = measure_apertures(residual, 30, 30, [1, 1e6], 5, 4, 30,
                                   error=0.5)
        assert np.ptp(result['aperture_flux_err']) == 0

    @pytest.mark.parametrize('limits', [
        (0, 4.2), (4.6, np.inf), (3.8, 4.2), (4.0, 4.0),
        ([0.0, 6.0, 4.4], [3.0, 8.0, 4.6])], ids=str)
    def test_clipped_widths_equal_photutils(self, limits):
        """
        With limits it is photutils' sum in the clipped ellipse; the
        corrected sum of a noiseless Gaussian is still its integral.
        """
        residual = np.random.default_rng(2).normal(size=self.shape)
        result = measure_apertures(residual, *self.sources, correct=False,
                                   fwhm_limits=limits, fwhm_radius_ratio=1.2)
        lower, upper = (np.broadcast_to(limit, 3) for limit in limits)
        for i, source in enumerate(zip(*self.sources, strict=True)):
            x, y, _, *widths, theta = source
            a, b = (1.2 * min(max(width, lower[i]), upper[i])
                    for width in widths)
            aperture = EllipticalAperture((x, y), a, b,
                                          theta=np.deg2rad(theta))
            cleaned = residual + gaussian(self.shape, *source)
            expected = aperture.do_photometry(cleaned)[0][0]
            assert_allclose(result['aperture_flux'][i], expected, rtol=1e-10)
        result = measure_apertures(np.zeros(self.shape), *self.sources,
                                   fwhm_limits=limits, fwhm_radius_ratio=1.2)
        assert_allclose(result['aperture_flux'],
                        gaussian_flux(*self.sources[2:5]), rtol=1e-12)

    def test_clipped_correction_tends_to_the_integral(self):
        """
        The correction of a clipped, well-sampled source is the inverse of
        the fraction in that ellipse.
        """
        result = measure_apertures(np.zeros((401, 401)), 200.2, 200.4, 1.0,
                                   60.0, 40.0, 20.0, fwhm_limits=(45, 50))
        fraction = gaussian_enclosed_fraction(60.0, 40.0, 50.0, 45.0)
        assert_allclose(1 / result['aperture_correction'], fraction,
                        rtol=2e-4)

    def test_limits_that_clip_nothing(self):
        """
        Wide limits change no digit.
        """
        residual = np.random.default_rng(2).normal(size=self.shape)
        result = measure_apertures(residual, *self.sources, error=0.2,
                                   fwhm_limits=(0, np.inf))
        expected = measure_apertures(residual, *self.sources, error=0.2)
        for name, values in expected.items():
            assert_array_equal(result[name], values)

    def test_given_axes_equal_photutils(self):
        """
        With axes given it is photutils' sum in these ellipses, whatever
        the sources are; the corrected sum is still the integral.
        """
        residual = np.random.default_rng(2).normal(size=self.shape)
        axes = ([4.0, 6.0, 3.0], 3.5, [0.0, 45.0, 100.0])
        result = measure_apertures(residual, *self.sources, axes=axes,
                                   correct=False)
        for i, source in enumerate(zip(*self.sources, strict=True)):
            aperture = EllipticalAperture(
                source[:2], axes[0][i], 3.5, theta=np.deg2rad(axes[2][i]))
            cleaned = residual + gaussian(self.shape, *source)
            expected = aperture.do_photometry(cleaned)[0][0]
            assert_allclose(result['aperture_flux'][i], expected, rtol=1e-10)
        result = measure_apertures(np.zeros(self.shape), *self.sources,
                                   axes=axes)
        assert_allclose(result['aperture_flux'],
                        gaussian_flux(*self.sources[2:5]), rtol=1e-12)

    def test_bad_limits_and_axes_raise(self):
        """
        Limits and axes that cannot be are refused by name.
        """
        residual = np.zeros(self.shape)
        for limits in (3.0, (1, 2, 3), (5, 3), (-1, 3), (0, 0)):
            with pytest.raises(ValueError, match='fwhm_limits must be two'):
                measure_apertures(residual, *self.sources, fwhm_limits=limits)
        with pytest.raises(ValueError, match='axes are mutually exclusive'):
            measure_apertures(residual, *self.sources, fwhm_limits=(3, 5),
                              axes=(4, 3, 0))
        with pytest.raises(ValueError, match='axes must have three'):
            measure_apertures(residual, *self.sources, axes=(4, 3))
        with pytest.raises(ValueError, match='one entry per source, 1: got 2'):
            measure_apertures(residual, 20, 20, 1, 5, 4, 0,
                              axes=([4, 5], 3, 0))
        with pytest.raises(ValueError, match='semiminor axes must be posit'):
            measure_apertures(residual, *self.sources, axes=(4, 0, 0))

    def test_nan_rows(self):
        """
        A failed fit and a source far off the map are rows of NaN.
        """
        result = measure_apertures(np.zeros(self.shape), [30, np.nan, 30, 999],
                                   30, [1, 1, np.nan, 1], 5, 4, 30, error=1)
        for name in ('aperture_flux', 'aperture_flux_err',
                     'aperture_correction'):
            assert_array_equal(np.isnan(result[name]), [0, 1, 1, 1])
        assert_array_equal(result['partial'], [False, False, False, True])

    def test_no_sources(self):
        """
        No sources give empty arrays.
        """
        empty = np.zeros(0)
        result = measure_apertures(np.zeros(self.shape), *(empty,) * 6)
        assert all(len(value) == 0 for value in result.values())

    def test_bad_input_raises(self):
        """
        Wrong shapes and values are refused by name.
        """
        source = (5, 5, 1, 3, 3, 0)
        residual = np.zeros((10, 10))
        with pytest.raises(ValueError, match='residual must be a 2D'):
            measure_apertures(np.zeros(10), *source)
        with pytest.raises(ValueError, match='mask must have the same shape'):
            measure_apertures(residual, *source, mask=np.zeros((9, 10)))
        with pytest.raises(ValueError, match='error must be a scalar or'):
            measure_apertures(residual, *source, error=np.zeros((9, 10)))
        with pytest.raises(ValueError, match='ratio must be positive: got -1'):
            measure_apertures(residual, *source, fwhm_radius_ratio=-1)
