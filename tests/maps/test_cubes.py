# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the cubes and planes modules.
"""

import gzip
import pickle
import tracemalloc
import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal
from radio_beam import Beam

from hyperphotutils.maps import MapCube, MapError, read_cube, read_map

SHAPE = (3, 30, 40)
VALUES = np.arange(3600.0).reshape(SHAPE)
LINE = 230.538 * u.GHz


@pytest.fixture
def make_cube_hdu(make_hdu):
    """
    A function that makes the HDU of a good cube; cards change it.
    """

    def make(data=VALUES, **cards):
        return make_hdu(np.asarray(data), **{
            'CTYPE3': 'VRAD', 'CRVAL3': 1000.0, 'CRPIX3': 2.0,
            'CDELT3': 500.0, 'CUNIT3': 'm/s', 'RESTFRQ': LINE.to_value('Hz'),
            **cards})

    return make


def write(tmp_path, hdu, name='cube.fits'):
    path = tmp_path / name
    hdu.writeto(path)
    return path


def casa_beams(major, n_polarizations=1):
    """
    The table in which CASA keeps the beams of the channels.
    """
    n = len(major)
    table = Table({
        'BMAJ': np.repeat(np.asarray(major, dtype='f4'), n_polarizations),
        'BMIN': np.full(n * n_polarizations, 8.0, dtype='f4'),
        'BPA': np.zeros(n * n_polarizations, dtype='f4'),
        'CHAN': np.repeat(np.arange(n, dtype='i4'), n_polarizations),
        'POL': np.tile(np.arange(n_polarizations, dtype='i4'), n)})
    for name, unit in (('BMAJ', 'arcsec'), ('BMIN', 'arcsec'),
                       ('BPA', 'deg')):
        table[name].unit = unit
    return fits.BinTableHDU(table, name='BEAMS')


class TestCube:
    def test_result(self, make_cube_hdu, tmp_path):
        """
        A cube knows its shape, coordinates, unit, and beams.
        """
        path = write(tmp_path, make_cube_hdu())
        cube = read_cube(path)
        assert isinstance(cube, MapCube)
        assert cube.shape == SHAPE
        assert len(cube) == 3
        assert cube.wcs.naxis == 2
        assert cube.wcs.array_shape == SHAPE[1:]
        assert_allclose(cube.spectral_axis.to_value('m/s'),
                        [500.0, 1000.0, 1500.0])
        assert cube.spectral_type == 'VRAD'
        assert cube.unit == u.Jy / u.beam
        assert cube.original_unit == 'Jy/beam'
        assert len(cube.beams) == 3
        assert_allclose(cube.beams[2].major.to_value('arcsec'), 10.0)
        assert cube.filename == str(path)
        assert cube.header['CTYPE3'] == 'VRAD'
        assert cube.dtype == np.dtype('f8')
        assert 'VRAD=500 m / s to 1500 m / s' in repr(cube)
        assert read_cube(cube) is cube

    def test_channel_is_the_map_of_the_plane(self, make_cube_hdu):
        """
        A channel is what read_map makes of the plane, and knows where
        in the spectrum it is.
        """
        hdu = make_cube_hdu(OBJECT='W3')
        image = read_cube(hdu).channel(1)
        expected = read_map(fits.PrimaryHDU(VALUES[1], hdu.header))
        assert_array_equal(image.data, expected.data)
        assert_array_equal(image.mask, expected.mask)
        assert image.unit == expected.unit
        assert image.wcs.wcs == expected.wcs.wcs
        for key in expected.meta.keys() - {'frequency'}:
            assert image.meta[key] == expected.meta[key], key
        assert image.meta['channel'] == 1
        assert image.meta['spectral_value'] == 1000 * u.m / u.s

    def test_plane(self, make_cube_hdu):
        """
        A plane holds the values as they are, and may be written to.
        """
        cube = read_cube(make_cube_hdu(VALUES.astype('>f4')))
        plane = cube.plane(-1)
        assert plane.dtype == np.dtype('f8')
        assert_array_equal(plane, VALUES[2])
        plane[:] = 0.0
        assert_array_equal(cube.plane(2), VALUES[2])
        with pytest.raises(IndexError, match=r'there is no channel '
                           r'-?\d+: it has \d+ channels, 0 to \d+'):
            cube.plane(3)

    def test_mean_plane(self, make_cube_hdu):
        """
        The mean over the channels ignores what is not finite.
        """
        values = VALUES.copy()
        values[0, 0, 0] = np.nan
        values[:, 1, 1] = np.inf
        mean = read_cube(make_cube_hdu(values)).mean_plane()
        with np.errstate(invalid='ignore'):
            values[~np.isfinite(values)] = np.nan
        assert np.isnan(mean[1, 1])
        assert_allclose(mean[0, 0], (VALUES[1, 0, 0] + VALUES[2, 0, 0]) / 2)
        assert_allclose(mean[2:], VALUES.mean(axis=0)[2:])

    def test_channel_without_values(self, make_cube_hdu):
        """
        A channel of NaN is masked, and no error.
        """
        values = VALUES.copy()
        values[1] = np.nan
        cube = read_cube(make_cube_hdu(values))
        assert cube.channel(1).mask.all()
        assert not cube.channel(2).mask.any()

    def test_not_in_memory(self, tmp_path):
        """
        Reading a plane takes the memory of planes, not of the cube.
        """
        header = fits.Header({
            'CTYPE1': 'RA---TAN', 'CTYPE2': 'DEC--TAN', 'CTYPE3': 'VRAD',
            'CRVAL1': 10.0, 'CRVAL2': 20.0, 'CRPIX1': 1.0, 'CRPIX2': 1.0,
            'CDELT1': -1e-3, 'CDELT2': 1e-3, 'CDELT3': 100.0})
        path = write(tmp_path, fits.PrimaryHDU(
            np.ones((100, 200, 200), dtype='f4'), header))
        tracemalloc.start()
        cube = read_cube(path)
        total = sum(cube.plane(i).sum() for i in range(len(cube)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert total == 100 * 200 * 200
        assert peak < 3e6  # the cube has 16 MB

    def test_can_be_sent(self, make_cube_hdu, tmp_path):
        """
        The pickle of a cube in a file does not hold its values.
        """
        path = write(tmp_path, make_cube_hdu(np.ones((100, 30, 40))))
        sent = pickle.dumps(read_cube(path))
        assert len(sent) < 20_000
        assert_array_equal(pickle.loads(sent).plane(50), np.ones((30, 40)))


class TestSpectralAxis:
    @pytest.mark.parametrize(('ctype', 'unit', 'expected'), [
        ('VRAD', 'km/s', 'VRAD'), ('VOPT', 'm/s', 'VOPT'),
        ('VELO-LSR', 'm/s', 'VRAD'), ('FREQ', 'GHz', 'FREQ'),
        ('FREQ-LSR', 'Hz', 'FREQ'), ('WAVE', 'um', 'WAVE'),
    ])
    def test_types(self, make_cube_hdu, ctype, unit, expected):
        """
        Spectral axes of all kinds are read in the unit of the header.
        """
        cube = read_cube(make_cube_hdu(CTYPE3=ctype, CUNIT3=unit, VELREF=257))
        assert cube.spectral_type.startswith(expected)
        assert cube.spectral_axis.unit == u.Unit(unit)
        assert_allclose(cube.spectral_axis.value, [500.0, 1000.0, 1500.0])

    def test_no_unit_is_si(self, make_cube_hdu):
        """
        An axis without a unit is in that of the FITS standard.
        """
        cube = read_cube(make_cube_hdu(CUNIT3=None))
        assert cube.spectral_axis.unit == u.m / u.s

    @pytest.mark.parametrize(('ctype', 'doppler'), [
        ('VRAD', u.doppler_radio), ('VOPT', u.doppler_optical)])
    def test_frequencies(self, make_cube_hdu, ctype, doppler):
        """
        Velocities become frequencies by the convention of their axis.
        """
        cube = read_cube(make_cube_hdu(CTYPE3=ctype))
        expected = cube.spectral_axis.to(u.Hz, doppler(LINE))
        assert_allclose(cube.frequencies.value, expected.value, rtol=1e-12)
        given = read_cube(make_cube_hdu(CTYPE3=ctype, RESTFRQ=None),
                          frequency=LINE)
        assert_allclose(given.frequencies.value, expected.value, rtol=1e-12)
        unknown = read_cube(make_cube_hdu(CTYPE3=ctype, RESTFRQ=None))
        assert unknown.frequencies is None

    @pytest.mark.parametrize('shape', [(1, *SHAPE), (1, 1, *SHAPE)])
    def test_degenerate_axes(self, make_cube_hdu, shape):
        """
        Axes of length 1 are dropped.
        """
        cube = read_cube(make_cube_hdu(VALUES.reshape(shape),
                                       CTYPE4='STOKES', CRVAL4=1.0))
        assert cube.shape == SHAPE
        assert_array_equal(cube.plane(2), VALUES[2])

    def test_stokes_before_frequency(self, make_cube_hdu, tmp_path):
        """
        The spectral axis may be the fourth.
        """
        path = write(tmp_path, make_cube_hdu(
            VALUES[:, np.newaxis], CTYPE3='STOKES', CRVAL3=1.0, CRPIX3=1.0,
            CDELT3=1.0, CUNIT3=None, CTYPE4='FREQ', CRVAL4=1e11, CRPIX4=1.0,
            CDELT4=1e6))
        cube = read_cube(path)
        assert cube.shape == SHAPE
        assert_allclose(cube.spectral_axis.value, 1e11 + 1e6 * np.arange(3))
        assert_array_equal(cube.plane(1), VALUES[1])

    def test_one_channel(self, make_cube_hdu):
        """
        A cube may have one channel.
        """
        cube = read_cube(make_cube_hdu(VALUES[:1]))
        assert cube.shape == (1, 30, 40)
        assert_allclose(cube.spectral_axis.value, [500.0])


class TestUnitsAndBeams:
    @pytest.mark.parametrize(('unit', 'factor'), [
        ('MJy/sr', 1e6 * (2 * np.pi / 180 / 3600)**2),
        ('Jy/beam', 4 / (np.pi / (4 * np.log(2)) * 80)),
    ])
    def test_units(self, make_cube_hdu, unit, factor):
        """
        Channels are in Jy/pixel, whatever the unit of the file.
        """
        image = read_cube(make_cube_hdu(BUNIT=unit)).channel(1)
        assert_allclose(image.data, VALUES[1] * factor, rtol=1e-5)

    def test_kelvin_by_channel(self, make_cube_hdu):
        """
        Temperatures are converted at the frequency of each channel.
        """
        cube = read_cube(make_cube_hdu(
            np.ones(SHAPE), BUNIT='K', CTYPE3='FREQ', CUNIT3='Hz',
            CRVAL3=200e9, CDELT3=50e9))
        flux = [cube.channel(i).data[0, 0] for i in range(3)]
        assert_allclose(flux / flux[1], [0.75**2, 1.0, 1.25**2], rtol=1e-12)

    def test_kelvin_without_frequency(self, make_cube_hdu):
        """
        The error says what temperatures need.
        """
        cube = read_cube(make_cube_hdu(BUNIT='K', RESTFRQ=None))
        assert cube.unit == u.K
        with pytest.raises(MapError, match='temperature needs the frequency'):
            cube.channel(0)

    @pytest.mark.parametrize('n_polarizations', [1, 2])
    def test_casa_beams(self, make_cube_hdu, tmp_path, n_polarizations):
        """
        Each channel has its own beam, from CASA's table.
        """
        hdu = make_cube_hdu(BMAJ=None, BMIN=None, BPA=None, CASAMBM=True)
        path = tmp_path / 'cube.fits'
        fits.HDUList([hdu, casa_beams([10.0, 12.0, 14.0], n_polarizations)]
                     ).writeto(path)
        cube = read_cube(path)
        assert_allclose([beam.major.to_value('arcsec')
                         for beam in cube.beams], [10.0, 12.0, 14.0])
        area = np.array([cube.channel(i).meta['beam_area_pix']
                         for i in range(3)])
        assert_allclose(area / area[0], [1.0, 1.2, 1.4], rtol=1e-6)
        with pytest.raises(MapError, match='the PrimaryHDU: no BMAJ'):
            read_cube(hdu).beams  # noqa: B018

    def test_casa_beams_before_the_common_one(self, make_cube_hdu, tmp_path):
        """
        The table says more than a common beam in the header.
        """
        path = tmp_path / 'cube.fits'
        fits.HDUList([make_cube_hdu(CASAMBM=True),
                      casa_beams([12.0, 12.0, 14.0])]).writeto(path)
        assert_allclose(read_cube(path).beams[2].major.to_value('arcsec'),
                        14.0)

    def test_casa_beams_of_another_cube(self, make_cube_hdu, tmp_path):
        """
        A table that does not fit is an error that names the remedy.
        """
        path = tmp_path / 'cube.fits'
        fits.HDUList([make_cube_hdu(CASAMBM=True),
                      casa_beams([12.0, 14.0])]).writeto(path)
        with pytest.raises(MapError, match='2 rows for 3 channels: give '
                           'beam='):
            read_cube(path)

    def test_channel_without_beam(self, make_cube_hdu, tmp_path):
        """
        A beam of size zero, as of channels that were not imaged, is an
        error only where it is needed.
        """
        path = tmp_path / 'cube.fits'
        table = casa_beams([12.0, 0.0, 14.0])
        table.data['BMIN'][1] = 0.0
        fits.HDUList([make_cube_hdu(CASAMBM=True), table]).writeto(path)
        cube = read_cube(path)
        assert cube.channel(2).meta['beam'].major == 14 * u.arcsec
        assert [beam is None for beam in cube.beams] == [False, True, False]
        assert_array_equal(np.isnan(cube.beam_fwhm_pix), [False, True, False])
        with pytest.raises(MapError, match='a beam of 0 arcsec by 0 arcsec'):
            cube.channel(1)

    def test_only_what_is_asked_for_must_be_there(self, make_cube_hdu):
        """
        A cube without unit and beam has planes; all that a channel
        lacks is named at once.
        """
        cube = read_cube(make_cube_hdu(BUNIT=None, BMAJ=None, BMIN=None,
                                       BPA=None))
        assert_array_equal(cube.plane(0), VALUES[0])
        assert cube.original_unit == ''
        with pytest.raises(MapError, match=r'PrimaryHDU: no BUNIT.*no BMAJ'):
            cube.channel(0)

    def test_arguments(self, make_cube_hdu):
        """
        Unit and beam can be given.
        """
        hdu = make_cube_hdu(BUNIT=None, BMAJ=None, BMIN=None, BPA=None)
        cube = read_cube(hdu, unit='mJy/beam', beam=9 * u.arcsec)
        assert cube.unit == u.mJy / u.beam
        assert cube.beams[0] == Beam(9 * u.arcsec)
        assert read_cube(hdu, survey='spire250').beams[0] == Beam(
            18 * u.arcsec)


class TestSources:
    @pytest.mark.parametrize('form', ['path', 'str', 'hdu', 'list', 'header',
                                      'quantity', 'gzip', 'extension',
                                      'tiles'])
    def test_forms(self, make_cube_hdu, tmp_path, form):
        """
        A cube is the same in whatever form it comes.
        """
        hdu = make_cube_hdu(VALUES.astype('f4'))
        path = write(tmp_path, hdu)
        zipped = tmp_path / 'cube.fits.gz'
        zipped.write_bytes(gzip.compress(path.read_bytes()))
        for name, extension in (
                ('extension', fits.ImageHDU(hdu.data, hdu.header)),
                ('tiles', fits.CompImageHDU(hdu.data, hdu.header,
                                            compression_type='GZIP_2'))):
            fits.HDUList([fits.PrimaryHDU(), extension]).writeto(
                tmp_path / f'{name}.fits')
        cube = read_cube({
            'path': path, 'str': str(path), 'hdu': hdu,
            'list': fits.HDUList([hdu]), 'header': (hdu.data, hdu.header),
            'quantity': (hdu.data << u.Jy / u.beam, hdu.header),
            'gzip': zipped, 'extension': tmp_path / 'extension.fits',
            'tiles': tmp_path / 'tiles.fits'}[form])
        assert cube.shape == SHAPE
        assert cube.dtype == np.dtype('f4')
        for i in range(3):
            assert_array_equal(cube.plane(i), VALUES[i])
        expected = read_cube(hdu).channel(1)
        assert_allclose(cube.channel(1).data, expected.data, rtol=1e-9)
        assert cube.spectral_axis[0] == 500 * u.m / u.s

    def test_array_and_wcs(self, make_cube_hdu):
        """
        An array and a WCS make a cube; unit and beam are arguments.
        """
        hdu = make_cube_hdu()
        cube = read_cube((VALUES, WCS(hdu.header)), unit='Jy/beam',
                         beam=Beam(10 * u.arcsec, 8 * u.arcsec, 30 * u.deg))
        assert_allclose(cube.channel(1).data,
                        read_cube(hdu).channel(1).data, rtol=1e-9)
        assert_allclose(cube.spectral_axis.to_value('m/s'),
                        [500.0, 1000.0, 1500.0])
        masked = np.ma.masked_greater(VALUES.astype(int), 100)
        plane = read_cube((masked, hdu.header)).plane(0)
        assert_array_equal(plane, np.where(VALUES[0] > 100, np.nan,
                                           VALUES[0]))

    def test_open_file(self, make_cube_hdu, tmp_path):
        """
        A file that somebody has opened, and may have changed, is used
        as it is.
        """
        with fits.open(write(tmp_path, make_cube_hdu())) as hdus:
            hdus[0].data[1] = 7.0
            cube = read_cube(hdus)
            assert_array_equal(cube.plane(1), np.full(SHAPE[1:], 7.0))

    @pytest.mark.parametrize('scaled', [False, True])
    def test_integers(self, make_cube_hdu, tmp_path, scaled):
        """
        Integers are scaled, and their missing values are NaN.
        """
        data = np.arange(3600, dtype='i2').reshape(SHAPE)
        hdu = make_cube_hdu(data)
        if scaled:
            hdu.header['BSCALE'], hdu.header['BZERO'] = 0.5, 10.0
        hdu.header['BLANK'] = 7
        path = tmp_path / 'cube.fits'
        # as astropy would not write integers that are not scaled
        header = hdu.header.tostring().encode()
        block = data.astype('>i2').tobytes()
        path.write_bytes(header + block + bytes(-len(block) % 2880))
        cube = read_cube(path)
        expected = data * 0.5 + 10.0 if scaled else data.astype(float)
        expected.flat[7] = np.nan
        assert cube.dtype == np.dtype('f4')
        for i in range(3):
            assert_array_equal(cube.plane(i), expected[i])

    @pytest.mark.parametrize('dask', [False, True])
    def test_spectral_cube(self, make_cube_hdu, tmp_path, dask):
        """
        A SpectralCube is read as it is masked.
        """
        spectral_cube = pytest.importorskip('spectral_cube')
        path = write(tmp_path, make_cube_hdu(VALUES.astype('f4')))
        if dask:
            pytest.importorskip('dask')
        source = spectral_cube.SpectralCube.read(path, use_dask=dask)
        source = source.with_mask(source > 100 * source.unit)
        cube = read_cube(source)
        assert cube.shape == SHAPE
        assert cube.dtype == np.dtype('f4')
        assert_array_equal(
            cube.plane(0), np.where(VALUES[0] > 100, VALUES[0], np.nan))
        assert_allclose(cube.spectral_axis.to_value('m/s'),
                        [500.0, 1000.0, 1500.0])
        assert_allclose(cube.channel(1).data,
                        read_cube(path).channel(1).data, rtol=1e-9)

    def test_spectral_cube_with_many_beams(self, make_cube_hdu, tmp_path):
        """
        The beams of a VaryingResolutionSpectralCube are kept.
        """
        spectral_cube = pytest.importorskip('spectral_cube')
        path = tmp_path / 'cube.fits'
        fits.HDUList([
            make_cube_hdu(BMAJ=None, BMIN=None, BPA=None, CASAMBM=True),
            casa_beams([10.0, 12.0, 14.0])]).writeto(path)
        cube = read_cube(spectral_cube.SpectralCube.read(path))
        assert_allclose([beam.major.to_value('arcsec')
                         for beam in cube.beams], [10.0, 12.0, 14.0])


class TestErrors:
    def test_map(self, make_hdu, tmp_path):
        """
        A map is told from a cube, and how to read it.
        """
        path = write(tmp_path, make_hdu(), 'map.fits')
        with pytest.raises(MapError, match=r'map.fits: a map of 40 x 30 '
                           'pixels, not a cube: .* read_map'):
            read_cube(path)

    def test_no_spectral_axis(self, make_cube_hdu):
        """
        A third axis that is not spectral is named.
        """
        with pytest.raises(MapError, match=r'no spectral axis .*CTYPE3 = '
                           r"'STOKES'; correct the header"):
            read_cube(make_cube_hdu(CTYPE3='STOKES', CUNIT3=None))
        hdu = make_cube_hdu(CTYPE3=None, CUNIT3=None)
        with pytest.raises(MapError, match='no spectral axis'):
            read_cube(hdu)

    def test_two_long_axes(self, make_cube_hdu):
        """
        Of several polarizations, one has to be chosen.
        """
        with pytest.raises(MapError, match=r'axis 4 \(STOKES\) has 2 planes '
                           'beside'):
            read_cube(make_cube_hdu(np.ones((2, *SHAPE)), CTYPE4='STOKES'))

    def test_spectral_axis_first(self, make_cube_hdu):
        """
        Spectra that lie together cannot be read plane by plane.
        """
        hdu = make_cube_hdu(
            VALUES.T, CTYPE1='VRAD', CUNIT1='m/s', CTYPE3='RA---TAN',
            CUNIT3='deg', CDELT1=100.0, CDELT3=-0.001, CRVAL3=10.0)
        with pytest.raises(MapError, match='spectral axis is number 1, '
                           r'before the sky: .* reorder it'):
            read_cube(hdu)

    def test_complex(self, make_cube_hdu):
        """
        Visibilities are no cube.
        """
        header = make_cube_hdu().header
        with pytest.raises(MapError, match='the array: the values are of '
                           'type complex128'):
            read_cube((VALUES + 1j, header))

    def test_table(self, tmp_path):
        """
        A table is no cube.
        """
        path = tmp_path / 'table.fits'
        fits.BinTableHDU(Table({'a': [1.0]})).writeto(path)
        with pytest.raises(MapError, match=r'table.fits: has no image'):
            read_cube(path)
        with pytest.raises(MapError, match=r'extension 1 .* is a table'):
            read_cube(path, ext=1)

    def test_no_file(self, tmp_path):
        """
        What is not there is said by name.
        """
        with pytest.raises(MapError, match=r'nothing.fits: no such file'):
            read_cube(tmp_path / 'nothing.fits')

    def test_truncated(self, make_cube_hdu, tmp_path):
        """
        A file that ends before the cube does is found out at once.
        """
        path = write(tmp_path, make_cube_hdu())
        path.write_bytes(path.read_bytes()[:20_000])
        with pytest.raises(MapError, match='truncated or damaged'):
            read_cube(path)

    @pytest.mark.parametrize('kind', ['RICE_1', 'GZIP_1'])
    def test_damaged_tiles(self, make_cube_hdu, tmp_path, kind):
        """
        Tiles that cannot be decompressed are refused where they are read;
        the planes before them are whole.
        """
        values = np.random.default_rng(4).normal(size=(3, 64, 64))
        hdu = make_cube_hdu(values)
        tiles = fits.CompImageHDU(values, hdu.header, compression_type=kind,
                                  tile_shape=(1, 64, 64))
        path = tmp_path / 'cube.fits'
        tiles.writeto(path)
        plane = read_cube(path).plane(0)
        with fits.open(path, disable_image_compression=True) as hdus:
            table = hdus[1].header
            end = (hdus[1].fileinfo()['datLoc'] + table['PCOUNT']
                   + table['NAXIS1'] * table['NAXIS2'])
        content = bytearray(path.read_bytes())
        content[end - 2000:end] = bytes(2000)
        path.write_bytes(content)
        cube = read_cube(path)
        assert_array_equal(cube.plane(0), plane)
        with pytest.raises(MapError, match=r'channel 2.*tiles cannot be'):
            cube.plane(2)

    def test_file_vanishes(self, make_cube_hdu, tmp_path):
        """
        A plane that can no longer be read is named.
        """
        path = write(tmp_path, make_cube_hdu())
        cube = read_cube(path)
        path.unlink()
        with pytest.raises(MapError, match='channel 1 can no longer'):
            cube.plane(1)

    @pytest.mark.parametrize('source', [7, (VALUES, 'wcs'), (VALUES,)])
    def test_wrong_kind(self, source):
        """
        What is no cube at all is a TypeError.
        """
        with pytest.raises(TypeError, match='must be'):
            read_cube(source)

    def test_infinite_coordinates(self, make_cube_hdu):
        """
        An axis without finite values is an error.
        """
        with pytest.raises(MapError, match='CRVAL3 and CDELT3'):
            read_cube(make_cube_hdu(CRVAL3=1e308, CDELT3=1e308))


@pytest.mark.real_data
class TestRealCubes:
    def test_small_cube(self, real_data):
        """
        The test cube of Hyper-py: VRAD in km/s.
        """
        cube = read_cube(real_data('test_datacube.fits'))
        assert cube.shape == (4, 417, 417)
        assert cube.dtype == np.dtype('f4')
        assert_allclose(cube.spectral_axis.to_value('km/s'),
                        [0.0, 0.5, 1.0, 1.5])
        image = cube.channel(0)
        assert_allclose(image.meta['beam_fwhm_pix'], 6.07, atol=0.01)
        assert_allclose(image.mask.mean(), 0.2866, atol=1e-4)

    def test_alma(self, real_data):
        """
        A cube with four axes, in frequency.
        """
        cube = read_cube(real_data('orion_kl_alma_ch3oh_cube.fits'))
        assert cube.shape == (41, 100, 100)
        assert cube.spectral_axis.unit == u.Hz
        assert cube.channel(40).meta['frequency'] == cube.spectral_axis[40]

    @pytest.mark.parametrize('name', ['test_datacube.fits',
                                      'orion_kl_alma_ch3oh_cube.fits'])
    def test_as_spectral_cube_reads_it(self, real_data, name):
        """
        Both packages see the same values and coordinates.
        """
        spectral_cube = pytest.importorskip('spectral_cube')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of headers as they are
            theirs = spectral_cube.SpectralCube.read(real_data(name))
        ours = read_cube(real_data(name))
        assert_array_equal(ours.plane(2), theirs.unmasked_data[2].value)
        assert_allclose(ours.spectral_axis.value, theirs.spectral_axis.value,
                        rtol=1e-12)
        assert ours.unit == theirs.unit


class TestMasks:
    @pytest.fixture
    def bad(self):
        """
        Pixels to be masked, others in each channel.
        """
        bad = np.zeros(SHAPE, dtype=bool)
        for channel in range(3):
            bad[channel, 10:12, 5 * channel:5 * channel + 3] = True
        return bad

    @pytest.fixture
    def make_file(self, make_cube_hdu, tmp_path):
        """
        A function that writes a cube and a mask to a file.
        """

        def make(mask, name='MASK', kind=fits.ImageHDU, suffix=''):
            hdu = make_cube_hdu()
            path = tmp_path / f'cube.fits{suffix}'
            fits.HDUList([
                fits.PrimaryHDU(), kind(hdu.data, hdu.header, name='SCI'),
                kind(mask, name=name)]).writeto(path, overwrite=True)
            return path

        return make

    @pytest.mark.parametrize('kind', [fits.ImageHDU, fits.CompImageHDU])
    @pytest.mark.parametrize('suffix', ['', '.gz'])
    @pytest.mark.parametrize(('select', 'dtype', 'mark'), [
        (np.s_[:], 'u1', 1), (np.s_[:], 'i2', 255), (np.s_[0], 'u1', 255),
        (np.s_[:1], 'u1', 1)])
    def test_used(self, make_file, bad, kind, suffix, select, dtype, mark):
        """
        A mask of the channels, or one for all of them, masks planes and
        channels, in any file and in other processes.
        """
        path = make_file((mark * bad[select]).astype(dtype), kind=kind,
                         suffix=suffix)
        expected = np.broadcast_to(bad[select], SHAPE)
        cube = pickle.loads(pickle.dumps(read_cube(path)))
        assert cube.mask_extension == '2 (MASK)'
        with fits.open(path) as hdus:
            opened = read_cube(hdus)
            for channel in range(3):
                for one in (cube, opened):
                    plane = one.plane(channel)
                    assert_array_equal(np.isnan(plane), expected[channel])
                    assert_array_equal(
                        plane[~expected[channel]],
                        VALUES[channel][~expected[channel]])
        for channel in range(3):
            image = cube.channel(channel)
            assert_array_equal(image.mask, expected[channel])
            assert image.meta['mask_extension'] == '2 (MASK)'
            assert image.meta['n_masked'] == expected[channel].sum()

    def test_hdu_alone(self, make_file, bad):
        """
        The HDU alone is read without a mask.
        """
        with fits.open(make_file(bad.astype('u1'))) as hdus:
            cube = read_cube(hdus['SCI'])
        assert cube.mask_extension is None
        assert np.isfinite(cube.plane(0)).all()
        assert cube.channel(0).meta['n_masked'] == 0

    @pytest.mark.parametrize(('select', 'problem'), [
        (np.s_[:2], 'has other pixels than the cube and its channels: set the '
                    'bad pixels of the cube to NaN'),
        (np.s_[:], 'has bit flags or values other than 0 and 1, or 0 and 255, '
                   'some')])
    def test_cannot_be_used(self, make_file, bad, select, problem):
        """
        Masks of other pixels and bit flags, of which one may be in a later
        channel, are named once, and not used.
        """
        flags = bad.astype('u1')
        flags[2] *= 2
        path = make_file(flags[select])
        with pytest.warns(AstropyUserWarning, match='without some of its '
                          rf'extensions: extension 2 \(MASK\) {problem}'
                          ) as caught:
            cube = read_cube(path)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert cube.mask_extension is None
        assert cube.unused_masks == '2 (MASK)'
        assert cube.channel(0).meta['unused_masks'] == '2 (MASK)'
        assert np.isfinite(cube.plane(0)).all()

    @pytest.mark.parametrize('dtype', ['u1', 'i2', 'f4'])
    def test_other_values(self, make_file, bad, dtype):
        """
        As for maps, one value other than 1 and 255 may be a flag.
        """
        with pytest.warns(AstropyUserWarning, match='has bit flags or values'):
            cube = read_cube(make_file((2 * bad).astype(dtype)))
        assert np.isfinite(cube.plane(0)).all()

    def test_of_no_image(self, make_file, bad):
        """
        As for maps, a mask of no image in the file is named.
        """
        path = make_file(bad[0].astype('u1'), name='MASK_2')
        with pytest.warns(AstropyUserWarning, match=r'2 \(MASK_2\) is not '
                          r"that.*1 \(SCI\), set its EXTNAME = 'MASK'"):
            read_cube(path)

    def test_most_values_masked(self, make_file):
        """
        A mask that may be 1 at good pixels is warned of, one that masks all
        is refused, and channels may be masked as a whole.
        """
        mask = np.ones(SHAPE, 'u1')
        with pytest.raises(MapError, match=r'cube\.fits: extension 1 \(SCI\) '
                           r'has no value that extension 2 \(MASK\) does not '
                           'mask: it must be 0 at good pixels'):
            read_cube(make_file(mask))
        mask[:, :10] = 0
        with pytest.warns(AstropyUserWarning, match=r'extension 2 \(MASK\) of '
                          r'.*cube\.fits masks 67 % of the values of the '
                          'cube: if it is not 0 at good pixels, invert it in '
                          'the file, or remove it from the file$') as caught:
            read_cube(make_file(mask))
        assert caught[0].filename == __file__
        mask[:] = [[[0]], [[1]], [[0]]]
        cube = read_cube(make_file(mask))
        assert cube.channel(1).mask.all()
        assert not cube.channel(2).mask.any()

    def test_memory(self, make_cube_hdu, tmp_path):
        """
        One plane of the mask is in memory at a time.
        """
        hdu = make_cube_hdu(np.random.default_rng(1).normal(
            size=(40, 100, 100)).astype('f4'))
        mask = np.zeros(hdu.data.shape, 'i4')
        mask[:, 40:50] = 1
        fits.HDUList([hdu, fits.ImageHDU(mask, name='MASK')]).writeto(
            tmp_path / 'cube.fits')
        size = mask.nbytes
        del mask, hdu
        tracemalloc.start()
        try:
            cube = read_cube(tmp_path / 'cube.fits')
            for channel in range(40):
                cube.plane(channel)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert np.isnan(cube.plane(39)[40:50]).all()
        assert peak < 0.5 * size
