# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of stamps and their files.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import NDData, StdDevUncertainty
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from numpy.testing import assert_allclose
from photutils.psf import GriddedPSFModel, ImagePSF
from photutils.segmentation import SegmentationImage, SourceCatalog

from hyperphotutils.maps import MapError
from hyperphotutils.stamps import (
    make_stamps,
    read_stamps,
    write_galfit,
    write_galfits,
)

UNIT = u.MJy / u.sr


def make_wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [40.0, 50.0]
    wcs.wcs.cd = np.array([[-1e-4, 2e-5], [2e-5, 1e-4]])
    return wcs


@pytest.fixture(scope='module')
def image():
    """
    An image whose pixels all differ, with three sources in segments.
    """
    rng = np.random.default_rng(1)
    data = rng.normal(0.0, 0.1, (90, 100))
    y, x = np.mgrid[:90, :100]
    segments = np.zeros(data.shape, dtype=int)
    catalog = QTable({'id': [7, 3, 12], 'x': [30.2, 41.0, 97.4],
                      'y': [20.1, 22.0, 60.0], 'mag': [17.0, 18.0, 21.5]})
    for label, row in enumerate(catalog):
        profile = np.exp(-0.5 * ((x - row['x'])**2 / 9.0
                                 + (y - row['y'])**2 / 4.0))
        data += (5.0 - label) * profile
        segments[profile > 0.2] = label + 1
    return data, segments, catalog


@pytest.fixture(scope='module')
def stamps(image):
    data, segments, catalog = image
    nddata = NDData(data, unit=UNIT, wcs=make_wcs(),
                    uncertainty=StdDevUncertainty(np.full(data.shape, 0.1)))
    y, x = np.mgrid[-5:6, -5:6]
    psf = np.exp(-0.5 * (x**2 + y**2))
    meta = {'zero_point': 25.0, 'gain': 2.0, 'image': 'a.fits'}
    return make_stamps(nddata, catalog, size=32, segmentation=segments,
                       psf=psf / psf.sum(), meta=meta)


def test_stamps_hold_the_image(image, stamps):
    """
    Each pixel of a stamp is that of the image; off it, it is masked NaN.
    """
    data, segments, catalog = image
    assert len(stamps) == 3
    assert list(stamps.table['id']) == [7, 3, 12]
    assert list(stamps.table['name']) == ['00_0007', '00_0003', '00_0012']
    for number, row in enumerate(stamps.table):
        for y, x in np.ndindex(32, 32):
            place = y + row['y0'], x + row['x0']
            value = stamps.data[number, y, x]
            if 0 <= place[0] < 90 and 0 <= place[1] < 100:
                assert value == np.float32(data[place])
                assert stamps.segmentation[number, y, x] == segments[place]
                assert not stamps.mask[number, y, x]
            else:
                assert np.isnan(value)
                assert stamps.mask[number, y, x]
    assert_allclose(stamps.positions[:, 0] + stamps.table['x0'],
                    catalog['x'])
    assert np.all(np.abs(stamps.positions - 16) <= 0.5)
    assert list(stamps.table['label']) == [1, 2, 3]
    assert stamps.unit == UNIT


def test_coordinates_of_a_stamp(stamps):
    """
    The WCS of a stamp and the columns ra and dec agree.
    """
    for number, row in enumerate(stamps.table):
        sky = stamps.stamp_wcs(number).pixel_to_world(
            *stamps.positions[number])
        other = SkyCoord(row['ra'], row['dec'])
        assert sky.separation(other) < 1e-6 * u.arcsec


def test_neighbors(stamps):
    """
    The neighbors of a stamp are the other segments in it.
    """
    neighbors = stamps.neighbors()
    assert neighbors[0].any()
    assert not np.any(neighbors[0] & (stamps.segmentation[0] == 1))
    assert not neighbors[2].any()


def test_index_gives_stamps(stamps):
    part = stamps[1:]
    assert len(part) == 2
    assert np.array_equal(part.data, stamps.data[1:], equal_nan=True)
    assert len(stamps[-1]) == 1
    assert stamps[-1].table['id'][0] == 12
    with pytest.raises(IndexError, match='index 3 is out of range'):
        stamps[3]


@pytest.mark.parametrize('form', ['sky', 'ra_dec', 'pixels', 'sextractor',
                                  'centroids'])
