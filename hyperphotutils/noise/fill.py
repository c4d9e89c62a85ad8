# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Values that mark missing data, such as zeros around a field.
"""

from typing import NamedTuple

import numpy as np

from hyperphotutils.utils.checks import check_positive
from hyperphotutils.utils.tables import open_nddata, strip_units

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


def find_fill_values(data, fwhm, *, mask=None):
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
    sample = values.ravel()[::-(-values.size // _MAX_SAMPLE)]
    sample = sample[~np.isnan(sample)]
    return sample if sample.size else values[~np.isnan(values)]


def find_fill(values, fwhm):
    """
    Return the fill values and the values of `find_fill_values`, for an image
    of `finite_values`.
    """
    fill = np.zeros(values.shape, dtype=bool)
    side, solid, candidates = _candidates(values)
    if not candidates:
        return fill, ()
    data = measure_fluctuations(values, exclude=candidates)
    found = []
    for value in candidates:
        equal = values == value
        inside = equal & solid
        around = _values_around(values, equal, candidates)
        if around.size == 0 or _is_top(value, around, values):
            continue
        isolated = (data.extremes * fwhm > MIN_EXTREMES
                    and _is_isolated(value, values, candidates))
        if not (isolated or _is_fill(value, around, data, fwhm,
                                     np.count_nonzero(equal),
                                     np.count_nonzero(inside))):
            continue
        found.append(float(value))
        # the data of a quantized map take such a value, too
        fill |= equal if isolated or side == _SIDE else inside
    return fill, tuple(found)


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
    data = np.isfinite(values)
    for candidate in candidates:
        data &= values != candidate
    low = np.min(values, where=data, initial=np.inf)
    high = np.max(values, where=data, initial=-np.inf)
    return max(low - value, value - high) > high - low


def _candidates(values):
    """
    Find the values that cover squares or straight runs.

    Returns the side of the squares, the pixels in them, and the values;
    no values where there are none or too many.
    """
    right = values[:, 1:] == values[:, :-1]
    down = values[1:] == values[:-1]
    side = _SIDE
    while 2 * side <= max(values.shape):
        solid = _solid(right, down, side)
        rest = values[solid]
        candidates = []
        while rest.size > 0 and len(candidates) <= _MAX_VALUES:
            candidates.append(rest[0])
            rest = rest[rest != rest[0]]
        if len(candidates) <= _MAX_VALUES:
            return side, solid, candidates
        side *= 2
    return side, None, []


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
        step = np.abs(np.diff(lines, axis=1))
        smallest = np.min(step, initial=smallest, where=step > 0.0)
    return smallest if smallest < np.inf else np.nan


def _sample_lines(values):
    """
    Return evenly spaced rows, and evenly spaced columns, of an image.
    """
    every = -(-values.size // _MAX_SAMPLE)
    return values[::every], values[:, ::every].T


def _values_around(values, equal, candidates):
    """
    Return the values of data next to the pixels of a candidate.
    """
    around = []
    for axis in (0, 1):
        image, region = (np.moveaxis(a, axis, 0) for a in (values, equal))
        border = region[1:] != region[:-1]
        first = region[:-1][border]
        around.append(np.where(first, image[1:][border],
                               image[:-1][border]))
    around = np.concatenate(around)
    return around[np.isfinite(around) & ~np.isin(around, candidates)]


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
