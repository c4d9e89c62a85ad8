# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the highpass module.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.modeling.models import Gaussian2D
from astropy.nddata import CCDData
from astropy.table import QTable, Table
from astropy.utils.masked import Masked
from numpy.testing import assert_allclose, assert_array_equal
from photutils.detection import StarFinderBase
from photutils.psf import (
    CircularGaussianPRF,
    IterativePSFPhotometry,
    PSFPhotometry,
    SourceGrouper,
)
from photutils.utils.exceptions import NoDetectionsWarning
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree

from hyperphotutils.detection import HighPassStarFinder
from hyperphotutils.utils import add_gaussians

FWHM = 4.0
SIGMA = FWHM / 2.3548200450309493
COLUMNS = ['id', 'x_centroid', 'y_centroid', 'peak', 'snr', 'sharpness',
           'roundness', 'shoulder_score', 'flux']


def make_map(positions, amplitude=3.0, *, shape=(80, 90), noise=0.1,
             sigma=SIGMA, seed=0):
    """
    Return a map with round sources on white noise.
    """
    yy, xx = np.mgrid[:shape[0], :shape[1]]
    data = np.random.default_rng(seed).normal(0.0, noise, shape)
    for (x, y), height in zip(positions, np.broadcast_to(
            amplitude, len(positions)), strict=True):
        data += Gaussian2D(height, x, y, sigma, sigma)(xx, yy)
    return data


def match(truth, found, radius):
    """
    Return the numbers of matched truths and of unmatched detections.

    The match is one to one, the closest pairs first.
    """
    tree = KDTree(found)
    pairs = sorted((np.hypot(*(found[j] - position)), i, j)
                   for i, position in enumerate(truth)
                   for j in tree.query_ball_point(position, radius))
    used_truth, used_found = set(), set()
    for _, i, j in pairs:
        if i not in used_truth and j not in used_found:
            used_truth.add(i)
            used_found.add(j)
    return len(used_truth), len(found) - len(used_found)


def positions_of(table):
    """
    Return the centroids as an array of shape (n, 2).
    """
    return np.column_stack([table['x_centroid'], table['y_centroid']])


