# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Time the backgrounds of cubes, and compare them with those of Hyper-py.

::

    python benchmarks/cubes.py [--channels N] [--size N] [--repeats N]
    python benchmarks/cubes.py --cube CUBE [--hyper-py-python PYTHON]
    python benchmarks/cubes.py --simulated SEEDS

The first form writes a simulated cube of float32 and estimates its
background into a file, each time in a new process, with one and with two
processes by turns. The time begins after the imports and ends with the
finished file. ``CPU`` is the processor time of all processes, which does
not depend on what else the machine does; the memory is the largest of
the process that was begun and of those that work for it.

The second form runs Hyper-py on a cube (see `peers`) with its documented
threshold of 4, and `CubeBackground` with the same threshold in this
process before and after it. Hyper-py's time is that between the first
and the last line of its log, without the imports. It always measures
the sources, too: ``hyperphot run`` is the fair comparison.

The third form tells the errors of the backgrounds inside the ellipses of
the true sources (semi-axes of one FWHM), in units of the noise, on
simulated cubes with backgrounds of orders 0 to 2 that vary from channel
to channel.
"""

import argparse
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import yaml
from astropy.io import fits
from peers import hyper_py_python, write_hyper_config

from hyperphotutils.background import CubeBackground, make_source_mask
from hyperphotutils.datasets import make_map_cube
from hyperphotutils.detection import HighPassStarFinder
from hyperphotutils.maps import read_cube

N_SIGMA = 4.0


def write_cube(path, n_channels, size):
    """
    Write a cube that repeats some simulated channels.
    """
    sim = make_map_cube((10, size, size), size**2 // 6000, seed=0)
    header = sim.hdu.header.copy()
    header['NAXIS3'] = n_channels
    planes = sim.hdu.data.astype('>f4')
    with Path(path).open('wb') as file:
        file.write(header.tostring().encode())
        file.writelines(planes[i % 10].tobytes() for i in range(n_channels))
        file.write(bytes(-file.tell() % 2880))


def estimate(path, jobs):
    """
    Estimate the background of a cube in this process, and tell what it
    took.
    """
    cube = read_cube(path)
    finder = HighPassStarFinder(n_sigma=5.0, fwhm=float(cube.beam_fwhm_pix[0]))
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        start = time.perf_counter()
        before = processor_seconds()
        CubeBackground(finder=finder)(
            cube, output=Path(folder, 'background.fits'), n_workers=jobs)
        seconds = time.perf_counter() - start
    memory = [resource.getrusage(who).ru_maxrss / 1024 for who in (
        resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {'seconds': seconds, 'cpu': processor_seconds() - before,
            'memory': memory, 'n_channels': len(cube)}


def processor_seconds():
    """
    Sum the processor time of this process and those that have ended.
    """
    usages = [resource.getrusage(who) for who in (
        resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def time_processes(args):
    """
    Time one and two processes by turns.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'cube.fits')
        write_cube(path, args.channels, args.size)
        print(f'{args.channels} channels of {args.size} x {args.size}: '
              f'{path.stat().st_size / 2**20:.0f} MiB', flush=True)
        seconds = {1: [], 2: []}
        for _ in range(args.repeats):
            for jobs, values in seconds.items():
                done = subprocess.run(
                    [sys.executable, __file__, '--estimate', str(path),
                     '--jobs', str(jobs)], check=True, capture_output=True,
                    text=True)
                took = json.loads(done.stdout)
                values.append(took['seconds'])
                memory = ' + '.join(f'{m:.0f}' for m in took['memory'] if m)
                print(f'{jobs} jobs: {took["seconds"]:6.1f} s, '
                      f'{took["seconds"] / args.channels:.4f} s a channel, '
                      f'CPU {took["cpu"] / args.channels:.4f} s a channel, '
                      f'memory {memory} MB', flush=True)
        print(f'two processes: {min(seconds[1]) / min(seconds[2]):.2f} '
              'times as fast as one')


def run_hyper_py(python, path, folder):
    """
    Run Hyper-py on a cube; return its seconds and its background.
    """
    config = write_hyper_config(python, folder, path, n_sigma=N_SIGMA)
    values = yaml.safe_load(config.read_text(encoding='utf-8'))
    values['control'].update(datacube=True, parallel_maps=False)
    config.write_text(yaml.safe_dump(values), encoding='utf-8')
    subprocess.run([python.parent / 'hyper_py', config], check=True,
                   capture_output=True)
    log = Path(folder, 'output', 'logs', 'hyper_py.log').read_text(
        encoding='utf-8').splitlines()
    times = []
    for line in log:
        with contextlib.suppress(ValueError):
            times.append(datetime.strptime(  # noqa: DTZ007
                line[:23], '%Y-%m-%d %H:%M:%S,%f'))
    background, = Path(folder).rglob('*_background_cube_fullsize.fits')
    return (times[-1] - times[0]).total_seconds(), fits.getdata(background)


