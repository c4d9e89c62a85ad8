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
    'mean_of_blocks',
    'moffat_alpha',
    'rotate',
]

_REFERENCE = SkyCoord('05h35m14.5s', '-05d22m30s', frame='icrs')


def moffat_alpha(fwhm, beta):
    """
    Return the scale of a Moffat function (1969, A&A 3, 455) of a FWHM.
    """
    return 0.5 * fwhm / np.sqrt(2.0**(1.0 / beta) - 1.0)


def rotate(dx, dy, angle):
    """
    Return offsets along and across an axis at an angle in radians.
    """
    return (dx * np.cos(angle) + dy * np.sin(angle),
            dy * np.cos(angle) - dx * np.sin(angle))


def mean_of_blocks(image, n):
    """
    Return the means of blocks of n x n samples.
    """
    side = len(image) // n
    return image.reshape(side, n, side, n).mean((1, 3))


def beam_transfer(kx, ky, beam):
    """
    Return the Fourier transform of a Gaussian beam (FWHMs in pixels, angle
    in degrees) of unit integral at frequencies in cycles per pixel.
    """
    # exp(-2 pi^2 k^T C k) is the transform of a Gaussian of covariance C
    xx, xy, yy = gaussian_matrix(*beam)
    return np.exp(-2.0 * np.pi**2
                  * (xx * kx**2 + 2.0 * xy * kx * ky + yy * ky**2))


def make_wcs(shape, pixel_scale):
    """
    Return a gnomonic WCS with North up and East to the left; the pixel
    scale is in arcsec if it has no unit.
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
    Return the `~radio_beam.Beam` on the sky at the center of the map of a
    beam in pixels and degrees.
    """
    # pixels of a gnomonic projection have one scale near its center only
    center = np.subtract(shape[::-1], 1) / 2
    major, minor, angle = pixel_to_sky_ellipse(
        wcs, *center[:, np.newaxis], [beam[0]], [beam[1]], [beam[2]])
    return Beam(major=major[0], minor=minor[0], pa=angle[0])


def check_shape(shape, n_axes=2):
    """
    Check that a shape has positive integers and return it as a tuple.
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
    Check the beam and return it as FWHMs in pixels and angle in degrees.
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
    Return a number if it is between its limits; with ``closed``, it may be
    the lower limit itself.
    """
    if not (lower < value < upper or (closed and value == lower)):
        limits = f'at least {lower}' if closed else f'above {lower}'
        if np.isfinite(upper):
            limits += f' and below {upper}'
        msg = f'{name} must be {limits}: got {value!r}'
        raise ValueError(msg)
    return value
