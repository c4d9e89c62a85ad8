# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Derivatives of fitted amplitudes with respect to fixed positions and
shapes.
"""

from typing import NamedTuple

import numpy as np

from hyperphotutils.blend.solver import AMPLITUDE, N_PARAMS, normal_matrix

__all__ = ['HeldResponse', 'make_responses']

# Smaller eigenvalues of the scaled normal matrix are rounding errors.
_SINGULAR = 1e-13


class HeldResponse(NamedTuple):
    """
    The responses of the groups of a batch: ``rows`` of shape (g, n) and the
    states of their sources.

    ``response`` of shape (g, n, 6 n) has the derivatives of the amplitude of
    each source with respect to the tangent coordinates of all sources of the
    group, with the amplitudes and the background fitted anew; 0 with respect
    to amplitudes. ``correlation`` of shape (g, 6 n, 6 n) is that of the errors
    in a fit in which all are free.
    """

    rows: np.ndarray
    sources: np.ndarray
    response: np.ndarray
    correlation: np.ndarray


def make_responses(fit):
    """
    Return the `HeldResponse` of each batch of a fit that has run, without
    groups that have too few pixels.

    With the derivatives :math:`L` of the weighted model with respect to
    amplitudes and background, and :math:`P` with respect to positions and
    shapes, the least squares solution for the former follows the latter as
    :math:`-(L^T L)^{-1} L^T P`.
    """
    model = np.zeros(fit.data.shape)
    fit.add_sources(model)
    responses = []
    for batch in fit.batches:
        enough = batch.n_pixels > batch.result.covariance.shape[1]
        if not np.any(enough):
            continue
        rows = batch.members[enough]
        state = batch.result.sources[enough]
        normal = normal_matrix(fit.make_problem(rows, model)[0], state,
                               batch.result.coeffs[enough])
        n_sources = rows.shape[1]
        index = np.arange(normal.shape[1])
        in_sources = index < N_PARAMS * n_sources
        linear = ~in_sources | (index % N_PARAMS == AMPLITUDE)
        inverse = _invert(normal[:, linear][:, :, linear])
        across = normal[:, linear][:, :, in_sources]
        response = -(inverse @ across)[:, :n_sources]
        response[:, :, AMPLITUDE::N_PARAMS] = 0.0
        # The background is marginalized: invert first, then cut.
        covariance = _invert(normal)[:, in_sources][:, :, in_sources]
        scale = _unit_diagonal(covariance)
        responses.append(HeldResponse(rows, state, response,
                                      covariance * scale))
    return responses


def _invert(normal):
    """
    Return the inverses of normal matrices.
    """
    scale = _unit_diagonal(normal)
    return scale * np.linalg.pinv(normal * scale, rcond=_SINGULAR,
                                  hermitian=True)


def _unit_diagonal(matrices):
    """
    Return the factors of all elements that give matrices a unit diagonal.
    """
    diagonal = np.einsum('gii->gi', matrices)
    scale = 1.0 / np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
    return scale[:, :, None] * scale[:, None, :]
