# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of one image from the file to sky, PSF, stamps, and galaxies.
"""

import io
import json

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.io.votable import validate
from astropy.nddata import (
    CCDData,
    InverseVariance,
    StdDevUncertainty,
    VarianceUncertainty,
)
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

from hyperphotutils.catalog import (
    RESULT_TABLES,
    find_column,
    read_catalog,
    write_catalog,
)
from hyperphotutils.compat.galfits import read_galfits
from hyperphotutils.datasets import make_galaxy_field
from hyperphotutils.galaxy import SersicRenderer
from hyperphotutils.pipeline.galaxies import (
    ImageOptions,
    ImageResult,
    _Outcome,
    run_galaxies,
    run_psf,
    run_sky,
    run_stamps,
)
from hyperphotutils.pipeline.galaxy_fits import (
    ADDED_COLUMNS,
    SIZES,
    find_levels,
)
from hyperphotutils.pipeline.products import PRODUCTS
from hyperphotutils.psf import EmpiricalPSFBuilder, read_psf
from hyperphotutils.stamps import read_stamps
from hyperphotutils.utils import FLAGS

pytest.importorskip('skimage')


@pytest.fixture(scope='module')
def field():
    return make_galaxy_field((260, 260), 6, n_stars=12, sky=20.0,
                             snr=(60.0, 300.0), seed=2)


@pytest.fixture(scope='module')
def path(field, tmp_path_factory):
    """
    The field as a file with coordinates and unit.
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = 'RA---TAN', 'DEC--TAN'
    wcs.wcs.crpix = 130, 130
    wcs.wcs.crval = 30.0, 5.0
    wcs.wcs.cdelt = -1e-4, 1e-4
    header = wcs.to_header()
    header['BUNIT'], header['GAIN'] = 'adu', 5.0
    name = tmp_path_factory.mktemp('field') / 'tile.fits'
    fits.PrimaryHDU(field.data, header).writeto(name)
    return name


@pytest.fixture(scope='module')
def galaxies(field, path, tmp_path_factory):
    return run_galaxies(
        path, tmp_path_factory.mktemp('out'),
        ImageOptions(gain='counts', size=48, zero_point=25.0),
        truth=field.truth, chi2=True, mosaics=True)


def test_galaxies_alone(field, galaxies):
    """
    From the file alone, all galaxies get a row near the truth.
    """
    table = galaxies.table
    true = field.truth[field.truth['kind'] == 'galaxy']
    distance = np.hypot(table['x_fit'][:, None] - true['x'],
                        table['y_fit'][:, None] - true['y'])
    assert len(table) == len(true)
    assert distance.min(axis=0).max() < 0.5
    order = distance.argmin(axis=0)
    assert_allclose(table['flux_fit'][order].value, true['flux'], rtol=0.25)
    assert 0.85 < np.median(table['reduced_chi2']) < 1.15
    assert str(table['flux_fit'].unit) == 'adu'
    assert_allclose(table['mag_fit'].to_value('mag'), 25.0 - 2.5 * np.log10(
        table['flux_fit'].value))
    assert tuple(table.colnames) == RESULT_TABLES['galaxies'] + ADDED_COLUMNS


def test_columns_are_described_in_files(galaxies, tmp_path):
    """
    ECSV, FITS, and VOTable have the units, descriptions, and UCDs of the
    registry, and the VOTable is valid.
    """
    table = galaxies.table
    write_catalog(table, tmp_path / 'a.vot')
    report = io.StringIO()
    assert validate(str(tmp_path / 'a.vot'), output=report), report.getvalue()
    for path in (galaxies.files['galaxies'], galaxies.files['galaxies_fits'],
                 tmp_path / 'a.vot'):
        found = read_catalog(path)
        assert found.colnames == table.colnames
        for name in table.colnames:
            known = find_column(name, kind='galaxies')
            assert found[name].info.description == known.description
            if name != 'sky_centroid':
                assert getattr(found[name], 'unit', None) == (
                    known.unit_for(u.adu))
    header = fits.getheader(galaxies.files['galaxies_fits'], 1)
    n_columns = header['TFIELDS']
    assert n_columns == len(table.colnames) + 1
    for number in range(1, n_columns + 1):
        assert header[f'TUCD{number}']
        assert header[f'TCOMM{number}']


