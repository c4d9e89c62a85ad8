# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Files that appear under their name only when they are complete.
"""

import os
import secrets
from contextlib import contextmanager
from pathlib import Path

__all__ = ['atomic_output']


@contextmanager
def atomic_output(path, *, overwrite=False):
    """
    Write a file under a temporary name and rename it when complete.

    This is a context manager that returns the name to write to, in the same
    folder and with the same suffixes as ``path``. If the block raises an
    error, the temporary file is removed and ``path`` is not changed. Errors
    name ``path``.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hyperphotutils.utils.output import atomic_output
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / 'note.txt'
    ...     with atomic_output(path) as temporary:
    ...         _ = temporary.write_text('whole')
    ...     print(path.read_text())
    whole
    """
    path = Path(path)
    if not overwrite and os.path.lexists(path):
        msg = f"'{path}' exists already: use overwrite=True to replace it"
        raise FileExistsError(msg)
    temporary = path.with_name(f'.{secrets.token_hex(4)}-{path.name}')
    try:
        yield temporary
        temporary.replace(path)
    except OSError as exc:
        if exc.errno is None:
            raise
        # the message names the final file, not the temporary one
        reason = f'cannot be written ({exc.strerror})'
        raise OSError(exc.errno, reason, str(path)) from exc
    finally:
        # if the parent is not a folder, there is nothing to remove
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)
