# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of ``hyperphot sky``, ``psf``, ``stamps``, and ``galaxies``.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable

from hyperphotutils.datasets import make_galaxy_field
from hyperphotutils.pipeline import ImageConfig, cli
from hyperphotutils.pipeline import galaxies as galaxies_module
from hyperphotutils.pipeline.cli import main
from hyperphotutils.pipeline.products import PRODUCTS
from hyperphotutils.psf import read_psf
from hyperphotutils.stamps import read_stamps

pytest.importorskip('skimage')


@pytest.fixture(scope='module', name='files')
def fixture_files(tmp_path_factory):
    """
    The files of a field, its PSF, its truth, and an image of noise.
    """
    field = make_galaxy_field((200, 200), 4, n_stars=10, sky=20.0,
                              snr=(60.0, 300.0), seed=2)
    folder = tmp_path_factory.mktemp('field')
    noise = np.random.default_rng(1).normal(size=(150, 150))
    for name, data in (('tile', field.data), ('psf', field.psf),
                       ('noise', noise)):
        fits.PrimaryHDU(data).writeto(folder / f'{name}.fits')
    field.truth.write(folder / 'truth.ecsv')
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(name='hyper')
def fixture_hyper(capsys, tmp_path, monkeypatch):
    """
    A function that runs the command, and returns status, output, and
    errors.
    """
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def list_products(kind, *, without=()):
    return {'run.log', 'run.json', *(
        product.name for product in PRODUCTS if kind in product.kinds)
        } - set(without)


def test_galaxies_from_the_file_alone(files, hyper, read_page, tmp_path):
    """
    One command makes the products of the registry; what was not given is
    in the log; the same command has nothing left to do, and others are
    told apart.
    """
    call = ('galaxies', files['tile.fits'], '--gain', 5, '--size', 48,
            '--truth', files['truth.ecsv'])
    status, out, err = hyper(*call)
    assert (status, err) == (0, '')
    counts, = re.findall(r'tile: (4 of \d+ sources fitted as galaxies .*), '
                         'median', out.replace('; ', ', '))
    assert 'PSF of' in out
    folder = tmp_path / 'hyperphot_galaxies' / 'tile'
    assert {path.name for path in folder.iterdir()} == list_products(
        'galaxies', without=('chi2.h5', 'dre.fits', 'mosaics.fits'))
    assert len(QTable.read(folder / 'galaxies.ecsv')) == 4
    log = (folder / 'run.log').read_text()
    assert 'with 1 sample along each axis (psf_oversampling)' in log
    for text in ('fwhm: ', 'psf: ', 'sky: polynomial', 'max_radius: an eighth',
                 'measuring     ', 'n_galaxies    4',
                 'products in this folder\n  galaxies.ecsv: the galaxies'):
        assert text in log
    assert counts in log
    page = read_page(folder / 'report.html')
    assert len(page['catalog']['rows']) == 4
    assert page['cutouts']['names'] == ['data', 'model', 'residual']
    text = (folder / 'report.html').read_text(encoding='utf-8')
    assert counts in text
    assert 'n_galaxies    4' in text
    status, _, err = hyper('report', folder)
    assert status != 0
    assert 'not made by hyperphot run: only its pages can be made again' in err
    assert '{' not in log
    assert 'nothing left to do' in hyper(*call)[1]
    status, _, err = hyper(*call, '--threshold', '2')
    assert status == 2
    assert 'image.threshold is 2.0, was 1.5' in err


def test_psf_of_several_images(files, hyper, tmp_path):
    """
    An image without stars does not affect the others, and is tried again.
    """
    call = ('psf', files['tile.fits'], files['noise.fits'], '--jobs', 2)
    status, out, err = hyper(*call)
    assert status == 1
    assert 'tile: PSF of' in out
    assert '1 of 2 images failed' in err
    assert 'noise.fits' in err
    assert 'lower min_snr (now 15)' in err
    output = tmp_path / 'hyperphot_psf'
    assert {path.name for path in (output / 'tile').iterdir()} == (
        list_products('psf'))
    assert 2.5 < read_psf(output / 'tile' / 'psf.fits').fwhm() < 3.5
    table = QTable.read(output / 'diagnostics.ecsv')
    assert list(table['status']) == ['done', 'failed']
    assert table['psf_stars'][0] > 3
    assert 'continuing: 1 of 2 images are done already' in hyper(*call)[1]


