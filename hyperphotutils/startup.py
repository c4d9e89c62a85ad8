# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The entry point of the command ``hyperphot``.

It imports nothing that takes time before Ctrl-C is taken care of.
"""

import contextlib
import os
import signal

__all__ = ['main', 'quit_on_interrupt', 'raise_on_interrupt']

_MESSAGE = b'hyperphot: interrupted; nothing was done\n'
_INTERRUPTED = 130


def main():
    """
    Run the command line.

    Returns
    -------
    status : int
        The exit status, see `hyperphotutils.pipeline.cli.main`.
    """
    quit_on_interrupt()
    from hyperphotutils.pipeline.cli import main as run_command

    return run_command()


def quit_on_interrupt():
    """
    End the process at once on Ctrl-C, as long as it only imports.

    An interrupt that were raised as an exception would end in a
    traceback, or be lost in the module that is being imported. What
    ignores interrupts (a job in the background) continues to do so.
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
