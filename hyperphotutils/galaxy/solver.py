# Licensed under a 3-clause BSD style license - see LICENSE.rst
r"""
Least squares of galaxies on stamps, as a problem for
`hyperphotutils.utils.lm.minimize_batch`.

The parameters of a source are its flux, position, rho, the radial and
the tangential part of the elongation (at its present direction), and
nu; see `hyperphotutils.galaxy.render`. Fluxes and sky are linear: they
are solved for whenever the others have moved.
"""

from typing import Any, NamedTuple

from hyperphotutils.blend.solver import apply_loss
from hyperphotutils.galaxy.render import N_COORDS, render, sinhc
from hyperphotutils.utils.lm import (
    array_namespace,
    invert_normal,
    propose_step,
    scale_to_unit_diagonal,
)

__all__ = [
    'FLUX',
    'G_RADIAL',
    'G_TANGENTIAL',
    'NU',
    'N_PARAMS',
    'RHO',
    'GalaxyProblem',
    'covariance_of',
]

N_PARAMS = 7
FLUX, X, Y, RHO, G_RADIAL, G_TANGENTIAL, NU = range(N_PARAMS)

# The longest step in x and y (pixels), and in rho, g, and nu.
_MAX_SHIFT = 1.5
_MAX_STEP = 0.8

# Convergence: a step would decrease chi2 by less than the first number, and
# the last step has changed it by less than the second (1-sigma errors
# correspond to a change by 1). With neighbors, these are for the part of the
# step in the parameters of the target; the last number is for all.
_PROMISE = 0.05
_GAIN = 0.03
_LOOSE = 0.5

# Ridges, relative to the unit diagonal of scaled normal matrices, that keep
# the matrices of degenerate sources regular.
_RIDGE = 1e-10
_UNDAMPED = 1e-7

# Added to the curvature of chi2 for each step, for the target and for its
# neighbors, to limit steps in parameters on which chi2 does not depend, such
# as the shape of an unresolved source.
_FLOOR = 0.03
_NEIGHBOR_FLOOR = 0.5

# Repetitions of the linear solution with a robust loss.
_N_REWEIGHTED = 4


