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

__all__ = ['COMPRESSIONS', 'DRE_NAMES', 'FORMAT', 'import_h5py', 'write_fits',
           'write_hdf5']

FORMAT = 'hyperphotutils stamps 1'

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
    names = DRE_NAMES if names == 'dre' else {
        name: name for name in ('data', 'error', 'mask', 'segmentation')}
    planes = {own: getattr(stamps, plane) for plane, own in names.items()}
    missing = [plane for plane, own in names.items() if planes[own] is None]
    if names is DRE_NAMES and missing:
        msg = ("format='dre' needs errors and segments: the stamps have no "
               f'{" and no ".join(missing)}')
        raise ValueError(msg)
    options = COMPRESSIONS[compression]
    is_shared = stamps.psf is not None and stamps.psf.ndim == 2
    if not is_shared:
        planes['psf'] = stamps.psf
    with (atomic_output(path, overwrite=overwrite) as temporary,
          h5py.File(temporary, 'w') as file):
        # what all stamps share
        file.attrs['format'] = FORMAT
        file.attrs['meta'] = json.dumps(stamps.meta)
        if stamps.wcs is not None:
            file.attrs['wcs'] = stamps.wcs.to_header_string(relax=True)
        if is_shared:
            file.create_dataset('psf', data=stamps.psf, **options)
        # data sets, since attributes have at most 64 kB
        for name in ('table', 'rejected'):
            if (table := getattr(stamps, name)) is not None:
                buffer = io.StringIO()
                _without_meta(table).write(buffer, format='ascii.ecsv')
                file[name] = buffer.getvalue()
        for number, row in enumerate(stamps.table):
            _write_group(file.create_group(str(row['name'])), stamps, number,
                         planes, options)


def _write_group(group, stamps, number, planes, options):
    """
    Write one stamp, in one chunk each.
    """
    for name, images in planes.items():
        if images is not None:
            group.create_dataset(
                name, data=images[number],
                chunks=images.shape[1:] if options else None, **options)
    row = stamps.table[number]
    for key in ('id', 'x', 'y', 'x0', 'y0', 'label'):
        group.attrs[key] = np.asarray(row[key]).item()
    if stamps.wcs is not None:
        for key in ('ra', 'dec'):
            group.attrs[key] = float(getattr(row[key], 'value', row[key]))
        group.attrs['wcs'] = stamps.stamp_wcs(number).to_header_string(
            relax=True)


def _without_meta(table):
    """
    Return a table as a `~astropy.table.QTable`, which writes units and
    coordinates, without its metadata.
    """
    table = QTable(table, copy=False)
    table.meta = {}
    return table


def write_fits(stamps, path, *, overwrite):
    """
    Write stamps to FITS; see `Stamps.write`.
    """
    primary = fits.PrimaryHDU()
    if stamps.wcs is not None:
        primary.header.update(stamps.wcs.to_header(relax=True))
    primary.header['HPUFORM'] = FORMAT
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
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            # metadata that FITS cannot store are omitted
            warnings.simplefilter('ignore', VerifyWarning)
            _without_meta(table).write(buffer, format='fits')
        buffer.seek(0)
        with fits.open(buffer) as part:
            hdus.append(part[1].copy())
        hdus[-1].name = name
    with atomic_output(path, overwrite=overwrite) as temporary:
        hdus.writeto(temporary)
