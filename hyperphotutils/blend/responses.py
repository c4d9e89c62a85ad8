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
        responses.append(HeldResponse(
            rows, state, _respond(normal, rows.shape[1]),
            _correlate(normal, rows.shape[1])))
    return responses


def _respond(normal, n_sources):
    """
    Return the derivatives of the amplitudes of each group.
    """
    index = np.arange(normal.shape[1])
    in_sources = index < N_PARAMS * n_sources
    linear = ~in_sources | (index % N_PARAMS == AMPLITUDE)
    inverse = _invert(normal[:, linear][:, :, linear])
    across = normal[:, linear][:, :, in_sources]
    response = -(inverse @ across)[:, :n_sources]
    response[:, :, AMPLITUDE::N_PARAMS] = 0.0
    return response


def _correlate(normal, n_sources):
    """
    Return the correlations of the tangent coordinates in a free fit.
    """
    n_coords = N_PARAMS * n_sources
    covariance = _invert(normal)[:, :n_coords, :n_coords]
    diagonal = np.einsum('gii->gi', covariance)
    scale = 1.0 / np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
    return covariance * scale[:, :, None] * scale[:, None, :]


def _invert(normal):
    """
    Return the inverses of normal matrices.
    """
    diagonal = np.einsum('gii->gi', normal)
    scale = 1.0 / np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
    scale = scale[:, :, None] * scale[:, None, :]
    return scale * np.linalg.pinv(normal * scale, rcond=_SINGULAR,
                                  hermitian=True)
