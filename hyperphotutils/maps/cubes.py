# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reading of cubes channel by channel, with one channel in memory.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from numpy.typing import NDArray

from hyperphotutils.maps.beams import beam_columns, find_beam
from hyperphotutils.maps.errors import MapError
from hyperphotutils.maps.extensions import BIT_FLAGS, INVERTED, warn_unused
from hyperphotutils.maps.headers import (
    as_frequency,
    calibrate,
    find_all,
    find_unit,
    input_name,
)
from hyperphotutils.maps.images import find_image, is_mask
from hyperphotutils.maps.nodata import (
    as_fill_value,
    blank_fill_values,
    blank_masked,
)
from hyperphotutils.maps.planes import (
    ArrayPlanes,
    MaskPlanes,
    SpectralCubePlanes,
    planes_of_hdu,
)
from hyperphotutils.maps.sky import celestial_wcs, find_sky_axes
from hyperphotutils.maps.spectral import (
    find_spectral_axis,
    rest_frequency,
    spectral_values,
    to_frequency,
)
from hyperphotutils.maps.surveys import get_survey
from hyperphotutils.maps.units import parse_unit
from hyperphotutils.maps.writer import CubeWriter
from hyperphotutils.utils.areas import PixelAreas

if TYPE_CHECKING:
    from astropy.nddata import CCDData
    from astropy.table import Table
    from radio_beam import Beam
    from spectral_cube import SpectralCube

    from hyperphotutils.utils.typing import HDU, FilePath

__all__ = ['MapCube', 'read_cube']

# Size of the beam in pixels, used to recognize fill values if the beam is
# unknown.
_USUAL_FWHM = 4.0


