# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Check the stated errors on a real map, by sources injected into it.

::

    python benchmarks/injected.py MAP

injects 300 sources with peaks of 5 to 50 times the noise, 60 at a time,
and prints how many are recovered, and the median and the scatter of
(measured - true) / stated error; again for each seed.
"""

import argparse

import numpy as np
from astropy.stats import mad_std

from hyperphotutils.maps import read_map
from hyperphotutils.photometry import HyperPhotometry, InjectionRecovery

PULLS = {'flux': ('flux_fit', 'flux_err', 'flux_true'),
         'aperture': ('aperture_flux', 'aperture_flux_err', 'flux_true'),
         'peak': ('amplitude_fit', 'amplitude_err', 'amplitude_true'),
         'x': ('x_fit', 'x_err', 'x_true'),
         'y': ('y_fit', 'y_err', 'y_true')}


def measure_pulls(image, args, seed):
    """
    Inject sources, recover them, and return the pulls by name.
    """
    phot = HyperPhotometry(image.meta['beam_fwhm_pix'], noise=args.noise)
    recovery = InjectionRecovery(
        phot, snr=np.geomspace(5.0, 50.0, 7), n_per_map=60, n_repeats=5,
        seed=seed, n_workers=args.jobs)
    injected = recovery(image).injected
    found = injected[np.asarray(injected['recovered'])]
    pulls = {}
    for name, columns in PULLS.items():
        value, error, true = (
            np.asarray(getattr(found[column], 'value', found[column]), float)
            for column in columns)
        pull = (value - true) / error
        pulls[name] = pull[np.isfinite(pull)]
    return len(injected), len(found), pulls


def main():
    """
    Run from the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('map', help='FITS map')
    parser.add_argument('--noise', choices=('correlated', 'white'),
                        default='correlated')
    parser.add_argument('--seeds', type=int, default=5,
                        help='number of seeds (default: 5)')
    parser.add_argument('--first-seed', type=int, default=21)
    parser.add_argument('--jobs', type=int, default=1,
                        help='number of processes')
    args = parser.parse_args()
    image = read_map(args.map)
    print(f'{"seed":>4}{"recovered":>12}'
          + ''.join(f'{name:>20}' for name in PULLS))
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        n_injected, n_found, pulls = measure_pulls(image, args, seed)
        print(f'{seed:>4}{n_found:>5} of {n_injected:<3}' + ''.join(
            f'{np.median(pull):>+8.2f} +- {mad_std(pull):.2f}'
            f'{100 * np.mean(np.abs(pull) < 3):>4.0f}'
            for pull in pulls.values()), flush=True)


if __name__ == '__main__':
    main()
