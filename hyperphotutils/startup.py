# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The start of processes of this package: their use of memory, and Ctrl-C while
they only import what they need.
"""

import atexit
import contextlib
import ctypes
import gc
import os
import signal
import sys

__all__ = ['quit_on_interrupt', 'raise_on_interrupt', 'trim_memory',
           'tune_memory']

_MESSAGE = b'hyperphot: interrupted; nothing was done\n'
_INTERRUPTED = 130

# The number of new objects after which garbage is collected: for the first
# time, and later.
_GC_FIRST, _GC_THRESHOLD = 400_000, 100_000

# Parameters of mallopt in the C library of Linux, and their values in bytes:
# free memory that is kept, and the size of blocks that are never kept. Larger
# values save no time, and the memory of large maps would be in pieces.
_M_TRIM_THRESHOLD, _KEPT = -1, 2**25
_M_MMAP_THRESHOLD, _BLOCK = -3, 2**23


def quit_on_interrupt():
    """
    End the process at once on Ctrl-C, as long as it only imports.

    An interrupt that is raised as an exception would end in a
    traceback, or be lost in the module that is being imported. A
    process that ignores interrupts (a job in the background) continues
    to do so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _quit)


def raise_on_interrupt():
    """
    Raise `KeyboardInterrupt` on Ctrl-C again.
    """
    if getattr(signal.getsignal(signal.SIGINT), '__name__', '') == '_quit':
        signal.signal(signal.SIGINT, signal.default_int_handler)


def tune_memory():
    """
    Spend less time on the memory of this process, 18 % of a run.
    """
    # The imports of a run make 300 thousand objects that stay, and its first
    # map 80 thousand. Every search for garbage among them would take 30 ms.
    gc.set_threshold(_GC_FIRST)
    gc.callbacks.append(_lower_threshold)
    atexit.register(gc.freeze)
    # Images are made and deleted all the time. By default, their memory is
    # returned to the system, and given back page by page.
    with _c_library() as library:
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT)
        library.mallopt(_M_MMAP_THRESHOLD, _BLOCK)


def trim_memory():
    """
    Return free memory to the system, also that between blocks in use.

    Tables and their columns refer to each other, and stay in memory until
    Python searches for such circles. Only recent objects are searched, which
    takes milliseconds.
    """
    gc.collect(1)
    with _c_library() as library:
        library.malloc_trim(0)


@contextlib.contextmanager
def _c_library():
    """
    Give the C library of Linux; another one, or a static one, lacks the
    functions, and nothing is done.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        yield ctypes.CDLL(None)


def _lower_threshold(phase, _):
    if phase == 'stop':
        gc.set_threshold(_GC_THRESHOLD)
        gc.callbacks.remove(_lower_threshold)


def _quit(*_):
    with contextlib.suppress(OSError):
        os.write(2, _MESSAGE)
    os._exit(_INTERRUPTED)


# "python -m hyperphotutils.pipeline" imports that package, and by it this
# module, before the module __main__; sys.argv[0] is "-m" until then.
if sys.argv[:1] == ['-m'] and 'hyperphotutils.pipeline' in sys.orig_argv:
    quit_on_interrupt()
