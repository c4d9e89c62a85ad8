# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Checks of the structure of a FITS file: complete headers, and as many
values as they declare.

They run before astropy opens a file, because for impossible sizes astropy
loops endlessly or allocates all memory.
"""

import bz2
import gzip
import lzma
import os
import re

import numpy as np

from hyperphotutils.maps.errors import MapError

__all__ = ['check_structure']

# Bytes of a block and of a card (FITS standard 4.0, sections 3.1 and 4.1)
_BLOCK = 2880
_CARD = 80

# Length limit of a header in blocks: 1.3 million cards.
_MAX_BLOCKS = 36000

# Bytes after the last HDU that are ignored. Astropy searches all of them
# for a header.
_MAX_TRAILER = 2**23

# The first bytes of files that are compressed as a whole.
_OPENERS = ((b'\x1f\x8b', gzip.open), (b'BZh', bz2.open),
            (b'\xfd7zXZ', lzma.open))

# FITS standard 4.0, table 8
_BITPIX = (8, 16, 32, 64, -32, -64)

# Keywords that determine the sizes of HDUs; those with Z, of compressed
# images (FITS standard 4.0, section 10.1).
_STRUCTURE = re.compile(r'BITPIX|Z?NAXIS\d*|PCOUNT|GCOUNT|GROUPS|ZIMAGE|'
                        r'ZBITPIX|ZTILE\d+')

# The end of a header as astropy recognizes it.
_END = re.compile(r'END(?![A-Z0-9_-])')

# The largest compression ratio of an image: images with a single value
# reach about 4000.
_MAX_COMPRESSION = 100_000

_AGAIN = 'make or fetch it again'


def check_structure(path):
    """
    Check the headers of all HDUs of a FITS file, which may be compressed by
    gzip, bzip2, or xz.

    Returns the number of HDUs, and the number of leading HDUs with complete
    values; `None` for other kinds of compression, which are left to
    astropy. Raises a `MapError` if the file is empty or not FITS, if a
    header does not end, or if it declares an impossible size of the data.
    """
    with path.open('rb') as file:
        magic = file.read(6)
        size = file.seek(0, os.SEEK_END)
    if size == 0:
        msg = f'is not a FITS file, or damaged: it is empty; {_AGAIN}'
        raise MapError(msg)
    opener = next((opener for start, opener in _OPENERS
                   if magic.startswith(start)), None)
    if opener is None and magic != b'SIMPLE':
        return None, None
    with (path.open('rb') if opener is None else opener(path)) as file:
        return _walk(file, size, compressed=opener is not None)


def _walk(file, size, compressed):
    number = 0
    while True:
        end = file.tell()
        cards = _read_header(file, number)
        if cards is None:
            last = file.seek(end + _MAX_TRAILER + 1) if compressed else size
            if last - end > _MAX_TRAILER:
                msg = (f'is damaged: more than {_MAX_TRAILER // 2**20} MiB '
                       f'follow its {number} HDUs that are not FITS; cut '
                       'them off')
                raise MapError(msg)
            return number, number
        bitpix = _whole_number(cards, 'BITPIX', number)
        if bitpix not in _BITPIX:
            msg = (f'BITPIX = {bitpix} of HDU {number} is not one of '
                   f'{", ".join(map(str, _BITPIX))}; {_AGAIN}')
            raise MapError(msg)
        lengths = _lengths(cards, 'NAXIS', number)
        groups = cards.get('GROUPS') == 'T' and lengths[:1] == [0]
        p_count, g_count = (
            _whole_number(cards, key, number) if key in cards else default
            for key, default in (('PCOUNT', 0), ('GCOUNT', 1)))
        if min(p_count, g_count) < 0:
            msg = (f'PCOUNT = {p_count} or GCOUNT = {g_count} of HDU '
                   f'{number} is negative; {_AGAIN}')
            raise MapError(msg)
        # FITS standard 4.0, sections 4.4.1 and 6.1; as objects, since the
        # product of damaged values may exceed 64 bits
        count = int(np.prod(lengths[1:] if groups else lengths, dtype=object)
                    if lengths else 0)
        n_bytes = abs(bitpix) // 8 * g_count * (p_count + count)
        if cards.get('ZIMAGE') == 'T':
            _check_tiles(cards, number, size)
        begin = file.tell()
        if compressed:
            # seeking in a compressed file reads, at most to its end
            there = file.seek(begin + n_bytes) - begin
        else:
            there = size - begin
        if there < n_bytes:
            return number + 1, number
        number += 1
        padded = -(-n_bytes // _BLOCK) * _BLOCK
        file.seek(begin + padded)


def _read_header(file, number):
    """
    Return the structural cards as text; `None` at the end of the file.
    """
    cards = {}
    for n_blocks in range(_MAX_BLOCKS):
        block = file.read(_BLOCK)
        if n_blocks == 0 and not block.startswith(
                b'XTENSION=' if number else b'SIMPLE  ='):
            if number:
                return None  # arbitrary data may follow the last HDU
            msg = f'is not a FITS file, or damaged; {_AGAIN}'
            raise MapError(msg)
        if len(block) < _BLOCK:
            break
        for first in range(0, _BLOCK, _CARD):
            text = block[first:first + _CARD].decode('latin-1')
            key = text[:8].rstrip(' ')
            if _END.match(text):
                if text.rstrip(' ') != 'END':
                    msg = (f'is damaged: the header of HDU {number} ends in '
                           f'{text.strip()!r}; {_AGAIN}')
                    raise MapError(msg)
                return cards
            # add a structural card, which may have only one value
            if text[8:10] == '= ' and _STRUCTURE.fullmatch(key):
                value = text[10:].split('/')[0].strip(' ')
                if cards.setdefault(key, value) != value:
                    msg = (f'{key} occurs twice with different values in the '
                           f'header of HDU {number}; {_AGAIN}')
                    raise MapError(msg)
    msg = (f'is truncated or damaged: the header of HDU {number} does not '
           f'end; {_AGAIN}')
    raise MapError(msg)


def _lengths(cards, key, number):
    n_axes = _whole_number(cards, key, number)
    # FITS standard 4.0, section 4.4.1.1
    if not 0 <= n_axes <= 999:
        msg = f'{key} = {n_axes} of HDU {number} is not 0 to 999; {_AGAIN}'
        raise MapError(msg)
    lengths = [_whole_number(cards, f'{key}{axis}', number)
               for axis in range(1, n_axes + 1)]
    if min(lengths, default=0) < 0:
        axis = lengths.index(min(lengths)) + 1
        msg = (f'{key}{axis} = {lengths[axis - 1]} of HDU {number} is '
               f'negative; {_AGAIN}')
        raise MapError(msg)
    return lengths


def _check_tiles(cards, number, size):
    """
    Check that a tile-compressed image can have its declared size.
    """
    lengths = _lengths(cards, 'ZNAXIS', number)
    # without ZTILEn a tile is a row (FITS standard 4.0, section 10.1)
    tiles = [_whole_number(cards, f'ZTILE{axis}', number)
             if f'ZTILE{axis}' in cards else (length if axis == 1 else 1)
             for axis, length in enumerate(lengths, start=1)]
    if min(tiles, default=1) < 1:
        msg = f'ZTILE of HDU {number} is not positive; {_AGAIN}'
        raise MapError(msg)
    n_tiles = int(np.prod([-(-length // tile) for length, tile
                           in zip(lengths, tiles, strict=True)],
                          dtype=object))
    rows = _whole_number(cards, 'NAXIS2', number)
    bits = abs(_whole_number(cards, 'ZBITPIX', number))
    n_bytes = int(np.prod(lengths, dtype=object)) * bits // 8
    if n_tiles != rows or n_bytes > size * _MAX_COMPRESSION:
        shape = ' x '.join(map(str, lengths))
        msg = (f'is damaged: {shape} pixels (ZNAXIS) of HDU {number} do not '
               f'fit into {rows} tiles; {_AGAIN}')
        raise MapError(msg)


def _whole_number(cards, key, number):
    text = cards.get(key)
    if text is None:
        msg = (f'is damaged: the header of HDU {number} has no {key}; '
               f'{_AGAIN}')
        raise MapError(msg)
    if not re.fullmatch(r'[-+]?\d{1,18}', text):
        msg = (f'{key} = {text[:40]!r} of HDU {number} is not an integer; '
               f'{_AGAIN}')
        raise MapError(msg)
    return int(text)
