# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Maps shared by the tests of the pipeline.
"""

import json
import re
import shutil

import pytest

from hyperphotutils.datasets import make_blended_map


@pytest.fixture(autouse=True)
def fixture_no_user_config(tmp_path_factory, monkeypatch):
    """
    Whoever runs the tests may have a configuration of their own.
    """
    folder = tmp_path_factory.mktemp('nobody')
    for name in ('XDG_CONFIG_HOME', 'APPDATA'):
        monkeypatch.setenv(name, str(folder))


@pytest.fixture(scope='session', name='simulated')
def fixture_simulated():
    return make_blended_map((90, 100), 8, beam=(4.0, 3.2, 30.0), seed=3)


@pytest.fixture(scope='session', name='map_file')
def fixture_map_file(simulated, tmp_path_factory):
    path = tmp_path_factory.mktemp('maps') / 'field.fits'
    simulated.write(path)
    return path


@pytest.fixture(name='copy_map')
def fixture_copy_map(map_file, tmp_path):
    """
    A function that puts a good map at a place in the test's folder.
    """
    def copy(name):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(map_file, path)
        return path

    return copy


@pytest.fixture(name='read_page', scope='session')
def fixture_read_page():
    """
    Function that returns the data of a page by its path.
    """
    def read(path):
        return json.loads(re.search(
            r'<script type="application/json" id="data">(.*?)</script>',
            path.read_text(encoding='utf-8'), re.DOTALL)[1])

    return read
