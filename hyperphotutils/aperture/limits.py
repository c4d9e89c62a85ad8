# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Limits of the FWHMs from which apertures are made.
"""

import numpy as np

__all__ = ['check_limits']


def check_limits(fwhm_limits, *, unit=None):
    """
    Check the limits to which FWHMs are clipped.

    Parameters
    ----------
    fwhm_limits : pair of float, array_like or `~astropy.units.Quantity`
        The smallest and the largest FWHM. Arrays have one limit per
        source. Use 0 or infinity for no limit.

    unit : `~astropy.units.Unit` or `None`, optional
        The unit of the limits, `None` (default) for no unit.

    Returns
    -------
    lower, upper : `~numpy.ndarray` or `~astropy.units.Quantity`
        The limits, in ``unit`` if there is one.

    Raises
    ------
    TypeError
        If the limits have no unit but one is required, or vice versa.

    ValueError
        If there are not two limits, the unit is not convertible, a
        lower limit is negative or above the upper limit, or an upper
        limit is not positive.

    Examples
    --------
    >>> from hyperphotutils.aperture.limits import check_limits
    >>> lower, upper = check_limits((3, 6))
    >>> print(lower, upper)
    3.0 6.0
    """
    try:
        lower, upper = fwhm_limits
    except (TypeError, ValueError):
        msg = ('fwhm_limits must be two values, the smallest and the largest '
               f'width: got {fwhm_limits!r}')
        raise ValueError(msg) from None
    lower, upper = (_as_floats(limit, unit) for limit in (lower, upper))
    if np.any(lower < 0) or np.any(upper <= 0) or np.any(lower > upper):
        msg = ('fwhm_limits must be two positive widths, the smallest first: '
               f'got {fwhm_limits!r}')
        raise ValueError(msg)
    return lower, upper


def _as_floats(limit, unit):
    has_unit = hasattr(limit, 'unit')
    if has_unit != (unit is not None):
        wanted = ('numbers without a unit' if unit is None
                  else f'quantities convertible to {unit}')
        msg = f'fwhm_limits must be {wanted}: got {limit!r}'
        raise TypeError(msg)
    if unit is None:
        return np.asarray(limit, dtype=float)
    if not limit.unit.is_equivalent(unit):
        msg = f'fwhm_limits must be convertible to {unit}: got {limit!r}'
        raise ValueError(msg)
    return limit.to(unit)
