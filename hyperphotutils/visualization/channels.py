# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figure of the channels of a cube with their sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from numpy.typing import ArrayLike

from hyperphotutils.visualization.maps import (
    Panel,
    asinh_norm,
    average,
    bar_label,
    bar_ticks,
    describe_factor,
    describe_sources,
    draw_image,
    draw_sources,
    draw_title,
    ellipse_factor,
    fit_title,
    fit_titles,
    height_of_more_lines,
    label_axes,
    readable_unit,
    robust_statistics,
    set_titles,
)

if TYPE_CHECKING:
    from astropy.table import Table
    from matplotlib.figure import Figure

    from hyperphotutils.maps.cubes import MapCube

__all__ = ['choose_channels', 'plot_channels']

_CMAP = 'cividis'

# Geometry of the figure in inches; panels have the usual size in journals.
_PANEL = 2.6
_MIN_WIDTH = 1.5
_LEFT, _RIGHT, _BOTTOM, _TOP = 1.0, 1.0, 0.6, 0.65
_COLUMN_GAP, _ROW_GAP = 0.12, 0.3
_BAR_GAP, _BAR_WIDTH = 0.1, 0.16

# Largest number of pixels that a panel shows along an axis.
_MAX_SIDE = 500

# Percentiles of the color range, and the number of pixels per channel
# from which they are measured.
_PERCENTILES = (0.3, 99.8)
_MAX_SAMPLE = 20_000


def choose_channels(n_channels: int, table: Table | None = None, *,
                    n_max: int = 12) -> list[int]:
    """
    Return the channels that represent a cube in a figure.

    Parameters
    ----------
    n_channels : int
        The number of channels of the cube.

    table : `~astropy.table.Table`, optional
        The sources, with the column ``channel``.

    n_max : int, optional
        The largest number of channels.

    Returns
    -------
    channels : list of int
        All channels if there are at most ``n_max``. Otherwise evenly
        spaced channels, of those with sources if there are sources.

    Examples
    --------
    >>> from hyperphotutils.visualization import choose_channels
    >>> choose_channels(41, n_max=5)
    [0, 10, 20, 30, 40]
    """
    channels = np.arange(n_channels)
    if n_channels > n_max and table is not None and len(table) > 0:
        channels = np.unique(np.asarray(table['channel'], dtype=int))
    n_shown = min(n_max, len(channels))
    chosen = np.round(np.linspace(0, len(channels) - 1, n_shown)).astype(int)
    return [int(channel) for channel in channels[chosen]]


