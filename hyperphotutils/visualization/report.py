# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reports of catalogs as self-contained web pages.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
from astropy.coordinates import SkyCoord

from hyperphotutils.utils.flags import FLAG_DESCRIPTIONS, FLAGS

if TYPE_CHECKING:
    from astropy.table import QTable

__all__ = ['make_report']

# Cut-outs have this many pixels on a side, and reach this far from the
# source, in units of its FWHM.
_CUTOUT_SIZE = 33
_CUTOUT_RADIUS = 3.0
_PER_SPRITE = 100
# Run lengths, as zlib's Z_RLE: fast, and noise cannot be compressed much.
_COMPRESSION = 3
# The value of pixels without data; all others are at most one less.
_NO_DATA = 255
# These columns come first. The others of a wide table are shown on request.
_FIRST = ('id', 'map_id', 'channel', 'sky_centroid', 'n_bands',
          'reference_band', 'snr', 'flux_fit',
          'flux_err', 'flags', 'aperture_flux', 'aperture_flux_err',
          'mag_fit', 'mag_err', 'r_eff_fit', 'r_eff_err', 'n_fit', 'n_err',
          'q_fit', 'q_err',
          'fwhm_major_sky', 'fwhm_minor_sky', 'position_angle', 'group_id',
          'group_size', 'reduced_chi2')
_WIDE = 16
# Positions on the sky are rounded to this fraction of the smallest FWHM.
_SKY_FRACTION = 0.05
_SKY_DECIMALS = 5
# Columns whose values differ by less than this fraction have more digits.
_NARROW = 0.01
# Logarithmic axes below so many decades have ticks between powers of ten.
_FEW_DECADES = 2.5
# Longer facts have a line of their own.
_LONG = 60
# Numbers have this many digits at the median of their column.
_DIGITS = 4
_LINE_STYLES = (('#0b7a99', ''), ('#c2410c', ''), ('#808890', '5 4'))
_SUPERSCRIPTS = str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹')


def make_report(table: QTable, *, title: str, facts: dict | None = None,
                images: dict | None = None, rms: float | None = None,
                overview: bytes | None = None, rejected: QTable | None = None,
                reasons: Mapping | None = None,
                explanations: Sequence[str] = (), charts: dict | None = None,
                texts: Mapping | None = None,
                links: dict | None = None) -> str:
    """
    Make a web page that shows a catalog.

    The page is one file that needs no network. The catalog can be
    sorted and filtered; a selected source is shown with cut-outs of the
    images, and with the meaning of its flags.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        The catalog. Values are shown with about four digits, and all
        values of a selected source with six. Of tables with more than 16
        columns, only the most important ones are shown at first.

    title : str
        The title of the page.

    facts : dict, optional
        Short facts for the top of the page: texts by name.

    images : dict, optional
        The images from which cut-outs are made, 2D arrays by name, such
        as ``'data'``, ``'model'``, and ``'residual'``. The table needs
        the columns ``x_fit``, ``y_fit``, and ``theta_fit`` then, and
        those of the drawn ellipses: ``fwhm_major_fit`` and
        ``fwhm_minor_fit``, or ``r_eff_fit`` and ``q_fit``.

    rms : float, optional
        The noise of the images. Colors of the residual reach from -5 to
        5 times this value; the default is its standard deviation in each
        cut-out.

    overview : bytes, optional
        A picture of the whole map, as the content of a PNG file.

    rejected : `~astropy.table.QTable`, optional
        Detections that are not in the catalog.

    reasons : mapping, optional
        The meaning of each value of the column ``'reason'`` of
        ``rejected``.

    explanations : sequence of str, optional
        A text for each row of ``table``; each line is a paragraph.

    charts : dict, optional
        Charts by title, each a dictionary with the arrays ``'x'`` and
        ``'y'``, and the texts ``'x_label'`` and ``'y_label'``. Where
        ``'x'`` has one value more than ``'y'``, it holds the edges of a
        histogram. Up to three lines are given as a dictionary ``'y'`` of
        arrays by name. With ``'x_log'`` and ``'y_log'``, an axis is
        logarithmic. A dictionary with an ``'image'``, a 2D array, and the
        text ``'label'`` is a picture.

    texts : dict, optional
        Long texts by title, for example the configuration and the log.

    links : dict, optional
        Addresses of other pages, relative to this one, by the values of
        the first column of the table.

    Returns
    -------
    page : str
        The content of the HTML file.

    Examples
    --------
    >>> from astropy.table import QTable
    >>> from hyperphotutils.visualization import make_report
    >>> page = make_report(QTable({'id': [1, 2], 'snr': [8.2, 30.1]}),
    ...                    title='Two sources')
    >>> page.startswith('<!DOCTYPE html>')
    True
    """
    sections = []
    if facts:
        sections.append(('summary', 'Summary', ''.join(
            ['<dl class="facts">',
             *(f'<div{" class=long" * (len(text) > _LONG)}>'
               f'<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>'
               '</div>' for name, text in facts.items()), '</dl>'])))
    if overview is not None:
        sections.append(('overview', 'Overview', (
            '<img class="wide" alt="The map with its sources, and the '
            f'residual of the fits" src="{_png_uri(overview)}">')))
    heading, rows, example = (
        ('Catalog', 'sources', 'snr > 10, flags = saturated')
        if links is None else ('Maps', 'maps', 'status = failed'))
    if 'n_bands' in table.colnames:
        example = 'n_bands > 1, reference_band = '
        example += str(table['reference_band'][0]) if len(table) else '...'
    sections.append(('catalog', heading, _table_html(rows, example) + (
        _source_html(() if images is None else images))))
    data = {
        'catalog': _table_data(table),
        'explanations': list(explanations),
        'flags': [{'name': name, 'bit': bit,
                   'description': FLAG_DESCRIPTIONS[name]}
                  for name, bit in FLAGS.items()],
        'cutouts': None,
        'links': {} if links is None else links,
        'reasons': {} if reasons is None else dict(reasons),
    }
    if images and len(table):
        data['cutouts'] = _cutouts(table, images, rms)
        data['colors'] = {'data': _colors('cividis'),
                          'residual': _colors('RdBu_r')}
    if rejected is not None and len(rejected):
        data['rejected'] = _table_data(rejected)
        sections.append(('rejected', 'Rejected detections',
                         _table_html('rejected detections', 'snr > 4')))
    if charts:
        sections.append(('charts', 'Charts', ''.join(
            ['<div class="charts">',
             *(_chart(name, **chart) for name, chart in charts.items()),
             '</div>'])))
    if texts:
        sections.append(('details', 'Details', ''.join(
            f'<details><summary>{html.escape(name)}</summary>'
            f'<pre tabindex="0">{html.escape(text)}</pre></details>'
            for name, text in texts.items())))
    return _fill_template(title, sections, data)


