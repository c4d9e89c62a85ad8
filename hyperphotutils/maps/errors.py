# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The error raised for maps that cannot be read.
"""

__all__ = ['MapError']


class MapError(ValueError):
    """
    Error for a file, header, or array that is not a valid map.

    The message is one line. It names the file, the problem (with the
    keyword, if any), and the remedy (the argument that supplies what is
    missing).

    Examples
    --------
    >>> from hyperphotutils.maps import MapError, read_map
    >>> try:
    ...     read_map('nowhere.fits')
    ... except MapError as error:
    ...     print(error)
    nowhere.fits: no such file
    """
