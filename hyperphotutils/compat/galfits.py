# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Files of GalfitS.

They are written by `~hyperphotutils.stamps.write_galfits`.
"""

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import QTable, vstack
from astropy.wcs import WCS

from hyperphotutils.stamps import Stamps

__all__ = ['read_galfits']


def read_galfits(paths):
    """
    Read cutouts that were made for GalfitS.

    Parameters
    ----------
    paths : str, `~pathlib.Path`, or sequence of them
        The FITS files, each with an image, a mask, a sigma image, and
        perhaps a PSF in the extensions 0 to 3. All have to be squares of
        one size.

    Returns
    -------
    stamps : `~hyperphotutils.stamps.Stamps`
        The stamps, for `~hyperphotutils.galaxy.SersicFitter`. The sources
        are taken to be in their centers; the mask is that of the file,
        and of pixels that are not finite.

    Raises
    ------
    ValueError
        If a file has another layout, or the sizes differ.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hyperphotutils.compat.galfits import read_galfits
    >>> from hyperphotutils.datasets import make_star_field
    >>> from hyperphotutils.stamps import make_stamps, write_galfits
    >>> field = make_star_field((100, 100), 1, seed=1)
    >>> stamps = make_stamps(field.data, field.truth, size=32,
    ...                      error=field.error, psf=field.psf(50, 50))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / 'cut.fits'
    ...     write_galfits(stamps, 0, path)
    ...     again = read_galfits(path)
    >>> again
    <Stamps(n=1, size=32, with data, mask, error, psf)>
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    parts = []
    for path in paths:
        with fits.open(path) as hdus:
            images = [hdu.data.astype(hdu.data.dtype.newbyteorder('='))
                      for hdu in hdus if hdu.is_image and hdu.data is not None]
            wcs = WCS(hdus[0].header)
        if len(images) < 3 or images[0].ndim != 2 or len(
                {image.shape for image in images[:3]}) > 1 or (
                images[0].shape[0] != images[0].shape[1]):
            found = ', '.join(str(image.shape) for image in images) or 'none'
            msg = (f"'{path}' is not a cutout for GalfitS: expected a square "
                   'image, a mask, a sigma image, and perhaps a PSF; found '
                   f'images of the shapes {found}')
            raise ValueError(msg)
        data, mask, error = images[:3]
        parts.append({
            'data': data, 'mask': (mask != 0) | ~np.isfinite(data),
            'error': error, 'psf': images[3] if len(images) > 3 else None,
            'wcs': wcs if wcs.has_celestial else None})
    if not parts:
        msg = 'paths must name a file at least'
        raise ValueError(msg)
    first = parts[0]
    for path, part in zip(paths, parts, strict=True):
        for name in ('data', 'psf'):
            own, other = part[name], first[name]
            if np.shape(own) != np.shape(other):
                msg = (f"'{path}' differs from '{paths[0]}': its {name} has "
                       f'the shape {np.shape(own)}, not {np.shape(other)}')
                raise ValueError(msg)
    size = first['data'].shape[0]
    table = vstack([QTable({
        'id': [number], 'name': [f'00_{number:04d}'],
        'x': [0.5 * (size - 1)], 'y': [0.5 * (size - 1)], 'x0': [0],
        'y0': [0], 'label': [0], 'file': [str(path)]})
        for number, path in enumerate(paths, 1)])
    planes = {name: np.stack([part[name] for part in parts])
              for name in ('data', 'mask', 'error')}
    psf = None if first['psf'] is None else np.stack(
        [part['psf'] for part in parts])
    # stamps of several fields have no common WCS
    wcs = first['wcs'] if len(parts) == 1 else None
    return Stamps(**planes, segmentation=None, table=table, psf=psf, wcs=wcs)
