# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Local geometry of a celestial WCS, for many positions at once.

All functions use the local Jacobian at each position: the derivatives of
the offsets to the East and to the North by the pixel coordinates. It is
calculated from unit vectors on the sphere rather than from longitudes,
so that longitude 0 and the poles need no special treatment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from astropy.coordinates import (
    BarycentricMeanEcliptic,
    SkyCoord,
    Supergalactic,
)
from astropy.stats import gaussian_sigma_to_fwhm
from astropy.table import QTable, Table
from astropy.time import Time
from astropy.wcs import WCS
from astropy.wcs.utils import WCS_FRAME_MAPPINGS, wcs_to_celestial_frame
from numpy.typing import ArrayLike

from hyperphotutils.utils.checks import check_table
from hyperphotutils.utils.gaussians import wrap_angle
from hyperphotutils.utils.tables import list_columns, pixel_columns

if TYPE_CHECKING:
    from astropy.coordinates import BaseCoordinateFrame

__all__ = [
    'local_jacobian',
    'pixel_area',
    'pixel_scale',
    'pixel_to_sky_ellipse',
    'pixel_to_sky_errors',
    'position_angle_in_frame',
    'sky_to_pixel_ellipse',
    'sky_to_pixel_ellipse_at',
    'sources_to_pixels',
]

# Half the baseline (pixels) of the central differences: the truncation
# error is below 1e-6 for pixels of a degree, and the round-off error below
# 1e-7 for pixels of 0.01 arcsec.
_STEP = 0.1

# Axes that agree to this fraction are those of a circle, for which the
# angle of an ellipse would be determined by round-off errors.
_ROUND = 1e-6

# Tolerance in pixels of the round trip from the sky to pixels and back.
_CLOSED = 1e-3

_ARCSEC_PER_RADIAN = 180.0 * 3600.0 / np.pi

# The error of an unconstrained angle: the standard deviation of a uniform
# distribution over 180 degrees.
_UNKNOWN_ANGLE = 180.0 / np.sqrt(12.0)


def _further_frames(wcs):
    """
    Return the ecliptic or supergalactic frame of a WCS, or `None`.

    astropy does not support these axes and interprets ecliptic
    longitudes as right ascensions.
    """
    axes = {ctype[:4] for ctype in wcs.wcs.ctype}
    if {'ELON', 'ELAT'} <= axes:
        year = wcs.wcs.equinox
        return BarycentricMeanEcliptic(equinox=Time(
            year if np.isfinite(year) else 2000.0, format='jyear'))
    return Supergalactic() if {'SLON', 'SLAT'} <= axes else None


# Before the mapping of astropy, which returns the wrong frame.
WCS_FRAME_MAPPINGS.insert(0, [_further_frames])


def pixel_scale(wcs: WCS, shape: tuple[int, ...] | None = None) -> u.Quantity:
    """
    Return the pixel scale at the center of a map.

    Parameters
    ----------
    wcs : `~astropy.wcs.WCS`
        A WCS with two celestial axes; other axes are ignored.

    shape : tuple of int, optional
        The ``(ny, nx)`` shape of the map. If `None` (default), the shape
        stored in ``wcs`` is used. Without either, the scale is that at
        the reference pixel.

    Returns
    -------
    scale : `~astropy.units.Quantity`
        The square root of the pixel area, in arcsec. Pixels need not be
        square.

    Raises
    ------
    TypeError
        If ``wcs`` is not an `~astropy.wcs.WCS`.

    ValueError
        If ``wcs`` has no pair of celestial axes.

    Examples
    --------
    >>> from astropy.wcs import WCS
    >>> from hyperphotutils.utils.wcs import pixel_scale
    >>> wcs = WCS(naxis=2)
    >>> wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    >>> wcs.wcs.cdelt = [-0.001, 0.001]
    >>> print(f'{pixel_scale(wcs):.3f}')
    3.600 arcsec
    """
    wcs = celestial_part(wcs)
    reference = wcs.wcs.crpix - 1.0
    if shape is None:
        shape = wcs.array_shape
    center = reference if shape is None else np.subtract(shape[::-1], 1) / 2
    x, y = np.transpose([center, reference])
    areas = np.abs(_determinant(local_jacobian(wcs, x, y)))
    # The center of a map may be outside of the projection.
    area = areas[0] if np.isfinite(areas[0]) else areas[1]
    return np.sqrt(area) * u.arcsec


