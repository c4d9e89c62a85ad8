# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Compare measurements with the best that any unbiased one could do.

On simulated maps, whose noise and background have a known covariance,
the Cramer-Rao bound of each source is known as well. ::

    python benchmarks/limit.py --recipe dense --positions true
    python benchmarks/limit.py --recipe moderate --positions blind

measures five maps with HyperPhotometry and photutils' PSFPhotometry, and
with Hyper-py where its interpreter is given. Faint sources far from each
other are measured by ::

    python benchmarks/limit.py --recipe faint --positions true
    python benchmarks/limit.py --recipe faint-points --positions true

The columns are:

found %, true %
    Completeness and reliability: the share of the true sources that have
    a measured counterpart, and that of the measured sources that have a
    true one. Pairs are one to one, the nearest first, within half the
    geometric mean FWHM of the beam. With true positions given, all that
    was fitted is found.

flux, peak, pos
    The scatter (1.4826 times the median absolute deviation) of
    (measured - true) / bound; that of x and y together is the third.

s
    Seconds that the measurement of a map took.

pulls
    Median and scatter of (measured - true) / stated error, and the
    percentage within 3.

flux bias %
    Median of (measured - true) / true of the fluxes, and its standard
    error, for faint sources between two signal-to-noise ratios.

All numbers are the means over the seeds.
"""

import argparse
import tempfile
import time
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
from accuracy import match
from astropy.stats import mad_std
from astropy.table import QTable, Table
from astropy.utils.exceptions import AstropyUserWarning
from peers import hyper_py_python, run_hyper_py
from photutils.background import LocalBackground
from photutils.psf import GaussianPSF, PSFPhotometry, SourceGrouper
from scipy.linalg import cho_factor, solve_triangular

from hyperphotutils.blend import BlendGroupFitter, GroupSolver
from hyperphotutils.datasets import BLENDED_MAP_RECIPES, make_blended_map
from hyperphotutils.detection import HighPassStarFinder
from hyperphotutils.photometry import HyperPhotometry
from hyperphotutils.utils import gaussian_matrix

# Sources of low signal-to-noise ratio, at least six beams apart from each
# other; and such sources with the shape of the beam.
_FAINT = {**BLENDED_MAP_RECIPES['moderate'], 'n_sources': 300,
          'blend_fraction': 0.0, 'blend_distance': (6.0, 6.0),
          'snr_range': (5.0, 12.0)}
RECIPES = {
    **BLENDED_MAP_RECIPES,
    'faint': _FAINT,
    'faint-points': {**_FAINT, 'beam': 3.33, 'size_range': (1.0, 1.0),
                     'axis_ratio_range': (1.0, 1.0)}}
BINS = (5.0, 6.5, 8.0, 10.0, 12.0)

# The pixels that a bound is computed from: a disk with this radius in
# FWHM of the beam. Sources up to one FWHM outside of it are free as well.
_RADIUS = 4.0
# Added to the variance, relative to it, for matrices that are singular
# to rounding.
_JITTER = 1e-11
# What the pixels tell less of than this, relative to the rest, they do
# not tell at all: the far sides of neighbors.
_RCOND = 1e-12

# measured value, stated error, true value
PULLS = {
    'flux': ('flux_fit', 'flux_err', 'flux_fit'),
    'aperture': ('aperture_flux', 'aperture_flux_err', 'flux_fit'),
    'peak': ('amplitude_fit', 'amplitude_err', 'amplitude_fit'),
    'x': ('x_fit', 'x_err', 'x_fit'),
    'y': ('y_fit', 'y_err', 'y_fit'),
    'major': ('fwhm_major_fit', 'fwhm_major_err', 'fwhm_major_fit'),
    'minor': ('fwhm_minor_fit', 'fwhm_minor_err', 'fwhm_minor_fit')}
_COLUMNS = sorted({name for names in PULLS.values() for name in names})


def bounds(sim, *, fixed_shape=False):
    """
    Compute the Cramer-Rao bounds of the sources of a simulated map.

    All parameters of a source and of its neighbors, and the mean level,
    are free; the covariance of the pixels is the true one.

    Parameters
    ----------
    sim : `~hyperphotutils.datasets.SimulatedMap`
        The map.

    fixed_shape : bool, optional
        Whether the widths and angles are known.

    Returns
    -------
    bounds : dict of 1-D `~numpy.ndarray`
        The smallest possible errors of ``flux_fit``, ``amplitude_fit``,
        ``x_fit``, and ``y_fit``.
    """
    truth = plain(sim.truth)
    radius = _RADIUS * sim.image.meta['beam_fwhm_pix']
    half = int(radius)
    dy, dx = np.mgrid[-half:half + 1, -half:half + 1]
    inside = np.hypot(dx, dy) <= radius
    dx, dy = dx[inside], dy[inside]
    whole = covariance_factor(sim, dx, dy)
    errors = []
    for x, y in truth['x_fit', 'y_fit']:
        col, row = dx + round(x), dy + round(y)
        on_map = ((col >= 0) & (col < sim.image.shape[1])
                  & (row >= 0) & (row < sim.image.shape[0]))
        factor = whole if on_map.all() else covariance_factor(
            sim, dx[on_map], dy[on_map])
        distance = np.hypot(truth['x_fit'] - x, truth['y_fit'] - y)
        near = np.argsort(distance)[:np.sum(
            distance < radius * (1.0 + 1.0 / _RADIUS))]
        errors.append(_bound(truth[near], col[on_map], row[on_map], factor,
                             fixed_shape=fixed_shape))
    names = ('flux_fit', 'amplitude_fit', 'x_fit', 'y_fit')
    return dict(zip(names, np.transpose(errors), strict=True))


def covariance_factor(sim, dx, dy):
    """
    Factorize the true covariance of some pixels.
    """
    matrix = sim.autocovariance(dx[:, None] - dx, dy[:, None] - dy)
    matrix[np.diag_indices(len(dx))] *= 1.0 + _JITTER
    return cho_factor(matrix, lower=True)[0]


def _bound(sources, col, row, factor, *, fixed_shape):
    """
    Return the bounds of the first of some sources.

    With the matrix of the variances :math:`M` of a Gaussian
    :math:`G`, the offset :math:`d`, and :math:`u = M^{-1} d`, the
    derivatives of :math:`G` for the elements of :math:`M` are
    :math:`G u_x^2 / 2`, :math:`G u_x u_y`, and :math:`G u_y^2 / 2`.
    """
    inverse = np.linalg.inv(_variances(sources))
    offset = np.stack((col - sources['x_fit'][:, None],
                       row - sources['y_fit'][:, None]), axis=1)
    u_x, u_y = np.moveaxis(inverse @ offset, 1, 0)
    profile = np.exp(-0.5 * (u_x * offset[:, 0] + u_y * offset[:, 1]))
    gauss = sources['amplitude_fit'][:, None] * profile
    derivatives = [profile, gauss * u_x, gauss * u_y]
    if not fixed_shape:
        derivatives += [0.5 * gauss * u_x**2, gauss * u_x * u_y,
                        0.5 * gauss * u_y**2]
    jacobian = np.stack(derivatives, axis=1)
    n_params = jacobian.shape[1]
    jacobian = np.concatenate((jacobian.reshape(-1, len(col)),
                               np.ones((1, len(col)))))
    white = solve_triangular(factor, jacobian.T, lower=True)
    scale = 1.0 / np.linalg.norm(white, axis=0)
    white *= scale
    covariance = np.linalg.pinv(white.T @ white, rcond=_RCOND,
                                hermitian=True)
    covariance = (covariance * scale[:, None] * scale)[:n_params, :n_params]

    flux, inv = sources['flux_fit'][0], inverse[0]
    gradient = np.array([flux / sources['amplitude_fit'][0], 0.0, 0.0,
                         0.5 * flux * inv[0, 0], flux * inv[0, 1],
                         0.5 * flux * inv[1, 1]])[:n_params]
    return np.sqrt([gradient @ covariance @ gradient,
                    *np.diagonal(covariance)[:3]])


def _variances(sources):
    """
    Return the matrices of the variances of Gaussians.
    """
    xx, xy, yy = gaussian_matrix(sources['fwhm_major_fit'],
                                 sources['fwhm_minor_fit'],
                                 sources['theta_fit'])
    return np.moveaxis(np.array([[xx, xy], [xy, yy]]), (0, 1), (1, 2))


def plain(table):
    """
    Take the units off the columns that are compared.
    """
    return Table({name: np.asarray(getattr(table[name], 'value',
                                           table[name]), dtype=float)
                  for name in (*_COLUMNS, 'theta_fit', 'snr')
                  if name in table.colnames})


def measure_hyperphotutils(sim, args):
    """
    Measure a map with HyperPhotometry.
    """
    fwhm = sim.image.meta['beam_fwhm_pix']
    fixed = ('shape',) if args.recipe == 'faint-points' else ()
    fitter = BlendGroupFitter(
        fwhm, fixed=fixed, solver=GroupSolver(bias_correction=True))
    phot = HyperPhotometry(fwhm, noise=args.noise, fitter=fitter)
    return phot(sim.image, init_params=_true_positions(sim, args))


def measure_photutils(sim, args):
    """
    Measure a map with photutils: joint fits of elliptical Gaussians on
    local backgrounds, at positions of the same finder.
    """
    fwhm = sim.image.meta['beam_fwhm_pix']
    free = args.recipe != 'faint-points'
    model = GaussianPSF(x_fwhm=fwhm, y_fwhm=0.9 * fwhm if free else fwhm)
    for name in ('x_fwhm', 'y_fwhm', 'theta'):
        model.fixed[name] = not free
    for name in ('x_fwhm', 'y_fwhm'):
        model.bounds[name] = (0.5 * fwhm, 3.0 * fwhm)
    phot = PSFPhotometry(
        model, 2 * round(1.5 * fwhm) + 1, xy_bounds=fwhm,
        finder=HighPassStarFinder(fwhm=fwhm, n_sigma=5.0),
        aperture_radius=fwhm,
        grouper=SourceGrouper(2.0 * fwhm),
        local_bkg_estimator=LocalBackground(2.0 * fwhm, 4.0 * fwhm))
    with warnings.catch_warnings():
        # one for each of many fits that are not perfect
        warnings.simplefilter('ignore', AstropyUserWarning)
        found = phot(sim.image.data, init_params=_true_positions(sim, args))
    table = QTable({name: found[name]
                    for name in ('x_fit', 'y_fit', 'x_err', 'y_err',
                                 'flux_fit', 'flux_err')})
    if not free:
        table['amplitude_fit'] = (
            found['flux_fit'] * 4.0 * np.log(2.0) / np.pi / fwhm**2)
        return table
    swapped = found['y_fwhm_fit'] > found['x_fwhm_fit']
    for kind in ('fit', 'err'):
        x, y = found[f'x_fwhm_{kind}'], found[f'y_fwhm_{kind}']
        table[f'fwhm_major_{kind}'] = np.where(swapped, y, x)
        table[f'fwhm_minor_{kind}'] = np.where(swapped, x, y)
    table['amplitude_fit'] = (
        found['flux_fit'] * 4.0 * np.log(2.0) / np.pi
        / (found['x_fwhm_fit'] * found['y_fwhm_fit']))
    return table


def measure_hyper_py(sim, args):
    """
    Measure a map with Hyper-py.
    """
    python = hyper_py_python(args.hyper_py_python)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'map.fits'
        sim.write(path)
        return run_hyper_py(python, path, sim.image)[0]


def _true_positions(sim, args):
    """
    Return the true positions as initial values, if they shall be given.
    """
    if args.positions == 'blind':
        return None
    return QTable({'x_init': sim.truth['x_fit'],
                   'y_init': sim.truth['y_fit']})


def compare(table, sim, bound, *, blind):
    """
    Compare measured with true sources.

    Returns
    -------
    scores : dict of float
        What is printed, by name.
    """
    truth = plain(sim.truth)
    table = plain(table)
    fitted = np.isfinite(table['x_fit'] + table['flux_fit'])
    if blind:
        table = table[fitted]
        i, j = match(table['x_fit'], table['y_fit'], truth['x_fit'],
                     truth['y_fit'], sim.image.meta['beam_fwhm_pix'] / 2)
    else:
        i = j = np.flatnonzero(fitted)
    scores = {'found': 100 * len(j) / len(truth),
              'true': 100 * len(i) / len(table)}
    table, truth = table[i], truth[j]
    ratio = {name: (table[name] - truth[name]) / bound[name][j]
             for name in bound}
    scores['flux'] = mad_std(ratio['flux_fit'])
    scores['peak'] = mad_std(ratio['amplitude_fit'])
    scores['position'] = mad_std([ratio['x_fit'], ratio['y_fit']])
    for name, (value, error, true) in PULLS.items():
        if {value, error} <= set(table.colnames):
            # what was held fixed has no error
            known = table[error] > 0
            pull = ((table[value] - truth[true])[known]
                    / table[error][known])
            if len(pull) == 0:
                continue
            scores |= {f'{name} median': np.median(pull),
                       f'{name} scatter': mad_std(pull),
                       f'{name} within': 100 * np.mean(np.abs(pull) < 3)}
    return scores | _flux_bias(table, truth)


def _flux_bias(table, truth):
    """
    Return the median of the relative error of the flux, and its standard
    error, by the signal-to-noise ratio.
    """
    scores = {}
    error = 100 * (table['flux_fit'] / truth['flux_fit'] - 1)
    for low, high in pairwise(BINS):
        chosen = error[(truth['snr'] >= low) & (truth['snr'] < high)]
        if len(chosen) > 2:
            name = f'{low:.3g}-{high:.3g}'
            scores[f'bias {name}'] = np.median(chosen)
            scores[f'variance {name}'] = (
                np.pi / 2 * mad_std(chosen)**2 / len(chosen))
    return scores


def print_scores(name, scores):
    """
    Print the means over the seeds.
    """
    names = set.intersection(*map(set, scores))
    mean = {key: np.mean([one[key] for one in scores]) for key in names}
    print(f'{name:<16}{mean["found"]:>8.1f}{mean["true"]:>8.1f}'
          f'{mean["flux"]:>7.2f}{mean["peak"]:>7.2f}{mean["position"]:>7.2f}'
          f'{mean["seconds"]:>7.1f}')
    for pull in PULLS:
        if f'{pull} median' in mean:
            print(f'    pull {pull:<12}{mean[f"{pull} median"]:>+6.2f}'
                  f' +- {mean[f"{pull} scatter"]:.2f}'
                  f'{mean[f"{pull} within"]:>7.1f} %')
    for low, high in pairwise(BINS):
        name = f'{low:.3g}-{high:.3g}'
        if f'bias {name}' in mean:
            error = np.sqrt(mean[f'variance {name}'] / len(scores))
            print(f'    flux bias % at S/N {name:<8}'
                  f'{mean[f"bias {name}"]:>+6.2f} +- {error:.2f}')


def run(args):
    """
    Measure all maps with all programs.
    """
    programs = {'hyperphotutils': measure_hyperphotutils}
    if not args.no_peers:
        programs['photutils'] = measure_photutils
    if args.hyper_py_python is not None:
        if args.positions == 'true':
            msg = 'Hyper-py detects by itself: --positions blind'
            raise SystemExit(msg)
        programs['Hyper-py'] = measure_hyper_py
    scores = {name: [] for name in programs}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        sim = make_blended_map(**RECIPES[args.recipe], seed=seed)
        bound = bounds(sim, fixed_shape=args.recipe == 'faint-points')
        for name, measure in programs.items():
            start = time.perf_counter()
            table = measure(sim, args)
            seconds = time.perf_counter() - start
            scores[name].append({'seconds': seconds, **compare(
                table, sim, bound, blind=args.positions == 'blind')})
    print(f'{args.recipe}, {args.positions} positions, noise {args.noise}, '
          f'{args.seeds} maps')
    print(f'{"program":<16}{"found %":>8}{"true %":>8}{"flux":>7}{"peak":>7}'
          f'{"pos":>7}{"s":>7}')
    for name, values in scores.items():
        print_scores(name, values)


def main():
    """
    Run from the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--recipe', choices=RECIPES, default='dense')
    parser.add_argument('--positions', choices=('true', 'blind'),
                        default='blind', help='where the fits begin')
    parser.add_argument('--noise', choices=('correlated', 'white'),
                        default='correlated',
                        help='noise of HyperPhotometry')
    parser.add_argument('--seeds', type=int, default=5,
                        help='number of maps (default: 5)')
    parser.add_argument('--first-seed', type=int, default=2000)
    parser.add_argument('--no-peers', action='store_true',
                        help='measure with HyperPhotometry only')
    parser.add_argument('--hyper-py-python', metavar='PYTHON',
                        help='run Hyper-py too, with this interpreter of '
                        'an environment that has it and photutils<3')
    run(parser.parse_args())


if __name__ == '__main__':
    main()
