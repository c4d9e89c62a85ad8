# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Pictures of galaxies, their models, and their parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from astropy.stats import mad_std
from numpy.typing import ArrayLike

from hyperphotutils.utils.flags import FLAGS

if TYPE_CHECKING:
    from astropy.table import QTable, Table
    from matplotlib.figure import Figure
    from photutils.segmentation import SegmentationImage

__all__ = ['plot_mosaic', 'plot_parameters', 'plot_segments']

_GALAXY, _STAR = '#0072b2', '#d55e00'
_MASKED = '0.75'
# Parameters that are drawn, their names, and whether on a logarithmic axis.
_PARAMETERS = (('flux', 'flux', True), ('r_eff', 'r_eff (pixels)', True),
               ('n', 'n', True), ('q', 'q', False),
               ('theta', 'theta (degrees)', False))
_MAX_LABELS = 60
# Flags of unreliable parameters.
_DOUBTFUL = sum(FLAGS[name] for name in (
    'near_bound', 'no_convergence', 'non_finite_flux', 'no_covariance',
    'unresolved', 'too_large', 'too_few_pixels'))


def plot_segments(data: ArrayLike, segmentation: ArrayLike | SegmentationImage,
                  catalog: Table | None = None, *,
                  max_star_index: float = 0.5) -> Figure:
    """
    Draw an image with the outlines of its segments.

    Parameters
    ----------
    data : 2D array_like
        The image without background.

    segmentation : 2D int array_like or \
            `~photutils.segmentation.SegmentationImage`
        The segments.

    catalog : `~astropy.table.Table`, optional
        The catalog with ``id``, the labels of the segments, and perhaps
        ``star_index``, by which the outlines of stars have another color.

    max_star_index : float, optional
        Sources with a larger index are stars.

    Returns
    -------
    figure : `~matplotlib.figure.Figure`
        The picture.
    """
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    values = _plain(data)
    labels = np.asarray(getattr(segmentation, 'data', segmentation))
    ny, nx = values.shape
    figure = Figure(figsize=(9.0, max(3.0, 0.6 + 8.6 * ny / nx)),
                    layout='constrained')
    axes = figure.add_subplot()
    sky = values[(labels == 0) & np.isfinite(values)]
    rms = mad_std(sky) if len(sky) else 1.0
    # linear at the noise, logarithmic above (Lupton et al. 2004, PASP 116,
    # 133)
    axes.imshow(np.arcsinh(values / (2.0 * rms)), origin='lower',
                cmap='gray_r', vmin=-0.7, vmax=np.arcsinh(50.0),
                interpolation='nearest')
    stars = np.zeros(0, dtype=int)
    if catalog is not None and 'star_index' in catalog.colnames:
        index = np.asarray(catalog['star_index'], dtype=float)
        stars = np.asarray(catalog['id'])[index > max_star_index]
    is_star = np.isin(labels, stars)
    # the inner border of each segment, also where two of them touch
    inner = np.ones(labels.shape, dtype=bool)
    for axis in (0, 1):
        for step in (-1, 1):
            inner &= np.roll(labels, step, axis) == labels
    outline = np.zeros((ny, nx, 4))
    outline[(labels > 0) & ~inner & ~is_star] = to_rgba(_GALAXY)
    outline[(labels > 0) & ~inner & is_star] = to_rgba(_STAR)
    axes.imshow(outline, origin='lower', interpolation='nearest')
    names = np.unique(labels[labels > 0])
    if catalog is not None and len(names) <= _MAX_LABELS:
        for row in catalog:
            axes.annotate(str(row['id']), (row['x_centroid'],
                                           row['y_centroid']),
                          xytext=(4, 4), textcoords='offset points',
                          size='x-small', clip_on=True)
    n_stars = len(np.intersect1d(names, stars))
    axes.legend(handles=[
        Line2D([], [], color=color, label=text) for color, text in (
            (_GALAXY, f'galaxies ({len(names) - n_stars})'),
            (_STAR, f'stars ({n_stars})'))],
        loc='upper right', fontsize='small')
    axes.set(xlabel='x (pixels)', ylabel='y (pixels)')
    return figure


