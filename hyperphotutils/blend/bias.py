# Licensed under a 3-clause BSD style license - see LICENSE.rst
r"""
The mean error of fitted values that the noise causes.

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
    BatchProblem,
    BatchResult,
    X,
    Y,
    can_transpose,
    evaluate,
    flux_derivatives,
    gaussian_components,
    iter_pieces,
    whiten,
    whiten_transposed,
)
from hyperphotutils.utils.lm import take_members

__all__ = ['second_order_bias', 'unbiased_sources']

# The largest bias in units of the error that the second order describes.
_LARGEST = 0.5
# The vectors z of `_trace` for the position and the elements aa, ab, and bb:
# the coefficients of (1, u_a, u_b) along both axes.
_Z = np.zeros((3, 2, 5))
for _term, _axis, _element in ((0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 3),
                               (2, 0, 3), (2, 1, 4)):
    _Z[_term, _axis, _element] = 1.0


def second_order_bias(problem, result):
    """
    Return the bias of fitted groups, of shape (g, 6 n + k): the mean of
    (fitted - true) in tangent coordinates; NaN where the covariance is.
    """
    bias = np.empty(result.covariance.shape[:2])
    for piece in iter_pieces(*bias.shape, problem.x.shape[1]):
        part = BatchProblem(*take_members(problem, piece))
        fitted = BatchResult(*take_members(result, piece))
        curved = sum(_trace(part, fitted, i)
                     for i in range(fitted.sources.shape[1]))[:, None, :]
        curved = whiten(part.whitening, curved)
        by_coeffs = part.basis @ np.swapaxes(curved, 1, 2)
        whitening = part.whitening
        if can_transpose(whitening):
            # One vector is whitened twice in place of all derivatives.
            curved = whiten_transposed(whitening, curved)
            whitening = None
        _, jacobian = evaluate(fitted.sources, fitted.coeffs[:, :0], part.x,
                               part.y, part.weight, part.basis[:, :0],
                               whitening, part.beam)
        gradient = np.concatenate(
            (jacobian @ np.swapaxes(curved, 1, 2), by_coeffs), axis=1)
        bias[piece] = -0.5 * (fitted.covariance @ gradient)[:, :, 0]
    return bias


def unbiased_sources(sources, covariance, bias, var_bounds, beam=None):
    """
    Return the states of sources without their bias, and the flux without its
    own bias, which is not that of the product of amplitude and widths.

    Fixed parameters, the shape of a source with a width at its bound, and
    groups with a bias of more than half an error, where the second order is
    not enough, stay the same to the last bit. ``sources`` and ``bias`` have
    the shape (g, n, 6), ``covariance`` (g, n, 6, 6), the latter two in tangent
    coordinates.
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
    flux, slopes = flux_derivatives(sources, beam)
    # as a fraction of the flux, with half the trace of its second
    # derivatives with the covariance
    fraction = np.sum(slopes * bias, axis=2) / flux
    fraction += 0.5 * np.einsum(
        'gnij,gnij->gn', _flux_curvature(sources, slopes, beam),
        np.where(inside[:, :, None, None], covariance, 0.0))
    return state, _reduce(flux, fraction)


def _flux_curvature(sources, slopes, beam):
    r"""
    Return the second derivatives of fluxes, as fractions of the fluxes:
    shape (g, n, 6, 6).
    """
    flux = slopes[:, :, AMPLITUDE] * sources[:, :, AMPLITUDE]
    slope = slopes[:, :, AA:] / flux[:, :, None]
    curvature = np.zeros((*flux.shape, N_PARAMS, N_PARAMS))
    curvature[:, :, AA:, AA:] = (
        _area_curvature(gaussian_components(sources, beam))
        + slope[:, :, :, None] * slope[:, :, None, :])
    by_peak = slope / sources[:, :, AMPLITUDE, None]
    curvature[:, :, AMPLITUDE, AA:] = curvature[:, :, AA:, AMPLITUDE] = (
        by_peak)
    return curvature


