# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Stamps: small images of sources with errors, masks, and segments.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import astropy.units as u
import numpy as np
from astropy.nddata import extract_array
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs.utils import proj_plane_pixel_scales
from numpy.typing import ArrayLike, NDArray
from photutils.psf import GriddedPSFModel, ImagePSF
from photutils.segmentation import SegmentationImage

from hyperphotutils.detection.moments import cut_out
from hyperphotutils.utils import (
    as_masked_image,
    open_nddata,
    result_meta,
    strip_units,
)
from hyperphotutils.utils.checks import check_plane
from hyperphotutils.utils.wcs import position_table, table_positions

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord
    from astropy.table import Table
    from astropy.wcs import WCS

    from hyperphotutils.utils.typing import FilePath, ImageLike

__all__ = ['Stamps', 'make_stamps']

# Columns that may contain the positions, in the order of preference.
_PIXEL_COLUMNS = (('x_fit', 'y_fit'), ('x_centroid', 'y_centroid'),
                  ('x_init', 'y_init'), ('x', 'y'), ('X_IMAGE', 'Y_IMAGE'))

# Largest distance (pixels) to a brighter pixel to which a position moves.
_RECENTER_RADIUS = 3


@dataclass(frozen=True, eq=False)
class Stamps:
    """
    Stamps of sources from one image.

    It is made by `make_stamps`, or read by `read_stamps`. Its length is
    the number of sources, and an index or a slice gives a part of it.

    Parameters
    ----------
    data : 3D `~numpy.ndarray`
        The images, shape ``(n, size, size)``; NaN off the image.

    error : 3D `~numpy.ndarray` or `None`
        The standard deviations.

    mask : 3D bool `~numpy.ndarray`
        `True` for pixels that are bad or off the image. Neighbors are
        not masked: see ``segmentation``.

    segmentation : 3D int `~numpy.ndarray` or `None`
        The labels of the segments, 0 for sky.

    table : `~astropy.table.QTable`
        One row a stamp: ``id``, ``name``, ``x`` and ``y`` (the position
        in the image in pixels), ``x0`` and ``y0`` (the pixel of the
        image that is the first of the stamp), ``label`` (that of its
        segment, 0 without), ``ra`` and ``dec`` (with a WCS), and the
        other columns of the catalog.

    psf : 2D or 3D `~numpy.ndarray` or `None`
        The PSF, one for all or one for each stamp.

    wcs : `~astropy.wcs.WCS` or `None`
        The coordinates of the image.

    meta : dict
        The metadata of the image: ``unit``, and those given to
        `make_stamps`.

    rejected : `~astropy.table.QTable` or `None`
        The rows of the catalog without a stamp, with the column
        ``reason``.
    """

    data: np.ndarray
    error: np.ndarray | None
    mask: np.ndarray
    segmentation: np.ndarray | None
    table: QTable
    psf: np.ndarray | None = None
    wcs: WCS | None = None
    meta: dict = field(default_factory=dict)
    rejected: QTable | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        parts = [name for name in ('error', 'segmentation', 'psf', 'wcs')
                 if getattr(self, name) is not None]
        return (f'<Stamps(n={len(self)}, size={self.size}, with '
                f'{", ".join(["data", "mask", *parts])})>')

    def __getitem__(self, index: int | slice | ArrayLike) -> Stamps:
        """
        Return some of the stamps.
        """
        if isinstance(index, int | np.integer):
            if not -len(self) <= index < len(self):
                msg = f'index {index} is out of range: {len(self)} stamps'
                raise IndexError(msg)
            index = [index]
        parts = {name: None if value is None else value[index]
                 for name, value in (
                     ('data', self.data), ('error', self.error),
                     ('mask', self.mask), ('table', self.table),
                     ('segmentation', self.segmentation))}
        psf = self.psf
        if psf is not None and psf.ndim == 3:
            psf = psf[index]
        return Stamps(**parts, psf=psf, wcs=self.wcs, meta=self.meta,
                      rejected=self.rejected)

    @property
    def size(self) -> int:
        """
        The side of the stamps in pixels.
        """
        return self.data.shape[-1]

    @property
    def unit(self) -> u.UnitBase | None:
        """
        The unit of data and errors, `None` without one.
        """
        unit = self.meta.get('unit')
        return None if unit is None else u.Unit(unit)

    @property
    def positions(self) -> np.ndarray:
        """
        The positions of the sources in their stamps, shape ``(n, 2)``,
        x first.
        """
        return np.stack([
            np.asarray(self.table['x'] - self.table['x0'], dtype=float),
            np.asarray(self.table['y'] - self.table['y0'], dtype=float)],
            axis=1)

    def neighbors(self) -> NDArray[np.bool_]:
        """
        Return where the segments of other sources are.

        Returns
        -------
        neighbors : 3D bool `~numpy.ndarray`
            `True` in the segments of others; all `False` without
            segments.
        """
        if self.segmentation is None:
            return np.zeros(self.data.shape, dtype=bool)
        label = np.asarray(self.table['label'])[:, None, None]
        return (self.segmentation > 0) & (self.segmentation != label)

    def stamp_psf(self, number: int) -> np.ndarray | None:
        """
        Return the PSF of one stamp, or `None`.

        Parameters
        ----------
        number : int
            The number of the stamp, from 0.

        Returns
        -------
        psf : 2D `~numpy.ndarray` or `None`
            The PSF.
        """
        if self.psf is None or self.psf.ndim == 2:
            return self.psf
        return self.psf[number]

    def stamp_wcs(self, number: int) -> WCS | None:
        """
        Return the coordinates of one stamp, or `None`.

        Parameters
        ----------
        number : int
            The number of the stamp, from 0.

        Returns
        -------
        wcs : `~astropy.wcs.WCS` or `None`
            The coordinates.
        """
        if self.wcs is None:
            return None
        row = self.table[number]
        wcs = self.wcs.deepcopy()
        wcs.wcs.crpix -= [float(row['x0']), float(row['y0'])]
        if wcs.sip is not None:
            wcs.sip.crpix[:] -= [float(row['x0']), float(row['y0'])]
        wcs.pixel_shape = (self.size, self.size)
        return wcs

    def write(self, path: FilePath, *,
              format: Literal['hdf5', 'dre', 'fits'] | None = None,  # noqa: A002
              compression: Literal['none', 'low', 'medium', 'high'] = 'medium',
              overwrite: bool = False) -> None:
        """
        Write all stamps to one file.

        Parameters
        ----------
        path : str or `~pathlib.Path`
            The name of the file.

        format : {'hdf5', 'dre', 'fits'} or `None`, optional
            ``'hdf5'``: a group for each source with ``data``,
            ``error``, ``mask``, and ``segmentation``. ``'dre'``: HDF5
            with the names of DRE, ``obj``, ``rms``, and ``seg``.
            ``'fits'``: one image extension with all stamps for each of
            them, and a table. With `None`, it follows from the suffix:
            ``.h5`` and ``.hdf5``, or ``.fits``.

        compression : {'none', 'low', 'medium', 'high'}, optional
            The compression of HDF5: none, lzf, gzip 4, or gzip 9.

        overwrite : bool, optional
            Whether an existing file may be replaced.

        See Also
        --------
        read_stamps, write_galfit, write_galfits

        Notes
        -----
        The file appears only when it is complete. HDF5 needs h5py, which
        comes with ``hyperphotutils[galaxies]``.
        """
        from hyperphotutils.stamps.writers import write_fits, write_hdf5

        if format is None:
            suffix = Path(path).suffix.lower()
            format = {'.h5': 'hdf5', '.hdf5': 'hdf5', '.fits': 'fits',  # noqa: A001
                      '.fit': 'fits'}.get(suffix)
        if format not in {'hdf5', 'dre', 'fits'}:
            msg = ("format must be 'hdf5', 'dre', or 'fits' if it does not "
                   f"follow from the suffix of '{path}': got {format!r}")
            raise ValueError(msg)
        if format == 'fits':
            write_fits(self, path, overwrite=overwrite)
        else:
            write_hdf5(self, path, compression=compression,
                       overwrite=overwrite, names=format)


