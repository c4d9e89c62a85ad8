# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The linear least-squares problem of the kernel and its robust solution.

Only arrays are used here. The normal equations of each stamp are made
once; rounds of clipping and validation only sum them up again.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, eigh, solve_triangular
from scipy.ndimage import binary_dilation, uniform_filter

from hyperphotutils.subtraction.polynomials import polynomial_degrees
from hyperphotutils.subtraction.tiling import smoothed
from hyperphotutils.utils.executors import one_blas_thread

__all__ = ['Solution', 'StampEquations', 'solve_kernel', 'stamp_equations']

# Ridges from which the validation chooses, in units of the diagonal
_RIDGES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
_SMOOTHNESS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
# The sum of the kernel of a single star: in simulations, this ridge changes
# it by one per cent, and makes its error three times smaller
_SUM_RIDGE = 0.1
# The part by which the flux ratio of a constant star may be wrong
_RATIO_ERROR = 0.02
# What deviates by more standard deviations of the mean of 3 x 3 pixels, and
# by more than this part of the light there, has changed
_CHANGE, _CHANGE_PART = 5.0, 0.1
# More is no neighbor but a star that no kernel fits
_MAX_CHANGED = 0.4
# The kernel of a single star that shows what has changed beside it; it must
# follow even the brightest
_CHANGE_RIDGE = 1e-2
_N_FOLDS = 5
_N_ROUNDS = 4
_MAX_CLIPS = 20
# Fewer stamps than this for each term make no order worth trying
_STAMPS_PER_TERM = 3
# The part of its own light by which the model of a star that was left out
# of the fit may be wrong
_MODEL_ERROR = 0.1
# Errors of chi squared by rounding, in units of the squared signal
_ROUNDING = 1e-10
_MODEL_ERROR_FACTOR = 1.5
# Eigenvalues below this part of the largest are not inverted
_MIN_EIGENVALUE = 1e-12
# The ridge grows by this factor from each order to the next: kernels vary
# slowly
_RIDGE_GROWTH = 30.0
# What is left of the effect of noise on the shape of the kernel: the part
# after the first of these with which the equations remain positive
_NOISE_PARTS = (0.0, 0.1, 0.3, 1.0)


@dataclass
class StampEquations:
    """
    The normal equations of many stamps.

    Parameters
    ----------
    normal : 3D `~numpy.ndarray`
        The matrices, of shape (n_stamps, n, n); the last unknown is the
        differential background.

    right : 2D `~numpy.ndarray`
        The right sides, of shape (n_stamps, n).

    square : 1D `~numpy.ndarray`
        The weighted sums of the squares of the data.

    n_pixels : 1D `~numpy.ndarray`
        The numbers of pixels with a weight.

    noise : 1D `~numpy.ndarray`
        The sums of the weights times the variance of the source.

    noise_form : 2D `~numpy.ndarray`
        The sums of the products of the functions, after a convolution
        with the kernel of the noise, of shape (n - 1, n - 1). ``noise``
        times it is what the noise of the source adds to ``normal``.
    """

    normal: np.ndarray
    right: np.ndarray
    square: np.ndarray
    n_pixels: np.ndarray
    noise: np.ndarray
    noise_form: np.ndarray

    def __getitem__(self, chosen):
        """
        Return the equations of some of the stamps.
        """
        return StampEquations(*(getattr(self, name)[chosen] for name in (
            'normal', 'right', 'square', 'n_pixels', 'noise')),
            self.noise_form)


