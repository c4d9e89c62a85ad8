# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of runs with a measured beam.
"""

import numpy as np
import pytest
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from numpy.testing import assert_allclose

from hyperphotutils.maps import MapError
from hyperphotutils.noise import CorrelatedNoise
from hyperphotutils.pipeline import (
    ConfigError,
    PipelineConfig,
    plan_jobs,
    process_maps,
)
from hyperphotutils.pipeline.bands import write_bands
from hyperphotutils.pipeline.beams import MeasuredBeam
from hyperphotutils.pipeline.cli import main
from hyperphotutils.pipeline.recover import recover_map
from hyperphotutils.psf import EmpiricalPSF

FWHM, SCALE = 5.0, 4.0
SIDE, STEP = 4, 50
SIZE = SIDE * STEP


def beam(radius):
    """
    A beam with a ring of 5 percent; the radius is in pixels of the map.
    """
    return (np.exp(-4.0 * np.log(2.0) * (radius / FWHM)**2)
            + 0.05 * np.exp(-0.5 * ((radius - 7.5) / 1.5)**2))


def header(size, scale, angle=0.0):
    """
    A header with the center of the sky at the center of the image.
    """
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return fits.Header({
        'CTYPE1': 'RA---TAN', 'CTYPE2': 'DEC--TAN', 'CRVAL1': 83.8,
        'CRVAL2': -5.4, 'CRPIX1': 0.5 * (size + 1), 'CRPIX2': 0.5 * (size + 1),
        'CDELT1': -scale / 3600.0, 'CDELT2': scale / 3600.0,
        'PC1_1': cos, 'PC1_2': -sin, 'PC2_1': sin, 'PC2_2': cos})


def psf_image(size=100, scale=2.0, center=(50.3, 49.6)):
    """
    The beam in smaller pixels, of an even size, off the center.
    """
    rows, cols = np.indices((size, size))
    return 3.0 * beam(np.hypot(cols - center[0], rows - center[1])
                      * scale / SCALE)


def write_map(path, peak, **cards):
    """
    Stars with given peaks in noise that is smoothed by the beam.
    """
    rows, cols = np.indices((SIZE, SIZE))
    y, x = (grid.ravel() * STEP + 25.2 for grid in np.mgrid[:SIDE, :SIDE])
    data = CorrelatedNoise.from_beam(1.0, FWHM).simulate((SIZE, SIZE), seed=1)
    for a, b, p in zip(x, y, peak, strict=True):
        data += p * beam(np.hypot(cols - a, rows - b))
    fits.writeto(path, data, header(SIZE, SCALE) + fits.Header(
        {'BUNIT': 'mJy/beam', **cards}))
    return path


PEAK = np.geomspace(60.0, 600.0, SIDE**2)
BMAJ = {'BMAJ': FWHM * SCALE / 3600.0}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """
    The folder of a map and its measured beam.
    """
    folder = tmp_path_factory.mktemp('psf')
    write_map(folder / 'map.fits', PEAK, **BMAJ)
    write_map(folder / 'plain.fits', 2.0 * PEAK)
    fits.writeto(folder / 'psf.fits', psf_image(), header(100, 2.0))
    return folder


def run_maps(files, names, psf, output, **sections):
    config = PipelineConfig(
        input={'maps': [str(files / name) for name in names], 'psf': psf},
        output={'directory': str(output)}, **sections)
    return config, process_maps(config)


class TestRun:
    def test_with_psf(self, files, tmp_path):
        """
        One row a star, with the flux in Jy/beam, as the area of the beam
        follows from its image; log and catalog name the file.
        """
        path = str(files / 'psf.fits')
        _, [outcome] = run_maps(files, ['map.fits'], path, tmp_path)
        assert outcome.reason is None
        table = outcome.table
        assert len(table) == len(PEAK)
        order = np.lexsort((table['x_fit'], np.rint(table['y_fit'] / STEP)))
        flux = table['flux_fit'][order].to_value('mJy')
        assert_allclose(np.median(flux / PEAK), 1.0, atol=0.02)
        rows, cols = np.indices((101, 101)) - 50.0
        area = beam(np.hypot(cols, rows)).sum()
        assert_allclose(table.meta['beam_area_pix'], area, rtol=2e-3)
        assert_allclose(table.meta['beam_major'].to_value('arcsec'),
                        FWHM * SCALE, rtol=0.01)
        assert table.meta['psf'] == (f'{path}, with pixels of 2 arcsec, '
                                     'resampled to 4 arcsec')
        log = (outcome.job.folder / 'run.log').read_text()
        assert f'psf           {path}, with pixels' in log
        assert 'beam_mismatch' not in log

    def test_without_psf(self, files, tmp_path):
        """
        Log and summary say that the beam is another one.
        """
        _, [outcome] = run_maps(files, ['map.fits'], None, tmp_path)
        log = (outcome.job.folder / 'run.log').read_text()
        assert 'psf           none: a Gaussian beam' in log
        assert 'bright sources differ from the profile of the fit by' in log
        assert 'with beam_mismatch, see --psf' in outcome.summary

    def test_merged_bands(self, files, tmp_path):
        """
        A list has a file for each map, which the measurement at given
        positions uses, too; the beam of a map without BMAJ is that of
        the file.
        """
        psf = [str(files / 'psf.fits')] * 2
        config, outcomes = run_maps(
            files, ['map.fits', 'plain.fits'], psf, tmp_path,
            bands={'merge': True, 'measure': 'all', 'names': ['a', 'b']})
        table = write_bands(outcomes, config, tmp_path / 'bands.ecsv')
        assert len(table) == len(PEAK)
        assert np.all(table['forced_a'] & table['forced_b'])
        ratio = table['flux_fit_b'] / table['flux_fit_a']
        assert_allclose(np.median(ratio), 2.0, rtol=0.02)
        for name, factor in (('a', 1.0), ('b', 2.0)):
            flux = np.sort(table[f'flux_fit_{name}'].to_value('mJy'))
            assert_allclose(np.median(flux / PEAK / factor), 1.0, atol=0.02)

    def test_command_line(self, files, tmp_path, capsys):
        status = main(['run', str(files / 'map.fits'), '--psf',
                       str(files / 'psf.fits'), '--output-dir',
                       str(tmp_path), '--detection-only'])
        assert status == 0
        assert 'input.psf has no effect' in capsys.readouterr().err


class TestChecks:
    @pytest.mark.parametrize(('change', 'cards', 'match'), [
        (lambda image: image[:, :55], None, 'too near to the edge'),
        (lambda image: np.stack([image] * 2), None, 'a beam is one image'),
        (lambda image: np.where(image == image.max(), np.nan, image), None,
         '1 of its pixels are not finite'),
        (lambda image: -image, None, 'peak is at pixel|no positive value'),
        (lambda image: image, {'CDELT1': -0.002, 'CDELT2': 0.002},
         'FWHM of 7[0-9].* arcsec, but BMAJ/BMIN states 20 x 20 arcsec: give '
         'the beam of this map'),
        (lambda image: image, {'CTYPE1': '', 'CTYPE2': ''},
         'FWHM of 4[0-9].* arcsec, but BMAJ/BMIN states 20 x 20')])
    def test_before_any_map_is_read(self, change, cards, match, files,
                                    tmp_path):
        """
        A beam that cannot be used stops the run before it begins.
        """
        path = tmp_path / 'bad.fits'
        with fits.open(files / 'psf.fits') as hdus:
            head = hdus[0].header
            head.update(cards or {})
            fits.writeto(path, change(psf_image()), head)
        with pytest.raises(ConfigError, match=match):
            run_maps(files, ['map.fits'], str(path), tmp_path / 'out')
        assert not (tmp_path / 'out').exists()

    def test_no_file(self, files, tmp_path):
        match = r'no\.fits: input\.psf: no such'
        with pytest.raises(ConfigError, match=match):
            run_maps(files, ['map.fits'], 'no.fits', tmp_path / 'out')

    def test_dirty_beam(self, files, tmp_path):
        """
        Without a positive sum there are no fluxes.
        """
        path = tmp_path / 'dirty.fits'
        image = psf_image()
        fits.writeto(path, image - 0.06 * image.max(), header(100, 2.0))
        with fits.open(files / 'map.fits') as hdus, \
                pytest.raises(MapError, match=r'dirty\.fits: input\.psf: its '
                              r'sum is .* times that of a Gaussian'):
            MeasuredBeam(path).on_map(WCS(hdus[0].header), (SIZE, SIZE))

    @pytest.mark.parametrize(('options', 'match'), [
        ({'beam': 40.0}, r'but input\.beam states 40 x 40 arcsec'),
        ({'survey': 'spire500'}, "but survey='spire500' states 34")])
    def test_other_beams_of_the_configuration(self, options, match, files,
                                              tmp_path):
        """
        What is stated without a header has to agree, too.
        """
        with pytest.raises(ConfigError, match=match):
            process_maps(PipelineConfig(
                input={'maps': [str(files / 'plain.fits')],
                       'psf': str(files / 'psf.fits')} | options,
                output={'directory': str(tmp_path / 'out')}))

    def test_no_image(self, files, tmp_path):
        (tmp_path / 'psf.fits').write_text('no FITS')
        with pytest.raises(ConfigError, match=r'psf\.fits: input\.psf: '
                           'cannot be read: '):
            run_maps(files, ['map.fits'], str(tmp_path / 'psf.fits'),
                     tmp_path / 'out')

    def test_coarse_image(self, tmp_path):
        """
        The shape of a beam between its pixels has to be known.
        """
        path = tmp_path / 'psf.fits'
        rows, cols = np.indices((31, 31)) - 15.0
        fits.writeto(path, np.exp(-0.5 * np.hypot(rows, cols)**2 / 0.5**2),
                     header(31, 20.0))
        with pytest.raises(MapError, match=r'its FWHM of 1\.\d+ pixels is '
                           'too small to be resampled'):
            MeasuredBeam(path).on_map(WCS(header(SIZE, SCALE)), (SIZE, SIZE))

    def test_far_wings(self, tmp_path):
        """
        What is not used is reported.
        """
        path = tmp_path / 'psf.fits'
        rows, cols = np.indices((121, 121)) - 60.0
        radius = np.hypot(rows, cols)
        fits.writeto(path, beam(radius) + 1e-3 * (radius > 45.0),
                     fits.Header({'PIXSCALE': SCALE}))
        with pytest.warns(AstropyUserWarning, match=r'% of the sum of the '
                          'beam is farther than 8 FWHM from its center'):
            MeasuredBeam(path).on_map(WCS(header(SIZE, SCALE)), (SIZE, SIZE))

    def test_numbers_of_files(self, files):
        config = PipelineConfig(input={
            'maps': [str(files / 'map.fits')], 'psf': ['a.fits', None]})
        with pytest.raises(ConfigError, match='one for each of the 1 maps, '
                           'not 2'):
            plan_jobs(config)

    def test_cubes(self):
        with pytest.raises(ValueError, match=r'input\.psf is for maps'):
            PipelineConfig(input={'datacube': True, 'psf': 'a.fits'})


class TestSampling:
    @pytest.mark.parametrize('cards', [
        {}, {'PIXSCALE': 2.0}, {'CDELT1': 2.0, 'CUNIT1': 'arcsec'}])
    def test_pixel_scales(self, cards, tmp_path):
        """
        From sky coordinates or a keyword; the result is the beam in the
        pixels of the map.
        """
        path = tmp_path / 'psf.fits'
        fits.writeto(path, psf_image(),
                     fits.Header(cards) if cards else header(100, 2.0))
        result = MeasuredBeam(path).on_map(WCS(header(SIZE, SCALE)),
                                           (SIZE, SIZE))
        half = len(result.image) // 2
        rows, cols = np.indices(result.image.shape) - half
        expected = beam(np.hypot(cols, rows))
        inside = np.hypot(cols, rows) < 20.0
        assert_allclose(result.image[inside] / result.image.max(),
                        expected[inside], atol=2e-3)

    def test_turned_map(self, tmp_path):
        """
        An image with sky coordinates keeps its orientation on the sky.
        """
        path = tmp_path / 'psf.fits'
        rows, cols = np.indices((81, 81)) - 40.0
        # long from North to South
        fits.writeto(path, np.exp(-0.5 * ((cols / 4.0)**2 + (rows / 6.0)**2)),
                     header(81, 2.0))
        result = MeasuredBeam(path).on_map(WCS(header(SIZE, SCALE, 30.0)),
                                           (SIZE, SIZE))
        assert_allclose(np.sin(result.beam.pa.to_value('rad')), 0.0,
                        atol=0.02)
        assert_allclose(result.beam.major.to_value('arcsec'), 2.3548 * 12.0,
                        rtol=0.01)
        assert abs(result.profile.theta - 90.0) > 25.0

    @pytest.mark.parametrize('name', ['ours.fits', 'psfex.psf'])
    def test_psfs_of_stars(self, name, tmp_path):
        """
        They are in the pixels of the map.
        """
        rows, cols = np.indices((41, 41)) - 20.0
        image = beam(np.hypot(cols, rows))
        EmpiricalPSF(image / image.sum()).write(tmp_path / name)
        result = MeasuredBeam(tmp_path / name).on_map(
            WCS(header(SIZE, SCALE)), (SIZE, SIZE))
        assert_allclose(result.profile.fwhm_major, FWHM, rtol=0.02)
        assert 'in pixels of the map' in result.text


def test_recovery_injects_the_measured_beam(files, tmp_path):
    """
    The injected sources, whose flux is that of the beam, have its ring: it
    holds flux that a Gaussian of the same peak lacks.
    """
    fluxes = {}
    for name in ('psf.fits', None):
        config = PipelineConfig(
            input={'psf': name and str(files / name)},
            run={'detection_only': True})
        result = recover_map(files / 'map.fits', config,
                             tmp_path / str(name), n_repeats=1, n_per_map=2,
                             seed=1)
        injected = result.injected
        fluxes[name] = np.median(injected['flux_true']
                                 / injected['amplitude_true'])
    rows, cols = np.indices((101, 101)) - 50.0
    area = beam(np.hypot(rows, cols)).sum()
    gaussian = np.pi * FWHM**2 / (4.0 * np.log(2.0))
    assert_allclose(fluxes['psf.fits'] / fluxes[None], area / gaussian,
                    rtol=0.02)
