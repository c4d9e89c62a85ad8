# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the builder of empirical PSFs.
"""

import pickle

import astropy.units as u
import numpy as np
import pytest
from astropy.modeling.models import Sersic2D
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from numpy.testing import assert_allclose
from scipy.optimize import least_squares

from hyperphotutils.datasets import make_star_field
from hyperphotutils.psf import EmpiricalPSFBuilder, StarSelector
from hyperphotutils.psf.grid import SplineGrid, polynomial_terms
from hyperphotutils.psf.moffat import moffat_images

SIZE = 25


def relative_error(psf, field, x, y, size=SIZE):
    """
    The L2 norm of the error over that of the true PSF; center and flux,
    which are conventions, are fitted.
    """
    true = field.psf(x, y, size=size)

    def difference(params):
        dx, dy, flux = params
        return (flux * psf(x, y, dx=dx, dy=dy) - true).ravel()

    result = least_squares(difference, [0.0, 0.0, 1.0])
    return np.sqrt(2.0 * result.cost / np.sum(true**2))


def kinds_used(psf, truth):
    """
    The kind of the true source next to each used star.
    """
    used = psf.stars[psf.stars['used']]
    distance = np.hypot(
        np.asarray(used['x_fit'])[:, None] - np.asarray(truth['x']),
        np.asarray(used['y_fit'])[:, None] - np.asarray(truth['y']))
    return np.asarray(truth['kind'])[distance.argmin(1)]


def test_psf_is_accurate(field, psf):
    """
    The PSF is within 0.6 % of the truth, and as good as its error says.
    """
    error = relative_error(psf, field, 160, 160)
    assert error < 0.006
    norm = np.sqrt(np.sum(field.psf(160, 160, size=SIZE)**2))
    stated = np.sqrt(psf.covariance_trace) / norm
    assert 0.4 < error / stated < 1.6


def test_galaxies_are_rejected(field, stars, psf):
    """
    Galaxies that the selection lets pass are rejected by their size.
    """
    assert np.count_nonzero(kinds_used(psf, field.truth) == 'galaxy') <= 1
    lost = psf.stars[stars['accepted'] & ~psf.stars['used']]
    assert len(lost) > 0
    assert all(reason for reason in lost['reason'])
    assert np.isfinite(lost['excess']).all()
    kept = EmpiricalPSFBuilder(SIZE, order=0, reject_extended=False)(
        field.data, stars, error=field.error)
    assert np.count_nonzero(kinds_used(kept, field.truth) == 'galaxy') > 1


def test_table_has_the_fits(field, stars, psf):
    """
    Positions, fluxes, and skies of the stars are those of the truth.
    """
    table = psf.stars
    assert len(table) == len(stars)
    assert np.isnan(table['flux_fit'][~stars['accepted']]).all()
    used = table[table['used']]
    truth = field.truth
    distance = np.hypot(
        np.asarray(used['x_fit'])[:, None] - np.asarray(truth['x']),
        np.asarray(used['y_fit'])[:, None] - np.asarray(truth['y']))
    # the center of the PSF is a convention: here that of the Moffat
    # profile, which the bump of the true PSF pulls to one side
    assert np.all(distance.min(1) < 0.4)
    ratio = used['flux_fit'] / truth['flux'][distance.argmin(1)]
    assert_allclose(np.median(ratio), 0.98, atol=0.02)
    assert_allclose(np.median(used['sky_fit']), 7.0, atol=0.3)
    assert_allclose(np.median(used['reduced_chi2']), 1.0, atol=0.1)
    assert psf.n_stars == len(used)
    assert psf.residuals.shape == (stars['accepted'].sum(), SIZE, SIZE)


def test_companions_and_cosmic_rays_are_left_out(field, stars, psf):
    """
    Bright pixels in the image of each star do not change the PSF.
    """
    data = field.data.copy()
    chosen = stars[stars['accepted']]
    for number, (x, y) in enumerate(zip(
            np.rint(chosen['x_centroid']).astype(int),
            np.rint(chosen['y_centroid']).astype(int), strict=True)):
        # at another place in each quarter of the stars
        dx, dy = ((6, 2), (-5, 4), (-3, -7), (4, -5))[number % 4]
        data[y + dy, x + dx:x + dx + 2] += 500.0
    other = EmpiricalPSFBuilder(SIZE, order=0)(data, stars,
                                                error=field.error)
    assert np.abs(other() - psf()).max() < 0.005 * psf().max()


def test_excess_is_the_variance_beyond_that_of_the_psf():
    """
    Of Gaussian stars, one is wider, one narrower, by a known variance.
    """
    y, x = np.mgrid[:200, :200]
    rng = np.random.default_rng(1)
    data = rng.normal(0.0, 1.0, x.shape)
    variance = np.full(16, 4.0)
    variance[3], variance[7] = 4.3, 3.7
    px, py = (value.ravel() + rng.uniform(-0.5, 0.5, 16) for value in
              np.meshgrid(np.arange(25, 200, 50), np.arange(25, 200, 50)))
    for x0, y0, var in zip(px, py, variance, strict=True):
        data += 1e4 / (2.0 * np.pi * var) * np.exp(
            -0.5 * ((x - x0)**2 + (y - y0)**2) / var)
    table = QTable({'x': px, 'y': py})
    psf = EmpiricalPSFBuilder(21, order=0)(data, table, error=1.0)
    excess = psf.stars['excess'] - np.median(psf.stars['excess'])
    assert_allclose(excess, variance - 4.0, atol=0.1)
    assert psf.stars['reason'][3] == 'extended'
    assert psf.stars['reason'][7] == 'sharp'
    assert psf.n_stars == 14


@pytest.fixture(scope='module')
def varying():
    field = make_star_field((400, 400), 45, variation=1.0, seed=5)
    stars = StarSelector(3.0)(field.data, error=field.error)
    return field, stars


def test_degree_is_chosen(field, stars, varying):
    """
    Cross-validation finds that a PSF varies, and that one does not.
    """
    builder = EmpiricalPSFBuilder(15, max_iterations=2)
    constant = builder(field.data, stars, error=field.error)
    assert constant.meta['order'] == 0
    assert len(constant.meta['cross_validation']) == 3
    other, others = varying
    psf = builder(other.data, others, error=other.error)
    assert psf.meta['order'] == 2
    for x, y in ((60, 60), (330, 200), (200, 350)):
        assert relative_error(psf, other, x, y, 15) < 0.02
    # a constant PSF is much worse
    psf = EmpiricalPSFBuilder(15, order=0)(other.data, others,
                                            error=other.error)
    assert relative_error(psf, other, 60, 60, 15) > 0.02


def test_varying_psf_is_a_polynomial(varying):
    """
    The images by which the PSF is stored differ from the model by less
    than 1e-3 of the peak, and all sum to 1.
    """
    field, stars = varying
    psf = EmpiricalPSFBuilder(15, order=1, max_iterations=2)(
        field.data, stars, error=field.error)
    assert psf.order == 3
    assert_allclose(psf.coefficients[0].sum(), psf.oversampling**2)
    assert_allclose(psf.coefficients[1:].sum((1, 2)), 0.0, atol=1e-9)
    used = psf.stars[psf.stars['used']]
    bright = used[np.argsort(used['flux_fit'])[-1]]
    rows = np.flatnonzero(np.isfinite(psf.stars['flux_fit']))
    index = np.flatnonzero(psf.stars['id'][rows] == bright['id'])[0]
    x, y = bright['x_fit'], bright['y_fit']
    image = psf(x, y, dx=x - round(x), dy=y - round(y))
    residual = (psf.star_images[index] - bright['sky_fit']
                - bright['flux_fit'] * image)
    difference = residual - psf.residuals[index]
    assert np.nanmax(np.abs(difference)) < (
        2e-3 * bright['flux_fit'] * image.max())


@pytest.mark.parametrize('options', [
    {'oversampling': 2}, {'baseline': None}, {'sky': None}, {'tv': 0.3},
    {'smoothness': 0.0}], ids=str)
def test_options(field, stars, options):
    """
    With other options the PSF stays good, if not the best.
    """
    sky = 7.0 if options == {'sky': None} else 0.0
    psf = EmpiricalPSFBuilder(SIZE, order=0, max_iterations=2, **options)(
        field.data - sky, stars, error=field.error)
    assert relative_error(psf, field, 160, 160) < 0.02


def test_total_variation_smooths_noise(field, stars):
    """
    The total variation of the PSF is less where it is penalized.
    """
    rough, smooth = (
        EmpiricalPSFBuilder(SIZE, order=0, tv=tv, smoothness=0.0,
                            max_iterations=3)(
            field.data, stars, error=field.error)() for tv in (0.0, 10.0))
    outer = np.s_[:, :6]
    assert (np.abs(np.diff(smooth, axis=0))[outer].sum()
            < np.abs(np.diff(rough, axis=0))[outer].sum())


def test_units_make_no_difference(field, stars, psf):
    unit = u.Jy / u.pix
    other = EmpiricalPSFBuilder(SIZE, order=0)(
        field.data << unit, stars, error=field.error << unit)
    assert_allclose(other(), psf())
    assert other.stars['flux_fit'].unit == u.Jy
    assert other.stars['sky_fit'].unit == unit


def test_bad_pixels_do_not_matter(field, stars, psf):
    """
    NaN and masked pixels in the images of stars are left out.
    """
    data, mask = field.data.copy(), np.zeros(field.data.shape, bool)
    chosen = stars[stars['accepted']]
    for number, (x, y) in enumerate(zip(
            np.rint(chosen['x_centroid']).astype(int),
            np.rint(chosen['y_centroid']).astype(int), strict=True)):
        data[y + 3 + number % 4, x] = np.nan
        mask[y, x - 3 - number % 3] = True
        data[mask] = 1e9
    other = EmpiricalPSFBuilder(SIZE, order=0)(data, stars,
                                                error=field.error, mask=mask)
    assert np.abs(other() - psf()).max() < 0.01 * psf().max()


def test_too_few_stars(field, stars):
    with pytest.raises(ValueError, match='usable stars on the image is 1'):
        EmpiricalPSFBuilder()(field.data, stars[stars['accepted']][:1],
                              error=field.error)
    for columns, has in (({'a': [1.0]}, 'a'), ({}, 'no columns')):
        with pytest.raises(ValueError, match='stars must have the columns '
                           f'.*: it has {has}$'):
            EmpiricalPSFBuilder()(field.data, QTable(columns))
    with pytest.raises(ValueError, match='usable stars on the image is 0'):
        EmpiricalPSFBuilder()(field.data, QTable({'x': [-90.0, 999.0],
                                                  'y': [5.0, 5.0]}))
    with pytest.raises(TypeError, match='stars must be a table'):
        EmpiricalPSFBuilder()(field.data, None)
    with pytest.raises(ValueError, match='error must have the shape'):
        EmpiricalPSFBuilder()(field.data, stars, error=np.ones(3))


def test_no_signal(field, stars):
    """
    Without a star at the positions there is a clear error.
    """
    builder = EmpiricalPSFBuilder()
    with pytest.raises(ValueError, match='none of the stars has a positive'):
        builder(0.0 * field.data, stars, error=field.error)
    with pytest.raises(ValueError, match='none of the stars'):
        builder(7.0 - field.data, stars, error=field.error)


@pytest.mark.parametrize(('name', 'value'), [
    ('size', 30), ('size', 3), ('oversampling', 0), ('order', -1),
    ('order', 0.5), ('baseline', 'gaussian'), ('prior', 0.0),
    ('tv', -1.0), ('sky', 'plane')])
def test_arguments_are_checked(name, value):
    error = TypeError if value == 0.5 else ValueError
    with pytest.raises(error, match=name):
        EmpiricalPSFBuilder(**{name: value})


def test_moffat_derivatives():
    """
    The derivatives of the Moffat profile are those of differences.
    """
    grid = np.arange(-6.0, 7.0)
    shapes = np.array([[1.6, 0.1, -0.2]])
    params = np.array([1.6, 0.1, -0.2, 2.8, 0.3, -0.4])

    def image(params):
        return moffat_images(params[None, :3], params[3], params[4:5],
                             params[5:], grid, grid)[0]

    value, slopes = moffat_images(shapes, 2.8, params[4:5], params[5:], grid,
                                  grid, derivatives='all')
    assert_allclose(value[0], image(params))
    for slope, index in zip(slopes, (4, 5, 0, 1, 2, 3), strict=True):
        step = np.zeros(6)
        step[index] = 1e-5
        numeric = (image(params + step) - image(params - step)) / 2e-5
        assert_allclose(slope[0], numeric, atol=1e-9)


@pytest.mark.parametrize('oversampling', [1, 2])
def test_grid_solves_the_dense_problem(oversampling):
    """
    The banded normal equations have the solution of the dense ones.
    """
    rng = np.random.default_rng(2)
    grid = SplineGrid(2, oversampling)
    n = 12
    x, y = rng.uniform(-0.6, 0.6, (2, n))
    flux = rng.uniform(1, 3, n)
    terms = polynomial_terms(*rng.uniform(-1, 1, (2, n)), 1)
    target = rng.normal(size=(n, 5, 5))
    weights = rng.uniform(0.5, 2, (n, 5, 5))
    scale = rng.uniform(0.5, 2.0, (grid.size, grid.size))
    gradient = rng.uniform(0.5, 2.0, (grid.size, grid.size))
    prior = grid.prior(scale, 2.0, gradient)
    result, draws = grid.solve(target, weights, flux, x, y, terms, prior,
                               n_draws=3000)
    size = grid.size**2
    basis = np.eye(size).reshape(size, 1, grid.size, grid.size)
    design = np.stack([
        grid.images(np.repeat(one, n, axis=0), x, y) for one in basis], -1)
    design = (flux[:, None, None, None] * design).reshape(n, 25, size)
    design = np.einsum('npg,nk->npkg', design, terms).reshape(n * 25, -1)
    laplacian = -np.eye(size).reshape(size, grid.size, grid.size)
    inner = np.zeros_like(laplacian)
    inner[:, 1:-1, 1:-1] = laplacian[:, 1:-1, 1:-1] - 0.25 * (
        laplacian[:, 2:, 1:-1] + laplacian[:, :-2, 1:-1]
        + laplacian[:, 1:-1, 2:] + laplacian[:, 1:-1, :-2])
    inner = (inner / scale).reshape(size, size)
    matrix = np.diag(scale.ravel()**-2) + 2.0 * inner @ inner.T
    identity = np.eye(size).reshape(size, grid.size, grid.size)
    for axis in (1, 2):
        part = np.s_[:-1] if axis == 1 else np.s_[:, :-1]
        step = np.diff(identity, axis=axis) * np.sqrt(gradient[part])
        matrix += step.reshape(size, -1) @ step.reshape(size, -1).T
    normal = (design.T * weights.ravel()) @ design + np.kron(
        np.eye(3), matrix)
    vector = design.T @ (weights * target).ravel()
    assert_allclose(result.ravel(), np.linalg.solve(normal, vector),
                    atol=1e-8)
    deviation = np.sqrt(np.diag(np.linalg.inv(normal)))
    assert_allclose(draws.std(axis=0).ravel(), deviation, rtol=0.1)


def test_derivatives_of_splines():
    rng = np.random.default_rng(3)
    grid = SplineGrid(3, 2)
    coefficients = rng.normal(size=(1, grid.size, grid.size))
    x, y = np.array([0.2]), np.array([-0.3])
    for order, step in (((1, 0), (1e-6, 0)), ((0, 1), (0, 1e-6))):
        numeric = (grid.images(coefficients, x + step[0], y + step[1])
                   - grid.images(coefficients, x - step[0], y - step[1]))
        assert_allclose(grid.images(coefficients, x, y, order),
                        numeric / 2e-6, atol=1e-6)


def test_reasons_for_too_few_stars_and_their_remedy():
    """
    Of a star and a galaxy one is rejected by its size, not by chi-squared.
    """
    y, x = np.mgrid[:41, :81]
    data = np.random.default_rng(1).normal(0.0, 0.1, x.shape)
    for center, sigma in ((20, 1.5), (60, 1.8)):
        data += 1e3 / sigma**2 * np.exp(
            -0.5 * ((x - center)**2 + (y - 20)**2) / sigma**2)
    stars = QTable({'x': [20.0, 60.0], 'y': [20.0, 20.0]})
    with pytest.raises(ValueError, match=(
            r'only 1 of 2 stars .*rejected: 1 extended.*'
            'set reject_extended=False')):
        EmpiricalPSFBuilder(SIZE, order=0, max_star_chi2=1e9)(
            data, stars, error=np.full(data.shape, 0.1))
    with pytest.warns(AstropyUserWarning, match='is made from 2 stars'):
        EmpiricalPSFBuilder(SIZE, order=0, max_star_chi2=1e9,
                            reject_extended=False)(
            data, stars, error=np.full(data.shape, 0.1))


def test_order_needs_stars():
    """
    A polynomial with more terms than stars, also those that are left after
    the fit, has no unique solution.
    """
    field = make_star_field((200, 200), 6, seed=1)
    builder = EmpiricalPSFBuilder(SIZE, order=2)
    with pytest.raises(ValueError, match='5 of 5 stars can be used, but a '
                       'polynomial of order 2 has 6 terms: lower order'
                       ) as caught:
        builder(field.data, field.truth[:5], error=field.error)
    # as from another process
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.reasons == ('order',)
    assert builder(field.data, field.truth, error=field.error).meta[
        'order'] == 2
    rows, columns = np.indices(field.data.shape)
    star = field.truth[0]
    wide = np.exp(-((columns - star['x'])**2 + (rows - star['y'])**2) / 30.0)
    data = field.data + 2.0 * star['flux'] / wide.sum() * wide
    with pytest.raises(ValueError, match=r'[2-5] of 6 stars can be used, but '
                       'a polynomial of order 2 has 6 terms: lower order'):
        builder(data, field.truth, error=field.error)


def test_bright_star_on_a_galaxy_improves_the_psf():
    """
    A star much brighter than all others is used although it lies on a
    galaxy: the wings of the PSF are known from it alone.
    """
    field = make_star_field((320, 320), 20, snr=(20.0, 100.0), seed=1)
    x, y = 242, 50
    distance = np.hypot(field.truth['x'] - x, field.truth['y'] - y)
    assert distance.min() > 2 * SIZE
    flux = 100.0 * np.median(field.truth['flux'])
    added = np.zeros_like(field.data)
    added[y - 25:y + 26, x - 25:x + 26] = flux * field.psf(x, y, size=51)
    rows, columns = np.indices(added.shape)
    galaxy = Sersic2D(1.0, 8.0, 0.5, x + 10.0, y - 7.0, 0.4, 1.0)(
        columns, rows)
    added += 0.4 * flux * galaxy / galaxy.sum()
    variance = added / 5.0
    data = field.data + added + np.sqrt(variance) * np.random.default_rng(
        1).normal(size=added.shape)
    error = np.sqrt(field.error**2 + variance)
    stars = StarSelector(3.0)(data, error=error)
    builder = EmpiricalPSFBuilder(SIZE, order=0)
    psf = builder(data, stars, error=error)
    assert psf.stars['used'][0]
    assert_allclose(psf.stars['flux_fit'][0], flux, rtol=0.05)
    stars['accepted'][0] = False
    others = builder(data, stars, error=error)
    assert relative_error(psf, field, 160, 160) < 0.8 * relative_error(
        others, field, 160, 160)
