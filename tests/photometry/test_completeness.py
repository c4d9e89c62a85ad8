# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the curve of completeness.
"""

import astropy.units as u
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import brentq
from scipy.stats import norm

from hyperphotutils.photometry import CompletenessCurve, fit_completeness


def simulate(rng, n_sources=400, *, plateau=1.0):
    """
    Draw sources that are found with half the plateau at a flux of 10.
    """
    log_flux = rng.uniform(0.0, 2.0, n_sources)
    p = plateau * norm.cdf((log_flux - 1.0) / 0.2)
    return 10.0**log_flux, rng.uniform(size=n_sources) < p


def test_true_levels_are_within_their_errors():
    # the distribution over many data sets, not a single one
    levels = {0.5: 10.0, 0.9: 10.0**(1.0 + 0.2 * norm.ppf(0.9))}
    pulls = {level: [] for level in levels}
    for seed in range(100):
        curve = fit_completeness(*simulate(np.random.default_rng(seed)))
        for level, true in levels.items():
            flux, error = curve.flux_at(level)
            pulls[level].append((flux - true) / error)
    for values in pulls.values():
        assert abs(np.median(values)) < 0.4
        assert 0.75 < np.std(values) < 1.35


def test_plateau_is_found_where_bright_sources_are_lost():
    flux, found = simulate(np.random.default_rng(1), 2000, plateau=0.8)
    curve = fit_completeness(flux, found)
    assert_allclose(curve.plateau, 0.8, atol=0.05)
    assert_allclose(curve(1e6), curve.plateau)
    assert np.isnan(curve.flux_90).all()
    assert np.isfinite(curve.flux_50).all()


def test_no_plateau_without_need():
    curve = fit_completeness(*simulate(np.random.default_rng(2)))
    assert curve.plateau == 1.0


def test_level_is_where_the_curve_has_it():
    curve = fit_completeness(*simulate(np.random.default_rng(3), 2000,
                                       plateau=0.7))
    expected = brentq(lambda flux: curve(flux) - 0.6, 1.0, 100.0)
    assert_allclose(curve.flux_at(0.6)[0], expected)


def test_step_lies_in_the_gap():
    curve = fit_completeness([1.0, 2.0, 8.0, 9.0], [False, False, True,
                                                    True])
    flux, error = curve.flux_50
    assert_allclose(flux, 4.0)
    assert_allclose(error, 4.0 * np.log(2.0))
    assert_allclose(curve([3.9, 4.1]), [0.0, 1.0])
    assert_allclose(curve.step_range, [2.0, 8.0])
    assert fit_completeness([1.0, 2.0, 8.0, 9.0], [
        False, True, False, True]).step_range is None


@pytest.mark.parametrize('found', [True, False])
def test_all_or_none_found_gives_no_curve(found):
    assert fit_completeness([1.0, 2.0], [found, found]) is None


def test_no_curve_where_completeness_does_not_fall():
    """
    As many faint as bright sources are lost: nothing tells where the
    completeness falls.
    """
    flux = np.linspace(1.0, 1.6, 20)
    found = np.arange(20) % 4 != 2
    assert fit_completeness(flux, found) is None


def test_units_are_kept_and_change_nothing_else():
    flux, found = simulate(np.random.default_rng(4))
    plain = fit_completeness(flux, found)
    curve = fit_completeness(flux * u.mJy, found)
    assert curve.flux_50[0].unit == u.mJy
    assert_allclose(curve.flux_50[0].value, plain.flux_50[0])
    assert_allclose(curve(0.01 * u.Jy), plain(10.0))


def test_repr_tells_levels():
    curve = CompletenessCurve(1.0, 0.1, 1.0, np.zeros((3, 3)))
    assert 'flux_50=10 +/- 0' in repr(curve)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match='same length'):
        fit_completeness([1.0, 2.0], [True])
    with pytest.raises(ValueError, match=r'flux must be positive: -1\.0'):
        fit_completeness([1.0, -1.0], [True, False])
    curve = CompletenessCurve(1.0, 0.1, 1.0, np.zeros((3, 3)))
    with pytest.raises(ValueError, match='between 0 and 1: 1'):
        curve.flux_at(1)


def test_most_are_found():
    """
    The curve is that of the truth, also where the completeness of the
    faintest source is well above one half.
    """
    rng = np.random.default_rng(7)
    flux = 10.0**rng.uniform(-0.4, 0.8, 300)
    found = rng.normal(np.log10(flux), 0.4) > -0.6
    assert 0.9 < found.mean() < 0.97
    value, error = fit_completeness(flux, found).flux_90
    assert abs(np.log10(value) + 0.6 - 0.4 * 1.2816) < 0.1
    assert 0.0 < error < 0.3 * value
