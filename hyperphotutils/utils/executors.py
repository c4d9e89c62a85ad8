# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Calls of a function for many items in this process, in several processes,
or on a cluster.

The executors are those of `concurrent.futures` and dask.distributed. This
module adds what they do not do:

* limit the number of submitted items, so that memory is bounded, and
  yield the items as they finish, also after the executor has broken;
* repeat items alone after a process of a pool was killed, so that the
  item that kills its process is known and the others are completed;
* start processes that do not import the main script, ignore Ctrl-C (which
  the main process handles), and end with their parent;
* send the shared arguments to each process or cluster only once;
* keep the processes for several calls.
"""

from __future__ import annotations

import contextlib
import logging
import math
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from hyperphotutils.startup import tune_memory

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from distributed import Client

    from hyperphotutils.utils.typing import ExecutorLike

__all__ = [
    'WorkerProcesses',
    'as_executor',
    'connect_scheduler',
    'describe_death',
    'error_of',
    'one_blas_thread',
    'was_killed',
    'work_through',
]

# Timeout in seconds for schedulers and for ending processes.
_TIMEOUT = 10

# The file of the last call in a worker process, and what was in it: the
# function and the shared arguments.
_SHARED = [None, None]


def work_through(function: Callable, items: Iterable, *shared: Any,
                 executor: ExecutorLike | WorkerProcesses | None = None,
                 n_workers: int = 1) -> Iterator[tuple[Any, Future]]:
    """
    Call a function for many items and yield the results as they finish.

    Use it for independent work on maps, channels, or sources that should
    run in one or several processes, or on a cluster, with the same code.

    Parameters
    ----------
    function : callable
        Called as ``function(item, *shared)``. With other processes it
        must be importable there.

    items : iterable
        The items.

    *shared : object
        Arguments that are the same for all calls. They are sent to each
        process only once, if possible.

    executor : `~concurrent.futures.Executor` or `None`, optional
        An executor (any object with the method ``submit``), a client of
        `dask.distributed <https://distributed.dask.org>`__, or
        `WorkerProcesses`, which are kept for further calls. If `None`
        (default), ``n_workers`` processes are used.

    n_workers : int, optional
        The number of processes without an ``executor``. The default, 1,
        is the current process.

    Yields
    ------
    item : object
        A finished item, in the order in which items finish.

    future : `~concurrent.futures.Future`
        The result or the error of the item; see `error_of`.

    Raises
    ------
    TypeError
        If ``function`` or ``shared`` cannot be sent to other processes,
        or ``executor`` is invalid.

    ChildProcessError
        If no process can be started.

    Notes
    -----
    The processes do not import the main script (or notebook, or standard
    input), unless the function, an item, or a shared argument is defined
    there. Only in that case the statements of the script must be
    protected by ``if __name__ == '__main__':``.

    If the generator is closed before its end (or interrupted), no
    further items are started, and its own processes are terminated.

    If a process of the pool is killed, the items that were in progress
    are repeated, each in a process of its own, so that an item is not
    affected by another. See `was_killed` for those that fail again.

    Examples
    --------
    >>> from hyperphotutils.utils import work_through
    >>> for item, future in work_through(pow, [1, 2, 3], 2):
    ...     print(item, future.result())
    1 1
    2 4
    3 9
    """
    todo = deque(items)
    if isinstance(executor, WorkerProcesses):
        yield from executor.work(function, todo, shared)
    elif executor is not None:
        executor = as_executor(executor)
        share = getattr(executor, 'share', None)
        if share is not None:
            shared = [share(value) for value in shared]
        yield from _in_window(executor, math.inf, function, todo, *shared)
        # Items that were not submitted before the executor broke.
        for item in todo:
            future = Future()
            future.set_exception(BrokenExecutor('the executor is broken'))
            yield item, future
    elif n_workers == 1:
        yield from _in_window(_SerialExecutor(), 1, function, todo, *shared)
    else:
        with WorkerProcesses(min(n_workers, len(todo))) as workers:
            yield from workers.work(function, todo, shared)


class WorkerProcesses(contextlib.AbstractContextManager):
    """
    Processes that are kept for several calls of `work_through`.

    Use it as a context, where several calls follow each other: each new
    process needs seconds to import what it works with.

    Parameters
    ----------
    n_workers : int
        The number of processes. They are started when they are needed.

    Examples
    --------
    >>> from hyperphotutils.utils import WorkerProcesses, work_through
    >>> with WorkerProcesses(2) as workers:
    ...     for power in (2, 3):
    ...         pairs = work_through(pow, [1, 2], power, executor=workers)
    ...         print(sorted(future.result() for _, future in pairs))
    [1, 4]
    [1, 8]
    """

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        self._pool = None

    def __exit__(self, kind: object, exc: object, trace: object) -> None:
        self._end(at_once=kind is not None)

    def _end(self, *, at_once):
        """
        End the processes; further work starts new ones.
        """
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.end(at_once=at_once)

    def work(self, function: Callable, todo: deque,
             shared: tuple) -> Iterator[tuple[Any, Future]]:
        """
        Work on items; repeat those that may have killed a process alone.

        Parameters
        ----------
        function : callable
            Called as ``function(item, *shared)``.

        todo : `~collections.deque`
            The items, which are removed from it.

        shared : tuple
            The shared arguments.

        Yields
        ------
        item, future
            See `work_through`.
        """
        try:
            payload = pickle.dumps((function, shared))
        except (pickle.PicklingError, AttributeError, TypeError) as exc:
            msg = f'cannot be sent to other processes ({exc})'
            raise TypeError(msg) from exc
        needs_main = _is_of_main(payload) or any(map(_is_of_main, todo))
        if self._pool is not None and needs_main > self._pool.needs_main:
            self._end(at_once=False)
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, 'shared.pickle'))
            Path(path).write_bytes(payload)
            del payload
            finished = False
            try:
                while todo:
                    yield from self._work_once(todo, path, needs_main)
                finished = True
            finally:
                if not finished:
                    self._end(at_once=True)

    def _work_once(self, todo, path, needs_main):
        """
        Work until all is done or the pool breaks, and repeat the items
        that were in progress then.
        """
        if self._pool is None:
            self._pool = _Pool(self.n_workers, needs_main=needs_main)
        suspects = []
        # One more than can run, so that no process has to wait.
        for item, future in _in_window(self._pool, self.n_workers + 1, _call,
                                       todo, path):
            if isinstance(error_of(future), BrokenExecutor):
                self._pool.check_begun()
                suspects.append(item)
            else:
                yield item, future
        if suspects or todo:
            self._end(at_once=True)
        for item in suspects:
            self._pool = _Pool(1, needs_main=needs_main)
            for _, future in _in_window(self._pool, 1, _call, deque([item]),
                                        path):
                if isinstance(error_of(future), BrokenExecutor):
                    self._pool.check_begun()
                    error_of(future).exit_code = self._pool.exit_code
                yield item, future
            self._end(at_once=False)


def error_of(future: Future) -> Exception | None:
    """
    Return the error of a finished future.

    Parameters
    ----------
    future : `~concurrent.futures.Future`
        A future that is done or canceled.

    Returns
    -------
    error : Exception or `None`
        The error, or `None` if there is a result. The error of a
        canceled future is a `ConnectionError`, because futures are
        canceled when a scheduler ends.

    Examples
    --------
    >>> from concurrent.futures import Future
    >>> from hyperphotutils.utils import error_of
    >>> future = Future()
    >>> future.set_result(1)
    >>> print(error_of(future))
    None
    """
    if future.cancelled():
        return ConnectionError('the connection to the workers is lost')
    return future.exception()


def was_killed(error: Exception | None) -> bool:
    """
    Whether an error means that the process of an item was killed.

    Parameters
    ----------
    error : Exception or `None`
        The result of `error_of`.

    Returns
    -------
    killed : bool
        Whether the process was killed.

    Examples
    --------
    >>> from concurrent.futures import BrokenExecutor
    >>> from hyperphotutils.utils import was_killed
    >>> was_killed(BrokenExecutor()), was_killed(ValueError())
    (True, False)
    """
    return (isinstance(error, BrokenExecutor)
            or type(error).__name__ == 'KilledWorker')


def describe_death(error: Exception) -> str:
    """
    Return a description of how the process of an item ended.

    Parameters
    ----------
    error : Exception
        An error for which `was_killed` is `True`.

    Returns
    -------
    text : str
        The description.

    Examples
    --------
    >>> from concurrent.futures import BrokenExecutor
    >>> from hyperphotutils.utils import describe_death
    >>> error = BrokenExecutor()
    >>> error.exit_code = -9
    >>> describe_death(error)
    'its process was killed by the signal SIGKILL'
    """
    # POSIX: negative for a signal, such as -9 of the out-of-memory killer
    code = getattr(error, 'exit_code', None)
    if code is None:
        return 'its process was killed'
    if code >= 0:
        return f'its process ended too early, with the exit status {code}'
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    return f'its process was killed by the signal {name}'


def one_blas_thread() -> AbstractContextManager:
    """
    Return a context in which BLAS uses one thread.

    For many small matrices more threads are slower, and the rounding
    errors of the results would depend on their number. Contexts can be
    nested and used by several threads at the same time: the last one to
    end restores the number.

    Returns
    -------
    context : context manager
        The context.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.utils import one_blas_thread
    >>> with one_blas_thread():
    ...     product = np.eye(3) @ np.eye(3)
    """
    return _ONE_BLAS_THREAD


class _OneBlasThread:
    """
    Context in which BLAS uses one thread, for any number of users.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._n_users = 0
        self._limit = None

    def __enter__(self):
        # with its own BLAS, which is only limited once it is loaded
        import scipy.linalg  # noqa: F401

        with self._lock:
            if self._n_users == 0:
                self._limit = threadpool_limits(1, user_api='blas')
            self._n_users += 1

    def __exit__(self, *_):
        with self._lock:
            self._n_users -= 1
            if self._n_users == 0:
                self._limit.restore_original_limits()


