# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Writing of cubes plane by plane, in files that appear only when complete.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray

from hyperphotutils.utils.stored import FULL

if TYPE_CHECKING:
    from astropy.units import Quantity

    from hyperphotutils.maps.cubes import MapCube
    from hyperphotutils.utils.typing import FilePath

__all__ = ['CubeWriter']

# Bytes of a block (FITS standard 4.0, section 3.1)
_BLOCK = 2880

# Keywords that describe the storage of the input values.
_STORAGE = ('BSCALE', 'BZERO', 'BLANK', 'DATAMIN', 'DATAMAX', 'CHECKSUM',
            'DATASUM', 'EXTNAME', 'EXTVER', 'EXTLEVEL', 'INHERIT')


class CubeWriter:
    """
    Class to write a cube plane by plane.

    The planes may be written in any order. They are stored in a file with
    the suffix ``.part``, which is renamed when all of them are written.
    At most one plane is in memory.

    Parameters
    ----------
    path : str or path-like
        The file to write.

    cube : `MapCube`
        The cube whose shape, header, and type the file gets. Axes of
        length 1 are kept as in its file, and so is the table of beams if
        it has one.

    unit : str, optional
        The ``BUNIT`` of the file, if it differs from that of the cube.

    history : sequence of str, optional
        Lines to add to the ``HISTORY`` of the header.

    overwrite : bool, optional
        Whether to replace an existing file.

    resume : bool, optional
        Whether to continue with the planes of an earlier writer of the
        same file that was not finished. An unfinished file is kept if
        `True`, and removed if `False`.

    Raises
    ------
    OSError
        If the file exists and ``overwrite`` is `False`, if it cannot be
        written, or if the disk is full. The space for all planes is
        allocated at the beginning.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from astropy.io import fits
    >>> from hyperphotutils.datasets import make_map_cube
    >>> from hyperphotutils.maps import CubeWriter, read_cube
    >>> cube = read_cube(make_map_cube((2, 32, 32), 0, seed=1).hdu)
    >>> with TemporaryDirectory() as folder:
    ...     with CubeWriter(f'{folder}/twice.fits', cube) as writer:
    ...         for i in range(len(cube)):
    ...             writer.write(i, 2.0 * cube.plane(i))
    ...     twice = fits.getdata(f'{folder}/twice.fits')
    >>> bool(np.allclose(twice[1], 2.0 * cube.plane(1), rtol=1e-6,
    ...                  equal_nan=True))
    True
    """

    def __init__(self, path: FilePath, cube: MapCube, *,
                 unit: str | None = None, history: Sequence[str] = (),
                 overwrite: bool = False, resume: bool = False) -> None:
        self.path = Path(os.path.expanduser(path))  # noqa: PTH111
        self.resume = resume
        self._part = self.path.with_name(self.path.name + '.part')
        self._shape = cube.shape
        self._stored = cube.dtype.newbyteorder('>')
        self._head = _make_header(cube, unit, history).tostring().encode(
            'ascii')
        self._tail = b''
        if cube.beams_table is not None:
            table = fits.table_to_hdu(cube.beams_table)
            table.name = 'BEAMS'
            buffer = BytesIO()
            fits.HDUList([fits.PrimaryHDU(), table]).writeto(buffer)
            self._tail = buffer.getvalue()[_BLOCK:]
        self._file = None
        if self.path.exists() and not overwrite:
            msg = 'exists already: use overwrite=True to replace it'
            raise FileExistsError(errno.EEXIST, msg, str(self.path))
        # Until all planes are written, one byte per plane after the end of
        # the data stores whether it is written.
        total = self._size + self._shape[0]
        flags = os.O_RDWR | os.O_CREAT | getattr(os, 'O_BINARY', 0)
        try:
            self._file = os.open(self._part, flags, 0o666)
            if (resume and os.fstat(self._file).st_size == total
                    and os.read(self._file, len(self._head)) == self._head):
                return
            os.ftruncate(self._file, 0)
            # a full disk is an error now rather than after hours of work
            if hasattr(os, 'posix_fallocate'):
                os.posix_fallocate(self._file, 0, total)
            else:
                os.ftruncate(self._file, total)
            _write_all(self._file, self._tail, self._size - len(self._tail))
            # written last, since it makes the file valid for continuation
            _write_all(self._file, self._head, 0)
        except OSError as error:
            self.resume = False  # there is nothing to continue
            self.close()
            raise self._explain(error) from None

    @property
    def written(self) -> NDArray[np.bool_]:
        """
        A boolean array with one value per channel: whether its plane is
        written.
        """
        os.lseek(self._file, self._size, os.SEEK_SET)
        marks = os.read(self._file, self._shape[0])
        return np.frombuffer(marks, dtype=np.uint8) > 0

    def write(self, index: int, plane: ArrayLike | Quantity) -> None:
        """
        Write a plane.

        Parameters
        ----------
        index : int
            The index of the channel.

        plane : 2D array_like or `~astropy.units.Quantity`
            The values in the unit of the file. The unit of a Quantity
            is ignored.

        Raises
        ------
        ValueError
            If the plane does not have the shape of the planes of the cube.

        OSError
            If the file cannot be written.
        """
        index = range(self._shape[0])[index]
        values = np.ascontiguousarray(plane, dtype=self._stored)
        if values.shape != self._shape[1:]:
            msg = (f'plane must have the shape {self._shape[1:]}: got '
                   f'{values.shape}')
            raise ValueError(msg)
        try:
            _write_all(self._file, values.tobytes(),
                       len(self._head) + index * values.nbytes)
            # written last, so that a marked plane is complete
            _write_all(self._file, b'\x01', self._size + index)
        except OSError as error:
            raise self._explain(error) from None

    def finish(self) -> None:
        """
        Rename the complete file to its final name.

        Raises
        ------
        ValueError
            If planes are missing.

        OSError
            If the file cannot be written.
        """
        missing = np.flatnonzero(~self.written)
        if missing.size > 0:
            msg = (f'{missing.size} of {self._shape[0]} planes are not '
                   f'written, the first is number {missing[0]}')
            raise ValueError(msg)
        # On the disk before the rename: after a crash, a file under the final
        # name is complete.
        try:
            os.ftruncate(self._file, self._size)
            os.fsync(self._file)
            os.close(self._file)
            self._file = None
            self._part.replace(self.path)
        except OSError as error:
            raise self._explain(error) from None

    def close(self) -> None:
        """
        Close the file; remove it if it is incomplete and not to be
        continued.
        """
        if self._file is None:
            return
        os.close(self._file)
        self._file = None
        if not self.resume:
            self._part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.close()

    @property
    def _size(self):
        """
        The size of the finished file in bytes.
        """
        n_bytes = int(np.prod(self._shape)) * self._stored.itemsize
        n_blocks = -(-n_bytes // _BLOCK)
        return len(self._head) + n_blocks * _BLOCK + len(self._tail)

    def _explain(self, error):
        reason = error.strerror or str(error)
        if error.errno in FULL:
            reason += f' (the file needs {self._size / 1e6:.1f} MB)'
        return OSError(error.errno, f'cannot be written: {reason}',
                       str(self.path))


def _make_header(cube, unit, history):
    header = cube.header.copy()
    header.strip()
    for key in _STORAGE:
        header.remove(key, ignore_missing=True, remove_all=True)
    # the shape of the cube in its file, with all axes
    stated = tuple(cube.header.get(f'NAXIS{i}', 0) for i in range(
        cube.header.get('NAXIS', 0), 0, -1))
    same = [n for n in stated if n != 1] == [n for n in cube.shape if n != 1]
    lengths = (stated if same and len(stated) >= 3 else cube.shape)[::-1]
    structure = [('SIMPLE', True, 'conforms to FITS standard'),
                 ('BITPIX', -8 * cube.dtype.itemsize, 'array data type'),
                 ('NAXIS', len(lengths), 'number of array dimensions'),
                 *((f'NAXIS{i}', n) for i, n in enumerate(lengths, 1))]
    if cube.beams_table is not None:
        structure.append(('EXTEND', True))
        header['CASAMBM'] = True
    for position, card in enumerate(structure):
        header.insert(position, card)
    if unit is not None:
        header['BUNIT'] = str(unit)
    for line in history:
        header.add_history(line)
    return header


def _write_all(file, data, position):
    """
    Write all bytes at a position, in as many calls as needed.
    """
    view = memoryview(data)
    os.lseek(file, position, os.SEEK_SET)
    while view:
        view = view[os.write(file, view):]
