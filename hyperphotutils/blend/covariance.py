# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Covariances of the parameters of sources, and of the fluxes of sources that
were fitted together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy.stats import gaussian_fwhm_to_sigma
from astropy.table import Row, Table
from numpy.typing import ArrayLike

from hyperphotutils.blend.solver import (
    AA,
    AB,
    AMPLITUDE,
    BB,
    N_PARAMS,
    X,
    Y,
    flux_derivatives,
)

if TYPE_CHECKING:
    from hyperphotutils.blend.beams import BeamProfile

__all__ = ['SourceCovariance']

_AXES = ('major', 'minor')
_ERRORS = ('id', 'x_err', 'y_err', 'fwhm_major_fit', 'fwhm_major_err',
           'fwhm_minor_fit', 'fwhm_minor_err', 'theta_fit', 'theta_err')


@dataclass(frozen=True, eq=False)
class SourceCovariance:
    """
    The covariances of fitted sources.

    Parameters
    ----------
    id : 1D `~numpy.ndarray`
        The identification numbers of ``n`` sources.

    position : `~numpy.ndarray` of shape (n, 2, 2)
        The covariance of x and y in square pixels.

    shape : `~numpy.ndarray` of shape (n, 3)
        The elements xx, xy, and yy of the covariance matrix of each
        Gaussian, in square pixels.

    shape_covariance : `~numpy.ndarray` of shape (n, 3, 3)
        Their covariance.

    pairs : `~numpy.ndarray` of shape (m, 2)
        The indices of sources that were fitted together.

    correlation : `~numpy.ndarray` of shape (m,)
        The correlation of the fluxes of each pair.
    """

    id: np.ndarray
    position: np.ndarray
    shape: np.ndarray
    shape_covariance: np.ndarray
    pairs: np.ndarray
    correlation: np.ndarray

    @classmethod
    def from_batches(cls, source_id: np.ndarray, batches: Iterable[tuple], *,
                     beam: BeamProfile | None = None) -> SourceCovariance:
        """
        Collect the covariances of batches of groups.

        Parameters
        ----------
        source_id : 1D `~numpy.ndarray`
            The identification number of each source.

        batches : iterable of tuple
            The indices of the sources of each group, shape (g, n), their
            states, (g, n, 6), and their covariance in tangent
            coordinates, (g, 6 n + k, 6 n + k).

        beam : `~hyperphotutils.blend.BeamProfile`, optional
            The measured beam; a Gaussian by default.

        Returns
        -------
        covariance : `SourceCovariance`
            The covariances; NaN for sources in no batch.
        """
        n_sources = len(source_id)
        position = np.full((n_sources, 2, 2), np.nan)
        shape = np.full((n_sources, 3), np.nan)
        shape_cov = np.full((n_sources, 3, 3), np.nan)
        pairs, correlation = [np.empty((0, 2), dtype=int)], [np.empty(0)]
        for rows, state, covariance in batches:
            first = N_PARAMS * np.arange(rows.shape[1])[:, None]
            position[rows] = _blocks(covariance, first + [X, Y])
            turn = _tangent_to_pixels(state[:, :, 5])
            own = _blocks(covariance, first + [AA, AB, BB])
            shape_cov[rows] = turn @ own @ np.swapaxes(turn, 2, 3)
            shape[rows] = (turn[..., 0] * state[:, :, 3, None]
                           + turn[..., 2] * state[:, :, 4, None])
            # Each pair of companions once.
            one, other = np.triu_indices(rows.shape[1], 1)
            pairs.append(np.stack((rows[:, one], rows[:, other]),
                                  axis=-1).reshape(-1, 2))
            correlation.append(_flux_correlation(state, covariance, beam)[
                :, one, other].ravel())
        return cls(np.asarray(source_id), position, shape, shape_cov,
                   np.concatenate(pairs), np.concatenate(correlation))

    @classmethod
    def from_errors(cls, table: Table) -> SourceCovariance:
        """
        Make covariances from errors alone, without correlations.

        Parameters
        ----------
        table : `~astropy.table.Table`
            The result of a fit, with widths, angle, and errors.

        Returns
        -------
        covariance : `SourceCovariance`
            The covariances without any correlation.
        """
        table = {name: np.asarray(getattr(table[name], 'value', table[name]))
                 for name in _ERRORS}
        position = np.array([table['x_err'], table['y_err']]).T[:, :, None]
        sigma = np.array([table[f'fwhm_{axis}_fit'] for axis in _AXES]
                         ) * gaussian_fwhm_to_sigma
        error = np.array([table[f'fwhm_{axis}_err'] for axis in _AXES]
                         ) * gaussian_fwhm_to_sigma
        # Errors of the variances, and of the element ab by a turn.
        major, minor = 2.0 * sigma * error
        turned = (sigma[0]**2 - sigma[1]**2) * np.deg2rad(table['theta_err'])
        own = np.array([major, turned, minor]).T[:, :, None]
        turn = _tangent_to_pixels(np.deg2rad(table['theta_fit']))
        return cls(table['id'], position**2 * np.eye(2),
                   turn[..., 0] * sigma[0, :, None]**2
                   + turn[..., 2] * sigma[1, :, None]**2,
                   turn @ (own**2 * np.eye(3)) @ np.swapaxes(turn, 1, 2),
                   np.empty((0, 2), dtype=int), np.empty(0))

    def updated(self, newer: SourceCovariance) -> SourceCovariance:
        """
        Replace the covariances of older fits by those of a later one.

        Parameters
        ----------
        newer : `SourceCovariance`
            The later fit, of whole groups. Its sources lose their pairs
            with others.

        Returns
        -------
        covariance : `SourceCovariance`
            The covariances of all sources of both.
        """
        kept = self.take(self.id[~np.isin(self.id, newer.id)])
        if len(kept.id) == 0:
            return newer
        return SourceCovariance(
            *(np.concatenate((getattr(kept, name), getattr(newer, name)))
              for name in ('id', 'position', 'shape', 'shape_covariance')),
            np.concatenate((kept.pairs, newer.pairs + len(kept.id))),
            np.concatenate((kept.correlation, newer.correlation)))

    def take(self, source_id: ArrayLike, *,
             names: ArrayLike | None = None) -> SourceCovariance:
        """
        Choose sources.

        Parameters
        ----------
        source_id : 1D array_like
            The identification numbers.

        names : 1D array_like, optional
            Their new identification numbers.

        Returns
        -------
        covariance : `SourceCovariance`
            The covariances of these sources, in their order; NaN for
            those that are not known.
        """
        source_id = np.asarray(source_id)
        order = np.argsort(self.id, kind='stable')
        place = np.searchsorted(self.id, source_id, sorter=order)
        found = place < len(self.id)
        index = np.zeros(len(source_id), dtype=int)
        index[found] = order[place[found]]
        found[found] = self.id[index[found]] == source_id[found]
        row = np.full(len(self.id), -1)
        row[index[found]] = np.flatnonzero(found)
        pairs = row[self.pairs]
        whole = np.all(pairs >= 0, axis=1)
        values = []
        for name in ('position', 'shape', 'shape_covariance'):
            value = getattr(self, name)
            chosen = np.full((len(source_id), *value.shape[1:]), np.nan)
            chosen[found] = value[index[found]]
            values.append(chosen)
        return SourceCovariance(source_id if names is None else names,
                                *values, pairs[whole],
                                self.correlation[whole])