def test_defaults_are_recorded(galaxies):
    """
    The log and the table say how what was not given has been found.
    """
    log = json.loads(galaxies.files['log'].read_text(encoding='utf-8'))
    assert set(log['defaults']) >= {'fwhm', 'sky', 'error', 'psf', 'sources',
                                    'galaxies', 'models'}
    assert 'size' not in log['defaults']
    assert log['options']['size'] == '48'
    assert log['result_n_galaxies'] == len(galaxies.table)
    assert 'gain 5' in galaxies.table.meta['defaults']['error']
    assert 'first fit' in log['defaults']['error']


def test_numbers_of_sources_add_up(galaxies):
    """
    Each source is a galaxy with a row, a star, or too near to the edge.
    """
    log = json.loads(galaxies.files['log'].read_text(encoding='utf-8'))
    n_sources, n_stars, n_near_edge, n_galaxies = (
        log[f'result_n_{name}'] for name in ('sources', 'stars', 'near_edge',
                                             'galaxies'))
    assert n_sources == n_stars + n_near_edge + n_galaxies
    # none vanishes: the others are listed with the reason
    rejected = QTable.read(galaxies.files['rejected'],
                           format='ascii.ecsv')
    assert np.count_nonzero(rejected['reason'] == 'star') == n_stars
    assert np.count_nonzero(rejected['reason'] == 'near_edge') == n_near_edge
    assert not set(rejected['id']) & set(galaxies.table['id'])
    assert n_stars > 0
    assert log['result_n_fitted'] == n_galaxies == len(galaxies.table)
    assert f'{n_sources} detected' in log['defaults']['sources']


def test_flags_and_reasons_in_words():
    """
    The summary and the log count flags by name, and sources without a fit by
    reason, so that the numbers add up.
    """
    notes = {'n_sources': 60, 'n_stars': 21, 'n_near_edge': 2,
             'n_galaxies': 37, 'n_fitted': 36, 'n_flagged': 13,
             'flags': {'near_bound': 12, 'unresolved': 1},
             'median_reduced_chi2': 1.0}
    outcome = _Outcome('galaxies', ImageResult('tile', notes=notes))
    assert outcome.summary.startswith(
        '36 of 60 sources fitted as galaxies (21 stars, 2 near the edge, 1 '
        'without a fit), 13 flagged: 12 near_bound, 1 unresolved; median')
    log = '\n'.join(outcome.describe())
    assert '13 of 37 galaxies have one\n  12 near_bound: ' in log
    assert '{' not in log


def test_all_products_are_there(galaxies):
    """
    Each product is a complete file that can be read.
    """
    names = {path.name for path in galaxies.files.values()}
    # the command adds the page, which shows its log
    assert names | {'report.html'} == {product.name for product in PRODUCTS
                                       if 'galaxies' in product.kinds}
    folder = galaxies.files['log'].parent
    assert {path.name for path in folder.iterdir()} == {
        path.name for path in galaxies.files.values()}
    assert_allclose(QTable.read(galaxies.files['galaxies'])['x_fit'],
                    galaxies.table['x_fit'])
    with fits.open(galaxies.files['models']) as hdus:
        assert_allclose(hdus['DATA'].data - hdus['MODEL'].data,
                        hdus['RESIDUAL'].data, atol=1e-3)
        assert hdus['MODEL'].header['CTYPE1'] == 'RA---TAN'
    with fits.open(galaxies.files['mosaics']) as hdus:
        assert hdus['MODEL'].data.shape == (len(galaxies.table), 48, 48)


def test_existing_products_are_kept(path, tmp_path):
    """
    Files are replaced only if it is asked for.
    """
    options = ImageOptions(fwhm=3.0)
    run_sky(path, tmp_path, options)
    with pytest.raises(FileExistsError, match='exists already'):
        run_sky(path, tmp_path, options)
    run_sky(path, tmp_path, options, overwrite=True)


def test_sky(field, path, tmp_path):
    """
    The image without sky, the sky, and the masks are in one file.
    """
    result = run_sky(path, tmp_path, ImageOptions(sky_order=0))
    with fits.open(result.files['sky']) as hdus:
        assert_allclose(np.median(hdus['SKY'].data), 20.0, atol=0.1)
        assert_allclose(hdus['DATA'].data + hdus['SKY'].data, field.data,
                        rtol=1e-4, atol=1e-3)
        assert 0.05 < np.mean(hdus['SOURCE_MASK'].data) < 0.8
        assert not hdus['MASK'].data.any()


