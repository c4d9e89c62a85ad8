# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What maps and cubes have in common: the unit, the frequency and the sky
coordinates of a header, and the step from the values to Jy per pixel.
"""

import re
import warnings
from os import PathLike

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.nddata import CCDData
from astropy.wcs import WCS, FITSFixedWarning, WcsError

from hyperphotutils.maps.errors import MapError
from hyperphotutils.maps.units import flux_factor, parse_unit
from hyperphotutils.utils.wcs import sky_to_pixel_ellipse

__all__ = [
    'as_frequency',
    'calibrate',
    'celestial_wcs',
    'find_all',
    'find_sky_axes',
    'find_unit',
    'header_frequency',
    'input_name',
    'rest_frequency',
]

# CD and CDELT of one header may differ by rounding, not by more.
_SCALE_TOLERANCE = 0.01


def input_name(path_or_hdu):
    """
    Return a name for an input in messages.

    Parameters
    ----------
    path_or_hdu : object
        What was given.

    Returns
    -------
    name : str
        The name of the file, or what kind of object it is.
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
    Return the results of all functions, or raise the errors of all.

    Parameters
    ----------
    *finders : callable
        Functions without arguments that may raise a `MapError`.

    Returns
    -------
    found : list
        What they return.
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
    Decide on the unit of the values; return it and its original text.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        The header.

    unit : `~astropy.units.UnitBase` or None
        The unit that the user gives.

    Returns
    -------
    unit : `~astropy.units.UnitBase`
        The unit.

    text : str
        The unit as the file spells it.
    """
    text = str(header.get('BUNIT', '')).strip()
    if unit is None:
        if not text:
            msg = ("no BUNIT in the header: give unit=, such as 'Jy/beam' "
                   "or 'Jy/pixel'")
            raise MapError(msg)
        try:
            return parse_unit(text), text
        except MapError as error:
            msg = f'BUNIT: {error}'
            raise MapError(msg) from None
    try:
        stated = parse_unit(text) if text else unit
    except MapError:
        # what cannot be read cannot contradict
        stated = unit
    if _per_pixel(stated) != _per_pixel(unit):
        msg = (f"BUNIT = '{text}' contradicts unit='{unit}': drop unit= or "
               'correct BUNIT in the header')
        raise MapError(msg)
    return unit, text or str(unit)


def header_frequency(header):
    """
    Find the frequency of a map in its header.

    For a continuum map RESTFRQ is often that of some line in the band:
    the frequency axis, if there is one, tells the band's own.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        The header.

    Returns
    -------
    frequency : `~astropy.units.Quantity` or None
        The frequency in Hz.
    """
    for key in header['CTYPE*']:
        if str(header[key]).upper().startswith('FREQ'):
            axis = key.removeprefix('CTYPE')
            step = header.get(f'CD{axis}_{axis}',
                              header.get(f'CDELT{axis}', 1.0))
            value = (header.get(f'CRVAL{axis}', 0.0)
                     + (1.0 - header.get(f'CRPIX{axis}', 1.0)) * step)
            unit = str(header.get(f'CUNIT{axis}', '')).strip() or 'Hz'
            return _positive_hertz(value, unit, key)
    return rest_frequency(header)


def rest_frequency(header):
    """
    Find the rest frequency of the line in a header.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        The header.

    Returns
    -------
    frequency : `~astropy.units.Quantity` or None
        The frequency in Hz.
    """
    for key in ('RESTFRQ', 'RESTFREQ'):
        if key in header:
            return _positive_hertz(header[key], 'Hz', key)
    return None


def find_sky_axes(header):
    """
    Make the WCS of a header and find its celestial axes.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        The header.

    Returns
    -------
    wcs : `~astropy.wcs.WCS`
        The WCS of all axes.

    lon, lat : int
        The numbers of the celestial axes, counted from 0.
    """
    wcs = _parse_wcs(header)
    lon, lat = wcs.wcs.lng, wcs.wcs.lat
    if min(lon, lat) < 0 or not wcs.has_celestial:
        found = ', '.join(f'{key} = {header[key]!r}'
                          for key in header['CTYPE*'])
        msg = ('no sky coordinates in the header (CTYPE1, CTYPE2 such as '
               f"'RA---TAN', 'DEC--TAN'): found {found or 'none'}")
        raise MapError(msg)
    _check_scale(header, lon + 1, lat + 1)
    return wcs, lon, lat


def celestial_wcs(wcs, shape):
    """
    Return the celestial part of a WCS, which must cover the image.

    Parameters
    ----------
    wcs : `~astropy.wcs.WCS`
        The WCS of all axes.

    shape : tuple of int
        The shape ``(ny, nx)`` of the image.

    Returns
    -------
    wcs : `~astropy.wcs.WCS`
        The WCS of the image.
    """
    celestial = wcs.celestial
    celestial.array_shape = shape
    _check_centre(celestial, shape)
    return celestial


def calibrate(data, wcs, *, unit, scale, beam, beam_area, frequency,
              header, **meta):
    """
    Make an image in Jy per pixel of the values in a file.

    Parameters
    ----------
    data : 2D `~numpy.ndarray` of float
        The values, which are changed in place.

    wcs : `~astropy.wcs.WCS`
        The celestial WCS.

    unit : `~astropy.units.UnitBase`
        The unit of the values.

    scale : `~astropy.units.Quantity`
        The square root of the pixel area.

    beam : `~radio_beam.Beam`
        The beam.

    beam_area : `~astropy.units.Quantity`
        The solid angle to convert fluxes per beam with.

    frequency : `~astropy.units.Quantity` or None
        The frequency.

    header : `~astropy.io.fits.Header`
        The header, for the name of the object.

    **meta
        More of what the image shall know of itself.

    Returns
    -------
    image : `~astropy.nddata.CCDData`
        The image with the ``meta`` that `read_map` describes.
    """
    data *= flux_factor(unit, pixel_area=scale**2, beam_area=beam_area,
                        frequency=frequency)
    meta = {
        **_beam_meta(beam, beam_area, wcs, data.shape, scale),
        'pixel_scale': scale,
        'frequency': frequency,
        'object': str(header.get('OBJECT', '')).strip(),
        **meta,
    }
    return CCDData(data, unit=u.Jy / u.pix, wcs=wcs,
                   mask=~np.isfinite(data), meta=meta)


def _per_pixel(unit):
    """
    Write out the pixel where a flux leaves it out.
    """
    return unit / u.pix if unit.is_equivalent(u.Jy) else unit


def _positive_hertz(value, unit, key):
    """
    Return a frequency of the header, `None` where it says nothing.
    """
    try:
        frequency = u.Quantity(float(value), unit).to(u.Hz)
    except (TypeError, ValueError):
        msg = f'the frequency of {key}, {value!r} {unit}, cannot be read'
        raise MapError(msg) from None
    return frequency if frequency > 0 else None


def _parse_wcs(header):
    """
    Make a WCS of a header, without noise about what astropy mends in it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', FITSFixedWarning)
            # an unreadable card matters only where it is looked up
            warnings.simplefilter('ignore', VerifyWarning)
            wcs = WCS(header)
            wcs.wcs.set()
    except (WcsError, fits.VerifyError) as error:
        lines = [line for line in str(error).splitlines()
                 if line and not line.startswith('ERROR')]
        reason = lines[0].rstrip('.') if lines else type(error).__name__
        msg = (f'the sky coordinates of the header (CTYPE, CRVAL, CDELT, CD, '
               f'PC) cannot be used: {reason}')
        raise MapError(msg) from None
    return wcs


