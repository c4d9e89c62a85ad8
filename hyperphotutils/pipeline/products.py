# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The products of a job: their names, writers, and descriptions.

To add a product, write a function that takes a `Writing`, and add an entry
to `PRODUCTS`. The keys of the section ``output`` of the configuration, the
files that may be replaced, and the tables in the documentation are made
from these entries.

This module is light: the writers import what they need.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

__all__ = []  # shared by the modules of the pipeline only

# In each folder of products, and in the output directory for all maps
LOG, RECORD = 'run.log', 'run.json'

# The files of all jobs, in the output directory
COMBINED, DIAGNOSTICS = 'catalog_all.ecsv', 'diagnostics.ecsv'
BANDS = 'catalog_bands.ecsv'

REJECTED = 'rejected.ecsv'
REPORT, BANDS_REPORT = 'report.html', 'report_bands.html'

# The files in folders of products: images of sources, and of stamps
_SOURCE_IMAGE = re.compile(r'(group|source)_\d+\.(fits|png)')
_STAMP_FILE = re.compile(
    r'\d+_\d+(_[a-z0-9]+)?\.(fits|feedme|constraints)')

# What a killed process leaves of a product: the names of `atomic_output`
_PARTIAL = re.compile(r'^\.[0-9a-f]{8}-')

_BOTH = ('map', 'cube')
_STAMPS = ('stamps', 'galaxies')
_STAMP_FOLDERS = ('galfit', 'galfits')
_PSF = ('psf', 'galaxies')

# Large maps have one to two dots per pixel in each panel.
_DPI = 110

# Rows of an image that are written at once
_ROWS = 256

# The size of a FITS file is a multiple of this.
_FITS_BLOCK = 2880

# Grays in the palette of a figure, besides the colors of its images
_N_GRAYS = 32


class Product(NamedTuple):
    """
    A file, or a folder of files, that a job writes.

    Parameters
    ----------
    name : str
        The name of the file or folder.

    write : callable or `None`
        The function that writes it, called with a `Writing`; `None` if
        it is written during the measurement, or after all others.

    description : str
        The contents.

    key : str, optional
        The key of the section ``output`` that enables the product.
        Without it, the product is always written.

    default : bool, optional
        The default of the key.

    kinds : tuple of str, optional
        The kinds of jobs that have the product.

    needs : str, optional
        The attribute of the result that the product is made from. It is
        not written if the attribute is `None`.
    """

    name: str
    write: Callable | None
    description: str
    key: str | None = None
    default: bool = True
    kinds: tuple = ('map',)
    needs: str = 'table'


class Writing(NamedTuple):
    """
    The arguments of the writer of a product: the file or folder to write,
    the result of the job, such as an
    `~hyperphotutils.pipeline.extraction.Extraction`, the
    `~hyperphotutils.pipeline.MapJob`, the configuration, and whether to show
    a progress bar if writing takes long.
    """

    path: Path
    result: Any
    job: Any
    config: Any
    progress_bar: bool


def write_products(result, job, config, folder, *, progress_bar=False):
    """
    Write the products of a job.
    """
    if result.table is not None:
        result.table.meta['map_id'] = job.map_id
    for product in list_products(job, config):
        if (product.write is not None
                and getattr(result, product.needs) is not None):
            product.write(Writing(folder / product.name, result, job, config,
                                  progress_bar))


def list_products(job, config):
    """
    Return the products that a configuration enables for a job.
    """
    return [product for product in PRODUCTS if job.kind in product.kinds and (
        product.key is None or getattr(config.output, product.key))]


def find_foreign_files(folder):
    """
    Find the files in a folder that are no products.
    """
    known = {LOG, RECORD, *(product.name for product in PRODUCTS)}
    foreign = []
    for item in sorted(folder.iterdir()):
        if _PARTIAL.sub('', item.name) not in known:
            foreign.append(item.name)
        elif item.is_dir():
            pattern = (_STAMP_FILE if item.name in _STAMP_FOLDERS
                       else _SOURCE_IMAGE)
            foreign += [f'{item.name}/{part.name}' for part in item.iterdir()
                        if not pattern.fullmatch(part.name)]
    return foreign


def list_output_keys():
    """
    List the keys of the section ``output`` that enable products, with their
    defaults and descriptions.
    """
    keys = {}
    for product in PRODUCTS:
        if product.key is not None:
            keys.setdefault(product.key, []).append(product)
    return {key: (products[0].default, 'write ' + '; '.join(
        f'{product.name}: {product.description}'
        for product in products).replace('``', ''))
        for key, products in keys.items()}


