# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The fit of all groups of a map, as batches for the kernel.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from astropy.stats import gaussian_fwhm_to_sigma
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from hyperphotutils.background.rms import box_side, local_rms
from hyperphotutils.background.selection import select_candidate
from hyperphotutils.blend.beams import add_sources
from hyperphotutils.blend.bias import second_order_bias
from hyperphotutils.blend.footprints import (
    MAX_GROUP_PIXELS,
    background_basis,
    core_is_usable,
    disk_offsets,
    make_footprints,
    n_terms,
    nearest_pixel,
    pixel_step,
)
from hyperphotutils.blend.grouping import (
    group_sources,
    renumber_groups,
    split_large_groups,
)
from hyperphotutils.blend.models import fit_with_astropy
from hyperphotutils.blend.quality import fit_quality
from hyperphotutils.blend.solver import (
    AA,
    AB,
    BB,
    N_PARAMS,
    BatchProblem,
    BatchResult,
    X,
    Y,
    evaluate_sources,
    fit_batch,
    solve_linear,
    whiten,
)
from hyperphotutils.blend.start import read_start
from hyperphotutils.blend.weights import SIGNAL_WEIGHTS, pixel_weights
from hyperphotutils.utils.flags import FLAGS
from hyperphotutils.utils.lm import take_members

__all__ = ['FittedBatch', 'JointFit']

# The largest number of elements of the Jacobians of a batch.
_CHUNK_ELEMENTS = 1 << 21
# Tolerance of the iterations over groups. They stop when no parameter changes
# by more than _AT_REST (relative; positions in units of the FWHM).
_COARSE = 1e-3
_AT_REST = 0.02
_MAX_SWEEPS = 4
# The largest number of steps until then: few fits have not converged, and
# they go on later.
_MAX_COARSE_STEPS = 20
_MAX_MERGES = 2
# The smallest amplitude of positive sources in units of the noise.
_LEAST_AMPLITUDE = 0.01
# Groups whose extra standard deviation is below this fraction of the noise
# everywhere ignore it.
_SMALL_EXTRA = 0.05
# Preliminary fits have fewer pixels if this fraction of the variance of a
# pixel is uncorrelated. The inverse covariance of smoother noise amplifies any
# difference between sources and models. A fit of all pixels shows that, so
# that it is known (`Misfit`) before the last fits.
_FOR_FEW_PIXELS = 0.25
# The largest number of elements of the factors of a batch.
_FACTOR_ELEMENTS = 1 << 24
# The largest number of elements of pixels and factors that are kept between
# the fits of the same groups: 128 MiB. Fits of crowded maps are not faster
# with more.
_MAX_KEPT = 1 << 24


@dataclass
class FittedBatch:
    """
    The fitted groups of one batch: ``members`` of shape (g, n) are the rows of
    their sources, and ``centers`` the origins of their background polynomials.

    ``data_power`` is the weighted sum of the squared data, and ``bias`` of
    shape (g, 6 n + k) the noise bias in tangent coordinates, or `None` if it
    is not corrected.
    """

    members: np.ndarray
    centers: np.ndarray
    result: BatchResult
    n_pixels: np.ndarray
    data_power: np.ndarray
    poly_order: int
    bias: np.ndarray | None = None


class _Pixels(NamedTuple):
    """
    The footprints of a batch of groups, the weighted values of the map there,
    and the centers of the backgrounds.

    ``weight``, ``basis``, and ``whitening`` are those of
    `~hyperphotutils.blend.solver.BatchProblem`.
    """

    x: np.ndarray
    y: np.ndarray
    usable: np.ndarray
    col: np.ndarray
    row: np.ndarray
    weight: np.ndarray
    basis: np.ndarray
    data: np.ndarray
    whitening: Any
    centers: np.ndarray


