# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The interface of noise models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import numpy as np
    from astropy.units import UnitBase

    from hyperphotutils.utils.typing import FloatOrQuantity

__all__ = ['NoiseModel']


@runtime_checkable
class NoiseModel(Protocol):
    """
    Interface of the noise models that fits and apertures use.

    Any object with these attributes and methods can be the ``noise`` of
    `~hyperphotutils.photometry.HyperPhotometry`,
    `~hyperphotutils.photometry.ForcedPhotometry`, and
    `~hyperphotutils.blend.BlendGroupFitter`; it need not be a subclass.

    Pixels are made white in two steps: they are multiplied by
    `pixel_weights`, and the result is whitened by `factors`.

    See Also
    --------
    WhiteNoise : Independent pixels.
    CorrelatedNoise : A stationary covariance and a variable strength.
    """

    @property
    def rms(self) -> FloatOrQuantity | None:
        """
        The typical standard deviation of a pixel: a `float`, a
        `~astropy.units.Quantity` with the unit of the map, or `None` if it is
        unknown. Fits then scale their errors by the scatter of the residuals.
        """

    @property
    def relative_rms(self) -> np.ndarray | None:
        """
        A map of the local rms in units of the typical one, or `None` if it
        does not vary. Pixels where it is not finite are not used.
        """

    @property
    def weighted_rms(self) -> float:
        """
        The standard deviation of a pixel times its weight.
        """

    @property
    def is_correlated(self) -> bool:
        """
        Whether pixels are correlated, so that `factors` are not `None`.

        Errors and chi2 then account for structured background, and decide
        which candidates are significant.
        """

    def rms_at(self, x: ArrayLike, y: ArrayLike) -> np.ndarray:
        """
        Return the standard deviation of pixels.

        Parameters
        ----------
        x, y : int array_like
            The pixel coordinates.

        Returns
        -------
        rms : `~numpy.ndarray`
            The standard deviations, without unit.
        """

    def pixel_weights(self, x: ArrayLike, y: ArrayLike,
                      usable: ArrayLike) -> np.ndarray:
        """
        Return the weights of the pixels of footprints.

        Parameters
        ----------
        x, y : int array_like of shape (g, p)
            The pixel coordinates of each of ``g`` footprints.

        usable : bool array_like of shape (g, p)
            `False` for padding, whose weight is 0.

        Returns
        -------
        weights : `~numpy.ndarray` of shape (g, p)
            The weights.
        """

    def factors(self, x: ArrayLike, y: ArrayLike,
                usable: ArrayLike | None = None,
                extra: ArrayLike | None = None) -> Any | None:
        """
        Return an object that whitens the weighted pixels of footprints.

        Parameters
        ----------
        x, y : int array_like of shape (g, p)
            The pixel coordinates of each of ``g`` footprints.

        usable : bool array_like of shape (g, p), optional
            `False` for padding.

        extra : array_like of shape (g, p), optional
            The standard deviation of additional, independent noise of
            each pixel, multiplied by its weight.

        Returns
        -------
        factors : object or `None`
            An object with the methods of `FootprintFactors`; `None` if
            the weighted pixels are already white.
        """

    def sum_variance(self, weights: np.ndarray, x: NDArray[np.integer],
                     y: NDArray[np.integer], dx: NDArray[np.integer],
                     dy: NDArray[np.integer]) -> np.ndarray:
        """
        Return the variances of weighted sums over pixels.

        Parameters
        ----------
        weights : `~numpy.ndarray` of shape (n, p)
            The weights of each sum, 0 for pixels off the map.

        x, y : 1D int `~numpy.ndarray` of shape (n,)
            The coordinates of the central pixel of each sum.

        dx, dy : 1D int `~numpy.ndarray` of shape (p,)
            The offsets of the pixels from the central one; none twice.

        Returns
        -------
        variance : 1D `~numpy.ndarray` of shape (n,)
            The variances, without unit.
        """

    def scale(self, factor: float, unit: UnitBase | None = None) -> NoiseModel:
        """
        Return the noise of the map multiplied by a number.

        Parameters
        ----------
        factor : float
            The number.

        unit : `~astropy.units.Unit`, optional
            The unit of the result.

        Returns
        -------
        noise : `NoiseModel`
            The noise.
        """

    def cutout(self, slices: tuple[slice, slice]) -> NoiseModel:
        """
        Return the noise of a part of the map.

        Parameters
        ----------
        slices : tuple of 2 slices
            The rows and columns of the part.

        Returns
        -------
        noise : `NoiseModel`
            The noise.
        """