def local_jacobian(wcs: WCS, x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """
    Return the derivatives of sky offsets by the pixel coordinates.

    Parameters
    ----------
    wcs : `~astropy.wcs.WCS`
        A WCS with two celestial axes; other axes are ignored. Any
        projection, rotation, skew, flip and distortion is supported.

    x, y : float or 1-D array_like
        The 0-based pixel positions.

    Returns
    -------
    jacobian : 3-D `~numpy.ndarray`
        The derivatives in arcsec per pixel, with shape ``(n, 2, 2)``:
        ``jacobian[i, 0]`` is d(east)/d(x, y) and ``jacobian[i, 1]`` is
        d(north)/d(x, y) at position ``i``. They are NaN where the
        position is NaN or off the sphere.

    Raises
    ------
    TypeError
        If ``wcs`` is not an `~astropy.wcs.WCS`.

    ValueError
        If ``wcs`` has no pair of celestial axes.

    Notes
    -----
    The derivatives are central differences of unit vectors, projected
    on the tangent plane at the position. East and North refer to the
    celestial frame of the WCS.

    Examples
    --------
    >>> from astropy.wcs import WCS
    >>> from hyperphotutils.utils.wcs import local_jacobian
    >>> wcs = WCS(naxis=2)
    >>> wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    >>> wcs.wcs.cdelt = [-0.001, 0.001]
    >>> print(local_jacobian(wcs, -1.0, -1.0).round(3))
    [[[-3.6  0. ]
      [ 0.   3.6]]]
    """
    wcs = celestial_part(wcs)
    x, y = np.broadcast_arrays(np.atleast_1d(np.asarray(x, dtype=float)),
                               np.atleast_1d(np.asarray(y, dtype=float)))
    dx = _STEP * np.array([0, 1, -1, 0, 0])[:, np.newaxis]
    dy = _STEP * np.array([0, 0, 0, 1, -1])[:, np.newaxis]
    lon, lat = pixel_to_lonlat(wcs, x + dx, y + dy)
    vectors = unit_vectors(lon, lat)
    # shape (2, n, 3): the change of the unit vector with x and with y
    slopes = (vectors[1::2] - vectors[2::2]) / (2.0 * _STEP)
    # the unit vectors to the East and the North, shape (2, n, 3)
    lon, lat = lon[0], lat[0]
    axes = np.moveaxis(np.array([
        [-np.sin(lon), np.cos(lon), np.zeros_like(lon)],
        [-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon),
         np.cos(lat)]]), 1, -1)
    return _ARCSEC_PER_RADIAN * np.einsum('inc,jnc->nij', axes, slopes)


def pixel_area(wcs: WCS, x: ArrayLike, y: ArrayLike) -> u.Quantity:
    """
    Return the solid angle of the pixels at some positions.

    Parameters
    ----------
    wcs : `~astropy.wcs.WCS`
        A WCS with two celestial axes; other axes are ignored.

    x, y : float or 1-D array_like
        The 0-based pixel positions.

    Returns
    -------
    area : `~astropy.units.Quantity`
        The solid angles in square arcsec, one for each position; NaN
        off the sphere.

    Raises
    ------
    TypeError
        If ``wcs`` is not an `~astropy.wcs.WCS`.

    ValueError
        If ``wcs`` has no pair of celestial axes.

    See Also
    --------
    hyperphotutils.utils.PixelAreas : The areas of all pixels of a map.

    Examples
    --------
    >>> from astropy.wcs import WCS
    >>> from hyperphotutils.utils.wcs import pixel_area
    >>> wcs = WCS(naxis=2)
    >>> wcs.wcs.ctype = ['GLON-CAR', 'GLAT-CAR']
    >>> wcs.wcs.cdelt = [-0.001, 0.001]
    >>> print(pixel_area(wcs, [-1, -1], [-1, 59999]).round(3))
    [12.96  6.48] arcsec2
    """
    return np.abs(_determinant(local_jacobian(wcs, x, y))) * u.arcsec**2


