# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Rejection of detections on the shoulders of brighter structures.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike, NDArray

from hyperphotutils.detection.shapes import check_ring, shoulder_score

if TYPE_CHECKING:
    import numpy as np
    from astropy.nddata import NDData
    from astropy.units import Quantity

    from hyperphotutils.utils.typing import FloatOrArray

__all__ = ['ShoulderFilter']


@dataclass(frozen=True)
class ShoulderFilter:
    """
    Class to limit the `shoulder_score` of detections.

    Use it to reject local maxima on the flank of a brighter structure,
    which are often peaks of the noise or the background rather than
    sources. Their surroundings are bright on one side, and their score
    is high.

    Parameters
    ----------
    max_score : float
        The highest score, from 0 to 1, that a source may have.

    ring_factor : float, optional
        The radius of the ring in units of the FWHM. The default is 1.5.

    n_angles : int, optional
        The number of directions. The default is 32.

    mask_neighbors : bool, optional
        Whether to ignore samples that are closer to another detection.
        If `False` (default), a source next to a brighter one may be
        rejected. If `True`, only structures that are not detections
        count, and blended sources are kept.

    Raises
    ------
    TypeError
        If ``n_angles`` is not an integer.

    ValueError
        If ``max_score`` is not between 0 and 1, ``ring_factor``
        is not positive, or ``n_angles`` is less than 3.

    See Also
    --------
    HighPassStarFinder, shoulder_score

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.modeling.models import Gaussian2D
    >>> from hyperphotutils.detection import (HighPassStarFinder,
    ...                                       ShoulderFilter)
    >>> yy, xx = np.mgrid[:80, :80]
    >>> data = np.random.default_rng(0).normal(0, 0.02, xx.shape)
    >>> data += Gaussian2D(9, 40, 40, 1.7, 1.7)(xx, yy)
    >>> data += Gaussian2D(1, 46, 40, 1.7, 1.7)(xx, yy)
    >>> print(len(HighPassStarFinder(fwhm=4.0, n_sigma=8.0)(data)))
    2
    >>> finder = HighPassStarFinder(fwhm=4.0, n_sigma=8.0,
    ...                             shoulder_filter=ShoulderFilter(0.5))
    >>> table = finder(data)
    >>> print(len(table), table.meta['n_rejected'])
    1 {'shoulder_filter': 1}
    """

    max_score: float
    _: KW_ONLY
    ring_factor: float = 1.5
    n_angles: int = 32
    mask_neighbors: bool = False

    def __post_init__(self):
        if not 0 <= self.max_score <= 1:  # False for NaN
            msg = f'max_score must be between 0 and 1: got {self.max_score}'
            raise ValueError(msg)
        check_ring(self.ring_factor, self.n_angles)

    def score(self, data: np.ndarray | Quantity | NDData, x: ArrayLike,
              y: ArrayLike, fwhm: float, *,
              mask: NDArray[np.bool_] | None = None) -> FloatOrArray:
        """
        Return the scores with the parameters of this filter.

        Parameters
        ----------
        data : 2D `~numpy.ndarray`, `~astropy.units.Quantity`, or \
                `~astropy.nddata.NDData`
            The image. Its own mask is honored, if it has one, and
            non-finite pixels are treated as masked.

        x, y : float or 1D array_like
            The pixel positions of the sources.

        fwhm : float
            The FWHM of the beam in pixels.

        mask : 2D bool `~numpy.ndarray`, optional
            A mask with the shape of ``data``, where `True` means that
            the pixel is ignored.

        Returns
        -------
        score : float or 1D `~numpy.ndarray`
            The score of each source, see `shoulder_score`.
        """
        return shoulder_score(data, x, y, fwhm, mask=mask,
                              ring_factor=self.ring_factor,
                              n_angles=self.n_angles,
                              mask_neighbors=self.mask_neighbors)
