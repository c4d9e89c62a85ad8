# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Subtraction of one image of a field from another.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING, Literal

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import ArrayLike

from hyperphotutils.subtraction.correlation import (
    measure_noise_kernel,
    shared_noise,
    sky_noise,
)
from hyperphotutils.subtraction.decorrelation import (
    Decorrelation,
    decorrelate,
)
from hyperphotutils.subtraction.difference import (
    MASKED_BITS,
    add_polynomial,
    make_difference,
    subtract_background,
)
from hyperphotutils.subtraction.fit import (
    Direction,
    default_basis,
    fit_kernel,
    flux_error,
)
from hyperphotutils.subtraction.flags import DIFFERENCE_FLAGS
from hyperphotutils.subtraction.frames import Frame, NoiseGrid
from hyperphotutils.subtraction.inputs import read_pair
from hyperphotutils.subtraction.psf import (
    as_spatial_psf,
    convolved_psf,
    measure_psf,
)
from hyperphotutils.subtraction.result import make_result
from hyperphotutils.subtraction.stamps import (
    Stamps,
    find_peaks,
    measure_widths,
    peak_significance,
    read_positions,
    select_stamps,
)
from hyperphotutils.utils.checks import check_part, check_positive
from hyperphotutils.utils.tables import make_repr, result_meta

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord
    from astropy.table import Table

    from hyperphotutils.subtraction.basis import (
        DeltaBasis,
        FixedBasis,
        GaussianPolynomialBasis,
    )
    from hyperphotutils.subtraction.fit import KernelFit
    from hyperphotutils.subtraction.result import SubtractionResult
    from hyperphotutils.utils.typing import HDU, FilePath, ImageLike

__all__ = ['ImageSubtractor']

# The half width of a stamp in FWHMs, and its range in pixels: it must show
# some sky around the star, but few of its neighbors
_STAMP_FACTOR, _STAMP_RANGE = 2.8, (12, 18)
_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))
# The cost of the fit grows with the number of stars, its accuracy only with
# the square root
_MAX_STAMPS = 400
# Each order adds 55 coefficients for each of its terms; beyond 3, few fields
# have enough stars
_AUTO_ORDERS = (0, 1, 2, 3)
# PSFs whose squared sigmas differ by more (in square pixels, and
# relative to the narrower one) need no trial of both directions
_CLEAR_DIFFERENCE = 0.6
_CLEAR_RATIO = 0.25
# Correlations of neighbors that are smaller are not worth the cost
_MIN_CORRELATION = 0.1
# Of crowded fields without errors, that of the images seems to be up to 0.1
_MAX_SHARED = 0.2
_CONVOLVE = ('auto', 'template', 'science')
_NORMALIZE = ('science', 'template', 'unconvolved')


