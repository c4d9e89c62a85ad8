# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the images module.
"""

import errno
import gzip
import io
import os

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning
from numpy.testing import assert_array_equal

from hyperphotutils.maps import MapError, load_image

DATA = np.arange(12.0).reshape(3, 4)


def table_hdu(name='CATALOG'):
    return fits.table_to_hdu(Table({'a': [1.0]}, meta={'EXTNAME': name}))


def fits_bytes(hdu):
    buffer = io.BytesIO()
    hdu.writeto(buffer)
    return buffer.getvalue()


class TestInputs:
    def test_every_kind(self, tmp_path):
        """
        A name, a path, a list and an HDU are the same map.
        """
        path = tmp_path / 'map.fits'
        fits.PrimaryHDU(DATA.astype('>f4')).writeto(path)
        with fits.open(path) as hdus:
            for given, name in ((path, str(path)), (str(path), str(path)),
                                (hdus, str(path)), (hdus[0], str(path))):
                image = load_image(given)
                assert_array_equal(image.data, DATA)
                assert image.data.dtype == np.dtype('f8')
                assert image.filename == name
                assert image.extension == '0 (PRIMARY)'
        assert load_image(fits.PrimaryHDU(DATA)).filename is None

    def test_input_is_not_changed(self):
        """
        The values are a copy.
        """
        hdu = fits.PrimaryHDU(DATA.copy())
        load_image(hdu).data[:] = 0
        assert_array_equal(hdu.data, DATA)

    def test_compressed(self, tmp_path):
        """
        Compressed files and tile-compressed images are read.
        """
        path = tmp_path / 'map.fits.gz'
        fits.PrimaryHDU(DATA).writeto(path)
        assert_array_equal(load_image(path).data, DATA)
        path = tmp_path / 'tiles.fits'
        fits.CompImageHDU(DATA.astype('i4')).writeto(path)
        assert_array_equal(load_image(path).data, DATA)

    def test_scaled_integers(self):
        """
        BSCALE, BZERO and BLANK are applied.
        """
        hdu = fits.PrimaryHDU(np.array([[1, 2], [3, -99]], dtype='i2'))
        hdu.header['BLANK'] = -99
        hdu.header['BSCALE'] = 0.5
        hdu = fits.HDUList.fromstring(fits_bytes(hdu))[0]
        assert_array_equal(load_image(hdu).data, [[0.5, 1], [1.5, np.nan]])

    def test_wrong_kind(self):
        """
        An array has no header: it is no map.
        """
        with pytest.raises(TypeError, match=r'path_or_hdu must be.*ndarray'):
            load_image(DATA)


class TestExtensions:
    images = fits.HDUList([
        fits.PrimaryHDU(),
        fits.ImageHDU(DATA + 1, name='error'),
        fits.ImageHDU(DATA, name='image'),
        fits.ImageHDU(DATA + 2, name='coverage'),
        table_hdu(),
    ])

    def test_named_image(self):
        """
        Of several images the one called image is the map.
        """
        assert load_image(self.images).extension == '2 (IMAGE)'

    @pytest.mark.parametrize('ext', [3, 'coverage', 'COVERAGE',
                                     ('coverage', 1)])
    def test_chosen(self, ext):
        """
        The user may choose by number, name or version.
        """
        image = load_image(self.images, ext=ext)
        assert image.extension == '3 (COVERAGE)'
        assert_array_equal(image.data, DATA + 2)

    def test_primary_first(self):
        """
        Without a telling name the primary image is the map.
        """
        hdus = fits.HDUList([fits.PrimaryHDU(DATA),
                             fits.ImageHDU(DATA, name='variance')])
        assert load_image(hdus).extension == '0 (PRIMARY)'

    def test_only_image(self):
        """
        The only image needs no name.
        """
        hdus = fits.HDUList([fits.PrimaryHDU(), table_hdu(),
                             fits.ImageHDU(DATA)])
        assert load_image(hdus).extension == '2 (unnamed)'

    def test_guess_is_told(self):
        """
        A choice without a reason is told.
        """
        hdus = fits.HDUList([fits.PrimaryHDU(),
                             fits.ImageHDU(DATA, name='one'),
                             fits.ImageHDU(DATA, name='two')])
        with pytest.warns(AstropyUserWarning, match=r'several images: .*'
                          r'2 TWO \(3x4\); taking extension 1, give ext='):
            assert load_image(hdus).extension == '1 (ONE)'

    @pytest.mark.parametrize('ext', ['nothing', 9, ('image', 2)])
    def test_missing(self, ext):
        """
        A missing extension lists those there are.
        """
        with pytest.raises(MapError, match=r'no extension ext=.*2 IMAGE '
                           r'\(3x4\).*4 CATALOG \(table\)'):
            load_image(self.images, ext=ext)

    def test_table(self):
        """
        A table is no map.
        """
        with pytest.raises(MapError, match=r'4 \(CATALOG\) is a table'):
            load_image(self.images, ext='catalog')
        with pytest.raises(MapError, match=r'0 \(CATALOG\) is a table'):
            load_image(table_hdu())

    def test_empty(self):
        """
        An extension without data is no map.
        """
        with pytest.raises(MapError, match=r'0 \(PRIMARY\) is empty'):
            load_image(self.images, ext=0)

    def test_no_image(self):
        """
        A file of tables says what it holds.
        """
        hdus = fits.HDUList([fits.PrimaryHDU(), table_hdu()])
        with pytest.raises(MapError, match=r'no image: it holds 0 PRIMARY '
                           r'\(no data\), 1 CATALOG \(table\)'):
            load_image(hdus)

    @pytest.mark.parametrize('ext', [None, 0])
    def test_one_dimension(self, ext):
        """
        A spectrum is no map.
        """
        hdus = fits.HDUList([fits.PrimaryHDU(np.ones(7))])
        with pytest.raises(MapError, match='NAXIS = 1: 7 values in a row'):
            load_image(hdus, ext=ext)

    def test_inherited_keywords(self):
        """
        What an extension does not say, the empty primary header may.
        """
        primary = fits.PrimaryHDU()
        primary.header['BUNIT'] = 'Jy/beam'
        primary.header['OBJECT'] = 'W3'
        primary.header['HISTORY'] = 'first'
        primary.header['HISTORY'] = 'second'
        extension = fits.ImageHDU(DATA)
        extension.header['OBJECT'] = 'W4'
        header = load_image(fits.HDUList([primary, extension])).header
        assert header['BUNIT'] == 'Jy/beam'
        assert header['OBJECT'] == 'W4'
        assert list(header['HISTORY']) == ['first', 'second']
        assert 'BUNIT' not in extension.header
        extension.header['INHERIT'] = False
        header = load_image(fits.HDUList([primary, extension])).header
        assert 'BUNIT' not in header

    def test_beams_table(self):
        """
        CASA's table of beams comes along where the header says so.
        """
        hdu = fits.PrimaryHDU(DATA)
        beams = table_hdu('BEAMS')
        assert load_image(fits.HDUList([hdu, beams])).beams_table is None
        hdu.header['CASAMBM'] = True
        table = load_image(fits.HDUList([hdu, beams])).beams_table
        assert table.colnames == ['a']
        assert load_image(hdu).beams_table is None


class TestBadFiles:
    def test_no_file(self, tmp_path):
        """
        A missing file is no traceback.
        """
        for name in (tmp_path / 'nothing.fits', '~no-such-user/map.fits'):
            with pytest.raises(MapError, match='no such file'):
                load_image(name)

    def test_folder(self, tmp_path):
        """
        A folder is no file.
        """
        with pytest.raises(MapError, match='is a folder'):
            load_image(tmp_path)

    @pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs a system '
                        'with named pipes')
    def test_pipe(self, tmp_path):
        """
        Nobody waits for a pipe, or reads a device without an end.
        """
        os.mkfifo(tmp_path / 'pipe')
        for path in (tmp_path / 'pipe', '/dev/zero'):
            with pytest.raises(MapError, match='is a device or pipe'):
                load_image(path)

    def test_errors_of_the_system(self, tmp_path, monkeypatch):
        """
        What the system says about a file is handed on.
        """
        with pytest.raises(MapError, match=r'cannot be read: .*too long'):
            load_image(tmp_path / ('a' * 5000))
        path = tmp_path / 'map.fits'
        path.write_bytes(fits_bytes(fits.PrimaryHDU(DATA)))

        def fail(*_):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(type(path), 'open', fail)
        with pytest.raises(MapError, match='cannot be read: Input/output'):
            load_image(path)

    def test_unknown_compression(self, tmp_path):
        """
        Where astropy needs another package for a kind of compression,
        the file can be decompressed.
        """
        path = tmp_path / 'map.fits.Z'
        path.write_bytes(b'\x1f\x9d\x90' + bytes(10000))
        with pytest.raises(MapError, match=r'decompress it|damaged'):
            load_image(path)

    @pytest.mark.parametrize('suffix', ['', '.gz'])
    def test_bytes_after_the_last_hdu(self, tmp_path, suffix):
        """
        A few are ignored, and many are refused: astropy looks for a
        header in all of them.
        """
        content = fits_bytes(fits.PrimaryHDU(DATA))
        path = tmp_path / f'map.fits{suffix}'
        pack = gzip.compress if suffix else bytes
        path.write_bytes(pack(content + bytes(10000)))
        assert_array_equal(load_image(path).data, DATA)
        path.write_bytes(pack(content + bytes(2**23 + 1)))
        with pytest.raises(MapError, match='more than 8 MiB follow'):
            load_image(path)

    @pytest.mark.parametrize('content', [b'', b'hello', b'\x89PNG' * 2000,
                                         b'\x1f\x8b hello'])
    def test_not_fits(self, tmp_path, content):
        """
        Text, pictures and empty files are not FITS.
        """
        path = tmp_path / 'map.fits'
        path.write_bytes(content)
        with pytest.raises(MapError, match='not a FITS file'):
            load_image(path)

    def test_table_of_text_is_not_called_damaged(self, tmp_path):
        path = tmp_path / 'catalog.ecsv'
        path.write_text('# %ECSV 1.0\n# ---\nid x y\n1 2.0 3.0\n')
        with pytest.raises(MapError, match='is a text file') as caught:
            load_image(path)
        assert 'fetch it again' not in str(caught.value)

    @pytest.mark.parametrize('size', [100, 2000, 2880, 5000, 20000])
    def test_truncated(self, tmp_path, size):
        """
        A file cut short says so, wherever the cut.
        """
        path = tmp_path / 'map.fits'
        path.write_bytes(fits_bytes(fits.PrimaryHDU(np.ones((60, 60))))[:size])
        with pytest.raises(MapError, match='is truncated or damaged'):
            load_image(path)

    def test_truncated_gzip(self, tmp_path):
        """
        So does a compressed file.
        """
        path = tmp_path / 'map.fits.gz'
        noise = np.random.default_rng(1).normal(size=(60, 60))
        content = gzip.compress(fits_bytes(fits.PrimaryHDU(noise)))
        path.write_bytes(content[:10000])
        with pytest.raises(MapError, match='damaged'):
            load_image(path)

    def test_missing_padding(self, tmp_path):
        """
        A file that only lacks the padding at its end is whole.
        """
        path = tmp_path / 'map.fits'
        path.write_bytes(fits_bytes(fits.PrimaryHDU(DATA))[:2880 + 96])
        assert_array_equal(load_image(path).data, DATA)
