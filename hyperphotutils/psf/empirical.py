# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
An empirical PSF that varies over the field.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.nddata import NDData
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import ArrayLike
from scipy.ndimage import spline_filter1d

from hyperphotutils.psf.grid import (
    cubic_bspline,
    polynomial_powers,
    polynomial_terms,
)
from hyperphotutils.utils.checks import psf_offset
from hyperphotutils.utils.gaussians import add_stamp
from hyperphotutils.utils.mixtures import fit_concentric_gaussians

if TYPE_CHECKING:
    from astropy.table import QTable
    from astropy.units import Quantity
    from photutils.psf import GriddedPSFModel, ImagePSF

    from hyperphotutils.utils.mixtures import ConcentricGaussians
    from hyperphotutils.utils.typing import (
        ArrayOrQuantity,
        FilePath,
        FloatOrArray,
    )

__all__ = ['EmpiricalPSF']

# Largest difference of the sum from 1 that is left as it is.
_SUM_TOLERANCE = 0.01

# Positions in a chunk of evaluated images.
_CHUNK = 256


class EmpiricalPSF:
    """
    A PSF given by images that are the coefficients of a polynomial in
    the position.

    The images are the effective PSF: the part of the flux of a point
    source that a pixel receives whose center is at a given distance from
    the source. It is made by `EmpiricalPSFBuilder`, or read by
    `read_psf`.

    Parameters
    ----------
    coefficients : 2D or 3D array_like
        Shape ``(n_terms, size, size)``, or one image for a constant PSF.
        The size must be odd; the PSF is centered on the central sample.
        The terms are 1, x, x^2, y, x y, y^2 for order 2
        (as in PSFEx).

    oversampling : float, optional
        The number of samples a pixel along each axis.

    center, scale : tuple of 2 floats, optional
        The terms are powers of ``(x - center[0]) / scale[0]`` and
        ``(y - center[1]) / scale[1]``, where x and y are pixels counted
        from 0.

    stars : `~astropy.table.QTable`, optional
        The stars that the PSF was made from.

    star_images, residuals : 3D `~numpy.ndarray`, optional
        The images of the stars with a fit, one for each row of ``stars``
        whose ``flux_fit`` is finite, and what the fit leaves of them.

    error : 2D `~numpy.ndarray`, optional
        The standard deviation of each pixel of the PSF at ``center``.

    meta : dict, optional
        The metadata, such as the versions and the constructor call.

    Warns
    -----
    ~astropy.utils.exceptions.AstropyUserWarning
        If the PSF has no unit sum (it is divided by it) or its centroid
        is more than 0.2 pixels from the center.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.psf import EmpiricalPSF
    >>> y, x = np.mgrid[-12:13, -12:13]
    >>> image = np.exp(-0.5 * (x**2 + y**2) / 1.5**2)
    >>> psf = EmpiricalPSF(image / image.sum())
    >>> print(f'{psf.fwhm():.2f} {psf(0, 0)[12, 12]:.4f}')
    3.54 0.0707
    """

    def __init__(
            self, coefficients: ArrayLike, *, oversampling: float = 1,
            center: tuple[float, float] = (0.0, 0.0),
            scale: tuple[float, float] = (1.0, 1.0),
            stars: QTable | None = None, star_images: np.ndarray | None = None,
            residuals: np.ndarray | None = None,
            error: np.ndarray | None = None, meta: dict | None = None) -> None:
        coefficients = np.array(coefficients, dtype=float)
        if coefficients.ndim == 2:
            coefficients = coefficients[np.newaxis]
        n_terms, *shape = coefficients.shape
        self.order = next((order for order in range(20)
                            if len(polynomial_powers(order)) == n_terms),
                           None)
        if coefficients.ndim != 3 or self.order is None:
            msg = ('coefficients must have the shape (n_terms, size, size) '
                   'with as many terms as a polynomial in x and y has: got '
                   f'{coefficients.shape}')
            raise ValueError(msg)
        if shape[0] != shape[1] or shape[0] % 2 == 0:
            msg = ('coefficients must be square images of odd size, so that '
                   f'the PSF has a central sample: got {shape[0]} x '
                   f'{shape[1]}')
            raise ValueError(msg)
        if not np.isfinite(coefficients).all():
            msg = 'coefficients must be finite'
            raise ValueError(msg)
        if not oversampling > 0:
            msg = f'oversampling must be positive: got {oversampling}'
            raise ValueError(msg)
        total = coefficients[0].sum() / oversampling**2
        if not total > 0.0:
            msg = f'coefficients must have a positive sum: got {total:.3g}'
            raise ValueError(msg)
        if abs(total - 1.0) > _SUM_TOLERANCE:
            msg = f'the PSF sums to {total:.4g} instead of 1: divided by it'
            warnings.warn(msg, AstropyUserWarning, stacklevel=2)
            coefficients = coefficients / total
        self.oversampling = oversampling
        self.coefficients = coefficients
        self.center = tuple(map(float, center))
        self.scale = tuple(map(float, scale))
        self.stars = stars
        self.star_images = star_images
        self.residuals = residuals
        self.error = error
        self.meta = {} if meta is None else dict(meta)
        if (offset := psf_offset(self.coefficients[0],
                                 oversampling)) is not None:
            msg = ('the centroid of the PSF is ({:+.2f}, {:+.2f}) pixels '
                   'from its central sample: positions measured with it are '
                   'shifted'.format(*offset))
            warnings.warn(msg, AstropyUserWarning, stacklevel=2)

    def __repr__(self) -> str:
        # the order is not that of the fit, see `PSFFit.make_psf`
        return (f'<EmpiricalPSF(size={self.size}, '
                f'n_terms={len(self.coefficients)}, '
                f'oversampling={self.oversampling}, '
                f'n_stars={self.n_stars}, fwhm={self.fwhm():.2f})>')

    @property
    def size(self) -> int:
        """
        The side of the images of the PSF in pixels, an odd number.
        """
        half = self.coefficients.shape[-1] // 2
        return 2 * int(half / self.oversampling + 1e-9) + 1

    @property
    def n_stars(self) -> int:
        """
        The number of stars that the PSF was made from.
        """
        if self.stars is None or 'used' not in self.stars.colnames:
            return 0
        return int(np.sum(self.stars['used']))

    @property
    def covariance_trace(self) -> float | None:
        """
        The sum of the variances of all pixels of the PSF at the center
        of the field.
        """
        return None if self.error is None else float(np.sum(self.error**2))

    def __call__(self, x: ArrayLike | None = None, y: ArrayLike | None = None,
                 *, dx: ArrayLike = 0.0, dy: ArrayLike = 0.0) -> np.ndarray:
        """
        Return the PSF at positions in the field.

        Parameters
        ----------
        x, y : float or 1D array_like, optional
            The positions in pixels. The default is the center of the
            field.

        dx, dy : float or 1D array_like, optional
            The offsets of the PSF from the central pixel of its image,
            in pixels.

        Returns
        -------
        psf : 2D or 3D `~numpy.ndarray`
            The part of the flux in each pixel, shape ``(size, size)``,
            or ``(n, size, size)`` if any argument is an array.
        """
        half = self.size // 2
        grid = np.arange(-half, half + 1.0)
        return self._evaluate(x, y, dx, dy, grid)

    def _evaluate(self, x, y, dx, dy, grid):
        """
        Evaluate the PSF at the given offsets from the central pixel.
        """
        x = self.center[0] if x is None else x
        y = self.center[1] if y is None else y
        scalar = all(np.ndim(value) == 0 for value in (x, y, dx, dy))
        x, y, dx, dy = np.broadcast_arrays(*(
            np.atleast_1d(np.asarray(value, dtype=float))
            for value in (x, y, dx, dy)))
        terms = polynomial_terms((x - self.center[0]) / self.scale[0],
                                 (y - self.center[1]) / self.scale[1],
                                 self.order)
        images = np.empty((len(x), len(grid), len(grid)))
        for start in range(0, len(x), _CHUNK):
            part = slice(start, start + _CHUNK)
            splines = np.tensordot(terms[part], self._splines, 1)
            images[part] = (
                self._interpolation(grid - dy[part, None]) @ splines
                @ self._interpolation(grid - dx[part, None]).swapaxes(1, 2))
        return images[0] if scalar else images

    @cached_property
    def _splines(self):
        """
        The coefficients of the cubic splines through the samples, with
        zeros around.
        """
        # PSFEx has a Lanczos function (Bertin 2011, ASPC 442, 435), from which
        # splines differ by 1e-3 of the peak
        padded = np.pad(self.coefficients, ((0, 0), (2, 2), (2, 2)))
        for axis in (1, 2):
            padded = spline_filter1d(padded, 3, axis=axis, mode='constant')
        return padded

    def _interpolation(self, place):
        """
        Return the matrices from spline coefficients to the values at
        offsets in pixels, shape ``(n, len(place), n_samples)``.
        """
        n = self._splines.shape[-1]
        knots = np.arange(n) - n // 2
        return cubic_bspline(place[..., np.newaxis] * self.oversampling
                             - knots)

    def image(self, x: float | None = None, y: float | None = None, *,
              oversampling: int = 1) -> np.ndarray:
        """
        Return a finely sampled image of the PSF.

        Parameters
        ----------
        x, y : float, optional
            The position in the field. The default is its center.

        oversampling : int, optional
            The number of samples a pixel along each axis.

        Returns
        -------
        image : 2D `~numpy.ndarray`
            The samples. Their sum is about ``oversampling**2``. Their
            number along each axis is odd.
        """
        half = self.size // 2 * oversampling + (oversampling - 1) // 2
        grid = np.arange(-half, half + 1.0) / oversampling
        return self._evaluate(x, y, 0.0, 0.0, grid)

    def resample(self, oversampling: float) -> np.ndarray:
        """
        Return the coefficients with another sampling.

        Parameters
        ----------
        oversampling : float
            The number of samples a pixel along each axis.

        Returns
        -------
        coefficients : 3D `~numpy.ndarray`
            Like ``coefficients``.
        """
        if oversampling == self.oversampling:
            return self.coefficients.copy()
        half = int(self.size // 2 * oversampling + 1e-9)
        matrix = self._interpolation(
            np.arange(-half, half + 1.0) / oversampling)
        return matrix @ self._splines @ matrix.T

    def fwhm(self, x: float | None = None, y: float | None = None) -> float:
        """
        Return the full width at half maximum in pixels.

        Parameters
        ----------
        x, y : float, optional
            The position in the field. The default is its center.

        Returns
        -------
        fwhm : float
            The diameter of the circle with the area in which the PSF,
            which includes the pixel, is above half of its maximum.
        """
        # an area, since the core may be neither round nor a Gaussian; first on
        # pixels, to know how far it reaches
        half = min(self.size // 2, 20)
        coarse = self._evaluate(x, y, 0.0, 0.0, np.arange(-half, half + 1.0))
        n_above = np.count_nonzero(coarse > 0.5 * coarse.max())
        reach = min(half, 3.0 * np.sqrt(n_above) + 2.0)
        step = reach / 150.0
        fine = self._evaluate(x, y, 0.0, 0.0,
                              np.arange(-reach, reach + 0.5 * step, step))
        area = np.count_nonzero(fine > 0.5 * fine.max()) * step**2
        return float(2.0 * np.sqrt(area / np.pi))

    def ellipticity(self, x: float | None = None,
                    y: float | None = None) -> tuple[float, float]:
        """
        Return the two components of the ellipticity.

        Parameters
        ----------
        x, y : float, optional
            The position in the field. The default is its center.

        Returns
        -------
        e1, e2 : float
            From the second moments under a Gaussian of the width of the
            PSF: ``(xx - yy) / (xx + yy)``, which is positive along x,
            and ``2 xy / (xx + yy)``, which is positive along the
            diagonal.
        """
        # under a weight, as in Kaiser, Squires & Broadhurst (1995, ApJ 449,
        # 460): second moments of a PSF with wings may diverge
        image = self(x, y)
        grid = np.arange(self.size) - self.size // 2
        width = 0.8 * self.fwhm(x, y)
        weight = np.exp(-0.5 * (grid / width)**2)
        product = image * weight * weight[:, None]
        total = product.sum()
        mx, my = (product.sum(0) @ grid / total, product.sum(1) @ grid
                  / total)
        xx = product.sum(0) @ (grid - mx)**2
        yy = product.sum(1) @ (grid - my)**2
        xy = (grid - my) @ product @ (grid - mx)
        return float((xx - yy) / (xx + yy)), float(2.0 * xy / (xx + yy))

    def encircled_energy(self, radius: ArrayLike, x: float | None = None,
                         y: float | None = None) -> FloatOrArray:
        """
        Return the part of the flux within circles around the center.

        Parameters
        ----------
        radius : float or 1D array_like
            The radii in pixels.

        x, y : float, optional
            The position in the field. The default is its center.

        Returns
        -------
        energy : float or 1D `~numpy.ndarray`
            The parts, relative to the flux in the image of the PSF.
        """
        n_sub = 5
        image = self.image(x, y, oversampling=n_sub) / n_sub**2
        grid = (np.arange(len(image)) - len(image) // 2) / n_sub
        distance = np.hypot(grid[:, None], grid).ravel()
        order = np.argsort(distance, kind='stable')
        total = np.cumsum(image.ravel()[order])
        place = np.searchsorted(distance[order], np.asarray(radius),
                                side='right')
        energy = np.concatenate([[0.0], total])[place]
        return float(energy) if np.ndim(radius) == 0 else energy

    def to_image_psf(self, x: float | None = None, y: float | None = None, *,
                     oversampling: int = 4) -> ImagePSF:
        """
        Return the PSF at one position as a photutils model.

        Parameters
        ----------
        x, y : float, optional
            The position in the field. The default is its center.

        oversampling : int, optional
            The number of samples a pixel along each axis.

        Returns
        -------
        model : `~photutils.psf.ImagePSF`
            The model.
        """
        from photutils.psf import ImagePSF

        return ImagePSF(self.image(x, y, oversampling=oversampling),
                        oversampling=oversampling)

    def to_gridded(self, shape: tuple[int, int], *,
                   n_positions: int | None = None,
                   oversampling: int = 4) -> GriddedPSFModel:
        """
        Return the PSF on a grid of positions as a photutils model.

        Parameters
        ----------
        shape : tuple of 2 ints
            The shape ``(ny, nx)`` of the image.

        n_positions : int, optional
            The number of positions along each axis. The default is 1
            for a constant PSF, 2 for one that is linear in the
            position, else 5: photutils interpolates linearly.

        oversampling : int, optional
            The number of samples a pixel along each axis.

        Returns
        -------
        model : `~photutils.psf.GriddedPSFModel`
            The model.
        """
        from photutils.psf import GriddedPSFModel

        # photutils interpolates linearly, which is exact for order 1
        if n_positions is None:
            n_positions = (1, 2, 5)[min(self.order, 2)]
        ny, nx = shape
        if n_positions == 1:
            places = [(0.5 * (nx - 1), 0.5 * (ny - 1))]
        else:
            places = [(x, y) for y in np.linspace(0, ny - 1, n_positions)
                      for x in np.linspace(0, nx - 1, n_positions)]
        cube = np.stack([self.image(x, y, oversampling=oversampling)
                         for x, y in places])
        meta = {'grid_xypos': places, 'oversampling': oversampling}
        return GriddedPSFModel(NDData(cube, meta=meta))

    def as_gaussians(self, n_gaussians: int = 3, x: float | None = None,
                     y: float | None = None) -> ConcentricGaussians:
        """
        Represent the PSF by a short sum of concentric Gaussians.

        Parameters
        ----------
        n_gaussians : int, optional
            The number of Gaussians.

        x, y : float, optional
            The position in the field. The default is its center.

        Returns
        -------
        mixture : `~hyperphotutils.utils.ConcentricGaussians`
            The Gaussians, see
            `~hyperphotutils.utils.fit_concentric_gaussians`.
        """
        return fit_concentric_gaussians(self(x, y), n_gaussians)

    def make_model_image(self, shape: tuple[int, int], x: ArrayLike,
                         y: ArrayLike,
                         flux: ArrayLike | Quantity) -> ArrayOrQuantity:
        """
        Make an image of point sources.

        Parameters
        ----------
        shape : tuple of 2 ints
            The shape ``(ny, nx)`` of the image.

        x, y : 1D array_like
            The positions in pixels.

        flux : 1D array_like or `~astropy.units.Quantity`
            The fluxes. Sources with a value that is not finite are left
            out.

        Returns
        -------
        image : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The image, with the unit of ``flux``.
        """
        unit = getattr(flux, 'unit', None)
        x, y, flux = (np.atleast_1d(np.asarray(
            getattr(value, 'value', value), dtype=float))
            for value in (x, y, flux))
        half = self.size // 2
        with np.errstate(invalid='ignore'):
            near = ((np.abs(x - 0.5 * shape[1]) < 0.5 * shape[1] + half + 1)
                    & (np.abs(y - 0.5 * shape[0]) < 0.5 * shape[0] + half + 1)
                    & np.isfinite(flux))
        x, y, flux = x[near], y[near], flux[near]
        col, row = np.rint(x).astype(int), np.rint(y).astype(int)
        image = np.zeros(shape)
        # in parts, which bound the memory
        for start in range(0, len(x), _CHUNK):
            part = slice(start, start + _CHUNK)
            stamps = flux[part, None, None] * self(
                x[part], y[part], dx=x[part] - col[part],
                dy=y[part] - row[part])
            for stamp, left, low in zip(stamps, col[part] - half,
                                        row[part] - half, strict=True):
                add_stamp(image, stamp, left, low)
        return image if unit is None else image << unit

    def write(self, path: FilePath, *, overwrite: bool = False,
              oversampling: float | None = None) -> None:
        """
        Write the PSF to a file.

        Parameters
        ----------
        path : str or `~pathlib.Path`
            The name of the file. With the suffix ``.psf``, it has the
            format of PSFEx, which does not contain the stars' images;
            otherwise it is a FITS file with all of the PSF.

        overwrite : bool, optional
            Whether an existing file may be replaced.

        oversampling : float, optional
            The sampling of a ``.psf`` file, as 1 / ``PSF_SAMP``. The
            default is that of the PSF; DRE needs 1.

        See Also
        --------
        read_psf
        """
        from hyperphotutils.psf.writers import write_fits, write_psfex

        if Path(path).suffix == '.psf':
            write_psfex(self, path, overwrite=overwrite,
                        oversampling=oversampling)
        else:
            if oversampling is not None:
                msg = 'oversampling is for .psf files only'
                raise ValueError(msg)
            write_fits(self, path, overwrite=overwrite)