def _fill_template(title, sections, data):
    """
    Return the page: its sections, and the data that its script shows.
    """
    from hyperphotutils import __version__

    content = {
        'title': html.escape(title),
        'program': html.escape(f'hyperphotutils {__version__}'),
        'nav': ''.join(f'<a href="#{name}">{heading}</a>'
                       for name, heading, _ in sections),
        'sections': '\n'.join(
            f'<section id="{name}"><h2>{heading}</h2>\n{body}</section>'
            for name, heading, body in sections),
        # Text inside of a script element must not end it.
        'data': json.dumps(data, allow_nan=False, separators=(',', ':'))
                    .replace('<', '\\u003c'),
    }
    template = (resources.files('hyperphotutils.visualization')
                / 'data' / 'report.html').read_text(encoding='utf-8')
    return re.sub(r'\{\{(\w+)\}\}', lambda match: content[match[1]],
                  template)


def _table_html(rows, example):
    """
    Return the frame of a table that the script of the page fills.
    """
    return f"""\
<div class="controls">
<input type="search" aria-label="Filter the {rows}"
 placeholder="Filter, for example: {html.escape(example)}">
<label class="all" hidden><input type="checkbox"> all columns</label>
<span class="soft count" role="status"></span>
</div>
<div class="scroll"><table><thead></thead><tbody></tbody></table></div>
<p><button type="button" class="plain more" hidden>Show more</button></p>
"""


def _source_html(names):
    """
    Return the frame that shows the selected source.
    """
    figures = ''.join(
        f'<figure><canvas id="cutout-{k}" width="264" height="264" '
        f'role="img" aria-label="{html.escape(name)}"></canvas>'
        f'<figcaption>{html.escape(name)}</figcaption></figure>'
        for k, name in enumerate(names))
    return ('<div id="source" aria-live="polite" hidden><h3></h3>'
            f'<div class="cutouts">{figures}</div>'
            '<div class="explanation"></div><dl class="values"></dl></div>')


