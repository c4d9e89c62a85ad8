# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The catalog of several bands: matched sources, measured where a band lacks
them.

This module is light: it imports the scientific libraries when it needs
them.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Literal

from hyperphotutils.pipeline.config import ConfigError

if TYPE_CHECKING:
    from astropy.nddata import CCDData
    from astropy.table import QTable, Table

__all__ = ['merge_bands']

_MEASURE = ('missing', 'all', 'none')
# A source includes the flux of a neighbor that was not found in the band
# if it is nearer than this, in beams of the band.
_BLENDED = 1.0
# Columns of a band that are replaced by those of the forced photometry
_FORCED = ('flux_fit', 'flux_err', 'aperture_flux', 'aperture_flux_err',
           'amplitude_fit', 'local_bkg', 'flags')


def merge_bands(tables: Mapping[str, Table | None],
                maps: Mapping[str, CCDData], *, max_separation: float = 0.5,
                measure: Literal['missing', 'all', 'none'] = 'missing',
                forced: Callable | None = None,
                progress_bar: bool = False) -> QTable:
    """
    Merge the catalogs of several maps, and measure on each map the
    sources that were not found there.

    Parameters
    ----------
    tables : dict of `~astropy.table.Table` or `None`
        The catalogs by the name of the band, as made by
        `~hyperphotutils.photometry.HyperPhotometry`; `None` for a band
        without sources.

    maps : dict of `~astropy.nddata.CCDData`
        The maps by the name of the band, as returned by
        `~hyperphotutils.maps.read_map`. Each is taken from the
        dictionary when it is needed, and not kept.

    max_separation : float, optional
        The maximum separation of the same source in two bands, in
        beams; see `~hyperphotutils.catalog.match_catalogs`.

    measure : {'missing', 'all', 'none'}, optional
        The sources to measure at the position and with the ellipse of
        their reference band (deconvolved from its beam, convolved with
        the beam of the band):

        * ``'missing'``: sources that were not found in a band, and
          sources within one beam of them, whose own fit includes the
          flux of both;
        * ``'all'``: all sources, so that colors refer to the same
          ellipses;
        * ``'none'``: none.

        All sources of the merged catalog are fitted together in any
        case.

    forced : callable, optional
        The class of the photometry, or a function that creates it. It
        is called with ``ellipse=`` and ``reference_beam=``. The default
        is `~hyperphotutils.photometry.ForcedPhotometry`; use
        `functools.partial` to set its other arguments.

    progress_bar : bool, optional
        Whether to show a progress bar over the bands.

    Returns
    -------
    table : `~astropy.table.QTable`
        The table of `~hyperphotutils.catalog.match_catalogs`. The
        columns of a band contain the forced measurement where the column
        ``forced_<band>`` is `True`. There the errors of the fluxes
        include those of the position and the ellipse in the reference
        band, if these are known; ``snr_<band>`` is the flux divided by
        its error without them; and ``flags_<band>`` has
        ``fixed_position`` and ``fixed_shape``.

    Raises
    ------
    ValueError
        If the tables and the maps do not have the same bands, or an
        argument, a column, or a beam is missing or wrong.

    See Also
    --------
    hyperphotutils.catalog.match_catalogs
    hyperphotutils.photometry.ForcedPhotometry

    Examples
    --------
    >>> from hyperphotutils.datasets import make_blended_map
    >>> from hyperphotutils.photometry import HyperPhotometry
    >>> from hyperphotutils.pipeline import merge_bands
    >>> sky = make_blended_map((120, 120), 12, blend_fraction=0, seed=1)
    >>> table = HyperPhotometry(fwhm=4.0)(sky.image)
    >>> merged = merge_bands({'blue': table, 'red': table[:9]},
    ...                      {'blue': sky.image, 'red': sky.image})
    >>> print(len(merged), merged['forced_red'].sum())
    12 3
    """
    if measure not in _MEASURE:
        msg = f'measure must be one of {_MEASURE}: {measure!r}'
        raise ValueError(msg)
    if set(tables) != set(maps):
        msg = ('tables and maps must be of the same bands: '
               f'{", ".join(tables)} and {", ".join(maps)}')
        raise ValueError(msg)
    from hyperphotutils.catalog import describe_columns, match_catalogs

    beams = _read_beams(tables, maps)
    merged = match_catalogs(tables, max_separation=max_separation,
                            beams=beams)
    if measure == 'none':
        return merged
    if forced is None:
        from hyperphotutils.photometry import ForcedPhotometry

        forced = ForcedPhotometry
    phot = forced(ellipse='matched', reference_beam=_turn_beams(
        beams, tables, merged))
    merged.meta['call'] = repr(phot)
    import numpy as np
    from tqdm.auto import tqdm

    for name in tqdm(tables, desc='Measure bands', disable=not progress_bar):
        measured = _measure(phot, merged, name, maps[name], tables[name])
        chosen = _choose(merged, measured, name, beams[name], measure)
        for column in _FORCED:
            key = f'{column}_{name}'
            values = measured[key]
            if key in merged.colnames:
                own = merged[key]
                if hasattr(own, 'filled'):
                    own = own.filled(0)
                values = np.where(chosen, values, own)
            merged[key] = values
        snr = np.asarray(measured[f'flux_fit_{name}']
                         / measured[f'noise_{name}'], dtype=float)
        if f'snr_{name}' in merged.colnames:
            snr = np.where(chosen, snr, merged[f'snr_{name}'])
        merged[f'snr_{name}'] = snr
        merged.add_column(chosen, name=f'forced_{name}',
                          index=merged.index_column(f'flags_{name}') + 1)
    return describe_columns(merged)


