# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figures of single fits, as images and as surfaces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from numpy.typing import ArrayLike

from hyperphotutils.visualization.maps import (
    check_images,
    describe_sources,
    draw_panel,
    draw_sources,
    draw_title,
    ellipse_factor,
    fit_title,
    fit_titles,
    height_of_more_lines,
    label_axes,
    make_panels,
    set_titles,
)

if TYPE_CHECKING:
    from astropy.table import Table
    from astropy.wcs import WCS
    from matplotlib.figure import Figure

__all__ = ['plot_background', 'plot_deblended', 'plot_fit', 'plot_group']

# Geometry of the figure in inches.
_SIDE = 2.6
_LEFT, _RIGHT, _BOTTOM, _TOP = 1.05, 0.85, 0.15, 0.4
_TITLE = 0.35
_COLUMN_GAP, _ROW_GAP = 1.3, 0.6
_BAR_GAP, _BAR_WIDTH = 0.06, 0.1

# More lines than this only make a surface dark and slow to draw.
_MAX_LINES = 60

_ELEVATION, _AZIMUTH = 35, -60


def plot_fit(data: ArrayLike | u.Quantity, *, model: ArrayLike | u.Quantity,
             background: ArrayLike | u.Quantity,
             fitted: ArrayLike | None = None, mask: ArrayLike | None = None,
             table: Table | None = None, wcs: WCS | None = None,
             beam: float | tuple[float, ...] | None = None,
             rms: float | u.Quantity | None = None,
             title: str | None = None) -> Figure:
    """
    Plot the fit of a group of sources.

    Use it to inspect a single fit. The panels are the map, the
    background, the model of the sources, and the residual, as images and
    as surfaces below.

    Parameters
    ----------
    data : 2D array_like or `~astropy.units.Quantity`
        The cutout of the map. Pixels that are not finite are missing.

    model, background : 2D array_like or `~astropy.units.Quantity`
        The sum of the sources and the background, with the shape and
        the unit of ``data``. Where the background is NaN (not fitted),
        the residual is missing.

    fitted : 2D bool array_like, optional
        `True` for the pixels that were fitted; they are outlined.

    mask : 2D bool array_like, optional
        `True` for pixels that are shown as missing.

    table : `~astropy.table.Table`, optional
        The sources, with pixel positions in the cutout; see
        `plot_overview`.

    wcs : `~astropy.wcs.WCS`, optional
        The celestial WCS of the cutout. If `None` (default), the axes
        are in pixels.

    beam : float or tuple of float, optional
        The FWHM of the beam in pixels, see `plot_overview`.

    rms : float or `~astropy.units.Quantity`, optional
        The noise, which sets the color range of the residual. By
        default, it is measured in the residual.

    title : str, optional
        The title above the panels.

    Returns
    -------
    figure : `~matplotlib.figure.Figure`
        The figure; ``figure.savefig(path)`` writes it.

    Raises
    ------
    ValueError
        If an image is not 2D or has another shape than ``data``, or if
        no pixel is finite.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.visualization import plot_fit
    >>> y, x = np.mgrid[:30, :30]
    >>> model = 10 * np.exp(-((x - 14) ** 2 + (y - 15) ** 2) / 8)
    >>> noise = np.random.default_rng(1).normal(size=model.shape)
    >>> figure = plot_fit(model + noise + 3, model=model,
    ...                   background=np.full(model.shape, 3.0))
    >>> [axes.get_title(loc='left') for axes in figure.axes if axes.images]
    ['Map', 'Background', 'Model', 'Residual']
    """
    images, unit = check_images(data, mask, model=model,
                                background=background, rms=rms)
    rms = images.pop('rms', None)
    images['residual'] = (images['map'] - images['model']
                          - _where_known(images['background']))
    panels = make_panels(images, rms)
    return _draw(panels, unit, fitted=fitted, table=table, wcs=wcs,
                 beam=beam, title=title)


