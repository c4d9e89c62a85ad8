# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the checks module.
"""

import astropy.units as u
import numpy as np
import pytest
from photutils.psf import SourceGrouper

from hyperphotutils.utils import check_integer, check_part, check_positive


@pytest.mark.parametrize('value', [3, 2.5, np.float32(1.5), np.int64(2)])
def test_positive_numbers_become_floats(value):
    """
    Python's and NumPy's numbers alike.
    """
    checked = check_positive(value, 'fwhm')
    assert checked == value
    assert type(checked) is float


def test_arrays_without_dimensions_are_numbers():
    checked = check_positive(np.array(4.0), 'fwhm')
    assert checked == 4.0
    assert type(checked) is float


@pytest.mark.parametrize('value', [
    0, -1.0, np.nan, np.inf, '4', None, [4.0], 4.0 * u.arcsec,
    np.array(-1.0), np.array('4'), np.array([4.0])])
def test_all_else_is_refused_by_name(value):
    """
    A width with a unit would else be taken for pixels.
    """
    with pytest.raises(ValueError, match='fwhm must be a positive number of'):
        check_positive(value, 'fwhm', of='pixels')


@pytest.mark.parametrize('value', [2, np.int64(2)])
def test_integers_of_numpy_become_integers(value):
    checked = check_integer(value, 'n_rounds', 2)
    assert checked == 2
    assert type(checked) is int


@pytest.mark.parametrize(('value', 'error', 'match'), [
    (1, ValueError, 'n_rounds must be at least 2: 1'),
    (2.0, TypeError, 'n_rounds must be an integer: 2.0'),
    (True, TypeError, 'n_rounds must be an integer: True'),
    (None, TypeError, 'n_rounds must be an integer: None')])
def test_other_integers_are_refused_by_name(value, error, match):
    with pytest.raises(error, match=match):
        check_integer(value, 'n_rounds', 2)


def test_parts():
    """
    An instance or None is handed through; a class is a slip.
    """
    grouper = SourceGrouper(3.0)
    assert check_part(grouper, 'grouper') is grouper
    assert check_part(None, 'grouper') is None
    with pytest.raises(TypeError, match='grouper must be an instance, not '
                       'the class SourceGrouper'):
        check_part(SourceGrouper, 'grouper')
    with pytest.raises(TypeError, match='grouper must be callable: 5'):
        check_part(5, 'grouper')
