# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fits of two-dimensional polynomials to stacks of images.

All functions are pure and process a stack of images of the same shape at
once. ``values`` and ``weights`` have the shape ``(n, ny, nx)``; pixels
of zero weight are excluded. ``x`` with ``nx`` and ``y`` with ``ny``
elements are the coordinates of the columns and rows. For numerical
accuracy the coordinates should be scaled to [-1, 1], and the values to a
mean near zero and an rms near one.

Coefficients have the shape ``(n, order + 1, order + 1)``: the element
``[:, j, i]`` belongs to ``x**i * y**j`` and is zero where ``i + j``
is larger than the order. They are NaN for an image whose pixels do not
determine the polynomial.

On a pixel grid all sums in the normal equations are moments of the
weight image. A moment is two small matrix products, so that a design
matrix with a row for each pixel is never built.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    'evaluate_polynomial',
    'fit_estimator',
    'fit_huber',
    'fit_lsq',
    'fit_theilsen',
    'polynomial_terms',
]

# Smallest ratio of the eigenvalues of the normalized normal equations
# for which the pixels are taken to determine the polynomial. They are the
# squares of the singular values of the design matrix (ratio 1e-6), so that
# coefficients keep at least 4 of 16 digits.
_RCOND = 1.0e-12

# The Huber fit uses Newton steps between these iterations, and slower
# but safe reweighting steps before and after.
_NEWTON_ITERATIONS = (3, 30)

# The change of a spatial median, in units of the rms of the values, below
# which it has converged.
_CONVERGED = 1.0e-5

# Largest number of elements in a temporary array of the Theil-Sen fit.
_MAX_ELEMENTS = 4_000_000


def polynomial_terms(order: int
                     ) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """
    Return the powers in the terms of a two-dimensional polynomial.

    Parameters
    ----------
    order : int
        The total degree of the polynomial.

    Returns
    -------
    i, j : `~numpy.ndarray` of int
        The powers of x and y in each of the
        ``(order + 1) * (order + 2) / 2`` terms, lowest degree first.

    Examples
    --------
    >>> from hyperphotutils.background import polynomial_terms
    >>> i, j = polynomial_terms(2)
    >>> print(i, j)
    [0 1 0 2 1 0] [0 0 1 0 1 2]
    """
    terms = [(degree - j, j) for degree in range(order + 1)
             for j in range(degree + 1)]
    i, j = np.array(terms).T
    return i, j


def evaluate_polynomial(coefficients: np.ndarray, x: np.ndarray, y: np.ndarray,
                        *, out: np.ndarray | None = None) -> np.ndarray:
    """
    Evaluate polynomials on grids.

    Parameters
    ----------
    coefficients : `~numpy.ndarray`
        Array of shape ``(..., order + 1, order + 1)``. The element
        ``[..., j, i]`` is the coefficient of ``x**i * y**j``.

    x, y : `~numpy.ndarray`
        The coordinates of the columns, shape ``(..., nx)``, and of the
        rows, shape ``(..., ny)``.

    out : `~numpy.ndarray`, optional
        The array in which the values are stored.

    Returns
    -------
    values : `~numpy.ndarray`
        The values, of shape ``(..., ny, nx)``.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.background import evaluate_polynomial
    >>> coefficients = np.array([[1.0, 2.0], [10.0, 0.0]])
    >>> evaluate_polynomial(coefficients, np.arange(3), np.arange(2))
    array([[ 1.,  3.,  5.],
           [11., 13., 15.]])
    """
    order = coefficients.shape[-1] - 1
    return np.matmul(_powers(y, order) @ coefficients,
                     np.swapaxes(_powers(x, order), -1, -2), out=out)


