# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Text files with separated values, such as CSV and the tables of VizieR.
"""

import csv
import io
import re

import astropy.units as u
from astropy.io import ascii as ascii_tables

from hyperphotutils.catalog.errors import CatalogError
from hyperphotutils.catalog.hyper import units_of_comments

__all__ = ['find_separator', 'read_lines', 'read_separated']

_SEPARATORS = '\t;|,'
_COLUMN_LINE = re.compile(
    r'#Column\s+(?P<name>\S+)\s+\([^)]*\)\s*(?P<text>[^\t\[]*)')


def find_separator(line):
    """
    Return the first of tab, ``';'``, ``'|'`` and ``','`` that occurs in a
    line with the names of columns, or `None`.
    """
    return next((mark for mark in _SEPARATORS if mark in line), None)


def read_lines(file):
    """
    Return the lines of a binary file, in which bytes that are not UTF-8
    become escape sequences.

    astropy would treat a string with one line as a file name, and open it.
    """
    content = file.read()
    if b'\0' in content:
        msg = 'it is not a text file'
        raise ValueError(msg)
    text = content.decode('utf-8-sig', 'backslashreplace')
    return re.split(r'\r\n|\r|\n', text)


def read_separated(lines):
    """
    Read a table from lines of separated values.

    The first line that is not a comment has the names. In files of
    VizieR, a line of units and a line of dashes follow. The table has the
    units and descriptions of the file, and the lines that begin with ``#``
    as ``meta['comments']``.

    Examples
    --------
    >>> from hyperphotutils.catalog.separated import read_separated
    >>> table = read_separated([
    ...     'RAJ2000;DEJ2000', '"h:m:s";"d:m:s"', '-------;-------',
    ...     '05 35 14;-05 23 28'])
    >>> print(table)
    RAJ2000   DEJ2000
     h:m:s     d:m:s
    -------- ---------
    05 35 14 -05 23 28
    """
    comments = [line for line in lines if line.lstrip().startswith('#')]
    rows = [line for line in lines if line.strip()
            and not line.lstrip().startswith('#')]
    separator = find_separator(rows[0]) if rows else None
    units = {}
    if separator is not None and separator != ',':
        # to CSV, in which astropy expects neither units nor dashes
        rows = [[cell.strip() for cell in row]
                for row in csv.reader(rows, delimiter=separator)]
        dashes = [k for k, row in enumerate(rows)
                  if any(row) and all(set(cell) <= {'-'} for cell in row)]
        if dashes and dashes[0] in (1, 2):
            if len(dashes) > 1:
                msg = (f'it holds {len(dashes)} tables: keep one in a file '
                       'of its own')
                raise CatalogError(msg)
            if dashes[0] == 2:
                units = {name: u.Unit(unit, parse_strict='silent')
                         for name, unit in zip(rows[0], rows[1], strict=False)
                         if unit.strip('"')}
            del rows[1:dashes[0] + 1]
        text = io.StringIO()
        csv.writer(text, lineterminator='\n').writerows(rows)
        lines = text.getvalue().split('\n')
    table = ascii_tables.read(lines, format='csv', comment='#', guess=False)
    if units:
        table.meta['comments'] = [line.lstrip()[1:].strip()
                                  for line in comments]
    units |= units_of_comments(table)
    for name, unit in units.items():
        if name in table.colnames:
            table[name].unit = unit
    for line in comments:
        match = _COLUMN_LINE.match(line)
        if match is not None and match['name'] in table.colnames:
            table[match['name']].description = match['text'].strip()
    return table
