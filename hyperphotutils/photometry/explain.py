# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Explanations of sources and of whole results in words.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from hyperphotutils.catalog.units import to_readable_units
from hyperphotutils.utils.flags import (
    FLAG_DESCRIPTIONS,
    FLAGS,
    decode_flags,
)

if TYPE_CHECKING:
    from astropy.table import QTable

__all__ = ['explain_source', 'explain_sources', 'summarize_sources']

# What a user can do about a flag.
_REMEDIES = MappingProxyType({
    'off_map': 'Check the position and the mask.',
    'too_few_pixels': 'Check the mask, or increase fit_radius of the fitter.',
    'no_convergence': 'Increase max_iter of the fitter.',
    'near_bound': 'Increase fwhm_range or max_shift of the fitter if the '
                  'source is real.',
    'n_pixels_fit_partial': 'The errors take the missing pixels into '
                            'account.',
    'group_split': 'Increase max_group_size of the fitter.',
    'residual_detection': 'Compare it with the residual image; '
                          'max_rounds=0 turns this search off.',
    'partial_aperture': 'Prefer flux_fit to aperture_flux.',
    'no_covariance': 'Fix the shape or the position of the source.',
    'split_pair': 'Compare the sum of both fluxes with other resolutions; '
                  'max_rounds=0 turns splitting off.',
    'held_shape': 'The size is not a measurement; the error of the flux '
                  'assumes a point source.',
    'doubtful': 'Treat the flux as an upper limit until other data confirm '
                'the source.',
    'bad_pixels': 'mask_bad_pixels=False uses all pixels.',
    'saturated': 'The flux follows from the unsaturated pixels, and depends '
                 'on the assumed profile.',
})

_FLAG_LINES = MappingProxyType({
    name: f'Flag {name}: {text}. {_REMEDIES.get(name, "")}'.rstrip()
    for name, text in FLAG_DESCRIPTIONS.items()})

_USED = ('x_init', 'y_init', 'group_size', 'bkg_order', 'bkg_method',
         'local_bkg', 'flux_fit', 'flux_err', 'aperture_flux',
         'aperture_flux_err', 'snr', 'fwhm_major_fit', 'fwhm_major_err',
         'fwhm_minor_fit', 'reduced_chi2', 'n_pixels_fit')


def explain_source(table: QTable, source_id: int | str, *, fwhm: float) -> str:
    """
    Explain in words how a source was measured.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        A catalog of `~hyperphotutils.photometry.HyperPhotometry`.

    source_id : int or str
        The ``id`` of the source.

    fwhm : float
        The FWHM of the beam in pixels.

    Returns
    -------
    text : str
        The explanation, with a line for the detection, the group, the
        background, the flux, the signal-to-noise ratio, the size, the
        goodness of fit, and for each flag.

    Raises
    ------
    ValueError
        If the table has no source with this ``id``.

    See Also
    --------
    explain_sources : The explanations of all sources.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_blended_map
    >>> from hyperphotutils.photometry import HyperPhotometry, explain_source
    >>> sim = make_blended_map((120, 120), 12, blend_fraction=0, seed=1)
    >>> phot = HyperPhotometry(fwhm=4.0)
    >>> table = phot(sim.image)
    >>> text = explain_source(table, 1, fwhm=4.0)
    >>> print(text.splitlines()[1])
    Group: fitted alone.
    """
    ids = np.asarray(table['id'])
    rows = np.flatnonzero(ids == source_id)
    if len(rows) != 1:
        known = (f'its ids are {min(ids)} to {max(ids)}' if len(ids)
                 else 'it has no rows')
        if isinstance(source_id, str) and ids.dtype.kind in 'iu':
            known += '; they are integers: give a number, not a text'
        msg = f'the table has no source with id {source_id!r}; {known}'
        raise ValueError(msg)
    # (units are chosen for the whole table)
    return explain_sources(table, fwhm=fwhm)[rows[0]]


def explain_sources(table: QTable, *, fwhm: float) -> list[str]:
    """
    Explain in words how each source of a catalog was measured.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        A catalog of `~hyperphotutils.photometry.HyperPhotometry`.

    fwhm : float
        The FWHM of the beam in pixels.

    Returns
    -------
    texts : list of str
        The text of `explain_source` for each row.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_blended_map
    >>> from hyperphotutils.photometry import (HyperPhotometry,
    ...                                        explain_sources)
    >>> sim = make_blended_map((120, 120), 12, blend_fraction=0, seed=1)
    >>> texts = explain_sources(HyperPhotometry(fwhm=4.0)(sim.image),
    ...                         fwhm=4.0)
    >>> len(texts)
    12
    """
    if len(table) == 0:
        return []
    table = to_readable_units(table)
    given = 'n_detected' not in table.meta
    white = 'noise' not in table.meta
    units = [f' {unit}' if (unit := getattr(table[name], 'unit', None))
             else '' for name in ('local_bkg', 'flux_fit')]
    # Plain lists: the rows of a QTable take 40 times longer (80 us a row).
    names = [name for name in _USED if name in table.colnames]
    rows = zip(*(getattr(table[name], 'value', table[name]).tolist()
                 for name in names), strict=True)
    texts = []
    for values, flags, neighbor, distance in zip(
            rows, decode_flags(table['flags']), *_nearest_of_group(table),
            strict=True):
        row = dict(zip(names, values, strict=True))
        lines = [_detection(row, flags, given=given)]
        if not np.isfinite(row['flux_fit']):
            lines.append('Fit: none, and all values are missing.')
        else:
            lines += _fit(row, flags, units, neighbor, distance / fwhm, fwhm,
                          white=white)
        texts.append('\n'.join(lines + [_FLAG_LINES[name]
                                        for name in flags]))
    return texts


