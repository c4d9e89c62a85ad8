# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Detections that are better described by two sources.
"""

import astropy.units as u
import numpy as np
from astropy.stats import gaussian_fwhm_to_sigma, gaussian_sigma_to_fwhm
from astropy.table import QTable

from hyperphotutils.background.selection import bic, reduced_chi2
from hyperphotutils.blend.footprints import (
    background_basis,
    make_footprints,
    n_terms,
    pixel_step,
)
from hyperphotutils.blend.solver import (
    AMPLITUDE,
    N_PARAMS,
    BatchProblem,
    X,
    Y,
    evaluate_sources,
    fit_batch,
    whiten,
)
from hyperphotutils.blend.start import source_states
from hyperphotutils.utils.lm import take_members

__all__ = ['find_pairs']

# The width of two beams half a beam apart, in FWHM of one: closer pairs cannot
# be distinguished from single sources.
_OVERSIZED = 1.3
# Requirements for the two sources of a pair: the separation and the widths, in
# FWHM of the beam; the peak in units of its error, and of the other peak.
# Single sources with another profile are also fitted better by two Gaussians,
# but these are not both compact, or have the same center.
_MIN_SEPARATION = 0.5
_FWHM_RANGE = (0.75, 2.5)
_MIN_SNR = 5.0
_MIN_RATIO = 0.1
# The order of the background: a slope must not be taken for a companion.
_POLY_ORDER = 1
_N_TERMS = n_terms(_POLY_ORDER)
# Elements of the Jacobian held at once, steps, and tolerances of the fits. On
# a hundred pixels the first leaves less than 1 in chi2, and pairs differ by
# 30; the second is for what is a pair.
_CHUNK_ELEMENTS = 1 << 21
_MAX_ITER = 25
_COARSE = 3e-3
_FINE = 1e-4
# A source is far from being a pair when two Gaussians lack more than this
# fraction of the chi2 that they must gain.
_FAR = 0.5


def find_pairs(residual, table, noise, fwhm, *, mask, fit_radius, beam=None):
    """
    Return the sources that are better described by two, and the rows of those
    that are far from being pairs, also if the noise is somewhat different.

    Each source that is wider than the beam is fitted once more by itself, with
    one and with two Gaussians on the same pixels, and the Bayesian information
    criterion (Schwarz 1978, Annals of Statistics 6, 461) decides. The first
    table has two rows for each source to be split: its row in ``table`` as
    ``row``, and initial values.
    """
    sources = source_states(table)
    wide = np.sqrt(sources[:, 3]) > _OVERSIZED * fwhm * gaussian_fwhm_to_sigma
    rows = np.flatnonzero(np.isfinite(sources).all(axis=1) & wide)
    if len(rows) == 0:
        return _table(rows, np.empty((0, 2, N_PARAMS))), rows
    foot = make_footprints(sources[rows, 1:2], sources[rows, 2:3], mask,
                           fit_radius, pixel_step(fwhm, fit_radius))
    whole = foot.usable.all(axis=1)
    n_free = 2 * N_PARAMS + _N_TERMS
    chunk = max(1, _CHUNK_ELEMENTS // (n_free * foot.x.shape[1]))
    rows_of, pairs = [np.empty(0, dtype=int)], [np.empty((0, 2, N_PARAMS))]
    single = [np.empty(0, dtype=int)]
    for kind in (np.flatnonzero(whole), np.flatnonzero(~whole)):
        for begin in range(0, len(kind), chunk):
            part = kind[begin:begin + chunk]
            problem = _problem(residual, sources[rows[part]],
                               foot.x[part], foot.y[part], foot.usable[part],
                               noise, fwhm, beam)
            split, pair, alone = _compare(problem, sources[rows[part], None],
                                          fwhm)
            rows_of.append(rows[part[split]])
            pairs.append(pair)
            single.append(rows[part[alone]])
    return (_table(np.concatenate(rows_of), np.concatenate(pairs)),
            np.concatenate(single))


def _table(rows, pairs):
    """
    Return the initial values of the sources of pairs.
    """
    _, x, y, var_major, var_minor, theta = pairs.reshape(-1, N_PARAMS).T
    return QTable({
        'row': np.repeat(rows, 2), 'x_init': x, 'y_init': y,
        'fwhm_major_init': np.sqrt(var_major) * gaussian_sigma_to_fwhm,
        'fwhm_minor_init': np.sqrt(var_minor) * gaussian_sigma_to_fwhm,
        'theta_init': np.rad2deg(theta) << u.deg})


def _problem(residual, sources, x, y, usable, noise, fwhm, beam):
    """
    Return the problem of single sources, each with its own plane.
    """
    # The residual has the neighbors subtracted; the source itself is added
    # back below.
    weight = noise.pixel_weights(x, y, usable)
    basis = background_basis(x, y, *sources[:, 1:3].T, fwhm, _POLY_ORDER)
    basis *= weight[:, None, :]
    col, row = x.astype(float), y.astype(float)
    own = evaluate_sources(sources[:, None], col, row, weight, beam)
    data = np.where(usable, residual[y, x], 0.0) * weight + own
    whitening = noise.factors(x, y, usable)
    data = whiten(whitening, data[:, None, :])[:, 0]
    center = sources[:, None, 1:3]
    low, high = ((ratio * fwhm * gaussian_fwhm_to_sigma)**2
                 for ratio in (0.5, 3.0))
    if beam is not None:
        low = max(low, beam.min_variance)
    return BatchProblem(
        data, col, row, weight, whiten(whitening, basis),
        np.ones((len(sources), N_PARAMS + _N_TERMS), dtype=bool),
        center - fwhm, center + fwhm, low, high, whitening, beam=beam)


def _compare(problem, sources, fwhm):
    """
    Return the indices of the sources that are pairs, the states of the
    two of each, and which sources are far from being pairs.
    """
    n_pixels = np.sum(problem.weight > 0.0, axis=1)
    # Both models on the same pixels, so that their chi2 can be compared.
    plane = np.zeros((len(sources), _N_TERMS))
    one = _fit(problem, sources, plane, _FINE)
    two = problem._replace(
        free=np.ones((len(sources), 2 * N_PARAMS + _N_TERMS), dtype=bool),
        xy_low=np.repeat(problem.xy_low, 2, axis=1),
        xy_high=np.repeat(problem.xy_high, 2, axis=1))
    # Most sources are single, and two Gaussians never become better.
    goal = one.chi2 - N_PARAMS * np.log(n_pixels)
    pair = _fit(two, _halves(sources, fwhm), plane, _COARSE, goal=goal)
    n_free = N_PARAMS + _N_TERMS
    # If two Gaussians do not fit either, inflate the noise.
    excess = np.maximum(1.0, reduced_chi2(pair.chi2, n_pixels,
                                          n_free + N_PARAMS))
    gain = (bic(one.chi2 / excess, n_pixels, n_free)
            - bic(pair.chi2 / excess, n_pixels, n_free + N_PARAMS))
    alone = gain < -_FAR * N_PARAMS * np.log(n_pixels)
    split = np.flatnonzero((gain > 0.0) & _is_pair(pair, fwhm))
    if len(split) == 0:
        return split, pair.sources[split], alone
    return split, _fit(
        BatchProblem(*take_members(two, split)), pair.sources[split],
        pair.coeffs[split], _FINE).sources, alone


def _fit(problem, sources, coeffs, tolerance, goal=None):
    """
    Fit amplitudes and plane, then everything.
    """
    return fit_batch(problem, sources, coeffs, linear_start=True,
                     evaluate_last=False, max_iter=_MAX_ITER,
                     tolerance=tolerance, goal=goal)


def _halves(sources, fwhm):
    r"""
    Return two round sources that together are as long as the one.

    At :math:`\pm h` from the center, two equal Gaussians of the variance
    :math:`v` have the variance :math:`v + h^2` along the line between
    them.
    """
    beam = (fwhm * gaussian_fwhm_to_sigma)**2
    var_major, var_minor, theta = np.moveaxis(sources[:, 0, 3:], 1, 0)
    round_one = np.clip(var_minor, beam, np.maximum(beam, 0.7 * var_major))
    half = np.sqrt(np.maximum(var_major - round_one, 0.3 * beam))
    halves = np.repeat(sources, 2, axis=1)
    for side, sign in enumerate((-1.0, 1.0)):
        halves[:, side, X] += sign * half * np.cos(theta)
        halves[:, side, Y] += sign * half * np.sin(theta)
    halves[:, :, 3:5] = round_one[:, None, None]
    return halves


def _is_pair(result, fwhm):
    """
    Return which fits are of two compact, separate sources.
    """
    sources = result.sources
    separation = np.hypot(*(sources[:, 0, 1:3] - sources[:, 1, 1:3]).T)
    widths = np.sqrt(sources[:, :, 3:5]) * gaussian_sigma_to_fwhm / fwhm
    amplitude = sources[:, :, AMPLITUDE]
    # The errors of the joint fit, in which near sources share their flux.
    variance = np.stack([result.covariance[:, k, k]
                         for k in (AMPLITUDE, N_PARAMS + AMPLITUDE)], axis=1)
    low, high = _FWHM_RANGE
    return ((separation > _MIN_SEPARATION * fwhm)
            & np.all((widths > low) & (widths < high), axis=(1, 2))
            & np.all(amplitude > _MIN_SNR * np.sqrt(variance), axis=1)
            & (amplitude.min(axis=1) > _MIN_RATIO * amplitude.max(axis=1)))
