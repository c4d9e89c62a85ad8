# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Elliptical apertures defined by the FWHMs of a Gaussian source.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs.utils import wcs_to_celestial_frame
from numpy.typing import ArrayLike
from photutils.aperture import EllipticalAperture, SkyEllipticalAperture
from photutils.aperture.attributes import (
    ApertureAttribute,
    PositiveScalar,
    PositiveScalarAngle,
)

from hyperphotutils.aperture.limits import check_limits
from hyperphotutils.aperture.photometry import gaussian_enclosed_fraction
from hyperphotutils.utils.wcs import (
    local_jacobian,
    pixel_to_sky_ellipse,
    position_angle_in_frame,
    sky_to_pixel_ellipse,
)

if TYPE_CHECKING:
    from astropy.table import Table
    from astropy.wcs import WCS

    from hyperphotutils.utils.typing import FloatOrQuantity

__all__ = ['GaussianEllipseAperture', 'SkyGaussianEllipseAperture']


class _Limits(ApertureAttribute):
    """
    Check the limits of the FWHMs, with a given unit or without a unit.
    """

    def __init__(self, doc='', *, unit=None):
        super().__init__(doc)
        self.unit = unit

    def __set__(self, instance, value):
        if value is not None:
            value = check_limits(value, unit=self.unit)
            if value[0].ndim or value[1].ndim:
                msg = ('fwhm_limits must be two scalars for one aperture: '
                       f'got {value!r}')
                raise ValueError(msg)
            if self.unit is None:
                value = tuple(float(limit) for limit in value)
        if self.name in instance.__dict__:
            self._reset_lazyproperties(instance)
        instance.__dict__[self.name] = value


class _GaussianEllipse:
    """
    Base class of the pixel and the sky aperture.

    photutils reconstructs an aperture from the attributes in ``_params``
    when it is copied, indexed, compared or printed.
    """

    _params = ('positions', 'fwhm_major', 'fwhm_minor', 'theta',
               'fwhm_radius_ratio', 'fwhm_limits')

    @property
    def a(self) -> FloatOrQuantity:
        """
        The semimajor axis, ``fwhm_radius_ratio`` times ``fwhm_major``
        clipped to ``fwhm_limits``. Setting it sets ``fwhm_major``.
        """
        return self.fwhm_radius_ratio * self._clip(self.fwhm_major)

    @a.setter
    def a(self, value):
        self._set_axis('a', 'fwhm_major', value)

    @property
    def b(self) -> FloatOrQuantity:
        """
        The semiminor axis, ``fwhm_radius_ratio`` times ``fwhm_minor``
        clipped to ``fwhm_limits``. Setting it sets ``fwhm_minor``.
        """
        return self.fwhm_radius_ratio * self._clip(self.fwhm_minor)

    @b.setter
    def b(self, value):
        self._set_axis('b', 'fwhm_minor', value)

    @property
    def enclosed_fraction(self) -> float:
        """
        The fraction of the Gaussian's flux inside the aperture.

        It is ``1 - exp(-4 ln(2) fwhm_radius_ratio**2)`` if no FWHM is
        clipped.
        """
        axes = (self.fwhm_major, self.fwhm_minor, self.a, self.b)
        unit = getattr(self.fwhm_major, 'unit', None)
        if unit is not None:
            axes = (axis.to_value(unit) for axis in axes)
        return gaussian_enclosed_fraction(*axes)

    @classmethod
    def _from_rows(cls, positions, major, minor, theta, ratio, fwhm_limits,
                   unit=None):
        if unit is not None:
            major, minor = u.Quantity(major, unit), u.Quantity(minor, unit)
        limits = [None] * len(major)
        if fwhm_limits is not None:
            limits = check_limits(fwhm_limits, unit=unit)
            for limit in limits:
                if limit.ndim and limit.shape != major.shape:
                    msg = ('fwhm_limits must be scalars or have one entry '
                           f'per row, {len(major)}: got the shape '
                           f'{limit.shape}')
                    raise ValueError(msg)
            limits = zip(*(np.broadcast_to(limit, len(major), subok=True)
                           for limit in limits), strict=True)
        return [cls(*row[:3], theta=row[3], fwhm_limits=row[4],
                    fwhm_radius_ratio=ratio)
                for row in zip(positions, major, minor,
                               u.Quantity(theta, u.deg), limits, strict=True)]

    def _set_axis(self, axis, name, value):
        # Clipping would silently give another axis than the one set.
        width = value / self.fwhm_radius_ratio
        if self._clip(width) != width:
            lower, upper = self.fwhm_limits
            msg = (f'{axis}={value} needs {name}={width}, which is outside '
                   f'of fwhm_limits, {lower} to {upper}: change '
                   'fwhm_limits first')
            raise ValueError(msg)
        setattr(self, name, width)

    def _clip(self, width):
        if self.fwhm_limits is None:
            return width
        lower, upper = self.fwhm_limits
        return min(max(width, lower), upper)


