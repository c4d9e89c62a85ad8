# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
An image with its variances, and with its bad pixels filled.

Nothing of the size of the image is copied: what was filled is kept as a
list, and a cutout is put together when it is asked for.
"""

import warnings

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning
from scipy.ndimage import map_coordinates, minimum_filter

from hyperphotutils.subtraction.polynomials import sample_grid

__all__ = ['OUTSIDE', 'Frame', 'NoiseGrid', 'masked_medians']

#: The variance outside of the image, and of pixels that cannot be
#: filled, in units of that of the sky.
OUTSIDE = 100.0

# Bad pixels are filled from this far, with a Gaussian of sigma 1
_REACH = 2
# With fewer good neighbors than this, a pixel cannot be filled
_MIN_NEIGHBORS = 5
# All pixels within this reach but the one in the middle
_N_NEIGHBORS = (2 * _REACH + 1)**2 - 1
# The value of a saturated pixel is more than those around it by so many
# times itself: where all neighbors are on one side, and for each round
# further inside; stars of a FWHM of 4 pixels have this in the median
_STEEPNESS = 1.5, 2.0
# Pixels that cannot be filled get a value from neighbors that were
# filled before them, so many times; this only makes the step smaller.
_ROUNDS = 6
# What may be missing outside of the image, in units of the noise
_OUTSIDE_DOUBT = 3.0
# Higher values (in units of the noise) would spread rounding errors of
# the single-precision Fourier transforms over their surroundings.
_HIGHEST = 1e7
_SAMPLE = 100_000
_STRIP = 256
_CHUNK = 100_000
# The noise is at least this part of the range of the data
_LEAST_RMS = 1e-6
# The noise is measured in about so many blocks of so many pixels squared,
# small enough that many have no source
_N_BLOCKS = 400
_BLOCK = 16


class Frame:
    """
    An image, ready to be convolved.

    ``error=None`` stands for the robust scatter of the image; ``name`` is
    that of the image in messages. The values are those above ``level``, the
    median of the image.
    """

    def __init__(self, data, error, mask, name):
        self.data = data
        self.error = error
        self.shape = data.shape
        self.name = name
        bad = ~np.isfinite(data)
        if mask is not None:
            bad |= mask
        if error is not None:
            with np.errstate(invalid='ignore'):
                bad |= ~((error > 0.0) & (error < np.inf))
        if bad.all():
            msg = (f'{name} has no usable pixel: all are masked, not finite, '
                   'or without a positive error')
            raise ValueError(msg)
        step = max(1, int(np.sqrt(data.size / _SAMPLE)))
        sample = data[::step, ::step][~bad[::step, ::step]]
        if not sample.size:
            sample = data[~bad]
        if np.ptp(sample) == 0.0 and np.ptp(data[~bad]) == 0.0:
            msg = (f'{name} image is constant: all usable pixels are '
                   f'{sample[0]:.6g}')
            raise ValueError(msg)
        sample = sample.astype(float)
        self.level = float(np.median(sample))
        self.rms = _block_rms(data, bad)
        if error is None:
            # without any noise all pixels count alike
            least = _LEAST_RMS * np.ptp(sample) or 1.0
            self.rms = float(max(self.rms, least))
            self.sky_variance = self.rms**2
        else:
            variance = error[::step, ::step][~bad[::step, ::step]]
            if not variance.size:
                variance = error[~bad]
            faint = sample - self.level < 2.0 * max(self.rms, 1e-300)
            self.sky_variance = float(np.median(variance[faint]))**2
        n_huge = 0
        for y0 in range(0, self.shape[0], _STRIP):
            rows = slice(y0, y0 + _STRIP)
            with np.errstate(invalid='ignore'):
                huge = (np.abs(data[rows] - self.level)
                        > _HIGHEST * np.sqrt(self.sky_variance))
            huge &= ~bad[rows]
            n_huge += np.count_nonzero(huge)
            bad[rows] |= huge
        if n_huge:
            msg = (f'{name}: {n_huge} pixels deviate by more than '
                   f'{_HIGHEST:g} sigma and are masked')
            warnings.warn(msg, AstropyUserWarning, stacklevel=4)
        self.bad = bad
        self.noise_kernel = None
        self._fill()

    def _fill(self):
        """
        Fill bad pixels from their neighbors.

        The variance has the scatter of the neighbors: a pixel on a steep
        slope is known less well than one of the sky.
        """
        self._index = np.flatnonzero(self.bad)
        n_bad = len(self._index)
        self._value = np.zeros(n_bad)
        self._variance = np.full(n_bad, OUTSIDE * self.sky_variance)
        self._doubt = np.sqrt(self._variance)
        open_ = np.arange(n_bad)
        if n_bad > _CHUNK:
            # deep in a large hole there is nothing to fill from
            deep = minimum_filter(self.bad, 2 * _REACH * _ROUNDS + 1)
            open_ = np.flatnonzero(~deep.ravel()[self._index])
        known = ~self.bad
        for turn in range(_ROUNDS):
            if not len(open_):
                break
            count, mean, scatter, variance = np.concatenate([
                self._neighbors(self._index[open_[i:i + _CHUNK]], known)
                for i in range(0, len(open_), _CHUNK)], axis=1)
            filled = count >= (_MIN_NEIGHBORS if turn == 0 else 1)
            chosen = open_[filled]
            if not len(chosen):
                break
            self._value[chosen] = mean[filled]
            self._variance[chosen] = 0.5 * variance[filled] + scatter[filled]
            if turn > 0:
                # deep in the core of a star, or in a hole of the sky
                self._variance[chosen] += OUTSIDE * self.sky_variance
            missing = turn or 1.0 - count[filled] / _N_NEIGHBORS
            self._doubt[chosen] = (
                np.sqrt(self._variance[chosen])
                + _STEEPNESS[turn > 0] * missing
                * np.maximum(self._value[chosen], 0.0))
            known.ravel()[self._index[chosen]] = True
            open_ = open_[~filled]

    def _neighbors(self, index, known):
        """
        Return the weighted statistics of the known neighbors of pixels.
        """
        ny, nx = self.shape
        y, x = np.divmod(index, nx)
        total = np.zeros((5, len(index)))
        for dy in range(-_REACH, _REACH + 1):
            for dx in range(-_REACH, _REACH + 1):
                yy, xx = y + dy, x + dx
                usable = (yy >= 0) & (yy < ny) & (xx >= 0) & (xx < nx)
                usable[usable] = known[yy[usable], xx[usable]]
                yy, xx = yy[usable], xx[usable]
                value, variance = self._pixels(yy, xx)
                weight = np.exp(-0.5 * (dx * dx + dy * dy))
                total[0, usable] += 1.0
                total[1, usable] += weight
                total[2, usable] += weight * value
                total[3, usable] += weight * value**2
                total[4, usable] += weight * variance
        count, weight, *sums = total
        mean, square, variance = sums / np.maximum(weight, 1e-30)
        return np.array([count, mean, np.maximum(square - mean**2, 0.0),
                         variance])

    def _pixels(self, y, x):
        """
        Return values and variances of pixels inside the image.
        """
        value = self.data[y, x].astype(float) - self.level
        if self.error is None:
            variance = np.full(value.shape, self.sky_variance)
        else:
            variance = self.error[y, x].astype(float)**2
        bad = self.bad[y, x]
        if bad.any():
            place = np.searchsorted(self._index,
                                    np.ravel_multi_index((y, x),
                                                         self.shape)[bad])
            value[bad] = self._value[place]
            variance[bad] = self._variance[place]
        return value, variance

    def stamps(self, x, y, half):
        """
        Return square cutouts around pixels: values, variances, and whether
        a pixel is bad or outside of the image.

        Outside, the values are 0 with the variance of pixels that cannot be
        filled.
        """
        grid = np.arange(-half, half + 1)
        rows = np.asarray(y)[:, None, None] + grid[:, None]
        columns = np.asarray(x)[:, None, None] + grid
        ny, nx = self.shape
        outside = ((rows < 0) | (rows >= ny)) | ((columns < 0)
                                                 | (columns >= nx))
        rows, columns = np.broadcast_arrays(np.clip(rows, 0, ny - 1),
                                            np.clip(columns, 0, nx - 1))
        value, variance = self._pixels(rows, columns)
        value[outside] = 0.0
        variance[outside] = OUTSIDE * self.sky_variance
        return value, variance, outside | self.bad[rows, columns]

    def window(self, y0, y1, x0, x1):
        """
        Return the values and variances of a part of the image that may
        reach beyond its edges, as `stamps` does, and the doubt.

        The doubt is how much a value may be wrong where it was filled or is
        outside, else 0. Such errors are no noise: those of neighbors add
        up.
        """
        ny, nx = self.shape
        shape = (y1 - y0, x1 - x0)
        a0, a1, b0, b1 = max(y0, 0), min(y1, ny), max(x0, 0), min(x1, nx)
        value = np.zeros(shape, dtype=np.float32)
        outer = np.float32(OUTSIDE * self.sky_variance)
        variance = np.full(shape, outer, dtype=np.float32)
        doubt = np.full(shape, _OUTSIDE_DOUBT * self.sky_variance**0.5,
                        dtype=np.float32)
        inner = np.s_[a0 - y0:a1 - y0, b0 - x0:b1 - x0]
        image = np.s_[a0:a1, b0:b1]
        bad = self.bad[image]
        with np.errstate(over='ignore', invalid='ignore'):
            value[inner] = np.where(bad, 0.0, self.data[image] - self.level)
            variance[inner] = (self.sky_variance if self.error is None
                               else np.square(self.error[image]))
        rows, columns = np.nonzero(bad)
        place = np.searchsorted(self._index, np.ravel_multi_index(
            (rows + a0, columns + b0), self.shape))
        rows, columns = rows + a0 - y0, columns + b0 - x0
        value[rows, columns] = self._value[place]
        variance[rows, columns] = self._variance[place]
        if (a1 - a0, b1 - b0) != shape:
            # a star at the edge may go on
            np.maximum(doubt, np.pad(value[inner], (
                (a0 - y0, y1 - a1), (b0 - x0, x1 - b1)), mode='edge'),
                out=doubt)
        doubt[inner] = 0.0
        doubt[rows, columns] = self._doubt[place]
        return value, variance, doubt

    def local_sky_variance(self, x, y, half):
        """
        Return the median variance of the sky around positions.
        """
        if self.error is None:
            return np.full(len(x), self.sky_variance)
        out = np.empty(len(x))
        ny, nx = self.shape
        for i, (xi, yi) in enumerate(zip(x, y, strict=True)):
            rows = slice(max(int(yi) - half, 0), min(int(yi) + half + 1, ny))
            columns = slice(max(int(xi) - half, 0),
                            min(int(xi) + half + 1, nx))
            step = max(1, half // 32)
            rows = slice(rows.start, rows.stop, step)
            columns = slice(columns.start, columns.stop, step)
            good = ~self.bad[rows, columns]
            errors = self.error[rows, columns][good]
            if not errors.size:
                out[i] = self.sky_variance
                continue
            values = self.data[rows, columns][good]
            # light adds its own noise: the fainter half is sky
            out[i] = np.median(errors[values <= np.median(values)])**2
        return out


def _block_rms(data, bad):
    """
    Return the robust scatter within small blocks, at its lower quartile.

    Neither sources, as long as a part of the blocks have none, nor the
    slope of the sky change it much.
    """
    ny, nx = data.shape
    step = max(1, int(np.sqrt(ny * nx / (_N_BLOCKS * _BLOCK**2)))) * _BLOCK
    corners = [(y0, x0) for y0 in range(0, max(ny - _BLOCK // 2, 1), step)
               for x0 in range(0, max(nx - _BLOCK // 2, 1), step)]
    values = np.zeros((len(corners), _BLOCK, _BLOCK))
    good = np.zeros(values.shape, dtype=bool)
    for i, (y0, x0) in enumerate(corners):
        part = data[y0:y0 + _BLOCK, x0:x0 + _BLOCK]
        place = np.s_[i, :part.shape[0], :part.shape[1]]
        values[place] = part
        good[place] = ~bad[y0:y0 + _BLOCK, x0:x0 + _BLOCK]
    enough = good.sum(axis=(1, 2)) >= _BLOCK
    if not enough.any():
        return 0.0
    values, good = (array[enough].reshape(-1, _BLOCK**2)
                    for array in (values, good))
    with np.errstate(invalid='ignore'):
        deviations = np.abs(values - masked_medians(values, good))
    return float(1.4826 * np.quantile(masked_medians(deviations, good),
                                      0.25))


def masked_medians(values, good):
    """
    Return the medians of the good values of each row, as a column; 0 where
    there are none.
    """
    # much faster than np.nanmedian
    ordered = np.sort(np.where(good, values, np.inf), axis=1)
    count = good.sum(axis=1, keepdims=True)
    last = np.maximum(count - 1, 0)
    median = 0.5 * (np.take_along_axis(ordered, last // 2, axis=1)
                    + np.take_along_axis(ordered, (last + 1) // 2, axis=1))
    return np.where(count > 0, median, 0.0)


class NoiseGrid:
    """
    The variances of the sky of two images over the field.

    ``target`` and ``source`` are frames, or the variances on a grid that
    reaches to the edges; these need the shape of the images, and the
    kernels that make their noise of white noise.
    """

    _SIZE = 7

    def __init__(self, target, source, shape=None, kernels=(None, None)):
        self.shape = shape or target.shape
        self.kernels = tuple(getattr(image, 'noise_kernel', kernel)
                             for image, kernel in zip((target, source),
                                                      kernels, strict=True))
        half = max(16, min(self.shape) // 16)
        x, y = sample_grid(self.shape, self._SIZE)
        self.values = np.array([
            image.local_sky_variance(x, y, half).reshape(
                self._SIZE, self._SIZE)
            if isinstance(image, Frame) else image
            for image in (target, source)], dtype=float)

    def __call__(self, x, y):
        """
        Return the variances of target and source at positions.
        """
        place = [np.atleast_1d(axis) * ((n - 1) / max(size - 1, 1))
                 for axis, n, size in zip((y, x), self.values.shape[1:],
                                          self.shape, strict=True)]
        target, source = (map_coordinates(values, place, order=1,
                                          mode='nearest')
                          for values in self.values)
        return (target, source) if np.ndim(x) else (target[0], source[0])
