# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The default grouper of sources.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from hyperphotutils.utils.checks import check_positive
from hyperphotutils.utils.tables import make_repr

__all__ = ['SeparationGrouper']


class SeparationGrouper:
    """
    Group sources that are near to each other.

    Sources at most ``min_separation`` apart are in one group, and so are
    sources that are connected by a chain of such neighbors. The groups
    are those of `photutils.psf.SourceGrouper`, which can be used in its
    place. Time and memory grow with the number of sources and of pairs
    of neighbors instead of the square of the number of sources.

    Parameters
    ----------
    min_separation : float
        The largest distance in pixels between two neighbors of a group.

    Raises
    ------
    ValueError
        If ``min_separation`` is not positive and finite.

    See Also
    --------
    photutils.psf.SourceGrouper

    Examples
    --------
    >>> from hyperphotutils.blend import SeparationGrouper
    >>> grouper = SeparationGrouper(min_separation=10.0)
    >>> print(grouper([10, 15, 50, 55, 100], [20, 25, 60, 65, 90]))
    [1 1 2 2 3]
    """

    _repr_params = ('min_separation',)

    def __init__(self, min_separation: float) -> None:
        self.min_separation = check_positive(min_separation,
                                             'min_separation')

    def __repr__(self) -> str:
        return make_repr(self)

    def __call__(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.integer]:
        """
        Group sources.

        Parameters
        ----------
        x, y : 1D array_like
            The positions in pixels.

        Returns
        -------
        group_id : 1D int `~numpy.ndarray`
            The group of each source, numbered from 1 in the order of
            their first sources.

        Raises
        ------
        ValueError
            If ``x`` and ``y`` are not finite 1D arrays of equal length.
        """
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        if x.ndim != 1 or x.shape != y.shape:
            msg = ('x and y must be 1D arrays of equal length, got the shapes '
                   f'{x.shape} and {y.shape}')
            raise ValueError(msg)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            msg = ('x and y must be finite: leave out sources without a '
                   'position')
            raise ValueError(msg)
        pairs = KDTree(np.column_stack((x, y))).query_pairs(
            self.min_separation, output_type='ndarray')
        graph = coo_array((np.ones(len(pairs), dtype=bool), pairs.T),
                          shape=(len(x), len(x)))
        component = connected_components(graph, directed=False)[1]
        _, first, inverse = np.unique(component, return_index=True,
                                      return_inverse=True)
        rank = np.argsort(np.argsort(first))
        return 1 + rank[inverse]
