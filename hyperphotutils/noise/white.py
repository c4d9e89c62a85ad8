# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Noise that is independent between pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperphotutils.utils.tables import strip_units

if TYPE_CHECKING:
    from astropy.units import Quantity, UnitBase

    from hyperphotutils.utils.typing import FloatOrQuantity

__all__ = ['DiagonalFactors', 'WhiteNoise']


class WhiteNoise:
    """
    Gaussian noise that is independent between pixels.

    Use it for maps whose pixels are larger than the beam, or to ignore
    correlations.

    Parameters
    ----------
    rms : float or `~astropy.units.Quantity`, optional
        The typical standard deviation of a pixel, with the unit of the
        map. By default it is unknown: fits then give all pixels the same
        weight and scale their errors by the scatter of the residuals.

    relative_rms : 2D array_like, optional
        A map of the local rms in units of the typical one. Pixels where
        it is not finite are not used. The default is 1 everywhere.

    Raises
    ------
    ValueError
        If ``rms`` or ``relative_rms`` are not positive.

    See Also
    --------
    CorrelatedNoise : Noise correlated over the beam.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.noise import WhiteNoise
    >>> noise = WhiteNoise.from_error(np.array([[2.0, 2.0], [4.0, np.inf]]))
    >>> print(noise.rms)
    2.0
    >>> print(noise.rms_at([0, 0], [0, 1]))
    [2. 4.]
    """

    is_correlated = False
    weighted_rms = 1.0

    def __init__(self, rms: float | Quantity | None = None, *,
                 relative_rms: ArrayLike | None = None) -> None:
        values, self._unit = strip_units(rms=rms)
        self._rms = None if rms is None else float(values['rms'])
        if rms is not None and not 0.0 < self._rms < np.inf:
            msg = f'rms must be positive: {rms}'
            raise ValueError(msg)
        if relative_rms is not None:
            relative_rms = np.asarray(relative_rms, dtype=float)
            if relative_rms.ndim != 2 or np.any(relative_rms <= 0.0):
                msg = 'relative_rms must be a 2D array of positive numbers'
                raise ValueError(msg)
        self.relative_rms = relative_rms

    def __repr__(self) -> str:
        varying = '' if self.relative_rms is None else ', relative_rms=<array>'
        rms = None if self._rms is None else f'{self._rms:.4g}'
        return f'<{type(self).__name__}(rms={rms}{varying})>'

    @classmethod
    def from_error(cls, error: ArrayLike | Quantity | None, *,
                   mask: ArrayLike | None = None) -> WhiteNoise:
        """
        Describe noise of known standard deviations.

        Parameters
        ----------
        error : float, 2D array_like, `~astropy.units.Quantity`, or `None`
            The standard deviation of each pixel; `None` if unknown.
            Pixels whose error is not finite are not used.

        mask : 2D bool array_like, optional
            `True` for pixels whose error is ignored.

        Returns
        -------
        noise : `WhiteNoise`
            The noise; its rms is the median error.

        Raises
        ------
        ValueError
            If an error that is not masked is not positive.
        """
        if error is None:
            return cls()
        values, unit = strip_units(error=error)
        error = np.asarray(values['error'], dtype=float)
        used = (np.True_ if mask is None or error.ndim == 0
                else ~np.asarray(mask, dtype=bool))
        if np.any((error <= 0.0) & used):
            msg = ('error must be positive; use mask for pixels that are '
                   'not to be used')
            raise ValueError(msg)
        good = np.isfinite(error) & (error > 0.0)
        known = error[good & used]
        if known.size == 0:
            msg = 'error has no finite value where data are usable'
            raise ValueError(msg)
        rms = float(np.median(known))
        relative = None
        if error.ndim:
            relative = np.full(error.shape, np.inf)
            np.divide(error, rms, out=relative, where=good)
        return cls(rms if unit is None else rms << unit,
                   relative_rms=relative)

    @property
    def rms(self) -> FloatOrQuantity | None:
        """
        The typical standard deviation of a pixel; `None` if unknown.
        """
        if self._rms is None or self._unit is None:
            return self._rms
        return self._rms << self._unit

    def rms_at(self, x: ArrayLike, y: ArrayLike) -> np.ndarray:
        """
        Return the standard deviation of pixels; see `NoiseModel.rms_at`.

        If the typical one is unknown, it is the unit.
        """
        x, y = np.asarray(x), np.asarray(y)
        rms = 1.0 if self._rms is None else self._rms
        if self.relative_rms is None:
            return np.full(x.shape, rms)
        return rms * self.relative_rms[y, x]

    def pixel_weights(self, x: ArrayLike, y: ArrayLike,
                      usable: ArrayLike) -> np.ndarray:
        """
        Return the inverse standard deviations of the pixels of footprints;
        see `NoiseModel.pixel_weights`.
        """
        weights = np.asarray(usable).astype(float)
        np.divide(weights, self.rms_at(x, y), out=weights, where=usable)
        return weights

    def factors(self, x: ArrayLike, y: ArrayLike,
                usable: ArrayLike | None = None,
                extra: ArrayLike | None = None) -> DiagonalFactors | None:
        """
        Return the `DiagonalFactors` of footprints; see `NoiseModel.factors`.

        They are `None` without ``extra``: weighted pixels are white.
        """
        if extra is None:
            return None
        extra = np.asarray(extra, dtype=float)
        if usable is not None:
            extra = np.where(usable, extra, 0.0)
        return DiagonalFactors(np.sqrt(1.0 + extra**2))

    def sum_variance(self, weights: np.ndarray, x: NDArray[np.integer],
                     y: NDArray[np.integer], dx: NDArray[np.integer],
                     dy: NDArray[np.integer]) -> np.ndarray:
        """
        Return the variances of sums; see `NoiseModel.sum_variance`.
        """
        weights = times_relative_rms(weights, self.relative_rms, x, y, dx, dy)
        rms = 1.0 if self._rms is None else self._rms
        return rms**2 * np.sum(weights**2, axis=1)

    def scale(self, factor: float, unit: UnitBase | None = None) -> WhiteNoise:
        """
        Return the noise of the scaled map; see `NoiseModel.scale`.
        """
        rms = None if self._rms is None else factor * self._rms
        if rms is not None and unit is not None:
            rms <<= unit
        return type(self)(rms, relative_rms=self.relative_rms)

    def cutout(self, slices: tuple[slice, slice]) -> WhiteNoise:
        """
        Return the noise of a part of the map; see `NoiseModel.cutout`.
        """
        relative_rms = (None if self.relative_rms is None
                        else self.relative_rms[slices])
        return type(self)(self.rms, relative_rms=relative_rms)