def test_forms_of_the_catalog(image, form):
    """
    All forms of positions give the same stamps.
    """
    data, _, catalog = image
    wcs = make_wcs()
    x, y = np.asarray(catalog['x']), np.asarray(catalog['y'])
    sky = wcs.pixel_to_world(x, y)
    given = {'sky': sky, 'pixels': np.stack([x, y], axis=1),
             'ra_dec': QTable({'ra': sky.ra.deg, 'dec': sky.dec.deg}),
             'sextractor': QTable({'X_IMAGE': x + 1, 'Y_IMAGE': y + 1,
                                   'VIGNET': np.zeros((3, 5, 5))}),
             'centroids': QTable({'x_centroid': x, 'y_centroid': y})}[form]
    result = make_stamps(data, given, size=16, wcs=wcs)
    expected = make_stamps(data, catalog, size=16, wcs=wcs)
    assert np.array_equal(result.data, expected.data, equal_nan=True)
    assert_allclose(result.positions, expected.positions, atol=1e-6)
    assert 'VIGNET' not in result.table.colnames


def test_options(image):
    """
    Size as an angle, recentering, offset, margin, and conditions.
    """
    data, _, catalog = image
    wcs = make_wcs()
    scale = np.sqrt(abs(np.linalg.det(wcs.wcs.cd))) * u.deg
    assert make_stamps(data, catalog, size=15.5 * scale, wcs=wcs).size == 16
    shifted = np.array([[32.0, 21.0]])
    peak = make_stamps(data, shifted, size=16, recenter='peak')
    x, y = int(peak.table['x'][0]), int(peak.table['y'][0])
    assert data[y, x] == data[15:25, 27:36].max()
    moved = make_stamps(data, catalog, size=16, offset=(2.0, -1.0))
    assert_allclose(moved.table['x'], catalog['x'] + 2.0)
    with pytest.warns(AstropyUserWarning, match='2 of 3 sources have no'):
        few = make_stamps(data, catalog, size=16, margin=5,
                          keep=[('mag', 17.5, 30.0)])
    assert list(few.table['id']) == [3]
    assert list(few.rejected['reason']) == [
        'mag is not from 17.5 to 30.0', 'near the edge']


def test_psf_models(image):
    """
    A PSF of photutils, and one that varies, give images.
    """
    data, _, catalog = image
    y, x = np.mgrid[-12:13, -12:13] / 2
    wide, narrow = (np.exp(-0.5 * (x**2 + y**2) / s**2) / (
        2 * np.pi * s**2) for s in (1.5, 1.0))
    one = make_stamps(data, catalog, size=16,
                      psf=ImagePSF(narrow, oversampling=2))
    assert one.psf.shape == (13, 13)
    assert_allclose(one.psf, narrow[::2, ::2], atol=1e-6)
    places = [(0, 0), (100, 0), (0, 90), (100, 90)]
    model = GriddedPSFModel(NDData(
        np.stack([narrow, wide, narrow, wide]),
        meta={'grid_xypos': places, 'oversampling': 2}))
    many = make_stamps(data, catalog, size=16, psf=model)
    assert many.psf.shape == (3, 13, 13)
    assert many.psf[2].max() < many.psf[0].max()
    assert many.stamp_psf(2) is not many.stamp_psf(0)

    def function(x, y):
        return np.ones((len(y), 3, 3)) * np.asarray(x)[:, None, None]

    called = make_stamps(data, catalog, size=16, psf=function)
    assert_allclose(called.psf[:, 0, 0], catalog['x'])


def test_wrong_arguments(image):
    data, segments, catalog = image
    with pytest.raises(ValueError, match='psf must be a square image of odd'):
        make_stamps(data, catalog, psf=np.ones((4, 4)))
    with pytest.raises(ValueError, match='size must be a positive whole'):
        make_stamps(data, catalog, size=10.5)
    with pytest.raises(ValueError, match='wcs must be given with size'):
        make_stamps(data, catalog, size=10 * u.arcsec)
    with pytest.raises(ValueError, match='wcs must be given with positions'):
        make_stamps(data, SkyCoord([1], [2], unit='deg'))
    with pytest.raises(ValueError, match='segmentation must have the shape'):
        make_stamps(data, catalog, segmentation=segments[1:])
    with pytest.raises(ValueError, match='catalog must have the columns x_fit '
                       r'and y_fit, .*, or ra and dec: got a$'):
        make_stamps(data, QTable({'a': [1]}))
    with pytest.raises(ValueError, match="keep names 'magnitude'"):
        make_stamps(data, catalog, keep=[('magnitude', 1, 2)])
    with pytest.raises(ValueError, match=r'no source .* \(off the image\)'):
        make_stamps(data, [[-50.0, 3.0]])
    with pytest.raises(ValueError, match='ids of the catalog must differ'):
        make_stamps(data, QTable({'id': [1, 1], 'x': [5, 6], 'y': [5, 6]}))


