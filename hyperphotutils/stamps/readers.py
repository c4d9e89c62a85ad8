# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reader of stamps from HDF5 (also that of DRE) and FITS.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS, FITSFixedWarning

from hyperphotutils.stamps.stamps import Stamps
from hyperphotutils.stamps.writers import DRE_NAMES, import_h5py

if TYPE_CHECKING:
    from hyperphotutils.utils.typing import FilePath

__all__ = ['read_stamps']

_FORMAT = 'hyperphotutils stamps 1'


def read_stamps(path: FilePath, *,
                names: Sequence[str] | None = None) -> Stamps:
    """
    Read stamps from a file.

    Parameters
    ----------
    path : str or `~pathlib.Path`
        A file of `Stamps.write`, or an HDF5 file of DRE with ``obj``,
        ``seg``, and ``rms`` for each source.

    names : sequence of str, optional
        The names ``EE_NNNN`` of the stamps to read. The default is all.

    Returns
    -------
    stamps : `Stamps`
        The stamps. Those of DRE are centered on their sources; pixels
        that are not finite are masked.

    Raises
    ------
    ValueError
        If the file has another layout, or a name is not in it.
    """
    path = Path(path)
    with path.open('rb') as file:
        beginning = file.read(9)
    if beginning.startswith(b'SIMPLE'):
        return _read_fits(path, names)
    if not beginning.startswith(b'\x89HDF'):
        msg = f"'{path}' is neither HDF5 nor FITS"
        raise ValueError(msg)
    with import_h5py().File(path, 'r') as file:
        return _read_hdf5(file, path, names)


def _read_hdf5(file, path, names):
    """
    Read an open HDF5 file.
    """
    table = None
    if 'table' in file:
        # HDF5 sorts the groups by name
        table = _table_of_text(file['table'][()].decode())
        groups = [str(name) for name in table['name']]
    else:
        groups = [name for name, group in file.items()
                  if hasattr(group, 'keys')]
    chosen = _choose(groups, names, path)
    found = set(file[chosen[0]].keys()) if chosen else set()
    if not chosen or not found & {'data', DRE_NAMES['data']}:
        msg = (f"'{path}' has no stamps: expected a group for each source "
               f'with data, or obj, seg, and rms; found '
               f'{", ".join(sorted(found)) or "no group"}')
        raise ValueError(msg)
    planes = _read_planes(file, chosen, found)
    rejected = None
    if 'rejected' in file:
        rejected = _table_of_text(file['rejected'][()].decode())
    if table is None:
        # make the table of stamps that are centered on their sources
        center = planes['data'].shape[-1] // 2
        numbers = [name.rpartition('_')[2] for name in chosen]
        ids = [int(number) if number.isdigit() else row + 1
               for row, number in enumerate(numbers)]
        table = QTable({'id': ids, 'name': chosen})
        for axis in ('x', 'y'):
            table[axis] = np.full(len(chosen), float(center))
            table[f'{axis}0'] = np.zeros(len(chosen), dtype=int)
        table['label'] = (0 if planes['segmentation'] is None
                          else planes['segmentation'][:, center, center])
    elif names is not None:
        table = table[_rows_of(table, chosen)]
    wcs = None
    if 'wcs' in file.attrs:
        wcs = _make_wcs(fits.Header.fromstring(file.attrs['wcs']))
    return Stamps(**planes, table=table, wcs=wcs, rejected=rejected,
                  meta=json.loads(file.attrs.get('meta', '{}')))


def _read_planes(file, chosen, found):
    """
    Read the images of the chosen stamps.
    """
    planes = {}
    for plane in ('data', 'error', 'mask', 'segmentation', 'psf'):
        key = plane if 'data' in found else DRE_NAMES.get(plane, plane)
        planes[plane] = None
        if key in found:
            first = file[chosen[0]][key]
            planes[plane] = np.empty((len(chosen), *first.shape),
                                     first.dtype)
            for image, name in zip(planes[plane], chosen, strict=True):
                file[name][key].read_direct(image)
    if 'psf' in file:
        planes['psf'] = file['psf'][()]
    if planes['mask'] is None:
        planes['mask'] = ~np.isfinite(planes['data'])
    return planes


def _read_fits(path, names):
    """
    Read a FITS file.
    """
    with fits.open(path) as hdus:
        header = hdus[0].header
        if header.get('HPUFORM') != _FORMAT:
            msg = f"'{path}' has no stamps: expected a file of Stamps.write"
            raise ValueError(msg)
        planes = {}
        for plane in ('data', 'error', 'mask', 'segmentation', 'psf'):
            planes[plane] = None
            if plane in hdus:
                image = hdus[plane].data
                planes[plane] = image.astype(
                    bool if plane == 'mask' else
                    image.dtype.newbyteorder('='))
        table = QTable.read(path, hdu='TABLE', character_as_bytes=False)
        table.meta = {}
        rejected = None
        if 'REJECTED' in hdus:
            rejected = QTable.read(path, hdu='REJECTED',
                                   character_as_bytes=False)
            rejected.meta = {}
        wcs = _make_wcs(header) if 'CTYPE1' in header else None
        meta = json.loads(header['HPUMETA'])
    stamps = Stamps(**planes, table=table, wcs=wcs, meta=meta,
                    rejected=rejected)
    if names is None:
        return stamps
    return stamps[_rows_of(table, _choose(list(table['name']), names, path))]


def _choose(present, names, path):
    """
    Return the names to read.
    """
    if names is None:
        return present
    missing = sorted(set(names) - set(present))
    if missing:
        msg = f"'{path}' has no stamp {', '.join(missing)}"
        raise ValueError(msg)
    return list(names)


def _rows_of(table, names):
    """
    Return the rows of the table with the given names.
    """
    row_of = {str(name): row for row, name in enumerate(table['name'])}
    return [row_of[name] for name in names]


def _table_of_text(text):
    """
    Return a table from ECSV.
    """
    return QTable.read(text.splitlines(), format='ascii.ecsv')


def _make_wcs(header):
    """
    Make coordinates from a header.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FITSFixedWarning)
        return WCS(header)
