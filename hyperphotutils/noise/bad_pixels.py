# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Pixels that cannot be what a beam and a linear detector have measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import label

from hyperphotutils.noise.fill import (
    MIN_EXTREMES,
    find_fill,
    finite_values,
    measure_fluctuations,
    sample_pixels,
    smallest_step,
)
from hyperphotutils.utils.checks import check_positive

if TYPE_CHECKING:
    from hyperphotutils.utils.typing import ImageLike

__all__ = ['BAD_PIXELS', 'BadPixels', 'detect_bad_pixels']

BAD_PIXELS = MappingProxyType({'glitch': 1, 'saturated': 2, 'fill': 4})
"""
The bit value of each kind of bad pixel.
"""

# A pixel is compared with pairs of pixels on opposite sides, in these
# directions: first with the nearest ones, then, next to glitches, with those
# at these distances in pixels.
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
_STEPS = (1, 2, 3)
_AROUND = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
# A glitch is sharper than a point source seen with a beam that is narrower
# than ``fwhm`` by the square root of this number. Glitches are not searched
# for if ``fwhm`` is so small (in pixels) that point sources resemble them.
_SHARPNESS = 2.5
_LEAST_RESPONSE = 0.1
_MIN_FWHM = 2.2
# Neighbors of a glitch are glitches in the same round only if their excess
# is at least this fraction of its excess.
_LEAST_STRENGTH = 0.3
# The noise is measured in tiles of this side, and then around each candidate
# within this distance.
_TILE = 64
_NEAR = 7
_MIN_PIXELS = 20
# From the median and the 85th percentile of absolute values to the rms of a
# Gaussian, and from a quantum to the rms of second differences: rounding has
# the variance 1/12, and a pixel minus the mean of two others 1.5 times that.
_MEDIAN_TO_SIGMA = 1.4826
_PERCENTILE = 0.85
_PERCENTILE_TO_SIGMA = 1.0 / 1.4395
_QUANTUM_TO_SIGMA = np.sqrt(1.5 / 12.0)
# Number of candidates in one batch, which bounds the memory.
_CHUNK = 20_000
# A flat top is saturated if the pixels of an unsaturated peak would differ by
# more than this multiple of the smallest step between neighboring pixels, or
# of the rms.
_MIN_DROP = 5.0
# Relative rounding error of values: eight times the precision of 32-bit
# floats.
_ROUNDING = 1e-6
# Largest probability that pixels have the same value by chance.
_CHANCE = 1e-4


@dataclass(frozen=True, eq=False, repr=False)
class BadPixels:
    """
    The bad pixels of a map, by kind.

    Parameters
    ----------
    bits : 2D `~numpy.ndarray` of uint8
        The sum of the `BAD_PIXELS` bits of each pixel, 0 for a good one.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.noise import BadPixels
    >>> bad = BadPixels(np.array([[0, 1], [1, 4]], dtype='u1'))
    >>> bad
    <BadPixels: glitch=2, saturated=0, fill=1>
    >>> print(bad.mask)
    [[False  True]
     [ True  True]]
    """

    bits: np.ndarray

    def __repr__(self) -> str:
        counts = ', '.join(f'{kind}={n}' for kind, n in self.counts.items())
        return f'<{type(self).__name__}: {counts}>'

    @property
    def mask(self) -> NDArray[np.bool_]:
        """
        `True` for bad pixels of any kind.
        """
        return self.bits > 0

    @property
    def glitch(self) -> NDArray[np.bool_]:
        """
        `True` for pixels that are sharper than the beam
        allows.
        """
        return self._of_kind('glitch')

    @property
    def saturated(self) -> NDArray[np.bool_]:
        """
        `True` for pixels in the flat top of a source.
        """
        return self._of_kind('saturated')

    @property
    def fill(self) -> NDArray[np.bool_]:
        """
        `True` for pixels with a value that marks missing data.
        """
        return self._of_kind('fill')

    @property
    def counts(self) -> dict[str, int]:
        """
        A dictionary of the number of pixels of each kind.
        """
        return {kind: int(np.count_nonzero(self._of_kind(kind)))
                for kind in BAD_PIXELS}

    def _of_kind(self, kind):
        """
        Return the mask of one kind.
        """
        return (self.bits & BAD_PIXELS[kind]) > 0