def plot_group(
        data: ArrayLike | u.Quantity, table: Table, group_id: int, *,
        model: ArrayLike | u.Quantity, background: ArrayLike | u.Quantity,
        mask: ArrayLike | None = None, margin: float | None = None,
        wcs: WCS | None = None, beam: float | tuple[float, ...] | None = None,
        rms: float | u.Quantity | None = None) -> Figure:
    """
    Plot the fit of a group of sources of a map.

    Use it for images of a whole map, from which it cuts out the group;
    `plot_fit` plots a cutout.

    Parameters
    ----------
    data : 2D array_like or `~astropy.units.Quantity`
        The map.

    table : `~astropy.table.Table`
        The sources of the map with their ``group_id``: a result of the
        photometry.

    group_id : int
        The group.

    model, background : 2D array_like or `~astropy.units.Quantity`
        The sum of all sources of the map and the background, with the
        shape and the unit of ``data``.

    mask : 2D bool array_like, optional
        `True` for pixels that are shown as missing.

    margin : float, optional
        The margin around the positions in pixels. The default is twice
        the largest FWHM of the group.

    wcs : `~astropy.wcs.WCS`, optional
        The celestial WCS of the map.

    beam, rms
        As for `plot_fit`.

    Returns
    -------
    figure : `~matplotlib.figure.Figure`
        The figure; ``figure.savefig(path)`` writes it.

    Raises
    ------
    ValueError
        If no source of the group has a fit, or if the images do not
        agree.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_blended_map
    >>> from hyperphotutils.photometry import HyperPhotometry
    >>> from hyperphotutils.visualization import plot_group
    >>> sim = make_blended_map((100, 100), 8, seed=1)
    >>> phot = HyperPhotometry(fwhm=sim.image.meta['beam_fwhm_pix'])
    >>> table = phot(sim.image)
    >>> figure = plot_group(sim.image.data << sim.image.unit, table, 1,
    ...                     model=phot.make_model_image(),
    ...                     background=phot.make_background_image())
    >>> figure.texts[0].get_text()
    'Group 1: 2 sources'
    """
    rows = table[(np.asarray(table['group_id']) == group_id)
                 & np.isfinite(u.Quantity(table['amplitude_fit']).value)]
    if len(rows) == 0:
        msg = f'group_id={group_id!r} has no fitted source in the table'
        raise ValueError(msg)
    if margin is None:
        margin = 2.0 * np.max(rows['fwhm_major_fit'])
    x, y = np.asarray(rows['x_fit']), np.asarray(rows['y_fit'])
    box = tuple(slice(int(np.clip(values.min() - margin, 0, size - 1)),
                      int(np.clip(values.max() + margin, 0, size - 1)) + 1)
                for values, size in zip((y, x), np.shape(data), strict=True))
    rows['x_fit'] = x - box[1].start
    rows['y_fit'] = y - box[0].start
    plural = 's' * (len(rows) != 1)
    return plot_fit(
        data[box], model=model[box], background=background[box],
        mask=None if mask is None else mask[box], table=rows,
        wcs=None if wcs is None else wcs[box], beam=beam, rms=rms,
        title=f'Group {group_id}: {len(rows)} source{plural}')


def plot_deblended(
        data: ArrayLike | u.Quantity, *, model: ArrayLike | u.Quantity,
        companions: ArrayLike | u.Quantity, background: ArrayLike | u.Quantity,
        mask: ArrayLike | None = None, table: Table | None = None,
        wcs: WCS | None = None, beam: float | tuple[float, ...] | None = None,
        rms: float | u.Quantity | None = None,
        title: str | None = None) -> Figure:
    """
    Plot a source without its background and its companions.

    Use it to inspect the deblending. The panels are the map, the map
    minus background and companions, the model of the source, and the
    residual.

    Parameters
    ----------
    data : 2D array_like or `~astropy.units.Quantity`
        The cutout of the map. Pixels that are not finite are missing.

    model, companions, background : 2D array_like or Quantity
        The source, the sum of all other sources, and the background,
        with the shape and the unit of ``data``.

    mask, table, wcs, beam, rms, title
        As for `plot_fit`.

    Returns
    -------
    figure : `~matplotlib.figure.Figure`
        The figure; ``figure.savefig(path)`` writes it.

    Raises
    ------
    ValueError
        If an image is not 2D or has another shape than ``data``, or if
        no pixel is finite.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.visualization import plot_deblended
    >>> y, x = np.mgrid[:30, :30]
    >>> model, other = (10 * np.exp(-((x - x0) ** 2 + (y - 15) ** 2) / 8)
    ...                 for x0 in (12, 18))
    >>> figure = plot_deblended(model + other + 3, model=model,
    ...                         companions=other,
    ...                         background=np.full(model.shape, 3.0))
    >>> [axes.get_title(loc='left') for axes in figure.axes if axes.images]
    ['Map', 'Deblended', 'Model', 'Residual']
    """
    images, unit = check_images(data, mask, model=model, rms=rms,
                                companions=companions, background=background)
    rms = images.pop('rms', None)
    deblended = (images['map'] - images.pop('companions')
                 - _where_known(images.pop('background')))
    images['residual'] = deblended - images['model']
    whole, own, residual = make_panels(images, rms)
    panels = [whole, own._replace(title='Deblended', image=deblended,
                                  extend='both'), own, residual]
    return _draw(panels, unit, table=table, wcs=wcs, beam=beam, title=title)


