# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Images in files of which only the parts in use are in memory.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

if TYPE_CHECKING:
    from hyperphotutils.utils.typing import FilePath

__all__ = ['StoredImage', 'count_true', 'row_blocks']

# Errors of file systems that do not allocate space
_NO_ALLOCATION = frozenset({errno.EINVAL, errno.EOPNOTSUPP})

# Errors of file systems without room for a file
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# Pixels that are processed at once
_BLOCK = 1 << 22


class StoredImage:
    """
    A 2D image in a file.

    Each access maps the file, copies the part that is asked for, and
    closes the file again, so that the memory of a process does not grow
    with the parts it has read. Other processes receive the name of the
    file instead of the pixels.

    Parameters
    ----------
    path : str or path-like
        The file, which other processes can open under the same name.

    shape : tuple of 2 ints
        The ``(ny, nx)`` of the image.

    dtype : dtype
        The type of the pixels.

    offset : int, optional
        The byte in the file at which the pixels begin.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from hyperphotutils.utils import StoredImage
    >>> with TemporaryDirectory() as folder:
    ...     image = StoredImage.create(Path(folder, 'image.dat'), (4, 5))
    ...     image[1:3, 2:4] = 7.0
    ...     print(image[1:2])
    [[0. 0. 7. 7. 0.]]
    """

    ndim = 2

    def __init__(self, path: FilePath, shape: tuple[int, int],
                 dtype: DTypeLike, offset: int = 0) -> None:
        self.path = Path(path).absolute()
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.offset = offset

    def __repr__(self) -> str:
        return (f'<{type(self).__name__}({str(self.path)!r}, '
                f'shape={self.shape}, dtype={self.dtype})>')

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.array(self.map('r')[index])

    def __setitem__(self, index: Any, values: ArrayLike) -> None:
        self.map('r+')[index] = values

    @classmethod
    def create(cls, path: FilePath, shape: tuple[int, int],
               dtype: DTypeLike = float) -> StoredImage:
        """
        Create a file with an image of zeros.

        Parameters
        ----------
        path, shape, dtype
            See the class.

        Returns
        -------
        image : `StoredImage`
            The image.

        Raises
        ------
        OSError
            If the file cannot be made, or the disk has no room for it.
        """
        image = cls(path, shape, dtype)
        size = int(np.prod(shape)) * image.dtype.itemsize
        try:
            with image.path.open('wb') as file:
                file.truncate(size)
                # On a full disk, a write to a mapped file would end the
                # process (SIGBUS).
                if size and hasattr(os, 'posix_fallocate'):
                    os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in _NO_ALLOCATION:
                raise OSError(error.errno, explain_full(
                    error, image.path.parent, size), str(image.path)
                    ) from error
        return image

    @classmethod
    def find(cls, values: np.ndarray) -> StoredImage | None:
        """
        Return the file of an image that is a `~numpy.memmap`.

        Parameters
        ----------
        values : 2D `~numpy.ndarray`
            The image.

        Returns
        -------
        image : `StoredImage` or `None`
            The image; `None` if it is not that of a file.
        """
        root = values
        while isinstance(root.base, np.ndarray):
            root = root.base
        if (not isinstance(root, np.memmap) or root.filename is None
                or root.mode == 'c' or not values.flags.c_contiguous):
            return None
        start = (values.__array_interface__['data'][0]
                 - root.__array_interface__['data'][0])
        return cls(root.filename, values.shape, values.dtype,
                   root.offset + start)

    @classmethod
    def store(cls, values: np.ndarray, path: FilePath) -> StoredImage:
        """
        Copy an image into a file, unless it is that of a file already.

        Parameters
        ----------
        values : 2D `~numpy.ndarray`
            The image. That of a `~numpy.memmap` is not copied.

        path : str or path-like
            The new file.

        Returns
        -------
        image : `StoredImage`
            The image.
        """
        image = cls.find(values)
        if image is not None:
            return image
        image = cls.create(path, values.shape, values.dtype)
        for rows in row_blocks(values.shape):
            image[rows] = values[rows]
        return image

    def is_complete(self) -> bool:
        """
        Return whether there is a file that is long enough for the image.

        Returns
        -------
        complete : bool
            Whether there is.
        """
        size = int(np.prod(self.shape)) * self.dtype.itemsize
        return (self.path.is_file()
                and self.path.stat().st_size >= self.offset + size)

    def map(self, mode: Literal['r', 'r+'] = 'r') -> np.memmap:
        """
        Map the whole file into memory.

        Parameters
        ----------
        mode : {'r', 'r+'}, optional
            The mode of `~numpy.memmap`.

        Returns
        -------
        values : `~numpy.memmap`
            The image.
        """
        return np.memmap(self.path, self.dtype, mode, self.offset,
                         self.shape)


def row_blocks(shape: tuple[int, int]) -> list[slice]:
    """
    Divide a large image into blocks of rows; a small one is one block.

    Parameters
    ----------
    shape : tuple of 2 ints
        The ``(ny, nx)`` of the image.

    Returns
    -------
    rows : list of slice
        The rows of each block.

    Examples
    --------
    >>> from hyperphotutils.utils import row_blocks
    >>> row_blocks((3000, 2000))
    [slice(0, 2097, None), slice(2097, 3000, None)]
    """
    ny, nx = shape
    step = max(1, _BLOCK // max(nx, 1))
    return [slice(first, min(first + step, ny))
            for first in range(0, ny, step)]


def explain_full(error, folder, size=None):
    """
    Return the reason of an `OSError`; if ``folder`` has no room for a
    temporary file of ``size`` bytes, with the remedy.
    """
    if error.errno not in FULL:
        return error.strerror
    room = '' if size is None else f' for {size / 1e6:.1f} MB'
    other = 'choose another folder'
    if Path(folder).is_relative_to(tempfile.gettempdir()):
        other = 'set TMPDIR to another folder'
    return (f'{error.strerror}: {folder} has no room{room} of temporary '
            f'files; make room there, or {other}')


def count_true(mask: NDArray[np.bool_]) -> int:
    """
    Count the pixels of a mask, a few rows at a time if it is in a file.

    Parameters
    ----------
    mask : 2D bool `~numpy.ndarray`
        The mask, which may be a `~numpy.memmap`.

    Returns
    -------
    number : int
        The number of pixels that are `True`.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.utils import count_true
    >>> count_true(np.eye(3, dtype=bool))
    3
    """
    stored = StoredImage.find(mask) or mask
    return sum(int(np.count_nonzero(stored[rows]))
               for rows in row_blocks(mask.shape))
