# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Chi-squared of stamps for all models of a grid at once.
"""

from typing import Any, NamedTuple

import numpy as np

from hyperphotutils.utils.lm import array_namespace

__all__ = ['GridMatch', 'Models', 'make_basis', 'match_grid']

# Every 20th model is compared with its representation in the basis.
_CHECK_STEP = 20


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


class Models(NamedTuple):
    """
    The models of a grid, as images or as sums of far fewer images.

    Models of neighboring parameters are alike: thousands of them are sums
    of some hundred images to 1e-5 of their norm. The products with all
    models then take a small part of the time.

    Parameters
    ----------
    images : array of shape (r, p)
        The models of unit flux, or the images whose sums they are.

    weights : array of shape (m, r), optional
        The weights of the sums.

    square_images : array of shape (r, p), optional
        The images whose sums are the squared models.

    square_weights : array of shape (m, r), optional
        Their weights.
    """

    images: Any
    weights: Any = None
    square_images: Any = None
    square_weights: Any = None

    def project(self, rows, *, squared=False):
        """
        Return the sums of the products of images and models.

        Parameters
        ----------
        rows : array of shape (g, p)
            The images.

        squared : bool, optional
            Whether the models are squared.

        Returns
        -------
        sums : array of shape (g, m)
            The sums.
        """
        turn = array_namespace(rows).matrix_transpose
        if self.weights is None:
            images = self.images * self.images if squared else self.images
            return rows @ turn(images)
        images, weights = ((self.square_images, self.square_weights)
                           if squared else (self.images, self.weights))
        return (rows @ turn(images)) @ turn(weights)


def make_basis(parts, n_models, n_pixels, *, rank, seed=0):
    """
    Find a basis of the models of a grid.

    Parameters
    ----------
    parts : callable
        It returns an iterator over slices of the models and their images,
        shape (k, p); it is called twice.

    n_models, n_pixels : int
        The number of models and of pixels.

    rank : int
        The number of images of the basis.

    seed : int, optional
        The seed of the random sums.

    Returns
    -------
    models : `Models`
        The sums.

    residual : float
        The largest relative norm of the residual of a model, or of a
        squared model.

    Notes
    -----
    The space of the models is that of random sums of them (Halko,
    Martinsson & Tropp 2011, SIAM Review 53, 217).
    """
    rng = np.random.default_rng(seed)
    sums = np.zeros((2, rank, n_pixels), dtype=np.float32)
    for _, images in parts():
        mixing = rng.standard_normal((rank, len(images)), dtype=np.float32)
        for total, values in zip(sums, (images, images * images),
                                 strict=True):
            norm = np.linalg.norm(values, axis=1, keepdims=True)
            total += (mixing / norm.T) @ values
    bases = [np.ascontiguousarray(np.linalg.qr(total.T)[0].T)
             for total in sums]
    weights = [np.empty((n_models, rank), dtype=np.float32)
               for _ in range(2)]
    residual = 0.0
    for part, images in parts():
        for basis, own, values in zip(
                bases, weights, (images, images * images), strict=True):
            own[part] = values @ basis.T
            some = values[::_CHECK_STEP]
            rest = np.linalg.norm(
                some - own[part][::_CHECK_STEP] @ basis, axis=1)
            residual = max(residual, np.max(
                rest / np.linalg.norm(some, axis=1)))
    return Models(bases[0], weights[0], bases[1], weights[1]), residual


def match_grid(models, data, weight, *, fit_sky=True):
    r"""
    Fit flux and sky of each model to each stamp.

    Parameters
    ----------
    models : `Models`
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
    xp = array_namespace(data)
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
    wmm = xp.astype(models.project(own, squared=True), xp.float64)
    if fit_sky:
        # one product is faster than two
        both = xp.astype(models.project(xp.concat((weighted, own), axis=0)),
                         xp.float64)
        wdm, wm = both[:data.shape[0], :], both[data.shape[0]:, :]
        # the weighted mean of the centered data is 0
        wmm = wmm - wm * wm / safe[:own.shape[0], None]
    else:
        wdm = xp.astype(models.project(weighted), xp.float64)
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