def plot_background(
        data: ArrayLike | u.Quantity, *, model: ArrayLike | u.Quantity,
        background: ArrayLike | u.Quantity, fitted: ArrayLike | None = None,
        mask: ArrayLike | None = None, table: Table | None = None,
        wcs: WCS | None = None, beam: float | tuple[float, ...] | None = None,
        rms: float | u.Quantity | None = None,
        title: str | None = None) -> Figure:
    """
    Plot the background of a group of sources.

    Use it to inspect the local background. The panels are the map, the
    map minus its sources, the background, and their difference. The
    second and third panel have the same color scale, from the lowest
    background minus 3 times the noise to the highest plus 3 times the
    noise.

    Parameters
    ----------
    data : 2D array_like or `~astropy.units.Quantity`
        The cutout of the map. Pixels that are not finite are missing.

    model, background : 2D array_like or `~astropy.units.Quantity`
        The sum of all sources and the background, with the shape and
        the unit of ``data``.

    fitted, mask, table, wcs, beam, rms, title
        As for `plot_fit`.

    Returns
    -------
    figure : `~matplotlib.figure.Figure`
        The figure; ``figure.savefig(path)`` writes it.

    Raises
    ------
    ValueError
        If an image is not 2D or has another shape than ``data``, or if
        no pixel is finite.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.visualization import plot_background
    >>> y, x = np.mgrid[:30, :30]
    >>> model = 10 * np.exp(-((x - 14) ** 2 + (y - 15) ** 2) / 8)
    >>> noise = np.random.default_rng(1).normal(size=model.shape)
    >>> figure = plot_background(model + noise + 0.2 * x, model=model,
    ...                          background=0.2 * x)
    >>> [axes.get_title(loc='left') for axes in figure.axes if axes.images]
    ['Map', 'Without sources', 'Background', 'Residual']
    """
    from matplotlib.colors import Normalize

    images, unit = check_images(data, mask, model=model,
                                background=background, rms=rms)
    rms = images.pop('rms', None)
    empty = images['map'] - images.pop('model')
    images['residual'] = empty - _where_known(images['background'])
    whole, background, residual = make_panels(images, rms)
    known = images['background'][np.isfinite(images['background'])]
    if len(known) == 0:
        known = np.array([np.nanmedian(empty)])
    margin = 0.6 * residual.norm.vmax
    background = background._replace(
        norm=Normalize(known.min() - margin, known.max() + margin))
    panels = [whole, background._replace(title='Without sources',
                                         image=empty), background, residual]
    return _draw(panels, unit, fitted=fitted, table=table, wcs=wcs,
                 beam=beam, title=title)


def _where_known(background):
    """
    Return the background, or 0 if it is NaN everywhere.
    """
    return background if np.isfinite(background).any() else 0.0


