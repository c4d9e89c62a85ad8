# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of stars and PSF on a real image.
"""

import numpy as np
import pytest
from astropy.io import fits

from hyperphotutils.psf import EmpiricalPSFBuilder, StarSelector


@pytest.mark.real_data
def test_few_stars_among_galaxies(real_data):
    """
    In a field full of galaxies, the FWHM is found from a few stars, and
    the PSF is that of the brightest.

    The detector's own FWHM of JWST in F200W is 2.1 pixels of 0.031
    arcsec; drizzling and resampling widen it.
    """
    data, error = (fits.getdata(real_data(name)).astype(float) for name in (
        'nircam_f200w_epoch1.fits', 'nircam_f200w_epoch1_error.fits'))
    stars = StarSelector(min_snr=15)(data, error=error)
    assert 2.2 < stars.meta['fwhm'] < 3.2
    psf = EmpiricalPSFBuilder(25, order=0)(data, stars, error=error)
    assert 2.1 < psf.fwhm() < 2.7
    used = psf.stars['used']
    best = int(np.argmax(np.where(used, psf.stars['snr'], 0.0)))
    assert psf.stars['snr'][best] > 500
    # what is left in the core of the brightest star
    row = np.flatnonzero(np.isfinite(psf.stars['flux_fit'])).tolist().index(
        best)
    core = psf.residuals[row][8:17, 8:17]
    assert np.abs(core).sum() < 0.04 * psf.stars['flux_fit'][best]
