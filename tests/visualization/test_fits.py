# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the pictures of single fits.
"""

import io

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable
from astropy.wcs import WCS
from numpy.testing import assert_allclose

from hyperphotutils.utils.flags import FLAGS
from hyperphotutils.visualization import (
    plot_background,
    plot_deblended,
    plot_fit,
)

SHAPE = (30, 36)
Y, X = np.indices(SHAPE)
FIRST, SECOND = (10 * np.exp(-((X - x0)**2 + (Y - 15)**2) / 8)
                 for x0 in (14, 20))
BACKGROUND = 0.1 * X
NOISE = np.random.default_rng(2).normal(0, 0.3, SHAPE)
DATA = FIRST + SECOND + BACKGROUND + NOISE


def flat_images(figure):
    """
    The shown images by the title of their panel.
    """
    return {axes.get_title(loc='left'): axes.images[0].get_array()
            for axes in figure.axes if axes.images}


def surfaces(figure):
    return [axes for axes in figure.axes if axes.name == '3d']


def draw(figure):
    figure.savefig(io.BytesIO())
    return figure


def test_fit_shows_map_background_model_and_residual():
    figure = draw(plot_fit(DATA, model=FIRST + SECOND,
                           background=BACKGROUND, title='group 1'))
    shown = flat_images(figure)
    assert list(shown) == ['Map', 'Background', 'Model', 'Residual']
    assert_allclose(shown['Residual'], NOISE, atol=1e-12)
    assert_allclose(shown['Map'], DATA)
    assert figure.texts[0].get_text() == 'group 1'
    # each has a surface, and nothing is cut off there
    assert len(surfaces(figure)) == 4
    for axes, image in zip(surfaces(figure), shown.values(), strict=True):
        lower, upper = axes.get_zlim()
        assert lower <= image.min() < image.max() <= upper


def test_titles_fit(check_lines):
    """
    Nothing is printed over a title.
    """
    table = QTable({'x_fit': [14.0, 20.0], 'y_fit': [15.0, 15.0],
                    'fwhm_major_fit': [4.7, 4.7],
                    'fwhm_minor_fit': [4.7, 4.7],
                    'theta_fit': [0.0, 0.0] * u.deg,
                    'flags': FLAGS['doubtful'] * np.ones(2, int)})
    text = ' '.join(check_lines(plot_fit(
        DATA[:, 8:26], model=(FIRST + SECOND)[:, 8:26], table=table,
        background=BACKGROUND[:, 8:26], title='a title ' * 30)))
    assert '2 sources' in text
    assert '2 doubtful (dashed)' in text


def test_deblended_shows_one_source_alone():
    figure = draw(plot_deblended(DATA, model=FIRST, companions=SECOND,
                                 background=BACKGROUND))
    shown = flat_images(figure)
    assert list(shown) == ['Map', 'Deblended', 'Model', 'Residual']
    assert_allclose(shown['Deblended'], FIRST + NOISE, atol=1e-12)
    assert_allclose(shown['Residual'], NOISE, atol=1e-12)


def test_background_has_the_colors_of_what_it_was_fitted_to():
    figure = draw(plot_background(DATA, model=FIRST + SECOND,
                                  background=BACKGROUND, rms=0.3))
    shown = flat_images(figure)
    assert list(shown) == ['Map', 'Without sources', 'Background',
                           'Residual']
    assert_allclose(shown['Without sources'], BACKGROUND + NOISE, atol=1e-12)
    norms = {axes.get_title(loc='left'): axes.images[0].norm
             for axes in figure.axes if axes.images}
    assert norms['Without sources'] is norms['Background']
    assert_allclose(norms['Background'].vmin, -0.9)
    assert_allclose(norms['Background'].vmax, 3.5 + 0.9)


@pytest.mark.parametrize('with_wcs', [True, False])
def test_units_sources_wcs_and_missing_pixels(with_wcs):
    wcs = None
    if with_wcs:
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = 'RA---TAN', 'DEC--TAN'
        wcs.wcs.cdelt = -0.001, 0.001
    table = QTable({'id': [1, 2], 'x_fit': [14.0, 20.0],
                    'y_fit': [15.0, 15.0], 'fwhm_major_fit': [4.7, 4.7],
                    'fwhm_minor_fit': [4.7, 4.7],
                    'theta_fit': [0.0, 0.0] * u.deg})
    data, background = DATA.copy(), BACKGROUND.copy()
    data[3, 4] = np.nan
    background[:, :5] = np.nan
    unit = u.Jy / u.pix
    figure = draw(plot_fit(
        data << unit, model=(FIRST + SECOND) << unit,
        background=background << unit, rms=0.3 * unit, table=table, wcs=wcs,
        beam=(4.0, 3.5, 20.0), fitted=X > 6, mask=Y == 0))
    shown = flat_images(figure)
    assert shown['Map'].mask[3, 4]
    assert np.all(shown['Map'].mask[0])
    # where the background is not known there is no residual
    assert np.all(shown['Residual'].mask[:, :5])
    assert not np.any(shown['Residual'].mask[1:, 5:])


@pytest.mark.parametrize(
    ('plot', 'others'),
    [(plot_fit, ()), (plot_background, ()),
     (plot_deblended, ('companions',))],
)
def test_images_without_structure_and_without_background(plot, others):
    zeros = {name: np.zeros(SHAPE) for name in ('model', *others)}
    draw(plot(np.zeros(SHAPE), background=np.full(SHAPE, np.nan), **zeros))
    with pytest.raises(ValueError, match='background must be 2D with the'):
        plot(np.zeros(SHAPE), background=np.zeros((3, 3)), **zeros)
    with pytest.raises(ValueError, match='no finite pixel'):
        plot(np.full(SHAPE, np.nan), background=np.zeros(SHAPE), **zeros)
