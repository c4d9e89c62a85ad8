# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Measure the accuracy of image subtraction on simulated pairs.

The fluxes, PSFs, and variances of the pairs are known exactly. ::

    python benchmarks/subtraction.py --seeds 500 501 502 503
    python benchmarks/subtraction.py --seeds 500 --size 2048
    python benchmarks/subtraction.py --recipe reverse
    python benchmarks/subtraction.py --recipe all --size 256

Other programs subtract the same pairs, and are measured in the same way, if
a Python that has them is given::

    python -m venv peers
    peers/bin/pip install sfft 'setuptools<81' numpy cython
    peers/bin/pip install --no-build-isolation ois
    python benchmarks/subtraction.py --peers sfft ois --python peers/bin/python

What is left of the sources of two real images, in files named
``nircam_f200w_epoch1.fits``, ``nircam_f200w_epoch1_error.fits``, and the
same with 2::

    python benchmarks/subtraction.py --nircam FOLDER --peers sfft --python ...

The peak of the memory beyond that of the inputs, also of large images (whose
stars repeat from 2048 to 2048 pixels)::

    python benchmarks/subtraction.py --memory --size 8192 --tile-size 520

The rows are:

x2
    The mean of (difference / sigma)^2 over 11 x 11 pixels of bright
    stars that do not vary: mean and median of the stars. sigma is that of
    the true variances with the ideal kernel; if the science image is
    convolved, the stated error.

sky pull, sky level
    The robust standard deviation of difference / error in the sky, and
    the median; ``w`` is that of the decorrelated difference. Where a
    program states no error, the scatter of the sky is its error.

correlation
    That of neighboring pixels of the decorrelated difference.

flux scatter
    The robust scatter of the PSF fluxes of transients, with their true
    PSF, in units of the smallest possible error, on the decorrelated
    difference if there is one. Other transients and variable stars nearby
    are fitted together, as a source grouper of photutils makes it do. A
    single pair has few transients: average at least eight.

noise alone
    The same of the noise of the pair, which is known exactly: what chance
    makes of the scatter of these pairs.

flux pull
    The median and the robust scatter of (flux - true) / error, and the
    part within one error.

flux scale %
    The sum of the kernel over the true one, minus one.

found %
    Transients with a true signal-to-noise ratio above 8 that stand out
    by 5 sigma, of those with no other change within 10 pixels, whose peak
    could hide theirs.

false
    Peaks of 5 sigma that are none, for each 512 x 512 pixels, on light
    of other sources and on empty sky.

measured PSF %
    The bias of fluxes with the PSF that is measured on the stars, and
    its scatter over the field.

lost %
    Good pixels that are masked.

CPU s
    The CPU time of the whole call, and without the decorrelated
    difference. ``unit`` is the CPU time of the product of two 2000 x
    2000 matrices on this machine.

