# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The images of a map on its page, of which a few rows are in memory at a time.
"""

import numpy as np

from hyperphotutils.utils.stored import StoredImage, row_blocks
from hyperphotutils.visualization.maps import complete_background

__all__ = []  # shared by the modules of the pipeline only

# The reach of the smoothing in `complete_background`, in beam FWHM
_REACH = 6.5


class RowImage:
    """
    An image that is made in blocks of rows when pixels of it are needed.

    It is read like an array: by two slices, or by arrays of rows and columns.
    ``make`` is a function of a slice of rows.
    """

    def __init__(self, shape, make):
        self.shape = shape
        self._make = make
        self._last = None, None

    def __getitem__(self, index):
        ny, nx = self.shape
        blocks = row_blocks(self.shape)
        if len(blocks) == 1:
            return self._block(blocks[0])[index]
        if isinstance(index[0], slice):
            index = np.ix_(np.arange(ny)[index[0]], np.arange(nx)[index[1]])
        y, x = np.broadcast_arrays(*index)
        pixels = np.empty(y.shape)
        for rows in blocks:
            inside = (y >= rows.start) & (y < rows.stop)
            if inside.any():
                pixels[inside] = self._block(rows)[y[inside] - rows.start,
                                                   x[inside]]
        return pixels

    def _block(self, rows):
        if self._last[0] != rows:
            # without the old block while the new one is made
            self._last = None, None
            self._last = rows, self._make(rows)
        return self._last[1]


def page_images(result, factor):
    """
    Return data, model, and residual of a map, multiplied by a factor; the
    residual also where no background was fitted.
    """
    image, meta = result.image, result.image.meta
    ny, nx = image.shape
    beam = tuple(meta[f'beam_{name}'] for name in ('major_pix', 'minor_pix',
                                                  'theta'))
    margin = int(np.ceil(_REACH * beam[0]))

    def read(name, rows):
        values = (image.data if name == 'data'
                  else getattr(result, name).to_value(image.unit))
        part = np.array((StoredImage.find(values) or values)[rows])
        if name == 'data':
            part[image.mask[rows]] = np.nan
        return part

    def make_residual(rows):
        first = max(rows.start - margin, 0)
        around = slice(first, min(rows.stop + margin, ny))
        images = {name: read(name, around)
                  for name in ('background', 'model', 'residual')}
        complete_background(images | {'map': read('data', around)}, beam)
        inner = slice(rows.start - first, rows.stop - first)
        residual = images['residual'][inner]
        residual[image.mask[rows]] = np.nan
        return factor * residual

    return {
        'data': RowImage((ny, nx), lambda rows: factor * read('data', rows)),
        'model': RowImage((ny, nx), lambda rows: factor * read('model',
                                                               rows)),
        'residual': RowImage((ny, nx), make_residual)}
