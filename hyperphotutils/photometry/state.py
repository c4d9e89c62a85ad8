# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The state of a map while its sources are measured.
"""

import warnings

import astropy.units as u
import numpy as np
from astropy.nddata import NDData
from astropy.table import QTable, Table, vstack
from astropy.utils.exceptions import AstropyUserWarning
from scipy.spatial import KDTree

from hyperphotutils.background.masks import make_source_mask
from hyperphotutils.background.rms import local_rms
from hyperphotutils.blend.beams import add_sources
from hyperphotutils.blend.covariance import SourceCovariance
from hyperphotutils.blend.footprints import core_is_usable
from hyperphotutils.blend.misfit import measure_misfit, systematic_misfit
from hyperphotutils.detection.filters import high_pass_filter
from hyperphotutils.noise.bad_pixels import detect_bad_pixels
from hyperphotutils.noise.clipped import clipped_rms
from hyperphotutils.noise.correlated import CorrelatedNoise
from hyperphotutils.noise.local import (
    measure_relative_rms,
    quadratic_surface,
)
from hyperphotutils.utils.flags import FLAGS
from hyperphotutils.utils.tables import (
    as_masked_image,
    open_nddata,
    strip_units,
)

__all__ = ['MapState', 'are_apart', 'plain', 'positions']

# Maps of stationary noise with a structured background vary by 1.3 from the
# 16th to the 84th percentile of their local rms.
_VARIATION = 1.5

# The residual that bright sources have in common, in units of their peaks,
# above which the beam is not that of the fit, and that of a source in units of
# the noise.
_MISMATCH = 0.01
_MISMATCH_SNR = 3.0


class MapState:
    """
    A map that is measured, with the results so far.

    Parameters
    ----------
    data, wcs, mask, error
        As for a call of `HyperPhotometry`.
    """

    def __init__(self, data, wcs, mask, error):
        if isinstance(data, NDData):
            wcs = data.wcs if wcs is None else wcs
        meta = getattr(data, 'meta', None) or {}
        self.beam = _beam(meta)
        # The measured beam as Gaussians, if there is one.
        self.profile = None
        self.beam_area = meta.get('beam_area_pix')
        # The beam covers more pixels where these are smaller on the sky.
        self.area_varies = tuple(
            meta.get('pixel_area_range', (1.0, 1.0))) != (1.0, 1.0)
        self.pixel_scale = meta.get('pixel_scale')
        data, mask, error = open_nddata(data, mask, error)
        values, self.unit = strip_units(data=data, error=error)
        self.values, self.mask = as_masked_image(values['data'], mask)
        # Pixels that are used neither for fits nor for detection.
        self.unusable = self.mask
        self.bad_pixels = None
        self._rounding = None
        self.misfit = self.extra_variance = None
        self.wcs = wcs
        self.error = error
        self.plain_error = values['error']
        # The relative noise that thresholds follow, without structure of
        # the sky.
        self.noise_variation = self._relative_error()
        self.noise = None
        self.filtered_noise = None
        self.covariance = None
        self.source_covariance = None
        self.separate = None
        self.weight_map = None
        self.cleaned = self.values
        # Whether better fits follow.
        self.preliminary = False
        # The standard deviation of positions around detections.
        self.position_prior = np.inf
        # The number of detections on the map, and the last id given.
        self.n_detected = self.last_id = 0
        # The last id given by each search, that on the map first.
        self.last_ids = []
        # Detections without a row: positions, S/N, search, and reason.
        self.rejected = []
        # The row that a companion was split off, by their ids.
        self.split_from = {}
        # The ids of sources fitted since pairs were last searched.
        self.changed = set()
        self.model = np.zeros(self.values.shape)
        self.background = np.full(self.values.shape, np.nan)

    def _relative_error(self):
        """
        Return the given errors in units of their median, 1 where they
        are not known; None when they are the same for all pixels.
        """
        if np.shape(self.plain_error) != self.values.shape:
            return None
        error = np.asarray(self.plain_error, dtype=float)
        good = np.isfinite(error) & (error > 0.0) & ~self.mask
        if not good.any():
            return None
        return np.where(good, error / np.median(error[good]), 1.0)

    def with_unit(self, values):
        """
        Return values with the unit of the map.
        """
        return values if self.unit is None else values << self.unit

    def with_shapes(self, init, fwhm):
        """
        Return start values with the shape of the beam, if they have
        none and the beam is known, scaled to a mean FWHM of ``fwhm``.
        """
        given = {'fwhm_major_init', 'fwhm_major_fit', 'fwhm_major'}
        if (self.beam is None or not isinstance(init, Table)
                or given & set(init.colnames)):
            return init
        init = QTable(init, copy=True)
        for name, value in zip(('fwhm_major', 'fwhm_minor', 'theta'),
                               self.beam_shape(fwhm), strict=True):
            init[f'{name}_init'] = np.full(len(init), 1.0) * value
        return init

    def use_beam(self, profile):
        """
        Use a measured beam, a `~hyperphotutils.blend.BeamProfile`, in
        place of that of the metadata.
        """
        if profile is not None:
            self.profile = profile
            self.beam = {'fwhm': profile.fwhm_major,
                         'fwhm_minor': profile.fwhm_minor,
                         'theta': profile.theta}

    def beam_shape(self, fwhm):
        """
        Return both FWHMs and the angle of the beam with a given mean
        FWHM; that of a round beam where the shape is not known.
        """
        if self.beam is None:
            return fwhm, fwhm, 0.0 * u.deg
        if self.profile is not None:
            fwhm = np.sqrt(self.beam['fwhm'] * self.beam['fwhm_minor'])
        ratio = np.sqrt(self.beam['fwhm'] / self.beam['fwhm_minor'])
        return fwhm * ratio, fwhm / ratio, self.beam['theta'] * u.deg

    def reject(self, table, reason, search=None):
        """
        Keep sources or candidates that get no row; those with an id know
        their search.
        """
        if search is None:
            search = np.searchsorted(self.last_ids, table['id'])
        self.rejected.append(QTable({
            'x_init': np.asarray(table['x_init']),
            'y_init': np.asarray(table['y_init']),
            'snr': np.asarray(table['detection_snr']),
            'search': np.broadcast_to(search, len(table)),
            'reason': np.full(len(table), reason, dtype='U20')}))

    def rejected_table(self):
        """
        Return the detections without a row.
        """
        none = QTable({'x_init': np.empty(0), 'y_init': np.empty(0),
                       'snr': np.empty(0), 'search': np.empty(0, dtype=int),
                       'reason': np.empty(0, dtype='U20')})
        table = vstack([none, *self.rejected])
        if self.wcs is not None:
            table.add_column(
                self.wcs.pixel_to_world(table['x_init'], table['y_init']),
                name='sky_centroid', index=2)
        return table

    def render(self, table):
        """
        Return an image of the sources of a table.
        """
        image = np.zeros(self.values.shape)
        add_sources(image, table['x_fit'], table['y_fit'],
                    plain(table['amplitude_fit']),
                    table['fwhm_major_fit'], table['fwhm_minor_fit'],
                    table['theta_fit'].to_value('deg'), beam=self.profile)
        return image

    def keep_covariance(self, fitter, table):
        """
        Keep the covariances of the parameters of the last fit.
        """
        newer = getattr(fitter, 'source_covariance', None)
        if newer is None:
            newer = SourceCovariance.from_errors(table)
        if self.source_covariance is not None:
            newer = self.source_covariance.updated(newer)
        self.source_covariance = newer

    def replace(self, old, new):
        """
        Replace an older fit of some sources in the model by a new one.
        """
        if old is not None:
            self.model -= self.render(old)
        self.model += self.render(new)

    def measure_noise(self, fwhm):
        """
        Take the given errors, or the rms about local backgrounds in boxes
        as wide as the footprint of a fit.
        """
        box_size = 2 * int(np.ceil(2.0 * fwhm)) + 1
        if self.plain_error is None:
            self.noise = max(self.rounding(), local_rms(
                self.values - self.model, box_size, mask=self.mask))
        else:
            self.noise = np.asarray(self.plain_error, dtype=float)[()]

    def mask_bad_pixels(self, fwhm):
        """
        Mask pixels with values that no source seen through the beam
        has. Saturated pixels are used for detection, but not in fits.
        """
        if self.beam is not None:
            fwhm = min(fwhm, self.beam['fwhm_minor'])
        bad = detect_bad_pixels(self.values, fwhm, mask=self.mask)
        if bad.mask.any():
            self.bad_pixels = bad
            self.unusable = self.mask | (bad.mask & ~bad.saturated)
            self.mask = self.mask | bad.mask

    def flag_bad_pixels(self, table, fwhm):
        """
        Flag the sources with bad pixels inside a radius of one FWHM.
        """
        if self.bad_pixels is None:
            return
        for flag, bad in (
                ('saturated', self.bad_pixels.saturated),
                ('bad_pixels', self.bad_pixels.mask
                 & ~self.bad_pixels.saturated)):
            rows, cols = np.nonzero(bad)
            if len(rows):
                far = are_apart(positions(table, 'fit'),
                                np.column_stack((cols, rows)), fwhm)
                table['flags'] |= np.where(
                    far | ~np.isfinite(table['x_fit']), 0, FLAGS[flag])

    def measure_misfit(self, table, fwhm):
        """
        Measure how much the sources differ from their fits.
        """
        amplitude = plain(table['amplitude_fit'])
        self.misfit = measure_misfit(
            self.cleaned - self.model, *positions(table, 'fit').T, amplitude,
            amplitude / self.noise_at(table), fwhm, mask=self.mask)
        self.extra_variance = (
            None if self.misfit is None else self.misfit.variance(
                *positions(table, 'fit').T, amplitude, self.values.shape))

    def flag_beam_mismatch(self, table, fwhm):
        """
        Warn if the bright sources differ from their fits, and flag those
        that do so by more than the noise.
        """
        amplitude = plain(table['amplitude_fit'])
        snr = amplitude / self.noise_at(table)
        misfit = systematic_misfit(
            self.cleaned - self.model, *positions(table, 'fit').T, amplitude,
            snr, fwhm, mask=self.mask)
        chosen = misfit * snr > _MISMATCH_SNR
        if misfit < _MISMATCH or not chosen.any():
            return
        table['flags'] |= np.where(chosen, FLAGS['beam_mismatch'], 0)
        remedy = ('if the beam is not Gaussian, give its image as psf'
                  if self.profile is None else
                  'check that psf is the beam of the map')
        msg = ('bright sources differ from the profile of the fit by '
               f'{100.0 * misfit:.1f} % of their peaks ({remedy}); '
               f'{np.count_nonzero(chosen)} sources have the flag '
               'beam_mismatch')
        warnings.warn(msg, AstropyUserWarning, stacklevel=4)

    def misfit_at(self, table):
        """
        Return the rms misfit of all other sources at the fitted positions.
        """
        if self.misfit is None:
            return np.zeros(len(table))
        own = (self.misfit.profile[0] * plain(table['amplitude_fit']))**2
        total = self.misfit.variance(
            *positions(table, 'fit').T, plain(table['amplitude_fit']),
            self.values.shape)[self._nearest_pixels(table)]
        return np.sqrt(np.maximum(total - own, 0.0))

    def measure_filtered_noise(self, fwhm):
        """
        Measure the noise of the high-pass filtered map.
        """
        filtered = high_pass_filter(self.values - self.model, fwhm,
                                    mask=self.mask)
        if self.noise_variation is not None:
            filtered /= self.noise_variation
        self.filtered_noise = max(self.rounding(),
                                  clipped_rms(filtered, mask=self.mask))

    def threshold_noise_at(self, table):
        """
        Return the noise of the filtered map at the fitted positions.
        """
        if self.noise_variation is None:
            return self.filtered_noise
        return self.filtered_noise * self.noise_variation[
            self._nearest_pixels(table)]

    def subtract_background(self, estimator, table):
        """
        Measure the background around each source on the map without
        sources, and subtract it.
        """
        cores = make_source_mask(
            self.values.shape, table['x_fit'], table['y_fit'],
            table['fwhm_major_fit'], table['fwhm_minor_fit'],
            table['theta_fit'], factor=1.0)
        self.separate = estimator.fit(
            self.values - self.model, np.asarray(table['x_fit']),
            np.asarray(table['y_fit']), mask=self.mask, source_mask=cores)
        total, norm = (np.zeros(self.values.shape) for _ in range(2))
        for k, (x, y) in enumerate(positions(table, 'fit')):
            image, slices = self.separate.make_image(k)
            if image.size:
                rows, cols = np.mgrid[slices]
                # The nearest source counts most.
                near = 1.0 / (1.0 + (cols - x)**2 + (rows - y)**2)**2
                total[slices] += near * image
                norm[slices] += near
        self.background = np.where(
            norm > 0.0, total / np.where(norm > 0.0, norm, 1.0), np.nan)
        self.cleaned = self.values - np.nan_to_num(self.background)

    def background_missing(self):
        """
        Return the mask of pixels from which a separate background would
        have to be subtracted, but is not known.
        """
        if self.separate is None:
            return np.zeros(self.values.shape, dtype=bool)
        return ~np.isfinite(self.background)

    def describe_background(self, table, measured):
        """
        Describe the separate background in the table.
        """
        fits = self.separate.table
        row = KDTree(np.column_stack((fits['x'], fits['y']))).query(
            np.nan_to_num(positions(table, 'fit')))[1]
        for name in ('bkg_order', 'bkg_method', 'bkg_box'):
            table[name] = np.asarray(fits[name])[row]
        measured['local_bkg'] = np.where(
            np.isfinite(table['x_fit']),
            self.background[self._nearest_pixels(table)], np.nan)

    def has_noise(self):
        """
        Return whether the noise exceeds the numerical errors of fits.
        """
        return np.median(self.noise) > self.rounding()

    def rounding(self):
        """
        Return the noise level of numerical errors: models are cut off
        at a millionth of their peaks.
        """
        if self._rounding is None:
            good = self.values[~self.mask]
            self._rounding = 1e-6 * float(
                np.max(np.abs(good - np.median(good))))
        return self._rounding

    def measure_covariance(self, table, fwhm):
        """
        Measure the covariance of the pixels outside the cores of the
        sources, with the sources subtracted.

        If the residual on scales above the beam varies over the map by
        more than chance, the structured background is described apart
        from the noise.
        """
        residual, mask = self._without_sources(table)
        # A background that is divided gets the pattern of the noise.
        residual = residual - quadratic_surface(residual, ~mask)
        even = (residual if self.noise_variation is None
                else residual / self.noise_variation)
        relative_rms = measure_relative_rms(even, fwhm, mask=mask)
        low, high = np.percentile(relative_rms[~self.mask], [16.0, 84.0])
        beam = {'fwhm': fwhm} if self.beam is None else self.beam
        return CorrelatedNoise.from_image(
            self.with_unit(residual), **beam, mask=mask,
            relative_rms=self.noise_variation,
            varying_structure=bool(high > _VARIATION * low))

    def _without_sources(self, table):
        """
        Return the map minus sources and separate background, and a mask
        of pixels that cannot be used to measure the noise.
        """
        cores = make_source_mask(
            self.values.shape, table['x_fit'], table['y_fit'],
            table['fwhm_major_fit'], table['fwhm_minor_fit'],
            table['theta_fit'], factor=0.5)
        mask = self.mask | cores | self.background_missing()
        return self.cleaned - self.model, mask

    def peak_noise(self, table):
        """
        Return the noise of the signal-to-noise ratio: the error of the
        peak with correlated noise, else the noise of a pixel.
        """
        if self.covariance is not None:
            return plain(table['amplitude_err'])
        return self.noise_at(table)

    def noise_at(self, table):
        """
        Return the noise of a pixel at the fitted positions.
        """
        if np.isscalar(self.noise):
            return np.full(len(table), self.noise)
        return self.noise[self._nearest_pixels(table)]

    def has_core(self, table, fwhm):
        """
        Return which fitted sources have enough usable pixels inside the
        half maximum of a beam.
        """
        return core_is_usable(np.asarray(table['x_fit'], dtype=float),
                              np.asarray(table['y_fit'], dtype=float),
                              self.mask, fwhm)

    def _nearest_pixels(self, table):
        """
        Return rows and columns of the pixels nearest to the positions.
        """
        return tuple(
            np.clip(np.rint(np.nan_to_num(np.asarray(table[name], float))),
                    0, size - 1).astype(int)
            for name, size in zip(('y_fit', 'x_fit'), self.values.shape,
                                  strict=True))


def plain(column):
    """
    Return the plain values of a column.
    """
    return np.asarray(getattr(column, 'value', column), dtype=float)


def positions(table, suffix):
    """
    Return the positions as an array of shape (n, 2).
    """
    return np.column_stack((table[f'x_{suffix}'], table[f'y_{suffix}']))


def are_apart(found, known, separation):
    """
    Return which positions are far from all others.

    Parameters
    ----------
    found, known : `~numpy.ndarray` of shape (n, 2)
        The positions in question and the others, NaN where they are not
        known.

    separation : float
        The distance in pixels.

    Returns
    -------
    apart : 1D bool `~numpy.ndarray`
        `True` for known positions that are farther than ``separation``
        from all others.
    """
    known = known[np.isfinite(known).all(axis=1)]
    apart = np.isfinite(found).all(axis=1)
    if len(known):
        distance, _ = KDTree(known).query(found[apart])
        apart[apart] = distance > separation
    return apart


def _beam(meta):
    """
    Return the beam of a map that was read with its header, or None.
    """
    names = {'fwhm': 'beam_major_pix', 'fwhm_minor': 'beam_minor_pix',
             'theta': 'beam_theta'}
    if not all(name in meta for name in names.values()):
        return None
    return {key: float(getattr(meta[name], 'value', meta[name]))
            for key, name in names.items()}