def list_unused_output_keys(kind, missing=()):
    """
    List the keys of the section ``output`` that enable no product of a kind
    of jobs whose results lack some attributes.
    """
    used = {product.key for product in PRODUCTS
            if kind in product.kinds and product.needs not in missing}
    return [key for key in list_output_keys() if key not in used]


def _write_catalog(writing):
    """
    Write the sources with all columns.
    """
    from hyperphotutils.catalog import write_catalog

    write_catalog(writing.result.table, writing.path, overwrite=True)


def _write_hyper_catalog(writing):
    """
    Write the sources with the columns of HYPER, which include shapes.
    """
    from hyperphotutils.catalog import write_catalog

    write_catalog(writing.result.shapes, writing.path, overwrite=True,
                  map_id=writing.job.map_id)


def _write_regions(writing):
    from hyperphotutils.catalog import write_regions

    shape = 'ellipse' if writing.path.stem == 'ellipses' else 'point'
    write_regions(writing.result.shapes, writing.path, shape=shape,
                  frame=writing.config.output.region_frame, overwrite=True)


def _write_rejected(writing):
    from astropy.table import QTable

    from hyperphotutils.catalog import describe_columns
    from hyperphotutils.photometry import REJECTION_REASONS
    from hyperphotutils.utils.tables import result_meta

    rejected, meta = writing.result.rejected, writing.result.table.meta
    table = describe_columns(QTable(rejected, copy=True))
    table.meta.clear()
    table.meta |= result_meta() | {
        'map_id': writing.job.map_id, 'filename': meta['filename'],
        'reasons': dict(REJECTION_REASONS),
        'n_rejected': count_reasons(rejected)}
    # selections of the finder are counted, but not listed
    not_listed = {name: number
                  for name, number in meta.get('n_rejected', {}).items()
                  if number and name not in REJECTION_REASONS}
    if not_listed:
        table.meta['not_listed'] = not_listed
    table.write(writing.path, format='ascii.ecsv', overwrite=True)


def _write_rejected_regions(writing):
    from astropy.table import QTable

    from hyperphotutils.catalog import write_regions

    rejected = writing.result.rejected
    points = QTable({'id': rejected['reason'], 'x_fit': rejected['x_init'],
                     'y_fit': rejected['y_init'],
                     'sky_centroid': rejected['sky_centroid']})
    write_regions(points, writing.path, shape='point', overwrite=True,
                  frame=writing.config.output.region_frame)


def count_reasons(rejected):
    """
    Count rejected detections by reason.
    """
    from collections import Counter

    from hyperphotutils.photometry import REJECTION_REASONS

    counts = Counter(str(reason) for reason in rejected['reason'])
    return {reason: counts[reason] for reason in REJECTION_REASONS
            if counts[reason]}


def _write_channels(writing):
    writing.result.channels.write(writing.path, format='ascii.ecsv',
                                  overwrite=True)


def _write_image(writing):
    """
    Write the image (model, background, or residual) that names the file.
    """
    import numpy as np
    from astropy.io import fits

    from hyperphotutils.pipeline.source_images import make_header
    from hyperphotutils.pipeline.text import printable
    from hyperphotutils.utils.stored import StoredImage

    result, name = writing.result, writing.path.stem
    image, meta = result.image, result.table.meta
    values = getattr(result, name).to_value(image.unit)
    header = make_header(image, image.wcs)
    header['OBJECT'] = f'{name} of {writing.job.map_id}'
    versions = ', '.join(' '.join(item) for item in meta['version'].items())
    for line in (f'{name} of {writing.job.path} by {versions}',
                 meta.get('call', '')):
        # headers are ASCII
        header.add_history(printable(line).encode(
            'ascii', 'backslashreplace').decode())
    header = fits.PrimaryHDU(np.zeros((1, 1), 'f4'), header).header
    header['NAXIS2'], header['NAXIS1'] = values.shape
    stored = StoredImage.find(values)
    mask = StoredImage.find(image.mask) or image.mask
    # A few rows at a time, as the image of a large map is in a file.
    with writing.path.open('wb') as file:
        file.write(header.tostring().encode('ascii'))
        for first in range(0, len(values), _ROWS):
            rows = slice(first, first + _ROWS)
            part = (values if stored is None else stored)[rows].astype('>f4')
            if name == 'residual':
                part[mask[rows]] = np.nan
            file.write(part.tobytes())
        file.write(bytes(-file.tell() % _FITS_BLOCK))


