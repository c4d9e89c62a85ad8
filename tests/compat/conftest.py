# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Maps for the tests of converted configurations.
"""

import pytest

from hyperphotutils.datasets import make_blended_map


@pytest.fixture(autouse=True)
def fixture_no_user_config(tmp_path_factory, monkeypatch):
    """
    Hide the configuration of the user who runs the tests.
    """
    folder = tmp_path_factory.mktemp('nobody')
    for name in ('XDG_CONFIG_HOME', 'APPDATA'):
        monkeypatch.setenv(name, str(folder))


@pytest.fixture(name='write_map')
def fixture_write_map(tmp_path):
    """
    A function that writes a map in the folder of the test.
    """
    def write(name):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make_blended_map((90, 100), 8, beam=(4.0, 3.2, 30.0),
                         seed=3).write(path)

    return write
