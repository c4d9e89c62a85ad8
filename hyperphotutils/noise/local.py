# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Noise whose strength varies over a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from astropy.stats import gaussian_fwhm_to_sigma
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import (
    distance_transform_edt,
    gaussian_filter,
    maximum_filter,
    median_filter,
)
from scipy.special import erfinv

from hyperphotutils.utils.tables import (
    as_masked_image,
    good_extent,
    strip_units,
)

if TYPE_CHECKING:
    from astropy.units import Quantity

__all__ = ['GridImage', 'measure_noise_variation', 'measure_relative_rms']

# Sources are measured against fluctuations on scales between one and
# _WIDEST beams. Their mean square is taken over a Gaussian of the sigma
# _WINDOW, in FWHM, which contains about a hundred fluctuations.
_WIDEST = 3.0
_WINDOW = 6.0
# Values beyond _CLIP local rms are excluded, in _CLIPPING_ROUNDS rounds.
_CLIP = 3.0
_CLIPPING_ROUNDS = 5
# Lower limit of the relative rms.
_FLOOR = 0.1
# The rounding errors of filtered pixels, relative to the largest value.
ROUNDING = 1e-12

# Below the beam: the sizes of the averaged squares and of the blocks in FWHM,
# the smallest block in squares, and the sigma in blocks of the last smoothing.
_BIN = 0.2
_BLOCK = 3.0
_MIN_BLOCK = 10
_SMOOTHING = 0.5
# The rms of a block is derived from the first quantile of the absolute
# differences. If the rms from the second quantile is larger by more than this
# factor, the block has sources and is not used.
_QUANTILES = np.array([0.35, 0.75])
_UNIT_QUANTILES = np.sqrt(2.0) * erfinv(_QUANTILES)
_MAX_RATIO = 1.3
# Least number of differences in a block, and least fraction of such blocks.
_MIN_DIFFERENCES = 30
_MIN_KNOWN = 0.5
# The side, in sigma of a wide Gaussian, of the blocks of which its mean is
# made.
_SMALL_BLOCK = 0.25
# Rows that are interpolated at once
_CHUNK = 64
# The noise varies if the 1st and 99th percentile differ by this factor.
_VARIATION = 2.0
# Maps of stationary noise with a structured background vary by 1.3 from the
# 16th to the 84th percentile of their local rms.
_STRUCTURE_VARIATION = 1.5


def measure_relative_rms(data: ArrayLike | Quantity, fwhm: float, *,
                         mask: ArrayLike | None = None) -> np.ndarray:
    """
    Measure how the strength of the noise varies over a map.

    The map is smoothed with the beam, and its mean over three beams is
    subtracted; the rms of the residual is taken with a Gaussian weight
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
    >>> print(f'{relative[:, 300:].mean() / relative[:, :100].mean():.1f}')
    3.0
    """
    values, _ = strip_units(data=data)
    data, mask = as_masked_image(values['data'], mask)
    rms = np.sqrt(band_power(data, fwhm, mask=mask)[:, :])
    typical = np.median(rms[~mask])
    if not typical > ROUNDING * np.max(np.abs(data[~mask])):
        return np.ones(data.shape)
    return np.maximum(rms / typical, _FLOOR)


def band_power(data, fwhm, *, mask):
    """
    Return the local mean square of a map between one and three beams as a
    `GridImage`.
    """
    # At the edges of a map, means over different scales differ on a plane.
    data = subtract_surface(data, ~mask)
    data[mask] = 0.0
    good = np.where(mask, 0.0, 1.0)
    sigma = fwhm * gaussian_fwhm_to_sigma
    square = _mean_of_good(data, good, sigma)
    square -= _mean_of_good(data, good, _WIDEST * sigma)
    del data
    square *= square
    # Clip bright structure at a multiple of the local rms, which decreases
    # with each round.
    power = mean_in_blocks(square, good, _WINDOW * fwhm)
    for _ in range(_CLIPPING_ROUNDS - 1):
        # Interpolated values are not below the lowest one.
        row, col = np.nonzero(square > _CLIP**2 * power.values.min())
        clipped = square[row, col] > _CLIP**2 * power.at(row, col)
        if not clipped.any():
            break
        row, col = row[clipped], col[clipped]
        good[row, col] = square[row, col] = 0.0
        power = mean_in_blocks(square, good, _WINDOW * fwhm)
    return power


