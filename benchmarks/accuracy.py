# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Measure how many sources are found and how well they are measured.

On a map with a table of its true sources::

    python benchmarks/accuracy.py MAP TRUTH --radius 0.02

on simulated maps of several seeds::

    python benchmarks/accuracy.py --simulated 5 --recipe moderate

or for a catalog that another program made of the map::

    python benchmarks/accuracy.py MAP TRUTH --catalog CATALOG

The columns are:

matched, of
    Sources that have a measured counterpart, out of all true ones. The
    pairs are one to one, the nearest first, within the radius (by
    default half the geometric mean FWHM of the beam).

false
    Measured sources without a true counterpart.

peak %, flux %
    Median and scatter (1.4826 times the median absolute deviation) of
    (measured - true) / true.

pos px
    Median distance from the true position in pixels.

flux pull
    Median and scatter of (measured - true) / stated error of the flux.

s
    Seconds that the photometry took, reading the map not included.
"""

import argparse
import tempfile
import time
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.stats import mad_std
from astropy.table import QTable, Table
from peers import hyper_py_python, read_hyper_catalog, run_hyper_py
from scipy.spatial import cKDTree

from hyperphotutils.datasets import BLENDED_MAP_RECIPES, make_blended_map
from hyperphotutils.detection import HighPassStarFinder
from hyperphotutils.maps import read_map
from hyperphotutils.photometry import HyperPhotometry

# Maps with the statistics of the first map of the Hyper-py paper
# (map_500_Gaussians_1.fits and its table of true sources), measured as
# follows.
#
# shape, beam, pixel_scale: from the header.
# rms: Flux_Peak / Flux_to_RMS of the table, 1.15e-6 Jy/pixel. A fit of
#   the map's autocovariance (next item) gives 1.13e-6.
# background_*: autocovariance of the pixels at more than 2 FWHM from
#   every true source (78 % of the map) for separations up to 30 px,
#   fitted by noise through the beam, a delta function, and power-law
#   backgrounds through the beam; index 4 and a scale of 38 px are the
#   best of those whose noise agrees with the table's (background
#   2.27e-6).
# snr_range: the range of Flux_to_RMS.
# size_range: the range of the table's FWHM, 0.80 to 1.50 beams, times
#   1.04: Gaussians fitted with a plane background to the 208 sources
#   without a neighbor within 14 px have a geometric mean FWHM 1.04
#   times that of the table (median) ...
# axis_ratio_range: ... and axis ratios from 0.55 to 0.92 (5th and 95th
#   percentile).
# blend_*: 57 pairs of true sources are closer than 2 beams; 54 of them
#   are more than 1 beam apart.
PAPER_RECIPE = {
    'shape': (565, 635),
    'n_sources': 500,
    'beam': (3.70, 2.96, 112.7),
    'pixel_scale': 0.013,
    'snr_range': (18.0, 45.0),
    'size_range': (0.83, 1.56),
    'axis_ratio_range': (0.55, 0.92),
    'blend_fraction': 57 / 500,
    'blend_distance': (1.0, 2.0),
    'rms': 1.15e-6,
    'background_ratio': 2.27 / 1.15,
    'background_index': 4.0,
    'background_scale': 38.0,
}

RECIPES = {'paper': PAPER_RECIPE, **BLENDED_MAP_RECIPES}


@dataclass(frozen=True)
class Score:
    """
    What one run achieved; a row of the printed table.
    """

    matched: float
    true: float
    false: float
    peak_median: float
    peak_scatter: float
    flux_median: float
    flux_scatter: float
    position: float
    pull_median: float
    pull_scatter: float
    seconds: float

    header = (f'{"map":<22}{"matched":>9}{"of":>6}{"false":>7}'
              f'{"peak %":>16}{"flux %":>16}{"pos px":>8}'
              f'{"flux pull":>16}{"s":>8}')

    def row(self, name):
        """
        Format the scores as a row below ``header``.
        """
        spread = [f'{median:+.1f} +- {scatter:.1f}' for median, scatter in (
            (100 * self.peak_median, 100 * self.peak_scatter),
            (100 * self.flux_median, 100 * self.flux_scatter))]
        pull = f'{self.pull_median:+.2f} +- {self.pull_scatter:.2f}'
        return (f'{name:<22}{self.matched:>9.4g}{self.true:>6.0f}'
                f'{self.false:>7.3g}{spread[0]:>16}{spread[1]:>16}'
                f'{self.position:>8.3f}{pull:>16}{self.seconds:>8.2f}')


def match(x, y, x_true, y_true, radius):
    """
    Pair measured with true positions, one to one, the nearest first.

    Returns
    -------
    measured, true : 1-D int `~numpy.ndarray`
        The indices of the pairs.
    """
    measured = cKDTree(np.transpose([x, y]))
    true = cKDTree(np.transpose([x_true, y_true]))
    pairs = measured.sparse_distance_matrix(true, radius,
                                            output_type='ndarray')
    free_measured = np.ones(len(x), dtype=bool)
    free_true = np.ones(len(x_true), dtype=bool)
    kept = []
    for i, j, _ in np.sort(pairs, order='v'):
        if free_measured[i] and free_true[j]:
            free_measured[i] = free_true[j] = False
            kept.append((i, j))
    return np.array(kept, dtype=int).reshape(-1, 2).T


def score(table, truth, radius, seconds=np.nan):
    """
    Compare a catalog with the true sources.

    Parameters
    ----------
    table, truth : `~astropy.table.Table`
        Measured and true sources with ``x_fit``, ``y_fit``,
        ``amplitude_fit`` and ``flux_fit`` without units, ``table`` with
        ``flux_err`` too.

    radius : float
        The matching radius in pixels.

    seconds : float, optional
        How long the measurement took.

    Returns
    -------
    score : `Score`
        The result.
    """
    # failed fits are no measurements
    table = table[np.isfinite(table['x_fit'] + table['y_fit']
                              + table['flux_fit'])]
    i, j = match(table['x_fit'], table['y_fit'], truth['x_fit'],
                 truth['y_fit'], radius)
    found, true = table[i], truth[j]
    distance = np.hypot(found['x_fit'] - true['x_fit'],
                        found['y_fit'] - true['y_fit'])
    peak = found['amplitude_fit'] / true['amplitude_fit'] - 1
    flux = found['flux_fit'] / true['flux_fit'] - 1
    pull = (found['flux_fit'] - true['flux_fit']) / found['flux_err']
    pull = pull[np.isfinite(pull)]
    return Score(len(i), len(truth), len(table) - len(i), np.median(peak),
                 mad_std(peak), np.median(flux), mad_std(flux),
                 np.median(distance), np.median(pull), mad_std(pull),
                 seconds)


def mean_score(scores):
    """
    Average scores over seeds, with the scatter from seed to seed.
    """
    values = np.array([astuple(one) for one in scores])
    return (Score(*values.mean(axis=0)),
            dict(zip((field.name for field in fields(Score)),
                     values.std(axis=0, ddof=1), strict=True)))


def measure(image, n_sigma=None, noise='correlated'):
    """
    Run the photometry on a map, by default with its default settings.

    Returns
    -------
    table : `~astropy.table.Table`
        The catalog.

    seconds : float
        How long it took.
    """
    fwhm = image.meta['beam_fwhm_pix']
    finder = (None if n_sigma is None
              else HighPassStarFinder(fwhm=fwhm, n_sigma=n_sigma))
    phot = HyperPhotometry(fwhm, finder=finder, noise=noise)
    start = time.perf_counter()
    table = phot(image)
    return plain(table), time.perf_counter() - start


def plain(table):
    """
    Take the units off the columns that are compared.
    """
    names = ('x_fit', 'y_fit', 'amplitude_fit', 'flux_fit', 'flux_err')
    return Table({name: getattr(table[name], 'value', table[name])
                  for name in names if name in table.colnames})


def read_truth(path):
    """
    Read true sources: the paper's IPAC table, or one of this package.
    """
    if Path(path).suffix == '.ecsv':
        return plain(QTable.read(path))
    table = Table.read(path, format='ascii.ipac')
    return Table({'x_fit': table['X'], 'y_fit': table['Y'],
                  'amplitude_fit': table['Flux_Peak'],
                  'flux_fit': table['Flux_Integrated']})


def run(args, name, image, truth, path=None):
    """
    Measure one map and print a row for each program.

    Returns
    -------
    score : `Score`
        That of HyperPhotometry, or of the catalog if one was given.
    """
    radius = image.meta['beam_fwhm_pix'] / 2
    if args.radius is not None:
        scale = image.meta['pixel_scale'].to_value(u.arcsec)
        radius = args.radius / scale
    if args.catalog is None:
        table, seconds = measure(image, args.n_sigma, args.noise)
    else:
        table, seconds = read_hyper_catalog(args.catalog, image), np.nan
    result = score(table, truth, radius, seconds)
    print(result.row(name), flush=True)
    if args.hyper_py_python is not None:
        python = hyper_py_python(args.hyper_py_python)
        table, seconds = run_hyper_py(python, path, image)
        print(score(table, truth, radius, seconds).row('  Hyper-py'),
              flush=True)
    return result


def run_simulated(args):
    """
    Measure simulated maps and print their mean too.
    """
    scores = []
    for seed in range(args.first_seed, args.first_seed + args.simulated):
        sim = make_blended_map(**RECIPES[args.recipe], seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'map.fits'
            sim.write(path)
            scores.append(run(args, f'{args.recipe} seed {seed}',
                              sim.image, plain(sim.truth), path))
    if len(scores) > 1:
        mean, scatter = mean_score(scores)
        print(mean.row(f'{args.recipe} mean'))
        print(f'from seed to seed: matched +- {scatter["matched"]:.1f}, '
              f'peak scatter +- {100 * scatter["peak_scatter"]:.2f} %, '
              f'flux scatter +- {100 * scatter["flux_scatter"]:.2f} %, '
              f'position +- {scatter["position"]:.3f} px')


def main():
    """
    Run from the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('map', nargs='?', help='FITS map')
    parser.add_argument('truth', nargs='?',
                        help='its true sources: IPAC table or ECSV')
    parser.add_argument('--catalog', help='score this table (IPAC or CSV) '
                        "with Hyper's columns instead of measuring")
    parser.add_argument('--simulated', type=int, metavar='N_SEEDS',
                        help='measure this many simulated maps')
    parser.add_argument('--recipe', choices=RECIPES, default='paper',
                        help='kind of simulated map (default: paper)')
    parser.add_argument('--first-seed', type=int, default=1000)
    parser.add_argument('--n-sigma', type=float,
                        help='detection threshold (default: that of '
                        'HyperPhotometry)')
    parser.add_argument('--noise', default='correlated',
                        choices=('correlated', 'white'),
                        help='noise of HyperPhotometry (default: '
                        '%(default)s)')
    parser.add_argument('--radius', type=float, metavar='ARCSEC',
                        help='matching radius (default: half a beam)')
    parser.add_argument('--hyper-py-python', metavar='PYTHON',
                        help='run Hyper-py too, with this interpreter of '
                        'an environment that has it and photutils<3')
    args = parser.parse_args()
    if args.simulated is None and args.truth is None:
        parser.error('give MAP and TRUTH, or --simulated N_SEEDS')
    print(Score.header)
    if args.truth is not None:
        run(args, Path(args.map).stem[:21], read_map(args.map),
            read_truth(args.truth), args.map)
    if args.simulated is not None:
        run_simulated(args)


if __name__ == '__main__':
    main()