def fit_lsq(values: np.ndarray, weights: np.ndarray, x: np.ndarray,
            y: np.ndarray, order: int) -> np.ndarray:
    """
    Fit polynomials by weighted least squares.

    Parameters
    ----------
    values, weights : `~numpy.ndarray`
        The images and their weights (the inverse variances, or 1 for
        every pixel to use), of shape ``(n, ny, nx)``.

    x, y : 1D `~numpy.ndarray`
        The coordinates of the columns and rows.

    order : int
        The total degree of the polynomial.

    Returns
    -------
    coefficients : `~numpy.ndarray`
        The coefficients, of shape ``(n, order + 1, order + 1)``.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.background import fit_lsq
    >>> x = y = np.linspace(-1.0, 1.0, 11)
    >>> image = 1.0 + 2.0 * x + 3.0 * y[:, np.newaxis]
    >>> fit_lsq(image[np.newaxis], np.ones((1, 11, 11)), x, y, 1)
    array([[[1., 2.],
            [3., 0.]]])
    """
    return _solve_on_grid(weights, weights * values, x, y, order)


def fit_huber(values: np.ndarray, weights: np.ndarray, x: np.ndarray,
              y: np.ndarray, order: int, *, epsilon: float = 1.35,
              max_iter: int = 200, tolerance: float = 1.0e-5) -> np.ndarray:
    """
    Fit polynomials with the Huber loss, quadratic for small and linear
    for large residuals.

    Pixels whose residual r in units of the noise is larger than
    ``epsilon`` have the weight ``epsilon / r``. The scale of the noise
    is also a parameter of the fit. The result minimizes the same
    function as the ``HuberRegressor`` of scikit-learn with ``alpha=0``,
    but all images of a stack are fitted at once, by reweighted least
    squares and Newton's method.

    Parameters
    ----------
    values, weights : `~numpy.ndarray`
        The images and their weights, of shape ``(n, ny, nx)``.

    x, y : 1D `~numpy.ndarray`
        The coordinates of the columns and rows.

    order : int
        The total degree of the polynomial.

    epsilon : float, optional
        The residual, in units of the noise, where the loss becomes
        linear; more than 1. The default, 1.35, has 95 % of the
        efficiency of least squares in Gaussian noise.

    max_iter : int, optional
        The largest number of iterations. An image that has not
        converged by then keeps its last coefficients, which are robust
        as well.

    tolerance : float, optional
        The change of all coefficients, in units of the noise, below
        which an image has converged.

    Returns
    -------
    coefficients : `~numpy.ndarray`
        The coefficients, of shape ``(n, order + 1, order + 1)``.

    References
    ----------
    Huber P. J., Ronchetti E. M. 2009, Robust Statistics, 2nd edition,
    Wiley, sections 7.7 and 7.8.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.background import fit_huber
    >>> x = y = np.linspace(-1.0, 1.0, 41)
    >>> rng = np.random.default_rng(0)
    >>> image = rng.normal(0.0, 1.0, (1, 41, 41))
    >>> image[0, :3] += 1000.0
    >>> coefficients = fit_huber(image, np.ones(image.shape), x, y, 0)
    >>> print(abs(coefficients[0, 0, 0]) < 0.3)
    True
    """
    tiny = np.finfo(float).tiny
    coefficients = fit_lsq(values, weights, x, y, order)
    scale = np.full(len(values), np.inf)
    active = np.flatnonzero(np.isfinite(coefficients[:, 0, 0]))
    root = np.sqrt(weights)
    n_good = np.count_nonzero(weights, axis=(1, 2))
    typical = np.sqrt(n_good / np.maximum(weights.sum(axis=(1, 2)), tiny))
    # Huber & Ronchetti, section 7.8: alternate steps of scale and location
    for iteration in range(max_iter):
        if active.size == 0:
            break
        part = slice(None) if active.size == len(values) else active
        residual = evaluate_polynomial(coefficients[part], x, y)
        np.subtract(values[part], residual, out=residual)
        residual *= root[part]
        scale[part] = _huber_scale(residual, n_good[part], epsilon,
                                   scale[part])
        newton = _NEWTON_ITERATIONS[0] <= iteration < _NEWTON_ITERATIONS[1]
        step = _huber_step(residual, weights[part], root[part], x, y,
                           order, epsilon * scale[part], newton=newton)
        # Keep the coefficients of an image whose new weights no longer
        # determine the polynomial.
        step = np.where(np.isfinite(step), step, 0.0)
        coefficients[part] += step
        change = np.abs(step).max(axis=(1, 2))
        active = active[change > tolerance * scale[part] * typical[part]]
    return coefficients


