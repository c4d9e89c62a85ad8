# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the FITS files of correlated noise.
"""

import errno
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_array_equal

from hyperphotutils.datasets import make_blended_map
from hyperphotutils.noise import CorrelatedNoise, GridImage
from hyperphotutils.photometry import HyperPhotometry

BEAM = CorrelatedNoise.from_beam(0.3, 4.0, fwhm_minor=3.0, theta=20.0)
X, Y = np.arange(12), np.arange(12)[::-1] // 2


def read_again(noise, path):
    noise.write(path)
    return CorrelatedNoise.read(path)


@pytest.mark.parametrize('unit', [None, u.Jy / u.pix, u.mJy / u.beam,
                                  u.MJy / u.sr, u.electron / u.s])
def test_values_and_unit_come_back(tmp_path, unit):
    noise = BEAM if unit is None else BEAM.scale(1.0, unit)
    again = read_again(noise, tmp_path / 'noise.fits')
    assert_array_equal(again.variances, noise.variances)
    assert_array_equal(again.matrices, noise.matrices)
    assert again.rms == noise.rms
    assert getattr(again.rms, 'unit', None) == unit
    assert again.relative_rms is None
    assert again.structure is None
    assert_array_equal(again.covariance(X, Y), noise.covariance(X, Y))


def test_noise_of_single_pixels_has_no_matrices(tmp_path):
    again = read_again(CorrelatedNoise([2.0], []), tmp_path / 'noise.fits')
    assert again.matrices.shape == (0, 2, 2)
    assert again.rms == pytest.approx(2.0**0.5)


def test_variation_and_structure_come_back(tmp_path):
    rng = np.random.default_rng(1)
    structure = CorrelatedNoise.from_beam(
        0.1, 9.0).scale(1.0, u.Jy / u.pix)
    structure = CorrelatedNoise(structure.variances, structure.matrices,
                                relative_rms=rng.uniform(0.5, 2, (12, 15)))
    noise = CorrelatedNoise(
        BEAM.variances << (u.Jy / u.pix)**2, BEAM.matrices,
        relative_rms=rng.uniform(0.5, 2.0, (12, 15)), structure=structure)
    again = read_again(noise, tmp_path / 'noise.fits')
    assert_array_equal(again.rms_at(X, Y), noise.rms_at(X, Y))
    assert_array_equal(again.structure.relative_rms, structure.relative_rms)
    assert_array_equal(again.covariance(X, Y), noise.covariance(X, Y))


@pytest.mark.parametrize('extent', [None, (slice(2, 20), slice(0, 30))])
def test_grids_of_large_maps_are_not_expanded(tmp_path, extent):
    grid = GridImage(np.random.default_rng(1).uniform(0.5, 2.0, (3, 4)),
                     (4.5, 3.0), (10.0, 9.0), (24, 33), extent=extent,
                     outside=1.5)
    noise = CorrelatedNoise(BEAM.variances, BEAM.matrices)
    noise.relative_rms = grid  # as `from_sums` does
    again = read_again(noise, tmp_path / 'noise.fits')
    assert isinstance(again.relative_rms, GridImage)
    everything = slice(None), slice(None)
    assert_array_equal(again.relative_rms[everything], grid[everything])


def test_measured_noise_serves_another_map(tmp_path):
    image = make_blended_map((120, 120), 10, beam=4.0, seed=1).image
    other = make_blended_map((120, 120), 10, beam=4.0, seed=2).image
    noise = HyperPhotometry(4.0).measure_noise(image).model
    again = read_again(noise, tmp_path / 'noise.fits')
    tables = [HyperPhotometry(4.0, noise=one)(other)
              for one in (noise, again)]
    assert_array_equal(tables[0]['flux_err'], tables[1]['flux_err'])


def test_files_are_replaced_only_on_request(tmp_path):
    path = tmp_path / 'noise.fits'
    BEAM.write(path)
    with pytest.raises(OSError, match='exists already'):
        BEAM.write(path)
    BEAM.scale(2.0).write(path, overwrite=True)
    assert CorrelatedNoise.read(path).rms == pytest.approx(0.6)


def test_failed_write_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    """
    A full disk neither leaves a partial file nor damages the earlier one.
    """
    def fill_disk(_, name):
        Path(name).write_bytes(b'SIMPLE')
        raise OSError(errno.ENOSPC, 'No space left on device')

    path = tmp_path / 'noise.fits'
    BEAM.write(path)
    monkeypatch.setattr(fits.HDUList, 'writeto', fill_disk)
    with pytest.raises(OSError, match='No space left'):
        BEAM.write(path, overwrite=True)
    assert list(tmp_path.iterdir()) == [path]
    assert CorrelatedNoise.read(path).rms == BEAM.rms


def test_other_files_are_refused(tmp_path):
    path = tmp_path / 'map.fits'
    fits.PrimaryHDU(np.ones((3, 3))).writeto(path)
    with pytest.raises(ValueError, match='has no noise: expected a FITS'):
        CorrelatedNoise.read(path)
