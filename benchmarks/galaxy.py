# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Measure how accurate and how fast fits of galaxies are.

The image of a profile against an exact one (its derivatives are tested in
``tests/galaxy/test_render.py``)::

    python benchmarks/galaxy.py --renderer

Fits of simulated stamps, one galaxy on each or with 0 to 3 neighbors::

    python benchmarks/galaxy.py --stamps 100 --seeds 4 [--neighbors 3]

Chi-squared for all models of a grid, and memory::

    python benchmarks/galaxy.py --cube
    python benchmarks/galaxy.py --memory 10000

Simulated stamps are made in Fourier space, from the transform of the profile
by FFTLog and the analytic transforms of PSF and pixel; n from 0.5 to 8, r_eff
from 0.5 to 8 pixels, q from 0.1 to 1, signal-to-noise ratios from 10 to 300, a
Moffat PSF with a FWHM of 3 pixels. The columns are:

scatter, bias
    Robust scatter and median of the fitted minus the true value in units of
    the Cramer-Rao bound, of the galaxies whose radius is known to 20 %.

pull
    Robust scatter in units of the errors of the fit.

converged
    The part of the fits whose chi2 is at most that of the truth plus 1.

CPU
    Processor time of one thread for start, fit, and errors.
"""

import argparse
import resource
import time
from functools import lru_cache

import numpy as np
from astropy.convolution import convolve_fft
from photutils.psf import ImagePSF
from photutils.segmentation import (
    deblend_sources,
    detect_sources,
    make_2dgaussian_kernel,
)
from scipy.special import kv

from hyperphotutils.galaxy import SersicCube, SersicFitter, sersic_transform
from hyperphotutils.galaxy.render import coordinates_of, make_kernel, render

NAMES = ('flux', 'x', 'y', 'r_eff', 'n', 'q', 'theta')
FWHM, BETA = 3.0, 3.0
GAIN = 5.0


def psf_transform(kx, ky):
    """
    Transform of a Moffat PSF and the pixel.
    """
    alpha = 0.5 * FWHM / np.sqrt(2.0**(1.0 / BETA) - 1.0)
    z = np.maximum(2.0 * np.pi * alpha * np.hypot(kx, ky), 1e-8)
    return (2.0 * (0.5 * z)**(BETA - 1.0) * kv(BETA - 1.0, z)
            * np.sinc(kx) * np.sinc(ky))


@lru_cache(maxsize=4)
def frequencies(side):
    """
    Frequencies and transform of the PSF, with aliases.
    """
    kx, ky = np.arange(side // 2 + 1) / side, np.fft.fftfreq(side)
    grids = [np.meshgrid(kx + i, ky + j) for j in (-1, 0, 1)
             for i in (-1, 0, 1)]
    return [(x, y, psf_transform(x, y)) for x, y in grids]


@lru_cache(maxsize=20000)
def transform(n):
    """
    Transform of a profile.
    """
    return sersic_transform(n)


def exact(size, x, y, r_eff, n, q, theta, side=None, *, aliases=True):
    """
    Image of a source of unit flux; a star if r_eff is 0.

    Without aliases, it is exact to 0.2 % of the peak, in a ninth of the time.
    """
    if side is None:
        side = 256 if size <= 64 and r_eff * n < 8 else 512
    offset = (side - size) // 2
    total = 0.0
    grids = frequencies(side)
    for kx, ky, psf in grids if aliases else grids[4:5]:
        value = psf * np.exp(-2j * np.pi * (kx * (x + offset)
                                            + ky * (y + offset)))
        if r_eff > 0:
            along = kx * np.cos(theta) + ky * np.sin(theta)
            across = ky * np.cos(theta) - kx * np.sin(theta)
            value = value * transform(n)(
                2.0 * np.pi * r_eff * np.hypot(along, q * across))
        total = total + value
    part = slice(offset, offset + size)
    return np.fft.irfft2(total, s=(side, side))[part, part]


def psf_image(oversampling, half=25):
    """
    The effective PSF.
    """
    side = 243 * oversampling
    k = np.fft.fftfreq(side) * oversampling
    image = np.fft.fftshift(np.fft.ifft2(
        psf_transform(*np.meshgrid(k, k))).real)
    middle, reach = side // 2, half * oversampling
    part = slice(middle - reach, middle + reach + 1)
    return image[part, part]


def run_renderer():
    """
    Print the errors of images.
    """
    image = psf_image(2, half=30)
    share = image.sum() / 4 * 4
    psf = ImagePSF(4.0 * image / image.sum(), oversampling=2)
    kernel = make_kernel(psf, 64)
    print(f'largest error / peak (PSF holds {share:.5f} of the flux)')
    radii = (0.5, 1, 3, 8, 15)
    print('   q    n ' + ''.join(f'{r:>9g} px' for r in radii))
    rng = np.random.default_rng(1)
    for q in (1.0, 0.3, 0.1):
        for n in (0.5, 0.6, 1.0, 2.0, 4.0, 8.0):
            errors = []
            for radius in radii:
                worst = 0.0
                for theta in (0.0, rng.uniform(0, np.pi)):
                    x, y = 31.5 + rng.uniform(-0.5, 0.5, 2)
                    truth = exact(64, x, y, radius, n, q, theta, side=768)
                    found = share * render(kernel, coordinates_of(
                        x, y, radius, n, q, theta))[0]
                    worst = max(worst, np.abs(found - truth).max()
                                / truth.max())
                errors.append(worst)
            print(f'{q:4g} {n:4g} ' + ''.join(f'{e:12.1e}' for e in errors))


def make_stamps(seed, number, size, neighbors):
    """
    Make stamps with a galaxy in the middle of each.
    """
    rng = np.random.default_rng(seed)
    center = 0.5 * (size - 1)
    stamps = []
    for _ in range(number):
        radius, n = np.exp(rng.uniform(*np.log([[0.5, 0.5], [
            8.0 * size / 64, 8.0]])))
        target = (*(center + rng.uniform(-0.5, 0.5, 2)), radius, n,
                  rng.uniform(0.1, 1.0), rng.uniform(0.0, np.pi))
        unit = exact(size, *target)
        wanted = np.exp(rng.uniform(*np.log([10.0, 300.0])))
        flux = wanted
        for _ in range(40):
            variance = 1.0 + flux * np.maximum(unit, 0.0) / GAIN
            flux *= wanted / (flux * np.sqrt(np.sum(unit**2 / variance)))
        sources, image = [(flux, *target)], flux * unit
        for _ in range(rng.integers(0, neighbors + 1)):
            distance = rng.uniform(8.0 + radius, 0.45 * size)
            angle = rng.uniform(0.0, 2.0 * np.pi)
            place = (center + distance * np.cos(angle),
                     center + distance * np.sin(angle))
            shape = ((0.0, 1.0, 1.0, 0.0) if rng.random() < 0.5 else
                     (rng.uniform(0.8, 2.5), rng.uniform(0.7, 2.0),
                      rng.uniform(0.4, 1.0), rng.uniform(0.0, np.pi)))
            sources.append((flux * np.exp(rng.uniform(*np.log([0.05, 0.7]))),
                            *place, *shape))
            image = image + sources[-1][0] * exact(size, *sources[-1][1:])
        error = np.sqrt(1.0 + np.maximum(image, 0.0) / GAIN)
        data = image + error * rng.standard_normal(image.shape)
        mask = np.zeros(data.shape, dtype=bool)
        if rng.random() < 0.3:
            mask[:, rng.integers(4, size - 4)] = True
        stamps.append((data, error, mask, image, sources))
    return stamps


def bounds(stamp):
    """
    Return the Cramer-Rao bounds of the target, with neighbors and sky free.
    """
    _, error, mask, _, sources = stamp
    size = error.shape[0]
    columns = [np.ones((size, size))]
    for flux, *shape in sources:
        columns.append(exact(size, *shape, aliases=False))
        steps = [1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3]
        for i, step in enumerate(steps):
            if i >= 2 and shape[2] == 0.0:
                break
            low, high = list(shape), list(shape)
            low[i] -= step
            high[i] += step
            if i == 3:
                low[i] = max(low[i], 0.5)
            if i == 4:
                high[i] = min(high[i], 1.0)
            difference = (exact(size, *high, aliases=False)
                          - exact(size, *low, aliases=False))
            columns.append(flux * difference / (high[i] - low[i]))
    design = np.array([(c / error)[~mask] for c in columns])
    scale = np.linalg.norm(design, axis=1)
    design /= scale[:, None]
    values, vectors = np.linalg.eigh(design @ design.T)
    covariance = (vectors / np.maximum(values, 1e-14)) @ vectors.T
    return (np.sqrt(np.diag(covariance)) / scale)[1:8]


def detect(stamps):
    """
    Detect sources on stamps, by photutils.
    """
    kernel = make_2dgaussian_kernel(FWHM, size=9)
    labels = np.zeros((len(stamps), *stamps[0][0].shape), dtype=int)
    for i, (data, _, mask, *_) in enumerate(stamps):
        smooth = convolve_fft(np.where(mask, np.nan, data), kernel)
        segments = detect_sources(smooth, 0.5, 8)
        if segments is not None:
            labels[i] = deblend_sources(smooth, segments, 8, n_levels=32,
                                        contrast=0.003,
                                        progress_bar=False).data
    return labels


def robust(values):
    """
    Return median and robust scatter.
    """
    median = np.median(values)
    return median, 1.4826 * np.median(np.abs(values - median))


def run_stamps(number, seeds, first_seed, neighbors, size, kind):
    """
    Print accuracy and speed.
    """
    psf = psf_image(1)
    psf /= psf.sum()
    fitter = SersicFitter(psf, size=size, neighbors=kind)
    fitter(np.zeros((1, size, size)), error=1.0)  # makes the start grid
    found, errors, truth, limits, excess, flags = [], [], [], [], [], []
    cpu = 0.0
    for seed in range(first_seed, first_seed + seeds):
        stamps = make_stamps(seed, number, size, neighbors)
        labels = detect(stamps) if neighbors else None
        data, error, mask, image = (np.array([stamp[i] for stamp in stamps])
                                    for i in range(4))
        start = time.process_time()
        table = fitter(data, error=error, mask=mask, segmentation=labels)
        cpu += time.process_time() - start
        found.append(np.column_stack([
            np.deg2rad(table[f'{name}_fit'].value) if name == 'theta'
            else table[f'{name}_fit'] for name in NAMES]))
        errors.append(np.column_stack([
            np.deg2rad(table[f'{name}_err'].value) if name == 'theta'
            else table[f'{name}_err'] for name in NAMES]))
        truth.append(np.array([stamp[4][0] for stamp in stamps]))
        limits.append(np.array([bounds(stamp) for stamp in stamps]))
        residual = np.where(mask, 0.0, (data - image) / error)
        excess.append(np.asarray(table['chi2'])
                      - np.sum(residual**2, axis=(1, 2)))
        flags.append(np.asarray(table['flags']))
    found, errors, truth, limits, excess, flags = (
        np.concatenate(part) for part in (found, errors, truth, limits,
                                          excess, flags))
    off = found - truth
    off[:, 6] = (off[:, 6] + 0.5 * np.pi) % np.pi - 0.5 * np.pi
    well = ((limits[:, 3] < 0.2 * truth[:, 3])
            & (limits[:, 4] < 0.3 * truth[:, 4])
            & np.isfinite(off).all(axis=1))
    allowed = 8.0 * limits + 0.1 * np.abs(truth)
    far = (np.abs(off) > allowed)[:, [0, 3, 4]].any(axis=1) & well
    print(f'{len(truth)} stamps of {size} px, seeds {first_seed}-'
          f'{first_seed + seeds - 1}, 0-{neighbors} neighbors ({kind}): '
          f'CPU {1e3 * cpu / len(truth):.1f} ms each, '
          f'iterations {np.mean(table["n_iterations"]):.1f}')
    print(f'without value {np.sum(~np.isfinite(off).all(axis=1))}, '
          f'far off {far.sum()} of {well.sum()} well constrained, '
          f'of these without a flag {np.sum(far & (flags == 0))}; '
          f'converged {np.mean(excess <= 1.0):.3f} '
          f'(median chi2 - chi2 of the truth {np.median(excess):.1f})')
    for i, name in enumerate(NAMES):
        use = well & ((truth[:, 5] < 0.8) | (name != 'theta'))
        bias, scatter = robust(off[use, i] / limits[use, i])
        _, pull = robust(off[use, i] / errors[use, i])
        print(f'  {name:6s} bias {bias:+5.2f}  scatter {scatter:5.2f}  '
              f'pull {pull:5.2f}')


def run_cube():
    """
    Print the time for the models of a grid.
    """
    size = 128
    psf = psf_image(1)
    cube = SersicCube(psf / psf.sum(), n=[1.0, 4.0],
                      r_eff=np.geomspace(0.8, 16.0, 20),
                      q=np.linspace(0.2, 1.0, 5),
                      theta=np.arange(0.0, 180.0, 18.0), size=size)
    rng = np.random.default_rng(1)
    start = time.process_time()
    cube.fit(rng.normal(size=(size, size)))
    print(f'{np.prod(cube.shape)} models of {size} px: made in '
          f'{time.process_time() - start:.2f} s (CPU)')
    data = rng.normal(size=(64, size, size))
    mask = rng.random(data.shape) < 0.02
    for number in (1, 16, 64):
        for text, part in (('no masks', None), ('masks', mask[:number])):
            start = time.process_time()
            cube.fit(data[:number], error=1.0, mask=part)
            cpu = time.process_time() - start
            print(f'{number:3d} galaxies at once, {text:8s}: '
                  f'{1e3 * cpu / number:.1f} ms each')


def run_memory(number):
    """
    Print the memory that many stamps take.
    """
    rng = np.random.default_rng(1)
    psf = psf_image(1)
    psf /= psf.sum()
    stamp = 500.0 * exact(64, 31.5, 31.5, 2.0, 1.5, 0.6, 0.5)
    data = rng.standard_normal((number, 64, 64), dtype='f4')
    data += stamp.astype('f4')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.process_time()
    SersicFitter(psf)(data, error=1.0)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f'{number} stamps of 64 px ({data.nbytes / 2**20:.0f} MiB): '
          f'{before:.0f} MiB before, {after:.0f} MiB at most, CPU '
          f'{1e3 * (time.process_time() - start) / number:.2f} ms each')


def main():
    """
    Run from the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--renderer', action='store_true')
    parser.add_argument('--stamps', type=int, metavar='N')
    parser.add_argument('--seeds', type=int, default=1)
    parser.add_argument('--first-seed', type=int, default=1)
    parser.add_argument('--neighbors', type=int, default=0)
    parser.add_argument('--kind', default='fit', choices=('fit', 'mask'))
    parser.add_argument('--size', type=int, default=64)
    parser.add_argument('--cube', action='store_true')
    parser.add_argument('--memory', type=int, metavar='N')
    args = parser.parse_args()
    if args.renderer:
        run_renderer()
    if args.stamps:
        run_stamps(args.stamps, args.seeds, args.first_seed, args.neighbors,
                   args.size, args.kind)
    if args.cube:
        run_cube()
    if args.memory:
        run_memory(args.memory)


if __name__ == '__main__':
    main()
