# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Folders and tables of DRE (Discrete Radius Ellipticals).

Its cutouts are read by `~hyperphotutils.stamps.read_stamps`, and its cubes
of models by `~hyperphotutils.galaxy.SersicCube.read`.
"""

from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io import ascii as ascii_tables
from astropy.table import QTable

from hyperphotutils.compat.sextractor import read_sextractor_images
from hyperphotutils.maps.images import refuse_damaged_file

__all__ = ['read_dre_chi2', 'read_dre_summary', 'read_sextracted']

_SUFFIXES = ('cat', 'seg', 'rms', 'nb')


def read_sextracted(folder, name, *, image=None):
    """
    Read what ``sex_dre`` has made of an image.

    Parameters
    ----------
    folder : str or `~pathlib.Path`
        The folder (``Sextracted``), with or without a subfolder for each
        image.

    name : str
        The name of the image without its suffix.

    image : str or `~pathlib.Path`, optional
        The image, for the background.

    Returns
    -------
    sources : `~hyperphotutils.detection.ExtendedSources`
        The catalog ``NAME_cat.fits``, and the check images
        ``NAME_seg.fits``, ``NAME_rms.fits``, and ``NAME_nb.fits``.

    Raises
    ------
    FileNotFoundError
        If one of the files is missing.
    """
    folder = Path(folder)
    inner = folder / name
    if inner.is_dir():
        folder = inner
    paths = {part: folder / f'{name}_{part}.fits' for part in _SUFFIXES}
    missing = [path.name for path in paths.values() if not path.exists()]
    if missing:
        msg = f"'{folder}' has no {', no '.join(missing)}"
        raise FileNotFoundError(msg)
    return read_sextractor_images(
        paths['cat'], segmentation=paths['seg'], rms=paths['rms'],
        background_subtracted=paths['nb'], image=image)


def read_dre_summary(path):
    """
    Read a summary of DRE.

    Parameters
    ----------
    path : str or `~pathlib.Path`
        The file, FITS or text, with the columns ``INDEX``, ``LOGR``,
        ``AX_RATIO``, ``ANGLE``, ``CHI``, and so on.

    Returns
    -------
    table : `~astropy.table.QTable`
        The columns under the names of
        `~hyperphotutils.galaxy.ChiSquareCube.summary`: ``n_grid``,
        ``r_eff_grid``, ``q_grid``, ``theta_grid``,
        ``mean_chi2_grid`` (DRE divides by the number of pixels),
        ``r_eff_parabola``, and ``model_index``. ``LOGR_STD`` keeps its
        name, since it is no error of 1 sigma. Other columns stay as they
        are.

    Raises
    ------
    ValueError
        If the file has no such columns.
    """
    path = Path(path)
    with path.open('rb') as file:
        is_fits = file.read(6) == b'SIMPLE'
    raw = (QTable.read(path, format='fits') if is_fits
           else QTable(ascii_tables.read(path)))
    if 'LOGR' not in raw.colnames:
        msg = (f"'{path}' is not a summary of DRE: expected LOGR, found "
               f'{", ".join(raw.colnames)}')
        raise ValueError(msg)
    table = QTable()
    names = {'INDEX': 'n_grid', 'AX_RATIO': 'q_grid',
             'CHI': 'mean_chi2_grid', 'MODEL_IDX': 'model_index'}
    for name in raw.colnames:
        values = np.asarray(raw[name])
        # DRE has the decimal logarithm of the radius in pixels
        if name == 'LOGR':
            table['r_eff_grid'] = 10.0**values
        elif name == 'LOGR_PARAB':
            table['r_eff_parabola'] = 10.0**values
        elif name == 'ANGLE':
            table['theta_grid'] = values << u.deg
        else:
            table[names.get(name, name)] = values
    return table


def read_dre_chi2(path):
    """
    Read the cubes of chi-squared that DRE has made.

    Parameters
    ----------
    path : str or `~pathlib.Path`
        The file (``NAME_chi.h5``), with a data set for each galaxy.

    Returns
    -------
    cubes : dict of `~numpy.ndarray`
        The cubes by the name of the galaxy, divided by the number of
        pixels, as they are in the file.

    Raises
    ------
    ValueError
        If the file has no cubes.
    """
    from hyperphotutils.stamps.writers import import_h5py

    h5py = import_h5py()
    # grids over index, axis ratio, angle, and radius, perhaps in groups
    cubes = {}
    with (refuse_damaged_file(path, 'its cubes cannot be read'),
          h5py.File(path, 'r') as file):
        file.visititems(lambda name, item: cubes.update(
            {name.rpartition('/')[2]: item[()]})
            if isinstance(item, h5py.Dataset) and item.ndim >= 3 else None)
    if not cubes:
        msg = f"'{path}' has no cubes of chi-squared"
        raise ValueError(msg)
    return cubes
