# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated star fields whose PSF is known exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from astropy.table import QTable
from scipy.fft import ifftshift, irfft2, rfft2

from hyperphotutils.datasets.parts import (
    check_number,
    check_shape,
    mean_of_blocks,
    moffat_alpha,
    rotate,
)
from hyperphotutils.utils.gaussians import add_stamp
from hyperphotutils.utils.tables import result_meta

__all__ = ['SimulatedStarField', 'make_star_field']

# Samples per pixel and axis when the PSF is integrated over pixels.
_SUBPIXELS = 5
_GALAXY_SUBPIXELS = 3

# Half of the side length of the stamps of sources in pixels.
_HALF = 25

# Smallest distance of sources from the edge, and range of the distances
# of neighbors from their star, in pixels.
_MARGIN = 12.0
_NEIGHBOR_RANGE = (4.0, 14.0)
_NEIGHBOR_FLUX = (0.02, 0.5)


@dataclass(frozen=True, eq=False)
class SimulatedStarField:
    """
    A simulated star field with its true sources and PSF.

    It is returned by `make_star_field`.

    Parameters
    ----------
    data : 2D `~numpy.ndarray`
        The image.

    error : 2D `~numpy.ndarray`
        The standard deviation of the noise of each pixel.

    truth : `~astropy.table.QTable`
        The sources: ``x``, ``y`` (pixels), ``flux``, and ``kind``,
        ``'star'``, ``'neighbor'``, or ``'galaxy'``.

    cosmic_rays : 2D `~numpy.ndarray` of bool
        `True` where a cosmic ray was added.

    profile : callable
        The PSF before integration over pixels, see `psf`.
    """

    data: np.ndarray
    error: np.ndarray
    truth: QTable
    cosmic_rays: np.ndarray
    profile: Callable

    def psf(self, x: float, y: float, *, size: int = 31) -> np.ndarray:
        """
        Return the true PSF at a position.

        Parameters
        ----------
        x, y : float
            The position in pixels.

        size : odd int, optional
            The side length of the image in pixels.

        Returns
        -------
        psf : 2D `~numpy.ndarray`
            The fraction of the flux in each pixel, for a star at the
            center of the central pixel. Its sum is below 1 by the flux
            outside of the image.
        """
        return _integrate(self.profile, x, y, 0.0, 0.0, size // 2)


def make_star_field(shape: tuple[int, int] = (500, 500), n_stars: int = 40, *,
                    fwhm: float = 3.0, variation: float = 0.0,
                    snr: tuple[float, float] = (20.0, 1000.0),
                    n_galaxies: int = 0, neighbor_fraction: float = 0.0,
                    n_cosmic_rays: int = 0, sky: float = 0.0,
                    noise: float = 1.0, gain: float = 5.0,
                    seed: int | np.random.Generator = 0) -> SimulatedStarField:
    """
    Make an image of stars with a structured PSF.

    Use it to test empirical PSFs. The PSF is a slightly elliptical
    Moffat profile with a bump on one side and faint spikes, so that no
    simple profile describes it.

    Parameters
    ----------
    shape : tuple of 2 ints, optional
        The shape ``(ny, nx)`` of the image.

    n_stars : int, optional
        The number of stars.

    fwhm : float, optional
        The full width at half maximum of the Moffat profile in pixels.

    variation : float, optional
        The amplitude of the variation of the PSF over the field, a
        quadratic polynomial. For 1, the FWHM varies by 20 %, and the
        ellipticity by 0.1.

    snr : tuple of 2 floats, optional
        The range of the signal-to-noise ratio, uniform in its logarithm.

    n_galaxies : int, optional
        The number of exponential galaxies, with half-light radii from
        0.2 to 1.3 FWHM and fluxes like those of stars.

    neighbor_fraction : float, optional
        The fraction of stars with a fainter neighbor at 4 to 14 pixels.

    n_cosmic_rays : int, optional
        The number of cosmic rays, tracks of 1 to 8 pixels.

    sky : float, optional
        The constant sky level.

    noise : float, optional
        The standard deviation of the noise without sources.

    gain : float, optional
        The number of electrons per unit of the data.

    seed : int or `~numpy.random.Generator`, optional
        The seed of all random numbers.

    Returns
    -------
    field : `SimulatedStarField`
        The image and the truth.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_star_field
    >>> field = make_star_field((200, 300), 10, n_cosmic_rays=5, seed=1)
    >>> print(field.data.shape, len(field.truth))
    (200, 300) 10
    >>> print(f'{field.psf(100, 100).sum():.2f}')
    1.00
    """
    ny, nx = check_shape(shape)
    for name, value in (('fwhm', fwhm), ('noise', noise), ('gain', gain)):
        check_number(name, value)
    rng = np.random.default_rng(seed)

    profile = partial(_field_profile, shape=(ny, nx), fwhm=fwhm,
                      variation=variation)
    # the number of pixels whose noise a fit of the flux collects (King 1983,
    # PASP 95, 163)
    effective_area = 1.0 / np.sum(
        _integrate(profile, nx / 2, ny / 2, 0.0, 0.0, _HALF)**2)

    def draw_flux(number):
        ratio = np.exp(rng.uniform(*np.log(snr), number))
        # Solves flux^2 = ratio^2 (area noise^2 + flux / gain).
        shot = 0.5 * ratio**2 / gain
        return shot + np.sqrt(shot**2 + ratio**2 * noise**2 * effective_area)

    def draw_places(number):
        return (rng.uniform(_MARGIN, nx - 1 - _MARGIN, number),
                rng.uniform(_MARGIN, ny - 1 - _MARGIN, number))

    x, y = draw_places(n_stars)
    flux = draw_flux(n_stars)
    host = np.flatnonzero(rng.random(n_stars) < neighbor_fraction)
    distance = rng.uniform(*_NEIGHBOR_RANGE, len(host))
    angle = rng.uniform(0.0, 2.0 * np.pi, len(host))
    part = np.exp(rng.uniform(*np.log(_NEIGHBOR_FLUX), len(host)))
    x_galaxy, y_galaxy = draw_places(n_galaxies)
    truth = QTable({
        'x': np.concatenate([x, x[host] + distance * np.cos(angle),
                             x_galaxy]),
        'y': np.concatenate([y, y[host] + distance * np.sin(angle),
                             y_galaxy]),
        'flux': np.concatenate([flux, flux[host] * part,
                                draw_flux(n_galaxies)]),
        'kind': np.repeat(['star', 'neighbor', 'galaxy'],
                          [n_stars, len(host), n_galaxies])})
    image = np.zeros((ny, nx))
    for row in truth:
        x, y = row['x'], row['y']
        column, line = round(x), round(y)
        if row['kind'] == 'galaxy':
            disk = (fwhm * np.exp(rng.uniform(*np.log([0.2, 1.3]))),
                    rng.uniform(0.3, 1.0), rng.uniform(0.0, np.pi))
            stamp = _draw_galaxy(profile, x, y, x - column, y - line, disk)
        else:
            stamp = _integrate(profile, x, y, x - column, y - line, _HALF)
        add_stamp(image, row['flux'] * stamp, column - _HALF, line - _HALF)
    error = np.sqrt(noise**2 + np.maximum(image, 0.0) / gain)
    data = sky + image + error * rng.standard_normal(image.shape)
    rays = np.zeros(data.shape, dtype=bool)
    for _ in range(n_cosmic_rays):
        place = np.arange(0.0, rng.uniform(1.0, 8.0), 0.5)
        angle = rng.uniform(0.0, np.pi)
        columns = (rng.uniform(0, nx) + place * np.cos(angle)).astype(int)
        lines = (rng.uniform(0, ny) + place * np.sin(angle)).astype(int)
        inside = (columns >= 0) & (columns < nx) & (lines >= 0) & (lines < ny)
        rays[lines[inside], columns[inside]] = True
    data[rays] += noise * rng.uniform(30.0, 600.0, np.count_nonzero(rays))
    truth.meta.update(result_meta())
    return SimulatedStarField(data, error, truth, rays, profile)


def _field_profile(dx, dy, x, y, *, shape, fwhm, variation):
    """
    Return the PSF before integration over pixels, at a position: a Moffat
    profile with an off-center bump and spikes.
    """
    ny, nx = shape
    u, v = 2.0 * x / nx - 1.0, 2.0 * y / ny - 1.0
    size = 1.0 + variation * (0.06 * u - 0.05 * v
                              + 0.06 * (u**2 + v**2) - 0.04)
    e1 = 0.03 + variation * (0.04 * u + 0.05 * u * v)
    e2 = -0.02 + variation * (0.04 * v + 0.03 * (u**2 - v**2))
    fwhm *= size
    # wings as those of seeing, which no Gaussian has (Moffat 1969, A&A 3, 455)
    beta = 3.2
    alpha2 = moffat_alpha(fwhm, beta)**2
    q = ((1.0 - e1) * dx**2 + (1.0 + e1) * dy**2 - 2.0 * e2 * dx * dy) / (
        alpha2 * np.sqrt(1.0 - e1**2 - e2**2))
    moffat = (beta - 1.0) / (np.pi * alpha2) * (1.0 + q)**-beta
    sigma = 0.45 * fwhm
    bump = np.exp(-0.5 * ((dx - 0.5 * fwhm)**2 + (dy - 0.25 * fwhm)**2)
                  / sigma**2) / (2.0 * np.pi * sigma**2)
    width, length = 0.27 * fwhm, 2.0 * fwhm
    spikes = (np.exp(-0.5 * (dy / width)**2 - np.abs(dx) / length)
              + np.exp(-0.5 * (dx / width)**2 - np.abs(dy) / length)) / (
        2.0 * length * np.sqrt(2.0 * np.pi) * width)
    return 0.92 * moffat + 0.06 * bump + 0.01 * spikes


def _integrate(profile, x, y, dx, dy, half):
    """
    Integrate the PSF at (x, y) over pixels, with its center offset by
    (dx, dy) from the central pixel.
    """
    side = (2 * half + 1) * _SUBPIXELS
    grid = (np.arange(side) + 0.5) / _SUBPIXELS - 0.5 - half
    fine = profile(grid - dx, (grid - dy)[:, None], x, y)
    return mean_of_blocks(fine, _SUBPIXELS)


def _draw_galaxy(profile, x, y, dx, dy, disk):
    """
    Return an exponential disk convolved with the PSF.
    """
    radius, axis_ratio, theta = disk
    n_sub = _GALAXY_SUBPIXELS
    grid = (np.arange((2 * _HALF + 1) * n_sub) + 0.5) / n_sub - 0.5 - _HALF
    along, across = rotate(grid - dx, (grid - dy)[:, None], theta)
    # b of a Sersic index of 1, with which radius contains half of the light
    light = np.exp(-1.678 * np.hypot(along, across / axis_ratio) / radius)
    psf = profile(grid, grid[:, None], x, y)
    fine = irfft2(rfft2(light) * rfft2(ifftshift(psf)), s=light.shape)
    stamp = mean_of_blocks(fine, n_sub)
    return stamp / stamp.sum()
