# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the subtractor module: whole subtractions.
"""

import pickle
import warnings
from dataclasses import replace

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import CCDData
from astropy.stats import mad_std
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal
from photutils.detection import DAOStarFinder
from photutils.psf import PSFPhotometry
from photutils.utils.exceptions import NoDetectionsWarning
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from hyperphotutils.datasets import make_image_pair
from hyperphotutils.subtraction import (
    DIFFERENCE_FLAGS,
    DeltaBasis,
    Direction,
    FixedBasis,
    GaussianPolynomialBasis,
    ImageSubtractor,
    SpatialKernel,
    SubtractionResult,
)

QUICK = ImageSubtractor(10, kernel_order=1)


def gaussian_pair(shape=(120, 130), *, sigmas=(2.2, 1.4), scale=1.7,
                  noise=0.0, n_stars=20, seed=1):
    """
    Stars with constant Gaussian PSFs, as CCDData and their positions.
    """
    rng = np.random.default_rng(seed)
    # away from each other
    y, x = np.mgrid[15:shape[0] - 15:22, 15:shape[1] - 15:22] + 0.0
    x, y = (axis.ravel()[:n_stars] for axis in (x, y))
    x, y = x + rng.uniform(-2, 2, x.size), y + rng.uniform(-2, 2, x.size)
    flux = rng.uniform(2e4, 2e5, x.size)
    yy, xx = np.mgrid[:shape[0], :shape[1]]
    images = []
    for sigma, factor, sky in zip(sigmas, (scale, 1.0), (300.0, 100.0),
                                  strict=True):
        image = sky + sum(
            f * factor / (2 * np.pi * sigma**2)
            * np.exp(-0.5 * ((xx - xi)**2 + (yy - yi)**2) / sigma**2)
            for xi, yi, f in zip(x, y, flux, strict=True))
        images.append(image + noise * rng.normal(size=shape))
    return *images, x, y, flux * scale


def arrays(pair):
    """
    The two images of a pair, and the other arguments, as plain arrays.
    """
    return (pair.science.data, pair.template.data), {
        'error': pair.science.uncertainty.array, 'mask': pair.science.mask,
        'template_error': pair.template.uncertainty.array,
        'template_mask': pair.template.mask}


def sky_pixels(pair, mask):
    """
    Pixels far from all sources.
    """
    sky = pair.light < 0.1 * np.sqrt(np.median(pair.science_variance))
    y, x = np.nonzero(sky)
    stars = pair.stars[pair.stars['change'] != 0]
    change = [[*stars['x'], *pair.transients['x']],
              [*stars['y'], *pair.transients['y']]]
    near = cKDTree(np.transpose(change)).query(
        np.column_stack([x, y]))[0] < 15
    sky[y[near], x[near]] = False
    return sky & ~mask


def correlation(pull, sky, axis):
    """
    The correlation of neighbors along an axis.
    """
    pull = np.where(sky, pull, np.nan)
    product = pull * np.roll(pull, 1, axis)
    return np.nanmean(product) / np.nanmean(pull**2)


class TestAccuracy:
    def test_gaussians_without_noise(self):
        """
        Constant Gaussian PSFs are matched to 1e-4 of the peak.
        """
        science, template, *_ = gaussian_pair()
        with pytest.warns(AstropyUserWarning, match='not given'):
            result = ImageSubtractor(kernel_order=0)(science, template)
        good = ~result.mask
        # the kernel takes unknown pixels from beyond the edge
        good[:12] = good[-12:] = False
        good[:, :12] = good[:, -12:] = False
        peak = science.max() - 300.0
        assert np.abs(result.difference[good]).max() < 1e-4 * peak
        assert_allclose(result.kernel_sum(60, 60)[0], 1.7, rtol=1e-4)
        assert_allclose(result.background[60, 60], 300.0 - 170.0, rtol=1e-3)

    def test_errors_of_the_sky(self, pair, result):
        """
        The sky scatters as stated, on both differences.
        """
        for image in (result, result.decorrelated):
            pull = image.significance[sky_pixels(pair, image.mask)]
            assert len(pull) > 3e4
            assert abs(mad_std(pull) - 1.0) < 0.03
            assert abs(np.median(pull)) < 0.04

    def test_decorrelated_noise_is_white(self, pair, result):
        white = result.decorrelated
        sky = sky_pixels(pair, white.mask)
        for axis in (0, 1):
            assert abs(correlation(white.significance, sky, axis)) < 0.02

    def test_constant_stars_vanish(self, pair, result):
        """
        Where bright stars do not vary, only noise is left.
        """
        stars = pair.stars
        bright = ((stars['flux'] > 2e4 * u.adu) & (stars['change'] == 0)
                  & (stars['flux'] < 3e5 * u.adu))
        places = np.column_stack([stars['x'], stars['y']])
        change = np.concatenate([places[stars['change'] != 0],
                                 np.column_stack([pair.transients['x'],
                                                  pair.transients['y']])])
        tree = cKDTree(change)
        squares = []
        for x, y in np.round(places[bright]).astype(int):
            cut = np.s_[max(y - 5, 0):y + 6, max(x - 5, 0):x + 6]
            if (tree.query([x, y])[0] > 16 and 8 < x < 312 and 8 < y < 292
                    and not result.mask[cut].any()):
                squares.append(np.mean(result.significance[cut]**2))
        assert len(squares) > 15
        # 121 pixels in each: the standard error of the mean is 0.03
        assert np.median(squares) < 1.1
        assert np.mean(squares) < 1.15

    def test_flux_scale(self, pair, result):
        total, error = result.kernel_sum(159.5, 149.5)
        assert abs(total / pair.scale - 1.0) < 0.005
        assert 0.0 < error < 0.005 * total

    def test_covariance_of_neighbors(self):
        """
        The stated covariance is that of many noise images.
        """
        science, template, *_ = gaussian_pair((160, 170), noise=5.0,
                                              n_stars=30)
        errors = {'error': np.full(science.shape, 5.0),
                  'template_error': np.full(science.shape, 5.0)}
        subtract = ImageSubtractor(8, kernel_order=0)
        result = subtract(science, template, **errors)
        stated = result.covariance(80, 80)
        middle = stated.shape[0] // 2
        rng = np.random.default_rng(3)
        noise = [rng.normal(0.0, 5.0, (600, 600)) for _ in range(2)]
        kernel = result.kernel(80, 80)
        from scipy.signal import fftconvolve
        difference = noise[0] - fftconvolve(noise[1], kernel, mode='same')
        difference = difference[20:-20, 20:-20]
        for dy, dx in ((0, 0), (0, 1), (1, 0), (2, 1), (1, -1)):
            measured = np.mean(difference * np.roll(difference, (dy, dx),
                                                    (0, 1)))
            assert_allclose(stated[middle + dy, middle + dx], measured,
                            atol=0.3)
        assert_allclose(stated[middle, middle],
                        np.nanmedian(result.error)**2, rtol=0.02)


class TestTransients:
    def test_photometry_with_photutils(self, pair, result):
        """
        PSF photometry on the decorrelated difference gives the true
        fluxes within the stated errors.
        """
        white = result.decorrelated
        true = pair.transients
        pulls = []
        for row in true:
            x, y = row['x'], row['y']
            cut = np.s_[round(y) - 3:round(y) + 4, round(x) - 3:round(x) + 4]
            if white.mask[cut].any():
                continue
            model = white.psf_model(x, y)
            model.x_0.fixed = model.y_0.fixed = True
            phot = PSFPhotometry(model, (9, 9), aperture_radius=5)
            table = phot(white.difference.value, error=white.error.value,
                         mask=white.mask,
                         init_params=QTable({'x': [x], 'y': [y]}))
            pulls.append((table['flux_fit'][0] - row['flux'].value)
                         / table['flux_err'][0])
        assert len(pulls) > 10
        assert abs(np.median(pulls)) < 1.0
        assert mad_std(pulls) < 1.8

    @pytest.mark.parametrize('convolve', ['template', 'science'])
    @pytest.mark.parametrize('normalize', ['science', 'template'])
    def test_new_star_is_positive(self, convolve, normalize):
        """
        A new star is positive and has its flux, whichever image is
        convolved, and on the scale that was asked for.
        """
        science, template, x, y, _ = gaussian_pair(
            sigmas=(1.9, 1.5), noise=3.0)
        yy, xx = np.mgrid[:120, :130]
        science += 3e5 / (2 * np.pi * 1.9**2) * np.exp(
            -0.5 * ((xx - 25)**2 + (yy - 26)**2) / 1.9**2)
        errors = {'error': np.full(science.shape, 3.0),
                  'template_error': np.full(science.shape, 3.0)}
        result = ImageSubtractor(
            kernel_order=0, convolve=convolve, normalize=normalize)(
                science, template, positions=np.column_stack([x, y]),
                **errors)
        expected = 3e5 if normalize == 'science' else 3e5 / 1.7
        for image in (result, result.decorrelated):
            flux = image.difference[15:38, 14:37].sum()
            # The noise is 0.3 % of this flux, and the kernel is fitted to
            # twenty stars.
            assert_allclose(flux, expected, rtol=0.01)
        assert result.meta['convolve'] == convolve

    def test_variables_are_clipped(self, pair, result):
        """
        The bright stars that vary most are not in the fit.
        """
        stars = pair.stars
        strong = np.abs(stars['change']) > 2e4 * u.adu
        assert strong.any()
        used = result.stamps[result.stamps['status'] == 'USED']
        places = np.column_stack([used['x'], used['y']])
        for row in stars[strong]:
            assert cKDTree(places).query([row['x'], row['y']])[0] > 3.0


class TestSteps:
    def test_call_is_the_steps(self, pair, result):
        """
        The whole call is exactly the four public steps.
        """
        subtract = ImageSubtractor()
        stamps = subtract.find_stamps(pair.science, pair.template)
        direction = subtract.choose_direction(stamps)
        fit = subtract.fit(stamps, direction)
        again = subtract.subtract(fit, psf=pair.science_psf.image)
        assert_array_equal(again.difference, result.difference)
        assert_array_equal(again.error, result.error)
        assert_array_equal(again.flags, result.flags)
        assert_array_equal(again.decorrelated.difference,
                           result.decorrelated.difference)

    def test_direction(self, pair):
        """
        The sharper image is convolved; similar ones are both tried.
        """
        stamps = QUICK.find_stamps(pair.science, pair.template)
        assert QUICK.choose_direction(stamps) == Direction('template',
                                                           'widths')
        swapped = QUICK.find_stamps(pair.template, pair.science)
        assert QUICK.choose_direction(swapped).convolve == 'science'
        stamps.sigma_template = stamps.sigma_science
        tried = QUICK.choose_direction(stamps)
        assert tried.reason == 'trial'
        assert tried.merits['template'] < tried.merits['science']
        assert tried.convolve == 'template'

    def test_given_direction(self, pair):
        subtract = ImageSubtractor(convolve='science')
        stamps = subtract.find_stamps(pair.science, pair.template)
        assert subtract.choose_direction(stamps) == Direction('science')

    def test_status_of_all_stars(self, result):
        """
        Each star has a status, and only those in the fit a chi squared.
        """
        table = result.stamps
        fitted = np.isin(table['status'], ['USED', 'CLIPPED'])
        assert_array_equal(np.isfinite(table['chi2']), fitted)
        assert set(table['status']) <= {'USED', 'CLIPPED', 'BAD_PIXELS',
                                        'TOO_CLOSE', 'RESERVE'}
        used = table[table['status'] == 'USED']
        assert 0.9 < np.median(used['chi2']) < 1.1
        # at the threshold of 15, fluxes have errors of up to 10 per cent
        limit = 0.05 + 4.0 / used['snr']
        assert np.all(np.abs(used['scale'] - 1.0) < limit)

    def test_cutouts(self, result):
        """
        The cutouts of a star fit together.
        """
        used = result.stamps[result.stamps['status'] == 'USED']
        number = int(used['id'][3])
        cutouts = result.stamp(number)
        assert_allclose(cutouts.science - cutouts.model, cutouts.residual)
        assert_allclose(cutouts.science - cutouts.local_model,
                        cutouts.local_residual)
        chi2 = [np.nanmean((residual / cutouts.error)**2) for residual in
                (cutouts.residual, cutouts.local_residual)]
        assert_allclose(chi2[0], used['chi2'][3], rtol=0.1)
        assert chi2[1] < chi2[0]
        assert len(cutouts.functions) == result.fit.basis.n_functions
        with pytest.raises(ValueError, match='no star with the id'):
            result.stamp(10**6)

    def test_finder_and_positions(self, pair):
        """
        A photutils finder, its table, and an array are the same stars.
        """
        finder = DAOStarFinder(100.0, 3.0)
        found = ImageSubtractor(finder=finder).find_stamps(pair.science,
                                                           pair.template)
        filled = np.where(pair.template.mask, found.template.level,
                          pair.template.data) - found.template.level
        table = finder(filled)
        xy = np.column_stack([table['x_centroid'], table['y_centroid']])
        given = [QUICK.find_stamps(pair.science, pair.template,
                                   positions=positions)
                 for positions in (table, xy)]
        assert_array_equal(given[0].table['x'], given[1].table['x'])
        common = np.isin(found.table['x'], given[0].table['x'])
        assert common.mean() > 0.9


class TestInputs:
    def test_kinds_agree(self, pair, result):
        """
        Arrays of any layout and CCDData give the same difference.
        """
        (science, template), options = arrays(pair)
        psf = pair.science_psf.image
        plain = ImageSubtractor()(science, template, psf=psf, **options)
        assert_array_equal(plain.difference, result.difference.value)
        other = ImageSubtractor()(
            np.asfortranarray(science), template.astype('>f4'), psf=psf,
            **{name: np.asfortranarray(value)
               for name, value in options.items()})
        assert_array_equal(other.difference, plain.difference)

    def test_units(self, pair, result):
        """
        Results have the unit of the science image; that of the template
        is converted.
        """
        (science, template), options = arrays(pair)
        options = {**options, 'error': options['error'] << u.Jy,
                   'template_error': options['template_error'] * 1e3 << u.mJy}
        with_unit = ImageSubtractor()(
            science << u.Jy, (template * 1e3).astype(float) << u.mJy,
            psf=pair.science_psf.image, **options)
        assert with_unit.difference.unit == u.Jy
        assert with_unit.covariance(9, 9).unit == u.Jy**2
        assert_allclose(with_unit.kernel_sum(9, 9), result.kernel_sum(9, 9),
                        rtol=1e-3)
        good = ~(with_unit.mask | result.mask)
        assert_allclose(with_unit.difference.value[good],
                        result.difference.value[good], rtol=1e-3, atol=0.05)

    def test_nan_is_a_mask(self, pair, result):
        """
        NaN and infinity are masked pixels, and no others become NaN.
        """
        (science, template), options = arrays(pair)
        options['mask'], options['template_mask'] = None, None
        science = np.where(pair.science.mask, np.nan, science)
        template = np.where(pair.template.mask, np.inf, template)
        again = ImageSubtractor()(science, template,
                                  psf=pair.science_psf.image, **options)
        assert_array_equal(again.difference, result.difference.value)
        assert_array_equal(np.isnan(again.difference), again.mask)
        assert_array_equal(np.isnan(again.decorrelated.error),
                           again.decorrelated.mask)
        assert_array_equal(again.flags & DIFFERENCE_FLAGS['bad_science'] > 0,
                           pair.science.mask)

    def test_integers(self, pair):
        (science, template), options = arrays(pair)
        whole = [np.round(image).astype('>i4') for image in (science,
                                                            template)]
        from_int, from_float = (
            QUICK(*images, **options)
            for images in (whole, [image.astype(float) for image in whole]))
        assert_array_equal(from_int.difference, from_float.difference)

    def test_errors_not_given(self, pair):
        """
        Without errors the scatter of the sky is taken, with a warning.
        """
        (science, template), options = arrays(pair)
        with pytest.warns(AstropyUserWarning, match='error and template_err'):
            result = QUICK(science, template, mask=options['mask'],
                           template_mask=options['template_mask'])
        sky = sky_pixels(pair, result.mask)
        assert 0.85 < mad_std(result.significance[sky]) < 1.1
        assert 'scatter' in result.meta['error']

    def test_huge_values(self, pair):
        """
        A value that no image can have does not spread over the others.
        """
        (science, template), options = arrays(pair)
        clean = QUICK(science, template, **options)
        science = science.astype(float)
        science[100, 100] = 1e12
        with pytest.warns(AstropyUserWarning, match='1 pixels deviate'):
            result = QUICK(science, template, **options)
        assert result.mask[100, 100]
        far = ~(clean.mask | result.mask)
        assert_allclose(result.difference[far], clean.difference[far],
                        rtol=1e-3, atol=0.05)

    @pytest.mark.parametrize(('change', 'match'), [
        ({'template': np.ones((5, 5)), 'template_error': None,
          'template_mask': None}, 'same shape'),
        ({'template': np.ones((300, 320)) << u.adu,
          'template_error': None}, 'both have a unit'),
        ({'template': np.ones((300, 320)) << u.adu}, 'same unit'),
        ({'mask': np.ones((3, 3))}, 'mask must have the shape'),
        ({'error': np.ones((3, 3))}, 'error must have the shape'),
        ({'mask': np.ones((300, 320), bool)}, 'no usable pixel'),
        ({'error': np.zeros((300, 320))}, 'positive error'),
        ({'science': np.ones(7)}, 'must be 2D'),
        ({'template': np.full((300, 320), 3.0)},
         'template image is constant: all usable pixels are 3'),
        ({'positions': [[1.0, 2.0, 3.0]]}, 'positions must be'),
        ({'positions': QTable({'a': [1]})}, 'positions must have'),
        ({'science': 'none.fits'}, r'none\.fits: no such file'),
    ])
    def test_wrong_input(self, pair, change, match):
        (science, template), options = arrays(pair)
        options = {'science': science, 'template': template, **options,
                   **change}
        with pytest.raises(ValueError, match=match):
            QUICK(**options)

    def test_no_stars(self):
        """
        Where no kernel can be found, the message says what to do.
        """
        rng = np.random.default_rng(1)
        images = rng.normal(100.0, 5.0, (2, 80, 80))
        ones = np.full((80, 80), 5.0)
        with pytest.raises(ValueError, match='lower the threshold'):
            QUICK(*images, error=ones, template_error=ones)
        with pytest.raises(ValueError, match='1 LOW_SNR'):
            QUICK(*images, error=ones, template_error=ones,
                  positions=[[40, 40]])

    @pytest.mark.filterwarnings('ignore:1 of 1 positions are off')
    @pytest.mark.parametrize('positions', [np.empty((0, 2)), [[-9.0, 4.0]]])
    def test_positions_without_a_star(self, pair, positions):
        """
        The error is about the positions, which are no matter of a threshold.
        """
        images, options = arrays(pair)
        with pytest.raises(ValueError, match='positions has no star on the'):
            QUICK(*images, **options, positions=positions)

    def test_finder_finds_nothing(self, pair):
        """
        A finder of photutils then warns and returns `None`.
        """
        finder = DAOStarFinder(1e9, 3.0)
        with (pytest.warns(NoDetectionsWarning),
              pytest.raises(ValueError, match='no star is above')):
            ImageSubtractor(finder=finder).find_stamps(pair.science,
                                                       pair.template)

    def test_positions_off_the_image(self, pair):
        stars = pair.stars[np.argsort(-pair.stars['flux'])][20:60]
        xy = np.column_stack([stars['x'], stars['y']])
        inside = np.all((xy > 1.0) & (xy < [318.0, 298.0]), axis=1)
        xy = xy[inside]
        alone = QUICK.find_stamps(pair.science, pair.template, positions=xy)
        far = np.concatenate([[[-1e4, 3.0]], xy, [[3.0, 400.0],
                                                  [np.nan, 4.0]]])
        with pytest.warns(AstropyUserWarning, match='2 of .* are off the'):
            found = QUICK.find_stamps(pair.science, pair.template,
                                      positions=far)
        assert found.table['x'].tolist() == alone.table['x'].tolist()

    def test_positions_on_the_sky(self, pair):
        """
        Positions on the sky are those of the pixels, with the WCS of the
        science image; without one, the message says what to give.
        """
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
        wcs.wcs.crpix = [160.0, 150.0]
        wcs.wcs.cdelt = [-1e-4, 1e-4]
        science = CCDData(pair.science, wcs=wcs)
        stars = pair.stars[pair.stars['flux'] > 2e4 * u.adu]
        xy = np.clip(np.column_stack([stars['x'], stars['y']]), 0, 299)
        sky = wcs.pixel_to_world(*xy.T)
        pixels, on_sky = (
            QUICK.find_stamps(science, pair.template, positions=positions)
            for positions in (xy, sky))
        assert_array_equal(on_sky.table['x'], pixels.table['x'])
        assert_array_equal(on_sky.table['y'], pixels.table['y'])
        with pytest.raises(ValueError, match='need the WCS of science'):
            QUICK.find_stamps(pair.science, pair.template, positions=sky)

    def test_images_do_not_match(self, pair, result):
        """
        A kernel with a negative sum is no kernel.
        """
        kernel = SpatialKernel(-result.kernel.terms, result.kernel.shape)
        with pytest.raises(ValueError, match=r'has the sum -.*do not match'):
            QUICK.subtract(replace(result.fit, kernel=kernel))

    @pytest.mark.parametrize('n_stars', [1, 2, 3])
    def test_few_stars(self, n_stars):
        """
        One star is enough for a constant kernel.
        """
        science, template, _x, _y, _ = gaussian_pair((70, 80), noise=2.0,
                                                   n_stars=n_stars)
        twos = np.full(science.shape, 2.0)
        result = ImageSubtractor()(science, template, error=twos,
                                   template_error=twos)
        assert_allclose(result.kernel_sum(40, 35)[0], 1.7, rtol=0.02)
        assert 0.9 < mad_std(result.significance[~result.mask]) < 1.1

    def test_small_image(self, pair):
        """
        Stars of which only a part is on the image can be used.
        """
        cut = np.s_[150:190, 100:140]
        result = ImageSubtractor()(pair.science[cut], pair.template[cut])
        assert result.difference.shape == (40, 40)
        assert 0.8 < mad_std(result.significance[~result.mask]) < 1.3


class TestBadPixels:
    def test_saturated_star(self):
        """
        Around the core of a star that is saturated in the template no
        residual stands out: what cannot be known is masked.
        """
        science, template, *_ = gaussian_pair(noise=3.0)
        errors = {'error': np.full(science.shape, 3.0),
                  'template_error': np.full(science.shape, 3.0)}
        # the three brightest
        full = template > 0.6 * template.max()
        template[full] = 0.6 * template.max()
        result = ImageSubtractor(kernel_order=0)(
            science, template, template_mask=full, **errors)
        inner = ~result.mask
        inner[:10] = inner[-10:] = inner[:, :10] = inner[:, -10:] = False
        assert np.abs(result.significance[inner]).max() < 6.0
        assert result.mask[full].all()
        flagged = result.flags & DIFFERENCE_FLAGS['near_bad_pixels'] > 0
        assert flagged.any()
        assert result.mask.mean() < 0.5

    @pytest.mark.parametrize('x', [65.0, 133.0])
    def test_light_that_is_not_seen(self, x):
        """
        Neither the light in the core of a saturated star nor that beyond
        the edge of the image leaves what could be taken for a source.
        """
        science, template, *_ = gaussian_pair(noise=3.0)
        errors = {'error': np.full(science.shape, 3.0),
                  'template_error': np.full(science.shape, 3.0)}
        yy, xx = np.mgrid[:120, :130]
        squares = (yy - 60)**2 + (xx - x)**2
        for image, sigma, flux in ((science, 2.2, 1.7e7),
                                   (template, 1.4, 1e7)):
            image += flux / (2 * np.pi * sigma**2) * np.exp(
                -0.5 * squares / sigma**2)
        full = template > 2e4
        template[full] = 2e4
        result = ImageSubtractor(kernel_order=0)(
            science, template, template_mask=full,
            mask=science > 1e5, **errors)
        white = result.decorrelated
        near = ~white.mask & (squares < 30**2)
        filtered = gaussian_filter(np.where(near, white.significance, 0.0),
                                   2.2)
        # white noise has the standard deviation 1 / (2 sigma sqrt(pi))
        assert np.abs(filtered[near]).max() < 5.0 / (4.4 * np.pi**0.5)

    def test_hole_in_a_star(self):
        """
        The core of a star that is missing altogether, as in strong
        saturation, is not taken for sky.
        """
        science, template, x, y, _ = gaussian_pair(
            sigmas=(2.9, 2.2), noise=3.0)
        errors = {'error': np.full(science.shape, 3.0),
                  'template_error': np.full(science.shape, 3.0)}
        j, i = round(x[7]), round(y[7])
        template[i - 3:i + 4, j - 3:j + 4] = np.nan
        result = ImageSubtractor(kernel_order=0)(science, template, **errors)
        near = np.s_[i - 12:i + 13, j - 12:j + 13]
        good = ~result.mask[near]
        assert np.all(np.abs(result.significance[near][good]) < 6.0)
        assert result.mask[i - 3:i + 4, j - 3:j + 4].all()
        assert result.mask.mean() < 0.3

    def test_bad_pixels_of_a_stamp(self):
        """
        A bad pixel in the stamp of a star has no weight.
        """
        science, template, x, y, _ = gaussian_pair(noise=3.0)
        mask = np.zeros(science.shape, bool)
        j, i = round(x[7]), round(y[7])
        mask[i + 6, j + 5] = True
        threes = np.full(science.shape, 3.0)
        fits = [QUICK.fit(QUICK.find_stamps(
            science, template, error=threes, template_error=threes,
            mask=bad), 'template').table for bad in (None, mask)]
        lost = fits[0]['n_pixels'] - fits[1]['n_pixels']
        assert lost[(abs(fits[0]['x'] - x[7]) < 2)
                    & (abs(fits[0]['y'] - y[7]) < 2)].tolist() == [1]

    @pytest.mark.parametrize(('name', 'status'), [
        ('mask', 'USED'), ('template_mask', 'BAD_PIXELS')])
    def test_bad_pixel_near_a_peak(self, name, status):
        """
        Only in the image that is convolved it spoils the whole stamp.
        """
        science, template, x, y, _ = gaussian_pair(noise=3.0)
        mask = np.zeros(science.shape, bool)
        j, i = round(x[7]), round(y[7])
        mask[i + 3, j] = True
        threes = np.full(science.shape, 3.0)
        table = QUICK.find_stamps(
            science, template, error=threes, template_error=threes,
            **{name: mask}).table
        near = np.hypot(table['x'] - x[7], table['y'] - y[7]) < 2
        assert table['status'][near].tolist() == [status]

    def test_single_bad_pixel_of_the_template(self):
        """
        A bad pixel on the sky is filled, and the difference is kept.
        """
        science, template, *_ = gaussian_pair(noise=3.0, n_stars=10)
        errors = {'error': np.full(science.shape, 3.0),
                  'template_error': np.full(science.shape, 3.0)}
        template[100, 60] = 1e5
        bad = np.zeros(template.shape, bool)
        bad[100, 60] = True
        result = ImageSubtractor(8, kernel_order=0)(
            science, template, template_mask=bad, **errors)
        assert not result.mask[95:106, 55:66].any()
        assert np.abs(result.significance[95:106, 55:66]).max() < 5.0


class TestOptions:
    def test_tiles_and_threads(self, pair, result):
        """
        Neither tiles nor threads change the result beyond rounding.
        """
        tiled = ImageSubtractor(tile_size=90, n_workers=2)(
            pair.science, pair.template, psf=pair.science_psf.image)
        good = ~(tiled.mask | result.mask)
        assert np.mean(tiled.mask != result.mask) < 0.01
        change = tiled.difference[good] - result.difference[good]
        assert np.abs(change / result.error[good]).max() < 0.02

    @pytest.mark.parametrize('basis', [
        DeltaBasis(5), FixedBasis(GaussianPolynomialBasis(
            [0.7, 1.4, 2.8], [4, 2, 2], 9).images)],
        ids=['delta', 'fixed'])
    def test_other_bases(self, pair, basis):
        result = ImageSubtractor(basis=basis, kernel_order=[0, 1])(
            pair.science, pair.template)
        sky = sky_pixels(pair, result.mask)
        assert abs(mad_std(result.significance[sky]) - 1.0) < 0.05
        assert abs(result.kernel_sum(160, 150)[0] / pair.scale - 1) < 0.02

    def test_correlated_noise(self):
        """
        Noise that resampling has correlated is measured, so that the
        decorrelated difference is white with the right error.
        """
        science, template, *_ = gaussian_pair((300, 310), noise=0.0,
                                              n_stars=40)
        rng = np.random.default_rng(2)
        science += rng.normal(0.0, 4.0, science.shape)
        noise = gaussian_filter(rng.normal(size=template.shape), 0.7)
        template += 4.0 * noise / noise.std()
        errors = {'error': np.full(science.shape, 4.0),
                  'template_error': np.full(science.shape, 4.0)}
        pulls = {}
        for measured in (True, False):
            result = ImageSubtractor(
                kernel_order=0, correlated_noise=measured)(
                    science, template, **errors)
            image = result.decorrelated
            inner = np.zeros(image.mask.shape, bool)
            inner[150:-12, 12:-12] = ~image.mask[150:-12, 12:-12]
            pulls[measured] = (
                mad_std(image.significance[inner]),
                correlation(image.significance, inner, 0))
        assert_allclose(pulls[True], (1.0, 0.0), atol=0.04)
        assert abs(pulls[False][1]) > 2 * abs(pulls[True][1])
        assert abs(pulls[False][0] - 1.0) > 0.05

    def test_noise_is_not_taken_for_correlated(self, pair):
        stamps = QUICK.find_stamps(pair.science, pair.template)
        assert stamps.science.noise_kernel is None
        assert stamps.template.noise_kernel is None

    def test_regions(self, tmp_path):
        """
        A PSF that jumps is followed by regions.
        """
        left, template, *_ = gaussian_pair((150, 300), noise=2.0,
                                           n_stars=70)
        right, *_ = gaussian_pair((150, 300), sigmas=(2.9, 1.4), noise=2.0,
                                  n_stars=70)
        science = np.concatenate([left[:, :150], right[:, 150:]], axis=1)
        twos = np.full(science.shape, 2.0)
        pulls = {}
        for n_regions in ((1, 1), (1, 2)):
            result = ImageSubtractor(kernel_order=0, n_regions=n_regions)(
                science, template, error=twos, template_error=twos)
            good = ~result.mask
            # the stars under the border are neither of one nor the other
            good[:, 125:175] = False
            pulls[n_regions] = np.std(result.significance[good])
        assert pulls[1, 2] < 1.15
        assert pulls[1, 1] > 2.0
        assert result.kernel.n_regions == (1, 2)
        result.write(tmp_path / 'result.fits')
        again = SubtractionResult.read(tmp_path / 'result.fits')
        assert_allclose(again.kernel(250, 70), result.kernel(250, 70))
        number = int(result.stamps['id'][result.stamps['status']
                                         == 'USED'][-1])
        cutouts = result.stamp(number)
        assert np.nanstd(cutouts.residual / cutouts.error) < 1.2

    def test_regions_leave_no_seam(self):
        """
        Where the PSF does not change, borders of regions are not seen.
        """
        science, template, *_ = gaussian_pair((150, 300), noise=2.0,
                                              n_stars=70)
        twos = np.full(science.shape, 2.0)
        result = ImageSubtractor(kernel_order=0, n_regions=(1, 2))(
            science, template, error=twos, template_error=twos)
        border = np.s_[12:-12, 130:170]
        assert not result.mask[border].any()
        assert abs(np.std(result.significance[border]) - 1.0) < 0.05

    def test_region_without_stars(self, pair):
        (science, template), options = arrays(pair)
        with pytest.raises(ValueError, match=r'region .* has no star'):
            ImageSubtractor(n_regions=(2, 1))(
                science, template, positions=[[100, 30], [200, 40]],
                **options)

    @pytest.mark.parametrize(('options', 'match'), [
        ({'n_regions': (2, 0)}, 'n_regions'),
        ({'kernel_radius': 0}, 'kernel_radius'),
        ({'kernel_radius': 5, 'basis': DeltaBasis(3)}, 'cannot be given'),
        ({'kernel_order': -1}, 'kernel_order'),
        ({'background_order': 1.5}, 'background_order'),
        ({'convolve': 'both'}, 'convolve'),
        ({'normalize': 'none'}, 'normalize'),
        ({'n_stamps': 3}, 'n_stamps'),
        ({'threshold': 0}, 'threshold'),
        ({'n_workers': 0}, 'n_workers'),
    ])
    def test_wrong_options(self, options, match):
        with pytest.raises(ValueError, match=match):
            ImageSubtractor(**options)

    def test_wrong_kinds(self):
        with pytest.raises(TypeError, match='basis'):
            ImageSubtractor(basis='delta')
        with pytest.raises(TypeError, match='finder'):
            ImageSubtractor(finder=DAOStarFinder)

    def test_repr_is_the_call(self):
        text = repr(ImageSubtractor(9, kernel_order=1))
        assert text.startswith('ImageSubtractor(kernel_radius=9, ')
        assert repr(eval(text)) == text


def test_input_is_not_changed(pair):
    (science, template), options = arrays(pair)
    copies = science.copy(), template.copy(), options['mask'].copy()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        QUICK(science, template, **options)
    assert_array_equal(science, copies[0])
    assert_array_equal(template, copies[1])
    assert_array_equal(options['mask'], copies[2])


def test_masks_of_ccddata_and_argument_are_merged(pair):
    extra = np.zeros(pair.science.shape, bool)
    extra[50, 60] = True
    result = QUICK(CCDData(pair.science), pair.template, mask=extra)
    assert result.mask[50, 60]
    assert result.mask[pair.science.mask].all()


def test_pair_of_other_seed():
    """
    The defaults are not made for one pair only.
    """
    pair = make_image_pair((256, 256), fwhm=(3.0, 4.2), seed=11)
    result = ImageSubtractor()(pair.science, pair.template)
    assert result.meta['convolve'] == 'science'
    sky = sky_pixels(pair, result.decorrelated.mask)
    pull = result.decorrelated.significance[sky]
    assert abs(mad_std(pull) - 1.0) < 0.03


def test_kernel_of_another_fit(pair, result, tmp_path):
    """
    A kernel from a file can take the place of the fitted one.
    """
    result.kernel.write(tmp_path / 'kernel.fits')
    subtract = ImageSubtractor(kernel_order=0)
    fit = subtract.fit(subtract.find_stamps(pair.science, pair.template),
                       'template')
    fit = replace(fit, kernel=SpatialKernel.read(tmp_path / 'kernel.fits'))
    again = subtract.subtract(fit, psf=pair.science_psf.image)
    assert_allclose(again.difference.value, result.difference.value,
                    atol=1e-3)


def test_pickle():
    """
    Subtractors go to other processes.
    """
    subtract = ImageSubtractor(7, basis=None, kernel_order=[0, 1])
    assert repr(pickle.loads(pickle.dumps(subtract))) == repr(subtract)