def _check_scale(header, *axes):
    """
    Check that the celestial axes have a reference point and one scale.
    """
    remedy = 'correct the header, and pass the HDU'
    for axis in axes:
        for key in (f'CRVAL{axis}', f'CRPIX{axis}'):
            if not isinstance(header.get(key), int | float):
                msg = f'no number {key} in the header: {remedy}'
                raise MapError(msg)
    matrix = [value for key, value in header.items()
              if re.match(r'CD\d+_\d+$|CD\d{6}$', key)]
    steps = [header.get(f'CDELT{axis}') for axis in axes]
    if not all(isinstance(value, int | float) for value in matrix or steps):
        msg = ('no pixel scale in the header (CDELT1 and CDELT2, or CD1_1 '
               f'to CD2_2): {remedy}')
        raise MapError(msg)
    if matrix:
        _check_matrix(header, axes, steps, remedy)


def _check_matrix(header, axes, steps, remedy):
    """
    Check the CD matrix of the celestial axes, and against CDELT.

    Many headers give both; CDELT = 1 or 0 then is a placeholder.
    """
    cd = [[header.get(f'CD{i}_{j}', header.get(f'CD{i:03}{j:03}', 0.0))
           for j in axes] for i in axes]
    area = abs(np.linalg.det(cd))
    if area == 0.0:
        # wcslib would take an empty row for pixels of one degree
        msg = f'the CD matrix is singular: {remedy}'
        raise MapError(msg)
    stated = None not in steps and not {0.0, 1.0}.issuperset(steps)
    if stated and not np.isclose(area, abs(np.prod(steps)), atol=0.0,
                                 rtol=_SCALE_TOLERANCE):
        one, two = axes
        msg = (f'CDELT{one} and CDELT{two} contradict the CD matrix: '
               f'remove the wrong ones; {remedy}')
        raise MapError(msg)


def _check_centre(wcs, shape):
    """
    Check that the centre of the map lies on the sphere.
    """
    centre = wcs.pixel_to_world_values((shape[1] - 1) / 2,
                                       (shape[0] - 1) / 2)
    if not np.all(np.isfinite(centre)):
        msg = ('the centre of the map lies off the sky: check CRPIX, CDELT '
               'and CTYPE in the header')
        raise MapError(msg)


def _beam_meta(beam, beam_area, wcs, shape, scale):
    """
    Describe the beam in pixels, at the centre of the map.
    """
    ny, nx = shape
    centre = wcs.pixel_to_world((nx - 1) / 2, (ny - 1) / 2)
    _, _, major, minor, theta = sky_to_pixel_ellipse(
        wcs, centre, beam.major, beam.minor, beam.pa)
    return {
        'beam': beam,
        'beam_area_pix': float((beam_area / scale**2).to_value(u.one)),
        'beam_fwhm_pix': float(np.sqrt(major[0] * minor[0])),
        'beam_major_pix': float(major[0]),
        'beam_minor_pix': float(minor[0]),
        'beam_theta': float(theta[0]),
    }
