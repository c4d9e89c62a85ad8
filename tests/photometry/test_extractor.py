# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the extractor module.
"""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.modeling.fitting import LevMarLSQFitter, TRFLSQFitter
from astropy.modeling.models import Gaussian2D
from astropy.nddata import (
    CCDData,
    InverseVariance,
    NDData,
    StdDevUncertainty,
    VarianceUncertainty,
)
from astropy.table import QTable
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal
from photutils.detection import DAOStarFinder
from photutils.psf import SourceGrouper
from photutils.utils.exceptions import NoDetectionsWarning
from scipy.ndimage import gaussian_filter
from threadpoolctl import threadpool_info, threadpool_limits

from hyperphotutils.blend import (
    BlendGroupFitter,
    GroupSolver,
    SeparationGrouper,
)
from hyperphotutils.datasets import make_blended_map
from hyperphotutils.detection import HighPassStarFinder
from hyperphotutils.noise import CorrelatedNoise
from hyperphotutils.photometry import HyperPhotometry, search
from hyperphotutils.utils import (
    FLAGS,
    add_gaussians,
    gaussian_flux,
    local_jacobian,
    pixel_to_sky_ellipse,
)

FWHM = 4.0
TO_SIGMA = 1.0 / np.sqrt(8.0 * np.log(2.0))
TO_FLUX = np.pi / (4.0 * np.log(2.0))
COLUMNS = [
    'id', 'group_id', 'group_size', 'x_init', 'y_init', 'x_fit', 'y_fit',
    'x_err', 'y_err', 'amplitude_fit', 'amplitude_err', 'fwhm_major_fit',
    'fwhm_major_err', 'fwhm_minor_fit', 'fwhm_minor_err', 'theta_fit',
    'theta_err', 'flux_fit', 'flux_err', 'aperture_flux',
    'aperture_flux_err', 'aperture_correction', 'aperture_residual',
    'local_bkg', 'bkg_order', 'bkg_method', 'bkg_size', 'snr',
    'shoulder_score', 'nmse', 'reduced_chi2', 'bic', 'n_pixels_fit',
    'flags']
SKY_COLUMNS = ['sky_centroid', 'lon_err', 'lat_err', 'fwhm_major_sky',
               'fwhm_major_sky_err', 'fwhm_minor_sky', 'fwhm_minor_sky_err',
               'position_angle', 'position_angle_err']
VALUES = ['amplitude_fit', 'amplitude_err', 'local_bkg']
FLUXES = ['flux_fit', 'flux_err', 'aperture_flux', 'aperture_flux_err',
          'aperture_residual']


def plain(column):
    """
    The values of a column.
    """
    return np.asarray(getattr(column, 'value', column))


def white_map(*, seed=0, noise=1.0):
    """
    Sixteen isolated sources on white noise and a sloped background.
    """
    rng = np.random.default_rng(seed)
    y, x = (40.0 * grid.ravel() + rng.uniform(15, 25, 16)
            for grid in np.mgrid[:4, :4])
    truth = QTable({'x': x, 'y': y,
                    'amplitude': rng.uniform(20.0, 60.0, 16),
                    'fwhm_major': rng.uniform(5.0, 6.5, 16),
                    'fwhm_minor': rng.uniform(3.8, 4.6, 16),
                    'theta': rng.uniform(0.0, 180.0, 16)})
    rows, cols = np.indices((160, 160))
    data = 10.0 + 0.02 * cols + noise * rng.normal(size=rows.shape)
    for row in truth:
        data += gaussian(row)(cols, rows)
    truth['flux'] = (TO_FLUX * truth['amplitude'] * truth['fwhm_major']
                     * truth['fwhm_minor'])
    return data, truth


def gaussian(row):
    """
    The astropy model of a row of the truth.
    """
    return Gaussian2D(row['amplitude'], row['x'], row['y'],
                      row['fwhm_major'] * TO_SIGMA,
                      row['fwhm_minor'] * TO_SIGMA,
                      theta=np.deg2rad(row['theta']))


def matched(table, truth):
    """
    The row of the table that is nearest to each true source.
    """
    distance = np.hypot(plain(table['x_fit']) - truth['x'][:, None],
                        plain(table['y_fit']) - truth['y'][:, None])
    nearest = np.argmin(distance, axis=1)
    assert np.all(np.min(distance, axis=1) < 1.0)
    assert len(set(nearest)) == len(truth)
    return table[nearest]


def assert_equal_tables(table, expected, *, skip=()):
    """
    Two tables with the same numbers.
    """
    for name in COLUMNS:
        if name not in skip:
            assert_array_equal(plain(table[name]), plain(expected[name]),
                               err_msg=name)


class TestSources:
    def test_isolated_sources(self):
        """
        All isolated sources are found, nothing else, and every column is
        within five errors of the truth.
        """
        data, truth = white_map()
        table = HyperPhotometry(FWHM)(data)
        assert len(table) == 16
        table = matched(table, truth)
        for name in ('x', 'y', 'amplitude', 'fwhm_major', 'fwhm_minor',
                     'theta', 'flux'):
            offset = plain(table[f'{name}_fit']) - truth[name]
            if name == 'theta':
                offset = (offset + 90.0) % 180.0 - 90.0
            pull = offset / plain(table[f'{name}_err'])
            assert np.all(np.abs(pull) < 5.0), name
        pull = (table['aperture_flux'] - truth['flux']) / table['flux_err']
        assert np.all(np.abs(pull) < 5.0)
        assert_array_equal(table['group_size'], 1)
        assert_array_equal(table['flags'], 0)
        background = 10.0 + 0.02 * truth['x']
        assert_allclose(table['local_bkg'], background, atol=1.0)

    def test_noise_and_snr(self):
        """
        The rms is the noise of the map, ``snr`` is the peak in units of
        it, and ``reduced_chi2`` is near one.
        """
        data, _ = white_map()
        phot = HyperPhotometry(FWHM, noise='white')
        assert phot.rms is None
        table = phot(data)
        assert_allclose(phot.rms, 1.0, rtol=0.05)
        assert_allclose(table['snr'], table['amplitude_fit'], rtol=0.2)
        assert_allclose(np.mean(table['reduced_chi2']), 1.0, atol=0.1)

    @pytest.mark.parametrize('slope', [(0.1, 0.0), (0.0, -0.1),
                                       (-0.07, 0.07)])
    def test_steep_background(self, slope):
        """
        A background that falls off towards the borders, by the noise in
        each pixel, makes no sources there.
        """
        data, truth = white_map(noise=0.1)
        rows, cols = np.indices(data.shape)
        data += slope[0] * cols + slope[1] * rows
        table = HyperPhotometry(FWHM)(data)
        assert len(table) == 16
        pull = ((matched(table, truth)['flux_fit'] - truth['flux'])
                / truth['flux'])
        assert np.all(np.abs(pull) < 0.05)

    def test_every_detection_has_a_fit(self):
        """
        No detection on the outermost pixels is off the map for the fit.
        """
        data = np.random.default_rng(6).normal(size=(80, 80))
        rows, cols = np.indices(data.shape)
        for x, y in ((0.0, 40.0), (79.0, 39.0), (20.0, 79.4), (60.0, -0.4)):
            data += Gaussian2D(50.0, x, y, 1.8, 1.8)(cols, rows)
        table = HyperPhotometry(FWHM)(data)
        assert len(table) == 4
        assert np.all(np.isfinite(table['flux_fit']))
        init = QTable({'x_init': [79.49, 79.5, -0.5, 20.0],
                       'y_init': [39.0, 39.0, 40.0, 79.5]})
        table = HyperPhotometry(FWHM)(data, init_params=init)
        assert np.all(np.isfinite(table['flux_fit']))

    def test_noise_free_map(self):
        """
        Without noise, exactly the true sources come back.
        """
        data, truth = white_map(noise=0.0)
        table = HyperPhotometry(FWHM)(data)
        assert len(table) == 16
        table = matched(table, truth)
        assert_allclose(table['flux_fit'], truth['flux'], rtol=1e-3)

    def test_apertures_and_fits_agree(self):
        """
        Both fluxes of bright isolated sources are the same within their
        errors; the correction is that of an aperture of one FWHM.
        """
        data, _ = white_map()
        table = HyperPhotometry(FWHM)(data)
        assert_allclose(table['aperture_correction'], 1.0 / 0.9375,
                        rtol=0.02)
        difference = table['aperture_flux'] - table['flux_fit']
        assert np.all(np.abs(difference) < 4.0 * np.hypot(
            table['aperture_flux_err'], table['flux_err']))

    def test_aperture_size(self):
        """
        A smaller aperture has a larger correction and a smaller error of
        the sum; without correction the flux is that inside.
        """
        data, _ = white_map(noise=0.01)
        for ratio in (0.5, 1.0, 1.5):
            inside = 1.0 - np.exp(-4.0 * np.log(2.0) * ratio**2)
            table = HyperPhotometry(FWHM, fwhm_radius_ratio=ratio)(data)
            assert_allclose(table['aperture_correction'], 1.0 / inside,
                            rtol=0.05)
            assert_allclose(table['aperture_flux'], table['flux_fit'],
                            rtol=0.01)
            raw = HyperPhotometry(FWHM, fwhm_radius_ratio=ratio,
                                  aperture_correction=False)(data)
            assert_array_equal(raw['aperture_correction'], 1.0)
            assert_allclose(raw['aperture_flux'],
                            table['aperture_flux']
                            / table['aperture_correction'], rtol=1e-10)

    @pytest.mark.parametrize('correct', [True, False])
    def test_what_the_gaussian_leaves_in_the_aperture(self, correct):
        """
        It is the sum in the aperture less the part of the Gaussian
        inside, with and without a correction: no more than noise.
        """
        data, _ = white_map()
        table = HyperPhotometry(FWHM, fwhm_radius_ratio=0.5,
                                aperture_correction=correct)(data)
        inside = 0.5 * table['flux_fit']
        total = table['aperture_flux'] / table['aperture_correction']
        assert_allclose(table['aperture_residual'], total - inside,
                        atol=0.02 * np.max(inside))
        assert np.all(np.abs(table['aperture_residual'])
                      < 4.0 * table['aperture_flux_err'])

    def test_close_companion_is_found_on_the_residual(self):
        """
        A companion that makes no peak of its own is found when its
        bright neighbor is taken away, flagged, and fitted with it.
        """
        rows, cols = np.indices((81, 81))
        truth = QTable({'x': [40.0, 43.4], 'y': [40.0, 42.0],
                        'amplitude': [60.0, 15.0],
                        'fwhm_major': [4.5, 4.4], 'fwhm_minor': [4.2, 4.2],
                        'theta': [10.0, 0.0]})
        data = np.random.default_rng(2).normal(size=rows.shape)
        for row in truth:
            data = data + gaussian(row)(cols, rows)
        finder = HighPassStarFinder(fwhm=FWHM, n_sigma=5.0, min_separation=6.0)
        assert len(finder(data)) == 1
        alone = HyperPhotometry(FWHM, finder=finder, max_rounds=0)(data)
        assert len(alone) == 1
        phot = HyperPhotometry(FWHM, finder=finder)
        table = phot(data)
        assert len(table) == 2
        assert_array_equal(table['group_size'], 2)
        found = matched(table, truth)
        names = phot.decode_flags(found['flags'])
        assert 'residual_detection' not in names[0]
        assert 'residual_detection' in names[1]
        flux = (TO_FLUX * truth['amplitude'] * truth['fwhm_major']
                * truth['fwhm_minor'])
        pull = (found['flux_fit'] - flux) / found['flux_err']
        assert np.all(np.abs(pull) < 5.0)

    @pytest.mark.parametrize('seed', range(4))
    def test_simulated_maps(self, seed):
        """
        On blended maps of structured background, with correlated noise,
        nearly all isolated sources and most of the blended ones are
        found, with hardly a false one, and without bias.
        """
        sky = make_blended_map((250, 250), 60, blend_fraction=0.2,
                               blend_distance=(1.2, 2.0), seed=seed)
        table = HyperPhotometry(sky.image.meta['beam_fwhm_pix'])(sky.image)
        distance = np.hypot(
            plain(table['x_fit']) - plain(sky.truth['x_fit'])[:, None],
            plain(table['y_fit']) - plain(sky.truth['y_fit'])[:, None])
        found = np.min(distance, axis=1) < 0.5 * FWHM
        false = np.min(distance, axis=0) > FWHM
        assert np.sum(~found) <= 4
        assert np.sum(false) <= 2
        nearest = table[np.argmin(distance, axis=1)][found]
        ratio = (nearest['flux_fit'] / sky.truth['flux_fit'][found]
                 ).to_value('')
        assert abs(np.median(ratio) - 1.0) < 0.08
        assert np.median(np.min(distance, axis=1)) < 0.25


class TestInputs:
    def test_array_quantity_and_ccddata_agree(self):
        """
        The same map in any form gives the same numbers; the flux of a
        map in Jy/pixel is in Jy.
        """
        data, _ = white_map()
        mask = np.zeros(data.shape, dtype=bool)
        mask[:5] = True
        unit = u.Jy / u.pix
        expected = HyperPhotometry(FWHM)(data, mask=mask)
        assert expected.colnames == COLUMNS
        tables = [
            HyperPhotometry(FWHM)(data << unit, mask=mask),
            HyperPhotometry(FWHM)(CCDData(data, unit=unit, mask=mask)),
            HyperPhotometry(FWHM)(NDData(data << unit, mask=mask)),
            HyperPhotometry(FWHM)(NDData(data << unit), mask=mask)]
        for table in tables:
            assert type(table) is QTable
            assert table.colnames == COLUMNS
            assert_equal_tables(table, expected)
            assert all(table[name].unit == unit for name in VALUES)
            assert all(table[name].unit == u.Jy for name in FLUXES)
            assert table['theta_fit'].unit == u.deg
            assert not hasattr(table['snr'], 'unit') or (
                table['snr'].unit is None)
        without = HyperPhotometry(FWHM)(NDData(data, mask=mask))
        assert_equal_tables(without, expected)
        for name in VALUES + FLUXES:
            assert getattr(without[name], 'unit', None) is None

    def test_images_have_the_unit_of_the_map(self):
        data, _ = white_map()
        phot = HyperPhotometry(FWHM)
        unit = u.Jy / u.pix
        phot(data << unit)
        for image in (phot.make_model_image(), phot.make_background_image(),
                      phot.make_residual_image()):
            assert image.unit == unit
            assert image.shape == data.shape
        assert phot.rms.unit == unit

    def test_masks_are_merged(self):
        """
        Nothing is found on pixels that are masked by any of the ways, and
        nothing there has an influence.
        """
        data, truth = white_map()
        rows, cols = np.indices(data.shape)
        masks = [np.hypot(cols - row['x'], rows - row['y']) < 8.0
                 for row in truth[:2]]
        broken = np.where(masks[0], 1e6, np.where(masks[1], np.nan, data))
        ccd = CCDData(broken, unit='Jy/pix', mask=masks[0])
        expected = HyperPhotometry(FWHM)(data, mask=masks[0] | masks[1])
        assert len(expected) == 14
        for table in (HyperPhotometry(FWHM)(ccd),
                      HyperPhotometry(FWHM)(
                          CCDData(broken, unit='Jy/pix', mask=masks[1]),
                          mask=masks[0])):
            assert_equal_tables(table, expected)

    @pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
    def test_scattered_bad_pixels(self, value):
        """
        A map with bad pixels everywhere is measured like one where they
        are masked, and nearly like the whole map.
        """
        data, truth = white_map()
        bad = np.random.default_rng(4).random(data.shape) < 0.02
        expected = HyperPhotometry(FWHM)(data, mask=bad)
        phot = HyperPhotometry(FWHM)
        table = phot(np.where(bad, value, data))
        assert_allclose(phot.rms, 1.0, rtol=0.05)
        assert_equal_tables(table, expected)
        found = matched(table, truth)
        pull = (found['flux_fit'] - truth['flux']) / found['flux_err']
        assert np.all(np.abs(pull) < 5.0)

    def test_error_is_used(self):
        """
        Given errors give the errors of the columns, ``snr``, and
        ``reduced_chi2``; a number, a map, a Quantity, and the uncertainty
        of an NDData are the same.
        """
        data, _ = white_map()
        phot = HyperPhotometry(FWHM, noise='white')
        expected = phot(data, error=2.0)
        assert phot.rms == 2.0
        assert_allclose(expected['snr'], expected['amplitude_fit'] / 2.0)
        assert_allclose(np.mean(expected['reduced_chi2']), 0.25, atol=0.03)
        own = HyperPhotometry(FWHM, noise='white')(data)
        assert_allclose(np.median(expected['flux_err'] / own['flux_err']),
                        2.0, rtol=0.1)
        error = np.full(data.shape, 2.0)
        unit = u.Jy / u.pix
        for table in (
                phot(data, error=error),
                phot(data << unit, error=2.0 * unit),
                phot(CCDData(data, unit=unit), error=error << unit),
                phot(CCDData(data, unit=unit,
                             uncertainty=StdDevUncertainty(error))),
                phot(CCDData(data, unit=unit,
                             uncertainty=VarianceUncertainty(error**2))),
                phot(CCDData(data, unit=unit,
                             uncertainty=InverseVariance(error**-2)))):
            for name in ('flux_fit', 'flux_err', 'aperture_flux_err', 'snr',
                         'reduced_chi2', 'x_err'):
                assert_allclose(plain(table[name]), expected[name],
                                rtol=1e-6, err_msg=name)

    def test_uncertainty_with_its_own_unit(self):
        """
        An uncertainty in mJy/pixel of a map in Jy/pixel is converted.
        """
        data, _ = white_map()
        unit = u.Jy / u.pix
        expected = HyperPhotometry(FWHM)(data << unit, error=2.0 * unit)
        uncertainty = StdDevUncertainty(np.full(data.shape, 2000.0),
                                        unit=u.mJy / u.pix)
        table = HyperPhotometry(FWHM)(
            CCDData(data, unit=unit, uncertainty=uncertainty))
        assert_allclose(table['flux_err'], expected['flux_err'], rtol=1e-6)

    def test_error_map_weights_the_pixels(self):
        """
        Where the noise is larger, so are the errors, and ``snr`` is
        smaller.
        """
        data, truth = white_map(noise=0.0)
        error = np.where(np.arange(160) < 80, 1.0, 3.0) * np.ones((160, 1))
        data += error * np.random.default_rng(3).normal(size=data.shape)
        table = HyperPhotometry(FWHM, noise='white')(data, error=error,
                                      init_params=truth['x', 'y'])
        side = truth['x'] > 80
        assert_allclose(table['snr'], table['amplitude_fit']
                        / np.where(side, 3.0, 1.0))
        ratio = (np.median(table['x_err'][side] * truth['amplitude'][side])
                 / np.median(table['x_err'][~side]
                             * truth['amplitude'][~side]))
        assert_allclose(ratio, 3.0, rtol=0.3)
        pull = (table['flux_fit'] - truth['flux']) / table['flux_err']
        assert np.all(np.abs(pull) < 5.0)

    def test_a_constant_changes_nothing(self):
        """
        A constant added to the map is background.
        """
        data, _ = white_map()
        expected = HyperPhotometry(FWHM)(data)
        table = HyperPhotometry(FWHM)(data + 1000.0)
        assert len(table) == len(expected)
        for name in ('x', 'y', 'amplitude', 'fwhm_major', 'fwhm_minor',
                     'flux'):
            assert_allclose(table[f'{name}_fit'] - expected[f'{name}_fit'],
                            np.zeros(16), atol=0.02
                            * np.max(expected[f'{name}_err']), err_msg=name)
        assert_allclose(table['aperture_flux'], expected['aperture_flux'],
                        rtol=1e-3)
        assert_allclose(table['local_bkg'] - 1000.0, expected['local_bkg'],
                        atol=0.02)
        assert_array_equal(table['flags'], expected['flags'])

    @pytest.mark.parametrize('factor', [1e-9, 1e9])
    def test_values_scale_with_the_map(self, factor):
        """
        A factor on the map is a factor on all values and nothing else.
        """
        data, _ = white_map()
        expected = HyperPhotometry(FWHM)(data)
        table = HyperPhotometry(FWHM)(data * factor)
        assert len(table) == len(expected)
        for name in COLUMNS:
            if name in ('bic', 'bkg_method'):
                continue
            scale = factor if name in VALUES + FLUXES else 1.0
            assert_allclose(plain(table[name]) / scale,
                            plain(expected[name]), rtol=2e-4, atol=1e-6,
                            err_msg=name)

    def test_the_map_is_left_alone(self):
        data, truth = white_map()
        copy = data.copy()
        ccd = CCDData(data, unit='Jy/pix')
        init = truth['x', 'y']
        phot = HyperPhotometry(FWHM)
        phot(ccd)
        phot(data, init_params=init)
        phot.make_residual_image()
        assert_array_equal(data, copy)
        assert init.colnames == ['x', 'y']


class TestNothingFound:
    @pytest.mark.parametrize('data', [
        np.random.default_rng(0).normal(size=(80, 80)), np.zeros((80, 80)),
        np.full((80, 80), 7.0)])
    def test_warning_and_none(self, data):
        """
        A map without sources: a warning and None, as in photutils.
        """
        phot = HyperPhotometry(
            FWHM, finder=HighPassStarFinder(fwhm=FWHM, n_sigma=8.0))
        phot(white_map()[0])
        with pytest.warns(NoDetectionsWarning, match='No sources were found'):
            assert phot(data) is None
        assert_array_equal(phot.make_model_image(), np.zeros((80, 80)))
        assert_allclose(phot.rms, np.std(data), rtol=0.1, atol=1e-12)
        assert len(phot.rejected) == 0
        with pytest.raises(ValueError, match='no results: call the'):
            phot.total_flux()

    def test_finder_that_returns_an_empty_table(self):
        phot = HyperPhotometry(FWHM, finder=lambda *_, **__: QTable())
        with pytest.warns(NoDetectionsWarning, match='No sources were found'):
            assert phot(np.ones((80, 80))) is None


class TestInitParams:
    def test_exactly_these_rows_are_measured(self):
        """
        Given sources are measured in their order with their numbers, no
        others are searched, and those off the map are flagged rows.
        """
        data, truth = white_map()
        init = QTable({'x_init': [truth['x'][5] + 0.3, np.nan, -40.0,
                                  truth['x'][2] - 0.2],
                       'y_init': [truth['y'][5] - 0.2, 30.0, 30.0,
                                  truth['y'][2]],
                       'id': [17, 3, 99, 4]})
        phot = HyperPhotometry(FWHM)
        table = phot(data, init_params=init)
        assert table.colnames == COLUMNS
        assert_array_equal(table['id'], init['id'])
        assert_array_equal(table['x_init'], init['x_init'])
        names = phot.decode_flags(table['flags'])
        assert 'off_map' in names[1]
        assert 'off_map' in names[2]
        assert names[0] == names[3] == []
        for name in ('flux_fit', 'flux_err', 'aperture_flux',
                     'aperture_flux_err', 'snr', 'x_fit', 'theta_fit'):
            assert np.all(np.isnan(plain(table[name])[1:3])), name
        good = [5, 2]
        pull = ((table['flux_fit'][[0, 3]] - truth['flux'][good])
                / table['flux_err'][[0, 3]])
        assert np.all(np.abs(pull) < 5.0)

    def test_rows_of_nothing_are_kept(self):
        """
        A given position without a source is measured all the same.
        """
        data, truth = white_map()
        init = QTable({'x_init': [40.0, truth['x'][0]],
                       'y_init': [40.0, truth['y'][0]]})
        table = HyperPhotometry(FWHM)(data, init_params=init)
        assert len(table) == 2
        assert table['snr'][1] > 10.0

    def test_no_rows(self):
        data, truth = white_map()
        table = HyperPhotometry(FWHM)(data, init_params=truth['x', 'y'][:0])
        assert table.colnames == COLUMNS
        assert len(table) == 0

    def test_all_off_the_map_with_wcs(self):
        sky = make_blended_map((100, 100), 5, seed=1)
        init = QTable({'x_init': [-30.0, np.nan], 'y_init': [3.0, 4.0]})
        table = HyperPhotometry(FWHM)(sky.image, init_params=init)
        assert np.all(np.isnan(table['sky_centroid'].ra))
        assert np.all(np.isnan(table['fwhm_major_sky']))
        assert np.all(np.isnan(table['aperture_flux']))

    def test_result_as_start(self):
        """
        A table of results is a start: measured again, it is the same.
        """
        data, _ = white_map()
        phot = HyperPhotometry(FWHM)
        table = phot(data)
        again = phot(data, init_params=table)
        assert_array_equal(again['id'], table['id'])
        assert_allclose(again['flux_fit'], table['flux_fit'], rtol=1e-3)
        assert_allclose(again['aperture_flux'], table['aperture_flux'],
                        rtol=1e-3)

    def test_groups_are_used(self):
        data, truth = white_map()
        init = truth['x', 'y'][:3]
        init['group_id'] = [4, 2, 4]
        table = HyperPhotometry(FWHM)(data, init_params=init)
        assert_array_equal(table['group_id'], [1, 2, 1])
        assert_array_equal(table['group_size'], [2, 1, 2])


class TestParts:
    def test_photutils_finder_and_grouper(self):
        """
        photutils' DAOStarFinder and SourceGrouper take the places of the
        defaults.
        """
        data, truth = white_map()
        finder = DAOStarFinder(8.0, FWHM)
        grouper = SourceGrouper(min_separation=45.0)
        phot = HyperPhotometry(FWHM, finder=finder, grouper=grouper,
                               noise='white')
        table = phot(data)
        assert phot.finder is finder
        # This finder takes the corners of the map for sources, too.
        assert_array_equal(table['id'], np.arange(1, len(finder(data)) + 1))
        sure = (table['flags'] & FLAGS['doubtful']) == 0
        assert np.count_nonzero(sure) == 16
        found = matched(table[sure], truth)
        pull = (found['flux_fit'] - truth['flux']) / found['flux_err']
        assert np.all(np.abs(pull) < 5.0)
        assert np.all(np.isnan(table['shoulder_score']))
        groups = grouper(plain(table['x_init']), plain(table['y_init']))
        _, expected = np.unique(groups, return_counts=True)
        _, sizes = np.unique(table['group_id'], return_counts=True)
        assert_array_equal(np.sort(sizes), np.sort(expected))

    def test_finder_gets_the_unit_of_the_map(self):
        """
        A photutils finder with a threshold in Jy/pixel works on a map in
        Jy/pixel.
        """
        data, _ = white_map()
        unit = u.Jy / u.pix
        expected = HyperPhotometry(FWHM, finder=DAOStarFinder(8.0, FWHM))(
            data)
        table = HyperPhotometry(
            FWHM, finder=DAOStarFinder(8.0 * unit, FWHM))(data << unit)
        assert_equal_tables(table, expected)

    @pytest.mark.parametrize('make', [TRFLSQFitter, LevMarLSQFitter])
    def test_astropy_fitters(self, make):
        """
        Any astropy fitter takes the place of the kernel.
        """
        data, _ = white_map()
        expected = HyperPhotometry(FWHM, fitter=BlendGroupFitter(FWHM),
                                   noise='white')(data)
        fitter = BlendGroupFitter(
            FWHM, solver=GroupSolver(
                astropy_fitter=make(calc_uncertainties=True)))
        table = HyperPhotometry(FWHM, fitter=fitter)(data)
        assert len(table) == len(expected)
        pull = ((table['flux_fit'] - expected['flux_fit'])
                / expected['flux_err'])
        assert_allclose(pull, np.zeros(16), atol=0.02)
        assert_allclose(table['flux_err'], expected['flux_err'], rtol=0.01)

    @pytest.mark.parametrize('noise', ['white', 'correlated'])
    def test_weights_of_the_fitter(self, noise):
        """
        A fitter with weights keeps its weights in all rounds, and gets
        the map of the call; the errors are those of the noise.
        """
        data, _ = white_map()
        fitter = BlendGroupFitter(
            FWHM, solver=GroupSolver(weights=('snr', 'map')))
        phot = HyperPhotometry(FWHM, fitter=fitter, noise=noise)
        weights = np.ones(data.shape)
        weights[:, :2] = 0.0
        table = phot(data, weight_map=weights)
        assert "weights=('snr', 'map')" in str(table.meta['call'])
        plain = HyperPhotometry(FWHM, noise=noise)(data)
        assert len(table) == len(plain) == 16
        assert_array_equal(table['bkg_order'], 1)
        assert np.all(table['flux_err'] > plain['flux_err'])
        pull = (table['flux_fit'] - plain['flux_fit']) / table['flux_err']
        assert 0.1 < np.std(pull) < 1.5
        with pytest.raises(ValueError, match="weights='map' needs a weight_"):
            phot(data)

    def test_fixed_shapes(self):
        data, _ = white_map()
        fitter = BlendGroupFitter(FWHM, fixed='shape', poly_order=0)
        table = HyperPhotometry(FWHM, fitter=fitter, max_rounds=0)(data)
        assert_allclose(table['fwhm_major_fit'], FWHM)
        assert_array_equal(table['bkg_order'], 0)
        assert np.all(table['flags'] & FLAGS['fixed_shape'])

    @pytest.mark.parametrize('given', [False, True])
    def test_point_sources_have_the_shape_of_the_beam(self, given):
        """
        An elliptical one, that the map tells: fluxes are not biased.
        """
        beam = {'beam_major_pix': 4.6, 'beam_minor_pix': 3.2,
                'beam_theta': 35.0}
        fwhm = np.sqrt(4.6 * 3.2)
        y, x = (grid.ravel() * 30.0 + 20.0 for grid in np.mgrid[:8, :8])
        noise = CorrelatedNoise.from_beam(1.0, 4.6, fwhm_minor=3.2,
                                          theta=35.0)
        data = noise.simulate((250, 250), seed=4)
        add_gaussians(data, x, y, *(np.full(64, value) for value in (
            12.0, 4.6, 3.2, 35.0)))
        phot = HyperPhotometry(fwhm, fitter=BlendGroupFitter(
            fwhm, fixed='shape'))
        init = QTable({'x_init': x, 'y_init': y}) if given else None
        table = phot(CCDData(data, unit='Jy', meta=beam), init_params=init)
        assert len(table) == 64
        assert_allclose(table['fwhm_major_fit'], 4.6)
        assert_allclose(table['fwhm_minor_fit'], 3.2)
        assert_allclose(table['theta_fit'].to_value('deg'), 35.0)
        flux = 12.0 * gaussian_flux(1.0, 4.6, 3.2)
        assert_allclose(np.mean(table['flux_fit'].value) / flux, 1.0,
                        atol=3.0 / 12.0 / np.sqrt(64))

    def test_images(self):
        """
        Model, background, and residual add up to the map; the model is
        the sum of the Gaussians of the table.
        """
        data, _ = white_map()
        phot = HyperPhotometry(FWHM)
        table = phot(data)
        model, background = (phot.make_model_image(),
                             phot.make_background_image())
        residual = phot.make_residual_image()
        near = np.isfinite(background)
        assert_allclose((model + background + residual)[near], data[near])
        assert_allclose((model + residual)[~near], data[~near])
        rows, cols = np.indices(data.shape)
        expected = np.zeros(data.shape)
        for row in table:
            expected += Gaussian2D(
                row['amplitude_fit'], row['x_fit'], row['y_fit'],
                row['fwhm_major_fit'] * TO_SIGMA,
                row['fwhm_minor_fit'] * TO_SIGMA,
                theta=row['theta_fit'].to_value('rad'))(cols, rows)
        assert_allclose(model, expected, atol=1e-5)
        assert_allclose(np.std(residual[near]), 1.0, rtol=0.1)

    def test_one_object_for_many_maps(self):
        """
        What was measured before has no influence, other shapes included.
        """
        data, _ = white_map()
        other, _ = white_map(seed=1)
        phot = HyperPhotometry(FWHM)
        phot(other[:100, :130])
        assert phot.make_model_image().shape == (100, 130)
        table = phot(data)
        assert_equal_tables(table, HyperPhotometry(FWHM)(data))
        assert phot.make_model_image().shape == data.shape

    def test_two_threads(self):
        """
        One object that measures two maps at the same time gives the
        tables that it gives one after the other.
        """
        maps = [white_map(seed=seed)[0] for seed in (0, 1)]
        phot = HyperPhotometry(FWHM)
        expected = [phot(data) for data in maps]
        with ThreadPoolExecutor(2) as pool:
            for _ in range(2):
                for table, alone in zip(pool.map(phot, maps), expected,
                                        strict=True):
                    assert_equal_tables(table, alone)

    def test_call_that_ends_in_another_thread(self):
        """
        A call returns its own table, even if a call in another thread has
        stored its results before it returns.
        """

        class Overtaken(HyperPhotometry):
            def __setattr__(self, name, value):
                super().__setattr__(name, value)
                if name == '_last' and value is not None:
                    super().__setattr__(name, other._last)

        data, _ = white_map()
        other = HyperPhotometry(FWHM)
        other(white_map(seed=1)[0])
        assert_equal_tables(Overtaken(FWHM)(data), HyperPhotometry(FWHM)(data))

    @pytest.mark.parametrize('duplicate', [
        copy.deepcopy, lambda phot: pickle.loads(pickle.dumps(phot))])
    def test_copies_after_a_call(self, duplicate):
        """
        They have the results of the original, and measure like it.
        """
        data, _ = white_map()
        phot = HyperPhotometry(FWHM)
        table = phot(data)
        other = duplicate(phot)
        assert repr(other) == repr(phot)
        assert other.rms == phot.rms
        assert other.total_flux() == phot.total_flux()
        assert len(other.rejected) == len(phot.rejected)
        assert_array_equal(other.make_model_image(), phot.make_model_image())
        assert_equal_tables(other(data), table)

    def test_same_call_same_table(self):
        data, _ = white_map()
        tables = [HyperPhotometry(FWHM)(data) for _ in range(2)]
        assert_equal_tables(*tables)
        assert tables[0].meta == tables[1].meta

    def test_ids(self):
        """
        A row a source in the order of ``id``, groups counted from 1 in
        the order of their first source.
        """
        sky = make_blended_map((250, 250), 60, seed=5)
        table = HyperPhotometry(FWHM)(sky.image)
        assert np.all(np.diff(table['id']) > 0)
        groups, first, sizes = np.unique(table['group_id'],
                                         return_index=True,
                                         return_counts=True)
        assert_array_equal(groups, np.arange(1, len(groups) + 1))
        assert np.all(np.diff(first) > 0)
        assert_array_equal(table['group_size'],
                           sizes[table['group_id'] - 1])


class TestMeta:
    def test_call_is_the_constructor(self):
        """
        The call in ``meta`` makes an object that gives the same table;
        there is no date.
        """
        data, _ = white_map()
        phot = HyperPhotometry(FWHM, fwhm_radius_ratio=0.8, max_rounds=1,
                               finder=HighPassStarFinder(fwhm=FWHM,
                                                         n_sigma=7.0))
        table = phot(data)
        assert table.meta['call'] == repr(phot)
        assert set(table.meta) == {
            'version', 'call', 'rms', 'n_detected', 'n_companions',
            'n_rejected', 'noise'}
        assert set(table.meta['n_rejected'].values()) <= {0}
        same = eval(table.meta['call'], {
            'HyperPhotometry': HyperPhotometry,
            'HighPassStarFinder': HighPassStarFinder,
            'BlendGroupFitter': BlendGroupFitter,
            'GroupSolver': GroupSolver,
            'SeparationGrouper': SeparationGrouper})
        assert_equal_tables(same(data), table)
        for package in ('hyperphotutils', 'photutils', 'astropy', 'numpy',
                        'scipy', 'Python'):
            assert package in table.meta['version']

    def test_before_the_first_call(self):
        phot = HyperPhotometry(FWHM)
        for method in (phot.make_model_image, phot.make_background_image,
                       phot.make_residual_image):
            with pytest.raises(ValueError, match='no map has been measured'):
                method()


def make_wcs(*, rotation=0.0, flip=1.0, scale=2.0, ctype=('RA---TAN',
                                                          'DEC--TAN')):
    """
    A WCS with square pixels of ``scale`` arcsec around (30, 60) deg.
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ctype
    wcs.wcs.crval = [30.0, 60.0]
    wcs.wcs.crpix = [80.0, 80.0]
    angle = np.deg2rad(rotation)
    cos, sin = np.cos(angle), np.sin(angle)
    wcs.wcs.cd = scale / 3600.0 * (np.diag([-flip, 1.0])
                                   @ np.array([[cos, -sin], [sin, cos]]))
    wcs.wcs.set()
    return wcs


