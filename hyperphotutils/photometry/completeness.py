# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The fraction of recovered sources as a smooth function of flux.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import log_ndtr, ndtr, ndtri

if TYPE_CHECKING:
    from astropy.units import Quantity, UnitBase
    from matplotlib.axes import Axes

    from hyperphotutils.utils.typing import FloatOrArray, FloatOrQuantity

__all__ = ['CompletenessCurve', 'fit_completeness']

# A plateau beyond these logits is 0 or 1 within rounding.
_MAX_LOGIT = 15.0
# The smallest width in dex.
_MIN_WIDTH = 1e-4
# The flux at half the plateau may be so far outside of the range of the
# fluxes, in units of that range; farther away, the data do not constrain it.
_MAX_OUTSIDE = 1.0


@dataclass(frozen=True, eq=False)
class CompletenessCurve:
    r"""
    Class for a fitted curve of completeness against flux.

    It is returned by `fit_completeness`. The completeness at the flux
    :math:`f` is

    .. math::

        p(f) = c \, \Phi\left(\frac{\log_{10} f - \mu}{s}\right) ,

    where :math:`\Phi` is the cumulative normal distribution (an error
    function).

    Parameters
    ----------
    location : float
        :math:`\mu`, the decimal logarithm of the flux at half the
        plateau.

    width : float
        :math:`s` in dex; 0 for a step.

    plateau : float
        :math:`c`, the completeness of bright sources.

    covariance : 2D `~numpy.ndarray`
        The covariance matrix of location, logarithm of the width, and
        plateau.

    unit : `~astropy.units.Unit` or `None`
        The unit of the fluxes.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.photometry import CompletenessCurve
    >>> curve = CompletenessCurve(0.0, 0.1, 1.0, np.zeros((3, 3)))
    >>> print(curve(1.0), curve.flux_at(0.5)[0])
    0.5 1.0
    """

    location: float
    width: float
    plateau: float
    covariance: np.ndarray
    unit: UnitBase | None = None

    def __call__(self, flux: ArrayLike | Quantity) -> FloatOrArray:
        """
        Return the completeness at given fluxes.

        Parameters
        ----------
        flux : float, array_like, or `~astropy.units.Quantity`
            The fluxes, all positive.

        Returns
        -------
        completeness : float or `~numpy.ndarray`
            The completeness, between 0 and 1.
        """
        if self.unit is not None and hasattr(flux, 'unit'):
            flux = flux.to_value(self.unit)
        offset = np.log10(flux) - self.location
        if self.width == 0.0:
            return self.plateau * np.heaviside(offset, 0.5)
        return self.plateau * ndtr(offset / self.width)

    def flux_at(self, completeness: float
                ) -> tuple[FloatOrQuantity, FloatOrQuantity]:
        """
        Return the flux at which a completeness is reached.

        Parameters
        ----------
        completeness : float
            The completeness, between 0 and 1.

        Returns
        -------
        flux, error : float or `~astropy.units.Quantity`
            The flux and its standard error, NaN if it is never reached.

        Raises
        ------
        ValueError
            If ``completeness`` is not between 0 and 1.
        """
        if not 0.0 < completeness < 1.0:
            msg = f'completeness must be between 0 and 1: {completeness!r}'
            raise ValueError(msg)
        flux = error = np.nan
        if completeness < self.plateau:
            # The error is propagated linearly from mu, ln s, and c: the last
            # through d Phi^-1(q) / dq = sqrt(2 pi) exp(level^2 / 2).
            level = ndtri(completeness / self.plateau)
            slope = np.sqrt(2.0 * np.pi) * np.exp(0.5 * level**2)
            gradient = np.array([
                1.0, self.width * level,
                -self.width * slope * completeness / self.plateau**2])
            flux = 10.0**(self.location + self.width * level)
            error = flux * np.log(10.0) * np.sqrt(
                gradient @ self.covariance @ gradient)
        if self.unit is None:
            return float(flux), float(error)
        return flux << self.unit, error << self.unit

    @property
    def flux_50(self) -> tuple[FloatOrQuantity, FloatOrQuantity]:
        """
        The flux at a completeness of 50 %, and its error.
        """
        return self.flux_at(0.5)

    @property
    def flux_90(self) -> tuple[FloatOrQuantity, FloatOrQuantity]:
        """
        The flux at a completeness of 90 %, and its error.
        """
        return self.flux_at(0.9)

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """
        Plot the curve, and the fluxes at 50 % and 90 % with their errors.

        Parameters
        ----------
        ax : `~matplotlib.axes.Axes`, optional
            Where to plot; the current axes of pyplot by default.

        Returns
        -------
        ax : `~matplotlib.axes.Axes`
            The axes.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> import numpy as np
        >>> from hyperphotutils.photometry import CompletenessCurve
        >>> curve = CompletenessCurve(0.0, 0.1, 1.0, np.diag([0.01, 0.1, 0]))
        >>> fig, ax = plt.subplots()
        >>> ax = curve.plot(ax=ax)
        >>> ax.get_ylabel()
        'Completeness'
        >>> plt.close(fig)
        """
        if ax is None:
            import matplotlib.pyplot as plt

            ax = plt.gca()
        # a step has no width
        reach = 3.0 * max(self.width, 0.05)
        flux = np.logspace(self.location - reach, self.location + reach, 200)
        ax.plot(flux, self(flux), color='C0')
        for level in (0.5, 0.9):
            value, error = (getattr(number, 'value', number)
                            for number in self.flux_at(level))
            if np.isfinite(value):
                ax.errorbar(value, level, xerr=error, fmt='o', color='C0')
        ax.set_xscale('log')
        ax.set_xlabel('Flux' if self.unit is None else f'Flux [{self.unit}]')
        ax.set_ylabel('Completeness')
        ax.set_ylim(-0.05, 1.05)
        return ax

    @property
    def step_range(self) -> tuple[FloatOrQuantity, FloatOrQuantity] | None:
        """
        The fluxes between which a step lies, that of the brightest lost
        source and that of the faintest recovered one; `None` if the curve
        is not a step. Too few sources are then near the limit for fluxes
        at 50 % and 90 % that differ.
        """
        if self.width > 0.0:
            return None
        half = np.sqrt(self.covariance[0, 0])
        low, high = 10.0**(self.location + np.array([-half, half]))
        if self.unit is None:
            return float(low), float(high)
        return low << self.unit, high << self.unit

    def __repr__(self) -> str:
        levels = ', '.join(
            f'flux_{level}={self.flux_at(level / 100)[0]:.4g} +/- '
            f'{self.flux_at(level / 100)[1]:.2g}' for level in (50, 90))
        return f'<{type(self).__name__}({levels}, plateau={self.plateau:.3g})>'


