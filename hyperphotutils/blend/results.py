# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The result table and the astropy models of a fit.
"""

import numpy as np
from astropy.stats import gaussian_sigma_to_fwhm
from astropy.table import QTable

from hyperphotutils.background.selection import reduced_chi2
from hyperphotutils.blend.bias import unbiased_sources
from hyperphotutils.blend.covariance import SourceCovariance
from hyperphotutils.blend.footprints import background_basis, make_footprints
from hyperphotutils.blend.models import (
    covariance_of_model,
    make_group_model,
    tangent_scale,
)
from hyperphotutils.blend.quality import fit_quality
from hyperphotutils.blend.solver import (
    AA,
    AB,
    AMPLITUDE,
    BB,
    N_PARAMS,
    X,
    Y,
    flux_derivatives,
)
from hyperphotutils.catalog.columns import describe_columns
from hyperphotutils.utils.flags import FLAGS
from hyperphotutils.utils.gaussians import wrap_angle
from hyperphotutils.utils.tables import result_meta

__all__ = ['as_init_params', 'make_covariance', 'make_models', 'make_table']

# The error of an angle that is not known at all: the standard deviation
# of a uniform distribution over 180 degrees.
_UNKNOWN_ANGLE = 180.0 / np.sqrt(12.0)
# A width or position this near to its bound (relative) is at its bound.
_AT_BOUND = 1e-9

_ERRORS = ('amplitude_err', 'x_err', 'y_err', 'fwhm_major_err',
           'fwhm_minor_err', 'theta_err', 'flux_err')
_QUALITY = ('local_bkg', 'nmse', 'reduced_chi2', 'bic')
_COLUMNS = ('id', 'group_id', 'group_size', 'x_init', 'y_init', 'x_fit',
            'y_fit', 'x_err', 'y_err', 'amplitude_fit', 'amplitude_err',
            'fwhm_major_fit', 'fwhm_major_err', 'fwhm_minor_fit',
            'fwhm_minor_err', 'theta_fit', 'theta_err', 'flux_fit',
            'flux_err', 'local_bkg', 'bkg_order', 'bkg_method', 'bkg_size',
            'nmse', 'reduced_chi2', 'bic', 'n_pixels_fit', 'flags')


def make_table(fit, unit, config):
    """
    Return the result table of a fit, one row for each source.
    """
    n_sources = len(fit.flags)
    columns = {name: np.full(n_sources, np.nan)
               for name in (*_ERRORS, *_QUALITY, 'amplitude_fit', 'x_fit',
                            'y_fit', 'fwhm_major_fit', 'fwhm_minor_fit',
                            'theta_fit', 'flux_fit')}
    columns |= {name: np.zeros(n_sources, dtype=int)
                for name in ('group_size', 'n_pixels_fit')}
    flags = fit.flags.copy()
    for batch in fit.batches:
        _fill(columns, flags, fit, batch)
    columns |= {
        'id': fit.start.id, 'group_id': fit.group_id,
        'x_init': fit.start.x, 'y_init': fit.start.y,
        'bkg_order': fit.poly_order,
        'bkg_method': np.full(n_sources, 'joint'),
        'bkg_size': np.full(n_sources, 2.0 * config.fit_radius),
        'flags': flags}
    table = QTable({name: columns[name] for name in _COLUMNS},
                   meta=result_meta(config))
    return describe_columns(table, unit=unit)


def as_init_params(table, *, remove_invalid=True, reset_ids=True):
    """
    Return initial values from the results of a fit, without the rows that have
    none if ``remove_invalid``, then numbered from 1 if ``reset_ids``.
    """
    names = ('x', 'y', 'fwhm_major', 'fwhm_minor', 'theta')
    init = QTable({'id': table['id'], 'group_id': table['group_id']}
                  | {f'{name}_init': table[f'{name}_fit'] for name in names})
    if remove_invalid:
        init = init[np.all([np.isfinite(init[f'{name}_init'])
                            for name in names], axis=0)]
        if reset_ids:
            init['id'] = np.arange(1, len(init) + 1)
    return init


def make_models(fit):
    """
    Yield the details of the fit of each group and its astropy model.
    """
    scale = fit.config.fit_radius
    for batch in fit.batches:
        result = batch.result
        covariance = _scaled_covariance(fit, batch)
        for k, members in enumerate(batch.members):
            model = make_group_model(result.sources[k], result.coeffs[k],
                                     *batch.centers[k], scale, fit.beam)
            info = {'group_id': int(fit.group_id[members[0]]),
                    'id': fit.start.id[members],
                    'n_iter': int(result.n_iter[k]),
                    'converged': bool(result.converged[k]),
                    'chi2': float(result.chi2[k]),
                    'n_pixels': int(batch.n_pixels[k]),
                    'covariance': covariance_of_model(
                        covariance[k], result.sources[k])}
            yield info, model


def make_covariance(fit):
    """
    Return the covariances within sources and between companions, in the order
    of the sources.
    """
    return SourceCovariance.from_batches(fit.start.id, (
        (batch.members, batch.result.sources, _scaled_covariance(fit, batch))
        for batch in fit.batches), beam=fit.beam)


def _fill(columns, flags, fit, batch):
    """
    Fill the rows of the sources of a batch.
    """
    rows, result = batch.members, batch.result
    n_params = result.covariance.shape[1]
    covariance = _scaled_covariance(fit, batch)
    sources = result.sources
    fitted = (np.all(np.isfinite(sources), axis=(1, 2))
              & (batch.n_pixels > n_params))
    values = _values(fit, batch, covariance)
    values |= _errors(sources, covariance, fit.beam)
    quality = {name: value[:, None] for name, value in
               fit_quality(batch, fit.absolute).items()}
    basis = background_basis(sources[:, :, X], sources[:, :, Y],
                             *batch.centers.T, fit.config.fit_radius,
                             batch.poly_order)
    quality['local_bkg'] = np.sum(result.coeffs[:, :, None] * basis, axis=1)
    for name, value in (values | quality).items():
        columns[name][rows] = np.where(fitted[:, None], value, np.nan)
    columns['group_size'][rows] = rows.shape[1]
    columns['n_pixels_fit'][rows] = batch.n_pixels[:, None]
    _set_flags(flags, fit, batch, fitted, covariance)


def _scaled_covariance(fit, batch):
    """
    Return the covariance, scaled by the variance of the residuals when
    the errors of the pixels are not known.
    """
    covariance = batch.result.covariance
    if fit.absolute:
        return covariance
    return covariance * _residual_variance(batch)[:, None, None]


def _residual_variance(batch):
    """
    Return the variance of the weighted residuals, NaN when it is not
    known.
    """
    variance = reduced_chi2(batch.result.chi2, batch.n_pixels,
                            batch.result.covariance.shape[1])
    return np.where(np.isfinite(variance), variance, np.nan)


def _values(fit, batch, covariance):
    """
    Return the fitted columns.
    """
    state = batch.result.sources
    flux, _ = flux_derivatives(state, fit.beam)
    if batch.bias is not None:
        bias = batch.bias
        if not fit.absolute:
            bias = bias * _residual_variance(batch)[:, None]
        first = N_PARAMS * np.arange(state.shape[1])[:, None]
        own = first + np.arange(N_PARAMS)
        state, flux = unbiased_sources(
            state, covariance[:, own[:, :, None], own[:, None, :]],
            bias[:, own], fit.var_bounds, fit.beam)
    amplitude, x, y, var_major, var_minor, theta = np.moveaxis(state, 2, 0)
    return {'amplitude_fit': amplitude, 'x_fit': x, 'y_fit': y,
            'fwhm_major_fit': np.sqrt(var_major) * gaussian_sigma_to_fwhm,
            'fwhm_minor_fit': np.sqrt(var_minor) * gaussian_sigma_to_fwhm,
            'theta_fit': wrap_angle(np.rad2deg(theta)), 'flux_fit': flux}


def _errors(sources, covariance, beam):
    """
    Return the errors of the columns by linear propagation.
    """
    n_sources = sources.shape[1]
    first = N_PARAMS * np.arange(n_sources)

    def cov(i, j):
        return covariance[:, first + i, first + j]

    def err(i):
        return np.sqrt(cov(i, i))

    # The derivatives of widths and angle are diagonal in the axes of the
    # ellipse; a round source has no angle.
    d_major, d_minor, d_theta = tangent_scale(sources)
    with np.errstate(divide='ignore', invalid='ignore'):
        theta_err = np.rad2deg(np.where(d_theta > 0.0, err(AB) / d_theta,
                                        np.where(err(AB) > 0, np.inf, 0.0)))
    theta_err = np.where(np.isfinite(err(AB)),
                         np.minimum(theta_err, _UNKNOWN_ANGLE), np.nan)
    _, slopes = flux_derivatives(sources, beam)
    # The flux does not depend on the position. Amplitude and widths are
    # strongly anticorrelated: without covariances its error is too large.
    by_shape = (AMPLITUDE, AA, AB, BB)
    flux_var = sum(slopes[:, :, i] * slopes[:, :, j] * cov(i, j)
                   for i in by_shape for j in by_shape)
    return {'amplitude_err': err(AMPLITUDE), 'x_err': err(X),
            'y_err': err(Y),
            'fwhm_major_err': gaussian_sigma_to_fwhm * err(AA) / d_major,
            'fwhm_minor_err': gaussian_sigma_to_fwhm * err(BB) / d_minor,
            'theta_err': theta_err,
            'flux_err': np.sqrt(np.maximum(flux_var, 0.0))}


def _set_flags(flags, fit, batch, fitted, covariance):
    """
    Set the flags of the sources of a batch.
    """
    rows, result = batch.members, batch.result
    n_params = result.covariance.shape[1]
    foot = make_footprints(fit.start.x[rows], fit.start.y[rows], fit.mask,
                           fit.config.fit_radius, fit.step)
    few = batch.n_pixels <= n_params
    variances = result.sources[:, :, 3:5]
    low, high = fit.var_bounds
    at_width = np.any((variances <= low * (1.0 + _AT_BOUND))
                      | (variances >= high * (1.0 - _AT_BOUND)), axis=2)
    start = np.stack((fit.start.x[rows], fit.start.y[rows]), axis=2)
    shift = np.abs(result.sources[:, :, X:Y + 1] - start)
    at_edge = np.any(shift >= fit.config.max_shift * (1.0 - _AT_BOUND),
                     axis=2)
    at_bound = ((at_width & ('shape' not in fit.config.fixed))
                | (at_edge & ('position' not in fit.config.fixed)))
    singular = ~np.isfinite(covariance[:, 0, 0])
    for name, chosen in (
            ('too_few_pixels', few[:, None]),
            ('non_finite_flux', (~fitted & ~few)[:, None]),
            ('no_convergence', (fitted & ~result.converged)[:, None]),
            ('no_covariance', (fitted & singular)[:, None]),
            ('near_bound', fitted[:, None] & at_bound),
            ('n_pixels_fit_partial', foot.partial)):
        flags[rows] |= np.where(chosen, FLAGS[name], 0)
