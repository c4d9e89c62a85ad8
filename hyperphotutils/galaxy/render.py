# Licensed under a 3-clause BSD style license - see LICENSE.rst
r"""
Images of Sersic profiles convolved with a PSF, and their derivatives.

A profile is a sum of Gaussians (`hyperphotutils.galaxy.mixture`).
Narrow ones are multiplied with the transform of the PSF in Fourier
space, which convolves the profile itself, not its values in pixels.
Wide ones, which would wrap around, are computed on a coarse grid and
brought to the pixels by splines. Galaxies that are both thin and large
have Gaussians that would wrap around along their major axis, and are too
narrow for a coarse grid along the minor one: they are drawn on a larger
grid in Fourier space, and on the pixels themselves.

The *coordinates* of a source are its position x and y,
:math:`\rho = \ln r` with the radius :math:`r = r_e \sqrt{q}`,
the two parts of the elongation :math:`g_1, g_2`, and
:math:`\nu = \ln n`. The Gaussians have the covariance matrices
:math:`\sigma_k^2 r^2 \exp\begin{pmatrix} g_1 & g_2 \\ g_2 & -g_1
\end{pmatrix}`, so that :math:`r_e = r e^{|g| / 2}` and
:math:`q = e^{-|g|}`. They are regular for a round source, and any
values are allowed.

The code uses the Python array API standard.
"""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import make_interp_spline

from hyperphotutils.galaxy.mixture import (
    N_TERMS,
    SIGMA_RATIO,
    mixture_table,
    weights_at,
)
from hyperphotutils.galaxy.transforms import (
    make_transform,
    sample_psf,
    wide_gaussians,
)
from hyperphotutils.utils.lm import array_namespace, take_members

if TYPE_CHECKING:
    from hyperphotutils.utils.typing import PSFLike

__all__ = ['N_COORDS', 'RenderKernel', 'SersicRenderer', 'coordinates_of',
           'make_kernel', 'render', 'sinhc']

N_COORDS = 6
"""
The number of coordinates: x, y, rho, g1, g2, nu.
"""

# Gaussians with a smaller standard deviation (pixels) are points.
_POINT = 0.04
# A Gaussian is wide if the side of the stamp is less than this number of
# standard deviations; it is then evaluated on a coarse grid.
_WIDE_PART = 7.0
# Step and margin of the coarse grid of wide Gaussians, in pixels.
_COARSE_STEP = 4
_COARSE_MARGIN = 8
# Thin and large sources: limits of the effective radius, relative to the
# side of the stamp times the root of the axis ratio, and of the elongation;
# and the side of their grid, relative to that of the stamp.
_THIN_PART = 0.2
_THIN_ELONGATION = 0.5
_THIN_SIDES = 3
# Width of their narrowest Gaussian that is evaluated on the pixels, relative
# to that of a round source.
_THIN_WIDTH = 0.3

# Exponentials are computed by squaring the previous one. After this number
# of squarings a new one is evaluated, since each doubles the rounding error.
_SQUARINGS = 4
# On a processor, images are drawn by few sources at once, and powers formed
# for few frequencies: larger arrays leave the cache, and each one needs new
# pages of memory, which takes longer than to fill them.
_CHUNK = 1 << 14
_BLOCK = 1 << 13
# Aliases are left out that add less than this part to the peak of a source,
# by a sum over some of the frequencies.
_FAINT_ALIAS = 2e-4
_SAMPLE = 23


