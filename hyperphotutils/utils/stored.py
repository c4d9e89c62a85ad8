# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Images in files of which only the parts in use are in memory.
"""

from pathlib import Path

import numpy as np

__all__ = ['StoredImage']

# Bytes that are copied at once
_CHUNK = 1 << 24


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

    def __init__(self, path, shape, dtype, offset=0):
        self.path = Path(path).absolute()
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.offset = offset

    def __repr__(self):
        return (f'<{type(self).__name__}({str(self.path)!r}, '
                f'shape={self.shape}, dtype={self.dtype})>')

    def __getitem__(self, index):
        return np.array(self._map('r')[index])

    def __setitem__(self, index, values):
        self._map('r+')[index] = values

    @classmethod
    def create(cls, path, shape, dtype=float):
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
        """
        image = cls(path, shape, dtype)
        with image.path.open('wb') as file:
            file.truncate(int(np.prod(shape)) * image.dtype.itemsize)
        return image

    @classmethod
    def store(cls, values, path):
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
        root = values
        while isinstance(root.base, np.ndarray):
            root = root.base
        if (isinstance(root, np.memmap) and root.filename is not None
                and root.mode != 'c' and values.flags.c_contiguous):
            start = (values.__array_interface__['data'][0]
                     - root.__array_interface__['data'][0])
            return cls(root.filename, values.shape, values.dtype,
                       root.offset + start)
        image = cls.create(path, values.shape, values.dtype)
        step = max(1, _CHUNK // max(values[:1].nbytes, 1))
        for first in range(0, len(values), step):
            image[first:first + step] = values[first:first + step]
        return image

    def _map(self, mode):
        """
        Map the file into memory.
        """
        return np.memmap(self.path, self.dtype, mode, self.offset,
                         self.shape)