def pixel_to_sky_ellipse(wcs: WCS, x: ArrayLike, y: ArrayLike,
                         fwhm_major: ArrayLike, fwhm_minor: ArrayLike,
                         theta_deg: ArrayLike | u.Quantity
                         ) -> tuple[u.Quantity, u.Quantity, u.Quantity]:
    """
    Convert ellipses in pixels to ellipses on the sky.

    Parameters
    ----------
    wcs : `~astropy.wcs.WCS`
        A WCS with two celestial axes; other axes are ignored.

    x, y : float or 1-D array_like
        The 0-based pixel positions of the centers.

    fwhm_major, fwhm_minor : float or 1-D array_like
        The axes of the ellipses in pixels.

    theta_deg : float, 1-D array_like or `~astropy.units.Quantity`
        The angle of the major axis counterclockwise from the +x axis,
        in degrees if it has no unit.

    Returns
    -------
    fwhm_major, fwhm_minor : `~astropy.units.Quantity`
        The axes on the sky in arcsec, the larger first.

    position_angle : `~astropy.units.Quantity`
        The angle of the major axis east of north, in degrees in
        [0, 180), in the celestial frame of the WCS.

    Raises
    ------
    TypeError
        If ``wcs`` is not an `~astropy.wcs.WCS`.

    ValueError
        If ``wcs`` has no pair of celestial axes.

    Notes
    -----
    The ellipse is mapped by the full local matrix (see
    `~hyperphotutils.utils.wcs.local_jacobian`), so that the axis ratio
    is correct for pixels that are not square or not perpendicular.

    Examples
    --------
    >>> from astropy.wcs import WCS
    >>> from hyperphotutils.utils.wcs import pixel_to_sky_ellipse
    >>> wcs = WCS(naxis=2)
    >>> wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    >>> wcs.wcs.cdelt = [-0.001, 0.001]
    >>> major, minor, pa = pixel_to_sky_ellipse(wcs, -1, -1, 3, 2, 100)
    >>> print(major.round(3), minor.round(3), pa.round(3))
    [10.8] arcsec [7.2] arcsec [10.] deg
    """
    theta = u.Quantity(theta_deg, u.deg).value
    major, minor, angle = _map_ellipse(local_jacobian(wcs, x, y),
                                       fwhm_major, fwhm_minor, theta)
    return (major * u.arcsec, minor * u.arcsec,
            wrap_angle(90.0 - angle) * u.deg)