class RenderKernel(NamedTuple):
    """
    Arrays that do not depend on the sources, in one array library.

    The PSFs, and what depends on them, are one for all sources (n = 1) or
    one for each. ``side`` is the side of the grid of the transform,
    ``size`` that of the stamp.
    """

    kx: Any  # (f,), flattened
    ky: Any
    squares: Any  # (3, f): kx^2, 2 kx ky, and ky^2
    psf: Any  # (n, f), complex: the transforms
    wide_weight: Any  # (n, w), of the Gaussians that approximate the PSF
    wide_variance: Any  # (w, 3): their covariances xx, xy, yy
    kx_first: Any  # (a, h): the frequencies along x of each alias
    ky_first: Any  # (a, m)
    coarse: Any  # (c,): the pixel coordinates of the coarse grid
    upsample: Any  # (size, c): from the coarse grid to the pixels
    table: Any  # (n_nodes - 1, 4, N_TERMS + 1): see `MixtureTable`
    size: int
    side: int
    n_alias: int
    n_narrow: int
    thin: Any = None

    def take(self, index):
        """
        Return the kernel with the PSFs of some of the sources.
        """
        if self.psf.shape[0] == 1:
            return self
        psf, weight = take_members((self.psf, self.wide_weight), index)
        thin = None if self.thin is None else self.thin.take(index)
        return self._replace(psf=psf, wide_weight=weight, thin=thin)


class ThinKernel:
    """
    The kernel for thin and large sources, made when first needed.

    ``arguments`` are those of `_build_kernel` beside the ``samples`` of
    the PSFs.
    """

    def __init__(self, samples, arguments):
        self.samples = samples
        self.arguments = arguments

    def __getstate__(self):
        arguments = dict(self.arguments)
        arguments['xp'] = arguments['xp'].__name__
        return self.__dict__ | {'arguments': arguments}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.arguments['xp'] = import_module(self.arguments['xp'])

    def take(self, index):
        """
        Return that with the PSFs of some of the sources.
        """
        if not isinstance(index, slice):
            index = np.asarray([int(i) for i in index], dtype=int)
        return ThinKernel(self.samples[index], self.arguments)

    @cached_property
    def kernel(self):
        """
        The kernel.
        """
        return _build_kernel(self.samples, is_thin=True, **self.arguments)


class SersicRenderer:
    """
    Draw Sersic profiles convolved with a PSF on stamps.

    Parameters
    ----------
    psf : 2D array_like, photutils PSF model, or \
            `~hyperphotutils.psf.EmpiricalPSF`
        The PSF, as the part of the flux in each pixel, with the
        response of the pixel. An array is sampled by pixels, of odd
        size, and centered on its central pixel. A PSF with a FWHM below
        2.5 pixels needs a model that is oversampled.

    size : int
        The side of the square stamps in pixels.

    Notes
    -----
    The largest error is 5e-4 of the peak, and below 1e-4 for most
    profiles. The profile is not integrated over the pixels, since the
    PSF includes the pixel. The position of the cusp of a profile with a
    large n is therefore preserved.

    Examples
    --------
    >>> from photutils.psf import CircularGaussianPRF
    >>> from hyperphotutils.galaxy import SersicRenderer
    >>> renderer = SersicRenderer(CircularGaussianPRF(fwhm=3.0), 64)
    >>> image = renderer(flux=100.0, x=32.0, y=31.0, r_eff=3.0, n=2.0,
    ...                  q=0.5, theta=30.0)
    >>> print(image.shape, f'{image.sum():.1f}')
    (64, 64) 99.9
    """

    def __init__(self, psf: PSFLike, size: int) -> None:
        self.psf = psf
        self.size = int(size)
        if self.size < 8:
            msg = f'size must be at least 8 pixels: got {size}'
            raise ValueError(msg)
        self._kernel = make_kernel(psf, self.size)

    def __repr__(self) -> str:
        return f'SersicRenderer(size={self.size})'

    def __call__(self, *, flux: ArrayLike, x: ArrayLike, y: ArrayLike,
                 r_eff: ArrayLike, n: ArrayLike, q: ArrayLike = 1.0,
                 theta: ArrayLike = 0.0) -> np.ndarray:
        """
        Draw one or several galaxies.

        Parameters
        ----------
        flux : float or 1D array_like
            The total flux.

        x, y : float or 1D array_like
            The center in pixels of the stamp.

        r_eff : float or 1D array_like
            The effective radius along the major axis in pixels; 0 for a
            star.

        n : float or 1D array_like
            The Sersic index.

        q : float or 1D array_like, optional
            The axis ratio.

        theta : float or 1D array_like, optional
            The angle of the major axis from the x axis, in degrees,
            counterclockwise.

        Returns
        -------
        image : 2D or 3D `~numpy.ndarray`
            The images, shape ``(size, size)``, or ``(n, size, size)``
            if any argument is an array.
        """
        scalar = all(np.ndim(value) == 0
                     for value in (flux, x, y, r_eff, n, q, theta))
        flux = np.atleast_1d(np.asarray(flux, dtype=float))
        coords = coordinates_of(x, y, r_eff, n, q, np.deg2rad(theta))
        coords = np.broadcast_to(coords, np.broadcast_shapes(
            coords.shape, (len(flux), N_COORDS)))
        images = flux[:, None, None] * render(self._kernel, coords)
        return images[0] if scalar else images


