# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of runs of many maps that are stopped, killed and continued.
"""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import hyperphotutils
from hyperphotutils.catalog import read_catalog
from hyperphotutils.pipeline import (
    ConfigError,
    OutputError,
    PipelineConfig,
    PipelineError,
    expand_maps,
    process_maps,
)
from hyperphotutils.pipeline import process as process_module
from hyperphotutils.pipeline.cli import main
from hyperphotutils.pipeline.folders import (
    OutputDirectory,
    remove_leftovers,
    scratch_folder,
)

ROOT = Path(hyperphotutils.__file__).parents[1]
CALL = 'import sys; from hyperphotutils.pipeline.cli import main; '

NAMES = ('c', 'a', 'd', 'b')


@pytest.fixture(name='maps')
def fixture_maps(copy_map, tmp_path, monkeypatch):
    """
    The names of maps in the working folder.
    """
    monkeypatch.chdir(tmp_path)
    return [copy_map(f'{name}.fits').name for name in NAMES]


@pytest.fixture(name='hyper')
def fixture_hyper(capsys):
    """
    A function that runs the command here: status, output and errors.
    """
    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(name='worked_on')
def fixture_worked_on(monkeypatch):
    """
    The names of the maps that were begun in this process.
    """
    names = []
    original = process_module.process_map

    def process_map(job, config, **kwargs):
        names.append(job.map_id)
        return original(job, config, **kwargs)

    monkeypatch.setattr(process_module, 'process_map', process_map)
    return names


def make_config(maps, directory='out', **sections):
    sections.setdefault('run', {'detection_only': True})
    output = {'directory': str(directory), 'overview': False,
              **sections.pop('output', {})}
    return PipelineConfig(input={'maps': list(maps)}, output=output,
                          **sections)


def start(*arguments, cwd, **kwargs):
    return subprocess.Popen(
        [sys.executable, '-c', CALL + 'sys.exit(main())',
         *map(str, arguments)], cwd=cwd, text=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT)), **kwargs)


def products(folder):
    """
    All files but the logs, reports, and records, which have times, with their
    bytes.
    """
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in Path(folder).rglob('*')
            if path.is_file() and path.suffix not in {
                '.html', '.log', '.json'}}


# Counts the files that the process opens below the output folder, and kills
# it before it opens one of them.
KILLED = """
import os, signal, sys
from pathlib import Path
from hyperphotutils.pipeline.cli import main
last, folder, *options = sys.argv[1:]
n_opened = 0

def count(event, arguments):
    global n_opened
    if event == 'open' and folder in str(arguments[0]):
        n_opened += 1
        if n_opened == int(last):
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
if __name__ == '__main__':
    status = main([*options, '--output-dir', folder])
    Path('n_opened').write_text(str(n_opened))
    sys.exit(status)