def _table_data(table):
    """
    Return columns and rows of a table for JSON.
    """
    columns, values = [], []
    main = set(_FIRST if len(table.colnames) > _WIDE else table.colnames)
    main |= {f'{name}_{band}' for band in table.meta.get('bands', ())
             for name in ('flux_fit', 'flux_err', 'snr')}
    names = sorted(table.colnames, key=lambda name: (
        _FIRST.index(name) if name in _FIRST else len(_FIRST)))
    for name in names:
        column = table[name]
        description = column.info.description or ''
        if isinstance(column, SkyCoord):
            frame = column.spherical
            labels = ('lon', 'lat')
            if name == 'sky_centroid':
                # such as ra and dec
                labels = list(column.get_representation_component_names())[:2]
            for label, angle in zip(labels, (frame.lon, frame.lat),
                                    strict=True):
                columns.append({'name': label if name == 'sky_centroid'
                                else f'{name}_{label}', 'unit': 'deg',
                                'kind': 'number', 'main': True,
                                'decimals': _sky_decimals(table),
                                'description': description})
                values.append(_numbers(angle.deg, digits=9))
            continue
        unit = '' if column.info.unit is None else str(column.info.unit)
        plain = getattr(column, 'value', column)
        masked = np.ma.getmaskarray(plain)
        plain = np.ma.getdata(plain)
        kind = 'number' if plain.dtype.kind in 'iufb' else 'text'
        if kind == 'number':
            texts = _numbers(plain)
        else:
            texts = [str(value) for value in plain]
        values.append([None if hidden else value for value, hidden
                       in zip(texts, masked, strict=True)])
        decimals = _decimals(plain)
        error = f'{name.removesuffix("_err").removesuffix("_fit")}_err'
        if error in table.colnames:
            # Values and errors end at the second digit of the error.
            errors = getattr(table[error], 'value', table[error])
            decimals = _decimals(np.ma.getdata(errors), digits=2)
        columns.append({'name': name, 'unit': unit,
                        'kind': name if name in {'flags', 'reason'} else kind,
                        'main': name in main,
                        'decimals': decimals,
                        'description': description})
    return {'columns': columns, 'rows': list(zip(*values, strict=True))}


def _decimals(values, digits=_DIGITS):
    """
    Return the number of decimals of a column; `None` for those that are
    not rounded.
    """
    if values.dtype.kind != 'f':
        return None
    values = np.abs(values[np.isfinite(values) & (values != 0.0)])
    if not len(values):
        return 0
    size = np.median(values)
    spread = np.ptp(values)
    if spread > 0.0:
        # channels of a cube differ by a small part of their frequencies
        size = min(size, 10.0 * spread)
    return int(np.clip(digits - 1 - np.floor(np.log10(size)), 0, 12))


def _sky_decimals(table):
    if 'fwhm_minor_sky' not in table.colnames:
        return _SKY_DECIMALS
    fwhm = table['fwhm_minor_sky'].to_value('deg')
    fwhm = fwhm[fwhm > 0.0]
    if not len(fwhm):
        return _SKY_DECIMALS
    return int(np.clip(np.ceil(-np.log10(_SKY_FRACTION * fwhm.min())), 3, 9))


def _numbers(values, digits=6):
    """
    Return numbers for JSON, with None for those that are not finite.
    """
    values = np.asarray(values)
    if values.dtype.kind in 'iub':
        return values.tolist()
    values = values.astype(float)
    known = np.isfinite(values)
    if known.any() and np.ptp(values[known]) < (
            _NARROW * np.abs(values[known]).max()):
        digits += 3
    size = np.where(known & (values != 0.0), np.abs(values), 1.0)
    places = digits - 1 - np.floor(np.log10(size))
    # Powers of ten are exact, and so are the decimals, if none is negative.
    scale = 10.0**np.abs(places)
    with np.errstate(invalid='ignore', over='ignore'):
        rounded = np.where(places >= 0.0, np.rint(values * scale) / scale,
                           np.rint(values / scale) * scale)
    rounded = rounded.tolist()
    return [value if good else None
            for value, good in zip(rounded, known.tolist(), strict=True)]


