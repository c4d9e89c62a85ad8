# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the covariance module.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.stats import gaussian_fwhm_to_sigma
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_array_equal

from hyperphotutils.blend import BlendGroupFitter, SourceCovariance
from hyperphotutils.utils import add_gaussians

FWHM = 4.0
FLUX = 5.0 * np.pi / (4.0 * np.log(2.0)) * FWHM**2


def make_pairs(seed, n_side=16, cell=33, noise=0.1, separation=FWHM):
    """
    A map of pairs of equal sources one beam apart, in any direction.
    """
    rng = np.random.default_rng(seed)
    steps = cell * np.arange(n_side) + 0.5 * cell
    x, y = (grid.ravel() for grid in np.meshgrid(steps, steps))
    angle = rng.uniform(0.0, np.pi, len(x))
    shift = 0.5 * separation * np.array([np.cos(angle), np.sin(angle)])
    x, y = np.stack((x - shift[0], x + shift[0]), -1).ravel(), np.stack(
        (y - shift[1], y + shift[1]), -1).ravel()
    data = rng.normal(0.0, noise, (cell * n_side, cell * n_side))
    add_gaussians(data, x, y, np.full(len(x), 5.0), FWHM, FWHM, 0.0)
    return data, QTable({'x_init': x, 'y_init': y})


class TestTotalFlux:
    def test_pairs(self):
        """
        The error of the sum of a blended pair holds; errors added in
        quadrature are more than 3 times too large.
        """
        pulls, ratios = [], []
        for seed in range(3):
            data, init = make_pairs(seed)
            fitter = BlendGroupFitter(FWHM, poly_order=0)
            table = fitter(data, error=0.1, init_params=init)
            for k in range(0, len(table), 2):
                flux, err = fitter.total_flux(table['id'][k:k + 2])
                pulls.append((flux - 2.0 * FLUX) / err)
                ratios.append(np.hypot(*table['flux_err'][k:k + 2]) / err)
        assert len(pulls) == 768
        assert_allclose(np.std(pulls), 1.0, atol=0.1)
        assert abs(np.mean(pulls)) < 0.15
        assert 3.0 < np.median(ratios) < 4.0

    def test_one_source(self):
        """
        The sum of one source is that source.
        """
        data, init = make_pairs(0, n_side=2)
        fitter = BlendGroupFitter(FWHM)
        table = fitter(data << u.Jy / u.pix, init_params=init)
        for row in table:
            flux, err = fitter.total_flux(row['id'])
            assert flux == row['flux_fit']
            assert_allclose(err.value, row['flux_err'].value, rtol=1e-12)
            assert flux.unit == err.unit == u.Jy

    def test_independent_groups(self):
        """
        Variances of different groups add up, for all or some sources.
        """
        data, init = make_pairs(0, n_side=3)
        fitter = BlendGroupFitter(FWHM)
        table = fitter(data, error=0.1, init_params=init)
        groups = [table['id'][table['group_id'] == number]
                  for number in np.unique(table['group_id'])]
        parts = np.array([fitter.total_flux(ids) for ids in groups])
        total = fitter.total_flux()
        assert_allclose(total, [parts[:, 0].sum(),
                                np.sqrt(np.sum(parts[:, 1]**2))])
        apart = fitter.total_flux(table['id'][::2])
        assert_allclose(apart[1], np.sqrt(np.sum(table['flux_err'][::2]**2)))

    def test_as_the_covariance_of_the_models(self):
        """
        The error is that of linear propagation with the covariance of
        the astropy model of the group.
        """
        data, init = make_pairs(3, n_side=1)
        fitter = BlendGroupFitter(FWHM)
        fitter(data, error=0.1, init_params=init)
        info = fitter.fit_info[0]
        model = fitter.models[info['group_id']]
        slopes = np.zeros(len(model.parameters))
        for k in range(2):
            part = model[k]
            first = 6 * k
            flux = 2 * np.pi * part.amplitude * part.x_stddev * part.y_stddev
            slopes[first] = flux / part.amplitude
            slopes[first + 3] = flux / part.x_stddev
            slopes[first + 4] = flux / part.y_stddev
        expected = np.sqrt(slopes @ info['covariance'] @ slopes)
        assert_allclose(fitter.total_flux()[1], expected, rtol=1e-9)

    def test_fixed_shapes(self):
        """
        It holds for forced fits, too.
        """
        data, init = make_pairs(1, n_side=8)
        fitter = BlendGroupFitter(FWHM, fixed=('position', 'shape'))
        table = fitter(data, error=0.1, init_params=init)
        correlation = fitter.source_covariance.correlation
        assert len(correlation) == 64
        assert np.all((correlation < -0.1) & (correlation > -0.2))
        pulls = []
        for k in range(0, len(table), 2):
            flux, err = fitter.total_flux(table['id'][k:k + 2])
            pulls.append((flux - 2.0 * FLUX) / err)
        assert_allclose(np.std(pulls), 1.0, atol=0.25)

    def test_names(self):
        """
        Sources may be called by names; unknown ones are an error.
        """
        data, init = make_pairs(0, n_side=1)
        init['id'] = ['a', 'b']
        fitter = BlendGroupFitter(FWHM)
        with pytest.raises(ValueError, match='no fit has been made yet'):
            fitter.total_flux()
        table = fitter(data, init_params=init)
        assert fitter.total_flux('b')[0] == table['flux_fit'][1]
        with pytest.raises(ValueError, match=r'of fitted sources: c$'):
            fitter.total_flux(['a', 'c'])

    @pytest.mark.parametrize(('ids', 'match'), [
        ('1', r"fitted sources, which are of type int: '1'$"),
        (['2'], r"which are of type int: '2'$"),
        ([1, 7, 8], r'of fitted sources: 7, 8$'),
        ([], 'one source at least'), ([True, False], 'not a mask'),
        ([2, 1, 2], r'each source once, .* repeated: 2$')])
    def test_wrong_ids(self, ids, match):
        """
        No sum is given for what the table does not have.
        """
        data, init = make_pairs(0, n_side=1)
        fitter = BlendGroupFitter(FWHM)
        table = fitter(data, init_params=init)
        with pytest.raises(ValueError, match=match):
            fitter.total_flux(ids)
        assert fitter.total_flux(table['id']) == fitter.total_flux()
        assert fitter.total_flux(2.0)[0] == table['flux_fit'][1]

    def test_missing_flux(self):
        """
        The sum with a source that was not measured is not known.
        """
        data, init = make_pairs(0, n_side=1)
        init['x_init'][1] = -50.0
        fitter = BlendGroupFitter(FWHM)
        fitter(data, init_params=init)
        assert np.isnan(fitter.total_flux()).all()
        assert np.isfinite(fitter.total_flux(1)).all()

    def test_later_changes_of_the_table(self):
        """
        What is done to the table does not matter.
        """
        data, init = make_pairs(0, n_side=1)
        fitter = BlendGroupFitter(FWHM)
        table = fitter(data, init_params=init)
        flux, _ = fitter.total_flux()
        table['flux_fit'] *= 1000.0
        assert fitter.total_flux()[0] == flux
        fitter(2.0 * data, init_params=init)
        assert_allclose(fitter.total_flux()[0], 2.0 * flux, rtol=1e-3)