_ONE_BLAS_THREAD = _OneBlasThread()


def as_executor(executor: Any) -> Any:
    """
    Check an executor and adapt a client of dask.distributed.

    Parameters
    ----------
    executor : object
        An object with the method ``submit`` of
        `~concurrent.futures.Executor`, or a client of dask.distributed.

    Returns
    -------
    executor : object
        The same object, or an adapter for the client.

    Raises
    ------
    TypeError
        If it is neither of these.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from hyperphotutils.utils import as_executor
    >>> with ThreadPoolExecutor() as pool:
    ...     as_executor(pool) is pool
    True
    """
    if hasattr(executor, 'get_executor'):
        return _DaskExecutor(executor)
    if not callable(getattr(executor, 'submit', None)):
        msg = ('executor must have the method submit of '
               f'concurrent.futures.Executor: {executor!r}')
        raise TypeError(msg)
    return executor


@contextlib.contextmanager
def connect_scheduler(address: str) -> Iterator[Client]:
    """
    Connect to a running scheduler of dask.distributed.

    This is a context manager that closes the connection on exit. The
    scheduler and its workers continue to run.

    Parameters
    ----------
    address : str
        The address of the scheduler, such as ``'tcp://10.0.0.1:8786'``,
        or its scheduler file (``--scheduler-file``).

    Yields
    ------
    client : ``distributed.Client``
        The client, which can be used as ``executor``.

    Raises
    ------
    ImportError
        If dask.distributed is not installed.

    ConnectionError
        If no scheduler answers.

    Examples
    --------
    >>> from hyperphotutils.utils import connect_scheduler
    >>> with connect_scheduler('tcp://10.0.0.1:8786') as client:
    ...     print(client)  # doctest: +SKIP
    """
    try:
        from distributed import Client
    except ImportError as exc:
        msg = ('a scheduler needs dask.distributed, which is not installed: '
               "python -m pip install 'hyperphotutils[dask]'")
        raise ImportError(msg) from exc
    where = ({'scheduler_file': address} if Path(address).is_file()
             else {'address': address})
    # errors are raised, not logged
    logger = logging.getLogger('distributed')
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        try:
            client = Client(**where, timeout=_TIMEOUT)
        except (OSError, ValueError, KeyError) as exc:
            msg = f'{address}: no dask scheduler answers'
            raise ConnectionError(msg) from exc
        with client:
            yield client
    finally:
        logger.setLevel(level)