def assert_same(first, second):
    """
    Raise unless two stamps are the same, bit by bit.
    """
    for name in ('data', 'error', 'mask', 'segmentation', 'psf'):
        own, other = getattr(first, name), getattr(second, name)
        assert own.dtype == other.dtype
        assert np.array_equal(own, other, equal_nan=own.dtype.kind == 'f')
    assert first.table.colnames == second.table.colnames
    for name in first.table.colnames:
        assert np.all(first.table[name] == second.table[name])
    assert first.meta == second.meta
    assert_allclose(first.wcs.wcs.crval, second.wcs.wcs.crval)
    assert_allclose(first.wcs.pixel_scale_matrix,
                    second.wcs.pixel_scale_matrix)


@pytest.mark.parametrize('name', ['a.h5', 'a.fits'])
def test_files(tmp_path, stamps, name):
    """
    Files are read back as they were, as a whole or in parts.
    """
    path = tmp_path / name
    stamps.write(path)
    assert_same(read_stamps(path), stamps)
    assert_same(read_stamps(path, names=['00_0012', '00_0007']),
                stamps[[2, 0]])
    with pytest.raises(ValueError, match='has no stamp 00_0001'):
        read_stamps(path, names=['00_0001'])
    with pytest.raises(FileExistsError, match='exists already'):
        stamps.write(path)


@pytest.mark.parametrize('compression', ['none', 'low', 'high'])
def test_compression(tmp_path, stamps, compression):
    path = tmp_path / 'a.hdf5'
    stamps.write(path, compression=compression)
    assert_same(read_stamps(path), stamps)


@pytest.mark.parametrize('name', ['a.h5', 'a.fits'])
def test_catalog_of_photutils(tmp_path, image, name):
    """
    The table of a SourceCatalog without a WCS has columns of None, which
    no file can hold.
    """
    data, segments, _ = image
    catalog = SourceCatalog(data, SegmentationImage(segments)).to_table()
    stamps = make_stamps(data, catalog, size=16, segmentation=segments)
    assert list(stamps.table['label']) == [1, 2, 3]
    stamps.write(tmp_path / name)
    other = read_stamps(tmp_path / name)
    assert_allclose(other.table['segment_flux'], catalog['segment_flux'])


def test_files_of_dre(tmp_path, stamps):
    """
    Files with obj, seg, and rms alone are read, too.
    """
    h5py = pytest.importorskip('h5py')
    path = tmp_path / 'image_cuts.h5'
    stamps.write(path, format='dre')
    assert np.array_equal(read_stamps(path).error, stamps.error,
                          equal_nan=True)
    with h5py.File(path) as file:
        assert sorted(file['00_0007']) == ['obj', 'rms', 'seg']
    plain = tmp_path / 'plain.h5'
    with h5py.File(plain, 'w') as file:
        for number in range(3):
            group = file.create_group(f'00_{number + 5:04d}')
            for plane, name in (('data', 'obj'), ('error', 'rms'),
                                ('segmentation', 'seg')):
                group[name] = getattr(stamps, plane)[number]
    other = read_stamps(plain)
    for plane in ('data', 'error', 'segmentation'):
        assert np.array_equal(getattr(other, plane), getattr(stamps, plane),
                              equal_nan=plane != 'segmentation')
    assert list(other.table['id']) == [5, 6, 7]
    assert np.array_equal(other.mask, ~np.isfinite(stamps.data))


def test_files_that_cannot_be_read(tmp_path, stamps):
    h5py = pytest.importorskip('h5py')
    path = tmp_path / 'other.h5'
    with h5py.File(path, 'w') as file:
        file.create_group('chi')['cube'] = np.zeros(3)
    with pytest.raises(ValueError, match=r"other.h5' has no stamps.*cube"):
        read_stamps(path)
    text = tmp_path / 'a.txt'
    text.write_text('nothing here')
    with pytest.raises(ValueError, match='is neither HDF5 nor FITS'):
        read_stamps(text)
    image = tmp_path / 'image.fits'
    fits.PrimaryHDU(np.ones((2, 2))).writeto(image)
    with pytest.raises(ValueError, match='expected a file of'):
        read_stamps(image)
    with pytest.raises(ValueError, match="format must be 'hdf5'"):
        stamps.write(tmp_path / 'a.dat')
    with pytest.raises(ValueError, match='compression must be one of'):
        stamps.write(tmp_path / 'a.h5', compression='best')