def fit_completeness(flux: ArrayLike | Quantity,
                     recovered: ArrayLike) -> CompletenessCurve | None:
    """
    Fit the completeness against flux by maximum likelihood.

    The fit uses each source, without bins. A plateau below 1, for
    sources that are lost at any flux, is fitted if the Bayesian
    information criterion prefers it.

    Parameters
    ----------
    flux : 1D array_like or `~astropy.units.Quantity`
        The true fluxes, all positive.

    recovered : 1D bool array_like
        Whether each source was recovered.

    Returns
    -------
    curve : `CompletenessCurve` or `None`
        The curve; `None` if the data do not constrain it: all or none
        were recovered, or as many of the bright sources as of the faint
        ones. If all recovered sources are brighter than all lost ones,
        the curve is a step in the middle of that gap, with half the gap
        as its error: there are too few sources for more, see
        `CompletenessCurve.step_range`.

    Raises
    ------
    ValueError
        If a flux is not positive, or the lengths differ.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.photometry import fit_completeness
    >>> rng = np.random.default_rng(1)
    >>> flux = 10.0**rng.uniform(-1.0, 1.0, 2000)
    >>> found = rng.normal(np.log10(flux), 0.2) > 0.0
    >>> value, error = fit_completeness(flux, found).flux_50
    >>> print(f'{value:.1f} {error:.2f}')
    1.0 0.02
    """
    unit = getattr(flux, 'unit', None)
    flux = np.asarray(getattr(flux, 'value', flux), dtype=float)
    recovered = np.asarray(recovered, dtype=bool)
    if flux.ndim != 1 or flux.shape != recovered.shape:
        msg = ('flux and recovered must be 1D and of the same length: '
               f'{flux.shape} and {recovered.shape}')
        raise ValueError(msg)
    if not np.all(flux > 0.0):
        msg = f'flux must be positive: {flux[~(flux > 0.0)][0]}'
        raise ValueError(msg)
    if recovered.all() or not recovered.any():
        return None
    x = np.log10(flux)
    faintest, brightest = x[recovered].min(), x[~recovered].max()
    if brightest < faintest:
        # A step in the gap between lost and recovered sources.
        covariance = np.diag([(0.5 * (faintest - brightest))**2, 0.0, 0.0])
        return CompletenessCurve(float(0.5 * (faintest + brightest)), 0.0,
                                 1.0, covariance, unit)
    plain = _maximize(x, recovered, with_plateau=False)
    free = _maximize(x, recovered, with_plateau=True)
    # the Bayesian information criterion, for one more parameter (Schwarz
    # 1978, Ann. Statist. 6, 461)
    better = 2.0 * (plain.fun - free.fun) > np.log(len(x))
    location, log_width, plateau = _unpack(free.x if better else plain.x)
    outside = max(x.min() - location, location - x.max())
    if outside > _MAX_OUTSIDE * np.ptp(x):
        return None
    covariance = np.zeros((3, 3))
    used = slice(0, 3 if better else 2)
    covariance[used, used] = np.linalg.pinv(_information(
        x, location, np.exp(log_width), plateau)[used, used])
    return CompletenessCurve(float(location), float(np.exp(log_width)),
                             float(plateau), covariance, unit)