class GalaxyProblem(NamedTuple):
    """
    Data of a fit: ``g`` stamps of ``p`` pixels with ``s`` sources each.

    ``data`` and the ``k`` terms of the sky, ``basis`` (g, k, p), are
    multiplied by ``weight``, the inverse standard deviations, 0 for masked
    pixels. ``free`` (g, 7 s + k) marks the fitted parameters; ``low`` and
    ``high`` (g, s, 5) bound x, y, rho, the elongation, and nu. ``prior``
    (3, 2) has the mean and inverse standard deviation of ln n, ln r_eff,
    and the elongation of the first source.
    """

    kernel: Any
    data: Any
    weight: Any
    basis: Any
    free: Any
    low: Any
    high: Any
    prior: Any = None
    loss: str = 'linear'

    def evaluate(self, state):
        """
        Return the state with the best fluxes and sky, and the terms of
        least squares there: chi2, the normal matrix, and half the gradient.

        A state has the linear parameters (g, s + k), which are not used here,
        and the coordinates (g, s, 6).
        """
        coords = state[1]
        xp = array_namespace(coords)
        n_groups, n_sources, _ = coords.shape
        n_params = self.free.shape[1]
        images = render(self.kernel,
                        xp.reshape(coords, (-1, N_COORDS)), derivatives=True)
        images = xp.reshape(images, (n_groups, n_sources * N_PARAMS, -1))
        rows = xp.concat((images * self.weight[:, None, :], self.basis,
                          self.data[:, None, :]), axis=1)
        rows = xp.astype(rows, xp.float64)
        linear = _linear_index(xp, n_sources, n_params, coords.device)
        solution, gram, chi2 = _solve_linear(rows, linear, self.loss)
        # rows of a source are derivatives of a source of unit flux
        flux = solution[:, :n_sources]
        jacobian = _jacobian(xp, coords, flux, n_params)
        turned = xp.matrix_transpose(jacobian)
        normal = jacobian @ gram[:, :-1, :-1] @ turned
        # the solution at the places of fluxes and sky among all rows
        none = xp.zeros((n_groups, n_sources, N_PARAMS - 1),
                        dtype=flux.dtype, device=flux.device)
        full = xp.concat((
            xp.reshape(xp.concat((flux[:, :, None], none), axis=2),
                       (n_groups, -1)), solution[:, n_sources:]), axis=1)
        mismatch = (gram[:, :-1, :-1] @ full[:, :, None])[:, :, 0] - (
            gram[:, :-1, -1])
        gradient = (jacobian @ mismatch[:, :, None])[:, :, 0]
        if self.prior is not None:
            # of the first source: each is one more residual
            _, _, size = _direction(xp, coords)
            size, rho, nu = size[:, 0], coords[:, 0, 2], coords[:, 0, 5]
            for i, (value, slopes) in enumerate((
                    (nu, {NU: 1.0}),
                    (rho + 0.5 * size, {RHO: 1.0, G_RADIAL: 0.5}),
                    (size, {G_RADIAL: 1.0}))):
                mean, inverse = self.prior[i, 0], self.prior[i, 1]
                distance = (value - mean) * inverse
                row = xp.stack([xp.zeros_like(rho) + slopes.get(j, 0.0)
                                * inverse for j in range(n_params)], axis=1)
                chi2 = chi2 + distance * distance
                normal = normal + row[:, :, None] * row[:, None, :]
                gradient = gradient + row * distance[:, None]
        return (solution, coords), (chi2, normal, gradient)

    def system(self, state, terms):
        """
        Return the normal matrix and half of the gradient when the linear
        parameters follow the others, and the coordinates that may move: not
        linear, not fixed, and not at a bound that chi2 pushes against.
        """
        coords = state[1]
        xp = array_namespace(coords)
        _, normal, gradient = terms
        n_groups, n_sources, _ = coords.shape
        slope = xp.reshape(gradient[:, :N_PARAMS * n_sources],
                           (n_groups, n_sources, N_PARAMS))
        _, _, size = _direction(xp, coords)
        held = [xp.ones((n_groups, n_sources), dtype=xp.bool,
                        device=coords.device)] * N_PARAMS
        held[G_TANGENTIAL] = ~held[FLUX]
        for i, (name, value) in enumerate((
                (X, coords[:, :, 0]), (Y, coords[:, :, 1]),
                (RHO, coords[:, :, 2]), (G_RADIAL, size),
                (NU, coords[:, :, 5]))):
            # an active set: a value at a bound is held while chi2 pushes it
            # out, and released by the next step that does not
            held[name] = (value >= self.high[:, :, i]) & (
                slope[:, :, name] < 0.0)
            # a round source has no direction in which g could be negative
            if name != G_RADIAL:
                held[name] = held[name] | (value <= self.low[:, :, i]) & (
                    slope[:, :, name] > 0.0)
        held = xp.reshape(xp.stack(held, axis=2), (n_groups, -1))
        n_params = normal.shape[1]
        rest = xp.ones((n_groups, n_params - held.shape[1]), dtype=xp.bool,
                       device=coords.device)
        # the Schur complement, in which fluxes and sky follow the others:
        # variable projection (Golub & Pereyra 1973, SIAM Journal on Numerical
        # Analysis 10, 413) needs fewer steps than to move all of them
        linear = _linear_index(xp, n_sources, n_params, coords.device)
        rows = xp.take(normal, linear, axis=1)
        scale, scaled = _regularize(xp.take(rows, linear, axis=2))
        rows = rows * scale[:, :, None]
        normal = normal - xp.matrix_transpose(rows) @ xp.linalg.solve(
            scaled, rows)
        index = xp.arange(n_params, device=normal.device)
        floor = xp.where(index < N_PARAMS,
                         xp.full_like(normal[0, 0, :], _FLOOR),
                         xp.full_like(normal[0, 0, :], _NEIGHBOR_FLOOR))
        identity = xp.eye(n_params, dtype=normal.dtype, device=normal.device)
        return (normal + (floor[:, None] * identity)[None, :, :], gradient,
                self.free & ~xp.concat((held, rest), axis=1))

    def limit(self, state, step):
        """
        Limit a step (g, 7 s + k) to lengths for which linear models hold.
        """
        xp = array_namespace(step)
        n_groups, n_sources, _ = state[1].shape
        parts = xp.reshape(step[:, :N_PARAMS * n_sources],
                           (n_groups, n_sources, N_PARAMS))
        excess = xp.maximum(
            xp.max(xp.abs(parts[:, :, X:RHO]), axis=2) / _MAX_SHIFT,
            xp.max(xp.abs(parts[:, :, RHO:]), axis=2) / _MAX_STEP)
        # the direction of the step of each source is kept, and a source that
        # runs away does not slow down the others of its stamp
        parts = parts / xp.maximum(excess, xp.ones_like(excess))[:, :, None]
        return xp.concat((xp.reshape(parts, (n_groups, -1)),
                          step[:, N_PARAMS * n_sources:]), axis=1)

    def move(self, state, step):
        """
        Return the state after a step inside the bounds; its linear
        parameters are those before.
        """
        linear, coords = state
        xp = array_namespace(coords)
        n_groups, n_sources, _ = coords.shape
        step = xp.reshape(step[:, :N_PARAMS * n_sources],
                          (n_groups, n_sources, N_PARAMS))
        shift, rest = step[:, :, X:Y + 1], step[:, :, RHO:]
        cos, sin, size = _direction(xp, coords)
        radial, tangential = size + rest[:, :, 1], rest[:, :, 2]
        length = xp.sqrt(radial * radial + tangential * tangential)
        x, y, rho, length_in, nu = (
            xp.minimum(xp.maximum(value, self.low[:, :, i]),
                       self.high[:, :, i])
            for i, value in enumerate((
                coords[:, :, 0] + shift[:, :, 0],
                coords[:, :, 1] + shift[:, :, 1],
                coords[:, :, 2] + rest[:, :, 0], length,
                coords[:, :, 5] + rest[:, :, 3])))
        scale = length_in / xp.where(length > 0.0, length,
                                     xp.ones_like(length))
        g1 = scale * (cos * radial - sin * tangential)
        g2 = scale * (sin * radial + cos * tangential)
        return linear, xp.stack((x, y, rho, g1, g2, nu), axis=2)

    def is_converged(self, state, terms, step, promise, gain):
        """
        Return where the predicted gain of an undamped step is small, and the
        last step changed little, both relative to the reduced chi2 where no
        model fits; see `~hyperphotutils.utils.lm.minimize_batch`.
        """
        xp = array_namespace(gain)
        undamped, promise = propose_step(self, state, terms,
                                         xp.full_like(gain, _UNDAMPED))
        n_pixels = xp.sum(xp.astype(self.weight > 0.0, gain.dtype), axis=1)
        unit = xp.maximum(terms[0] / n_pixels, xp.ones_like(gain))
        if self.low.shape[1] == 1:
            return (promise < _PROMISE * unit) & (xp.abs(gain) < _GAIN * unit)
        normal = self.system(state, terms)[0][:, :N_PARAMS, :N_PARAMS]
        own = undamped[:, :N_PARAMS, None]
        own = (xp.matrix_transpose(own) @ normal @ own)[:, 0, 0]
        return ((own < _PROMISE * unit) & (promise < _LOOSE * unit)
                & (xp.abs(gain) < _LOOSE * unit))

    def take(self, index):
        """
        Return the problem of some stamps.
        """
        xp = array_namespace(self.data)
        n_sources = self.low.shape[1]
        of_sources = xp.reshape(
            index[:, None] * n_sources
            + xp.arange(n_sources, device=index.device)[None, :], (-1,))
        arrays = (self.data, self.weight, self.basis, self.free, self.low,
                  self.high)
        return GalaxyProblem(
            self.kernel.take(of_sources),
            *(xp.take(array, index, axis=0) for array in arrays),
            self.prior, self.loss)


