# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Convolution kernels that vary over the image, applied tile by tile.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.polynomial.legendre import legvander
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.signal import fftconvolve

from hyperphotutils.utils.tables import make_repr, strip_units

__all__ = ['SpatialKernel', 'TiledKernel', 'cut', 'low_rank_kernel',
           'polynomial_degrees', 'polynomial_order', 'polynomial_terms',
           'sample_grid', 'scaled_position', 'smoothed', 'squared_kernel',
           'tiles']

# The side of a tile without its margin, if nothing else is asked for
_TILE_SIZE = 520


def polynomial_degrees(order):
    """
    List the degrees in x and y of the terms of a polynomial.

    Parameters
    ----------
    order : int
        The highest total degree.

    Returns
    -------
    degrees : list of tuple of int
        The degrees, sorted by the total one, so that the terms of a
        lower order are the first.
    """
    return [(total - j, j) for total in range(order + 1)
            for j in range(total + 1)]


def polynomial_order(n_terms):
    """
    Return the order of a polynomial of two variables.

    Parameters
    ----------
    n_terms : int
        The number of its terms.

    Returns
    -------
    order : int
        The order, the largest whose terms are no more.
    """
    # there are (order + 1) (order + 2) / 2 terms
    return int(np.sqrt(2.0 * n_terms + 0.25) - 1.5)


def scaled_position(position, size):
    """
    Scale pixel positions to -1 and 1 at the edges of the image.

    Parameters
    ----------
    position : array_like
        Pixel positions along one axis.

    size : int
        The number of pixels.

    Returns
    -------
    scaled : `~numpy.ndarray`
        The scaled positions.
    """
    return (2.0 * np.asarray(position, dtype=float) - (size - 1)) / size


def polynomial_terms(x, y, order, shape):
    """
    Evaluate products of Legendre polynomials at positions.

    Parameters
    ----------
    x, y : array_like
        The pixel positions.

    order : int
        The highest total degree.

    shape : tuple of int
        The (ny, nx) shape of the image.

    Returns
    -------
    terms : `~numpy.ndarray`
        The terms, along a new last axis.
    """
    x, y = np.broadcast_arrays(scaled_position(x, shape[1]),
                               scaled_position(y, shape[0]))
    # legvander makes arrays of scalars
    along_x, along_y = (legvander(axis, order).reshape(*axis.shape, -1)
                        for axis in (x, y))
    return np.stack([along_x[..., i] * along_y[..., j]
                     for i, j in polynomial_degrees(order)], axis=-1)


