# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Work on many items in this process, in several, or on a cluster, and one
way to take up what comes of it.
"""

import contextlib
import logging
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import warnings
from collections import deque
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from functools import cache
from pathlib import Path

from threadpoolctl import ThreadpoolController, threadpool_limits

__all__ = [
    'as_executor',
    'connect_scheduler',
    'describe_death',
    'error_of',
    'one_blas_thread',
    'was_killed',
    'work_through',
]

# Seconds after which a scheduler that does not answer is given up
_TIMEOUT = 10

# What a process of a pool needs for all its items
_SHARED = []


def work_through(function, items, *shared, executor=None, n_workers=1):
    """
    Call a function with each of many items.

    Parameters
    ----------
    function : callable
        Called as ``function(item, *shared)``. For other processes it
        must be importable there.

    items : iterable
        The items.

    *shared : object
        What all calls need; sent to each process only once, where that
        is possible.

    executor : `~concurrent.futures.Executor` or `None`, optional
        Anything with its method ``submit``, or a client of
        `dask.distributed <https://distributed.dask.org>`__. With `None`
        (default) the work is done in ``n_workers`` processes.

    n_workers : int, optional
        The number of processes without an ``executor``; 1 (default) is
        this one.

    Yields
    ------
    item : object
        An item that was worked on, in the order in which they end.

    future : `~concurrent.futures.Future`
        Its result or error; see `error_of`.

    Raises
    ------
    TypeError
        If ``shared`` cannot be sent to other processes, or ``executor``
        is none.

    ChildProcessError
        If no process can be begun.

    Notes
    -----
    The processes do not import the main script (or notebook, or what
    Python reads from its standard input), unless the function, an item,
    or what is shared is defined there. Only in that case the statements
    of the script must be below ``if __name__ == '__main__':``.

    If the generator is closed before its end (or interrupted), no
    further item is begun, and processes of its own end at once.

    An item whose process of the pool was killed is tried once more in a
    process of its own, so that no item suffers from another. See
    `was_killed` for those that end so again.

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
    if executor is not None:
        executor = as_executor(executor)
        share = getattr(executor, 'share', None)
        if share is not None:
            shared = [share(value) for value in shared]
        yield from _in_window(executor, math.inf, function, todo, *shared)
        # what an executor that broke down has not taken
        for item in todo:
            future = Future()
            future.set_exception(BrokenExecutor('the executor is broken'))
            yield item, future
    elif n_workers == 1:
        yield from _in_window(_SerialExecutor(), 1, function, todo, *shared)
    else:
        yield from _in_pools(n_workers, function, todo, shared)


def error_of(future):
    """
    Return what a finished future has instead of a result.

    Parameters
    ----------
    future : `~concurrent.futures.Future`
        A future that is done or cancelled.

    Returns
    -------
    error : Exception or `None`
        The error, or `None` if there is a result. What was cancelled by
        others has a `ConnectionError`: that is how the end of a
        scheduler is seen.

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


def was_killed(error):
    """
    Tell whether a process ended instead of the work in it.

    Parameters
    ----------
    error : Exception or `None`
        What `error_of` returns.

    Returns
    -------
    killed : bool
        Whether its process was killed.

    Examples
    --------
    >>> from concurrent.futures import BrokenExecutor
    >>> from hyperphotutils.utils import was_killed
    >>> was_killed(BrokenExecutor()), was_killed(ValueError())
    (True, False)
    """
    return (isinstance(error, BrokenExecutor)
            or type(error).__name__ == 'KilledWorker')


def describe_death(error):
    """
    Describe how a process ended instead of the work in it.

    Parameters
    ----------
    error : Exception
        One for which `was_killed` is `True`.

    Returns
    -------
    text : str
        What is known of its end.

    Examples
    --------
    >>> from concurrent.futures import BrokenExecutor
    >>> from hyperphotutils.utils import describe_death
    >>> error = BrokenExecutor()
    >>> error.exit_code = -9
    >>> describe_death(error)
    'its process was killed by the signal SIGKILL'
    """
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


def one_blas_thread():
    """
    Return a context in which BLAS uses one thread.

    For many small matrices more threads cost more than they bring, and
    the last bits of the results would depend on their number.

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
    return _blas_controller().limit(limits=1, user_api='blas')


@cache
def _blas_controller():
    """
    Find the BLAS libraries, once.
    """
    return ThreadpoolController()


def as_executor(executor):
    """
    Make sure that something can be handed work.

    Parameters
    ----------
    executor : object
        Anything with the method ``submit`` of
        `~concurrent.futures.Executor`, or a client of dask.distributed.

    Returns
    -------
    executor : object
        The same, or an adapter for the client.

    Raises
    ------
    TypeError
        If it is neither.

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
def connect_scheduler(address):
    """
    Connect to a running scheduler of dask.distributed.

    A context manager, which is left with the connection closed; the
    scheduler and its workers go on.

    Parameters
    ----------
    address : str
        Its address, such as ``'tcp://10.0.0.1:8786'``, or the file that
        it was told to write it to (``--scheduler-file``).

    Yields
    ------
    client : ``distributed.Client``
        The client, for the argument ``executor`` of others.

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
    with _quiet_logs():
        try:
            client = Client(**where, timeout=_TIMEOUT)
        except (OSError, ValueError, KeyError) as exc:
            msg = f'{address}: no dask scheduler answers'
            raise ConnectionError(msg) from exc
        with client:
            yield client


