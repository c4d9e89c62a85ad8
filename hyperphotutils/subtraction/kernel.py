# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Convolution kernels that vary over the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from numpy.typing import ArrayLike
from scipy.fft import rfft2

from hyperphotutils.subtraction.polynomials import (
    polynomial_degrees,
    polynomial_order,
    polynomial_terms,
    sample_grid,
)
from hyperphotutils.subtraction.tiling import (
    TiledKernel,
    cut,
    fast_shape,
    low_rank_kernel,
    smoothed,
    tiles,
)
from hyperphotutils.utils.output import atomic_output
from hyperphotutils.utils.tables import make_repr, strip_units

if TYPE_CHECKING:
    from astropy.units import Quantity

    from hyperphotutils.utils.typing import (
        ArrayOrQuantity,
        FilePath,
        FloatOrArray,
    )

__all__ = ['RegionKernel', 'SpatialKernel', 'kernel_from_hdu']


class _Kernel:
    """
    The common part of all kernels.

    A subclass has the attributes ``radius`` and ``shape`` and the methods
    ``__call__``, ``tiled``, ``tiled_square``, and ``to_hdu``.
    """

    def __repr__(self) -> str:
        return make_repr(self)

    def sum(self, x: ArrayLike, y: ArrayLike) -> FloatOrArray:
        """
        Return the sum of the kernel at a position.

        Parameters
        ----------
        x, y : float or array_like
            The pixel positions.

        Returns
        -------
        total : float or `~numpy.ndarray`
            The sum.
        """
        return self(x, y).sum(axis=(-2, -1))

    def image(self, grid: tuple[int, int] = (5, 5)) -> np.ndarray:
        """
        Return a mosaic of the kernels over the image.

        Parameters
        ----------
        grid : tuple of 2 ints, optional
            The number of kernels along y and x.

        Returns
        -------
        mosaic : 2D `~numpy.ndarray`
            The kernels at the centers of the cells of a grid.
        """
        y, x = ((np.arange(n) + 0.5) * size / n - 0.5
                for n, size in zip(grid, self.shape, strict=True))
        # the rows of the pixels of a kernel belong beside those of the next
        kernels = self(*np.meshgrid(x, y))
        side = 2 * self.radius + 1
        return kernels.transpose(0, 2, 1, 3).reshape(grid[0] * side,
                                                     grid[1] * side)

    def convolve(self, image: ArrayLike | Quantity) -> ArrayOrQuantity:
        """
        Convolve an image.

        Outside of the image, zero is taken.

        Parameters
        ----------
        image : 2D array_like or `~astropy.units.Quantity`
            The image, with the shape of the kernel's and without NaN.

        Returns
        -------
        convolved : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The image, in single precision if the input is, else in
            double precision.

        Raises
        ------
        ValueError
            If the image has another shape or pixels that are not finite.
        """
        return self._apply(image, self.tiled())

    def convolve_variance(self,
                          variance: ArrayLike | Quantity) -> ArrayOrQuantity:
        """
        Calculate the variances of the convolved image.

        That is the convolution with the square of the kernel, which is
        right if the noise of the pixels is independent.

        Parameters
        ----------
        variance : 2D array_like or `~astropy.units.Quantity`
            The variances of the image.

        Returns
        -------
        convolved : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The variances of the convolved image.
        """
        return self._apply(variance, self.tiled_square(tolerance=1e-7))

    def write(self, path: FilePath, *, overwrite: bool = False) -> None:
        """
        Write the kernel to a FITS file.

        Parameters
        ----------
        path : str or path-like
            The file.

        overwrite : bool, optional
            Whether an existing file is replaced.
        """
        with atomic_output(path, overwrite=overwrite) as temporary:
            fits.HDUList([fits.PrimaryHDU(), self.to_hdu()]).writeto(
                temporary)

    @staticmethod
    def read(path: FilePath) -> SpatialKernel | RegionKernel:
        """
        Read a kernel from a file of ``write`` or of `SubtractionResult`.

        Parameters
        ----------
        path : str or path-like
            The file.

        Returns
        -------
        kernel : `SpatialKernel` or `RegionKernel`
            The kernel.

        Raises
        ------
        ValueError
            If the file has no kernel.
        """
        with fits.open(Path(path), memmap=False) as hdus:
            if 'KERNEL' not in hdus:
                msg = f'{path} has no extension KERNEL'
                raise ValueError(msg)
            return kernel_from_hdu(hdus['KERNEL'])

    def _apply(self, image, tiled):
        values, unit = strip_units(image=image)
        image = np.asarray(values['image'])
        if image.dtype.kind != 'f' or not image.dtype.isnative:
            image = image.astype(float)
        if image.shape != self.shape:
            msg = (f'image must have the shape of the kernel, {self.shape}, '
                   f'got {image.shape}')
            raise ValueError(msg)
        if not np.all(np.isfinite(image)):
            msg = 'image must be finite: replace NaN before the convolution'
            raise ValueError(msg)
        out = np.empty(self.shape, dtype=image.dtype)
        for y0, y1, x0, x1 in tiles(self.shape):
            r = self.radius
            padded = cut(image, y0 - r, y1 + r, x0 - r, x1 + r, fill=0.0)
            out[y0:y1, x0:x1] = tiled(padded, y0, x0)
        return out if unit is None else out << unit


