# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
File names and text: expanding, reading, and escaping them.
"""

import os
import re

__all__ = ['expand_path', 'printable', 'quote', 'read_text']

_VARIABLE = re.compile(r'\$(?:(\w+)|\{([^{}]*)\})', re.ASCII)

# Larger files are neither configurations nor lists.
_MAX_BYTES = 2**24


def expand_path(name):
    """
    Expand a leading ``~`` or ``~user``, and ``$NAME`` or ``${NAME}``.

    Use it for all names of files and folders in the command line,
    configurations, and lists of maps, and only once for each. Variables are
    not expanded in the name of an existing file. A leading ``~`` always is;
    write ``./~name`` for a file of that name.

    Raises a `ValueError` if the name is empty or contains the character
    NUL, or a user or an environment variable is unknown.

    Examples
    --------
    >>> import os
    >>> from hyperphotutils.pipeline.text import expand_path
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

    def get_variable(match):
        variable = match[1] or match[2]
        if variable not in os.environ:
            msg = (f'{name!r}: the environment variable {variable!r} is not '
                   'set')
            raise ValueError(msg)
        return os.environ[variable]

    path = name
    if name.startswith('~'):
        path = os.path.expanduser(name)  # noqa: PTH111 (never raises)
        if path.startswith('~'):
            msg = (f'{name!r}: no such user; write {"./" + name!r} for a '
                   'file of this name')
            raise ValueError(msg)
    if not os.path.lexists(path):
        path = _VARIABLE.sub(get_variable, path)
    # Astropy would expand a leading ~ again, and pathlib drops a leading ./.
    if os.path.normpath(path).startswith('~'):
        path = os.path.abspath(path)  # noqa: PTH100 (keeps links)
    return path


def printable(text):
    r"""
    Escape all characters that cannot be printed in one line.

    Control characters, line breaks of any kind, and bytes of file names
    that are not UTF-8 become escapes with a backslash, so that no file
    name or header can break a line, a table, or a terminal.

    Examples
    --------
    >>> from hyperphotutils.pipeline.text import printable
    >>> print(printable('a\nb\x1b[31m.fits'))
    a\nb\x1b[31m.fits
    """
    text = str(text)
    if text.isprintable():
        return text

    def escape(char):
        code = ord(char)
        if 0xDC80 <= code <= 0xDCFF:
            # a byte that Python could not decode
            return f'\\x{code - 0xDC00:02x}'
        return repr(char)[1:-1] if code < 0xD800 else (
            char.encode('unicode_escape', 'surrogatepass').decode())

    return ''.join(char if char.isprintable() else escape(char)
                   for char in text)


def quote(value):
    """
    Return the `repr` of a value for a message, cut to 60 characters.
    """
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def read_text(path):
    """
    Read a UTF-8 file of at most 16 MiB, without a byte order mark.
    """
    # A device such as /dev/zero has no end.
    with open(path, 'rb') as file:  # noqa: PTH123 (a Path would drop ./)
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        msg = f'larger than {_MAX_BYTES // 2**20} MiB'
        raise ValueError(msg)
    return content.decode('utf-8-sig')
