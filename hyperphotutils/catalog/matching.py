# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Matching of the catalogs of several bands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.coordinates.errors import ConvertError
from astropy.table import MaskedColumn, QTable, Table
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import KDTree

from hyperphotutils.catalog.angles import plain_values, read_angles
from hyperphotutils.catalog.columns import describe_columns
from hyperphotutils.catalog.errors import CatalogError
from hyperphotutils.utils.checks import check_positive
from hyperphotutils.utils.tables import result_meta
from hyperphotutils.utils.wcs import position_angle_in_frame

if TYPE_CHECKING:
    from radio_beam import Beam

__all__ = ['match_catalogs']

_SHAPE = ('fwhm_major_sky', 'fwhm_minor_sky', 'position_angle')
# Columns of the reference band in each row, if available
_REFERENCE = (*_SHAPE, 'lon_err', 'lat_err', 'fwhm_major_sky_err',
              'fwhm_minor_sky_err', 'position_angle_err')
# Columns of each band
_COLUMNS = ('flux_fit', 'flux_err', 'aperture_flux', 'aperture_flux_err',
            'amplitude_fit', 'local_bkg', 'snr', 'flags')


def match_catalogs(tables: Mapping[str, Table | None], *,
                   max_separation: float = 0.5,
                   beams: Mapping[str, u.Quantity | Beam] | None = None,
                   columns: Sequence[str] | None = None) -> QTable:
    r"""
    Match the catalogs of several bands by position.

    Sources of different bands within a fraction of a beam of each other
    are matched and share a row. Sources of the same band are never
    matched.

    Parameters
    ----------
    tables : dict of `~astropy.table.Table` or `None`
        The catalogs by the name of the band. The column ``sky_centroid``
        is required, in any frame. `None` or a table without rows is a
        band without sources.

    max_separation : float, optional
        The largest separation of matched sources, in units of the larger
        of the two beams. If a source has a fitted ellipse wider than its
        beam (``fwhm_major_sky``, ``fwhm_minor_sky``,
        ``position_angle``), that ellipse is the unit: with 0.5, the
        default, the other source is within its contour at half
        maximum.

    beams : dict of `~astropy.units.Quantity` or `~radio_beam.Beam`, optional
        The beams by the name of the band, or their FWHMs; entries for
        other bands are ignored. By default they are taken from
        ``meta['beam_major']`` and ``meta['beam_minor']``, as the
        pipeline stores them.

    columns : sequence of str, optional
        The columns of each band. The default is ``flux_fit``,
        ``flux_err``, ``aperture_flux``, ``aperture_flux_err``,
        ``amplitude_fit``, ``local_bkg``, ``snr``, and ``flags``, if
        available.

    Returns
    -------
    table : `~astropy.table.QTable`
        One row per source: first those of the band with the smallest
        beam, in their order, then the unmatched ones of the next band,
        and so on, with

        * ``id``, from 1;
        * ``n_bands``, the number of bands with a detection;
        * ``reference_band``, the band of these with the smallest beam;
        * ``sky_centroid`` in that band, in the frame of the first
          catalog, and its ellipse and the errors of both, if
          available;
        * for each band ``id_<band>``; ``separation_<band>`` from
          ``sky_centroid`` in arcsec; ``n_candidates_<band>``, the
          number of rows that the source of this band could have been
          matched with (if more than one, it may be a blend of several
          sources of bands with smaller beams); and ``<column>_<band>``
          for all ``columns``.

        If a band has no source, numbers are NaN, and integers and
        strings are masked. Columns with units have the unit of the first
        catalog that has the column.

    Raises
    ------
    TypeError
        If a catalog is not a table, or beams are not a dictionary.

    ValueError
        If there is no catalog, a column is missing, or a beam is
        unknown.

    See Also
    --------
    hyperphotutils.photometry.ForcedPhotometry :
        Measures the sources in the bands without a detection.

    Notes
    -----
    The bands are added in the order of their beams, the smallest first.
    The sources of a band are assigned one to one to the existing rows,
    and unassigned sources start new rows. The assignment maximizes the
    sum of
    :math:`1 - (d / d_\mathrm{max})^2` over its pairs, where :math:`d` is
    the separation and :math:`d_\mathrm{max}` the largest allowed one.
    It is the most probable one for Gaussian errors of the positions, if
    a pair at :math:`d_\mathrm{max}` is as probable as two unrelated
    sources [1]_. It is found as a minimum-weight matching of a sparse
    bipartite graph [2]_.

    Separations are measured from the position in the reference band.
    They do not depend on other bands, so that sources are never linked
    in chains.

    Rows without a finite position are left out; their number is
    ``meta['n_without_position']``.

    References
    ----------
    .. [1] Budavari, T. & Basu, A. 2016, AJ, 152, 86
    .. [2] Jonker, R. & Volgenant, A. 1987, Computing, 38, 325

    Examples
    --------
    >>> import astropy.units as u
    >>> from astropy.coordinates import SkyCoord
    >>> from astropy.table import QTable
    >>> from hyperphotutils.catalog import match_catalogs
    >>> blue = QTable({'id': [1, 2], 'flux_fit': [3.0, 5.0] * u.Jy,
    ...                'sky_centroid': SkyCoord([10.0, 10.1], [20.0, 20.0],
    ...                                         unit='deg')})
    >>> red = QTable({'id': [1, 2], 'flux_fit': [500.0, 250.0] * u.mJy,
    ...               'sky_centroid': SkyCoord([10.101, 10.2], [20.0, 20.0],
    ...                                        unit='deg')})
    >>> table = match_catalogs({'blue': blue, 'red': red}, beams={
    ...     'blue': 10 * u.arcsec, 'red': 20 * u.arcsec})
    >>> print(table['id', 'n_bands', 'flux_fit_blue', 'flux_fit_red'])
     id n_bands flux_fit_blue flux_fit_red
                      Jy           Jy
    --- ------- ------------- ------------
      1       1           3.0          nan
      2       2           5.0          0.5
      3       1           nan         0.25
    """
    max_separation = check_positive(max_separation, 'max_separation')
    bands = _open_tables(tables, {} if beams is None else beams)
    rows = np.empty((0, 3))
    for band in sorted(bands, key=lambda band: band.beam):
        row, band.n_candidates = _assign(rows, band, max_separation)
        new = row < 0
        row[new] = len(rows) + np.arange(np.count_nonzero(new))
        rows = np.concatenate((rows, band.vectors[new]))
        band.row = row
    return _make_table(bands, len(rows), max_separation,
                       _COLUMNS if columns is None else columns)


