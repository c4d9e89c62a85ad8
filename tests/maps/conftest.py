# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fixtures for the tests of maps.
"""

import numpy as np
import pytest
from astropy.io import fits


@pytest.fixture
def make_hdu():
    """
    A function that makes the HDU of a good map; cards change it.

    A card of `None` is left out.
    """

    def make(data=None, **cards):
        header = fits.Header()
        for key, value in {
            'CTYPE1': 'RA---TAN', 'CTYPE2': 'DEC--TAN',
            'CRVAL1': 83.8, 'CRVAL2': -5.4, 'CRPIX1': 20.5, 'CRPIX2': 15.5,
            'CDELT1': -2 / 3600, 'CDELT2': 2 / 3600, 'BUNIT': 'Jy/beam',
            'BMAJ': 10 / 3600, 'BMIN': 8 / 3600, 'BPA': 30.0, **cards,
        }.items():
            if value is not None:
                header[key] = value
        if data is None:
            data = np.arange(1200.0).reshape(30, 40)
        return fits.PrimaryHDU(data, header)

    return make
