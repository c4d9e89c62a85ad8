# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Compare the speed with that of Hyper-py, side by side in one run.

::

    python benchmarks/speed.py MAP [--hyper-py-python PYTHON]

Hyper-py (``hyper-py-photometry`` on the package index) runs by its own
command line, with its own default configuration except for the paths,
the detection threshold and ``parallel_maps: false``, in an environment
of its own that is made if no interpreter is given. Its time is that of
the whole process less the time that ``import hyper_py`` takes in such a
process. `~hyperphotutils.photometry.HyperPhotometry` is called several
times in this process, half of them before and half of them after
Hyper-py's run; its time is the median.

The start-up is compared too: ``import hyperphotutils.photometry``
against ``import photutils.psf``, each in new processes by turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import yaml
from accuracy import Score, measure, read_hyper_catalog, read_truth, score

from hyperphotutils.maps import read_map

HERE = Path(__file__).resolve().parent


def make_environment(folder):
    """
    Make the virtual environment of Hyper-py and return its Python.
    """
    python = folder / ('Scripts' if os.name == 'nt' else 'bin') / 'python'
    if not python.exists():
        print(f'making an environment for Hyper-py in {folder}',
              flush=True)
        venv.create(folder, with_pip=True)
        subprocess.run([python, '-m', 'pip', 'install', '--quiet', '-r',
                        HERE / 'requirements-hyper-py.txt'], check=True)
    return python


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


def hyper_py_config(python, folder, path, n_sigma):
    """
    Write Hyper-py's default configuration with our paths into it.
    """
    code = ('import json, sysconfig; from importlib.metadata import '
            'version; print(json.dumps([sysconfig.get_path("purelib"), '
            'version("hyper-py-photometry"), version("photutils")]))')
    site, *versions = json.loads(subprocess.run(
        [python, '-c', code], check=True, capture_output=True,
        text=True).stdout)
    default = Path(site, 'hyper_py', 'assets', 'default_config.yaml')
    config = yaml.safe_load(default.read_text(encoding='utf-8'))
    maps = folder / 'maps'
    maps.mkdir()
    (maps / path.name).symlink_to(path)
    (maps / 'maps_list.txt').write_text(f'{path.name}\n', encoding='utf-8')
    config['paths']['input']['dir_maps'] = str(maps)
    config['paths']['output']['dir_root'] = str(folder / 'output')
    config['control']['parallel_maps'] = False
    config['detection']['sigma_thres'] = n_sigma
    written = folder / 'config.yaml'
    written.write_text(yaml.safe_dump(config), encoding='utf-8')
    return written, versions


def run_hyper_py(python, config):
    """
    Run Hyper-py and return the seconds of its whole process.
    """
    command = Path(python).parent / 'hyper_py'
    start = time.perf_counter()
    subprocess.run([command, config], check=True, capture_output=True)
    return time.perf_counter() - start


def compare_runs(args, python):
    """
    Time Hyper-py and HyperPhotometry on the same map.
    """
    path = Path(args.map).resolve()
    image = read_map(path)
    seconds = [measure(image)[1]
               for _ in range(1 + (args.repeats + 1) // 2)]
    first = seconds.pop(0)
    with tempfile.TemporaryDirectory() as folder:
        config, versions = hyper_py_config(python, Path(folder), path,
                                           args.n_sigma)
        start_up = statistics.median(import_seconds(python, 'hyper_py', 3))
        whole = run_hyper_py(python, config)
        catalog = read_hyper_catalog(
            Path(folder, 'output', 'params', f'params_{path.stem}.csv'),
            image)
    for _ in range(args.repeats // 2):
        table, last = measure(image)
        seconds.append(last)
    ours = statistics.median(seconds)
    theirs = whole - start_up

    print(f'Hyper-py {versions[0]} (photutils {versions[1]}), '
          f'{len(catalog)} sources: {theirs:.1f} s '
          f'({whole:.1f} s less {start_up:.1f} s of imports)')
    print(f'HyperPhotometry, {len(table)} sources: {ours:.3f} s '
          f'(median of {len(seconds)}, {min(seconds):.3f} to '
          f'{max(seconds):.3f} s; the first call in the process: '
          f'{first:.3f} s)')
    print(f'ratio: {theirs / ours:.0f}')
    if args.truth is not None:
        truth = read_truth(args.truth)
        radius = image.meta['beam_fwhm_pix'] / 2
        print(Score.header)
        print(score(catalog, truth, radius, theirs).row('Hyper-py'))
        print(score(table, truth, radius, ours).row('HyperPhotometry'))


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
                        help='its true sources, to score both catalogues')
    parser.add_argument('--hyper-py-python', metavar='PYTHON',
                        help='interpreter of an environment that has '
                        'hyper-py-photometry and photutils<3')
    parser.add_argument('--n-sigma', type=float, default=4.0,
                        help="Hyper-py's detection threshold (default: 4)")
    parser.add_argument('--repeats', type=int, default=10,
                        help='calls of HyperPhotometry (default: 10)')
    args = parser.parse_args()
    if args.hyper_py_python is None:
        python = make_environment(HERE / '.hyper-py')
    else:
        # not resolved: a link into another environment must stay one
        python = Path(args.hyper_py_python).absolute()
    compare_runs(args, python)
    compare_imports(args.repeats)


if __name__ == '__main__':
    main()
