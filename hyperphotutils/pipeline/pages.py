# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The pages ``report.html`` of jobs and of runs.

A page is made from what a run has in memory, or later from its files.
"""

from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import QTable
from scipy import fft

from hyperphotutils.catalog.units import (
    in_map_unit,
    map_unit,
    to_readable_units,
)
from hyperphotutils.photometry import REJECTION_REASONS, explain_sources
from hyperphotutils.photometry.explain import summarize_sources
from hyperphotutils.pipeline.bands import explain_bands, summarize_bands
from hyperphotutils.pipeline.logs import describe_threshold
from hyperphotutils.pipeline.products import LOG
from hyperphotutils.utils.output import atomic_output
from hyperphotutils.utils.stored import StoredImage, count_true, row_blocks
from hyperphotutils.visualization import make_report
from hyperphotutils.visualization.maps import complete_background

__all__ = []  # shared by the modules of the pipeline only

# A page shows at most this many sources: it has 3 kB for each, and a browser
# must read it as a whole.
_MAX_SOURCES = 5000
# Noise is measured on at most this many pixels along each axis.
_MAX_SIDE = 1024
# The largest separation of the autocovariance, and the side of the boxes
# of the local rms, in beam FWHM
_REACH = 6.0
_BOX = 4.0
# Percentiles are those of one out of so many pixels.
_STEP = 7
# Pixels farther from 0 than this many rms are no noise.
_OUTLIER = 5.0
# The range of pulls that is shown
_PULLS = 5.0
# The reach of the smoothing in `complete_background`, in beam FWHM
_SMOOTHING_REACH = 6.5
# That smoothing averages squares, whose sides divide this number of pixels.
_ALIGNED = 64


def write_page(path, result, job):
    """
    Write the page of a job into the folder of its other products.
    """
    write = {'map': write_map_page, 'cube': write_cube_page,
             'galaxies': write_galaxies_page}[job.kind]
    write(path, result, job.map_id)


def write_map_page(path, result, map_id):
    """
    Write the page of a map into the folder of its other products.
    """
    table, image = to_readable_units(result.table), result.image
    images, charts, explanations, rms = None, {}, (), None
    if result.model is not None:
        unit, factor = _display_unit(image)
        images = _page_images(result, factor)
        rms = factor * result.rms.to_value(image.unit)
        beam = image.meta['beam_fwhm_pix']
        charts |= _fit_charts(table)
        center = _central_part(image.mask)
        charts |= _noise_charts(images['residual'][center], beam, unit)
        explanations = explain_sources(table, fwhm=beam)
    _write(path, table, title=map_id,
           facts=_facts(result, table), images=images, rms=rms,
           rejected=result.rejected, explanations=explanations,
           charts=charts)


def write_table_page(path, table, rejected, map_id):
    """
    Write the page of a catalog without its map into the folder of the other
    products; ``rejected`` may be `None`.
    """
    area = table.meta.get('beam_area_pix')
    charts, explanations = {}, ()
    facts = {'map': 'not found, or changed since: without cut-outs'}
    table = to_readable_units(table)
    if 'flux_fit' in table.colnames:
        charts = _fit_charts(table)
        facts |= summarize_sources(table, rejected)
        if area is not None and 'channel' not in table.colnames:
            # the area of a Gaussian
            fwhm = np.sqrt(area * 4.0 * np.log(2.0) / np.pi)
            explanations = explain_sources(table, fwhm=fwhm)
    _write(path, table, title=map_id, facts=facts, rejected=rejected,
           explanations=explanations, charts=charts)


def write_cube_page(path, result, map_id):
    """
    Write the page of a cube into the folder of its other products.
    """
    channels = result.all_channels
    number = np.asarray(channels['channel'])
    rms = u.Quantity(channels['background_rms'])
    charts = {'Noise of the channels': {
        'x': number, 'y': rms.value, 'x_label': 'channel',
        'y_label': f'rms about the background ({rms.unit})'}}
    if 'n_measured' in channels.colnames:
        charts['Sources of the channels'] = {
            'x': number, 'y': channels['n_measured'], 'x_label': 'channel',
            'y_label': 'measured sources'}
    table, explanations = result.table, ()
    cube, axis, numbers = (result.image, result.image.spectral_axis,
                           result.numbers)
    if table is None:
        table = result.channels
    elif 'flux_fit' in table.colnames:
        charts |= _fit_charts(table)
        # the rows are in the order of the channels
        number = np.asarray(table['channel'])
        explanations = [
            text for channel in np.unique(number)
            for text in explain_sources(table[number == channel],
                                        fwhm=cube.beam_fwhm_pix[channel])]
    facts = {'channels': str(len(channels))}
    if result.table is not None:
        facts |= {'sources': f'{numbers["n_measured"]} measured',
                  'rejected': str(numbers['n_rejected'])}
    facts |= {
        'median rms': f'{np.nanmedian(rms):.3g}',
        cube.spectral_name: f'{axis[0]:.7g} to {axis[-1]:.7g}',
        'size': f'{cube.shape[2]} x {cube.shape[1]} pixels of '
                f'{cube.pixel_scale:.3g}'}
    _write(path, to_readable_units(table), title=map_id, facts=facts,
           rejected=result.rejected, explanations=explanations,
           charts=charts)


def write_galaxies_page(path, result, map_id):
    """
    Write the page of the galaxies of an image into the folder of its other
    products, of which it shows the images.
    """
    table, notes = result.result.table, result.result.notes
    with fits.open(path.with_name('models.fits')) as hdus:
        images = {name: hdus[name].data.astype(float)
                  for name in ('data', 'model', 'residual')}
        rms = np.nanmedian(hdus['error'].data)
    facts = {'galaxies': result.counts,
             'median reduced chi2': f'{notes["median_reduced_chi2"]:.2f}'}
    if 'psf_fwhm' in notes:
        facts['PSF'] = (f'FWHM {notes["psf_fwhm"]:.2f} pixels, from '
                        f'{notes["psf_stars"]} stars')
    charts = _histograms([
        (title, table[name], label, None, 'galaxies') for title, name, label
        in (('Signal-to-noise ratio', 'snr', 'S/N'),
            ('Reduced chi2', 'reduced_chi2', 'reduced chi2'),
            ('Effective radius', 'r_eff_fit', 'r_eff (pixels)'),
            ('Sersic index', 'n_fit', 'n'))])
    _write(path, table, title=map_id, facts=facts, images=images,
           rms=float(rms), charts=charts, picture='segmentation.png')


def write_bands_page(path, table):
    """
    Write the page of a merged catalog of several bands into the output
    directory of its run.
    """
    bands = table.meta['bands']
    edges = np.arange(len(bands) + 1) + 0.5
    table = to_readable_units(table)
    _save(path, make_report(
        table, title='Sources of all bands',
        facts={'bands': ', '.join(bands),
               'sources': summarize_bands(table).partition(': ')[2]},
        explanations=explain_bands(table),
        charts={'Bands of the sources': {
            'x': edges, 'y': np.histogram(table['n_bands'], edges)[0],
            'x_label': 'bands with a detection', 'y_label': 'sources'}}))


def write_run_page(path, outcomes):
    """
    Write the page of a run, with a link to the page of each map, into its
    output directory.
    """
    failed = [bool(item.reason) for item in outcomes]
    table = QTable({
        'map_id': [item.job.map_id for item in outcomes],
        'status': np.where(failed, 'failed', 'done')})
    for name in ('n_detected', 'n_measured', 'n_rejected'):
        table[name] = [item.numbers.get(name, 0) for item in outcomes]
    table['rms'], own = _rms_of_maps(outcomes)
    if own is not None:  # without a prefix of its own
        table.meta['original_unit'] = own
    table['seconds'] = [item.numbers.get('seconds', np.nan)
                        for item in outcomes]
    table['result'] = [item.reason or item.summary for item in outcomes]
    facts = {'maps': str(len(outcomes)), 'failed': str(sum(failed)),
             'measured sources': str(sum(table['n_measured']))}
    links = {item.job.map_id: f'{item.job.folder.name}/{path.name}'
             for item in outcomes
             if not item.reason and (item.job.folder / path.name).exists()}
    texts = {f'Error of {item.job.map_id}': item.details
             for item in outcomes if item.details}
    _save(path, make_report(to_readable_units(table), title='Maps of the run',
                            facts=facts, links=links, texts=texts))


def _rms_of_maps(outcomes):
    """
    Return the rms of each map, and their unit if it is one per beam and the
    same for all maps; else the rms is per pixel, and the unit `None`.
    """
    known = [item.table.meta for item in outcomes
             if item.table is not None and 'beam_area_pix' in item.table.meta]
    units = {str(map_unit(meta)) for meta in known}
    own = map_unit(known[0]) if len(units) == 1 else None
    rms = []
    for item in outcomes:
        value = item.numbers.get('rms', np.nan) << u.Jy / u.pix
        if own is not None:
            # maps that have failed have neither a table nor an rms
            meta = {} if item.table is None else item.table.meta
            value = in_map_unit(value, known[0] | meta)
        rms.append(value)
    return u.Quantity(rms), own


def _write(path, table, *, facts, rejected=None, explanations=(),
           picture='overview.png', **kwargs):
    """
    Write a page with what the other products contain.
    """
    # (channels of a cube have no ratio, and fewer columns)
    if len(table) > _MAX_SOURCES and 'snr' in table.colnames:
        facts = facts | {'sources on this page': (
            f'the {_MAX_SOURCES} with the largest signal-to-noise ratios; '
            f'the catalog has all {len(table)}')}
        snr = np.nan_to_num(np.asarray(table['snr'], dtype=float))
        rows = np.sort(np.argsort(-snr, kind='stable')[:_MAX_SOURCES])
        table = table[rows]
        explanations = [explanations[row] for row in rows if explanations]
    overview, log = path.with_name(picture), path.with_name(LOG)
    if overview.exists():
        kwargs['overview'] = overview.read_bytes()
    texts = {}
    if log.exists():
        text, _, configuration = log.read_text(
            encoding='utf-8', errors='replace').partition(
            '\n\nconfiguration\n')
        texts = {'Log': text, 'Configuration': configuration}
    _save(path, make_report(
        table, facts=facts, rejected=rejected, explanations=explanations,
        texts=texts, reasons=REJECTION_REASONS, **kwargs))


def _save(path, page):
    with atomic_output(path, overwrite=True) as partial:
        Path(partial).write_text(page, encoding='utf-8')


def _facts(result, table):
    """
    Return short facts about a map and its sources, which are in the units of
    ``table``.
    """
    image, meta = result.image, result.image.meta
    beam = meta['beam']
    unit, factor = _display_unit(image)
    facts = {}
    if result.model is None:
        facts['sources'] = result.counts
    else:
        facts |= summarize_sources(table, result.rejected)
    rms = factor * result.rms.to_value(image.unit)
    facts['rms'] = f'{rms:.3g} {unit}'
    ny, nx = image.shape
    limits = dict(result.table.meta)
    if 'threshold' in limits:
        limits['threshold'] = factor * limits['threshold'].to_value(
            image.unit) << unit
    if 'threshold_peak' in limits:
        limits['threshold_peak'] = limits['threshold_peak'].to(unit)
    facts |= {
        'threshold': describe_threshold(limits),
        'beam': f'{beam.major.to(u.arcsec):.3g} x '
                f'{beam.minor.to(u.arcsec):.3g}, PA {beam.pa.to(u.deg):.0f}',
        'size': f'{nx} x {ny} pixels of {meta["pixel_scale"]:.3g}',
        'pixels without data':
            f'{100.0 * count_true(image.mask) / image.mask.size:.3g} %',
        'unit of the file': str(meta['original_unit']),
    }
    return facts


def _display_unit(image):
    """
    Return the unit in which a map is shown, per beam, and its factor.
    """
    area = image.meta['beam_area_pix']
    own = map_unit(image.meta)
    if own is not None:
        return own, area * u.Jy.to(own * u.beam)
    values, mask = (StoredImage.find(plane) or plane
                    for plane in (image.data, image.mask))
    step = max(_STEP, image.data.size // _MAX_SIDE**2)
    some = np.abs(np.concatenate([
        values[rows].ravel()[::step][~mask[rows].ravel()[::step]]
        for rows in row_blocks(image.shape)]))
    typical = area * np.percentile(some, 99.0) if len(some) else 1.0
    prefix = next((unit for unit in (u.Jy, u.mJy)
                   if typical >= unit.to(u.Jy)), u.uJy)
    return prefix / u.beam, area * u.Jy.to(prefix)


def _fit_charts(table):
    """
    Return histograms of the quality of the fits.
    """
    error = np.hypot(table['flux_err'], table['aperture_flux_err'])
    pulls = ((table['aperture_flux'] - table['flux_fit']) / error)
    return _histograms((
        ('Signal-to-noise ratio', table['snr'], 'S/N', None, 'sources'),
        ('Reduced chi2', table['reduced_chi2'], 'reduced chi2', None,
         'sources'),
        ('Aperture against fit', pulls, 'difference of the fluxes / error',
         (-_PULLS, _PULLS), 'sources')))


def _histograms(rows):
    """
    Return histograms, given their titles, values, labels, limits, and what
    they count.
    """
    charts = {}
    for title, values, label, limits, counted in rows:
        values = np.asarray(getattr(values, 'value', values), dtype=float)
        values = values[np.isfinite(values)]
        n_bins = int(np.clip(2.0 * np.sqrt(len(values)), 6.0, 40.0))
        log = limits is None and bool(np.all(values > 0.0))
        if len(values) < 2:
            continue
        if log:
            low, high = values.min(), values.max() * (1.0 + 1e-9)
            high = max(high, 1.1 * low)
            edges = np.geomspace(low, high, n_bins + 1)
        else:
            edges = np.linspace(*(limits or (values.min(), values.max())),
                                n_bins + 1)
            values = np.clip(values, edges[0], edges[-1])
        charts[title] = {'x': edges, 'y': np.histogram(values, edges)[0],
                         'x_label': label, 'y_label': counted,
                         'x_log': log}
    return charts


def _noise_charts(residual, fwhm, unit):
    """
    Return the autocovariance, power spectrum, and local rms of a
    residual.
    """
    # single precision is twice as fast, and the pictures need no more
    charts, residual = {}, residual.astype('f4')
    good = np.isfinite(residual)
    center = _central_part(good)
    part, good = residual[center], good[center]
    if not good.any():
        return charts
    low, median, high = np.percentile(part[good][::_STEP], [25, 50, 75])
    # of a normal distribution
    spread = (high - low) / 1.349
    good &= np.abs(part - median) <= _OUTLIER * spread
    if spread == 0.0 or not good.any():
        return charts
    values = np.where(good, part - np.mean(part[good]), np.float32(0.0))
    reach = int(np.ceil(_REACH * fwhm))
    shape = [fft.next_fast_len(size + reach, real=True)
             for size in values.shape]
    transform = fft.rfft2(values, shape)
    power = transform.real**2 + transform.imag**2
    counts = fft.rfft2(good.astype('f4'), shape)
    covariance = fft.irfft2(power, shape)
    pairs = fft.irfft2(counts.real**2 + counts.imag**2, shape)
    lags = [min(reach, size - 1) for size in values.shape]
    along = {}
    for name, line, number in (
            ('along x', covariance[0, :lags[1] + 1], pairs[0, :lags[1] + 1]),
            ('along y', covariance[:lags[0] + 1, 0], pairs[:lags[0] + 1, 0])):
        line = np.where(number > 0.5, line / np.maximum(number, 0.5), np.nan)
        along[name] = line / line[0]
    n_lags = min(map(len, along.values()))
    separation = np.arange(n_lags) / fwhm
    charts['Autocovariance of the residual'] = {
        'x': separation,
        'y': {name: line[:n_lags] for name, line in along.items()} | {
            # of white noise seen through the beam
            'beam': np.exp(-2.0 * np.log(2.0) * separation**2)},
        'x_label': 'separation (beam FWHM)', 'y_label': 'correlation'}
    frequency = fwhm * np.hypot(fft.fftfreq(shape[0])[:, None],
                                fft.rfftfreq(shape[1])[None, :])
    edges = np.geomspace(fwhm / max(values.shape), 0.5 * fwhm, 25)
    which = np.digitize(frequency.ravel(), edges)
    number = np.bincount(which, minlength=len(edges) + 1)[1:-1]
    total = np.bincount(which, power.ravel(), len(edges) + 1)[1:-1]
    charts['Power spectrum of the residual'] = {
        'x': np.sqrt(edges[1:] * edges[:-1]),
        'y': np.where(number, total / np.maximum(number, 1) / good.sum(),
                      np.nan),
        'x_label': 'spatial frequency (1 / beam FWHM)',
        'y_label': f'power (({unit})²)', 'x_log': True, 'y_log': True}
    local = _local_rms(residual, int(np.ceil(_BOX * fwhm)))
    if np.isfinite(local).sum() > 1:
        charts['Local rms of the residual'] = {
            'image': local,
            'label': f'boxes of {_BOX:g} beam FWHM: {np.nanmin(local):.3g} '
                     f'(dark) to {np.nanmax(local):.3g} {unit} (bright)'}
    return charts


def _central_part(mask):
    """
    Return the slices of the part in which most pixels are good.
    """
    stored = StoredImage.find(mask) or mask
    by_row, by_column = [], 0
    for rows in row_blocks(mask.shape):
        good = ~stored[rows]
        by_row.append(good.sum(axis=1))
        by_column = by_column + good.sum(axis=0)
    slices = []
    for number in (np.concatenate(by_row), by_column):
        number = np.cumsum(number)
        middle = int(np.searchsorted(number, 0.5 * number[-1]))
        start = min(max(0, middle - _MAX_SIDE // 2),
                    max(0, len(number) - _MAX_SIDE))
        slices.append(slice(start, start + _MAX_SIDE))
    return tuple(slices)


def _local_rms(image, side):
    """
    Return the rms in boxes, from the 16th and 84th percentiles of the
    values; NaN in boxes with few values.
    """
    ny, nx = (-(-size // side) for size in image.shape)
    padded = np.full((ny * side, nx * side), np.nan)
    padded[:image.shape[0], :image.shape[1]] = image
    boxes = np.sort(padded.reshape(ny, side, nx, side).swapaxes(1, 2).reshape(
        ny * nx, side**2), axis=1)
    number = np.isfinite(boxes).sum(axis=1)
    low, high = (np.take_along_axis(boxes, np.rint(
        fraction * np.maximum(number - 1, 0)).astype(int)[:, None], axis=1)
        for fraction in (0.1587, 0.8413))
    rms = np.where(number >= side**2 / 4, 0.5 * (high - low)[:, 0], np.nan)
    return rms.reshape(ny, nx)


class _RowImage:
    """
    An image that is made in blocks of rows when pixels of it are needed.

    It is read like an array: by two slices, or by arrays of rows and columns.
    ``make`` is a function of a slice of rows.
    """

    def __init__(self, shape, make):
        self.shape = shape
        self._make = make
        # The last two blocks: the cut-outs of a source can be in both.
        self._last = []

    def __getitem__(self, index):
        ny, nx = self.shape
        blocks = row_blocks(self.shape)
        if len(blocks) == 1:
            return self._block(blocks[0])[index]
        if isinstance(index[0], slice):
            index = np.ix_(np.arange(ny)[index[0]], np.arange(nx)[index[1]])
        y, x = np.broadcast_arrays(*index)
        pixels = np.empty(y.shape)
        for rows in blocks:
            inside = (y >= rows.start) & (y < rows.stop)
            if inside.any():
                pixels[inside] = self._block(rows)[y[inside] - rows.start,
                                                   x[inside]]
        return pixels

    def _block(self, rows):
        for known, pixels in self._last:
            if known == rows:
                return pixels
        # without the older block while the new one is made
        del self._last[:-1]
        self._last.append((rows, self._make(rows)))
        return self._last[-1][1]


def _page_images(result, factor):
    """
    Return data, model, and residual of a map, multiplied by a factor; the
    residual also where no background was fitted.
    """
    image, meta = result.image, result.image.meta
    ny, nx = image.shape
    beam = tuple(meta[f'beam_{name}'] for name in ('major_pix', 'minor_pix',
                                                  'theta'))
    margin = int(np.ceil(_SMOOTHING_REACH * beam[0]))
    mask = StoredImage.find(image.mask) or image.mask

    def read(name, rows):
        values = (image.data if name == 'data'
                  else getattr(result, name).to_value(image.unit))
        part = np.array((StoredImage.find(values) or values)[rows])
        if name == 'data':
            part[mask[rows]] = np.nan
        return part

    def make_residual(rows):
        first = max(rows.start - margin, 0) // _ALIGNED * _ALIGNED
        around = slice(first, min(rows.stop + margin, ny))
        images = {name: read(name, around)
                  for name in ('background', 'model', 'residual')}
        complete_background(images | {'map': read('data', around)}, beam)
        inner = slice(rows.start - first, rows.stop - first)
        residual = images['residual'][inner]
        residual[mask[rows]] = np.nan
        return factor * residual

    return {
        'data': _RowImage((ny, nx), lambda rows: factor * read('data', rows)),
        'model': _RowImage((ny, nx), lambda rows: factor * read('model',
                                                                rows)),
        'residual': _RowImage((ny, nx), make_residual)}
