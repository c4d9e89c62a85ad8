# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the options of HOTPANTS.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose, assert_array_equal

from hyperphotutils.compat.hotpants import (
    _DROPPED,
    _FLAGS,
    _RULES,
    read_hotpants,
)
from hyperphotutils.datasets import make_image_pair
from hyperphotutils.subtraction import (
    FixedBasis,
    GaussianPolynomialBasis,
    ImageSubtractor,
)

# The options of HOTPANTS 5.1.11, each with values
FLAGS = """
-inim s.fits -tmplim t.fits -outim d.fits
-tu 6e4 -tuk 5e4 -tl 1 -tg 4 -tr 6 -tp 0 -tni te.fits -tmi tm.fits
-iu 45000 -iuk 4e4 -il -100 -ig 2 -ir 8 -ip 10 -ini se.fits -imi sm.fits
-ki k.fits -r 12 -kcs 21 -ft 10 -sft 0.5 -nft 0.1 -mins 1 -mous 1
-omi m.fits -gd 1 100 1 100
-nrx 2 -nry 3 -rf regions.txt -rkw REGION 2 -nsx 5 -nsy 6 -ssf stars.txt
-cmp stars.cmp -afssc 1 -nss 3 -rss 15 -savexy xy.txt -c t -n i -fom v -sconv
-ko 2 -bgo 1 -ssig 3 -ks 2 -kfm 0.99 -okn -fi 1e-30 -fin 0 -convvar
-oni n.fits -ond sd.fits -nim -ndm -oci c.fits -cim -allm -nc -hki
-oki ko.fits -sht -obs 1 -obz 0 -nsht -nbs 1 -nbz 0
-ng 3 6 0.7 4 1.5 2 3.0 -v 1
"""
PYHOTPANTS = {
    'rkernel': 5, 'ko': 2, 'bgo': 2, 'nstampx': 20, 'nstampy': 10,
    'nss': 10, 'rss': 5, 'ngauss': 3, 'deg_fixe': [6, 4, 2],
    'sigma_gauss': [0.9, 1.8, 3.6], 'ks': 2.0, 'kfm': 0.9,
    'fitthresh': 10.0, 'stat_sig': 3.0, 'force_convolve': 't',
    'normalize': 'i', 'verbose': 0, 'output_file': 'diff.fits',
    'noise_image_file': 'noise.fits', 'stamp_region_file': None,
}


def test_each_flag_has_an_outcome():
    """
    Every option of HOTPANTS is accepted, and is mapped or dropped with a
    reason; together with -pca, that is all that the tables have.
    """
    options = read_hotpants(FLAGS)
    flags = {outcome.option.split()[0].removeprefix('-')
             for outcome in options.outcomes}
    known = _RULES.keys() | _DROPPED.keys()
    assert flags | {'pca', 'deg_fixe', 'sigma_gauss', 'nx'} == known
    for outcome in options.outcomes:
        flag = outcome.option.split()[0].removeprefix('-')
        assert outcome.mapped == (flag in _RULES)
        assert outcome.text
        assert str(outcome).startswith(outcome.option)


def test_each_key_has_an_outcome():
    """
    Every key of pyhotpants stands for an option of HOTPANTS.
    """
    assert set(_FLAGS.values()) <= _RULES.keys() | _DROPPED.keys()
    # of HOTPANTS, these have no key
    assert (_RULES.keys() | _DROPPED.keys()) - set(_FLAGS.values()) == {
        'nc', 'ki', 'oki', 'hki', 'kcs', 'mous', 'nim', 'ndm', 'cim',
        'allm', 'gd', 'rf', 'rkw', 'cmp', 'afssc', 'sconv', 'sht', 'obs',
        'obz', 'nsht', 'nbs', 'nbz'}


