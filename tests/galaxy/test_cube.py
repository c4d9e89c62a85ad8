# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of SersicCube and ChiSquareCube.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from photutils.psf import CircularGaussianPRF

from hyperphotutils.galaxy import SersicCube, SersicRenderer

SIZE = 48
PSF = CircularGaussianPRF(fwhm=3.0)
AXES = {'n': [1.0, 4.0], 'r_eff': np.geomspace(1.0, 8.0, 10),
        'q': np.linspace(0.3, 0.9, 4), 'theta': np.arange(0.0, 180.0, 22.5)}


@pytest.fixture(scope='module')
def cube():
    """
    A cube of 640 models.
    """
    return SersicCube(PSF, size=SIZE, **AXES)


@pytest.fixture(scope='module')
def galaxy():
    """
    A galaxy between the models, with noise of 1.
    """
    image = SersicRenderer(PSF, SIZE)(flux=3000.0, x=24.0, y=24.0, r_eff=3.3,
                                      n=1.0, q=0.6, theta=50.0)
    rng = np.random.default_rng(2)
    return image + 5.0 + rng.normal(0.0, 1.0, image.shape)


def loop(models, data, error, mask, *, fit_sky):
    """
    Chi-squared of each model by a linear least-squares fit.
    """
    good = ~mask & np.isfinite(data)
    chi2 = np.empty(models.shape[:-2])
    for index in np.ndindex(*chi2.shape):
        columns = [models[index][good]]
        if fit_sky:
            columns.append(np.ones(good.sum()))
        design = np.column_stack(columns) / error[good][:, None]
        target = data[good] / error[good]
        params = np.linalg.lstsq(design, target, rcond=None)[0]
        chi2[index] = np.sum((target - design @ params)**2)
    return chi2


@pytest.mark.parametrize(('dtype', 'tolerance'), [('f4', 1e-6),
                                                  ('f8', 1e-12)])
@pytest.mark.parametrize('sky', ['constant', 'none'])
def test_chi2_is_that_of_a_plain_loop(galaxy, sky, dtype, tolerance):
    """
    With errors, a mask, and NaN, and to the precision of the sums.
    """
    rng = np.random.default_rng(1)
    error = rng.uniform(0.5, 2.0, galaxy.shape)
    mask = rng.random(galaxy.shape) < 0.05
    data = galaxy.copy()
    data[3, 4] = np.nan
    small = SersicCube(PSF, size=SIZE, n=[1.0, 4.0], r_eff=[2.0, 3.0, 5.0],
                       q=[0.5, 1.0], theta=[0.0, 60.0], dtype=dtype)
    result = small.fit(data, error, mask, sky=sky)
    expected = loop(small.models, data, error, mask, fit_sky=sky != 'none')
    assert result.chi2.shape == (2, 2, 2, 3)
    total = np.nansum(((data - 5.0) / error)[~mask]**2)
    np.testing.assert_allclose(result.chi2, expected,
                               atol=tolerance * total)


def test_minimum_is_the_nearest_model(cube, galaxy):
    best = cube.fit(galaxy, error=1.0).minimum
    assert best['n_grid'][0] == 1.0
    assert 0.45 < best['q_grid'][0] < 0.75
    assert best['theta_grid'][0] == 45.0 * u.deg
    assert abs(np.log(best['r_eff_grid'][0] / 3.3)) < 0.13
    assert best['flux_grid'][0] == pytest.approx(3000.0, rel=0.1)
    assert best['sky_grid'][0] == pytest.approx(5.0, abs=0.2)
    index = np.unravel_index(best['model_index'][0], cube.shape)
    assert cube.r_eff[index[3]] == best['r_eff_grid'][0]


def test_parabola_finds_radius_and_error():
    """
    On a fine grid that holds the truth in all but the radius.
    """
    fine = SersicCube(PSF, size=SIZE, n=1.0, q=0.6, theta=50.0,
                      r_eff=np.geomspace(3.0, 3.6, 12))
    image = SersicRenderer(PSF, SIZE)(flux=3000.0, x=24.0, y=24.0, r_eff=3.3,
                                      n=1.0, q=0.6, theta=50.0)
    rng = np.random.default_rng(7)
    data = image + rng.normal(0.0, 1.0, (200, SIZE, SIZE))
    table = fine.fit(data, error=1.0).parabola()
    radius = table['r_eff_parabola']
    known = np.isfinite(radius)
    assert known.sum() > 190
    pull = (radius - 3.3)[known] / table['r_eff_parabola_err'][known]
    assert abs(pull.mean()) < 4.0 / np.sqrt(200)
    assert 0.85 < pull.std() < 1.15


