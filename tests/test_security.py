# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Files with hostile content are only read: nothing else is opened, no
address is called, and no code is run.
"""

import ast
import io
import json
import pickle
import platform
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import hyperphotutils
from hyperphotutils.catalog import (
    CatalogError,
    read_catalog,
    read_regions,
    read_source_list,
)
from hyperphotutils.compat.hyper_py import read_hyper_py
from hyperphotutils.maps import read_cube, read_map
from hyperphotutils.pipeline import read_config

SOURCE = Path(hyperphotutils.__file__).parent

# Calls that run what a file says, or open what it names
FORBIDDEN = {
    'eval', 'exec', 'compile', 'pickle.load', 'yaml.unsafe_load',
    'yaml.full_load', 'os.system', 'urlopen', 'urllib.request.urlopen',
    'np.load', 'numpy.load', 'joblib.load', 'shelve.open', 'marshal.loads',
    'download_file', 'subprocess.run', 'subprocess.Popen',
}


class Secret:
    """
    What calls a function when it is unpickled.
    """

    def __reduce__(self):
        return open, ('/etc/passwd',)


class Watch:
    """
    A record of the files and addresses that a block opens.

    Audit hooks cannot be removed, so there is one for all tests.
    """

    def __init__(self):
        self.events = None
        sys.addaudithook(self.hook)

    def hook(self, event, args):
        if self.events is None:
            return
        if event in {'open', 'socket.connect', 'socket.getaddrinfo',
                     'urllib.Request', 'subprocess.Popen', 'os.system',
                     'os.exec', 'os.posix_spawn', 'pickle.find_class'}:
            self.events.append((event, str(args[0]) if args else ''))

    def __enter__(self):
        self.events = []
        return self

    def __exit__(self, *_):
        self.seen, self.events = self.events, None


WATCH = Watch()
# Python runs a program for this once
platform.processor()


def votable(stream):
    return ('<?xml version="1.0"?><VOTABLE version="1.3"><RESOURCE><TABLE>'
            '<FIELD name="RA" datatype="double" unit="deg"/>'
            '<FIELD name="DEC" datatype="double" unit="deg"/>'
            f'<DATA>{stream}</DATA></TABLE></RESOURCE></VOTABLE>').encode()


def bomb():
    entities = ''.join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">'
                       for k in range(1, 12))
    return (f'<?xml version="1.0"?><!DOCTYPE VOTABLE [<!ENTITY a0 "x">'
            f'{entities}]><VOTABLE><DESCRIPTION>&a11;</DESCRIPTION>'
            '</VOTABLE>').encode()


def table_bytes(n_rows=1, **header):
    hdu = fits.table_to_hdu(Table({'RA': [1.0], 'DEC': [2.0]}))
    hdu.header.update(header)
    file = fits.HDUList([fits.PrimaryHDU(), hdu])
    out = io.BytesIO()
    file.writeto(out)
    # (astropy would set the right number)
    return re.sub(rb'NAXIS2  = .{20}', b'NAXIS2  = %20d' % n_rows,
                  out.getvalue())


def ecsv(meta):
    return (f'# %ECSV 1.0\n# ---\n# datatype:\n# - {{name: RA, datatype: '
            f'float64}}\n# - {{name: DEC, datatype: float64}}\n# meta: {meta}'
            '\n# schema: astropy-2.0\nRA DEC\n1.0 2.0\n').encode()


PYTHON = '!!python/object/apply:os.system ["touch /tmp/owned"]'
SERIALIZED = ('{__serialized_columns__: {pos: {__class__: os.system, command: '
              '!astropy.table.SerializedColumn {name: RA}}}}')
HOSTILE = {
    'remote.vot': votable('<BINARY><STREAM href="http://127.0.0.1:9/x"/>'
                          '</BINARY>'),
    'local.vot': votable('<BINARY2><STREAM href="file:///etc/passwd"/>'
                         '</BINARY2>'),
    'fits.vot': votable('<FITS><STREAM href="file:///etc/passwd"/></FITS>'),
    'parquet.vot': votable('<PARQUET type="VOTable-remote-file"><STREAM '
                           'href="file:///etc/passwd"/></PARQUET>'),
    'entity.vot': (b'<?xml version="1.0"?><!DOCTYPE VOTABLE [<!ENTITY a '
                   b'SYSTEM "file:///etc/passwd">]><VOTABLE>&a;</VOTABLE>'),
    'bomb.vot': bomb(),
    'python.ecsv': ecsv(PYTHON),
    'class.ecsv': ecsv(SERIALIZED),
    'deep.ecsv': ecsv('[' * 5000),
    'meta.fits': table_bytes(HPUMETA=json.dumps(PYTHON)),
    'rows.fits': table_bytes(10**12),
    'pickle.fits': pickle.dumps(Secret()),
    'pickle.csv': pickle.dumps(Secret()),
    'compressed.csv': b'\x1f\x8b' + bytes(100),
    'name.csv': b'http://127.0.0.1:9/x.csv',
    'path.ipac': b'/etc/passwd',
    'python.yaml': f'fit: {PYTHON}'.encode(),
    'deep.yaml': b'fit: ' + b'[' * 5000,
    'pickle.reg': pickle.dumps(Secret()),
    'name.reg': b'http://127.0.0.1:9/x.reg',
    'path.reg': b'/etc/passwd',
}
READ = {
    'map': read_map, 'cube': read_cube, 'sources': read_source_list,
    'catalog': read_catalog, 'regions': read_regions, 'config': read_config,
    'hyper-py': read_hyper_py,
}


@pytest.mark.parametrize('reader', READ)
@pytest.mark.parametrize('name', HOSTILE)
def test_files_are_only_read(tmp_path, name, reader):
    """
    Each reader opens the file that it is given and nothing else, and
    most refuse it.
    """
    path = tmp_path / name
    path.write_bytes(HOSTILE[name])
    with WATCH as watch:
        try:
            READ[reader](path)
        except (ValueError, OSError) as exc:
            assert type(exc).__module__.startswith(('hyperphotutils',
                                                    'builtins'))
    opened = {what for event, what in watch.seen if event == 'open'}
    others = [seen for seen in watch.seen if seen[0] != 'open']
    assert others == []
    assert not any('passwd' in what for what in opened)
    # modules that are imported when they are needed
    allowed = (str(path), *sys.path[1:], sys.prefix, sys.base_prefix)
    assert [what for what in opened if not what.isdigit()
            and not what.startswith(allowed)] == []


@pytest.mark.parametrize('reader', READ)
def test_addresses_are_names_of_files(reader):
    """
    An address in place of a file is a file that does not exist.
    """
    with WATCH as watch, pytest.raises((ValueError, OSError)):
        READ[reader]('http://127.0.0.1:9/x.fits')
    assert {event for event, _ in watch.seen} <= {'open'}


@pytest.mark.parametrize(('name', 'match'), [
    ('remote.vot', "data are elsewhere, at 'http://127"),
    ('local.vot', "data are elsewhere, at 'file:///etc"),
    ('fits.vot', 'data are elsewhere'), ('parquet.vot', 'data are elsewhere'),
    ('entity.vot', 'XML entities'), ('bomb.vot', 'XML entities'),
    ('python.ecsv', 'cannot be read as ecsv'),
    ('class.ecsv', 'unsupported class'), ('deep.ecsv', 'cannot be read'),
    ('meta.fits', 'could not determine a constructor'),
    ('rows.fits', 'truncated'), ('compressed.csv', 'is compressed'),
    ('pickle.csv', 'not a text file')])
def test_hostile_tables_are_refused(tmp_path, name, match):
    """
    The message names what is wrong.
    """
    path = tmp_path / name
    path.write_bytes(HOSTILE[name])
    for read in (read_catalog, read_source_list):
        with pytest.raises(CatalogError, match=match):
            read(path)


def calls_of(module):
    tree = ast.parse(module.read_text(encoding='utf-8'))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree)
            if isinstance(node, ast.Call)]


def test_no_module_can_run_a_file():
    """
    No code is evaluated, no address opened, and pickles are read in one
    place only: those that this program has sent to its own processes.
    """
    pickled = []
    for module in SOURCE.rglob('*.py'):
        for name, node in calls_of(module):
            place = f'{module.name}:{node.lineno}: {name}'
            if name in {'np.load', 'numpy.load'}:
                assert 'allow_pickle=False' in ast.unparse(node), place
                continue
            assert name not in FORBIDDEN, place
            if name in {'pickle.loads', 'pickle.Unpickler'}:
                pickled.append(module.name)
            if name == 'yaml.load' and module.name == 'yaml_files.py':
                assert 'Loader=_Loader' in ast.unparse(node), place
    assert pickled == ['executors.py']


def test_arrays_of_objects_are_no_maps(tmp_path):
    """
    A pickle in an array file is not read as a map.
    """
    path = tmp_path / 'a.npy'
    np.save(path, np.array([Secret()], dtype=object), allow_pickle=True)
    for read in (read_map, read_cube, read_catalog, read_source_list):
        with WATCH as watch, pytest.raises((ValueError, OSError)):
            read(path)
        assert not any('passwd' in what for _, what in watch.seen)
