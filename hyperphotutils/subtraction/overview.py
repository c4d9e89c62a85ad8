# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
One picture of a subtraction.
"""

import numpy as np

__all__ = ['plot_result']

_COLORS = {'USED': 'tab:green', 'CLIPPED': 'tab:red',
           'BAD_PIXELS': 'tab:purple', 'TOO_CLOSE': 'tab:gray',
           'RESERVE': 'tab:blue', 'LOW_SNR': 'tab:brown'}
_LIMIT = 5.0
_N_SHOWN = 1000


def plot_result(result, figure=None):
    """
    Draw an overview of a subtraction.

    Parameters
    ----------
    result : `SubtractionResult`
        The result.

    figure : `~matplotlib.figure.Figure`, optional
        The figure to draw into.

    Returns
    -------
    figure : `~matplotlib.figure.Figure`
        The figure.
    """
    from matplotlib.figure import Figure
    if figure is None:
        figure = Figure(figsize=(13.0, 8.5), layout='constrained')
    axes = figure.subplots(2, 3)
    step = max(1, max(result.mask.shape) // _N_SHOWN)
    thin = np.s_[::step, ::step]
    convolved, difference = (
        getattr(values, 'value', values)[thin]
        for values in (result.convolved, result.difference))
    other = convolved + np.sign(result.factor) * difference
    names = ('science', 'convolved template')
    if result.meta.get('convolve') == 'science':
        names = ('template', 'convolved science')
    good = np.isfinite(other)
    low, high = (np.percentile(other[good], (1.0, 99.5)) if good.any()
                 else (0.0, 1.0))
    extent = (-0.5, result.mask.shape[1] - 0.5, -0.5,
              result.mask.shape[0] - 0.5)
    for ax, image, name in zip(axes[0], (other, convolved), names,
                               strict=False):
        ax.imshow(image, origin='lower', cmap='cividis', vmin=low,
                  vmax=high, extent=extent, interpolation='nearest')
        ax.set_title(name)
    _plot_significance(axes[0, 2], result, thin, extent)
    axes[1, 0].imshow(result.kernel.image(), origin='lower',
                      cmap='cividis')
    axes[1, 0].set_title('kernels over the field')
    axes[1, 0].set_axis_off()
    _plot_stars(axes[1, 1], result)
    _plot_histogram(axes[1, 2], result)
    return figure


def _plot_significance(ax, result, thin, extent):
    """
    Draw the difference in units of its error.
    """
    best = result.decorrelated or result
    drawn = ax.imshow(best.significance[thin], origin='lower',
                      cmap='RdBu_r', vmin=-_LIMIT, vmax=_LIMIT,
                      extent=extent, interpolation='nearest')
    ax.set_facecolor('0.85')
    ax.figure.colorbar(drawn, ax=ax)
    ax.set_title('difference / error'
                 + (' (decorrelated)' if result.decorrelated else ''))


def _plot_stars(ax, result):
    """
    Draw the stars by status.
    """
    status = np.asarray(result.stamps['status'])
    for name, color in _COLORS.items():
        chosen = status == name
        if chosen.any():
            ax.plot(result.stamps['x'][chosen], result.stamps['y'][chosen],
                    '.', color=color,
                    label=f'{name} ({np.count_nonzero(chosen)})')
    ny, nx = result.mask.shape
    ax.set(xlim=(-0.5, nx - 0.5), ylim=(-0.5, ny - 0.5), aspect='equal',
           title='stars')
    ax.legend(fontsize='small')


def _plot_histogram(ax, result):
    """
    Draw the histogram of the significance and the normal distribution.
    """
    bins = np.linspace(-_LIMIT, _LIMIT, 81)
    for image, name in ((result, 'difference'),
                        (result.decorrelated, 'decorrelated')):
        if image is None:
            continue
        pulls = image.significance[~image.mask]
        ax.hist(pulls, bins, density=True, histtype='step', label=name)
    ax.plot(bins, np.exp(-0.5 * bins**2) / np.sqrt(2.0 * np.pi), 'k:',
            label='N(0, 1)')
    ax.set(yscale='log', ylim=(1e-5, 1.0), xlabel='difference / error',
           title='significance')
    ax.legend(fontsize='small')