def detect_bad_pixels(data: ImageLike, fwhm: float, *,
                      mask: ArrayLike | None = None,
                      n_sigma: float = 7.0) -> BadPixels:
    r"""
    Detect pixels that no source in the beam can explain.

    There are three kinds: glitches (cosmic rays, hot and dead pixels),
    the flat tops of saturated sources, and exact values that mark
    no data.

    Parameters
    ----------
    data : 2D array_like, `~astropy.units.Quantity`, or NDData
        The map. Pixels that are not finite are ignored.

    fwhm : float
        The FWHM of the beam in pixels; of the minor axis if the beam is
        an ellipse.

    mask : 2D bool array_like, optional
        `True` for pixels to ignore.

    n_sigma : float, optional
        The least excess of a glitch over the limit of the beam, in units
        of the noise around it. The default is 7.

    Returns
    -------
    bad_pixels : `BadPixels`
        The bad pixels: ``bad_pixels.mask``, one mask for each kind, and
        ``bad_pixels.counts``. Ignored pixels are not bad.

    Raises
    ------
    TypeError
        If ``data`` is not an array of real numbers.

    ValueError
        If ``data`` is not 2D, if ``mask`` has another shape, or if
        ``fwhm`` or ``n_sigma`` is not positive.

    See Also
    --------
    find_fill_values : Find the exact values alone.

    Notes
    -----
    **Glitches.** Let a map be the convolution of any sky :math:`s \ge
    0` with a Gaussian beam, plus a constant :math:`b`. The mean of two
    pixels at the distance :math:`d` on opposite sides of a pixel of
    value :math:`c` is then at least :math:`b + g (c - b)` with
    :math:`g = \exp(-4 \ln 2 \, d^2 / \mathrm{FWHM}^2)`, the response
    of a point source in the center of the pixel. A glitch is above both
    pixels of a pair by more than :math:`(1 - g^{2.5}) (c - b)`, which
    allows for a beam that is narrower than ``fwhm`` by a factor of 1.6,
    and by ``n_sigma`` times the noise. Dips are treated likewise. The
    constant is the second lowest of eight pixels around, somewhat more
    than one FWHM away, or twice as far if that is lower, and the noise
    is that of the second differences of neighboring pixels. Clusters of
    up to about three quarters of a FWHM are found, and lines of any
    length, but nothing next to a corner of the map or to missing pixels
    on all sides.

    With a beam of less than 2.2 pixels no pixel is called a glitch, as
    a star can be that sharp, and with less than 3 pixels only strong,
    single ones are.

    **Flat tops** are connected pixels of exactly the same value above
    all their neighbors, where the peak of a source would not be flat to
    within the noise and the quantization of the map.

    **Fill values**: see `find_fill_values`.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_blended_map
    >>> from hyperphotutils.noise import detect_bad_pixels
    >>> data = make_blended_map((200, 200), 50, beam=4.0, seed=1).image.data
    >>> detect_bad_pixels(data, fwhm=4.0)
    <BadPixels: glitch=0, saturated=0, fill=0>
    >>> data[150, 90:92] += 100 * data.std()
    >>> data[:, :20] = 0.0
    >>> bad_pixels = detect_bad_pixels(data, fwhm=4.0)
    >>> bad_pixels.counts
    {'glitch': 2, 'saturated': 0, 'fill': 4000}
    """
    fwhm = check_positive(fwhm, 'fwhm', of='pixels')
    n_sigma = check_positive(n_sigma, 'n_sigma')
    values = finite_values(data, mask)
    bits = np.zeros(values.shape, dtype=np.uint8)
    if np.isnan(values).all():
        return BadPixels(bits)
    # what overflows is a bad pixel by any measure
    with np.errstate(over='ignore', invalid='ignore'):
        fill, _ = find_fill(values, fwhm)
        bits[fill] = BAD_PIXELS['fill']
        values[fill] = np.nan
        # before the flat tops: several glitches can have the same value
        _add_glitches(bits, values, fwhm, n_sigma)
        bits[_find_flat_tops(values, fwhm)] = BAD_PIXELS['saturated']
    return BadPixels(bits)