def make_stamps(data: ImageLike, catalog: Table | SkyCoord | ArrayLike, *,
                size: int | u.Quantity = 128,
                error: ArrayLike | u.Quantity | None = None,
                mask: ArrayLike | None = None,
                segmentation: ArrayLike | SegmentationImage | None = None,
                psf: ArrayLike | ImagePSF | GriddedPSFModel | Callable
                    | None = None, wcs: WCS | None = None, margin: float = 0.0,
                keep: Sequence[tuple] = (),
                recenter: Literal['peak'] | None = None,
                offset: tuple[float, float] = (0.0, 0.0), extension: int = 0,
                meta: dict | None = None) -> Stamps:
    """
    Cut stamps of sources out of an image.

    Parameters
    ----------
    data : 2D array_like, `~astropy.units.Quantity`, or \
            `~astropy.nddata.NDData`
        The image, without sky.

    catalog : `~astropy.table.Table`, `~astropy.coordinates.SkyCoord`, \
or array_like
        The sources: a table with ``x_fit`` and ``y_fit``,
        ``x_centroid`` and ``y_centroid``, ``x_init`` and ``y_init``,
        ``x`` and ``y``, or ``X_IMAGE`` and ``Y_IMAGE`` (of SExtractor,
        which counts from 1), or with ``sky_centroid``, or ``ra`` and
        ``dec`` (degrees); positions on the sky; or pixels of the shape
        ``(n, 2)``.

    size : int or `~astropy.units.Quantity`, optional
        The side of the stamps in pixels, or as an angle.

    error : 2D array_like or `~astropy.units.Quantity`, optional
        The standard deviations.

    mask : 2D bool array_like, optional
        `True` for bad pixels.

    segmentation : 2D int array_like or \
`~photutils.segmentation.SegmentationImage`, optional
        The segments of the sources.

    psf : callable, array_like, `~photutils.psf.ImagePSF`, or \
            `~photutils.psf.GriddedPSFModel`, optional
        The PSF: an image of odd size, a model of photutils, or an
        object that returns images when it is called with the positions
        x and y. One is kept for all stamps if it does not vary.

    wcs : `~astropy.wcs.WCS`, optional
        The coordinates of the image. The default is that of an
        `~astropy.nddata.NDData`.

    margin : float, optional
        Sources closer to the edge of the image have no stamp (pixels).

    keep : sequence of tuple, optional
        Conditions ``(column, lower, upper)`` on columns of the catalog
        (both limits belong to the range); other sources have no stamp.

    recenter : {'peak'} or `None`, optional
        With ``'peak'``, the stamp is centered on the brightest pixel
        within 3 pixels, which becomes the position.

    offset : tuple of 2 floats, optional
        The offset added to the positions, in pixels (x, y).

    extension : int, optional
        The number of the image's extension, the first part of the
        names ``EE_NNNN``.

    meta : dict, optional
        Metadata to be stored in files: ``image``, ``zero_point``,
        ``gain``, ``exposure``, ...

    Returns
    -------
    stamps : `Stamps`
        The stamps, in the order of the catalog.

    Raises
    ------
    ValueError
        If an argument does not fit, or no source has a stamp.

    Warns
    -----
    ~astropy.utils.exceptions.AstropyUserWarning
        If some sources have no stamp; they are in ``rejected``.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_star_field
    >>> from hyperphotutils.stamps import make_stamps
    >>> field = make_star_field((200, 200), 5, seed=1)
    >>> stamps = make_stamps(field.data, field.truth, size=32,
    ...                      error=field.error)
    >>> stamps
    <Stamps(n=5, size=32, with data, mask, error)>
    >>> print(stamps.positions[0].round(2), stamps.table['name'][0])
    [15.57 16.08] 00_0001
    """
    wcs = getattr(data, 'wcs', None) if wcs is None else wcs
    data, mask, error = open_nddata(data, mask, error)
    arrays, unit = strip_units(data=data, error=error)
    values, bad = as_masked_image(arrays['data'], mask)
    error = check_plane(arrays['error'], values.shape, 'error')
    error = None if error is None else error.astype(np.float32)
    segmentation = check_plane(
        segmentation.data if isinstance(segmentation, SegmentationImage)
        else segmentation, values.shape, 'segmentation')
    if isinstance(size, u.Quantity) and size.unit != u.pix:
        if wcs is None:
            msg = f'wcs must be given with size as an angle ({size})'
            raise ValueError(msg)
        size = np.ceil(size.to_value(u.deg) / np.sqrt(np.prod(
            proj_plane_pixel_scales(wcs.celestial))))
    size = getattr(size, 'value', size)
    if int(size) != size or size < 1:
        msg = f'size must be a positive whole number of pixels: got {size}'
        raise ValueError(msg)
    size = int(size)
    if recenter not in {None, 'peak'}:
        msg = f"recenter must be 'peak' or None: got {recenter!r}"
        raise ValueError(msg)
    table = _read_catalog(catalog, wcs, offset, None if recenter is None else
                          np.where(bad, -np.inf, values))
    reason = _find_reasons(table, values.shape, margin, keep)
    has_stamp = reason == ''
    table, rejected = table[has_stamp], table[~has_stamp]
    rejected['reason'] = reason[~has_stamp]
    if len(table) == 0:
        reasons = ', '.join(sorted(set(reason))) or 'empty'
        msg = f'no source of the catalog has a stamp ({reasons})'
        raise ValueError(msg)
    if len(rejected):
        msg = (f'{len(rejected)} of {len(reason)} sources have no stamp: see '
               "'rejected'")
        warnings.warn(msg, AstropyUserWarning, stacklevel=2)
    _add_columns(table, size, extension, segmentation, wcs)
    centers = np.stack([table['y0'], table['x0']], axis=1) + 0.5 * size

    def cut(image, fill, dtype):
        return None if image is None else np.stack([
            extract_array(image, (size, size), center, fill_value=fill)
            for center in centers]).astype(dtype)

    meta = (meta or {}) | result_meta() | (
        {} if unit is None else {'unit': unit.to_string()})
    return Stamps(
        data=cut(values, np.nan, np.float32),
        error=cut(error, np.nan, np.float32),
        mask=cut(bad, True, bool),  # noqa: FBT003
        segmentation=cut(segmentation, 0, np.int32), table=table,
        psf=_psf_images(psf, table), wcs=wcs, meta=meta,
        rejected=rejected if len(rejected) else None)


