# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fourier transforms of PSFs on the grid of a stamp.
"""

import warnings
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning
from scipy.fft import next_fast_len

from hyperphotutils.utils.checks import psf_offset

__all__ = ['PSFTransform', 'core_sigma', 'make_transform', 'sample_psf',
           'wide_gaussians']

# Samples per pixel of analytic PSF models.
_MODEL_OVERSAMPLING = 3
_MODEL_SIZE = 41

# Tolerance for the sum of a PSF; others are normalized.
_SUM_TOLERANCE = 0.01

# Aliases whose transform is below this value everywhere are neglected.
_FAINT = 3e-5

# The PSF at small wavenumbers is approximated by Gaussians, with these
# standard deviations in units of that of the core: for the convolution with
# Gaussians much wider than the PSF, and with others. The wavenumbers of the
# fit are in units of the inverse width of the narrowest of these Gaussians.
_FAR_SIGMAS = (0.0, 1.5, 4.0)
_NEAR_SIGMAS = (0.0, 0.7, 1.0, 1.5, 2.4, 4.5)
_NEAR = 4.0
_WIDE_WAVENUMBER = 3.0 / (2.0 * np.pi)
_N_WIDE_WAVENUMBERS = 12


class PSFTransform(NamedTuple):
    """
    The transform of one or several PSFs.

    The frequencies are those of a real discrete Fourier transform of
    the grid, and their aliases as far as the PSF has structure there.
    """

    kx: Any  # (a, m, h), in cycles a pixel, for a aliases
    ky: Any
    values: Any  # (n, a, m, h), complex
    side: int  # of the grid


def sample_psf(psf, x=None, y=None):
    """
    Return samples of a PSF as a 3D array, and their number a pixel along
    each axis.

    The PSF is taken at each position, by default at its center; a PSF
    that does not vary is sampled once. An array is sampled by pixels, of
    odd size, and centered on its central pixel.

    Warns
    -----
    ~astropy.utils.exceptions.AstropyUserWarning
        If an array has no unit sum (it is divided by it), or a PSF is
        not centered.
    """
    if isinstance(psf, str | PathLike):
        msg = (f'psf must be an array or a model: read {str(psf)!r} by '
               'hyperphotutils.psf.read_psf')
        raise TypeError(msg)
    x, y = ((None if value is None else
             np.atleast_1d(np.asarray(value, dtype=float)))
            for value in (x, y))
    if hasattr(psf, 'evaluate'):
        samples, oversampling = _sample_model(psf, x, y)
    elif callable(psf) and hasattr(psf, 'image'):
        oversampling = int(np.ceil(psf.oversampling))
        if psf.order == 0 or x is None:
            samples = psf.image(oversampling=oversampling)[None]
        else:
            samples = psf(x, y) if oversampling == 1 else np.stack([
                psf.image(x0, y0, oversampling=oversampling)
                for x0, y0 in zip(x, y, strict=True)])
    else:
        image = np.asarray(psf)
        if image.dtype.kind not in 'fiu' or image.ndim != 2:
            msg = ('psf must be a 2D array, a photutils PSF model, or an '
                   f'EmpiricalPSF: got {type(psf).__name__}')
            raise TypeError(msg)
        if image.shape[0] % 2 == 0 or image.shape[1] % 2 == 0:
            msg = (f'psf has an even size, {image.shape}: its center is '
                   'between pixels. Resample it to an odd size, centered on '
                   'a pixel')
            raise ValueError(msg)
        side = max(image.shape)
        pads = [((side - n) // 2,) * 2 for n in image.shape]
        samples, oversampling = np.pad(image.astype(float), pads)[None], 1
    if not np.isfinite(samples).all() or np.any(
            samples.sum(axis=(1, 2)) <= 0.0):
        msg = 'psf must be finite and have a positive sum'
        raise ValueError(msg)
    image = samples[0] / oversampling**2
    total = image.sum()
    if isinstance(psf, np.ndarray | list | tuple) and (
            abs(total - 1.0) > _SUM_TOLERANCE):
        warnings.warn(f'psf has the sum {total:.4g} and was divided by it',
                      AstropyUserWarning, stacklevel=3)
    if (offset := psf_offset(image, oversampling)) is not None:
        warnings.warn('the center of psf is ({:.2f}, {:.2f}) pixels from '
                      'the central pixel: fitted positions are off by '
                      'that'.format(*offset), AstropyUserWarning,
                      stacklevel=3)
    return samples / samples.sum(axis=(1, 2), keepdims=True), oversampling


def make_transform(samples, oversampling, size, *, margin=0):
    """
    Return the `PSFTransform` of samples (n, odd, odd) of unit sum, for
    stamps of a given size.

    The grid is larger than the stamp by ``margin`` pixels, at least by what
    the PSF needs.
    """
    # An odd side has no frequency that is its own alias.
    side = size + max(16, int(8.0 * core_sigma(samples[0], oversampling)),
                      margin)
    side = next(n for n in range(side, 4 * side)
                if n % 2 and next_fast_len(n) == n)
    half = samples.shape[-1] // 2
    fine = side * oversampling
    place = np.arange(-half, half + 1) % fine
    wrapped = np.zeros((len(samples), fine, fine))
    np.add.at(wrapped, (slice(None), place[:, None], place), samples)
    full = np.fft.fft2(wrapped)
    rows = np.rint(np.fft.fftfreq(side) * side)
    columns = np.arange(side // 2 + 1.0)
    reach = oversampling // 2
    kx, ky, values = [], [], []
    # the frequencies of the grid itself come first
    shifts = sorted(range(-reach, reach + 1), key=abs)
    for shift_y in shifts:
        for shift_x in shifts:
            row, column = rows + shift_y * side, columns + shift_x * side
            inside = ((2.0 * np.abs(row) < fine)[:, None]
                      & (2.0 * np.abs(column) < fine))
            part = np.where(inside, full[
                :, (row % fine).astype(int)[:, None],
                (column % fine).astype(int)], 0.0)
            if np.abs(part).max() > _FAINT:
                ones = np.ones((len(rows), len(columns)))
                kx.append(column / side * ones)
                ky.append((row / side)[:, None] * ones)
                values.append(part)
    return PSFTransform(np.stack(kx), np.stack(ky), np.stack(values, 1),
                        side)


def core_sigma(samples, oversampling):
    """
    Return the standard deviation in pixels of a Gaussian with the core
    of a PSF, from the area above half of the maximum.
    """
    above = np.count_nonzero(samples > 0.5 * samples.max())
    return float(np.sqrt(above / (2.0 * np.pi * np.log(2.0)))
                 / oversampling)


def _sample_model(model, x, y):
    """
    Sample a photutils model, the flux of which is its first parameter.
    """
    varies = getattr(model, 'grid_xypos', None) is not None
    data = getattr(model, 'data', None)
    if data is None:
        oversampling = _MODEL_OVERSAMPLING
        half = oversampling * (_MODEL_SIZE // 2)
    else:
        oversampling = int(np.max(model.oversampling))
        half = (min(np.shape(data)[-2:]) - 1) // 2
    grid = np.arange(-half, half + 1.0) / oversampling
    grid_y, grid_x = np.meshgrid(grid, grid, indexing='ij')
    if not varies:
        shape = {name: getattr(model, name).value
                 for name in model.param_names[3:]}
        image = model.evaluate(grid_x, grid_y, 1.0, 0.0, 0.0, **shape)
        return np.asarray(image, dtype=float)[None], oversampling
    if x is None:
        x, y = np.mean(model.grid_xypos, axis=0)[:, None]
    images = [model.evaluate(grid_x + x0, grid_y + y0, 1.0, x0, y0)
              for x0, y0 in zip(x, y, strict=True)]
    return np.stack(images), oversampling


def wide_gaussians(samples, oversampling, min_sigma):
    """
    Return sums of Gaussians that approximate PSFs at small wavenumbers:
    their covariances xx, xy, yy (w, 3), and the weights (n, w).

    ``min_sigma`` is the standard deviation of the narrowest Gaussian, in
    pixels, that is convolved with them. The Gaussians have the shape of the
    first PSF there. The weights are the solution of a linear problem whose
    sum is 1.
    """
    core = core_sigma(samples[0], oversampling)
    half = samples.shape[-1] // 2
    grid = np.arange(-half, half + 1.0) / oversampling
    k = _WIDE_WAVENUMBER / min_sigma * np.linspace(
        -1.0, 1.0, 2 * _N_WIDE_WAVENUMBERS + 1)
    waves = np.exp(2j * np.pi * k[:, None] * grid)
    # the other half of the plane is the complex conjugate
    ky, kx = (value.ravel() for value in np.meshgrid(
        k[_N_WIDE_WAVENUMBERS:], k, indexing='ij'))
    target = (waves[_N_WIDE_WAVENUMBERS:] @ samples @ waves.T).real.reshape(
        len(samples), -1)
    terms = np.stack([kx**2, 2.0 * kx * ky, ky**2], axis=1)
    # from the transform at small wavenumbers, since the second moments of a
    # PSF with wings may diverge (those of a Moffat profile of beta <= 2)
    near = (target[0] > 0.3) & (terms[:, 0] + terms[:, 2] > 0.0)
    shape = np.linalg.lstsq(
        terms[near], -np.log(target[0][near]), rcond=None)[0]
    det = shape[0] * shape[2] - shape[1]**2
    # a PSF that is a point has no shape
    shape = (shape / np.sqrt(det) if det > 0.0 and shape[0] > 0.0
             else np.array([1.0, 0.0, 1.0]))
    sigmas = _NEAR_SIGMAS if min_sigma < _NEAR * core else _FAR_SIGMAS
    variance = (core * np.array(sigmas))[:, None]**2 * shape
    design = np.exp(-2.0 * np.pi**2 * terms @ variance.T)
    weight = np.linalg.lstsq(design[:, 1:] - design[:, :1],
                             (target - design[:, 0]).T, rcond=1e-6)[0].T
    first = 1.0 - weight.sum(axis=1, keepdims=True)
    return variance, np.concatenate((first, weight), axis=1)
