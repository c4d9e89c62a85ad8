# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the folders of products and of the records that continue a run.
"""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import hyperphotutils
from hyperphotutils.pipeline import MapJob, OutputError, PipelineConfig
from hyperphotutils.pipeline import folders as folders_module
from hyperphotutils.pipeline.folders import (
    OutputDirectory,
    Work,
    describe_files,
    describe_settings,
    find_differences,
    product_folder,
    read_finished,
    read_record,
    write_record,
)

ROOT = Path(hyperphotutils.__file__).parents[1]

RECORD = {'settings': {'fit.ridge': 0.5}, 'inputs': {}}


@pytest.fixture(name='job')
def fixture_job(tmp_path):
    return MapJob('a.fits', 'a', tmp_path / 'a')


def interrupt(manager, action, error=KeyboardInterrupt):
    """
    Raise an error in a context, after an action in it.
    """
    with manager as value:
        action(value)
        raise error


def write_product(job, text, record=RECORD, **options):
    """
    Write a folder of products with a table and a record.
    """
    with product_folder(job, record, **options) as folder:
        (folder / 'catalog.ecsv').write_text(text)
        write_record(folder / 'run.json', record | {
            'table_name': 'catalog.ecsv', 'finished': text})


@pytest.mark.parametrize(
    ('section', 'values', 'counts'),
    [('run', {'n_workers': 4}, False), ('run', {'quiet': True}, False),
     ('output', {'overwrite': True}, False),
     ('output', {'directory': 'elsewhere'}, False),
     ('input', {'maps': ['b.fits']}, False),
     ('output', {'ipac': False}, True), ('input', {'unit': 'K'}, True),
     ('run', {'detection_only': True}, True),
     ('detection', {'n_sigma': 4}, True), ('fit', {'ridge': 0.1}, True)],
)
def test_settings_are_what_changes_results(section, values, counts):
    default = describe_settings(PipelineConfig())
    changed = describe_settings(PipelineConfig(**{section: values}))
    assert (default != changed) == counts
    differences = find_differences(default, changed)
    assert len(differences) == counts
    if counts:
        assert differences[0].startswith(f'{section}.{next(iter(values))} is')


def test_settings_know_the_version():
    settings = describe_settings(PipelineConfig())
    assert settings['hyperphotutils'] == hyperphotutils.__version__
    assert find_differences(settings | {'hyperphotutils': '0.0'}, settings
                            )[0].endswith('was "0.0"')


def test_sections_can_be_chosen():
    settings = describe_settings(PipelineConfig(), sections=('fit',))
    assert 'fit.ridge' in settings
    assert 'detection.n_sigma' not in settings


def test_changed_files_are_named(tmp_path):
    path = tmp_path / 'map.fits'
    before = describe_files(path)
    path.write_bytes(b'123')
    first = describe_files(path)
    assert find_differences(before, first) == [f'{path} has changed']
    assert find_differences(first, before) == [f'{path} is gone']
    os.utime(path, ns=(1, 1))
    second = describe_files(path)
    assert find_differences(first, second) == [f'{path} has changed']
    assert find_differences(second, describe_files(path)) == []
    assert find_differences(first, {}) == [f'{path} was used instead']
    assert find_differences({}, first) == [f'{path} was not used']


def test_bands_do_not_concern_the_maps():
    settings = describe_settings(PipelineConfig())
    assert not any(key.startswith('bands.') for key in settings)


def test_records_are_what_was_written(tmp_path):
    path = tmp_path / 'run.json'
    assert read_record(path) is None
    write_record(path, {'name': 'ä\n', 'rms': 1.5})
    assert read_record(path) == {'name': 'ä\n', 'rms': 1.5}
    assert path.read_bytes().isascii()


def test_torn_records_and_other_files_are_no_records(tmp_path):
    """
    Whatever byte a file ends at, and whatever a power failure leaves.
    """
    path = tmp_path / 'run.json'
    write_record(path, RECORD)
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        assert read_record(path) is None
    for other in (bytes(100), b'my own notes', b'[]', b'\xff'):
        path.write_bytes(other)
        assert read_record(path) is None


def test_full_disk_keeps_the_record(tmp_path, monkeypatch):
    path = tmp_path / 'run.json'
    write_record(path, RECORD)

    def fail(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match=r'No space left.*run\.json'):
        write_record(path, {'other': 1})
    assert read_record(path) == RECORD
    assert list(tmp_path.iterdir()) == [path]


def test_finished_folder_is_recognized(job):
    write_product(job, 'one')
    assert read_finished(job.folder, **RECORD)['finished'] == 'one'
    assert read_finished(job.folder, {'fit.ridge': 1.0}, {}) is None
    assert read_finished(job.folder, RECORD['settings'], {'/x': None}) is None
    (job.folder / 'catalog.ecsv').unlink()
    assert read_finished(job.folder, **RECORD) is None


@pytest.mark.parametrize('error', [KeyError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize('keep', [False, True])
def test_folder_is_replaced_only_when_complete(job, tmp_path, error, keep):
    """
    An unfinished folder is kept if that is asked for and can be of use.
    """
    write_product(job, 'old')
    with pytest.raises(error):
        interrupt(product_folder(job, RECORD, keep=keep),
                  lambda folder: (folder / 'part').touch(), error)
    assert (job.folder / 'catalog.ecsv').read_text() == 'old'
    kept = keep and error is not KeyError
    assert len(list(tmp_path.iterdir())) == 1 + kept
    with product_folder(job, RECORD, keep=keep) as folder:
        assert (folder / 'part').exists() == kept
    assert not (job.folder / 'catalog.ecsv').exists()
    assert list(tmp_path.iterdir()) == [job.folder]


def test_unfinished_folder_of_other_settings_is_not_used(job):
    with pytest.raises(KeyboardInterrupt):
        interrupt(product_folder(job, RECORD, keep=True),
                  lambda folder: (folder / 'part').touch())
    with product_folder(job, RECORD | {'settings': {}}, keep=True) as folder:
        assert not (folder / 'part').exists()


def test_error_names_the_final_file(job):
    with pytest.raises(OSError, match=f'No room.*{job.folder}/x') as caught, \
            product_folder(job, RECORD) as folder:
        raise OSError(errno.ENOSPC, 'No room', str(folder / 'x'))
    assert 'partial' not in str(caught.value)


def test_two_runs_do_not_share_a_directory(tmp_path):
    pytest.importorskip('fcntl')
    with OutputDirectory(tmp_path) as output:
        with pytest.raises(OutputError, match='another run'), \
                OutputDirectory(tmp_path):
            pass
        output.append_to_log('one\n')
    with OutputDirectory(tmp_path) as output:
        output.append_to_log('two\n')
    assert (tmp_path / 'run.log').read_text() == 'one\ntwo\n'


def test_lock_is_free_after_a_kill(tmp_path):
    code = ('import os, signal\n'
            'from hyperphotutils.pipeline.folders import OutputDirectory\n'
            f'with OutputDirectory({str(tmp_path)!r}):\n'
            '    os.kill(os.getpid(), signal.SIGKILL)\n')
    killed = subprocess.run([sys.executable, '-c', code], cwd=ROOT,
                            check=False)
    assert killed.returncode == -signal.SIGKILL
    with OutputDirectory(tmp_path):
        pass


def test_directory_without_products_is_removed(tmp_path):
    with OutputDirectory(tmp_path / 'new' / 'out') as output:
        assert output.path.is_dir()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('content', [b'my own notes', b'{"tables": 1}',
                                     b'[]'])
def test_record_of_others_is_left_alone(tmp_path, content):
    (tmp_path / 'run.json').write_bytes(content)
    with pytest.raises(OutputError, match='not a record of hyperphot'), \
            OutputDirectory(tmp_path):
        pass
    assert (tmp_path / 'run.json').read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 1


def test_run_that_does_not_end_is_remembered(job, tmp_path):
    """
    With the time at which what it is to replace was finished.
    """
    write_product(job, 'yesterday')
    work = Work([job], {}, {'catalog_all.ecsv': RECORD | {'done': False}})
    (tmp_path / 'catalog_all.ecsv').touch()
    with pytest.raises(KeyboardInterrupt):
        interrupt(OutputDirectory(tmp_path), lambda output: output.begin(work))
    with OutputDirectory(tmp_path) as output:
        assert output.unfinished == {'a': 'yesterday'}
        assert output.tables['catalog_all.ecsv'] == RECORD | {'done': False}
        output.finish_table('catalog_all.ecsv')
        output.end(work)
    record = json.loads((tmp_path / 'run.json').read_text())
    assert record['unfinished'] == {}
    assert record['tables']['catalog_all.ecsv']['done'] is True


def test_race_for_the_lock_of_a_removed_log(tmp_path, monkeypatch):
    """
    A log that another run removes between opening and locking is opened
    again.
    """
    fcntl = pytest.importorskip('fcntl')
    flock, removed = fcntl.flock, []

    def remove_and_lock(log, operation):
        if not removed:
            removed.append((tmp_path / 'run.log').unlink())
        flock(log, operation)

    monkeypatch.setattr(folders_module.fcntl, 'flock', remove_and_lock)
    with OutputDirectory(tmp_path) as output:
        output.append_to_log('text')
    assert removed == [None]
    assert (tmp_path / 'run.log').read_text() == 'text'
