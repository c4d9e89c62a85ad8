# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The error of a map that cannot be read as it stands.
"""

__all__ = ['MapError']


class MapError(ValueError):
    """
    A file, header or array that does not make a map.

    The message is one line. It names the file, what is wrong with it
    (the keyword, where there is one) and what to do about it (the
    argument that supplies what is missing).

    Examples
    --------
    >>> from hyperphotutils.maps import MapError, read_map
    >>> try:
    ...     read_map('nowhere.fits')
    ... except MapError as error:
    ...     print(error)
    nowhere.fits: no such file
    """