class SpatialKernel(_Kernel):
    """
    A convolution kernel that varies over the image.

    The kernel is :math:`K(x, y) = \\sum_p P_p(x, y) K_p` with the
    products of Legendre polynomials :math:`P_p`, whose arguments run
    from -1 to 1 over the image.

    Parameters
    ----------
    terms : 3D array_like
        The images :math:`K_p` of shape (n_terms, side, side) with an
        odd side. The products of the Legendre polynomials are ordered
        by their total degree, and those of the same degree by that
        in y: 1, x, y, x^2, x y, y^2, ... Their number gives the order.

    shape : tuple of int
        The (ny, nx) shape of the image on which the kernel is defined.

    Raises
    ------
    ValueError
        If ``terms`` or ``shape`` have a wrong shape or number.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.subtraction import SpatialKernel
    >>> terms = np.zeros((3, 3, 3))
    >>> terms[0, 1, 1] = 2.0   # twice the image,
    >>> terms[1, 1, 1] = 0.1   # and more on the right
    >>> kernel = SpatialKernel(terms, (50, 100))
    >>> kernel.order
    1
    >>> print(kernel.sum(49.5, 24.5), kernel.sum(99, 0).round(3))
    2.0 2.099
    >>> image = np.ones((50, 100))
    >>> print(kernel.convolve(image)[25, [0, 99]].round(3))
    [1.901 2.099]
    """

    _repr_params = ('terms', 'shape')

    def __init__(self, terms: ArrayLike, shape: tuple[int, ...]) -> None:
        terms = np.array(terms, dtype=float)
        if (terms.ndim != 3 or terms.shape[1] != terms.shape[2]
                or terms.shape[1] % 2 == 0):
            msg = ('terms must be a stack of square images of an odd side: '
                   f'got the shape {terms.shape}')
            raise ValueError(msg)
        order = polynomial_order(len(terms))
        if not len(terms) or len(polynomial_degrees(order)) != len(terms):
            msg = ('terms must be 1, 3, 6, 10, ... images, all of an order: '
                   f'got {len(terms)}')
            raise ValueError(msg)
        self.terms = terms
        self.order = order
        self.shape = tuple(int(size) for size in shape)
        if len(self.shape) != 2 or min(self.shape) < 1:
            msg = f'shape must be two positive whole numbers: {shape!r}'
            raise ValueError(msg)
        self.radius = terms.shape[1] // 2

    def __call__(self, x: ArrayLike, y: ArrayLike) -> np.ndarray:
        """
        Return the kernel at a position as an image; a stack of them for
        arrays.
        """
        return np.tensordot(
            polynomial_terms(x, y, self.order, self.shape), self.terms, 1)

    def tiled(self) -> Callable:
        """
        Return the kernel in the form that is applied to tiles.

        Returns
        -------
        tiled : callable
            Called with a tile, that has a margin of the radius of the
            kernel, and the row and the column of its first pixel.
        """
        # each image belongs to one product of Legendre polynomials
        weights = np.zeros((len(self.terms), self.order + 1,
                            self.order + 1))
        for n, (i, j) in enumerate(polynomial_degrees(self.order)):
            weights[n, j, i] = 1.0
        return TiledKernel(self.terms, weights, self.shape)

    def tiled_square(self, *, noise_kernel: np.ndarray | None = None,
                     tolerance: float = 1e-2) -> Callable:
        """
        Return the square, with which variances are convolved.

        Parameters
        ----------
        noise_kernel : 2D `~numpy.ndarray`, optional
            The kernel that makes the noise of the image of white noise.

        tolerance : float, optional
            What may be dropped of its sum of squares, as a root.

        Returns
        -------
        tiled : callable
            Called as what ``tiled`` returns.
        """
        # the square of a polynomial is one of twice its order, which as
        # many positions and one more determine
        order = 2 * self.order
        x, y = sample_grid(self.shape, order + 1)
        samples = smoothed(self(x, y), noise_kernel)
        return low_rank_kernel(samples**2, x, y, self.shape, order,
                               tolerance=tolerance)

    def to_hdu(self) -> fits.ImageHDU:
        """
        Return the kernel as an extension of a FITS file.

        Returns
        -------
        hdu : `~astropy.io.fits.ImageHDU`
            The extension.
        """
        hdu = fits.ImageHDU(self.terms, name='KERNEL')
        hdu.header['IMNAXIS1'] = self.shape[1], 'width of the image'
        hdu.header['IMNAXIS2'] = self.shape[0], 'height of the image'
        hdu.header['KORDER'] = self.order, 'order of the variation'
        return hdu