def _in_window(executor, width, function, todo, *shared):
    """
    Process up to ``width`` items at a time and yield the finished ones.

    If a process dies, all items in progress have an error, and the
    others stay in ``todo``.
    """
    waiting = {}
    try:
        while True:
            while todo and len(waiting) < width:
                try:
                    future = executor.submit(function, todo[0], *shared)
                except BrokenExecutor:
                    width = 0
                else:
                    waiting[future] = todo.popleft()
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                if isinstance(error_of(future), BrokenExecutor):
                    width = 0
                yield waiting.pop(future), future
    finally:
        for future in waiting:
            future.cancel()


def _is_of_main(value):
    """
    Whether the main script is needed to unpickle a value.
    """
    if not isinstance(value, bytes):
        try:
            value = pickle.dumps(value)
        except (pickle.PicklingError, AttributeError, TypeError):
            # The pool reports the error with the item.
            return False
    return b'__main__' in value


def _call(item, path):
    """
    Call a function for an item, with what is read from a file only once.
    """
    if _SHARED[0] != path:
        # (the file comes from the parent process)
        _SHARED[:] = path, pickle.loads(Path(path).read_bytes())  # noqa: S301
    function, shared = _SHARED[1]
    return function(item, *shared)


class _SerialExecutor(Executor):
    """
    Executor that works at once in this process.
    """

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        with _ErrorsInto(future):
            future.set_result(function(*args, **kwargs))
        return future


