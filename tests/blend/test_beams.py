# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of fits with a measured beam.
"""

import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.modeling.fitting import TRFLSQFitter
from astropy.nddata import NDData
from astropy.stats import gaussian_fwhm_to_sigma
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from numpy.testing import assert_allclose
from photutils.psf import GriddedPSFModel, ImagePSF, MoffatPSF

from hyperphotutils.blend import (
    BeamProfile,
    BlendGroupFitter,
    GroupSolver,
)
from hyperphotutils.blend.bias import second_order_bias
from hyperphotutils.blend.solver import (
    BatchProblem,
    BatchResult,
    evaluate,
    evaluate_sources,
    flux_derivatives,
)
from hyperphotutils.noise import CorrelatedNoise
from hyperphotutils.psf import EmpiricalPSF

FWHM = 6.0
TO_SIGMA = gaussian_fwhm_to_sigma


def profile(kind, radius):
    """
    A beam with a peak of 1 as a function of the radius.
    """
    gauss = np.exp(-4.0 * np.log(2.0) * (radius / FWHM)**2)
    if kind == 'moffat':
        alpha = 0.5 * FWHM / np.sqrt(2.0**(1.0 / 3.0) - 1.0)
        return (1.0 + (radius / alpha)**2)**-3.0
    if kind == 'negative lobe':
        return gauss - 0.05 * np.exp(-0.5 * ((radius - 7.2) / 1.8)**2)
    if kind == 'lobe':
        return gauss + 0.05 * np.exp(-0.5 * ((radius - 9.0) / 1.8)**2)
    return gauss


def beam_image(kind, half=30):
    """
    The PSF with a sum of 1.
    """
    y, x = np.mgrid[-half:half + 1, -half:half + 1]
    image = profile(kind, np.hypot(x, y))
    return image / image.sum()


def star_image(kind, shape, x, y, peak):
    """
    Stars, sampled at the pixel centers.
    """
    rows, cols = np.indices(shape)
    return sum(p * profile(kind, np.hypot(cols - a, rows - b))
               for a, b, p in zip(x, y, peak, strict=True))


def mixture_beam():
    """
    A beam that is exactly a sum of Gaussians of different shapes, and
    its image.
    """
    matrices = np.array([[[5.0, 0.8], [0.8, 4.0]], [[16.0, 2.0], [2.0, 20.0]],
                         [[30.0, -3.0], [-3.0, 40.0]]])
    core = np.array([[6.0, 1.0], [1.0, 5.0]])
    offsets = (matrices - core)[:, [0, 0, 1], [0, 1, 1]]
    return BeamProfile(np.array([0.8, 0.5, -0.3]), offsets, 5.9, 5.0, 30.0,
                       4.0, 0.0)


def states():
    """
    Two sources on a beam.
    """
    return np.array([[[3.0, 20.3, 19.8, 12.0, 7.0, 0.4],
                      [2.0, 26.1, 22.2, 8.0, 6.0, 2.0]]])


def pixels():
    y, x = np.mgrid[8:36:1.0, 8:38:1.0]
    return x.reshape(1, -1), y.reshape(1, -1)


def tangent_step(state, source, param, step):
    """
    A state after a step in one tangent coordinate.
    """
    moved = state.copy()
    if param < 3:
        moved[0, source, param] += step
        return moved
    var_a, var_b, theta = moved[0, source, 3:]
    matrix = np.diag([var_a, var_b])
    change = [[[1, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 1]]][param - 3]
    values, vectors = np.linalg.eigh(matrix + step * np.array(change))
    moved[0, source, 3:5] = values[::-1]
    moved[0, source, 5] = theta + np.arctan2(vectors[1, 1], vectors[0, 1])
    return moved


class TestKernel:
    def test_derivatives(self):
        """
        Those of the model and of the fluxes are the differences of both.
        """
        beam, state = mixture_beam(), states()
        x, y = pixels()
        weight, basis = np.ones(x.shape), np.zeros((1, 0, x.size))
        none = np.zeros((1, 0))
        model, jacobian = evaluate(state, none, x, y, weight, basis,
                                   beam=beam)
        assert_allclose(model, evaluate_sources(state, x, y, weight, beam),
                        atol=1e-13)
        _, slopes = flux_derivatives(state, beam)
        for source in range(2):
            for param in range(6):
                step = 1e-4
                up, down = (tangent_step(state, source, param, sign * step)
                            for sign in (1.0, -1.0))
                values = [evaluate_sources(one, x, y, weight, beam)
                          for one in (up, down)]
                assert_allclose(jacobian[0, 6 * source + param],
                                (values[0] - values[1])[0] / (2.0 * step),
                                atol=2e-8)
                flux = [flux_derivatives(one, beam)[0][0, source]
                        for one in (up, down)]
                assert_allclose(slopes[0, source, param],
                                (flux[0] - flux[1]) / (2.0 * step),
                                rtol=1e-6, atol=1e-7)

    def test_amplitude_is_the_peak_and_flux_the_integral(self):
        beam, state = mixture_beam(), states()[:, :1]
        y, x = np.mgrid[-60:101:1.0, -60:101:1.0].reshape(2, 1, -1)
        values = evaluate_sources(state, x, y, np.ones(x.shape), beam)
        flux, _ = flux_derivatives(state, beam)
        assert_allclose(values.sum(), flux[0, 0], rtol=1e-9)
        center = evaluate_sources(state, state[:, :, 1], state[:, :, 2],
                                  np.ones((1, 1)), beam)
        assert_allclose(center, 3.0, rtol=1e-12)

    def test_one_gaussian_is_the_kernel_without_beam(self):
        """
        To rounding, for the model, its derivatives, and the bias.
        """
        beam = BeamProfile(np.ones(1), np.zeros((1, 3)), 4.0, 4.0, 0.0, 1.0,
                           0.0)
        x, y = pixels()
        weight = np.full(x.shape, 0.7)
        basis = np.ones((1, 1, x.size)) * weight
        results = []
        for one in (None, beam):
            model, jacobian = evaluate(states(), np.ones((1, 1)), x, y,
                                       weight, basis, beam=one)
            problem = BatchProblem(model, x, y, weight, basis, None, None,
                                   None, 0.0, 100.0, beam=one)
            covariance = np.linalg.inv(jacobian @ np.swapaxes(jacobian, 1, 2))
            result = BatchResult(states(), np.ones((1, 1)), covariance,
                                 None, None, None)
            results.append((model, jacobian,
                            second_order_bias(problem, result),
                            flux_derivatives(states(), one)[1]))
        for plain, convolved in zip(*results, strict=True):
            assert_allclose(convolved, plain, rtol=1e-10, atol=1e-12)

    def test_second_order_bias(self):
        """
        It is that of the definition, with second derivatives from
        differences.
        """
        beam, state = mixture_beam(), states()[:, :1]
        x, y = pixels()
        weight, basis = np.ones(x.shape), np.zeros((1, 0, x.size))
        none = np.zeros((1, 0))
        _, jacobian = evaluate(state, none, x, y, weight, basis, beam=beam)
        covariance = 1e-2 * np.linalg.inv(jacobian
                                          @ np.swapaxes(jacobian, 1, 2))
        problem = BatchProblem(None, x, y, weight, basis, None, None, None,
                               0.0, 100.0, beam=beam)
        bias = second_order_bias(problem, BatchResult(
            state, none, covariance, None, None, None))

        def value(steps):
            moved = state.copy()
            moved[0, 0, :3] += steps[:3]
            cos, sin = np.cos(state[0, 0, 5]), np.sin(state[0, 0, 5])
            turn = np.array([[cos, -sin], [sin, cos]])
            matrix = np.diag(state[0, 0, 3:5]) + np.array(
                [[steps[3], steps[4]], [steps[4], steps[5]]])
            values, vectors = np.linalg.eigh(matrix)
            axis = turn @ vectors[:, 1]
            moved[0, 0, 3:] = (values[1], values[0],
                               np.arctan2(axis[1], axis[0]))
            return evaluate_sources(moved, x, y, weight, beam)[0]

        step = 2e-3
        unit = step * np.eye(6)
        curved = sum(
            covariance[0, i, j] * (
                value(unit[i] + unit[j]) - value(unit[i] - unit[j])
                - value(unit[j] - unit[i]) + value(-unit[i] - unit[j]))
            / (4.0 * step**2) for i in range(6) for j in range(6))
        expected = -0.5 * covariance[0] @ (jacobian[0] @ curved)
        assert_allclose(bias[0], expected, rtol=1e-4,
                        atol=1e-4 * np.abs(expected).max())


class TestProfile:
    @pytest.mark.parametrize('kind', ['gauss', 'moffat', 'lobe',
                                      'negative lobe'])
    def test_images_are_represented(self, kind):
        """
        To 0.3 percent of the peak, with the flux and the FWHM of the PSF.
        """
        psf = beam_image(kind)
        beam = BeamProfile.from_psf(psf, FWHM)
        assert beam.misfit < 0.003
        assert len(beam.weights) <= 8
        image = np.zeros((81, 81))
        beam.add_sources(image, [40.0], [40.0], [1.0], [beam.fwhm_major],
                         [beam.fwhm_minor], [beam.theta])
        assert_allclose(image[10:71, 10:71], psf / psf.max(), atol=5e-3)
        area = beam.components(*(np.array([value]) for value in (
            beam.fwhm_major, beam.fwhm_minor, beam.theta)))[-1]
        assert_allclose(area * psf.max(), 1.0, rtol=5e-3)
        assert_allclose([beam.fwhm_major, beam.fwhm_minor], FWHM, rtol=0.01)

    def test_elliptical(self):
        """
        The FWHMs and the angle are those of the PSF.
        """
        y, x = np.mgrid[-30:31, -30:31]
        angle = np.deg2rad(35.0)
        along = x * np.cos(angle) + y * np.sin(angle)
        across = y * np.cos(angle) - x * np.sin(angle)
        psf = (1.0 + (along / 5.0)**2 + (across / 3.5)**2)**-3.0
        width = 2.0 * np.sqrt(2.0**(1.0 / 3.0) - 1.0)
        beam = BeamProfile.from_psf(psf / psf.sum(),
                                    width * np.sqrt(5.0 * 3.5))
        assert_allclose([beam.fwhm_major, beam.fwhm_minor],
                        [5.0 * width, 3.5 * width], rtol=0.01)
        assert_allclose(beam.theta, 35.0, atol=0.5)

    def test_kinds_of_psf(self):
        """
        An image, photutils' models, and an empirical PSF are the same
        beam.
        """
        psf = beam_image('moffat')
        alpha = 0.5 * FWHM / np.sqrt(2.0**(1.0 / 3.0) - 1.0)
        grid = NDData(np.stack([psf] * 4), meta={
            'grid_xypos': [(0, 0), (0, 50), (50, 0), (50, 50)],
            'oversampling': 1})
        expected = BeamProfile.from_psf(psf, FWHM)
        for other in (ImagePSF(psf), GriddedPSFModel(grid),
                      MoffatPSF(alpha=alpha, beta=3.0), EmpiricalPSF(psf)):
            beam = BeamProfile.from_psf(other, FWHM)
            assert_allclose([beam.fwhm_major, beam.fwhm_minor],
                            [expected.fwhm_major, expected.fwhm_minor],
                            rtol=5e-3)

    @pytest.mark.parametrize(('change', 'error', 'match'), [
        (lambda psf: psf[:-1, :-1], ValueError,
         r'psf has an even size, \(60, 60\): resample it to an odd size'),
        (lambda psf: np.roll(psf, 1, axis=1), ValueError,
         r'the center of psf is \(\+1.00, [+-]0.00\) pixels from the central'),
        (lambda psf: 3.0 * psf, ValueError,
         'psf has the sum 3 instead of 1: divide it by its sum'),
        (lambda psf: np.where(psf == psf.max(), np.nan, psf), ValueError,
         'psf has values that are not finite'),
        (lambda psf: ImagePSF(4.0 * psf), ValueError,
         'psf has the sum 4 instead of 1'),
        (lambda _: 'beam.fits', TypeError, 'psf must be a 2D array, a .* str'),
        (lambda psf: psf[0], TypeError, 'psf must be a 2D array')])
    def test_bad_psf(self, change, error, match):
        with pytest.raises(error, match=match):
            BlendGroupFitter(FWHM, psf=change(beam_image('moffat')))

    def test_psf_of_other_pixels(self):
        match = 'psf has a FWHM of 6.0.* pixels, but fwhm is 3.00'
        with pytest.raises(ValueError, match=match):
            BlendGroupFitter(3.0, psf=beam_image('moffat'))

    def test_psf_that_is_no_sum_of_gaussians(self):
        """
        The misfit is told.
        """
        psf = np.zeros((41, 41))
        psf[17:24, 17:24] = 1.0 / 49.0
        with pytest.warns(AstropyUserWarning, match='of its peak: fluxes of '
                          'bright sources may be wrong by as much'):
            BeamProfile.from_psf(psf, 7.0)


class TestFits:
    @pytest.mark.parametrize('kind', ['moffat', 'lobe', 'negative lobe'])
    @pytest.mark.parametrize('fixed', [(), 'shape'])
    def test_stars_have_their_flux(self, kind, fixed):
        """
        Within 1.5 percent in a crowded group, in which Gaussians are off
        by more than 5 percent, and the width of the beam.
        """
        x, y = np.array([40.2, 52.3, 44.0]), np.array([39.7, 43.1, 51.5])
        peak = np.array([100.0, 60.0, 30.0])
        data = 2.0 + star_image(kind, (90, 90), x, y, peak)
        init = QTable({'x': np.rint(x), 'y': np.rint(y)})
        psf = beam_image(kind)
        fitter = BlendGroupFitter(FWHM, psf=psf, fixed=fixed)
        table = fitter(data, init, error=0.1)
        flux = peak / psf.max()
        assert_allclose(table['flux_fit'], flux, rtol=0.015)
        assert_allclose(table['amplitude_fit'], peak, rtol=0.015)
        assert_allclose(table['fwhm_major_fit'], FWHM, rtol=0.02)
        assert_allclose(table['x_fit'], x, atol=0.05)
        near = np.isfinite(fitter.make_background_image())
        left = fitter.make_residual_image()[near]
        assert np.abs(left).max() < 0.015 * peak[0]
        gauss = BlendGroupFitter(FWHM)(data, init, error=0.1)
        assert np.all(np.abs(gauss['flux_fit'] / flux - 1.0) > 0.05)

    def test_extended_source(self):
        """
        It is the convolution: its widths are those of the intrinsic
        Gaussian plus the FWHM of the beam, in quadrature, whatever the
        wings.
        """
        from scipy.signal import fftconvolve

        psf = beam_image('moffat', half=60)
        y, x = np.mgrid[-40:41, -40:41]
        cos, sin = np.cos(0.5), np.sin(0.5)
        a, b = (x * cos + y * sin) / 5.0, (y * cos - x * sin) / 3.0
        source = np.exp(-4.0 * np.log(2.0) * (a**2 + b**2))
        source *= 500.0 / source.sum()
        data = fftconvolve(np.pad(source, 40), psf, mode='same')
        fitter = BlendGroupFitter(FWHM, psf=psf, fit_radius=15.0)
        table = fitter(data, QTable({'x': [80.0], 'y': [80.0]}), error=0.01)
        assert_allclose(table['flux_fit'], 500.0, rtol=0.005)
        assert_allclose(table['amplitude_fit'], data.max(), rtol=0.005)
        assert_allclose(table['fwhm_major_fit'], np.hypot(5.0, FWHM),
                        rtol=0.01)
        assert_allclose(table['fwhm_minor_fit'], np.hypot(3.0, FWHM),
                        rtol=0.01)
        assert_allclose(table['theta_fit'].to_value('deg'),
                        np.rad2deg(0.5), atol=0.5)

    @pytest.mark.parametrize('correlated', [False, True])
    def test_errors_hold(self, correlated):
        """
        The scatter over noise is that of the errors, and the mean of the
        fluxes has no bias, although point sources may appear smaller
        than the beam.
        """
        n_side, step = 8, 50
        size = n_side * step
        y, x = (grid.ravel() * step + 24.7 for grid in
                np.mgrid[:n_side, :n_side])
        data = np.zeros((size, size))
        half = np.arange(-24, 25)
        for a, b in zip(x, y, strict=True):
            col, row = round(a), round(b)
            r = np.hypot(*np.meshgrid(half + col - a, half + row - b))
            data[row - 24:row + 25, col - 24:col + 25] += 40.0 * profile(
                'moffat', r)
        noise = CorrelatedNoise([0.3, 0.7], [4.0 * np.eye(2)])
        weights = {'noise': noise} if correlated else {'error': 1.0}
        if correlated:
            data += noise.simulate(data.shape, seed=3)
        else:
            data += np.random.default_rng(3).normal(size=data.shape)
        psf = beam_image('moffat')
        fitter = BlendGroupFitter(FWHM, psf=psf,
                                  solver=GroupSolver(bias_correction=True))
        table = fitter(data, QTable({'x': x, 'y': y}), **weights)
        pull = (table['flux_fit'] - 40.0 / psf.max()) / table['flux_err']
        assert 0.75 < np.std(pull) < 1.3
        assert abs(np.mean(pull)) < 0.45

    def test_astropy_fitter_agrees(self):
        """
        An independent solver of the same convolved model.
        """
        rng = np.random.default_rng(1)
        data = star_image('lobe', (60, 60), [28.0, 35.0], [30.0, 32.0],
                          [30.0, 20.0])
        data = 1.0 + data + 0.3 * rng.normal(size=data.shape)
        init = QTable({'x': [28.3, 34.6], 'y': [30.0, 32.0]})
        psf = beam_image('lobe')
        ours = BlendGroupFitter(FWHM, psf=psf)
        expected = ours(data, init, error=0.3)
        trf = TRFLSQFitter(calc_uncertainties=True)
        slow = BlendGroupFitter(FWHM, psf=psf,
                                solver=GroupSolver(astropy_fitter=trf))
        table = slow(data, init, error=0.3)
        for name in ('flux', 'x', 'fwhm_major', 'amplitude'):
            assert_allclose(table[f'{name}_fit'], expected[f'{name}_fit'],
                            atol=0.1 * expected[f'{name}_err'].max())
        model = ours.models[1]
        y, x = np.indices(data.shape)
        near = np.isfinite(ours.make_background_image())
        assert_allclose(model(x, y)[near], ours.make_model_image(
            include_local_bkg=True)[near], atol=1e-3)

    def test_units_and_covariance(self):
        """
        Units scale, and total fluxes know of the covariance.
        """
        data = star_image('moffat', (60, 60), [26.0, 33.0], [30.0, 30.0],
                          [30.0, 30.0])
        init = QTable({'x': [26.0, 33.0], 'y': [30.0, 30.0]})
        fitter = BlendGroupFitter(FWHM, psf=beam_image('moffat'))
        plain = fitter(data, init, error=0.5)
        _, total = fitter.total_flux()
        assert total < np.hypot(*plain['flux_err'])
        table = fitter(data << u.mJy, init, error=0.5 * u.mJy)
        assert_allclose(table['flux_fit'].value, plain['flux_fit'])
        assert table['flux_fit'].unit == u.mJy

    def test_no_warnings_for_sources_without_a_fit(self):
        fitter = BlendGroupFitter(FWHM, psf=beam_image('moffat'))
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            table = fitter(np.ones((40, 40)), QTable({
                'x': [-50.0, 20.0], 'y': [3.0, 20.0]}))
            fitter.make_model_image()
        assert np.isnan(table['flux_fit'][0])
