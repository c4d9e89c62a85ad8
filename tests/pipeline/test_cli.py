# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the command line.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits

import hyperphotutils
from hyperphotutils.catalog import read_catalog
from hyperphotutils.pipeline import PipelineConfig, cli, read_config
from hyperphotutils.pipeline.cli import main

ROOT = Path(hyperphotutils.__file__).parents[1]
CALL = 'import sys; from hyperphotutils.pipeline.cli import main; '


def hyperphot(*arguments, cwd):
    """
    Run the command in a process of its own.
    """
    code = CALL + 'sys.exit(main())'
    return subprocess.run(
        [sys.executable, '-c', code, *map(str, arguments)], cwd=cwd,
        capture_output=True, text=True, check=False,
        env=dict(os.environ, PYTHONPATH=str(ROOT)))


@pytest.fixture(name='hyper')
def fixture_hyper(capsys, tmp_path, monkeypatch):
    """
    A function that runs the command, and returns status, output, and
    errors.
    """
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as exc:
            status = exc.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def wait_for(condition, limit=120):
    """
    Wait for a state; the limit only ends a test that hangs.
    """
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + limit
        time.sleep(0.02)


def products(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*'))


def test_help_loads_no_numerical_library(tmp_path):
    code = ('try:\n    main(["run", "--help"])\n'
            'except SystemExit:\n    pass\n'
            'heavy = {"numpy", "scipy", "astropy", "matplotlib", "tqdm"}\n'
            'assert not heavy & set(sys.modules), heavy & set(sys.modules)')
    result = subprocess.run(
        [sys.executable, '-c', f'{CALL}\n{code}'], check=True, text=True,
        cwd=tmp_path, capture_output=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT)))
    for option in ('--unit', '--beam', '--survey', '--config',
                   '--output-dir', '--n-sigma', '--jobs', '--detection-only',
                   '--overwrite', '--quiet', 'MAP'):
        assert option in result.stdout


def test_options_have_the_help_of_their_keys(hyper):
    status, out, _ = hyper('run', '--help')
    assert status == 0
    text = ' '.join(out.split())
    for option, section, name in (
            ('--n-sigma X', 'detection', 'n_sigma'),
            ('--jobs N', 'run', 'n_workers'),
            ('--unit UNIT', 'input', 'unit')):
        options = PipelineConfig.model_fields[section].annotation
        field = options.model_fields[name]
        description = field.description.partition(';')[0]
        assert f'{option} {description} [{section}.{name}]' in text


def test_command_is_one_function(hyper, monkeypatch):
    """
    A new subcommand needs nothing but a function and its options.
    """
    monkeypatch.setattr(cli, '_commands', {})

    @cli._command('sky', cli._argument('map'), 'fit.noise', 'input.beam',
                  'input.datacube', 'output.overwrite', summary='a summary',
                  description='A description.', interrupted='nothing left')
    def sky(options):
        _, config, origins = cli._load(None, options)
        cli.print_line(f'{options.map} {config.fit.noise} '
                       f'{config.input.beam.minor} {config.input.datacube} '
                       f'{config.output.overwrite} {origins["fit.noise"]}')
        return 0

    assert hyper('sky', 'a.fits', '--noise', 'white', '--beam', '3,2,0',
                 '--overwrite') == (
        0, 'a.fits white 2.0 False True --noise\n', '')
    status, _, err = hyper('sky', 'a.fits', '--noise', 'pink')
    assert status == 2
    assert err.count('\n') == 1
    assert 'a summary' in hyper('--help')[1]


def test_version(hyper):
    status, out, _ = hyper('--version')
    assert status == 0
    assert out == f'hyperphot {hyperphotutils.__version__}\n'


def test_config_prints_the_defaults(hyper, tmp_path):
    status, out, err = hyper('config')
    assert (status, err) == (0, '')
    path = tmp_path / 'my.yaml'
    path.write_text(out, encoding='utf-8')
    assert read_config(path) == PipelineConfig()