class TestDetection:
    """
    What is found, and what is not.
    """

    positions = ((20.3, 30.8), (60.0, 15.5), (44.6, 62.1))

    def test_table(self):
        """
        A plain QTable with the promised columns, in image order.
        """
        finder = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0)
        assert isinstance(finder, StarFinderBase)
        table = finder(make_map(self.positions))
        assert type(table) is QTable
        assert table.colnames == COLUMNS
        assert_array_equal(table['id'], [1, 2, 3])
        assert np.all(np.diff(table['y_centroid']) > 0)
        assert 'fwhm=4.0, n_sigma=6.0' in table.meta['call']
        assert 'photutils' in table.meta['version']

    @pytest.mark.parametrize('kernel', ['gaussian', 'box'])
    def test_all_found_nothing_else(self, kernel):
        """
        Every source and no other maximum is found, at its position.
        """
        finder = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0, kernel=kernel,
                                    kernel_size=9)
        table = finder(make_map(self.positions, noise=0.03))
        order = np.argsort([y for _, y in self.positions])
        assert_allclose(positions_of(table),
                        np.array(self.positions)[order], atol=0.1)
        assert_allclose(table['peak'], 3.0, rtol=0.1)

    def test_noise_free_centroids(self):
        """
        Without noise the centroid is right wherever in the pixel it is.
        """
        positions = [(15 + 20 * i + 0.1 * i, 12 + 20 * j + 0.13 * j - 0.3)
                     for i in range(4) for j in range(3)]
        data = make_map(positions, noise=0.0) + 7.0
        table = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0, rms=0.01)(data)
        assert len(table) == 12
        truth = sorted(positions, key=lambda p: (round(p[1]), p[0]))
        assert_allclose(positions_of(table), truth, atol=0.02)

    def test_close_pair(self):
        """
        Two equal sources 1.1 FWHM apart are two detections.
        """
        data = make_map([(40.0, 40.0), (44.4, 40.0)], noise=0.03)
        assert len(HighPassStarFinder(fwhm=FWHM, n_sigma=6.0)(data)) == 2

    def test_edges_lose_nothing(self):
        """
        Sources on the borders and in the corners are found.
        """
        positions = [(0.0, 0.0), (89.0, 0.3), (0.2, 79.0), (89.0, 78.6),
                     (45.0, 0.0), (0.0, 40.0), (44.0, 79.4), (89.3, 41.0)]
        data = make_map(positions)
        table = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0)(data)
        assert match(positions, positions_of(table), 1.0) == (8, 0)

    def test_exclude_border(self):
        """
        Sources within half a kernel of the border can be excluded.
        """
        data = make_map([(4.0, 40.0), (20.0, 40.0), (80.0, 40.0)])
        finder = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0, kernel_size=11,
                                    exclude_border=True)
        table = finder(data)
        assert_allclose(table['x_centroid'], [20.0, 80.0], atol=0.2)
        finder = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0, kernel_size=11)
        assert len(finder(data)) == 3

    def test_masked_regions_make_no_detections(self):
        """
        NaN borders and holes neither make nor lose sources, even on a
        high background.
        """
        positions = [(20.0, 20.0), (31.0, 40.0), (70.0, 60.0)]
        data = make_map(positions) + 1000.0
        data[:, 80:] = np.nan
        data[:15, :15] = np.inf
        mask = np.zeros(data.shape, dtype=bool)
        mask[35:45, 34:50] = True
        data[mask] = 5000.0
        table = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0)(data, mask=mask)
        assert match(positions, positions_of(table), 0.5) == (3, 0)

    def test_plateau_is_one_source(self):
        """
        A flat top is one detection, in its middle.
        """
        data = np.zeros((40, 40))
        data[20, 20:23] = 50.0
        finder = HighPassStarFinder(fwhm=3.0, n_sigma=6.0,
                                    kernel='box', kernel_size=9,
                                    min_separation=0, rms=0.01)
        table = finder(data)
        assert len(table) == 1
        assert_allclose(positions_of(table)[0], (21, 20), atol=0.1)

    def test_min_separation_keeps_the_brightest(self):
        """
        Of close peaks the brightest survive; a peak that is suppressed
        itself suppresses none.
        """
        positions = [(20.0, 40.0), (27.0, 40.0), (34.0, 40.0)]
        data = make_map(positions, amplitude=[5.0, 4.0, 3.0], noise=0.01)
        finder = HighPassStarFinder(fwhm=FWHM, n_sigma=20.0,
                                    min_separation=8.0)
        assert_allclose(finder(data)['x_centroid'], [20, 34], atol=0.2)
        finder = HighPassStarFinder(fwhm=FWHM, n_sigma=20.0)
        assert len(finder(data)) == 3

    def test_point_source_flux(self):
        """
        The flux of a beam-sized source is right, the sharpness usual.
        """
        data = make_map([(40.2, 40.4)], noise=0.0)
        row = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0, rms=0.01)(data)[0]
        assert_allclose(row['flux'], 2 * np.pi * 3.0 * SIGMA**2, rtol=0.05)
        assert 0.4 < row['sharpness'] < 0.6

    def test_steep_background(self):
        """
        A plane that rises by many times the noise makes no detections,
        not even at the borders.
        """
        data = make_map([(40.0, 40.0)])
        data += 0.1 * np.arange(90) + 0.05 * np.arange(80)[:, np.newaxis]
        table = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0)(data)
        assert len(table) == 1

    def test_lost_top(self):
        """
        On a slope without a top the position is the filtered peak's.
        """
        data = make_map([(40.3, 30.0)], noise=0.0)
        data += 2.0 * np.arange(90)
        finder = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0,
                                    rms=0.01, kernel_size=9,
                                    exclude_border=True)
        row = finder(data)[0]
        assert_allclose((row['x_centroid'], row['y_centroid']),
                        (40.3, 30.0), atol=0.15)

    def test_residual_image(self):
        """
        A companion that was hidden shows on the residual.
        """
        yy, xx = np.mgrid[:80, :90]
        positions = [(40.0, 40.0), (43.0, 40.0)]
        data = make_map(positions, amplitude=[9.0, 2.0], noise=0.03)
        finder = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0)
        assert len(finder(data)) == 1
        residual = data - Gaussian2D(9, 40, 40, SIGMA, SIGMA)(xx, yy)
        table = finder(residual)
        assert_allclose(positions_of(table), [positions[1]], atol=0.1)