All numbers are the means over the seeds.
"""

import os

# one thread for all: set before numpy is imported
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')

import argparse
import subprocess
import tempfile
import time
import tracemalloc
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.stats import mad_std
from scipy.ndimage import binary_dilation, maximum_filter
from scipy.signal import fftconvolve
from scipy.spatial import cKDTree

from hyperphotutils.datasets import make_image_pair
from hyperphotutils.subtraction import ImageSubtractor
from hyperphotutils.subtraction.stamps import gaussian_moments

RECIPES = {
    'standard': {},
    'reverse': {'fwhm': (3.2, 4.4), 'fwhm_variation': (0.3, 0.2)},
    'similar': {'fwhm': (3.5, 3.5), 'fwhm_variation': (0.3, 0.1)},
    'deep': {'gain': (2.0, 24.0), 'read_noise': (8.0, 2.0)},
    'crowded': {'stars': 6.0},
    'sparse': {'stars': 1.0 / 12.0},
}
CAMERAS = {'gain': (2.0, 4.0), 'read_noise': (8.0, 6.0)}
RADIUS = 8
# What is as close to a transient is fitted together with it
REACH = 16.0


def make_pair(seed, size, recipe):
    """
    Make a pair of a recipe.
    """
    options = CAMERAS | RECIPES[recipe]
    richness = options.pop('stars', 1.0)
    n_stars = round(500 * (size / 512)**1.3 * richness)
    return make_image_pair((size, size), n_stars, seed=seed, **options)


@dataclass
class Product:
    """
    A difference to be measured; plain arrays.

    ``psf(x, y, offset)`` is that of a transient, with its radius of
    ``RADIUS`` pixels.
    """

    difference: np.ndarray
    error: np.ndarray
    mask: np.ndarray
    psf: object

    @property
    def significance(self):
        """
        The difference in units of its error.
        """
        return self.difference / self.error


def psf_fluxes(image, x, y, others):
    """
    Fit PSFs at given places, as photutils does with white noise.

    ``others`` are the places of all that changes, which is fitted together
    with what is nearby.
    """
    fluxes, errors = np.full((2, len(x)), np.nan)
    for k, (xk, yk) in enumerate(zip(x, y, strict=True)):
        j, i = round(xk), round(yk)
        cut = np.s_[max(i - RADIUS, 0):i + RADIUS + 1,
                    max(j - RADIUS, 0):j + RADIUS + 1]
        good = ~image.mask[cut]
        if good.shape != (2 * RADIUS + 1,) * 2 or not good[
                RADIUS - 1:RADIUS + 2, RADIUS - 1:RADIUS + 2].all():
            continue
        # the closest one is the transient
        distance = np.hypot(*(others - [xk, yk]).T)
        near = others[np.argsort(distance)[:np.sum(distance < REACH)]]
        models = np.stack([image.psf(xn, yn, (xn - j, yn - i))[good]
                           for xn, yn in near])
        weights = np.linalg.pinv(models.T)[0]
        fluxes[k] = np.sum(weights * image.difference[cut][good])
        errors[k] = np.sqrt(np.sum((weights * image.error[cut][good])**2))
    return fluxes, errors


def find_peaks(image):
    """
    Return the peaks of the matched filter above 5 sigma.
    """
    value = np.where(image.mask, 0.0, image.difference)
    variance = np.where(image.mask, 0.0, np.square(image.error))
    ny, nx = value.shape
    model = image.psf(nx / 2, ny / 2, (0.0, 0.0))[::-1, ::-1]
    noise = fftconvolve(variance, model**2, mode='same')
    floor = 1e-6 * np.median(noise)
    snr = (fftconvolve(value, model, mode='same')
           / np.sqrt(np.maximum(noise, floor)))
    snr[image.mask] = 0.0
    snr = np.abs(snr)
    y, x = np.nonzero((snr > 5.0) & (snr == maximum_filter(snr, 7)))
    return x, y


def ideal_variance(pair, block=128, radius=15):
    """
    Return the variance of the difference with the kernel that the true
    PSFs have, in blocks.
    """
    ny, nx = pair.light.shape
    variance = pair.science_variance.astype(float)
    template = np.pad(pair.template_variance.astype(float), radius,
                      mode='edge')
    for y0 in range(0, ny, block):
        for x0 in range(0, nx, block):
            y1, x1 = min(y0 + block, ny), min(x0 + block, nx)
            middle = (x0 + x1) / 2, (y0 + y1) / 2
            ours, theirs = (np.fft.fft2(psf.image(*middle, 2 * radius))
                            for psf in (pair.science_psf,
                                        pair.template_psf))
            # what is deconvolved must not rise with the noise
            kernel = np.fft.fftshift(np.fft.ifft2(
                ours * theirs.conj() / (np.abs(theirs)**2 + 1e-4)).real)
            kernel = kernel[radius:-radius, radius:-radius]
            kernel *= pair.scale / kernel.sum()
            variance[y0:y1, x0:x1] += fftconvolve(
                template[y0:y1 + 2 * radius, x0:x1 + 2 * radius],
                kernel**2, mode='valid')
    return variance


def noise_alone(pair, recipe, result):
    """
    Return the noise of a pair as it is in the decorrelated difference.
    """
    cameras = CAMERAS | RECIPES[recipe]
    noise = []
    for image, variance, gain, read_noise in zip(
            (pair.science, pair.template),
            (pair.science_variance, pair.template_variance),
            cameras['gain'], cameras['read_noise'], strict=True):
        mean = (variance - (read_noise / gain)**2) * gain
        noise.append(np.where(image.mask, 0.0, image.data - mean))
    if result.meta['convolve'] == 'science':
        noise.reverse()
    return result.factor * result.decorrelated.kernel.convolve(
        noise[0] - result.kernel.convolve(noise[1]))


def subtract_with_ours(pair, recipe):
    """
    Subtract a pair with hyperphotutils.
    """
    subtract = ImageSubtractor()
    begin = time.process_time()
    result = subtract(pair.science, pair.template)
    cpu = time.process_time() - begin
    begin = time.process_time()
    subtract.subtract(result.fit)
    both = time.process_time() - begin
    begin = time.process_time()
    ImageSubtractor(decorrelate=False).subtract(result.fit)
    cpu_difference = cpu - both + time.process_time() - begin
    white = result.decorrelated
    ny, nx = result.mask.shape
    middle = 0.5 * (nx - 1), 0.5 * (ny - 1)
    scale = result.kernel_sum(*middle)[0]
    is_science = result.meta['convolve'] == 'science'

    def true_psf(x, y, offset, margin=0):
        if not is_science:
            return pair.science_psf.image(x, y, RADIUS + margin, offset)
        kernel = result.kernel(x, y) / scale
        radius = RADIUS + margin + kernel.shape[0] // 2
        return fftconvolve(pair.science_psf.image(x, y, radius, offset),
                           kernel, mode='valid')

    def white_psf(x, y, offset):
        kernel = white.kernel(x, y)
        return fftconvolve(true_psf(x, y, offset, kernel.shape[0] // 2),
                           kernel, mode='valid')

    products = [Product(image.difference.value, image.error.value,
                        image.mask, psf)
                for image, psf in ((result, true_psf), (white, white_psf))]
    noise = replace(products[1],
                    difference=noise_alone(pair, recipe, result))
    new = pair.transients
    flux, _ = psf_fluxes(noise, new['x'], new['y'],
                         np.column_stack([new['x'], new['y']]))
    biases = []
    for x in (0.15, 0.5, 0.85):
        for y in (0.15, 0.5, 0.85):
            place = x * nx, y * ny
            measured, true = result.psf(*place), true_psf(*place, (0.0, 0.0))
            cut = measured.shape[0] // 2 - RADIUS
            measured = measured[cut:-cut, cut:-cut]
            biases.append(np.sum(measured * true) / np.sum(measured**2) - 1)
    true = 1.0 / pair.scale if is_science else pair.scale
    further = {'noise alone': mad_std(flux / new['flux_err'].value,
                                      ignore_nan=True),
               'flux scale %': 100.0 * abs(scale / true - 1.0),
               'measured PSF, bias %': 100.0 * np.mean(biases),
               'measured PSF, scatter %': 100.0 * np.std(biases),
               'CPU s': cpu, 'CPU s, difference alone': cpu_difference}
    return (*products, is_science, further)


def run_peer(python, name, images, folder):
    """
    Run another program on a pair, in a process of its own.
    """
    np.savez(folder / 'pair.npz', **images)
    subprocess.run([python, Path(__file__).with_name(
        'subtraction_peers.py'), name, folder / 'pair.npz',
        folder / 'difference.npz'], check=True, stdout=subprocess.DEVNULL)
    with np.load(folder / 'difference.npz') as data:
        return data['difference'], float(data['cpu'])


def subtract_with_peer(pair, python, name):
    """
    Subtract a pair with another program.
    """
    bad = pair.science.mask | pair.template.mask
    full = [image.data >= image.data.max()
            for image in (pair.science, pair.template)]
    with tempfile.TemporaryDirectory() as folder:
        difference, cpu = run_peer(python, name, {
            'science': pair.science.data, 'template': pair.template.data,
            'bad': bad, 'saturated': full[0] | full[1],
            'convolve': 'template'}, Path(folder))
    mask = (binary_dilation(pair.template.mask, iterations=2)
            | pair.science.mask | ~np.isfinite(difference))
    error = np.full(difference.shape, mad_std(difference[~mask]))
    product = Product(np.where(mask, 0.0, difference), error, mask,
                      lambda x, y, offset: pair.science_psf.image(
                          x, y, RADIUS, offset))
    return product, None, False, {'CPU s': cpu}


def measure(pair, size, subtracted):
    """
    Compare a difference with the truth.
    """
    result, white, is_science, further = subtracted
    best = white or result
    stars, new = pair.stars, pair.transients
    places = np.column_stack([stars['x'], stars['y']])
    varies = stars['change'].value != 0.0
    change = cKDTree(np.concatenate([
        places[varies], np.column_stack([new['x'], new['y']])]))
    sigma = result.error if is_science else np.sqrt(ideal_variance(pair))
    x2 = []
    sky_error = np.sqrt(np.median(pair.science_variance))
    peak = stars['flux'].value * pair.science_psf(0, 0, size / 2, size / 2)
    for x, y in places[(peak > 25 * sky_error) & (peak < 4e4) & ~varies]:
        i, j = round(y), round(x)
        cut = np.s_[max(i - 5, 0):i + 6, max(j - 5, 0):j + 6]
        good = ~result.mask[cut]
        inside = 20 < x < size - 20 and 20 < y < size - 20
        if inside and good.mean() > 0.9 and change.query([x, y])[0] > 16:
            x2.append(np.mean((result.difference / sigma)[cut][good]**2))
    sky = pair.light < 0.15 * sky_error
    yy, xx = np.nonzero(sky)
    sky[yy, xx] = change.query(np.column_stack([xx, yy]))[0] > 15
    row = {'x2 mean': np.mean(x2), 'x2 median': np.median(x2)} if x2 else {
        'x2 mean': np.nan, 'x2 median': np.nan}
    for image, suffix in ((result, ''), (white, ' w')):
        if image is not None:
            pulls = image.significance[sky & ~image.mask]
            row |= {f'sky pull{suffix}': mad_std(pulls),
                    f'sky level{suffix}': np.median(pulls)}
    if white is not None:
        product = white.significance[:, 1:] * white.significance[:, :-1]
        calm = sky & ~white.mask
        row['correlation'] = np.mean(np.clip(
            product[calm[:, 1:] & calm[:, :-1]], -9.0, 9.0))
    flux, error = psf_fluxes(best, new['x'], new['y'], change.data)
    measured = np.isfinite(flux)
    off = (flux - new['flux'].value)[measured]
    x, y = find_peaks(best)
    found = cKDTree(np.column_stack([x, y]))
    places = np.column_stack([new['x'], new['y']])
    chosen = ((new['flux'] > 8.0 * new['flux_err'])
              & (change.query(places, k=2)[0][:, 1] > 10.0))
    hit = found.query(places[chosen])[0] < 2.5
    false = change.query(np.column_stack([x, y]))[0] > 6.0
    lit = pair.light[y, x] > sky_error
    area = (size / 512)**2
    good = ~(pair.science.mask | pair.template.mask)
    pull = off / error[measured]
    return row | {
        'flux scatter': mad_std(off / new['flux_err'].value[measured]),
        'flux pull, median': np.median(pull),
        'flux pull, scatter': mad_std(pull),
        'flux pull, within 1': np.mean(np.abs(pull) < 1.0),
        'found %': 100.0 * np.mean(hit),
        'false on light': np.count_nonzero(false & lit) / area,
        'false on sky': np.count_nonzero(false & ~lit) / area,
        'lost %': 100.0 * np.mean(result.mask[good]), **further}


def measure_nircam(folder, peers, python):
    """
    Print what is left of the sources of two real images.
    """
    folder = Path(folder)
    epochs = [folder / f'nircam_f200w_epoch{n}.fits' for n in (2, 1)]
    errors = [path.with_name(f'{path.stem}_error.fits') for path in epochs]
    begin = time.process_time()
    result = ImageSubtractor()(*epochs, error=errors[0],
                               template_error=errors[1])
    cpu = time.process_time() - begin
    frames = result.fit.stamps.science, result.fit.stamps.template
    images = [frame.data.astype(float) for frame in frames]
    bad = frames[0].bad | frames[1].bad
    differences = {'ours': (getattr(result.difference, 'value',
                                    result.difference), cpu)}
    with tempfile.TemporaryDirectory() as scratch:
        for name in peers:
            differences[name] = run_peer(python, name, {
                'science': images[0], 'template': images[1], 'bad': bad,
                'saturated': np.zeros(bad.shape, bool),
                'convolve': result.meta['convolve']}, Path(scratch))
    table = result.stamps
    x, y = np.asarray(table['x']), np.asarray(table['y'])
    flux = gaussian_moments(frames[0].stamps(x, y, 12)[0])[1]
    near = np.hypot(*np.mgrid[-5:6, -5:6]) <= 5.0
    ny, nx = bad.shape
    inside = ((np.minimum(x, nx - 1 - x) > 12)
              & (np.minimum(y, ny - 1 - y) > 12) & np.isfinite(flux))
    inside &= np.asarray(table['status']) != 'TOO_CLOSE'
    # the sum of the covariances of a pixel is the variance of sums
    middle = 0.5 * (nx - 1), 0.5 * (ny - 1)
    covariance = getattr(result.covariance(*middle), 'value',
                         result.covariance(*middle))
    noise = np.sqrt(covariance.sum() * near.sum())
    snr = np.asarray(table['snr'])
    print(result.summary())
    for low, high in ((50, 150), (150, 1000), (1000, np.inf)):
        chosen = np.flatnonzero(inside & (snr >= low) & (snr < high))
        places = {i: np.s_[y[i] - 5:y[i] + 6, x[i] - 5:x[i] + 6]
                  for i in chosen}
        chosen = [i for i, place in places.items()
                  if not (result.mask | bad)[place].any()]
        expected = 0.6745 * np.median(noise / flux[chosen])
        parts = [f'{len(chosen)} sources of S/N {low} to {high}: left in the '
                 'median (noise alone '
                 f'{100.0 * expected:.2f} %)']
        for name, (difference, _) in differences.items():
            left = [difference[places[i]][near].sum() for i in chosen]
            left = np.median(np.abs(left) / flux[chosen])
            parts.append(f'{name} {100.0 * left:.2f} %')
        print(', '.join(parts))
    print(', '.join(f'CPU of {name} {seconds:.1f} s' for name, (_, seconds)
                    in differences.items()))


def measure_memory(size, tile_size):
    """
    Print the peak of the memory that a subtraction takes.
    """
    side = min(size, 2048)
    pair = make_pair(1, side, 'standard')
    repeats = -(-size // side)
    images = [np.tile(array, (repeats, repeats))[:size, :size].copy()
              for image in (pair.science, pair.template)
              for array in (image.data, image.uncertainty.array, image.mask)]
    names = ('science', 'error', 'mask',
             'template', 'template_error', 'template_mask')
    del pair
    subtract = ImageSubtractor(tile_size=tile_size)
    tracemalloc.start()
    result = subtract(**dict(zip(names, images, strict=True)))
    kept, peak = np.array(tracemalloc.get_traced_memory()) / 2**20
    inputs = sum(image.nbytes for image in images) / 2**20
    print(f'{size} x {size}: inputs {inputs:.0f} MiB, results {kept:.0f} '
          f'MiB, peak beyond the inputs {peak:.0f} MiB, beyond inputs and '
          f'results {peak - kept:.0f} MiB')
    print(result.summary())


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
    Measure what the arguments ask for.
    """
    parser = argparse.ArgumentParser(
        description='Measure the accuracy of image subtraction.')
    parser.add_argument('--size', type=int, default=512)
    parser.add_argument('--seeds', type=int, nargs='+',
                        default=list(range(1, 9)))
    parser.add_argument('--recipe', choices=(*RECIPES, 'all'),
                        default='standard')
    parser.add_argument('--memory', action='store_true',
                        help='measure the peak of the memory instead')
    parser.add_argument('--tile-size', type=int,
                        help='the side of the tiles, for --memory')
    parser.add_argument('--peers', nargs='+', default=[],
                        help='other programs: sfft, ois')
    parser.add_argument('--python', help='the Python that has them')
    parser.add_argument('--nircam', metavar='FOLDER',
                        help='subtract two real images instead')
    args = parser.parse_args()
    if args.nircam:
        measure_nircam(args.nircam, args.peers, args.python)
        return
    if args.memory:
        measure_memory(args.size, args.tile_size)
        return
    for recipe in RECIPES if args.recipe == 'all' else [args.recipe]:
        print_means(recipe, args)
    print(f'{"unit":25s} {cpu_unit():9.3f}')


def print_means(recipe, args):
    """
    Print the means over the seeds for a recipe.
    """
    rows = {name: [] for name in ('ours', *args.peers)}
    for seed in args.seeds:
        pair = make_pair(seed, args.size, recipe)
        for name, measured in rows.items():
            subtracted = (subtract_with_ours(pair, recipe) if name == 'ours'
                          else subtract_with_peer(pair, args.python, name))
            measured.append(measure(pair, args.size, subtracted))
    print(f'{recipe}, {args.size} x {args.size}, seeds '
          f'{" ".join(map(str, args.seeds))}')
    print(' ' * 25, *(f'{name:>9s}' for name in rows))
    for key in rows['ours'][0]:
        # of small, sparse fields some have no bright star
        means = [np.nanmean([row.get(key, np.nan) for row in measured])
                 for measured in rows.values()]
        print(f'{key:25s}', *(f'{mean:9.3f}' for mean in means))


if __name__ == '__main__':
    main()