class SpatialKernel:
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

    def __init__(self, terms, shape):
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

    def __repr__(self):
        return make_repr(self)

    def __call__(self, x, y):
        """
        Return the kernel at a position.

        Parameters
        ----------
        x, y : float or array_like
            The pixel positions, 0 at the center of the first pixel.

        Returns
        -------
        kernel : `~numpy.ndarray`
            The kernel as an image; a stack of them for arrays.
        """
        return np.tensordot(
            polynomial_terms(x, y, self.order, self.shape), self.terms, 1)

    def sum(self, x, y):
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
        return (polynomial_terms(x, y, self.order, self.shape)
                @ self.terms.sum(axis=(1, 2)))

    def image(self, grid=(5, 5)):
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
        kernels = self(*np.meshgrid(x, y))
        side = 2 * self.radius + 1
        return kernels.transpose(0, 2, 1, 3).reshape(grid[0] * side,
                                                     grid[1] * side)

    def convolve(self, image):
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
        return self._apply(image, TiledKernel.from_kernel(self))

    def convolve_variance(self, variance):
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
        return self._apply(variance, squared_kernel(self, tolerance=1e-7))

    def write(self, path, *, overwrite=False):
        """
        Write the kernel to a FITS file.

        Parameters
        ----------
        path : str or path-like
            The file.

        overwrite : bool, optional
            Whether an existing file is replaced.
        """
        fits.HDUList([fits.PrimaryHDU(), self.to_hdu()]).writeto(
            path, overwrite=overwrite)

    @classmethod
    def read(cls, path):
        """
        Read a kernel from a file of `write` or of `SubtractionResult`.

        Parameters
        ----------
        path : str or path-like
            The file.

        Returns
        -------
        kernel : `SpatialKernel`
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
            return cls.from_hdu(hdus['KERNEL'])

    def to_hdu(self):
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

    @classmethod
    def from_hdu(cls, hdu):
        """
        Make a kernel of an extension of a FITS file.

        Parameters
        ----------
        hdu : `~astropy.io.fits.ImageHDU`
            The extension that `to_hdu` made.

        Returns
        -------
        kernel : `SpatialKernel`
            The kernel.
        """
        return cls(hdu.data, (hdu.header['IMNAXIS2'],
                              hdu.header['IMNAXIS1']))

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


class TiledKernel:
    """
    A kernel that varies over the image, applied to one tile of it.

    It is :math:`\\sum_r w_r(x, y) U_r` with images :math:`U_r` and
    polynomials :math:`w_r`.

    Parameters
    ----------
    images : 3D `~numpy.ndarray`
        The images, of shape (n_images, side, side).

    weights : 3D `~numpy.ndarray`
        The coefficients of the products of Legendre polynomials, of
        shape (n_images, order + 1, order + 1), those of y first.

    shape : tuple of int
        The shape of the whole image.
    """

    def __init__(self, images, weights, shape):
        self.images = images
        self.weights = weights
        self.shape = shape
        self.radius = images.shape[-1] // 2
        self._spectra = {}

    @classmethod
    def from_kernel(cls, kernel):
        """
        Make it of a `SpatialKernel`.

        Parameters
        ----------
        kernel : `SpatialKernel`
            The kernel.

        Returns
        -------
        tiled : `TiledKernel`
            The same kernel.
        """
        weights = np.zeros((len(kernel.terms), kernel.order + 1,
                            kernel.order + 1))
        for n, (i, j) in enumerate(polynomial_degrees(kernel.order)):
            weights[n, j, i] = 1.0
        return cls(kernel.terms, weights, kernel.shape)

    def spectra(self, fft_shape, dtype):
        """
        Return the Fourier transforms of the images, kept for later.

        Parameters
        ----------
        fft_shape : tuple of int
            The shape of the transform.

        dtype : dtype
            The type of the image to convolve.

        Returns
        -------
        spectra : 3D `~numpy.ndarray`
            The transforms.
        """
        key = (*fft_shape, np.dtype(dtype).char)
        if key not in self._spectra:
            self._spectra[key] = rfft2(self.images.astype(dtype),
                                       s=fft_shape)
        return self._spectra[key]

    def __call__(self, padded, y0, x0, *, spectrum=None, margin=None):
        """
        Convolve a tile.

        Parameters
        ----------
        padded : 2D `~numpy.ndarray`
            The tile with a margin on each side.

        y0, x0 : int
            The place of the first pixel of the tile, without its
            margin, in the image.

        spectrum : 2D `~numpy.ndarray`, optional
            The Fourier transform of ``padded``, if it is known.

        margin : int, optional
            The width of the margin, if it is more than the radius of
            the kernel.

        Returns
        -------
        convolved : 2D `~numpy.ndarray`
            The tile without its margin.
        """
        margin = self.radius if margin is None else margin
        height, width = np.subtract(padded.shape, 2 * margin)
        fft_shape = fast_shape(padded.shape)
        if spectrum is None:
            spectrum = rfft2(padded, s=fft_shape)
        spectra = self.spectra(fft_shape, padded.dtype)
        ny, nx = self.shape
        order = self.weights.shape[-1] - 1
        along_y = legvander(scaled_position(y0 + np.arange(height), ny),
                            order)
        along_x = legvander(scaled_position(x0 + np.arange(width), nx),
                            order)
        # the full convolution is shifted by the radius of the kernel
        first = margin + self.radius
        cut = np.s_[first:first + height, first:first + width]
        out = np.zeros((height, width), dtype=padded.dtype)
        for weight, kernel in zip(self.weights, spectra, strict=True):
            part = irfft2(spectrum * kernel, s=fft_shape,
                          overwrite_x=True)[cut]
            if np.any(weight.ravel()[1:]):
                # the last product makes the weight of each pixel
                part = part * ((along_y @ weight).astype(out.dtype)
                               @ along_x.T.astype(out.dtype))
            else:
                part = part * out.dtype.type(weight[0, 0])
            out += part
        return out


def sample_grid(shape, n_grid=7):
    """
    Return positions on a grid that reaches to the edges of an image.

    Parameters
    ----------
    shape : tuple of int
        The shape of the image.

    n_grid : int, optional
        The number of positions along each axis.

    Returns
    -------
    x, y : 1D `~numpy.ndarray`
        The positions.
    """
    if n_grid == 1:
        return tuple(np.array([0.5 * (size - 1)]) for size in shape[::-1])
    x, y = np.meshgrid(*(np.linspace(0.0, size - 1.0, n_grid)
                         for size in shape[::-1]))
    return x.ravel(), y.ravel()


def low_rank_kernel(samples, x, y, shape, order, *, tolerance=1e-2):
    """
    Approximate a kernel that is known at some positions by a short sum.

    The samples are decomposed into singular vectors, and the weights
    of the largest are made polynomials of the position.

    Parameters
    ----------
    samples : 3D `~numpy.ndarray`
        The kernel at the positions.

    x, y : 1D `~numpy.ndarray`
        The positions.

    shape : tuple of int
        The shape of the whole image.

    order : int
        The highest total degree of the polynomials.

    tolerance : float, optional
        What may be dropped, as the root of the sum of the squares of
        the singular values, in units of that of all.

    Returns
    -------
    tiled : `TiledKernel`
        The kernel.
    """
    side = samples.shape[-1]
    u, s, vt = np.linalg.svd(samples.reshape(len(x), -1),
                             full_matrices=False)
    rest = np.sqrt(np.cumsum(s[::-1]**2)[::-1] / max((s**2).sum(), 1e-300))
    rank = max(1, int(np.count_nonzero(rest > tolerance)))
    terms = polynomial_terms(x, y, order, shape)
    coefficients = np.linalg.lstsq(terms, u[:, :rank] * s[:rank],
                                   rcond=None)[0]
    weights = np.zeros((rank, order + 1, order + 1))
    for n, (i, j) in enumerate(polynomial_degrees(order)):
        weights[:, j, i] = coefficients[n]
    return TiledKernel(vt[:rank].reshape(rank, side, side), weights, shape)


def squared_kernel(kernel, *, noise_kernel=None, tolerance=1e-2):
    """
    Return the square of a kernel, with which variances are convolved.

    Parameters
    ----------
    kernel : `SpatialKernel`
        The kernel.

    noise_kernel : 2D `~numpy.ndarray`, optional
        The kernel that makes the noise of the image of white noise.

    tolerance : float, optional
        See `low_rank_kernel`.

    Returns
    -------
    tiled : `TiledKernel`
        The square of the kernel.
    """
    # the square of a polynomial is one of twice its order, which as
    # many positions and one more determine
    order = 2 * kernel.order
    x, y = sample_grid(kernel.shape, max(order + 1, 1))
    samples = smoothed(kernel(x, y), noise_kernel)
    return low_rank_kernel(samples**2, x, y, kernel.shape, order,
                           tolerance=tolerance)


def smoothed(kernels, noise_kernel):
    """
    Convolve kernels with that of the noise, if there is one.

    Parameters
    ----------
    kernels : 3D `~numpy.ndarray`
        The kernels.

    noise_kernel : 2D `~numpy.ndarray` or None
        The kernel that makes the noise of the image of white noise.

    Returns
    -------
    smoothed : 3D `~numpy.ndarray`
        The kernels, of the same side.
    """
    if noise_kernel is None:
        return kernels
    return fftconvolve(kernels, noise_kernel[None], mode='same',
                       axes=(1, 2))


def fast_shape(shape):
    """
    Return a shape of at least this size for fast Fourier transforms.

    The kernel may wrap around into the margin, which is cut off.

    Parameters
    ----------
    shape : tuple of int
        The shape of a tile with its margin.

    Returns
    -------
    fft_shape : tuple of int
        The shape.
    """
    return tuple(next_fast_len(int(size), real=True) for size in shape)


def tiles(shape, size=None):
    """
    Cut an image into tiles of nearly equal size.

    Parameters
    ----------
    shape : tuple of int
        The shape of the image.

    size : int, optional
        The largest side of a tile.

    Returns
    -------
    limits : list of tuple of int
        The first row and the one after the last, and the same of the
        columns, of each tile.
    """
    size = size or _TILE_SIZE
    edges = []
    for length in shape:
        n_tiles = -(-length // size)
        edges.append([length * i // n_tiles for i in range(n_tiles + 1)])
    rows, columns = edges
    return [(y0, y1, x0, x1)
            for y0, y1 in pairwise(rows) for x0, x1 in pairwise(columns)]


def cut(image, y0, y1, x0, x1, *, fill):
    """
    Cut a part out of an image that may reach beyond its edges.

    Parameters
    ----------
    image : 2D `~numpy.ndarray`
        The image.

    y0, y1, x0, x1 : int
        The first row and the one after the last, and the same of the
        columns.

    fill : float
        The value outside of the image.

    Returns
    -------
    part : 2D `~numpy.ndarray`
        A copy of the part.
    """
    ny, nx = image.shape
    a0, a1, b0, b1 = max(y0, 0), min(y1, ny), max(x0, 0), min(x1, nx)
    part = np.full((y1 - y0, x1 - x0), fill, dtype=image.dtype)
    part[a0 - y0:a1 - y0, b0 - x0:b1 - x0] = image[a0:a1, b0:b1]
    return part
