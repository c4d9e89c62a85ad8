# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Galaxies fitted by Sersic profiles that are convolved with the PSF.
"""

from hyperphotutils.galaxy.cube import ChiSquareCube, SersicCube
from hyperphotutils.galaxy.fitter import *  # noqa: F403
from hyperphotutils.galaxy.mixture import (
    mixture_weights,
    sersic_b,
    sersic_flux,
    sersic_transform,
)
from hyperphotutils.galaxy.plots import *  # noqa: F403
from hyperphotutils.galaxy.render import SersicRenderer
