# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Regions of the sources, for DS9 and other viewers.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import astropy.units as u
import numpy as np
from astropy.coordinates import FK4, FK5, SkyCoord
from astropy.io import fits
from astropy.table import Column, QTable, Table

from hyperphotutils.catalog.angles import read_angles
from hyperphotutils.catalog.errors import CatalogError
from hyperphotutils.catalog.foreign import (
    FOREIGN_ERRORS,
    describe_error,
    refuse_compressed,
)
from hyperphotutils.utils.checks import check_table
from hyperphotutils.utils.output import atomic_output
from hyperphotutils.utils.wcs import position_angle_in_frame

if TYPE_CHECKING:
    from regions import Regions

    from hyperphotutils.utils.typing import FilePath

__all__ = ['read_regions', 'to_regions', 'write_regions']

# Frames with a name in DS9, which is that of astropy, and their equinoxes;
# positions in others are written as ICRS
_DS9_FRAMES = {'icrs': None, 'galactic': None, 'fk5': FK5().equinox,
               'fk4': FK4().equinox}

_COLUMNS = {
    ('sky', 'point'): ('sky_centroid',),
    ('sky', 'ellipse'): ('sky_centroid', 'fwhm_major_sky', 'fwhm_minor_sky',
                         'position_angle'),
    ('pixel', 'point'): ('x_fit', 'y_fit'),
    ('pixel', 'ellipse'): ('x_fit', 'y_fit', 'fwhm_major_fit',
                           'fwhm_minor_fit', 'theta_fit'),
}

# the units of columns; pixel columns have none
_UNITS = {'fwhm_major_sky': u.arcsec, 'fwhm_minor_sky': u.arcsec,
          'position_angle': u.deg, 'theta_fit': u.deg}

# decimals of a degree or of a pixel (0.4 micro-arcsec), and significant
# digits of the size and angle of an ellipse, in a file
_PRECISION = 10


def to_regions(table: Table, *, frame: Literal['sky', 'pixel'] = 'sky',
               shape: Literal['ellipse', 'point'] = 'ellipse',
               fwhm_radius_ratio: float = 0.5) -> Regions:
    """
    Convert a table of sources to regions.

    The text of each region is the ``id`` of the source. Rows with a
    position or size that is not finite (failed fits) have no region.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The sources, with the columns ``sky_centroid``,
        ``fwhm_major_sky``, ``fwhm_minor_sky`` and ``position_angle`` for
        the sky, or ``x_fit``, ``y_fit``, ``fwhm_major_fit``,
        ``fwhm_minor_fit`` and ``theta_fit`` for pixels.

    frame : {'sky', 'pixel'}, optional
        Whether the regions are in sky or in pixel coordinates. Sky
        regions are in the frame of ``sky_centroid`` if viewers support
        it (ICRS, FK5 J2000, FK4 B1950, Galactic) and in ICRS otherwise.

    shape : {'ellipse', 'point'}, optional
        The shape of the regions.

    fwhm_radius_ratio : float, optional
        The semi-axes of the ellipses in units of the FWHMs. With the
        default of 0.5 the FWHM is the full width of the ellipse. Use the
        value of the photometry to draw the apertures.

    Returns
    -------
    regions : `~regions.Regions`
        The regions, in the order of the table.

    Raises
    ------
    TypeError
        If ``table`` is not a table, such as the `None` of a map without
        sources.

    ValueError
        If ``frame`` or ``shape`` is unknown, or ``fwhm_radius_ratio`` is
        not positive.

    CatalogError
        If a column is missing, or its values or unit are invalid.

    Notes
    -----
    The ``angle`` of an ellipse on the sky is the position angle + 90
    degrees, modulo 180: `regions` and DS9 measure it from the longitude
    axis.

    Examples
    --------
    >>> import astropy.units as u
    >>> from astropy.table import QTable
    >>> from hyperphotutils.catalog import to_regions
    >>> table = QTable({'id': [1], 'x_fit': [10.0], 'y_fit': [20.0],
    ...                 'fwhm_major_fit': [5.0], 'fwhm_minor_fit': [4.0],
    ...                 'theta_fit': [30.0] * u.deg})
    >>> region = to_regions(table, frame='pixel')[0]
    >>> print(region.width, region.height, region.angle)
    5.0 4.0 30.0 deg
    """
    import regions

    text, center, size = _region_columns(table, frame, shape,
                                         fwhm_radius_ratio)
    if frame == 'pixel':
        center = [regions.PixCoord(*xy) for xy in zip(*center, strict=True)]
    kind = f'{shape.capitalize()}{frame.capitalize()}Region'
    make = getattr(regions, kind)
    if not size:
        return regions.Regions([
            make(position, meta={'text': label})
            for position, label in zip(center, text, strict=True)])
    return regions.Regions([
        make(position, width, height, angle=angle, meta={'text': label})
        for position, width, height, angle, label
        in zip(center, *size, text, strict=True)])


