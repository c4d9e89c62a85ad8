# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The stars to which the kernel is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import QTable, Table
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from hyperphotutils.utils.tables import list_columns

if TYPE_CHECKING:
    from astropy.units import UnitBase
    from astropy.wcs import WCS

    from hyperphotutils.subtraction.frames import Frame

__all__ = ['STAMP_STATUS', 'Stamps', 'find_peaks', 'gaussian_moments',
           'measure_widths',
           'peak_significance', 'read_positions', 'select_stamps']

#: The meaning of the status of a star.
STAMP_STATUS = {
    'USED': 'in the fit of the kernel',
    'CLIPPED': 'fits worse than the others: it varies, or is not the same '
               'in both images',
    'BAD_PIXELS': 'bad pixels, or the edge of the image, near its peak',
    'TOO_CLOSE': 'within the stamp of a brighter one',
    'RESERVE': 'its cell of the image has enough brighter ones',
    'LOW_SNR': 'below the threshold in one of the images',
}

# No bad pixel may be as close to the peak of a star as this; in the image
# that is convolved it spoils all pixels around it
_CLEAN_RADIUS, _CLEAN_RADIUS_CONVOLVED = 2, 4
_STRIP = 512
# The peaks are those of means over so many pixels squared, which have most
# of the signal-to-noise ratio of a matched filter for usual PSFs
_SMOOTHING = 3
_WIDTH_STAMP = 12
# The median width of this many of the best stars is accurate enough to
# choose the widths of the basis
_MAX_WIDTH_STARS = 60

_X_NAMES = ('x_centroid', 'xcentroid', 'x_fit', 'x')
_Y_NAMES = ('y_centroid', 'ycentroid', 'y_fit', 'y')


@dataclass
class Stamps:
    """
    The prepared images and the stars found in them.

    Parameters
    ----------
    science, template : object
        The images, with their bad pixels filled.

    table : `~astropy.table.QTable`
        All stars, with the columns ``id``, ``x``, ``y`` (the pixel of
        the peak), ``group_id`` (the cell), ``snr`` (of the mean over 3 x
        3 pixels, in the image where it is less), and ``status``.

    half : int
        The half width of a stamp.

    sigma_science, sigma_template : float
        The sigma of a Gaussian that is like the PSFs, in pixels.

    flux_ratio : float
        A first estimate of the flux in the science image over that in
        the template.

    unit : `~astropy.units.Unit` or None
        The unit of the images.

    wcs : `~astropy.wcs.WCS` or None
        The WCS of the science image.

    origins : dict
        Where the errors and masks that were not given come from, by the
        names of the arguments.

    shared_noise : float
        The correlation of the noise of both images; 0 if it is not
        significant.
    """

    science: Frame
    template: Frame
    table: QTable
    half: int
    sigma_science: float
    sigma_template: float
    flux_ratio: float
    unit: UnitBase | None = None
    wcs: WCS | None = None
    origins: dict = field(default_factory=dict)
    shared_noise: float = 0.0

    @property
    def used(self) -> NDArray[np.integer]:
        """
        The places in the table of the stars to fit.
        """
        return np.flatnonzero(self.table['status'] == 'USED')

    @property
    def matching_sigma(self) -> float:
        """
        The sigma by which the PSFs differ, in pixels.
        """
        return np.sqrt(abs(self.sigma_science**2 - self.sigma_template**2))

    def __len__(self) -> int:
        return len(self.used)


