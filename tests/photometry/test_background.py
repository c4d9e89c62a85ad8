# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of HyperPhotometry with a separate background and limited apertures.
"""

import numpy as np
import pytest
from astropy.table import QTable
from numpy.testing import assert_allclose
from photutils.aperture import EllipticalAperture

from hyperphotutils.background import LocalPolynomialBackground
from hyperphotutils.photometry import HyperPhotometry
from hyperphotutils.utils import add_gaussians, gaussian_flux

FWHM = 4.0


def curved_map(noise=0.05):
    """
    Nine sources on a background that curves within a box.
    """
    rng = np.random.default_rng(7)
    y, x = (grid.ravel() + rng.uniform(-2, 2, 9)
            for grid in np.meshgrid([30.0, 75.0, 120.0], [30.0, 75.0, 120.0],
                                    indexing='ij'))
    truth = QTable({'x': x, 'y': y, 'amplitude': rng.uniform(10, 20, 9),
                    'fwhm_major': rng.uniform(5, 6, 9),
                    'fwhm_minor': rng.uniform(4, 5, 9),
                    'theta': rng.uniform(0, 180, 9)})
    rows, cols = np.indices((150, 150))
    background = (5.0 + 0.02 * (cols - 60.0)**2 - 0.015 * (rows - 80.0)**2
                  + 0.01 * (cols - 75.0) * (rows - 75.0))
    data = background + noise * rng.normal(size=background.shape)
    add_gaussians(data, *(truth[name] for name in truth.colnames))
    truth['flux'] = gaussian_flux(truth['amplitude'], truth['fwhm_major'],
                                  truth['fwhm_minor'])
    truth['background'] = [background[round(row['y']), round(row['x'])]
                           for row in truth]
    return data, truth, background


def test_separate_background():
    """
    A background of the second order, estimated apart from the fit, gives
    unbiased fluxes, and the columns tell how it was made.
    """
    data, truth, background = curved_map()
    separate = LocalPolynomialBackground((25, 33), orders=(0, 1, 2),
                                         criterion='bic')
    phot = HyperPhotometry(FWHM, background=separate, noise='white')
    table = phot(data, init_params=truth['x', 'y'])
    assert_allclose(table['flux_fit'], truth['flux'], rtol=0.03)
    assert_allclose(table['aperture_flux'], truth['flux'], rtol=0.05)
    assert set(table['bkg_method']) == {'lsq'}
    assert set(table['bkg_order']) == {2}
    assert set(table['bkg_size']) <= {25, 33}
    # a pixel of offset along the slope of 2 per pixel
    assert_allclose(table['local_bkg'], truth['background'], atol=1.5)
    image = phot.make_background_image()
    known = np.isfinite(image)
    assert 0.1 < known.mean() < 0.8
    error = (image - background)[known]
    assert np.median(np.abs(error)) < 0.1
    residual = phot.make_residual_image()
    assert np.std(residual[known]) < 0.3


def test_separate_background_and_correlated_noise():
    """
    Both together find the same sources.
    """
    data, truth, _ = curved_map()
    separate = LocalPolynomialBackground(33, orders=(2,))
    table = HyperPhotometry(FWHM, background=separate)(
        data, init_params=truth['x', 'y'])
    assert_allclose(table['flux_fit'], truth['flux'], rtol=0.05)


def test_apertures_are_limited():
    """
    With limits of 1 and 1.25 beams, the apertures are those of photutils
    with these axes, corrected for what is outside.
    """
    data, truth, background = curved_map(noise=0.0)
    flat = data - background
    phot = HyperPhotometry(FWHM, fwhm_limits=(1.0, 1.25), noise='white')
    table = phot(flat, init_params=truth['x', 'y'])
    for row, true in zip(table, truth, strict=True):
        aperture = EllipticalAperture(
            (row['x_fit'], row['y_fit']), min(row['fwhm_major_fit'], 5.0),
            min(row['fwhm_minor_fit'], 5.0), theta=row['theta_fit'])
        inside = aperture.do_photometry(flat)[0][0]
        assert_allclose(row['aperture_flux'] / row['aperture_correction'],
                        inside, rtol=1e-3)
        assert_allclose(row['aperture_flux'], true['flux'], rtol=1e-3)


def test_apertures_may_have_a_size_of_their_own():
    """
    They are those of photutils with the given axes, one for all or one
    for each; the fits are as without, and where an ellipse is unknown,
    the aperture is that of the fit.
    """
    data, truth, background = curved_map(noise=0.0)
    flat = data - background
    plain = HyperPhotometry(FWHM, noise='white')(
        flat, init_params=truth['x', 'y'])
    n_sources = len(truth)
    angles = np.linspace(0.0, 150.0, n_sources)
    angles[-1] = np.nan
    for angle in (30.0, angles):
        phot = HyperPhotometry(FWHM, aperture_ellipse=(6.0, 4.0, angle),
                               fwhm_radius_ratio=0.75, noise='white',
                               aperture_correction=False)
        table = phot(flat, init_params=truth['x', 'y'])
        assert_allclose(table['flux_fit'], plain['flux_fit'])
        for row, theta in zip(table, np.broadcast_to(angle, n_sources),
                              strict=True):
            shape = 6.0, 4.0, theta
            if np.isnan(theta):
                shape = (row['fwhm_major_fit'], row['fwhm_minor_fit'],
                         row['theta_fit'].value)
            aperture = EllipticalAperture(
                (row['x_fit'], row['y_fit']), 0.75 * shape[0],
                0.75 * shape[1], theta=np.deg2rad(shape[2]))
            assert_allclose(row['aperture_flux'],
                            aperture.do_photometry(flat)[0][0], rtol=1e-3)
    with pytest.raises(ValueError, match='a value for each of the '
                       f'{n_sources - 1} sources: got {n_sources} values'):
        phot(flat, init_params=truth['x', 'y'][1:])


@pytest.mark.parametrize(('kwargs', 'error', 'match'), [
    ({'aperture_ellipse': (4.0, 3.0)}, ValueError,
     r'must be two positive FWHMs and an angle: \(4.0, 3.0\)'),
    ({'aperture_ellipse': (4.0, 0.0, 5.0)}, ValueError,
     'must be two positive FWHMs'),
    ({'aperture_ellipse': 4.0}, ValueError, 'must be two positive FWHMs'),
    ({'aperture_ellipse': (4.0, 3.0, 5.0), 'fwhm_limits': (1.0, 2.0)},
     ValueError, 'aperture_ellipse and fwhm_limits are mutually exclusive'),
    ({'fwhm_limits': (2.0, 1.0)}, ValueError,
     r'fwhm_limits must be two positive numbers.*: \(2.0, 1.0\)'),
    ({'fwhm_limits': 2.0}, ValueError, 'fwhm_limits must be two'),
    ({'fwhm_limits': ('a', 'b')}, ValueError, 'fwhm_limits must be two'),
    ({'background': 3}, TypeError,
     'background must have the method fit of a LocalBackground.*: 3'),
    ({'noise': 'pink'}, ValueError, "noise must be .*: 'pink'")])
def test_bad_arguments(kwargs, error, match):
    """
    Each is named.
    """
    with pytest.raises(error, match=match):
        HyperPhotometry(FWHM, **kwargs)


def test_boxes_make_no_detections():
    """
    The borders of the boxes, inside which the background is subtracted,
    are no sources of the residual.
    """
    data, truth, _ = curved_map(noise=0.5)
    separate = LocalPolynomialBackground((13, 17, 21), orders=(0, 1, 2))
    table = HyperPhotometry(FWHM, background=separate)(data)
    assert len(table) == len(truth)
