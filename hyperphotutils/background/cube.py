# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Polynomial backgrounds of cubes, channel by channel.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from astropy.table import QTable, Table
from numpy.typing import ArrayLike, NDArray
from photutils.utils.exceptions import NoDetectionsWarning

from hyperphotutils.background.boxes import Frame, prepare_image, whole_map
from hyperphotutils.background.candidates import (
    check_comparison,
    fit_candidates,
    make_candidates,
)
from hyperphotutils.background.local import LocalPolynomialBackground
from hyperphotutils.background.masks import (
    check_region,
    make_region_mask,
    make_source_mask,
    read_ellipses,
)
from hyperphotutils.background.regressors import evaluate_polynomial
from hyperphotutils.utils.checks import (
    check_integer,
    check_part,
    check_positive,
)
from hyperphotutils.utils.executors import one_blas_thread, work_through
from hyperphotutils.utils.tables import make_repr, result_meta

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord
    from regions import Region, Regions

    from hyperphotutils.maps.cubes import MapCube
    from hyperphotutils.utils.typing import (
        ArrayOrQuantity,
        ExecutorLike,
        FilePath,
    )

__all__ = ['ChannelBackground', 'CubeBackground', 'CubeBackgroundResult']

# The smallest boxes: this many pixels for each term of a polynomial, and
# this many beams along a side, because noise is correlated over a beam.
_MIN_PIXELS, _MIN_BEAMS = 5, 3

# Median absolute value of a Gaussian in units of its sigma, the quantile of
# 0.75 (Rousseeuw & Croux 1993, JASA, 88, 1273)
_MEDIAN_TO_SIGMA = 0.67449

# Columns of the table for the polynomial of a channel, with the values
# of a channel that has none.
_CHOICE = {'order': -1, 'method': '', 'epsilon': np.nan, 'box_size': -1,
           'nmse': np.nan, 'reduced_chi2': np.nan, 'bic': np.nan,
           'n_pixels': 0}


