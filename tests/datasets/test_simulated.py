# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the simulated module.
"""

import tracemalloc

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.modeling.models import Gaussian2D
from astropy.stats import gaussian_fwhm_to_sigma
from astropy.table import QTable
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree

from hyperphotutils.datasets import (
    BLENDED_MAP_RECIPES,
    make_blended_map,
    simulated,
)
from hyperphotutils.maps import read_map
from hyperphotutils.utils import add_gaussians

BEAM = (4.0, 3.0, 30.0)
BEAM_FWHM = np.sqrt(12.0)


@pytest.fixture(name='sim', scope='module')
def fixture_sim():
    return make_blended_map((200, 240), 60, beam=BEAM, rms=2e-5, seed=11)


def astropy_image(truth, shape):
    """
    Render sources with astropy's own model, one at a time.
    """
    yy, xx = np.mgrid[:shape[0], :shape[1]]
    image = np.zeros(shape)
    for row in truth:
        image += Gaussian2D(
            row['amplitude_fit'].value, row['x_fit'], row['y_fit'],
            row['fwhm_major_fit'] * gaussian_fwhm_to_sigma,
            row['fwhm_minor_fit'] * gaussian_fwhm_to_sigma,
            row['theta_fit'].to_value(u.rad))(xx, yy)
    return image


def close_pairs(truth, distance):
    xy = np.transpose([truth['x_fit'], truth['y_fit']])
    return cKDTree(xy).query_pairs(distance, output_type='ndarray')


class TestSeed:
    def test_repeats(self, sim):
        again = make_blended_map((200, 240), 60, beam=BEAM, rms=2e-5,
                                 seed=11)
        assert_array_equal(again.image.data, sim.image.data)
        assert_array_equal(again.truth['x_fit'], sim.truth['x_fit'])

    def test_other_seed_differs(self, sim):
        other = make_blended_map((200, 240), 60, beam=BEAM, rms=2e-5,
                                 seed=12)
        assert not np.any(other.image.data == sim.image.data)

    def test_streams_are_separate(self, sim):
        """
        Without background, the same sources on the same noise remain.
        """
        bare = make_blended_map((200, 240), 60, beam=BEAM, rms=2e-5,
                                background_ratio=0.0, seed=11)
        assert_array_equal(bare.background.value, 0.0)
        assert_allclose(bare.image.data,
                        sim.image.data - sim.background.value,
                        rtol=0, atol=1e-17)

    def test_generator(self):
        first, second = (
            make_blended_map((64, 64), 4, seed=np.random.default_rng(5))
            for _ in range(2))
        assert_array_equal(first.image.data, second.image.data)


class TestSources:
    def test_ranges(self):
        """
        All drawn properties fill their ranges and stay inside.
        """
        truth = make_blended_map(
            (600, 600), 400, beam=BEAM, rms=3.0, snr_range=(5, 50),
            size_range=(1.1, 1.6), axis_ratio_range=(0.6, 0.9),
            seed=1).truth
        major, minor = truth['fwhm_major_fit'], truth['fwhm_minor_fit']
        for values, low, high in (
                (np.log(truth['amplitude_fit'].value / 3.0), np.log(5),
                 np.log(50)),
                (np.log(truth['snr']), np.log(5), np.log(50)),
                (np.sqrt(major * minor) / BEAM_FWHM, 1.1, 1.6),
                (minor / major, 0.6, 0.9),
                (truth['theta_fit'].to_value(u.deg), 0, 180)):
            scaled = (np.asarray(values) - low) / (high - low)
            assert np.all((scaled > -1e-12) & (scaled < 1 + 1e-12))
            # mean and deviation of a uniform distribution, 5 sigma
            assert_allclose(scaled.mean(), 0.5, atol=5 * 0.2887 / 20)
            assert_allclose(scaled.std(), 0.2887, atol=0.04)

    def test_flux_is_the_integral(self):
        sim = make_blended_map((64, 64), 1, snr_range=(10, 10), rms=1.0,
                               seed=3)
        image = astropy_image(sim.truth, (64, 64))
        assert sim.truth['flux_fit'].unit == u.Jy
        assert_allclose(sim.truth['flux_fit'].value, image.sum(),
                        rtol=1e-6)

    def test_image_is_the_sum_of_its_parts(self, sim):
        """
        The map less its background and astropy's rendering of the truth
        is the map with the same noise and no source at all.
        """
        empty = make_blended_map((200, 240), 0, beam=BEAM, rms=2e-5,
                                 seed=11)
        assert len(empty.truth) == 0
        expected = empty.image.data + astropy_image(sim.truth, (200, 240))
        peak = sim.truth['amplitude_fit'].value.max()
        assert_allclose(sim.image.data, expected, rtol=0, atol=1e-6 * peak)

    def test_only_intended_pairs_are_close(self):
        sim = make_blended_map((400, 500), 200, beam=BEAM,
                               blend_fraction=0.3,
                               blend_distance=(0.9, 1.7), seed=2)
        truth = sim.truth
        assert_array_equal(truth['id'], np.arange(1, 201))
        pairs = close_pairs(truth, 2.0 * BEAM_FWHM)
        assert len(pairs) == 60
        placed = truth['host_id'] > 0
        intended = np.sort(np.transpose(
            [truth['id'][placed], truth['host_id'][placed]]), axis=1) - 1
        assert set(map(tuple, pairs)) == set(map(tuple, intended))
        dx, dy = (truth[name][intended[:, 0]] - truth[name][intended[:, 1]]
                  for name in ('x_fit', 'y_fit'))
        distance = np.hypot(dx, dy) / BEAM_FWHM
        assert np.all((distance >= 0.9) & (distance <= 1.7))
        assert distance.min() < 1.0
        assert distance.max() > 1.6

    def test_wide_blend_distance_isolates_the_others(self):
        sim = make_blended_map((400, 400), 60, beam=4.0,
                               blend_fraction=0.5,
                               blend_distance=(2.0, 3.0), seed=2)
        assert len(close_pairs(sim.truth, 12.0)) == 30

    @pytest.mark.parametrize('n_sources', [0, 1])
    def test_no_companion_without_host(self, n_sources):
        sim = make_blended_map((64, 64), n_sources, blend_fraction=0.9,
                               seed=1)
        assert len(sim.truth) == n_sources
        assert not np.any(sim.truth['host_id'])

    def test_edge_margin(self):
        truth = make_blended_map((90, 140), 30, beam=BEAM, seed=4).truth
        margin = 2.0 * BEAM_FWHM
        assert truth['x_fit'].min() >= margin
        assert truth['x_fit'].max() <= 139 - margin
        assert truth['y_fit'].min() >= margin
        assert truth['y_fit'].max() <= 89 - margin

    @pytest.mark.parametrize(('shape', 'n_sources', 'number'),
                             [((100, 100), 400, r'\d+'), ((10, 10), 1, '1')])
    def test_sources_that_do_not_fit(self, shape, n_sources, number):
        match = (f'n_sources={n_sources} sources do not fit in a map of '
                 rf'shape .*: no place for number {number} ')
        with pytest.raises(ValueError, match=match):
            make_blended_map(shape, n_sources, seed=1)


class TestNoise:
    shape = (40, 50)

    def draw(self, seed, **kwargs):
        arguments = {'beam': BEAM, 'rms': 2.0, 'background_ratio': 1.5,
                     'background_scale': 15.0, **kwargs}
        return make_blended_map(self.shape, 0, seed=seed, **arguments)

    @pytest.mark.parametrize('ratio', [0.0, 1.5])
    def test_empirical_covariance(self, ratio):
        """
        The covariance stated is that of many maps, within its error.

        Products of one pair of pixels are averaged over the seeds only,
        so that they are independent and the error of the mean is known.
        """
        n_maps = 200
        maps = [self.draw(seed, background_ratio=ratio)
                for seed in range(n_maps)]
        autocovariance = maps[0].autocovariance
        data = np.array([sim.image.data for sim in maps])
        # the corner pixels would be the first to feel a periodic wrap
        for x0, y0 in ((0, 0), (25, 20)):
            dx = np.array([0, 1, 2, 3, 0, 2, -2, 9, 24, -x0])
            dy = np.array([0, 0, 2, -1, 3, 2, 2, 7, 19, 39 - y0])
            use = (x0 + dx >= 0) & (y0 + dy >= 0)
            dx, dy = dx[use], dy[use]
            product = (data[:, y0, x0, np.newaxis]
                       * data[:, y0 + dy, x0 + dx])
            error = product.std(axis=0) / np.sqrt(n_maps)
            pull = (product.mean(axis=0) - autocovariance(dx, dy)) / error
            assert np.max(np.abs(pull)) < 4.0

    def test_noise_is_white_noise_through_the_beam(self):
        """
        The noise's covariance is the beam convolved with itself.
        """
        covariance = self.draw(1, background_ratio=0.0).autocovariance
        yy, xx = np.mgrid[-10:11, -10:11]
        sigma = np.sqrt(2) * gaussian_fwhm_to_sigma * np.array(BEAM[:2])
        expected = Gaussian2D(4.0, 0, 0, *sigma, np.deg2rad(BEAM[2]))
        assert_allclose(covariance(xx, yy), expected(xx, yy), atol=1e-6)

    def test_background_spectrum(self):
        """
        Seen through the same beam, the spectra of background and noise
        have the stated power law as their ratio.
        """
        arguments = {'beam': 2.0, 'background_index': 2.5}
        both = self.draw(1, **arguments).autocovariance.grid
        noise = self.draw(1, **arguments,
                          background_ratio=0.0).autocovariance.grid
        ratio = np.fft.fft2(both - noise).real / np.fft.fft2(noise).real
        ky, kx = np.meshgrid(*map(np.fft.fftfreq, ratio.shape),
                             indexing='ij')
        frequency = np.hypot(kx, ky)
        flat = frequency < 1 / 15
        assert_allclose(ratio[flat], ratio[0, 0], rtol=1e-9)
        falling = (frequency > 1 / 15) & (frequency < 0.4)
        assert_allclose(ratio[falling] / ratio[0, 0],
                        (15 * frequency[falling])**-2.5, rtol=1e-6)

    def test_beam_blurs_the_background(self):
        """
        The background has no power beyond the beam.
        """
        sim = make_blended_map((128, 128), 0, beam=8.0,
                               background_index=0.0, rms=1.0, seed=1)
        background = sim.background.value
        fine = background - gaussian_filter1d(
            gaussian_filter1d(background, 1.0, axis=0), 1.0, axis=1)
        assert np.std(fine) < 0.1 * np.std(background)

    def test_levels(self):
        sim = self.draw(1)
        variance = sim.autocovariance(0, 0)
        assert_allclose(variance, 2.0**2 * (1 + 1.5**2), rtol=1e-12)
        assert sim.rms == 2.0 * u.Jy / u.pix

    def test_covariance_is_symmetric_and_positive_definite(self):
        covariance = self.draw(1).autocovariance
        assert_allclose(covariance(3, -2), covariance(-3, 2), rtol=1e-10)
        y, x = (index.ravel() for index in np.mgrid[:12, :12])
        matrix = covariance(x[:, np.newaxis] - x, y[:, np.newaxis] - y)
        assert np.linalg.eigvalsh(matrix).min() > -1e-12 * matrix.max()

    @pytest.mark.parametrize(('lags', 'match'), [
        ((0.5, 0), 'dx must hold whole numbers of pixels between -49'),
        ((50, 0), 'dx must hold .* and 49: got'),
        (([0, 1], [0, -40]), 'dy must hold .* -39 and 39'),
        ((np.nan, 0), 'dx must hold whole numbers'),
    ])
    def test_bad_separations(self, lags, match):
        covariance = self.draw(1).autocovariance
        with pytest.raises(ValueError, match=match):
            covariance(*lags)


class TestLargeMaps:
    """
    Maps above a size are drawn in single precision and less memory.
    """

    @pytest.fixture(autouse=True)
    def _small_limit(self, monkeypatch):
        monkeypatch.setattr(simulated, '_MAX_DOUBLE_PIXELS', 1000)

    def test_empirical_covariance(self):
        """
        The stated covariance is that of many maps, also for pixels at
        opposite edges.
        """
        n_maps = 300
        maps = [make_blended_map((60, 90), 0, beam=BEAM, rms=2.0,
                                 background_scale=5.0, seed=seed)
                for seed in range(n_maps)]
        data = np.array([sim.image.data for sim in maps])
        dx = np.array([0, 1, 2, 3, 0, 9, 24, 89, 89])
        dy = np.array([0, 0, 2, 1, 3, 7, 19, 0, 59])
        product = data[:, 0, 0, np.newaxis] * data[:, dy, dx]
        error = product.std(axis=0) / np.sqrt(n_maps)
        expected = maps[0].autocovariance(dx, dy)
        pull = (product.mean(axis=0) - expected) / error
        assert np.max(np.abs(pull)) < 4.0
        assert_allclose(expected[0], 2.0**2 * (1 + 2.0**2), rtol=1e-5)

    def test_opposite_edges_are_nearly_independent(self):
        covariance = make_blended_map((90, 90), 0, beam=20.0, seed=1,
                                      background_scale=8.0).autocovariance
        assert abs(covariance(89, 0)) < 0.02 * covariance(0, 0)

    def test_covariance_is_that_of_double_precision(self, monkeypatch):
        arguments = {'shape': (90, 120), 'n_sources': 0, 'beam': BEAM,
                     'background_scale': 10.0, 'seed': 1}
        single = make_blended_map(**arguments).autocovariance
        monkeypatch.undo()
        double = make_blended_map(**arguments).autocovariance
        lags = np.arange(20)
        variance = double(0, 0)
        assert_allclose(single(lags, 0) / variance,
                        double(lags, 0) / variance, atol=0.01)

    def test_sources_are_those_of_small_maps(self, monkeypatch):
        single = make_blended_map((200, 240), 60, beam=BEAM, seed=11)
        monkeypatch.undo()
        double = make_blended_map((200, 240), 60, beam=BEAM, seed=11)
        for name in ('x_fit', 'y_fit', 'fwhm_major_fit', 'host_id'):
            assert_array_equal(single.truth[name], double.truth[name])


def test_memory_of_large_maps():
    """
    The peak is less than six float32 maps.
    """
    size = 2200
    tracemalloc.start()
    try:
        make_blended_map((size, size), 100, seed=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * 4 * size**2


def test_placed_sources_are_apart_from_all_others():
    """
    Neighbors in all directions are checked, across many cells.
    """
    beam = 3.0
    truth = make_blended_map((700, 900), 4000, beam=beam, seed=5,
                             blend_fraction=0.3).truth
    pairs = close_pairs(truth, 2.0 * beam)
    assert len(pairs) == np.count_nonzero(truth['host_id']) == 1200
    first, second = pairs.T
    host = np.asarray(truth['host_id']) - 1
    assert np.all((host[first] == second) | (host[second] == first))


class TestSky:
    def test_default_wcs(self, sim):
        """
        North is up, East to the left, the center at the Orion nebula.
        """
        center = sim.wcs.pixel_to_world(119.5, 99.5)
        orion = SkyCoord(83.81, -5.375, unit='deg')
        assert center.separation(orion) < 0.01 * u.deg
        east = sim.wcs.pixel_to_world(118.5, 99.5)
        assert_allclose(center.position_angle(east).to_value(u.deg), 90,
                        atol=1e-3)
        assert_allclose(center.separation(east).to_value(u.arcsec), 1,
                        rtol=1e-6)

    def test_truth_columns(self, sim):
        truth = sim.truth
        assert type(truth) is QTable
        assert_allclose(
            sim.wcs.pixel_to_world(truth['x_fit'], truth['y_fit'])
            .separation(truth['sky_centroid']).to_value(u.arcsec),
            0, atol=1e-6)
        assert_allclose(truth['fwhm_major_sky'].to_value(u.arcsec),
                        truth['fwhm_major_fit'], rtol=1e-5)
        assert_allclose(truth['fwhm_minor_sky'].to_value(u.arcsec),
                        truth['fwhm_minor_fit'], rtol=1e-5)
        difference = (truth['position_angle'] + 90 * u.deg
                      - truth['theta_fit']).to_value(u.deg)
        assert_allclose((difference + 90) % 180, 90, atol=0.01)
        assert truth.meta['call']['seed'] == '11'
        assert 'astropy' in truth.meta['version']

    def test_beam(self, sim):
        assert_allclose(sim.beam.major.to_value(u.arcsec), 4.0, rtol=1e-6)
        assert_allclose(sim.beam.minor.to_value(u.arcsec), 3.0, rtol=1e-6)
        assert_allclose(sim.beam.pa.to_value(u.deg) % 180, 120, atol=1e-3)

    def test_pixel_scale(self):
        sim = make_blended_map((64, 64), 4, pixel_scale=0.5 * u.arcmin,
                               seed=1)
        assert_allclose(sim.image.meta['pixel_scale'].to_value(u.arcsec),
                        30, rtol=1e-6)

    def test_own_wcs(self):
        """
        A rotated Galactic map across longitude 0 keeps its pixels and
        gets other angles.
        """
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ['GLON-CAR', 'GLAT-CAR']
        wcs.wcs.crval = [0.0, 0.0]
        wcs.wcs.crpix = [32.0, 32.0]
        wcs.wcs.cdelt = [-0.002, 0.002]
        cos, sin = np.cos(np.deg2rad(30)), np.sin(np.deg2rad(30))
        wcs.wcs.pc = [[cos, -sin], [sin, cos]]
        wcs.wcs.set()
        own = make_blended_map((64, 64), 9, beam=BEAM, wcs=wcs, seed=7)
        default = make_blended_map((64, 64), 9, beam=BEAM, seed=7)
        assert_allclose(own.image.data, default.image.data, atol=1e-18)
        assert own.truth['sky_centroid'].frame.name == 'galactic'
        turn = (own.truth['position_angle']
                - default.truth['position_angle']).to_value(u.deg)
        assert_allclose((turn - 30 + 90) % 180, 90, atol=0.01)
        assert_allclose(own.image.meta['beam_theta'] % 180, 30, atol=0.01)


class TestImage:
    def test_meta(self, sim):
        meta = sim.image.meta
        assert sim.image.unit == u.Jy / u.pix
        assert meta['original_unit'] == 'Jy/pixel'
        assert_allclose(meta['beam_area_pix'],
                        np.pi / (4 * np.log(2)) * 12.0, rtol=1e-6)
        assert_allclose(meta['beam_fwhm_pix'], BEAM_FWHM, rtol=1e-6)
        assert_allclose(meta['beam_theta'], 30.0, atol=1e-3)
        assert not np.any(sim.image.mask)

    @pytest.mark.parametrize('unit', ['Jy/beam', 'Jy/pixel'])
    def test_written_file_reads_back(self, sim, unit, tmp_path):
        path = tmp_path / 'map.fits'
        sim.write(path, unit=unit)
        image = read_map(path)
        assert image.meta['original_unit'] == unit
        assert_allclose(image.data, sim.image.data, rtol=1e-12)
        assert_allclose(image.meta['beam_theta'],
                        sim.image.meta['beam_theta'], atol=1e-6)
        truth = sim.truth
        x, y = image.wcs.world_to_pixel(truth['sky_centroid'])
        assert_allclose(x, truth['x_fit'], atol=1e-6)
        assert_allclose(y, truth['y_fit'], atol=1e-6)

    def test_write_refuses(self, sim, tmp_path):
        path = tmp_path / 'map.fits'
        with pytest.raises(ValueError, match=r"unit must be .*'mJy'"):
            sim.write(path, unit='mJy')
        assert not path.exists()
        sim.write(path)
        with pytest.raises(OSError, match='already exists'):
            sim.write(path)
        sim.write(path, overwrite=True)

    def test_repr(self, sim):
        assert repr(sim) == ('<SimulatedMap(shape=(200, 240), '
                             'n_sources=60, rms=2e-05 Jy / pix)>')
        assert 'shape=(200, 240)' in repr(sim.autocovariance)


def test_rms_with_and_without_unit_agree():
    plain = make_blended_map((64, 64), 4, rms=1e-3, seed=1)
    quantity = make_blended_map((64, 64), 4, rms=1 * u.mJy / u.pix, seed=1)
    assert_allclose(plain.image.data, quantity.image.data, rtol=1e-12)


@pytest.mark.parametrize(('name', 'fraction', 'closest'),
                         [('dense', 0.4, 0.8), ('moderate', 0.2, 1.2)])
def test_recipes(name, fraction, closest):
    """
    The recipes give 500 sources of which the stated part is blended.
    """
    sim = make_blended_map(**BLENDED_MAP_RECIPES[name], seed=0)
    truth, beam_fwhm = sim.truth, np.sqrt(3.7 * 3.0)
    assert sim.image.shape == (600, 600)
    assert len(truth) == 500
    assert np.sum(truth['host_id'] > 0) == round(500 * fraction)
    assert len(close_pairs(truth, closest * beam_fwhm)) == 0
    assert len(close_pairs(truth, 2 * beam_fwhm)) == round(500 * fraction)


@pytest.mark.parametrize(('arguments', 'error', 'match'), [
    ({'shape': (64,)}, ValueError, r'shape must be two .* got \(64,\)'),
    ({'shape': (64, -1)}, ValueError, 'shape must be two positive'),
    ({'shape': (64.5, 64)}, ValueError, 'shape must be two positive'),
    ({'n_sources': -1}, ValueError, 'n_sources must be at least 0'),
    ({'n_sources': 2.0}, TypeError, 'n_sources must be a whole number'),
    ({'beam': -4.0}, ValueError, r'beam must be .*: got -4\.0'),
    ({'beam': (3.0, 4.0, 0.0)}, ValueError, 'major >= minor >= 1'),
    ({'beam': (3.0, 0.9, 0.0)}, ValueError, 'major >= minor >= 1: got'),
    ({'beam': (4.0, 3.0)}, ValueError, r'beam must be .* \(4\.0, 3\.0\)'),
    ({'snr_range': (40, 12)}, ValueError, 'snr_range must be .* smaller'),
    ({'snr_range': 12}, ValueError, 'snr_range must be two'),
    ({'size_range': (0, 1)}, ValueError, 'size_range must be two pos'),
    ({'axis_ratio_range': (0.5, 1.1)}, ValueError,
     'axis_ratio_range must be .* at most 1'),
    ({'blend_fraction': 1.0}, ValueError, 'blend_fraction must be at '
     r'least 0\.0 and below 1\.0: got 1\.0'),
    ({'blend_distance': (1, np.inf)}, ValueError, 'blend_distance must'),
    ({'rms': 0.0}, ValueError, r'rms must be above 0\.0: got'),
    ({'background_ratio': -1}, ValueError, 'background_ratio must be'),
    ({'background_index': np.nan}, ValueError, 'background_index must be'),
    ({'background_scale': 0}, ValueError, 'background_scale must be'),
    ({'pixel_scale': 0}, ValueError, 'pixel_scale must be above'),
    ({'wcs': 'TAN'}, TypeError, "wcs must be an astropy WCS: got 'TAN'"),
    ({'wcs': WCS(naxis=2)}, ValueError, 'wcs must have two celestial'),
])
def test_bad_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        make_blended_map(**{'shape': (64, 64), 'n_sources': 2, 'seed': 1,
                            **arguments})


class TestGivenSources:
    def test_same_sources_on_other_noise(self):
        """
        A map with the truth of another has its sources, and noise of its
        own.
        """
        first = make_blended_map((100, 100), 8, seed=1)
        second = make_blended_map((100, 100), sources=first.truth, seed=2)
        for name in first.truth.colnames:
            if name != 'sky_centroid':
                assert_allclose(second.truth[name], first.truth[name],
                                rtol=1e-12)
        third = make_blended_map((100, 100), 0, seed=2)
        model = np.zeros((100, 100))
        truth = first.truth
        add_gaussians(model, truth['x_fit'], truth['y_fit'],
                      truth['amplitude_fit'].value, truth['fwhm_major_fit'],
                      truth['fwhm_minor_fit'], truth['theta_fit'].value)
        assert_allclose(second.image.data, third.image.data + model,
                        atol=1e-9)

    def test_missing_columns(self):
        """
        What is missing is named.
        """
        truth = make_blended_map((100, 100), 4, seed=1).truth
        truth.remove_column('theta_fit')
        with pytest.raises(ValueError, match='theta_fit missing'):
            make_blended_map((100, 100), sources=truth)

    def test_widths(self):
        """
        Widths are positive, the larger one first.
        """
        truth = make_blended_map((100, 100), 4, seed=1).truth
        truth['fwhm_minor_fit'][0] = 100.0
        with pytest.raises(ValueError, match='the larger one first'):
            make_blended_map((100, 100), sources=truth)
