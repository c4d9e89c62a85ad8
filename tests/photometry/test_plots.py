# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the plot methods: what they hand to the visualization.
"""

import astropy.units as u
import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from photutils.utils.exceptions import NoDetectionsWarning

from hyperphotutils.background import (
    LocalPolynomialBackground,
    PolynomialBackground2D,
)
from hyperphotutils.blend import BlendGroupFitter
from hyperphotutils.datasets import make_blended_map
from hyperphotutils.detection import HighPassStarFinder
from hyperphotutils.photometry import CompletenessCurve, HyperPhotometry


@pytest.fixture(scope='module')
def image():
    return make_blended_map((90, 100), 8, beam=4.0, seed=1).image


@pytest.fixture(scope='module')
def phot(image):
    phot = HyperPhotometry(fwhm=4.0)
    phot(image)
    return phot


@pytest.fixture
def ax():
    return Figure().add_subplot()


def shown_images(figure):
    return {axes.get_title(loc='left'): axes.images[0].get_array()
            for axes in figure.axes if axes.images}


def test_overview_has_the_images_and_the_sky(phot):
    figure = phot.plot()
    assert list(shown_images(figure)) == ['Map', 'Background', 'Model',
                                          'Residual']
    ax = figure.axes[0]
    assert ax.wcs is not None
    assert f'{len(phot.results)} sources' in ax.get_title(loc='right')


def test_masked_pixels_are_missing_in_the_overview(image):
    mask = np.zeros(image.shape, dtype=bool)
    mask[:, :20] = True
    phot = HyperPhotometry(fwhm=4.0)
    phot(image, mask=mask)
    assert phot.plot().axes[0].get_xlim()[0] > 15.0


def test_map_without_sources_is_plotted():
    phot = HyperPhotometry(fwhm=4.0)
    noise = np.random.default_rng(1).normal(size=(60, 60))
    with pytest.warns(NoDetectionsWarning, match='No sources'):
        phot(noise)
    assert 'Map' in shown_images(phot.plot())
    with pytest.raises(ValueError, match='no results: call the'):
        phot.plot_group(1)


def test_group_is_cut_out_with_its_positions(phot, image):
    table = phot.results
    group = table['group_id'][np.argmax(table['group_size'])]
    rows = table[table['group_id'] == group]
    figure = phot.plot_group(group)
    assert figure.texts[0].get_text().startswith(f'Group {group}: {len(rows)}')
    shown = shown_images(figure)['Map']
    margin = 2.0 * rows['fwhm_major_fit'].max()
    left, bottom = (max(int(rows[name].min() - margin), 0)
                    for name in ('x_fit', 'y_fit'))
    ny, nx = shown.shape
    cutout = image.data[bottom:bottom + ny, left:left + nx]
    assert_allclose(shown / shown.max(), cutout / cutout.max())
    # two collections of ellipses, the dark rim and the light line
    ellipses = figure.axes[0].collections[0]
    assert_allclose(ellipses.get_offsets()[:, 0], rows['x_fit'] - left)
    assert_allclose(ellipses.get_offsets()[:, 1], rows['y_fit'] - bottom)


def test_fitter_plots_what_it_fitted(image):
    finder = HighPassStarFinder(fwhm=4.0, n_sigma=5.0)
    fitter = BlendGroupFitter(fwhm=4.0)
    with pytest.raises(ValueError, match='no fit has been made yet'):
        fitter.plot_group(1)
    fitter(image, finder(image))
    shown = shown_images(fitter.plot_group(1))
    known = np.isfinite(shown['Background'].filled(np.nan))
    assert known.any()
    assert_allclose((shown['Map'] - shown['Model'] - shown['Background']
                     - shown['Residual'])[known], 0.0, atol=1e-9)
    with pytest.raises(ValueError, match='group_id=99 has no fitted source'):
        fitter.plot_group(99)


def test_finder_plots_the_signal_to_noise_ratio(image, ax):
    finder = HighPassStarFinder(fwhm=4.0, n_sigma=5.0)
    table = finder(image)
    assert finder.plot(image, ax=ax) is ax
    shown = ax.images[0].get_array()
    row = table[np.argmax(table['snr'])]
    assert shown.max() == pytest.approx(row['snr'])
    assert f'{len(table)} sources' in ax.get_title(loc='right')


def test_backgrounds_have_readable_units(ax):
    y, x = np.mgrid[:40, :50]
    data = (2.0 + 0.1 * x - 0.1 * y) * 1e-6 << u.Jy
    coverage = np.zeros(data.shape, dtype=bool)
    coverage[:, 45:] = True
    background = PolynomialBackground2D(data, coverage_mask=coverage)
    assert background.plot(ax=ax) is ax
    assert 'Jy' in ax.child_axes[0].get_ylabel()
    assert ax.images[0].get_array().max() == pytest.approx(6.4)
    assert ax.images[0].get_array().mask[:, 45:].all()


def test_local_backgrounds_show_the_positions(ax):
    y, x = np.mgrid[:60, :60]
    fits = LocalPolynomialBackground(box_sizes=15).fit(1.0 * x + y, [30.0],
                                                       [20.0])
    fits.plot(ax=ax)
    assert_allclose(ax.lines[0].get_xydata(), [[30.0, 20.0]])
    assert ax.images[0].get_array().count() == 15**2


def test_completeness_passes_its_levels(ax):
    curve = CompletenessCurve(-1.0, 0.2, 0.95, np.diag([1e-3, 0.1, 1e-3]),
                              u.Jy)
    curve.plot(ax=ax)
    assert ax.get_xlabel() == 'Flux [Jy]'
    flux, error = curve.flux_50
    bar = ax.containers[0]
    assert_allclose(bar.lines[0].get_xydata(), [[flux.value, 0.5]])
    low, high = bar.lines[2][0].get_segments()[0][:, 0]
    assert high - low == pytest.approx(2.0 * error.value)


def test_completeness_of_a_step_without_90_percent(ax):
    curve = CompletenessCurve(0.0, 0.0, 0.8, np.zeros((3, 3)))
    curve.plot(ax=ax)
    assert len(ax.containers) == 1
