# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the overview picture.
"""

import io
import subprocess
import sys
from types import SimpleNamespace

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable
from astropy.wcs import WCS
from matplotlib.collections import EllipseCollection
from matplotlib.colors import Normalize, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, Rectangle
from numpy.testing import assert_allclose, assert_array_equal

from hyperphotutils.utils.flags import FLAGS
from hyperphotutils.utils.gaussians import add_gaussians
from hyperphotutils.visualization import plot_image, plot_overview
from hyperphotutils.visualization.maps import asinh_norm, bar_ticks

SHAPE = (60, 80)


def make_table(n_sources, *, unit=u.deg):
    rng = np.random.default_rng(0)
    return QTable({
        'id': np.arange(n_sources) + 1,
        'x_fit': rng.uniform(0, SHAPE[1] - 1, n_sources),
        'y_fit': rng.uniform(0, SHAPE[0] - 1, n_sources),
        'fwhm_major_fit': rng.uniform(4, 6, n_sources),
        'fwhm_minor_fit': rng.uniform(3, 4, n_sources),
        'theta_fit': rng.uniform(0, 180, n_sources) << unit,
    })


def make_images(n_sources=20):
    """
    A table and the images of a run that measured the truth.
    """
    table = make_table(n_sources)
    model = np.zeros(SHAPE)
    add_gaussians(model, table['x_fit'], table['y_fit'], 3e-4,
                  table['fwhm_major_fit'], table['fwhm_minor_fit'],
                  table['theta_fit'].value)
    residual = np.random.default_rng(1).normal(0, 1e-5, SHAPE)
    background = np.broadcast_to(np.linspace(0, 1e-4, SHAPE[1]), SHAPE)
    images = {'background': background, 'model': model,
              'residual': residual}
    return model + residual + background, table, images


def make_wcs(names=('RA---TAN', 'DEC--TAN')):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = names
    wcs.wcs.crval = 83.6, -5.4
    wcs.wcs.crpix = 40, 30
    wcs.wcs.cdelt = -0.001, 0.001
    wcs.wcs.cunit = 'deg', 'deg'
    if names[0].startswith('RA'):
        wcs.wcs.radesys = 'FK5'
    wcs.wcs.set()
    return wcs


def render(figure):
    """
    Write a figure: some errors of matplotlib come only then.
    """
    stream = io.BytesIO()
    figure.savefig(stream, format='png', dpi=50)
    return stream.getvalue()


def panels_of(figure):
    return [axes for axes in figure.axes if axes.images]


def ellipses_of(figure):
    """
    Return the white ellipses of the map, which lie on dark ones.
    """
    dark, white = (item for item in panels_of(figure)[0].collections
                   if isinstance(item, EllipseCollection))
    assert_allclose(to_rgba_array('white'), white.get_edgecolor()[:1])
    assert_array_equal(dark.get_offsets(), white.get_offsets())
    assert np.all(dark.get_linewidth() > white.get_linewidth())
    return white


def colors_of(image, values):
    """
    Return the colors of values on the scale of an image.
    """
    return image.cmap(image.norm(np.ma.masked_invalid(values)), bytes=True)


def test_no_text_needs_the_parser_of_mathtext(monkeypatch):
    # which takes as long as the rest of the figure
    monkeypatch.setattr('matplotlib.mathtext.MathTextParser.parse', None)
    data, table, images = make_images()
    unit = u.Jy / u.pix
    images = {name: image * unit for name, image in images.items()}
    figure = plot_overview(data * unit, table, wcs=make_wcs(), **images)
    figure.canvas.draw()


@pytest.mark.parametrize('wcs', [None, make_wcs()])
def test_four_panels_in_reading_order(wcs):
    data, table, images = make_images()
    figure = plot_overview(data, table, wcs=wcs, beam=(4.0, 3.0, 30.0),
                           title='a map', **images)
    titles = [axes.get_title(loc='left') for axes in panels_of(figure)]
    assert titles == ['Map', 'Background', 'Model', 'Residual']
    assert render(figure).startswith(b'\x89PNG')


def test_panels_without_image_are_left_out():
    data, _, images = make_images()
    figure = plot_overview(data)
    assert len(panels_of(figure)) == 1
    assert render(figure)
    figure = plot_overview(data, residual=images['residual'])
    titles = [axes.get_title(loc='left') for axes in panels_of(figure)]
    assert titles == ['Map', 'Residual']


@pytest.mark.parametrize('n_sources', [0, 1, 1000])
def test_any_number_of_sources(n_sources):
    data, _, images = make_images()
    table = make_table(n_sources)
    figure = plot_overview(data, table, **images)
    assert len(ellipses_of(figure).get_offsets()) == n_sources
    text = panels_of(figure)[0].get_title(loc='right')
    expected = '1 source' if n_sources == 1 else f'{n_sources} sources'
    assert text.split(',')[0] == expected
    assert render(figure)


def test_ellipses_are_the_half_maximum():
    """
    In pixels, an ellipse has the FWHMs as axes, at the fitted angle.
    """
    table = QTable({'x_fit': [20.0], 'y_fit': [30.0],
                    'fwhm_major_fit': [12.0], 'fwhm_minor_fit': [4.0],
                    'theta_fit': [40.0] * u.deg})
    figure = plot_overview(np.eye(60), table)
    render(figure)
    ellipse = ellipses_of(figure)
    # what the matrix makes of the unit circle
    directions, semi_axes, _ = np.linalg.svd(
        ellipse.get_transforms()[0][:2, :2])
    assert_allclose(2 * semi_axes, [12, 4])
    theta = np.arctan2(directions[1, 0], directions[0, 0])
    assert_allclose(np.rad2deg(theta) % 180, 40)


def test_ellipses_are_larger_where_they_would_hide_the_sources():
    """
    The title states the factor; positions stay.
    """
    table = make_table(20)
    figure = plot_overview(np.eye(400), table, residual=np.eye(400))
    ellipses = ellipses_of(figure)
    assert_allclose(ellipses.get_widths(), 2 * table['fwhm_major_fit'])
    assert_allclose(ellipses.get_heights(), 2 * table['fwhm_minor_fit'])
    assert_allclose(ellipses.get_offsets().T,
                    [table['x_fit'], table['y_fit']])
    title = panels_of(figure)[0].get_title(loc='right')
    assert title == '20 sources, ellipses: 2 FWHM'
    on_residual, = (item for item in panels_of(figure)[1].collections
                    if isinstance(item, EllipseCollection))
    assert_allclose(on_residual.get_widths(), ellipses.get_widths())


def test_ellipses_of_crowded_sources_are_not_enlarged():
    table = make_table(100)
    table['x_fit'] *= 2.0
    table['y_fit'] *= 2.0
    table['fwhm_major_fit'] *= 3.0
    ellipses = ellipses_of(plot_overview(np.eye(400), table))
    assert_allclose(ellipses.get_widths(), 2 * table['fwhm_major_fit'])
    table['fwhm_minor_fit'] = table['fwhm_major_fit']
    figure = plot_overview(np.eye(400), table)
    assert_allclose(ellipses_of(figure).get_widths(), table['fwhm_major_fit'])
    assert panels_of(figure)[0].get_title(loc='right') == '100 sources'


def test_doubtful_sources_are_dashed():
    """
    Only they are, and the title tells how many there are.
    """
    data, table, _ = make_images(4)
    table['flags'] = [0, FLAGS['doubtful'], FLAGS['near_bound'],
                      FLAGS['doubtful'] | FLAGS['near_bound']]
    table['x_fit'][3] = np.nan
    figure = plot_overview(data, table)
    dashes = [dashes for _, dashes in ellipses_of(figure).get_linestyles()]
    assert [pattern is not None for pattern in dashes] == [False, True, False]
    title = panels_of(figure)[0].get_title(loc='right')
    assert title == '3 sources, 1 doubtful (dashed)'


def test_angles_in_radians_are_converted():
    table = make_table(3)
    data, _, _ = make_images()
    plain = ellipses_of(plot_overview(data, table))
    table['theta_fit'] = table['theta_fit'].to(u.rad)
    converted = ellipses_of(plot_overview(data, table))
    assert_allclose(plain.get_angles(), converted.get_angles())


def test_failed_fits_are_not_drawn():
    data, table, _ = make_images()
    table['fwhm_major_fit'][3] = np.nan
    figure = plot_overview(data, table)
    assert len(ellipses_of(figure).get_offsets()) == len(table) - 1


def test_failed_fits_are_not_counted():
    data, table, _ = make_images()
    table['fwhm_major_fit'][3] = np.nan
    axes = panels_of(plot_overview(data, table))[0]
    assert axes.get_title(loc='right') == f'{len(table) - 1} sources'


def drawn_boxes(figure):
    """
    Boxes in dots: of the labels, of the ellipses, and of the beam.
    """
    render(figure)
    figure.set_dpi(100)
    figure.canvas.draw()
    axes = panels_of(figure)[0]
    labels = [text.get_window_extent().extents for text in axes.texts]
    transform = axes.transData
    ellipses = ellipses_of(figure)
    outlines = []
    for (x, y), width, height, angle in zip(
            ellipses.get_offsets(), ellipses.get_widths(),
            ellipses.get_heights(), ellipses.get_angles(), strict=True):
        shape = Ellipse((x, y), width, height, angle=angle)
        outlines.append(shape.get_verts())
    outlines = [transform.transform(outline) for outline in outlines]
    frame = [patch.get_window_extent().extents for patch in axes.patches
             if isinstance(patch, Rectangle)]
    return labels, outlines, frame


@pytest.mark.parametrize('wcs', [None, make_wcs()])
@pytest.mark.parametrize(('size', 'least', 'most'), [(2, 15, 25),
                                                     (10, 3, 20)])
def test_labels_are_only_where_nothing_else_is(wcs, size, least, most):
    """
    In a crowd, not all find room, and those that do are free.
    """
    rng = np.random.default_rng(5)
    table = make_table(25)
    table['x_fit'] = 40 + rng.normal(0, 12, 25)
    table['y_fit'] = 30 + rng.normal(0, 8, 25)
    table['fwhm_minor_fit'] = table['fwhm_major_fit'] = size
    data, _, _ = make_images()
    figure = plot_overview(data, table, wcs=wcs, beam=4.0)
    labels, outlines, frame = drawn_boxes(figure)
    assert least <= len(labels) <= most
    assert len(frame) == 1
    left, bottom, right, top = panels_of(figure)[0].bbox.extents
    for number, (x0, y0, x1, y1) in enumerate(labels):
        assert left <= x0 < x1 <= right
        assert bottom <= y0 < y1 <= top
        for other in labels[:number] + frame:
            assert (other[0] >= x1 or other[2] <= x0 or other[1] >= y1
                    or other[3] <= y0)
        for outline in outlines:
            x, y = outline.T
            assert not np.any((x > x0) & (x < x1) & (y > y0) & (y < y1))


def test_lone_sources_are_labeled_at_their_right():
    table = make_table(2)
    table['x_fit'], table['y_fit'] = [20.0, 60.0], [30.0, 30.0]
    table['theta_fit'] = 90 * u.deg
    data, _, _ = make_images()
    figure = plot_overview(data, table)
    labels, outlines, _ = drawn_boxes(figure)
    texts = [text.get_text() for text in panels_of(figure)[0].texts]
    assert texts == ['1', '2']
    for label, outline in zip(labels, outlines, strict=True):
        gap = label[0] - outline[:, 0].max()
        assert 1 < gap < 10


@pytest.mark.parametrize('free', range(4))
@pytest.mark.parametrize('what', ['source', 'emission'])
def test_beam_is_in_the_emptiest_corner(free, what):
    """
    Neither over a source nor over emission, while a corner is free.
    """
    corners = [(3.0, 3.0), (76.0, 3.0), (3.0, 56.0), (76.0, 56.0)]
    taken = [corner for k, corner in enumerate(corners) if k != free]
    data = np.random.default_rng(0).normal(0, 1, SHAPE)
    table = None
    if what == 'source':
        table = make_table(3)
        table['x_fit'], table['y_fit'] = np.transpose(taken)
    else:
        for x, y in taken:
            data[int(max(y - 8, 0)):int(y + 8),
                 int(max(x - 8, 0)):int(x + 8)] += 20
    axes = panels_of(plot_overview(data, table, beam=4.0))[0]
    frame, = (patch for patch in axes.patches
              if isinstance(patch, Rectangle))
    beam, = (patch for patch in axes.patches if isinstance(patch, Ellipse))
    assert (beam.width, beam.height) == (4, 4)
    for center in (frame.get_center(), beam.center):
        assert np.hypot(*np.subtract(center, corners[free])) < 4


def test_beam_without_competition_is_at_the_lower_left():
    data = np.random.default_rng(0).normal(0, 1, (400, 400))
    axes = panels_of(plot_overview(data, beam=3.0))[0]
    frame, = (patch for patch in axes.patches
              if isinstance(patch, Rectangle))
    assert max(frame.get_center()) < 30
    # a speck needs a frame that can be seen
    assert frame.get_width() == 0.04 * 400


def test_long_titles_fit():
    figure = plot_overview(np.eye(60), title='a title ' * 15)
    figure.canvas.draw()
    text, = figure.texts
    assert text.get_window_extent().x1 <= figure.bbox.x1


@pytest.mark.parametrize('shape', [(600, 80), (300, 200), (300, 300),
                                   (200, 300), (80, 600)])
@pytest.mark.parametrize('title', ['a title ' * 15, None])
def test_titles_of_panels_fit(check_lines, shape, title):
    """
    Nothing is printed over a title, whatever the shape of the map.
    """
    table = make_table(60)
    table['x_fit'] *= (shape[1] - 1) / (SHAPE[1] - 1)
    table['y_fit'] *= (shape[0] - 1) / (SHAPE[0] - 1)
    table['flags'] = np.where(np.arange(60) < 12, FLAGS['doubtful'], 0)
    data = np.random.default_rng(1).normal(size=shape)
    background = np.full(shape, np.nan)
    background[20:40, 20:40] = 0.0
    figure = plot_overview(data, table, background=background, model=data,
                           residual=data, beam=4.0, title=title,
                           wcs=make_wcs())
    text = ' '.join(check_lines(figure))
    for part in ('60 sources', '12 doubtful (dashed)', 'ellipses: 2 FWHM',
                 'outlined: fitted', 'colors to ±5 rms'):
        assert part in text


def test_detections_are_drawn_with_the_beam():
    data, table, _ = make_images()
    table = QTable({'x_centroid': table['x_fit'],
                    'y_centroid': table['y_fit']})
    ellipses = ellipses_of(plot_overview(data, table, beam=4.5))
    assert_allclose(ellipses.get_widths(), 4.5)
    assert_allclose(ellipses.get_heights(), 4.5)


def test_missing_pixels_are_light_gray_and_empty_borders_cut():
    data, _, _ = make_images()
    data[:, :30] = np.nan
    data[40, 50] = np.inf
    figure = plot_overview(data, mask=np.zeros(SHAPE, bool))
    axes = panels_of(figure)[0]
    shown = axes.images[0].get_array()
    gray = np.array([0.85 * 255] * 3).astype(int)
    assert_allclose(shown[40, 50, :3], gray, atol=1)
    assert not np.allclose(shown[40, 51, :3], gray, atol=1)
    assert_allclose(shown[:, :30, :3], np.broadcast_to(gray, (60, 30, 3)),
                    atol=1)
    left, right = axes.get_xlim()
    assert 25 < left < 30
    assert right == SHAPE[1] - 0.5


def test_mask_hides_pixels():
    data, _, _ = make_images()
    mask = np.zeros(SHAPE, bool)
    mask[10:20, 10:20] = True
    image = panels_of(plot_overview(data, mask=mask))[0].images[0]
    assert_array_equal(image.get_array(),
                       colors_of(image, np.where(mask, np.nan, data)))


@pytest.mark.parametrize(
    ('lower', 'upper', 'center', 'width'),
    [(9e-6, 62e-6, 12e-6, 4e-6), (0.0, 45.0, 0.0, 9.0),
     (-3.0, 1000.0, 0.0, 2.0), (5.0, 39.0, 12.0, 11.0),
     (-0.7, -0.1, -0.5, 0.1), (-62.0, 190.0, 5.0, 60.0)])
def test_ticks_of_a_stretched_bar_are_round(lower, upper, center, width):
    """
    Ticks have two digits at most, are within the bar, and spread over
    most of it without coming close to each other.
    """
    norm = asinh_norm(lower, upper, center, width)
    ticks = bar_ticks(norm)
    assert np.all((ticks >= lower) & (ticks <= upper))
    assert_allclose(ticks, [float(f'{tick:.1e}') for tick in ticks])
    places = np.asarray(norm(ticks))
    assert len(ticks) >= 4
    assert np.all(np.diff(places) > 0.05)
    assert places[0] < 0.25
    assert places[-1] > 0.75


def test_ticks_of_a_bar_far_from_zero():
    ticks = bar_ticks(asinh_norm(1000.0, 1010.0, 1003.0, 2.0))
    assert_array_equal(ticks, np.arange(1000, 1011, 2))


def test_ticks_of_a_linear_bar_are_multiples_of_one_two_or_five():
    norm = Normalize(-18.0, 18.0)
    assert_array_equal(bar_ticks(norm), [-15, -10, -5, 0, 5, 10, 15])


def test_units_give_short_numbers_on_the_bars():
    data, table, images = make_images()
    unit = u.Jy / u.pix
    images = {name: image * unit for name, image in images.items()}
    figure = plot_overview(data * unit, table, rms=1e-5 * unit, **images)
    labels = [axes.get_ylabel() for axes in figure.axes
              if not axes.images and axes.get_ylabel()]
    unit = (u.uJy / u.pix).to_string('unicode')
    assert labels == 3 * [f'{unit} (asinh scale)'] + [unit]
    norm = panels_of(figure)[3].images[0].norm
    assert_allclose([norm.vmin, norm.vmax], [-50, 50])
    image = panels_of(figure)[0].images[0]
    assert_array_equal(image.get_array(), colors_of(image, data * 1e6))


@pytest.mark.parametrize(
    ('unit', 'factor', 'label'),
    [('MJy / sr', 1, 'MJy'), ('K', 1, 'K'), ('', 1, 'asinh scale')],
)
def test_units_that_take_no_prefix_are_kept(unit, factor, label):
    data = np.linspace(0, 500 * factor, 4800).reshape(SHAPE)
    figure = plot_overview(data * u.Unit(unit))
    bar = next(axes for axes in figure.axes if not axes.images)
    assert label in bar.get_ylabel()


def test_map_and_background_have_the_same_colors():
    data, _, images = make_images()
    panels = panels_of(plot_overview(data, **images))
    assert panels[0].images[0].norm is not None
    assert_allclose(panels[0].images[0].norm([0, 1e-5, 1e-4]),
                    panels[1].images[0].norm([0, 1e-5, 1e-4]))


def test_residual_colors_are_centered_on_zero_and_five_rms_wide():
    data, _, images = make_images()
    norm = panels_of(plot_overview(data, **images))[3].images[0].norm
    assert norm.vmin == -norm.vmax
    assert_allclose(norm.vmax, 5e-5, rtol=0.05)


def test_ticks_lie_within_the_color_bar():
    data, _, images = make_images()
    figure = plot_overview(data - 3e-5, **images)
    render(figure)
    for axes in figure.axes:
        if not axes.images:
            ticks, limits = axes.get_yticks(), axes.get_ylim()
            assert len(ticks) >= 3
            assert np.all((ticks >= limits[0]) & (ticks <= limits[1]))


@pytest.mark.parametrize('value', [0.0, 7.0, -1e-20])
def test_constant_images_can_be_drawn(value):
    image = np.full(SHAPE, value)
    figure = plot_overview(image, background=image, model=0 * image,
                           residual=0 * image)
    assert render(figure)


def test_background_that_was_not_fitted_is_completed():
    """
    Picture and residual have no pedestal where there was no fit.
    """
    data, _, images = make_images()
    data += 1e-3
    images['background'] = images['background'] + 1e-3
    whole = images['background'].copy()
    outside = np.zeros(SHAPE, bool)
    outside[:, 40:] = True
    images['background'][outside] = np.nan
    images['residual'] = np.where(outside, data - images['model'],
                                  images['residual'])
    rest = data - images['model']
    panels = panels_of(plot_overview(data, beam=4.0, rms=1e-5, **images))
    background, residual = panels[1].images[0], panels[3].images[0]
    gray = residual.cmap.get_bad(), background.cmap.get_bad()
    for image in (background, residual):
        colors = image.get_array()[..., :3]
        for color in gray:
            assert not np.any(np.all(np.abs(
                colors / 255 - color[:3]) < 0.01, axis=-1))
    expected = colors_of(background, whole).astype(int)
    shown = background.get_array().astype(int)
    assert_array_equal(shown[~outside], expected[~outside])
    # as close as two hundredths of the color range
    assert np.abs(shown - expected).max() < 40
    expected = colors_of(residual, rest - whole).astype(int)
    shown = residual.get_array().astype(int)
    assert_array_equal(shown[~outside], expected[~outside])


def test_background_known_nowhere_can_be_drawn():
    data, _, _ = make_images()
    blank = np.full(SHAPE, np.nan)
    assert render(plot_overview(data, background=blank, residual=blank))


@pytest.mark.parametrize('shape', [(20, 160), (200, 25), (5, 5)])
def test_panels_have_the_shape_of_the_map(shape):
    data = np.random.default_rng(0).normal(size=shape)
    figure = plot_overview(data, background=data, model=data, residual=data)
    inches = figure.get_size_inches()
    assert max(inches) < 20
    for axes in panels_of(figure):
        width, height = axes.get_position().size * inches
        assert_allclose(height / width, shape[0] / shape[1])


def test_large_maps_are_averaged_down():
    """
    Values and missing areas are kept, and panels have the whole extent.
    """
    y, x = np.indices((1503, 2001))
    data = (x + 10.0 * y).astype('f4')
    data[:, 1000:1200] = np.nan
    mask = np.zeros(data.shape, bool)
    mask[300:400, :500] = True
    table = make_table(2)
    table['x_fit'], table['y_fit'] = [100.0, 1900.0], [1400.0, 1400.0]
    figure = plot_overview(data, table, mask=mask, beam=9.0)
    axes = panels_of(figure)[0]
    image = axes.images[0]
    assert_allclose(axes.get_xlim(), [-0.5, 2000.5])
    assert_allclose(axes.get_ylim(), [-0.5, 1502.5])
    assert image.get_array().shape[:2] == (752, 1001)
    for x, y, column, row in ((-0.4, -0.4, 0, 0), (1.6, 1502.4, 1, 751),
                              (1999.4, 100.0, 999, 50)):
        color = image.get_cursor_data(SimpleNamespace(xdata=x, ydata=y))
        assert_array_equal(color, image.get_array()[row, column])
    assert image.get_cursor_data(
        SimpleNamespace(xdata=-0.6, ydata=5.0)) is None
    expected = np.where(mask, np.nan, data)[:1502, :2000].reshape(
        751, 2, 1000, 2).mean(axis=(1, 3))
    assert_array_equal(image.get_array()[:751, :1000],
                       colors_of(image, expected))
    assert_allclose(ellipses_of(figure).get_offsets()[:, 0], [100, 1900])
    assert render(figure)


def test_pixels_are_drawn_in_their_colors_at_their_places():
    """
    The center of each pixel of the map has its color on the screen.
    """
    data = np.random.default_rng(3).normal(size=SHAPE)
    data[20:25, 30:40] = np.nan
    figure = plot_overview(data, residual=data)
    figure.canvas.draw()
    screen = np.asarray(figure.canvas.buffer_rgba())[::-1]
    # without the pixels below the frame
    y, x = np.mgrid[1:SHAPE[0] - 1, 1:SHAPE[1] - 1]
    for axes in panels_of(figure):
        columns, rows = axes.transData.transform(
            np.column_stack([x.ravel(), y.ravel()])).astype(int).T
        assert_array_equal(screen[rows, columns].reshape(*x.shape, 4),
                           colors_of(axes.images[0], data)[y, x])


def test_averages_ignore_single_missing_pixels():
    data = np.random.default_rng(0).normal(size=(2400, 2400))
    reference = panels_of(plot_overview(data))[0].images[0]
    data[::6, ::6] = np.nan
    image = panels_of(plot_overview(data))[0].images[0]
    missing = colors_of(image, [np.nan])[0]
    assert image.get_array().shape == reference.get_array().shape
    assert not np.any(np.all(image.get_array() == missing, axis=-1))


@pytest.mark.parametrize('angle', [0, 2, 20, 45, 70, 90])
def test_labels_of_rotated_maps_are_apart(angle):
    """
    The coordinates are on different sides, and not below the title.
    """
    wcs = make_wcs()
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    wcs.wcs.pc = [[cos, -sin], [sin, cos]]
    data, _, images = make_images()
    figure = plot_overview(data, wcs=wcs, **images)
    render(figure)
    axes = panels_of(figure)[0]
    sides = []
    for coord in axes.coords:
        side, = coord.get_ticklabel_position()
        assert coord.get_axislabel_position() == [side]
        sides.append(side)
    assert sides == (['b', 'l'] if angle <= 45 else ['l', 'b'])


def test_only_the_first_panel_has_coordinates():
    data, _, images = make_images()
    figure = plot_overview(data, wcs=make_wcs(), **images)
    first, *others = panels_of(figure)
    assert hasattr(first, 'coords')
    for axes in others:
        assert not hasattr(axes, 'coords')
        assert len(axes.get_xticks()) == len(axes.get_yticks()) == 0
        assert_allclose(axes.get_xlim(), first.get_xlim())
        assert_allclose(axes.get_ylim(), first.get_ylim())


def test_galactic_axes_are_named():
    data, _, _ = make_images()
    figure = plot_overview(data, wcs=make_wcs(('GLON-CAR', 'GLAT-CAR')))
    axes = panels_of(figure)[0]
    assert axes.coords[0].get_axislabel() == 'Galactic longitude'
    figure = plot_overview(data, wcs=make_wcs())
    axes = panels_of(figure)[0]
    assert axes.coords[1].get_axislabel() == 'Declination (FK5)'


def test_input_is_left_as_it_is():
    data, table, images = make_images()
    copies = data.copy(), table.copy()
    plot_overview(data, table, mask=data > 1e-4, **images)
    assert_array_equal(data, copies[0])
    assert (table == copies[1]).all()


def test_bad_input():
    data, table, images = make_images()
    with pytest.raises(ValueError, match='map must be 2D'):
        plot_overview(data[0])
    with pytest.raises(ValueError, match=r'model must be 2D .* \(60, 80\)'):
        plot_overview(data, model=data[1:])
    with pytest.raises(ValueError, match='data has no finite pixel'):
        plot_overview(data * np.nan)
    with pytest.raises(ValueError, match='data has no unit, but model has'):
        plot_overview(data, model=images['model'] * u.Jy)
    with pytest.raises(ValueError, match='table must have the columns'):
        plot_overview(data, table['id', 'x_fit'])
    with pytest.raises(ValueError, match='beam must be one FWHM'):
        plot_overview(data, beam=(1, 2))


@pytest.mark.parametrize('wcs', [None, make_wcs()], ids=['pixels', 'sky'])
def test_one_image_on_given_axes(wcs):
    data, table, _ = make_images()
    figure = Figure()
    ax = figure.add_subplot(projection=wcs)
    assert plot_image(data << u.Jy / u.pix, table, ax=ax, beam=4.0) is ax
    assert render(figure)
    bar, = ax.child_axes
    # 3e-4 Jy/pix
    unit = u.Unit('uJy / pix').to_string('unicode')
    assert bar.get_ylabel() == f'{unit} (asinh scale)'
    assert ax.images[0].get_array().max() == pytest.approx(1e6 * data.max())
    assert len(ellipses_of(figure).get_offsets()) == len(table)
    if wcs is not None:
        assert ax.coords[0].get_axislabel() == 'Right ascension (FK5)'
    else:
        assert ax.get_xlabel() == 'x (pixels)'


def test_stretch_of_one_image():
    data, _, _ = make_images()
    for stretch, label in (('asinh', 'flux (asinh scale)'),
                           ('linear', 'flux')):
        ax = plot_image(data, ax=Figure().add_subplot(), stretch=stretch,
                        label='flux')
        assert ax.child_axes[0].get_ylabel() == label
    with pytest.raises(ValueError, match="stretch must be 'asinh' or"):
        plot_image(data, ax=Figure().add_subplot(), stretch='log')


def test_no_pyplot_and_no_matplotlib_before_it_is_needed():
    code = ('import sys, numpy as np; '
            'from hyperphotutils.visualization import plot_overview; '
            'assert "matplotlib" not in sys.modules; '
            'plot_overview(np.eye(9)).savefig(sys.stdout.buffer); '
            'assert "matplotlib.pyplot" not in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True,
                   capture_output=True)
