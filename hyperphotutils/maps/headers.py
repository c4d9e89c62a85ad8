# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Functions shared by maps and cubes: arguments, unit, and the conversion to
Jy per pixel.
"""

from os import PathLike

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData

from hyperphotutils.maps.cards import read_text
from hyperphotutils.maps.errors import MapError
from hyperphotutils.maps.units import flux_factor, parse_unit
from hyperphotutils.utils.wcs import sky_to_pixel_ellipse_at

__all__ = [
    'as_frequency',
    'calibrate',
    'find_all',
    'find_unit',
    'input_name',
    'multiply_by_factor',
]

# Number of rows that are converted at a time, which bounds the memory for
# the areas of their pixels.
_BLOCK_ROWS = 256


def input_name(path_or_hdu):
    """
    Return a name for an input in messages.

    Parameters
    ----------
    path_or_hdu : object
        The input.

    Returns
    -------
    name : str
        The name of the file, or the type of the object.
    """
    if isinstance(path_or_hdu, str | PathLike):
        return str(path_or_hdu)
    return f'the {type(path_or_hdu).__name__}'


def as_frequency(frequency):
    """
    Check the argument ``frequency``, which may be a wavelength.

    Parameters
    ----------
    frequency : `~astropy.units.Quantity` or None
        The argument.

    Returns
    -------
    frequency : `~astropy.units.Quantity` or None
        The frequency in Hz.
    """
    if frequency is None:
        return None
    if not isinstance(frequency, u.Quantity):
        msg = ('frequency must be a Quantity, such as 230 * u.GHz: got '
               f'{type(frequency).__name__}')
        raise TypeError(msg)
    try:
        frequency = frequency.to(u.Hz, u.spectral())
    except u.UnitConversionError:
        msg = f'frequency must be a frequency or wavelength: got {frequency}'
        raise MapError(msg) from None
    if not (frequency.isscalar and np.isfinite(frequency)
            and frequency > 0):
        msg = f'frequency must be one positive number: got {frequency}'
        raise MapError(msg)
    return frequency


def find_all(*finders):
    """
    Call all functions; return their results, or raise all their errors.

    Parameters
    ----------
    *finders : callable
        Functions without arguments that may raise a `MapError`.

    Returns
    -------
    found : list
        Their results.
    """
    found, problems = [], []
    for find in finders:
        try:
            found.append(find())
        except MapError as error:
            problems.append(str(error))
    if problems:
        raise MapError('; '.join(problems))
    return found


def find_unit(header, unit):
    """
    Find the unit of the values; return it and its original text.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        The header.

    unit : `~astropy.units.UnitBase` or None
        The unit given by the user.

    Returns
    -------
    unit : `~astropy.units.UnitBase`
        The unit.

    text : str
        The unit as spelled in the file.
    """
    if unit is None:
        text = read_text(header, 'BUNIT', remedy='correct it or give unit=')
        if not text:
            msg = ("no BUNIT in the header: give unit=, such as 'Jy/beam' "
                   "or 'Jy/pixel'")
            raise MapError(msg)
        try:
            return parse_unit(text), text
        except MapError as error:
            msg = f'BUNIT: {error}'
            raise MapError(msg) from None
    text = ''
    try:
        text = read_text(header, 'BUNIT')
        stated = parse_unit(text) if text else unit
    except MapError:
        # a unit that cannot be parsed cannot contradict
        stated = unit
    if _per_pixel(stated) != _per_pixel(unit):
        msg = (f"BUNIT = '{text}' contradicts unit='{unit}': drop unit= or "
               'correct BUNIT in the header')
        raise MapError(msg)
    return unit, text or str(unit)


def calibrate(data, wcs, *, areas, unit, beam, beam_area, frequency,
              header, **meta):
    """
    Make an image in Jy per pixel from the values in a file.

    Parameters
    ----------
    data : 2D `~numpy.ndarray` of float
        The values, modified in place.

    wcs : `~astropy.wcs.WCS`
        The celestial WCS.

    areas : `~hyperphotutils.utils.PixelAreas`
        The solid angles of the pixels.

    unit : `~astropy.units.UnitBase`
        The unit of the values.

    beam : `~radio_beam.Beam`
        The beam.

    beam_area : `~astropy.units.Quantity`
        The solid angle used to convert fluxes per beam.

    frequency : callable
        Function that returns the frequency or `None`. It may raise a
        `MapError`, which is ignored unless the frequency is needed.

    header : `~astropy.io.fits.Header`
        The header, for the name of the object.

    **meta
        Additional metadata of the image.

    Returns
    -------
    image : `~astropy.nddata.CCDData`
        The image with the ``meta`` that `read_map` describes.
    """
    try:
        found = frequency()
    except MapError:
        if unit.is_equivalent(u.K):
            raise
        found = None
    multiply_by_factor(data, areas, unit=unit, beam_area=beam_area,
                       frequency=found)
    scale = np.sqrt(areas.center)
    # the metadata of the beam in pixels, at the center of the map
    ny, nx = data.shape
    major, minor, theta = sky_to_pixel_ellipse_at(
        wcs, (nx - 1) / 2, (ny - 1) / 2, beam.major, beam.minor, beam.pa)
    meta = {
        'beam': beam,
        'beam_area_pix': float((beam_area / scale**2).to_value(u.one)),
        'beam_fwhm_pix': float(np.sqrt(major[0] * minor[0])),
        'beam_major_pix': float(major[0]),
        'beam_minor_pix': float(minor[0]),
        'beam_theta': float(theta[0]),
        'pixel_scale': scale,
        'pixel_area_range': areas.range,
        'frequency': found,
        'object': _object_name(header),
        **meta,
    }
    return CCDData(data, unit=u.Jy / u.pix, wcs=wcs,
                   mask=~np.isfinite(data), meta=meta)


def multiply_by_factor(values, areas, *, unit, beam_area, frequency):
    """
    Convert values to Jy per pixel, with the area of each pixel.

    Parameters
    ----------
    values : 2D `~numpy.ndarray` of float
        The values, modified in place. Errors of a map are converted in
        the same way.

    areas : `~hyperphotutils.utils.PixelAreas`
        The solid angles of the pixels.

    unit, beam_area, frequency
        See `~hyperphotutils.maps.flux_factor`.

    Raises
    ------
    MapError
        If the unit is not a flux or brightness, or if the beam or the
        frequency needed for it is missing.
    """
    factor = flux_factor(unit, pixel_area=areas.center, beam_area=beam_area,
                         frequency=frequency)
    per_pixel = _per_pixel(unit).is_equivalent(u.Jy / u.pix)
    with np.errstate(over='ignore', under='ignore', invalid='ignore'):
        values *= factor
        if per_pixel or areas.is_constant:
            return
        # all other units are proportional to the area
        for first in range(0, len(values), _BLOCK_ROWS):
            rows = slice(first, first + _BLOCK_ROWS)
            values[rows] *= areas.relative(rows)


def _object_name(header):
    """
    Return the name of the object, empty if there is none.
    """
    try:
        return read_text(header, 'OBJECT')
    except MapError:
        return ''


def _per_pixel(unit):
    """
    Return the unit with the pixel that is implied in a plain flux.
    """
    return unit / u.pix if unit.is_equivalent(u.Jy) else unit
