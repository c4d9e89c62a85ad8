# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the criteria and the selection.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from hyperphotutils.background import (
    bic,
    correlation_area,
    nmse,
    reduced_chi2,
    select_candidate,
)
from hyperphotutils.background.candidates import make_candidates
from hyperphotutils.noise import CorrelatedNoise


@pytest.mark.parametrize('fwhm', [0.3, 1.0, 2.5, 7.0])
def test_area_is_the_sum_of_the_correlation(fwhm):
    """
    It is the variance of a mean in units of that of independent pixels.
    """
    lag = np.arange(-60, 61)
    noise = CorrelatedNoise.from_beam(1.0, fwhm)
    total = noise.autocovariance(lag[None, :], lag[:, None]).sum()
    assert_allclose(correlation_area(fwhm), total)


def test_area_of_independent_pixels_is_one():
    assert correlation_area(None) == correlation_area(0.0) == 1.0
    for fwhm in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match='fwhm must be positive'):
            correlation_area(fwhm)


def test_nmse_is_the_part_of_the_power_left():
    data, model = np.array([3.0, 4.0]), np.array([3.0, 3.0])
    assert_allclose(nmse(np.sum((data - model)**2), np.sum(data**2)), 1 / 25)
    assert nmse(0.0, 0.0) == 0.0


def test_reduced_chi2_needs_degrees_of_freedom():
    assert reduced_chi2(12.0, 10, 4) == 2.0
    assert_allclose(reduced_chi2(12.0, [10, 4, 3], 4), [2.0, np.inf, np.inf])


def test_bic_with_known_noise():
    assert_allclose(bic(100.0, 50, 3), 100.0 + 3 * np.log(50))


@pytest.mark.parametrize(('criterion', 'kwargs', 'expected'), [
    ('nmse', {}, [1, 0, 2]),
    ('nmse', {'tolerance': 0.0}, [2, 0, 2]),
    ('nmse', {'tolerance': 10.0}, [0, 0, 2]),
    ('nmse', {'n_pixels': [10, 1000, 10]}, [0, 0, 2]),
    ('reduced_chi2', {}, [1, 0, 2]),
    ('bic', {}, [0, 0, 2]),
    ('bic', {'tolerance': 0.1}, [1, 0, 2]),
])
def test_first_candidate_within_the_tolerance_wins(criterion, kwargs,
                                                   expected):
    scores = np.array([[1.5, 1.0, np.nan],
                       [1.005, 1.1, np.inf],
                       [1.0, np.nan, 7.0]])
    selected = select_candidate(scores, criterion=criterion, **kwargs)
    assert selected.tolist() == expected


def test_nothing_to_select():
    assert select_candidate(np.array([np.nan, np.inf])) == -1


def test_negative_bic_has_an_absolute_tolerance():
    assert select_candidate(np.array([-99.0, -100.0]), criterion='bic') == 0
    assert select_candidate(np.array([-97.0, -100.0]), criterion='bic') == 1


def test_candidates_are_listed_in_the_order_that_wins_a_tie():
    candidates = make_candidates(orders=(1, 0), methods=('huber', 'lsq'),
                                 huber_epsilons=(1.5, 1.1), n_boxes=2)
    assert [(c.order, c.box, c.method, c.epsilon)
            for c in candidates if c.method == 'huber'] == [
        (0, 1, 'huber', 1.5), (0, 1, 'huber', 1.1),
        (0, 0, 'huber', 1.5), (0, 0, 'huber', 1.1),
        (1, 1, 'huber', 1.5), (1, 1, 'huber', 1.1),
        (1, 0, 'huber', 1.5), (1, 0, 'huber', 1.1)]
    assert len(candidates) == 12
    assert candidates[2].method == 'lsq'
    assert [c.n_parameters for c in make_candidates(orders=(0, 1, 2))] == [
        1, 3, 6]
