# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
High-pass filters that account for masked pixels and map borders.
"""

from __future__ import annotations

import math
import operator
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from astropy.stats import gaussian_fwhm_to_sigma
from astropy.utils.masked import Masked
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter, uniform_filter

from hyperphotutils.detection.edges import LocalSlopes, find_edges
from hyperphotutils.utils.tables import (
    as_masked_image,
    good_extent,
    open_nddata,
    strip_units,
)

if TYPE_CHECKING:
    from astropy.nddata import NDData
    from astropy.units import Quantity

    from hyperphotutils.utils.typing import ArrayOrQuantity, FloatOrArray

__all__ = ['gaussian_response', 'high_pass_filter']

# Sigmas of the two Gaussians and side of the box in units of the FWHM. A
# filter as wide as the beam merges close pairs; a much narrower one is
# dominated by pixel-to-pixel noise. The values are a compromise found with
# simulated maps of many kinds.
_NARROW_SIGMA = 0.25
_BROAD_SIGMA = 0.42
_BOX_SIZE = 2.0

# Pixels of the largest images for which results are cached: 64 MB each if all
# pixels are near edges, usually far less.
_MAX_KEPT = 2**21


def high_pass_filter(data: np.ndarray | Quantity | NDData, fwhm: float, *,
                     mask: NDArray[np.bool_] | None = None,
                     kernel: Literal['gaussian', 'box'] = 'gaussian',
                     kernel_size: int | None = None) -> ArrayOrQuantity:
    """
    Remove structures larger than compact sources from an image.

    Every average is taken over valid pixels only. At the borders of the
    image and next to masked pixels, where the two averages are centered
    on different places, the local slope of the image is allowed for, so
    that neither constants nor planes leave a trace in the result.

    Parameters
    ----------
    data : 2D `~numpy.ndarray`, `~astropy.units.Quantity`, or \
            `~astropy.nddata.NDData`
        The image. Its own mask is honored, if it has one, and
        non-finite pixels are treated as masked.

    fwhm : float
        The FWHM of the beam in pixels.

    mask : 2D bool `~numpy.ndarray`, optional
        A mask with the shape of ``data``, where `True` means that the
        pixel is ignored.

    kernel : {'gaussian', 'box'}, optional
        The filter:

        * ``'gaussian'`` (default): the image smoothed by a narrow
          Gaussian (sigma of 0.25 FWHM) minus the image smoothed by a
          broad one.
        * ``'box'``: the image minus its mean in a square box.

    kernel_size : odd int or `None`, optional
        The side in pixels of the box over which the local background
        is averaged. For ``'gaussian'`` the broad Gaussian has the same
        variance as that box, :math:`\\sigma = \\sqrt{(s^2 - 1) / 12}`.
        With `None` (default) or 0 the broad Gaussian has a sigma of
        0.42 FWHM (the variance of a box of about 1.5 FWHM), and the side
        of the box is the odd number closest to 2 FWHM. Both are at least
        equivalent to a box of 3 pixels.

    Returns
    -------
    filtered : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
        The filtered image, with the unit of ``data``. Masked pixels
        are NaN.

    Raises
    ------
    ValueError
        If ``fwhm``, ``kernel`` or ``kernel_size`` is invalid, if the
        image is smaller than the kernel, or if all pixels are masked.

    Notes
    -----
    An average over good pixels, a normalized convolution (Knutsson and
    Westin 1993), belongs to the center of mass of its weights. Where
    the centers of the two averages are :math:`\\delta` apart, they
    differ by :math:`g^T \\delta` on a background of the slope
    :math:`g`, which is subtracted. The slope is measured by planes in
    cells of 4 FWHM, from which sources are clipped. (A slope measured
    with the weights of the filter itself would have no bias on curved
    backgrounds, but would make false peaks of 2 % beside bright sources
    and take 40 % of the height of sources at the border.)

    References
    ----------
    Knutsson H., Westin C.-F. 1993, Proc. IEEE Conf. on Computer Vision
    and Pattern Recognition, 515.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.detection import high_pass_filter
    >>> data = np.full((50, 50), 100.0)
    >>> data[25, 30] += 10.0
    >>> filtered = high_pass_filter(data, 3.0)
    >>> bool(abs(filtered[0, 0]) < 1.0e-9)
    True
    >>> [int(i) for i in np.unravel_index(filtered.argmax(), data.shape)]
    [25, 30]
    """
    fwhm = check_fwhm(fwhm)
    check_kernel(kernel, kernel_size, fwhm)
    data, mask = open_image(data, mask)
    arrays, unit = strip_units(data=data)
    image, bad = as_masked_image(arrays['data'], mask)
    filtered = filter_image(image, bad, fwhm, kernel, kernel_size)
    return filtered if unit is None else filtered << unit


def gaussian_response(fwhm_major: ArrayLike, fwhm_minor: ArrayLike,
                      fwhm: float) -> FloatOrArray:
    """
    Return the peak of a Gaussian of unit height after the default filter
    of `high_pass_filter`.

    Parameters
    ----------
    fwhm_major, fwhm_minor : array_like
        The FWHMs of the Gaussian in pixels.

    fwhm : float
        The FWHM in pixels of the beam for which the filter is made.

    Returns
    -------
    response : float or `~numpy.ndarray`
        The filtered peak.

    Examples
    --------
    >>> from hyperphotutils.detection import gaussian_response
    >>> beam = gaussian_response(4.0, 4.0, 4.0)
    >>> print(f'{gaussian_response(12.0, 12.0, 4.0) / beam:.2f}')
    0.26
    """
    variances = [(np.asarray(width) * gaussian_fwhm_to_sigma)**2
                 for width in (fwhm_major, fwhm_minor)]
    broad = kernel_width('gaussian', None, fwhm)
    narrow, broad = ((_NARROW_SIGMA * fwhm)**2, (broad**2 - 1) / 12)
    peak = np.sqrt(variances[0] * variances[1])
    return peak * (
        1.0 / np.sqrt((variances[0] + narrow) * (variances[1] + narrow))
        - 1.0 / np.sqrt((variances[0] + broad) * (variances[1] + broad)))


def open_image(data, mask):
    """
    Split an image into plain data and a mask.

    The masked pixels of a masked array become NaN, because numpy
    silently drops its mask in later operations.
    """
    data, mask, _ = open_nddata(data, mask)
    if isinstance(data, np.ma.MaskedArray):
        data = np.where(np.ma.getmaskarray(data), np.nan, data.data)
    elif isinstance(data, Masked):
        data = np.where(data.mask, np.nan, data.unmasked)
    return data, mask


def check_fwhm(fwhm):
    """
    Check the FWHM of a beam and return it as a float.
    """
    if np.ndim(fwhm) != 0:
        msg = f'fwhm must be a scalar: got shape {np.shape(fwhm)}'
        raise TypeError(msg)
    if hasattr(fwhm, 'unit'):
        msg = f'fwhm must be a number, the FWHM in pixels: got {fwhm}'
        raise TypeError(msg)
    fwhm = float(fwhm)
    if not (np.isfinite(fwhm) and fwhm > 0):
        msg = f'fwhm must be positive and finite: got {fwhm}'
        raise ValueError(msg)
    return fwhm


def check_kernel(kernel, kernel_size, fwhm):
    """
    Check the name and the size of a kernel.
    """
    if kernel not in ('gaussian', 'box'):
        msg = f"kernel must be 'gaussian' or 'box': got {kernel!r}"
        raise ValueError(msg)
    if kernel_size is None:
        return
    try:
        size = operator.index(kernel_size)
    except TypeError:
        msg = f'kernel_size must be an integer: got {kernel_size!r}'
        raise TypeError(msg) from None
    if size == 0:
        return
    if size < 3 or size % 2 == 0:
        msg = ('kernel_size must be an odd number of at least 3 pixels: '
               f'got {size}')
        raise ValueError(msg)
    if (kernel == 'gaussian'
            and math.sqrt((size**2 - 1) / 12) <= _NARROW_SIGMA * fwhm):
        msg = (f'kernel_size is too small for a fwhm of {fwhm} pixels: '
               f'got {size}')
        raise ValueError(msg)


def kernel_width(kernel, kernel_size, fwhm):
    """
    Return the side in pixels of the box of the local background.

    For the default Gaussian it is the side of the equivalent box, which
    is not an integer.
    """
    if kernel_size:
        return kernel_size
    if kernel == 'box':
        return max(3, 2 * round((_BOX_SIZE * fwhm - 1) / 2) + 1)
    return max(3.0, math.sqrt(12 * (_BROAD_SIGMA * fwhm)**2 + 1))


def filter_image(image, bad, fwhm, kernel, kernel_size, origin=None):
    """
    Return the filtered image, NaN in bad pixels.

    The cells in which slopes are measured begin at ``origin``, by
    default at the first row and column with a good pixel.
    """
    width = kernel_width(kernel, kernel_size, fwhm)
    if min(image.shape) < width:
        msg = ('data must not be smaller than the kernel: got shape '
               f'{image.shape} for a kernel of {width:.1f} pixels')
        raise ValueError(msg)
    # Rows and columns without data around the map change nothing.
    extent = good_extent(bad)
    if origin is None:
        origin = [part.start for part in extent]
    origin = [first - part.start for first, part in zip(origin, extent,
                                                        strict=True)]
    whole = np.full(image.shape, np.nan)
    image, bad, filtered = image[extent], bad[extent], whole[extent]
    some_bad = bad.any()
    filled = np.where(bad, 0.0, image) if some_bad else image
    if kernel == 'box':
        filtered[:] = filled
        broad = uniform_filter(filled, width, mode='constant')
        kernels = (1.0,), (1.0 / width,) * width
    else:
        sigmas = _NARROW_SIGMA * fwhm, math.sqrt((width**2 - 1) / 12)
        gaussian_filter(filled, sigmas[0], mode='constant', output=filtered)
        broad = gaussian_filter(filled, sigmas[1], mode='constant')
        kernels = tuple(_gaussian_kernel(sigma) for sigma in sigmas)

    # Far from edges all weights are used, and nothing has to be corrected.
    edges = of_mask(find_edges, bad, *kernels)
    slopes = LocalSlopes(image, bad, fwhm, [edge.slices for edge in edges],
                         origin)
    for edge in edges:
        part = edge.slices
        n_total, b_total = edge.total
        x_slope, y_slope = slopes.at(part)
        x_offset, y_offset = edge.offset
        filtered[part] /= n_total
        filtered[part] -= x_slope * x_offset + y_slope * y_offset
        broad[part] /= b_total
    filtered -= broad
    if some_bad:
        filtered[bad] = np.nan
    return whole


def _gaussian_kernel(sigma):
    """
    Return the weights of `scipy.ndimage.gaussian_filter` along an axis.
    """
    half = int(4.0 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma)**2)
    return tuple((weights / weights.sum()).tolist())


def of_mask(function, bad, *args):
    """
    Return the cached result of ``function(bad, *args)``, which depends only
    on a mask and must not be modified.

    The channels of a cube and the images of one map usually have the
    same mask. The last results are cached, unless the image is large.
    """
    if bad.size > _MAX_KEPT:
        return function(bad, *args)
    return _kept_of_mask(function, bad.shape, bad.tobytes(), *args)


@lru_cache(maxsize=4)
def _kept_of_mask(function, shape, mask, *args):
    return function(np.frombuffer(mask, dtype=bool).reshape(shape), *args)
