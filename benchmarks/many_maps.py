# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
How much faster many maps are with several processes.

Simulates maps, and runs the command ``hyperphot run`` with its defaults on
all of them with one and with several processes, each time in a new folder.
Nothing else must be at work on the machine: "wall" are the seconds on the
clock, "CPU" those of all processes, and "share" is what the command got of
the cores that it could use. Far below 1 the speed-up tells of the other
work on the machine.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hyperphotutils.datasets import make_blended_map

CALL = ('import sys; from hyperphotutils.pipeline.cli import main; '
        'sys.exit(main())')


def simulate(folder, n_maps, size, n_sources):
    """
    Write the maps.
    """
    for number in range(n_maps):
        simulated = make_blended_map((size, size), n_sources, seed=number)
        simulated.write(folder / f'map{number:03d}.fits')


def measure(folder, n_jobs, attempt):
    """
    Run the command; return the seconds on the clock and of the CPUs.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, '-c', CALL, 'run', 'map*.fits', '--quiet',
         '--jobs', str(n_jobs), '--output-dir', f'out{n_jobs}_{attempt}'],
        cwd=folder, check=True,
        env=dict(os.environ, OMP_NUM_THREADS='1'))
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, (after.ru_utime + after.ru_stime
                  - before.ru_utime - before.ru_stime)


def main():
    """
    Run the program.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--n-maps', type=int, default=60,
                        help='number of maps (default: %(default)s)')
    parser.add_argument('--size', type=int, default=300,
                        help='side in pixels (default: %(default)s)')
    parser.add_argument('--n-sources', type=int, default=100,
                        help='sources of each (default: %(default)s)')
    parser.add_argument('--jobs', type=int, default=2,
                        help='number of processes (default: %(default)s)')
    parser.add_argument('--repeats', type=int, default=3,
                        help='the best of so many runs counts (default: '
                             '%(default)s)')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        simulate(folder, args.n_maps, args.size, args.n_sources)
        best = {}
        print('jobs    wall s   CPU s   share')
        for attempt in range(args.repeats):
            for n_jobs in (1, args.jobs):
                wall, cpu = measure(folder, n_jobs, attempt)
                best[n_jobs] = min(wall, best.get(n_jobs, wall))
                print(f'{n_jobs:4d} {wall:9.1f} {cpu:7.1f} '
                      f'{cpu / wall / n_jobs:7.2f}', flush=True)
    print(f'{args.n_maps} maps: {best[1] / args.n_maps:.2f} s a map with one '
          f'process, {best[1] / best[args.jobs]:.2f} times faster with '
          f'{args.jobs}')


if __name__ == '__main__':
    main()
