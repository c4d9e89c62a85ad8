# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the align module.
"""

import subprocess
import sys

import numpy as np
import pytest
from astropy.nddata import CCDData
from astropy.stats import mad_std
from astropy.wcs import WCS
from scipy.ndimage import affine_transform

from hyperphotutils.subtraction import ImageSubtractor, align


def make_wcs(angle=0.0, shift=(0.0, 0.0)):
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = np.add([160.0, 150.0], shift)
    wcs.wcs.cd = 1e-4 * np.array([[-cosine, sine], [sine, cosine]])
    wcs.wcs.set()
    return wcs


@pytest.fixture(name='moved', scope='module')
def fixture_moved(pair):
    """
    A template that is shifted and rotated, with its WCS and new noise.
    """
    angle, shift = 1.5, (6.3, -4.8)
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    # new (x, y) - crpix' -> old: rows first
    matrix = np.array([[cosine, sine], [-sine, cosine]])
    old = np.array([149.0, 159.0])
    new = old + shift[::-1]
    rng = np.random.default_rng(1)
    level = np.median(pair.template.data)
    filled = np.where(pair.template.mask, level, pair.template.data)
    data = affine_transform(filled, matrix, old - matrix @ new, order=3,
                            cval=level)
    template = CCDData(data + rng.normal(0.0, 20.0, data.shape), unit='adu',
                       wcs=make_wcs(angle, shift))
    science = CCDData(pair.science)
    science.wcs = make_wcs()
    return science, template, np.full(data.shape, 20.0)


@pytest.mark.parametrize('method', ['wcs', 'stars'])
def test_aligned_images_are_subtracted(pair, moved, method):
    """
    After the alignment stars vanish, and the noise is as stated though
    the resampling has correlated and reduced it.
    """
    pytest.importorskip({'wcs': 'reproject', 'stars': 'astroalign'}[method])
    science, template, error = moved
    aligned = align(science, template, method=method,
                    template_error=error * template.unit)
    assert aligned.data.shape == science.shape
    assert aligned.mask.mean() < 0.1
    # the sky scatters as stated, though less than before
    level = np.median(aligned.data[~aligned.mask])
    pull = (aligned.data - level) / aligned.uncertainty.array
    dark = ~aligned.mask & (pair.light < 2.0)
    assert abs(mad_std(pull[dark]) - 1.0) < 0.05
    assert np.nanmedian(aligned.uncertainty.array) < 19.0
    result = ImageSubtractor()(science, aligned)
    white = result.decorrelated
    sky = ~white.mask & (pair.light < 2.0)
    assert abs(mad_std(white.significance[sky]) - 1.0) < 0.06
    assert abs(result.kernel_sum(160, 150)[0] / pair.scale - 1.0) < 0.02


def test_images_without_wcs(pair):
    with pytest.raises(ValueError, match='science has no WCS'):
        align(pair.science, pair.template)


@pytest.mark.parametrize(('method', 'package'), [
    ('wcs', 'reproject'), ('stars', 'astroalign')])
def test_package_is_missing(moved, monkeypatch, method, package):
    """
    The error says how to install what is missing.
    """
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=(
            rf'needs {package}, which .*hyperphotutils\[align\]')):
        align(*moved[:2], method=method)


def test_bad_pixels_stay_bad(moved):
    """
    Masked pixels of the template mask what is resampled from them.
    """
    pytest.importorskip('reproject')
    science, template, _ = moved
    mask = np.zeros(science.shape, dtype=bool)
    mask[100:110, 200:210] = True
    y, x = np.mgrid[101:109, 201:209]
    x, y = science.wcs.world_to_pixel(template.wcs.pixel_to_world(x, y))
    aligned = align(science, template, template_mask=mask)
    assert aligned.mask[np.round(y).astype(int),
                        np.round(x).astype(int)].all()
    clean = align(science, template)
    assert (aligned.mask & ~clean.mask).sum() < 2 * mask.sum()


def test_wrong_method(pair):
    with pytest.raises(ValueError, match='method must be'):
        align(pair.science, pair.template, method='hand')


def test_no_common_stars():
    pytest.importorskip('astroalign')
    rng = np.random.default_rng(1)
    with pytest.raises(ValueError, match='no common stars'):
        align(*rng.normal(size=(2, 60, 60)), method='stars')


def test_import_is_light():
    """
    Importing the subtraction loads none of the packages that only the
    alignment, files, and pictures need.
    """
    code = 'import sys, hyperphotutils.subtraction; print(*sys.modules)'
    loaded = subprocess.run([sys.executable, '-c', code], check=True,
                            capture_output=True, text=True).stdout.split()
    assert not {'reproject', 'astroalign', 'skimage', 'radio_beam',
                'matplotlib', 'photutils.psf'} & set(loaded)