@dataclass
class Solution:
    """
    The kernel that fits the stamps.

    Parameters
    ----------
    coefficients : 2D `~numpy.ndarray`
        The coefficients, of shape (n_terms, n_functions).

    background : 1D `~numpy.ndarray`
        The coefficients of the background.

    order : int
        The order of the variation of the kernel.

    ridge : float
        The ridge that was added to the equations of the mean kernel, or
        the smoothness.

    chi2 : 1D `~numpy.ndarray`
        The reduced chi squared of each stamp.

    weight : 1D `~numpy.ndarray`
        The weight of each stamp, 0 if it was clipped.

    scale : 1D `~numpy.ndarray`
        How much more flux each stamp has than the model.

    scale_error : float
        The standard error of the sum of the kernel.

    validation : list of tuple
        The order, the ridge, and the reduced chi squared of stamps that
        were left out of the fit, less the noise of the source, for all
        that were tried.
    """

    coefficients: np.ndarray
    background: np.ndarray
    order: int
    ridge: float
    chi2: np.ndarray
    weight: np.ndarray
    scale: np.ndarray
    scale_error: float
    validation: list


def stamp_equations(basis, source, target, weight, *, source_variance=0.0,
                    noise_kernel=None):
    """
    Set up the normal equations of stamps.

    ``source`` has a margin of the radius of the kernel around ``target``;
    ``weight`` is the inverse variance of the pixels of the target, 0 for
    those to ignore. ``source_variance`` (of each stamp) is the noise of the
    source, that was made of white noise by ``noise_kernel``.
    """
    n_stamps, size = len(source), basis.n_functions + 1
    root = np.sqrt(weight).reshape(n_stamps, -1)
    data = target.reshape(n_stamps, -1) * root
    with one_blas_thread():
        design = np.empty((n_stamps, size, root.shape[1]))
        design[:, :-1] = basis.convolve(source).reshape(n_stamps, size - 1,
                                                        -1)
        design[:, -1] = 1.0
        design *= root[:, None]
        normal = design @ design.transpose(0, 2, 1)
        right = (design @ data[..., None])[..., 0]
        changed = _find_changes(normal, right, design, data,
                                target.shape[1:])
        root[changed] = data[changed] = 0.0
        some = np.flatnonzero(changed.any(axis=1))
        design = design[some] * ~changed[some, None]
        normal[some] = design @ design.transpose(0, 2, 1)
        right[some] = (design @ data[some, :, None])[..., 0]
    functions = smoothed(basis.images, noise_kernel).reshape(size - 1, -1)
    return StampEquations(normal, right, np.einsum('si,si->s', data, data),
                          np.count_nonzero(root, axis=1),
                          source_variance * np.sum(root**2, axis=1),
                          functions @ functions.T)


def _find_changes(normal, right, design, data, shape):
    """
    Return which pixels of stamps show what has changed beside the star.

    The kernel that fits a stamp best takes up a change of the star, but
    not that of a neighbor, or a new source.
    """
    local = _fit_alone(normal, right[..., None], _CHANGE_RIDGE)
    local = local[:, None, :, 0]
    light = (local[..., :-1] @ design[:, :-1])[:, 0]
    residual = data - light - local[..., -1] * design[:, -1]
    light, residual = (
        3.0 * np.abs(uniform_filter(image.reshape(-1, *shape), (0, 3, 3)))
        for image in (light, residual))
    # the error may be too small, or the noise correlated
    spread = 1.4826 * np.median(residual, axis=(1, 2), keepdims=True)
    changed = residual > (_CHANGE * np.maximum(spread, 1.0)
                          + _CHANGE_PART * light)
    changed = binary_dilation(changed, np.ones((1, 7, 7))).reshape(
        data.shape)
    # more is no neighbor: the kernel does not fit the star
    return changed & (changed.mean(axis=1) < _MAX_CHANGED)[:, None]


def _fit_alone(normal, right, ridge):
    """
    Fit a kernel to each stamp alone, with a ridge.
    """
    scale = np.maximum(np.einsum('sii->si', normal), 1e-300)**-0.5
    matrix = normal * scale[:, :, None] * scale[:, None]
    place = np.arange(1, normal.shape[1] - 1)
    matrix[:, place, place] += ridge
    return (np.linalg.solve(matrix, right * scale[..., None])
            * scale[..., None])


