# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of one map through the classes: the keys reach what they are for.
"""

from dataclasses import replace

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.tests.helper import assert_quantity_allclose
from numpy.testing import assert_allclose, assert_array_equal
from photutils.aperture import SkyEllipticalAperture
from photutils.utils.exceptions import NoDetectionsWarning

from hyperphotutils.catalog import read_catalog
from hyperphotutils.detection import high_pass_filter
from hyperphotutils.pipeline import (
    ConfigError,
    PipelineConfig,
    PipelineError,
    process_maps,
    run,
)
from hyperphotutils.pipeline.extraction import extract_map
from hyperphotutils.utils.flags import FLAGS, decode_flags
from hyperphotutils.utils.gaussians import add_gaussians


def extract(map_file, **sections):
    return extract_map(map_file, PipelineConfig(**sections))


@pytest.fixture(scope='module', name='full')
def fixture_full(map_file):
    return extract(map_file)


def test_given_positions_are_fixed_to_the_last_bit(map_file, full):
    """
    In the frame of the map, with free shapes; none is detected.
    """
    sky = full.table['sky_centroid'][:3]
    result = extract(map_file, fit={'fixed': ['position']}, sources={
        'x': sky.ra.deg.tolist(), 'y': sky.dec.deg.tolist()})
    table = result.table
    assert len(table) == 3
    assert result.counts == '3 given, 3 measured'
    x, y = full.image.wcs.world_to_pixel(sky)
    assert_array_equal(table['x_fit'], x)
    assert_array_equal(table['y_fit'], y)
    assert np.all(table['flags'] & FLAGS['fixed_position'])
    assert len(set(table['fwhm_major_fit'])) == 3
    assert not {'threshold', 'n_sigma', 'detection_rms'} & set(table.meta)
    assert_quantity_allclose(
        full.table.meta['threshold'],
        full.table.meta['n_sigma'] * full.table.meta['detection_rms'])


def test_peak_of_a_point_source_at_the_threshold(full):
    """
    The filter reduces the beam with this peak to the threshold.
    """
    meta, image = full.table.meta, full.image.meta
    y, x = np.mgrid[-30:31, -30:31]
    fwhm = image['beam_fwhm_pix']
    beam = (meta['threshold_peak'].to_value('Jy / beam')
            / image['beam_area_pix']
            * np.exp(-4.0 * np.log(2.0) * (x**2 + y**2) / fwhm**2))
    assert_allclose(high_pass_filter(beam, fwhm).max(),
                    meta['threshold'].to_value('Jy / pix'))
    log = '\n'.join(map(str, full.describe()))
    assert f'has a peak of {meta["threshold_peak"]:.4g}' in log


@pytest.mark.parametrize('detection_only', [True, False])
def test_noise_without_sources_is_that_with_sources(
        simulated, full, tmp_path, detection_only):
    """
    The rms is about the local backgrounds, and the threshold refers to
    the typical noise of the filtered map, even if a part of it is noisy.
    """
    image = simulated.image.copy()
    nx = image.shape[1]
    noise = np.random.default_rng(1).normal(
        0.0, 8.0 * full.rms.value, image.shape)
    noise[:, :6 * nx // 10] = 0.0
    image.data = image.data + noise + full.rms.value * np.arange(nx)
    path = tmp_path / 'noisy.fits'
    replace(simulated, image=image).write(path)
    with pytest.warns(NoDetectionsWarning):
        result = extract(path, detection={'n_sigma': 1e6},
                         run={'detection_only': detection_only})
    assert len(result.table) == 0
    assert_quantity_allclose(result.table.meta['threshold'],
                             1e6 * full.table.meta['detection_rms'], rtol=0.3)
    expected = (full.table.meta['detection_rms'] if detection_only
                else full.rms)
    assert 0.7 < result.rms / expected < 2.0


def test_fill_values_and_errors_of_the_file(map_file, full, tmp_path):
    """
    They are used, found in the log, and can be refused.
    """
    ny, nx = full.image.shape
    with fits.open(map_file) as hdus:
        data, header = hdus[0].data, hdus[0].header
    padded = np.zeros((ny + 60, nx))
    padded[:ny] = data
    error = np.where(np.arange(nx) < nx // 2, 1.0, 3.0) * np.ones(
        (ny + 60, 1))
    path = tmp_path / 'field.fits'
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(padded, header, 'SCI'),
                  fits.ImageHDU(error, name='ERR')]).writeto(path)
    config = PipelineConfig(input={'maps': [str(path)]},
                            output={'directory': str(tmp_path / 'out')})
    image = extract_map(path, config).image
    assert_array_equal(image.mask, padded == 0.0)
    # the file is in Jy/beam
    assert_allclose(image.uncertainty.array,
                    error / image.meta['beam_area_pix'])
    outcome, = process_maps(config)
    log = (tmp_path / 'out' / 'field' / 'run.log').read_text()
    assert not outcome.reason
    assert 'errors        2 (ERR)' in log
    assert f'missing ({60 * nx} with the fill value 0)' in log

    image = extract(path, input={'fill_value': False,
                                 'error_extension': False}).image
    assert not image.mask.any()
    assert image.uncertainty is None


@pytest.mark.parametrize('tile_size', [0, 60])
def test_mask_of_the_file(map_file, full, tmp_path, tile_size):
    """
    It is used and found in the log: there is no source where it is.
    """
    with fits.open(map_file) as hdus:
        data, header = hdus[0].data, hdus[0].header
    x, y = (round(float(full.table[name][0])) for name in ('x_fit', 'y_fit'))
    bad = np.zeros(data.shape, dtype=np.uint8)
    bad[max(y - 6, 0):y + 7, max(x - 6, 0):x + 7] = 255
    path = tmp_path / 'field.fits'
    fits.HDUList([fits.PrimaryHDU(data, header),
                  fits.ImageHDU(bad, name='MASK')]).writeto(path)
    outcome, = process_maps(PipelineConfig(
        input={'maps': [str(path)]}, fit={'tile_size': tile_size},
        output={'directory': str(tmp_path / 'out'), 'overview': False}))
    assert not outcome.reason
    log = (tmp_path / 'out' / 'field' / 'run.log').read_text()
    assert f'mask          1 (MASK): {np.count_nonzero(bad)} pixels\n' in log
    assert 'warnings      0' in log
    table = outcome.table
    assert len(table) > 0
    distance = np.hypot(table['x_fit'] - x, table['y_fit'] - y)
    assert distance.min() > 5.0


def test_unused_mask_of_the_file(map_file, tmp_path):
    """
    The log does not say that a file has no mask if it has one that is not
    used, alone or beside another.
    """
    with fits.open(map_file) as hdus:
        data, header = hdus[0].data, hdus[0].header
    flags = np.zeros(data.shape, dtype=np.int16)
    flags[:3] = 4
    hdus = fits.HDUList([fits.PrimaryHDU(data, header),
                         fits.ImageHDU(flags, name='DQ')])
    hdus.writeto(tmp_path / 'flags.fits')
    hdus.append(fits.ImageHDU((flags != 0).astype('u1'), name='MASK'))
    hdus.writeto(tmp_path / 'both.fits')
    process_maps(PipelineConfig(
        input={'maps': [str(tmp_path / 'flags.fits'),
                        str(tmp_path / 'both.fits')]},
        run={'detection_only': True},
        output={'directory': str(tmp_path / 'out'), 'overview': False,
                'report': False}))
    used = f'2 (MASK): {np.count_nonzero(flags)} pixels; '
    for name, text in (('flags', ''), ('both', used)):
        log = (tmp_path / 'out' / name / 'run.log').read_text()
        assert (f'mask          {text}1 (DQ) not used: see the warnings\n'
                in log)
        assert '1 (DQ) has bit flags' in log[log.index('warnings      1'):]


@pytest.mark.parametrize('suffix', ['ecsv', 'ipac', 'csv', 'fits'])
def test_table_gives_positions_and_shapes(map_file, full, tmp_path, suffix):
    """
    What one run has written can be measured again by the next.
    """
    run(PipelineConfig(
        input={'maps': [str(map_file)]},
        output={'directory': str(tmp_path / 'out'), 'csv': True,
                'overview': False}))
    path = tmp_path / 'out' / 'field' / f'catalog.{suffix}'
    if suffix == 'fits':
        path = tmp_path / 'list.fits'
        ipac = read_catalog(tmp_path / 'out' / 'field' / 'catalog.ipac')
        columns = ['HYPER_ID', 'RA', 'DEC', 'FWHM_1', 'FWHM_2', 'PA']
        listed = Table(ipac[columns])
        listed.meta.clear()
        listed.write(path)
    table = extract(map_file, sources={'table': str(path)},
                    fit={'fixed': ['position', 'shape']}).table
    assert_array_equal(table['id'], full.table['id'])
    for name in ('x_fit', 'fwhm_major_fit', 'fwhm_minor_fit'):
        assert_allclose(table[name], full.table[name], rtol=1e-6)
    assert np.all(table['flags'] & FLAGS['fixed_shape'])


def test_lists_may_be_galactic_and_have_shapes(map_file, full):
    row = full.table[:1]
    galactic = row['sky_centroid'].galactic
    result = extract(
        map_file, fit={'fixed': ['position', 'shape']},
        sources={'x': galactic.l.deg.tolist(), 'y': galactic.b.deg.tolist(),
                 'frame': 'galactic', 'fwhm_major': 6.0,
                 'fwhm_minor': 4.5, 'position_angle': 10.0})
    assert_allclose(result.table['x_fit'], row['x_fit'], atol=1e-6)
    assert_allclose(result.table['fwhm_major_sky'].value, 6.0, rtol=1e-6)
    assert_allclose(result.table['fwhm_minor_sky'].value, 4.5, rtol=1e-6)


def test_flags_in_the_log_are_counted(full):
    """
    One source is not `1 sources`.
    """
    table = full.table[:3]
    table['flags'] = [0, 1, 33]
    text = '\n'.join(replace(full, table=table).describe())
    assert 'n_pixels_fit_partial (1): 2 sources: ' in text
    assert 'near_bound (32): 1 source: ' in text


def test_positions_off_the_map_are_kept_and_flagged(map_file, full):
    sky = full.table['sky_centroid'][0]
    result = extract(map_file, sources={
        'x': [sky.ra.deg, sky.ra.deg], 'y': [sky.dec.deg, sky.dec.deg + 5]})
    assert len(result.table) == 2
    assert result.counts == '2 given, 1 measured, 1 off the map'
    assert_array_equal(result.table['flags'] & FLAGS['off_map'] > 0,
                       [False, True])


def test_sources_that_are_not_measured_are_told_by_reason(map_file, full,
                                                          tmp_path):
    """
    What was not fitted makes no group, and a row without coordinates is
    not off the map.
    """
    sky = full.table['sky_centroid'][0]
    path = tmp_path / 'list.csv'
    path.write_text(f'ID,RA,DEC\n3,{sky.ra.deg},{sky.dec.deg + 5}\n1,,\n'
                    f'2,{sky.ra.deg + 5},{sky.dec.deg}\n')
    outcome, = process_maps(PipelineConfig(
        input={'maps': [str(map_file)]}, sources={'table': str(path)},
        output={'directory': str(tmp_path), 'overview': False}))
    assert outcome.summary.startswith(
        '3 given, 0 measured, 2 off the map, 1 without a position, rms ')
    assert decode_flags(outcome.table['flags'])[1] == ['no_position']
    assert_array_equal(outcome.table['flags'] & FLAGS['off_map'] > 0,
                       [True, False, True])


@pytest.mark.parametrize(('number', 'words'), [
    (1, ', 1 companion)'), (2, ', 2 companions)')])
def test_numbers_of_companions_are_words(full, number, words):
    table = full.table.copy()
    table.meta['n_companions'] = number
    assert words in replace(full, table=table).counts


@pytest.mark.parametrize(
    ('text', 'message'),
    [('ID,RA\n1,2\n', 'DEC'),
     ('ID,RA,DEC\n1,2,3\n1,3,4\n', 'unique'),
     (None, 'list.csv')],
)
def test_bad_table_of_sources_is_one_line(map_file, tmp_path, text, message):
    path = tmp_path / 'list.csv'
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        run(PipelineConfig(input={'maps': [str(map_file)]},
                           sources={'table': str(path)},
                           output={'directory': str(tmp_path / 'out')}))
    assert '\n' not in str(caught.value)


def test_units_of_all_catalogs_can_be_chosen(map_file, full, tmp_path):
    table = run(PipelineConfig(
        input={'maps': [str(map_file)]},
        output={'directory': str(tmp_path), 'csv': True, 'overview': False,
                'flux_unit': 'mJy', 'peak_unit': 'mJy/beam'}))
    area = full.image.meta['beam_area_pix']
    flux = 1e3 * full.table['aperture_flux'].value
    peak = 1e3 * area * full.table['amplitude_fit'].value
    assert_allclose(table['amplitude_fit'].value, peak, rtol=1e-12)
    for suffix in ('ecsv', 'ipac', 'csv'):
        stored = read_catalog(tmp_path / 'field' / f'catalog.{suffix}')
        names = (('aperture_flux', 'amplitude_fit') if suffix == 'ecsv'
                 else ('FLUX', 'FLUX_PEAK'))
        assert_allclose(stored[names[0]].value, flux, rtol=1e-12)
        assert_allclose(stored[names[1]].value, peak, rtol=1e-12)
        assert str(stored[names[1]].unit) == 'mJy / beam'


@pytest.mark.parametrize('n_sigma', [5.0, 1e6])
def test_detections_have_peaks_in_the_chosen_unit(map_file, tmp_path,
                                                  n_sigma):
    table = run(PipelineConfig(
        input={'maps': [str(map_file)]}, run={'detection_only': True},
        detection={'n_sigma': n_sigma},
        output={'directory': str(tmp_path), 'flux_unit': 'mJy',
                'peak_unit': 'Jy/beam', 'overview': False}))
    assert table['peak'].unit == 'Jy/beam'


def test_noise_is_a_choice_and_told(map_file, full, tmp_path):
    white = extract(map_file, fit={'noise': 'white'}).table
    assert 'noise' not in white.meta
    assert 'CorrelatedNoise' in full.table.meta['noise']
    assert np.all(white['bkg_order'] == 1)
    run(PipelineConfig(input={'maps': [str(map_file)]},
                       output={'directory': str(tmp_path)}))
    log = (tmp_path / 'field' / 'run.log').read_text('utf-8')
    assert f"noise         {full.table.meta['noise']}" in log


def test_shoulder_filter_rejects_and_says_so(map_file, full, tmp_path):
    limit = float(np.median(full.table['shoulder_score']))
    detected = extract(map_file, run={'detection_only': True}).table
    n_rejected = np.sum(detected['shoulder_score'] > limit)
    assert n_rejected > 0
    table = run(PipelineConfig(
        input={'maps': [str(map_file)]}, fit={'max_rounds': 0},
        detection={'shoulder_filter': limit},
        output={'directory': str(tmp_path), 'overview': False}))
    assert len(table) == len(detected) - n_rejected
    log = (tmp_path / 'field' / 'run.log').read_text('utf-8')
    assert f'{n_rejected} by shoulder_filter' in log


def test_snap_radius_is_in_beam_widths(map_file):
    """
    On the map's highest pixels, detections merge.
    """
    only = {'detection_only': True}
    free = extract(map_file, run=only).table
    snapped = extract(map_file, run=only,
                      detection={'snap_radius': 5.0}).table
    assert len(snapped) < len(free)


@pytest.mark.parametrize('way', ['one', 'sources'])
def test_apertures_of_given_size(map_file, full, way):
    """
    Ellipses in arcsec and east of north, one for all or those of the
    sources, are summed whatever is fitted.
    """
    sky = full.table['sky_centroid'][:3]
    angles = [40.0, 40.0, 40.0] if way == 'one' else [10.0, 40.0, 100.0]
    sources = {'x': sky.ra.deg.tolist(), 'y': sky.dec.deg.tolist()}
    aperture = {'major': 30.0, 'minor': 20.0, 'position_angle': 40.0}
    if way == 'sources':
        sources |= {'fwhm_major': 30.0, 'fwhm_minor': 20.0,
                    'position_angle': angles}
        aperture = 'sources'
    result = extract(map_file, background={'box_sizes': [20.0]},
                     sources=sources, photometry={
        'aperture': aperture, 'aperture_correction': False,
        'fwhm_radius_ratio': 0.5})
    table = result.table
    model = make_gaussians_image(result, skip=0)
    image = (result.image.data - result.background.value) - model
    apertures = SkyEllipticalAperture(
        table['sky_centroid'][0], 15 * u.arcsec, 10 * u.arcsec,
        theta=angles[0] * u.deg).to_pixel(result.image.wcs)
    expected = apertures.do_photometry(image)[0][0]
    assert_allclose(table['aperture_flux'][0].value, expected, rtol=1e-3)
    assert np.all(table['fwhm_major_sky'][:3] != 30 * u.arcsec)


def make_gaussians_image(result, *, skip):
    """
    All fitted sources but one.
    """
    table = result.table
    image = np.zeros(result.image.shape)
    for row, source in enumerate(table):
        if row != skip:
            add_gaussians(image, *(
                np.atleast_1d(getattr(source[name], 'value', source[name]))
                for name in ('x_fit', 'y_fit', 'amplitude_fit',
                             'fwhm_major_fit', 'fwhm_minor_fit',
                             'theta_fit')))
    return image


def test_separate_background_is_a_choice(map_file, full):
    """
    Its boxes are in beam widths; the table tells which was chosen.
    """
    table = extract(map_file, background={
        'box_sizes': [6, 8], 'orders': [1, 2], 'methods': ['huber'],
        'huber_epsilons': [1.35]}).table
    assert set(table['bkg_method']) == {'huber'}
    assert set(table['bkg_order']) <= {1, 2}
    fwhm = full.image.meta['beam_fwhm_pix']
    sizes = {int(2 * (size * fwhm // 2) + 1) for size in (6, 8)}
    assert set(np.asarray(table['bkg_size'], dtype=int)) <= sizes
    # eight sources, each with a scatter of 0.2
    assert_allclose(np.median(table['flux_fit'] / full.table['flux_fit']),
                    1, atol=0.15)


def test_limits_of_apertures_and_of_fits_reach_them(map_file):
    """
    Apertures for beams alone hold less of wider sources.
    """
    table = extract(map_file, photometry={
        'fwhm_limits': [0.9, 1.0], 'aperture_correction': False}).table
    whole = extract(map_file,
                    photometry={'aperture_correction': False}).table
    assert np.median(table['aperture_flux'] / whole['aperture_flux']) < 0.97
    robust = extract(map_file, fit={'noise': 'white', 'loss': 'cauchy'})
    white = extract(map_file, fit={'noise': 'white'})
    assert np.all(robust.table['flux_fit'] != white.table['flux_fit'])


def test_fit_keys_reach_the_fitter(map_file):
    """
    Weights, tolerances, and the choice between orders.
    """
    keys = {'weights': ('power_snr', 'spatial'), 'weight_power': 3.0,
            'xtol': 1e-6, 'gtol': 1e-7, 'poly_order': (0, 1, 2),
            'criterion': 'reduced_chi2'}
    table = extract(map_file, fit={'noise': 'white', **keys}).table
    told = str(table.meta['call'])
    for name, value in keys.items():
        assert f'{name}={value!r}' in told
    assert set(table['bkg_order']) <= {0, 1, 2}
    plain = extract(map_file, fit={'noise': 'white'}).table
    assert len(table) == len(plain)
    ratio = table['flux_fit'] / plain['flux_fit']
    assert np.all(ratio != 1.0)
    assert_allclose(np.median(ratio), 1.0, atol=0.2)


def test_map_of_weights_is_read(map_file, tmp_path):
    """
    Equal weights change nothing, a hole hides its source from the fit.
    """
    options = {'noise': 'white', 'max_rounds': 0, 'bias_correction': False}
    plain = extract(map_file, fit=options).table
    weights = np.full((1, 90, 100), 3.0)
    path = tmp_path / 'weights.fits'
    fits.writeto(path, weights)
    options['weight_map'] = str(path)
    equal = extract(map_file, fit={**options, 'weights': 'map'}).table
    for name in ('flux_fit', 'flux_err', 'reduced_chi2'):
        assert_allclose(equal[name], plain[name], rtol=1e-5)
    x, y = (round(plain[name][0]) for name in ('x_fit', 'y_fit'))
    weights[0, y - 3:y + 4, x - 3:x + 4] = np.nan
    fits.writeto(path, weights, overwrite=True)
    masked = extract(map_file, fit={**options, 'weights': 'mask'}).table
    distance = np.hypot(masked['x_fit'] - x, masked['y_fit'] - y)
    assert np.min(distance) > 2.0
    assert len(masked) >= len(plain) - 2


@pytest.mark.parametrize(('weights', 'match'), [
    (np.ones((90, 99)), r'weights.fits: fit.weight_map: .* must have the '
     r'shape of data, \(90, 100\), got \(90, 99\)'),
    (np.full((90, 100), -1.0), 'fit.weight_map: .* must not be negative, '
     'its smallest value is -1'),
    (np.full((90, 100), np.nan), 'fit.weight_map is nowhere positive'),
    (None, 'fit.weight_map: .*weights.fits: no such file')])
def test_bad_map_of_weights_is_one_line(map_file, tmp_path, weights, match):
    path = tmp_path / 'weights.fits'
    if weights is not None:
        fits.writeto(path, weights)
    config = PipelineConfig(
        input={'maps': [str(map_file)]},
        fit={'weights': 'map', 'noise': 'white', 'weight_map': str(path)},
        output={'directory': str(tmp_path / 'out')})
    error = ConfigError if weights is None else PipelineError
    with pytest.raises(error, match=match) as caught:
        run(config)
    assert '\n' not in str(caught.value)


def test_large_maps_are_plotted_with_fewer_pixels(full, monkeypatch):
    """
    The plotted images have means of squares of pixels, and the sources
    their place among these.
    """
    shown = {}
    monkeypatch.setattr(
        'hyperphotutils.pipeline.extraction._MAX_PLOTTED', 70)
    monkeypatch.setattr('hyperphotutils.visualization.plot_overview',
                        lambda **kwargs: shown.update(kwargs))
    full.plot_overview('field')
    # 90 x 100 pixels, in squares of 3: at most 35 are left along an axis
    assert shown['data'].shape == shown['model'].shape == (30, 34)
    # in the unit of the file
    assert_allclose(shown['data'][5, 7].to_value('Jy / beam'),
                    np.mean(full.image.data[15:18, 21:24])
                    * full.image.meta['beam_area_pix'])
    x, y = shown['wcs'].world_to_pixel(full.table['sky_centroid'])
    assert_allclose(shown['table']['x_fit'], x, atol=1e-3)
    assert_allclose(shown['table']['y_fit'], y, atol=1e-3)
    assert_allclose(3.0 * shown['table']['fwhm_major_fit'],
                    full.table['fwhm_major_fit'])
    assert shown['beam'][0] == full.image.meta['beam_major_pix'] / 3.0