class _ErrorsInto(contextlib.AbstractContextManager):
    """
    Context that stores an error in a future; interrupts and exits are
    raised.
    """

    def __init__(self, future):
        self.future = future

    def __exit__(self, kind, exc, trace):
        if isinstance(exc, Exception):
            self.future.set_exception(exc)
            return True
        return False


class _DaskExecutor(Executor):
    """
    Executor that submits work to a client of dask.distributed.
    """

    def __init__(self, client):
        self._client = client
        self._executor = client.get_executor(pure=False)

    def submit(self, function, /, *args, **kwargs):
        return self._executor.submit(function, *args, **kwargs)

    def share(self, value):
        """
        Send a value to the cluster, whose workers copy it from each
        other.

        It is the result of a task instead of being scattered, so that it
        can be computed again if the worker that holds it is lost.
        """
        with warnings.catch_warnings():
            # It may be large, but is sent only once.
            warnings.filterwarnings('ignore', 'Sending large graph')
            return self._client.submit(lambda value: value, value,
                                       pure=False)


class _Pool(ProcessPoolExecutor):
    """
    Pool whose processes ignore Ctrl-C from the start, and do not import
    the main script unless it is needed.
    """

    def __init__(self, n_workers, *, needs_main):
        context = multiprocessing.get_context('spawn')
        self.workers = set()
        self.needs_main = needs_main
        # Without a lock: a process that is killed would never release it.
        self._begun = context.RawValue('b', 0)
        super().__init__(
            n_workers, mp_context=context, initializer=_prepare_worker,
            initargs=(self._begun,))

    def submit(self, function, /, *args, **kwargs):
        others = set(multiprocessing.active_children()) - self.workers
        hidden = (contextlib.nullcontext() if self.needs_main
                  else _main_hidden())
        with _interrupts_held(), hidden:
            future = super().submit(function, *args, **kwargs)
        self.workers |= set(multiprocessing.active_children()) - others
        return future

    def end(self, *, at_once):
        """
        End the processes, at once or after their work.
        """
        if at_once:
            for worker in self.workers:
                worker.terminate()
        self.shutdown(cancel_futures=at_once)

    @property
    def exit_code(self):
        """
        The exit code of the process that broke the pool, or `None` if it
        is unknown.
        """
        for worker in self.workers:
            worker.join(_TIMEOUT)
            # The other processes are terminated by the pool.
            if worker.exitcode not in {None, 0, -signal.SIGTERM}:
                return worker.exitcode
        return None

    def check_begun(self):
        """
        Raise an error if no process of the pool could start its work.
        """
        if self._begun.value:
            return
        msg = 'the worker processes cannot be started'
        if self.needs_main:
            msg += (': they import the main script, because it defines what '
                    'they need: it must be a file whose own statements are '
                    "below if __name__ == '__main__':")
        else:
            msg += f' (exit status {self.exit_code}); use one process'
        raise ChildProcessError(msg)


@contextlib.contextmanager
def _main_hidden():
    """
    Hide the main script from processes that are started in this context.

    Otherwise they import it: they execute its statements again, unless
    these are below ``if __name__ == '__main__':``, and fail if it was
    read from standard input.
    """
    main = sys.modules['__main__']
    spec, file = getattr(main, '__spec__', None), getattr(
        main, '__file__', None)
    main.__spec__ = None
    if file is not None:
        del main.__file__
    try:
        yield
    finally:
        main.__spec__ = spec
        if file is not None:
            main.__file__ = file


@contextlib.contextmanager
def _interrupts_held():
    """
    Block interrupts, also for processes that are started in this context.
    """
    if not hasattr(signal, 'pthread_sigmask'):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_worker(begun):
    """
    Initialize a worker: ignore Ctrl-C, end with the parent process, use
    one thread, and tune its memory.
    """
    parent = multiprocessing.parent_process()

    def end_with_parent():
        # also if it was killed, and cannot end its processes
        parent.join()
        os._exit(1)

    tune_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    one_blas_thread().__enter__()
    begun.value = 1
