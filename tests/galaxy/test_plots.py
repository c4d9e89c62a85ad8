# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the pictures of galaxies.
"""

import numpy as np
import pytest
from astropy.table import QTable

from hyperphotutils.galaxy import (
    plot_mosaic,
    plot_parameters,
    plot_segments,
)
from hyperphotutils.utils import FLAGS


def test_segments_of_stars_have_another_color(field):
    truth = field.truth
    catalog = QTable({'id': truth['id'], 'x_centroid': truth['x'],
                      'y_centroid': truth['y'],
                      'star_index': np.where(truth['r_eff'] > 0.0, 0.1, 0.9)})
    figure = plot_segments(field.data - 3.0, field.segmentation, catalog)
    axes = figure.axes[0]
    labels = {text.get_text() for text in axes.get_legend().get_texts()}
    assert labels == {'galaxies (14)', 'stars (4)'}
    assert {text.get_text() for text in axes.texts} == {
        str(name) for name in truth['id']}
    outline = axes.images[1].get_array()
    colors = {tuple(color) for color in outline[outline[..., 3] > 0.0]}
    assert len(colors) == 2


def test_mosaic_has_the_brightest_galaxies(field, fitted):
    """
    With its parameters above each; in orange if they are doubtful.
    """
    fitter, table = fitted
    table = table.copy()
    table['flags'] = 0
    best = np.argsort(-table['flux_fit'])[:3]
    table['flags'][best[0]] = FLAGS['near_bound']
    model = fitter.make_model_image()
    data = field.data - 3.0
    figure = plot_mosaic(table, data, model, data - model,
                         error=field.error, size=40, max_galaxies=3)
    titles = [axes.title for axes in figure.axes if axes.get_title()]
    assert [text.get_text().partition(':')[0] for text in titles] == [
        str(name) for name in table['id'][best]]
    assert titles[0].get_color() != titles[1].get_color() == 'black'
    assert all(axes.images[0].get_array().shape == (40, 40)
               for axes in figure.axes[:9])


def test_mosaic_without_a_fit_is_refused(field, fitted):
    table = fitted[1].copy()
    table['flux_fit'] = np.nan
    with pytest.raises(ValueError, match='no galaxy with a fit'):
        plot_mosaic(table, field.data, field.data, field.data)


def test_parameters_are_compared_with_the_nearest_true_ones(field, fitted):
    """
    Rows far from each true source are left out; angles differ by less than
    90 degrees.
    """
    table, truth = fitted[1].copy(), field.truth[:14].copy()
    truth['theta'] = np.asarray(truth['theta'], dtype=float) - 180.0
    figure = plot_parameters(table, truth)
    upper = {axes.get_xlabel(): axes for axes in figure.axes[:5]}
    legend = [text.get_text() for text in
              figure.axes[0].get_legend().get_texts()]
    assert sum(int(text.partition('(')[2][:-1]) for text in legend) == 14
    axes = upper['true theta (degrees)']
    fitted_angle = np.concatenate([
        line.get_ydata() for line in axes.lines if len(line.get_xdata()) > 2])
    true_angle = np.concatenate([
        line.get_xdata() for line in axes.lines if len(line.get_xdata()) > 2])
    assert np.abs(fitted_angle - true_angle).max() < 90.0
    table['x_fit'] += 100.0
    with pytest.raises(ValueError, match=r'within 0\.1 pixels'):
        plot_parameters(table, truth, reach=0.1)
