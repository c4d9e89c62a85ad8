# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of ``hyperphot subtract``.
"""

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, VarianceUncertainty
from astropy.table import QTable
from astropy.wcs import WCS

from hyperphotutils.datasets import make_image_pair
from hyperphotutils.pipeline import (
    ConfigError,
    SubtractConfig,
    cli,
    expand_pairs,
    plan_jobs,
)
from hyperphotutils.pipeline.cli import main
from hyperphotutils.pipeline.products import PRODUCTS
from hyperphotutils.subtraction import DeltaBasis, SubtractionResult


@pytest.fixture(scope='module', name='pair')
def fixture_pair(tmp_path_factory):
    """
    The files of a pair of images, with their errors, by role.
    """
    pair = make_image_pair((150, 150), seed=3)
    folder = tmp_path_factory.mktemp('pair')
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = 'RA---TAN', 'DEC--TAN'
    wcs.wcs.cdelt = -1e-4, 1e-4
    files = {}
    for name in ('science', 'template'):
        images = getattr(pair, name)
        for role, image in (
                (name, images.data),
                (f'{name}_error', images.uncertainty.array)):
            files[role] = folder / f'{role}.fits'
            values = np.where(images.mask, np.nan, image)
            fits.PrimaryHDU(values.astype('f4'), wcs.to_header()).writeto(
                files[role])
    return files


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


def errors(pair):
    return ('--error', pair['science_error'], '--template-error',
            pair['template_error'], '--kernel-order', '0')


def test_pair_is_subtracted_to_its_products(pair, hyper, tmp_path):
    """
    The products are those of the registry, the difference is read back,
    and a second run has nothing to do.
    """
    call = ('subtract', pair['science'], pair['template'], *errors(pair))
    status, out, err = hyper(*call)
    assert (status, err) == (0, '')
    assert 'kernel of order 0' in out
    folder = tmp_path / 'hyperphot_subtract' / 'science'
    assert {path.name for path in folder.iterdir()} == {
        'run.log', 'run.json', *(product.name for product in PRODUCTS
                                 if 'subtraction' in product.kinds)}
    result = SubtractionResult.read(folder / 'subtraction.fits')
    assert 0.9 < result.stats['pull'] < 1.1
    assert result.stats['kernel_order'] == 0
    log = (folder / 'run.log').read_text()
    assert f'template_error {pair["template_error"]}' in log
    assert 'warnings      0' in log
    assert 'nothing left to do' in hyper(*call)[1]
    status, _, err = hyper(*call[:-1], '1')
    assert status == 2
    assert 'kernel.kernel_order is [1], was [0]' in err
    status, _, err = hyper('subtract', pair['science'], pair['template'])
    assert 'template_error.fits was used instead' in err


def test_list_is_continued(pair, hyper, tmp_path):
    """
    The finished pair of a table is skipped, and another table has a row
    for each.
    """
    table = tmp_path / 'pairs.csv'
    lines = ['science,template,error,template_error',
             f'{pair["science"]},{pair["template"]},{pair["science_error"]},'
             f'{pair["template_error"]}']
    table.write_text('\n'.join(lines))
    assert hyper('subtract', table, '--kernel-order', 0)[0] == 0
    gone = tmp_path / 'gone.fits'
    table.write_text('\n'.join([*lines, f'{pair["template"]},{gone},,']))
    status, out, err = hyper('subtract', table, '--kernel-order', 0,
                             '--jobs', 2)
    assert status == 1
    assert 'continuing: 1 of 2 pairs are done already' in out
    assert f'{gone}' in err
    assert err.count('\n') == 2
    diagnostics = QTable.read(
        tmp_path / 'hyperphot_subtract' / 'diagnostics.ecsv')
    assert list(diagnostics['status']) == ['done', 'failed']
    assert diagnostics['n_stamps'][0] > 5


def test_options_of_hotpants(pair, hyper, tmp_path):
    """
    Files and settings are taken from the options, and every option is in
    the log with what became of it; our options take precedence.
    """
    path = tmp_path / 'hotpants.txt'
    path.write_text(
        f'hotpants -inim {pair["science"]} -tmplim {pair["template"]} '
        f'-ini {pair["science_error"]} -tni {pair["template_error"]} '
        '-c t -ko 1 -kcs 21')
    status, out, err = hyper('subtract', '--hotpants-config', path,
                             '--kernel-order', 0)
    assert (status, err) == (0, '')
    assert '6 mapped, 1 dropped' in out
    log = (tmp_path / 'hyperphot_subtract' / 'science' / 'run.log'
           ).read_text()
    assert '-kcs 21 dropped: each pixel has its own kernel' in log
    assert 'kernel_order=(0,)' in log
    assert "convolve='template'" in log
    assert 'warnings      0' in log
    path.write_text('hotpants -wrong 1')
    status, _, err = hyper('subtract', '--hotpants-config', path)
    assert status == 2
    assert "hotpants.txt: '-wrong' is not an option of HOTPANTS" in err


@pytest.mark.parametrize(('arguments', 'message'), [
    ((), 'no pair of images is given'),
    (('a.fits',), 'a.fits: its TEMPLATE is missing'),
    (('a', 'b', 'a', 'b'), 'a and b: this pair is named twice'),
    (('no.txt',), 'no.txt: the list of pairs cannot be read: No such file'),
    (('a', 'b', '--basis', 'delta'), "basis 'delta' needs kernel_radius"),
    (('a', 'b', '--n-regions', '2'), 'n_regions must be two numbers'),
    (('a', 'b', '--kernel-order', 'x'), '--kernel-order: kernel.kernel_order'),
    (('a', 'b', '--threshold', '-1'), '--threshold: kernel.threshold: -1.0'),
])
def test_bad_usage_is_one_line(hyper, tmp_path, arguments, message):
    status, out, err = hyper('subtract', *arguments)
    assert (status, out) == (2, '')
    assert message in err
    assert err.count('\n') == 1
    assert not list(tmp_path.iterdir())


def test_errors_of_images_are_one_line(pair, hyper, tmp_path):
    """
    Missing files, WCSs that differ, and images without stars are named.
    """
    far = tmp_path / 'far.fits'
    data, header = fits.getdata(pair['template'], header=True)
    header['CRPIX1'] += 9.0
    fits.PrimaryHDU(data, header).writeto(far)
    empty = tmp_path / 'empty.fits'
    header['CRPIX1'] -= 9.0
    noise = np.random.default_rng(1).normal(size=data.shape)
    fits.PrimaryHDU(noise, header).writeto(empty)
    for template, message in (
            (tmp_path / 'no.fits', 'no.fits'),
            (far, 'disagree by up to 9.0 pixels'),
            (empty, 'no star')):
        status, out, err = hyper('subtract', pair['science'], template)
        assert (status, out) == (1, '')
        assert message in err
        assert err.count('\n') == 1
        assert 'Traceback' not in err


def test_lists_of_pairs(tmp_path, monkeypatch):
    """
    Text files, CSV, and ECSV name the same pairs as the command line.
    """
    monkeypatch.chdir(tmp_path)
    expected = expand_pairs(['a.fits', 'b 1.fits', 'c.fits', 'd.fits'])
    (tmp_path / 'p.txt').write_text('# pairs\na.fits "b 1.fits"\n\n'
                                    'c.fits d.fits # the second\n')
    (tmp_path / 'p.csv').write_text('template, science\nb 1.fits, a.fits\n'
                                    'd.fits, c.fits\n')
    QTable({name: [pair[name] for pair in expected]
            for name in ('science', 'template')}).write(tmp_path / 'p.ecsv')
    for name in ('p.txt', '@p.txt', 'p.csv', 'p.ecsv'):
        assert expand_pairs([name]) == expected
    for text, message in (('a.fits\n', 'line 1 must have SCIENCE and'),
                          ('# no\n', 'names no pair'),
                          ('a "b\n', 'line 1: No closing quotation')):
        (tmp_path / 'p.txt').write_text(text)
        with pytest.raises(ConfigError, match=message):
            expand_pairs(['p.txt'])
    for text, message in (('science\na\n', 'has no column template'),
                          ('science,template,z\n', 'unknown column z'),
                          ('science,template\na\n', 'row 1 has not the 2'),
                          ('science,template\na,\n', 'row 1 lacks')):
        (tmp_path / 'p.csv').write_text(text)
        with pytest.raises(ConfigError, match=message):
            expand_pairs(['p.csv'])


def test_names_of_lists_are_expanded(monkeypatch):
    monkeypatch.delenv('NOWHERE', raising=False)
    with pytest.raises(ConfigError, match=r'\$NOWHERE/p\.txt: not a list of '
                       "pairs: .*'NOWHERE' is not set"):
        expand_pairs(['$NOWHERE/p.txt'])


def test_image_of_several_pairs_names_them_with_the_template():
    config = SubtractConfig(input={'pairs': [
        {'science': 'a.fits', 'template': name}
        for name in ('b.fits', 'c.fits.gz')]})
    assert [job.map_id for job in plan_jobs(config)] == ['a-b', 'a-c']
    with pytest.raises(ConfigError, match='this pair is named twice'):
        plan_jobs(SubtractConfig(input={
            'pairs': 2 * [dict(config.input.pairs[0])]}))


def test_basis_of_the_command_line_takes_precedence():
    """
    That of HOTPANTS has a radius of its own.
    """
    theirs = {'basis': DeltaBasis(3), 'kernel_order': 2}
    for options, radius in (({'basis': 'delta', 'kernel_radius': 5}, 5),
                            ({}, 3)):
        kernel = SubtractConfig(kernel=options).kernel
        subtractor = kernel.make_subtractor(theirs)
        assert subtractor.basis.radius == radius
        assert subtractor.kernel_order == 2
    with pytest.raises(ConfigError, match=r'none: No such file'):
        SubtractConfig(kernel={'hotpants': 'none'}).kernel.read_hotpants()


def test_killed_run_is_continued(pair, hyper, tmp_path, monkeypatch):
    """
    An interrupted pair leaves no folder, and the same command makes it.
    """
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    call = ('subtract', pair['science'], pair['template'], *errors(pair))
    with monkeypatch.context() as patch:
        patch.setattr(SubtractionResult, 'write_products', interrupt)
        status, _, err = hyper(*call)
    assert status == 130
    assert 'completed pairs are kept' in err
    assert not (tmp_path / 'hyperphot_subtract' / 'science').exists()
    assert hyper(*call)[0] == 0


def test_progress_bar_has_stages(pair, hyper, monkeypatch):
    """
    On a terminal, the steps of a single pair are shown.
    """
    monkeypatch.setattr(cli, '_show_progress', lambda _: True)
    call = ('subtract', pair['science'], pair['template'], *errors(pair))
    _, _, err = hyper(*call)
    assert 'fit kernel' in err


def test_errors_and_masks_in_the_files(pair, hyper, tmp_path):
    """
    Files that CCDData writes need no other ones: the result is that with
    errors in files of their own, without a warning. Bit flags are named in
    one, with the remedy.
    """
    paths = []
    for name in ('science', 'template'):
        data, error = (fits.getdata(pair[role])
                       for role in (name, f'{name}_error'))
        paths.append(tmp_path / f'{name}_ccd.fits')
        CCDData(np.nan_to_num(data), unit='adu', mask=np.isnan(data),
                uncertainty=VarianceUncertainty(error.astype(float)**2)
                ).write(paths[-1])
    assert hyper('subtract', pair['science'], pair['template'],
                 *errors(pair))[0] == 0
    status, _, err = hyper('subtract', *paths, '--kernel-order', '0')
    assert (status, err) == (0, '')
    folder = tmp_path / 'hyperphot_subtract'
    assert 'warnings      0' in (folder / 'science_ccd' / 'run.log'
                                 ).read_text()
    result, other = (SubtractionResult.read(folder / name / 'subtraction.fits')
                     for name in ('science_ccd', 'science'))
    assert result.difference.unit == 'adu'
    np.testing.assert_array_equal(result.mask, other.mask)
    for name in ('difference', 'error'):
        np.testing.assert_allclose(getattr(result, name).value,
                                   getattr(other, name), rtol=1e-3, atol=0.1)
    with fits.open(paths[0], mode='update') as hdus:
        hdus['MASK'].data[:] *= 4
        hdus['MASK'].data[0, 0] = 2
    assert hyper('subtract', *paths, '--kernel-order', '0', '--overwrite'
                 )[0] == 0
    log = (folder / 'science_ccd' / 'run.log').read_text()
    assert f'{paths[0]} is used without some of its extensions' in log
    assert 'MASK) has bit flags' in log
    assert 'warnings      1' in log
