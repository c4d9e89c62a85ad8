# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Functions shared by maps and cubes: arguments, unit, and the conversion to
Jy per pixel.
"""

from contextlib import suppress
from os import PathLike

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData

from hyperphotutils.maps.cards import read_text
from hyperphotutils.maps.errors import MapError
from hyperphotutils.maps.units import flux_factor, parse_unit
from hyperphotutils.utils.stored import StoredImage, row_blocks
from hyperphotutils.utils.wcs import sky_to_pixel_ellipse_at

__all__ = [
    'as_frequency',
    'calibrate',
    'find_all',
    'find_unit',
    'input_name',
    'multiply_by_factor',
]


def input_name(path_or_hdu):
    """
    Return the name of a file, or the type of an object, for messages.
    """
    if isinstance(path_or_hdu, str | PathLike):
        return str(path_or_hdu)
    return f'the {type(path_or_hdu).__name__}'


def as_frequency(frequency):
    """
    Return the argument ``frequency``, which may be a wavelength or `None`,
    in Hz.
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
    Return the unit of the values, that given by the user or that of the
    header, and its text in the file.
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
    # Jy and Jy/pixel are the same for a map, and no contradiction
    if _per_pixel(stated) != _per_pixel(unit):
        msg = (f"BUNIT = '{text}' contradicts unit='{unit}': drop unit= or "
               'correct BUNIT in the header')
        raise MapError(msg)
    return unit, text or str(unit)


def calibrate(data, wcs, *, areas, unit, beam, beam_area, frequency,
              header, **meta):
    """
    Return an image in Jy per pixel with the ``meta`` that `read_map`
    describes.

    The values, which can be a `~hyperphotutils.utils.StoredImage`, are
    modified in place. ``areas`` are the
    `~hyperphotutils.utils.PixelAreas`, and ``beam_area`` is the solid angle
    used to convert fluxes per beam. ``frequency`` is a function that
    returns the frequency or `None`; a `MapError` that it raises is ignored
    unless the frequency is needed. The header has the name of the object.
    """
    # (radio_beam is slow to import)
    from hyperphotutils.maps.copyable import CopyableBeam

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
    name = ''
    with suppress(MapError):
        name = read_text(header, 'OBJECT')
    meta = {
        'beam': CopyableBeam(beam.major, beam.minor, beam.pa),
        'beam_area_pix': float((beam_area / scale**2).to_value(u.one)),
        'beam_fwhm_pix': float(np.sqrt(major[0] * minor[0])),
        'beam_major_pix': float(major[0]),
        'beam_minor_pix': float(minor[0]),
        'beam_theta': float(theta[0]),
        'pixel_scale': scale,
        'pixel_area_range': areas.range,
        'frequency': found,
        'object': name,
        **meta,
    }
    values, mask = data, np.empty((ny, nx), dtype=bool)
    if isinstance(data, StoredImage):
        # the mask is in a file, too
        mask = StoredImage.create(data.path.with_suffix('.mask'), data.shape,
                                  bool)
        values = data.map()
    for rows in row_blocks(data.shape):
        mask[rows] = ~np.isfinite(data[rows])
    if isinstance(mask, StoredImage):
        mask = mask.map()
    return CCDData(values, unit=u.Jy / u.pix, wcs=wcs, mask=mask, meta=meta)


def multiply_by_factor(values, areas, *, unit, beam_area, frequency):
    """
    Convert values, or errors, to Jy per pixel with the area of each pixel,
    in place.

    The unit, beam area, and frequency are those of
    `~hyperphotutils.maps.flux_factor`. Raises a `MapError` if the unit is
    not a flux or brightness, or if what it needs is missing.
    """
    factor = flux_factor(unit, pixel_area=areas.center, beam_area=beam_area,
                         frequency=frequency)
    per_pixel = _per_pixel(unit).is_equivalent(u.Jy / u.pix)
    # in place and in blocks: large maps may be in files
    with np.errstate(over='ignore', under='ignore', invalid='ignore'):
        for rows in row_blocks(values.shape):
            part = values[rows]
            part *= factor
            # all other units are proportional to the area
            if not (per_pixel or areas.is_constant):
                part *= areas.relative(rows)
            values[rows] = part


def _per_pixel(unit):
    """
    Return the unit with the pixel that is implied in a plain flux.
    """
    return unit / u.pix if unit.is_equivalent(u.Jy) else unit
