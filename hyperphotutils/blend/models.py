# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fitted groups as astropy models, and fits by astropy fitters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from astropy.modeling import Fittable2DModel, Parameter
from astropy.modeling.models import Gaussian2D, Polynomial2D
from astropy.modeling.utils import poly_map_domain
from numpy.typing import ArrayLike

from hyperphotutils.background.regressors import polynomial_terms
from hyperphotutils.blend.solver import (
    AA,
    AB,
    BB,
    N_PARAMS,
    BatchResult,
    X,
    Y,
    evaluate,
    evaluate_sources,
)

if TYPE_CHECKING:
    from astropy.modeling import CompoundModel

    from hyperphotutils.blend.beams import BeamProfile

__all__ = ['make_group_model']


def make_group_model(sources: ArrayLike, coeffs: ArrayLike, x_center: float,
                     y_center: float, scale: float,
                     beam: BeamProfile | None = None) -> CompoundModel:
    """
    Return the astropy model of a group: Gaussians and a polynomial.

    Parameters
    ----------
    sources : array_like of shape (n, 6)
        The ``amplitude, x, y, var_major, var_minor, theta`` of each
        source: variances in square pixels, the angle in radians.

    coeffs : array_like of shape (k,)
        The coefficients of the terms that
        `~hyperphotutils.background.polynomial_terms` lists.

    x_center, y_center : float
        The pixel coordinates of the origin of the polynomial.

    scale : float
        The length in pixels that the polynomial's domain maps to 1.

    beam : `~hyperphotutils.blend.BeamProfile`, optional
        The measured beam; a Gaussian by default.

    Returns
    -------
    model : `~astropy.modeling.CompoundModel`
        The sum of ``n`` `~astropy.modeling.functional_models.Gaussian2D`
        (with a ``beam``, of models with the same parameters) and one
        `~astropy.modeling.polynomial.Polynomial2D`, in pixel
        coordinates.

    Examples
    --------
    >>> from hyperphotutils.blend import make_group_model
    >>> model = make_group_model([[2.0, 5.0, 6.0, 3.0, 2.0, 0.0]], [0.5],
    ...                          5.0, 6.0, 8.0)
    >>> print(model(5.0, 6.0))
    2.5
    """
    order = _poly_order(len(coeffs))
    model = None
    for amplitude, x, y, var_major, var_minor, theta in sources:
        gauss = Gaussian2D(amplitude, x, y, np.sqrt(var_major),
                           np.sqrt(var_minor), theta=theta)
        if beam is not None:
            gauss = _ConvolvedGaussian2D(*gauss.parameters)
            gauss.beam = beam
        model = gauss if model is None else model + gauss
    if order < 0:
        return model
    terms = {f'c{i}_{j}': value for i, j, value in
             zip(*polynomial_terms(order), coeffs, strict=True)}
    return model + _LocalPolynomial2D(
        order, x_domain=(x_center - scale, x_center + scale),
        y_domain=(y_center - scale, y_center + scale), **terms)


class _ConvolvedGaussian2D(Fittable2DModel):
    """
    A Gaussian convolved with a measured beam, with the parameters of
    `~astropy.modeling.functional_models.Gaussian2D`: those of
    `~hyperphotutils.blend.BeamProfile`.
    """

    amplitude, x_mean, y_mean = Parameter(1.0), Parameter(0.0), Parameter(0.0)
    x_stddev, y_stddev, theta = Parameter(1.0), Parameter(1.0), Parameter(0.0)
    beam = None

    def evaluate(self, x, y, amplitude, x_mean, y_mean, x_stddev, y_stddev,
                 theta):
        """
        Return the sum of the Gaussians of the beam.
        """
        values = np.stack([np.ravel(value)[0] for value in (
            amplitude, x_mean, y_mean, x_stddev, y_stddev, theta)])
        state = values * np.array([1.0, 1.0, 1.0, *values[3:5], 1.0])
        x, y = np.broadcast_arrays(np.asarray(x, float), y)
        return evaluate_sources(state[None, None], x.reshape(1, -1),
                                y.reshape(1, -1), np.ones((1, x.size)),
                                self.beam).reshape(x.shape)


class _LocalPolynomial2D(Polynomial2D):
    """
    A polynomial whose derivatives take its domain into account.

    Those of `~astropy.modeling.polynomial.Polynomial2D` do not (astropy
    8.0), which misleads the fitters.
    """

    def fit_deriv(self, x, y, *params):
        return super().fit_deriv(
            poly_map_domain(x, self.x_domain, self.x_window),
            poly_map_domain(y, self.y_domain, self.y_window), *params)


