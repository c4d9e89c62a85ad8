# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Builder of an empirical PSF from stars.
"""

from dataclasses import replace

import numpy as np
from astropy.table import QTable, Table

from hyperphotutils.noise import clipped_rms
from hyperphotutils.psf.empirical import EmpiricalPSF
from hyperphotutils.psf.flags import STAR_FLAGS, decode_star_flags
from hyperphotutils.psf.grid import (
    SplineGrid,
    polynomial_powers,
    polynomial_terms,
)
from hyperphotutils.psf.moffat import fit_moffat, moffat_images
from hyperphotutils.psf.moments import cut_out
from hyperphotutils.psf.stars import FieldModel, StarImages, fit_stars
from hyperphotutils.utils import (
    as_masked_image,
    check_positive,
    integrated_unit,
    make_repr,
    open_nddata,
    result_meta,
    strip_units,
)

__all__ = ['EmpiricalPSFBuilder']

# The baseline is fitted to so many stars, the brightest.
_MAX_BASELINE_STARS = 60

# Error of the PSF as a fraction: for the weights of pixels, and for the
# rejection of pixels and stars in the first rounds and from then on.
_PROFILE_ERROR = 0.01
_MODEL_ERRORS = (0.3, 0.1, 0.05, 0.03)

# Steps of the first fit of the stars, until it is clear which pixels are
# cosmic rays and companions.
_FIRST_STEPS = 6

# Excess variance (in squared FWHM of 3 pixels, 9 pixels squared) that no
# noise explains, and limits in units of its error: for galaxies and
# blends, and for cosmic rays.
_EXCESS_SCATTER = (0.015 / 9.0, 0.02 / 9.0)
_EXCESS_LIMITS = (2.5, -4.0)

# Draws from the distribution of the PSF that give its error.
_N_DRAWS = 32

# Nothing is narrower than a star, so that the stars are at the lower end
# of the excess variances: this part of their weights is below them.
_QUANTILE = 0.25

# Folds of the cross-validation, and the highest degree that is tried.
_FOLDS = 5
_MAX_DEGREE = 2
_STARS_PER_TERM = 3


class EmpiricalPSFBuilder:
    """
    Class to build a PSF from the stars of an image.

    Each star is its flux times the PSF at its place, plus its sky. The
    PSF is an elliptical Moffat profile plus a grid of cubic B-splines
    that holds what the profile leaves; both vary over the field as a
    polynomial. The splines are pulled to zero and kept smooth by a
    prior, so that few and faint stars suffice and the wings stay
    positive. Pixels with cosmic rays or companions are rejected, and so
    are galaxies and blends, by a test of their size.

    Parameters
    ----------
    size : odd int, optional
        The side of the PSF in pixels.

    oversampling : int, optional
        The number of knots of the splines a pixel. One is enough if the
        FWHM is more than 2.5 pixels; stars at many subpixel positions
        are needed for more.

    degree : int or `None`, optional
        The degree of the polynomial in the position. With `None`
        (default), it is chosen by cross-validation, from 0 to 2 (as far
        as there are stars enough).

    baseline : {'moffat'} or `None`, optional
        The profile under the splines. Without one, the splines are the
        PSF.

    prior : float, optional
        The expected deviation of the splines relative to the profile.

    smoothness : float, optional
        The weight of the prior that the splines are smooth.

    tv : float, optional
        The weight of the total variation of the splines, which keeps
        sharp features while it smooths noise.

    sky : {'constant'} or `None`, optional
        Whether each star has a constant sky of its own.

    max_iterations : int, optional
        The number of rounds of star fits and PSF fits.

    max_star_chi2 : float, optional
        The largest reduced chi-squared of a star, or twice the median
        if that is larger.

    reject_extended : bool, optional
        Whether to reject stars that are wider or narrower than the PSF.

    See Also
    --------
    StarSelector, photutils.psf.EPSFBuilder

    Notes
    -----
    The effective PSF holds the pixel, as in Anderson & King (2000, PASP
    112, 1360). The size of each star is tested by one more linear
    parameter, the Laplacian of its model, which is proportional to the
    change of an image that is blurred a little.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_star_field
    >>> from hyperphotutils.psf import EmpiricalPSFBuilder, StarSelector
    >>> field = make_star_field((300, 300), n_stars=25, seed=1)
    >>> stars = StarSelector()(field.data, error=field.error)
    >>> builder = EmpiricalPSFBuilder(size=25, degree=0)
    >>> psf = builder(field.data, stars, error=field.error)
    >>> image = psf(150, 150)
    >>> print(image.shape, f'{image.sum():.2f}')
    (25, 25) 1.00
    """

    _repr_params = ('size', 'oversampling', 'degree', 'baseline', 'prior',
                    'smoothness', 'tv', 'sky', 'max_iterations',
                    'max_star_chi2', 'reject_extended')

    def __init__(self, size=31, *, oversampling=1, degree=None,
                 baseline='moffat', prior=0.15, smoothness=1.0, tv=0.0,
                 sky='constant', max_iterations=4, max_star_chi2=2.5,
                 reject_extended=True):
        if int(size) != size or size % 2 == 0 or size < 5:
            msg = f'size must be an odd integer of at least 5: got {size}'
            raise ValueError(msg)
        self.size = int(size)
        if int(oversampling) != oversampling or oversampling < 1:
            msg = f'oversampling must be a positive integer: {oversampling}'
            raise ValueError(msg)
        self.oversampling = int(oversampling)
        if degree is not None and (int(degree) != degree or degree < 0):
            msg = f'degree must be a non-negative integer or None: {degree}'
            raise ValueError(msg)
        self.degree = degree
        if baseline not in {'moffat', None}:
            msg = f"baseline must be 'moffat' or None: got {baseline!r}"
            raise ValueError(msg)
        self.baseline = baseline
        self.prior = check_positive(prior, 'prior')
        self.smoothness = float(smoothness)
        self.tv = float(tv)
        if min(self.smoothness, self.tv) < 0.0:
            msg = (f'smoothness and tv must not be negative: {smoothness}, '
                   f'{tv}')
            raise ValueError(msg)
        if sky not in {'constant', None}:
            msg = f"sky must be 'constant' or None: got {sky!r}"
            raise ValueError(msg)
        self.sky = sky
        self.max_iterations = int(max_iterations)
        self.max_star_chi2 = check_positive(max_star_chi2, 'max_star_chi2')
        self.reject_extended = bool(reject_extended)

    def __repr__(self):
        return make_repr(self)

    def __call__(self, data, stars, *, error=None, mask=None):
        """
        Build the PSF.

        Parameters
        ----------
        data : 2D array_like, `~astropy.units.Quantity`, or \
                `~astropy.nddata.NDData`
            The image.

        stars : `~astropy.table.Table`
            The stars: ``x_centroid`` and ``y_centroid`` (or ``x`` and
            ``y``), and ``accepted`` if not all are to be used.

        error : 2D array_like or `~astropy.units.Quantity`, optional
            The standard deviations of the pixels. The default is the
            clipped rms of the image, the same everywhere.

        mask : 2D bool array_like, optional
            `True` for pixels to ignore.

        Returns
        -------
        psf : `EmpiricalPSF`
            The PSF. Its ``stars`` is the table with ``x_fit``,
            ``y_fit``, ``flux_fit``, ``sky_fit``, ``reduced_chi2``,
            ``excess`` and ``excess_err`` (the variance beyond that of
            the PSF along each axis, in square pixels), and ``used``;
            ``flags`` and ``reason`` say why a star was not used.

        Raises
        ------
        TypeError
            If ``stars`` is not a table.

        ValueError
            If there are fewer than 2 usable stars, or the fit leaves
            fewer.
        """
        if not isinstance(stars, Table):
            msg = ('stars must be a table, such as that of StarSelector: got '
                   f'{stars!r}')
            raise TypeError(msg)
        data, mask, error = open_nddata(data, mask, error)
        arrays, unit = strip_units(data=data, error=error)
        values, bad = as_masked_image(arrays['data'], mask)
        weights = _inverse_variance(arrays['error'], values, bad)
        x, y, chosen = _positions(stars, values.shape)
        images, pixels = self._cut_stars(values, weights, x[chosen],
                                         y[chosen])
        if len(images) < 2:
            msg = (f'stars has {len(images)} usable stars on the image, at '
                   "least 2 are needed: see its column 'reason', or lower "
                   'min_snr of the StarSelector')
            raise ValueError(msg)
        fit = _Fit(self, images, pixels, values.shape,
                   _start_fwhm(stars))
        fit.run()
        table = self._make_table(stars, chosen, fit, pixels, unit)
        return fit.make_psf(table, self)

    def _cut_stars(self, values, weights, x, y):
        """
        Cut out the stars.
        """
        half = self.size // 2
        pixels = np.stack([np.rint(x), np.rint(y)]).astype(int)
        return StarImages(
            data=cut_out(np.where(weights > 0, values, 0.0), *pixels, half),
            weights=cut_out(weights, *pixels, half),
            x=x - pixels[0], y=y - pixels[1],
            terms=np.ones((len(x), 1))), pixels

    def _make_table(self, stars, chosen, fit, pixels, unit):
        """
        Add the results to the table of stars.
        """
        table = QTable(stars, copy=True)
        n = len(table)
        images = fit.stars
        norm = fit.norms()
        columns = {
            'x_fit': (pixels[0] + images.x, None),
            'y_fit': (pixels[1] + images.y, None),
            'flux_fit': (images.flux * norm, integrated_unit(unit)),
            'sky_fit': (images.sky, unit),
            'reduced_chi2': (images.chi2, None),
            'excess': (images.excess, None),
            'excess_err': (images.excess_err, None),
        }
        for name, (values, column_unit) in columns.items():
            column = np.full(n, np.nan)
            column[chosen] = values
            table[name] = (column if column_unit is None
                           else column << column_unit)
        used = np.zeros(n, dtype=bool)
        used[chosen] = fit.used
        table['used'] = used
        flags = (np.array(table['flags'], dtype=int)
                 if 'flags' in table.colnames else np.zeros(n, dtype=int))
        flags[chosen] |= fit.flags
        table['flags'] = flags
        table['reason'] = [', '.join(names)
                           for names in decode_star_flags(flags)]
        table.meta.update(result_meta(self))
        return table


class _Fit:
    """
    One fit: the stars, which of them are used, and the model so far.
    """

    def __init__(self, builder, stars, pixels, shape, fwhm):
        self.builder = builder
        self.stars = stars
        self.fwhm = fwhm or 3.0
        self.grid = SplineGrid(builder.size // 2, builder.oversampling)
        ny, nx = shape
        self.center = 0.5 * (nx - 1), 0.5 * (ny - 1)
        self.scale = max(0.5 * nx, 0.5), max(0.5 * ny, 0.5)
        self.u = (pixels[0] - self.center[0]) / self.scale[0]
        self.v = (pixels[1] - self.center[1]) / self.scale[1]
        self.used = stars.weights.any((1, 2))
        self.flags = np.zeros(len(stars), dtype=int)
        self.degree = 0
        self.model = None
        self.validation = None
        self.error = None

    def set_degree(self, degree):
        self.degree = degree
        self.stars.terms = polynomial_terms(self.u, self.v, degree)

    def run(self):
        """
        Fit stars and PSF by turns, rejecting what is no star.
        """
        builder = self.builder
        degree = builder.degree
        if degree is None:
            degree = self._choose_degree()
        self._run(degree, builder.max_iterations)

    def _run(self, degree, n_rounds):
        self.set_degree(degree)
        self.stars.robust = None
        self.used = self.stars.weights.any((1, 2))
        stars = self.stars.select(self.used)
        moffat = self._fit_baseline(stars)
        for round_ in range(n_rounds + 1):
            model_error = _MODEL_ERRORS[min(round_, len(_MODEL_ERRORS) - 1)]
            if self.model is None or round_ == 0:
                self.model = self._empty_model(moffat)
            fit_stars(self.stars, self.model, model_error=model_error,
                      core=0.75 * self.fwhm, profile_error=(
                          _PROFILE_ERROR, model_error),
                      sky=self.builder.sky is not None,
                      n_steps=_FIRST_STEPS if round_ == 0 else 3)
            self._reject(first=round_ == 0)
            if round_ == n_rounds:
                break
            stars = self.stars.select(self.used)
            if round_ == 1:
                moffat = self._fit_baseline(stars)
            self.model = self._solve(
                stars, moffat, _N_DRAWS if round_ == n_rounds - 1 else 0)

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
        # the error of the profile itself: without it, the few brightest
        # stars decide
        variance = (1.0 / np.maximum(stars.weights, 1e-300)
                    + (_PROFILE_ERROR * flux[:, None, None] * profile)**2)
        weights = np.where(stars.weights > 0, stars.robust / variance, 0.0)
        target = stars.data - stars.sky[:, None, None]
        if builder.baseline is None:
            model = replace(model, moffat=None)
        else:
            target = target - flux[:, None, None] * profile
        scale = self._prior_scale(moffat)
        gradient = None
        if builder.tv > 0.0 and self.model.splines.any():
            gradient = self._total_variation(scale)
        prior = self.grid.prior(scale, builder.smoothness, gradient)
        splines, draws = self.grid.solve(
            target, weights, flux, stars.x, stars.y, stars.terms, prior,
            n_draws=n_draws)
        if builder.sky is not None:
            # A constant of the PSF and the skies of the stars are the
            # same to the data, so that turns converge slowly: take the
            # constant that the prior wants.
            precision = scale**-2.0
            splines = splines - (
                (splines * precision).sum((1, 2)) / precision.sum())[
                    :, None, None]
        if n_draws:
            place = np.arange(builder.size) - builder.size // 2
            matrix = self._spline_matrix(place)
            self.error = (matrix @ draws[:, 0] @ matrix.T).std(axis=0)
        return replace(model, splines=splines)

    def _total_variation(self, scale):
        """
        Return the weights of squared differences that make their sum the
        total variation (iteratively reweighted least squares).
        """
        splines = self.model.splines / scale
        steps = np.zeros_like(scale)
        for axis in (1, 2):
            step = np.diff(splines, axis=axis, append=0.0)
            steps += (step**2).sum(0)
        return self.builder.tv / (scale**2 * np.sqrt(steps + 1e-4))

    def _prior_scale(self, moffat):
        """
        Return the expected deviation of each coefficient from zero.
        """
        fwhm = float(moffat.fwhm(np.eye(1, moffat.coefficients.shape[1]))[0])
        alpha = 0.5 * fwhm / np.sqrt(2.0**(1.0 / moffat.beta) - 1.0)
        radius2 = self.grid.knots[:, None]**2 + self.grid.knots**2
        profile = (moffat.beta - 1.0) / (np.pi * alpha**2) * (
            1.0 + radius2 / alpha**2)**-moffat.beta
        relative = 1.0 if self.builder.baseline is None else (
            self.builder.prior)
        return relative * profile + 2e-5 * (3.0 / fwhm)**2

    def _reject(self, *, first=False):
        """
        Choose the stars to use and flag the others.
        """
        stars = self.stars
        flags = np.zeros(len(stars), dtype=int)
        good = (stars.weights.any((1, 2)) & np.isfinite(stars.chi2)
                & (stars.flux > 0))
        limit = max(2.0 * np.median(stars.chi2[good]),
                    self.builder.max_star_chi2) if good.any() else 0.0
        if first:
            limit = 4.0 * limit
        flags[~good | (stars.chi2 > limit)] |= STAR_FLAGS['bad_fit']
        if self.builder.reject_extended and np.any(good & (flags == 0)):
            scale = self.fwhm**2
            like_star = good & (flags == 0)
            usual = _low_quantile(
                stars.excess[like_star],
                np.hypot(stars.excess_err[like_star],
                         _EXCESS_SCATTER[0] * scale))
            excess = stars.excess - usual
            for name, scatter, sigmas in zip(
                    ('extended', 'sharp'), _EXCESS_SCATTER, _EXCESS_LIMITS,
                    strict=True):
                error = np.hypot(stars.excess_err, scatter * scale)
                beyond = excess * np.sign(sigmas) > abs(sigmas) * error
                flags[good & beyond] |= STAR_FLAGS[name]
        used = flags == 0
        self.flags, self.used = flags, used
        if used.sum() < 2:
            msg = (f'only {used.sum()} of {len(stars)} stars are left after '
                   'the fit: raise max_star_chi2, or check error and the '
                   'selection of stars')
            raise ValueError(msg)

    def _choose_degree(self):
        """
        Choose the degree that predicts stars best which were left out.
        """
        n_stars = np.count_nonzero(self.used)
        highest = max((degree for degree in range(_MAX_DEGREE + 1)
                       if len(polynomial_powers(degree)) * _STARS_PER_TERM
                       <= n_stars), default=0)
        if highest == 0:
            return 0
        # galaxies and rays go first, at the degree with which no good
        # star can be taken for one of them
        self._run(highest, 2)
        stars = self.stars.select(self.used)
        fold = _folds(stars.flux * np.sqrt(stars.weights.max((1, 2))))
        scores = np.stack([self._cross_validate(stars, degree, fold)
                           for degree in range(highest + 1)])
        self.validation = scores.mean(axis=1)
        best = int(np.argmin(self.validation))
        # of degrees that are as good within the error of the difference,
        # the lowest
        for degree in range(best):
            difference = scores[degree] - scores[best]
            error = difference.std(ddof=1) / np.sqrt(len(difference))
            if difference.mean() <= error:
                return degree
        return best

    def _cross_validate(self, stars, degree, fold):
        """
        Return the chi-squared of each star from a PSF made without it.
        """
        keep = polynomial_terms(*(
            value[self.used] for value in (self.u, self.v)), degree)
        stars = replace(stars, terms=keep)
        score = np.empty(len(stars))
        for number in range(fold.max() + 1):
            held = fold == number
            train = stars.select(~held)
            moffat = self._fit_baseline(train)
            model = self._solve(train, moffat)
            test = stars.select(held)
            fit_stars(test, model, model_error=_MODEL_ERRORS[-1],
                      core=0.75 * self.fwhm,
                      sky=self.builder.sky is not None, n_steps=2,
                      chi2_radius=2.0 * self.fwhm)
            score[held] = test.chi2
        # one bad star must not decide
        return np.minimum(score, 3.0 * np.median(score))

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

        The Moffat profile is no polynomial in the position, so that the
        degree is higher by 2; the error is then below 1e-3 of the peak
        (a test holds it).
        """
        # odd, so that samples lie at the pixel centers
        sampling = 3 if self.grid.oversampling == 1 else (
            2 * self.grid.oversampling + 1)
        degree = self.degree and self.degree + 2
        nodes = np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
        u, v = (value.ravel() for value in np.meshgrid(nodes, nodes))
        samples = self._sample(polynomial_terms(u, v, self.degree), sampling)
        samples /= samples.sum((1, 2), keepdims=True) / sampling**2
        terms = polynomial_terms(u, v, degree)
        coefficients = np.linalg.lstsq(
            terms, samples.reshape(len(u), -1), rcond=None)[0]
        meta = {'degree': self.degree, **result_meta(builder)}
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

    def _sample(self, terms, sampling):
        """
        Sample the model finely, each sample integrated over a pixel.
        """
        half = (self.builder.size * sampling - 1) // 2
        place = np.arange(-half, half + 1) / sampling
        matrix = self._spline_matrix(place)
        splines = np.tensordot(terms, self.model.splines, 1)
        images = matrix @ splines @ matrix.T
        moffat = self.model.moffat
        if moffat is not None:
            zero = np.zeros(len(terms))
            images += moffat_images(moffat.shapes(terms), moffat.beta, zero,
                                    zero, place, place)
        return images

    def _spline_matrix(self, place):
        """
        Return the matrix from spline coefficients to values.
        """
        distance = np.abs(place[:, None] - self.grid.knots) * (
            self.grid.oversampling)
        return np.where(distance < 1.0,
                        2 / 3 - distance**2 * (1.0 - 0.5 * distance),
                        np.maximum(2.0 - distance, 0.0)**3 / 6)


