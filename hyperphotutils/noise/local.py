# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Noise whose strength varies over a map.
"""

import numpy as np
from astropy.stats import gaussian_fwhm_to_sigma
from scipy.ndimage import gaussian_filter

from hyperphotutils.utils.tables import as_masked_image, strip_units

__all__ = ['measure_relative_rms']

# The fluctuations between one and so many beams are what sources are
# measured against; their mean square is taken over a Gaussian of this sigma
# in FWHM, in which some hundred of them are.
_WIDEST = 3.0
_WINDOW = 6.0
# No place of a map is quieter than this part of the typical one.
_FLOOR = 0.1


def measure_relative_rms(data, fwhm, *, mask=None):
    """
    Measure how the strength of the noise varies over a map.

    The map is smoothed with the beam, and its mean over three beams is
    subtracted; the rms of what is left is taken with a Gaussian weight
    around each pixel.

    Parameters
    ----------
    data : 2D array_like or `~astropy.units.Quantity`
        The map, with its sources subtracted. Pixels that are not finite
        are ignored.

    fwhm : float
        The FWHM of the beam in pixels.

    mask : 2D bool array_like, optional
        `True` for pixels to ignore, for example the cores of sources.

    Returns
    -------
    relative_rms : 2D `~numpy.ndarray`
        The local rms in units of its median.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.noise import measure_relative_rms
    >>> data = np.random.default_rng(1).normal(size=(200, 400))
    >>> data[:, 200:] *= 3.0
    >>> relative = measure_relative_rms(data, fwhm=3.0)
    >>> print(f'{relative[100, 350] / relative[100, 50]:.1f}')
    3.0
    """
    values, _ = strip_units(data=data)
    data, mask = as_masked_image(values['data'], mask)
    good = np.where(mask, 0.0, 1.0)
    data = np.where(mask, 0.0, data)
    sigma = fwhm * gaussian_fwhm_to_sigma
    band = (_mean_of_good(data, good, sigma)
            - _mean_of_good(data, good, _WIDEST * sigma))
    square = mean_in_blocks(band**2, good, _WINDOW * fwhm, int(fwhm))
    rms = np.sqrt(square)
    typical = np.median(rms[~mask])
    if not typical > 0.0:
        return np.ones(data.shape)
    return np.maximum(rms / typical, _FLOOR)


def _mean_of_good(values, good, sigma):
    """
    Return the mean of the good pixels, weighted with a Gaussian.
    """
    weight = gaussian_filter(good, sigma, mode='constant')
    total = gaussian_filter(values * good, sigma, mode='constant')
    return total / np.maximum(weight, 1e-12)


def mean_in_blocks(values, good, sigma, step):
    """
    Return about the same for a wide Gaussian, in a fraction of the time.

    Blocks of pixels are averaged, which are small on the scale of the
    Gaussian, and the means are interpolated. Blocks around the map let
    the interpolation reach its edges.
    """
    if step < 2:
        return _mean_of_good(values, good, sigma)
    ny, nx = values.shape
    shape = -(-ny // step) + 2, -(-nx // step) + 2
    padded = np.zeros((2, shape[0] * step, shape[1] * step))
    inner = slice(step, step + ny), slice(step, step + nx)
    padded[(0, *inner)], padded[(1, *inner)] = values * good, good
    blocks = padded.reshape(2, shape[0], step, shape[1], step)
    # blocks are as wide as a Gaussian of this variance
    width = np.sqrt(sigma**2 - (step**2 - 1) / 12.0) / step
    total, weight = (
        gaussian_filter(block, width, mode='constant')
        for block in blocks.sum(axis=(2, 4)))
    mean = total / np.maximum(weight, 1e-12)
    rows, columns = ((np.arange(size) + 0.5) / step + 0.5 for size in (ny, nx))
    return _interpolate(_interpolate(mean, rows).T, columns).T


def _interpolate(values, position):
    """
    Interpolate linearly between rows.
    """
    row = np.minimum(position.astype(int), len(values) - 2)
    part = (position - row)[:, np.newaxis]
    return (1.0 - part) * values[row] + part * values[row + 1]