def test_run_writes_products_and_prints_their_folder(map_file, tmp_path):
    """
    In a process of its own, in the default folder, without a terminal.
    """
    result = hyperphot('run', map_file, cwd=tmp_path)
    assert result.returncode == 0
    assert result.stderr == ''
    assert result.stdout.startswith(
        'field: 8 measured (8 detected on the map); ')
    assert result.stdout.rstrip().endswith('hyperphot_output/field')
    assert products(tmp_path / 'hyperphot_output' / 'field') == [
        'catalog.ecsv', 'catalog.ipac', 'centroids.reg', 'ellipses.reg',
        'overview.png', 'rejected.ecsv', 'rejected.reg', 'report.html',
        'run.json', 'run.log']


def test_parallel_run_of_several_maps(copy_map, tmp_path):
    maps = [copy_map(name) for name in ('b.fits', 'a.fits')]
    bad = tmp_path / 'bad.fits'
    bad.write_text('')
    result = hyperphot('run', maps[0], bad, maps[1], '--jobs', 2,
                       '--output-dir', 'out', cwd=tmp_path)
    assert result.returncode == 1
    assert [line.split(':')[0] for line in result.stdout.splitlines()] == [
        'b', 'a']
    first, second = result.stderr.splitlines()
    assert first == 'hyperphot: 1 of 3 maps failed:'
    assert second.startswith(f'hyperphot: {bad}: ')
    assert 'Traceback' not in result.stderr
    table = read_catalog(tmp_path / 'out' / 'catalog_all.ecsv')
    assert list(dict.fromkeys(table['map_id'])) == ['b', 'a']


def test_quiet_prints_nothing_but_errors(hyper, map_file, tmp_path):
    assert hyper('run', map_file, '--quiet') == (0, '', '')
    assert hyper('run', map_file, '--quiet', '--output-dir', 'b',
                 '--n-sigma', '1e9') == (0, '', '')
    status, out, err = hyper('run', 'missing.fits', '--quiet')
    assert (status, out) == (1, '')
    assert err == 'hyperphot: missing.fits: no such file\n'
    assert not (tmp_path / 'missing').exists()


def test_options_take_precedence_over_the_file(hyper, map_file, tmp_path):
    config = tmp_path / 'my.yaml'
    config.write_text('detection: {n_sigma: 1.0e9}\n'
                      'output: {directory: from_file, overview: false}\n'
                      'run: {detection_only: true}\n')
    status, out, _ = hyper('run', map_file, '--config', config)
    assert status == 0
    assert 'no source found' in out
    status, out, _ = hyper('run', map_file, '--config', config, '--n-sigma',
                           7.5, '--output-dir', 'from_option')
    assert status == 0
    log = (tmp_path / 'from_option' / 'field' / 'run.log').read_text('utf-8')
    assert 'n_sigma: 7.5' in log
    assert 'detection_only: true' in log
    assert not (tmp_path / 'from_option' / 'field' / 'overview.png').exists()


def test_maps_of_the_file_are_run_or_replaced(hyper, map_file, tmp_path):
    config = tmp_path / 'my.yaml'
    config.write_text(f'input: {{maps: ["{map_file}"]}}\n'
                      'output: {overview: false}\n')
    assert hyper('run', '--config', config)[0] == 0
    status, _, err = hyper('run', 'other.fits', '--config', config)
    assert status == 1
    assert 'other.fits' in err


def test_detection_only(hyper, map_file, tmp_path):
    status, out, _ = hyper('run', map_file, '--detection-only')
    assert status == 0
    assert out.startswith('field: ')
    table = read_catalog(tmp_path / 'hyperphot_output/field/catalog.ecsv')
    assert 'x_centroid' in table.colnames


def test_map_without_detection_is_reported(hyper, map_file):
    status, out, err = hyper('run', map_file, '--n-sigma', '1e9')
    assert (status, err) == (0, '')
    assert out.startswith('field: no source found')


def test_warnings_are_counted_not_shown(hyper, map_file, tmp_path):
    """
    Warnings are in the log, each once.
    """
    data, header = fits.getdata(map_file, header=True)
    header['DATE-OBS'] = 'yesterday'
    hdus = fits.HDUList([fits.PrimaryHDU(),
                         fits.ImageHDU(data, header, name='one'),
                         fits.ImageHDU(data, header, name='two')])
    hdus.writeto(tmp_path / 'two.fits')
    status, out, err = hyper('run', tmp_path / 'two.fits')
    assert (status, err) == (0, '')
    log = (tmp_path / 'hyperphot_output/two/run.log').read_text('utf-8')
    if 'warnings      0' not in log:
        assert 'see run.log' in out


