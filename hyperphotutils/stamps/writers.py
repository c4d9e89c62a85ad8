# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Writers of files with all stamps of an image: HDF5 and FITS.
"""

import io
import json
import warnings

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.table import QTable

from hyperphotutils.utils.output import atomic_output

__all__ = ['COMPRESSIONS', 'DRE_NAMES', 'import_h5py', 'write_fits',
           'write_hdf5']

COMPRESSIONS = {
    'none': {},
    'low': {'compression': 'lzf', 'shuffle': True},
    'medium': {'compression': 'gzip', 'compression_opts': 4,
               'shuffle': True},
    'high': {'compression': 'gzip', 'compression_opts': 9, 'shuffle': True},
}

# The data sets of DRE by ours.
DRE_NAMES = {'data': 'obj', 'error': 'rms', 'segmentation': 'seg'}


def import_h5py():
    """
    Import h5py; without it, raise an error with the remedy.
    """
    try:
        import h5py
    except ImportError as exc:
        msg = ('HDF5 needs h5py: install hyperphotutils[galaxies], or use '
               'FITS')
        raise ImportError(msg) from exc
    return h5py


def write_hdf5(stamps, path, *, compression, overwrite, names='hdf5'):
    """
    Write stamps to HDF5; see `Stamps.write`.
    """
    h5py = import_h5py()
    if compression not in COMPRESSIONS:
        msg = (f'compression must be one of {", ".join(COMPRESSIONS)}: got '
               f'{compression!r}')
        raise ValueError(msg)
    if names == 'dre':
        missing = [name for name in DRE_NAMES
                   if getattr(stamps, name) is None]
        if missing:
            msg = ("format='dre' needs errors and segments: the stamps have "
                   f'no {" and no ".join(missing)}')
            raise ValueError(msg)
        names = DRE_NAMES
    else:
        names = {name: name for name in (
            'data', 'error', 'mask', 'segmentation')}
    options = COMPRESSIONS[compression]
    with (atomic_output(path, overwrite=overwrite) as temporary,
          h5py.File(temporary, 'w') as file):
        # write what all stamps share
        file.attrs['format'] = 'hyperphotutils stamps 1'
        file.attrs['meta'] = json.dumps(stamps.meta)
        if stamps.wcs is not None:
            file.attrs['wcs'] = stamps.wcs.to_header_string(relax=True)
        # data sets: attributes have at most 64 kB
        for name in ('table', 'rejected'):
            if getattr(stamps, name) is not None:
                # table as ECSV, without its metadata
                plain = QTable(getattr(stamps, name), copy=False)
                plain.meta = {}
                buffer = io.StringIO()
                plain.write(buffer, format='ascii.ecsv')
                file[name] = buffer.getvalue()
        if stamps.psf is not None and stamps.psf.ndim == 2:
            file.create_dataset('psf', data=stamps.psf, **options)
        for number, name in enumerate(stamps.table['name']):
            _write_group(file.create_group(str(name)), stamps, number,
                         names, options)


def _write_group(group, stamps, number, names, options):
    """
    Write one stamp.
    """
    planes = {own: getattr(stamps, plane) for plane, own in names.items()}
    if stamps.psf is not None and stamps.psf.ndim == 3:
        planes['psf'] = stamps.psf
    for name, images in planes.items():
        if images is not None:
            # one chunk a stamp
            chunks = images.shape[1:] if options else None
            group.create_dataset(name, data=images[number], chunks=chunks,
                                 **options)
    row = stamps.table[number]
    for key in ('id', 'x', 'y', 'x0', 'y0', 'label'):
        group.attrs[key] = np.asarray(row[key]).item()
    if stamps.wcs is not None:
        group.attrs['ra'], group.attrs['dec'] = (
            float(getattr(row[key], 'value', row[key]))
            for key in ('ra', 'dec'))
        group.attrs['wcs'] = stamps.stamp_wcs(number).to_header_string(
            relax=True)


def write_fits(stamps, path, *, overwrite):
    """
    Write stamps to FITS; see `Stamps.write`.
    """
    primary = fits.PrimaryHDU()
    if stamps.wcs is not None:
        primary.header.update(stamps.wcs.to_header(relax=True))
    primary.header['HPUFORM'] = 'hyperphotutils stamps 1'
    primary.header['HPUMETA'] = json.dumps(stamps.meta)
    hdus = fits.HDUList([primary])
    for name in ('data', 'error', 'mask', 'segmentation', 'psf'):
        image = getattr(stamps, name)
        if image is not None:
            hdus.append(fits.ImageHDU(
                image.astype(np.uint8) if image.dtype == bool else image,
                name=name))
    for name, table in (('TABLE', stamps.table),
                        ('REJECTED', stamps.rejected)):
        if table is None:
            continue
        # as a QTable writes itself: with its units and coordinates
        plain = QTable(table, copy=False)
        plain.meta = {}
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            # metadata that FITS cannot store are omitted
            warnings.simplefilter('ignore', VerifyWarning)
            plain.write(buffer, format='fits')
        buffer.seek(0)
        with fits.open(buffer) as part:
            hdus.append(part[1].copy())
        hdus[-1].name = name
    with atomic_output(path, overwrite=overwrite) as temporary:
        hdus.writeto(temporary)
