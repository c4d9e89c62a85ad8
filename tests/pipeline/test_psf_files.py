# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of hyperphotutils.pipeline.psf_files.
"""

import numpy as np
import pytest
from astropy.io import fits

from hyperphotutils.datasets import make_star_field
from hyperphotutils.pipeline.psf_files import holds_psf, open_psf
from hyperphotutils.psf import EmpiricalPSF

IMAGE = make_star_field((64, 64), 1, seed=1).psf(32, 32)


@pytest.mark.parametrize('name', ['PSF', 'IMAGE'])
def test_image_with_a_table_of_beams_is_an_image(tmp_path, name):
    """
    Neither the name of the image nor a table beside it makes it a PSF file.
    """
    path = tmp_path / 'beam.fits'
    table = fits.BinTableHDU.from_columns(
        [fits.Column('BMAJ', 'D', array=[1.0])], name='BEAMS')
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(IMAGE, name=name)]
    hdus += [table] * (name == 'IMAGE')
    fits.HDUList(hdus).writeto(path)
    assert not holds_psf(path)
    assert np.allclose(open_psf(path)(), IMAGE, atol=1e-6)


@pytest.mark.parametrize('name', ['psf.fits', 'psfex.psf'])
def test_files_of_psfs_are_recognized(tmp_path, name):
    """
    Files of EmpiricalPSF and of PSFEx are read as such.
    """
    EmpiricalPSF(IMAGE).write(tmp_path / name)
    assert holds_psf(tmp_path / name)
    assert isinstance(open_psf(tmp_path / name), EmpiricalPSF)


def test_other_products_with_a_psf_are_refused(tmp_path):
    """
    The first image of a product that has a PSF is not taken for the PSF.
    """
    path = tmp_path / 'subtraction.fits'
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(IMAGE, name='DIFFERENCE'),
                  fits.ImageHDU(IMAGE, name='PSF')]).writeto(path)
    with pytest.raises(ValueError, match='has no PSF: expected a FITS file'):
        open_psf(path)


def test_files_that_are_no_psf_are_named(tmp_path):
    """
    A damaged file and an image without a central pixel are named.
    """
    path = tmp_path / 'no.fits'
    path.write_bytes(b'SIMPLE  = ' + bytes(99))
    with pytest.raises(ValueError, match=r"no\.fits' is truncated or dam"):
        open_psf(path)
    fits.PrimaryHDU(np.ones((4, 4))).writeto(path, overwrite=True)
    with pytest.raises(ValueError, match=r"no\.fits' is no image of a PSF: "
                       'its values must be square images of odd size'):
        open_psf(path)
