# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The significance of candidates beside fitted sources.
"""

import numpy as np
from scipy.spatial import KDTree

from hyperphotutils.blend.footprints import (
    background_basis,
    make_footprints,
    n_terms,
    pixel_step,
)
from hyperphotutils.blend.solver import (
    AMPLITUDE,
    N_PARAMS,
    evaluate,
    whiten,
)
from hyperphotutils.blend.start import read_start, source_states

__all__ = ['candidate_snr']

# Sources within this distance of a candidate, in FWHM, are its neighbors.
_NEIGHBORHOOD = 3.0
# The smallest fraction of the whitened candidate, as a length, that is left
# when its neighbors and the background are projected out.
_MIN_INDEPENDENT = 0.2
# The background below a candidate is a plane.
_POLY_ORDER = 1
# Smaller eigenvalues of a scaled normal matrix, relative to the largest one,
# are rounding errors.
_SINGULAR = 1e-10
# Elements of the Jacobian held at once.
_CHUNK_ELEMENTS = 1 << 20


def candidate_snr(residual, candidates, table, noise, fwhm, *, mask,
                  fit_radius, extra_variance=None, beam=None):
    r"""
    Return the signal-to-noise ratio of candidates on a residual map; 0 for
    those that their neighbors explain as well, or that have no usable pixels.

    Each candidate is a source with the shape of the beam at a given position.
    Its amplitude and the error of the amplitude are those of one linear step
    of generalized least squares, in which all parameters of the neighbors in
    ``table`` and a plane are free as well. With the whitened residual
    :math:`r`, the whitened beam :math:`g`, and the projection :math:`P` that
    removes the derivatives by the other parameters,

    .. math::

        S/N = \frac{g^T P r}{\sqrt{g^T P g}} ,

    whose square is the amount by which the candidate lowers chi2 (the score
    test, Rao 1948, Math. Proc. Cambridge Phil. Soc. 44, 50).
    ``extra_variance`` is added to that of the noise.
    """
    start = read_start(candidates, fwhm, beam)
    templates = start.states()
    templates[:, AMPLITUDE] = 1.0
    sources = source_states(table)
    sources = sources[np.isfinite(sources).all(axis=1)]
    position = np.column_stack((start.x, start.y))
    neighbors = KDTree(sources[:, 1:3]).query_ball_point(
        position, _NEIGHBORHOOD * fwhm, return_sorted=True)
    n_neighbors = np.array([len(near) for near in neighbors], dtype=int)
    foot = make_footprints(position[:, :1], position[:, 1:], mask,
                           fit_radius, pixel_step(fwhm, fit_radius))
    whole = foot.usable.all(axis=1)
    snr = np.zeros(len(start.x))
    for count, complete in {*zip(n_neighbors, whole, strict=True)}:
        rows = np.flatnonzero((n_neighbors == count) & (whole == complete))
        n_free = N_PARAMS * (count + 1) + n_terms(_POLY_ORDER)
        chunk = max(1, _CHUNK_ELEMENTS // (n_free * foot.x.shape[1]))
        for begin in range(0, len(rows), chunk):
            part = rows[begin:begin + chunk]
            near = np.array([neighbors[row] for row in part],
                            dtype=int).reshape(len(part), count)
            snr[part] = _score(
                residual, np.concatenate(
                    (templates[part, None], sources[near]), axis=1),
                foot.x[part], foot.y[part], foot.usable[part], noise, fwhm,
                extra_variance, beam)
    return snr


def _score(residual, sources, x, y, usable, noise, fwhm, extra_variance,
           beam):
    """
    Return the ratio of the first source of each group, with the other
    sources and a plane free.
    """
    weight = noise.pixel_weights(x, y, usable)
    basis = background_basis(x, y, *sources[:, 0, 1:3].T, fwhm, _POLY_ORDER)
    basis *= weight[:, None, :]
    coeffs = np.zeros(basis.shape[:2])
    _, jacobian = evaluate(sources, coeffs, x.astype(float), y.astype(float),
                           weight, basis, beam=beam)
    rows = np.concatenate((
        jacobian[:, :1],
        (np.where(usable, residual[y, x], 0.0) * weight)[:, None],
        jacobian[:, N_PARAMS:]), axis=1)
    extra = (None if extra_variance is None
             else np.sqrt(extra_variance[y, x]) * weight)
    rows = whiten(noise.factors(x, y, usable, extra), rows)
    wanted, others = rows[:, :2], rows[:, 2:]
    length = np.linalg.norm(others, axis=2, keepdims=True)
    others = others / np.where(length > 0.0, length, 1.0)
    # Derivatives by the parameters of neighbors may be linearly dependent:
    # leave out singular directions.
    values, vectors = np.linalg.eigh(others @ np.swapaxes(others, 1, 2))
    known = values > _SINGULAR * values[:, -1:]
    overlap = (np.swapaxes(vectors, 1, 2) @ others
               @ np.swapaxes(wanted, 1, 2))
    overlap /= np.sqrt(np.where(known, values, np.inf))[:, :, None]
    products = (wanted @ np.swapaxes(wanted, 1, 2)
                - np.swapaxes(overlap, 1, 2) @ overlap)
    independent = products[:, 0, 0] > (
        _MIN_INDEPENDENT**2 * np.sum(wanted[:, 0]**2, axis=1))
    return np.divide(products[:, 0, 1], np.sqrt(np.abs(products[:, 0, 0])),
                     out=np.zeros(len(x)), where=independent)