class TestLevels:
    """
    Threshold, noise and selection.
    """

    data = make_map([(20.0, 20.0), (60.0, 20.0), (40.0, 60.0)],
                    amplitude=[2.0, 4.0, 8.0])

    def test_false_alarms(self):
        """
        Pure noise: nothing above 6 times the clipped rms.
        """
        data = np.random.default_rng(3).normal(5, 2, (300, 300))
        with pytest.warns(NoDetectionsWarning, match='No sources'):
            assert HighPassStarFinder(fwhm=FWHM, n_sigma=6.0)(data) is None

    def test_n_sigma_and_snr(self):
        """
        ``n_sigma`` is the lower limit of the snr of the table.
        """
        everything = HighPassStarFinder(fwhm=FWHM, n_sigma=5.0)(self.data)
        limit = everything['snr'][1] - 0.01
        table = HighPassStarFinder(fwhm=FWHM, n_sigma=limit)(self.data)
        assert_array_equal(table['snr'], everything['snr'][1:])

    def test_rms(self):
        """
        A given noise, number or map, takes the place of the clipped.
        """
        default = HighPassStarFinder(fwhm=FWHM, n_sigma=5.0)
        filtered = default.filter(self.data)
        snr = default(self.data)['snr']
        peak = [filtered[np.round(row['y_centroid']).astype(int),
                         np.round(row['x_centroid']).astype(int)]
                for row in default(self.data)]
        table = HighPassStarFinder(fwhm=FWHM, n_sigma=5.0, rms=0.04)(self.data)
        assert_allclose(table['snr'], np.array(peak) / 0.04)
        rms = np.full(self.data.shape, 0.04)
        rms[:, 50:] = 10.0
        rms[:, :5] = np.nan
        table = HighPassStarFinder(fwhm=FWHM, n_sigma=5.0, rms=rms)(self.data)
        assert_allclose(table['snr'], np.array(peak)[[0, 2]] / 0.04)
        assert snr[0] < snr[1] < snr[2]

    def test_threshold_is_absolute(self):
        """
        A number or a map is the level of the filtered image that a peak
        exceeds, and ``n_sigma`` is a multiple of the given noise.
        """
        finder = HighPassStarFinder(0.3, FWHM)
        table = finder(self.data)
        filtered = finder.filter(self.data)
        peak = [filtered[np.round(row['y_centroid']).astype(int),
                         np.round(row['x_centroid']).astype(int)]
                for row in table]
        assert len(table) == 3
        for level, n_found in ((0.999 * min(peak), 3), (1.001 * min(peak), 2)):
            for options in ({'threshold': level},
                            {'threshold': np.full(self.data.shape, level)},
                            {'n_sigma': level / 0.25, 'rms': 0.25}):
                found = HighPassStarFinder(fwhm=FWHM, **options)(self.data)
                assert len(found) == n_found

    def test_threshold_map(self):
        """
        Nothing is detected where a 2D threshold is high or not finite.
        """
        threshold = np.full(self.data.shape, 0.3)
        threshold[50:] = np.nan
        threshold[:, 50:] = 10.0
        table = HighPassStarFinder(threshold, FWHM)(self.data)
        assert_allclose(table['x_centroid'], [20.0], atol=0.2)

    def test_selection(self):
        """
        n_brightest, peak_max and the ranges reject.
        """
        def n_found(**kwargs):
            return HighPassStarFinder(fwhm=FWHM, n_sigma=5.0,
                                      **kwargs)(self.data)

        table = n_found(n_brightest=2)
        assert_allclose(table['x_centroid'], [60, 40], atol=0.2)
        assert_array_equal(table['id'], [1, 2])
        assert_allclose(n_found(peak_max=5.0)['x_centroid'], [20, 60],
                        atol=0.2)
        table = n_found()
        low, middle, _ = np.sort(table['sharpness'])
        assert len(n_found(sharpness_range=(low, middle))) == 2
        low, middle, _ = np.sort(table['roundness'])
        assert len(n_found(roundness_range=(low, middle))) == 2
        with pytest.warns(NoDetectionsWarning, match='No sources'):
            assert n_found(sharpness_range=(10, 11)) is None

    def test_default_ranges_of_hyper_reject_nothing(self):
        """
        The wide ranges known from Hyper are harmless.
        """
        finder = HighPassStarFinder(fwhm=FWHM, n_sigma=5.0,
                                    sharpness_range=(-2, 2),
                                    roundness_range=(-4, 4))
        assert len(finder(self.data)) == 3

    def test_roundness_sign(self):
        """
        The sign of the roundness tells the axis, as in photutils.
        """
        yy, xx = np.mgrid[:60, :60]
        for sigmas, sign in (((2.5, 1.5), -1), ((1.5, 2.5), 1),
                             ((1.7, 1.7), 0)):
            data = Gaussian2D(1, 30, 30, *sigmas)(xx, yy)
            row = HighPassStarFinder(fwhm=FWHM, n_sigma=5.0, rms=0.01)(data)[0]
            assert np.sign(np.round(row['roundness'], 6)) == sign