class RegionKernel(_Kernel):
    """
    Kernels that were fitted separately in rectangular regions.

    Around the borders of the regions, over a strip of twice the radius of
    the kernel, the kernels are blended linearly.

    Parameters
    ----------
    kernels : sequence of `SpatialKernel`
        The kernels, row by row, each defined on the whole image and with
        the same radius.

    n_regions : tuple of 2 ints
        The number of regions along y and x.

    Raises
    ------
    ValueError
        If the number of kernels is another one, or their radii or shapes
        differ.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.subtraction import RegionKernel, SpatialKernel
    >>> terms = np.zeros((1, 3, 3))
    >>> terms[0, 1, 1] = 1.0
    >>> kernel = RegionKernel([SpatialKernel(factor * terms, (40, 80))
    ...                        for factor in (1.0, 2.0)], (1, 2))
    >>> print(kernel.sum([10, 39.5, 70], 20))
    [1.  1.5 2. ]
    """

    _repr_params = ('kernels', 'n_regions')

    def __init__(self, kernels: Sequence[SpatialKernel],
                 n_regions: tuple[int, int]) -> None:
        self.kernels = tuple(kernels)
        self.n_regions = tuple(int(n) for n in n_regions)
        if len(self.kernels) != np.prod(self.n_regions):
            msg = (f'kernels must be {self.n_regions[0]} x '
                   f'{self.n_regions[1]}: got {len(self.kernels)}')
            raise ValueError(msg)
        if len({(kernel.radius, kernel.shape)
                for kernel in self.kernels}) != 1:
            msg = 'kernels must have the same radius and shape'
            raise ValueError(msg)
        self.radius = self.kernels[0].radius
        self.shape = self.kernels[0].shape
        self.order = max(kernel.order for kernel in self.kernels)

    def weights(self, x: ArrayLike, y: ArrayLike) -> np.ndarray:
        """
        Return the weight of each kernel at positions.

        Parameters
        ----------
        x, y : array_like
            The pixel positions.

        Returns
        -------
        weights : `~numpy.ndarray`
            The weights, along a new first axis; their sum is one.
        """
        along = []
        for position, size, n in zip((y, x), self.shape, self.n_regions,
                                     strict=True):
            position = np.asarray(position, dtype=float)
            # each border is a ramp from 0 to 1; the weight of a region is
            # the ramp at its left border less that at its right one
            borders = size * np.arange(1, n) / n - 0.5
            steps = [np.ones_like(position), *(
                np.clip((position - border + self.radius)
                        / (2.0 * self.radius), 0.0, 1.0)
                for border in borders), np.zeros_like(position)]
            along.append([left - right for left, right in pairwise(steps)])
        return np.array([part_y * part_x for part_y in along[0]
                         for part_x in along[1]])

    def __call__(self, x: ArrayLike, y: ArrayLike) -> np.ndarray:
        """
        Return the kernel at a position as an image; a stack of them for
        arrays.
        """
        return sum(weight[..., None, None] * kernel(x, y) for weight, kernel
                   in zip(self.weights(x, y), self.kernels, strict=True))

    def tiled(self) -> Callable:
        """
        Return the kernel in the form that is applied to tiles.

        Returns
        -------
        tiled : callable
            See ``SpatialKernel.tiled``.
        """
        return _RegionTiles(self, [kernel.tiled()
                                   for kernel in self.kernels])

    def tiled_square(self, **options: dict) -> Callable:
        """
        Return the square, with which variances are convolved.

        Where two kernels are blended, the mean of their squares is taken.

        Parameters
        ----------
        **options : dict
            See ``SpatialKernel.tiled_square``.

        Returns
        -------
        tiled : callable
            See ``SpatialKernel.tiled``.
        """
        return _RegionTiles(self, [kernel.tiled_square(**options)
                                   for kernel in self.kernels])

    def to_hdu(self) -> fits.ImageHDU:
        """
        Return the kernel as an extension of a FITS file.

        Returns
        -------
        hdu : `~astropy.io.fits.ImageHDU`
            The extension.
        """
        # lower orders are those with the further terms zero
        hdu = self.kernels[0].to_hdu()
        n_terms = len(polynomial_degrees(self.order))
        terms = np.zeros((len(self.kernels), n_terms,
                          *self.kernels[0].terms.shape[1:]))
        for out, kernel in zip(terms, self.kernels, strict=True):
            out[:len(kernel.terms)] = kernel.terms
        hdu.data = terms
        hdu.header['NREGY'], hdu.header['NREGX'] = self.n_regions
        hdu.header['KORDER'] = self.order
        return hdu


class _RegionTiles:
    """
    The kernels of the regions, applied to one tile.
    """

    def __init__(self, kernel, parts):
        self._kernel = kernel
        self._parts = parts

    def __call__(self, padded, y0, x0):
        margin = self._kernel.radius
        height, width = np.subtract(padded.shape, 2 * margin)
        weights = self._kernel.weights(x0 + np.arange(width),
                                       y0 + np.arange(height)[:, None])
        # the tile is transformed once for all regions that it touches
        spectrum = rfft2(padded, s=fast_shape(padded.shape))
        return sum(weight.astype(padded.dtype)
                   * part(padded, y0, x0, spectrum=spectrum)
                   for weight, part in zip(weights, self._parts, strict=True)
                   if weight.any())


def kernel_from_hdu(hdu):
    """
    Make a kernel of the extension that ``to_hdu`` made.
    """
    header = hdu.header
    shape = header['IMNAXIS2'], header['IMNAXIS1']
    if 'NREGY' not in header:
        return SpatialKernel(hdu.data, shape)
    return RegionKernel([SpatialKernel(terms, shape) for terms in hdu.data],
                        (header['NREGY'], header['NREGX']))