@dataclass(eq=False)
class _Band:
    """
    Class for the catalog of a band: its sources with a position, their
    positions in the common frame, the FWHM of its beam in arcsec, and the
    number of sources without a position.

    ``row`` is the row of the result for each source, and ``n_candidates``
    the number of rows near it.
    """

    name: str
    table: QTable
    sky: SkyCoord
    beam: float
    n_lost: int = 0
    row: np.ndarray = None
    n_candidates: np.ndarray = None

    @property
    def vectors(self):
        """
        The positions as unit vectors.
        """
        return self.sky.cartesian.xyz.value.T.reshape(-1, 3)

    def ellipses(self):
        """
        Return the FWHMs in radians, at least those of the beam, and the
        position angles in radians in the common frame.
        """
        beam = (self.beam * u.arcsec).to_value(u.rad)
        n_sources = len(self.table)
        if not set(_SHAPE) <= set(self.table.colnames):
            return np.full((2, n_sources), beam), np.zeros(n_sources)
        widths = [np.fmax(beam, self.read(name, u.arcsec).to_value(u.rad))
                  for name in _SHAPE[:2]]
        angle = self.read('position_angle', u.rad).value
        return np.array(widths), np.nan_to_num(angle)

    def read(self, name, unit):
        """
        Return a column of angles; position angles are in the common frame.
        """
        values = read_angles(self.table[name], unit, name,
                             f'the catalog of band {self.name!r}')
        if name == 'position_angle':
            values = position_angle_in_frame(
                self.table['sky_centroid'], values,
                self.sky.frame.replicate_without_data()).to(unit)
        return values

    def spread(self, name, n_rows, unit):
        """
        Return a column with one value per row of the result.
        """
        column = self.table[name]
        if name == 'position_angle':
            column = self.read(name, unit or u.deg)
        values, mask = plain_values(column)
        mask = np.broadcast_to(mask, len(column))
        if values.ndim != 1:
            msg = (f'the catalog of band {self.name!r}: {name} must hold one '
                   f'value per row: got the shape {values.shape[1:]} in each')
            raise CatalogError(msg)
        own = getattr(column, 'unit', None)
        if unit is not None and own is not None:
            if not own.is_equivalent(unit):
                msg = (f'the catalog of band {self.name!r}: the unit '
                       f"'{own}' of {name} does not convert to '{unit}' of "
                       'another band')
                raise CatalogError(msg)
            values = (values << own).to_value(unit)
        return self.put(values, n_rows, unit=unit, mask=mask)

    def put(self, values, n_rows, *, unit=None, mask=False):
        """
        Return values of the sources as a column of the result.
        """
        if values.dtype.kind == 'f':
            column = np.full(n_rows, np.nan, dtype=float)
            column[self.row] = np.where(mask, np.nan, values)
            return column if unit is None else column << unit
        missing = np.ones(n_rows, dtype=bool)
        missing[self.row] = mask
        column = np.zeros(n_rows, dtype=values.dtype)
        column[self.row] = values
        return (MaskedColumn(column, mask=missing) if missing.any()
                else column)


