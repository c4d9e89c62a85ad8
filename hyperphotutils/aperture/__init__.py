# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Elliptical apertures of Gaussian sources, and photometry in them.
"""

from hyperphotutils.aperture.ellipse import *  # noqa: F403
from hyperphotutils.aperture.local import *
from hyperphotutils.aperture.photometry import *  # noqa: F403