def test_sky_is_an_input(field, tmp_path):
    """
    The file of an image without sky can be used as an image: its sources are
    not masked, but its bad pixels are.
    """
    bad = np.zeros(field.data.shape, dtype=np.uint8)
    bad[100:104, 50:60] = 1
    fits.HDUList([fits.PrimaryHDU(field.data), fits.ImageHDU(
        bad, name='MASK')]).writeto(tmp_path / 'image.fits')
    sky = run_sky(tmp_path / 'image.fits', tmp_path / 'a').files['sky']
    result = run_sky(sky, tmp_path / 'b', ImageOptions(subtract_sky=False))
    assert_array_equal(fits.getdata(result.files['sky'], 'MASK'), bad)


def test_psf(path, tmp_path):
    """
    The PSF is written in both formats, with its stars.
    """
    result = run_psf(path, tmp_path, ImageOptions(psf_size=25))
    psf = read_psf(result.files['psf'])
    assert psf.size == 25
    assert 2.8 < psf.fwhm() < 3.3
    assert_allclose(read_psf(result.files['psfex'])(), psf(), atol=1e-5)
    assert np.count_nonzero(result.table['used']) >= 8


@pytest.fixture
def small_psf():
    """
    The image of a Gaussian PSF.
    """
    y, x = np.mgrid[-15:16, -15:16]
    psf = np.exp(-0.5 * (x**2 + y**2) / 1.3**2)
    return psf / psf.sum()


def run_on(image, psf, catalog, labels, folder):
    """
    Fit the galaxies of an image without sky, and return the result.
    """
    for name, data in (('image', image), ('psf', psf)):
        fits.PrimaryHDU(data).writeto(folder / f'{name}.fits')
    return run_galaxies(
        folder / 'image.fits', folder / 'out',
        ImageOptions(psf=folder / 'psf.fits', subtract_sky=False),
        catalog=catalog, segmentation=labels)


def test_stamps_of_fits_follow_the_galaxies(small_psf, tmp_path):
    """
    Without a size, a small galaxy has a small stamp, and a galaxy that is
    too large for its stamp gets larger ones until it is below the bound.
    """
    image = np.zeros((200, 200))
    image[20:180, 20:180] = SersicRenderer(small_psf, 160)(
        flux=[4000.0, 1000.0], x=[60.0, 130.0], y=80.0, r_eff=[10.0, 2.0],
        n=1.0, q=0.9).sum(axis=0)
    labels = np.zeros(image.shape, dtype=int)
    labels[98:103, 78:83], labels[98:103, 148:153] = 1, 2
    image += np.random.default_rng(1).normal(0.0, 0.3, image.shape)
    catalog = QTable({'id': [1, 2], 'x_centroid': [80.0, 150.0],
                      'y_centroid': [100.0, 100.0],
                      'half_light_radius': [4.5, 2.0]})
    result = run_on(image, small_psf, catalog, labels, tmp_path)
    table = result.table
    assert list(table['id']) == [1, 2]
    assert list(table['stamp_size']) == [96, 48]
    assert_allclose(table['r_eff_fit'], [10.0, 2.0], rtol=0.05)
    assert not np.any(table['flags'] & FLAGS['near_bound'])
    assert_allclose(fits.getdata(result.files['models'], 'MODEL'),
                    image, atol=1.6)