def _read_catalog(catalog, wcs, offset, image):
    """
    Return a table with the columns id, x, and y first; with an image,
    positions move to the brightest pixel near them.
    """
    catalog = position_table(catalog, 'catalog')
    x, y = table_positions(catalog, _PIXEL_COLUMNS, wcs, 'catalog')
    x, y = x + offset[0], y + offset[1]
    if image is not None:
        ny, nx = image.shape
        on_image = ((x > -0.5) & (y > -0.5) & (x < nx - 0.5)
                    & (y < ny - 0.5))
        column, row = np.rint([x[on_image], y[on_image]]).astype(int)
        side = 2 * _RECENTER_RADIUS + 1
        peak = cut_out(image, column, row, _RECENTER_RADIUS, fill=-np.inf
                       ).reshape(-1, side**2).argmax(axis=1)
        x[on_image] = column + peak % side - _RECENTER_RADIUS
        y[on_image] = row + peak // side - _RECENTER_RADIUS
    ids = next((catalog[name] for name in ('id', 'label', 'NUMBER')
                if name in catalog.colnames),
               np.arange(1, len(catalog) + 1))
    table = QTable({'id': np.asarray(ids), 'x': x, 'y': y})
    for name in catalog.colnames:
        column = catalog[name]
        # images of a source, as SExtractor's VIGNET, are in the stamps
        if name in table.colnames or np.ndim(column) != 1:
            continue
        # a SourceCatalog without a WCS has columns of None
        if getattr(column, 'dtype', None) == np.dtype(object) and all(
                value is None for value in column):
            continue
        table[name] = column
    return table


