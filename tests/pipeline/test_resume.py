# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of what is known of an earlier run.
"""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import hyperphotutils
from hyperphotutils.pipeline import PipelineConfig
from hyperphotutils.pipeline.resume import (
    Journal,
    describe_files,
    describe_settings,
    find_differences,
    fingerprint,
)

ROOT = Path(hyperphotutils.__file__).parents[1]


@pytest.fixture(name='path')
def fixture_path(tmp_path):
    return tmp_path / 'journal.log'


def write_journal(path):
    """
    A journal with each kind of line.
    """
    with Journal(path) as journal:
        journal.begin({'order': 1}, {'a': {}, 'b': {'file': [3, 4]}})
        journal.finish('a', {'rms': 1.5, 'name': 'ä'})
        journal.fail('b', {'reason': 'no beam'})
        journal.begin({'order': 1}, {'b': {}})
        journal.finish('b')
    return path.read_bytes()


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
    assert (fingerprint(default) != fingerprint(changed)) == counts
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


def test_journal_remembers(path):
    write_journal(path)
    with Journal(path) as journal:
        assert list(journal.items) == ['a', 'b']
        assert journal.items['a'].result == {'rms': 1.5, 'name': 'ä'}
        assert journal.items['a'].settings == {'order': 1}
        assert journal.items['b'].state == 'done'
        assert journal.unfinished == []
        assert journal.find_differences('a', {'order': 1}, {}) == []
        assert journal.find_differences('a', {'order': 2}, {'x': 1}) == [
            'order is 2, was 1', 'x is 1']
        journal.begin({'order': 2}, {'a': {}})
        assert journal.unfinished == ['a']
        assert journal.items['a'].settings == {'order': 2}
        assert journal.items['a'].result == {}


def test_every_torn_end_is_ignored_and_overwritten(path):
    """
    A file cut at any byte has the whole lines before, and can go on.
    """
    content = write_journal(path)
    states = {}
    for size in range(len(content)):
        path.write_bytes(content[:size])
        n_lines = content[:size].count(b'\n')
        with Journal(path) as journal:
            found = {name: item.state for name, item in journal.items.items()}
            assert states.setdefault(n_lines, found) == found
            journal.begin({}, {'new': {}})
            journal.finish('new')
        with Journal(path) as journal:
            again = {name: item.state for name, item in journal.items.items()}
        assert again == found | {'new': 'done'}
    assert states[0] == {}
    assert states[3] == {'a': 'begun', 'b': 'begun'}
    assert states[4] == {'a': 'done', 'b': 'begun'}


def test_zeros_after_a_power_failure_are_ignored(path):
    content = write_journal(path)
    path.write_bytes(content + bytes(4096))
    with Journal(path) as journal:
        assert list(journal.items) == ['a', 'b']


@pytest.mark.parametrize('content', [b'my own notes', b'{"journal": 1}\n',
                                     b'[]\n'])
def test_what_others_wrote_is_left_alone(path, content):
    path.write_bytes(content)
    with pytest.raises(OSError, match='not a journal of hyperphot'), \
            Journal(path):
        pass
    assert path.read_bytes() == content


def test_file_is_made_when_needed_and_can_be_removed(path):
    with Journal(path) as journal:
        journal.remove()
    assert not path.exists()
    with Journal(path) as journal:
        journal.begin({}, {'a': {}})
        assert path.exists()
        journal.remove()
    assert not path.exists()


def test_two_runs_do_not_share_a_journal(path):
    pytest.importorskip('fcntl')
    write_journal(path)
    with Journal(path), pytest.raises(BlockingIOError,
                                      match='another run'), Journal(path):
        pass
    with Journal(path):
        pass


def test_full_disk_leaves_whole_lines(path, monkeypatch):
    """
    Half a line that was written before the disk was full is taken back.
    """
    content = write_journal(path)

    class FullDisk:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            self.file.write(data[:5])
            raise OSError(errno.ENOSPC, 'No space left on device')

    with Journal(path) as journal:
        whole = journal._file
        monkeypatch.setattr(journal, '_file', FullDisk(whole))
        with pytest.raises(OSError, match=r'No space left.*journal\.log'):
            journal.begin({}, {'c': {}})
        assert path.read_bytes() == content
        monkeypatch.setattr(journal, '_file', whole)
        journal.begin({}, {'c': {}})
        assert journal.unfinished == ['c']


def test_killed_process_leaves_what_it_has_finished(path):
    """
    All that was reported as finished is there after SIGKILL, and the
    lock is free.
    """
    code = ('import sys\n'
            'from hyperphotutils.pipeline.resume import Journal\n'
            f'with Journal({str(path)!r}) as journal:\n'
            '    journal.begin({}, {str(n): {} for n in range(100000)})\n'
            '    for number in range(100000):\n'
            '        journal.finish(str(number))\n'
            '        print(number, flush=True)\n')
    with subprocess.Popen([sys.executable, '-c', code], cwd=ROOT,
                          stdout=subprocess.PIPE, text=True) as process:
        for _ in range(20):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        reported = 20 + sum(line.endswith('\n') for line in process.stdout)
    with Journal(path) as journal:
        n_done = 100000 - len(journal.unfinished)
    assert reported <= n_done <= reported + 1
