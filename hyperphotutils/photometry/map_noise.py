# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The noise of a large map, measured tile by tile.

What the whole map has in common is the sum of what its tiles have: even
samples of the filtered pixels, the variances of boxes, the local power on
a coarse grid, and the sums of the products of pairs of pixels.
"""

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from astropy.table import QTable, vstack

from hyperphotutils.background.masks import make_source_mask
from hyperphotutils.background.rms import box_side, box_variances
from hyperphotutils.blend.covariance import SourceCovariance
from hyperphotutils.blend.misfit import measure_misfit
from hyperphotutils.detection.filters import high_pass_filter
from hyperphotutils.detection.highpass import (
    MIN_RING_PIXELS,
    N_RINGS,
    margin_rings,
)
from hyperphotutils.noise.bad_pixels import BadPixels
from hyperphotutils.noise.clipped import clipped_rms
from hyperphotutils.noise.correlated import (
    REACH,
    CorrelatedNoise,
    sum_products,
)
from hyperphotutils.noise.local import (
    GridImage,
    band_power,
    is_varying,
    noise_variation_grid,
)
from hyperphotutils.noise.white import WhiteNoise
from hyperphotutils.photometry.measurement import (
    DetectionRms,
    MapNoise,
    allow_for_beam,
    beam_of,
    plain,
)
from hyperphotutils.photometry.results import open_search
from hyperphotutils.photometry.tile_results import read_result, write_result
from hyperphotutils.utils.stored import StoredImage

__all__ = []  # shared by the modules of the photometry only

# The number of pixels of a map of which a clipped rms is taken, and of those
# at a distance from its margin.
MAX_SAMPLE = 4_000_000
_MAX_RING_SAMPLE = 50_000
# The margins of tiles in FWHM: of fits, and of the high-pass filter before
# the covariance is measured. With 8 in place of 12, fluxes differ from those
# of the whole map by up to a thousandth of their errors.
OVERLAP = 12.0
_WIDE_OVERLAP = 24.0
# The distance in FWHM of the points at which the local power is kept.
_GRID = 2.0
# The side in FWHM of the center of a tile, of which the noise is measured
# before the first fits, which need it for the weights of positions: it has
# 200 boxes.
_CENTER = 64.0
# Any noise is at least this: thresholds and weights of a constant map, too,
# need a positive one.
_SMALLEST = float(np.finfo('f4').tiny)
# The largest side of the tiles of Fourier transforms.
_MAX_TRANSFORM = 1024
_SOURCE = ('x_fit', 'y_fit', 'amplitude_fit', 'fwhm_major_fit',
           'fwhm_minor_fit', 'theta_fit')


@dataclass(frozen=True)
class _Shared:
    """
    What the tiles have in common in the passes over the map.

    ``photometry``, ``init``, and ``folder`` are those of
    `measure_in_tiles`; of the filtered pixels each ``every``-th one is
    sampled. ``detection_rms`` and ``first_rms``, the noise that the finder
    sees and that of the pixels, are measured before the fits, and `None` if
    they are not needed. ``files`` are the images of which correlated noise
    is measured.
    """

    photometry: object
    variation: GridImage | None
    init: Callable | None
    folder: Path
    every: int
    detection_rms: DetectionRms | None = None
    first_rms: float | None = None
    files: dict = field(default_factory=dict)

    @property
    def fwhm(self):
        """
        The FWHM of the beam in pixels.
        """
        return self.photometry.fwhm

    @property
    def step(self):
        """
        The distance in pixels of the points at which the local power is kept.
        """
        return max(1, int(_GRID * self.fwhm))


@dataclass
class _Sample:
    """
    Filtered pixels, and those at each distance from the margin.
    """

    values: np.ndarray
    rings: list


@dataclass
class _Fitted:
    """
    What the first fit of a tile contributes.
    """

    table: QTable
    filtered: _Sample
    detected: _Sample
    variances: np.ndarray
    power: np.ndarray
    rounding: float


# The classes of the results of tiles, and of what is kept of them
RESULTS = (_Sample, _Fitted)
_KEPT = (SourceCovariance, BadPixels)


def measure_in_tiles(photometry, source, work, folder, init):
    """
    Measure the noise of a map tile by tile.

    Parameters
    ----------
    photometry : `~hyperphotutils.photometry.HyperPhotometry`
        The configuration.

    source : object
        The map.

    work : callable
        Calls a function for each tile.

    folder : `~pathlib.Path`
        The folder for images, and for the first fits and the bad pixels of
        each tile, see `read_kept`.

    init : callable or `None`
        Returns the given sources in the slices of a part of the map; `None`
        if sources are detected.

    Returns
    -------
    noise : `MapNoise`
        The noise.
    """
    fwhm, shape = photometry.fwhm, source.shape
    # The variation of given errors is not part of the noise: each tile reads
    # it from the errors themselves.
    variation = (None if np.ndim(source.error) == 2 else
                 noise_variation_grid(source.read, shape, fwhm))
    shared = _Shared(photometry, variation, init, folder,
                     every=-(-shape[0] * shape[1] // MAX_SAMPLE))
    if init is None and photometry.finder.rms is None and (
            photometry.finder.n_sigma is not None):
        samples = work('filter', _filter_tile, source, shared)
        _check_parts(samples)
        shared = replace(
            shared, detection_rms=_detection_rms(
                [sample for sample, _ in samples], variation),
            first_rms=_pixel_rms(variances for _, variances in samples))
    # In files, as the residual of a large map need not fit into memory; an
    # interrupted call may have begun them.
    files = {}
    if photometry.noise != 'white':
        files = {name: StoredImage(folder / f'first_{name}.dat', shape, dtype)
                 for name, dtype in (('residual', 'f4'), ('mask', bool))}
        if not all(file.is_complete() for file in files.values()):
            for path in folder.glob('first_*.npz'):
                path.unlink()
            for file in files.values():
                StoredImage.create(file.path, shape, file.dtype)
    shared = replace(shared, files=files)
    parts = work('first', _fit_tile, source, shared)
    _check_parts(parts)
    table = vstack([part.table for part in parts])
    rounding = max(_SMALLEST, *(part.rounding for part in parts))
    pixel_rms = source.typical_error or max(
        rounding, _pixel_rms(part.variances for part in parts))
    detected = _detection_rms([part.detected for part in parts], variation)
    filtered_rms = max(rounding, clipped_rms(np.concatenate(
        [part.filtered.values for part in parts])))
    detection_rms = (shared.detection_rms or detected, detected)
    if photometry.noise == 'white' or pixel_rms <= rounding:
        model = (WhiteNoise() if source.typical_error is None else
                 WhiteNoise(source.with_unit(pixel_rms)))
        return MapNoise(model, pixel_rms, filtered_rms, detection_rms,
                        variation, first_rms=shared.first_rms)
    residual, mask = files['residual'], files['mask']
    amplitude = plain(table['amplitude_fit'])
    misfit = measure_misfit(
        residual.map(), np.asarray(table['x_fit']),
        np.asarray(table['y_fit']), amplitude,
        amplitude / (pixel_rms * np.asarray(table['relative_error'])), fwhm,
        mask=mask.map())
    power = np.full([-(-size // shared.step) for size in shape], np.nan)
    for part in parts:
        nodes, values = part.power
        power[nodes] = values
    model = _measure_covariance(shared, source, work, table, power)
    return MapNoise(model, pixel_rms, filtered_rms, detection_rms, variation,
                    misfit, first_rms=shared.first_rms)


def _check_parts(parts):
    """
    Check that a tile has data.
    """
    if not parts:
        msg = 'data has no usable pixel: all are masked or not finite'
        raise ValueError(msg)


def _pixel_rms(variances):
    """
    Return the typical rms of the boxes of several parts of a map, 0 if there
    are none.
    """
    variances = np.concatenate([np.empty(0), *variances])
    variances = variances[np.isfinite(variances)]
    return float(np.sqrt(np.median(variances))) if variances.size else 0.0


def _detection_rms(samples, variation):
    """
    Return the noise to which the threshold refers.
    """
    rms = max(_SMALLEST, clipped_rms(np.concatenate(
        [one.values for one in samples])))
    # Next to missing pixels the filter averages fewer ones: its noise is
    # higher there, and measured at each distance.
    ratios = np.ones(N_RINGS)
    for k in range(1, N_RINGS):
        values = np.concatenate([one.rings[k] for one in samples])
        if values.size >= MIN_RING_PIXELS:
            ratios[k] = max(1.0, clipped_rms(values) / rms)
    return DetectionRms(rms if variation is None else variation.scale(rms),
                        tuple(ratios.tolist()))


def widen(core, shape, margin):
    """
    Add a margin to a tile.

    Parameters
    ----------
    core : tuple of 2 slices
        The tile.

    shape : tuple of 2 ints
        The shape of the map.

    margin : float
        The margin in pixels; there is none beyond the map.

    Returns
    -------
    slices, inner : tuple of 2 slices
        The tile with its margin, and the tile in that.
    """
    margin = math.ceil(margin)
    slices = tuple(slice(max(0, one.start - margin),
                         min(size, one.stop + margin))
                   for one, size in zip(core, shape, strict=True))
    return slices, tuple(
        slice(one.start - wide.start, one.stop - wide.start)
        for one, wide in zip(core, slices, strict=True))


def has_data(data, mask):
    """
    Return whether a pixel of a part of a map is finite and not masked.
    """
    good = np.isfinite(data.data)
    return bool(np.any(good if mask is None
                       else good & ~np.asarray(mask, dtype=bool)))


def _open_tile(core, source, shared):
    """
    Return what `_open_part` does of a tile, and keep its bad pixels.
    """
    kept = read_kept(shared.folder, 'bad', core)
    opened = _open_part(core, source, shared, kept)
    if opened is not None and kept is None:
        image = opened[0].image
        _keep(shared.folder, 'bad', core, image.bad_pixels or BadPixels(
            np.zeros(image.values.shape, dtype=np.uint8)))
    return opened


def _open_part(core, source, shared, bad_pixels=None):
    """
    Return the search on a part of a map with its margins, the slices of
    these and of the part in them, and the variation of the noise; `None` if
    there is no usable pixel.
    """
    slices, inner = widen(core, source.shape, OVERLAP * shared.fwhm)
    data, wcs, mask, error, weight_map = source.cut(slices)
    if not has_data(data, mask):
        return None
    relative = _relative_rms(source, shared.variation, slices)
    search = open_search(shared.photometry, data, wcs, mask, error,
                         weight_map, variation=relative,
                         bad_pixels=bad_pixels)
    return search, slices, inner, relative


def _relative_rms(source, variation, slices):
    """
    Return the relative noise of a part of a map, `None` if it is even.
    """
    relative = source.relative_error(slices)
    if relative is not None:
        return np.where(np.isfinite(relative), relative, 1.0)
    return None if variation is None else variation[slices]


def _sample(filtered, relative, bad, inner, every, fwhm):
    """
    Sample the filtered pixels of a tile.
    """
    if relative is not None:
        filtered = filtered / relative
    core = filtered[inner]
    values = core[np.isfinite(core)][::every].astype('f4')
    (rows, columns), ring = margin_rings(bad, fwhm)
    own = np.isfinite(filtered[rows, columns])
    for index, one in zip((rows, columns), inner, strict=True):
        own &= (index >= one.start) & (index < one.stop)
    near, ring = filtered[rows[own], columns[own]], ring[own]
    rings = []
    for k in range(N_RINGS):
        chosen = near[ring == k]
        rings.append(chosen[::max(1, chosen.size // _MAX_RING_SAMPLE)])
    return _Sample(values, rings)


def _filter_tile(core, source, shared):
    """
    Sample what the finder sees of a tile, and measure the variances of boxes
    in its center without the sources there.
    """
    opened = _open_tile(core, source, shared)
    if opened is None:
        return None
    search, _, inner, relative = opened
    image, fwhm = search.image, shared.fwhm
    filtered = shared.photometry.finder.filter(image.values,
                                               mask=image.unusable)
    sample = _sample(filtered, relative, image.unusable, inner, shared.every,
                     fwhm)
    side = int(_CENTER * fwhm)
    middle = [(one.start + one.stop - side) // 2 for one in core]
    center = tuple(slice(max(first, one.start), min(first + side, one.stop))
                   for first, one in zip(middle, core, strict=True))
    opened = _open_part(center, source, shared)
    if opened is None:
        return sample, np.empty(0)
    search, _, inner, _ = opened
    search.first_fit(None)
    return sample, _variances(search.image, inner, fwhm)


def _variances(image, inner, fwhm):
    """
    Return the variances of boxes in a tile proper without its sources.
    """
    mask = image.mask[inner]
    if mask.all():
        return np.empty(0)
    return box_variances((image.values - image.model)[inner], box_side(fwhm),
                         mask=mask)


def _fit_tile(core, source, shared):
    """
    Fit the sources of a tile with white noise.
    """
    photometry, init, files = shared.photometry, shared.init, shared.files
    opened = _open_tile(core, source, shared)
    if opened is None:
        if files:
            files['residual'][core], files['mask'][core] = np.nan, True
        return None
    search, slices, inner, relative = opened
    image, fwhm = search.image, shared.fwhm
    # those of the pixels, which are no part of the noise of the map
    errors = None if shared.variation is not None else relative
    search.noise.origin = tuple(-one.start for one in slices)
    search.noise.first_rms = shared.first_rms
    if shared.detection_rms is not None:
        _share_threshold(search, shared.detection_rms.cutout(slices), errors)
    table = search.first_fit(None if init is None else init(slices))
    # They are those of the whole map if the threshold is. With correlated
    # noise, errors are a part of that, and not used before it is known.
    if (search.first_fits is not None and shared.detection_rms is not None
            and (not files or source.error is None)):
        _keep(shared.folder, 'fits', core, search.first_fits)
    residual = image.values - image.model
    sources = QTable({name: [] for name in (*_SOURCE, 'relative_error')})
    if table is not None and len(table):
        sources = QTable({name: plain(table[name]) for name in _SOURCE})
        sources['relative_error'] = 1.0
        if errors is not None:
            sources['relative_error'] = errors[image.nearest_pixels(table)]
    filtered = high_pass_filter(residual, fwhm, mask=image.mask)
    filtered = _sample(filtered, relative, image.mask, inner, shared.every,
                       fwhm)
    detected = filtered
    if photometry.finder.kernel != 'gaussian' or (
            photometry.finder.kernel_size):
        detected = _sample(
            photometry.finder.filter(residual, mask=image.mask), relative,
            image.mask, inner, shared.every, fwhm)
    power = None
    if files:
        # Only the tile proper: each pixel of the map is written once.
        files['residual'][core] = np.where(image.mask, np.nan, residual)[inner]
        files['mask'][core] = image.mask[inner]
        power = _local_power(residual, relative, image.mask, sources, fwhm)
    own = np.ones(len(sources), dtype=bool)
    for name, one, wide in zip(('y_fit', 'x_fit'), core, slices, strict=True):
        sources[name] += wide.start
        pixel = np.floor(np.nan_to_num(sources[name], nan=-1.0) + 0.5)
        own &= (pixel >= one.start) & (pixel < one.stop)
    return _Fitted(
        sources[own], filtered, detected, _variances(image, inner, fwhm),
        _power_nodes(power, image.mask, core, slices, shared.step),
        image.rounding())


def _share_threshold(search, detection_rms, errors):
    """
    Detect sources with the threshold of the whole map.
    """
    rms = detection_rms.image(search.image.unusable, search.fwhm)
    if errors is not None:
        rms = rms * errors
    search.photometry = copy(search.photometry)
    search.photometry.finder = copy(search.photometry.finder)
    search.photometry.finder.rms = search.image.with_unit(rms)


def _local_power(residual, relative, mask, sources, fwhm):
    """
    Return the power of the residual around each pixel outside the cores of
    sources; `None` if there are no pixels.
    """
    if len(sources):
        mask = mask | _core_mask(sources, (0, 0), mask.shape)
    if mask.all():
        return None
    even = residual if relative is None else residual / relative
    return band_power(even, fwhm, mask=mask)


def _kept_path(folder, kind, core):
    """
    Return the file of what is kept of a tile.
    """
    rows, columns = core
    return folder / (f'{kind}_{rows.start:06}_{rows.stop:06}_'
                     f'{columns.start:06}_{columns.stop:06}.npz')


def _keep(folder, kind, core, value):
    """
    Keep a part of the measurement of a tile, with its margin.
    """
    write_result(_kept_path(folder, kind, core), value, _KEPT)


def read_kept(folder, kind, core):
    """
    Read what `measure_in_tiles` kept of a tile, with its margin.

    Parameters
    ----------
    folder : `~pathlib.Path`
        The folder.

    kind : {'fits', 'bad'}
        What is read: the fits of the detections, or the bad pixels.

    core : tuple of 2 slices
        The tile.

    Returns
    -------
    kept : tuple, `~hyperphotutils.noise.BadPixels`, or `None`
        The table of fits in pixels of the tile and its `SourceCovariance`,
        or the bad pixels; `None` if there are none.
    """
    return read_result(_kept_path(folder, kind, core), _KEPT)


def _power_nodes(power, mask, core, slices, step):
    """
    Return the nodes of the grid in a tile, and the power there, NaN where
    there are no data.
    """
    nodes, index = [], []
    for one, wide in zip(core, slices, strict=True):
        first = -(-(one.start - step // 2) // step)
        first = max(first, 0)
        last = -(-(one.stop - step // 2) // step)
        nodes.append(slice(first, max(last, first)))
        index.append(np.arange(first, max(last, first)) * step + step // 2
                     - wide.start)
    index = np.ix_(*index)
    if power is None:
        return tuple(nodes), np.full(mask[index].shape, np.nan)
    return tuple(nodes), np.where(mask[index], np.nan,
                                  power.at(*np.broadcast_arrays(*index)))


def _measure_covariance(shared, source, work, table, power):
    """
    Measure the covariance of the residual.
    """
    fwhm, step = shared.fwhm, shared.step
    known = np.isfinite(power)
    varying = is_varying(power[known])
    typical = np.median(power[known])
    # Nodes without data do not count as dark.
    grid = GridImage(np.where(known, power, 2.0 * typical),
                     (step // 2, step // 2), (step, step), source.shape)
    # as `CorrelatedNoise.from_image` does for a whole map
    reach = int(min(np.ceil(REACH * fwhm), min(source.shape) // 2))
    sums = work('covariance', _covariance_tile, source, shared, table,
                grid if varying else None, typical, reach,
                tile_size=_MAX_TRANSFORM)
    whole = sum(one[0] for one in sums)
    dark = sum(one[1] for one in sums) if varying else None
    profile = getattr(shared.photometry.fitter, 'beam', None)
    beam = beam_of(source.meta, profile)
    return allow_for_beam(CorrelatedNoise.from_sums(
        whole, dark, grid, source.unit, shared.variation,
        **({'fwhm': fwhm} if beam is None else beam)), profile)


def _covariance_tile(core, source, shared, table, power, typical, reach):
    """
    Sum the products of the pairs of pixels of a tile, those of all pixels
    and those of the darker ones.
    """
    # The filter reaches beyond the pixels of which products are summed.
    margin = int(_WIDE_OVERLAP * shared.fwhm) + reach
    slices, inner = widen(core, source.shape, margin)
    values = shared.files['residual'][slices].astype(float)
    near = np.ones(len(table), dtype=bool)
    for name, one in zip(('y_fit', 'x_fit'), slices, strict=True):
        near &= (table[name] > one.start - margin) & (
            table[name] < one.stop + margin)
    mask = ~np.isfinite(values)
    if near.any():
        mask |= _core_mask(table[near], [one.start for one in slices],
                           mask.shape)
    if mask.all():
        return None
    values[mask] = 0.0
    relative = _relative_rms(source, shared.variation, slices)
    if relative is not None:
        values /= relative
    dark = None if power is None else power[slices] <= typical
    return sum_products(values, ~mask, dark, inner, reach, shared.fwhm)


def _core_mask(table, corner, shape):
    """
    Return the pixels within half a FWHM of sources, in an image of which
    the first pixel is a corner (y, x) of the map.
    """
    # The residual of a core is that of the model. Without cores, a second
    # pass of fit and covariance gains nothing.
    return make_source_mask(
        shape, table['x_fit'] - corner[1], table['y_fit'] - corner[0],
        table['fwhm_major_fit'], table['fwhm_minor_fit'], table['theta_fit'],
        factor=0.5)
