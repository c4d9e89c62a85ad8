# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Grouping of sources.
"""

import numpy as np

__all__ = ['group_sources', 'renumber_groups', 'split_large_groups']


def group_sources(grouper, x, y):
    """
    Call a grouper on the sources whose positions are known; return 0 for the
    others.
    """
    group_id = np.zeros(len(x), dtype=int)
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() > 1:
        groups = np.asarray(grouper(x[known], y[known]))
        if groups.shape != (known.sum(),):
            msg = ('grouper must return a group for each of the '
                   f'{known.sum()} sources, got the shape {groups.shape}')
            raise ValueError(msg)
        group_id[known] = groups
    else:
        group_id[known] = 1
    return group_id


def renumber_groups(group_id):
    """
    Number groups from 1 in the order of their first sources; 0 stays 0.
    """
    group_id = np.array(group_id)
    grouped = group_id > 0
    _, first, inverse = np.unique(group_id[grouped], return_index=True,
                                  return_inverse=True)
    rank = np.empty(len(first), dtype=int)
    rank[np.argsort(first)] = np.arange(1, len(first) + 1)
    group_id[grouped] = rank[inverse]
    return group_id


def split_large_groups(x, y, group_id, max_size):
    """
    Split large groups into compact parts until none is too large; return the
    new groups, and whether the group of each source was split.
    """
    group_id = np.array(group_id)
    was_split = np.zeros(len(x), dtype=bool)
    ids, counts = np.unique(group_id, return_counts=True)
    next_id = ids.max(initial=0) + 1
    for large in ids[counts > max_size]:
        rows = np.flatnonzero(group_id == large)
        was_split[rows] = True
        parts = _split(np.column_stack((x[rows], y[rows])), max_size)
        group_id[rows] = next_id + parts
        next_id += parts.max() + 1
    return group_id, was_split


def _split(positions, max_size):
    """
    Halve positions into compact parts (Ward's clusters) until none is
    too large.
    """
    # Few maps have a group that is split; the import takes 0.2 s.
    from scipy.cluster.hierarchy import fcluster, linkage

    n_sources = len(positions)
    if n_sources <= max_size:
        return np.zeros(n_sources, dtype=int)
    second = fcluster(linkage(positions, method='ward'), 2,
                      criterion='maxclust') == 2
    if not second.any():  # all at the same position
        second = np.arange(n_sources) >= n_sources // 2
    parts = np.empty(n_sources, dtype=int)
    parts[~second] = _split(positions[~second], max_size)
    parts[second] = (_split(positions[second], max_size)
                     + parts[~second].max() + 1)
    return parts
