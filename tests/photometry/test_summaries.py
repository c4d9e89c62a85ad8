# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the summaries of forced photometry and of completeness.
"""

import re

import numpy as np
import pytest
from astropy.nddata import CCDData

from hyperphotutils.datasets import make_blended_map
from hyperphotutils.photometry import (
    ForcedPhotometry,
    HyperPhotometry,
    InjectionRecovery,
)


def test_forced_photometry_has_a_line_for_each_band():
    sim = make_blended_map((100, 100), 8, seed=1)
    sources = sim.truth['id', 'sky_centroid', 'fwhm_major_sky',
                        'fwhm_minor_sky', 'position_angle']
    mask = np.zeros(sim.image.shape, dtype=bool)
    row = sim.truth[0]
    x, y = round(row['x_fit']), round(row['y_fit'])
    mask[max(y - 6, 0):y + 7, max(x - 6, 0):x + 7] = True
    masked = CCDData(sim.image, mask=mask)  # (a copy would lose its beam)
    phot = ForcedPhotometry()
    with pytest.raises(ValueError, match='no bands have been measured yet'):
        phot.summary()
    table = phot(sources, {'blue': sim.image, 'red': masked})
    blue, red = phot.summary().splitlines()
    rms = table.meta['rms']['blue'].to_value('uJy/pix')
    assert blue.startswith('blue: 8 of 8 sources measured; rms ')
    shown = re.search(r'rms (\S+) uJy / pix;', blue)
    assert float(shown[1]) == pytest.approx(rms, rel=1e-3)
    n_measured = np.isfinite(table['flux_fit_red']).sum()
    assert n_measured < 8
    assert red.startswith(f'red: {n_measured} of 8 sources measured')
    n_off = sum('off_map' in names
                for names in phot.decode_flags(table['flags_red']))
    assert f'{n_off} off_map' in red


def test_recovery_has_levels_and_bins():
    sky = make_blended_map((120, 120), 6, seed=1).image
    result = InjectionRecovery(HyperPhotometry(fwhm=4.0), snr=[2, 6, 20],
                               n_repeats=3, n_per_map=8, seed=1)(sky)
    lines = result.summary().splitlines()
    n_recovered = result.injected['recovered'].sum()
    assert lines[0].startswith(f'{n_recovered} of 24 injected sources')
    flux, _ = result.curve.flux_50
    assert lines[1].startswith(f'completeness 50 % at {flux.value:.3g} +/- ')
    assert lines[1].endswith(' Jy')
    assert len(lines) == 4 + len(result.table)


def test_recovery_without_unit_and_without_curve():
    noise = np.random.default_rng(0).normal(size=(100, 100))
    recovery = InjectionRecovery(HyperPhotometry(fwhm=4.0),
                                 snr=[50, 60, 80], n_repeats=1, n_per_map=4,
                                 seed=1)
    with pytest.warns(UserWarning, match='no curve of the completeness'):
        result = recovery(noise)
    assert 'inject fainter ones' in result.summary().splitlines()[1]
