# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Masks of the pixels that are covered by sources or regions.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import QTable, Table
from numpy.typing import ArrayLike, NDArray

from hyperphotutils.utils.tables import list_columns
from hyperphotutils.utils.wcs import sources_to_pixels

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from regions import Region, Regions

__all__ = ['make_region_mask', 'make_source_mask', 'read_ellipses']

# Suffixes of the columns with positions and ellipses: results, initial
# values, plain names, and detections.
_SUFFIXES = ('_fit', '_init', '', '_centroid')

# Largest number of elements in a temporary array.
_MAX_ELEMENTS = 1_000_000


def make_source_mask(shape: tuple[int, ...], x: ArrayLike, y: ArrayLike,
                     fwhm_major: ArrayLike,
                     fwhm_minor: ArrayLike | None = None,
                     theta: ArrayLike | u.Quantity = 0.0, *,
                     factor: float = 1.5) -> NDArray[np.bool_]:
    """
    Return a mask of the pixels inside ellipses around sources.

    Parameters
    ----------
    shape : tuple of int
        The shape ``(ny, nx)`` of the mask.

    x, y : array_like
        The pixel positions of the sources. Sources may be outside of
        the image; those whose position, size, or angle is not finite
        are ignored.

    fwhm_major : array_like
        The full width at half maximum along the major axis in pixels,
        one for each source or one for all.

    fwhm_minor : array_like, optional
        The full width at half maximum along the minor axis in pixels.
        The default is ``fwhm_major``, a circle.

    theta : array_like or `~astropy.units.Quantity`, optional
        The angle of the major axis, counterclockwise from the x axis.
        Plain numbers are degrees.

    factor : float, optional
        The semi-axes of the masked ellipses in units of the FWHM. A
        Gaussian falls to 0.2 % of its peak at the default, 1.5.

    Returns
    -------
    mask : 2D `~numpy.ndarray` of bool
        `True` where the center of the pixel is inside an ellipse.

    Raises
    ------
    ValueError
        If ``shape`` is not two-dimensional, a FWHM is negative, or
        ``factor`` is not positive.

    Examples
    --------
    >>> from hyperphotutils.background import make_source_mask
    >>> mask = make_source_mask((5, 7), 3, 2, 4.0, 2.0, factor=0.5)
    >>> print(mask.astype(int))
    [[0 0 0 0 0 0 0]
     [0 0 0 1 0 0 0]
     [0 1 1 1 1 1 0]
     [0 0 0 1 0 0 0]
     [0 0 0 0 0 0 0]]
    """
    if len(shape) != 2:
        msg = f'shape must be (ny, nx): got {shape}'
        raise ValueError(msg)
    if not (np.isfinite(factor) and factor > 0):
        msg = f'factor must be positive and finite: got {factor}'
        raise ValueError(msg)
    if fwhm_minor is None:
        fwhm_minor = fwhm_major
    # the parameters of the ellipses as an array of shape (5, n)
    if isinstance(theta, u.Quantity):
        theta = theta.to_value(u.deg)
    columns = np.broadcast_arrays(*[
        np.atleast_1d(np.asarray(column, dtype=float))
        for column in (x, y, fwhm_major, fwhm_minor, theta)])
    ellipses = np.array(columns)
    for name, fwhm in zip(('fwhm_major', 'fwhm_minor'), ellipses[2:4],
                          strict=True):
        if np.any(fwhm < 0):
            msg = f'{name} must not be negative: got {np.nanmin(fwhm)}'
            raise ValueError(msg)
    ellipses = ellipses[:, np.all(np.isfinite(ellipses), axis=0)]
    ellipses[2:4] *= factor

    mask = np.zeros(shape, dtype=bool)
    half = np.ceil(ellipses[2:4].max(axis=0, initial=0)).astype(int) + 1
    half = np.minimum(half, max(shape) + 1)
    # Sources of similar size are processed in one batch; with all in one,
    # each would cost as many pixels as the largest.
    size_class = np.ceil(np.log2(half)).astype(int)
    for value in np.unique(size_class):
        batch = ellipses[:, size_class == value, np.newaxis, np.newaxis]
        largest = half[size_class == value].max()
        offset = np.arange(-largest, largest + 1)
        limit = 4 * max(shape) + 4 * largest  # keeps the integers in range
        step = max(1, _MAX_ELEMENTS // offset.size**2)
        for start in range(0, batch.shape[1], step):
            x, y, semi_major, semi_minor, theta = batch[:, start:start + step]
            column = (np.round(np.clip(x, -limit, limit)).astype(int)
                      + offset)
            row = (np.round(np.clip(y, -limit, limit)).astype(int)
                   + offset[:, np.newaxis])
            cos, sin = np.cos(np.radians(theta)), np.sin(np.radians(theta))
            dx, dy = column - x, row - y
            # Without a division, so that an axis of zero length is allowed;
            # it covers no pixel.
            inside = ((semi_minor * (dx * cos + dy * sin))**2
                      + (semi_major * (dy * cos - dx * sin))**2
                      <= (semi_major * semi_minor)**2)
            inside &= (semi_major > 0) & (semi_minor > 0)
            inside &= (row >= 0) & (row < shape[0])
            inside &= (column >= 0) & (column < shape[1])
            row, column = np.broadcast_arrays(row, column)
            mask[row[inside], column[inside]] = True
    return mask


def make_region_mask(region: Region | Regions | ArrayLike,
                     shape: tuple[int, ...],
                     wcs: WCS | None = None) -> NDArray[np.bool_]:
    """
    Return a mask of the pixels inside a region.

    Parameters
    ----------
    region : `~regions.Region`, `~regions.Regions`, or 2D bool array_like
        One or more regions, on the sky or in pixels, or a mask, which
        is checked and returned.

    shape : tuple of int
        The shape ``(ny, nx)`` of the mask.

    wcs : `~astropy.wcs.WCS`, optional
        The celestial WCS of the image, for regions on the sky.

    Returns
    -------
    mask : 2D `~numpy.ndarray` of bool
        `True` where the center of the pixel is inside a region.

    Raises
    ------
    TypeError
        If ``region`` is none of these.

    ValueError
        If a mask has a different shape, if there is no WCS for a region
        on the sky, if a region has no area (a point), or if no pixel is
        inside.

    Examples
    --------
    >>> from regions import CirclePixelRegion, PixCoord
    >>> from hyperphotutils.background import make_region_mask
    >>> region = CirclePixelRegion(PixCoord(3, 2), 1.1)
    >>> print(make_region_mask(region, (5, 7)).sum())
    5
    """
    check_region(region)
    if hasattr(region, 'regions'):
        masks = [_mask_region(part, shape, wcs) for part in region.regions]
        mask = np.any(masks, axis=0) if masks else np.zeros(shape, bool)
    elif hasattr(region, 'to_mask') or hasattr(region, 'to_pixel'):
        mask = _mask_region(region, shape, wcs)
    else:
        mask = np.asarray(region)
        if mask.shape != tuple(shape):
            msg = (f'region must have the shape {tuple(shape)} of the '
                   f'planes: got {mask.shape}')
            raise ValueError(msg)
    if not mask.any():
        msg = 'region has no pixel of the image inside'
        raise ValueError(msg)
    return mask


def check_region(region):
    """
    Raise an error if an argument is neither a region nor a mask.
    """
    if not (any(hasattr(region, name) for name in (
            'regions', 'to_mask', 'to_pixel'))
            or np.asarray(region).dtype == bool):
        msg = ('region must be a region of the package regions or a mask of '
               f'bool: got {type(region).__name__}')
        raise TypeError(msg)


def _mask_region(region, shape, wcs):
    if hasattr(region, 'to_pixel'):
        if wcs is None:
            msg = 'region is on the sky: give wcs'
            raise ValueError(msg)
        region = region.to_pixel(wcs)
    try:
        box = region.bounding_box
    except ValueError:
        # Outside of the projection: its pixel coordinates are NaN.
        return np.zeros(shape, dtype=bool)
    if box.get_overlap_slices(shape)[0] is None:
        return np.zeros(shape, dtype=bool)
    try:
        mask = region.to_mask(mode='center')
    except NotImplementedError:
        msg = f'region must have an area: got a {type(region).__name__}'
        raise ValueError(msg) from None
    image = mask.to_image(shape)
    return np.zeros(shape, dtype=bool) if image is None else image > 0


def read_ellipses(sources: Table | SkyCoord | ArrayLike, *,
                  wcs: WCS | None = None, fwhm: float | None = None) -> QTable:
    """
    Return positions and ellipses of sources from a table.

    Parameters
    ----------
    sources : `~astropy.table.Table`, `~astropy.coordinates.SkyCoord`, or \
            2D array_like
        The sources: results of the photometry (``x_fit``, ...), initial
        values (``x_init``, ...), detections (``x_centroid``, ...), plain
        columns (``x``, ``y``, ``fwhm_major``, ``fwhm_minor``,
        ``theta``), sky coordinates (see
        `~hyperphotutils.utils.sources_to_pixels`), or an array with a
        row ``(x, y)`` for each source.

    wcs : `~astropy.wcs.WCS`, optional
        The celestial WCS of the image, for sources on the sky.

    fwhm : float, optional
        The FWHM in pixels of sources whose FWHM is unknown.

    Returns
    -------
    ellipses : `~astropy.table.QTable`
        The columns ``x``, ``y``, ``fwhm_major``, ``fwhm_minor`` (pixels,
        NaN if unknown), and ``theta`` (degrees).

    Raises
    ------
    TypeError
        If ``sources`` is a file name.

    ValueError
        If there are no positions, or only sky positions and no WCS.

    Examples
    --------
    >>> from hyperphotutils.background import read_ellipses
    >>> print(read_ellipses([(10.0, 20.0)], fwhm=4.0)['fwhm_major'][0])
    4.0
    """
    if isinstance(sources, str | PathLike):
        msg = (f'sources must be a table, SkyCoord, or rows of (x, y): got '
               f'the file name {str(sources)!r}: read the file with '
               'hyperphotutils.catalog.read_catalog or read_source_list')
        raise TypeError(msg)
    if isinstance(sources, SkyCoord):
        sources = QTable({'sky_centroid': sources.reshape(-1)})
    if not isinstance(sources, Table):
        positions = np.asarray(sources, dtype=float)
        if positions.ndim != 2 or positions.shape[1] != 2:
            msg = ('sources must be a table, SkyCoord, or rows of (x, y): '
                   f'got an array of shape {positions.shape}')
            raise ValueError(msg)
        sources = QTable({'x': positions[:, 0], 'y': positions[:, 1]})
    suffix = next((suffix for suffix in _SUFFIXES
                   if f'x{suffix}' in sources.colnames), None)
    if suffix is None:
        if 'sky_centroid' not in sources.colnames or wcs is None:
            msg = ('sources must have positions (x, x_fit, x_init, '
                   'x_centroid, or sky_centroid and a WCS): got the columns '
                   f'{list_columns(sources)}')
            raise ValueError(msg)
        sources, suffix = sources_to_pixels(sources, wcs), '_init'
    missing = np.nan if fwhm is None else fwhm
    shape = suffix if suffix != '_centroid' else ''
    values = {name: _column(sources, f'{name}{suffix}', np.nan)
              for name in ('x', 'y')}
    values['fwhm_major'] = _column(sources, f'fwhm_major{shape}', missing)
    values['fwhm_minor'] = _column(sources, f'fwhm_minor{shape}',
                                   values['fwhm_major'])
    values['theta'] = _column(sources, f'theta{shape}', 0.0) << u.deg
    return QTable(values)


def _column(table, name, default):
    """
    Return a column without unit, or the default for all rows.
    """
    if name not in table.colnames:
        return np.broadcast_to(default, len(table)).astype(float)
    column = table[name]
    if isinstance(column, u.Quantity) and name.startswith('theta'):
        column = column.to_value(u.deg)
    # a source whose fit failed has no size, but needs a mask all the same
    values = np.ma.filled(np.ma.asarray(column, dtype=float), np.nan)
    return np.where(np.isnan(values), default, values)