def plot_channels(cube: MapCube, table: Table | None = None, *,
                  background: MapCube | ArrayLike | None = None,
                  channels: Sequence[int] | np.ndarray | None = None,
                  title: str | None = None) -> Figure:
    """
    Plot channels of a cube side by side, with the sources of each.

    Use it to inspect the sources that were found in a cube.

    Parameters
    ----------
    cube : `~hyperphotutils.maps.MapCube`
        The cube. Only one plane is in memory at a time.

    table : `~astropy.table.Table`, optional
        The sources: a result of the photometry with the column
        ``channel``. Each is drawn as an ellipse along half of its
        maximum; in all panels twice as large, as the title of the figure
        then states, where this would hide the sources and they are not
        crowded. Ellipses of sources with the flag ``doubtful`` are dashed.

    background : `~hyperphotutils.maps.MapCube` or 3D array_like, optional
        The background to subtract, in the unit of the cube. All channels
        have the same color scale, so that different backgrounds would
        hide the sources.

    channels : sequence of int, optional
        The channels. The default is the result of `choose_channels`.

    title : str, optional
        The title above the panels, in several lines if it is long.

    Returns
    -------
    figure : `~matplotlib.figure.Figure`
        The figure; ``figure.savefig(path)`` writes it.

    Raises
    ------
    ValueError
        If none of the channels has a value.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_map_cube
    >>> from hyperphotutils.visualization import plot_channels
    >>> sim = make_map_cube((6, 64, 64), 3, seed=1)
    >>> figure = plot_channels(sim.cube, sim.truth,
    ...                        background=sim.background)
    >>> [axes.get_title(loc='left') for axes in figure.axes[:3]]
    ['0: 0 km / s', '1: 0.5 km / s', '2: 1 km / s']
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if channels is None:
        channels = choose_channels(len(cube), table)
    norm, scale, unit = _colors(cube, background, channels)
    ny, nx = cube.shape[1:]
    window = (-0.5, nx - 0.5, -0.5, ny - 0.5)
    step = -(-max(ny, nx) // _MAX_SIDE)
    width, height = _panel_size((ny, nx))
    beams = [_beam(cube, channel) for channel in channels]
    tables = [None if table is None else
              table[np.asarray(table['channel']) == channel]
              for channel in channels]
    # the same for all panels: that of the most crowded one
    factor = min((ellipse_factor(here, beam, window, width)
                  for here, beam in zip(tables, beams, strict=True)
                  if here), default=1)
    described = [describe_sources(here, beam, 1)
                 for here, beam in zip(tables, beams, strict=True)]
    # (what is doubtful is said once for all panels)
    titles = [fit_titles(_name_channel(cube, channel), texts[:1], width,
                         'small')
              for channel, texts in zip(channels, described, strict=True)]
    notes = describe_factor(factor)
    if any(len(texts) > 1 for texts in described):
        notes.append('dashed: doubtful')
    n_columns = _count_columns(len(channels))
    fitting_title = fit_title('; '.join(filter(None, [title, *notes])),
                              n_columns * (width + _COLUMN_GAP)
                              - _COLUMN_GAP + _RIGHT)
    size, boxes, bar_box = _layout(
        len(channels), n_columns, width, height, fitting_title.more_height,
        height_of_more_lines(titles, 'small'))
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    for number, channel in enumerate(channels):
        # Only the panel in the lower left corner has coordinates.
        labeled = number == (len(channels) - 1) // n_columns * n_columns
        axes = figure.add_axes(
            boxes[number], projection=cube.wcs if labeled else None)
        # where titles begin
        axes.set_anchor('W')
        image = average(_plane(cube, background, channel) * scale, None, step)
        mappable = draw_image(axes, Panel('', image, _CMAP, norm, 'both'),
                              window, step=step)
        if labeled:
            label_axes(axes, cube.wcs, left=True, bottom=True)
        else:
            axes.set_xticks([])
            axes.set_yticks([])
        if np.isfinite(image).any():
            draw_sources(axes, image, tables[number], beams[number], window,
                         step=step, factor=factor)
        set_titles(axes, titles[number], 'small')
    bar = figure.colorbar(mappable, cax=figure.add_axes(bar_box),
                          extend='both', extendfrac=0.02,
                          ticks=bar_ticks(norm))
    bar.set_label(bar_label(
        '' if unit is None else unit.to_string('unicode'), norm))
    bar.minorticks_off()
    draw_title(figure, fitting_title, boxes[0][0])
    return figure


def _name_channel(cube, channel):
    """
    Return the number and the spectral coordinate of a channel as text.
    """
    value = cube.spectral_axis[channel]
    for known in (u.km / u.s, u.GHz):
        if value.unit.is_equivalent(known):
            value = value.to(known)
    return f'{channel}: {value:.7g}'


def _plane(cube, background, channel):
    """
    Return a plane without its background.
    """
    plane = cube.plane(channel)
    if background is None:
        return plane
    if hasattr(background, 'plane'):
        return plane - background.plane(channel)
    return plane - np.asarray(getattr(background, 'value',
                                      background)[channel])


def _colors(cube, background, channels):
    """
    Return the color norm of all panels, the factor that converts values
    to a readable unit, and this unit.
    """
    samples = []
    for channel in channels:
        plane = _plane(cube, background, channel)
        values = plane[np.isfinite(plane)]
        samples.append(values[::max(1, values.size // _MAX_SAMPLE)])
    values = np.concatenate(samples)
    if values.size == 0:
        msg = (f'channels {", ".join(map(str, channels))} of '
               f'{cube.name} have no values')
        raise ValueError(msg)
    try:
        unit = cube.unit
    except ValueError:
        scale, unit = 1.0, None
    else:
        scale, unit = readable_unit(values, unit)
    values *= scale
    center, noise = robust_statistics(values)
    lower, upper = np.percentile(values, _PERCENTILES)
    if not upper > lower:
        lower, upper = lower - 1.0, upper + 1.0
    lower = max(lower, center - 3 * noise) if noise > 0 else lower
    width = np.clip(3 * noise, 0.01 * (upper - lower), upper - lower)
    return asinh_norm(lower, upper, center, width), scale, unit


def _beam(cube, channel):
    """
    Return the beam of a channel in pixels, `None` if it is unknown.
    """
    try:
        meta = cube.channel(channel).meta
    except ValueError:
        return None
    return (meta['beam_major_pix'], meta['beam_minor_pix'],
            meta['beam_theta'])


def _panel_size(shape):
    """
    Return the width and height of a panel in inches.
    """
    stretch = np.sqrt(np.clip(shape[0] / shape[1], 0.25, 4.0))
    return max(_PANEL / stretch, _MIN_WIDTH), _PANEL * stretch


def _count_columns(n_panels):
    return min(n_panels, 3 if n_panels in {5, 6, 9} else 4)


def _layout(n_panels, n_columns, width, height, more_title, more_titles):
    """
    Return the figure size and the boxes of panels and color bar, in
    fractions of the figure.

    The last arguments are the heights in inches of the lines after the first
    in the title of the figure and in those of the panels.
    """
    n_rows = -(-n_panels // n_columns)
    row_gap = _ROW_GAP + more_titles
    inner = (n_columns * (width + _COLUMN_GAP) - _COLUMN_GAP,
             n_rows * (height + row_gap) - row_gap)
    size = (_LEFT + inner[0] + _RIGHT,
            _BOTTOM + inner[1] + _TOP + more_title + more_titles)
    scale = np.array([*size, *size])
    boxes = []
    for number in range(n_panels):
        row, column = divmod(number, n_columns)
        boxes.append(np.array([
            _LEFT + column * (width + _COLUMN_GAP),
            _BOTTOM + inner[1] - height - row * (height + row_gap),
            width, height]) / scale)
    bar = np.array([_LEFT + inner[0] + _BAR_GAP, _BOTTOM, _BAR_WIDTH,
                    inner[1]]) / scale
    return size, boxes, bar