def test_stamps_in_several_formats(files, hyper, tmp_path):
    """
    The formats are those that are asked for, and --overwrite replaces
    their folders.
    """
    pytest.importorskip('h5py')
    call = ('stamps', files['tile.fits'], '--psf', files['psf.fits'],
            '--size', 32, '--fwhm', 3, '--zero-point', 25)
    status, out, err = hyper(*call, '--formats', 'hdf5,galfit,galfits')
    assert (status, err) == (0, '')
    assert 'tile: 4 stamps' in out
    folder = tmp_path / 'hyperphot_stamps' / 'tile'
    assert len(read_stamps(folder / 'stamps.h5')) == 4
    assert len(list((folder / 'galfit').glob('*.feedme'))) == 4
    status, _, err = hyper(*call, '--formats', 'fits', '--overwrite')
    assert (status, err) == (0, '')
    assert {path.name for path in folder.iterdir()} == list_products(
        'stamps', without=('stamps.h5', 'cuts.h5', 'galfit', 'galfits'))


def test_interrupted_sky_is_made_by_the_same_command(files, hyper, tmp_path,
                                                     monkeypatch):
    call = ('sky', files['tile.fits'], '--fwhm', 3, '--sky-order', 0)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(galaxies_module, 'subtract_sky', interrupt)
        status, _, err = hyper(*call)
    assert status == 130
    assert 'completed images are kept' in err
    folder = tmp_path / 'hyperphot_sky' / 'tile'
    assert not folder.exists()
    status, out, _ = hyper(*call)
    assert status == 0
    assert 'rms of the sky' in out
    assert {path.name for path in folder.iterdir()} == list_products('sky')
    log = json.loads((folder / 'sky_log.json').read_text())
    assert log['options']['sky_order'] == '0'


def test_progress_bar_has_stages(files, hyper, monkeypatch):
    """
    On a terminal, the steps of a single image are shown.
    """
    monkeypatch.setattr(cli, '_show_progress', lambda _: True)
    _, _, err = hyper('sky', files['tile.fits'], '--fwhm', 3)
    assert 'sky:' in err
    assert 'products:' in err


@pytest.mark.parametrize(('arguments', 'message'), [
    (('psf',), 'input.maps: no image is given'),
    (('sky', 'a.fits', 'a.fits'), 'a.fits: this image is named twice'),
    (('psf', 'a.fits', '--gain', 'many'), '--gain: image.gain:'),
    (('psf', 'a.fits', '--psf-size', '24'), '24 is not allowed, must be odd'),
    (('galaxies', 'a.fits', '--n-bounds', '3,2'), 'lower < upper'),
    (('stamps', 'a.fits', '--formats', 'png'),
     "--formats: stamps.formats: 'png' is not allowed"),
])
def test_bad_usage_is_one_line(hyper, tmp_path, arguments, message):
    status, out, err = hyper(*arguments)
    assert (status, out) == (2, '')
    assert message in err
    assert err.count('\n') == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(('arguments', 'message'), [
    (('no.fits',), 'no.fits: '),
    (('{tile}', '--mask', 'no.fits'), 'no.fits'),
    (('{tile}', '--error', '{psf}', '--fwhm', '3'), 'must have the shape'),
    (('{tile}', '--sextracted', 'nowhere'), "'nowhere' has no"),
    (('{tile}', '--psf', 'no.fits'), 'no.fits'),
    (('{tile}', '--gain', 'counts', '--fwhm', '3'), 'no gain'),
    (('{tile}', '--psf', 'cut.fits'), "'cut.fits' is truncated or damaged"),
    (('{tile}', '--cube', 'cut.fits', '--psf', '{psf}', '--size', '32'),
     "'cut.fits' is truncated or damaged"),
    (('cut.fits',), 'cut.fits: is truncated or damaged'),
])
def test_errors_of_files_are_one_line(files, hyper, arguments, message):
    content = files['psf.fits'].read_bytes()
    Path('cut.fits').write_bytes(content[:len(content) // 2])
    names = {'tile': files['tile.fits'], 'psf': files['psf.fits']}
    status, out, err = hyper('galaxies', *(
        argument.format(**names) for argument in arguments))
    assert (status, out) == (1, '')
    assert message in err
    assert err.count('\n') == 1
    assert 'unexpected' not in err


def test_configuration_of_a_path(tmp_path):
    """
    Files can be given as paths, and their names are expanded.
    """
    config = ImageConfig(image={'psf': tmp_path / 'psf.fits'})
    assert config.shared_files == (str(tmp_path / 'psf.fits'),)
