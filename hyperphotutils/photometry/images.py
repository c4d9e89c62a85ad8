# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Images of what was measured on a map.
"""

import numpy as np

from hyperphotutils.aperture.local import make_local_apertures
from hyperphotutils.photometry.measurement import add_table

__all__ = ['SourceImages']

_SHAPE = ['x_fit', 'y_fit', 'amplitude_fit', 'fwhm_major_fit',
          'fwhm_minor_fit', 'theta_fit']
# Sources whose backgrounds are rendered at once.
_CHUNK = 1000


class SourceImages:
    """
    The images of a measured map, rendered when they are asked for: only the
    map itself, its mask, and the sources are kept.

    ``radius`` (pixels) and ``order`` are those of the background around each
    source in ``has_background``; ``background_fit`` is the background that was
    subtracted before the fits, if it was not a part of them.
    """

    def __init__(self, image, table=None, radius=None, order=None,
                 has_background=None, background_fit=None):
        self._values = image.values
        self._unit = image.unit
        self._profile = image.profile
        self.wcs = image.wcs
        # Most masks are those of the missing values, and need not be kept.
        missing = ~np.isfinite(image.values)
        self.mask = (None if np.array_equal(missing, image.mask)
                     else image.mask)
        self._sources = None if table is None else table[_SHAPE].copy()
        self.radius = radius
        self.order = order
        self.has_background = has_background
        self._background_fit = background_fit

    @property
    def data(self):
        """
        The map.
        """
        return self._with_unit(self._values)

    def model(self):
        """
        Return the image of all sources, without background.
        """
        image = np.zeros(self._values.shape)
        if self._sources is not None:
            add_table(image, self._sources, self._profile)
        return self._with_unit(image)

    def background(self):
        """
        Return the image of the backgrounds, NaN far from all sources.
        """
        if self._sources is None:
            return self._with_unit(np.full(self._values.shape, np.nan))
        if self._background_fit is not None:
            return self._with_unit(
                self._background_fit.make_background_image())
        model = self.model()
        residual = self._values - getattr(model, 'value', model)
        mask = (~np.isfinite(self._values) if self.mask is None
                else self.mask)
        x, y = (np.asarray(self._sources[name])[self.has_background]
                for name in ('x_fit', 'y_fit'))
        total, norm = np.zeros(residual.shape), np.zeros(residual.shape)
        for begin in range(0, len(x), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            # The background does not depend on the size of the aperture.
            axes = np.ones(len(x[part]))
            make_local_apertures(
                x[part], y[part], axes, axes, 0.0 * axes, mask=mask,
                radius=self.radius, order=self.order,
            ).add_background(residual, self.radius, total, norm)
        known = norm > 0.0
        np.divide(total, norm, out=total, where=known)
        total[~known] = np.nan
        return self._with_unit(total)

    def draw(self, kinds):
        """
        Return a dictionary of images, of which ``'residual'`` is the map minus
        ``'model'`` and minus ``'background'`` where this is known.
        """
        parts = ('model', 'background') if 'residual' in kinds else kinds
        drawn = {kind: getattr(self, kind)() for kind in parts}
        if 'residual' in kinds:
            drawn['residual'] = (self.data - drawn['model']
                                 - np.nan_to_num(drawn['background']))
        return {kind: drawn[kind] for kind in kinds}

    def _with_unit(self, image):
        """
        Attach the unit of the map.
        """
        return image if self._unit is None else image << self._unit