def test_galaxies_in_the_wings_of_a_bright_one(small_psf, tmp_path):
    """
    They are fitted after it is subtracted, and none becomes as large as its
    wings; the image of the models has all.
    """
    x, y = np.array([100.0, 128.0, 84.0, 100.0]), np.array(
        [100.0, 100.0, 124.0, 71.0])
    truth = {'flux': [5e4, 120.0, 150.0, 200.0],
             'r_eff': [12.0, 1.5, 2.0, 2.5], 'n': [4.0, 1.0, 1.0, 1.0]}
    image = np.pad(SersicRenderer(small_psf, 160)(
        **truth, x=x - 20.0, y=y - 20.0).sum(axis=0), 20, mode='edge')
    rows, columns = np.mgrid[:200, :200]
    labels = np.zeros(image.shape, dtype=int)
    for label, radius in enumerate((20.0, 4.0, 4.0, 5.0), start=1):
        labels[np.hypot(columns - x[label - 1], rows - y[label - 1])
               < radius] = label
    image += np.random.default_rng(1).normal(0.0, 0.3, image.shape)
    catalog = QTable({'id': [1, 2, 3, 4], 'x_centroid': x, 'y_centroid': y,
                      'half_light_radius': [8.0, 2.0, 2.0, 2.5]})
    result = run_on(image, small_psf, catalog, labels, tmp_path)
    table = result.table
    for name in ('flux', 'r_eff'):
        assert_allclose(table[f'{name}_fit'], truth[name], rtol=0.2)
    assert not np.any(table['flags'] & FLAGS['near_bound'])
    residual = fits.getdata(result.files['models'], 'RESIDUAL')
    assert np.std(residual[:, 40:160]) < 0.33


def test_stamps_do_not_grow_with_the_sky(small_psf, tmp_path):
    """
    A faint source on a wide hump is not fitted on the largest stamp.
    """
    y, x = np.mgrid[:300, :300]
    image = 0.3 * np.exp(-0.5 * ((x - 155)**2 + (y - 150)**2) / 50.0**2)
    image += np.pad(SersicRenderer(small_psf, 32)(
        flux=40.0, x=16.0, y=16.0, r_eff=1.5, n=1.0), 134)
    image += np.random.default_rng(2).normal(0.0, 0.3, image.shape)
    labels = np.zeros(image.shape, dtype=int)
    labels[148:153, 148:153] = 1
    catalog = QTable({'id': [1], 'x_centroid': [150.0],
                      'y_centroid': [150.0], 'half_light_radius': [2.0]})
    table = run_on(image, small_psf, catalog, labels, tmp_path).table
    assert table['stamp_size'][0] <= 64
    assert table['flux_fit'][0] < 400.0


def test_stamps(path, field, tmp_path):
    """
    The stamps are written in all formats.
    """
    pytest.importorskip('h5py')
    fits.PrimaryHDU(field.psf).writeto(tmp_path / 'psf.fits')
    result = run_stamps(
        path, tmp_path / 'out',
        ImageOptions(psf=tmp_path / 'psf.fits', size=32, zero_point=25.0),
        formats=('hdf5', 'dre', 'fits', 'galfit', 'galfits'))
    n = len(result.table)
    for kind in ('hdf5', 'dre', 'fits'):
        assert len(read_stamps(result.files[kind])) == n
    cuts = sorted(result.files['galfits'].glob('*.fits'))
    assert len(read_galfits(cuts)) == n
    assert len(list(result.files['galfit'].glob('*.feedme'))) == n
    with pytest.raises(ValueError, match='formats must be of'):
        run_stamps(path, tmp_path / 'b', ImageOptions(
            psf=tmp_path / 'psf.fits'), formats=('png',))


def test_no_star(tmp_path):
    """
    Without a star, the message says what to give.
    """
    data = np.random.default_rng(1).normal(size=(150, 150))
    fits.PrimaryHDU(data).writeto(tmp_path / 'noise.fits')
    with pytest.raises(ValueError, match=r"noise\.fits' has no usable star "
                       r'\(0 detections\): lower min_snr \(now 15\)$'):
        run_psf(tmp_path / 'noise.fits', tmp_path)
    assert not list(tmp_path.glob('*.json'))


def test_one_star(tmp_path):
    """
    One star is too few, and the message says why the others are not used.
    """
    y, x = np.mgrid[:150, :150]
    data = np.random.default_rng(1).normal(size=(150, 150))
    for x_star, y_star, peak in ((40, 50, 400.0), (100, 90, 4000.0)):
        data += peak * np.exp(-((x - x_star)**2 + (y - y_star)**2) / 5.0)
    fits.PrimaryHDU(data).writeto(tmp_path / 'image.fits')
    with pytest.raises(ValueError, match='has only 1 usable star, but a PSF '
                       r'needs 2 \(2 detections, rejected: 1 saturated.*\): '
                       r'raise saturation \(now 1000\)'):
        run_psf(tmp_path / 'image.fits', tmp_path,
                ImageOptions(saturation=1e3))
    with pytest.raises(ValueError, match=', or give the PSF as a file'):
        run_galaxies(tmp_path / 'image.fits', tmp_path,
                     ImageOptions(saturation=1e3, max_star_index=2.0))


