# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the recovery of injected sources.
"""

import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import CCDData
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import pdist, squareform

from hyperphotutils.datasets import make_blended_map
from hyperphotutils.detection import HighPassStarFinder
from hyperphotutils.photometry import HyperPhotometry, InjectionRecovery
from hyperphotutils.photometry.recovery import _match
from hyperphotutils.utils.gaussians import gaussian_flux

# most runs are too small to tell
pytestmark = pytest.mark.filterwarnings(
    'ignore:no curve of the completeness')

FWHM = 4.0


@pytest.fixture(name='noise')
def fixture_noise():
    """
    A map of white noise with an rms of 2.
    """
    return np.random.default_rng(0).normal(0.0, 2.0, (120, 130))


@pytest.fixture(name='finder')
def fixture_finder():
    return HighPassStarFinder(fwhm=FWHM, n_sigma=6.0)


class Oracle:
    """
    An extractor that sees only what has been added to its map: it tells
    the brightest pixel of each of some windows.
    """

    def __init__(self, base, known=()):
        self.base = base
        self.known = list(known)
        self.seen = []

    def __deepcopy__(self, memo):
        return self  # the tests want to look at it

    def __call__(self, data, mask=None):
        added = np.asarray(data) - self.base
        self.seen.append(added.copy())
        rows = []
        while added.max() > 1.0:
            y, x = np.unravel_index(np.argmax(added), added.shape)
            rows.append((x, y))
            added[max(0, y - 10):y + 11, max(0, x - 10):x + 11] = 0.0
        rows += self.known
        if not rows:
            return None
        x, y = np.array(rows, dtype=float).T
        return QTable({'x_fit': x, 'y_fit': y})


def recover(extractor, data, **kwargs):
    kwargs = {'n_repeats': 4, 'n_per_map': 4, 'seed': 1} | kwargs
    call = {name: kwargs.pop(name) for name in ('fwhm', 'mask')
            if name in kwargs}
    return InjectionRecovery(extractor, **kwargs)(data, **call)


class TestInjection:
    def test_what_is_added_has_the_fluxes_of_the_table(self, noise):
        oracle = Oracle(noise)
        result = recover(oracle, noise, fwhm=FWHM, snr=[10, 20])
        assert_allclose(oracle.seen[0], 0.0)
        assert len(oracle.seen) == 1 + 4
        for repeat, added in enumerate(oracle.seen[1:]):
            mine = result.injected[result.injected['repeat'] == repeat]
            inside = np.all([(mine[f'{axis}_true'] > 15)
                             & (mine[f'{axis}_true'] < 105)
                             for axis in 'xy'], axis=0)
            if inside.all():
                assert_allclose(added.sum(), mine['flux_true'].sum(),
                                rtol=1e-5)
            assert added.max() <= mine['amplitude_true'].max()
        assert_allclose(
            result.injected['flux_true'],
            gaussian_flux(result.injected['amplitude_true'],
                          result.injected['fwhm_major_true'],
                          result.injected['fwhm_minor_true']))

    def test_map_is_not_changed(self, noise, finder):
        before = noise.copy()
        recover(finder, noise)
        assert_array_equal(noise, before)

    def test_snr_is_the_peak_in_units_of_the_rms(self, noise, finder):
        result = recover(finder, noise, snr=[5, 10, 20])
        injected = result.injected
        assert_allclose(injected['amplitude_true'] / injected['snr_true'],
                        2.0, rtol=0.05)
        assert np.all(injected['snr_true'] >= 5.0)
        assert np.all(injected['snr_true'] <= 20.0)

    def test_all_bins_have_the_same_number(self, noise, finder):
        result = recover(finder, noise, n_per_map=6, snr=[5, 10, 20, 30])
        assert_array_equal(result.table['n_injected'], 8)

    def test_sources_are_on_usable_pixels(self, noise, finder):
        mask = np.zeros(noise.shape, dtype=bool)
        mask[:, 70:] = True
        noise[:60] = np.nan
        result = recover(finder, noise, mask=mask, n_repeats=20, n_per_map=2)
        x, y = (result.injected[f'{axis}_true'] for axis in 'xy')
        assert x.max() < 69.5
        assert y.min() > 59.5

    def test_sources_keep_apart(self, noise, finder):
        result = recover(finder, noise, n_per_map=6)
        for repeat in range(4):
            mine = result.injected[result.injected['repeat'] == repeat]
            distances = pdist(np.column_stack((mine['x_true'],
                                               mine['y_true'])))
            assert distances.min() >= 6.0 * FWHM

    def test_companions_are_at_the_asked_distance(self, noise, finder):
        result = recover(finder, noise, n_per_map=6, blend_fraction=0.5,
                         blend_distance=(1.0, 1.5))
        injected = result.injected
        assert np.count_nonzero(injected['host_id']) == 4 * 3
        distance = squareform(pdist(np.column_stack((injected['x_true'],
                                                     injected['y_true']))))
        for row in injected[injected['host_id'] > 0]:
            assert injected['repeat'][row['host_id'] - 1] == row['repeat']
            apart = distance[row['id'] - 1, row['host_id'] - 1]
            assert 1.0 * FWHM <= apart <= 1.5 * FWHM

    def test_sizes_and_axis_ratios_are_in_their_ranges(self, noise, finder):
        injected = recover(finder, noise, size_range=(1.2, 1.3),
                           axis_ratio_range=(0.5, 0.6)).injected
        major, minor = (injected[f'fwhm_{axis}_true']
                        for axis in ('major', 'minor'))
        size = np.sqrt(major * minor) / FWHM
        assert 1.2 <= size.min() <= size.max() <= 1.3
        assert 0.5 <= (minor / major).min() <= (minor / major).max() <= 0.6

    def test_default_number_leaves_the_map_sparse(self, noise, finder):
        result = recover(finder, noise, n_per_map=None, n_repeats=1)
        assert len(result.injected) == noise.size // (20 * FWHM)**2

    def test_too_many_sources_are_refused(self, noise, finder):
        with pytest.raises(ValueError, match='n_per_map=500 sources do not '
                           r'fit in the map, each 24\.0 pixels'):
            recover(finder, noise, n_per_map=500)


class TestMatching:
    def test_bright_isolated_sources_are_all_recovered(self, noise):
        with pytest.warns(AstropyUserWarning, match='no curve of the '
                          r'completeness: (\d+) of \1 .*; inject fainter'):
            result = recover(Oracle(noise), noise, fwhm=FWHM, snr=[10, 20])
        assert 'inject fainter' in result.table.meta['no_curve']
        assert result.injected['recovered'].all()
        assert np.nanmax(result.injected['distance']) <= np.sqrt(0.5) + 1e-9
        assert_array_equal(result.table['completeness'], 1.0)
        assert not result.detections['false'].any()
        assert result.curve is None

    def test_known_sources_are_neither_recovered_nor_false(self, noise):
        known = [(20.0, 20.0), (100.0, 90.0)]
        result = recover(Oracle(noise, known), noise, fwhm=FWHM)
        assert len(result.catalog) == 2
        assert result.table.meta['n_known'] == 2
        assert result.table.meta['n_false'] == 0
        assert len(result.detections) == len(result.injected)

    @pytest.mark.parametrize(('offset', 'kind'), [(8.0, 'false'),
                                                  (400.0, 'changed')])
    def test_detections_of_nothing_are_told_by_where_they_are(
            self, noise, offset, kind):
        oracle = Oracle(noise)

        def liar(data):
            table = oracle(data)
            if table is not None:  # a map with injected sources
                table.add_row((table['x_fit'][0] + offset,
                               table['y_fit'][0]))
            return table

        result = recover(liar, noise, fwhm=FWHM)
        counts = {'false': 0, 'changed': 0, kind: 4}
        for name, number in counts.items():
            assert result.table.meta[f'n_{name}'] == number
            assert np.count_nonzero(result.detections[name]) == number

    def test_nearer_target_gets_the_detection(self):
        # an injected source 1 px from the detection, a known one 0.5 px
        targets = np.array([[11.0, 10.0], [9.5, 10.0]])
        matched, distance = _match(targets, np.array([[10.0, 10.0]]), 2.0)
        assert_array_equal(matched, [-1, 0])
        assert_allclose(distance, [np.nan, 0.5])

    def test_match_is_one_to_one_and_within_the_radius(self):
        targets = np.array([[0.0, 0.0], [1.0, 0.0], [50.0, 0.0]])
        found = np.array([[0.9, 0.0], [np.nan, 0.0], [0.2, 0.0],
                          [53.0, 0.0]])
        matched, _ = _match(targets, found, 2.0)
        assert_array_equal(matched, [2, 0, -1])

    def test_nothing_found_is_a_result(self, noise):
        result = recover(lambda _: None, noise, fwhm=FWHM)
        assert not result.injected['recovered'].any()
        assert_array_equal(result.table['completeness'], 0.0)
        assert np.isnan(result.table['reliability']).all()
        assert len(result.detections) == 0


class TestStatistics:
    def test_intervals_are_those_of_wilson(self, noise, finder):
        result = recover(finder, noise, snr=[2, 4, 8], n_per_map=8,
                         confidence_level=0.9545)
        k, n = (np.asarray(result.table[f'n_{name}'], dtype=float)
                for name in ('recovered', 'injected'))
        z = 2.0
        center = (k + z**2 / 2.0) / (n + z**2)
        half = z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4.0)
        for end, expected in (('low', center - half),
                              ('high', center + half)):
            assert_allclose(result.table[f'completeness_{end}'], expected,
                            atol=1e-4)

    def test_bias_scatter_and_pulls_are_those_of_the_errors(self, noise):
        rng = np.random.default_rng(5)
        oracle = Oracle(noise)

        def biased(data):
            table = oracle(data)
            if table is None:
                return None
            added = oracle.seen[-1]
            n_rows = len(table)
            peak = added[table['y_fit'].astype(int),
                         table['x_fit'].astype(int)]
            table['amplitude_fit'] = peak + rng.normal(3.0, 2.0, n_rows)
            table['amplitude_err'] = np.full(n_rows, 1.0)
            return table

        # wide sources, whose brightest pixel is as bright as the peak
        result = recover(biased, noise, fwhm=FWHM, snr=[100, 110],
                         size_range=(4, 4), axis_ratio_range=(1, 1),
                         n_repeats=150, n_per_map=2)
        row = result.table[0]
        assert_allclose(row['peak_pull_median'], 3.0, atol=0.7)
        assert_allclose(row['peak_pull_scatter'], 2.0, rtol=0.25)
        assert_allclose(row['peak_bias'], row['peak_pull_median'] / 210.0,
                        rtol=0.1)
        assert np.isnan(row['flux_pull_median'])

    def test_bins_in_flux(self, noise, finder):
        edges = [200.0, 400.0, 900.0]
        table = recover(finder, noise, fluxes=edges).table
        assert_array_equal(table['flux_low'], edges[:-1])
        assert_array_equal(table['flux_high'], edges[1:])
        assert np.all((table['flux'] > table['flux_low'])
                      & (table['flux'] < table['flux_high']))
        assert 'snr_low' not in table.colnames

    def test_photometry_holds_its_promises_in_noise(self):
        sky = make_blended_map((200, 200), 10, blend_fraction=0, seed=3).image
        result = recover(HyperPhotometry(FWHM), sky, snr=[2, 3, 12, 40],
                         n_per_map=12, n_repeats=8)
        table = result.table
        assert table['completeness'][0] < 0.3
        assert table['completeness'][2] > 0.95
        assert table['reliability'][2] > 0.95
        bright = result.injected[(result.injected['snr_true'] > 12)
                                 & result.injected['recovered']]
        pull = (bright['flux_fit'] - bright['flux_true']) / bright['flux_err']
        assert abs(np.median(pull)) < 0.6
        assert 0.6 < 1.4826 * np.median(np.abs(pull - np.median(pull))) < 1.5
        flux, error = result.curve.flux_50
        assert error < flux / 3.0
        assert result.injected['flux_true'].unit == u.Jy
        assert result.injected['amplitude_true'].unit == u.Jy / u.pix
        assert result.table.meta['fwhm'] == sky.meta['beam_fwhm_pix']

    def test_sources_have_the_measured_beam(self, noise):
        """
        Sources are injected with the beam of the extractor, or the given
        one: fluxes come back, which those of Gaussians do not.
        """
        y, x = np.mgrid[-20:21, -20:21]
        psf = (1.0 + (x**2 + y**2) / 2.6**2)**-2.5
        psf /= psf.sum()
        fwhm = 5.2 * np.sqrt(2.0**0.4 - 1.0)
        bias = {}
        for name, own in (('psf', psf), ('gauss', None)):
            recovery = InjectionRecovery(
                HyperPhotometry(fwhm=fwhm, psf=own), n_per_map=6,
                n_repeats=2, snr=(30.0, 80.0), size_range=(1.0, 1.5), seed=1)
            result = recovery(noise, psf=psf)
            bias[name] = result.table['flux_bias'][0]
            if own is not None:
                assert_array_equal(recovery(noise).injected['flux_true'],
                                   result.injected['flux_true'])
        assert abs(bias['psf']) < 0.03
        assert bias['gauss'] < -0.1

    def test_units_change_nothing_else(self, noise):
        phot = HyperPhotometry(FWHM, noise='white')
        plain = recover(phot, noise)
        result = recover(phot, noise << u.MJy / u.sr)
        assert result.injected['flux_fit'].unit == u.MJy / u.sr * u.pix
        for name in ('flux_true', 'flux_fit', 'amplitude_fit'):
            assert_allclose(result.injected[name].value,
                            plain.injected[name])
        assert_allclose(result.table['completeness'],
                        plain.table['completeness'])

    def test_fluxes_in_another_unit_are_converted(self, noise):
        finder = HighPassStarFinder(fwhm=FWHM, n_sigma=6.0)
        fluxes = [0.2, 0.4] * u.kJy
        table = recover(finder, CCDData(noise, unit=u.Jy / u.pix),
                        fluxes=fluxes).table
        assert_allclose(table['flux_low'], 200.0 * u.Jy)


class TestRuns:
    def test_same_wherever_it_is_done(self):
        sky = make_blended_map((100, 100), 4, seed=3).image
        phot = HyperPhotometry(FWHM)
        with ThreadPoolExecutor(2) as threads:
            first, *others = [
                recover(phot, sky, n_repeats=3, n_per_map=3, **kwargs)
                for kwargs in ({}, {'n_workers': 2}, {'executor': threads})]
        for name in ('injected', 'detections', 'table'):
            one = getattr(first, name)
            for result in others:
                other = getattr(result, name)
                assert one.colnames == other.colnames
                for column in one.colnames:
                    assert_array_equal(one[column], other[column])

    def test_executor_is_checked(self, finder):
        with pytest.raises(TypeError, match='executor must have the method'):
            InjectionRecovery(finder, executor='local')

    def test_seed_makes_it_reproducible(self, noise, finder):
        first, second = (recover(finder, noise).injected for _ in range(2))
        assert_array_equal(first['x_true'], second['x_true'])
        other = recover(finder, noise, seed=2).injected
        assert not np.any(first['x_true'] == other['x_true'])

    def test_extractor_is_left_as_it_is(self, noise):
        phot = HyperPhotometry(FWHM)
        recover(phot, noise, n_repeats=1)
        assert phot.rms is None

    def test_partial_functions_are_extractors(self, noise):
        finder = partial(HighPassStarFinder(fwhm=FWHM, n_sigma=6.0),
                         mask=np.zeros(noise.shape, dtype=bool))
        result = recover(finder, noise, fwhm=FWHM, snr=[20, 40])
        assert result.injected['recovered'].any()

    def test_warnings_are_summarized_once(self, noise, finder):
        def nervous(data):
            for number in range(3):
                warnings.warn(f'worry {number}', AstropyUserWarning,
                              stacklevel=1)
            return finder(data)

        with pytest.warns(AstropyUserWarning) as caught:
            recover(nervous, noise, fwhm=FWHM)
        mine = [str(item.message) for item in caught
                if 'of 4 maps' in str(item.message)]
        assert mine == ['the extractor warned on 4 of 4 maps, first: worry 0']

    def test_progress_bar_is_silent_unless_asked_for(self, noise, finder,
                                                     capsys):
        recover(finder, noise)
        assert capsys.readouterr().err == ''
        recover(finder, noise, progress_bar=True)
        assert '4/4' in capsys.readouterr().err

    def test_plot_shows_bins_and_curve(self, noise, finder):
        result = recover(finder, noise, snr=[2, 4, 8, 16], n_repeats=10)
        figure = result.plot()
        assert len(figure.axes) == 3
        assert figure.axes[0].get_ylabel() == 'Fraction'
        curve = [line for line in figure.axes[0].lines
                 if len(line.get_xdata()) == 200]
        assert len(curve) == 1

    def test_reprs(self, noise, finder):
        recovery = InjectionRecovery(finder, seed=1)
        assert repr(recovery).startswith('InjectionRecovery(extractor=High')
        assert 'recovered' in repr(recover(finder, noise))


class TestErrors:
    @pytest.mark.parametrize(('kwargs', 'match'), [
        ({'snr': [5, 10], 'fluxes': [1, 2]}, 'not both be given'),
        ({'snr': [10, 5]}, 'snr must be the edges of bins'),
        ({'fluxes': [1.0]}, 'fluxes must be the edges of bins'),
        ({'size_range': (2, 1)}, 'size_range must be two positive numbers'),
        ({'axis_ratio_range': (0.5, 1.5)}, r'of at most 1\.0'),
        ({'blend_fraction': 1.0}, 'blend_fraction must be at least 0'),
        ({'blend_distance': (0, 1)}, 'blend_distance must be two'),
        ({'n_repeats': 0}, 'n_repeats must be at least 1: 0'),
        ({'match_radius': -1.0}, 'match_radius must be a positive'),
        ({'confidence_level': 1.0}, 'confidence_level must be above 0'),
    ])
    def test_bad_values_are_named(self, finder, kwargs, match):
        with pytest.raises(ValueError, match=match):
            InjectionRecovery(finder, **kwargs)

    def test_wrong_kinds_are_named(self, finder):
        with pytest.raises(TypeError, match='extractor must be a callable'):
            InjectionRecovery(HyperPhotometry)
        with pytest.raises(TypeError, match='n_workers must be an integer'):
            InjectionRecovery(finder, n_workers=1.5)

    def test_unknown_beam(self, noise):
        with pytest.raises(ValueError, match='fwhm must be given'):
            recover(lambda _: None, noise)

    def test_tables_without_positions(self, noise):
        with pytest.raises(ValueError, match='must have the columns x_fit'):
            recover(lambda _: QTable({'a': [1]}), noise, fwhm=FWHM)
        with pytest.raises(TypeError, match='table or None, not list'):
            recover(lambda _: [1], noise, fwhm=FWHM)

    def test_extractor_that_cannot_be_sent(self, noise):
        with pytest.raises(TypeError, match='use n_workers=1'):
            recover(lambda _: None, noise, fwhm=FWHM, n_workers=2)

    def test_unit_of_fluxes(self, noise, finder):
        with pytest.raises(ValueError, match='must have a unit if the map'):
            recover(finder, noise, fluxes=[1, 2] * u.Jy)
        with pytest.raises(ValueError, match='that converts to Jy: K'):
            recover(finder, noise << u.Jy / u.pix, fluxes=[1, 2] * u.K)

    def test_map_without_noise_needs_fluxes(self, finder):
        with pytest.raises(ValueError, match='has no noise: give fluxes'):
            recover(lambda _: None, np.zeros((100, 100)), fwhm=FWHM)
        assert len(recover(lambda _: None, np.zeros((100, 100)), fwhm=FWHM,
                           fluxes=[1, 2]).injected) == 16
