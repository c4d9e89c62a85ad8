# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the shoulders module.
"""

import pickle

import numpy as np
import pytest
from astropy.modeling.models import Gaussian2D
from numpy.testing import assert_allclose, assert_array_equal
from photutils.utils.exceptions import NoDetectionsWarning

from hyperphotutils.detection import (
    HighPassStarFinder,
    ShoulderFilter,
    shoulder_score,
)

FWHM = 4.0
SIGMA = FWHM / 2.3548200450309493


def make_map():
    """
    Return an isolated source, a bright one with a faint one on its
    shoulder, and a pair of equals.
    """
    yy, xx = np.mgrid[:80, :90]
    data = np.random.default_rng(4).normal(0.0, 0.02, xx.shape)
    for x, y, height in ((15, 15, 1), (60, 20, 9), (66, 20, 1),
                         (30, 60, 3), (36, 60, 3)):
        data += Gaussian2D(height, x, y, SIGMA, SIGMA)(xx, yy)
    return data


def test_rejects_higher_scores_only():
    """
    What is left is what has no higher score, and the rejected ones are
    counted.
    """
    data = make_map()
    everything = HighPassStarFinder(fwhm=FWHM, n_sigma=8.0)(data)
    assert len(everything) == 5
    for limit in np.quantile(everything['shoulder_score'], [0.1, 0.5, 0.9]):
        finder = HighPassStarFinder(fwhm=FWHM, n_sigma=8.0,
                                    shoulder_filter=ShoulderFilter(limit))
        table = finder(data)
        kept = everything['shoulder_score'] <= limit
        assert_array_equal(table['x_centroid'],
                           everything['x_centroid'][kept])
        assert table.meta['n_rejected'] == {
            'shoulder_filter': int(np.sum(~kept))}


def test_shoulder_goes_isolated_stays():
    """
    The faint source on the shoulder is rejected, and it alone.
    """
    finder = HighPassStarFinder(fwhm=FWHM, n_sigma=8.0,
                                shoulder_filter=ShoulderFilter(0.6))
    assert_allclose(finder(make_map())['x_centroid'], [15, 60, 30, 36],
                    atol=0.5)


def test_neighbors_can_be_masked():
    """
    With mask_neighbors blends are kept; a rise that is no detection
    still rejects.
    """
    data = make_map()
    strict = ShoulderFilter(0.3)
    loose = ShoulderFilter(0.3, mask_neighbors=True)
    n_kept = [len(HighPassStarFinder(fwhm=FWHM, n_sigma=8.0,
                                     shoulder_filter=limit)(data))
              for limit in (strict, loose)]
    assert n_kept[0] == 2
    assert n_kept[1] == 4

    data[:, 33:] += 5.0  # a step next to the left one of the pair
    table = HighPassStarFinder(fwhm=FWHM, n_sigma=8.0,
                               shoulder_filter=loose)(data)
    assert not np.any(np.hypot(table['x_centroid'] - 30,
                               table['y_centroid'] - 60) < 2)


def test_column_is_the_score_of_the_filter():
    """
    The column of the table is measured as the filter says.
    """
    data = make_map()
    limit = ShoulderFilter(1.0, ring_factor=1.2, n_angles=20,
                           mask_neighbors=True)
    table = HighPassStarFinder(fwhm=FWHM, n_sigma=8.0,
                               shoulder_filter=limit)(data)
    x, y = table['x_centroid'], table['y_centroid']
    score = shoulder_score(data, x, y, FWHM, ring_factor=1.2, n_angles=20,
                           mask_neighbors=True)
    assert_array_equal(table['shoulder_score'], score)
    assert_array_equal(limit.score(data, x, y, FWHM), score)
    assert np.any(score != shoulder_score(data, x, y, FWHM))


def test_default_column_is_unchanged():
    """
    The default ring of the filter is that of the column without one.
    """
    data = make_map()
    plain = HighPassStarFinder(fwhm=FWHM, n_sigma=8.0)(data)
    table = HighPassStarFinder(fwhm=FWHM, n_sigma=8.0,
                               shoulder_filter=ShoulderFilter(1.0))(data)
    assert_array_equal(table['shoulder_score'], plain['shoulder_score'])


def test_nothing_left():
    """
    The warning says what has rejected everything.
    """
    finder = HighPassStarFinder(fwhm=FWHM, n_sigma=8.0,
                                shoulder_filter=ShoulderFilter(0.0))
    match = r'No sources were found: all were .* \(shoulder_filter: 5\)'
    with pytest.warns(NoDetectionsWarning, match=match):
        assert finder(make_map()) is None


def test_immutable_value():
    """
    Equal filters are equal, cannot be changed, and have a repr that the
    finder's contains.
    """
    limit = ShoulderFilter(0.4, n_angles=16)
    assert limit == pickle.loads(pickle.dumps(limit))
    with pytest.raises(AttributeError, match='cannot assign'):
        limit.max_score = 0.5
    assert repr(limit) == ('ShoulderFilter(max_score=0.4, ring_factor=1.5, '
                           'n_angles=16, mask_neighbors=False)')
    assert repr(limit) in repr(HighPassStarFinder(fwhm=FWHM, n_sigma=5.0,
                                                  shoulder_filter=limit))


@pytest.mark.parametrize(('args', 'kwargs', 'error', 'match'), [
    ((1.5,), {}, ValueError, 'max_score must be between 0 and 1: got 1.5'),
    ((-0.1,), {}, ValueError, 'max_score must be between 0 and 1'),
    ((np.nan,), {}, ValueError, 'max_score must be between 0 and 1'),
    ((0.5,), {'ring_factor': -1}, ValueError, 'ring_factor must be pos'),
    ((0.5,), {'n_angles': 1}, ValueError, 'n_angles must be at least 3'),
    ((0.5, 1.5), {}, TypeError, 'positional argument'),
])
def test_bad_input(args, kwargs, error, match):
    """
    Bad input is named.
    """
    with pytest.raises(error, match=match):
        ShoulderFilter(*args, **kwargs)


def test_finder_wants_a_filter():
    """
    A bare number is no filter.
    """
    with pytest.raises(TypeError, match='shoulder_filter must be a Shou'):
        HighPassStarFinder(fwhm=FWHM, n_sigma=5.0, shoulder_filter=0.5)
