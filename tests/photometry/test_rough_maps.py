# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of HyperPhotometry on maps with the flaws of real ones.
"""

import numpy as np
import pytest
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

from hyperphotutils.blend.candidates import candidate_snr
from hyperphotutils.datasets import make_blended_map
from hyperphotutils.photometry import REJECTION_REASONS, HyperPhotometry
from hyperphotutils.utils import FLAGS

FWHM = 4.0
TO_FLUX = np.pi / (4.0 * np.log(2.0)) * FWHM**2
SIZE = 90
# x, y, peak in units of the noise
SOURCES = ((25.3, 30.1, 50.0), (60.7, 55.2, 30.0), (40.0, 70.0, 20.0))
ROWS, COLS = np.indices((SIZE, SIZE))
MODES = ('correlated', 'white')


def beam_noise(*, seed=1, shape=(SIZE, SIZE)):
    """
    Noise of unit variance that the beam has smoothed.
    """
    data = gaussian_filter(np.random.default_rng(seed).normal(size=shape),
                           FWHM / 2.3548, mode='wrap')
    return data / data.std()


def sky(sources=SOURCES, *, seed=1):
    """
    Round sources in noise that the beam has smoothed.
    """
    data = beam_noise(seed=seed)
    for x, y, peak in sources:
        data += peak * np.exp(-4.0 * np.log(2.0) * (
            (COLS - x)**2 + (ROWS - y)**2) / FWHM**2)
    return data


def measure(data, noise='correlated', **options):
    """
    The table of a map.
    """
    return HyperPhotometry(FWHM, noise=noise, **options)(data)


def sources_of(table, sources=SOURCES, *, radius=1.0):
    """
    The row of each source; none is lost or found twice.
    """
    rows = []
    for x, y, _ in sources:
        near = np.flatnonzero(
            np.hypot(table['x_fit'] - x, table['y_fit'] - y) < radius)
        assert len(near) == 1, f'{len(near)} rows at {x}, {y}'
        rows.append(near[0])
    return table[rows]


def has_flag(table, name):
    """
    Which rows have a flag.
    """
    return (np.asarray(table['flags']) & FLAGS[name]) > 0


def reliable(table):
    """
    The rows that are not doubtful.
    """
    return table[~has_flag(table, 'doubtful')]


@pytest.mark.parametrize('noise', MODES)
@pytest.mark.parametrize('slope', [1.0, 3.0])
def test_a_plane_is_no_noise(noise, slope):
    """
    A plane of some rms a pixel changes neither the table nor its errors,
    but for the pixels of a fit, where a detection moves to the next one.
    The errors for white noise are several times too small here.
    """
    margin = 0.5 if noise == 'correlated' else 1.5
    expected = sources_of(measure(sky(), noise))
    table = measure(sky() + slope * COLS - 0.3 * slope * ROWS, noise)
    assert len(reliable(table)) == len(SOURCES)
    found = sources_of(table)
    assert_allclose(found['flux_err'], expected['flux_err'], rtol=0.1)
    for name in ('flux', 'amplitude', 'x', 'y'):
        assert_allclose((found[f'{name}_fit'] - expected[f'{name}_fit'])
                        / expected[f'{name}_err'], 0.0, atol=margin,
                        err_msg=name)


@pytest.mark.parametrize('noise', MODES)
def test_a_constant_changes_nothing(noise):
    """
    Rounding errors are those of the sources, not of what lies below.
    """
    table = measure(sky(), noise)
    shifted = measure(sky() + 1e7, noise)
    change = np.abs(shifted['flux_fit'] - table['flux_fit'])
    assert np.all(change < 1e-2 * table['flux_err'])


@pytest.mark.parametrize('noise', MODES)
def test_tops_that_are_cut(noise):
    """
    The sources are fitted on the rest of their pixels, and flagged.
    """
    table = sources_of(measure(np.minimum(sky(), 25.0), noise))
    assert_array_equal(has_flag(table, 'saturated'), [True, True, False])
    ratio = table['flux_fit'] / TO_FLUX / [peak for *_, peak in SOURCES]
    assert_allclose(ratio, 1.0, atol=0.25)


@pytest.mark.parametrize('noise', MODES)
def test_a_blank_peak(noise):
    """
    A source without a value at its peak is measured like the others.
    """
    data = sky()
    expected = sources_of(measure(data, noise))
    data[30, 25] = np.nan
    table = sources_of(measure(data, noise))
    assert_allclose((table['flux_fit'] - expected['flux_fit'])
                    / table['flux_err'], 0.0, atol=2.0)


@pytest.mark.parametrize('noise', MODES)
@pytest.mark.parametrize('height', [100.0, 1e4, 1e8])
def test_a_glitch(noise, height):
    """
    One pixel that no beam can make is no source, and hides none.
    """
    data = sky()
    expected = sources_of(measure(data, noise))
    data[12, 70] += height
    data[57, 62] += height  # in the wing of a source
    table = measure(data, noise)
    assert table.meta['n_bad_pixels']['glitch'] >= 2
    assert len(reliable(table)) == len(SOURCES)
    found = sources_of(table)
    assert_array_equal(has_flag(found, 'bad_pixels'), [False, True, False])
    assert_allclose(found['flux_fit'][[0, 2]], expected['flux_fit'][[0, 2]],
                    atol=0.2 * np.max(expected['flux_err']))


@pytest.mark.parametrize('noise', MODES)
def test_zeros_around_a_field(noise):
    """
    They are no data: as if they were masked.
    """
    data = sky()
    outside = np.hypot(COLS - 44, ROWS - 44) > 41.0
    masked = HyperPhotometry(FWHM, noise=noise)(data, mask=outside)
    table = measure(np.where(outside, 0.0, data), noise)
    assert len(table) == len(masked)
    assert_allclose(sources_of(table)['flux_fit'],
                    sources_of(masked)['flux_fit'], rtol=1e-6)


@pytest.mark.parametrize('noise', MODES)
@pytest.mark.parametrize('kind', ['growing', 'step'])
def test_noise_that_varies(noise, kind):
    """
    Of noise from 1 to 10 across the map, and of a step, five sigma are
    those of the place: there is no more than one false source on three
    maps, and those of the quiet places are not lost.
    """
    scale = (1.0 + 9.0 * (COLS / SIZE)**2 if kind == 'growing'
             else np.where(COLS < 45, 1.0, 6.0))
    n_false = 0
    sources = ((12.3, 30.1, 15.0), (20.4, 66.0, 20.0))
    for seed in (5, 6, 7):
        data = beam_noise(seed=seed) * scale + sky(sources) - sky(())
        table = measure(data, noise)
        sources_of(table, sources)
        n_false += len(reliable(table)) - len(sources)
    assert n_false <= 1


@pytest.mark.parametrize('noise', MODES)
def test_a_margin_without_data_changes_nothing(noise):
    """
    NaN rows and columns around a map: the same table, beyond a millionth
    of the errors.
    """
    data = sky()
    phot = HyperPhotometry(FWHM, noise=noise)
    expected = phot(data)
    table = phot(np.pad(data, ((3, 40), (25, 7)), constant_values=np.nan))
    assert len(table) == len(expected)
    for name, shift in (('x', 25.0), ('y', 3.0), ('amplitude', 0.0),
                        ('flux', 0.0), ('fwhm_major', 0.0)):
        change = (table[f'{name}_fit'] - expected[f'{name}_fit'] - shift
                  ) / expected[f'{name}_err']
        assert np.max(np.abs(change)) < 1e-6, name


@pytest.fixture(name='both_modes', scope='module')
def fixture_both_modes():
    """
    Tables of the same maps with both kinds of noise, on all flaws.
    """
    sources = [(x + 0.3 * k, y - 0.2 * k, peak) for k, (x, y, peak) in
               enumerate((x, y, 10.0 + x / 4.0) for x in range(12, 90, 22)
                         for y in range(12, 90, 22))]
    flaws = {
        'none': lambda data: data,
        'plane': lambda data: data + 2.0 * COLS,
        'cut': lambda data: np.minimum(data, 20.0),
        'glitch': lambda data: np.where((COLS == 23) & (ROWS == 23), 1e5,
                                        data),
        'fill': lambda data: np.where(COLS + ROWS > 172, 0.0, data),
        'step': lambda data: data + np.where(COLS < 45, 0.0,
                                             2.0 * beam_noise(seed=9)),
        'constant': lambda data: data + 1e5}
    tables = {}
    for name, spoil in flaws.items():
        for seed in (1, 2):
            data = spoil(sky(sources, seed=seed))
            tables[name, seed] = [measure(data, noise) for noise in MODES]
    return sources, tables


def test_default_keeps_what_white_keeps(both_modes):
    """
    On each of these maps every true source that ``noise='white'``
    measures has a row by default.
    """
    sources, tables = both_modes
    for case, (default, white) in tables.items():
        for x, y, _ in sources:
            kept = [np.any(np.hypot(table['x_fit'] - x, table['y_fit'] - y)
                           < 0.5 * FWHM) for table in (default, white)]
            assert kept[0] or not kept[1], (case, x, y)


def test_errors_are_those_of_the_scatter(both_modes):
    """
    By default the stated errors of peaks and positions are within a
    factor of 2 of the scatter.
    """
    sources, tables = both_modes
    true = np.array(sources)
    for name in dict.fromkeys(case for case, _ in tables):
        pulls = []
        for seed in (1, 2):
            table = tables[name, seed][0]
            for x, y, peak in true:
                distance = np.hypot(table['x_fit'] - x, table['y_fit'] - y)
                row = table[np.argmin(distance)]
                if np.min(distance) < 0.5 * FWHM:
                    pulls.append([
                        (row['x_fit'] - x) / row['x_err'],
                        (row['y_fit'] - y) / row['y_err'],
                        (row['amplitude_fit'] - peak)
                        / row['amplitude_err']])
        pulls = np.array(pulls)
        for pull in (pulls[:, :2], pulls[:, 2]):
            scatter = np.std(pull)
            assert 0.5 < scatter < 2.0, (name, scatter)


@pytest.mark.parametrize('noise', MODES)
def test_every_detection_has_a_row_or_a_reason(noise):
    """
    Detections on the map and companions, less those of them that are
    listed as rejected, are the rows of the table; reasons, searches, and
    counts are those of the list.
    """
    sim = make_blended_map((150, 150), 60, blend_fraction=0.6, seed=4)
    phot = HyperPhotometry(sim.image.meta['beam_fwhm_pix'], noise=noise)
    table, rejected = phot(sim.image), phot.rejected
    from_map = np.count_nonzero(rejected['search'] == 0)
    meta = table.meta
    assert len(table) == meta['n_detected'] - from_map + meta['n_companions']
    companions = (has_flag(table, 'residual_detection')
                  | has_flag(table, 'split_pair'))
    assert np.count_nonzero(companions) >= meta['n_companions']
    assert set(rejected['reason']) <= set(REJECTION_REASONS)
    assert np.all((rejected['search'] >= 0) & (rejected['search'] <= 2))
    for reason in REJECTION_REASONS:
        assert meta['n_rejected'].get(reason, 0) == np.count_nonzero(
            rejected['reason'] == reason)
    x, y = sim.image.wcs.world_to_pixel(rejected['sky_centroid'])
    assert_allclose(x, rejected['x_init'], atol=1e-6)
    assert_allclose(y, rejected['y_init'], atol=1e-6)


def test_detections_are_where_the_rows_say():
    """
    Each detection of the finder is the ``x_init`` and ``y_init`` of a
    row or of a rejected one.
    """
    data = sky()
    data[50:60, 10:20] += 4.0  # a hump that is no source
    phot = HyperPhotometry(FWHM)
    table = phot(data)
    detected = phot.finder(data, mask=np.zeros(data.shape, dtype=bool))
    known = np.concatenate([
        np.column_stack((one['x_init'], one['y_init']))
        for one in (table, phot.rejected)])
    for x, y in zip(detected['x_centroid'], detected['y_centroid'],
                    strict=True):
        assert np.min(np.hypot(*(known - [x, y]).T)) < 1e-6


def test_duplicates_are_rejected_with_their_reason():
    """
    A finder that gives a source twice: one row, and one reason.
    """
    def twice(*_, **__):
        x, y, _ = np.transpose(SOURCES)
        return QTable({'x_centroid': np.append(x, x[0] + 0.5),
                       'y_centroid': np.append(y, y[0])})

    phot = HyperPhotometry(FWHM, finder=twice, max_rounds=0)
    table = phot(sky())
    assert len(sources_of(table)) == len(table) == 3
    assert list(phot.rejected['reason']) == ['duplicate']
    assert list(phot.rejected['search']) == [0]
    assert table.meta['n_rejected'] == {'duplicate': 1}


def test_bad_pixels_can_be_kept():
    """
    With ``mask_bad_pixels=False`` cut tops are data.
    """
    data = np.minimum(sky(), 25.0)
    kept = measure(data, mask_bad_pixels=False)
    assert 'n_bad_pixels' not in kept.meta
    assert not has_flag(kept, 'saturated').any()


def test_candidates_refused_once_are_tested_again(monkeypatch):
    """
    The covariance of the first test of candidates still has them in it.
    """
    sim = make_blended_map((150, 150), 30, seed=5)
    fwhm = sim.image.meta['beam_fwhm_pix']
    expected = HyperPhotometry(fwhm)(sim.image)
    calls = []

    def refuse_first(*args, **kwargs):
        snr = candidate_snr(*args, **kwargs)
        calls.append(len(snr))
        return snr if len(calls) > 1 else np.zeros_like(snr)

    monkeypatch.setattr('hyperphotutils.photometry.search.candidate_snr',
                        refuse_first)
    phot = HyperPhotometry(fwhm)
    table = phot(sim.image)
    assert calls[0] > 0
    assert np.any(table['flags'] & FLAGS['residual_detection'])
    assert len(table) == len(expected)
    # what has a row does not stand in the list of rejected ones, too
    distance = np.hypot(
        np.subtract.outer(phot.rejected['x_init'], table['x_fit']),
        np.subtract.outer(phot.rejected['y_init'], table['y_fit']))
    assert np.all(distance >= 0.5 * fwhm)
