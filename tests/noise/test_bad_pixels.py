# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of bad pixels: all that no beam can make, and nothing else.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import NDData
from numpy.testing import assert_array_equal
from scipy.ndimage import gaussian_filter

from hyperphotutils.noise import (
    BAD_PIXELS,
    BadPixels,
    detect_bad_pixels,
    find_fill_values,
)

NOTHING = {'glitch': 0, 'saturated': 0, 'fill': 0}


def make_noise(shape, fwhm, seed=1):
    """
    Noise of unit rms that the beam has smoothed.
    """
    data = np.random.default_rng(seed).normal(size=shape)
    data = gaussian_filter(data, fwhm / 2.3548, mode='wrap')
    return data / data.std()


def make_sources(shape, fwhm, sources):
    """
    Round point sources (x, y, peak) without noise, as wide as ``fwhm``.
    """
    y, x = np.indices(shape)
    return sum(peak * np.exp(-4 * np.log(2) * ((x - x0)**2 + (y - y0)**2)
                             / fwhm**2) for x0, y0, peak in sources)


def make_crowd(shape, fwhm, seed=2, n_beams=8.0):
    """
    A crowded field of point sources of very different heights.
    """
    rng = np.random.default_rng(seed)
    n = int(shape[0] * shape[1] / (n_beams * fwhm**2))
    data = np.zeros(shape)
    y, x = rng.integers(0, shape, size=(n, 2)).T
    np.add.at(data, (y, x), 10.0**rng.uniform(0.5, 3.5, n))
    data = gaussian_filter(data, fwhm / 2.3548, truncate=8.0)
    return data * 2.0 * np.pi * (fwhm / 2.3548)**2


def make_field(shape=(120, 120), fwhm=4.0):
    """
    A field with noise of unit rms and a bright source at (50.3, 60.2).
    """
    return (make_noise(shape, fwhm)
            + make_sources(shape, fwhm, [(50.3, 60.2, 50.0)]))


GLITCHES = {
    'single': ([80], [90]),
    'pair': ([80, 80], [90, 91]),
    'diagonal': ([80, 81], [90, 91]),
    'corner': ([80, 80, 81], [90, 91, 90]),
    'square': ([80, 80, 81, 81], [90, 91, 90, 91]),
    'row': (np.full(120, 80), np.arange(120)),
    'column': (np.arange(30, 60), np.full(30, 90)),
    'edge': ([0], [90]),
    'on a source': ([61], [50]),
    'next to a source': ([60], [53]),
}


@pytest.mark.parametrize('name', GLITCHES)
@pytest.mark.parametrize('value', [100.0, -100.0, 1e8, -1e8])
@pytest.mark.parametrize('fwhm', [4.0, 10.0])
def test_glitches(name, value, fwhm):
    """
    A few bad pixels, of any sign and height, are found, and no others.
    """
    data = make_field(fwhm=fwhm)
    y, x = GLITCHES[name]
    # of different heights, as real ones are
    data[y, x] += value * np.random.default_rng(3).uniform(1.0, 2.0, len(y))
    true = np.zeros(data.shape, dtype=bool)
    true[y, x] = True
    bad = detect_bad_pixels(data, fwhm)
    assert_array_equal(bad.glitch, true)
    assert bad.counts == NOTHING | {'glitch': len(y)}


@pytest.mark.parametrize('fwhm', [1.5, 2.0, 2.3, 3.0, 4.0, 10.0, 25.0])
def test_sources_are_no_glitches(fwhm):
    """
    A crowded field has no bad pixels, whatever its beam and noise.
    """
    shape = (150, 160)
    sky = make_crowd(shape, fwhm)
    white = np.random.default_rng(4).normal(size=shape)
    margin = np.where(np.arange(shape[1]) < 150, 1.0, 10.0)
    for noise in (0.0, make_noise(shape, fwhm), white, white * margin):
        for data in (sky + noise, -sky + noise, sky + noise + 1000.0):
            assert detect_bad_pixels(data, fwhm).counts == NOTHING
    assert detect_bad_pixels(white, fwhm).counts == NOTHING
    # single precision quantizes on a large constant
    single = (sky + white + 1e6).astype('f4')
    assert detect_bad_pixels(single, fwhm).counts == NOTHING


def test_equal_glitches():
    """
    Glitches of the same value, the highest one, are no saturated source.
    """
    data = make_field()
    data[80, 90:92] = data[30, 20] = 1000.0
    assert detect_bad_pixels(data, 4.0).counts == NOTHING | {'glitch': 3}


def test_undersampled_glitch():
    """
    With a beam of less than 2.2 pixels a star can be a single pixel.
    """
    data = np.random.default_rng(5).normal(size=(60, 60))
    data[30, 30] = 1000.0
    assert detect_bad_pixels(data, 2.1).counts['glitch'] == 0
    assert detect_bad_pixels(data, 2.5).counts['glitch'] == 1


def test_n_sigma():
    """
    The excess of a glitch over the noise is counted in its rms.
    """
    data = np.random.default_rng(6).normal(size=(60, 60))
    data[30, 30] = 20.0
    assert detect_bad_pixels(data, 4.0).counts['glitch'] == 1
    assert detect_bad_pixels(data, 4.0, n_sigma=20.0).counts == NOTHING