def _draw(panels, unit, *, fitted=None, table=None, wcs=None, beam=None,
          title=None):
    """
    Draw the panels in a row, each with its surface below.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ny, nx = panels[0].image.shape
    window = (-0.5, nx - 0.5, -0.5, ny - 0.5)
    width, height = _panel_size(panels[0].image.shape)
    factor = ellipse_factor(table, beam, window, width)
    sources = describe_sources(table, beam, factor)
    titles = [fit_titles(panel.title, [] if number else sources, width)
              for number, panel in enumerate(panels)]
    top = _TOP + height_of_more_lines(titles)
    fitting_title = fit_title(title, len(panels) * (width + _COLUMN_GAP)
                              - _COLUMN_GAP + _RIGHT)
    if title:
        top += _TITLE + fitting_title.more_height
    size, boxes = _layout(len(panels), width, height, top)
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    draw_title(figure, fitting_title, _LEFT / size[0])
    label = unit.to_string('unicode') if unit is not None else ''
    for number, (panel, places) in enumerate(zip(panels, boxes,
                                                 strict=True)):
        axes = figure.add_axes(places[0], projection=wcs)
        draw_panel(axes, figure.add_axes(places[1]), panel, window,
                   label)
        label_axes(axes, wcs, left=number == 0, bottom=True)
        if wcs is not None:
            for coord in axes.coords:
                coord.set_ticks(number=3)
        if number == 0:
            draw_sources(axes, panel.image, table, beam, window,
                         factor=factor)
            # An image one pixel wide has no contours.
            if fitted is not None and min(np.shape(fitted)) > 1:
                axes.contour(np.asarray(fitted, dtype=float), levels=[0.5],
                             colors='white', linewidths=0.8,
                             linestyles='dashed')
        set_titles(axes, titles[number])
        _draw_surface(figure.add_axes(places[2], projection='3d'), panel,
                      panels)
    return figure


def _panel_size(shape):
    """
    Return the width and height of an image in inches.
    """
    ny, nx = shape
    stretch = np.sqrt(np.clip(ny / nx, 0.5, 2))
    return _SIDE / stretch, _SIDE * stretch


def _layout(n_panels, width, height, top):
    """
    Return the figure size in inches and the boxes of image, color bar,
    and surface of each panel.
    """
    step = width + _COLUMN_GAP
    surface = step * 0.95
    size = (_LEFT + n_panels * step - _COLUMN_GAP + _RIGHT,
            _BOTTOM + surface + _ROW_GAP + height + top)
    boxes = []
    for number in range(n_panels):
        left = _LEFT + number * step
        bottom = size[1] - top - height
        middle = left + 0.5 * width
        inches = ((left, bottom, width, height),
                  (left + width + _BAR_GAP, bottom, _BAR_WIDTH, height),
                  (middle - 0.5 * surface, _BOTTOM, surface, surface))
        boxes.append([(x / size[0], y / size[1], dx / size[0], dy / size[1])
                      for x, y, dx, dy in inches])
    return size, boxes


def _draw_surface(axes, panel, panels):
    """
    Draw an image as a surface with the colors of its panel.

    Images with the same color scale have the same range of heights.
    """
    from matplotlib import colormaps

    image = panel.image
    step = max(1, -(-max(image.shape) // _MAX_LINES))
    image = image[::step, ::step]
    y, x = (step * axis for axis in np.indices(image.shape))
    # Missing pixels are filled, as they would change the colors of faces at
    # their edges.
    known = image[np.isfinite(image)]
    filling = np.median(known) if known.size else 0.0
    colors = colormaps[panel.cmap](panel.norm(
        np.where(np.isfinite(image), image, filling)))
    alike = [other.image for other in panels if other.norm is panel.norm]
    lower = min(np.nanmin(other, initial=np.inf) for other in alike)
    upper = max(np.nanmax(other, initial=-np.inf) for other in alike)
    if panel.title == 'Residual':
        upper = max(abs(lower), abs(upper), panel.norm.vmax)
        lower = -upper
    if not upper > lower:
        # an image without structure, or without a finite pixel
        center = lower if np.isfinite(lower) else 0.0
        lower, upper = center - 1.0, center + 1.0
    axes.plot_surface(x, y, image, facecolors=colors, rstride=1, cstride=1,
                      linewidth=0, antialiased=False, shade=False)
    axes.set_zlim(lower, upper)
    axes.view_init(elev=_ELEVATION, azim=_AZIMUTH)
    axes.set_xlabel('x (cut-out)', labelpad=-5, size='small')
    axes.set_ylabel('y (cut-out)', labelpad=-5, size='small')
    axes.tick_params(labelsize='x-small', pad=-2)
    axes.locator_params(nbins=4)
