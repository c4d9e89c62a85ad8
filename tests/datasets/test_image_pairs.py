# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the image_pairs module.
"""

import numpy as np
import pytest
from astropy.stats import mad_std
from numpy.testing import assert_allclose, assert_array_equal

from hyperphotutils.datasets import MoffatPSF, make_image_pair


def test_seed():
    first, again, other = (make_image_pair((90, 100), seed=seed)
                           for seed in (1, 1, 2))
    assert_array_equal(first.science.data, again.science.data)
    assert_array_equal(first.stars['flux'], again.stars['flux'])
    assert not np.any(first.stars['x'] == other.stars['x'])


def test_stars_of_both_images():
    """
    A bright star has its flux in both images, on the scale of each.
    """
    pair = make_image_pair((200, 200), 1, n_galaxies=0, n_transients=0,
                           variable_fraction=0.0, bad_fraction=0.0,
                           saturation=(1e9, 1e9), seed=8)
    star = pair.stars[0]
    x, y = round(star['x']), round(star['y'])
    assert 20 < x < 180
    assert 20 < y < 180
    cut = np.s_[y - 20:y + 21, x - 20:x + 21]
    inside = pair.science_psf.image(x, y, 20).sum()
    for image, factor in ((pair.science, 1.0), (pair.template, pair.scale)):
        sky = np.median(image.data[cut])
        flux = np.sum(image.data[cut] - sky) * factor
        noise = np.sqrt(np.sum(image.uncertainty.array[cut]**2)) * factor
        # the sky is measured, too
        assert abs(flux - star['flux'].value * inside) < 6.0 * noise
    assert_allclose(pair.light[cut].sum(), star['flux'].value * inside,
                    rtol=0.02)


def test_noise_is_that_of_the_variance():
    pair = make_image_pair((300, 300), 0, n_galaxies=0, n_transients=0,
                           bad_fraction=0.0, seed=3)
    for image, variance in ((pair.science, pair.science_variance),
                            (pair.template, pair.template_variance)):
        assert not image.mask.any()
        noise = image.data - np.mean(image.data, axis=1, keepdims=True)
        noise -= np.mean(noise, axis=0)
        # 90000 pixels, less what the slopes leave
        assert abs(mad_std(noise / np.sqrt(variance)) - 1.0) < 0.02


def test_transients_are_only_in_the_science_image():
    options = {'bad_fraction': 0.0, 'seed': 4}
    pair = make_image_pair((150, 150), 0, n_galaxies=0, n_transients=10,
                           **options)
    for row in pair.transients:
        x, y = round(row['x']), round(row['y'])
        excess = pair.science.data[y, x] - np.median(pair.science.data)
        peak = row['flux'].value * pair.science_psf(
            x - row['x'], y - row['y'], row['x'], row['y'])
        error = pair.science.uncertainty.array[y, x]
        assert abs(excess - peak) < 5.0 * error + 0.2 * peak
        calm = pair.template.data[y, x] - np.median(pair.template.data)
        assert abs(calm) < 6.0 * pair.template.uncertainty.array[y, x]
    snr = (pair.transients['flux'] / pair.transients['flux_err']).value
    assert np.all((snr > 2.0) & (snr < 101.0))


def test_psf():
    """
    The FWHM is that at the place, and the flux is one.
    """
    psf = MoffatPSF((101, 101), (3.0, 1.0, 0.0, 0.0), (0.0,) * 4,
                    (0.0,) * 4, 3.5)
    for x, fwhm in ((50.5, 3.0), (101.0, 4.0)):
        ratio = (psf(0.5 * fwhm, 0.0, x, 50.5)
                 / psf(0.0, 0.0, x, 50.5))
        assert_allclose(ratio, 0.5, rtol=1e-6)
    assert_allclose(psf.image(50.5, 50.5, 150).sum(), 1.0, atol=1e-3)


def test_saturated_and_bad_pixels_are_masked():
    pair = make_image_pair((200, 200), seed=5, saturation=(3e3, 3e3),
                           bad_fraction=1e-3)
    for image in (pair.science, pair.template):
        assert np.all(image.data <= 3e3)
        assert image.mask[image.data >= 3e3].all()
        assert 0.001 < image.mask.mean() < 0.05


@pytest.mark.parametrize(('options', 'match'), [
    ({'shape': (0, 10)}, 'shape'), ({'fwhm': (0.0, 1.0)}, 'fwhm'),
    ({'gain': (1.0, -1.0)}, 'gain'), ({'shift': 2.0}, 'shift'),
    ({'variable_fraction': -0.1}, 'variable_fraction'),
])
def test_wrong_arguments(options, match):
    with pytest.raises(ValueError, match=match):
        make_image_pair(**options)


def test_repr():
    pair = make_image_pair((60, 60), 3, n_galaxies=0, n_transients=2, seed=1)
    assert repr(pair) == ('<ImagePair(shape=(60, 60), n_stars=3, '
                          'n_transients=2)>')