def _find_flat_tops(values, fwhm):
    """
    Find the flat tops of saturated sources.
    """
    flat = np.zeros(values.shape, dtype=bool)
    y, x = _equal_peaks(values)
    if y.size == 0:
        return flat
    data = measure_fluctuations(values)
    if not data.step > 0.0:  # without noise, or coarsely quantized
        return flat
    flat[y, x] = True
    labels, n_tops = label(flat, np.ones((3, 3)))
    number = labels[y, x] - 1
    size = np.bincount(number, minlength=n_tops)
    value = np.zeros(n_tops)
    value[number] = values[y, x]
    # how far the pixels of a top are from its center, squared
    center_y, center_x = (np.bincount(number, a) / size for a in (y, x))
    distance = ((y - center_y[number])**2 + (x - center_x[number])**2)
    nearest, farthest = np.full(n_tops, np.inf), np.zeros(n_tops)
    np.minimum.at(nearest, number, distance)
    np.maximum.at(farthest, number, distance)
    radius = np.sqrt(farthest) + _ring_radius(fwhm)
    height = value - _level_around(
        values, np.rint(center_y).astype(int),
        np.rint(center_x).astype(int), np.rint(radius).astype(int))
    least = _MIN_DROP * np.maximum(data.smallest,
                                   _ROUNDING * np.abs(value))
    # equal by chance in a quantized map, or, without noise, because the
    # source is between two pixels or four
    natural = ((data.smallest / data.step)**(size - 1.0) > _CHANCE
               if data.extremes * fwhm > MIN_EXTREMES else True)
    drop = height * (_response(np.where(natural, nearest, 0.0), fwhm)
                     - _response(farthest, fwhm))
    chosen = drop > np.where(natural, np.maximum(
        least, _MIN_DROP * data.step), least)
    # smaller tops at the same level are saturated, too
    chosen |= np.isin(value, value[chosen])
    flat[y, x] = chosen[number]
    return flat


def _equal_peaks(values):
    """
    Return the pixels in plateaus that are higher than all around them.

    They are far above the bulk of the pixels.
    """
    right = values[:, 1:] == values[:, :-1]
    down = values[1:] == values[:-1]
    if not (right.any() or down.any()):
        return np.empty((2, 0), dtype=int)
    sample = sample_pixels(values)
    center = np.median(sample)
    high = values > center + _MIN_DROP * _MEDIAN_TO_SIGMA * np.median(
        np.abs(sample - center))
    right &= high[:, 1:]
    down &= high[1:]
    equal = np.zeros(values.shape, dtype=bool)
    equal[:, 1:] |= right
    equal[:, :-1] |= right
    equal[1:] |= down
    equal[:-1] |= down
    y, x = np.nonzero(equal)
    neighbors = _neighbors(values, y, x)
    highest = ~np.any(neighbors > values[y, x], axis=0)
    # not those that are connected to a pixel with a higher neighbor
    equal[y, x] = highest
    while True:
        slope = np.any((_neighbors(values, y, x) == values[y, x])
                       & ~_neighbors(equal, y, x), axis=0) & equal[y, x]
        if not slope.any():
            break
        equal[y[slope], x[slope]] = False
    return np.nonzero(equal)


def _neighbors(image, y, x):
    """
    Return the eight neighbors of pixels; beyond the edge, the pixel
    itself or another neighbor.
    """
    ny, nx = image.shape
    return np.array([image[(y + dy).clip(0, ny - 1), (x + dx).clip(0, nx - 1)]
                     for dy, dx in _AROUND])


def _response(square, fwhm):
    """
    Return the response of the beam at a squared distance.
    """
    return np.exp(-4.0 * np.log(2.0) * square / fwhm**2)


def _ring_radius(fwhm):
    """
    Return how far from a source its surroundings are.
    """
    return max(3, int(np.ceil(fwhm)) + 1)


def _level_around(values, y, x, radius):
    """
    Return the second lowest of eight pixels around each position.

    One of them may be bad itself. It is NaN where fewer than two are
    there.
    """
    return np.sort(_ring(values, y, x, radius), axis=0)[1]  # NaN last


