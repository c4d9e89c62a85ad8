# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figure of one image with its sources, on axes of the user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from numpy.typing import ArrayLike

from hyperphotutils.visualization.maps import (
    check_images,
    describe_sources,
    draw_panel,
    draw_sources,
    ellipse_factor,
    fit_titles,
    label_axes,
    make_panels,
    set_titles,
)

if TYPE_CHECKING:
    from astropy.table import Table
    from astropy.units import Quantity
    from matplotlib.axes import Axes

__all__ = ['plot_image']

# Left, bottom, width, and height of the color bar in units of the axes
_BAR_BOX = (1.02, 0.0, 0.035, 1.0)


def plot_image(data: ArrayLike | Quantity, table: Table | None = None, *,
               ax: Axes | None = None, mask: ArrayLike | None = None,
               beam: float | tuple[float, ...] | None = None,
               stretch: Literal['asinh', 'linear'] = 'asinh',
               label: str | None = None) -> Axes:
    """
    Plot an image with its sources and a color bar.

    Use it for figures of your own; `plot_overview` shows a map and all
    images of its measurement.

    Parameters
    ----------
    data : 2D array_like or `~astropy.units.Quantity`
        The image. Pixels that are not finite are shown in light gray.

    table : `~astropy.table.Table`, optional
        The sources, which are drawn as by `plot_overview`.

    ax : `~matplotlib.axes.Axes`, optional
        Where to plot; the current axes of pyplot by default. Axes with a
        WCS (``plt.subplot(projection=wcs)``) are labeled with sky
        coordinates, others in pixels.

    mask : 2D bool array_like, optional
        `True` for pixels that are shown as missing.

    beam : float or tuple of float, optional
        The FWHM of the beam in pixels, see `plot_overview`.

    stretch : {'asinh', 'linear'}, optional
        The color scale: ``'asinh'`` is linear within the noise and
        logarithmic far above it.

    label : str, optional
        The label of the color bar; the unit by default.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes. Their title on the left is free.

    Raises
    ------
    ValueError
        If the image is not 2D, if no pixel is finite, if the table has
        no such columns, or if ``stretch`` is unknown.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from hyperphotutils.datasets import make_blended_map
    >>> from hyperphotutils.visualization import plot_image
    >>> sim = make_blended_map((80, 100), 5, seed=1)
    >>> fig, ax = plt.subplots()
    >>> ax = plot_image(sim.image.data << sim.image.unit, sim.truth, ax=ax)
    >>> ax.get_title(loc='right')
    '5 sources'
    >>> plt.close(fig)
    """
    from matplotlib.colors import Normalize

    if stretch not in {'asinh', 'linear'}:
        msg = f"stretch must be 'asinh' or 'linear': {stretch!r}"
        raise ValueError(msg)
    images, unit = check_images(data, mask, rms=None)
    panel, = make_panels(images, None)
    if stretch == 'linear':
        panel = panel._replace(norm=Normalize(panel.norm.vmin,
                                              panel.norm.vmax))
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.gca()
    if label is None:
        label = unit.to_string('unicode') if unit is not None else ''
    ny, nx = panel.image.shape
    window = (-0.5, nx - 0.5, -0.5, ny - 0.5)
    draw_panel(ax, ax.inset_axes(_BAR_BOX), panel, window, label)
    label_axes(ax, getattr(ax, 'wcs', None), left=True, bottom=True)
    width = ax.bbox.width / ax.figure.dpi
    factor = ellipse_factor(table, beam, window, width)
    set_titles(ax, fit_titles('', describe_sources(table, beam, factor),
                              width))
    draw_sources(ax, panel.image, table, beam, window, factor=factor)
    return ax
