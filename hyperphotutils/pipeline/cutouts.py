# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Cut-outs of single groups and sources, as FITS files and pictures.
"""

import contextlib
from typing import Any, NamedTuple

import astropy.units as u
import numpy as np
from astropy.io import fits

from hyperphotutils.utils.gaussians import add_gaussians

__all__ = ['Cutout', 'cut_groups', 'cut_sources', 'write_cutouts']

_SHAPE = ('fwhm_major_fit', 'fwhm_minor_fit', 'theta_fit')

_DPI = 90


class Cutout(NamedTuple):
    """
    A part of a map with a group or a source.

    Parameters
    ----------
    name : str
        The name of its files.

    title : str
        What it is.

    table : `~astropy.table.QTable`
        Its sources, with positions in the cut-out.

    wcs : `~astropy.wcs.WCS`
        The WCS of the cut-out.

    images : dict
        The images by name, 2D arrays in the unit of the map.

    fitted : 2D bool `~numpy.ndarray`
        The pixels within the fitting radius of its sources.
    """

    name: str
    title: str
    table: Any
    wcs: Any
    images: dict
    fitted: Any


def cut_groups(extraction, fit_radius):
    """
    Cut the groups of sources out of a map.

    Parameters
    ----------
    extraction : `~hyperphotutils.pipeline.extraction.Extraction`
        What was measured.

    fit_radius : float
        The fitting radius in pixels.

    Yields
    ------
    cutout : `Cutout`
        A group, with the images ``'data'`` (the map), ``'masked'`` (the
        map without the sources of other groups, NaN where it was not
        fitted), ``'model'`` (the sources of the group), ``'residual'``
        (the map without all sources and background) and
        ``'background'``.
    """
    table = _fitted_rows(extraction)
    for group in np.unique(table['group_id']):
        rows = table[table['group_id'] == group]
        plural = 's' * (len(rows) != 1)
        cut = _cut(extraction, rows, fit_radius, name=f'group_{group:04d}',
                   title=f'Group {group}: {len(rows)} source{plural}')
        others = cut.images['sources'] - cut.images['model']
        masked = np.where(cut.fitted, cut.images['data'] - others, np.nan)
        yield cut._replace(images=cut.images | {'masked': masked})


def cut_sources(extraction, fit_radius):
    """
    Cut the sources out of a map, without background and companions.

    Parameters
    ----------
    extraction : `~hyperphotutils.pipeline.extraction.Extraction`
        What was measured.

    fit_radius : float
        The fitting radius in pixels.

    Yields
    ------
    cutout : `Cutout`
        A source, with the images ``'data'``, ``'deblended'`` (the map
        without background and all other sources), ``'model'``,
        ``'residual'`` and ``'background'``.
    """
    table = _fitted_rows(extraction)
    for row, number in zip(range(len(table)), _numbers(table), strict=True):
        cut = _cut(extraction, table[row:row + 1], fit_radius,
                   name=f'source_{number:04d}',
                   title=f'Source {table["id"][row]}')
        yield cut._replace(images=cut.images | {
            'deblended': cut.images['residual'] + cut.images['model']})


def write_cutouts(extraction, folder, options, fit_radius, *,
                  progress_bar=False):
    """
    Write the files of groups and sources that are asked for.

    Parameters
    ----------
    extraction : `~hyperphotutils.pipeline.extraction.Extraction`
        What was measured.

    folder : `~pathlib.Path`
        The folder in which folders for them are made.

    options : `~hyperphotutils.pipeline.OutputOptions`
        What to write.

    fit_radius : float
        The fitting radius in pixels.

    progress_bar : bool, optional
        Whether to show a progress bar over the groups and sources.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    plans = (
        (cut_groups, {'fits_groups': _write_fits, 'plots_groups': _plot_fit,
                      'plots_backgrounds': _plot_background}),
        (cut_sources, {'fits_sources': _write_fits,
                       'plots_sources': _plot_deblended}),
    )
    if extraction.model is None:
        # sources were only detected
        return
    plans = [(cut, wanted) for cut, writers in plans
             if (wanted := {name: writer for name, writer in writers.items()
                            if getattr(options, name)})]
    fitted = _fitted_rows(extraction)
    n_cutouts = {cut_groups: len(set(fitted['group_id'])),
                 cut_sources: len(fitted)}
    n_files = sum(n_cutouts[cut] * len(writers) for cut, writers in plans)
    with _progress(n_files if progress_bar else 0) as update:
        for cut, writers in plans:
            for name in writers:
                (folder / name).mkdir()
            for cutout in cut(extraction, fit_radius):
                for name, writer in writers.items():
                    writer(cutout, extraction, folder / name)
                    update()


@contextlib.contextmanager
def _progress(n_files):
    """
    Show a progress bar, and give the function that moves it on.

    (Without one nothing of tqdm is made: its lock, in a process that is
    stopped, is complained of.)
    """
    if n_files == 0:
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=n_files, desc='Write pictures and cut-outs',
              unit='file') as bar:
        yield bar.update