def fit_with_astropy(fitter, problem, sources, coeffs, centers, scale):
    """
    Fit the groups of a batch one by one with an astropy fitter; return the
    same `~hyperphotutils.blend.solver.BatchResult` as the kernel.

    ``scale`` is the length that the domain of the polynomial maps to 1.
    """
    sources, coeffs = sources.copy(), coeffs.copy()
    n_sources = sources.shape[1]
    covariance = np.full((*problem.free.shape, problem.free.shape[1]),
                         np.nan)
    converged = np.zeros(len(sources), dtype=bool)
    n_iter = np.zeros(len(sources), dtype=int)
    for k in range(len(sources)):
        model = make_group_model(sources[k], coeffs[k], *centers[k], scale,
                                 problem.beam)
        _constrain(model, problem, k)
        used = problem.weight[k] > 0.0
        weight = problem.weight[k, used]
        fitted = fitter(model, problem.x[k, used], problem.y[k, used],
                        problem.data[k, used] / weight, weights=weight)
        info = fitter.fit_info or {}
        n_iter[k] = info.get('nfev', 0)
        converged[k] = info.get('ierr', info.get('status', 1)) in range(1, 5)
        sources[k], coeffs[k], swapped = _state_of_model(fitted, n_sources)
        cov = info.get('param_cov')
        if cov is not None:
            # from the free parameters of the model to tangent coordinates
            order, slope = _tangent_map(sources[k], len(covariance[k]),
                                        swapped)
            used = problem.free[k][order]
            target, slope = order[used], slope[used]
            covariance[k] = 0.0
            covariance[k][np.ix_(target, target)] = (
                np.asarray(cov) * slope[:, None] * slope[None, :])
    model, _ = evaluate(sources, coeffs, problem.x, problem.y,
                        problem.weight, problem.basis, beam=problem.beam)
    chi2 = np.sum((model - problem.data)**2, axis=1)
    return BatchResult(sources, coeffs, covariance, chi2, n_iter, converged)


def _constrain(model, problem, k):
    """
    Set the bounds and the fixed parameters.
    """
    n_sources = problem.xy_low.shape[1]
    free = problem.free[k, :N_PARAMS * n_sources].reshape(n_sources, -1)
    sigmas = (np.sqrt(problem.var_low), np.sqrt(problem.var_high))
    for i in range(n_sources):
        gauss = model[i]
        for axis, name, param in ((0, 'x_mean', X), (1, 'y_mean', Y)):
            getattr(model, f'{name}_{i}').bounds = (
                problem.xy_low[k, i, axis], problem.xy_high[k, i, axis])
            getattr(model, f'{name}_{i}').fixed = not free[i, param]
        for name in ('x_stddev', 'y_stddev'):
            getattr(model, f'{name}_{i}').bounds = sigmas
            getattr(model, f'{name}_{i}').fixed = not free[i, AA]
        getattr(model, f'theta_{i}').fixed = not free[i, AB]
        # A round start would leave the angle without a derivative.
        if free[i, AA] and gauss.x_stddev.value == gauss.y_stddev.value:
            setattr(model, f'x_stddev_{i}',
                    min(1.05 * gauss.x_stddev.value, sigmas[1]))
            setattr(model, f'y_stddev_{i}',
                    max(0.95 * gauss.y_stddev.value, sigmas[0]))


def _state_of_model(model, n_sources):
    """
    Return the kernel's state of a fitted model, and which of its
    Gaussians had their major axis along y.
    """
    sources = model.parameters[:N_PARAMS * n_sources].reshape(n_sources, -1)
    swapped = sources[:, 4] > sources[:, 3]
    sources[:, 3:5] = np.sort(sources[:, 3:5]**2, axis=1)[:, ::-1]
    sources[swapped, 5] += np.pi / 2.0
    if model.n_submodels == n_sources:
        return sources, [], swapped
    poly = model[n_sources]
    order = poly.degree
    coeffs = [getattr(poly, f'c{i}_{j}').value for i, j in
              zip(*polynomial_terms(order), strict=True)]
    return sources, coeffs, swapped


def tangent_scale(sources):
    """
    Return the derivatives of ``aa``, ``bb``, and ``ab`` with respect to the
    standard deviations along the major and the minor axis, and the angle.
    """
    return (2.0 * np.sqrt(sources[..., 3]), 2.0 * np.sqrt(sources[..., 4]),
            sources[..., 3] - sources[..., 4])


def covariance_of_model(covariance, sources):
    """
    Convert the covariance of a group from tangent coordinates to the
    parameters of the astropy model, in its order; infinite for the angle of a
    round source.
    """
    order, scale = _tangent_map(sources, len(covariance))
    with np.errstate(divide='ignore', invalid='ignore'):
        return covariance[np.ix_(order, order)] / (scale[:, None]
                                                   * scale[None, :])


def _tangent_map(sources, n_all, swapped=None):
    """
    Return for each model parameter the index of its tangent coordinate,
    and the derivative of that with respect to the parameter.
    """
    n_coords = N_PARAMS * len(sources)
    order, scale = np.arange(n_all), np.ones(n_all)
    d_major, d_minor, d_theta = tangent_scale(sources)
    for i in range(len(sources)):
        along = [AA, BB, AB]
        derivative = [d_major[i], d_minor[i], d_theta[i]]
        if swapped is not None and swapped[i]:
            along[:2] = along[1::-1]
            derivative[:2] = derivative[1::-1]
        block = slice(N_PARAMS * i + 3, N_PARAMS * (i + 1))
        order[block] = N_PARAMS * i + np.array(along)
        scale[block] = derivative
    poly_order = _poly_order(n_all - n_coords)
    if poly_order < 0:
        return order, scale
    terms = [f'c{i}_{j}' for i, j in
             zip(*polynomial_terms(poly_order), strict=True)]
    order[n_coords:] = n_coords + np.array(
        [terms.index(name) for name in Polynomial2D(poly_order).param_names])
    return order, scale


def _poly_order(n_coeffs):
    """
    Return the degree of a polynomial from the number of its terms.
    """
    return round((np.sqrt(8 * n_coeffs + 1) - 3) / 2)
