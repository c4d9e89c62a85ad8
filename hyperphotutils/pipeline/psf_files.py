# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The files of PSFs that commands accept.
"""

import numpy as np
from astropy.io import fits

from hyperphotutils.maps import MapError, load_image
from hyperphotutils.maps.images import refuse_damaged_file
from hyperphotutils.psf import EmpiricalPSF, read_psf

__all__ = ['holds_psf', 'open_psf']


def holds_psf(path):
    """
    Whether a FITS file is one of `~hyperphotutils.psf.EmpiricalPSF` or of
    PSFEx, and not an image.
    """
    with (refuse_damaged_file(path, 'it cannot be read as FITS'),
          fits.open(path) as hdus):
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
    try:
        image = load_image(path).data
    except MapError as error:
        msg = f"'{path}' {error}"
        raise MapError(msg) from None
    try:
        return EmpiricalPSF(np.squeeze(image))
    except ValueError as error:
        # the user gives no coefficients, but an image
        reason = str(error).replace('coefficients', 'its values', 1)
        msg = f"'{path}' is no image of a PSF: {reason}"
        raise ValueError(msg) from None
