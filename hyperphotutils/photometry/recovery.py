# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Completeness and reliability from sources injected into the user's own map.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
from astropy.stats import gaussian_sigma_to_fwhm
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import ArrayLike
from photutils.utils.exceptions import NoDetectionsWarning
from scipy.spatial import KDTree

from hyperphotutils.background.rms import box_side, local_rms
from hyperphotutils.blend import BeamProfile
from hyperphotutils.photometry.completeness import (
    CompletenessCurve,
    fit_completeness,
)
from hyperphotutils.photometry.injection import (
    Sky,
    draw_levels,
    place_sources,
)
from hyperphotutils.photometry.recovery_tables import (
    FEWEST_COMPARED,
    make_bin_table,
    make_detections_table,
    make_injected_table,
    read_measured,
    summarize_bin,
)
from hyperphotutils.utils.checks import (
    check_integer,
    check_positive,
    check_range,
)
from hyperphotutils.utils.executors import (
    as_executor,
    describe_death,
    error_of,
    one_blas_thread,
    was_killed,
    work_through,
)
from hyperphotutils.utils.tables import (
    integrated_unit,
    make_repr,
    result_meta,
)

if TYPE_CHECKING:
    from astropy.table import QTable, Table
    from astropy.units import Quantity
    from matplotlib.figure import Figure

    from hyperphotutils.utils.typing import ExecutorLike, ImageLike, PSFLike

__all__ = ['InjectionRecovery', 'RecoveryResult']

# Bins of a factor of the square root of 2.
_SNR_EDGES = tuple(np.geomspace(3.0, 48.0, 9).round(3).tolist())
# Largest distance in beams at which an injected source can cause a
# detection.
_NEAR = 3.0
# Default number of injected sources: one per square with this side in beams,
# so that they add little to the crowding of a map.
_SPACING = 20.0
_MAX_DEFAULT = 100

# The names of ours, of photutils, and of photutils before version 3.
_POSITIONS = (('x_fit', 'y_fit'), ('x_centroid', 'y_centroid'),
              ('xcentroid', 'ycentroid'))

# An executor may use threads, which share warnings and extractors.
_ONE_AT_A_TIME = threading.Lock()


