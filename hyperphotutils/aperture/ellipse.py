# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Elliptical apertures that are built from the FWHMs of a Gaussian source.
"""

import math

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs.utils import wcs_to_celestial_frame
from photutils.aperture import EllipticalAperture, SkyEllipticalAperture
from photutils.aperture.attributes import PositiveScalar, PositiveScalarAngle

from hyperphotutils.utils.wcs import pixel_to_sky_ellipse, sky_to_pixel_ellipse

__all__ = [
    'GaussianEllipseAperture',
    'SkyGaussianEllipseAperture',
    'position_angle_in_frame',
]


class _GaussianEllipse:
    """
    What the pixel and the sky aperture have in common.

    photutils rebuilds an aperture from the names in ``_params`` when it
    is copied, indexed, compared or shown.
    """

    _params = ('positions', 'fwhm_major', 'fwhm_minor', 'theta',
               'fwhm_radius_ratio')

    @property
    def a(self):
        """
        The semimajor axis, ``fwhm_radius_ratio`` times ``fwhm_major``.
        """
        return self.fwhm_radius_ratio * self.fwhm_major

    @property
    def b(self):
        """
        The semiminor axis, ``fwhm_radius_ratio`` times ``fwhm_minor``.
        """
        return self.fwhm_radius_ratio * self.fwhm_minor

    @property
    def enclosed_fraction(self):
        """
        The fraction of the Gaussian's flux inside the aperture.

        It is ``1 - exp(-4 ln(2) fwhm_radius_ratio**2)``.
        """
        return -math.expm1(-4.0 * math.log(2.0) * self.fwhm_radius_ratio**2)


class GaussianEllipseAperture(_GaussianEllipse, EllipticalAperture):
    """
    An elliptical aperture in pixels, built from the FWHMs of a Gaussian.

    It is a `~photutils.aperture.EllipticalAperture` and works in all of
    photutils' tools. Unlike in photutils, `to_sky` is also right across
    longitude 0.

    Parameters
    ----------
    positions : array_like
        The ``(x, y)`` pixel position, or an array of shape (N, 2).

    fwhm_major, fwhm_minor : float
        The full widths at half maximum of the Gaussian in pixels.

    theta : float or `~astropy.units.Quantity`, optional
        The angle of the major axis from the positive x axis,
        counterclockwise: an angular quantity, or a float in radians.

    fwhm_radius_ratio : float, optional
        The semi-axes in units of the FWHMs. With the default of 1 the
        aperture encloses 15/16 of the Gaussian's flux.

    Raises
    ------
    ValueError
        If ``fwhm_major``, ``fwhm_minor`` or ``fwhm_radius_ratio`` is not
        a positive scalar, or a position is not finite.

    Examples
    --------
    >>> import astropy.units as u
    >>> from hyperphotutils.aperture import GaussianEllipseAperture
    >>> aperture = GaussianEllipseAperture((10.0, 20.0), 5.0, 4.0,
    ...                                    theta=30 * u.deg,
    ...                                    fwhm_radius_ratio=0.5)
    >>> print(aperture.a, aperture.b, aperture.enclosed_fraction)
    2.5 2.0 0.5
    """

    fwhm_major = PositiveScalar('The FWHM along the major axis in pixels.')
    fwhm_minor = PositiveScalar('The FWHM along the minor axis in pixels.')
    fwhm_radius_ratio = PositiveScalar('The ratio of semi-axis to FWHM.')

    def __init__(self, positions, fwhm_major, fwhm_minor, *, theta=0.0,
                 fwhm_radius_ratio=1.0):
        self.positions = positions
        self.fwhm_major = fwhm_major
        self.fwhm_minor = fwhm_minor
        self.theta = theta
        self.fwhm_radius_ratio = fwhm_radius_ratio

    @classmethod
    def from_table(cls, table, *, fwhm_radius_ratio=1.0):
        """
        Make one aperture per row of a table of fitted sources.

        Parameters
        ----------
        table : `~astropy.table.Table`
            A table with the columns ``x_fit``, ``y_fit``,
            ``fwhm_major_fit``, ``fwhm_minor_fit`` (pixels) and
            ``theta_fit`` (with a unit, or degrees).

        fwhm_radius_ratio : float, optional
            The semi-axes in units of the FWHMs.

        Returns
        -------
        apertures : list of `GaussianEllipseAperture`
            One scalar aperture per row.

        Raises
        ------
        ValueError
            If a column is missing, or a row is not finite (a failed
            fit).
        """
        names = ('x_fit', 'y_fit', 'fwhm_major_fit', 'fwhm_minor_fit',
                 'theta_fit')
        x, y, major, minor, theta = _finite_columns(table, names)
        theta = u.Quantity(theta, u.deg)
        return [cls(*row[:-1], theta=row[-1],
                    fwhm_radius_ratio=fwhm_radius_ratio)
                for row in zip(np.transpose((x, y)), major, minor, theta,
                               strict=True)]

    def to_sky(self, wcs):
        """
        Convert the aperture to the sky.

        The shape is converted at the first position with the exact
        local linear map, which may change the axis ratio if the pixels
        are not square.

        Parameters
        ----------
        wcs : `~astropy.wcs.WCS`
            A WCS with two celestial axes.

        Returns
        -------
        aperture : `SkyGaussianEllipseAperture`
            The aperture in the celestial frame of ``wcs``.
        """
        x, y = np.transpose(self.positions)
        first_x, first_y = np.atleast_2d(self.positions)[0]
        major, minor, angle = pixel_to_sky_ellipse(
            wcs, first_x, first_y, self.fwhm_major, self.fwhm_minor,
            self.theta.to_value(u.deg))
        return SkyGaussianEllipseAperture(
            SkyCoord(wcs.celestial.pixel_to_world(x, y)), major[0], minor[0],
            theta=angle[0], fwhm_radius_ratio=self.fwhm_radius_ratio)


class SkyGaussianEllipseAperture(_GaussianEllipse, SkyEllipticalAperture):
    """
    An elliptical aperture on the sky, built from the FWHMs of a Gaussian.

    It is a `~photutils.aperture.SkyEllipticalAperture` and works in all
    of photutils' tools. Unlike in photutils, `to_pixel` is also right
    across longitude 0.

    Parameters
    ----------
    positions : `~astropy.coordinates.SkyCoord`
        The position or positions.

    fwhm_major, fwhm_minor : scalar `~astropy.units.Quantity`
        The full widths at half maximum of the Gaussian.

    theta : scalar `~astropy.units.Quantity`, optional
        The position angle of the major axis, East of North in the frame
        of ``positions``.

    fwhm_radius_ratio : float, optional
        The semi-axes in units of the FWHMs. With the default of 1 the
        aperture encloses 15/16 of the Gaussian's flux.

    Raises
    ------
    TypeError
        If ``positions`` is not a `~astropy.coordinates.SkyCoord` or a
        FWHM or angle is not a quantity.

    ValueError
        If ``fwhm_major``, ``fwhm_minor`` or ``fwhm_radius_ratio`` is not
        a positive scalar.

    Examples
    --------
    >>> import astropy.units as u
    >>> from astropy.coordinates import SkyCoord
    >>> from hyperphotutils.aperture import SkyGaussianEllipseAperture
    >>> position = SkyCoord(10.0, 20.0, unit='deg')
    >>> aperture = SkyGaussianEllipseAperture(position, 5 * u.arcsec,
    ...                                       4 * u.arcsec,
    ...                                       theta=30 * u.deg)
    >>> print(aperture.a, aperture.enclosed_fraction)
    5.0 arcsec 0.9375
    """

    fwhm_major = PositiveScalarAngle('The FWHM along the major axis.')
    fwhm_minor = PositiveScalarAngle('The FWHM along the minor axis.')
    fwhm_radius_ratio = PositiveScalar('The ratio of semi-axis to FWHM.')

    def __init__(self, positions, fwhm_major, fwhm_minor, *,
                 theta=0.0 * u.deg, fwhm_radius_ratio=1.0):
        self.positions = positions
        self.fwhm_major = fwhm_major
        self.fwhm_minor = fwhm_minor
        self.theta = theta
        self.fwhm_radius_ratio = fwhm_radius_ratio

    @classmethod
    def from_table(cls, table, *, fwhm_radius_ratio=1.0):
        """
        Make one aperture per row of a table of fitted sources.

        Parameters
        ----------
        table : `~astropy.table.Table`
            A table with the columns ``sky_centroid``
            (`~astropy.coordinates.SkyCoord`), ``fwhm_major_sky``,
            ``fwhm_minor_sky`` (angular quantities, or arcsec) and
            ``position_angle`` (with a unit, or degrees).

        fwhm_radius_ratio : float, optional
            The semi-axes in units of the FWHMs.

        Returns
        -------
        apertures : list of `SkyGaussianEllipseAperture`
            One scalar aperture per row.

        Raises
        ------
        ValueError
            If a column is missing, or a row is not finite (a failed
            fit).
        """
        names = ('sky_centroid', 'fwhm_major_sky', 'fwhm_minor_sky',
                 'position_angle')
        sky, major, minor, angle = _finite_columns(table, names)
        major, minor = u.Quantity(major, u.arcsec), u.Quantity(minor, u.arcsec)
        angle = u.Quantity(angle, u.deg)
        return [cls(*row[:-1], theta=row[-1],
                    fwhm_radius_ratio=fwhm_radius_ratio)
                for row in zip(sky, major, minor, angle, strict=True)]

    def to_pixel(self, wcs):
        """
        Convert the aperture to pixels.

        The shape is converted at the first position with the exact
        local linear map. The frames of the aperture and of ``wcs`` may
        differ: the position angle is turned to the North of ``wcs``.

        Parameters
        ----------
        wcs : `~astropy.wcs.WCS`
            A WCS with two celestial axes.

        Returns
        -------
        aperture : `GaussianEllipseAperture`
            The aperture in the pixels of ``wcs``.
        """
        x, y = wcs.celestial.world_to_pixel(self.positions)
        first = self.positions if self.isscalar else self.positions[0]
        angle = position_angle_in_frame(first, self.theta,
                                        wcs_to_celestial_frame(wcs))
        _, _, major, minor, theta = sky_to_pixel_ellipse(
            wcs, first, self.fwhm_major, self.fwhm_minor, angle)
        return GaussianEllipseAperture(
            np.transpose((x, y)), major[0], minor[0],
            theta=theta[0] * u.deg, fwhm_radius_ratio=self.fwhm_radius_ratio)


def position_angle_in_frame(sky, position_angle, frame):
    """
    Turn position angles from the North of one frame to that of another.

    Parameters
    ----------
    sky : `~astropy.coordinates.SkyCoord`
        The positions.

    position_angle : `~astropy.units.Quantity`
        The position angles, East of North in the frame of ``sky``.

    frame : `~astropy.coordinates.BaseCoordinateFrame` or str
        The other frame.

    Returns
    -------
    position_angle : `~astropy.units.Quantity`
        The position angles, East of North in ``frame``, in degrees in
        [0, 180), as for the axes of ellipses.

    Examples
    --------
    >>> import astropy.units as u
    >>> from astropy.coordinates import SkyCoord
    >>> from hyperphotutils.aperture import position_angle_in_frame
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
    return np.where(angle < 180.0 * u.deg, angle, 0.0 * u.deg)


def _finite_columns(table, names):
    # the columns of these names; an aperture cannot be made from NaN
    missing = [name for name in names if name not in table.colnames]
    if missing:
        msg = f'table must have the columns {names}: {missing} are missing'
        raise ValueError(msg)
    columns = [table[name] for name in names]
    bad = np.zeros(len(table), dtype=bool)
    for column in columns:
        values = column
        if isinstance(column, SkyCoord):
            values = column.spherical.lon + column.spherical.lat
        bad |= ~np.isfinite(np.ma.filled(getattr(values, 'value', values),
                                         np.nan))
    if np.any(bad):
        msg = ('table must have finite positions and sizes: got NaN in '
               f'{np.count_nonzero(bad)} rows (failed fits), the first '
               f'is row {np.argmax(bad)}')
        raise ValueError(msg)
    return columns
