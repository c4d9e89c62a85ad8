# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Measured beams in files, on the pixels of the maps of a run.
"""

import warnings
from contextlib import suppress
from functools import cached_property

import astropy.units as u
import numpy as np
from astropy.stats import gaussian_sigma_to_fwhm
from astropy.utils.exceptions import AstropyUserWarning
from radio_beam import Beam
from scipy.ndimage import map_coordinates

from hyperphotutils.blend import BeamProfile
from hyperphotutils.maps import MapError, load_image
from hyperphotutils.maps.beams import check_measured_beam, header_beam
from hyperphotutils.maps.images import find_image
from hyperphotutils.maps.sky import celestial_wcs, find_sky_axes
from hyperphotutils.maps.surveys import get_survey
from hyperphotutils.pipeline.config import ConfigError
from hyperphotutils.pipeline.psf_files import holds_psf
from hyperphotutils.psf import read_psf
from hyperphotutils.utils.mixtures import fit_concentric_gaussians
from hyperphotutils.utils.wcs import (
    local_jacobian,
    pixel_scale,
    pixel_to_sky_ellipse,
)

__all__ = ['MeasuredBeam', 'check_psfs']

# Keywords for the pixel scale in arcsec, of images without sky coordinates
_SCALE_KEYS = ('PIXSCALE', 'PIXELSCL', 'PIXSCAL1', 'SECPIX')

# The beam is used out to this radius in FWHM; the part of its sum farther
# out that is worth a warning.
_MAX_RADIUS = 8.0
_MAX_OUTSIDE = 0.01

# The solid angle of a beam, in units of that of a Gaussian with its FWHM.
_AREA_RANGE = (0.5, 4.0)

# Offsets in pixels up to which an image is not resampled, and the smallest
# FWHM that can be.
_SAME = 0.02
_MIN_FWHM = 1.5


class MeasuredBeam:
    """
    Class for the measured beam in a file.

    The file is a FITS file with the image of the beam, of any size and
    sampling and with any peak, a file of
    `~hyperphotutils.psf.EmpiricalPSF`, or a ``.psf`` file of PSFEx.

    An image with sky coordinates, or with its pixel scale in arcsec in
    ``PIXSCALE``, ``PIXELSCL``, ``PIXSCAL1``, ``SECPIX``, or ``CDELT1``
    with an angular ``CUNIT1``, is interpolated at the pixels of the map
    by a cubic spline, with sky coordinates also turned as the map is on
    the sky. The pixels of all other images, and of PSFs that were
    measured on stars, are taken for those of the map.
    """

    def __init__(self, path):
        self.path = str(path)
        try:
            self.image, header = _read(self.path)
            self.fwhm, self.center = _measure_core(self.image)
            # arcsec (East, North) per pixel (x, y); or arcsec per pixel
            self.jacobian = self.scale = None
            if header is not None:
                self.jacobian, self.scale = _find_scale(
                    header, self.image.shape)
        except MapError as exc:
            msg = f'{self.path}: input.psf: {exc}'
            raise MapError(msg) from None

    @property
    def fwhm_sky(self):
        """
        The FWHM on the sky, `None` if the pixel scale is not known.
        """
        if self.scale is None:
            return None
        return self.fwhm * self.scale * u.arcsec

    def on_map(self, wcs, shape):
        """
        Return the `BeamOnMap` on the pixels of a map with this celestial
        WCS and shape.
        """
        try:
            image, text = self._resample(wcs, shape)
            return BeamOnMap(image, wcs, shape,
                             f'{self.path}, {text}')
        except ValueError as exc:
            msg = f'{self.path}: input.psf: {exc}'
            raise MapError(msg) from None

    def _resample(self, wcs, shape):
        """
        Return the image at the pixels of a map, with the sum 1, and a
        description of the sampling.
        """
        scale = pixel_scale(wcs, shape).to_value(u.arcsec)
        matrix = np.eye(2)
        text = 'in pixels of the map'
        if self.scale is not None:
            matrix *= scale / self.scale
            text = f'with pixels of {self.scale:.4g} arcsec'
        if self.jacobian is not None:
            center = 0.5 * (np.array(shape[::-1]) - 1.0)
            matrix = np.linalg.solve(self.jacobian,
                                     local_jacobian(wcs, *center)[0])
        stretch = np.sqrt(np.abs(np.linalg.det(matrix)))
        fwhm = self.fwhm / stretch
        reach = np.hypot(*self.image.shape) / stretch
        half = int(np.ceil(min(_MAX_RADIUS * fwhm, 0.5 * reach)))
        offset = np.arange(-half, half + 1.0)
        dx, dy = np.meshgrid(offset, offset)
        x, y = np.tensordot(matrix, np.stack((dx, dy)), 1)
        x0, y0 = self.center
        nearest = np.rint(self.center)
        is_same = (np.abs(matrix - np.eye(2)).max() * half < _SAME
                   and np.abs(self.center - nearest).max() < _SAME)
        if is_same:
            x0, y0 = nearest
            x, y = dx, dy
        else:
            if self.fwhm < _MIN_FWHM:
                msg = (f'its FWHM of {self.fwhm:.2f} pixels is too small to '
                       'be resampled to the pixels of the map: give an '
                       'image with smaller pixels')
                raise ValueError(msg)
            text += f', resampled to {scale:.4g} arcsec'
        image = map_coordinates(self.image, [y + y0, x + x0],
                                order=1 if is_same else 3, mode='constant')
        image[np.hypot(dx, dy) > _MAX_RADIUS * fwhm] = 0.0
        total = image.sum()
        ratio = total / (image[half, half] * np.pi / (4.0 * np.log(2.0))
                         * fwhm**2)
        low, high = _AREA_RANGE
        if not low < ratio < high:
            msg = (f'its sum is {ratio:.2g} times that of a Gaussian with '
                   'its FWHM: subtract its background, or give the beam of '
                   'the restored map, not the dirty one')
            raise ValueError(msg)
        outside = 1.0 - total * stretch**2 / self.image.sum()
        if abs(outside) > _MAX_OUTSIDE:
            msg = (f'{self.path}: {100.0 * outside:.1f} % of the sum of the '
                   f'beam is farther than {_MAX_RADIUS:g} FWHM from its '
                   'center and not part of the fluxes')
            warnings.warn(msg, AstropyUserWarning, stacklevel=2)
        return image / total, text


class BeamOnMap:
    """
    Class for a measured beam on the pixels of a map with this celestial WCS
    and shape.

    The image of the beam has the sum 1 and its center on the central pixel;
    the text is for the log.
    """

    def __init__(self, image, wcs, shape, text):
        self.image = image
        self.text = text
        area = 1.0 / image.max()
        core = fit_concentric_gaussians(image, 1)
        fwhm = np.linalg.det(core.matrices[0])**0.25 * gaussian_sigma_to_fwhm
        self.profile = BeamProfile.from_psf(image, fwhm)
        self.area = area * pixel_scale(wcs, shape)**2
        self._place = wcs, *(0.5 * (np.array(shape[::-1]) - 1.0))

    @cached_property
    def beam(self):
        """
        The ellipse at half maximum on the sky.
        """
        profile = self.profile
        wcs, x, y = self._place
        major, minor, angle = (value[0] for value in pixel_to_sky_ellipse(
            wcs, [x], [y], [profile.fwhm_major], [profile.fwhm_minor],
            [profile.theta]))
        return Beam(major, minor, angle)


def check_psfs(config, jobs):
    """
    Check the measured beams of all jobs against the headers of their
    maps, before any map is measured.

    Raises a `ConfigError` if a beam cannot be used, or contradicts a header,
    ``input.beam``, or ``input.survey``.
    """
    problems, beams = [], {}
    for job in jobs:
        if job.psf is None:
            continue
        try:
            if job.psf not in beams:
                beams[job.psf] = MeasuredBeam(job.psf)
        except (OSError, MapError) as exc:
            beams[job.psf] = None
            problems.append(str(exc))
        if beams[job.psf] is None:
            continue
        stated = None
        # what is wrong with the map is reported when it is its turn
        with suppress(OSError, MapError), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            stated = _stated_beam(job.path, config.input)
        if stated is None:
            continue
        scale, beam, origin = stated
        fwhm = beams[job.psf].fwhm_sky
        if fwhm is None:
            fwhm = beams[job.psf].fwhm * scale
        try:
            check_measured_beam(fwhm, beam, origin)
        except MapError as exc:
            problems.append(f'{job.path}: {job.psf}: {exc}')
    if problems:
        raise ConfigError(problems)


def _stated_beam(path, options):
    """
    Return the pixel scale of a map, its stated beam, and where it is
    stated; or `None` if it is not.
    """
    with find_image(path, ext=options.extension) as (hdu, about):
        header, shape = about['header'], hdu.shape
        beam, origin = header_beam(header, about['beams_table'])
    if options.beam is not None:
        beam, origin = options.beam.make_beam(), 'input.beam'
    elif beam is None and options.survey is not None:
        survey = get_survey(options.survey)
        beam, origin = Beam(survey.fwhm), f"survey='{survey.name}'"
    if beam is None:
        return None
    shape = tuple(n for n in shape if n > 1)
    return pixel_scale(celestial_wcs(header, shape), shape), beam, origin


def _read(path):
    """
    Return the image in a file, and its header if it is a plain image.
    """
    try:
        if holds_psf(path):
            return read_psf(path)(), None
    except FileNotFoundError:
        msg = 'no such file'
        raise MapError(msg) from None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        msg = f'cannot be read: {exc}'
        raise MapError(msg) from None
    loaded = load_image(path)
    image = loaded.data.reshape([n for n in loaded.data.shape if n > 1])
    if image.ndim != 2:
        msg = f'has the shape {loaded.data.shape}: a beam is one image'
        raise MapError(msg)
    if not np.isfinite(image).all():
        n_bad = np.count_nonzero(~np.isfinite(image))
        msg = (f'{n_bad} of its pixels are not finite: replace them, for '
               'example by 0')
        raise MapError(msg)
    return image, loaded.header


def _measure_core(image):
    """
    Return the FWHM and the center (x, y) of the beam in its pixels.
    """
    row, col = np.unravel_index(np.argmax(image), image.shape)
    peak = image[row, col]
    if not peak > 0.0:
        msg = 'has no positive value'
        raise MapError(msg)
    above = np.count_nonzero(image > 0.5 * peak)
    half = max(2, int(np.ceil(1.5 * np.sqrt(above / np.pi))))
    ny, nx = image.shape
    if not (half <= row < ny - half and half <= col < nx - half):
        msg = (f'its peak is at pixel ({col}, {row}) of {nx} x {ny}, too '
               'near to the edge: a beam is alone in its image, with its '
               'wings')
        raise MapError(msg)
    core = fit_concentric_gaussians(
        image[row - half:row + half + 1, col - half:col + half + 1], 1)
    fwhm = np.linalg.det(core.matrices[0])**0.25 * gaussian_sigma_to_fwhm
    return float(fwhm), np.array([col, row]) + core.center


def _find_scale(header, shape):
    """
    Return the Jacobian of the sky coordinates of an image, and its pixel
    scale in arcsec; `None` for each that is not known.
    """
    with suppress(MapError):
        find_sky_axes(header)
        wcs = celestial_wcs(header, shape)
        ny, nx = shape
        return (local_jacobian(wcs, 0.5 * (nx - 1), 0.5 * (ny - 1))[0],
                pixel_scale(wcs, shape).to_value(u.arcsec))
    for key in _SCALE_KEYS:
        value = header.get(key)
        if isinstance(value, int | float) and value > 0:
            return None, float(value)
    with suppress(ValueError, TypeError, u.UnitConversionError):
        step = header.get('CDELT1', 0.0) * u.Unit(header.get('CUNIT1', ''))
        if step != 0.0:
            return None, abs(step.to_value(u.arcsec))
    return None, None
