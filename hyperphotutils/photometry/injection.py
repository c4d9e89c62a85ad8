# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Artificial sources, and the maps that they are added to.
"""

import numpy as np
from astropy.nddata import NDData

from hyperphotutils.utils.gaussians import add_gaussians
from hyperphotutils.utils.tables import (
    as_masked_image,
    open_nddata,
    strip_units,
)

__all__ = ['Sky', 'draw_levels', 'place_sources']

# In beams: injected sources keep this distance from each other.
_ISOLATION = 6.0
_MAX_DRAWS = 1000


class Sky:
    """
    The map, and how to make another one of the same kind.

    Parameters
    ----------
    data, mask
        As for a call of `InjectionRecovery`.

    fwhm : float
        The FWHM of the beam in pixels.
    """

    def __init__(self, data, fwhm, mask):
        self.data = data
        self.fwhm = fwhm
        opened, mask, _ = open_nddata(data, mask)
        values, self.unit = strip_units(data=opened)
        self.values, self.mask = as_masked_image(values['data'], mask)

    def with_sources(self, sources):
        """
        Return the map with sources added.
        """
        values = self.values.copy()
        add_gaussians(values, *(sources[name] for name in (
            'x', 'y', 'amplitude', 'fwhm_major', 'fwhm_minor', 'theta')))
        data = self.data
        if isinstance(data, NDData):
            return type(data)(values, uncertainty=data.uncertainty,
                              mask=data.mask, wcs=data.wcs, meta=data.meta,
                              unit=data.unit)
        if np.ma.isMaskedArray(data):
            return np.ma.MaskedArray(values, mask=data.mask)
        return values if self.unit is None else values << self.unit


def draw_levels(rng, edges, n_sources):
    """
    Draw values in bins that get the same number of them on average.
    """
    n_bins = len(edges) - 1
    whole, rest = divmod(n_sources, n_bins)
    chosen = np.concatenate((np.tile(np.arange(n_bins), whole),
                             rng.permutation(n_bins)[:rest]))
    chosen = rng.permutation(chosen)
    log_edges = np.log(edges)
    return np.exp(rng.uniform(log_edges[chosen], log_edges[chosen + 1]))


def place_sources(rng, sky, n_sources, blend_fraction, blend_distance):
    """
    Draw positions on usable pixels, companions next to the others.
    """
    ny, nx = sky.mask.shape
    rows, cols = np.nonzero(~sky.mask)
    n_companions = min(round(blend_fraction * n_sources), n_sources - 1)
    first_companion = n_sources - n_companions
    isolation = max(_ISOLATION, blend_distance[1]) * sky.fwhm
    xy = np.empty((n_sources, 2))
    hosts = np.full(n_sources, -1)
    nplace_sourcesd = n_draws = 0
    while nplace_sourcesd < n_sources:
        if n_draws == _MAX_DRAWS:
            msg = (f'n_per_map={n_sources} sources do not fit in the map, '
                   f'each {isolation:.1f} pixels from the others: only '
                   f'{nplace_sourcesd} do')
            raise ValueError(msg)
        n_draws += 1
        host = -1
        if nplace_sourcesd < first_companion:
            pixel = rng.integers(len(rows))
            position = (np.array([cols[pixel], rows[pixel]])
                        + rng.uniform(-0.5, 0.5, 2))
        else:
            host = rng.integers(first_companion)
            angle = rng.uniform(0.0, 2.0 * np.pi)
            position = xy[host] + rng.uniform(*blend_distance) * sky.fwhm * (
                np.array([np.cos(angle), np.sin(angle)]))
        col, row = np.rint(position).astype(int)
        if not (0 <= col < nx and 0 <= row < ny) or sky.mask[row, col]:
            continue
        distance = np.hypot(*(xy[:nplace_sourcesd] - position).T)
        if host >= 0:
            distance[host] = np.inf
        if np.all(distance >= isolation):
            xy[nplace_sourcesd], hosts[nplace_sourcesd] = position, host
            nplace_sourcesd += 1
            n_draws = 0
    return xy[:, 0].copy(), xy[:, 1].copy(), hosts
