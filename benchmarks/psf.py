# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Measure how accurate empirical PSFs and skies are.

On simulated fields, with 40 % galaxies, neighbors of every fourth star,
and cosmic rays::

    python benchmarks/psf.py --simulated 4 [--epsf]

On an image, with its errors, what the PSF leaves of the brightest stars,
compared to photutils' EPSFBuilder with the same stars::

    python benchmarks/psf.py IMAGE --error ERROR

On simulated skies, `subtract_sky`::

    python benchmarks/psf.py --sky 4

The columns are:

L2
    The norm of the error of the PSF over that of the true one, within 5
    FWHM; center and flux, which are conventions, are fitted. A mean over
    25 positions.

size, e
    Error of the weighted size (relative) and of the ellipticity.

energy
    Largest error of the encircled energy.

wrong, used
    Galaxies, neighbors within 9 pixels of a brighter star, and cosmic
    rays among the stars used, and the number of these.

order
    The order that cross-validation has chosen.

CPU
    Processor seconds for selection and PSF.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.nddata import NDData
from astropy.table import QTable, Table
from photutils.psf import EPSFBuilder, EPSFStars, PSFPhotometry, extract_stars
from scipy.optimize import least_squares

from hyperphotutils.datasets import make_star_field
from hyperphotutils.psf import EmpiricalPSFBuilder, StarSelector

SIZE = 31
FWHM = 3.0

FIELDS = {
    '60 stars, S/N 20-1000': {'n_stars': 60, 'n_galaxies': 40},
    '20 stars, S/N 20-200': {'n_stars': 20, 'n_galaxies': 13,
                             'snr': (20.0, 200.0)},
    '60 stars, varying': {'n_stars': 60, 'n_galaxies': 40,
                          'variation': 1.0},
}


def moments(psf):
    """
    Weighted size and ellipticity of an image.
    """
    half = psf.shape[0] // 2
    grid = np.arange(-half, half + 1)
    weight = np.exp(-0.5 * (grid**2 + grid[:, None]**2) / 2.5**2)
    product = psf * weight / np.sum(psf * weight)
    mx, my = product.sum(0) @ grid, product.sum(1) @ grid
    xx = product.sum(0) @ (grid - mx)**2
    yy = product.sum(1) @ (grid - my)**2
    xy = (grid - my) @ product @ (grid - mx)
    return (np.sqrt(0.5 * (xx + yy)), (xx - yy) / (xx + yy),
            2.0 * xy / (xx + yy))


def score_at(psf, true, radius=5.0 * FWHM):
    """
    Compare a function ``psf(dx, dy)`` with the true image.
    """
    half = true.shape[0] // 2
    grid = np.arange(-half, half + 1)
    distance = np.hypot(grid, grid[:, None])
    inside = distance <= radius
    true = np.where(inside, true, 0.0)

    def model(params):
        return params[2] * np.where(inside, psf(*params[:2]), 0.0)

    fit = least_squares(lambda params: (model(params) - true).ravel(),
                        [0.0, 0.0, 1.0])
    image = model(fit.x)
    error = np.sqrt(np.sum((image - true)**2) / np.sum(true**2))
    image = image / image.sum() * true.sum()
    own, exact = moments(image), moments(true)
    order = np.argsort(distance.ravel())
    energy = np.abs(np.cumsum((image - true).ravel()[order])).max()
    return (error, abs(own[0] / exact[0] - 1.0),
            np.hypot(own[1] - exact[1], own[2] - exact[2]), energy)


def score(psf_at, field):
    """
    Return the mean scores over 25 positions.
    """
    places = np.linspace(60, field.data.shape[0] - 60, 5)
    return np.mean([score_at(psf_at(x, y), field.psf(x, y, size=SIZE))
                    for x in places for y in places], axis=0)