def coordinates_of(x, y, r_eff, n, q, theta):
    """
    Return the coordinates (n, N_COORDS) of sources; ``r_eff`` is 0 for a
    point, ``theta`` in radians.
    """
    x, y, r_eff, n, q, theta = np.broadcast_arrays(*(
        np.atleast_1d(np.asarray(value, dtype=float))
        for value in (x, y, r_eff, n, q, theta)))
    elongation = -np.log(q)
    return np.stack([
        x, y, np.log(np.maximum(r_eff, 1e-4)) - 0.5 * elongation,
        elongation * np.cos(2.0 * theta), elongation * np.sin(2.0 * theta),
        np.log(n)], axis=-1)


def make_kernel(psf, size, *, x=None, y=None, dtype='float64', xp=np,
                device=None):
    """
    Return the `RenderKernel` for stamps of a given size; ``x`` and ``y``
    are the positions in the image, if the PSF varies.
    """
    samples, oversampling = sample_psf(psf, x, y)
    arguments = {'oversampling': oversampling, 'size': size, 'dtype': dtype,
                 'xp': xp, 'device': device}
    kernel = _build_kernel(samples, **arguments)
    return kernel._replace(thin=ThinKernel(samples, arguments))


def _build_kernel(samples, *, oversampling, size, dtype, xp, device,
                  is_thin=False):
    """
    Make a kernel from samples of PSFs.
    """
    n_narrow = int(np.ceil(np.log(size / _WIDE_PART / _POINT)
                           / np.log(SIGMA_RATIO)))
    narrowest = _POINT * SIGMA_RATIO**n_narrow
    margin = 0
    if is_thin:
        narrowest *= _THIN_WIDTH
        margin = (_THIN_SIDES - 1) * size
        coarse, upsample = np.arange(float(size)), np.eye(size)
    else:
        coarse = np.arange(-_COARSE_MARGIN,
                           size + _COARSE_MARGIN + _COARSE_STEP - 1.0,
                           _COARSE_STEP)
        upsample = make_interp_spline(coarse, np.eye(len(coarse)), k=5)(
            np.arange(size))
    transform = make_transform(samples, oversampling, size, margin=margin)
    variance, weight = wide_gaussians(samples, oversampling, narrowest)
    kx, ky = transform.kx.ravel(), transform.ky.ravel()
    real, cplx = getattr(xp, dtype), getattr(
        xp, {'float64': 'complex128', 'float32': 'complex64'}[dtype])

    def array(value, dtype=real):
        return xp.asarray(np.ascontiguousarray(value), dtype=dtype,
                          device=device)

    return RenderKernel(
        array(kx), array(ky),
        array(np.stack([kx**2, 2.0 * kx * ky, ky**2])),
        array(transform.values.reshape(len(samples), -1), cplx),
        array(weight, xp.float64),
        array(variance, xp.float64),
        array(transform.kx[:, 0, :], xp.float64),
        array(transform.ky[:, :, 0], xp.float64),
        array(coarse, xp.float64), array(upsample),
        array(mixture_table().coefficients, xp.float64),
        size, transform.side, len(transform.kx), n_narrow)


