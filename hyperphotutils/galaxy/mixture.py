# Licensed under a 3-clause BSD style license - see LICENSE.rst
r"""
Sersic profiles as sums of Gaussians.

For :math:`n \ge 1/2` the profile :math:`\exp(-b r^{1/n})` is a mixture
of Gaussians; flatter ones are sums with weights of both signs, to less
than 1 % of the peak. Here the standard deviations are fixed multiples of
the effective radius, in steps of :math:`\sqrt{2}`, and only the weights
depend on n; they are smooth in :math:`\ln n`. Hogg & Lang (2013, PASP
125, 719) have such sums for single values of n.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.fft import fht, fhtoffset
from scipy.interpolate import CubicSpline
from scipy.special import gamma, gammaincinv

from hyperphotutils.utils.lm import array_namespace

if TYPE_CHECKING:
    from hyperphotutils.utils.typing import FloatOrArray

__all__ = ['INDEX_RANGE', 'N_TERMS', 'SIGMA_RATIO', 'MixtureTable',
           'mixture_table', 'mixture_weights', 'sersic_b', 'sersic_flux',
           'sersic_transform', 'weights_at']

INDEX_RANGE = (0.3, 8.0)
"""
The Sersic indices for which there are mixtures.
"""

N_TERMS = 26
"""
The number of Gaussians, besides a point.
"""

# A ratio of 2 halves the number of terms, but the largest errors of transforms
# grow from 5e-6 to 4e-3 for n = 1, and from 2e-4 to 2e-2 for n = 0.5.
SIGMA_RATIO = 2.0**0.5
"""
The ratio of neighboring standard deviations.
"""

# The smallest standard deviation in units of the effective radius.
_SIGMA_MIN = 0.01
_SIGMAS = _SIGMA_MIN * SIGMA_RATIO**np.arange(N_TERMS)

# Values of ln n with a fit, and of the wavenumber in each.
_N_NODES = 97
_N_WAVENUMBERS = 241
_WAVENUMBERS = (0.003, 300.0)
# The mean square error of an image is an integral over k dk, and of the
# transform over the nodes one over d ln k. Their ratio, k, counts up to this
# wavenumber, as PSFs suppress larger ones, and a constant for small ones.
_MAX_WEIGHT = 10.0
_MIN_WEIGHT = 2.0

# Ridge of the fit, relative to the diagonal of the normal matrix.
_RIDGE = 1e-9

# Sampling of the Hankel transform: points and decades of the radius.
_N_RADII = 8192
_RADII = (-16.0, 14.0)


class MixtureTable(NamedTuple):
    """
    The weights of the Gaussians as cubic polynomials in ln n.

    ``coefficients`` (n_nodes - 1, 4, N_TERMS + 1) are those of the powers
    0 to 3 of the distance from the node; the first weight is that of the
    point. The nodes begin at ``start`` and are ``step`` apart.
    """

    start: float
    step: float
    coefficients: np.ndarray


def sersic_b(n: ArrayLike) -> FloatOrArray:
    """
    Return the coefficient b of the Sersic profile.

    Parameters
    ----------
    n : float or array_like
        The Sersic index.

    Returns
    -------
    b : float or `~numpy.ndarray`
        The solution of gammainc(2 n, b) = 1/2, with which half of the
        flux is within the effective radius (Graham & Driver 2005, PASA
        22, 118).

    Examples
    --------
    >>> from hyperphotutils.galaxy import sersic_b
    >>> print(f'{sersic_b(4.0):.4f}')
    7.6692
    """
    return gammaincinv(2.0 * np.asarray(n, dtype=float), 0.5)


def sersic_flux(amplitude: ArrayLike, r_eff: ArrayLike, n: ArrayLike,
                q: ArrayLike = 1.0) -> FloatOrArray:
    """
    Return the total flux of a Sersic profile.

    Parameters
    ----------
    amplitude : float or array_like
        The surface brightness at the effective radius, as in
        `astropy.modeling.models.Sersic2D`.

    r_eff : float or array_like
        The effective radius along the major axis.

    n : float or array_like
        The Sersic index.

    q : float or array_like, optional
        The axis ratio.

    Returns
    -------
    flux : float or `~numpy.ndarray`
        The flux to infinity (Graham & Driver 2005, equation 4).

    Examples
    --------
    >>> from hyperphotutils.galaxy import sersic_flux
    >>> print(f'{sersic_flux(1.0, 2.0, 1.0, q=0.5):.4f}')
    23.8970
    """
    n = np.asarray(n, dtype=float)
    b = sersic_b(n)
    return (2.0 * np.pi * n * b**(-2.0 * n) * np.exp(b) * gamma(2.0 * n)
            * amplitude * np.square(r_eff) * q)


def sersic_transform(n: float) -> Callable:
    """
    Return the Fourier transform of a round Sersic profile.

    Parameters
    ----------
    n : float
        The Sersic index.

    Returns
    -------
    transform : callable
        The transform of the profile of unit flux as a function of
        2 pi k r_eff, where k is the wavenumber in cycles; from 1e-6 to
        1e5. It is the Hankel transform by FFTLog (Hamilton 2000, MNRAS
        312, 257).

    Examples
    --------
    For n = 1 the transform is known:

    >>> from hyperphotutils.galaxy import sersic_b, sersic_transform
    >>> exact = (1.0 + (2.0 / sersic_b(1.0))**2)**-1.5
    >>> print(f'{sersic_transform(1.0)(2.0) - exact:.6f}')
    0.000000
    """
    b = float(sersic_b(n))
    # A profile of n = 8 has structure over many decades: an even grid in the
    # logarithm has few points, and FFTLog needs just that.
    low, high = (edge * np.log(10.0) for edge in _RADII)
    step = (high - low) / (_N_RADII - 1)
    ln_r = low + step * np.arange(_N_RADII)
    total = 2.0 * np.pi * n * b**(-2.0 * n) * gamma(2.0 * n)
    profile = np.exp(-b * np.exp(np.minimum(ln_r / n, 40.0)))
    offset = fhtoffset(step, mu=0.0)
    values = fht(np.exp(ln_r) * profile, step, mu=0.0, offset=offset)
    ln_k = offset - ln_r[::-1]
    used = (ln_k > np.log(1e-7)) & (ln_k < np.log(1e6))
    spline = CubicSpline(
        ln_k[used],
        2.0 * np.pi * values[used] * np.exp(-ln_k[used]) / total)
    return lambda k: spline(np.log(np.maximum(k, 1e-6)))


@cache
def mixture_table():
    """
    Make the `MixtureTable`, once a process.

    The weights at a node are the ridge regression of the transform of
    the profile on those of the Gaussians. Weights of either sign are
    allowed: positive ones are 3 to 50 times less exact.
    """
    nodes = np.linspace(*np.log(INDEX_RANGE), _N_NODES)
    k = np.exp(np.linspace(*np.log(_WAVENUMBERS), _N_WAVENUMBERS))
    design = np.concatenate((
        np.ones((1, len(k))),
        np.exp(-0.5 * (_SIGMAS[:, None] * k)**2))).T
    target = np.stack([sersic_transform(n)(k) for n in np.exp(nodes)], 1)
    importance = (_MIN_WEIGHT + np.sqrt(np.minimum(k, _MAX_WEIGHT)))[:, None]
    design, target = design * importance, target * importance
    normal = design.T @ design
    normal += _RIDGE * np.diag(np.diag(normal))
    weights = np.linalg.solve(normal, design.T @ target).T
    pieces = CubicSpline(nodes, weights).c[::-1]
    return MixtureTable(float(nodes[0]), float(nodes[1] - nodes[0]),
                        np.ascontiguousarray(np.moveaxis(pieces, 1, 0)))


def mixture_weights(n: ArrayLike) -> np.ndarray:
    """
    Return the weights of the Gaussians.

    Parameters
    ----------
    n : float or 1D array_like
        The Sersic index, from 0.3 to 8.

    Returns
    -------
    weights : `~numpy.ndarray` of shape (..., N_TERMS + 1)
        The part of the flux in a point, and in Gaussians with the
        standard deviations 0.01, 0.01 sqrt(2), 0.02, ... effective
        radii.

    Raises
    ------
    ValueError
        If an index is out of range.

    Examples
    --------
    >>> from hyperphotutils.galaxy import mixture_weights
    >>> print(f'{mixture_weights(4.0).sum():.3f}')
    1.000
    """
    n = np.asarray(n, dtype=float)
    if not np.all((n >= INDEX_RANGE[0]) & (n <= INDEX_RANGE[1])):
        msg = (f'n must be from {INDEX_RANGE[0]:g} to {INDEX_RANGE[1]:g}: '
               f'got {n}')
        raise ValueError(msg)
    return weights_at(mixture_table().coefficients, np.atleast_1d(
        np.log(n)))[:, 0].reshape(*n.shape, -1)


def weights_at(coefficients, nu, *, derivatives=False):
    """
    Return the weights, and their derivatives by nu = ln n, shape (b, 1 or
    2, N_TERMS + 1), from the coefficients of the `MixtureTable` in the
    array library of ``nu`` (b).
    """
    xp = array_namespace(nu)
    table = mixture_table()
    place = (nu - table.start) / table.step
    node = xp.clip(xp.astype(xp.floor(place), xp.int64), 0,
                   coefficients.shape[0] - 1)
    h = ((place - xp.astype(node, nu.dtype)) * table.step)[:, None]
    rows = xp.take(coefficients, node, axis=0)
    c0, c1, c2, c3 = (rows[:, i, :] for i in range(4))
    value = c0 + h * (c1 + h * (c2 + h * c3))
    if not derivatives:
        return value[:, None, :]
    return xp.stack((value, c1 + h * (2.0 * c2 + 3.0 * h * c3)), axis=1)