def pixel_to_sky_errors(wcs: WCS, x: ArrayLike, y: ArrayLike,
                        position_covariance: ArrayLike, shape: ArrayLike,
                        shape_covariance: ArrayLike
        ) -> tuple[u.Quantity, u.Quantity, u.Quantity, u.Quantity, u.Quantity]:
    r"""
    Convert the errors of positions and Gaussians in pixels to the sky.

    Parameters
    ----------
    wcs : `~astropy.wcs.WCS`
        A WCS with two celestial axes; other axes are ignored.

    x, y : float or 1-D array_like
        The 0-based pixel positions of ``n`` sources.

    position_covariance : array_like of shape (n, 2, 2)
        The covariance of x and y in square pixels.

    shape : array_like of shape (n, 3)
        The elements xx, xy, and yy of the covariance matrix of each
        Gaussian (the variances along its axes are the squares of its
        standard deviations), in square pixels.

    shape_covariance : array_like of shape (n, 3, 3)
        The covariance of these elements.

    Returns
    -------
    lon_err, lat_err : `~astropy.units.Quantity`
        The errors of the position to the East and to the North in
        arcsec. That of the longitude includes the cosine of the
        latitude.

    fwhm_major_err, fwhm_minor_err : `~astropy.units.Quantity`
        The errors of the FWHMs on the sky in arcsec.

    position_angle_err : `~astropy.units.Quantity`
        The error of the position angle in degrees, at most 52 degrees,
        the standard deviation of an unconstrained angle.

    Raises
    ------
    TypeError
        If ``wcs`` is not an `~astropy.wcs.WCS`.

    ValueError
        If ``wcs`` has no pair of celestial axes.

    See Also
    --------
    pixel_to_sky_ellipse

    Notes
    -----
    Errors are propagated linearly. With the local Jacobian :math:`J`
    (see `~hyperphotutils.utils.local_jacobian`) the covariance of the
    position is :math:`J C J^T`, and the matrix of the Gaussian is
    :math:`J \Sigma J^T`, whose elements are linear in those of
    :math:`\Sigma`. Relative to the axes of the ellipse, its diagonal
    elements are the variances along the axes, and a change of its
    off-diagonal element is the change of the angle times their
    difference. Pixels that are not square or not perpendicular mix the
    errors of both axes and the angle.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.wcs import WCS
    >>> from hyperphotutils.utils.wcs import pixel_to_sky_errors
    >>> wcs = WCS(naxis=2)
    >>> wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    >>> wcs.wcs.cdelt = [-0.001, 0.001]
    >>> errors = pixel_to_sky_errors(
    ...     wcs, -1, -1, np.diag([0.01, 0.04])[None], [[3.0, 0.0, 2.0]],
    ...     np.diag([0.01, 0.01, 0.01])[None])
    >>> print(errors[0].round(3), errors[1].round(3))
    [0.36] arcsec [0.72] arcsec
    """
    jacobian = local_jacobian(wcs, x, y)
    position = (jacobian @ np.asarray(position_covariance, dtype=float)
                @ np.swapaxes(jacobian, 1, 2))
    turn = _symmetric_map(jacobian)
    # along and across the axes of the ellipse, where both errors separate
    ee, en, nn = np.einsum('nij,nj->in', turn, np.asarray(shape, dtype=float))
    mean, spread = 0.5 * (ee + nn), np.hypot(0.5 * (ee - nn), en)
    angle = 0.5 * np.arctan2(2.0 * en, ee - nn)
    cos, sin = np.cos(angle), np.sin(angle)
    axes = np.moveaxis(np.array([[cos, sin], [-sin, cos]]), -1, 0)
    turn = _symmetric_map(axes) @ turn
    own = turn @ np.asarray(shape_covariance, float) @ np.swapaxes(turn, 1, 2)
    with np.errstate(invalid='ignore', divide='ignore'):
        aa, ab, bb = np.sqrt(np.einsum('nii->in', own))
        major_err, minor_err = (
            0.5 * gaussian_sigma_to_fwhm * error / np.sqrt(variance)
            for error, variance in ((aa, mean + spread), (bb, mean - spread)))
        # d(angle) = d(ab) / (aa - bb), which is 2 spread
        angle_err = np.rad2deg(np.where(ab > 0.0, ab / (2.0 * spread), ab))
        lon_err, lat_err = np.sqrt(np.einsum('nii->in', position))
    return (*(error * u.arcsec
              for error in (lon_err, lat_err, major_err, minor_err)),
            np.minimum(angle_err, _UNKNOWN_ANGLE) * u.deg)


