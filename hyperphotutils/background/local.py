# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Polynomial backgrounds in boxes around sources.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from astropy.table import QTable
from numpy.typing import ArrayLike
from photutils.aperture import RectangularAperture
from photutils.background import LocalBackground

from hyperphotutils.background.boxes import (
    Frame,
    cut_out_boxes,
    known_fwhm,
    prepare_image,
    whole_map,
)
from hyperphotutils.background.candidates import (
    FittedCandidates,
    check_comparison,
    fit_candidates,
    make_candidates,
)
from hyperphotutils.background.interface import combine_boxes
from hyperphotutils.background.masks import make_source_mask
from hyperphotutils.background.regressors import evaluate_polynomial
from hyperphotutils.utils import make_repr, result_meta

if TYPE_CHECKING:
    from astropy.modeling.polynomial import Polynomial2D
    from astropy.units import Quantity, UnitBase
    from matplotlib.axes import Axes

    from hyperphotutils.utils.typing import (
        ArrayOrQuantity,
        FloatOrArray,
        ImageLike,
    )

__all__ = ['LocalBackgroundFits', 'LocalPolynomialBackground']

# Number of pixels in the cutouts of one batch of sources. Larger batches
# cost memory without saving time, as their arrays exceed the CPU cache.
_MAX_PIXELS = 100_000


