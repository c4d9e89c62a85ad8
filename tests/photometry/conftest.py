# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fixtures of the tests of fits.
"""

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True)
def single_thread():
    """
    One thread for linear algebra: threads only get into each other's way
    on thousands of small matrices.
    """
    with threadpool_limits(limits=1):
        yield
