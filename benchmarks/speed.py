# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Compare speed and memory with those of other programs, in one run.

::

    python benchmarks/speed.py programs MAP
    python benchmarks/speed.py scaling
    python benchmarks/speed.py mosaic --side 8192 --n-sources 20000

``programs`` runs Hyper-py, PyBDSF, Aegean, photutils' PSFPhotometry, and
sep beside this package, each in an environment of its own, which is made
from the package index if it is missing. ``whole`` is the CPU time of a
new process from the file to the catalog; that of ``hyperphot run`` has
all default products, with the overview picture. ``in process`` is the
CPU time of a repeated call on an image in memory; that of Hyper-py is
the whole process less its imports. Medians of ``--repeats`` runs by
turns; all programs have one thread. Hyper-py and this package read the
map as it is, the others a copy in Jy/beam with a plain header. This
package runs in the environment of the benchmark: one with more packages
slows its start (``speed_phases.py`` says why).

``scaling`` measures simulated maps of constant density (500 sources in
600 x 600 pixels, the recipe ``dense``) with more and more sources, each in
a new process, in tiles where ``hyperphot run`` would. ``speed_phases.py``
shows where the time of ``hyperphot run`` goes.

``mosaic`` runs ``hyperphot run`` in a new process on a large simulated map
with correlated noise, which is drawn in blocks so that the map need not fit
into memory, and with ``--jobs`` other than 1 again with so many processes.
Use ``--side 16384 --n-sources 80000`` for the largest one.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from peers import (
    ENVIRONMENTS,
    HERE,
    NotRunError,
    environment,
    hyper_catalog_file,
    hyper_py_python,
    write_hyper_config,
)

PEERS = HERE / 'speed_peers.py'
PEER_NAMES = ('photutils', 'pybdsf', 'aegean', 'sep')
OWN = ('white', 'correlated')

# A program that has not ended by then, in seconds on the clock, is ended.
TIME_LIMIT = 3600

# The side in pixels of the blocks of a mosaic.
BLOCK = 2048

# The command line, and its peaks of memory: own, and of the largest child
WITH_PEAKS = """
import sys
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from hyperphotutils.__main__ import main
status = main()
print(*(getrusage(who).ru_maxrss for who in (RUSAGE_SELF, RUSAGE_CHILDREN)))
sys.exit(status)
"""


def run_process(command, cwd=None):
    """
    Run a process; return its output, CPU seconds, and peak MiB.

    The CPU seconds are those of the process and all its children; the
    memory is that of the largest of them.
    """
    threads = dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS',
                             'MKL_NUM_THREADS'), '1')
    with tempfile.TemporaryFile('w+') as output:
        process = subprocess.Popen(
            [str(part) for part in command], cwd=cwd, stdout=output,
            stderr=subprocess.STDOUT,
            # Others are compiled when they are installed; a program in a
            # source tree is compiled once if this is allowed.
            env={**os.environ, **threads, 'MPLBACKEND': 'agg',
                 'PYTHONDONTWRITEBYTECODE': ''})
        end = time.monotonic() + TIME_LIMIT
        pid = 0
        while pid == 0 and time.monotonic() < end:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            time.sleep(0.02)
        if pid == 0:
            process.kill()
            process.wait()
            msg = f'not ended after {TIME_LIMIT} s'
            raise NotRunError(msg)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode:
        msg = f'failed: {" ".join(text.strip().splitlines()[-1:])}'
        raise NotRunError(msg)
    return text, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def run_peer(python, program, path, folder, calls, tile_size=0):
    """
    Run a program of ``speed_peers.py``.

    Returns its answer, the CPU seconds of the process, and its peak MiB.
    """
    suffix = 'fits' if program in {'pybdsf', 'aegean'} else 'ecsv'
    text, seconds, memory = run_process(
        [python, PEERS, program, path, folder / f'{program}.{suffix}',
         '--calls', calls, '--tile-size', tile_size])
    answer = next(line for line in reversed(text.splitlines())
                  if line.startswith('{'))
    return json.loads(answer), seconds, memory


