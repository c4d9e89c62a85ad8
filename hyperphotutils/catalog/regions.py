# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Regions of the sources, for DS9 and other viewers.
"""

import astropy.units as u
import numpy as np
from astropy.coordinates import FK4, FK5
from astropy.table import Table

from hyperphotutils.catalog.output import atomic_output
from hyperphotutils.utils.wcs import position_angle_in_frame

__all__ = ['to_regions', 'write_regions']

# what DS9 means by a frame's name; others are written as ICRS
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

# decimals of a degree or of a pixel in a file: 0.4 micro-arcsec
_PRECISION = 10


def to_regions(table, *, frame='sky', shape='ellipse', fwhm_radius_ratio=0.5):
    """
    Convert a table of sources to regions.

    Each region has the source's ``id`` as its text. Rows with a position
    or a size that is not finite (failed fits) have no region.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The sources, with the columns ``sky_centroid``,
        ``fwhm_major_sky``, ``fwhm_minor_sky`` and ``position_angle`` for
        the sky, or ``x_fit``, ``y_fit``, ``fwhm_major_fit``,
        ``fwhm_minor_fit`` and ``theta_fit`` for pixels.

    frame : {'sky', 'pixel'}, optional
        Whether the regions are on the sky or in pixels. On the sky they
        are in the frame of ``sky_centroid`` if viewers know it (ICRS,
        FK5 J2000, FK4 B1950, Galactic) and in ICRS otherwise.

    shape : {'ellipse', 'point'}, optional
        The shape of the regions.

    fwhm_radius_ratio : float, optional
        The semi-axes of the ellipses in units of the FWHMs. With the
        default of 0.5 the FWHM is the full width of the ellipse. Take
        that of the photometry to draw the apertures.

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
        If ``frame`` or ``shape`` is unknown, ``fwhm_radius_ratio`` is
        not positive or a column is missing.

    Notes
    -----
    The ``angle`` of an ellipse on the sky is the position angle + 90
    degrees, modulo 180: `regions` and DS9 measure it from the axis of
    the longitude.

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
    from regions import Regions

    if not isinstance(table, Table):
        hint = ' (no sources were found)' if table is None else ''
        msg = ('table must be an astropy Table: got '
               f'{type(table).__name__}{hint}')
        raise TypeError(msg)
    if (frame, shape) not in _COLUMNS:
        msg = ("frame must be 'sky' or 'pixel' and shape 'ellipse' or "
               f"'point': got {frame!r} and {shape!r}")
        raise ValueError(msg)
    if not fwhm_radius_ratio > 0:
        msg = f'fwhm_radius_ratio must be positive: got {fwhm_radius_ratio}'
        raise ValueError(msg)
    columns = _finite_rows(table, _COLUMNS[frame, shape])
    make = _sky_regions if frame == 'sky' else _pixel_regions
    return Regions(list(make(*columns, scale=2.0 * fwhm_radius_ratio)))


def write_regions(table, path, *, frame='sky', shape='ellipse',
                  fwhm_radius_ratio=0.5, overwrite=False):
    """
    Write the regions of a table of sources as a DS9 region file.

    The file appears only when it is complete.

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
    regions = to_regions(table, frame=frame, shape=shape,
                         fwhm_radius_ratio=fwhm_radius_ratio)
    text = '# Region file format: DS9\n'
    if len(regions):
        text = regions.serialize(format='ds9', precision=_PRECISION)
    with atomic_output(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding='utf-8')


def _finite_rows(table, names):
    # id and these columns, of the rows that can be drawn
    missing = [name for name in ('id', *names) if name not in table.colnames]
    if missing:
        hint = ''
        if 'sky_centroid' in missing:
            hint = "; without a WCS use frame='pixel'"
        msg = f'table must have the columns {missing}{hint}'
        raise ValueError(msg)
    columns = [table['id'], *(table[name] for name in names)]
    good = np.ones(len(table), dtype=bool)
    for column in columns[1:]:
        values = column
        if hasattr(column, 'spherical'):
            values = (column.spherical.lon + column.spherical.lat)
        good &= np.isfinite(np.ma.filled(getattr(values, 'value', values),
                                         np.nan))
    return [column[good] for column in columns]


def _pixel_regions(label, x, y, major=None, minor=None, theta=None, *,
                   scale):
    from regions import EllipsePixelRegion, PixCoord, PointPixelRegion

    centers = [PixCoord(*xy) for xy in zip(x, y, strict=True)]
    if major is None:
        for center, text in zip(centers, label, strict=True):
            yield PointPixelRegion(center, meta={'text': str(text)})
        return
    for center, width, height, angle, text in zip(
            centers, scale * major, scale * minor, u.Quantity(theta, u.deg),
            label, strict=True):
        yield EllipsePixelRegion(center, float(width), float(height),
                                 angle=angle, meta={'text': str(text)})


def _sky_regions(label, sky, major=None, minor=None, position_angle=None, *,
                 scale):
    from regions import EllipseSkyRegion, PointSkyRegion

    if major is not None:
        position_angle = u.Quantity(position_angle, u.deg)
    if not _known_to_viewers(sky):
        if major is not None:
            position_angle = position_angle_in_frame(sky, position_angle,
                                                     'icrs')
        sky = sky.icrs
    if major is None:
        for center, text in zip(sky, label, strict=True):
            yield PointSkyRegion(center, meta={'text': str(text)})
        return
    for center, width, height, angle, text in zip(
            sky, scale * u.Quantity(major, u.arcsec),
            scale * u.Quantity(minor, u.arcsec),
            (position_angle + 90 * u.deg) % (180 * u.deg), label,
            strict=True):
        yield EllipseSkyRegion(center, width, height, angle=angle,
                               meta={'text': str(text)})


def _known_to_viewers(sky):
    name = sky.frame.name
    return name in _DS9_FRAMES and (
        _DS9_FRAMES[name] is None or sky.frame.equinox == _DS9_FRAMES[name])
