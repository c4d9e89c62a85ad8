# Licensed under a 3-clause BSD style license - see LICENSE.rst
r"""
What the noise adds to fitted values on the average.

A least-squares fit of a model that is curved in its parameters has a
bias of second order in the noise (Box 1971, Journal of the Royal
Statistical Society B 33, 171). With the covariance :math:`C` of the
parameters, the Jacobian :math:`J`, and the second derivatives
:math:`H_i` of the model at pixel :math:`i`, it is

.. math::

    b = -\frac{1}{2} C J^T d, \qquad d_i = {\rm tr}(H_i C).

At a signal-to-noise ratio of 5, the flux of an elliptical Gaussian with
all parameters free is too large by a tenth for this reason.
"""

import numpy as np

from hyperphotutils.blend.solver import (
    AA,
    AB,
    AMPLITUDE,
    BB,
    N_PARAMS,
    X,
    Y,
    evaluate,
    whiten,
)

__all__ = ['second_order_bias', 'unbiased_sources']

# The largest bias in units of the error that the second order describes.
_LARGEST = 0.5


def second_order_bias(problem, result):
    """
    Compute the bias of fitted groups.

    Parameters
    ----------
    problem : `~hyperphotutils.blend.solver.BatchProblem`
        What was fitted.

    result : `~hyperphotutils.blend.solver.BatchResult`
        The fitted groups, with their covariance.

    Returns
    -------
    bias : `~numpy.ndarray` of shape (g, 6 n + k)
        The mean of (fitted - true) in tangent coordinates; NaN where
        the covariance is.
    """
    curved = sum(_trace(problem, result, i)
                 for i in range(result.sources.shape[1]))
    if problem.whitening is not None:
        curved = whiten(problem.whitening, curved[:, None, :])[:, 0]
    _, jacobian = evaluate(result.sources, result.coeffs, problem.x,
                           problem.y, problem.weight, problem.basis,
                           problem.whitening)
    gradient = jacobian @ curved[:, :, None]
    return -0.5 * (result.covariance @ gradient)[:, :, 0]


def unbiased_sources(sources, covariance, bias, var_bounds):
    """
    Take the bias off fitted sources.

    What is held fixed, the shape of a source with a width at its bound,
    and groups with a bias of more than half an error, where the second
    order is not enough, stay the same to the last bit.

    Parameters
    ----------
    sources : `~numpy.ndarray` of shape (g, n, 6)
        The state of each source.

    covariance : `~numpy.ndarray` of shape (g, n, 6, 6)
        The covariance of the tangent coordinates of each source.

    bias : `~numpy.ndarray` of shape (g, n, 6)
        The bias of the tangent coordinates of each source.

    var_bounds : tuple of float
        The bounds of the variances along the axes.

    Returns
    -------
    sources : `~numpy.ndarray` of shape (g, n, 6)
        The state of each source without the bias.

    flux : `~numpy.ndarray` of shape (g, n)
        The flux without its own bias, which is not that of the product
        of amplitude and widths.
    """
    variances = sources[:, :, 3:5]
    low, high = var_bounds
    error = np.sqrt(np.diagonal(covariance, axis1=2, axis2=3))
    holds = np.all(np.abs(bias) <= _LARGEST * error, axis=(1, 2))[:, None]
    inside = holds & np.all((variances > low) & (variances < high), axis=2)
    free = inside & (covariance[:, :, AB, AB] > 0.0)
    bias = np.where(holds[:, :, None], bias, 0.0)
    shape = bias[:, :, AA:].copy()
    shape[~free] = 0.0
    bias = np.concatenate((bias[:, :, :AA], shape), axis=2)

    state = sources.copy()
    state[:, :, AMPLITUDE] = _reduce(
        sources[:, :, 0], bias[:, :, AMPLITUDE] / sources[:, :, 0])
    state[:, :, X:Y + 1] -= bias[:, :, X:Y + 1]
    state[free, 3:] = _unbiased_shapes(
        sources[free, 3:], shape[free], error[free, AB], var_bounds)
    flux = 2.0 * np.pi * sources[:, :, 0] * np.sqrt(
        variances[:, :, 0] * variances[:, :, 1])
    return state, _reduce(flux, _flux_bias(
        sources, np.where(inside[:, :, None, None], covariance, 0.0), bias))


def _flux_bias(sources, covariance, bias):
    r"""
    Return the bias of the flux :math:`2 \pi A \sqrt{\det \Sigma}` as a
    fraction of it.

    To that of the parameters, which enter linearly, the curvature of
    the product adds half of its trace with the covariance.
    """
    amplitude, var_a, var_b = (sources[:, :, i] for i in (0, 3, 4))

    def relative(i, j, scale):
        return covariance[:, :, i, j] / scale

    linear = (bias[:, :, AMPLITUDE] / amplitude
              + 0.5 * bias[:, :, AA] / var_a + 0.5 * bias[:, :, BB] / var_b)
    curved = (0.5 * relative(AMPLITUDE, AA, amplitude * var_a)
              + 0.5 * relative(AMPLITUDE, BB, amplitude * var_b)
              - 0.125 * relative(AA, AA, var_a**2)
              + 0.25 * relative(AA, BB, var_a * var_b)
              - 0.125 * relative(BB, BB, var_b**2)
              - 0.5 * relative(AB, AB, var_a * var_b))
    return linear + curved