def test_flags_become_arguments():
    """
    The values are those of the arguments, and these are valid.
    """
    options = read_hotpants(FLAGS)
    basis = options.subtractor.pop('basis')
    assert repr(basis) == repr(GaussianPolynomialBasis(
        [0.7, 1.5, 3.0], [6, 4, 2], 12))
    assert options.subtractor == {
        'threshold': 10.0, 'n_regions': (3, 2), 'n_stamps': (18, 10),
        'stars_per_stamp': 3, 'stamp_radius': 15, 'convolve': 'template',
        'normalize': 'science', 'kernel_order': 2, 'background_order': 1,
        'sigma_clip': 2.0}
    ImageSubtractor(basis=basis, **options.subtractor)
    assert options.inputs == {
        'science': 's.fits', 'template': 't.fits', 'error': 'se.fits',
        'template_error': 'te.fits', 'mask': 'sm.fits',
        'template_mask': 'tm.fits', 'positions': 'stars.txt'}
    assert options.cameras == {
        'science': {'upper': 45000.0, 'lower': -100.0, 'gain': 2.0,
                    'read_noise': 8.0, 'pedestal': 10.0},
        'template': {'upper': 6e4, 'lower': 1.0, 'gain': 4.0,
                     'read_noise': 6.0, 'pedestal': 0.0}}
    assert (options.output, options.overwrite) == ('d.fits', False)


@pytest.mark.parametrize(('option', 'name', 'value'), [
    ('-c b', 'convolve', 'auto'), ('-c i', 'convolve', 'science'),
    ('-n t', 'normalize', 'template'), ('-n u', 'normalize', 'unconvolved'),
    ('-r 9', 'kernel_radius', 9), ('-nsx 4', 'n_stamps', (10, 4)),
])
def test_one_flag(option, name, value):
    assert read_hotpants(option).subtractor == {name: value}


@pytest.mark.parametrize('form', [
    'dict', 'object', 'yaml', 'python', 'flags', 'list', 'flags_file'])
def test_forms(form, tmp_path):
    """
    All forms of the same options give the same arguments.
    """
    path = tmp_path / 'options'
    flags = ('-r 5 -ko 2 -bgo 2 -nsx 20 -nsy 10 -nss 10 -rss 5 -ng 3 6 0.9 4 '
             '1.8 2 3.6 -ks 2 -kfm 0.9 -ft 10 -ssig 3 -c t -n i -v 0 '
             '-outim diff.fits -oni noise.fits')
    if form == 'yaml':
        path.write_text(''.join(f'{key}: {"null" if value is None else value}'
                                '\n' for key, value in PYHOTPANTS.items()))
    elif form == 'python':
        path.write_text('from hotpants import HotpantsConfig\n'
                        '# a comment\nconfig = HotpantsConfig('
                        + ', '.join(f'{key}={value!r}' for key, value
                                    in PYHOTPANTS.items()) + ')\n')
    elif form == 'flags_file':
        path.write_text('# of last night\nhotpants '
                        + flags.replace(' -nss', ' \\\n  -nss') + '\n')
    given = {'dict': PYHOTPANTS, 'object': SimpleNamespace(**PYHOTPANTS),
             'flags': f'hotpants {flags}', 'list': flags.split()}
    options = read_hotpants(given.get(form, path))
    assert repr(options.subtractor.pop('basis')) == repr(
        GaussianPolynomialBasis([0.9, 1.8, 3.6], [6, 4, 2], 5))
    assert options.subtractor == {
        'kernel_order': 2, 'background_order': 2, 'n_stamps': (10, 20),
        'stars_per_stamp': 10, 'stamp_radius': 5, 'sigma_clip': 2.0,
        'threshold': 10.0, 'convolve': 'template', 'normalize': 'science'}
    assert options.output == 'diff.fits'
    assert sum(outcome.mapped for outcome in options.outcomes) == (
        13 if 'flags' in form or form == 'list' else 15)


def test_fixed_basis(tmp_path):
    """
    The images of -pca become a basis.
    """
    images = np.random.default_rng(1).random((2, 7, 7)) + 1.0
    names = []
    for n, image in enumerate(images):
        names.append(str(tmp_path / f'k{n}.fits'))
        fits.writeto(names[-1], image)
    basis = read_hotpants(f'-r 10 -pca 2 {" ".join(names)}').subtractor
    assert list(basis) == ['basis']
    assert_allclose(basis['basis'].images, FixedBasis(images).images)


