# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fits of many galaxies, each with its neighbors, in batches.
"""

import numpy as np
from astropy.stats import gaussian_sigma_to_fwhm

from hyperphotutils.galaxy.grid import Models, match_grid
from hyperphotutils.galaxy.mixture import INDEX_RANGE
from hyperphotutils.galaxy.render import coordinates_of, make_kernel, render
from hyperphotutils.galaxy.solver import (
    FLUX,
    G_RADIAL,
    G_TANGENTIAL,
    N_PARAMS,
    NU,
    RHO,
    GalaxyProblem,
    X,
    Y,
    covariance_of,
)
from hyperphotutils.galaxy.targets import (
    find_neighbors,
    mask_others,
    stamp_index,
)
from hyperphotutils.galaxy.transforms import core_sigma, sample_psf
from hyperphotutils.utils.flags import FLAGS
from hyperphotutils.utils.lm import minimize_batch

__all__ = ['GalaxyFit', 'StartGrid', 'fwhm_of', 'sky_basis', 'to_numpy']

# Side of the window in which the first models are compared, in steps (odd).
# A step is the smallest odd number of pixels with which the window is at
# least this part of the stamp.
_START_SIZE = 41
_START_PART = 0.6
# Initial Sersic index of neighbors, and their radius if it is unknown.
_NEIGHBOR_INDEX = 1.0
_NEIGHBOR_RADIUS = 1.0
# Largest distance of fitted positions from the initial ones, in pixels; that
# of a target with a segment is the radius of its half-light area, but at
# least a FWHM: a fit that leaves its segment follows a neighbor or the sky.
_MAX_SHIFT = 5.0
_MAX_NEIGHBOR_SHIFT = 3.0
# Initial radius of a neighbor, relative to the radius of the half-light area
# of its segment.
_NEIGHBOR_SHRINK = 0.6
# Neighbors below the first signal-to-noise ratio have a fixed index, those
# below the second also a fixed shape: a noise peak with a free shape would
# absorb light of the target's wings.
_FREE_INDEX_SNR = 15.0
_FREE_SHAPE_SNR = 8.0
# The part of the light of a galaxy on pixels that are not fitted, above which
# it is flagged: on pixels that are bad or off the image, and on those of
# other sources.
_MISSING_PART, _MASKED_PART = 0.01, 0.05
# The mask of a neighbor without a segment: its radius in FWHM.
_MASK_RADIUS = 2.0
# Smallest elongation: round sources have no direction.
_MIN_ELONGATION = 1e-3
_MAX_START_ELONGATION = 0.999
# Tolerance for values at their bounds.
_AT_BOUND = 1e-6
_UNRESOLVED = 0.25


class StartGrid:
    """
    The models with which fits begin: by default 600, with n inside
    ``n_bounds``; ``theta`` is in degrees.
    """

    def __init__(self, psf, size, n=None, r_eff=None, q=None, theta=None, *,
                 n_bounds=INDEX_RANGE):
        self.step = step = int(
            2 * np.ceil(0.5 * (_START_PART * size / _START_SIZE - 1.0)) + 1)
        self.size = min(_START_SIZE, (size // step - 1) // 2 * 2 + 1)
        fwhm = fwhm_of(psf)
        if n is None:
            n = np.unique(np.clip([0.8, 2.0, 5.0], *n_bounds))
        if r_eff is None:
            r_eff = np.geomspace(0.15 * fwhm, size / 5.0, 8)
        q = np.array([1.0, 0.7, 0.42, 0.2]) if q is None else q
        theta = np.arange(8) * 22.5 if theta is None else theta
        shapes = [(ratio, angle) for ratio in q
                  for angle in (theta if ratio < 1.0 else theta[:1])]
        self.params = np.array([
            (index, radius, ratio, angle) for index in n
            for radius in r_eff for ratio, angle in shapes])
        self.radii = np.min(r_eff), np.max(r_eff)
        n, r_eff, q, theta = self.params.T
        center = float(self.size // 2)
        if step > 1:
            # the PSF for pixels of ``step`` times the side: the central block
            # is centered on the central pixel
            samples, oversampling = sample_psf(psf)
            first = samples.shape[-1] // 2 % oversampling
            image = samples[0, first::oversampling, first::oversampling]
            half = (len(image) // 2 + step // 2) // step + 1
            side = step * (2 * half + 1)
            image = np.pad(image, (side - len(image)) // 2)
            psf = image.reshape(2 * half + 1, step, -1, step).sum((1, 3))
            psf /= psf.sum()
        # a start need not be exact
        kernel = make_kernel(psf, self.size,
                             dtype='float32')._replace(thin=None)
        coords = coordinates_of(center, center, r_eff / step, n, q,
                                np.deg2rad(theta))
        self.models = np.concatenate([
            render(kernel, part).reshape(len(part), -1)
            for part in np.array_split(coords, 1 + len(coords) // 64)])

    def match(self, data, weight, *, fit_sky):
        """
        Return n, r_eff, q, theta (degrees), chi2, and the flux of the best
        model of each stamp.

        ``data`` and ``weight`` (inverse standard deviations) are windows of
        ``size * step`` pixels centered on the targets.
        """
        n_stamps = len(data)
        # the weighted means of the pixels of each step
        blocks = (n_stamps, self.size, self.step, self.size, self.step)
        weight = weight**2
        light = np.sum((weight * data).reshape(blocks), axis=(2, 4))
        weight = np.sum(weight.reshape(blocks), axis=(2, 4))
        data = light / np.where(weight > 0.0, weight, 1.0)
        match = match_grid(
            Models(self.models), data.reshape(n_stamps, -1).astype('f4'),
            weight.reshape(n_stamps, -1).astype('f4'), fit_sky=fit_sky)
        # sources are brighter than the sky unless nothing else fits
        chi2 = np.where(match.flux > 0.0, match.chi2, match.chi2.max() + 1.0)
        best = np.argmin(chi2, axis=1)
        rows = np.arange(n_stamps)
        return np.column_stack([
            self.params[best], match.chi2[rows, best],
            match.flux[rows, best] * self.step**2])


class GalaxyFit:
    """
    The fits of a call of `~hyperphotutils.galaxy.SersicFitter`, which is
    ``config``.

    ``grid`` is `None` if the fits begin elsewhere, ``kernel`` if the PSF
    varies.
    """

    def __init__(self, config, stamps, targets, grid, kernel):
        self.config = config
        self.stamps = stamps
        self.targets = targets
        self.grid = grid
        self.kernel = kernel
        self.fwhm = fwhm_of(config.psf)
        rows = np.flatnonzero(targets.is_target)
        n_rows = len(rows)
        self.rows = rows
        self.flags = np.zeros(n_rows, dtype=int)
        self.params = np.full((n_rows, N_PARAMS), np.nan)
        self.start = np.full((n_rows, N_PARAMS), np.nan)
        self.errors = np.full((n_rows, N_PARAMS), np.nan)
        self.covariance = np.full((n_rows, N_PARAMS, N_PARAMS), np.nan)
        self.grid_params = np.full((n_rows, 6), np.nan)
        self.columns = {name: np.full(n_rows, np.nan) for name in (
            'sky_fit', 'sky_err', 'chi2', 'reduced_chi2', 'snr',
            'flux_stamp_fit')}
        self.columns |= {name: np.zeros(n_rows, dtype=int) for name in (
            'n_pixels_fit', 'n_iterations', 'group_size')}
        # all that was fitted on each stamp: fluxes, coordinates, sky
        self.solutions = {}

    def run(self):
        """
        Fit all targets.
        """
        targets, rows = self.targets, self.rows
        x, y = targets.x[rows], targets.y[rows]
        ny, nx = self.stamps.data.shape[1:]
        known = np.isfinite(x) & np.isfinite(y)
        inside = known & (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (
            y < ny - 0.5)
        self.flags[~known] |= FLAGS['no_position']
        self.flags[known & ~inside] |= FLAGS['off_map']
        todo = np.flatnonzero(inside)
        neighbors = find_neighbors(
            targets, self.stamps, rows[todo], self.config.max_neighbors
            if self.config.neighbors == 'fit' else 0)
        numbers = np.array([len(others) for others in neighbors], dtype=int)
        for number in np.unique(numbers):
            same = np.flatnonzero(numbers == number)
            # about the same memory for any number of neighbors
            length = max(1, self.config.batch // (1 + number))
            for low in range(0, len(same), length):
                part = same[low:low + length]
                self._fit_batch(todo[part], np.stack(
                    [neighbors[k] for k in part]))

    def _fit_batch(self, part, neighbors):
        """
        Fit the targets ``part`` with the same number of neighbors.
        """
        config, targets = self.config, self.targets
        own = self.rows[part]
        x0, y0 = self.stamps.origin(targets.x[own], targets.y[own])
        data, weight, labels = self.stamps.cut(targets.plane[own], x0, y0)
        missing = weight == 0.0
        others, masked = mask_others(
            targets, own, neighbors, labels, x0, y0, self.stamps.size,
            _MASK_RADIUS * self.fwhm)
        if config.neighbors == 'ignore':
            masked = np.zeros_like(masked)
        weight = np.where(masked, 0.0, weight)
        coords, low, high = self._begin(part, own, neighbors, x0, y0, others)
        noise = 1.0 / np.maximum(np.median(weight, axis=(1, 2)), 1e-300)
        # the noise of the sum over the segment of a neighbor, of which
        # ``radius`` holds half of the area
        area = 2.0 * np.pi * targets.radius[neighbors]**2
        snr = targets.flux[neighbors] / (noise[:, None] * np.sqrt(area))
        free = np.ones((*coords.shape[:2], N_PARAMS), dtype=bool)
        shape = [RHO, G_RADIAL, G_TANGENTIAL]
        free[:, 1:, NU] = ~(snr < _FREE_INDEX_SNR)
        free[:, 1:, shape] = ~(snr < _FREE_SHAPE_SNR)[:, :, None]
        for name, index in (('position', [X, Y]), ('shape', shape),
                            ('n', [NU])):
            if name in config.fixed:
                free[:, 0, index] = False
        if config.n_bounds[0] == config.n_bounds[1]:
            free[:, 0, NU] = False
        sky = np.ones((len(part), _N_SKY[config.sky]), dtype=bool)
        free = np.concatenate((free.reshape(len(part), -1), sky), axis=1)
        n_pixels = np.count_nonzero(weight, axis=(1, 2))
        few = n_pixels <= free.sum(axis=1)
        self._flag(part, 'too_few_pixels', few)
        self.columns['n_pixels_fit'][part] = n_pixels
        self.columns['group_size'][part] = coords.shape[1]
        if not few.all():
            self._solve(*(array[~few] for array in (
                part, own, coords, free, low, high, data, weight, missing,
                masked)))

    def _begin(self, part, own, neighbors, x0, y0, others):
        """
        Return the first coordinates, and the bounds of x, y, rho, the
        elongation, and nu.
        """
        config, targets = self.config, self.targets
        x, y = targets.x[own] - x0, targets.y[own] - y0
        if config.start == 'grid':
            side = self.grid.size * self.grid.step
            left, low = (np.floor(place + 0.5).astype(int) - side // 2
                         for place in (x, y))
            data, weight, _ = self.stamps.cut(
                targets.plane[own], left + x0, low + y0, side)
            # a grid has one source: others are masked here, even if they are
            # fitted later
            index, _ = stamp_index(np.arange(len(own)), left, low, side,
                                   others.shape)
            weight = weight * ~others[index]
            params = self.grid.match(data, weight,
                                     fit_sky=config.sky != 'none')
            self.grid_params[part] = params
            n, r_eff, q, theta = params[:, :4].T.copy()
        else:
            n, r_eff, q, theta = (np.full(len(own), value)
                                  for value in (1.0, self.fwhm, 0.8, 0.0))
        for name, column in zip(('n', 'r_eff', 'q', 'theta'),
                                (n, r_eff, q, theta), strict=True):
            given = targets.init.get(name)
            held = 'shape' if name != 'n' else 'n'
            if given is not None and (config.start == 'init'
                                      or held in config.fixed):
                column[:] = np.where(np.isfinite(given[own]), given[own],
                                     column)
        n = np.clip(n, *config.n_bounds)
        q = np.clip(q, config.q_min, _MAX_START_ELONGATION)
        r_eff = np.maximum(r_eff, 1e-3)
        theta = np.deg2rad(theta)
        # the flux of the grid, NaN without one
        self.start[part] = np.column_stack([
            self.grid_params[part, 5], x + x0, y + y0, r_eff, n, q, theta])
        known = targets.radius[neighbors]
        radius = np.where(np.isfinite(known), _NEIGHBOR_SHRINK * known,
                          _NEIGHBOR_RADIUS)
        coords = np.concatenate((
            coordinates_of(x, y, r_eff, n, q, theta)[:, None],
            coordinates_of(
                targets.x[neighbors] - x0[:, None],
                targets.y[neighbors] - y0[:, None],
                np.clip(radius, 0.5, 4.0), _NEIGHBOR_INDEX, 0.95, 0.0)),
            axis=1)
        r_min, r_max = config.r_e_bounds
        bounds = np.empty((2, *coords.shape[:2], 5))
        radius = targets.radius[own]
        shift = np.full(coords.shape[:2], _MAX_NEIGHBOR_SHIFT)
        shift[:, 0] = np.where(np.isfinite(radius),
                               np.fmax(radius, self.fwhm), _MAX_SHIFT)
        bounds[..., :2] = coords[:, :, :2] + np.multiply.outer(
            [-1.0, 1.0], shift)[..., None]
        bounds[..., 2] = np.log([[[r_min]], [[r_max or self.stamps.size]]])
        bounds[..., 3] = [[[0.0]], [[-np.log(config.q_min)]]]
        bounds[:, :, :1, 4] = np.log(config.n_bounds)[:, None, None]
        bounds[:, :, 1:, 4] = np.log(INDEX_RANGE)[:, None, None]
        coords[:, :, 2] = np.clip(coords[:, :, 2], *bounds[..., 2])
        return coords, *bounds

    def _solve(self, part, own, coords, free, low, high, data, weight,
               missing, masked):
        """
        Fit a batch and keep its results.
        """
        config, size = self.config, self.stamps.size
        n_groups, n_sources, _ = coords.shape
        xp, real = config.namespace, getattr(config.namespace, config.dtype)
        device = config.device
        kernel = self.kernel
        if kernel is None:
            kernel = make_kernel(
                config.psf, size, x=self.targets.x[own],
                y=self.targets.y[own], dtype=config.dtype, xp=xp,
                device=device).take(xp.asarray(
                    np.repeat(np.arange(n_groups), n_sources),
                    device=device))
        basis = sky_basis(config.sky, size)

        def array(value, dtype=xp.float64):
            return xp.asarray(np.ascontiguousarray(value), dtype=dtype,
                              device=device)

        weight = weight.reshape(n_groups, -1)
        problem = GalaxyProblem(
            kernel, array(data.reshape(n_groups, -1) * weight, real),
            array(weight, real), array(basis * weight[:, None, :], real),
            array(free, xp.bool), array(low), array(high),
            None if config.prior is None else array(config.prior),
            config.loss)
        fluxes_and_sky = np.zeros((n_groups, n_sources + len(basis)))
        result = minimize_batch(problem, (array(fluxes_and_sky),
                                          array(coords)),
                                max_iter=config.max_iterations)
        linear, coords = (to_numpy(value) for value in result.state)
        chi2, normal = (to_numpy(value) for value in result.terms[:2])
        covariance = to_numpy(covariance_of(
            result.state[1], result.terms[1], problem.free))
        images = to_numpy(render(kernel.take(xp.arange(n_groups)
                                             * n_sources),
                                 result.state[1][:, 0, :]))
        light = np.sum(images, axis=(1, 2))
        self._store(part, own, linear, coords, chi2, normal, covariance,
                    free, light)
        self.columns['n_iterations'][part] = to_numpy(result.n_iter)
        self._flag(part, 'no_convergence', ~to_numpy(result.converged))
        for name, pixels, limit in (
                ('n_pixels_fit_partial', missing, _MISSING_PART),
                ('neighbor_masked', masked, _MASKED_PART)):
            self._flag(part, name, (
                np.sum(images * pixels, axis=(1, 2)) > limit * light))
        first, low, high = coords[:, 0], low[:, 0], high[:, 0]
        value = np.column_stack([
            first[:, :3], np.hypot(first[:, 3], first[:, 4]), first[:, 5]])
        # a round source is not at a bound: g is 0 inside its domain
        low[:, 3] = -1.0
        self._flag(part, 'near_bound', np.any(
            free[:, [X, Y, RHO, G_RADIAL, NU]]
            & ((value <= low + _AT_BOUND) | (value >= high - _AT_BOUND)),
            axis=1))

    def _store(self, part, own, linear, coords, chi2, normal, covariance,
               free, light):
        """
        Fill in the results of a batch.
        """
        n_sources = coords.shape[1]
        first = coords[:, 0]
        x0, y0 = self.stamps.origin(self.targets.x[own],
                                    self.targets.y[own])
        size = np.hypot(first[:, 3], first[:, 4])
        flux = linear[:, 0]
        fitted = np.isfinite(chi2) & np.isfinite(first).all(axis=1)
        self._flag(part, 'non_finite_flux', ~fitted)
        self.params[part] = np.where(fitted[:, None], np.column_stack([
            flux, first[:, 0] + x0, first[:, 1] + y0,
            np.exp(first[:, 2] + 0.5 * size), np.exp(first[:, 5]),
            np.exp(-size), 0.5 * np.arctan2(first[:, 4], first[:, 3])]),
            np.nan)
        own_covariance = covariance[:, :N_PARAMS, :N_PARAMS]
        self.covariance[part] = own_covariance
        variance = np.diagonal(own_covariance, axis1=1, axis2=2)
        self.errors[part] = np.sqrt(np.maximum(variance, 0.0))
        self._flag(part, 'no_covariance',
                   ~np.isfinite(variance).all(axis=1))
        if n_sky := linear.shape[1] - n_sources:
            # the sky at the position of the target
            terms = _sky_terms(self.config.sky, first[:, 0], first[:, 1],
                               self.stamps.size)
            sky = np.sum(terms * linear[:, n_sources:], axis=1)
            block = covariance[:, -n_sky:, -n_sky:]
            error = np.einsum('gi,gij,gj->g', terms, block, terms)
            self.columns['sky_fit'][part] = sky
            self.columns['sky_err'][part] = np.sqrt(np.maximum(error, 0.0))
        # bounds and priors take no degree of freedom
        dof = self.columns['n_pixels_fit'][part] - free.sum(axis=1)
        self.columns['chi2'][part] = chi2
        self.columns['reduced_chi2'][part] = chi2 / dof
        # with all else fixed: that of an optimally weighted sum
        self.columns['snr'][part] = flux * np.sqrt(normal[:, FLUX, FLUX])
        self.columns['flux_stamp_fit'][part] = flux * light
        r_eff, error = self.params[part, 3], self.errors[part, 3]
        self._flag(part, 'unresolved', fitted & (
            (r_eff < _UNRESOLVED * self.fwhm) | (error > r_eff)))
        self._flag(part, 'too_large', r_eff > 0.25 * self.stamps.size)
        if self.grid is not None:
            small, large = self.grid.radii
            start = self.grid_params[part, 1]
            self._flag(part, 'grid_edge', (
                ((start <= small) & (r_eff < small))
                | ((start >= large) & (r_eff > large))))
        for k, i in enumerate(part):
            self.solutions[i] = (linear[k, :n_sources], coords[k],
                                 linear[k, n_sources:], x0[k], y0[k])

    def _flag(self, part, name, chosen):
        self.flags[part] |= np.where(chosen, FLAGS[name], 0)


_N_SKY = {'none': 0, 'constant': 1, 'plane': 3}


def fwhm_of(psf):
    """
    Return the full width at half maximum of a PSF in pixels.
    """
    samples, oversampling = sample_psf(psf)
    return core_sigma(samples[0], oversampling) * gaussian_sigma_to_fwhm


def to_numpy(array):
    """
    Return an array of any library, on any device, as a numpy array.
    """
    if hasattr(array, 'cpu'):
        array = array.cpu()
    if hasattr(array, 'get'):
        array = array.get()
    return np.asarray(array)


def _sky_terms(kind, x, y, size):
    """
    Return the terms of the sky at positions, shape (n, n_terms).
    """
    center = 0.5 * (size - 1)
    terms = [np.ones_like(x), (x - center) / size, (y - center) / size]
    return np.stack(terms[:_N_SKY[kind]], axis=-1)


def sky_basis(kind, size):
    """
    Return the terms of the sky on a stamp, shape ``(n_terms, size**2)``;
    ``kind`` is ``'none'``, ``'constant'``, or ``'plane'``.
    """
    if kind == 'none':
        return np.zeros((0, size * size))
    y, x = np.mgrid[:size, :size].reshape(2, -1).astype(float)
    return _sky_terms(kind, x, y, size).T
