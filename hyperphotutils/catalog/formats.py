# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reading and writing of catalogs in ECSV, FITS, VOTable, IPAC and CSV.

The first three keep everything of a result table. IPAC and CSV are for
exchange, with the column names of Hyper's catalogs.
"""

from __future__ import annotations

import codecs
import io
import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import (
    Column,
    MaskedColumn,
    QTable,
    Table,
    represent_mixins_as_columns,
)
from astropy.utils.exceptions import AstropyUserWarning
from astropy.utils.masked import Masked

from hyperphotutils.catalog.columns import find_column
from hyperphotutils.catalog.errors import CatalogError
from hyperphotutils.catalog.foreign import (
    FOREIGN_ERRORS,
    describe_error,
    refuse_compressed,
    refuse_deep_yaml,
)
from hyperphotutils.catalog.hyper import make_hyper_table
from hyperphotutils.catalog.separated import (
    find_separator,
    read_lines,
    read_separated,
)
from hyperphotutils.catalog.units import convert_flux_units
from hyperphotutils.catalog.votables import check_votable
from hyperphotutils.utils.checks import check_table
from hyperphotutils.utils.output import atomic_output

if TYPE_CHECKING:
    from hyperphotutils.utils.typing import FilePath

__all__ = ['read_catalog', 'write_catalog']

_SUFFIXES = {
    '.ecsv': 'ecsv',
    '.fits': 'fits',
    '.fit': 'fits',
    '.vot': 'votable',
    '.votable': 'votable',
    '.xml': 'votable',
    '.ipac': 'ipac',
    '.tbl': 'ipac',
    '.csv': 'csv',
    '.tsv': 'csv',
}
_FORMATS = ('ecsv', 'fits', 'votable', 'ipac', 'csv')
# First bytes of the formats, to recognize files with another suffix
_BEGINNINGS = (
    ((b'# %ECSV',), 'ecsv'),
    ((b'SIMPLE  =',), 'fits'),
    ((b'<',), 'votable'),
    ((b'\\', b'|'), 'ipac'),
)
# Formats with the columns of Hyper
_HYPER_FORMATS = ('ipac', 'csv')

# Texts that need no quotes in ECSV
_BARE_TEXT = re.compile(r'[\w.:+-]+', re.ASCII)

# The UCDs (UCD1+ of the IVOA) and descriptions of the angles of positions
_SKY_ANGLES = {
    'ra': ('pos.eq.ra;meta.main', 'right ascension'),
    'dec': ('pos.eq.dec;meta.main', 'declination'),
    'l': ('pos.galactic.lon;meta.main', 'Galactic longitude'),
    'b': ('pos.galactic.lat;meta.main', 'Galactic latitude'),
    'lon': ('pos;meta.main', 'longitude'),
    'lat': ('pos;meta.main', 'latitude'),
}
# The names of frames in the COOSYS of VOTables
_COOSYS = {'icrs': 'ICRS', 'fk5': 'eq_FK5', 'fk4': 'eq_FK4',
           'galactic': 'galactic'}

# FITS keyword and VOTable INFO of the metadata that these formats cannot
# store
_META_NAME = 'HPUMETA'


def write_catalog(table: Table, path: FilePath, *,
                  format: Literal['ecsv', 'fits', 'votable', 'ipac', 'csv']  # noqa: A002
                      | None = None, overwrite: bool = False, map_id: str = '',
                  flux_unit: str | None = None,
                  peak_unit: str | None = None) -> None:
    r"""
    Write a table of sources to a file.

    The file appears under its name only when it is complete.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The sources, one per row.

    path : str or `~pathlib.Path`
        The name of the file.

    format : {'ecsv', 'fits', 'votable', 'ipac', 'csv'} or `None`, optional
        The format. If `None` (default), it follows from the suffix of
        ``path``: ``.ecsv``; ``.fits`` or ``.fit``; ``.vot``,
        ``.votable`` or ``.xml``; ``.ipac`` or ``.tbl``; ``.csv``.

    overwrite : bool, optional
        Whether an existing file may be replaced.

    map_id : str, optional
        The name of the map, for the column MAP_ID of IPAC and CSV. If
        empty (default), ``table.meta['map_id']`` is used if there is one.

    flux_unit, peak_unit : str or `None`, optional
        The units of fluxes (``'Jy'``, ``'mJy'``) and of peaks
        (``'Jy/pix'``, ``'Jy/beam'``) in the file, see
        `convert_flux_units`. Peaks per beam need
        ``table.meta['beam_area_pix']``. If `None` (default), the units
        of the table are kept.

    Raises
    ------
    TypeError
        If ``table`` is not a table, or its metadata contain an object
        that the format cannot store.

    ValueError
        If the format is unknown, if the table lacks columns needed for
        an IPAC or CSV catalog, or if a unit cannot be converted.

    FileExistsError
        If the file exists and ``overwrite`` is `False`.

    OSError
        If the file cannot be written.

    See Also
    --------
    read_catalog

    Notes
    -----
    ECSV, FITS and VOTable keep all columns, units, coordinate frames
    and the metadata. In FITS and VOTable a column of coordinates becomes
    two columns, named after the angles (``ra`` and ``dec``, or ``l`` and
    ``b``) for ``sky_centroid``.

    FITS files and VOTables also state the descriptions of the columns,
    their unified content descriptors (UCDs), and the celestial frame.

    IPAC and CSV catalogs have the columns of Hyper, which
    :ref:`catalog-columns` lists. Columns that the table lacks are null.
    All numbers are written at full precision. STATUS is 1 for good
    measurements, and 0 for those with one of the ``flags`` ``off_map``,
    ``too_few_pixels``, ``no_convergence``, ``non_finite_flux``,
    ``no_covariance``, and ``no_position``. DEBLEND is 1 if
    ``group_size`` is above 1, else 0. RA and DEC are in the frame of the
    map if that is equatorial, else in ICRS.

    The comments in the header (lines that begin with ``#`` in CSV) state
    the units, the meaning of STATUS and, if the table's metadata have them,
    the threshold, the rms and the image it was measured on (``'rms'``
    and ``'rms_of'``), the area of the beam and the versions.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import astropy.units as u
    >>> from astropy.table import QTable
    >>> from hyperphotutils.catalog import read_catalog, write_catalog
    >>> table = QTable({'id': [1, 2], 'flux_fit': [0.5, 1.5] * u.Jy})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / 'catalog.fits'
    ...     write_catalog(table, path)
    ...     print(read_catalog(path))
     id flux_fit
           Jy
    --- --------
      1      0.5
      2      1.5
    """
    check_table(table)
    format = _find_format(path, format)  # noqa: A001
    if flux_unit is not None or peak_unit is not None:
        table = convert_flux_units(table, flux_unit=flux_unit,
                                   peak_unit=peak_unit)
    if format in _HYPER_FORMATS:
        table = make_hyper_table(table,
                                 map_id or table.meta.get('map_id', ''))
    from yaml.representer import RepresenterError

    with atomic_output(path, overwrite=overwrite) as temporary:
        try:
            _WRITERS[format](table, temporary)
        except RepresenterError as exc:
            msg = (f'table.meta holds {exc.args[-1]!r}, which {format} cannot '
                   'store: make it a text, number, list or dict')
            raise TypeError(msg) from exc


def read_catalog(path: FilePath, *,
                 format: Literal['ecsv', 'fits', 'votable', 'ipac', 'csv']  # noqa: A002
                     | None = None) -> QTable:
    """
    Read a table of sources from a file.

    Files of `write_catalog` are read with all their columns, units,
    coordinates and metadata; IPAC and CSV files with the columns they
    have, and the units that their comments state. Other tables in one of
    the formats can be read, too.

    Parameters
    ----------
    path : str or `~pathlib.Path`
        The name of the file.

    format : {'ecsv', 'fits', 'votable', 'ipac', 'csv'} or `None`, optional
        The format. If `None` (default), it follows from the suffix of
        ``path``, see `write_catalog`; for another suffix, such as
        ``.txt``, from the first bytes of the file. In ``'csv'``, the
        separator may also be a tab, a semicolon or ``|``, and the lines
        of units and dashes that VizieR writes are recognized (suffix
        ``.tsv`` or ``.csv``).

    Returns
    -------
    table : `~astropy.table.QTable`
        The sources. Missing floating-point values are NaN, missing
        strings are empty, other missing values are masked.

    Raises
    ------
    FileNotFoundError
        If there is no such file.

    CatalogError
        If the format is unknown or the file is not of that format.

    See Also
    --------
    write_catalog

    Notes
    -----
    Reading is safe: no other file or URL that a VOTable refers to is
    opened, XML entities are refused, and nothing in a header is
    executed. Only the first table with rows of a FITS or VOTable file is
    read, with a warning if there are others.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from astropy.table import QTable
    >>> from hyperphotutils.catalog import read_catalog, write_catalog
    >>> table = QTable({'id': [1, 2]}, meta={'date': '2025-01-01'})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / 'catalog.ecsv'
    ...     write_catalog(table, path)
    ...     print(read_catalog(path).meta)
    {'date': '2025-01-01'}
    """
    return QTable(read_table(path, format=format), copy=False)


def read_table(path, *, format=None):  # noqa: A002
    """
    Read a table as `read_catalog`, but keep units unknown to astropy.
    """
    path = Path(path)
    if format is not None or path.suffix.lower() in _SUFFIXES:
        format = _find_format(path, format)  # noqa: A001
    with path.open('rb') as file:
        refuse_compressed(file, path)
        if format is None:
            format = _look_inside(file, path)  # noqa: A001
        file.seek(0)
        try:
            # needed columns are checked one by one
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter('always')
                table = _fill_missing(_READERS[format](file, path))
        except FOREIGN_ERRORS as exc:
            msg = f"'{path}' cannot be read as {format}: {describe_error(exc)}"
            raise CatalogError(msg) from exc
    for warning in caught:
        if issubclass(warning.category, _SeveralTablesWarning):
            warnings.warn(warning.message, stacklevel=3)
    return table


class _SeveralTablesWarning(AstropyUserWarning):
    """
    Warning about a file with further tables, which are not read.
    """


def _find_format(path, format):  # noqa: A002
    if format is None:
        suffix = Path(path).suffix.lower()
        if suffix not in _SUFFIXES:
            msg = (f"the format of '{path}' is unknown: use one of the "
                   f'suffixes {", ".join(_SUFFIXES)}, or format=')
            raise ValueError(msg)
        return _SUFFIXES[suffix]
    if format not in _FORMATS:
        msg = f'format must be one of {", ".join(_FORMATS)}: got {format!r}'
        raise ValueError(msg)
    return format


def _look_inside(file, path):
    # returns the format, from the first line that is not blank or, for
    # CSV, a comment; bytes that are not UTF-8 are not an error here
    file.seek(0)
    # (FITS has no lines; 80 characters are enough)
    lines = (line.strip() for line in iter(lambda: file.readline(2880), b''))
    lines = (line for line in lines if line)
    first = next(lines, b'').removeprefix(codecs.BOM_UTF8)
    for beginnings, format in _BEGINNINGS:  # noqa: A001
        if first.startswith(beginnings):
            return format
    while first.startswith(b'#'):
        first = next(lines, b'')
    if path.suffix.lower() in {'.reg', '.crtf'}:
        msg = (f"'{path}' is a file of regions, not a table: read it with "
               'read_regions, and make a table of the centers: '
               "QTable({'sky_centroid': SkyCoord([region.center for region "
               'in regions])})')
        raise CatalogError(msg)
    if find_separator(first.decode('utf-8', 'replace')) is not None:
        return 'csv'
    msg = (f"the format of '{path}' is unknown: it begins like none of "
           f'{", ".join(_FORMATS)}; tables of columns apart by blanks need a '
           "header, as those of IPAC with '|', or commas")
    raise CatalogError(msg)


def _fill_missing(table):
    # NaN and '' mark missing values in results; readers turn them into
    # masks
    for name in table.colnames:
        column = table[name]
        if (not isinstance(column, MaskedColumn | Masked)
                or not hasattr(column, 'dtype')):
            continue
        fill = {'f': np.nan, 'U': ''}.get(column.dtype.kind)
        if fill is not None:
            table.replace_column(name, column.filled(fill))
        elif not np.any(column.mask):
            table.replace_column(name, column.filled())
    return table


def _write_ecsv(table, path):
    units = {str(column.unit): column.unit
             for column in table.columns.values()
             if getattr(column, 'unit', None) is not None}
    table = QTable(table, copy=False)
    table.meta = _for_yaml(table.meta, units)
    # The rows are joined from columns, since astropy converts value by
    # value; it writes columns that need quotes, null values, or JSON, and
    # float32, of which str() has fewer digits.
    plain = represent_mixins_as_columns(table)
    columns = plain.columns.values()
    if not all(not isinstance(column, MaskedColumn) and column.ndim == 1 and (
            column.dtype.kind in 'biu' or column.dtype == np.float64
            or (column.dtype.kind == 'U'
                and all(map(_BARE_TEXT.fullmatch, column.tolist()))))
            for column in columns):
        table.write(path, format='ascii.ecsv')
        return
    text = io.StringIO()
    table[:0].write(text, format='ascii.ecsv')
    rows = zip(*(map(str, column.tolist()) for column in columns),
               strict=True)
    text.writelines(f'{" ".join(row)}\n' for row in rows)
    path.write_text(text.getvalue(), encoding='utf-8')


def _read_ecsv(file, _):
    lines = read_lines(file)
    refuse_deep_yaml('\n'.join(line[1:] for line in lines
                               if line.startswith('#')))
    return QTable.read(lines, format='ascii.ecsv')


class _Lines(str):
    """
    A string of several lines, written in one line of an ECSV header.

    astropy's reader drops the empty lines that plain YAML would have.
    """

    __slots__ = ()


def _for_yaml(meta, units):
    # Metadata as they are written: texts of several lines in one line, and
    # one object for each unit, by its name in ``units``. (YAML states which
    # objects are the same; without this, equal tables of two processes
    # would have different files.)
    from astropy.io.misc.yaml import AstropyDumper

    AstropyDumper.add_representer(
        _Lines, lambda dumper, text: dumper.represent_scalar(
            'tag:yaml.org,2002:str', str(text), style='"'))

    def convert(value):
        if isinstance(value, str) and '\n' in value:
            return _Lines(value)
        if type(value) in (list, tuple):
            return type(value)(convert(item) for item in value)
        if type(value) is dict:
            return {key: convert(item) for key, item in value.items()}
        if type(value) is u.Quantity:
            unit = units.setdefault(str(value.unit), value.unit)
            return u.Quantity(value.value, unit, dtype=value.dtype)
        return value

    return convert(dict(meta))


def _write_fits(table, path):
    plain, extra, frames = _flatten(table)
    hdu = fits.table_to_hdu(plain)
    for number, name in enumerate(plain.colnames, start=1):
        info = plain[name].info
        for key, text in (('TCOMM', info.description),
                          ('TUCD', (info.meta or {}).get('ucd'))):
            if text:
                hdu.header[f'{key}{number}'] = text
    equatorial = [frame for frame in frames.values()
                  if frame.name in ('icrs', 'fk5', 'fk4')]
    if equatorial:
        # the frame of the first positions: FITS has one for a table
        hdu.header['RADESYS'] = equatorial[0].name.upper()
        if equatorial[0].name != 'icrs':
            equinox = equatorial[0].equinox
            hdu.header['EQUINOX'] = (
                equinox.byear if equatorial[0].name == 'fk4'
                else equinox.jyear)
    # one line of ASCII, which may be as long as it needs by CONTINUE (FITS
    # standard 4.0, section 4.2.1.2)
    hdu.header[_META_NAME] = json.dumps(extra)
    hdu.name = 'CATALOG'
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)


def _read_fits(file, path):
    # (a table in memory can outlive its file)
    with fits.open(file, memmap=False) as hdus:
        warnings.filterwarnings('error', message='File may have been trunc')
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU
                                                    | fits.TableHDU)]
        for hdu in tables:
            # a size that the file does not have would be allocated
            header, info = hdu.header, hdu.fileinfo()
            n_bytes = (header['NAXIS1'] * header['NAXIS2']
                       + header.get('PCOUNT', 0))
            if n_bytes < 0 or info['datLoc'] + n_bytes > info['file'].size:
                msg = (f"NAXIS1 = {header['NAXIS1']} and NAXIS2 = "
                       f"{header['NAXIS2']} are more than the file has: it "
                       'may have been truncated')
                raise ValueError(msg)
        hdu = _first_with_rows(
            tables, [hdu.header['NAXIS2'] for hdu in tables], path)
        # (where astropy has the YAML of coordinates)
        refuse_deep_yaml('\n'.join(map(str, hdu.header.get('COMMENT', ()))))
        table = Table.read(hdu, character_as_bytes=False, mask_invalid=False)
        extra = hdu.header.get(_META_NAME)
    for name in table.colnames:
        # other tables, and the fast paths of numpy, need native byte order
        column = table[name]
        if isinstance(column, Column) and not column.dtype.isnative:
            table.replace_column(name, column.astype(
                column.dtype.newbyteorder('=')))
    if extra is None:
        return table
    table.meta.clear()
    return _unflatten(table, json.loads(extra))


def _first_with_rows(tables, lengths, path):
    # the one that is read of several tables in a file
    if not tables:
        msg = 'it has no table'
        raise ValueError(msg)
    filled = [table for table, length in zip(tables, lengths, strict=True)
              if length > 0]
    if len(filled) > 1:
        msg = f"'{path}' has {len(filled)} tables: only the first is read"
        warnings.warn(msg, _SeveralTablesWarning, stacklevel=2)
    return (filled or tables)[0]


def _write_votable(table, path):
    from astropy.io.votable import from_table
    from astropy.io.votable.tree import CooSys, Info

    plain, extra, frames = _flatten(table)
    votable = from_table(plain)
    resource = votable.resources[0]
    for field in resource.tables[0].fields:
        frame = frames.get(field.name)
        if frame is None or frame.name not in _COOSYS:
            continue
        field.ref = f'system_{frame.name}'
        if not any(field.ref == system.ID
                   for system in resource.coordinate_systems):
            equinox = {'fk5': 'jyear_str', 'fk4': 'byear_str'}.get(frame.name)
            resource.coordinate_systems.append(CooSys(
                ID=field.ref, system=_COOSYS[frame.name],
                equinox=equinox and getattr(frame.equinox, equinox)))
    info = Info(name=_META_NAME, value='metadata in YAML')
    info.content = extra
    votable.infos.append(info)
    votable.to_xml(str(path))


def _read_votable(file, path):
    from astropy.io.votable import parse

    content = file.read()
    check_votable(content)
    # a float that is empty in the file is NaN here in any case
    votable = parse(io.BytesIO(content), verify='ignore')
    tables = [table for table in votable.iter_tables()
              if not table.is_empty()] or list(votable.iter_tables())
    tree = _first_with_rows(tables, [len(table.array) for table in tables],
                            path)
    table = tree.to_table(use_names_over_ids=True)
    extra = [info.content for info in votable.infos
             if info.name == _META_NAME]
    if extra:
        table.meta.clear()
        return _unflatten(table, extra[0])
    # the frame of a field, in words
    systems = {system.ID: f'{system.system} {system.equinox or ""}'.strip()
               for system in votable.iter_coosys() if system.ID}
    for name, field in zip(table.colnames, tree.fields, strict=True):
        if field.ref in systems:
            table[name].meta['coosys'] = systems[field.ref]
    return table


def _write_ipac(table, path):
    # The rows are joined from columns, since astropy formats value by value;
    # its header has the widths of a table without rows.
    text = io.StringIO()
    table[:0].write(text, format='ascii.ipac')
    lines = text.getvalue().splitlines()
    comments = [line for line in lines if line.startswith('\\')]
    header = [[cell.strip() for cell in line.strip('|').split('|')]
              for line in lines[len(comments):]]
    columns = [['null' if value is None else str(value)
                for value in column.tolist()]
               for column in table.columns.values()]
    for column, head in zip(columns, zip(*header, strict=True), strict=True):
        column[:0] = head
        width = max(map(len, column))
        column[:] = [text.rjust(width) for text in column]
    rows = list(zip(*columns, strict=True))
    lines = [*comments, *(f'|{"|".join(row)}|' for row in rows[:len(header)]),
             *(f' {" ".join(row)} ' for row in rows[len(header):])]
    path.write_text('\n'.join([*lines, '']), encoding='utf-8')


def _write_csv(table, path):
    text = io.StringIO()
    table.write(text, format='ascii.csv')
    comments = ''.join(f'# {line}\n' for line in table.meta['comments'])
    path.write_text(comments + text.getvalue(), encoding='utf-8')


def _flatten(table):
    # Return a table of plain columns with UCDs, the rest as text, and the
    # frame of each angle.
    from astropy.io.misc import yaml

    plain = Table(table, copy=False)
    plain.meta = {}
    sky, frames = {}, {}
    for name in table.colnames:
        known = find_column(name, bands=table.meta.get('bands', ()))
        if known is not None and known.ucd:
            # (the columns are copied, not their values)
            info = plain[name].info
            info.meta = {**(info.meta or {}), 'ucd': known.ucd}
    for name in table.colnames:
        column = table[name]
        if not isinstance(column, SkyCoord):
            continue
        names = list(column.representation_component_names)[:2]
        angles = [getattr(column, angle).to(u.deg) for angle in names]
        if name != 'sky_centroid' or set(names) & set(table.colnames):
            names = [f'{name}_{angle}' for angle in names]
        index = plain.index_column(name)
        plain.remove_column(name)
        plain.add_columns(angles, names=names, indexes=[index, index])
        frame = column.frame
        for own, part in zip(names, column.representation_component_names,
                             strict=False):
            ucd, description = _SKY_ANGLES.get(part, ('', ''))
            if name != 'sky_centroid':
                ucd = ucd.removesuffix(';meta.main')
            plain[own].info.meta = {'ucd': ucd} if ucd else {}
            plain[own].info.description = description or None
            frames[own] = frame
        sky[name] = {'frame': frame.name, 'columns': names, 'attributes': {
            key: getattr(frame, key) for key in frame.frame_attributes}}
    descriptions = {name: table[name].info.description
                    for name in table.colnames
                    if table[name].info.description}
    extra = {'meta': dict(table.meta), 'sky': sky,
             'descriptions': descriptions}
    extra = _for_yaml(extra, {})
    return plain, yaml.dump(extra, sort_keys=False), frames


def _unflatten(table, extra):
    from astropy.io.misc import yaml
    from yaml import YAMLError

    refuse_deep_yaml(extra)
    try:
        extra = yaml.load(extra)
    except YAMLError as exc:
        msg = f'its metadata are damaged: {exc}'
        raise ValueError(msg) from exc
    table = QTable(_fill_missing(table), copy=False)
    for name, sky in extra['sky'].items():
        index = table.index_column(sky['columns'][0])
        angles = [table[column] for column in sky['columns']]
        column = SkyCoord(*angles, frame=sky['frame'], **sky['attributes'])
        table.remove_columns(sky['columns'])
        table.add_column(column, name=name, index=index)
    for name in table.colnames:
        table[name].info.description = extra['descriptions'].get(name)
        (table[name].info.meta or {}).pop('ucd', None)
    table.meta = extra['meta']
    return table


_WRITERS = {'ecsv': _write_ecsv, 'fits': _write_fits,
            'votable': _write_votable, 'ipac': _write_ipac,
            'csv': _write_csv}
_READERS = {
    'ecsv': _read_ecsv, 'fits': _read_fits, 'votable': _read_votable,
    'ipac': lambda file, _: Table.read(read_lines(file), format='ascii.ipac'),
    'csv': lambda file, _: read_separated(read_lines(file))}
