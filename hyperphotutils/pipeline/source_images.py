# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Images of single groups and sources, as FITS files and figures.
"""

from typing import Any, NamedTuple

import astropy.units as u
import numpy as np
from astropy.io import fits

from hyperphotutils.utils.gaussians import add_gaussians

__all__ = []  # shared by the modules of the pipeline only

_SHAPE = ('fwhm_major_fit', 'fwhm_minor_fit', 'theta_fit')

_DPI = 90


class SourceImages(NamedTuple):
    """
    Images of a part of a map with a group or a source.

    Parameters
    ----------
    name : str
        The name of its files.

    title : str
        The title of its figures.

    table : `~astropy.table.QTable`
        Its sources, with positions in the part.

    wcs : `~astropy.wcs.WCS`
        The WCS of the part.

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
    Yield the `SourceImages` of each group of sources of a map.

    The images are ``'data'`` (the map), ``'masked'`` (the map without the
    sources of other groups, NaN where it was not fitted), ``'model'`` (the
    sources of the group), ``'residual'`` (the map without all sources and
    background) and ``'background'``. The radius is in pixels.
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
    Yield the `SourceImages` of each source of a map.

    The images are ``'data'``, ``'deblended'`` (the map without background
    and all other sources), ``'model'``, ``'residual'`` and
    ``'background'``. The radius is in pixels.
    """
    table = _fitted_rows(extraction)
    # sources are numbered by their ids or, if these are names, their rows
    ids = np.asarray(table['id'])
    numbers = ids if ids.dtype.kind in 'iu' else 1 + np.arange(len(ids))
    for row, number in enumerate(numbers):
        cut = _cut(extraction, table[row:row + 1], fit_radius,
                   name=f'source_{number:04d}',
                   title=f'Source {table["id"][row]}')
        yield cut._replace(images=cut.images | {
            'deblended': cut.images['residual'] + cut.images['model']})


def write_source_images(extraction, folder, config, *, progress_bar=False):
    """
    Write a file for each group or source.
    """
    write = _write_fits if folder.name.startswith('fits') else _plot
    fitted = _fitted_rows(extraction)
    radius = config.fit.fit_radius * extraction.image.meta['beam_fwhm_pix']
    if folder.name.endswith('sources'):
        parts, n_parts = cut_sources(extraction, radius), len(fitted)
    else:
        parts = cut_groups(extraction, radius)
        n_parts = len(set(fitted['group_id']))
    if progress_bar and n_parts:
        # (even a disabled bar of tqdm creates a lock, and Python complains
        # about it if the process is killed)
        from tqdm import tqdm

        parts = tqdm(parts, total=n_parts, leave=None,
                     desc=f'Write {folder.name}',
                     unit='file')
    folder.mkdir()
    for part in parts:
        write(part, extraction, folder)


def _fitted_rows(extraction):
    """
    Return the sources that have a fit.
    """
    table = extraction.table
    return table[np.isfinite(table['x_fit'])
                 & np.isfinite(table['amplitude_fit'])]


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
    peaks = rows['amplitude_fit']
    if peaks.unit.is_equivalent(u.Jy / u.beam):
        peaks = peaks * (u.beam / (image.meta['beam_area_pix'] * u.pix))
    images['model'] = np.zeros(images['data'].shape)
    add_gaussians(images['model'], np.asarray(rows['x_fit']),
                  np.asarray(rows['y_fit']), peaks.to_value(image.unit),
                  *(np.asarray(getattr(rows[name], 'value', rows[name]))
                    for name in _SHAPE))
    row, column = np.indices(images['data'].shape)
    within = np.any([np.hypot(column - x, row - y) <= radius for x, y in zip(
        rows['x_fit'], rows['y_fit'], strict=True)], axis=0)
    return SourceImages(name, title, rows, image.wcs[box], images,
                  within)


def make_header(image, wcs):
    """
    Make the header of an image in the unit and with the beam of a map.
    """
    # with the distortions that astropy can write
    header = wcs.to_header(relax=True)
    header['BUNIT'] = image.unit.to_string('fits')
    beam = image.meta['beam']
    for key, value in (('BMAJ', beam.major), ('BMIN', beam.minor),
                       ('BPA', beam.pa)):
        header[key] = value.to_value(u.deg)
    return header


# The extensions of the FITS file of a group or a source, in this order
_EXTENSIONS = ('data', 'masked', 'deblended', 'model', 'residual',
               'background')


def _write_fits(part, extraction, folder):
    header = make_header(extraction.image, part.wcs)
    header['OBJECT'] = part.title
    hdus = [fits.PrimaryHDU()]
    hdus += [fits.ImageHDU(part.images[name], header, name=name.upper())
             for name in _EXTENSIONS if name in part.images]
    fits.HDUList(hdus).writeto(folder / f'{part.name}.fits')


def _plot(part, extraction, folder):
    from hyperphotutils import visualization

    if not np.isfinite(part.images['data']).any():
        return
    meta, unit = extraction.image.meta, extraction.image.unit
    images = {name: image << unit for name, image in part.images.items()}
    if folder.name == 'plots_sources':
        plot = visualization.plot_deblended
        options = {'model': images['model'],
                   'companions': images['sources'] - images['model']}
    else:
        plot = (visualization.plot_fit if folder.name == 'plots_groups'
                else visualization.plot_background)
        options = {'model': images['sources'], 'fitted': part.fitted}
    figure = plot(
        images['data'], background=images['background'], table=part.table,
        wcs=part.wcs, rms=extraction.rms, title=part.title,
        beam=(meta['beam_major_pix'], meta['beam_minor_pix'],
              meta['beam_theta']), **options)
    figure.savefig(folder / f'{part.name}.png', dpi=_DPI)