def run_ours(path, folder):
    """
    Time ``hyperphot run`` on a cube, without the imports.
    """
    from hyperphotutils.pipeline import PipelineConfig, process_maps

    config = PipelineConfig(
        input={'maps': [str(path)], 'datacube': True},
        detection={'n_sigma': N_SIGMA}, output={'directory': str(folder)})
    start = time.perf_counter()
    process_maps(config)
    return time.perf_counter() - start


def compare(args):
    """
    Compare with Hyper-py on one cube.
    """
    python = hyper_py_python(args.hyper_py_python)
    cube = read_cube(args.cube)
    bkg = CubeBackground(finder=HighPassStarFinder(
        fwhm=float(cube.beam_fwhm_pix[0]), n_sigma=N_SIGMA))
    ours, whole = [], []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(2 * args.repeats + 1):
            if turn == args.repeats:
                place = Path(folder, 'hyper')
                place.mkdir()
                theirs, background = run_hyper_py(python, args.cube, place)
            start = time.perf_counter()
            result = bkg(cube, output=Path(folder, 'background.fits'),
                         overwrite=True)
            ours.append(time.perf_counter() - start)
            whole.append(run_ours(args.cube, Path(folder, f'run{turn}')))
        mine = fits.getdata(Path(folder, 'background.fits'))
    ours, whole = statistics.median(ours), statistics.median(whole)
    print(f'Hyper-py {theirs:.2f} s; hyperphot run {whole:.2f} s, '
          f'{theirs / whole:.0f} times as fast; CubeBackground alone '
          f'{ours:.3f} s, {theirs / ours:.0f} times as fast')
    print('channel  n_sources  ours (median)  Hyper-py (median)  rms')
    for i, row in enumerate(result.table):
        both = np.isfinite(background[i]) & np.isfinite(mine[i])
        both &= background[i] != 0.0
        values = ([np.median(cube_[i][both]) for cube_ in (mine, background)]
                  if both.any() else [np.nan, np.nan])
        print(f'{i:7}  {row["n_sources"]:9}  {values[0]:13.2e}  '
              f'{values[1]:17.2e}  {row["background_rms"].value:.2e}')


def measure_errors(args):
    """
    Tell the errors of the backgrounds under true sources.
    """
    bkg = CubeBackground(finder=HighPassStarFinder(fwhm=4.0, n_sigma=5.0))
    everything = []
    print('cube                    seed   rms     mean')
    for shape, n_sources in (((16, 128, 128), 8), ((24, 200, 200), 20)):
        for seed in range(args.simulated):
            sim = make_map_cube(shape, n_sources, seed=seed)
            background = bkg(sim.cube).background
            errors = []
            for channel in np.unique(sim.truth['channel']):
                rows = sim.truth[sim.truth['channel'] == channel]
                inside = make_source_mask(
                    shape[1:], rows['x_fit'], rows['y_fit'],
                    rows['fwhm_major_fit'], rows['fwhm_minor_fit'],
                    rows['theta_fit'], factor=1.0)
                difference = background[channel] - sim.background[channel]
                errors.append((difference / sim.rms).value[inside])
            errors = np.concatenate(errors)
            errors = errors[np.isfinite(errors)]
            everything.append(errors)
            print(f'{shape!s:15} {n_sources:3} sources {seed:4}   '
                  f'{np.sqrt(np.mean(errors**2)):.3f}   '
                  f'{errors.mean():+.3f}', flush=True)
    errors = np.concatenate(everything)
    print(f'all                            {np.sqrt(np.mean(errors**2)):.3f}'
          f'   {errors.mean():+.3f}')


def main():
    """
    Read the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--channels', type=int, default=400)
    parser.add_argument('--size', type=int, default=512)
    parser.add_argument('--repeats', type=int, default=2)
    parser.add_argument('--cube', help='compare with Hyper-py on this cube')
    parser.add_argument('--hyper-py-python', metavar='PYTHON')
    parser.add_argument('--simulated', type=int, metavar='SEEDS',
                        help='measure errors on so many cubes')
    parser.add_argument('--estimate', help=argparse.SUPPRESS)
    parser.add_argument('--jobs', type=int, default=1,
                        help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.estimate:
        print(json.dumps(estimate(args.estimate, args.jobs)))
    elif args.simulated:
        measure_errors(args)
    elif args.cube:
        compare(args)
    else:
        time_processes(args)


if __name__ == '__main__':
    main()