def is_varying(power):
    """
    Whether structure varies over a map by more than chance, given its local
    mean square (see `band_power`) in evenly spaced pixels.
    """
    rms = np.sqrt(power)
    low, high = np.percentile(
        np.maximum(rms, _FLOOR * np.median(rms)), [16.0, 84.0])
    return bool(high > _STRUCTURE_VARIATION * low)


def band_response(matrices, fwhm):
    """
    Return what `band_power` measures of noise of unit variance: of white
    noise, and of Gaussian autocovariances with the given matrices.

    A Gaussian autocovariance of the matrix :math:`\\Sigma` that is
    smoothed with a Gaussian of the variance :math:`v` has the variance
    :math:`\\sqrt{|\\Sigma| / |\\Sigma + 2 v|}`.
    """
    narrow = (fwhm * gaussian_fwhm_to_sigma)**2
    wide = _WIDEST**2 * narrow
    response = np.zeros(len(matrices) + 1)
    for variance, factor in ((2.0 * narrow, 1.0), (narrow + wide, -2.0),
                             (2.0 * wide, 1.0)):
        response[0] += factor / (2.0 * np.pi * variance)
        response[1:] += factor * np.sqrt(
            np.linalg.det(matrices)
            / np.linalg.det(matrices + variance * np.eye(2)))
    return response


def measure_noise_variation(data: ArrayLike | Quantity, fwhm: float, *,
                            mask: ArrayLike | None = None
                            ) -> np.ndarray | None:
    """
    Measure how the strength of the noise varies over a map with sources.

    The sky observed with a beam is smooth on scales below the beam; the
    noise is not, or less so. The noise is therefore measured on
    differences of pixels about a fifth of the beam apart. In blocks of
    about 3 FWHM, its rms is estimated from a low quantile of their
    absolute values, which sources hardly change.

    Parameters
    ----------
    data : 2D array_like or `~astropy.units.Quantity`
        The map. Sources need not be subtracted. Pixels that are not
        finite are ignored.

    fwhm : float
        The FWHM of the beam in pixels.

    mask : 2D bool array_like, optional
        `True` for pixels to ignore.

    Returns
    -------
    relative_rms : 2D `~numpy.ndarray` or `None`
        The local rms in units of its median; `None` if it does not vary
        by more than a factor of 2, or if that cannot be measured.

    See Also
    --------
    measure_relative_rms : The same for noise and background together,
        on a map without sources.

    Notes
    -----
    The map is first averaged over squares of a fifth of the FWHM, where
    they are larger than a pixel. The differences are those of
    Immerkaer (1996), second differences along both axes,

    .. math::

        N = \\begin{pmatrix} 1 & -2 & 1 \\\\ -2 & 4 & -2 \\\\
            1 & -2 & 1 \\end{pmatrix} ,

    to which a source of the size of the beam contributes 6 % of its
    peak (with 4.5 pixels per FWHM), and white noise 6 times its rms. Of
    noise that has been smoothed with the beam, a few per cent of the
    rms are left, which is enough.

    The rms of a block is the 35th percentile of the absolute
    differences, divided by that of a unit Gaussian. If the 75th
    percentile gives an rms that is higher by more than a factor of 1.3,
    the block contains bright sources or a step of the noise, and its rms is
    taken from its neighbors. If this concerns most blocks, there are too
    many sources to measure the noise between them, and the result is
    `None`.

    It is also `None` if the 1st and the 99th percentile of the rms
    differ by less than a factor of 2: chance gives 1.6 in stationary
    noise, and 1.8 on crowded maps.

    References
    ----------
    Immerkaer J. 1996, Computer Vision and Image Understanding, 64, 300.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.noise import measure_noise_variation
    >>> data = np.random.default_rng(1).normal(size=(200, 400))
    >>> print(measure_noise_variation(data, fwhm=3.0))
    None
    >>> data[:, 200:] *= 3.0
    >>> relative = measure_noise_variation(data, fwhm=3.0)
    >>> print(f'{relative[100, 350] / relative[100, 50]:.1f}')
    3.0
    """
    values, _ = strip_units(data=data)
    data, mask = as_masked_image(values['data'], mask)
    extent = good_extent(mask)
    inside = np.where(mask[extent], np.nan, data[extent])
    rms, n_used, size = _fine_rms(inside.__getitem__, inside.shape, fwhm)
    del inside
    known = rms > 0.0
    if not np.sum(n_used[known]) > _MIN_KNOWN * np.sum(n_used):
        return None
    rms = _smooth_blocks(rms, known)
    low, typical, high = _weighted_quantiles(rms, n_used, [0.01, 0.5, 0.99])
    if high <= _VARIATION * low:
        return None
    return _relative_image(rms / typical, extent, size, data.shape)[:, :]


