# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sizes of sources deconvolved from the beam.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from astropy.stats import gaussian_sigma_to_fwhm

from hyperphotutils.utils.checks import check_positive
from hyperphotutils.utils.gaussians import gaussian_matrix, wrap_angle

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ['deconvolve_sizes']

_COLUMNS = ('fwhm_major_fit', 'fwhm_minor_fit', 'theta_fit',
            'fwhm_major_err', 'fwhm_minor_err')


def deconvolve_sizes(table: Table, fwhm_major: float,
                     fwhm_minor: float | None = None,
                     theta: float = 0.0) -> dict:
    r"""
    Deconvolve fitted sizes from the beam.

    A Gaussian source with the covariance matrix :math:`\Sigma_0` is
    observed as :math:`\Sigma = \Sigma_0 + B` with a beam of the
    covariance matrix :math:`B`. The axes of the source are the
    eigenvalues of :math:`\Sigma - B`. If one of them is not positive,
    the source is not resolved along that axis.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The fitted sources, with ``fwhm_major_fit``, ``fwhm_minor_fit``,
        ``theta_fit``, and the errors of both widths.

    fwhm_major : float
        The FWHM of the beam along its major axis in pixels.

    fwhm_minor : float, optional
        The FWHM along the minor axis; that of a round beam by default.

    theta : float, optional
        The angle of the major axis of the beam in degrees,
        counterclockwise from the positive x axis.

    Returns
    -------
    sizes : dict
        ``fwhm_major_dec``, ``fwhm_minor_dec`` (pixels; 0 where not
        resolved), ``fwhm_major_dec_err``, ``fwhm_minor_dec_err`` (NaN
        where not resolved), ``theta_dec`` (degrees), and
        ``is_resolved``, whether the source is larger than the beam along
        both axes by more than the error.

    Raises
    ------
    ValueError
        If a width of the beam is not a positive number, or the table
        lacks a column.

    Notes
    -----
    With the FWHM :math:`w` along an axis of the source and its
    deconvolved value :math:`w_0`, the error follows from
    :math:`w_0^2 = w^2 - w_B^2`: :math:`\delta w_0 = w \, \delta w / w_0`.

    Examples
    --------
    >>> import astropy.units as u
    >>> from astropy.table import QTable
    >>> from hyperphotutils.photometry import deconvolve_sizes
    >>> table = QTable({'fwhm_major_fit': [5.0], 'fwhm_major_err': [0.1],
    ...                 'fwhm_minor_fit': [3.9], 'fwhm_minor_err': [0.1],
    ...                 'theta_fit': [30.0] * u.deg})
    >>> sizes = deconvolve_sizes(table, 4.0)
    >>> print(sizes['fwhm_major_dec'], sizes['fwhm_minor_dec'])
    [3.] [0.]
    >>> print(sizes['is_resolved'])
    [False]
    """
    check_positive(fwhm_major, 'fwhm_major', of='pixels')
    if fwhm_minor is not None:
        check_positive(fwhm_minor, 'fwhm_minor', of='pixels')
    missing = [name for name in _COLUMNS if name not in table.colnames]
    if missing:
        msg = f'table must have the columns {", ".join(missing)}'
        if all(name.endswith('_err') for name in missing):
            msg += ', the errors of the widths in pixels (NaN if not known)'
        raise ValueError(msg)
    major, minor = (np.asarray(table[name], dtype=float)
                    for name in ('fwhm_major_fit', 'fwhm_minor_fit'))
    angle = table['theta_fit'].to_value(u.deg)
    beam = gaussian_matrix(
        fwhm_major, fwhm_major if fwhm_minor is None else fwhm_minor, theta)
    xx, xy, yy = (source - own for source, own in zip(
        gaussian_matrix(major, minor, angle), beam, strict=True))
    # the eigenvalues of the difference, mean +- radius (Wild 1970, Aust. J.
    # Phys. 23, 113)
    mean, half = 0.5 * (xx + yy), 0.5 * (xx - yy)
    radius = np.hypot(half, xy)
    sizes = {'theta_dec': wrap_angle(
        np.rad2deg(0.5 * np.arctan2(xy, half))) << u.deg}
    # Rounding makes a source of the size of the beam smaller or larger.
    tiny = 1e-12 * mean.clip(min=np.max(beam))
    resolved = np.ones(len(major), dtype=bool)
    for name, variance, width in (('major', mean + radius, major),
                                  ('minor', mean - radius, minor)):
        positive = variance > tiny
        size = gaussian_sigma_to_fwhm * np.sqrt(
            np.where(positive, variance, 0.0))
        error = np.asarray(table[f'fwhm_{name}_err'], dtype=float)
        with np.errstate(divide='ignore', invalid='ignore'):
            error = np.where(positive, width * error / size, np.nan)
            resolved &= positive & (size > error)
        unknown = ~np.isfinite(width)
        sizes[f'fwhm_{name}_dec'] = np.where(unknown, np.nan, size)
        sizes[f'fwhm_{name}_dec_err'] = error
    sizes['is_resolved'] = resolved
    return sizes