def test_errors_and_masks_of_cameras(tmp_path):
    """
    Gain, read noise, and limits become errors and masks of the images;
    an error image goes before the gain.
    """
    rng = np.random.default_rng(1)
    data = rng.uniform(50.0, 200.0, (20, 30))
    data[3, 4], data[5, 6] = 1e5, -1e3
    files = {}
    for name, image in (('s', data), ('t', data), ('te', np.ones_like(data)),
                        ('sm', np.arange(600).reshape(20, 30) == 7)):
        files[name] = str(tmp_path / f'{name}.fits')
        fits.writeto(files[name], image.astype('f4'))
    (tmp_path / 'stars').write_text('11.5 8 a\n3 4 b\n')
    options = read_hotpants(
        ['-inim', files['s'], '-tmplim', files['t'], '-tni', files['te'],
         '-imi', files['sm'], '-ig', '2', '-ir', '8', '-iu', '5e4', '-il',
         '0', '-tg', '4', '-ssf', str(tmp_path / 'stars')])
    arguments = options.arguments()
    science, template = arguments['science'], arguments['template']
    assert_allclose(science.uncertainty.array,
                    np.sqrt(np.maximum(science.data, 0) / 2.0 + 16.0))
    assert_allclose(template.uncertainty.array, 1.0)
    assert template.mask is None
    assert_array_equal(np.argwhere(science.mask),
                       [[0, 7], [3, 4], [5, 6]])
    assert_allclose(arguments['positions'], [[10.5, 7.0], [2.0, 3.0]])


def test_whole_run():
    """
    The arguments are those of a subtraction.
    """
    pair = make_image_pair((200, 200), seed=3)
    options = read_hotpants('-ig 2 -ir 8 -tg 4 -tr 6 -iu 44999 -tu 59999 '
                            '-il 1 -tl 1 -ko 1 -c t')
    arguments = options.arguments(pair.science.data, pair.template.data)
    result = ImageSubtractor(**options.subtractor)(**arguments)
    assert result.kernel.order == 1
    assert_allclose(result.stats['pull'], 1.0, atol=0.1)


@pytest.mark.parametrize(('options', 'match'), [
    ('-inmi s.fits', "'-inmi' is not an option of HOTPANTS; did you mean "
     '-ini'),
    ('-deg_fixe 3', "'-deg_fixe' is not an option"),
    ('-r', '-r needs 1 values: got 0'),
    ('-r 4.5', "-r 4.5: must be a whole number: '4.5'"),
    ('-c x', "-c x: must be one of t, i, b: 'x'"),
    ('-ng 3 6 0.7', '-ng needs 7 values: got 3'),
    ('-r 5 7', "'7' is not an option"),
    ('-pca 1 none.fits', 'none.fits'),
    ({'rkernal': 5}, "'rkernal' is not an option of HOTPANTS; did you mean "
                     'rkernel'),
    ({'ngauss': 2, 'deg_fixe': [1, 2]}, 'the Gaussians need sigmas, too'),
    ({'ngauss': 3, 'deg_fixe': [1, 2], 'sigma_gauss': [1.0, 2.0]},
     'there must be 3 degrees and sigmas'),
])
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        read_hotpants(options)


@pytest.mark.parametrize(('text', 'match'), [
    ('only words', 'options must be flags'),
    ('HotpantsConfig(rkernel=', 'the Python code cannot be read'),
    ('HotpantsConfig(rkernel=size)', 'rkernel of HotpantsConfig must be a '
                                     'constant: size'),
])
def test_bad_files(tmp_path, text, match):
    path = tmp_path / 'options'
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
        read_hotpants(path)


def test_no_image():
    with pytest.raises(ValueError, match='science must be given, or -inim'):
        read_hotpants('-r 5').arguments()