def fit_theilsen(values: np.ndarray, weights: np.ndarray, x: np.ndarray,
                 y: np.ndarray, order: int, *,
                 seed: int | np.random.Generator = 0,
                 n_subsets: int = 2000) -> np.ndarray:
    """
    Fit polynomials by the generalized Theil-Sen method.

    The polynomial is determined exactly from ``n_subsets`` random
    subsets of as many pixels as it has terms. The result is the spatial
    median of these solutions, as in the ``TheilSenRegressor`` of
    scikit-learn. With k terms the breakdown point is
    ``1 - 0.5**(1 / k)``: 50, 21 and 11 % of contaminated pixels for the
    orders 0, 1 and 2. Time and memory are bounded by the number of
    subsets, independently of the number of pixels.

    Parameters
    ----------
    values, weights : `~numpy.ndarray`
        The images and their weights, of shape ``(n, ny, nx)``. Pixels
        of zero weight are excluded; all others have the same weight.

    x, y : 1D `~numpy.ndarray`
        The coordinates of the columns and rows.

    order : int
        The total degree of the polynomial.

    seed : int or `~numpy.random.Generator`, optional
        The seed of the random subsets.

    n_subsets : int, optional
        The number of subsets.

    Returns
    -------
    coefficients : `~numpy.ndarray`
        The coefficients, of shape ``(n, order + 1, order + 1)``.

    References
    ----------
    Dang X., Peng H., Wang X., Zhang H. 2008, Theil-Sen Estimators in a
    Multiple Linear Regression Model.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.background import fit_theilsen
    >>> x = y = np.linspace(-1.0, 1.0, 21)
    >>> image = 1.0 + 2.0 * x + 3.0 * y[:, np.newaxis]
    >>> image[::7, ::5] = 1000.0
    >>> fit_theilsen(image[np.newaxis], np.ones((1, 21, 21)), x, y, 1)
    array([[[1., 2.],
            [3., 0.]]])
    """
    # Some subsets, as in TheilSenRegressor: the number of all of them grows
    # as n_pixels**n_terms.
    rng = np.random.default_rng(seed)
    n_images, ny, nx = values.shape
    n_terms = polynomial_terms(order)[0].size
    step = max(1, _MAX_ELEMENTS // max(n_subsets * n_terms**2, ny * nx))
    solutions = np.empty((n_images, n_terms))
    for start in range(0, n_images, step):
        part = slice(start, start + step)
        subsets = _solve_subsets(values[part], weights[part], x, y, order,
                                 n_subsets, rng)
        solutions[part] = _spatial_median(*subsets)
    return _as_matrix(solutions, order)


def fit_estimator(values: np.ndarray, weights: np.ndarray, x: np.ndarray,
                  y: np.ndarray, order: int, *, estimator: Any,
                  seed: int = 0) -> np.ndarray:
    """
    Fit polynomials with a linear regressor of scikit-learn.

    The regressor is fitted to each image of the stack, with the terms
    of the polynomial except the constant as features. The constant is
    the intercept, which regressors do not shrink.

    Parameters
    ----------
    values, weights : `~numpy.ndarray`
        The images and their weights, of shape ``(n, ny, nx)``. Pixels
        of zero weight are excluded; the other weights are used if the
        regressor supports them.

    x, y : 1D `~numpy.ndarray`
        The coordinates of the columns and rows.

    order : int
        The total degree of the polynomial.

    estimator : object
        The regressor, for example ``BayesianRidge()``. It is not
        changed.

    seed : int, optional
        The ``random_state`` of a regressor that has none.

    Returns
    -------
    coefficients : `~numpy.ndarray`
        The coefficients, of shape ``(n, order + 1, order + 1)``; NaN for
        images with fewer pixels than the polynomial has terms.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import RANSACRegressor
    >>> from hyperphotutils.background import fit_estimator
    >>> x = y = np.linspace(-1.0, 1.0, 21)
    >>> image = 1.0 + 2.0 * x + 3.0 * y[:, np.newaxis]
    >>> image[::7, ::5] = 1000.0
    >>> coefficients = fit_estimator(
    ...     image[np.newaxis], np.ones((1, 21, 21)), x, y, 1,
    ...     estimator=RANSACRegressor())
    >>> print(np.round(coefficients[0], 6))
    [[1. 2.]
     [3. 0.]]
    """
    from sklearn.base import clone
    from sklearn.utils.validation import has_fit_parameter

    i, j = polynomial_terms(order)
    terms = (x[:, np.newaxis]**i * y[:, np.newaxis, np.newaxis]**j)
    # A regressor needs a feature, also for a constant.
    features = (terms[..., 1:] if order > 0 else np.zeros_like(terms))
    features = features.reshape(-1, features.shape[-1])
    # Predictions for no feature and for each one give the coefficients.
    probes = np.vstack((np.zeros(features.shape[1]),
                        np.eye(features.shape[1])))
    solutions = np.full((len(values), i.size), np.nan)
    for k, weight in enumerate(weights.reshape(len(values), -1)):
        good = weight > 0
        if np.count_nonzero(good) < i.size:
            continue
        regressor = clone(estimator)
        if regressor.get_params().get('random_state', seed) is None:
            regressor.set_params(random_state=seed)
        options = {}
        if (np.ptp(weight[good]) > 0
                and has_fit_parameter(regressor, 'sample_weight')):
            options['sample_weight'] = weight[good]
        regressor.fit(features[good], values[k].ravel()[good], **options)
        constant, *others = regressor.predict(probes)
        solutions[k, 0] = constant
        if order > 0:
            solutions[k, 1:] = np.array(others) - constant
    return _as_matrix(solutions, order)


def _powers(x, order):
    """
    Return the powers 0 to ``order`` of x along a new last axis.
    """
    return np.asarray(x)[..., np.newaxis] ** np.arange(order + 1)


def _solve_on_grid(weights, weighted, x, y, order):
    """
    Solve the normal equations for given weights and weighted values; NaN where
    they are singular.
    """
    i, j = polynomial_terms(order)
    x_powers = _powers(x, 2 * order)
    y_powers = _powers(y, 2 * order)
    # Sums over a grid, one axis at a time, without the terms at all pixels.
    moments = y_powers.T @ (weights @ x_powers)
    matrix = moments[:, j[:, np.newaxis] + j, i[:, np.newaxis] + i]
    x_powers = x_powers[:, :order + 1]
    y_powers = y_powers[:, :order + 1]
    vector = (y_powers.T @ (weighted @ x_powers))[:, j, i]
    # Scaled to a unit diagonal, the condition number of the matrix is near
    # the smallest that any scaling gives (van der Sluis 1969, Numerische
    # Mathematik 14, 14).
    norm = np.sqrt(np.einsum('nii->ni', matrix))
    norm[norm == 0] = 1.0
    matrix = matrix / (norm[:, :, np.newaxis] * norm[:, np.newaxis])
    eigenvalues, vectors = np.linalg.eigh(matrix)
    singular = eigenvalues[:, 0] <= _RCOND * eigenvalues[:, -1]
    eigenvalues[singular] = np.nan
    rotated = np.einsum('nij,ni->nj', vectors, vector / norm) / eigenvalues
    return _as_matrix(np.einsum('nij,nj->ni', vectors, rotated) / norm, order)


def _as_matrix(solutions, order):
    """
    Convert coefficients in the order of the terms to square matrices.
    """
    i, j = polynomial_terms(order)
    coefficients = np.zeros((len(solutions), order + 1, order + 1))
    coefficients[:, j, i] = solutions
    return coefficients


def _huber_step(residual, weights, root, x, y, order, limit, *, newton):
    """
    Return the change of the coefficients that reduces the Huber
    function, by Newton's method or by reweighted least squares.

    The gradient is that of the residuals clipped at the limit. Pixels
    beyond it have a second derivative of zero; with reweighting they
    have the curvature of the parabola that majorizes the loss.
    """
    limit = limit[:, np.newaxis, np.newaxis]
    cut = np.clip(residual, -limit, limit)
    if newton:
        # quadratic convergence once the set of outliers no longer changes
        curvature = weights * (cut == residual)
    else:
        residual[residual == 0] = 1.0
        curvature = np.divide(cut, residual, out=residual)
        curvature[cut == 0] = 1.0
        curvature *= weights
    cut *= root
    return _solve_on_grid(curvature, cut, x, y, order)


def _huber_scale(residual, n_good, epsilon, scale):
    """
    Take a Newton step toward the scale that minimizes the Huber
    function: mean(min(r**2 / scale**2, epsilon**2)) = 1.

    The sum is concave in scale**2, so that the steps decrease
    monotonically to the solution from the largest possible value, the
    rms.
    """
    square = residual**2
    largest = square.sum(axis=(1, 2)) / n_good
    variance = np.minimum(scale**2, largest)
    limit = epsilon**2 * variance
    cut = np.minimum(square, limit[:, np.newaxis, np.newaxis])
    n_outliers = np.count_nonzero(cut != square, axis=(1, 2))
    inner = cut.sum(axis=(1, 2)) - n_outliers * limit
    degrees = n_good - epsilon**2 * n_outliers
    variance = np.where(degrees > 0, inner / np.maximum(degrees, 1.0),
                        largest)
    return np.sqrt(np.clip(variance, 0.0, largest))


def _solve_subsets(values, weights, x, y, order, n_subsets, rng):
    """
    Solve for the polynomial on random subsets of the pixels.

    Returns the solutions, of shape (n, n_subsets, n_terms), and the mask
    of those that exist.
    """
    i, j = polynomial_terms(order)
    n_images = len(values)
    good = (weights > 0).reshape(n_images, -1)
    n_good = good.sum(axis=1)
    # Pixels are drawn with replacement among the good ones, which this order
    # puts first.
    first_good = np.argsort(~good, axis=1, kind='stable')
    shape = (n_images, n_subsets * i.size)
    picks = (rng.random(shape) * n_good[:, np.newaxis]).astype(int)
    pixel = np.take_along_axis(first_good, picks, axis=1)
    picked = np.take_along_axis(values.reshape(n_images, -1), pixel, axis=1)
    rows, columns = np.divmod(pixel, x.size)

    shape = (n_images, n_subsets, i.size)
    matrix = ((x[columns][..., np.newaxis]**i)
              * (y[rows][..., np.newaxis]**j)).reshape(*shape, i.size)
    # (all elements are within [-1, 1], so that no scale is needed)
    solvable = np.abs(np.linalg.det(matrix)) > _RCOND
    solvable &= n_good[:, np.newaxis] >= i.size
    # Equal pixels make a singular system; solve rejects the whole stack then.
    matrix[~solvable] = np.eye(i.size)
    picked = picked.reshape(*shape, 1)
    return np.linalg.solve(matrix, picked)[..., 0], solvable


def _spatial_median(points, valid):
    """
    Return the point with the smallest sum of distances to the valid
    points (Weiszfeld's algorithm); NaN where there is none.

    The iterations start from the median of each coordinate, which is
    the result in one dimension.
    """
    n_valid = valid.sum(axis=1)
    ordered = np.sort(np.where(valid[..., np.newaxis], points, np.inf), axis=1)
    middle = np.array([n_valid - 1, n_valid]) // 2
    middle = np.clip(middle, 0, None)[..., np.newaxis, np.newaxis]
    median = 0.5 * (np.take_along_axis(ordered, middle[0], axis=1)
                    + np.take_along_axis(ordered, middle[1], axis=1))
    for _ in range(200 if points.shape[-1] > 1 else 0):
        distance = np.linalg.norm(points - median, axis=-1)
        # the iteration is not defined at one of the points (Vardi & Zhang
        # 2000, PNAS, 97, 1423)
        weights = valid / np.maximum(distance, _CONVERGED**2)
        total = np.maximum(weights.sum(axis=1), np.finfo(float).tiny)
        new = np.einsum('ns,nsk->nk', weights, points) / total[:, np.newaxis]
        change = np.abs(new - median[:, 0]).max()
        median = new[:, np.newaxis]
        if change < _CONVERGED:
            break
    return np.where(n_valid[:, np.newaxis] > 0, median[:, 0], np.nan)
