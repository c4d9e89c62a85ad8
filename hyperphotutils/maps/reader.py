# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reading a map into Jy per pixel, with its sky coordinates and beam.
"""

import re
import warnings
from functools import partial

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.nddata import CCDData
from astropy.wcs import WCS, FITSFixedWarning, WcsError

from hyperphotutils.maps.beams import find_beam
from hyperphotutils.maps.errors import MapError
from hyperphotutils.maps.images import load_image
from hyperphotutils.maps.surveys import get_survey
from hyperphotutils.maps.units import flux_factor, parse_unit
from hyperphotutils.utils.wcs import pixel_scale, sky_to_pixel_ellipse

__all__ = ['read_map']

# CD and CDELT of one header may differ by rounding, not by more.
_SCALE_TOLERANCE = 0.01


def read_map(path_or_hdu, *, ext=None, beam=None, unit=None, survey=None,
             frequency=None):
    """
    Read a map.

    The values come out in Jy per pixel, whatever the unit in the file.
    What the header lacks is supplied by the arguments; what it states
    wrongly or twice over is an error rather than a guess.

    Parameters
    ----------
    path_or_hdu : str, path-like, `~astropy.io.fits.HDUList` or HDU
        The FITS file, or what was read from one.

    ext : int, str or tuple, optional
        The extension: its number, its name, or its name and version. If
        `None`, the only image, else the one named IMAGE, SCI, SIGNAL,
        FLUX or DATA, else the primary one. Ignored where an HDU is
        given.

    beam : `~radio_beam.Beam` or `~astropy.units.Quantity`, optional
        The beam, or the full width at half maximum of a round beam. If
        `None`, it is taken from the header: ``BMAJ``, ``BMIN``,
        ``BPA``, or what AIPS or CASA wrote to the ``HISTORY``.

    unit : str or `~astropy.units.UnitBase`, optional
        The unit of the values in the file. If `None`, it is taken from
        ``BUNIT``. A plain ``'Jy'`` means Jy per pixel.

    survey : str or int, optional
        The survey that the map belongs to (see
        `~hyperphotutils.maps.SURVEYS`), whose beam serves where the
        header has none. Where the survey has a published beam area,
        that area is used to convert values per beam.

    frequency : `~astropy.units.Quantity`, optional
        The frequency (or wavelength), needed to convert a brightness
        temperature. If `None`, it is taken from the header's ``FREQ``
        axis or, without one, from ``RESTFRQ``.

    Returns
    -------
    image : `~astropy.nddata.CCDData`
        The map: ``data`` as float64 in Jy/pixel, ``wcs`` with the two
        celestial axes, ``mask``, which is `True` where the value is not
        finite, and ``meta``, a dictionary of

        * ``'beam'``: the `~radio_beam.Beam`;
        * ``'beam_area_pix'``: the beam's area in pixels, as used for
          values per beam;
        * ``'beam_fwhm_pix'``: the geometric mean of its axes in pixels;
        * ``'beam_major_pix'``, ``'beam_minor_pix'``: its axes in pixels;
        * ``'beam_theta'``: the angle of its major axis in degrees
          counter-clockwise from +x, as a float;
        * ``'pixel_scale'``: the square root of the pixel area at the
          centre of the map, as an angle in arcsec;
        * ``'original_unit'``: the unit in the file, as a string;
        * ``'frequency'``: the frequency, or `None` if it is unknown;
        * ``'survey'``: the name of the survey, or `None`;
        * ``'object'``: the object's name, or an empty string;
        * ``'filename'``: the file's name, or `None`;
        * ``'extension'``: the extension's number and name.

    Raises
    ------
    MapError
        If there is no map, or if its unit, beam or sky coordinates are
        missing, wrong or contradictory.

    TypeError
        If an argument is of a wrong kind.

    Notes
    -----
    Axes of length 1 beside the celestial ones are dropped. The area of
    a Gaussian beam is :math:`\\pi / (4 \\ln 2)` times the product of its
    axes. Temperatures are converted in the Rayleigh-Jeans limit,
    :math:`S = 2 k \\nu^2 T / c^2` per steradian.

    A ``unit`` or ``beam`` that contradicts a valid one in the header is
    an error: a wrong header is better corrected once than overridden
    each time. Correct the header of an open HDU, and pass the HDU.

    Examples
    --------
    >>> import astropy.units as u
    >>> import numpy as np
    >>> from astropy.io import fits
    >>> from hyperphotutils.maps import read_map
    >>> header = fits.Header()
    >>> header['CTYPE1'], header['CTYPE2'] = 'RA---TAN', 'DEC--TAN'
    >>> header['CRVAL1'], header['CRVAL2'] = 83.8, -5.4
    >>> header['CRPIX1'], header['CRPIX2'] = 25.5, 25.5
    >>> header['CDELT1'], header['CDELT2'] = -0.001, 0.001
    >>> header['BUNIT'] = 'MJy/sr'
    >>> hdu = fits.PrimaryHDU(np.ones((50, 50)), header)
    >>> image = read_map(hdu, beam=18 * u.arcsec)
    >>> print(f'{image.data[0, 0]:.3e} {image.unit}')
    3.046e-04 Jy / pix
    >>> print(f"{image.meta['beam_fwhm_pix']:.2f}")
    5.00
    """
    if survey is not None:
        survey = get_survey(survey)
    if unit is not None:
        unit = parse_unit(unit)
    frequency = _as_frequency(frequency)
    name = _name(path_or_hdu)
    try:
        image = load_image(path_or_hdu, ext=ext)
        name = image.filename or name
        return _make_map(image, beam=beam, unit=unit, survey=survey,
                         frequency=frequency)
    except (MapError, fits.VerifyError) as error:
        msg = f'{name}: {error}'
        raise MapError(msg) from None


def _name(path_or_hdu):
    """
    Return a name for the input in messages.
    """
    if isinstance(path_or_hdu, list) or hasattr(path_or_hdu, 'header'):
        return f'the {type(path_or_hdu).__name__}'
    return str(path_or_hdu)


def _as_frequency(frequency):
    """
    Check the argument ``frequency``, which may be a wavelength.
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


