# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
One program on one map, for ``speed.py``.

::

    PYTHON benchmarks/speed_peers.py PROGRAM MAP CATALOG [--calls N]
        [--tile-size PIXELS]

``PYTHON`` is the interpreter of the environment of the program. The map
is read, measured ``--calls`` times, and the last catalog is written. The
last line of the output has the CPU seconds of each call and the number
of sources, as JSON. Every program detects the sources at five times the
noise, fits elliptical Gaussians (sep: moments and apertures), and uses
its own background and noise.
"""

import argparse
import json
import os
import resource
import tempfile
import time
import warnings
from pathlib import Path

N_SIGMA = 5.0


def hyperphotutils(mode):
    """
    Return a program that calls HyperPhotometry, in tiles if it is given
    their size.
    """
    def measure(path, tile_size=0):
        from hyperphotutils.maps import read_map
        from hyperphotutils.photometry import HyperPhotometry, TiledPhotometry

        image = read_map(path, dtype='f4' if tile_size else float)

        def call():
            phot = HyperPhotometry(image.meta['beam_fwhm_pix'], noise=mode)
            if tile_size:
                phot = TiledPhotometry(phot, tile_size)
            return phot(image)

        return call, lambda table, out: table.write(out, overwrite=True)

    return measure


def photutils(path):
    """
    Measure with photutils: PSFPhotometry with free elliptical Gaussians.
    """
    import numpy as np
    from astropy.io import fits
    from astropy.stats import mad_std
    from astropy.utils.exceptions import AstropyUserWarning
    from photutils.background import Background2D, LocalBackground
    from photutils.detection import DAOStarFinder
    from photutils.psf import GaussianPSF, PSFPhotometry, SourceGrouper

    with fits.open(path) as hdus:
        data = np.array(hdus[0].data, dtype=float)
        fwhm = hdus[0].header['FWHMPIX']

    def call():
        missing = ~np.isfinite(data)
        cleaned = data - Background2D(
            data, round(8 * fwhm), coverage_mask=missing,
            exclude_percentile=50).background
        finder = DAOStarFinder(
            N_SIGMA * mad_std(cleaned[~missing]), fwhm,
            sharpness_range=(-10, 10), roundness_range=(-10, 10),
            min_separation=0.6 * fwhm)
        model = GaussianPSF(x_fwhm=fwhm, y_fwhm=fwhm)
        for name in ('x_fwhm', 'y_fwhm', 'theta'):
            model.fixed[name] = False
        for name in ('x_fwhm', 'y_fwhm'):
            model.bounds[name] = (0.5 * fwhm, 3.0 * fwhm)
        phot = PSFPhotometry(
            model, 2 * round(1.5 * fwhm) + 1, finder=finder, xy_bounds=fwhm,
            aperture_radius=fwhm, grouper=SourceGrouper(2.0 * fwhm),
            local_bkg_estimator=LocalBackground(2.0 * fwhm, 4.0 * fwhm))
        with warnings.catch_warnings():
            # one for each of many fits that are not perfect
            warnings.simplefilter('ignore', AstropyUserWarning)
            return phot(cleaned, mask=missing)

    return call, lambda table, out: table.write(out, overwrite=True)


def sep(path):
    """
    Measure with sep: detection, moments, and elliptical apertures.
    """
    import numpy as np
    import sep
    from astropy.io import fits
    from astropy.table import Table

    data = np.array(fits.getdata(path), dtype=float)

    def call():
        missing = ~np.isfinite(data)
        background = sep.Background(data, mask=missing)
        cleaned = data - background.back()
        rms = background.globalrms
        found = sep.extract(cleaned, N_SIGMA, err=rms, mask=missing)
        table = Table(found)
        table['flux'], table['flux_err'], _ = sep.sum_ellipse(
            cleaned, found['x'], found['y'], found['a'], found['b'],
            found['theta'], 2.5, err=rms, mask=missing)
        return table

    return call, lambda table, out: table.write(out, overwrite=True)


def pybdsf(path):
    """
    Measure with PyBDSF's ``process_image`` and its defaults.
    """
    import bdsf

    folder = tempfile.mkdtemp()

    def call():
        return bdsf.process_image(
            path, frequency=2.3e11, thresh_pix=N_SIGMA, quiet=True, ncores=1,
            outdir=folder)

    def write(image, out):
        image.write_catalog(outfile=out, format='fits', clobber=True,
                            catalog_type='gaul')

    def count(image):
        return image.ngaus

    return call, write, count


def aegean(path):
    """
    Measure with BANE and Aegean in this process.
    """
    import logging

    from AegeanTools.BANE import filter_image
    from AegeanTools.catalogs import save_catalog
    from AegeanTools.source_finder import SourceFinder

    logging.disable(logging.WARNING)
    base = str(Path(tempfile.mkdtemp()) / 'map')

    def call():
        filter_image(path, base, cores=1)
        return SourceFinder().find_sources_in_image(
            path, bkgin=f'{base}_bkg.fits', rmsin=f'{base}_rms.fits',
            innerclip=N_SIGMA, outerclip=4.0, cores=1)

    return call, lambda sources, out: save_catalog(out, sources)


PROGRAMS = {function.__name__: function for function in (
    photutils, sep, pybdsf, aegean)}
# weights for independent pixels, and the default
PROGRAMS |= {mode: hyperphotutils(mode) for mode in ('white', 'correlated')}


def main():
    """
    Run from the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('program', choices=PROGRAMS)
    parser.add_argument('map')
    parser.add_argument('catalog')
    parser.add_argument('--calls', type=int, default=1)
    parser.add_argument('--tile-size', type=int, default=0,
                        help='of this package only; 0 for none')
    args = parser.parse_args()
    options = ({'tile_size': args.tile_size} if args.tile_size else {})
    call, write, *count = PROGRAMS[args.program](args.map, **options)
    seconds = []
    for _ in range(args.calls):
        before = cpu_seconds()
        result = call()
        seconds.append(cpu_seconds() - before)
    write(result, args.catalog)
    n_sources = count[0](result) if count else len(result)
    print(json.dumps({'calls': seconds, 'n_sources': int(n_sources)}))


def cpu_seconds():
    """
    Return the CPU seconds of this process and its ended children.
    """
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


if __name__ == '__main__':
    os.environ.setdefault('MPLBACKEND', 'agg')
    main()
