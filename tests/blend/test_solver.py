# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the solver module.
"""

import array_api_strict
import numpy as np
import pytest
from astropy.modeling.fitting import TRFLSQFitter
from astropy.modeling.models import Gaussian2D, Polynomial2D
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import least_squares

from hyperphotutils.blend import solver
from hyperphotutils.blend.solver import (
    BatchProblem,
    evaluate,
    evaluate_sources,
    fit_batch,
    solve_linear,
)

FWHM = 4.0
RADIUS = 2.0 * FWHM
CENTER = 40.0
TO_SIGMA = 1.0 / np.sqrt(8.0 * np.log(2.0))
# from the coefficients of 1, (x - CENTER) / RADIUS, (y - CENTER) / RADIUS
# to those of 1, x, y
TO_RAW = np.array([[1.0, -CENTER / RADIUS, -CENTER / RADIUS],
                   [0.0, 1.0 / RADIUS, 0.0], [0.0, 0.0, 1.0 / RADIUS]])


def random_group(n_sources, rng, *, noise=1.0):
    """
    A blended group on pixels of its own: every source is 1 to 1.6 FWHM
    from another. The pixels have different errors, and one in twenty is
    missing. The true state is returned with the data.
    """
    xy = rng.uniform(-0.5, 0.5, (1, 2))
    while len(xy) < n_sources:
        angle = rng.uniform(0.0, 2.0 * np.pi)
        new = xy[rng.integers(len(xy))] + FWHM * rng.uniform(1.0, 1.6) * (
            np.array([np.cos(angle), np.sin(angle)]))
        if np.all(np.hypot(*(xy - new).T) >= FWHM):
            xy = np.vstack((xy, new))
    major = FWHM * rng.uniform(1.0, 1.4, n_sources)
    minor = major * rng.uniform(0.55, 0.85, n_sources)
    truth = np.column_stack((
        rng.uniform(20.0, 60.0, n_sources), xy, (major * TO_SIGMA)**2,
        (minor * TO_SIGMA)**2, rng.uniform(0.0, np.pi, n_sources)))
    truth[:, 1:3] += CENTER
    coeffs = rng.normal(0.0, 5.0, 3)

    y, x = np.indices((81, 81))
    near = np.zeros(x.shape, dtype=bool)
    for x0, y0 in truth[:, 1:3]:
        near |= np.hypot(x - x0, y - y0) <= RADIUS
    near &= rng.random(x.shape) > 0.05
    x, y = x[near].astype(float), y[near].astype(float)
    error = rng.uniform(0.5, 2.0, x.shape) * max(noise, 1e-3)
    data = group_model(truth, coeffs)(x, y)
    data += noise * rng.normal(size=x.shape) * error
    return truth, coeffs, x, y, data, error


def group_model(sources, coeffs):
    """
    The astropy model of a group, with a plane in raw pixel coordinates:
    astropy 8.0 forgets the domain of a polynomial in ``fit_deriv``.
    """
    terms = TO_RAW @ coeffs
    model = Polynomial2D(1, c0_0=terms[0], c1_0=terms[1], c0_1=terms[2])
    for amplitude, x, y, var_a, var_b, theta in reversed(sources):
        model = Gaussian2D(amplitude, x, y, np.sqrt(var_a), np.sqrt(var_b),
                           theta=theta) + model
    return model


def plane(x, y):
    """
    The terms of the plane at the pixels.
    """
    return np.stack((np.ones_like(x), (x - CENTER) / RADIUS,
                     (y - CENTER) / RADIUS), axis=-2)


def make_problem(groups, *, max_shift=FWHM, width_range=(0.3, 4.0),
                 starts=None, extra=0):
    """
    Put groups of equal size into a batch: padded with ``extra`` pixels
    more than the largest has. The start is the truth moved by a few
    tenths of a pixel, and as wide as the beam.
    """
    n_pixels = max(len(group[2]) for group in groups) + extra
    x, y, data, weight = np.zeros((4, len(groups), n_pixels))
    sources = np.array([group[0] for group in groups])
    rng = np.random.default_rng(99)
    sources[:, :, 1:3] += rng.uniform(-0.4, 0.4, sources[:, :, 1:3].shape)
    sources[:, :, 3:5] = (FWHM * TO_SIGMA)**2
    sources[:, :, 5] = 0.0
    if starts is not None:
        sources = starts.copy()
    for k, (_, _, xk, yk, dk, error) in enumerate(groups):
        x[k, :len(xk)], y[k, :len(xk)] = xk, yk
        weight[k, :len(xk)] = 1.0 / error
        data[k, :len(xk)] = dk / error
    basis = plane(x, y) * weight[:, None, :]
    free = np.ones((len(groups), 6 * sources.shape[1] + 3), dtype=bool)
    position = sources[:, :, 1:3]
    low, high = (np.array(width_range) * FWHM * TO_SIGMA)**2
    problem = BatchProblem(data, x, y, weight, basis, free,
                           position - max_shift, position + max_shift,
                           float(low), float(high))
    return problem, sources, np.zeros((len(groups), 3))


def fit(problem, sources, coeffs, **kwargs):
    sources, coeffs = solve_linear(problem, sources, coeffs)
    return fit_batch(problem, sources, coeffs, **kwargs)


def matrices(sources):
    """
    The covariance matrices of the ellipses.
    """
    cos, sin = np.cos(sources[..., 5]), np.sin(sources[..., 5])
    a, b = sources[..., 3], sources[..., 4]
    return np.stack((a * cos**2 + b * sin**2, (a - b) * sin * cos,
                     a * sin**2 + b * cos**2), axis=-1)


def move(state, step):
    """
    A state moved by a step in tangent coordinates: the last three are
    added to the matrix of the ellipse in its own axes.
    """
    amplitude, x, y, var_a, var_b, theta = state
    cos, sin = np.cos(theta), np.sin(theta)
    turn = np.array([[cos, -sin], [sin, cos]])
    matrix = turn @ np.array([[var_a + step[3], step[4]],
                              [step[4], var_b + step[5]]]) @ turn.T
    values, vectors = np.linalg.eigh(matrix)
    return np.array([amplitude + step[0], x + step[1], y + step[2],
                     values[1], values[0],
                     np.arctan2(vectors[1, 1], vectors[0, 1])])


class TestEvaluate:
    def test_model_is_that_of_astropy(self):
        """
        The weighted model is the sum of astropy's Gaussians and plane.
        """
        rng = np.random.default_rng(1)
        for n_sources in (1, 3):
            sources, coeffs, x, y, _, error = random_group(n_sources, rng)
            model, _ = evaluate(sources[None], coeffs[None], x[None],
                                y[None], 1.0 / error[None],
                                plane(x, y)[None] / error)
            expected = group_model(sources, coeffs)(x, y) / error
            assert_allclose(model[0], expected, rtol=1e-12, atol=1e-12)

    def test_sources_alone_are_the_model_without_background(self):
        rng = np.random.default_rng(3)
        problem, sources, coeffs = make_problem(
            [random_group(3, rng) for _ in range(2)])
        given = (sources, problem.x, problem.y, problem.weight)
        expected, _ = evaluate(sources, 0.0 * coeffs, *given[1:],
                               problem.basis)
        strict = evaluate_sources(*map(array_api_strict.asarray, given))
        for model in (evaluate_sources(*given), np.from_dlpack(strict)):
            assert_allclose(model, expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize('ratio', [0.4, 0.9, 1.0])
    def test_jacobian_is_the_numerical_derivative(self, ratio):
        """
        Each row of the Jacobian is the central difference along its
        tangent coordinate, for elongated and for round sources.
        """
        rng = np.random.default_rng(2)
        sources, coeffs, x, y, _, error = random_group(2, rng)
        sources[:, 4] = sources[:, 3] * ratio**2
        weight, basis = 1.0 / error[None], plane(x, y)[None] / error
        _, jacobian = evaluate(sources[None], coeffs[None], x[None],
                               y[None], weight, basis)

        def model(sources, coeffs):
            return evaluate(sources[None], coeffs[None], x[None], y[None],
                            weight, basis)[0][0]

        h = 1e-5
        for row in range(15):
            moved = []
            for sign in (1.0, -1.0):
                new, new_coeffs = sources.copy(), coeffs.copy()
                if row < 12:
                    step = np.zeros(6)
                    step[row % 6] = sign * h
                    new[row // 6] = move(sources[row // 6], step)
                else:
                    new_coeffs[row - 12] += sign * h
                moved.append(model(new, new_coeffs))
            numerical = (moved[0] - moved[1]) / (2.0 * h)
            scale = np.max(np.abs(numerical))
            assert_allclose(jacobian[0, row], numerical, rtol=0,
                            atol=1e-7 * scale)


class TestFit:
    def test_agrees_with_astropy(self):
        """
        200 random groups of 1 to 6 sources, with masks and weights:
        parameters within 1e-5 and covariances within 1e-3 of those of
        TRFLSQFitter.

        TRF starts from the true parameters, the kernel from round
        sources at wrong positions. Both must be at the minimum for such
        a comparison: astropy hands on only one of scipy's tolerances, so
        TRF is started again where it stopped; the kernel gets a smaller
        tolerance than its default. A parameter that may be zero (the
        background) is compared in units of its error when that is
        larger, an angle in radians.
        """
        rng = np.random.default_rng(3)
        counts = {1: 70, 2: 50, 3: 35, 4: 23, 5: 14, 6: 8}
        fitter = TRFLSQFitter(calc_uncertainties=True)
        n_compared = 0
        for n_sources, n_groups in counts.items():
            groups = [random_group(n_sources, rng) for _ in range(n_groups)]
            result = fit(*make_problem(groups), tolerance=1e-14)
            assert result.converged.all()
            for k, (truth, coeffs, x, y, data, error) in enumerate(groups):
                fitted = trf_optimum(fitter, group_model(truth, coeffs), x,
                                     y, data, 1.0 / error)
                assert_same_fit(result, k, fitted,
                                fitter.fit_info['param_cov'])
                n_compared += 1
        assert n_compared == 200

    def test_every_group_finds_the_minimum(self):
        """
        Of 800 groups, none ends in a false minimum or needs more than
        100 steps, though all start a tenth of a FWHM off and round.
        """
        for seed in range(20, 24):
            rng = np.random.default_rng(seed)
            for n_sources, n_groups in zip(range(1, 7),
                                           (34, 34, 33, 33, 33, 33),
                                           strict=True):
                groups = [random_group(n_sources, rng)
                          for _ in range(n_groups)]
                result = fit(*make_problem(groups))
                assert result.converged.all()
                assert np.all(result.chi2 < [
                    np.sum(((group_model(truth, coeffs)(x, y) - data)
                            / error)**2)
                    for truth, coeffs, x, y, data, error in groups])

    def test_noise_free_sources_are_recovered(self):
        """
        Without noise, the truth comes back to ten digits.
        """
        rng = np.random.default_rng(4)
        for n_sources in (1, 3):
            groups = [random_group(n_sources, rng, noise=0.0)
                      for _ in range(10)]
            result = fit(*make_problem(groups))
            truth = np.array([group[0] for group in groups])
            assert_allclose(result.sources[..., :3], truth[..., :3],
                            rtol=1e-9)
            assert_allclose(matrices(result.sources), matrices(truth),
                            rtol=1e-8, atol=1e-8)
            assert_allclose(result.coeffs, [group[1] for group in groups],
                            rtol=0, atol=1e-8)
            assert result.converged.all()

    def test_round_source_is_recovered(self):
        """
        A round source, where the angle has no meaning, is no trap.
        """
        rng = np.random.default_rng(5)
        groups = [list(random_group(1, rng, noise=0.0)) for _ in range(5)]
        for group in groups:
            group[0][:, 4] = group[0][:, 3]
            group[4] = group_model(group[0], group[1])(*group[2:4])
        result = fit(*make_problem(groups))
        truth = np.array([group[0] for group in groups])
        assert_allclose(matrices(result.sources), matrices(truth), rtol=1e-8,
                        atol=1e-8)
        assert np.all(np.isfinite(result.covariance))
        assert result.converged.all()

    def test_major_axis_is_the_longer_one(self):
        rng = np.random.default_rng(6)
        result = fit(*make_problem([random_group(2, rng)
                                    for _ in range(20)]))
        assert np.all(result.sources[..., 3] >= result.sources[..., 4])

    def test_padding_has_no_influence(self):
        """
        A group alone, in a batch with larger ones, and with more padding
        gives the same numbers.
        """
        rng = np.random.default_rng(7)
        groups = [random_group(2, rng) for _ in range(6)]
        assert len({len(group[2]) for group in groups}) > 1
        problem, sources, coeffs = make_problem(groups)
        together = fit(problem, sources, coeffs)
        padded = fit(*make_problem(groups, extra=50))
        for k in range(6):
            n_pixels = len(groups[k][2])
            alone = BatchProblem(*(
                value if not hasattr(value, 'shape')
                else value[k:k + 1, ..., :n_pixels] if name in
                ('data', 'x', 'y', 'weight', 'basis') else value[k:k + 1]
                for name, value in problem._asdict().items()))
            single = fit(alone, sources[k:k + 1], coeffs[k:k + 1])
            for other in (together, padded):
                assert_allclose(single.sources[0], other.sources[k],
                                rtol=1e-8)
                assert_allclose(single.coeffs[0], other.coeffs[k],
                                rtol=1e-7, atol=1e-7)
                assert_allclose(single.covariance[0], other.covariance[k],
                                rtol=1e-6, atol=1e-9)
                assert_allclose(single.chi2[0], other.chi2[k], rtol=1e-10)
                assert single.n_iter[0] == other.n_iter[k]

    @pytest.mark.parametrize('library', ['array_api_strict',
                                         'array_api_compat.torch'])
    def test_other_array_libraries_give_the_same(self, library):
        """
        Arrays of another library of the array API standard give what
        NumPy arrays give, in kind and in value.
        """
        xp = pytest.importorskip(library)
        rng = np.random.default_rng(8)
        problem, sources, coeffs = make_problem(
            [random_group(3, rng) for _ in range(4)])
        expected = fit(problem, sources, coeffs, newton=True)
        other = BatchProblem(*(
            value if not hasattr(value, 'shape') else xp.asarray(value)
            for value in problem))
        kind = type(xp.asarray(sources))
        result = fit(other, xp.asarray(sources), xp.asarray(coeffs),
                     newton=True)
        for name, value in result._asdict().items():
            assert isinstance(value, kind), name
            assert_allclose(np.from_dlpack(value), getattr(expected, name),
                            rtol=1e-9, atol=1e-11, err_msg=name)

    def test_options_take_arrays_of_other_libraries(self):
        """
        Extra weights, with a robust loss, and all tolerances too.
        """
        rng = np.random.default_rng(12)
        problem, sources, coeffs = make_problem(
            [random_group(2, rng) for _ in range(4)])
        extra = 1.0 + rng.random(problem.data.shape)
        problem = problem._replace(
            data=extra * problem.data, weight=extra * problem.weight,
            basis=extra[:, None, :] * problem.basis, loss='huber',
            f_scale=2.0, extra=extra)
        options = {'xtol': 1e-9, 'gtol': 1e-9, 'newton': True}
        expected = fit(problem, sources, coeffs, **options)
        assert expected.converged.all()
        strict = BatchProblem(*(
            value if not hasattr(value, 'shape')
            else array_api_strict.asarray(value) for value in problem))
        result = fit(strict, array_api_strict.asarray(sources),
                     array_api_strict.asarray(coeffs), **options)
        for name, value in result._asdict().items():
            assert value.__array_namespace__() is array_api_strict, name
            assert_allclose(np.from_dlpack(value), getattr(expected, name),
                            rtol=1e-8, atol=1e-10, err_msg=name)

    def test_small_steps_are_convergence(self):
        """
        With ``xtol`` alone the fit ends as soon as a step, in units of
        the columns of the Jacobian matrix, is that much smaller than
        the parameters, and the smaller it is the later.
        """
        rng = np.random.default_rng(13)
        problem = make_problem([random_group(1, rng) for _ in range(50)])
        best = fit(*problem, tolerance=1e-16, max_iter=300)
        n_iter, distance = [], []
        for xtol in (1e-2, 1e-4, 1e-7):
            result = fit(*problem, tolerance=0.0, xtol=xtol, max_iter=300)
            assert result.converged.all()
            n_iter.append(result.n_iter.sum())
            distance.append(np.max(np.abs(
                result.sources[:, :, :3] / best.sources[:, :, :3] - 1.0)))
            assert distance[-1] < 10.0 * xtol
        assert n_iter[0] < n_iter[1] < n_iter[2]

    @pytest.mark.parametrize('gtol', [1e-2, 1e-4, 1e-6])
    def test_orthogonal_residuals_are_convergence(self, gtol):
        """
        With ``gtol`` alone the residuals are that orthogonal to the
        derivatives when the fit ends, and not yet some steps before.
        """
        rng = np.random.default_rng(14)
        problem, sources, coeffs = make_problem(
            [random_group(1, rng) for _ in range(50)])

        def cosines(result):
            model, jacobian = evaluate(
                result.sources, result.coeffs, problem.x, problem.y,
                problem.weight, problem.basis)
            residual = model - problem.data
            norms = np.linalg.norm(jacobian, axis=2) * np.linalg.norm(
                residual, axis=1)[:, None]
            return np.max(np.abs(np.einsum('gkp,gp->gk', jacobian, residual))
                          / norms, axis=1)

        result = fit(problem, sources, coeffs, tolerance=0.0, gtol=gtol,
                     max_iter=300)
        assert result.converged.all()
        assert np.all(cosines(result) <= gtol)
        before = fit(problem, sources, coeffs, tolerance=0.0,
                     max_iter=int(result.n_iter.max()) - 2)
        assert np.any(cosines(before) > gtol)

    def test_groups_without_a_chance_are_given_up(self):
        """
        They take fewer steps, and the others end where they did.
        """
        rng = np.random.default_rng(16)
        problem, sources, coeffs = make_problem(
            [random_group(2, rng) for _ in range(6)])
        expected = fit_batch(problem, sources, coeffs)
        goal = np.where(np.arange(6) < 3, 0.0, np.inf)
        goal[:3] = expected.chi2[:3] - 1e3 * np.abs(expected.chi2[:3])
        result = fit_batch(problem, sources, coeffs, goal=goal)
        assert np.all(result.n_iter[:3] < expected.n_iter[:3])
        assert_array_equal(result.n_iter[3:], expected.n_iter[3:])
        assert_allclose(result.sources[3:], expected.sources[3:], rtol=1e-9)

    @pytest.mark.parametrize('loss', ['linear', 'huber'])
    @pytest.mark.parametrize('first', [0.0, 30.0])
    def test_linear_start_is_that_of_solve_linear(self, loss, first):
        """
        A single step from there is the same, whatever the amplitudes
        before, with a ridge and with noise that is not white, also for
        arrays of another library.
        """
        rng = np.random.default_rng(15)
        problem, sources, coeffs = make_problem(
            [random_group(2, rng) for _ in range(4)])
        n_pixels = problem.data.shape[1]
        matrix = np.eye(n_pixels) + np.tril(
            0.01 * rng.normal(size=(1, n_pixels, n_pixels)), -1)
        turn = np.swapaxes(matrix, 1, 2)
        problem = problem._replace(
            data=(problem.data[:, None] @ turn)[:, 0],
            basis=problem.basis @ turn, whitening=matrix, loss=loss,
            ridge=np.full(coeffs.shape, 3.0), f_scale=3.0)
        sources[:, :, 0] = first
        expected = fit(problem, sources, coeffs, max_iter=1)
        result = fit_batch(problem, sources, coeffs, max_iter=1,
                           linear_start=True)
        strict = BatchProblem(*(
            value if not hasattr(value, 'shape')
            else array_api_strict.asarray(value) for value in problem))
        other = fit_batch(strict, array_api_strict.asarray(sources),
                          array_api_strict.asarray(coeffs), max_iter=1,
                          linear_start=True)
        for name in ('sources', 'coeffs', 'covariance', 'chi2'):
            for value in (getattr(result, name),
                          np.from_dlpack(getattr(other, name))):
                assert_allclose(value, getattr(expected, name), rtol=1e-7,
                                atol=1e-7, err_msg=name)

    def test_pieces_give_the_same(self, monkeypatch):
        """
        However many groups are evaluated at once.
        """
        rng = np.random.default_rng(16)
        given = make_problem([random_group(2, rng) for _ in range(7)])
        expected = fit(*given)
        for size in (1, 3 * 15 * given[0].data.shape[1]):
            monkeypatch.setattr(solver, '_PIECE_ELEMENTS', size)
            result = fit(*given)
            for name, value in result._asdict().items():
                assert_allclose(value, getattr(expected, name), rtol=1e-9,
                                atol=1e-12, err_msg=name)

    def test_few_iterations_are_no_convergence(self):
        rng = np.random.default_rng(9)
        problem = make_problem([random_group(2, rng) for _ in range(3)])
        result = fit(*problem, max_iter=1)
        assert not result.converged.any()
        assert_array_equal(result.n_iter, 1)
        assert np.all(fit(*problem).chi2 < result.chi2)

    def test_chi2_is_that_of_the_state(self):
        """
        The chi2 that is returned belongs to the parameters that are
        returned, and no true model is better.
        """
        rng = np.random.default_rng(10)
        groups = [random_group(2, rng) for _ in range(5)]
        result = fit(*make_problem(groups))
        for k, (truth, true_coeffs, x, y, data, error) in enumerate(groups):
            chi2 = [np.sum(((group_model(*state)(x, y) - data) / error)**2)
                    for state in ((result.sources[k], result.coeffs[k]),
                                  (truth, true_coeffs))]
            assert_allclose(result.chi2[k], chi2[0], rtol=1e-10)
            assert chi2[0] < chi2[1]

    def test_no_pixels_give_no_covariance(self):
        """
        A group of which all weights are zero is kept, with NaN errors;
        the other groups of the batch do not notice.
        """
        rng = np.random.default_rng(11)
        problem, sources, coeffs = make_problem(
            [random_group(1, rng) for _ in range(3)])
        expected = fit(problem, sources, coeffs)
        problem.weight[1] = 0.0
        problem.data[1] = 0.0
        problem.basis[1] = 0.0
        result = fit(problem, sources, coeffs)
        assert np.isnan(result.covariance[1]).all()
        assert_array_equal(result.sources[1, :, 1:], sources[1, :, 1:])
        for k in (0, 2):
            assert_allclose(result.sources[k], expected.sources[k],
                            rtol=1e-12)


def trf_optimum(fitter, model, x, y, data, weights):
    """
    Call the fitter until it finds nothing better.
    """
    for _ in range(50):
        fitted = fitter(model, x, y, data, weights=weights, acc=1e-12,
                        maxiter=1000)
        sigma = np.sqrt(np.diag(fitter.fit_info['param_cov']))
        if np.all(np.abs(fitted.parameters - model.parameters)
                  < 3e-6 * sigma):
            return fitted
        model = fitted
    msg = 'TRF does not converge'
    raise AssertionError(msg)


def assert_same_fit(result, k, fitted, covariance):
    """
    A group fitted by the kernel and by an astropy fitter.
    """
    n_sources = result.sources.shape[1]
    expected = fitted.parameters[:6 * n_sources].reshape(-1, 6)
    swapped = expected[:, 4] > expected[:, 3]
    order = np.arange(6 * n_sources + 3)
    for i in np.flatnonzero(swapped):
        expected[i, [3, 4]] = expected[i, [4, 3]]
        expected[i, 5] += np.pi / 2.0
        order[6 * i + np.array([3, 4])] = order[6 * i + np.array([4, 3])]
    covariance = covariance[np.ix_(order, order)]

    ours = result.sources[k].copy()
    # d(parameter) / d(tangent coordinate); the angle is in the middle
    scale = np.ones((n_sources, 6))
    scale[:, 3] = 0.5 / np.sqrt(ours[:, 3])
    scale[:, 4] = 1.0 / (ours[:, 3] - ours[:, 4])
    scale[:, 5] = 0.5 / np.sqrt(ours[:, 4])
    ours[:, 3:5] = np.sqrt(ours[:, 3:5])
    ours[:, 5] += np.pi * np.rint((expected[:, 5] - ours[:, 5]) / np.pi)
    scale = np.append(scale.ravel(), np.ones(3))
    to_model = np.arange(len(order))
    to_model[:6 * n_sources] = (
        to_model[:6 * n_sources].reshape(-1, 6)[:, [0, 1, 2, 3, 5, 4]]
        .ravel())
    linear = np.diag(scale)
    linear[-3:, -3:] = TO_RAW
    ours_cov = (linear @ result.covariance[k] @ linear.T)[
        np.ix_(to_model, to_model)]

    sigma = np.sqrt(np.diag(covariance))
    ours = np.append(ours.ravel(), TO_RAW @ result.coeffs[k])
    expected = np.append(expected.ravel(), fitted.parameters[-3:])
    allowed = np.maximum(np.abs(expected), sigma)
    allowed[5:6 * n_sources:6] = 1.0  # radian
    assert_allclose((ours - expected) / allowed, 0.0, rtol=0, atol=1e-5)
    assert_allclose(ours_cov / sigma[:, None] / sigma,
                    covariance / sigma[:, None] / sigma, rtol=0, atol=1e-3)
    # the diagonal once more: relative to itself
    assert_allclose(np.sqrt(np.diag(ours_cov)), sigma, rtol=1e-3)


def scipy_optimum(group, low, high):
    """
    The best optimum of one source that scipy finds from several angles,
    with bounds on the position and the standard deviations.
    """
    _, _, x, y, data, error = group

    def residual(p):
        state = np.array([[*p[:3], p[3]**2, p[4]**2, p[5]]])
        model, _ = evaluate(state[None], p[None, 6:], x[None], y[None],
                            1.0 / error[None], plane(x, y)[None] / error)
        return model[0] - data / error

    best = None
    for angle in np.deg2rad([0.0, 45.0, 90.0, 135.0]):
        start = np.array([30.0, *(low[1:3] + high[1:3]) / 2.0,
                          0.4 * low[3] + 0.6 * high[3],
                          0.8 * low[4] + 0.2 * high[4], angle, 0, 0, 0])
        new = least_squares(residual, start, bounds=(low, high), xtol=1e-14,
                            ftol=1e-14, gtol=1e-12, max_nfev=2000,
                            x_scale='jac')
        if best is None or new.cost < best.cost:
            best = new
    return best.x, 2.0 * best.cost


class TestBounds:
    @pytest.mark.parametrize(('max_shift', 'width_range'), [
        (FWHM, (0.3, 1.0)),     # the major axis must not be so long
        (FWHM, (1.1, 4.0)),     # the minor axis must not be so short
        (FWHM, (1.6, 4.0)),     # both axes are at the lower bound
        (FWHM, (0.3, 0.6)),     # both axes are at the upper bound
        (0.2, (0.3, 4.0)),      # the position must not move so far
        (0.2, (1.1, 4.0)),      # position and minor axis
    ])
    def test_optimum_is_that_of_scipy(self, max_shift, width_range):
        """
        With active bounds, the kernel ends inside them, and where
        scipy's bounded least squares does. (Sources of half the true
        size fit so badly that more than 100 steps are needed.)
        """
        rng = np.random.default_rng(12)
        groups = []
        while len(groups) < 6:
            group = random_group(1, rng)
            major, minor = np.sqrt(group[0][0, 3:5]) / TO_SIGMA / FWHM
            if major > 1.15 and minor < 1.0:
                groups.append(group)
        starts = np.array([group[0] for group in groups])
        starts[:, :, 1:3] += np.array([0.5, -0.45])
        width = np.clip(1.0, *width_range) * FWHM * TO_SIGMA
        starts[:, :, 3:5] = width**2
        problem, sources, coeffs = make_problem(
            groups, max_shift=max_shift, width_range=width_range,
            starts=starts)
        result = fit(problem, sources, coeffs, max_iter=500)
        low_width, high_width = np.array(width_range) * FWHM * TO_SIGMA
        n_active = 0
        for k, group in enumerate(groups):
            center = starts[k, 0, 1:3]
            free = [-np.inf] * 3
            low = np.array([-np.inf, *(center - max_shift), low_width,
                            low_width, -np.inf, *free])
            high = np.array([np.inf, *(center + max_shift), high_width,
                             high_width, np.inf, *np.negative(free)])
            best, chi2 = scipy_optimum(group, low, high)
            ours = result.sources[k, 0]
            # one hundredth of chi2 is a tenth of an error
            assert_allclose(result.chi2[k], chi2, rtol=0, atol=0.01)
            assert_allclose(ours[:3], best[:3], rtol=1e-3)
            assert_allclose(np.sqrt(ours[3:5]), np.sort(best[3:5])[::-1],
                            rtol=1e-3)
            assert np.all(ours[3:5] >= problem.var_low)
            assert np.all(ours[3:5] <= problem.var_high)
            assert np.all(np.abs(ours[1:3] - center)
                          <= max_shift * (1.0 + 1e-12))
            n_active += (
                np.any(ours[3:5] == problem.var_low)
                or np.any(ours[3:5] == problem.var_high)
                or np.any(np.abs(ours[1:3] - center) > 0.999 * max_shift))
        assert n_active == 6, 'the test is about active bounds'
        # on the edge of a round source at its bound steps stay tiny
        assert result.converged.sum() >= 5


class TestFixed:
    @pytest.mark.parametrize('held', [(1, 2), (3, 4, 5), (1, 2, 3, 4, 5)])
    def test_what_is_fixed_stays_to_the_last_bit(self, held):
        """
        Fixed parameters do not change at all, have no variance, and the
        others have their optimum, as astropy finds it.
        """
        rng = np.random.default_rng(13)
        groups = [random_group(2, rng) for _ in range(4)]
        starts = np.array([group[0] for group in groups])
        starts[:, :, 1:3] += 0.3
        starts[:, :, 3:5] *= np.array([1.2, 0.9])
        starts[:, :, 5] += 0.1
        problem, sources, coeffs = make_problem(groups, starts=starts)
        for i in range(2):
            problem.free[:, 6 * i + np.array(held)] = False
        result = fit(problem, sources, coeffs)
        held = list(held)
        assert_array_equal(result.sources[:, :, held], starts[:, :, held])
        variances = np.diagonal(result.covariance, axis1=1, axis2=2)
        assert_array_equal(variances == 0.0, ~problem.free)

        names = ('amplitude', 'x_mean', 'y_mean', 'x_stddev', 'y_stddev',
                 'theta')
        fitter = TRFLSQFitter(calc_uncertainties=True)
        for k, (_, true_coeffs, x, y, data, error) in enumerate(groups):
            model = group_model(starts[k], true_coeffs)
            for i in held:
                for j in (0, 1):
                    getattr(model, f'{names[i]}_{j}').fixed = True
            fitted = fitter(model, x, y, data, weights=1.0 / error,
                            acc=1e-12, maxiter=1000)
            residual = (fitted(x, y) - data) / error
            assert_allclose(result.chi2[k], np.sum(residual**2), rtol=1e-9)
            sigma = np.sqrt(np.diag(fitter.fit_info['param_cov']))
            ours = np.sqrt(variances[k])
            assert_allclose([ours[0], *ours[-2:]],
                            [sigma[0], *(RADIUS * sigma[-2:])], rtol=1e-3)


class TestSolveLinear:
    def test_is_the_linear_least_squares_solution(self):
        """
        Amplitudes and background are those of numpy's least squares, the
        rest stays as it is, and the start of the amplitudes has no say.
        """
        rng = np.random.default_rng(14)
        groups = [random_group(3, rng) for _ in range(4)]
        problem, sources, coeffs = make_problem(groups)
        sources[:, :, 0] = 7.0
        solved, solved_coeffs = solve_linear(problem, sources, coeffs)
        assert_array_equal(solved[:, :, 1:], sources[:, :, 1:])
        for k, (_, _, x, y, data, error) in enumerate(groups):
            columns = []
            for state in sources[k]:
                unit = [1.0, *state[1:3], *np.sqrt(state[3:5]), state[5]]
                columns.append(Gaussian2D(*unit)(x, y))
            design = np.vstack((columns, plane(x, y))) / error
            expected = np.linalg.lstsq(design.T, data / error)[0]
            assert_allclose(solved[k, :, 0], expected[:3], rtol=1e-7)
            assert_allclose(solved_coeffs[k], expected[3:], rtol=1e-7,
                            atol=1e-7)


def misfit_groups():
    """
    Groups with residuals that a fit cannot remove: those of a source that is
    not in the model.
    """
    rng = np.random.default_rng(5)
    groups = [random_group(3, rng) for _ in range(4)]
    return [(group[0][:2], *group[1:]) for group in groups]


def test_curvature_is_that_of_chi2():
    problem, sources, coeffs = make_problem(misfit_groups())
    terms = solver._data_terms(problem, sources, coeffs)
    calculated = solver._add_curvature(
        problem, sources, terms[3], 0.0 * terms[1]
        + 1e9 * np.eye(terms[1].shape[1]), problem.free)
    calculated -= 1e9 * np.eye(terms[1].shape[1])
    calculated += terms[1]
    step = 1e-4
    for k in range(12):
        for m in range(k + 1):
            second = 0.0
            for one, other in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                move = np.zeros((len(coeffs), 15))
                move[:, k] += step * one
                move[:, m] += step * other
                chi2 = solver._data_terms(problem, *solver._move(
                    problem, sources, coeffs, move))[0]
                second = second + one * other * chi2
            assert_allclose(second / (8.0 * step**2), calculated[:, k, m],
                            rtol=2e-4, atol=2e-4 * np.sqrt(
                                terms[1][:, k, k] * terms[1][:, m, m]).max())


def test_newton_steps_converge_where_residuals_are_large():
    """
    To the same minimum as Gauss-Newton steps, in fewer of them.
    """
    problem, sources, coeffs = make_problem(misfit_groups())
    plain, newton = (fit_batch(problem, sources, coeffs, tolerance=1e-12,
                               linear_start=True, newton=newton)
                     for newton in (False, True))
    assert newton.converged.all()
    assert newton.n_iter.sum() < 0.7 * plain.n_iter.sum()
    assert_allclose(newton.chi2, plain.chi2, rtol=1e-9)
    assert_allclose(newton.sources[:, :, :5], plain.sources[:, :, :5],
                    rtol=1e-4)
    assert_allclose(newton.covariance, plain.covariance, rtol=1e-2,
                    atol=1e-4)