class TestSnapRadius:
    """
    Detections move to the highest pixel of the image.
    """

    data = make_map([(20.0, 20.0), (60.0, 20.0), (40.0, 60.0)], noise=0.6,
                    seed=8)

    @pytest.mark.parametrize('radius', [1.0, 2.0, 2.5, 4.0])
    def test_highest_pixel(self, radius):
        """
        ``peak`` is the maximum of the disk around the filtered peak,
        and the centroid is next to it; what belongs to the filtered
        peak stays.
        """
        plain = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0)
        table = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0,
                                   snap_radius=radius)(self.data)
        filtered = plain.filter(self.data)
        assert len(table) == 3
        yy, xx = np.indices(self.data.shape)
        for row, before in zip(table, plain(self.data), strict=True):
            near = np.hypot(xx - before['x_centroid'],
                            yy - before['y_centroid']) < 3
            at = np.argmax(np.where(near, filtered, -np.inf))
            y_0, x_0 = np.unravel_index(at, filtered.shape)
            disk = np.hypot(xx - x_0, yy - y_0) <= radius
            at = np.argmax(np.where(disk, self.data, -np.inf))
            y_1, x_1 = np.unravel_index(at, filtered.shape)
            assert row['peak'] == self.data[y_1, x_1]
            assert np.hypot(row['x_centroid'] - x_1,
                            row['y_centroid'] - y_1) <= 1.0
            for name in ('snr', 'sharpness', 'roundness', 'flux'):
                assert row[name] == before[name]

    def test_off(self):
        """
        None and zero move nothing.
        """
        plain = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0)(self.data)
        table = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0,
                                   snap_radius=0)(self.data)
        for name in COLUMNS:
            assert_array_equal(table[name], plain[name])

    def test_one_source_stays_one(self):
        """
        Detections that move to the same pixel become one, the one with
        the highest filtered peak.
        """
        data = make_map([(40.0, 40.0), (45.0, 40.0)], amplitude=[9.0, 3.0],
                        noise=0.01)
        for separation in (0.0, None):
            finder = HighPassStarFinder(fwhm=FWHM, n_sigma=20.0,
                                        snap_radius=6.0,
                                        min_separation=separation)
            table = finder(data)
            assert_allclose(positions_of(table), [(40, 40)], atol=0.2)
            assert table.meta['n_rejected'] == {'snap_radius': 1}

    def test_masked_pixels_and_borders(self):
        """
        Nothing moves to a masked pixel or off the image.
        """
        data = make_map([(0.0, 0.0), (89.0, 40.0)])
        data[40, 88] = 1000.0
        mask = data > 100
        table = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0, snap_radius=3)(data,
                                                             mask=mask)
        assert len(table) == 2
        assert np.all(table['peak'] < 10)
        assert_allclose(positions_of(table), [(0, 0), (89, 40)], atol=0.5)


def test_number_of_rejected():
    """
    The meta say how many each selection in use has rejected.
    """
    data = TestLevels.data
    table = HighPassStarFinder(fwhm=FWHM, n_sigma=5.0)(data)
    assert table.meta['n_rejected'] == {}
    finder = HighPassStarFinder(fwhm=FWHM, n_sigma=5.0,
                                peak_max=5.0, n_brightest=1,
                                sharpness_range=(-9, 9),
                                exclude_border=True)
    assert finder(data).meta['n_rejected'] == {
        'exclude_border': 0, 'sharpness_range': 0, 'peak_max': 1,
        'n_brightest': 1}


def test_rms_of_the_image():
    """
    White noise of the image times the norm of the filter's response to
    one pixel is the noise of the filtered image.
    """
    noise = np.random.default_rng(6).normal(0.0, 2.0, (400, 400))
    impulse = np.zeros((61, 61))
    impulse[30, 30] = 1.0
    for kernel in ('gaussian', 'box'):
        finder = HighPassStarFinder(fwhm=FWHM, n_sigma=5.0, kernel=kernel)
        gain = np.sqrt(np.sum(finder.filter(impulse)**2))
        assert_allclose(finder.filter(noise).std(), 2.0 * gain, rtol=0.02)
    # a box of 9 pixels: 1 - 1/81 at the center, -1/81 elsewhere
    assert_allclose(gain, np.sqrt(1 - 1 / 81))


class TestMaskedInput:
    """
    An image that carries its own mask.
    """

    data = make_map([(20.0, 20.0), (60.0, 20.0), (40.0, 60.0)])
    mask = np.zeros(data.shape, dtype=bool)
    mask[10:31, 10:31] = True

    @pytest.mark.parametrize('kind', ['ma', 'ma plus mask', 'Masked', 'CCD'])
    def test_same_as_mask(self, kind):
        """
        The hidden pixels are ignored as with ``mask``, and what is
        below them does not matter.
        """
        finder = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0)
        expected = finder(self.data, mask=self.mask)
        assert len(expected) == 2
        hidden = np.where(self.mask, 1.0e6, self.data)
        mask = None
        if kind == 'Masked':
            image = Masked(hidden << u.Jy, mask=self.mask)
        elif kind == 'CCD':
            image = CCDData(hidden, unit='Jy', mask=self.mask)
        else:
            image = np.ma.array(hidden, mask=self.mask.copy())
            if kind == 'ma plus mask':
                image.mask[:18] = False
                mask = self.mask & (np.arange(80) < 18)[:, np.newaxis]
        table = finder(image, mask=mask)
        for name in COLUMNS:
            values = getattr(table[name], 'value', table[name])
            assert_array_equal(values, expected[name])
        filtered = finder.filter(image, mask=mask)
        plain = getattr(filtered, 'value', filtered)
        assert type(plain) is np.ndarray
        assert_array_equal(plain, finder.filter(self.data, mask=self.mask))

    def test_integers_and_no_mask(self):
        """
        Masked arrays of integers, and without any masked pixel.
        """
        counts = np.ma.array(np.round(1000 * self.data).astype(int))
        finder = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0)
        assert len(finder(counts)) == 3
        assert len(finder(np.ma.array(counts, mask=self.mask))) == 2


