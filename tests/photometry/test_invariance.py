# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of what must not change the astronomy: the place and orientation of
a map in its array, its unit, a constant added to it, and empty margins.
"""

import astropy.units as u
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import KDTree

from hyperphotutils.datasets import make_blended_map
from hyperphotutils.photometry import HyperPhotometry

FWHM = 4.0
SHAPE = (110, 130)
NOISE = ('white', 'correlated')
FEW = settings(max_examples=4, deadline=None, derandomize=True,
               database=None)


@pytest.fixture(scope='module')
def data():
    return make_blended_map(SHAPE, 16, beam=FWHM, seed=5).image.data


def measure(data, noise):
    return HyperPhotometry(fwhm=FWHM, noise=noise)(data)


@pytest.fixture(scope='module')
def tables(data):
    return {noise: measure(data, noise) for noise in NOISE}


def plain(column):
    return np.asarray(getattr(column, 'value', column), dtype=float)


def assert_same(table, expected, *, tolerance, place=None, factor=1.0,
                error_tolerance=1e-4):
    """
    Both tables have the same sources, within a fraction of their errors.

    ``place`` gives x, y, and theta in the array of ``table``.
    """
    assert len(table) == len(expected)
    x, y, theta = (plain(expected[f'{name}_fit'])
                   for name in ('x', 'y', 'theta'))
    if place is not None:
        x, y, theta = place(x, y, theta)
    distance, index = KDTree(np.column_stack((
        table['x_fit'], table['y_fit']))).query(np.column_stack((x, y)))
    assert len(set(index)) == len(expected)
    found = table[index]
    position_error = np.hypot(expected['x_err'], expected['y_err'])
    assert (distance <= tolerance * position_error).all()
    # the difference of two angles of an ellipse, in degrees
    turn = (plain(found['theta_fit']) - theta + 90.0) % 180.0 - 90.0
    assert (np.abs(turn) <= tolerance * plain(expected['theta_err'])).all()
    for name, error in (('flux_fit', 'flux_err'),
                        ('aperture_flux', 'aperture_flux_err'),
                        ('amplitude_fit', 'amplitude_err'),
                        ('fwhm_major_fit', 'fwhm_major_err'),
                        ('fwhm_minor_fit', 'fwhm_minor_err')):
        scale = 1.0 if name.startswith('fwhm') else factor
        change = plain(found[name]) / scale - plain(expected[name])
        assert (np.abs(change) <= tolerance * plain(expected[error])).all(), (
            name)
        np.testing.assert_allclose(plain(found[error]) / scale,
                                   plain(expected[error]),
                                   rtol=error_tolerance)
    np.testing.assert_array_equal(found['flags'], expected['flags'])


ORIENTATIONS = {
    'left-right': (lambda data: data[:, ::-1],
                   lambda x, y, theta: (SHAPE[1] - 1 - x, y, -theta)),
    'up-down': (lambda data: data[::-1],
                lambda x, y, theta: (x, SHAPE[0] - 1 - y, -theta)),
    'transposed': (np.transpose, lambda x, y, theta: (y, x, 90.0 - theta)),
    'rotated': (np.rot90,
                lambda x, y, theta: (y, SHAPE[1] - 1 - x, theta - 90.0)),
}


@pytest.mark.parametrize('noise', NOISE)
@pytest.mark.parametrize('name', ORIENTATIONS)
def test_orientation(data, tables, noise, name):
    """
    A map can be mirrored, transposed, and rotated.

    Fits then take other steps, and end within a small fraction of an
    error. White noise is measured in boxes whose grid begins at a
    corner of the map.
    """
    turn, place = ORIENTATIONS[name]
    assert_same(measure(turn(data), noise), tables[noise], tolerance=0.05,
                error_tolerance=0.05, place=place)


@pytest.mark.parametrize('noise', NOISE)
@FEW
@given(margins=st.tuples(*4 * [st.integers(0, 40)]))
def test_empty_margins(data, tables, noise, margins):
    """
    Margins without data change nothing, nor does the place in the array.
    """
    bottom, top, left, right = margins
    padded = np.pad(data, ((bottom, top), (left, right)),
                    constant_values=np.nan)
    assert_same(measure(padded, noise), tables[noise], tolerance=1e-6,
                place=lambda x, y, theta: (x + left, y + bottom, theta))


@pytest.mark.parametrize('noise', NOISE)
@FEW
@given(power=st.floats(-26.0, 6.0))
def test_scale(data, tables, noise, power):
    """
    Values may have any scale.
    """
    factor = 10.0**power
    assert_same(measure(factor * data, noise), tables[noise],
                tolerance=1e-3, factor=factor)


@pytest.mark.parametrize('noise', NOISE)
@FEW
@given(level=st.floats(-100.0, 100.0))
def test_constant(data, tables, noise, level):
    """
    A constant in units of the noise may be added to the map.
    """
    assert_same(measure(data + 1e-5 * level, noise), tables[noise],
                tolerance=1e-3)


@pytest.mark.parametrize('noise', NOISE)
def test_unit(data, tables, noise):
    """
    The unit of the data is only a scale.
    """
    table = measure((data << u.Jy / u.pix).to(u.mJy / u.pix), noise)
    assert table['amplitude_fit'].unit == u.mJy / u.pix
    assert table['flux_fit'].unit == u.mJy
    assert_same(table, tables[noise], tolerance=1e-3, factor=1e3)
