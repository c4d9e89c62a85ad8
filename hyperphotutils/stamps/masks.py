# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Masks of sources, grown to where their light ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from photutils.segmentation import SegmentationImage
from scipy.ndimage import distance_transform_edt

from hyperphotutils.detection import detect_segments
from hyperphotutils.noise import clipped_rms
from hyperphotutils.utils import as_masked_image, open_nddata, strip_units
from hyperphotutils.utils.checks import check_plane

if TYPE_CHECKING:
    from hyperphotutils.utils.typing import ImageLike

__all__ = ['grow_mask', 'make_stamp_mask']

# An isophote has reached the noise when the mean of its pixels is less
# than this part of the rms of one pixel.
_ISOPHOTE_LIMIT = 0.3

# Largest distance (pixels) of the source to keep from its position.
_REACH = 3.0


def grow_mask(mask: ArrayLike, radius: float) -> NDArray[np.bool_]:
    """
    Grow a mask by a distance.

    Parameters
    ----------
    mask : 2D bool array_like
        The mask.

    radius : float
        The distance in pixels; zero leaves the mask as it is.

    Returns
    -------
    mask : 2D bool `~numpy.ndarray`
        `True` for all pixels within the distance of one that was `True`.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.stamps import grow_mask
    >>> mask = np.zeros((5, 5), dtype=bool)
    >>> mask[2, 2] = True
    >>> print(grow_mask(mask, 1).sum())
    5
    """
    mask = np.asarray(mask, dtype=bool)
    if radius <= 0 or not mask.any():
        return mask.copy()
    return distance_transform_edt(~mask) <= radius


def make_stamp_mask(
        data: ImageLike, *, fwhm: float,
        position: tuple[float, float] | None = None,
        segmentation: ArrayLike | SegmentationImage | None = None,
        mask: ArrayLike | None = None, n_sigma: float = 3.0, n_pixels: int = 5,
        deblend: bool = True, n_levels: int = 32, contrast: float = 0.001,
        grow: float | Literal['isophote'] = 0, max_grow: int = 15,
        keep: Literal['central', 'none'] = 'central') -> NDArray[np.bool_]:
    """
    Make a mask of all sources of a stamp but the one in its center.

    Parameters
    ----------
    data : 2D array_like, `~astropy.units.Quantity`, or \
            `~astropy.nddata.NDData`
        The stamp, without sky.

    fwhm : float
        The full width at half maximum of the PSF in pixels; the stamp
        is smoothed by such a Gaussian before sources are detected.

    position : tuple of 2 floats, optional
        The position ``(x, y)`` of the source to keep. The default is
        the center.

    segmentation : 2D int array_like or \
`~photutils.segmentation.SegmentationImage`, optional
        The segments of the stamp; detected if not given.

    mask : 2D bool array_like, optional
        `True` for bad pixels, which are `True` in the result, too.

    n_sigma : float, optional
        The threshold in units of the rms of the smoothed stamp.

    n_pixels : int, optional
        The smallest number of connected pixels.

    deblend : bool, optional
        Whether to split segments with several peaks. It needs
        scikit-image.

    n_levels, contrast : int and float, optional
        See `photutils.segmentation.deblend_sources`.

    grow : float or 'isophote', optional
        The distance in pixels by which the masks of neighbors grow.
        ``'isophote'`` grows each until the mean of its outline reaches
        the noise.

    max_grow : int, optional
        The largest distance with ``grow='isophote'``.

    keep : {'central', 'none'}, optional
        Whether the source at ``position`` is left out of the mask.
        ``'none'`` masks it, too, which leaves the sky.

    Returns
    -------
    mask : 2D bool `~numpy.ndarray`
        `True` for pixels that are not to be used: all of them if none
        is usable. The pixels of the source that is kept are never masked
        by the growth of others.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.stamps import make_stamp_mask
    >>> y, x = np.mgrid[:61, :61]
    >>> data = np.random.default_rng(1).normal(0.0, 0.1, x.shape)
    >>> for x0 in (30, 50):
    ...     data += 10.0 * np.exp(-0.5 * ((x - x0)**2 + (y - 30)**2) / 4.0)
    >>> mask = make_stamp_mask(data, fwhm=3.0, deblend=False, grow=2)
    >>> print(mask[30, 30], mask[30, 50])
    False True
    """
    if keep not in {'central', 'none'}:
        msg = f"keep must be 'central' or 'none': got {keep!r}"
        raise ValueError(msg)
    isophote = isinstance(grow, str)
    if grow != 'isophote' if isophote else not grow >= 0:
        msg = ("grow must be 'isophote' or a number of pixels, not "
               f'negative: got {grow!r}')
        raise ValueError(msg)
    data, mask, _ = open_nddata(data, mask)
    values = strip_units(data=data)[0]['data']
    usable = np.isfinite(values)
    if mask is not None:
        usable &= ~np.asarray(mask, dtype=bool)
    if not usable.any():
        # one of many stamps may be off the image
        return np.ones(np.shape(values), dtype=bool)
    values, bad = as_masked_image(values, mask)
    if segmentation is None:
        segments = detect_segments(
            values, fwhm=fwhm, n_sigma=n_sigma, n_pixels=n_pixels, mask=bad,
            deblend=deblend, n_levels=n_levels, contrast=contrast)
        labels = (np.zeros(values.shape, dtype=int) if segments is None
                  else segments.data)
    else:
        labels = check_plane(
            segmentation.data if isinstance(segmentation, SegmentationImage)
            else segmentation, values.shape, 'segmentation')
    own = np.zeros(values.shape, dtype=bool)
    rows, columns = np.nonzero(labels)
    if keep == 'central' and len(rows):
        x, y = (0.5 * np.subtract(values.shape[::-1], 1) if position is None
                else position)
        distance = np.hypot(columns - x, rows - y)
        nearest = np.argmin(distance)
        # moments and peaks of a small source differ by a few pixels
        if distance[nearest] <= _REACH:
            own = labels == labels[rows[nearest], columns[nearest]]
    others = (labels > 0) & ~own
    if isophote:
        limit = _ISOPHOTE_LIMIT * clipped_rms(values, mask=bad)
        for label in np.unique(labels[others]):
            distance = distance_transform_edt(labels != label)
            # sums and numbers of the pixels in rings of one pixel
            used = (distance <= max_grow) & ~(bad | own)
            ring = np.ceil(distance[used]).astype(int)
            total, number = (
                np.bincount(ring, weights, minlength=max_grow + 1)[1:]
                for weights in (values[used], None))
            ends = np.append((number == 0) | (total < limit * number), True)
            others |= distance <= min(1 + np.argmax(ends), max_grow)
    else:
        others = grow_mask(others, grow)
    return (others & ~own) | bad