def _region_columns(table, frame, shape, fwhm_radius_ratio):
    # Return the texts, the centers (two arrays of pixels, or a SkyCoord in
    # a frame that DS9 has), and the widths, heights, and angles of ellipses
    # (an empty tuple for points).
    check_table(table)
    if (frame, shape) not in _COLUMNS:
        msg = ("frame must be 'sky' or 'pixel' and shape 'ellipse' or "
               f"'point': got {frame!r} and {shape!r}")
        raise ValueError(msg)
    if not fwhm_radius_ratio > 0:
        msg = f'fwhm_radius_ratio must be positive: got {fwhm_radius_ratio}'
        raise ValueError(msg)
    label, *columns = _finite_rows(table, _COLUMNS[frame, shape])
    text = [str(value) for value in label]
    scale = 2.0 * fwhm_radius_ratio
    if frame == 'pixel':
        x, y, *size = columns
        if size:
            major, minor, theta = size
            size = (scale * major, scale * minor, u.Quantity(theta, u.deg))
        return text, (x, y), tuple(size)
    sky, *size = columns
    has_name = sky.frame.name in _DS9_FRAMES and (
        _DS9_FRAMES[sky.frame.name] is None
        or sky.frame.equinox == _DS9_FRAMES[sky.frame.name])
    if size:
        major, minor, angle = size
        if not has_name:
            angle = position_angle_in_frame(sky, angle, 'icrs')
        # regions and DS9 measure angles from the longitude axis.
        size = (scale * major, scale * minor,
                (angle + 90 * u.deg) % (180 * u.deg))
    return text, sky if has_name else sky.icrs, tuple(size)


def read_regions(path: FilePath) -> Regions:
    """
    Read a region file.

    Parameters
    ----------
    path : str or `~pathlib.Path`
        The name of a file of DS9, CASA (CRTF) or FITS regions.

    Returns
    -------
    regions : `~regions.Regions`
        The regions.

    Raises
    ------
    CatalogError
        If the file has another format or no region.

    OSError
        If the file cannot be opened.

    See Also
    --------
    write_regions

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hyperphotutils.catalog import read_regions
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / 'a.reg'
    ...     _ = path.write_text('image\\ncircle(11, 21, 5)')
    ...     print(read_regions(path)[0].center)
    PixCoord(x=10.0, y=20.0)
    """
    from regions import Regions
    from regions.core.registry import IORegistryError
    from regions.io.crtf.core import CRTFRegionParserError
    from regions.io.ds9.core import DS9ParserError
    from regions.io.fits.core import FITSParserError

    path = Path(path)
    with path.open('rb') as file:
        refuse_compressed(file, path)
        content = file.read()
    try:
        # (regions would open a name that is a URL)
        if content.startswith(b'SIMPLE'):
            with fits.open(io.BytesIO(content), memmap=False) as hdus:
                table = next((hdu for hdu in hdus if hdu.name == 'REGION'),
                             None)
                if table is None:
                    msg = "it has no extension 'REGION'"
                    raise ValueError(msg)
                regions = Regions.parse(QTable.read(table), format='fits')
        else:
            crtf = (path.suffix.lower() == '.crtf'
                    or content.startswith(b'#CRTF'))
            regions = Regions.parse(content.decode('utf-8-sig'),
                                    format='crtf' if crtf else 'ds9')
    except (*FOREIGN_ERRORS, CRTFRegionParserError, DS9ParserError,
            FITSParserError, IORegistryError) as exc:
        msg = f"'{path}' cannot be read as regions: {describe_error(exc)}"
        raise CatalogError(msg) from exc
    if len(regions) == 0:
        msg = f'no region in {path}'
        raise CatalogError(msg)
    return regions


