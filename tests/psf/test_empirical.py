# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of empirical PSFs, their files, and their pictures.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from numpy.testing import assert_allclose
from photutils.psf import PSFPhotometry

from hyperphotutils.psf import (
    EmpiricalPSF,
    plot_psf,
    plot_selection,
    plot_stars,
    read_psf,
)


def gaussian_psf(oversampling=1, size=21, sigma=2.0, **kwargs):
    """
    A Gaussian PSF whose values are those at the pixel centers.
    """
    half = (size * oversampling - 1) // 2
    grid = np.arange(-half, half + 1) / oversampling
    image = np.exp(-0.5 * (grid**2 + grid[:, None]**2) / sigma**2) / (
        2.0 * np.pi * sigma**2)
    return EmpiricalPSF(image, oversampling=oversampling, **kwargs)


def test_measures_of_a_gaussian():
    """
    FWHM, ellipticity, and encircled energy of a Gaussian are analytic.
    """
    psf = gaussian_psf(3)
    assert psf.size == 21
    assert_allclose(psf.fwhm(), 2.0 * np.sqrt(8.0 * np.log(2.0)), rtol=3e-3)
    assert_allclose(psf.ellipticity(), (0.0, 0.0), atol=1e-6)
    radius = np.array([1.0, 3.0, 6.0])
    assert_allclose(psf.encircled_energy(radius),
                    1.0 - np.exp(-0.5 * radius**2 / 4.0), atol=0.01)
    assert psf.encircled_energy(3.0) == psf.encircled_energy(radius)[1]


def test_ellipticity_has_the_right_sign():
    y, x = np.mgrid[-10:11, -10:11]
    along_x = np.exp(-0.5 * (x**2 / 9.0 + y**2 / 4.0))
    along_xy = np.exp(-0.5 * ((x + y)**2 / 18.0 + (x - y)**2 / 8.0))
    for image, index in ((along_x, 0), (along_xy, 1)):
        values = EmpiricalPSF(image / image.sum()).ellipticity()
        assert values[index] > 0.1
        assert abs(values[1 - index]) < 1e-6


@pytest.mark.parametrize('oversampling', [1, 3, 2.5])
def test_shifted_psf_is_exact(oversampling):
    """
    A PSF at any offset is that at the shifted pixel centers.
    """
    if oversampling == 2.5:
        grid = np.arange(-25, 26) / oversampling
        image = np.exp(-0.5 * (grid**2 + grid[:, None]**2) / 4.0) / (
            8.0 * np.pi)
        psf = EmpiricalPSF(image, oversampling=oversampling)
    else:
        psf = gaussian_psf(oversampling)
    half = psf.size // 2
    grid = np.arange(-half, half + 1)
    expected = np.exp(-0.5 * ((grid - 0.3)**2 + (grid + 0.4)[:, None]**2)
                      / 4.0) / (8.0 * np.pi)
    assert_allclose(psf(dx=0.3, dy=-0.4), expected, atol=2e-4)
    assert_allclose(psf(), psf(5.0, 7.0), atol=1e-12)


def test_polynomial_in_the_position():
    """
    The terms are 1, x, x^2, y, x y, y^2 in scaled coordinates.
    """
    rng = np.random.default_rng(1)
    images = np.concatenate([gaussian_psf().coefficients,
                             1e-3 * rng.normal(size=(5, 21, 21))])
    psf = EmpiricalPSF(images, center=(50.0, 40.0), scale=(25.0, 20.0))
    u_, v_ = (60.0 - 50.0) / 25.0, (30.0 - 40.0) / 20.0
    expected = np.tensordot([1, u_, u_**2, v_, u_ * v_, v_**2], images, 1)
    assert_allclose(psf(60.0, 30.0), expected, atol=1e-12)
    both = psf([60.0, 50.0], [30.0, 40.0])
    assert both.shape == (2, 21, 21)
    assert_allclose(both[1], images[0], atol=1e-12)


