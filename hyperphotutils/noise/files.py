# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
FITS files of correlated noise.
"""

import astropy.units as u
import numpy as np
from astropy.io import fits

from hyperphotutils.noise.local import GridImage
from hyperphotutils.utils.output import atomic_output

__all__ = []  # shared by the modules of the subpackage only

_FORMAT = 'hyperphotutils CorrelatedNoise 1'
# Extensions of the structure have this at the beginning of their names.
_STRUCTURE = 'STRUCTURE_'


def write_noise(noise, path, *, overwrite):
    """
    Write correlated noise; see `CorrelatedNoise.write`.
    """
    primary = fits.PrimaryHDU()
    primary.header['HPUFORM'] = (_FORMAT, 'format of this file')
    unit = getattr(noise.rms, 'unit', None)
    if unit is not None:
        # the FITS standard has no electrons
        primary.header['BUNIT'] = (unit.to_string(), 'unit of the map')
    hdus = fits.HDUList([primary])
    for part, prefix in ((noise, ''), (noise.structure, _STRUCTURE)):
        if part is None:
            continue
        variances = getattr(part.variances, 'value', part.variances)
        hdus.append(fits.ImageHDU(variances, name=f'{prefix}VARIANCES'))
        if len(part.matrices):
            hdus.append(fits.ImageHDU(part.matrices,
                                      name=f'{prefix}MATRICES'))
        if part.relative_rms is not None:
            hdus.append(_image_hdu(part.relative_rms,
                                   f'{prefix}RELATIVE_RMS'))
    with atomic_output(path, overwrite=overwrite) as temporary:
        hdus.writeto(temporary)


def read_noise(path, make):
    """
    Read correlated noise; see `CorrelatedNoise.read`.

    ``make`` is called with the arguments of `CorrelatedNoise`.
    """
    with fits.open(path, memmap=False) as hdus:
        header = hdus[0].header
        if header.get('HPUFORM') != _FORMAT:
            msg = (f"'{path}' has no noise: expected a FITS file written by "
                   'CorrelatedNoise.write')
            raise ValueError(msg)
        unit = u.Unit(header['BUNIT']) if 'BUNIT' in header else None
        noise = None
        for prefix in (_STRUCTURE, ''):
            if f'{prefix}VARIANCES' not in hdus:
                continue
            variances = _native(hdus[f'{prefix}VARIANCES'].data)
            name = f'{prefix}MATRICES'
            matrices = _native(hdus[name].data) if name in hdus else []
            name = f'{prefix}RELATIVE_RMS'
            noise = make(
                variances if unit is None else variances << unit**2, matrices,
                structure=noise)
            if name in hdus:
                # (the constructor would refuse a grid)
                noise.relative_rms = _read_image(hdus[name])
    return noise


def _image_hdu(image, name):
    """
    Return the extension of an image, or of the grid that it is made from.
    """
    if not isinstance(image, GridImage):
        return fits.ImageHDU(image, name=name)
    hdu = fits.ImageHDU(image.values, name=name)
    hdu.header['OUTSIDE'] = (image.outside, 'value outside of the extent')
    extent = image.extent or [slice(0, size) for size in image.shape]
    for axis, key in ((1, 'X'), (0, 'Y')):
        for keyword, value in (
                (f'ORIGIN{key}', image.origin[axis]),
                (f'STEP{key}', image.step[axis]),
                (f'SIZE{key}', image.shape[axis]),
                (f'START{key}', extent[axis].start),
                (f'STOP{key}', extent[axis].stop)):
            hdu.header[keyword] = (value, 'of the grid, in pixels from 0')
    return hdu


def _read_image(hdu):
    """
    Return the image, or the grid, of an extension.
    """
    values, header = _native(hdu.data), hdu.header
    if 'OUTSIDE' not in header:
        return values
    origin, step, shape, start, stop = (
        tuple(header[f'{keyword}{key}'] for key in 'YX')
        for keyword in ('ORIGIN', 'STEP', 'SIZE', 'START', 'STOP'))
    return GridImage(values, origin, step, shape,
                     extent=tuple(map(slice, start, stop)),
                     outside=header['OUTSIDE'])


def _native(array):
    """
    Return an array in the byte order of this machine.
    """
    return np.asarray(array, dtype=float)