@pytest.mark.parametrize('dtype', ['f4', 'f8'])
@pytest.mark.parametrize(('fwhm', 'level'), [(3.0, 25.0), (4.0, 25.0),
                                             (8.0, 28.0), (25.0, 28.0)])
def test_flat_tops(fwhm, level, dtype):
    """
    The cut tops of sources are saturated, in single precision, too.
    """
    data = (make_noise((120, 120), fwhm)
            + make_sources((120, 120), fwhm,
                           [(30.5, 40.0, 30.0), (80.2, 70.4, 32.0)]))
    data = np.minimum(data, level).astype(dtype)
    bad = detect_bad_pixels(data, fwhm)
    assert_array_equal(bad.saturated, data == level)
    assert bad.counts == NOTHING | {'saturated': (data == level).sum()}


def test_large_flat_top():
    """
    A top that covers squares is saturated, not fill.
    """
    data = (make_noise((120, 120), 4.0)
            + make_sources((120, 120), 4.0, [(60.0, 60.0, 5000.0)]))
    data = np.minimum(data, 100.0)
    assert (data == 100.0).sum() > 30
    assert detect_bad_pixels(data, 4.0).counts == NOTHING | {
        'saturated': (data == 100.0).sum()}
    assert find_fill_values(data, 4.0)[1] == ()


def test_equal_peaks_are_not_flat():
    """
    Without noise a source between pixels has two or four equal peaks.
    """
    data = make_sources((80, 80), 4.0, [(20.5, 20.5, 30.0),
                                        (50.5, 50.0, 100.0)])
    assert data[20, 20] == data[21, 21] == data[20, 21]
    assert detect_bad_pixels(data, 4.0).counts == NOTHING


FRAMES = {
    'around': np.s_[20:-20, 20:-20],
    'left': np.s_[:, 20:],
    'most': np.s_[50:-50, 50:-50],
}


@pytest.mark.parametrize('frame', FRAMES)
@pytest.mark.parametrize('value', [0.0, -32768.0, 99999.0])
@pytest.mark.parametrize('level', [0.0, -30.0, 30.0])
def test_fill_around_a_field(frame, value, level):
    """
    One value around a field is no data, and so it is wherever it is.
    """
    data = np.full((160, 160), value)
    inner = FRAMES[frame]
    data[inner] = make_field((160, 160))[inner] + level
    data[80:84, 80:84] = value
    data[90, 70] = value
    fill, values = find_fill_values(data, 4.0)
    assert_array_equal(fill, data == value)
    assert values == (value,)
    assert_array_equal(detect_bad_pixels(data, 4.0).fill, fill)


def test_several_fill_values():
    """
    A gap with another value than the frame is found with it.
    """
    data = make_field()
    data[:10] = 0.0
    data[70:75, 20:100] = -999.0
    data[100, 50:60] = -999.0
    fill, values = find_fill_values(data, 4.0)
    assert_array_equal(fill, (data == 0.0) | (data == -999.0))
    assert sorted(values) == [-999.0, 0.0]


def test_tapered_map():
    """
    Zeros are fill where the data fade out towards them.
    """
    taper = np.clip(np.hypot(*(np.indices((200, 200)) - 99.5)), 50.0, 90.0)
    taper = 0.5 + 0.5 * np.cos(np.pi * (taper - 50.0) / 40.0)
    data = make_field((200, 200)) * taper
    data[taper < 1e-10] = 0.0
    assert_array_equal(find_fill_values(data, 4.0)[0], data == 0.0)


@pytest.mark.parametrize('level', [0.0, 10.0])
@pytest.mark.parametrize('dtype', ['f4', 'f8'])
def test_model_maps_have_no_fill(level, dtype):
    """
    The constant background of a map without noise is no fill.
    """
    sources = [(30.3, 40.2, 50.0), (60.5, 60.5, 5.0), (66.0, 62.0, 9.0)]
    model = make_sources((200, 200), 4.0, sources)
    cut = np.where(model > 1e-3 * model.max(), model, 0.0)
    for data in (model, cut, np.where(model > 5.0, 1.0, 0.0)):
        data = (data + level).astype(dtype)
        assert detect_bad_pixels(data, 4.0).counts == NOTHING


@pytest.mark.parametrize('quantum', [0.01, 0.1, 0.3, 1.0, 3.0])
def test_quantized_maps(quantum):
    """
    The values of integers are data, but one far from all others is not.
    """
    data = make_field((200, 200)) + 15.0
    data = np.rint(data / quantum).astype('i4')
    assert detect_bad_pixels(data, 4.0).counts == NOTHING
    if quantum > 1.0:
        # most of the sky is one value itself
        return
    for value in (-32768, 0):
        data[:30] = value
        bad = detect_bad_pixels(data, 4.0)
        assert bad.counts == NOTHING | {'fill': bad.counts['fill']}
        # five quanta from the data, at least
        assert_array_equal(bad.fill, data == value)


