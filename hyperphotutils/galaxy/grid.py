# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Chi-squared of stamps for all models of a grid at once.
"""

from typing import Any, NamedTuple

from hyperphotutils.utils.lm import array_namespace

__all__ = ['GridMatch', 'match_grid']


class GridMatch(NamedTuple):
    """
    The models of a grid, fitted to stamps in flux and sky.

    Parameters
    ----------
    chi2 : array of shape (g, m)
        The sum of the squared residuals.

    flux, sky : array of shape (g, m)
        The best flux and the best sky.
    """

    chi2: Any
    flux: Any
    sky: Any


def match_grid(models, data, weight, *, fit_sky=True):
    r"""
    Fit flux and sky of each model to each stamp.

    Parameters
    ----------
    models : array of shape (m, p)
        The models of unit flux.

    data : array of shape (g, p)
        The pixel values, finite.

    weight : array of shape (g, p)
        The inverse variances; 0 for masked pixels.

    fit_sky : bool, optional
        Whether there is a constant sky.

    Returns
    -------
    match : `GridMatch`
        Chi-squared, flux, and sky. Where no flux can be fitted, chi2 is
        that without a source.

    Notes
    -----
    With the sums :math:`\sum w d m`, :math:`\sum w m^2`, and
    :math:`\sum w m` as matrix products, each pair has two normal
    equations. The sums of the data alone are formed after the weighted
    mean has been subtracted, so that a bright sky costs no digits.
    """
    xp = array_namespace(models)
    turned = xp.matrix_transpose(models)
    total = xp.sum(weight, axis=1, dtype=xp.float64)
    safe = xp.where(total > 0.0, total, xp.ones_like(total))
    mean = xp.zeros_like(safe)
    if fit_sky:
        mean = xp.sum(weight * data, axis=1, dtype=xp.float64) / safe
    centered = data - xp.astype(mean, data.dtype)[:, None]
    weighted = weight * centered
    wdd = xp.sum(xp.astype(weighted, xp.float64)
                 * xp.astype(centered, xp.float64), axis=1)
    # stamps without a mask often have the same weights
    same = bool(xp.all(weight == weight[:1, :]))
    own = weight[:1, :] if same else weight
    wmm = xp.astype(own @ xp.matrix_transpose(models * models), xp.float64)
    if fit_sky:
        # one product is faster than two
        both = xp.astype(xp.concat((weighted, own), axis=0) @ turned,
                         xp.float64)
        wdm, wm = both[:data.shape[0], :], both[data.shape[0]:, :]
        # the weighted mean of the centered data is 0
        wmm = wmm - wm * wm / safe[:own.shape[0], None]
    else:
        wdm = xp.astype(weighted @ turned, xp.float64)
    useful = wmm > 0.0
    inverse = xp.where(useful, 1.0 / xp.where(useful, wmm,
                                              xp.ones_like(wmm)),
                       xp.zeros_like(wmm))
    flux = wdm * inverse
    chi2 = wdd[:, None] - flux * wdm
    sky = xp.zeros_like(flux)
    if fit_sky:
        sky = mean[:, None] - flux * wm / safe[:, None]
    return GridMatch(chi2, flux, sky)
