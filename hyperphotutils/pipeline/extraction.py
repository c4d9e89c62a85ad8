# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
One map through the classes of the package, as a configuration says.
"""

import time
from dataclasses import dataclass, field, replace

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData
from astropy.table import QTable

from hyperphotutils.catalog import (
    convert_flux_units,
    describe_columns,
    make_empty_table,
)
from hyperphotutils.maps import MapError, load_image, read_map
from hyperphotutils.noise import clipped_rms, detect_bad_pixels
from hyperphotutils.pipeline.rejected import (
    count_reasons,
)
from hyperphotutils.pipeline.text import printable
from hyperphotutils.utils.flags import FLAGS
from hyperphotutils.utils.tables import result_meta
from hyperphotutils.utils.wcs import sources_to_pixels

__all__ = [
    'Extraction',
    'extract_image',
    'extract_map',
    'read_input',
]


@dataclass(frozen=True, eq=False)
class Extraction:
    """
    What was measured on one map.

    It is made by `extract_map`.

    Parameters
    ----------
    image : `~astropy.nddata.CCDData`
        The map in Jy/pixel.

    table : `~astropy.table.QTable`
        The sources; without rows if there are none.

    rms : `~astropy.units.Quantity`
        The noise: of the map or, when sources were only detected, of
        the filtered map.

    background, model, residual : `~astropy.units.Quantity` or `None`
        The images of the fit, when there was one.

    times : dict
        The seconds that each step took.

    given : bool
        Whether the sources were given instead of detected.

    n_rejected : dict
        How many detections were rejected, for each reason and for each
        selection of the finder.

    rejected : `~astropy.table.QTable` or `None`
        The detections without a row in the table; `None` if the sources
        were given.
    """

    image: CCDData
    table: QTable
    rms: u.Quantity
    background: u.Quantity | None = None
    model: u.Quantity | None = None
    residual: u.Quantity | None = None
    times: dict = field(default_factory=dict)
    given: bool = False
    n_rejected: dict = field(default_factory=dict)
    rejected: QTable | None = None

    @property
    def n_detected(self):
        """
        The number of sources that were detected on the map, or given.
        """
        n_rows = len(self.table)
        if self.given:
            return n_rows
        return int(self.table.meta.get('n_detected', n_rows))

    @property
    def n_companions(self):
        """
        The number of sources that were found in the fits.
        """
        return int(self.table.meta.get('n_companions', 0))

    @property
    def n_measured(self):
        """
        The number of sources with a flux that is finite.
        """
        if self.model is None or 'flux_fit' not in self.table.colnames:
            return 0
        return int(np.count_nonzero(np.isfinite(self.table['flux_fit'])))

    @property
    def counts(self):
        """
        How many sources were detected, measured, and rejected, in words.
        """
        n_rows, n_measured = len(self.table), self.n_measured
        if n_rows == 0:
            n_rejected = 0 if self.rejected is None else len(self.rejected)
            return ('no source found' if n_rejected == 0 else
                    f'no source found, {n_rejected} rejected')
        if self.model is None:
            return f'{n_rows} detected, none measured'
        text = (f'{n_rows} given, {n_measured} measured' if self.given
                else f'{n_measured} measured')
        for what, number in self._count_lost().items():
            text += f', {number} {what}'
        if self.given:
            return text
        n_companions = self.n_companions
        text += f' ({self.n_detected} detected on the map'
        if n_rejected := self.n_detected + n_companions - n_rows:
            text += f', {n_rejected} of them rejected'
        if n_companions:
            text += f', {n_companions} companion{"s" * (n_companions != 1)}'
        return f'{text})'

    def _count_lost(self):
        """
        Count the sources that were not measured by the reason for it.
        """
        table, (ny, nx) = self.table, self.image.shape
        lost = ~np.isfinite(table['flux_fit'])
        unknown = lost & (table['flags'] & FLAGS['no_position'] > 0)
        unused = lost & (table['flags'] & FLAGS['off_map'] > 0)
        # (positions that the projection cannot show are not finite)
        on_map = ((np.abs(table['x_init'] - 0.5 * (nx - 1)) <= 0.5 * nx)
                  & (np.abs(table['y_init'] - 0.5 * (ny - 1)) <= 0.5 * ny))
        reasons = {'off the map': unused & ~on_map,
                   'among masked pixels': unused & on_map,
                   'without a position': unknown,
                   'without a fit': lost & ~unused & ~unknown}
        return {reason: number for reason, rows in reasons.items()
                if (number := int(np.count_nonzero(rows)))}

    @property
    def n_groups(self):
        """
        The number of groups; what was not fitted is in none.
        """
        if 'group_id' not in self.table.colnames:
            return 0
        groups = np.unique(np.asarray(self.table['group_id']))
        return int(np.count_nonzero(groups))

    @property
    def noise(self):
        """
        The rms and what it is that of, in words.
        """
        kind = 'of the filtered map' if self.model is None else 'of the map'
        return f'rms {self.rms:.3g} {kind}'


def extract_map(path, config, *, progress_bar=False):
    """
    Read a map, and detect, fit and measure its sources.

    Parameters
    ----------
    path : str or path-like
        The FITS file.

    config : `~hyperphotutils.pipeline.PipelineConfig`
        What to do.

    progress_bar : bool, optional
        Whether to show the progress of the fits.

    Returns
    -------
    extraction : `Extraction`
        What was measured.

    Raises
    ------
    ~hyperphotutils.maps.MapError
        If the file does not make a map that can be used.

    ValueError
        If the configuration does not suit the map, for example if the
        map is smaller than the filter.
    """
    start = time.perf_counter()
    image = read_input(path, config.input)
    times = {'reading': time.perf_counter() - start}
    extraction = extract_image(image, config, progress_bar=progress_bar)
    extraction.table.meta['filename'] = printable(path)
    return replace(extraction, times=times | extraction.times)


def extract_image(image, config, *, progress_bar=False):
    """
    Detect, fit and measure the sources of a map in memory.

    Parameters
    ----------
    image : `~astropy.nddata.CCDData`
        The map, as `~hyperphotutils.maps.read_map` returns it.

    config, progress_bar
        See `extract_map`.

    Returns
    -------
    extraction : `Extraction`
        What was measured.

    Raises
    ------
    ~hyperphotutils.maps.MapError
        If a map of weights does not suit.

    ValueError
        If the configuration does not suit the map.
    """
    start = time.perf_counter()
    if config.run.detection_only:
        finder = config.make_finder(image)
        extraction = _detect(image, finder, config.fit.mask_bad_pixels)
    else:
        phot = config.make_photometry(image, progress_bar=progress_bar)
        finder = phot.finder
        extraction = _measure(image, phot, config)
    extraction.times['extraction'] = time.perf_counter() - start
    if not config.sources.given:
        rms = (extraction.rms if extraction.model is None
               else _detection_rms(image, finder))
        extraction.table.meta['detection_rms'] = rms
    extraction.n_rejected.update(extraction.table.meta.get('n_rejected', {}))
    extraction.table.meta.update(
        _describe(image, config),
        filename=printable(image.meta['filename']),
        rms=extraction.rms, rms_of=_RMS_OF[extraction.model is None])
    return replace(extraction, table=_in_units(extraction, config.output))


def _in_units(extraction, options):
    """
    Return the table in the units of choice; detections have no fluxes.
    """
    units = {'flux_unit': options.flux_unit, 'peak_unit': options.peak_unit}
    if extraction.model is None:
        del units['flux_unit']
    own = {'flux_unit': 'Jy', 'peak_unit': 'Jy/pix'}
    units = {name: unit for name, unit in units.items() if unit != own[name]}
    if not units:
        return extraction.table
    return convert_flux_units(extraction.table, **units)


# What the rms of a table is that of: with fits, and without
_RMS_OF = ('the map about the local backgrounds, without the sources',
           'the filtered map')


def _describe(image, config):
    """
    Describe map and threshold in terms that any file format can hold.
    """
    meta = image.meta
    beam = meta['beam']
    options = config.detection
    rms = 'the rms of the filtered map'
    if options.rms is not None:
        rms += f', given as {options.rms:g} {image.unit}'
    threshold = f'{options.n_sigma} times {rms}'
    if config.sources.given:
        threshold = 'none, the sources were given'
    return {
        'threshold': threshold,
        'original_unit': meta['original_unit'],
        'beam_major': beam.major.to(u.arcsec),
        'beam_minor': beam.minor.to(u.arcsec),
        'beam_pa': beam.pa.to(u.deg),
        'beam_area_pix': meta['beam_area_pix'],
    }


def read_input(path, options):
    """
    Read a map as the section ``input`` of a configuration says.

    Parameters
    ----------
    path : str or path-like
        The FITS file.

    options : `~hyperphotutils.pipeline.InputOptions`
        The section.

    Returns
    -------
    image : `~astropy.nddata.CCDData`
        The map in Jy/pixel.

    Raises
    ------
    ~hyperphotutils.maps.MapError
        If the file does not make a map that can be used.
    """
    image = read_map(path, error_extension=options.error_extension,
                     **options.make_reader_options())
    values = image.data[~image.mask]
    if values.min() == values.max():
        msg = f'{path}: all pixels have the same value, {values[0]:g}'
        raise MapError(msg)
    return image


def _detect(image, finder, mask_bad_pixels):
    data = image.data << image.unit
    mask, counts = image.mask, {}
    if mask_bad_pixels:
        bad = detect_bad_pixels(image.data, image.meta['beam_minor_pix'],
                                mask=mask)
        # as in HyperPhotometry: flat tops are sources, too
        mask = mask | (bad.mask & ~bad.saturated)
        counts = {'n_bad_pixels': bad.counts} if bad.mask.any() else {}
    table = finder(data, mask=mask)
    if table is None:
        table = make_empty_table('detection', unit=image.unit)
    table = QTable(table, copy=False)
    table.meta |= counts
    rms = _detection_rms(image, finder)
    table['sky_centroid'] = image.wcs.pixel_to_world(
        np.asarray(table['x_centroid']), np.asarray(table['y_centroid']))
    table.meta.update(result_meta(finder))
    describe_columns(table)
    return Extraction(image, table, rms,
                      rejected=make_empty_table('rejected', wcs=image.wcs))


def _detection_rms(image, finder):
    """
    Return the rms of the filtered map.
    """
    if finder.rms is not None:
        return finder.rms
    filtered = finder.filter(image.data << image.unit, mask=image.mask)
    return clipped_rms(filtered)


def _measure(image, phot, config):
    init = None
    if config.sources.given:
        sources = config.sources.read_table(image.wcs)
        init = sources_to_pixels(sources, image.wcs)
    weight_map = None
    if config.fit.weight_map is not None:
        weight_map = _read_weights(image, config.fit.weight_map)
    table = phot(image, init_params=init, weight_map=weight_map)
    if table is None:
        return _nothing(image, phot)
    if init is not None:
        _flag_unknown(table, sources)
    return Extraction(
        image, table, phot.rms, background=phot.make_background_image(),
        model=phot.make_model_image(), residual=phot.make_residual_image(),
        given=init is not None,
        rejected=phot.rejected if init is None else None)


def _flag_unknown(table, sources):
    """
    Tell sources whose position is not known from those off the map.
    """
    sky = sources['sky_centroid'].spherical
    unknown = ~(np.isfinite(sky.lon) & np.isfinite(sky.lat))
    rows = np.isin(table['id'], sources['id'][unknown])
    table['flags'][rows] &= ~FLAGS['off_map']
    table['flags'][rows] |= FLAGS['no_position']


def _read_weights(image, path):
    """
    Read the map of weights, which must be one of the pixels of the map.
    """
    try:
        weights = load_image(path).data
    except MapError as error:
        msg = f'{path}: fit.weight_map: {error}'
        raise MapError(msg) from None
    shape = tuple(size for size in weights.shape if size > 1)
    if shape != image.shape:
        msg = (f'{path}: fit.weight_map has the shape {weights.shape}, but '
               f'{image.meta["filename"]} has {image.shape}')
        raise MapError(msg)
    weights = weights.reshape(shape)
    if np.any(weights[~image.mask] < 0.0):
        msg = (f'{path}: fit.weight_map must not be negative, its smallest '
               f'value is {np.nanmin(weights[~image.mask]):g}')
        raise MapError(msg)
    if not np.any(weights[~image.mask] > 0.0):
        msg = f'{path}: fit.weight_map is nowhere positive'
        raise MapError(msg)
    return weights


def _nothing(image, phot):
    """
    Describe a map on which no source was found.
    """
    data = image.data << image.unit
    background = np.full(image.shape, np.nan) << image.unit
    table = make_empty_table('photometry', unit=image.unit, wcs=image.wcs)
    n_detected = int(np.count_nonzero(phot.rejected['search'] == 0))
    table.meta.update(
        result_meta(phot), n_detected=n_detected, n_companions=0,
        n_rejected=count_reasons(phot.rejected))
    return Extraction(image, table, clipped_rms(data, mask=image.mask),
                      background=background, model=np.zeros_like(data),
                      residual=data, rejected=phot.rejected)
