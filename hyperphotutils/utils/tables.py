# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Checks and units of input images, representation of objects, and
provenance of results.
"""

from __future__ import annotations

import platform
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from types import FunctionType
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np
from astropy.nddata import NDData, StdDevUncertainty
from numpy.typing import ArrayLike, NDArray

from hyperphotutils import __version__

if TYPE_CHECKING:
    from astropy.table import QTable

    from hyperphotutils.utils.typing import ImageLike

__all__ = [
    'as_masked_image',
    'good_extent',
    'integrated_unit',
    'make_repr',
    'open_nddata',
    'result_meta',
    'strip_units',
    'with_plain_units',
]

# Units of pixel values that are already fluxes, as in photutils.
_PIXEL_FLUXES = (u.Jy, u.ct, u.electron, u.adu, u.photon,
                 u.dimensionless_unscaled)

_PACKAGES = ('photutils', 'astropy', 'numpy', 'scipy')


def strip_units(**arrays: ArrayLike | u.Quantity | None
                ) -> tuple[dict, u.UnitBase | None]:
    """
    Strip the common unit of several arrays.

    Parameters
    ----------
    **arrays : array_like, `~astropy.units.Quantity`, or None
        The arrays by the names for error messages. `None` is returned
        unchanged.

    Returns
    -------
    values : dict
        The arrays without unit by name.

    unit : `~astropy.units.Unit` or None
        The unit, or `None` if no array has one.

    Raises
    ------
    ValueError
        If only some of the arrays have a unit or the units differ.

    Examples
    --------
    >>> import astropy.units as u
    >>> from hyperphotutils.utils import strip_units
    >>> values, unit = strip_units(data=[1, 2] * u.Jy, error=None)
    >>> print(values['data'], values['error'], unit)
    [1. 2.] None Jy
    """
    given = {name: array for name, array in arrays.items()
             if array is not None}
    units = {name: getattr(array, 'unit', None)
             for name, array in given.items()}
    unit = next(iter(units.values()), None)
    # Equal units may have different hashes.
    if any(other != unit for other in units.values()):
        stated = ', '.join(f'{name}: {unit or "none"}'
                           for name, unit in units.items())
        msg = f'{", ".join(units)} must all have the same unit ({stated})'
        raise ValueError(msg)
    if unit is None:
        return arrays, None
    return {name: None if array is None else array.value
            for name, array in arrays.items()}, unit


def open_nddata(data: ImageLike, mask: ArrayLike | None = None,
                error: ArrayLike | u.Quantity | None = None
                ) -> tuple[Any, Any, Any]:
    """
    Split an image into data with unit, mask, and errors.

    Parameters
    ----------
    data : `~astropy.nddata.NDData`, array_like, or \
            `~astropy.units.Quantity`
        The image. If it is not `~astropy.nddata.NDData`, the arguments are
        returned unchanged.

    mask : bool array_like, optional
        `True` for pixels to ignore; combined with the mask of the image.

    error : array_like or `~astropy.units.Quantity`, optional
        The standard deviations. If `None` (default), they are taken from
        the uncertainty of the image.

    Returns
    -------
    data : array_like or `~astropy.units.Quantity`
        The values, with the unit of the image if it has one.

    mask : bool array_like or None
        The mask.

    error : array_like, `~astropy.units.Quantity`, or None
        The standard deviations, in the unit of the image.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.nddata import NDData
    >>> from hyperphotutils.utils import open_nddata
    >>> image = NDData(np.ones((2, 2)), unit='Jy/pix')
    >>> data, mask, error = open_nddata(image)
    >>> print(data.unit, mask, error)
    Jy / pix None None
    """
    if not isinstance(data, NDData):
        return data, mask, error
    unit = data.unit
    if data.mask is not None:
        if mask is not None and np.shape(mask) != np.shape(data.mask):
            msg = (f'mask must have the shape of data, {data.mask.shape}, '
                   f'got {np.shape(mask)}')
            raise ValueError(msg)
        mask = data.mask if mask is None else data.mask | np.asarray(mask)
    if error is None and data.uncertainty is not None:
        deviation = data.uncertainty.represent_as(StdDevUncertainty)
        error = deviation.array
        if unit is not None:
            error = u.Quantity(error, deviation.unit or unit).to(unit)
    return data.data if unit is None else data.data << unit, mask, error


def good_extent(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """
    Return the smallest part of an image with all of its good pixels.

    Parameters
    ----------
    mask : 2D bool `~numpy.ndarray`
        `True` for pixels to ignore.

    Returns
    -------
    extent : tuple of 2 slices
        The rows and columns; empty slices if there is no good pixel.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.utils import good_extent
    >>> mask = np.ones((5, 7), dtype=bool)
    >>> mask[1:4, 2] = False
    >>> good_extent(mask)
    (slice(1, 4, None), slice(2, 3, None))
    """
    extent = []
    for axis in (1, 0):
        index = np.flatnonzero(~mask.all(axis=axis))
        extent.append(slice(int(index[0]), int(index[-1]) + 1)
                      if index.size > 0 else slice(0, 0))
    return tuple(extent)


def integrated_unit(unit: u.UnitBase | None) -> u.UnitBase | None:
    """
    Return the unit of a sum over pixels.

    Parameters
    ----------
    unit : `~astropy.units.Unit` or None
        The unit of the pixel values.

    Returns
    -------
    unit : `~astropy.units.Unit` or None
        The unit itself for a flux in each pixel, as in photutils (Jy,
        counts). The unit times pixels for a surface brightness
        (Jy/pixel, Jy/beam, MJy/sr) and for a temperature.

    Examples
    --------
    >>> import astropy.units as u
    >>> from hyperphotutils.utils import integrated_unit
    >>> print(integrated_unit(u.Jy / u.pix), integrated_unit(u.mJy))
    Jy mJy
    >>> print(integrated_unit(u.Jy / u.beam))
    Jy pix / beam
    """
    if unit is None or any(unit.is_equivalent(flux) for flux in _PIXEL_FLUXES):
        return unit
    return unit * u.pix


def as_masked_image(data: ArrayLike, mask: ArrayLike | None = None, *,
                    name: str = 'data'
                    ) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """
    Check an image and combine its mask with its non-finite pixels.

    Parameters
    ----------
    data : 2D array_like
        The image, without a unit.

    mask : 2D bool array_like, optional
        `True` for pixels to ignore.

    name : str, optional
        The name of ``data`` in error messages.

    Returns
    -------
    data : 2D `~numpy.ndarray` of float
        The image; a view of the input if possible.

    mask : 2D bool `~numpy.ndarray`
        The input mask combined with the pixels that are NaN or infinite.

    Raises
    ------
    TypeError
        If ``data`` is not an array of real numbers.

    ValueError
        If ``data`` is not 2D, ``mask`` has a different shape, or no
        pixel is usable.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.utils import as_masked_image
    >>> _, mask = as_masked_image([[1.0, np.nan], [2.0, 3.0]])
    >>> print(mask.sum())
    1
    """
    if isinstance(data, str | PathLike):
        msg = (f'{name} must be an array, not the name of a file: read '
               f'{str(data)!r} by hyperphotutils.maps.read_map')
        raise TypeError(msg)
    data = np.asanyarray(data)
    if data.dtype.kind not in 'fiu':
        kind = (data.dtype if data.ndim
                else type(data.item()).__name__)  # such as an HDU
        msg = f'{name} must be an array of real numbers, got {kind}'
        raise TypeError(msg)
    if data.ndim != 2:
        msg = f'{name} must be 2D, got the shape {data.shape}'
        raise ValueError(msg)
    data = np.asarray(data, dtype=float)
    merged = ~np.isfinite(data)
    if mask is not None and mask is not np.ma.nomask:
        mask = np.asarray(mask)
        if mask.shape != data.shape:
            msg = (f'mask must have the shape of {name}, {data.shape}, got '
                   f'{mask.shape}')
            raise ValueError(msg)
        merged |= mask.astype(bool)
    if merged.all():
        msg = f'{name} has no usable pixel: all are masked or not finite'
        raise ValueError(msg)
    return data, merged


def list_columns(table):
    """
    Return the names of the columns of a table as a text for messages.
    """
    return ', '.join(table.colnames) or 'no columns'


def pixel_columns(table, pairs):
    """
    Return x and y from the first pair of columns that a table has, NaN where
    they are masked, or `None` without any.
    """
    for pair in pairs:
        if set(pair) <= set(table.colnames):
            # SExtractor counts pixels from 1
            first = 1.0 if pair[0] == 'X_IMAGE' else 0.0
            return tuple(np.ma.filled(np.ma.asarray(
                getattr(table[name], 'value', table[name]), dtype=float),
                np.nan) - first for name in pair)
    return None


def make_repr(obj: Any) -> str:
    """
    Return the constructor call of an object as text.

    Parameters
    ----------
    obj : object
        An object with the attribute ``_repr_params``, the names of its
        constructor's arguments, each of which is also an attribute.

    Returns
    -------
    text : str
        For example ``'SourceGrouper(min_separation=4.0)'``. Functions
        are represented by name, and memory addresses are omitted, so
        that the text is the same in every process.

    Examples
    --------
    >>> from hyperphotutils.utils import make_repr
    >>> class Circle:
    ...     _repr_params = ('radius',)
    ...     def __init__(self, radius):
    ...         self.radius = radius
    >>> make_repr(Circle(2.0))
    'Circle(radius=2.0)'
    """
    params = ', '.join(f'{name}={_describe(getattr(obj, name))}'
                       for name in obj._repr_params)  # noqa: SLF001
    return f'{type(obj).__name__}({params})'


def _describe(value):
    """
    Return an argument as a line of text; arrays by shape only.
    """
    if isinstance(value, np.ndarray) and value.ndim > 0:
        unit = getattr(value, 'unit', None)
        return f'<array; shape={value.shape}{f", {unit}" if unit else ""}>'
    if isinstance(value, u.Quantity):
        return f"<Quantity '{value}'>"
    if isinstance(value, np.generic):
        return repr(value.item())
    if isinstance(value, FunctionType):
        return value.__name__
    # Remove memory addresses, also of functions in a partial.
    return re.sub(r' at 0x[0-9A-Fa-f]+', '', repr(value))


def result_meta(obj: Any = None) -> dict:
    """
    Return the provenance of a result, for the metadata of a table.

    Parameters
    ----------
    obj : object, optional
        The object that made the result (see `make_repr`).

    Returns
    -------
    meta : dict
        The ``version`` of each package by name and the constructor
        ``call`` of ``obj``. It has no date, so that repeated runs give
        identical files.

    Examples
    --------
    >>> from hyperphotutils.utils import result_meta
    >>> sorted(result_meta())
    ['version']
    """
    meta = {'version': dict(_versions())}
    if obj is not None:
        meta['call'] = make_repr(obj)
    return meta


@cache
def _versions():
    """
    Return the versions of the packages.
    """
    # the metadata of an editable install have the version of its day
    versions = {'Python': platform.python_version(),
                'hyperphotutils': __version__}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # run from a source tree
            versions[package] = 'unknown'
    return versions


def with_plain_units(table: QTable) -> QTable:
    """
    Return a table with units that do not depend on their origin.

    ECSV files state which units are the same object, which would differ
    between a run that was continued and one that was not.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        The table.

    Returns
    -------
    plain : `~astropy.table.QTable`
        The same columns, without metadata.

    Examples
    --------
    >>> from astropy.table import QTable
    >>> from hyperphotutils.utils import with_plain_units
    >>> table = QTable({'flux': [1.0, 2.0]}, units={'flux': 'Jy'})
    >>> print(with_plain_units(table)['flux'].unit)
    Jy
    """
    from astropy.coordinates import SkyCoord
    from astropy.table import QTable

    plain, units = QTable(), {}

    def unit_of(column):
        return units.setdefault(str(column.unit), u.Unit(str(column.unit)))

    for name in table.colnames:
        column = table[name]
        new = column
        if isinstance(column, u.Quantity):
            new = np.array(column.value) << unit_of(column)
        elif isinstance(column, SkyCoord):
            sky = column.spherical
            new = SkyCoord(*(np.array(angle.value) << unit_of(angle)
                             for angle in (sky.lon, sky.lat)),
                           frame=column.frame.replicate_without_data())
        plain[name] = new
        plain[name].info.description = column.info.description
    return plain