def write_map(map_file, path, *, data=None, header=None, remove=()):
    """
    Write a map with something changed.
    """
    original, full = fits.getdata(map_file, header=True)
    for key in remove:
        del full[key]
    full.update(header or {})
    fits.writeto(path, original if data is None else data(original), full)


def no_such_file(_, path):
    assert not path.exists()


def a_folder(_, path):
    path.mkdir()


def an_empty_file(_, path):
    path.touch()


def not_fits(_, path):
    path.write_text('name,flux\na,1\n' * 500)


def no_image(_, path):
    table = fits.BinTableHDU.from_columns(
        [fits.Column('a', 'D', array=np.zeros(3))])
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)


def one_axis(_, path):
    fits.writeto(path, np.zeros(100))


def a_cube(map_file, path):
    write_map(map_file, path, data=lambda image: np.stack([image] * 3),
              header={'CTYPE3': 'VRAD', 'CUNIT3': 'm/s', 'CRPIX3': 1.0,
                      'CRVAL3': 0.0, 'CDELT3': 100.0})


def all_nan(map_file, path):
    write_map(map_file, path, data=lambda image: image * np.nan)


def a_constant_map(map_file, path):
    write_map(map_file, path, data=lambda image: 0 * image + 3)


def smaller_than_the_kernel(map_file, path):
    write_map(map_file, path, data=lambda image: image[:6, :5])


def a_negative_beam(map_file, path):
    write_map(map_file, path, header={'BMAJ': -0.001})


def no_beam(map_file, path):
    write_map(map_file, path, remove=['BMAJ', 'BMIN', 'BPA'])


def no_unit(map_file, path):
    write_map(map_file, path, remove=['BUNIT'])


def a_strange_unit(map_file, path):
    write_map(map_file, path, header={'BUNIT': 'furlong'})


def no_sky(map_file, path):
    write_map(map_file, path, header={'CTYPE1': 'X', 'CTYPE2': 'Y'})


def a_truncated_file(map_file, path):
    path.write_bytes(map_file.read_bytes()[:20000])


def a_truncated_header(map_file, path):
    path.write_bytes(map_file.read_bytes()[:1000])


BAD_MAPS = [no_such_file, a_folder, an_empty_file, not_fits, no_image,
            one_axis, a_cube, all_nan, a_constant_map,
            smaller_than_the_kernel, a_negative_beam, no_beam, no_unit,
            a_strange_unit, no_sky, a_truncated_file, a_truncated_header]


@pytest.mark.parametrize('make', BAD_MAPS, ids=lambda make: make.__name__)
def test_bad_map_is_one_line_and_leaves_nothing(
    hyper, map_file, tmp_path, make
):
    path = tmp_path / 'bad.fits'
    make(map_file, path)
    status, out, err = hyper('run', path)
    assert status == 1
    assert out == ''
    assert err.startswith(f'hyperphot: {path}: ')
    assert err.count('\n') == 1
    assert err.count(str(path)) == 1
    assert 'Traceback' not in err
    assert 'unexpected' not in err
    assert len(err) < len(str(path)) + 250
    output = tmp_path / 'hyperphot_output'
    assert not output.exists() or products(output) == ['run.log']


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('input: {beam: {major: 10.0}}', 'BMAJ'),
        ('input: {unit: K}', 'BUNIT'),
    ],
)
def test_contradiction_of_map_and_configuration(
    hyper, map_file, tmp_path, text, message
):
    config = tmp_path / 'my.yaml'
    config.write_text(text)
    status, out, err = hyper('run', map_file, '--config', config)
    assert (status, out) == (1, '')
    assert err.count('\n') == 1
    assert str(map_file) in err
    assert message in err
    assert not (tmp_path / 'hyperphot_output').exists()


def test_error_names_the_key_for_missing_values(
    hyper, map_file, tmp_path
):
    path = tmp_path / 'bad.fits'
    no_unit(map_file, path)
    assert 'input.unit' in hyper('run', path)[2]
    path.unlink()
    no_beam(map_file, path)
    assert 'input.beam' in hyper('run', path)[2]
    config = tmp_path / 'my.yaml'
    config.write_text('input: {beam: {major: 4.0}}')
    assert hyper('run', path, '--config', config)[0] == 0


