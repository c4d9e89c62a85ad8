# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated pairs of images of the same field, for image subtraction.

The point-spread functions (PSFs) are analytic, so that the true fluxes,
their smallest possible errors, and the variance of each pixel are known
exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.table import QTable
from numpy.typing import ArrayLike
from scipy.signal import fftconvolve

from hyperphotutils.datasets.parts import (
    check_number,
    check_shape,
    moffat_alpha,
    rotate,
)
from hyperphotutils.utils.gaussians import add_stamp

if TYPE_CHECKING:
    from hyperphotutils.utils.typing import FloatOrArray

__all__ = ['ImagePair', 'MoffatPSF', 'make_image_pair']

_BETA_RANGE = (3.0, 4.0)
# Limits of the fluxes of stars, and the slope of their cumulative number.
_STAR_FLUXES = (1200.0, 3e6, 0.6)
_GALAXY_SIZES = (1.5, 5.0)
_GALAXY_RATIOS = (0.3, 1.0)
_GALAXY_FLUXES = (4e3, 1e5)
_CHANGES = (0.15, 0.8)
# Stars are drawn out to where they are this fraction of the noise.
_FAINTEST = 0.02
_MAX_RADIUS = 150
# The wings of galaxies reach this far; 1e-4 of the light is further out
_PSF_RADIUS = 31
# Smallest distance of transients from the edges in pixels.
_MARGIN = 20
_TILTS = {'template': 0.05, 'science': 0.15}
_CURVATURE = 0.06