def noise_variation_grid(read, shape, fwhm):
    """
    Measure how the noise of a large map varies, a few rows of blocks at a
    time, as `measure_noise_variation` does.

    ``read`` returns the pixels of a tuple of 2 slices, NaN where there are no
    data.
    """
    rows, columns = np.zeros(shape[0], bool), np.zeros(shape[1], bool)
    for start in range(0, shape[0], _CHUNK):
        part = slice(start, start + _CHUNK)
        good = np.isfinite(read((part, slice(None))))
        rows[part] = good.any(axis=1)
        columns |= good.any(axis=0)
    extent = tuple(slice(int(np.argmax(axis)),
                         len(axis) - int(np.argmax(axis[::-1])))
                   for axis in (rows, columns))
    origin = [part.start for part in extent]
    size_of = [part.stop - part.start for part in extent]

    def read_inside(part):
        return read(tuple(
            slice(first + one.start, first + min(one.stop, size))
            for first, size, one in zip(origin, size_of, part, strict=True)))

    rms, n_used, size = _fine_rms(read_inside, size_of, fwhm)
    known = rms > 0.0
    if not np.sum(n_used[known]) > _MIN_KNOWN * np.sum(n_used):
        return None
    rms = _smooth_blocks(rms, known)
    low, typical, high = _weighted_quantiles(rms, n_used, [0.01, 0.5, 0.99])
    if high <= _VARIATION * low:
        return None
    return _relative_image(rms / typical, extent, size, shape)


def _relative_image(rms, extent, size, shape):
    """
    Return the image of the relative rms in blocks.
    """
    return GridImage(np.maximum(rms, _FLOOR),
                     [part.start + 0.5 * (one - 1)
                      for part, one in zip(extent, size, strict=True)],
                     size, shape, extent=extent)


class GridImage:
    """
    An image that is interpolated between the points of a coarse grid.

    Parameters
    ----------
    values : 2D `~numpy.ndarray`
        The values at the points.

    origin : tuple of 2 floats
        The row and column of the first point.

    step : tuple of 2 floats
        The distances of the points along both axes in pixels.

    shape : tuple of 2 ints
        The shape of the image.

    extent : tuple of 2 slices, optional
        The rows and columns that are interpolated; all by default.

    outside : float, optional
        The value outside of ``extent``.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.noise import GridImage
    >>> image = GridImage(np.array([[1.0, 3.0]]), (0, 0), (1, 4), (1, 6))
    >>> print(image[:, 1:])
    [[1.5 2.  2.5 3.  3. ]]
    """

    ndim = 2

    def __init__(self, values: np.ndarray, origin: Sequence[float],
                 step: Sequence[float], shape: tuple[int, int], *,
                 extent: tuple[slice, slice] | None = None,
                 outside: float = 1.0) -> None:
        self.values = np.asarray(values, dtype=float)
        self.origin = tuple(origin)
        self.step = tuple(step)
        self.shape = tuple(shape)
        self.extent = extent
        self.outside = outside

    def __getitem__(self, slices: tuple[slice, slice]) -> np.ndarray:
        shape = [len(range(size)[one]) for one, size in zip(
            slices, self.shape, strict=True)]
        image = np.empty(shape)
        for part, values in self._iter_rows(slices):
            image[part] = values
        return image

    def subtract_from(self, image: np.ndarray) -> None:
        """
        Subtract it from an image, in place.

        Parameters
        ----------
        image : 2D `~numpy.ndarray`
            The image.
        """
        for part, values in self._iter_rows((slice(None), slice(None))):
            image[part] -= values

    def _iter_rows(self, slices):
        """
        Yield slices of rows of a cutout and the values there: few rows at
        once, so that they stay in the cache of a processor.
        """
        pixels = [np.arange(size)[one] for one, size in zip(
            slices, self.shape, strict=True)]
        columns, rows = (
            np.clip((index - first) / step, 0.0, size - 1)
            for index, first, step, size in zip(
                pixels[::-1], self.origin[::-1], self.step[::-1],
                self.values.shape[::-1], strict=True))
        # interpolation needs two points along each axis
        values = np.pad(self.values, ((0, 1), (0, 1)), mode='edge')
        along_x = _interpolate(values.T, columns).T
        outside = [np.zeros(len(index), dtype=bool) for index in pixels]
        if self.extent is not None:
            outside = [(index < part.start) | (index >= part.stop)
                       for index, part in zip(pixels, self.extent,
                                              strict=True)]
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            values = _interpolate(along_x, rows[part])
            values[outside[0][part]] = self.outside
            values[:, outside[1]] = self.outside
            yield part, values

    def at(self, row: NDArray[np.integer],
           col: NDArray[np.integer]) -> np.ndarray:
        """
        Return the values of single pixels.

        Parameters
        ----------
        row, col : 1D int `~numpy.ndarray`
            The pixels, inside of ``extent``.

        Returns
        -------
        values : 1D `~numpy.ndarray`
            The values.
        """
        lower, part = [], []
        for index, first, step, size in zip(
                (row, col), self.origin, self.step, self.values.shape,
                strict=True):
            position = np.clip((index - first) / step, 0.0, size - 1)
            lower.append(position.astype(int))
            part.append(position - lower[-1])
        (i, j), (v, u) = lower, part
        upper = [np.minimum(one + 1, size - 1) for one, size in zip(
            lower, self.values.shape, strict=True)]
        return ((1.0 - v) * ((1.0 - u) * self.values[i, j]
                             + u * self.values[i, upper[1]])
                + v * ((1.0 - u) * self.values[upper[0], j]
                       + u * self.values[upper[0], upper[1]]))

    def at_points(self, other: GridImage) -> np.ndarray:
        """
        Return the values at the points of another grid of this image.

        Parameters
        ----------
        other : `GridImage`
            The other grid.

        Returns
        -------
        values : 2D `~numpy.ndarray`
            The values.
        """
        step = tuple(slice(int(first), None, int(one)) for first, one in zip(
            other.origin, other.step, strict=True))
        values = self[step]
        missing = [(0, size - len_) for size, len_ in zip(
            other.values.shape, values.shape, strict=True)]
        return np.pad(values, missing, mode='edge')

    def scale(self, factor: float) -> GridImage:
        """
        Return the image multiplied by a number.

        Parameters
        ----------
        factor : float
            The number.

        Returns
        -------
        image : `GridImage`
            The product.
        """
        return GridImage(self.values * factor, self.origin, self.step,
                         self.shape, extent=self.extent,
                         outside=factor * self.outside)