def test_error_for_confused_map_and_cube_names_the_key(
    hyper, map_file, tmp_path
):
    """
    The message names no Python functions.
    """
    path = tmp_path / 'cube.fits'
    a_cube(map_file, path)
    status, _, err = hyper('run', path)
    assert status == 1
    assert err.endswith(
        'has 3 planes (on the command line: --datacube; in the '
        'configuration: input.datacube: true)\n')
    status, _, err = hyper('background', map_file)
    assert status == 1
    assert err.endswith('(in the configuration: input.datacube: false)\n')
    assert 'read_' not in err
    status, _, err = hyper('recover', path)
    assert status == 1
    assert err.endswith('needs a plane of it in a file of its own\n')
    no_unit(map_file, tmp_path / 'bare.fits')
    assert '--unit' in hyper('recover', tmp_path / 'bare.fits')[2]


def test_options_supply_what_the_header_lacks(hyper, map_file, tmp_path):
    """
    The error names the options, which take precedence over the file.
    """
    path = tmp_path / 'bare.fits'
    write_map(map_file, path, remove=['BUNIT', 'BMAJ', 'BMIN', 'BPA'])
    err = hyper('run', path)[2]
    assert err.count('\n') == 1
    for part in ('BUNIT', 'BMAJ', 'give --unit', '--beam or --survey',
                 'input.unit, input.beam, input.survey'):
        assert part in err
    assert 'unit=' not in err
    assert 'beam=' not in err
    config = tmp_path / 'my.yaml'
    config.write_text('input: {unit: K, survey: pacs70}\n'
                      'output: {overview: false, overwrite: true}')

    def meta(*arguments):
        status, _, err = hyper('run', path, '--config', config, '--unit',
                               'Jy/beam', *arguments)
        assert (status, err) == (0, '')
        return read_catalog(
            tmp_path / 'hyperphot_output/bare/catalog.ecsv').meta

    found = meta('--beam', '7.5')
    assert u.isclose(found['beam_major'], 7.5 * u.arcsec)
    assert found['beam_minor'] == found['beam_major']
    assert found['original_unit'] == 'Jy / beam'
    found = meta('--beam', '8,6.5,-20')
    for name, value in (('major', 8 * u.arcsec), ('minor', 6.5 * u.arcsec),
                        ('pa', -20 * u.deg)):
        assert u.isclose(found[f'beam_{name}'], value)
    assert u.isclose(meta('--survey', '7')['beam_major'], 8 * u.arcsec)
    config.write_text('input: {beam: {major: 9, minor: 7}}\n'
                      'output: {overview: false, overwrite: true}')
    assert u.isclose(meta()['beam_minor'], 7 * u.arcsec)
    for option, value, beam in (('--survey', 'jcmt450', 8.0),
                                ('--beam', '10', 10.0)):
        found = meta(option, value)['beam_minor']
        assert u.isclose(found, beam * u.arcsec)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--beam', 'wide'], '--beam: must be FWHM or MAJOR,MINOR,PA'),
        (['--beam', '3,2'], '--beam: must be FWHM or MAJOR,MINOR,PA'),
        (['--beam', '-3'], '--beam: input.beam.major: -3.0 is not allowed'),
        (['--beam', 'nan'], 'finite number > 0'),
        (['--beam', '2,3,0'], 'minor must not be larger than major'),
        (['--beam', '3', '--survey', '8'], 'not allowed with argument'),
        (['--n-sigma', 'nan'], '--n-sigma: detection.n_sigma: nan is not'),
        (['--n-sigma', 'inf'], 'finite number > 0'),
        (['--n-sigma', '-3'], 'finite number > 0'),
        (['--n-sigma', '0'], 'finite number > 0'),
        (['--n-sigma', 'five'], "invalid float value: 'five'"),
        (['--jobs', '0'], '--jobs: run.n_workers: 0 is not allowed'),
        (['--jobs', '1.5'], 'invalid int value'),
        (['--jobz', '2'], 'unrecognized arguments: --jobz 2; did you mean '
         '--jobs? (see hyperphot run --help)'),
        (['--nsigma=4'], 'did you mean --n-sigma?'),
        (['--zzz'], 'unrecognized arguments: --zzz (see hyperphot run'),
        (['--output-dir', ''], '--output-dir: output.directory'),
        (['--config', 'missing.yaml'], 'missing.yaml: No such file'),
    ],
)
def test_bad_option_is_one_line_and_nothing_is_done(
    hyper, map_file, tmp_path, arguments, message
):
    status, out, err = hyper('run', map_file, *arguments)
    assert (status, out) == (2, '')
    assert err.startswith('hyperphot: ')
    assert message in err
    assert err.count('\n') == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'text',
    [
        'input: {beam: {major: -3}}',
        'detection: {n_sigma: .nan}',
        'detection: {n_sigm: 3}',
        'detection: [',
    ],
)
def test_bad_configuration_is_one_line_and_nothing_is_done(
    hyper, map_file, tmp_path, text
):
    config = tmp_path / 'my.yaml'
    config.write_text(text)
    status, out, err = hyper('run', map_file, '--config', config)
    assert (status, out) == (2, '')
    assert err.startswith(f'hyperphot: {config}: line 1: ')
    assert err.count('\n') == 1
    assert list(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('input: {unit: furlong}', ['line 1: input.unit: ', 'furlong']),
        ('input: {survey: spire999}', ['input.survey: ', 'spire250 (4)']),
        ('fit: {weights: map, weight_map: no.fits}',
         ['fit.weight_map: ', 'no.fits', 'no such file']),
        ('cubes: {region: no.reg}',
         ['cubes.region: ', 'no.reg', 'No such file']),
        ('cubes: {region: my.yaml}', ['cubes.region: ', 'as regions']),
        ('sources: {table: no.txt}',
         ['sources.table: ', 'no.txt', 'No such file']),
        ('sources: {table: my.yaml}', ['sources.table: ', 'is unknown']),
        ('sources: {x: [10], y: [95]}', ['sources.x: ', 'within 90 deg']),
        ('background: {orders: [9], box_sizes: [5]}',
         ['whole number >= 0 and <= 4']),
        ('fit: {poly_order: -2}', ['whole number >= -1 and <= 4']),
    ],
)
def test_units_and_files_are_checked_before_any_map_is_read(
    hyper, tmp_path, text, words
):
    (tmp_path / 'my.yaml').write_text(text)
    status, out, err = hyper('run', 'nowhere.fits', '--config', 'my.yaml')
    assert (status, out) == (2, '')
    assert err.count('\n') == 1
    for word in ['hyperphot: my.yaml: line 1: ', *words]:
        assert word in err
    assert not (tmp_path / 'hyperphot_output').exists()


