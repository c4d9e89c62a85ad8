# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Input of the two images with their errors and masks.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.nddata import NDData, StdDevUncertainty
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS

from hyperphotutils.utils.tables import open_nddata, strip_units

if TYPE_CHECKING:
    from hyperphotutils.utils.typing import (
        HDU,
        ArrayOrQuantity,
        FilePath,
        ImageLike,
    )

__all__ = ['ccd_error', 'read_image', 'read_pair']

# Images whose WCSs disagree by more than this many pixels are not aligned;
# the kernel takes up smaller shifts
_MAX_OFFSET = 1.0
# The range of the largest values of an image, so that the squares of its noise
# are far from the limits of single precision.
_SMALLEST, _LARGEST = 1e-12, 1e18


@dataclass
class _Image:
    data: np.ndarray
    error: np.ndarray | None
    mask: np.ndarray | None
    unit: object
    wcs: WCS | None
    # the extensions of its file that errors and mask come from
    origins: dict


def ccd_error(data: FilePath | HDU | ImageLike, gain: float,
              read_noise: float = 0.0, *,
              pedestal: float = 0.0) -> ArrayOrQuantity:
    """
    Calculate the errors of a CCD image from its gain and read noise.

    The variance is that of the counts and that of the read noise,
    ``max(data - pedestal, 0) / gain + (read_noise / gain)**2``. The sky
    must still be in the image.

    Parameters
    ----------
    data : path, HDU, `~astropy.nddata.NDData`, `~astropy.units.Quantity`, \
            or 2D array_like
        The image.

    gain : float
        The number of electrons for each unit of the data.

    read_noise : float, optional
        The read noise in electrons. The default is 0.

    pedestal : float, optional
        What was added to the image, in its unit. The default is 0.

    Returns
    -------
    error : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
        The standard deviations, in the unit of the image.

    Raises
    ------
    ValueError
        If ``gain`` is not positive or ``read_noise`` negative.

    See Also
    --------
    photutils.utils.calc_total_error : The same for an image without sky.

    Examples
    --------
    >>> from hyperphotutils.subtraction import ccd_error
    >>> print(ccd_error([[100.0, 0.0]], gain=4.0, read_noise=8.0).round(2))
    [[5.39 2.  ]]
    """
    gain, read_noise = (float(getattr(value, 'value', value))
                        for value in (gain, read_noise))
    if not 0.0 < gain < np.inf:
        msg = f'gain must be a positive number: {gain!r}'
        raise ValueError(msg)
    if not 0.0 <= read_noise < np.inf:
        msg = f'read_noise must be a number of at least 0: {read_noise!r}'
        raise ValueError(msg)
    image = read_image(data, 'data', alone=True)
    counts = np.maximum(image.data.astype(float)
                        - getattr(pedestal, 'value', pedestal), 0.0)
    error = np.sqrt(counts / gain + (read_noise / gain)**2)
    return error if image.unit is None else error << image.unit


def read_pair(science, template, *, error, template_error, mask,
              template_mask):
    """
    Read both images and check that they belong together.
    """
    science = read_image(science, 'science', error, 'error', mask, 'mask')
    template = read_image(template, 'template', template_error,
                          'template_error', template_mask, 'template_mask')
    if science.data.shape != template.data.shape:
        msg = ('science and template must have the same shape, got '
               f'{science.data.shape} and {template.data.shape}: align them '
               'first, see hyperphotutils.subtraction.align')
        raise ValueError(msg)
    if (science.unit is None) != (template.unit is None):
        msg = ('science and template must both have a unit or none '
               f'(science: {science.unit or "none"}, template: '
               f'{template.unit or "none"})')
        raise ValueError(msg)
    if science.unit is not None and science.unit != template.unit:
        if not template.unit.is_equivalent(science.unit):
            msg = ('science and template must have units of the same kind '
                   f'(science: {science.unit}, template: {template.unit})')
            raise ValueError(msg)
        factor = template.unit.to(science.unit)
        template = replace(
            template, data=template.data * factor, unit=science.unit,
            error=(None if template.error is None
                   else template.error * factor))
    for name, image in (('science', science), ('template', template)):
        good = np.isfinite(image.data)
        if image.mask is not None:
            good &= ~image.mask
        largest = np.max(np.abs(image.data), where=good, initial=0.0)
        if largest > 0.0 and not _SMALLEST < largest < _LARGEST:
            msg = (f'the largest value of {name} is {largest:.2g}, too far '
                   'from 1 for single precision: convert the unit of both '
                   'images and their errors, or multiply them by a factor')
            raise ValueError(msg)
    if all(image.wcs is not None and image.wcs.has_celestial
           for image in (science, template)):
        ny, nx = science.data.shape
        # the largest distance of a linear transformation is at a corner
        x, y = (axis.ravel() for axis in np.meshgrid(
            np.linspace(0, nx - 1, 3), np.linspace(0, ny - 1, 3)))
        sky = science.wcs.celestial.pixel_to_world(x, y)
        other_x, other_y = template.wcs.celestial.world_to_pixel(sky)
        offset = float(np.max(np.hypot(other_x - x, other_y - y)))
        if not offset <= _MAX_OFFSET:
            msg = ('the WCSs of science and template disagree by up to '
                   f'{offset:.1f} pixels: align the template first, see '
                   'hyperphotutils.subtraction.align')
            raise ValueError(msg)
    return science, template


