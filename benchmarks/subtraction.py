# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Measure the accuracy of image subtraction on simulated pairs.

The fluxes, PSFs, and variances of the pairs are known exactly. ::

    python benchmarks/subtraction.py --seeds 500 501 502 503
    python benchmarks/subtraction.py --seeds 500 --size 2048
    python benchmarks/subtraction.py --recipe reverse

The rows are:

x2
    The mean of (difference / error)^2 over 11 x 11 pixels of bright
    stars that do not vary: mean and median of the stars.

sky pull, sky level
    The robust standard deviation of difference / error in the sky, and
    the median; ``w`` is that of the decorrelated difference.

correlation
    That of neighboring pixels of the decorrelated difference.

flux scatter
    The robust scatter of the PSF fluxes of transients on the
    decorrelated difference, in units of the smallest possible error.
    A single pair has few transients: average at least eight.

flux pull
    The median and the robust scatter of (flux - true) / error.

flux scale %
    The sum of the kernel over the true one, minus one.

found %
    Transients with a true signal-to-noise ratio above 8 that stand out
    by 5 sigma.

false
    Peaks of 5 sigma that are none, for each 512 x 512 pixels, on light
    of other sources and on empty sky.

lost %
    Good pixels that are masked.

CPU s, MiB
    The CPU time of the whole call, and the growth of the peak memory.
    ``unit`` is the CPU time of the product of two 2000 x 2000 matrices
    on this machine.

