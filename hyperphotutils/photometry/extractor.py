# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The HYPER method: detection, grouping, joint fits, and apertures.
"""

import warnings
from copy import copy
from numbers import Integral

import astropy.units as u
import numpy as np
from astropy.modeling.fitting import Fitter
from astropy.table import QTable, vstack
from photutils.utils.exceptions import NoDetectionsWarning

from hyperphotutils.aperture.local import measure_sources
from hyperphotutils.background.local import LocalPolynomialBackground
from hyperphotutils.blend.candidates import candidate_snr
from hyperphotutils.blend.covariance import total_flux
from hyperphotutils.blend.fitter import BlendGroupFitter
from hyperphotutils.blend.group_solver import GroupSolver
from hyperphotutils.blend.grouper import SeparationGrouper
from hyperphotutils.blend.grouping import group_sources, renumber_groups
from hyperphotutils.blend.pairs import find_pairs
from hyperphotutils.blend.results import as_init_params
from hyperphotutils.blend.start import read_start
from hyperphotutils.detection.highpass import HighPassStarFinder
from hyperphotutils.noise.correlated import CorrelatedNoise
from hyperphotutils.noise.local import measure_noise_variation
from hyperphotutils.photometry.acceptance import (
    MIN_SEPARATION,
    find_failures,
    find_lobes,
)
from hyperphotutils.photometry.state import (
    MapState,
    are_apart,
    plain,
    positions,
)
from hyperphotutils.utils.checks import check_part, check_positive
from hyperphotutils.utils.flags import FLAGS, decode_flags
from hyperphotutils.utils.tables import (
    integrated_unit,
    make_repr,
    open_nddata,
    result_meta,
)
from hyperphotutils.utils.wcs import (
    pixel_area,
    pixel_to_sky_ellipse,
    pixel_to_sky_errors,
)

__all__ = ['HyperPhotometry']

# The standard deviation of true positions around detected ones, along each
# axis in FWHM of the beam. It is 0.05 on simulated maps, and 0.11 where they
# are crowded, as neighbors move the peaks of blended sources. Sources held
# at the shape of the beam stay nearer to the detection.
_POSITION_PRIOR = 0.15
_HELD_POSITION_PRIOR = 0.1
# A source this near to a new companion, in FWHM, is not split in two.
_NEAR_COMPANION = 1.5
# The smallest signal-to-noise ratio of a detection on the residual.
_MIN_CANDIDATE_SNR = 4.0

# Without one side lobe, another detection may turn out to be one.
_LOBE_ROUNDS = 3

# The columns of the detection that are kept through all fits.
_CARRIED = ('shoulder_score', 'detection_snr')

_COLUMNS = (
    'id', 'group_id', 'group_size', 'x_init', 'y_init', 'x_fit', 'y_fit',
    'x_err', 'y_err', 'amplitude_fit', 'amplitude_err', 'fwhm_major_fit',
    'fwhm_major_err', 'fwhm_minor_fit', 'fwhm_minor_err', 'theta_fit',
    'theta_err', 'flux_fit', 'flux_err', 'aperture_flux',
    'aperture_flux_err', 'aperture_correction', 'aperture_residual',
    'local_bkg', 'bkg_order', 'bkg_method', 'bkg_box', 'snr',
    'shoulder_score', 'nmse', 'reduced_chi2', 'bic', 'n_pixels_fit',
    'flags')


class HyperPhotometry:
    """
    Detect, group, fit, and measure the compact sources of a map.

    The steps are those of HYPER [1]_: sources are detected on a
    high-pass filtered map; sources that overlap are fitted together,
    with their background; companions missed at first are detected on
    the residual of the fit; and the flux of each source is summed in an
    ellipse of its own size on the map minus background and companions.

    Each step is an object that can be replaced by any other with the
    same calls, those of photutils among them.

    Parameters
    ----------
    fwhm : float
        The FWHM of the beam in pixels; the geometric mean for an
        elliptical beam. If the metadata of the map give the shape of the
        beam, as those of `~hyperphotutils.maps.read_map` do, fits start
        with that shape, and fixed shapes have it.

    finder : callable, optional
        Called with the data and ``mask=``, returns a table with
        ``x_centroid`` and ``y_centroid``, or `None`. The default is
        `~hyperphotutils.detection.HighPassStarFinder` with a threshold
        of 5.

    grouper : callable, optional
        Called with x and y, returns an integer group for each source.
        The default is a `~hyperphotutils.blend.SeparationGrouper` with a
        ``min_separation`` of ``2 * fwhm``.

    fitter : `~hyperphotutils.blend.BlendGroupFitter`, optional
        Fits the groups. The default is one for ``fwhm`` with a solver
        with ``bias_correction``. An astropy fitter is used by such a
        solver.

    psf : 2D array_like, photutils PSF model, or \
            `~hyperphotutils.psf.EmpiricalPSF`, optional
        The measured beam. Sources are then Gaussians convolved with it,
        in fits, apertures, and images; see
        `~hyperphotutils.blend.BlendGroupFitter`, to which it is given
        if there is a ``fitter``. The default is a Gaussian beam.

    fwhm_radius_ratio : float, optional
        The semi-axes of the apertures in units of the fitted FWHMs.

    aperture_correction : bool, optional
        Whether to divide the sum in the aperture by the fraction of the
        fitted Gaussian inside it.

    fwhm_limits : tuple of 2 floats, optional
        The smallest and the largest FWHM, in units of ``fwhm``, from
        which apertures are made; the FWHMs of other sources are clipped
        to them. The default is no limits.

    aperture_ellipse : tuple of 3 floats or 1D array_like, optional
        The FWHMs in pixels and the angle in degrees, counter-clockwise
        from the x axis, from which apertures are made instead of the
        fitted ones. Arrays have a value for each row of
        ``init_params``; where it is NaN, the fitted ellipse is used.
        It cannot be combined with ``fwhm_limits``.

    background : `~hyperphotutils.background.LocalPolynomialBackground`, \