def solve_kernel(equations, terms, *, kernel_order, scale_order,
                 background_order, penalty=None, smoothness=None,
                 sigma_clip=4.0):
    """
    Solve for the kernel without the stamps that it does not fit.

    ``terms`` are the polynomial terms at the stamps for the largest of all
    orders; ``kernel_order`` may be a sequence to choose from. ``penalty``
    is the quadratic form of the coefficients that is kept small, by default
    that of a ridge; ``smoothness`` its weight, chosen by validation if
    `None`.
    """
    orders = np.atleast_1d(kernel_order).tolist()
    with one_blas_thread():
        problem = _Problem(equations, terms, max(orders), scale_order,
                           background_order, penalty)
        constant = _is_constant(problem, sigma_clip)
        candidates = ([smoothness] if smoothness is not None else
                      _RIDGES if penalty is None else _SMOOTHNESS)
        validation = _validate(problem, constant, orders, candidates)
        if validation:
            order, ridge, _ = min(validation, key=lambda row: row[2])
        else:
            order, ridge = min(orders), candidates[len(candidates) // 2]
        weight, theta, chi2 = _clip(problem, constant, order, ridge,
                                    sigma_clip)
        # the model of each stamp with a factor and a background of its own
        kernel = problem.at_stamps(theta)
        kernel[:, -1] = 0.0
        product = (equations.normal @ kernel[..., None])[..., 0]
        uu = np.einsum('si,si->s', kernel, product)
        uv, vv = product[:, -1], equations.normal[:, -1, -1]
        ru = np.einsum('si,si->s', kernel, equations.right)
        rv = equations.right[:, -1]
        determinant = uu * vv - uv**2
        with np.errstate(divide='ignore', invalid='ignore'):
            scale = np.where(determinant > 0.0,
                             (ru * vv - rv * uv) / determinant, np.nan)
        table = problem.table(theta)
        n_kernel, n_background = (
            len(polynomial_degrees(n)) for n in (max(order, scale_order),
                                                 background_order))
        return Solution(
            coefficients=table[:n_kernel, :-1],
            background=table[:n_background, -1], order=order,
            ridge=ridge, chi2=chi2, weight=weight, scale=scale,
            scale_error=problem.scale_error(weight, chi2, order, ridge),
            validation=validation)


class _Problem:
    """
    The global unknowns and the equations for them.

    The unknowns are sorted so that those of a lower order of the kernel
    come first: the factor of all orders contains those of the lower ones.
    """

    def __init__(self, equations, terms, order, scale_order,
                 background_order, penalty):
        self.equations = equations
        self.terms = terms
        self.n_functions = equations.right.shape[1] - 1
        degrees = polynomial_degrees(max(order, scale_order,
                                         background_order))
        total = np.array([i + j for i, j in degrees])
        pairs = [(p, self.n_functions)
                 for p in np.flatnonzero(total <= background_order)]
        self._n_background = len(pairs)
        pairs += [(p, 0) for p in np.flatnonzero(total <= scale_order)]
        self._sizes = {}
        for degree in range(order + 1):
            pairs += [(p, i) for p in np.flatnonzero(total == degree)
                      for i in range(1, self.n_functions)]
            self._sizes[degree] = len(pairs)
        self._term, self._function = np.array(pairs).T
        self._degree = total[self._term]
        self._penalty = None
        if penalty is not None:
            form = np.zeros((self.n_functions + 1,) * 2)
            form[:-1, :-1] = penalty
            same = self._term[:, None] == self._term
            self._penalty = same * form[np.ix_(self._function,
                                               self._function)]
        # the least noise of a kernel whose sum is one
        form = equations.noise_form
        self._least_noise = form[0, 0] - form[0, 1:] @ np.linalg.lstsq(
            form[1:, 1:], form[1:, 0], rcond=None)[0]
        # The noise of the source, of variance V, adds V times the sum of
        # the weights times the products of the functions to the matrix in
        # the mean, and nothing to the right side, so that the kernel is
        # too small (errors in variables: Fuller 1987, Measurement Error
        # Models, section 2.2). Without it the matrix is right in the mean,
        # but that of a single image may not be positive. What remains of a
        # part is a quadratic form of the shape that is zero for the kernel
        # of least noise with any sum. The variation over the field
        # averages over much noise.
        place = np.flatnonzero((self._term == 0)
                               & (self._function < self.n_functions))
        mean = np.ix_(self._function[place], self._function[place])
        self._noise_forms = np.zeros((len(_NOISE_PARTS),
                                      *(2 * [self._sizes[0]])))
        for removed, part in zip(self._noise_forms, _NOISE_PARTS,
                                 strict=True):
            remaining = (1.0 - part) * form
            remaining[0, 0] += part * self._least_noise
            removed[np.ix_(place, place)] = remaining[mean]
        n_terms = len(degrees)
        self._products = (terms[:, :n_terms, None]
                          * terms[:, None, :n_terms]).reshape(
                              len(terms), -1)
        self._n_terms = n_terms
        self.scale_terms = terms[:, :n_terms][:, total <= scale_order]

    def assemble(self, weight):
        """
        Return the matrix, the right side, and the factor of the noise
        form for weights of stamps.
        """
        used = np.flatnonzero(weight)
        equations, n_terms = self.equations, self._n_terms
        size = self.n_functions + 1
        blocks = ((self._products[used] * weight[used, None]).T
                  @ equations.normal[used].reshape(len(used), -1))
        blocks = blocks.reshape(n_terms, n_terms, size, size)
        p, i = self._term, self._function
        normal = blocks[p[:, None], p, i[:, None], i]
        right = ((self.terms[used, :n_terms] * weight[used, None]).T
                 @ equations.right[used])[p, i]
        return normal, right, weight @ equations.noise

    def solve(self, normal, right, noise, ridge, orders):
        """
        Solve for some orders of the kernel.

        The noise of the source changes only the equations of the mean
        kernel. These are eliminated last, so that one Cholesky factor of
        the others serves for all parts of the noise, and its leading part
        for the lower orders.
        """
        n_mean, size = self._sizes[0], self._sizes[max(orders)]
        mean, rest = slice(n_mean), slice(n_mean, size)
        matrix = normal[:size, :size]
        if self._penalty is not None:
            form = self._penalty[:size, :size]
            matrix = matrix + form * (ridge * np.trace(matrix)
                                      / max(np.trace(form), 1e-300))
        diagonal = np.diag(matrix)
        scale = 1.0 / np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
        matrix = matrix * scale[:, None] * scale
        right = right[:size] * scale
        if self._penalty is None:
            place = np.arange(n_mean - (self.n_functions - 1), size)
            matrix[place, place] += (
                ridge * _RIDGE_GROWTH**self._degree[place])
        forms = self._noise_forms * (noise * scale[mean, None] * scale[mean])
        try:
            lower = cholesky(matrix[rest, rest], lower=True,
                             check_finite=False)
        except np.linalg.LinAlgError:
            removed = None
        else:
            reduced = solve_triangular(
                lower, np.column_stack([matrix[rest, mean], right[rest]]),
                lower=True, check_finite=False)
            removed = _removable(
                matrix[mean, mean] - reduced[:, :-1].T @ reduced[:, :-1],
                forms)
        solutions = []
        if removed is None:
            # leave out the directions that the data do not determine
            matrix[mean, mean] -= forms[-1]
            for n in (self._sizes[order] for order in orders):
                values, vectors = eigh(matrix[:n, :n], check_finite=False)
                good = values > _MIN_EIGENVALUE * values[-1]
                vectors = vectors[:, good]
                solutions.append(scale[:n] * (vectors @ (
                    (vectors.T @ right[:n]) / values[good])))
            return solutions
        for n in (self._sizes[order] - n_mean for order in orders):
            part, last = reduced[:n, :-1], reduced[:n, -1]
            first = np.linalg.solve(
                matrix[mean, mean] - removed - part.T @ part,
                right[mean] - part.T @ last)
            last = solve_triangular(lower[:n, :n], last - part @ first,
                                    lower=True, trans='T',
                                    check_finite=False)
            solutions.append(scale[:n_mean + n]
                             * np.concatenate([first, last]))
        return solutions

    def local_sums(self, chosen):
        """
        Return the sum of the kernel of each stamp alone, and its error.
        """
        equations = self.equations[chosen]
        normal = equations.normal.copy()
        normal[:, 0, 0] -= equations.noise * self._least_noise
        right = np.zeros((*equations.right.shape, 2))
        right[..., 0] = equations.right
        right[:, 0, 1] = 1.0
        solution = _fit_alone(normal, right, _SUM_RIDGE)
        unit = solution[..., 1]
        variance = np.einsum('si,sij,sj->s', unit, equations.normal, unit)
        return solution[:, 0, 0], np.sqrt(variance)

    def table(self, theta):
        """
        Return the unknowns by polynomial term and function, the last of
        which is the background.
        """
        table = np.zeros((self._n_terms, self.n_functions + 1))
        table[self._term[:len(theta)], self._function[:len(theta)]] = theta
        return table

    def at_stamps(self, theta):
        """
        Return the unknowns of each stamp.
        """
        return self.terms[:, :self._n_terms] @ self.table(theta)

    def reduced_chi2(self, theta, chosen=slice(None)):
        """
        Return the reduced chi squared of stamps; no pixel is needed.
        """
        local = self.at_stamps(theta)[chosen]
        equations = self.equations
        chi2 = (equations.square[chosen]
                - 2.0 * np.einsum('si,si->s', local, equations.right[chosen])
                + np.einsum('si,si->s', local, (
                    equations.normal[chosen] @ local[..., None])[..., 0]))
        return (np.maximum(chi2, 0.0)
                / np.maximum(equations.n_pixels[chosen], 1))

    def noise_chi2(self, theta, chosen):
        """
        Return the part of the reduced chi squared of stamps that is the
        noise of the convolved source.
        """
        equations = self.equations
        local = self.at_stamps(theta)[chosen, :-1]
        noise = np.einsum('si,si->s', local @ equations.noise_form, local)
        return (noise * equations.noise[chosen]
                / np.maximum(equations.n_pixels[chosen], 1))

    def scale_error(self, weight, chi2, order, ridge):
        """
        Return the standard error of the sum of the kernel.
        """
        normal, right, noise = self.assemble(weight)
        unit = np.zeros_like(right)
        unit[self._n_background] = 1.0
        solution, = self.solve(normal, unit, noise, ridge, [order])
        size = len(solution)
        inflation = max(np.average(chi2, weights=weight), 1.0)
        return float(np.sqrt(solution @ normal[:size, :size] @ solution
                             * inflation))


def _removable(matrix, forms):
    """
    Return the form to subtract from a matrix: the one after the first with
    which it remains positive, `None` if there is none.
    """
    for n, form in enumerate(forms):
        try:
            cholesky(matrix - form, check_finite=False)
        except np.linalg.LinAlgError:
            continue
        # near the limit the solution would be one of noise
        return forms[min(n + 1, len(forms) - 1)]
    return None


def _is_constant(problem, sigma_clip):
    """
    Return which stars have the flux ratio of the others.

    The ratio is the sum of the kernel that fits a star best. It is
    known before there is a kernel for all stars, which a bright one that
    varies would draw to itself.
    """
    usable = problem.equations.n_pixels > 0
    ratio, error = np.zeros((2, len(usable)))
    ratio[usable], error[usable] = problem.local_sums(usable)
    precise = usable & (error <= np.median(error[usable]))
    center = np.median(ratio[precise])
    error = np.hypot(error, _RATIO_ERROR * center)
    fitted = np.full(len(usable), center)
    terms = problem.scale_terms
    for _ in range(_N_ROUNDS):
        root = usable / error / (
            1.0 + ((ratio - fitted) / error / sigma_clip)**2)
        fitted = terms @ np.linalg.lstsq(terms * root[:, None], ratio * root,
                                         rcond=None)[0]
    return usable & (np.abs(ratio - fitted) < sigma_clip * error)


def _clip(problem, usable, order, ridge, sigma_clip):
    """
    Clip the stamps that fit worse than others until nothing changes.
    """
    equations = problem.equations
    n_pixels = np.maximum(equations.n_pixels, 1)
    power = equations.square / n_pixels
    used = usable
    seen = set()
    for _ in range(_MAX_CLIPS):
        theta, = problem.solve(*problem.assemble(used.astype(float)), ridge,
                               [order])
        chi2 = problem.reduced_chi2(theta)
        center = np.median(chi2[used])
        spread = 1.4826 * np.median(np.abs(chi2[used] - center))
        # what noise alone would do, and without any, rounding errors
        noise = center * np.sqrt(2.0 / np.median(n_pixels[used]))
        rounding = _ROUNDING * np.median(power[used])
        # the brighter a star, the more do small errors of the kernel matter
        bright = used & (power >= np.median(power[used]))
        part = np.median(np.maximum(chi2[bright] - center, 0.0)
                         / np.maximum(power[bright], 1e-300))
        scale = np.hypot(max(spread, noise, rounding, 1e-300),
                         _MODEL_ERROR_FACTOR * part * power)
        # only worse ones: a fit that is too good harms nothing
        now = usable & (chi2 - center <= sigma_clip * scale)
        if np.array_equal(now, used) or now.tobytes() in seen:
            break
        seen.add(now.tobytes())
        used = now
    return used.astype(float), theta, chi2


def _validate(problem, chosen, orders, ridges):
    """
    Fit all but a part of the stamps, and see how that part is fitted.
    """
    weight = chosen.astype(float)
    used = np.flatnonzero(chosen)
    if len(used) < 2:
        return []
    orders = [order for order in orders
              if (order + 1) * (order + 2) / 2 * _STAMPS_PER_TERM
              <= len(used)] or [min(orders)]
    if len(orders) == len(ridges) == 1:
        return []
    # each part has bright and faint stamps
    ranked = used[np.argsort(-problem.equations.square[used], kind='stable')]
    n_folds = min(_N_FOLDS, len(used))
    total = problem.assemble(weight)
    chi2, noise = np.zeros((2, len(ridges), len(orders), len(weight)))
    for fold in range(n_folds):
        out = np.zeros_like(weight)
        out[ranked[fold::n_folds]] = weight[ranked[fold::n_folds]]
        chosen = np.flatnonzero(out)
        remaining = [whole - part for whole, part in zip(
            total, problem.assemble(out), strict=True)]
        for i, ridge in enumerate(ridges):
            for j, theta in enumerate(problem.solve(*remaining, ridge,
                                                    orders)):
                chi2[i, j, chosen] = problem.reduced_chi2(theta, chosen)
                noise[i, j, chosen] = problem.noise_chi2(theta, chosen)
    # the noise of the source, which a faint kernel has less of, shall not
    # decide
    chi2 -= noise
    # nor shall a stamp that none can fit
    chi2 = chi2[..., used]
    limit = 4.0 * max(np.median(chi2, axis=-1).min(), 0.0) + 1.0
    best = chi2.reshape(-1, chi2.shape[-1]).min(axis=0) < limit
    power = problem.equations.square[used] / problem.equations.n_pixels[used]
    # nor shall one that is much brighter than all others
    score = np.average(chi2, axis=-1, weights=best / (
        1.0 + _MODEL_ERROR**2 * power))
    return [(order, ridge, float(score[i, j]))
            for j, order in enumerate(orders)
            for i, ridge in enumerate(ridges)]
