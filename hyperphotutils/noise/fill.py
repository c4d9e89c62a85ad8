# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Values that mark missing data, such as zeros around a field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperphotutils.utils.checks import check_positive
from hyperphotutils.utils.stored import row_blocks
from hyperphotutils.utils.tables import open_nddata, strip_units

if TYPE_CHECKING:
    from hyperphotutils.utils.typing import ImageLike

__all__ = ['find_fill_values']

# A fill value covers squares of this side, or straight runs of twice that.
# In a quantized map, neighbors may also share a value: the side is then
# doubled until at most this number of values covers such a region.
_SIDE = 3
_MAX_VALUES = 4
# Largest ratio of the pixels outside to those inside such regions. If it is
# exceeded, the value is one of the quantized data.
_MAX_OUTSIDE = 0.2
# Smallest difference between the data and a fill value, in units of the
# typical step between neighboring pixels and of the smallest step (the wings
# of a noiseless source decrease to the rounding error).
_MIN_JUMP = 1e-5
_MIN_QUANTA = 3.0
# Extremes along a line for each FWHM. Noise that the beam has smoothed has
# sqrt(12 ln 2) / pi = 0.92 (Rice 1944, Bell Syst. Tech. J. 23, 282), half of
# them minima; isolated sources without noise have no minima.
MIN_EXTREMES = 0.5
# Pixels on the lines that are examined, at most.
_MAX_SAMPLE = 1_000_000
# Lines that are examined at once.
_CHUNK = 64


def find_fill_values(data: ImageLike, fwhm: float, *,
                     mask: ArrayLike | None = None
                     ) -> tuple[NDArray[np.bool_], tuple[float, ...]]:
    """
    Find exact values that mark missing data.

    Many programs put zero, -32768, or another number where a map has no
    data: around the field, at the edge of a mosaic, in gaps. A detector
    with noise does not give the same value over and over.

    Parameters
    ----------
    data : 2D array_like, `~astropy.units.Quantity` or \
            `~astropy.nddata.NDData`
        The map. Pixels that are not finite are ignored.

    fwhm : float
        The FWHM of the beam in pixels.

    mask : 2D bool array_like, optional
        `True` for pixels to ignore.

    Returns
    -------
    fill : 2D bool `~numpy.ndarray`
        `True` for the pixels with a fill value.

    values : tuple of float
        The fill values, in the unit of ``data``.

    See Also
    --------
    detect_bad_pixels : Find glitches and saturated sources, too.

    Notes
    -----
    A fill value covers squares of 3 x 3 pixels or straight runs of 6,
    and hardly occurs elsewhere. It is only recognized beside data that
    have noise, which fluctuate on the scale of the beam or are cut off
    abruptly at the value: the constant background of a simulated map
    without noise is no fill. In a quantized map, where neighbors may
    have the same value by chance, fill is several quanta from the data
    beside it. The flat top of a saturated source is no fill.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.noise import find_fill_values
    >>> data = np.zeros((60, 80))
    >>> rng = np.random.default_rng(1)
    >>> data[10:50, 20:60] = rng.normal(size=(40, 40))
    >>> fill, values = find_fill_values(data, fwhm=3.0)
    >>> print(fill.sum(), [float(value) for value in values])
    3200 [0.0]
    """
    fwhm = check_positive(fwhm, 'fwhm', of='pixels')
    values = finite_values(data, mask)
    with np.errstate(over='ignore', invalid='ignore'):
        return find_fill(values, fwhm)


def finite_values(data, mask):
    """
    Copy the values of an image, without a unit, with NaN for all pixels to
    ignore. Single precision is kept.

    Raises a `TypeError` if the image is not an array of real numbers, and a
    `ValueError` if it is not 2D or ``mask`` has another shape.
    """
    data, mask, _ = open_nddata(data, mask)
    # numpy ignores the mask of a masked array without a warning
    own = np.ma.getmaskarray(data) if isinstance(
        data, np.ma.MaskedArray) else getattr(data, 'mask', False)
    data = np.asarray(strip_units(data=getattr(data, 'unmasked', data))[0]
                      ['data'])
    if data.dtype.kind not in 'fiu':
        msg = f'data must be an array of real numbers, got {data.dtype}'
        raise TypeError(msg)
    if data.ndim != 2:
        msg = f'data must be 2D, got the shape {data.shape}'
        raise ValueError(msg)
    single = data.dtype.kind == 'f' and data.dtype.itemsize <= 4
    values = data.astype('f4' if single else 'f8')
    values[~np.isfinite(values) | own] = np.nan
    if mask is not None and mask is not np.ma.nomask:
        mask = np.asarray(mask, dtype=bool)
        if mask.shape != data.shape:
            msg = (f'mask must have the shape of data, {data.shape}, got '
                   f'{mask.shape}')
            raise ValueError(msg)
        values[mask] = np.nan
    return values


