# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the sizes module.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_array_equal
from radio_beam import Beam

from hyperphotutils.photometry import deconvolve_sizes


def make_table(major, minor, theta, error=0.01):
    """
    A table of fitted sizes.
    """
    return QTable({'fwhm_major_fit': major, 'fwhm_minor_fit': minor,
                   'fwhm_major_err': np.full(len(major), error),
                   'fwhm_minor_err': np.full(len(major), error),
                   'theta_fit': theta * u.deg})


def test_sizes_are_those_of_radio_beam():
    """
    Convolving known sources with a beam and taking it out again, by
    radio_beam and here, gives the same sizes and angles.
    """
    rng = np.random.default_rng(8)
    minor = rng.uniform(2.0, 5.0, 20)
    major = minor * rng.uniform(1.1, 2.0, 20)
    angle = rng.uniform(0.0, 180.0, 20)
    beam = Beam(3.7 * u.arcsec, 3.0 * u.arcsec, 22.7 * u.deg)
    seen = [Beam(a * u.arcsec, b * u.arcsec, t * u.deg).convolve(beam)
            for a, b, t in zip(major, minor, angle, strict=True)]
    table = make_table([s.major.value for s in seen],
                       [s.minor.value for s in seen],
                       np.array([s.pa.to_value('deg') for s in seen]))
    sizes = deconvolve_sizes(table, 3.7, 3.0, 22.7)
    back = [s.deconvolve(beam) for s in seen]
    assert_allclose(sizes['fwhm_major_dec'], [s.major.value for s in back],
                    rtol=1e-6)
    assert_allclose(sizes['fwhm_minor_dec'], [s.minor.value for s in back],
                    rtol=1e-6)
    assert_allclose(sizes['theta_dec'].value, angle, atol=1e-4)
    assert np.all(sizes['is_resolved'])


def test_unresolved_sources():
    """
    A source of the beam's size is not resolved, nor is one that is
    larger by less than its error; rows without a fit stay NaN.
    """
    table = make_table(np.array([4.0, 6.0, np.nan, 4.05]),
                       np.array([4.0, 3.5, np.nan, 4.05]),
                       np.array([0.0, 40.0, np.nan, 0.0]), error=0.2)
    sizes = deconvolve_sizes(table, 4.0)
    assert_array_equal(sizes['is_resolved'], False)
    assert_array_equal(sizes['fwhm_major_dec'][:1], 0.0)
    assert_array_equal(sizes['fwhm_minor_dec'][:2], 0.0)
    assert_allclose(sizes['fwhm_major_dec'][1], np.sqrt(20.0))
    assert np.isnan(sizes['fwhm_major_dec'][2])
    assert np.isnan(sizes['fwhm_minor_dec_err'][0])


def test_errors_are_those_of_a_simulation():
    """
    The stated error of the size is the scatter of many noisy ones.
    """
    rng = np.random.default_rng(9)
    width = 6.0 + 0.1 * rng.normal(size=4000)
    table = make_table(width, np.full(4000, 5.0), np.zeros(4000), error=0.1)
    sizes = deconvolve_sizes(table, 4.0)
    assert_allclose(np.std(sizes['fwhm_major_dec']),
                    np.median(sizes['fwhm_major_dec_err']), rtol=0.05)


@pytest.mark.parametrize('beam', [
    5.0 * u.arcsec, Beam(5.0 * u.arcsec), None, 0.0, np.nan])
def test_the_beam_is_a_number_of_pixels(beam):
    """
    Anything else would give wrong sizes without a word.
    """
    table = make_table(np.array([4.0]), np.array([4.0]), np.array([0.0]))
    with pytest.raises(ValueError, match='fwhm_major must be a positive'):
        deconvolve_sizes(table, beam if beam is not None else np.inf)


@pytest.mark.parametrize(('missing', 'match'), [
    (['fwhm_major_err'], r'columns fwhm_major_err, the errors of the width'),
    (['fwhm_major_err', 'fwhm_minor_err'],
     r'columns fwhm_major_err, fwhm_minor_err, the errors'),
    (['theta_fit', 'fwhm_minor_err'], r'columns theta_fit, fwhm_minor_err$')])
def test_missing_columns_are_named(missing, match):
    table = make_table(np.array([5.0]), np.array([5.0]), np.array([0.0]))
    table.remove_columns(missing)
    with pytest.raises(ValueError, match=match):
        deconvolve_sizes(table, 4.0)
