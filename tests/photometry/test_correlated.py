# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the photometry of maps with correlated noise.
"""

import warnings

import numpy as np
import pytest
from astropy.modeling.fitting import TRFLSQFitter
from astropy.stats import mad_std
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial import KDTree

from hyperphotutils.blend import BlendGroupFitter
from hyperphotutils.datasets import BLENDED_MAP_RECIPES, make_blended_map
from hyperphotutils.noise import CorrelatedNoise
from hyperphotutils.photometry import HyperPhotometry
from hyperphotutils.utils import add_gaussians

BEAM = (3.7, 3.0, 30.0)
FWHM = np.sqrt(3.7 * 3.0)
# measured, stated error, true
PULLS = {
    'flux': ('flux_fit', 'flux_err', 'flux_fit'),
    'aperture flux': ('aperture_flux', 'aperture_flux_err', 'flux_fit'),
    'peak': ('amplitude_fit', 'amplitude_err', 'amplitude_fit'),
    'x': ('x_fit', 'x_err', 'x_fit'),
    'y': ('y_fit', 'y_err', 'y_fit'),
    'major axis': ('fwhm_major_fit', 'fwhm_major_err', 'fwhm_major_fit'),
    'minor axis': ('fwhm_minor_fit', 'fwhm_minor_err', 'fwhm_minor_fit')}


@pytest.fixture(name='blind', scope='module')
def fixture_blind():
    """
    Two blended maps with structured background, measured as they are:
    the matched rows of the measured and the true sources.
    """
    pairs = []
    for seed in (3000, 3001):
        sim = make_blended_map(**BLENDED_MAP_RECIPES['moderate'], seed=seed)
        table = HyperPhotometry(FWHM)(sim.image)
        pairs.append((sim.truth, *nearest(table, sim.truth)))
    return pairs


@pytest.fixture(name='small')
def fixture_small():
    """
    A small map with some blends.
    """
    return make_blended_map((150, 150), 25, beam=BEAM, seed=5)


def values(column):
    """
    The column without its unit.
    """
    return np.asarray(getattr(column, 'value', column), dtype=float)


def nearest(table, truth):
    """
    The rows of the sources nearest to each other, within half a beam,
    and the number of measured sources without a true one.
    """
    measured, true = (np.column_stack((one['x_fit'], one['y_fit']))
                      for one in (table, truth))
    distance, row = KDTree(measured).query(true)
    near = distance < 0.5 * FWHM
    _, first = np.unique(row[near], return_index=True)
    chosen = np.flatnonzero(near)[first]
    return table[row[chosen]], truth[chosen], len(table) - len(chosen)


def test_almost_all_sources_are_found_and_real(blind):
    n_true = sum(len(truth) for truth, *_ in blind)
    n_found = sum(len(found) for _, found, *_ in blind)
    n_false = sum(false for *_, false in blind)
    # two standard errors below 98 % and 99.5 %
    assert n_found > 0.971 * n_true
    assert n_false < 0.010 * n_true


@pytest.mark.parametrize('name', PULLS)
def test_stated_errors_are_those_of_the_measurement(blind, name):
    """
    (measured - true) / error has a median near 0, a scatter near 1, and
    few values above 3; the margins are three standard errors wide.
    """
    value, error, true = PULLS[name]
    pull = np.concatenate([
        (values(found[value]) - values(truth[true])) / values(found[error])
        for _, found, truth, _ in blind])
    n_pulls = len(pull)
    # The larger of two axes is larger than the major axis of a source
    # that is almost round, and the smaller one smaller.
    offset = 0.1 if 'axis' in name else 0.0
    assert abs(np.median(pull)) < 0.1 + offset + 3 * 1.25 / np.sqrt(n_pulls)
    margin = 3 * 1.17 / np.sqrt(n_pulls)
    assert 0.9 - margin < mad_std(pull) < 1.15 + margin
    assert np.mean(np.abs(pull) < 3) > 0.98 - 3 * 0.14 / np.sqrt(n_pulls)


def test_scatter_is_far_below_that_with_white_noise(small):
    """
    The same map at the same positions.
    """
    init = QTable({'x_init': small.truth['x_fit'],
                   'y_init': small.truth['y_fit']})
    scatter = {}
    for noise in ('correlated', 'white'):
        table = HyperPhotometry(FWHM, noise=noise)(small.image,
                                                   init_params=init)
        scatter[noise] = mad_std(values(table['flux_fit'])
                                 - values(small.truth['flux_fit']))
    assert scatter['correlated'] < 0.6 * scatter['white']


@pytest.mark.parametrize('seed', [1, 2])
def test_nothing_is_lost_on_white_noise(seed):
    """
    Flux, peak, and position scatter no more than with weights for
    uncorrelated noise. The errors of both are almost the same, so that
    the ratio of their standard deviations is good to a percent or two.
    """
    rng = np.random.default_rng(seed)
    grid = np.arange(15.0, 600.0, 22.0)
    x, y = np.meshgrid(grid, grid)
    x, y = (values.ravel() + rng.uniform(-0.5, 0.5, values.size)
            for values in (x, y))
    n_sources = len(x)
    peak = np.exp(rng.uniform(np.log(12.0), np.log(40.0), n_sources))
    major = FWHM * rng.uniform(1.0, 1.4, n_sources)
    minor = major * rng.uniform(0.7, 1.0, n_sources)
    image = rng.normal(size=(600, 600))
    add_gaussians(image, x, y, peak, major, minor,
                  rng.uniform(0.0, 180.0, n_sources))
    init = QTable({'x_init': x, 'y_init': y})
    flux = np.pi / (4.0 * np.log(2.0)) * peak * major * minor
    tables = [HyperPhotometry(FWHM, noise=noise)(image, init_params=init)
              for noise in ('correlated', 'white')]
    for name, true, scale in (('flux_fit', flux, flux),
                              ('amplitude_fit', peak, peak),
                              ('x_fit', x, 1.0), ('y_fit', y, 1.0)):
        correlated, white = (np.std((table[name] - true) / scale)
                             for table in tables)
        assert correlated < 1.03 * white, name
    pull = (tables[0]['flux_fit'] - flux) / tables[0]['flux_err']
    assert_allclose(mad_std(pull), 1.0, atol=3 * 1.17 / np.sqrt(n_sources))


def test_given_noise_is_used_as_it_is(small):
    """
    Without the map having a say: twice the noise, twice the errors.
    """
    init = QTable({'x_init': small.truth['x_fit'],
                   'y_init': small.truth['y_fit']})
    unit = small.image.unit
    tables = []
    for rms in (1e-6, 2e-6):
        noise = CorrelatedNoise.from_beam(rms * unit, 3.7, fwhm_minor=3.0,
                                          theta=30.0)
        phot = HyperPhotometry(FWHM, noise=noise,
                               fitter=BlendGroupFitter(FWHM))
        tables.append(phot(small.image, init_params=init))
        assert tables[-1].meta['noise'] == repr(noise)
    assert_allclose(tables[1]['flux_fit'], tables[0]['flux_fit'], rtol=1e-3)
    for name in ('flux_err', 'aperture_flux_err', 'x_err'):
        assert_allclose(values(tables[1][name]), 2 * values(tables[0][name]),
                        rtol=1e-3)


def test_snr_is_the_peak_over_its_error(small):
    table = HyperPhotometry(FWHM)(small.image)
    assert_allclose(table['snr'], values(table['amplitude_fit'])
                    / values(table['amplitude_err']))


def test_results_repeat_exactly(small):
    first, second = (HyperPhotometry(FWHM)(small.image) for _ in range(2))
    for name in ('flux_fit', 'flux_err', 'aperture_flux_err', 'x_fit'):
        assert_array_equal(values(first[name]), values(second[name]))


def test_masks_and_borders_do_no_harm(small):
    """
    Sources whose surroundings are not masked stay as they are; those
    next to a mask keep errors that hold.
    """
    data = small.image.data.copy()
    mask = np.zeros(data.shape, dtype=bool)
    mask[:, 75:80] = True
    data[mask] = np.nan
    init = QTable({'x_init': small.truth['x_fit'],
                   'y_init': small.truth['y_fit']})
    usable = np.abs(small.truth['x_fit'] - 77.0) > 6.0
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        table = HyperPhotometry(FWHM)(data, init_params=init)
    pull = ((table['flux_fit'] - values(small.truth['flux_fit']))
            / table['flux_err'])[usable]
    assert np.all(np.abs(pull) < 5.0)


def test_astropy_fitters_know_no_covariance(small):
    init = QTable({'x_init': small.truth['x_fit'][:3],
                   'y_init': small.truth['y_fit'][:3]})
    phot = HyperPhotometry(FWHM, fitter=TRFLSQFitter(calc_uncertainties=True))
    table = phot(small.image, init_params=init)
    assert 'noise' not in table.meta
    noise = CorrelatedNoise.from_beam(1.0, 4.0)
    with pytest.raises(ValueError, match='an astropy fitter cannot use'):
        HyperPhotometry(FWHM, fitter=TRFLSQFitter(), noise=noise)


def test_progress_bar_of_a_given_fitter(small, capsys):
    """
    It is shown if the photometry or the fitter asks for it.
    """
    init = QTable({'x_init': small.truth['x_fit'][:3],
                   'y_init': small.truth['y_fit'][:3]})
    fitter = BlendGroupFitter(FWHM)
    for progress_bar in (False, True):
        HyperPhotometry(FWHM, fitter=fitter, noise='white',
                        progress_bar=progress_bar)(
            small.image, init_params=init)
        assert ('Fit source' in capsys.readouterr().err) is progress_bar
    assert not fitter.progress_bar


@pytest.fixture(name='varying', scope='module')
def fixture_varying():
    """
    A map with one half four times as noisy as the other, the rms, and
    the positions of sources with a peak of 10 times the noise of their
    place.
    """
    rms = np.where(np.arange(320) < 160, 1.0, 4.0) * np.ones((320, 1))
    data = rms * CorrelatedNoise.from_beam(1.0, 4.0).simulate(
        rms.shape, seed=2)
    y, x = (grid.ravel() * 20.0 + 10.0 for grid in np.mgrid[:16, :16])
    add_gaussians(data, x, y, 10.0 * rms[10, x.astype(int)],
                  *(np.full(256, value) for value in (4.4, 4.0, 0.0)))
    return data, rms, np.column_stack((x, y))


def test_thresholds_follow_the_errors(varying):
    """
    All sources are found on both sides, and two false ones in a hundred
    at most; the errors of a map and a noise that varies tell the same.
    """
    data, rms, true = varying
    noise = CorrelatedNoise.from_beam(1.0, 4.0)
    noise = CorrelatedNoise(noise.variances, noise.matrices,
                            relative_rms=rms)
    for phot, kwargs in ((HyperPhotometry(4.0), {'error': rms}),
                         (HyperPhotometry(4.0, noise=noise), {})):
        table = phot(data, **kwargs)
        found = np.column_stack((table['x_fit'], table['y_fit']))
        distance, nearest = KDTree(true).query(found)
        good = distance < 2.0
        for quiet in (True, False):
            there = (true[:, 0] < 160) == quiet
            assert there[nearest[good]].sum() >= 0.97 * there.sum()
            false = ~good & ((found[:, 0] < 160) == quiet)
            assert false.sum() <= 0.02 * there.sum()
