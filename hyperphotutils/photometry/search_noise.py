# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The noise of a map during the search for its sources.
"""

from copy import copy

import numpy as np

from hyperphotutils.blend.misfit import measure_misfit
from hyperphotutils.detection.filters import high_pass_filter
from hyperphotutils.detection.highpass import HighPassStarFinder
from hyperphotutils.noise.clipped import clipped_rms
from hyperphotutils.noise.local import measure_noise_variation
from hyperphotutils.photometry.measurement import (
    DetectionRms,
    MapNoise,
    plain,
    positions,
)

__all__ = ['SearchNoise']


class SearchNoise:
    """
    The noise of a map that is searched for sources: what is given, and what is
    measured on the map and on its residuals.

    ``variation`` is the relative rms that scales the thresholds, `None` for
    uniform noise; it is measured by default.

    ``relative_rms`` is that variation, without structure of the sky.
    ``filtered_rms`` is the rms of the high-pass filtered map, and
    ``detection_rms`` the typical rms to which the threshold of the finder
    refers on the map. ``misfit`` is how much sources differ from their fits,
    and ``extra_variance`` the image of the variance due to that. The noise
    with which sources are fitted is ``image.noise``.
    """

    def __init__(self, photometry, image, variation='measured'):
        self.image = image
        self.fwhm = photometry.fwhm
        # The noise of independent pixels, for the first fit.
        self.independent = image.noise
        # The noise of a larger map, the pixel rms of its first fits, and its
        # first pixel as seen from this one.
        self.shared = self.first_rms = self.origin = None
        self._model = photometry.noise
        if isinstance(photometry.noise, MapNoise):
            self.shared = photometry.noise.cutout(
                tuple(slice(0, size) for size in image.values.shape))
            self.first_rms = self.shared.first_rms
            self.origin = self.shared.origin
            self._model = self.shared.model
        # Fitters of astropy do not support covariances.
        solver = getattr(photometry.fitter, 'solver', None)
        self._allows_covariance = (
            getattr(solver, 'astropy_fitter', None) is None)
        # Whether structure varies over the map, once that is measured.
        self._varying_structure = None
        self.filtered_rms = None
        self.detection_rms = None
        self.misfit = self.extra_variance = None
        is_measured = isinstance(variation, str)
        if self.shared is not None:
            self.relative_rms = self.shared.relative_rms
            image.share_pixel_noise(self.shared.pixel_rms)
            return
        if not isinstance(self._model, str):
            self.relative_rms = self._model.relative_rms
        elif is_measured:
            self.relative_rms = image.relative_error()
        else:
            self.relative_rms = variation
        if self.relative_rms is None and is_measured:
            self.relative_rms = measure_noise_variation(
                image.values, self.fwhm, mask=image.mask)

    @property
    def needs_covariance(self):
        """
        Whether sources are fitted again with correlated noise.
        """
        if not self._allows_covariance:
            return False
        if isinstance(self._model, str):
            return self._model == 'correlated' and self.image.has_noise()
        return self._model.is_correlated

    def as_map_noise(self, finder):
        """
        Return the `MapNoise` after a fit of the detections of ``finder``.
        """
        image, detection_rms = self.image, []
        if isinstance(finder, HighPassStarFinder):
            finder = self._scaled(finder)
            for values, mask in ((image.values, image.unusable),
                                 (image.values - image.model, image.mask)):
                rms = finder.measure_rms(image.with_unit(values), mask=mask)
                detection_rms.append(getattr(rms, 'value', rms))
        return MapNoise(image.noise, image.pixel_noise.rms, self.filtered_rms,
                        tuple(detection_rms), self.relative_rms, self.misfit)

    def search(self, finder, values, mask, *, on_residual):
        """
        Return what a `HighPassStarFinder` detects with thresholds that follow
        the noise.
        """
        finder = self._scaled(finder)
        if self.shared is not None and finder.rms is None:
            rms = self.shared.detection_rms[on_residual]
            if isinstance(rms, DetectionRms):
                rms = rms.image(mask, self.fwhm)
            finder.rms = self.image.with_unit(rms)
        found, _, rms = finder.search(values, mask=mask, origin=self.origin)
        if not on_residual:
            self.detection_rms = (np.median(rms[~mask]) if np.ndim(rms)
                                  else rms)
        return found

    def _scaled(self, finder):
        """
        Return a copy of a finder whose thresholds follow the noise.
        """
        finder = copy(finder)
        if finder.relative_rms is None:
            finder.relative_rms = self.relative_rms
        return finder

    def measure_filtered_rms(self):
        """
        Measure the rms of the high-pass filtered residual.
        """
        image = self.image
        if self.shared is not None:
            self.filtered_rms = self.shared.filtered_rms
            return
        filtered = high_pass_filter(image.values - image.model, self.fwhm,
                                    mask=image.mask)
        if self.relative_rms is not None:
            filtered /= self.relative_rms
        self.filtered_rms = max(image.rounding(),
                                clipped_rms(filtered, mask=image.mask))

    def measure_covariance(self, table):
        """
        Measure the covariance of the pixels without the sources, and how much
        the sources differ from their fits.
        """
        image = self.image
        # Free the images of the last noise.
        self.extra_variance, image.noise = None, self.independent
        noise = self._model
        if isinstance(noise, str):
            noise = image.measure_covariance(
                table, self.fwhm, relative_rms=self.relative_rms,
                varying_structure=self._varying_structure)
            self._varying_structure = noise.structure is not None
        image.noise = noise
        if self.shared is not None:
            self.misfit = self.shared.misfit
        else:
            amplitude = plain(table['amplitude_fit'])
            self.misfit = measure_misfit(
                image.residual, *positions(table, 'fit').T, amplitude,
                amplitude / image.noise_at(table), self.fwhm, mask=image.mask)
        if self.misfit is not None:
            self.extra_variance = self._misfit_variance(table)

    def threshold_at(self, table):
        """
        Return the noise of the filtered map at the fitted positions.
        """
        if self.relative_rms is None:
            return self.filtered_rms
        return self.filtered_rms * self.relative_rms[
            self.image.nearest_pixels(table)]

    def misfit_at(self, table):
        """
        Return the rms misfit of all other sources at the fitted positions.
        """
        if self.misfit is None:
            return np.zeros(len(table))
        own = (self.misfit.profile[0] * plain(table['amplitude_fit']))**2
        total = self._misfit_variance(table)[self.image.nearest_pixels(table)]
        return np.sqrt(np.maximum(total - own, 0.0))

    def _misfit_variance(self, table):
        """
        Return the image of the variance due to the misfit of sources.
        """
        return self.misfit.variance(
            *positions(table, 'fit').T, plain(table['amplitude_fit']),
            self.image.values.shape)
