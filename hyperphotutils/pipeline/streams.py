# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The standard streams of the command line, which may be closed, full, or a
pipe without a reader.
"""

import contextlib
import errno
import os
import sys

from hyperphotutils.pipeline.text import printable

__all__ = []  # shared by the modules of the pipeline only

# Errors from writing to standard output
_faults = []


def open_closed_streams():
    """
    Open the null device for each closed standard stream.

    Otherwise the next opened file would reuse this descriptor and receive
    output meant for the stream.
    """
    _faults.clear()
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # gets the lowest free number
            os.open(os.devnull, os.O_RDWR)


def print_line(line):
    """
    Print a line without control characters, if there is an output.
    """
    # A daemon without an output can run, too.
    if sys.stdout is not None:
        write_output(f'{printable(line)}\n')


def print_error(line):
    """
    Print a line without control characters to the standard error.
    """
    if sys.stderr is None:
        return
    line = _escape(f'hyperphot: {printable(line)}\n', sys.stderr)
    try:
        sys.stderr.write(line)
        sys.stderr.flush()
    except (OSError, ValueError):
        # only the exit status is left to report the error
        with contextlib.suppress(OSError, ValueError):
            _redirect_to_null(sys.stderr)


def write_output(text):
    """
    Write to the standard output and flush it; remember an error.
    """
    if sys.stdout is None:
        _faults.append(OSError(errno.EBADF, os.strerror(errno.EBADF)))
    if _faults:
        return
    try:
        sys.stdout.write(_escape(text, sys.stdout))
        sys.stdout.flush()
    except OSError as exc:
        _faults.append(exc)
        _redirect_to_null(sys.stdout)
    except ValueError:
        # closed by other code
        _faults.append(OSError(errno.EBADF, os.strerror(errno.EBADF)))


def flush_output():
    """
    Flush the standard output, and return the first error, or `None`.

    A pipe whose reader has ended is not an error.
    """
    if sys.stdout is not None and not _faults:
        write_output('')
    faults = [fault for fault in _faults
              if not isinstance(fault, BrokenPipeError)]
    return faults[0] if faults else None


def _escape(text, stream):
    """
    Escape characters that the encoding of a stream does not have.
    """
    encoding = getattr(stream, 'encoding', None) or 'utf-8'
    return text.encode(encoding, 'backslashreplace').decode(encoding)


def _redirect_to_null(stream):
    """
    Discard the text that Python still buffers for a stream.
    """
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
