# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Compare with Hyper-py on the same pixels, and with the truth.

::

    python benchmarks/same_pixels.py MAP [MAP ...] \\
        [--hyper-py-python PYTHON]
    python benchmarks/same_pixels.py --simulated 11 \\
        [--hyper-py-python PYTHON]

Hyper-py runs as `peers` says, with its own default configuration, and
writes the FITS files of its groups. What it did is done again by the
classes of this package on the pixels in those files:

apertures
    Its ellipses (position, FWHMs, angle, half a FWHM as radius) summed
    on its cut-outs without background and companions, against its
    fluxes.

backgrounds
    Polynomials of its order on its cut-outs, against its polynomials:
    the mean deviation over the pixels of the source, in units of the
    rms of the map that it states. First on exactly its pixels
    (neighbors replaced by its interpolation, outliers of 3 sigma
    clipped), then with the neighbors masked as here, then the
    backgrounds of the whole converted run.

Of simulated maps, everything is known: the last tables say how far each
of both is from the truth.
"""

import argparse
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import astropy.units as u
import numpy as np
from accuracy import Score, match, plain, score
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.stats import sigma_clip
from astropy.table import Table
from peers import (
    call_hyper_py,
    hyper_catalog_file,
    hyper_py_python,
    hyper_py_versions,
    read_hyper_catalog,
    write_hyper_config,
)

from hyperphotutils.aperture import measure_apertures
from hyperphotutils.background import LocalPolynomialBackground
from hyperphotutils.compat.hyper_py import read_hyper_py
from hyperphotutils.datasets import make_blended_map
from hyperphotutils.maps import read_map
from hyperphotutils.pipeline import (
    PipelineConfig,
    override_config,
)
from hyperphotutils.pipeline.extraction import extract_map
from hyperphotutils.utils.gaussians import add_gaussians
from hyperphotutils.utils.wcs import sky_to_pixel_ellipse

# the map of the docs: shape and number of sources
_SIMULATED = ((400, 400), 150)


@dataclass(frozen=True, eq=False)
class Group:
    """
    What Hyper-py wrote about a group, in Jy/pixel.

    Parameters
    ----------
    ids : tuple of int
        Its sources.

    y, x : int
        Where the cut-out begins in the map.

    data : 2D `~numpy.ndarray`
        The cut-out of the map without background.

    background : 2D `~numpy.ndarray`
        The background.

    companions : dict
        The Gaussians that are subtracted for each source, from the file
        that has the name of the source; empty for isolated ones.

    own : 2D `~numpy.ndarray` of bool
        The pixels of the sources, which are masked for the background.

    filled : 2D `~numpy.ndarray`
        The map with neighbors outside the group interpolated over.
    """

    ids: tuple
    y: int
    x: int
    data: np.ndarray
    background: np.ndarray
    companions: dict
    own: np.ndarray
    filled: np.ndarray

    @property
    def slices(self):
        """
        Where the cut-out lies in the map.
        """
        ny, nx = self.data.shape
        return slice(self.y, self.y + ny), slice(self.x, self.x + nx)

    @property
    def map_data(self):
        """
        The cut-out of the map itself.
        """
        return self.data + self.background

    @property
    def order(self):
        """
        The order of the background polynomial.
        """
        scale = 1e-8 * np.abs(self.background).max()
        for order in range(10):
            again = fit_background(self.background, order)
            if np.abs(again - self.background).max() <= scale:
                return order
        msg = f'the background of {self.ids} is no polynomial'
        raise ValueError(msg)


def read_groups(folder, path, image):
    """
    Read the FITS files of all groups.
    """
    root = Path(folder, 'output', 'fits')
    groups = []
    for file in sorted((root / 'bg_separate').glob('*_bg_masked3D.fits')):
        name = file.name.removesuffix('_bg_masked3D.fits')
        stem = f'HYPER_MAP_{Path(path).stem}_ID_'
        # the first and the last of a group
        ids = [int(part) for part in name.removeprefix(stem).split('_')]
        ids = tuple(range(ids[0], ids[-1] + 1))
        background = read_pixels(file)
        data, masked = (
            read_pixels(find(root / 'fitting', f'{name}_{kind}'))
            for kind in ('cutout', 'cutout_masked_full'))
        companions = {} if len(ids) == 1 else {
            number: read_pixels(root / 'deblended' / (
                f'{stem}{number}_single_source_model.fits'))
            for number in ids}
        # that file has lost a constant
        whole = data + background
        masked -= np.nanmedian(masked - whole)
        y, x = locate(whole, image.data)
        groups.append(Group(ids, y, x, data, background, companions,
                            np.isnan(masked), masked))
    return groups


def find(folder, name):
    """
    Find a file; those of isolated sources have spaces in their names.
    """
    pattern = re.compile(re.sub('[_ ]', '[_ ]', re.escape(name)
                                .replace('\\ ', ' ')) + r'\.fits')
    return next(file for file in folder.iterdir()
                if pattern.fullmatch(file.name))


def read_pixels(path):
    """
    Read an image in Jy/pixel.
    """
    with fits.open(path) as hdus:
        unit = u.Unit(hdus[0].header['BUNIT'].replace('pixel', 'pix'))
        return hdus[0].data * unit.to(u.Jy / u.pix)


def locate(cutout, image):
    """
    Find where a cut-out begins: its header has that of the whole map.
    """
    ny, nx = cutout.shape
    small = 1e-5 * np.abs(cutout).max()
    for y, x in np.argwhere(np.abs(image - cutout[0, 0]) < small):
        part = image[y:y + ny, x:x + nx]
        if (part.shape == cutout.shape
                and np.abs(part - cutout).max() < small):
            return int(y), int(x)
    msg = 'a cut-out is not from this map'
    raise ValueError(msg)


def read_sources(folder, path, image):
    """
    Read its catalog, with the ellipses in pixels.
    """
    file = hyper_catalog_file(folder, path)
    table = read_hyper_catalog(file, image)
    raw = Table.read(file, format='ascii.ecsv')
    _, _, major, minor, theta = sky_to_pixel_ellipse(
        image.wcs, SkyCoord(raw['RA'], raw['DEC'], unit='deg'),
        *(u.Quantity(raw[name]) for name in ('FWHM_1', 'FWHM_2', 'PA')))
    table['id'] = raw['HYPER_ID']
    table['fwhm_major_fit'], table['fwhm_minor_fit'] = major, minor
    table['theta_fit'] = u.Quantity(theta, u.deg).value
    rms = re.search(r'r\.m\.s\.[^:]*: (\S+) (\S+)', str(raw.meta))
    return table, float(rms[1]) * u.Unit(rms[2].rstrip("'],")).to(u.Jy)


def compare_apertures(table, groups, ratio):
    """
    Sum the same ellipses on the same pixels.

    Returns
    -------
    isolated, blended : `~numpy.ndarray`
        Our sums over its fluxes, minus 1.
    """
    rows = {int(number): row for row, number in enumerate(table['id'])}
    result = [], []
    for group in groups:
        for number in group.ids:
            row = table[rows[number]]
            data = group.data - group.companions.get(number, 0.0)
            flux = sum_ellipse(row, data, group.x, group.y, ratio)
            result[len(group.ids) > 1].append(flux / row['flux_fit'] - 1.0)
    return tuple(np.array(part) for part in result)


def fit_background(data, order, mask=None):
    """
    Fit one polynomial to a whole cut-out.
    """
    center = (np.array(data.shape) - 1.0) / 2.0
    local = LocalPolynomialBackground([0], orders=(order,))
    return local.fit(data, center[1], center[0], mask=mask).make_image(0)[0]


def compare_backgrounds(table, groups, run, rms):
    """
    Fit the same cut-outs again.

    Returns
    -------
    deviations : dict
        The mean deviations from its backgrounds over the pixels of the
        sources, in units of the rms, a value for each group.
    """
    background = run.background.to_value(u.Jy / u.pix)
    alike = choose_alike(table, groups, run)
    result = {'its pixels': [], 'neighbors masked': [],
              'converted run': []}
    for group in groups:
        clipped = sigma_clip(np.ma.array(group.filled, mask=group.own),
                             sigma=3.0)
        changed = (np.abs(group.filled - group.map_data)
                   > 1e-9 * np.abs(group.map_data).max())
        order = group.order
        images = (
            fit_background(group.filled, order,
                           np.ma.getmaskarray(clipped) | group.own),
            fit_background(group.map_data, order, changed | group.own),
            background[group.slices])
        for name, image in zip(result, images, strict=True):
            deviation = (image - group.background)[group.own]
            result[name].append(np.nanmean(np.abs(deviation)) / rms)
    result = {name: np.array(values) for name, values in result.items()}
    result['the same box and order'] = result['converted run'][alike]
    return result


def choose_alike(table, groups, run):
    """
    Tell for which groups both programs chose one box and one order.
    """
    radius = run.image.meta['beam_fwhm_pix'] / 2
    pairs = dict(zip(*match(table['x_fit'], table['y_fit'],
                            run.table['x_fit'], run.table['y_fit'], radius),
                     strict=True))
    rows = {int(number): row for row, number in enumerate(table['id'])}
    alike = []
    for group in groups:
        ours = run.table[[pairs[rows[number]] for number in group.ids
                          if rows[number] in pairs]]
        alike.append(len(ours) > 0
                     and np.all(ours['bkg_order'] == group.order)
                     and np.all(ours['bkg_size'] == max(group.data.shape)))
    return np.array(alike)


def compare_truth(table, groups, run, simulated, ratio):
    """
    Tell how far both are from the truth in the same ellipses.

    Companions are subtracted as each program does. The truth is what the
    Gaussian of the source alone has in the ellipse of Hyper-py, and the
    background below its pixels.
    """
    image, model, background = (
        u.Quantity(values).to_value(u.Jy / u.pix)
        for values in (run.image.data * run.image.unit, run.model,
                       run.background))
    true = gaussians_of(simulated.truth)
    ours = gaussians_of(run.table)
    radius = simulated.image.meta['beam_fwhm_pix'] / 2
    pairs = [dict(zip(*match(table['x_fit'], table['y_fit'], *some[:2],
                             radius), strict=True))
             for some in (true, ours)]
    blended = {int(number): len(group.ids) > 1 for group in groups
               for number in group.ids}
    rows = []
    for k, row in enumerate(table):
        if not all(k in pair for pair in pairs):
            continue
        alone = [paint(some[:, [pair[k]]], image.shape) for some, pair in
                 zip((true, ours), pairs, strict=True)]
        fluxes = [sum_ellipse(row, values, 0, 0, ratio) for values in (
            alone[0], image - background - model + alone[1])]
        rows.append((blended[int(row['id'])],
                     row['flux_fit'] / fluxes[0] - 1.0,
                     fluxes[1] / fluxes[0] - 1.0))
    in_blend, theirs, ours = np.array(rows).T
    print('flux in the same ellipse / truth - 1, in %')
    for name, chosen in (('isolated', in_blend == 0),
                         ('blended', in_blend == 1)):
        for program, values in (('Hyper-py', theirs), ('converted', ours)):
            tell(f'{name}, {program}', 100 * values[chosen])
    errors = [], []
    expected = simulated.background.to_value(u.Jy / u.pix)
    for group in groups:
        inside = expected[group.slices][group.own]
        errors[0].append(np.mean(group.background[group.own] - inside))
        errors[1].append(np.nanmean(
            background[group.slices][group.own] - inside))
    rms = simulated.rms.to_value(u.Jy / u.pix)
    print('background below the sources - truth, in rms of the noise')
    for program, values in zip(('Hyper-py', 'converted'), errors,
                               strict=True):
        tell(program, np.array(values) / rms)


def gaussians_of(table):
    """
    Return x, y, amplitude, both FWHMs and the angle, a row each.
    """
    names = ('x_fit', 'y_fit', 'amplitude_fit', 'fwhm_major_fit',
             'fwhm_minor_fit', 'theta_fit')
    return np.array([getattr(table[name], 'value', table[name])
                     for name in names])


def paint(gaussians, shape):
    """
    Make an image of Gaussians.
    """
    image = np.zeros(shape)
    add_gaussians(image, *gaussians)
    return image


def sum_ellipse(row, image, x, y, ratio):
    """
    Sum the ellipse of a source of Hyper-py on an image from (x, y) on.
    """
    return measure_apertures(
        image, row['x_fit'] - x, row['y_fit'] - y, 0.0,
        row['fwhm_major_fit'], row['fwhm_minor_fit'], row['theta_fit'],
        fwhm_radius_ratio=ratio, correct=False)['aperture_flux'][0]


def tell(name, values):
    """
    Print median, spread and wings.
    """
    low, high = np.percentile(values, (16, 84))
    print(f'  {name:<30}median {np.median(values):+8.3f}, 68 % '
          f'{low:+8.3f} to {high:+8.3f}, n = {values.size}')


def tell_deviations(name, values, limit, unit):
    """
    Print how large deviations are, and how many are below a limit.
    """
    if len(values) == 0:
        print(f'  {name:<30}none')
        return
    values = np.abs(values)
    print(f'  {name:<30}median {np.median(values):.2g}, 95 % '
          f'{np.percentile(values, 95):.2g}, largest {values.max():.2g} '
          f'{unit}; {np.mean(values < limit):.1%} of {values.size} below '
          f'{limit:g}')


def compare(python, path, simulated=None):
    """
    Run both programs on a map and print the comparison.
    """
    image = read_map(path)
    with tempfile.TemporaryDirectory() as folder:
        config = write_hyper_config(python, folder, path, products=True)
        call_hyper_py(python, config)
        table, rms = read_sources(folder, path, image)
        groups = read_groups(folder, path, image)
        converted = override_config(
            read_hyper_py(config).config,
            {'output.flux_unit': 'Jy', 'output.peak_unit': 'Jy/pix'})
    ratio = converted.photometry.fwhm_radius_ratio
    run = extract_map(path, converted)
    print(f'\n{Path(path).stem}: {len(table)} sources of Hyper-py in '
          f'{len(groups)} groups; rms {rms:.3g} Jy/pixel; '
          f'{len(run.table)} sources of the converted run')

    print('sums of the same pixels / its fluxes - 1, in %')
    for name, values in zip(('isolated', 'blended'), compare_apertures(
            table, groups, ratio), strict=True):
        tell_deviations(name, 100 * values, 1.0, '%')
    print('backgrounds - its backgrounds, in rms of the map')
    for name, values in compare_backgrounds(table, groups, run,
                                            rms).items():
        tell_deviations(name, values, 0.1, 'rms')
    if simulated is None:
        return
    compare_truth(table, groups, run, simulated, ratio)
    truth = plain(simulated.truth)
    radius = image.meta['beam_fwhm_pix'] / 2
    defaults = extract_map(path, PipelineConfig())
    part = 1.0 - 2.0**(-4.0 * ratio**2)
    print(f'catalogs; fluxes of the first two divided by {part:.3g}, '
          'the part in the aperture')
    print(Score.header)
    for name, catalog, part_in in (
            ('Hyper-py', table, part),
            ('converted', measured(run.table), part),
            ('defaults', measured(defaults.table), 1.0)):
        for column in ('flux_fit', 'flux_err'):
            catalog[column] /= part_in
        print(score(catalog, truth, radius).row(name))


def measured(table):
    """
    Take the aperture fluxes for the fluxes, as Hyper's columns do.
    """
    result = plain(table)
    result['flux_fit'] = table['aperture_flux'].value
    result['flux_err'] = table['aperture_flux_err'].value
    return result


def main():
    """
    Run from the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('maps', nargs='*', metavar='MAP', help='FITS map')
    parser.add_argument('--simulated', type=int, metavar='SEED',
                        help='compare on a simulated map too')
    parser.add_argument('--background-ratio', type=float, default=2.0,
                        help='rms of the structured background of that map '
                        'in units of its noise (default: 2)')
    parser.add_argument('--hyper-py-python', metavar='PYTHON',
                        help='interpreter of an environment that has '
                        'hyper-py-photometry and photutils<3')
    args = parser.parse_args()
    if not args.maps and args.simulated is None:
        parser.error('give MAP or --simulated SEED')
    python = hyper_py_python(args.hyper_py_python)
    print('Hyper-py {} (photutils {})'.format(*hyper_py_versions(python)))
    for path in args.maps:
        compare(python, path)
    if args.simulated is not None:
        simulated = make_blended_map(
            *_SIMULATED, seed=args.simulated,
            background_ratio=args.background_ratio)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f'simulated_{args.simulated}.fits'
            simulated.write(path)
            compare(python, path, simulated)


if __name__ == '__main__':
    main()