def _cutouts(table, images, rms):
    """
    Return cut-outs of all sources as sprites: pictures with a row for
    each source and a column for each image.
    """
    is_galaxy = 'r_eff_fit' in table.colnames
    x, y, major, minor, theta = (
        np.asarray(getattr(table[name], 'value', table[name]), dtype=float)
        for name in ('x_fit', 'y_fit', *(
            ('r_eff_fit', 'q_fit') if is_galaxy
            else ('fwhm_major_fit', 'fwhm_minor_fit')), 'theta_fit'))
    if is_galaxy:
        # half of the light is within the ellipse, as of a Gaussian
        major = 2.0 * major
        minor = major * minor
    known = np.isfinite(x) & np.isfinite(y) & np.isfinite(major)
    # Large sources are shown with fewer pixels than they have.
    typical = np.median(major[known]) if known.any() else 1.0
    step = np.maximum(1.0, 2.0 * _CUTOUT_RADIUS * np.maximum(major, typical)
                      / (_CUTOUT_SIZE - 1))
    half = (_CUTOUT_SIZE - 1) // 2
    center_x, center_y = (np.rint(np.where(known, value, 0.0))
                          for value in (x, y))
    offsets = np.where(known, step, 1.0)[:, None] * np.arange(-half, half + 1)
    cols = np.rint(center_x[:, None] + offsets).astype(int)
    # The first row of a picture is its top.
    rows = np.rint(center_y[:, None] - offsets).astype(int)
    sprites = []
    # in parts, which bound the memory
    for first in range(0, len(rows), _PER_SPRITE):
        part = slice(first, first + _PER_SPRITE)
        sprites.append(_png_uri(_as_png(_draw_cutouts(
            images, rows[part], cols[part], known[part], rms))))
    ellipses = ((x - center_x) / step + half, (y - center_y) / step + half,
                0.5 * major / step, 0.5 * minor / step, np.deg2rad(theta))
    return {
        'size': _CUTOUT_SIZE,
        'per_sprite': _PER_SPRITE,
        'names': list(images),
        'sprites': sprites,
        'ellipses': list(zip(*(_numbers(values, digits=4)
                               for values in ellipses), strict=True)),
    }


def _draw_cutouts(images, rows, cols, known, rms):
    """
    Return a picture of cut-outs, given the rows and columns of the pixels of
    each source, and which sources have a known position.
    """
    shape = next(iter(images.values())).shape
    outside = (((rows < 0) | (rows >= shape[0]))[:, :, None]
               | ((cols < 0) | (cols >= shape[1]))[:, None, :]
               | ~known[:, None, None])
    index = (np.clip(rows, 0, shape[0] - 1)[:, :, None],
             np.clip(cols, 0, shape[1] - 1)[:, None, :])
    panels, limits = [], None
    for name, image in images.items():
        cut = np.array(getattr(image, 'value', image)[index], dtype=float)
        cut[outside] = np.nan
        flat = cut.reshape(len(cut), -1)
        empty = ~np.isfinite(flat).any(axis=1)
        flat[empty, 0] = 0.0
        if name == 'residual':
            top = (np.nanstd(flat, axis=1) if rms is None
                   else np.full(len(flat), float(rms)))
            low, high = -5.0 * top, 5.0 * top
        else:
            # All images but the residual share the colors of the first.
            if limits is None:
                limits = np.nanmin(flat, axis=1), np.nanmax(flat, axis=1)
            low, high = limits
        # Cut-outs of a constant have the middle color.
        width = np.where(high > low, high - low, 1.0)
        low = np.where(high > low, low, low - 0.5)
        scaled = np.clip((cut - low[:, None, None])
                         / width[:, None, None], 0.0, 1.0)
        panels.append(np.where(np.isfinite(scaled) & ~empty[:, None, None],
                               np.nan_to_num(scaled) * (_NO_DATA - 1),
                               _NO_DATA).astype(np.uint8))
    pixels = np.concatenate(panels, axis=2)
    return pixels.reshape(-1, pixels.shape[2])


