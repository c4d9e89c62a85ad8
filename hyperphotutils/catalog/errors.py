# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The error raised for tables that cannot be used.
"""

from __future__ import annotations

__all__ = ['CatalogError']


class CatalogError(ValueError):
    """
    Error for a file or table that is not a valid catalog.

    The message is one line. It names the file, the column, the value (if
    any), and the remedy. Control characters in these are escaped, since
    messages are printed on terminals.

    Parameters
    ----------
    message : str
        The message.

    Examples
    --------
    >>> from astropy.table import Table
    >>> from hyperphotutils.catalog import CatalogError, read_source_list
    >>> try:
    ...     read_source_list(Table({'RA': [10.0], 'DEC': [95.0]}))
    ... except CatalogError as error:
    ...     print(error)
    the table of sources: DEC must be within 90 deg: got 95.0 deg in row 0
    """

    def __init__(self, message: str) -> None:
        super().__init__(''.join(
            char if char.isprintable() else ascii(char)[1:-1]
            for char in message))
