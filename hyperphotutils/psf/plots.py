# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Pictures of stars and of the PSF that they make.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from astropy.stats import mad_std

from hyperphotutils.psf.flags import decode_star_flags

if TYPE_CHECKING:
    from astropy.table import Table
    from matplotlib.figure import Figure

    from hyperphotutils.psf.empirical import EmpiricalPSF

__all__ = ['plot_psf', 'plot_selection', 'plot_stars']

_USED, _REJECTED = '#0072b2', '#d55e00'
_FIELD_POINTS = 7
_MAX_NAMES = 6
_MAX_MEDIAN_STARS = 30
# The least ellipticity at which lines have their full length.
_MIN_ELLIPTICITY = 0.02


def plot_selection(stars: Table) -> Figure:
    """
    Draw the sizes of all detections against their signal.

    Parameters
    ----------
    stars : `~astropy.table.Table`
        The table of a `StarSelector`.

    Returns
    -------
    figure : `~matplotlib.figure.Figure`
        The accepted stars, and the others by the first reason.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.5), layout='constrained')
    axes = figure.add_subplot()
    accepted = np.asarray(stars['accepted'], dtype=bool)
    snr, fwhm = (np.asarray(stars[name], dtype=float)
                 for name in ('snr', 'fwhm'))
    first = np.array([names[0] if names else 'accepted' for names in
                      decode_star_flags(stars['flags'])])
    names, counts = np.unique(first[~accepted], return_counts=True)
    common = names[np.argsort(-counts, kind='stable')][:_MAX_NAMES]
    for number, name in enumerate(common):
        chosen = first == name
        axes.scatter(snr[chosen], fwhm[chosen], s=9, alpha=0.6,
                     color=f'C{number + 1}', marker='ox^vs+'[number],
                     label=f'{name.replace("_", " ")} ({chosen.sum()})')
    axes.scatter(snr[accepted], fwhm[accepted], s=34, marker='*',
                 color=_USED, edgecolors='black', linewidths=0.4,
                 label=f'accepted ({accepted.sum()})', zorder=3)
    axes.set_xscale('log')
    limit = 3.0 * stars.meta.get('fwhm', np.nanmedian(fwhm))
    axes.set_ylim(0.0, limit)
    axes.set_xlabel('signal-to-noise ratio')
    axes.set_ylabel('FWHM (pixels)')
    axes.legend(fontsize='small', loc='upper right')
    return figure


def plot_stars(psf: EmpiricalPSF, *, max_stars: int = 40) -> Figure:
    """
    Draw the stars of a PSF and what the PSF leaves of them.

    Parameters
    ----------
    psf : `EmpiricalPSF`
        The PSF, made by `EmpiricalPSFBuilder`.

    max_stars : int, optional
        The largest number of stars, the brightest of those used and of
        those rejected.

    Returns
    -------
    figure : `~matplotlib.figure.Figure`
        For each star its image (with an asinh scale) and below it the
        residual, from -5 % to 5 % of the peak, or 4 times its noise if
        that is more. The frames of rejected stars are orange, and the
        reason is written above.

    Raises
    ------
    ValueError
        If the PSF has no images of stars.
    """
    from matplotlib.figure import Figure

    if psf.star_images is None:
        msg = 'psf has no images of stars: it was not made from an image'
        raise ValueError(msg)
    flux = _plain(psf.stars['flux_fit'])
    rows = np.flatnonzero(np.isfinite(flux))
    flux, used = flux[rows], np.asarray(psf.stars['used'], dtype=bool)[rows]
    order = np.argsort(-flux, kind='stable')
    n_rejected = min(np.count_nonzero(~used), max(
        max_stars // 2, max_stars - np.count_nonzero(used)))
    shown = np.concatenate([order[used[order]][:max_stars - n_rejected],
                            order[~used[order]][:n_rejected]])
    n_columns = min(10, len(shown))
    n_lines = -(-len(shown) // n_columns)
    figure = Figure(figsize=(1.15 * n_columns, 2.55 * n_lines + 0.1),
                    layout='constrained')
    grid = figure.subplots(2 * n_lines, n_columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, index in enumerate(shown):
        line, column = divmod(number, n_columns)
        pair = grid[2 * line:2 * line + 2, column]
        star, color = psf.stars[rows[index]], (
            _USED if used[index] else _REJECTED)
        peak = max(flux[index] * psf().max(), 1e-30)
        image = psf.star_images[index] - float(_plain(star['sky_fit']))
        # logarithmic from the core to wings of a few percent
        pair[0].imshow(np.arcsinh(image / (0.02 * peak)), origin='lower',
                       cmap='cividis', vmin=-1.0, vmax=np.arcsinh(50.0),
                       interpolation='nearest')
        residual = psf.residuals[index] / peak
        # faint stars have more noise than that
        limit = max(0.05, 4.0 * mad_std(residual, ignore_nan=True))
        pair[1].imshow(residual, origin='lower', cmap='RdBu_r', vmin=-limit,
                       vmax=limit, interpolation='nearest')
        title = [f'{star["id"]}' if 'id' in psf.stars.colnames else '',
                 *decode_star_flags(star['flags'])[:1]]
        pair[0].set_title('\n'.join(title).replace('_', ' '), size='x-small',
                          color='black' if used[index] else _REJECTED)
        for axes in pair:
            axes.set_axis_on()
            axes.set(xticks=(), yticks=())
            for spine in axes.spines.values():
                spine.set(color=color, linewidth=1.5)
    return figure


def plot_psf(psf: EmpiricalPSF, *,
             shape: tuple[int, int] | None = None) -> Figure:
    """
    Draw a PSF: its image, the median residual of its stars, the encircled
    energy, and how size and ellipticity vary over the field.

    Parameters
    ----------
    psf : `EmpiricalPSF`
        The PSF.

    shape : tuple of 2 ints, optional
        The shape ``(ny, nx)`` of the image. The default is the field
        that the polynomial was scaled to.

    Returns
    -------
    figure : `~matplotlib.figure.Figure`
        The picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 6.6), layout='constrained')
    axes = figure.subplots(2, 3)
    image = psf()
    half = psf.size // 2
    extent = (-half - 0.5, half + 0.5, -half - 0.5, half + 0.5)
    shown = axes[0, 0].imshow(
        np.log10(np.maximum(image / image.max(), 1e-5)), origin='lower',
        cmap='cividis', extent=extent, interpolation='nearest')
    figure.colorbar(shown, ax=axes[0, 0], label='log10 (PSF / peak)')
    axes[0, 0].set_title(f'PSF, FWHM {psf.fwhm():.2f} pixels', size='medium')

    axes[0, 1].set_title('Median residual of bright stars', size='medium')
    if psf.residuals is None:
        axes[0, 1].set_axis_off()
        axes[0, 1].text(0.5, 0.5, 'no stars', ha='center',
                        transform=axes[0, 1].transAxes)
    else:
        # relative to the flux; the median of bright stars is robust to
        # neighbors and noise
        flux = _plain(psf.stars['flux_fit'])
        fitted = np.isfinite(flux)
        used = np.asarray(psf.stars['used'], dtype=bool)[fitted]
        flux = flux[fitted][used]
        best = np.argsort(-flux, kind='stable')[:_MAX_MEDIAN_STARS]
        residual = np.nan_to_num(psf.residuals[used][best])
        residual = 100.0 / image.max() * np.median(
            residual / flux[best, None, None], axis=0)
        limit = max(np.abs(residual).max(), 1e-3)
        shown = axes[0, 1].imshow(
            residual, origin='lower', cmap='RdBu_r', extent=extent,
            vmin=-limit, vmax=limit, interpolation='nearest')
        figure.colorbar(shown, ax=axes[0, 1], label='% of the peak')

    radius = np.linspace(0.0, half, 10 * half + 1)
    axes[0, 2].plot(radius, psf.encircled_energy(radius), color=_USED)
    for level in (0.5, 0.8):
        place = np.interp(level, psf.encircled_energy(radius), radius)
        axes[0, 2].plot([0.0, place, place], [level, level, 0.0],
                        color='0.6', linewidth=0.8)
        axes[0, 2].annotate(f'{level:.0%}: {place:.2f}', (place, level),
                            xytext=(6, -10), textcoords='offset points',
                            size='small')
    axes[0, 2].set(xlabel='radius (pixels)', ylabel='encircled energy',
                   xlim=(0, half), ylim=(0, 1.02))
    _draw_field(axes[1], psf, shape)
    return figure