def _ring(values, y, x, radius):
    """
    Return the values of eight pixels around each position.
    """
    return np.array([_lookup(values, y + dy * radius, x + dx * radius)
                     for dy, dx in _AROUND])


def _lookup(values, y, x):
    """
    Return the values of pixels, NaN beyond the edge.
    """
    ny, nx = values.shape
    inside = (y >= 0) & (y < ny) & (x >= 0) & (x < nx)
    return np.where(inside, values[y.clip(0, ny - 1), x.clip(0, nx - 1)],
                    np.nan).astype(float)


def _add_glitches(bits, values, fwhm, n_sigma):
    """
    Set the bit of glitches, and their values to NaN.
    """
    limits = {}
    for step in _STEPS:
        for dy, dx in _DIRECTIONS:
            square = step**2 * (dy**2 + dx**2)
            response = _response(_SHARPNESS * square, fwhm)
            if response > _LEAST_RESPONSE:
                limits[step * dy, step * dx] = 1.0 - response
    nearest = {pair: limit for pair, limit in limits.items()
               if pair in _DIRECTIONS}
    noise = _tile_noise(values)
    if fwhm < _MIN_FWHM or noise is None:
        return
    y, x = _sharp_pixels(values, nearest, noise, n_sigma)
    if y.size == 0:
        return
    quantum = smallest_step(values)
    pairs = nearest
    while y.size > 0:
        glitch = _is_glitch(values, y, x, pairs, fwhm, n_sigma,
                            _QUANTUM_TO_SIGMA * quantum)
        if not glitch.any():
            break
        y, x = y[glitch], x[glitch]
        bits[y, x] |= BAD_PIXELS['glitch']
        values[y, x] = np.nan
        # Test their surroundings again: the pixels of a cluster of glitches
        # hide each other.
        y, x = _within(values.shape, y, x, max(_STEPS))
        pairs = limits


def _within(shape, y, x, reach):
    """
    Return all pixels of an image within a distance from given ones.
    """
    ny, nx = shape
    offset = np.arange(-reach, reach + 1)
    y = (y[:, np.newaxis, np.newaxis] + offset[:, np.newaxis]).clip(0, ny - 1)
    x = (x[:, np.newaxis, np.newaxis] + offset).clip(0, nx - 1)
    return np.divmod(np.unique(y * nx + x), nx)