def sample_pixels(values):
    """
    Return some or all pixels of an image that are not NaN; none if all are.
    """
    ny, nx = values.shape
    every = -(-ny * nx // _MAX_SAMPLE)
    blocks = row_blocks(values.shape)
    # copies, which do not keep the blocks
    sample = np.concatenate([
        values[rows].ravel()[-rows.start * nx % every::every].copy()
        for rows in blocks])
    sample = sample[~np.isnan(sample)]
    if sample.size:
        return sample
    parts = [values[rows] for rows in blocks]
    return np.concatenate([part[~np.isnan(part)] for part in parts])


class FillValues(NamedTuple):
    """
    The fill values of an image, from `recognize_fill`.

    Those ``everywhere`` are fill in all pixels; the others, which data of a
    quantized map take, too, only in squares with this ``side``.
    """

    values: tuple = ()
    everywhere: tuple = ()
    side: int = _SIDE

    def mask(self, image, rows):
        """
        Return the mask of the pixels with a fill value in some rows of the
        image.
        """
        if not self.values:
            return np.zeros((rows.stop - rows.start, image.shape[1]), bool)
        part, solid = _solid_rows(image, rows, self.side)
        mask = np.zeros(part.shape, dtype=bool)
        for value in self.values:
            equal = part == value
            mask |= equal if value in self.everywhere else equal & solid
        return mask


def find_fill(values, fwhm):
    """
    Return the fill values and the values of `find_fill_values`, for an image
    of `finite_values`.
    """
    fill = recognize_fill(values, fwhm)
    return fill.mask(values, slice(0, len(values))), tuple(
        float(value) for value in fill.values)


def recognize_fill(values, fwhm):
    """
    Return the `FillValues` of an image with NaN for pixels to ignore.

    The image is read in blocks of rows: it can be in a file.
    """
    side, candidates = _candidates(values)
    if not candidates:
        return FillValues()
    data = measure_fluctuations(values, exclude=candidates)
    found, everywhere = [], []
    for value in candidates:
        around, n_equal, n_inside = _measure_region(values, value, side,
                                                    candidates)
        if around.size == 0 or _is_top(value, around, values):
            continue
        isolated = (data.extremes * fwhm > MIN_EXTREMES
                    and _is_isolated(value, values, candidates))
        if not (isolated or _is_fill(value, around, data, fwhm, n_equal,
                                     n_inside)):
            continue
        found.append(value)
        # the data of a quantized map take such a value, too
        if isolated or side == _SIDE:
            everywhere.append(value)
    return FillValues(tuple(found), tuple(everywhere), side)


def _is_fill(value, around, data, fwhm, n_equal, n_inside):
    """
    Whether a value that covers squares is next to data with noise.
    """
    if n_equal - n_inside > _MAX_OUTSIDE * n_inside:
        return False
    jump = np.median(np.abs(around - value))
    if jump <= max(_MIN_JUMP * data.step, _MIN_QUANTA * data.smallest):
        return False
    return jump > data.step or data.extremes * fwhm > MIN_EXTREMES


def _is_isolated(value, values, candidates):
    """
    Whether a value is farther from all data than those are from each
    other.
    """
    low, high = np.inf, -np.inf
    for rows in row_blocks(values.shape):
        part = values[rows]
        data = np.isfinite(part)
        for candidate in candidates:
            data &= part != candidate
        low = np.min(part, where=data, initial=low)
        high = np.max(part, where=data, initial=high)
    return max(low - value, value - high) > high - low


def _candidates(values):
    """
    Find the values that cover squares or straight runs.

    Returns the side of the squares, and the values; no values where there
    are none or too many.
    """
    side = _SIDE
    while 2 * side <= max(values.shape):
        candidates = []
        for rows in row_blocks(values.shape):
            part, solid = _solid_rows(values, rows, side)
            rest = part[solid]
            for value in candidates:
                rest = rest[rest != value]
            while rest.size > 0 and len(candidates) <= _MAX_VALUES:
                candidates.append(rest[0])
                rest = rest[rest != rest[0]]
        if len(candidates) <= _MAX_VALUES:
            return side, candidates
        side *= 2
    return side, []


def _solid_rows(values, rows, side):
    """
    Return some rows of an image, and which pixels `_solid` finds in them.
    """
    # what a run through a pixel can reach
    first = max(rows.start - 2 * side + 1, 0)
    part = values[first:rows.stop + 2 * side - 1]
    solid = _solid(part[:, 1:] == part[:, :-1], part[1:] == part[:-1], side)
    inner = slice(rows.start - first, rows.stop - first)
    return part[inner], solid[inner]


def _solid(right, down, side):
    """
    Return the pixels in squares of one value, or in runs of twice their
    side.

    ``right`` and ``down`` state whether a pixel has the value of the next
    one.
    """
    ny, nx = len(right), down.shape[1]
    solid = np.zeros((ny, nx), dtype=bool)
    if not (right.any() or down.any()):
        return solid
    if min(ny, nx) >= side:
        rows = _all_of(right, side - 1, axis=1)
        starts = _all_of(rows, side, axis=0)
        starts &= _all_of(down[:, :nx - side + 1], side - 1, axis=0)
        if starts.any():
            solid |= _spread(_spread(starts, side, axis=1), side, axis=0)
    for axis, flags, size in ((1, right, nx), (0, down, ny)):
        if size >= 2 * side:
            starts = _all_of(flags, 2 * side - 1, axis=axis)
            if starts.any():
                solid |= _spread(starts, 2 * side, axis=axis)
    return solid


def _all_of(flags, n, *, axis):
    """
    Return where a flag and the ``n - 1`` after it are all set.

    The array becomes shorter by ``n - 1``.
    """
    flags = np.moveaxis(flags, axis, 0)
    length = 1
    while length < n:
        step = min(length, n - length)
        flags = flags[:-step] & flags[step:]
        length += step
    return np.moveaxis(flags, 0, axis)


def _spread(flags, n, *, axis):
    """
    Set the ``n - 1`` flags after each one that is set: undo `_all_of`.
    """
    flags = np.moveaxis(flags, axis, 0)
    length = 1
    while length < n:
        step = min(length, n - length)
        longer = np.zeros((len(flags) + step, *flags.shape[1:]), dtype=bool)
        longer[:-step] = flags
        longer[step:] |= flags
        flags = longer
        length += step
    return np.moveaxis(flags, 0, axis)


class Fluctuations(NamedTuple):
    """
    The fluctuations of data along rows and columns; NaN where there are none.

    ``extremes`` is twice the fraction of pixels that are minima, or maxima,
    of their line, whichever are fewer; ``step`` is the median absolute step
    between neighbors; ``smallest`` is the smallest step between different
    values, which is the quantum in a quantized map.
    """

    extremes: float = np.nan
    step: float = np.nan
    smallest: float = np.nan


def measure_fluctuations(values, *, exclude=()):
    """
    Return the `Fluctuations` of an image with NaN for pixels to ignore, from
    evenly spaced lines of a large map.

    The values ``exclude`` are not data.
    """
    n_minima = n_maxima = n_triples = 0
    steps = []
    for lines in _sample_lines(values):
        data = lines.copy()
        for value in exclude:
            data[data == value] = np.nan
        step = np.diff(data, axis=1)
        steps.append(np.abs(step[np.isfinite(step)]))
        rise, fall = step > 0.0, step < 0.0
        n_minima += np.count_nonzero(fall[:, :-1] & rise[:, 1:])
        n_maxima += np.count_nonzero(rise[:, :-1] & fall[:, 1:])
        known = np.isfinite(step)
        n_triples += np.count_nonzero(known[:, :-1] & known[:, 1:])
    steps = np.concatenate(steps)
    if n_triples == 0 or not np.any(steps > 0.0):
        return Fluctuations()
    return Fluctuations(2 * min(n_minima, n_maxima) / n_triples,
                        np.median(steps), steps[steps > 0.0].min())


def smallest_step(values):
    """
    Return the last one of the `Fluctuations` of data alone.
    """
    smallest = np.inf
    for lines in _sample_lines(values):
        # few lines at once, so that they stay in the cache of a processor
        for start in range(0, len(lines), _CHUNK):
            step = np.diff(lines[start:start + _CHUNK], axis=1)
            np.abs(step, out=step)
            np.copyto(step, np.inf, where=~(step > 0.0))  # also NaN
            smallest = np.min(step, initial=smallest)
    return smallest if smallest < np.inf else np.nan


def _sample_lines(values):
    """
    Return evenly spaced rows, and evenly spaced columns, of an image.
    """
    ny, nx = values.shape
    every = -(-ny * nx // _MAX_SAMPLE)
    # copies, which do not keep the blocks
    columns = np.concatenate([values[rows][:, ::every].copy()
                              for rows in row_blocks(values.shape)])
    return values[::every], columns.T


def _measure_region(values, value, side, candidates):
    """
    Return the values of data next to the pixels of a candidate, the number
    of these pixels, and how many of them are in squares.
    """
    around, n_equal, n_inside = [], 0, 0
    for rows in row_blocks(values.shape):
        part, solid = _solid_rows(values, rows, side)
        equal = part == value
        n_equal += np.count_nonzero(equal)
        n_inside += np.count_nonzero(equal & solid)
        # neighbors along rows, and along columns to the next block
        below = values[rows.start:rows.stop + 1]
        for image, region in ((part.T, equal.T), (below, below == value)):
            border = region[1:] != region[:-1]
            first = region[:-1][border]
            around.append(np.where(first, image[1:][border],
                                   image[:-1][border]))
    around = np.concatenate(around)
    return (around[np.isfinite(around) & ~np.isin(around, candidates)],
            n_equal, n_inside)


def _is_top(value, around, values):
    """
    Whether a value is that of the flat tops of saturated sources.

    The source around a top is lower, but far above everything else; a
    fill value lies beside data of any height.
    """
    if not np.all(around < value):
        return False
    sample = sample_pixels(values)
    typical = np.median(sample[sample != value])
    return np.median(around) > typical + 0.1 * (value - typical)
