# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Criteria for the selection among models of the same pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from hyperphotutils.utils.typing import FloatOrArray, IntOrArray

__all__ = [
    'bic',
    'correlation_area',
    'nmse',
    'reduced_chi2',
    'select_candidate',
]


def nmse(residual_power: ArrayLike, data_power: ArrayLike) -> FloatOrArray:
    """
    Calculate the normalized mean squared error.

    .. math::

        \\mathrm{NMSE} = \\frac{\\sum_i (d_i - m_i)^2}{\\sum_i d_i^2}

    with the data :math:`d` and the model :math:`m`: the fraction of the
    power of the data that remains in the residual.

    Parameters
    ----------
    residual_power : array_like
        The sum of the squared residuals.

    data_power : array_like
        The sum of the squared data on the same pixels.

    Returns
    -------
    nmse : float or `~numpy.ndarray`
        The normalized mean squared error; zero where both are zero.

    Examples
    --------
    >>> from hyperphotutils.background import nmse
    >>> print(nmse(2.0, 100.0))
    0.02
    """
    residual_power = np.asarray(residual_power, dtype=float)
    data_power = np.asarray(data_power, dtype=float)
    return residual_power / np.where(data_power > 0, data_power, 1.0)


def reduced_chi2(chi2: ArrayLike, n_pixels: ArrayLike,
                 n_parameters: ArrayLike) -> FloatOrArray:
    """
    Calculate the reduced chi-squared, ``chi2 / (n_pixels -
    n_parameters)``.

    Parameters
    ----------
    chi2 : array_like
        The sum of the squared residuals in units of the errors.

    n_pixels, n_parameters : array_like
        The number of pixels in the sum and of free parameters.

    Returns
    -------
    reduced_chi2 : float or `~numpy.ndarray`
        The reduced chi-squared; infinite unless there are more pixels
        than parameters.

    Examples
    --------
    >>> from hyperphotutils.background import reduced_chi2
    >>> print(reduced_chi2(97.0, 100, 3))
    1.0
    """
    degrees = np.asarray(n_pixels, dtype=float) - n_parameters
    return np.where(degrees > 0, chi2 / np.where(degrees > 0, degrees, 1.0),
                    np.inf)[()]


def bic(chi2: ArrayLike, n_pixels: ArrayLike,
        n_parameters: ArrayLike) -> FloatOrArray:
    """
    Calculate the Bayesian information criterion for Gaussian noise.

    .. math::

        \\mathrm{BIC} = \\chi^2 + k \\ln n

    with the number of parameters :math:`k` and of pixels :math:`n`;
    constants that are the same for all models of the same pixels are
    left out. Where the noise is not known, :math:`n \\ln(R / n)` with
    the residual power :math:`R` takes the place of :math:`\\chi^2`.
    Where it is correlated, :math:`n` is the number of independent
    pixels, see `correlation_area`.

    Parameters
    ----------
    chi2 : array_like
        The sum of the squared residuals in units of the errors, or
        ``n_pixels * log(residual_power / n_pixels)``.

    n_pixels, n_parameters : array_like
        The number of pixels in the sum and of free parameters.

    Returns
    -------
    bic : float or `~numpy.ndarray`
        The Bayesian information criterion; the smaller the better.

    References
    ----------
    Schwarz G. 1978, Annals of Statistics, 6, 461.

    Examples
    --------
    >>> from hyperphotutils.background import bic
    >>> print(f'{bic(97.0, 100, 3):.2f}')
    110.82
    """
    return chi2 + n_parameters * np.log(n_pixels)