class TestSky:
    @pytest.mark.parametrize('rotation', [0.0, 35.0])
    @pytest.mark.parametrize('flip', [1.0, -1.0])
    @pytest.mark.parametrize('ctype', [('RA---TAN', 'DEC--TAN'),
                                       ('GLON-SIN', 'GLAT-SIN')])
    def test_sky_columns(self, rotation, flip, ctype):
        """
        Position, widths, and position angle agree with those of points
        at the ends of the axes, seen as SkyCoord.
        """
        data, _ = white_map()
        wcs = make_wcs(rotation=rotation, flip=flip, ctype=ctype)
        table = HyperPhotometry(FWHM)(data, wcs=wcs)
        assert table.colnames == COLUMNS + SKY_COLUMNS
        assert isinstance(table['sky_centroid'], SkyCoord)
        x, y = plain(table['x_fit']), plain(table['y_fit'])
        expected = wcs.pixel_to_world(x, y)
        assert np.all(table['sky_centroid'].separation(expected)
                      < 1e-6 * u.arcsec)
        theta = table['theta_fit'].to_value('rad')
        for name, angle in (('major', theta), ('minor', theta + np.pi / 2)):
            half = 0.5 * plain(table[f'fwhm_{name}_fit'])
            ends = [wcs.pixel_to_world(x + sign * half * np.cos(angle),
                                       y + sign * half * np.sin(angle))
                    for sign in (-1, 1)]
            assert_allclose(table[f'fwhm_{name}_sky'].to_value('arcsec'),
                            ends[0].separation(ends[1]).to_value('arcsec'),
                            rtol=1e-5)
            if name == 'major':
                along = expected.position_angle(ends[1]).to_value('deg')
        offset = table['position_angle'].to_value('deg') - along
        assert_allclose((offset + 90.0) % 180.0 - 90.0, 0.0, atol=0.02)
        assert np.all(table['position_angle'] >= 0 * u.deg)
        assert np.all(table['position_angle'] < 180 * u.deg)

    def test_errors_on_the_sky(self):
        """
        Errors on the sky are the scatter of many sources alike, on
        pixels that are neither square nor perpendicular.
        """
        wcs = make_wcs()
        wcs.wcs.cd = np.array([[-2.0, 0.9], [0.5, 1.2]]) / 3600.0
        steps = 20.0 + 40.0 * np.arange(18)
        x, y = (grid.ravel() for grid in np.meshgrid(steps, steps))
        wcs.wcs.crpix = [360.0, 360.0]
        data = np.random.default_rng(4).normal(0.0, 1.0, (720, 720))
        add_gaussians(data, x, y, np.full(len(x), 30.0), 7.0, FWHM, 40.0)
        table = HyperPhotometry(FWHM, noise='white')(
            data, wcs=wcs, error=1.0, init_params=QTable(
                {'x_init': x, 'y_init': y}))
        truth = wcs.pixel_to_world(x, y)
        east, north = truth.spherical_offsets_to(table['sky_centroid'])
        true_shape = pixel_to_sky_ellipse(wcs, x, y, 7.0, FWHM, 40.0)
        turned = (table['position_angle'] - true_shape[2]).to_value('deg')
        for error, offset in (
                ('lon_err', east.to_value('arcsec')),
                ('lat_err', north.to_value('arcsec')),
                ('fwhm_major_sky_err', (table['fwhm_major_sky']
                                        - true_shape[0]).value),
                ('fwhm_minor_sky_err', (table['fwhm_minor_sky']
                                        - true_shape[1]).value),
                ('position_angle_err', (turned + 90.0) % 180.0 - 90.0)):
            pull = offset / table[error].value
            assert_allclose(np.std(pull), 1.0, atol=0.13, err_msg=error)
            assert abs(np.mean(pull)) < 0.3
        # without the covariance of x and y, one would be far off
        jacobian = local_jacobian(wcs, x, y)[:, 0]
        naive = np.hypot(jacobian[:, 0] * table['x_err'],
                         jacobian[:, 1] * table['y_err'])
        assert not 0.8 < np.median(naive / table['lon_err'].value) < 1.25

    def test_errors_of_fitters_that_tell_no_covariance(self):
        """
        A fitter of another kind has its errors converted one by one.
        """
        class Plain:
            def __init__(self):
                self.fitter = None
                self.fit = BlendGroupFitter(FWHM)

            def __call__(self, *args, **kwargs):
                return self.fit(*args, **kwargs)

        data, _ = white_map()
        wcs = make_wcs(rotation=10.0)
        phot = HyperPhotometry(FWHM, fitter=Plain(), noise='white')
        table = phot(data, wcs=wcs)
        expected = HyperPhotometry(FWHM, noise='white')(data, wcs=wcs)
        for name in ('lon_err', 'fwhm_major_sky_err', 'fwhm_minor_sky_err',
                     'position_angle_err'):
            assert_allclose(table[name].value, expected[name].value,
                            rtol=0.1)

    def test_wcs_of_the_map_or_given(self):
        """
        A given WCS goes before that of the CCDData.
        """
        data, _ = white_map()
        own, other = make_wcs(), make_wcs(scale=4.0)
        ccd = CCDData(data, unit='Jy/pix', wcs=own)
        table = HyperPhotometry(FWHM)(ccd)
        wider = HyperPhotometry(FWHM)(ccd, wcs=other)
        assert_allclose(wider['fwhm_major_sky'].value,
                        2.0 * table['fwhm_major_sky'].value, rtol=1e-4)
        assert_equal_tables(table, wider)

    def test_truth_of_a_simulated_map(self):
        """
        Sky positions and sizes are those of the simulation.
        """
        sky = make_blended_map((160, 160), 20, blend_fraction=0, rms=1e-7,
                               snr_range=(800.0, 1000.0),
                               axis_ratio_range=(0.6, 0.7), seed=2)
        table = HyperPhotometry(FWHM)(sky.image)
        assert len(table) == 20
        index, separation, _ = sky.truth['sky_centroid'].match_to_catalog_sky(
            table['sky_centroid'])
        assert np.all(separation < 0.02 * u.arcsec)
        found = table[index]
        for name in ('fwhm_major_sky', 'fwhm_minor_sky', 'flux_fit'):
            ratio = (found[name] / sky.truth[name]).to_value('')
            assert_allclose(ratio, 1.0, rtol=0.02, err_msg=name)
        offset = (found['position_angle'] - sky.truth['position_angle']
                  ).to_value('deg')
        assert_allclose((offset + 90.0) % 180.0 - 90.0, 0.0, atol=1.0)