def _tile_noise(values):
    """
    Measure the noise of second differences along rows in tiles.

    Returns
    -------
    noise : 2D `~numpy.ndarray` or `None`
        The rms in each tile; `None` where the map has no noise.
    """
    ny, nx = values.shape
    if nx < 3:
        return None
    n_rows, n_columns = -(-ny // _TILE), -(-nx // _TILE)
    noise = np.full((n_rows, n_columns), np.nan)
    for row in range(n_rows):
        # Every fourth row of a large map is enough.
        lines = values[row * _TILE:(row + 1) * _TILE:4 if ny > _TILE else 1]
        second = np.full((len(lines), n_columns * _TILE), np.nan,
                         dtype=values.dtype)
        second[:, 1:nx - 1] = np.abs(
            lines[:, 1:-1] - 0.5 * (lines[:, 2:] + lines[:, :-2]))
        second = second.reshape(len(lines), n_columns, _TILE)
        second = np.moveaxis(second, 1, 0).reshape(n_columns, -1)
        count = np.count_nonzero(np.isfinite(second), axis=1)
        middle = np.sort(second, axis=1)[np.arange(n_columns), count // 2]
        enough = count >= _MIN_PIXELS
        noise[row, enough] = _MEDIAN_TO_SIGMA * middle[enough]
    if not np.any(noise > 0.0):
        return None
    typical = np.nanmedian(noise[noise > 0.0])
    # a quiet corner may be an artifact
    return np.maximum(np.where(np.isnan(noise), typical, noise),
                      0.1 * typical)


def _sharp_pixels(values, pairs, noise, n_sigma):
    """
    Return the pixels that differ from both pixels of a pair by more than
    the noise, in the same direction.

    Beyond the edge there are no pairs.
    """
    ny, nx = values.shape
    found_y, found_x = [], []
    for row in range(len(noise)):
        first, last = row * _TILE, min((row + 1) * _TILE, ny)
        strip = np.full((last - first + 2, nx + 2), np.nan,
                        dtype=values.dtype)
        below, above = max(first - 1, 0), min(last + 1, ny)
        strip[below - first + 1:above - first + 1, 1:-1] = (
            values[below:above])
        center = strip[1:-1, 1:-1]
        limit = n_sigma * np.repeat(noise[row], _TILE)[:nx].astype(
            values.dtype)
        least_upper = greatest_lower = np.nan
        for dy, dx in pairs:
            one = strip[1 + dy:1 + dy + len(center), 1 + dx:1 + dx + nx]
            other = strip[1 - dy:1 - dy + len(center), 1 - dx:1 - dx + nx]
            least_upper = np.fmin(least_upper, np.maximum(one, other))
            greatest_lower = np.fmax(greatest_lower, np.minimum(one, other))
        sharp = ((center - least_upper > limit)
                 | (greatest_lower - center > limit))
        y, x = np.nonzero(sharp)
        found_y.append(y + first)
        found_x.append(x)
    return np.concatenate(found_y), np.concatenate(found_x)


def _is_glitch(values, y, x, pairs, fwhm, n_sigma, least_noise):
    """
    Whether pixels are sharper than any source can be.
    """
    radius = _ring_radius(fwhm)
    center = values[y, x].astype(float)
    rings = [_ring(values, y, x, n * radius) for n in (1, 2)]
    opposite = {
        (dy, dx): (_lookup(values, y + dy, x + dx),
                   _lookup(values, y - dy, x - dx)) for dy, dx in pairs}
    excess = np.zeros(y.size)
    for sign in (1.0, -1.0):
        value = sign * center
        level = np.fmin(*(np.sort(sign * ring, axis=0)[1] for ring in rings))
        # NaN, and never more, where it is below its surroundings
        height = np.where(value > level, value - level, np.nan)
        for (dy, dx), limit in pairs.items():
            one, other = opposite[dy, dx]
            more = (value - np.maximum(sign * one, sign * other)
                    - limit * height)
            # smooth noise differs with the square of the distance
            excess = np.fmax(excess, more / (dy**2 + dx**2))
    glitch = excess > n_sigma * least_noise
    left = np.flatnonzero(glitch)
    for start in range(0, left.size, _CHUNK):
        chosen = left[start:start + _CHUNK]
        noise = _noise_around(values, y[chosen], x[chosen])
        glitch[chosen] = excess[chosen] > n_sigma * noise  # not for NaN
    # On a slope, a pixel next to a glitch can look like a glitch of the
    # opposite sign. It is tested again in the next round, without the glitch.
    strength = np.zeros(values.shape, dtype=values.dtype)
    strength[y[glitch], x[glitch]] = excess[glitch]
    strongest = _neighbors(strength, y, x).max(axis=0)
    return glitch & (excess > _LEAST_STRENGTH * strongest)


def _noise_around(values, y, x):
    """
    Return the rms of the second differences around pixels; NaN where
    there are too few.

    The quieter one of rows and columns counts: the other one may be
    crossed by a line of bad pixels.
    """
    offset = np.arange(-_NEAR, _NEAR + 1)
    rows = y[:, np.newaxis, np.newaxis] + offset[:, np.newaxis]
    columns = x[:, np.newaxis, np.newaxis] + offset
    stamps = _lookup(values, rows, columns)
    noise = []
    for lines in (stamps, np.swapaxes(stamps, 1, 2)):
        second = np.abs(lines[:, :, 1:-1]
                        - 0.5 * (lines[:, :, 2:] + lines[:, :, :-2]))
        second = np.sort(second.reshape(len(y), -1), axis=1)  # NaN last
        count = np.count_nonzero(np.isfinite(second), axis=1)
        rank = (_PERCENTILE * count).astype(int)
        noise.append(np.where(count >= _MIN_PIXELS,
                              second[np.arange(len(y)), rank], np.nan))
    return _PERCENTILE_TO_SIGMA * np.fmin(*noise)