@pytest.mark.parametrize('value', [0.0, -32768.0])
def test_fill_values_around_a_field(value):
    """
    What stands for no data is neither sky nor noise.
    """
    field = make_map([(20.0, 20.0), (60.0, 20.0), (40.0, 60.0)])
    ny, nx = field.shape
    data = np.full((3 * ny, 3 * nx), value)
    data[ny:2 * ny, nx:2 * nx] = field
    finder = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0)
    table = finder(data)
    expected = finder(np.where(data == value, np.nan, data))
    for name in ('x_centroid', 'y_centroid', 'snr'):
        assert_allclose(table[name], expected[name])
    assert len(table) == 3


class TestUnits:
    """
    Quantity in, Quantity out, with the same numbers.
    """

    data = make_map([(20.0, 20.0), (60.0, 40.0)])

    def test_same_numbers(self):
        """
        Units change no number.
        """
        finder = HighPassStarFinder(fwhm=FWHM, n_sigma=5.0)
        plain = finder(self.data)
        table = finder(self.data * u.Jy)
        for name in COLUMNS:
            if name in ('peak', 'flux'):
                assert table[name].unit == u.Jy
                assert_array_equal(table[name].value, plain[name])
            else:
                assert_array_equal(table[name], plain[name])
        filtered = finder.filter(self.data * u.Jy)
        assert filtered.unit == u.Jy
        assert_array_equal(filtered.value, finder.filter(self.data))

    def test_levels_with_units(self):
        """
        Absolute levels carry the unit of the data.
        """
        data = self.data * u.Jy
        finder = HighPassStarFinder(0.3 * u.Jy, FWHM, rms=0.1 * u.Jy,
                                    peak_max=10 * u.Jy)
        table = finder(data)
        assert len(table) == 2
        assert isinstance(table['snr'], np.ndarray)
        threshold = np.full(data.shape, 0.3) << u.Jy
        assert len(HighPassStarFinder(threshold, FWHM)(data)) == 2

    @pytest.mark.parametrize('kwargs', [
        {'threshold': 0.5 * u.Jy}, {'n_sigma': 5, 'rms': 0.1 * u.Jy},
        {'n_sigma': 5, 'peak_max': 9 * u.Jy},
        {'threshold': np.ones((80, 90)) * u.Jy}])
    def test_mixture(self, kwargs):
        """
        Levels with a unit need data with that unit.
        """
        finder = HighPassStarFinder(fwhm=FWHM, **kwargs)
        with pytest.raises(ValueError, match='must all have the same unit'):
            finder(self.data)
        with pytest.raises(ValueError, match='must all have the same unit'):
            finder(self.data * u.K)

    def test_plain_threshold_for_data_with_unit(self):
        """
        As in DAOStarFinder, the threshold has the unit of the data.
        """
        with pytest.raises(ValueError, match='must all have the same unit'):
            HighPassStarFinder(0.3, FWHM)(self.data * u.Jy)


class TestBadInput:
    """
    Every bad input has a clear message.
    """

    @pytest.mark.parametrize('threshold', [np.nan, np.inf, 0.0, -3.0])
    def test_threshold(self, threshold):
        match = 'threshold must be positive and finite'
        with pytest.raises(ValueError, match=match):
            HighPassStarFinder(threshold, FWHM)
        match = f'n_sigma must be a positive number: {threshold}'
        with pytest.raises(ValueError, match=match):
            HighPassStarFinder(fwhm=FWHM, n_sigma=threshold)

    @pytest.mark.parametrize(('kwargs', 'got'), [
        ({}, 'none, n_sigma=5'), ({'threshold': 1, 'n_sigma': 5}, 'both')])
    def test_exactly_one_threshold(self, kwargs, got):
        match = f'exactly one of threshold .absolute. and n_sigma .*got {got}'
        with pytest.raises(TypeError, match=match):
            HighPassStarFinder(fwhm=FWHM, **kwargs)

    def test_fwhm_with_a_unit(self):
        with pytest.raises(TypeError, match='the FWHM in pixels: got 4'):
            HighPassStarFinder(fwhm=4.0 * u.arcsec, n_sigma=5.0)

    @pytest.mark.parametrize('fwhm', [np.nan, np.inf, 0.0, -3.0])
    def test_fwhm(self, fwhm):
        with pytest.raises(ValueError, match='fwhm must be positive'):
            HighPassStarFinder(fwhm=fwhm, n_sigma=5.0)

    @pytest.mark.parametrize(('kwargs', 'error', 'match'), [
        ({'fwhm': [3, 4]}, TypeError, 'fwhm must be a scalar'),
        ({'threshold': 'a'}, TypeError, 'threshold must be real'),
        ({'fwhm': None}, TypeError, 'fwhm is required'),
        ({'rms': 1, 'relative_rms': np.ones((3, 4))}, TypeError,
         'only one of rms and relative_rms'),
        ({'threshold': [1, 2]}, ValueError, 'must be a scalar or 2D'),
        ({'rms': -1.0}, ValueError, 'rms must be positive'),
        ({'kernel': 'disk'}, ValueError, "kernel must be 'gaussian'"),
        ({'kernel_size': 8}, ValueError, 'must be an odd number'),
        ({'kernel_size': -3}, ValueError, 'must be an odd number'),
        ({'kernel_size': 3, 'fwhm': 9.0}, ValueError, 'is too small'),
        ({'kernel_size': 7.5}, TypeError, 'must be an integer'),
        ({'sharpness_range': 3}, ValueError, 'sharpness_range must be'),
        ({'roundness_range': (2, 1)}, ValueError, 'lower <= upper'),
        ({'min_separation': -1}, ValueError, 'min_separation must be'),
        ({'snap_radius': -1}, ValueError, 'snap_radius must be finite'),
        ({'snap_radius': np.inf}, ValueError, 'snap_radius must be fin'),
        ({'n_brightest': 0}, ValueError, 'n_brightest must be at least'),
        ({'n_brightest': 1.5}, TypeError, 'n_brightest must be an int'),
    ])
    def test_configuration(self, kwargs, error, match):
        kwargs = {'threshold': 5.0, 'fwhm': FWHM} | kwargs
        with pytest.raises(error, match=match):
            HighPassStarFinder(**kwargs)

    @pytest.mark.parametrize(('data', 'match'), [
        (np.zeros(30), '2D'), (np.zeros((3, 30, 30)), '2D'),
        (np.zeros((5, 30)), 'must not be smaller than the kernel'),
        (np.full((30, 30), np.nan), 'no usable pixel')])
    def test_data(self, data, match):
        with pytest.raises(ValueError, match=match):
            HighPassStarFinder(fwhm=FWHM, n_sigma=5.0)(data)

    def test_shapes(self):
        data = make_map([(20, 20)])
        with pytest.raises(ValueError, match='mask must have the shape'):
            HighPassStarFinder(fwhm=FWHM, n_sigma=5.0)(
                data, mask=np.zeros((3, 3)))
        for kwargs in ({'threshold': np.ones((3, 3))},
                       {'n_sigma': 5, 'rms': np.ones((3, 3))}):
            with pytest.raises(ValueError, match='must have the shape of'):
                HighPassStarFinder(fwhm=FWHM, **kwargs)(data)

    @pytest.mark.parametrize('level', [0.0, 0.1, -1.0e9])
    def test_constant_map(self, level):
        """
        A constant map has no sources, whatever its last digits.
        """
        data = np.full((50, 50), level)
        data[:9, 20:33] = np.nan
        with pytest.warns(NoDetectionsWarning, match='No sources'):
            assert HighPassStarFinder(fwhm=FWHM, n_sigma=5.0)(data) is None


