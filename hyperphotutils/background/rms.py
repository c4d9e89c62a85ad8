# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The noise that remains after a local background is subtracted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from hyperphotutils.background.regressors import (
    evaluate_polynomial,
    fit_lsq,
    polynomial_terms,
)
from hyperphotutils.utils.tables import (
    as_masked_image,
    good_extent,
    strip_units,
)

if TYPE_CHECKING:
    from astropy.units import Quantity

    from hyperphotutils.utils.typing import FloatOrQuantity

__all__ = ['box_side', 'box_variances', 'local_rms']

# The largest number of boxes that are evaluated.
_MAX_BOXES = 1000
# A box needs this fraction of usable pixels.
_MIN_FRACTION = 0.8
# The radius of boxes in FWHM, that of the footprint of a fit.
_BOX_RADIUS = 2.0


def box_side(fwhm: float) -> int:
    """
    Return the side of boxes as wide as the footprint of a fit.

    Parameters
    ----------
    fwhm : float
        The FWHM of the beam in pixels.

    Returns
    -------
    box_size : int
        The side in pixels, for `local_rms`.

    Examples
    --------
    >>> from hyperphotutils.background import box_side
    >>> box_side(4.0)
    17
    """
    return 2 * int(np.ceil(_BOX_RADIUS * fwhm)) + 1


def local_rms(data: ArrayLike | Quantity, box_size: int, *,
              mask: ArrayLike | None = None,
              order: int = 1) -> FloatOrQuantity:
    """
    Measure the typical rms about a local background.

    Use it to estimate the noise that limits photometry on a structured
    background. The image is divided into boxes. In each, a polynomial is
    fitted by least squares, and the rms of the residuals is corrected
    for the degrees of freedom of the polynomial. The result is the
    median over the boxes, which boxes with bright structure hardly
    affect.

    Parameters
    ----------
    data : 2D array_like or `~astropy.units.Quantity`
        The image, ideally with its sources subtracted. Pixels that are
        not finite are ignored.

    box_size : int
        The side length of the boxes in pixels.

    mask : 2D bool array_like, optional
        `True` for pixels to ignore.

    order : int, optional
        The total degree of the polynomials.

    Returns
    -------
    rms : float or `~astropy.units.Quantity`
        The median rms.

    Raises
    ------
    ValueError
        If ``box_size`` is too small for the polynomial.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.background import local_rms
    >>> data = np.random.default_rng(0).normal(0.0, 2.0, (300, 300))
    >>> data += np.linspace(0.0, 50.0, 300)
    >>> print(f'{local_rms(data, 15):.1f}')
    2.0
    """
    values, unit = strip_units(data=data)
    rms = float(np.sqrt(np.nanmedian(box_variances(
        values['data'], box_size, mask=mask, order=order))))
    return rms if unit is None else rms << unit


def box_variances(data: ArrayLike, box_size: int, *,
                  mask: ArrayLike | None = None, order: int = 1) -> np.ndarray:
    """
    Measure the variances about a local background, in boxes.

    Parameters
    ----------
    data : 2D array_like
        The image.

    box_size, mask, order
        See `local_rms`.

    Returns
    -------
    variances : 1D `~numpy.ndarray`
        The variance of each box.
    """
    data, mask = as_masked_image(data, mask)
    n_terms = len(polynomial_terms(order)[0])
    if box_size**2 <= n_terms:
        msg = (f'box_size is too small for a polynomial of order {order}: '
               f'{box_size}')
        raise ValueError(msg)
    # Pixels around the map must not move the boxes.
    extent = good_extent(mask)
    data, good = data[extent], ~mask[extent]
    box_size = min(int(box_size), *data.shape)
    # boxes on a regular grid, and the masks of their good pixels: views
    windows = [
        np.lib.stride_tricks.sliding_window_view(image, (box_size,) * 2)
        [::box_size, ::box_size] for image in (data, good)]
    fraction = windows[1].mean(axis=(2, 3))
    # those that have enough good pixels
    chosen = np.nonzero(fraction >= min(_MIN_FRACTION, fraction.max()))
    # The median of a thousand boxes is known to about a per cent.
    every = -(-len(chosen[0]) // _MAX_BOXES)
    boxes, used = (
        image[chosen[0][::every], chosen[1][::every]] for image in windows)
    # Without a large mean, the squares below keep their digits.
    boxes[~used] = 0.0
    boxes -= (boxes.sum(axis=(1, 2)) / used.sum(axis=(1, 2)))[:, None, None]
    boxes[~used] = 0.0
    grid = np.linspace(-1.0, 1.0, box_size)
    weights = used.astype(float)
    boxes -= evaluate_polynomial(
        fit_lsq(boxes, weights, grid, grid, order), grid, grid)
    return (np.einsum('nyx,nyx->n', weights, boxes**2)
            / (weights.sum(axis=(1, 2)) - n_terms))
