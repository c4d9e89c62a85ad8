# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Errors of fluxes from the errors of fixed positions and shapes.
"""

import numpy as np
from astropy.stats import gaussian_fwhm_to_sigma

from hyperphotutils.blend.solver import (
    AA,
    AB,
    AMPLITUDE,
    BB,
    N_PARAMS,
    X,
    Y,
    evaluate,
    flux_derivatives,
)
from hyperphotutils.utils.wcs import local_jacobian

__all__ = ['pixel_deviations', 'propagated_variances']


def pixel_deviations(wcs, init, ellipse, errors, turn):
    """
    Return errors on the sky as deviations in pixels, of shape (n, 5, 5): for
    each error, the changes of x, y, and the elements xx, xy, yy of the
    covariance matrix of the Gaussian.

    ``ellipse`` has the FWHMs in arcsec and the position angles in degrees, in
    the frame of the map. ``errors`` are ``lon``, ``lat`` (along the axes of
    the catalog), ``major``, ``minor`` in arcsec, and ``angle`` in degrees;
    those that are not finite are ignored. ``turn`` is the position angle of
    the North of the catalog in the frame of the map, in degrees.
    """
    turn = np.deg2rad(turn)
    major, minor, angle = ellipse
    # The local linear map from the sky to pixels; sources off the
    # projection have NaN, which pinv does not accept.
    inverse = np.linalg.pinv(np.nan_to_num(
        local_jacobian(wcs, init['x_init'], init['y_init'])))
    deviations = np.zeros((len(turn), 5, 5))
    # directions to the East and to the North of the catalog
    for k, (name, way) in enumerate((
            ('lon', (np.cos(turn), -np.sin(turn))),
            ('lat', (np.sin(turn), np.cos(turn))))):
        step = errors[name][:, None] * np.stack(way, axis=1)
        deviations[:, k, :2] = np.einsum('nij,nj->ni', inverse, step)
    # With the unit vectors u along the major and v along the minor axis, the
    # matrix on the sky is s^2 (a^2 u u^T + b^2 v v^T). As du = v dphi and
    # dv = -u dphi, it changes by s^2 times 2 a u u^T da, 2 b v v^T db, and
    # (a^2 - b^2) (u v^T + v u^T) dphi.
    angle = np.deg2rad(angle)
    along = np.stack((np.sin(angle), np.cos(angle)), axis=1)
    across = np.stack((np.cos(angle), -np.sin(angle)), axis=1)
    square = gaussian_fwhm_to_sigma**2
    for k, (size, one, other) in enumerate((
            (major * errors['major'], along, along),
            (minor * errors['minor'], across, across),
            ((major**2 - minor**2) * np.deg2rad(errors['angle']),
             along, across)), start=2):
        change = one[:, :, None] * other[:, None, :]
        change = change + np.swapaxes(change, 1, 2)
        change *= square * size[:, None, None]
        # C' = J C J^T
        change = inverse @ change @ np.swapaxes(inverse, 1, 2)
        deviations[:, k, 2:] = change[:, [0, 0, 1], [0, 1, 1]]
    return np.where(np.isfinite(deviations), deviations, 0.0)


def propagated_variances(responses, deviations, apertures, known, *,
                         fraction, correction, beam=None):
    """
    Return the variances of fluxes and of aperture fluxes due to fixed
    positions and shapes; 0 without a fit.

    The change of a flux is linear in the deviations of all sources of the
    group, which are correlated as in a free fit on the map. An aperture flux
    changes with the source's own Gaussian and with the subtracted models of
    the group. ``apertures`` has only the ``known`` sources, and ``fraction``
    is that of a Gaussian's flux inside its aperture.
    """
    variances = np.zeros((2, len(known)))
    place = np.cumsum(known) - 1
    for rows, sources, response, correlation in responses:
        # A flux depends on its own shape, too, not on amplitude alone.
        _, own = flux_derivatives(sources, beam)
        flux = own[:, :, AMPLITUDE, None] * response
        source = np.arange(sources.shape[1])
        for param in (AA, AB, BB):
            flux[:, source, N_PARAMS * source + param] += own[:, :, param]
        # The sum in an aperture is that of the map minus the models of the
        # group, plus the Gaussian of the source itself.
        aperture = correction[rows][:, :, None] * (
            fraction * flux - _model_in_apertures(
                apertures, place[rows], sources, response, beam))
        # The covariance matrix along the axes of a Gaussian, R^T C R.
        xx, xy, yy = np.moveaxis(deviations[rows][..., 2:], -1, 0)
        cos, sin = (function(sources[:, :, 5])[:, :, None]
                    for function in (np.cos, np.sin))
        steps = np.zeros((*xx.shape, N_PARAMS))
        steps[..., [X, Y]] = deviations[rows][..., :2]
        steps[..., AA] = cos**2 * xx + 2.0 * cos * sin * xy + sin**2 * yy
        steps[..., AB] = (cos**2 - sin**2) * xy + cos * sin * (yy - xx)
        steps[..., BB] = sin**2 * xx - 2.0 * cos * sin * xy + cos**2 * yy
        # The errors of a catalog are independent: their contributions to a
        # parameter add in quadrature. Those to a flux are correlated.
        error = np.sqrt(np.sum(steps**2, axis=2)).reshape(len(rows), 1, -1)
        for k, slope in enumerate((flux, aperture)):
            change = slope * error
            variances[k][rows] = np.sum((change @ correlation) * change,
                                        axis=2)
    return variances


def _model_in_apertures(apertures, place, sources, response, beam):
    """
    Return the derivatives of the sums of a group's models in the
    aperture of each source.
    """
    n_groups = len(place)
    none = np.zeros((n_groups, 0))
    slopes = np.empty_like(response)
    for i, row in enumerate(place.T):
        _, jacobian = evaluate(
            sources, none, apertures.cols[row].astype(float),
            apertures.rows[row].astype(float), apertures.weights[row],
            np.zeros((n_groups, 0, apertures.weights.shape[1])), beam=beam)
        # The weights are the overlaps of pixels: a sum over the aperture.
        sums = jacobian.sum(axis=2)
        # Amplitudes are not free: they respond to positions and shapes.
        own = sums[:, AMPLITUDE::N_PARAMS]
        sums[:, AMPLITUDE::N_PARAMS] = 0.0
        slopes[:, i] = sums + (own[:, None, :] @ response)[:, 0]
    return slopes