@dataclass(frozen=True, eq=False, repr=False)
class MapCube:
    """
    Class for a cube of which only the requested plane is in memory.

    It is returned by `read_cube`. A cube in a file is cheap to send to
    other processes: they open the file themselves.

    Parameters
    ----------
    planes : callable
        Function that returns the values of a channel as a 2D array.

    shape : tuple of int
        The shape ``(n_channels, ny, nx)``.

    header : `~astropy.io.fits.Header`
        The header of the image, with the keywords that it inherits.

    spectral_axis : `~astropy.units.Quantity`
        The velocities, frequencies, or wavelengths of the channels, in
        the unit of the header.

    spectral_type : str
        The type of the spectral axis, such as ``'VRAD'`` or ``'FREQ'``.

    name : str
        The name of the cube in messages.

    filename : str or `None`
        The name of the file, if the cube comes from one.

    extension : str
        The number and the name of the extension.

    settings : dict
        The arguments of `read_cube` other than the source.

    beams_table : `~astropy.table.Table` or `None`
        The beams of the channels, as CASA writes them.

    masks : dict
        Functions that return the mask of a channel, `True` at bad
        pixels, by the extensions that they are read from.

    unused_masks : str or `None`
        The extensions with masks or bit flags that are not used.
    """

    planes: Callable = field(repr=False)
    shape: tuple
    header: fits.Header
    spectral_axis: u.Quantity
    spectral_type: str
    name: str
    filename: str | None
    extension: str
    settings: dict
    beams_table: Table | None = None
    masks: dict = field(default_factory=dict, repr=False)
    unused_masks: str | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        axis = self.spectral_axis
        return (f'<{type(self).__name__}({self.name}, shape={self.shape}, '
                f'{self.spectral_type}={axis[0]:g} to {axis[-1]:g})>')

    def __getstate__(self):
        # a WCS warns about repaired keywords whenever it is unpickled
        return {name: value for name, value in vars(self).items()
                if name not in {'wcs', 'pixel_areas'}}

    @cached_property
    def wcs(self) -> WCS:
        """
        The celestial WCS of a plane.
        """
        return celestial_wcs(self.header, self.shape[1:])

    @cached_property
    def pixel_areas(self) -> PixelAreas:
        """
        The solid angles of the pixels of a plane, a
        `~hyperphotutils.utils.PixelAreas`.
        """
        return PixelAreas(self.wcs, self.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """
        The floating-point type used to write values of this cube.
        """
        return self.planes.dtype

    def _check_index(self, index):
        """
        Return the index of a channel, counted from the first channel.
        """
        n_channels = len(self)
        index = operator.index(index)
        if not -n_channels <= index < n_channels:
            msg = (f'{self.name}: there is no channel {index}: it has '
                   f'{n_channels} channels, 0 to {n_channels - 1}')
            raise IndexError(msg)
        return index % n_channels

    def plane(self, index: int) -> NDArray[np.float64]:
        """
        Return the values of a channel in the unit of the file.

        Parameters
        ----------
        index : int
            The index of the channel.

        Returns
        -------
        values : 2D `~numpy.ndarray` of float64
            A copy of the values, NaN where there are no data, in masked
            pixels, and instead of fill values.

        Raises
        ------
        IndexError
            If there is no such channel.

        MapError
            If the file has been removed or truncated.
        """
        return self._load_plane(self._check_index(index))[0]

    def _load_plane(self, index):
        """
        Return the values of a channel, and the metadata of its masked
        pixels and fill values.
        """
        try:
            values, mask = _read_plane(self, index)
        except (OSError, ValueError) as error:
            msg = (f'{self.name}: channel {index} can no longer be read: '
                   f'{error}')
            raise MapError(msg) from None
        n_masked, _ = blank_masked(values, mask)
        fill_value = self.settings['fill_value']
        fwhm = _USUAL_FWHM
        if fill_value is None:
            # some uses of a cube do not need a beam
            with suppress(MapError):
                beam, _ = self._find_beam(index)
                fwhm = (np.sqrt(beam.major * beam.minor)
                        / self.pixel_scale).to_value(u.one)
        return values, {'mask_extension': self.mask_extension,
                        'n_masked': n_masked,
                        'unused_masks': self.unused_masks,
                        **blank_fill_values(values, fill_value, fwhm)}

    def channel(self, index: int) -> CCDData:
        """
        Return a channel as a map in Jy per pixel.

        Parameters
        ----------
        index : int
            The index of the channel.

        Returns
        -------
        image : `~astropy.nddata.CCDData`
            The channel as `read_map` would return it, with the beam and
            the frequency of the channel in its ``meta``, and with
            ``'channel'``, its index, and ``'spectral_value'``, its
            velocity or frequency. In a channel without values, all
            pixels are masked.

        Raises
        ------
        IndexError
            If there is no such channel.

        MapError
            If the unit or the beam is missing or wrong.
        """
        index = self._check_index(index)
        # report a missing unit and a missing beam in one error
        (unit, text), (beam, beam_area) = self._find(
            partial(find_unit, self.header, self.settings['unit']),
            partial(self._find_beam, index))
        values, missing = self._load_plane(index)
        survey = self.settings['survey']
        try:
            return calibrate(
                values, self.wcs.deepcopy(), areas=self.pixel_areas,
                unit=unit, beam=beam, beam_area=beam_area,
                frequency=lambda: (None if self.frequencies is None
                                   else self.frequencies[index]),
                header=self.header, original_unit=text,
                survey=None if survey is None else survey.name,
                filename=self.filename, extension=self.extension,
                error_extension=None, channel=index,
                spectral_value=self.spectral_axis[index], **missing)
        except MapError as error:
            msg = f'{self.name}: {error}'
            raise MapError(msg) from None

    def mean_plane(self) -> NDArray[np.float64]:
        """
        Return the mean of all channels, pixel by pixel.

        It is proportional to the moment 0 of the cube, and a finder
        detects the same sources in both.

        Returns
        -------
        mean : 2D `~numpy.ndarray` of float64
            The mean of the finite values, in the unit of the file; NaN
            if there are none.
        """
        total = np.zeros(self.shape[1:])
        count = np.zeros(self.shape[1:], dtype=int)
        for index in range(len(self)):
            values = self.plane(index)
            good = np.isfinite(values)
            count += good
            np.add(total, values, out=total, where=good)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def make_writer(self, path: FilePath, **options: Any) -> CubeWriter:
        """
        Open a file for a cube like this one.

        Parameters
        ----------
        path : str or path-like
            The file to write.

        **options
            The other arguments of `CubeWriter`.

        Returns
        -------
        writer : `CubeWriter`
            The writer, which is a context manager.
        """
        return CubeWriter(path, self, **options)

    @cached_property
    def pixel_scale(self) -> u.Quantity:
        """
        The square root of the pixel area at the center.
        """
        return np.sqrt(self.pixel_areas.center)

    @property
    def original_unit(self) -> str:
        """
        The unit of the values as spelled in the file; empty if the file
        does not have one.
        """
        given = self.settings['unit']
        text = str(self.header.get('BUNIT', '')).strip()
        return text or ('' if given is None else str(given))

    @property
    def mask_extension(self) -> str | None:
        """
        The extension of the mask, or `None`.
        """
        return ' and '.join(self.masks) or None

    @cached_property
    def unit(self) -> u.UnitBase:
        """
        The unit of the values.

        A `MapError` is raised if it is missing or unknown.
        """
        return self._find(partial(find_unit, self.header,
                                  self.settings['unit']))[0][0]

    @cached_property
    def beams(self) -> list[Beam | None]:
        """
        A list with the `~radio_beam.Beam` of each channel.

        It is `None` for a channel with an impossible beam in CASA's
        table, such as a channel that was not imaged. A `MapError` is
        raised if no channel has a beam.
        """
        if self.beams_table is None:
            return [self._find(partial(self._find_beam, 0))[0][0]] * len(self)
        beams, problem = [None] * len(self), None
        for index in range(len(self)):
            try:
                beams[index], _ = self._find_beam(index)
            except MapError as error:
                problem = f'{self.name}: {error}'
        if all(beam is None for beam in beams):
            raise MapError(problem)
        return beams

    @cached_property
    def beam_fwhm_pix(self) -> np.ndarray:
        """
        The geometric means of the axes of the beams in pixels, one value
        per channel; NaN for a channel without a beam.

        A `MapError` is raised if no channel has a beam.
        """
        return np.array([np.nan if beam is None else np.sqrt(
            (beam.major * beam.minor / self.pixel_scale**2).to_value(u.one))
            for beam in self.beams])

    @property
    def spectral_name(self) -> str:
        """
        The quantity on the spectral axis: ``'velocity'``,
        ``'frequency'``, ``'wavelength'``, or ``'spectral_value'``.
        """
        for name, unit in (('velocity', u.m / u.s), ('frequency', u.Hz),
                           ('wavelength', u.m)):
            if self.spectral_axis.unit.is_equivalent(unit):
                return name
        return 'spectral_value'

    @cached_property
    def frequencies(self) -> u.Quantity | None:
        """
        The frequencies of the channels, or `None` where the spectral
        axis has velocities and the rest frequency is unknown.
        """
        rest = self.settings['frequency']
        if rest is None and not self.spectral_axis.unit.is_equivalent(
                u.Hz, u.spectral()):
            rest = rest_frequency(self.header)
        return to_frequency(self.spectral_axis, self.spectral_type, rest)

    def _find(self, *finders):
        """
        Call functions, and add the name of the cube to their errors.
        """
        try:
            return find_all(*finders)
        except MapError as error:
            msg = f'{self.name}: {error}'
            raise MapError(msg) from None

    def _find_beam(self, index):
        """
        Find the beam of a channel, and its area.
        """
        header, table = self.header, self.beams_table
        if table is None:
            if 'beam' in self._known:
                return self._known['beam']
        else:
            # the table is more accurate than a common beam in the header
            header = header.copy()
            for key in ('BMAJ', 'BMIN', 'BPA'):
                header.remove(key, ignore_missing=True)
            table = table[index:index + 1]
        found = find_beam(header, pixel_scale=self.pixel_scale,
                          shape=self.shape[1:], beam=self.settings['beam'],
                          survey=self.settings['survey'], beams_table=table)
        if table is None:
            self._known['beam'] = found
        return found

    @cached_property
    def _known(self):
        return {}


def read_cube(source: FilePath | HDU | fits.HDUList | tuple | SpectralCube
                  | MapCube, *, ext: int | str | tuple | None = None,
              unit: str | u.UnitBase | None = None,
              beam: Beam | u.Quantity | None = None,
              survey: str | int | None = None,
              frequency: u.Quantity | None = None,
              fill_value: float | Sequence[float] | np.ndarray | Literal[False]
                  | None = None) -> MapCube:
    """
    Read a cube.

    Only the header is read; the values stay in the file until a channel
    is requested.

    Parameters
    ----------
    source : str, path-like, HDU, `~astropy.io.fits.HDUList`, tuple, \
            `~spectral_cube.SpectralCube`, or `MapCube`
        The FITS file, an opened one, a tuple of a 3D array and its
        `~astropy.wcs.WCS` or header, or a cube of spectral-cube. A
        `MapCube` is returned unchanged.

    ext : int, str or tuple, optional
        The extension of the file; see `read_map`.

    unit : str or `~astropy.units.UnitBase`, optional
        The unit of the values. If `None`, it is taken from ``BUNIT``.

    beam : `~radio_beam.Beam` or `~astropy.units.Quantity`, optional
        The beam of all channels, or the full width at half maximum of a
        round one. If `None`, it is taken from CASA's table of beams, one
        for each channel, or from the header as by `read_map`.

    survey : str or int, optional
        The survey that the cube belongs to; see `read_map`.

    frequency : `~astropy.units.Quantity`, optional
        The rest frequency (or wavelength) of the line, needed to convert
        brightness temperatures on a velocity axis to Jy. If `None`, it
        is taken from ``RESTFRQ``.

    fill_value : float, sequence of float, `None`, or `False`, optional
        The values that mark missing data, in the unit of the file. If
        `None`, they are recognized in each channel when it is read; see
        `read_map`. With `False`, all finite values are data.

    Returns
    -------
    cube : `MapCube`
        The cube.

    Raises
    ------
    MapError
        If there is no cube, or if its sky or spectral coordinates are
        missing or wrong. The unit and the beam are checked only when a
        channel is requested in Jy/pixel.

    TypeError
        If an argument has a wrong type.

    Notes
    -----
    An extension MASK, with the channels of the cube or with one plane for
    all of them, masks the pixels in which it is not 0, by the rules of
    `read_map`. All of its planes are read once, one at a time. Errors in
    other extensions are not read.

    Axes of length 1 are dropped. The spectral axis may have any type of
    the FITS standard (``FREQ``, ``VRAD``, ``VOPT``, ``WAVE``) or of
    AIPS, such as ``VELO-LSR``. A plane of an uncompressed FITS file is
    memory-mapped; the tiles of a compressed image are decompressed when
    they are needed, and a file that is compressed as a whole is held in
    memory.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.io import fits
    >>> from hyperphotutils.maps import read_cube
    >>> header = fits.Header({
    ...     'CTYPE1': 'RA---TAN', 'CTYPE2': 'DEC--TAN', 'CTYPE3': 'VRAD',
    ...     'CRVAL1': 83.8, 'CRVAL2': -5.4, 'CRVAL3': 1000.0,
    ...     'CRPIX1': 25.5, 'CRPIX2': 25.5, 'CRPIX3': 1.0,
    ...     'CDELT1': -0.001, 'CDELT2': 0.001, 'CDELT3': 500.0,
    ...     'CUNIT3': 'm/s', 'BUNIT': 'Jy/beam', 'BMAJ': 0.005})
    >>> cube = read_cube(fits.PrimaryHDU(np.ones((3, 50, 50)), header))
    >>> print(cube.shape, cube.spectral_axis)
    (3, 50, 50) [1000. 1500. 2000.] m / s
    >>> image = cube.channel(1)
    >>> print(f'{image.data[0, 0]:.4f} {image.unit}')
    0.0353 Jy / pix
    """
    if isinstance(source, MapCube):
        return source
    settings = {
        'unit': None if unit is None else parse_unit(unit),
        'beam': beam,
        'survey': None if survey is None else get_survey(survey),
        'frequency': as_frequency(frequency),
        'fill_value': as_fill_value(fill_value),
    }
    name = ('the array' if isinstance(source, tuple)
            else input_name(source))
    try:
        if isinstance(source, tuple):
            if len(source) != 2 or not isinstance(source[1],
                                                  WCS | fits.Header):
                msg = ('source must be a file, an HDU, a tuple (array, WCS) '
                       'or a SpectralCube: got a tuple of '
                       + ', '.join(type(item).__name__ for item in source))
                raise TypeError(msg)
            data, header = source
            header = (header.copy() if isinstance(header, fits.Header)
                      else header.to_header())
            if isinstance(data, u.Quantity):
                header['BUNIT'] = data.unit.to_string()
                data = data.value
            if isinstance(data, np.ma.MaskedArray):
                data = data.astype(float, copy=False).filled(np.nan)
            data = np.asanyarray(data)
            layout = _find_layout(header, data.shape)
            planes = ArrayPlanes(data.reshape(layout['shape']))
            return MapCube(planes=planes, name=name, settings=settings,
                           header=header, filename=None, extension='',
                           **layout)
        if hasattr(source, 'filled_data') and hasattr(source, 'spectral_axis'):
            # make a cube from a cube of spectral-cube
            header = source.header.copy()
            layout = _find_layout(header, source.shape)
            # attributes set in spectral-cube take precedence over the header
            layout['spectral_axis'] = u.Quantity(source.spectral_axis)
            planes = SpectralCubePlanes(source)
            table = None
            if settings['beam'] is None and hasattr(source, 'beams'):
                table = planes.beams_table()
            return MapCube(planes=planes, name=name, settings=settings,
                           header=header, filename=None,
                           extension='', beams_table=table, **layout)
        with find_image(source, ext=ext, masks=True) as (hdu, about):
            name = about['filename'] or name
            layout = _find_layout(about['header'], hdu.shape)
            path = name if isinstance(source, str | PathLike) else None
            planes = _open_planes(hdu, layout['shape'], path,
                                  about['extension'])
            masks, unused = _open_masks(about.pop('masks'), hdu.shape,
                                        layout['shape'], path)
            cube = MapCube(planes=planes, name=name, settings=settings,
                           masks=masks,
                           unused_masks=' and '.join(unused) or None,
                           **layout,
                           **_take_beams(about, layout['shape'][0], beam))
        warn_unused(cube, unused.values(), stacklevel=3)
        if masks:
            _check_masked(cube)
        return cube
    except (MapError, fits.VerifyError) as error:
        msg = f'{name}: {error}'
        raise MapError(msg) from None


def _read_plane(cube, index):
    """
    Return a copy of the values of a channel, and its mask or `None`.
    """
    values = cube.planes(index)
    masks = [mask(index) for mask in cube.masks.values()]
    with np.errstate(all='ignore'):
        values = np.array(values, dtype=float)
    return values, np.logical_or.reduce(masks) if masks else None


def _open_planes(hdu, shape, path, extension):
    """
    Return the function that reads the planes of an extension.
    """
    return planes_of_hdu(hdu, shape, path=path,
                         number=int(extension.split()[0]))


def _open_masks(found, stored, shape, path):
    """
    Return the functions that read the masks of a cube, and what is wrong with
    others, both by extension.

    The cube has the shape ``stored`` in the file. All planes of the masks
    are read once, one at a time, because bit flags are recognized by their
    values.
    """
    masks, problems = {}, {}
    lengths = {tuple(n for n in stored if n > 1): shape,
               tuple(n for n in shape[1:] if n > 1): (1, *shape[1:])}
    for extension, hdu in found.items():
        if isinstance(hdu, str):
            problems[extension] = f'extension {extension} {hdu}'
            continue
        mask_shape = lengths.get(tuple(n for n in hdu.shape if n > 1))
        if mask_shape is None:
            problem = 'has other pixels than the cube and its channels'
        else:
            planes = _open_planes(hdu, mask_shape, path, extension)
            if is_mask(hdu, map(planes, range(mask_shape[0]))):
                masks[extension] = MaskPlanes(planes, mask_shape[0])
                continue
            problem = BIT_FLAGS
        problems[extension] = (f'extension {extension} {problem}: set the '
                               'bad pixels of the cube to NaN')
    return masks, problems


def _check_masked(cube):
    """
    Check that masks do not take most values of a cube, as those do that are
    not 0 at good pixels.
    """
    # a single channel is read, unless it shows the problem
    if _masked_fractions(cube, [len(cube) // 2], default=1.0) <= 0.5:
        return
    lost = _masked_fractions(cube, range(len(cube)))
    if lost == 1.0:
        msg = (f'extension {cube.extension} has no value that extension '
               f'{cube.mask_extension} does not mask: it must be 0 at good '
               'pixels')
        raise MapError(msg)
    if lost > 0.5:
        msg = (f'extension {cube.mask_extension} of '
               f'{cube.filename or "the FITS file"} masks '
               f'{100.0 * lost:.0f} % of the values of the cube: '
               f'{INVERTED}')
        warnings.warn(msg, AstropyUserWarning, stacklevel=3)


def _masked_fractions(cube, channels, default=0.0):
    """
    Return the mean fraction of the values that masks take, in those of some
    channels with values; ``default`` if there are none.
    """
    lost = []
    for index in channels:
        values, mask = _read_plane(cube, index)
        if np.isfinite(values).any():
            lost.append(blank_masked(values, mask)[1])
    return np.mean(lost) if lost else default


def _find_layout(header, shape):
    """
    Find the sky and the spectral axes of a cube.

    The axes of ``shape`` are in NumPy's order, the reverse of FITS.
    """
    if len(shape) < 3:
        axes = ' x '.join(str(n) for n in shape[::-1])
        msg = (f'a map of {axes} pixels, not a cube: NAXIS = {len(shape)}; '
               'read it with read_map')
        raise MapError(msg)
    lon, lat = find_sky_axes(header)
    # the number of the spectral axis, counted from 0
    spectral = find_spectral_axis(header)
    if spectral is None:
        found = ', '.join(f'{key} = {header[key]!r}'
                          for key in header['CTYPE*'])
        msg = ("no spectral axis in the header (CTYPE3 such as 'VRAD', "
               f"'VELO-LSR', 'VOPT' or 'FREQ'): found {found}; correct the "
               'header, and pass (array, header)')
        raise MapError(msg)
    lengths = dict(enumerate(shape[::-1]))
    for axis, length in lengths.items():
        if axis not in {lon, lat, spectral} and length > 1:
            ctype = str(header.get(f'CTYPE{axis + 1}', '')).strip()
            msg = (f'axis {axis + 1} ({ctype or "no CTYPE"}) has {length} '
                   'planes beside the spectral axis: take one of them and '
                   'give (array, header)')
            raise MapError(msg)
    if max(lon, lat, spectral) >= len(shape):
        msg = (f'the sky and spectral coordinates are on axes {lon + 1}, '
               f'{lat + 1} and {spectral + 1}, but the data have '
               f'{len(shape)} axes')
        raise MapError(msg)
    if spectral < max(lon, lat) and lengths[spectral] > 1:
        msg = (f'the spectral axis is number {spectral + 1}, before the sky: '
               'a cube is read plane by plane; reorder it, such as with '
               'spectral_cube.SpectralCube.read(...).write(...)')
        raise MapError(msg)
    sky = tuple(lengths[axis] for axis in sorted([lon, lat], reverse=True))
    celestial_wcs(header, sky)  # raises if it is invalid
    values, kind = spectral_values(header, spectral, lengths[spectral])
    return {
        'shape': (lengths[spectral], *sky),
        'spectral_axis': values,
        'spectral_type': kind,
    }


def _take_beams(about, n_channels, beam):
    """
    Select the rows of CASA's table of beams that belong to the channels.
    """
    table = about['beams_table']
    if beam is not None or table is None:
        return {**about, 'beams_table': None}
    beam_columns(table)  # raises if they are not angles
    names = {name.upper(): name for name in table.colnames}
    if len(table) != n_channels and 'CHAN' in names:
        # one row per channel and polarization: use the first polarization
        _, first = np.unique(table[names['CHAN']], return_index=True)
        table = table[first]
    if len(table) != n_channels:
        msg = (f'the BEAMS table has {len(about["beams_table"])} rows for '
               f'{n_channels} channels: give beam=')
        raise MapError(msg)
    return {**about, 'beams_table': table}