def test_photutils_measures_with_it(field, psf):
    """
    PSFPhotometry with the PSF, constant or on a grid, gives the fluxes
    of the builder.
    """
    used = psf.stars[psf.stars['used']]
    distance = np.sort(np.hypot(
        np.asarray(used['x_fit'])[:, None] - np.asarray(field.truth['x']),
        np.asarray(used['y_fit'])[:, None] - np.asarray(field.truth['y'])))
    # photutils does not reject the pixels of neighbors
    stars = used[distance[:, 1] > 15.0][:4]
    assert len(stars) == 4
    start = QTable({'x': stars['x_fit'], 'y': stars['y_fit']})
    for model in (psf.to_image_psf(), psf.to_gridded(field.data.shape)):
        photometry = PSFPhotometry(model, (9, 9), aperture_radius=4)
        result = photometry(field.data - 7.0, error=field.error,
                            init_params=start)
        assert_allclose(result['flux_fit'], stars['flux_fit'], rtol=0.01)
        assert_allclose(result['x_fit'], stars['x_fit'], atol=0.02)


def test_gridded_psf_varies():
    """
    The grid reproduces a PSF that is linear in the position.
    """
    wide = gaussian_psf(sigma=2.4).coefficients[0]
    base = gaussian_psf().coefficients[0]
    slope = 0.5 * (wide / wide.sum() - base / base.sum())
    images = np.stack([base, slope, np.zeros_like(base)])
    psf = EmpiricalPSF(images, center=(50, 40), scale=(50, 40))
    model = psf.to_gridded((81, 101))
    y, x = np.mgrid[-10:11, -10:11]
    for place in ((20, 30), (75, 60)):
        model.x_0, model.y_0 = place
        assert_allclose(model(x + place[0], y + place[1]), psf(*place),
                        atol=1e-5)


def test_model_image():
    """
    Sources on, at the edge of, and off the image add what they should.
    """
    psf = gaussian_psf(3)
    x, y = np.array([12.3, -3.0, 900.0, np.nan]), np.array([8.7, 5.0, 1, 1])
    flux = np.array([10.0, 5.0, 1.0, 1.0])
    image = psf.make_model_image((30, 25), x, y, flux << u.Jy)
    assert image.unit == u.Jy
    yy, xx = np.mgrid[:30, :25]
    expected = sum(
        f * np.exp(-0.5 * ((xx - a)**2 + (yy - b)**2) / 4.0) / (8 * np.pi)
        for a, b, f in zip(x[:2], y[:2], flux[:2], strict=True))
    assert_allclose(image.value, expected, atol=1e-4)


def test_invalid_psfs():
    """
    Each invalid PSF has a message that says what is wrong.
    """
    image = gaussian_psf().coefficients[0]
    with pytest.raises(ValueError, match='square images of odd size'):
        EmpiricalPSF(image[:-1, :-1])
    with pytest.raises(ValueError, match='as many terms as a polynomial'):
        EmpiricalPSF(np.stack([image, image]))
    with pytest.raises(ValueError, match='must be finite'):
        EmpiricalPSF(np.where(image == image.max(), np.nan, image))
    with pytest.raises(ValueError, match='must have a positive sum'):
        EmpiricalPSF(-image)
    with pytest.warns(AstropyUserWarning, match='sums to 3'):
        assert_allclose(EmpiricalPSF(3.0 * image)(), image / image.sum(),
                        atol=1e-12)
    with pytest.warns(AstropyUserWarning, match=r'\(\+1.00, -2.00\) pixels'):
        EmpiricalPSF(np.roll(image, (-2, 1), (0, 1)))


def test_fits_round_trip(tmp_path, psf):
    """
    All of a PSF is read back as it was.
    """
    path = tmp_path / 'psf.fits'
    psf.write(path)
    other = read_psf(path)
    assert np.array_equal(other.coefficients, psf.coefficients)
    assert np.array_equal(other.residuals, psf.residuals, equal_nan=True)
    assert np.array_equal(other.error, psf.error)
    assert other.stars.colnames == psf.stars.colnames
    assert other.stars.meta == psf.stars.meta
    for name in ('reason', 'used', 'flux_fit'):
        assert np.array_equal(other.stars[name], psf.stars[name],
                              equal_nan=name == 'flux_fit')
    assert other.meta == psf.meta
    assert (other.center, other.scale) == (psf.center, psf.scale)
    with pytest.raises(FileExistsError, match='exists already'):
        psf.write(path)
    psf.write(path, overwrite=True)