def summarize_sources(table: QTable | None,
                      rejected: QTable | None = None) -> dict:
    """
    Summarize a catalog in short facts.

    Parameters
    ----------
    table : `~astropy.table.QTable` or `None`
        A catalog of `~hyperphotutils.photometry.HyperPhotometry`; `None`
        without sources.

    rejected : `~astropy.table.QTable`, optional
        The detections that are not in the catalog, with their
        ``reason``.

    Returns
    -------
    facts : dict
        Texts by name: the number of sources and where they come from,
        groups, rejected detections by reason, noise, and flags.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_blended_map
    >>> from hyperphotutils.photometry import (HyperPhotometry,
    ...                                        summarize_sources)
    >>> sim = make_blended_map((120, 120), 12, blend_fraction=0, seed=1)
    >>> table = HyperPhotometry(fwhm=4.0)(sim.image)
    >>> print(summarize_sources(table)['sources'])
    12 measured: 12 detected on the map
    """
    is_empty = table is None or len(table) == 0
    meta = {} if table is None else table.meta
    facts = {'sources': 'none found'} if is_empty else _count_sources(table)
    if rejected is not None:
        reasons, counts = np.unique(np.asarray(rejected['reason']),
                                    return_counts=True)
        facts['rejected'] = ', '.join(
            f'{count} {str(reason).replace("_", " ")}'
            for reason, count in zip(reasons, counts, strict=True)) or 'none'
    if 'rms' in meta:
        facts['rms'] = f'{to_readable_units(table).meta["rms"]:.4g}'
    if not is_empty:
        facts['noise of fits'] = (
            'correlated, measured on the map' if 'noise' in meta
            else 'independent pixels')
    if bad := ', '.join(f'{count} {kind}' for kind, count in meta.get(
            'n_bad_pixels', {}).items() if count):
        facts['bad pixels'] = bad
    if not is_empty:
        facts['flags'] = count_flags(table['flags'])
    return facts


def count_flags(flags):
    """
    Return the number and the name of each flag that is set, as text.
    """
    flags = np.asarray(flags)
    return ', '.join(
        f'{count} {name}' for name, bit in FLAGS.items()
        if (count := int(np.count_nonzero(flags & bit)))) or 'none'


def _count_sources(table):
    """
    Return the numbers of sources and groups as texts.
    """
    meta = table.meta
    measured = int(np.count_nonzero(np.isfinite(table['flux_fit'])))
    text = f'{len(table)} given, {measured} measured'
    if 'n_detected' in meta:
        text = f'{measured} measured: {meta["n_detected"]} detected on the map'
        companions = meta.get('n_companions', 0)
        residual = min(companions, np.count_nonzero(
            np.asarray(table['flags']) & FLAGS['residual_detection']))
        for count, how in ((residual, 'in its residual'),
                           (companions - residual,
                            'by splitting detections in two')):
            if count:
                text += f', {count} {how}'
    groups, sizes = np.unique(np.asarray(table['group_id']),
                              return_counts=True)
    sizes = sizes[groups != 0]
    facts = {'sources': text}
    if len(sizes):
        facts['groups'] = f'{len(sizes)}, the largest with {sizes.max()}'
    return facts


def _nearest_of_group(table):
    """
    Return the nearest other source of each group: its id, and its
    distance in pixels; not finite if there is none.
    """
    groups = np.asarray(table['group_id'])
    ids = np.asarray(table['id']).tolist()
    x, y = np.asarray(table['x_fit']), np.asarray(table['y_fit'])
    order = np.argsort(groups, kind='stable')
    _, starts, sizes = np.unique(groups[order], return_index=True,
                                 return_counts=True)
    nearest, distances = [None] * len(table), np.full(len(table), np.inf)
    # groups of the same size have distances of the same shape
    for size in np.unique(sizes[sizes > 1]):
        rows = order[starts[sizes == size][:, None] + np.arange(size)]
        distance = np.hypot(x[rows][:, :, None] - x[rows][:, None, :],
                            y[rows][:, :, None] - y[rows][:, None, :])
        distance[:, np.arange(size), np.arange(size)] = np.inf
        distance[~np.isfinite(distance)] = np.inf
        other = np.argmin(distance, axis=2)
        found = np.take_along_axis(rows, other, axis=1)
        distances[rows] = np.min(distance, axis=2)
        for row, index in zip(rows.ravel(), found.ravel(), strict=True):
            nearest[row] = ids[index]
    return nearest, distances.tolist()