def find_peaks(science, template, threshold):
    """
    Find the peaks that are significant in both images.

    Return their pixels x and y, and the lower of both signal-to-noise
    ratios of the means over 3 x 3 pixels, the highest first.
    """
    ny = science.shape[0]
    found = []
    for y0 in range(0, ny, _STRIP):
        y1 = min(y0 + _STRIP, ny)
        snr = np.minimum(*(
            uniform_filter(frame.window(y0 - 2, y1 + 2, -2,
                                        frame.shape[1] + 2)[0],
                           _SMOOTHING, mode='constant')
            * (_SMOOTHING / np.sqrt(frame.sky_variance))
            for frame in (science, template)))
        center = snr[2:-2, 2:-2]
        y, x = np.nonzero(center > threshold)
        value = center[y, x]
        is_peak = np.ones(len(x), dtype=bool)
        for dy in range(-2, 3):
            for dx in range(-2, 3):
                if (dy, dx) == (0, 0):
                    continue
                other = snr[y + 2 + dy, x + 2 + dx]
                # of equal neighbors the first one is the peak
                is_peak &= (value > other if (dy, dx) < (0, 0)
                            else value >= other)
        found.append((x[is_peak], y[is_peak] + y0, value[is_peak]))
    x, y, snr = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(-snr, kind='stable')
    return x[order], y[order], snr[order].astype(float)


def peak_significance(science, template, x, y):
    """
    Return the signal-to-noise ratio at pixels, as `find_peaks` does.
    """
    half = _SMOOTHING // 2
    return np.min([
        frame.stamps(x, y, half)[0].mean(axis=(1, 2)) * _SMOOTHING
        / np.sqrt(frame.sky_variance) for frame in (science, template)],
        axis=0)


