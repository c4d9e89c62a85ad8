# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Settings of the tests with random input.

Runs are reproducible: the examples depend on the test alone unless
``--hypothesis-seed`` is given. ``--fuzz N`` sets their number.
"""

import signal
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, Phase, settings

# Examples of each property without --fuzz: seconds for the whole folder
_N_EXAMPLES = 60


def pytest_configure(config):
    """
    Choose the number of examples and how they are drawn.
    """
    seed = config.getoption('hypothesis_seed', None)
    settings.register_profile(
        'fuzz', max_examples=config.getoption('--fuzz') or _N_EXAMPLES,
        derandomize=seed is None, database=None, deadline=None,
        # explaining traces every line, which takes minutes
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        # this one depends on the clock
        suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile('fuzz')


@pytest.fixture(scope='session')
def cpu_limit():
    """
    A context manager that raises `TimeoutError` when its block takes too
    long, in seconds of CPU time, which do not depend on other processes.

    Without such timers (Windows) there is no limit.
    """

    @contextmanager
    def limit(seconds):
        if not hasattr(signal, 'ITIMER_PROF'):
            yield
            return

        def stop(*_):
            msg = f'not finished after {seconds} s of CPU time'
            raise TimeoutError(msg)

        old = signal.signal(signal.SIGPROF, stop)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, old)

    return limit
