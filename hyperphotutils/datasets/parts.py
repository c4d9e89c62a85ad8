# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Shared parts of the simulations: beam, WCS, and checks of arguments.
"""

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from radio_beam import Beam

from hyperphotutils.utils.gaussians import gaussian_matrix
from hyperphotutils.utils.wcs import pixel_to_sky_ellipse

__all__ = [
    'beam_transfer',
    'check_beam',
    'check_number',
    'check_shape',
    'make_sky_beam',
    'make_wcs',
]

_REFERENCE = SkyCoord('05h35m14.5s', '-05d22m30s', frame='icrs')


def beam_transfer(kx, ky, beam):
    """
    Return the Fourier transform of a Gaussian beam of unit integral.

    Parameters
    ----------
    kx, ky : `~numpy.ndarray`
        The spatial frequencies in cycles per pixel.

    beam : tuple of float
        The FWHMs in pixels and the angle in degrees.

    Returns
    -------
    transfer : `~numpy.ndarray`
        The transfer function.
    """
    xx, xy, yy = gaussian_matrix(*beam)
    return np.exp(-2.0 * np.pi**2
                  * (xx * kx**2 + 2.0 * xy * kx * ky + yy * ky**2))


def make_wcs(shape, pixel_scale):
    """
    Return a gnomonic WCS with North up and East to the left.

    Parameters
    ----------
    shape : tuple of int
        The shape of the map.

    pixel_scale : float or `~astropy.units.Quantity`
        The size of a pixel; arcsec if it has no unit.

    Returns
    -------
    wcs : `~astropy.wcs.WCS`
        The WCS.
    """
    scale = check_number('pixel_scale',
                          u.Quantity(pixel_scale, u.arcsec).to_value(u.deg))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    wcs.wcs.cunit = ['deg', 'deg']
    wcs.wcs.crval = [_REFERENCE.ra.deg, _REFERENCE.dec.deg]
    wcs.wcs.crpix = np.add(shape[::-1], 1) / 2
    wcs.wcs.cdelt = [-scale, scale]
    wcs.wcs.radesys = 'ICRS'
    wcs.wcs.set()
    return wcs


def make_sky_beam(wcs, shape, beam):
    """
    Return the beam on the sky at the center of the map.

    Parameters
    ----------
    wcs : `~astropy.wcs.WCS`
        The WCS.

    shape : tuple of int
        The shape of the map.

    beam : tuple of float
        The FWHMs in pixels and the angle in degrees.

    Returns
    -------
    beam : `~radio_beam.Beam`
        The beam.
    """
    center = np.subtract(shape[::-1], 1) / 2
    major, minor, angle = pixel_to_sky_ellipse(
        wcs, *center[:, np.newaxis], [beam[0]], [beam[1]], [beam[2]])
    return Beam(major=major[0], minor=minor[0], pa=angle[0])


def check_shape(shape, n_axes=2):
    """
    Check that a shape has positive integers.

    Parameters
    ----------
    shape : tuple of int
        The argument.

    n_axes : int, optional
        The number of axes.

    Returns
    -------
    shape : tuple of int
        The shape.
    """
    sizes = tuple(np.atleast_1d(shape).tolist())
    if len(sizes) != n_axes or not all(isinstance(size, int) and size > 0
                                       for size in sizes):
        number = {2: 'two', 3: 'three'}[n_axes]
        msg = f'shape must be {number} positive whole numbers: got {shape!r}'
        raise ValueError(msg)
    return sizes


def check_beam(beam):
    """
    Check the beam and return it as (major, minor, theta).

    Parameters
    ----------
    beam : float or tuple of float
        The argument.

    Returns
    -------
    beam : tuple of float
        The FWHMs in pixels and the angle in degrees.
    """
    sizes = np.atleast_1d(np.asarray(beam, dtype=float))
    if sizes.shape == (1,):
        sizes = np.array([sizes[0], sizes[0], 0.0])
    if (sizes.shape != (3,) or not np.all(np.isfinite(sizes))
            or not sizes[0] >= sizes[1] >= 1):
        msg = ('beam must be a FWHM of at least a pixel or (major, minor, '
               f'theta) with major >= minor >= 1: got {beam!r}')
        raise ValueError(msg)
    return tuple(sizes.tolist())


def check_number(name, value, *, lower=0.0, upper=np.inf, closed=False):
    """
    Check that a number is between its limits.

    Parameters
    ----------
    name : str
        The name of the argument.

    value : float
        The argument.

    lower, upper : float, optional
        The limits.

    closed : bool, optional
        Whether the lower limit itself is allowed.

    Returns
    -------
    value : float
        The argument.
    """
    if not (lower < value < upper or (closed and value == lower)):
        limits = f'at least {lower}' if closed else f'above {lower}'
        if np.isfinite(upper):
            limits += f' and below {upper}'
        msg = f'{name} must be {limits}: got {value!r}'
        raise ValueError(msg)
    return value
