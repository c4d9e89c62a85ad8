# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Benchmarks of the parts that measure a map.

All times are CPU times, which depend less on other work of the machine.
"""

import time

import numpy as np

from hyperphotutils.aperture import measure_apertures
from hyperphotutils.background import (
    LocalPolynomialBackground,
    PolynomialBackground2D,
)
from hyperphotutils.blend import BlendGroupFitter
from hyperphotutils.datasets import make_blended_map
from hyperphotutils.detection import HighPassStarFinder
from hyperphotutils.noise import CorrelatedNoise
from hyperphotutils.photometry import HyperPhotometry

_FWHM = 4.0
_SHAPE = ('x_fit', 'y_fit', 'amplitude_fit', 'fwhm_major_fit',
          'fwhm_minor_fit', 'theta_fit')


class Map:
    """
    A simulated map with 150 sources, a third of them blended.
    """

    timer = time.process_time

    def setup(self, *_):
        """
        Simulate the map.
        """
        self.sim = make_blended_map((300, 300), 150, beam=_FWHM, seed=1)
        self.image = self.sim.image
        self.truth = self.sim.truth
        self.x, self.y = (np.asarray(self.truth[name])
                          for name in ('x_fit', 'y_fit'))


class Detection(Map):
    """
    Detection in the high-pass filtered map.
    """

    def setup(self):
        """
        Make the finder.
        """
        super().setup()
        self.finder = HighPassStarFinder(fwhm=_FWHM, n_sigma=5.0)

    def time_finder(self):
        """
        Detect the sources.
        """
        self.finder(self.image)

    def peakmem_finder(self):
        """
        Detect the sources.
        """
        self.finder(self.image)


class Background(Map):
    """
    Polynomial backgrounds.
    """

    params = ('lsq', 'huber', 'theilsen')
    param_names = ('method',)

    def setup(self, method):
        """
        Make the estimator.
        """
        super().setup()
        self.local = LocalPolynomialBackground(
            box_sizes=(21, 31), methods=method, source_fwhm=_FWHM)

    def time_map(self, method):
        """
        Fit the background of the map.
        """
        PolynomialBackground2D(self.image, methods=method)

    def time_sources(self, method):
        """
        Fit the backgrounds of the sources.
        """
        self.local(self.image.data, self.x, self.y)

    def peakmem_sources(self, method):
        """
        Fit the backgrounds of the sources.
        """
        self.local(self.image.data, self.x, self.y)


class Noise(Map):
    """
    The covariance of noise and background.
    """

    def time_covariance(self):
        """
        Measure the covariance.
        """
        CorrelatedNoise.from_image(self.image, _FWHM)


class Fit(Map):
    """
    Simultaneous fits of blended sources at known positions.
    """

    params = ('white', 'correlated')
    param_names = ('noise',)

    def setup(self, noise):
        """
        Make the initial values.
        """
        super().setup()
        self.init = self.truth['x_fit', 'y_fit'].copy()
        self.init.rename_columns(('x_fit', 'y_fit'), ('x_init', 'y_init'))
        self.noise = {'error': self.sim.rms} if noise == 'white' else {
            'noise': CorrelatedNoise.from_beam(self.sim.rms, _FWHM)}

    def time_fit(self, noise):
        """
        Fit all groups.
        """
        BlendGroupFitter(fwhm=_FWHM)(self.image, self.init, **self.noise)

    def peakmem_fit(self, noise):
        """
        Fit all groups.
        """
        BlendGroupFitter(fwhm=_FWHM)(self.image, self.init, **self.noise)


class Aperture(Map):
    """
    Apertures on the map without the other sources.
    """

    def setup(self):
        """
        Collect the sources.
        """
        super().setup()
        self.sources = [np.asarray(self.truth[name]) for name in _SHAPE]
        self.error = np.full(self.image.shape, self.sim.rms.value)

    def time_apertures(self):
        """
        Measure all sources.
        """
        measure_apertures(self.image.data, *self.sources, error=self.error)

    def peakmem_apertures(self):
        """
        Measure all sources.
        """
        measure_apertures(self.image.data, *self.sources, error=self.error)


class Photometry(Map):
    """
    All steps, from the map to the table.
    """

    params = ('white', 'correlated')
    param_names = ('noise',)

    def time_photometry(self, noise):
        """
        Measure the map.
        """
        HyperPhotometry(_FWHM, noise=noise)(self.image)

    def peakmem_photometry(self, noise):
        """
        Measure the map.
        """
        HyperPhotometry(_FWHM, noise=noise)(self.image)
