# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the responses module.
"""

import numpy as np
import pytest
from astropy.table import QTable
from numpy.testing import assert_allclose

from hyperphotutils.blend import BlendGroupFitter
from hyperphotutils.blend.solver import AA, N_PARAMS, X
from hyperphotutils.noise import CorrelatedNoise
from hyperphotutils.utils import add_gaussians

INIT = QTable({'x_init': [25.0, 30.0, 60.0], 'y_init': [30.0, 32.0, 20.0],
               'fwhm_major_init': [5.0, 5.5, 6.0],
               'fwhm_minor_init': [4.0, 5.0, 4.0],
               'theta_init': [30.0, 0.0, 120.0]})


@pytest.mark.parametrize('options', [
    {}, {'noise': CorrelatedNoise.from_beam(0.05, fwhm=4.5)}])
def test_amplitudes_follow_positions_and_widths(options):
    """
    The response is the change of all amplitudes of a group when the
    position or the width of one source is changed.
    """
    data = np.full((60, 80), 1.0)
    add_gaussians(data, INIT['x_init'], INIT['y_init'], [5.0, 3.0, 4.0],
                  INIT['fwhm_major_init'], INIT['fwhm_minor_init'],
                  INIT['theta_init'])
    fitter = BlendGroupFitter(4.5, fixed=('position', 'shape'),
                              poly_order=1)
    fitter(data, init_params=INIT, **options)
    found = {len(item.rows[0]): item for item in fitter.held_responses}
    for column, param, step in (('x_init', X, 1e-3),
                                ('fwhm_major_init', AA, 1e-3)):
        for source in range(3):
            changed = []
            for sign in (-1, 1):
                init = INIT.copy()
                init[column][source] += sign * step
                table = fitter(data, init_params=init, **options)
                changed.append(np.asarray(table['amplitude_fit']))
            slope = (changed[1] - changed[0]) / (2.0 * step)
            if param == AA:
                # from the FWHM to the variance
                slope /= 2.0 * INIT[column][source] / (8.0 * np.log(2.0))
            item = found[2 if source < 2 else 1]
            expected = item.response[
                0, :, N_PARAMS * (source % 2) + param]
            assert_allclose(slope[item.rows[0]], expected, rtol=1e-3,
                            atol=1e-5)


def test_correlation():
    """
    The correlations are those of a free fit.
    """
    data = np.random.default_rng(1).normal(0.0, 1e-6, (60, 80))
    add_gaussians(data, INIT['x_init'], INIT['y_init'], [5.0, 3.0, 4.0],
                  INIT['fwhm_major_init'], INIT['fwhm_minor_init'],
                  INIT['theta_init'])
    fitter = BlendGroupFitter(4.5, fixed=('position', 'shape'))
    fitter(data, init_params=INIT)
    free = BlendGroupFitter(4.5)
    free(data, init_params=INIT)
    position = free.source_covariance.position
    expected = position[:, 0, 1] / np.sqrt(position[:, 0, 0]
                                           * position[:, 1, 1])
    for item in fitter.held_responses:
        for k, row in enumerate(item.rows[0]):
            value = item.correlation[0, N_PARAMS * k + 1, N_PARAMS * k + 2]
            assert_allclose(value, expected[row], atol=1e-3)