def _maximize(x, recovered, *, with_plateau):
    """
    Return the parameters that maximize the likelihood.
    """
    # From a start without slope, the simplex diverges: a coarse grid finds
    # one near the maximum. The likelihood has kinks at the smallest width
    # and no useful gradient for steps.
    span = np.ptp(x) + 0.01
    starts = [[location, np.log(width * span), *([2.0] * with_plateau)]
              for location in np.linspace(x.min() - span, x.max(), 9)
              for width in (0.05, 0.2, 0.8)]
    start = min(starts, key=lambda values: _minus_log_likelihood(
        values, x, recovered))
    return minimize(_minus_log_likelihood, start, args=(x, recovered),
                    method='Nelder-Mead',
                    options={'maxiter': 4000, 'xatol': 1e-6,
                             'fatol': 1e-8})


def _unpack(parameters):
    """
    Return location, logarithm of the width, and plateau.
    """
    location, log_width, *logit = parameters
    # The logit has no bounds, which the simplex does not know.
    plateau = 1.0
    if logit:
        plateau = 1.0 / (1.0 + np.exp(-np.clip(logit[0], -_MAX_LOGIT,
                                               _MAX_LOGIT)))
    return location, max(log_width, np.log(_MIN_WIDTH)), plateau


def _minus_log_likelihood(parameters, x, recovered):
    """
    Return the negative logarithm of the likelihood.
    """
    location, log_width, plateau = _unpack(parameters)
    z = (x - location) / np.exp(log_width)
    # log_ndtr, as Phi(z) is 0 in floating point below z = -38
    found = np.log(plateau) + log_ndtr(z[recovered])
    if plateau == 1.0:
        missed = log_ndtr(-z[~recovered])
    else:
        missed = np.log1p(-plateau * ndtr(z[~recovered]))
    return -found.sum() - missed.sum()


def _information(x, location, width, plateau):
    """
    Return the Fisher information of location, logarithm of the width,
    and plateau.
    """
    # Of outcomes with the probability p: the sum of p' p'^T / (p (1 - p)),
    # with dp / d ln s = -z phi(z) c.
    z = (x - location) / width
    density = plateau * np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
    slopes = np.stack([-density / width, -density * z, ndtr(z)])
    p = plateau * ndtr(z)
    # p (1 - p), without cancellation where p is near 1
    variance = p * plateau * ndtr(-z) + p * (1.0 - plateau)
    known = variance > 0.0
    return (slopes[:, known] / variance[known]) @ slopes[:, known].T