def write_regions(table: Table, path: FilePath, *,
                  frame: Literal['sky', 'pixel'] = 'sky',
                  shape: Literal['ellipse', 'point'] = 'ellipse',
                  fwhm_radius_ratio: float = 0.5,
                  overwrite: bool = False) -> None:
    """
    Write the regions of a table of sources as a DS9 region file.

    The file appears under its name only when it is complete.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The sources, see `to_regions`.

    path : str or `~pathlib.Path`
        The name of the file.

    frame, shape, fwhm_radius_ratio : optional
        See `to_regions`.

    overwrite : bool, optional
        Whether an existing file may be replaced.

    Raises
    ------
    TypeError, ValueError
        See `to_regions`.

    FileExistsError
        If the file exists and ``overwrite`` is `False`.

    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from astropy.table import QTable
    >>> from hyperphotutils.catalog import write_regions
    >>> table = QTable({'id': [1], 'x_fit': [10.0], 'y_fit': [20.0]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / 'centroids.reg'
    ...     write_regions(table, path, frame='pixel', shape='point')
    ...     line = path.read_text().splitlines()[-1]
    >>> print(line.split(' #')[0])
    point(11.0000000000,21.0000000000)
    """
    text, center, size = _region_columns(table, frame, shape,
                                         fwhm_radius_ratio)
    # The lines are made from the columns: the serializer of regions takes
    # 0.4 ms for each region.
    if frame == 'pixel':
        system = 'image'
        x, y = (values + 1.0 for values in center)  # DS9 counts from 1
    else:
        system = center.frame.name
        x, y = center.spherical.lon.deg, center.spherical.lat.deg
    columns = [[f'{value:.{_PRECISION}f}' for value in values.tolist()]
               for values in (x, y)]
    if size:
        width, height, angle = (
            values.to_value(u.deg) if hasattr(values, 'unit') else values
            for values in size)
        columns += [[f'{value:.{_PRECISION}g}' for value in values.tolist()]
                    for values in (0.5 * width, 0.5 * height, angle)]
    lines = ['# Region file format: DS9\n', f'{system}\n']
    for numbers, label in zip(zip(*columns, strict=True), text, strict=True):
        # DS9 has no escapes: quote by what the text does not contain
        plain = ' '.join(label.splitlines())
        first, last = next((pair for pair in ('{}', '""', "''")
                            if pair[1] not in plain), '{}')
        if last in plain:
            plain = plain.replace('}', ')')
        lines.append(f'{shape}({",".join(numbers)}) # text='
                     f'{first}{plain}{last}\n')
    content = ''.join(lines)
    with atomic_output(path, overwrite=overwrite) as temporary:
        temporary.write_text(content, encoding='utf-8')


def _finite_rows(table, names):
    # id and the given columns, for the rows with finite values
    missing = [name for name in ('id', *names) if name not in table.colnames]
    if missing:
        hint = ''
        if 'sky_centroid' in missing:
            hint = "; without a WCS use frame='pixel'"
        msg = f'table must have the columns {missing}{hint}'
        raise CatalogError(msg)
    columns = [table['id']]
    good = np.ones(len(table), dtype=bool)
    for name in names:
        column = table[name]
        if name == 'sky_centroid':
            if not isinstance(column, SkyCoord) or column.ndim != 1:
                msg = ('the table: sky_centroid must be a SkyCoord: got '
                       f'{type(column).__name__}')
                raise CatalogError(msg)
            values = [read_angles(angle, u.deg, name, 'the table')
                      for angle in (column.spherical.lon,
                                    column.spherical.lat)]
        elif name in _UNITS:
            column = read_angles(column, _UNITS[name], name, 'the table')
            values = [column]
        else:
            # (the unit u.pix is accepted)
            plain = getattr(column, 'value', column)
            dtype = getattr(plain, 'dtype', None)
            if (not isinstance(column, Column | u.Quantity)
                    or dtype.kind not in 'fiu' or column.ndim != 1):
                msg = (f'the table: {name} must be a column of numbers: got '
                       f'{dtype or type(column).__name__}')
                raise CatalogError(msg)
            column = np.asarray(plain.filled(np.nan) if hasattr(
                plain, 'filled') and dtype.kind == 'f' else plain)
            values = [column]
        for value in values:
            good &= np.isfinite(value)
        if name.startswith('fwhm'):
            good &= column > 0
        columns.append(column)
    return [column[good] for column in columns]