class TestBadInput:
    @pytest.mark.parametrize(('kwargs', 'error', 'match'), [
        ({'fwhm': 0.0}, ValueError,
         'fwhm must be a positive number of pixels: 0.0'),
        ({'fwhm': -4.0}, ValueError, 'fwhm must be a positive number'),
        ({'fwhm': np.nan}, ValueError, 'fwhm must be a positive number'),
        ({'fwhm': '4'}, (TypeError, ValueError), 'fwhm must be'),
        ({'fwhm_radius_ratio': 0.0}, ValueError,
         'fwhm_radius_ratio must be a positive number'),
        ({'fwhm_radius_ratio': None}, (TypeError, ValueError),
         'fwhm_radius_ratio must be'),
        ({'finder': 5}, TypeError, 'finder must be callable: 5'),
        ({'grouper': 'a'}, TypeError, "grouper must be callable: 'a'"),
        ({'fitter': 1.0}, TypeError, 'fitter must be callable: 1.0'),
        ({'max_rounds': -1}, ValueError, 'max_rounds must be at least 0'),
        ({'max_rounds': 1.5}, TypeError, 'max_rounds must be an integer'),
    ])
    def test_constructor(self, kwargs, error, match):
        with pytest.raises(error, match=match):
            HyperPhotometry(**({'fwhm': FWHM} | kwargs))

    @pytest.mark.parametrize(('kwargs', 'error', 'match'), [
        ({'data': np.zeros(5)}, ValueError, 'data must be 2D'),
        ({'data': np.zeros((3, 5, 5))}, ValueError, 'data must be 2D'),
        ({'data': np.zeros((5, 5), complex)}, TypeError,
         'data must be an array of real numbers'),
        ({'data': np.full((9, 9), np.nan)}, ValueError,
         'data has no usable pixel'),
        ({'mask': np.zeros((3, 3), bool)}, ValueError,
         'mask must have the shape of data'),
        ({'error': np.ones((3, 3))}, ValueError,
         'error must be a number or have the shape of data'),
        ({'error': -1.0}, ValueError, 'error must be positive'),
        ({'error': 1.0 * u.Jy}, ValueError,
         'data, error must all have the same unit'),
        ({'init_params': {'x': [3.0]}}, TypeError,
         'init_params must be an astropy Table, got dict'),
        ({'init_params': QTable({'x_init': [3.0]})}, ValueError,
         'init_params needs the column y_init'),
    ])
    def test_call(self, kwargs, error, match):
        data, _ = white_map()
        kwargs = {'data': data} | kwargs
        with pytest.raises(error, match=match):
            HyperPhotometry(FWHM)(kwargs.pop('data'), **kwargs)

    def test_masked_pixels_may_have_no_error(self):
        data, _ = white_map()
        mask = np.zeros(data.shape, dtype=bool)
        mask[:, :5] = True
        error = np.where(mask, 0.0, 1.0)
        expected = HyperPhotometry(FWHM)(data, mask=mask, error=1.0)
        table = HyperPhotometry(FWHM)(data, mask=mask, error=error)
        assert_allclose(table['flux_fit'], expected['flux_fit'], rtol=1e-6)


