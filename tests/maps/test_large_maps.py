# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of maps that are read into a file, a few rows at a time.
"""

import errno
import os
import tempfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_array_equal
from scipy.ndimage import gaussian_filter

from hyperphotutils.maps import MapError, read_map
from hyperphotutils.maps.reader import read_map_to_file
from hyperphotutils.noise import fill, find_fill_values
from hyperphotutils.utils import StoredImage, stored


def noise(shape, seed=1):
    """
    Noise that the beam has smoothed, in single precision.
    """
    values = np.random.default_rng(seed).normal(size=shape)
    values = gaussian_filter(values, 1.9, mode='wrap')
    return (values / values.std()).astype('f4')


def framed(shape=(60, 70), value=0.0):
    """
    Noise in a frame of one value, with a bar of another.
    """
    data = noise(shape)
    data[:8] = data[:, -9:] = value
    data[20:26, 10:31] = 99.0
    data[40, 40] = np.inf
    return data


def read_both(make, tmp_path, **options):
    """
    Read a map into a file, and into memory.
    """
    in_file = read_map_to_file(make(), tmp_path / 'map.dat', dtype='f4',
                               **options)
    return in_file, read_map(make(), dtype='f4', **options)


@pytest.mark.parametrize('n_pixels', [70, 900, 10_000])
@pytest.mark.parametrize('kind', ['plain', 'wide', 'axes', 'scaled',
                                  'compressed', 'given', 'nothing'])
def test_map_in_a_file_is_that_in_memory(make_hdu, tmp_path, monkeypatch,
                                         kind, n_pixels):
    """
    Values, mask, and metadata do not depend on the rows that are read at a
    time, for any pixel areas, storage, and fill values.
    """
    monkeypatch.setattr(stored, '_BLOCK', n_pixels)
    options = {}

    def make():
        if kind == 'wide':
            return make_hdu(framed(), CDELT1=-0.5, CDELT2=0.5, BMAJ=2.0,
                            BMIN=2.0)
        if kind == 'axes':
            return make_hdu(framed()[None, None], CTYPE3='STOKES',
                            CTYPE4='FREQ', CRVAL4=1e11, CDELT4=1e8)
        if kind == 'scaled':
            data = np.rint(1000.0 * np.nan_to_num(framed(), posinf=0.0))
            hdu = make_hdu(data.astype('>i4'))
            hdu.header['BSCALE'] = 0.001
            return fits.HDUList.fromstring(hdu_bytes(hdu))
        if kind == 'compressed':
            hdu = make_hdu(framed())
            return fits.CompImageHDU(hdu.data, hdu.header, quantize_level=0)
        return make_hdu(noise((60, 70)) if kind == 'nothing' else framed())

    if kind == 'given':
        options['fill_value'] = [7.0, 99.0, 0.0]
    in_file, in_memory = read_both(make, tmp_path, **options)
    for name, path in (('data', 'map.dat'), ('mask', 'map.mask')):
        assert StoredImage.find(getattr(in_file, name)).path == (
            tmp_path / path)
    assert in_file.data.dtype == in_memory.data.dtype
    assert_array_equal(in_file.data, in_memory.data)
    assert_array_equal(in_file.mask, in_memory.mask)
    assert str(in_file.meta) == str(in_memory.meta)
    found = {'given': (99.0, 0.0), 'nothing': ()}.get(kind, (0.0, 99.0))
    assert in_file.meta['fill_values'] == found


def hdu_bytes(hdu):
    """
    The file of an HDU that is not scaled when it is read.
    """
    header = hdu.header.copy()
    return (header.tostring(padding=True).encode() + hdu.data.tobytes()
            + bytes(-hdu.data.nbytes % 2880))


@pytest.mark.parametrize('side', [3, 6, 12])
def test_fill_of_quantized_maps_does_not_depend_on_blocks(monkeypatch, side):
    """
    The squares in which a quantized map takes one value may lie across
    blocks of rows.
    """
    data = np.round(gaussian_filter(noise((90, 80)), side) * 8 * side)
    data[30:70, 20:70] = 0.0
    data[5:9] = -5.0
    expected = find_fill_values(data, 4.0)
    for n_pixels in (80, 560, 2000):
        monkeypatch.setattr(stored, '_BLOCK', n_pixels)
        mask, values = find_fill_values(data, 4.0)
        assert values == expected[1]
        assert_array_equal(mask, expected[0])


def test_memory_does_not_grow_with_the_map(make_hdu, tmp_path, monkeypatch):
    """
    Besides the mask, a small part of the map is in memory.
    """
    monkeypatch.setattr(stored, '_BLOCK', 2**16)
    # statistics need a fixed number of pixels
    monkeypatch.setattr(fill, '_MAX_SAMPLE', 20_000)
    path = tmp_path / 'map.fits'
    make_hdu(framed((2000, 2000))).writeto(path)
    tracemalloc.start()
    image = read_map_to_file(path, tmp_path / 'map.dat', dtype='f4')
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert image.meta['fill_values'] == (0.0, 99.0)
    # 16 MB in single precision, of which the mask has 4
    assert image.mask.nbytes < peak < 0.8 * image.data.nbytes


def test_cubes_and_damaged_files_are_refused(make_hdu, tmp_path):
    """
    The errors are those of maps in memory.
    """
    for hdu in (make_hdu(np.ones((3, 40, 40)), CTYPE3='VRAD'),
                make_hdu(np.full((40, 40), np.nan))):
        messages = []
        for read in (read_map, lambda hdu: read_map_to_file(
                hdu, tmp_path / 'map.dat')):
            with pytest.raises(MapError) as error:
                read(hdu)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


def test_errors_of_writing_do_not_blame_the_map(make_hdu, tmp_path):
    """
    A file that cannot be written is no damage of the map.
    """
    with pytest.raises(FileNotFoundError, match='no folder'):
        read_map_to_file(make_hdu(framed()), tmp_path / 'no folder/map.dat')


@pytest.mark.skipif(not hasattr(os, 'posix_fallocate'), reason='needs POSIX')
@pytest.mark.parametrize('temporary', [True, False])
def test_full_folder_is_named_with_the_map(make_hdu, tmp_path, monkeypatch,
                                           temporary):
    """
    The error names the map, its size, and the folder, and says how to
    choose another one, but not the temporary file in it.
    """
    def allocate(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path, folder = tmp_path / 'map.fits', tmp_path / 'scratch'
    make_hdu(framed()).writeto(path)
    folder.mkdir()
    monkeypatch.setattr(os, 'posix_fallocate', allocate)
    monkeypatch.setattr(tempfile, 'tempdir', str(
        tmp_path if temporary else tmp_path / 'elsewhere'))
    remedy = 'set TMPDIR to' if temporary else 'choose'
    with pytest.raises(OSError, match=(
            rf'map\.fits: No space left on device: {folder} has no room for '
            rf'0\.0 MB of temporary files; make room there, or {remedy} '
            'another folder')) as error:
        read_map_to_file(path, folder / 'secret.dat')
    assert error.value.errno == errno.ENOSPC
    assert 'secret' not in str(error.value)


def test_full_temporary_folder_does_not_blame_a_zipped_map(
        make_hdu, tmp_path, monkeypatch):
    """
    It is not damaged if there is no room to extract it.
    """
    make_hdu(framed()).writeto(tmp_path / 'map.fits')
    path = tmp_path / 'map.fits.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.write(tmp_path / 'map.fits', 'map.fits')

    def extract(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(zipfile.ZipFile, 'read', extract)
    with pytest.raises(MapError, match=r'map\.fits\.zip: cannot be read: No '
                       'space left.*set TMPDIR to another folder'):
        read_map(path)
