# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Writers of PSFs: FITS files with all of a PSF, and files of PSFEx.
"""

import json

import numpy as np
from astropy.io import fits
from astropy.table import QTable

__all__ = ['FITS_FORMAT', 'PSFEX_AXES', 'write_fits', 'write_psfex']

FITS_FORMAT = 'hyperphotutils EmpiricalPSF 1'

# Coordinates on which a PSF of PSFEx may depend.
PSFEX_AXES = ('X_IMAGE', 'Y_IMAGE')


def write_fits(psf, path, *, overwrite=False):
    """
    Write all of a PSF to a FITS file; see `EmpiricalPSF.write`.
    """
    # imported late: the package of catalogs imports much
    from hyperphotutils.utils.output import atomic_output

    primary = fits.PrimaryHDU()
    primary.header['HPUFORM'] = (FITS_FORMAT, 'format of this file')
    primary.header['HPUMETA'] = json.dumps(psf.meta)
    image = fits.ImageHDU(psf.coefficients, name='PSF')
    for key, value, comment in (
            ('OVERSAMP', psf.oversampling, 'samples a pixel'),
            ('XZERO', psf.center[0], 'center of the polynomial, from 0'),
            ('YZERO', psf.center[1], 'center of the polynomial, from 0'),
            ('XSCALE', psf.scale[0], 'scale of the polynomial, pixels'),
            ('YSCALE', psf.scale[1], 'scale of the polynomial, pixels'),
            ('FWHM', psf.fwhm(), 'at the center, pixels')):
        image.header[key] = (value, comment)
    hdus = fits.HDUList([primary, image])
    for name, array in (('ERROR', psf.error),
                        ('STAR_IMAGES', psf.star_images),
                        ('RESIDUALS', psf.residuals)):
        if array is not None:
            hdus.append(fits.ImageHDU(array, name=name))
    if psf.stars is not None:
        table = QTable(psf.stars, copy=False)
        meta = json.dumps(dict(table.meta))
        table.meta = {}
        hdu = fits.table_to_hdu(table)
        hdu.name = 'STARS'
        hdu.header['HPUMETA'] = meta
        hdus.append(hdu)
    with atomic_output(path, overwrite=overwrite) as temporary:
        hdus.writeto(temporary)


def write_psfex(psf, path, *, overwrite=False, oversampling=None):
    """
    Write a PSF in the format of PSFEx; see `EmpiricalPSF.write`.
    """
    # imported late: the package of catalogs imports much
    from hyperphotutils.utils.output import atomic_output

    if oversampling is None:
        oversampling = psf.oversampling
    # like PSFEx, the flux a pixel: the sum is that of the samples a pixel
    images = psf.resample(oversampling)
    column = fits.Column(
        name='PSF_MASK', format=f'{images.size}E',
        dim=str(images.shape[::-1]),
        array=images.astype(np.float32)[np.newaxis])
    hdu = fits.BinTableHDU.from_columns([column], name='PSF_DATA')
    header = hdu.header
    if psf.n_stars:
        used = psf.stars[psf.stars['used']]
        header['LOADED'] = (len(psf.stars), 'number of loaded sources')
        header['ACCEPTED'] = (len(used), 'number of accepted sources')
        header['CHI2'] = (float(np.mean(used['reduced_chi2'])),
                          'mean reduced chi-squared')
    header['POLNAXIS'] = (2 if psf.order else 0, 'number of context axes')
    if psf.order:
        for axis, name in enumerate(PSFEX_AXES):
            key = axis + 1
            header[f'POLGRP{key}'] = (1, 'polynomial group of this axis')
            header[f'POLNAME{key}'] = (name, 'name of this axis')
            header[f'POLZERO{key}'] = (psf.center[axis] + 1.0,
                                       'offset of this axis')
            header[f'POLSCAL{key}'] = (psf.scale[axis],
                                       'scale of this axis')
        header['POLNGRP'] = (1, 'number of polynomial groups')
        header['POLDEG1'] = (psf.order, 'degree of the polynomial')
    header['PSF_FWHM'] = (psf.fwhm(), 'FWHM of the PSF in pixels')
    header['PSF_SAMP'] = (1.0 / oversampling, 'sampling step in pixels')
    header['PSFNAXIS'] = (3, 'dimensions of PSF_MASK')
    for axis, length in enumerate(images.shape[::-1]):
        header[f'PSFAXIS{axis + 1}'] = length
    with atomic_output(path, overwrite=overwrite) as temporary:
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(temporary)
