# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of hyperphotutils.utils.stored.
"""

import errno
import os
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from hyperphotutils.utils import StoredImage

IMAGE = np.arange(20.0).reshape(4, 5)


@pytest.fixture(name='stored')
def fixture_stored(tmp_path):
    return StoredImage.store(IMAGE, tmp_path / 'image.dat')


def test_copies_have_the_values(stored):
    """
    Parts are copied, for another process from the name of the file alone.
    """
    again = pickle.loads(pickle.dumps(stored))
    part = again[1:3, 2:]
    assert np.array_equal(part, IMAGE[1:3, 2:])
    part[:] = 0.0
    assert np.array_equal(stored[:], IMAGE)
    stored[0] = -1.0
    assert np.all(again[0] == -1.0)
    assert repr(again) == (f"<StoredImage('{stored.path}', shape=(4, 5), "
                           'dtype=float64)>')


def test_image_of_a_file_is_found(stored, tmp_path):
    """
    Also a part of its rows, which is not stored a second time.
    """
    rows = stored.map()[1:3]
    found = StoredImage.find(rows)
    assert found.path == stored.path
    assert found.shape == (2, 5)
    assert np.array_equal(found[:], IMAGE[1:3])
    again = StoredImage.store(rows, tmp_path / 'other.dat')
    assert again.path == stored.path
    assert not (tmp_path / 'other.dat').exists()


def test_other_images_are_in_no_file(stored):
    """
    Images in memory, columns, and private copies of a file.
    """
    assert StoredImage.find(IMAGE) is None
    assert StoredImage.find(stored.map()[:, 1:3]) is None
    assert StoredImage.find(stored.map('c')) is None


@pytest.mark.skipif(not hasattr(os, 'posix_fallocate'), reason='needs POSIX')
def test_full_disk_is_an_error(tmp_path, monkeypatch):
    """
    A file without room for its image is refused when it is made: later,
    the system would end the process. File systems that cannot tell are
    not refused.
    """
    def allocate(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, 'posix_fallocate', allocate)
    number = errno.ENOSPC
    with pytest.raises(OSError, match=r'No space left.*image\.dat'):
        StoredImage.create(tmp_path / 'image.dat', (4, 5))
    number = errno.EOPNOTSUPP
    image = StoredImage.create(tmp_path / 'image.dat', (4, 5))
    assert_array_equal(image[:], np.zeros((4, 5)))