def _find_reasons(table, shape, margin, keep):
    """
    Return why a source has no stamp; empty if it has one.
    """
    x, y = np.asarray(table['x']), np.asarray(table['y'])
    ny, nx = shape
    with np.errstate(invalid='ignore'):
        inside = ((x > -0.5 + margin) & (x < nx - 0.5 - margin)
                  & (y > -0.5 + margin) & (y < ny - 0.5 - margin))
    reason = np.where(inside, '', 'near the edge' if margin else
                      'off the image').astype(object)
    reason[~(np.isfinite(x) & np.isfinite(y))] = 'no position'
    for name, lower, upper in keep:
        if name not in table.colnames:
            msg = (f'keep names {name!r}, which the catalog does not have: '
                   f'{", ".join(table.colnames)}')
            raise ValueError(msg)
        column = np.asarray(getattr(table[name], 'value', table[name]))
        with np.errstate(invalid='ignore'):
            outside = ~((column >= lower) & (column <= upper))
        reason[outside & (reason == '')] = (
            f'{name} is not from {lower} to {upper}')
    return reason.astype(str)


def _add_columns(table, size, extension, segmentation, wcs):
    """
    Add name, corner, label, and sky position.
    """
    for axis in ('x', 'y'):
        table[f'{axis}0'] = np.rint(np.asarray(table[axis])).astype(
            int) - size // 2
    table['name'] = [f'{extension:02d}_{number:04d}'
                     for number in np.asarray(table['id'])]
    if len(set(table['name'])) < len(table):
        msg = 'the ids of the catalog must differ from each other'
        raise ValueError(msg)
    if segmentation is None:
        table['label'] = 0
    elif 'label' not in table.colnames:
        rows, columns = (np.rint(np.asarray(table[axis])).astype(int)
                         for axis in ('y', 'x'))
        table['label'] = segmentation[rows, columns].astype(int)
    if wcs is not None and 'ra' not in table.colnames:
        sky = wcs.pixel_to_world(table['x'], table['y']).icrs
        table['ra'], table['dec'] = sky.ra.deg * u.deg, sky.dec.deg * u.deg


