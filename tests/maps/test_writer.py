# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the writer module.
"""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from numpy.testing import assert_array_equal

from hyperphotutils.maps import CubeWriter, read_cube

SHAPE = (4, 30, 40)
VALUES = np.arange(4800.0).reshape(SHAPE)


@pytest.fixture
def make_cube(make_hdu):
    """
    A function that makes a cube; cards change it.
    """

    def make(data=VALUES, **cards):
        return read_cube(make_hdu(np.asarray(data), **{
            'CTYPE3': 'VRAD', 'CRVAL3': 1000.0, 'CRPIX3': 2.0,
            'CDELT3': 500.0, 'CUNIT3': 'm/s', 'OBJECT': 'W3', **cards}))

    return make


def no_room(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize('shape', [SHAPE, (1, *SHAPE), (4, 1, 30, 40)])
@pytest.mark.parametrize('dtype', ['f4', 'f8'])
def test_whole_file(make_cube, tmp_path, shape, dtype):
    """
    The file has the header, the axes, and the type of the input,
    whatever the order of the planes.
    """
    cards = {}
    if shape == (4, 1, 30, 40):
        cards = {'CTYPE4': 'VRAD', 'CRVAL4': 1.0, 'CDELT4': 1.0,
                 'CTYPE3': 'STOKES', 'CUNIT3': None}
    cube = make_cube(VALUES.reshape(shape).astype(dtype), **cards)
    path = tmp_path / 'out.fits'
    with CubeWriter(path, cube, history=['made for a test']) as writer:
        for i in (2, 0, 3, 1):
            writer.write(i, cube.plane(i) + 1.0)
    assert [p.name for p in tmp_path.iterdir()] == ['out.fits']
    with fits.open(path) as hdus:
        hdus.verify('exception')
        assert hdus[0].data.shape == shape
        assert hdus[0].data.dtype == np.dtype(dtype).newbyteorder('>')
        assert_array_equal(hdus[0].data.reshape(SHAPE), VALUES + 1.0)
        ours = hdus[0].header
        for card in cube.header.cards:
            expected = (pytest.approx(card.value, rel=1e-15)
                        if isinstance(card.value, float) else card.value)
            assert ours[card.keyword] == expected, card.keyword
        assert list(ours['HISTORY']) == ['made for a test']
        assert path.stat().st_size % 2880 == 0


def test_integers_become_floats(make_cube, tmp_path):
    """
    Integers are written as floats, without their scaling.
    """
    cube = make_cube(VALUES.astype('i2'), BLANK=-1)
    with CubeWriter(tmp_path / 'out.fits', cube) as writer:
        for i in range(4):
            writer.write(i, np.full(SHAPE[1:], np.nan))
    with fits.open(tmp_path / 'out.fits') as hdus:
        assert hdus[0].header['BITPIX'] == -32
        assert 'BLANK' not in hdus[0].header
        assert np.isnan(hdus[0].data).all()


def test_extension_and_table_of_beams(make_cube, tmp_path):
    """
    A cube of an extension with CASA's table of beams gives one that is
    read in the same way.
    """
    table = Table({'BMAJ': [10.0, 11, 12, 13], 'BMIN': [8.0] * 4,
                   'BPA': [0.0] * 4, 'CHAN': [0, 1, 2, 3]})
    header = make_cube(CASAMBM=True).header
    source = tmp_path / 'in.fits'
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(VALUES, header),
                  fits.BinTableHDU(table, name='BEAMS')]).writeto(source)
    cube = read_cube(source)
    with CubeWriter(tmp_path / 'out.fits', cube) as writer:
        for i in range(4):
            writer.write(i, cube.plane(i))
    again = read_cube(tmp_path / 'out.fits')
    assert again.beams == cube.beams
    assert_array_equal(again.plane(3), VALUES[3])


def test_array_without_axes_in_header(make_cube, tmp_path):
    """
    A header that does not tell the axes will do.
    """
    cube = read_cube((VALUES, make_cube().header))
    with CubeWriter(tmp_path / 'out.fits', cube, unit='mJy') as writer:
        for i in range(4):
            writer.write(i, VALUES[i])
    again = read_cube(tmp_path / 'out.fits')
    assert again.shape == SHAPE
    assert again.original_unit == 'mJy'


def test_continued(make_cube, tmp_path):
    """
    A second writer goes on where the first has ended.
    """
    cube, path = make_cube(), tmp_path / 'out.fits'
    writer = CubeWriter(path, cube, resume=True)
    writer.write(1, VALUES[1])
    writer.close()
    assert not path.exists()
    with CubeWriter(path, cube, resume=True) as writer:
        assert_array_equal(writer.written, [False, True, False, False])
        for i in np.flatnonzero(~writer.written):
            writer.write(i, VALUES[i])
    assert_array_equal(fits.getdata(path), VALUES)


def test_killed(make_cube, tmp_path):
    """
    A writer that is killed leaves what it has written to the next one.
    """
    cube, path = make_cube(), tmp_path / 'out.fits'
    fits.writeto(tmp_path / 'in.fits', VALUES, cube.header)
    code = ('import os, signal, sys\n'
            'from hyperphotutils.maps import CubeWriter, read_cube\n'
            'cube = read_cube(sys.argv[1])\n'
            'writer = CubeWriter(sys.argv[2], cube, resume=True)\n'
            'writer.write(0, cube.plane(0))\n'
            'writer.write(2, cube.plane(2))\n'
            'os.kill(os.getpid(), signal.SIGKILL)\n')
    killed = subprocess.run([sys.executable, '-c', code,
                             str(tmp_path / 'in.fits'), str(path)],
                            check=False)
    assert killed.returncode < 0
    assert not path.exists()
    with CubeWriter(path, read_cube(tmp_path / 'in.fits'),
                    resume=True) as writer:
        assert_array_equal(writer.written, [True, False, True, False])
        writer.write(1, VALUES[1])
        writer.write(3, VALUES[3])
    assert_array_equal(fits.getdata(path), VALUES)


def test_another_cube_is_not_continued(make_cube, tmp_path):
    """
    What was begun with another header is begun anew.
    """
    path = tmp_path / 'out.fits'
    writer = CubeWriter(path, make_cube(), resume=True)
    writer.write(1, VALUES[1])
    writer.close()
    writer = CubeWriter(path, make_cube(OBJECT='W4'), resume=True)
    assert not writer.written.any()
    writer.resume = False
    writer.close()
    assert not list(tmp_path.iterdir())


def test_existing_file(make_cube, tmp_path):
    """
    A file is only replaced when that is wanted, and only by a whole one.
    """
    path = tmp_path / 'out.fits'
    path.write_text('old')
    with pytest.raises(FileExistsError, match=r'exists already: .*out.fits'):
        CubeWriter(path, make_cube())
    with (pytest.raises(ValueError, match='plane must have the shape'),
          CubeWriter(path, make_cube(), overwrite=True) as writer):
        writer.write(0, np.zeros((3, 3)))
    assert path.read_text() == 'old'
    with CubeWriter(path, make_cube(), overwrite=True) as writer:
        for i in range(4):
            writer.write(i, VALUES[i])
    assert_array_equal(fits.getdata(path), VALUES)


def test_missing_planes(make_cube, tmp_path):
    """
    A file without all planes does not get its name.
    """
    writer = CubeWriter(tmp_path / 'out.fits', make_cube())
    writer.write(0, VALUES[0])
    writer.write(2, VALUES[2])
    with pytest.raises(ValueError, match='2 of 4 planes are not written, '
                       'the first is number 1'):
        writer.finish()
    writer.close()
    assert not list(tmp_path.iterdir())


def test_no_room(make_cube, tmp_path, monkeypatch):
    """
    A disk without room for the file is found out at the beginning, and
    nothing is left on it.
    """
    if not hasattr(os, 'posix_fallocate'):
        pytest.skip('this system cannot reserve room')
    monkeypatch.setattr(os, 'posix_fallocate', no_room)
    for resume in (False, True):
        with pytest.raises(OSError, match=r'cannot be written: No space '
                           r'left on device \(the file needs .*out.fits'):
            CubeWriter(tmp_path / 'out.fits', make_cube(), resume=resume)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('resume', [False, True])
def test_disk_becomes_full(make_cube, tmp_path, monkeypatch, resume):
    """
    If room ends on the way there is no file under the name; what is
    written can be continued.
    """
    cube, path = make_cube(), tmp_path / 'out.fits'

    def fill_the_disk():
        with CubeWriter(path, cube, resume=resume) as writer:
            writer.write(0, VALUES[0])
            with monkeypatch.context() as patch:
                patch.setattr(os, 'write', no_room)
                writer.write(1, VALUES[1])

    with pytest.raises(OSError, match='cannot be written: No space left'):
        fill_the_disk()
    assert not path.exists()
    assert bool(list(tmp_path.iterdir())) == resume


def test_unwritable_folder(make_cube, tmp_path):
    """
    A folder that does not exist or may not be written is named.
    """
    with pytest.raises(FileNotFoundError, match=r'cannot be written: No such '
                       r'file .*nowhere.out.fits'):
        CubeWriter(tmp_path / 'nowhere' / 'out.fits', make_cube())
    folder = tmp_path / 'locked'
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip('this user may write everywhere')
    with pytest.raises(PermissionError, match=r'cannot be written: '
                       r'Permission denied: .*out.fits'):
        CubeWriter(folder / 'out.fits', make_cube())
