# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Artificial sources, and maps with these sources added.
"""

import numpy as np
from astropy.nddata import NDData

from hyperphotutils.blend.beams import add_sources
from hyperphotutils.utils.gaussians import gaussian_flux
from hyperphotutils.utils.tables import (
    as_masked_image,
    open_nddata,
    strip_units,
)

__all__ = ['Sky', 'draw_levels', 'place_sources']

# Smallest distance between injected sources, in beams: the footprints of
# their fits, of 2 FWHM, do not overlap.
_ISOLATION = 6.0
_MAX_DRAWS = 1000


class Sky:
    """
    Class for a map that returns copies of the same type with sources, which
    are Gaussians unless ``beam`` is a measured one.
    """

    def __init__(self, data, fwhm, mask, beam=None):
        self.data = data
        self.fwhm = fwhm
        self.beam = beam
        opened, mask, _ = open_nddata(data, mask)
        values, self.unit = strip_units(data=opened)
        self.values, self.mask = as_masked_image(values['data'], mask)

    def with_sources(self, sources):
        """
        Return the map with sources added.
        """
        values = self.values.copy()
        add_sources(values, *(sources[name] for name in (
            'x', 'y', 'amplitude', 'fwhm_major', 'fwhm_minor', 'theta')),
            beam=self.beam)
        data = self.data
        if isinstance(data, NDData):
            return type(data)(values, uncertainty=data.uncertainty,
                              mask=data.mask, wcs=data.wcs, meta=data.meta,
                              unit=data.unit)
        if np.ma.isMaskedArray(data):
            return np.ma.MaskedArray(values, mask=data.mask)
        return values if self.unit is None else values << self.unit

    def area_of(self, fwhm_major, fwhm_minor, theta):
        """
        Return the flux of sources with a peak of 1.
        """
        if self.beam is None:
            return gaussian_flux(1.0, fwhm_major, fwhm_minor)
        return self.beam.components(fwhm_major, fwhm_minor, theta)[-1]


def draw_levels(rng, edges, n_sources):
    """
    Draw values such that all bins get the same number on average.
    """
    # Equal numbers rather than random ones: the scatter of the completeness
    # in a bin is then only that of what is recovered.
    n_bins = len(edges) - 1
    whole, rest = divmod(n_sources, n_bins)
    chosen = np.concatenate((np.tile(np.arange(n_bins), whole),
                             rng.permutation(n_bins)[:rest]))
    chosen = rng.permutation(chosen)
    log_edges = np.log(edges)
    return np.exp(rng.uniform(log_edges[chosen], log_edges[chosen + 1]))


def place_sources(rng, sky, n_sources, blend_fraction, blend_distance):
    """
    Draw positions on usable pixels, blended sources next to others.
    """
    ny, nx = sky.mask.shape
    # Hosts come first: a companion needs one.
    rows, cols = np.nonzero(~sky.mask)
    n_companions = min(round(blend_fraction * n_sources), n_sources - 1)
    first_companion = n_sources - n_companions
    isolation = max(_ISOLATION, blend_distance[1]) * sky.fwhm
    xy = np.empty((n_sources, 2))
    hosts = np.full(n_sources, -1)
    n_placed = n_draws = 0
    while n_placed < n_sources:
        if n_draws == _MAX_DRAWS:
            msg = (f'n_per_map={n_sources} sources do not fit in the map, '
                   f'each {isolation:.1f} pixels from the others: only '
                   f'{n_placed} do')
            raise ValueError(msg)
        n_draws += 1
        host = -1
        if n_placed < first_companion:
            pixel = rng.integers(len(rows))
            # anywhere in the pixel: sources at its center look sharpest
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
        distance = np.hypot(*(xy[:n_placed] - position).T)
        if host >= 0:
            distance[host] = np.inf
        if np.all(distance >= isolation):
            xy[n_placed], hosts[n_placed] = position, host
            n_placed += 1
            n_draws = 0
    return xy[:, 0].copy(), xy[:, 1].copy(), hosts
