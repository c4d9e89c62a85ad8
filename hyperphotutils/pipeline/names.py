# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Names of files: what a user wrote expanded, and made safe to show.
"""

import os
import re

__all__ = ['expand_path', 'printable', 'read_text']

_VARIABLE = re.compile(r'\$(?:(\w+)|\{([^{}]*)\})', re.ASCII)

# A configuration or list that is larger is some other kind of file
_MAX_BYTES = 2**24


def expand_path(name):
    """
    Expand a leading ``~`` or ``~user``, and ``$NAME`` or ``${NAME}``.

    All names of files and folders of the command line, configurations,
    and lists of maps are expanded by this function, and only by it.

    Parameters
    ----------
    name : str or path-like
        The name. If it exists as it is, nothing in it is expanded but a
        leading ``~`` (write ``./~name`` for a file of that name).

    Returns
    -------
    path : str
        The expanded name.

    Raises
    ------
    ValueError
        If the name is empty or holds the character NUL, or a user or
        an environment variable is not known.

    Examples
    --------
    >>> import os
    >>> from hyperphotutils.pipeline.names import expand_path
    >>> os.environ['FIELD'] = 'orion'
    >>> expand_path('maps/$FIELD/250um.fits')
    'maps/orion/250um.fits'
    """
    name = os.fspath(name)
    if '\0' in name:
        msg = f'{name!r}: a file name cannot contain the character NUL'
        raise ValueError(msg)
    if not name:
        msg = "'' is not allowed, must be the name of a file or folder"
        raise ValueError(msg)
    path = name
    if name.startswith('~'):
        path = os.path.expanduser(name)  # noqa: PTH111 (raises nothing)
        if path.startswith('~'):
            msg = (f'{name!r}: no such user; write {"./" + name!r} for a '
                   'file of this name')
            raise ValueError(msg)
    if not os.path.lexists(path):
        path = _VARIABLE.sub(_value_of, path)
    # astropy expands a leading ~ again, and pathlib drops a leading ./
    if os.path.normpath(path).startswith('~'):
        path = os.path.abspath(path)  # noqa: PTH100 (keeps links)
    return path


def _value_of(match):
    variable = match[1] or match[2]
    if variable not in os.environ:
        msg = (f'{match.string!r}: the environment variable {variable!r} is '
               'not set')
        raise ValueError(msg)
    return os.environ[variable]


def printable(text):
    r"""
    Escape all characters that do not belong into one line of text.

    Control characters, line breaks of any kind, and bytes of file names
    that are not UTF-8 become escapes with a backslash, so that no text
    of a file name or a header can break a line, a table, or a terminal.

    Parameters
    ----------
    text : str
        The text.

    Returns
    -------
    line : str
        The text in one line.

    Examples
    --------
    >>> from hyperphotutils.pipeline.names import printable
    >>> print(printable('a\nb\x1b[31m.fits'))
    a\nb\x1b[31m.fits
    """
    text = str(text)
    if text.isprintable():
        return text
    return ''.join(char if char.isprintable() else _escaped(char)
                   for char in text)


def _escaped(char):
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        # a byte that Python could not decode
        return f'\\x{code - 0xDC00:02x}'
    return repr(char)[1:-1] if code < 0xD800 else (
        char.encode('unicode_escape', 'surrogatepass').decode())


def read_text(path):
    """
    Read a small text file.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    text : str
        Its text. A byte order mark is removed.

    Raises
    ------
    OSError
        If the file cannot be read.

    UnicodeDecodeError
        If it is not UTF-8.

    ValueError
        If it is too large to be a configuration or a list.
    """
    # (a device such as /dev/zero has no end)
    with open(path, 'rb') as file:  # noqa: PTH123 (the name may hold a NUL)
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        msg = f'larger than {_MAX_BYTES // 2**20} MiB'
        raise ValueError(msg)
    return content.decode('utf-8-sig')