def _open_tables(tables, beams):
    """
    Check the catalogs, and transform their positions to one frame.
    """
    for name, value in (('tables', tables), ('beams', beams)):
        if not isinstance(value, Mapping):
            msg = (f'{name} must be a dictionary of {name} by band, got '
                   f'{type(value).__name__}')
            raise TypeError(msg)
    frame = None
    bands = []
    for name, table in tables.items():
        sky = _read_sky(name, table)
        if sky is None:
            bands.append(_Band(name, QTable(), None, np.inf))
            continue
        if frame is None:
            frame = sky.frame.replicate_without_data()
        good = np.isfinite(sky.spherical.lon) & np.isfinite(sky.spherical.lat)
        chosen = QTable(table, copy=False)[good]
        chosen['sky_centroid'] = sky[good]
        # (astropy raises other errors for a place or time that is not known)
        common = None
        with suppress(ConvertError):
            if all(getattr(sky.frame, key) is not None
                   for key in sky.frame.frame_attributes):
                common = sky[good].transform_to(frame)
        if common is None:
            msg = (f'the positions of band {name!r} in {sky.frame.name} '
                   f'cannot be transformed to {frame.name} of the first '
                   'band: transform them before')
            raise CatalogError(msg)
        bands.append(_Band(name, chosen, common,
                           _beam_fwhm(name, table, beams),
                           n_lost=int(np.count_nonzero(~good))))
    if frame is None:
        names = ', '.join(map(repr, tables)) or 'no band'
        msg = f'tables must hold a catalog with sources: got {names} without'
        raise ValueError(msg)
    nowhere = SkyCoord([], [], unit='deg', frame=frame)
    for band in bands:
        band.sky = nowhere if band.sky is None else band.sky
    return bands