def test_error_of_an_option_names_it(hyper):
    for command in ('run', 'recover'):
        status, _, err = hyper(command, 'nowhere.fits', '--unit', 'furlong')
        assert status == 2
        assert err.startswith('hyperphot: --unit: input.unit: ')


def test_unused_keys_are_reported(hyper, map_file, tmp_path):
    (tmp_path / 'my.yaml').write_text(
        'background: {orders: [1], methods: [huber]}\n'
        'cubes: {subtract: true}\nrun: {detection_only: true}\n')
    status, _, err = hyper('run', map_file, '--config', 'my.yaml')
    assert status == 0
    assert sorted(err.splitlines()) == [
        'hyperphot: note: background.orders, background.methods have no '
        'effect: they are for fits, not for run.detection_only',
        'hyperphot: note: cubes.subtract has no effect: it is for '
        'input.datacube: true']
    assert hyper('run', map_file, '--config', 'my.yaml', '--quiet',
                 '--output-dir', 'other')[2] == ''


@pytest.mark.parametrize('module', ['pipeline', 'pipeline.cli'])
def test_module_is_the_command(tmp_path, module):
    result = subprocess.run(
        [sys.executable, '-m', f'hyperphotutils.{module}', '--version'],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env=dict(os.environ, PYTHONPATH=str(ROOT)))
    assert result.stdout.startswith('hyperphot ')
    assert result.stderr == ''


@pytest.mark.parametrize('arguments', [[], ['run'], ['walk'], ['--quiet']])
def test_incomplete_command_is_one_line(hyper, arguments):
    status, out, err = hyper(*arguments)
    assert (status, out) == (2, '')
    assert err.startswith('hyperphot: ')
    assert err.count('\n') == 1


