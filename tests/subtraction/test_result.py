# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the result module, and for what is read from files.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal
from scipy.signal import fftconvolve

from hyperphotutils.datasets import make_image_pair
from hyperphotutils.subtraction import (
    DIFFERENCE_FLAG_DESCRIPTIONS,
    DIFFERENCE_FLAGS,
    ImageSubtractor,
    SpatialKernel,
    SubtractionResult,
    ccd_error,
)
from hyperphotutils.subtraction.overview import _in_blocks

QUICK = ImageSubtractor(10, kernel_order=1)


def make_wcs(shift=0.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [160.0 + shift, 150.0]
    wcs.wcs.cdelt = [-1e-4, 1e-4]
    wcs.wcs.set()
    return wcs


class TestRoundTrip:
    @pytest.fixture(name='again')
    def fixture_again(self, result, tmp_path):
        result.write(tmp_path / 'result.fits')
        return SubtractionResult.read(tmp_path / 'result.fits')

    def test_images(self, result, again):
        for ours, theirs in ((again, result), (again.decorrelated,
                                               result.decorrelated)):
            for name in ('difference', 'error'):
                assert_array_equal(getattr(ours, name).value,
                                   getattr(theirs, name).value)
                assert getattr(ours, name).unit == u.adu
            assert_array_equal(ours.mask, theirs.mask)
            assert_allclose(ours.psf(20, 30), theirs.psf(20, 30))
        assert_array_equal(again.flags, result.flags)
        assert_array_equal(again.convolved.value, result.convolved.value)

    def test_derived(self, result, again):
        assert again.stats == result.stats
        assert_allclose(again.kernel_sum(3, 5), result.kernel_sum(3, 5))
        assert_allclose(again.background.value, result.background.value)
        assert_allclose(again.covariance(30, 40).value,
                        result.covariance(30, 40).value)
        assert list(again.stamps['status']) == list(result.stamps['status'])
        assert again.meta['convolve'] == 'template'
        assert 'ImageSubtractor(' in again.meta['call']

    def test_kernel_alone(self, result, tmp_path):
        result.write(tmp_path / 'result.fits')
        kernel = SpatialKernel.read(tmp_path / 'result.fits')
        assert_array_equal(kernel.terms, result.kernel.terms)

    def test_no_cutouts(self, again):
        with pytest.raises(ValueError, match='subtract the images again'):
            again.stamp(1)

    def test_other_file(self, tmp_path):
        fits.writeto(tmp_path / 'other.fits', np.ones((3, 3)))
        with pytest.raises(ValueError, match='is no result'):
            SubtractionResult.read(tmp_path / 'other.fits')
        with pytest.raises(ValueError, match='no extension KERNEL'):
            SpatialKernel.read(tmp_path / 'other.fits')


def test_difference_is_science_minus_convolved(pair, result):
    good = ~result.mask
    assert_allclose((pair.science.data - result.convolved.value)[good],
                    result.difference.value[good], atol=0.02)


def test_convolved_is_kernel_and_background(pair, result):
    """
    The kernel applied to the template again, with the background, is
    the convolved image.
    """
    template = np.where(pair.template.mask, np.nan, pair.template.data)
    level = np.nanmedian(template)
    convolved = result.kernel.convolve(np.nan_to_num(template - level))
    convolved += result.background.value + level * result.kernel.sum(
        159.5, 149.5)
    near = result.kernel.radius
    y, x = np.nonzero(pair.template.mask)
    far = np.ones(result.mask.shape, bool)
    far[:near], far[-near:], far[:, :near], far[:, -near:] = (False,) * 4
    for dy in range(-near, near + 1):
        far[np.clip(y + dy, 0, 299)[:, None],
            np.clip(x[:, None] + np.arange(-near, near + 1), 0, 319)] = False
    assert far.sum() > 2000
    assert_allclose(convolved[far], result.convolved.value[far], rtol=1e-3)


def test_psf(pair, result):
    """
    The PSF that was given comes back, convolved for the other image.
    """
    expected = pair.science_psf.image(100, 200)
    assert_allclose(result.psf(100, 200), expected, atol=0.01 * expected.max())
    white = fftconvolve(result.psf(100, 200),
                        result.decorrelated.kernel(100, 200), mode='same')
    assert_allclose(result.decorrelated.psf(100, 200), white)


@pytest.mark.parametrize('convolve', ['template', 'science'])
def test_measured_psf(convolve):
    """
    Without a PSF, it is measured on the stars of the science image, and
    gives fluxes within one per cent over a field in which it varies.

    If the science image is convolved, the PSF has the shift of the
    kernel: it belongs to positions in the science image.
    """
    fwhm = (4.2, 3.0) if convolve == 'template' else (3.2, 4.4)
    pair = make_image_pair((400, 400), seed=4, fwhm=fwhm, shift=0.3,
                           fwhm_variation=(0.4, 0.2))
    result = ImageSubtractor(decorrelate=False, convolve=convolve)(
        pair.science, pair.template)
    biases = []
    for x, y in ((200, 200), (80, 90), (310, 100), (100, 320), (300, 310)):
        measured = result.psf(x, y)
        radius = measured.shape[0] // 2
        if convolve == 'template':
            true = pair.science_psf.image(x, y, radius)
        else:
            kernel = result.kernel(x, y) / result.kernel.sum(199.5, 199.5)
            true = fftconvolve(
                pair.science_psf.image(x, y, radius + len(kernel) // 2),
                kernel, mode='valid')
        assert_allclose(measured.sum(), 1.0, rtol=1e-3)
        assert np.abs(measured - true).max() < 0.05 * true.max()
        # the flux that PSF photometry measures
        biases.append(np.sum(measured * true) / np.sum(measured**2) - 1.0)
    assert abs(np.mean(biases)) < 0.01
    assert np.max(np.abs(biases)) < 0.02


def test_ccddata(result):
    image = result.to_ccddata()
    assert image.unit == u.adu
    assert_array_equal(image.mask, result.mask)
    assert_array_equal(image.uncertainty.array, result.error.value)


def test_flags_are_described():
    assert set(DIFFERENCE_FLAGS) == set(DIFFERENCE_FLAG_DESCRIPTIONS)
    assert len(set(DIFFERENCE_FLAGS.values())) == len(DIFFERENCE_FLAGS)


def test_masked_is_flagged(result):
    masking = sum(bit for name, bit in DIFFERENCE_FLAGS.items()
                  if name != 'filled')
    assert_array_equal(result.mask, (result.flags & masking) > 0)


def test_plot(result):
    figure = result.plot()
    titles = [ax.get_title() for ax in figure.axes]
    for title in ('science', 'template, convolved', 'stars of the fit'):
        assert title in titles
    assert result.summary().startswith(figure.get_suptitle())
    # the image that is not convolved is drawn above its median
    shown = figure.axes[0].get_images()[0].get_array()
    good = ~result.mask
    image = (result.convolved + result.difference).value[good]
    assert_allclose(shown[good], image - np.median(image), atol=1e-3)


class TestFiles:
    @pytest.fixture(name='paths')
    def fixture_paths(self, pair, tmp_path):
        header = make_wcs().to_header()
        header['BUNIT'] = 'adu'
        for name, data in (('science', pair.science.data),
                           ('template', pair.template.data),
                           ('error', pair.science.uncertainty.array),
                           ('template_error',
                            pair.template.uncertainty.array),
                           ('mask', pair.science.mask.astype('u1')),
                           ('template_mask',
                            pair.template.mask.astype('i4') * 128)):
            if 'mask' in name:
                header.pop('BUNIT', None)
            fits.writeto(tmp_path / f'{name}.fits', data, header)
        return tmp_path

    def test_paths_and_hdus(self, pair, result, paths):
        """
        Files and HDUs bring the same images, with units and WCS.
        """
        options = {name: str(paths / f'{name}.fits') for name in (
            'error', 'template_error', 'mask', 'template_mask')}
        options['psf'] = pair.science_psf.image
        with fits.open(paths / 'template.fits') as hdus:
            again = ImageSubtractor()(paths / 'science.fits', hdus[0],
                                      **options)
        assert again.unit == u.adu
        assert_allclose(again.wcs.wcs.crval, [150.0, 2.0])
        good = ~(again.mask | result.mask)
        assert_allclose(again.difference[good].value,
                        result.difference[good].value, atol=0.01)

    def test_wcs_of_the_result(self, paths, tmp_path):
        result = QUICK(paths / 'science.fits', paths / 'template.fits',
                       error=paths / 'error.fits',
                       template_error=paths / 'template_error.fits')
        result.write(tmp_path / 'out.fits')
        again = SubtractionResult.read(tmp_path / 'out.fits')
        assert_allclose(again.wcs.wcs.crpix, [160.0, 150.0])

    def test_wcs_must_agree(self, pair):
        """
        Images whose WCSs are pixels apart are not subtracted; small
        errors of the alignment are left to the kernel.
        """
        science, template = CCDData(pair.science), CCDData(pair.template)
        science.wcs = make_wcs()
        template.wcs = make_wcs(2.5)
        with pytest.raises(ValueError, match=r'up to 2\.5 pixels: align'):
            QUICK(science, template)
        template.wcs = make_wcs(0.4)
        assert QUICK(science, template).wcs is science.wcs


class TestErrorOfCCD:
    def test_formula(self):
        error = ccd_error([[110.0, 5.0]] << u.adu, gain=4.0, read_noise=8.0,
                          pedestal=10.0)
        assert_allclose(error.value, [[np.sqrt(25.0 + 4.0), 2.0]])
        assert error.unit == u.adu

    def test_pair(self, pair):
        """
        The errors of simulated images are found again.
        """
        error = ccd_error(pair.science, gain=2.0, read_noise=8.0)
        assert_allclose(error.value, pair.science.uncertainty.array,
                        rtol=1e-5)

    @pytest.mark.parametrize(('options', 'match'), [
        ({'gain': 0.0}, 'gain'), ({'gain': 1.0, 'read_noise': -1.0}, 'read'),
    ])
    def test_wrong_arguments(self, options, match):
        with pytest.raises(ValueError, match=match):
            ccd_error(np.ones((3, 3)), **options)


def test_products(result, tmp_path):
    """
    A folder has all products; the file with all images comes last.
    """
    folder = tmp_path / 'pair' / 'one'
    paths = result.write_products(folder)
    assert [path.name for path in paths] == [
        'stamps.ecsv', 'stamps.reg', 'overview.png', 'summary.txt',
        'subtraction.fits']
    assert sorted(folder.iterdir()) == sorted(paths)
    stamps = QTable.read(paths[0])
    assert stamps.colnames == result.stamps.colnames
    lines = paths[1].read_text().splitlines()
    circles = [line for line in lines if line.startswith('circle')]
    assert len(circles) == len(result.stamps)
    first = result.stamps[0]
    assert circles[0].startswith(f'circle({first["x"] + 1}.0')
    assert paths[3].read_text() == result.summary() + '\n'
    again = SubtractionResult.read(paths[4])
    assert again.summary() == result.summary()
    with fits.open(paths[4]) as hdus:
        assert_allclose(hdus['KERNEL_MOSAIC'].data, result.kernel.image())


def test_existing_products(result, tmp_path, monkeypatch):
    """
    Files are not replaced unasked, and a folder in which something went
    wrong is not complete.
    """
    paths = result.write_products(tmp_path)
    with pytest.raises(FileExistsError, match=r'stamps\.ecsv'):
        result.write_products(tmp_path)
    assert len(result.write_products(tmp_path, overwrite=True)) == len(paths)

    def fail():
        msg = 'no picture'
        raise RuntimeError(msg)

    monkeypatch.setattr(result, 'plot', fail)
    with pytest.raises(RuntimeError, match='no picture'):
        result.write_products(tmp_path, overwrite=True)
    assert not (tmp_path / 'subtraction.fits').exists()
    assert not [path for path in tmp_path.iterdir()
                if path.name.startswith('.')]


def test_failed_file_leaves_the_old(result, tmp_path, monkeypatch):
    """
    A file is replaced only when the new one is complete.
    """
    path = tmp_path / 'difference.fits'
    path.write_text('old')
    with pytest.raises(FileExistsError, match=r'difference\.fits'):
        result.write(path)

    def fail(*_, **__):
        msg = 'disk full'
        raise RuntimeError(msg)

    monkeypatch.setattr(fits.HDUList, 'writeto', fail)
    with pytest.raises(RuntimeError, match='disk full'):
        result.write(path, overwrite=True)
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_summary(result):
    """
    The summary says what was convolved, how well it fits, and what is
    masked.
    """
    lines = result.summary().splitlines()
    assert lines[0].startswith(
        'template image convolved (its PSF is narrower); kernel')
    total, error = result.kernel_sum(159.5, 149.5)
    assert f'sum {total:.5g} +- {error:.2g}' in lines[0]
    assert f'{result.stats["n_stamps"]} stars fitted' in lines[1]
    assert f'robust std {result.stats["pull"]:.3f}' in lines[1]
    assert f'{100.0 * result.mask.mean():.2f} %' in lines[3]
    assert lines[4].startswith('decorrelated difference')
    assert len(lines) == 5
    few = result.stats | {'n_stamps': 29}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(result), 'stats', few)
        assert 'fewer than 30 stars' in result.summary()


def test_summary_of_assumed_errors(pair):
    with pytest.warns(AstropyUserWarning, match='error and template_error'):
        result = QUICK(pair.science.data, pair.template.data,
                       mask=pair.science.mask,
                       template_mask=pair.template.mask)
    assert result.summary().splitlines()[-2:] == [
        'error: assumed, the robust scatter of the image',
        'template error: assumed, the robust scatter of the image']


def test_everything_is_masked(tmp_path):
    """
    A result without a usable pixel is an empty one, not an error: it is
    summarized, drawn, written, and read.
    """
    square = np.hypot(*np.mgrid[-18:19, -18:19])**2
    noise = np.random.default_rng(1).normal(size=(2, *square.shape))
    images = [5e3 * np.exp(-0.5 * square / sigma**2) + part
              for sigma, part in zip((2.2, 1.5), noise, strict=True)]
    error = np.sqrt(1.0 + images[0].clip(0.0) / 100.0)
    result = ImageSubtractor(20, kernel_order=0, mask_limit=1e-6)(
        *images, error=error, template_error=error)
    assert result.mask.all()
    assert np.isnan(result.stats['pull'])
    assert 'masked: 100.00 %' in result.summary()
    paths = result.write_products(tmp_path)
    assert all(path.stat().st_size for path in paths)
    assert SubtractionResult.read(paths[-1]).mask.all()


def test_overview_of_a_large_image():
    """
    Blocks of a large image are averaged without the masked pixels.
    """
    image = np.tile([[1.0, 3.0], [np.nan, 5.0]], (1001, 600))
    small, step = _in_blocks(image)
    assert (small.shape, step) == ((667, 400), 3)
    assert_allclose(small[0, 0], np.nanmean(image[:3, :3]))
    assert_allclose(np.nanmean(small), 3.0, rtol=0.01)


@pytest.mark.parametrize('kind', ['same', 'stack'])
def test_images_that_share_their_noise(pair, tmp_path, kind):
    """
    Neither the kernel nor the errors of an image minus itself, or minus a
    stack that it is in, are right: a warning and the summary say so.
    """
    science, template = pair.template, pair.template
    if kind == 'stack':
        # of the image and another one with the same noise
        noise = np.random.default_rng(1).normal(size=science.shape)
        error = science.uncertainty.array
        template = CCDData(
            science.data + 0.5 * noise * error, unit=science.unit,
            mask=science.mask, uncertainty=StdDevUncertainty(
                np.sqrt(1.25) * error))
    with pytest.warns(AstropyUserWarning, match=r'science and template share '
                      r'their noise \(correlation (1\.00|0\.[89].)\)'):
        result = ImageSubtractor(kernel_order=0)(science, template)
    result.write(tmp_path / 'a.fits')
    for one in (result, SubtractionResult.read(tmp_path / 'a.fits')):
        assert 'the noise of the images has a correlation of' in one.summary()
    assert float(result.meta['shared_noise']) > 0.8
