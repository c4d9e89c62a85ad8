# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Polynomial background of a whole map.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import astropy.units as u
import numpy as np
from astropy.nddata import NDData
from numpy.typing import ArrayLike, NDArray

from hyperphotutils.background.boxes import (
    known_fwhm,
    prepare_image,
    whole_map,
)
from hyperphotutils.background.candidates import (
    fit_candidates,
    make_candidates,
)
from hyperphotutils.background.regressors import evaluate_polynomial
from hyperphotutils.utils import make_repr, result_meta

if TYPE_CHECKING:
    from astropy.modeling.polynomial import Polynomial2D
    from astropy.table import QTable
    from matplotlib.axes import Axes

    from hyperphotutils.utils.typing import (
        ArrayOrQuantity,
        FloatOrQuantity,
        ImageLike,
    )

__all__ = ['PolynomialBackground2D']


class PolynomialBackground2D:
    """
    Class to estimate the background of a map with a polynomial surface.

    Use it for maps whose background varies smoothly over the whole
    field. Polynomials of several orders, fitted by one or more methods,
    are compared on the same pixels, and the best one is the background.
    As in `~photutils.background.Background2D`, the fit is done in the
    constructor.

    Parameters
    ----------
    data : array_like, `~astropy.units.Quantity`, or \
            `~astropy.nddata.NDData`
        The 2D data. Pixels that are not finite and pixels in the mask
        of a `~astropy.nddata.NDData` object are treated as masked.

    mask : array_like (bool), optional
        A mask with the shape of ``data``, where `True` means that the
        pixel is excluded from the fits. The background is still
        evaluated there. Use it for sources and bad pixels.

    coverage_mask : array_like (bool), optional
        A mask with the shape of ``data``, where `True` means that there
        is no data. The background is ``fill_value`` there.

    orders : int or sequence of int, optional
        The total degrees of the polynomials to try. Orders for which
        there are too few pixels are skipped.

    methods : str, object, or sequence of these, optional
        The regression methods to try:

        * ``'lsq'``: least squares, best for noise without outliers;
        * ``'huber'``: linear loss for large residuals, for a few
          percent of outliers;
        * ``'theilsen'``: Theil-Sen, for up to 20 % of outliers at order
          1 (11 % at order 2), but with larger statistical errors. It
          does not use ``error``;
        * an instance of a linear regressor of scikit-learn, for example
          ``RANSACRegressor()`` or ``BayesianRidge()``. It is slower, as
          it is fitted to each map or box in turn, and is named by its
          class in tables.

    criterion : {'nmse', 'reduced_chi2', 'bic'}, optional
        The criterion that the best background minimizes: the normalized
        mean squared error (`nmse`), the reduced chi-squared
        (`reduced_chi2`), or the Bayesian information criterion (`bic`).
        Pixels farther than 4 times the noise from the candidate with
        the smallest clipped residual are excluded.

    huber_epsilons : float or sequence of float, optional
        The parameters of the Huber loss to try: the residual, in units
        of the noise, at which the loss becomes linear. Each must be more
        than 1.

    tolerance : float, optional
        The difference to the best score (relative, but absolute for
        'bic') up to which a lower order is preferred. See
        `select_candidate` for the default.

    error : array_like or `~astropy.units.Quantity`, optional
        The 1-sigma errors of ``data``. They are used as weights of the
        fits and in chi-squared and BIC. By default the noise is assumed
        to be unknown and the same in all pixels.

    fwhm : float, optional
        The FWHM in pixels of the beam over which the noise is
        correlated. The criteria then count independent pixels instead
        of all, see `correlation_area`. The default is the beam of an
        image that was read by `~hyperphotutils.maps.read_map`; without
        one the noise of each pixel is its own.

    fill_value : float, optional
        The value of the background and its rms where ``coverage_mask``
        is `True`, in the unit of the data.

    seed : int or `~numpy.random.Generator`, optional
        The seed for the random subsets of the Theil-Sen regression, and
        the ``random_state`` of regressors that have none.

    Raises
    ------
    TypeError
        If the data are not real numbers or an argument is of the wrong
        kind.

    ValueError
        If the value or the shape of an argument is invalid, or if there
        are too few pixels for the lowest order.

    Notes
    -----
    Without ``error``, the clipped rms of the best residual replaces
    it in the reduced chi-squared, and BIC uses the likelihood that is
    maximized over the noise. Noise that is correlated over a beam holds
    less information than its number of pixels: without ``fwhm`` too high
    orders are chosen.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.background import PolynomialBackground2D
    >>> yy, xx = np.mgrid[:50, :60]
    >>> rng = np.random.default_rng(0)
    >>> data = 5.0 + 0.1 * xx - 0.2 * yy + rng.normal(0.0, 0.3, xx.shape)
    >>> mask = np.zeros(data.shape, dtype=bool)
    >>> data[20:25, 30:35] += 100.0
    >>> mask[20:25, 30:35] = True
    >>> bkg = PolynomialBackground2D(data, mask=mask)
    >>> print(bkg.order, bkg.method)
    1 lsq
    >>> print(f'{bkg.background[22, 32]:.1f} {bkg.background_rms_median:.1f}')
    3.8 0.3
    """

    _repr_params = ('orders', 'methods', 'criterion', 'huber_epsilons',
                    'tolerance', 'fwhm', 'fill_value', 'seed')

    def __init__(self, data: ImageLike, *, mask: ArrayLike | None = None,
                 coverage_mask: ArrayLike | None = None,
                 orders: int | Sequence[int] | np.ndarray = (0, 1, 2),
                 methods: str | Sequence | Any = ('lsq',),
                 criterion: Literal['nmse', 'reduced_chi2', 'bic'] = 'nmse',
                 huber_epsilons: float | Sequence[float]
                     | np.ndarray = (1.1, 1.35, 1.7, 2.0),
                 tolerance: float | None = None,
                 error: ArrayLike | u.Quantity | None = None,
                 fwhm: float | None = None, fill_value: float = 0.0,
                 seed: int | np.random.Generator = 0) -> None:
        self.orders = orders
        self.methods = methods
        self.criterion = criterion
        self.huber_epsilons = huber_epsilons
        self.tolerance = tolerance
        self.fwhm = known_fwhm(data, fwhm)
        self.seed = seed
        self.fill_value = fill_value
        candidates = make_candidates(orders=orders, methods=methods,
                                     huber_epsilons=huber_epsilons)

        values, weights, self._unit = prepare_image(data, mask=mask,
                                                    error=error)
        self._fill = fill_value
        if isinstance(fill_value, u.Quantity):
            if self._unit is None:
                msg = ('fill_value must have no unit if data has none: got '
                       f'{fill_value}')
                raise ValueError(msg)
            self._fill = fill_value.to_value(self._unit)
        self.coverage_mask: NDArray[np.bool_] | None = coverage_mask
        if coverage_mask is not None:
            self.coverage_mask = np.asarray(coverage_mask, dtype=bool)
            if self.coverage_mask.shape != values.shape:
                msg = ('coverage_mask must have the same shape as data, '
                       f'{values.shape}: got {self.coverage_mask.shape}')
                raise ValueError(msg)
            weights = np.where(self.coverage_mask, 0.0, weights)

        cutouts = whole_map(values, weights)
        self._fitted = fit_candidates(
            [cutouts], candidates, criterion=criterion,
            tolerance=tolerance, has_error=error is not None, seed=seed,
            fwhm=self.fwhm)
        selected = int(self._fitted.selected[0])
        if selected < 0:
            msg = (f'data has {cutouts.n_good[0]} good pixels, too few (or '
                   f'too poorly distributed) for any of the orders {orders}')
            raise ValueError(msg)
        coefficients = self._fitted.coefficients_of(selected, 0)
        self._candidate = candidates[selected]
        self._model = cutouts.frame.make_model(coefficients)
        self._rms = float(self._fitted.rms[selected, 0])
        # as the data, so that a large map of float32 stays small
        dtype = np.asarray(
            data.data if isinstance(data, NDData) else data).dtype
        dtype = dtype.newbyteorder('=') if dtype.kind == 'f' else float
        self._background = self._fill_uncovered(
            evaluate_polynomial(coefficients, *cutouts.frame.grid)
            .astype(dtype, copy=False))

    def __repr__(self) -> str:
        return make_repr(self)

    @property
    def background(self) -> ArrayOrQuantity:
        """
        The background, with the shape of the data.
        """
        return self._with_unit(self._background)

    @property
    def background_rms(self) -> ArrayOrQuantity:
        """
        The rms of the residual, the same for all pixels, with the shape
        of the data.

        Pixels farther than 4 times the noise from the background are
        excluded.
        """
        rms = np.full(self._background.shape, self._rms,
                      dtype=self._background.dtype)
        return self._with_unit(self._fill_uncovered(rms))

    @cached_property
    def background_median(self) -> FloatOrQuantity:
        """
        The median of the background where there are data.
        """
        covered = self._background
        if self.coverage_mask is not None:
            covered = covered[~self.coverage_mask]
        return self._with_unit(float(np.median(covered)))

    @property
    def background_rms_median(self) -> FloatOrQuantity:
        """
        The median of the background rms.
        """
        return self._with_unit(self._rms)

    @property
    def model(self) -> Polynomial2D:
        """
        The background as a `~astropy.modeling.polynomial.Polynomial2D`.

        Its inputs are pixel positions, and its values are floats in the
        unit of the data. Its coefficients refer to coordinates that run
        from -1 to 1 between the edges of the map.
        """
        return self._model

    @property
    def order(self) -> int:
        """
        The total degree of the selected polynomial.
        """
        return self._candidate.order

    @property
    def method(self) -> str:
        """
        The method of the selected polynomial.
        """
        return self._candidate.method_name

    @cached_property
    def candidates(self) -> QTable:
        """
        A `~astropy.table.QTable` of all candidates and their scores.

        The rows are in order of precedence in a tie. Scores are NaN
        where there were too few pixels.
        """
        table = self._fitted.to_table(unit=self._unit, box_sizes=(0,))
        table.meta.update(result_meta(self))
        return table

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """
        Plot the background.

        Parameters
        ----------
        ax : `~matplotlib.axes.Axes`, optional
            Where to plot; the current axes of pyplot by default.

        Returns
        -------
        ax : `~matplotlib.axes.Axes`
            The axes.
        """
        from hyperphotutils.visualization.images import plot_image

        return plot_image(self.background, ax=ax, mask=self.coverage_mask,
                          stretch='linear')

    def _fill_uncovered(self, image):
        if self.coverage_mask is not None:
            image[self.coverage_mask] = self._fill
        return image

    def _with_unit(self, value):
        return value if self._unit is None else value << self._unit
