# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of image subtraction on two epochs of a field that was observed.
"""

import numpy as np
import pytest
from astropy.stats import mad_std

from hyperphotutils.subtraction import ImageSubtractor


@pytest.mark.real_data
def test_two_epochs_of_nircam(real_data):
    """
    The noise of the decorrelated difference of two drizzled mosaics is
    white and as large as stated, and their galaxies are gone.
    """
    names = [f'nircam_f200w_epoch{epoch}{kind}.fits' for epoch in (2, 1)
             for kind in ('', '_error')]
    science, error, template, template_error = map(real_data, names)
    result = ImageSubtractor()(science, template, error=error,
                               template_error=template_error)
    assert str(result.unit) == 'MJy / sr'
    white = result.decorrelated
    pull = np.where(white.mask, np.nan, white.significance)
    assert abs(mad_std(pull, ignore_nan=True) - 1.0) < 0.05
    product = np.clip(pull[:, 1:] * pull[:, :-1], -9.0, 9.0)
    assert abs(np.nanmean(product)) < 0.1
    assert np.nanmean(np.abs(pull) > 5.0) < 2e-3
    assert result.mask.mean() < 0.03
    assert abs(result.kernel_sum(450, 450)[0] - 1.0) < 0.05