class InjectionRecovery:
    """
    Class to inject artificial sources into a map and recover them.

    The completeness and reliability of a catalog, and the accuracy of
    its errors, depend on the noise, the background, and the crowding of
    the map. Artificial sources are therefore added to the map itself, a
    few at a time, and extracted in the same way as the catalog.

    Parameters
    ----------
    extractor : callable
        Called with the map, returns a table of sources or `None`. The
        table has positions in ``x_fit`` and ``y_fit``, or
        ``x_centroid`` and ``y_centroid``. Fluxes and errors are compared
        if it has columns with the names of
        `~hyperphotutils.photometry.HyperPhotometry`. The extractor is
        copied, and thus not changed.

    snr : 1D array_like, optional
        The edges of the bins in signal-to-noise ratio: the true peak in
        units of the rms of the map about local planes. The fluxes are
        drawn uniformly in their logarithm within each bin, and all bins
        get the same number of sources. The default is 8 bins from 3 to
        48.

    fluxes : 1D array_like or `~astropy.units.Quantity`, optional
        The edges of the bins in flux, instead of ``snr``.

    size_range : tuple of float, optional
        The range of the geometric mean of the FWHMs of a source, in
        beams.

    axis_ratio_range : tuple of float, optional
        The range of the minor over the major FWHM. The angles are
        random.

    blend_fraction : float, optional
        The fraction of the injected sources (0 to below 1) that is
        placed next to another injected source.

    blend_distance : tuple of float, optional
        The range of their distance in beams.

    n_per_map : int, optional
        The number of sources injected at once. It should be small, in
        order not to change the map. Unless blended, they are at least 6
        beams apart. The default is one per 400 square beams, and at most
        100.

    n_repeats : int, optional
        The number of maps with injected sources.

    match_radius : float, optional
        The largest distance in beams between an injected source and a
        matched detection.

    confidence_level : float, optional
        The probability contained in the Wilson intervals of
        completeness and reliability.

    n_workers : int, optional
        The number of processes. The result does not depend on it.

    executor : `~concurrent.futures.Executor` or `None`, optional
        The executor that processes the maps instead: any object with the
        method ``submit``, or a client of dask.distributed. The result
        does not depend on it.

    seed : int or `~numpy.random.Generator`, optional
        The seed.

    progress_bar : bool, optional
        Whether to show a progress bar.

    Notes
    -----
    With ``n_workers`` above 1 the maps are processed in separate processes.
    As always in Python, a script that does this must put its statements
    below ``if __name__ == '__main__':``.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_blended_map
    >>> from hyperphotutils.photometry import (HyperPhotometry,
    ...                                        InjectionRecovery)
    >>> sky = make_blended_map(shape=(120, 120), n_sources=6, seed=1).image
    >>> phot = HyperPhotometry(fwhm=4.0)
    >>> recovery = InjectionRecovery(phot, snr=[2, 4, 20], n_per_map=4,
    ...                              n_repeats=2, seed=1)
    >>> result = recovery(sky)
    >>> print(result.table['n_injected', 'n_recovered'])
    n_injected n_recovered
    ---------- -----------
             4           ...
             4           4
    """

    _repr_params = ('extractor', 'snr', 'fluxes', 'size_range',
                    'axis_ratio_range', 'blend_fraction', 'blend_distance',
                    'n_per_map', 'n_repeats', 'match_radius',
                    'confidence_level', 'n_workers', 'seed', 'progress_bar')
    # "executor" is not included: the result does not depend on it

    def __init__(self, extractor: Callable, *, snr: ArrayLike | None = None,
                 fluxes: ArrayLike | Quantity | None = None,
                 size_range: tuple[float, ...] = (1.0, 1.5),
                 axis_ratio_range: tuple[float, ...] = (0.7, 1.0),
                 blend_fraction: float = 0.0,
                 blend_distance: tuple[float, ...] = (0.8, 2.0),
                 n_per_map: int | None = None, n_repeats: int = 20,
                 match_radius: float = 0.5, confidence_level: float = 0.6827,
                 n_workers: int = 1, executor: ExecutorLike | None = None,
                 seed: int | np.random.Generator | None = None,
                 progress_bar: bool = False) -> None:
        if isinstance(extractor, type) or not callable(extractor):
            msg = f'extractor must be a callable object: {extractor!r}'
            raise TypeError(msg)
        if snr is not None and fluxes is not None:
            msg = 'snr and fluxes must not both be given'
            raise ValueError(msg)
        if snr is None and fluxes is None:
            snr = _SNR_EDGES
        self.extractor = extractor
        self.snr = None if snr is None else _check_edges('snr', snr)
        self.fluxes = None if fluxes is None else _check_edges('fluxes',
                                                               fluxes)
        self.size_range = check_range(size_range, 'size_range')
        self.axis_ratio_range = check_range(
            axis_ratio_range, 'axis_ratio_range', upper=1.0)
        self.blend_fraction = _check_fraction(
            'blend_fraction', blend_fraction, zero=True)
        self.blend_distance = check_range(blend_distance, 'blend_distance')
        self.n_per_map = None if n_per_map is None else check_integer(
            n_per_map, 'n_per_map')
        self.n_repeats = check_integer(n_repeats, 'n_repeats')
        self.match_radius = check_positive(match_radius, 'match_radius')
        self.confidence_level = _check_fraction('confidence_level',
                                                confidence_level)
        self.n_workers = check_integer(n_workers, 'n_workers')
        self.executor = None if executor is None else as_executor(executor)
        self.seed = seed
        self.progress_bar = progress_bar

    def __repr__(self) -> str:
        return make_repr(self)

    def __call__(self, data: ImageLike, *, fwhm: float | None = None,
                 psf: PSFLike | BeamProfile | None = None,
                 mask: ArrayLike | None = None) -> RecoveryResult:
        """
        Inject sources into a map and recover them.

        Parameters
        ----------
        data : 2D array_like, `~astropy.units.Quantity`, or \
                `~astropy.nddata.NDData`
            The map, passed to the extractor with the same type.

        fwhm : float, optional
            The FWHM of the beam in pixels. The default is the
            ``beam_fwhm_pix`` in the metadata of the map, else the
            ``fwhm`` of the extractor.

        psf : 2D array_like, photutils PSF model, \
                `~hyperphotutils.psf.EmpiricalPSF`, or \
                `~hyperphotutils.blend.BeamProfile`, optional
            The measured beam: the injected sources are Gaussians convolved
            with it. The default is that of the extractor, else a Gaussian.

        mask : 2D bool array_like, optional
            `True` for pixels to ignore: no source is injected there. It
            is passed to the extractor as ``mask``. Pixels that are not
            finite or masked in an `~astropy.nddata.NDData` are always
            ignored.

        Returns
        -------
        result : `RecoveryResult`
            The recovered sources and the statistics.

        Raises
        ------
        TypeError
            If the extractor cannot be sent to other processes.

        ValueError
            If there is no ``fwhm``, or the sources do not fit in the
            map.

        RuntimeError
            If a process died.
        """
        if fwhm is None:
            meta = getattr(data, 'meta', None) or {}
            fwhm = meta.get('beam_fwhm_pix',
                            getattr(self.extractor, 'fwhm', None))
        if fwhm is None:
            msg = ('fwhm must be given: neither the metadata of the map nor '
                   'the extractor has it')
            raise ValueError(msg)
        fwhm = check_positive(fwhm, 'fwhm', of='pixels')
        if psf is None:
            psf = getattr(getattr(self.extractor, 'fitter', None), 'beam',
                          None)
        elif not isinstance(psf, BeamProfile):
            psf = BeamProfile.from_psf(psf, fwhm)
        sky = Sky(data, fwhm, mask, psf)
        # Rounding depends on the number of threads of BLAS: one, as for the
        # maps with sources.
        extractor = copy.deepcopy(self.extractor)
        with one_blas_thread():
            catalog = _extract(extractor, sky.data, mask)
        known = _positions_of(catalog)
        rms = local_rms(sky.values, box_side(sky.fwhm), mask=sky.mask)
        if self.snr is not None and not rms > 0.0:
            msg = 'the map has no noise: give fluxes instead of snr'
            raise ValueError(msg)
        work = {'extractor': extractor, 'sky': sky, 'given_mask': mask,
                'known': known, 'radius': self.match_radius * sky.fwhm}
        # a generator for each map: the order of the work does not matter
        batches = [self._draw(rng, sky, rms) for rng in
                   np.random.default_rng(self.seed).spawn(self.n_repeats)]
        outcomes = self._recover(work, batches)
        # summarize the warnings of the extractor in one
        messages = [message for outcome in outcomes
                    for message in outcome['warnings']]
        if messages:
            n_maps = sum(bool(outcome['warnings']) for outcome in outcomes)
            msg = (f'the extractor warned on {n_maps} of {len(outcomes)} '
                   f'maps, first: {messages[0]}')
            warnings.warn(msg, AstropyUserWarning, stacklevel=2)
        result = self._summarize(sky, rms, catalog, known, batches, outcomes)
        if result.curve is None:
            warnings.warn(result.table.meta['no_curve'], AstropyUserWarning,
                          stacklevel=2)
        return result

    def _draw(self, rng, sky, rms):
        """
        Draw the sources that are injected at once, in pixel units.
        """
        n_sources = self.n_per_map
        if n_sources is None:
            area = np.count_nonzero(~sky.mask) / (_SPACING * sky.fwhm)**2
            n_sources = int(np.clip(area, 1, _MAX_DEFAULT))
        size = rng.uniform(*self.size_range, n_sources) * sky.fwhm
        # The geometric mean of the axes does not depend on their ratio.
        root_ratio = np.sqrt(rng.uniform(*self.axis_ratio_range, n_sources))
        theta = rng.uniform(0.0, 180.0, n_sources)
        major, minor = size / root_ratio, size * root_ratio
        if sky.beam is not None:
            # no source is smaller than its beam allows
            smallest = (np.sqrt(sky.beam.min_variance)
                        * gaussian_sigma_to_fwhm)
            major, minor = (np.maximum(axis, smallest)
                            for axis in (major, minor))
        level = draw_levels(rng, self._plain_edges(sky), n_sources)
        # Signal-to-noise ratios are of peaks, as detection is.
        if self.snr is not None:
            amplitude = level * rms
        else:
            amplitude = level / sky.area_of(major, minor, theta)
        x, y, host = place_sources(rng, sky, n_sources, self.blend_fraction,
                            self.blend_distance)
        return {'x': x, 'y': y, 'amplitude': amplitude,
                'fwhm_major': major, 'fwhm_minor': minor, 'theta': theta,
                'host': host}

    def _plain_edges(self, sky):
        """
        Return the edges of the bins without units.
        """
        if self.snr is not None:
            return self.snr
        unit = integrated_unit(sky.unit)
        has_unit = hasattr(self.fluxes, 'unit')
        if has_unit != (unit is not None):
            stated = self.fluxes.unit if has_unit else 'none'
            msg = ('fluxes must have a unit if the map has one: '
                   f'{stated} for a map in {sky.unit or "no unit"}')
            raise ValueError(msg)
        if not has_unit:
            return self.fluxes
        if not self.fluxes.unit.is_equivalent(unit):
            msg = (f'fluxes must have a unit that converts to {unit}: '
                   f'{self.fluxes.unit}')
            raise ValueError(msg)
        return self.fluxes.to_value(unit)

    def _recover(self, work, batches):
        """
        Extract the sources of each map, with or without an executor,
        and return the results in the order of the maps.
        """
        from tqdm import tqdm

        n_workers = min(self.n_workers, len(batches))
        if self.executor is None and n_workers > 1:
            # A pool would report the object that failed, not whose it is.
            try:
                pickle.dumps(work['extractor'])
            except (pickle.PicklingError, AttributeError, TypeError) as exc:
                msg = ('extractor cannot be sent to other processes '
                       f'({exc}): use n_workers=1')
                raise TypeError(msg) from exc
        outcomes = [None] * len(batches)
        futures = work_through(
            _recover_one, enumerate(batches), work, executor=self.executor,
            n_workers=n_workers)
        with contextlib.closing(futures), tqdm(
                total=len(batches), unit='map',
                disable=not self.progress_bar) as bar:
            for (number, _), future in futures:
                error = error_of(future)
                if was_killed(error):
                    msg = ('a map with injected sources: '
                           f'{describe_death(error)}')
                    raise RuntimeError(msg) from error
                if error is not None:
                    raise error
                outcomes[number] = future.result()
                bar.update()
        return outcomes

    def _summarize(self, sky, rms, catalog, known, batches, outcomes):
        """
        Make the tables of all injected sources and of the bins.
        """
        injected = make_injected_table(sky, rms, known, batches, outcomes)
        detections = make_detections_table(sky, rms, outcomes)
        curve = fit_completeness(injected['flux_true'], injected['recovered'])
        kind = 'flux' if self.snr is None else 'snr'
        table = make_bin_table(
            kind, self._plain_edges(sky), injected, detections, sky.unit,
            confidence_level=self.confidence_level)
        for item in (table, injected, detections):
            item.meta.update(result_meta(self))
            item.meta['rms'] = rms if sky.unit is None else rms << sky.unit
            item.meta['fwhm'] = sky.fwhm
        table.meta['n_repeats'] = len(batches)
        table.meta['n_known'] = len(known)
        for name in ('false', 'changed'):
            table.meta[f'n_{name}'] = int(np.count_nonzero(detections[name]))
        if curve is None:
            n_all = len(injected)
            n_found = np.count_nonzero(injected['recovered'])
            remedy = ('inject fainter ones' if n_found == n_all else
                      'inject brighter ones' if n_found == 0 else
                      'it does not increase with flux: inject more, or a '
                      'larger range')
            table.meta['no_curve'] = (
                f'no curve of the completeness: {n_found} of {n_all} '
                f'injected sources were recovered; {remedy}')
        else:
            for level, (value, error) in ((50, curve.flux_50),
                                          (90, curve.flux_90)):
                table.meta[f'flux_{level}'] = value
                table.meta[f'flux_{level}_err'] = error
            table.meta['plateau'] = curve.plateau
        return RecoveryResult(table, injected, detections, catalog, curve)