def plot_mosaic(table: QTable, data: ArrayLike, model: ArrayLike,
                residual: ArrayLike, *, error: ArrayLike | None = None,
                mask: ArrayLike | None = None, size: ArrayLike = 64,
                max_galaxies: int = 25) -> Figure:
    """
    Draw data, model, and residual of the brightest galaxies.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        The table of a `SersicFitter`.

    data, model, residual : 2D array_like
        The image without sky, the model, and the residual.

    error : 2D array_like, optional
        The standard deviations; residuals are drawn in their units.

    mask : 2D bool array_like, optional
        `True` for pixels that were not fitted; drawn in gray.

    size : int or 1D array_like of int, optional
        The side of the part that is drawn, in pixels; one for all
        galaxies, or one for each row.

    max_galaxies : int, optional
        The largest number of galaxies.

    Returns
    -------
    figure : `~matplotlib.figure.Figure`
        Three panels a galaxy: data and model on one scale, and the
        residual from -5 to 5 standard deviations, with ``id``, r_eff, n,
        q, and the reduced chi-squared above.

    Raises
    ------
    ValueError
        If no galaxy was fitted.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    images = [_plain(image) for image in (data, model, residual)]
    deviation = (mad_std(images[2], ignore_nan=True) if error is None
                 else _plain(error))
    images[2] = images[2] / deviation
    if mask is not None:
        images[0], images[2] = (np.where(mask, np.nan, image)
                                for image in (images[0], images[2]))
    # parts at the edge are as large as others
    size = np.broadcast_to(size, len(table))
    margin = int(size.max()) // 2
    images = [np.pad(image, margin, constant_values=np.nan)
              for image in images]
    flux = _plain(table['flux_fit'])
    order = np.argsort(-np.nan_to_num(flux, nan=-np.inf), kind='stable')
    order = order[np.isfinite(flux[order])][:max_galaxies]
    if len(order) == 0:
        msg = 'table has no galaxy with a fit'
        raise ValueError(msg)
    n_columns = min(5, len(order))
    n_lines = -(-len(order) // n_columns)
    figure = Figure(figsize=(2.8 * n_columns, 1.3 * n_lines + 0.35),
                    layout='constrained')
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.02, wspace=0.0,
                                   hspace=0.0)
    grid = figure.subplots(n_lines, 3 * n_columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    rms = np.nanmedian(deviation)
    gray, red_blue = (colormaps[name].with_extremes(bad=_MASKED)
                      for name in ('gray_r', 'RdBu_r'))
    for number, row in enumerate(order):
        line, column = divmod(number, n_columns)
        panels, galaxy = grid[line, 3 * column:3 * column + 3], table[row]
        center = [int(np.clip(round(float(galaxy[f'{axis}_fit'])), 0,
                              side - 2 * margin - 1))
                  for axis, side in zip('yx', images[0].shape, strict=True)]
        part = tuple(slice(low, low + int(size[row])) for low in (
            margin - int(size[row]) // 2 + place for place in center))
        peak = max(np.nanmax(np.abs(images[1][part]), initial=0.0) / rms, 20.0)
        for axes, image in zip(panels, images[:2], strict=False):
            axes.imshow(np.arcsinh(image[part] / (2.0 * rms)), origin='lower',
                        cmap=gray, vmin=-0.7, vmax=np.arcsinh(0.5 * peak),
                        interpolation='nearest')
        panels[2].imshow(images[2][part], origin='lower', vmin=-5.0, vmax=5.0,
                         cmap=red_blue, interpolation='nearest')
        panels[1].set_title(
            f'{galaxy["id"]}: r {galaxy["r_eff_fit"]:.1f}, '
            f'n {galaxy["n_fit"]:.1f}, q {galaxy["q_fit"]:.2f}, '
            f'chi2 {galaxy["reduced_chi2"]:.2f}', size=6, pad=2,
            color=_STAR if galaxy['flags'] & _DOUBTFUL else 'black')
        for axes in panels:
            axes.set_axis_on()
            axes.set(xticks=(), yticks=())
    figure.suptitle(f'data, model, residual (-5 to 5 sigma) of '
                    f'{len(order)} of {len(table)} galaxies', size='small')
    return figure


def plot_parameters(table: QTable, truth: Table, *,
                    reach: float = 3.0) -> Figure:
    """
    Draw fitted against true parameters, and the errors in their units.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        The table of a `SersicFitter`.

    truth : `~astropy.table.Table`
        The true sources: ``x``, ``y``, and any of ``flux``, ``r_eff``,
        ``n``, ``q``, and ``theta`` (degrees).

    reach : float, optional
        A galaxy is the nearest true source within this many pixels.

    Returns
    -------
    figure : `~matplotlib.figure.Figure`
        For each parameter, the fitted against the true value, and below
        the distribution of (fit - truth) / error, with its median and
        robust scatter. Galaxies with a flag that casts doubt on their
        parameters are orange.

    Raises
    ------
    ValueError
        If no galaxy is near a true source.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    x, y = (_plain(table[f'{axis}_fit']) for axis in 'xy')
    distance = np.hypot(x[:, None] - _plain(truth['x']),
                        y[:, None] - _plain(truth['y']))
    distance = np.where(np.isfinite(distance), distance, np.inf)
    rows = np.flatnonzero(distance.min(axis=1) <= reach)
    partners = distance.argmin(axis=1)[rows]
    if len(rows) == 0:
        msg = f'no galaxy of table is within {reach} pixels of a true one'
        raise ValueError(msg)
    chosen = [entry for entry in _PARAMETERS if entry[0] in truth.colnames]
    figure = Figure(figsize=(2.5 * len(chosen), 5.0), layout='constrained')
    grid = figure.subplots(2, len(chosen), squeeze=False)
    flagged = np.asarray(table['flags'])[rows] & _DOUBTFUL != 0
    for (name, label, is_log), upper, lower in zip(
            chosen, grid[0], grid[1], strict=True):
        fit, error = (_plain(table[f'{name}_{suffix}'])[rows]
                      for suffix in ('fit', 'err'))
        true = _plain(truth[name])[partners]
        off = fit - true
        if name == 'theta':
            # the axis of a galaxy has no sign
            off = (off + 90.0) % 180.0 - 90.0
            fit = true + off
        for part, color, text in ((~flagged, _GALAXY, 'no flag'),
                                  (flagged, _STAR, 'flagged')):
            upper.errorbar(true[part], fit[part], error[part], fmt='.',
                           color=color, elinewidth=0.6, markersize=4,
                           label=f'{text} ({part.sum()})')
        span = np.array([np.nanmin(true), np.nanmax(true)])
        upper.plot(span, span, color='0.5', linewidth=0.8, zorder=0)
        # limits, since error bars of unresolved sources reach far
        limits = span + [-0.15 * np.ptp(span), 0.15 * np.ptp(span)]
        if is_log and span[0] > 0.0:
            limits = span * [1.0 / 3.0, 3.0]
            upper.set(xscale='log', yscale='log')
            # labels of minor ticks would overlap
            for axis in (upper.xaxis, upper.yaxis):
                axis.set_minor_formatter(NullFormatter())
        upper.set_ylim(*limits)
        upper.set(xlabel=f'true {label}', ylabel=f'fitted {label}')
        with np.errstate(divide='ignore', invalid='ignore'):
            pull = off / error
        pull = pull[np.isfinite(pull) & ~flagged]
        lower.hist(np.clip(pull, -5.0, 5.0), bins=np.linspace(-5, 5, 21),
                   color=_GALAXY)
        if len(pull):
            lower.set_title(f'{np.median(pull):+.2f} ± {mad_std(pull):.2f}',
                            size='small')
        lower.set(xlabel=f'error of {name} / sigma', xlim=(-5, 5))
    grid[0, 0].legend(fontsize='x-small')
    return figure


def _plain(column):
    """
    Return a column without its unit.
    """
    return np.asarray(getattr(column, 'value', column), dtype=float)