def _write_source_images(writing):
    from hyperphotutils.pipeline.source_images import write_source_images

    write_source_images(writing.result, writing.path, writing.config,
                        progress_bar=writing.progress_bar)


def _write_overview(writing):
    """
    Write a figure with a palette of the colors of its images, and grays.

    The file is a third as large as in full color.
    """
    import numpy as np
    from PIL import Image

    figure = writing.result.plot_overview(writing.job.map_id)
    if figure is None:
        return
    cmaps = {image.cmap.name: image.cmap for axes in figure.axes
             for image in axes.images}
    n_levels = (256 - _N_GRAYS) // len(cmaps)
    colors = [np.repeat(np.linspace(0, 1, _N_GRAYS)[:, None], 3, axis=1)]
    colors += [cmap(np.linspace(0, 1, n_levels))[:, :3]
               for cmap in cmaps.values()]
    palette = Image.new('P', (1, 1))
    palette.putpalette(np.rint(255 * np.vstack(colors)).astype('u1').tobytes())
    figure.set_dpi(_DPI)
    figure.canvas.draw()
    pixels = figure.canvas.buffer_rgba()
    # figures have no transparent parts
    image = Image.frombytes('RGB', pixels.shape[1::-1], pixels, 'raw', 'RGBX')
    # a third of the time of the default level for a file larger by 9 percent
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(
        writing.path, dpi=(_DPI, _DPI), compress_level=1)