def check_bands(config, n_maps):
    """
    Check that the maps of a configuration can be merged.
    """
    names, msg = config.bands.names, ''
    if n_maps < 2:
        msg = f'bands.merge: needs two maps at least, not {n_maps}'
    elif names is not None and len(names) != n_maps:
        msg = (f'bands.names: must have a name for each of the {n_maps} '
               f'maps: {", ".join(names)}')
    elif names is not None and len(set(names)) < n_maps:
        msg = f'bands.names: must differ: {", ".join(names)}'
    elif names is not None and not all(map(str.isprintable, names)):
        msg = ('bands.names: are part of the names of columns, and must be '
               f'printable: {names}')
    elif config.fit.weight_map is not None and config.bands.measure != 'none':
        msg = ('fit.weight_map: sources that a map lacks are measured '
               'without a map of weights; set bands.measure: none, or leave '
               'it out')
    if msg:
        raise ConfigError([msg])


def write_bands(outcomes, config, path, *, progress_bar=False):
    """
    Merge the catalogs of a run, and write the table.
    """
    from hyperphotutils.catalog import convert_flux_units, write_catalog
    from hyperphotutils.pipeline.extraction import read_input
    from hyperphotutils.pipeline.logs import describe_maps

    names = config.bands.names or [item.job.map_id for item in outcomes]
    done = {name: item for name, item in zip(names, outcomes, strict=True)
            if not item.reason}
    if len(done) < 2:
        msg = (f'{len(done)} of {len(outcomes)} maps are done, which leaves '
               'nothing to merge')
        raise ValueError(msg)
    maps = _LazyMaps({name: partial(read_input, item.job.path, config.input,
                                   psf=item.job.psf)
                      for name, item in done.items()})
    table = merge_bands({name: item.table for name, item in done.items()},
                        maps, max_separation=config.bands.max_separation,
                        measure=config.bands.measure,
                        forced=config.make_forced,
                        progress_bar=progress_bar)
    if config.output.flux_unit != 'Jy':
        table = convert_flux_units(table, flux_unit=config.output.flux_unit)
    table.meta['map_meta'] = describe_maps(
        {name: item.table for name, item in done.items()})
    write_catalog(table, path, overwrite=True)
    return table


def summarize_bands(table):
    """
    Summarize a merged catalog in one line.
    """
    import numpy as np

    from hyperphotutils.utils.flags import FLAGS

    names = table.meta['bands']
    n_all = int((table['n_bands'] == len(names)).sum())
    text = (f'bands: {len(table)} sources in {len(names)} maps, {n_all} of '
            'them in all')
    counts = []
    for name in names:
        if f'forced_{name}' not in table.colnames:
            continue
        forced = np.asarray(table[f'forced_{name}'])
        lost = forced & ~np.isfinite(np.asarray(table[f'flux_fit_{name}']))
        off = lost & (np.asarray(table[f'flags_{name}'])
                      & FLAGS['off_map'] > 0)
        reasons = [f'{np.count_nonzero(rows)} {reason}' for reason, rows in (
            ('off the map', off), ('without a fit', lost & ~off))
            if rows.any()]
        counts.append(f'{np.count_nonzero(forced & ~lost)} in {name}'
                      + (f' ({", ".join(reasons)})' if reasons else ''))
    if counts:
        text += f'; measured at given positions: {", ".join(counts)}'
    return text


def bands_overlap(table):
    """
    Return whether any source of a merged catalog is on more than one map.
    """
    import numpy as np

    from hyperphotutils.utils.flags import FLAGS

    n_maps = np.asarray(table['n_bands']).copy()
    for name in table.meta['bands']:
        if f'forced_{name}' in table.colnames:
            n_maps += np.asarray(table[f'forced_{name}']) & (
                np.asarray(table[f'flags_{name}']) & FLAGS['off_map'] == 0)
    return len(table) == 0 or len(table.meta['bands']) < 2 or bool(
        (n_maps > 1).any())


