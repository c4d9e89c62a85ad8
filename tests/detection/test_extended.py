# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the detection of extended sources.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal
from photutils.utils.exceptions import NoDetectionsWarning

from hyperphotutils.datasets import make_galaxy_field, make_star_field
from hyperphotutils.detection import (
    ExtendedSourceFinder,
    detect_segments,
    measure_star_index,
)
from hyperphotutils.utils import decode_flags


@pytest.fixture(scope='module')
def field():
    return make_galaxy_field((300, 300), 12, n_stars=6, sky=5.0, seed=3)


@pytest.fixture(scope='module')
def sources(field):
    return ExtendedSourceFinder(3.0, deblend=False, zero_point=25.0)(
        field.data)


def match(catalog, truth):
    """
    The row of the catalog nearest to each true source, and its distance.
    """
    distance = np.hypot(
        np.asarray(catalog['x_centroid'])[:, None] - truth['x'],
        np.asarray(catalog['y_centroid'])[:, None] - truth['y'])
    return distance.argmin(axis=0), distance.min(axis=0)


def test_all_sources_are_found(field, sources):
    """
    Each true source has a row, and no row is a peak of the noise.
    """
    rows, distance = match(sources.catalog, field.truth)
    assert distance.max() < 2.0
    assert len(np.unique(rows)) == len(field.truth) == len(sources.catalog)


def test_fluxes(field, sources):
    """
    Kron fluxes are near the true ones, in units of their errors and of the
    light outside of the Kron radius.
    """
    rows, _ = match(sources.catalog, field.truth)
    ratio = sources.catalog['kron_flux'][rows] / field.truth['flux']
    assert 0.8 < np.median(ratio) < 1.05
    assert_allclose(sources.catalog['mag'],
                    25.0 - 2.5 * np.log10(sources.catalog['kron_flux']))


def test_background_and_segments(field, sources):
    """
    The background is that of the field, and segments are labeled by id.
    """
    assert_allclose(np.median(sources.background), 5.0, atol=0.1)
    assert_allclose(np.median(sources.background_rms), 1.0, atol=0.1)
    assert_array_equal(sources.segmentation.labels, sources.catalog['id'])
    assert_allclose(sources.data, field.data - sources.background)


def test_star_index_separates():
    """
    Bright stars have an index near 1, bright galaxies near 0.
    """
    for seed in (1, 2, 3):
        field = make_star_field((400, 400), 30, n_galaxies=20, seed=seed)
        index = measure_star_index(field.data, field.error,
                                   field.truth['x'], field.truth['y'],
                                   fwhm=3.0)
        star = field.truth['kind'] == 'star'
        assert np.mean(index[star] > 0.5) > 0.85
        # a third of the galaxies is smaller than the PSF
        assert np.mean(index[~star] < 0.5) > 0.65


def test_star_index_without_knowledge():
    """
    A source hidden in the noise is as probably a star as a galaxy, and one
    off the image has no index.
    """
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:61, :61]
    sigma = 3.0 / 2.3548
    data = np.exp(-0.5 * ((x - 30)**2 + (y - 30)**2) / sigma**2)
    index = measure_star_index(data + 1e-3 * rng.normal(size=x.shape), 1.0,
                               [30.0, 400.0, np.nan], [30.0, 3.0, 3.0],
                               fwhm=3.0)
    assert 0.3 < index[0] < 0.7
    assert np.isnan(index[1:]).all()


def test_star_index_of_cosmic_ray():
    """
    What is sharper than a star is no galaxy.
    """
    data = np.zeros((41, 41))
    data[20, 20] = 1e4
    assert measure_star_index(data, 1.0, [20.0], [20.0],
                              fwhm=3.0)[0] > 0.99


def test_units(field, sources):
    """
    Quantities give the same numbers with units.
    """
    finder = ExtendedSourceFinder(3.0, deblend=False)
    other = finder(field.data << u.Jy)
    assert other.catalog['kron_flux'].unit == u.Jy
    assert other.background.unit == u.Jy
    for name in ('kron_flux', 'max_value', 'star_index', 'flags'):
        assert_array_equal(
            getattr(other.catalog[name], 'value', other.catalog[name]),
            sources.catalog[name])
    with pytest.raises(ValueError, match='error'):
        finder(field.data << u.Jy, error=1.0)


def test_flags():
    """
    Truncated, split, and saturated sources are flagged.
    """
    pytest.importorskip('skimage')
    y, x = np.mgrid[:80, :80]
    data = np.random.default_rng(2).normal(0.0, 0.1, x.shape)
    for x0, y0 in ((0, 20), (40, 40), (47, 40), (60, 70)):
        data += 10.0 * np.exp(-0.5 * ((x - x0)**2 + (y - y0)**2) / 4.0)
    finder = ExtendedSourceFinder(3.0, bkg_size=0, saturation=9.9)
    catalog = finder(data).catalog
    truth = {'x': np.array([1, 40, 47, 60]), 'y': np.array([20, 40, 40, 70])}
    rows, _ = match(catalog, truth)
    names = [set(names) for names in decode_flags(catalog['flags'][rows])]
    assert [('n_pixels_fit_partial' in n, 'split_pair' in n)
            for n in names] == [
        (True, False), (False, True), (False, True), (False, False)]
    assert sum('saturated' in n for n in names) >= 1


def test_detection_on_another_image(field):
    """
    In dual mode, sources are those of one image, fluxes those of the other.
    """
    finder = ExtendedSourceFinder(3.0, deblend=False)
    single, dual = finder(field.data), finder(
        2.0 * field.data, detection_data=field.data)
    assert_array_equal(dual.segmentation.data, single.segmentation.data)
    assert_allclose(dual.catalog['segment_flux'],
                    2.0 * single.catalog['segment_flux'], rtol=1e-6)
    with pytest.raises(ValueError, match='shape of data'):
        finder(field.data, detection_data=field.data[:-1])


def test_mask_and_wcs(field):
    """
    Masked sources are not detected; positions on the sky need a WCS.
    """
    mask = np.zeros(field.data.shape, dtype=bool)
    mask[:, 150:] = True
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = 'RA---TAN', 'DEC--TAN'
    wcs.wcs.cdelt = -1e-4, 1e-4
    sources = ExtendedSourceFinder(3.0, deblend=False)(
        field.data, mask=mask, wcs=wcs)
    assert sources.catalog['x_centroid'].max() < 150
    assert 'sky_centroid' in sources.catalog.colnames
    assert np.isnan(sources.data[mask]).all()


def test_nothing_found():
    """
    An image of noise gives None and a warning.
    """
    data = np.random.default_rng(1).normal(size=(64, 64))
    with pytest.warns(NoDetectionsWarning, match='threshold=5'):
        assert ExtendedSourceFinder(3.0, threshold=5.0)(data) is None


def test_threshold_of_segments(field):
    """
    threshold is in units of the data, n_sigma in those of the smooth rms.
    """
    data = field.data - 5.0
    low, high = (detect_segments(data, fwhm=3.0, threshold=value)
                 for value in (1.0, 10.0))
    assert high.areas.sum() < low.areas.sum()


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'fwhm': 0}, 'fwhm'), ({'fwhm': 3, 'threshold': -1}, 'threshold'),
    ({'fwhm': 3, 'contrast': 2}, 'contrast'),
    ({'fwhm': 3, 'bkg_size': 2.5}, 'bkg_size'),
])
def test_wrong_arguments(arguments, message):
    """
    Arguments are checked where they are given.
    """
    with pytest.raises(ValueError, match=message):
        ExtendedSourceFinder(**arguments)