def count_wrong(stars, field):
    """
    Count what is no isolated star.
    """
    truth = field.truth
    distance = np.hypot(
        np.asarray(stars['x_centroid'])[:, None] - np.asarray(truth['x']),
        np.asarray(stars['y_centroid'])[:, None] - np.asarray(truth['y']))
    nearest = distance.argmin(1)
    wrong = (np.asarray(truth['kind'])[nearest] == 'galaxy') | (
        distance.min(1) > 1.5)
    flux = np.asarray(truth['flux'])
    for row in range(len(stars)):
        near = (distance[row] < 9.0) & (flux > flux[nearest[row]])
        wrong[row] |= near.any()
    return np.count_nonzero(wrong)


def run_simulated(n_seeds, first_seed, *, epsf):
    """
    Print the scores of simulated fields.
    """
    print(f'{"field":24s} {"seed":>4s} {"L2":>7s} {"size":>7s} {"e":>7s} '
          f'{"energy":>7s} {"wrong":>5s} {"used":>4s} {"order":>6s} '
          f'{"CPU":>5s}')
    for name, recipe in FIELDS.items():
        for seed in range(first_seed, first_seed + n_seeds):
            field = make_star_field(
                (700, 700), neighbor_fraction=0.25, n_cosmic_rays=60,
                seed=seed, **recipe)
            start = time.process_time()
            stars = StarSelector(FWHM)(field.data, error=field.error)
            psf = EmpiricalPSFBuilder(SIZE)(field.data, stars,
                                            error=field.error)
            seconds = time.process_time() - start
            used = psf.stars[psf.stars['used']]

            def psf_at(x, y, psf=psf):
                return lambda dx, dy: psf(x, y, dx=dx, dy=dy)

            scores = ' '.join(f'{value:7.4f}'
                              for value in score(psf_at, field))
            print(f'{name:24s} {seed:4d} {scores} '
                  f'{count_wrong(used, field):5d} {len(used):4d} '
                  f'{psf.meta["order"]:6d} {seconds:5.2f}', flush=True)
            if epsf and 'variation' not in recipe:
                model = build_epsf(field.data, used, 1)
                scores = ' '.join(f'{value:7.4f}' for value in score(
                    lambda *_, model=model: evaluator(model), field))
                print(f'{"  EPSFBuilder":24s} {seed:4d} {scores}')


def build_epsf(data, stars, oversampling):
    """
    Make a PSF by photutils' EPSFBuilder, each star without its sky.
    """
    half = SIZE // 2
    ny, nx = data.shape
    x, y = stars['x_fit'], stars['y_fit']
    inside = ((x > half + 1) & (x < nx - half - 2)
              & (y > half + 1) & (y < ny - half - 2))
    cutouts = []
    for star in stars[inside]:
        image = np.nan_to_num(data) - star['sky_fit']
        place = Table({'x': [star['x_fit']], 'y': [star['y_fit']]})
        cutouts += extract_stars(NDData(image), place, size=SIZE).all_stars
    builder = EPSFBuilder(oversampling=oversampling, maxiters=10,
                          progress_bar=False)
    return builder(EPSFStars(cutouts))[0]


def evaluator(model):
    """
    Return a function of the offset of a photutils model.
    """
    half = SIZE // 2
    y, x = np.mgrid[-half:half + 1, -half:half + 1]
    return lambda dx, dy: model.evaluate(x, y, 1.0, dx, dy)


def run_image(path, error_path, min_snr, n_stars=20):
    """
    Print what PSFs leave of the brightest stars of an image.
    """
    data = fits.getdata(path).astype(float)
    error = (None if error_path is None
             else fits.getdata(error_path).astype(float))
    start = time.process_time()
    stars = StarSelector(min_snr=min_snr)(data, error=error)
    psf = EmpiricalPSFBuilder(SIZE)(data, stars, error=error)
    print(f'{psf!r}, order {psf.meta["order"]}, CPU '
          f'{time.process_time() - start:.1f} s')
    used = psf.stars[psf.stars['used']]
    used.sort('flux_fit', reverse=True)
    brightest = used[:n_stars]
    model = (psf.to_gridded(data.shape) if psf.order
             else psf.to_image_psf())
    rows = [('EmpiricalPSF', model)]
    for oversampling in (1, 2):
        name = f'EPSFBuilder, oversampling {oversampling}'
        try:
            rows.append((name, build_epsf(data, used, oversampling)))
        except ValueError as exc:
            print(f'{name} failed: {exc}')
    print(f'{"residual within 2 FWHM, % of the flux":40s} brightest  '
          'brightest 5  all (median)')
    for name, model in rows:
        left, noise = left_over(data, error, brightest, model,
                                2.0 * psf.fwhm())
        excess = np.sqrt(np.maximum(left**2 - noise**2, 0.0))
        print(f'{name:40s} {excess[0]:9.2f} {np.median(excess[:5]):12.2f} '
              f'{np.median(left):8.2f} (noise {np.median(noise):.2f})')


