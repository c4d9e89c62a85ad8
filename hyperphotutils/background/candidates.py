# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fit and comparison of candidate background models.

The global and the local backgrounds share this code: `fit_candidates`
fits every method and order on cutouts of every size, and compares all
of them on the pixels that the cutouts have in common.
"""

from dataclasses import dataclass, field
from functools import partial
from numbers import Integral, Real

import numpy as np
from astropy.table import QTable

from hyperphotutils.background.regressors import (
    evaluate_polynomial,
    fit_estimator,
    fit_huber,
    fit_lsq,
    fit_theilsen,
)
from hyperphotutils.background.selection import (
    bic,
    correlation_area,
    nmse,
    reduced_chi2,
    select_candidate,
)

__all__ = [
    'Candidate',
    'FittedCandidates',
    'check_comparison',
    'fit_candidates',
    'make_candidates',
]

CRITERIA = ('nmse', 'reduced_chi2', 'bic')
METHODS = ('lsq', 'huber', 'theilsen')

# Pixels farther than this from the best model, in units of the noise,
# are outliers and excluded from the comparison. The limit keeps 99.994 %
# of Gaussian noise.
_OUTLIER_SIGMA = 4.0

# Standard deviation of a unit Gaussian truncated at a = 3 sigma: the square
# root of 1 - 2 a phi(a) / (2 Phi(a) - 1) (Johnson, Kotz & Balakrishnan
# 1994, Continuous Univariate Distributions 1, section 13.10.1).
_TRUNCATED_STD = 0.98658

# Ratio of the sigma of a Gaussian to its mean absolute deviation.
_MEAN_TO_SIGMA = np.sqrt(np.pi / 2.0)

# Number of pixels of each image from which the noise is estimated: the rms
# of n independent pixels has a relative error of (2 n)**-0.5, here 0.5 %.
_MAX_SAMPLE = 20_000

# Residuals below this fraction of the values are rounding errors: without
# this floor they would decide between models that all fit exactly.
_ROUNDING = 1.0e-13


@dataclass(frozen=True)
class Candidate:
    """
    A candidate background model.

    ``method`` is 'lsq', 'huber', 'theilsen', or a linear regressor of
    scikit-learn; ``order`` the total degree of the polynomial; ``epsilon``
    the parameter of the Huber loss, NaN for other methods; ``box`` the index
    of the cutout size that is fitted.
    """

    method: object
    order: int
    epsilon: float = np.nan
    box: int = 0

    @property
    def method_name(self):
        """
        The name of the method, or of the class of the regressor.
        """
        return (self.method if isinstance(self.method, str)
                else type(self.method).__name__)

    @property
    def n_parameters(self):
        """
        The number of terms of the polynomial.
        """
        return (self.order + 1) * (self.order + 2) // 2

    def fit(self, values, weights, x, y, *, seed=0):
        """
        Return the coefficients of the polynomials of a stack of images; see
        `fit_lsq`.

        The seed is for methods with random subsets.
        """
        if not isinstance(self.method, str):
            return fit_estimator(values, weights, x, y, self.order,
                                 estimator=self.method, seed=seed)
        regressor = {'lsq': fit_lsq,
                     'huber': partial(fit_huber, epsilon=self.epsilon),
                     'theilsen': partial(fit_theilsen, seed=seed)}
        return regressor[self.method](values, weights, x, y, self.order)


def make_candidates(*, orders=(0, 1, 2), methods=('lsq',),
                    huber_epsilons=(1.1, 1.35, 1.7, 2.0), n_boxes=1):
    """
    List all combinations of order, box, method, and Huber epsilon.

    They are in order of precedence in a tie: lower orders first, then larger
    boxes, then the methods and epsilons as listed. The last of ``n_boxes`` is
    the largest.

    Examples
    --------
    >>> from hyperphotutils.background.candidates import make_candidates
    >>> make_candidates(orders=0, methods=('lsq', 'huber'),
    ...                 huber_epsilons=1.35)
    (Candidate(method='lsq', order=0, epsilon=nan, box=0),
     Candidate(method='huber', order=0, epsilon=1.35, box=0))
    """
    orders = _check_orders(orders)
    methods = ((methods,) if hasattr(methods, 'fit')
               else _as_sequence(methods))
    unknown = [method for method in methods if not (
        method in METHODS if isinstance(method, str) else
        not isinstance(method, type) and all(
            hasattr(method, name) for name in ('fit', 'predict',
                                               'get_params')))]
    if unknown or not methods:
        msg = (f'methods must be some of {", ".join(METHODS)}, or linear '
               'regressors of scikit-learn (instances): got '
               f'{unknown[0] if unknown else "none"!r}')
        raise ValueError(msg)
    for method in methods:
        if not (isinstance(method, str)
                or method.get_params().get('fit_intercept', True)):
            msg = ('methods must have fit_intercept=True, which fits the '
                   f'constant of the polynomial: got {method!r}')
            raise ValueError(msg)
    epsilons = dict.fromkeys(methods, (np.nan,))
    if 'huber' in epsilons:
        huber_epsilons = _as_sequence(huber_epsilons)
        if not huber_epsilons:
            msg = 'huber_epsilons must not be empty'
            raise ValueError(msg)
        for epsilon in huber_epsilons:
            if not isinstance(epsilon, Real):
                msg = f'huber_epsilons must be numbers: got {epsilon!r}'
                raise TypeError(msg)
            if not 1 < epsilon < np.inf:
                msg = f'huber_epsilons must be more than 1: got {epsilon}'
                raise ValueError(msg)
        epsilons['huber'] = dict.fromkeys(map(float, huber_epsilons))
    # The NMSE never penalizes a higher order: in a tie the lower one wins.
    return tuple(Candidate(method, order, epsilon, box)
                 for order in orders
                 for box in reversed(range(n_boxes))
                 for method in epsilons
                 for epsilon in epsilons[method])


@dataclass(frozen=True)
class FittedCandidates:
    """
    The candidates with their fitted polynomials and scores.

    The arrays have the shape ``(n_candidates, n)`` or ``(n,)``. The
    coefficients are in the scaled coordinates of the cutouts. Scores are NaN
    for candidates that could not be fitted; ``rms`` is that of the residual
    on the ``n_pixels`` compared pixels; ``selected`` is -1 for none.
    """

    candidates: tuple
    coefficients: tuple = field(repr=False)
    nmse: np.ndarray = field(repr=False)
    reduced_chi2: np.ndarray = field(repr=False)
    bic: np.ndarray = field(repr=False)
    rms: np.ndarray = field(repr=False)
    n_pixels: np.ndarray = field(repr=False)
    selected: np.ndarray = field(repr=False)

    def coefficients_of(self, candidate, index):
        """
        Return the coefficients of a candidate for one center, by indices.
        """
        stack = self.coefficients[candidate]
        return stack[min(index, len(stack) - 1)]

    @classmethod
    def join(cls, parts, shared):
        """
        Concatenate the results of the same candidates for several batches of
        centers. ``shared`` tells of each box whether all centers share it.
        """
        first = parts[0]
        if len(parts) == 1:
            return first
        coefficients = tuple(
            stacks[0] if shared[candidate.box] else np.concatenate(stacks)
            for candidate, *stacks in zip(
                first.candidates, *[part.coefficients for part in parts],
                strict=True))
        arrays = {name: np.concatenate([getattr(part, name)
                                        for part in parts], axis=-1)
                  for name in (*CRITERIA, 'rms', 'n_pixels', 'selected')}
        return cls(first.candidates, coefficients, **arrays)

    def to_table(self, *, box_sizes, unit=None):
        """
        Return a table with a row for each candidate of each center, ordered by
        center.
        """
        n_centers = self.selected.size
        columns = {
            'method': [c.method_name for c in self.candidates],
            'epsilon': [c.epsilon for c in self.candidates],
            'order': [c.order for c in self.candidates],
            'box_size': [box_sizes[c.box] for c in self.candidates],
        }
        table = QTable({name: np.tile(column, n_centers)
                        for name, column in columns.items()})
        for name in (*CRITERIA, 'rms'):
            table[name] = getattr(self, name).T.ravel()
        if unit is not None:
            table['rms'] <<= unit
        n_candidates = len(self.candidates)
        table['n_pixels'] = np.repeat(self.n_pixels, n_candidates)
        table['selected'] = (np.arange(n_candidates)
                             == self.selected[:, np.newaxis]).ravel()
        return table


def fit_candidates(boxes, candidates, *, n_centers=1, criterion='nmse',
                   tolerance=None, has_error=False, seed=0, known=None,
                   fwhm=None):
    """
    Fit all candidates and select the best one for each center.

    The candidates are compared on the pixels of the smallest box that
    has more pixels than the simplest candidate has terms. Outliers, more
    than 4 times the noise from the candidate with the smallest clipped
    residual, are excluded: they are what robust methods are meant to
    ignore. If the errors of the pixels are unknown, the clipped rms of
    that residual is used as the noise.

    The boxes are ordered from the smallest to the largest, the candidates by
    precedence in a tie. ``known`` has coefficients from an earlier call, by
    the index of the candidate; these are not fitted again. The noise is
    correlated over the beam of ``fwhm`` pixels; see `correlation_area`.
    """
    check_comparison(criterion, tolerance)
    coefficients = [(known or {}).get(k) for k in range(len(candidates))]
    for number, box in enumerate(boxes):
        missing = [k for k, candidate in enumerate(candidates)
                   if candidate.box == number and coefficients[k] is None]
        if not missing:
            continue
        # scaled to a mean of 0 and an rms of 1: the tolerances of the
        # iterations are relative to values of order one, and regressors of
        # scikit-learn with a penalty are not invariant to the scale
        good = (box.weights > 0).astype(float)
        count = np.maximum(box.n_good, 1)
        offset = (_total(box.values, good) / count)[:, np.newaxis, np.newaxis]
        scaled = box.values - offset
        scaled *= good
        scale = np.sqrt(_total(scaled, scaled) / count)[:, np.newaxis,
                                                        np.newaxis]
        scale[scale == 0] = 1.0
        scaled /= scale
        for k in missing:
            fitted = scale * candidates[k].fit(scaled, box.weights,
                                               *box.frame.grid, seed=seed)
            fitted[:, :1, :1] += offset
            fitted[box.n_good <= candidates[k].n_parameters] = np.nan
            coefficients[k] = fitted

    scores = {name: np.full((len(candidates), n_centers), np.nan)
              for name in (*CRITERIA, 'rms')}
    n_pixels = np.zeros(n_centers, dtype=int)
    area = correlation_area(fwhm)
    # the smallest box with enough pixels for each center, or -1
    n_needed = min(candidate.n_parameters for candidate in candidates)
    enough = [np.broadcast_to(box.n_good > n_needed, n_centers)
              for box in boxes]
    common = select_candidate(np.where(enough, 0.0, np.nan), tolerance=0.0)
    for number in range(len(boxes)):
        index = np.flatnonzero(common == number)
        if index.size > 0:
            part, n_pixels[index] = _score_on_box(
                boxes, number, index, candidates, coefficients,
                has_error=has_error, area=area)
            for name, values in part.items():
                scores[name][:, index] = values
    # what a term gains from noise depends on the independent pixels
    selected = select_candidate(scores[criterion], criterion=criterion,
                                tolerance=tolerance, n_pixels=n_pixels / area)
    # Too few independent pixels to compare: the simplest that was fitted.
    fitted = np.isfinite(scores['nmse'])
    selected = np.where((selected < 0) & fitted.any(axis=0),
                        np.argmax(fitted, axis=0), selected)
    return FittedCandidates(tuple(candidates), tuple(coefficients), **scores,
                            n_pixels=n_pixels, selected=selected)


def check_comparison(criterion, tolerance):
    """
    Check the arguments of the comparison.
    """
    if criterion not in CRITERIA:
        msg = (f'criterion must be one of {", ".join(CRITERIA)}: got '
               f'{criterion!r}')
        raise ValueError(msg)
    if tolerance is not None and not 0 <= tolerance < np.inf:
        msg = f'tolerance must not be negative: got {tolerance}'
        raise ValueError(msg)


def _as_sequence(values):
    if isinstance(values, str) or np.ndim(values) == 0:
        return (values,)
    return tuple(values)


def _check_orders(orders):
    orders = _as_sequence(orders)
    for order in orders:
        if not isinstance(order, Real):
            msg = f'orders must be integers: got {order!r}'
            raise TypeError(msg)
        if not (order >= 0 and float(order).is_integer()):
            msg = f'orders must be integers that are not negative: got {order}'
            raise ValueError(msg)
        if not isinstance(order, Integral):
            msg = f'orders must be integers: got {order!r}'
            raise TypeError(msg)
    if not orders:
        msg = 'orders must not be empty'
        raise ValueError(msg)
    return tuple(sorted({int(order) for order in orders}))


def _score_on_box(boxes, number, index, candidates, coefficients, *,
                  has_error, area):
    """
    Score all candidates on the pixels of one box of the given centers.

    The scores of candidates of smaller boxes are NaN.
    """
    box = boxes[number]
    members = box.members(index)
    values, weights = box.values[members], box.weights[members]
    grid = box.frame.pixel_grid(members)
    buffer = np.empty(values.shape)
    allowed = [k for k, candidate in enumerate(candidates)
               if candidate.box >= number]

    def residual(k, rows=slice(None)):
        own = boxes[candidates[k].box]
        own_members = own.members(index)
        model = evaluate_polynomial(
            coefficients[k][own_members],
            *own.frame.scale(grid[0], grid[1][:, rows], own_members),
            out=buffer if rows == slice(None) else None)
        return np.subtract(values[:, rows], model, out=model)

    inlier, noise = _find_inliers(residual, allowed, weights)
    counted = inlier * weights if has_error else inlier
    n_pixels = np.count_nonzero(inlier, axis=(1, 2))
    square = np.multiply(values, values, out=buffer)
    power = _total(square, inlier)
    floor = _ROUNDING**2 * power
    # the noise of the best candidate, the same for all: with a variance of
    # its own each of them would have a reduced chi-squared of 1
    variance = 1.0 if has_error else np.maximum(noise**2, floor)
    shape = (len(candidates), len(values))
    scores = {name: np.full(shape, np.nan) for name in (*CRITERIA, 'rms')}
    for k in allowed:
        square = np.square(residual(k), out=buffer)
        rss = _total(square, inlier)
        chi2 = _total(square, counted) if has_error else rss
        sums = _Sums(rss=rss + floor, chi2=chi2, power=power,
                     variance=variance, n_pixels=n_pixels, area=area)
        for name, value in sums.scores(candidates[k].n_parameters,
                                       has_error=has_error).items():
            scores[name][k] = value
    return scores, n_pixels


def _total(values, weights):
    """
    Return the weighted sum over each image.
    """
    n_images, ny, nx = values.shape
    return np.vecdot(values.reshape(n_images, ny * nx),
                     weights.reshape(n_images, ny * nx))


@dataclass(frozen=True)
class _Sums:
    """
    The sums over the compared pixels from which scores are calculated.
    """

    rss: np.ndarray
    chi2: np.ndarray
    power: np.ndarray
    variance: np.ndarray
    n_pixels: np.ndarray
    area: float

    def scores(self, n_parameters, *, has_error):
        """
        Return the scores by name; NaN where there are too few pixels.
        """
        n_pixels = np.where(self.n_pixels > n_parameters, self.n_pixels,
                            np.nan)
        # the beam correlates the pixels, so that fewer are independent
        n_independent = np.maximum(n_pixels / self.area, 1.0)
        tiny = np.finfo(float).tiny
        chi2 = self.chi2 / np.maximum(self.variance, tiny) / self.area
        deviance = chi2
        if not has_error:
            # -2 ln L at the variance of largest likelihood, rss / n_pixels,
            # up to a constant (Burnham & Anderson 2002, section 2.2)
            deviance = n_independent * np.log(
                np.maximum(self.rss, tiny) / n_pixels)
        # (0 * NaN leaves no score where there are too few pixels)
        return {'nmse': nmse(self.rss + 0 * n_pixels, self.power),
                'reduced_chi2': reduced_chi2(chi2, n_independent,
                                             n_parameters) + 0 * n_pixels,
                'bic': bic(deviance, n_independent, n_parameters),
                'rms': np.sqrt(self.rss / (n_pixels - n_parameters))}


def _find_inliers(residual, allowed, weights):
    """
    Find the pixels close to the candidate with the smallest clipped rms.

    Returns the mask of inliers (as floats, 0 or 1) and the noise in
    units of the errors.
    """
    # Whole rows: on a grid, a polynomial costs two matrix products.
    step = max(1, weights[0].size // _MAX_SAMPLE)
    sample = weights[:, ::step]
    if np.any(np.count_nonzero(sample, axis=(1, 2)) * step
              < 0.5 * np.count_nonzero(weights, axis=(1, 2))):
        step, sample = 1, weights  # the sampled rows are not representative
    root = np.sqrt(sample)
    noise = np.full(len(weights), np.inf)
    reference = np.full(len(weights), -1)
    for k in allowed:
        scale = _noise_scale(residual(k, slice(None, None, step)), root)
        better = scale < noise
        noise[better] = scale[better]
        reference[better] = k

    # Outliers of the best fit, not of each: candidates are compared on the
    # same pixels, and one that bends to an outlier must not keep it.
    inlier = np.zeros(weights.shape)
    limit = (_OUTLIER_SIGMA * noise)[:, np.newaxis, np.newaxis]
    root = np.sqrt(weights)
    for k in np.unique(reference[reference >= 0]):
        mine = reference == k
        distance = residual(k)
        distance *= root
        np.abs(distance, out=distance)
        inlier[mine] = ((distance <= limit) & (weights > 0))[mine]
    return inlier, noise


def _noise_scale(residual, root):
    """
    Estimate the clipped rms of stacked residuals about zero.

    The mean absolute deviation is the first guess, which works with up
    to 25 % of outliers.
    """
    n_images = len(residual)
    distance = np.abs(residual * root).reshape(n_images, -1)
    square = distance**2
    good = (root > 0).reshape(n_images, -1)
    count = np.maximum(np.count_nonzero(good, axis=1), 1)
    scale = distance.sum(axis=1) / count * _MEAN_TO_SIGMA
    # Clipping at 3 sigma, corrected for what it cuts from a Gaussian.
    for _ in range(10):
        kept = good & (distance <= 3.0 * scale[:, np.newaxis])
        count = np.maximum(np.count_nonzero(kept, axis=1), 1)
        new = np.sqrt(np.vecdot(square, kept.astype(float)) / count)
        new /= _TRUNCATED_STD
        new[np.isnan(scale)] = np.nan
        done = ~(np.abs(new - scale) > 1.0e-3 * scale)
        scale = new
        if done.all():
            break
    return scale