class TestTotalFlux:
    def simulate(self, seed, separation=FWHM):
        """
        Pairs on white noise, and isolated sources.
        """
        rng = np.random.default_rng(seed)
        steps = 22.0 + 44.0 * np.arange(9)
        x, y = (grid.ravel() for grid in np.meshgrid(steps, steps))
        angle = rng.uniform(0.0, 2.0 * np.pi, len(x))
        x = np.concatenate((x, (x + separation * np.cos(angle))[::2]))
        y = np.concatenate((y, (y + separation * np.sin(angle))[::2]))
        data = rng.normal(0.0, 1.0, (396, 396))
        add_gaussians(data, x, y, np.full(len(x), 60.0), FWHM, FWHM, 0.0)
        return data, 60.0 * np.pi / (4.0 * np.log(2.0)) * FWHM**2, (x, y)

    def test_pairs_after_all_rounds(self):
        """
        The error of a group's flux holds after companions were found on
        residuals, and groups were fitted again in parts.
        """
        pulls, ratios = [], []
        for seed in range(6):
            data, flux, (x, y) = self.simulate(seed)
            phot = HyperPhotometry(FWHM, noise='white')
            table = phot(data)
            place = np.column_stack((x, y))
            for number in np.unique(table['group_id']):
                rows = table[table['group_id'] == number]
                near = np.hypot(*(place - np.array(
                    [np.mean(rows['x_fit']), np.mean(rows['y_fit'])])).T) < 8
                if len(rows) != 2 or near.sum() != 2:
                    continue
                total, err = phot.total_flux(rows['id'])
                pulls.append((total - 2.0 * flux) / err)
                ratios.append(np.hypot(*rows['flux_err']) / err)
        assert len(pulls) > 150
        assert_allclose(np.std(pulls), 1.0, atol=0.15)
        assert np.median(ratios) > 2.0

    def test_as_one_fit_of_all(self):
        """
        The rounds end where one fit of all sources ends that has the same
        priors on their positions.
        """
        data, _, _ = self.simulate(1, separation=0.85 * FWHM)
        phot = HyperPhotometry(FWHM, noise='white')
        table = phot(data, error=1.0)
        assert np.any(table['flags'] & FLAGS['residual_detection'])
        init = table['id', 'group_id', 'x_init', 'y_init', 'fwhm_major_fit',
                     'fwhm_minor_fit', 'theta_fit']
        init['x_previous'], init['y_previous'] = table['x_fit'], table['y_fit']
        init['hold_shape'] = (table['flags'] & FLAGS['held_shape']) > 0
        init['position_prior'] = FWHM * np.where(
            init['hold_shape'], search._HELD_POSITION_PRIOR,
            search._POSITION_PRIOR)
        fitter = BlendGroupFitter(FWHM)
        again = fitter(data, error=1.0, init_params=init)
        assert_allclose(phot.total_flux(), fitter.total_flux(), rtol=1e-2)
        for number in np.unique(table['group_id'][table['group_size'] == 2]):
            ids = table['id'][table['group_id'] == number]
            assert_allclose(phot.total_flux(ids), fitter.total_flux(ids),
                            rtol=0.05)
        pair = table['group_size'] == 2
        assert_allclose(again['flux_err'][pair], table['flux_err'][pair],
                        rtol=0.05)

    def test_before_the_first_call(self):
        with pytest.raises(ValueError, match='no results: call the'):
            HyperPhotometry(FWHM).total_flux()