def test_too_few_stars_for_the_fit(tmp_path):
    """
    If stars are rejected after the fit or too few for it, the message has
    keys, not arguments of the builder, and names the image.
    """
    y, x = np.mgrid[:150, :150]
    data = np.random.default_rng(1).normal(size=(150, 150))
    for x_star, y_star, width in ((40, 50, 2.0), (100, 90, 2.2)):
        data += 4000.0 * np.exp(-((x - x_star)**2 + (y - y_star)**2)
                                / (2.0 * width**2))
    path = tmp_path / 'image.fits'
    fits.PrimaryHDU(data).writeto(path)
    message = (r"image\.fits': only 1 of 2 stars are left after the fit of "
               r'the PSF, at least 2 are needed \(rejected: 1 extended\): '
               r'lower min_snr \(now 15\)')
    with pytest.raises(ValueError, match=f'{message}$'):
        run_psf(path, tmp_path)
    with pytest.raises(ValueError, match=message + ', or give the PSF as a '
                       r'file \(psf\)$'):
        run_galaxies(path, tmp_path, ImageOptions(max_star_index=2.0))
    with pytest.raises(ValueError, match=r"image\.fits': 2 of 2 stars can "
                       r'be used, but a polynomial of order 9 has 55 terms: '
                       r'lower psf_order \(now 9\)'):
        run_psf(path, tmp_path, ImageOptions(psf_order=9))
    # alone, it names its own arguments
    with pytest.raises(ValueError, match='set reject_extended=False'):
        EmpiricalPSFBuilder(25)(data, QTable({'x': [40.0, 100.0],
                                              'y': [50.0, 90.0]}))


def test_planes_of_other_shape(path, tmp_path):
    """
    An error image with other pixels is refused with its name.
    """
    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / 'rms.fits')
    with pytest.raises(ValueError, match=r'rms\.fits.*must have the shape'):
        run_sky(path, tmp_path, ImageOptions(error=tmp_path / 'rms.fits'))


def test_unit_of_an_error_image(field, small_psf, tmp_path):
    """
    An error image is converted to the unit of the image, or refused.
    """
    for name, values, unit in (
            ('data', field.data, 'Jy'), ('psf', small_psf, ''),
            ('rms', 1e3 * field.error, 'mJy'), ('time', field.error, 's')):
        fits.PrimaryHDU(values, fits.Header({'BUNIT': unit})).writeto(
            tmp_path / f'{name}.fits')
    options = {'psf': tmp_path / 'psf.fits', 'size': 32, 'fwhm': 3.0}
    result = run_stamps(
        tmp_path / 'data.fits', tmp_path / 'out', ImageOptions(
            error=tmp_path / 'rms.fits', **options), formats=('fits',))
    errors = read_stamps(result.files['fits']).error
    assert_allclose(np.nanmedian(errors), np.median(field.error), rtol=0.05)
    with pytest.raises(ValueError, match=r"time\.fits' must have the unit of "
                       r".*, Jy: got BUNIT = 's'"):
        run_stamps(tmp_path / 'data.fits', tmp_path / 'other', ImageOptions(
            error=tmp_path / 'time.fits', **options), formats=('fits',))


@pytest.mark.parametrize(('kind', 'power'), [
    (StdDevUncertainty, 1), (VarianceUncertainty, 2), (InverseVariance, -2)])
