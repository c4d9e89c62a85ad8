# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the files of SExtractor, PSFEx, DRE, and GalfitS.
"""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning
from numpy.testing import assert_allclose, assert_array_equal

from hyperphotutils.compat.dre import (
    read_dre_chi2,
    read_dre_summary,
    read_sextracted,
)
from hyperphotutils.compat.galfits import read_galfits
from hyperphotutils.compat.sextractor import (
    read_psfex_config,
    read_sextractor_catalog,
    read_sextractor_config,
    read_sextractor_images,
)
from hyperphotutils.datasets import make_galaxy_field
from hyperphotutils.detection import ExtendedSourceFinder
from hyperphotutils.galaxy import SersicCube

ROWS = {'NUMBER': [1, 2], 'X_IMAGE': [11.0, 31.5], 'Y_IMAGE': [21.0, 41.0],
        'ALPHA_J2000': [10.0, 10.1], 'DELTA_J2000': [-1.0, -1.1],
        'FLUX_AUTO': [100.0, 50.0], 'CLASS_STAR': [0.98, 0.02],
        'FLAGS': [0, 3], 'MAG_BEST': [20.0, 21.0]}


def write_catalog(path, kind):
    """
    Write a catalog as SExtractor does.
    """
    hdu = fits.BinTableHDU(Table(ROWS))
    if kind == 'FITS_LDAC':
        header = fits.BinTableHDU.from_columns([fits.Column(
            'Field Header Card', '80A', array=np.array(['SIMPLE = T']))],
            name='LDAC_IMHEAD')
        hdu.name = 'LDAC_OBJECTS'
        fits.HDUList([fits.PrimaryHDU(), header, hdu]).writeto(path)
    elif kind == 'FITS_1.0':
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    else:
        lines = [f'# {i:3d} {name:15s} Text' for i, name in
                 enumerate(ROWS, 1)]
        lines += [' '.join(f'{ROWS[name][i]:10g}' for name in ROWS)
                  for i in range(2)]
        path.write_text('\n'.join(lines) + '\n')


@pytest.mark.parametrize('kind', ['FITS_LDAC', 'FITS_1.0', 'ASCII_HEAD'])
def test_catalogs(tmp_path, kind):
    """
    All types give the same table, with positions that count from 0.
    """
    path = tmp_path / 'image.cat'
    write_catalog(path, kind)
    table = read_sextractor_catalog(path)
    assert_allclose(table['x_centroid'], [10.0, 30.5])
    assert_allclose(table['y_centroid'], [20.0, 40.0])
    assert_allclose(table['kron_flux'], [100.0, 50.0])
    assert_allclose(table['star_index'], [0.98, 0.02])
    assert_allclose(table['sky_centroid'].ra.deg, [10.0, 10.1])
    assert_array_equal(table['id'], [1, 2])
    assert_array_equal(table['sextractor_flags'], [0, 3])
    assert_allclose(table['MAG_BEST'], [20.0, 21.0])


def test_bad_catalogs(tmp_path):
    """
    Files that are not catalogs, or have no positions, are refused by name.
    """
    path = tmp_path / 'a.cat'
    path.write_text('no catalog\nat all, this\n')
    with pytest.raises(ValueError, match=r'a\.cat.*not a catalog'):
        read_sextractor_catalog(path)
    fits.BinTableHDU(Table({'NUMBER': [1]})).writeto(tmp_path / 'b.cat')
    with pytest.raises(ValueError, match=r'b\.cat.*no positions'):
        read_sextractor_catalog(tmp_path / 'b.cat')
    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / 'c.cat')
    with pytest.raises(ValueError, match=r'c\.cat.*no table'):
        read_sextractor_catalog(tmp_path / 'c.cat')


def test_sextractor_config(tmp_path):
    """
    The keys that matter become a finder; one warning names the others.
    """
    path = tmp_path / 'default.sex'
    path.write_text("""# a comment
