# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The fitting kernel: Levenberg-Marquardt on batches of source groups.

All groups of a batch have the same number of sources ``n`` and are
padded to the same number of pixels ``p``; one iteration is a handful of
array operations over the whole batch. The code uses the Python array
API standard only, so that arrays of any conforming library can be
fitted.

Each source is an elliptical Gaussian with the six *state* values
``amplitude, x, y, var_major, var_minor, theta``. Steps are taken in six
*tangent* coordinates: the amplitude, the position, and the elements
``aa, ab, bb`` of the covariance matrix of the ellipse in its own axes.
Other than widths and an angle, these stay regular when a source is
round. After each step the matrix is diagonalised again, which gives the
new widths and angle.

With a measured beam, a source is a sum of Gaussians with one center: the
matrix of each is that of the state plus a constant. The state keeps the
peak of the sum as ``amplitude``, and the derivatives have the same form.
"""

from typing import Any, NamedTuple

from hyperphotutils.utils.lm import (
    SMALLEST_DAMPING,
    array_namespace,
    damped_step,
    invert_normal,
    minimize_batch,
    scale_to_unit_diagonal,
    take_members,
)

__all__ = ['BatchProblem', 'BatchResult', 'can_transpose', 'evaluate',
           'evaluate_sources', 'fit_batch', 'flux_derivatives',
           'gaussian_components', 'normal_matrix', 'solve_linear', 'whiten',
           'whiten_transposed']

N_PARAMS = 6
AMPLITUDE, X, Y, AA, AB, BB = range(N_PARAMS)

# Derivatives are evaluated for so many elements of the Jacobian at once: they
# stay in the cache of a processor.
_PIECE_ELEMENTS = 1 << 16
# Second derivatives of chi2, scaled to a unit diagonal, are used if all of
# their eigenvalues are larger.
_DEFINITE = 1e-8
# In larger groups, second derivatives and eigenvalues cost more than the steps
# that they save.
_MAX_NEWTON = 8
# Steps that a group may need to reach a goal.
_PATIENCE = 10.0


class BatchProblem(NamedTuple):
    """
    A problem of ``g`` groups of ``n`` sources on ``p`` pixels.

    ``data`` and ``basis``, the ``k`` background terms of shape (g, k, p), are
    weighted and whitened. ``weight`` is the inverse of the standard deviation,
    0 for padding. ``free`` of shape (g, 6 n + k) tells which tangent
    coordinates are fitted: the six of each source, then the coefficients.
    ``xy_low`` and ``xy_high`` of shape (g, n, 2) bound the positions,
    ``var_low`` and ``var_high`` the variances along both axes, and
    ``amplitude_low`` of shape (g, n) the amplitudes.

    ``ridge`` of shape (g, k) is the penalty of each squared coefficient in
    chi2. ``loss`` and ``f_scale`` are those of `apply_loss`. ``anchor`` of
    shape (g, n, 3) is a Gaussian prior on each position: x, y, and the inverse
    of the variance, 0 for none.

    ``extra`` has the factors by which ``weight`` differs from the inverse of
    the standard deviations; they are already in ``weight``, ``data``, and
    ``basis``. With them, ``whitening``, as for `whiten`, is not applied to
    ``data`` and ``basis``: it enters only the covariance and chi2.
    """

    data: Any
    x: Any
    y: Any
    weight: Any
    basis: Any
    free: Any
    xy_low: Any
    xy_high: Any
    var_low: float
    var_high: float
    whitening: Any = None
    ridge: Any = None
    loss: str = 'linear'
    f_scale: float = 1.0
    anchor: Any = None
    amplitude_low: Any = None
    extra: Any = None
    beam: Any = None


class BatchResult(NamedTuple):
    """
    The fitted groups: the state of each source, of shape (g, n, 6), the
    background coefficients, and whether the last step promised no further
    gain.

    ``covariance`` of shape (g, 6 n + k, 6 n + k) is in tangent coordinates:
    the inverse of the normal matrix, unless there are extra weights. It is 0
    for coordinates that are not free and NaN where the matrix is singular.
    Bounds do not enter. ``chi2`` is the sum of squared residuals in units of
    the standard deviations, and ``n_iter`` counts the steps that were tried.
    """

    sources: Any
    coeffs: Any
    covariance: Any
    chi2: Any
    n_iter: Any
    converged: Any


def fit_batch(problem, sources, coeffs, *, max_iter=100, tolerance=1e-10,
              xtol=None, gtol=None, with_covariance=True,
              evaluate_last=True, linear_start=False, goal=None,
              newton=False):
    """
    Fit all groups of a batch, from first states inside the bounds; return a
    `BatchResult`, without covariance and chi2 unless ``with_covariance``.

    A group has converged when a step promises to lower its chi2 by less than
    the fraction ``tolerance``, when a step is shorter than ``xtol`` times the
    parameters, or when no cosine of the angle between the residuals and a
    derivative is larger than ``gtol``. With ``linear_start``, amplitudes and
    coefficients begin with those of `solve_linear`. ``goal`` is the chi2 that
    a fit must reach to be of use: a group is given up when ten steps that
    promise as much as the next one would not reach it. With ``newton``, steps
    in groups of a few sources use the second derivatives of the model as well:
    near the end fewer of them are needed.

    Unless ``evaluate_last``, the model is not evaluated after the last step:
    chi2 is what the step promised, and the covariance that before the step. In
    units of the errors, such a step is shorter than the square root of what it
    promised.
    """
    xp = array_namespace(problem.data)
    state, data_terms = (sources, coeffs), None
    if linear_start:
        state, data_terms = _solve_linear(problem, sources, coeffs)
    # Below this chi2 only rounding errors are left.
    floor = xp.finfo(problem.data.dtype).eps * xp.sum(problem.data**2, axis=1)
    newton = (newton and problem.beam is None
              and sources.shape[1] <= _MAX_NEWTON
              and can_transpose(problem.whitening))
    result = minimize_batch(
        _GroupProblem(problem, floor, goal, tolerance, xtol, gtol,
                      newton), state,
        max_iter=max_iter, terms=_normal_terms(problem, *state, data_terms),
        evaluate_last=evaluate_last)
    sources, coeffs = result.state
    chi2 = covariance = None
    if with_covariance:
        chi2, normal, _, _ = result.terms
        covariance = invert_normal(normal, problem.free)
        prior = xp.zeros_like(normal)
        if problem.anchor is not None:
            # The prior is not a residual; it scatters with its own width.
            penalty, _, strength = _penalty(problem._replace(ridge=None),
                                            sources, coeffs)
            # chi2 may be that before the last step: without noise it could
            # become negative.
            chi2 = xp.clip(chi2 - penalty, 0.0, None)
            identity = xp.eye(normal.shape[1], dtype=normal.dtype)
            prior = strength[:, :, None] * identity[None, :, :]
        if problem.extra is not None:
            # The covariance holds for any weights, as that of White (1980,
            # Econometrica 48, 817) does.
            chi2, spread = _unweighted_terms(problem, sources, coeffs)
            covariance = covariance @ (spread + prior) @ covariance
    return BatchResult(sources, coeffs, covariance, chi2, result.n_iter,
                       result.converged)


class _GroupProblem(NamedTuple):
    """
    A batch of groups for `~hyperphotutils.utils.lm.minimize_batch`, with
    arguments of `fit_batch`; below the chi2 ``floor`` only rounding errors are
    left.
    """

    batch: Any
    floor: Any
    goal: Any
    tolerance: float
    xtol: float | None
    gtol: float | None
    newton: bool

    def evaluate(self, state):
        return state, _normal_terms(self.batch, *state)

    def system(self, state, terms):
        normal, gradient, free = _system(self.batch, state[0], terms)
        if self.newton:
            normal = _add_curvature(self.batch, state[0], terms[3], normal,
                                    free)
        return normal, gradient, free

    def limit(self, state, step):
        return step

    def move(self, state, step):
        return _move(self.batch, *state, step)

    def is_converged(self, state, terms, step, promise, gain):
        xp = array_namespace(promise)
        done = promise <= self.tolerance * xp.maximum(terms[0], self.floor)
        if self.goal is not None:
            done = done | (_PATIENCE * promise < terms[0] - self.goal)
        if self.xtol is not None or self.gtol is not None:
            done = done | _is_at_rest(self.batch, state, terms, step,
                                      self.xtol, self.gtol)
        return done

    def take(self, index):
        floor, goal = take_members((self.floor, self.goal), index)
        return self._replace(batch=BatchProblem(*take_members(
            self.batch, index)), floor=floor, goal=goal)


def solve_linear(problem, sources, coeffs):
    """
    Return the state and the coefficients of the least squares solution with
    positions and shapes held.

    The first amplitudes and coefficients only have to be finite.
    """
    return _solve_linear(problem, sources, coeffs)[0]


class Components(NamedTuple):
    """
    The Gaussians of sources, ``m`` for each: ``share`` of shape (g, n, m) is
    the peak of each for a source with a peak of 1.

    ``precision`` has the elements aa, ab, and bb of the inverse covariance
    matrices, in the axes of the state, and ``mean_precision`` their means,
    weighted by ``share``. ``area`` of shape (g, n) is the flux of a source
    with a peak of 1, divided by 2 pi.
    """

    share: Any
    precision: Any
    mean_precision: Any
    area: Any


def gaussian_components(sources, beam=None):
    r"""
    Return the `Components` of sources with the states (g, n, 6).

    With the integrals :math:`a_j` and the matrices :math:`\Sigma_j = \Sigma +
    D_j` of the Gaussians of a beam, their peaks are proportional to :math:`c_j
    = a_j / \sqrt{\det \Sigma_j}`, and the flux of a source with the peak
    :math:`A` is :math:`2 \pi A / \sum_j c_j`.
    """
    xp = array_namespace(sources)
    var_a, var_b, theta = (sources[:, :, k, None] for k in (3, 4, 5))
    if beam is None:
        none = xp.zeros_like(var_a)
        weights, d_aa, d_ab, d_bb = none + 1.0, none, none, none
    else:
        weights = xp.asarray(beam.weights)[None, None, :]
        xx, xy, yy = (xp.asarray(beam.offsets[:, k])[None, None, :]
                      for k in range(3))
        cos, sin = xp.cos(theta), xp.sin(theta)
        d_aa = cos**2 * xx + 2.0 * cos * sin * xy + sin**2 * yy
        d_ab = cos * sin * (yy - xx) + (cos**2 - sin**2) * xy
        d_bb = sin**2 * xx - 2.0 * cos * sin * xy + cos**2 * yy
    aa, bb = var_a + d_aa, var_b + d_bb
    det = aa * bb - d_ab * d_ab
    peak = weights / xp.sqrt(det)
    total = xp.sum(peak, axis=2)
    share = peak / total[:, :, None]
    precision = (bb / det, -d_ab / det, aa / det)
    return Components(share, precision, tuple(
        xp.sum(share * element, axis=2) for element in precision),
        1.0 / total)


def flux_derivatives(sources, beam=None):
    r"""
    Return the fluxes of sources, of shape (g, n), and their derivatives in
    tangent coordinates, of shape (g, n, 6).

    The logarithm of the flux has the derivative :math:`\sum_j s_j
    \Sigma_j^{-1} / 2` with respect to the matrix :math:`\Sigma`, where
    :math:`s_j` is the share of the Gaussian :math:`j` in the peak.
    """
    xp = array_namespace(sources)
    components = gaussian_components(sources, beam)
    area = 2.0 * xp.pi * components.area
    flux = area * sources[:, :, 0]
    aa, ab, bb = components.mean_precision
    none = xp.zeros_like(flux)
    return flux, xp.stack((area, none, none, 0.5 * flux * aa, flux * ab,
                           0.5 * flux * bb), axis=2)


def evaluate(sources, coeffs, x, y, weight, basis, whitening=None,
             beam=None):
    r"""
    Return the weighted and whitened model of each group, of shape (g, p), and
    its derivatives in tangent coordinates, of shape (g, 6 n + k, p); ``basis``
    is weighted and whitened already.

    With :math:`d` the offset from the center in the axes of the ellipse,
    :math:`u = \Sigma^{-1} d`, and :math:`G = A \exp(-d^T u / 2)`, the
    derivatives of :math:`G` are :math:`G / A` for the amplitude, :math:`G u`
    for the position (turned back into x and y), and :math:`G u_a^2 / 2`,
    :math:`G u_a u_b`, :math:`G u_b^2 / 2` for the matrix elements. With a
    ``beam``, :math:`G` is the sum of its Gaussians (`gaussian_components`),
    and those for the matrix elements have a constant added to each product, as
    the shares in the peak change.
    """
    xp = array_namespace(sources)
    n_groups, n_sources, _ = sources.shape
    n_coords = N_PARAMS * n_sources
    n_basis = 0 if whitening is not None else basis.shape[1]
    jacobian = xp.empty((n_groups, n_coords + n_basis, x.shape[1]),
                        dtype=sources.dtype)
    terms = (_gaussian_terms(sources, x, y, weight) if beam is None
             else _convolved_terms(sources, x, y, weight, beam))
    for k, term in enumerate(terms):
        jacobian[:, k:n_coords:N_PARAMS, :] = term
    if whitening is not None:
        jacobian = xp.concat((whiten(whitening, jacobian), basis), axis=1)
    else:
        jacobian[:, n_coords:, :] = basis
    # Amplitudes and coefficients are linear.
    model = (sources[:, None, :, 0]
             @ jacobian[:, AMPLITUDE:n_coords:N_PARAMS, :]
             + coeffs[:, None, :] @ basis)[:, 0, :]
    return model, jacobian


def _gaussian_terms(sources, x, y, weight):
    """
    Yield the weighted derivatives of Gaussians.
    """
    xp = array_namespace(sources)
    amplitude, x0, y0, var_a, var_b, theta = (
        sources[:, :, i, None] for i in range(N_PARAMS))
    cos, sin = xp.cos(theta), xp.sin(theta)
    dx, dy = x[:, None, :] - x0, y[:, None, :] - y0
    off_a, off_b = cos * dx + sin * dy, cos * dy - sin * dx
    u_a, u_b = off_a / var_a, off_b / var_b
    profile = xp.exp(-0.5 * (off_a * u_a + off_b * u_b))
    profile *= weight[:, None, :]
    # In the order of the tangent coordinates, with the position turned back.
    yield profile
    gauss = amplitude * profile
    gauss_a, gauss_b = gauss * u_a, gauss * u_b
    yield cos * gauss_a - sin * gauss_b
    yield sin * gauss_a + cos * gauss_b
    yield 0.5 * gauss_a * u_a
    yield gauss_a * u_b
    yield 0.5 * gauss_b * u_b


def _convolved_terms(sources, x, y, weight, beam):
    """
    Return the weighted derivatives of sources with a measured beam.
    """
    xp = array_namespace(sources)
    amplitude, x0, y0 = (sources[:, :, i, None] for i in range(3))
    theta = sources[:, :, 5, None]
    cos, sin = xp.cos(theta), xp.sin(theta)
    dx, dy = x[:, None, :] - x0, y[:, None, :] - y0
    off_a, off_b = cos * dx + sin * dy, cos * dy - sin * dx
    share, precision, mean, _ = gaussian_components(sources, beam)
    sums = [xp.zeros_like(off_a) for _ in range(N_PARAMS)]
    # One Gaussian at a time, as an array of all would not fit in the cache.
    for j in range(share.shape[2]):
        p_aa, p_ab, p_bb = (element[:, :, j, None] for element in precision)
        k_aa, k_ab, k_bb = (
            (one - element[:, :, j])[:, :, None]
            for one, element in zip(mean, precision, strict=True))
        u_a = p_aa * off_a + p_ab * off_b
        u_b = p_ab * off_a + p_bb * off_b
        profile = share[:, :, j, None] * xp.exp(
            -0.5 * (off_a * u_a + off_b * u_b))
        for total, factor in zip(sums, (1.0, u_a, u_b, u_a * u_a + k_aa,
                                        u_a * u_b + k_ab, u_b * u_b + k_bb),
                                 strict=True):
            total += profile * factor
    profile, by_a, by_b, by_aa, by_ab, by_bb = sums
    weight = weight[:, None, :]
    gauss = amplitude * weight
    return (weight * profile, gauss * (cos * by_a - sin * by_b),
            gauss * (sin * by_a + cos * by_b), 0.5 * gauss * by_aa,
            gauss * by_ab, 0.5 * gauss * by_bb)


def evaluate_sources(sources, x, y, weight, beam=None):
    """
    Return the sum of the sources of each group without background, of shape
    (g, p), weighted but not whitened.
    """
    xp = array_namespace(sources)
    model = xp.zeros_like(weight)
    for i in range(sources.shape[1]):
        amplitude, x0, y0, var_a, var_b, theta = (
            sources[:, i, k, None] for k in range(N_PARAMS))
        cos, sin = xp.cos(theta), xp.sin(theta)
        dx, dy = x - x0, y - y0
        off_a, off_b = cos * dx + sin * dy, cos * dy - sin * dx
        if beam is None:
            model += amplitude * xp.exp(-0.5 * (off_a * off_a / var_a
                                                + off_b * off_b / var_b))
            continue
        components = gaussian_components(sources[:, i:i + 1, :], beam)
        for j in range(components.share.shape[2]):
            aa, ab, bb = (element[:, :, j]
                          for element in components.precision)
            model += amplitude * components.share[:, :, j] * xp.exp(
                -0.5 * (aa * off_a * off_a + 2.0 * ab * off_a * off_b
                        + bb * off_b * off_b))
    return weight * model


def whiten(whitening, rows):
    """
    Make the noise of vectors of pixels, of shape (g, k, p), white; they may be
    overwritten.

    ``whitening`` is an object with the methods of
    `~hyperphotutils.noise.FootprintFactors`, matrices of shape (g, p, p) or
    (1, p, p) to multiply by, or `None` if the noise is white.
    """
    if whitening is None:
        return rows
    if hasattr(whitening, 'whiten'):
        return whitening.whiten(rows)
    xp = array_namespace(rows)
    return rows @ xp.matrix_transpose(whitening)


def can_transpose(whitening):
    """
    Return whether `whiten_transposed` is possible: the factors of other
    noise models may have the method ``whiten`` only.
    """
    return (hasattr(whitening, 'whiten_transposed')
            or not hasattr(whitening, 'whiten'))


def whiten_transposed(whitening, rows):
    """
    Multiply by the transposed matrices of `whiten`, which makes whitened
    vectors products with the inverse covariance matrices.
    """
    if whitening is None:
        return rows
    if hasattr(whitening, 'whiten_transposed'):
        return whitening.whiten_transposed(rows)
    return rows @ whitening


def normal_matrix(problem, sources, coeffs):
    """
    Return the normal matrix of each group in all 6 n + k coordinates, free or
    not; the loss is taken for linear.
    """
    problem = problem._replace(loss='linear')
    return _normal_terms(problem, sources, coeffs)[1]


def _data_terms(problem, sources, coeffs):
    """
    Return the contributions of the data to chi2, to the normal matrix,
    and to half the gradient of chi2, and the residuals.
    """
    pieces = list(iter_pieces(*problem.free.shape, problem.x.shape[1]))
    if len(pieces) == 1:
        return _terms_of_piece(problem, sources, coeffs)
    xp = array_namespace(sources)
    terms = [_terms_of_piece(BatchProblem(*take_members(problem, part)),
                             sources[part, ...], coeffs[part, ...])
             for part in pieces]
    return tuple(xp.concat(parts) for parts in zip(*terms, strict=True))


def iter_pieces(n_groups, n_rows, n_pixels):
    """
    Yield slices of groups whose Jacobians stay in the cache.
    """
    size = max(1, _PIECE_ELEMENTS // (n_rows * n_pixels))
    for begin in range(0, n_groups, size):
        yield slice(begin, min(begin + size, n_groups))


def _terms_of_piece(problem, sources, coeffs):
    """
    Return the terms of the data of some groups.
    """
    xp = array_namespace(sources)
    model, jacobian = evaluate(sources, coeffs, problem.x, problem.y,
                               problem.weight, problem.basis,
                               None if problem.extra is not None
                               else problem.whitening, problem.beam)
    residual = model - problem.data
    cost, slope = apply_loss(residual, problem.loss, problem.f_scale)
    weighted = jacobian if slope is None else jacobian * slope[:, None, :]
    normal = weighted @ xp.matrix_transpose(jacobian)
    gradient = (weighted @ residual[:, :, None])[:, :, 0]
    return xp.sum(cost, axis=1), normal, gradient, residual


def _solve_linear(problem, sources, coeffs):
    """
    Return the state of `solve_linear` and the terms of the data in it,
    which are `None` where they are not known without evaluating the
    model again.
    """
    xp = array_namespace(problem.data)
    n_sources = sources.shape[1]
    index = xp.arange(problem.free.shape[1])
    linear = (index >= N_PARAMS * n_sources) | (index % N_PARAMS == AMPLITUDE)
    held = problem._replace(free=problem.free & linear[None, :])
    unit = sources
    amplitude = sources[:, :, :1]
    if xp.any(amplitude == 0.0):
        # Without an amplitude the derivatives of the shape vanish. Amplitudes
        # far from the scale of the data would leave only rounding errors.
        level = problem.weight[:, None, :] * 1.0
        if problem.extra is None:
            level = whiten(problem.whitening, level)
        weight = xp.sum(level[:, 0, :]**2, axis=1)
        power = xp.sum(problem.data**2, axis=1)
        known = (power > 0.0) & (weight > 0.0)
        ones = xp.ones_like(power)
        typical = xp.sqrt(xp.where(known, power, ones)
                          / xp.where(known, weight, ones))[:, None, None]
        unit = xp.concat((xp.where(amplitude == 0.0, typical, amplitude),
                          sources[:, :, 1:]), axis=2)
    if problem.loss == 'linear':
        terms = _data_terms(problem, unit, coeffs)
        start = _change_linear(terms, unit, coeffs, sources, coeffs)
    else:
        start = _data_terms(problem, sources, coeffs)
    # The problem is linear: one step solves it.
    tiny = xp.full(coeffs.shape[0], SMALLEST_DAMPING,
                   dtype=problem.data.dtype)
    step = damped_step(*_system(
        held, sources, _normal_terms(held, sources, coeffs, start)), tiny)
    state = _move(held, sources, coeffs, step)
    if problem.loss != 'linear':
        return state, None
    return state, _change_linear(terms, unit, coeffs, *state)


def _change_linear(terms, sources, coeffs, new_sources, new_coeffs):
    r"""
    Return the terms of the data for other amplitudes and coefficients.

    The residuals are linear in these. Derivatives with respect to
    positions and shapes are proportional to the amplitude. The new residuals
    are not known; they are 0 in the result.
    """
    xp = array_namespace(sources)
    chi2, normal, gradient, residual = terms
    n_groups = sources.shape[0]
    old, new = sources[:, :, :1], new_sources[:, :, :1]
    none = xp.zeros_like(sources[:, :, 1:])
    change = xp.concat((
        xp.reshape(xp.concat((new - old, none), axis=2), (n_groups, -1)),
        new_coeffs - coeffs), axis=1)
    # The derivatives at the new amplitudes in units of those at the old ones.
    scale = xp.concat((
        xp.reshape(xp.concat((xp.ones_like(old), none + new / old), axis=2),
                   (n_groups, -1)), xp.ones_like(coeffs)), axis=1)
    shift = (normal @ change[:, :, None])[:, :, 0]
    chi2 = chi2 + xp.sum(change * (2.0 * gradient + shift), axis=1)
    return (xp.clip(chi2, 0.0, None),
            normal * scale[:, :, None] * scale[:, None, :],
            (gradient + shift) * scale, xp.zeros_like(residual))


def _normal_terms(problem, sources, coeffs, data_terms=None):
    """
    Return chi2, the normal matrix, half the gradient of chi2, and the
    residuals.
    """
    xp = array_namespace(sources)
    chi2, normal, gradient, residual = (
        _data_terms(problem, sources, coeffs) if data_terms is None
        else data_terms)
    if problem.ridge is not None or problem.anchor is not None:
        penalty, pull, strength = _penalty(problem, sources, coeffs)
        identity = xp.eye(normal.shape[1], dtype=normal.dtype)
        normal = normal + strength[:, :, None] * identity[None, :, :]
        gradient = gradient + pull
        chi2 = chi2 + penalty
    return chi2, normal, gradient, residual


def _penalty(problem, sources, coeffs):
    """
    Return what ridge and anchor add to chi2, to half its gradient, and
    to the diagonal of the normal matrix.
    """
    xp = array_namespace(sources)
    n_groups, n_sources, _ = sources.shape
    strength = xp.zeros_like(sources)
    offset = xp.zeros_like(sources)
    if problem.anchor is not None:
        strength[:, :, X:Y + 1] = problem.anchor[:, :, 2:]
        offset[:, :, X:Y + 1] = (sources[:, :, X:Y + 1]
                                 - problem.anchor[:, :, :2])
    ridge = xp.zeros_like(coeffs) if problem.ridge is None else problem.ridge
    shape = (n_groups, N_PARAMS * n_sources)
    strength = xp.concat((xp.reshape(strength, shape), ridge), axis=1)
    offset = xp.concat((xp.reshape(offset, shape), coeffs), axis=1)
    pull = strength * offset
    return xp.sum(pull * offset, axis=1), pull, strength


def _unweighted_terms(problem, sources, coeffs):
    r"""
    Return chi2 without the extra weights, and the covariance of the
    gradient that the noise causes.

    With the derivatives :math:`J`, the residuals :math:`r` and the extra
    weights :math:`w`, the gradient is :math:`J^T w \rho' w r`. The
    noise of :math:`r` has the covariance :math:`(W^T W)^{-1}` with the
    whitening :math:`W`, so that the gradient has :math:`B^T B`, where
    :math:`B = (W^T)^{-1} w \rho' w J`. The kernel has :math:`w J`.
    """
    xp = array_namespace(sources)
    model, jacobian = evaluate(sources, coeffs, problem.x, problem.y,
                               problem.weight, problem.basis,
                               beam=problem.beam)
    residual = model - problem.data
    used = problem.extra > 0.0
    plain = xp.where(used, residual / xp.where(
        used, problem.extra, xp.ones_like(residual)),
        xp.zeros_like(residual))
    _, slope = apply_loss(residual, problem.loss, problem.f_scale)
    strength = problem.extra if slope is None else problem.extra * slope
    noise = jacobian * strength[:, None, :]
    if problem.whitening is not None:
        plain = whiten(problem.whitening, plain[:, None, :])[:, 0, :]
        if hasattr(problem.whitening, 'whiten'):
            noise = problem.whitening.correlate(noise)
        else:
            noise = xp.matrix_transpose(xp.linalg.solve(
                xp.matrix_transpose(problem.whitening),
                xp.matrix_transpose(noise)))
    chi2 = xp.sum(apply_loss(plain, problem.loss, problem.f_scale)[0],
                  axis=1)
    return chi2, noise @ xp.matrix_transpose(noise)


def apply_loss(residual, loss, f_scale):
    r"""
    Return what each residual adds to chi2, and the slope of that; the slope is
    `None` where it is 1 for all.

    With :math:`z = (r / f)^2` a pixel adds :math:`f^2 \rho(z)`; its weight in
    the next step is :math:`\rho'(z)` (iteratively reweighted least squares).
    As in `scipy.optimize.least_squares`, :math:`\rho` is :math:`z` for the
    loss 'linear', :math:`2 (\sqrt{1 + z} - 1)` for 'soft_l1', :math:`z` up to
    1 and :math:`2 \sqrt{z} - 1` beyond for 'huber', or :math:`\ln(1 + z)` for
    'cauchy'.
    """
    if loss == 'linear':
        return residual * residual, None
    xp = array_namespace(residual)
    square = f_scale * f_scale
    z = residual * residual / square
    root = xp.sqrt(1.0 + z)
    if loss == 'soft_l1':
        return square * 2.0 * (root - 1.0), 1.0 / root
    if loss == 'cauchy':
        return square * xp.log1p(z), 1.0 / (1.0 + z)
    large = z > 1.0
    distance = xp.sqrt(xp.where(large, z, xp.ones_like(z)))
    return (square * xp.where(large, 2.0 * distance - 1.0, z),
            1.0 / distance)


def _system(problem, sources, terms):
    """
    Return the normal matrix, half of the gradient, and the coordinates in
    which a step may go.
    """
    xp = array_namespace(sources)
    _, normal, gradient, _ = terms
    free = problem.free
    position = sources[:, :, X:Y + 1]
    touching = (xp.any((position <= problem.xy_low)
                       | (position >= problem.xy_high), axis=2)
                | (sources[:, :, 4] <= problem.var_low)
                | (sources[:, :, 3] >= problem.var_high))
    if problem.amplitude_low is not None:
        touching = touching | (sources[:, :, 0] <= problem.amplitude_low)
    if xp.any(touching):
        free = free & ~_at_active_bound(problem, sources, gradient)
        identity = xp.eye(normal.shape[1], dtype=normal.dtype)
        curvature = _bound_curvature(problem, sources, gradient)
        normal = normal + curvature[:, :, None] * identity[None, :, :]
    return normal, gradient, free


def _add_curvature(problem, sources, residual, normal, free):
    r"""
    Return half of the second derivatives of chi2, or the normal matrix where
    these are not positive definite. Those of a loss that is not linear are
    left out, as its weights are held during a step.

    The normal matrix lacks the residuals times the second derivatives of the
    model. Where a source differs from a Gaussian, or a parameter is hardly
    determined, Gauss-Newton steps without them converge linearly, and may
    need dozens of steps. Residuals that are not known are 0.
    """
    xp = array_namespace(normal)
    if not xp.any(residual != 0.0):
        return normal
    if problem.loss != 'linear':
        _, slope = apply_loss(residual, problem.loss, problem.f_scale)
        residual = residual * slope
    if problem.whitening is not None and problem.extra is None:
        residual = whiten_transposed(problem.whitening,
                                     residual[:, None, :] * 1.0)[:, 0, :]
    n_groups, n_sources, _ = sources.shape
    curved = normal * 1.0
    # One source at a time, as an array of all would not fit in the cache.
    for piece in iter_pieces(n_groups, 2 * N_PARAMS, residual.shape[1]):
        x, y, weight = take_members((problem.x, problem.y, problem.weight),
                                    piece)
        weight = weight * residual[piece, ...]
        for i in range(n_sources):
            part = slice(N_PARAMS * i, N_PARAMS * (i + 1))
            curved[piece, part, part] += _weighted_curvature(
                sources[piece, i, :], x, y, weight)
    # In the scale of the normal matrix, whose diagonal is positive.
    scale, scaled = scale_to_unit_diagonal(normal, free)
    scaled = scaled + (curved - normal) * (scale[:, :, None]
                                           * scale[:, None, :])
    finite = xp.all(xp.all(xp.isfinite(scaled), axis=2), axis=1)
    scaled = xp.where(finite[:, None, None], scaled,
                      xp.zeros_like(scaled))
    definite = xp.linalg.eigvalsh(scaled)[:, 0] > _DEFINITE
    return xp.where(definite[:, None, None], curved, normal)


def _weighted_curvature(sources, x, y, weight):
    r"""
    Return the weighted sums of the second derivatives of Gaussians with
    respect to tangent coordinates, for states (g, 6): shape (g, 6, 6).

    The derivatives of the logarithm of a Gaussian along its axes are
    :math:`l = (u_a, u_b, u_a^2 / 2, u_a u_b, u_b^2 / 2)`, and the second ones
    :math:`-z_k^T P z_l` with :math:`P = \Sigma^{-1}` and :math:`z = (e_a, e_b,
    E_{aa} u, E_{ab} u, E_{bb} u)`, where :math:`E` is the unit of an element.
    """
    xp = array_namespace(sources)
    amplitude, x0, y0, var_a, var_b, theta = (
        sources[:, i, None] for i in range(N_PARAMS))
    cos, sin = xp.cos(theta), xp.sin(theta)
    dx, dy = x - x0, y - y0
    off_a, off_b = cos * dx + sin * dy, cos * dy - sin * dx
    u_a, u_b = off_a / var_a, off_b / var_b
    profile = weight * xp.exp(-0.5 * (off_a * u_a + off_b * u_b))
    slopes = xp.stack((xp.ones_like(u_a), u_a, u_b, 0.5 * u_a * u_a,
                       u_a * u_b, 0.5 * u_b * u_b), axis=1)
    moments = (slopes * profile[:, None, :]) @ xp.matrix_transpose(slopes)
    total, by_a, by_b = (moments[:, 0, k] for k in range(3))
    aa, ab, bb = moments[:, X, X], moments[:, X, Y], moments[:, Y, Y]
    p_a, p_b = 1.0 / var_a[:, 0], 1.0 / var_b[:, 0]
    curvature = moments * amplitude[:, :, None]
    for k, m, value in (
            (X, X, p_a * total), (Y, Y, p_b * total), (X, AA, p_a * by_a),
            (X, AB, p_a * by_b), (Y, AB, p_b * by_a), (Y, BB, p_b * by_b),
            (AA, AA, p_a * aa), (AA, AB, p_a * ab),
            (AB, AB, p_a * bb + p_b * aa), (AB, BB, p_b * ab),
            (BB, BB, p_b * bb)):
        curvature[:, k, m] -= amplitude[:, 0] * value
        if k != m:
            curvature[:, m, k] -= amplitude[:, 0] * value
    curvature[:, AMPLITUDE, :] = moments[:, AMPLITUDE, :]
    curvature[:, :, AMPLITUDE] = moments[:, :, AMPLITUDE]
    curvature[:, AMPLITUDE, AMPLITUDE] = 0.0
    # From the axes of the ellipse back to x and y.
    turn = xp.zeros_like(moments)
    for k in (AMPLITUDE, AA, AB, BB):
        turn[:, k, k] = 1.0
    turn[:, X, X] = turn[:, Y, Y] = cos[:, 0]
    turn[:, X, Y], turn[:, Y, X] = -sin[:, 0], sin[:, 0]
    return turn @ curvature @ xp.matrix_transpose(turn)


def _is_at_rest(problem, state, terms, step, xtol, gtol):
    """
    Return which groups have converged as in MINPACK: those whose
    step or whose gradient is small.

    Parameters and steps are measured in units of the errors of the
    parameters, by the diagonal of the normal matrix.
    """
    xp = array_namespace(step)
    sources, coeffs = state
    chi2, normal, gradient, _ = terms
    free = problem.free & ~_at_active_bound(problem, sources, gradient)
    zeros = xp.zeros_like(gradient)
    length = xp.where(free, xp.sqrt(xp.linalg.diagonal(normal)), zeros)
    at_rest = xp.zeros(step.shape[0], dtype=xp.bool)
    if xtol is not None:
        none = xp.zeros_like(sources[:, :, :1])
        tangent = xp.concat((sources[:, :, :4], none, sources[:, :, 4:5]),
                            axis=2)
        params = xp.concat((xp.reshape(tangent, (step.shape[0], -1)),
                            coeffs), axis=1)
        size = xp.linalg.vector_norm(length * params, axis=1)
        moved = xp.linalg.vector_norm(length * step, axis=1)
        at_rest = at_rest | (moved <= xtol * (xtol + size))
    if gtol is not None:
        known = length > 0.0
        cosine = xp.where(known, xp.abs(gradient) / xp.where(
            known, length, xp.ones_like(length)), zeros)
        at_rest = at_rest | (xp.max(cosine, axis=1)
                             <= gtol * xp.sqrt(chi2))
    return at_rest


def _bound_curvature(problem, sources, gradient):
    r"""
    Return what the bounds of the widths add to the diagonal of the normal
    matrix.

    A step :math:`t` in ``ab`` turns the ellipse and changes the
    variances by :math:`\pm t^2 / (\sigma_a^2 - \sigma_b^2)`. At a
    bound that chi2 pushes against, the projection takes that change
    back, which costs the slope times the change.
    """
    xp = array_namespace(sources)
    n_groups, n_sources, _ = sources.shape
    n_coords = N_PARAMS * n_sources
    slope = xp.reshape(gradient[:, :n_coords],
                       (n_groups, n_sources, N_PARAMS))
    var_a, var_b = sources[:, :, 3], sources[:, :, 4]
    none = xp.zeros_like(var_a)
    push = xp.where((var_b <= problem.var_low) & (slope[:, :, BB] > 0.0),
                    slope[:, :, BB], none) + xp.where(
        (var_a >= problem.var_high) & (slope[:, :, AA] < 0.0),
        -slope[:, :, AA], none)
    longer = var_a > var_b
    extra = xp.where(longer, 2.0 * push / xp.where(longer, var_a - var_b,
                                                   xp.ones_like(var_a)), none)
    curvature = xp.stack([none] * AB + [extra] + [none] * (N_PARAMS - AB - 1),
                         axis=2)
    background = xp.zeros((n_groups, gradient.shape[1] - n_coords),
                          dtype=gradient.dtype)
    return xp.concat((xp.reshape(curvature, (n_groups, n_coords)),
                      background), axis=1)


def _at_active_bound(problem, sources, gradient):
    """
    Return which coordinates are at a bound that chi2 pushes them across.
    """
    xp = array_namespace(sources)
    n_groups, n_sources, _ = sources.shape
    n_coords = N_PARAMS * n_sources
    slope = xp.reshape(gradient[:, :n_coords],
                       (n_groups, n_sources, N_PARAMS))
    position = sources[:, :, X:Y + 1]
    variance = sources[:, :, 3:5]
    slope_var = xp.stack((slope[:, :, AA], slope[:, :, BB]), axis=2)
    out_xy = _pushed_out(position, slope[:, :, X:Y + 1], problem.xy_low,
                         problem.xy_high)
    out_var = _pushed_out(variance, slope_var, problem.var_low,
                          problem.var_high)
    # A round source at a bound can neither grow nor turn when the matrix
    # of its slopes is definite: both eigenvalues push it out.
    stuck = out_var[:, :, 0] & out_var[:, :, 1] & (
        4.0 * slope[:, :, AA] * slope[:, :, BB] > slope[:, :, AB]**2)
    never = xp.zeros((n_groups, n_sources, 1), dtype=xp.bool)
    at_bound = xp.concat((never, out_xy, out_var[:, :, :1],
                          stuck[:, :, None], out_var[:, :, 1:]), axis=2)
    if problem.amplitude_low is not None:
        # Position and shape of a source without amplitude are not known,
        # and must not drift before the amplitude rises again.
        empty = ((sources[:, :, 0] <= problem.amplitude_low)
                 & (slope[:, :, AMPLITUDE] > 0.0))
        at_bound = at_bound | empty[:, :, None]
    background = xp.zeros((n_groups, gradient.shape[1] - n_coords),
                          dtype=xp.bool)
    return xp.concat((xp.reshape(at_bound, (n_groups, n_coords)),
                      background), axis=1)


def _pushed_out(value, slope, low, high):
    """
    Return where chi2 decreases beyond the bounds.
    """
    return ((value <= low) & (slope > 0.0)) | ((value >= high)
                                               & (slope < 0.0))


def _move(problem, sources, coeffs, step):
    """
    Take a step and project it into the bounds.
    """
    xp = array_namespace(sources)
    n_groups, n_sources, _ = sources.shape
    n_coords = N_PARAMS * n_sources
    step_sources = xp.reshape(step[:, :n_coords],
                              (n_groups, n_sources, N_PARAMS))
    position = xp.clip(sources[:, :, X:Y + 1] + step_sources[:, :, X:Y + 1],
                       problem.xy_low, problem.xy_high)
    var_a = sources[:, :, 3] + step_sources[:, :, AA]
    var_b = sources[:, :, 4] + step_sources[:, :, BB]
    var_ab = step_sources[:, :, AB]
    # The new axes diagonalize the matrix, by one Jacobi rotation (Golub & Van
    # Loan 2013, Matrix Computations, 8.5).
    mean, half_diff = 0.5 * (var_a + var_b), 0.5 * (var_a - var_b)
    radius = xp.sqrt(half_diff * half_diff + var_ab * var_ab)
    turn = 0.5 * xp.atan2(var_ab, half_diff)
    held = (step_sources[:, :, AA] == 0.0) & (
        step_sources[:, :, BB] == 0.0) & (var_ab == 0.0)
    variances = xp.clip(xp.stack((mean + radius, mean - radius), axis=2),
                        float(problem.var_low), float(problem.var_high))
    shape = xp.concat((variances,
                       (sources[:, :, 5] + turn)[:, :, None]), axis=2)
    # Fixed shapes keep all bits.
    shape = xp.where(held[:, :, None], sources[:, :, 3:], shape)
    amplitude = sources[:, :, 0] + step_sources[:, :, AMPLITUDE]
    if problem.amplitude_low is not None:
        amplitude = xp.maximum(amplitude, problem.amplitude_low)
    moved = xp.concat((amplitude[:, :, None], position, shape), axis=2)
    return moved, coeffs + step[:, n_coords:]
