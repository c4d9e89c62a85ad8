# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Alignment of the template with the science image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from astropy.nddata import NDData, StdDevUncertainty
from numpy.typing import ArrayLike
from scipy.ndimage import affine_transform

from hyperphotutils.subtraction.correlation import (
    measure_noise_kernel,
    sky_noise,
)
from hyperphotutils.subtraction.frames import Frame
from hyperphotutils.subtraction.inputs import read_image

if TYPE_CHECKING:
    from hyperphotutils.utils.typing import HDU, FilePath, ImageLike

__all__ = ['align']

# A resampled pixel is bad if bad ones have more than this weight
_MAX_BAD = 0.05


def align(science: FilePath | HDU | NDData | ArrayLike,
          template: FilePath | HDU | NDData | ArrayLike, *,
          method: Literal['wcs', 'stars'] = 'wcs',
          template_error: FilePath | HDU | ImageLike | None = None,
          template_mask: FilePath | HDU | ImageLike | None = None) -> NDData:
    """
    Resample the template to the pixels of the science image.

    Small errors of the alignment are taken up by the kernel of the
    subtraction: only images that are more than about a pixel apart, or
    on other pixels, need this. Resampling correlates the noise, which
    `ImageSubtractor` measures and takes into account.

    Parameters
    ----------
    science, template : path, HDU, `~astropy.nddata.NDData`, or 2D \
            array_like
        The images.

    method : {'wcs', 'stars'}, optional
        ``'wcs'`` (default) trusts the WCSs of both images, and needs
        `reproject <https://reproject.readthedocs.io>`__. ``'stars'``
        finds the shift, rotation, and scale that bring the stars
        together, and needs `astroalign
        <https://astroalign.quatrope.org>`__. Both are installed by the
        extra ``align``.

    template_error, template_mask : same kinds, optional
        The standard deviations and the mask of the template.

    Returns
    -------
    aligned : `~astropy.nddata.NDData`
        The template with its errors, its mask, and the WCS of the
        science image. Pixels that the template does not cover are
        masked.

    Raises
    ------
    ImportError
        If the package for the method is not installed.

    ValueError
        If an image lacks the WCS, or no common stars are found.

    Notes
    -----
    Values are interpolated with cubic splines, variances linearly. The
    variance of the resampled noise is less, by a factor that is measured
    on the sky.
    """
    science = read_image(science, 'science')
    template = read_image(template, 'template', template_error,
                          'template_error', template_mask, 'template_mask')
    if method not in ('wcs', 'stars'):
        msg = f"method must be 'wcs' or 'stars': {method!r}"
        raise ValueError(msg)
    for image, name in ((science, 'science'), (template, 'template')):
        if method == 'wcs' and image.wcs is None:
            msg = (f"{name} has no WCS, which method='wcs' needs: give a file "
                   "or a CCDData with one, or take method='stars'")
            raise ValueError(msg)
    bad = ~np.isfinite(template.data)
    if template.mask is not None:
        bad |= template.mask
    frame = Frame(template.data, template.error, bad, 'template')
    ny, nx = frame.shape
    values, variances, _ = frame.window(0, ny, 0, nx)
    if method == 'stars':
        resample = _by_stars(science, values)
    else:
        try:
            from reproject import reproject_interp
        except ImportError as error:
            raise ImportError(_how_to_install('reproject')) from error

        def resample(image, order):
            return reproject_interp(
                (image, template.wcs), science.wcs,
                shape_out=science.data.shape, order=order,
                return_footprint=False)

    new_values = resample(values, 3) + frame.level
    new_variances = resample(variances, 1)
    # the part of bad pixels in each; NaN beyond the template
    weight = resample(bad.astype(np.float32), 1)
    new_bad = ~(weight <= _MAX_BAD) | ~np.isfinite(new_values)
    # Interpolation averages the noise; the factor is measured on the sky, as
    # it depends on the shifts.
    uncertainty = None
    if template.error is not None:
        with np.errstate(invalid='ignore'):
            errors = np.sqrt(new_variances)
        _, _, power = measure_noise_kernel(*sky_noise(
            Frame(new_values, errors, new_bad, 'template')))
        uncertainty = StdDevUncertainty(errors * np.sqrt(min(power, 1.0)))
    return NDData(new_values, mask=new_bad, unit=template.unit,
                  wcs=science.wcs, uncertainty=uncertainty)


def _by_stars(science, values):
    """
    Return the function that resamples by common stars.
    """
    try:
        import astroalign
    except ImportError as error:
        raise ImportError(_how_to_install('astroalign')) from error
    frame = Frame(science.data, science.error, science.mask, 'science')
    ny, nx = frame.shape
    target = frame.window(0, ny, 0, nx)[0]
    try:
        transform, _ = astroalign.find_transform(
            values.astype(float), target.astype(float))
    except (astroalign.MaxIterError, ValueError, TypeError) as error:
        msg = f'no common stars are found for the alignment: {error}'
        raise ValueError(msg) from error
    # from positions in the science image to those in the template
    matrix = np.linalg.inv(transform.params)
    # affine_transform counts rows first
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    matrix = swap @ matrix @ swap

    def resample(image, order):
        return affine_transform(image, matrix[:2, :2], matrix[:2, 2],
                                output_shape=frame.shape, order=order,
                                cval=np.nan)

    return resample


def _how_to_install(package):
    """
    Return the message about a package that is not installed.
    """
    return (f'the alignment needs {package}, which is not installed: '
            "python -m pip install 'hyperphotutils[align]'")