@dataclass(frozen=True, eq=False)
class MoffatPSF:
    """
    An elliptical Moffat function whose shape varies over the field.

    Parameters
    ----------
    shape : tuple of int
        The (ny, nx) shape of the image.

    fwhm, e1, e2 : tuple of float
        The FWHM in pixels and the two components of the ellipticity.
        The items are the value at the center of the image, its change to
        the right edge, its change to the upper edge, and its change with
        the square of the distance from the center.

    beta : float
        The exponent of the Moffat function.

    Examples
    --------
    >>> from hyperphotutils.datasets import MoffatPSF
    >>> psf = MoffatPSF((100, 100), (3.0, 0.2, 0.0, 0.0),
    ...                 (0.0,) * 4, (0.0,) * 4, 3.5)
    >>> print(f'{psf.image(50, 50, radius=20).sum():.2f}')
    1.00
    """

    shape: tuple
    fwhm: tuple
    e1: tuple
    e2: tuple
    beta: float

    def __call__(self, dx: ArrayLike, dy: ArrayLike, x: float,
                 y: float) -> FloatOrArray:
        """
        Evaluate the PSF of a star of unit flux.

        Parameters
        ----------
        dx, dy : float or array_like
            The offsets from the star in pixels.

        x, y : float
            The position of the star.

        Returns
        -------
        value : float or `~numpy.ndarray`
            The values.
        """
        ny, nx = self.shape
        along_x, along_y = 2.0 * x / nx - 1.0, 2.0 * y / ny - 1.0
        # a tilt and a curvature of the focal surface
        terms = 1.0, along_x, along_y, along_x**2 + along_y**2
        fwhm, e1, e2 = [sum(a * b for a, b in zip(values, terms, strict=True))
                        for values in (self.fwhm, self.e1, self.e2)]
        alpha = self.alpha(fwhm)
        # an ellipse of the same area as the circle, so that the peak stays
        ellipticity = np.hypot(e1, e2)
        ratio = (1.0 - ellipticity) / (1.0 + ellipticity)
        angle = 0.5 * np.arctan2(e2, e1)
        along, across = rotate(dx, dy, angle)
        square = (along**2 * ratio + across**2 / ratio) / alpha**2
        return ((self.beta - 1.0) / (np.pi * alpha**2)
                * (1.0 + square)**-self.beta)

    def alpha(self, fwhm: float | None = None) -> float:
        """
        Return the scale of the Moffat function.

        Parameters
        ----------
        fwhm : float, optional
            The FWHM. The default is the FWHM at the center of the image.

        Returns
        -------
        alpha : float
            The scale in pixels.
        """
        fwhm = self.fwhm[0] if fwhm is None else fwhm
        return moffat_alpha(fwhm, self.beta)

    def image(self, x: float, y: float, radius: int = 15,
              offset: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
        """
        Return the PSF as an image.

        Parameters
        ----------
        x, y : float
            The position in the field.

        radius : int, optional
            The half width of the image.

        offset : tuple of 2 floats, optional
            The offset of the star from the central pixel in x and y.

        Returns
        -------
        image : 2D `~numpy.ndarray`
            The image.
        """
        grid = np.arange(-radius, radius + 1)
        return self(grid - offset[0], grid[:, None] - offset[1], x, y)


@dataclass(frozen=True, eq=False)
class ImagePair:
    """
    A simulated pair of images with the true sources, PSFs, and noise.

    It is returned by `make_image_pair`.

    Parameters
    ----------
    science, template : `~astropy.nddata.CCDData`
        The images in adu, with errors estimated from the data, the gain,
        and the read noise, and masks of saturated and bad pixels.

    stars : `~astropy.table.QTable`
        The stars: ``x``, ``y``, ``flux`` (the flux in the template on
        the flux scale of the science image), and ``change`` (the
        additional flux in the science image).

    transients : `~astropy.table.QTable`
        The sources that are only in the science image: ``x``, ``y``,
        ``flux``, and ``flux_err``, the smallest error that a measurement
        can have.

    scale : float
        The flux scale of the science image relative to the template.

    science_psf, template_psf : `MoffatPSF`
        The PSFs.

    science_variance, template_variance : 2D `~numpy.ndarray`
        The true variances of the pixels.

    light : 2D `~numpy.ndarray`
        The science image without noise, sky, variability, and transients.
    """

    science: CCDData
    template: CCDData
    stars: QTable
    transients: QTable
    scale: float
    science_psf: MoffatPSF
    template_psf: MoffatPSF
    science_variance: np.ndarray
    template_variance: np.ndarray
    light: np.ndarray

    def __repr__(self) -> str:
        return (f'<{self.__class__.__name__}(shape={self.science.shape}, '
                f'n_stars={len(self.stars)}, '
                f'n_transients={len(self.transients)})>')


@dataclass(frozen=True)
class _Camera:
    sky: float
    gain: float
    read_noise: float
    saturation: float

    @property
    def sky_variance(self):
        return self.sky / self.gain + (self.read_noise / self.gain)**2


def make_image_pair(
        shape: tuple[int, ...] = (512, 512), n_stars: int | None = None, *,
        n_galaxies: int | None = None, n_transients: int | None = None,
        fwhm: tuple[float, float] = (4.2, 3.0),
        fwhm_variation: tuple[float, float] = (0.4, 0.1),
        ellipticity: float = 0.06, scale: float | None = None,
        shift: float = 0.12, variable_fraction: float = 0.05,
        bad_fraction: float = 3e-4, gain: tuple[float, float] = (2.0, 4.0),
        read_noise: tuple[float, float] = (8.0, 6.0),
        sky: tuple[float, float] = (260.0, 150.0),
        saturation: tuple[float, float] = (45000.0, 60000.0),
        seed: int | np.random.Generator | None = None) -> ImagePair:
    """
    Make two images of the same field at different times.

    Use it to test image subtraction. The PSFs are elliptical Moffat
    functions that vary over the field. Stars are distributed uniformly,
    with fluxes from a power law, and some are variable. Some of the
    transients are in galaxies. Pairs of numbers are for the science
    image and the template, in this order.

    Parameters
    ----------
    shape : tuple of int, optional
        The (ny, nx) shape of the images.

    n_stars, n_galaxies, n_transients : int, optional
        The numbers of sources. The defaults are 500, 40, and 40 for 512
        x 512 pixels, scaled with the area to the power of 0.65.

    fwhm : tuple of 2 floats, optional
        The FWHMs of the PSFs at the center, in pixels.

    fwhm_variation : tuple of 2 floats, optional
        The largest change of the FWHMs from the center to an edge.

    ellipticity : float, optional
        The largest component of the ellipticity at the center.

    scale : float, optional
        The flux scale of the science image relative to the template. If
        `None` (default), it is drawn from 0.7 to 1.6.

    shift : float, optional
        The largest error of the alignment in pixels.

    variable_fraction : float, optional
        The fraction of variable stars.

    bad_fraction : float, optional
        The fraction of bad pixels. If it is not 0, a bad column is
        added.

    gain, read_noise, sky, saturation : tuple of 2 floats, optional
        The gain in electrons per adu, the read noise in electrons, and
        the levels of the sky and of saturation in adu.

    seed : int or `~numpy.random.Generator`, optional
        The seed.

    Returns
    -------
    pair : `ImagePair`
        The images and the truth.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_image_pair
    >>> make_image_pair((200, 300), seed=1)
    <ImagePair(shape=(200, 300), n_stars=192, n_transients=15)>
    """
    shape = check_shape(shape)
    for name, values in (('fwhm', fwhm), ('gain', gain), ('sky', sky),
                         ('saturation', saturation)):
        for value in values:
            check_number(name, value)
    for name, value in (('ellipticity', ellipticity), ('shift', shift),
                        ('bad_fraction', bad_fraction),
                        ('variable_fraction', variable_fraction)):
        check_number(name, value, upper=1.0, closed=True)
    richness = (shape[0] * shape[1] / 512**2)**0.65
    n_stars, n_galaxies, n_transients = (
        round(usual * richness) if number is None else number
        for number, usual in ((n_stars, 500), (n_galaxies, 40),
                              (n_transients, 40)))
    rng = np.random.default_rng(seed)
    cameras = [_Camera(*values) for values in zip(
        sky, gain, read_noise, saturation, strict=True)]
    if scale is None:
        scale = float(np.exp(rng.uniform(np.log(0.7), np.log(1.6))))
    psfs, to_template, (x, y, flux), galaxies = _draw_field(
        rng, shape, n_stars, n_galaxies, fwhm, fwhm_variation, ellipticity,
        shift)
    faintest = [_FAINTEST * np.sqrt(camera.sky_variance)
                for camera in cameras]
    light = [_static_light(shape, psf, (x, y, flux), galaxies, *values)
             for psf, *values in zip(psfs, (scale, 1.0),
                                     (lambda *xy: xy, to_template),
                                     faintest, strict=True)]
    static = light[0].copy()

    # stars that vary stay below saturation, where their change can be measured
    peak = flux * scale * psfs[0](0.0, 0.0, 0.5 * shape[1], 0.5 * shape[0])
    varies = ((rng.random(n_stars) < variable_fraction)
              & (peak < 0.5 * saturation[0]))
    change = varies * flux * scale * rng.uniform(*_CHANGES, n_stars)
    change *= rng.choice([-1.0, 1.0], n_stars)
    # the template and the static light keep the stars as they were
    _add_stars(light[0], psfs[0], x, y, change, faintest[0])
    # up to a third of the transients are in galaxies
    transients = [rng.uniform(0.0, size, n_transients)
                  for size in shape[::-1]]
    for i, galaxy in enumerate(galaxies[:n_transients // 3]):
        for axis, center in zip(transients, galaxy[:2], strict=True):
            axis[i] = center + galaxy[3] * rng.normal()
    transients = [np.clip(axis, min(_MARGIN, size / 2),
                          size - min(_MARGIN, size / 2) - 1)
                  for axis, size in zip(transients, shape[::-1], strict=True)]
    new_flux = _flux_errors(psfs, *transients, scale, [
        np.broadcast_to(camera.sky_variance, shape) for camera in cameras])
    # signal-to-noise ratios from 4 to 100
    new_flux *= np.exp(rng.uniform(np.log(4.0), np.log(100.0), n_transients))
    _add_stars(light[0], psfs[0], *transients, new_flux, faintest[0])

    images, variances = zip(*(
        _observe(rng, image, camera, name, bad_fraction)
        for image, camera, name in zip(light, cameras,
                                       ('science', 'template'),
                                       strict=True)), strict=True)
    errors = _flux_errors(psfs, *transients, scale, variances)
    return ImagePair(
        science=images[0], template=images[1],
        stars=QTable({'x': x, 'y': y, 'flux': flux * scale * u.adu,
                      'change': change * u.adu}),
        transients=QTable({'x': transients[0], 'y': transients[1],
                           'flux': new_flux * u.adu,
                           'flux_err': errors * u.adu}),
        scale=scale, science_psf=psfs[0], template_psf=psfs[1],
        science_variance=variances[0], template_variance=variances[1],
        light=static)


def _draw_field(rng, shape, n_stars, n_galaxies, fwhm, variation, ellipticity,
                shift):
    """
    Draw the PSFs, a function from positions in the science image to those in
    the template, stars (x, y, flux), and galaxies (x, y, flux, size, axis
    ratio, and angle of each).
    """
    ny, nx = shape
    psfs = []
    for width, change in zip(fwhm, variation, strict=True):
        a, b, c, d = rng.uniform(-1.0, 1.0, 4)
        e = rng.uniform(-1.0, 1.0, (2, 3)) * ellipticity
        psfs.append(MoffatPSF(
            shape, (width, change * a, change * b, 0.5 * change * c),
            (e[0, 0], 0.5 * e[0, 1], 0.5 * e[0, 2], 0.0),
            (e[1, 0], 0.5 * e[1, 1], 0.5 * e[1, 2], 0.0),
            np.interp(d, (-1.0, 1.0), _BETA_RANGE)))
    offset = rng.uniform(-1.0, 1.0, (2, 3)) * shift * [1.0, 0.5, 0.5]

    def to_template(x, y):
        terms = 1.0, 2.0 * x / nx - 1.0, 2.0 * y / ny - 1.0
        return [axis + sum(a * b for a, b in zip(values, terms,
                                                 strict=True))
                for axis, values in zip((x, y), offset, strict=True)]

    # the inverse of the cumulative distribution of dN/dF ~ F^-(1 + slope)
    low, high, slope = _STAR_FLUXES
    part = rng.random(n_stars)
    flux = (low**-slope + part * (high**-slope - low**-slope))**(-1 / slope)
    stars = *(rng.uniform(-5.0, size + 5.0, n_stars)
              for size in (nx, ny)), flux
    galaxies = np.transpose([
        rng.uniform(0.0, nx, n_galaxies), rng.uniform(0.0, ny, n_galaxies),
        np.exp(rng.uniform(*np.log(_GALAXY_FLUXES), n_galaxies)),
        rng.uniform(*_GALAXY_SIZES, n_galaxies),
        rng.uniform(*_GALAXY_RATIOS, n_galaxies),
        rng.uniform(0.0, np.pi, n_galaxies)])
    return psfs, to_template, stars, galaxies


def _static_light(shape, psf, stars, galaxies, scale, moved, faintest):
    """
    Return the light of all constant sources in one of the images; galaxies
    are exponential disks, convolved with the PSF.
    """
    light = np.zeros(shape)
    x, y, flux = stars
    _add_stars(light, psf, *moved(x, y), flux * scale, faintest)
    for x, y, flux, size, ratio, angle in galaxies:
        # the flux that is cut off differs from image to image
        radius = int(7.0 * size) + _PSF_RADIUS
        x_new, y_new = moved(x, y)
        left, low = round(x) - radius, round(y) - radius
        grid = np.arange(2 * radius + 1)
        along, across = rotate(grid + left - x_new,
                               (grid + low - y_new)[:, None], angle)
        # softened: the values of a cusp at the centers of pixels would depend
        # on its place in its pixel
        disk = np.exp(-np.sqrt(along**2 + (across / ratio)**2 + 0.5) / size)
        disk = fftconvolve(disk / disk.sum(), psf.image(x, y, _PSF_RADIUS),
                           'same')
        add_stamp(light, flux * scale * disk, left, low)
    return light


def _add_stars(image, psf, xs, ys, fluxes, faintest):
    """
    Add stars out to the radius where they are fainter than a limit.
    """
    alpha = psf.alpha()
    for x, y, flux in zip(xs, ys, fluxes, strict=True):
        if flux == 0.0:
            continue
        peak = abs(flux) * (psf.beta - 1.0) / (np.pi * alpha**2)
        reach = alpha * (peak / faintest)**(0.5 / psf.beta)
        radius = int(np.clip(reach, 10, _MAX_RADIUS)) + 1
        j, i = round(x), round(y)
        add_stamp(image, flux * psf.image(x, y, radius, (x - j, y - i)),
                  j - radius, i - radius)


def _observe(rng, light, camera, name, bad_fraction):
    """
    Add sky, noise, saturation, and bad pixels.
    """
    ny, nx = light.shape
    y, x = np.ogrid[-1.0:1.0:1j * ny, -1.0:1.0:1j * nx]
    a, b, c, d = rng.uniform(-1.0, 1.0, 4)
    sky = 1.0 + _TILTS[name] * (a * x + b * y)
    if name == 'science':
        sky = sky + _CURVATURE * (c * x * y + d * y**2)
    mean = light + camera.sky * sky
    mean = np.maximum(mean, 0.0)
    variance = mean / camera.gain + (camera.read_noise / camera.gain)**2
    data = (rng.poisson(mean * camera.gain)
            + rng.normal(0.0, camera.read_noise, light.shape)) / camera.gain
    bad = data >= camera.saturation
    data[bad] = camera.saturation
    if bad_fraction > 0.0:
        broken = rng.random(light.shape) < bad_fraction
        broken[:, rng.integers(nx // 8, nx - nx // 8)] = True
        data[broken] = rng.choice([0.0, camera.saturation],
                                  np.count_nonzero(broken))
        bad |= broken
    # what a user knows: the noise of the counts that were measured
    error = np.sqrt(np.maximum(data, 0.0) / camera.gain
                    + (camera.read_noise / camera.gain)**2)
    image = CCDData(data.astype(np.float32), unit=u.adu, mask=bad,
                    uncertainty=StdDevUncertainty(error.astype(np.float32)))
    return image, variance


def _flux_errors(psfs, xs, ys, scale, variances, *, radius=31, core=6):
    """
    Return the smallest errors of the fluxes of transients.

    Both PSFs, the scale, and the variances, which are taken as constant
    under the PSF, are assumed to be known (Zackay, Ofek & Gal-Yam 2016,
    ApJ 830, 27).
    """
    errors = []
    for x, y in zip(xs, ys, strict=True):
        powers, levels = [], []
        left, low = round(x) - core, round(y) - core
        part = (slice(max(low, 0), low + 2 * core + 1),
                slice(max(left, 0), left + 2 * core + 1))
        for psf, variance in zip(psfs, variances, strict=True):
            powers.append(np.abs(np.fft.fft2(psf.image(x, y, radius)))**2)
            # the mean of the variance, weighted by the squared PSF
            values = variance[part]
            weight = psf.image(x, y, core, (x - left - core,
                                            y - low - core))**2
            weight = weight[max(-low, 0):, max(-left, 0):][
                :values.shape[0], :values.shape[1]]
            levels.append(np.sum(weight * values) / weight.sum())
        new, old = powers
        noise = levels[0] * old + scale**2 * levels[1] * new
        errors.append(1.0 / np.sqrt(np.mean(new * old / noise)))
    return np.array(errors)