def run_command(path, folder):
    """
    Run ``hyperphot run`` and return the sources, CPU seconds, and MiB.
    """
    with tempfile.TemporaryDirectory(dir=folder) as out:
        _, seconds, memory = run_process(
            [sys.executable, '-m', 'hyperphotutils', 'run', path,
             '--output-dir', out, '--quiet'])
        catalog, = Path(out).glob('*/catalog.ecsv')
        lines = catalog.read_text(encoding='utf-8').splitlines()
    rows = [line for line in lines if not line.startswith('#')]
    return len(rows) - 1, seconds, memory


def run_hyper_py(python, path, folder):
    """
    Run Hyper-py and return the sources, CPU seconds, MiB, and the CPU
    seconds of its imports.
    """
    with tempfile.TemporaryDirectory(dir=folder) as out:
        config = write_hyper_config(python, out, path, n_sigma=4.0)
        _, seconds, memory = run_process([python.parent / 'hyper_py',
                                          config])
        lines = hyper_catalog_file(out, path).read_text(
            encoding='utf-8').splitlines()
    _, start_up, _ = run_process([python, '-c', 'import hyper_py'])
    rows = [line for line in lines if not line.startswith('#')]
    return len(rows) - 1, seconds, memory, start_up


def write_plain_map(path, written):
    """
    Write a copy of a map in Jy/beam with a header that all programs read.
    """
    from astropy.io import fits

    from hyperphotutils.maps import read_map

    image = read_map(path)
    meta = image.meta
    step = 1.0 / 3600.0
    ny, nx = image.shape
    hdu = fits.PrimaryHDU((image.data * meta['beam_area_pix']).astype('f4'))
    hdu.header.update({
        'CTYPE1': 'RA---SIN', 'CTYPE2': 'DEC--SIN', 'CUNIT1': 'deg',
        'CUNIT2': 'deg', 'CRVAL1': 83.0, 'CRVAL2': -5.0,
        'CRPIX1': (nx + 1) / 2, 'CRPIX2': (ny + 1) / 2, 'CDELT1': -step,
        'CDELT2': step, 'RADESYS': 'ICRS', 'EQUINOX': 2000.0,
        'BUNIT': 'Jy/beam', 'RESTFRQ': 2.3e11,
        'BMAJ': meta['beam_major_pix'] * step,
        'BMIN': meta['beam_minor_pix'] * step,
        'BPA': (meta['beam_theta'] - 90.0) % 180.0,
        'FWHMPIX': meta['beam_fwhm_pix']})
    hdu.writeto(written)


