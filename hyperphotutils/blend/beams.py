# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Measured beams as sums of Gaussians.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from astropy.stats import gaussian_fwhm_to_sigma, gaussian_sigma_to_fwhm
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import ArrayLike, NDArray

from hyperphotutils.utils.gaussians import (
    add_gaussians,
    add_stamps,
    gaussian_matrix,
    wrap_angle,
)
from hyperphotutils.utils.mixtures import (
    fit_concentric_gaussians,
    fit_gaussian_series,
)

if TYPE_CHECKING:
    from hyperphotutils.utils.typing import PSFLike

__all__ = ['BeamProfile']

# The numbers of Gaussians tried until the sum is this close to the PSF, in
# units of its peak, and the difference that is worth a warning.
_N_GAUSSIANS = (4, 6, 8)
_MAX_MISFIT = 0.002
_BAD_MISFIT = 0.02

# A PSF is refused whose sum, center (pixels), or FWHM (relative) differs by
# more than this from 1, the central pixel, and that of the fitter.
_SUM_TOLERANCE = 0.02
_MAX_SHIFT = 0.2
_FWHM_TOLERANCE = 0.3

# The smallest variance of a source in units of that of the core of the beam.
# Noise makes point sources appear smaller than the beam, and excluding these
# would bias the mean of the fluxes.
_SMALLEST_RATIOS = np.arange(0.5, 1.0, 0.05)

# Models are cut off at this fraction of the peak; what they lack of the PSF,
# at this radius in FWHM and if it is nowhere more than a fraction of the peak.
_CUT = 1e-6
_REMAINDER_RADIUS = 4.0
_MIN_REMAINDER = 1e-5

# The number of pixels of all stamps made at once.
_CHUNK_PIXELS = 2**20