CATALOG_NAME   test.cat   # the output
DETECT_THRESH    2.5
DEBLEND_MINCONT  0.001
PIXEL_SCALE      0.2
SEEING_FWHM      0.8
GAIN             4.0
PHOT_APERTURES   5,10
""")
    with pytest.warns(AstropyUserWarning,
                      match='CATALOG_NAME, PHOT_APERTURES') as caught:
        config = read_sextractor_config(path)
    assert len(caught) == 1
    assert config.ignored == ('CATALOG_NAME', 'PHOT_APERTURES')
    assert config.gain == 4.0
    finder = config.make_finder()
    assert_allclose(finder.fwhm, 4.0)
    assert (finder.threshold, finder.contrast) == (2.5, 0.001)
    # SExtractor's own value of a missing key
    assert (finder.n_pixels, finder.bkg_size) == (5, 64)


def test_pixel_scale_of_config(tmp_path):
    """
    A PIXEL_SCALE of 0 is that of the image, which has to be given.
    """
    path = tmp_path / 'default.sex'
    path.write_text('PIXEL_SCALE 0\nSEEING_FWHM 0.9\nGAIN 0\n')
    config = read_sextractor_config(path)
    assert config.gain is None
    assert_allclose(config.make_finder(0.3).fwhm, 3.0)
    with pytest.raises(ValueError, match='pixel_scale must be given'):
        config.make_finder()


@pytest.mark.parametrize(('text', 'message'), [
    ('DETECT_THRESH', 'no value'), ('DETECT_THRESH 1.5,22', 'one number'),
    ('DETECT_MINAREA many', 'DETECT_MINAREA must be a number')])
def test_bad_config(tmp_path, text, message):
    """
    Lines that are not understood are refused with the file.
    """
    path = tmp_path / 'bad.sex'
    path.write_text(text)
    with pytest.raises(ValueError, match=rf'bad\.sex.*{message}'):
        read_sextractor_config(path)


def test_psfex_config(tmp_path):
    """
    The keys of PSFEx become a selector and a builder.
    """
    path = tmp_path / 'default.psfex'
    path.write_text('PSF_SIZE 51,51\nPSF_SAMPLING 0.5\nPSFVAR_DEGREES 1\n'
                    'SAMPLE_MINSN 30\nSAMPLE_MAXELLIP 0.2\nBASIS_TYPE '
                    'PIXEL_AUTO\n')
    with pytest.warns(AstropyUserWarning, match='BASIS_TYPE'):
        config = read_psfex_config(path)
    builder, selector = config.make_builder(), config.make_selector(3.0)
    assert (builder.size, builder.oversampling, builder.order) == (25, 2, 1)
    assert (selector.min_snr, selector.max_ellipticity) == (30.0, 0.2)


@pytest.mark.parametrize('subfolder', [True, False])
def test_folder_of_sex_dre(tmp_path, subfolder):
    """
    Catalog and check images are found in both layouts, and hold what the
    finder of the package returns.
    """
    field = make_galaxy_field((150, 150), 3, sky=4.0, seed=1)
    sources = ExtendedSourceFinder(3.0, deblend=False)(field.data)
    folder = tmp_path / 'tile' if subfolder else tmp_path
    folder.mkdir(exist_ok=True)
    Table({'NUMBER': sources.catalog['id'],
           'X_IMAGE': sources.catalog['x_centroid'] + 1,
           'Y_IMAGE': sources.catalog['y_centroid'] + 1}).write(
        folder / 'tile_cat.fits')
    for name, image in (('seg', sources.segmentation.data),
                        ('rms', sources.background_rms),
                        ('nb', sources.data)):
        fits.PrimaryHDU(image).writeto(folder / f'tile_{name}.fits')
    fits.PrimaryHDU(field.data).writeto(tmp_path / 'tile.fits')
    again = read_sextracted(tmp_path, 'tile', image=tmp_path / 'tile.fits')
    assert_allclose(again.catalog['x_centroid'],
                    sources.catalog['x_centroid'])
    assert_array_equal(again.segmentation.data, sources.segmentation.data)
    assert_allclose(again.background, sources.background)
    content = (folder / 'tile_rms.fits').read_bytes()
    (folder / 'tile_rms.fits').write_bytes(content[:len(content) // 2])
    with pytest.raises(ValueError, match=r"tile_rms\.fits' is truncated"):
        read_sextracted(tmp_path, 'tile')
    (folder / 'tile_rms.fits').unlink()
    with pytest.raises(FileNotFoundError, match=r'tile_rms\.fits'):
        read_sextracted(tmp_path, 'tile')


def test_segments_of_another_catalog(tmp_path):
    """
    Segments that are not those of the catalog are refused.
    """
    write_catalog(tmp_path / 'a_cat.fits', 'FITS_1.0')
    for name in ('seg', 'rms', 'nb'):
        fits.PrimaryHDU(np.ones((50, 50), dtype='i4')).writeto(
            tmp_path / f'a_{name}.fits')
    with pytest.raises(ValueError, match='no segment 2'):
        read_sextracted(tmp_path, 'a')


@pytest.mark.parametrize('suffix', ['fits', 'dat'])
def test_summary(tmp_path, suffix):
    """
    Summaries of DRE get our names; those that we write are read back.
    """
    cube = SersicCube(np.ones((1, 1)), n=[1, 2], r_eff=[2, 3, 4.5],
                      q=[0.5, 1.0], theta=[0, 90], size=32)
    result = cube.fit(10.0 * cube.models[1, 0, 1, 1], error=0.01)
    path = tmp_path / f'summary.{suffix}'
    summary = result.summary('dre')
    summary.meta.clear()
    summary.write(
        path, format='fits' if suffix == 'fits' else 'ascii.commented_header')
    table = read_dre_summary(path)
    best = result.summary()
    for name in ('n_grid', 'q_grid', 'r_eff_grid', 'r_eff_parabola'):
        assert_allclose(table[name], best[name], rtol=1e-5)
    Table({'A': [1]}).write(tmp_path / 'other.fits')
    with pytest.raises(ValueError, match='not a summary of DRE'):
        read_dre_summary(tmp_path / 'other.fits')


def test_chi2(tmp_path):
    """
    Cubes of chi-squared are read by the names of the galaxies.
    """
    h5py = pytest.importorskip('h5py')
    cube = np.arange(24.0).reshape(2, 3, 4)
    with h5py.File(tmp_path / 'a_chi.h5', 'w') as file:
        file['00_0001'] = cube
    assert_array_equal(read_dre_chi2(tmp_path / 'a_chi.h5')['00_0001'], cube)
    with h5py.File(tmp_path / 'b_chi.h5', 'w') as file:
        file['a'] = 1.0
    with pytest.raises(ValueError, match='no cubes'):
        read_dre_chi2(tmp_path / 'b_chi.h5')
    content = (tmp_path / 'a_chi.h5').read_bytes()
    (tmp_path / 'c_chi.h5').write_bytes(content[:len(content) // 2])
    with pytest.raises(ValueError, match=r"c_chi\.h5' is truncated or damag"):
        read_dre_chi2(tmp_path / 'c_chi.h5')


def test_galfits_layout(tmp_path):
    """
    Files without the three images, or of different sizes, are refused.
    """
    image = np.ones((16, 16), dtype='f4')
    hdus = [fits.PrimaryHDU(image), fits.ImageHDU(image.astype('i2')),
            fits.ImageHDU(image)]
    fits.HDUList(hdus).writeto(tmp_path / 'good.fits')
    stamps = read_galfits(tmp_path / 'good.fits')
    assert stamps.mask.all()
    fits.HDUList(hdus[:2]).writeto(tmp_path / 'short.fits')
    with pytest.raises(ValueError, match=r'short\.fits.*not a cutout'):
        read_galfits(tmp_path / 'short.fits')
    small = [fits.PrimaryHDU(image[:8, :8])] + [
        fits.ImageHDU(image[:8, :8]) for _ in range(2)]
    fits.HDUList(small).writeto(tmp_path / 'small.fits')
    with pytest.raises(ValueError, match='differs'):
        read_galfits([tmp_path / 'good.fits', tmp_path / 'small.fits'])


def test_check_images_of_any_kind(tmp_path):
    """
    The background is that of the check image, or the image minus the one
    without it; images of another shape, and missing ones, are refused.
    """
    labels = np.zeros((50, 50), dtype='i4')
    labels[20, 10], labels[40, 31] = 1, 2
    images = {'seg': labels, 'rms': np.ones((50, 50)),
              'image': np.full((50, 50), 7.0), 'level': np.full((50, 50), 4.0),
              'other': np.ones((9, 9)), 'cube': np.ones((2, 50, 50))}
    paths = {name: tmp_path / f'{name}.fits' for name in images}
    for name, image in images.items():
        fits.PrimaryHDU(image).writeto(paths[name])
    write_catalog(tmp_path / 'a.cat', 'FITS_1.0')

    def read(**options):
        return read_sextractor_images(
            tmp_path / 'a.cat', **{'segmentation': paths['seg'],
                                   'rms': paths['rms']} | options)

    sources = read(background=paths['level'], image=paths['image'])
    assert np.all(sources.data == 3.0)
    assert np.all(sources.background == 4.0)
    sources = read(background=paths['level'],
                   background_subtracted=paths['image'])
    assert np.all(sources.data == 7.0)
    assert np.all(sources.background == 4.0)
    with pytest.raises(ValueError, match='background_subtracted must be '
                       'given, or image and background'):
        read(image=paths['image'])
    with pytest.raises(ValueError, match='must have the shape of the '
                       r'segmentation, \(50, 50\): got \(9, 9\)'):
        read(background_subtracted=paths['other'])
    with pytest.raises(ValueError, match='has no 2D image'):
        read(segmentation=paths['cube'])


def test_catalog_of_several_extensions(tmp_path):
    """
    One table of sources is read; rows without NUMBER are counted from 1.
    """
    rows = {name: values for name, values in ROWS.items() if name != 'NUMBER'}
    hdus = [fits.BinTableHDU(Table(rows), name='LDAC_OBJECTS')
            for _ in range(2)]
    fits.HDUList([fits.PrimaryHDU(), hdus[0]]).writeto(tmp_path / 'a.cat')
    catalog = read_sextractor_catalog(tmp_path / 'a.cat')
    assert_array_equal(catalog['id'], [1, 2])
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / 'b.cat')
    with pytest.raises(ValueError, match='has 2 tables of sources, one for '
                       'each extension of the image'):
        read_sextractor_catalog(tmp_path / 'b.cat')


def test_galfits_needs_a_file():
    with pytest.raises(ValueError, match='paths must name a file at least'):
        read_galfits([])