class TestPhotutils:
    """
    The finder drops into photutils' own tools.
    """

    positions = np.array([(20.0, 20.0), (60.0, 40.0), (65.0, 41.0)])
    data = make_map(positions, noise=0.02)

    @pytest.mark.parametrize('unit', [None, u.Jy])
    def test_psf_photometry(self, unit):
        """
        PSFPhotometry takes the finder, with and without units.
        """
        data = self.data if unit is None else self.data << unit
        phot = PSFPhotometry(CircularGaussianPRF(fwhm=FWHM), (9, 9),
                             finder=HighPassStarFinder(fwhm=FWHM, n_sigma=6.0),
                             grouper=SourceGrouper(2 * FWHM),
                             aperture_radius=FWHM)
        table = phot(data)
        assert_allclose(np.column_stack([table['x_fit'], table['y_fit']]),
                        self.positions, atol=0.1)

    def test_iterative_psf_photometry(self):
        """
        IterativePSFPhotometry detects again on its residual image.
        """
        positions = np.array([(40.0, 40.0), (43.0, 40.0)])
        data = make_map(positions, amplitude=[9.0, 2.5], noise=0.02)
        phot = IterativePSFPhotometry(
            CircularGaussianPRF(fwhm=FWHM), (9, 9),
            finder=HighPassStarFinder(fwhm=FWHM, n_sigma=6.0),
            aperture_radius=FWHM,
            maxiters=2)
        table = phot(data)
        assert set(table['iter_detected']) == {1, 2}


def test_repr():
    """
    The repr is the constructor call.
    """
    finder = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0)
    assert repr(finder).startswith(
        'HighPassStarFinder(threshold=None, fwhm=4.0, n_sigma=6.0, '
        "kernel='gaussian', kernel_size=None, rms=None, relative_rms=None")
    assert '<array; shape=(3, 4)>' in repr(
        HighPassStarFinder(np.ones((3, 4)), FWHM))


@pytest.mark.real_data
@pytest.mark.parametrize('n_sigma', [5.0, 6.0, 7.0, 8.0])
def test_map_of_500_gaussians(real_data, n_sigma):
    """
    On the map of the Hyper-py paper nearly all is found, nothing else.
    """
    data = fits.getdata(real_data('map_500_Gaussians_1.fits')).squeeze()
    truth = Table.read(real_data('table_500_Gaussians_1.txt'),
                       format='ascii.ipac')
    table = HighPassStarFinder(fwhm=3.31, n_sigma=n_sigma)(data)
    n_matched, n_false = match(np.column_stack([truth['X'], truth['Y']]),
                               positions_of(table), 1.54)
    assert n_matched >= 490
    assert n_false <= 2


