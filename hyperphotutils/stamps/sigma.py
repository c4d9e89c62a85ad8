# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Errors of the pixels from the noise of the sky and the photons of the
sources.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import astropy.units as u
import numpy as np
from numpy.typing import ArrayLike

from hyperphotutils.noise import clipped_rms
from hyperphotutils.utils import as_masked_image, open_nddata, strip_units

if TYPE_CHECKING:
    from astropy.io import fits

    from hyperphotutils.utils.typing import ArrayOrQuantity, ImageLike

__all__ = ['find_gain', 'make_sigma_image']


def make_sigma_image(data: ImageLike, *, gain: ArrayLike,
                     exposure: ArrayLike | None = None,
                     background_rms: ArrayLike | u.Quantity | None = None,
                     mask: ArrayLike | None = None) -> ArrayOrQuantity:
    """
    Make an image of the standard deviations of the pixels.

    Parameters
    ----------
    data : 2D array_like, `~astropy.units.Quantity`, or \
            `~astropy.nddata.NDData`
        The image without sky, as a sum of counts, or a rate of them if
        ``exposure`` is given.

    gain : float or 2D array_like
        The electrons a unit of the counts, or a map of them.

    exposure : float or 2D array_like, optional
        The exposure time, or a map of it, if the data are a rate; a
        number is in the time unit of the rate, a
        `~astropy.units.Quantity` becomes seconds.

    background_rms : float, 2D array_like, or \
            `~astropy.units.Quantity`, optional
        The rms of the sky, in the unit of the data. The default is the
        clipped rms of the image.

    mask : 2D bool array_like, optional
        `True` for pixels to leave out of the clipped rms.

    Returns
    -------
    sigma : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
        The standard deviations, in the unit of the data; NaN where the
        data are, and where gain or exposure are not positive.

    Raises
    ------
    ValueError
        If the gain is missing, or no value of it is positive.

    Notes
    -----
    The variance is that of the sky plus ``max(data, 0) / (gain *
    exposure)``, the photon noise of the sources (for example Peng et
    al. 2010, AJ 139, 2097).

    Examples
    --------
    >>> from hyperphotutils.stamps import make_sigma_image
    >>> print(make_sigma_image([[0.0, 8.0]], gain=2.0, exposure=4.0,
    ...                        background_rms=0.5))
    [[0.5       1.118034]]
    """
    if gain is None:
        msg = ('gain must be given, in electrons per count; headers have it '
               'as GAIN, EGAIN, or CCDGAIN')
        raise ValueError(msg)
    data, mask, _ = open_nddata(data, mask)
    arrays = {'data': data}
    if background_rms is not None:
        arrays['background_rms'] = background_rms
    arrays, unit = strip_units(**arrays)
    values, bad = as_masked_image(arrays['data'], mask)
    rms = arrays.get('background_rms')
    if rms is None:
        rms = clipped_rms(values, mask=bad)
    # a sum of frames has the gain of one, a mean that times their number: maps
    # of both vary where frames overlap
    electrons = np.asarray(gain, dtype=float)
    if exposure is not None:
        if isinstance(exposure, u.Quantity):
            exposure = exposure.to_value(u.s)
        electrons = electrons * np.asarray(exposure, dtype=float)
    if not np.any(electrons > 0.0):
        msg = ('gain and exposure must be positive: got gain='
               f'{gain!r}, exposure={exposure!r}')
        raise ValueError(msg)
    # In all pixels, not only those of sources, at whose edges sigma would
    # jump. Negative pixels are noise, and no photons are missing there.
    good = electrons > 0.0
    photons = np.where(good, np.maximum(values, 0.0)
                       / np.where(good, electrons, 1.0), np.nan)
    sigma = np.where(np.isfinite(values),
                     np.sqrt(np.square(rms) + photons), np.nan)
    return sigma if unit is None else sigma << unit


def find_gain(header: fits.Header | dict,
              gain: float | Literal['counts', 'cps'] = 'counts', *,
              key: str | None = None) -> float:
    """
    Find the electrons a unit of the data in a header.

    Parameters
    ----------
    header : `~astropy.io.fits.Header` or dict
        The header.

    gain : float or {'counts', 'cps'}, optional
        A number, which is returned; ``'counts'``, the gain of the header;
        or ``'cps'``, that times the exposure time, for images in counts a
        second.

    key : str, optional
        The keyword of the gain. Without it, there must be exactly one
        whose name contains GAIN, with a positive number.

    Returns
    -------
    gain : float
        The electrons a unit of the data.

    Raises
    ------
    ValueError
        If the header has no gain, several, or no exposure time.

    Examples
    --------
    >>> from hyperphotutils.stamps import find_gain
    >>> find_gain({'GAIN': 2.0, 'EXPTIME': 300.0}, 'cps')
    600.0
    """
    if not isinstance(gain, str):
        return float(gain)
    if gain not in {'counts', 'cps'}:
        msg = f"gain must be a number, 'counts', or 'cps': got {gain!r}"
        raise ValueError(msg)
    if key is None:
        keys = [name for name in header if 'GAIN' in name.upper()
                and _is_positive(header[name])]
        if len(keys) != 1:
            found = ', '.join(f'{name} = {header[name]}' for name in keys)
            msg = (f'the header has several gains, {found}: choose one by '
                   'its key' if keys else
                   'the header has no gain: give it as a number')
            raise ValueError(msg)
        key = keys[0]
    elif not _is_positive(header.get(key)):
        msg = f'the header has no positive {key}: {header.get(key)!r}'
        raise ValueError(msg)
    # data in counts a second have a gain of electrons a count, times seconds
    value = float(header[key])
    if gain == 'counts':
        return value
    time = next((header[name] for name in ('EXPTIME', 'EXPOSURE', 'XPOSURE')
                 if _is_positive(header.get(name))), None)
    if time is None:
        msg = "gain='cps' needs EXPTIME, EXPOSURE, or XPOSURE in the header"
        raise ValueError(msg)
    return value * float(time)


def _is_positive(value):
    return (isinstance(value, int | float) and not isinstance(value, bool)
            and value > 0)
