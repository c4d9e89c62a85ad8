# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The settings of the least-squares fits of groups.
"""

from collections.abc import Collection
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from hyperphotutils.blend.weights import WEIGHTS
from hyperphotutils.utils.checks import check_part, check_positive

__all__ = ['GroupSolver']

_LOSSES = ('linear', 'soft_l1', 'huber', 'cauchy')
_CRITERIA = ('nmse', 'reduced_chi2', 'bic')


@dataclass(frozen=True, kw_only=True)
class GroupSolver:
    """
    Class for the settings of the least-squares fits of groups of sources.

    The model of a group is defined by
    `~hyperphotutils.blend.BlendGroupFitter`; this class defines what is
    minimized and when a fit ends. The defaults are suited for most maps.

    Parameters
    ----------
    max_iter : int, optional
        The largest number of steps, each with one evaluation of the
        model (``max_nfev`` in `scipy.optimize.least_squares`).

    ftol : float, optional
        A fit ends when a step promises to lower chi2 by less than this
        fraction. The default leaves about a thousandth of an error on
        a footprint of some hundred pixels.

    xtol : float or None, optional
        A fit also ends when a step is shorter than this fraction of the
        parameters, both scaled by the lengths of the columns of the
        Jacobian matrix. As ``gtol``, it has the meaning of the method
        'lm' of `scipy.optimize.least_squares`. The default is `None`:
        not used.

    gtol : float or None, optional
        A fit also ends when no cosine of the angle between the residuals
        and a column of the Jacobian matrix is larger than this. The
        default is `None`: not used.

    loss : {'linear', 'soft_l1', 'huber', 'cauchy'}, optional
        How chi2 grows with the residuals, as in
        `scipy.optimize.least_squares`. All but the first give less
        weight to deviating pixels, and biased fluxes where the profile
        of the source itself deviates.

    f_scale : float, optional
        The residual, in units of the errors of the pixels (of the data
        if there are none), beyond which a robust loss grows slower.

    ridge : float, optional
        The strength of an L2 penalty on the coefficients of the
        background: chi2 grows by ``ridge`` times the square of each
        coefficient in units of the errors.

    weights : str, tuple of str, or None, optional
        Factors of the residuals, in addition to the inverse of the
        errors, before they are squared: the product of one or several of

        * ``'inverse_rms'``: 1, the same as `None`, the default;
        * ``'snr'``: the signal-to-noise ratio of the pixels;
        * ``'power_snr'``: that to the power ``weight_power``;
        * ``'spatial'``: a Gaussian of the distance from the nearest
          starting position, with the FWHM of the beam as standard
          deviation;
        * ``'map'``: the ``weight_map`` given with the data;
        * ``'mask'``: 1 where that is positive and 0 elsewhere.

        With correlated noise, they replace the inverse of its
        covariance in the fit, but not in the errors.

    weight_power : float, optional
        The power of the weights ``'power_snr'``.

    bias_correction : bool, optional
        Whether to subtract from the fitted columns the mean error that
        the noise causes: a tenth of the flux of a source whose peak is 5
        times the noise, nothing for bright ones. The errors of the
        pixels have to be those of the noise. Models and model images
        stay those of the fit, as do fits with a robust loss or with
        ``weights``.

    criterion : {'bic', 'nmse', 'reduced_chi2'}, optional
        The quantity whose smallest value selects among several degrees
        of the background. A lower degree wins a tie, see
        `~hyperphotutils.background.select_candidate`: a difference of 2
        in 'bic', and of 1 percent or of 10 pixels in the others. 'nmse'
        has no other penalty for a higher degree.

    max_group_size : int, optional
        Larger groups are split into compact parts, and flagged; the
        models of the other parts are then subtracted.

    astropy_fitter : `~astropy.modeling.fitting.Fitter`, optional
        An astropy fitter that replaces the package's own kernel: slower,
        one group after the other. Errors are NaN if it gives no
        covariance. It excludes ``loss``, ``ridge``, and ``weights``.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    See Also
    --------
    BlendGroupFitter

    Notes
    -----
    With ``weights`` the fit minimizes :math:`\\sum (w r)^2` with the
    residuals :math:`r` in units of the errors. Weights do not change the
    errors of the pixels. The covariance is therefore
    :math:`N^{-1} J^T w^2 C w^2 J N^{-1}` with :math:`N = J^T w^2 J` and
    the covariance :math:`C` of :math:`r` (1, unless ``noise`` is given),
    which holds for any weights; and ``nmse``, ``reduced_chi2`` and
    ``bic`` are those of the residuals without them. No weights give
    smaller errors than the inverse of the covariance of the pixels, with
    which fits are made by default.

    The signal of ``'snr'`` and ``'power_snr'`` is that of the sources of
    the group in a first fit, not that of the data: pixels with
    positive noise would count more otherwise. Pixels with a
    signal-to-noise ratio below 1 count as if it were 1, and no pixel
    less than a tenth of the best one of its group. Without
    ``error`` the noise is the median rms about local planes. Weights are
    scaled to a mean square of 1 over the pixels of each group, so that
    ``f_scale`` keeps its meaning.

    Examples
    --------
    >>> from hyperphotutils.blend import BlendGroupFitter, GroupSolver
    >>> solver = GroupSolver(loss='huber', ftol=1e-6)
    >>> fitter = BlendGroupFitter(fwhm=4.0, solver=solver)
    >>> fitter.solver.loss
    'huber'
    """

    max_iter: int = 200
    ftol: float = 1e-8
    xtol: float | None = None
    gtol: float | None = None
    loss: str = 'linear'
    f_scale: float = 1.0
    ridge: float = 0.0
    weights: str | tuple | None = None
    weight_power: float = 2.0
    bias_correction: bool = False
    criterion: str = 'bic'
    max_group_size: int = 25
    astropy_fitter: Any = None

    def __post_init__(self):
        """
        Check the settings.
        """
        for name in ('max_iter', 'max_group_size'):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < 1:
                msg = f'{name} must be a positive integer: {value!r}'
                raise ValueError(msg)
            self._set(name, int(value))
        for name in ('ftol', 'xtol', 'gtol', 'f_scale', 'weight_power'):
            value = getattr(self, name)
            if value is not None or name not in {'xtol', 'gtol'}:
                self._set(name, check_positive(value, name))
        if not isinstance(self.ridge, Real) or not 0.0 <= self.ridge < np.inf:
            msg = f'ridge must be a number of at least 0: {self.ridge!r}'
            raise ValueError(msg)
        self._set('ridge', float(self.ridge))
        for name, allowed in (('loss', _LOSSES), ('criterion', _CRITERIA)):
            if getattr(self, name) not in allowed:
                msg = (f'{name} must be one of {allowed}: '
                       f'{getattr(self, name)!r}')
                raise ValueError(msg)
        self._set('weights', _weight_names(self.weights))
        self._set('bias_correction', bool(self.bias_correction))
        check_part(self.astropy_fitter, 'astropy_fitter')
        if self.astropy_fitter is not None:
            excluded = {'loss': self.loss != 'linear', 'ridge': self.ridge,
                        'weights': self.weights}
            given = [name for name, used in excluded.items() if used]
            if given:
                msg = (f'{given[0]} is an option of the kernel, not of '
                       'astropy fitters: leave out astropy_fitter or '
                       f'{given[0]}={getattr(self, given[0])!r}')
                raise ValueError(msg)

    def _set(self, name, value):
        object.__setattr__(self, name, value)


def _weight_names(weights):
    """
    Check the names of the weights.
    """
    names = () if weights is None else weights
    names = (names,) if isinstance(names, str) else names
    if not isinstance(names, Collection) or set(names) - set(WEIGHTS):
        msg = f'weights must hold nothing but {WEIGHTS}: {names!r}'
        raise ValueError(msg)
    for pair in (('snr', 'power_snr'), ('map', 'mask')):
        if set(pair) <= set(names):
            msg = f'weights must not hold both {pair[0]!r} and {pair[1]!r}'
            raise ValueError(msg)
    return tuple(dict.fromkeys(names))