def _draw_field(axes, psf, shape):
    """
    Draw size and ellipticity over the field, and the stars: where they are,
    and the excess of their sizes against their flux.
    """
    from matplotlib.ticker import LogFormatter

    if shape is None:
        (x0, y0), (dx, dy) = psf.center, psf.scale
    else:
        y0, x0 = (0.5 * (side - 1) for side in shape)
        dy, dx = (0.5 * side for side in shape)
    x = x0 + dx * np.linspace(-1, 1, _FIELD_POINTS)
    y = y0 + dy * np.linspace(-1, 1, _FIELD_POINTS)
    fwhm = np.array([[psf.fwhm(a, b) for a in x] for b in y])
    shown = axes[0].imshow(
        fwhm, origin='lower', cmap='cividis', interpolation='bilinear',
        extent=(x0 - dx, x0 + dx, y0 - dy, y0 + dy))
    axes[0].figure.colorbar(shown, ax=axes[0], label='FWHM (pixels)')
    axes[0].set_title(f'FWHM, order {psf.meta.get("order", psf.order)}',
                      size='medium')
    e1, e2 = np.moveaxis(np.array(
        [[psf.ellipticity(a, b) for a in x] for b in y]), -1, 0)
    size, angle = np.hypot(e1, e2), 0.5 * np.arctan2(e2, e1)
    axes[1].quiver(*np.meshgrid(x, y), size * np.cos(angle),
                   size * np.sin(angle), size, pivot='mid', headwidth=0,
                   headlength=0, headaxislength=0, cmap='viridis',
                   scale=max(size.max(), _MIN_ELLIPTICITY) * _FIELD_POINTS,
                   width=0.008)
    axes[1].set_title(f'Ellipticity, {size.min():.3f} to {size.max():.3f}',
                      size='medium')
    for part in axes[:2]:
        part.set(xlabel='x (pixels)', ylabel='y (pixels)', aspect='equal',
                 xlim=(x0 - dx, x0 + dx), ylim=(y0 - dy, y0 + dy))
    if psf.stars is None or 'excess' not in psf.stars.colnames:
        axes[2].set_axis_off()
        return
    used = np.asarray(psf.stars['used'], dtype=bool)
    axes[0].plot(_plain(psf.stars['x_fit'])[used],
                 _plain(psf.stars['y_fit'])[used], '*', color='white',
                 markeredgecolor='black', markersize=7)
    flux, excess, error = (_plain(psf.stars[name]) for name in
                           ('flux_fit', 'excess', 'excess_err'))
    fitted = np.isfinite(flux) & (flux > 0)
    for chosen, color, label in ((fitted & used, _USED, 'used'),
                                 (fitted & ~used, _REJECTED, 'rejected')):
        axes[2].errorbar(flux[chosen], excess[chosen], error[chosen], fmt='.',
                         color=color, elinewidth=0.7,
                         label=f'{label} ({chosen.sum()})')
    if np.any(fitted & used):
        limit = 3.0 * np.percentile(
            np.abs(excess[fitted & used]) + error[fitted & used], 95)
        axes[2].set(ylim=(-limit, limit), xscale='log')
        # 4e-01: the default, 4 x 10^-1, overlaps with the next label
        axes[2].xaxis.set_major_formatter(LogFormatter())
        axes[2].xaxis.set_minor_formatter(LogFormatter())
    axes[2].axhline(0.0, color='0.6', linewidth=0.8, zorder=0)
    axes[2].set(xlabel='flux', ylabel='excess variance (pixels$^2$)')
    axes[2].set_title('Size of each star', size='medium')
    axes[2].legend(fontsize='small')


def _plain(column):
    """
    Return a column or a value without its unit.
    """
    return np.asarray(getattr(column, 'value', column), dtype=float)
