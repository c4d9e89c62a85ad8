# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fixtures shared by all tests.
"""

import os
import sys
from pathlib import Path

import matplotlib as mpl
import pytest

# set here, before any test imports pyplot: tests run without a display
mpl.use('Agg')


def pytest_addoption(parser):
    """
    Add the option of the tests in the folder fuzz.

    It is here since pytest asks only the conftest files of the folders
    that it is called with, and of those above them.
    """
    parser.addoption(
        '--fuzz', type=int, default=0, metavar='N',
        help='number of damaged inputs for each property in tests/fuzz '
             '(default: a number that takes seconds)')


@pytest.fixture(scope='session')
def real_data():
    """
    A function that returns the path of a real map by its file name.

    The folder is named by the environment variable
    ``HYPERPHOTUTILS_DATA``; without it the test is skipped.
    """
    folder = os.environ.get('HYPERPHOTUTILS_DATA')
    if not folder:
        pytest.skip('HYPERPHOTUTILS_DATA does not name a folder of maps')

    def path_of(name):
        path = Path(folder) / name
        if not path.is_file():
            msg = f'HYPERPHOTUTILS_DATA names a folder without {name}: {path}'
            raise FileNotFoundError(msg)
        return path

    return path_of


@pytest.fixture(scope='session')
def count_calls():
    """
    A function that returns how many Python functions a call runs.

    Unlike a time it is the same on any machine, and shows loops over
    sources as well.
    """

    def count(function, *args, **kwargs):
        n_calls = 0

        def profile(_frame, event, _arg):
            nonlocal n_calls
            n_calls += event == 'call'

        old = sys.getprofile()
        sys.setprofile(profile)
        try:
            function(*args, **kwargs)
        finally:
            sys.setprofile(old)
        return n_calls

    return count
