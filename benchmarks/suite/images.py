# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Benchmarks of PSFs, galaxies, and image subtraction.
"""

import time

from hyperphotutils.datasets import (
    make_galaxy_field,
    make_image_pair,
    make_star_field,
)
from hyperphotutils.galaxy import SersicFitter
from hyperphotutils.psf import EmpiricalPSFBuilder, StarSelector
from hyperphotutils.subtraction import ImageSubtractor


class PSF:
    """
    A PSF from the stars of an image.
    """

    timer = time.process_time

    def setup(self):
        """
        Simulate the image.
        """
        self.field = make_star_field((400, 400), n_stars=50, seed=1)
        self.stars = StarSelector()(self.field.data, error=self.field.error)
        self.builder = EmpiricalPSFBuilder(size=25, order=1)

    def time_psf(self):
        """
        Build the PSF.
        """
        self.builder(self.field.data, self.stars, error=self.field.error)

    def peakmem_psf(self):
        """
        Build the PSF.
        """
        self.builder(self.field.data, self.stars, error=self.field.error)


class Galaxies:
    """
    Sersic profiles of galaxies.
    """

    timer = time.process_time

    def setup(self):
        """
        Simulate the image.
        """
        self.field = make_galaxy_field((400, 400), 20, seed=2)
        self.fitter = SersicFitter(self.field.psf, size=48)

    def time_fit(self):
        """
        Fit all galaxies.
        """
        self.fitter(self.field.data, error=self.field.error,
                    init_params=self.field.truth)

    def peakmem_fit(self):
        """
        Fit all galaxies.
        """
        self.fitter(self.field.data, error=self.field.error,
                    init_params=self.field.truth)


class Subtraction:
    """
    The difference of two images.
    """

    timer = time.process_time

    def setup(self):
        """
        Simulate the images.
        """
        self.pair = make_image_pair((512, 512), seed=1)
        self.subtract = ImageSubtractor(kernel_order=1)

    def time_difference(self):
        """
        Subtract the images.
        """
        self.subtract(self.pair.science, self.pair.template)

    def peakmem_difference(self):
        """
        Subtract the images.
        """
        self.subtract(self.pair.science, self.pair.template)