def test_parabola_in_all_axes():
    """
    The angle is periodic: its minimum may be at 0 degrees.
    """
    cube = SersicCube(PSF, size=SIZE, n=[0.8, 1.0, 1.25],
                      r_eff=np.geomspace(2.5, 4.0, 6),
                      q=np.linspace(0.4, 0.8, 5),
                      theta=np.arange(0.0, 180.0, 20.0))
    renderer = SersicRenderer(PSF, SIZE)
    truth = {'flux': 30000.0, 'x': 24.0, 'y': 24.0, 'r_eff': 3.3, 'n': 1.05,
             'q': 0.63}
    rng = np.random.default_rng(7)
    for theta in (52.0, 3.0, 176.0):
        data = renderer(theta=theta, **truth) + rng.normal(
            0.0, 1.0, (SIZE, SIZE))
        table = cube.fit(data, error=1.0).parabola('all')
        for name in ('n', 'q', 'r_eff'):
            assert table[f'{name}_parabola'][0] == pytest.approx(
                truth[name], rel=0.1), name
            assert 0.0 < table[f'{name}_parabola_err'][0] < 0.1 * truth[name]
        found = table['theta_parabola'][0].value
        assert abs((found - theta + 90.0) % 180.0 - 90.0) < 2.0


def test_parabola_at_the_edge_is_not_known(cube):
    star = SersicRenderer(PSF, SIZE)(flux=3000.0, x=24.0, y=24.0, r_eff=0.1,
                                     n=1.0)
    table = cube.fit(star, error=1.0).parabola()
    assert np.isnan(table['r_eff_parabola'][0])


def test_confidence_region_grows_with_the_level(cube, galaxy):
    result = cube.fit(galaxy, error=1.0)
    one, two = (result.confidence(level) for level in (0.683, 0.9973))
    lowest = result.chi2.min()
    np.testing.assert_array_equal(
        one, result.chi2 <= lowest + 1.0013, strict=True)
    assert (two | ~one).all()
    assert result.confidence(0.683, n_params=4).sum() >= one.sum()
    with pytest.raises(ValueError, match='level must be between'):
        result.confidence(2.0)


def test_summary_in_the_names_of_dre(cube, galaxy):
    result = cube.fit(np.stack([galaxy, galaxy[::-1]]), error=1.0)
    ours, theirs = result.summary(), result.summary('dre')
    assert theirs.colnames == ['INDEX', 'LOGR', 'AX_RATIO', 'ANGLE', 'CHI',
                               'LOGR_PARAB', 'LOGR_STD', 'MODEL_IDX']
    np.testing.assert_allclose(10.0**theirs['LOGR'], ours['r_eff_grid'])
    np.testing.assert_allclose(10.0**theirs['LOGR_PARAB'],
                               ours['r_eff_parabola'])
    np.testing.assert_allclose(theirs['CHI'] * SIZE**2, ours['chi2_grid'])
    with pytest.raises(ValueError, match='style must be'):
        result.summary('sextractor')


def test_models_survive_a_file_of_dre(cube, tmp_path):
    path = tmp_path / 'models.fits'
    cube.write(path)
    header = fits.getheader(path)
    assert header['NLOGH'] == 10
    assert header['BOXSIZE'] == SIZE
    read = SersicCube.read(path)
    for name in AXES:
        np.testing.assert_allclose(getattr(read, name), getattr(cube, name))
    total = cube.models.sum(axis=(-2, -1), keepdims=True)
    np.testing.assert_allclose(read.models, cube.models / total, atol=1e-7)
    with pytest.raises(ValueError, match='even steps in the logarithm of'):
        SersicCube(PSF, size=SIZE, n=1.0, q=1.0, theta=0.0,
                   r_eff=[1.0, 2.0, 3.0]).write(tmp_path / 'uneven.fits')


def test_models_of_dre_are_convolved(tmp_path):
    """
    Models that are wider than a pixel: convolved images are near to the
    exact ones.
    """
    axes = {'n': 1.0, 'q': [0.6, 0.9], 'theta': 45.0, 'r_eff': [4.0, 8.0]}
    bare = SersicCube(None, size=65, **axes)
    bare.write(tmp_path / 'models.fits')
    image = SersicRenderer(PSF, 65)(flux=1.0, x=32.0, y=32.0, r_eff=0.0,
                                    n=1.0)[12:53, 12:53]
    convolved = SersicCube.read(tmp_path / 'models.fits').convolve(image)
    exact = SersicCube(PSF, size=65, **axes)
    assert bare.convolve(PSF).models == pytest.approx(exact.models)
    found, expected = convolved.models, exact.models
    peak = expected.max(axis=(-2, -1), keepdims=True)
    assert np.abs((found - expected) / peak).max() < 0.03


