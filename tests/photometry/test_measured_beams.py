# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of HyperPhotometry with a measured beam.
"""

import numpy as np
import pytest
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from numpy.testing import assert_allclose

from hyperphotutils.blend import BlendGroupFitter
from hyperphotutils.noise import CorrelatedNoise
from hyperphotutils.photometry import HyperPhotometry, TiledPhotometry
from hyperphotutils.utils import FLAGS

FWHM = 6.0
N_SIDE, STEP = 4, 66
SHAPE = (N_SIDE * STEP, N_SIDE * STEP)


def profile(kind, radius):
    """
    A beam with a peak of 1.
    """
    gauss = np.exp(-4.0 * np.log(2.0) * (radius / FWHM)**2)
    if kind == 'gauss':
        return gauss
    if kind == 'moffat':
        alpha = 0.5 * FWHM / np.sqrt(2.0**(1.0 / 3.0) - 1.0)
        return (1.0 + (radius / alpha)**2)**-3.0
    if kind == 'lobe':
        return gauss + 0.05 * np.exp(-0.5 * ((radius - 9.0) / 1.8)**2)
    return gauss - 0.05 * np.exp(-0.5 * ((radius - 7.2) / 1.8)**2)


def beam_image(kind):
    y, x = np.mgrid[-30:31, -30:31]
    image = profile(kind, np.hypot(x, y))
    return image / image.sum()


def far_infrared_map(kind, seed, white=0.3):
    """
    Stars with peaks of 50 to 500 on a structured background, in noise
    that is smoothed by the beam, except for the rms ``white``; and their
    truth.
    """
    rng = np.random.default_rng(seed)
    y, x = ((grid.ravel() + 0.5) * STEP + rng.uniform(-3, 3, N_SIDE**2)
            for grid in np.mgrid[:N_SIDE, :N_SIDE])
    peak = np.exp(rng.uniform(np.log(50.0), np.log(500.0), N_SIDE**2))
    noise = CorrelatedNoise.from_beam(0.9, FWHM)
    data = noise.simulate(SHAPE, seed=seed) + white * rng.normal(size=SHAPE)
    rows, cols = np.indices(SHAPE)
    data += 3.0 * np.sin(cols / 90.0) + 2.0 * np.cos(rows / 70.0)
    for a, b, p in zip(x, y, peak, strict=True):
        data += p * profile(kind, np.hypot(cols - a, rows - b))
    flux = peak / beam_image(kind).max()
    return data, QTable({'x': x, 'y': y, 'flux': flux})


def rows_of(table, truth):
    """
    The nearest row of each star.
    """
    distance = np.hypot(table['x_fit'] - truth['x'][:, None],
                        table['y_fit'] - truth['y'][:, None])
    assert np.all(distance.min(axis=1) < 1.0)
    return table[np.argmin(distance, axis=1)]


@pytest.mark.parametrize('kind', ['moffat', 'lobe', 'negative lobe'])
def test_stars_on_a_far_infrared_map(kind):
    """
    One row for each star, with a flux without bias; with a Gaussian, the
    fluxes are off by more, and a warning and a flag say why.
    """
    data, truth = far_infrared_map(kind, seed=4)
    table = HyperPhotometry(FWHM, psf=beam_image(kind))(data)
    assert len(table) == len(truth)
    stars = rows_of(table, truth)
    for name in ('flux_fit', 'aperture_flux'):
        assert_allclose(np.median(stars[name] / truth['flux']), 1.0,
                        atol=0.02)
    assert_allclose(np.median(stars['fwhm_major_fit']), FWHM, rtol=0.02)
    assert not np.any(table['flags'] & FLAGS['beam_mismatch'])
    with pytest.warns(AstropyUserWarning, match='bright sources differ from '
                      'the profile of the fit by .* give its image as psf'):
        table = HyperPhotometry(FWHM, max_rounds=0)(data)
    stars = rows_of(table, truth)
    assert abs(np.median(stars['flux_fit'] / truth['flux']) - 1.0) > 0.1
    flagged = (stars['flags'] & FLAGS['beam_mismatch']) > 0
    assert np.all(flagged[truth['flux'] > np.median(truth['flux'])])


@pytest.mark.parametrize('kind', ['moffat', 'lobe', 'negative lobe'])
def test_noise_that_is_all_smoothed(kind):
    """
    The inverse of its covariance amplifies the smallest difference
    between the beam and the model of a source.
    """
    data, truth = far_infrared_map(kind, seed=4, white=0.0)
    phot = HyperPhotometry(FWHM, psf=beam_image(kind))
    for measure in (phot, TiledPhotometry(phot, 140)):
        table = measure(data)
        assert len(table) == len(truth)
        stars = rows_of(table, truth)
        for name in ('flux_fit', 'aperture_flux'):
            assert_allclose(np.median(stars[name] / truth['flux']), 1.0,
                            atol=0.01)
        pull = (stars['flux_fit'] - truth['flux']) / stars['flux_err']
        assert np.std(pull) < 1.5
        assert not np.any(table['flags'] & FLAGS['beam_mismatch'])


def test_gaussian_beams_have_no_flag():
    """
    Neither without nor with their PSF, which changes nothing much.
    """
    data, truth = far_infrared_map('gauss', seed=5)
    tables = [HyperPhotometry(FWHM, psf=psf)(data)
              for psf in (None, beam_image('gauss'))]
    for table in tables:
        assert len(table) == len(truth)
        assert not np.any(table['flags'] & FLAGS['beam_mismatch'])
    assert_allclose(tables[1]['flux_fit'], tables[0]['flux_fit'], rtol=2e-3)


def test_model_image_is_convolved():
    """
    The residual of given stars without noise is small in all wings.
    """
    rows, cols = np.indices((90, 90))
    data = 100.0 * profile('moffat', np.hypot(cols - 44.6, rows - 45.2))
    phot = HyperPhotometry(FWHM, psf=beam_image('moffat'), noise='white')
    phot(data, init_params=QTable({'x': [45.0], 'y': [45.0]}))
    assert np.abs(data - phot.make_model_image()).max() < 0.3


def test_psf_belongs_to_the_fitter():
    psf = beam_image('moffat')
    fitter = BlendGroupFitter(FWHM, psf=psf)
    assert HyperPhotometry(FWHM, fitter=fitter).psf is psf
    with pytest.raises(ValueError, match='psf cannot be combined with'):
        HyperPhotometry(FWHM, fitter=BlendGroupFitter(FWHM), psf=psf)