class GaussianEllipseAperture(_GaussianEllipse, EllipticalAperture):
    """
    An elliptical aperture in pixels, defined by the FWHMs of a Gaussian.

    Use it to measure sources with known or fitted sizes. It is a
    `~photutils.aperture.EllipticalAperture` and works with all photutils
    tools. Unlike in photutils, `to_sky` is also correct across longitude
    0.

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

    fwhm_limits : pair of float, or `None`, optional
        The smallest and the largest FWHM in pixels, to which the FWHMs
        are clipped. If `None` (default), they are not clipped.

    Raises
    ------
    ValueError
        If ``fwhm_major``, ``fwhm_minor`` or ``fwhm_radius_ratio`` is not
        a positive scalar, a position is not finite, or ``fwhm_limits``
        is invalid.

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
    fwhm_limits = _Limits('The limits of the FWHMs in pixels.')

    def __init__(self, positions: ArrayLike, fwhm_major: float,
                 fwhm_minor: float, theta: float | u.Quantity = 0.0, *,
                 fwhm_radius_ratio: float = 1.0,
                 fwhm_limits: Sequence[float] | None = None) -> None:
        self.positions: np.ndarray = positions
        self.fwhm_major = fwhm_major
        self.fwhm_minor = fwhm_minor
        self.theta = theta
        self.fwhm_radius_ratio = fwhm_radius_ratio
        self.fwhm_limits = fwhm_limits

    @classmethod
    def from_table(cls, table: Table, *, fwhm_radius_ratio: float = 1.0,
                   fwhm_limits: Sequence[Any] | None = None
                   ) -> list[GaussianEllipseAperture]:
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

        fwhm_limits : pair, or `None`, optional
            The smallest and the largest FWHM in pixels, to which the
            FWHMs are clipped. Arrays have one limit per row.

        Returns
        -------
        apertures : list of `GaussianEllipseAperture`
            One scalar aperture per row.

        Raises
        ------
        ValueError
            If a column is missing, or a row is not finite (a failed
            fit): ``table[np.isfinite(table['x_fit'])]`` drops those.
        """
        names = ('x_fit', 'y_fit', 'fwhm_major_fit', 'fwhm_minor_fit',
                 'theta_fit')
        x, y, *shapes = _finite_columns(table, names)
        return cls._from_rows(np.transpose((x, y)), *shapes,
                              fwhm_radius_ratio, fwhm_limits)

    def to_sky(self, wcs: WCS) -> SkyGaussianEllipseAperture:
        """
        Convert the aperture to the sky.

        The shape is converted at the first position with the exact
        local linear map, which may change the axis ratio if the pixels
        are not square. The limits of the FWHMs are converted with the
        pixel scale at that position.

        Parameters
        ----------
        wcs : `~astropy.wcs.WCS`
            A WCS with two celestial axes.

        Returns
        -------
        aperture : `SkyGaussianEllipseAperture`
            The aperture in the celestial frame of ``wcs``.
        """
        # photutils 3.0 takes differences of longitudes without wrapping them:
        # within a pixel of longitude 0, an axis became 7e6 arcsec.
        x, y = np.transpose(self.positions)
        first_x, first_y = np.atleast_2d(self.positions)[0]
        major, minor, angle = pixel_to_sky_ellipse(
            wcs, first_x, first_y, self.fwhm_major, self.fwhm_minor,
            self.theta.to_value(u.deg))
        return SkyGaussianEllipseAperture(
            SkyCoord(wcs.celestial.pixel_to_world(x, y)), major[0], minor[0],
            theta=angle[0], fwhm_radius_ratio=self.fwhm_radius_ratio,
            fwhm_limits=None if self.fwhm_limits is None else tuple(
                limit * _scale(wcs, first_x, first_y)
                for limit in self.fwhm_limits))