def test_file_of_another_layout_is_refused(tmp_path):
    path = tmp_path / 'image.fits'
    fits.PrimaryHDU(np.zeros((4, 4))).writeto(path)
    with pytest.raises(ValueError, match='not a model cube of DRE: no NAXRAT'):
        SersicCube.read(path)
    fits.PrimaryHDU().writeto(path, overwrite=True)
    with pytest.raises(ValueError, match=r'image\.fits has no image'):
        SersicCube.read(path)
    path.write_bytes(b'SIMPLE  = ' + bytes(99))
    with pytest.raises(ValueError, match=r"image\.fits' is truncated or dama"):
        SersicCube.read(path)


def test_incomplete_file_of_dre_is_refused(cube, tmp_path):
    path = tmp_path / 'models.fits'
    cube.write(path)
    with fits.open(path) as hdus:
        fits.PrimaryHDU(hdus[0].data[:1], hdus[0].header).writeto(
            tmp_path / 'part.fits')
    with pytest.raises(ValueError, match='but its header has 640 models'):
        SersicCube.read(tmp_path / 'part.fits')


def test_only_psfs_sampled_by_pixels_are_convolved(cube, tmp_path):
    path = tmp_path / 'models.fits'
    cube.write(path)
    with pytest.raises(ValueError, match='its oversampling is 3'):
        SersicCube.read(path).convolve(PSF)


def test_chi2_is_written_with_its_axes(cube, galaxy, tmp_path):
    h5py = pytest.importorskip('h5py')
    result = cube.fit(galaxy, error=1.0)
    path = tmp_path / 'chi.h5'
    result.write(path, names=['02_0013'])
    with h5py.File(path) as file:
        data = file['chi2/02_0013']
        np.testing.assert_allclose(data[()], result.chi2, rtol=1e-6)
        np.testing.assert_array_equal(data.dims[3][0][()], cube.r_eff)
    assert list(tmp_path.iterdir()) == [path]


def test_small_memory_changes_nothing(cube, galaxy):
    bounded = SersicCube(PSF, size=SIZE, max_memory=1000, **AXES)
    expected = cube.fit(galaxy, error=1.0)
    np.testing.assert_allclose(bounded.fit(galaxy, error=1.0).chi2,
                               expected.chi2, rtol=1e-6)
    assert bounded._images is None


def test_units_are_kept(cube, galaxy):
    best = cube.fit(galaxy * u.mJy, error=1.0 * u.mJy).minimum
    assert best['flux_grid'].unit == u.mJy
    assert best['sky_grid'].unit == u.mJy


@pytest.mark.parametrize(('change', 'message'), [
    ({'n': 0.2}, 'n must be from 0.3 to 8'),
    ({'q': [0.5, 0.4]}, 'q must be increasing'),
    ({'dtype': 'f2'}, 'dtype must be')])
def test_wrong_axes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        SersicCube(PSF, **(AXES | change))


def test_wrong_stamps_are_named(cube):
    with pytest.raises(ValueError, match='data must be stamps of'):
        cube.fit(np.ones((5, 5)))
    with pytest.raises(ValueError, match='sky must be'):
        cube.fit(np.ones((SIZE, SIZE)), sky='plane')
    with pytest.raises(ValueError, match="axis must be 'r_eff' or 'all'"):
        cube.fit(np.ones((SIZE, SIZE))).parabola(axis='q')


def test_many_models_as_sums():
    """
    Chi-squared by sums of images is that of the models one by one, with
    errors and masks; a cube that is not kept in memory gives the same.
    """
    axes = {'n': [1.0, 4.0], 'r_eff': np.geomspace(1.0, 8.0, 10),
            'q': [0.3, 0.5, 0.7, 1.0], 'theta': np.arange(0, 180, 20.0)}
    cube = SersicCube(PSF, size=SIZE, **axes)
    exact = SersicCube(PSF, size=SIZE, dtype='f8', **axes)
    rng = np.random.default_rng(1)
    error = rng.uniform(0.5, 2.0, (3, SIZE, SIZE))
    data = 1e3 * exact.models[1, 1, 2, 4] + error * rng.normal(
        size=error.shape)
    mask = rng.random(data.shape) < 0.05
    found, true = (one.fit(data, error, mask) for one in (cube, exact))
    assert cube._basis is not None
    assert exact._basis is None
    # differences of chi2 matter where they are small
    near = true.chi2 < true.chi2.min(axis=(1, 2, 3, 4),
                                     keepdims=True) + 100.0
    assert np.abs(found.chi2 - true.chi2)[near].max() < 0.05
    np.testing.assert_allclose(found.chi2, true.chi2, rtol=3e-5)
    small = SersicCube(PSF, size=SIZE, max_memory=1000, **axes)
    np.testing.assert_allclose(small.fit(data, error, mask).chi2, found.chi2,
                    rtol=1e-6)
