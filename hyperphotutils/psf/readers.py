# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reader of PSFs from FITS files and from files of PSFEx.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.utils.exceptions import AstropyUserWarning

from hyperphotutils.psf.empirical import EmpiricalPSF
from hyperphotutils.psf.grid import polynomial_powers
from hyperphotutils.psf.writers import FITS_FORMAT, PSFEX_AXES

if TYPE_CHECKING:
    from hyperphotutils.utils.typing import FilePath

__all__ = ['read_psf']


def read_psf(path: FilePath) -> EmpiricalPSF:
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
    FileNotFoundError
        If there is no such file.

    ValueError
        If the file has no PSF or is damaged, or if the PSF depends on
        more than the position.

    Warns
    -----
    ~astropy.utils.exceptions.AstropyUserWarning
        If PSFEx has accepted no star.

    Notes
    -----
    PSFs of PSFEx sum to 1 within a few percent only: they are divided
    by their sum, which ``meta['sum']`` keeps.

    PSFEx interpolates its samples by a Lanczos function, `EmpiricalPSF`
    by a cubic spline: if ``PSF_SAMP`` is not 1, images at pixel scale
    differ by about 1e-3 of the peak.
    """
    # the maps bring libraries that arrays do not need
    from hyperphotutils.maps.images import refuse_damaged_file

    path = Path(path)
    if not path.exists():
        msg = f'{path}: no such file'
        raise FileNotFoundError(msg)
    with refuse_damaged_file(path, 'its PSF cannot be read'):
        psf = _read_fits(path)
    if psf.meta.get('accepted') == 0:
        msg = (f"'{path}': PSFEx has accepted no star (ACCEPTED = 0), so "
               'that this PSF is not measured')
        warnings.warn(msg, AstropyUserWarning, stacklevel=2)
    return psf


def _read_fits(path):
    """
    Read a FITS file of either kind.
    """
    with fits.open(path) as hdus:
        for hdu in hdus:
            if hdu.name == 'PSF_DATA' or (
                    isinstance(hdu, fits.BinTableHDU)
                    and 'PSF_MASK' in (hdu.columns.names or ())):
                return _read_psfex(hdu, path)
        if hdus[0].header.get('HPUFORM') != FITS_FORMAT:
            msg = (f"'{path}' has no PSF: expected a FITS file written by "
                   'hyperphot psf or EmpiricalPSF.write, or a .psf file of '
                   'PSFEx')
            raise ValueError(msg)
        # read a file of `write_fits`
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


def _read_psfex(hdu, path):
    """
    Read the table of a file of PSFEx.
    """
    header = hdu.header
    images = np.asarray(hdu.data['PSF_MASK'][0], dtype=float)
    if images.ndim == 2:
        images = images[np.newaxis]
    total = images[0].sum() * header['PSF_SAMP']**2
    if not total > 0.0:
        msg = f"'{path}': the PSF has no positive sum ({total:.3g})"
        raise ValueError(msg)
    oversampling = 1.0 / header['PSF_SAMP']
    center, scale = (0.0, 0.0), (1.0, 1.0)
    n_axes = header.get('POLNAXIS', 0)
    if n_axes and len(images) > 1:
        names = tuple(header[f'POLNAME{axis + 1}'] for axis in range(n_axes))
        order = header['POLDEG1']
        if (names != PSFEX_AXES or header.get('POLNGRP', 1) != 1
                or len(images) != len(polynomial_powers(order))):
            msg = (f"'{path}': the PSF depends on {', '.join(names)} with "
                   f'{len(images)} terms; only polynomials in '
                   f'{" and ".join(PSFEX_AXES)} can be read')
            raise ValueError(msg)
        center = tuple(header[f'POLZERO{axis}'] - 1.0 for axis in (1, 2))
        scale = tuple(header[f'POLSCAL{axis}'] for axis in (1, 2))
    meta = {'file': path.name, 'format': 'PSFEx',
            'accepted': header.get('ACCEPTED'), 'sum': float(total)}
    return EmpiricalPSF(images / total, oversampling=oversampling,
                        center=center, scale=scale, meta=meta)
