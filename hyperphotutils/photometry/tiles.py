# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Photometry of large maps in overlapping tiles.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections import Counter
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.nddata import NDData
from astropy.table import QTable, vstack
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from numpy.typing import ArrayLike
from photutils.utils.exceptions import NoDetectionsWarning
from scipy.spatial import KDTree

from hyperphotutils.blend.covariance import SourceCovariance, total_flux
from hyperphotutils.blend.fitter import BlendGroupFitter
from hyperphotutils.blend.grouping import renumber_groups
from hyperphotutils.blend.misfit import Misfit
from hyperphotutils.blend.start import position_columns, read_start
from hyperphotutils.catalog.columns import describe_columns, make_empty_table
from hyperphotutils.detection.highpass import HighPassStarFinder
from hyperphotutils.noise.bad_pixels import BadPixels
from hyperphotutils.noise.correlated import CorrelatedNoise
from hyperphotutils.noise.factors import FactorCache
from hyperphotutils.noise.local import GridImage
from hyperphotutils.noise.white import WhiteNoise
from hyperphotutils.photometry.extractor import HyperPhotometry
from hyperphotutils.photometry.images import SourceImages
from hyperphotutils.photometry.map_noise import (
    MAX_SAMPLE,
    OVERLAP,
    RESULTS,
    has_data,
    measure_in_tiles,
    read_kept,
    widen,
)
from hyperphotutils.photometry.measurement import (
    DetectionRms,
    MapNoise,
    MeasuredMap,
    plain,
    warn_of_other_beam,
)
from hyperphotutils.photometry.results import make_results, open_search
from hyperphotutils.photometry.tile_results import read_result, write_result
from hyperphotutils.startup import trim_memory
from hyperphotutils.utils.checks import check_integer
from hyperphotutils.utils.executors import (
    WorkerProcesses,
    describe_death,
    error_of,
    one_blas_thread,
    was_killed,
    work_through,
)
from hyperphotutils.utils.flags import FLAGS
from hyperphotutils.utils.stored import StoredImage
from hyperphotutils.utils.tables import (
    make_repr,
    open_nddata,
    result_meta,
    strip_units,
    with_plain_units,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astropy.table import Table

    from hyperphotutils.utils.typing import (
        ArrayOrQuantity,
        ExecutorLike,
        FilePath,
        FloatOrQuantity,
        ImageLike,
    )

__all__ = ['TiledPhotometry']

# A group that comes nearer to the cut edge of its tile than this, in FWHM, is
# measured in a tile with twice the overlap, up to _MAX_OVERLAP.
_EDGE = 4.0
_MAX_OVERLAP = 48.0
# The rows of a map that are read at once: 33 MB for 16,000 columns.
_STRIP = 256
# The members of a group are found again in another tile within this distance
# in pixels: their fits in both differ by less than a thousandth of the errors.
_SAME = 0.1
# The images of a map
_IMAGES = frozenset({'model', 'background', 'residual'})


class TiledPhotometry:
    """
    Measure the sources of a large map in overlapping tiles.

    Use it for maps with many thousands of sources: the memory is bounded
    by the size of a tile instead of that of the map, and the tiles can
    be shared among processes. Each tile is measured with a margin, and
    the sources inside the tile proper are kept, so that each source is
    measured in one tile, with the noise of the whole map.

    Parameters
    ----------
    photometry : `HyperPhotometry`
        Measures the tiles. If its ``noise`` is a name, the noise is
        measured on the whole map by `HyperPhotometry.measure_noise`. It
        cannot have a ``background``.

    tile_size : int
        The side length of the tiles in pixels, without their margins.
        Tiles should have a thousand sources or more: margins are
        measured twice. Tiles smaller than a margin, 12 FWHM, are
        refused.

    executor : `~concurrent.futures.Executor` or `None`, optional
        An executor, or a client of dask.distributed, that measures the
        tiles; see `~hyperphotutils.utils.work_through`. The results are
        the same for any number and order of workers.

    n_workers : int, optional
        The number of processes without an ``executor``.

    folder : path-like, optional
        An existing folder in which the results of finished tiles are
        kept. A call that finds results there does not measure these
        tiles again: use a folder for one map and one configuration.

    images : dict, optional
        Files of images that are made during a call, each tile by the
        process that measures it. The keys are one or more of
        ``'model'``, ``'background'``, and ``'residual'``, see
        `make_model_image` and the others; the values are
        `~hyperphotutils.utils.StoredImage` objects of the shape of the
        map.

    progress_bar : bool, optional
        Whether to show a progress bar over the tiles.

    Attributes
    ----------
    rms : float, `~astropy.units.Quantity`, or `None`
        The noise of the last map, as that of `HyperPhotometry`.

    noise : `MapNoise` or `None`
        The noise with which the tiles of the last map were measured. The
        variation of errors that are given for each pixel is not part of
        it: see `MapNoise.with_variation`.

    rejected : `~astropy.table.QTable` or `None`
        The detections on the last map without a row, as that of
        `HyperPhotometry`, in the order of their positions.

    Raises
    ------
    TypeError
        If ``photometry`` is not a `HyperPhotometry`, or ``tile_size`` or
        ``n_workers`` not an integer.

    FileNotFoundError
        In a call, if there is no ``folder``.

    ValueError
        If ``tile_size`` or ``n_workers`` is not positive, ``tile_size`` is
        less than 12 FWHM, ``images`` has an unknown key, or ``photometry``
        has a ``background`` or a finder with ``n_brightest``.

    Notes
    -----
    Processes receive the names of files instead of pixels. A
    `~numpy.memmap` is read from its own file, which must not change
    during the call; other arrays are copied to temporary files first.

    If a process is killed, its tile is measured again, in a process of
    its own; if that is killed, too, the error names the tile.

    The numbers of detections that the finder's own selections reject
    are not known in tiles.

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

    _repr_params = ('photometry', 'tile_size')

    def __init__(self, photometry: HyperPhotometry, tile_size: int, *,
                 executor: ExecutorLike | None = None, n_workers: int = 1,
                 folder: FilePath | None = None,
                 images: Mapping[str, StoredImage] | None = None,
                 progress_bar: bool = False) -> None:
        if not isinstance(photometry, HyperPhotometry):
            msg = f'photometry must be a HyperPhotometry: {photometry!r}'
            raise TypeError(msg)
        if photometry.background is not None:
            msg = ('photometry must have no background: in tiles, only '
                   'backgrounds that are part of the fits are possible')
            raise ValueError(msg)
        if getattr(photometry.finder, 'n_brightest', None) is not None:
            msg = ('the finder of photometry must have no n_brightest: a '
                   'tile does not know the brightest sources of the map')
            raise ValueError(msg)
        self.tile_size = check_integer(tile_size, 'tile_size')
        self.n_workers = check_integer(n_workers, 'n_workers')
        margin = OVERLAP * photometry.fwhm
        if tile_size < margin:
            msg = (f'tile_size must be at least {margin:.0f} pixels, the '
                   f'margin of a tile ({OVERLAP:.0f} FWHM), or most of the '
                   f'time is spent on margins: {tile_size!r}')
            raise ValueError(msg)
        self.images = dict(images or {})
        unknown = sorted(self.images.keys() - _IMAGES)
        if unknown:
            msg = (f'images has an unknown key: {unknown[0]!r}; it can have '
                   f'{", ".join(sorted(_IMAGES))}')
            raise ValueError(msg)
        self.photometry = photometry
        self.executor = executor
        self.folder = None if folder is None else Path(folder)
        self.progress_bar = progress_bar
        self.rms: FloatOrQuantity | None = None
        self.noise: MapNoise | None = None
        self.rejected: QTable | None = None
        self._fluxes = None
        self._images = None

    def __repr__(self) -> str:
        return make_repr(self)

    def __call__(self, data: ImageLike, *, wcs: WCS | None = None,
                 mask: ArrayLike | None = None, error: ArrayLike | None = None,
                 weight_map: ArrayLike | None = None,
                 init_params: Table | None = None) -> QTable | None:
        """
        Measure the sources of a map.

        Parameters
        ----------
        data, wcs, mask, error, weight_map, init_params
            The map, as for a call of `HyperPhotometry`.

        Returns
        -------
        table : `~astropy.table.QTable` or `None`
            A row a source, in the order of the positions (y, then x) of
            their detections, or of ``init_params``; `None` with a
            warning when nothing is detected.
        """
        warn_of_other_beam(self.photometry.fwhm, data)
        source = _Map.open(data, wcs, mask, error, weight_map)
        self._check_files(source.shape)
        photometry = copy(self.photometry)
        photometry.progress_bar = False
        init = None
        if init_params is not None:
            start = read_start(init_params, photometry.fwhm)
            init = QTable(init_params, copy=True)
            if 'id' not in init.colnames:
                init['id'] = start.id
            init['_order'] = np.arange(len(init))
            init['_x'], init['_y'] = start.x, start.y
        earlier = [tile for tile, path in self._result_paths(
            'tile', source.shape, self.tile_size).items() if path.exists()]
        with contextlib.ExitStack() as stack:
            folder = self.folder or Path(stack.enter_context(
                tempfile.TemporaryDirectory()))
            stored, executor = source, self.executor
            if executor is not None or self.n_workers > 1:
                stored = source.stored(stack.enter_context(
                    tempfile.TemporaryDirectory(dir=folder)))
            if executor is None and self.n_workers > 1:
                # The processes are kept for all passes over the tiles.
                executor = stack.enter_context(
                    WorkerProcesses(self.n_workers))
            work = partial(self._work, executor)
            if isinstance(photometry.noise, str):
                photometry.noise = self._measure_noise(
                    photometry, work, stored, init, folder)
            if not isinstance(photometry.noise, MapNoise):
                msg = ("the noise of photometry must be 'correlated', "
                       f"'white', or a MapNoise: {photometry.noise!r}")
                raise TypeError(msg)
            parts = work('tile', _measure_tile, stored, photometry, init,
                         folder, self.images)
        table = self._collect(parts, source, photometry, init)
        del parts
        # Files can be new since an earlier call has measured these tiles.
        for kind, file in self.images.items():
            self._make_image(kind, file, earlier)
        # Images and files of the results follow.
        trim_memory()
        return table

    def make_model_image(self,
                         out: ArrayLike | None = None) -> ArrayOrQuantity:
        """
        Make an image of all sources of the last map.

        Parameters
        ----------
        out : 2D array_like, optional
            The array in which the image is stored, tile by tile, such
            as a `~numpy.memmap`; a new one by default.

        Returns
        -------
        image : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The image, without background; ``out`` if it is given.
        """
        return self._make_image('model', out)

    def make_background_image(self,
                              out: ArrayLike | None = None) -> ArrayOrQuantity:
        """
        Make an image of the fitted backgrounds of the last map.

        Parameters
        ----------
        out
            See `make_model_image`.

        Returns
        -------
        image : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The image, NaN far from all sources.
        """
        return self._make_image('background', out)

    def make_residual_image(self,
                            out: ArrayLike | None = None) -> ArrayOrQuantity:
        """
        Make an image of the residual of the last map.

        Parameters
        ----------
        out
            See `make_model_image`.

        Returns
        -------
        image : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The map minus the sources, and minus the background where
            it is known.
        """
        return self._make_image('residual', out)

    def total_flux(self, ids: ArrayLike | None = None
                   ) -> tuple[FloatOrQuantity, FloatOrQuantity]:
        """
        Sum the fluxes of sources of the last map.

        Parameters
        ----------
        ids
            See `HyperPhotometry.total_flux`.

        Returns
        -------
        flux, flux_err : float or `~astropy.units.Quantity`
            The sum of ``flux_fit`` and its standard error.
        """
        if self._fluxes is None:
            msg = ('no results: call the object first, or no sources were '
                   'found')
            raise ValueError(msg)
        return total_flux(ids, *self._fluxes)

    def _measure_noise(self, photometry, work, source, init, folder):
        """
        Measure the noise of the whole map.
        """
        path = None if self.folder is None else self.folder / 'noise.npz'
        noise = None if path is None else read_result(path, _CLASSES)
        # Sums over tiles are those of our own fits and filters.
        in_tiles = (max(source.shape) > self.tile_size
                    and isinstance(photometry.fitter, BlendGroupFitter)
                    and isinstance(photometry.finder, HighPassStarFinder))
        if in_tiles:
            source.measure_error()
        if noise is None:
            if in_tiles:
                noise = measure_in_tiles(
                    photometry, source, work, folder,
                    None if init is None else partial(_given_in, init,
                                                      source.shape))
            else:
                data, wcs, mask, error, _ = source.cut(
                    tuple(slice(0, size) for size in source.shape))
                noise = copy(photometry).measure_noise(
                    data, wcs=wcs, mask=mask, error=error)
            if path is not None:
                write_result(path, noise, _CLASSES)
        if not in_tiles:
            source.error = None  # it is part of the noise
        return noise

    def _work(self, executor, what, function, source, *shared,
              tile_size=None):
        """
        Call a function of the slices of each tile; return the results, in
        the order of the tiles, that are not `None`.
        """
        from tqdm.auto import tqdm

        side = min(self.tile_size, tile_size or self.tile_size)
        tiles = self._tiles(source.shape, side)
        # With a folder, the results are in files: what an earlier call has
        # finished is not repeated, and the results of other tiles take no
        # memory while a tile is measured.
        parts, todo = {}, tiles
        paths = self._result_paths(what, source.shape, side)
        trim_memory()  # that of the results of an earlier pass
        if paths:
            todo = [tile for tile, path in paths.items()
                    if read_result(path, _CLASSES) is None]
        with contextlib.ExitStack() as stack:
            pairs = stack.enter_context(contextlib.closing(work_through(
                partial(_on_tile, function, side), todo, source, *shared,
                executor=executor)))
            bar = stack.enter_context(tqdm(
                total=len(tiles), initial=len(tiles) - len(todo), unit='tile',
                desc=what,
                disable=not self.progress_bar))
            for tile, future in pairs:
                error = error_of(future)
                if was_killed(error):
                    msg = (f'the tile at x={tile[1]}, y={tile[0]}: '
                           f'{describe_death(error)}')
                    raise OSError(None, msg)
                if error is not None:
                    raise error
                if paths:
                    write_result(paths[tile], future.result(), _CLASSES)
                else:
                    parts[tile] = future.result()
                bar.update()
        if paths:
            parts = {tile: read_result(path, _CLASSES)
                     for tile, path in paths.items()}
        return [parts[tile] for tile in tiles if parts[tile] is not None]

    def _check_files(self, shape):
        """
        Check the folder and the files of images.
        """
        if self.folder is not None and not self.folder.is_dir():
            msg = f'folder must be an existing folder: {self.folder}'
            raise FileNotFoundError(msg)
        for name, file in self.images.items():
            if file.shape != shape:
                msg = (f'images[{name!r}] must have the shape of data, '
                       f'{shape}, got {file.shape}')
                raise ValueError(msg)

    def _tiles(self, shape, side=None):
        """
        Return the first row and column of each tile.
        """
        side = side or self.tile_size
        return [(y, x) for y in range(0, shape[0], side)
                for x in range(0, shape[1], side)]

    def _result_paths(self, what, shape, side):
        """
        Return the file with the result of each tile, if there is a folder.
        """
        if self.folder is None:
            return {}
        return {(y, x): self.folder / f'{what}_{side}_{y:06}_{x:06}.npz'
                for y, x in self._tiles(shape, side)}

    def _collect(self, parts, source, photometry, init):
        """
        Combine the results of the tiles.
        """
        rms = source.with_unit(photometry.noise.pixel_rms)
        rejected = [part.rejected for part in parts
                    if part.rejected is not None]
        rejected = (vstack(rejected, metadata_conflicts='silent') if rejected
                    else make_empty_table('rejected', wcs=source.wcs))
        rejected = describe_columns(with_plain_units(rejected[np.lexsort(
            (rejected['x_init'], rejected['y_init']))]))
        tables = [part.table for part in parts if part.table is not None
                  and (len(part.table) or (init is not None
                                           and len(init) == 0))]
        self.__dict__.update(
            rms=rms, rejected=rejected, noise=photometry.noise,
            _fluxes=None, _images=_Images(source, photometry))
        if not tables:
            msg = 'No sources were found.'
            warnings.warn(msg, NoDetectionsWarning, stacklevel=3)
            return None
        table = vstack(tables, metadata_conflicts='silent')
        if init is None:
            table = table[np.lexsort((table['x_init'], table['y_init']))]
            table['id'] = np.arange(1, len(table) + 1)
        else:
            table = table[np.argsort(table['_order'], kind='stable')]
        table['group_id'] = _join_groups(table)
        n_flagged = np.count_nonzero(table['flags'] & FLAGS['beam_mismatch'])
        if n_flagged:
            msg = ('bright sources differ from the profile of the fit; '
                   f'{n_flagged} sources have the flag beam_mismatch')
            warnings.warn(msg, AstropyUserWarning, stacklevel=3)
        is_companion = np.asarray(table['_companion'])
        images = QTable({name: table[f'_{name}'] for name in (
            'radius', 'bkg_order', 'has_background')})
        meta = table.meta | result_meta(self)
        table = describe_columns(with_plain_units(table[[
            name for name in table.colnames if not name.startswith('_')]]))
        # those of one tile
        for name in ('n_rejected', 'n_bad_pixels', 'n_detected'):
            meta.pop(name, None)
        table.meta.clear()
        table.meta.update(meta, rms=rms)
        if init is None:
            n_companions = int(np.count_nonzero(is_companion))
            table.meta |= {
                'n_companions': n_companions,
                'n_detected': len(table) - n_companions + int(
                    np.count_nonzero(rejected['search'] == 0)),
                'n_rejected': dict(Counter(map(str, rejected['reason'])))}
        else:
            table.meta.pop('n_companions', None)
        counts = sum((Counter(part.bad_pixels) for part in parts), Counter())
        if counts:
            table.meta['n_bad_pixels'] = dict(counts)
        self.__dict__.update(
            _images=_Images(source, photometry, table.copy(), images),
            _fluxes=(np.asarray(table['id']), table['flux_fit'].copy(),
                     table['flux_err'].copy(), _join_pairs(table, parts)))
        return table

    def _make_image(self, kind, out, tiles=None):
        """
        Make an image tile by tile, of all tiles or of some.
        """
        if self._images is None:
            msg = 'no map has been measured yet: call the object first'
            raise ValueError(msg)
        source = self._images.source
        image = np.empty(source.shape) if out is None else out
        for tile in self._tiles(source.shape) if tiles is None else tiles:
            core = _core(tile, self.tile_size, source.shape)
            image[core] = self._images.make(kind, core)
        return source.with_unit(image) if out is None else out


@dataclass
class _Map:
    """
    A map of which parts are measured.

    The arrays are in memory, or files. Errors are without unit.
    """

    values: object
    unit: object = None
    wcs: object = None
    meta: dict = field(default_factory=dict)
    mask: object = None
    error: object = None
    weight_map: object = None
    # that of errors which belong to the noise of the map
    typical_error: float | None = None

    @classmethod
    def open(cls, data, wcs, mask, error, weight_map):
        """
        Open a map as a call of `HyperPhotometry` does.
        """
        meta = getattr(data, 'meta', None) or {}
        if isinstance(data, NDData) and wcs is None:
            wcs = data.wcs
        if isinstance(wcs, WCS):
            # as processes get it: with numbers of the digits of a header
            make, arguments = wcs.__reduce__()
            wcs = make(*arguments)
        data, mask, error = open_nddata(data, mask, error)
        if isinstance(data, np.ma.MaskedArray):
            hidden = np.ma.getmaskarray(data)
            mask = hidden if mask is None else hidden | np.asarray(mask)
            data = data.data
        unit = getattr(data, 'unit', None)
        values = np.asanyarray(data if unit is None else data.value)
        if np.ndim(values) != 2:
            msg = f'data must be 2D, got the shape {np.shape(values)}'
            raise ValueError(msg)
        for name, image in (('mask', mask), ('error', error),
                            ('weight_map', weight_map)):
            if np.ndim(image) and np.shape(image) != values.shape:
                msg = (f'{name} must have the shape of data, {values.shape}, '
                       f'got {np.shape(image)}')
                raise ValueError(msg)
        # The file of a memmap is read by each process: no copy is sent.
        values = StoredImage.find(values) or values
        if isinstance(mask, np.memmap):
            mask = StoredImage.find(mask) or mask
        return cls(values, unit, wcs, dict(meta), mask, error, weight_map)

    @property
    def shape(self):
        """
        The shape of the map.
        """
        return self.values.shape

    def with_unit(self, values):
        """
        Return values with the unit of the map.
        """
        return values if self.unit is None else values << self.unit

    def stored(self, folder):
        """
        Return the map with its pixels in files.
        """
        def store(image, name):
            if np.ndim(image) != 2 or isinstance(image, StoredImage):
                return image
            unit = getattr(image, 'unit', None)
            plain = np.asanyarray(image if unit is None else image.value)
            stored = StoredImage.store(plain, Path(folder, name))
            return stored if unit is None else _WithUnit(stored, unit)

        return replace(self, **{
            name: store(getattr(self, name), name)
            for name in ('values', 'mask', 'error', 'weight_map')})

    def cut(self, slices):
        """
        Return the arguments ``data``, ``wcs``, ``mask``, ``error``, and
        ``weight_map`` of a call for a part of the map.
        """
        def part(image):
            return image if np.ndim(image) < 2 else image[slices]

        wcs = None if self.wcs is None else self.wcs[slices]
        # Values that are not finite are masked anyway.
        data = NDData(np.asarray(self.values[slices]), unit=self.unit,
                      wcs=wcs, meta=self.meta)
        return data, wcs, part(self.mask), part(self.error), part(
            self.weight_map)

    def read(self, slices):
        """
        Return pixels without unit, NaN where there are no data.
        """
        values = np.array(self.values[slices], dtype=float)
        values[~np.isfinite(values)] = np.nan
        if self.mask is not None:
            values[np.asarray(self.mask[slices], dtype=bool)] = np.nan
        return values

    def measure_error(self):
        """
        Measure the typical error, if errors are given.
        """
        if self.error is None:
            return
        # An even sample, in strips: errors of a large map need not fit into
        # memory.
        every = -(-self.shape[0] * self.shape[1] // MAX_SAMPLE)
        sample = []
        for first in range(0, self.shape[0], _STRIP):
            rows = slice(first, first + _STRIP), slice(None)
            error = np.broadcast_to(self._read_error(rows),
                                    self.values[rows].shape)
            error = error[np.isfinite(self.read(rows))]
            if np.any(error <= 0.0):
                msg = ('error must be positive; use mask for pixels that '
                       'are not to be used')
                raise ValueError(msg)
            sample.append(error[np.isfinite(error)][::every])
        sample = np.concatenate(sample)
        if sample.size == 0:
            msg = 'error has no finite value where data are usable'
            raise ValueError(msg)
        self.typical_error = float(np.median(sample))

    def relative_error(self, slices):
        """
        Return the errors that belong to the noise of the map in units of
        the typical one, infinite where they are unknown; `None` if they
        do not vary.
        """
        if self.typical_error is None or np.ndim(self.error) < 2:
            return None
        # Infinite, not typical, where unknown: such pixels have no weight.
        error = self._read_error(slices) / self.typical_error
        return np.where(np.isfinite(error) & (error > 0.0), error, np.inf)

    def _read_error(self, slices):
        """
        Return the errors without unit.
        """
        error = self.error if np.ndim(self.error) < 2 else self.error[slices]
        return np.asarray(strip_units(
            data=self.with_unit(0.0), error=error)[0]['error'], dtype=float)


@dataclass
class _WithUnit:
    """
    An image in a file, with a unit.
    """

    image: StoredImage
    unit: object

    ndim = 2

    @property
    def shape(self):
        return self.image.shape

    def __getitem__(self, index):
        return self.image[index] << self.unit


@dataclass
class _Part:
    """
    The result of a tile: its own rows, in coordinates of the map.

    ``pairs`` are the positions of sources that were fitted together,
    shape (m, 2, 2), and ``correlation`` is that of their fluxes.
    """

    table: QTable | None = None
    rejected: QTable | None = None
    pairs: np.ndarray = field(default_factory=lambda: np.empty((0, 2, 2)))
    correlation: np.ndarray = field(default_factory=lambda: np.empty(0))
    bad_pixels: dict = field(default_factory=dict)


# The classes of which the files of results of tiles may have objects
_CLASSES = (_Part, MapNoise, DetectionRms, CorrelatedNoise, WhiteNoise,
            GridImage, FactorCache, Misfit, *RESULTS)


@dataclass
class _Images:
    """
    What the images of the last map are made from.
    """

    source: _Map
    photometry: HyperPhotometry
    table: QTable | None = None
    backgrounds: QTable | None = None

    def make(self, kind, core):
        """
        Return an image of a part of the map, without unit.
        """
        slices, inner = widen(core, self.source.shape,
                              OVERLAP * self.photometry.fwhm)
        data, wcs, mask, _, _ = self.source.cut(slices)
        if not has_data(data, mask):
            shape = [one.stop - one.start for one in core]
            return (np.zeros(shape) if kind == 'model'
                    else np.full(shape, np.nan))
        image = MeasuredMap(data, wcs, mask, profile=getattr(
            self.photometry.fitter, 'beam', None))
        if self.photometry.mask_bad_pixels:
            image.mask_bad_pixels(self.photometry.fwhm)
        # Those outside the margin are too far away to matter.
        images = SourceImages(image)
        if self.table is not None:
            near = np.ones(len(self.table), dtype=bool)
            for name, one in zip(('y_fit', 'x_fit'), slices, strict=True):
                position = np.nan_to_num(self.table[name], nan=-np.inf)
                near &= (position > one.start - 1) & (position < one.stop)
            if near.any():
                table = _shifted(self.table[near], slices, -1)
                backgrounds = self.backgrounds[near]
                images = SourceImages(
                    image, table, float(backgrounds['radius'].max()),
                    int(backgrounds['bkg_order'].max()),
                    np.asarray(backgrounds['has_background']))
        return plain(images.draw([kind])[kind])[inner]


def _core(tile, tile_size, shape):
    """
    Return the slices of a tile.
    """
    return tuple(slice(start, min(start + tile_size, size))
                 for start, size in zip(tile, shape, strict=True))


def _on_tile(function, tile_size, tile, source, *shared):
    """
    Call a function of the slices of a tile.
    """
    # More threads than processes would slow down each other.
    with one_blas_thread():
        part = function(_core(tile, tile_size, source.shape), source, *shared)
    # The factors that are kept lie between the images of the tile.
    trim_memory()
    return part


def _measure_tile(core, source, photometry, init, folder, files):
    """
    Measure a tile, with a wider margin if a group comes near the edge, and
    make its part of the images in files.
    """
    if init is not None and len(init) and not files and not _are_inside(
            init['_y'], init['_x'], core, source.shape).any():
        return _Part()
    # A group that is cut at the margin would differ from the same group in
    # the next tile, which keeps its other members.
    kept = [read_kept(folder, kind, core) for kind in ('fits', 'bad')]
    overlap, is_whole = OVERLAP, False
    while not is_whole and overlap <= _MAX_OVERLAP:
        part, is_whole, images = _measure_part(
            core, overlap * photometry.fwhm, source, photometry, init,
            *kept)
        overlap, kept = 2.0 * overlap, (None, None)
    _, inner = widen(core, source.shape, 0.5 * overlap * photometry.fwhm)
    if images is None:
        for kind, file in files.items():
            file[core] = 0.0 if kind == 'model' else np.nan
    else:
        for kind, image in images.draw(files).items():
            files[kind][core] = plain(image)[inner]
    return part


def _measure_part(core, margin, source, photometry, init, first_fits,
                  bad_pixels):
    """
    Measure a tile with a margin; return its result, whether its groups are
    far from the edges of the margin, and its `SourceImages`, `None` if there
    are no data.
    """
    slices, inner = widen(core, source.shape, margin)
    data, wcs, mask, error, weight_map = source.cut(slices)
    if init is None and not has_data(data, mask):
        return _Part(), True, None
    photometry = copy(photometry)
    photometry.noise = photometry.noise.cutout(slices)
    relative = source.relative_error(slices)
    if relative is not None:
        photometry.noise = photometry.noise.with_variation(relative)
    if source.typical_error is not None:
        error = None  # it is part of the noise
    own = None if init is None else _given_in(init, source.shape, slices)
    if own is not None and photometry.aperture_ellipse is not None:
        photometry.aperture_ellipse = tuple(
            np.asarray(value)[own['_order']] if np.ndim(value) else value
            for value in photometry.aperture_ellipse)
    search = open_search(photometry, data, wcs, mask, error, weight_map,
                         bad_pixels=bad_pixels)
    search.first_fits = first_fits
    part = _Part()
    if search.image.bad_pixels is not None:
        part.bad_pixels = BadPixels(search.image.bad_pixels.bits[inner]).counts
    if own is None:
        table = search.detect_and_measure()
        rejected = _shifted(search.rejected_table(), slices, 1)
        part.rejected = rejected[_are_inside(
            rejected['y_init'], rejected['x_init'], core, source.shape)]
    else:
        table = search.measure(own)
    # Of an empty table of given sources each tile has the columns.
    if table is None or (len(table) == 0 and (
            init is None or len(init))):
        return part, True, SourceImages(search.image)
    is_companion = np.arange(len(table)) >= len(table) - table.meta.get(
        'n_companions', 0)
    with warnings.catch_warnings():
        # One warning for all tiles follows.
        warnings.filterwarnings('ignore', 'bright sources differ',
                                AstropyUserWarning)
        results = make_results(photometry, search, table)
    results.table['_companion'] = is_companion
    groups = _keep_own(part, results, own, core, slices, source.shape)
    # An edge of the map cuts no group.
    distance = _EDGE * photometry.fwhm
    return part, not any(
        (one.start > 0 and np.any(groups[name] < one.start + distance))
        or (one.stop < size
            and np.any(groups[name] > one.stop - 1 - distance))
        for name, one, size in zip(('y_fit', 'x_fit'), slices, source.shape,
                                   strict=True)), results.images


def _keep_own(part, results, own, core, slices, shape):
    """
    Store the rows of the sources inside a tile proper in its result;
    return those of their groups.
    """
    covariance, drawn = results.fluxes[3], results.images
    table = _shifted(results.table, slices, 1)
    table['_radius'] = np.full(len(table), drawn.radius)
    table['_bkg_order'] = np.full(len(table), drawn.order)
    table['_has_background'] = drawn.has_background
    # A detected source belongs to the tile of its fit, whose wanderings over
    # a border are the same in both tiles; a given one to that of its start.
    where = table['y_fit'], table['x_fit']
    if own is not None:
        table['_order'] = own['_order']
        where = own['_y'], own['_x']
    # A group is recognized in other tiles by the position of its first
    # source: its number depends on the tile.
    _, member = np.unique(table['group_id'], return_inverse=True)
    order = np.lexsort((table['x_init'], table['y_init']))[::-1]
    first = np.empty(len(table), dtype=int)
    first[member[order]] = order
    for name in 'xy':
        table[f'_{name}_group'] = np.asarray(
            table[f'{name}_init'])[first[member]]
    kept = _are_inside(*where, core, shape)
    together = kept[covariance.pairs].any(axis=1)
    place = np.column_stack((table['x_fit'], table['y_fit']))
    part.pairs = place[covariance.pairs[together]]
    part.correlation = covariance.correlation[together]
    part.table = table[kept]
    return table[np.isin(table['group_id'], part.table['group_id'])]


def _given_in(table, shape, slices):
    """
    Return the given sources of a part of the map, in its pixels.
    """
    return _shifted(table[_are_inside(table['_y'], table['_x'], slices,
                                      shape)], slices, -1)


def _are_inside(y, x, core, shape):
    """
    Return which positions belong to a tile; those off the map belong to
    the nearest one.
    """
    inside = np.ones(len(y), dtype=bool)
    for position, one, size in zip((y, x), core, shape, strict=True):
        pixel = np.floor(np.nan_to_num(np.asarray(position, float)) + 0.5)
        pixel = np.clip(pixel, 0, size - 1)
        inside &= (pixel >= one.start) & (pixel < one.stop)
    return inside


def _shifted(table, slices, sign):
    """
    Return a table with positions in another part of the map.
    """
    table = table.copy()
    for axis, one in zip('yx', slices, strict=True):
        for name in position_columns(table, axis):
            table[name] = table[name] + sign * one.start
    return table


def _join_groups(table):
    """
    Return the number of the group of each source: sources of different
    tiles have the same group if its first member is the same.
    """
    place = np.column_stack((table['_x_group'], table['_y_group']))
    # The first members are the same detection in each tile, but the filter
    # of another margin moves it by rounding errors.
    label = np.arange(len(table))
    known = np.flatnonzero(np.isfinite(place).all(axis=1))
    pairs = known[KDTree(place[known]).query_pairs(
        _SAME, output_type='ndarray')]
    np.minimum.at(label, pairs.max(axis=1), pairs.min(axis=1))
    joined = renumber_groups(label + 1)
    unfitted = np.asarray(table['group_id']) <= 0
    return np.where(unfitted, table['group_id'], joined)


def _join_pairs(table, parts):
    """
    Return the correlations of the fluxes of all sources, of which those
    of a group may be in different tiles.
    """
    place = np.column_stack((table['x_fit'], table['y_fit']))
    known = np.flatnonzero(np.isfinite(place).all(axis=1))
    ends = np.concatenate([part.pairs for part in parts])
    correlation = np.concatenate([part.correlation for part in parts])
    pairs = np.empty((0, 2), dtype=int)
    finite = np.isfinite(ends).all(axis=(1, 2))
    ends, correlation = ends[finite], correlation[finite]
    if len(ends) and len(known):
        # Neighboring tiles have the pairs across their border in common:
        # those of the first tile are kept.
        distance, row = KDTree(place[known]).query(ends)
        found = np.all(distance < _SAME, axis=1)
        pairs, first = np.unique(np.sort(known[row[found]], axis=1), axis=0,
                                 return_index=True)
        correlation = correlation[found][first]
    # Correlations of positions and shapes are not kept: NaN, not zero.
    unknown = np.full((len(table), 3, 3), np.nan)
    return SourceCovariance(np.asarray(table['id']), unknown[:, :2, :2],
                            unknown[:, 0], unknown, pairs, correlation)
