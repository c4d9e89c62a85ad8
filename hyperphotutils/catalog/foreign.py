# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Files of unknown content, and the errors of the packages that parse them.
"""

import csv
import re
import struct
from xml.parsers.expat import ExpatError

from astropy.io.fits import VerifyError
from astropy.table.meta import YamlParseError
from astropy.units import UnitsError
from astropy.utils.exceptions import AstropyWarning

from hyperphotutils.catalog.errors import CatalogError

__all__ = ['FOREIGN_ERRORS', 'describe_error', 'refuse_compressed',
           'refuse_deep_yaml']

# Errors that astropy, regions, and yaml raise for damaged files; they may
# occur anywhere in their parsers. (SyntaxError is the base of the errors in
# VOTables, ArithmeticError of overflows.)
FOREIGN_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, LookupError,
    MemoryError, NotImplementedError, OSError, RecursionError, SyntaxError,
    TypeError, ValueError, struct.error, csv.Error, ExpatError, UnitsError,
    VerifyError, YamlParseError, AstropyWarning)

# First bytes of files compressed by gzip, bzip2, xz, zip, or compress
_COMPRESSED = (b'\x1f\x8b', b'BZh', b'\xfd7zXZ', b'PK\x03\x04', b'\x1f\x9d')

_MAX_LENGTH = 300
# far below the limit of recursion of Python, 1000
_MAX_DEPTH = 100


def describe_error(error):
    """
    Return the message of an error of another package in one line.

    Examples
    --------
    >>> from hyperphotutils.catalog.foreign import describe_error
    >>> describe_error(ValueError('two\\nlines'))
    'two lines'
    """
    if isinstance(error, RecursionError):
        return 'it is nested too deeply'
    if isinstance(error, MemoryError):
        return 'it states a size that does not fit into memory'
    text = ' '.join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError):
        text = f'{text} is missing'
    return (text if len(text) <= _MAX_LENGTH
            else f'{text[:_MAX_LENGTH - 3]}...')


def refuse_compressed(file, path):
    """
    Raise an error for a compressed file, which may expand without limit.

    The file is at its beginning before and after the call.
    """
    if file.read(6).startswith(_COMPRESSED):
        msg = f"'{path}' is compressed: decompress it first"
        raise CatalogError(msg)
    file.seek(0)


def refuse_deep_yaml(text):
    """
    Raise a `ValueError` for YAML with more than 100 levels.

    The run time of PyYAML grows with the square of the depth.

    Examples
    --------
    >>> from hyperphotutils.catalog.foreign import refuse_deep_yaml
    >>> refuse_deep_yaml('[' * 1000)
    Traceback (most recent call last):
        ...
    ValueError: its metadata are nested too deeply
    """
    depth = 0
    for bracket in re.findall(r'[\[\]{}]', text):
        depth = max(depth + (1 if bracket in '[{' else -1), 0)
        if depth > _MAX_DEPTH:
            break
    if depth > _MAX_DEPTH or re.search(
            rf'([-?:] +){{{_MAX_DEPTH}}}', text):
        msg = 'its metadata are nested too deeply'
        raise ValueError(msg)