def correlation_area(fwhm: float | None) -> float:
    """
    Calculate over how many pixels noise seen through a beam is the
    same.

    Parameters
    ----------
    fwhm : float or `None`
        The FWHM of the beam in pixels. With `None` or 0 the noise of
        each pixel is its own.

    Returns
    -------
    area : float
        The area in pixels, at least 1. So many pixels count as one for
        a model that is smooth on the scale of the beam.

    Raises
    ------
    ValueError
        If ``fwhm`` is negative or not finite.

    Notes
    -----
    White noise that was convolved with a Gaussian beam of the standard
    deviation :math:`\\sigma` has the correlation
    :math:`\\rho(d) = \\exp(-d^2 / 4 \\sigma^2)` at the separation
    :math:`d`. The mean of many pixels, and every coefficient of a
    smooth model, then has a variance that is larger than with
    independent pixels by the factor

    .. math::

        A = \\sum_{d} \\rho(d) \\approx 4 \\pi \\sigma^2
          = 2.27 \\, \\mathrm{FWHM}^2 ,

    twice the area of the beam: :math:`n` pixels are worth
    :math:`n / A` independent ones (Bayley and Hammersley 1946). A
    polynomial of :math:`k` terms takes :math:`k A` times the variance
    of a pixel away from the sum of the squared residuals, so that
    :math:`\\chi^2 / A` and :math:`n / A` take the places of
    :math:`\\chi^2` and :math:`n` in all criteria. The sum is over whole
    pixels; it is 1 for a beam much smaller than a pixel.

    References
    ----------
    Bayley G. V., Hammersley J. M. 1946, Supplement to the Journal of
    the Royal Statistical Society, 8, 184.

    Examples
    --------
    >>> from hyperphotutils.background import correlation_area
    >>> print(f'{correlation_area(4.0):.1f} {correlation_area(0.0):.1f}')
    36.3 1.0
    """
    if fwhm is None or fwhm == 0.0:
        return 1.0
    if not 0.0 < fwhm < np.inf:
        msg = f'fwhm must be positive and finite: got {fwhm}'
        raise ValueError(msg)
    # rho(d) = exp(-d**2 / 4 sigma**2) = 2**(-2 d**2 / fwhm**2), which is
    # 2e-10 at 4 FWHM; the sum over x and y is a product
    distance = np.arange(1.0, np.ceil(4.0 * fwhm) + 1.0)
    return float((1.0 + 2.0 * np.sum(0.5**(2.0 * distance**2 / fwhm**2)))**2)


def select_candidate(
        scores: np.ndarray, *,
        criterion: Literal['nmse', 'reduced_chi2', 'bic'] = 'nmse',
        tolerance: float | None = None,
        n_pixels: ArrayLike | None = None) -> IntOrArray:
    """
    Select the first candidate whose score ties with the best score.

    Parameters
    ----------
    scores : `~numpy.ndarray`
        The values of the criterion, the smaller the better, of shape
        ``(n_candidates, ...)``, in order of precedence in a tie. Values
        that are not finite are never selected.

    criterion : {'nmse', 'reduced_chi2', 'bic'}, optional
        The criterion of the scores.

    tolerance : float, optional
        The largest difference to the best score that counts as a tie:
        relative to the best score, but absolute for 'bic'. The default
        is 2 for 'bic' (not worth more than a bare mention: Kass and
        Raftery 1995, JASA, 90, 773). For the others it is the larger of
        0.01 and ``10 / n_pixels``, the typical gain of five additional
        terms from noise alone (5 pixels on average, with a standard
        deviation of 3).

    n_pixels : array_like, optional
        The number of (independent) pixels behind the scores.

    Returns
    -------
    index : int or `~numpy.ndarray` of int
        The index of the selected candidate; -1 if there is none.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.background import select_candidate
    >>> print(select_candidate(np.array([0.5, 0.2, 0.199])))
    1
    """
    if tolerance is None:
        if criterion == 'bic':
            tolerance = 2.0
        else:
            n_pixels = np.inf if n_pixels is None else np.asarray(n_pixels)
            tolerance = np.maximum(0.01, 10.0 / np.maximum(n_pixels, 1))
    usable = np.isfinite(scores)
    best = np.min(scores, axis=0, where=usable, initial=np.inf)
    best = np.where(usable.any(axis=0), best, 0.0)
    limit = best + (tolerance if criterion == 'bic' else tolerance * best)
    ties = usable & (scores <= limit)
    index = np.where(ties.any(axis=0), np.argmax(ties, axis=0), -1)
    return index[()]