@dataclass(frozen=True, eq=False)
class RecoveryResult:
    """
    Class for the results of an injection run.

    It is returned by `InjectionRecovery`.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        A row for each bin of signal-to-noise ratio or flux; see Notes.

    injected : `~astropy.table.QTable`
        A row for each injected source: its true position and properties
        (``..._true``), the index of the source next to which it was
        placed (``host_id``, 0 for none), the distance in pixels to the
        nearest source of the original map (``known_distance``), whether
        it was ``recovered``, at which ``distance``, and the measured
        values.

    detections : `~astropy.table.QTable`
        A row for each detection that is not in the original map. Those
        that are not injected sources are ``false`` within 3 beams of
        one, and ``changed`` farther away, where the measurement of the
        original map has changed.

    catalog : `~astropy.table.Table` or `None`
        The sources of the original map.

    curve : `~hyperphotutils.photometry.CompletenessCurve` or `None`
        The completeness against flux; `None` with a warning, and the
        reason in ``table.meta['no_curve']``, if all or none were
        recovered, or if it does not increase with flux.

    Notes
    -----
    The columns of ``table`` are the edges of the bins (``snr_low`` and
    ``snr_high``, or ``flux_low`` and ``flux_high``), the median ``flux``
    and ``snr`` of the injected sources, ``n_injected``,
    ``n_recovered``, ``completeness`` with its interval
    (``completeness_low``, ``completeness_high``); the number of injected
    sources and false detections whose *measured* value is in the bin,
    ``n_new``, the number of these false detections, ``n_false``, and the
    ``reliability``, 1 - ``n_false`` / ``n_new``, with its interval.

    False detections in the original map cannot be distinguished from
    its real sources, so that the reliability refers to the surroundings
    of the injected sources. ``table.meta['n_changed']`` is a measure of
    the stability of the catalog.

    For flux, aperture flux, peak, x and y, ``..._bias`` is the median of
    (measured - true) / true (in pixels for x and y), ``..._scatter`` is
    1.4826 times the median absolute deviation of the same, and
    ``..._pull_median`` and ``..._pull_scatter`` are those of
    (measured - true) / error. They are NaN if nothing was recovered or
    the extractor has no such column.
    """

    table: QTable
    injected: QTable
    detections: QTable
    catalog: Table | None
    curve: CompletenessCurve | None

    def summary(self) -> str:
        """
        Summarize the results.

        Returns
        -------
        text : str
            The numbers of recovered sources and false detections, the
            fluxes at a completeness of 50 % and 90 %, and a line for each
            bin.

        Examples
        --------
        >>> from hyperphotutils.datasets import make_blended_map
        >>> from hyperphotutils.photometry import (HyperPhotometry,
        ...                                        InjectionRecovery)
        >>> sky = make_blended_map((120, 120), 6, seed=1).image
        >>> recovery = InjectionRecovery(HyperPhotometry(fwhm=4.0),
        ...                              snr=[3, 10, 30], n_repeats=1,
        ...                              n_per_map=6, seed=1)
        >>> print(recovery(sky).summary().partition(' injected')[0])
        5 of 6
        """
        table = self.table
        lines = [f'{table["n_recovered"].sum()} of '
                 f'{table["n_injected"].sum()} injected sources recovered, '
                 f'{table.meta["n_false"]} false detections near them']
        if self.curve is None:
            lines.append(table.meta['no_curve'])
        elif self.curve.step_range is not None:
            low, high = (getattr(flux, 'value', flux)
                         for flux in self.curve.step_range)
            unit = '' if self.curve.unit is None else f' {self.curve.unit}'
            lines.append(
                f'completeness rises from 0 to 1 between {low:.3g} and '
                f'{high:.3g}{unit}: too few sources for its fluxes at 50 % '
                'and 90 %; inject more')
        else:
            for level in (50, 90):
                flux, error = (getattr(number, 'value', number) for number
                               in self.curve.flux_at(level / 100))
                lines.append(
                    f'completeness {level} % at {flux:.3g} +/- {error:.2g}'
                    + ('' if self.curve.unit is None
                       else f' {self.curve.unit}')
                    if np.isfinite(flux)
                    else f'completeness {level} % is not reached')
        lines.append('   S/N  injected   completeness   reliability   flux '
                     'bias   pull of flux')
        return '\n'.join(lines + [summarize_bin(row) for row in table])

    def plot(self, *, figure: Figure | None = None) -> Figure:
        """
        Plot completeness, reliability, bias and pulls against flux.

        Biases and pulls are omitted if fewer than five sources were
        recovered.

        Parameters
        ----------
        figure : `~matplotlib.figure.Figure`, optional
            Where to plot; a new figure by default.

        Returns
        -------
        figure : `~matplotlib.figure.Figure`
            The figure, with three axes.
        """
        from matplotlib.ticker import (
            LogFormatterSciNotation,
            LogLocator,
            NullFormatter,
        )

        if figure is None:
            import matplotlib.pyplot as plt

            figure = plt.figure(figsize=(6.0, 8.0), layout='constrained')
        table = self.table
        fractions, biases, pulls = figure.subplots(3, 1, sharex=True)
        x = getattr(table['flux'], 'value', table['flux'])
        for name, fill in (('completeness', 'C0'), ('reliability', 'none')):
            value, low, high = (np.asarray(table[f'{name}{end}'])
                                for end in ('', '_low', '_high'))
            known = np.isfinite(value)
            error = np.abs([low - value, high - value])[:, known]
            fractions.errorbar(x[known], value[known], error, label=name,
                               fmt='o' if fill == 'C0' else 's', mfc=fill)
        if self.curve is not None:
            grid = np.geomspace(x.min(), x.max(), 200)
            fractions.plot(grid, self.curve(grid), 'C0')
        fractions.set_ylim(-0.05, 1.05)
        fractions.set_ylabel('Fraction')
        fractions.legend()
        enough = np.asarray(table['n_recovered']) >= FEWEST_COMPARED
        x, shown = x[enough], table[enough]
        biases.axhline(0.0, color='0.7')
        biases.errorbar(x, 100.0 * shown['flux_bias'],
                        100.0 * shown['flux_scatter'], fmt='o')
        biases.set_ylabel('Flux: bias and scatter [%]')
        pulls.axhspan(-1.0, 1.0, color='0.9')
        for number, name in enumerate(('flux', 'peak')):
            pulls.errorbar(x * 1.03**number, shown[f'{name}_pull_median'],
                           shown[f'{name}_pull_scatter'], fmt='os'[number],
                           label=name)
        pulls.set_ylabel('Pull: median and scatter')
        pulls.legend()
        if len(x) == 0:
            for ax in (biases, pulls):
                ax.text(0.5, 0.5, 'fewer than '
                        f'{FEWEST_COMPARED} recovered sources in each bin',
                        transform=ax.transAxes, ha='center', va='bottom')
        unit = getattr(table['flux'], 'unit', None)
        pulls.set_xlabel('Flux' if unit is None else f'Flux [{unit}]')
        pulls.set_xscale('log')
        # Less than a decade does not have enough space for all labels.
        pulls.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        pulls.xaxis.set_major_formatter(LogFormatterSciNotation(
            labelOnlyBase=False, minor_thresholds=(np.inf, np.inf)))
        pulls.xaxis.set_minor_formatter(NullFormatter())
        return figure

    def __repr__(self) -> str:
        n_found = np.count_nonzero(self.injected['recovered'])
        n_false = np.count_nonzero(self.detections['false'])
        return (f'<{type(self).__name__}({n_found} of {len(self.injected)} '
                f'recovered, {n_false} false, curve={self.curve})>')