class JointFit:
    """
    The fit of all groups of a map.

    Errors are scaled by the scatter of the residuals if the rms of ``noise``
    is unknown. ``poly_order`` replaces that of ``config``; of several, the
    best is chosen for each group. The other arguments are those of
    ``BlendGroupFitter._fit_image``; the groups of ``preliminary`` fits are not
    merged.
    """

    def __init__(self, config, data, mask, noise, init_params, *,
                 poly_order=None, weight_map=None, extra_variance=None,
                 preliminary=False, pixel_rms=None):
        self.config = config
        self.solver = config.solver
        self.preliminary = preliminary
        self.noise = noise
        self.extra_variance = extra_variance
        self.weight_map = weight_map
        self.rms = noise.weighted_rms
        self.absolute = noise.rms is not None
        self.pixel_rms = pixel_rms
        if poly_order is None:
            poly_order = config.poly_order
        if poly_order is None:
            # CorrelatedNoise.from_image excludes large-scale structure,
            # which a plane must therefore model.
            poly_order = 1
        self.candidates = np.unique(poly_order)
        self.step = 1
        if noise.is_correlated:
            few = preliminary and getattr(
                noise, 'uncorrelated_fraction', 0.0) > _FOR_FEW_PIXELS
            self.step = pixel_step(config.fwhm, config.fit_radius, few=few)
        self.data = data
        self.mask = mask
        self.beam = config.beam
        self.start = read_start(init_params, config.fwhm, self.beam)
        self.var_bounds = tuple(
            (ratio * config.fwhm * gaussian_fwhm_to_sigma)**2
            for ratio in config.fwhm_range)
        if self.beam is not None:
            self.var_bounds = (max(self.var_bounds[0],
                                   self.beam.min_variance),
                               self.var_bounds[1])
        # The degree of the background of each source: first the highest.
        self.poly_order = np.full(len(self.start.x), self.candidates[-1])
        self.flags = np.zeros(len(self.start.x), dtype=int)
        for name in config.fixed:
            self.flags |= FLAGS[f'fixed_{name}']
        self.flags[self.start.hold_shape] |= FLAGS['fixed_shape']
        if self.step > 1:
            self.flags |= FLAGS['thinned']
        known = np.isfinite(self.start.x + self.start.y)
        _, place, number = np.unique(
            np.column_stack((self.start.x, self.start.y))[known], axis=0,
            return_inverse=True, return_counts=True)
        self.flags[known] |= np.where(number[place] > 1,
                                      FLAGS['same_position'], 0)
        usable = core_is_usable(self.start.x, self.start.y, mask, config.fwhm)
        self.flags[~usable] |= FLAGS['off_map']
        self.group_id = self._group()
        # The states of the kernel, inside the bounds.
        self.sources = self.start.states()
        for k, center in ((X, self.start.x), (Y, self.start.y)):
            self.sources[:, k] = np.clip(
                self.sources[:, k], center - config.max_shift,
                center + config.max_shift)
        if 'shape' not in config.fixed:
            self.sources[:, 3:5] = np.clip(self.sources[:, 3:5],
                                           *self.var_bounds)
        self.batches = []
        self._pixels, self._n_kept = {}, 0

    def run(self):
        """
        Fit all groups, each with the models of all others subtracted.

        First the amplitudes are fitted, unless an earlier fit has, then
        all parameters with a coarse tolerance until the groups no longer
        change each other, then with the final tolerance. Groups that
        keep changing each other are merged.
        """
        chunks = list(self._chunks())
        for batch in chunks:
            # An earlier fit may know them.
            members = batch[np.any(self.sources[batch, 0] == 0.0, axis=1)]
            if len(members):
                problem, sources, coeffs, _ = self.make_problem(
                    members, None, batch)
                self.sources[members], _ = solve_linear(problem, sources,
                                                        coeffs)
        model = np.zeros(self.data.shape)
        self._add_models(model, self.sources[self.group_id > 0])
        if not self.absolute and (
                set(SIGNAL_WEIGHTS) & set(self.solver.weights)
                or np.isfinite(self.start.position_prior).any()
                or self.start.positive.any()):
            # Rounding errors; a constant below the sources does not count.
            good = ~self.mask
            extent = (np.max(self.data, where=good, initial=-np.inf)
                      - np.min(self.data, where=good, initial=np.inf))
            self.rms = self.pixel_rms or max(
                local_rms(self.data - model, box_side(self.config.fwhm),
                          mask=self.mask), 1e-6 * extent) or 1.0
        # The iterations of a group depend only on its neighbors, so that
        # tiles of a map give the fits of the whole map.
        touched = every = np.ones(len(self.group_id), dtype=bool)
        for _ in range(_MAX_MERGES + 1):
            near = self._near_others()
            unsettled = self._relax(chunks, model, near, touched)
            if self.preliminary:
                break
            touched = self._merge_groups(near, unsettled)
            if not touched.any():
                break
            self._pixels, self._n_kept = {}, 0
            chunks = list(self._chunks())
        if len(self.candidates) > 1:
            self._choose_orders(chunks, model)
            chunks = list(self._chunks())
            self._relax(chunks, model, near, every)
        shown = chunks
        if self.config.progress_bar:
            from tqdm.auto import tqdm
            # a bar below another one is removed
            shown = tqdm(chunks, desc='Fit source groups', leave=None)
        tolerance = _COARSE if self.preliminary else self.solver.ftol
        self.batches = [self._fit_batch(members, model, tolerance,
                                        with_covariance=True)
                        for members in shown]
        # Nothing is kept from now on.
        self._pixels, self._n_kept = {}, _MAX_KEPT

    def _choose_orders(self, chunks, model):
        """
        Choose the degree of the background of each group; lower ones win
        a tie.
        """
        before = self.sources.copy()
        for members in chunks:
            scores = []
            for order in self.candidates:
                self.poly_order[members] = order
                self.sources[members] = before[members]
                batch = self._fit_batch(members, model, self.solver.ftol,
                                        with_covariance=True)
                n_params = batch.result.covariance.shape[1]
                score = fit_quality(batch, self.absolute)[
                    self.solver.criterion]
                scores.append(np.where(batch.n_pixels > n_params, score,
                                       np.nan))
            best = select_candidate(
                np.array(scores), criterion=self.solver.criterion,
                n_pixels=batch.n_pixels)
            self.poly_order[members] = self.candidates[
                np.maximum(best, 0)][:, None]
        self.sources = before

    def _relax(self, chunks, model, near, touched):
        """
        Fit the groups with touched sources, then those whose neighbors
        have moved, and update the image of all models. Return which
        sources still move, or have turned back.

        All groups of a sweep see the same models (a Jacobi iteration), so
        that results do not depend on their order. Where many sources
        overlap, groups that move at the same time take the same light
        from each other, give it back, and can move farther each time. A
        group that turns back therefore goes half of the way only (damped
        Jacobi; Saad 2003, Iterative Methods for Sparse Linear Systems,
        4.1 and 13.2).
        """
        moved = np.zeros(len(touched), dtype=int)
        unsettled = np.zeros(len(touched), dtype=bool)
        last_step = np.zeros((len(touched), 5))
        for _ in range(_MAX_SWEEPS):
            if not touched.any():
                break
            before, all_fitted = self.sources.copy(), touched.all()
            for batch in chunks:
                members = batch[touched[batch].any(axis=1)]
                if len(members):
                    self._fit_batch(members, model, _COARSE, batch=batch)
            after = self.sources
            scale = np.column_stack((
                np.abs(after[:, 0]),
                np.full((len(after), 2), self.config.fwhm), after[:, 3:5]))
            step = after[:, :5] - before[:, :5]
            moved = np.any(np.abs(step) > _AT_REST * scale,
                           axis=1).astype(int)
            touched = near @ moved > 0
            step /= np.where(scale > 0.0, scale, 1.0)
            ahead = np.bincount(self.group_id,
                                np.sum(step * last_step, axis=1))
            turned = ahead[self.group_id] < 0.0
            after[turned] = _halfway(before[turned], after[turned])
            unsettled |= turned & (moved > 0)
            last_step = step
            if all_fitted:
                # Rounding errors of earlier sweeps go, too.
                fitted = self.group_id > 0
                model[:] = 0.0
            else:
                fitted = np.any(after != before, axis=1)
                self._add_models(model, before[fitted], sign=-1)
            self._add_models(model, after[fitted])
        return unsettled | (moved > 0)

    def _merge_groups(self, near, unsettled):
        """
        Merge neighboring groups whose fits keep changing each other.
        Return the sources of merged groups.
        """
        # Groups that move together are connected components of a graph.
        i, j = near.nonzero()
        pairs = unsettled[i] & unsettled[j]
        n_groups = self.group_id.max(initial=0) + 1
        graph = coo_array(
            (np.ones(pairs.sum()), (self.group_id[i[pairs]],
                                    self.group_id[j[pairs]])),
            shape=(n_groups, n_groups))
        _, part = connected_components(graph, directed=False)
        size = np.bincount(part[self.group_id[self.group_id > 0]],
                           minlength=part.max() + 1)
        # The new group has the smallest number of its parts.
        first = np.full(part.max() + 1, n_groups)
        np.minimum.at(first, part, np.arange(n_groups))
        allowed = size[part] <= self._max_group_size()
        new_id = np.where(allowed, first[part], np.arange(n_groups))
        merged = (np.bincount(new_id)[new_id] > 1)[self.group_id]
        self.group_id = renumber_groups(new_id[self.group_id])
        return merged

    def _near_others(self):
        """
        Return the matrix of the pairs of sources of different groups
        whose models reach into each other's footprints.
        """
        fitted = np.flatnonzero(self.group_id)
        tree = KDTree(np.column_stack((self.start.x, self.start.y))[fitted])
        # Farther than one FWHM from its center, a source adds less than a
        # sixteenth of its peak.
        pairs = fitted[tree.query_pairs(
            self.config.fit_radius + self.config.fwhm, output_type='ndarray')]
        i, j = pairs[self.group_id[pairs[:, 0]]
                     != self.group_id[pairs[:, 1]]].T
        shape = (len(self.group_id),) * 2
        return coo_array((np.ones(2 * len(i), dtype=int),
                          (np.r_[i, j], np.r_[j, i])), shape=shape).tocsr()

    def add_sources(self, image):
        """
        Add the models of all fitted sources to an image.
        """
        for batch in self.batches:
            n_params = batch.result.covariance.shape[1]
            rows = batch.members[batch.n_pixels > n_params]
            self._add_models(image, self.sources[rows.ravel()])

    def _add_models(self, image, sources, sign=1):
        """
        Add the models of some sources, or subtract them.
        """
        amplitude, x, y, var_major, var_minor, theta = sources.T
        add_sources(image, x, y, amplitude,
                    np.sqrt(var_major) / gaussian_fwhm_to_sigma,
                    np.sqrt(var_minor) / gaussian_fwhm_to_sigma,
                    np.rad2deg(theta), beam=self.beam, sign=sign)

    def background_image(self, shape):
        """
        Return the mean of the backgrounds, weighted by the nearness to
        the sources of each; NaN outside of all footprints.
        """
        total = np.zeros(shape)
        norm = np.zeros(shape)
        mask = np.zeros(shape, dtype=bool)
        sigma = self.config.fwhm
        for batch in self.batches:
            pos = batch.result.sources[:, :, X:Y + 1]
            foot = make_footprints(self.start.x[batch.members],
                                   self.start.y[batch.members], mask,
                                   self.config.fit_radius)
            basis = self._basis(foot, batch.centers, batch.poly_order)
            values = (batch.result.coeffs[:, None, :] @ basis)[:, 0]
            distance2 = np.min(
                (foot.x[:, None] - pos[:, :, :1])**2
                + (foot.y[:, None] - pos[:, :, 1:])**2, axis=1)
            near = np.exp(-0.5 * distance2 / sigma**2)
            use = foot.usable & np.isfinite(values)
            pixels = (foot.y[use], foot.x[use])
            np.add.at(total, pixels, (near * values)[use])
            np.add.at(norm, pixels, near[use])
        return np.where(norm > 0.0, total / np.where(norm > 0.0, norm, 1.0),
                        np.nan)

    def _group(self):
        """
        Return the group of each source, 0 for sources not to be fitted.
        """
        usable = (self.flags & FLAGS['off_map']) == 0
        group_id = np.zeros(len(usable), dtype=int)
        x, y = self.start.x[usable], self.start.y[usable]
        if len(x) == 0:
            return group_id
        if self.start.group_id is not None:
            groups = self.start.group_id[usable]
        else:
            groups = group_sources(self.config.grouper, x, y)
        groups, was_split = split_large_groups(
            x, y, groups, self._max_group_size())
        self.flags[np.flatnonzero(usable)[was_split]] |= FLAGS['group_split']
        group_id[usable] = 1 + groups - groups.min()
        return renumber_groups(group_id)

    def _max_group_size(self):
        """
        Return the largest number of sources of a group: the factors of
        correlated noise grow with the square of the number of pixels.
        """
        if not self.noise.is_correlated:
            return self.solver.max_group_size
        n_disk = len(disk_offsets(self.config.fit_radius, self.step)[0])
        return min(self.solver.max_group_size,
                   max(1, MAX_GROUP_PIXELS // n_disk))

    def _chunks(self):
        """
        Yield the rows of groups of equal size and with backgrounds of
        equal degree, a bounded number at once.
        """
        fitted = np.flatnonzero(self.group_id)
        order = fitted[np.argsort(self.group_id[fitted], kind='stable')]
        _, first, size = np.unique(self.group_id[order], return_index=True,
                                   return_counts=True)
        kinds = np.column_stack((size, self.poly_order[order[first]]))
        for n, degree in np.unique(kinds, axis=0):
            same = np.all(kinds == (n, degree), axis=1)
            members = order[first[same][:, None] + np.arange(n)]
            members, n_pixels, n_new = self._sort_by_footprint(members)
            size = np.cumsum(n_pixels * (N_PARAMS * n + n_terms(degree)))
            size_of_factors = np.cumsum(n_new**2)
            part = (size // _CHUNK_ELEMENTS
                    + size_of_factors // _FACTOR_ELEMENTS)
            yield from np.split(members, np.flatnonzero(np.diff(part)) + 1)

    def _sort_by_footprint(self, members):
        """
        Sort groups by their numbers of pixels, those with the same footprint
        next to each other.

        Return the sorted groups, the number of pixels of each, and that of
        each footprint where it is the first of its kind.
        """
        n_pixels = np.empty(len(members), dtype=int)
        kind = np.zeros(len(members), dtype=int)
        kinds = {}
        n_disk = len(disk_offsets(self.config.fit_radius, self.step)[0])
        step = max(1, _CHUNK_ELEMENTS // (members.shape[1] * n_disk))
        for begin in range(0, len(members), step):
            block = slice(begin, begin + step)
            foot = self._footprints(members[block])
            n_pixels[block] = foot.usable.sum(axis=1)
            if not self.noise.is_correlated:
                continue
            shape = np.stack((foot.x - foot.x[:, :1], foot.y - foot.y[:, :1]),
                             axis=2)
            kind[block] = [
                kinds.setdefault(row[:n].tobytes(), len(kinds))
                for row, n in zip(shape, n_pixels[block], strict=True)]
        # Similar numbers of pixels need little padding, and a factor is
        # applied to all neighbors that share it at once.
        order = np.lexsort((kind, n_pixels))
        n_pixels, kind = n_pixels[order], kind[order]
        is_new = np.append(True, np.diff(kind) != 0)
        return members[order], n_pixels, np.where(is_new, n_pixels, 0)

    def _footprints(self, members):
        """
        Return the footprints of some groups.
        """
        return make_footprints(self.start.x[members], self.start.y[members],
                               self.mask, self.config.fit_radius, self.step)

    def make_problem(self, members, model, batch=None):
        """
        Return the problem of the kernel for some groups, with the models of
        all other sources subtracted from ``model``, the initial states and
        coefficients, and the centers of the backgrounds.

        ``batch`` has the groups of the batch that these are a part of.
        """
        config, start = self.config, self.start
        pixels = self._pixels_of(members, batch)
        weight, basis = pixels.weight, pixels.basis
        sources = self.sources[members]
        coeffs = np.zeros(basis.shape[:2])
        data, extra, own = pixels.data * 1.0, None, None
        if model is not None:
            # The image has the models of these groups, too: add them back.
            own = evaluate_sources(sources, pixels.col, pixels.row, weight,
                                   self.beam)
            data -= model[pixels.y, pixels.x] * weight - own
        if self.solver.weights:
            extra = self._extra_weights(members, pixels, own)
            weight, data = weight * extra, data * extra
            basis = basis * extra[:, None, :]
        else:
            data = whiten(pixels.whitening, data[:, None, :])[:, 0]
        low, high = self.var_bounds
        position = np.stack((start.x[members], start.y[members]), axis=2)
        ridge = None
        if self.solver.ridge > 0.0:
            # In units of the errors of the pixels.
            strength = np.sum(weight**2, axis=1) / np.sum(weight > 0, axis=1)
            ridge = (self.solver.ridge * strength[:, None]
                     * np.ones_like(coeffs))
        free = np.ones(sources.shape, dtype=bool)
        if 'position' in config.fixed:
            free[:, :, [X, Y]] = False
        if 'shape' in config.fixed:
            free[:, :, [AA, AB, BB]] = False
        free[:, :, AA:] &= ~start.hold_shape[members][:, :, None]
        free = np.concatenate((free.reshape(len(members), -1),
                               np.ones(coeffs.shape, dtype=bool)), axis=1)
        problem = BatchProblem(
            data, pixels.col, pixels.row, weight, basis, free,
            position - config.max_shift, position + config.max_shift,
            low, high, pixels.whitening, ridge, self.solver.loss,
            self.solver.f_scale, self._position_priors(members),
            self._lowest_amplitudes(members), extra, self.beam)
        return problem, sources, coeffs, pixels.centers

    def _pixels_of(self, members, batch=None):
        """
        Return the pixels of some groups, which do not depend on the fits.

        Those of a whole batch are kept, from which those of its groups
        are taken.
        """
        order = self.poly_order[members[0, 0]]
        batch = members if batch is None else batch
        key = batch.shape, batch.tobytes(), order
        if key in self._pixels:
            pixels = self._pixels[key]
            if len(members) == len(batch):
                return pixels
            index = np.flatnonzero(np.isin(batch[:, 0], members[:, 0]))
            return _Pixels(*take_members(pixels, index))
        foot = self._footprints(members)
        centers = np.rint(np.stack((self.start.x[members].mean(axis=1),
                                    self.start.y[members].mean(axis=1)),
                                   axis=1))
        weight = self.noise.pixel_weights(foot.x, foot.y, foot.usable)
        # Whitening is linear: the basis is whitened once, the data each time
        # that the models of the neighbors change.
        basis = self._basis(foot, centers, order) * weight[:, None, :]
        data = np.where(foot.usable, self.data[foot.y, foot.x], 0.0) * weight
        extra = None
        if self.extra_variance is not None:
            extra = np.sqrt(self.extra_variance[foot.y, foot.x]) * weight
            # Groups without additional noise share factors.
            small = np.max(extra, axis=1) < _SMALL_EXTRA * self.rms
            extra[small] = 0.0
        whitening = self.noise.factors(foot.x, foot.y, foot.usable, extra)
        if not self.solver.weights:
            basis = whiten(whitening, basis)
        pixels = _Pixels(foot.x, foot.y, foot.usable, foot.x.astype(float),
                         foot.y.astype(float), weight, basis, data, whitening,
                         centers)
        if len(members) == len(batch):
            self._n_kept += (weight.size * (basis.shape[1] + 7)
                             + getattr(whitening, 'size', 0))
            if self._n_kept <= _MAX_KEPT:
                self._pixels[key] = pixels
        return pixels

    def _position_priors(self, members):
        """
        Return the priors on the positions of some groups, or None.
        """
        start = self.start
        sigma = start.position_prior[members]
        if not np.isfinite(sigma).any():
            return None
        # Without errors chi2 is in units of the data.
        weight = (1.0 if self.absolute else self.rms**2) / sigma**2
        return np.stack((start.x[members], start.y[members], weight), axis=2)

    def _lowest_amplitudes(self, members):
        """
        Return the lower bounds of the amplitudes, or None.

        They are a small fraction of the noise, not zero: without an
        amplitude, positions and shapes are undetermined.
        """
        start, (ny, nx) = self.start, self.data.shape
        if not start.positive.any():
            return None
        col = np.clip(nearest_pixel(start.x[members], nx), 0, nx - 1)
        row = np.clip(nearest_pixel(start.y[members], ny), 0, ny - 1)
        weight = self.noise.pixel_weights(col, row, ~self.mask[row, col])
        noise = self.rms / np.where(weight > 0.0, weight, 1.0)
        return np.where(start.positive[members], _LEAST_AMPLITUDE * noise,
                        -np.inf)

    def _extra_weights(self, members, foot, own):
        """
        Return the factors of the residuals of some groups.

        The signal is taken from the models fitted so far, because
        weights derived from the noisy data would bias the fit.
        """
        config = self.config
        snr = np.zeros(foot.x.shape) if own is None else own / self.rms
        distance = weight_map = None
        if 'spatial' in self.solver.weights:
            distance = np.min(np.hypot(
                foot.x[:, None, :] - self.start.x[members][:, :, None],
                foot.y[:, None, :] - self.start.y[members][:, :, None]),
                axis=1) / config.fwhm
        if self.weight_map is not None:
            weight_map = self.weight_map[foot.y, foot.x]
        return pixel_weights(self.solver.weights, foot.usable, snr=snr,
                             distance=distance, weight_map=weight_map,
                             power=self.solver.weight_power)

    def _basis(self, foot, centers, order):
        """
        Return the background terms at the pixels of footprints.
        """
        return background_basis(foot.x, foot.y, *centers.T,
                                self.config.fit_radius, order)

    def _fit_batch(self, members, model, tolerance, *, batch=None,
                   with_covariance=False):
        """
        Fit some groups and update the state of their sources.
        """
        solver = self.solver
        problem, sources, coeffs, centers = self.make_problem(
            members, model, batch)
        if solver.astropy_fitter is None:
            max_iter = solver.max_iter
            if not with_covariance:
                max_iter = min(max_iter, _MAX_COARSE_STEPS)
            result = fit_batch(problem, sources, coeffs, max_iter=max_iter,
                               tolerance=tolerance, xtol=solver.xtol,
                               gtol=solver.gtol,
                               with_covariance=with_covariance,
                               evaluate_last=with_covariance,
                               newton=tolerance < _COARSE,
                               linear_start=True)
        else:
            sources, coeffs = solve_linear(problem, sources, coeffs)
            result = fit_with_astropy(solver.astropy_fitter, problem,
                                      sources, coeffs, centers,
                                      self.config.fit_radius)
        self.sources[members] = result.sources
        data = problem.data
        if problem.extra is not None:
            data = np.divide(data, problem.extra, out=np.zeros_like(data),
                             where=problem.extra > 0.0)
            data = whiten(problem.whitening, data[:, None, :])[:, 0]
        with_bias = (solver.bias_correction and solver.loss == 'linear'
                     and problem.extra is None
                     and result.covariance is not None)
        return FittedBatch(
            members, centers, result,
            np.sum(problem.weight > 0.0, axis=1),
            np.sum(data**2, axis=1), int(self.poly_order[members[0, 0]]),
            second_order_bias(problem, result) if with_bias else None)


def _halfway(before, after):
    """
    Return the states halfway between two states of sources: the means of the
    amplitudes, of the positions, and of the matrices of the ellipses.
    """
    middle = 0.5 * (before + after)
    # A shape that is held keeps all bits.
    differ = np.any(before[:, 3:] != after[:, 3:], axis=1)
    var_a, var_b, theta = np.stack((before[differ], after[differ]))[..., 3:].T
    mean = np.mean(0.5 * (var_a + var_b), axis=1)
    # Half the difference of the variances, along twice the angle.
    stretch = np.mean(0.5 * (var_a - var_b) * np.exp(2j * theta), axis=1)
    size = np.abs(stretch)
    middle[differ, 3:] = np.column_stack(
        (mean + size, mean - size, 0.5 * np.angle(stretch)))
    middle[~differ, 3:] = after[~differ, 3:]
    return middle
