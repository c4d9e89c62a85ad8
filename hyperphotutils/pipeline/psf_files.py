# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The files of PSFs that commands accept.
"""

import numpy as np
from astropy.io import fits

from hyperphotutils.maps import load_image
from hyperphotutils.psf import EmpiricalPSF, read_psf

__all__ = ['holds_psf', 'open_psf']


def holds_psf(path):
    """
    Whether a FITS file is one of `~hyperphotutils.psf.EmpiricalPSF` or of
    PSFEx, and not an image.
    """
    with fits.open(path) as hdus:
        # (a PSF beside other images is in a product that is no PSF, which
        # read_psf refuses)
        return 'HPUFORM' in hdus[0].header or (
            'PSF' in hdus and len(hdus) > 2) or any(
            'PSF_MASK' in (hdu.columns.names or ()) for hdu in hdus
            if isinstance(hdu, fits.BinTableHDU))


def open_psf(path):
    """
    Read an `~hyperphotutils.psf.EmpiricalPSF` from its file, a ``.psf``
    file of PSFEx, or an image.
    """
    if holds_psf(path):
        return read_psf(path)
    return EmpiricalPSF(np.squeeze(load_image(path).data))