def _recover_one(item, work):
    """
    Extract the sources of a map with injected sources, and match them.
    """
    _, batch = item
    sky, known = work['sky'], work['known']
    with (_ONE_AT_A_TIME, one_blas_thread(),
            warnings.catch_warnings(record=True) as caught):
        warnings.simplefilter('always')
        table = _extract(work['extractor'], sky.with_sources(batch),
                         work['given_mask'])
    positions = _positions_of(table)
    n_injected = len(batch['x'])
    targets = np.vstack((np.column_stack((batch['x'], batch['y'])), known))
    # Known sources compete for detections: else one next to a lost source
    # would count as its recovery.
    matched, distance = _match(targets, positions, work['radius'])
    is_known = np.zeros(len(positions), dtype=bool)
    is_known[matched[n_injected:][matched[n_injected:] >= 0]] = True
    is_injected = np.zeros(len(positions), dtype=bool)
    found = matched[:n_injected]
    is_injected[found[found >= 0]] = True
    measured = read_measured(table, sky.unit)
    flags = np.zeros(len(positions), dtype=int)
    if table is not None and 'flags' in table.colnames:
        flags = np.asarray(table['flags'], dtype=int)
    unknown = ~(is_known | is_injected)
    near = np.zeros(len(positions), dtype=bool)
    good = np.isfinite(positions).all(axis=1)
    near[good] = KDTree(targets[:n_injected]).query(
        positions[good])[0] <= _NEAR * sky.fwhm
    return {'found': found, 'distance': distance[:n_injected],
            'positions': positions, 'measured': measured, 'flags': flags,
            'new': ~is_known, 'false': unknown & near,
            'changed': unknown & ~near,
            'warnings': [str(item.message) for item in caught if not
                         issubclass(item.category, NoDetectionsWarning)]}


