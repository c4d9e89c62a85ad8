# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Photometry of large maps in overlapping tiles.
"""

import warnings
from copy import copy
from numbers import Integral

import numpy as np
from astropy.nddata import NDData
from astropy.table import vstack
from photutils.utils.exceptions import NoDetectionsWarning
from scipy.spatial import KDTree

from hyperphotutils.blend.grouping import renumber_groups
from hyperphotutils.photometry.extractor import HyperPhotometry
from hyperphotutils.photometry.measurement import MapNoise
from hyperphotutils.utils.flags import FLAGS
from hyperphotutils.utils.tables import make_repr, result_meta

__all__ = ['TiledPhotometry']

# The overlap of tiles in FWHM. With 8, fluxes differ from those of the whole
# map by up to a thousandth of their errors, with 12 by less.
_OVERLAP = 12.0
# The members of a group are found again in another tile within this distance
# in pixels.
_SAME = 0.1


class TiledPhotometry:
    """
    Measure the sources of a large map in overlapping tiles.

    Use it for maps with many thousands of sources, and for maps whose
    noise is already known: memory is then bounded by the size of a tile.
    Otherwise the noise is measured on the whole map first, with the
    memory that a first fit of the whole map needs. Each tile is measured
    with a margin, and the sources inside the tile proper are kept, so
    that each source is measured in one tile.

    Parameters
    ----------
    photometry : `HyperPhotometry`
        Measures the tiles. If its ``noise`` is a name, the noise is
        measured on the whole map by `HyperPhotometry.measure_noise`.

    tile_size : int
        The side length of the tiles in pixels, without their margins.
        Tiles should have a thousand sources or more: margins are
        measured twice.

    progress_bar : bool, optional
        Whether to show a progress bar over the tiles.

    Raises
    ------
    TypeError
        If ``photometry`` is not a `HyperPhotometry`.

    ValueError
        If ``tile_size`` is not a positive integer.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_blended_map
    >>> from hyperphotutils.photometry import (HyperPhotometry,
    ...                                        TiledPhotometry)
    >>> image = make_blended_map((160, 160), 20, seed=1).image
    >>> phot = HyperPhotometry(fwhm=image.meta['beam_fwhm_pix'])
    >>> noise = phot.measure_noise(image)
    >>> whole = HyperPhotometry(phot.fwhm, noise=noise)
    >>> tiles = TiledPhotometry(whole, tile_size=80)
    >>> print(len(tiles(image)) == len(whole(image)))
    True
    """

    _repr_params = ('photometry', 'tile_size', 'progress_bar')

    def __init__(self, photometry, tile_size, *, progress_bar=False):
        if not isinstance(photometry, HyperPhotometry):
            msg = f'photometry must be a HyperPhotometry: {photometry!r}'
            raise TypeError(msg)
        if not isinstance(tile_size, Integral) or tile_size < 1:
            msg = f'tile_size must be a positive integer: {tile_size!r}'
            raise ValueError(msg)
        self.photometry = photometry
        self.tile_size = int(tile_size)
        self.progress_bar = progress_bar

    def __repr__(self):
        return make_repr(self)

    def __call__(self, data, *, wcs=None, mask=None, error=None):
        """
        Measure the sources of a map.

        Parameters
        ----------
        data, wcs, mask, error
            The map, as for a call of `HyperPhotometry`.

        Returns
        -------
        table : `~astropy.table.QTable` or `None`
            A row a source, in the order of the positions (y, then x) of
            their detections; `None` with a warning when there is none.
        """
        photometry = copy(self.photometry)
        if isinstance(photometry.noise, str):
            photometry.noise = photometry.measure_noise(
                data, wcs=wcs, mask=mask, error=error)
            error = None  # it is part of the noise
        if not isinstance(photometry.noise, MapNoise):
            msg = ("the noise of photometry must be 'correlated', 'white', or "
                   f'a MapNoise: {photometry.noise!r}')
            raise TypeError(msg)
        if isinstance(data, NDData) and wcs is None:
            wcs = data.wcs
        shape = np.shape(data.data if isinstance(data, NDData) else data)
        tiles = [(y, x) for y in range(0, shape[0], self.tile_size)
                 for x in range(0, shape[1], self.tile_size)]
        if self.progress_bar:
            from tqdm.auto import tqdm
            tiles = tqdm(tiles, desc='Measure tiles')
        tables = []
        for tile in tiles:
            table = self._measure(photometry, tile, data, wcs, mask, error)
            if table is not None and len(table):
                tables.append(table)
        if not tables:
            msg = 'No sources were found.'
            warnings.warn(msg, NoDetectionsWarning, stacklevel=2)
            return None
        table = vstack(tables, metadata_conflicts='silent')
        table = table[np.lexsort((table['x_init'], table['y_init']))]
        table['id'] = np.arange(1, len(table) + 1)
        table['group_id'] = _join_groups(table)
        table.remove_columns(['_x_group', '_y_group'])
        table.meta |= result_meta(self)
        for name in ('n_rejected', 'n_bad_pixels', 'n_detected'):
            table.meta.pop(name, None)
        table.meta['n_companions'] = int(np.count_nonzero(
            table['flags'] & FLAGS['residual_detection']))
        return table

    def _measure(self, photometry, tile, data, wcs, mask, error):
        """
        Measure one tile; return None if it has no usable pixel or no
        source.
        """
        shape = np.shape(data.data if isinstance(data, NDData) else data)
        margin = int(np.ceil(_OVERLAP * photometry.fwhm))
        slices = tuple(
            slice(max(0, start - margin),
                  min(size, start + self.tile_size + margin))
            for start, size in zip(tile, shape, strict=True))

        def cut(image):
            return image if np.ndim(image) < 2 else image[slices]

        part = data[slices]
        hidden = cut(mask)
        values = getattr(part, 'data', part)
        own = getattr(part, 'mask', None)
        good = np.isfinite(np.asarray(values))
        for bad in (hidden, own):
            if bad is not None and bad is not np.ma.nomask:
                good &= ~np.asarray(bad)
        if not good.any():
            return None
        photometry = copy(photometry)
        photometry.noise = photometry.noise.cutout(slices)
        search = photometry._open(  # noqa: SLF001
            part, None if wcs is None else wcs[slices], hidden, cut(error),
            None)
        table = search.detect_and_measure()
        if table is None:
            return None
        table = photometry._finish(search, table)  # noqa: SLF001
        origin = slices[1].start, slices[0].start
        for name in ('x_init', 'x_fit'):
            table[name] += origin[0]
        for name in ('y_init', 'y_fit'):
            table[name] += origin[1]
        _, first, member = np.unique(table['group_id'], return_index=True,
                                     return_inverse=True)
        # The first source of each group, in order of position.
        order = np.lexsort((table['x_init'], table['y_init']))
        first = np.full(len(first), -1)
        first[member[order[::-1]]] = order[::-1]
        for name in ('x', 'y'):
            table[f'_{name}_group'] = np.asarray(
                table[f'{name}_init'])[first[member]]
        x, y = (np.floor(np.asarray(table[name]) + 0.5)
                for name in ('x_fit', 'y_fit'))
        inside = np.ones(len(table), dtype=bool)
        for position, start, size in ((y, tile[0], shape[0]),
                                      (x, tile[1], shape[1])):
            # Sources that are fitted off the map belong to the outermost.
            position = np.clip(np.nan_to_num(position), 0, size - 1)
            inside &= (position >= start) & (position
                                             < start + self.tile_size)
        return table[inside]


def _join_groups(table):
    """
    Return the number of the group of each source: sources of different
    tiles have the same group if its first member is the same.
    """
    place = np.column_stack((table['_x_group'], table['_y_group']))
    tree = KDTree(place)
    label = np.arange(len(table))
    pairs = tree.query_pairs(_SAME, output_type='ndarray')
    np.minimum.at(label, pairs.max(axis=1), pairs.min(axis=1))
    return renumber_groups(label + 1)
