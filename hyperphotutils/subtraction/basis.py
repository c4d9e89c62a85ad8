# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sets of functions whose weighted sum is a convolution kernel.

In each set the sum over the pixels of the first function is one, and
that of all others is zero (Alard 2000, A&AS 144, 363). The coefficient
of the first function is therefore the sum of the kernel, which is the
ratio of the flux scales of the two images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike
from scipy.signal import fftconvolve

from hyperphotutils.utils.checks import check_positive
from hyperphotutils.utils.tables import make_repr

__all__ = ['DeltaBasis', 'FixedBasis', 'GaussianPolynomialBasis']


class _Basis:
    """
    The common part of all bases.

    A subclass has the attributes ``radius``, ``n_functions``, and
    ``images`` of shape (n_functions, side, side), and the method
    ``convolve``.
    """

    #: The quadratic form of the coefficients that is kept small; by
    #: default that of a ridge.
    penalty = None

    def __repr__(self) -> str:
        return make_repr(self)


class GaussianPolynomialBasis(_Basis):
    """
    Gaussians multiplied by polynomials.

    The functions are
    :math:`u^i v^j \\exp(-(u^2 + v^2) / 2 \\sigma^2)` with
    :math:`i + j` up to the degree that belongs to each sigma (Alard &
    Lupton 1998, ApJ 503, 325). They are separable, so that images are
    convolved with all of them by two matrix products.

    Parameters
    ----------
    sigmas : sequence of float
        The standard deviations of the Gaussians, in pixels.

    degrees : sequence of int
        The highest degree of the polynomials of each Gaussian.

    radius : int
        The half width of the square kernel, whose side has
        ``2 * radius + 1`` pixels.

    Raises
    ------
    ValueError
        If ``sigmas`` are not positive, if ``degrees`` has another
        length or a negative number, or if ``radius`` is less than 1.

    Examples
    --------
    >>> from hyperphotutils.subtraction import GaussianPolynomialBasis
    >>> basis = GaussianPolynomialBasis([1.0, 2.0], [2, 0], radius=8)
    >>> basis.images.shape
    (7, 17, 17)
    >>> print(abs(basis.images.sum(axis=(1, 2)).round(12)))
    [1. 0. 0. 0. 0. 0. 0.]
    """

    _repr_params = ('sigmas', 'degrees', 'radius')

    def __init__(self, sigmas: Sequence[float] | np.ndarray,
                 degrees: Sequence[int] | np.ndarray, radius: int) -> None:
        self.sigmas = tuple(check_positive(sigma, 'each of sigmas',
                                           of='pixels')
                            for sigma in np.atleast_1d(sigmas).tolist())
        self.degrees = tuple(np.atleast_1d(degrees).tolist())
        if len(self.degrees) != len(self.sigmas) or not all(
                isinstance(degree, int) and degree >= 0
                for degree in self.degrees):
            msg = ('degrees must be a whole number of at least 0 for each '
                   f'of the {len(self.sigmas)} sigmas: {degrees!r}')
            raise ValueError(msg)
        self.radius = _check_radius(radius)
        u = np.arange(-self.radius, self.radius + 1.0)
        # the 1D factors of each Gaussian; powers of u / sigma keep the
        # numbers near one
        self._factors = [np.exp(-0.5 * (u / sigma)**2)
                         * (u / sigma) ** np.arange(degree + 1)[:, None]
                         for sigma, degree in zip(self.sigmas, self.degrees,
                                                  strict=True)]
        pairs = [(i, j, k) for i, degree in enumerate(self.degrees)
                 for j in range(degree + 1) for k in range(degree + 1 - j)]
        images = np.array([np.outer(self._factors[i][k], self._factors[i][j])
                           for i, j, k in pairs])
        # the sum of all others is zero by their symmetry
        self._is_even = np.array([j % 2 == k % 2 == 0 for _, j, k in pairs])
        self._scales = np.where(self._is_even, images.sum(axis=(1, 2)),
                                np.linalg.norm(images, axis=(1, 2)))
        self._is_even[0] = False
        images /= self._scales[:, None, None]
        images[self._is_even] -= images[0]
        self.images = images
        self.n_functions = len(images)

    def convolve(self, cutouts: np.ndarray) -> np.ndarray:
        """
        Convolve images with each of the functions.

        Parameters
        ----------
        cutouts : 3D `~numpy.ndarray`
            A stack of images.

        Returns
        -------
        convolved : 4D `~numpy.ndarray`
            The images for each function, without the margin of
            ``radius`` pixels where the kernel reaches beyond them; its
            shape is (n_images, n_functions, height, width).
        """
        height, width = np.subtract(cutouts.shape[1:], 2 * self.radius)
        out = np.empty((len(cutouts), self.n_functions, height, width))
        n = 0
        # all products with a factor along x share its convolution
        for factors in self._factors:
            along_x = cutouts @ _bands(factors, width)
            along_y = _bands(factors, height).T.reshape(len(factors), height,
                                                        -1)
            for j in range(len(factors)):
                n_y = len(factors) - j
                scale = self._scales[n:n + n_y, None, None]
                rows = (along_y[:n_y] / scale).reshape(n_y * height, -1)
                product = rows @ along_x[:, :, j * width:(j + 1) * width]
                out[:, n:n + n_y] = product.reshape(-1, n_y, height, width)
                n += n_y
        out[:, self._is_even] -= out[:, :1]
        return out


