# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Compare the speed with that of Hyper-py, side by side in one run.

::

    python benchmarks/speed.py MAP [--hyper-py-python PYTHON]

Hyper-py runs as `peers` says, in an environment that is made if no
interpreter is given. Its time is that of the whole process less the
time that ``import hyper_py`` takes in such a process. HyperPhotometry
is called several times in this process, half of them before and half of
them after Hyper-py's run; its time is the median.

The start-up is compared too: ``import hyperphotutils.photometry``
against ``import photutils.psf``, each in new processes by turns.
"""

import argparse
import statistics
import subprocess
import sys

from accuracy import Score, measure, read_truth, score
from peers import hyper_py_python, hyper_py_versions, run_hyper_py

from hyperphotutils.maps import read_map


def import_seconds(python, module, repeats):
    """
    Time the import of a module in new processes.

    Returns
    -------
    seconds : list of float
        One value per repetition.
    """
    code = ('import time; start = time.perf_counter(); '
            f'import {module}; print(time.perf_counter() - start)')
    return [float(subprocess.run(
        [python, '-c', code], check=True, capture_output=True,
        text=True).stdout.split()[-1]) for _ in range(repeats)]


def compare_runs(args, python):
    """
    Time Hyper-py and HyperPhotometry on the same map.
    """
    image = read_map(args.map)
    modes = ('white', 'correlated')
    seconds = {mode: [] for mode in modes}
    for mode in modes:
        measure(image, noise=mode)  # the first call reads and compiles
    n_before = (args.repeats + 1) // 2
    tables = call(image, seconds, n_before)
    start_up = statistics.median(import_seconds(python, 'hyper_py', 3))
    catalog, whole = run_hyper_py(python, args.map, image, args.n_sigma)
    tables = call(image, seconds, args.repeats - n_before) or tables
    theirs = whole - start_up

    versions = hyper_py_versions(python)
    print(f'Hyper-py {versions[0]} (photutils {versions[1]}), '
          f'{len(catalog)} sources: {theirs:.1f} s '
          f'({whole:.1f} s less {start_up:.1f} s of imports)')
    for mode in modes:
        ours = statistics.median(seconds[mode])
        print(f'HyperPhotometry, {mode} noise, {len(tables[mode])} sources: '
              f'{ours:.3f} s (median of {len(seconds[mode])}, '
              f'{min(seconds[mode]):.3f} to {max(seconds[mode]):.3f} s), '
              f'ratio: {theirs / ours:.0f}')
    if args.truth is not None:
        truth = read_truth(args.truth)
        radius = image.meta['beam_fwhm_pix'] / 2
        print(Score.header)
        print(score(catalog, truth, radius, theirs).row('Hyper-py'))
        for mode in modes:
            print(score(tables[mode], truth, radius,
                        statistics.median(seconds[mode])).row(mode))


def call(image, seconds, repeats):
    """
    Call HyperPhotometry in all modes by turns, and note the seconds.

    Returns
    -------
    tables : dict
        The last catalog of each mode; empty without repeats.
    """
    tables = {}
    for _ in range(repeats):
        for mode, noted in seconds.items():
            tables[mode], time_spent = measure(image, noise=mode)
            noted.append(time_spent)
    return tables


def compare_imports(repeats):
    """
    Time our import against that of photutils' PSF photometry.
    """
    modules = ('hyperphotutils.photometry', 'photutils.psf')
    seconds = {module: [] for module in modules}
    for _ in range(repeats + 1):
        for module in modules:
            seconds[module] += import_seconds(sys.executable, module, 1)
    # the first of each may have had to read or compile the files
    ours, theirs = (statistics.median(seconds[module][1:])
                    for module in modules)
    print(f'import {modules[0]}: {ours:.2f} s, {modules[1]}: '
          f'{theirs:.2f} s, ratio: {ours / theirs:.2f}')


def main():
    """
    Run from the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('map', help='FITS map')
    parser.add_argument('truth', nargs='?',
                        help='its true sources, to score both catalogs')
    parser.add_argument('--hyper-py-python', metavar='PYTHON',
                        help='interpreter of an environment that has '
                        'hyper-py-photometry and photutils<3')
    parser.add_argument('--n-sigma', type=float, default=4.0,
                        help="Hyper-py's detection threshold (default: 4)")
    parser.add_argument('--repeats', type=int, default=10,
                        help='calls of HyperPhotometry (default: 10)')
    args = parser.parse_args()
    compare_runs(args, hyper_py_python(args.hyper_py_python))
    compare_imports(args.repeats)


if __name__ == '__main__':
    main()
