# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fits of all galaxies of an image.
"""

import numpy as np
from astropy.table import QTable, vstack
from scipy.spatial import KDTree

from hyperphotutils.galaxy import SersicFitter
from hyperphotutils.utils import FLAGS

__all__ = ['ADDED_COLUMNS', 'PRIORS', 'SIZES', 'OrderedFits', 'find_levels']

ADDED_COLUMNS = ('stamp_size', 'star_index', 'kron_flux', 'snr_detection',
                 'mag_fit', 'mag_err')
"""
The columns that the table of an image has beside those of
`~hyperphotutils.galaxy.SersicFitter`, if they are known.
"""

SIZES = (32, 48, 64, 96, 128, 192)
"""
The sides of stamps for fits: galaxies of about one size share a side.
"""

PRIORS = {'ln_n': (0.4, 0.7), 'elongation': (0.0, 1.0)}
"""
Weak priors that keep the index and the axis ratio of a faint galaxy, which are
hardly known, from their bounds: about the distribution of n in CANDELS (2012,
ApJS 203, 24), and few galaxies of q = 0.05.
"""

# The bounds of the radii of fits: in pixels, and in sides of stamps. The sky
# and a galaxy cannot be told apart on less than 8 radii.
_SMALLEST_RADIUS, _RADIUS_PART = 0.03, 0.125
# The largest number of neighbors that are fitted with a galaxy, and that on
# stamps above a size, where each takes long and most are far; others are
# masked.
_MAX_NEIGHBORS, _MAX_NEIGHBORS_LARGE, _LARGE = 4, 3, 96
# A galaxy whose radius is more than this part of the largest one is fitted
# again on a larger stamp.
_NEAR_LARGEST = 0.99
# A galaxy whose mean surface brightness within its radius is less than this
# number of rms could not have been detected. The fit has followed what is left
# of the sky, which is larger on a larger stamp.
_FAINTEST = 1.0
# A galaxy waits for neighbors with more than this number of times its flux.
_DOMINANT = 5.0


class OrderedFits:
    """
    Fits of the galaxies of an image, from the bright to the faint ones, on
    stamps of several sizes.

    The wings of a bright galaxy reach far, and a fit to a faint galaxy
    among them would follow the wings. It therefore waits until the bright
    one is fitted and subtracted (Barden et al. 2012, MNRAS 422, 449).

    Large stamps take long, and small ones hide the sky around a large
    galaxy. A galaxy whose radius ends at its bound is fitted again on the
    next larger stamp, until it is below the bound.

    Parameters
    ----------
    image : object
        The image, with its ``sky``, ``mask``, ``error``, ``psf``, ``wcs``,
        ``sources``, ``galaxies``, and ``fit_sizes``.

    max_radius : float or `None`
        The largest radius in pixels, by default an eighth of the stamp.

    grows : bool
        Whether stamps may grow.

    **options
        Arguments of `~hyperphotutils.galaxy.SersicFitter`.
    """

    def __init__(self, image, max_radius, *, grows, **options):
        self.image = image
        self.max_radius = max_radius
        self.grows = grows
        self.options = options
        self.sizes = image.fit_sizes
        self.has_grown = np.zeros(len(self.sizes), dtype=bool)
        self.model = np.zeros(image.mask.shape)
        self._fitters = {}

    def run(self):
        """
        Fit all galaxies and return their table; ``model`` then is the image
        of those with a positive flux that are not too large.
        """
        image = self.image
        self.data = np.array(image.sky.data)
        self.labels = np.array(image.sources.segmentation.data)
        self.model = np.zeros(self.data.shape)
        rows, ids = image.galaxies, np.asarray(image.galaxies['id'])
        used = (self.labels > 0) & np.isfinite(self.data)
        flux = np.bincount(self.labels[used], self.data[used],
                           minlength=ids.max() + 1)[ids]
        levels = find_levels(*(
            np.asarray(getattr(rows[name], 'value', rows[name]))
            for name in ('x_centroid', 'y_centroid')), flux, self.sizes)
        # the wings of bright galaxies leave a slope
        parts = [part for level in range(levels.max() + 1)
                 for part in self._fit_level(
                     np.flatnonzero(levels == level),
                     sky='plane' if level else 'constant')]
        kept, tables = zip(*parts, strict=True)
        table = vstack(tables, metadata_conflicts='silent')
        return table[np.argsort(np.concatenate(kept))]

    def _fit_level(self, todo, *, sky):
        """
        Fit some galaxies, and subtract them from the data.

        Yields the indices and the tables of those of each size.
        """
        image, rows = self.image, self.image.galaxies
        init = QTable({'id': rows['id'], 'x': rows['x_centroid'],
                       'y': rows['y_centroid']})
        drawn = []
        for size in SIZES if self.grows else self.sizes[:1]:
            part = todo[self.sizes[todo] == size]
            if len(part) == 0:
                continue
            largest = (_RADIUS_PART * size if self.max_radius is None
                       else self.max_radius)
            if (size, sky) not in self._fitters:
                self._fitters[size, sky] = SersicFitter(
                    image.psf, size=int(size), sky=sky, priors=PRIORS,
                    max_neighbors=(_MAX_NEIGHBORS if size <= _LARGE
                                   else _MAX_NEIGHBORS_LARGE),
                    r_e_bounds=(_SMALLEST_RADIUS, largest), **self.options)
            fitter = self._fitters[size, sky]
            table = fitter(
                self.data, error=image.error, mask=image.mask,
                init_params=init[part], wcs=image.wcs,
                segmentation=self.labels)
            too_large = table['flags'] & FLAGS['too_large'] != 0
            stays = np.ones(len(part), dtype=bool)
            if self.grows and size < SIZES[-1]:
                radius = table['r_eff_fit'] * np.sqrt(table['q_fit'])
                brightness = table['flux_fit'] / (2.0 * np.pi * radius**2)
                at_largest = (
                    (self.max_radius is None)
                    & (radius > _NEAR_LARGEST * largest)
                    & (brightness > _FAINTEST * image.sky.rms))
                # too large ones follow the sky: one larger stamp is enough
                stays = np.where(too_large, self.has_grown[part],
                                 ~at_largest)
                self.sizes[part[~stays]] = SIZES[SIZES.index(size) + 1]
                self.has_grown[part[~stays]] = True
            # others follow the sky, or what a bright neighbor leaves
            good = stays & ~too_large & (table['flux_fit'] > 0.0)
            self.model += fitter.make_model_image(rows=good)
            drawn.append(rows['id'][part[good]])
            table['stamp_size'] = size
            yield part[stays], table[stays]
        self.data = image.sky.data - self.model
        # what is left of a bright galaxy is more than the noise: it is masked
        subtracted = np.isin(self.labels, np.concatenate([[0], *drawn]))
        self.labels[subtracted] *= -1


def find_levels(x, y, flux, sizes):
    """
    Return how many fits each galaxy waits for: one more than the bright
    galaxies do whose stamps overlap with its own.
    """
    levels = np.zeros(len(x), dtype=int)
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    place = np.column_stack([x, y])[known]
    first, second = known[KDTree(place).query_pairs(
        sizes.max(), p=np.inf, output_type='ndarray')].T
    apart = np.maximum(np.abs(x[first] - x[second]),
                       np.abs(y[first] - y[second]))
    overlap = apart < 0.5 * (sizes[first] + sizes[second])
    # each pair in both directions, of which at most one waits
    bright = np.concatenate((first[overlap], second[overlap]))
    faint = np.concatenate((second[overlap], first[overlap]))
    waits = flux[bright] > _DOMINANT * np.maximum(flux[faint], 0.0)
    bright, faint = bright[waits], faint[waits]
    # the longest chain: each pass is final for one more level, and fluxes that
    # differ by a factor of 5 make chains of a few galaxies only
    while np.any(levels[faint] <= levels[bright]):
        np.maximum.at(levels, faint, levels[bright] + 1)
    return levels
