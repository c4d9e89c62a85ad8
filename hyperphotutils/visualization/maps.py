# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Overview figure of a measurement: map, background, model and residual.

The figures are made without pyplot: they have no global state, need no
display, and can be made in any thread or process.
"""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

import astropy.units as u
import numpy as np
from numpy.typing import ArrayLike

from hyperphotutils.utils.flags import FLAGS

if TYPE_CHECKING:
    from astropy.table import Table
    from astropy.wcs import WCS
    from matplotlib.figure import Figure

__all__ = ['plot_overview']

# White with a dark outline is visible on all colors of the map and for
# color-blind readers.
_SOURCE_COLOR = 'white'
_RIM_COLOR = '0.1'
_MISSING_COLOR = '0.85'
_IMAGE_CMAP = 'cividis'
_RESIDUAL_CMAP = 'RdBu_r'

# Geometry of the figure in inches. The size of a panel is the geometric
# mean of its sides; it is larger for larger maps.
_PANEL_RANGE = (3.8, 6.5)
_PIXELS_PER_INCH = 90
# Maps that are larger than a panel with this resolution are averaged down.
_MAX_PIXELS_PER_INCH = 110
_LEFT, _RIGHT, _BOTTOM, _TOP = 1.1, 1.0, 0.15, 0.35
_TITLE = 0.35
_COLUMN_GAP, _ROW_GAP = 1.2, 0.4
# Typical width of a character, and height of a line of text, in units of the
# font size. In points: the font size of a title, if it fits in one line, and
# that with which it is broken otherwise.
_CHARACTER, _LINE = 0.6, 1.2
_TITLE_SIZES = (12.0, 9.0)
# Width in inches that a label of the longitudes needs
_LABEL_WIDTH = 0.75
# Height of the coordinates below the first panel
_COORDINATES = 0.5
_BAR_GAP, _BAR_WIDTH = 0.08, 0.14

# Dashes of the ellipses of doubtful sources, in line widths
_DASHES = (2.5, 2.0)

# Line widths of the ellipses in points: for few and for many sources, and
# of the dark rim in units of that of the ellipse.
_LINE_RANGE = (0.45, 1.0)
_RIM_WIDTH = 2.2

# Ellipses whose median major axis would be shorter than this, in points,
# are enlarged by the factor, so that the source is visible inside; but not
# if they would then cover more than this fraction of the map.
_SMALL_ELLIPSE = 14.0
_ENLARGEMENT = 2
_MAX_COVERED = 0.15

# Angle in degrees between the axes of pixels and coordinates from which a
# coordinate grid is drawn
_ROTATED = 5.0

_MAX_LABELED = 30
# Labels of up to this many sources have a larger font.
_FEW = 10
_LABEL_GAP = 2.5

# Possible positions of the label of a source, in order of preference.
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1),
          (-1, -1))

# Smallest side of the beam box in units of the side of the map.
_BEAM_BOX = 0.04

# Percentiles of the finite pixels that limit the color range, so that it
# is not determined by the brightest source or a bad pixel.
_PERCENTILES = (0.3, 99.8)

# Half of the color range of the residual in units of the rms.
_RESIDUAL_RANGE = 5.0

# Sigma of the Gaussian, in units of the FWHM of the beam, with which the
# map is smoothed where no background was fitted.
_SMOOTHING = 1.5
_DEFAULT_FWHM = 5.0
# Squares with sides of up to this fraction of sigma are as good as pixels for
# the filter.
_SQUARE = 0.35

# The pixels that are read at once
_BLOCK = 1 << 20

_PREFIXES = {-12: 'p', -9: 'n', -6: 'μ', -3: 'm', 0: '', 3: 'k', 6: 'M'}

# Columns of fitted and of detected sources.
_FITTED = ('x_fit', 'y_fit', 'fwhm_major_fit', 'fwhm_minor_fit', 'theta_fit')
_DETECTED = ('x_centroid', 'y_centroid')

# Labels of the axes by the type of the longitude in the header.
_AXIS_NAMES = {
    'RA': ('Right ascension', 'Declination'),
    'GLON': ('Galactic longitude', 'Galactic latitude'),
    'ELON': ('Ecliptic longitude', 'Ecliptic latitude'),
}


class Panel(NamedTuple):
    title: str
    image: np.ndarray
    cmap: str
    norm: Any
    extend: str


class _Grid(NamedTuple):
    """
    The size of a figure in inches and its boxes in fractions of it.
    """

    size: tuple
    left: float
    boxes: list


def plot_overview(data: ArrayLike | u.Quantity, table: Table | None = None, *,
                  wcs: WCS | None = None, mask: ArrayLike | None = None,
                  background: ArrayLike | u.Quantity | None = None,
                  model: ArrayLike | u.Quantity | None = None,
                  residual: ArrayLike | u.Quantity | None = None,
                  beam: float | tuple[float, ...] | None = None,
                  rms: float | u.Quantity | None = None,
                  title: str | None = None) -> Figure:
    """
    Plot a map with its sources, background, model and residual.

    Use it to check a catalog. Panels whose image is not given are
    omitted.

    Parameters
    ----------
    data : 2D array_like or `~astropy.units.Quantity`
        The map. Pixels that are not finite are shown in light gray.

    table : `~astropy.table.Table`, optional
        The sources: a result of the photometry, with the columns
        ``x_fit``, ``y_fit``, ``fwhm_major_fit``, ``fwhm_minor_fit`` and
        ``theta_fit``, or of a star finder, with ``x_centroid`` and
        ``y_centroid``. Each is drawn as an ellipse along half of its
        maximum (for a star finder: a circle of the beam's size); twice
        as large, as the title of the panel then states, where this would
        hide the sources and they are not crowded. Few sources are
        labeled with their ``id`` where there is room for it. Ellipses
        of sources with the flag ``doubtful`` are dashed. Rows without a
        finite fit are neither drawn nor counted.

    wcs : `~astropy.wcs.WCS`, optional
        The celestial WCS of the map. If `None` (default), the axes are
        in pixels. The coordinates are drawn on the first panel only,
        because all panels show the same area.

    mask : 2D bool array_like, optional
        `True` for pixels that are shown as missing.

    background, model, residual : 2D array_like or Quantity, optional
        The background, the sum of the sources, and the residual, with
        the shape and the unit of ``data``. Where the background is NaN
        (not fitted), the smoothed difference of map and model is shown
        instead and subtracted from the residual, and the fitted areas
        are outlined.

    beam : float or tuple of float, optional
        The FWHM of the beam in pixels: one number for a round beam or
        ``(major, minor, theta)`` with the angle of the major axis in
        degrees counterclockwise from +x. It is drawn to scale in the
        corner with the fewest sources.

    rms : float or `~astropy.units.Quantity`, optional
        The noise. The color range of the residual is -5 to 5 times the
        noise. It is measured in the residual if it is not given or if
        the residual is averaged down.

    title : str, optional
        The title above the panels.

    Returns
    -------
    figure : `~matplotlib.figure.Figure`
        The figure; ``figure.savefig(path)`` writes it.

    Raises
    ------
    ValueError
        If an image is not 2D or has a different shape than ``data``, if
        no pixel is finite, or if the table has no such columns.

    Notes
    -----
    Maps with more pixels than the figure are averaged down before colors
    are assigned: each block of pixels is shown as the mean of its finite
    pixels, or as missing if more than half of them are.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.visualization import plot_overview
    >>> y, x = np.mgrid[:40, :50]
    >>> model = 10 * np.exp(-((x - 20) ** 2 + (y - 25) ** 2) / 8)
    >>> noise = np.random.default_rng(1).normal(size=model.shape)
    >>> figure = plot_overview(model + noise, model=model,
    ...                        residual=noise, beam=4.7)
    >>> [axes.get_title(loc='left') for axes in figure.axes if axes.images]
    ['Map', 'Model', 'Residual']
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    step = 1
    if np.ndim(data) == 2:
        step = max(1, round(np.sqrt(np.size(data))
                            / (_PANEL_RANGE[1] * _MAX_PIXELS_PER_INCH)))
    images, unit = check_images(data, mask, step=step, background=background,
                                model=model, residual=residual, rms=rms)
    rms = images.pop('rms', None) if step == 1 else None
    images.pop('rms', None)
    fitted = complete_background(images, beam, step)
    window = _window(images['map'], np.shape(data), step)
    panels = make_panels(images, rms)
    n_columns, width, height = _panel_size(len(panels), window)
    factor = ellipse_factor(table, beam, window, width)
    details = {'Map': describe_sources(table, beam, factor),
               'Residual': [f'colors to ±{_RESIDUAL_RANGE:g} rms']}
    if fitted is not None:
        details['Background'] = ['outlined: fitted']
    titles = [fit_titles(panel.title, details.get(panel.title, []), width)
              for panel in panels]
    # only narrow panels, which are in one row, have titles of more lines
    top = _TOP + height_of_more_lines(titles)
    fitting_title = fit_title(title, n_columns * (width + _COLUMN_GAP)
                              - _COLUMN_GAP + _RIGHT)
    if title:
        top += _TITLE + fitting_title.more_height
    grid = _layout(len(panels), n_columns, width, height, top)
    figure = Figure(figsize=grid.size)
    FigureCanvasAgg(figure)
    draw_title(figure, fitting_title, grid.left)
    label = unit.to_string('unicode') if unit is not None else ''
    for number, panel in enumerate(panels):
        box, bar_box = grid.boxes[number]
        # WCSAxes are slow, and one set of coordinates is enough.
        axes = figure.add_axes(box, projection=wcs if number == 0 else None)
        draw_panel(axes, figure.add_axes(bar_box), panel, window, label,
                   step=step)
        if number == 0:
            label_axes(axes, wcs, left=True, bottom=True)
            draw_sources(axes, panel.image, table, beam, window, step=step,
                         factor=factor)
        else:
            axes.set_xticks([])
            axes.set_yticks([])
        if panel.title == 'Background' and fitted is not None:
            y, x = (step * np.arange(n) + 0.5 * (step - 1)
                    for n in fitted.shape)
            axes.contour(x, y, fitted, levels=[0.5], colors=_SOURCE_COLOR,
                         linewidths=0.4, alpha=0.7)
        if panel.title == 'Residual' and table is not None:
            shapes = _finite_shapes(table, beam, factor)[0]
            _add_ellipses(axes, shapes, _RIM_COLOR, 0.4, alpha=0.6)
        set_titles(axes, titles[number])
    return figure


class FittingTitle(NamedTuple):
    """
    A title in lines that fit, its font size in points, and the height in
    inches of the lines below the first.
    """

    text: str
    size: float
    more_height: float


def fit_title(title, width):
    """
    Return the title of a figure in the largest font with which it fits a
    width in inches; in more lines if that would be too small.
    """
    largest, smallest = _TITLE_SIZES
    size = 72 * width / (_CHARACTER * max(1, len(title or '')))
    if size >= smallest:
        return FittingTitle(title or '', min(size, largest), 0.0)
    n_characters = int(72 * width / (_CHARACTER * smallest))
    lines = textwrap.wrap(title, n_characters)
    return FittingTitle('\n'.join(lines), smallest,
                        (len(lines) - 1) * _LINE * smallest / 72)


def draw_title(figure, title, left):
    """
    Draw the `FittingTitle` of a figure at its top.
    """
    if title.text:
        figure.text(left, 1 - 0.12 / figure.get_figheight(), title.text,
                    va='top', size=title.size)


def fit_titles(name, details, width, size='medium'):
    """
    Return the titles at the left and at the right of a panel with a width in
    inches: its name, and details.

    Where they do not fit side by side, all of them are at the left, in
    several lines.
    """
    from matplotlib.font_manager import FontProperties

    points = FontProperties(size=size).get_size_in_points()
    n_characters = int(72 * width / (_CHARACTER * points))
    right = ', '.join(details)
    if not right or len(f'{name}  {right}') <= n_characters:
        return name, right
    lines = []
    for detail in details:
        if lines and len(f'{lines[-1]}, {detail}') <= n_characters:
            lines[-1] += f', {detail}'
        else:
            lines.append(detail)
    return '\n'.join([name, *lines] if name else lines), ''


def set_titles(axes, titles, size='medium'):
    """
    Draw the titles of `fit_titles` above a panel.
    """
    for loc, text in zip(('left', 'right'), titles, strict=True):
        axes.set_title(text, loc=loc, size=size)


def height_of_more_lines(titles, size='medium'):
    """
    Return the height in inches that the titles of panels need above their
    first line.
    """
    from matplotlib.font_manager import FontProperties

    points = FontProperties(size=size).get_size_in_points()
    return max(left.count('\n') for left, _ in titles) * _LINE * points / 72


def check_images(data, mask, *, rms, step=1, **others):
    """
    Return a dictionary of the images in a readable unit, averaged over
    squares with sides of ``step`` pixels, and this unit.
    """
    unit = getattr(data, 'unit', None)
    given = {'map': data, 'rms': rms, **others}
    images = {}
    for name, image in given.items():
        if image is None:
            continue
        if getattr(image, 'unit', None) is not None:
            if unit is None:
                msg = f'data has no unit, but {name} has: {image.unit}'
                raise ValueError(msg)
            image = u.Quantity(image).to_value(unit)
        if name == 'rms':
            images[name] = np.array(image, dtype=float)
            continue
        if np.ndim(image) != 2 or np.shape(image) != np.shape(data):
            msg = (f'{name} must be 2D with the shape of data, (ny, nx) = '
                   f'{np.shape(data)}: got {np.shape(image)}')
            raise ValueError(msg)
        images[name] = average(np.asarray(image), mask, step)
    if np.isnan(images['map']).all():
        msg = 'data has no finite pixel'
        raise ValueError(msg)
    if unit is None:
        return images, None
    scale, unit = readable_unit(images['map'], unit)
    return {name: image * scale for name, image in images.items()}, unit


def average(image, mask, step):
    """
    Return the means of the finite unmasked pixels in squares with sides
    of ``step`` pixels; NaN where more than half of them are missing.

    A few rows are read at a time, as an image may be in a file.
    """
    mask = None if mask is None else np.asarray(mask, dtype=bool)
    if step == 1:
        values = np.array(image[:], dtype=float)
        missing = ~np.isfinite(values)
        values[missing if mask is None else missing | mask] = np.nan
        return values
    ny, nx = image.shape
    columns = np.arange(0, nx, step)
    averaged = np.empty((-(-ny // step), columns.size))
    at_once = step * max(1, _BLOCK // (step * nx))
    for row, start in enumerate(range(0, ny, step)):
        if start % at_once == 0:
            block = np.array(image[start:start + at_once], dtype=float)
        values = block[start % at_once:][:step]
        good = np.isfinite(values)
        if mask is not None:
            good &= ~mask[start:start + step]
        values[~good] = 0.0
        number = np.add.reduceat(good.sum(axis=0), columns)
        size = len(values) * np.diff(columns, append=nx)
        averaged[row] = (np.add.reduceat(values.sum(axis=0), columns)
                         / np.where(2 * number >= size, number, np.nan))
    return averaged


def complete_background(images, beam, step=1):
    """
    Fill the background and the residual where no background was fitted,
    in place.

    Returns the mask of fitted pixels, or `None` if nothing was filled or
    nothing was fitted.
    """
    from scipy.ndimage import gaussian_filter

    if 'background' not in images:
        return None
    fitted = np.isfinite(images['background'])
    missing = ~fitted & np.isfinite(images['map'])
    if not missing.any():
        return None
    rest = images['map'] - np.nan_to_num(images.get('model', 0.0))
    known = np.isfinite(rest)
    width = _SMOOTHING * (_DEFAULT_FWHM if beam is None
                          else _beam_shape(beam)[0]) / step
    # a power of two, so that parts of a map can have the same squares
    side = 1 << max(0, math.frexp(_SQUARE * width)[1] - 1)

    def smoothed(values):
        if side > 1:
            for axis, size in enumerate(known.shape):
                values = np.add.reduceat(values, np.arange(0, size, side),
                                         axis=axis)
        return gaussian_filter(values, width / side, mode='constant')

    filling = smoothed(np.where(known, rest, 0.0))
    norm = smoothed(known.astype(rest.dtype))
    np.divide(filling, norm, out=filling, where=norm > 0.0)
    if side > 1:
        ny, nx = known.shape
        filling = filling.repeat(side, axis=0)[:ny].repeat(side,
                                                           axis=1)[:, :nx]
    np.copyto(images['background'], filling, where=missing)
    if 'residual' in images:
        np.copyto(images['residual'], rest - filling, where=missing)
    return fitted if fitted.any() else None


def readable_unit(image, unit):
    """
    Return the factor to a unit with a prefix for which numbers are short,
    and this unit.

    For the unit Jy/pix and values of about 1e-5 it is uJy/pix.
    """
    unit = u.Unit(unit)
    peak = np.nanpercentile(np.abs(image), _PERCENTILES[1])
    if not peak > 0 or not unit.bases:
        return 1.0, unit
    power = int(np.clip(3 * np.floor(np.log10(peak) / 3), -12, 6))
    base = unit.bases[0]
    try:
        prefixed = u.Unit(f'{_PREFIXES[power]}{base}')
    except ValueError:
        # The base already has a prefix, as the MJy of MJy/sr.
        return 1.0, unit
    unit_prefixed = prefixed * (unit / base)
    return unit.to(unit_prefixed), unit_prefixed


def _window(image, shape, step):
    """
    Return the limits of the finite pixels with a margin, as ``(left,
    right, bottom, top)`` in pixels of the map with this shape.
    """
    ny, nx = shape
    finite = np.isfinite(image)
    rows, columns = (step * np.flatnonzero(finite.any(axis=axis))
                     for axis in (1, 0))
    margin = 0.02 * max(np.ptp(rows), np.ptp(columns)) + step - 1
    return (max(columns.min() - margin, 0) - 0.5,
            min(columns.max() + margin, nx - 1) + 0.5,
            max(rows.min() - margin, 0) - 0.5,
            min(rows.max() + margin, ny - 1) + 0.5)


def make_panels(images, rms):
    """
    Return the panels with their color scales.

    Map and background have the same scale, so that they can be compared.
    That of the model is the same minus the median of the map.
    """
    from matplotlib.colors import Normalize

    lower, upper = np.nanpercentile(images['map'], _PERCENTILES)
    if not upper > lower:
        lower, upper = lower - 1.0, upper + 1.0
    center, noise = robust_statistics(images['map'])
    # The noise should not occupy a large part of the color range.
    lower = max(lower, center - 3 * noise) if noise > 0 else lower
    width = np.clip(3 * noise, 0.01 * (upper - lower), upper - lower)

    panels = [Panel('Map', images['map'], _IMAGE_CMAP,
                     asinh_norm(lower, upper, center, width), 'both')]
    if 'background' in images:
        panels.append(panels[0]._replace(title='Background',
                                         image=images['background']))
    if 'model' in images:
        norm = asinh_norm(0.0, upper - center, 0.0, width)
        panels.append(Panel('Model', images['model'], _IMAGE_CMAP, norm,
                             'max'))
    if 'residual' in images:
        if rms is None:
            _, rms = robust_statistics(images['residual'])
        limit = _RESIDUAL_RANGE * float(rms)
        if not limit > 0:
            limit = 1.0
        panels.append(Panel('Residual', images['residual'], _RESIDUAL_CMAP,
                            Normalize(-limit, limit), 'both'))
    return panels


def robust_statistics(image):
    """
    Return the median and the standard deviation of most pixels.
    """
    values = image[np.isfinite(image)]
    if not len(values):
        return np.nan, 0.0
    center = np.median(values)
    return center, 1.4826 * np.median(np.abs(values - center))


def asinh_norm(lower, upper, center, width):
    """
    Return a norm that is linear within ``width`` of ``center`` and
    logarithmic far from it.
    """
    from matplotlib.colors import FuncNorm

    # Arithmetic of masked arrays is slow; the norm masks NaN again.
    return FuncNorm((
        lambda x: np.arcsinh((np.ma.filled(x, np.nan) - center) / width),
        lambda y: center + width * np.sinh(y)), vmin=lower, vmax=upper)


def _panel_size(n_panels, window):
    """
    Return the number of columns, and the width and height of a panel in
    inches, for maps of this shape.
    """
    nx, ny = window[1] - window[0], window[3] - window[2]
    if ny > 1.6 * nx:
        n_columns = n_panels
    elif ny < 0.5 * nx:
        n_columns = 1
    else:
        n_columns = min(n_panels, 2)
    side = np.clip(np.sqrt(nx * ny) / _PIXELS_PER_INCH, *_PANEL_RANGE)
    stretch = np.sqrt(np.clip(ny / nx, 0.1, 10))
    return n_columns, side / stretch, side * stretch


def _layout(n_panels, n_columns, width, height, top):
    """
    Return the layout of panels and color bars below titles that need the
    height ``top``.

    The layout engines of matplotlib are not used, because they give
    color bars and panels different heights.
    """
    n_rows = -(-n_panels // n_columns)
    size = (_LEFT + n_columns * width + (n_columns - 1) * _COLUMN_GAP
            + _RIGHT,
            _BOTTOM + _COORDINATES + n_rows * height
            + (n_rows - 1) * _ROW_GAP + top)
    boxes = []
    for number in range(n_panels):
        row, column = divmod(number, n_columns)
        left = _LEFT + column * (width + _COLUMN_GAP)
        bottom = (size[1] - top - height - row * (height + _ROW_GAP)
                  - (row > 0) * _COORDINATES)
        bar = left + width + _BAR_GAP
        boxes.append(tuple(
            (x / size[0], bottom / size[1], dx / size[0], height / size[1])
            for x, dx in ((left, width), (bar, _BAR_WIDTH))))
    return _Grid(size, _LEFT / size[0], boxes)


def draw_panel(axes, bar_axes, panel, window, label, *, step=None):
    """
    Draw an image and its color bar.
    """
    mappable = draw_image(axes, panel, window, step=step)
    bar = axes.figure.colorbar(mappable, cax=bar_axes, extend=panel.extend,
                               extendfrac=0.02, ticks=bar_ticks(panel.norm))
    bar.set_label(bar_label(label, panel.norm), labelpad=2)
    bar.minorticks_off()
    bar_axes.tick_params(labelsize='small')


def draw_image(axes, panel, window, *, step=None):
    """
    Draw an image, and return what its color bar is made from.

    With a ``step``, in pixels of the map per pixel of the image, colors
    are assigned once at the resolution of the image. Without, the artist
    keeps the values.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.image import PcolorImage

    cmap = colormaps[panel.cmap].with_extremes(bad=_MISSING_COLOR)
    axes.set_facecolor(_MISSING_COLOR)
    values = np.ma.masked_invalid(panel.image)
    if step is None:
        image = axes.imshow(values, cmap=cmap, norm=panel.norm,
                            origin='lower', interpolation='nearest')
    else:
        # drawn by indices, in a third of the time of imshow
        x, y = (step * np.arange(n + 1) - 0.5 for n in reversed(values.shape))
        image = PcolorImage(axes, x, y, cmap(panel.norm(values), bytes=True),
                            cmap=cmap, norm=panel.norm)
        axes.add_image(image)
        axes.set_aspect('equal')
    axes.set_xlim(window[0], window[1])
    axes.set_ylim(window[2], window[3])
    return image if step is None else ScalarMappable(panel.norm, cmap)


# Digits of the ticks of a color bar in order of preference, and how far
# apart, in units of the bar, such a tick must be from the others.
_TICKS = (((1,), 0.08), ((5,), 0.08), ((2,), 0.08), ((3, 7, 4, 6, 8), 0.15),
          ((1.5, 2.5, 3.5, 4.5), 0.18), (range(10, 100), 0.25))
_MIN_TICKS = 4


def bar_ticks(norm, n_ticks=8):
    """
    Return round numbers that are spread along a color bar.

    On a stretched scale, these are zero and the powers of ten, multiples
    of them by 5 and by 2, and less round numbers only in large gaps.
    """
    from matplotlib.ticker import MaxNLocator

    even = MaxNLocator(n_ticks, steps=[1, 2, 5, 10]).tick_values(
        norm.vmin, norm.vmax)
    even = even[(even >= norm.vmin) & (even <= norm.vmax)]
    if is_linear(norm):
        return even
    largest = np.ceil(np.log10(max(abs(norm.vmin), abs(norm.vmax))))
    powers = 10.0**np.arange(largest, largest - 6, -1)
    ticks, places = [], []
    for digits, gap in (((0,), 0.0), *_TICKS):
        values = np.multiply.outer(powers, digits).ravel()
        values = np.unique(np.concatenate([values, 0.0 - values]))
        # Remove the rounding errors of the products.
        values = np.array([float(f'{value:.6g}') for value in values])
        values = values[(values >= norm.vmin) & (values <= norm.vmax)]
        order = np.argsort(-np.abs(values), kind='stable')
        for value, place in zip(values[order], np.asarray(norm(values))[order],
                                strict=True):
            if all(abs(place - other) >= gap for other in places):
                ticks.append(value)
                places.append(place)
    # A range far from zero has few such numbers.
    return np.sort(ticks) if len(ticks) >= _MIN_TICKS else even


def bar_label(unit, norm):
    """
    Return the label of a color bar: the unit and the scale.
    """
    if is_linear(norm):
        return unit
    return f'{unit} (asinh scale)' if unit else 'asinh scale'


def is_linear(norm):
    """
    Whether a norm is linear.
    """
    return type(norm).__name__ == 'Normalize'


def label_axes(axes, wcs, *, left, bottom):
    if wcs is None:
        axes.set_xlabel('x (pixels)' if bottom else '')
        axes.set_ylabel('y (pixels)' if left else '')
        return
    lon, lat = axes.coords
    names = _AXIS_NAMES.get(wcs.wcs.lngtyp, (wcs.wcs.lngtyp, wcs.wcs.lattyp))
    frame = wcs.wcs.radesys if wcs.wcs.lngtyp == 'RA' else ''
    suffix = f' ({frame})' if frame else ''
    lon.set_axislabel(names[0] + suffix if bottom else ' ')
    lat.set_axislabel(names[1] + suffix if left else ' ')
    # between the x axis and that of the longitude at the reference pixel
    matrix = wcs.pixel_scale_matrix
    rotation = np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0]))
    is_rotated = abs((rotation + 45.0) % 90.0 - 45.0) > _ROTATED
    sides = 'bl' if abs((rotation + 90.0) % 180.0 - 90.0) <= 45.0 else 'lb'
    for coord, side, shown in ((lon, sides[0], bottom),
                               (lat, sides[1], left)):
        coord.set_ticklabel_position(side)
        coord.set_axislabel_position(side)
        coord.set_ticklabel_visible(shown)
        # Along each edge of a rotated map, a coordinate changes less.
        n_ticks = 8 if is_rotated else 5
        if side == 'b':
            # so that labels side by side do not touch
            width = axes.bbox.width / axes.figure.dpi
            n_ticks = int(np.clip(width / _LABEL_WIDTH, 2, n_ticks))
        coord.set_ticks(number=n_ticks)
        coord.set_ticklabel(exclude_overlapping=True, size='small')
        if coord.get_format_unit() == u.hourangle:
            # The default is mathtext, whose parser takes as long as the
            # rest of the figure.
            coord.set_separator(('ʰ', 'ᵐ', 'ˢ'))
        if is_rotated:
            coord.grid(color=_SOURCE_COLOR, alpha=0.25, linewidth=0.5)


def draw_sources(axes, image, table, beam, window, *, step=1, factor=1):
    """
    Draw ellipses, enlarged by a factor, the beam, and the labels for which
    there is space.
    """
    shapes = np.empty((5, 0))
    if table is not None:
        shapes, known = _finite_shapes(table, beam, factor)
        _draw_ellipses(axes, shapes, _are_doubtful(table)[known])
    x, y, major, minor, theta = shapes
    cos, sin = np.cos(np.deg2rad(theta)), np.sin(np.deg2rad(theta))
    width = 0.5 * np.hypot(major * cos, minor * sin)
    height = 0.5 * np.hypot(major * sin, minor * cos)
    boxes = np.column_stack([x - width, x + width, y - height, y + height])
    if beam is not None:
        boxes = np.vstack([boxes, _draw_beam(axes, beam, image, boxes,
                                             window, step)])
    if 0 < shapes.shape[1] <= _MAX_LABELED and 'id' in table.colnames:
        _label_sources(axes, [str(name) for name in table['id'][known]],
                       boxes)


def describe_sources(table, beam, factor):
    """
    Return what a title says about the drawn sources.
    """
    if table is None:
        return []
    known = _finite_shapes(table, beam)[1]
    n_sources = int(np.count_nonzero(known))
    texts = [f'{n_sources} source{"s" * (n_sources != 1)}']
    if n_doubtful := np.count_nonzero(known & _are_doubtful(table)):
        texts.append(f'{n_doubtful} doubtful (dashed)')
    return texts + describe_factor(factor)


def describe_factor(factor):
    """
    Return what a title says about enlarged ellipses.
    """
    return [f'ellipses: {factor} FWHM'] if factor > 1 else []


def _are_doubtful(table):
    """
    Whether the sources of a table have the flag ``doubtful``.
    """
    if 'flags' not in table.colnames:
        return np.zeros(len(table), dtype=bool)
    return (np.asarray(table['flags']) & FLAGS['doubtful']) > 0


def _finite_shapes(table, beam, factor=1):
    """
    Return positions, axes, and angles of the sources for which they are
    finite, and which these are. The axes are multiplied by a factor.
    """
    shapes = np.array(_source_shapes(table, beam))
    shapes[2:4] *= factor
    known = np.isfinite(shapes).all(axis=0)
    return shapes[:, known], known


def ellipse_factor(table, beam, window, width):
    """
    Return the factor by which ellipses are enlarged where they would hide
    the sources, in a panel with a width in inches.
    """
    if table is None:
        return 1
    shapes, _ = _finite_shapes(table, beam)
    if shapes.shape[1] == 0:
        return 1
    nx, ny = window[1] - window[0], window[3] - window[2]
    covered = 0.25 * np.pi * _ENLARGEMENT**2 * np.sum(shapes[2] * shapes[3])
    if (np.median(shapes[2]) * 72 * width / nx >= _SMALL_ELLIPSE
            or covered > _MAX_COVERED * nx * ny):
        return 1
    return _ENLARGEMENT


def _draw_ellipses(axes, shapes, doubtful):
    """
    Draw white ellipses on wider dark ones.

    Two collections are several times faster than path effects.
    """
    width = np.clip(12 / np.sqrt(max(len(doubtful), 1)), *_LINE_RANGE)
    for color, line_width, alpha in (
            (_RIM_COLOR, _RIM_WIDTH * width, 0.7),
            (_SOURCE_COLOR, width, 1.0)):
        # Dashes are in units of the line width.
        dashes = (0, tuple(length * width / line_width
                           for length in _DASHES))
        _add_ellipses(axes, shapes, color, line_width, alpha=alpha,
                      linestyles=[dashes if dashed else 'solid'
                                  for dashed in doubtful] or 'solid')


def _add_ellipses(axes, shapes, color, line_width, **kwargs):
    from matplotlib.collections import EllipseCollection

    x, y, major, minor, theta = shapes
    axes.add_collection(EllipseCollection(
        major, minor, theta, units='xy', offsets=np.column_stack([x, y]),
        offset_transform=axes.transData, facecolors='none',
        edgecolors=color, linewidths=line_width, **kwargs))


def _label_sources(axes, names, boxes):
    """
    Label the ellipses without overlaps.

    The first boxes are those of the labeled ellipses. A label for which
    there is no space on any side is omitted.
    """
    from matplotlib.patheffects import withStroke

    axes.apply_aspect()
    to_display = axes.transData.transform
    points = axes.figure.dpi / 72
    taken = np.column_stack([to_display(boxes[:, [0, 2]]),
                             to_display(boxes[:, [1, 3]])])[:, [0, 2, 1, 3]]
    inside = axes.bbox
    for number, name in enumerate(names):
        left, right, bottom, top = boxes[number]
        center = 0.5 * (left + right), 0.5 * (bottom + top)
        half = 0.5 * (right - left), 0.5 * (top - bottom)
        text = axes.annotate(
            name, center, xytext=(0, 0), textcoords='offset points',
            size='medium' if len(names) <= _FEW else 'small',
            color=_SOURCE_COLOR, path_effects=[withStroke(
                linewidth=0.5 * _RIM_WIDTH, foreground=_RIM_COLOR,
                alpha=0.7)],
            annotation_clip=False)
        for dx, dy in _SIDES:
            # Diagonally, the label may be closer to the ellipse.
            reach = 1.0 if dx == 0 or dy == 0 else 0.75
            text.xy = (center[0] + reach * dx * half[0],
                       center[1] + reach * dy * half[1])
            text.set_position((_LABEL_GAP * dx, _LABEL_GAP * dy))
            text.set_ha(('center', 'left', 'right')[dx])
            text.set_va(('center', 'bottom', 'top')[dy])
            extent = text.get_window_extent().padded(0.5 * points)
            others = np.delete(taken, number, axis=0).T
            overlap = ((others[0] < extent.x1) & (others[1] > extent.x0)
                       & (others[2] < extent.y1) & (others[3] > extent.y0))
            if (inside.count_contains(extent.corners()) == 4
                    and not overlap.any()):
                taken = np.vstack([taken, [extent.x0, extent.x1, extent.y0,
                                           extent.y1]])
                break
        else:
            text.remove()


def _source_shapes(table, beam):
    if all(name in table.colnames for name in _FITTED):
        columns = [u.Quantity(table[name], copy=False) for name in _FITTED]
        theta = columns[-1]
        if theta.unit.is_equivalent(u.deg) and theta.unit != u.one:
            columns[-1] = theta.to(u.deg)
        return [np.asarray(column.value, dtype=float) for column in columns]
    if all(name in table.colnames for name in _DETECTED):
        x, y = (np.asarray(table[name], dtype=float) for name in _DETECTED)
        shape = _beam_shape(beam) if beam is not None else (
            _DEFAULT_FWHM, _DEFAULT_FWHM, 0.0)
        return [x, y, *(np.full(len(x), value) for value in shape)]
    msg = (f'table must have the columns {_FITTED} or {_DETECTED}: got '
           f'{table.colnames}')
    raise ValueError(msg)


def _beam_shape(beam):
    shape = np.atleast_1d(np.asarray(beam, dtype=float))
    if shape.shape == (1,):
        return shape[0], shape[0], 0.0
    if shape.shape != (3,):
        msg = f'beam must be one FWHM or (major, minor, theta): got {beam!r}'
        raise ValueError(msg)
    return tuple(shape)


def _draw_beam(axes, beam, image, boxes, window, step):
    """
    Draw the beam in a white box in the corner with the fewest sources.

    Returns left, right, bottom, and top of the white box.
    """
    from matplotlib.patches import Ellipse, Rectangle

    major, minor, theta = _beam_shape(beam)
    extent = min(window[1] - window[0], window[3] - window[2])
    side = max(1.5 * major, _BEAM_BOX * extent)
    box = _emptiest_corner(image, boxes, window, side, 0.02 * extent, step)
    axes.add_patch(Rectangle((box[0], box[2]), side, side, facecolor='white',
                             edgecolor='black', linewidth=1.0, zorder=4))
    axes.add_patch(Ellipse((box[0] + side / 2, box[2] + side / 2), major,
                           minor, angle=theta, facecolor='0.3',
                           edgecolor='black', linewidth=0.6, zorder=5))
    return box


def _emptiest_corner(image, boxes, window, side, margin, step):
    """
    Return the box in the corner with the fewest sources; of corners with
    equally few sources, that with the least emission.
    """
    center, std = robust_statistics(image)
    bright = image > center + 3 * std
    corners = []
    for bottom in (window[2] + margin, window[3] - margin - side):
        for left in (window[0] + margin, window[1] - margin - side):
            box = left, left + side, bottom, bottom + side
            n_sources = np.count_nonzero(
                (boxes[:, 0] < box[1]) & (boxes[:, 1] > box[0])
                & (boxes[:, 2] < box[3]) & (boxes[:, 3] > box[2]))
            columns, rows = (
                slice(max(int(low), 0) // step,
                      max(int(high), 0) // step + 1)
                for low, high in (box[:2], box[2:]))
            # Rounded, so that noise does not decide.
            emission = round(float(np.mean(bright[rows, columns])), 1)
            corners.append((n_sources, emission, len(corners), box))
    return min(corners)[-1]