def explain_bands(table):
    """
    Explain in words which bands each source of a merged catalog has, with
    a line for each band.
    """
    import numpy as np

    from hyperphotutils.utils.flags import decode_flags

    names = table.meta['bands']
    found = {name: ~np.ma.getmaskarray(table[f'id_{name}']) for name in names}
    texts = [[f'Detected in {number} of {len(names)} bands; the position is '
              f'that of {reference}, which has the smallest beam of these.']
             for reference, number in zip(table['reference_band'],
                                          table['n_bands'], strict=True)]
    for name in names:
        forced = np.zeros(len(table), dtype=bool)
        if f'forced_{name}' in table.colnames:
            forced = np.asarray(table[f'forced_{name}'])
        flags = table[f'flags_{name}']
        for row, lines in enumerate(texts):
            if found[name][row]:
                n_near = table[f'n_candidates_{name}'][row]
                text = (f'detected as id {table[f"id_{name}"][row]}, '
                        f'{table[f"separation_{name}"][row]:.2g} away')
                if n_near > 1:
                    text += f', perhaps a blend of {n_near} of these sources'
            else:
                text = 'not detected'
            if forced[row]:
                text += ', measured at this position'
            flux = table[f'flux_fit_{name}'][row]
            if np.isfinite(flux):
                error = table[f'flux_err_{name}'][row]
                text += (f'; flux {flux.value:.4g} ± {error:.2g}, '
                         f'S/N {table[f"snr_{name}"][row]:.1f}')
            elif forced[row]:
                text += '; without a flux'
            known = [] if flags[row] is np.ma.masked else decode_flags(
                [int(flags[row])])[0]
            if known:
                text += f'; flags {", ".join(known)}'
            lines.append(f'{name}: {text}.')
    return ['\n'.join(lines) for lines in texts]


class _LazyMaps(UserDict):
    """
    Maps that are read when they are needed, by functions.
    """

    def __getitem__(self, name):
        return self.data[name]()


def _read_beams(tables, maps):
    """
    Return the beams, from the metadata of the catalogs if possible,
    otherwise from the maps.
    """
    import astropy.units as u
    from radio_beam import Beam

    beams = {}
    for name, table in tables.items():
        meta = {} if table is None else table.meta
        if {'beam_major', 'beam_minor', 'beam_pa'} <= set(meta):
            beams[name] = Beam(*(u.Quantity(meta[f'beam_{axis}'])
                                 for axis in ('major', 'minor', 'pa')))
        else:
            beams[name] = (maps[name].meta or {}).get('beam')
        if beams[name] is None:
            msg = f"the map of band {name!r} needs a beam in meta['beam']"
            raise ValueError(msg)
    return beams


def _turn_beams(beams, tables, merged):
    """
    Return the beams with position angles in the frame of the merged
    catalog.

    The angle between the frames is taken at the center of the catalog
    of the band.
    """
    from astropy.coordinates import SkyCoord
    from radio_beam import Beam

    from hyperphotutils.utils.wcs import position_angle_in_frame

    frame = merged['sky_centroid'].frame.replicate_without_data()
    turned = {}
    for name, table in tables.items():
        beam = beams[name]
        turned[name] = beam
        if table is None or len(table) == 0 or not hasattr(beam, 'major'):
            continue
        vector = merged['sky_centroid'].transform_to(
            table['sky_centroid'].frame.replicate_without_data()
        ).cartesian.mean()
        center = SkyCoord(vector, frame=table['sky_centroid'].frame
                          .replicate_without_data())
        angle = position_angle_in_frame(center, beam.pa, frame)
        turned[name] = Beam(beam.major, beam.minor, angle)
    return turned


def _measure(phot, merged, name, image, table):
    """
    Measure all sources on the map of a band, in the units of its
    catalog.
    """
    from hyperphotutils.catalog import convert_flux_units

    measured = phot(merged, {name: image})
    measured[f'noise_{name}'] = phot.tables[name]['flux_err']
    units = {}
    for kind, column in (('flux_unit', 'flux_fit'),
                         ('peak_unit', 'amplitude_fit')):
        if table is not None and column in table.colnames:
            units[kind] = merged[f'{column}_{name}'].unit
    if not units:
        return measured
    return convert_flux_units(
        measured, **units, beam_area_pix=image.meta.get('beam_area_pix'))


def _choose(merged, measured, name, beam, measure):
    """
    Return whether rows get the forced measurement.
    """
    import numpy as np
    from scipy.spatial import KDTree

    given = np.isfinite(measured[f'flux_fit_{name}'].value)
    if measure == 'all' or f'flux_fit_{name}' not in merged.colnames:
        return np.ones(len(merged), dtype=bool)
    missing = ~np.isfinite(merged[f'flux_fit_{name}'].value)
    width = (np.sqrt(beam.major * beam.minor) if hasattr(beam, 'major')
             else beam)
    vectors = merged['sky_centroid'].cartesian.xyz.value.T
    lost = vectors[missing & given]
    if len(lost) == 0:
        return missing
    distance, _ = KDTree(lost).query(vectors)
    return missing | (given & (distance < _BLENDED * width.to_value('rad')))