@dataclass(frozen=True, eq=False, repr=False)
class BeamProfile:
    r"""
    A beam as a sum of concentric Gaussians.

    A source is the convolution of the beam,
    :math:`\sum_j a_j N(0, B_j)`, with an intrinsic Gaussian of the
    covariance matrix :math:`S`: the sum :math:`\sum_j a_j N(0, S + B_j)`.
    Its shape is stored as :math:`\Sigma = S + B`, where :math:`B` belongs
    to the Gaussian with the FWHM of the beam. A point source therefore
    has the FWHM of the beam, and the size of others is the intrinsic one
    plus that of the beam, in quadrature.

    Parameters
    ----------
    weights : 1D `~numpy.ndarray`
        The integral :math:`a_j` of each Gaussian, of either sign, for a
        flux of 1.

    offsets : 2D `~numpy.ndarray` of shape (n, 3)
        The elements xx, xy, and yy of :math:`B_j - B`, in square pixels.

    fwhm_major, fwhm_minor : float
        The FWHM of the beam in pixels.

    theta : float
        The angle of its major axis in degrees, counterclockwise from
        the positive x axis.

    min_variance : float
        The smallest variance of a source along any axis for which the
        sum is a valid profile, in square pixels.

    misfit : float
        The largest difference between the sum and the PSF, in units of
        its peak.

    remainder : 2D `~numpy.ndarray`, optional
        The PSF minus the sum, for a flux of 1, which images of sources
        also have.
    """

    weights: np.ndarray
    offsets: np.ndarray
    fwhm_major: float
    fwhm_minor: float
    theta: float
    min_variance: float
    misfit: float
    remainder: np.ndarray | None = None

    def __repr__(self) -> str:
        return (f'<BeamProfile(n_gaussians={len(self.weights)}, '
                f'fwhm_major={self.fwhm_major:.4g}, '
                f'fwhm_minor={self.fwhm_minor:.4g}, theta={self.theta:.4g}, '
                f'misfit={self.misfit:.2g})>')

    @classmethod
    def from_psf(cls, psf: PSFLike, fwhm: float) -> BeamProfile:
        """
        Represent a PSF by a sum of Gaussians.

        Parameters
        ----------
        psf : 2D array_like, photutils PSF model, or \
                `~hyperphotutils.psf.EmpiricalPSF`
            The PSF, as the part of the flux in each pixel. An array has
            an odd size, its center on the central pixel, and a sum of 1.
            A PSF that varies is taken at the center of its field.

        fwhm : float
            The FWHM of the beam in pixels.

        Returns
        -------
        beam : `BeamProfile`
            The beam.

        Raises
        ------
        TypeError
            If ``psf`` is not a PSF.

        ValueError
            If it has an even size, values that are not finite, another
            sum than 1, or a center or FWHM that is not the given one.
        """
        image = _pixel_image(psf, fwhm)
        mixture = core = fit_concentric_gaussians(image, 1)
        if np.hypot(*core.center) > _MAX_SHIFT:
            msg = ('the center of psf is ({:+.2f}, {:+.2f}) pixels from the '
                   'central pixel: shift it there'.format(*core.center))
            raise ValueError(msg)
        for n_gaussians in _N_GAUSSIANS:
            if mixture.misfit < _MAX_MISFIT:
                break
            mixture = fit_gaussian_series(image, n_gaussians, core)
        if mixture.misfit > _BAD_MISFIT:
            msg = (f'the sum of {len(mixture.weights)} Gaussians differs '
                   f'from psf by up to {100 * mixture.misfit:.1f} % of its '
                   'peak: fluxes of bright sources may be wrong by as much')
            warnings.warn(msg, AstropyUserWarning, stacklevel=3)
        weights, matrices = mixture.weights, mixture.matrices
        core = _core_matrix(weights, matrices)
        values, vectors = np.linalg.eigh(core)
        minor, major = np.sqrt(values) * gaussian_sigma_to_fwhm
        mean = np.sqrt(minor * major)
        if abs(mean / fwhm - 1.0) > _FWHM_TOLERANCE:
            msg = (f'psf has a FWHM of {mean:.2f} pixels, but fwhm is '
                   f'{fwhm:.2f}: give the FWHM of the PSF, in pixels of '
                   'the data')
            raise ValueError(msg)
        offsets = (matrices - core)[:, [0, 0, 1], [0, 1, 1]]
        theta = np.rad2deg(np.arctan2(vectors[1, 1], vectors[0, 1]))
        return cls(weights, offsets, float(major), float(minor),
                   float(wrap_angle(theta)),
                   _smallest_variance(weights, matrices - core, values[0]),
                   mixture.misfit,
                   image - mixture.image(len(image))
                   if mixture.misfit > _MIN_REMAINDER else None)

    def components(self, fwhm_major: np.ndarray, fwhm_minor: np.ndarray,
                   theta: np.ndarray
            ) -> (tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray,
                  np.ndarray]):
        """
        Return the Gaussians of sources.

        Parameters
        ----------
        fwhm_major, fwhm_minor : 1D `~numpy.ndarray`
            The FWHMs of ``n`` sources in pixels.

        theta : 1D `~numpy.ndarray`
            The angles of their major axes in degrees.

        Returns
        -------
        share : `~numpy.ndarray` of shape (n_gaussians, n)
            The peak of each Gaussian for a source with a peak of 1.

        fwhm_major, fwhm_minor, theta : `~numpy.ndarray`
            The ellipses of the Gaussians, shape (n_gaussians, n).

        area : 1D `~numpy.ndarray`
            The flux of a source with a peak of 1.
        """
        xx, xy, yy = (element + offset[:, None] for element, offset in zip(
            gaussian_matrix(fwhm_major, fwhm_minor, theta), self.offsets.T,
            strict=True))
        det = xx * yy - xy**2
        with np.errstate(invalid='ignore'):
            share = self.weights[:, None] / np.sqrt(det)
            total = share.sum(axis=0)
            mean, half = 0.5 * (xx + yy), 0.5 * (xx - yy)
            radius = np.hypot(half, xy)
            axes = [np.sqrt(variance) * gaussian_sigma_to_fwhm
                    for variance in (mean + radius, mean - radius)]
        return (share / total, *axes,
                np.rad2deg(0.5 * np.arctan2(xy, half)),
                2.0 * np.pi / total)

    def add_sources(self, image: NDArray[np.floating], x: ArrayLike,
                    y: ArrayLike, amplitude: ArrayLike, fwhm_major: ArrayLike,
                    fwhm_minor: ArrayLike, theta: ArrayLike, *,
                    sign: Literal[1, -1] = 1) -> None:
        """
        Add sources to an image, in place.

        Parameters
        ----------
        image : 2D `~numpy.ndarray` of float
            The image.

        x, y, amplitude, fwhm_major, fwhm_minor, theta : 1D array_like
            The positions, peaks, FWHMs, and angles in degrees. Sources
            with a value that is not finite are skipped.

        sign : {1, -1}, optional
            Add (1) or subtract (-1).
        """
        x, y, amplitude, *shape = (
            np.asarray(value, dtype=float) for value in
            (x, y, amplitude, fwhm_major, fwhm_minor, theta))
        share, major, minor, angle, area = self.components(*shape)
        largest = np.nanmax(np.abs(share), axis=1, initial=0.0)
        for k, height in enumerate(largest):
            n_sigma = np.sqrt(2.0 * np.log(max(height / _CUT, 10.0)))
            add_gaussians(image, x, y, amplitude * share[k], major[k],
                          minor[k], angle[k], n_sigma=n_sigma, sign=sign)
        if self.remainder is not None:
            self._add_remainder(image, x, y, sign * amplitude * area, shape)

    @cached_property
    def _remainder_spline(self):
        """
        The coefficients of the cubic spline through the remainder that
        contribute to each pixel, a column each, and half of its mean
        square wavenumber.
        """
        # slow to import, and only needed here
        from scipy.ndimage import spline_filter

        half = len(self.remainder) // 2
        keep = min(half, int(np.ceil(_REMAINDER_RADIUS * self.fwhm_major)))
        part = slice(half - keep, half + keep + 1)
        # zeros, for the spline to end and for positions between pixels
        padded = np.pad(self.remainder[part, part], 6)
        slope = sum(np.sum(np.diff(padded, axis=axis)**2) for axis in (0, 1))
        windows = np.lib.stride_tricks.sliding_window_view(
            spline_filter(padded, order=3), (5, 5))
        return (windows.reshape(-1, 25).T.copy(),
                0.5 * slope / np.sum(padded**2))

    def _add_remainder(self, image, x, y, flux, shape):
        """
        Add what the sum of Gaussians lacks, interpolated by a cubic
        spline.

        Extended sources smooth it: it is multiplied by the transform of
        their Gaussian at its mean wavenumber.
        """
        coeffs, wavenumber = self._remainder_spline
        source, beam = (
            np.add(*gaussian_matrix(*axes)[::2]) for axes in
            (shape, (self.fwhm_major, self.fwhm_minor, self.theta)))
        flux = flux * np.exp(
            -0.5 * wavenumber * np.maximum(source - beam, 0.0))
        known = np.isfinite(x) & np.isfinite(y) & np.isfinite(flux)
        x, y, flux = x[known], y[known], flux[known]
        col, row = np.rint(x).astype(int), np.rint(y).astype(int)
        weights = (_cubic_weights(y - row)[:, :, None]
                   * _cubic_weights(x - col)[:, None, :] * flux[:, None, None])
        half = int(np.sqrt(coeffs.shape[1])) // 2
        offset = np.arange(-half, half + 1)
        step = max(1, _CHUNK_PIXELS // coeffs.shape[1])
        for begin in range(0, len(x), step):
            part = slice(begin, begin + step)
            values = weights[part].reshape(-1, 25) @ coeffs
            add_stamps(image, row[part, None, None] + offset[:, None],
                       col[part, None, None] + offset,
                       values.reshape(-1, len(offset), len(offset)))


def add_sources(image, x, y, amplitude, fwhm_major, fwhm_minor, theta, *,
                beam=None, sign=1):
    """
    Add sources to an image as `~hyperphotutils.utils.add_gaussians`, convolved
    with a measured beam if there is one.
    """
    add = add_gaussians if beam is None else beam.add_sources
    add(image, x, y, amplitude, fwhm_major, fwhm_minor, theta, sign=sign)


def _cubic_weights(shift):
    """
    Return the weights of five cubic B-splines at pixels that are shifted
    by up to half a pixel, shape (n, 5).
    """
    distance = np.abs(np.arange(-2, 3) + shift[:, None])
    return np.where(distance < 1.0,
                    2.0 / 3.0 - distance**2 + 0.5 * distance**3,
                    np.clip(2.0 - distance, 0.0, None)**3 / 6.0)


def _pixel_image(psf, fwhm):
    """
    Return a PSF as a square image of odd size.
    """
    is_image = True
    if getattr(psf, 'unit', None) is not None:
        msg = (f'psf must have no unit, as its sum is 1: got {psf.unit}; '
               'give its values, such as psf.value')
        raise TypeError(msg)
    if hasattr(psf, 'evaluate') and hasattr(psf, 'param_names'):
        # photutils models begin with flux, x_0, and y_0
        is_image = getattr(psf, 'data', None) is not None
        half = int(np.ceil(5.0 * fwhm))
        x0 = y0 = 0.0
        if is_image:
            half = int((min(np.shape(psf.data)[-2:])
                        / np.max(psf.oversampling) - 1) // 2)
        if getattr(psf, 'grid_xypos', None) is not None:
            x0, y0 = np.mean(psf.grid_xypos, axis=0)
        y, x = np.mgrid[-half:half + 1, -half:half + 1].astype(float)
        shape = {name: getattr(psf, name).value
                 for name in psf.param_names[3:]}
        image = np.asarray(psf.evaluate(x + x0, y + y0, 1.0, x0, y0,
                                        **shape), dtype=float)
    elif callable(psf) and hasattr(psf, 'as_gaussians'):
        image = np.asarray(psf(), dtype=float)
    else:
        image = np.asarray(psf)
        if image.dtype.kind not in 'fiu' or image.ndim != 2:
            msg = ('psf must be a 2D array, a photutils PSF model, or an '
                   f'EmpiricalPSF, got {type(psf).__name__}')
            raise TypeError(msg)
        if image.shape[0] % 2 == 0 or image.shape[1] % 2 == 0:
            msg = (f'psf has an even size, {image.shape}: resample it to an '
                   'odd size, with its center on the central pixel')
            raise ValueError(msg)
        side = max(image.shape)
        image = np.pad(image.astype(float), [((side - n) // 2,) * 2
                                             for n in image.shape])
    if not np.isfinite(image).all():
        msg = ('psf has values that are not finite: replace them, for '
               'example by 0')
        raise ValueError(msg)
    total = image.sum()
    # the wings of models with a formula go on beyond the image
    if is_image and abs(total - 1.0) > _SUM_TOLERANCE:
        msg = (f'psf has the sum {total:.4g} instead of 1: divide it by its '
               'sum, with the wings that belong to the flux of a source')
        raise ValueError(msg)
    return image


def _core_matrix(weights, matrices):
    """
    Return the covariance matrix of the Gaussian that has the FWHM of the
    sum along each axis.
    """
    peaks = weights / np.sqrt(np.linalg.det(matrices))
    # the axes of the curvature at the peak
    _, axes = np.linalg.eigh(np.tensordot(peaks, np.linalg.inv(matrices), 1))
    variances = []
    for axis in axes.T:
        precision = axis @ np.linalg.inv(matrices) @ axis
        radius = np.linspace(0.0, 5.0 / np.sqrt(precision.min()), 20001)
        profile = peaks @ np.exp(-0.5 * precision[:, None] * radius**2)
        first = np.argmax(profile < 0.5 * profile[0])
        part = slice(first, first - 2, -1)
        half = np.interp(0.5 * profile[0], profile[part], radius[part])
        variances.append((2.0 * half * gaussian_fwhm_to_sigma)**2)
    return axes @ np.diag(variances) @ axes.T


def _smallest_variance(weights, offsets, core):
    """
    Return the smallest variance for which all Gaussians are regular and
    the sum is positive at its center.
    """
    for ratio in _SMALLEST_RATIOS:
        matrices = offsets + ratio * core * np.eye(2)
        if np.linalg.eigvalsh(matrices).min() > 0.1 * core and np.sum(
                weights / np.sqrt(np.linalg.det(matrices))) > 0.0:
            return float(ratio * core)
    return float(core)
