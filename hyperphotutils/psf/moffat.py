# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Elliptical Moffat profiles that vary over the field.

The profile is the baseline of the empirical PSF: it is smooth, positive
in its wings, and fitted by few parameters, so that the pixel grid needs
to describe only the residuals of the Moffat profile.
"""

import numpy as np

__all__ = ['MoffatField', 'fit_moffat', 'moffat_images',
           'solve_templates']

# Nodes and weights of the Gauss-Legendre rule that integrates a profile
# over a pixel, along each axis.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(3)
_NODES, _WEIGHTS = 0.5 * _NODES, 0.5 * _WEIGHTS

# Largest ellipticity.
_MAX_ELLIPTICITY = 0.4

# The wing exponent and the variation over the field are poorly
# constrained by few or faint stars: mean and deviation of their priors.
_BETA_PRIOR = (3.2, 0.5)
_SLOPE_PRIOR = 0.1

_MAX_ITERATIONS = 30
_TOLERANCE = 1.0e-4


class MoffatField:
    """
    Parameters of an elliptical Moffat profile as polynomials of the
    position in the field.

    The coefficients ``(3, n_terms)`` are those of the logarithm of alpha
    squared (pixels) and of the two components of the ellipticity.
    """

    def __init__(self, coefficients, beta):
        self.coefficients = np.asarray(coefficients, dtype=float)
        self.beta = float(beta)

    def shapes(self, terms):
        """
        Return the parameters ``(n_positions, 3)`` for the polynomial terms
        of the positions; the ellipticity is at most 0.4 in size.
        """
        shapes = terms @ self.coefficients.T
        size = np.hypot(shapes[:, 1], shapes[:, 2])
        factor = _MAX_ELLIPTICITY / np.maximum(size, _MAX_ELLIPTICITY)
        shapes[:, 1:] *= factor[:, np.newaxis]
        return shapes

    @property
    def central_alpha(self):
        """
        The scale alpha at the center of the field (geometric mean of the
        axes, in pixels).
        """
        return float(np.exp(0.5 * self.coefficients[0, 0]))

    @property
    def central_fwhm(self):
        """
        The full width at half maximum there, before the integration over
        pixels.
        """
        return 2.0 * self.central_alpha * np.sqrt(2.0**(1.0 / self.beta) - 1)


def moffat_images(shapes, beta, x, y, x_grid, y_grid, *, derivatives=None):
    """
    Return pixel-integrated elliptical Moffat profiles of unit flux, shape
    ``(n, len(y_grid), len(x_grid))``.

    With ``derivatives='center'``, also returns their derivatives by x and
    y along a first axis; with ``'all'``, followed by those by the three
    parameters of ``shapes`` (see `MoffatField`) and beta.

    The profile is :math:`(\\beta - 1) / (\\pi \\alpha^2)
    (1 + q)^{-\\beta}`, where :math:`q = ((1 - e_1) x^2 + (1 + e_1) y^2
    - 2 e_2 x y) / (\\alpha^2 \\sqrt{1 - e_1^2 - e_2^2})` (Moffat 1969,
    A&A 3, 455). The integral over a pixel is that of a Gauss-Legendre
    rule with 3 nodes along each axis.
    """
    ln_alpha2, e1, e2 = shapes.T[:, :, np.newaxis, np.newaxis]
    root = np.sqrt(1.0 - e1**2 - e2**2)
    scale = 1.0 / (np.exp(ln_alpha2) * root)
    norm = (beta - 1.0) / np.pi * np.exp(-ln_alpha2)
    shape = (len(x), len(y_grid), len(x_grid))
    images = np.zeros(shape)
    n_slopes = {None: 0, 'center': 2, 'all': 6}[derivatives]
    slopes = np.zeros((n_slopes, *shape))
    for node_y, weight_y in zip(_NODES, _WEIGHTS, strict=True):
        dy = (y_grid + node_y)[np.newaxis, :, np.newaxis] - y[:, None, None]
        for node_x, weight_x in zip(_NODES, _WEIGHTS, strict=True):
            dx = (x_grid + node_x)[np.newaxis, np.newaxis] - x[:, None, None]
            q = scale * ((1.0 - e1) * dx**2 + (1.0 + e1) * dy**2
                         - 2.0 * e2 * dx * dy)
            log = np.log1p(q)
            value = weight_x * weight_y * norm * np.exp(-beta * log)
            images += value
            if derivatives is None:
                continue
            by_q = -beta * value / (1.0 + q)
            by_center = by_q * (2.0 * scale)
            slopes[0] -= by_center * ((1.0 - e1) * dx - e2 * dy)
            slopes[1] -= by_center * ((1.0 + e1) * dy - e2 * dx)
            if derivatives == 'all':
                slopes[2] -= value + by_q * q
                slopes[3] += by_q * (scale * (dy**2 - dx**2)
                                     + q * e1 / root**2)
                slopes[4] += by_q * (q * e2 / root**2
                                     - 2.0 * scale * dx * dy)
                slopes[5] += value * (1.0 / (beta - 1.0) - log)
    return images if derivatives is None else (images, slopes)


def fit_moffat(data, weights, x, y, terms, fwhm):
    """
    Fit one Moffat profile that varies over the field to many stars, and
    return it as a `MoffatField`.

    Each star has its own center, flux, and sky; they are eliminated
    from the normal equations of each Gauss-Newton step. Residuals are
    weighted down as in a Huber fit. ``weights`` are inverse variances,
    zero for bad pixels; the first of ``terms`` is 1.
    """
    n_terms = terms.shape[1]
    beta = _BETA_PRIOR[0]
    coefficients = np.zeros((3, n_terms))
    coefficients[0, 0] = 2.0 * np.log(
        0.5 * fwhm / np.sqrt(2.0**(1.0 / beta) - 1.0))
    # unknowns: the coefficients of the three shape parameters, and beta
    design = np.zeros((len(x), 4, 3 * n_terms + 1))
    for index in range(3):
        design[:, index, index * n_terms:(index + 1) * n_terms] = terms
    design[:, 3, -1] = 1.0
    prior = np.full((3, n_terms), _SLOPE_PRIOR**-2.0)
    prior[:, 0] = 0.0
    prior = np.append(prior, _BETA_PRIOR[1]**-2.0)

    half = data.shape[-1] // 2
    grid = np.arange(-half, half + 1.0)
    x, y = x.copy(), y.copy()
    previous = np.inf
    for _ in range(_MAX_ITERATIONS):
        field = MoffatField(coefficients, beta)
        image, slopes = moffat_images(field.shapes(terms), beta, x, y, grid,
                                      grid, derivatives='all')
        flux, sky = solve_templates([image, np.ones_like(image)], data,
                                    weights)[0].T
        if not np.any(flux > 0.0):
            msg = 'none of the stars has a positive flux'
            raise ValueError(msg)
        model = flux[:, None, None] * image + sky[:, None, None]
        residual = data - model
        # Include the error of the profile: otherwise the few brightest stars
        # would dominate the fit.
        variance = 1.0 / np.maximum(weights, 1e-300) + (
            0.03 * flux[:, None, None] * image)**2
        deviation = np.abs(residual) / np.sqrt(variance)
        weight = np.where(weights > 0.0, 1.0 / variance, 0.0)
        # Huber's weights (1964, Ann. Math. Stat. 35, 73)
        weight *= np.minimum(1.0, 2.0 / np.maximum(deviation, 1e-12))
        # shared parameters first, then the star's own
        slopes = flux[:, None, None] * slopes[[2, 3, 4, 5, 0, 1]]
        jacobian = np.concatenate([
            slopes, image[np.newaxis], np.ones_like(image)[np.newaxis]])
        step, own = _gauss_newton_step(
            jacobian, residual, weight, design, prior,
            np.append(coefficients, beta - _BETA_PRIOR[0]))
        step = np.clip(step, -0.3, 0.3)
        coefficients = coefficients + step[:-1].reshape(3, n_terms)
        beta = float(np.clip(beta + step[-1], 1.3, 8.0))
        x = x + np.clip(own[:, 0], -0.5, 0.5)
        y = y + np.clip(own[:, 1], -0.5, 0.5)
        size = np.abs(step).max()
        if size < _TOLERANCE or (size > 0.9 * previous < 10 * _TOLERANCE):
            break
        previous = size
    return MoffatField(coefficients, beta)


def solve_templates(templates, data, weight):
    """
    Return the factors of the templates whose sum fits each star best, and
    their errors, shape (n_stars, n_templates).
    """
    n = data.shape[0]
    design = np.stack(templates, axis=1).reshape(n, len(templates), -1)
    weighted = design * weight.reshape(n, 1, -1)
    normal = weighted @ design.transpose(0, 2, 1)
    vector = (weighted @ data.reshape(n, -1, 1))[:, :, 0]
    diagonal = np.einsum('nii->ni', normal)
    scale = np.sqrt(np.maximum(diagonal, 1e-300))
    normal = normal / (scale[:, :, None] * scale[:, None, :])
    # a small ridge: stars without any usable pixel keep their values
    normal = normal + 1e-10 * np.eye(len(templates))
    values = np.linalg.solve(normal, (vector / scale)[:, :, None])[:, :, 0]
    errors = np.sqrt(np.abs(np.einsum('nii->ni', np.linalg.inv(normal))))
    return values / scale, errors / scale


def _gauss_newton_step(jacobian, residual, weight, design, prior, values):
    """
    Solve for the shared parameters and each star's own.

    The rows of the Jacobian are 4 shared parameters of each star's shape
    (linear in the unknowns by ``design``), and 4 of its own.
    """
    n = residual.shape[0]
    jac = np.moveaxis(jacobian, 0, 1).reshape(n, 8, -1)
    weighted = jac * weight.reshape(n, 1, -1)
    normal = weighted @ jac.transpose(0, 2, 1)
    gradient = weighted @ residual.reshape(n, -1, 1)
    # eliminate the star's own parameters (Schur complement): the system of the
    # shared ones does not grow with the number of stars
    own = normal[:, 4:, 4:] + 1e-12 * np.eye(4) * np.maximum(
        np.trace(normal[:, 4:, 4:], axis1=1, axis2=2),
        1e-300)[:, None, None]
    mixed = normal[:, 4:, :4]
    inverse_mixed = np.linalg.solve(own, mixed)
    inverse_gradient = np.linalg.solve(own, gradient[:, 4:])
    schur = normal[:, :4, :4] - mixed.transpose(0, 2, 1) @ inverse_mixed
    right = gradient[:, :4] - mixed.transpose(0, 2, 1) @ inverse_gradient
    total = (design.transpose(0, 2, 1) @ schur @ design).sum(0)
    vector = (design.transpose(0, 2, 1) @ right).sum(0)[:, 0]
    scale = np.mean(np.diag(total)) * 1e-10
    step = np.linalg.solve(
        total + np.diag(prior) + scale * np.eye(len(prior)),
        vector - prior * values)
    own_step = (inverse_gradient - inverse_mixed @ (
        design @ step)[:, :, np.newaxis])[:, :, 0]
    return step, own_step