def total_flux(ids, source_id, flux, flux_err, covariance):
    """
    Return the sum of fluxes and its error with the covariances, which are in
    the order of ``source_id``; NaN when one of the fluxes is.

    ``ids`` are the sources to sum, all if `None`. A `ValueError` is raised if
    one is not known or given twice, or if there is none.
    """
    chosen = np.ones(len(source_id), dtype=bool)
    if ids is not None:
        known = np.asarray(source_id).tolist()
        wanted = _check_ids(ids, known)
        chosen = np.array([one in wanted for one in known])
    unit = getattr(flux, 'unit', None)
    values, errors = (np.asarray(getattr(column, 'value', column))
                      for column in (flux, flux_err))
    one, other = covariance.pairs[
        np.all(chosen[covariance.pairs], axis=1)].T
    together = covariance.correlation[
        np.all(chosen[covariance.pairs], axis=1)]
    variance = (np.sum(errors[chosen]**2)
                + 2.0 * np.sum(together * errors[one] * errors[other]))
    total = np.sum(values[chosen]), np.sqrt(np.maximum(variance, 0.0))
    return total if unit is None else tuple(value << unit for value in total)


def _check_ids(ids, known):
    """
    Return the set of the requested ids; raise an error for unknown ones.
    """
    if isinstance(ids, Table | Row):
        msg = "ids must be the column 'id' of the table, not the table"
        raise TypeError(msg)
    ids = np.asarray(ids)
    if ids.dtype.kind == 'b':
        msg = 'ids must be the ids of sources, not a mask'
        raise ValueError(msg)
    # as Python compares them: '1' is not 1
    ids = ids.ravel().tolist()
    if not ids:
        msg = 'ids must hold one source at least (None for all sources)'
        raise ValueError(msg)
    there = set(known)
    missing = [one for one in ids if one not in there]
    if missing:
        same = {type(one) for one in missing} <= {type(one) for one in known}
        kind = '' if same or not known else (
            f', which are of type {type(known[0]).__name__}')
        msg = (f'ids must be those of fitted sources{kind}: '
               f'{", ".join(map(str if same else repr, missing))}')
        raise ValueError(msg)
    twice = [one for one, number in Counter(ids).items() if number > 1]
    if twice:
        msg = ('ids must name each source once, these are repeated: '
               f'{", ".join(map(str, twice))}')
        raise ValueError(msg)
    return set(ids)


def _blocks(covariance, index):
    """
    Return the blocks of a stack of matrices: (g, p, p) by (n, k) to
    (g, n, k, k).
    """
    return covariance[:, index[:, :, None], index[:, None, :]]


def _tangent_to_pixels(theta):
    """
    Return the matrices that turn the elements of a symmetric matrix from
    the axes of an ellipse (aa, ab, bb) to those of the image (xx, xy,
    yy).
    """
    cos, sin = np.cos(theta), np.sin(theta)
    rows = [[cos**2, -2.0 * cos * sin, sin**2],
            [cos * sin, cos**2 - sin**2, -cos * sin],
            [sin**2, 2.0 * cos * sin, cos**2]]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def _flux_correlation(state, covariance, beam):
    """
    Return the correlations of the fluxes of a group, shape (g, n, n).
    """
    n_groups, n_sources = state.shape[:2]
    slopes = np.zeros((n_groups, n_sources, covariance.shape[1]))
    source = np.arange(n_sources)
    _, by_param = flux_derivatives(state, beam)
    for param in (AMPLITUDE, AA, AB, BB):
        slopes[:, source, N_PARAMS * source + param] = by_param[:, :, param]
    cov = slopes @ covariance @ np.swapaxes(slopes, 1, 2)
    err = np.sqrt(np.einsum('gii->gi', cov))
    with np.errstate(divide='ignore', invalid='ignore'):
        correlation = cov / (err[:, :, None] * err[:, None, :])
    # fixed fluxes have zero correlation
    return np.where(np.isfinite(correlation), correlation, 0.0)
