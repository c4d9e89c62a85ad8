# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of closed, full, and unread streams, and of early interrupts.
"""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hyperphotutils
from hyperphotutils.pipeline import streams

ROOT = Path(hyperphotutils.__file__).parents[1]

pytestmark = pytest.mark.skipif(os.name == 'nt', reason='needs a shell')

MODULE = ['-m', 'hyperphotutils.pipeline']
ENTRY = ['-c', 'import sys; from hyperphotutils.__main__ import main; '
         'sys.exit(main())']


def shell(line, cwd, **env):
    """
    Run a line of a shell, in which hyperphot is the command.
    """
    command = f'hyperphot() {{ {sys.executable} {" ".join(MODULE)} "$@"; }}\n'
    return subprocess.run(
        ['bash', '-c', command + line], cwd=cwd, capture_output=True,
        text=True, check=False, timeout=300,
        env=dict(os.environ, PYTHONPATH=str(ROOT), **env))


@pytest.mark.parametrize('arguments', ['config', '--help'])
def test_full_output_is_an_error(tmp_path, arguments):
    if not Path('/dev/full').exists():
        pytest.skip('needs /dev/full')
    done = shell(f'hyperphot {arguments} > /dev/full', tmp_path)
    assert (done.returncode, done.stderr) == (
        1, 'hyperphot: the standard output cannot be written: No space left '
        'on device\n')


def test_closed_output_is_an_error_where_it_is_all(tmp_path):
    done = shell('hyperphot config >&-', tmp_path)
    assert (done.returncode, done.stderr) == (
        1, 'hyperphot: the standard output cannot be written: Bad file '
        'descriptor\n')


def test_reader_may_end_early(tmp_path):
    done = shell('hyperphot config | true; echo ${PIPESTATUS[0]}', tmp_path)
    assert (done.stdout, done.stderr) == ('0\n', '')


@pytest.mark.parametrize('streams', ['<&- >&- 2>&-', '| true'])
def test_work_is_done_without_streams(map_file, tmp_path, streams):
    done = shell(f'hyperphot run {map_file} --detection-only {streams}; '
                 'echo ${PIPESTATUS[0]}', tmp_path)
    assert (done.stdout, done.stderr) == ('0\n', '')
    folder = tmp_path / 'hyperphot_output' / 'field'
    assert (folder / 'overview.png').read_bytes().startswith(b'\x89PNG')


def test_error_without_a_stream_is_a_status(tmp_path):
    for line, status in (('run none.fits 2>&-', 1), ('nonsense 2>&-', 2)):
        done = shell(f'hyperphot {line}', tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (status, '', '')


def test_encoding_of_a_stream_is_no_obstacle(tmp_path):
    done = shell('hyperphot run z\xe4.fits', tmp_path,
                 PYTHONIOENCODING='ascii')
    assert done.stderr == 'hyperphot: z\\xe4.fits: no such file\n'


@pytest.mark.parametrize('command', [MODULE, ENTRY], ids=['module', 'entry'])
@pytest.mark.parametrize(
    ('name', 'message'),
    [('pydantic', 'nothing was done'),
     ('hyperphotutils.pipeline.cli', 'nothing was done'),
     ('hyperphotutils.maps', 'rerun the same command to continue')],
)
def test_interrupt_during_imports(tmp_path, command, name, message):
    """
    The interrupt comes when a module begins to be imported.
    """
    (tmp_path / 'sitecustomize.py').write_text(
        'import os, signal, sys\n'
        'class Interrupt:\n'
        '    def find_spec(self, name, *_):\n'
        f'        if name == {name!r}:\n'
        '            os.kill(os.getpid(), signal.SIGINT)\n'
        'sys.meta_path.insert(0, Interrupt())\n')
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *command, 'run', 'none.fits', '--unit', 'Jy/beam'],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        timeout=300, env=dict(os.environ, PYTHONPATH=path))
    assert done.returncode == 130
    assert done.stderr.startswith('hyperphot: interrupted; ')
    assert done.stderr.endswith(f'{message}\n')
    assert done.stderr.count('\n') == 1


def test_no_escape_sequence_reaches_the_terminal(capsys):
    streams.open_closed_streams()
    streams.print_line('a\x1b[31m\nb')
    streams.print_error('c\x9b\u202ed')
    assert capsys.readouterr() == ('a\\x1b[31m\\nb\n',
                                   'hyperphot: c\\x9b\\u202ed\n')


class Broken:
    """
    A stream in which nothing can be written.
    """

    encoding = 'ascii'

    def __init__(self, error):
        self.error = error

    def write(self, _):
        raise self.error

    def flush(self):
        raise self.error

    def fileno(self):
        raise self.error


@pytest.mark.parametrize(
    ('error', 'code'),
    [(ValueError('I/O operation on closed file'), errno.EBADF),
     (OSError(errno.ENOSPC, 'full'), errno.ENOSPC),
     (BrokenPipeError(errno.EPIPE, 'no reader'), None)])
def test_first_error_of_the_output_is_kept(monkeypatch, error, code):
    """
    It is reported at the end, unless the reader of a pipe has ended.
    """
    streams.open_closed_streams()
    monkeypatch.setattr(sys, 'stdout', Broken(error))
    streams.print_line('a')
    monkeypatch.setattr(sys, 'stdout', Broken(AssertionError('written')))
    streams.print_line('b')
    fault = streams.flush_output()
    assert (fault and fault.errno) == code
    streams.open_closed_streams()


@pytest.mark.parametrize('error', [ValueError('closed'),
                                   OSError(errno.EIO, 'broken')])
def test_error_that_cannot_be_printed_is_no_error(monkeypatch, error):
    monkeypatch.setattr(sys, 'stderr', Broken(error))
    streams.print_error('c')
    monkeypatch.setattr(sys, 'stderr', None)
    streams.print_error('c')
