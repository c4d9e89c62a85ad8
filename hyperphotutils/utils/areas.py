# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The solid angles of all pixels of a map.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np

from hyperphotutils.utils.wcs import (
    celestial_part,
    pixel_area,
    pixel_to_lonlat,
    unit_vectors,
)

if TYPE_CHECKING:
    from astropy.wcs import WCS

    from hyperphotutils.utils.typing import FloatOrArray

__all__ = ['PixelAreas']

# Pixel areas that agree to this fraction are treated as constant.
_SAME = 1e-4

# The largest relative error of an interpolated area.
_TOLERANCE = 1e-5

# Numbers of nodes along an axis to try. If the last is not accurate
# enough, areas are not interpolated.
_N_NODES = (9, 17, 33, 65)


class PixelAreas:
    """
    Class for the solid angles of the pixels of a map.

    Use it to integrate surface brightness on wide maps. The solid angle
    is practically constant on small maps, but varies where the
    projection or a distortion stretches the pixels: by a factor of 2 in
    a plate carree map (CAR) at a latitude of 60 degrees, or by 11
    percent in a gnomonic map (TAN) 15 degrees from its center.

    Parameters
    ----------
    wcs : `~astropy.wcs.WCS`
        A WCS with two celestial axes; other axes are ignored.

    shape : tuple of int
        The ``(ny, nx)`` shape of the map.

    Notes
    -----
    Areas are interpolated by cubic splines between nodes at which the
    Jacobian of the projection is computed. Nodes are added until the
    relative error halfway between them is below 1e-5. If this fails, as
    on a map whose corners are off the sky, each area is that of the
    quadrilateral between the corners of the pixel.

    Examples
    --------
    >>> from astropy.wcs import WCS
    >>> from hyperphotutils.utils import PixelAreas
    >>> wcs = WCS(naxis=2)
    >>> wcs.wcs.ctype = ['GLON-CAR', 'GLAT-CAR']
    >>> wcs.wcs.crval, wcs.wcs.crpix = [30, 0], [1, 1]
    >>> wcs.wcs.cdelt = [-0.5, 0.5]
    >>> areas = PixelAreas(wcs, (121, 21))
    >>> areas.is_constant
    False
    >>> print(areas.center.to('deg2').round(4))
    0.2165 deg2
    >>> areas.relative(slice(120, 121))[0, :2].round(4)
    array([0.5774, 0.5774])
    """

    def __init__(self, wcs: WCS, shape: tuple[int, ...]) -> None:
        self.wcs = wcs
        self.shape = tuple(shape)

    def __repr__(self) -> str:
        low, high = self.range
        return (f'<{type(self).__name__}(shape={self.shape}, '
                f'center={self.center:.6g}, range=({low:.6g}, {high:.6g}))>')

    @cached_property
    def center(self) -> u.Quantity:
        """
        The solid angle of a pixel at the center of the map.
        """
        ny, nx = self.shape
        return pixel_area(self.wcs, 0.5 * (nx - 1), 0.5 * (ny - 1))[0]

    @cached_property
    def is_constant(self) -> bool:
        """
        Whether all pixels have the area of the center to 1e-4.
        """
        areas = self._at(*self._nodes(_N_NODES[0]))
        return bool(np.all(np.abs(areas - 1.0) < _SAME))

    @cached_property
    def range(self) -> tuple[float, float]:
        """
        The smallest and the largest area in units of that at the center;
        (1, 1) if the area is constant.
        """
        if self.is_constant:
            return (1.0, 1.0)
        areas = self._at(*self._nodes(_N_NODES[2]))
        return (float(np.nanmin(areas)), float(np.nanmax(areas)))

    def relative(self, rows: slice) -> FloatOrArray:
        """
        Return the areas of some rows in units of that at the center.

        Parameters
        ----------
        rows : slice
            The rows. Process large maps in blocks of rows.

        Returns
        -------
        areas : float or 2-D `~numpy.ndarray`
            The relative areas: 1 if the area is constant, otherwise an
            array of shape ``(n_rows, nx)``, NaN for pixels off the sky.
        """
        if self.is_constant:
            return 1.0
        y = np.arange(self.shape[0])[rows]
        x = np.arange(self.shape[1])
        if self._spline is not None:
            return self._spline(y, x)
        corner_x, corner_y = np.meshgrid(np.append(x, x[-1] + 1) - 0.5,
                                         np.append(y, y[-1] + 1) - 0.5)
        corners = unit_vectors(*pixel_to_lonlat(celestial_part(self.wcs),
                                                corner_x, corner_y))
        # half the cross product of the diagonals of a quadrilateral
        areas = 0.5 * np.linalg.norm(np.cross(
            corners[1:, 1:] - corners[:-1, :-1],
            corners[1:, :-1] - corners[:-1, 1:]), axis=-1)
        areas /= self.center.to_value(u.sr)
        rows, columns = np.nonzero(~np.isfinite(areas))
        # Pixels at the edge of the sky have corners off the sky.
        areas[rows, columns] = (pixel_area(self.wcs, x[columns], y[rows])
                                / self.center).value if rows.size else 0.0
        return areas

    def _nodes(self, n_nodes):
        """
        Return the rows and columns of nodes from edge to edge.
        """
        return tuple(np.linspace(-0.5, size - 0.5, n_nodes)
                     for size in self.shape)

    def _at(self, y, x):
        """
        Return the relative areas at the nodes of a grid.
        """
        yy, xx = np.meshgrid(y, x, indexing='ij')
        areas = pixel_area(self.wcs, xx.ravel(), yy.ravel()) / self.center
        return areas.value.reshape(xx.shape)

    @cached_property
    def _spline(self):
        """
        The interpolation, or `None` if it is not accurate enough.
        """
        # A slow import that maps with constant areas do not need
        from scipy.interpolate import RectBivariateSpline

        for n_nodes in _N_NODES:
            # more nodes than that cost more than the areas of all pixels
            if n_nodes**2 > 0.25 * self.shape[0] * self.shape[1]:
                return None
            y, x = self._nodes(n_nodes)
            values = self._at(y, x)
            if not np.all(np.isfinite(values)):
                return None
            spline = RectBivariateSpline(y, x, values)
            middle_y, middle_x = (0.5 * (v[1:] + v[:-1]) for v in (y, x))
            expected = self._at(middle_y, middle_x)
            error = np.abs(spline(middle_y, middle_x) - expected)
            if np.all(error <= _TOLERANCE * expected):
                return spline
        return None
