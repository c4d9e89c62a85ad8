# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The interface of local backgrounds, and adapters to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree

from hyperphotutils.utils.tables import make_repr

if TYPE_CHECKING:
    from astropy.units import Quantity

__all__ = ['ImageBackground', 'LocalBackground']

# Columns that describe the background of a source.
_COLUMNS = {'bkg_order': -1, 'bkg_method': '', 'bkg_size': np.nan}


@runtime_checkable
class LocalBackground(Protocol):
    """
    Interface that `~hyperphotutils.photometry.HyperPhotometry` needs of a
    background that is estimated before the fit.

    Any object with this method can be its ``background``; it need not be
    a subclass.

    See Also
    --------
    LocalPolynomialBackground : Polynomials in boxes around sources.
    ImageBackground : The background of a whole map, for example that of
        `photutils.background.Background2D`.
    """

    def fit(self, data: np.ndarray, x: np.ndarray, y: np.ndarray,
            mask: NDArray[np.bool_] | None = None) -> Any:
        """
        Measure the background of a map at its sources.

        Parameters
        ----------
        data : 2D `~numpy.ndarray`
            The map, with the sources subtracted.

        x, y : 1D `~numpy.ndarray`
            The pixel positions of the sources, NaN if unknown.

        mask : 2D bool `~numpy.ndarray`, optional
            `True` for pixels to ignore: bad pixels and the cores of the
            sources.

        Returns
        -------
        fit : object
            An object with the method ``make_background_image()``, which
            returns the background as an image with the shape of the map,
            NaN where it is not known. If it has a ``table`` with a row
            for each position (``x``, ``y``), its columns ``bkg_order``,
            ``bkg_method``, and ``bkg_size`` are kept in the results.
        """


class ImageBackground:
    """
    Class to use the background of a whole map as a local background.

    Parameters
    ----------
    make : callable
        Called with the data and ``mask=``, returns an object with the
        attribute ``background``, an image. For example a
        `functools.partial` of `photutils.background.Background2D` or of
        `PolynomialBackground2D`.

    Examples
    --------
    >>> from functools import partial
    >>> import numpy as np
    >>> from photutils.background import Background2D
    >>> from hyperphotutils.background import ImageBackground
    >>> background = ImageBackground(partial(Background2D, box_size=20))
    >>> fit = background.fit(np.full((60, 60), 3.0), [30.0], [30.0])
    >>> print(fit.make_background_image()[30, 30])
    3.0
    """

    _repr_params = ('make',)

    def __init__(self, make: Callable) -> None:
        if not callable(make):
            msg = f'make must be callable: {make!r}'
            raise TypeError(msg)
        self.make = make

    def __repr__(self) -> str:
        return make_repr(self)

    def fit(self, data: ArrayLike | Quantity, x: ArrayLike, y: ArrayLike,
            mask: ArrayLike | None = None) -> Any:
        """
        Measure the background of a map.

        Parameters
        ----------
        data : 2D array_like or `~astropy.units.Quantity`
            The map.

        x, y : 1D array_like
            The pixel positions of the sources, which are not used.

        mask : 2D bool array_like, optional
            `True` for pixels to ignore.

        Returns
        -------
        fit : object
            The background; see `LocalBackground`.
        """
        return _FittedImage(self.make(data, mask=mask).background)


class _FittedImage:
    """
    The background of a whole map.

    Parameters
    ----------
    image : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
        The image.
    """

    def __init__(self, image):
        self._image = image

    def make_background_image(self):
        """
        Return the image.
        """
        return self._image


class _AnnulusBackground:
    """
    Adapter of `photutils.background.LocalBackground`.

    Parameters
    ----------
    estimator : `~photutils.background.LocalBackground`
        Called with data, x, y, and mask, returns a value for each
        source, which is the background out to its ``outer_radius``.
    """

    def __init__(self, estimator):
        self.estimator = estimator

    def __repr__(self):
        return repr(self.estimator)

    def fit(self, data, x, y, mask=None):
        """
        Measure the background; see `LocalBackground`.
        """
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        known = np.isfinite(x) & np.isfinite(y)
        values = np.full(x.shape, np.nan)
        if known.any():
            values[known] = self.estimator(data, x[known], y[known],
                                           mask=mask)
        boxes, shape, radius = [], np.shape(data), self.estimator.outer_radius
        for x_one, y_one, value in zip(x, y, values, strict=True):
            # An annulus without pixels has no level, and its box no pixels.
            slices = (slice(0, 0),) * 2
            if np.isfinite(value):
                slices = tuple(
                    slice(max(0, int(np.ceil(center - radius))),
                          max(0, min(size, int(np.floor(center + radius)) + 1))
                          ) for center, size in zip((y_one, x_one), shape,
                                                    strict=True))
            n_pixels = [max(0, one.stop - one.start) for one in slices]
            boxes.append((np.full(n_pixels, value), slices))
        return _FittedImage(combine_boxes(shape, x, y, boxes))


def combine_boxes(shape, x, y, boxes):
    """
    Combine the backgrounds of sources, pairs of an image and its slices, to
    an image.

    It is their mean, to which the nearest sources contribute most; NaN
    outside of all boxes.
    """
    total, norm = np.zeros(shape), np.zeros(shape)
    for x_one, y_one, (image, slices) in zip(x, y, boxes, strict=True):
        if image.size:
            rows, cols = np.mgrid[slices]
            # Inverse distance weighting (doi:10.1145/800186.810616): with the
            # fourth power the box of a neighbor hardly counts at a source,
            # where the weight is finite.
            near = 1.0 / (1.0 + (cols - x_one)**2 + (rows - y_one)**2)**2
            total[slices] += near * image
            norm[slices] += near
    known = norm > 0.0
    np.divide(total, norm, out=total, where=known)
    total[~known] = np.nan
    return total


def as_local_background(background):
    """
    Return an object with the interface of `LocalBackground`: the same, or an
    adapter of a `photutils.background.LocalBackground`.
    """
    # Regressors of scikit-learn have a method fit, too, but another one.
    if (isinstance(background, LocalBackground)
            and not isinstance(background, type)
            and not hasattr(background, 'predict')):
        return background
    if callable(background) and hasattr(background, 'outer_radius'):
        return _AnnulusBackground(background)
    msg = ('background must have the method fit of a LocalBackground, such '
           'as LocalPolynomialBackground or ImageBackground (for a '
           'Background2D, ImageBackground(partial(Background2D, '
           'box_size=30)); for a regressor, LocalPolynomialBackground('
           f'box_sizes, methods=regressor)): {background!r}')
    raise TypeError(msg)


def describe_background(fit, table):
    """
    Return the columns, by name, that describe the background of each source:
    those of the nearest position of ``fit``.
    """
    fits = getattr(fit, 'table', None)
    if fits is None:
        return {name: np.full(len(table), value)
                for name, value in _COLUMNS.items()}
    # the fit may have moved sources since then, and added others
    known = KDTree(np.column_stack((fits['x'], fits['y'])))
    row = known.query(np.nan_to_num(np.column_stack(
        (table['x_fit'], table['y_fit']))))[1]
    return {name: np.asarray(fits[name])[row] for name in _COLUMNS}
