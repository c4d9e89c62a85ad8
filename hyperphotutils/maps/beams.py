# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The beam of a map: reading it from the header and checking it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np

from hyperphotutils.maps.cards import read_number
from hyperphotutils.maps.errors import MapError

if TYPE_CHECKING:
    from astropy.io import fits
    from astropy.table import Table
    from radio_beam import Beam

    from hyperphotutils.maps.surveys import Survey

__all__ = ['beam_columns', 'find_beam', 'header_beam']

# Two values of the same beam may differ by rounding, but not by more.
_TOLERANCE = 0.01

# The nominal FWHM of a survey is rounded more coarsely.
_SURVEY_TOLERANCE = 0.2

# The mean FWHM of a measured beam, and that of the Gaussian in its place: a
# Gaussian fitted to a beam with wings is wider than its core (by 9 % for a
# Moffat profile with an exponent of 2.5)
_MEASURED_TOLERANCE = 0.2

_REMEDY = 'correct it or give beam=, the FWHM'

_NUMBER = r'\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[ED][-+]?\d{1,3})?)(?![\d.])'
_AIPS = re.compile(rf'BMAJ={_NUMBER}\s+BMIN={_NUMBER}\s+BPA={_NUMBER}',
                   re.IGNORECASE)
_CASA = re.compile(rf'restoration:{_NUMBER}\s+by{_NUMBER}\s+\(arcsec\)'
                   rf'\s+at\s+pa{_NUMBER}\s+\(deg\)', re.IGNORECASE)


def find_beam(header: fits.Header, *, pixel_scale: u.Quantity,
              shape: tuple[int, ...], beam: Beam | u.Quantity | None = None,
              survey: Survey | None = None, beams_table: Table | None = None,
              measured: tuple | None = None) -> tuple[Beam, u.Quantity]:
    """
    Find the beam of a map.

    The beam is that of ``beam``, of the header (see
    `~hyperphotutils.maps.header_beam`), or of ``survey``. Contradictory
    beams are an error, as is a beam smaller than a pixel or larger than
    the map. An impossible beam in the header is ignored if one of the
    arguments gives the beam.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        The header of the map.

    pixel_scale : `~astropy.units.Quantity`
        The square root of the pixel area.

    shape : tuple of int
        The shape of the map in pixels.

    beam : `~radio_beam.Beam` or `~astropy.units.Quantity`, optional
        The beam, or the full width at half maximum of a round beam.

    survey : `~hyperphotutils.maps.Survey`, optional
        The survey of the map. If it has a published beam area, that area
        is returned even if the header gives the shape of the beam.

    beams_table : `~astropy.table.Table`, optional
        CASA's table of the beams of the planes.

    measured : tuple, optional
        The FWHMs of the measured beam, as a `~radio_beam.Beam`, and its
        solid angle, which are returned. All other values only have to
        agree with them to 20 percent.

    Returns
    -------
    beam : `~radio_beam.Beam`
        The beam.

    area : `~astropy.units.Quantity`
        The solid angle used to convert fluxes per beam.

    Raises
    ------
    MapError
        If no beam is found, or if it is impossible.

    Examples
    --------
    >>> import astropy.units as u
    >>> from astropy.io import fits
    >>> from hyperphotutils.maps import find_beam
    >>> header = fits.Header({'BMAJ': 0.01, 'BMIN': 0.005, 'BPA': 30.0})
    >>> beam, area = find_beam(header, pixel_scale=5 * u.arcsec,
    ...                        shape=(100, 100))
    >>> print(f'{area.to("arcsec2"):.1f}')
    734.2 arcsec2
    """
    size = (pixel_scale, shape)
    if beam is not None:
        beam = _as_beam(beam)
        _check_size(beam, 'beam=', *size)
    try:
        found, origin = header_beam(header, beams_table)
        if found is not None:
            _check_size(found, origin, *size)
    except MapError:
        if beam is None and survey is None and measured is None:
            raise
        found, origin = None, None
    _check_agreement(found, origin, beam, 'beam=', _TOLERANCE)
    if measured is not None:
        _check_size(measured[0], 'psf', *size)
        fwhm = np.sqrt(measured[0].major * measured[0].minor)
        check_measured_beam(fwhm, found, origin)
        check_measured_beam(fwhm, beam, 'beam=')
        check_measured_beam(fwhm, survey and _as_beam(survey.fwhm), 'survey=')
        return measured
    if survey is not None:
        if beam is not None:
            msg = ('beam= and survey= both state the beam: give only one of '
                   'them')
            raise MapError(msg)
        beam = _as_beam(survey.fwhm)
        _check_agreement(found, origin, beam, f"survey='{survey.name}'",
                         _SURVEY_TOLERANCE)
        beam = beam if found is None else found
        # Fluxes per beam of these maps refer to the area with the wings.
        area = survey.beam_area
        return beam, (beam.sr if area is None else area.to(u.sr))
    if beam is None and found is None:
        msg = ('no BMAJ in the header and no beam in its HISTORY: give '
               'beam= (a radio_beam.Beam or a FWHM) or survey=')
        raise MapError(msg)
    if beam is None:
        _check_pixels_per_beam(header, found, pixel_scale)
        beam = found
    return beam, beam.sr


