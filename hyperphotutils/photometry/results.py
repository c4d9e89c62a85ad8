# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From a map to the search for its sources, and from their fits to the results.
"""

from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.table import QTable

from hyperphotutils.aperture.local import measure_sources
from hyperphotutils.background.interface import describe_background
from hyperphotutils.background.rms import box_side, local_rms
from hyperphotutils.blend.grouping import renumber_groups
from hyperphotutils.catalog.columns import RESULT_TABLES, describe_columns
from hyperphotutils.photometry.images import SourceImages
from hyperphotutils.photometry.measurement import (
    MapNoise,
    MeasuredMap,
    plain,
)
from hyperphotutils.photometry.search import SourceSearch
from hyperphotutils.utils.flags import FLAGS
from hyperphotutils.utils.tables import (
    integrated_unit,
    result_meta,
    strip_units,
)
from hyperphotutils.utils.wcs import (
    pixel_area,
    pixel_to_sky_ellipse,
    pixel_to_sky_errors,
)

__all__ = []  # shared by the modules of the photometry only

# Number of pixels per chunk of apertures, chosen to fit in the CPU cache.
_CHUNK_PIXELS = 1 << 16


@dataclass(frozen=True, eq=False)
class MapResults:
    """
    What `HyperPhotometry` keeps of a map.

    ``table`` is `None` without sources. ``fluxes`` has ids, fluxes, errors,
    and the `SourceCovariance`, for sums of fluxes: the user may change the
    table.
    """

    table: QTable | None
    rejected: QTable
    rms: float | u.Quantity
    detection_rms: float | u.Quantity | None
    images: SourceImages
    fluxes: tuple = ()


def open_search(photometry, data, wcs, mask, error, weight_map,
                variation='measured', bad_pixels=None):
    """
    Return the search for the sources of a map, whose bad pixels are detected
    unless they are given.
    """
    noise = photometry.noise
    if isinstance(noise, MapNoise):
        noise = noise.model
    independent = None
    if not isinstance(noise, str) and not noise.is_correlated:
        independent = noise
        if error is not None:
            msg = 'noise and error are mutually exclusive: give only one'
            raise ValueError(msg)
    image = MeasuredMap(data, wcs, mask, error, noise=independent,
                        profile=getattr(photometry.fitter, 'beam', None))
    if not isinstance(noise, str):
        strip_units(data=image.with_unit(0.0), noise=noise.rms)
    if photometry.mask_bad_pixels:
        image.mask_bad_pixels(photometry.fwhm, bad_pixels)
    return SourceSearch(photometry, image, error=error, weight_map=weight_map,
                        variation=variation)


def make_empty_results(search):
    """
    Return the results of a map without sources.
    """
    image = search.image
    rms = image.pixel_noise.rms
    if rms is None:
        rms = local_rms(image.values, box_side(search.fwhm), mask=image.mask)
    return MapResults(None, search.rejected_table(), image.with_unit(rms),
                      search.noise.detection_rms, SourceImages(image))


def make_results(photometry, search, table):
    """
    Return the results of the fits of a search: with apertures,
    signal-to-noise ratio, and sky columns.
    """
    image = search.image
    image.measure_pixel_noise(search.fwhm)
    if 'shape' not in getattr(photometry.fitter, 'fixed', ()):
        # With fixed shapes, extended sources always have residuals.
        search.flag_beam_mismatch(table)
    if image.noise.rms is None:
        # Without errors this is the variance of the residuals.
        table['reduced_chi2'] /= image.pixel_noise.rms**2
    table['group_id'] = renumber_groups(table['group_id'])
    images = _add_apertures(photometry, search, table)
    table['snr'] = plain(table['amplitude_fit']) / image.peak_noise(table)
    table = table[[name for name in RESULT_TABLES['photometry']
                   if name in table.colnames]]
    covariance = search.source_covariance.take(table['id'])
    fluxes = (np.asarray(table['id']), table['flux_fit'].copy(),
              table['flux_err'].copy(), covariance)
    if image.wcs is not None:
        _add_sky_columns(table, image.wcs, covariance)
    rms = image.with_unit(image.pixel_noise.rms)
    rejected = search.rejected_table()
    _add_meta(photometry, table, image, rms, rejected)
    describe_columns(table)
    return MapResults(table, rejected, rms, search.noise.detection_rms,
                      images, fluxes)


def _add_apertures(photometry, search, table):
    """
    Add the results of the apertures, and return what images need.
    """
    image = search.image
    radius = 0.5 * float(np.max(table['bkg_size'], initial=1.0))
    order = -1
    if search.background_fit is None:
        order = max(1, int(np.max(table['bkg_order'], initial=1)))
    limits = (None if photometry.fwhm_limits is None else tuple(
        photometry.fwhm * limit for limit in photometry.fwhm_limits))
    ellipse = photometry.aperture_ellipse
    if ellipse is not None:
        ellipse = _ellipse_of_each(ellipse, len(table))
    residual = image.residual
    measured = []
    step = max(1, int(_CHUNK_PIXELS / (2.0 * radius + 3.0)**2))
    for begin in range(0, max(len(table), 1), step):
        rows = slice(begin, begin + step)
        measured.append(measure_sources(
            residual, table[rows], image.known_noise, mask=image.mask,
            radius=radius, order=order,
            fwhm_radius_ratio=photometry.fwhm_radius_ratio,
            fwhm_limits=limits,
            ellipse=None if ellipse is None else tuple(ellipse[:, rows]),
            correct=photometry.aperture_correction, beam=image.profile)[0])
    measured = {name: np.concatenate([part[name] for part in measured])
                for name in measured[0]}
    images = SourceImages(image, table, radius, order,
                          np.isfinite(measured['aperture_flux']),
                          search.background_fit)
    if search.background_fit is not None:
        for name, column in describe_background(
                search.background_fit, table).items():
            table[name] = column
        measured['local_bkg'] = np.where(
            np.isfinite(table['x_fit']),
            image.background[image.nearest_pixels(table)], np.nan)
    table['flags'] |= np.where(measured['partial'],
                               FLAGS['partial_aperture'], 0)
    for name, unit in (
            ('aperture_flux', integrated_unit(image.unit)),
            ('aperture_flux_err', integrated_unit(image.unit)),
            ('aperture_residual', integrated_unit(image.unit)),
            ('local_bkg', image.unit)):
        table[name] = measured[name]
        if unit is not None:
            table[name] <<= unit
    table['aperture_correction'] = measured['aperture_correction']
    return images


def _ellipse_of_each(ellipse, n_sources):
    """
    Return the aperture ellipse that the user defined for each source.
    """
    for value in ellipse:
        if np.ndim(value) and len(value) != n_sources:
            msg = ('aperture_ellipse must hold numbers, or arrays with a '
                   f'value for each of the {n_sources} sources: got '
                   f'{len(value)} values')
            raise ValueError(msg)
    return np.array([np.broadcast_to(value, n_sources) for value in ellipse])


def _add_meta(photometry, table, image, rms, rejected):
    """
    Add noise, beam, and numbers of rejections to the metadata.
    """
    table.meta |= result_meta(photometry)
    table.meta['rms'] = rms
    beam_area = image.meta.get('beam_area_pix')
    if beam_area is not None:
        # brings peaks back to values per beam
        table.meta['beam_area_pix'] = float(beam_area)
        # The beam covers more pixels where these are smaller on the sky.
        if tuple(image.meta.get('pixel_area_range',
                                (1.0, 1.0))) != (1.0, 1.0):
            area = pixel_area(image.wcs, np.asarray(table['x_fit']),
                              np.asarray(table['y_fit']))
            table['beam_area_pix'] = beam_area * (
                image.meta['pixel_scale']**2 / area).to_value('')
    if image.noise.is_correlated:
        table.meta['noise'] = repr(image.noise)
    if image.bad_pixels is not None:
        table.meta['n_bad_pixels'] = image.bad_pixels.counts
    reasons, counts = np.unique(rejected['reason'], return_counts=True)
    table.meta['n_rejected'] = table.meta.get('n_rejected', {}) | dict(
        zip(reasons.tolist(), counts.tolist(), strict=True))


def _add_sky_columns(table, wcs, covariance):
    """
    Add position, widths, and position angle on the sky, and their errors.
    """
    x, y = np.asarray(table['x_fit']), np.asarray(table['y_fit'])
    errors = pixel_to_sky_errors(wcs, x, y, covariance.position,
                                 covariance.shape,
                                 covariance.shape_covariance)
    ellipse = pixel_to_sky_ellipse(
        wcs, x, y, np.asarray(table['fwhm_major_fit']),
        np.asarray(table['fwhm_minor_fit']),
        table['theta_fit'].to_value('deg'))
    table['sky_centroid'] = wcs.pixel_to_world(x, y)
    table['lon_err'], table['lat_err'] = errors[:2]
    for name, value, error in zip(
            ('fwhm_major_sky', 'fwhm_minor_sky', 'position_angle'), ellipse,
            errors[2:], strict=True):
        table[name], table[f'{name}_err'] = value, error