class ImageSubtractor:
    """
    Subtract a template from an image of the same field.

    One of the images is convolved with a kernel that varies over the
    field, so that its stars become those of the other (Alard & Lupton
    1998, ApJ 503, 325; Alard 2000, A&AS 144, 363). The kernel is fitted
    to stamps around stars, with the variance of each pixel as its
    weight. The order of its variation and the regularization of its
    coefficients are chosen by cross-validation.

    Parameters
    ----------
    kernel_radius : int, optional
        The half width of the kernel in pixels. By default it follows
        from the widths of the stars.

    basis : `GaussianPolynomialBasis`, `DeltaBasis`, or `FixedBasis`, \
            optional
        The functions of which the kernel is made. By default these are
        Gaussians times polynomials, with sigmas from the widths of the
        stars.

    kernel_order : int, sequence of int, or 'auto', optional
        The order of the polynomial in x and y with which the kernel
        varies, or those from which cross-validation chooses; ``'auto'``
        (default) is 0 to 3.

    background_order : int, optional
        The order of the differential background. The default is 2.

    scale_order : int, optional
        The order with which the ratio of the flux scales varies. The
        default is 0, a constant.

    convolve : {'auto', 'template', 'science'}, optional
        The image that is convolved. ``'auto'`` (default) takes the
        sharper one; if the widths are similar, both are tried and the
        one that makes the smaller error of a transient's flux is taken.

    normalize : {'science', 'template', 'unconvolved'}, optional
        The image whose flux scale the difference has. The default is
        ``'science'``.

    finder : callable, optional
        A photutils finder, called with the template (without the level
        of its sky) and ``mask``. By default the peaks that stand out in
        both images are taken.

    n_stamps : tuple of 2 ints, optional
        The number of cells of the image along y and x over which the
        stars are distributed. The default is ``(12, 12)``.

    stars_per_stamp : int, optional
        The largest number of stars in each cell. The default is 4.

    stamp_radius : int, optional
        The half width of the stamps in pixels. By default 2.8 times the
        larger FWHM, between 12 and 18.

    threshold : float, optional
        The least signal-to-noise ratio of the mean of 3 x 3 pixels at
        the peak of a star, in both images. The default is 15.

    sigma_clip : float, optional
        Stamps whose reduced chi squared is larger than the median by
        so many robust standard deviations are left out. The default
        is 4.

    mask_limit : float, optional
        The largest error that bad pixels of the convolved image may
        cause, in units of the standard deviation of the difference;
        pixels with more are masked. Bad pixels are filled from their
        neighbors, and may be wrong by the scatter of these. The default
        is 0.2.

    decorrelate : bool, optional
        Whether the decorrelated difference is made as well. The default
        is `True`.

    correlated_noise : bool, optional
        Whether the correlation of the noise of neighboring pixels is
        measured in each image; it is taken into account where it is
        more than 0.1, as in images that were resampled. The default is
        `True`.

    n_regions : tuple of 2 ints, optional
        The number of regions along y and x in which the kernel is fitted
        separately, for fields in which it varies more than a polynomial
        can; the kernels are blended at the borders. The default is
        ``(1, 1)``.

    tile_size : int, optional
        The largest side of the tiles in which the images are worked on,
        which bounds the memory beyond that of the results. The default
        is 520.

    n_workers : int, optional
        The number of threads that work on tiles. The default is 1.

    Raises
    ------
    TypeError, ValueError
        If an argument is not one of these.

    Notes
    -----
    The call does the four steps that can also be done one by one::

        stamps = subtract.find_stamps(science, template, ...)
        direction = subtract.choose_direction(stamps)
        fit = subtract.fit(stamps, direction)
        result = subtract.subtract(fit)

    Examples
    --------
    >>> from hyperphotutils.datasets import make_image_pair
    >>> from hyperphotutils.subtraction import ImageSubtractor
    >>> pair = make_image_pair((256, 256), seed=1)
    >>> subtract = ImageSubtractor(kernel_order=1)
    >>> result = subtract(pair.science, pair.template)
    >>> result.stats['convolve']
    'template'
    >>> scale, error = result.kernel_sum(127.5, 127.5)
    >>> bool(abs(scale / pair.scale - 1) < 0.02)
    True
    """

    _repr_params = (
        'kernel_radius', 'basis', 'kernel_order', 'background_order',
        'scale_order', 'convolve', 'normalize', 'finder', 'n_stamps',
        'stars_per_stamp', 'stamp_radius', 'threshold', 'sigma_clip',
        'mask_limit', 'decorrelate', 'correlated_noise', 'n_regions',
        'tile_size', 'n_workers')

    def __init__(
            self, kernel_radius: int | None = None, *,
            basis: GaussianPolynomialBasis | DeltaBasis | FixedBasis
                | None = None,
            kernel_order: int | Sequence[int] | np.ndarray
                | Literal['auto'] = 'auto', background_order: int = 2,
            scale_order: int = 0,
            convolve: Literal['auto', 'template', 'science'] = 'auto',
            normalize: Literal['science', 'template',
                'unconvolved'] = 'science', finder: Callable | None = None,
            n_stamps: tuple[int, int] = (12, 12), stars_per_stamp: int = 4,
            stamp_radius: int | None = None, threshold: float = 15.0,
            sigma_clip: float = 4.0, mask_limit: float = 0.2,
            decorrelate: bool = True, correlated_noise: bool = True,
            n_regions: tuple[int, int] = (1, 1), tile_size: int | None = None,
            n_workers: int = 1) -> None:
        if basis is not None and kernel_radius is not None:
            msg = 'kernel_radius cannot be given with basis, which has its own'
            raise ValueError(msg)
        if basis is not None and not hasattr(basis, 'convolve'):
            msg = ('basis must be a GaussianPolynomialBasis, DeltaBasis, '
                   f'FixedBasis, or the like: {basis!r}')
            raise TypeError(msg)
        self.kernel_radius = _whole(kernel_radius, 'kernel_radius', 1)
        self.basis = basis
        self.kernel_order = kernel_order
        if kernel_order != 'auto':
            orders = np.atleast_1d(kernel_order).tolist()
            for order in orders:
                _whole(order, 'kernel_order', 0)
        self.background_order = _whole(background_order,
                                       'background_order', 0)
        self.scale_order = _whole(scale_order, 'scale_order', 0)
        self.convolve = _choice(convolve, 'convolve', _CONVOLVE)
        self.normalize = _choice(normalize, 'normalize', _NORMALIZE)
        self.finder = check_part(finder, 'finder')
        self.n_stamps = _two(n_stamps, 'n_stamps')
        self.n_regions = _two(n_regions, 'n_regions')
        self.stars_per_stamp = _whole(stars_per_stamp, 'stars_per_stamp', 1)
        self.stamp_radius = _whole(stamp_radius, 'stamp_radius', 3)
        self.threshold = check_positive(threshold, 'threshold')
        self.sigma_clip = check_positive(sigma_clip, 'sigma_clip')
        self.mask_limit = check_positive(mask_limit, 'mask_limit')
        self.decorrelate = bool(decorrelate)
        self.correlated_noise = bool(correlated_noise)
        self.tile_size = _whole(tile_size, 'tile_size', 32)
        self.n_workers = _whole(n_workers, 'n_workers', 1)

    def __repr__(self) -> str:
        return make_repr(self)

    def __call__(self, science: FilePath | HDU | ImageLike,
                 template: FilePath | HDU | ImageLike, *,
                 error: FilePath | HDU | ImageLike | None = None,
                 template_error: FilePath | HDU | ImageLike | None = None,
                 mask: FilePath | HDU | ImageLike | None = None,
                 template_mask: FilePath | HDU | ImageLike | None = None,
                 positions: Table | SkyCoord | ArrayLike | None = None,
                 psf: ArrayLike | Callable | None = None) -> SubtractionResult:
        """
        Subtract the template from the science image.

        Parameters
        ----------
        science, template : path, HDU, `~astropy.nddata.NDData`, \
                `~astropy.units.Quantity`, or 2D array_like
            The images, on the same pixels. An
            `~astropy.nddata.NDData` brings its mask, uncertainty,
            unit, and WCS, and so does a file that
            `~astropy.nddata.CCDData` has written. Pixels that are not
            finite are masked.

        error, template_error : same kinds, optional
            The standard deviations of their pixels, with the noise of
            the sources; see `ccd_error` for those of a CCD. Without
            them the robust scatter of the image is taken, which makes
            the errors of bright sources too small.

        mask, template_mask : same kinds, optional
            `True` for bad pixels, saturated ones among them. Integers
            other than 0 count as `True`.

        positions : table, `~astropy.coordinates.SkyCoord`, or \
                array_like, optional
            The stars to which the kernel is fitted: a table with the
            columns ``x_centroid`` and ``y_centroid`` (or ``x`` and
            ``y``), or an array of shape (n, 2).

        psf : 2D array_like or callable, optional
            The PSF of the science image: an image with an odd side, or
            a function of x and y that returns one, such as an
            `~hyperphotutils.psf.EmpiricalPSF`. By default it is
            measured on the stars.

        Returns
        -------
        result : `SubtractionResult`
            The difference and all that belongs to it.

        Raises
        ------
        ValueError
            If the images do not belong together, have no usable pixel,
            or show no star to which a kernel could be fitted.

        Warns
        -----
        `~astropy.utils.exceptions.AstropyUserWarning`
            If errors are not given, errors or masks in a file cannot be
            used, or the images share their noise, as an image and a stack
            that contains it.
        """
        stamps = self.find_stamps(
            science, template, error=error, template_error=template_error,
            mask=mask, template_mask=template_mask, positions=positions)
        direction = self.choose_direction(stamps)
        fit = self.fit(stamps, direction)
        return self.subtract(fit, psf=psf)

    def find_stamps(self, science: FilePath | HDU | ImageLike,
                    template: FilePath | HDU | ImageLike, *,
                    error: FilePath | HDU | ImageLike | None = None,
                    template_error: FilePath | HDU | ImageLike | None = None,
                    mask: FilePath | HDU | ImageLike | None = None,
                    template_mask: FilePath | HDU | ImageLike | None = None,
                    positions: Table | SkyCoord | ArrayLike | None = None
                    ) -> Stamps:
        """
        Prepare the images and find the stars for the fit.

        Parameters
        ----------
        science, template : object
            The images: see the call of the class.

        error, template_error, mask, template_mask, positions : optional
            See the call of the class.

        Returns
        -------
        stamps : `Stamps`
            The prepared images and a table of the stars.
        """
        science, template = read_pair(
            science, template, error=error, template_error=template_error,
            mask=mask, template_mask=template_mask)
        unit, wcs = science.unit, science.wcs
        origins = {f'{prefix}{name}': origin for prefix, image in (
            ('', science), ('template_', template))
            for name, origin in image.origins.items()}
        assumed = [name for name, image in (
            ('error', science), ('template_error', template))
            if image.error is None]
        if assumed:
            msg = (f'{" and ".join(assumed)} not given: the robust scatter '
                   'of the image is taken, which leaves out the noise of the '
                   'sources')
            warnings.warn(msg, AstropyUserWarning, stacklevel=2)
            origins |= dict.fromkeys(
                assumed, 'assumed, the robust scatter of the image')
        science, template = (
            Frame(image.data, image.error, image.mask, name)
            for image, name in ((science, 'science'),
                                (template, 'template')))
        noises = [sky_noise(frame) for frame in (science, template)]
        if self.correlated_noise:
            for frame, noise in zip((science, template), noises, strict=True):
                kernel, correlation, _ = measure_noise_kernel(*noise)
                if correlation > _MIN_CORRELATION:
                    frame.noise_kernel = kernel
        # identical images may have no sky, or no noise
        shared = (1.0 if np.array_equal(science.data, template.data,
                                        equal_nan=True)
                  else shared_noise(*noises))
        if shared > _MAX_SHARED:
            msg = ('science and template share their noise (correlation '
                   f'{shared:.2f}): the kernel and all errors are wrong, as '
                   'they are those of independent noise; take a template '
                   'that is made without the science image')
            warnings.warn(msg, AstropyUserWarning, stacklevel=2)
        x, y, snr = self._find_stars(science, template, positions, wcs)
        sigma_science, sigma_template, ratio = measure_widths(
            science, template, x, y)
        half = self.stamp_radius or int(np.clip(
            round(_STAMP_FACTOR * _FWHM * max(sigma_science,
                                              sigma_template)),
            *_STAMP_RANGE))
        table = select_stamps(
            science, template, x, y, snr,
            convolved=(science if self.convolve == 'science'
                       or (self.convolve == 'auto'
                           and sigma_science < sigma_template)
                       else template), threshold=self.threshold,
            n_cells=self.n_stamps, per_cell=self.stars_per_stamp,
            separation=half, n_max=_MAX_STAMPS)
        stamps = Stamps(science, template, table, half, sigma_science,
                        sigma_template, ratio, unit, wcs, origins,
                        shared if shared > _MAX_SHARED else 0.0)
        if not len(stamps):
            words, counts = np.unique(table['status'], return_counts=True)
            found = ', '.join(f'{count} {word}' for word, count
                              in zip(words, counts, strict=True))
            msg = (f'no star can be used for the kernel ({found}): lower the '
                   'threshold, check the masks, or give positions'
                   if found else
                   'positions has no star on the images'
                   if positions is not None else
                   f'no star is above threshold={self.threshold:g} in both '
                   'images: lower the threshold, or give positions')
            raise ValueError(msg)
        # measured again without the sources that are not used
        used = stamps.used
        widths = measure_widths(science, template,
                                np.asarray(table['x'])[used],
                                np.asarray(table['y'])[used])
        return replace(stamps, sigma_science=widths[0],
                       sigma_template=widths[1], flux_ratio=widths[2])

    def _find_stars(self, science, template, positions, wcs):
        """
        Return the pixels of the stars, and how significant they are.
        """
        if positions is None and self.finder is None:
            return find_peaks(science, template, self.threshold)
        if positions is None:
            ny, nx = template.shape
            value = template.window(0, ny, 0, nx)[0]
            positions = self.finder(value, mask=template.bad)
            if positions is None:
                positions = np.empty((0, 2))
        x, y = read_positions(positions, wcs)
        ny, nx = science.shape
        inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
        if not inside.all():
            msg = (f'{np.count_nonzero(~inside)} of {len(x)} positions are '
                   'off the image and are left out')
            warnings.warn(msg, AstropyUserWarning, stacklevel=4)
        x, y = x[inside], y[inside]
        snr = peak_significance(science, template, x, y)
        order = np.argsort(-snr, kind='stable')
        return x[order], y[order], snr[order]

    def choose_direction(self, stamps: Stamps) -> Direction:
        """
        Choose the image to convolve.

        Parameters
        ----------
        stamps : `Stamps`
            What `find_stamps` returned.

        Returns
        -------
        direction : `Direction`
            The choice.
        """
        if self.convolve != 'auto':
            return Direction(self.convolve)
        # the sharper image, as a kernel that sharpens amplifies the noise
        squares = stamps.sigma_science**2, stamps.sigma_template**2
        clear = max(_CLEAR_DIFFERENCE, _CLEAR_RATIO * min(squares))
        if abs(squares[0] - squares[1]) > clear:
            return Direction('template' if squares[0] > squares[1]
                             else 'science', 'widths')
        fits = {name: self.fit(stamps, name)
                for name in ('template', 'science')}
        merits = {name: flux_error(fit) for name, fit in fits.items()}
        return Direction(min(merits, key=merits.get), 'trial', merits, fits)

    def fit(self, stamps: Stamps, direction: Direction | str) -> KernelFit:
        """
        Fit the kernel.

        Parameters
        ----------
        stamps : `Stamps`
            What `find_stamps` returned.

        direction : `Direction` or str
            The image to convolve.

        Returns
        -------
        fit : `KernelFit`
            The kernel and how it was found.
        """
        if isinstance(direction, str):
            direction = Direction(_choice(direction, 'direction',
                                          _CONVOLVE[1:]))
        if direction.convolve in direction.fits:
            return replace(direction.fits[direction.convolve],
                           direction=direction)
        orders = (_AUTO_ORDERS if self.kernel_order == 'auto'
                  else self.kernel_order)
        return fit_kernel(
            stamps, direction, self.basis or default_basis(
                stamps, self.kernel_radius), n_regions=self.n_regions,
            kernel_order=orders,
            scale_order=self.scale_order, sigma_clip=self.sigma_clip,
            background_order=self.background_order)

    def subtract(self, fit: KernelFit, *,
                 psf: ArrayLike | Callable | None = None) -> SubtractionResult:
        """
        Make the difference with a fitted kernel.

        Parameters
        ----------
        fit : `KernelFit`
            What `fit` returned.

        psf : 2D array_like or callable, optional
            See the call of the class.

        Returns
        -------
        result : `SubtractionResult`
            The difference and all that belongs to it.
        """
        kernel, target, source = fit.kernel, fit.target, fit.source
        is_science = fit.direction.convolve == 'template'
        shape = kernel.shape
        middle = 0.5 * (shape[1] - 1), 0.5 * (shape[0] - 1)
        # the kernel's sum is the flux scale of the target over that of
        # the source
        scale = float(kernel.sum(*middle))
        if not scale > 0.0:
            msg = (f'the kernel has the sum {scale:.3g}: the stars of the '
                   'images do not match; check their alignment and units')
            raise ValueError(msg)
        products = make_difference(
            target, source, kernel, mask_limit=self.mask_limit,
            tile_size=self.tile_size, n_workers=self.n_workers,
            target_is_science=is_science)
        background = subtract_background(products, self.background_order)
        if background is None:
            # Too little sky. The background of the stamps is less accurate:
            # it takes up the wings of stars beyond the kernel.
            background = fit.solutions[0].background
            add_polynomial(products.difference, background, -1.0)
        decorrelated = None
        noise = NoiseGrid(target, source)
        if psf is None:
            used = fit.table['status'] == 'USED'
            psf = measure_psf(fit.stamps.science,
                              np.asarray(fit.table['x'])[used],
                              np.asarray(fit.table['y'])[used],
                              fit.stamps.half)
        else:
            psf = as_spatial_psf(psf, shape)
        # new sources are in the science image, before any convolution
        if not is_science:
            psf = convolved_psf(psf, kernel)
        if self.decorrelate:
            whitening = Decorrelation(kernel, noise, psf)
            white = decorrelate(
                products, whitening, target, source, masked=MASKED_BITS,
                unknown=(DIFFERENCE_FLAGS['near_bad_pixels']
                         | DIFFERENCE_FLAGS['edge']),
                tile_size=self.tile_size, n_workers=self.n_workers)
            decorrelated = (*white, whitening.as_spatial_kernel())
        # what is new is positive, also if the science image is the source
        factor = 1.0 if is_science else -1.0
        if self.normalize == ('template' if is_science else 'science'):
            factor /= scale
        return make_result(
            products, decorrelated, kernel=kernel, noise=noise, psf=psf,
            background=background, factor=factor, fit=fit,
            levels=(target.level, source.level),
            meta={**result_meta(self), 'convolve': fit.direction.convolve})


def _whole(value, name, least):
    """
    Check an optional whole number.
    """
    if value is None:
        return None
    if (isinstance(value, bool) or not isinstance(value, Integral)
            or value < least):
        msg = f'{name} must be a whole number of at least {least}: {value!r}'
        raise ValueError(msg)
    return int(value)


def _two(value, name):
    """
    Check two numbers along y and x.
    """
    numbers = np.atleast_1d(value).tolist()
    if len(numbers) != 2:
        msg = f'{name} must be two numbers, along y and x: {value!r}'
        raise ValueError(msg)
    return tuple(_whole(number, name, 1) for number in numbers)


def _choice(value, name, choices):
    """
    Check an argument that is one of some words.
    """
    if not isinstance(value, str) or value not in choices:
        msg = f'{name} must be one of {", ".join(choices)}: {value!r}'
        raise ValueError(msg)
    return value