def read_image(data, name, error=None, error_name='error', mask=None,
               mask_name='mask', *, alone=False):
    """
    Read one image with its errors and its mask, named in messages.

    Errors and masks in the file of an image are read, too, unless it is read
    ``alone``.
    """
    opened = _open(data, name, alone=alone, error_given=error is not None,
                   mask_given=mask is not None)
    origins = {} if opened is data else opened.meta
    data = opened
    opened = _open(error, error_name, alone=True)
    if opened is not error and opened.unit is None:
        # a file without BUNIT has the unit of the image
        opened = NDData(opened.data, unit=getattr(data, 'unit', None))
    error = opened
    mask = _open(mask, mask_name, alone=True)
    wcs = None
    if isinstance(data, NDData):
        wcs = data.wcs if isinstance(data.wcs, WCS) else None
    elif isinstance(data, np.ma.MaskedArray):
        hidden = np.ma.getmaskarray(data)
        mask = hidden if mask is None else hidden | np.asarray(mask, bool)
        data = data.data
    # masks and errors can be images, too
    mask = open_nddata(mask)[0]
    mask = getattr(mask, 'value', mask)
    data, mask, error = open_nddata(data, mask, open_nddata(error)[0])
    values, unit = strip_units(**{name: data, error_name: error})
    data = _as_native(values[name], name)
    error = (None if values[error_name] is None
             else _as_native(values[error_name], error_name))
    if mask is not None and mask is not np.ma.nomask:
        # any bit of an integer mask
        mask = np.asarray(mask).astype(bool)
    else:
        mask = None
    for other, label in ((error, error_name), (mask, mask_name)):
        if other is not None and other.shape != data.shape:
            msg = (f'{label} must have the shape of {name}, {data.shape}, '
                   f'got {other.shape}')
            raise ValueError(msg)
    return _Image(data, error, mask, unit, wcs, origins)


def _open(image, name, *, alone, error_given=False, mask_given=False):
    """
    Load an image from a file or an HDU as `~astropy.nddata.NDData`; hand
    through what is no such.
    """
    is_hdu = isinstance(image, fits.HDUList) or (
        hasattr(image, 'header') and hasattr(image, 'data')
        and not isinstance(image, NDData))
    if not isinstance(image, str | PathLike) and not is_hdu:
        return image
    # the maps bring libraries that arrays do not need
    from hyperphotutils.maps import MapError, load_image
    from hyperphotutils.maps.extensions import errors_and_mask
    try:
        loaded = load_image(
            image, masks=not alone,
            error_extension=False if alone or error_given else None)
    except MapError as error:
        where = image if not is_hdu else name
        msg = f'{where}: {error}'
        raise MapError(msg) from None
    unit = None
    text = str(loaded.header.get('BUNIT', '')).strip()
    if text:
        try:
            unit = u.Unit(text)
        except ValueError:
            unit = u.Unit(text.lower(), parse_strict='silent')
        if isinstance(unit, u.UnrecognizedUnit):
            msg = (f'{name}: BUNIT={text!r} is no unit that is known; it is '
                   'ignored')
            warnings.warn(msg, AstropyUserWarning, stacklevel=6)
            unit = None
    with warnings.catch_warnings():
        # keywords that astropy has read in spite of their spelling
        warnings.simplefilter('ignore')
        wcs = WCS(loaded.header)
    *beside, in_mask = errors_and_mask(loaded, unit, mask_given=mask_given)
    arrays = [loaded.data, *beside]
    origins = {}
    if arrays[1] is not None:
        origins['error'] = f'{loaded.error.extension} of the file'
    if arrays[2] is not None:
        origins['mask'] = f'{in_mask} of the file'
    data, error, mask = (
        array if array is None or any(n > 1 for n in array.shape[:-2])
        else array.reshape(array.shape[-2:]) for array in arrays)
    return NDData(
        data, mask=mask, unit=unit, wcs=wcs.celestial if wcs.has_celestial
        else None, uncertainty=None if error is None
        else StdDevUncertainty(error), meta=origins)


def _as_native(data, name):
    """
    Return a 2D array of floats in the byte order of this machine.
    """
    data = np.asarray(data)
    if data.dtype.kind not in 'fiub':
        msg = f'{name} must be an array of real numbers, got {data.dtype}'
        raise TypeError(msg)
    if data.ndim != 2:
        msg = f'{name} must be 2D, got the shape {data.shape}'
        raise ValueError(msg)
    if data.dtype.kind != 'f':
        return data.astype(np.float32 if data.dtype.itemsize < 3 else float)
    if data.dtype.itemsize < 4:
        return data.astype(np.float32)
    return data if data.dtype.isnative else data.astype(
        data.dtype.newbyteorder('='))
