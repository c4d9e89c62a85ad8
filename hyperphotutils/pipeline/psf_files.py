# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The files of PSFs that commands accept.
"""

import numpy as np
from astropy.io import fits

from hyperphotutils.maps import load_image
from hyperphotutils.psf import EmpiricalPSF, read_psf

__all__ = ['open_psf']


def open_psf(path):
    """
    Read an `~hyperphotutils.psf.EmpiricalPSF` from its file, a ``.psf``
    file of PSFEx, or an image.
    """
    with fits.open(path) as hdus:
        is_psf = any(isinstance(hdu, fits.BinTableHDU) or hdu.name == 'PSF'
                     for hdu in hdus) or 'HPUFORM' in hdus[0].header
    if is_psf:
        return read_psf(path)
    return EmpiricalPSF(np.squeeze(load_image(path).data))
