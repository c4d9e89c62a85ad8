# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Limits of the FWHMs from which apertures are made.
"""

import numpy as np

__all__ = ['check_limits']


def check_limits(fwhm_limits, *, unit=None):
    """
    Return the smallest and the largest FWHM, in ``unit`` if there is one.

    Arrays have one limit per source; 0 or infinity is no limit. Raises a
    `TypeError` if a unit is missing or not expected, and a `ValueError` for
    limits that are not ordered or not convertible.
    """
    try:
        lower, upper = fwhm_limits
    except (TypeError, ValueError):
        msg = ('fwhm_limits must be two values, the smallest and the largest '
               f'width: got {fwhm_limits!r}')
        raise ValueError(msg) from None
    limits = []
    for limit in (lower, upper):
        if hasattr(limit, 'unit') != (unit is not None):
            wanted = ('numbers without a unit' if unit is None
                      else f'quantities convertible to {unit}')
            msg = f'fwhm_limits must be {wanted}: got {limit!r}'
            raise TypeError(msg)
        if unit is None:
            limits.append(np.asarray(limit, dtype=float))
            continue
        if not limit.unit.is_equivalent(unit):
            msg = f'fwhm_limits must be convertible to {unit}: got {limit!r}'
            raise ValueError(msg)
        limits.append(limit.to(unit))
    lower, upper = limits
    if np.any(lower < 0) or np.any(upper <= 0) or np.any(lower > upper):
        msg = ('fwhm_limits must be two positive widths, the smallest first: '
               f'got {fwhm_limits!r}')
        raise ValueError(msg)
    return lower, upper
