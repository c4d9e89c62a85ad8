# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The planes of a cube in a file, in an array, or in a cube of another
package.

All classes here are callables that take the index of a plane, and have
the floating-point type of the values as ``dtype``.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from hyperphotutils.maps.cards import read_number
from hyperphotutils.maps.errors import MapError
from hyperphotutils.maps.images import (
    ignore_repaired,
    load_values,
    refuse_damage,
)

__all__ = [
    'ArrayPlanes',
    'FilePlanes',
    'MaskPlanes',
    'SpectralCubePlanes',
    'TiledPlanes',
    'planes_of_hdu',
]


@dataclass(frozen=True)
class FilePlanes:
    """
    Planes of an image of the shape ``(n, ny, nx)`` in an uncompressed FITS
    file, each memory-mapped when it is read: no file stays open between two
    calls.

    The values of type ``stored`` begin ``offset`` bytes into the file; they
    are multiplied by ``scale`` before ``zero`` is added, and ``blank`` marks
    those that are missing.
    """

    path: str
    offset: int
    stored: str
    shape: tuple
    scale: float = 1.0
    zero: float = 0.0
    blank: int | None = None

    @property
    def dtype(self):
        """
        The floating-point type of the values.
        """
        return _float_type(np.dtype(self.stored))

    def __call__(self, index):
        """
        Return the values of a plane.
        """
        n_bytes = np.dtype(self.stored).itemsize * int(
            np.prod(self.shape[1:]))
        # BSCALE, BZERO, and BLANK: FITS standard 4.0, section 4.4.2.5
        values = np.memmap(self.path, dtype=self.stored, mode='r',
                           offset=self.offset + index * n_bytes,
                           shape=self.shape[1:])
        if (self.scale, self.zero, self.blank) == (1.0, 0.0, None):
            return values
        with np.errstate(all='ignore'):
            scaled = values.astype(float) * self.scale + self.zero
        if self.blank is not None:
            scaled[values == self.blank] = np.nan
        return scaled


@dataclass(frozen=True)
class TiledPlanes:
    """
    Planes of a tile-compressed image: the extension ``number`` of a file.

    ``lead`` has the lengths of the axes other than the two of a plane.
    """

    path: str
    number: int
    lead: tuple
    dtype: np.dtype

    def __call__(self, index):
        """
        Return the values of a plane.
        """
        tiles = np.unravel_index(index, self.lead)
        with (ignore_repaired(), fits.open(self.path) as hdus,
              refuse_damage('its tiles cannot be decompressed'),
              np.errstate(all='ignore')):
            return hdus[self.number].section[tiles]


@dataclass(frozen=True, eq=False)
class ArrayPlanes:
    """
    Planes of a 3D array in memory.
    """

    array: np.ndarray

    def __post_init__(self):
        if self.array.dtype.kind not in 'fiu':
            msg = (f'the values are of type {self.array.dtype}: a cube has '
                   'real numbers; give their real part or their modulus')
            raise MapError(msg)

    @property
    def dtype(self):
        """
        The floating-point type of the values.
        """
        return _float_type(self.array.dtype)

    def __call__(self, index):
        """
        Return the values of a plane.
        """
        return self.array[index]


@dataclass(frozen=True, eq=False)
class SpectralCubePlanes:
    """
    Planes of a cube of spectral-cube, NaN where it is masked.
    """

    cube: object

    @property
    def dtype(self):
        """
        The floating-point type of the values.
        """
        return _float_type(self.cube.unmasked_data[:1, :1, :1].dtype)

    def __call__(self, index):
        """
        Return the values of a plane.
        """
        return np.asarray(self.cube.filled_data[index])

    def beams_table(self):
        """
        Return the beams of the channels as a table in CASA's format.
        """
        beams = self.cube.beams
        table = Table({
            'BMAJ': [beam.major.to_value('arcsec') for beam in beams],
            'BMIN': [beam.minor.to_value('arcsec') for beam in beams],
            'BPA': [beam.pa.to_value('deg') for beam in beams],
            'CHAN': np.arange(len(beams), dtype='i4'),
            'POL': np.zeros(len(beams), dtype='i4'),
        })
        for name, unit in (('BMAJ', 'arcsec'), ('BMIN', 'arcsec'),
                           ('BPA', 'deg')):
            table[name].unit = unit
        return table


@dataclass(frozen=True, eq=False)
class MaskPlanes:
    """
    Planes of the mask of a cube, `True` at bad pixels; ``planes`` has the
    stored values of ``n_planes`` planes, of which a single one is for all
    channels.
    """

    planes: object
    n_planes: int

    def __call__(self, index):
        """
        Return the mask of a plane.
        """
        return self.planes(index if self.n_planes > 1 else 0) != 0


def planes_of_hdu(hdu, shape, *, path, number):
    """
    Return the most efficient function that returns the plane of an image
    with a given index.

    The shape is ``(n, ny, nx)``. The HDU ``number`` of the file ``path`` is
    opened again for each plane, unless it is `None`: the user, who opened
    that HDU, may have modified it.
    """
    if path is None:
        return ArrayPlanes(hdu.data.reshape(shape))
    # absolute: other processes may have other working folders
    path = str(Path(os.path.expanduser(path)).resolve())  # noqa: PTH111
    place = hdu.fileinfo()
    if place['file'].compression is not None:
        return ArrayPlanes(load_values(hdu).reshape(shape))
    # only bytes are unsigned (FITS standard 4.0, table 8)
    bitpix = hdu.header['BITPIX']
    kind = 'u' if bitpix == 8 else 'i' if bitpix > 0 else 'f'
    stored = np.dtype(f'>{kind}{abs(bitpix) // 8}')
    if isinstance(hdu, fits.CompImageHDU):
        return TiledPlanes(path, number, hdu.shape[:-2], _float_type(stored))
    n_bytes = stored.itemsize * int(np.prod(shape))
    if Path(path).stat().st_size < place['datLoc'] + n_bytes:
        msg = ('is truncated or damaged: the file ends before the cube '
               'does; make or fetch it again')
        raise MapError(msg)
    return FilePlanes(path, place['datLoc'], stored.str, shape,
                      scale=read_number(hdu.header, 'BSCALE', 1.0),
                      zero=read_number(hdu.header, 'BZERO', 0.0),
                      blank=read_number(hdu.header, 'BLANK')
                      if stored.kind in 'iu' else None)


def _float_type(dtype):
    """
    Return the floating-point type that can hold values of a type.
    """
    # a float32 has 24 bits for 16-bit integers, but not for 32-bit ones
    short = dtype.itemsize <= (4 if dtype.kind == 'f' else 2)
    return np.dtype('f4' if short else 'f8')
