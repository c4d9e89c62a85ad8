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
from hyperphotutils.stamps.writers import (
    DRE_NAMES,
    FORMAT,
    import_h5py,
)

if TYPE_CHECKING:
    from hyperphotutils.utils.typing import FilePath

__all__ = ['read_stamps']

_PLANES = ('data', 'error', 'mask', 'segmentation', 'psf')


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
        If the file has another layout or is damaged, or a name is not in
        it.
    """
    # the maps bring libraries that arrays do not need
    from hyperphotutils.maps.images import refuse_damaged_file

    path = Path(path)
    names = None if names is None else list(names)
    with path.open('rb') as file:
        beginning = file.read(9)
    is_hdf5 = beginning.startswith(b'\x89HDF')
    if not is_hdf5 and not beginning.startswith(b'SIMPLE'):
        msg = f"'{path}' is neither HDF5 nor FITS"
        raise ValueError(msg)
    if is_hdf5:
        h5py = import_h5py()
    with refuse_damaged_file(path, 'its stamps cannot be read'):
        if not is_hdf5:
            return _read_fits(path, names)
        with h5py.File(path, 'r') as file:
            return _read_hdf5(file, path, names)


def _read_fits(path, names):
    """
    Read a FITS file.
    """
    with fits.open(path) as hdus:
        header = hdus[0].header
        if header.get('HPUFORM') != FORMAT:
            msg = f"'{path}' has no stamps: expected a file of Stamps.write"
            raise ValueError(msg)
        planes = {plane: None if plane not in hdus else hdus[plane].data
                  for plane in _PLANES}
        for plane, image in planes.items():
            if image is not None:
                # FITS has neither bool nor the byte order of most processors
                planes[plane] = image.astype(
                    bool if plane == 'mask' else image.dtype.newbyteorder('='))
        tables = {name.lower(): QTable.read(path, hdu=name,
                                            character_as_bytes=False)
                  for name in ('TABLE', 'REJECTED') if name in hdus}
        wcs = _make_wcs(header) if 'CTYPE1' in header else None
        meta = json.loads(header['HPUMETA'])
    for table in tables.values():
        table.meta = {}
    stamps = Stamps(**planes, **tables, wcs=wcs, meta=meta)
    present = [str(name) for name in stamps.table['name']]
    return stamps if names is None else stamps[_choose(present, names, path)]


def _read_hdf5(file, path, names):
    """
    Read an open HDF5 file.
    """
    tables = {name: QTable.read(file[name][()].decode().splitlines(),
                                format='ascii.ecsv')
              for name in ('table', 'rejected') if name in file}
    # HDF5 sorts the groups by name
    groups = ([str(name) for name in tables['table']['name']]
              if 'table' in tables else
              [name for name, group in file.items() if hasattr(group, 'keys')])
    rows = _choose(groups, names, path)
    chosen = [groups[row] for row in rows]
    found = set(file[chosen[0]].keys()) if chosen else set()
    if not found & {'data', DRE_NAMES['data']}:
        msg = (f"'{path}' has no stamps: expected a group for each source "
               f'with data, or obj, seg, and rms; found '
               f'{", ".join(sorted(found)) or "no group"}')
        raise ValueError(msg)
    planes = dict.fromkeys(_PLANES)
    for plane in _PLANES:
        key = plane if 'data' in found else DRE_NAMES.get(plane, plane)
        if key in found:
            first = file[chosen[0]][key]
            planes[plane] = np.empty((len(chosen), *first.shape), first.dtype)
            for image, name in zip(planes[plane], chosen, strict=True):
                file[name][key].read_direct(image)
    if 'psf' in file:
        planes['psf'] = file['psf'][()]
    if planes['mask'] is None:
        planes['mask'] = ~np.isfinite(planes['data'])
    if 'table' in tables:
        tables['table'] = tables['table'][rows]
    else:
        # stamps of DRE are centered on their sources
        center = planes['data'].shape[-1] // 2
        numbers = [name.rpartition('_')[2] for name in chosen]
        tables['table'] = QTable({
            'id': [int(number) if number.isdigit() else row + 1
                   for row, number in enumerate(numbers)], 'name': chosen,
            'x': np.full(len(chosen), float(center)),
            'x0': np.zeros(len(chosen), dtype=int),
            'y': np.full(len(chosen), float(center)),
            'y0': np.zeros(len(chosen), dtype=int),
            'label': np.zeros(len(chosen), dtype=int)
            if planes['segmentation'] is None
            else planes['segmentation'][:, center, center]})
    wcs = (_make_wcs(fits.Header.fromstring(file.attrs['wcs']))
           if 'wcs' in file.attrs else None)
    return Stamps(**planes, **tables, wcs=wcs,
                  meta=json.loads(file.attrs.get('meta', '{}')))


def _choose(present, names, path):
    """
    Return the rows of the stamps to read; all without ``names``.
    """
    row_of = {name: row for row, name in enumerate(present)}
    names = present if names is None else list(names)
    missing = sorted(set(names) - row_of.keys())
    if missing:
        msg = f"'{path}' has no stamp {', '.join(missing)}"
        raise ValueError(msg)
    return [row_of[name] for name in names]


def _make_wcs(header):
    """
    Make coordinates from a header.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FITSFixedWarning)
        return WCS(header)