def test_noisy_margin_makes_no_detections():
    """
    Noise that rises fourfold toward the end of the coverage gives no
    more false detections than the inside of the map, and sources on a
    margin that is not noisy are kept.
    """
    yy, xx = np.mgrid[:200, :200]
    radius = np.hypot(xx - 100, yy - 100)
    noise = np.random.default_rng(11).normal(0.0, 1.0, xx.shape)
    noise = gaussian_filter(noise, 1.7)
    noise /= noise.std()
    mask = radius > 90
    finder = HighPassStarFinder(fwhm=4.0, n_sigma=5.0)
    loud = noise * np.clip(1.0 + 3.0 * (radius - 80.0) / 10.0, 1.0, 4.0)
    with pytest.warns(NoDetectionsWarning, match='No sources'):
        assert finder(loud, mask=mask) is None

    angle = np.arange(8) * np.pi / 4.0
    x, y = 100 + 87 * np.cos(angle), 100 + 87 * np.sin(angle)
    quiet = noise.copy()
    for x_0, y_0 in zip(x, y, strict=True):
        quiet += Gaussian2D(15, x_0, y_0, 1.7, 1.7)(xx, yy)
    table = finder(quiet, mask=mask)
    assert len(table) == 8


@pytest.mark.parametrize('slope', [1.0, 3.0, 10.0])
@pytest.mark.parametrize('masked', [False, True])
def test_slopes_at_the_edge_make_no_detections(masked, slope):
    """
    On planes of one to ten rms per pixel nothing is found along borders
    and ragged margins but the sources that are there.
    """
    yy, xx = np.mgrid[:120, :120]
    noise = gaussian_filter(np.random.default_rng(4).normal(size=xx.shape),
                            SIGMA, mode='wrap')
    data = noise / noise.std() + slope * (0.6 * xx - 0.8 * yy)
    mask = (yy < 9 + 4 * np.sin(xx / 5.0) if masked
            else np.zeros(data.shape, dtype=bool))
    finder = HighPassStarFinder(fwhm=FWHM, n_sigma=5.0)
    with pytest.warns(NoDetectionsWarning, match='No sources'):
        assert finder(data, mask=mask) is None
    positions = np.array([(x, np.argmin(mask[:, x])) for x in (20, 60)]
                         + [(119, 70), (40, 119), (0, 50), (118, 118)])
    for x, y in positions:
        data += 20.0 * Gaussian2D(1.0, x, y, SIGMA, SIGMA)(xx, yy)
    found = positions_of(finder(data, mask=mask))
    assert match(positions, found, 2.0) == (len(positions), 0)


def varying_rms(kind, shape=(120, 120)):
    """
    Return a rms that varies over a map.
    """
    y, x = np.indices(shape) / shape[0]
    return {'ramp': 1.0 + 9.0 * x**2,
            'step': np.where(x < 0.5, 1.0, 3.0),
            'rim': np.exp(4.0 * ((x - 0.5)**2 + (y - 0.5)**2))}[kind]


@pytest.mark.parametrize('smooth', [True, False])
@pytest.mark.parametrize('kind', ['ramp', 'step', 'rim'])
def test_threshold_is_in_units_of_the_noise_of_the_place(kind, smooth):
    """
    Where the noise varies over a map, sources of 12 times the noise of
    the place are found, and nothing else, without being told how.
    """
    rms = varying_rms(kind)
    n_found = n_false = n_true = 0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=rms.shape)
        if smooth:
            noise = gaussian_filter(noise, SIGMA, mode='wrap')
            noise /= noise.std()
        # of the same height after the filter, in units of its noise
        height = 14.0 if smooth else 8.5
        x, y = (grid.ravel() * 24.0 + 12.0 for grid in np.mgrid[:5, :5])
        away = np.abs(x - 60) > 10  # from the step
        positions = np.column_stack([x, y])[away]
        width = np.full(len(positions), FWHM)
        data = rms * noise
        add_gaussians(data, *positions.T,
                      height * rms[y.astype(int), x.astype(int)][away],
                      width, width, 0.0 * width)
        table = HighPassStarFinder(fwhm=FWHM, n_sigma=5.0)(data)
        matched, false = match(positions, positions_of(table), 2.0)
        n_found, n_false = n_found + matched, n_false + false
        n_true += len(positions)
        assert 9.0 < np.median(table['snr']) < 15.0
    assert n_false <= 1
    assert n_found >= 0.98 * n_true


@pytest.mark.parametrize('kind', ['ramp', 'rim'])
def test_noise_of_the_place_does_not_depend_on_padding(kind):
    """
    Rows and columns without a value around a map change nothing.
    """
    rng = np.random.default_rng(3)
    data = gaussian_filter(rng.normal(size=(120, 120)), SIGMA)
    data *= varying_rms(kind)
    finder = HighPassStarFinder(fwhm=FWHM, n_sigma=2.0)
    table = finder(data)
    shifted = finder(np.pad(data, ((13, 5), (8, 30)),
                            constant_values=np.nan))
    assert len(table) > 5
    assert_allclose(shifted['x_centroid'] - 8, table['x_centroid'], atol=0.1)
    assert_allclose(shifted['snr'], table['snr'], rtol=1e-6)