def test_unwritable_output_is_one_line(hyper, map_file, tmp_path):
    """
    A path below a regular file cannot be written, even by root.
    """
    (tmp_path / 'file').touch()
    status, out, err = hyper('run', map_file, '--output-dir', 'file/out')
    assert (status, out) == (2, '')
    assert err == ('hyperphot: file/out: cannot be written: Not a directory'
                   '\n')
    assert list(tmp_path.iterdir()) == [tmp_path / 'file']


def test_existing_output_is_refused_and_untouched(hyper, map_file, tmp_path):
    hyper('run', map_file)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino)
              for path in tmp_path.rglob('*')}
    status, out, err = hyper('run', map_file, '--n-sigma', 6)
    assert (status, out) == (2, '')
    assert err.count('\n') == 1
    assert 'detection.n_sigma is 6.0, was 5.0; ' in err
    assert '--overwrite' in err
    assert hyper('run', map_file) == (
        0, 'nothing left to do: hyperphot_output/field is done (use '
        '--overwrite to repeat it)\n', '')
    after = {path: (path.stat().st_mtime_ns, path.stat().st_ino)
             for path in tmp_path.rglob('*')}
    assert after == before
    assert hyper('run', map_file, '--overwrite')[0] == 0


def test_same_map_twice_is_bad_usage(hyper, map_file):
    status, _, err = hyper('run', map_file, map_file)
    assert status == 2
    assert 'named twice' in err


@pytest.mark.parametrize('jobs', [1, 2])
def test_interrupt_ends_at_once_and_leaves_nothing_half_done(
    copy_map, tmp_path, jobs
):
    """
    Workers that are in the middle of a map end with the command.
    """
    maps = [str(copy_map(name)) for name in ('a.fits', 'b.fits')]
    script = tmp_path / 'script.py'
    script.write_text(
        'import sys, time\n'
        'from hyperphotutils.pipeline import process\n'
        'from hyperphotutils.pipeline.cli import main\n'
        'from hyperphotutils.pipeline.folders import scratch_folder\n'
        'def process_map(job, config):\n'
        '    scratch_folder(job.folder).mkdir()\n'
        '    time.sleep(600)\n'
        'if __name__ == "__main__":\n'
        '    process.process_map = process_map\n'
        f'    sys.exit(main(["run", *{maps}, "--jobs", "{jobs}"]))\n',
        encoding='utf-8')
    with subprocess.Popen(
            [sys.executable, script], cwd=tmp_path, stderr=subprocess.PIPE,
            text=True, env=dict(os.environ, PYTHONPATH=str(ROOT))) as process:
        output = tmp_path / 'hyperphot_output'
        wait_for(lambda: len(list(output.glob('.*.partial'))) == jobs)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith('hyperphot: interrupted; ')
    assert err.endswith('rerun the same command to continue\n')
    assert err.count('\n') == 1
    assert not output.exists()


def test_example_runs_twice_and_prints_its_accuracy(hyper, tmp_path):
    for _ in range(2):
        status, out, err = hyper('example')
        assert (status, err) == (0, '')
        lines = dict(line.split('  ', 1) for line
                     in out.splitlines() if '  ' in line)
        assert lines['true sources'].strip() == '100'
        assert int(lines['found'].split()[0]) >= 85
        assert int(lines['not in the truth'].strip()) <= 2
        assert 'hyperphot_example/simulated_map' in out
    folder = tmp_path / 'hyperphot_example'
    assert {path.name for path in folder.iterdir()} == {
        'simulated_map', 'simulated_map.fits', 'truth.ecsv', 'run.log'}


def test_example_replaces_no_other_file(hyper, tmp_path):
    (tmp_path / 'truth.ecsv').write_text('mine')
    status, _, err = hyper('example', '--output-dir', tmp_path)
    assert status == 2
    assert 'choose another folder' in err
    assert (tmp_path / 'truth.ecsv').read_text() == 'mine'
    (tmp_path / 'file').touch()
    status, _, err = hyper('example', '--output-dir', 'file/out', '--quiet')
    assert status == 2
    assert err.count('\n') == 1
