# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated fields of galaxies with known parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import QTable
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.special import gamma, gammaincinv

from hyperphotutils.datasets.parts import (
    check_number,
    check_shape,
    mean_of_blocks,
    moffat_alpha,
    rotate,
)
from hyperphotutils.utils.tables import result_meta

__all__ = ['SimulatedGalaxyField', 'make_galaxy_field']

# Samples a pixel along each axis before the convolution; those of the
# central pixels are divided further, since profiles have a cusp.
_SUBPIXELS = 5
_CENTRAL_SUBPIXELS = 25
_CENTRAL_REACH = 2

# Half of the side of the image of a source in effective radii, and its
# limits in pixels.
_REACH = 20.0
_HALF_RANGE = (50, 120)

# Half of the side of the image of the PSF.
_PSF_HALF = 25
_BETA = 3.2


@dataclass(frozen=True, eq=False)
class SimulatedGalaxyField:
    """
    A simulated field of galaxies with its true sources and PSF.

    It is made by `make_galaxy_field`.

    Parameters
    ----------
    data : 2D `~numpy.ndarray`
        The image.

    error : 2D `~numpy.ndarray`
        The standard deviation of the noise of each pixel.

    psf : 2D `~numpy.ndarray`
        The PSF as the part of the flux in each pixel.

    truth : `~astropy.table.QTable`
        The sources: ``id``, ``kind`` (``'galaxy'`` or ``'star'``), ``x``,
        ``y`` (pixels), ``flux`` (to infinity), ``r_eff`` (along the major
        axis, pixels), ``n``, ``q``, and ``theta`` (degrees from the x
        axis, counterclockwise). Stars have ``r_eff`` = 0.

    segmentation : 2D int `~numpy.ndarray`
        The ``id`` of the source that is brightest in each pixel, where it
        is brighter than the noise; 0 elsewhere.
    """

    data: np.ndarray
    error: np.ndarray
    psf: np.ndarray
    truth: QTable
    segmentation: np.ndarray