@contextlib.contextmanager
def _quiet_logs():
    """
    Keep the logger of dask.distributed silent: errors are raised.
    """
    logger = logging.getLogger('distributed')
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _in_window(executor, width, function, todo, *shared):
    """
    Keep so many items under way, until none is left; if a process dies,
    all that are under way have an error, and the others are left.
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


def _in_pools(n_workers, function, todo, shared):
    """
    Work in processes; those that may have killed one, alone.
    """
    try:
        payload = pickle.dumps((function, shared))
    except (pickle.PicklingError, AttributeError, TypeError) as exc:
        msg = f'cannot be sent to other processes ({exc})'
        raise TypeError(msg) from exc
    needs_main = _is_of_main(payload) or any(map(_is_of_main, todo))
    while todo:
        suspects = []
        with _process_pool(min(n_workers, len(todo)), payload,
                           needs_main=needs_main) as pool:
            # one more than can run, so that none has to wait
            for item, future in _in_window(pool, n_workers + 1, _call, todo):
                if isinstance(error_of(future), BrokenExecutor):
                    pool.check_begun()
                    suspects.append(item)
                else:
                    yield item, future
        for item in suspects:
            with _process_pool(1, payload, needs_main=needs_main) as pool:
                for _, future in _in_window(pool, 1, _call, deque([item])):
                    if isinstance(error_of(future), BrokenExecutor):
                        pool.check_begun()
                        error_of(future).exit_code = pool.exit_code
                    yield item, future


def _is_of_main(value):
    """
    Return whether the main script is needed to receive something.
    """
    if not isinstance(value, bytes):
        try:
            value = pickle.dumps(value)
        except (pickle.PicklingError, AttributeError, TypeError):
            # the pool reports it with its item
            return False
    return b'__main__' in value


def _call(item):
    function, shared = _SHARED
    return function(item, *shared)


class _SerialExecutor(Executor):
    """
    Works at once, in this process; errors wait in the future.
    """

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        with _ErrorsInto(future):
            future.set_result(function(*args, **kwargs))
        return future


class _ErrorsInto(contextlib.AbstractContextManager):
    """
    Moves an error to a future. Interrupts and exits go on.
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
    Hands work to a client of dask.distributed.
    """

    def __init__(self, client):
        self._client = client
        self._executor = client.get_executor(pure=False)

    def submit(self, function, /, *args, **kwargs):
        return self._executor.submit(function, *args, **kwargs)

    def share(self, value):
        """
        Put something on the cluster; workers get it from each other.

        It is the result of a task, not scattered: then it can be made
        again when the worker that holds it is lost.
        """
        with warnings.catch_warnings():
            # it may be large, but it is sent only once
            warnings.filterwarnings('ignore', 'Sending large graph')
            return self._client.submit(_identity, value, pure=False)


def _identity(value):
    return value


@contextlib.contextmanager
def _process_pool(n_workers, payload, *, needs_main):
    """
    A pool that ends at once if it is left by an error or interrupt.
    """
    pool = _Pool(n_workers, payload, needs_main=needs_main)
    finished = False
    try:
        yield pool
        pool.shutdown()
        finished = True
    finally:
        if not finished:
            for worker in pool.workers:
                worker.terminate()
            pool.shutdown(cancel_futures=True)


class _Pool(ProcessPoolExecutor):
    """
    A pool whose processes never see Ctrl-C, from their first moment, nor
    the main script if nothing in it is needed.
    """

    def __init__(self, n_workers, payload, *, needs_main):
        context = multiprocessing.get_context('spawn')
        n_threads = max(1, (os.cpu_count() or 1) // n_workers)
        self.workers = set()
        self._needs_main = needs_main
        self._begun = context.Event()
        super().__init__(
            n_workers, mp_context=context, initializer=_prepare_worker,
            initargs=(n_threads, payload, self._begun))

    def submit(self, function, /, *args, **kwargs):
        others = set(multiprocessing.active_children()) - self.workers
        hidden = (contextlib.nullcontext() if self._needs_main
                  else _main_hidden())
        with _interrupts_held(), hidden:
            future = super().submit(function, *args, **kwargs)
        self.workers |= set(multiprocessing.active_children()) - others
        return future

    @property
    def exit_code(self):
        """
        That of the process that broke the pool, `None` if not known.
        """
        for worker in self.workers:
            worker.join(_TIMEOUT)
            # the others are ended by the pool
            if worker.exitcode not in {None, 0, -signal.SIGTERM}:
                return worker.exitcode
        return None

    def check_begun(self):
        """
        Raise an error if no process of the pool came to its work.
        """
        if self._begun.is_set():
            return
        msg = 'the processes for the work cannot be begun'
        if self._needs_main:
            msg += (": what they need is defined in the main script, which "
                    'they import: this must be a file whose own statements '
                    "are below if __name__ == '__main__':")
        else:
            msg += f' (exit status {self.exit_code}); use one process'
        raise ChildProcessError(msg)


@contextlib.contextmanager
def _main_hidden():
    """
    Hide the main script from processes that are begun meanwhile.

    Otherwise they import it: again its statements, unless they are below
    ``if __name__ == '__main__':``, and from the standard input nothing.
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
    Let interrupts wait; processes that are begun meanwhile get none.
    """
    if not hasattr(signal, 'pthread_sigmask'):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_worker(n_threads, payload, begun):
    """
    Leave Ctrl-C to the parent, end with it, leave the other cores to the
    other workers, and take what is shared.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threadpool_limits(n_threads)
    # it comes from the parent process
    _SHARED[:] = pickle.loads(payload)  # noqa: S301
    begun.set()


def _end_with_parent():
    """
    A parent that was killed cannot tell; nobody would take the results.
    """
    multiprocessing.parent_process().join()
    os._exit(1)