def select_stamps(science, template, x, y, snr, *, convolved, threshold,
                  n_cells, per_cell, separation, n_max):
    """
    Select the stars for the fit, given in the order of preference.

    There are at most ``per_cell`` in each of the ``n_cells`` (along y and
    x), ``n_max`` in all, with a distance of at least ``separation``.
    ``convolved`` is the one of the images that will probably be convolved.
    Return the table of `Stamps`.
    """
    ny, nx = science.shape
    cell = (np.clip(y * n_cells[0] // ny, 0, n_cells[0] - 1) * n_cells[1]
            + np.clip(x * n_cells[1] // nx, 0, n_cells[1] - 1))
    status = np.full(len(x), 'RESERVE', dtype='U10')
    dirty = np.zeros(len(x), dtype=bool)
    for first in range(0, len(x), 4096):
        part = slice(first, first + 4096)
        for frame in (science, template):
            bad = frame.stamps(x[part], y[part], (
                _CLEAN_RADIUS_CONVOLVED if frame is convolved
                else _CLEAN_RADIUS))[2]
            dirty[part] |= bad.any(axis=(1, 2))
    status[dirty] = 'BAD_PIXELS'
    status[snr < threshold] = 'LOW_SNR'
    # greedy: each star needs to know the brighter ones that were taken
    taken = {}
    in_cell = np.zeros(n_cells[0] * n_cells[1], dtype=int)
    n_taken = 0
    for i in np.flatnonzero(status == 'RESERVE'):
        if n_taken == n_max:
            break
        if in_cell[cell[i]] == per_cell:
            continue
        column, row = int(x[i] // separation), int(y[i] // separation)
        near = [j for dy in (-1, 0, 1) for dx in (-1, 0, 1)
                for j in taken.get((row + dy, column + dx), ())]
        if any((x[i] - x[j])**2 + (y[i] - y[j])**2 < separation**2
               for j in near):
            status[i] = 'TOO_CLOSE'
            continue
        status[i] = 'USED'
        taken.setdefault((row, column), []).append(i)
        in_cell[cell[i]] += 1
        n_taken += 1
    return QTable({'id': np.arange(1, len(x) + 1), 'x': x, 'y': y,
                   'group_id': cell + 1, 'snr': snr, 'status': status})


def measure_widths(science, template, x, y):
    """
    Measure the sigmas of the stars in both images, and their flux ratio.

    The second moments are those with the weight of a Gaussian of the same
    width (Bernstein & Jarvis 2002, AJ 123, 583).
    """
    x, y = x[:_MAX_WIDTH_STARS], y[:_MAX_WIDTH_STARS]
    sigmas, fluxes = [], []
    for frame in (science, template):
        value, _, bad = frame.stamps(x, y, _WIDTH_STAMP)
        border = np.ones(value.shape[1:], dtype=bool)
        border[2:-2, 2:-2] = False
        value = value - np.median(value[:, border], axis=1)[:, None, None]
        value[bad] = 0.0
        sigma, flux, _, _ = gaussian_moments(value)
        sigmas.append(sigma)
        fluxes.append(flux)
    usable = np.all(np.isfinite(sigmas), axis=0) & (np.min(fluxes, axis=0)
                                                   > 0.0)
    if not usable.any():
        # no source is like a star: the widths of a typical image
        return 1.5, 1.5, 1.0
    science_sigma = np.median(sigmas[0][usable])
    # the same stars in both: their difference is known better
    square = np.median(sigmas[0][usable]**2 - sigmas[1][usable]**2)
    template_sigma = np.sqrt(max(science_sigma**2 - square, 0.25))
    ratio = np.median(fluxes[0][usable] / fluxes[1][usable])
    return float(science_sigma), float(template_sigma), float(ratio)


def gaussian_moments(value, *, n_iter=20):
    """
    Measure stars, without background, with Gaussian weights of their own
    width.

    Return their sigmas (NaN for what is no star), fluxes, and the x and y
    of their centroids from the center of the stamp.
    """
    half = value.shape[1] // 2
    grid = np.arange(-half, half + 1.0)
    x = y = np.zeros(len(value))
    sigma2 = np.full(len(value), 4.0)
    with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
        for _ in range(n_iter):
            gx = np.exp(-0.5 * (grid - x[:, None])**2 / sigma2[:, None])
            gy = np.exp(-0.5 * (grid - y[:, None])**2 / sigma2[:, None])
            along_x = np.einsum('syx,sy->sx', value, gy)
            along_y = np.einsum('syx,sx->sy', value, gx)
            total = np.sum(along_x * gx, axis=1)
            dx = np.sum(along_x * gx * (grid - x[:, None]), axis=1) / total
            dy = np.sum(along_y * gy * (grid - y[:, None]), axis=1) / total
            moment = 0.5 * (
                np.sum(along_x * gx * (grid - x[:, None])**2, axis=1)
                + np.sum(along_y * gy * (grid - y[:, None])**2, axis=1)
            ) / total - 0.5 * (dx**2 + dy**2)
            # the inverse variance of a product of Gaussians is the sum of
            # theirs: subtract that of the weight
            sigma2 = np.clip(1.0 / (1.0 / moment - 1.0 / sigma2), 0.2, 30.0)
            x, y = np.clip(x + dx, -3, 3), np.clip(y + dy, -3, 3)
        sigma = np.sqrt(sigma2)
        sigma[(sigma2 <= 0.2) | (sigma2 >= 30.0)] = np.nan
        # the weighted sum of a matched Gaussian is half of its flux
        return sigma, 2.0 * total, x, y


def read_positions(positions, wcs):
    """
    Return the pixels x and y of a table, a SkyCoord, or an array of shape
    (n, 2).
    """
    if isinstance(positions, SkyCoord):
        if wcs is None:
            msg = ('positions on the sky need the WCS of science: give a '
                   'CCDData or a file with one, or pixel positions')
            raise ValueError(msg)
        x, y = wcs.world_to_pixel(positions)
    elif isinstance(positions, Table):
        columns = [[name for name in names if name in positions.colnames]
                   for names in (_X_NAMES, _Y_NAMES)]
        if not all(columns):
            missing = _Y_NAMES if columns[0] else _X_NAMES
            msg = (f'positions must have one of the columns '
                   f'{", ".join(missing)}: it has '
                   f'{list_columns(positions)}')
            raise ValueError(msg)
        x, y = (positions[names[0]] for names in columns)
    else:
        xy = np.asarray(positions, dtype=float)
        if xy.ndim != 2 or xy.shape[1] != 2:
            msg = ('positions must be a table, a SkyCoord, or an array of '
                   f'shape (n, 2): got the shape {xy.shape}')
            raise ValueError(msg)
        x, y = xy.T
    x, y = (np.atleast_1d(np.asarray(axis, dtype=float)) for axis in (x, y))
    finite = np.isfinite(x) & np.isfinite(y)
    return (np.round(x[finite]).astype(int), np.round(y[finite]).astype(int))