@pytest.mark.parametrize('order', [0, 2])
@pytest.mark.parametrize('oversampling', [None, 1, 1.7])
def test_psfex_round_trip(tmp_path, order, oversampling):
    """
    A file of PSFEx gives the same PSF at the same places.
    """
    rng = np.random.default_rng(1)
    images = gaussian_psf(3).coefficients
    if order:
        smooth = images[0] * rng.normal(size=(5, 1, 1)) * 0.01
        images = np.concatenate([images, smooth])
    psf = EmpiricalPSF(images, oversampling=3, center=(50.0, 40.0),
                       scale=(25.0, 20.0))
    path = tmp_path / 'image.psf'
    psf.write(path, oversampling=oversampling)
    other = read_psf(path)
    assert other.order == order
    for place in ((50, 40), (60, 30)):
        # the samples are float32; other samplings are interpolated
        assert_allclose(other(*place), psf(*place), rtol=0, atol=1e-6 * (
            psf().max() if oversampling is None else 300))
    header = fits.getheader(path, 1)
    assert header['PSF_SAMP'] == 1.0 / (oversampling or 3)
    # the samples of PSFEx are the flux a pixel, whatever the sampling
    assert_allclose(fits.getdata(path, 1)['PSF_MASK'][0][0].max(),
                    psf().max(), rtol=1e-3)
    assert_allclose(other.meta['sum'], 1.0, atol=1e-3)


def test_psfex_file_without_stars(tmp_path):
    """
    PSFEx writes a PSF even if it has accepted no star.
    """
    path = tmp_path / 'empty.psf'
    gaussian_psf().write(path)
    fits.setval(path, 'ACCEPTED', value=0, ext=1)
    with pytest.warns(AstropyUserWarning, match='has accepted no star'):
        read_psf(path)


def test_files_that_cannot_be_read(tmp_path):
    """
    Other FITS files, and PSFs that depend on more than the position,
    are refused with their name.
    """
    with pytest.raises(FileNotFoundError, match=r'nope.fits: no such file'):
        read_psf(tmp_path / 'nope.fits')
    path = tmp_path / 'image.fits'
    fits.PrimaryHDU(np.ones((3, 3))).writeto(path)
    with pytest.raises(ValueError, match=r"image.fits' has no PSF"):
        read_psf(path)
    for name in ('own.fits', 'psfex.psf'):
        gaussian_psf().write(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:3 * len(content) // 4])
        with pytest.raises(ValueError, match=rf"{name}' is truncated or dam"):
            read_psf(tmp_path / name)
    path = tmp_path / 'magnitude.psf'
    images = np.concatenate([gaussian_psf().coefficients,
                             np.zeros((2, 21, 21))])
    EmpiricalPSF(images).write(path)
    fits.setval(path, 'POLNAME2', value='MAG_AUTO', ext=1)
    fits.setval(path, 'ACCEPTED', value=5, ext=1)
    with pytest.raises(ValueError, match='depends on X_IMAGE, MAG_AUTO'):
        read_psf(path)
    with pytest.raises(ValueError, match='oversampling is for'):
        gaussian_psf().write(tmp_path / 'a.fits', oversampling=1)


def test_plots(stars, psf):
    """
    Each picture shows all that it is about.
    """
    figure = plot_selection(stars)
    labels = [text.get_text() for text in
              figure.axes[0].get_legend().get_texts()]
    assert labels[-1] == f'accepted ({stars["accepted"].sum()})'
    figure = plot_stars(psf, max_stars=12)
    titles = [axes.get_title() for axes in figure.axes]
    assert sum(title != '' for title in titles) == 12
    assert any('extended' in title for title in titles)
    for image in (psf, gaussian_psf()):
        figure = plot_psf(image, shape=(320, 320))
        figure.canvas.draw()
        assert f'FWHM {image.fwhm():.2f}' in figure.axes[0].get_title()
    with pytest.raises(ValueError, match='psf has no images of stars'):
        plot_stars(gaussian_psf())


def test_repr_states_the_psf(psf):
    assert f'n_stars={psf.n_stars}' in repr(psf)
    assert psf.covariance_trace > 0
    assert gaussian_psf().covariance_trace is None


def test_method_of_the_psf(psf):
    mixture = psf.as_gaussians(3)
    assert mixture.misfit < 0.02
    assert_allclose(mixture.image(psf.size), psf(),
                    atol=mixture.misfit * psf().max() * 1.001)
