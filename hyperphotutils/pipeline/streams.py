# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What the command line writes to its standard streams.

A stream may be closed, full, or a pipe that nobody reads any more. No
text ever reaches it with control characters in it.
"""

import contextlib
import errno
import os
import sys

from hyperphotutils.pipeline.names import printable

__all__ = ['complain', 'flush_output', 'occupy_streams', 'say', 'write_output']

# Why the standard output cannot be written, once it cannot
_FAULTS = []


def occupy_streams():
    """
    Open the null device for each standard stream that is closed.

    Otherwise the next file that is opened would take its number, and
    get all that libraries and other processes write to that stream.
    """
    _FAULTS.clear()
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # the lowest free number is taken
            os.open(os.devnull, os.O_RDWR)


def say(line):
    """
    Write a line to the standard output, if there is one.

    Parameters
    ----------
    line : str
        The line.
    """
    # a daemon without an output does its work as well
    if sys.stdout is not None:
        write_output(f'{printable(line)}\n')


def write_output(text):
    """
    Write to the standard output now; a fault is kept for later.

    Parameters
    ----------
    text : str
        The text, with its line breaks.
    """
    if sys.stdout is None:
        _FAULTS.append(OSError(errno.EBADF, os.strerror(errno.EBADF)))
    if _FAULTS:
        return
    try:
        sys.stdout.write(_encodable(text, sys.stdout))
        # what is said during the work is to be read then
        sys.stdout.flush()
    except OSError as exc:
        _FAULTS.append(exc)
        _drop(sys.stdout)
    except ValueError:
        # closed by somebody else
        _FAULTS.append(OSError(errno.EBADF, os.strerror(errno.EBADF)))


def flush_output():
    """
    Write what is left in the buffer of the standard output.

    Returns
    -------
    fault : OSError or `None`
        Why not all of the output could be written. A pipe whose reader
        has ended is no fault: it has read what it wanted.
    """
    if sys.stdout is not None and not _FAULTS:
        write_output('')
    faults = [fault for fault in _FAULTS
              if not isinstance(fault, BrokenPipeError)]
    return faults[0] if faults else None


def complain(line):
    """
    Write a line to the standard error, if there is one.

    Parameters
    ----------
    line : str
        The line.
    """
    if sys.stderr is None:
        return
    line = _encodable(f'hyperphot: {printable(line)}\n', sys.stderr)
    try:
        sys.stderr.write(line)
        sys.stderr.flush()
    except (OSError, ValueError):
        # there is no other place for it; the exit status tells
        with contextlib.suppress(OSError, ValueError):
            _drop(sys.stderr)


def _encodable(text, stream):
    """
    Escape what the encoding of a stream does not have.
    """
    encoding = getattr(stream, 'encoding', None) or 'utf-8'
    return text.encode(encoding, 'backslashreplace').decode(encoding)


def _drop(stream):
    """
    Connect a stream to the null device, for all that Python still holds
    for it.
    """
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