def _reduce(value, fraction):
    """
    Take off a bias, given as a fraction of the value, to first order in
    it; the sign of the value stays.
    """
    size = 1.0 + np.abs(fraction)
    return value * np.where(fraction > 0.0, 1.0 / size, size)


def _unbiased_shapes(shapes, bias, error, var_bounds):
    r"""
    Return the variances and angles of ellipses without their bias.

    Noise also drives the axes apart: of a round source, one is always
    the longer. Half the difference of the variances is the length
    :math:`r` of a vector with two components, for which the estimator
    of Plaszczynski et al. (2014, MNRAS 439, 4048) is
    :math:`r - \sigma^2 (1 - e^{-r^2 / \sigma^2}) / 2 r` with the error
    :math:`\sigma` across the vector: that of the element ``ab``.
    """
    var_a = _reduce(shapes[:, 0], bias[:, 0] / shapes[:, 0])
    var_b = _reduce(shapes[:, 1], bias[:, 2] / shapes[:, 1])
    half_diff = 0.5 * (var_a - var_b)
    gap = np.hypot(half_diff, bias[:, 1])
    ratio = np.maximum((gap / error)**2, np.finfo(float).tiny)
    gap *= 1.0 + 0.5 * np.expm1(-ratio) / ratio
    mean = 0.5 * (var_a + var_b)
    turn = 0.5 * np.arctan2(-bias[:, 1], half_diff)
    return np.column_stack((
        np.clip(np.stack((mean + gap, mean - gap), axis=1), *var_bounds),
        shapes[:, 2] + turn))


def _trace(problem, result, i):
    r"""
    Return the trace of the second derivatives of one Gaussian of each
    group with the covariance, weighted but not whitened.

    With :math:`u = \Sigma^{-1} d` and :math:`P = \Sigma^{-1}`, which is
    diagonal in the axes of the ellipse, :math:`\ln G` has the
    derivatives :math:`u` and :math:`u^T E u / 2` for the position and
    for an element of the matrix with the unit :math:`E`, and the second
    derivatives :math:`-P`, :math:`-P E u`, and :math:`-u^T E P F u`.
    """
    state = result.sources[:, i, :, None]
    amplitude, x0, y0, var_a, var_b, theta = np.moveaxis(state, 1, 0)
    cos, sin = np.cos(theta), np.sin(theta)
    dx, dy = problem.x - x0, problem.y - y0
    p_a, p_b = 1.0 / var_a, 1.0 / var_b
    u_a = (cos * dx + sin * dy) * p_a
    u_b = (cos * dy - sin * dx) * p_b
    profile = problem.weight * np.exp(-0.5 * (u_a**2 * var_a
                                              + u_b**2 * var_b))
    block = slice(N_PARAMS * i, N_PARAMS * (i + 1))
    cov = _in_own_axes(result.covariance[:, block, block],
                       cos[:, 0], sin[:, 0])

    def c(j, k):
        return cov[:, j, k, None]

    slopes = np.stack((u_a, u_b, 0.5 * u_a**2, u_a * u_b, 0.5 * u_b**2),
                      axis=1)
    spread = np.sum(slopes * (cov[:, 1:, 1:] @ slopes), axis=1)
    curvature = (
        p_a * c(X, X) + p_b * c(Y, Y)
        + 2.0 * u_a * (p_a * c(X, AA) + p_b * c(Y, AB))
        + 2.0 * u_b * (p_a * c(X, AB) + p_b * c(Y, BB))
        + u_a**2 * (p_a * c(AA, AA) + p_b * c(AB, AB))
        + u_b**2 * (p_b * c(BB, BB) + p_a * c(AB, AB))
        + 2.0 * u_a * u_b * (p_a * c(AA, AB) + p_b * c(AB, BB)))
    mixed = 2.0 * (cov[:, AMPLITUDE, None, 1:] @ slopes)[:, 0]
    return profile * (amplitude * (spread - curvature) + mixed)


def _in_own_axes(covariance, cos, sin):
    """
    Turn the position of a covariance into the axes of the ellipse.
    """
    turn = np.zeros_like(covariance)
    for k in (AMPLITUDE, AA, AB, BB):
        turn[:, k, k] = 1.0
    turn[:, X, X] = turn[:, Y, Y] = cos
    turn[:, X, Y] = sin
    turn[:, Y, X] = -sin
    return turn @ covariance @ np.swapaxes(turn, 1, 2)
