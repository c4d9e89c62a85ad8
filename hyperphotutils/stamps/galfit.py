# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Files for GALFIT and GalfitS.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from astropy.wcs.utils import proj_plane_pixel_scales
from photutils.segmentation import SegmentationImage, SourceCatalog

from hyperphotutils.utils.output import atomic_output

if TYPE_CHECKING:
    from hyperphotutils.stamps.stamps import Stamps
    from hyperphotutils.utils.typing import FilePath

__all__ = ['write_galfit', 'write_galfits']

# Bounds of GALFIT's constraint file: without them, faint sources run to
# sizes and indices that no galaxy has.
_CONSTRAINTS = {'n': (0.2, 8.0), 'q': (0.05, 1.0)}


_FEEDME = """\
# IMAGE and GALFIT CONTROL PARAMETERS
A) {name}_image.fits
B) {name}_model.fits
C) {sigma}
D) {psf}
E) 1
F) {mask}
G) {name}.constraints
H) 1 {size} 1 {size}
I) {size} {size}
J) {zero_point:.4f}
K) {pixel_scale:.6f} {pixel_scale:.6f}
O) regular
P) 0

# Object 1: the source
 0) sersic
 1) {x:.3f} {y:.3f} 1 1
 3) {magnitude:.4f} 1
 4) {radius:.3f} 1
 5) 2.0 1
 9) {q:.3f} 1
10) {angle:.2f} 1
 Z) 0

# Object 2: the sky
 0) sky
 1) 0.0 1
 2) 0.0 0
 3) 0.0 0
 Z) 0
"""


def write_galfits(stamps: Stamps, number: int, path: FilePath, *,
                  mask_neighbors: bool = True,
                  overwrite: bool = False) -> None:
    """
    Write one stamp as GalfitS reads it.

    Parameters
    ----------
    stamps : `Stamps`
        The stamps.

    number : int
        The number of the stamp.

    path : str or `~pathlib.Path`
        The name of the FITS file. Its extensions are: 0 the image, 1
        the mask (1 for bad pixels), 2 the errors, and 3 the PSF.

    mask_neighbors : bool, optional
        Whether the segments of other sources are masked.

    overwrite : bool, optional
        Whether an existing file may be replaced.

    Raises
    ------
    ValueError
        If the stamps have no errors or no PSF.
    """
    missing = [name for name in ('error', 'psf')
               if getattr(stamps, name) is None]
    if missing:
        msg = (f'GalfitS needs {" and ".join(missing)}: give it to '
               'make_stamps')
        raise ValueError(msg)
    data, error, mask = _planes(stamps, number, mask_neighbors)
    header = _header(stamps, number)
    hdus = fits.HDUList([
        fits.PrimaryHDU(data, header=header),
        fits.ImageHDU(mask.astype(np.int16), header=header, name='MASK'),
        fits.ImageHDU(error, header=header, name='SIGMA'),
        fits.ImageHDU(stamps.stamp_psf(number), name='PSF')])
    with atomic_output(path, overwrite=overwrite) as temporary:
        hdus.writeto(temporary)


