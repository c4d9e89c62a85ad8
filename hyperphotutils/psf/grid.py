# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
A grid of cubic B-splines whose coefficients vary over the field, and the
linear problem for them.

All stars share the grid. As the pixels of a star all have the same
offset to the knots, each star needs only one set of spline weights, and
the normal matrix is a band that is summed without a sparse matrix.
"""

import numpy as np
from scipy.linalg import cho_solve_banded, cholesky_banded
from scipy.linalg.blas import dtbsv

__all__ = [
    'SplineGrid',
    'cubic_bspline',
    'polynomial_powers',
    'polynomial_terms',
]


def polynomial_powers(order):
    """
    Return the powers of x and y of a polynomial, those of x fastest.

    They are sorted as in PSFEx: 1, x, x^2, y, x y, y^2 for order 2.
    """
    return [(i, j) for j in range(order + 1) for i in range(order + 1 - j)]


def polynomial_terms(u, v, order):
    """
    Return the terms of a polynomial, shape ``(n_positions, n_terms)``.
    """
    return np.stack([u**i * v**j for i, j in polynomial_powers(order)],
                    axis=-1)


def cubic_bspline(place):
    """
    Return the cubic B-spline at distances from its knot, in knots.
    """
    distance = np.abs(place)
    return np.where(distance < 1.0,
                    2 / 3 - distance**2 * (1.0 - 0.5 * distance),
                    np.maximum(2.0 - distance, 0.0)**3 / 6)


class SplineGrid:
    """
    Uniform cubic B-splines on a square grid around the center of the
    PSF, with ``oversampling`` knots a pixel, for images of stars with
    ``2 * half + 1`` pixels a side.
    """

    # farthest offset of a center from its pixel, in pixels
    max_offset = 1.0

    def __init__(self, half, oversampling=1):
        self.half = half
        self.oversampling = oversampling
        self.reach = half * oversampling + int(
            np.ceil(self.max_offset * oversampling)) + 2
        self.size = 2 * self.reach + 1
        self.knots = np.arange(-self.reach, self.reach + 1) / oversampling

    def taps(self, offset, derivative=0):
        """
        Return the index of the first knot for the first pixel, and the
        spline weights ``(n_stars, n_taps)`` or their derivatives by the
        offset of the center from its pixel.

        Pixel ``i`` of a star is the sum of the coefficients from ``first +
        i * oversampling`` on, times the weights.
        """
        # the four pieces of a cubic B-spline (de Boor 1978, A Practical Guide
        # to Splines)
        place = np.clip(-offset, -self.max_offset,
                        self.max_offset) * self.oversampling
        whole = np.floor(place).astype(int)
        t = place - whole
        if derivative:
            weights = self.oversampling * np.stack([
                0.5 * (1 - t)**2, -1.5 * t**2 + 2 * t,
                1.5 * t**2 - t - 0.5, -0.5 * t**2], axis=1)
        else:
            weights = np.stack([
                (1 - t)**3, 3 * t**3 - 6 * t**2 + 4,
                -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
        lowest, highest = whole.min(), whole.max()
        padded = np.zeros((len(place), 4 + highest - lowest))
        rows = np.arange(len(place))
        for tap in range(4):
            padded[rows, whole - lowest + tap] = weights[:, tap]
        first = self.reach - self.half * self.oversampling + lowest - 1
        return first, padded

    def images(self, coefficients, x, y, derivative=(0, 0)):
        """
        Return the images ``(n_stars, n, n)`` of stars, or their derivatives
        by x and y; the centers are relative to the central pixel.
        """
        first_y, taps_y = self.taps(y, derivative[1])
        first_x, taps_x = self.taps(x, derivative[0])
        rows = sum(taps_y[:, tap, None, None]
                   * coefficients[:, self._slice(first_y + tap)]
                   for tap in range(taps_y.shape[1]))
        return sum(taps_x[:, tap, None, None]
                   * rows[:, :, self._slice(first_x + tap)]
                   for tap in range(taps_x.shape[1]))

    def _slice(self, first):
        step = self.oversampling
        return slice(first, first + 2 * self.half * step + 1, step)

    def solve(self, target, weights, flux, x, y, terms, prior, *,
              n_draws=0, seed=0):
        """
        Solve for the coefficients ``(n_terms, size, size)`` of all terms.

        The splines are fitted to ``target``, an image for each star, with
        inverse variances as weights and the band of `prior`. Also returns
        draws ``(n_draws, n_terms, size, size)`` of what the noise of the data
        adds to the coefficients.
        """
        n_terms = terms.shape[1]
        # A pixel depends on 16 of about 1000 coefficients: the matrix is a
        # band, which a Cholesky factorization keeps.
        band, right = self._normal_equations(target, weights, flux, x, y,
                                             terms)
        for (dy, dx), values in prior.items():
            for k in range(n_terms):
                band[dy, dx][k, k] += values
        # the lower band of the symmetric matrix; the unknowns are ordered by
        # knot, and by term for each knot
        matrix = np.zeros(((3 * self.size + 4) * n_terms,
                           self.size**2 * n_terms))
        for (dy, dx), values in band.items():
            shift = (dy * self.size + dx) * n_terms
            for k, m in np.ndindex(n_terms, n_terms):
                row = shift + m - k
                # the coupling of term k here with term m there
                if row >= 0:
                    matrix[row, k::n_terms] = values[k, m].ravel()
        vector = right.transpose(1, 2, 0).reshape(-1)
        factor = cholesky_banded(matrix, lower=True, overwrite_ab=True,
                                 check_finite=False)
        solution = cho_solve_banded((factor, True), vector,
                                    check_finite=False)
        # with the normal matrix L L^T, the solution of L^T x = z for
        # random z has the covariance of the coefficients
        noise = np.random.default_rng(seed).standard_normal(
            (n_draws, len(vector)))
        draws = [dtbsv(factor.shape[0] - 1, factor, z, lower=1, trans=1)
                 for z in noise]
        shape = (self.size, self.size, n_terms)
        return (solution.reshape(shape).transpose(2, 0, 1),
                np.reshape(draws, (n_draws, *shape)).transpose(0, 3, 1, 2))

    def _normal_equations(self, target, weights, flux, x, y, terms):
        """
        Sum the normal equations over all stars.
        """
        n, n_terms = terms.shape
        first_y, taps_y = self.taps(y)
        first_x, taps_x = self.taps(x)
        n_y, n_x = taps_y.shape[1], taps_x.shape[1]
        n_pix = 2 * self.half + 1
        # products of polynomial terms and of weights separate, so that the
        # sums over stars are products of matrices
        pairs = (terms[:, :, None] * terms[:, None, :]).reshape(n, -1)
        curvature = (weights * flux[:, None, None]**2).reshape(n, -1)
        gradient = (weights * flux[:, None, None] * target).reshape(n, -1)
        shape = (self.size, self.size)
        band = {(dy, dx): np.zeros((n_terms, n_terms, *shape))
                for dy in range(4) for dx in range(-3, 4)
                if (dy, dx) >= (0, 0)}
        right = np.zeros((n_terms, *shape))
        for ay in range(n_y):
            for ax in range(n_x):
                here = (Ellipsis, self._slice(first_y + ay),
                        self._slice(first_x + ax))
                own = taps_y[:, ay] * taps_x[:, ax]
                if not own.any():
                    continue
                right[here] += ((terms * own[:, None]).T @ gradient).reshape(
                    n_terms, n_pix, n_pix)
                for by in range(ay, min(n_y, ay + 4)):
                    for bx in range(max(0, ax - 3), min(n_x, ax + 4)):
                        if (by - ay, bx - ax) < (0, 0):
                            continue
                        both = own * taps_y[:, by] * taps_x[:, bx]
                        if not both.any():
                            continue
                        band[by - ay, bx - ax][here] += (
                            (pairs * both[:, None]).T @ curvature).reshape(
                                n_terms, n_terms, n_pix, n_pix)
        return band, right

    def prior(self, scale, smoothness, gradient=None):
        """
        Return the normal matrix of the prior for one term as a band: by the
        offset ``(dy, dx)``, the coupling of each coefficient to that there.

        ``scale`` is the expected deviation of each coefficient from zero,
        ``smoothness`` the weight of the squared Laplacian in units of these
        deviations, ``gradient`` that of the squared differences of neighbors.
        """
        precision = scale**-2.0
        band = {(dy, dx): np.zeros(precision.shape)
                for dy, dx in ((0, 0), (0, 1), (0, 2), (1, -1), (1, 0),
                               (1, 1), (2, 0))}
        band[0, 0] += precision
        # the Laplacian on five points
        stencil = (((0, 0), -1.0), ((0, 1), 0.25), ((0, -1), 0.25),
                   ((1, 0), 0.25), ((-1, 0), 0.25))
        inner = smoothness * precision[1:-1, 1:-1]
        for (ay, ax), a in stencil:
            rows = slice(1 + ay, self.size - 1 + ay)
            cols = slice(1 + ax, self.size - 1 + ax)
            for (by, bx), b in stencil:
                if (by - ay, bx - ax) >= (0, 0):
                    band[by - ay, bx - ax][rows, cols] += a * b * inner
        if gradient is not None:
            for dy, dx in ((0, 1), (1, 0)):
                here = (slice(0, self.size - dy), slice(0, self.size - dx))
                there = slice(dy, None), slice(dx, None)
                band[0, 0][here] += gradient[here]
                band[0, 0][there] += gradient[here]
                band[dy, dx][here] -= gradient[here]
        return band