def _read_sky(name, table):
    """
    Return the positions without distances, `None` if there are none.
    """
    if not isinstance(name, str) or not name:
        msg = f'the names of bands must be strings: {name!r}'
        raise ValueError(msg)
    if table is None:
        return None
    if not isinstance(table, Table):
        msg = (f'the catalog of band {name!r} must be an astropy Table, '
               f'got {type(table).__name__}')
        raise TypeError(msg)
    if len(table) == 0:
        return None
    if 'sky_centroid' not in table.colnames:
        msg = (f'the catalog of band {name!r} needs the column '
               f'sky_centroid; it has {", ".join(table.colnames)}')
        raise CatalogError(msg)
    sky = table['sky_centroid']
    if not isinstance(sky, SkyCoord):
        msg = (f'the column sky_centroid of band {name!r} must hold a '
               f'SkyCoord, got {type(sky).__name__}')
        raise TypeError(msg)
    if sky.ndim != 1:
        msg = (f'the column sky_centroid of band {name!r} must hold one '
               f'position per row: got the shape {sky.shape}')
        raise CatalogError(msg)
    if getattr(sky, 'masked', False):
        sky = sky.filled(np.nan)
    # with distances, a transformation would depend on the observer
    return SkyCoord(sky.spherical.lon, sky.spherical.lat,
                    frame=sky.frame.replicate_without_data())


def _beam_fwhm(name, table, beams):
    """
    Return the geometric mean FWHM of a beam in arcsec.
    """
    beam = beams.get(name)
    if beam is None:
        axes = [table.meta.get(f'beam_{axis}') for axis in ('major', 'minor')]
    # a radio_beam.Beam is also a Quantity, its solid angle
    elif hasattr(beam, 'major'):
        axes = [beam.major, beam.minor]
    else:
        axes = [beam, beam]
    if None in axes:
        msg = (f'the beam of band {name!r} is not known: give beams={{'
               f'{name!r}: 18 * u.arcsec}} or the like')
        raise ValueError(msg)
    try:
        major, minor = (u.Quantity(axis).to_value(u.arcsec) for axis in axes)
    except (TypeError, u.UnitConversionError):
        msg = (f'the beam of band {name!r} must be a radio_beam.Beam or the '
               f'FWHM as a Quantity, such as 18 * u.arcsec: {beam!r}')
        raise ValueError(msg) from None
    name = f'the beam of band {name!r}'
    return float(np.sqrt(check_positive(float(major), name, of='arcsec')
                         * check_positive(float(minor), name, of='arcsec')))


def _assign(rows, band, max_separation):
    """
    Assign the sources of a band to rows, one to one.

    The rows are positions of shape (n, 3), and the separation is in units
    of the FWHM. Returns the row for each source, -1 for none, and the
    number of rows near each source.
    """
    n_sources = len(band.table)
    row = np.full(n_sources, -1)
    if len(rows) == 0 or n_sources == 0:
        return row, np.zeros(n_sources, dtype=int)
    # all pairs of a source and a row within the largest separation, and the
    # squares of their separations in units of it
    widths, angle = band.ellipses()
    vectors = band.vectors
    # the chord of that angle
    reach = 2.0 * np.sin(0.5 * np.minimum(max_separation * widths[0], np.pi))
    found = KDTree(rows).query_ball_point(vectors, reach, return_sorted=True)
    source = np.repeat(np.arange(len(vectors)), [len(k) for k in found])
    near = np.concatenate(found).astype(int)
    lon = band.sky.spherical.lon.to_value(u.rad)
    offset = rows[near] - vectors[source]
    east = np.stack((-np.sin(lon), np.cos(lon), np.zeros_like(lon)), axis=-1)
    north = np.cross(vectors, east)
    east, north = (np.sum(offset * axis[source], axis=1)
                   for axis in (east, north))
    sin, cos = np.sin(angle[source]), np.cos(angle[source])
    cost = (((east * sin + north * cos) / widths[0, source])**2
            + ((east * cos - north * sin) / widths[1, source])**2
            ) / max_separation**2
    inside = cost <= 1.0
    source, near, cost = source[inside], near[inside], cost[inside]
    n_candidates = np.bincount(source, minlength=n_sources)
    used, left = np.unique(source, return_inverse=True)
    if len(used) == 0:
        return row, n_candidates
    # Each source may also stay unmatched, at the cost of a pair at the
    # largest separation. All costs are increased by 1, because zeros of a
    # sparse matrix are not pairs. The sum of all costs is the least that
    # one-to-one matches can have (Jonker & Volgenant 1987, Computing, 38,
    # 325); the nearest neighbor of each source alone may be that of two.
    alone = np.arange(len(used))
    graph = csr_array(
        (1.0 + np.append(cost, np.ones(len(used))),
         (np.append(left, alone), np.append(near, len(rows) + alone))),
        shape=(len(used), len(rows) + len(used)))
    chosen = min_weight_full_bipartite_matching(graph)[1]
    row[used] = np.where(chosen < len(rows), chosen, -1)
    return row, n_candidates


