# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Alternating fits of a PSF and its stars, with the rejection of other
sources and the choice of the order of the polynomial.
"""

import warnings
from dataclasses import replace
from itertools import product

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning

from hyperphotutils.psf.empirical import EmpiricalPSF
from hyperphotutils.psf.flags import STAR_FLAGS
from hyperphotutils.psf.grid import (
    SplineGrid,
    cubic_bspline,
    polynomial_powers,
    polynomial_terms,
)
from hyperphotutils.psf.moffat import fit_moffat, moffat_images
from hyperphotutils.psf.stars import (
    MIN_STARS,
    FieldModel,
    TooFewStarsError,
    fit_stars,
)
from hyperphotutils.utils import result_meta

__all__ = ['PSFFit']

# Start value of the FWHM where the table of stars has none (pixels).
_START_FWHM = 3.0

# The baseline is fitted to the brightest stars, at most this number.
_MAX_BASELINE_STARS = 60

# Error of the PSF as a fraction: for the weights of pixels, and for the
# rejection of pixels and stars in the first rounds and from then on.
_PROFILE_ERROR = 0.01
_MODEL_ERRORS = (0.3, 0.1, 0.05, 0.03)

# Steps of the first fit of the stars, until it is clear which pixels are
# cosmic rays and companions.
_FIRST_STEPS = 6

# Intrinsic scatter of the excess variance (in units of the squared FWHM), and
# limits in units of the error: for galaxies and blends, and for cosmic rays.
_EXCESS_SCATTER = (0.0025, 0.0033)
_EXCESS_LIMITS = (2.5, -4.0)

# Number of random realizations of the PSF from which its error is estimated.
_N_DRAWS = 32

# No source is narrower than a star, so that stars have the lowest excess
# variances. This weighted quantile is taken as that of the stars.
_QUANTILE = 0.25

# Folds of the cross-validation, and the highest order that is tried.
_FOLDS = 5
_MAX_ORDER = 2
_STARS_PER_TERM = 3

# Among fewer stars, the median does not show which one differs.
_FEW_STARS = 4

# What to change if stars are rejected for these reasons.
_REMEDIES = {'bad_fit': 'raise max_star_chi2 (now {:g}) or check error',
             'extended': 'set reject_extended=False',
             'sharp': 'set reject_extended=False'}


class PSFFit:
    """
    One fit: the stars, which of them are used, and the model so far.

    ``pixels`` has the central pixels of the stars, those along x first;
    ``fwhm`` is the start value in pixels or `None`.
    """

    def __init__(self, builder, stars, pixels, shape, fwhm):
        self.builder = builder
        self.stars = stars
        # until the first profile is fitted
        self.fwhm = fwhm or _START_FWHM
        self.grid = SplineGrid(builder.size // 2, builder.oversampling)
        ny, nx = shape
        self.center = 0.5 * (nx - 1), 0.5 * (ny - 1)
        self.scale = max(0.5 * nx, 0.5), max(0.5 * ny, 0.5)
        self.u = (pixels[0] - self.center[0]) / self.scale[0]
        self.v = (pixels[1] - self.center[1]) / self.scale[1]
        self.used = stars.weights.any((1, 2))
        self.flags = np.zeros(len(stars), dtype=int)
        self.order = 0
        self.model = None
        self.validation = None
        self.error = None

    def run(self):
        """
        Fit the stars and the PSF in turn, and reject other sources.
        """
        builder = self.builder
        order = builder.order
        if order is None:
            order = self._choose_order()
        self._check_order(order)
        self._run(order, builder.max_iterations)
        self._check_order(order)
        n_used = np.count_nonzero(self.used)
        if n_used < _FEW_STARS:
            msg = (f'the PSF is made from {n_used} stars: with fewer than '
                   f'{_FEW_STARS}, a galaxy or a blend among them is not '
                   'recognized; check the images of the stars')
            warnings.warn(msg, AstropyUserWarning, stacklevel=3)

    def _check_order(self, order):
        """
        Check that there are as many stars as terms of the polynomial.
        """
        n_terms, n_used = len(polynomial_powers(order)), self.used.sum()
        if n_terms > n_used:
            problem = (f'{n_used} of {len(self.stars)} stars can be used, but '
                       f'a polynomial of order {order} has {n_terms} terms')
            raise TooFewStarsError(problem, 'lower order', ('order',))

    def _run(self, order, n_rounds):
        """
        Fit with a given order, from the beginning.
        """
        self.order = order
        self.stars.terms = polynomial_terms(self.u, self.v, order)
        self.stars.robust = None
        self.used = self.stars.weights.any((1, 2))
        moffat = self._fit_baseline(self.stars.select(self.used))
        self.fwhm = moffat.central_fwhm
        self.model = self._empty_model(moffat)
        for round_ in range(n_rounds + 1):
            model_error = _MODEL_ERRORS[min(round_, len(_MODEL_ERRORS) - 1)]
            fit_stars(self.stars, self.model, model_error=model_error,
                      core=0.75 * self.fwhm, profile_error=(
                          _PROFILE_ERROR, model_error),
                      sky=self.builder.sky is not None,
                      n_steps=_FIRST_STEPS if round_ == 0 else 3)
            self._reject(model_error, first=round_ == 0)
            if round_ == n_rounds:
                break
            self.model = self._solve(
                self.stars.select(self.used), moffat,
                _N_DRAWS if round_ == n_rounds - 1 else 0)

    def _fit_baseline(self, stars):
        """
        Fit the Moffat profile to the brightest stars.
        """
        weights = stars.weights
        if stars.robust is not None:
            weights = weights * (stars.robust > 0)
        signal = ((stars.data * np.sqrt(weights)).clip(0)**2).sum((1, 2))
        best = np.argsort(-signal, kind='stable')[:_MAX_BASELINE_STARS]
        return fit_moffat(stars.data[best], weights[best], stars.x[best],
                          stars.y[best], stars.terms[best], self.fwhm)

    def _empty_model(self, moffat):
        n_terms = self.stars.terms.shape[1]
        return FieldModel(self.grid, moffat, np.zeros(
            (n_terms, self.grid.size, self.grid.size)))

    def _solve(self, stars, moffat, n_draws=0):
        """
        Solve for the splines with given stars and baseline; draws from
        their distribution give the error.
        """
        builder = self.builder
        model = self._empty_model(moffat)
        profile = model.baseline(stars.terms, stars.x, stars.y)
        flux = stars.flux
        # Include the error of the profile: otherwise the few brightest
        # stars would dominate the fit.
        variance = (1.0 / np.maximum(stars.weights, 1e-300)
                    + (_PROFILE_ERROR * flux[:, None, None] * profile)**2)
        weights = np.where(stars.weights > 0, stars.robust / variance, 0.0)
        target = stars.data - stars.sky[:, None, None]
        if builder.baseline is None:
            model = replace(model, moffat=None)
        else:
            target = target - flux[:, None, None] * profile
        # the expected deviations of the coefficients from zero: a part of the
        # profile, so that wings stay positive, and a little of the sky
        radius2 = self.grid.knots[:, None]**2 + self.grid.knots**2
        alpha = moffat.central_alpha
        scale = (moffat.beta - 1.0) / (np.pi * alpha**2) * (
            1.0 + radius2 / alpha**2)**-moffat.beta
        if builder.baseline is not None:
            scale = builder.prior * scale
        scale = scale + 2e-5 * (3.0 / moffat.central_fwhm)**2
        gradient = None
        if builder.tv > 0.0 and self.model.splines.any():
            # the weights of squared differences that make their sum the
            # total variation (iteratively reweighted least squares)
            splines = self.model.splines / scale
            steps = np.zeros_like(scale)
            for axis in (1, 2):
                step = np.diff(splines, axis=axis, append=0.0)
                steps += (step**2).sum(0)
            gradient = builder.tv / (scale**2 * np.sqrt(steps + 1e-4))
        prior = self.grid.prior(scale, builder.smoothness, gradient)
        splines, draws = self.grid.solve(
            target, weights, flux, stars.x, stars.y, stars.terms, prior,
            n_draws=n_draws)
        if builder.sky is not None:
            # A constant added to the PSF is degenerate with the skies of the
            # stars, so that alternating fits converge slowly. Choose the
            # constant that minimizes the prior.
            precision = scale**-2.0
            splines = splines - (
                (splines * precision).sum((1, 2)) / precision.sum())[
                    :, None, None]
        if n_draws:
            place = np.arange(builder.size) - builder.size // 2
            matrix = self._spline_matrix(place)
            self.error = (matrix @ draws[:, 0] @ matrix.T).std(axis=0)
        return replace(model, splines=splines)

    def _reject(self, model_error, *, first=False):
        """
        Choose the stars to use and flag the others.

        The first model is only approximate: sizes are compared from the
        second model on, with limits that get stricter in each round.
        """
        stars = self.stars
        flags = np.zeros(len(stars), dtype=int)
        good = (stars.weights.any((1, 2)) & np.isfinite(stars.chi2)
                & (stars.flux > 0))
        limit = max(2.0 * np.median(stars.chi2[good]),
                    self.builder.max_star_chi2) if good.any() else 0.0
        if first:
            # a Moffat profile leaves a few percent of each bright star
            limit = 4.0 * limit
        flags[~good | (stars.chi2 > limit)] |= STAR_FLAGS['bad_fit']
        like_star = flags == 0
        if self.builder.reject_extended and like_star.any() and not first:
            scatter = self.fwhm**2 * model_error / _MODEL_ERRORS[-1]
            errors = [np.hypot(stars.excess_err, part * scatter)
                      for part in _EXCESS_SCATTER]
            # galaxies are larger than stars: the size of these is a low
            # quantile, weighted by the errors
            values, weights = (stars.excess[like_star],
                               errors[0][like_star]**-2.0)
            order = np.argsort(values)
            total = np.cumsum(weights[order])
            excess = stars.excess - values[order][
                np.searchsorted(total, _QUANTILE * total[-1])]
            for name, error, sigmas in zip(
                    ('extended', 'sharp'), errors, _EXCESS_LIMITS,
                    strict=True):
                beyond = excess * np.sign(sigmas) > abs(sigmas) * error
                flags[good & beyond] |= STAR_FLAGS[name]
        used = flags == 0
        self.flags, self.used = flags, used
        if used.sum() < MIN_STARS:
            counts = {name: np.count_nonzero(flags & STAR_FLAGS[name])
                      for name in _REMEDIES}
            counts = {name: count for name, count in counts.items() if count}
            reasons = ', '.join(f'{count} {name}' for name, count
                                in counts.items())
            problem = (f'only {used.sum()} of {len(stars)} stars are left '
                       f'after the fit of the PSF, at least {MIN_STARS} are '
                       f'needed (rejected: {reasons})')
            remedies = dict.fromkeys(
                _REMEDIES[name].format(self.builder.max_star_chi2)
                for name in counts)
            raise TooFewStarsError(
                problem, ', '.join(remedies)
                + ', or check the selection of stars', counts)

    def _choose_order(self):
        """
        Choose the order by cross-validation.
        """
        n_stars = np.count_nonzero(self.used)
        highest = max((order for order in range(_MAX_ORDER + 1)
                       if len(polynomial_powers(order)) * _STARS_PER_TERM
                       <= n_stars), default=0)
        if highest == 0:
            return 0
        # Reject galaxies and cosmic rays with the highest order, at which
        # the variation of the PSF cannot be mistaken for them.
        self._run(highest, 2)
        stars = self.stars.select(self.used)
        # Assign the folds by brightness, so that each has bright stars.
        signal = stars.flux * np.sqrt(stars.weights.max((1, 2)))
        fold = np.empty(len(signal), dtype=int)
        fold[np.argsort(-signal, kind='stable')] = (
            np.arange(len(signal)) % min(_FOLDS, len(signal)))
        # chi-squared of each star from a PSF that is made without it
        scores = np.empty((highest + 1, len(stars)))
        for order, number in product(range(highest + 1),
                                     range(fold.max() + 1)):
            stars.terms = polynomial_terms(
                self.u[self.used], self.v[self.used], order)
            omitted = fold == number
            train, test = stars.select(~omitted), stars.select(omitted)
            model = self._solve(train, self._fit_baseline(train))
            fit_stars(test, model, model_error=_MODEL_ERRORS[-1],
                      core=0.75 * self.fwhm,
                      sky=self.builder.sky is not None, n_steps=2,
                      chi2_radius=2.0 * self.fwhm)
            scores[order, omitted] = test.chi2
        # limit the influence of a single bad star
        scores = np.minimum(scores, 3.0 * np.median(scores, axis=1,
                                                    keepdims=True))
        self.validation = scores.mean(axis=1)
        best = int(np.argmin(self.validation))
        # Choose the lowest order that is as good as the best one within the
        # error (the one-standard-error rule, Breiman et al. 1984).
        for order in range(best):
            difference = scores[order] - scores[best]
            error = difference.std(ddof=1) / np.sqrt(len(difference))
            if difference.mean() <= error:
                return order
        return best

    def norms(self):
        """
        Return the sum of the model's images, at all stars.
        """
        zero = np.zeros(len(self.stars))
        return self.model.images(self.stars.terms, zero, zero)[0].sum((1, 2))

    def make_psf(self, table, builder):
        """
        Make the PSF: sample the model at some positions and express the
        samples by a polynomial.

        The Moffat profile is not a polynomial in the position, so that the
        order is higher by 2; the error is then below 1e-3 of the peak
        (verified by a test).
        """
        # odd, so that samples lie at the pixel centers
        sampling = 3 if self.grid.oversampling == 1 else (
            2 * self.grid.oversampling + 1)
        order = self.order and self.order + 2
        nodes = np.cos(np.pi * (np.arange(order + 1) + 0.5) / (order + 1))
        u, v = (value.ravel() for value in np.meshgrid(nodes, nodes))
        # sample the model finely; each sample is integrated over a pixel
        terms = polynomial_terms(u, v, self.order)
        half = (self.builder.size * sampling - 1) // 2
        place = np.arange(-half, half + 1) / sampling
        matrix = self._spline_matrix(place)
        splines = np.tensordot(terms, self.model.splines, 1)
        samples = matrix @ splines @ matrix.T
        moffat = self.model.moffat
        if moffat is not None:
            zero = np.zeros(len(terms))
            samples += moffat_images(moffat.shapes(terms), moffat.beta, zero,
                                     zero, place, place)
        samples /= samples.sum((1, 2), keepdims=True) / sampling**2
        terms = polynomial_terms(u, v, order)
        coefficients = np.linalg.lstsq(
            terms, samples.reshape(len(u), -1), rcond=None)[0]
        meta = {'order': self.order, **result_meta(builder)}
        if self.validation is not None:
            meta['cross_validation'] = [float(value)
                                        for value in self.validation]
        stars = self.stars
        profile = self.model.images(stars.terms, stars.x, stars.y)[0]
        residuals = np.where(
            stars.weights > 0, stars.data - stars.sky[:, None, None]
            - stars.flux[:, None, None] * profile, np.nan)
        return EmpiricalPSF(
            coefficients.reshape(-1, *samples.shape[1:]),
            oversampling=sampling, center=self.center, scale=self.scale,
            stars=table, meta=meta, error=self.error,
            star_images=np.where(stars.weights > 0, stars.data,
                                 np.nan).astype(np.float32),
            residuals=residuals.astype(np.float32))

    def _spline_matrix(self, place):
        """
        Return the matrix from spline coefficients to values.
        """
        return cubic_bspline((place[:, None] - self.grid.knots)
                             * self.grid.oversampling)