def left_over(data, error, stars, model, radius):
    """
    Return the sum of the absolute residuals in % of the flux, and what
    noise alone makes of it.
    """
    ny, nx = data.shape
    left, noise = [], []
    half = int(radius) + 1
    mask = ~np.isfinite(data)
    for star in stars:
        x, y = star['x_fit'], star['y_fit']
        photometry = PSFPhotometry(model, (9, 9), aperture_radius=4)
        row = photometry(np.nan_to_num(data) - star['sky_fit'], error=error,
                         mask=mask, init_params=QTable({'x': [x],
                                                        'y': [y]}))[0]
        part = (slice(max(round(y) - half, 0), min(round(y) + half + 1, ny)),
                slice(max(round(x) - half, 0), min(round(x) + half + 1, nx)))
        yy, xx = np.mgrid[part]
        image = model.evaluate(xx, yy, row['flux_fit'], row['x_fit'],
                               row['y_fit'])
        inside = (np.hypot(xx - x, yy - y) <= radius) & ~mask[part]
        residual = data[part] - star['sky_fit'] - image
        percent = 100.0 / star['flux_fit']
        left.append(np.abs(residual[inside]).sum() * percent)
        noise.append(np.sqrt(2.0 / np.pi) * error[part][inside].sum()
                     * percent)
    return np.array(left), np.array(noise)


def run_sky(n_seeds, first_seed):
    """
    Print the errors of skies under sources.
    """
    from hyperphotutils.stamps import subtract_sky

    print('seed     rms  bias under sources  rms under sources  (noise 1)')
    for seed in range(first_seed, first_seed + n_seeds):
        field = make_star_field((800, 800), 100, n_galaxies=100, gain=1e9,
                                seed=seed)
        rng = np.random.default_rng(seed + 10_000)
        y, x = np.mgrid[-1:1:800j, -1:1:800j]
        sky = sum(rng.normal(0, 5.0) * x**i * y**j
                  for i in range(4) for j in range(4 - i))
        result = subtract_sky(field.data + sky, fwhm=FWHM)
        difference = result.background - sky
        under = field.error > np.sqrt(1.0 + 0.25 / 1e9)
        print(f'{seed:4d} {difference.std():7.4f} '
              f'{difference[under].mean():+12.4f} '
              f'{difference[under].std():18.4f}', flush=True)


def main():
    """
    Run from the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('image', nargs='?', type=Path, help='FITS image')
    parser.add_argument('--error', type=Path, help='FITS image of errors')
    parser.add_argument('--min-snr', type=float, default=15.0)
    parser.add_argument('--simulated', type=int, metavar='N_SEEDS')
    parser.add_argument('--sky', type=int, metavar='N_SEEDS')
    parser.add_argument('--first-seed', type=int, default=0)
    parser.add_argument('--epsf', action='store_true',
                        help="score photutils' EPSFBuilder, too")
    args = parser.parse_args()
    # of photutils, on bad pixels and centers
    warnings.simplefilter('ignore')
    if args.image is not None:
        run_image(args.image, args.error, args.min_snr)
    if args.simulated is not None:
        run_simulated(args.simulated, args.first_seed, epsf=args.epsf)
    if args.sky is not None:
        run_sky(args.sky, args.first_seed)


if __name__ == '__main__':
    main()