def test_given_noise_is_not_measured():
    """
    Neither a given rms nor an absolute threshold follows the noise.
    """
    rng = np.random.default_rng(3)
    data = gaussian_filter(rng.normal(size=(120, 120)), SIGMA, mode='wrap')
    data *= varying_rms('ramp')
    finder = HighPassStarFinder(fwhm=FWHM, n_sigma=5.0)
    level = 4.0 * np.std(finder.filter(data))
    given = HighPassStarFinder(fwhm=FWHM, n_sigma=5.0, rms=level / 5.0)(data)
    absolute = HighPassStarFinder(level, FWHM)(data)
    assert len(given) > 0
    assert_allclose(given['x_centroid'], absolute['x_centroid'])
    assert given['snr'].min() >= 5.0
    with pytest.warns(NoDetectionsWarning, match='No sources'):
        assert HighPassStarFinder(fwhm=FWHM, n_sigma=5.0,
                                  rms=level)(data) is None


@pytest.mark.real_data
def test_galactic_center_is_found_where_the_coverage_is_deep(real_data):
    """
    The noise of the place lowers the threshold on the ridge of the
    Galactic center and raises it at the ragged margins.
    """
    data = fits.getdata(real_data('bgps_gc_1mm.fits'))
    table = HighPassStarFinder(fwhm=4.58, n_sigma=5.0)(data)
    assert len(table) > 500
    margin = ((table['x_centroid'] < 20) | (table['x_centroid'] > 620)
              | (table['y_centroid'] > 610) | (table['y_centroid'] < 20))
    # the ridge itself reaches the left and the right margin
    off_ridge = np.abs(table['y_centroid'] - 300) > 100
    assert np.count_nonzero(margin & off_ridge) < 0.05 * len(table)


class TestRelativeRms:
    """
    Thresholds follow noise that varies as it is told.
    """

    def test_half_of_the_map_is_noisier(self):
        """
        The same stars, relative to the noise, are found in both halves,
        and no noise.
        """
        relative = np.where(np.arange(200) < 100, 1.0, 5.0) * np.ones(
            (200, 1))
        data = relative * np.random.default_rng(5).normal(size=(200, 200))
        x, y = (grid.ravel() * 20.0 + 10.0 for grid in np.mgrid[:10, :10])
        add_gaussians(data, x, y, 9.0 * relative[0, x.astype(int)], 4.0,
                      4.0, 0.0)
        finder = HighPassStarFinder(fwhm=4.0, n_sigma=5.0)
        table = HighPassStarFinder(fwhm=4.0, n_sigma=5.0,
                                   relative_rms=relative)(data)
        assert len(table) == 100
        snr = [np.median(table['snr'][(table['x_centroid'] < 100) == left])
               for left in (True, False)]
        assert_allclose(snr[0], snr[1], rtol=0.1)
        measured = finder(data)
        assert match(np.column_stack([x, y]), positions_of(measured),
                     2.0) >= (98, 0)
        assert len(measured) <= 103

    def test_a_constant_changes_nothing(self):
        data = np.random.default_rng(5).normal(size=(100, 100))
        add_gaussians(data, [50.0], [40.0], [20.0], [4.0], [4.0], [0.0])
        finder = HighPassStarFinder(fwhm=4.0, n_sigma=5.0)
        table = HighPassStarFinder(
            fwhm=4.0, n_sigma=5.0,
            relative_rms=np.full(data.shape, 3.0))(data)
        assert_allclose(table['snr'], finder(data)['snr'])

    @pytest.mark.parametrize('relative', [np.ones((3, 3)), np.zeros((9, 9))])
    def test_bad_maps(self, relative):
        with pytest.raises(ValueError, match='relative_rms must'):
            HighPassStarFinder(fwhm=2.0, n_sigma=5.0, relative_rms=relative)(
                np.ones((9, 9)))


def test_detections_on_a_part_are_those_on_the_whole():
    """
    On a curved background, sources at the border of a map have the same
    filtered peaks on a part of it.
    """
    x = np.arange(8.0, 150.0, 9.0)
    data = make_map(np.column_stack((x, x % 7)), shape=(60, 150))
    data += 1e-3 * np.hypot(*np.indices(data.shape))**2
    finder = HighPassStarFinder(fwhm=FWHM, threshold=0.3)
    whole, _, _ = finder.search(data, origin=(0, 0))
    part, _, _ = finder.search(data[:, 37:], origin=(0, -37))
    whole = whole[whole['x_centroid'] > 37 + 6 * FWHM]
    part = part[part['x_centroid'] > 6 * FWHM]
    assert len(part) >= 9
    assert_allclose(part['x_centroid'] + 37, whole['x_centroid'])
    assert_allclose(part['flux'], whole['flux'], rtol=1e-9)
