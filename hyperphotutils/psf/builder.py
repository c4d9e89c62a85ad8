# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Builder of an empirical PSF from stars.
"""

import numpy as np
from astropy.table import QTable, Table

from hyperphotutils.detection.moments import cut_out
from hyperphotutils.noise import clipped_rms
from hyperphotutils.psf.fit import PSFFit
from hyperphotutils.psf.flags import decode_star_flags
from hyperphotutils.psf.stars import StarImages
from hyperphotutils.utils import (
    as_masked_image,
    check_positive,
    integrated_unit,
    make_repr,
    open_nddata,
    result_meta,
    strip_units,
)

__all__ = ['EmpiricalPSFBuilder']


class EmpiricalPSFBuilder:
    """
    Class to build a PSF from the stars of an image.

    Each star is its flux times the PSF at its place, plus its sky. The
    PSF is an elliptical Moffat profile plus a grid of cubic B-splines
    that holds what the profile leaves; both vary over the field as a
    polynomial. The splines are pulled to zero and kept smooth by a
    prior, so that few and faint stars suffice and the wings stay
    positive. Pixels with cosmic rays or companions are rejected, and so
    are galaxies and blends, by a test of their size.

    Parameters
    ----------
    size : odd int, optional
        The side of the PSF in pixels.

    oversampling : int, optional
        The number of knots of the splines a pixel. One is enough if the
        FWHM is more than 2.5 pixels; stars at many subpixel positions
        are needed for more.

    degree : int or `None`, optional
        The degree of the polynomial in the position. With `None`
        (default), it is chosen by cross-validation, from 0 to 2 (as far
        as there are stars enough).

    baseline : {'moffat'} or `None`, optional
        The profile under the splines. Without one, the splines are the
        PSF.

    prior : float, optional
        The expected deviation of the splines relative to the profile.

    smoothness : float, optional
        The weight of the prior that the splines are smooth.

    tv : float, optional
        The weight of the total variation of the splines, which keeps
        sharp features while it smooths noise.

    sky : {'constant'} or `None`, optional
        Whether each star has a constant sky of its own.

    max_iterations : int, optional
        The number of rounds of star fits and PSF fits.

    max_star_chi2 : float, optional
        The largest reduced chi-squared of a star, or twice the median
        if that is larger.

    reject_extended : bool, optional
        Whether to reject stars that are wider or narrower than the PSF.

    See Also
    --------
    StarSelector, photutils.psf.EPSFBuilder

    Notes
    -----
    The effective PSF holds the pixel, as in Anderson & King (2000, PASP
    112, 1360). The size of each star is tested by one more linear
    parameter, the Laplacian of its model, which is proportional to the
    change of an image that is blurred a little.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_star_field
    >>> from hyperphotutils.psf import EmpiricalPSFBuilder, StarSelector
    >>> field = make_star_field((300, 300), n_stars=25, seed=1)
    >>> stars = StarSelector()(field.data, error=field.error)
    >>> builder = EmpiricalPSFBuilder(size=25, degree=0)
    >>> psf = builder(field.data, stars, error=field.error)
    >>> image = psf(150, 150)
    >>> print(image.shape, f'{image.sum():.2f}')
    (25, 25) 1.00
    """

    _repr_params = ('size', 'oversampling', 'degree', 'baseline', 'prior',
                    'smoothness', 'tv', 'sky', 'max_iterations',
                    'max_star_chi2', 'reject_extended')

    def __init__(self, size=31, *, oversampling=1, degree=None,
                 baseline='moffat', prior=0.15, smoothness=1.0, tv=0.0,
                 sky='constant', max_iterations=4, max_star_chi2=2.5,
                 reject_extended=True):
        if int(size) != size or size % 2 == 0 or size < 5:
            msg = f'size must be an odd integer of at least 5: got {size}'
            raise ValueError(msg)
        self.size = int(size)
        if int(oversampling) != oversampling or oversampling < 1:
            msg = f'oversampling must be a positive integer: {oversampling}'
            raise ValueError(msg)
        self.oversampling = int(oversampling)
        if degree is not None and (int(degree) != degree or degree < 0):
            msg = f'degree must be a non-negative integer or None: {degree}'
            raise ValueError(msg)
        self.degree = degree
        if baseline not in {'moffat', None}:
            msg = f"baseline must be 'moffat' or None: got {baseline!r}"
            raise ValueError(msg)
        self.baseline = baseline
        self.prior = check_positive(prior, 'prior')
        self.smoothness = float(smoothness)
        self.tv = float(tv)
        if min(self.smoothness, self.tv) < 0.0:
            msg = (f'smoothness and tv must not be negative: {smoothness}, '
                   f'{tv}')
            raise ValueError(msg)
        if sky not in {'constant', None}:
            msg = f"sky must be 'constant' or None: got {sky!r}"
            raise ValueError(msg)
        self.sky = sky
        self.max_iterations = int(max_iterations)
        self.max_star_chi2 = check_positive(max_star_chi2, 'max_star_chi2')
        self.reject_extended = bool(reject_extended)

    def __repr__(self):
        return make_repr(self)

    def __call__(self, data, stars, *, error=None, mask=None):
        """
        Build the PSF.

        Parameters
        ----------
        data : 2D array_like, `~astropy.units.Quantity`, or \
                `~astropy.nddata.NDData`
            The image.

        stars : `~astropy.table.Table`
            The stars: ``x_centroid`` and ``y_centroid`` (or ``x`` and
            ``y``), and ``accepted`` if not all are to be used.

        error : 2D array_like or `~astropy.units.Quantity`, optional
            The standard deviations of the pixels. The default is the
            clipped rms of the image, the same everywhere.

        mask : 2D bool array_like, optional
            `True` for pixels to ignore.

        Returns
        -------
        psf : `EmpiricalPSF`
            The PSF. Its ``stars`` is the table with ``x_fit``,
            ``y_fit``, ``flux_fit``, ``sky_fit``, ``reduced_chi2``,
            ``excess`` and ``excess_err`` (the variance beyond that of
            the PSF along each axis, in square pixels), and ``used``;
            ``flags`` and ``reason`` say why a star was not used.

        Raises
        ------
        TypeError
            If ``stars`` is not a table.

        ValueError
            If there are fewer than 2 usable stars, or the fit leaves
            fewer.
        """
        if not isinstance(stars, Table):
            msg = ('stars must be a table, such as that of StarSelector: got '
                   f'{stars!r}')
            raise TypeError(msg)
        data, mask, error = open_nddata(data, mask, error)
        arrays, unit = strip_units(data=data, error=error)
        values, bad = as_masked_image(arrays['data'], mask)
        weights = _inverse_variance(arrays['error'], values, bad)
        x, y, chosen = _positions(stars, values.shape)
        images, pixels = self._cut_stars(values, weights, x[chosen],
                                         y[chosen])
        if len(images) < 2:
            msg = (f'stars has {len(images)} usable stars on the image, at '
                   "least 2 are needed: see its column 'reason', or lower "
                   'min_snr of the StarSelector')
            raise ValueError(msg)
        fit = PSFFit(self, images, pixels, values.shape,
                     _start_fwhm(stars))
        fit.run()
        table = self._make_table(stars, chosen, fit, pixels, unit)
        return fit.make_psf(table, self)

    def _cut_stars(self, values, weights, x, y):
        """
        Cut out the stars.
        """
        half = self.size // 2
        pixels = np.stack([np.rint(x), np.rint(y)]).astype(int)
        return StarImages(
            data=cut_out(np.where(weights > 0, values, 0.0), *pixels, half),
            weights=cut_out(weights, *pixels, half),
            x=x - pixels[0], y=y - pixels[1],
            terms=np.ones((len(x), 1))), pixels

    def _make_table(self, stars, chosen, fit, pixels, unit):
        """
        Add the results to the table of stars.
        """
        table = QTable(stars, copy=True)
        n = len(table)
        images = fit.stars
        norm = fit.norms()
        columns = {
            'x_fit': (pixels[0] + images.x, None),
            'y_fit': (pixels[1] + images.y, None),
            'flux_fit': (images.flux * norm, integrated_unit(unit)),
            'sky_fit': (images.sky, unit),
            'reduced_chi2': (images.chi2, None),
            'excess': (images.excess, None),
            'excess_err': (images.excess_err, None),
        }
        for name, (values, column_unit) in columns.items():
            column = np.full(n, np.nan)
            column[chosen] = values
            table[name] = (column if column_unit is None
                           else column << column_unit)
        used = np.zeros(n, dtype=bool)
        used[chosen] = fit.used
        table['used'] = used
        flags = (np.array(table['flags'], dtype=int)
                 if 'flags' in table.colnames else np.zeros(n, dtype=int))
        flags[chosen] |= fit.flags
        table['flags'] = flags
        table['reason'] = [', '.join(names)
                           for names in decode_star_flags(flags)]
        table.meta.update(result_meta(self))
        return table


def _start_fwhm(stars):
    """
    Return the FWHM that the selector has found, if it is known.
    """
    fwhm = stars.meta.get('fwhm')
    return float(fwhm) if fwhm is not None and np.isfinite(fwhm) else None


def _positions(stars, shape):
    """
    Return the positions of all rows, and which rows are to be used.
    """
    names = stars.colnames
    for pair in (('x_centroid', 'y_centroid'), ('x_fit', 'y_fit'),
                 ('x_init', 'y_init'), ('x', 'y')):
        if set(pair) <= set(names):
            x, y = (np.asarray(stars[name], dtype=float) for name in pair)
            break
    else:
        msg = ('stars must have the columns x_centroid and y_centroid, or x '
               f'and y: it has {", ".join(names)}')
        raise ValueError(msg)
    ny, nx = shape
    with np.errstate(invalid='ignore'):
        chosen = ((x > -0.5) & (x < nx - 0.5)
                  & (y > -0.5) & (y < ny - 0.5))
    if 'accepted' in names:
        chosen &= np.asarray(stars['accepted'], dtype=bool)
    return x, y, chosen


def _inverse_variance(error, values, bad):
    """
    Return the inverse variance of each pixel, zero for bad ones.
    """
    if error is None:
        error = clipped_rms(values, mask=bad)
    error = np.asarray(error, dtype=float)
    if error.shape not in {(), values.shape}:
        msg = (f'error must have the shape of data, {values.shape}, got '
               f'{error.shape}')
        raise ValueError(msg)
    error = np.broadcast_to(error, values.shape)
    good = ~bad & np.isfinite(error) & (error > 0.0)
    return np.where(good, 1.0 / np.where(good, error, 1.0)**2, 0.0)