class CubeBackground:
    """
    Class to estimate the background of each channel of a cube.

    Use it to subtract the continuum and large-scale structure from
    cubes whose background changes from channel to channel. In each
    channel the sources are masked, and polynomials are fitted to the
    remaining pixels, of the whole plane or in boxes. All methods, orders
    and criteria of `PolynomialBackground2D` can be used. Only a few
    planes are in memory at any time, and the channels, which are
    independent, can be distributed over several processes.

    Parameters
    ----------
    orders : int or sequence of int, optional
        The total degrees of the polynomials to try.

    empty_orders : int or sequence of int, optional
        The total degrees for channels without sources. The default is
        ``orders``.

    methods, criterion, huber_epsilons, tolerance, seed
        See `PolynomialBackground2D`.

    fwhm : float, optional
        The FWHM in pixels of the beam over which the noise is
        correlated; see `PolynomialBackground2D`. The default is the
        beam of each channel, as far as it is known.

    box_sizes : float or sequence of float, optional
        The lengths in pixels of square boxes in which the polynomials
        are fitted; see `LocalPolynomialBackground`. The boxes are
        centered on ``positions``, or cover the plane with a spacing of
        half a box; where they overlap, their polynomials are averaged.
        The default is one polynomial for the whole plane. A box must
        have at least 5 pixels for each term of the polynomials, and be
        at least 3 beams on a side.

    positions : `~astropy.table.Table`, `~astropy.coordinates.SkyCoord`, \
            or array_like, optional
        Positions around which to estimate the background, in any form
        that `read_ellipses` accepts. All voxels outside the boxes around
        them are NaN. It requires ``box_sizes``.

    region : `~regions.Region`, `~regions.Regions`, or 2D bool \
            array_like, optional
        The region in which the background is returned; it is NaN
        elsewhere. The fits still use the whole plane.

    finder : callable, optional
        The finder for the sources to mask. It is called as
        ``finder(plane, mask=mask)`` with the values of a channel without
        unit and returns a table or `None`, as the finders of photutils
        and `~hyperphotutils.detection.HighPassStarFinder` do.

    detect_on : {'channel', 'moment0'} or int, optional
        The image in which sources are detected: each channel, or once for all
        channels, in the mean of all channels (proportional to the
        moment 0) or in the channel with this index.

    n_rounds : int, optional
        The number of detection rounds in each channel. From the second
        round, sources are detected in the background-subtracted plane,
        which helps finders that do not filter the background themselves.

    sources : `~astropy.table.Table`, `~astropy.coordinates.SkyCoord`, \
            or array_like, optional
        Sources to mask, in any form that `read_ellipses` accepts. With a
        column ``channel`` (the index of a channel) they are masked only
        in that channel, otherwise in all channels.

    source_fwhm : float, optional
        The FWHM in pixels of sources whose FWHM is not in the table.
        The default is the beam of the channel.

    mask_factor : float, optional
        The semi-axes of the masked ellipses in units of the FWHM.

    smoothing : float, optional
        The standard deviation, in channels, of the Gaussian with which
        the background is smoothed along the spectral axis. Each
        coefficient of the polynomials is replaced by the value of a
        straight line fitted to the coefficients of the channels around
        it, weighted by the Gaussian and by the inverse variance of the
        channels (their number of pixels divided by the square of their
        rms). Use it where the background changes slowly from channel to
        channel. The default, 0, does not smooth.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.

    ValueError
        If the value of an argument is invalid, or two arguments are
        incompatible.

    See Also
    --------
    PolynomialBackground2D : The background of one map.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.background import CubeBackground
    >>> from hyperphotutils.datasets import make_map_cube
    >>> from hyperphotutils.detection import HighPassStarFinder
    >>> sim = make_map_cube((6, 96, 96), 4, orders=(0, 1, 2), seed=1)
    >>> bkg = CubeBackground(finder=HighPassStarFinder(fwhm=4.0, n_sigma=5.0))
    >>> result = bkg(sim.cube)
    >>> print(result.background.shape, result.background.unit)
    (6, 96, 96) Jy / beam
    >>> error = (result.background - sim.background) / sim.rms
    >>> bool(np.nanstd(error) < 0.2)
    True
    >>> print(result.table.colnames[:5])
    ['channel', 'velocity', 'n_sources', 'order', 'method']
    """

    _repr_params = ('orders', 'empty_orders', 'methods', 'criterion',
                    'huber_epsilons', 'tolerance', 'fwhm', 'box_sizes',
                    'positions', 'region', 'finder', 'detect_on',
                    'n_rounds', 'sources', 'source_fwhm', 'mask_factor',
                    'smoothing', 'seed')

    def __init__(self, *, orders: int | Sequence[int] | np.ndarray = (0, 1, 2),
                 empty_orders: int | Sequence[int] | np.ndarray | None = None,
                 methods: str | Sequence | Any = ('lsq',),
                 criterion: Literal['nmse', 'reduced_chi2', 'bic'] = 'nmse',
                 huber_epsilons: float | Sequence[float]
                     | np.ndarray = (1.1, 1.35, 1.7, 2.0),
                 tolerance: float | None = None, fwhm: float | None = None,
                 box_sizes: float | Sequence[float] | np.ndarray | None = None,
                 positions: Table | SkyCoord | ArrayLike | None = None,
                 region: Region | Regions | ArrayLike | None = None,
                 finder: Callable | None = None,
                 detect_on: Literal['channel', 'moment0'] | int = 'channel',
                 n_rounds: int = 1,
                 sources: Table | SkyCoord | ArrayLike | None = None,
                 source_fwhm: float | None = None, mask_factor: float = 2.0,
                 smoothing: float = 0.0,
                 seed: int | np.random.Generator = 0) -> None:
        self.orders = orders
        self.empty_orders = empty_orders
        self.methods = methods
        self.criterion = criterion
        self.huber_epsilons = huber_epsilons
        self.tolerance = tolerance
        self.fwhm = fwhm
        self.box_sizes = box_sizes
        self.positions = positions
        self.region = region
        self.finder = check_part(finder, 'finder')
        self.detect_on = detect_on
        self.n_rounds = n_rounds
        self.sources = sources
        self.source_fwhm = source_fwhm
        self.mask_factor = check_positive(mask_factor, 'mask_factor')
        self.smoothing = smoothing
        self.seed = seed
        for name in ('region', 'sources', 'positions'):
            value = getattr(self, name)
            if isinstance(value, str | PathLike):
                reader = ('regions.Regions.read' if name == 'region' else
                          'hyperphotutils.catalog.read_catalog or '
                          'read_source_list')
                msg = (f'{name} must not be the name of a file: read '
                       f'{str(value)!r} by {reader}')
                raise TypeError(msg)
        if region is not None:
            check_region(region)
        self._check()

    def __repr__(self) -> str:
        # Tables of sources have a repr of several lines.
        return ' '.join(make_repr(self).split())

    def __call__(self, cube: MapCube, *, output: FilePath | None = None,
                 subtracted: FilePath | None = None, overwrite: bool = False,
                 n_workers: int = 1, executor: ExecutorLike | None = None,
                 progress_bar: bool = False) -> CubeBackgroundResult:
        """
        Estimate the background of a cube.

        Parameters
        ----------
        cube : `~hyperphotutils.maps.MapCube`
            The cube, from `~hyperphotutils.maps.read_cube`.

        output : str or path-like, optional
            The FITS file for the background, with the shape, header,
            unit, and data type of the cube. It is written under a
            temporary name and renamed when it is complete. If `None`
            (default), the background is returned as an array.

        subtracted : str or path-like, optional
            The FITS file for the background-subtracted cube.

        overwrite : bool, optional
            Whether to replace existing files.

        n_workers : int, optional
            The number of processes. With more than one, a script must
            protect its own statements by ``if __name__ == '__main__':``,
            because the worker processes import it.

        executor : `~concurrent.futures.Executor`, optional
            The executor to use instead of ``n_workers`` processes; see
            `~hyperphotutils.utils.work_through`.

        progress_bar : bool, optional
            Whether to show a progress bar.

        Returns
        -------
        result : `CubeBackgroundResult`
            The selected polynomial and the rms of each channel, and the
            background.
        """
        rows = {}
        history = ['background by hyperphotutils']
        self._check_kind(cube)
        self._check_cube(cube)
        with contextlib.ExitStack() as stack:
            writers = [path and stack.enter_context(cube.make_writer(
                path, overwrite=overwrite, history=history))
                for path in (output, subtracted)]
            image = None
            if output is None:
                image = np.empty(cube.shape, dtype=cube.dtype)
            for part in self.iterate(cube, n_workers=n_workers,
                                     executor=executor,
                                     progress_bar=progress_bar):
                plane, background = self.evaluate(cube, part)
                if image is not None:
                    image[part.channel] = background
                if writers[0]:
                    writers[0].write(part.channel, background)
                if writers[1]:
                    writers[1].write(part.channel, plane - background)
                rows[part.channel] = part
        table = self.make_table(cube, rows.values())
        unit = _unit_of(cube)
        if image is not None and unit is not None:
            image = image << unit
        return CubeBackgroundResult(table=table, background=image,
                                    filename=output and str(output))

    def iterate(self, cube: MapCube, *, channels: Iterable[int] | None = None,
                n_workers: int = 1, executor: ExecutorLike | None = None,
                progress_bar: bool = False) -> Iterator[ChannelBackground]:
        """
        Fit the backgrounds of channels and yield them one by one.

        Parameters
        ----------
        cube : `~hyperphotutils.maps.MapCube`
            The cube.

        channels : iterable of int, optional
            The indices of the channels. The default is all channels.

        n_workers, executor, progress_bar
            See `CubeBackground.__call__`.

        Yields
        ------
        part : `ChannelBackground`
            The background of a channel. With several processes the
            channels are yielded in the order in which they finish; with
            ``smoothing``, after the last one is fitted.
        """
        task = self.prepare(cube)
        n_channels = len(cube)
        channels = list(range(n_channels) if channels is None else channels)
        for index in channels:
            if not -n_channels <= index < n_channels:
                msg = (f'channels has {index}, but {cube.name} has '
                       f'{n_channels} channels, 0 to {n_channels - 1}')
                raise ValueError(msg)
        channels = [index % n_channels for index in channels]
        parts = self._fit(task, channels, n_workers, executor, progress_bar)
        if self.smoothing > 0.0:
            parts = self.smooth(parts)
        yield from parts

    def prepare(self, cube: MapCube) -> Callable:
        """
        Prepare the fit of channels: checks, positions, and sources.

        Parameters
        ----------
        cube : `~hyperphotutils.maps.MapCube`
            The cube.

        Returns
        -------
        fit : callable
            A function that returns the `ChannelBackground` of a channel
            index. It can be pickled.
        """
        self._check_kind(cube)
        self._check_cube(cube)
        if self.region is not None:  # fail before the fits
            make_region_mask(self.region, cube.shape[1:], cube.wcs)
        ellipses, channel = None, None
        if self.sources is not None:
            ellipses = read_ellipses(self.sources, wcs=cube.wcs)
            if isinstance(self.sources, Table) and (
                    'channel' in self.sources.colnames):
                channel = np.asarray(self.sources['channel'])
        centers = None
        if self.positions is not None:
            table = read_ellipses(self.positions, wcs=cube.wcs)
            centers = table['x'], table['y']
        elif self.box_sizes is not None:
            # a grid with a spacing of half the smallest box
            sizes = self._sizes()
            x, y = np.meshgrid(*(
                np.linspace(0.0, length - 1.0, max(2, 1 + round(
                    length / max(min(sizes, default=length) / 2.0, 1.0))))
                for length in cube.shape[:0:-1]))
            centers = x.ravel(), y.ravel()
        task = _Task(self, cube, ellipses, channel, centers)
        if self.finder is not None and self.detect_on != 'channel':
            plane = (cube.mean_plane() if self.detect_on == 'moment0'
                     else cube.plane(self.detect_on))
            found = task.detect(plane, ~np.isfinite(plane))
            task = replace(task, found=found)
        return task

    def smooth(self,
               parts: Iterable[ChannelBackground]) -> list[ChannelBackground]:
        """
        Smooth the backgrounds along the spectral axis.

        Parameters
        ----------
        parts : iterable of `ChannelBackground`
            The backgrounds of all channels.

        Returns
        -------
        parts : list of `ChannelBackground`
            The smoothed backgrounds, ordered by channel; see
            ``smoothing``. A channel without a background of its own is
            interpolated from its neighbors.
        """
        # The variance of a coefficient is proportional to rms**2 / n_pixels.
        parts = sorted(parts, key=lambda part: part.channel)
        size = max(len(part.coefficients) for part in parts)
        stack = np.zeros((len(parts), size, size))
        weights = np.zeros(len(parts))
        for i, part in enumerate(parts):
            n = len(part.coefficients)
            if part.found and part.rms > 0.0:
                stack[i, :n, :n] = part.coefficients
                weights[i] = part.choice['n_pixels'] / part.rms**2
        # Coefficients refer to the same coordinates in all channels, and those
        # that a lower order lacks are zero: they can be smoothed one by one.
        channel = np.array([part.channel for part in parts])
        smooth = _local_lines(channel, stack.reshape(len(parts), -1),
                              weights, self.smoothing)
        smooth = smooth.reshape(stack.shape)
        return [replace(part, coefficients=coefficients)
                for part, coefficients in zip(parts, smooth, strict=True)]

    def evaluate(self, cube: MapCube,
                 part: ChannelBackground) -> tuple[np.ndarray, np.ndarray]:
        """
        Return a channel and the image of its background.

        Parameters
        ----------
        cube : `~hyperphotutils.maps.MapCube`
            The cube.

        part : `ChannelBackground`
            The background of the channel.

        Returns
        -------
        plane : 2D `~numpy.ndarray`
            The values of the channel.

        background : 2D `~numpy.ndarray`
            The background, in the unit of the cube; NaN where the
            channel has no value and outside of ``region``.
        """
        plane = cube.plane(part.channel)
        # as in the fit, so that a result does not depend on the machine
        with one_blas_thread():
            background = part.make_image(plane.shape)
        unwanted = ~np.isfinite(plane)
        if self.region is not None:
            unwanted |= ~make_region_mask(self.region, plane.shape, cube.wcs)
        background[unwanted] = np.nan
        return plane, background

    def make_table(self, cube: MapCube,
                   parts: Iterable[ChannelBackground]) -> QTable:
        """
        Return a table of the selected polynomials of the channels.

        Parameters
        ----------
        cube : `~hyperphotutils.maps.MapCube`
            The cube.

        parts : iterable of `ChannelBackground`
            The backgrounds.

        Returns
        -------
        table : `~astropy.table.QTable`
            A row for each channel: ``channel`` (its index),
            ``velocity``, ``frequency`` or ``wavelength``, ``n_sources``
            (masked), ``order``, ``method``, ``epsilon``, ``box_size``
            (0 for the whole plane), ``nmse``, ``reduced_chi2``, ``bic``,
            ``n_pixels`` (used in the comparison), and
            ``background_rms``, the rms of the residual. With boxes, the
            values are the medians over the boxes (``method`` is the most
            frequent one), and the rms is corrected for the noise, white
            or correlated over the beam, that the polynomials fit. The
            order is -1 where there are too few pixels.
        """
        parts = sorted(parts, key=lambda part: part.channel)
        channels = np.array([part.channel for part in parts], dtype=int)
        table = QTable({'channel': channels})
        table[cube.spectral_name] = cube.spectral_axis[channels]
        table['n_sources'] = [part.n_sources for part in parts]
        for name in _CHOICE:
            table[name] = [part.choice[name] for part in parts]
        rms = np.array([part.rms for part in parts])
        unit = _unit_of(cube)
        table['background_rms'] = rms if unit is None else rms << unit
        table.meta.update(result_meta(self))
        table.meta['call'] = repr(self)
        return table

    @staticmethod
    def _check_kind(cube):
        if not (hasattr(cube, 'plane') and hasattr(cube, 'make_writer')):
            msg = ('cube must be a MapCube, as from '
                   'hyperphotutils.maps.read_cube: got '
                   f'{type(cube).__name__}')
            if isinstance(cube, str | PathLike):
                msg += f': use read_cube({str(cube)!r})'
            raise TypeError(msg)

    def _check_cube(self, cube):
        """
        Check the arguments that depend on the cube.
        """
        n_channels = len(cube)
        if isinstance(self.detect_on, int | np.integer) and not (
                -n_channels <= self.detect_on < n_channels):
            msg = (f'detect_on is channel {self.detect_on}, but {cube.name} '
                   f'has {n_channels} channels, 0 to {n_channels - 1}')
            raise ValueError(msg)
        smallest, fwhm = min(self._sizes(), default=np.inf), _beam_fwhm(cube)
        if smallest < _MIN_BEAMS * fwhm:
            msg = (f'box_sizes must be at least {_MIN_BEAMS} beams of '
                   f'{cube.name}, {_MIN_BEAMS * fwhm:.3g} pixels, to '
                   'separate the background from noise: got '
                   f'{smallest:g}')
            raise ValueError(msg)

    def _check(self):
        """
        Check the arguments that do not depend on the cube.
        """
        for orders in (self.orders, self._orders(0)):
            make_candidates(orders=orders, methods=self.methods,
                            huber_epsilons=self.huber_epsilons)
        check_comparison(self.criterion, self.tolerance)
        if self.box_sizes is not None:
            self._local(1)
            order = max(np.max(self.orders), np.max(self._orders(0)))
            n_terms = (order + 1) * (order + 2) // 2
            smallest = 2 * (min(self._sizes(), default=np.inf) // 2) + 1
            limit = 2 * int(np.ceil(np.sqrt(_MIN_PIXELS * n_terms)) // 2) + 1
            if smallest < limit:
                msg = (f'box_sizes must be at least {limit} pixels for '
                       f'polynomials of order {order}, which have {n_terms} '
                       f'terms: got {smallest:g}')
                raise ValueError(msg)
        elif self.positions is not None:
            msg = 'positions requires box_sizes, the sizes of the boxes'
            raise ValueError(msg)
        for name in ('fwhm', 'source_fwhm'):
            if getattr(self, name) is not None:
                check_positive(getattr(self, name), name)
        if not (isinstance(self.detect_on, int | np.integer)
                or self.detect_on in {'channel', 'moment0'}):
            msg = ("detect_on must be 'channel', 'moment0', or the index of "
                   f'a channel: got {self.detect_on!r}')
            raise ValueError(msg)
        check_integer(self.n_rounds, 'n_rounds')
        if not 0.0 <= self.smoothing < np.inf:
            msg = f'smoothing must not be negative: got {self.smoothing}'
            raise ValueError(msg)
        if self.smoothing > 0.0 and self.box_sizes is not None:
            msg = ('smoothing applies to polynomials of whole planes: it '
                   'cannot be combined with box_sizes')
            raise ValueError(msg)

    def _sizes(self):
        """
        Return the sizes of the boxes other than 0, the whole plane.
        """
        sizes = () if self.box_sizes is None else self.box_sizes
        return [size for size in np.atleast_1d(sizes) if size > 0]

    def _orders(self, n_sources):
        if n_sources == 0 and self.empty_orders is not None:
            return self.empty_orders
        return self.orders

    def _local(self, n_sources, fwhm=None):
        """
        Return the estimator for the fits in boxes.
        """
        return LocalPolynomialBackground(
            self.box_sizes, orders=self._orders(n_sources),
            methods=self.methods, criterion=self.criterion,
            huber_epsilons=self.huber_epsilons, tolerance=self.tolerance,
            fwhm=fwhm, seed=self.seed)

    def _fit(self, task, channels, n_workers, executor, progress_bar):
        """
        Fit channels in this process or in worker processes.
        """
        done = work_through(_fit_channel, channels, task, executor=executor,
                            n_workers=min(n_workers, max(len(channels), 1)))
        if progress_bar:
            from tqdm.auto import tqdm

            done = tqdm(done, total=len(channels), desc='channels')
        with contextlib.closing(done):
            for _, future in done:
                yield future.result()


@dataclass(frozen=True, eq=False)
class ChannelBackground:
    """
    The background of a channel, as yielded by `CubeBackground.iterate`.

    Parameters
    ----------
    channel : int
        The index of the channel.

    n_sources : int
        The number of masked sources.

    rms : float
        The rms of the residual; NaN if there is no background.

    choice : dict
        The selected polynomial and its scores: columns of the table of
        `CubeBackground.make_table`.

    coefficients : 2D `~numpy.ndarray`
        The coefficients of the polynomial in coordinates that run from
        -1 to 1 between the edges of the plane, see
        `evaluate_polynomial`; NaN if there is no background.

    image : 2D `~numpy.ndarray` or `None`
        The background, if it was fitted in boxes, otherwise `None`.
    """

    channel: int
    n_sources: int
    rms: float
    choice: dict
    coefficients: np.ndarray = field(repr=False)
    image: np.ndarray | None = field(default=None, repr=False)

    @property
    def found(self) -> bool:
        """
        Whether there is a background.
        """
        return self.choice['order'] >= 0

    def to_dict(self) -> dict:
        """
        Return the background, without an image, as JSON-compatible values.

        Returns
        -------
        values : dict
            The values; see `from_dict`.
        """
        return {'channel': self.channel, 'n_sources': self.n_sources,
                'rms': self.rms, 'choice': self.choice,
                'coefficients': self.coefficients.tolist()}

    @classmethod
    def from_dict(cls, values: dict) -> ChannelBackground:
        """
        Create the background from the result of `to_dict`.

        Parameters
        ----------
        values : dict
            The values.

        Returns
        -------
        part : `ChannelBackground`
            The background, without an image.
        """
        coefficients = np.array(values['coefficients'], dtype=float)
        return cls(**{**values, 'coefficients': coefficients})

    def make_image(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """
        Return the image of the background in the whole plane.

        Parameters
        ----------
        shape : tuple of int
            The shape ``(ny, nx)`` of the plane.

        Returns
        -------
        image : 2D `~numpy.ndarray` of float64
            The background; NaN where there is none.
        """
        if self.image is not None:
            return self.image.astype(float)
        return evaluate_polynomial(self.coefficients,
                                   *Frame.of_map(shape).grid)


@dataclass(frozen=True, eq=False)
class CubeBackgroundResult:
    """
    The background of a cube, as returned by `CubeBackground`.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        The selected polynomial of each channel; see
        `CubeBackground.make_table`.

    background : 3D `~numpy.ndarray`, `~astropy.units.Quantity`, or `None`
        The background, or `None` if it was written to a file.

    filename : str or `None`
        The name of that file, or `None`.
    """

    table: QTable
    background: ArrayOrQuantity | None = field(repr=False)
    filename: str | None

    @property
    def background_rms(self) -> ArrayOrQuantity:
        """
        The rms of the residual of each channel.
        """
        return self.table['background_rms']


@dataclass(frozen=True, eq=False)
class _Task:
    """
    The inputs that are needed to fit any channel of a cube.
    """

    settings: CubeBackground
    cube: object
    ellipses: QTable | None
    channel: np.ndarray | None
    centers: tuple | None
    found: QTable | None = None

    def __call__(self, index):
        """
        Fit the background of a channel.
        """
        with one_blas_thread():
            return self._fit(index)

    def _fit(self, index):
        """
        Detect, mask, and fit, ``n_rounds`` times.
        """
        plane = self.cube.plane(index)
        bad = ~np.isfinite(plane)
        if bad.all():
            return self._fit_plane(index, plane, bad, bad, 0)
        # the given sources of a channel and those detected once
        known = []
        if self.ellipses is not None:
            here = slice(None) if self.channel is None else (
                self.channel == index)
            known.append(self.ellipses[here])
        if self.found is not None:
            known.append(self.found)
        search = self.settings.finder is not None and self.found is None
        part, values = None, plane
        for _ in range(self.settings.n_rounds if search else 1):
            ellipses = known
            if search:
                if part is not None and part.found:
                    values = plane - part.make_image(plane.shape)
                ellipses = [*known, self.detect(values, bad)]
            n_sources = sum(len(table) for table in ellipses)
            mask = self._mask(ellipses, plane.shape, index)
            part = self._fit_plane(index, plane, bad, mask, n_sources)
        return part

    def detect(self, plane, bad):
        """
        Find sources in an image.
        """
        with warnings.catch_warnings():
            # A channel without sources is normal.
            warnings.simplefilter('ignore', NoDetectionsWarning)
            found = self.settings.finder(plane, mask=bad)
        return read_ellipses(np.empty((0, 2)) if found is None else found)

    def _mask(self, tables, shape, index):
        mask = np.zeros(shape, dtype=bool)
        for table in tables:
            major, minor = table['fwhm_major'], table['fwhm_minor']
            if np.any(np.isnan(major)):
                fwhm = self.settings.source_fwhm
                hint = 'give source_fwhm, the FWHM of the sources in pixels'
                if fwhm is None:
                    try:
                        fwhm = self.cube.beam_fwhm_pix[index]
                    except ValueError as error:
                        msg = f'{error}; or {hint}'
                        raise ValueError(msg) from None
                if np.isnan(fwhm):
                    msg = f'channel {index} has no beam: {hint}'
                    raise ValueError(msg)
                major = np.where(np.isnan(major), fwhm, major)
                minor = np.where(np.isnan(minor), fwhm, minor)
            mask |= make_source_mask(shape, table['x'], table['y'], major,
                                     minor, table['theta'],
                                     factor=self.settings.mask_factor)
        return mask

    def _noise_fwhm(self, index):
        """
        Return the FWHM of the beam of a channel, None if not known.
        """
        if self.settings.fwhm is not None:
            return self.settings.fwhm
        try:
            fwhm = self.cube.beam_fwhm_pix[index]
        except ValueError:
            return None
        return float(fwhm) if fwhm > 0.0 else None

    def _fit_plane(self, index, plane, bad, mask, n_sources):
        part = ChannelBackground(
            channel=index, n_sources=n_sources, rms=np.nan,
            choice=dict(_CHOICE), coefficients=np.full((1, 1), np.nan))
        if (bad | mask).all():
            return part
        if self.centers is not None:
            return self._fit_boxes(part, plane, bad, mask)
        settings = self.settings
        candidates = make_candidates(
            orders=settings._orders(n_sources),  # noqa: SLF001
            methods=settings.methods, huber_epsilons=settings.huber_epsilons)
        values, weights, _ = prepare_image(plane, mask=mask)
        fitted = fit_candidates(
            [whole_map(values, weights)], candidates,
            criterion=settings.criterion, tolerance=settings.tolerance,
            seed=settings.seed, fwhm=self._noise_fwhm(index))
        best = int(fitted.selected[0])
        if best < 0:
            return part
        choice = {
            'order': candidates[best].order,
            'method': candidates[best].method_name,
            'epsilon': candidates[best].epsilon, 'box_size': 0,
            'n_pixels': int(fitted.n_pixels[0]),
            **{name: float(getattr(fitted, name)[best, 0])
               for name in ('nmse', 'reduced_chi2', 'bic')}}
        return replace(part, rms=float(fitted.rms[best, 0]), choice=choice,
                       coefficients=fitted.coefficients_of(best, 0))

    def _fit_boxes(self, part, plane, bad, mask):
        local = self.settings._local(  # noqa: SLF001
            part.n_sources, self._noise_fwhm(part.channel))
        fits = local.fit(plane, *self.centers, mask=bad, source_mask=mask)
        image = fits.make_mosaic().astype(self.cube.dtype)
        table = fits.table[fits.table['bkg_order'] >= 0]
        if len(table) == 0:
            return replace(part, image=image)
        methods, count = np.unique(table['bkg_method'], return_counts=True)
        choice = {
            'order': int(np.median(table['bkg_order'])),
            'method': str(methods[np.argmax(count)]),
            'epsilon': _median(table['bkg_epsilon']),
            'box_size': int(np.median(table['bkg_size'])),
            'n_pixels': int(np.median(table['n_pixels'])),
            **{name: _median(table[name])
               for name in ('nmse', 'reduced_chi2', 'bic')}}
        rms = self._box_rms(plane - image, ~mask, choice,
                            _median(table['bkg_rms']))
        return replace(part, rms=rms, choice=choice, image=image)

    def _box_rms(self, residual, good, choice, rms):
        """
        Correct the rms in boxes for the noise that the polynomials fit.

        Polynomials fit more of noise that is correlated over the beam
        than of white noise. The share of correlated noise is estimated
        from the differences of adjacent pixels, which the polynomials
        hardly change.
        """
        fwhm, side = _beam_fwhm(self.cube), choice['box_size']
        if fwhm == 0.0 or side == 0 or not rms > 0.0:
            return rms
        residual = np.where(good, residual, np.nan)
        steps = np.concatenate([np.diff(residual, axis=axis).ravel()
                                for axis in (0, 1)])
        steps = steps[np.isfinite(steps)]
        if steps.size == 0:
            return rms
        # Half the variance of the differences (von Neumann 1941, Annals of
        # Mathematical Statistics, 12, 367), from their median because of
        # sources that are not masked.
        step = 0.5 * (np.median(np.abs(steps)) / _MEDIAN_TO_SIGMA)**2
        left, near = _left_of_noise(side, choice['order'], fwhm)
        # Two equations for two variances: rms**2 = white + left * smooth, and
        # step = white + near * smooth
        smooth = max((rms**2 - step) / (left - near), 0.0)
        white = rms**2 - left * smooth
        # the noise is smoother than the beam, or the median is uncertain
        if white < 0.0:
            white, smooth = 0.0, rms**2 / left
        return float(np.sqrt(white + smooth))


def _fit_channel(index, task):
    """
    Fit a channel; a module-level function that can be pickled.
    """
    return task(index)


@functools.cache
def _left_of_noise(side, order, fwhm):
    """
    Return two variance ratios of noise that is correlated over the beam.

    The first is the fraction of its variance that remains after a fit in
    a box, relative to that of white noise. The second is half the
    variance of the differences of adjacent pixels over its variance.
    """
    n_pixels = side**2
    position = np.linspace(-1.0, 1.0, side)
    powers = [position**i for i in range(order + 1)]
    terms = np.array([np.outer(powers[j], powers[i]).ravel()
                      for i in range(order + 1)
                      for j in range(order + 1 - i)])
    # The fit takes the projection of the noise on the polynomials: the trace
    # of Q^T C Q with orthonormal columns Q, and n_terms if C is white.
    basis = np.linalg.qr(terms.T)[0].T.reshape(-1, side, side)
    # The autocovariance of white noise seen through a beam is the beam
    # convolved with itself, rho(d) = 2**(-2 d**2 / fwhm**2), as in
    # correlation_area. It is separable and can be applied along each axis.
    distance = np.arange(side) - np.arange(side)[:, np.newaxis]
    covariance = 0.5**(2.0 * distance**2 / fwhm**2)
    taken = np.sum(basis * (covariance @ basis @ covariance))
    left = (n_pixels - taken) / (n_pixels - len(basis))
    return left, 1.0 - 0.5**(2.0 / fwhm**2)


def _local_lines(x, y, weights, width):
    """
    Smooth the columns of y by local linear regression.

    The result at each x is the value of a straight line fitted with
    Gaussian weights centered there.
    """
    # A line, not a mean, which is biased at the first and last channels and
    # beside channels without weight (Fan 1992, JASA, 87, 998).
    distance = x - x[:, np.newaxis]
    weights = weights * np.exp(-0.5 * (distance / width)**2)
    moments = [(weights * distance**k).sum(axis=1) for k in range(3)]
    sums = [(weights * distance**k) @ y for k in range(2)]
    determinant = moments[0] * moments[2] - moments[1]**2
    # A single point does not determine a line.
    lonely = determinant <= 1.0e-9 * (moments[0] * width)**2
    with np.errstate(invalid='ignore', divide='ignore'):
        mean = sums[0] / moments[0][:, np.newaxis]
        line = (moments[2][:, np.newaxis] * sums[0]
                - moments[1][:, np.newaxis] * sums[1]
                ) / determinant[:, np.newaxis]
    return np.where(lonely[:, np.newaxis], mean, line)


def _median(values):
    """
    Return the median of the finite values; NaN if there are none.
    """
    values = np.asarray(values)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size > 0 else np.nan


def _beam_fwhm(cube):
    """
    Return the median FWHM of the beams in pixels; 0 if it is unknown.
    """
    try:
        return float(np.nanmedian(cube.beam_fwhm_pix))
    except ValueError:
        return 0.0


def _unit_of(cube):
    """
    Return the unit of a cube, or `None` if it is unknown.
    """
    try:
        return cube.unit
    except ValueError:
        return None
