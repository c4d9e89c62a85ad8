# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sigma-clipped noise of a map, corrected for the bias of the clipping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from astropy.units import Quantity
from numpy.typing import ArrayLike
from scipy.special import erf

from hyperphotutils.utils.checks import check_integer

if TYPE_CHECKING:
    from hyperphotutils.utils.typing import FloatOrQuantity

__all__ = ['clipped_rms']

# sigma of a Gaussian / its median absolute deviation
_MAD_TO_SIGMA = 1.482602218505602

# pixels from which the first guess is made
_MAX_SAMPLE = 50_000

# pixels nearer to the center than this fraction of the limit are kept, and
# those farther by the inverse are clipped, without being looked at again
_SURE = 0.6


def clipped_rms(data: ArrayLike | Quantity, *, mask: ArrayLike | None = None,
                n_sigma: float = 3.0, max_iter: int = 20) -> FloatOrQuantity:
    """
    Calculate the noise rms of data that also contain sources.

    The first guess is the median and the scaled median absolute
    deviation (of an evenly spaced sample of a large map). Then the
    standard deviation of the pixels within ``n_sigma`` of the center is
    calculated again and again, until the set of pixels no longer
    changes. What the clipping cuts from the wings of a Gaussian is
    given back in every round, so that pure Gaussian noise gives its
    true standard deviation for any ``n_sigma``.

    Parameters
    ----------
    data : array_like or `~astropy.units.Quantity`
        The data, of any shape. Non-finite values are ignored.

    mask : array_like (bool), optional
        A mask with the shape of ``data``, where `True` means that the
        pixel is ignored.

    n_sigma : float, optional
        The clipping limit in units of the rms. The default is 3.

    max_iter : int, optional
        The largest number of clipping rounds. The default is 20.

    Returns
    -------
    rms : float or `~astropy.units.Quantity`
        The rms, with the unit of ``data``. It is zero for constant
        data.

    Raises
    ------
    TypeError
        If ``data`` are not real numbers.

    ValueError
        If the mask has another shape, if no pixel is left, or if
        ``n_sigma`` or ``max_iter`` are not positive.

    Notes
    -----
    A Gaussian of unit variance that is cut at :math:`\\pm k` has the
    variance :math:`1 - 2 k \\phi(k) / \\mathrm{erf}(k / \\sqrt{2})`,
    where :math:`\\phi` is the normal density. The standard deviation
    of the kept pixels is divided by the square root of this number.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.noise import clipped_rms
    >>> rng = np.random.default_rng(1)
    >>> data = rng.normal(10.0, 2.0, (200, 200))
    >>> data[:20, :20] += 100.0
    >>> print(f'{clipped_rms(data):.1f}')
    2.0
    """
    if not (np.isfinite(n_sigma) and n_sigma > 0):
        msg = f'n_sigma must be positive and finite: got {n_sigma}'
        raise ValueError(msg)
    check_integer(max_iter, 'max_iter')
    values, unit = _good_values(data, mask)

    # The center and the rms where the clipping starts. The result does not
    # depend on them once the clipping has converged, so that a sample is
    # enough.
    sample = values[::-(-values.size // _MAX_SAMPLE)]
    center = np.median(sample)
    rms = _MAD_TO_SIGMA * np.median(np.abs(sample - center))
    if rms == 0.0:  # more than half of the pixels have the same value
        center, rms = values.mean(), values.std()

    # The standard deviation of a unit Gaussian cut at +-n_sigma.
    correction = n_sigma / np.sqrt(3.0)
    if n_sigma >= 0.01:  # below, the formula loses its digits
        density = np.exp(-0.5 * n_sigma**2) / np.sqrt(2.0 * np.pi)
        correction = np.sqrt(1.0 - 2.0 * n_sigma * density
                             / erf(n_sigma / np.sqrt(2.0)))
    n_kept, origin, low, high = 0, center, np.inf, 0.0
    for _ in range(max_iter):
        limit, shift = n_sigma * rms, center - origin
        if not low + abs(shift) <= limit <= high - abs(shift):
            # The limit moves little: only the pixels next to it are looked
            # at in every round.
            origin, shift = center, 0.0
            low, high = _SURE * limit, limit / _SURE
            offset = values - origin
            beyond = (offset > low) | (offset < -low)
            edge = offset[beyond]
            edge = edge[np.abs(edge) <= high]
            offset[beyond] = 0.0
            n_inner = offset.size - np.count_nonzero(beyond)
            inner = offset.sum(), np.dot(offset, offset)
            del offset, beyond
        kept = edge[np.abs(edge - shift) <= limit]
        if n_inner + kept.size in (0, n_kept):
            break
        n_kept = n_inner + kept.size
        mean = (inner[0] + kept.sum()) / n_kept
        square = inner[1] + np.dot(kept, kept) - n_kept * mean**2
        center = origin + mean
        rms = np.sqrt(max(square, 0.0) / max(n_kept - 1, 1)) / correction

    rms = float(rms)
    return rms if unit is None else rms << unit


def _good_values(data, mask):
    """
    Return a 1D float array of the good values, which must not be changed, and
    their unit.
    """
    unit = data.unit if isinstance(data, Quantity) else None
    if isinstance(data, np.ma.MaskedArray):
        hidden = np.ma.getmaskarray(data)
        mask = hidden if mask is None else hidden | np.asarray(mask, bool)

    values = np.asarray(data)
    if values.dtype.kind not in 'fiub':
        msg = f'data must be real numbers: got dtype {values.dtype}'
        raise TypeError(msg)
    good = np.isfinite(values)
    if mask is not None:
        mask = np.asarray(mask, dtype=bool)
        if mask.shape != values.shape:
            msg = ('mask must have the same shape as data, '
                   f'{values.shape}: got {mask.shape}')
            raise ValueError(msg)
        good &= ~mask
    # Indexing copies even if all values are good.
    values = values.ravel() if good.all() else values[good]
    values = values.astype(float, copy=False)
    if values.size == 0:
        msg = 'data has no good pixel: all are masked or not finite'
        raise ValueError(msg)
    return values, unit