def make_galaxy_field(
        shape: tuple[int, int] = (400, 400), n_galaxies: int = 20, *,
        n_stars: int = 0, fwhm: float = 3.0,
        snr: tuple[float, float] = (20.0, 300.0),
        r_eff: tuple[float, float] = (1.5, 6.0),
        n_sersic: tuple[float, float] = (0.7, 5.0),
        q: tuple[float, float] = (0.2, 1.0), separation: float = 20.0,
        sky: float = 0.0, noise: float = 1.0, gain: float = 5.0,
        seed: int | np.random.Generator = 0) -> SimulatedGalaxyField:
    """
    Make an image of Sersic galaxies convolved with a Moffat PSF.

    Profiles are sampled much finer than the pixels and convolved with
    the PSF, so that the image does not depend on the method of a fitter.

    Parameters
    ----------
    shape : tuple of 2 ints, optional
        The shape ``(ny, nx)`` of the image.

    n_galaxies, n_stars : int, optional
        The number of galaxies and of stars.

    fwhm : float, optional
        The full width at half maximum of the PSF in pixels.

    snr : tuple of 2 floats, optional
        The range of the signal-to-noise ratio of the flux, with a uniform
        logarithm.

    r_eff, n_sersic, q : tuple of 2 floats, optional
        The ranges of effective radius (pixels) and Sersic index, with
        uniform logarithms, and of the axis ratio.

    separation : float, optional
        The smallest distance of two sources in pixels, as far as there
        is room for it.

    sky : float, optional
        A constant that is added.

    noise : float, optional
        The standard deviation of the noise without sources.

    gain : float, optional
        The number of electrons a unit of the data.

    seed : int or `~numpy.random.Generator`, optional
        The seed of all random numbers.

    Returns
    -------
    field : `SimulatedGalaxyField`
        The image and the truth.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_galaxy_field
    >>> field = make_galaxy_field((150, 200), 5, n_stars=2, seed=1)
    >>> print(field.data.shape, len(field.truth))
    (150, 200) 7
    """
    ny, nx = check_shape(shape)
    for name, value in (('fwhm', fwhm), ('noise', noise), ('gain', gain)):
        check_number(name, value)
    rng = np.random.default_rng(seed)
    number = n_galaxies + n_stars

    def draw_log(limits, size):
        return np.exp(rng.uniform(*np.log(limits), size))

    margin = 0.1 * min(ny, nx)
    places = np.empty((number, 2))
    for i in range(number):
        # as far as there is room
        for _ in range(200):
            places[i] = [rng.uniform(margin, side - 1 - margin)
                         for side in (nx, ny)]
            if np.all(np.hypot(*(places[:i] - places[i]).T) >= separation):
                break
    x, y = places.T
    is_star = np.arange(number) >= n_galaxies
    truth = QTable({
        'id': np.arange(1, number + 1),
        'kind': np.where(is_star, 'star', 'galaxy'), 'x': x, 'y': y,
        'flux': draw_log(snr, number),
        'r_eff': np.where(is_star, 0.0, draw_log(r_eff, number)),
        'n': np.where(is_star, 0.5, draw_log(n_sersic, number)),
        'q': np.where(is_star, 1.0, rng.uniform(*q, number)),
        'theta': np.where(is_star, 0.0, rng.uniform(0.0, 180.0, number))})
    truth['theta'].unit = 'deg'
    # the PSF before the integration over pixels
    side = (2 * _PSF_HALF + 1) * _SUBPIXELS
    grid = (np.arange(side) - side // 2) / _SUBPIXELS
    fine_psf = (1.0 + (grid**2 + grid[:, None]**2)
                / moffat_alpha(fwhm, _BETA)**2)**-_BETA
    fine_psf /= fine_psf.sum()
    image, brightest = np.zeros((2, ny, nx))
    segmentation = np.zeros((ny, nx), dtype=int)
    for row in truth:
        stamp, x0, y0 = _draw(row, fine_psf)
        # flux with the wanted ratio: ratio^2 = sum(s^2 / (noise^2 + s / g))
        ratio, flux = row['flux'], row['flux']
        for _ in range(30):
            variance = noise**2 + flux * stamp / gain
            flux *= ratio / (flux * np.sqrt(np.sum(stamp**2 / variance)))
        row['flux'] = flux
        side = len(stamp)
        low_y, high_y = max(y0, 0), min(y0 + side, ny)
        low_x, high_x = max(x0, 0), min(x0 + side, nx)
        seen = flux * stamp[low_y - y0:high_y - y0, low_x - x0:high_x - x0]
        part = (slice(low_y, high_y), slice(low_x, high_x))
        image[part] += seen
        own = (seen > brightest[part]) & (seen > noise)
        segmentation[part][own] = row['id']
        brightest[part] = np.maximum(brightest[part], seen)
    error = np.sqrt(noise**2 + image / gain)
    data = sky + image + error * rng.standard_normal(image.shape)
    truth.meta.update(result_meta())
    psf = _SUBPIXELS**2 * mean_of_blocks(fine_psf, _SUBPIXELS)
    return SimulatedGalaxyField(data, error, psf, truth, segmentation)


def _draw(row, fine_psf):
    """
    Return the image of a source of unit flux and its corner.
    """
    half = int(np.clip(_REACH * row['r_eff'], *_HALF_RANGE))
    column, line = round(row['x']), round(row['y'])
    side = (2 * half + 1) * _SUBPIXELS
    grid = (np.arange(side) - side // 2) / _SUBPIXELS
    dx, dy = row['x'] - column, row['y'] - line
    if row['kind'] == 'star':
        # the share of the four nearest samples, convolved below
        light = np.maximum(1.0 - np.abs(grid - dx) * _SUBPIXELS, 0.0) * (
            np.maximum(1.0 - np.abs(grid - dy) * _SUBPIXELS, 0.0)[:, None])
    else:
        light = _profile(row, grid - dx, grid - dy) / _SUBPIXELS**2
        near = np.flatnonzero(np.abs(grid) < _CENTRAL_REACH)
        fine = (np.arange(_CENTRAL_SUBPIXELS) + 0.5) / _CENTRAL_SUBPIXELS
        fine = (fine - 0.5) / _SUBPIXELS
        place = (grid[near][:, None] + fine).ravel()
        dense = _profile(row, place - dx, place - dy) / _SUBPIXELS**2
        light[np.ix_(near, near)] = mean_of_blocks(dense, _CENTRAL_SUBPIXELS)
    size = next_fast_len(side + len(fine_psf), real=True)
    image = irfft2(rfft2(light, s=(size, size))
                   * rfft2(fine_psf, s=(size, size)), s=(size, size))
    first = len(fine_psf) // 2
    image = image[first:first + side, first:first + side]
    image = _SUBPIXELS**2 * mean_of_blocks(image, _SUBPIXELS)
    return np.maximum(image, 0.0), column - half, line - half


def _profile(row, dx, dy):
    """
    Return the surface brightness of a galaxy of unit flux (Graham &
    Driver 2005, PASA 22, 118).
    """
    n, q = row['n'], row['q']
    b = gammaincinv(2.0 * n, 0.5)
    total = 2.0 * np.pi * n * b**(-2.0 * n) * gamma(2.0 * n) * q
    along, across = rotate(dx, dy[:, None], row['theta'].to_value('rad'))
    radius = np.hypot(along, across / q) / row['r_eff']
    return np.exp(-b * radius**(1.0 / n)) / (total * row['r_eff']**2)