class SkyGaussianEllipseAperture(_GaussianEllipse, SkyEllipticalAperture):
    """
    An elliptical aperture on the sky, defined by the FWHMs of a Gaussian.

    Use it to measure the same source in maps with different pixels. It
    is a `~photutils.aperture.SkyEllipticalAperture` and works with all
    photutils tools. Unlike in photutils, `to_pixel` is also correct
    across longitude 0.

    Parameters
    ----------
    positions : `~astropy.coordinates.SkyCoord`
        The position or positions.

    fwhm_major, fwhm_minor : scalar `~astropy.units.Quantity`
        The full widths at half maximum of the Gaussian.

    theta : scalar `~astropy.units.Quantity`, optional
        The position angle of the major axis, east of north in the frame
        of ``positions``.

    fwhm_radius_ratio : float, optional
        The semi-axes in units of the FWHMs. With the default of 1 the
        aperture encloses 15/16 of the Gaussian's flux.

    fwhm_limits : pair of scalar `~astropy.units.Quantity`, or `None`, optional
        The smallest and the largest FWHM, to which the FWHMs are
        clipped. If `None` (default), they are not clipped.

    Raises
    ------
    TypeError
        If ``positions`` is not a `~astropy.coordinates.SkyCoord` or a
        FWHM or angle is not a quantity.

    ValueError
        If ``fwhm_major``, ``fwhm_minor`` or ``fwhm_radius_ratio`` is not
        a positive scalar, or ``fwhm_limits`` is invalid.

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
    fwhm_limits = _Limits('The limits of the FWHMs.', unit=u.arcsec)

    def __init__(self, positions: SkyCoord, fwhm_major: u.Quantity,
                 fwhm_minor: u.Quantity, theta: u.Quantity = 0.0 * u.deg, *,
                 fwhm_radius_ratio: float = 1.0,
                 fwhm_limits: Sequence[u.Quantity] | None = None) -> None:
        self.positions = positions
        self.fwhm_major = fwhm_major
        self.fwhm_minor = fwhm_minor
        self.theta = theta
        self.fwhm_radius_ratio = fwhm_radius_ratio
        self.fwhm_limits = fwhm_limits

    @classmethod
    def from_table(cls, table: Table, *, fwhm_radius_ratio: float = 1.0,
                   fwhm_limits: Sequence[Any] | None = None
                   ) -> list[SkyGaussianEllipseAperture]:
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

        fwhm_limits : pair, or `None`, optional
            The smallest and the largest FWHM, with a unit, to which the
            FWHMs are clipped. Arrays have one limit per row.

        Returns
        -------
        apertures : list of `SkyGaussianEllipseAperture`
            One scalar aperture per row.

        Raises
        ------
        ValueError
            If a column is missing, or a row is not finite (a failed
            fit): ``table[np.isfinite(table['fwhm_major_sky'])]`` drops those.
        """
        names = ('sky_centroid', 'fwhm_major_sky', 'fwhm_minor_sky',
                 'position_angle')
        return cls._from_rows(*_finite_columns(table, names),
                              fwhm_radius_ratio, fwhm_limits, unit=u.arcsec)

    def to_pixel(self, wcs: WCS) -> GaussianEllipseAperture:
        """
        Convert the aperture to pixels.

        The shape is converted at the first position with the exact
        local linear map. The frames of the aperture and of ``wcs`` may
        differ: the position angle is converted to the frame of ``wcs``.
        The limits of the FWHMs are converted with the pixel scale at
        that position.

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
        first_x, first_y, major, minor, theta = sky_to_pixel_ellipse(
            wcs, first, self.fwhm_major, self.fwhm_minor, angle)
        return GaussianEllipseAperture(
            np.transpose((x, y)), major[0], minor[0],
            theta=theta[0] * u.deg, fwhm_radius_ratio=self.fwhm_radius_ratio,
            fwhm_limits=None if self.fwhm_limits is None else tuple(
                (limit / _scale(wcs, first_x, first_y)).to_value(u.one)
                for limit in self.fwhm_limits))


def _scale(wcs, x, y):
    # Limits have no direction, but the pixels of a projection are not square:
    # the side of a square of the same area takes their place.
    return np.sqrt(np.abs(np.linalg.det(local_jacobian(wcs, x, y)[0]))
                   ) * u.arcsec


def _finite_columns(table, names):
    # The named columns; an aperture cannot be made from NaN, and one left out
    # silently would shift all further rows.
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
        first = 'x_fit' if 'x_fit' in names else 'fwhm_major_sky'
        msg = ('table must have finite positions and sizes: got NaN in '
               f'{np.count_nonzero(bad)} rows (failed fits), the first is '
               f'row {np.argmax(bad)}; drop them with '
               f"table[np.isfinite(table['{first}'])]")
        raise ValueError(msg)
    return columns