def header_beam(header: fits.Header, beams_table: Table | None = None
                ) -> tuple[Beam | None, str | None]:
    """
    Read the beam from a header.

    In this order: ``BMAJ``, ``BMIN`` and ``BPA`` in degrees (a missing
    ``BMIN`` means a round beam); CASA's table of beams; the last beam
    in the ``HISTORY`` that AIPS or CASA wrote.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        The header.

    beams_table : `~astropy.table.Table`, optional
        CASA's table of the beams of the planes.

    Returns
    -------
    beam : `~radio_beam.Beam` or `None`
        The beam.

    origin : str or `None`
        The origin of the beam, for messages.

    Raises
    ------
    MapError
        If the header has an invalid beam.

    Examples
    --------
    >>> from astropy.io import fits
    >>> from hyperphotutils.maps import header_beam
    >>> header = fits.Header()
    >>> header['HISTORY'] = ('AIPS   CLEAN BMAJ=  1.7E-03 '
    ...                      'BMIN=  1.5E-03 BPA=   2.61')
    >>> beam, origin = header_beam(header)
    >>> print(f'{beam.major.to("arcsec"):.2f}, from {origin}')
    6.12 arcsec, from HISTORY (AIPS)
    """
    major = read_number(header, 'BMAJ', remedy=_REMEDY)
    if major is not None:
        minor = read_number(header, 'BMIN', major, remedy=_REMEDY)
        angle = read_number(header, 'BPA', 0.0, remedy=_REMEDY)
        origin = 'BMAJ/BMIN'
        return _make_beam(major * u.deg, minor * u.deg, angle * u.deg,
                          origin), origin
    if beams_table is not None:
        # find the one beam in CASA's table of the beams of the planes
        rows = list(zip(*beam_columns(beams_table), strict=True))
        if not rows:
            msg = f'the BEAMS table is empty: {_REMEDY}'
            raise MapError(msg)
        first = rows[0]
        if any(not u.isclose(row[0], first[0], rtol=_TOLERANCE)
               or not u.isclose(row[1], first[1], rtol=_TOLERANCE)
               for row in rows[1:]):
            msg = ('the BEAMS table lists beams of different sizes: give the '
                   "map's with beam=")
            raise MapError(msg)
        return _make_beam(*first, 'the BEAMS table'), 'the BEAMS table'
    # CASA breaks lines anywhere, and marks the next one with '>'
    history = '\n'.join(map(str, header.get('HISTORY', ())))
    history = history.replace('\n>', '')
    found = [(match.start(), match.groups(), unit, name)
             for pattern, unit, name in ((_AIPS, u.deg, 'AIPS'),
                                         (_CASA, u.arcsec, 'CASA'))
             for match in pattern.finditer(history)]
    if not found:
        return None, None
    _, texts, unit, name = max(found, key=lambda item: item[0])
    major, minor, angle = (float(text.upper().replace('D', 'E'))
                           for text in texts)
    origin = f'HISTORY ({name})'
    return _make_beam(major * unit, minor * unit, angle * u.deg,
                      origin), origin


def _as_beam(beam):
    from radio_beam import Beam

    if isinstance(beam, Beam):
        values = [beam.major, beam.minor, beam.pa]
    elif isinstance(beam, u.Quantity):
        values = [beam, beam, 0 * u.deg]
    else:
        msg = ('beam must be a radio_beam.Beam or a FWHM with a unit, such '
               f'as 18 * u.arcsec: got {type(beam).__name__}')
        raise TypeError(msg)
    if not values[0].isscalar or not values[0].unit.is_equivalent(u.deg):
        msg = f'beam must be one beam or one angle: got {beam}'
        raise MapError(msg)
    return _make_beam(*values, 'beam=')