def _make_table(bands, n_rows, max_separation, columns):
    """
    Return the table of all bands.
    """
    table = QTable({'id': np.arange(1, n_rows + 1)})
    found = np.zeros((len(bands), n_rows), dtype=bool)
    for seen, band in zip(found, bands, strict=True):
        seen[band.row] = True
    table['n_bands'] = found.sum(axis=0)
    # positions of the sharpest band in which a source is found
    beams = np.array([band.beam for band in bands])
    reference = np.argmin(np.where(found, beams[:, None], np.inf), axis=0)
    table['reference_band'] = np.array([band.name for band in bands])[
        reference]
    lon, lat = np.empty((2, n_rows)) * u.deg
    for number, band in enumerate(bands):
        own = reference[band.row] == number
        sphere = band.sky.spherical
        lon[band.row[own]] = sphere.lon[own]
        lat[band.row[own]] = sphere.lat[own]
    table['sky_centroid'] = SkyCoord(
        lon, lat, frame=bands[0].sky.frame.replicate_without_data())
    for name in _REFERENCE:
        unit = _common_unit(bands, name)
        if unit is not None:
            values = [band.put(band.read(name, unit).value, n_rows, unit=unit)
                      if name in band.table.colnames
                      else np.full(n_rows, np.nan) << unit for band in bands]
            table[name] = np.stack(values)[reference, np.arange(n_rows)]
    for band in bands:
        ids = (band.table['id'] if 'id' in band.table.colnames
               else np.arange(1, len(band.table) + 1))
        table[f'id_{band.name}'] = band.put(np.asarray(ids), n_rows)
        sky = table['sky_centroid'][band.row]
        table[f'separation_{band.name}'] = band.put(
            sky.separation(band.sky).to_value(u.arcsec), n_rows,
            unit=u.arcsec)
        table[f'n_candidates_{band.name}'] = band.put(band.n_candidates,
                                                      n_rows)
        for name in columns:
            having = [other for other in bands
                      if name in other.table.colnames]
            if not having:
                continue
            unit = _common_unit(bands, name)
            if band in having:
                own = getattr(band.table[name], 'unit', None)
                if unit is None or own is None or not own.is_equivalent(unit):
                    unit = own
                column = band.spread(name, n_rows, unit)
            else:
                kind = np.asarray(having[0].table[name]).dtype
                column = band.put(np.empty(len(band.table), kind), n_rows,
                                  unit=unit, mask=True)
            table[f'{name}_{band.name}'] = column
    table.meta |= result_meta() | {
        'bands': [band.name for band in bands],
        'max_separation': max_separation,
        'n_without_position': sum(band.n_lost for band in bands)}
    return describe_columns(table)


def _common_unit(bands, name):
    """
    Return the unit of a column in the first band that has it.
    """
    return next((getattr(band.table[name], 'unit', None) for band in bands
                 if name in band.table.colnames), None)