def test_failed_write_leaves_nothing(tmp_path, stamps, monkeypatch):
    """
    A file appears only when it is complete.
    """
    from hyperphotutils.stamps import writers

    def fail(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(writers, '_write_group', fail)
    with pytest.raises(OSError, match='No space left'):
        stamps.write(tmp_path / 'a.h5')
    assert not list(tmp_path.iterdir())


def test_galfits_file(tmp_path, stamps):
    """
    Image, mask, errors, and PSF are the extensions 0 to 3.
    """
    path = tmp_path / 'a.fits'
    write_galfits(stamps, 0, path)
    with fits.open(path) as hdus:
        assert len(hdus) == 4
        assert np.array_equal(hdus[0].data, stamps.data[0])
        expected = stamps.mask[0] | stamps.neighbors()[0]
        assert np.array_equal(hdus[1].data == 1, expected)
        assert np.array_equal(hdus[2].data, stamps.error[0])
        assert np.array_equal(hdus[3].data, stamps.psf)
        wcs = WCS(hdus[0].header)
        sky = wcs.pixel_to_world(*stamps.positions[0])
        assert_allclose(sky.ra.deg, stamps.table['ra'][0].value)
    write_galfits(stamps, 2, tmp_path / 'b.fits')
    with fits.open(tmp_path / 'b.fits') as hdus:
        assert all(np.isfinite(hdu.data).all() for hdu in hdus)


def test_galfit_files(tmp_path, stamps):
    """
    The parameter file names the other files, counts positions from 1,
    and begins at the moments of the source.
    """
    path = write_galfit(stamps, 0, tmp_path / 'galfit')
    folder = path.parent
    lines = [line.split() for line in path.read_text().splitlines() if
             line and not line.startswith('#')]
    values = {}
    for first, *others in lines:
        values.setdefault(first, others)
    for key in ('A)', 'C)', 'D)', 'F)', 'G)'):
        assert (folder / values[key][0]).is_file()
    assert values['J)'] == ['25.0000']
    assert_allclose([float(value) for value in values['1)'][:2]],
                    stamps.positions[0] + 1.0, atol=1e-3)
    # elongated along x: 90 degrees from the y axis
    assert_allclose(abs(float(values['10)'][0])), 90.0, atol=5.0)
    assert_allclose(float(values['9)'][0]), 2.0 / 3.0, atol=0.15)
    flux = 5.0 * 2.0 * np.pi * 6.0
    assert_allclose(float(values['3)'][0]), 25.0 - 2.5 * np.log10(flux),
                    atol=0.4)
    scale = 3600 * np.sqrt(abs(np.linalg.det(make_wcs().wcs.cd)))
    assert_allclose(float(values['K)'][0]), scale, rtol=1e-5)
    assert fits.getheader(folder / '00_0007_image.fits')['EXPTIME'] == 1.0
    constraints = (folder / '00_0007.constraints').read_text()
    assert '1   n   0.2 to 8.0' in constraints


def test_galfit_needs_a_zero_point(image, tmp_path):
    data, _, catalog = image
    stamps = make_stamps(data, catalog, size=16)
    with pytest.raises(ValueError, match='zero_point must be given'):
        write_galfit(stamps, 0, tmp_path)
    path = write_galfit(stamps, 0, tmp_path, zero_point=22.5)
    assert 'C) none' in path.read_text()
    with pytest.raises(ValueError, match='GalfitS needs error and psf'):
        write_galfits(stamps, 0, tmp_path / 'a.fits')


def test_chosen_stamps_have_their_own_psfs(image):
    """
    A varying PSF is cut with the stamps, and the repr says what they have.
    """
    data, _, catalog = image
    psfs = np.arange(2.0 * 9).reshape(2, 3, 3)
    stamps = make_stamps(data, catalog[:2], size=16, psf=lambda *_: psfs)
    assert repr(stamps) == '<Stamps(n=2, size=16, with data, mask, psf)>'
    assert_allclose(stamps[[1]].psf, psfs[1:])


def test_catalog_of_another_shape_is_refused(image):
    with pytest.raises(ValueError,
                       match=r'catalog must have the shape \(n, 2\)'):
        make_stamps(image[0], np.ones((3, 4)), size=16)


def test_stamps_without_pixels_are_not_written_for_galfit(image, tmp_path):
    data = np.full(image[0].shape, np.nan)
    data[0, 0] = 1.0
    stamps = make_stamps(data, image[2][:1], size=16, error=1.0,
                         psf=np.ones((3, 3)) / 9.0,
                         meta={'zero_point': 25.0, 'gain': 1.0})
    with pytest.raises(ValueError, match='stamp 0 has no usable pixel'):
        write_galfit(stamps, 0, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['stamps.h5', 'stamps.fits'])
@pytest.mark.parametrize('part', [0.02, 0.5, 0.9])
def test_damaged_files_are_named(stamps, tmp_path, name, part):
    """
    A truncated file is no riddle of the library that reads it.
    """
    if name.endswith('h5'):
        pytest.importorskip('h5py')
    stamps.write(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:int(part * len(content))])
    with pytest.raises(MapError, match=rf"{name}' is truncated or damaged: .*"
                       'make or fetch it again'):
        read_stamps(tmp_path / name)