def _make_beam(major, minor, angle, origin):
    from radio_beam import Beam

    major, minor = u.Quantity(major), u.Quantity(minor)
    if not 180 * u.deg > major >= minor > 0:
        msg = (f'{origin} states a beam of {major:g} by {minor:g}: a beam '
               'has BMAJ >= BMIN > 0; correct it or give beam=')
        raise MapError(msg)
    angle = u.Quantity(angle).to(u.deg)
    if not np.isfinite(angle):
        msg = f'{origin} states a beam with the position angle {angle}'
        raise MapError(msg)
    return Beam(major=major.to(u.arcsec), minor=minor.to(u.arcsec), pa=angle)


def beam_columns(table: Table) -> list[u.Quantity]:
    """
    Return the beams in CASA's table of the beams of the planes.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The table with the columns BMAJ, BMIN and BPA, in any case.

    Returns
    -------
    major, minor, angle : `~astropy.units.Quantity`
        The axes and the position angles; without units in the table, in
        arcsec and degrees.

    Raises
    ------
    MapError
        If a column is missing or not an angle.
    """
    names = {name.upper(): name for name in table.colnames}
    columns = []
    for name, default in (('BMAJ', u.arcsec), ('BMIN', u.arcsec),
                          ('BPA', u.deg)):
        if name not in names:
            msg = (f'the BEAMS table has no column {name}, only '
                   f'{", ".join(table.colnames)}: {_REMEDY}')
            raise MapError(msg)
        column = table[names[name]]
        try:
            values = np.ma.filled(np.ma.asarray(column, dtype=float), np.nan)
            columns.append(u.Quantity(
                values, column.unit or default).to(default).ravel())
        except (TypeError, ValueError):
            msg = (f'the column {names[name]} of the BEAMS table is not an '
                   f'angle: {_REMEDY}')
            raise MapError(msg) from None
    if len({len(column) for column in columns}) > 1:
        msg = f'the columns of the BEAMS table differ in length: {_REMEDY}'
        raise MapError(msg)
    return columns


def _check_size(beam, origin, pixel_scale, shape):
    """
    Check that a beam is larger than a pixel and smaller than the map.
    """
    fwhm = np.sqrt(beam.major * beam.minor)
    pixels = (fwhm / pixel_scale).to_value(u.one)
    if pixels < 1.0:
        problem = f'smaller than a pixel of {pixel_scale:.4g}'
    elif pixels > max(shape):
        problem = f'larger than the map of {max(shape) * pixel_scale:.4g}'
    else:
        return
    remedy = ('' if origin == 'beam='
              else '; correct the header (BMAJ is in degrees) or give beam=')
    msg = (f'the beam of {fwhm.to(u.arcsec):.4g} from {origin} is '
           f'{problem}{remedy}')
    raise MapError(msg)


def _check_agreement(one, one_origin, other, other_origin, tolerance):
    if one is None or other is None or (
            u.isclose(one.major, other.major, rtol=tolerance)
            and u.isclose(one.minor, other.minor, rtol=tolerance)):
        return
    msg = (f'the beam of {one_origin}, {_describe(one)}, contradicts '
           f'{other_origin}, {_describe(other)}: drop {other_origin} or '
           f'correct {one_origin} in the header')
    raise MapError(msg)


def _check_pixels_per_beam(header, beam, pixel_scale):
    """
    Check PPBEAM, the number of pixels per beam in Bolocam maps.
    """
    try:
        stated = read_number(header, 'PPBEAM')
    except MapError:
        return
    if stated is None:
        return
    pixels = (beam.sr / pixel_scale**2).to_value(u.one)
    if abs(stated / pixels - 1.0) > _TOLERANCE:
        msg = (f'PPBEAM = {stated:.4g} contradicts the beam of the header, '
               f'{_describe(beam)}, which covers {pixels:.4g} pixels: '
               'correct the one that is wrong, or give beam=')
        raise MapError(msg)


def check_measured_beam(fwhm, beam, origin):
    """
    Raise an error if the FWHM of a measured beam, the geometric mean of its
    axes, differs by more than 20 percent from a stated beam.

    ``origin`` says where that beam, which may be `None`, is stated.
    """
    if beam is None:
        return
    stated = np.sqrt(beam.major * beam.minor)
    if not u.isclose(fwhm, stated, rtol=_MEASURED_TOLERANCE):
        msg = (f'psf has a FWHM of {fwhm.to_value(u.arcsec):.4g} arcsec, '
               f'but {origin} states {_describe(beam)}: give the beam of '
               'this map, with its pixel scale in its header')
        raise MapError(msg)


def _describe(beam):
    return (f'{beam.major.to_value(u.arcsec):.4g} x '
            f'{beam.minor.to_value(u.arcsec):.4g} arcsec')
