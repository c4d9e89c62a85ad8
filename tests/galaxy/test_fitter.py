# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of SersicFitter.
"""

import pickle

import astropy.units as u
import numpy as np
import pytest
from astropy.modeling.models import Sersic2D
from astropy.nddata import NDData, StdDevUncertainty
from astropy.table import MaskedColumn, QTable, Table
from astropy.wcs import WCS
from photutils.psf import GriddedPSFModel
from photutils.segmentation import SegmentationImage

from hyperphotutils.datasets import make_galaxy_field
from hyperphotutils.galaxy import SersicFitter, SersicRenderer
from hyperphotutils.psf import EmpiricalPSF
from hyperphotutils.stamps import make_stamps
from hyperphotutils.utils import FLAGS

NAMES = ('flux', 'x', 'y', 'r_eff', 'n', 'q', 'theta')
GALAXIES = {'flux': np.array([900.0, 700.0, 1500.0]),
            'x': np.array([31.6, 32.1, 31.0]),
            'y': np.array([31.2, 31.9, 32.2]),
            'r_eff': np.array([2.5, 3.4, 5.0]),
            'n': np.array([1.0, 2.5, 0.8]), 'q': np.array([0.4, 0.7, 0.55]),
            'theta': np.array([20.0, 130.0, 75.0])}


@pytest.fixture(scope='module')
def psf(field):
    """
    The PSF of the field.
    """
    return field.psf


@pytest.fixture(scope='module')
def stamps(psf):
    """
    Three galaxies without noise, on a sky of 2.
    """
    return SersicRenderer(psf, 64)(**GALAXIES) + 2.0


def plain(column):
    return np.asarray(getattr(column, 'value', column), dtype=float)


def test_galaxies_without_noise_are_found_exactly(psf, stamps):
    fitter = SersicFitter(psf, dtype='float64')
    table = fitter(stamps, error=0.01)
    for name in NAMES:
        np.testing.assert_allclose(plain(table[f'{name}_fit']),
                                   GALAXIES[name], rtol=2e-3, err_msg=name)
    np.testing.assert_allclose(table['sky_fit'], 2.0, atol=1e-3)
    assert (table['flags'] == 0).all()
    assert np.abs(fitter.make_residual_image(stamps)).max() < 0.01


@pytest.mark.parametrize('kind', ['gridded', 'empirical'])
def test_varying_psf_is_taken_at_each_galaxy(kind):
    """
    Neighbors included.
    """
    y, x = np.mgrid[-15:16, -15:16]
    narrow, wide = (np.exp(-0.5 * (x**2 + y**2) / s**2) / (2 * np.pi * s**2)
                    for s in (1.3, 2.0))
    if kind == 'gridded':
        psf = GriddedPSFModel(NDData(
            np.stack([narrow, narrow, wide, wide]), meta={
                'grid_xypos': [(0, 0), (0, 99), (299, 0), (299, 99)],
                'oversampling': 1}))
    else:
        slope = (wide - narrow) / 299.0
        psf = EmpiricalPSF(np.stack([narrow, slope, 0.0 * slope]))
    image = np.zeros((100, 300))
    places = QTable({'x': [50.0, 250.0, 270.0], 'y': [50.2, 49.9, 60.0]})
    for x0, y0 in places.iterrows():
        local = narrow + (wide - narrow) * x0 / 299.0
        stamp = SersicRenderer(local, 64)(
            flux=2000.0, x=32.0 + x0 % 1, y=32.0 + y0 % 1, r_eff=2.5, n=1.0,
            q=0.6, theta=30.0)
        low_x, low_y = int(x0) - 32, int(y0) - 32
        part = image[max(low_y, 0):low_y + 64, max(low_x, 0):low_x + 64]
        part += stamp[:part.shape[0], :part.shape[1]]
    table = SersicFitter(psf)(image, error=0.1, init_params=places)
    assert list(table['group_size']) == [1, 2, 2]
    for name, value in (('r_eff', 2.5), ('n', 1.0), ('flux', 2000.0)):
        np.testing.assert_allclose(table[f'{name}_fit'], value, rtol=0.01)


def test_errors_are_those_of_the_scatter(psf, stamps):
    """
    Of 60 noise realizations of one galaxy.
    """
    rng = np.random.default_rng(8)
    data = stamps[1] + rng.normal(0.0, 1.0, (60, 64, 64))
    table = SersicFitter(psf)(data, error=1.0)
    for name in NAMES:
        truth = GALAXIES[name][1]
        pull = (plain(table[f'{name}_fit']) - truth) / plain(
            table[f'{name}_err'])
        assert 0.75 < pull.std() < 1.3, name
        assert abs(pull.mean()) < 0.6, name
    dof = 64 * 64 - 8
    assert table['reduced_chi2'].mean() == pytest.approx(
        1.0, abs=4.0 * np.sqrt(2.0 / dof / 60))
    assert not np.any(table['flags'] & FLAGS['no_convergence'])


def test_field_with_neighbors(field, fitted):
    """
    Galaxies of a field agree with the truth within their errors.
    """
    fitter, table = fitted
    galaxy = field.truth['kind'] == 'galaxy'
    np.testing.assert_array_equal(table['id'], field.truth['id'])
    assert table['group_size'].max() > 1
    for name in ('flux', 'x', 'y', 'r_eff', 'n', 'q'):
        pull = (plain(table[f'{name}_fit']) - plain(field.truth[name]))[
            galaxy] / plain(table[f'{name}_err'])[galaxy]
        assert np.median(np.abs(pull)) < 1.2, name
        assert np.abs(pull).max() < 6.0, name
    stars = fitter.decode_flags(table['flags'][~galaxy])
    assert all('unresolved' in names for names in stars)
    residual = (fitter.make_residual_image(field.data) - 3.0) / field.error
    assert residual.std() < 1.03


def test_masks_that_hide_light_are_flagged(field):
    """
    A mask on the wings of a galaxy has no flag, one on its core has.
    """
    row = field.truth[:1]
    x, y = (int(np.rint(row[name][0])) for name in 'xy')
    labels = np.zeros(field.data.shape, dtype=int)
    labels[y, x] = 1
    flags = []
    for shift in (1, 15):
        other = labels.copy()
        other[:, x + shift:x + shift + 3] = 2
        table = SersicFitter(field.psf, neighbors='mask')(
            field.data, error=field.error, init_params=row['x', 'y'],
            segmentation=other)
        flags.append(table['flags'][0] & FLAGS['neighbor_masked'] > 0)
    assert flags == [True, False]


def test_neighbors_can_be_masked_or_ignored(field, fitted):
    near = fitted[1]['group_size'] > 1
    tables = {
        kind: SersicFitter(field.psf, neighbors=kind)(
            field.data, error=field.error,
            init_params=field.truth['id', 'x', 'y'][near],
            segmentation=field.segmentation)
        for kind in ('mask', 'ignore')}
    assert np.all(tables['mask']['n_pixels_fit']
                  < tables['ignore']['n_pixels_fit'])
    assert np.all(tables['ignore']['flags'] & FLAGS['neighbor_masked'] == 0)
    assert np.median(tables['ignore']['reduced_chi2']) > (
        1.05 * np.median(tables['mask']['reduced_chi2']))


def test_profiles_flatter_than_a_gaussian_are_measured(psf):
    truth = {'flux': 900.0, 'x': 31.6, 'y': 31.2, 'r_eff': 4.0, 'n': 0.35,
             'q': 0.6, 'theta': 20.0}
    table = SersicFitter(psf, dtype='float64')(
        SersicRenderer(psf, 64)(**truth)[None], error=0.5)
    for name in NAMES:
        assert plain(table[f'{name}_fit'])[0] == pytest.approx(
            truth[name], rel=1e-2)
    assert table['flags'][0] == 0


def test_segments_with_negative_labels_are_masked(psf):
    """
    They are no neighbors, and get no row.
    """
    image = SersicRenderer(psf, 64)(
        flux=[900.0, 9e4], x=[25.0, 40.0], y=[30.0, 32.0], r_eff=2.0,
        n=1.0).sum(axis=0)
    labels = np.zeros((64, 64), dtype=int)
    labels[26:35, 21:30] = 1
    labels[:, 31:] = -2
    image[labels < 0] = 1e4
    table = SersicFitter(psf)(image, error=1.0, segmentation=labels)
    assert list(table['id']) == [1]
    assert table['group_size'][0] == 1
    assert table['n_pixels_fit'][0] < 64 * 32


def test_center_stays_in_the_segment(psf):
    """
    A fit does not run to a bright source nearby, and says so.
    """
    image = SersicRenderer(psf, 64)(
        flux=[300.0, 2e4], x=[28.0, 33.5], y=[32.0, 32.0], r_eff=1.0,
        n=1.0).sum(axis=0)
    labels = np.zeros((64, 64), dtype=int)
    labels[31:34, 27:30] = 1
    fitter = SersicFitter(psf)
    table = fitter(image, error=1.0, segmentation=labels,
                   init_params=QTable({'x': [28.0], 'y': [32.0]}))
    assert abs(table['x_fit'][0] - 28.0) < 3.5
    assert 'near_bound' in fitter.decode_flags(table['flags'][0])


def test_segments_alone_say_what_to_fit(field):
    """
    An array and photutils' class are the same, and rows have the labels.
    """
    small = field.segmentation.copy()
    keep = np.asarray(field.truth['id'])[:4]
    small[~np.isin(small, keep)] = 0
    fitter = SersicFitter(field.psf)
    one = fitter(field.data, error=field.error, segmentation=small)
    two = fitter(field.data, error=field.error,
                 segmentation=SegmentationImage(small))
    np.testing.assert_array_equal(one['id'], keep)
    np.testing.assert_array_equal(one['flux_fit'], two['flux_fit'])
    np.testing.assert_allclose(one['x_fit'], field.truth['x'][:4], atol=0.5)


def test_stamps_of_the_package_are_the_same(field, fitted):
    """
    With positions in the image, and units.
    """
    rows = field.truth['id', 'x', 'y'][:5]
    unit = u.Jy / u.pix
    stamps = make_stamps(field.data * unit, rows, size=64, margin=0,
                         error=field.error * unit,
                         segmentation=field.segmentation)
    table = SersicFitter(field.psf)(stamps)
    np.testing.assert_array_equal(table['id'], rows['id'])
    assert table['flux_fit'].unit == u.Jy
    np.testing.assert_allclose(table['x_fit'], fitted[1]['x_fit'][:5],
                               atol=0.1)
    # neighbors on the edge are segments here, and positions there
    change = table['flux_fit'].value - fitted[1]['flux_fit'][:5]
    assert np.all(np.abs(change) < fitted[1]['flux_err'][:5])


def test_units_and_nddata_change_nothing(psf, stamps):
    rng = np.random.default_rng(4)
    data = stamps + rng.normal(0.0, 0.5, stamps.shape)
    fitter = SersicFitter(psf)
    table = fitter(data, error=0.5)
    unit = u.Jy / u.pix
    same = fitter(data * unit, error=0.5 * unit)
    assert same['flux_fit'].unit == u.Jy
    assert same['sky_fit'].unit == unit
    np.testing.assert_array_equal(same['flux_err'].value, table['flux_err'])
    assert fitter.make_model_image().unit == unit
    image = NDData(data[0], uncertainty=StdDevUncertainty(
        np.full((64, 64), 0.5)), unit=unit)
    row = fitter(image, init_params=QTable({'x': [31.5], 'y': [31.5]}))
    np.testing.assert_allclose(row['flux_fit'].value, table['flux_fit'][:1],
                               rtol=0.01)
    with pytest.raises(ValueError, match='must all have the same unit'):
        fitter(data * unit, error=0.5)


def test_image_and_stamp_are_the_same(psf, stamps):
    """
    Wherever a galaxy is, its stamp is cut around it.
    """
    rng = np.random.default_rng(4)
    stamp = stamps[0] + rng.normal(0.0, 0.5, (64, 64))
    image = np.full((150, 170), np.nan)
    image[40:104, 70:134] = stamp
    fitter = SersicFitter(psf, dtype='float64')
    expected = fitter(stamp[None], error=0.5)
    table = fitter(image, error=0.5,
                   init_params=QTable({'x_init': [102.0], 'y_init': [72.0]}))
    assert table['x_fit'][0] - 70.0 == pytest.approx(expected['x_fit'][0],
                                                     abs=0.01)
    assert table['y_fit'][0] - 40.0 == pytest.approx(expected['y_fit'][0],
                                                     abs=0.01)
    assert table['flux_fit'][0] == pytest.approx(expected['flux_fit'][0],
                                                 rel=0.01)


def test_sources_on_the_edge_and_outside(psf, stamps):
    image = np.pad(stamps[0], 30, constant_values=2.0)[:, 55:]
    rng = np.random.default_rng(1)
    image = image + rng.normal(0.0, 0.5, image.shape)
    init = QTable({'x': [6.6, -9.0, np.nan, 6.6], 'y': [61.2, 5.0, 3.0, 61.0],
                   'id': [7, 8, 9, 10]})
    fitter = SersicFitter(psf, neighbors='ignore')
    table = fitter(image, error=0.5, init_params=init)
    assert 'n_pixels_fit_partial' in fitter.decode_flags(table['flags'][0])
    assert fitter.decode_flags(table['flags'][1]) == ['off_map']
    assert fitter.decode_flags(table['flags'][2]) == ['no_position']
    assert table['x_fit'][0] == pytest.approx(6.6, abs=0.3)
    assert np.isnan(table['flux_fit'][1:3]).all()
    assert fitter.models[1] is None
    assert np.isfinite(fitter.make_model_image()).all()


@pytest.fixture(scope='module')
def noisy(psf, stamps):
    """
    Stamps with noise, and their table.
    """
    data = stamps + np.random.default_rng(2).normal(0.0, 0.5, stamps.shape)
    return data, SersicFitter(psf)(data, error=0.5)


@pytest.mark.parametrize('kind', ['noise', 'flat', 'star', 'negative',
                                  'huge'])
def test_strange_stamps_do_no_harm(psf, noisy, kind):
    """
    No exception, no warning, a flag, and others are as they were.
    """
    data, expected = noisy
    data = data.copy()
    data[1] = {
        'noise': np.random.default_rng(3).normal(0.0, 0.5, (64, 64)),
        'flat': np.zeros((64, 64)),
        'star': SersicRenderer(psf, 64)(flux=500.0, x=32.0, y=32.0,
                                        r_eff=0.0, n=1.0),
        'negative': 4.0 - data[1], 'huge': 1e6 * data[1]}[kind]
    fitter = SersicFitter(psf)
    table = fitter(data, error=0.5)
    if kind in {'noise', 'flat', 'star'}:
        names = set(fitter.decode_flags(table['flags'][1]))
        assert names & {'unresolved', 'too_large', 'near_bound',
                        'no_covariance'}
    np.testing.assert_allclose(table['flux_fit'][[0, 2]],
                               expected['flux_fit'][[0, 2]], rtol=1e-3)


@pytest.mark.parametrize('kind', ['nan', 'masked', 'no error'])
def test_stamps_without_pixels_are_flagged(psf, noisy, kind):
    data, expected = noisy
    data, error = data.copy(), np.full(data.shape, 0.5)
    mask = np.zeros(data.shape, bool)
    if kind == 'nan':
        data[1] = np.nan
    elif kind == 'masked':
        mask[1] = True
    else:
        error[1] = 0.0
    fitter = SersicFitter(psf)
    table = fitter(data, error=error, mask=mask)
    assert 'too_few_pixels' in fitter.decode_flags(table['flags'][1])
    assert np.isnan(table['flux_fit'][1])
    assert table['n_pixels_fit'][1] == 0
    np.testing.assert_allclose(table['flux_fit'][[0, 2]],
                               expected['flux_fit'][[0, 2]], rtol=1e-3)


def test_round_galaxy_has_no_angle(psf):
    data = SersicRenderer(psf, 64)(flux=500.0, x=32.0, y=32.0, r_eff=3.0,
                                   n=1.0) + np.zeros((1, 1, 1))
    table = SersicFitter(psf)(data, error=0.5)
    assert table['q_fit'][0] == pytest.approx(1.0, abs=1e-2)
    assert table['theta_err'][0].value == pytest.approx(
        180.0 / np.sqrt(12.0))


def test_masked_pixels_do_not_matter(psf, stamps):
    rng = np.random.default_rng(6)
    data = stamps + rng.normal(0.0, 0.5, stamps.shape)
    mask = rng.random(data.shape) < 0.1
    fitter = SersicFitter(psf)
    expected = fitter(data, error=0.5, mask=mask)
    data[mask] = 1e6
    table = fitter(data, error=0.5, mask=mask)
    np.testing.assert_array_equal(table['flux_fit'], expected['flux_fit'])
    data[mask] = np.nan
    table = fitter(data, error=0.5)
    np.testing.assert_array_equal(table['flux_fit'], expected['flux_fit'])


def test_fixed_parameters_stay(psf, stamps):
    init = QTable({'x': GALAXIES['x'] + 0.2, 'y': GALAXIES['y'],
                   'n_init': [2.0, 3.0, 1.5]})
    table = SersicFitter(psf, fixed=('position', 'n'))(
        stamps, error=0.5, init_params=init)
    np.testing.assert_allclose(table['x_fit'], init['x'], atol=1e-12)
    np.testing.assert_allclose(table['n_fit'], init['n_init'], rtol=1e-12)
    np.testing.assert_array_equal(table['n_err'], 0.0)
    table = SersicFitter(psf, n_bounds=(1.0, 1.0))(stamps, error=0.5)
    np.testing.assert_allclose(table['n_fit'], 1.0)


def test_start_of_the_user(psf, stamps):
    init = QTable({'x': GALAXIES['x'], 'y': GALAXIES['y'],
                   'r_eff': GALAXIES['r_eff'] * 1.3, 'n': [1.5, 2.0, 1.0],
                   'q': [0.5, 0.6, 0.7], 'theta': [10.0, 120.0, 90.0]})
    table = SersicFitter(psf, start='init')(stamps, error=0.05,
                                            init_params=init)
    np.testing.assert_allclose(table['r_eff_init'], init['r_eff'])
    np.testing.assert_allclose(table['n_fit'], GALAXIES['n'], rtol=0.02)
    assert np.isnan(table['n_grid']).all()


def test_prior_pulls_by_its_strength(psf, stamps):
    rng = np.random.default_rng(3)
    data = stamps[:1] + rng.normal(0.0, 5.0, (1, 64, 64))
    free = SersicFitter(psf)(data, error=5.0)
    strong = SersicFitter(psf, priors={'ln_n': (np.log(3.0), 1e-3)})(
        data, error=5.0)
    assert strong['n_fit'][0] == pytest.approx(3.0, rel=0.01)
    assert strong['n_err'][0] < 0.02 < free['n_err'][0]


def test_robust_loss_resists_a_spiral_arm(psf, stamps):
    rng = np.random.default_rng(5)
    data = stamps[1:2] + rng.normal(0.0, 0.5, (1, 64, 64))
    data[0, 38:42, 34:44] += 4.0
    fits = {loss: SersicFitter(psf, loss=loss)(data, error=0.5)
            for loss in ('linear', 'cauchy')}
    off = {loss: abs(row['r_eff_fit'][0] - GALAXIES['r_eff'][1])
           for loss, row in fits.items()}
    assert off['cauchy'] < 0.3 * off['linear']


def test_sloped_sky(psf, stamps):
    slope = 0.05 * np.arange(64.0)
    data = stamps + slope
    table = SersicFitter(psf, sky='plane', dtype='float64')(data, error=0.05)
    np.testing.assert_allclose(table['flux_fit'], GALAXIES['flux'],
                               rtol=0.01)
    np.testing.assert_allclose(table['sky_fit'],
                               2.0 + 0.05 * GALAXIES['x'], atol=0.01)


def test_models_are_those_of_astropy(psf, stamps):
    """
    The flux of the model is that of the table.
    """
    fitter = SersicFitter(psf)
    table = fitter(stamps, error=0.05)
    y, x = np.mgrid[:400, :400] - 168.0
    model = fitter.models[2]
    assert isinstance(model, Sersic2D)
    assert model(x, y).sum() == pytest.approx(table['flux_fit'][2], rel=0.01)
    assert model.theta.value % np.pi == pytest.approx(
        table['theta_fit'][2].to_value(u.rad), abs=1e-9)


def test_covariance_belongs_to_the_errors(fitted):
    fitter, table = fitted
    covariance = fitter.covariance
    assert covariance.shape == (len(table), 7, 7)
    np.testing.assert_allclose(np.sqrt(covariance[:, 0, 0]),
                               table['flux_err'])
    # flux, radius, and index rise together
    assert np.median(covariance[:14, 0, 4]) > 0.0


def test_columns_on_the_sky(psf, stamps):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    wcs.wcs.cdelt = [-2e-4, 2e-4]
    wcs.wcs.crpix = [32, 32]
    table = SersicFitter(psf)(stamps[0], error=0.05, wcs=wcs, init_params=(
        QTable({'x': [31.5], 'y': [31.5]})))
    assert table['r_eff_sky_fit'][0].to_value(u.arcsec) == pytest.approx(
        2.5 * 0.72, rel=0.01)
    true = wcs.pixel_to_world(31.5, 31.5)
    assert table['sky_centroid'][0].separation(true) < 0.72 * u.arcsec
    # East is to the left: 90 degrees minus the angle from the x axis,
    # mirrored
    assert table['orientation'][0].to_value(u.deg) == pytest.approx(
        (20.0 - 90.0) % 180.0, abs=0.5)


def test_noise_is_measured_where_no_error_is_given(psf, stamps):
    rng = np.random.default_rng(9)
    data = stamps + rng.normal(0.0, 0.5, stamps.shape)
    fitter = SersicFitter(psf)
    known = fitter(data, error=0.5)
    unknown = fitter(data)
    np.testing.assert_allclose(unknown['flux_err'], known['flux_err'],
                               rtol=0.15)


def test_result_does_not_depend_on_the_batch(field, fitted):
    table = SersicFitter(field.psf, batch=3)(
        field.data, error=field.error,
        init_params=field.truth['id', 'x', 'y'],
        segmentation=field.segmentation)
    np.testing.assert_allclose(table['flux_fit'], fitted[1]['flux_fit'],
                               rtol=1e-2)


@pytest.mark.parametrize('library', ['array_api_strict',
                                     'array_api_compat.torch'])
def test_other_array_libraries_give_the_same(psf, stamps, library):
    xp = pytest.importorskip(library)
    fits = [SersicFitter(psf, dtype='float64', xp=xp)(stamps[:2], error=0.5)
            for xp in (None, xp)]
    for name in ('flux_fit', 'n_fit', 'r_eff_err', 'chi2'):
        # (chi2 of stamps without noise is 0 but for rounding)
        np.testing.assert_allclose(fits[1][name], fits[0][name], rtol=1e-6,
                                   atol=1e-8)


@pytest.mark.parametrize(('options', 'message'), [
    ({'size': 4}, 'size must be at least 16'),
    ({'n_bounds': (0.2, 4.0)}, 'n_bounds must be two increasing'),
    ({'r_e_bounds': (2.0, 1.0)}, 'r_e_bounds must be'),
    ({'q_min': 1.5}, 'q_min must be less than 1'),
    ({'sky': 'cubic'}, 'sky must be one of'),
    ({'neighbors': 'deblend'}, 'neighbors must be one of'),
    ({'grid': {'radius': [1]}}, "unknown keys: .'radius'"),
    ({'priors': {'n': (1, 1)}}, 'priors must be of'),
    ({'fixed': 'flux'}, 'fixed must be one of'),
    ({'loss': 'l3'}, 'loss must be one of')])
def test_wrong_options_are_named(psf, options, message):
    with pytest.raises(ValueError, match=message):
        SersicFitter(psf, **options)


def test_wrong_input_is_named(psf, stamps):
    fitter = SersicFitter(psf)
    with pytest.raises(ValueError, match='init_params or segmentation'):
        fitter(stamps[0])
    with pytest.raises(ValueError, match='needs the column x_init'):
        fitter(stamps[0], init_params=QTable({'ra': [1.0]}))
    with pytest.raises(ValueError, match=r'it has no columns$'):
        fitter(stamps[0], init_params=QTable())
    with pytest.raises(ValueError, match=r'stamps must have the shape'):
        fitter(stamps[:, :40, :40])
    with pytest.raises(ValueError, match='a row for each stamp'):
        fitter(stamps, init_params=QTable({'x': [1.0], 'y': [1.0]}))
    with pytest.raises(ValueError, match='error must have the shape'):
        fitter(stamps, error=np.ones((3, 5, 5)))
    with pytest.raises(ValueError, match='no result before the first call'):
        _ = fitter.models
    with pytest.raises(ValueError, match="start='init' needs init_params"):
        SersicFitter(psf, start='init')(stamps)
    with pytest.raises(TypeError, match='must be an array of real numbers'):
        fitter(stamps.astype(complex))
    with pytest.raises(ValueError, match='an image or a stack of stamps'):
        fitter(stamps[None])
    with pytest.raises(TypeError, match='must be an astropy Table'):
        fitter(stamps, init_params=[(1.0, 2.0)])
    fitter(stamps, error=0.5)
    with pytest.raises(ValueError, match='shape is for images'):
        fitter.make_model_image((64, 64))


def test_fitters_survive_pickling(psf, stamps):
    """
    As they must to be sent to other processes; the result is the same.
    """
    fitter = SersicFitter(psf)
    copy = pickle.loads(pickle.dumps(fitter))
    assert repr(copy) == repr(fitter)
    for name, column in fitter(stamps, error=0.5).columns.items():
        np.testing.assert_array_equal(plain(column), plain(
            copy(stamps, error=0.5)[name]))


def test_fit_info_has_all_that_was_fitted(fitted):
    """
    The target first, as in the table, and then its neighbors.
    """
    fitter, table = fitted
    assert [entry['id'] for entry in fitter.fit_info] == list(table['id'])
    for entry, row in zip(fitter.fit_info, table, strict=True):
        assert entry['params'].shape == (row['group_size'], 7)
        np.testing.assert_allclose(
            entry['params'][0, :6],
            [row[f'{name}_fit'] for name in NAMES[:6]], rtol=1e-6)
        assert len(entry['sky']) == 1


def test_position_beside_a_segment_belongs_to_it(psf, stamps):
    """
    A position up to 3 pixels off the segment has its start and neighbors;
    one without coordinates, or far away, none.
    """
    labels = np.zeros((64, 64), dtype=int)
    labels[30:34, 30:34] = 5
    init = QTable({'x': [35.0, 50.0, np.nan], 'y': [32.0, 50.0, 3.0]})
    fitter = SersicFitter(psf)
    table = fitter(stamps[0], error=0.5, segmentation=labels,
                   init_params=init)
    # else the segment would be a neighbor, as it is of the second
    assert list(table['group_size']) == [2, 2, 0]
    one = fitter(stamps[0], error=0.5, segmentation=labels,
                 init_params=init[:1])
    assert list(one['group_size']) == [1]


def test_init_params_may_be_masked(psf, stamps):
    init = Table({'x': MaskedColumn([31.6, 1.0], mask=[False, True]),
                  'y': [31.2, 5.0]})
    fitter = SersicFitter(psf, neighbors='ignore')
    table = fitter(stamps[0], error=0.5, init_params=init)
    assert fitter.decode_flags(table['flags'][1]) == ['no_position']
    assert table['x_fit'][0] == pytest.approx(31.6, abs=0.1)


def test_model_image_of_some_rows():
    """
    The model image has the chosen rows only.
    """
    field = make_galaxy_field((150, 150), 3, seed=2)
    fitter = SersicFitter(field.psf, size=48)
    table = fitter(field.data, error=field.error,
                   init_params=field.truth['x', 'y'])
    parts = [fitter.make_model_image(rows=np.asarray(table['id']) == row)
             for row in table['id']]
    np.testing.assert_allclose(sum(parts), fitter.make_model_image(),
                               atol=1e-6)
    x, y = (int(np.rint(table[name][0])) for name in ('x_fit', 'y_fit'))
    assert parts[0][y, x] > 100.0 * abs(sum(parts[1:])[y, x])
    with pytest.raises(ValueError, match='rows must be 3 bools'):
        fitter.make_model_image(rows=[0, 1])


@pytest.mark.parametrize('label', [0, -1])
def test_segmentation_without_segments(psf, label):
    """
    An image in which nothing was found has a table without rows.
    """
    labels = np.full((70, 80), label)
    fitter = SersicFitter(psf)
    assert len(fitter(np.ones((70, 80)), segmentation=labels)) == 0
    none = QTable({'x': [], 'y': []})
    assert len(fitter(np.ones((70, 80)), segmentation=np.abs(labels),
                      init_params=none)) == 0


def test_largest_label_of_a_type(psf, stamps):
    """
    The labels of several stamps are not mixed up where the type of the
    segmentation has no larger number.
    """
    labels = np.where(stamps > 3.0, 127, 0)
    tables = [SersicFitter(psf)(stamps, error=0.1,
                                segmentation=labels.astype(dtype))
              for dtype in ('i1', 'i8')]
    np.testing.assert_array_equal(tables[0]['flux_init'],
                                  tables[1]['flux_init'])
