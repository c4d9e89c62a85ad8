# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of finding a configuration.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hyperphotutils
from hyperphotutils.catalog import read_catalog
from hyperphotutils.pipeline import (
    ConfigError,
    PipelineConfig,
    find_config,
    load_config,
    read_config,
    run,
    user_config_file,
)
from hyperphotutils.pipeline.cli import main

ROOT = Path(hyperphotutils.__file__).parents[1]


@pytest.fixture(name='here')
def fixture_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(name='write_user_config')
def fixture_write_user_config(here, monkeypatch):
    """
    A function that writes the user's file in a folder of the test.
    """
    path = here / 'config' / 'hyperphot' / 'hyperphot.yaml'
    monkeypatch.setattr('hyperphotutils.pipeline.loading.user_config_file',
                        lambda: path)

    def write(text):
        path.parent.mkdir(parents=True)
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ('platform', 'variables', 'expected'),
    [
        ('linux', {'XDG_CONFIG_HOME': '/x'}, '/x/hyperphot/hyperphot.yaml'),
        ('linux', {'XDG_CONFIG_HOME': '', 'HOME': '/h'},
         '/h/.config/hyperphot/hyperphot.yaml'),
        ('darwin', {'HOME': '/h'},
         '/h/Library/Application Support/hyperphot/hyperphot.yaml'),
        ('win32', {'APPDATA': '/a'}, '/a/hyperphot/hyperphot.yaml'),
    ],
)
@pytest.mark.skipif(sys.platform == 'win32', reason='paths of POSIX')
def test_user_file_is_in_the_folder_of_the_platform(monkeypatch, platform,
                                                variables, expected):
    monkeypatch.setattr(sys, 'platform', platform)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert user_config_file() == Path(expected)


def test_argument_then_here_then_user_then_defaults(here, write_user_config):
    assert find_config() is None
    loaded = load_config()
    assert loaded.config == PipelineConfig()
    assert loaded.origin == 'built-in defaults'

    path = write_user_config('detection: {n_sigma: 6}')
    assert load_config().config.detection.n_sigma == 6
    assert load_config().source == path

    Path('hyperphot.yaml').write_text('detection: {n_sigma: 7}')
    loaded = load_config()
    assert loaded.config.detection.n_sigma == 7
    assert loaded.origin == 'hyperphot.yaml'
    assert loaded.origins == {'detection.n_sigma': 'line 1'}

    (here / 'my.yaml').write_text('detection:\n  kernel: box')
    loaded = load_config('my.yaml')
    assert loaded.config.detection.n_sigma == 5
    assert loaded.origins == {'detection.kernel': 'line 2'}


def test_own_files_import_no_other_configurations(here):
    """
    The conversion is imported only for a file of Hyper-py.
    """
    (here / 'own.yaml').write_text('detection: {n_sigma: 6}')
    (here / 'other.yaml').write_text('survey: {survey_code: 15}')
    code = ('import sys\nfrom hyperphotutils.pipeline import load_config\n'
            'import hyperphotutils.pipeline.cli\n'
            'for name in ("own.yaml", "other.yaml"):\n'
            '    load_config(name)\n'
            '    print("hyperphotutils.compat.hyper_py" in sys.modules)\n')
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=here, capture_output=True,
        text=True, check=True, env=dict(os.environ, PYTHONPATH=str(ROOT)))
    assert result.stdout.split() == ['False', 'True']


def test_file_found_must_be_right(here):
    (here / 'hyperphot.yaml').write_text('detection: {n_sigma: -7}')
    with pytest.raises(ConfigError, match=r'hyperphot.yaml: line 1: '):
        load_config()


def test_show_lists_the_origin_of_each_key(here, capsys):
    (here / 'hyperphot.yaml').write_text('detection:\n  n_sigma: 7\n')
    assert main(['config', '--show']) == 0
    text = capsys.readouterr().out
    assert text.startswith('# Configuration from hyperphot.yaml\n')
    assert '  n_sigma: 7.0  # line 2\n' in text
    assert '  kernel: gaussian  # default\n' in text
    (here / 'shown.yaml').write_text(text)
    assert read_config('shown.yaml') == load_config().config
    (here / 'other.yaml').write_text('run: {n_workers: 3}')
    assert main(['config', '--show', '--config', 'other.yaml']) == 0
    assert 'n_workers: 3  # line 1' in capsys.readouterr().out
    assert main(['config', '--config', 'other.yaml']) == 2
    assert '--show' in capsys.readouterr().err


def test_run_uses_the_file_it_finds_and_logs_it(here, map_file, capsys):
    (here / 'hyperphot.yaml').write_text(
        f'input: {{maps: ["{map_file}"]}}\n'
        'detection: {n_brightest: 1}\nfit: {max_rounds: 0}\n'
        'output: {directory: out, overview: false, overwrite: true}\n')
    assert main(['run']) == 0
    out = capsys.readouterr().out
    assert out.startswith('configuration: hyperphot.yaml\n')
    assert len(read_catalog(here / 'out' / 'field' / 'catalog.ecsv')) == 1
    assert len(run()) == 1
    log = (here / 'out' / 'run.log').read_text('utf-8')
    assert log.count('configuration (from hyperphot.yaml)') == 2
    assert 'n_brightest: 1' in log


def test_configuration_may_stand_among_the_maps(here, map_file, capsys):
    (here / 'my.yaml').write_text('detection: {n_brightest: 2}\n'
                                  'fit: {max_rounds: 0}\n'
                                  'output: {overview: false}')
    assert main(['run', 'my.yaml', str(map_file)]) == 0
    folder = here / 'hyperphot_output' / 'field'
    assert len(read_catalog(folder / 'catalog.ecsv')) == 2
    assert main(['run', 'my.yaml', '--config', 'b.yaml']) == 2
    assert 'more than one configuration: my.yaml, b.yaml' in (
        capsys.readouterr().err)
