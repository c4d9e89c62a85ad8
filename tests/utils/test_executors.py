# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of working on many items, here and elsewhere.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from pathlib import Path

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import hyperphotutils
from hyperphotutils.utils import (
    WorkerProcesses,
    as_executor,
    connect_scheduler,
    describe_death,
    error_of,
    one_blas_thread,
    was_killed,
    work_through,
)

ROOT = Path(hyperphotutils.__file__).parents[1]


def outcomes_of(pairs):
    """
    The result, or the kind of the error, by item.
    """
    return {item: future.result() if error_of(future) is None
            else type(error_of(future)).__name__ for item, future in pairs}


def test_items_are_worked_on_here_one_by_one():
    begun = []

    def work(item, factor):
        begun.append(item)
        return item * factor

    for item, future in work_through(work, range(4), 10):
        assert future.result() == 10 * item
        assert begun == list(range(item + 1))


def test_processes_and_executors_give_the_same():
    expected = {1: 1, 0: 0, 'x': 'TypeError', 5: 25}
    for kwargs in ({}, {'n_workers': 2},
                   {'executor': ThreadPoolExecutor(2)}):
        assert outcomes_of(work_through(
            pow, expected, 2, **kwargs)) == expected


def blas_threads(_=None):
    """
    The numbers of threads of all BLAS libraries.
    """
    import scipy.linalg  # noqa: F401

    return {library['num_threads'] for library in threadpool_info()
            if library['user_api'] == 'blas'}


def test_contexts_of_one_blas_thread_overlap():
    # as those of two threads can
    first, second = one_blas_thread(), one_blas_thread()
    with threadpool_limits(2):
        first.__enter__()
        second.__enter__()
        assert blas_threads() == {1}
        first.__exit__(None, None, None)
        assert blas_threads() == {1}
        second.__exit__(None, None, None)
        assert blas_threads() == {2}


def test_workers_round_as_this_process_does():
    """
    Rounding depends on the number of threads of BLAS.
    """
    pairs = work_through(blas_threads, [0, 1], n_workers=2)
    assert [future.result() for _, future in pairs] == [{1}, {1}]


def test_interrupt_is_no_error_of_an_item():
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(work_through(interrupt, [1]))


def test_generator_that_is_closed_begins_nothing_more():
    begun = []
    with contextlib.closing(work_through(begun.append, range(9))) as pairs:
        next(pairs)
    assert begun == [0]


def test_what_is_no_executor_is_named():
    with pytest.raises(TypeError, match=r'executor must have .*: 3'):
        next(work_through(pow, [1], executor=3))
    with pytest.raises(TypeError, match='cannot be sent to other proc'):
        next(work_through(pow, [1], lambda: 0, n_workers=2))


def test_broken_executor_costs_no_item():
    """
    What it did not take has an error, too.
    """
    class Broken(Executor):
        n_taken = 0

        def submit(self, function, /, *args, **kwargs):
            self.n_taken += 1
            if self.n_taken > 2:
                raise BrokenExecutor
            future = Future()
            future.set_result(self.n_taken)
            return future

    assert outcomes_of(work_through(pow, range(4), executor=Broken())) == {
        0: 1, 1: 2, 2: 'BrokenExecutor', 3: 'BrokenExecutor'}


def test_errors_of_killed_and_canceled_work():
    future = Future()
    future.cancel()
    assert isinstance(error_of(future), ConnectionError)
    assert not was_killed(error_of(future))
    assert was_killed(BrokenExecutor())
    assert was_killed(type('KilledWorker', (Exception,), {})())
    assert not was_killed(OSError())
    assert not was_killed(None)


def test_killed_process_costs_only_its_own_item():
    """
    os._exit(0) ends a process of the pool; all others are done.
    """
    items = [os.getpid, os.getcwd, None, os.getppid, os.getuid]
    outcomes = outcomes_of(work_through(call_or_end, items, n_workers=2))
    assert set(outcomes) == set(items)
    assert outcomes[None] == 'BrokenProcessPool'
    assert outcomes[os.getcwd] == str(Path.cwd())
    assert outcomes[os.getpid] != os.getpid()


def call_or_end(item):
    return os._exit(1) if item is None else item()