def _psf_images(psf, table):
    """
    Return one PSF for all stamps, or one for each.
    """
    if psf is None:
        return None
    x, y = np.asarray(table['x']), np.asarray(table['y'])
    if isinstance(psf, (ImagePSF, GriddedPSFModel)):
        sides = np.array(psf.data.shape[-2:])
        half = int(np.min((sides - 1) // 2 // psf.oversampling))
        grid = np.arange(-half, half + 1)
        # one for all stamps unless the PSF varies
        places = ([(0.0, 0.0)] if isinstance(psf, ImagePSF)
                  else zip(x, y, strict=True))
        image = np.stack([
            psf.evaluate(*np.meshgrid(a + grid, b + grid), 1.0, a, b)
            for a, b in places])
        if isinstance(psf, ImagePSF):
            image = image[0]
    elif callable(psf):
        constant = getattr(psf, 'order', None) == 0
        image = psf(x[0], y[0]) if constant else psf(x, y)
    else:
        image = psf
    image = np.asarray(image, dtype=np.float32)
    if (image.ndim not in {2, 3} or image.shape[-1] != image.shape[-2]
            or image.shape[-1] % 2 == 0):
        msg = ('psf must be a square image of odd size, or an object that '
               'returns one at a position: got an array of the shape '
               f'{image.shape}')
        raise ValueError(msg)
    return image