def covariance_of(coords, normal, free):
    r"""
    Return the covariances (g, 7 s + k, 7 s + k) of flux, x, y, r_eff, n,
    q, and theta (radians) of each source, and of the sky: 0 for what is
    not free, NaN where the normal matrix is singular. Bounds do not enter.

    With :math:`r_e = e^{\rho + |g| / 2}`, :math:`q = e^{-|g|}`, and
    :math:`2 \theta` the direction of g, the derivatives are
    :math:`d r_e = r_e (d\rho + d g_r / 2)`, :math:`dq = -q\, d g_r`,
    :math:`d\theta = d g_t / (2 |g|)`, and :math:`dn = n\, d\nu`.
    """
    xp = array_namespace(coords)
    covariance = invert_normal(normal, free)
    n_params = normal.shape[1]
    _, _, size = _direction(xp, coords)
    r_eff = xp.exp(coords[:, :, 2] + 0.5 * size)
    zero, one = xp.zeros_like(size), xp.ones_like(size)
    q, n = xp.exp(-size), xp.exp(coords[:, :, 5])
    turn = 0.5 / xp.where(size > 1e-9, size, xp.full_like(size, 1e-9))
    blocks = xp.stack([xp.stack(row, axis=2) for row in (
        (one, zero, zero, zero, zero, zero, zero),
        (zero, one, zero, zero, zero, zero, zero),
        (zero, zero, one, zero, zero, zero, zero),
        (zero, zero, zero, r_eff, 0.5 * r_eff, zero, zero),
        (zero, zero, zero, zero, zero, zero, n),
        (zero, zero, zero, zero, -q, zero, zero),
        (zero, zero, zero, zero, zero, turn, zero))], axis=2)
    matrix = _block_diagonal(xp, blocks, n_params)
    return matrix @ covariance @ xp.matrix_transpose(matrix)


def _linear_index(xp, n_sources, n_params, device):
    return xp.concat((
        xp.arange(n_sources, device=device) * N_PARAMS,
        xp.arange(N_PARAMS * n_sources, n_params, device=device)))