def test_kept_processes_work_on_further_calls():
    """
    The same process works on further calls, with their functions and
    shared arguments; one that was killed or stopped is replaced.
    """
    with WorkerProcesses(1) as workers:
        def pid_of_worker():
            (pid,) = outcomes_of(work_through(
                call_or_end, [os.getpid], executor=workers)).values()
            return pid

        first = pid_of_worker()
        for power in (2, 3):
            assert outcomes_of(work_through(
                pow, [2, 3], power, executor=workers)) == {
                    2: 2**power, 3: 3**power}
        assert pid_of_worker() == first
        os.kill(first, signal.SIGKILL)
        second = pid_of_worker()
        assert outcomes_of(work_through(
            call_or_end, [None, os.getcwd], executor=workers)) == {
                None: 'BrokenProcessPool', os.getcwd: str(Path.cwd())}
        third = pid_of_worker()
        with contextlib.closing(work_through(
                pow, range(9), 2, executor=workers)) as pairs:
            next(pairs)
        fourth = pid_of_worker()
        assert len({first, second, third, fourth, os.getpid()}) == 5
    wait_for(lambda: not is_alive(fourth))


@pytest.mark.parametrize('how', ['file', 'stdin', 'command'])
def test_main_script_is_not_needed_where_nothing_is_of_it(tmp_path, how):
    """
    A script without a guard works, and its statements run once.
    """
    script = ('print("begun")\n'
              'from hyperphotutils.utils import work_through\n'
              'pairs = work_through(pow, [1, 2, 3], 2, n_workers=2)\n'
              'print(sorted(future.result() for _, future in pairs))\n'
              'print(__spec__ is None, __name__)\n')
    (tmp_path / 'script.py').write_text(script)
    arguments = {'file': ['script.py'], 'stdin': ['-'],
                 'command': ['-c', script]}[how]
    done = run_python(arguments, tmp_path, script)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout == 'begun\n[1, 4, 9]\nTrue __main__\n'


@pytest.mark.parametrize('how', ['file', 'stdin'])
def test_main_script_that_cannot_be_imported_is_the_reason(tmp_path, how):
    script = ('from hyperphotutils.utils import work_through\n'
              'def work(item):\n'
              '    return item\n'
              'list(work_through(work, [1, 2, 3], n_workers=2))\n')
    (tmp_path / 'script.py').write_text(script)
    done = run_python(['script.py' if how == 'file' else '-'], tmp_path,
                      script)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "are below if __name__ == '__main__':")


def run_python(arguments, cwd, script):
    return subprocess.run(
        [sys.executable, *arguments], input=script, cwd=cwd, text=True,
        capture_output=True, check=False, timeout=300,
        env=dict(os.environ, PYTHONPATH=str(ROOT)))


def test_end_of_a_process_is_described():
    error = BrokenExecutor()
    assert describe_death(error) == 'its process was killed'
    for code, text in ((-9, 'killed by the signal SIGKILL'),
                       (-99, 'killed by the signal 99'),
                       (3, 'ended too early, with the exit status 3')):
        error.exit_code = code
        assert text in describe_death(error)


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(
        'import os, pathlib, time\n'
        'from hyperphotutils.utils import work_through\n'
        'def work(item):\n'
        '    pathlib.Path(f"pid{os.getpid()}").touch()\n'
        '    time.sleep(600)\n'
        'if __name__ == "__main__":\n'
        '    list(work_through(work, range(2), n_workers=2))\n')
    with subprocess.Popen(
            [sys.executable, script], cwd=tmp_path,
            env=dict(os.environ, PYTHONPATH=str(ROOT))) as process:
        wait_for(lambda: len(list(tmp_path.glob('pid*'))) == 2)
        process.send_signal(signal.SIGKILL)
    pids = [int(path.name[3:]) for path in tmp_path.glob('pid*')]
    wait_for(lambda: not any(map(is_alive, pids)))


def wait_for(condition):
    # (the limit is for what never happens, on machines however busy)
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + 60
        time.sleep(0.05)


def is_alive(pid):
    try:
        state = Path(f'/proc/{pid}/stat').read_text().rsplit(')')[1].split()
    except FileNotFoundError:
        return False
    return state[0] != 'Z'


def test_missing_dask_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, 'distributed', None)
    with pytest.raises(ImportError, match=r'hyperphotutils\[dask\]'), \
            connect_scheduler('tcp://127.0.0.1:1'):
        pass


def test_pool_of_the_user_is_taken():
    with ProcessPoolExecutor(1) as pool:
        assert as_executor(pool) is pool
