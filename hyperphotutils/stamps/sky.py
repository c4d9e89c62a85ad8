# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Subtraction of a smooth sky.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from astropy.stats import SigmaClip
from numpy.typing import ArrayLike
from photutils.background import Background2D, SExtractorBackground
from scipy.ndimage import distance_transform_edt

from hyperphotutils.background import PolynomialBackground2D
from hyperphotutils.detection import detect_segments
from hyperphotutils.noise import clipped_rms
from hyperphotutils.utils import (
    as_masked_image,
    check_integer,
    check_positive,
    open_nddata,
    strip_units,
)

if TYPE_CHECKING:
    from astropy.units import Quantity

    from hyperphotutils.utils.typing import ImageLike

__all__ = ['SkySubtraction', 'subtract_sky']

# Side of the boxes of the first sky, which is used to detect the sources.
# Boxes cannot follow a cubic sky of 15 sigma: they leave 0.3 sigma, and a
# polynomial with the same mask 0.008.
_BOX = 50
_MIN_SKY_PIXELS = 100
# The most that a segment grows, in units of ``grow``.
_MAX_GROWTH = 3.0


@dataclass(frozen=True, eq=False)
class SkySubtraction:
    """
    An image without its sky, and how it was made.

    Parameters
    ----------
    data : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
        The image without sky. NaN stays NaN.

    background : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
        The sky.

    mask : 2D bool `~numpy.ndarray`
        `True` for the pixels that were not used: sources, and pixels
        that were masked or are not finite.

    rms : float or `~astropy.units.Quantity`
        The clipped rms of the pixels that were used.
    """

    data: np.ndarray
    background: np.ndarray
    mask: np.ndarray
    rms: float


def subtract_sky(data: ImageLike, *, fwhm: float, order: int = 3,
                 method: Literal['polynomial', 'median'] = 'polynomial',
                 mask: ArrayLike | None = None,
                 error: ArrayLike | Quantity | None = None,
                 n_sigma: float = 3.5, n_pixels: int = 5, grow: float = 10,
                 n_rounds: int = 2) -> SkySubtraction:
    """
    Subtract the sky of an image.

    Sources are detected and masked with a wide margin, since the faint
    wings of sources, not the order of the polynomial, limit what can be
    reached. The first round detects them above a sky of coarse boxes,
    the others above the polynomial of the round before.

    Parameters
    ----------
    data : 2D array_like, `~astropy.units.Quantity`, or \
            `~astropy.nddata.NDData`
        The image.

    fwhm : float
        The full width at half maximum of the PSF in pixels.

    order : int, optional
        The order of the polynomial.

    method : {'polynomial', 'median'}, optional
        The sky is a polynomial surface, or one constant.

    mask : 2D bool array_like, optional
        `True` for pixels to ignore.

    error : 2D array_like or `~astropy.units.Quantity`, optional
        The standard deviations of the pixels, which weight the fit.

    n_sigma : float, optional
        The threshold of the detection in units of the rms of the
        smoothed image. One below 3 masks peaks of the noise, too, which
        makes the sky too low.

    n_pixels : int, optional
        The smallest number of connected pixels of a source.

    grow : float, optional
        The distance in pixels by which the segments grow. Those of larger
        radius grow by that, up to 3 times the distance, since the wings of
        bright sources reach as far as they are large.

    n_rounds : int, optional
        The number of rounds.

    Returns
    -------
    result : `SkySubtraction`
        The image without sky, the sky, the mask, and the rms.

    Raises
    ------
    ValueError
        If too few pixels are left for the sky, or an argument is wrong.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.datasets import make_star_field
    >>> from hyperphotutils.stamps import subtract_sky
    >>> field = make_star_field((200, 200), 20, seed=1)
    >>> y, x = np.mgrid[-1:1:200j, -1:1:200j]
    >>> sky = 20.0 + 5.0 * x - 3.0 * x * y**2
    >>> result = subtract_sky(field.data + sky, fwhm=3.0)
    >>> bool(np.std(result.background - sky) < 0.1)
    True
    """
    check_positive(fwhm, 'fwhm', of='pixels')
    if method not in {'polynomial', 'median'}:
        msg = f"method must be 'polynomial' or 'median': got {method!r}"
        raise ValueError(msg)
    check_integer(n_rounds, 'n_rounds')
    data, mask, error = open_nddata(data, mask, error)
    arrays, unit = strip_units(data=data, error=error)
    values, bad = as_masked_image(arrays['data'], mask)
    if min(values.shape) < 2 * _BOX:
        background = np.full(values.shape, np.median(values[~bad]))
    else:
        background = Background2D(
            np.where(bad, 0.0, values), _BOX, mask=bad,
            exclude_percentile=90.0, sigma_clip=SigmaClip(3.0),
            bkg_estimator=SExtractorBackground()).background
    for _ in range(int(n_rounds)):
        # The mask decides: grown by 6 pixels, it leaves 0.011 sigma of light
        # under the sources in the sky, grown by 10 only 0.006.
        segments = detect_segments(values - background, fwhm=fwhm,
                                   n_sigma=n_sigma, n_pixels=n_pixels,
                                   mask=bad)
        covered = bad.copy()
        if segments is not None:
            labels = segments.data
            # a profile that falls from the threshold, at the edge of a
            # segment, as a power law is 2^-k of it at twice the radius
            radius = np.sqrt(np.bincount(labels.ravel()) / np.pi)
            distance, nearest = distance_transform_edt(
                labels == 0, return_indices=True)
            reach = np.clip(radius[labels[tuple(nearest)]], grow,
                            _MAX_GROWTH * grow)
            covered |= distance <= reach
        n_left = np.count_nonzero(~covered)
        if n_left < _MIN_SKY_PIXELS:
            msg = (f'only {n_left} pixels are left for the sky: make grow '
                   f'(now {grow}) smaller or n_sigma (now {n_sigma}) larger')
            raise ValueError(msg)
        if method == 'median':
            background = np.full(values.shape, np.median(values[~covered]))
        else:
            background = PolynomialBackground2D(
                values, mask=covered, orders=(order,),
                error=arrays['error']).background
    result = values - background
    rms = clipped_rms(result, mask=covered)
    if unit is not None:
        result, background, rms = (part << unit for part in
                                   (result, background, rms))
    return SkySubtraction(result, background, covered, rms)