optional
        Estimates the background around each source apart from the fit:
        after a first fit it is measured on the map without sources,
        subtracted, and all sources are fitted again without a background
        of their own. By default, the background is a part of the fit.

    noise : {'correlated', 'white'} or \
            `~hyperphotutils.noise.CorrelatedNoise`, optional
        How pixels are weighted. With ``'correlated'``, the default, the
        covariance of the noise and of the structured background is
        measured on the map after a first fit, and all sources are fitted
        again by generalised least squares: with less scatter, and with
        errors that hold. With ``'white'`` pixels are independent, as
        they always are for an astropy fitter. A
        `~hyperphotutils.noise.CorrelatedNoise` is used as it is.

    mask_bad_pixels : bool, optional
        Whether to find bad pixels by
        `~hyperphotutils.noise.detect_bad_pixels` and leave them out of
        fits and apertures. Sources with bad pixels within one ``fwhm``
        are flagged.

    max_rounds : int, optional
        The largest number of searches on the residual. With 0 there are
        none, and no source is split in two.

    progress_bar : bool, optional
        Whether to show a progress bar.

    Attributes
    ----------
    results : `~astropy.table.QTable` or None
        The table of the last call.

    rms : float, `~astropy.units.Quantity`, or None
        The noise of the last map: the median rms about local planes with
        all sources subtracted (see
        `~hyperphotutils.background.local_rms`), or the median of the
        given errors.

    rejected : `~astropy.table.QTable` or None
        The detections of the last call that have no row in its table:
        their position (``x_init``, ``y_init``, and ``sky_centroid`` for
        a map with a WCS), ``snr``, the ``search`` that found them (0 on
        the map, 1 and more on the residual), and the ``reason``. See
        `~hyperphotutils.photometry.REJECTION_REASONS`.

    References
    ----------
    .. [1] Traficante, A. et al. 2015, A&A, 574, A119

    Examples
    --------
    >>> from hyperphotutils.datasets import make_blended_map
    >>> from hyperphotutils.photometry import HyperPhotometry
    >>> sky = make_blended_map(shape=(120, 120), n_sources=12,
    ...                        blend_fraction=0, seed=1)
    >>> phot = HyperPhotometry(fwhm=sky.image.meta['beam_fwhm_pix'])
    >>> table = phot(sky.image)
    >>> len(table)
    12
    >>> table['flux_fit'].unit
    Unit("Jy")
    """

    _repr_params = ('fwhm', 'finder', 'grouper', 'fitter', 'psf',
                    'fwhm_radius_ratio', 'aperture_correction', 'fwhm_limits',
                    'aperture_ellipse', 'background', 'noise',
                    'mask_bad_pixels', 'max_rounds', 'progress_bar')

    def __init__(self, fwhm, *, finder=None, grouper=None, fitter=None,
                 psf=None, fwhm_radius_ratio=1.0, aperture_correction=True,
                 fwhm_limits=None, aperture_ellipse=None, background=None,
                 noise='correlated', mask_bad_pixels=True, max_rounds=2,
                 progress_bar=False):
        self.fwhm = check_positive(fwhm, 'fwhm')
        self.fwhm_radius_ratio = check_positive(fwhm_radius_ratio,
                                                'fwhm_radius_ratio')
        for name, part in (('finder', finder), ('grouper', grouper),
                           ('fitter', fitter)):
            check_part(part, name)
        if not isinstance(max_rounds, Integral) or max_rounds < 0:
            msg = ('max_rounds must be an integer of at least 0: '
                   f'{max_rounds!r}')
            raise ValueError(msg)
        self.finder = (HighPassStarFinder(5.0, fwhm) if finder is None
                       else finder)
        self.grouper = (SeparationGrouper(min_separation=2.0 * fwhm)
                        if grouper is None else grouper)
        if fitter is None or isinstance(fitter, Fitter):
            solver = GroupSolver(astropy_fitter=fitter, bias_correction=True)
            fitter = BlendGroupFitter(fwhm, psf=psf, solver=solver,
                                      progress_bar=progress_bar)
            psf = None
        if psf is not None:
            msg = ('psf is an option of the fitter: give it to that, such '
                   'as BlendGroupFitter(fwhm, psf=...)')
            raise ValueError(msg)
        self.psf = getattr(fitter, 'psf', None)
        self.fitter = fitter
        self.aperture_correction = bool(aperture_correction)
        if fwhm_limits is not None and (
                np.shape(fwhm_limits) != (2,)
                or not 0.0 < fwhm_limits[0] <= fwhm_limits[1]):
            msg = ('fwhm_limits must be two positive numbers, the smaller '
                   f'one first: {fwhm_limits!r}')
            raise ValueError(msg)
        self.fwhm_limits = fwhm_limits
        if aperture_ellipse is not None:
            _check_ellipse(aperture_ellipse, fwhm_limits)
        self.aperture_ellipse = aperture_ellipse
        if background is not None and not isinstance(
                background, LocalPolynomialBackground):
            msg = ('background must be a LocalPolynomialBackground: '
                   f'{background!r}')
            raise TypeError(msg)
        self.background = background
        if not isinstance(noise, CorrelatedNoise) and not (
                isinstance(noise, str) and noise in {'correlated', 'white'}):
            msg = ("noise must be 'correlated', 'white', or a "
                   f'CorrelatedNoise: {noise!r}')
            raise ValueError(msg)
        self.noise = noise
        self.mask_bad_pixels = bool(mask_bad_pixels)
        self.max_rounds = int(max_rounds)
        self.progress_bar = progress_bar
        self.results = None
        self.rms = None
        self.rejected = None
        self._image = None
        self._fluxes = None

    def __repr__(self):
        return make_repr(self)

    def __call__(self, data, *, wcs=None, mask=None, error=None,
                 weight_map=None, init_params=None):
        """
        Measure the sources of a map.

        Parameters
        ----------
        data : 2D array_like, `~astropy.units.Quantity`, or \
                `~astropy.nddata.NDData`
            The map, best in Jy/pixel as
            `~hyperphotutils.maps.read_map` gives it. Pixels that are
            not finite are ignored.

        wcs : `~astropy.wcs.WCS`, optional
            Gives the sky columns; that of an `~astropy.nddata.NDData`
            by default.

        mask : 2D bool array_like, optional
            `True` for pixels to ignore; merged with that of an
            `~astropy.nddata.NDData`.

        error : float or 2D array_like, optional
            The standard deviation of the pixels, with the unit of
            ``data``. By default, the noise is taken from the residuals
            of the fits. The covariance of correlated noise is measured
            on the map in any case; only its variation over the map is
            then taken from ``error``.

        weight_map : 2D array_like, optional
            The map for a fitter with the ``weights`` ``'map'`` or
            ``'mask'``; see `~hyperphotutils.blend.BlendGroupFitter`.

        init_params : `~astropy.table.Table`, optional
            The sources to measure instead of detecting them; see
            `~hyperphotutils.blend.BlendGroupFitter`. No others are
            searched then.

        Returns
        -------
        table : `~astropy.table.QTable` or `None`
            A row a source; `None` with a warning when there is none.
        """
        image = MapState(data, wcs, mask, error)
        image.weight_map = weight_map
        # Each call has a fitter of its own, so that threads do not disturb
        # each other.
        image.fitter = (copy(self.fitter)
                        if isinstance(self.fitter, BlendGroupFitter)
                        else self.fitter)
        image.use_beam(getattr(image.fitter, 'beam', None))
        if self.mask_bad_pixels:
            image.mask_bad_pixels(self.fwhm)
        if isinstance(self.noise, CorrelatedNoise):
            image.noise_variation = self.noise.relative_rms
        if image.noise_variation is None:
            image.noise_variation = measure_noise_variation(
                image.values, self.fwhm, mask=image.mask)
        if init_params is None:
            image.position_prior = _POSITION_PRIOR * self.fwhm
            table = self._detect_and_fit(image)
        else:
            init = image.with_shapes(init_params, self.fwhm)
            table = self._fit(image, image.values, init)
            image.replace(None, table)
            image.measure_noise(self.fwhm)
            if len(table):
                table = self._refine(image, table)
                image.flag_bad_pixels(table, self.fwhm)
        if table is None:
            self._image, self.rejected = image, image.rejected_table()
            self.rms = self.results = self._fluxes = None
            msg = 'No sources were found.'
            warnings.warn(msg, NoDetectionsWarning, stacklevel=2)
            return None
        return self._finish(image, table)

    def results_to_init_params(self, *, remove_invalid=True,
                               reset_ids=True):
        """
        Make start values for another fit from the results.

        Parameters
        ----------
        remove_invalid : bool, optional
            Whether to leave out the rows without a fit.

        reset_ids : bool, optional
            Whether to number the rows from 1 if ``remove_invalid`` is
            `True`; their ``id`` is kept otherwise.

        Returns
        -------
        init_params : `~astropy.table.QTable`
            The columns ``id``, ``group_id``, ``x_init``, ``y_init``,
            ``fwhm_major_init``, ``fwhm_minor_init``, and ``theta_init``.

        Raises
        ------
        ValueError
            If there are no results yet, or no sources were found.

        See Also
        --------
        photutils.psf.PSFPhotometry.results_to_init_params
        """
        if self.results is None:
            msg = 'no sources have been measured yet: call the object first'
            raise ValueError(msg)
        return as_init_params(self.results, remove_invalid=remove_invalid,
                              reset_ids=reset_ids)

    def make_model_image(self, shape=None, *, include_local_bkg=False):
        """
        Make an image of all sources of the last map.

        Parameters
        ----------
        shape : tuple of 2 ints, optional
            The ``(ny, nx)`` of the image; that of the map by default.

        include_local_bkg : bool, optional
            Whether to add the backgrounds where they are known.

        Returns
        -------
        image : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The image.
        """
        image = self._last_image
        model = _reshape(image.model, shape, 0.0)
        if include_local_bkg:
            model = model + np.nan_to_num(
                _reshape(image.background, shape, 0.0))
        return image.with_unit(model)

    def make_background_image(self, shape=None):
        """
        Make an image of the fitted backgrounds of the last map.

        Parameters
        ----------
        shape : tuple of 2 ints, optional
            The ``(ny, nx)`` of the image; that of the map by default.

        Returns
        -------
        image : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The image, NaN far from all sources.
        """
        image = self._last_image
        return image.with_unit(_reshape(image.background, shape, np.nan))

    def make_residual_image(self, data=None, *, include_local_bkg=True):
        """
        Subtract all sources and backgrounds from an image.

        Parameters
        ----------
        data : 2D array_like, `~astropy.units.Quantity`, or \
                `~astropy.nddata.NDData`, optional
            The image; the last map by default.

        include_local_bkg : bool, optional
            Whether to subtract the backgrounds, too, where they are
            known. The default is `True`, unlike that of
            `photutils.psf.PSFPhotometry`.

        Returns
        -------
        image : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The image minus the sources and backgrounds.
        """
        if data is None:
            data = self._last_image.with_unit(self._last_image.values)
        data, _, _ = open_nddata(data)
        return data - self.make_model_image(
            np.shape(data), include_local_bkg=include_local_bkg)

    def total_flux(self, ids=None):
        """
        Sum the fluxes of sources of the last map; the error includes
        the covariances of sources that were fitted together.

        Parameters
        ----------
        ids : int, str, or 1D array_like, optional
            The ``id`` of the sources, of one group or of several; all
            by default. Sources that were fitted in different groups are
            independent.

        Returns
        -------
        flux, flux_err : float or `~astropy.units.Quantity`
            The sum of ``flux_fit`` and its standard error; NaN when one
            of the fluxes is.

        Raises
        ------
        ValueError
            If there is no such source, or no source at all.

        Examples
        --------
        >>> from hyperphotutils.datasets import make_blended_map
        >>> from hyperphotutils.photometry import HyperPhotometry
        >>> sky = make_blended_map(shape=(120, 120), n_sources=12, seed=3)
        >>> phot = HyperPhotometry(fwhm=sky.image.meta['beam_fwhm_pix'])
        >>> table = phot(sky.image)
        >>> group = table['group_id'] == table['group_id'][0]
        >>> flux, flux_err = phot.total_flux(table['id'][group])
        >>> flux.unit
        Unit("Jy")
        """
        if self._fluxes is None:
            msg = 'no sources have been measured yet: call the object first'
            raise ValueError(msg)
        return total_flux(ids, *self._fluxes)

    @staticmethod
    def decode_flags(flags):
        """
        Decode the values of the ``flags`` column.

        Parameters
        ----------
        flags : int or 1D array_like of int
            The bit masks.

        Returns
        -------
        names : list of str or list of list of str
            The names of the bits that are set.
        """
        return decode_flags(flags)

    @property
    def _last_image(self):
        """
        The map of the last call.
        """
        if self._image is None:
            msg = 'no map has been measured yet: call the object first'
            raise ValueError(msg)
        return self._image

    def _detect_and_fit(self, image):
        """
        Fit what is detected on the map, then what is detected on the
        residual together with its neighbors.
        """
        found = self._find(image, image.values, image.unusable)
        if found is None:
            return None
        found['id'] = np.arange(1, len(found) + 1)
        image.last_id = image.n_detected = len(found)
        image.last_ids.append(image.last_id)
        image.measure_noise(self.fwhm)
        image.preliminary = self._needs_covariance(image)
        table = self._fit(image, image.values, found)
        image.replace(None, table)
        image.measure_noise(self.fwhm)
        image.measure_filtered_noise(self.fwhm)
        table = self._hold_runaways(image, table)
        table = self._reject_lobes(image, table)
        table = self._refine(image, table)
        for search in range(1, self.max_rounds + 1):
            new = self._find_companions(image, table, search)
            new = vstack([new, self._find_pairs(image, table, new)])
            if len(new):
                table = self._add_companions(image, table, new)
            image.last_ids.append(image.last_id)
            if image.preliminary:
                # The noise is best measured without the companions.
                table = self._finalize(image, table)
            elif len(new) == 0:
                break
        if image.preliminary:
            table = self._finalize(image, table)
        table = self._settle(image, table)
        if len(table) == 0:
            return None
        image.flag_bad_pixels(table, self.fwhm)
        table.meta |= found.meta
        names = np.arange(1, len(table) + 1)
        image.source_covariance = image.source_covariance.take(
            table['id'], names=names)
        table['id'] = names
        return table

    def _hold_runaways(self, image, table):
        """
        Refit detections whose free fit fails a rule: with the shape of
        the beam, and together with their neighbors.
        """
        if not np.isfinite(image.position_prior):  # given sources
            return table
        failure = find_failures(image, table, self.fwhm)
        fitted = (table['flags'] & FLAGS['off_map']) == 0
        runaway = (failure != '') & fitted & ~_is_held(table)
        if not runaway.any():
            return table
        return self._refit(image, table, held=runaway)

    def _reject_lobes(self, image, table):
        """
        Reject detections on the side lobes of a measured beam.
        """
        if image.profile is None:
            return table
        for _ in range(_LOBE_ROUNDS):
            failure = find_failures(image, table, self.fwhm)
            lobes = find_lobes(table, failure, self.fwhm)
            if not lobes.any():
                break
            table = self._reject(image, table, lobes, failure)
            # The fits of their neighbors must not depend on them.
            table = self._hold_runaways(image, self._fit_again(image, table))
        return table

    def _find_companions(self, image, table, search):
        """
        Return the significant detections on the residual as start
        values.
        """
        found = self._find(image, image.values - image.model, image.mask)
        if found is None:
            return QTable()
        known = np.vstack([
            positions(table, 'fit'),
            *(positions(rejected, 'init') for rejected in image.rejected)])
        found = found[are_apart(positions(found, 'init'), known,
                                MIN_SEPARATION * self.fwhm)]
        if len(found) == 0 or image.covariance is None:
            return found
        snr = candidate_snr(
            image.cleaned - image.model, found, table, image.covariance,
            self.fwhm, mask=image.mask | image.background_missing(),
            fit_radius=getattr(image.fitter, 'fit_radius', 2.0 * self.fwhm),
            extra_variance=image.extra_variance, beam=image.profile)
        found['detection_snr'] = snr
        significant = snr > _MIN_CANDIDATE_SNR
        image.reject(found[~significant], 'not_significant', search)
        return found[significant]

    def _find_pairs(self, image, table, companions):
        """
        Return the two halves of each source that two sources describe
        better, as start values; the first half has the id of the source.

        Sources next to a new companion are tested in the next round,
        as they may be single beside it.
        """
        known = isinstance(image.fitter, BlendGroupFitter)
        if image.covariance is None or not known or image.fitter.fixed:
            return QTable()
        alone = np.ones(len(table), dtype=bool)
        if len(companions):
            alone = are_apart(positions(table, 'fit'),
                              positions(companions, 'init'),
                              _NEAR_COMPANION * self.fwhm)
        rows = np.flatnonzero(np.isin(table['id'], list(image.changed))
                              & ~_is_held(table) & alone)
        image.changed.clear()
        halves = find_pairs(image.cleaned - image.model, table[rows],
                            image.covariance, self.fwhm,
                            mask=image.mask | image.background_missing(),
                            fit_radius=image.fitter.fit_radius,
                            beam=image.profile)
        whole = table[rows[halves['row']]]
        new = _start_table(
            len(halves), position_prior=image.position_prior,
            split_from=np.asarray(whole['id']),
            **{name: halves[name] for name in halves.colnames
               if name != 'row'},
            **{name: whole[name] for name in _CARRIED})
        new['id'][::2] = new['split_from'][::2]
        return new

    def _add_companions(self, image, table, new):
        """
        Fit companions with their neighbors, and reject those that fail
        even with the shape of the beam.
        """
        companions = new['id'] == 0
        ids = image.last_id + 1 + np.arange(np.count_nonzero(companions))
        image.last_id += len(ids)
        new['id'][companions] = ids
        split = companions & (new['split_from'] > 0)
        image.split_from |= dict(zip(
            new['id'][split].tolist(), new['split_from'][split].tolist(),
            strict=True))
        table = self._refit(image, table, new=new)
        failure = find_failures(image, table, self.fwhm)
        failing = (failure != '') & (table['id'] > image.n_detected)
        runaway = failing & ~_is_held(table)
        if runaway.any():
            table = self._refit(image, table, held=runaway)
            failure = find_failures(image, table, self.fwhm)
            failing = (failure != '') & (table['id'] > image.n_detected)
        begin = self._undo_splits(image, table, failure, failing)
        if failing.any():
            table = self._reject(image, table, failing, failure,
                                 begin=begin)
        return table

    @staticmethod
    def _undo_splits(image, table, failure, failing):
        """
        Reject the companion instead of the source that it was split
        off, if only the source fails.

        Returns
        -------
        begin : 1D int `~numpy.ndarray`
            The row at which the next fit of each source starts: that
            of the companion if this is rejected in its place, else its
            own.
        """
        begin = np.arange(len(table))
        row_of = dict(zip(table['id'].tolist(), begin.tolist(), strict=True))
        for companion, source in image.split_from.items():
            row, source = row_of.get(companion), row_of.get(source)
            if None in {row, source} or failing[row] or failure[source] == '':
                continue
            failure[row], failing[row] = failure[source], True
            begin[source] = row
        return begin

    def _reject(self, image, table, rejected, failure, *, begin=None):
        """
        Take sources out of the table, and fit their neighbors again.
        """
        for reason in np.unique(failure[rejected]):
            chosen = rejected & (failure == reason)
            image.reject(table[chosen], str(reason))
        if rejected.all():
            image.replace(table, table[:0])
            return table[:0]
        return self._refit(image, table, dropped=rejected, begin=begin)

    def _settle(self, image, table):
        """
        Reject detections that are duplicates or have no usable pixels,
        and flag the doubtful ones.
        """
        table = self._reject_lobes(image, table)
        failure = find_failures(image, table, self.fwhm)
        rejected = np.isin(failure, ('duplicate', 'no_usable_pixels'))
        if not image.has_noise():
            # Without noise, the errors of the filter are detected.
            rejected |= plain(table['amplitude_fit']) <= image.rounding()
        if rejected.any():
            table = self._reject(image, table, rejected, failure)
            failure = find_failures(image, table, self.fwhm)
        table['flags'] |= np.where(failure != '', FLAGS['doubtful'], 0)
        split = {*image.split_from, *(
            source for companion, source in image.split_from.items()
            if companion in table['id'])}
        table['flags'] |= np.where(np.isin(table['id'], list(split)),
                                   FLAGS['split_pair'], 0)
        is_companion = ((table['id'] > image.n_detected)
                        & ~np.isin(table['id'], list(image.split_from)))
        table['flags'] |= np.where(is_companion,
                                   FLAGS['residual_detection'], 0)
        table.meta['n_detected'] = image.n_detected
        table.meta['n_companions'] = int(np.count_nonzero(
            table['id'] > image.n_detected))
        return table

    def _needs_covariance(self, image):
        """
        Return whether correlated noise is to be measured.
        """
        solver = getattr(image.fitter, 'solver', None)
        if getattr(solver, 'astropy_fitter', None) is not None:
            return False  # astropy's fitters know no covariance
        return isinstance(self.noise, CorrelatedNoise) or (
            self.noise == 'correlated' and image.has_noise())

    def _refine(self, image, table):
        """
        Fit all sources again, with the background and the noise that
        are measured after the first fit.
        """
        if self.background is not None:
            image.subtract_background(self.background, table)
            table = self._fit_again(image, table)
        if self._needs_covariance(image):
            table = self._weight_by_covariance(image, table)
        return table

    def _weight_by_covariance(self, image, table):
        """
        Measure the covariance of the pixels without the sources, and fit
        all sources again with it.
        """
        image.covariance = (
            self.noise if isinstance(self.noise, CorrelatedNoise)
            else image.measure_covariance(table, self.fwhm))
        image.measure_misfit(table, self.fwhm)
        table = self._fit_again(image, table)
        return self._hold_runaways(image, table)

    def _finalize(self, image, table):
        """
        Measure the covariance for the last time, and fit until the
        fits converge.
        """
        image.preliminary = False
        image.measure_noise(self.fwhm)
        if self._needs_covariance(image):
            return self._weight_by_covariance(image, table)
        image.covariance = None
        return self._fit_again(image, table)

    def _fit_again(self, image, table):
        """
        Fit all sources again with free shapes, starting where the last
        fit ended.
        """
        init = self._as_init(image, table, np.zeros(len(table), dtype=bool))
        init['hold_shape'] = False
        init['position_prior'] = image.position_prior
        init['group_id'] = np.where(
            table['group_id'] > 0, table['group_id'],
            np.max(table['group_id'], initial=0) + 1
            + np.arange(len(table)))
        fitted = self._fit(image, image.cleaned, init)
        fitted.meta |= table.meta
        image.replace(table, fitted)
        return fitted

    def _find(self, image, values, mask):
        """
        Detect sources; None when there are none.
        """
        values = image.with_unit(values)
        if isinstance(self.finder, HighPassStarFinder):
            found, _ = self.finder.search(
                values, mask=mask, relative_rms=image.noise_variation)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', NoDetectionsWarning)
                found = self.finder(values, mask=mask)
        if found is None or len(found) == 0:
            return None
        init = _start_table(
            len(found), image.beam_shape(self.fwhm),
            x_init=np.asarray(found['x_centroid'], float),
            y_init=np.asarray(found['y_centroid'], float),
            position_prior=image.position_prior)
        for name, column in (('shoulder_score', 'shoulder_score'),
                             ('detection_snr', 'snr')):
            if column in found.colnames:
                init[name] = found[column]
        if 'n_rejected' in found.meta:
            init.meta['n_rejected'] = dict(found.meta['n_rejected'])
        return init

    def _fit(self, image, values, init):
        """
        Group and fit sources on an image.
        """
        init = self._with_groups(init)
        weights = ({'error': image.error} if image.covariance is None
                   else {'noise': image.covariance})
        if image.weight_map is not None:
            weights['weight_map'] = image.weight_map
        fit = image.fitter
        if isinstance(fit, BlendGroupFitter):
            fit = fit._fit_image  # noqa: SLF001
            weights['preliminary'] = image.preliminary
            if image.separate is not None:
                weights['poly_order'] = -1
            if 'noise' in weights:
                weights['extra_variance'] = image.extra_variance
        table = fit(image.with_unit(values), mask=image.mask,
                    init_params=init, **weights)
        image.keep_covariance(image.fitter, table)
        image.changed.update(np.asarray(table['id']).tolist())
        for name in _CARRIED:
            table[name] = (init[name] if name in init.colnames
                           else np.full(len(table), np.nan))
        if 'hold_shape' in init.colnames:
            table['flags'] |= np.where(init['hold_shape'],
                                       FLAGS['held_shape'], 0)
        return table

    def _with_groups(self, init):
        """
        Return the start values with the column of groups.
        """
        start = read_start(init, self.fwhm)
        if start.group_id is not None:
            return init
        init = QTable(init, copy=True)
        init['group_id'] = group_sources(self.grouper, start.x, start.y)
        return init

    def _refit(self, image, table, *, new=None, dropped=None, held=None,
               begin=None):
        """
        Fit the groups again that gain or lose a source, or whose sources
        are held at the shape of the beam from now on.

        Rows of ``new`` replace those of the table with the same id. The
        fit of each source starts at the last fit of the row ``begin``, by
        default its own.
        """
        none = np.zeros(len(table), dtype=bool)
        dropped = none if dropped is None else dropped
        held = none if held is None else held
        replaced = none if new is None else np.isin(table['id'], new['id'])
        init = self._as_init(
            image, table if begin is None else table[begin], held)
        init['id'] = table['id']
        # Without bounds two sources can cancel each other.
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
        values = image.cleaned - image.model + image.render(old)
        fitted = self._fit(image, values, init)
        image.replace(old, fitted)
        return _merge(others, fitted)

    def _as_init(self, image, table, held):
        """
        Return fitted sources as start values: where the last fit
        ended, or, for those to be held, the detected position and the
        shape of the beam.
        """
        init = _start_table(
            len(table), position_prior=image.position_prior,
            hold_shape=_is_held(table) | held,
            x_previous=np.where(held, np.nan, table['x_fit']),
            y_previous=np.where(held, np.nan, table['y_fit']),
            **{name: np.asarray(table[name])
               for name in ('id', 'x_init', 'y_init', *_CARRIED)})
        for name, beam in zip(('fwhm_major', 'fwhm_minor', 'theta'),
                              image.beam_shape(self.fwhm), strict=True):
            init[f'{name}_init'] = np.where(held, beam, table[f'{name}_fit'])
        init['position_prior'][init['hold_shape']] *= (
            _HELD_POSITION_PRIOR / _POSITION_PRIOR)
        return init

    def _finish(self, image, table):
        """
        Add apertures, signal-to-noise ratio, and sky columns.
        """
        image.measure_noise(self.fwhm)
        if 'shape' not in getattr(image.fitter, 'fixed', ()):
            # Other sources than points differ from fixed shapes anyway.
            image.flag_beam_mismatch(table, self.fwhm)
        rms = image.with_unit(float(np.median(
            np.asarray(image.noise)[np.isfinite(image.noise)])))
        if image.error is None and image.covariance is None:
            # Without errors this is the variance of the residuals.
            table['reduced_chi2'] /= image.noise**2
        table['group_id'] = renumber_groups(table['group_id'])
        self._add_apertures(image, table)
        table['snr'] = (plain(table['amplitude_fit'])
                        / image.peak_noise(table))
        table = table[list(_COLUMNS)]
        covariance = image.source_covariance.take(table['id'])
        fluxes = (np.asarray(table['id']), table['flux_fit'].copy(),
                  table['flux_err'].copy(), covariance)
        if image.wcs is not None:
            _add_sky_columns(table, image.wcs, covariance)
        table.meta |= result_meta(self)
        table.meta['rms'] = str(rms)
        if image.beam_area is not None:
            # brings peaks back to values per beam
            table.meta['beam_area_pix'] = float(image.beam_area)
            if image.area_varies:
                table['beam_area_pix'] = image.beam_area * (
                    image.pixel_scale**2 / pixel_area(
                        image.wcs, np.asarray(table['x_fit']),
                        np.asarray(table['y_fit']))).to_value('')
        if image.covariance is not None:
            table.meta['noise'] = repr(image.covariance)
        if image.bad_pixels is not None:
            table.meta['n_bad_pixels'] = image.bad_pixels.counts
        rejected = image.rejected_table()
        reasons, counts = np.unique(rejected['reason'], return_counts=True)
        table.meta['n_rejected'] = table.meta.get('n_rejected', {}) | dict(
            zip(reasons.tolist(), counts.tolist(), strict=True))
        self.fitter, self._image = image.fitter, image
        self.rms, self.rejected, self._fluxes = rms, rejected, fluxes
        self.results = table
        return table

    def _ellipse_of(self, table):
        """
        Return the ellipses of the apertures if they do not depend on
        the fits.
        """
        if self.aperture_ellipse is None:
            return None
        for value in self.aperture_ellipse:
            if np.ndim(value) and len(value) != len(table):
                msg = ('aperture_ellipse must hold numbers, or arrays with a '
                       f'value for each of the {len(table)} sources: got '
                       f'{len(value)} values')
                raise ValueError(msg)
        return self.aperture_ellipse

    def _add_apertures(self, image, table):
        """
        Add the results of the apertures.
        """
        radius = 0.5 * float(np.max(table['bkg_box'], initial=1.0))
        residual = image.cleaned - image.model
        noise = image.noise if image.covariance is None else image.covariance
        measured, apertures = measure_sources(
            residual, table, noise, mask=image.mask, radius=radius,
            order=(max(1, int(np.max(table['bkg_order'], initial=1)))
                   if image.separate is None else -1),
            fwhm_radius_ratio=self.fwhm_radius_ratio,
            fwhm_limits=(None if self.fwhm_limits is None else tuple(
                self.fwhm * limit for limit in self.fwhm_limits)),
            ellipse=self._ellipse_of(table), correct=self.aperture_correction,
            beam=image.profile)
        if image.separate is None:
            image.background = apertures.background(residual, radius)
        else:
            image.describe_background(table, measured)
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


def _reshape(image, shape, fill):
    """
    Return an image cut or extended to another shape.
    """
    if shape is None or tuple(shape) == image.shape:
        return image.copy()
    extended = np.full(shape, fill)
    common = tuple(slice(min(sizes))
                   for sizes in zip(shape, image.shape, strict=True))
    extended[common] = image[common]
    return extended


def _check_ellipse(ellipse, limits):
    """
    Check the ellipse of apertures that do not depend on the fits.
    """
    if limits is not None:
        msg = ('aperture_ellipse and fwhm_limits exclude each other: give '
               'only one of them')
        raise ValueError(msg)
    try:
        values = [np.asarray(value, dtype=float) for value in ellipse]
    except (TypeError, ValueError):
        values = []
    if (len(values) != 3 or np.any([np.isinf(value).any()
                                    for value in values])
            or np.any([np.any(width <= 0.0) for width in values[:2]])):
        msg = ('aperture_ellipse must be two positive FWHMs and an angle: '
               f'{ellipse!r}')
        raise ValueError(msg)


def _start_table(n_sources, shape=(np.nan, np.nan, np.nan * u.deg), **columns):
    """
    Return a table of start values with all columns that fits know.
    """
    defaults = {
        'id': 0, 'x_init': np.nan, 'y_init': np.nan, 'x_previous': np.nan,
        'y_previous': np.nan, 'fwhm_major_init': shape[0],
        'fwhm_minor_init': shape[1], 'theta_init': shape[2],
        'position_prior': np.inf, 'hold_shape': False, 'positive': False,
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
    Return newly fitted rows together with all others, by id.
    """
    fitted['group_id'] += np.where(
        fitted['group_id'] > 0, np.max(others['group_id'], initial=0), 0)
    merged = vstack([others, fitted], metadata_conflicts='silent')
    merged.sort('id')
    return merged


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
