# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Ctrl-C while a program only imports what it needs.
"""

import contextlib
import os
import signal
import sys

__all__ = ['quit_on_interrupt', 'raise_on_interrupt']

_MESSAGE = b'hyperphot: interrupted; nothing was done\n'
_INTERRUPTED = 130


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


def _quit(*_):
    with contextlib.suppress(OSError):
        os.write(2, _MESSAGE)
    os._exit(_INTERRUPTED)


# "python -m hyperphotutils.pipeline" imports that package, and by it this
# module, before the module __main__; sys.argv[0] is "-m" until then.
if sys.argv[:1] == ['-m'] and 'hyperphotutils.pipeline' in sys.orig_argv:
    quit_on_interrupt()