def _fine_rms(read, shape, fwhm):
    """
    Return the rms of second differences in blocks (zero where it is not
    known), the number of differences, and the size of a block in pixels.

    To save memory, it is computed a few rows of blocks at a time. ``read``
    returns pixels, NaN where there are no data.
    """
    side = max(1, round(_BIN * fwhm))
    shape = [max(1, length // side) for length in shape]
    block = max(_MIN_BLOCK, round(_BLOCK * fwhm / side))
    n_blocks = [max(1, round(length / block)) for length in shape]
    size = [-(-length // n) for length, n in zip(shape, n_blocks,
                                                 strict=True)]
    n_blocks = [-(-length // one) for length, one in zip(shape, size,
                                                         strict=True)]
    rms, n_used = np.zeros(n_blocks), np.zeros(n_blocks)
    used = slice(0, shape[1] * side)
    step = max(1, _CHUNK // size[0])
    for row in range(0, n_blocks[0], step):
        last = min(row + step, n_blocks[0])
        # with the neighbors that the differences need
        first = max(0, row * size[0] - 1)
        rows = slice(first * side, min(shape[0], last * size[0] + 1) * side)
        part = read((rows, used))
        if side > 1:
            part = part.reshape(-1, side, shape[1], side).mean(axis=(1, 3))
        part = np.diff(np.diff(part, 2, axis=0), 2, axis=1)
        blocks = np.full(((last - row) * size[0], n_blocks[1] * size[1]),
                         np.nan)
        top = first + 1 - row * size[0]
        np.abs(part, out=blocks[top:top + len(part), 1:1 + part.shape[1]])
        blocks = blocks.reshape(-1, size[0], n_blocks[1], size[1])
        blocks = np.swapaxes(blocks, 1, 2).reshape(-1, n_blocks[1],
                                                   size[0] * size[1])
        blocks.sort(axis=2)  # NaN last
        number = np.count_nonzero(np.isfinite(blocks), axis=2)
        low, high = (
            np.take_along_axis(
                blocks, (number * quantile).astype(int)[:, :, np.newaxis],
                axis=2)[:, :, 0] / unit
            for quantile, unit in zip(_QUANTILES, _UNIT_QUANTILES,
                                      strict=True))
        enough = number >= _MIN_DIFFERENCES
        n_used[row:last][enough] = number[enough]
        clean = enough & (high <= _MAX_RATIO * low)
        rms[row:last][clean] = low[clean]
    return rms, n_used, [one * side for one in size]


def _smooth_blocks(rms, known):
    """
    Fill the blocks with an unknown rms, and smooth.

    Such blocks contain bright sources or a step of the noise; they get the
    geometric mean of the nearest block and the highest neighbor, as a
    compromise. The median filter removes single outliers.
    """
    nearest = rms[tuple(distance_transform_edt(
        ~known, return_distances=False, return_indices=True))]
    highest = maximum_filter(rms, 3, mode='nearest')
    filled = np.sqrt(nearest * np.maximum(nearest, highest))
    rms = median_filter(np.where(known, rms, filled), 3, mode='nearest')
    return gaussian_filter(rms, _SMOOTHING, mode='nearest')


def _weighted_quantiles(values, weights, fractions):
    """
    Return the values below which these fractions of the weights are.
    """
    order = np.argsort(values, axis=None)
    rank = np.cumsum(weights.ravel()[order])
    place = np.searchsorted(rank, np.array(fractions) * rank[-1])
    return values.ravel()[order[place]]


def _mean_of_good(values, good, sigma):
    """
    Return the mean of the good pixels, weighted with a Gaussian; others
    have the value 0.
    """
    weight = gaussian_filter(good, sigma, mode='constant')
    total = gaussian_filter(values, sigma, mode='constant')
    total /= np.maximum(weight, 1e-12, out=weight)
    return total


def mean_in_blocks(values, good, sigma):
    """
    Return the mean of the good pixels, weighted with a wide Gaussian, as a
    `GridImage`.

    It is approximate and fast: pixels are averaged in blocks that are small
    compared with the Gaussian, and the smoothed means are interpolated, with
    errors of about 1 % of their fluctuations.
    """
    step = max(1, int(_SMALL_BLOCK * sigma))
    # blocks are as wide as a Gaussian of this variance
    width = np.sqrt(sigma**2 - (step**2 - 1) / 12.0) / step
    total, weight = (
        gaussian_filter(sums, width, mode='constant')
        for sums in _block_sums(values, good, step))
    origin = -0.5 * (step + 1)
    return GridImage(total / np.maximum(weight, 1e-12), (origin, origin),
                     (step, step), values.shape)


def _block_sums(values, good, step):
    """
    Return the sums of good values and of good pixels over blocks, with a
    margin of one empty block, which lets interpolation reach the edges.
    """
    ny, nx = (-(-size // step) + 2 for size in values.shape)
    sums = np.zeros((2, ny, values.shape[1]))
    for first in range(step):
        used = good[first::step]
        rows = slice(1, 1 + len(used))
        sums[0, rows] += np.where(used, values[first::step], 0.0)
        sums[1, rows] += used
    blocks = np.zeros((2, ny, nx))
    for first in range(step):
        part = sums[:, :, first::step]
        blocks[:, :, 1:1 + part.shape[2]] += part
    return blocks


def subtract_surface(data, good):
    """
    Return a map minus the least-squares quadratic surface of its good pixels.
    """
    powers_v, powers_u = (np.linspace(-1.0, 1.0, size)
                          ** np.arange(5)[:, None] for size in data.shape)
    terms = [(i, j) for i in range(3) for j in range(3 - i)]
    # Sums over the pixels of u^i v^j, one axis at a time.
    moments, sums = np.zeros((5, 5)), np.zeros((3, 3))
    parts = [slice(start, start + _CHUNK)
             for start in range(0, len(data), _CHUNK)]
    for part in parts:
        used = good[part]
        moments += powers_v[:, part] @ used.astype(float) @ powers_u.T
        sums += (powers_v[:3, part] @ np.where(used, data[part], 0.0)
                 @ powers_u[:3].T)
    normal = np.array([[moments[j + n, i + m] for m, n in terms]
                       for i, j in terms])
    coeffs = np.zeros((3, 3))
    coeffs[tuple(np.array(terms)[:, ::-1].T)] = np.linalg.lstsq(
        normal, np.array([sums[j, i] for i, j in terms]), rcond=None)[0]
    level = np.empty(data.shape)
    for part in parts:
        np.subtract(data[part], powers_v[:3, part].T @ coeffs @ powers_u[:3],
                    out=level[part])
    return level


def _interpolate(values, position):
    """
    Interpolate linearly between rows.
    """
    row = np.minimum(position.astype(int), len(values) - 2)
    part = (position - row)[:, np.newaxis]
    return (1.0 - part) * values[row] + part * values[row + 1]