def _solve_linear(rows, linear, loss):
    """
    Solve for the fluxes and the sky.

    Returns the solution, the matrix of products of all rows, and chi2.
    """
    xp = array_namespace(rows)
    turned = xp.matrix_transpose(rows)
    gram = rows @ turned
    solution, chi2 = _solve_gram(gram, linear)
    if loss == 'linear':
        return solution, gram, chi2
    design = xp.take(rows, linear, axis=1)
    for _ in range(_N_REWEIGHTED):
        residual = (solution[:, None, :] @ design)[:, 0, :] - rows[:, -1, :]
        cost, slope = apply_loss(residual, loss, 1.0)
        chi2 = xp.sum(cost, axis=1)
        gram = (rows * slope[:, None, :]) @ turned
        solution, _ = _solve_gram(gram, linear)
    return solution, gram, chi2


def _solve_gram(gram, linear):
    """
    Solve the normal equations of the linear parameters.
    """
    xp = array_namespace(gram)
    part = xp.take(gram, linear, axis=1)
    matrix, right = xp.take(part, linear, axis=2), part[:, :, -1]
    scale, scaled = _regularize(matrix)
    solution = scale * xp.linalg.solve(
        scaled, (right * scale)[:, :, None])[:, :, 0]
    chi2 = gram[:, -1, -1] - xp.sum(
        solution * (2.0 * right - (matrix @ solution[:, :, None])[:, :, 0]),
        axis=1)
    return solution, chi2


def _regularize(matrix):
    """
    Return the scale of normal matrices, and the scaled matrices with a ridge.
    """
    xp = array_namespace(matrix)
    every = xp.ones(matrix.shape[:2], dtype=xp.bool, device=matrix.device)
    scale, scaled = scale_to_unit_diagonal(matrix, every)
    identity = xp.eye(matrix.shape[1], dtype=matrix.dtype,
                      device=matrix.device)
    return scale, scaled + _RIDGE * identity[None, :, :]


def _direction(xp, coords):
    """
    Return the direction of g and its length.
    """
    g1, g2 = coords[:, :, 3], coords[:, :, 4]
    size = xp.sqrt(g1 * g1 + g2 * g2)
    known = size > 0.0
    safe = xp.where(known, size, xp.ones_like(size))
    return (xp.where(known, g1 / safe, xp.ones_like(size)),
            xp.where(known, g2 / safe, xp.zeros_like(size)), size)


def _jacobian(xp, coords, flux, n_params):
    """
    Return the matrix from the rows of the renderer to the parameters.

    The renderer has derivatives by the covariance matrix in units of r^2,
    C = cosh |g| I + sinh |g| (cos, sin; sin, -cos), which is multiplied by
    r^2 = exp(2 rho). A tangential step turns the direction by its length
    over |g|.
    """
    cos, sin, size = _direction(xp, coords)
    cosh, sinh = xp.cosh(size), xp.sinh(size)
    by_angle = sinhc(size)
    zero, one = xp.zeros_like(size), xp.ones_like(size)
    f = flux
    # d (r^2 C) / d rho = 2 r^2 C
    by_rho = (2.0 * f * (cosh + sinh * cos), 2.0 * f * sinh * sin,
              2.0 * f * (cosh - sinh * cos))
    radial = (f * (sinh + cosh * cos), f * cosh * sin,
              f * (sinh - cosh * cos))
    tangential = (-f * by_angle * sin, f * by_angle * cos,
                  f * by_angle * sin)
    blocks = xp.stack([xp.stack(row, axis=2) for row in (
        (one, zero, zero, zero, zero, zero, zero),
        (zero, f, zero, zero, zero, zero, zero),
        (zero, zero, f, zero, zero, zero, zero),
        (zero, zero, zero, *by_rho, zero),
        (zero, zero, zero, *radial, zero),
        (zero, zero, zero, *tangential, zero),
        (zero, zero, zero, zero, zero, zero, f))], axis=2)
    return _block_diagonal(xp, blocks, n_params)


def _block_diagonal(xp, blocks, n_params):
    """
    Return matrices with the blocks of all sources, and 1 for the sky.
    """
    n_groups, n_sources, n, _ = blocks.shape
    one = xp.eye(n_sources, dtype=blocks.dtype, device=blocks.device)
    spread = blocks[:, :, :, None, :] * one[None, :, None, :, None]
    matrix = xp.reshape(spread, (n_groups, n_sources * n, n_sources * n))
    n_sky = n_params - n_sources * n
    if n_sky == 0:
        return matrix
    empty = xp.zeros((n_groups, n_sources * n, n_sky), dtype=blocks.dtype,
                     device=blocks.device)
    sky = xp.eye(n_sky, dtype=blocks.dtype, device=blocks.device)[
        None, :, :] + xp.zeros((n_groups, 1, 1), dtype=blocks.dtype,
                               device=blocks.device)
    return xp.concat((
        xp.concat((matrix, empty), axis=2),
        xp.concat((xp.matrix_transpose(empty), sky), axis=2)), axis=1)