def render(kernel, coords, *, derivatives=False):
    r"""
    Draw sources of unit flux at ``coords`` (b, N_COORDS), in float64.

    Returns images of shape (b, size, size), or with derivatives (b, 7,
    size, size): the images and their derivatives by x, y, the elements
    :math:`\hat{C}_{xx}, \hat{C}_{xy}, \hat{C}_{yy}` of the covariance
    matrix in units of :math:`r^2`, and nu.
    """
    xp = array_namespace(coords)
    rho, g1, g2 = coords[:, 2], coords[:, 3], coords[:, 4]
    size = xp.sqrt(g1 * g1 + g2 * g2)
    if kernel.thin is not None:
        is_thin = (size > _THIN_ELONGATION) & (
            xp.exp(rho + size) > _THIN_PART * kernel.size)
        if bool(xp.any(is_thin)):
            rest, thin = xp.nonzero(~is_thin)[0], xp.nonzero(is_thin)[0]
            images = [
                render(part.take(index), xp.take(coords, index, axis=0),
                       derivatives=derivatives)
                for index, part in ((rest, kernel._replace(thin=None)),
                                    (thin, kernel.thin.kernel))
                if index.shape[0]]
            order = xp.argsort(xp.concat((rest, thin)))
            return xp.take(xp.concat(images, axis=0), order, axis=0)
    length = max(1, _CHUNK // kernel.side**2)
    if isinstance(coords, np.ndarray) and len(coords) > length:
        return np.concatenate([
            render(kernel.take(slice(low, low + length)),
                   coords[low:low + length], derivatives=derivatives)
            for low in range(0, len(coords), length)])
    # the matrix exponential of ((g1, g2), (g2, -g1))
    cosh, ratio = xp.cosh(size), sinhc(size)
    matrix = xp.stack((cosh + ratio * g1, ratio * g2, cosh - ratio * g1),
                      axis=1)
    # Widths on a grid that all sources share but for a factor below the
    # ratio: width_j = point * ratio^(j + fraction), with j = k + shift.
    place = (rho + float(np.log(0.01 / _POINT))) / float(np.log(SIGMA_RATIO))
    shift = xp.floor(place)
    fraction = place - shift
    shift = xp.astype(shift, xp.int64)
    weights = weights_at(kernel.table, coords[:, 5], derivatives=derivatives)
    images = _draw_narrow(kernel, coords, matrix, shift, fraction, weights,
                          derivatives=derivatives)
    n_all = int(xp.max(shift)) + N_TERMS
    if n_all > kernel.n_narrow:
        images = images + _draw_wide(
            kernel, coords, matrix, shift, fraction, weights, n_all,
            derivatives=derivatives)
    return images if derivatives else images[:, 0, :, :]


def sinhc(size):
    """
    Return sinh(x) / x of values that are not negative, 1 at 0.
    """
    xp = array_namespace(size)
    small = size < 1e-4
    safe = xp.where(small, xp.ones_like(size), size)
    # two terms of the series where the quotient would lose digits
    return xp.where(small, 1.0 + size * size / 6.0, xp.sinh(safe) / safe)


def _at_widths(weights, shift, first, last):
    """
    Return the weights of the widths ``first`` to ``last - 1``.
    """
    xp = array_namespace(weights)
    n_sources, n_kinds, n_weights = weights.shape
    k = xp.arange(first, last, device=weights.device)[None, :] - (
        shift[:, None])
    inside = (k >= 0) & (k < N_TERMS)
    start = xp.arange(n_sources * n_kinds, device=weights.device) * n_weights
    index = (xp.reshape(start, (n_sources, n_kinds, 1))
             + (xp.clip(k, 0, N_TERMS - 1) + 1)[:, None, :])
    chosen = xp.reshape(
        xp.take(xp.reshape(weights, (-1,)), xp.reshape(index, (-1,))),
        index.shape)
    return xp.where(inside[:, None, :], chosen, xp.zeros_like(chosen))


def _draw_narrow(kernel, coords, matrix, shift, fraction, weights, *,
                 derivatives):
    """
    Draw the point and the narrow Gaussians.
    """
    xp = array_namespace(coords)
    real = kernel.kx.dtype
    n_sources = coords.shape[0]
    # point: terms of widths below the grid
    terms = xp.arange(N_TERMS + 1, device=coords.device)[None, :] - 1
    is_point = terms + shift[:, None] < 0
    is_point = is_point | (terms < 0)
    point = xp.sum(xp.where(is_point[:, None, :], weights,
                            xp.zeros_like(weights)), axis=2)
    narrow = _at_widths(weights, shift, 0, kernel.n_narrow)
    exponent = -2.0 * np.pi**2 * _POINT**2 * SIGMA_RATIO**(2.0 * fraction)
    if derivatives:
        slope = exponent[:, None] * xp.asarray(
            2.0**np.arange(kernel.n_narrow), device=coords.device)
        narrow = xp.stack((narrow[:, 0, :], slope * narrow[:, 0, :],
                           narrow[:, 1, :]), axis=1)
        point = xp.stack((point[:, 0], xp.zeros_like(point[:, 0]),
                          point[:, 1]), axis=1)
    narrow, point = xp.astype(narrow, real), xp.astype(point, real)
    factors = xp.astype(exponent[:, None] * matrix, real)
    side, half = kernel.side, kernel.side // 2 + 1
    spectra, whole = 0.0, None
    for start in range(0, kernel.kx.shape[0], side * half):
        end = start + side * half
        squares = kernel.squares[:, start:end]
        psf = kernel.psf[:, start:end]
        if whole is not None:
            # a large galaxy has no structure at the wavenumbers of aliases
            part = _sum_gaussians(narrow[:, :1, :], factors,
                                  squares[:, ::_SAMPLE]) + point[:, :1, None]
            part = _SAMPLE * xp.sum(xp.abs(part[:, 0, :] * psf[:, ::_SAMPLE]),
                                    axis=1)
            if not xp.any(part > _FAINT_ALIAS * whole):
                continue
        sums = _sum_gaussians(narrow, factors, squares) + point[:, :, None]
        if whole is None:
            whole = xp.sum(xp.abs(sums[:, 0, :] * psf), axis=1)
        # the phase of the position, a product of those along the axes
        factor_x, factor_y = (
            xp.astype(xp.exp(xp.astype(
                place[:, None] * k[None, start // (side * half), :],
                xp.complex128) * (-2.0j * np.pi)), kernel.psf.dtype)
            for place, k in ((coords[:, 0], kernel.kx_first),
                             (coords[:, 1], kernel.ky_first)))
        seen = (psf * xp.reshape(factor_y[:, :, None] * factor_x[:, None, :],
                                 (n_sources, -1)))[:, None, :]
        value = sums[:, :1, :]
        parts = value * seen
        if derivatives:
            # products of real arrays first: complex ones take much longer
            by_place = xp.concat((value * kernel.kx[start:end],
                                  value * kernel.ky[start:end]), axis=1)
            rest = xp.concat((sums[:, 1:2, :] * squares, sums[:, 2:, :]),
                             axis=1)
            parts = xp.concat((parts, by_place * (-2.0j * np.pi * seen),
                               rest * seen), axis=1)
        spectra = spectra + parts
    spectra = xp.reshape(spectra, (n_sources, -1, side, half))
    # rows off the stamp need no second transform
    rows = xp.fft.ifft(spectra, axis=2)[:, :, :kernel.size, :]
    return xp.fft.irfft(rows, n=side, axis=3)[:, :, :, :kernel.size]


def _sum_gaussians(weights, factors, squares):
    """
    Return sums of the transforms of the narrow Gaussians, shape (b, k, f).

    The variances double from one to the next, so that each transform is the
    square of the previous one.
    """
    xp = array_namespace(weights)
    n_sources, _, n_widths = weights.shape
    n_all = squares.shape[1]
    block = max(1, _BLOCK // n_sources)
    sums = []
    for low in range(0, n_all, block):
        form = factors @ squares[:, low:min(low + block, n_all)]
        powers, power = [], None
        for j in range(n_widths):
            power = (xp.exp(form * float(2**j)) if j % _SQUARINGS == 0
                     else power * power)
            powers.append(power)
        sums.append(weights @ xp.stack(powers, axis=1))
    return xp.concat(sums, axis=2)


def _draw_wide(kernel, coords, matrix, shift, fraction, weights, n_all, *,
               derivatives):
    r"""
    Draw the wide Gaussians on the coarse grid.

    With :math:`p = V^{-1} d`, a Gaussian :math:`G` of covariance matrix
    :math:`V` has the derivatives :math:`p G` by the position and
    :math:`(p p^T - V^{-1}) G / 2` by :math:`V`. As p is linear in d, all
    images are sums of the Gaussians with weights that do not depend on
    the place, times 1 or products of the distances.
    """
    xp = array_namespace(coords)
    real = kernel.kx.dtype
    n_sources = coords.shape[0]
    first = kernel.n_narrow
    wide = _at_widths(weights, shift, first, n_all)
    steps = xp.asarray(2.0**np.arange(first, n_all), device=coords.device)
    variance = (_POINT**2 * SIGMA_RATIO**(2.0 * fraction))[:, None] * steps

    def terms(value):
        """
        Flatten the axes of widths and of Gaussians of the PSF.
        """
        return xp.reshape(value, (n_sources, -1))

    zeros = xp.zeros((n_sources, steps.shape[0], kernel.wide_weight.shape[1]),
                     dtype=variance.dtype, device=coords.device)
    own = terms(variance[:, :, None] + zeros)
    part = terms(kernel.wide_weight[:, None, :] + zeros)
    v_xx, v_xy, v_yy = (
        own * matrix[:, i, None]
        + terms(kernel.wide_variance[:, i][None, None, :] + zeros)
        for i in range(3))
    det = v_xx * v_yy - v_xy * v_xy
    i_xx, i_xy, i_yy = v_yy / det, -v_xy / det, v_xx / det
    norm = part / (2.0 * np.pi * xp.sqrt(det))
    weight = terms(wide[:, 0, :, None] + zeros) * norm
    dx = kernel.coarse[None, :] - coords[:, 0, None]
    dy = kernel.coarse[None, :] - coords[:, 1, None]
    n_coarse = kernel.coarse.shape[0]
    dx2, dy2 = dx * dx, dy * dy
    dxdy = dy[:, :, None] * dx[:, None, :]
    form = (i_xx[:, :, None, None] * dx2[:, None, None, :]
            + 2.0 * i_xy[:, :, None, None] * dxdy[:, None, :, :]
            + i_yy[:, :, None, None] * dy2[:, None, :, None])
    gauss = xp.reshape(xp.exp(xp.astype(-0.5 * form, real)),
                       (n_sources, own.shape[1], n_coarse * n_coarse))
    if not derivatives:
        rows = weight[:, None, :]
    else:
        shaped = weight * own
        rows = xp.stack((
            weight, terms(wide[:, 1, :, None] + zeros) * norm,
            weight * i_xx, weight * i_xy, weight * i_yy,
            shaped * i_xx, shaped * i_xy, shaped * i_yy,
            shaped * i_xx * i_xx, shaped * i_xx * i_xy,
            shaped * i_xy * i_xy, shaped * i_xx * i_yy,
            shaped * i_xy * i_yy, shaped * i_yy * i_yy), axis=1)
    sums = xp.reshape(xp.astype(rows, real) @ gauss,
                      (n_sources, rows.shape[1], n_coarse, n_coarse))
    if not derivatives:
        coarse = sums
    else:
        x, y, xx, yy, xy = (xp.astype(value, real) for value in (
            dx[:, None, :], dy[:, :, None], dx2[:, None, :],
            dy2[:, :, None], dxdy))
        (value, by_nu, p_xx, p_xy, p_yy, s_xx, s_xy, s_yy, xxxx, xxxy, xyxy,
         xxyy, xyyy, yyyy) = (sums[:, i, :, :] for i in range(14))
        coarse = xp.stack((
            value, p_xx * x + p_xy * y, p_xy * x + p_yy * y,
            0.5 * (xxxx * xx + 2.0 * xxxy * xy + xyxy * yy - s_xx),
            xxxy * xx + (xxyy + xyxy) * xy + xyyy * yy - s_xy,
            0.5 * (xyxy * xx + 2.0 * xyyy * xy + yyyy * yy - s_yy),
            by_nu), axis=1)
    return kernel.upsample @ coarse @ xp.matrix_transpose(kernel.upsample)