def write_galfit(stamps: Stamps, number: int, folder: FilePath, *,
                 zero_point: float | None = None,
                 pixel_scale: float | None = None,
                 exposure: float | None = None, mask_neighbors: bool = True,
                 overwrite: bool = False) -> Path:
    """
    Write one stamp and the parameter file with which GALFIT fits it.

    Parameters
    ----------
    stamps : `Stamps`
        The stamps.

    number : int
        The number of the stamp.

    folder : str or `~pathlib.Path`
        The folder of the files, which is made if need be. They are named
        after the stamp, as ``00_0001.feedme``, ``00_0001_image.fits``,
        ``_sigma``, ``_mask``, ``_psf``, and ``00_0001.constraints``.
        GALFIT has to be run in this folder.

    zero_point : float, optional
        The magnitude of one count a second. The default is that of
        ``stamps.meta``.

    pixel_scale : float, optional
        The size of a pixel in arcseconds. The default is that of the
        WCS, or of ``stamps.meta``.

    exposure : float, optional
        The exposure time, by which GALFIT divides the counts (EXPTIME).
        The default is that of ``stamps.meta``, or 1 for rates.

    mask_neighbors : bool, optional
        Whether the segments of other sources are masked.

    overwrite : bool, optional
        Whether existing files may be replaced.

    Returns
    -------
    path : `~pathlib.Path`
        The parameter file.

    Raises
    ------
    ValueError
        If the zero point is not known, or the stamp has no usable
        pixel.

    Notes
    -----
    The initial values of the Sersic profile are moments of the source's
    segment (of the central quarter without one). In GALFIT, positions
    begin at 1, angles at the positive y axis, and radii are half-light
    radii along the major axis (Peng et al. 2010, AJ 139, 2097).
    """
    zero_point = _value(zero_point, stamps.meta.get('zero_point'))
    if zero_point is None:
        msg = ('zero_point must be given, or be in the meta of the stamps: '
               'GALFIT measures magnitudes')
        raise ValueError(msg)
    exposure = _value(exposure, stamps.meta.get('exposure'), 1.0)
    if pixel_scale is None and stamps.wcs is not None:
        pixel_scale = 3600.0 * float(np.sqrt(np.prod(
            proj_plane_pixel_scales(stamps.wcs.celestial))))
    pixel_scale = _value(pixel_scale, stamps.meta.get('pixel_scale'), 1.0)
    data, error, mask = _planes(stamps, number, mask_neighbors)
    if mask.all():
        msg = f'stamp {number} has no usable pixel'
        raise ValueError(msg)
    name = str(stamps.table['name'][number])
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    header = _header(stamps, number)
    # GALFIT divides by it before it converts counts to magnitudes
    header['EXPTIME'] = float(exposure)
    images = {'image': (data, header), 'mask': (mask.astype(np.int16), None)}
    if error is not None:
        images['sigma'] = (error, None)
    psf = stamps.stamp_psf(number)
    if psf is not None:
        images['psf'] = (psf, None)
    for kind, (image, own) in images.items():
        with atomic_output(folder / f'{name}_{kind}.fits',
                           overwrite=overwrite) as temporary:
            fits.PrimaryHDU(image, header=own).writeto(temporary)
    start = _start_values(stamps, number, data, mask)
    texts = {
        'feedme': _FEEDME.format(
            name=name, size=stamps.size, zero_point=zero_point,
            pixel_scale=pixel_scale,
            magnitude=zero_point - 2.5 * np.log10(start['flux'] / exposure),
            **{kind: f'{name}_{kind}.fits' if kind in images else 'none'
               for kind in ('sigma', 'psf', 'mask')}, **start),
        'constraints': ''.join(
            f'1   {key}   {lower} to {upper}\n'
            for key, (lower, upper) in _CONSTRAINTS.items()),
    }
    for suffix, text in texts.items():
        with atomic_output(folder / f'{name}.{suffix}',
                           overwrite=overwrite) as temporary:
            temporary.write_text(text, encoding='utf-8')
    return folder / f'{name}.feedme'


def _value(*values):
    """
    Return the first value that is not None.
    """
    return next((value for value in values if value is not None), None)


def _planes(stamps, number, mask_neighbors):
    """
    Return image, errors, and mask of one stamp; masked pixels are
    finite.
    """
    mask = stamps.mask[number].copy()
    if mask_neighbors:
        mask |= stamps[number].neighbors()[0]
    data = np.where(np.isfinite(stamps.data[number]), stamps.data[number],
                    np.float32(0.0))
    if stamps.error is None:
        return data, None, mask
    error = stamps.error[number]
    good = np.isfinite(error) & (error > 0)
    mask |= ~good
    # a large, finite error: some programs divide before they mask
    highest = error[good].max() if good.any() else np.float32(1.0)
    return data, np.where(good, error, np.float32(1e6) * highest), mask


def _header(stamps, number):
    """
    Return the header of one stamp with its coordinates.
    """
    wcs = stamps.stamp_wcs(number)
    header = fits.Header() if wcs is None else wcs.to_header(relax=True)
    row = stamps.table[number]
    header['OBJECT'] = str(row['name'])
    header['X0'] = (int(row['x0']), 'first column in the image, from 0')
    header['Y0'] = (int(row['y0']), 'first row in the image, from 0')
    if stamps.unit is not None:
        header['BUNIT'] = stamps.unit.to_string()
    return header


def _start_values(stamps, number, data, mask):
    """
    Measure where the source is, and how large, in the terms of GALFIT.
    """
    x, y = stamps.positions[number]
    segment = np.zeros(data.shape, dtype=np.int32)
    label = int(stamps.table['label'][number])
    if stamps.segmentation is not None and label > 0:
        segment[stamps.segmentation[number] == label] = 1
    if not (segment * ~mask).any():
        # without a segment, the central quarter: GALFIT needs a start that
        # is neither a pixel nor the whole stamp
        half = max(stamps.size // 8, 2)
        segment[max(round(y) - half, 0):round(y) + half + 1,
                max(round(x) - half, 0):round(x) + half + 1] = 1
    source = SourceCatalog(data, SegmentationImage(segment), mask=mask)[0]
    flux = float(source.segment_flux)
    # half of the light of a Gaussian is within 1.18 standard deviations
    radius, q, theta = (
        value if np.isfinite(value) else fallback for value, fallback in (
            (float(source.semimajor_axis.value) * 1.2, 3.0),
            (1.0 - float(source.ellipticity.value), 0.8),
            (float(source.orientation.value), 0.0)))
    # GALFIT counts pixels from 1, and the angle from the y axis,
    # counterclockwise
    return {'x': float(x) + 1.0, 'y': float(y) + 1.0, 'flux': max(flux, 1e-6),
            'radius': max(radius, 0.5), 'q': float(np.clip(q, 0.1, 1.0)),
            'angle': theta % 180.0 - 90.0}
