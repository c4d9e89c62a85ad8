# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Builder of an empirical PSF from stars.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from astropy.table import QTable, Table
from numpy.typing import ArrayLike

from hyperphotutils.detection.moments import cut_out
from hyperphotutils.noise import clipped_rms
from hyperphotutils.psf.fit import PSFFit
from hyperphotutils.psf.flags import decode_star_flags
from hyperphotutils.psf.stars import (
    MIN_STARS,
    StarImages,
    TooFewStarsError,
)
from hyperphotutils.utils import (
    as_masked_image,
    check_integer,
    check_positive,
    integrated_unit,
    make_repr,
    open_nddata,
    result_meta,
    strip_units,
)
from hyperphotutils.utils.checks import check_plane
from hyperphotutils.utils.tables import list_columns, pixel_columns

if TYPE_CHECKING:
    from astropy.units import Quantity

    from hyperphotutils.psf.empirical import EmpiricalPSF
    from hyperphotutils.utils.typing import ImageLike

__all__ = ['EmpiricalPSFBuilder']


class EmpiricalPSFBuilder:
    """
    Class to build a PSF from the stars of an image.

    The model of a star is its flux times the PSF at its position, plus a
    constant sky. The PSF is an elliptical Moffat profile plus a grid of
    cubic B-splines for the residuals; both vary over the field as a
    polynomial. A prior keeps the splines small and smooth, so that few
    and faint stars suffice and the wings remain positive. Pixels with
    cosmic rays or companions are rejected, and so are galaxies and
    blends, by a test of their size.

    Parameters
    ----------
    size : odd int, optional
        The side of the PSF in pixels.

    oversampling : int, optional
        The number of knots of the splines a pixel. One is enough if the
        FWHM is more than 2.5 pixels; stars at many subpixel positions
        are needed for more.

    order : int or `None`, optional
        The order of the polynomial in the position, with at most as many
        terms as there are stars. With `None` (default), it is chosen by
        cross-validation, from 0 to 2 (if there are enough stars).

    baseline : {'moffat'} or `None`, optional
        The profile under the splines. Without one, the splines are the
        PSF.

    prior : float, optional
        The expected deviation of the splines relative to the profile.

    smoothness : float, optional
        The weight of the prior that the splines are smooth.

    tv : float, optional
        The weight of the total variation of the splines, which smooths
        noise but preserves sharp features.

    sky : {'constant'} or `None`, optional
        Whether to fit a constant sky to each star.

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
    The effective PSF includes the integration over a pixel, as in
    Anderson & King (2000, PASP 112, 1360). The size of each star is
    tested with an additional linear parameter, the coefficient of the
    Laplacian of its model, which is proportional to the change of an
    image by a small blur.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_star_field
    >>> from hyperphotutils.psf import EmpiricalPSFBuilder, StarSelector
    >>> field = make_star_field((300, 300), n_stars=25, seed=1)
    >>> stars = StarSelector()(field.data, error=field.error)
    >>> builder = EmpiricalPSFBuilder(size=25, order=0)
    >>> psf = builder(field.data, stars, error=field.error)
    >>> image = psf(150, 150)
    >>> print(image.shape, f'{image.sum():.2f}')
    (25, 25) 1.00
    """

    _repr_params = ('size', 'oversampling', 'order', 'baseline', 'prior',
                    'smoothness', 'tv', 'sky', 'max_iterations',
                    'max_star_chi2', 'reject_extended')

    def __init__(self, size: int = 31, *, oversampling: int = 1,
                 order: int | None = None,
                 baseline: Literal['moffat'] | None = 'moffat',
                 prior: float = 0.15, smoothness: float = 1.0, tv: float = 0.0,
                 sky: Literal['constant'] | None = 'constant',
                 max_iterations: int = 4, max_star_chi2: float = 2.5,
                 reject_extended: bool = True) -> None:
        if int(size) != size or size % 2 == 0 or size < 5:
            msg = f'size must be an odd integer of at least 5: got {size}'
            raise ValueError(msg)
        self.size = int(size)
        # more knots than pixels need many stars: with few, neighboring knots
        # differ as on a checkerboard (photutils issues 951, 1404)
        self.oversampling = check_integer(oversampling, 'oversampling')
        # The number of stars does not tell the order: in a quadratic field
        # with 49 stars, order 1 has six times the error of order 2.
        self.order = None if order is None else check_integer(
            order, 'order', 0)
        if baseline not in {'moffat', None}:
            msg = f"baseline must be 'moffat' or None: got {baseline!r}"
            raise ValueError(msg)
        # alone, it leaves 3 % of a PSF (relative L2), but with it 20 stars
        # suffice: the splines are pulled to it, not to 0
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
        self.max_iterations = check_integer(max_iterations,
                                            'max_iterations')
        self.max_star_chi2 = check_positive(max_star_chi2, 'max_star_chi2')
        self.reject_extended = bool(reject_extended)

    def __repr__(self) -> str:
        return make_repr(self)

    def __call__(self, data: ImageLike, stars: Table, *,
                 error: ArrayLike | Quantity | None = None,
                 mask: ArrayLike | None = None) -> EmpiricalPSF:
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
            ``flags`` and ``reason`` state why a star was not used.

        Raises
        ------
        TypeError
            If ``stars`` is not a table.

        ValueError
            If there are fewer than 2 usable stars, or the fit leaves
            fewer, or ``order`` has more terms than there are stars.
        """
        if not isinstance(stars, Table):
            msg = ('stars must be a table, such as that of StarSelector: got '
                   f'{stars!r}')
            raise TypeError(msg)
        data, mask, error = open_nddata(data, mask, error)
        arrays, unit = strip_units(data=data, error=error)
        values, bad = as_masked_image(arrays['data'], mask)
        # the inverse variance of each pixel, zero for bad ones
        deviation = arrays['error']
        if deviation is None:
            deviation = clipped_rms(values, mask=bad)
        deviation = check_plane(deviation, values.shape, 'error')
        good = ~bad & np.isfinite(deviation) & (deviation > 0.0)
        weights = np.where(good, 1.0 / np.where(good, deviation, 1.0)**2, 0.0)
        positions = pixel_columns(stars, (
            ('x_centroid', 'y_centroid'), ('x_fit', 'y_fit'),
            ('x_init', 'y_init'), ('x', 'y')))
        if positions is None:
            msg = ('stars must have the columns x_centroid and y_centroid, '
                   f'or x and y: it has {list_columns(stars)}')
            raise ValueError(msg)
        x, y = positions
        ny, nx = values.shape
        with np.errstate(invalid='ignore'):
            chosen = ((x > -0.5) & (x < nx - 0.5)
                      & (y > -0.5) & (y < ny - 0.5))
        if 'accepted' in stars.colnames:
            chosen &= np.asarray(stars['accepted'], dtype=bool)
        x, y = x[chosen], y[chosen]
        half = self.size // 2
        pixels = np.stack([np.rint(x), np.rint(y)]).astype(int)
        # not shifted to a common center, which would correlate the noise
        images = StarImages(
            data=cut_out(np.where(weights > 0, values, 0.0), *pixels, half),
            weights=cut_out(weights, *pixels, half),
            x=x - pixels[0], y=y - pixels[1], terms=np.ones((len(x), 1)))
        if len(images) < MIN_STARS:
            problem = (f'the number of usable stars on the image is '
                       f'{len(images)}, at least {MIN_STARS} are needed')
            raise TooFewStarsError(
                problem, "see the column 'reason' of stars, or lower min_snr "
                'of the StarSelector')
        # the FWHM that the selector has found, if it is known
        fwhm = stars.meta.get('fwhm')
        if fwhm is not None:
            fwhm = float(fwhm) if np.isfinite(fwhm) else None
        fit = PSFFit(self, images, pixels, values.shape, fwhm)
        fit.run()
        table = self._make_table(stars, chosen, fit, pixels, unit)
        return fit.make_psf(table, self)

    def _make_table(self, stars, chosen, fit, pixels, unit):
        """
        Add the results to the table of stars.
        """
        # rejected stars stay, with flags, so that a user can look at them
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
