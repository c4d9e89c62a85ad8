# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the cube module.
"""

import json
import pickle
import tracemalloc
import warnings
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.stats import gaussian_fwhm_to_sigma
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_array_equal
from photutils.detection import DAOStarFinder
from photutils.utils.exceptions import NoDetectionsWarning
from regions import (
    CirclePixelRegion,
    CircleSkyRegion,
    PixCoord,
    PointPixelRegion,
    RectanglePixelRegion,
    Regions,
)
from scipy.ndimage import gaussian_filter

from hyperphotutils.background import (
    ChannelBackground,
    CubeBackground,
    LocalPolynomialBackground,
    PolynomialBackground2D,
    make_source_mask,
)
from hyperphotutils.datasets import make_map_cube
from hyperphotutils.detection import HighPassStarFinder
from hyperphotutils.maps import MapCube, read_cube

FINDER = HighPassStarFinder(fwhm=4.0, n_sigma=5.0)


@pytest.fixture(scope='module')
def sim():
    return make_map_cube((8, 96, 104), 4, seed=11)


@pytest.fixture(scope='module')
def result(sim):
    return CubeBackground(finder=FINDER)(sim.cube)


def source_errors(sim, background):
    """
    The errors of the background inside the sources, in units of the
    noise rms.
    """
    errors = []
    for channel in np.unique(sim.truth['channel']):
        rows = sim.truth[sim.truth['channel'] == channel]
        inside = make_source_mask(
            sim.hdu.shape[1:], rows['x_fit'], rows['y_fit'],
            rows['fwhm_major_fit'], rows['fwhm_minor_fit'],
            rows['theta_fit'], factor=1.0)
        inside &= np.isfinite(sim.hdu.data[channel])
        errors.append((background[channel] - sim.background[channel]
                       )[inside].value)
    return np.concatenate(errors) / sim.rms.value


class TestAccuracy:
    def test_under_sources(self):
        """
        On cubes with backgrounds of orders 0 to 2, varying from channel
        to channel, the error under sources is 0.15 of the noise at most,
        and there is no bias.
        """
        bkg = CubeBackground(finder=FINDER)
        errors = []
        for seed in range(100, 104):
            sim = make_map_cube((12, 160, 160), 12, seed=seed)
            errors.append(source_errors(sim, bkg(sim.cube).background))
            assert np.sqrt(np.mean(errors[-1]**2)) < 0.15
            assert abs(errors[-1].mean()) < 0.05
        assert abs(np.concatenate(errors).mean()) < 0.03

    def test_without_mask_it_would_not(self):
        """
        It is the masks that keep the sources out of the background.
        """
        sim = make_map_cube((4, 96, 96), 12, snr_range=(80, 100), seed=5,
                            line_width_range=(3.0, 4.0))
        none = source_errors(sim, CubeBackground()(sim.cube).background)
        found = source_errors(
            sim, CubeBackground(finder=FINDER)(sim.cube).background)
        assert none.mean() > 1.0
        assert abs(found.mean()) < 0.1

    @pytest.mark.parametrize('methods', ['lsq', 'huber', 'theilsen'])
    def test_is_the_background_of_the_plane(self, sim, methods):
        """
        A channel gets what PolynomialBackground2D makes of its plane.
        """
        options = {'orders': (1, 2), 'methods': methods,
                   'criterion': 'bic', 'huber_epsilons': 1.35}
        part, = CubeBackground(**options).iterate(sim.cube, channels=[3])
        expected = PolynomialBackground2D(sim.cube.plane(3), **options)
        assert_allclose(part.make_image(sim.cube.shape[1:]),
                        expected.background, rtol=1e-12)
        assert part.choice['order'] == expected.order
        assert part.choice['method'] == methods
        assert_allclose(part.rms, expected.background_rms_median)

    def test_boxes(self):
        """
        Boxes follow what no polynomial of the whole plane can.
        """
        sim = make_map_cube((3, 128, 128), 4, seed=6, background_ratio=0.0)
        waves = 5e-3 * np.sin(np.arange(128) / 12.0)
        sim.hdu.data += waves.astype('f4')
        whole, boxes = (
            CubeBackground(finder=FINDER, box_sizes=size)(sim.cube)
            for size in (None, 33))
        inner = (slice(None), slice(8, -8), slice(8, -8))
        error = [np.std((r.background.value - waves)[inner])
                 for r in (whole, boxes)]
        assert error[0] > 3.0 * sim.rms.value
        assert error[1] < 0.5 * sim.rms.value
        assert set(boxes.table['box_size']) == {33}
        assert_allclose(boxes.background_rms.value, sim.rms.value, rtol=0.2)

    @pytest.mark.parametrize('beam', [1.0, 4.0])
    @pytest.mark.parametrize('size', [15, 21])
    def test_rms_of_small_boxes(self, size, beam):
        """
        The rms is that of the noise where the polynomials of small boxes
        take a good part of it, whether it is white or not.
        """
        noise = np.random.default_rng(3).standard_normal((2, 160, 160))
        if beam > 1.0:
            width = beam * gaussian_fwhm_to_sigma
            noise = gaussian_filter(noise, (0.0, width, width), mode='wrap')
        noise /= noise.std()
        header = make_map_cube((2, 40, 40), 0, seed=1).hdu.header
        cube = read_cube((noise, header))
        assert_allclose(cube.beam_fwhm_pix, 4.0, rtol=1e-5)
        rms = CubeBackground(box_sizes=size, orders=2)(cube).background_rms
        assert_allclose(rms.value, 1.0, rtol=0.1)

    def test_smoothing(self):
        """
        Where the background changes slowly, the mean over neighbors is
        nearer to the truth.
        """
        sim = make_map_cube((24, 64, 64), 0, orders=2, background_width=12.0,
                            seed=7)
        rough, smooth = (
            CubeBackground(orders=2, smoothing=width)(sim.cube).background
            for width in (0.0, 2.0))
        error = [np.nanstd((b - sim.background).value)
                 for b in (rough, smooth)]
        assert error[1] < 0.7 * error[0]


class TestSources:
    def test_finders(self, sim, result):
        """
        Any finder that is called like those of photutils will do.
        """
        finder = DAOStarFinder(6e-3, 4.0)
        other = CubeBackground(finder=finder)(sim.cube)
        assert_allclose(other.background.value, result.background.value,
                        atol=0.5 * sim.rms.value)

    def test_second_round(self, sim):
        """
        A finder that knows no background sees the plane without it in
        the second round.
        """
        seen = []

        def finder(data, mask=None):
            seen.append(np.median(data[~mask]))

        cube = sim.cube
        part, = CubeBackground(finder=finder, n_rounds=2, orders=0).iterate(
            cube, channels=[0])
        assert len(seen) == 2
        assert_allclose(seen[0] - seen[1], part.coefficients[0, 0],
                        rtol=1e-6)

    @pytest.mark.parametrize('detect_on', ['moment0', 4, -4])
    def test_once_for_all(self, detect_on):
        """
        Sources of one channel or of the moment 0 are masked in all.
        """
        sim = make_map_cube((8, 96, 96), 3, line_width_range=(8.0, 9.0),
                            seed=2)
        result = CubeBackground(finder=FINDER, detect_on=detect_on)(sim.cube)
        assert_array_equal(result.table['n_sources'], 3)

    def test_given(self, sim):
        """
        Given sources are masked in their channels, with their own sizes.
        """
        seen = CubeBackground(sources=sim.truth)(sim.cube)
        count = np.bincount(sim.truth['channel'], minlength=8)
        assert_array_equal(seen.table['n_sources'], count)
        everywhere = QTable(sim.truth, copy=True)
        everywhere.remove_column('channel')
        seen = CubeBackground(sources=everywhere)(sim.cube)
        assert_array_equal(seen.table['n_sources'], len(sim.truth))

    def test_given_on_the_sky(self, sim):
        """
        Positions on the sky are those of the pixels; their size is the
        beam.
        """
        cube = sim.cube
        positions = np.array([[30.0, 40.0], [60.0, 20.0]])
        sky = cube.wcs.pixel_to_world(*positions.T)
        one, two, three = (
            CubeBackground(sources=sources, **size)(cube).background
            for sources, size in ((sky, {}), (positions, {}),
                                  (positions, {'source_fwhm': 4.0})))
        assert_allclose(one.value, two.value, rtol=1e-6)
        assert_allclose(one.value, three.value, rtol=1e-4)

    def test_empty_orders(self, sim):
        """
        Channels without sources have their own orders.
        """
        some = sim.truth[sim.truth['channel'] > 2]
        result = CubeBackground(sources=some, orders=(1,),
                                empty_orders=0)(sim.cube)
        empty = result.table['n_sources'] == 0
        assert empty.any()
        assert not empty.all()
        assert_array_equal(result.table['order'], np.where(empty, 0, 1))

    def test_no_size(self, sim):
        """
        If neither the sources nor the cube say how large they are, the
        error does.
        """
        header = sim.hdu.header.copy()
        for key in ('BMAJ', 'BMIN', 'BPA'):
            del header[key]
        cube = read_cube((sim.hdu.data, header))
        with pytest.raises(ValueError, match=r'no BMAJ.*source_fwhm'):
            CubeBackground(sources=[(30.0, 30.0)])(cube)


class TestRegion:
    @pytest.fixture
    def circle(self):
        return CirclePixelRegion(PixCoord(40, 50), 12.3)

    def test_pixel_region(self, sim, result, circle):
        """
        Inside the region all is as without one, outside is NaN.
        """
        part = CubeBackground(finder=FINDER, region=circle)(sim.cube)
        y, x = np.mgrid[:96, :104]
        inside = (x - 40)**2 + (y - 50)**2 < 12.3**2
        assert_array_equal(part.background[:, inside],
                           result.background[:, inside])
        assert np.isnan(part.background[:, ~inside]).all()
        assert_array_equal(part.table['order'], result.table['order'])

    def test_forms(self, sim, circle):
        """
        Regions on the sky, several regions, and masks are understood.
        """
        cube = sim.cube
        inside = circle.to_mask(mode='center').to_image(cube.shape[1:]) > 0
        sky = circle.to_sky(cube.wcs)
        assert isinstance(sky, CircleSkyRegion)
        other = RectanglePixelRegion(PixCoord(80, 20), 11, 5)
        both = inside.copy()
        both[18:23, 75:86] = True
        # what lies off the map is no more than nothing
        away = (CirclePixelRegion(PixCoord(900, 900), 2.0), CircleSkyRegion(
            SkyCoord(10, 10, unit='deg'), 5 * u.arcsec))
        for region, expected in ((circle, inside), (sky, inside),
                                 (inside, inside),
                                 (Regions([circle, other]), both),
                                 (Regions([circle, *away, other]), both)):
            bkg = CubeBackground(region=region)
            _, image = bkg.evaluate(cube, next(bkg.iterate(cube,
                                                           channels=[1])))
            assert_array_equal(np.isfinite(image), expected)

    @pytest.mark.parametrize(('region', 'error', 'message'), [
        (CirclePixelRegion(PixCoord(900, 900), 2.0), ValueError,
         'region has no pixel'),
        (CircleSkyRegion(SkyCoord(10, 10, unit='deg'), 5 * u.arcsec),
         ValueError, 'region has no pixel'),
        (Regions([]), ValueError, 'region has no pixel'),
        (PointPixelRegion(PixCoord(5, 5)), ValueError,
         'must have an area: got a PointPixelRegion'),
        (np.zeros((96, 104), bool), ValueError, 'region has no pixel'),
        (np.ones((3, 4), bool), ValueError, 'region must have the shape'),
        ('circle', TypeError, 'region must not be the name'),
    ])
    def test_bad_region(self, sim, region, error, message):
        """
        A region that is none is found out before the work.
        """
        with pytest.raises(error, match=message):
            CubeBackground(region=region)(sim.cube)

    def test_positions(self, sim):
        """
        Around positions the background is that of the boxes there, and
        NaN everywhere else.
        """
        cube = sim.cube
        bkg = CubeBackground(positions=[(30, 40), (80, 70)], box_sizes=21,
                             orders=1)
        result = bkg(cube)
        inside = np.zeros(cube.shape[1:], bool)
        inside[30:51, 20:41] = inside[60:81, 70:91] = True
        assert_array_equal(np.isfinite(result.background[2]), inside)
        local = LocalPolynomialBackground(21, orders=1)
        expected = local(cube.plane(2), [30, 80], [40, 70])
        assert_allclose(result.background[2, [40, 70], [30, 80]].value,
                        expected, rtol=1e-5)

    def test_overlapping_boxes(self, sim):
        """
        Where boxes overlap the background is between theirs.
        """
        plane = sim.cube.plane(2)
        local = LocalPolynomialBackground(31, orders=2)
        fits_ = local.fit(plane, [40, 50], [40, 40])
        mosaic = fits_.make_mosaic()
        one, two = (model(45, 40) for model in fits_.models)
        assert min(one, two) <= mosaic[40, 45] <= max(one, two)
        assert_allclose(mosaic[40, 30], fits_.models[0](30, 40))


class TestOutput:
    @pytest.fixture
    def path(self, sim, tmp_path):
        sim.write(tmp_path / 'cube.fits')
        return tmp_path / 'cube.fits'

    def test_files(self, sim, result, path, tmp_path):
        """
        The files have shape, header, unit, and type of the cube.
        """
        out, rest = tmp_path / 'bkg.fits', tmp_path / 'sub.fits'
        written = CubeBackground(finder=FINDER)(
            read_cube(path), output=out, subtracted=rest)
        assert written.background is None
        assert written.filename == str(out)
        with fits.open(out) as hdus:
            assert hdus[0].data.dtype == np.dtype('>f4')
            assert_array_equal(hdus[0].data, result.background.value)
            with fits.open(path) as original:
                for card in original[0].header.cards:
                    assert hdus[0].header[card.keyword] == card.value
                assert_allclose(
                    fits.getdata(rest),
                    original[0].data - result.background.value, atol=1e-8)
        assert_array_equal(written.table['order'], result.table['order'])
        assert {p.name for p in tmp_path.iterdir()} == {
            'cube.fits', 'bkg.fits', 'sub.fits'}

    def test_spectral_cube_reads_it(self, path, tmp_path):
        """
        For spectral-cube the background has the axes of the cube.
        """
        spectral_cube = pytest.importorskip('spectral_cube')
        CubeBackground()(read_cube(path), output=tmp_path / 'bkg.fits')
        ours, original = (spectral_cube.SpectralCube.read(p)
                          for p in (tmp_path / 'bkg.fits', path))
        assert ours.shape == original.shape
        assert ours.unit == original.unit
        assert_array_equal(ours.spectral_axis, original.spectral_axis)
        assert ours.beam == original.beam
        assert ours.wcs.wcs == original.wcs.wcs

    def test_spectral_cube_in_and_out(self, path, result, tmp_path):
        """
        A SpectralCube has the background of its file.
        """
        spectral_cube = pytest.importorskip('spectral_cube')
        cube = read_cube(spectral_cube.SpectralCube.read(path))
        ours = CubeBackground(finder=FINDER)(cube,
                                             output=tmp_path / 'bkg.fits')
        assert_array_equal(fits.getdata(tmp_path / 'bkg.fits'),
                           result.background.value)
        assert ours.table['background_rms'].unit == u.Jy / u.beam

    def test_table(self, sim, result):
        """
        The table says what was chosen for each channel.
        """
        table = result.table
        assert_array_equal(table['channel'], np.arange(8))
        assert_allclose(table['velocity'].to_value('km/s'),
                        0.5 * np.arange(8), atol=1e-9)
        assert table['background_rms'].unit == u.Jy / u.beam
        assert_allclose(result.background_rms.value, sim.rms.value, rtol=0.1)
        assert set(table['method']) == {'lsq'}
        assert (table['n_pixels'] > 5000).all()
        assert 'CubeBackground(orders=(0, 1, 2)' in table.meta['call']

    def test_stored(self, sim):
        """
        What was fitted can be stored as JSON, without a loss.
        """
        bkg = CubeBackground(finder=FINDER)
        part, = bkg.iterate(sim.cube, channels=[2])
        stored = json.loads(json.dumps(part.to_dict()))
        again = ChannelBackground.from_dict(stored)
        for one, two in zip(bkg.evaluate(sim.cube, part),
                            bkg.evaluate(sim.cube, again), strict=True):
            assert_array_equal(one, two)
        assert again.choice == pytest.approx(part.choice, nan_ok=True)
        assert again.rms == part.rms

    @pytest.mark.parametrize('smoothing', [0.0, 1.0])
    def test_processes(self, path, smoothing):
        """
        Several processes make what one makes.
        """
        bkg = CubeBackground(finder=FINDER, smoothing=smoothing)
        one, two = (bkg(read_cube(path), n_workers=n) for n in (1, 2))
        assert_array_equal(one.background, two.background)
        assert_array_equal(one.table['bic'], two.table['bic'])

    def test_no_values(self, sim):
        """
        Channels without values are NaN; those with smoothing are too,
        where there is no value.
        """
        data = sim.hdu.data.copy()
        data[2] = np.nan
        data[4, :, :50] = np.nan
        cube = read_cube((data, sim.hdu.header))
        for smoothing in (0.0, 1.0):
            result = CubeBackground(finder=FINDER, smoothing=smoothing)(cube)
            assert_array_equal(np.isnan(result.background), np.isnan(data))
            assert result.table['order'][2] == -1
            assert np.isnan(result.background_rms[2])

    def test_sources_everywhere(self, sim):
        """
        A plane that is all masked has no background.
        """
        result = CubeBackground(sources=[(50.0, 50.0)], source_fwhm=400.0)(
            sim.cube)
        assert np.isnan(result.background).all()
        assert_array_equal(result.table['order'], -1)

    def test_no_unit(self, sim):
        """
        Without a unit the results have none.
        """
        header = sim.hdu.header.copy()
        del header['BUNIT']
        result = CubeBackground()(read_cube((sim.hdu.data, header)))
        assert isinstance(result.background_rms, np.ndarray)
        assert not isinstance(result.background, u.Quantity)

    def test_memory(self, tmp_path):
        """
        The cube is never in memory.
        """
        header = make_map_cube((2, 40, 40), 0, seed=1).hdu.header
        data = np.random.default_rng(1).standard_normal((60, 200, 200))
        fits.writeto(tmp_path / 'cube.fits', data.astype('f4'), header)
        bkg = CubeBackground(orders=1)
        tracemalloc.start()
        bkg(read_cube(tmp_path / 'cube.fits'), output=tmp_path / 'bkg.fits')
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 6e6  # the cube has 9.6 MB, a plane of doubles 0.3

    def test_error_leaves_nothing(self, path, tmp_path):
        """
        If a channel fails there is no file.
        """

        def finder(*_, **__):
            msg = 'no idea'
            raise RuntimeError(msg)

        with pytest.raises(RuntimeError, match='no idea'):
            CubeBackground(finder=finder)(read_cube(path),
                                          output=tmp_path / 'bkg.fits')
        assert [p.name for p in tmp_path.iterdir()] == ['cube.fits']

    def test_no_warnings_of_empty_channels(self, sim):
        """
        A channel without sources is nothing to warn of.
        """

        def finder(*_, **__):
            warnings.warn('none', NoDetectionsWarning, stacklevel=1)

        result = CubeBackground(finder=finder)(sim.cube)
        assert_array_equal(result.table['n_sources'], 0)


class TestArguments:
    @pytest.mark.parametrize(('options', 'error', 'message'), [
        ({'orders': ()}, ValueError, 'orders must not be empty'),
        ({'empty_orders': -1}, ValueError, 'orders must be integers that'),
        ({'methods': 'best'}, ValueError, 'methods must be some of'),
        ({'criterion': 'best'}, ValueError, 'criterion must be one of'),
        ({'box_sizes': -3}, ValueError, 'box_sizes must be at least 1'),
        ({'positions': [(1, 2)]}, ValueError, 'positions requires box_sizes'),
        ({'finder': HighPassStarFinder}, TypeError, 'finder must be an inst'),
        ({'detect_on': 'all'}, ValueError, 'detect_on must be'),
        ({'n_rounds': 0}, ValueError, 'n_rounds must be at least 1'),
        ({'source_fwhm': 0}, ValueError, 'source_fwhm must be a positive'),
        ({'mask_factor': -1}, ValueError, 'mask_factor must be a positive'),
        ({'smoothing': -1.0}, ValueError, 'smoothing must not be negative'),
        ({'smoothing': 1.0, 'box_sizes': 9}, ValueError,
         'cannot be combined with'),
        ({'box_sizes': 3}, ValueError, 'at least 7 pixels for polynomials of '
                                       'order 2, which have 6 terms: got 3'),
        ({'region': 'w1.reg'}, TypeError,
         r"region must not be the name of a file: read 'w1.reg' by regions.R"),
        ({'region': 5}, TypeError, 'region must be a region of the package'),
        ({'sources': 'w1.csv'}, TypeError, r"sources must not be the name of "
         r"a file: read 'w1.csv' by .*read_catalog or read_source_list"),
        ({'positions': Path('a.csv'), 'box_sizes': 9}, TypeError,
         r"positions must not be the name of a file: read 'a.csv'"),
    ])
    def test_bad(self, options, error, message):
        """
        Wrong arguments are named.
        """
        with pytest.raises(error, match=message):
            CubeBackground(**options)

    def test_not_a_cube(self, sim):
        """
        What is no cube is told how to become one.
        """
        with pytest.raises(TypeError, match=r'cube must be a MapCube.*'
                           r'read_cube: got ndarray'):
            CubeBackground()(sim.hdu.data)
        with pytest.raises(TypeError, match=r"got str: use read_cube\("
                           r"'cube.fits'\)"):
            CubeBackground()('cube.fits')
        with pytest.raises(ValueError, match=r'sources must have positions'):
            CubeBackground(sources=QTable({'flux': [1.0]}))(sim.cube)

    def test_what_depends_on_the_cube(self, sim):
        """
        Channels and sizes are compared with those of the cube.
        """
        for channel in (8, 99, -9):
            with pytest.raises(ValueError, match=rf'detect_on is channel '
                               rf'{channel}, but .* has 8 channels, 0 to 7'):
                CubeBackground(finder=FINDER, detect_on=channel)(sim.cube)
        with pytest.raises(ValueError, match=r'channels has 8, but .* has 8'):
            list(CubeBackground().iterate(sim.cube, channels=[8]))
        with pytest.raises(ValueError, match=r'box_sizes must be at least 3 '
                           r'beams of .*, 12 pixels, .* got 9'):
            CubeBackground(box_sizes=(9, 31))(sim.cube)

    def test_repr_and_pickle(self):
        """
        The object shows its call, and can be sent.
        """
        bkg = CubeBackground(orders=1, smoothing=2.0)
        assert repr(bkg).startswith('CubeBackground(orders=1, ')
        assert repr(pickle.loads(pickle.dumps(bkg))) == repr(bkg)


@pytest.mark.real_data
class TestRealCubes:
    @pytest.mark.parametrize(('name', 'fwhm'), [
        ('test_datacube.fits', 6.07),
        ('orion_kl_alma_ch3oh_cube.fits', 4.04)])
    def test_run_and_round_trip(self, real_data, tmp_path, name, fwhm):
        """
        The real cubes run, and spectral-cube sees the axes of the input
        in the output.
        """
        spectral_cube = pytest.importorskip('spectral_cube')
        cube = read_cube(real_data(name))
        assert isinstance(cube, MapCube)
        finder = HighPassStarFinder(fwhm=fwhm, n_sigma=5.0)
        result = CubeBackground(finder=finder)(
            cube, output=tmp_path / 'bkg.fits')
        assert (result.table['order'] >= 0).all()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of headers as they are
            ours, original = (spectral_cube.SpectralCube.read(p)
                              for p in (tmp_path / 'bkg.fits',
                                        real_data(name)))
        assert ours.shape == original.shape
        assert ours.unit == original.unit
        assert_array_equal(ours.spectral_axis, original.spectral_axis)
        with (fits.open(tmp_path / 'bkg.fits') as one,
              fits.open(real_data(name)) as two):
            assert one[0].data.shape == two[0].data.shape
            assert_array_equal(np.isnan(one[0].data), np.isnan(two[0].data))
            for key in ('CTYPE3', 'CRVAL3', 'CDELT3', 'CUNIT3', 'BUNIT',
                        'BMAJ', 'OBJECT', 'NAXIS'):
                assert one[0].header[key] == two[0].header[key]


@pytest.mark.parametrize('kwargs', [{}, {'box_sizes': 41}])
def test_noise_of_a_beam_is_no_background(kwargs):
    """
    The criteria know the beam of each channel.
    """
    sim = make_map_cube((20, 96, 96), 0, background_ratio=0.0, seed=2)
    table = CubeBackground(**kwargs)(sim.cube).table
    assert np.mean(table['order'] == 0) >= 0.9
    narrow = CubeBackground(fwhm=0.5, **kwargs)(sim.cube).table
    assert narrow['order'].sum() > table['order'].sum()