All numbers are the means over the seeds.
"""

import os

# one thread for all: set before numpy is imported
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')

import argparse
import resource
import time

import numpy as np
from astropy.stats import mad_std
from scipy.ndimage import maximum_filter
from scipy.signal import fftconvolve
from scipy.spatial import cKDTree

from hyperphotutils.datasets import make_image_pair
from hyperphotutils.subtraction import ImageSubtractor

RECIPES = {
    'standard': {},
    'reverse': {'fwhm': (3.2, 4.4), 'fwhm_variation': (0.3, 0.2)},
    'similar': {'fwhm': (3.5, 3.5), 'fwhm_variation': (0.3, 0.1)},
    'deep': {'gain': (2.0, 24.0), 'read_noise': (8.0, 2.0)},
    'crowded': {'stars': 6.0},
    'sparse': {'stars': 1.0 / 12.0},
}
RADIUS = 8


def make_pair(seed, size, recipe):
    """
    Make a pair of a recipe.
    """
    options = dict(RECIPES[recipe])
    richness = options.pop('stars', 1.0)
    n_stars = round(500 * (size / 512)**1.3 * richness)
    return make_image_pair((size, size), n_stars, seed=seed, **options)


def psf_fluxes(image, psf, x, y):
    """
    Fit PSFs at given places, as photutils does with white noise.
    """
    fluxes, errors = np.full((2, len(x)), np.nan)
    values, variances = np.asarray(image.difference.value), np.square(
        image.error.value)
    for k, (xk, yk) in enumerate(zip(x, y, strict=True)):
        j, i = round(xk), round(yk)
        cut = np.s_[max(i - RADIUS, 0):i + RADIUS + 1,
                    max(j - RADIUS, 0):j + RADIUS + 1]
        good = ~image.mask[cut]
        if good.shape != (2 * RADIUS + 1,) * 2 or not good[
                RADIUS - 1:RADIUS + 2, RADIUS - 1:RADIUS + 2].all():
            continue
        model = psf(xk, yk, (xk - j, yk - i))[good]
        norm = np.sum(model**2)
        fluxes[k] = np.sum(model * values[cut][good]) / norm
        errors[k] = np.sqrt(np.sum(model**2 * variances[cut][good])) / norm
    return fluxes, errors


def find_peaks(image, psf):
    """
    Return the peaks of the matched filter above 5 sigma.
    """
    value = np.where(image.mask, 0.0, image.difference.value)
    variance = np.where(image.mask, 0.0, np.square(image.error.value))
    ny, nx = value.shape
    model = psf(nx / 2, ny / 2, (0.0, 0.0))[::-1, ::-1]
    noise = fftconvolve(variance, model**2, mode='same')
    floor = 1e-6 * np.median(noise)
    snr = (fftconvolve(value, model, mode='same')
           / np.sqrt(np.maximum(noise, floor)))
    snr[image.mask] = 0.0
    snr = np.abs(snr)
    y, x = np.nonzero((snr > 5.0) & (snr == maximum_filter(snr, 7)))
    return x, y


def measure(seed, size, recipe):
    """
    Subtract one pair and compare the result with the truth.
    """
    pair = make_pair(seed, size, recipe)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    result = ImageSubtractor()(pair.science, pair.template)
    cpu = time.process_time() - begin
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    white = result.decorrelated
    convolved = result.meta['convolve']
    target = (pair.science_psf if convolved == 'template'
              else pair.template_psf)

    def white_psf(x, y, offset):
        kernel = white.kernel(x, y)
        image = target.image(x, y, RADIUS + kernel.shape[0] // 2, offset)
        return fftconvolve(image, kernel, mode='valid')

    stars, new = pair.stars, pair.transients
    places = np.column_stack([stars['x'], stars['y']])
    varies = stars['change'].value != 0.0
    change = cKDTree(np.concatenate([
        places[varies], np.column_stack([new['x'], new['y']])]))
    x2 = []
    sky_error = np.sqrt(np.median(pair.science_variance))
    peak = stars['flux'].value * pair.science_psf(0, 0, size / 2, size / 2)
    for x, y in places[(peak > 25 * sky_error) & (peak < 4e4) & ~varies]:
        i, j = round(y), round(x)
        cut = np.s_[max(i - 5, 0):i + 6, max(j - 5, 0):j + 6]
        good = ~result.mask[cut]
        inside = 20 < x < size - 20 and 20 < y < size - 20
        if inside and good.mean() > 0.9 and change.query([x, y])[0] > 16:
            x2.append(np.mean(result.significance[cut][good]**2))
    sky = pair.light < 0.15 * sky_error
    yy, xx = np.nonzero(sky)
    sky[yy, xx] = change.query(np.column_stack([xx, yy]))[0] > 15
    pulls = [image.significance[sky & ~image.mask]
             for image in (result, white)]
    product = white.significance[:, 1:] * white.significance[:, :-1]
    calm = sky & ~white.mask
    correlation = np.mean(np.clip(
        product[calm[:, 1:] & calm[:, :-1]], -9.0, 9.0))
    flux, error = psf_fluxes(white, white_psf, new['x'], new['y'])
    measured = np.isfinite(flux)
    off = (flux - new['flux'].value)[measured]
    x, y = find_peaks(white, white_psf)
    found = cKDTree(np.column_stack([x, y]))
    bright = new['flux'] > 8.0 * new['flux_err']
    hit = found.query(np.column_stack([new['x'], new['y']])[bright])[0] < 2.5
    false = change.query(np.column_stack([x, y]))[0] > 6.0
    lit = pair.light[y, x] > sky_error
    area = (size / 512)**2
    good = ~(pair.science.mask | pair.template.mask)
    middle = 0.5 * (size - 1)
    scale = result.kernel_sum(middle, middle)[0]
    scale = scale if convolved == 'template' else 1.0 / scale
    return {
        'x2 mean': np.mean(x2), 'x2 median': np.median(x2),
        'sky pull': mad_std(pulls[0]), 'sky pull w': mad_std(pulls[1]),
        'sky level': np.median(pulls[0]), 'sky level w': np.median(pulls[1]),
        'correlation': correlation,
        'flux scatter': mad_std(off / new['flux_err'].value[measured]),
        'flux pull, median': np.median(off / error[measured]),
        'flux pull, scatter': mad_std(off / error[measured]),
        'flux scale %': 100.0 * abs(scale / pair.scale - 1.0),
        'found %': 100.0 * np.mean(hit),
        'false on light': np.count_nonzero(false & lit) / area,
        'false on sky': np.count_nonzero(false & ~lit) / area,
        'lost %': 100.0 * np.mean(result.mask[good]),
        'CPU s': cpu, 'MiB': memory / 1024,
    }


def cpu_unit():
    """
    Time the product of two large matrices.
    """
    matrix = np.random.default_rng(1).random((2000, 2000))
    begin = time.process_time()
    _ = matrix @ matrix
    return time.process_time() - begin


def main():
    """
    Print the means over the seeds.
    """
    parser = argparse.ArgumentParser(
        description='Measure the accuracy of image subtraction.')
    parser.add_argument('--size', type=int, default=512)
    parser.add_argument('--seeds', type=int, nargs='+',
                        default=list(range(1, 9)))
    parser.add_argument('--recipe', choices=RECIPES, default='standard')
    args = parser.parse_args()
    rows = [measure(seed, args.size, args.recipe) for seed in args.seeds]
    print(f'{args.recipe}, {args.size} x {args.size}, seeds '
          f'{" ".join(map(str, args.seeds))}')
    for name in rows[0]:
        values = [row[name] for row in rows]
        print(f'{name:20s} {np.mean(values):9.3f}')
    print(f'{"unit":20s} {cpu_unit():9.3f}')


if __name__ == '__main__':
    main()
