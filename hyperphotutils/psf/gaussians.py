# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
A PSF as a short sum of concentric Gaussians.
"""

from hyperphotutils.utils.mixtures import (
    ConcentricGaussians,
    fit_concentric_gaussians,
)

__all__ = ['ConcentricGaussians', 'fit_concentric_gaussians']
