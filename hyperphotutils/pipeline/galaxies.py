# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sky, PSF, stamps, and galaxies of one image, from the file to the products.

Each of `run_sky`, `run_psf`, `run_stamps`, and `run_galaxies` makes what is
not given, and records how.
"""

import json
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.stats import SigmaClip, gaussian_fwhm_to_sigma
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS, FITSFixedWarning
from astropy.wcs.utils import proj_plane_pixel_scales
from photutils.background import Background2D, SExtractorBackground
from scipy.ndimage import gaussian_filter

from hyperphotutils.catalog import (
    describe_columns,
    read_catalog,
    write_catalog,
)
from hyperphotutils.detection import ExtendedSourceFinder
from hyperphotutils.galaxy import (
    SersicCube,
    plot_mosaic,
    plot_parameters,
    plot_segments,
)
from hyperphotutils.maps import MapError, load_image
from hyperphotutils.maps.extensions import errors_and_mask
from hyperphotutils.noise import clipped_rms
from hyperphotutils.pipeline.galaxy_fits import PRIORS, SIZES, OrderedFits
from hyperphotutils.pipeline.image_config import ImageOptions
from hyperphotutils.pipeline.logs import format_rows, number_of
from hyperphotutils.pipeline.products import PRODUCTS, REJECTED, REPORT
from hyperphotutils.pipeline.progress import Stages
from hyperphotutils.pipeline.psf_files import open_psf
from hyperphotutils.psf import (
    STAR_FLAGS,
    EmpiricalPSFBuilder,
    StarSelector,
    plot_psf,
    plot_selection,
    plot_stars,
)
from hyperphotutils.psf.stars import MIN_STARS, TooFewStarsError
from hyperphotutils.stamps import (
    find_gain,
    make_sigma_image,
    make_stamps,
    subtract_sky,
    write_galfit,
    write_galfits,
)
from hyperphotutils.utils import FLAG_DESCRIPTIONS, FLAGS, result_meta
from hyperphotutils.utils.output import atomic_output

__all__ = ['ImageResult', 'run_galaxies', 'run_psf', 'run_sky',
           'run_stamps']

# The FWHM (pixels) of an image without stars.
_FALLBACK_FWHM = 3.0
# Pixels brighter than this many rms hold their own photons, others those of
# the smoothed image.
_SIGNAL = 5.0
# The boxes of the local background of the detection, in pixels.
_BOX = 64
# The side of stamps in FWHM and in half-light radii.
_SIZE_FWHM, _SIZE_RADII = 12.0, 10.0
# The steps of each function, in their order
_STAGES = {'sky': ('sky', 'products'), 'psf': ('sky', 'psf', 'products'),
           'stamps': ('sky', 'psf', 'sources', 'stamps', 'products'),
           'galaxies': ('sky', 'psf', 'sources', 'fits', 'products')}
# The grid of --chi2 without a file of models.
_CHI2_GRID = {'n': [1.0, 2.0, 4.0], 'q': np.linspace(0.2, 1.0, 9),
              'theta': np.arange(0.0, 180.0, 15.0)}
_N_RADII = 15


@dataclass
class ImageResult:
    """
    What a function has made of an image.

    Parameters
    ----------
    name : str
        The name of the image without its suffix.

    files : dict of `~pathlib.Path`
        The products by kind.

    defaults : dict of str
        What was not given, and how it was found.

    table : `~astropy.table.QTable` or `None`
        The table of stars, of stamps, or of galaxies.

    warnings : list of str
        The warnings.

    notes : dict
        Figures of the result.
    """

    name: str
    files: dict = field(default_factory=dict)
    defaults: dict = field(default_factory=dict)
    table: QTable | None = None
    warnings: list = field(default_factory=list)
    notes: dict = field(default_factory=dict)


def run_sky(path, folder, options=None, *, overwrite=False,
            progress_bar=False):
    """
    Subtract the sky of an image.

    Parameters
    ----------
    path : path-like
        The FITS file.

    folder : path-like
        The folder of the products, made if need be: ``sky.fits`` with
        the image without sky, the sky, the mask of bad pixels, and that
        of these and the sources, and ``sky_log.json``.

    options : `~hyperphotutils.pipeline.ImageOptions`, optional
        What is known of the image.

    overwrite : bool, optional
        Whether existing files may be replaced.

    progress_bar : bool, optional
        Whether a progress bar over the steps is shown.

    Returns
    -------
    result : `ImageResult`
        The products.
    """
    with _Run(path, folder, options, 'sky', overwrite=overwrite,
              progress_bar=progress_bar) as run:
        sky = run.sky
        run.begin('products')
        # a MASK is read as that of bad pixels, also of this file
        run.write_images('sky', DATA=sky.data, SKY=sky.background,
                         MASK=run.mask.astype(np.uint8),
                         SOURCE_MASK=sky.mask.astype(np.uint8))
        run.note(sky_rms=float(sky.rms),
                 masked_part=float(np.mean(sky.mask)))
    return run.result


def run_psf(path, folder, options=None, *, overwrite=False,
            progress_bar=False):
    """
    Measure the PSF of an image.

    Parameters
    ----------
    path, options, overwrite, progress_bar
        As for `run_sky`.

    folder : path-like
        The folder of the products: ``psf.fits``, ``psfex.psf`` (as of
        PSFEx), ``stars.ecsv``, the pictures ``psf.png``,
        ``stars.png``, and ``selection.png``, and
        ``psf_log.json``.

    Returns
    -------
    result : `ImageResult`
        The products; the table is that of the stars.

    Raises
    ------
    ValueError
        If no star is usable.
    """
    with _Run(path, folder, options, 'psf', overwrite=overwrite,
              progress_bar=progress_bar) as run:
        _ = run.psf
        run.begin('products')
        _write_psf(run)
        run.result.table = run.psf.stars
    return run.result


def run_stamps(path, folder, options=None, *, catalog=None,
               segmentation=None, formats=('hdf5',), compression='medium',
               overwrite=False, progress_bar=False):
    """
    Cut the galaxies of an image out.

    Parameters
    ----------
    path, options, overwrite, progress_bar
        As for `run_sky`.

    folder : path-like
        The folder of the products: ``stamps.h5`` and others by
        ``formats``, ``segmentation.fits``, ``segmentation.png``,
        and ``stamps_log.json``.

    catalog : `~astropy.table.Table`, optional
        The sources, in place of a detection.

    segmentation : 2D int array_like, optional
        Their segments.

    formats : sequence of str, optional
        ``'hdf5'``, ``'dre'``, ``'fits'``, ``'galfit'``, ``'galfits'``.

    compression : {'none', 'low', 'medium', 'high'}, optional
        That of HDF5.

    Returns
    -------
    result : `ImageResult`
        The products; the table is that of the stamps.
    """
    with _Run(path, folder, options, 'stamps', overwrite=overwrite,
              catalog=catalog, segmentation=segmentation,
              progress_bar=progress_bar) as run:
        stamps = run.stamps
        run.begin('products')
        with atomic_output(run.target('table', 'stamps.ecsv'),
                           overwrite=overwrite) as temporary:
            stamps.table.write(temporary, format='ascii.ecsv')
        names = {'hdf5': 'stamps.h5', 'dre': 'cuts.h5',
                 'fits': 'stamps.fits'}
        for kind in formats:
            if kind in names:
                target = run.target(kind, names[kind])
                stamps.write(target, format=kind, compression=compression,
                             overwrite=overwrite)
            elif kind in {'galfit', 'galfits'}:
                _write_each(run, stamps, kind)
            else:
                msg = ("formats must be of 'hdf5', 'dre', 'fits', 'galfit', "
                       f"and 'galfits': got {kind!r}")
                raise ValueError(msg)
        _write_segments(run)
        run.result.table = stamps.table
        run.note(n_stamps=len(stamps))
    return run.result


def run_galaxies(path, folder, options=None, *, catalog=None,
                 segmentation=None, truth=None, neighbors='fit',
                 n_bounds=(0.3, 8.0), max_radius=None, chi2=False, cube=None,
                 mosaics=False, overwrite=False, progress_bar=False):
    """
    Fit the galaxies of an image.

    Parameters
    ----------
    path, options, overwrite, progress_bar
        As for `run_sky`.

    catalog, segmentation
        As for `run_stamps`.

    folder : path-like
        The folder of the products: ``galaxies.ecsv`` and ``.fits``,
        ``models.fits`` (the image without sky, the model, the
        residual, and the errors; the model is without stars and without
        galaxies with the flag ``too_large`` or a negative flux),
        ``segmentation.fits``, the products of `run_psf` unless the PSF
        is given, the pictures ``segmentation.png``, ``mosaic.png``, and
        ``truth.png``, and ``galaxies_log.json``.

    truth : `~astropy.table.Table`, optional
        The true sources, for ``truth.png``.

    neighbors : {'fit', 'mask', 'ignore'}, optional
        See `~hyperphotutils.galaxy.SersicFitter`.

    n_bounds : tuple of 2 floats, optional
        The bounds of the Sersic index.

    max_radius : float, optional
        The largest radius ``r_eff sqrt(q)`` in pixels, by default an
        eighth of ``size``: what a bright galaxy leaves would otherwise
        become a galaxy that is as large as the stamp.

    chi2 : bool, optional
        Whether the galaxies are also compared with all models of a grid,
        as DRE does: ``chi2.h5`` and ``dre.fits``.

    cube : path-like, optional
        A file of models of DRE for ``chi2``, which is then switched on.

    mosaics : bool, optional
        Whether ``mosaics.fits`` is written, with data, model, and
        residual of all stamps.

    Returns
    -------
    result : `ImageResult`
        The products; the table is that of the galaxies.
    """
    with _Run(path, folder, options, 'galaxies', overwrite=overwrite,
              catalog=catalog, segmentation=segmentation,
              progress_bar=progress_bar) as run:
        fitting = OrderedFits(run, max_radius, neighbors=neighbors,
                             n_bounds=n_bounds, grows=run.options.size is None)
        if max_radius is None:
            run.default('max_radius', 'an eighth of the stamp')
        run.default('priors', '; '.join(
            f'{name} {mean:g} +- {deviation:g}'
            for name, (mean, deviation) in PRIORS.items()))
        run.begin('fits')
        table = fitting.run()
        if run.options.gain is not None and run.options.error is None:
            # errors from the noisy data would bias the fluxes low
            run.improve_error(fitting.model)
            table = fitting.run()
        data, rows = run.sky.data, run.galaxies
        for name in ('star_index', 'kron_flux', 'snr'):
            if name in rows.colnames:
                table[{'snr': 'snr_detection'}.get(name, name)] = rows[name]
        if run.options.zero_point is not None:
            flux = np.where(table['flux_fit'] > 0.0, table['flux_fit'],
                            np.nan)
            table['mag_fit'] = run.options.zero_point - 2.5 * np.log10(flux)
            table['mag_err'] = 2.5 / np.log(10.0) * table['flux_err'] / flux
        describe_columns(table, unit=run.unit, kind='galaxies')
        table.meta['defaults'] = dict(run.result.defaults)
        run.result.table = table
        run.begin('products')
        run.write_table('galaxies', table)
        run.write_rejected()
        model = fitting.model
        run.write_images('models', DATA=data, MODEL=model,
                         RESIDUAL=data - model, ERROR=run.error)
        _write_segments(run)
        if run.options.psf is None:
            _write_psf(run)
        run.write_figure('mosaic', plot_mosaic(
            table, data, model, data - model, error=run.error,
            mask=run.mask | run.star_pixels, size=table['stamp_size']))
        if truth is not None:
            run.write_figure('truth', plot_parameters(table, truth))
        if chi2 or cube is not None:
            _compare_with_grid(run, cube)
        if mosaics:
            _write_mosaics(run, table, model)
        counts = {name: int(np.count_nonzero(table['flags'] & bit))
                  for name, bit in FLAGS.items()}
        run.note(n_galaxies=len(table),
                 n_fitted=int(np.count_nonzero(np.isfinite(
                     table['flux_fit']))),
                 flags={name: number for name, number in counts.items()
                        if number},
                 n_flagged=int(np.count_nonzero(table['flags'])),
                 median_reduced_chi2=float(np.nanmedian(
                     table['reduced_chi2'])))
    return run.result


class ImageKind:
    """
    The kinds of jobs that make sky, PSF, stamps, or galaxies of an image,
    see `~hyperphotutils.pipeline.process`.
    """

    keeps_parts = False

    def read(self, job, config):
        """
        Read what was made before; the image is read by the measurement.
        """
        if job.kind not in {'stamps', 'galaxies'}:
            return {}
        arguments = {}
        if config.input.sextracted is not None:
            from hyperphotutils.compat.dre import read_sextracted

            name = Path(job.path).name.partition('.fit')[0]
            sources = read_sextracted(config.input.sextracted, name,
                                      image=job.path)
            arguments = {'catalog': sources.catalog,
                         'segmentation': sources.segmentation}
        if job.kind == 'stamps':
            return arguments | dict(config.stamps)
        if config.galaxies.truth is not None:
            arguments['truth'] = read_catalog(config.galaxies.truth)
        return arguments | {name: value for name, value in config.galaxies
                            if name != 'truth'}

    def measure(self, arguments, job, config, folder, *, executor=None,
                progress_bar=False, report=None):
        """
        Make the products.
        """
        run = {'sky': run_sky, 'psf': run_psf, 'stamps': run_stamps,
               'galaxies': run_galaxies}[job.kind]
        return _Outcome(job.kind, run(
            job.path, folder, config.image, progress_bar=progress_bar,
            **arguments))


@dataclass(frozen=True, eq=False)
class _Outcome:
    """
    An `ImageResult` as the result of a job.
    """

    kind: str
    result: ImageResult

    # see process.py
    earlier = ''
    table = None

    @property
    def table_name(self):
        return {'sky': 'sky.fits', 'psf': 'psf.fits'}.get(
            self.kind, f'{self.kind}.ecsv')

    @property
    def times(self):
        return {}

    @property
    def numbers(self):
        return {name: value for name, value in self.result.notes.items()
                if isinstance(value, int | float | str)}

    @property
    def summary(self):
        """
        The most important numbers as text.
        """
        notes = self.result.notes
        texts = []
        if 'n_galaxies' in notes:
            texts += [self.counts, 'median reduced chi2 '
                      f'{notes["median_reduced_chi2"]:.2f}']
        if 'n_stamps' in notes:
            texts.append(number_of(notes['n_stamps'], 'stamp'))
        if 'psf_fwhm' in notes:
            sky = notes.get('psf_fwhm_arcsec')
            texts.append(f'PSF of {number_of(notes["psf_stars"], "star")}, '
                         f'FWHM {notes["psf_fwhm"]:.2f} pixels'
                         + ('' if sky is None else f' ({sky:.3g} arcsec)'))
        if 'sky_rms' in notes:
            texts.append(f'rms of the sky {notes["sky_rms"]:.3g}, '
                         f'{100.0 * notes["masked_part"]:.0f} % masked')
        return '; '.join(texts)

    @property
    def counts(self):
        """
        The numbers of sources, of those without a row by reason, and of
        fitted galaxies by flag, as text.
        """
        notes = self.result.notes
        lost = {'stars': notes['n_stars'], 'near the edge':
                notes['n_near_edge'], 'without a fit':
                notes['n_galaxies'] - notes['n_fitted']}
        lost = [f'{number} {reason}' for reason, number in lost.items()
                if number]
        text = (f'{notes["n_fitted"]} of '
                f'{number_of(notes["n_sources"], "source")} fitted as '
                'galaxies')
        if lost:
            text += f' ({", ".join(lost)})'
        if notes['n_flagged']:
            text += f', {notes["n_flagged"]} flagged: ' + ', '.join(
                f'{number} {name}' for name, number
                in notes['flags'].items())
        return text

    def describe(self):
        """
        Describe what was found, how what was not given was found, and the
        products.
        """
        result = self.result
        rows = list(self.numbers.items())
        sections = []
        if 'n_galaxies' in result.notes:
            rows.insert(0, ('galaxies', self.counts))
            sections = ['\n'.join([
                f'flags         {result.notes["n_flagged"]} of '
                f'{result.notes["n_galaxies"]} galaxies have one', *(
                    f'  {number} {name}: {FLAG_DESCRIPTIONS[name]}'
                    for name, number in result.notes['flags'].items())])]
        # the page is written after the log, which it shows
        names = {REPORT, *(path.name for path in result.files.values())}
        return [
            format_rows(rows), *sections,
            '\n'.join(['what was not given', *(
                f'  {name}: {text}' for name, text
                in result.defaults.items())]),
            '\n'.join(['products in this folder', *(
                f'  {product.name}: ' + product.description.translate(
                    str.maketrans('', '', '`~'))
                for product in PRODUCTS
                if self.kind in product.kinds and product.name in names)])]


class _Run:
    """
    One image: what is given, what is made of it, and the products.

    The steps are properties that are made when they are needed first.
    """

    def __init__(self, path, folder, options, step, *, overwrite=False,
                 catalog=None, segmentation=None, progress_bar=False):
        self.path = Path(path)
        self.folder = Path(folder)
        self.options = ImageOptions() if options is None else options
        self.step = step
        self.overwrite = overwrite
        self.given = catalog, segmentation
        self.result = ImageResult(self.path.name.partition('.fit')[0])
        self._stages = Stages(_STAGES[step], progress_bar)

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self._catcher = warnings.catch_warnings(record=True)
        self._caught = self._catcher.__enter__()
        warnings.simplefilter('always')
        self._stages.__enter__()
        return self

    def __exit__(self, kind, value, trace):
        self._stages.__exit__(kind, value, trace)
        self._catcher.__exit__(kind, value, trace)
        seen = {' '.join(str(warning.message).split()): warning.category
                for warning in self._caught}
        self.result.warnings = list(seen)
        if kind is not None:
            return
        self._write_log()
        for text, category in seen.items():
            warnings.warn(text, category, stacklevel=3)

    def begin(self, stage):
        """
        Show that a step begins.
        """
        self._stages.begin(stage)

    def default(self, name, text):
        """
        Record what was not given.
        """
        self.result.defaults[name] = text

    def note(self, **figures):
        """
        Add figures to the log.
        """
        self.result.notes.update(figures)

    def target(self, kind, name):
        """
        Return the path of a product, and remember it.
        """
        path = self.folder / name
        self.result.files[kind] = path
        return path

    def write_images(self, kind, **images):
        """
        Write images as the extensions of one file.
        """
        header = self.image.header.copy()
        hdus = fits.HDUList([fits.PrimaryHDU()])
        for name, image in images.items():
            values = np.asarray(getattr(image, 'value', image))
            hdu = fits.ImageHDU(values.astype(np.float32)
                                if values.dtype.kind == 'f' else values,
                                name=name)
            if self.wcs is not None:
                hdu.header.update(self.wcs.to_header(relax=True))
            if 'BUNIT' in header and values.dtype.kind == 'f':
                hdu.header['BUNIT'] = header['BUNIT']
            hdus.append(hdu)
        with atomic_output(self.target(kind, f'{kind}.fits'),
                           overwrite=self.overwrite) as temporary:
            hdus.writeto(temporary)

    def write_rejected(self):
        """
        Write the sources that are not fitted as galaxies.
        """
        names = [name for name in ('id', 'x_centroid', 'y_centroid',
                                   'star_index', 'reason')
                 if name in self.rejected.colnames]
        write_catalog(self.rejected[names], self.target('rejected', REJECTED),
                      overwrite=self.overwrite)

    def write_table(self, kind, table):
        """
        Write a table as ECSV and as FITS.
        """
        for name, suffix in ((kind, 'ecsv'), (f'{kind}_fits', 'fits')):
            write_catalog(table, self.target(name, f'{kind}.{suffix}'),
                          overwrite=self.overwrite)

    def write_figure(self, kind, figure):
        """
        Write a picture.
        """
        with atomic_output(self.target(f'{kind}_picture', f'{kind}.png'),
                           overwrite=self.overwrite) as temporary:
            figure.savefig(temporary, dpi=120, format='png')

    def _write_log(self):
        """
        Write what was done, what was not given, and the warnings.
        """
        log = {'image': str(self.path), 'step': self.step,
               **{f'result_{name}': value for name, value
                  in self.result.notes.items()},
               'defaults': self.result.defaults,
               'warnings': self.result.warnings,
               'options': {name: str(value) for name, value
                           in self.options
                           if value is not None},
               'files': {kind: path.name for kind, path
                         in self.result.files.items()},
               **result_meta()}
        path = self.target('log', f'{self.step}_log.json')
        with atomic_output(path, overwrite=self.overwrite) as temporary:
            temporary.write_text(json.dumps(log, indent=1, default=str)
                                 + '\n', encoding='utf-8')

    @cached_property
    def image(self):
        options = self.options
        image = _load(self.path, options.ext, masks=True, error_extension=(
            None if options.error is None and options.weight is None
            else False))
        values = np.squeeze(image.data)
        if values.ndim != 2:
            msg = (f"'{self.path}' must hold a 2D image: the shape of "
                   f'extension {image.extension} is {image.data.shape}; give '
                   'another ext, or a file with one image of it')
            raise ValueError(msg)
        self._values = values.astype(float)
        return image

    @cached_property
    def data(self):
        """
        The values of the image.
        """
        _ = self.image
        return self._values

    @cached_property
    def unit(self):
        """
        The unit of the image, `None` if it is not known.
        """
        text = self.image.header.get('BUNIT')
        if not text:
            return None
        try:
            return u.Unit(text)
        except ValueError:
            self.default('unit', f'none: {text!r} is not understood')
            return None

    @cached_property
    def _beside(self):
        """
        The standard deviations and the mask in the file of the image; `None`
        for what it lacks or is given otherwise.
        """
        image, options = self.image, self.options
        *found, in_mask = errors_and_mask(
            image, self.unit, mask_given=options.mask is not None)
        error, mask = (None if plane is None else np.squeeze(plane)
                       for plane in found)
        if mask is not None:
            self.default('mask', f'{in_mask} of the file: '
                         f'{np.mean(mask):.2%} of the pixels')
        if error is not None and options.gain is not None:
            self.default('errors of the file', f'{image.error.extension}, '
                         'not used, since the gain is given')
            error = None
        return error, mask

    @cached_property
    def wcs(self):
        """
        The coordinates, `None` without any on the sky.
        """
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', FITSFixedWarning)
            wcs = WCS(self.image.header)
        return wcs.celestial if wcs.has_celestial else None

    @cached_property
    def mask(self):
        """
        `True` for pixels to ignore.
        """
        bad = ~np.isfinite(self.data)
        error, mask = self._beside
        if mask is not None:
            bad |= mask
        if error is not None:
            bad |= ~(error > 0.0)
        for path, is_bad in ((self.options.mask, lambda v: v != 0),
                             (self.options.weight, lambda v: ~(v > 0)),
                             (self.options.error, lambda v: ~(v > 0))):
            if path is not None:
                bad |= is_bad(self._read_plane(path))
        return bad

    def _read_plane(self, path, *, in_unit=False):
        """
        Read an image with the pixels of the image, and if asked for in its
        unit.
        """
        read = _load(path)
        plane = np.squeeze(read.data)
        if plane.shape != self.data.shape:
            msg = (f"'{path}' must have the shape of '{self.path}', "
                   f'{self.data.shape}: got {plane.shape}')
            raise ValueError(msg)
        text = str(read.header.get('BUNIT', '')).strip()
        if in_unit and self.unit is not None and text:
            unit = u.Unit(text, parse_strict='silent')
            if not unit.is_equivalent(self.unit):
                msg = (f"'{path}' must have the unit of '{self.path}', "
                       f'{self.unit}: got BUNIT = {text!r}')
                raise ValueError(msg)
            plane = plane * unit.to(self.unit)
        return plane

    @cached_property
    def fwhm(self):
        """
        The FWHM of the PSF in pixels.
        """
        if self.options.fwhm is not None:
            return self.options.fwhm
        if self.options.psf is not None:
            fwhm = float(self.psf.fwhm())
            self.default('fwhm', f'{fwhm:.2f} pixels, that of the PSF')
            return fwhm
        mask = self.mask  # with its own warnings
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', AstropyUserWarning)
            stars = StarSelector(
                min_snr=self.options.min_snr,
                saturation=self.options.saturation)(self.data, mask=mask)
        if stars is None or not stars['accepted'].any():
            self.default('fwhm', f'{_FALLBACK_FWHM} pixels, since no star '
                         'was found')
            return _FALLBACK_FWHM
        fwhm = stars.meta['fwhm']
        self.default('fwhm', f'{fwhm:.2f} pixels, the median of '
                     f'{np.count_nonzero(stars["accepted"])} stars')
        return fwhm

    @cached_property
    def sky(self):
        """
        The image without sky.
        """
        options = self.options
        fwhm = self.fwhm if options.subtract_sky else None
        self.begin('sky')
        if not options.subtract_sky:
            from hyperphotutils.stamps import SkySubtraction

            rms = clipped_rms(self.data, mask=self.mask)
            return SkySubtraction(
                np.where(self.mask, np.nan, self.data),
                np.zeros(self.data.shape), self.mask, rms)
        sky = subtract_sky(
            self.data, fwhm=fwhm, order=options.sky_order,
            method=options.sky_method, mask=self.mask,
            grow=options.sky_grow)
        self.default('sky', f'{options.sky_method}' + (
            f' of order {options.sky_order}'
            if options.sky_method == 'polynomial' else '')
            + f', sources masked by detection: {np.mean(sky.mask):.0%} of '
            'the pixels')
        return sky

    @cached_property
    def error(self):
        """
        The standard deviations.
        """
        options = self.options
        if options.error is not None:
            return np.where(self.mask, np.nan, self._read_plane(
                options.error, in_unit=True))
        if options.weight is not None:
            weight = np.where(self.mask, np.nan,
                              self._read_plane(options.weight))
            return weight**-0.5
        if self._beside[0] is not None:
            self.default('error', f'{self.image.error.extension} of the file')
            return np.where(self.mask, np.nan, self._beside[0])
        rms = float(self.sky.rms)
        if options.gain is None:
            self.default('error', f'{rms:.4g}, the rms of the sky, without '
                         'photon noise of sources since no gain is given')
            return np.where(self.mask, np.nan, rms)
        gain = find_gain(self.image.header, options.gain,
                         key=options.gain_key)
        self.default('error', f'rms of the sky, {rms:.4g}, and photon noise '
                     f'by the gain {gain:.4g}')
        # photons of the noise itself are no signal
        data = np.where(self.mask, 0.0, self.sky.data)
        signal = np.where(data > _SIGNAL * rms, data, gaussian_filter(
            data, self.fwhm * gaussian_fwhm_to_sigma))
        return make_sigma_image(np.where(self.mask, np.nan, signal),
                                gain=gain, background_rms=rms)

    @cached_property
    def psf(self):
        """
        The PSF.
        """
        options = self.options
        if options.psf is not None:
            return open_psf(options.psf)
        error = self.error
        self.begin('psf')
        # self.fwhm is that of a Gaussian, which is larger than that of a
        # PSF with wings: given to the selector, it would reject the stars
        stars = StarSelector(
            options.fwhm, min_snr=options.min_snr,
            saturation=options.saturation)(
            self.sky.data, error=error, mask=self.mask)
        if stars is None or np.count_nonzero(stars['accepted']) < MIN_STARS:
            raise ValueError(self._describe_lack(stars))
        size = options.psf_size
        if size is None:
            size = 2 * int(np.ceil(5.0 * self.fwhm)) + 1
        builder = EmpiricalPSFBuilder(
            size, order=options.psf_order,
            oversampling=options.psf_oversampling)
        try:
            psf = builder(self.sky.data, stars, error=error, mask=self.mask)
        except TooFewStarsError as exc:
            raise ValueError(self._describe_rejection(exc)) from None
        used = int(np.count_nonzero(psf.stars['used']))
        samples = number_of(options.psf_oversampling, 'sample')
        self.default('psf', f'{size} x {size} pixels, each with {samples} '
                     'along each axis (psf_oversampling), of order '
                     f'{psf.meta["order"]} in the position (psf_order), from '
                     f'{used} stars, FWHM {psf.fwhm():.3f} pixels')
        scale = self.pixel_scale
        self.note(psf_fwhm=float(psf.fwhm()), psf_stars=used,
                  **({} if scale is None else {
                      'psf_fwhm_arcsec': float(psf.fwhm() * scale)}))
        return psf

    def _describe_lack(self, stars):
        """
        Return the message about too few usable stars.
        """
        options = self.options
        flags, found = np.zeros(0, dtype=int), 'no usable star'
        if stars is not None:
            flags = np.asarray(stars['flags'])
            if stars['accepted'].any():
                found = ('only 1 usable star, but a PSF needs '
                         f'{MIN_STARS}')
        counts = {name: int(np.count_nonzero(flags & bit))
                  for name, bit in STAR_FLAGS.items()}
        reasons = ', '.join(f'{number} {name}' for name, number
                            in counts.items() if number)
        remedies = []
        if counts['faint'] or not len(flags):
            remedies.append(f'lower min_snr (now {options.min_snr:g})')
        if counts['saturated']:
            remedies.append(f'raise saturation (now {options.saturation:g})')
        if counts['size']:
            remedies.append('give fwhm' if options.fwhm is None else
                            f'correct fwhm (now {options.fwhm:g})')
        if self.step != 'psf':
            remedies.append('give the PSF as a file (psf)')
        elif not remedies:
            remedies.append('use an image with more isolated stars')
        return (f"'{self.path}' has {found} ("
                f'{number_of(len(flags), "detection")}'
                + (f', rejected: {reasons}' if reasons else '')
                + f'): {", or ".join(remedies)}')

    def _describe_rejection(self, error):
        """
        Return the message about too few stars for the fit, with the keys of
        the options instead of the arguments of the builder.
        """
        options = self.options
        remedies = [f'lower min_snr (now {options.min_snr:g})']
        if 'order' in error.reasons:
            remedies.insert(0, f'lower psf_order (now {options.psf_order})')
        if 'bad_fit' in error.reasons:
            remedies.append('check the errors (error, weight, gain)')
        if self.step != 'psf':
            remedies.append('give the PSF as a file (psf)')
        return f"'{self.path}': {error.problem}: {', or '.join(remedies)}"

    @property
    def pixel_scale(self):
        """
        The size of a pixel in arcseconds, `None` without coordinates.
        """
        if self.wcs is None:
            return None
        return 3600.0 * float(np.sqrt(np.prod(
            proj_plane_pixel_scales(self.wcs))))

    @cached_property
    def sources(self):
        """
        The sources and their segments.
        """
        options = self.options
        catalog, segmentation = self.given
        finder = ExtendedSourceFinder(
            self.fwhm, threshold=options.threshold,
            n_pixels=options.n_pixels, contrast=options.contrast,
            bkg_size=0, zero_point=options.zero_point,
            saturation=options.saturation)
        if catalog is not None and segmentation is not None:
            from photutils.segmentation import SegmentationImage

            from hyperphotutils.detection import ExtendedSources

            data = self.sky.data
            return ExtendedSources(
                catalog, SegmentationImage(np.asarray(getattr(
                    segmentation, 'data', segmentation))), data,
                self.sky.background, np.full(data.shape, self.sky.rms))
        data, error = self.sky.data, self.error
        self.begin('sources')
        # fragments of halos are no galaxies: detection, but not measurement,
        # is above a local background, as in SExtractor
        local = None
        if min(data.shape) >= 2 * _BOX:
            local = data - Background2D(
                np.where(self.mask, 0.0, data), _BOX, mask=self.mask,
                filter_size=3, exclude_percentile=90.0,
                sigma_clip=SigmaClip(3.0),
                bkg_estimator=SExtractorBackground()).background
        found = finder(data, error=error, mask=self.mask,
                       wcs=self.wcs, detection_data=local)
        if found is None:
            msg = (f"'{self.path}' has no source above threshold="
                   f'{options.threshold} in {options.n_pixels} pixels')
            raise ValueError(msg)
        self.default('sources', f'{len(found.catalog)} detected by '
                     'photutils, ' + repr(finder) + (
                         '' if local is None else ', above a background of '
                         f'boxes of {_BOX} pixels'))
        if catalog is None:
            return found
        from dataclasses import replace

        return replace(found, catalog=catalog)

    @cached_property
    def galaxies(self):
        """
        The rows of the catalog that get a stamp and a row.
        """
        catalog, options = self.sources.catalog, self.options
        is_star = np.zeros(len(catalog), dtype=bool)
        if 'star_index' in catalog.colnames:
            index = np.asarray(catalog['star_index'], dtype=float)
            is_star = index > options.max_star_index
            self.default('galaxies', 'sources with a star index of at most '
                         f'{options.max_star_index}')
        x, y = (np.asarray(getattr(catalog[f'{axis}_centroid'], 'value',
                                   catalog[f'{axis}_centroid']))
                for axis in 'xy')
        ny, nx = self.data.shape
        edge = options.margin - 0.5
        inside = ((x > edge) & (x < nx - 1 - edge) & (y > edge)
                  & (y < ny - 1 - edge))
        kept = inside & ~is_star
        self.note(n_sources=len(catalog),
                  n_stars=int(np.count_nonzero(is_star)),
                  n_near_edge=int(np.count_nonzero(~inside & ~is_star)))
        self.rejected = catalog[~kept]
        self.rejected['reason'] = np.where(is_star, 'star',
                                           'near_edge')[~kept]
        if not kept.any():
            msg = (f"'{self.path}': none of {len(catalog)} sources is a "
                   'galaxy: raise max_star_index, or lower margin')
            raise ValueError(msg)
        return catalog[kept]

    @cached_property
    def star_pixels(self):
        """
        `True` in the segments of sources that are no galaxies.
        """
        labels = self.sources.segmentation.data
        return (labels > 0) & ~np.isin(labels, self.galaxies['id'])

    def improve_error(self, model):
        """
        Replace the photon noise of the data by that of the model.
        """
        gain = find_gain(self.image.header, self.options.gain,
                         key=self.options.gain_key)
        rms = float(self.sky.rms)
        error = make_sigma_image(np.where(self.mask, np.nan, model),
                                 gain=gain, background_rms=rms)
        self.error = np.where(self.star_pixels, self.error, error)
        self.result.defaults['error'] += ' of the model of a first fit'

    @cached_property
    def needed_sizes(self):
        """
        The side of the stamp that each galaxy needs, in pixels.
        """
        radii = 2.0
        if 'half_light_radius' in self.galaxies.colnames:
            radii = np.asarray(getattr(
                self.galaxies['half_light_radius'], 'value',
                self.galaxies['half_light_radius']), dtype=float)
        return np.fmax(_SIZE_FWHM * self.fwhm, _SIZE_RADII * radii) * (
            np.ones(len(self.galaxies)))

    @cached_property
    def size(self):
        """
        The side of the stamps that are written.
        """
        if self.options.size is not None:
            return self.options.size
        size = np.percentile(self.needed_sizes, 75)
        size = next((side for side in SIZES if side >= size), SIZES[-1])
        self.default('size', f'{size} pixels, by the FWHM and the sizes of '
                     'the galaxies')
        return size

    @cached_property
    def fit_sizes(self):
        """
        The side of the stamp on which each galaxy is fitted.
        """
        if self.options.size is not None:
            return np.full(len(self.galaxies), self.options.size)
        self.default('size of fits', f'{SIZES[0]} to {SIZES[-1]} pixels, by '
                     'the FWHM and the size of each galaxy')
        return np.take(SIZES, np.searchsorted(
            SIZES[:-1], self.needed_sizes))

    @cached_property
    def stamps(self):
        """
        The stamps.
        """
        meta = {'image': str(self.path), 'zero_point': self.options.zero_point,
                'defaults': dict(self.result.defaults)}
        return make_stamps(
            self.sky.data, self.galaxies, size=self.size, error=self.error,
            mask=self.mask, segmentation=self.sources.segmentation,
            psf=self.psf, wcs=self.wcs, meta=meta)


def _load(path, ext=None, **options):
    """
    Load an image; errors name the file.
    """
    try:
        return load_image(path, ext=ext, **options)
    except MapError as exc:
        msg = str(exc)
        if str(path) not in msg:
            msg = f'{path}: {msg}'
        raise MapError(msg) from None


def _write_psf(run):
    """
    Write the PSF, its stars, and their pictures.
    """
    psf = run.psf
    psf.write(run.target('psf', 'psf.fits'), overwrite=run.overwrite)
    psf.write(run.target('psfex', 'psfex.psf'), overwrite=run.overwrite)
    if psf.stars is None:
        return
    with atomic_output(run.target('stars', 'stars.ecsv'),
                       overwrite=run.overwrite) as temporary:
        psf.stars.write(temporary, format='ascii.ecsv')
    run.write_figure('psf', plot_psf(psf, shape=run.data.shape))
    run.write_figure('stars', plot_stars(psf))
    if 'accepted' in psf.stars.colnames:
        run.write_figure('selection', plot_selection(psf.stars))


def _write_segments(run):
    """
    Write the segments and their picture.
    """
    sources = run.sources
    run.write_images('segmentation',
                     SEGMENTATION=sources.segmentation.data.astype(np.int32))
    run.write_figure('segmentation', plot_segments(
        run.sky.data, sources.segmentation, sources.catalog,
        max_star_index=run.options.max_star_index))


def _write_each(run, stamps, kind):
    """
    Write the files of GALFIT or GalfitS, a stamp each.
    """
    folder = run.target(kind, kind)
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(stamps.table['name']):
        if kind == 'galfit':
            write_galfit(stamps, number, folder, overwrite=run.overwrite)
        else:
            write_galfits(stamps, number, folder / f'{name}.fits',
                          overwrite=run.overwrite)


def _compare_with_grid(run, path):
    """
    Write chi-squared for all models of a grid, and DRE's summary.
    """
    stamps = run.stamps
    image = run.psf()
    if path is None:
        radii = np.geomspace(0.3 * run.fwhm, run.size / 6.0, _N_RADII)
        cube = SersicCube(image, r_eff=radii, size=run.size, **_CHI2_GRID)
        run.default('models', f'{np.prod(cube.shape)} models: n '
                    f'{cube.n.tolist()}, {len(cube.q)} q, {len(cube.theta)} '
                    f'theta, r_eff {radii[0]:.1f} to {radii[-1]:.1f} pixels')
    else:
        cube = SersicCube.read(path).convolve(image)
        if cube.size != run.size:
            msg = (f"the models of '{path}' have {cube.size} pixels a side: "
                   f'use size={cube.size}')
            raise ValueError(msg)
    result = cube.fit(stamps.data, stamps.error,
                      stamps.mask | stamps.neighbors())
    names = [str(name) for name in stamps.table['name']]
    target = run.target('chi2', 'chi2.h5')
    with atomic_output(target, overwrite=run.overwrite) as temporary:
        result.write(temporary, names)
    summary = result.summary('dre')
    summary.add_column(names, name='ID', index=0)
    summary.meta.clear()
    with atomic_output(run.target('dre', 'dre.fits'),
                       overwrite=run.overwrite) as temporary:
        summary.write(temporary, format='fits')


def _write_mosaics(run, table, model):
    """
    Write data, model, and residual of all galaxies as three stacks.
    """
    half = run.size // 2
    padded = {name: np.pad(np.asarray(image, dtype=np.float32), half,
                           constant_values=np.nan)
              for name, image in (('DATA', run.sky.data), ('MODEL', model),
                                  ('RESIDUAL', run.sky.data - model))}
    known = np.isfinite(table['x_fit'])
    corner = [np.clip(np.rint(np.where(known, table[f'{axis}_fit'], 0.0)),
                      0, side - 1).astype(int)
              for axis, side in zip('yx', run.data.shape, strict=True)]
    hdus = fits.HDUList([fits.PrimaryHDU()])
    for name, image in padded.items():
        hdus.append(fits.ImageHDU(np.stack([
            image[y:y + run.size, x:x + run.size]
            for y, x in zip(*corner, strict=True)]), name=name))
    hdus.append(fits.BinTableHDU(QTable({
        'id': table['id'], 'x0': corner[1] - half, 'y0': corner[0] - half}),
        name='TABLE'))
    with atomic_output(run.target('mosaics', 'mosaics.fits'),
                       overwrite=run.overwrite) as temporary:
        hdus.writeto(temporary)
