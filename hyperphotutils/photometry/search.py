# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The search for the sources of one map.
"""

import warnings
from copy import copy

import astropy.units as u
import numpy as np
from astropy.table import QTable, vstack
from astropy.utils.exceptions import AstropyUserWarning
from photutils.utils.exceptions import NoDetectionsWarning
from scipy.spatial import KDTree

from hyperphotutils.background.masks import make_source_mask
from hyperphotutils.blend.candidates import candidate_snr
from hyperphotutils.blend.covariance import SourceCovariance
from hyperphotutils.blend.fitter import BlendGroupFitter
from hyperphotutils.blend.grouping import group_sources
from hyperphotutils.blend.misfit import systematic_misfit
from hyperphotutils.blend.pairs import find_pairs
from hyperphotutils.blend.start import read_start
from hyperphotutils.catalog.columns import describe_columns, make_empty_table
from hyperphotutils.detection.highpass import HighPassStarFinder
from hyperphotutils.photometry.acceptance import (
    MIN_SEPARATION,
    find_failures,
    find_lobes,
)
from hyperphotutils.photometry.measurement import plain, positions
from hyperphotutils.photometry.search_noise import SearchNoise
from hyperphotutils.utils.flags import FLAGS

__all__ = ['SourceSearch']

# The standard deviation of true positions around detected ones, along each
# axis in FWHM of the beam. It is 0.05 on simulated maps, and 0.11 where they
# are crowded, as neighbors move the peaks of blended sources. Sources held
# at the shape of the beam stay nearer to the detection, and so do sources
# wider than the beam, in inverse proportion to their size.
_POSITION_PRIOR = 0.15
_HELD_POSITION_PRIOR = 0.1
# A source this near to a new companion, in FWHM, is not split in two.
_NEAR_COMPANION = 1.5
# The smallest signal-to-noise ratio of a detection on the residual.
_MIN_CANDIDATE_SNR = 3.5
# Rejecting one side lobe can reveal another: this limits the iterations.
# Sources within so many FWHM of a rejected lobe are refitted.
_LOBE_ROUNDS = 3
_NEAR_LOBE = 3.0
# Thresholds of a beam mismatch: the common residual of bright sources relative
# to their peaks, and the residual of a source relative to the noise.
_MISMATCH = 0.01
_MISMATCH_SNR = 3.0
# Companions per detection above which the companions may be side lobes. There
# is at most one for each detection in maps of blended pairs.
_MANY_COMPANIONS = 1.0

# The columns of the detection that are kept through all fits.
_CARRIED = ('shoulder_score', 'detection_snr')


class SourceSearch:
    """
    The detections and fits of one call of `HyperPhotometry`, whose
    configuration is not changed.

    ``error`` is for fitters of other packages, and ``weight_map`` for a fitter
    with weights from a map. ``variation`` is the relative rms that scales the
    thresholds, `None` for uniform noise; it is measured by default.

    ``source_covariance`` has the covariances of the parameters of all fits,
    and ``background_fit`` is the fitted local background or `None`.
    """

    def __init__(self, photometry, image, *, error=None, weight_map=None,
                 variation='measured'):
        self.photometry = photometry
        self.image = image
        self.error = error
        self.weight_map = weight_map
        self.fwhm = photometry.fwhm
        self.noise = SearchNoise(photometry, image, variation)
        self.background_fit = None
        self.source_covariance = None
        # Whether better fits follow.
        self.preliminary = False
        # The difference between beam and fits before any companions.
        self.beam_misfit = 0.0
        # The standard deviation of positions around detections.
        self.position_prior = np.inf
        # The metadata of the detections on the map.
        self.found_meta = {}
        # The first fits of the detections on the map, before any shape is held
        # at the beam, and their `SourceCovariance`. Another search of the same
        # pixels begins with them.
        self.first_fits = None
        # The last id given, and that after each search, that on the map first.
        self.last_id, self.last_ids = 0, []
        # Detections without a row: positions, S/N, search, and reason.
        self.rejected = []
        # Candidates that were not significant when they were last found. The
        # next search may find them again: the covariance is then known better.
        self.insignificant = make_empty_table('rejected')
        # The id of the source from which each companion was split.
        self.split_from = {}
        # Ids to test for splitting.
        self.changed = set()
        # Ids found to be clearly single; their neighbors have not changed
        # since.
        self.single = set()

    @property
    def n_detected(self):
        """
        The number of detections on the map, and the last id of these.
        """
        return self.last_ids[0] if self.last_ids else 0

    def measure_noise(self):
        """
        Return the `MapNoise` after a first fit of all detections.
        """
        if self._fit_detections() is None:
            msg = ('no sources were detected in data, and without them the '
                   'noise is not measured')
            raise ValueError(msg)
        return self.noise.as_map_noise(self.photometry.finder)

    def measure(self, init_params):
        """
        Return the table of fits of given sources.
        """
        table = self.first_fit(init_params)
        self.image.measure_pixel_noise(self.fwhm)
        if len(table):
            table = self._refine(table)
            self._flag_bad_pixels(table)
        return table

    def detect_and_measure(self):
        """
        Fit what is detected on the map, then what is detected on the residual
        together with its neighbors; return `None` if nothing is.
        """
        table = self._fit_detections()
        if table is None:
            return None
        for round_number in range(1, self.photometry.max_rounds + 1):
            new = self._find_companions(table, round_number)
            pairs = self._find_pairs(table, new)
            if len(pairs):
                new = vstack([new, pairs])
            if len(new):
                table = self._add_companions(table, new)
            self.last_ids.append(self.last_id)
            if self.preliminary:
                # Remeasure the noise now that the companions are subtracted.
                table = self._finalize(table)
            elif len(new) == 0:
                break
        if self.preliminary:
            table = self._finalize(table)
        table = self._settle(table)
        # What has a row by now, such as half of a pair, is not rejected.
        self.insignificant = self.insignificant[are_apart(
            positions(self.insignificant, 'init'), positions(table, 'fit'),
            MIN_SEPARATION * self.fwhm)]
        if len(table) == 0:
            return None
        self._flag_bad_pixels(table)
        table.meta |= self.found_meta
        names = np.arange(1, len(table) + 1)
        self.source_covariance = self.source_covariance.take(
            table['id'], names=names)
        table['id'] = names
        return table

    def first_fit(self, init_params):
        """
        Fit given sources, or those detected if they are `None`, before the
        noise is known; return `None` if there are none.
        """
        if init_params is None:
            return self._fit_detections(refine=False)
        table = self._fit(self.image.values, self.image.with_shapes(
            init_params, self.fwhm))
        self.image.replace(None, table)
        return table

    def _fit_detections(self, *, refine=True):
        """
        Fit what is detected on the map; return None if there is nothing.
        """
        self.position_prior = _POSITION_PRIOR * self.fwhm
        known = self.first_fits is not None
        found = self.first_fits[0] if known else self._find(
            self.image.values, self.image.unusable, on_residual=False)
        if found is None:
            return None
        self.image.measure_pixel_noise(self.fwhm)
        self.preliminary = self.noise.needs_covariance
        if not known:
            found['id'] = np.arange(1, len(found) + 1)
            self.found_meta = found.meta
            fits = self._fit(self.image.values, found,
                             pixel_rms=self.noise.first_rms)
            self.first_fits = fits, self.source_covariance
        table, self.source_covariance = self.first_fits
        self.last_id = len(table)
        self.last_ids.append(self.last_id)
        self.image.replace(None, table)
        self.image.measure_pixel_noise(self.fwhm)
        self.noise.measure_filtered_rms()
        table = self._hold_runaways(table)
        if not refine:
            return table
        table = self._reject_lobes(table)
        table = self._refine(table)
        if self.image.profile is None:
            # Measure this now: companions fitted to side lobes would hide
            # the mismatch.
            self.beam_misfit = self._measure_beam_misfit(table)[0]
        return table

    def rejected_table(self):
        """
        Return the detections without a row, see `HyperPhotometry`.
        """
        table = vstack([make_empty_table('rejected'), self.insignificant,
                        *self.rejected])
        if self.image.wcs is not None:
            table.add_column(
                self.image.wcs.pixel_to_world(table['x_init'],
                                              table['y_init']),
                name='sky_centroid', index=2)
        return describe_columns(table)

    def _hold_runaways(self, table, *, rows=True):
        """
        Refit detections whose free fit fails a rule: with the shape of
        the beam, and together with their neighbors.
        """
        if not np.isfinite(self.position_prior):  # given sources
            return table
        failure = find_failures(self.noise, table)
        fitted = (table['flags'] & FLAGS['off_map']) == 0
        runaway = (failure != '') & fitted & ~_is_held(table) & rows
        if not runaway.any():
            return table
        return self._refit(table, held=runaway)

    def _reject_lobes(self, table):
        """
        Reject detections on the side lobes of a measured beam.
        """
        if self.image.profile is None:
            return table
        for _ in range(_LOBE_ROUNDS):
            failure = find_failures(self.noise, table)
            lobes = find_lobes(table, failure, self.fwhm)
            if not lobes.any():
                break
            found = positions(table[lobes], 'fit')
            table = self._reject(table, lobes, failure)
            # The fits of their neighbors must not depend on them.
            near = ~are_apart(positions(table, 'fit'), found,
                              _NEAR_LOBE * self.fwhm)
            near = np.isin(table['group_id'], table['group_id'][near])
            table = self._hold_runaways(self._fit_again(table, near),
                                        rows=near)
        return table

    def _find_companions(self, table, round_number):
        """
        Return the significant detections on the residual as start
        values.
        """
        found = self._find(self.image.values - self.image.model,
                           self.image.mask, on_residual=True)
        if found is None:
            return QTable()
        known = np.vstack([
            positions(table, 'fit'),
            *(positions(rejected, 'init') for rejected in self.rejected)])
        found = found[are_apart(positions(found, 'init'), known,
                                MIN_SEPARATION * self.fwhm)]
        if len(found) == 0 or not self.image.noise.is_correlated:
            return found
        snr = candidate_snr(
            self.image.residual, found, table, self.image.noise,
            self.fwhm, mask=self.image.fit_mask,
            fit_radius=getattr(self.photometry.fitter, 'fit_radius',
                               2.0 * self.fwhm),
            extra_variance=self.noise.extra_variance, beam=self.image.profile)
        found['detection_snr'] = snr
        significant = snr > _MIN_CANDIDATE_SNR
        gone = are_apart(positions(self.insignificant, 'init'),
                         positions(found, 'init'),
                         MIN_SEPARATION * self.fwhm)
        self.insignificant = vstack([
            self.insignificant[gone],
            _rejected_rows(found[~significant], 'not_significant',
                           round_number)])
        return found[significant]

    def _find_pairs(self, table, companions):
        """
        Return the two halves of each source that two sources describe
        better, as initial values; the first half has the id of the source.

        Sources next to a new companion are tested in the next round,
        as they may be single beside it.
        """
        known = isinstance(self.photometry.fitter, BlendGroupFitter)
        if (not self.image.noise.is_correlated or not known
                or self.photometry.fitter.fixed):
            return QTable()
        alone = np.ones(len(table), dtype=bool)
        if len(companions):
            alone = are_apart(positions(table, 'fit'),
                              positions(companions, 'init'),
                              _NEAR_COMPANION * self.fwhm)
        rows = np.flatnonzero(
            np.isin(table['id'], list(self.changed - self.single))
            & ~_is_held(table) & alone)
        self.changed.clear()
        halves, single = find_pairs(self.image.residual, table[rows],
                            self.image.noise, self.fwhm,
                            mask=self.image.fit_mask,
                            fit_radius=self.photometry.fitter.fit_radius,
                            beam=self.image.profile)
        self.single.update(np.asarray(table['id'])[rows[single]].tolist())
        whole = table[rows[halves['row']]]
        new = _start_table(
            len(halves), position_prior=self.position_prior,
            split_from=np.asarray(whole['id']),
            **{name: halves[name] for name in halves.colnames
               if name != 'row'},
            **{name: whole[name] for name in _CARRIED})
        new['id'][::2] = new['split_from'][::2]
        return new

    def _add_companions(self, table, new):
        """
        Fit companions with their neighbors, and reject those that fail
        even with the shape of the beam.
        """
        companions = new['id'] == 0
        ids = self.last_id + 1 + np.arange(np.count_nonzero(companions))
        self.last_id += len(ids)
        new['id'][companions] = ids
        split = companions & (new['split_from'] > 0)
        self.split_from |= dict(zip(
            new['id'][split].tolist(), new['split_from'][split].tolist(),
            strict=True))
        table = self._refit(table, new=new)
        failure = find_failures(self.noise, table)
        failing = (failure != '') & (table['id'] > self.n_detected)
        runaway = failing & ~_is_held(table)
        if runaway.any():
            table = self._refit(table, held=runaway)
            failure = find_failures(self.noise, table)
            failing = (failure != '') & (table['id'] > self.n_detected)
        start_rows = self._undo_splits(table, failure, failing)
        if failing.any():
            table = self._reject(table, failing, failure,
                                 start_rows=start_rows)
        return table

    def _undo_splits(self, table, failure, failing):
        """
        Reject the companion instead of the source that it was split off, if
        only the source fails.

        Return the row at which the next fit of each source starts: that of the
        companion if this is rejected in its place, else its own.
        """
        start_rows = np.arange(len(table))
        row_of = {source: row for row, source in enumerate(table['id'])}
        for companion, source in self.split_from.items():
            row, source = row_of.get(companion), row_of.get(source)
            if None in {row, source} or failing[row] or failure[source] == '':
                continue
            failure[row], failing[row] = failure[source], True
            start_rows[source] = row
        return start_rows

    def _reject(self, table, rejected, failure, *, start_rows=None):
        """
        Take sources out of the table, and fit their neighbors again.
        """
        for reason in np.unique(failure[rejected]):
            rows = table[rejected & (failure == reason)]
            # the ids tell in which search the sources were found
            self.rejected.append(_rejected_rows(
                rows, str(reason), np.searchsorted(self.last_ids, rows['id'])))
        if rejected.all():
            self.image.replace(table, table[:0])
            return table[:0]
        return self._refit(table, dropped=rejected, start_rows=start_rows)

    def _settle(self, table):
        """
        Reject detections that are duplicates or have no usable pixels,
        and flag the doubtful ones.
        """
        table = self._reject_lobes(table)
        failure = find_failures(self.noise, table)
        rejected = np.isin(failure, ('duplicate', 'no_usable_pixels'))
        if not self.image.has_noise():
            # In noiseless maps, rounding errors of the filter can be
            # detected as sources.
            rejected |= plain(table['amplitude_fit']) <= self.image.rounding()
        if rejected.any():
            table = self._reject(table, rejected, failure)
            failure = find_failures(self.noise, table)
        table['flags'] |= np.where(failure != '', FLAGS['doubtful'], 0)
        split = {*self.split_from, *(
            source for companion, source in self.split_from.items()
            if companion in table['id'])}
        table['flags'] |= np.where(np.isin(table['id'], list(split)),
                                   FLAGS['split_pair'], 0)
        is_companion = ((table['id'] > self.n_detected)
                        & ~np.isin(table['id'], list(self.split_from)))
        table['flags'] |= np.where(is_companion,
                                   FLAGS['residual_detection'], 0)
        table.meta['n_detected'] = self.n_detected
        table.meta['n_companions'] = int(np.count_nonzero(
            table['id'] > self.n_detected))
        return table

    def _refine(self, table):
        """
        Fit all sources again, with the background and the noise that
        are measured after the first fit.
        """
        if self.photometry.background is not None:
            # It is measured on the map without sources.
            image = self.image
            cores = make_source_mask(
                image.values.shape, table['x_fit'], table['y_fit'],
                table['fwhm_major_fit'], table['fwhm_minor_fit'],
                table['theta_fit'], factor=1.0)
            self.background_fit = self.photometry.background.fit(
                image.values - image.model, np.asarray(table['x_fit']),
                np.asarray(table['y_fit']), mask=image.mask | cores)
            image.background = self.background_fit.make_background_image()
            table = self._fit_again(table)
        if self.noise.needs_covariance:
            table = self._weight_by_covariance(table)
        return table

    def _weight_by_covariance(self, table):
        """
        Measure the covariance of the pixels without the sources, and fit
        all sources again with it.
        """
        self.noise.measure_covariance(table)
        table = self._fit_again(table)
        return self._hold_runaways(table)

    def _finalize(self, table):
        """
        Measure the covariance for the last time, and fit until the
        fits converge.
        """
        self.preliminary = False
        self.image.measure_pixel_noise(self.fwhm)
        if self.noise.needs_covariance:
            return self._weight_by_covariance(table)
        self.image.noise = self.noise.independent
        return self._fit_again(table)

    def _fit_again(self, table, chosen=None):
        """
        Fit all groups again, or some, with free shapes, starting where
        the last fit ended.

        The peak of a source that is wider than the beam is held nearer
        to its detection: such a source is rarely a Gaussian, and its fit
        follows the emission around the peak.
        """
        old, others, values = table, table[:0], self.image.cleaned
        if chosen is not None and not chosen.all():
            old, others = table[chosen], table[~chosen]
            values = self.image.subtract_others(old)
        init = self._as_init(old, np.zeros(len(old), dtype=bool))
        init['hold_shape'] = False
        size = np.sqrt(old['fwhm_major_fit'] * old['fwhm_minor_fit'])
        init['position_prior'] = self.position_prior * np.minimum(
            1.0, self.fwhm / np.asarray(size))
        init['group_id'] = np.where(
            old['group_id'] > 0, old['group_id'],
            np.max(old['group_id'], initial=0) + 1 + np.arange(len(old)))
        fitted = self._fit(values, init)
        if len(others):
            self.image.replace(old, fitted)
            fitted = _merge(others, fitted)
        else:
            self.image.model = self.image.render(fitted)
        fitted.meta |= table.meta
        return fitted

    def _find(self, values, mask, *, on_residual):
        """
        Detect sources on the map or on the residual; return None when
        there are none.
        """
        values = self.image.with_unit(values)
        finder = self.photometry.finder
        if isinstance(finder, HighPassStarFinder):
            found = self.noise.search(finder, values, mask,
                                      on_residual=on_residual)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', NoDetectionsWarning)
                found = finder(values, mask=mask)
        if found is None or len(found) == 0:
            return None
        init = _start_table(
            len(found), self.image.beam_shape(self.fwhm),
            x_init=np.asarray(found['x_centroid'], float),
            y_init=np.asarray(found['y_centroid'], float),
            position_prior=self.position_prior)
        for name, column in (('shoulder_score', 'shoulder_score'),
                             ('detection_snr', 'snr')):
            if column in found.colnames:
                init[name] = found[column]
        if 'n_rejected' in found.meta:
            init.meta['n_rejected'] = dict(found.meta['n_rejected'])
        return init

    def _fit(self, values, init, *, pixel_rms=None):
        """
        Group and fit sources on an image.

        ``pixel_rms`` is the noise of a pixel, by default that of a larger map,
        or else measured by the fit.
        """
        init = self._with_groups(init)
        noise = self.image.noise
        weights = ({'noise': noise} if noise.is_correlated
                   else {'error': self.error})
        if self.weight_map is not None:
            weights['weight_map'] = self.weight_map
        fitter = fit = self.photometry.fitter
        if isinstance(fitter, BlendGroupFitter):
            # A fitter keeps its last fit and the data: use a copy.
            fitter = copy(fitter)
            fitter.progress_bar = (fitter.progress_bar
                                   or self.photometry.progress_bar)
            fit = fitter._fit_image  # noqa: SLF001
            weights |= {'noise': noise, 'error': None,
                        'preliminary': self.preliminary}
            if self.background_fit is not None:
                weights['poly_order'] = -1
            if pixel_rms is None and self.noise.shared is not None:
                pixel_rms = self.noise.shared.pixel_rms
            weights['pixel_rms'] = pixel_rms
            if noise.is_correlated:
                weights['extra_variance'] = self.noise.extra_variance
        table = fit(self.image.with_unit(values), mask=self.image.mask,
                    init_params=init, **weights)
        newer = getattr(fitter, 'source_covariance', None)
        if newer is None:
            newer = SourceCovariance.from_errors(table)
        if self.source_covariance is not None:
            newer = self.source_covariance.updated(newer)
        self.source_covariance = newer
        self.changed.update(np.asarray(table['id']).tolist())
        for name in _CARRIED:
            table[name] = (init[name] if name in init.colnames
                           else np.full(len(table), np.nan))
        if 'hold_shape' in init.colnames:
            table['flags'] |= np.where(init['hold_shape'],
                                       FLAGS['held_shape'], 0)
        return table

    def _with_groups(self, init):
        """
        Return the initial values with the column of groups.
        """
        start = read_start(init, self.fwhm)
        if start.group_id is not None:
            return init
        # a column is added to a view, not to the table of the user
        init = init[:] if isinstance(init, QTable) else QTable(init)
        init['group_id'] = group_sources(self.photometry.grouper, start.x,
                                         start.y)
        return init

    def _refit(self, table, *, new=None, dropped=None, held=None,
               start_rows=None):
        """
        Refit groups that gain or lose a source, or that contain a source
        whose shape is now that of the beam.

        Rows of ``new`` replace those of the table with the same id. The
        fit of each source starts at the last fit of the row in
        ``start_rows``, by default its own.
        """
        none = np.zeros(len(table), dtype=bool)
        dropped = none if dropped is None else dropped
        held = none if held is None else held
        replaced = none if new is None else np.isin(table['id'], new['id'])
        init = self._as_init(
            table if start_rows is None else table[start_rows], held)
        init['id'] = table['id']
        # Without positive amplitudes, overlapping sources can cancel.
        init['positive'] = init['hold_shape'] | held.any()
        init = init[~dropped & ~replaced]
        touched = np.isin(table['group_id'],
                          table['group_id'][dropped | held | replaced])
        changed = np.isin(init['id'], table['id'][touched])
        if new is not None:
            init = vstack([init, new])
            changed = np.append(changed, np.ones(len(new), dtype=bool))
        init = self._with_groups(init)
        init = init[np.isin(init['group_id'], init['group_id'][changed])]
        is_old = dropped | np.isin(table['id'], init['id'])
        old, others = table[is_old], table[~is_old]
        values = self.image.subtract_others(old)
        fitted = self._fit(values, init)
        self.single.difference_update(np.asarray(fitted['id']).tolist())
        self.image.replace(old, fitted)
        return _merge(others, fitted)

    def _as_init(self, table, held):
        """
        Return fitted sources as initial values: where the last fit
        ended, or, for those to be held, the detected position and the
        shape of the beam.
        """
        init = _start_table(
            len(table), position_prior=self.position_prior,
            hold_shape=_is_held(table) | held,
            x_previous=np.where(held, np.nan, table['x_fit']),
            y_previous=np.where(held, np.nan, table['y_fit']),
            amplitude_previous=np.where(held, np.nan,
                                        plain(table['amplitude_fit'])),
            **{name: np.asarray(table[name])
               for name in ('id', 'x_init', 'y_init', *_CARRIED)})
        for name, beam in zip(('fwhm_major', 'fwhm_minor', 'theta'),
                              self.image.beam_shape(self.fwhm), strict=True):
            init[f'{name}_init'] = np.where(held, beam, table[f'{name}_fit'])
        init['position_prior'][init['hold_shape']] *= (
            _HELD_POSITION_PRIOR / _POSITION_PRIOR)
        return init

    def flag_beam_mismatch(self, table):
        """
        Warn if the bright sources differ from their fits, and flag those in
        the table that do so by more than the noise.
        """
        misfit, snr = self._measure_beam_misfit(table)
        # Many companions per source suggest that side lobes were fitted as
        # sources; split pairs are not counted.
        if self.n_detected:
            n_beside = np.count_nonzero(
                (table['id'] > self.n_detected)
                & ~np.isin(table['id'], list(self.split_from)))
            if n_beside > _MANY_COMPANIONS * self.n_detected:
                misfit = max(misfit, self.beam_misfit)
        chosen = misfit * snr > _MISMATCH_SNR
        if misfit < _MISMATCH or not chosen.any():
            return
        table['flags'] |= np.where(chosen, FLAGS['beam_mismatch'], 0)
        remedy = ('if the beam is not Gaussian, give its image as psf'
                  if self.image.profile is None else
                  'check that psf is the beam of the map')
        msg = ('bright sources differ from the profile of the fit by '
               f'{100.0 * misfit:.1f} % of their peaks ({remedy}); '
               f'{np.count_nonzero(chosen)} sources have the flag '
               'beam_mismatch')
        warnings.warn(msg, AstropyUserWarning, stacklevel=4)

    def _measure_beam_misfit(self, table):
        """
        Return the residual that bright sources have in common, in units
        of their peaks, and the signal-to-noise ratios of all sources.
        """
        amplitude = plain(table['amplitude_fit'])
        snr = amplitude / self.image.noise_at(table)
        return systematic_misfit(
            self.image.residual, *positions(table, 'fit').T, amplitude, snr,
            self.fwhm, mask=self.image.mask), snr

    def _flag_bad_pixels(self, table):
        """
        Flag the sources with bad pixels inside a radius of one FWHM.
        """
        bad_pixels = self.image.bad_pixels
        if bad_pixels is None:
            return
        for flag, bad in (('saturated', bad_pixels.saturated),
                          ('bad_pixels',
                           bad_pixels.mask & ~bad_pixels.saturated)):
            rows, cols = np.nonzero(bad)
            if len(rows):
                far = are_apart(positions(table, 'fit'),
                                np.column_stack((cols, rows)), self.fwhm)
                table['flags'] |= np.where(
                    far | ~np.isfinite(table['x_fit']), 0, FLAGS[flag])


def _start_table(n_sources, shape=(np.nan, np.nan, np.nan * u.deg), **columns):
    """
    Return a table of initial values with all columns that the fitter
    accepts.
    """
    defaults = {
        'id': 0, 'x_init': np.nan, 'y_init': np.nan, 'x_previous': np.nan,
        'y_previous': np.nan, 'amplitude_previous': np.nan,
        'fwhm_major_init': shape[0], 'fwhm_minor_init': shape[1],
        'theta_init': shape[2], 'position_prior': np.inf,
        'hold_shape': False, 'positive': False,
        'split_from': 0, 'shoulder_score': np.nan, 'detection_snr': np.nan}
    return QTable({
        name: np.broadcast_to(columns.get(name, default), n_sources,
                              subok=True).copy()
        for name, default in defaults.items()})


def _is_held(table):
    """
    Return which sources are held at the shape of the beam.
    """
    return (np.asarray(table['flags']) & FLAGS['held_shape']) > 0


def _merge(others, fitted):
    """
    Return the table of sources that keep their fits and of refitted ones.
    """
    fitted['group_id'] += np.where(
        fitted['group_id'] > 0, np.max(others['group_id'], initial=0), 0)
    merged = vstack([others, fitted], metadata_conflicts='silent')
    return merged[np.argsort(merged['id'], kind='stable')]


def _rejected_rows(table, reason, round_number):
    """
    Return the rows of rejected sources or candidates.
    """
    return QTable({
        'x_init': np.asarray(table['x_init']),
        'y_init': np.asarray(table['y_init']),
        'snr': np.asarray(table['detection_snr']),
        'search': np.broadcast_to(round_number, len(table)),
        'reason': np.full(len(table), reason)})


def are_apart(found, known, separation):
    """
    Return which positions in ``found`` are finite and farther than
    ``separation`` from each in ``known``; both have the shape (n, 2), and NaN
    where there is none.
    """
    known = known[np.isfinite(known).all(axis=1)]
    apart = np.isfinite(found).all(axis=1)
    if len(known):
        distance, _ = KDTree(known).query(found[apart])
        apart[apart] = distance > separation
    return apart