def _as_png(pixels):
    """
    Return the content of a PNG file with 8-bit pixels.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format='PNG',
                                 compress_type=_COMPRESSION)
    return buffer.getvalue()


def _png_uri(content):
    return ('data:image/png;base64,'
            + base64.b64encode(content).decode('ascii'))


def _colors(name):
    """
    Return the colors of a color map as base64 text.
    """
    from matplotlib import colormaps

    rgb = (255 * colormaps[name](np.arange(_NO_DATA) / (_NO_DATA - 1))[:, :3])
    return base64.b64encode(np.rint(rgb).astype(np.uint8).tobytes()).decode()


def _chart(title, *, image=None, label='', **chart):
    """
    Return a figure: lines, or an image with its first row at the bottom.
    """
    caption = name = html.escape(title)
    if image is None:
        body = _lines(title, **chart)
    else:
        from matplotlib import colormaps

        known = np.isfinite(image)
        low, high = _range(image)
        rgb = colormaps['cividis']((np.where(known, image, low) - low)
                                   / (high - low))[::-1, :, :3]
        rgb[~known[::-1]] = 0.5
        content = _as_png(np.rint(255 * rgb).astype(np.uint8))
        body = f'<img class="pixels" alt="{name}" src="{_png_uri(content)}">'
        caption += f'<br>{html.escape(label)}'
    return f'<figure>{body}<figcaption>{caption}</figcaption></figure>'


def _lines(title, *, x, y, x_label, y_label, x_log=False, y_log=False):
    """
    Return lines, or a histogram, as an SVG element.
    """
    width, height, left, right, top, bottom = 360, 240, 58, 10, 10, 44
    x = _axis(x, x_log)
    lines = {name: _axis(line, y_log) for name, line
             in (y if isinstance(y, dict) else {'': y}).items()}
    values = np.concatenate(list(lines.values()))
    x_range = _range(x)
    y_range = _range(values if y_log else np.append(values, 0.0))

    def across(value):
        return left + (width - left - right) * (
            (value - x_range[0]) / (x_range[1] - x_range[0]))

    def up(value):
        return height - bottom - (height - top - bottom) * (
            (value - y_range[0]) / (y_range[1] - y_range[0]))

    ticks = []
    for value, text in _ticks(*x_range, log=x_log):
        at = across(value)
        ticks.append(
            f'<path d="M{at:.1f} {height - bottom}v4" stroke="currentColor"/>'
            f'<text x="{at:.1f}" y="{height - bottom + 17}" '
            f'text-anchor="middle">{text}</text>')
    for value, text in _ticks(*y_range, log=y_log):
        at = up(value)
        ticks.append(
            f'<path d="M{left} {at:.1f}h-4" stroke="currentColor"/>'
            f'<text x="{left - 7}" y="{at + 4:.1f}" text-anchor="end">'
            f'{text}</text>')
    drawn = []
    for number, (name, line) in enumerate(lines.items()):
        line_x, line_y = x, line
        if len(x) == len(line) + 1:
            line_x, line_y = np.repeat(x, 2)[1:-1], np.repeat(line, 2)
        good = np.isfinite(line_x) & np.isfinite(line_y)
        points = ' '.join(f'{across(a):.1f},{up(b):.1f}' for a, b
                          in zip(line_x[good], line_y[good], strict=True))
        color, dashes = _LINE_STYLES[number]
        drawn.append(f'<polyline points="{points}" fill="none" '
                     f'stroke="{color}" stroke-width="2" '
                     f'stroke-dasharray="{dashes}"/>')
        if name:
            drawn.append(
                f'<text x="{width - right}" y="{top + 12 + 16 * number}" '
                f'fill="{color}" text-anchor="end">{html.escape(name)}'
                '</text>')
    middle = (top + height - bottom) / 2
    return f"""\
<svg viewBox="0 0 {width} {height}" role="img"
 aria-label="{html.escape(title)}" font-size="12" fill="currentColor">
<path d="M{left} {top}V{height - bottom}H{width - right}" fill="none"
 stroke="currentColor"/>
{''.join(ticks)}
{''.join(drawn)}
<text x="{(left + width - right) / 2}" y="{height - 8}"
 text-anchor="middle">{html.escape(x_label)}</text>
<text transform="translate(12 {middle}) rotate(-90)"
 text-anchor="middle">{html.escape(y_label)}</text>
</svg>"""


def _axis(values, log):
    """
    Return values as they are drawn, NaN where they cannot be.
    """
    values = np.asarray(values, dtype=float)
    if log:
        return np.log10(values, where=values > 0.0,
                        out=np.full(values.shape, np.nan))
    return values


def _range(values):
    """
    Return the range of finite values, never empty.
    """
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low, high, *, log):
    """
    Return round numbers between two limits, about five, and their texts.

    On a logarithmic axis the limits and numbers are logarithms.
    """
    if log and 1.0 <= high - low < _FEW_DECADES:
        powers = 10.0**np.arange(np.floor(low), high)
        values = np.log10(np.outer(powers, (1.0, 2.0, 5.0)).ravel())
        return [(value, f'{10.0**value:.3g}') for value in values
                if low - 1e-9 <= value <= high + 1e-9]
    step = (high - low) / 4.0
    power = 10.0**np.floor(np.log10(step))
    step = power * next(k for k in (1, 2, 5, 10) if k * power >= step)
    if log and high - low < 1.0:
        return [(np.log10(value), text) for value, text
                in _ticks(10.0**low, 10.0**high, log=False)]
    if log:
        step = max(1.0, step)
    first = np.ceil(low / step - 1e-9)
    last = np.floor(high / step + 1e-9)
    # Adding zero removes the sign of negative zeros.
    values = np.round(np.arange(first, last + 1.0) * step, 12) + 0.0
    if log:
        return [(value, '10' + f'{value:.0f}'.translate(_SUPERSCRIPTS))
                for value in values]
    return [(value, f'{value:g}') for value in values]