def _extract(extractor, data, mask):
    """
    Run the extractor without warnings about maps without sources.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NoDetectionsWarning)
        if mask is None:
            return extractor(data)
        return extractor(data, mask=mask)


def _positions_of(table):
    """
    Return the positions of the sources of a table, shape (n, 2).
    """
    if table is None:
        return np.empty((0, 2))
    if not hasattr(table, 'colnames'):
        msg = ('extractor must return a table or None, not '
               f'{type(table).__name__}')
        raise TypeError(msg)
    for names in _POSITIONS:
        if all(name in table.colnames for name in names):
            return np.column_stack([
                np.asarray(table[name], dtype=float) for name in names])
    stated = ' or '.join(', '.join(names) for names in _POSITIONS[:2])
    msg = f'the table of the extractor must have the columns {stated}'
    raise ValueError(msg)


def _match(targets, positions, radius):
    """
    Match one to one, the nearest pairs first.

    Returns the index of the position of each target, -1 for none, and
    their distance.
    """
    matched = np.full(len(targets), -1)
    distances = np.full(len(targets), np.nan)
    good = np.flatnonzero(np.isfinite(positions).all(axis=1))
    usable = np.flatnonzero(np.isfinite(targets).all(axis=1))
    if len(good) == 0 or len(usable) == 0:
        return matched, distances
    # Only pairs within the radius: a full matrix of distances would have
    # as many elements as sources times detections.
    pairs = KDTree(targets[usable]).sparse_distance_matrix(
        KDTree(positions[good]), radius, output_type='ndarray')
    pairs = pairs[np.argsort(pairs['v'], kind='stable')]
    taken = np.zeros(len(positions), dtype=bool)
    for target, position, distance in zip(
            usable[pairs['i']], good[pairs['j']], pairs['v'], strict=True):
        if matched[target] < 0 and not taken[position]:
            matched[target], distances[target] = position, distance
            taken[position] = True
    return matched, distances


def _check_edges(name, edges):
    """
    Check that edges are positive and increase.
    """
    unit = getattr(edges, 'unit', None)
    values = np.asarray(getattr(edges, 'value', edges), dtype=float)
    if (values.ndim != 1 or len(values) < 2 or not values[0] > 0.0
            or not np.all(np.isfinite(values))
            or not np.all(np.diff(values) > 0.0)):
        msg = (f'{name} must be the edges of bins, at least two increasing '
               f'positive numbers: {edges!r}')
        raise ValueError(msg)
    return values if unit is None else values << unit


def _check_fraction(name, value, *, zero=False):
    """
    Check that a number is between 0 and 1.
    """
    if not (isinstance(value, Real) and (
            0.0 < value < 1.0 or (zero and value == 0))):
        lower = 'at least' if zero else 'above'
        msg = f'{name} must be {lower} 0 and below 1: {value!r}'
        raise ValueError(msg)
    return float(value)