@pytest.mark.parametrize('mean', [0.01, 0.1, 1.0, 10.0])
def test_counts(mean):
    """
    The zeros of a map of counts are data.
    """
    rng = np.random.default_rng(7)
    sky = make_sources((200, 200), 4.0, [(50.3, 60.2, 50.0)])
    data = rng.poisson(mean + sky)
    assert detect_bad_pixels(data, 4.0).counts == NOTHING


@pytest.mark.parametrize('data', [
    np.zeros((50, 50)), np.full((50, 50), np.nan), np.ones((1, 1)),
    np.ones((2, 7)), np.arange(20.0).reshape(4, 5), np.empty((0, 3)),
    np.where(np.eye(50) > 0, 1.0, np.nan)],
    ids=['zeros', 'nan', 'pixel', 'strip', 'tiny', 'empty', 'diagonal'])
def test_nothing_to_decide(data):
    """
    Constant, blank, and tiny maps have no bad pixels.
    """
    assert detect_bad_pixels(data, 4.0).counts == NOTHING


def test_blank_pixels():
    """
    Pixels that are NaN, infinite, or masked are neither bad nor taken
    for neighbors.
    """
    data = make_field()
    data[80, 90] = 1e4
    data[:, 100:] = np.nan
    data[20, 20:30] = np.inf
    mask = np.zeros(data.shape, dtype=bool)
    mask[:30] = True
    data[mask] *= 1e6
    bad = detect_bad_pixels(data, 4.0, mask=mask)
    assert np.argwhere(bad.mask).tolist() == [[80, 90]]


def test_kinds_of_input():
    """
    Units and masks of the data mean what they mean everywhere.
    """
    data = make_field()
    data[80, 90] = data[40, 20] = 1e4
    mask = np.zeros(data.shape, dtype=bool)
    mask[40, 20] = True
    expected = detect_bad_pixels(data, 4.0, mask=mask)
    assert expected.counts['glitch'] == 1
    for image in (np.ma.array(data, mask=mask), NDData(data, mask=mask),
                  NDData(data, mask=mask, unit='Jy')):
        assert_array_equal(detect_bad_pixels(image, 4.0).bits,
                           expected.bits)
    bad = detect_bad_pixels(data << u.Jy, 4.0, mask=mask)
    assert_array_equal(bad.bits, expected.bits)
    assert data[80, 90] == 1e4


REAL = [('l1551_scuba_850um.fits', 2.3), ('orion_kl_alma_cont.fits', 3.4),
        ('g035_pdbi_cont.fits', 4.1), ('map_500_Gaussians_1.fits', 3.0),
        ('test_2d_map_1.fits', 4.2), ('nircam_f200w_epoch1.fits', 2.3),
        ('nircam_f200w_epoch2.fits', 2.3), ('bgps_gc_1mm.fits', 4.6)]


@pytest.mark.real_data
@pytest.mark.parametrize('stretch', [1.0, 1.25])
@pytest.mark.parametrize(('name', 'fwhm'), REAL)
def test_real_maps(real_data, name, fwhm, stretch):
    """
    Nothing real is bad, even where the beam is stated too wide.
    """
    data = fits.getdata(real_data(name)).squeeze()
    bad = detect_bad_pixels(data, stretch * fwhm)
    # one pixel at the ragged margin of the Galactic center
    expected = 1 if name.startswith('bgps') else 0
    assert bad.counts == NOTHING | {'glitch': expected}


@pytest.mark.parametrize('value', [1e308, -1e308, 1e-320])
def test_extreme_values(value):
    """
    Numbers at the ends of the range give no warnings.
    """
    data = make_field()
    data[80, 90] = data[30:40, 20:24] = value
    bad = detect_bad_pixels(data, 4.0)
    assert bad.fill[30:40, 20:24].all()


@pytest.mark.parametrize(('change', 'error', 'match'), [
    ({'data': np.ones(5)}, ValueError, 'data must be 2D'),
    ({'data': np.ones((5, 5), dtype=complex)}, TypeError, 'real numbers'),
    ({'fwhm': 0.0}, ValueError, 'fwhm must be a positive'),
    ({'fwhm': 3 * u.arcsec}, ValueError, 'fwhm must be a positive'),
    ({'n_sigma': -1.0}, ValueError, 'n_sigma must be a positive'),
    ({'mask': np.ones((3, 3), dtype=bool)}, ValueError, 'mask must have'),
])
def test_wrong_arguments(change, error, match):
    """
    Wrong arguments are named.
    """
    arguments = {'data': np.ones((5, 5)), 'fwhm': 4.0} | change
    with pytest.raises(error, match=match):
        detect_bad_pixels(**arguments)


def test_bits():
    """
    The masks and the counts follow from the bits.
    """
    bits = np.array([list(BAD_PIXELS.values()) + [0, 5]], dtype='u1')
    bad = BadPixels(bits)
    assert bad.counts == {'glitch': 2, 'saturated': 1, 'fill': 2}
    assert_array_equal(bad.mask, bits > 0)
    assert repr(bad) == '<BadPixels: glitch=2, saturated=1, fill=2>'
