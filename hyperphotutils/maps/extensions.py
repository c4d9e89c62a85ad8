# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Errors and masks in the file of an image, beside the image.
"""

import re
import warnings
from contextlib import suppress

import astropy.units as u
import numpy as np
from astropy.utils.exceptions import AstropyUserWarning

from hyperphotutils.maps.errors import MapError
from hyperphotutils.maps.units import parse_unit

__all__ = []  # shared by the readers of maps, cubes, and images only

# The problem of masks that may not be 0 at good pixels
BIT_FLAGS = ('has bit flags or values other than 0 and 1, or 0 and 255, some '
             'of which may mark good pixels')

# What can be done about a mask that takes most values
INVERTED = ('if it is not 0 at good pixels, invert it in the file, or remove '
            'it from the file')


def standard_deviations(error, shape, unit, *, remedy):
    """
    Return errors as standard deviations in the unit of the image in the
    file, NaN where they are not positive.

    The ``error`` is an `~hyperphotutils.maps.ErrorPlane`, and ``remedy`` the
    end of the messages about one that cannot be used. If the image has no
    unit, neither must the errors.
    """
    name = f'extension {error.extension}, recognized as errors of the map,'
    values = error.data
    if values.squeeze().shape != tuple(n for n in shape if n > 1):
        found, wanted = (' x '.join(str(n) for n in lengths[::-1])
                         for lengths in (values.shape, shape))
        msg = (f'{name} has {found} pixels instead of {wanted}: {remedy}')
        raise MapError(msg)
    # of infinite inverse variances no positive error is left
    good = (values > 0.0) & ((error.power > 0) | (values < np.inf))
    values = np.where(good, values, np.nan).reshape(shape)
    if np.isnan(values).all():
        msg = f'{name} has no positive value: {remedy}'
        raise MapError(msg)
    text = str(error.header.get('BUNIT', '')).strip()
    if text:
        values *= _error_factor(text, unit, error.power, f'{name} has',
                                remedy)
    return values if error.power == 1 else values**(1.0 / error.power)


def errors_and_mask(image, unit, *, mask_given=False):
    """
    Return the standard deviations and the mask that the file of an image
    has beside it, `None` for what it lacks, and the names of the extensions
    in the mask.

    The ``image`` is a `~hyperphotutils.maps.FitsImage` with its ``error``
    and ``masks``, and its unit may be `None`. One warning names the file and
    what cannot be used of it; masks only if none is given otherwise.
    """
    problems = []
    error = None
    if image.error is not None:
        if image.error.header.get('BUNIT') == image.header.get('BUNIT'):
            # the same, whether it is understood or not
            image.error.header.remove('BUNIT', ignore_missing=True)
        try:
            error = standard_deviations(
                image.error, image.data.shape, unit,
                remedy='give the errors as a file of their own (error)')
        except MapError as exc:
            problems.append(str(exc))
    mask, used, unused = join_masks(
        image, remedy='give an image that is not 0 at bad pixels as a file '
        '(mask)')
    if not mask_given:
        problems += unused.values()
    warn_unused(image, problems, stacklevel=4)
    return error, mask, used


def join_masks(image, *, remedy):
    """
    Return the mask that the file of an image has beside it, `None` without
    one; the names of the extensions in it; and what is wrong with others, by
    their names.

    The ``image`` is a `~hyperphotutils.maps.FitsImage`, and ``remedy`` the
    end of the messages.
    """
    shape = image.data.shape
    mask, used, problems = None, [], {}
    for extension, values in image.masks.items():
        if isinstance(values, str):
            problems[extension] = f'extension {extension} {values}'
            continue
        if values is None:
            problem = BIT_FLAGS
        elif values.squeeze().shape != tuple(n for n in shape if n > 1):
            problem = 'has other pixels than the image'
        else:
            values = values.reshape(shape)
            mask = values if mask is None else mask | values
            used.append(extension)
            continue
        problems[extension] = f'extension {extension} {problem}: {remedy}'
    return mask, ' and '.join(used), problems


def warn_unused(image, problems, *, stacklevel):
    """
    Warn of what cannot be used of the file of an image, if anything.
    """
    if problems:
        msg = (f'{image.filename or "the FITS file"} is used without some of '
               f'its extensions: {"; ".join(problems)}')
        warnings.warn(msg, AstropyUserWarning, stacklevel=stacklevel)


def _error_factor(text, unit, power, name, remedy):
    """
    Return the factor from errors, or a power of them, to that power of the
    unit of the map.
    """
    squared = re.fullmatch(r'\((.*)\) ?(\^|\*\*)?2', text)
    with suppress(MapError):
        stated = parse_unit(squared[1])**2 if squared else parse_unit(text)
        # as in BUNIT of the map, a plain flux can be per pixel
        wanted = [] if unit is None else [
            one**power for one in (unit, unit * u.pix, unit / u.pix)]
        # the unit of variances is often written without the square
        for own in (stated, stated**power):
            for one in wanted:
                if own.is_equivalent(one):
                    return own.to(one)
    msg = f"{name} BUNIT = '{text}', the map '{unit}': {remedy}"
    raise MapError(msg)
