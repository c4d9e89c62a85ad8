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
    The models of a grid, fitted to stamps in flux and sky: the sums of
    the squared residuals, and the best fluxes and skies, shape (g, m).
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

    Without weights (m, r), the images (r, p) are the models of unit flux;
    with weights, the models are sums of them. The squared models are
    other sums, of images of their own.
    """

    images: Any
    weights: Any = None
    square_images: Any = None
    square_weights: Any = None

    def project(self, rows, *, squared=False):
        """
        Return the sums (g, m) of the products of images (g, p) and of all
        models, or of the squared models.
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
    Return a basis of ``rank`` images as `Models`, and the largest
    relative norm of the residual of a model or of a squared model.

    ``parts`` returns an iterator over slices of the models and their
    images (k, p), and is called twice. The space of the models is that of
    random sums of them (Halko, Martinsson & Tropp 2011, SIAM Review 53,
    217).
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
    Fit flux and sky of each model to each stamp, and return a
    `GridMatch`; where no flux can be fitted, chi2 is that without a
    source.

    ``data`` (g, p) must be finite, ``weight`` (g, p) is the inverse
    variance, 0 for masked pixels. With the sums :math:`\sum w d m`,
    :math:`\sum w m^2`, and :math:`\sum w m` as matrix products, each pair
    has two normal equations. The sums of the data alone are formed after
    the weighted mean has been subtracted, so that a bright sky costs no
    digits.
    """
    xp = array_namespace(data)
    # matrix products take 0.14 ms a stamp of 41 pixels for 600 models
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