def _folds(signal):
    """
    Return the fold of each star, so that all folds have bright stars.
    """
    fold = np.empty(len(signal), dtype=int)
    fold[np.argsort(-signal, kind='stable')] = (
        np.arange(len(signal)) % min(_FOLDS, len(signal)))
    return fold


def _low_quantile(values, errors):
    """
    Return a low quantile of values, weighted by their errors.
    """
    order = np.argsort(values)
    total = np.cumsum(errors[order]**-2.0)
    return values[order][np.searchsorted(total, _QUANTILE * total[-1])]


def _start_fwhm(stars):
    """
    Return the FWHM that the selector has found, if it is known.
    """
    fwhm = stars.meta.get('fwhm')
    return float(fwhm) if fwhm is not None and np.isfinite(fwhm) else None


def _positions(stars, shape):
    """
    Return the positions of all rows, and which rows are to be used.
    """
    names = stars.colnames
    for pair in (('x_centroid', 'y_centroid'), ('x_fit', 'y_fit'),
                 ('x_init', 'y_init'), ('x', 'y')):
        if set(pair) <= set(names):
            x, y = (np.asarray(stars[name], dtype=float) for name in pair)
            break
    else:
        msg = ('stars must have the columns x_centroid and y_centroid, or x '
               f'and y: it has {", ".join(names)}')
        raise ValueError(msg)
    ny, nx = shape
    with np.errstate(invalid='ignore'):
        chosen = ((x > -0.5) & (x < nx - 0.5)
                  & (y > -0.5) & (y < ny - 0.5))
    if 'accepted' in names:
        chosen &= np.asarray(stars['accepted'], dtype=bool)
    return x, y, chosen


def _inverse_variance(error, values, bad):
    """
    Return the inverse variance of each pixel, zero for bad ones.
    """
    if error is None:
        error = clipped_rms(values, mask=bad)
    error = np.broadcast_to(np.asarray(error, dtype=float), values.shape)
    if error.shape != values.shape:
        msg = (f'error must have the shape of data, {values.shape}, got '
               f'{error.shape}')
        raise ValueError(msg)
    good = ~bad & np.isfinite(error) & (error > 0.0)
    return np.where(good, 1.0 / np.where(good, error, 1.0)**2, 0.0)