def sky_to_pixel_ellipse(wcs: WCS, sky: SkyCoord, fwhm_major: u.Quantity,
                         fwhm_minor: u.Quantity,
                         position_angle: ArrayLike | u.Quantity
        ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """
    Convert ellipses on the sky to ellipses in pixels.

    Parameters
    ----------
    wcs : `~astropy.wcs.WCS`
        A WCS with two celestial axes; other axes are ignored.

    sky : `~astropy.coordinates.SkyCoord`
        The centers, in any frame that can be transformed to that of the
        WCS.

    fwhm_major, fwhm_minor : `~astropy.units.Quantity`
        The axes of the ellipses on the sky.

    position_angle : float, 1-D array_like or `~astropy.units.Quantity`
        The angle of the major axis east of north in the celestial frame
        of the WCS (not that of ``sky``), in degrees if it has no unit.

    Returns
    -------
    x, y : 1-D `~numpy.ndarray`
        The 0-based pixel positions of the centers.

    fwhm_major, fwhm_minor : 1-D `~numpy.ndarray`
        The axes in pixels, the larger first.

    theta_deg : 1-D `~numpy.ndarray`
        The angle of the major axis counterclockwise from the +x axis,
        in degrees in [0, 180).

    Raises
    ------
    TypeError
        If ``wcs`` is not an `~astropy.wcs.WCS`.

    ValueError
        If ``wcs`` has no pair of celestial axes.

    Examples
    --------
    >>> import astropy.units as u
    >>> from astropy.coordinates import SkyCoord
    >>> from astropy.wcs import WCS
    >>> from hyperphotutils.utils.wcs import sky_to_pixel_ellipse
    >>> wcs = WCS(naxis=2)
    >>> wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    >>> wcs.wcs.cdelt = [-0.001, 0.001]
    >>> sky = SkyCoord(0 * u.deg, 0.002 * u.deg)
    >>> x, y, major, minor, theta = sky_to_pixel_ellipse(
    ...     wcs, sky, 10.8 * u.arcsec, 7.2 * u.arcsec, 10)
    >>> print(y.round(3), major.round(3), minor.round(3), theta.round(3))
    [1.] [3.] [2.] [100.]
    """
    wcs = celestial_part(wcs)
    x, y = _sky_to_pixel(wcs, sky)
    return x, y, *sky_to_pixel_ellipse_at(wcs, x, y, fwhm_major, fwhm_minor,
                                          position_angle)


def sky_to_pixel_ellipse_at(wcs: WCS, x: ArrayLike, y: ArrayLike,
                            fwhm_major: u.Quantity, fwhm_minor: u.Quantity,
                            position_angle: ArrayLike | u.Quantity
                            ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Convert ellipses on the sky to pixels, at given pixel positions.

    Use it for the beam at each source of a wide map, whose shape in
    pixels depends on the position.

    Parameters
    ----------
    wcs : `~astropy.wcs.WCS`
        A WCS with two celestial axes; other axes are ignored.

    x, y : float or 1-D array_like
        The 0-based pixel positions of the centers.

    fwhm_major, fwhm_minor, position_angle
        See `sky_to_pixel_ellipse`.

    Returns
    -------
    fwhm_major, fwhm_minor, theta_deg : 1-D `~numpy.ndarray`
        See `sky_to_pixel_ellipse`; NaN off the sphere.

    Raises
    ------
    TypeError
        If ``wcs`` is not an `~astropy.wcs.WCS`.

    ValueError
        If ``wcs`` has no pair of celestial axes.

    Examples
    --------
    >>> import astropy.units as u
    >>> from astropy.wcs import WCS
    >>> from hyperphotutils.utils.wcs import sky_to_pixel_ellipse_at
    >>> wcs = WCS(naxis=2)
    >>> wcs.wcs.ctype = ['GLON-CAR', 'GLAT-CAR']
    >>> wcs.wcs.cdelt = [-0.001, 0.001]
    >>> major, minor, theta = sky_to_pixel_ellipse_at(
    ...     wcs, -1, 59999, 10.8 * u.arcsec, 10.8 * u.arcsec, 0)
    >>> print(major.round(3), minor.round(3))
    [6.] [3.]
    """
    angle = 90.0 - u.Quantity(position_angle, u.deg).value
    jacobian = local_jacobian(wcs, x, y)
    (a, b), (c, d) = np.moveaxis(jacobian, 0, -1)
    # (unlike numpy.linalg.inv, without an error for singular matrices)
    with np.errstate(invalid='ignore', divide='ignore'):
        inverse = np.moveaxis(np.array([[d, -b], [-c, a]])
                              / _determinant(jacobian), -1, 0)
    return _map_ellipse(
        inverse, u.Quantity(fwhm_major).to_value(u.arcsec),
        u.Quantity(fwhm_minor).to_value(u.arcsec), angle)


def sources_to_pixels(table: Table, wcs: WCS) -> QTable:
    """
    Convert a table of sources on the sky to pixels of a map.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The sources, as from `~hyperphotutils.catalog.read_source_list`
        or from a measurement on another map: ``sky_centroid`` in any
        frame and, if the shapes are known, ``fwhm_major_sky`` and
        ``fwhm_minor_sky`` (arcsec if they have no unit) with
        ``position_angle`` (degrees if it has no unit), east of north in
        the frame of ``sky_centroid``. Without ``id`` the sources are
        numbered from 1.

    wcs : `~astropy.wcs.WCS`
        A WCS with two celestial axes; other axes are ignored.

    Returns
    -------
    init_params : `~astropy.table.QTable`
        The initial values for `~hyperphotutils.blend.BlendGroupFitter` and
        `~hyperphotutils.photometry.HyperPhotometry`, one row per source
        in the order of ``table``: ``id``, ``x_init``, ``y_init`` (pixels)
        and, if the shapes are known, ``fwhm_major_init``,
        ``fwhm_minor_init`` (pixels) and ``theta_init`` (degrees). Sources
        off the map are kept. Sources without a position or outside of
        the projection have NaN.

    Raises
    ------
    TypeError
        If ``table`` is not a table or ``wcs`` is not a WCS.

    ValueError
        If ``table`` has no ``sky_centroid`` or only some columns of a shape,
        or ``wcs`` has no pair of celestial axes.

    Notes
    -----
    Position angles are converted from the frame of the table to that of
    the map at the position of each source.

    Examples
    --------
    >>> import astropy.units as u
    >>> from astropy.coordinates import SkyCoord
    >>> from astropy.table import QTable
    >>> from astropy.wcs import WCS
    >>> from hyperphotutils.utils.wcs import sources_to_pixels
    >>> wcs = WCS(naxis=2)
    >>> wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    >>> wcs.wcs.cdelt = [-0.001, 0.001]
    >>> table = QTable({'id': [7], 'fwhm_major_sky': [10.8] * u.arcsec,
    ...                 'fwhm_minor_sky': [7.2] * u.arcsec,
    ...                 'position_angle': [10.0] * u.deg,
    ...                 'sky_centroid': SkyCoord([0.0], [0.002],
    ...                                          unit='deg')})
    >>> init_params = sources_to_pixels(table, wcs)
    >>> print(init_params['y_init'].round(3), init_params['theta_init'][0])
    [1.] 100.0 deg
    """
    check_table(table)
    wcs = celestial_part(wcs)
    if 'sky_centroid' not in table.colnames:
        msg = ("table must have the column 'sky_centroid': it has "
               f'{list_columns(table)}')
        raise ValueError(msg)
    sky = table['sky_centroid']
    units = {'fwhm_major_sky': u.arcsec, 'fwhm_minor_sky': u.arcsec,
             'position_angle': u.deg}
    missing = [name for name in units if name not in table.colnames]
    if 0 < len(missing) < len(units):
        msg = ('table must have all columns of a shape or none: '
               f'{", ".join(missing)} missing')
        raise ValueError(msg)
    ids = (table['id'] if 'id' in table.colnames
           else np.arange(1, len(table) + 1))
    result = QTable({'id': np.asarray(ids)})
    if missing:
        result['x_init'], result['y_init'] = _sky_to_pixel(wcs, sky)
        return result
    shape = []
    for name, unit in units.items():
        column = table[name]
        values = np.ma.filled(np.ma.asarray(
            getattr(column, 'value', column), dtype=float), np.nan)
        shape.append(u.Quantity(values, getattr(column, 'unit', None) or unit))
    major, minor, angle = shape
    angle = position_angle_in_frame(sky, angle, wcs_to_celestial_frame(wcs))
    names = ('x_init', 'y_init', 'fwhm_major_init', 'fwhm_minor_init')
    *values, theta = sky_to_pixel_ellipse(wcs, sky, major, minor, angle)
    for name, value in zip(names, values, strict=True):
        result[name] = value
    result['theta_init'] = theta * u.deg
    return result


def position_table(positions, name):
    """
    Return positions as a table: a table as it is, and those on the sky or of
    the shape (n, 2), in pixels, with their columns.
    """
    if isinstance(positions, Table):
        return positions
    if isinstance(positions, SkyCoord):
        return QTable({'sky_centroid': np.atleast_1d(positions)})
    positions = np.asarray(positions, dtype=float)
    if positions.ndim != 2 or positions.shape[1] != 2:
        msg = (f'{name} must have the shape (n, 2) if it is no table or '
               f'SkyCoord: got {positions.shape}')
        raise ValueError(msg)
    return QTable({'x': positions[:, 0], 'y': positions[:, 1]})


def table_positions(table, pairs, wcs, name):
    """
    Return x and y in pixels of the rows of a table with the argument's
    ``name``: from `pixel_columns`, ``sky_centroid``, or ``ra`` and ``dec``.
    """
    found = pixel_columns(table, pairs)
    if found is not None:
        return found
    if 'sky_centroid' in table.colnames:
        sky = table['sky_centroid']
    elif {'ra', 'dec'} <= set(table.colnames):
        sky = SkyCoord(table['ra'], table['dec'], unit='deg')
    else:
        columns = ', '.join(' and '.join(pair) for pair in pairs)
        msg = (f'{name} must have the columns {columns}, sky_centroid, or ra '
               f'and dec: got {list_columns(table)}')
        raise ValueError(msg)
    if wcs is None:
        msg = 'wcs must be given with positions on the sky'
        raise ValueError(msg)
    return tuple(np.asarray(value, dtype=float)
                 for value in wcs.world_to_pixel(sky))


def position_angle_in_frame(sky: SkyCoord,
                            position_angle: ArrayLike | u.Quantity,
                            frame: BaseCoordinateFrame | str) -> u.Quantity:
    """
    Convert position angles from one celestial frame to another.

    Parameters
    ----------
    sky : `~astropy.coordinates.SkyCoord`
        The positions.

    position_angle : array_like or `~astropy.units.Quantity`
        The position angles, east of north in the frame of ``sky``; numbers
        are degrees.

    frame : `~astropy.coordinates.BaseCoordinateFrame` or str
        The new frame.

    Returns
    -------
    position_angle : `~astropy.units.Quantity`
        The position angles, east of north in ``frame``, in degrees in
        [0, 180), as for the axes of ellipses.

    Examples
    --------
    >>> import astropy.units as u
    >>> from astropy.coordinates import SkyCoord
    >>> from hyperphotutils.utils.wcs import position_angle_in_frame
    >>> center = SkyCoord(266.405, -28.936, unit='deg')
    >>> angle = position_angle_in_frame(center, 0 * u.deg, 'galactic')
    >>> print(angle.round(1))
    58.6 deg
    """
    angle = u.Quantity(position_angle, u.deg, subok=False)
    if not sky.is_equivalent_frame(SkyCoord(0, 0, unit='deg',
                                            frame=frame).frame):
        pole = SkyCoord(0, 90, unit='deg',
                        frame=sky.frame.replicate_without_data())
        north = sky.transform_to(frame).position_angle(
            pole.transform_to(frame))
        angle = angle + u.Quantity(north, u.deg, subok=False)
    angle = angle % (180.0 * u.deg)
    return np.where(angle >= 180.0 * u.deg, 0.0 * u.deg, angle)


def celestial_part(wcs):
    """
    Return the celestial part of ``wcs``.
    """
    if not isinstance(wcs, WCS):
        msg = f'wcs must be an astropy.wcs.WCS: got {type(wcs).__name__}'
        raise TypeError(msg)
    if not wcs.has_celestial:
        ctype = ', '.join(repr(name) for name in wcs.wcs.ctype)
        msg = f'wcs must have two celestial axes: its CTYPEs are {ctype}'
        raise ValueError(msg)
    return wcs if wcs.naxis == 2 else wcs.celestial


def pixel_to_lonlat(wcs, x, y):
    """
    Convert pixel positions to longitude and latitude in radians.

    A header may store the latitude first.
    """
    world = wcs.pixel_to_world_values(x, y)
    return (np.deg2rad(world[wcs.wcs.lng]), np.deg2rad(world[wcs.wcs.lat]))


def _sky_to_pixel(wcs, sky):
    """
    Convert a SkyCoord to 1-D arrays of pixel positions.
    """
    sphere = sky.transform_to(wcs_to_celestial_frame(wcs)).spherical
    world = [None, None]
    world[wcs.wcs.lng] = np.atleast_1d(sphere.lon.deg)
    world[wcs.wcs.lat] = np.atleast_1d(sphere.lat.deg)
    if not wcs.has_distortion or len(world[0]) == 0:
        return wcs.world_to_pixel_values(*world)
    # Far off the map the inverse of a distortion may not exist. Such
    # positions must not prevent the conversion of the others.
    x, y = wcs.all_world2pix(*world, 0, adaptive=True, quiet=True)
    lon, lat = pixel_to_lonlat(wcs, x, y)
    lost = unit_vectors(lon, lat) - unit_vectors(
        sphere.lon.to_value(u.rad).ravel(), sphere.lat.to_value(u.rad).ravel())
    scale = np.sqrt(np.abs(np.linalg.det(wcs.pixel_scale_matrix)))
    found = np.linalg.norm(lost, axis=1) < _CLOSED * np.deg2rad(scale)
    return np.where(found, x, np.nan), np.where(found, y, np.nan)


def unit_vectors(lon, lat):
    """
    Return unit vectors with their components along a new last axis.
    """
    return np.stack([np.cos(lat) * np.cos(lon),
                     np.cos(lat) * np.sin(lon),
                     np.sin(lat)], axis=-1)


def _symmetric_map(matrix):
    """
    Return the linear maps of the elements (xx, xy, yy) of a symmetric
    matrix S to those of M S M^T, with shape (n, 3, 3).
    """
    (a, b), (c, d) = np.moveaxis(matrix, 0, -1)
    return np.moveaxis(np.array([[a * a, 2.0 * a * b, b * b],
                                 [a * c, a * d + b * c, b * d],
                                 [c * c, 2.0 * c * d, d * d]]), -1, 0)


def _map_ellipse(matrix, major, minor, angle):
    """
    Map ellipses by 2x2 matrices, one matrix per ellipse.

    Angles are in degrees from the first axis toward the second, before
    and after. The shape matrix becomes ``M S M^T``. The major axis
    follows from its larger eigenvalue, and the minor axis from the
    determinant, which is accurate also for thin ellipses.
    """
    major, minor, angle = np.broadcast_arrays(
        np.asarray(major, dtype=float), np.asarray(minor, dtype=float),
        np.deg2rad(np.asarray(angle, dtype=float)))
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    along = np.einsum('...ij,...j->...i', matrix, direction)
    across = np.einsum('...ij,...j->...i', matrix,
                       direction[..., ::-1] * [-1.0, 1.0])
    p, q = (np.atleast_1d(major)[:, np.newaxis] * along,
            np.atleast_1d(minor)[:, np.newaxis] * across)
    xx, yy = (p**2 + q**2).T
    xy = p[:, 0] * p[:, 1] + q[:, 0] * q[:, 1]
    spread = np.hypot(xx - yy, 2.0 * xy)
    new_major = np.sqrt(0.5 * (xx + yy + spread))
    area = np.abs(p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0])
    with np.errstate(invalid='ignore', divide='ignore'):
        new_minor = np.where(new_major == 0, 0.0, area / new_major)
    new_angle = np.where(spread > _ROUND * (xx + yy),
                         0.5 * np.arctan2(2.0 * xy, xx - yy),
                         np.arctan2(along[:, 1], along[:, 0]))
    return new_major, new_minor, wrap_angle(np.rad2deg(new_angle))


def _determinant(matrix):
    """
    Return the determinants of 2x2 matrices, NaN without a warning.
    """
    return (matrix[:, 0, 0] * matrix[:, 1, 1]
            - matrix[:, 0, 1] * matrix[:, 1, 0])
