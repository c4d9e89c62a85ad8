# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the forced module.
"""

from functools import partial
from types import SimpleNamespace

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.table import MaskedColumn, QTable, Table
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame
from numpy.testing import assert_allclose, assert_array_equal
from radio_beam import Beam
from scipy.ndimage import gaussian_filter

from hyperphotutils.blend import BlendGroupFitter
from hyperphotutils.datasets import make_blended_map
from hyperphotutils.maps import MapError
from hyperphotutils.noise import CorrelatedNoise
from hyperphotutils.photometry import ForcedPhotometry, HyperPhotometry
from hyperphotutils.utils import FLAGS

TO_SIGMA = 1.0 / np.sqrt(8.0 * np.log(2.0))
CENTER = SkyCoord(83.6 * u.deg, -5.4 * u.deg)
SHAPE = ['fwhm_major_sky', 'fwhm_minor_sky', 'position_angle']
COLUMNS = ['flux_fit', 'flux_err', 'aperture_flux', 'aperture_flux_err',
           'amplitude_fit', 'local_bkg', 'flags']
# beams 1, 1.5, and 2.3 times: major, minor, angle in the frame of the map
BEAMS = {'blue': (12.0, 10.0, 20.0), 'green': (18.0, 15.0, 130.0),
         'red': (26.0, 24.0, 80.0)}


def make_wcs(projection, pixel, size, *, rotation=0.0, frame='RA'):
    """
    A WCS of square maps around the common center.
    """
    wcs = WCS(naxis=2)
    lon, lat = ('RA--', 'DEC-') if frame == 'RA' else ('GLON', 'GLAT')
    wcs.wcs.ctype = [f'{lon}-{projection}', f'{lat}-{projection}']
    wcs.wcs.cunit = ['deg', 'deg']
    wcs.wcs.cdelt = [-pixel / 3600.0, pixel / 3600.0]
    angle = np.deg2rad(rotation)
    wcs.wcs.pc = [[np.cos(angle), -np.sin(angle)],
                  [np.sin(angle), np.cos(angle)]]
    center = CENTER if frame == 'RA' else CENTER.galactic
    lon, lat = center.spherical.lon.deg, center.spherical.lat.deg
    wcs.wcs.crval = [lon, 0.0 if projection == 'CAR' else lat]
    wcs.wcs.crpix = [1.0, 1.0]
    wcs.wcs.crpix += 0.5 * (size - 1) - np.array(wcs.world_to_pixel(center))
    wcs.array_shape = (size, size)
    return wcs


def band_wcs():
    """
    Three projections, pixel sizes, and orientations, two frames.
    """
    return {'blue': make_wcs('TAN', 3.0, 340, rotation=25.0),
            'green': make_wcs('SIN', 4.4, 230, rotation=-70.0),
            'red': make_wcs('CAR', 6.0, 180, frame='GLON')}


def vectors(sky):
    """
    Unit vectors in ICRS, shape (..., 3).
    """
    return np.moveaxis(sky.icrs.cartesian.xyz.value, 0, -1)


def north_east(sky, frame):
    """
    The directions to the North and to the East of a frame in ICRS.
    """
    pole = vectors(SkyCoord(0 * u.deg, 90 * u.deg, frame=frame))
    position = vectors(sky)
    east = np.cross(pole, position)
    east /= np.linalg.norm(east, axis=-1, keepdims=True)
    return np.cross(position, east), east


def covariance(ellipse, sky, frame, basis):
    """
    Covariance matrices of ellipses on the axes of the basis, in arcsec^2.
    """
    major, minor, angle = (np.asarray(axis)[..., None] for axis in ellipse)
    north, east = north_east(sky, frame)
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    along = [np.einsum('...c,...c', cos * north + sin * east, axis)
             for axis in basis]
    across = [np.einsum('...c,...c', cos * east - sin * north, axis)
              for axis in basis]
    along, across = (np.stack(side, axis=-1) for side in (along, across))
    return TO_SIGMA**2 * (
        (major**2)[..., None] * along[..., :, None] * along[..., None, :]
        + (minor**2)[..., None] * across[..., :, None] * across[..., None, :])


def as_ellipse(matrix):
    """
    FWHMs and position angle of covariance matrices on North and East.
    """
    values, axes = np.linalg.eigh(matrix)
    widths = np.sqrt(values) / TO_SIGMA
    angle = np.rad2deg(np.arctan2(axes[:, 1, 1], axes[:, 0, 1])) % 180.0
    return widths[:, 1], widths[:, 0], angle


def render(wcs, matrix, basis, flux):
    """
    The sum of Gaussians on the sky, in Jy/pixel: independent of the
    geometry of the package, straight from the vectors of the pixels.
    """
    ny, nx = wcs.array_shape
    y, x = np.mgrid[-0.5:ny, -0.5:nx]
    corners = vectors(wcs.pixel_to_world(x, y))
    area = np.linalg.norm(np.cross(corners[1:, 1:] - corners[:-1, :-1],
                                   corners[1:, :-1] - corners[:-1, 1:]),
                          axis=-1) / 2.0 * np.rad2deg(3600.0)**2
    y, x = np.mgrid[:ny, :nx]
    pixels = vectors(wcs.pixel_to_world(x, y))
    image = np.zeros((ny, nx))
    for k, inverse in enumerate(np.linalg.inv(matrix)):
        offset = np.rad2deg(3600.0) * np.stack(
            [pixels @ axis[k] for axis in basis], axis=-1)
        power = np.einsum('...i,ij,...j', offset, inverse, offset)
        image += (flux[k] * np.sqrt(np.linalg.det(inverse)) / (2.0 * np.pi)
                  * np.exp(-0.5 * power) * area)
    return image


def draw_positions(rng, n_sources, radius):
    """
    Sources of which some are near others.
    """
    east, north = rng.uniform(-radius, radius, (2, n_sources))
    n_near = n_sources // 3
    distance = rng.uniform(9.0, 25.0, n_near)
    angle = rng.uniform(0.0, 2.0 * np.pi, n_near)
    east[-n_near:] = east[:n_near] + distance * np.cos(angle)
    north[-n_near:] = north[:n_near] + distance * np.sin(angle)
    return CENTER.spherical_offsets_by(east * u.arcsec, north * u.arcsec)


def simulate(seed, *, n_sources=80, noise='white', snr=(25.0, 60.0),
             slope=1.0):
    """
    One sky in three bands: the catalog as seen with the bluest beam,
    the maps, and the true fluxes.

    The noise is white, or convolved with the beam of each band.
    """
    rng = np.random.default_rng(seed)
    sky = draw_positions(rng, n_sources, 330.0)
    basis = north_east(sky, 'icrs')
    intrinsic = covariance(
        (rng.uniform(6.0, 12.0, n_sources), rng.uniform(2.0, 6.0, n_sources),
         rng.uniform(0.0, 180.0, n_sources)), sky, 'icrs', basis)
    bands, errors, truth = {}, {}, {}
    for name, wcs in band_wcs().items():
        beam = BEAMS[name]
        frame = wcs_to_celestial_frame(wcs)
        matrix = intrinsic + covariance(beam, sky, frame, basis)
        if name == 'blue':
            shape = as_ellipse(matrix)
        peak = np.exp(rng.uniform(*np.log(snr), n_sources))
        pixel = np.abs(wcs.wcs.cdelt[1]) * 3600.0
        flux = 1e-3 * peak * 2 * np.pi * np.sqrt(
            np.linalg.det(matrix)) / pixel**2
        image = render(wcs, matrix, basis, flux)
        image += add_noise(rng, image.shape, noise, beam, pixel)
        y, x = np.mgrid[:image.shape[0], :image.shape[1]]
        image += 1e-2 + slope * (3e-5 * x - 5e-5 * y)
        bands[name] = CCDData(
            image, unit='Jy/pix', wcs=wcs,
            meta={'beam': Beam(*beam[:2] * u.arcsec, beam[2] * u.deg)})
        errors[name], truth[name] = 1e-3, flux
    catalog = QTable({'id': 100 + np.arange(n_sources),
                        'sky_centroid': sky})
    for column, values, unit in zip(SHAPE, shape, ('arcsec', 'arcsec', 'deg'),
                                    strict=True):
        catalog[column] = values << u.Unit(unit)
    return catalog, bands, errors, truth


def add_noise(rng, shape, kind, beam, pixel):
    """
    Noise with an rms of 1 mJy/pixel.
    """
    noise = rng.normal(0.0, 1e-3, shape)
    if kind == 'beam':
        noise = gaussian_filter(
            noise, TO_SIGMA * np.sqrt(beam[0] * beam[1]) / pixel)
        noise *= 1e-3 / noise.std()
    return noise


def remade(image, *, wcs=None):
    """
    A copy of a map: radio_beam.Beam does not survive that of CCDData.
    """
    return CCDData(image.data.copy(), unit=image.unit,
                   wcs=image.wcs if wcs is None else wcs,
                   meta=dict(image.meta))


def matched(**options):
    """
    Forced photometry with the reference beam of the simulation.
    """
    return ForcedPhotometry(ellipse='matched', reference_beam='blue',
                            **options)


@pytest.fixture(scope='module')
def skies():
    """
    Several simulated skies.
    """
    return [simulate(seed) for seed in range(4)]


@pytest.fixture
def sim():
    """
    A map with few sources.
    """
    return make_blended_map((100, 100), 8, blend_fraction=0.25, rms=1e-5,
                            seed=3)


class TestThreeBands:
    def check(self, skies, *, apertures=True, **options):
        """
        Compare the fluxes of many skies with the truth.
        """
        for name in BEAMS:
            pulls, errors = [], []
            for catalog, bands, error, truth in skies:
                use = {key: bands[key] for key in {'blue': 0, name: 0}}
                table = matched(**options)(
                    catalog, use, error=error and {name: error[name]})
                kinds = ('flux', 'aperture_flux') if apertures else ('flux',)
                for kind in kinds:
                    column = 'flux_fit' if kind == 'flux' else kind
                    sigma = table[f'{kind}_err_{name}'].to_value('Jy')
                    value = table[f'{column}_{name}'].to_value('Jy')
                    pulls.append((value - truth[name]) / sigma)
                    errors.append(sigma / truth[name])
            n_kinds = len(kinds)
            for k in range(n_kinds):
                pull = np.ravel(pulls[k::n_kinds])
                sigma = np.ravel(errors[k::n_kinds])
                bias = np.sum(pull / sigma) / np.sum(sigma**-2)
                assert abs(bias) < 0.02
                assert abs(np.mean(pull)) < 0.2
                if k == 0:
                    assert_allclose(np.std(pull), 1.0, atol=0.1)

    @pytest.mark.parametrize('with_errors', [True, False])
    def test_white_noise(self, skies, with_errors):
        """
        Fluxes are unbiased within 2 % and pulls are 1.0 within 0.1 in
        each of three bands with different beams, projections, frames,
        and pixels.
        """
        self.check([(catalog, bands, error if with_errors else None, truth)
                    for catalog, bands, error, truth in skies],
                   noise='white')

    def test_correlated_noise(self):
        """
        The same holds for noise that went through the beam, whose
        covariance is measured on the maps.
        """
        self.check([(catalog, bands, None, truth)
                    for catalog, bands, _, truth in (
                        simulate(seed, noise='beam', snr=(12.0, 40.0),
                                 slope=0.1)
                        for seed in range(4))])

    def test_exact_without_noise(self):
        """
        Geometry and deblending are exact where there is no noise, nor a
        covariance.
        """
        catalog, bands, _, truth = simulate(7, snr=(1e7, 2e7))
        table = matched(noise='white')(catalog, bands)
        for name, flux in truth.items():
            assert_allclose(table[f'flux_fit_{name}'].to_value('Jy'), flux,
                            rtol=3e-4)

    def test_positions_and_shapes_to_the_last_bit(self, skies):
        """
        What is fixed stays fixed to the last bit, and is flagged so.
        """
        catalog, bands, *_ = skies[0]
        phot = matched()
        table = phot(catalog, bands)
        assert_array_equal(table['id'], catalog['id'])
        assert_array_equal(table['sky_centroid'].ra,
                           catalog['sky_centroid'].ra)
        assert_array_equal(table['sky_centroid'].dec,
                           catalog['sky_centroid'].dec)
        for name in SHAPE:
            assert_array_equal(table[name], catalog[name])
        for name, wcs in band_wcs().items():
            fit = phot.tables[name]
            x, y = wcs.world_to_pixel(catalog['sky_centroid'])
            assert_array_equal(fit['x_fit'], fit['x_init'])
            assert_array_equal(fit['y_fit'], fit['y_init'])
            assert_allclose(fit['x_fit'], x, atol=1e-9)
            assert_allclose(fit['y_fit'], y, atol=1e-9)
            assert_array_equal(fit['x_err'], 0.0)
            fixed = FLAGS['fixed_position'] | FLAGS['fixed_shape']
            assert np.all(table[f'flags_{name}'] & fixed == fixed)

    def test_columns_and_units(self, skies):
        """
        A flux, an error, and flags for each band, in the order of bands.
        """
        catalog, bands, error, _ = skies[0]
        table = matched()(catalog, bands, error=error)
        assert table.colnames == [
            'id', 'sky_centroid', *SHAPE,
            *(f'{column}_{name}' for name in BEAMS for column in COLUMNS)]
        for name in BEAMS:
            for column in COLUMNS[:4]:
                assert table[f'{column}_{name}'].unit == u.Jy
            for column in COLUMNS[4:6]:
                assert table[f'{column}_{name}'].unit == u.Jy / u.pix
        assert table.meta['rms'] == dict.fromkeys(
            BEAMS, 0.001 * u.Jy / u.pix)

    def test_given_reference_beam_and_named_band(self, skies):
        """
        A beam, and the name of the band that has it, are the same.
        """
        catalog, bands, *_ = skies[0]
        beam = bands['blue'].meta['beam']
        one = matched()(catalog, bands)
        two = ForcedPhotometry(ellipse='matched', reference_beam=beam)(
            catalog, bands)
        for name in BEAMS:
            assert_allclose(one[f'flux_fit_{name}'], two[f'flux_fit_{name}'],
                            rtol=1e-9)

    def test_frame_of_catalog(self, skies):
        """
        A catalog in Galactic coordinates, with its position angles
        East of the Galactic North, gives the same fluxes.
        """
        catalog, bands, *_ = skies[0]
        other = catalog.copy()
        other['sky_centroid'] = catalog['sky_centroid'].galactic
        pole = SkyCoord(0 * u.deg, 90 * u.deg).galactic
        turn = other['sky_centroid'].position_angle(pole)
        other['position_angle'] = catalog['position_angle'] + turn
        one, two = matched()(catalog, bands), matched()(other, bands)
        for name in BEAMS:
            assert_allclose(one[f'flux_fit_{name}'], two[f'flux_fit_{name}'],
                            rtol=1e-7)


@pytest.fixture(scope='module')
def measured():
    """
    Skies with catalogs that were measured on the bluest band.
    """
    measured = []
    for seed in range(3):
        catalog, bands, _, truth = simulate(seed, snr=(12.0, 60.0),
                                              slope=0.1)
        x, y = bands['blue'].wcs.world_to_pixel(catalog['sky_centroid'])
        init = QTable({'id': catalog['id'], 'x_init': x, 'y_init': y})
        phot = HyperPhotometry(fwhm=120.0**0.5 / 3.0, noise='white')
        measured.append((phot(bands['blue'], init_params=init), bands,
                         truth))
    return measured


class TestCatalogErrors:
    def pulls(self, skies, kind='flux_fit', **options):
        """
        The pulls of the fluxes of all skies by band.
        """
        error = kind.removesuffix('_fit') + '_err'
        pulls = {name: [] for name in BEAMS}
        for catalog, bands, truth in skies:
            table = matched(noise='white', **options)(catalog, bands)
            for name in BEAMS:
                value = table[f'{kind}_{name}'].to_value('Jy') - truth[name]
                pulls[name].append(
                    value / table[f'{error}_{name}'].to_value('Jy'))
        return {name: np.concatenate(pull) for name, pull in pulls.items()}

    def test_pulls_of_fluxes(self, measured):
        """
        With a measured catalog, pulls are 1.0 within 0.1 in its own
        band and in others.
        """
        for pull in self.pulls(measured).values():
            assert abs(np.mean(pull)) < 0.2
            assert_allclose(np.std(pull), 1.0, atol=0.1)

    def test_pulls_of_aperture_fluxes(self, measured):
        """
        So are those of aperture fluxes in other bands; in its own, the
        errors are too small by a fifth.
        """
        pulls = self.pulls(measured, 'aperture_flux')
        for name in ('green', 'red'):
            assert_allclose(np.std(pulls[name]), 1.0, atol=0.1)
        assert np.std(pulls['blue']) < 1.3

    def test_noise_alone(self, measured):
        """
        Without the errors of the catalog, pulls are far too large; the
        tables of the fits have those errors.
        """
        for pull in self.pulls(measured, catalog_errors=False).values():
            assert np.std(pull) > 2.0
        catalog, bands, _ = measured[0]
        phot = matched(noise='white')
        table = phot(catalog, bands)
        alone = matched(noise='white', catalog_errors=False)
        fixed = alone(catalog, bands)
        for name in BEAMS:
            for column in ('flux_err', 'aperture_flux_err'):
                assert_array_equal(phot.tables[name][column],
                                   fixed[f'{column}_{name}'])
            assert_array_equal(table[f'flux_fit_{name}'],
                               fixed[f'flux_fit_{name}'])
            assert np.all(table[f'flux_err_{name}']
                          >= fixed[f'flux_err_{name}'])

    @pytest.mark.parametrize('drawn', ['lon_err', 'lat_err',
                                       'fwhm_major_sky_err',
                                       'fwhm_minor_sky_err',
                                       'position_angle_err'])
    def test_against_moved_catalogs(self, drawn):
        """
        The error of a lone elongated source in a band of another frame
        is the change of its flux when its catalog is changed.
        """
        catalog, bands, *_ = simulate(3, snr=(1e5, 2e5), slope=0.0,
                                        n_sources=12)
        sky = catalog['sky_centroid']
        _, distance, _ = sky.match_to_catalog_sky(sky, nthneighbor=2)
        catalog = catalog[distance > 60 * u.arcsec]
        size = (3.0 * u.deg if 'angle' in drawn else 0.1 * u.arcsec)
        catalog[drawn] = np.full(len(catalog), 1.0) * size
        changed = []
        for sign in (-1, 1):
            other = catalog.copy()
            if drawn in other.colnames and drawn in ('lon_err', 'lat_err'):
                step = (sign * size, 0 * size)
                other['sky_centroid'] = other[
                    'sky_centroid'].spherical_offsets_by(
                        *(step if drawn == 'lon_err' else step[::-1]))
            else:
                other[drawn.removesuffix('_err')] += sign * size
            changed.append(matched(noise='white')(
                other, {name: bands[name] for name in BEAMS}))
        base = matched(noise='white')
        table = base(catalog, bands)
        for name in BEAMS:
            for column, error in (('flux_fit', 'flux_err'),
                                  ('aperture_flux', 'aperture_flux_err')):
                slope = 0.5 * abs(changed[1][f'{column}_{name}']
                                  - changed[0][f'{column}_{name}'])
                added = np.sqrt(table[f'{error}_{name}']**2
                                - base.tables[name][error]**2)
                scale = 1e-4 * table[f'{column}_{name}']
                assert np.all(abs(added - slope) < 0.05 * slope + scale)

    def test_catalog_without_errors(self, skies):
        """
        Nothing changes for a catalog without errors, or where they are
        not known.
        """
        catalog, bands, *_ = skies[0]
        unknown = catalog.copy()
        unknown['fwhm_major_sky_err'] = np.nan * u.arcsec
        tables = [matched(noise='white', **options)(sources, bands)
                  for sources, options in (
                      (catalog, {}), (unknown, {}),
                      (catalog, {'catalog_errors': False}))]
        for table in tables[1:]:
            for name in BEAMS:
                assert_array_equal(table[f'flux_err_{name}'],
                                   tables[0][f'flux_err_{name}'])

    def test_unit(self, sim):
        """
        Errors are angles.
        """
        catalog = sim.truth.copy()
        catalog['lon_err'] = np.ones(len(catalog))
        with pytest.raises(ValueError, match=r'lon_err .* must be an angle'):
            ForcedPhotometry()(catalog, {'a': sim.image})


class TestEllipses:
    def test_same_in_each_band(self, skies):
        """
        The same ellipse means the same widths on the sky.
        """
        catalog, bands, *_ = skies[0]
        phot = ForcedPhotometry()
        phot(catalog, bands)
        area = (catalog['fwhm_major_sky'] * catalog['fwhm_minor_sky'])
        for name, pixel in (('blue', 3.0), ('green', 4.4)):
            fit = phot.tables[name]
            assert_allclose(
                fit['fwhm_major_fit'] * fit['fwhm_minor_fit'] * pixel**2,
                area.to_value('arcsec2'), rtol=1e-4)

    def test_clipped_to_beam(self, sim):
        """
        A source so much narrower than the reference beam that nothing is
        left of it has the beam of the band, and is flagged.
        """
        catalog = sim.truth.copy()
        catalog['fwhm_major_sky'][0] = 2.0 * u.arcsec
        catalog['fwhm_minor_sky'][0] = 2.0 * u.arcsec
        phot = ForcedPhotometry(ellipse='matched',
                                reference_beam=4.5 * u.arcsec)
        table = phot(catalog, {'a': sim.image})
        assert table['flags_a'][0] & FLAGS['near_bound']
        fit = phot.tables['a']
        assert_allclose([fit['fwhm_major_fit'][0], fit['fwhm_minor_fit'][0]],
                        4.0, rtol=1e-6)

    def test_the_reference_band_keeps_the_ellipses(self, sim):
        """
        Where the beam of the band is that of the reference, nothing
        changes, even for sources that noise has made narrower than it:
        to lift these alone would widen the ellipses on average.
        """
        catalog = sim.truth.copy()
        catalog['fwhm_major_sky'][:2] = [4.2, 3.5] * u.arcsec
        catalog['fwhm_minor_sky'][:2] = [3.1, 3.3] * u.arcsec
        fits = []
        for ellipse, reference in (('same', None), ('matched', 'a')):
            phot = ForcedPhotometry(ellipse=ellipse, reference_beam=reference)
            table = phot(catalog, {'a': sim.image})
            assert not np.any(table['flags_a'] & FLAGS['near_bound'])
            fits.append(phot.tables['a'])
        for name in ('fwhm_major_fit', 'fwhm_minor_fit'):
            assert_allclose(fits[0][name], fits[1][name], rtol=1e-6)

    def test_sources_of_the_reference_beam_are_not_flagged(self, sim):
        """
        Points that have just the reference beam are not clipped.
        """
        catalog = sim.truth['id', 'sky_centroid']
        catalog['fwhm_major_sky'] = np.full(8, 5.0) * u.arcsec
        catalog['fwhm_minor_sky'] = np.full(8, 3.0) * u.arcsec
        catalog['position_angle'] = np.full(8, 33.0) * u.deg
        beam = Beam(5 * u.arcsec, 3 * u.arcsec, 33 * u.deg)
        phot = ForcedPhotometry(ellipse='matched', reference_beam=beam)
        table = phot(catalog, {'a': sim.image})
        assert not np.any(table['flags_a'] & FLAGS['near_bound'])
        assert_allclose(phot.tables['a']['fwhm_major_fit'], 4.0, rtol=1e-6)

    def test_footprint_for_large_sources(self, sim):
        """
        Where sources are much larger than the beam, so is the footprint;
        without a beam it is that of the sources.
        """
        small = CCDData(sim.image.data, unit='Jy/pix', wcs=sim.wcs,
                        meta={'beam': 2 * u.arcsec})
        bare = CCDData(sim.image.data, unit='Jy/pix', wcs=sim.wcs)
        phot = ForcedPhotometry()
        phot(sim.truth, {'a': sim.image, 'b': small, 'c': bare})
        size = np.median(np.sqrt(sim.truth['fwhm_major_fit']
                                 * sim.truth['fwhm_minor_fit']))
        assert_allclose([phot.fitters[name].fwhm for name in 'abc'],
                        [4.0, size / 1.5, size], rtol=1e-5)

    @pytest.mark.parametrize('ellipse', ['same', 'matched'])
    def test_points_have_the_beam(self, sim, ellipse):
        """
        Sources without widths, all or some, have the beam of the band.
        """
        beam = {} if ellipse == 'same' else {'reference_beam': 'a'}
        phot = ForcedPhotometry(ellipse=ellipse, **beam)
        phot(sim.truth['id', 'sky_centroid'], {'a': sim.image})
        assert_allclose(phot.tables['a']['fwhm_major_fit'], 4.0, rtol=1e-6)
        some = sim.truth.copy()
        some['fwhm_major_sky'][2] = np.nan
        table = phot(some, {'a': sim.image})
        fit = phot.tables['a']
        assert_allclose(fit['fwhm_major_fit'][2], 4.0, rtol=1e-6)
        assert_allclose(fit['fwhm_major_fit'][3],
                        sim.truth['fwhm_major_fit'][3], rtol=1e-5)
        assert np.all(np.isfinite(table['flux_fit_a']))


class TestInputs:
    def test_as_the_fitter(self, sim):
        """
        On one map the result is that of the fitter with both fixed.
        """
        phot = ForcedPhotometry(noise='white')
        table = phot(sim.truth, {'a': sim.image})
        init = sim.truth['x_fit', 'y_fit', 'fwhm_major_fit',
                         'fwhm_minor_fit', 'theta_fit']
        fitter = BlendGroupFitter(phot.fitters['a'].fwhm,
                                  fixed=('position', 'shape'))
        fit = fitter(sim.image, init_params=init)
        assert_allclose(table['flux_fit_a'], fit['flux_fit'], rtol=1e-5)
        assert_allclose(table['flux_err_a'], fit['flux_err'], rtol=1e-5)

    def test_result_of_hyper_photometry(self, sim):
        """
        The catalog of one map is measured again on the same map.
        """
        found = HyperPhotometry(4.0)(sim.image)
        table = ForcedPhotometry()(found, {'a': sim.image})
        # the corrections for the noise are not those of fixed shapes
        assert_allclose((table['flux_fit_a'] - found['flux_fit'])
                        / found['flux_err'], 0.0, atol=0.2)

    @pytest.mark.parametrize('unit', ['mJy/pix', 'Jy', 'Jy/beam', 'MJy/sr'])
    def test_units(self, sim, unit):
        """
        Fluxes are in Jy whatever the unit of the map.
        """
        pixel = 1.0 * u.arcsec**2
        area = {'Jy/beam': sim.image.meta['beam_area_pix'] * u.pix / u.beam,
                'MJy/sr': u.pix / pixel, 'Jy': u.pix}.get(unit, 1.0)
        data = (sim.image.data * sim.image.unit * area).to(unit)
        image = CCDData(data.value, unit=unit, wcs=sim.wcs,
                        meta=sim.image.meta)
        table = ForcedPhotometry()(sim.truth, {'a': sim.image, 'b': image})
        for column in COLUMNS[:-1]:
            assert_allclose(table[f'{column}_a'], table[f'{column}_b'],
                            rtol=1e-6)
            assert table[f'{column}_a'].unit == table[f'{column}_b'].unit

    def test_anything_like_a_map(self, sim):
        """
        An object with data, WCS, and meta is as good as a CCDData.
        """
        plain = SimpleNamespace(
            data=sim.image.data * u.Jy / u.pix, wcs=sim.wcs,
            meta={'beam': 4 * u.arcsec})
        table = ForcedPhotometry()(sim.truth, {'a': sim.image, 'b': plain})
        assert_allclose(table['flux_fit_a'], table['flux_fit_b'],
                        rtol=1e-8)

    def test_mask_is_used(self, sim):
        """
        Masked pixels are not.
        """
        image = remade(sim.image)
        image.mask = np.zeros(image.shape, dtype=bool)
        image.mask[50:, :] = True
        table = ForcedPhotometry()(sim.truth, {'a': image})
        above = sim.truth['y_fit'] > 54
        assert above.any()
        assert np.all(np.isnan(table['flux_fit_a'][above]))
        assert np.all(table['flags_a'][above] & FLAGS['off_map'])

    def test_errors(self, sim):
        """
        Errors are given as numbers, with a unit, or with the map, and
        fluxes have errors in proportion.
        """
        phot = ForcedPhotometry(noise='white')
        image = remade(sim.image)
        image.uncertainty = StdDevUncertainty(np.full(image.shape, 2e-5))
        bands = {'a': sim.image, 'b': sim.image, 'c': image}
        table = phot(sim.truth, bands, error={
            'a': 1e-5, 'b': np.full(image.shape, 0.02) * u.mJy / u.pix})
        for column in ('flux_err', 'aperture_flux_err'):
            assert_allclose(table[f'{column}_b'], 2 * table[f'{column}_a'])
            assert_allclose(table[f'{column}_c'], 2 * table[f'{column}_a'])
        assert u.isclose(table.meta['rms']['b'], 2e-5 * u.Jy / u.pix)

    def test_off_map_rows_are_kept(self, sim):
        """
        Sources off the map of a band, behind the sky of its projection,
        or without a position have a row with NaN and a flag.
        """
        catalog = sim.truth.copy()
        sky = catalog['sky_centroid']
        ra, dec = sky.ra.deg.copy(), sky.dec.deg.copy()
        ra[0] += 1.0
        ra[1], dec[1] = (ra[1] + 180.0) % 360.0, -dec[1]
        ra[2] = dec[2] = np.nan
        catalog['sky_centroid'] = SkyCoord(ra, dec, unit='deg')
        table = ForcedPhotometry()(catalog, {'a': sim.image})
        assert_array_equal(table['id'], sim.truth['id'])
        for column in COLUMNS[:-1]:
            assert np.all(np.isnan(table[f'{column}_a'][:3]))
            assert np.all(np.isfinite(table[f'{column}_a'][3:]))
        assert np.all(table['flags_a'][:3] & FLAGS['off_map'])
        assert not np.any(table['flags_a'][3:] & FLAGS['off_map'])

    def test_all_off_one_band(self, sim):
        """
        A band that sees no source has NaN throughout.
        """
        wcs = sim.wcs.deepcopy()
        wcs.wcs.crval = [200.0, 40.0]
        far = remade(sim.image, wcs=wcs)
        table = ForcedPhotometry()(sim.truth, {'a': sim.image, 'b': far})
        assert np.all(np.isfinite(table['flux_fit_a']))
        assert np.all(np.isnan(table['flux_fit_b']))
        assert np.all(table['flags_b'] & FLAGS['off_map'])

    def test_masked_and_plain_columns(self, sim):
        """
        Plain tables with units are read, masked widths are points.
        """
        catalog = Table({'id': [f's{k}' for k in range(8)],
                           'sky_centroid': sim.truth['sky_centroid']})
        for name in SHAPE:
            column = sim.truth[name]
            catalog[name] = MaskedColumn(
                column.value, mask=np.arange(8) == 1, unit=column.unit)
        phot = ForcedPhotometry()
        table = phot(catalog, {'a': sim.image})
        assert list(table['id']) == list(catalog['id'])
        assert_allclose(phot.tables['a']['fwhm_major_fit'][1], 4.0, rtol=1e-6)

    def test_empty_catalog(self, sim):
        """
        No sources give no rows, but all columns.
        """
        table = ForcedPhotometry()(sim.truth[:0], {'a': sim.image})
        assert len(table) == 0
        assert table.colnames[-1] == 'flags_a'

    def test_inputs_are_not_changed(self, sim):
        """
        Neither maps nor catalog are changed.
        """
        data, truth = sim.image.data.copy(), sim.truth.copy()
        table = ForcedPhotometry()(sim.truth, {'a': sim.image})
        table['fwhm_major_sky'][:] = 0.0 * u.arcsec
        assert_array_equal(sim.image.data, data)
        assert_array_equal(sim.truth['fwhm_major_sky'],
                           truth['fwhm_major_sky'])


class TestConfiguration:
    def test_repr(self):
        text = repr(matched())
        assert text.startswith("ForcedPhotometry(ellipse='matched', "
                               "reference_beam='blue', ")

    def test_options_of_the_fitter(self, sim):
        """
        Options reach the fitter of each band.
        """
        phot = ForcedPhotometry(
            make_fitter=partial(BlendGroupFitter, poly_order=2))
        phot(sim.truth, {'a': sim.image})
        assert phot.fitters['a'].poly_order == 2
        assert phot.fitters['a'].fixed == ('position', 'shape')
        assert np.all(phot.tables['a']['bkg_order'] == 2)

    def test_noise_by_band(self, sim):
        """
        Each band may have its own noise; what is given is used, in the
        unit of the map.
        """
        given = CorrelatedNoise.from_beam(1e-5 * u.Jy / u.pix, 4.0)
        milli = CCDData(1e3 * sim.image.data, unit='mJy/pix', wcs=sim.wcs,
                        meta=sim.image.meta)
        phot = ForcedPhotometry(noise={
            'a': 'white', 'b': given, 'c': given,
            'd': CorrelatedNoise.from_beam(0.01, 4.0)})
        table = phot(sim.truth, {'a': sim.image, 'b': sim.image, 'c': milli,
                                 'd': milli})
        init = phot.tables['b']['x_init', 'y_init', 'fwhm_major_fit',
                                'fwhm_minor_fit', 'theta_fit']
        fitter = BlendGroupFitter(4.0, fixed=('position', 'shape'))
        image = sim.image.data << sim.image.unit
        white = fitter(image, init_params=init)
        assert_allclose(table['flux_err_a'], white['flux_err'], rtol=1e-9)
        correlated = fitter(image, init_params=init, noise=given)
        for name in 'bcd':
            assert_allclose(table[f'flux_err_{name}'],
                            correlated['flux_err'], rtol=1e-7)
            assert_allclose(table[f'aperture_flux_err_{name}'],
                            table['aperture_flux_err_b'], rtol=1e-7)

    def test_errors_of_correlated_noise(self, sim):
        """
        Errors say where the map is noisier; their scale is measured.
        """
        error = np.full(sim.image.shape, 5.0)
        error[:, 50:] = 10.0
        error = error << sim.image.unit
        phot = ForcedPhotometry()
        table = phot(sim.truth, {'a': sim.image, 'b': sim.image},
                     error={'a': error, 'b': 1e-4 * error})
        assert_allclose(table['flux_err_a'], table['flux_err_b'], rtol=1e-6)

    def test_progress_bar(self, sim, capsys):
        ForcedPhotometry(progress_bar=True)(sim.truth, {'a': sim.image})
        assert 'Measure bands' in capsys.readouterr().err

    def test_flags_are_decoded(self, sim):
        table = ForcedPhotometry()(sim.truth, {'a': sim.image})
        names = ForcedPhotometry.decode_flags(table['flags_a'])
        assert {'fixed_position', 'fixed_shape'} <= set(names[0])


class TestBadInput:
    @pytest.mark.parametrize(('options', 'error', 'match'), [
        ({'ellipse': 'round'}, ValueError, "'same' or 'matched': 'round'"),
        ({'ellipse': 'matched'}, ValueError, 'needs reference_beam'),
        ({'reference_beam': 3 * u.arcsec}, ValueError,
         "reference_beam is for ellipse='matched' only"),
        ({'ellipse': 'matched', 'reference_beam': 3.0}, TypeError,
         'reference_beam must be a radio_beam.Beam or the FWHM'),
        ({'ellipse': 'matched', 'reference_beam': 3 * u.Jy}, TypeError,
         'reference_beam must be a radio_beam.Beam or the FWHM'),
        ({'ellipse': 'matched', 'reference_beam': 0 * u.arcsec}, ValueError,
         'reference_beam must have a positive FWHM'),
        ({'make_fitter': 3}, TypeError, 'make_fitter must be callable: 3'),
        ({'noise': 'pink'}, ValueError,
         "noise must be 'correlated', .*: 'pink'"),
        ({'noise': {'a': 'white', 'b': None}}, ValueError,
         r"noise\['b'\] must be 'correlated', .*: None"),
        ({'fwhm_radius_ratio': -1.0}, ValueError,
         'fwhm_radius_ratio must be a positive number: -1.0'),
    ])
    def test_constructor(self, options, error, match):
        with pytest.raises(error, match=match):
            ForcedPhotometry(**options)

    @pytest.mark.parametrize(('change', 'error', 'match'), [
        (lambda t: t.remove_column('sky_centroid'), ValueError,
         'sources needs the column sky_centroid; it has id'),
        (lambda t: t.replace_column('sky_centroid', t['id']), TypeError,
         'must hold a SkyCoord'),
        (lambda t: t.remove_column('position_angle'), ValueError,
         'all or none of the columns .* position_angle missing'),
        (lambda t: t.replace_column('fwhm_major_sky', np.ones(8)), ValueError,
         'fwhm_major_sky of sources must be an angle, its unit is missing'),
        (lambda t: t.replace_column('position_angle', np.ones(8) * u.s),
         ValueError, 'position_angle of sources must be an angle, .* s$'),
        (lambda t: t['id'].__setitem__(1, t['id'][0]), ValueError,
         '1 values of id more than once, the first is 1'),
        (lambda t: t['fwhm_minor_sky'].__setitem__(4, 0 * u.arcsec),
         ValueError, 'must be positive: .* x 0.0 arcsec for id 5'),
    ])
    def test_sources(self, sim, change, error, match):
        table = sim.truth['id', 'sky_centroid', *SHAPE]
        change(table)
        with pytest.raises(error, match=match):
            ForcedPhotometry()(table, {'a': sim.image})

    def test_no_table(self, sim):
        with pytest.raises(TypeError, match='sources must be an astropy'):
            ForcedPhotometry()([1, 2], {'a': sim.image})

    @pytest.mark.parametrize(('make_bands', 'error', 'match'), [
        (lambda image: [image], TypeError, 'must be a dictionary of maps'),
        (lambda _: {}, ValueError, 'one map at least'),
        (lambda image: {1: image}, ValueError, 'must be strings: 1'),
        (lambda image: {'a': image.data}, TypeError, "'a' needs a wcs"),
        (lambda _: {'a': 'a.fits'}, TypeError,
         "'a' must be a map, not the name of a file: read 'a.fits' by"),
        (lambda image: {'a': SimpleNamespace(
            data=image.data, wcs=image.wcs)}, ValueError,
         "band 'a' has no unit"),
        (lambda image: {'a': CCDData(image.data, unit='s', wcs=image.wcs)},
         MapError, "band 'a': the unit 's'"),
        (lambda image: {'a': CCDData(image.data, unit='Jy/beam',
                                     wcs=image.wcs)},
         MapError, "band 'a': a unit per beam needs the beam"),
        (lambda image: {'a': CCDData(image.data[0], unit='Jy/pix',
                                     wcs=image.wcs)},
         ValueError, "band 'a' must be 2D"),
        (lambda image: {'a': CCDData(
            image.data, unit='Jy/pix', wcs=image.wcs, meta={'beam': 4.0})},
         TypeError, "beam of band 'a' must be a radio_beam.Beam"),
    ])
    def test_bands(self, sim, make_bands, error, match):
        with pytest.raises(error, match=match):
            ForcedPhotometry()(sim.truth, make_bands(sim.image))

    def test_missing_beams(self, sim):
        """
        Beams are asked for where they are needed only.
        """
        bare = CCDData(sim.image.data, unit='Jy/pix', wcs=sim.wcs)
        table = ForcedPhotometry()(sim.truth, {'a': bare})
        assert np.all(np.isfinite(table['flux_fit_a']))
        with pytest.raises(ValueError, match="band 'a' needs a beam"):
            ForcedPhotometry()(sim.truth['id', 'sky_centroid'], {'a': bare})
        phot = ForcedPhotometry(ellipse='matched',
                                reference_beam=4 * u.arcsec)
        with pytest.raises(ValueError, match="band 'a' needs a beam"):
            phot(sim.truth, {'a': bare})
        with pytest.raises(ValueError, match="'blue' is not one of the bands"):
            matched()(sim.truth, {'a': sim.image})

    def test_noise_for_each_band(self, sim):
        phot = ForcedPhotometry(noise={'b': 'white'})
        with pytest.raises(ValueError, match=r'an entry for each band \(a\)'):
            phot(sim.truth, {'a': sim.image})

    @pytest.mark.parametrize('error', [0.1, {'b': 0.1}])
    def test_errors_by_band(self, sim, error):
        with pytest.raises(ValueError, match='error must be a dictionary'):
            ForcedPhotometry()(sim.truth, {'a': sim.image}, error=error)