@pytest.fixture(name='fitted')
def fixture_fitted():
    """
    A fit of three pairs.
    """
    data, init = make_pairs(4, n_side=3)
    init = init[:6]
    init['id'] = [3, 5, 1, 9, 7, 2]
    fitter = BlendGroupFitter(FWHM)
    return fitter(data, error=0.1, init_params=init), fitter


class TestSourceCovariance:
    def test_errors_of_the_table(self, fitted):
        """
        The diagonals are the squares of the errors of the table.
        """
        table, fitter = fitted
        covariance = fitter.source_covariance
        assert_array_equal(covariance.id, table['id'])
        for k, name in enumerate('xy'):
            assert_allclose(np.sqrt(covariance.position[:, k, k]),
                            table[f'{name}_err'])
        theta = table['theta_fit'].to_value('rad')
        axes = {'major': theta, 'minor': theta + np.pi / 2}
        for name, angle in axes.items():
            cos, sin = np.cos(angle), np.sin(angle)
            along = np.array([cos**2, 2 * cos * sin, sin**2]).T
            variance = np.einsum('ni,nij,nj->n', along,
                                 covariance.shape_covariance, along)
            width = np.sum(along * covariance.shape, axis=1)
            err = 0.5 * np.sqrt(variance / width) / gaussian_fwhm_to_sigma
            assert_allclose(err, table[f'fwhm_{name}_err'], rtol=0.01)

    def test_from_errors(self, fitted):
        """
        Without more than the errors there is no correlation.
        """
        table, fitter = fitted
        plain = SourceCovariance.from_errors(table)
        full = fitter.source_covariance
        assert_allclose(plain.shape, full.shape, rtol=0.01, atol=0.01)
        assert_allclose(plain.position[:, 0, 0], table['x_err']**2)
        assert np.all(plain.position[:, 0, 1] == 0.0)
        assert len(plain.pairs) == 0

    def test_take(self, fitted):
        """
        Sources are chosen by their names, with their pairs.
        """
        _, fitter = fitted
        full = fitter.source_covariance
        some = full.take([9, 4, 7, 1], names=[1, 2, 3, 4])
        assert_array_equal(some.id, [1, 2, 3, 4])
        assert_array_equal(some.position[[0, 2, 3]],
                           full.position[[3, 4, 2]])
        assert np.isnan(some.position[1]).all()
        assert_array_equal(np.sort(some.pairs), [[0, 3]])
        none = full.take([])
        assert none.position.shape == (0, 2, 2)
        assert np.isnan(none.take([1]).shape).all()

    def test_updated(self, fitted):
        """
        A later fit of some groups takes the place of the older one.
        """
        table, fitter = fitted
        old = fitter.source_covariance
        data, _ = make_pairs(5, n_side=3)
        init = table['id', 'x_fit', 'y_fit'][2:4]
        fitter(data, error=0.1, init_params=init)
        newer = fitter.source_covariance
        both = old.updated(newer).take(table['id'])
        for name in ('position', 'shape', 'shape_covariance'):
            assert_array_equal(getattr(both, name)[2:4], getattr(newer, name))
            assert_array_equal(getattr(both, name)[4:],
                               getattr(old, name)[4:])
        assert len(both.pairs) == 3
        assert_array_equal(
            both.correlation[np.all(np.isin(both.pairs, [2, 3]), axis=1)],
            newer.correlation)
        assert old.updated(old) is old