class FixedBasis(_Basis):
    """
    Given images as functions.

    Parameters
    ----------
    images : 3D array_like
        The functions, of shape (n_functions, side, side) with an odd
        side; for example the principal components of many kernels. The
        sum of the first must not be zero. It is scaled to one, and from
        each of the others as much of the first is subtracted as makes
        its sum zero.

    Raises
    ------
    ValueError
        If ``images`` has another shape, if it is not finite, or if the
        first sum is zero.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.subtraction import FixedBasis
    >>> y, x = np.mgrid[-5:6, -5:6]
    >>> gaussians = [np.exp(-(x**2 + y**2) / size) for size in (2, 8)]
    >>> basis = FixedBasis(gaussians)
    >>> print(abs(basis.images.sum(axis=(1, 2)).round(12)))
    [1. 0.]
    """

    _repr_params = ('images',)

    def __init__(self, images: ArrayLike) -> None:
        images = np.array(images, dtype=float)
        if (images.ndim != 3 or images.shape[1] != images.shape[2]
                or images.shape[1] % 2 == 0 or not len(images)
                or not np.all(np.isfinite(images))):
            msg = ('images must be a stack of finite, square images of an '
                   f'odd side: got the shape {images.shape}')
            raise ValueError(msg)
        sums = images.sum(axis=(1, 2))
        if abs(sums[0]) <= 1e-12 * np.abs(images[0]).sum():
            msg = 'the sum of the first of images must not be zero'
            raise ValueError(msg)
        images[0] /= sums[0]
        images[1:] -= sums[1:, None, None] * images[0]
        self.images = images
        self.radius = images.shape[1] // 2
        self.n_functions = len(images)

    def convolve(self, cutouts: np.ndarray) -> np.ndarray:
        """
        Convolve images with each of the functions.

        Parameters
        ----------
        cutouts : 3D `~numpy.ndarray`
            A stack of images.

        Returns
        -------
        convolved : 4D `~numpy.ndarray`
            See `GaussianPolynomialBasis.convolve`.
        """
        return fftconvolve(cutouts[:, None], self.images[None],
                           mode='valid', axes=(2, 3))


class DeltaBasis(_Basis):
    """
    One function for each pixel of the kernel.

    A kernel can then have any shape (Bramich 2008, MNRAS 386, L77), and
    must be regularized: the square of its Laplacian is added to
    chi squared with a weight (Becker et al. 2012, MNRAS 425, 1341).

    Parameters
    ----------
    radius : int
        The half width of the kernel. The number of functions is
        ``(2 * radius + 1)**2``, and the time of the fit grows with its
        third power.

    smoothness : float or `None`, optional
        The weight of the smoothness, relative to the mean diagonal
        element of the normal equations. `None` (default) chooses it by
        cross-validation.

    Raises
    ------
    ValueError
        If ``radius`` is less than 1 or ``smoothness`` is not positive.

    Examples
    --------
    >>> from hyperphotutils.subtraction import DeltaBasis
    >>> DeltaBasis(3).images.shape
    (49, 7, 7)
    """

    _repr_params = ('radius', 'smoothness')

    def __init__(self, radius: int, smoothness: float | None = None) -> None:
        self.radius = _check_radius(radius)
        if smoothness is not None:
            smoothness = check_positive(smoothness, 'smoothness')
        self.smoothness = smoothness
        side = 2 * self.radius + 1
        self.n_functions = side**2
        # the pixels in the order of the functions: the central one first
        center = self.n_functions // 2
        self._order = np.r_[center, np.delete(np.arange(self.n_functions),
                                              center)]
        images = np.eye(self.n_functions)[self._order]
        images[1:] -= images[0]
        self.images = images.reshape(-1, side, side)

    @property
    def penalty(self) -> np.ndarray:
        """
        The sum of the squares of the Laplacian as a matrix of the
        coefficients; outside of its square the kernel is zero.
        """
        # zero for a kernel that is flat or a plane
        laplacian = np.array([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0],
                              [0.0, 1.0, 0.0]])
        rough = fftconvolve(self.images, laplacian[None],
                            axes=(1, 2)).reshape(self.n_functions, -1)
        return rough @ rough.T

    def convolve(self, cutouts: np.ndarray) -> np.ndarray:
        """
        Convolve images with each of the functions.

        Parameters
        ----------
        cutouts : 3D `~numpy.ndarray`
            A stack of images.

        Returns
        -------
        convolved : 4D `~numpy.ndarray`
            See `GaussianPolynomialBasis.convolve`.
        """
        size = np.subtract(cutouts.shape[1:], 2 * self.radius)
        shifted = sliding_window_view(cutouts, size, axis=(1, 2))
        # convolution with a pixel at +u takes the image at -u
        shifted = shifted[:, ::-1, ::-1].reshape(len(cutouts), -1, *size)
        out = shifted[:, self._order].astype(float)
        out[:, 1:] -= out[:, :1]
        return out


def _check_radius(radius):
    """
    Check the half width of a kernel.
    """
    if isinstance(radius, bool) or radius != int(radius) or radius < 1:
        msg = f'radius must be a whole number of at least 1: {radius!r}'
        raise ValueError(msg)
    return int(radius)


def _bands(factors, size):
    """
    Return the matrix that convolves rows with each of some 1D functions,
    shape (size + 2 * radius, n_functions * size).
    """
    n_functions, side = factors.shape
    matrix = np.zeros((size + side - 1, n_functions, size))
    column = np.arange(size)
    for shift in range(side):
        # the output at x takes the input at x - u, u = shift - radius
        matrix[column + side - 1 - shift, :, column] = factors[:, shift]
    return matrix.reshape(size + side - 1, n_functions * size)
