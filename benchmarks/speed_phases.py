# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Where the CPU time of ``hyperphot run`` on a map goes.

::

    python benchmarks/speed_phases.py MAP

The phases are timed in this process, which does what a new process of the
command does: the imports count, and no profiler slows them down. What
Python needs to end, about 0.06 s, does not count.

Packages that the run does not need cost time when they are installed:
photutils looks through all of them, and astropy imports pytest. The times
of users are those in an environment that has only this package.
"""

import sys
import tempfile
import time
from pathlib import Path

from hyperphotutils.startup import tune_memory

seconds = {}


def timed(name, function):
    """
    Return a function whose CPU time is added to ``seconds``.
    """
    def call(*args, **kwargs):
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[name] = (seconds.get(name, 0.0) + time.process_time()
                             - start)

    return call


def main():
    """
    Run from the command line.
    """
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    seconds['Python, before the first import'] = time.process_time()
    tune_memory()
    run = timed('import of the command line', _import_command_line)()
    extraction = timed('import of what a map needs', _import_rest)()
    timed('import of matplotlib', _import_matplotlib)()

    from hyperphotutils.blend.joint import JointFit
    from hyperphotutils.detection import HighPassStarFinder
    from hyperphotutils.noise import CorrelatedNoise
    from hyperphotutils.pipeline import pages, products

    for name, owner, method in (
            ('reading', extraction, 'read_input'),
            ('measurement', extraction, '_measure'),
            ('  of which detection', HighPassStarFinder, 'search'),
            ('  of which fits', JointFit, 'run'),
            ('  of which noise', CorrelatedNoise, 'from_image'),
            ('report.html', pages, 'write_page')):
        seconds[name] = 0.0
        setattr(owner, method, timed(name, getattr(owner, method)))
    products.PRODUCTS = tuple(
        product._replace(write=timed(
            'overview.png' if product.name == 'overview.png'
            else 'catalogs and regions', product.write))
        if product.write else product for product in products.PRODUCTS)
    with tempfile.TemporaryDirectory() as folder:
        status = run(['run', sys.argv[1], '--quiet', '--output-dir',
                      str(Path(folder) / 'out')])
    if status:
        sys.exit(status)
    total = time.process_time()
    known = sum(value for name, value in seconds.items()
                if not name.startswith(' '))
    for name, value in {**seconds, 'the rest': total - known,
                        'total': total}.items():
        print(f'{name:<34}{value:7.2f} s{100 * value / total:7.1f} %')


def _import_command_line():
    from hyperphotutils.pipeline.cli import main as run

    return run


def _import_rest():
    import hyperphotutils.pipeline.logs  # noqa: F401
    from hyperphotutils.pipeline import extraction

    return extraction


def _import_matplotlib():
    import astropy.visualization.wcsaxes  # noqa: F401
    import matplotlib.backends.backend_agg  # noqa: F401


if __name__ == '__main__':
    main()