def _fitted_rows(extraction):
    """
    Return the sources that have a fit, with peaks in the map's unit.
    """
    table = extraction.table
    return table[np.isfinite(table['x_fit'])
                 & np.isfinite(table['amplitude_fit'])]


def _numbers(table):
    """
    Number the sources by their ids or, if these are names, their rows.
    """
    ids = np.asarray(table['id'])
    return ids if ids.dtype.kind in 'iu' else 1 + np.arange(len(ids))


def _cut(extraction, rows, radius, *, name, title):
    image = extraction.image
    ny, nx = image.shape
    x, y = np.asarray(rows['x_fit']), np.asarray(rows['y_fit'])
    margin = radius + 1.5
    limits = [(int(np.clip(np.floor(np.min(values) - margin), 0, size - 1)),
               int(np.clip(np.ceil(np.max(values) + margin) + 1, 1, size)))
              for values, size in ((y, ny), (x, nx))]
    box = tuple(slice(*pair) for pair in limits)
    rows = rows.copy()
    rows['x_fit'] = x - box[1].start
    rows['y_fit'] = y - box[0].start
    images = {'data': np.where(image.mask, np.nan, image.data)[box]}
    for key in ('background', 'model', 'residual'):
        images[key] = getattr(extraction, key)[box].to_value(image.unit)
    # without a background there is no residual either
    images['residual'] = np.where(
        np.isfinite(images['background']), images['residual'], np.nan)
    images['sources'] = images['model']
    images['model'] = _render(images['data'].shape, rows, extraction)
    return Cutout(name, title, rows, image.wcs[box], images,
                  _within(images['data'].shape, rows, radius))


def _render(shape, rows, extraction):
    image = extraction.image
    peaks = rows['amplitude_fit']
    if peaks.unit.is_equivalent(u.Jy / u.beam):
        peaks = peaks * (u.beam / (image.meta['beam_area_pix'] * u.pix))
    model = np.zeros(shape)
    add_gaussians(model, np.asarray(rows['x_fit']), np.asarray(rows['y_fit']),
                  peaks.to_value(image.unit),
                  *(np.asarray(getattr(rows[name], 'value', rows[name]))
                    for name in _SHAPE))
    return model


def _within(shape, rows, radius):
    """
    Tell which pixels are within the radius of a source.
    """
    y, x = np.indices(shape)
    distance = [np.hypot(x - row['x_fit'], y - row['y_fit']) for row in rows]
    return np.min(distance, axis=0) <= radius


# What a FITS file of a group or a source holds, in this order
_EXTENSIONS = ('data', 'masked', 'deblended', 'model', 'residual',
               'background')


def _write_fits(cutout, extraction, folder):
    meta = extraction.image.meta
    header = cutout.wcs.to_header()
    header['BUNIT'] = extraction.image.unit.to_string('fits')
    beam = meta['beam']
    for key, value in (('BMAJ', beam.major), ('BMIN', beam.minor),
                       ('BPA', beam.pa)):
        header[key] = value.to_value(u.deg)
    header['OBJECT'] = cutout.title
    hdus = [fits.PrimaryHDU()]
    hdus += [fits.ImageHDU(cutout.images[name], header, name=name.upper())
             for name in _EXTENSIONS if name in cutout.images]
    fits.HDUList(hdus).writeto(folder / f'{cutout.name}.fits')


def _plot_fit(cutout, extraction, folder):
    from hyperphotutils.visualization import plot_fit

    _save(plot_fit, cutout, extraction, folder, fitted=cutout.fitted,
          model=cutout.images['sources'])


def _plot_background(cutout, extraction, folder):
    from hyperphotutils.visualization import plot_background

    _save(plot_background, cutout, extraction, folder, fitted=cutout.fitted,
          model=cutout.images['sources'])


def _plot_deblended(cutout, extraction, folder):
    from hyperphotutils.visualization import plot_deblended

    images = cutout.images
    unit = extraction.image.unit
    _save(plot_deblended, cutout, extraction, folder, model=images['model'],
          companions=(images['sources'] - images['model']) << unit)


def _save(plot, cutout, extraction, folder, *, model, **kwargs):
    meta = extraction.image.meta
    unit = extraction.image.unit
    if not np.isfinite(cutout.images['data']).any():
        return
    figure = plot(
        cutout.images['data'] << unit, model=model << unit,
        background=cutout.images['background'] << unit, table=cutout.table,
        wcs=cutout.wcs, rms=extraction.rms, title=cutout.title,
        beam=(meta['beam_major_pix'], meta['beam_minor_pix'],
              meta['beam_theta']), **kwargs)
    figure.savefig(folder / f'{cutout.name}.png', dpi=_DPI)
