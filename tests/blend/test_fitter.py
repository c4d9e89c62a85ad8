# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the fitter module.
"""

import gc
import weakref

import astropy.units as u
import numpy as np
import pytest
from astropy.modeling.fitting import TRFLSQFitter
from astropy.modeling.models import Gaussian2D
from astropy.table import QTable, Table, vstack
from numpy.testing import assert_allclose, assert_array_equal
from photutils.psf import SourceGrouper

from hyperphotutils.blend import (
    BlendGroupFitter,
    GroupSolver,
    SeparationGrouper,
)
from hyperphotutils.noise import CorrelatedNoise
from hyperphotutils.utils import FLAGS

FWHM = 4.0
TO_SIGMA = 1.0 / np.sqrt(8.0 * np.log(2.0))
COLUMNS = [
    'id', 'group_id', 'group_size', 'x_init', 'y_init', 'x_fit', 'y_fit',
    'x_err', 'y_err', 'amplitude_fit', 'amplitude_err', 'fwhm_major_fit',
    'fwhm_major_err', 'fwhm_minor_fit', 'fwhm_minor_err', 'theta_fit',
    'theta_err', 'flux_fit', 'flux_err', 'local_bkg', 'bkg_order',
    'bkg_method', 'bkg_size', 'nmse', 'reduced_chi2', 'bic', 'n_pixels_fit',
    'flags']
MEASURED = [name for name in COLUMNS if name.endswith(('_fit', '_err'))
            and name != 'n_pixels_fit']


def render(shape, x, y, amplitude, fwhm_major, fwhm_minor, theta):
    """
    The sum of astropy's Gaussians.
    """
    rows, cols = np.indices(shape)
    image = np.zeros(shape)
    for x0, y0, a, major, minor, angle in zip(
            *np.broadcast_arrays(*np.atleast_1d(
                x, y, amplitude, fwhm_major, fwhm_minor, theta)),
            strict=True):
        image += Gaussian2D(a, x0, y0, major * TO_SIGMA, minor * TO_SIGMA,
                            theta=np.deg2rad(angle))(cols, rows)
    return image


def pair_and_single(noise=0.1, seed=0):
    """
    A blended pair and a single source on a sloped background.
    """
    truth = {'x': [30.2, 34.5, 70.0], 'y': [30.0, 31.0, 68.7],
             'amplitude': [10.0, 7.0, 12.0], 'fwhm_major': [5.0, 5.5, 6.0],
             'fwhm_minor': [4.0, 4.2, 4.0], 'theta': [20.0, 110.0, 160.0]}
    data = render((100, 100), **truth)
    rows, cols = np.indices(data.shape)
    data += 2.0 + 0.02 * cols - 0.01 * rows
    data += noise * np.random.default_rng(seed).normal(size=data.shape)
    init = QTable({'x_init': np.array(truth['x']) + 0.2,
                   'y_init': np.array(truth['y']) - 0.3})
    return data, init, truth


def grid_of_sources(seed, *, snr=25.0, noise=1.0):
    """
    324 isolated elliptical sources in white noise.
    """
    rng = np.random.default_rng(seed)
    x, y = (20.0 * grid.ravel() + 12.0 + rng.uniform(-0.5, 0.5, 324)
            for grid in np.mgrid[:18, :18])
    truth = {'x': x, 'y': y, 'amplitude': np.full(324, snr * noise),
             'fwhm_major': np.full(324, 6.0),
             'fwhm_minor': np.full(324, 4.0),
             'theta': rng.uniform(0.0, 180.0, 324)}
    data = np.zeros((364, 364))
    half = 10
    for values in zip(*truth.values(), strict=True):
        x0, y0 = round(values[0]), round(values[1])
        part = (slice(y0 - half, y0 + half + 1),
                slice(x0 - half, x0 + half + 1))
        data[part] += render((2 * half + 1, 2 * half + 1),
                             values[0] - x0 + half, values[1] - y0 + half,
                             *values[2:])
    data += 3.0 * noise + noise * rng.normal(size=data.shape)
    init = QTable({'x_init': x + rng.uniform(-0.3, 0.3, 324),
                   'y_init': y + rng.uniform(-0.3, 0.3, 324)})
    truth['flux'] = np.pi / (4.0 * np.log(2.0)) * 24.0 * snr * noise
    return data, init, truth


def pulls(tables, truths):
    """
    (Measured - true) / error of all columns and sources.
    """
    result = {}
    for name in ('x', 'y', 'amplitude', 'fwhm_major', 'fwhm_minor', 'theta',
                 'flux'):
        parts = []
        for table, truth in zip(tables, truths, strict=True):
            fitted, error = (np.asarray(table[f'{name}_{suffix}'])
                             for suffix in ('fit', 'err'))
            offset = fitted - truth[name]
            if name == 'theta':
                offset = (offset + 90.0) % 180.0 - 90.0
            parts.append(offset / error)
        result[name] = np.concatenate(parts)
    return result


class TestTable:
    def test_columns(self):
        """
        The columns and their order are those that are promised; pixel
        positions and sizes have no unit, angles are in degrees.
        """
        data, init, _ = pair_and_single()
        table = BlendGroupFitter(FWHM)(data, init_params=init)
        assert type(table) is QTable
        assert table.colnames == COLUMNS
        assert table['theta_fit'].unit == u.deg
        assert table['theta_err'].unit == u.deg
        for name in set(COLUMNS) - {'theta_fit', 'theta_err'}:
            assert getattr(table[name], 'unit', None) is None, name
        assert_array_equal(table['id'], [1, 2, 3])
        assert_array_equal(table['group_id'], [1, 1, 2])
        assert_array_equal(table['group_size'], [2, 2, 1])
        assert_array_equal(table['flags'], 0)
        assert_array_equal(table['x_init'], init['x_init'])

    def test_noise_free_sources_are_recovered(self):
        """
        Without noise, every column has its true value.
        """
        data, init, truth = pair_and_single(noise=0.0)
        table = BlendGroupFitter(FWHM)(data, init_params=init)
        for name, values in truth.items():
            fitted = np.asarray(table[f'{name}_fit'])
            assert_allclose(fitted, values, rtol=1e-5, err_msg=name)
        x, y = np.array(truth['x']), np.array(truth['y'])
        assert_allclose(table['local_bkg'], 2.0 + 0.02 * x - 0.01 * y,
                        rtol=1e-4)
        flux = np.pi / (4.0 * np.log(2.0)) * np.prod(
            [truth[name] for name in ('amplitude', 'fwhm_major',
                                      'fwhm_minor')], axis=0)
        assert_allclose(table['flux_fit'], flux, rtol=1e-5)
        assert np.all(table['nmse'] < 1e-9)

    def test_angles_are_in_range(self):
        data, init, _ = grid_of_sources(1)
        table = BlendGroupFitter(FWHM)(data, init_params=init)
        assert np.all(table['theta_fit'] >= 0.0 * u.deg)
        assert np.all(table['theta_fit'] < 180.0 * u.deg)
        assert np.all(table['fwhm_major_fit'] >= table['fwhm_minor_fit'])

    @pytest.mark.parametrize(('unit', 'flux_unit'), [
        (u.Jy / u.pix, u.Jy), (u.MJy / u.sr, u.MJy / u.sr * u.pix)])
    def test_units_in_units_out(self, unit, flux_unit):
        """
        Values get the unit of the data, fluxes that unit summed over
        pixels, and the numbers are those of the data without a unit.
        """
        data, init, _ = pair_and_single()
        for error in (None, 0.1, np.full(data.shape, 0.1)):
            fitter = BlendGroupFitter(FWHM)
            plain = fitter(data, error=error, init_params=init)
            with_unit = fitter(
                data << unit, init_params=init,
                error=None if error is None else error << unit)
            for name in COLUMNS:
                values = with_unit[name]
                if name.startswith(('amplitude', 'local_bkg')):
                    assert values.unit == unit
                elif name.startswith('flux'):
                    assert values.unit == flux_unit
                if name not in ('theta_fit', 'theta_err'):
                    values = getattr(values, 'value', values)
                assert_array_equal(values, plain[name], err_msg=name)
        for image in (fitter.make_model_image(),
                      fitter.make_background_image(),
                      fitter.make_residual_image(data << unit)):
            assert image.unit == unit

    def test_meta_tells_how_the_table_was_made(self):
        data, init, _ = pair_and_single()
        fitter = BlendGroupFitter(FWHM, poly_order=2, fixed=('shape',))
        table = fitter(data, init_params=init)
        assert table.meta['call'] == repr(fitter)
        assert 'astropy' in table.meta['version']
        assert 'date' not in table.meta

    def test_goodness_of_fit(self):
        """
        The sums over residuals are those of the pixels that were used.
        """
        data, init, _ = pair_and_single()
        fitter = BlendGroupFitter(FWHM, fit_radius=7.0)
        table = fitter(data, error=0.1, init_params=init)
        rows, cols = np.indices(data.shape)
        used = np.hypot(cols - np.rint(init['x_init'][2]),
                        rows - np.rint(init['y_init'][2])) <= 7.0
        residual = fitter.make_residual_image(data)[used] / 0.1
        chi2, n_pixels = np.sum(residual**2), used.sum()
        assert table['n_pixels_fit'][2] == n_pixels
        assert_allclose(table['reduced_chi2'][2], chi2 / (n_pixels - 9),
                        rtol=1e-6)
        assert_allclose(table['bic'][2], chi2 + 9 * np.log(n_pixels),
                        rtol=1e-6)
        assert_allclose(table['nmse'][2],
                        chi2 / np.sum((data[used] / 0.1)**2), rtol=1e-6)
        assert_array_equal(table['bkg_size'], 14.0)
        assert_array_equal(table['bkg_order'], 1)

    def test_start_values_are_used(self):
        """
        Widths, angles, groups, and numbers come from the table; other
        names of the columns are understood.
        """
        data, init, truth = pair_and_single()
        expected = BlendGroupFitter(FWHM)(data, init_params=init)
        named = Table({'x': init['x_init'], 'y': init['y_init'],
                       'fwhm_major': truth['fwhm_major'],
                       'fwhm_minor': truth['fwhm_minor'],
                       'theta': np.deg2rad(truth['theta']) * u.rad,
                       'group_id': [7, 7, 3], 'id': [30, 10, 20]})
        table = BlendGroupFitter(FWHM)(data, init_params=named)
        assert_array_equal(table['id'], [30, 10, 20])
        assert_array_equal(table['group_id'], [1, 1, 2])
        assert_allclose(table['flux_fit'], expected['flux_fit'], rtol=1e-4)
        held = BlendGroupFitter(FWHM, fixed='shape')(
            data, init_params=named)
        for name in ('fwhm_major', 'fwhm_minor', 'theta'):
            assert_allclose(np.asarray(held[f'{name}_fit']), truth[name],
                            rtol=1e-12, err_msg=name)

    def test_swapped_start_widths(self):
        """
        A start whose "major" axis is the shorter one is turned by 90 deg.
        """
        data, init, _ = pair_and_single()
        init['fwhm_major_init'], init['fwhm_minor_init'] = 4.0, 5.0
        init['theta_init'] = 30.0
        table = BlendGroupFitter(FWHM, fixed='shape')(data,
                                                      init_params=init)
        assert_allclose(table['fwhm_major_fit'], 5.0)
        assert_allclose(table['theta_fit'].value, 120.0)

    def test_the_grouper_is_used(self):
        """
        photutils' grouper with any separation, or any other callable;
        but a blended pair is fitted together in any case.
        """
        data, init, _ = pair_and_single()
        for grouper, groups in ((SourceGrouper(8.0), [1, 1, 2]),
                                (SourceGrouper(200.0), [1, 1, 1]),
                                (lambda x, _: 9 - 3 * (x == x[2]),
                                 [1, 1, 2]),
                                (SourceGrouper(2.0), [1, 1, 2])):
            table = BlendGroupFitter(FWHM, grouper=grouper)(
                data, init_params=init)
            assert_array_equal(table['group_id'], groups)

    def test_sources_at_the_same_position_are_flagged(self):
        """
        Nothing separates their fluxes, and the flag says so.
        """
        data, init, _ = pair_and_single()
        table = BlendGroupFitter(FWHM)(data, init_params=init[[0, 2, 2]])
        same = (table['flags'] & FLAGS['same_position']) > 0
        assert_array_equal(same, [False, True, True])
        assert np.all(table['flags'][same] & FLAGS['no_covariance'])

    def test_no_sources_give_an_empty_table(self):
        data, init, _ = pair_and_single()
        fitter = BlendGroupFitter(FWHM)
        table = fitter(data, init_params=init[:0])
        assert len(table) == 0
        assert table.colnames == COLUMNS
        assert fitter.models == {}
        assert fitter.fit_info == []
        assert_array_equal(fitter.make_model_image(), 0.0)
        assert np.all(np.isnan(fitter.make_background_image()))

    def test_inputs_are_left_alone(self):
        data, init, _ = pair_and_single()
        data[3, 3] = np.nan
        copies = data.copy(), init.copy()
        BlendGroupFitter(FWHM)(data, init_params=init)
        assert_array_equal(data, copies[0])
        assert init.colnames == copies[1].colnames
        assert_array_equal(init['x_init'], copies[1]['x_init'])

    def test_integer_and_big_endian_data(self):
        """
        Data as FITS files have it.
        """
        data, init, _ = pair_and_single()
        counts = np.rint(1000.0 * data)
        expected = BlendGroupFitter(FWHM)(counts, init_params=init)
        for dtype in ('>i4', '>f8', 'int64'):
            table = BlendGroupFitter(FWHM)(counts.astype(dtype),
                                           init_params=init)
            assert_array_equal(table['flux_fit'], expected['flux_fit'])

    def test_near_to_astropy(self):
        """
        With the tolerance that the fitter gives the kernel, the fit is
        within a hundredth of an error of the minimum.
        """
        data, init, truth = pair_and_single()
        fitter = BlendGroupFitter(FWHM, poly_order=0)
        table = fitter(data, error=0.1, init_params=init)
        rows, cols = np.indices(data.shape)
        used = np.zeros(data.shape, dtype=bool)
        for row in init[:2]:
            used |= np.hypot(cols - np.rint(row['x_init']),
                             rows - np.rint(row['y_init'])) <= 2.0 * FWHM
        model, trf = fitter.models[1], TRFLSQFitter()
        for _ in range(3):
            model = trf(model, cols[used], rows[used], data[used],
                        weights=np.full(used.sum(), 10.0))
        for i in range(2):
            for name in ('amplitude', 'x', 'y'):
                value = getattr(model[i], name if name == 'amplitude'
                                else f'{name}_mean').value
                pull = ((table[f'{name}_fit'][i] - value)
                        / table[f'{name}_err'][i])
                assert abs(pull) < 0.01
        assert truth['amplitude'][0] > 0


class TestErrors:
    def test_pulls_are_one(self):
        """
        (Measured - true) / error has a mean near 0 and a scatter of 1
        in every column, for 972 isolated sources in white noise.

        The margins are five times the statistical errors, 1 / sqrt(972)
        and 1 / sqrt(2 972), plus the bias of second order in 1 / (S/N).
        """
        tables, truths = [], []
        for seed in range(3):
            data, init, truth = grid_of_sources(seed)
            tables.append(BlendGroupFitter(FWHM)(data, error=1.0,
                                                 init_params=init))
            truths.append(truth)
            assert_array_equal(tables[-1]['flags'], 0)
        for name, pull in pulls(tables, truths).items():
            assert abs(np.mean(pull)) < 0.16 + 0.05, name
            assert abs(np.std(pull) - 1.0) < 0.12, name
        chi2 = np.concatenate([table['reduced_chi2'] for table in tables])
        assert_allclose(np.mean(chi2), 1.0, atol=0.02)

    def test_pulls_are_one_without_error(self):
        """
        The same when the noise is taken from the residuals.
        """
        data, init, truth = grid_of_sources(5, noise=0.02)
        table = BlendGroupFitter(FWHM)(data, init_params=init)
        for name, pull in pulls([table], [truth]).items():
            assert abs(np.mean(pull)) < 0.28 + 0.05, name
            assert abs(np.std(pull) - 1.0) < 0.20, name
        assert_allclose(np.mean(table['reduced_chi2']), 0.02**2, rtol=0.02)

    def test_flux_error_has_the_covariances(self):
        """
        The scatter of the fluxes is what their errors say; without the
        covariances of amplitude and widths it would not be.
        """
        offset, stated, naive = [], [], []
        for seed in range(10, 13):
            data, init, truth = grid_of_sources(seed)
            table = BlendGroupFitter(FWHM)(data, error=1.0,
                                           init_params=init)
            offset.append(table['flux_fit'] - truth['flux'])
            stated.append(table['flux_err'])
            naive.append(table['flux_fit'] * np.sqrt(sum(
                (table[f'{name}_err'] / table[f'{name}_fit'])**2 for name in
                ('amplitude', 'fwhm_major', 'fwhm_minor'))))
        scatter = np.std(np.concatenate(offset))
        # the scatter of 972 values is known to 2.3 %
        assert_allclose(np.mean(stated), scatter, rtol=0.11)
        assert abs(np.mean(naive) / scatter - 1.0) > 0.15

    def test_without_error_the_covariance_is_scaled_as_in_astropy(self):
        """
        Without errors of the pixels, the covariance is that of astropy's
        fit without weights.
        """
        data, init, _ = pair_and_single()
        fitter = BlendGroupFitter(FWHM, poly_order=0)
        table = fitter(data, init_params=init[2:])
        rows, cols = np.indices(data.shape)
        used = np.hypot(cols - np.rint(init['x_init'][2]),
                        rows - np.rint(init['y_init'][2])) <= 2.0 * FWHM
        trf = TRFLSQFitter(calc_uncertainties=True)
        trf(fitter.models[1], cols[used], rows[used], data[used])
        expected = trf.fit_info['param_cov']
        sigma = np.sqrt(np.diag(expected))
        assert_allclose(fitter.fit_info[0]['covariance'] / sigma
                        / sigma[:, None], expected / sigma / sigma[:, None],
                        rtol=0, atol=1e-3)
        assert_allclose([table[f'{name}_err'][0] for name in
                         ('amplitude', 'x', 'y')], sigma[:3], rtol=1e-3)
        assert_allclose(table['fwhm_major_err'] * TO_SIGMA, sigma[3],
                        rtol=1e-3)
        assert_allclose(table['theta_err'][0].to_value('rad'), sigma[5],
                        rtol=1e-3)

    def test_errors_scale_with_the_noise(self):
        """
        Twice the errors of the pixels give the same fit with twice the
        errors; an error map is used pixel by pixel.
        """
        data, init, _ = pair_and_single()
        fitter = BlendGroupFitter(FWHM)
        once = fitter(data, error=0.1, init_params=init)
        twice = fitter(data, error=np.full(data.shape, 0.2),
                       init_params=init)
        for name in MEASURED:
            factor = 2.0 if name.endswith('_err') else 1.0
            assert_allclose(np.asarray(twice[name]),
                            factor * np.asarray(once[name]), rtol=1e-5,
                            err_msg=name)

    @pytest.mark.parametrize('solver', [
        GroupSolver(), GroupSolver(bias_correction=True)])
    @pytest.mark.parametrize('noise', [None, 'correlated'])
    @pytest.mark.parametrize('scale', [1e-25, 1e15])
    def test_fit_does_not_depend_on_the_scale_of_the_data(self, scale, noise,
                                                          solver):
        """
        Data in other units, such as W/m2, give the same fit in these.
        """
        data, init, _ = pair_and_single()
        init = init['x_init', 'y_init']
        once, scaled = (
            BlendGroupFitter(FWHM, solver=solver)(
                data * factor, init_params=init, noise=noise and (
                    CorrelatedNoise.from_beam(0.1 * factor, FWHM)))
            for factor in (1.0, scale))
        for name in ('amplitude', 'flux'):
            assert_allclose(scaled[f'{name}_fit'],
                            scale * once[f'{name}_fit'], rtol=1e-5)
            assert_allclose(scaled[f'{name}_err'],
                            scale * once[f'{name}_err'], rtol=1e-4)
        for name in ('x', 'y', 'fwhm_major', 'fwhm_minor'):
            assert_allclose(scaled[f'{name}_fit'], once[f'{name}_fit'],
                            rtol=1e-5)

    def test_round_source_has_no_angle(self):
        """
        The angle of a round source is unknown: its error is that of a
        uniform distribution, never infinite; all others are finite.
        """
        data = render((41, 41), 20.0, 20.0, 10.0, 5.0, 5.0, 0.0)
        init = QTable({'x_init': [20.2], 'y_init': [19.9]})
        table = BlendGroupFitter(FWHM)(data, error=0.1, init_params=init)
        assert_allclose(table['theta_err'].value, 180.0 / np.sqrt(12.0))
        assert all(np.isfinite(np.asarray(table[name])[0])
                   for name in MEASURED)


class TestMasks:
    def test_masked_pixels_have_no_influence(self):
        """
        Whatever a masked pixel holds, the result is the same to the
        last bit; NaN, infinity, and pixels without an error are masked.
        """
        data, init, _ = pair_and_single()
        bad = np.random.default_rng(1).random(data.shape) < 0.1
        fitter = BlendGroupFitter(FWHM)
        error = np.full(data.shape, 0.1)
        expected = fitter(data, mask=bad, error=error, init_params=init)
        assert np.all(expected['n_pixels_fit']
                      < fitter(data, init_params=init)['n_pixels_fit'])
        for value in (1e30, np.nan, np.inf, -np.inf):
            table = fitter(np.where(bad, value, data), mask=bad, error=error,
                           init_params=init)
            for name in COLUMNS:
                assert_array_equal(table[name], expected[name], err_msg=name)
        for table in (
                fitter(np.where(bad, np.nan, data), error=error,
                       init_params=init),
                fitter(data, error=np.where(bad, np.nan, error),
                       init_params=init)):
            for name in COLUMNS:
                assert_array_equal(table[name], expected[name], err_msg=name)

    def test_masked_pixels_may_have_no_error(self):
        """
        The error of a masked pixel does not matter, zero included.
        """
        data, init, _ = pair_and_single()
        bad = np.random.default_rng(1).random(data.shape) < 0.1
        fitter = BlendGroupFitter(FWHM)
        error = np.full(data.shape, 0.1)
        expected = fitter(data, mask=bad, error=error, init_params=init)
        error[bad] = 0.0
        table = fitter(data, mask=bad, error=error, init_params=init)
        assert_array_equal(table['flux_fit'], expected['flux_fit'])

    def test_truth_is_found_through_holes(self):
        """
        Holes in the footprint do not bias, and are flagged.
        """
        data, init, truth = pair_and_single(noise=0.0)
        mask = np.random.default_rng(2).random(data.shape) < 0.3
        table = BlendGroupFitter(FWHM)(data, mask=mask, init_params=init)
        assert_allclose(table['amplitude_fit'], truth['amplitude'],
                        rtol=1e-4)
        assert np.all(table['flags'] & FLAGS['n_pixels_fit_partial'])


class TestFailures:
    def test_rows_are_never_lost(self):
        """
        Sources off the map, on masked pixels, without position, or
        without pixels are rows of NaN with a flag, in their place.
        """
        data, init, _ = pair_and_single()
        rows, cols = np.indices(data.shape)
        mask = np.hypot(cols - 50, rows - 10) < 6.0
        # In a corner of the map, this leaves 9 of the 17 pixels of the core
        # that are on the map: too few for a fit of 9 parameters.
        mask |= (np.hypot(cols, rows - 99) < 12.0) & (rows - 99 <= -2)
        mask[98, 4:12] = True
        mask[99, 5:12] = True
        places = QTable({
            'x_init': [np.nan, 30.4, 50.0, -20.0, 34.7, 0.0, 70.2, 5000.0,
                       60.0],
            'y_init': [10.0, 29.7, 10.0, 30.0, 30.7, 99.0, 68.4, -5000.0,
                       np.inf]})
        fitter = BlendGroupFitter(FWHM)
        table = fitter(data, mask=mask, init_params=places)
        assert_array_equal(table['id'], np.arange(1, 10))
        assert_array_equal(table['x_init'], places['x_init'])
        expected = BlendGroupFitter(FWHM)(data, init_params=init)
        good = [1, 4, 6]
        assert_allclose(table['flux_fit'][good], expected['flux_fit'],
                        rtol=1e-4)
        bad = [0, 2, 3, 5, 7, 8]
        for name in MEASURED + ['local_bkg', 'nmse', 'reduced_chi2', 'bic']:
            assert np.all(np.isnan(np.asarray(table[name])[bad])), name
            assert np.all(np.isfinite(np.asarray(table[name])[good])), name
        names = fitter.decode_flags(table['flags'])
        assert names == [['off_map'], [], ['off_map'], ['off_map'], [],
                         ['n_pixels_fit_partial', 'too_few_pixels'], [],
                         ['off_map'], ['off_map']]
        # what was not fitted is in no image
        assert_allclose(
            fitter.make_model_image(),
            render(data.shape, *(np.asarray(table[f'{name}_fit'])[good]
                                 for name in ('x', 'y', 'amplitude',
                                              'fwhm_major', 'fwhm_minor',
                                              'theta'))), atol=1e-6)

    def test_all_bad(self):
        data, _, _ = pair_and_single()
        init = QTable({'x_init': [-50.0, np.nan], 'y_init': [3.0, 4.0]})
        fitter = BlendGroupFitter(FWHM)
        table = fitter(data, init_params=init)
        assert np.all(np.isnan(table['flux_fit']))
        assert_array_equal(table['flags'], FLAGS['off_map'])
        assert np.all(np.isnan(fitter.make_background_image()))

    def test_masked_positions_of_a_table(self):
        data, init, _ = pair_and_single()
        masked = Table({'x_init': np.ma.array(init['x_init'],
                                              mask=[False, True, False]),
                        'y_init': init['y_init']})
        table = BlendGroupFitter(FWHM)(data, init_params=masked)
        assert_array_equal(np.isnan(table['flux_fit']), [False, True, False])

    def test_source_on_the_edge_is_measured(self):
        """
        Half a source on the map is enough, without bias.
        """
        x, y = np.array([0.2, 40.0]), np.array([40.0, 79.4])
        data = 1.0 + render((80, 80), x, y, 20.0, 5.0, 4.0, 30.0)
        init = QTable({'x_init': x + 0.2, 'y_init': y - 0.2})
        fitter = BlendGroupFitter(FWHM)
        table = fitter(data, init_params=init)
        assert_allclose(table['amplitude_fit'], 20.0, rtol=1e-4)
        assert fitter.decode_flags(table['flags']) == [
            ['n_pixels_fit_partial']] * 2

    def test_too_few_iterations_are_flagged(self):
        data, init, _ = pair_and_single()
        fitter = BlendGroupFitter(FWHM, solver=GroupSolver(max_iter=1))
        table = fitter(data, init_params=init)
        assert fitter.decode_flags(table['flags']) == [
            ['no_convergence']] * 3
        assert not any(info['converged'] for info in fitter.fit_info)

    def test_no_source_at_all(self):
        """
        A fit to nothing but noise has a row that is finite or flagged,
        without a warning.
        """
        rng = np.random.default_rng(3)
        init = QTable({'x_init': rng.uniform(5, 95, 30),
                       'y_init': rng.uniform(5, 95, 30)})
        for data in (rng.normal(size=(100, 100)), np.zeros((100, 100)),
                     np.ones((100, 100))):
            fitter = BlendGroupFitter(FWHM)
            table = fitter(data, init_params=init)
            assert len(table) == 30
            odd = ~np.isfinite(table['flux_err'])
            assert np.all(table['flags'][odd] != 0)
            assert np.all(np.isfinite(fitter.make_model_image()))

    def test_bounds_are_respected_and_flagged(self):
        """
        Widths and positions end inside their bounds; those that end at
        one say so.
        """
        data = render((61, 61), 30.0, 30.0, 10.0, 12.0, 3.0, 40.0)
        init = QTable({'x_init': [31.0], 'y_init': [30.0]})
        fitter = BlendGroupFitter(FWHM, fwhm_range=(1.0, 2.0),
                                  max_shift=0.5)
        table = fitter(data, init_params=init)
        assert_allclose(table['fwhm_major_fit'], 8.0)
        assert_allclose(table['fwhm_minor_fit'], 4.0)
        assert_allclose(table['x_fit'], 30.5)
        assert fitter.decode_flags(table['flags']) == [['near_bound']]
        table = BlendGroupFitter(FWHM, fwhm_range=(0.5, 4.0))(
            data, init_params=init)
        assert_array_equal(table['flags'], 0)


class TestFixed:
    def test_positions(self):
        """
        Fixed positions stay to the last bit, with error zero and a flag.
        """
        data, init, truth = pair_and_single(noise=0.0)
        fitter = BlendGroupFitter(FWHM, fixed=('position',))
        table = fitter(data, init_params=init)
        for axis in 'xy':
            assert_array_equal(table[f'{axis}_fit'], init[f'{axis}_init'])
            assert_array_equal(table[f'{axis}_err'], 0.0)
        assert fitter.decode_flags(table['flags']) == [
            ['fixed_position']] * 3
        right = QTable({'x_init': truth['x'], 'y_init': truth['y']})
        table = fitter(data, init_params=right)
        assert_allclose(table['amplitude_fit'], truth['amplitude'],
                        rtol=1e-5)

    def test_shapes(self):
        """
        Fixed widths and angles stay to the last bit, even out of the
        bounds of free ones.
        """
        data, init, _ = pair_and_single()
        init['fwhm_major_init'] = [5.0, 5.5, 13.0]
        init['fwhm_minor_init'] = [4.0, 0.3, 4.0]
        init['theta_init'] = [20.0, 110.0, 160.0] * u.deg
        fitter = BlendGroupFitter(FWHM, fixed='shape')
        table = fitter(data, init_params=init)
        for name in ('fwhm_major', 'fwhm_minor', 'theta'):
            assert_allclose(np.asarray(table[f'{name}_fit']),
                            np.asarray(init[f'{name}_init']), rtol=1e-14)
            assert_array_equal(np.asarray(table[f'{name}_err']), 0.0)
        assert all('fixed_shape' in names
                   for names in fitter.decode_flags(table['flags']))

    def test_flux_error_of_a_fixed_source(self):
        """
        With all but the amplitude fixed, the error of the flux is that
        of the amplitude.
        """
        data, init, _ = pair_and_single()
        table = BlendGroupFitter(FWHM, fixed=('position', 'shape'))(
            data, error=0.1, init_params=init)
        assert_allclose(table['flux_err'] / table['flux_fit'],
                        table['amplitude_err'] / table['amplitude_fit'])


class TestGroups:
    def test_large_groups_are_split(self):
        """
        A chain of 40 blended sources is fitted in parts of at most 10,
        flagged, and with right fluxes: the models of the other parts are
        taken away. (At the ends of the parts that is not as good as a
        joint fit: hence the flag.)
        """
        x = 20.0 + 5.0 * np.arange(40)
        y = 30.0 + 2.0 * (np.arange(40) % 2)
        data = 1.0 + render((60, 240), x, y, 10.0, 5.0, 4.2, 60.0)
        data += 0.05 * np.random.default_rng(4).normal(size=data.shape)
        init = QTable({'x_init': x + 0.2, 'y_init': y})
        whole = BlendGroupFitter(FWHM, solver=GroupSolver(max_group_size=40))
        expected = whole(data, error=0.05, init_params=init)
        assert_array_equal(expected['group_size'], 40)
        assert_array_equal(expected['flags'], 0)
        fitter = BlendGroupFitter(FWHM, solver=GroupSolver(max_group_size=10))
        table = fitter(data, error=0.05, init_params=init)
        assert np.max(table['group_size']) <= 10
        assert fitter.decode_flags(table['flags']) == [['group_split']] * 40
        true = np.pi / (4.0 * np.log(2.0)) * 10.0 * 5.0 * 4.2
        for result, worst in ((table, 0.2), (expected, 0.05)):
            ratio = result['flux_fit'] / true
            assert np.max(np.abs(ratio - 1.0)) < worst
            assert abs(np.median(ratio) - 1.0) < 0.01

    def test_overlapping_groups_do_not_diverge(self):
        """
        A lattice of sources that overlap on all sides, each of them in a
        group of its own: groups that are fitted at the same time must not
        drive each other away. (Undamped iterations gave fluxes of -9 to 24
        times the true ones.)
        """
        rng = np.random.default_rng(1)
        grid = 20.0 + 1.6 * FWHM * np.arange(5)
        x, y = (axis.ravel() for axis in np.meshgrid(grid, grid))
        width = 1.5 * FWHM
        data = 1.0 + render((66, 66), x, y, 10.0, width, width, 0.0)
        data += 0.1 * rng.normal(size=data.shape)
        init = QTable({'x_init': x + 0.2 * rng.normal(size=25),
                       'y_init': y + 0.2 * rng.normal(size=25),
                       'position_prior': np.full(25, 0.5)})
        fitter = BlendGroupFitter(FWHM, solver=GroupSolver(max_group_size=1))
        table = fitter(data, error=0.1, init_params=init)
        true = np.pi / (4.0 * np.log(2.0)) * 10.0 * width**2
        ratio = table['flux_fit'] / true
        assert np.min(ratio) > 0.0
        assert np.max(ratio) < 2.0

    @pytest.mark.parametrize('amplitude', [[10.0, 10.0], [10.0, 40.0]])
    def test_neighbors_in_other_groups_do_not_bias(self, amplitude):
        """
        Two sources that overlap, but are far enough from each other to be
        in two groups at first, have their true sizes and fluxes.
        """
        x, y = np.array([30.0, 38.5]), np.array([30.0, 31.0])
        amplitude = np.array(amplitude)
        data = 3.0 + render((60, 70), x, y, amplitude, 6.0, 4.5, 10.0)
        init = QTable({'x_init': x + 0.2, 'y_init': y})
        assert len(set(SourceGrouper(2.0 * FWHM)(x, y))) == 2
        table = BlendGroupFitter(FWHM)(data, init_params=init)
        assert_allclose(table['x_fit'], x, rtol=0, atol=0.05)
        assert_allclose(table['amplitude_fit'], amplitude, rtol=0.02)
        flux = np.pi / (4.0 * np.log(2.0)) * 27.0 * amplitude
        assert_allclose(table['flux_fit'], flux, rtol=0.03)

    def test_groups_do_not_depend_on_each_other(self):
        """
        Far groups, of other sizes or many of them, change nothing; nor
        does the order of the sources.
        """
        data, init, _ = grid_of_sources(6)
        fitter = BlendGroupFitter(FWHM)
        table = fitter(data, error=1.0, init_params=init)
        order = np.random.default_rng(0).permutation(324)
        shuffled = fitter(data, error=1.0, init_params=init[order])
        alone = fitter(data, error=1.0, init_params=init[:3])
        for name in MEASURED:
            values = np.asarray(table[name])
            assert_allclose(np.asarray(shuffled[name]), values[order],
                            rtol=1e-3, err_msg=name)
            assert_allclose(np.asarray(alone[name]), values[:3], rtol=1e-3,
                            err_msg=name)

    def test_groups_that_merge_change_no_distant_ones(self):
        """
        Groups that move each other are merged; those far away end at the
        same values with and without them.
        """
        merging = {'x': [20.0, 28.5], 'y': [60.0, 61.0],
                   'amplitude': [10.0, 40.0], 'fwhm_major': 6.0,
                   'fwhm_minor': 4.5, 'theta': 10.0}
        x, y = np.meshgrid([70.0, 79.5, 100.0, 110.0],
                           np.arange(15.0, 110.0, 30.0))
        settling = {'x': x.ravel(), 'y': y.ravel(),
                    'amplitude': np.linspace(5.0, 40.0, x.size),
                    'fwhm_major': 5.0, 'fwhm_minor': 4.2, 'theta': 70.0}
        data = np.random.default_rng(3).normal(0.0, 0.2, (120, 130))
        data += render(data.shape, **settling)
        init = QTable({'x_init': settling['x'] + 0.2,
                       'y_init': settling['y']})
        fitter = BlendGroupFitter(FWHM)
        alone = fitter(data, error=0.2, init_params=init)
        others = QTable({'x_init': merging['x'], 'y_init': merging['y']})
        table = fitter(data + render(data.shape, **merging), error=0.2,
                       init_params=vstack([init, others]))
        assert table['group_size'][-1] == 2
        assert np.all(alone['group_size'] == 1)
        for name in MEASURED:
            assert_allclose(np.asarray(table[name][:x.size]),
                            np.asarray(alone[name]), rtol=1e-8, err_msg=name)


class TestImages:
    def test_model_image(self):
        """
        The image is the sum of the Gaussians of the table.
        """
        data, init, _ = pair_and_single()
        fitter = BlendGroupFitter(FWHM)
        table = fitter(data, init_params=init)
        expected = render(data.shape, *(
            np.asarray(table[f'{name}_fit']) for name in
            ('x', 'y', 'amplitude', 'fwhm_major', 'fwhm_minor', 'theta')))
        assert_allclose(fitter.make_model_image(), expected, atol=1e-6)
        assert_allclose(fitter.make_model_image((50, 60)),
                        expected[:50, :60], atol=1e-6)

    def test_models_are_the_images(self):
        """
        Inside the footprint of a group, its astropy model is the model
        image plus the background image, which is NaN elsewhere.
        """
        data, init, _ = pair_and_single()
        fitter = BlendGroupFitter(FWHM)
        table = fitter(data, init_params=init)
        image = fitter.make_model_image() + fitter.make_background_image()
        rows, cols = np.indices(data.shape)
        everywhere = np.zeros(data.shape, dtype=bool)
        assert set(fitter.models) == {1, 2}
        for group, model in fitter.models.items():
            inside = np.zeros(data.shape, dtype=bool)
            for row in table[table['group_id'] == group]:
                inside |= np.hypot(cols - np.rint(row['x_init']),
                                   rows - np.rint(row['y_init'])) <= 8.0
            assert_allclose(image[inside], model(cols, rows)[inside],
                            atol=1e-5)
            everywhere |= inside
            n_sources = np.sum(table['group_id'] == group)
            assert model.n_submodels == n_sources + 1
        assert_array_equal(np.isfinite(image), everywhere)

    def test_residual_image(self):
        """
        Data minus sources minus background; outside the footprints the
        background is left. It is noise where sources were fitted.
        """
        data, init, _ = pair_and_single()
        fitter = BlendGroupFitter(FWHM)
        fitter(data, init_params=init)
        residual = fitter.make_residual_image(data)
        background = fitter.make_background_image()
        inside = np.isfinite(background)
        model = fitter.make_model_image()
        assert_allclose(residual[inside], (data - model - background)[inside])
        assert_allclose(residual[~inside], (data - model)[~inside])
        assert_allclose(np.std(residual[inside]), 0.1, rtol=0.1)
        assert abs(np.mean(residual[inside])) < 0.01

    def test_images_are_of_the_last_call(self):
        data, init, _ = pair_and_single()
        fitter = BlendGroupFitter(FWHM)
        fitter(data, init_params=init)
        assert len(fitter.models) == 2
        fitter(data, init_params=init[2:])
        assert list(fitter.models) == [1]
        assert fitter.make_model_image()[30, 30] < 1e-6


class TestFitInfo:
    def test_content(self):
        data, init, _ = pair_and_single()
        fitter = BlendGroupFitter(FWHM)
        table = fitter(data, error=0.1, init_params=init)
        infos = {info['group_id']: info for info in fitter.fit_info}
        assert set(infos) == set(fitter.models) == {1, 2}
        for group, info in infos.items():
            own = table[table['group_id'] == group]
            assert_array_equal(info['id'], own['id'])
            assert info['converged'] is True
            assert 0 < info['n_iter'] <= 100
            assert info['n_pixels'] == own['n_pixels_fit'][0]
            n_params = len(fitter.models[group].parameters)
            assert info['covariance'].shape == (n_params, n_params)
            assert_allclose(
                info['chi2'], own['reduced_chi2'][0]
                * (info['n_pixels'] - n_params), rtol=1e-10)

    def test_covariance_is_in_the_order_of_the_model(self):
        """
        The diagonal belongs to the model's parameters, one by one.
        """
        data, init, _ = pair_and_single()
        fitter = BlendGroupFitter(FWHM)
        table = fitter(data, error=0.1, init_params=init)
        info = fitter.fit_info[-1]
        names = fitter.models[info['group_id']].param_names
        sigma = dict(zip(names, np.sqrt(np.diag(info['covariance'])),
                         strict=True))
        for i, row in enumerate(info['id']):
            row = table[row - 1]
            assert_allclose(
                [sigma[f'{name}_{i}'] for name in
                 ('amplitude', 'x_mean', 'y_mean', 'x_stddev', 'y_stddev',
                  'theta')],
                [row['amplitude_err'], row['x_err'], row['y_err'],
                 row['fwhm_major_err'] * TO_SIGMA,
                 row['fwhm_minor_err'] * TO_SIGMA,
                 row['theta_err'].to_value('rad')], rtol=1e-6)

    def test_before_the_first_call(self):
        fitter = BlendGroupFitter(FWHM)
        match = 'no fit has been made yet'
        with pytest.raises(ValueError, match=match):
            fitter.make_model_image()
        with pytest.raises(ValueError, match=match):
            fitter.make_background_image()
        with pytest.raises(ValueError, match=match):
            _ = fitter.models
        with pytest.raises(ValueError, match=match):
            _ = fitter.fit_info
        with pytest.raises(ValueError, match=match):
            fitter.make_residual_image()
        with pytest.raises(ValueError, match=match):
            fitter.results_to_init_params()
        assert fitter.results is None

    def test_interface_is_that_of_photutils(self):
        """
        Arguments with the names and the order of ``PSFPhotometry``, the
        same for all classes, and few of them.
        """
        from inspect import signature

        from photutils.psf import PSFPhotometry

        from hyperphotutils.photometry import HyperPhotometry

        assert len(signature(BlendGroupFitter).parameters) <= 10
        call = signature(BlendGroupFitter.__call__)
        assert list(call.parameters)[:5] == ['self', 'data', 'init_params',
                                             'mask', 'error']
        theirs, ours = ([parameter.replace(annotation=parameter.empty)
                         for parameter in signature(
                             cls.results_to_init_params).parameters.values()]
                        for cls in (PSFPhotometry, BlendGroupFitter))
        assert ours == theirs
        for name in ('make_model_image', 'make_background_image',
                     'make_residual_image', 'results_to_init_params',
                     'total_flux', 'decode_flags'):
            assert signature(getattr(BlendGroupFitter, name)) == signature(
                getattr(HyperPhotometry, name)), name
        for name in ('make_model_image', 'make_residual_image'):
            theirs = signature(getattr(PSFPhotometry, name)).parameters
            ours = signature(getattr(BlendGroupFitter, name)).parameters
            assert list(ours) == [
                key for key in theirs if key != 'psf_shape']

    def test_results_start_another_fit(self):
        """
        In which values stay within a part of their errors; rows without
        a fit are left out, or kept with their id.
        """
        data, init, _ = pair_and_single()
        init = vstack([QTable({'x_init': [-30.0], 'y_init': [5.0]}),
                       init['x_init', 'y_init']])
        fitter = BlendGroupFitter(FWHM)
        table = fitter(data, init)
        assert fitter.results is table
        assert_array_equal(
            fitter.results_to_init_params(remove_invalid=False)['id'],
            table['id'])
        assert_array_equal(
            fitter.results_to_init_params(reset_ids=False)['id'],
            table['id'][1:])
        again = fitter.results_to_init_params()
        assert_array_equal(again['id'], np.arange(1, len(table)))
        refit = BlendGroupFitter(FWHM)(data, again)
        change = refit['flux_fit'] - table['flux_fit'][1:]
        assert np.all(np.abs(change) < 0.5 * table['flux_err'][1:])

    def test_residual_of_the_fitted_data(self):
        """
        By default it is that of the data of the call, and the background
        can be left in it.
        """
        data, init, _ = pair_and_single()
        fitter = BlendGroupFitter(FWHM)
        fitter(data << u.Jy, init)
        expected = fitter.make_residual_image(data << u.Jy)
        assert_array_equal(fitter.make_residual_image(), expected)
        sources = fitter.make_residual_image(include_local_bkg=False)
        background = fitter.make_background_image()
        near = np.isfinite(background)
        assert_allclose((sources - background)[near].value,
                        expected[near].value, atol=1e-12)
        whole = fitter.make_model_image(include_local_bkg=True)
        assert_allclose((data << u.Jy) - whole, expected, atol=1e-12 * u.Jy)

    def test_repr_makes_the_same_object(self):
        fitter = BlendGroupFitter(
            3.5, poly_order=0, fixed='position', solver=GroupSolver(
                max_group_size=7))
        copy = eval(repr(fitter), {
            'BlendGroupFitter': BlendGroupFitter,
            'GroupSolver': GroupSolver,
            'SeparationGrouper': SeparationGrouper})
        assert repr(copy) == repr(fitter)
        assert copy.fixed == ('position',)

    def test_progress_bar(self, capsys):
        data, init, _ = pair_and_single()
        BlendGroupFitter(FWHM)(data, init_params=init)
        assert capsys.readouterr().err == ''
        BlendGroupFitter(FWHM, progress_bar=True)(data, init_params=init)
        assert 'Fit source groups' in capsys.readouterr().err


class TestBadInput:
    @pytest.mark.parametrize(('kwargs', 'error', 'match'), [
        ({'fwhm': 0.0}, ValueError,
         'fwhm must be a positive number of pixels: 0.0'),
        ({'fwhm': -1.0}, ValueError, 'fwhm must be a positive number'),
        ({'fwhm': np.nan}, ValueError, 'fwhm must be a positive number'),
        ({'fwhm': np.inf}, ValueError, 'fwhm must be a positive number'),
        ({'fwhm': [4.0]}, ValueError, 'fwhm must be a positive number'),
        ({'fwhm': '4'}, (TypeError, ValueError), 'fwhm must be'),
        ({'fwhm': None}, (TypeError, ValueError), 'fwhm must be'),
        ({'poly_order': 5}, ValueError, 'poly_order must be an integer'),
        ({'poly_order': -2}, ValueError, 'poly_order must be an integer'),
        ({'poly_order': 1.5}, ValueError, 'poly_order must be an integer'),
        ({'poly_order': '1'}, ValueError, 'poly_order must be an integer'),
        ({'fit_radius': 0.0}, ValueError, 'fit_radius must be a positive'),
        ({'fit_radius': 'a'}, (TypeError, ValueError), 'fit_radius must be'),
        ({'max_shift': -2.0}, ValueError, 'max_shift must be a positive'),
        ({'fwhm_range': (2.0, 1.0)}, ValueError, 'fwhm_range must be two'),
        ({'fwhm_range': (0.0, 1.0)}, ValueError, 'fwhm_range must be two'),
        ({'fwhm_range': 2.0}, ValueError, 'fwhm_range must be two'),
        ({'fwhm_range': (np.nan, 1)}, ValueError, 'fwhm_range must be two'),
        ({'fwhm_range': ('a', 'b')}, ValueError, 'fwhm_range must be two'),
        ({'fixed': 'amplitude'}, ValueError,
         "fixed can contain only .*: .'amplitude'"),
        ({'fixed': 5}, (TypeError, ValueError), 'fixed can'),
        ({'grouper': 5}, TypeError, 'grouper must be callable: 5'),
        ({'solver': 'trf'}, TypeError,
         "solver must be a GroupSolver or None: 'trf'"),
    ])
    def test_constructor(self, kwargs, error, match):
        with pytest.raises(error, match=match):
            BlendGroupFitter(**({'fwhm': FWHM} | kwargs))

    @pytest.mark.parametrize(('kwargs', 'error', 'match'), [
        ({'astropy_fitter': 'trf'}, TypeError,
         "astropy_fitter must be .*: 'trf'"),
        ({'max_group_size': 0}, ValueError, 'max_group_size must be a pos'),
        ({'max_group_size': 2.5}, ValueError, 'max_group_size must be a'),
        ({'max_iter': 0}, ValueError, 'max_iter must be a positive integer'),
    ])
    def test_solver(self, kwargs, error, match):
        with pytest.raises(error, match=match):
            GroupSolver(**kwargs)

    @pytest.mark.parametrize(('kwargs', 'error', 'match'), [
        ({'data': np.zeros(5)}, ValueError, 'data must be 2D'),
        ({'data': np.zeros((5, 5), complex)}, TypeError,
         'data must be an array of real numbers'),
        ({'data': np.full((9, 9), np.nan)}, ValueError,
         'data has no usable pixel'),
        ({'mask': np.zeros((3, 3), bool)}, ValueError,
         'mask must have the shape of data'),
        ({'mask': np.ones((60, 60), bool)}, ValueError,
         'data has no usable pixel'),
        ({'error': np.ones((3, 3))}, ValueError,
         'error must be a number or have the shape of data'),
        ({'error': 0.0}, ValueError, 'error must be positive'),
        ({'error': -np.ones((60, 60))}, ValueError,
         'error must be positive'),
        ({'error': 1.0 * u.Jy}, ValueError,
         'data, error must all have the same unit'),
        ({'data': np.ones((60, 60)) * u.Jy, 'error': 1.0 * u.mJy},
         ValueError, 'data, error must all have the same unit'),
    ])
    def test_call(self, kwargs, error, match):
        init = QTable({'x_init': [3.0], 'y_init': [4.0]})
        kwargs = {'data': np.ones((60, 60)), 'init_params': init} | kwargs
        with pytest.raises(error, match=match):
            BlendGroupFitter(FWHM)(kwargs.pop('data'), **kwargs)

    @pytest.mark.parametrize(('init', 'error', 'match'), [
        (None, TypeError, 'init_params must be an astropy Table, got None'),
        ({'x': [1.0], 'y': [1.0]}, TypeError,
         'init_params must be an astropy Table, got dict'),
        (Table({'x_init': [1.0]}), ValueError,
         'init_params needs the column y_init'),
        (Table({'a': [1.0]}), ValueError,
         'init_params needs the column x_init .*; it has a'),
        (Table(), ValueError,
         'init_params needs the column x_init .*; it has no columns$'),
        (Table({'RA': [1.0], 'DEC': [1.0]}), ValueError,
         'it has RA, DEC; hyperphotutils.utils.sources_to_pixels makes it '
         'from the positions on the sky'),
        (Table({'x': [1.0] * u.arcsec, 'y': [1.0]}), ValueError,
         'column x of init_params must be in pixels: arcsec'),
        (Table({'x': ['a'], 'y': [1.0]}), (TypeError, ValueError),
         'column x of init_params must'),
        (Table({'x': [[1.0, 2.0]], 'y': [[1.0, 2.0]]}), ValueError,
         'column x of init_params must'),
        (Table({'x': [1.0], 'y': [1.0], 'theta': [1.0] * u.m}), ValueError,
         'column theta of init_params must be'),
        (Table({'x': [1.0, 1.0], 'y': [1.0, 1.0], 'fwhm_minor': [1.0, 0.0]}),
         ValueError, 'widths in init_params must be positive: 0.0 in row 1'),
        (Table({'x': [1.0], 'y': [1.0], 'fwhm_major': [-1.0]}),
         ValueError, 'widths in init_params must be positive: -1.0'),
        (Table({'x': [1.0], 'y': [1.0], 'group_id': ['a']}),
         (TypeError, ValueError), 'column group_id of init_params must'),
        (Table({'x': [1.0], 'y': [1.0], 'group_id': [np.nan]}),
         (TypeError, ValueError), 'column group_id of init_params must'),
    ])
    def test_init_params(self, init, error, match):
        with pytest.raises(error, match=match):
            BlendGroupFitter(FWHM)(np.ones((60, 60)), init_params=init)

    def test_grouper_with_a_wrong_answer(self):
        """
        A grouper that does not give one group a source is named.
        """
        data, init, _ = pair_and_single()
        fitter = BlendGroupFitter(
            FWHM, grouper=lambda x, _: np.ones(7 * len(x), dtype=int))
        with pytest.raises(ValueError, match='grouper'):
            fitter(data, init_params=init)


def test_memory_is_free_when_the_fitter_is():
    """
    The images and factors of a fit do not wait for the garbage collector,
    also of a fitter that is called again.
    """
    data, init = pair_and_single()[:2]
    fitter = BlendGroupFitter(fwhm=4.0)
    gc.disable()
    try:
        fits = []
        for _ in range(2):
            fitter(data, init)
            fits.append(weakref.ref(fitter._fit))
        assert [fit() is None for fit in fits] == [True, False]
        del fitter
        assert fits[1]() is None
    finally:
        gc.enable()


def test_psf_with_a_unit_is_refused():
    psf = np.ones((3, 3)) / 9.0 * u.Jy
    with pytest.raises(TypeError, match=r'psf must have no unit, .*: got Jy'):
        BlendGroupFitter(3.0, psf=psf)