PRODUCTS = (
    Product('catalog.ecsv', _write_catalog,
            'the sources with all columns, units, and metadata', kinds=_BOTH),
    Product('catalog.ipac', _write_hyper_catalog,
            'the sources with the columns of HYPER', 'ipac', kinds=_BOTH),
    Product('catalog.csv', _write_hyper_catalog,
            'the sources with the columns of HYPER', 'csv', default=False,
            kinds=_BOTH),
    Product('ellipses.reg', _write_regions,
            'DS9 regions of the fitted ellipses', 'regions', kinds=_BOTH),
    Product('centroids.reg', _write_regions,
            'DS9 regions of the positions', 'regions', kinds=_BOTH),
    Product(REJECTED, _write_rejected,
            'the detections that are not in the catalog, with the reason',
            kinds=_BOTH, needs='rejected'),
    Product('rejected.reg', _write_rejected_regions,
            'DS9 points at their positions, labeled with the reason',
            'regions', kinds=_BOTH, needs='rejected'),
    Product('channels.ecsv', _write_channels,
            'a row for each channel: its background, noise, and beam, and '
            'the numbers of its sources', kinds=('cube',), needs='channels'),
    Product('background.fits', None,
            'the background of each channel, in the axes and the unit of the '
            'cube', kinds=('cube',)),
    Product('subtracted.fits', None,
            'the cube minus its background, with ``cubes.subtract``',
            kinds=('cube',)),
    Product('overview.png', _write_overview,
            'a figure of the map and its fit, or of up to twelve channels of '
            'a cube without their backgrounds', 'overview', kinds=_BOTH,
            needs='image'),
    Product(REPORT, None,
            'a web page with the catalog, cut-outs of the sources, rejected '
            'detections, noise, configuration, and log', 'report',
            kinds=_BOTH, needs='image'),
    Product('model.fits', _write_image,
            'image of all fitted sources, without background', 'images',
            default=False, needs='model'),
    Product('background.fits', _write_image,
            'image of the fitted backgrounds, NaN far from all sources',
            'images', default=False, needs='background'),
    Product('residual.fits', _write_image,
            'the map minus the sources and, where it is fitted, the '
            'background', 'images', default=False, needs='residual'),
    Product('fits_groups', _write_source_images,
            'a FITS file for each group: the map (``DATA``), the fitted data '
            '(``MASKED``: other groups subtracted, NaN outside of the fitted '
            'pixels), ``MODEL``, ``RESIDUAL``, and ``BACKGROUND``',
            'fits_groups', default=False, needs='model'),
    Product('fits_sources', _write_source_images,
            'a FITS file for each source, with ``DEBLENDED``: the map with '
            'the background and all other sources subtracted',
            'fits_sources', default=False, needs='model'),
    Product('plots_groups', _write_source_images,
            'a figure of the fit of each group', 'plots_groups',
            default=False, needs='model'),
    Product('plots_sources', _write_source_images,
            'a figure of each source, deblended', 'plots_sources',
            default=False, needs='model'),
    Product('plots_backgrounds', _write_source_images,
            'a figure of the background of each group', 'plots_backgrounds',
            default=False, needs='model'),
    # written by SubtractionResult.write_products
    Product('subtraction.fits', None,
            'difference, error, flags, convolved image, decorrelated '
            'difference, kernels, PSF, and stars, see '
            '`SubtractionResult.read '
            '<hyperphotutils.subtraction.SubtractionResult.read>`',
            kinds=('subtraction',)),
    Product('overview.png', None,
            'a figure of both images, the difference in units of its error, '
            'the kernel over the field, the stars by status, and the '
            'histogram of the significance', kinds=('subtraction',)),
    Product('stamps.ecsv', None,
            'the stars of the fit, with the status and the fit of each',
            kinds=('subtraction',)),
    Product('stamps.reg', None, 'DS9 regions of the stars of the fit, in '
            'colors by status',
            kinds=('subtraction',)),
    # written by the functions of galaxies.py
    Product('sky.fits', None, 'the image without sky, the sky, the mask of '
            'bad pixels, and that of these and the sources', kinds=('sky',)),
    Product('galaxies.ecsv', None, 'the galaxies with their fits',
            kinds=('galaxies',)),
    Product('galaxies.fits', None, 'the galaxies with their fits, in FITS',
            kinds=('galaxies',)),
    Product(REJECTED, None, 'the sources that are not fitted as galaxies: '
            'stars, and those near the edge', kinds=('galaxies',)),
    Product(REPORT, None, 'a web page with the galaxies, their cut-outs, '
            'configuration, and log', kinds=('galaxies',)),
    Product('models.fits', None, 'the image without sky, the model, the '
            'residual, and the errors', kinds=('galaxies',)),
    Product('mosaic.png', None, 'a figure of data, model, and residual of '
            'the brightest galaxies', kinds=('galaxies',)),
    Product('truth.png', None, 'a figure of the parameters against the '
            'truth, with ``--truth``', kinds=('galaxies',)),
    Product('chi2.h5', None, 'chi-squared of all models of a grid, with '
            '``--chi2``', kinds=('galaxies',)),
    Product('dre.fits', None, 'the best model of each galaxy in the grid, '
            'with the columns of DRE', kinds=('galaxies',)),
    Product('mosaics.fits', None, 'data, model, and residual of all stamps, '
            'with ``--mosaics``', kinds=('galaxies',)),
    Product('stamps.ecsv', None, 'the sources with a stamp',
            kinds=('stamps',)),
    Product('stamps.h5', None, 'image, error, mask, segments, and PSF of '
            'each stamp, with ``--formats hdf5``', kinds=('stamps',)),
    Product('cuts.h5', None, 'the stamps as DRE stores them, with '
            '``--formats dre``', kinds=('stamps',)),
    Product('stamps.fits', None, 'the stamps in FITS, with ``--formats '
            'fits``', kinds=('stamps',)),
    Product('galfit', None, 'the files of GALFIT for each stamp, with '
            '``--formats galfit``', kinds=('stamps',)),
    Product('galfits', None, 'a file of GalfitS for each stamp, with '
            '``--formats galfits``', kinds=('stamps',)),
    Product('segmentation.fits', None, 'the segments of all sources',
            kinds=_STAMPS),
    Product('segmentation.png', None, 'a figure of the segments of all '
            'sources', kinds=_STAMPS),
    Product('psf.fits', None, 'the PSF, see '
            '`~hyperphotutils.psf.read_psf`', kinds=_PSF),
    Product('psfex.psf', None, 'the PSF as PSFEx stores it', kinds=_PSF),
    Product('stars.ecsv', None, 'the stars, those used and those rejected '
            'with the reason', kinds=_PSF),
    Product('psf.png', None, 'a figure of the PSF', kinds=_PSF),
    Product('stars.png', None, 'a figure of the stars and their residuals',
            kinds=_PSF),
    Product('selection.png', None, 'a figure of the selection of stars',
            kinds=_PSF),
    *(Product(f'{step}_log.json', None, 'what was not given, and how it was '
              'found', kinds=(step,))
      for step in ('sky', 'psf', 'stamps', 'galaxies')),
    Product('summary.txt', None, 'the most important numbers',
            kinds=('subtraction',)),
)