def test_mask_and_errors_in_the_file(field, small_psf, tmp_path, kind, power):
    """
    Those that CCDData writes are used as those in files of their own, and
    the log says so.
    """
    bad = np.zeros(field.data.shape, dtype=np.uint8)
    bad[100:110, 100:130] = 1
    error = np.where(bad, np.nan, field.error)
    CCDData(field.data, unit='adu', mask=bad > 0, uncertainty=kind(
        error**power)).write(tmp_path / 'all.fits')
    data = fits.PrimaryHDU(field.data)
    data.header['BUNIT'] = 'adu'
    for name, hdu in (('data', data), ('psf', fits.PrimaryHDU(small_psf)),
                      ('error', fits.PrimaryHDU(error)),
                      ('mask', fits.PrimaryHDU(bad))):
        hdu.writeto(tmp_path / f'{name}.fits')
    options = {'psf': tmp_path / 'psf.fits', 'size': 32}
    result = run_galaxies(tmp_path / 'all.fits', tmp_path / 'a',
                          ImageOptions(**options))
    separate = run_galaxies(
        tmp_path / 'data.fits', tmp_path / 'b', ImageOptions(
            **options, error=tmp_path / 'error.fits',
            mask=tmp_path / 'mask.fits'))
    for name in ('ERROR', 'DATA'):
        image, other = (fits.getdata(one.files['models'], name)
                        for one in (result, separate))
        assert_allclose(image, other, rtol=1e-5, atol=1e-4)
    assert_array_equal(np.isnan(fits.getdata(result.files['models'],
                                             'ERROR')), bad > 0)
    assert_allclose(result.table['flux_fit'], separate.table['flux_fit'],
                    rtol=1e-3)
    assert result.defaults['error'] == '2 (UNCERT) of the file'
    assert result.defaults['mask'].startswith('1 (MASK) of the file: 0.4')


def test_gain_replaces_errors_in_the_file(field, tmp_path):
    """
    What is given comes first, and the log names what was not used.
    """
    CCDData(field.data, unit='adu', uncertainty=StdDevUncertainty(
        np.full(field.data.shape, 50.0))).write(tmp_path / 'all.fits')
    result = run_psf(tmp_path / 'all.fits', tmp_path / 'a',
                     ImageOptions(gain=5.0, fwhm=3.0))
    assert 'gain 5' in result.defaults['error']
    assert 'UNCERT' in result.defaults['errors of the file']


@pytest.mark.parametrize('options', [{}, {'mask': 'mask.fits'}])
def test_bit_flags_in_the_file(field, tmp_path, monkeypatch, options):
    """
    Flags of good pixels do not mask them; one warning names the file and the
    remedy, unless a mask is given.
    """
    monkeypatch.chdir(tmp_path)
    quality = np.zeros(field.data.shape, dtype=np.int16)
    quality[::2] = 4
    quality[5, 5] = 1
    fits.PrimaryHDU(quality & 1).writeto('mask.fits')
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(field.data, name='SCI'),
                  fits.ImageHDU(quality, name='DQ')]).writeto('all.fits')
    arguments = ('all.fits', 'out', ImageOptions(**options))
    if options:
        result = run_sky(*arguments)
    else:
        with pytest.warns(AstropyUserWarning, match=r'all\.fits is used '
                          r'without some.*extension 2 \(DQ\) has bit flags'):
            result = run_sky(*arguments)
    masked = fits.getdata(result.files['sky'], 'MASK') > 0
    assert masked[5, 5] == bool(options)
    assert not masked[::2].all()


@pytest.mark.parametrize('n', [1, 2, 400])
def test_levels_are_those_of_a_loop(n):
    """
    A galaxy waits for all brighter ones with an overlapping stamp, and for
    those that these wait for.
    """
    rng = np.random.default_rng(n)
    x, y = rng.uniform(0, 900, (2, n))
    flux = np.exp(rng.uniform(-2, 8, n)) * rng.choice([1, 1, 1, -1], n)
    sizes = rng.choice(SIZES, n)
    x[::50] = np.nan  # a segment without light has no center
    # and some are in one place, or at the edge of each other's stamp
    x[3:6], y[3:6] = x[1:2], y[1:2]
    x[7:8], y[7:8] = x[6:7] + 0.5 * (sizes[6:7] + sizes[7:8]), y[6:7]
    expected = np.zeros(n, dtype=int)
    for i in np.argsort(-flux):
        apart = np.maximum(np.abs(x - x[i]), np.abs(y - y[i]))
        dominant = (flux > 5.0 * max(flux[i], 0.0)) & (
            apart < 0.5 * (sizes + sizes[i]))
        if dominant.any():
            expected[i] = 1 + expected[dominant].max()
    levels = find_levels(x, y, flux, sizes)
    assert np.array_equal(levels, expected)
    assert n < 400 or levels.max() > 3
