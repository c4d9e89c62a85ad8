# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Files of empirical PSFs: FITS files with all of them, and those of
PSFEx.
"""

import json
import warnings
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.utils.exceptions import AstropyUserWarning

from hyperphotutils.psf.empirical import EmpiricalPSF
from hyperphotutils.psf.grid import polynomial_powers

__all__ = ['read_psf']

_FORMAT = 'hyperphotutils EmpiricalPSF 1'

# Coordinates on which a PSF of PSFEx may depend.
_PSFEX_AXES = ('X_IMAGE', 'Y_IMAGE')


def read_psf(path):
    """
    Read a PSF from a file.

    Parameters
    ----------
    path : str or `~pathlib.Path`
        A FITS file written by `EmpiricalPSF.write`, or a ``.psf`` file of
        PSFEx, with any sampling.

    Returns
    -------
    psf : `EmpiricalPSF`
        The PSF.

    Raises
    ------
    ValueError
        If the file holds no PSF, or one that depends on more than the
        position.

    Warns
    -----
    ~astropy.utils.exceptions.AstropyUserWarning
        If PSFEx has accepted no star.

    Notes
    -----
    PSFEx interpolates its samples by a Lanczos function, `EmpiricalPSF`
    by a cubic spline: if ``PSF_SAMP`` is not 1, images at pixel scale
    differ by about 1e-3 of the peak.
    """
    path = Path(path)
    with fits.open(path) as hdus:
        for hdu in hdus:
            if hdu.name == 'PSF_DATA' or (
                    isinstance(hdu, fits.BinTableHDU)
                    and 'PSF_MASK' in (hdu.columns.names or ())):
                return _read_psfex(hdu, path)
        if hdus[0].header.get('HPUFORM') != _FORMAT:
            msg = (f"'{path}' holds no PSF: expected a FITS file written by "
                   'EmpiricalPSF.write or a .psf file of PSFEx')
            raise ValueError(msg)
        return _read_fits(hdus)


def write_fits(psf, path, *, overwrite=False):
    """
    Write all of a PSF to a FITS file; see `EmpiricalPSF.write`.
    """
    # imported late: the package of catalogs imports much
    from hyperphotutils.catalog.output import atomic_output

    primary = fits.PrimaryHDU()
    primary.header['HPUFORM'] = (_FORMAT, 'format of this file')
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


def _read_fits(hdus):
    """
    Read a file of `write_fits`.
    """
    image = hdus['PSF']
    arrays = {name: np.array(hdus[name].data).astype(
        hdus[name].data.dtype.newbyteorder('='))
        for name in ('ERROR', 'STAR_IMAGES', 'RESIDUALS') if name in hdus}
    stars = None
    if 'STARS' in hdus:
        hdu = hdus['STARS']
        meta = json.loads(hdu.header['HPUMETA'])
        # QTable.read makes units of TUNIT; its metadata are the keywords
        stars = QTable(Table.read(hdu, character_as_bytes=False))
        stars.meta = meta
    header = image.header
    return EmpiricalPSF(
        image.data, oversampling=header['OVERSAMP'],
        center=(header['XZERO'], header['YZERO']),
        scale=(header['XSCALE'], header['YSCALE']), stars=stars,
        error=arrays.get('ERROR'), star_images=arrays.get('STAR_IMAGES'),
        residuals=arrays.get('RESIDUALS'),
        meta=json.loads(hdus[0].header['HPUMETA']))


def write_psfex(psf, path, *, overwrite=False, oversampling=None):
    """
    Write a PSF in the format of PSFEx; see `EmpiricalPSF.write`.
    """
    # imported late: the package of catalogs imports much
    from hyperphotutils.catalog.output import atomic_output

    if oversampling is None:
        oversampling = psf.oversampling
    images = psf.resample(oversampling) / oversampling**2
    column = fits.Column(
        name='PSF_MASK', format=f'{images.size}E',
        dim=str(images.shape[::-1]),
        array=images.astype(np.float32)[np.newaxis])
    hdu = fits.BinTableHDU.from_columns([column], name='PSF_DATA')
    header = hdu.header
    n_stars = 0 if psf.stars is None else len(psf.stars)
    chi2 = 0.0
    if psf.n_stars:
        chi2 = float(np.mean(psf.stars['reduced_chi2'][psf.stars['used']]))
    header['LOADED'] = (n_stars, 'number of loaded sources')
    header['ACCEPTED'] = (psf.n_stars, 'number of accepted sources')
    header['CHI2'] = (chi2, 'mean reduced chi-squared')
    header['POLNAXIS'] = (2 if psf.degree else 0, 'number of context axes')
    if psf.degree:
        for axis, name in enumerate(_PSFEX_AXES):
            key = axis + 1
            header[f'POLGRP{key}'] = (1, 'polynomial group of this axis')
            header[f'POLNAME{key}'] = (name, 'name of this axis')
            header[f'POLZERO{key}'] = (psf.center[axis] + 1.0,
                                       'offset of this axis')
            header[f'POLSCAL{key}'] = (psf.scale[axis],
                                       'scale of this axis')
        header['POLNGRP'] = (1, 'number of polynomial groups')
        header['POLDEG1'] = (psf.degree, 'degree of the polynomial')
    header['PSF_FWHM'] = (psf.fwhm(), 'FWHM of the PSF in pixels')
    header['PSF_SAMP'] = (1.0 / oversampling, 'sampling step in pixels')
    header['PSFNAXIS'] = (3, 'dimensions of PSF_MASK')
    for axis, length in enumerate(images.shape[::-1]):
        header[f'PSFAXIS{axis + 1}'] = length
    with atomic_output(path, overwrite=overwrite) as temporary:
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(temporary)


def _read_psfex(hdu, path):
    """
    Read the table of a file of PSFEx.
    """
    header = hdu.header
    images = np.asarray(hdu.data['PSF_MASK'][0], dtype=float)
    if images.ndim == 2:
        images = images[np.newaxis]
    if header.get('ACCEPTED') == 0:
        msg = (f"'{path}': PSFEx has accepted no star (ACCEPTED = 0), so "
               'that this PSF is not measured')
        warnings.warn(msg, AstropyUserWarning, stacklevel=3)
    oversampling = 1.0 / header['PSF_SAMP']
    center, scale = (0.0, 0.0), (1.0, 1.0)
    n_axes = header.get('POLNAXIS', 0)
    if n_axes and len(images) > 1:
        names = tuple(header[f'POLNAME{axis + 1}'] for axis in range(n_axes))
        degree = header['POLDEG1']
        if (names != _PSFEX_AXES or header.get('POLNGRP', 1) != 1
                or len(images) != len(polynomial_powers(degree))):
            msg = (f"'{path}': the PSF depends on {', '.join(names)} with "
                   f'{len(images)} terms; only polynomials in '
                   f'{" and ".join(_PSFEX_AXES)} can be read')
            raise ValueError(msg)
        center = tuple(header[f'POLZERO{axis}'] - 1.0 for axis in (1, 2))
        scale = tuple(header[f'POLSCAL{axis}'] for axis in (1, 2))
    meta = {'file': path.name, 'format': 'PSFEx',
            'accepted': header.get('ACCEPTED')}
    return EmpiricalPSF(images * oversampling**2, oversampling=oversampling,
                        center=center, scale=scale, meta=meta)
