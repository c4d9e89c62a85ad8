# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reading of a map in Jy per pixel, with its sky coordinates and beam.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.nddata import StdDevUncertainty
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import DTypeLike

from hyperphotutils.maps.beams import find_beam
from hyperphotutils.maps.errors import MapError
from hyperphotutils.maps.extensions import (
    INVERTED,
    join_masks,
    standard_deviations,
    warn_unused,
)
from hyperphotutils.maps.headers import (
    as_frequency,
    calibrate,
    find_all,
    find_unit,
    input_name,
    multiply_by_factor,
)
from hyperphotutils.maps.images import load_image
from hyperphotutils.maps.nodata import (
    as_fill_value,
    blank_fill_values,
    blank_masked,
)
from hyperphotutils.maps.sky import celestial_wcs, find_sky_axes
from hyperphotutils.maps.spectral import header_frequency
from hyperphotutils.maps.surveys import get_survey
from hyperphotutils.maps.units import parse_unit
from hyperphotutils.utils.areas import PixelAreas
from hyperphotutils.utils.stored import FULL

if TYPE_CHECKING:
    from astropy.nddata import CCDData
    from radio_beam import Beam

    from hyperphotutils.utils.typing import HDU, FilePath

__all__ = ['read_map']


def read_map(path_or_hdu: FilePath | fits.HDUList | HDU, *,
             ext: int | str | tuple | None = None,
             beam: Beam | u.Quantity | None = None,
             unit: str | u.UnitBase | None = None,
             survey: str | int | None = None,
             frequency: u.Quantity | None = None,
             fill_value: float | Sequence[float] | np.ndarray | Literal[False]
                 | None = None,
             error_extension: int | str | tuple | Literal[False] | None = None,
             dtype: DTypeLike = float,
             measured_beam: Callable | None = None) -> CCDData:
    """
    Read a map.

    The values are returned in Jy per pixel, for any unit in the file.
    The arguments supply what the header lacks; wrong or contradictory
    keywords are errors, and nothing is guessed.

    Parameters
    ----------
    path_or_hdu : str, path-like, `~astropy.io.fits.HDUList` or HDU
        The FITS file, or an opened one.

    ext : int, str or tuple, optional
        The extension: its number, its name, or its name and version. If
        `None`, the only image, else the one named IMAGE, SCI, SIGNAL,
        FLUX or DATA, else the primary one. Images of errors, weights,
        coverage, exposure, masks, flags and backgrounds are never used.
        Ignored if an HDU is given.

    beam : `~radio_beam.Beam` or `~astropy.units.Quantity`, optional
        The beam, or the full width at half maximum of a round beam. If
        `None`, it is taken from the header: ``BMAJ``, ``BMIN``,
        ``BPA``, or what AIPS or CASA wrote to the ``HISTORY``.

    unit : str or `~astropy.units.UnitBase`, optional
        The unit of the values in the file. If `None`, it is taken from
        ``BUNIT``. A plain ``'Jy'`` means Jy per pixel.

    survey : str or int, optional
        The survey of the map (see `~hyperphotutils.maps.SURVEYS`), whose
        beam is used if the header has none. If the survey has a
        published beam area, that area is used to convert values per
        beam.

    frequency : `~astropy.units.Quantity`, optional
        The frequency (or wavelength), needed to convert a brightness
        temperature. If `None`, it is taken from the header's spectral
        axis (for velocities, with ``RESTFRQ``) or, without one, from
        ``RESTFRQ``.

    fill_value : float, sequence of float, `None`, or `False`, optional
        The values that mark missing data, in the unit of the file. If
        `None`, they are recognized by
        `~hyperphotutils.noise.find_fill_values`, such as zeros around
        the observed field. With `False`, all finite values are data.

    error_extension : int, str, tuple, `None`, or `False`, optional
        The extension with the errors of the map: its number, its name,
        or its name and version. If `None`, it is recognized by its name:
        ERR, ERROR, STDDEV, SIGMA, RMS, UNCERT or VAR (variances), also
        with the number in the name of the map. The keyword UTYPE of
        `~astropy.nddata.CCDData` states another kind of errors. With
        `False`, the map is read without errors. A missing unit is taken
        from the map.

    dtype : dtype, optional
        The type of the values. The default is float64; float32 saves
        memory.

    measured_beam : callable, optional
        Called with the WCS and the shape of the map, it returns the
        FWHMs of the measured beam as a `~radio_beam.Beam`, and its solid
        angle. They are used in place of those of the header, ``beam``,
        and ``survey``, which must agree with the FWHM to 20 percent.

    Returns
    -------
    image : `~astropy.nddata.CCDData`
        The map: ``data`` in Jy/pixel, NaN where there are no
        data and where the file masks them, ``wcs`` with the two
        celestial axes, ``mask``, which is `True` where the value is not
        finite, ``uncertainty``, the
        standard deviations as a `~astropy.nddata.StdDevUncertainty`, NaN
        where they are not positive, or `None` if the file has none, and
        ``meta``, a dictionary of

        * ``'beam'``: the `~radio_beam.Beam`;
        * ``'beam_area_pix'``: the beam's area in pixels at the center of
          the map, as used for values per beam;
        * ``'beam_fwhm_pix'``: the geometric mean of its axes in pixels,
          at the center;
        * ``'beam_major_pix'``, ``'beam_minor_pix'``: its axes in pixels,
          at the center;
        * ``'beam_theta'``: the angle of its major axis in degrees
          counterclockwise from +x, as a float, at the center;
        * ``'pixel_scale'``: the square root of the pixel area at the
          center of the map, as an angle in arcsec;
        * ``'pixel_area_range'``: the smallest and the largest pixel area
          in units of that at the center, (1.0, 1.0) where all agree to
          1e-4;
        * ``'original_unit'``: the unit in the file, as a string;
        * ``'frequency'``: the frequency, or `None` if it is unknown;
        * ``'survey'``: the name of the survey, or `None`;
        * ``'object'``: the object's name, or an empty string;
        * ``'filename'``: the file's name, or `None`;
        * ``'extension'``: the extension's number and name;
        * ``'error_extension'``: the extension of the errors, or `None`;
        * ``'mask_extension'``: the extension of the mask, or `None`;
        * ``'n_masked'``: the number of pixels that it masks;
        * ``'unused_masks'``: the extensions with masks or bit flags that
          are not used, or `None`;
        * ``'fill_values'``: the fill values found;
        * ``'n_fill'``: the number of pixels with a fill value.

    Raises
    ------
    MapError
        If there is no map, or if its unit, beam or sky coordinates are
        missing, wrong or contradictory.

    TypeError
        If an argument has a wrong type.

    Notes
    -----
    An extension MASK that belongs to the map masks all pixels in which
    it is not 0, as in the files of `~astropy.nddata.CCDData`. It has the
    number and the version (``EXTVER``) of the map, such as MASK_2 for
    SCI_2, or also its name, such as SCI_MASK; a mask for which the file
    has no image is not used, with a warning. Masks of sources
    (SOURCE_MASK) are not masks of bad pixels.

    The values of a MASK, of any data type, are 0 at good pixels and
    either 1 or 255 at all bad ones. Bit flags are not used, as some may
    mark good pixels, and a warning names them: DQ, FLAGS, QUALITY, or a
    MASK with any other value, NaN included, even if it is the only one.
    A mask that takes more than half of the values of the map is used
    with a warning. Pass the HDU of the map to read it without its other
    extensions.

    Axes of length 1 other than the celestial axes are dropped, and their
    keywords are ignored. Sky coordinates are read by astropy: any
    projection, with SIP or TPV distortions, in ICRS, FK5, FK4, Galactic,
    ecliptic, or supergalactic coordinates. Values are converted with the
    solid angle of each pixel, which varies over wide maps. The area of
    a Gaussian beam is :math:`\\pi / (4 \\ln 2)` times the product of its
    axes. Temperatures are converted in the Rayleigh-Jeans limit,
    :math:`S = 2 k \\nu^2 T / c^2` per steradian.

    A ``unit`` or ``beam`` that contradicts a valid one in the header is
    an error: correct the header once rather than override it in each
    call. To do so, modify the header of an opened HDU, and pass the HDU.

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
    return read_map_to_file(
        path_or_hdu, None, ext=ext, beam=beam, unit=unit, survey=survey,
        frequency=frequency, fill_value=fill_value,
        error_extension=error_extension, dtype=dtype,
        measured_beam=measured_beam)


def read_map_to_file(path_or_hdu, file, *, ext=None, unit=None, survey=None,
                     frequency=None, fill_value=None, error_extension=None,
                     dtype=float, **options):
    """
    Read a map as `read_map` does, but with the values in a new file, and a
    part of them in memory at a time.
    """
    if survey is not None:
        survey = get_survey(survey)
    if unit is not None:
        unit = parse_unit(unit)
    frequency = as_frequency(frequency)
    fill_value = as_fill_value(fill_value)
    name = input_name(path_or_hdu)
    try:
        image = load_image(path_or_hdu, ext=ext, dtype=dtype, file=file,
                           error_extension=error_extension, masks=True)
        name = image.filename or name
        return _make_map(image, unit=unit, survey=survey,
                         frequency=frequency, fill_value=fill_value,
                         **options)
    except (MapError, fits.VerifyError) as error:
        msg = f'{name}: {error}'
        raise MapError(msg) from None
    except OSError as error:
        # the temporary file, whose name the user never chose
        if error.errno not in FULL:
            raise
        raise OSError(error.errno, f'{name}: {error.strerror}') from None


def _make_map(image, *, unit, survey, frequency, fill_value, beam=None,
              measured_beam=None):
    header, data = image.header, image.data
    lon, lat = find_sky_axes(header)
    lengths = dict(enumerate(data.shape[::-1]))
    n, axis = max(((n, axis) for axis, n in lengths.items()
                   if axis not in {lon, lat}), default=(1, None))
    if n > 1:
        ctype = str(header.get(f'CTYPE{axis + 1}', '')).strip()
        plane = ', '.join('0' * (data.ndim - 2))
        msg = (f'a cube, not a map: axis {axis + 1} ({ctype or "no CTYPE"}) '
               f'has {n} planes; read it with read_cube, or take one in '
               f'Python: read_map(fits.PrimaryHDU(cube[{plane}], header)), '
               f"or fits.writeto('plane.fits', cube[{plane}], header)")
        raise MapError(msg)
    if max(lon, lat) >= data.ndim:
        msg = (f'the sky coordinates are on axes {lon + 1} and {lat + 1}, '
               f'but the data have {data.ndim} axes')
        raise MapError(msg)
    if data.ndim > 2:
        data = data.reshape([lengths[axis] for axis
                             in sorted([lon, lat], reverse=True)])
    wcs = celestial_wcs(header, data.shape)
    areas = PixelAreas(wcs, data.shape)
    scale = np.sqrt(areas.center)
    measured = (None if measured_beam is None
                else measured_beam(wcs, data.shape))
    # report a missing unit and a missing beam in one error
    (unit, original_unit), (beam, beam_area) = find_all(
        partial(find_unit, header, unit),
        partial(find_beam, header, pixel_scale=scale, shape=data.shape,
                beam=beam, survey=survey, beams_table=image.beams_table,
                measured=measured))
    fwhm = np.sqrt(beam.major * beam.minor) / scale
    # masked pixels first: their values say nothing
    masked = _blank_masked(image, data)
    filled = blank_fill_values(data, fill_value, fwhm.to_value(u.one))
    made = calibrate(
        data, wcs, areas=areas, unit=unit, beam=beam, beam_area=beam_area,
        frequency=(partial(header_frequency, header) if frequency is None
                   else lambda: frequency),
        header=header, original_unit=original_unit,
        survey=None if survey is None else survey.name,
        filename=image.filename, extension=image.extension,
        error_extension=image.error and image.error.extension, **masked,
        **filled)
    if made.mask.all():
        raise MapError(_describe_blank(made.meta))
    if image.error is not None:
        errors = standard_deviations(
            image.error, data.shape, unit,
            remedy='give another error_extension, or False for none')
        multiply_by_factor(errors, areas, unit=unit, beam_area=beam_area,
                           frequency=made.meta['frequency'])
        made.uncertainty = StdDevUncertainty(errors, unit=made.unit)
    return made


def _blank_masked(image, data):
    """
    Set the pixels that the file of an image masks to NaN; return the metadata
    ``'mask_extension'``, ``'n_masked'``, and ``'unused_masks'``.
    """
    mask, used, unused = join_masks(
        image, remedy='set the bad pixels of the map to NaN')
    warn_unused(image, unused.values(), stacklevel=6)
    n_masked, lost = blank_masked(data, None if mask is None
                                  else mask.reshape(data.shape))
    if lost == 1.0:
        msg = (f'extension {image.extension} has no value that extension '
               f'{used} does not mask: it must be 0 at good pixels')
        raise MapError(msg)
    if lost > 0.5:
        msg = (f'extension {used} of {image.filename or "the FITS file"} '
               f'masks {100.0 * lost:.0f} % of the values of the map: '
               f'{INVERTED}')
        warnings.warn(msg, AstropyUserWarning, stacklevel=5)
    return {'mask_extension': used or None, 'n_masked': n_masked,
            'unused_masks': ' and '.join(unused) or None}


def _describe_blank(meta):
    """
    Return the message about a map without values.
    """
    msg = f'extension {meta["extension"]} has no finite value'
    if meta['n_fill']:
        msg += (f' but the fill value {meta["fill_values"][0]:g}: '
                'give another fill_value, or False for none')
        if meta['n_masked']:
            msg += (f'; extension {meta["mask_extension"]} masks the others: '
                    'it must be 0 at good pixels')
    elif meta['n_masked']:
        msg += (f' that extension {meta["mask_extension"]} does not mask: '
                'it must be 0 at good pixels')
    return msg
