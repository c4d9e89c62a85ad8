# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
A map that is being measured.
"""

from __future__ import annotations

import warnings
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import astropy.units as u
import numpy as np
from astropy.nddata import NDData
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning

from hyperphotutils.background.masks import make_source_mask
from hyperphotutils.background.rms import box_side, local_rms
from hyperphotutils.blend.beams import add_sources
from hyperphotutils.blend.footprints import core_is_usable
from hyperphotutils.blend.start import start_columns
from hyperphotutils.detection.highpass import margin_rings
from hyperphotutils.noise.bad_pixels import detect_bad_pixels
from hyperphotutils.noise.correlated import CorrelatedNoise
from hyperphotutils.noise.model import NoiseModel
from hyperphotutils.noise.white import WhiteNoise
from hyperphotutils.utils.tables import (
    as_masked_image,
    open_nddata,
    strip_units,
)

__all__ = ['MapNoise', 'MeasuredMap', 'check_noise', 'plain', 'positions',
           'warn_of_other_beam']

# The largest factor between the given FWHM and the beam of the map. Sources
# of a map may be somewhat larger than its beam.
_MAX_BEAM_RATIO = 1.5
# The least fraction of the variance of a pixel that is uncorrelated, if the
# beam is measured.
_LEAST_UNCORRELATED = 0.01
# The size in bytes of the block that is freed before a map is measured.
_FREED = 32_000_000


@dataclass(frozen=True, eq=False)
class MapNoise:
    """
    All that `HyperPhotometry` measures on a map as a whole.

    It can be the ``noise`` of another `HyperPhotometry`, so that parts
    of a map are measured with the noise of the whole map. It can be
    pickled. Values are in the unit of the map.

    Parameters
    ----------
    model : `~hyperphotutils.noise.NoiseModel`
        The noise with which sources are fitted.

    pixel_rms : float
        The rms about local backgrounds.

    filtered_rms : float
        The rms of the high-pass filtered map.

    detection_rms : tuple of float, 2D `~numpy.ndarray`, or object
        The rms to which the threshold of the finder refers: that of the
        map, and that of the residual.

    relative_rms : 2D `~numpy.ndarray` or `None`
        The local rms of the noise in units of the typical one.

    misfit : object or `None`
        How much bright sources differ from their fits.

    origin : tuple of 2 ints
        The row and column of the first pixel of the whole map, as seen
        from its part.

    first_rms : float or `None`
        The ``pixel_rms`` with which the detections are fitted for the
        first time, before that is known; `None` (default) for the same.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_blended_map
    >>> from hyperphotutils.photometry import HyperPhotometry
    >>> image = make_blended_map((120, 120), 12, seed=1).image
    >>> phot = HyperPhotometry(fwhm=image.meta['beam_fwhm_pix'])
    >>> noise = phot.measure_noise(image)
    >>> print(type(noise.model).__name__)
    CorrelatedNoise
    >>> again = HyperPhotometry(phot.fwhm, noise=noise)
    >>> print(len(again(image)))
    12
    """

    model: NoiseModel
    pixel_rms: float
    filtered_rms: float
    detection_rms: tuple
    relative_rms: np.ndarray | None = None
    misfit: Any = None
    origin: tuple = (0, 0)
    first_rms: float | None = None

    def cutout(self, slices: tuple[slice, slice]) -> MapNoise:
        """
        Return the noise of a part of the map.

        Parameters
        ----------
        slices : tuple of 2 slices
            The rows and columns of the part.

        Returns
        -------
        noise : `MapNoise`
            The noise.
        """
        def cut(image):
            if isinstance(image, DetectionRms):
                return image.cutout(slices)
            return image if np.ndim(image) < 2 else image[slices]

        return replace(
            self, model=self.model.cutout(slices),
            detection_rms=tuple(map(cut, self.detection_rms)),
            relative_rms=cut(self.relative_rms),
            origin=tuple(first - one.start for first, one in zip(
                self.origin, slices, strict=True)))

    def with_variation(self, relative_rms: np.ndarray) -> MapNoise:
        """
        Return a copy of spatially uniform noise, scaled by a relative
        rms map.

        Parameters
        ----------
        relative_rms : 2D `~numpy.ndarray`
            The local rms in units of the typical one; not finite where
            it is unknown.

        Returns
        -------
        noise : `MapNoise`
            The noise.
        """
        known = np.where(np.isfinite(relative_rms), relative_rms, 1.0)
        # That of a large map has its images on a coarse grid.
        part = self.cutout(tuple(slice(0, size) for size in known.shape))
        model = copy(part.model)
        model.relative_rms = known if model.is_correlated else relative_rms
        structure = getattr(model, 'structure', None)
        if structure is not None:
            model.structure = copy(structure)
            model.structure.relative_rms = structure.relative_rms * known
        return replace(
            part, model=model, relative_rms=known, detection_rms=tuple(
                replace(rms, rms=rms.rms * known)
                if isinstance(rms, DetectionRms) else rms * known
                for rms in part.detection_rms))


@dataclass(frozen=True, eq=False)
class DetectionRms:
    """
    The noise to which the threshold of a finder refers, increased along a
    noisy margin of the map.

    ``ratios`` is the noise in the rings of
    `~hyperphotutils.detection.highpass.margin_rings` relative to ``rms``,
    which is a number or an image.
    """

    rms: object
    ratios: tuple

    @property
    def typical(self):
        """
        The typical noise.
        """
        return float(np.median(getattr(self.rms, 'values', self.rms)))

    def cutout(self, slices):
        """
        Return the noise of a part of the map.
        """
        return replace(self, rms=self.rms if np.ndim(self.rms) < 2
                       else self.rms[slices])

    def image(self, bad, fwhm):
        """
        Return the detection noise, a number or an image that is increased in
        rings along the pixels without data.
        """
        if max(self.ratios) == 1.0:
            return self.rms
        near, ring = margin_rings(bad, fwhm)
        rms = np.full(bad.shape, 1.0) * self.rms
        rms[near] *= np.asarray(self.ratios)[ring]
        return rms


def warn_of_other_beam(fwhm, data):
    """
    Warn if a FWHM in pixels is far from that of the beam in the metadata of a
    map, if there is one.
    """
    beam = (getattr(data, 'meta', None) or {}).get('beam_fwhm_pix')
    if beam is not None and not (
            1.0 / _MAX_BEAM_RATIO <= fwhm / beam <= _MAX_BEAM_RATIO):
        msg = (f'fwhm is {fwhm:.4g} pixels, but the beam of the map has '
               f"{beam:.4g} pixels (meta['beam_fwhm_pix']): fwhm is in "
               'pixels, not in arcsec')
        warnings.warn(msg, AstropyUserWarning, stacklevel=3)


class MeasuredMap:
    """
    A map, its noise, and the models of its sources, during a call of
    `HyperPhotometry` or `ForcedPhotometry`.

    A ``noise`` model takes precedence over ``error``, and a measured beam
    ``profile`` over ``beam``: ``fwhm`` and ``fwhm_minor`` in pixels and
    ``theta`` in degrees, by default those of the metadata.

    ``values`` are the pixels without unit. Fits ignore ``mask``, and the
    detection ``unusable``, a part of it. ``noise`` is the one with which
    sources are fitted, ``pixel_noise`` that of independent pixels: the given
    errors, or the rms about local backgrounds. ``model`` is the image of the
    sources known so far, and ``background`` what is subtracted before fits, or
    `None`.
    """

    def __init__(self, data, wcs=None, mask=None, error=None, *, beam=None,
                 noise=None, profile=None):
        # The C library of Linux keeps up to twice the largest block that was
        # freed for later blocks, at most 64 MiB (M_MMAP_THRESHOLD of
        # mallopt). All else is returned to the system, and given back page
        # by page: a tenth of the time of a call.
        np.empty(_FREED, dtype=np.uint8)
        if isinstance(data, NDData):
            wcs = data.wcs if wcs is None else wcs
        self.wcs = wcs
        self.meta = getattr(data, 'meta', None) or {}
        self.beam = beam_of(self.meta, profile) if beam is None else beam
        self.profile = profile
        data, mask, error = open_nddata(data, mask, error)
        values, self.unit = strip_units(
            data=data, error=error, noise=None if noise is None else noise.rms)
        self.values, self.mask = as_masked_image(values['data'], mask)
        self.unusable = self.mask
        self.bad_pixels = None
        error = values['error']
        if error is not None and np.shape(error) not in {
                (), self.values.shape}:
            msg = ('error must be a number or have the shape of data, '
                   f'{self.values.shape}, got {np.shape(error)}')
            raise ValueError(msg)
        if noise is None:
            noise = WhiteNoise.from_error(
                None if error is None else self.with_unit(error),
                mask=self.mask)
        self.noise = noise
        self._pixel_noise_is_known = self.noise.rms is not None
        self.pixel_noise = self.noise.scale(1.0)
        self.model = np.zeros(self.values.shape)
        self.background = None
        self._rounding = None

    @property
    def cleaned(self):
        """
        The map minus a background that was measured before the fits.
        """
        if self.background is None:
            return self.values
        return self.values - np.nan_to_num(self.background)

    @property
    def residual(self):
        """
        The map minus the sources and the background measured before, if
        any.
        """
        return self.cleaned - self.model

    @property
    def fit_mask(self):
        """
        The mask of pixels without data or without the background
        measured before, if any.
        """
        if self.background is None:
            return self.mask
        return self.mask | ~np.isfinite(self.background)

    @property
    def known_noise(self):
        """
        The noise in the unit of the map: the noise model of the fits or,
        if its rms is not known, the noise of the pixels.
        """
        return self.pixel_noise if self.noise.rms is None else self.noise

    def with_unit(self, values):
        """
        Return values with the unit of the map.
        """
        return values if self.unit is None else values << self.unit

    def relative_error(self):
        """
        Return the given errors in units of their median, 1 where they
        are not known; `None` if they are the same for all pixels.
        """
        relative_rms = self.noise.relative_rms
        if relative_rms is None:
            return None
        return np.where(np.isfinite(relative_rms) & ~self.mask,
                        relative_rms, 1.0)

    def beam_shape(self, fwhm):
        """
        Return both FWHMs and the angle of the beam with a given mean
        FWHM; that of a round beam where the shape is not known.
        """
        if self.beam is None:
            return fwhm, fwhm, 0.0 * u.deg
        if self.profile is not None:
            fwhm = np.sqrt(self.beam['fwhm'] * self.beam['fwhm_minor'])
        ratio = np.sqrt(self.beam['fwhm'] / self.beam['fwhm_minor'])
        return fwhm * ratio, fwhm / ratio, self.beam['theta'] * u.deg

    def with_shapes(self, init, fwhm):
        """
        Return initial values with the shape of the beam, if they have
        none and the beam is known, scaled to a mean FWHM of ``fwhm``.
        """
        # a table without positions is refused as it was given
        columns = start_columns(init)
        if self.beam is None or columns['fwhm_major'] is not None:
            return init
        init = QTable(init, copy=True)
        for name, value in zip(('fwhm_major', 'fwhm_minor', 'theta'),
                               self.beam_shape(fwhm), strict=True):
            init[f'{name}_init'] = np.full(len(init), 1.0) * value
        return init

    def render(self, table):
        """
        Return an image of the sources of a table.
        """
        image = np.zeros(self.values.shape)
        add_table(image, table, self.profile)
        return image

    def replace(self, old, new):
        """
        Replace an older fit of some sources in the model by a new one.
        """
        if old is not None:
            add_table(self.model, old, self.profile, sign=-1)
        add_table(self.model, new, self.profile)

    def subtract_others(self, table):
        """
        Return the map minus the background measured before, if any, and all
        sources but those of a table.
        """
        values = self.residual
        add_table(values, table, self.profile)
        return values

    def mask_bad_pixels(self, fwhm, bad=None):
        """
        Mask pixels whose values are inconsistent with any source
        convolved with the beam. Saturated pixels are used for detection,
        but not in fits.

        ``bad`` are the `~hyperphotutils.noise.BadPixels` if they are known.
        """
        if self.beam is not None:
            fwhm = min(fwhm, self.beam['fwhm_minor'])
        if bad is None:
            bad = detect_bad_pixels(self.values, fwhm, mask=self.mask)
        if bad.mask.any():
            self.bad_pixels = bad
            self.unusable = self.mask | (bad.mask & ~bad.saturated)
            self.mask = self.mask | bad.mask

    def share_pixel_noise(self, rms):
        """
        Use the rms (about local backgrounds) measured on a larger map.
        """
        if not self._pixel_noise_is_known:
            self.pixel_noise = WhiteNoise(rms)
            self._pixel_noise_is_known = True

    def measure_pixel_noise(self, fwhm):
        """
        Measure the rms about local backgrounds in boxes as wide as the
        footprint of a fit, unless the errors are given.
        """
        if self._pixel_noise_is_known:
            return
        self.pixel_noise = WhiteNoise(max(self.rounding(), local_rms(
            self.values - self.model, box_side(fwhm), mask=self.mask)))

    def has_noise(self):
        """
        Return whether the noise exceeds the numerical errors of fits.
        """
        return self.pixel_noise.rms > self.rounding()

    def rounding(self):
        """
        Return the noise level of numerical errors: models are cut off
        at a millionth of their peaks.
        """
        if self._rounding is None:
            good = self.values[~self.mask]
            good -= np.median(good)
            self._rounding = 1e-6 * float(np.max(np.abs(good, out=good)))
        return self._rounding

    def measure_covariance(self, table, fwhm, *, relative_rms=None,
                           varying_structure=None):
        """
        Return the `~hyperphotutils.noise.CorrelatedNoise` of the pixels
        outside the cores of the sources, with the sources subtracted.

        ``fwhm`` is used if the shape of the beam is not known.
        ``relative_rms`` is the local rms in units of the typical one.
        Structure is modeled separately if ``varying_structure``; by default,
        if it varies significantly.
        """
        mask = self.fit_mask | make_source_mask(
            self.values.shape, table['x_fit'], table['y_fit'],
            table['fwhm_major_fit'], table['fwhm_minor_fit'],
            table['theta_fit'], factor=0.5)
        beam = {'fwhm': fwhm} if self.beam is None else self.beam
        noise = CorrelatedNoise.from_image(
            self.with_unit(self.residual), **beam, mask=mask,
            relative_rms=relative_rms, varying_structure=varying_structure)
        return allow_for_beam(noise, self.profile)

    def noise_at(self, table):
        """
        Return the noise of a pixel at the fitted positions.
        """
        row, col = self.nearest_pixels(table)
        return self.pixel_noise.rms_at(col, row)

    def peak_noise(self, table):
        """
        Return the noise of the signal-to-noise ratio: the error of the
        peak with correlated noise, else the noise of a pixel.
        """
        if self.noise.is_correlated:
            return plain(table['amplitude_err'])
        return self.noise_at(table)

    def has_core(self, table, fwhm):
        """
        Return which fitted sources have enough usable pixels inside the
        half maximum of a beam.
        """
        return core_is_usable(np.asarray(table['x_fit'], dtype=float),
                              np.asarray(table['y_fit'], dtype=float),
                              self.mask, fwhm)

    def nearest_pixels(self, table):
        """
        Return rows and columns of the pixels nearest to the positions.
        """
        return tuple(
            np.clip(np.rint(np.nan_to_num(np.asarray(table[name], float))),
                    0, size - 1).astype(int)
            for name, size in zip(('y_fit', 'x_fit'), self.values.shape,
                                  strict=True))


def add_table(image, table, beam=None, *, sign=1):
    """
    Add the models of fitted sources to an image, in place, or subtract them
    (``sign`` -1).
    """
    add_sources(image, table['x_fit'], table['y_fit'],
                plain(table['amplitude_fit']), table['fwhm_major_fit'],
                table['fwhm_minor_fit'], table['theta_fit'].to_value('deg'),
                beam=beam, sign=sign)


def allow_for_beam(noise, profile):
    """
    Return the measured noise with at least some uncorrelated noise, if the
    beam is measured, too.

    The inverse covariance of smooth noise amplifies the smallest difference
    between the beam and its image: without any uncorrelated noise, fluxes were
    wrong by up to half, with errors of a thousandth.
    """
    if profile is None:
        return noise
    variances = noise.variances.copy()
    variances[0] = max(variances[0], _LEAST_UNCORRELATED * noise.rms**2)
    return CorrelatedNoise(variances, noise.matrices,
                           relative_rms=noise.relative_rms,
                           structure=noise.structure)


def check_noise(noise, name='noise'):
    """
    Check the kind of noise that a map is to be measured with.
    """
    if isinstance(noise, NoiseModel | MapNoise) and not isinstance(
            noise, type):
        return
    if not isinstance(noise, str) or noise not in {'correlated', 'white'}:
        msg = (f"{name} must be 'correlated', 'white', or a NoiseModel such "
               f'as a CorrelatedNoise: {noise!r}')
        raise ValueError(msg)


def plain(column):
    """
    Return the plain values of a column.
    """
    return np.asarray(getattr(column, 'value', column), dtype=float)


def positions(table, suffix):
    """
    Return the positions as an array of shape (n, 2).
    """
    return np.column_stack((table[f'x_{suffix}'], table[f'y_{suffix}']))


def beam_of(meta, profile=None):
    """
    Return the beam of a map as a dictionary, that of ``profile`` first; `None`
    if the map was not read with its header.
    """
    if profile is not None:
        return {'fwhm': profile.fwhm_major, 'fwhm_minor': profile.fwhm_minor,
                'theta': profile.theta}
    names = {'fwhm': 'beam_major_pix', 'fwhm_minor': 'beam_minor_pix',
             'theta': 'beam_theta'}
    if not all(name in meta for name in names.values()):
        return None
    return {key: float(getattr(meta[name], 'value', meta[name]))
            for key, name in names.items()}