"""


@pytest.mark.parametrize('jobs', [1, 2])
def test_killed_run_is_continued_to_the_same_bytes(maps, tmp_path, jobs):
    """
    SIGKILL at moments between the first and the last file.
    """
    options = ('run', *maps, '--jobs', jobs, '--config', 'c.yaml')
    Path('c.yaml').write_text('output: {overview: false, fits_groups: true}')
    Path('killed.py').write_text(KILLED)
    command = [sys.executable, 'killed.py']

    def run_killed(last, folder):
        return subprocess.run(
            [*command, str(last), folder, *map(str, options)], cwd=tmp_path,
            stdout=subprocess.DEVNULL, check=False,
            env=dict(os.environ, PYTHONPATH=str(ROOT))).returncode

    assert run_killed(0, 'hyperphot_output') == 0
    expected = products('hyperphot_output')
    assert len(expected) > 4 * len(maps)
    n_opened = int(Path('n_opened').read_text())
    assert n_opened > 5
    for last in (n_opened // 6, n_opened // 2, n_opened - 1):
        folder = f'out{last}'
        assert run_killed(last, folder) == -signal.SIGKILL
        before = products(folder)
        for name, content in before.items():
            if not name.startswith('.'):
                assert content == expected[name]
        with start(*options, '--output-dir', folder, cwd=tmp_path,
                   stdout=subprocess.DEVNULL) as process:
            assert process.wait() == 0
        assert products(folder) == expected


def test_finished_maps_are_not_done_again(maps, hyper, worked_on):
    options = ('run', '--detection-only')
    assert hyper(*options, *maps[:2])[0] == 0
    status, out, err = hyper(*options, *maps)
    assert (status, err) == (0, '')
    assert out.splitlines()[0] == (
        'continuing: 2 of 4 maps are done already')
    assert [line.split(':')[0] for line in out.splitlines()[1:]] == ['d', 'b']
    assert worked_on == list(NAMES)
    table = read_catalog('hyperphot_output/catalog_all.ecsv')
    assert list(dict.fromkeys(table['map_id'])) == list(NAMES)
    assert hyper(*options, *maps) == (
        0, 'nothing left to do: all 4 maps are done (use --overwrite to '
        'repeat it)\n', '')
    assert worked_on == list(NAMES)


def test_what_is_done_already_is_told_before_the_work(maps, worked_on):
    process_maps(make_config(maps[:1]))
    told = []
    process_maps(make_config(maps),
                 report=lambda line: told.append((line, len(worked_on))))
    assert told == [('continuing: 1 of 4 maps are done already', 1)]


def test_outcomes_of_earlier_runs_are_the_same(maps):
    config = make_config(maps)
    first, second = process_maps(config), process_maps(config)
    for one, other in zip(first, second, strict=True):
        assert not one.earlier
        assert other.earlier
        assert one.summary == other.summary
        assert one.numbers == other.numbers
        assert len(one.table) == len(other.table) > 0


def test_changed_settings_are_named_and_touch_nothing(maps, hyper):
    hyper('run', *maps[:2], '--detection-only')
    before = products('.')
    status, out, err = hyper('run', *maps[:2], '--detection-only',
                             '--n-sigma', 7)
    assert (status, out) == (2, '')
    assert 'c (and 3 more): made by another run: ' in err
    assert 'detection.n_sigma is 7.0, was 5.0; ' in err
    assert '--overwrite' in err
    assert '--output-dir' in err
    assert products('.') == before
    assert hyper('run', *maps[:2], '--detection-only', '--n-sigma', 7,
                 '--overwrite')[0] == 0


@pytest.mark.parametrize('what', ['map', 'table', 'weights'])
def test_changed_files_are_named(maps, what):
    sections = {'run': {}}
    changed = Path(maps[0])
    if what == 'table':
        changed = Path('sources.csv')
        process_maps(make_config(maps[:1], 'first', **sections))
        Path('first/c/catalog.ipac').rename('sources.tbl')
        changed = Path('sources.tbl')
        sections['sources'] = {'table': 'sources.tbl'}
    if what == 'weights':
        changed = Path('weights.fits')
        fits.writeto(changed, np.ones(fits.getdata(maps[0]).shape))
        sections = {'run': {}, 'fit': {'weights': 'map',
                                       'weight_map': 'weights.fits'}}
    config = make_config(maps, **sections)
    process_maps(config)
    assert all(item.earlier for item in process_maps(config))
    os.utime(changed, ns=(1, 1))
    with pytest.raises(OutputError, match=f'{changed.name} has changed; '):
        process_maps(config)


def test_overwrite_continues_what_was_killed_and_else_begins_anew(
    maps, worked_on, monkeypatch
):
    config = make_config(maps, output={'overwrite': True})
    process_maps(config)
    process_maps(config)
    assert worked_on == [*NAMES, *NAMES]
    original = process_module.process_map

    def interrupt(job, config, **kwargs):
        if job.map_id == 'd':
            raise KeyboardInterrupt
        return original(job, config, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(process_module, 'process_map', interrupt)
        with pytest.raises(KeyboardInterrupt):
            process_maps(config)
    worked_on.clear()
    assert [item.earlier for item in process_maps(config)] == [
        True, True, False, False]
    assert worked_on == ['d', 'b']


def test_maps_that_failed_are_tried_again(maps, worked_on):
    good = Path('a.fits').read_bytes()
    Path('a.fits').write_text('damaged')
    first = process_maps(make_config(maps))
    assert [bool(item.reason) for item in first] == [False, True, False,
                                                     False]
    Path('a.fits').write_bytes(good)
    worked_on.clear()
    second = process_maps(make_config(maps))
    assert worked_on == ['a']
    assert not any(item.reason for item in second)
    process_maps(make_config(maps, 'undisturbed'))
    assert products('out') == products('undisturbed')


def test_products_that_are_gone_are_made_again(maps, worked_on):
    config = make_config(maps)
    process_maps(config)
    expected = products('out')
    Path('out/a/catalog.ecsv').unlink()
    Path('out/catalog_all.ecsv').unlink()
    worked_on.clear()
    process_maps(config)
    assert worked_on == ['a']
    assert products('out') == expected
    Path('out/catalog_all.ecsv').unlink()
    process_maps(config)
    assert worked_on == ['a']
    assert products('out') == expected


def test_table_of_all_maps_loses_none(maps):
    process_maps(make_config(maps))
    with pytest.raises(OutputError, match='not among those given now: b; '):
        process_maps(make_config(maps[:3]))
    # one of the maps alone leaves that table as it is
    assert process_maps(make_config(maps[:1]))[0].earlier


def test_merged_bands_are_continued(maps, hyper, worked_on, monkeypatch):
    """
    Their options concern no map; they are not merged twice.
    """
    Path('c.yaml').write_text('output: {overview: false, regions: false}')
    options = ('run', *maps[:2], '--config', 'c.yaml', '--merge')

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(process_module, 'write_bands', interrupt)
        assert hyper(*options)[0] == 130
    bands = Path('hyperphot_output/catalog_bands.ecsv')
    assert not bands.exists()
    status, out, _ = hyper(*options)
    assert status == 0
    assert worked_on == ['c', 'a']
    assert out.splitlines()[1].startswith('bands: ')
    content = bands.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(process_module, 'write_bands', interrupt)
        assert hyper(*options) == (0, out, '')
    Path('c.yaml').write_text('output: {overview: false, regions: false}\n'
                              'bands: {max_separation: 0.1}')
    status, _, err = hyper(*options)
    assert status == 2
    assert ('catalog_bands.ecsv: made by another run: bands.max_separation '
            'is 0.1, was 0.5; ') in err
    assert bands.read_bytes() == content
    bands.unlink()
    assert hyper(*options)[0] == 0
    assert bands.read_bytes() != content
    assert worked_on == ['c', 'a']


def test_leftovers_of_dead_processes_go_and_nothing_else(tmp_path):
    with subprocess.Popen([sys.executable, '-c', 'pass']) as process:
        process.wait()
    own = scratch_folder(tmp_path / 'map').name
    dead, living = (own.replace(f'.{os.getpid()}@', f'.{pid}@')
                    for pid in (process.pid, os.getppid()))
    elsewhere = dead.replace('@', '@not-')
    kept = {living, elsewhere, '.mine.partial', '.old', 'map@1.partial'}
    for name in (dead, *kept):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'file').touch()
    old = dead.replace('map', 'lost').replace('.partial', '.old')
    (tmp_path / old).mkdir()
    remove_leftovers(tmp_path)
    # what was to be replaced, and was not, is there again
    assert {path.name for path in tmp_path.iterdir()} == kept | {'lost'}


def test_second_run_in_the_same_folder_is_refused(maps):
    pytest.importorskip('fcntl')
    process_maps(make_config(maps[:1]))
    with OutputDirectory('out'), pytest.raises(
            OutputError, match=r'run\.log: another run is at work here'):
        process_maps(make_config(maps))


def test_forty_maps_two_of_them_broken(map_file, tmp_path, hyper,
                                       monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('maps').mkdir()
    for number in range(40):
        path = Path('maps', f'map{number:02d}.fits')
        if number in {7, 31}:
            path.write_text('broken')
        else:
            shutil.copy(map_file, path)
    Path('c.yaml').write_text('output: {overview: false, regions: false}')
    status, out, err = hyper('run', 'maps/*.fits', '--detection-only',
                             '--config', 'c.yaml')
    assert status == 1
    assert len(out.splitlines()) == 38
    assert out.startswith('map00: ')
    first, *reasons = err.splitlines()
    assert first == 'hyperphot: 2 of 40 maps failed:'
    assert [reason.split(': ')[1] for reason in reasons] == [
        'maps/map07.fits', 'maps/map31.fits']
    assert all(len(reason) > 40 for reason in reasons)
    folder = Path('hyperphot_output')
    assert len(list(folder.glob('map*/run.log'))) == 38
    assert len(set(read_catalog(folder / 'catalog_all.ecsv')['map_id'])) == 38
    table = read_catalog(folder / 'diagnostics.ecsv')
    assert table.colnames == ['map_id', 'filename', 'status', 'n_detected',
                              'n_companions', 'n_rejected', 'n_measured',
                              'rms', 'reason']
    assert len(table) == 40
    assert sum(table['status'] == 'done') == 38
    assert table['n_detected'][0] > 5
    assert table['rms'][0].value > 0
    assert table['n_detected'].mask[7]
    assert 'map07.fits' in table['reason'][7]


@pytest.mark.parametrize('full', ['map', 'combined', 'record'])
def test_full_disk_is_told_and_nothing_is_damaged(
    maps, hyper, monkeypatch, full
):
    from hyperphotutils.pipeline import logs

    options = ('run', *maps, '--detection-only')
    assert hyper(*options, '--output-dir', 'good')[0] == 0

    def fail(*args, **kwargs):
        if is_full(*args):
            raise OSError(errno.ENOSPC, 'No space left on device', 'file')
        return original(*args, **kwargs)

    module, name, is_full = {
        'map': (process_module, 'write_products',
                lambda _, job, *__: job.map_id == 'd'),
        'combined': (logs, 'write_catalog', lambda *_: True),
        'record': (process_module, 'write_record',
                   lambda path, _: path.parent.name.startswith('.d.')),
    }[full]
    original = getattr(module, name)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        status, _, err = hyper(*options)
    assert status == 1
    assert err.count('\n') == 1
    n_done = {'map': 2, 'combined': 4, 'record': 2}[full]
    assert (f'No space left on device; {n_done} of 4 maps are done; make '
            'room, and rerun the same command to continue') in err
    expected = products('good')
    for name, content in products('hyperphot_output').items():
        assert content == expected[name]
    status, _, err = hyper(*options)
    assert (status, err) == (0, '')
    assert products('hyperphot_output') == expected


def test_limit_of_file_size_is_told_of_the_final_file(maps, tmp_path):
    """
    A real failure of the system, in the middle of a file.
    """
    resource = pytest.importorskip('resource')

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    with start('run', maps[0], '--detection-only', '--output-dir', 'out',
               cwd=tmp_path, stderr=subprocess.PIPE,
               preexec_fn=limit) as process:
        _, err = process.communicate()
    assert process.returncode == 1
    assert err.startswith('hyperphot: ')
    assert 'File too large' in err
    assert 'partial' not in err
    assert err.count('\n') == 1
    assert not Path('out').exists()


def test_interrupted_run_tells_how_to_continue_and_does(maps, tmp_path):
    """
    When some maps are done and others are not, with and without a pool.
    """
    Path('script.py').write_text(
        'import sys, time\n'
        'from pathlib import Path\n'
        'from hyperphotutils.pipeline import process\n'
        'from hyperphotutils.pipeline.cli import main\n'
        'original = process.process_map\n'
        'def process_map(job, config):\n'
        '    if job.map_id == "b":\n'
        '        Path(job.folder.parent.name + ".reached").touch()\n'
        '        time.sleep(600)\n'
        '    return original(job, config)\n'
        'if __name__ == "__main__":\n'
        '    process.process_map = process_map\n'
        '    sys.exit(main())\n')
    for jobs in (1, 2):
        options = ['run', *maps, '--output-dir', f'out{jobs}', '--jobs',
                   str(jobs), '--detection-only']
        with subprocess.Popen(
                [sys.executable, 'script.py', *options], cwd=tmp_path,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                env=dict(os.environ, PYTHONPATH=str(ROOT))) as process:
            # (the limit is there only to end a test that hangs)
            limit = time.monotonic() + 120
            while not Path(f'out{jobs}.reached').exists():
                assert time.monotonic() < limit
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert err == ('hyperphot: interrupted; completed maps are kept; '
                       'rerun the same command to continue\n')
        assert not list(Path(f'out{jobs}').glob('.*'))
        outcomes = process_maps(make_config(
            maps, f'out{jobs}', output={'overview': True}))
        assert not any(item.reason for item in outcomes)
        # (what two processes have done at this moment is not known)
        if jobs == 1:
            assert [item.earlier for item in outcomes] == [
                True, True, True, False]


def test_lists_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('b/x.fits', 'a/x.fits', 'a/y.fits', 'z[1].fits'):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    Path('list.txt').write_text('# my maps\na/y.fits  # good\n\nb/*.fits\n')
    Path('other').write_text('a/x.fits\n')
    assert expand_maps(['*/x.fits', 'z[1].fits', 'none.fits']) == [
        'a/x.fits', 'b/x.fits', 'z[1].fits', 'none.fits']
    assert expand_maps(['@list.txt']) == ['a/y.fits', 'b/x.fits']
    assert expand_maps(['list.txt', '@other']) == ['a/y.fits', 'b/x.fits',
                                                   'a/x.fits']
    assert expand_maps(['**/y.fits']) == ['a/y.fits']
    assert PipelineConfig(input={'maps': 'list.txt'}).input.maps == (
        'list.txt',)


@pytest.mark.parametrize(
    ('name', 'message'),
    [('*.none', r'\*\.none: no file matches this pattern'),
     ('@none', 'none: the list of maps cannot be read: No such file'),
     ('none.txt', r'none\.txt: the list of maps cannot be read'),
     ('empty.txt', 'the list names no map'),
     ('binary.lst', 'no text in UTF-8')],
)
def test_lists_and_patterns_without_maps_are_named(tmp_path, monkeypatch,
                                                   name, message):
    monkeypatch.chdir(tmp_path)
    Path('empty.txt').write_text('# none\n')
    Path('binary.lst').write_bytes(b'\xff\xfe')
    with pytest.raises(ConfigError, match=message):
        expand_maps([name])


def test_nothing_is_left_of_a_run_that_did_nothing(maps):
    for name in maps:
        Path(name).write_text('broken')
    assert all(item.reason for item in process_maps(make_config(maps)))
    assert not Path('out').exists()
    with pytest.raises(PipelineError, match=r'a\.fits'):
        process_module.run(make_config(maps))


def test_numbers_of_an_outcome_are_plain(maps, monkeypatch):
    """
    The record holds them, whatever kinds of numbers a table has.
    """
    from hyperphotutils.pipeline import extraction

    original = extraction._measure

    def measure(*args):
        result = original(*args)
        result.table.meta['n_detected'] = np.int64(11)
        return result

    monkeypatch.setattr(extraction, '_measure', measure)
    outcome, = process_maps(make_config(maps[:1], run={}))
    assert {name: type(value) for name, value in outcome.numbers.items()} == {
        'n_detected': int, 'n_companions': int, 'n_rejected': int,
        'n_measured': int, 'rms': float, 'seconds': float}
    assert outcome.numbers['n_detected'] == 11
