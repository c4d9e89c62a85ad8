# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Files of the results of tiles.

A file is an archive of arrays (``.npz``) without pickles: columns and other
numbers, columns of coordinates as ECSV, and a tree in JSON of how they belong
together. Reading it makes objects of the listed classes only and calls no
function that the file names, so that a file of unknown origin can be read.
"""

import io
import json
import zipfile
from functools import partial

import astropy.units as u
import numpy as np
from astropy.io import ascii as astropy_ascii
from astropy.table import Column, MaskedColumn, QTable
from yaml import YAMLError

__all__ = []  # shared by the modules of the photometry only

_TREE = 'tree'
_PLAIN = (bool, int, float, str, type(None))


def write_result(path, value, classes):
    """
    Write the result of a tile to a file that is complete if it exists.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.

    value : object
        Numbers, texts, arrays, quantities, tables, objects of the classes,
        and containers of these.

    classes : iterable of type
        The classes of which the attributes are written.

    Raises
    ------
    TypeError
        If a part of the value is nothing of these.
    """
    writer = _Writer(classes)
    tree = json.dumps(writer.encode(value))
    # A process that is killed leaves no half of a file under its name.
    begun = path.with_suffix('.partial')
    with begun.open('wb') as file:
        np.savez(file, **{_TREE: _bytes(tree)}, **writer.arrays)
    begun.replace(path)


def read_result(path, classes):
    """
    Read a file of `write_result`.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.

    classes : iterable of type
        The classes of which objects are made.

    Returns
    -------
    value : object
        The result; `None` if there is none that `write_result` wrote.
    """
    try:
        with (path.open('rb') as file,
              np.load(file, allow_pickle=False) as arrays):
            reader = _Reader(arrays, classes)
            return reader.decode(json.loads(_text(arrays[_TREE])))
    except (OSError, EOFError, ValueError, TypeError, LookupError,
            AttributeError, zipfile.BadZipFile, YAMLError):
        return None


class _Writer:
    """
    Writes values as a tree in JSON, and as arrays.
    """

    def __init__(self, classes):
        self.names = {one: one.__name__ for one in classes}
        self.arrays = {}
        self.encoders = {
            QTable: self._encode_table,
            list: lambda value: {'list': [*map(self.encode, value)]},
            tuple: lambda value: {'tuple': [*map(self.encode, value)]},
            dict: lambda value: {'dict': [
                [self.encode(key), self.encode(one)]
                for key, one in value.items()]},
            slice: lambda value: {
                'slice': [value.start, value.stop, value.step]},
            u.UnitBase: lambda value: {'unit': value.to_string()},
            u.Quantity: lambda value: {'quantity': [
                self.encode(value.value), value.unit.to_string()]},
            np.generic: lambda value: {
                'scalar': self.keep(np.asarray(value))},
            np.ndarray: lambda value: {
                'array': self.keep(np.asarray(value))},
        }

    def keep(self, array):
        """
        Keep an array; return its name.
        """
        if array.dtype.hasobject:
            msg = f'an array of objects is no result of a tile: {array!r}'
            raise TypeError(msg)
        name = f'a{len(self.arrays)}'
        self.arrays[name] = array
        return name

    def encode(self, value):
        """
        Return the tree of a value.
        """
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind in self.names:
            # caches have a state other than their attributes
            state = (value.__getstate__() if hasattr(kind, '__setstate__')
                     else vars(value))
            return {'object': [self.names[kind], self.encode(state)]}
        for base, encode in self.encoders.items():
            if isinstance(value, base):
                return encode(value)
        msg = f'{kind.__name__} is no result of a tile: {value!r}'
        raise TypeError(msg)

    def _encode_table(self, table):
        """
        Return the tree of a table, whose metadata are part of the tree.
        """
        columns, mixins = {}, QTable()
        for name in table.colnames:
            column = table[name]
            if isinstance(column, MaskedColumn):
                columns[name] = [self.keep(np.asarray(column.data.data)),
                                 self.keep(np.ma.getmaskarray(column))]
            elif isinstance(column, Column):
                columns[name] = [self.keep(np.asarray(column))]
            elif type(column) is u.Quantity:
                columns[name] = self.encode(column)
            else:
                mixins[name] = column
        text = io.StringIO()
        if mixins.colnames:
            mixins.write(text, format='ascii.ecsv')
        return {'table': [table.colnames, columns,
                          self.keep(_bytes(text.getvalue())),
                          self.encode(dict(table.meta))]}


class _Reader:
    """
    Reads values from a tree in JSON, and from arrays.
    """

    def __init__(self, arrays, classes):
        self.arrays = arrays
        self.classes = {one.__name__: one for one in classes}
        self.decoders = {
            'list': lambda content: [*map(self.decode, content)],
            'tuple': lambda content: tuple(map(self.decode, content)),
            'dict': lambda content: {
                self.decode(key): self.decode(one) for key, one in content},
            'slice': lambda content: slice(*content),
            'unit': partial(u.Unit, parse_strict='silent'),
            'quantity': lambda content: self.decode(content[0]) << u.Unit(
                content[1], parse_strict='silent'),
            'scalar': lambda content: arrays[content][()],
            'array': arrays.__getitem__,
            'table': self._decode_table,
        }

    def decode(self, tree):
        """
        Return the value of a tree.
        """
        if type(tree) in _PLAIN:
            return tree
        (kind, content), = tree.items()
        if kind != 'object':
            return self.decoders[kind](content)
        name, state = content[0], self.decode(content[1])
        # Only the listed classes, and without a call of their constructors.
        value = object.__new__(self.classes[name])
        if hasattr(type(value), '__setstate__'):
            value.__setstate__(state)
        else:
            vars(value).update(state)
        return value

    def _decode_table(self, content):
        names, columns, text, meta = content
        table = QTable()
        text = _text(self.arrays[text])
        if text:
            mixins = QTable(astropy_ascii.read(
                text.splitlines(), format='ecsv', guess=False))
        for name in names:
            if name not in columns:
                table[name] = mixins[name]
            elif isinstance(columns[name], dict):
                table[name] = self.decode(columns[name])
            elif len(columns[name]) == 1:
                table[name] = self.arrays[columns[name][0]]
            else:
                data, mask = (self.arrays[one] for one in columns[name])
                table[name] = MaskedColumn(data, mask=mask)
        table.meta.update(self.decode(meta))
        return table


def _bytes(text):
    """
    Return the bytes of a text, as an array.
    """
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _text(array):
    """
    Return the text of an array of bytes.
    """
    return array.tobytes().decode()
