# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
One picture of a subtraction.
"""

import numpy as np
from astropy.stats import mad_std

__all__ = ['plot_result', 'stamp_regions']

_COLORS = {'USED': 'tab:green', 'CLIPPED': 'tab:red',
           'BAD_PIXELS': 'tab:purple', 'TOO_CLOSE': 'tab:gray',
           'RESERVE': 'tab:blue', 'LOW_SNR': 'tab:brown'}
_LIMIT = 5.0
# Larger images are averaged over blocks down to about this many pixels
_N_SHOWN = 1000
# The part of the absolute values of a kernel that is drawn
_KERNEL_PART = 0.995
_MASKED = '0.6'


def plot_result(result, figure=None):
    """
    Draw an overview of a subtraction into a figure, made if `None`.
    """
    from matplotlib.figure import Figure
    if figure is None:
        figure = Figure(figsize=(14.0, 9.0), layout='constrained')
    images, (kernels, stars, histogram) = figure.subplots(2, 3)
    _plot_images(images, result)
    _plot_kernels(kernels, result)
    status = np.asarray(result.stamps['status'])
    for name, color in _COLORS.items():
        chosen = status == name
        if chosen.any():
            stars.plot(result.stamps['x'][chosen],
                       result.stamps['y'][chosen], 'o', color=color,
                       markersize=3.5,
                       label=f'{name} ({np.count_nonzero(chosen)})')
    ny, nx = result.mask.shape
    stars.set(xlim=(-0.5, nx - 0.5), ylim=(-0.5, ny - 0.5), aspect='equal',
              title='stars of the fit')
    stars.legend(fontsize='small', ncols=3, loc='upper center',
                 bbox_to_anchor=(0.5, -0.08), frameon=False,
                 columnspacing=1.0, handletextpad=0.2)
    bins = np.linspace(-_LIMIT, _LIMIT, 81)
    for image, name in ((result, 'difference'),
                        (result.decorrelated, 'decorrelated')):
        pulls = (np.zeros(0) if image is None
                 else image.significance[~image.mask])
        if pulls.size:
            # outliers are counted in the last bins
            histogram.hist(np.clip(pulls, bins[0], bins[-1]), bins,
                           density=True, histtype='step',
                           label=f'{name}, robust std {mad_std(pulls):.3f}')
    histogram.plot(bins, np.exp(-0.5 * bins**2) / np.sqrt(2.0 * np.pi),
                   'k:', label='N(0, 1)')
    histogram.set(yscale='log', ylim=(1e-6, 30.0),
                  xlabel='difference / error', ylabel='density',
                  title='significance (outliers in the last bins)')
    histogram.legend(fontsize='small', loc='upper center')
    figure.suptitle('\n'.join(result.summary().splitlines()[:2]),
                    fontsize='medium')
    return figure


def stamp_regions(result):
    """
    Return the stars of the fit as regions with their ids, in colors by
    status.
    """
    from regions import CirclePixelRegion, PixCoord, Regions, RegionVisual
    stamps = result.stamps
    return Regions([
        CirclePixelRegion(
            PixCoord(x, y), radius=8, meta={'text': str(number)},
            visual=RegionVisual(color=_COLORS[status].removeprefix('tab:')))
        for number, x, y, status in zip(
            *(np.asarray(stamps[name]).tolist()
              for name in ('id', 'x', 'y', 'status')), strict=True)])


def _in_blocks(image):
    """
    Return the means of blocks of a large image, and the size of these.
    """
    step = max(1, -(-max(image.shape) // _N_SHOWN))
    if step == 1:
        return image, 1
    ny, nx = (size // step * step for size in image.shape)
    blocks = image[:ny, :nx].reshape(ny // step, step, nx // step, step)
    good = np.isfinite(blocks)
    count = good.sum(axis=(1, 3))
    total = np.sum(blocks, axis=(1, 3), where=good)
    with np.errstate(invalid='ignore', divide='ignore'):
        return total / count, step


def _draw(ax, image, result, title, **options):
    """
    Draw an image on the pixels of the science image.
    """
    ny, nx = result.mask.shape
    drawn = ax.imshow(image, origin='lower', interpolation='nearest',
                      extent=(-0.5, nx - 0.5, -0.5, ny - 0.5), **options)
    ax.set_facecolor(_MASKED)
    ax.set_title(title)
    return drawn


def _plot_images(axes, result):
    """
    Draw the two images whose difference it is, on the same scale, and the
    difference in units of its error.
    """
    from matplotlib.colors import AsinhNorm
    convolved, _ = _in_blocks(getattr(result.convolved, 'value',
                                      result.convolved))
    difference, _ = _in_blocks(getattr(result.difference, 'value',
                                       result.difference))
    other = convolved + np.sign(result.factor) * difference
    names = ('science', 'template')
    if result.factor < 0.0:
        names = names[::-1]
    values = other[np.isfinite(other)]
    if not values.size:
        values = np.zeros(1)
    # the sky in the dark part of the map, the stars above it
    level, low, high = np.percentile(values, (50.0, 16.0, 99.9))
    width = 3.0 * max(level - low, 1e-6 * abs(level), 1e-30)
    norm = AsinhNorm(width, vmin=-width,
                     vmax=max(high - level, 2.0 * width))
    for ax, image, name in zip(axes, (other, convolved), (
            names[0], f'{names[1]}, convolved'), strict=False):
        _draw(ax, image - level, result, name, cmap='gray_r', norm=norm)
    best = result.decorrelated or result
    image, step = _in_blocks(best.significance)
    # the mean of white noise over a block, in units of its error
    drawn = _draw(axes[2], step * image, result, 'difference / error'
                  + (', decorrelated' if result.decorrelated else ''),
                  cmap='RdBu_r', vmin=-_LIMIT, vmax=_LIMIT)
    axes[2].figure.colorbar(drawn, ax=axes[2], extend='both')


def _plot_kernels(ax, result):
    """
    Draw the central parts of the kernels at their places in the field.
    """
    from matplotlib.colors import AsinhNorm
    side = 2 * result.kernel.radius + 1
    grid = (5, 5)
    kernels = result.kernel.image(grid).reshape(
        grid[0], side, grid[1], side).transpose(0, 2, 1, 3)
    total = np.abs(kernels).sum(axis=(0, 1))
    parts = [total[cut:side - cut, cut:side - cut].sum()
             for cut in range(result.kernel.radius)]
    cut = max(np.count_nonzero(np.array(parts)
                               >= _KERNEL_PART * parts[0]) - 1, 0)
    kernels = kernels[:, :, cut:side - cut, cut:side - cut]
    kernels = np.pad(kernels, ((0, 0), (0, 0), (1, 1), (1, 1)),
                     constant_values=np.nan)
    mosaic = kernels.transpose(0, 2, 1, 3).reshape(
        grid[0] * kernels.shape[2], -1)
    peak = np.nanmax(np.abs(kernels))
    # negative lobes are faint
    _draw(ax, mosaic, result,
          f'kernels, the central {side - 2 * cut} of {side} pixels',
          cmap='PuOr_r',
          norm=AsinhNorm(0.05 * peak, vmin=-peak, vmax=peak))