def _make_map(image, *, beam, unit, survey, frequency):
    """
    Make a map of an image as it lies in the file.
    """
    header = image.header
    wcs, data = _celestial_image(image.data, header)
    scale = pixel_scale(wcs, data.shape)
    # what is wrong with both is told at once
    (unit, original_unit), (beam, beam_area) = _find_all(
        partial(_find_unit, header, unit),
        partial(find_beam, header, pixel_scale=scale, shape=data.shape,
                beam=beam, survey=survey, beams_table=image.beams_table))
    if frequency is None:
        frequency = _header_frequency(header)
    data *= flux_factor(unit, pixel_area=scale**2, beam_area=beam_area,
                        frequency=frequency)
    mask = ~np.isfinite(data)
    if mask.all():
        msg = f'extension {image.extension} has no finite value'
        raise MapError(msg)
    meta = {
        **_beam_meta(beam, beam_area, wcs, data.shape, scale),
        'pixel_scale': scale,
        'original_unit': original_unit,
        'frequency': frequency,
        'survey': None if survey is None else survey.name,
        'object': str(header.get('OBJECT', '')).strip(),
        'filename': image.filename,
        'extension': image.extension,
    }
    return CCDData(data, unit=u.Jy / u.pix, wcs=wcs, mask=mask, meta=meta)


def _find_all(*finders):
    """
    Return the results of all functions, or raise the errors of all.
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


def _find_unit(header, unit):
    """
    Decide on the unit of the values; return it and its original text.
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


def _per_pixel(unit):
    """
    Write out the pixel where a flux leaves it out.
    """
    return unit / u.pix if unit.is_equivalent(u.Jy) else unit


def _header_frequency(header):
    """
    Find the frequency of a map in its header.

    For a continuum map RESTFRQ is often that of some line in the band:
    the frequency axis, if there is one, tells the band's own.
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
    for key in ('RESTFRQ', 'RESTFREQ'):
        if key in header:
            return _positive_hertz(header[key], 'Hz', key)
    return None


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


def _celestial_image(data, header):
    """
    Return the celestial part of the WCS and the 2-D image on it.
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
    lengths = dict(enumerate(data.shape[::-1]))
    others = {axis: n for axis, n in lengths.items()
              if axis not in {lon, lat}}
    if any(n > 1 for n in others.values()):
        axis, n = max(others.items(), key=lambda item: item[1])
        ctype = str(header.get(f'CTYPE{axis + 1}', '')).strip()
        plane = ', '.join('0' * (data.ndim - 2))
        msg = (f'a cube, not a map: axis {axis + 1} ({ctype or "no CTYPE"}) '
               f'has {n} planes; take one in Python: read_map('
               f'fits.PrimaryHDU(cube[{plane}], header)), or '
               f"fits.writeto('plane.fits', cube[{plane}], header)")
        raise MapError(msg)
    if max(lon, lat) >= data.ndim:
        msg = (f'the sky coordinates are on axes {lon + 1} and {lat + 1}, '
               f'but the data have {data.ndim} axes')
        raise MapError(msg)
    shape = [lengths[axis] for axis in sorted([lon, lat], reverse=True)]
    data = data.reshape(shape)
    celestial = wcs.celestial
    celestial.array_shape = data.shape
    _check_centre(celestial, data.shape)
    return celestial, data


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
