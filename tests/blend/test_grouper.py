# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the grouper module.
"""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from photutils.psf import SourceGrouper

from hyperphotutils.blend import SeparationGrouper


@pytest.mark.parametrize('min_separation', [0.5, 3.0, 5.0, 9.0, 200.0])
def test_groups_are_those_of_photutils(min_separation):
    """
    Also for positions on a grid, where distances equal the separation,
    and for sources at the same position.
    """
    rng = np.random.default_rng(3)
    x, y = rng.uniform(0.0, 150.0, (2, 400))
    x[:100], y[:100] = (axis.ravel() for axis in np.mgrid[:10, :10] * 3.0)
    x[-1], y[-1] = x[0], y[0]
    order = rng.permutation(400)
    x, y = x[order], y[order]
    assert_array_equal(SeparationGrouper(min_separation)(x, y),
                       SourceGrouper(min_separation)(x, y))


def test_few_sources():
    grouper = SeparationGrouper(3.0)
    assert_array_equal(grouper([], []), [])
    assert_array_equal(grouper([5], [7]), [1])
    assert_array_equal(grouper([5, 1], [7, 1]), [1, 2])


def test_repr_makes_the_same_object():
    grouper = SeparationGrouper(min_separation=4)
    assert repr(grouper) == 'SeparationGrouper(min_separation=4.0)'
    assert eval(repr(grouper)).min_separation == 4.0


def test_wrong_arguments():
    with pytest.raises(ValueError, match='min_separation must be a positive'):
        SeparationGrouper(0.0)
    grouper = SeparationGrouper(3.0)
    with pytest.raises(ValueError, match=r'equal length, got the shapes \(2,'):
        grouper([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match='x and y must be finite'):
        grouper([1.0, np.nan], [1.0, 2.0])