def compare_programs(args):
    """
    Print a table of all programs on a map.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = folder / 'plain.fits'
        write_plain_map(args.map, plain)
        pythons, rows = {}, {}
        for program in args.peers:
            rows[program] = {'whole': [], 'calls': []}
            try:
                pythons[program] = environment(program, args.environments)
            except NotRunError as exc:
                rows[program]['failure'] = str(exc)
        for program in OWN:
            pythons[program] = Path(sys.executable)
            rows[program] = {'whole': [], 'calls': []}
        rows['hyperphot run'] = {'whole': [], 'calls': []}
        for _ in range(args.repeats):
            _run_all_once(args, rows, pythons, plain, folder)
        for program, python in pythons.items():
            _repeat_calls(rows[program], program, python, plain,
                          args.repeats, folder)
        rows['hyper-py'] = {'whole': [], 'calls': []}
        if args.hyper_py_repeats:
            _time_hyper_py(rows['hyper-py'], args, folder)
    print_programs(rows)


def _run_all_once(args, rows, pythons, plain, folder):
    try:
        n_sources, seconds, memory = run_command(args.map, folder)
    except NotRunError as exc:
        rows['hyperphot run']['failure'] = str(exc)
    else:
        rows['hyperphot run'].update(n_sources=n_sources, memory=memory)
        rows['hyperphot run']['whole'].append(seconds)
    for program, python in pythons.items():
        row = rows[program]
        if 'failure' in row:
            continue
        try:
            answer, seconds, memory = run_peer(python, program, plain,
                                               folder, 1)
        except NotRunError as exc:
            row['failure'] = str(exc)
            continue
        row.update(n_sources=answer['n_sources'], memory=memory)
        row['whole'].append(seconds)


def _repeat_calls(row, program, python, plain, repeats, folder):
    """
    Time calls in one process, without the first, which is slower.
    """
    if 'failure' in row:
        return
    try:
        answer, _, _ = run_peer(python, program, plain, folder, repeats + 1)
    except NotRunError as exc:
        row['failure'] = str(exc)
        return
    row['calls'] = answer['calls'][1:]


def _time_hyper_py(row, args, folder):
    try:
        python = (hyper_py_python(args.hyper_py_python)
                  if args.hyper_py_python
                  else environment('hyper-py', args.environments))
        for _ in range(args.hyper_py_repeats):
            n_sources, seconds, memory, start_up = run_hyper_py(
                python, args.map, folder)
            row.update(n_sources=n_sources, memory=memory)
            row['whole'].append(seconds)
            row['calls'].append(seconds - start_up)
    except NotRunError as exc:
        row['failure'] = str(exc)


def print_programs(rows):
    """
    Print the medians, and the ratios to those of this package.
    """
    def median(program, key):
        values = rows.get(program, {}).get(key)
        return statistics.median(values) if values else float('nan')

    own = median('hyperphot run', 'whole')
    white, correlated = (median(name, 'calls') for name in OWN)
    print(f'{"program":<16}{"sources":>8}{"whole":>9}{"own/it":>8}'
          f'{"in process":>12}{"it/white":>10}{"it/corr.":>10}'
          f'{"MiB":>7}')
    for program, row in rows.items():
        if 'failure' in row:
            print(f'{program:<16}{row["failure"]}')
        elif row['whole']:
            whole, calls = median(program, 'whole'), median(program, 'calls')
            print(f'{program:<16}{row["n_sources"]:8d}{whole:9.2f}'
                  f'{own / whole:8.2f}{calls:12.3f}{calls / white:10.2f}'
                  f'{calls / correlated:10.2f}{row["memory"]:7.0f}')


def write_dense_map(path, side, n_sources):
    """
    Write a map of the recipe ``dense``.
    """
    from hyperphotutils.datasets import BLENDED_MAP_RECIPES, make_blended_map

    make_blended_map(**{
        **BLENDED_MAP_RECIPES['dense'], 'shape': (side, side),
        'n_sources': n_sources}, seed=1).write(path)


def measure_scaling(args):
    """
    Print the CPU time a source and the peak memory of growing maps.
    """
    from hyperphotutils.pipeline import PipelineConfig

    print(f'{"sources":>8}{"side":>7}{"noise":>12}{"found":>8}'
          f'{"CPU s":>9}{"ms/source":>11}{"MiB":>7}')
    for n_sources in args.n_sources:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            side = round(600 * (n_sources / 500)**0.5)
            path = folder / 'map.fits'
            in_new_process(write_dense_map, path, side, n_sources)
            tile_size = PipelineConfig().find_tile_size((side, side))
            for program in args.noise:
                calls = 2 if n_sources <= 2000 else 1
                answer, _, memory = run_peer(
                    sys.executable, program, path, folder, calls, tile_size)
                seconds = answer['calls'][-1]
                print(f'{n_sources:8d}{side:7d}{program:>12}'
                      f'{answer["n_sources"]:8d}{seconds:9.2f}'
                      f'{1e3 * seconds / n_sources:11.2f}{memory:7.0f}',
                      flush=True)


def write_mosaic(path, side, n_sources):
    """
    Write a map of ``make_blended_map``, drawn block by block.
    """
    import numpy as np
    from astropy.io import fits

    from hyperphotutils.datasets import make_blended_map

    edges = [*range(0, side, BLOCK), side]
    pixels, seed = None, 0
    for y, y_end in pairwise(edges):
        for x, x_end in pairwise(edges):
            shape = (y_end - y, x_end - x)
            n_block = round(n_sources * shape[0] * shape[1] / side**2)
            block = path.with_name(f'block_{seed}.fits')
            make_blended_map(shape, n_block, seed=seed).write(block)
            values, header = fits.getdata(block, header=True)
            block.unlink()
            seed += 1
            if pixels is None:
                header.update(NAXIS1=side, NAXIS2=side, BITPIX=-32,
                              CRPIX1=side / 2, CRPIX2=side / 2)
                head = header.tostring().encode('ascii')
                size = len(head) + 4 * side**2
                with path.open('wb') as file:
                    file.write(head)
                    file.truncate(size + -size % 2880)
                pixels = np.memmap(path, '>f4', 'r+', len(head),
                                   (side, side))
            pixels[y:y_end, x:x_end] = values
    pixels.flush()


def in_new_process(function, *arguments):
    """
    Call a function in a new process.

    The peak memory of a program includes that of the process that starts
    it: maps are drawn elsewhere.
    """
    process = multiprocessing.get_context('spawn').Process(
        target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        msg = f'{function.__name__} failed'
        raise NotRunError(msg)


def run_with_peaks(path, folder, jobs):
    """
    Run ``hyperphot run``; return the number of sources, CPU seconds, and
    the peak MiB of the process and of the largest of its own.
    """
    with tempfile.TemporaryDirectory(dir=folder) as out:
        text, seconds, _ = run_process(
            [sys.executable, '-c', WITH_PEAKS, 'run', path, '--output-dir',
             out, '--quiet', '--jobs', jobs])
        catalog, = Path(out).glob('*/catalog.ecsv')
        with catalog.open(encoding='utf-8') as lines:
            n_rows = sum(not line.startswith('#') for line in lines) - 1
    peaks = [int(word) / 1024 for word in text.split()[-2:]]
    return n_rows, seconds, *peaks


def measure_mosaic(args):
    """
    Print the cost of ``hyperphot run`` on a large map.
    """
    print(f'{"processes":>9}{"sources":>9}{"clock s":>9}{"CPU s":>9}'
          f'{"ms/source":>11}{"MiB":>7}{"MiB child":>11}{"speedup":>9}')
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, 'mosaic.fits')
        in_new_process(write_mosaic, path, args.side, args.n_sources)
        first = None
        for jobs in dict.fromkeys((1, args.jobs)):
            start = time.monotonic()
            n_rows, seconds, own, child = run_with_peaks(path, name, jobs)
            clock = time.monotonic() - start
            first = first or clock
            print(f'{jobs:9d}{n_rows:9d}{clock:9.1f}{seconds:9.1f}'
                  f'{1e3 * seconds / n_rows:11.2f}{own:7.0f}{child:11.0f}'
                  f'{first / clock:9.2f}', flush=True)


def main():
    """
    Run from the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    programs = commands.add_parser('programs', help='compare programs')
    programs.set_defaults(function=compare_programs)
    programs.add_argument('map', help='FITS map')
    programs.add_argument('--peers', nargs='*', choices=PEER_NAMES,
                          default=PEER_NAMES,
                          help='other programs beside Hyper-py (default: '
                          'all)')
    programs.add_argument('--repeats', type=int, default=5,
                          help='runs of each program (default: 5)')
    programs.add_argument('--hyper-py-repeats', type=int, default=1,
                          help='runs of Hyper-py (default: 1)')
    programs.add_argument('--hyper-py-python', metavar='PYTHON',
                          help='interpreter that has Hyper-py')
    programs.add_argument('--environments', type=Path, metavar='DIR',
                          default=ENVIRONMENTS,
                          help='where the environments are or are made')
    scaling = commands.add_parser('scaling', help='larger and larger maps')
    scaling.set_defaults(function=measure_scaling)
    scaling.add_argument('--n-sources', type=int, nargs='+',
                         default=[500, 1000, 2000, 5000, 10000, 20000,
                                  50000])
    scaling.add_argument('--noise', nargs='+', choices=OWN, default=OWN)
    mosaic = commands.add_parser('mosaic', help='hyperphot run on a large '
                                 'map')
    mosaic.set_defaults(function=measure_mosaic)
    mosaic.add_argument('--side', type=int, default=8192,
                        help='pixels along each axis (default: 8192)')
    mosaic.add_argument('--n-sources', type=int, default=20_000,
                        help='sources in the map (default: 20000)')
    mosaic.add_argument('--jobs', type=int, default=1,
                        help='run again with so many processes (default: 1)')
    args = parser.parse_args()
    args.function(args)


if __name__ == '__main__':
    main()
