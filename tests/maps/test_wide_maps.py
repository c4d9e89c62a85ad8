# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fluxes on maps whose pixels do not all have the same solid angle.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS
from numpy.testing import assert_allclose

from hyperphotutils.blend import BlendGroupFitter
from hyperphotutils.catalog import convert_flux_units
from hyperphotutils.maps import read_cube, read_map
from hyperphotutils.utils import PixelAreas, pixel_area

GAUSSIAN = np.pi / (4 * np.log(2))
N_SOURCES = 50


def make_header(n, kind, step, **cards):
    """
    Make the header of a wide map of n = (ny, nx) pixels.
    """
    ny, nx = n
    lon, lat = ('GLON', 'GLAT') if kind == 'CAR' else ('RA--', 'DEC-')
    header = fits.Header({
        'CTYPE1': f'{lon}-{kind}', 'CTYPE2': f'{lat}-{kind}',
        'CRVAL1': 30.0, 'CRVAL2': 0.0, 'CRPIX1': (nx + 1) / 2,
        'CRPIX2': (ny + 1) / 2, 'CDELT1': -step, 'CDELT2': step,
        'BMAJ': 4 * step, 'BMIN': 4 * step, 'BPA': 0.0})
    header.update(cards)
    return header


WIDE = {
    # b = 5 to 63 deg
    'car': make_header((580, 250), 'CAR', 0.1, CRPIX2=-49.0),
    # 15 deg from the center to the edges
    'tan': make_header((430, 430), 'TAN', 0.07, CRVAL2=40.0),
    # distances are stretched by 1 percent at the edges
    'sip': make_header((400, 400), 'TAN', 0.001, A_ORDER=3, B_ORDER=3,
                       A_3_0=2.5e-7 / 3, A_1_2=1e-7, B_0_3=2.5e-7 / 3,
                       B_2_1=1e-7),
}
SHAPES = {'car': (580, 250), 'tan': (430, 430), 'sip': (400, 400)}


def make_wide_map(kind, unit):
    """
    Make a map of sources that are round on the sky, and their truth.
    """
    header, (ny, nx) = WIDE[kind].copy(), SHAPES[kind]
    with np.errstate(all='ignore'):
        wcs = WCS(header)
    rng = np.random.default_rng(5)
    rows, columns = np.divmod(rng.permutation(100)[:N_SOURCES], 10)
    x = 20 + (nx - 40) / 9 * columns + rng.uniform(-3, 3, N_SOURCES)
    y = 20 + (ny - 40) / 9 * rows + rng.uniform(-3, 3, N_SOURCES)
    flux = rng.uniform(1, 10, N_SOURCES)
    fwhm = header['BMAJ'] * u.deg
    data = np.zeros((ny, nx))
    for place, value in zip(zip(x, y, strict=True), flux, strict=True):
        c, r = (round(v) for v in place)
        box = (slice(max(r - 14, 0), r + 15), slice(max(c - 22, 0), c + 23))
        yy, xx = np.mgrid[box]
        yy, xx = yy[yy[:, 0] < ny], xx[yy[:, 0] < ny]
        keep = xx[0] < nx
        xx, yy = xx[:, keep], yy[:, keep]
        apart = wcs.pixel_to_world(*place).separation(
            wcs.pixel_to_world(xx, yy))
        data[yy, xx] += value * np.exp(
            -4 * np.log(2) * (apart / fwhm).to_value(u.one)**2)
    if unit == 'MJy/sr':
        data /= (GAUSSIAN * fwhm**2).to_value(u.sr) * 1e6
    header['BUNIT'] = unit
    return fits.PrimaryHDU(data, header), x, y, flux


@pytest.mark.parametrize('unit', ['MJy/sr', 'Jy/beam'])
@pytest.mark.parametrize('kind', list(WIDE))
def test_fluxes(kind, unit):
    """
    Fluxes are right to 1 percent wherever a source is; the solid angle of
    the central pixel would be wrong by up to a factor of 2.
    """
    hdu, x, y, flux = make_wide_map(kind, unit)
    image = read_map(hdu)
    init = QTable({'x_init': x, 'y_init': y, 'group_id': np.arange(1, 51)})
    table = BlendGroupFitter(image.meta['beam_fwhm_pix'])(
        image, init_params=init)
    assert_allclose(table['flux_fit'].to_value(u.Jy), flux, rtol=0.01)
    areas = pixel_area(image.wcs, x, y)
    low, high = image.meta['pixel_area_range']
    center = image.meta['pixel_scale']**2
    assert np.all(areas > 0.999 * low * center)
    assert np.all(areas < 1.001 * high * center)
    # a source like the beam has its flux as a peak per beam
    beam = image.meta['beam_area_pix'] * (center / areas).to_value(u.one)
    peaks = convert_flux_units(table['amplitude_fit', 'flux_fit'],
                               peak_unit='Jy/beam', beam_area_pix=beam)
    assert_allclose(peaks['amplitude_fit'].value, flux, rtol=0.03)