def _area_curvature(components):
    r"""
    Return the second derivatives of the logarithms of areas: shape
    (g, n, 3, 3).

    With :math:`P_j = \Sigma_j^{-1}`, the shares :math:`s_j` of the
    Gaussians in the peak, and a unit :math:`E` for each element of the
    matrix, they are :math:`\sum_j s_j [{\rm tr}(P_j E) ({\rm tr}(M F) -
    {\rm tr}(P_j F)) / 2 - {\rm tr}(P_j E P_j F)] / 2` with :math:`M =
    \sum_j s_j P_j`.
    """
    share = components.share[..., None]
    aa, ab, bb = components.precision
    trace = np.stack((aa, 2.0 * ab, bb), axis=-1)
    mean = np.sum(share * trace, axis=2, keepdims=True)
    product = (0.5 * trace[..., :, None] * (mean - trace)[..., None, :]
               - _products(components.precision))
    return 0.5 * np.sum(share[..., None] * product, axis=2)


def _products(precision):
    """
    Return tr(P E P F) for all pairs of elements, along two last axes.
    """
    aa, ab, bb = precision
    rows = ((aa * aa, 2.0 * aa * ab, ab * ab),
            (2.0 * aa * ab, 2.0 * (aa * bb + ab * ab), 2.0 * ab * bb),
            (ab * ab, 2.0 * ab * bb, bb * bb))
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _reduce(value, fraction):
    """
    Subtract a bias, given as a fraction of the value, to first order
    without a change of sign.
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
    Return the trace of the second derivatives of one source of each group
    with the covariance, weighted but not whitened.

    With :math:`u = P d` and :math:`P = \Sigma^{-1}` in the axes of the
    ellipse, the logarithm of a Gaussian has the derivatives :math:`u` and
    :math:`u^T E u / 2` for the position and for an element of the matrix
    with the unit :math:`E`, and the second derivatives
    :math:`-z_k^T P z_l` with :math:`z = (e_a, e_b, E_{aa} u, E_{ab} u,
    E_{bb} u)`. With a measured beam, the share of each Gaussian in the
    peak adds constants to those for the matrix.
    """
    state = result.sources[:, i, :, None]
    amplitude, x0, y0, _, _, theta = np.moveaxis(state, 1, 0)
    cos, sin = np.cos(theta), np.sin(theta)
    dx, dy = problem.x - x0, problem.y - y0
    off_a, off_b = cos * dx + sin * dy, cos * dy - sin * dx
    block = slice(N_PARAMS * i, N_PARAMS * (i + 1))
    # The position in the axes of the ellipse.
    turn = np.zeros((len(cos), N_PARAMS, N_PARAMS))
    for k in (AMPLITUDE, AA, AB, BB):
        turn[:, k, k] = 1.0
    turn[:, X, X] = turn[:, Y, Y] = cos[:, 0]
    turn[:, X, Y], turn[:, Y, X] = sin[:, 0], -sin[:, 0]
    cov = turn @ result.covariance[:, block, block] @ np.swapaxes(turn, 1, 2)
    components = gaussian_components(result.sources[:, i:i + 1], problem.beam)
    area = _area_curvature(components)
    total = np.zeros(problem.x.shape)
    for j in range(components.share.shape[2]):
        aa, ab, bb = (p[:, :, j] for p in components.precision)
        u_a, u_b = aa * off_a + ab * off_b, ab * off_a + bb * off_b
        profile = components.share[:, :, j] * np.exp(
            -0.5 * (u_a * off_a + u_b * off_b))
        k_aa, k_ab, k_bb = (mean - p for mean, p in zip(
            components.mean_precision, (aa, ab, bb), strict=True))
        slopes = np.stack((u_a, u_b, 0.5 * (u_a**2 + k_aa), u_a * u_b + k_ab,
                           0.5 * (u_b**2 + k_bb)), axis=1)
        spread = np.sum(slopes * (cov[:, 1:, 1:] @ slopes), axis=1)
        # z is linear in (1, u_a, u_b), and the trace is a quadratic form.
        matrix = np.array([[aa[:, 0], ab[:, 0]], [ab[:, 0], bb[:, 0]]])
        form = np.einsum('mik,ijg,njl,gkl->gmn', _Z, matrix, _Z,
                         cov[:, 1:, 1:])
        linear = np.stack((np.ones_like(u_a), u_a, u_b), axis=1)
        curvature = np.sum(linear * (form @ linear), axis=1)
        of_share = area[:, 0] + 0.5 * _products((aa[:, 0], ab[:, 0],
                                                 bb[:, 0]))
        curvature -= np.sum(of_share * cov[:, AA:, AA:],
                            axis=(1, 2))[:, None]
        mixed = 2.0 * (cov[:, AMPLITUDE, None, 1:] @ slopes)[:, 0]
        total += profile * (amplitude * (spread - curvature) + mixed)
    return problem.weight * total