def test_rounding_does_not_depend_on_the_machine():
    """
    BLAS rounds differently with more threads, as on computers with more
    cores, and a process that shares the work has one.
    """
    n_threads = []

    class Finder(HighPassStarFinder):
        def search(self, *args, **kwargs):
            n_threads.extend(library['num_threads']
                             for library in threadpool_info()
                             if library['user_api'] == 'blas')
            return super().search(*args, **kwargs)

    image = make_blended_map((80, 80), 3, seed=1).image
    phot = HyperPhotometry(FWHM, finder=Finder(n_sigma=5, fwhm=FWHM))
    with threadpool_limits(2):
        phot(image)
        phot.measure_noise(image)
        assert {library['num_threads']
                for library in threadpool_info()} == {2}
    assert set(n_threads) == {1}


def test_sources_in_a_row_are_all_found():
    """
    The fit of the first that is found moves between two of them; where
    it began may be the place of another.
    """
    noise = CorrelatedNoise.from_beam(1.0, 7.0)
    data = noise.simulate((120, 120), seed=3)
    x, y = np.array([62.0, 63.2, 58.9]), np.array([62.3, 56.3, 68.2])
    add_gaussians(data, x, y, [28.0, 25.0, 14.0], [7.4] * 3, [7.2] * 3,
                  [0.0] * 3)
    table = HyperPhotometry(7.0)(data)
    assert len(table) == 3
    found = table[np.argsort(table['y_fit'])]
    order = np.argsort(y)
    assert_allclose(found['x_fit'], x[order], atol=1.0)
    assert_allclose(found['y_fit'], y[order], atol=1.0)


def test_wide_source_stays_at_its_peak():
    """
    A source that is wider than the beam and no Gaussian has the position
    of its peak, not of the emission around it.
    """
    rng = np.random.default_rng(0)
    data = gaussian_filter(rng.normal(size=(200, 200)), FWHM * TO_SIGMA)
    data /= data.std()
    x, y = (grid.ravel().astype(float)
            for grid in np.mgrid[25:200:50, 25:200:50])
    angle = rng.uniform(0.0, 2.0 * np.pi, len(x))
    one = np.ones(len(x))
    for distance, peak, fwhm in ((0.0, 8.0, FWHM), (3.0, 15.0, 10.0)):
        add_gaussians(data, x + distance * np.cos(angle),
                      y + distance * np.sin(angle), peak * one, fwhm * one,
                      fwhm * one, 0.0 * one)
    table = HyperPhotometry(FWHM)(data)
    wide = table[table['id'] <= len(x)]
    assert np.median(wide['fwhm_minor_fit']) > 1.5 * FWHM
    shift = np.hypot(wide['x_fit'] - wide['x_init'],
                     wide['y_fit'] - wide['y_init'])
    assert np.median(shift) < 0.1 * FWHM