class DiagonalFactors:
    """
    The factors of diagonal covariance matrices of ``g`` footprints.

    Parameters
    ----------
    rms : `~numpy.ndarray` of shape (g, p)
        The standard deviations of the pixels.

    See Also
    --------
    FootprintFactors : The same for correlated pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.noise import DiagonalFactors
    >>> factors = DiagonalFactors(np.array([[1.0, 2.0]]))
    >>> print(factors.whiten(np.array([[[3.0, 4.0]]])))
    [[[3. 2.]]]
    """

    def __init__(self, rms: np.ndarray) -> None:
        self._rms = rms

    def __len__(self) -> int:
        return len(self._rms)

    def take(self, index: slice | ArrayLike) -> DiagonalFactors:
        """
        Return the factors of some footprints; see `FootprintFactors.take`.
        """
        return DiagonalFactors(self._rms[index])

    def whiten(self, rows: np.ndarray) -> np.ndarray:
        """
        Divide vectors of pixels by the standard deviations; see
        `FootprintFactors.whiten`.
        """
        return rows / self._rms[:, None]

    def correlate(self, rows: np.ndarray) -> np.ndarray:
        """
        Multiply vectors of pixels by the standard deviations; see
        `FootprintFactors.correlate`.
        """
        return rows * self._rms[:, None]


def times_relative_rms(weights, relative_rms, x, y, dx, dy):
    """
    Return the weights of sums times the local rms of their pixels; the
    arguments are those of `NoiseModel.sum_variance`.
    """
    if relative_rms is None:
        return weights
    ny, nx = relative_rms.shape
    rows = np.clip(np.add.outer(y, dy), 0, ny - 1)
    cols = np.clip(np.add.outer(x, dx), 0, nx - 1)
    # The local rms may be unknown where no pixel is used.
    return np.multiply(weights, relative_rms[rows, cols],
                       out=np.zeros(weights.shape), where=weights != 0.0)