@pytest.mark.parametrize('kind', list(WIDE))
def test_areas(kind):
    """
    Interpolated areas are those of the Jacobian to 1e-5.
    """
    shape = SHAPES[kind]
    wcs = read_map(make_wide_map(kind, 'Jy/beam')[0]).wcs
    areas = PixelAreas(wcs, shape)
    assert not areas.is_constant
    x, y = np.random.default_rng(1).uniform(0, np.array(shape)[::-1] - 1,
                                            (500, 2)).round().astype(int).T
    whole = areas.relative(slice(None))
    assert whole.shape == shape
    expected = (pixel_area(wcs, x, y) / areas.center).value
    assert_allclose(whole[y, x], expected, rtol=2e-5)
    assert_allclose(areas.relative(slice(100, 110)), whole[100:110],
                    rtol=1e-12)


def test_analytic_areas():
    """
    The areas of CAR and TAN are those of their formulas.
    """
    areas = PixelAreas(WCS(WIDE['car']), SHAPES['car'])
    b = np.deg2rad(0.1 * (np.arange(580) + 50))
    assert_allclose(areas.relative(slice(None))[:, 3],
                    np.cos(b) / np.cos(b).mean() * np.cos(b).mean()
                    / np.cos(np.deg2rad(33.95)), rtol=1e-5)
    areas = PixelAreas(WCS(WIDE['tan']), SHAPES['tan'])
    y, x = np.indices(SHAPES['tan']) - 214.5
    r = np.deg2rad(0.07) * np.hypot(x, y)
    assert_allclose(areas.relative(slice(None)), (1 + r**2)**-1.5,
                    rtol=2e-5)


def test_small_map_has_one_area(make_hdu):
    """
    Where the pixels agree to 1e-4, one number does.
    """
    image = read_map(make_hdu())
    assert image.meta['pixel_area_range'] == (1.0, 1.0)
    areas = PixelAreas(image.wcs, image.shape)
    assert areas.is_constant
    assert areas.relative(slice(0, 5)) == 1.0


def test_all_sky():
    """
    Pixels off the sky have no area; those at its edge have one, and all
    areas together are the sphere.
    """
    header = make_header((90, 180), 'AIT', 2.0, CRVAL1=0.0, BUNIT='MJy/sr')
    header['CTYPE1'], header['CTYPE2'] = 'GLON-AIT', 'GLAT-AIT'
    image = read_map(fits.PrimaryHDU(np.ones((90, 180)), header))
    assert 0.2 < image.mask.mean() < 0.5
    areas = PixelAreas(image.wcs, image.shape)
    total = np.nansum(areas.relative(slice(None))) * areas.center
    assert_allclose(total.to_value(u.sr), 4 * np.pi, rtol=0.02)


def test_units_per_pixel_need_no_area():
    """
    A map in Jy/pixel is left as it is.
    """
    hdu, *_ = make_wide_map('car', 'Jy/pixel')
    assert_allclose(read_map(hdu).data, hdu.data)


def test_cube():
    """
    The channels of a cube are wide maps, too.
    """
    hdu, *_ = make_wide_map('car', 'MJy/sr')
    header = hdu.header.copy()
    header.update({'CTYPE3': 'FREQ', 'CRVAL3': 1e11, 'CDELT3': 1e9,
                   'CRPIX3': 1.0})
    cube = read_cube(fits.PrimaryHDU(np.stack([hdu.data] * 2), header))
    assert_allclose(cube.channel(1).data, read_map(hdu).data, rtol=1e-12)


@pytest.mark.parametrize('projection', ['CAR', 'CEA', 'MER'])
def test_edge_of_a_projection(projection):
    """
    A map that crosses 180 degrees from its reference is whole.
    """
    header = make_header((40, 60), projection, 0.1, CRVAL1=0.0,
                         CRPIX1=1800.5 + 30, BUNIT='MJy/sr')
    header['CTYPE1'] = f'GLON-{projection}'
    header['CTYPE2'] = f'GLAT-{projection}'
    image = read_map(fits.PrimaryHDU(np.ones((40, 60)), header))
    assert not image.mask.any()
    sky = image.wcs.pixel_to_world([10, 50], [20, 20])
    assert_allclose(sky.l.deg, [181.95, 177.95], atol=1e-9)
    assert_allclose(image.wcs.world_to_pixel(sky)[0], [10, 50], atol=1e-6)


def test_pole():
    """
    Pixels at the pole have the area of their triangle or quadrilateral.
    """
    header = make_header((41, 41), 'ZEA', 0.5, CRVAL2=90.0, BUNIT='MJy/sr')
    image = read_map(fits.PrimaryHDU(np.ones((41, 41)), header))
    expected = 1e6 * np.deg2rad(0.5)**2
    assert_allclose(image.data, expected, rtol=1e-4)
