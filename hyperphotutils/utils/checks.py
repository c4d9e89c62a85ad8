# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Checks of constructor arguments.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from numbers import Real

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike

__all__ = ['check_integer', 'check_part', 'check_positive', 'check_range',
           'check_relative_rms']

# Largest offset of the center of a PSF, in pixels.
_MAX_OFFSET = 0.2


def check_positive(value: float, name: str, *, of: str = '') -> float:
    """
    Check that an argument is a positive number.

    Parameters
    ----------
    value : float
        The argument; an array without dimensions is a number, too.

    name : str
        The name of the argument.

    of : str, optional
        The unit of the number, for the message (such as 'pixels').

    Returns
    -------
    value : float
        The number.

    Raises
    ------
    ValueError
        If it is not a positive, finite number (a
        `~astropy.units.Quantity` is not accepted).

    Examples
    --------
    >>> from hyperphotutils.utils import check_positive
    >>> check_positive(4, 'fwhm')
    4.0
    """
    number = value
    if type(value) is np.ndarray and value.ndim == 0:
        number = value[()]
    if not isinstance(number, Real) or not 0.0 < number < np.inf:
        unit = f' of {of}' if of else ''
        msg = f'{name} must be a positive number{unit}: {value!r}'
        raise ValueError(msg)
    return float(number)


def check_integer(value: int, name: str, low: int = 1) -> int:
    """
    Check that an argument is an integer above a limit.

    Parameters
    ----------
    value : int
        The argument.

    name : str
        The name of the argument.

    low : int, optional
        The smallest allowed value.

    Returns
    -------
    value : int
        The number.

    Raises
    ------
    TypeError
        If it is not an integer.

    ValueError
        If it is too small.

    Examples
    --------
    >>> from hyperphotutils.utils import check_integer
    >>> check_integer(3, 'n_repeats')
    3
    """
    if isinstance(value, bool) or not hasattr(value, '__index__'):
        msg = f'{name} must be an integer: {value!r}'
        raise TypeError(msg)
    number = operator.index(value)
    if number < low:
        msg = f'{name} must be at least {low}: {value!r}'
        raise ValueError(msg)
    return number


def check_part(part: Callable | None, name: str) -> Callable | None:
    """
    Check that an argument is a callable instance or `None`.

    Parameters
    ----------
    part : callable or None
        The argument.

    name : str
        The name of the argument.

    Returns
    -------
    part : callable or None
        The argument.

    Raises
    ------
    TypeError
        If it is a class or not callable.

    Examples
    --------
    >>> from photutils.psf import SourceGrouper
    >>> from hyperphotutils.utils import check_part
    >>> grouper = check_part(SourceGrouper(3.0), 'grouper')
    """
    if isinstance(part, type):
        msg = f'{name} must be an instance, not the class {part.__name__}'
        raise TypeError(msg)
    if part is not None and not callable(part):
        msg = f'{name} must be callable: {part!r}'
        raise TypeError(msg)
    return part


def check_range(value: tuple[float, float], name: str, *,
                upper: float = np.inf) -> tuple[float, float]:
    """
    Check that an argument consists of two ordered positive numbers.

    Parameters
    ----------
    value : tuple of 2 floats
        The argument.

    name : str
        The name of the argument.

    upper : float, optional
        The largest value allowed.

    Returns
    -------
    limits : tuple of 2 floats
        The two numbers.

    Raises
    ------
    ValueError
        If it is not two positive, finite numbers, the smaller one first
        (they may be equal).

    Examples
    --------
    >>> from hyperphotutils.utils import check_range
    >>> check_range((1, 2), 'fwhm_range')
    (1.0, 2.0)
    """
    if (np.shape(value) != (2,)
            or not all(isinstance(number, Real) for number in value)
            or not 0.0 < value[0] <= value[1] <= upper
            or value[1] == np.inf):
        most = f' of at most {upper}' if upper < np.inf else ''
        msg = (f'{name} must be two positive numbers{most}, the smaller '
               f'one first: {value!r}')
        raise ValueError(msg)
    return float(value[0]), float(value[1])


def check_plane(image, shape, name):
    """
    Return an image with the shape of the data, from a number for all pixels
    too, or `None` without one.
    """
    if image is None:
        return None
    image = np.asarray(image)
    if image.ndim == 0:
        image = np.full(shape, image)
    if image.shape != shape:
        msg = (f'{name} must have the shape of data, {shape}, got '
               f'{image.shape}')
        raise ValueError(msg)
    return image


def psf_offset(image, oversampling):
    """
    Return x and y in pixels of the center of a PSF from its central sample if
    it is farther than 0.2 pixels, which would shift all positions that are
    measured with it, otherwise `None`.
    """
    grid = (np.arange(len(image)) - len(image) // 2) / oversampling
    # only the core, since the wings are noise
    core = np.where(image > 0.2 * image.max(), image, 0.0)
    offset = [core.sum(axis) @ grid / core.sum() for axis in (0, 1)]
    return offset if np.hypot(*offset) > _MAX_OFFSET else None


def check_relative_rms(relative_rms: ArrayLike,
                       shape: tuple[int, int] | None = None) -> np.ndarray:
    """
    Check a map of the local rms in units of the typical rms.

    Parameters
    ----------
    relative_rms : 2D array_like
        The map.

    shape : tuple of 2 ints, optional
        The shape of the data.

    Returns
    -------
    relative_rms : 2D `~numpy.ndarray`
        The map.

    Raises
    ------
    ValueError
        If it is not a 2D array of positive, finite numbers, or has a
        different shape than the data.

    Examples
    --------
    >>> from hyperphotutils.utils import check_relative_rms
    >>> print(check_relative_rms([[1, 2]]))
    [[1. 2.]]
    """
    relative_rms = np.asarray(relative_rms, dtype=float)
    if relative_rms.ndim != 2 or not (
            np.all(relative_rms > 0.0) and np.all(np.isfinite(relative_rms))):
        msg = 'relative_rms must be a 2D array of positive numbers'
        raise ValueError(msg)
    if shape is not None and relative_rms.shape != shape:
        msg = (f'relative_rms must have the shape of data, {shape}, got '
               f'{relative_rms.shape}')
        raise ValueError(msg)
    return relative_rms


def check_table(table):
    """
    Raise an error if an argument is not a table, such as the `None` of a
    map without sources.
    """
    if not isinstance(table, Table):
        hint = ' (no sources were found)' if table is None else ''
        msg = ('table must be an astropy Table: got '
               f'{type(table).__name__}{hint}')
        raise TypeError(msg)
