# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Levenberg-Marquardt on batches of independent least-squares problems.

The loop does not depend on the models: a *problem* evaluates them, moves
their parameters, and decides when they have converged. All arrays have
the batch axis first. The code uses the Python array API standard only.
"""

from typing import Any, NamedTuple

__all__ = [
    'SMALLEST_DAMPING',
    'LMResult',
    'array_namespace',
    'choose_members',
    'damped_step',
    'invert_normal',
    'minimize_batch',
    'propose_step',
    'scale_to_unit_diagonal',
    'take_members',
]

# The damping is added to a normal matrix that is scaled to a unit diagonal
# (Marquardt 1963, J. SIAM 11, 431).
_FIRST_DAMPING = 1e-2
SMALLEST_DAMPING = 1e-10
_DAMPING_DOWN = 0.1
_DAMPING_UP = 8.0
# The smallest damping after a step that failed: one that is far below the
# unit diagonal would give the same step again.
_FAILED_DAMPING = 0.1
# Ratio of the actual to the predicted gain above which the damping decreases,
# and below which it increases (as in Moré 1978, Lect. Notes Math. 630, 105).
_GOOD_GAIN = 0.75
_BAD_GAIN = 0.25
# Fractions of chi2 that may be rounding errors: a step that promises less is
# taken, as the sign of its gain would be that of an error.
_ROUNDING = 1e-11
# A normal matrix whose scaled eigenvalues have a smaller ratio is
# singular.
_SINGULAR = 1e-13


class LMResult(NamedTuple):
    """
    The end of a batch of fits.

    ``terms`` are those of `minimize_batch`; if last steps are not evaluated,
    those before the last step, with the chi2 that it promised. ``n_iter``
    counts the steps that were tried; ``converged`` is `False` if the fit ended
    by the largest number of steps.
    """

    state: Any
    terms: Any
    n_iter: Any
    converged: Any


def minimize_batch(problem, state, *, max_iter, terms=None,
                   evaluate_last=True):
    """
    Minimize chi2 for all members of a batch, and return an `LMResult`.

    ``state`` is a tuple of arrays with the batch axis first, and ``terms``
    those of ``state``, if known. ``evaluate_last`` tells whether the last
    step of each member is evaluated, and undone if it does not lower chi2: a
    step that promises next to nothing hardly changes the terms. The problem
    has the methods

    ``evaluate(state)``
        Return the state and a tuple of arrays ``terms`` that begins
        with chi2 of shape (g,), the normal matrix of shape
        (g, n, n), and half of the gradient of chi2 of shape (g, n).
        The returned state may be better than the given one, for
        example in its linear parameters.

    ``system(state, terms)``
        Return the normal matrix, half of the gradient, and a bool
        array of the coordinates in which a step may go: those that
        are neither fixed nor at a bound that chi2 pushes against.

    ``limit(state, step)``
        Return the step or a shorter one, where the model is not to
        be trusted farther or a bound is in the way.

    ``move(state, step)``
        Return the state after a step, inside the bounds.

    ``is_converged(state, terms, step, promise, gain)``
        Return a bool array: the members for which a step that
        was predicted to lower chi2 by ``promise`` and lowered it by
        ``gain`` was the last. ``gain`` is `None` without
        ``evaluate_last``.

    ``take(index)``
        Return the problem of a part of the members.

    Members that have converged leave the batch, so that the others do
    not carry them. A gain that is NaN counts as a bad one.
    """
    part = problem
    if terms is None:
        state, terms = part.evaluate(state)
    chi2 = terms[0]
    xp = array_namespace(chi2)
    active = xp.arange(chi2.shape[0])
    damping = xp.full_like(chi2, _FIRST_DAMPING)
    finished = []

    def finish(leaving, done, n_iter, arrays):
        left = xp.nonzero(leaving)[0]
        finished.append(take_members(
            (active, done, xp.full_like(active, n_iter), *arrays), left))
        return xp.nonzero(~leaving)[0]

    for n_iter in range(1, max_iter + 1):
        step, promise = propose_step(part, state, terms, damping)
        trial = part.move(state, step)
        if not evaluate_last:
            done = part.is_converged(state, terms, step, promise, None)
            if xp.any(done):
                promised = xp.clip(terms[0] - promise, 0.0, None)
                stay = finish(done, done, n_iter,
                              (*trial, promised, *terms[1:]))
                if stay.shape[0] == 0:
                    break
                part = part.take(stay)
                state, trial, terms = (take_members(arrays, stay)
                                       for arrays in (state, trial, terms))
                active, damping, promise, done = take_members(
                    (active, damping, promise, done), stay)
        trial, trial_terms = part.evaluate(trial)
        gain = terms[0] - trial_terms[0]
        if evaluate_last:
            done = part.is_converged(state, terms, step, promise, gain)
        rounding = _ROUNDING * terms[0]
        better = gain > xp.where(promise < rounding, -rounding,
                                 xp.zeros_like(gain))
        state = choose_members(better, trial, state)
        terms = choose_members(better, trial_terms, terms)
        damping = xp.where(gain > _GOOD_GAIN * promise,
                           damping * _DAMPING_DOWN, damping)
        damping = xp.where(gain > _BAD_GAIN * promise, damping, xp.maximum(
            damping * _DAMPING_UP, xp.full_like(damping, _FAILED_DAMPING)))
        damping = xp.maximum(damping,
                             xp.full_like(damping, SMALLEST_DAMPING))
        leaving = xp.ones_like(done) if n_iter == max_iter else done
        if not xp.any(leaving):
            continue
        stay = finish(leaving, done, n_iter, (*state, *terms))
        if stay.shape[0] == 0:
            break
        part = part.take(stay)
        active, damping = take_members((active, damping), stay)
        state, terms = take_members(state, stay), take_members(terms, stay)
    columns = tuple(xp.concat(parts) for parts in zip(*finished,
                                                      strict=True))
    order = xp.argsort(columns[0])
    _, converged, n_iter, *rest = take_members(columns, order)
    n_state = len(state)
    return LMResult(tuple(rest[:n_state]), tuple(rest[n_state:]), n_iter,
                    converged)


def propose_step(problem, state, terms, damping):
    """
    Return a step within the limits of the problem, and by how much the
    quadratic model of chi2 falls; see `damped_step` for the damping.
    """
    xp = array_namespace(damping)
    normal, gradient, free = problem.system(state, terms)
    step = problem.limit(state, damped_step(normal, gradient, free, damping))
    curvature = (normal @ step[:, :, None])[:, :, 0]
    return step, -xp.sum(step * (2.0 * gradient + curvature), axis=1)


def damped_step(normal, gradient, free, damping):
    """
    Return the step of Levenberg-Marquardt, 0 for parameters that are not
    free.

    The damping is added to the diagonal of the normal matrix that is scaled
    to a unit diagonal; the gradient is half of that of chi2.
    """
    xp = array_namespace(normal)
    scale, scaled = scale_to_unit_diagonal(normal, free)
    right = xp.where(free, -gradient, xp.zeros_like(gradient)) * scale
    identity = _identity(normal)
    return scale * xp.linalg.solve(
        scaled + damping[:, None, None] * identity[None, :, :],
        right[:, :, None])[:, :, 0]


def scale_to_unit_diagonal(normal, free):
    """
    Return the factors of rows and columns that scale normal matrices to a
    unit diagonal, 0 for parameters that are not free, and the matrices.
    """
    xp = array_namespace(normal)
    diagonal = xp.linalg.diagonal(normal)
    known = free & (diagonal > 0.0)
    ones = xp.ones_like(diagonal)
    zeros = xp.zeros_like(diagonal)
    scale = xp.where(known, 1.0 / xp.sqrt(xp.where(known, diagonal, ones)),
                     zeros)
    scaled = normal * scale[:, :, None] * scale[:, None, :]
    decoupled = xp.where(known, zeros, ones)
    return scale, scaled + (decoupled[:, :, None]
                            * _identity(normal)[None, :, :])


def invert_normal(normal, free):
    """
    Return the inverse of normal matrices: 0 for parameters that are not free,
    NaN where the matrix is singular.
    """
    xp = array_namespace(normal)
    scale, scaled = scale_to_unit_diagonal(normal, free)
    finite = xp.all(xp.all(xp.isfinite(scaled), axis=2), axis=1)
    scaled = xp.where(finite[:, None, None], scaled,
                      _identity(normal)[None, :, :])
    values, vectors = xp.linalg.eigh(scaled)
    empty = xp.any(free & (scale == 0.0), axis=1)
    good = finite & ~empty & (values[:, 0] > _SINGULAR * values[:, -1])
    inverse = (vectors / xp.where(good[:, None], values,
                                  xp.ones_like(values))[:, None, :]
               ) @ xp.matrix_transpose(vectors)
    covariance = inverse * scale[:, :, None] * scale[:, None, :]
    return xp.where(good[:, None, None], covariance,
                    xp.full_like(covariance, xp.nan))


def take_members(arrays, index):
    """
    Return some members of each array.

    Objects without a shape that have a method ``take`` are asked for them.
    Other objects, and arrays of one member that all share, are returned
    unchanged.
    """
    def take(array):
        if array is None:
            return None
        if not hasattr(array, 'shape'):
            return array.take(index) if hasattr(array, 'take') else array
        if array.shape[0] == 1:
            return array
        if isinstance(index, slice):
            return array[index, ...]
        return array_namespace(array).take(array, index, axis=0)

    return tuple(map(take, arrays))


def choose_members(condition, new, old):
    """
    Return, for each pair of arrays, ``new`` for the members where the
    condition holds, otherwise ``old``.
    """
    xp = array_namespace(condition)
    return tuple(
        xp.where(xp.reshape(condition, (-1,) + (1,) * (a.ndim - 1)), a, b)
        for a, b in zip(new, old, strict=True))


def array_namespace(array):
    """
    Return the module of the array API functions of an array.

    PyTorch itself has not all of the standard: the package
    array-api-compat, of the extra ``torch``, adds the rest.
    """
    # Small batches call this more often than any other function.
    try:
        return array.__array_namespace__()
    except AttributeError:
        pass
    try:
        import array_api_compat
    except ImportError:
        msg = (f'arrays of {type(array).__module__} need the package '
               'array_api_compat: pip install hyperphotutils[torch]')
        raise ImportError(msg) from None
    return array_api_compat.array_namespace(array)


def _identity(matrices):
    xp = array_namespace(matrices)
    return xp.eye(matrices.shape[-1], dtype=matrices.dtype,
                  device=matrices.device)
