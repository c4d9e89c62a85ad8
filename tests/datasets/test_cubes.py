# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the cubes module.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose, assert_array_equal

from hyperphotutils.datasets import make_map_cube
from hyperphotutils.maps import read_cube


def test_sum_of_its_parts():
    """
    Without noise a cube is background and sources, NaN at the border.
    """
    sim = make_map_cube((6, 64, 72), 3, rms=1e-9, background_ratio=1e6,
                        snr_range=(1e6, 2e6), border=5, seed=1)
    data = sim.hdu.data
    assert data.dtype == np.dtype('f4')
    assert np.isnan(data[:, :5]).all()
    assert np.isnan(data[:, :, -5:]).all()
    inner = data[:, 5:-5, 5:-5]
    assert np.isfinite(inner).all()
    difference = inner - sim.background.value[:, 5:-5, 5:-5]
    for row in sim.truth:
        y, x = int(row['y_fit']) - 5, int(row['x_fit']) - 5
        peak = difference[row['channel'], y:y + 2, x:x + 2].max()
        assert 0.8 < peak / row['amplitude_fit'].value < 1.01
    empty = set(range(6)) - set(sim.truth['channel'])
    for channel in empty:
        assert np.abs(difference[channel]).max() < 1e-8


def test_noise():
    """
    The noise has its rms, and is correlated over the beam or not at all.
    """
    for correlated, expected in ((True, 0.5), (False, 0.0)):
        sim = make_map_cube((4, 200, 200), 0, beam=4.0 / np.sqrt(2.0),
                            correlated_noise=correlated, border=0, rms=2.0,
                            background_ratio=0.0, seed=2)
        data = sim.hdu.data
        assert_allclose(data.std(), 2.0, rtol=0.03)
        # 4 / sqrt(2) px is the FWHM of the beam, and 4 that of the
        # autocovariance
        shifted = (data[:, :, 2:] * data[:, :, :-2]).mean() / data.var()
        assert_allclose(shifted, expected, atol=0.05)


def test_background_orders():
    """
    Each channel has the order that is its turn.
    """
    sim = make_map_cube((6, 40, 40), 0, orders=(0, 1, 2), seed=3)
    background = sim.background.value
    second = np.abs(np.diff(background, 2, axis=2)).max(axis=(1, 2))
    first = np.abs(np.diff(background, axis=2)).max(axis=(1, 2))
    assert_array_equal(first[[0, 3]] < 1e-12, True)
    assert_array_equal(second[[0, 1, 3, 4]] < 1e-12, True)
    assert_array_equal(second[[2, 5]] > 1e-7, True)


def test_background_width():
    """
    A width makes the backgrounds of neighbors alike, at the same size.
    """
    rough, smooth = (
        make_map_cube((200, 8, 8), 0, orders=1, background_width=width,
                      border=0, seed=4).background.value
        for width in (0.0, 5.0))
    assert_allclose(smooth[:, 4, 4].std(), rough[:, 4, 4].std(), rtol=0.4)
    assert (np.diff(smooth, axis=0).std()
            < 0.25 * np.diff(rough, axis=0).std())


def test_streams_are_separate():
    """
    Other sources leave background and noise as they are.
    """
    one = make_map_cube((4, 64, 64), 2, seed=5)
    other = make_map_cube((4, 64, 64), 0, seed=5)
    assert len(other.truth) == 0
    assert one.truth.colnames == other.truth.colnames
    assert_array_equal(one.background, other.background)
    free = sorted(set(range(4)) - set(one.truth['channel']))
    assert_array_equal(one.hdu.data[free], other.hdu.data[free])


def test_reader_knows_it(tmp_path):
    """
    The file is read with its unit, its beam, and its velocities.
    """
    sim = make_map_cube((4, 48, 48), 1, channel_width=200 * u.m / u.s,
                        beam=(5.0, 4.0, 30.0), seed=6)
    sim.write(tmp_path / 'cube.fits')
    cube = read_cube(tmp_path / 'cube.fits')
    assert cube.unit == u.Jy / u.beam
    assert_allclose(cube.spectral_axis.to_value('m/s'),
                    [0.0, 200.0, 400.0, 600.0], atol=1e-9)
    assert_allclose(cube.channel(0).meta['beam_major_pix'], 5.0, rtol=1e-6)
    assert_allclose(cube.channel(0).meta['beam_theta'], 30.0, atol=1e-3)
    assert_array_equal(fits.getdata(tmp_path / 'cube.fits'), sim.hdu.data)
    with pytest.raises(OSError, match='already exists'):
        sim.write(tmp_path / 'cube.fits')
    assert 'shape=(4, 48, 48), n_sources=1' in repr(sim)


@pytest.mark.parametrize(('name', 'value', 'message'), [
    ('shape', (3, 4), 'shape must be three positive whole'),
    ('rms', -1.0, 'rms must be above 0'),
    ('border', -1, 'border must be at least 0'),
    ('line_width_range', (2.0, 1.0), 'line_width_range must be two'),
    ('n_sources', 1000, 'do not fit'),
])
def test_bad_arguments(name, value, message):
    """
    An argument out of its range is named.
    """
    with pytest.raises(ValueError, match=message):
        make_map_cube(**{'shape': (3, 99, 99), name: value})