class LocalPolynomialBackground(LocalBackground):
    """
    Class to estimate the background at sources with polynomials fitted
    in boxes around them.

    Use it where the background varies on scales of a few beams, so that
    neither an annulus nor a mesh follows it. Every combination of box
    size, order, and method is fitted. For each source, they are compared
    on the pixels that the boxes have in common, those of the smallest
    box, and the best one is selected.

    It can be used wherever photutils accepts a
    `~photutils.background.LocalBackground`.

    Parameters
    ----------
    box_sizes : float or sequence of float
        The lengths of the square boxes in pixels. A box is centered on
        the pixel of the source and therefore has an odd number of
        pixels along its sides: even numbers are increased by one. A box
        that extends beyond the edge of the map is truncated there. 0
        means the whole map.

    orders, methods, criterion, huber_epsilons, tolerance, fwhm, seed
        See `PolynomialBackground2D`.

    source_fwhm : float, optional
        The full width at half maximum of the sources in pixels. If
        given, circles around all positions of a call are masked. By
        default, only ``mask`` is applied.

    mask_factor : float, optional
        The radius of these circles in units of ``source_fwhm``.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.

    ValueError
        If the value of an argument is wrong.

    See Also
    --------
    PolynomialBackground2D : The background of a whole map.
    make_source_mask : Masks of sources of different sizes and shapes.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.background import LocalPolynomialBackground
    >>> yy, xx = np.mgrid[:101, :101]
    >>> data = 1.0 + 0.1 * xx + 0.002 * yy**2
    >>> local_bkg = LocalPolynomialBackground((21, 31), orders=(0, 1, 2))
    >>> print(local_bkg(data, [50, 20], [50, 70]))  # doctest: +FLOAT_CMP
    [11.  12.8]
    """

    _repr_params = ('box_sizes', 'orders', 'methods', 'criterion',
                    'huber_epsilons', 'tolerance', 'fwhm', 'source_fwhm',
                    'mask_factor', 'seed')

    # The constructor of the base class defines an annulus: not called.
    def __init__(self, box_sizes: float | Sequence[float] | np.ndarray, *,
                 orders: int | Sequence[int] | np.ndarray = (0, 1, 2),
                 methods: str | Sequence | Any = ('lsq',),
                 criterion: Literal['nmse', 'reduced_chi2', 'bic'] = 'nmse',
                 huber_epsilons: float | Sequence[float]
                     | np.ndarray = (1.1, 1.35, 1.7, 2.0),
                 tolerance: float | None = None, fwhm: float | None = None,
                 source_fwhm: float | None = None, mask_factor: float = 1.5,
                 seed: int | np.random.Generator = 0) -> None:
        self.box_sizes = box_sizes
        self.orders = orders
        self.methods = methods
        self.criterion = criterion
        self.huber_epsilons = huber_epsilons
        self.tolerance = tolerance
        self.fwhm = fwhm
        self.source_fwhm = source_fwhm
        self.mask_factor = mask_factor
        self.seed = seed
        # the odd sizes in increasing order, 0 (the whole map) last
        sizes = np.atleast_1d(np.asarray(box_sizes))
        if sizes.dtype.kind not in 'iuf' or sizes.ndim != 1:
            msg = f'box_sizes must be numbers: got {box_sizes!r}'
            raise TypeError(msg)
        if sizes.size == 0:
            msg = 'box_sizes must not be empty'
            raise ValueError(msg)
        for size in sizes:
            if not (size == 0 or 1 <= size < np.inf):
                msg = ('box_sizes must be at least 1, or 0 for the whole map: '
                       f'got {size}')
                raise ValueError(msg)
        odd = {2 * int(size // 2) + 1 for size in sizes if size > 0}
        self._sizes = (*sorted(odd), *((0,) if np.any(sizes == 0) else ()))
        self._candidates = make_candidates(
            orders=orders, methods=methods, huber_epsilons=huber_epsilons,
            n_boxes=len(self._sizes))
        check_comparison(criterion, tolerance)
        for name in ('fwhm', 'source_fwhm', 'mask_factor'):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                msg = f'{name} must be positive and finite: got {value}'
                raise ValueError(msg)

    def __repr__(self) -> str:
        return make_repr(self)

    def to_aperture(self, x: ArrayLike, y: ArrayLike) -> RectangularAperture:
        """
        Return the largest boxes as apertures.

        Parameters
        ----------
        x, y : float or 1D array_like
            The pixel positions of the sources.

        Returns
        -------
        aperture : `~photutils.aperture.RectangularAperture`
            The boxes, centered on the pixels of the sources.

        Raises
        ------
        ValueError
            If the only box size is the whole map.
        """
        size = max(self._sizes[:-1] if self._sizes[-1] == 0
                   else self._sizes, default=0)
        if size == 0:
            msg = ('box_sizes contains only the whole map (0), which has no '
                   'aperture')
            raise ValueError(msg)
        positions = np.transpose(np.round([np.atleast_1d(x),
                                           np.atleast_1d(y)]))
        return RectangularAperture(positions, size, size)

    def __call__(self, data: ImageLike, x: ArrayLike, y: ArrayLike,
                 mask: ArrayLike | None = None) -> FloatOrArray | Quantity:
        """
        Return the background at positions.

        Parameters
        ----------
        data : 2D array_like, Quantity, or `~astropy.nddata.NDData`
            The data. Pixels that are not finite are masked.

        x, y : float or 1D array_like
            The pixel positions of the sources.

        mask : 2D array_like of bool, optional
            `True` for pixels that are not used.

        Returns
        -------
        value : float, 1D `~numpy.ndarray`, or `~astropy.units.Quantity`
            The background at the positions; NaN where there are too few
            pixels for any order.
        """
        value = self.fit(data, x, y, mask=mask).value
        return value[0] if np.ndim(x) == 0 and np.ndim(y) == 0 else value

    def fit(self, data: ImageLike, x: ArrayLike, y: ArrayLike,
            mask: ArrayLike | None = None, *,
            error: ArrayLike | Quantity | None = None,
            source_mask: ArrayLike | None = None) -> LocalBackgroundFits:
        """
        Fit the backgrounds and return values, polynomials, and scores.

        Parameters
        ----------
        data : 2D array_like, Quantity, or `~astropy.nddata.NDData`
            The data. Pixels that are not finite are masked.

        x, y : float or 1D array_like
            The pixel positions of the sources.

        mask : 2D array_like of bool, optional
            `True` for pixels that are not used.

        error : 2D array_like or Quantity, optional
            The 1-sigma errors of ``data``. They are used as weights of
            the fits and in chi-squared and BIC.

        source_mask : 2D array_like of bool, optional
            `True` for the pixels of sources, for example from
            `make_source_mask`. It replaces the circles of
            ``source_fwhm``.

        Returns
        -------
        fits : `LocalBackgroundFits`
            The values, polynomials, and candidates.
        """
        x, y = (np.atleast_1d(np.asarray(position, dtype=float))
                for position in (x, y))
        if x.ndim != 1 or x.shape != y.shape:
            msg = ('x and y must be numbers or 1D arrays of the same length: '
                   f'got the shapes {x.shape} and {y.shape}')
            raise ValueError(msg)
        values, weights, unit = prepare_image(data, mask=mask, error=error)
        # set the weights of the pixels of sources to zero
        if source_mask is not None:
            source_mask = np.asarray(source_mask, dtype=bool)
            if source_mask.shape != weights.shape:
                msg = ('source_mask must have the same shape as data, '
                       f'{weights.shape}: got {source_mask.shape}')
                raise ValueError(msg)
        elif self.source_fwhm is not None:
            source_mask = make_source_mask(weights.shape, x, y,
                                           self.source_fwhm,
                                           factor=self.mask_factor)
        weights = weights if source_mask is None else weights * ~source_mask

        placed = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        # positions far off the map, whose boxes are empty, may exceed the
        # range of integers
        limit = max(values.shape) + max(self._sizes)
        x_pixel, y_pixel = (
            np.round(np.clip(position[placed], -limit, 2 * limit)).astype(int)
            for position in (x, y))
        fitted = self._fit_pixels(values, weights, x_pixel, y_pixel,
                                  has_error=error is not None,
                                  fwhm=known_fwhm(data, self.fwhm))
        frames = [Frame(x_pixel.astype(float), y_pixel.astype(float), size,
                        size) if size > 0 else Frame.of_map(values.shape)
                  for size in self._sizes]
        return LocalBackgroundFits(
            x=x, y=y, shape=values.shape, unit=unit, placed=placed,
            box_sizes=self._sizes, frames=tuple(frames), fitted=fitted,
            meta=result_meta(self))

    def _fit_pixels(self, values, weights, x, y, *, has_error, fwhm):
        """
        Fit the boxes around pixels, in batches that bound the memory.
        """
        step = max(1, _MAX_PIXELS // max(self._sizes)**2
                   if max(self._sizes) > 0 else x.size)
        map_box = whole_map(values, weights)
        parts, known = [], {}
        for start in range(0, max(x.size, 1), step):
            lot = slice(start, start + step)
            boxes = [cut_out_boxes(values, weights, x[lot], y[lot], size)
                     if size > 0 else map_box for size in self._sizes]
            parts.append(fit_candidates(
                boxes, self._candidates, n_centers=x[lot].size,
                criterion=self.criterion, tolerance=self.tolerance,
                has_error=has_error, seed=self.seed, known=known,
                fwhm=fwhm))
            # the polynomials of the whole map are those of the first batch
            known = {k: parts[0].coefficients[k]
                     for k, candidate in enumerate(self._candidates)
                     if self._sizes[candidate.box] == 0}
        return FittedCandidates.join(parts, [size == 0
                                             for size in self._sizes])


@dataclass(frozen=True)
class LocalBackgroundFits:
    """
    The local backgrounds of sources, as returned by
    `LocalPolynomialBackground.fit`.

    Parameters
    ----------
    x, y : 1D `~numpy.ndarray`
        The pixel positions of the sources.

    shape : tuple of int
        The shape of the map.

    unit : `~astropy.units.Unit` or None
        The unit of the map.

    placed : 1D `~numpy.ndarray` of int
        The indices of the sources whose position is finite.

    box_sizes : tuple of int
        The sizes of the boxes in pixels; 0 is the whole map.

    frames : tuple of `~hyperphotutils.background.boxes.Frame`
        The coordinates of each box size.

    fitted : `~hyperphotutils.background.candidates.FittedCandidates`
        The polynomials of the sources in ``placed``.

    meta : dict
        The versions and settings with which the result was made.
    """

    x: np.ndarray
    y: np.ndarray
    shape: tuple
    unit: UnitBase | None
    placed: np.ndarray = field(repr=False)
    box_sizes: tuple
    frames: tuple = field(repr=False)
    fitted: Any = field(repr=False)
    meta: dict = field(repr=False)

    @cached_property
    def value(self) -> ArrayOrQuantity:
        """
        The backgrounds at the positions of the sources; NaN where there
        is none.
        """
        value = np.full(self.x.size, np.nan)
        selected = self.fitted.selected
        for k in np.unique(selected[selected >= 0]):
            index = np.flatnonzero(selected == k)
            source = self.placed[index]
            stack = self.fitted.coefficients[k]
            members = slice(None) if len(stack) == 1 else index
            frame = self.frames[self.fitted.candidates[k].box]
            x, y = frame.scale(self.x[source, np.newaxis],
                               self.y[source, np.newaxis], members)
            value[source] = evaluate_polynomial(stack[members], x,
                                                y)[:, 0, 0]
        return self._with_unit(value)

    @cached_property
    def table(self) -> QTable:
        """
        A `~astropy.table.QTable` with a row for each source: the
        background at its position, and the method, order, box size and
        scores of the selected polynomial.
        """
        table = QTable(meta=dict(self.meta))
        table['id'] = np.arange(1, self.x.size + 1)
        table['x'] = self.x
        table['y'] = self.y
        table['local_bkg'] = self.value
        table['bkg_rms'] = self._with_unit(self._selected_scores('rms'))
        chosen = [None] * self.x.size
        for source, _, k in self._selections():
            chosen[source] = self.fitted.candidates[k]
        table['bkg_method'] = [c.method_name if c else '' for c in chosen]
        table['bkg_epsilon'] = [c.epsilon if c else np.nan for c in chosen]
        table['bkg_order'] = [c.order if c else -1 for c in chosen]
        table['bkg_size'] = [self.box_sizes[c.box] if c else -1
                            for c in chosen]
        for name in ('nmse', 'reduced_chi2', 'bic'):
            table[name] = self._selected_scores(name)
        table['n_pixels'] = 0
        table['n_pixels'][self.placed] = self.fitted.n_pixels
        return table

    @cached_property
    def models(self) -> list[None | Polynomial2D]:  # noqa: RUF036
        """
        A list with the `~astropy.modeling.polynomial.Polynomial2D` of
        each source, valid in pixel positions of the map; `None` where
        there is no background.
        """
        models = [None] * self.x.size
        for source, index, k in self._selections():
            frame = self.frames[self.fitted.candidates[k].box]
            models[source] = frame.make_model(
                self.fitted.coefficients_of(k, index),
                min(index, frame.x_center.size - 1))
        return models

    @cached_property
    def candidates(self) -> QTable:
        """
        A `~astropy.table.QTable` of all candidates and their scores,
        ordered by source, with the ``id`` of the source.
        """
        table = self.fitted.to_table(box_sizes=self.box_sizes,
                                     unit=self.unit)
        ids = np.repeat(self.placed + 1, len(self.fitted.candidates))
        table.add_column(ids, name='id', index=0)
        table.meta.update(self.meta)
        return table

    def make_image(self,
                   index: int) -> tuple[ArrayOrQuantity, tuple[slice, ...]]:
        """
        Return an image of the background of one source.

        Parameters
        ----------
        index : int
            The index of the source.

        Returns
        -------
        image : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The background in the selected box, truncated at the edge of
            the map. It is empty if there is no background.

        slices : tuple of slice
            The slices of the box in the map, ``(y, x)``.
        """
        model = self.models[index]
        if model is None:
            return self._with_unit(np.empty((0, 0))), (slice(0, 0),) * 2
        slices = tuple(
            slice(max(0, round(low + 0.5)), min(length, round(high + 0.5)))
            for (low, high), length in zip((model.y_domain, model.x_domain),
                                           self.shape, strict=True))
        yy, xx = np.mgrid[slices]
        return self._with_unit(model(xx, yy)), slices

    def make_background_image(self) -> ArrayOrQuantity:
        """
        Return an image of the background, in which the nearest sources
        count most.

        Returns
        -------
        image : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The background; NaN outside all boxes.
        """
        boxes = ((getattr(image, 'value', image), slices)
                 for image, slices in map(self.make_image,
                                          range(self.x.size)))
        return self._with_unit(combine_boxes(self.shape, self.x, self.y,
                                             boxes))

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """
        Plot the background and the positions of the sources.

        Parameters
        ----------
        ax : `~matplotlib.axes.Axes`, optional
            Where to plot; the current axes of pyplot by default.

        Returns
        -------
        ax : `~matplotlib.axes.Axes`
            The axes.

        Raises
        ------
        ValueError
            If no source has a background.
        """
        from hyperphotutils.visualization.images import plot_image

        ax = plot_image(self.make_background_image(), ax=ax,
                        stretch='linear')
        ax.plot(self.x, self.y, 'w+')
        return ax

    def make_mosaic(self) -> ArrayOrQuantity:
        """
        Return an image of the backgrounds of all sources.

        Where boxes overlap, it is the mean of their polynomials, with
        weights that decrease linearly from the centers of the boxes to
        their edges. Where the whole map was selected, its polynomial is
        used inside the largest box.

        Returns
        -------
        image : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The background; NaN outside all boxes.
        """
        total, weights = np.zeros(self.shape), np.zeros(self.shape)
        largest = max(self.box_sizes)
        if largest == 0:
            largest = 2 * max(self.shape)
        for source, index, k in self._selections():
            box = self.fitted.candidates[k].box
            half = (self.box_sizes[box] or largest) / 2
            axes, hats = [], []
            for position, length in zip((self.y[source], self.x[source]),
                                        self.shape, strict=True):
                center = round(np.clip(position, -half, length + half))
                axis = np.arange(max(0, math.ceil(center - half)),
                                 min(length, math.floor(center + half) + 1))
                axes.append(axis)
                # positive at the edge of the box, which has a value
                hats.append(1.0 - np.abs(axis - center) / (half + 1.0))
            if not (axes[0].size and axes[1].size):
                continue
            stack = self.fitted.coefficients[k]
            member = [min(index, len(stack) - 1)]
            frame = self.frames[box]
            scaled = frame.scale(axes[1], axes[0], slice(None) if len(
                frame.x_center) == 1 else [index])
            values = evaluate_polynomial(stack[member], *scaled)[0]
            weight = hats[0][:, np.newaxis] * hats[1]
            place = np.ix_(*axes)
            total[place] += weight * values
            weights[place] += weight
        weights[weights == 0.0] = np.nan
        return self._with_unit(total / weights)

    def _selections(self):
        """
        Return triples of source, index in ``placed``, and candidate.
        """
        selected = self.fitted.selected
        index = np.flatnonzero(selected >= 0)
        return zip(self.placed[index].tolist(), index.tolist(),
                   selected[index].tolist(), strict=True)

    def _selected_scores(self, name):
        """
        Return a score of the selected candidate of each source.
        """
        selected = self.fitted.selected
        index = np.flatnonzero(selected >= 0)
        scores = np.full(self.x.size, np.nan)
        scores[self.placed[index]] = getattr(self.fitted, name)[
            selected[index], index]
        return scores

    def _with_unit(self, value):
        return value if self.unit is None else value << self.unit
