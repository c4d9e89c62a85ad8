# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Noise models and backgrounds that this package does not know, and what is
left of a call.
"""

import pickle
from functools import partial

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import CCDData
from astropy.stats import SigmaClip
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from numpy.testing import assert_allclose, assert_array_equal
from photutils.background import (
    Background2D,
    MedianBackground,
)
from photutils.background import LocalBackground as AnnulusBackground
from sklearn.linear_model import BayesianRidge, RANSACRegressor

from hyperphotutils.background import (
    ImageBackground,
    LocalBackground,
    LocalPolynomialBackground,
    PolynomialBackground2D,
)
from hyperphotutils.blend import BlendGroupFitter
from hyperphotutils.datasets import make_blended_map
from hyperphotutils.noise import CorrelatedNoise, NoiseModel, WhiteNoise
from hyperphotutils.photometry import (
    ForcedPhotometry,
    HyperPhotometry,
    TiledPhotometry,
)
from hyperphotutils.utils import add_gaussians, gaussian_flux

FWHM = 4.0
UNIT = u.Jy / u.pix


class DenseFactors:
    """
    Cholesky factors without any sharing.
    """

    def __init__(self, factors):
        self.lower = factors

    def __len__(self):
        return len(self.lower)

    def take(self, index):
        return DenseFactors(self.lower[index])

    def whiten(self, rows):
        return np.swapaxes(np.linalg.solve(
            self.lower, np.swapaxes(rows, 1, 2)), 1, 2)

    def correlate(self, rows):
        return rows @ self.lower


class ExponentialNoise:
    """
    A noise model of a user: the correlation falls exponentially.
    """

    relative_rms = None
    is_correlated = True

    def __init__(self, rms, scale, unit=None):
        self.weighted_rms = rms
        self.length = scale
        self.unit = unit

    @property
    def rms(self):
        return (self.weighted_rms if self.unit is None
                else self.weighted_rms << self.unit)

    def matrix(self, x, y):
        distance = np.hypot(x[..., :, None] - x[..., None, :],
                            y[..., :, None] - y[..., None, :])
        return self.weighted_rms**2 * np.exp(-distance / self.length)

    def rms_at(self, x, y):
        return np.full(np.shape(x), self.weighted_rms)

    def pixel_weights(self, x, y, usable):
        return np.asarray(usable, dtype=float)

    def factors(self, x, y, usable=None, extra=None):
        matrix = self.matrix(x, y)
        if usable is None:
            usable = np.ones(x.shape, dtype=bool)
        both = usable[:, :, None] & usable[:, None, :]
        matrix = np.where(both, matrix, np.eye(x.shape[1]))
        if extra is not None:
            matrix = matrix + np.where(usable, extra, 0.0)[:, :, None]**2 * (
                np.eye(x.shape[1]))
        return DenseFactors(np.linalg.cholesky(matrix))

    def sum_variance(self, weights, x, y, dx, dy):
        matrix = self.matrix(np.asarray(dx, float), np.asarray(dy, float))
        return np.sum((weights @ matrix) * weights, axis=1)

    def scale(self, factor, unit=None):
        return ExponentialNoise(factor * self.weighted_rms, self.length, unit)

    def cutout(self, slices):
        return self


class MedianFit:
    def __init__(self, image):
        self.image = image

    def make_background_image(self):
        return self.image


class Median:
    """
    A background of a user: one value for the whole map.
    """

    def fit(self, data, x, y, mask=None):
        assert len(x) == len(y)
        return MedianFit(np.full(data.shape, np.median(data[~mask])))


@pytest.fixture(name='sim', scope='module')
def fixture_sim():
    return make_blended_map((160, 160), 16, beam=FWHM, seed=2)


def exponential_map(seed):
    """
    Sources in a map of the noise of the foreign class.
    """
    rng = np.random.default_rng(seed)
    y, x = (grid.ravel() for grid in np.mgrid[25:110:40, 25:110:40])
    truth = QTable({'x_fit': x + rng.uniform(-0.5, 0.5, x.size),
                    'y_fit': y + rng.uniform(-0.5, 0.5, y.size)})
    amplitude = rng.uniform(20.0, 60.0, x.size)
    truth['flux_fit'] = gaussian_flux(amplitude, 5.0, FWHM)
    sources = np.zeros((130, 130))
    add_gaussians(sources, truth['x_fit'], truth['y_fit'], amplitude,
                  np.full(x.size, 5.0), np.full(x.size, FWHM),
                  rng.uniform(0.0, 180.0, x.size))
    # drawn on a torus, large enough for the correlation to vanish
    size = 160
    lag = np.minimum(np.arange(size), size - np.arange(size))
    noise = ExponentialNoise(1.0, 3.0)
    power = np.fft.fft2(np.exp(
        -np.hypot(lag[:, None], lag) / noise.length)).real
    image = np.fft.ifft2(np.sqrt(np.maximum(power, 0.0)) * np.fft.fft2(
        rng.normal(size=(size, size)))).real[:130, :130]
    return sources + image, truth, noise


class TestNoise:
    def test_interface(self):
        """
        The classes of the package and the foreign one have it; a class
        itself, or a number, has not.
        """
        for noise in (WhiteNoise(), CorrelatedNoise([1.0], []),
                      ExponentialNoise(1.0, 2.0)):
            assert isinstance(noise, NoiseModel)
        for wrong in (1.0, WhiteNoise, None):
            with pytest.raises(ValueError, match='noise must be'):
                HyperPhotometry(FWHM, noise=wrong)

    def test_foreign_noise_gives_errors_that_hold(self):
        """
        Fluxes of fits and of apertures scatter as stated, with a noise
        model that no module of the package mentions.
        """
        pulls = {'flux': [], 'aperture_flux': []}
        for seed in range(8):
            data, truth, noise = exponential_map(seed)
            table = HyperPhotometry(FWHM, noise=noise)(
                data, init_params=truth['x_fit', 'y_fit'])
            assert 'ExponentialNoise' in table.meta['noise']
            for name, column in (('flux', 'flux_fit'),
                                 ('aperture_flux', 'aperture_flux')):
                pulls[name].extend((table[column] - truth['flux_fit'])
                                   / table[f'{name}_err'])
        for name, pull in pulls.items():
            assert 0.8 < np.std(pull) < 1.25, name
            assert abs(np.mean(pull)) < 0.35, name

    def test_foreign_noise_in_the_whole_method(self):
        """
        Detection, searches on the residual, and splitting of pairs run
        with it.
        """
        data, truth, noise = exponential_map(1)
        table = HyperPhotometry(FWHM, noise=noise)(data)
        assert len(table) >= 0.8 * len(truth)

    def test_foreign_noise_in_fitter_and_bands(self, sim):
        """
        The fitter of groups and forced photometry take it, too.
        """
        noise = ExponentialNoise(sim.rms.value, 3.0, UNIT)
        init = QTable({'x_init': sim.truth['x_fit'],
                       'y_init': sim.truth['y_fit']})
        data = sim.image.data << UNIT
        table = BlendGroupFitter(FWHM)(data, noise=noise, init_params=init)
        assert np.all(np.isfinite(table['flux_err']))
        table = ForcedPhotometry(noise=noise)(sim.truth, {'a': sim.image})
        in_mjy = ForcedPhotometry(noise=noise.scale(1e3, u.mJy / u.pix))(
            sim.truth, {'a': CCDData(
                1e3 * sim.image.data, unit='mJy/pix', wcs=sim.image.wcs,
                meta=sim.image.meta)})
        for name in ('flux_fit_a', 'flux_err_a', 'aperture_flux_err_a'):
            assert_allclose(in_mjy[name].to_value('Jy'),
                            table[name].to_value('Jy'), rtol=1e-6)

    def test_white_noise_is_the_error(self, sim):
        """
        Known white noise is the same as ``error=``, in numbers and maps.
        """
        data = sim.image.data
        varying = sim.rms.value * np.linspace(0.5, 2.0, 160) * np.ones(
            (160, 1))
        for error in (sim.rms.value, varying):
            expected = HyperPhotometry(FWHM, noise='white')(data, error=error)
            table = HyperPhotometry(
                FWHM, noise=WhiteNoise.from_error(error))(data)
            for name in ('x_fit', 'flux_fit', 'flux_err', 'snr',
                         'aperture_flux_err', 'reduced_chi2'):
                assert_allclose(table[name], expected[name], rtol=1e-9)
        with pytest.raises(ValueError, match='noise and error are mutually'):
            HyperPhotometry(FWHM, noise=WhiteNoise(1.0))(data, error=1.0)

    def test_wrong_unit(self, sim):
        """
        Noise in another unit than the map is refused.
        """
        with pytest.raises(ValueError, match='must all have the same unit'):
            HyperPhotometry(FWHM, noise=WhiteNoise(1.0 * u.mJy))(sim.image)


class TestBackground:
    @pytest.mark.parametrize('background', [
        Median(),
        AnnulusBackground(8, 16, bkg_estimator=MedianBackground()),
        ImageBackground(partial(Background2D, box_size=40,
                                sigma_clip=SigmaClip(3.0))),
        ImageBackground(PolynomialBackground2D),
        LocalPolynomialBackground(41, orders=1, methods=BayesianRidge()),
        LocalPolynomialBackground(41, orders=1, methods=(
            'lsq', RANSACRegressor()))])
    def test_any_background(self, background, sim):
        """
        Fluxes agree with those of a background in the fit, within the
        scatter; the images fit together.
        """
        truth = sim.truth
        flat = make_blended_map((160, 160), 16, beam=FWHM, seed=2,
                                background_ratio=0.0).image
        data = flat.data + 20.0 * sim.rms.value
        phot = HyperPhotometry(FWHM, background=background, noise='white')
        table = phot(data, init_params=truth['x_fit', 'y_fit'])
        ratio = table['flux_fit'] / truth['flux_fit'].value
        assert abs(np.median(ratio) - 1.0) < 0.1
        assert_allclose(np.median(table['local_bkg']), 20.0 * sim.rms.value,
                        rtol=0.05)
        image = phot.make_background_image()
        known = np.isfinite(image)
        assert_allclose(
            phot.make_residual_image(),
            data - phot.make_model_image() - np.where(known, image, 0.0))
        assert phot.background is background or repr(
            phot.background) == repr(background)

    def test_names_in_the_table(self, sim):
        """
        The method is named by its class, and an unknown background has
        no order.
        """
        init = sim.truth['x_fit', 'y_fit']
        table = HyperPhotometry(
            FWHM, noise='white', background=LocalPolynomialBackground(
                41, methods=BayesianRidge()))(sim.image, init_params=init)
        assert set(table['bkg_method']) == {'BayesianRidge'}
        table = HyperPhotometry(FWHM, noise='white', background=Median())(
            sim.image, init_params=init)
        assert set(table['bkg_order']) == {-1}

    def test_interface(self):
        assert isinstance(Median(), LocalBackground)
        assert isinstance(LocalPolynomialBackground(11), LocalBackground)
        for wrong in (3, Median, np.median):
            with pytest.raises(TypeError, match='background must have the'):
                HyperPhotometry(FWHM, background=wrong)


class TestAfterACall:
    @pytest.mark.parametrize('kwargs', [
        {}, {'noise': 'white'},
        {'background': LocalPolynomialBackground(41, orders=(0, 1))}])
    def test_pickle_is_about_one_map(self, kwargs):
        """
        At most 1.2 maps are kept, and images are still there.
        """
        image = make_blended_map((500, 500), 40, beam=FWHM, seed=1).image
        image.mask = np.zeros(image.shape, dtype=bool)
        image.mask[100:104, 200:230] = True
        phot = HyperPhotometry(FWHM, **kwargs)
        phot(image)
        pickled = pickle.dumps(phot)
        assert len(pickled) < 1.2 * 8 * image.data.size
        other = pickle.loads(pickled)
        for name in ('model', 'background', 'residual'):
            make = f'make_{name}_image'
            assert_array_equal(getattr(other, make)().value,
                               getattr(phot, make)().value)

    def test_parts_are_not_changed(self, sim):
        """
        A call changes neither the finder, the grouper, the fitter, nor
        the background.
        """
        phot = HyperPhotometry(FWHM, background=LocalPolynomialBackground(
            41, orders=(0, 1)))
        names = ('finder', 'grouper', 'fitter', 'background')
        parts = {name: getattr(phot, name) for name in names}
        before = {name: pickle.dumps(part) for name, part in parts.items()}
        phot(sim.image)
        for name, part in parts.items():
            assert getattr(phot, name) is part
            assert pickle.dumps(part) == before[name], name


@pytest.mark.parametrize('make', [
    lambda phot: phot, partial(TiledPhotometry, tile_size=100)])
def test_fwhm_in_arcsec_is_noticed(make):
    image = make_blended_map((120, 120), 6, seed=1).image
    phot = HyperPhotometry(fwhm=7.5, noise='white', max_rounds=0)
    with pytest.warns(AstropyUserWarning, match=(
            'fwhm is 7.5 pixels, but the beam of the map has 4 pixels')):
        make(phot)(image)
