# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the command ``hyperphot recover``.
"""

import os
import re
import subprocess
import sys
from dataclasses import replace

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from matplotlib.figure import Figure

from hyperphotutils.catalog import read_catalog
from hyperphotutils.photometry import fit_completeness
from hyperphotutils.pipeline import (
    ConfigError,
    OutputError,
    PipelineConfig,
    PipelineError,
)
from hyperphotutils.pipeline.cli import main
from hyperphotutils.pipeline.recover import recover_map, summarize_recovery

FILES = ['completeness.png', 'injected.ecsv', 'recovery.ecsv', 'report.html']
QUICK = {'n_repeats': 2, 'n_per_map': 2, 'seed': 1}


@pytest.fixture(name='quick')
def fixture_quick():
    return PipelineConfig(run={'detection_only': True})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_command_writes_tables_and_plot(map_file, tmp_path, capsys):
    folder = tmp_path / 'out' / 'recovery'
    arguments = ['recover', str(map_file), '--output-dir', str(folder),
                 '--n-repeats', '3', '--snr', '5,40']
    assert main(arguments) == 0
    assert names(folder) == FILES
    table = read_catalog(folder / 'recovery.ecsv')
    injected = read_catalog(folder / 'injected.ecsv')
    assert table['n_injected'].sum() == len(injected)
    assert len(table) == 6
    np.testing.assert_allclose(table['snr_low'][0], 5.0)
    np.testing.assert_allclose(table['snr_high'][-1], 40.0)
    page = (folder / 'report.html').read_text(encoding='utf-8')
    assert f'Completeness of {map_file.name}' in page
    assert page.count('<svg') == 3
    assert f'of {len(injected)} injected sources recovered' in page
    captured = capsys.readouterr()
    assert f'of {len(injected)} injected sources recovered' in captured.out
    assert captured.err == ''

    assert main(arguments) == 2
    assert 'recovery.ecsv: already exists' in capsys.readouterr().err
    assert main([*arguments, '--overwrite', '--quiet']) == 0
    assert capsys.readouterr().out == ''
    again = read_catalog(folder / 'injected.ecsv')
    np.testing.assert_array_equal(again['flux_fit'], injected['flux_fit'])


def test_too_few_sources_are_reported(map_file, tmp_path, capsys):
    """
    Unknown values are a dash, and the summary names a larger number.
    """
    assert main(['recover', str(map_file), '--output-dir',
                 str(tmp_path / 'out'), '--n-repeats', '2',
                 '--snr', '1,48']) == 0
    out, err = capsys.readouterr()
    assert err == ''
    assert 'nan' not in out
    assert 'inf' not in out
    assert re.search(r'^ +\d\.\d +[01] +(0\.0 %|-) +- +- +-$', out,
                     re.MULTILINE)
    assert re.search(r'too few sources: with fewer than 30 .* use '
                     r'--n-repeats (30|60)', out)


def test_medians_of_few_sources_are_not_shown(map_file, tmp_path, quick):
    """
    Four recovered sources have no bias and no pull in the summary and in
    the figure; five have both.
    """
    result = recover_map(map_file, quick, tmp_path / 'out', **QUICK)
    table = result.table[:3]
    table['n_injected'] = [40, 40, 40]
    table['n_recovered'] = [1, 4, 5]
    table['snr'] = [3.0, 5.0, 10.0]
    for name in table.colnames:
        if name.endswith(('bias', 'scatter', 'median')):
            table[name] = [0.125, 0.125, 0.125]
    table['flux'] = [1.0, 2.0, 3.0] * table['flux'].unit
    result = replace(result, table=table, curve=None)
    table.meta['no_curve'] = 'no curve'
    lines = summarize_recovery(result)[3:6]
    assert all(re.search(r' - +-$', line) for line in lines[:2])
    assert re.search(r' 12\.5 % +0\.12 \+/- 0\.12$', lines[2])
    axes = result.plot(figure=Figure()).axes
    for ax, n_series in ((axes[1], 1), (axes[2], 2)):
        drawn = [series.lines[0].get_xdata() for series in ax.containers]
        assert [len(x) for x in drawn] == [1] * n_series


def test_step_has_no_errors(map_file, quick, tmp_path):
    """
    Where all lost sources are fainter than the recovered ones, too few
    were injected; so the summary says, and empty panels state why.
    """
    result = recover_map(map_file, quick, tmp_path / 'out', **QUICK)
    curve = fit_completeness([1.0, 2.0, 4.0] * u.Jy, [False, False, True])
    table = result.table[:1]
    table['n_recovered'] = [4]
    result = replace(result, table=table, curve=curve)
    lines = result.summary().splitlines()
    assert lines[1] == (
        'completeness rises from 0 to 1 between 2 and 4 Jy: too few sources '
        'for its fluxes at 50 % and 90 %; inject more')
    for ax in result.plot(figure=Figure()).axes[1:]:
        assert 'fewer than 5 recovered' in ax.texts[0].get_text()


def test_missing_curve_is_reported_once(map_file, tmp_path, capsys):
    assert main(['recover', str(map_file), '--output-dir',
                 str(tmp_path / 'out'), '--n-repeats', '2',
                 '--snr', '60,80']) == 0
    out, err = capsys.readouterr()
    assert out.count('no curve of the completeness: ') == 1
    assert 'inject fainter ones (--snr)' in out
    assert err == ''


def test_extractor_is_that_of_the_configuration(map_file, tmp_path, quick):
    result = recover_map(map_file, quick, tmp_path / 'out', **QUICK)
    assert np.isnan(result.injected['flux_fit']).all()
    assert 'HighPassStarFinder' in result.table.meta['call']


def test_maps_that_fail_leave_nothing_behind(tmp_path, quick):
    missing = tmp_path / 'missing.fits'
    with pytest.raises(PipelineError, match=r'missing\.fits: '):
        recover_map(missing, quick, tmp_path / 'a' / 'b', **QUICK)
    bare = tmp_path / 'bare.fits'
    fits.PrimaryHDU(np.ones((9, 9))).writeto(bare)
    with pytest.raises(PipelineError, match=r'bare\.fits: '):
        recover_map(bare, quick, tmp_path / 'a' / 'b', **QUICK)
    assert names(tmp_path) == ['bare.fits']


def test_folder_of_a_killed_run_is_removed(map_file, tmp_path, quick,
                                           monkeypatch):
    """
    A run removes what one that was killed has left, and nothing else.
    """
    seen = []

    def look(*_, **__):
        seen.append(names(tmp_path))
        raise PipelineError

    monkeypatch.setattr('hyperphotutils.pipeline.recover._recover', look)
    (tmp_path / 'mine').touch()
    with pytest.raises(PipelineError):
        recover_map(map_file, quick, tmp_path, **QUICK)
    (own,) = set(seen[0]) - {'mine'}
    with subprocess.Popen([sys.executable, '-c', 'pass']) as process:
        process.wait()
    (tmp_path / own.replace(f'.{os.getpid()}@', f'.{process.pid}@')).mkdir()
    with pytest.raises(PipelineError):
        recover_map(map_file, quick, tmp_path, **QUICK)
    assert seen[1] == seen[0]
    assert names(tmp_path) == ['mine']


def test_error_of_a_crowded_map_is_one_line(map_file, tmp_path, quick):
    with pytest.raises(PipelineError, match='n_per_map=500 sources do not'):
        recover_map(map_file, quick, tmp_path / 'out',
                    **QUICK | {'n_per_map': 500})


def test_given_sources_are_refused(map_file, tmp_path):
    config = PipelineConfig(sources={'x': [1.0], 'y': [1.0]})
    with pytest.raises(ConfigError, match='sources: recovery tests'):
        recover_map(map_file, config, tmp_path / 'out', **QUICK)
    assert names(tmp_path) == []


def test_maps_of_weights_are_refused(map_file, tmp_path):
    config = PipelineConfig(fit={'weights': 'map', 'weight_map': 'a.fits'})
    with pytest.raises(ConfigError, match=r'fit\.weight_map: recovery'):
        recover_map(map_file, config, tmp_path / 'out', **QUICK)
    assert names(tmp_path) == []


def test_folder_that_cannot_be_made(map_file, tmp_path, quick):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OutputError, match='cannot be written'):
        recover_map(map_file, quick, tmp_path / 'file' / 'out', **QUICK)


@pytest.mark.parametrize(('option', 'value', 'message'), [
    ('--snr', '5', 'must be MIN,MAX'), ('--snr', '9,3', 'must be MIN,MAX'),
    ('--n-repeats', '0', 'at least 1'), ('--jobs', '-1', 'at least 1'),
    ('--jobs', 'x', 'at least 1')])
def test_bad_options_are_one_line(map_file, capsys, option, value, message):
    with pytest.raises(SystemExit) as caught:
        main(['recover', str(map_file), f'{option}={value}'])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count('\n') == 1


def test_failure_is_an_exit_status(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(['recover', 'missing.fits']) == 1
    assert capsys.readouterr().err.startswith('hyperphot: missing.fits: ')
    assert names(tmp_path) == []
