# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the pixels of groups.
"""

import numpy as np
import pytest

from hyperphotutils.blend.footprints import make_footprints, pixel_step

X = np.array([[20.3, 23.9, 21.2]])
Y = np.array([[30.1, 27.7, 35.6]])
MASK = np.zeros((60, 50), dtype=bool)


def pixels_of(x, y, step, mask=MASK):
    """
    The pixels of a group, and whether the footprints are cut.
    """
    foot = make_footprints(x, y, mask, 6.5, step)
    used = foot.usable[0]
    pixels = list(zip(foot.x[0, used].tolist(), foot.y[0, used].tolist(),
                      strict=True))
    assert len(set(pixels)) == len(pixels)
    return set(pixels), foot.partial[0].tolist()


@pytest.mark.parametrize('n_sources', [1, 3])
@pytest.mark.parametrize('step', [1, 2, 3])
def test_sources_of_a_group_share_rows_and_columns(n_sources, step):
    """
    A thinned footprint has the pixels of the whole one in every second
    or third row and column, whatever the place and the order of the
    sources.
    """
    x, y = X[:, :n_sources], Y[:, :n_sources]
    whole, _ = pixels_of(x, y, 1)
    thinned, partial = pixels_of(x, y, step)
    assert not any(partial)
    col, row = min(thinned)[0], min(pixel[1] for pixel in thinned)
    assert thinned == {(i, j) for i, j in whole if (i - col) % step == 0
                       and (j - row) % step == 0}
    moved, _ = pixels_of(x[:, ::-1] + 3.0, y[:, ::-1] + 1.0, step)
    assert moved == {(i + 3, j + 1) for i, j in thinned}


@pytest.mark.parametrize('step', [1, 2, 3])
def test_partial_footprints(step):
    """
    A masked pixel cuts the footprints that would have it.
    """
    mask = MASK.copy()
    thinned, _ = pixels_of(X, Y, step)
    col, row = max(thinned, key=lambda pixel: pixel[1])
    mask[row, col] = True
    left, partial = pixels_of(X, Y, step, mask)
    assert left == thinned - {(col, row)}
    assert partial == [False, False, True]


@pytest.mark.parametrize(('fwhm', 'step', 'first'),
                         [(3.9, 1, 1), (4.6, 1, 2), (8.0, 2, 4)])
def test_pixels_that_sample_a_beam(fwhm, step, first):
    """
    A fit has at least four pixels a beam, if there are as many, and one
    of few pixels two.
    """
    assert pixel_step(fwhm, 2.0 * fwhm) == step
    assert pixel_step(fwhm, 2.0 * fwhm, few=True) == first
