# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the output module.
"""

import pytest

from hyperphotutils.utils.output import atomic_output


def test_whole_file_appears(tmp_path):
    """
    The file is there after the block, and nothing else.
    """
    path = tmp_path / 'a.txt'
    with atomic_output(path) as temporary:
        temporary.write_text('new')
        assert not path.exists()
    assert path.read_text() == 'new'
    assert list(tmp_path.iterdir()) == [path]


def test_existing_file_is_kept(tmp_path):
    """
    Without overwrite an existing file is refused and untouched.
    """
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with (pytest.raises(FileExistsError, match=r'a\.txt.* exists already'),
          atomic_output(path)):
        pytest.fail('the block must not run')
    assert path.read_text() == 'old'
    with atomic_output(path, overwrite=True) as temporary:
        temporary.write_text('new')
    assert path.read_text() == 'new'


def test_failure_leaves_nothing(tmp_path):
    """
    A block that raises leaves the old file and no temporary one.
    """
    path = tmp_path / 'a.txt'
    path.write_text('old')

    def write_half():
        with atomic_output(path, overwrite=True) as temporary:
            temporary.write_text('half')
            msg = 'stop'
            raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match='stop'):
        write_half()
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('folder', ['missing', 'file'])
def test_unwritable_folder(tmp_path, folder):
    """
    A folder that cannot be written to gives an error with the final name.
    """
    (tmp_path / 'file').write_text('not a folder')
    with (pytest.raises(OSError, match=r'cannot be written .*a\.txt'),
          atomic_output(tmp_path / folder / 'a.txt') as temporary):
        temporary.write_text('new')
    assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_failed_rename(tmp_path):
    """
    A name that is taken by a folder is refused, and nothing is left.
    """
    path = tmp_path / 'a.txt'
    path.mkdir()
    with (pytest.raises(OSError, match=r'cannot be written .*a\.txt'),
          atomic_output(path, overwrite=True) as temporary):
        temporary.write_text('new')
    assert list(tmp_path.iterdir()) == [path]