def _detection(row, flags, *, given):
    """
    Explain where the source comes from.
    """
    x, y = row['x_init'], row['y_init']
    if 'no_position' in flags or not np.isfinite(x + y):
        return 'Position: given, but not known on this map.'
    place = f'at x = {x:.1f}, y = {y:.1f}'
    if given:
        return f'Position: given {place}; the map was not searched.'
    if 'residual_detection' in flags:
        return (f'Detection: {place}, in the residual after a fit of the '
                'sources found before.')
    if 'split_pair' in flags:
        return (f'Detection: {place}, as one of two sources that together '
                'fit one detection better.')
    return f'Detection: {place}, on the map.'


def _fit(row, flags, units, neighbor, distance, fwhm, *, white):
    """
    Explain the group, the background, the flux, the signal-to-noise ratio,
    the size, and the goodness of fit.
    """
    others = row['group_size'] - 1
    group = 'fitted alone'
    if others >= 1 and neighbor is not None:
        group = (f'fitted together with {others} other '
                 f'source{"s" * (others > 1)}; the nearest one is id '
                 f'{neighbor}, {distance:.1f} beams away')
    order, method = row['bkg_order'], row['bkg_method']
    if method == 'joint':
        kind = 'constant' if order == 0 else f'polynomial of order {order}'
        origin = f'from a {kind} fitted together with the group'
    else:
        detail = f', order {order}' if order >= 0 else ''
        origin = f'subtracted before the fit (method {method}{detail})'
    fit, fit_error = row['flux_fit'], row['flux_err']
    aperture, error = row['aperture_flux'], row['aperture_flux_err']
    flux = f'{_with_error(fit, fit_error)}{units[1]} from the fit'
    if not np.isfinite(aperture):
        flux += '; not measured in an aperture.'
    else:
        flux += f', {_with_error(aperture, error)}{units[1]} in the aperture.'
        if abs(aperture - fit) > 3.0 * max(error, fit_error):
            flux += (' The two differ by more than 3 errors: the source is '
                     'not a Gaussian, or its background is structured.')
    noise = ('the rms of a pixel' if white else 'its error, which includes '
             'the structure of the background')
    chi2, n_pixels = row['reduced_chi2'], row['n_pixels_fit']
    quality = f'reduced chi2 of {chi2:.2f} on {n_pixels} pixels'
    if not np.isfinite(chi2):
        quality = f'not known, {n_pixels} pixels'
    # The standard deviation sqrt(2 / n) for n independent pixels (Bevington &
    # Robinson 2003, chapter 11) is a lower limit for correlated ones.
    elif chi2 > 1.0 + 5.0 * np.sqrt(2.0 / max(n_pixels, 1)):
        quality += (', which is poor: the shape of the source, neighbors '
                    'that were not detected, or the background differ from '
                    'the model')
    return [f'Group: {group}.',
            f'Background: {row["local_bkg"]:.3g}{units[0]} at the source, '
            f'{origin}.', f'Flux: {flux}',
            f'Signal-to-noise ratio: {row["snr"]:.1f}, the peak in units of '
            f'{noise}.', _size(row, flags, fwhm),
            f'Goodness of fit: {quality}.']


def _with_error(value, error):
    """
    Return a value with its error, rounded to two digits of the error.
    """
    if not (np.isfinite(error) and error > 0.0):
        return f'{value:.4g} (error unknown)'
    decimals = int(np.clip(1 - np.floor(np.log10(error)), 0, 12))
    return f'{value:.{decimals}f} ± {error:.{decimals}f}'


def _size(row, flags, fwhm):
    """
    Explain the size in units of the beam.
    """
    major, minor = (row[f'fwhm_{axis}_fit'] / fwhm
                    for axis in ('major', 'minor'))
    text = f'Size: FWHMs of {major:.2f} and {minor:.2f} beams'
    if 'held_shape' in flags:
        return f'{text}, those of the beam, since a free fit failed.'
    if 'fixed_shape' in flags:
        return f'{text}, which were given and not fitted.'
    error = row['fwhm_major_err'] / fwhm
    if not np.isfinite(error):
        return f'{text}; their errors are not known.'
    if major - 1.0 > 3.0 * error:
        return f'{text}: larger than the beam.'
    return f'{text}: not resolved, within 3 errors.'
