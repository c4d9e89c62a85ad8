# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Noise that is correlated between pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from astropy.stats import gaussian_fwhm_to_sigma
from numpy.typing import ArrayLike, NDArray
from scipy import fft
from scipy.optimize import nnls

from hyperphotutils.noise.clipped import clipped_rms
from hyperphotutils.noise.factors import (
    FactorCache,
    FootprintFactors,
    cholesky,
)
from hyperphotutils.noise.local import (
    ROUNDING,
    GridImage,
    band_power,
    band_response,
    is_varying,
    mean_in_blocks,
    subtract_surface,
)
from hyperphotutils.noise.white import times_relative_rms
from hyperphotutils.utils.checks import check_relative_rms
from hyperphotutils.utils.tables import (
    as_masked_image,
    good_extent,
    open_nddata,
    strip_units,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hyperphotutils.utils.typing import (
        ArrayOrQuantity,
        FilePath,
        FloatOrArray,
        FloatOrQuantity,
        ImageLike,
    )

__all__ = ['CorrelatedNoise']

# Noise may be correlated over less than the beam, due to the gridding and the
# weights of an interferometer, or to detector noise in a scanned map. Such
# parts have these fractions of the variances of the beam.
_FRACTIONS = np.array([0.5, 0.7, 0.85])
# The sizes of structure seen through the beam, in units of its FWHM: zero (the
# beam itself), then from a fifth of a beam to many beams.
_SIZES = np.concatenate([[0.0], np.geomspace(0.2, 16.0, 16)])
# The narrow parts (white noise, the fractions of a beam, and the beam itself)
# are noise; wider parts are structure. The local variance of structure,
# relative to the typical one, is kept in the bounds _LEVELS.
_N_NARROW = len(_FRACTIONS) + 2
_LEVELS = (2.0**-10, 2.0**14)
# The autocovariance is fitted out to this separation in FWHM, with weights
# that fall with this power of the separation, as short separations matter
# most for fits of sources.
REACH = 16.0
_WEIGHT_POWER = 1.0
# Maps are high-pass filtered before they are measured, by subtracting their
# mean over a Gaussian of this sigma in FWHM. Structure wider than twice that
# is like a plane below a source, and planes are part of the fits.
_HIGH_PASS = 8.0
# Filtered pixels farther from 0 than this many rms are excluded.
_OUTLIER = 5.0
# Added to the diagonal, relative to the variance: the smooth noise of an
# oversampled map leaves matrices that are singular to rounding.
_JITTER = 1e-8
# The largest number of bytes of factors that are kept: enough for 1800
# footprints with a beam of 3.3 pixels.
_MAX_FACTOR_BYTES = 1 << 28
# A factor shared by at least this many footprints of a call is inverted.
_SHARED = 4
# Sums over more pixels than this are faster with Fourier transforms.
_MAX_DENSE = 1000
# Number of elements of a table of separations, and of the images that are
# transformed at once: 32 MB.
_MAX_ELEMENTS = 2**22
# Rows of a covariance matrix that are looked up at once.
_BLOCK = 64


class CorrelatedNoise:
    r"""
    Stationary Gaussian noise with a known autocovariance.

    The noise of a map is correlated over the beam, and a structured
    background over several beams. Together they are described by the
    covariance of two pixels as a function of their separation,

    .. math::

        C(\delta) = c_0 \, [\delta = 0] + \sum_i c_i
            \exp\left(-\tfrac{1}{2} \delta^T \Sigma_i^{-1} \delta\right),
            \quad c_i \ge 0 ,

    which is positive definite for any :math:`c_i`.

    Parameters
    ----------
    variances : 1D array_like or `~astropy.units.Quantity`
        The variance of each part, :math:`c_i`; that of the uncorrelated
        noise, :math:`c_0`, first.

    matrices : array_like of shape (n, 2, 2)
        The matrices :math:`\Sigma_i` of the other parts, in square
        pixels.

    relative_rms : 2D array_like, optional
        A map of the local rms in units of the typical one, for noise
        whose strength varies, for example the square root of the inverse
        coverage. The default is 1 everywhere.

    structure : `CorrelatedNoise`, optional
        A structured background in addition to the noise. It has a
        ``relative_rms`` of its own, which follows the sky, while that of
        the noise follows the observation.

    See Also
    --------
    hyperphotutils.noise.clipped_rms

    Examples
    --------
    >>> from hyperphotutils.noise import CorrelatedNoise
    >>> noise = CorrelatedNoise.from_beam(2.0, fwhm=4.0)
    >>> print(noise.rms)
    2.0
    >>> print(noise.covariance([0.0, 4.0], [0.0, 0.0]).round(3))
    [[4. 1.]
     [1. 4.]]
    """

    is_correlated = True

    def __init__(self, variances: ArrayLike | u.Quantity, matrices: ArrayLike,
                 *, relative_rms: ArrayLike | None = None,
                 structure: CorrelatedNoise | None = None) -> None:
        values, unit = strip_units(variances=variances)
        variances = np.asarray(values['variances'], dtype=float)
        matrices = np.asarray(matrices, dtype=float)
        if matrices.size == 0:
            matrices = matrices.reshape(0, 2, 2)
        if matrices.shape[1:] != (2, 2):
            msg = f'matrices must have the shape (n, 2, 2): {matrices.shape}'
            raise ValueError(msg)
        if variances.shape != (len(matrices) + 1,):
            msg = ('variances must have one element more than matrices: '
                   f'{variances.shape} and {len(matrices)}')
            raise ValueError(msg)
        if not (np.all(variances >= 0.0) and 0.0 < variances.sum() < np.inf):
            msg = ('variances must be finite, not negative, and not all '
                   f'zero: {variances}')
            raise ValueError(msg)
        if not (np.all(np.isfinite(matrices))
                and np.allclose(matrices, np.swapaxes(matrices, 1, 2))
                and np.all(np.linalg.eigvalsh(matrices) > 0.0)):
            msg = 'matrices must be symmetric and positive definite'
            raise ValueError(msg)
        if relative_rms is not None:
            relative_rms = check_relative_rms(relative_rms)
        self._variances = variances
        self._unit = None if unit is None else unit**0.5
        self.matrices = matrices
        self.relative_rms = relative_rms
        self.structure = structure
        # Tables of separations for each level of the structure.
        self._tables = {}
        self._factors = FactorCache(_MAX_FACTOR_BYTES)

    def __repr__(self) -> str:
        parts = np.count_nonzero(self._variances[1:])
        structure = ('' if self.structure is None
                     else f', structure={self.structure.rms:.4g}')
        return (f'<{type(self).__name__}(rms={self.rms:.4g}, '
                f'uncorrelated={np.sqrt(self._variances[0]):.4g}, '
                f'n_parts={parts}{structure})>')

    @classmethod
    def from_beam(cls, rms: float | u.Quantity, fwhm: float, *,
                  fwhm_minor: float | None = None,
                  theta: float = 0.0) -> CorrelatedNoise:
        """
        Describe white noise that was convolved with a beam.

        Parameters
        ----------
        rms : float or `~astropy.units.Quantity`
            The standard deviation of a pixel.

        fwhm : float
            The FWHM of the beam along its major axis in pixels.

        fwhm_minor : float, optional
            The FWHM along the minor axis; that of a round beam by
            default.

        theta : float, optional
            The angle of the major axis in degrees, counterclockwise
            from the positive x axis.

        Returns
        -------
        noise : `CorrelatedNoise`
            The noise.
        """
        variance = np.square(u.Quantity(rms)) if hasattr(rms, 'unit') else (
            float(rms)**2)
        if not rms > 0.0 * rms:
            msg = f'rms must be positive: {rms}'
            raise ValueError(msg)
        return cls(variance * np.array([0.0, 1.0]),
                   [2.0 * beam_matrix(fwhm, fwhm_minor, theta)])

    @classmethod
    def from_image(cls, data: ImageLike, fwhm: float, *,
                   fwhm_minor: float | None = None, theta: float = 0.0,
                   mask: ArrayLike | None = None,
                   relative_rms: ArrayLike | None = None,
                   varying_structure: bool | None = False) -> CorrelatedNoise:
        """
        Estimate the noise of a map.

        The large-scale background of the map is removed first: a
        quadratic surface fitted to all good pixels, then the mean over a
        Gaussian with a sigma of 8 beam FWHMs. Pixels more than 5 rms
        from zero are excluded. The autocovariance of the other pixels is
        measured by Fourier transforms and fitted, by non-negative least
        squares, with white noise, noise correlated over a fraction of
        the beam, and Gaussians of many sizes convolved with the beam, each
        of them filtered as the map is: the beam of the matrix :math:`B`
        gives an autocovariance of the matrix :math:`\\Sigma = 2 B`,
        structure of the size :math:`s` one of :math:`2 B + s^2`.
        Structure wider than 16 FWHMs is not part of the noise; it needs
        a background of at least order 1 in fits.

        On a map with bright and dark regions the bright ones dominate
        the autocovariance. With ``varying_structure`` the parts that are
        no wider than the beam are therefore measured on the darker half
        of the map. The remaining autocovariance of the whole map becomes
        the ``structure``, with a relative rms from the local mean square
        on scales between one and three beams.

        Parameters
        ----------
        data : 2D array_like, `~astropy.units.Quantity`, or \
                `~astropy.nddata.NDData`
            The map, with its sources subtracted. Pixels that are not
            finite are ignored.

        fwhm, fwhm_minor, theta : float
            The beam, as in `from_beam`.

        mask : 2D bool array_like, optional
            `True` for pixels to ignore, for example the cores of
            sources.

        relative_rms : 2D array_like, optional
            A map of the local rms in units of the typical one.

        varying_structure : bool or `None`, optional
            Whether to describe structure wider than the beam as a
            ``structure`` of its own, with a strength that varies over
            the map; with `None`, if the map varies by more than chance
            on these scales.

        Returns
        -------
        noise : `CorrelatedNoise`
            The noise.

        Raises
        ------
        ValueError
            If the map is constant.
        """
        beam = beam_matrix(fwhm, fwhm_minor, theta)
        data, mask, _ = open_nddata(data, mask)
        values, unit = strip_units(data=data)
        data, mask = as_masked_image(values['data'], mask)
        if relative_rms is not None:
            relative_rms = check_relative_rms(relative_rms, data.shape)
            # A background that is divided gets the pattern of the noise.
            data = subtract_surface(data, ~mask)
            data /= relative_rms
        used = good_extent(mask)
        good = ~mask[used]
        rounding = ROUNDING * max(
            abs(np.min(data[used], where=good, initial=0.0)),
            np.max(data[used], where=good, initial=0.0))
        filtered, good = _high_pass(data[used], good, fwhm)
        reach = int(min(np.ceil(REACH * fwhm), min(good.shape) // 2))
        measured, n_pairs = _masked_autocovariance(filtered, good, reach)
        if not measured[0, reach] > rounding**2:
            msg = 'data is constant: it has no noise to estimate'
            raise ValueError(msg)
        width = _HIGH_PASS * fwhm
        matrices = _candidate_matrices(beam, fwhm, 2.0 * width)
        dark = power = None
        if varying_structure is None or varying_structure:
            power = band_power(data, fwhm, mask=mask)
            if varying_structure is None:
                step = max(1, int(fwhm))
                row, col = np.nonzero(~mask[::step, ::step])
                varying_structure = is_varying(power.at(step * row,
                                                        step * col))
        if varying_structure:
            power = power[:, :]
            dark = _masked_autocovariance(
                filtered, good & (power[used] <= np.median(power[used][good])),
                reach)
        return cls._from_autocovariances(
            (measured, n_pairs), dark, power, matrices, width, fwhm, unit,
            relative_rms)

    @classmethod
    def from_sums(cls, whole: np.ndarray, dark: np.ndarray | None,
                  power: GridImage, unit: u.UnitBase | None,
                  relative_rms: GridImage | None, fwhm: float, *,
                  fwhm_minor: float | None = None,
                  theta: float = 0.0) -> CorrelatedNoise:
        """
        Estimate the noise of a map from sums over its tiles.

        Parameters
        ----------
        whole, dark : `~numpy.ndarray` of shape (2, reach + 1, 2 reach + 1)
            The results of ``sum_products`` for the whole map, and for its
            darker half; `None` if there is no varying structure.

        power : `~hyperphotutils.noise.GridImage`
            The local mean square between one and three beams.

        unit : `~astropy.units.Unit` or `None`
            The unit of the map.

        relative_rms : `~hyperphotutils.noise.GridImage` or `None`
            The local rms in units of the typical one.

        fwhm, fwhm_minor, theta : float
            The beam, as in `from_beam`.

        Returns
        -------
        noise : `CorrelatedNoise`
            The noise, with grids that are evaluated by `cutout`.
        """
        beam = beam_matrix(fwhm, fwhm_minor, theta)
        width = _HIGH_PASS * fwhm
        matrices = _candidate_matrices(beam, fwhm, 2.0 * width)
        whole, dark = (
            None if sums is None
            else (sums[0] / np.maximum(sums[1], 1.0), np.rint(sums[1]))
            for sums in (whole, dark))
        if not whole[0][0, whole[0].shape[1] // 2] > 0.0:
            msg = 'data is constant: it has no noise to estimate'
            raise ValueError(msg)
        noise = cls._from_autocovariances(
            whole, dark, power.values, matrices, width, fwhm, unit, None)
        noise.relative_rms = relative_rms
        if noise.structure is not None:
            level = noise.structure.relative_rms
            if relative_rms is not None:
                level = level * relative_rms.at_points(power)
            noise.structure.relative_rms = GridImage(
                level, power.origin, power.step, power.shape)
        return noise

    @classmethod
    def _from_autocovariances(cls, whole, dark, power, matrices, width, fwhm,
                              unit, relative_rms):
        """
        Make the noise from the autocovariances, and the numbers of pairs,
        of a map and of its darker half.
        """
        structure = None
        if dark is not None:
            variances = _fit_parts(*dark, matrices, width)
            variances[_N_NARROW:] = 0.0
            structure = _measure_structure(*whole, matrices, width, variances,
                                           power, fwhm)
            if structure is not None and unit is not None:
                structure._unit = unit  # noqa: SLF001
            if structure is not None and relative_rms is not None:
                structure.relative_rms *= relative_rms
        if structure is None:
            variances = _fit_parts(*whole, matrices, width)
        noise = cls._from_parts(variances, matrices, unit, relative_rms)
        noise.structure = structure
        return noise

    @classmethod
    def from_autocovariance(
            cls, autocovariance: Callable | ArrayLike | u.Quantity,
            fwhm: float, *, fwhm_minor: float | None = None,
            theta: float = 0.0,
            relative_rms: ArrayLike | None = None) -> CorrelatedNoise:
        """
        Describe noise whose autocovariance is known.

        It is approximated by the parts that `from_image` fits to what it
        measures, which makes every matrix of covariances positive
        definite.

        Parameters
        ----------
        autocovariance : callable, 2D array_like, or \
                `~astropy.units.Quantity`
            The autocovariance: a function of the separations ``dx`` and
            ``dy`` in pixels, as `autocovariance` is, or its values at
            whole separations, with an odd number of rows and of columns
            and no separation at the center. With the square of the unit
            of a map, the noise has that unit.

        fwhm, fwhm_minor, theta : float
            The beam, as in `from_beam`.

        relative_rms : 2D array_like, optional
            A map of the local rms in units of the typical one.

        Returns
        -------
        noise : `CorrelatedNoise`
            The noise.

        Raises
        ------
        ValueError
            If the values are not an autocovariance.

        Examples
        --------
        >>> import numpy as np
        >>> from hyperphotutils.noise import CorrelatedNoise
        >>> def decay(dx, dy):
        ...     return 4.0 * np.exp(-0.5 * (dx**2 + dy**2) / 3.0**2)
        >>> noise = CorrelatedNoise.from_autocovariance(decay, fwhm=4.0)
        >>> print(f'{noise.rms:.1f} {noise.autocovariance(3, 0):.1f}')
        2.0 2.4
        """
        beam = beam_matrix(fwhm, fwhm_minor, theta)
        if callable(autocovariance):
            lag = np.arange(-np.ceil(REACH * fwhm),
                            np.ceil(REACH * fwhm) + 1.0)
            autocovariance = autocovariance(lag[None, :], lag[:, None])
        values, unit = strip_units(autocovariance=autocovariance)
        # By symmetry, the half with dy from 0 is sufficient.
        covariance = np.asarray(values['autocovariance'], dtype=float)
        shape = covariance.shape
        if len(shape) != 2 or shape[0] % 2 == 0 or shape[1] % 2 == 0:
            msg = ('autocovariance must be a function or have an odd number '
                   f'of rows and of columns: {shape}')
            raise ValueError(msg)
        center = covariance[shape[0] // 2, shape[1] // 2]
        if not (np.all(np.isfinite(covariance)) and center > 0.0
                and np.allclose(covariance, covariance[::-1, ::-1],
                                atol=1e-6 * center)
                and np.abs(covariance).max() <= center * (1.0 + 1e-6)):
            msg = ('autocovariance must be finite, the same for opposite '
                   'separations, and largest, and positive, at the center')
            raise ValueError(msg)
        half = covariance[shape[0] // 2:]
        matrices = _candidate_matrices(beam, fwhm, np.inf)
        variances = _fit_parts(half, np.ones(half.shape), matrices)
        return cls._from_parts(
            variances, matrices, None if unit is None else unit**0.5,
            relative_rms)

    @classmethod
    def _from_parts(cls, variances, matrices, unit, relative_rms):
        """
        Make the noise from the parts with a positive variance.
        """
        used = variances[1:] > 0.0
        variances = np.concatenate((variances[:1], variances[1:][used]))
        if unit is not None:
            variances <<= unit**2
        return cls(variances, matrices[used], relative_rms=relative_rms)

    @property
    def variances(self) -> ArrayOrQuantity:
        """
        The variance of each part, the uncorrelated one first.
        """
        if self._unit is None:
            return self._variances
        return self._variances << self._unit**2

    @property
    def rms(self) -> FloatOrQuantity:
        """
        The standard deviation of a pixel.
        """
        total = self._variances.sum()
        if self.structure is not None:
            total += self.structure._variances.sum()  # noqa: SLF001
        rms = float(np.sqrt(total))
        return rms if self._unit is None else rms << self._unit

    @property
    def weighted_rms(self) -> float:
        """
        The standard deviation of a pixel divided by ``relative_rms``.
        """
        return float(getattr(self.rms, 'value', self.rms))

    @property
    def uncorrelated_fraction(self) -> float:
        """
        The fraction of the variance of a pixel that is independent of all
        other pixels.
        """
        return float(self._variances[0] / self.weighted_rms**2)

    def rms_at(self, x: ArrayLike, y: ArrayLike) -> np.ndarray:
        """
        Return the standard deviation of pixels; see `NoiseModel.rms_at`.
        """
        variance = np.full(np.shape(x), self._variances.sum())
        if self.relative_rms is not None:
            variance *= self.relative_rms[np.asarray(y), np.asarray(x)]**2
        if self.structure is not None:
            variance += self.structure.rms_at(x, y)**2
        return np.sqrt(variance)

    def scale(self, factor: float,
              unit: u.UnitBase | None = None) -> CorrelatedNoise:
        """
        Return the noise of the scaled map; see `NoiseModel.scale`.
        """
        variances = factor**2 * self._variances
        return type(self)(
            variances if unit is None else variances << unit**2,
            self.matrices, relative_rms=self.relative_rms,
            structure=(None if self.structure is None
                       else self.structure.scale(factor, unit)))

    def cutout(self, slices: tuple[slice, slice]) -> CorrelatedNoise:
        """
        Return the noise of a part of the map; see `NoiseModel.cutout`.
        """
        relative_rms = (None if self.relative_rms is None
                        else self.relative_rms[slices])
        noise = type(self)(
            self.variances, self.matrices, relative_rms=relative_rms,
            structure=(None if self.structure is None
                       else self.structure.cutout(slices)))
        # Few parts of a large map have the same footprints, and there is
        # less memory for the factors of one.
        noise._factors = FactorCache(_MAX_FACTOR_BYTES // 2)  # noqa: SLF001
        return noise

    def autocovariance(self, dx: ArrayLike,
                       dy: ArrayLike) -> FloatOrArray | u.Quantity:
        """
        Return the covariance of pixels at given separations.

        Parameters
        ----------
        dx, dy : array_like
            The separations in pixels.

        Returns
        -------
        covariance : `~numpy.ndarray` or `~astropy.units.Quantity`
            The covariances, in the square of the unit of the map.
        """
        dx, dy = np.asarray(dx, dtype=float), np.asarray(dy, dtype=float)
        values = self._evaluate(dx, dy)
        if self.structure is not None:
            values = values + self.structure._evaluate(  # noqa: SLF001
                dx, dy)
        return values if self._unit is None else values << self._unit**2

    def covariance(self, x: ArrayLike,
                   y: ArrayLike) -> FloatOrArray | u.Quantity:
        """
        Return the covariance matrix of pixels.

        Parameters
        ----------
        x, y : 1D array_like
            The pixel coordinates.

        Returns
        -------
        covariance : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The matrix, with ``relative_rms`` and ``structure`` in it.
        """
        x, y = np.asarray(x), np.asarray(y)
        matrix = self._evaluate(x[:, None] - x, y[:, None] - y)
        if self.relative_rms is not None:
            scale = self.relative_rms[np.rint(y).astype(int),
                                      np.rint(x).astype(int)]
            matrix = matrix * scale[:, None] * scale
        if self.structure is not None:
            structure = self.structure.covariance(x, y)
            matrix = matrix + getattr(structure, 'value', structure)
        return matrix if self._unit is None else matrix << self._unit**2

    def structure_level(self, x: ArrayLike, y: ArrayLike) -> np.ndarray:
        """
        Return the variance of the structure at given positions, in units
        of the typical one and of the square of ``relative_rms``.

        Parameters
        ----------
        x, y : 1D array_like
            The pixel coordinates.

        Returns
        -------
        level : 1D `~numpy.ndarray`
            The levels, rounded to powers of 2, so that footprints with
            about the same level share a factor.
        """
        level = np.ones(np.shape(x))
        if self.structure is None:
            return level
        for image, power in ((self.structure.relative_rms, 2.0),
                             (self.relative_rms, -2.0)):
            if image is not None:
                row, col = (
                    np.clip(np.rint(np.nan_to_num(position)), 0, size - 1)
                    for position, size in zip((y, x), image.shape,
                                              strict=True))
                level = level * image[row.astype(int),
                                      col.astype(int)]**power
        return 2.0**np.rint(np.log2(level))

    def pixel_weights(self, x: ArrayLike, y: ArrayLike,
                      usable: ArrayLike) -> np.ndarray:
        """
        Return the inverse of ``relative_rms`` for the pixels of footprints;
        see `NoiseModel.pixel_weights`.
        """
        weights = usable.astype(float)
        if self.relative_rms is not None:
            # It may be unknown where there are no data.
            np.divide(weights, self.relative_rms[y, x], out=weights,
                      where=usable)
        return weights

    def factors(self, x: ArrayLike, y: ArrayLike,
                usable: ArrayLike | None = None,
                extra: ArrayLike | None = None) -> FootprintFactors:
        """
        Return the `FootprintFactors` of the covariance matrices of footprints,
        without ``relative_rms``; see `NoiseModel.factors`.

        Footprints with the same pixels relative to each other share a
        factor. The factors that were used last are kept for the next
        calls.
        """
        x, y = np.asarray(x), np.asarray(y)
        usable = (np.ones(x.shape, dtype=bool) if usable is None
                  else np.asarray(usable))
        n_usable = np.maximum(usable.sum(axis=1), 1)
        level = self.structure_level(*(
            np.sum(lag, axis=1, where=usable) / n_usable for lag in (x, y)))
        first = np.argmax(usable, axis=1)[:, None]
        x, y = (np.where(usable, lag - np.take_along_axis(lag, first, 1), 0)
                for lag in (x, y))
        keys = np.stack((x, y, usable), axis=1).astype(np.int32)
        if extra is not None:
            extra = np.where(usable, extra, 0.0)
        known, first = {}, []
        which = np.empty(len(x), dtype=int)
        for k, row in enumerate(keys):
            key = row.tobytes() + level[k].tobytes()
            if extra is not None:
                key += extra[k].tobytes()
            which[k] = known.setdefault(key, len(known))
            if len(known) > len(first):
                first.append(k)
        inverted = np.bincount(which) >= _SHARED
        factors, columns = [], []
        for k, inverse in zip(first, inverted, strict=True):
            use = np.flatnonzero(usable[k])
            factors.append(self._factor(
                x[k, use], y[k, use], None if extra is None else extra[k, use],
                level[k], inverse=bool(inverse)))
            columns.append(slice(len(use)) if usable[k, :len(use)].all()
                           else use)
        return FootprintFactors(factors, inverted, columns, which)

    def sum_variance(self, weights: np.ndarray, x: NDArray[np.integer],
                     y: NDArray[np.integer], dx: NDArray[np.integer],
                     dy: NDArray[np.integer]) -> np.ndarray:
        """
        Return the variances of sums; see `NoiseModel.sum_variance`.

        The strength of the structure is that of the central pixel.

        Notes
        -----
        The variance is :math:`w^T C w`. For many pixels it is summed in
        Fourier space, where the covariance :math:`C` of stationary
        noise is diagonal, on a grid padded to twice the extent of the
        pixels. The result is the same to rounding; the memory is
        proportional to the area of the pixels instead of its square.
        """
        weights = times_relative_rms(weights, self.relative_rms, x, y, dx, dy)
        variance = self._sum_variance(weights, dx, dy)
        if self.structure is not None:
            variance += (self.structure_level(x, y)
                         * self.structure._sum_variance(  # noqa: SLF001
                             weights, dx, dy))
        return variance

    def simulate(self, shape: tuple[int, int], *,
                 seed: int | np.random.Generator | None = None
                 ) -> ArrayOrQuantity:
        """
        Draw a map of this noise.

        Parameters
        ----------
        shape : tuple of 2 ints
            The ``(ny, nx)`` of the map.

        seed : int or `~numpy.random.Generator`, optional
            The seed.

        Returns
        -------
        image : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The map.
        """
        shape = tuple(shape)
        if (self.relative_rms is not None
                and self.relative_rms.shape != shape):
            msg = ('shape must be that of relative_rms, '
                   f'{self.relative_rms.shape}: {shape}')
            raise ValueError(msg)
        rng = np.random.default_rng(seed)
        widest = np.sqrt(np.max(self.matrices, initial=0.0))
        padded = [fft.next_fast_len(int(size + 8 * widest), real=True)
                  for size in shape]
        lags = [np.minimum(np.arange(size), size - np.arange(size))
                * np.where(np.arange(size) <= size // 2, 1, -1)
                for size in padded]
        power = fft.rfft2(self._evaluate(lags[1][None, :].astype(float),
                                         lags[0][:, None].astype(float)))
        amplitude = np.sqrt(np.maximum(power.real, 0.0))
        image = fft.irfft2(amplitude * fft.rfft2(rng.normal(size=padded)),
                           s=padded)[:shape[0], :shape[1]]
        if self.relative_rms is not None:
            image = image * self.relative_rms
        if self.structure is not None:
            structure = self.structure.simulate(shape, seed=rng)
            image = image + getattr(structure, 'value', structure)
        return image if self._unit is None else image << self._unit

    def write(self, path: FilePath, *, overwrite: bool = False) -> None:
        """
        Write the noise to a FITS file.

        Use it to measure the noise once and fit many maps with it.

        Parameters
        ----------
        path : str or path-like
            The file.

        overwrite : bool, optional
            Whether an existing file may be replaced.

        Raises
        ------
        OSError
            If the file exists and ``overwrite`` is `False`.

        See Also
        --------
        read

        Examples
        --------
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from hyperphotutils.noise import CorrelatedNoise
        >>> noise = CorrelatedNoise.from_beam(2.0, fwhm=4.0)
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / 'noise.fits'
        ...     noise.write(path)
        ...     print(CorrelatedNoise.read(path).rms)
        2.0
        """
        from hyperphotutils.noise.files import write_noise

        write_noise(self, path, overwrite=overwrite)

    @classmethod
    def read(cls, path: FilePath) -> CorrelatedNoise:
        """
        Read noise from a file of `write`.

        Parameters
        ----------
        path : str or path-like
            The file.

        Returns
        -------
        noise : `CorrelatedNoise`
            The noise.

        Raises
        ------
        ValueError
            If the file was not written by `write`.
        """
        from hyperphotutils.noise.files import read_noise

        return read_noise(path, cls)

    def plot(self, *, ax: Axes | None = None,
             max_separation: float | None = None) -> Axes:
        """
        Plot the autocovariance along both axes of the map.

        Parameters
        ----------
        ax : `~matplotlib.axes.Axes`, optional
            Where to plot; the current axes by default.

        max_separation : float, optional
            The largest separation in pixels. The default is four times
            the widest part with at least a tenth of the variance.

        Returns
        -------
        ax : `~matplotlib.axes.Axes`
            The axes.
        """
        import matplotlib.pyplot as plt

        ax = plt.gca() if ax is None else ax
        if max_separation is None:
            large = self._variances[1:] > 0.1 * self._variances.sum()
            widths = np.sqrt(self.matrices[large].max(initial=1.0))
            max_separation = 4.0 * widths
        lag = np.linspace(0.0, max_separation, 200)
        total = self._variances.sum()
        ax.plot(lag, self._evaluate(lag, 0.0 * lag) / total, label='along x')
        ax.plot(lag, self._evaluate(0.0 * lag, lag) / total, '--',
                label='along y')
        ax.set_xlabel('Separation [pixel]')
        ax.set_ylabel('Correlation')
        ax.legend()
        return ax

    def _evaluate(self, dx, dy):
        """
        Return the autocovariance without unit.
        """
        dx, dy = np.broadcast_arrays(dx, dy)
        values = np.where((dx == 0.0) & (dy == 0.0), self._variances[0], 0.0)
        for variance, matrix in zip(self._variances[1:], self.matrices,
                                    strict=True):
            inverse = np.linalg.inv(matrix)
            values = values + variance * np.exp(-0.5 * (
                inverse[0, 0] * dx**2 + 2.0 * inverse[0, 1] * dx * dy
                + inverse[1, 1] * dy**2))
        return values

    def _sum_variance(self, weights, dx, dy):
        """
        Return the variances of sums, without a structure.
        """
        n_pixels = len(dx)
        if n_pixels <= _MAX_DENSE or n_pixels**2 <= 4 * np.ptp(dx) * np.ptp(
                dy):
            matrix = self._look_up(dx, dy)
            return np.sum((weights @ matrix) * weights, axis=1)
        col, row = dx - dx.min(), dy - dy.min()
        # Twice the extent: no separation wraps around.
        shape = [fft.next_fast_len(2 * int(axis.max()) + 1, real=True)
                 for axis in (row, col)]
        lag_y, lag_x = (fft.fftfreq(size, 1.0 / size) for size in shape)
        power = fft.rfft2(self._evaluate(lag_x[None, :], lag_y[:, None])).real
        # Only half of the columns of a real transform are stored.
        power[:, 1:(shape[1] + 1) // 2] *= 2.0
        power /= shape[0] * shape[1]
        variance = np.empty(len(weights))
        step = max(1, _MAX_ELEMENTS // (shape[0] * shape[1]))
        for start in range(0, len(weights), step):
            part = weights[start:start + step]
            image = np.zeros((len(part), *shape))
            image[:, row, col] = part
            spectrum = fft.rfft2(image)
            variance[start:start + step] = np.einsum(
                'nij,ij->n', spectrum.real**2 + spectrum.imag**2, power)
        return variance

    def _look_up(self, x, y):
        """
        Return the covariances of pixels at integer positions.
        """
        matrix = self._half_matrix(x, y, 0.0)
        lower = np.tril_indices(len(x), -1)
        matrix[lower] = matrix.T[lower]
        return matrix

    def _half_matrix(self, x, y, level):
        """
        Return the covariances of pixels at integer positions on the diagonal
        and to its right, with those of the structure times ``level``.

        They are taken from a table of separations, unless the pixels
        are so far apart that the table would be larger than is useful.
        """
        reach = int(max(np.ptp(x), np.ptp(y))) if len(x) else 0
        if (2 * reach + 1)**2 > _MAX_ELEMENTS:
            return self._sum_parts((x[:, None] - x).astype(float),
                                   (y[:, None] - y).astype(float), level)
        # Another thread may replace or remove the tables meanwhile.
        table = self._tables.get(level)
        if table is None or 2 * reach + 1 > len(table):
            if (sum(kept.size for kept in list(self._tables.values()))
                    + (2 * reach + 1)**2 > _MAX_ELEMENTS):
                self._tables.clear()
            lag = np.arange(-reach, reach + 1, dtype=float)
            table = self._tables[level] = self._sum_parts(
                lag[None, :], lag[:, None], level)
        # Differences of flat indices are flat indices of differences.
        side = len(table)
        index = y.astype(np.intp) * side + x
        matrix = np.empty((len(x), len(x)))
        for begin in range(0, len(x), _BLOCK):
            part = slice(begin, begin + _BLOCK)
            matrix[part, begin:] = table.ravel().take(np.subtract.outer(
                index[part] + side**2 // 2, index[begin:]))
        return matrix

    def _sum_parts(self, dx, dy, level):
        """
        Return the autocovariance with that of the structure times ``level``.
        """
        values = self._evaluate(dx, dy)
        if level > 0.0:
            values += level * self.structure._evaluate(  # noqa: SLF001
                dx, dy)
        return values

    def _factor(self, x, y, extra, level, *, inverse):
        """
        Return the factor of the covariance of some pixels, or its
        inverse.
        """
        key = (x.astype(np.int32).tobytes(), y.astype(np.int32).tobytes(),
               None if extra is None else extra.tobytes(), float(level),
               inverse)
        return self._factors.get(
            key, lambda: cholesky(self._matrix(x, y, extra, level),
                                  inverse=inverse))

    def _matrix(self, x, y, extra, level):
        """
        Return the covariance matrix of some pixels, on its diagonal and to
        the right.
        """
        matrix = self._half_matrix(
            x, y, 0.0 if self.structure is None else level)
        diagonal = np.diagonal(matrix) * (1.0 + _JITTER)
        if extra is not None:
            diagonal = diagonal + extra**2
        np.einsum('ii->i', matrix)[:] = diagonal
        return matrix


def beam_matrix(fwhm, fwhm_minor=None, theta=0.0):
    """
    Return the matrix of the variances of a beam.
    """
    minor = fwhm if fwhm_minor is None else fwhm_minor
    if not (0.0 < minor < np.inf and 0.0 < fwhm < np.inf):
        msg = f'the FWHMs of the beam must be positive: {fwhm}, {minor}'
        raise ValueError(msg)
    angle = np.deg2rad(theta)
    axes = np.array([[np.cos(angle), -np.sin(angle)],
                     [np.sin(angle), np.cos(angle)]])
    widths = np.diag((np.array([fwhm, minor]) * gaussian_fwhm_to_sigma)**2)
    return axes @ widths @ axes.T


def _measure_structure(measured, n_pairs, matrices, width, narrow, power,
                       fwhm):
    """
    Return the structure that an autocovariance has in addition to the
    noise, or None.

    ``narrow`` are the variances of the noise, and ``power`` is the local
    mean square of the map in a band of scales. The local level of the
    structure is ``power`` minus that of the noise, in units of that of
    the typical structure.
    """
    wide = _fit_parts(measured, n_pairs, matrices, width, known=narrow)
    band = band_response(matrices, fwhm)
    noise_power, structure_power = narrow @ band, wide @ band
    if not structure_power > 0.0:
        return None
    level = (power - noise_power) / structure_power
    used = wide[1:] > 0.0
    return CorrelatedNoise(
        np.append(0.0, wide[1:][used]), matrices[used],
        relative_rms=np.sqrt(np.clip(level, *_LEVELS)))


def _high_pass(data, good, fwhm):
    """
    Remove the large-scale background, and reject outliers.

    Outliers raise the background around them; it is therefore measured
    again without them.
    """
    for _ in range(3):
        level = subtract_surface(data, good)
        mean_in_blocks(level, good, _HIGH_PASS * fwhm).subtract_from(level)
        rms = clipped_rms(level, mask=~good) if good.any() else 0.0
        outlying = good & (np.abs(level) > _OUTLIER * rms)
        if not rms > 0.0 or not outlying.any():
            break
        good = good & ~outlying
    level[~good] = 0.0
    return level, good


def _masked_autocovariance(data, good, reach):
    """
    Return the mean products of good pixels and the number of pairs, for
    half of all separations: dy from 0 and dx from -reach to reach.
    """
    shape = [fft.next_fast_len(size + reach, real=True)
             for size in data.shape]

    def correlate(image):
        spectrum = fft.rfft2(image, shape)
        spectrum.real = spectrum.real**2 + spectrum.imag**2
        spectrum.imag = 0.0
        return fft.irfft2(spectrum, shape, overwrite_x=True)[rows, cols]

    rows = np.arange(reach + 1)[:, None]
    cols = np.arange(-reach, reach + 1)
    products = correlate(np.where(good, data, 0.0))
    n_pairs = np.rint(correlate(good.astype(float)))
    return products / np.maximum(n_pairs, 1.0), n_pairs


def sum_products(data, good, dark, core, reach, fwhm):
    """
    Sum the products of pairs of pixels of a tile, of which the first one
    is in the slices ``core``, up to ``reach`` pixels apart along an axis.

    Returns the sums and the numbers of pairs for half of all separations, of
    shape (2, reach + 1, 2 reach + 1), for the ``good`` pixels and for those
    that are also ``dark`` (`None` without). The sums over tiles that cover a
    map are those of the map.
    """
    filtered, good = _high_pass(data, good, fwhm)
    wide = tuple(slice(max(0, one.start - reach), one.stop + reach)
                 for one in core)
    inner = tuple(slice(one.start - part.start, one.stop - part.start)
                  for one, part in zip(core, wide, strict=True))
    filtered, good = filtered[wide], good[wide]
    shape = [fft.next_fast_len(size + reach, real=True)
             for size in filtered.shape]
    rows = np.arange(reach + 1)[:, None]
    cols = np.arange(-reach, reach + 1)

    def correlate(image):
        own = np.zeros(image.shape)
        own[inner] = image[inner]
        spectrum = np.conj(fft.rfft2(own, shape))
        spectrum *= fft.rfft2(image, shape)
        return fft.irfft2(spectrum, shape)[rows, cols]

    def sum_over(used):
        return np.stack([correlate(np.where(used, filtered, 0.0)),
                         correlate(used.astype(float))])

    return sum_over(good), (None if dark is None
                            else sum_over(good & dark[wide]))


def _candidate_matrices(beam, fwhm, widest):
    """
    Return the matrices of the parts that noise may have.
    """
    sizes = _SIZES * fwhm
    sizes = sizes[sizes <= widest]**2
    return np.concatenate((
        2.0 * beam * _FRACTIONS[:, None, None],
        2.0 * beam + sizes[:, None, None] * np.eye(2)))


def _fit_parts(measured, n_pairs, matrices, width=None, known=None):
    r"""
    Fit the variances of the parts to an autocovariance, for half of all
    separations.

    Subtracting the mean over a Gaussian :math:`g` of the sigma ``width``
    turns an autocovariance :math:`C` into :math:`C - 2 C * g + C * g *
    g`. The convolution of a Gaussian of the matrix :math:`\Sigma` with
    :math:`g` is one of the matrix :math:`\Sigma + w^2`.

    If ``known`` variances are given, only parts wider than the beam are
    fitted, to the autocovariance in addition to the known one.
    """
    reach = measured.shape[1] // 2
    dy, dx = np.mgrid[:len(measured), -reach:reach + 1]
    distance = np.hypot(dx, dy)
    used = ((distance <= min(reach, len(measured) - 1))
            & ((dy > 0) | (dx >= 0)) & (n_pairs > 0))
    weight = np.maximum(distance[used], 1.0)**-_WEIGHT_POWER
    dx, dy = dx[used].astype(float), dy[used].astype(float)

    def gaussians(variance):
        wider = matrices + variance * np.eye(2)
        inverse = np.linalg.inv(wider)
        height = np.sqrt(np.linalg.det(matrices) / np.linalg.det(wider))
        return height * np.exp(-0.5 * (
            np.outer(dx**2, inverse[:, 0, 0])
            + 2.0 * np.outer(dx * dy, inverse[:, 0, 1])
            + np.outer(dy**2, inverse[:, 1, 1])))

    def density(variance):
        return np.exp(-0.5 * distance[used]**2 / variance) / (
            2.0 * np.pi * variance)

    design = np.empty((len(dx), len(matrices) + 1))
    design[:, 0] = distance[used] == 0.0
    design[:, 1:] = gaussians(0.0)
    if width is not None:
        design[:, 0] += density(2.0 * width**2) - 2.0 * density(width**2)
        design[:, 1:] += gaussians(2.0 * width**2) - 2.0 * gaussians(width**2)
    right = measured[used]
    if known is not None:
        right = right - design @ known
        design[:, :_N_NARROW] = 0.0
    design *= weight[:, None]
    right = right * weight
    scale = measured[0, reach]
    # The triangular factor has the same least squares problem.
    factor = np.linalg.qr(np.column_stack((design, right / scale)), mode='r')
    variances, _ = nnls(factor[:, :-1], factor[:, -1])
    return scale * variances
