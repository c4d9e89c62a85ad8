# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The HYPER method: detection, grouping, joint fits, and apertures.
"""

from __future__ import annotations

import html
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from astropy.modeling.fitting import Fitter
from numpy.typing import ArrayLike
from photutils.utils.exceptions import NoDetectionsWarning

from hyperphotutils.background.interface import (
    as_local_background,
)
from hyperphotutils.blend.covariance import total_flux
from hyperphotutils.blend.fitter import BlendGroupFitter
from hyperphotutils.blend.group_solver import GroupSolver
from hyperphotutils.blend.grouper import SeparationGrouper
from hyperphotutils.blend.results import as_init_params
from hyperphotutils.detection.highpass import HighPassStarFinder
from hyperphotutils.photometry.explain import (
    explain_source,
    summarize_sources,
)
from hyperphotutils.photometry.measurement import (
    check_noise,
    warn_of_other_beam,
)
from hyperphotutils.photometry.results import (
    make_empty_results,
    make_results,
    open_search,
)
from hyperphotutils.utils.checks import (
    check_integer,
    check_part,
    check_positive,
    check_range,
)
from hyperphotutils.utils.executors import one_blas_thread
from hyperphotutils.utils.flags import decode_flags
from hyperphotutils.utils.tables import make_repr, open_nddata

if TYPE_CHECKING:
    from astropy.table import QTable, Table
    from astropy.wcs import WCS
    from matplotlib.figure import Figure

    from hyperphotutils.background.interface import LocalBackground
    from hyperphotutils.blend.beams import BeamProfile
    from hyperphotutils.noise.model import NoiseModel
    from hyperphotutils.photometry.measurement import MapNoise
    from hyperphotutils.utils.typing import (
        ArrayOrQuantity,
        FloatOrQuantity,
        ImageLike,
        PSFLike,
    )

__all__ = ['HyperPhotometry']


class HyperPhotometry:
    """
    Detect, group, fit, and measure the compact sources of a map.

    The steps are those of HYPER [1]_: sources are detected on a
    high-pass filtered map; sources that overlap are fitted together,
    with their background; companions missed at first are detected on
    the residual of the fit; and the flux of each source is summed in an
    ellipse of its own size on the map minus background and companions.

    Each step is an object that can be replaced by any object with the
    same interface, including photutils classes.

    Parameters
    ----------
    fwhm : float
        The FWHM of the beam in pixels; the geometric mean for an
        elliptical beam: ``image.meta['beam_fwhm_pix']`` of a map of
        `~hyperphotutils.maps.read_map`. A warning is issued if it differs
        from that by more than a factor of 1.5. If the metadata of the map
        give the shape of the beam, as those of
        `~hyperphotutils.maps.read_map` do, this shape is the initial
        guess, or the value of a fixed shape.

    finder : callable, optional
        Called with the data and ``mask=``, returns a table with
        ``x_centroid`` and ``y_centroid``, or `None`. The default is
        `~hyperphotutils.detection.HighPassStarFinder` with
        ``n_sigma=5``.

    grouper : callable, optional
        Called with x and y, returns an integer group for each source.
        The default is a `~hyperphotutils.blend.SeparationGrouper` with a
        ``min_separation`` of ``2 * fwhm``.

    fitter : `~hyperphotutils.blend.BlendGroupFitter` or \
            `~astropy.modeling.fitting.Fitter`, optional
        Fits the groups. The default is ``BlendGroupFitter(fwhm)`` with
        bias correction. An astropy fitter is wrapped in such a fitter.

    psf : 2D array_like, photutils PSF model, \
            `~hyperphotutils.psf.EmpiricalPSF`, or \
            `~hyperphotutils.blend.BeamProfile`, optional
        The measured beam. Sources are then Gaussians convolved with it,
        in fits, apertures, and images; see
        `~hyperphotutils.blend.BlendGroupFitter`. If you pass a
        ``fitter``, pass ``psf`` to the fitter instead. The default is a
        Gaussian beam.

    fwhm_radius_ratio : float, optional
        The semi-axes of the apertures in units of the fitted FWHMs.

    aperture_correction : bool, optional
        Whether to divide the sum in the aperture by the fraction of the
        fitted Gaussian inside it.

    fwhm_limits : tuple of 2 floats, optional
        The smallest and the largest FWHM, in units of ``fwhm``, from
        which apertures are made; the FWHMs of other sources are clipped
        to them. The default is no limits.

    aperture_ellipse : tuple of 3 floats or 1D array_like, optional
        The FWHMs in pixels and the angle in degrees, counterclockwise
        from the x axis, from which apertures are made instead of the
        fitted ones. Arrays have a value for each row of
        ``init_params``; where it is NaN, the fitted ellipse is used.
        It cannot be combined with ``fwhm_limits``.

    background : `~hyperphotutils.background.LocalBackground` or \
            callable, optional
        Estimates the background around each source before the fit:
        after a first fit it is measured on the map without sources and
        subtracted, and all sources are fitted again without a background
        of their own. For example a
        `~hyperphotutils.background.LocalPolynomialBackground`, a
        `~hyperphotutils.background.ImageBackground`, or a
        `photutils.background.LocalBackground`. By default, the
        background is a part of the fit.

    noise : {'correlated', 'white'}, `~hyperphotutils.noise.NoiseModel`, \
            or `~hyperphotutils.photometry.MapNoise`, optional
        How pixels are weighted. With ``'correlated'``, the default, the
        covariance of the noise and of the structured background is
        measured on the map after a first fit, and all sources are fitted
        again by generalized least squares: with less scatter, and with
        realistic errors. With ``'white'`` pixels are independent, as
        they always are for an astropy fitter. A
        `~hyperphotutils.noise.NoiseModel` is used unchanged. A
        `~hyperphotutils.photometry.MapNoise` replaces every quantity
        that is otherwise measured on the whole map.

    mask_bad_pixels : bool, optional
        Whether to find bad pixels by
        `~hyperphotutils.noise.detect_bad_pixels` and leave them out of
        fits and apertures. Sources with bad pixels within one ``fwhm``
        are flagged.

    max_rounds : int, optional
        The largest number of searches on the residual. With 0 there are
        none, and no source is split in two.

    progress_bar : bool, optional
        Whether to show a progress bar.

    References
    ----------
    .. [1] Traficante, A. et al. 2015, A&A, 574, A119

    Examples
    --------
    >>> from hyperphotutils.datasets import make_blended_map
    >>> from hyperphotutils.photometry import HyperPhotometry
    >>> sky = make_blended_map(shape=(120, 120), n_sources=12,
    ...                        blend_fraction=0, seed=1)
    >>> phot = HyperPhotometry(fwhm=sky.image.meta['beam_fwhm_pix'])
    >>> table = phot(sky.image)
    >>> len(table)
    12
    >>> table['flux_fit'].unit
    Unit("Jy")
    """

    _repr_params = ('fwhm', 'finder', 'grouper', 'fitter', 'psf',
                    'fwhm_radius_ratio', 'aperture_correction', 'fwhm_limits',
                    'aperture_ellipse', 'background', 'noise',
                    'mask_bad_pixels', 'max_rounds', 'progress_bar')

    def __init__(self, fwhm: float, *, finder: Callable | None = None,
                 grouper: Callable | None = None,
                 fitter: BlendGroupFitter | Fitter | None = None,
                 psf: PSFLike | BeamProfile | None = None,
                 fwhm_radius_ratio: float = 1.0,
                 aperture_correction: bool = True,
                 fwhm_limits: tuple[float, float] | None = None,
                 aperture_ellipse: Sequence[ArrayLike] | None = None,
                 background: LocalBackground | Callable | None = None,
                 noise: Literal['correlated', 'white'] | NoiseModel
                     | MapNoise = 'correlated', mask_bad_pixels: bool = True,
                 max_rounds: int = 2, progress_bar: bool = False) -> None:
        self.fwhm = check_positive(fwhm, 'fwhm', of='pixels')
        self.fwhm_radius_ratio = check_positive(fwhm_radius_ratio,
                                                'fwhm_radius_ratio')
        for name, part in (('finder', finder), ('grouper', grouper),
                           ('fitter', fitter)):
            check_part(part, name)
        self.finder = (HighPassStarFinder(fwhm=fwhm, n_sigma=5.0)
                       if finder is None else finder)
        self.grouper = (SeparationGrouper(min_separation=2.0 * fwhm)
                        if grouper is None else grouper)
        if fitter is None or isinstance(fitter, Fitter):
            solver = GroupSolver(astropy_fitter=fitter, bias_correction=True)
            fitter = BlendGroupFitter(fwhm, psf=psf, solver=solver)
            psf = None
        if psf is not None:
            msg = ('psf cannot be combined with fitter: use '
                   'BlendGroupFitter(fwhm, psf=...)')
            raise ValueError(msg)
        self.psf = getattr(fitter, 'psf', None)
        self.fitter = fitter
        self.aperture_correction = bool(aperture_correction)
        if fwhm_limits is not None:
            check_range(fwhm_limits, 'fwhm_limits')
        self.fwhm_limits = fwhm_limits
        if aperture_ellipse is not None:
            _check_ellipse(aperture_ellipse, fwhm_limits)
        self.aperture_ellipse = aperture_ellipse
        self.background = (None if background is None
                           else as_local_background(background))
        check_noise(noise)
        solver = getattr(fitter, 'solver', None)
        if (getattr(solver, 'astropy_fitter', None) is not None and getattr(
                getattr(noise, 'model', noise), 'is_correlated', False)):
            msg = ('an astropy fitter cannot use correlated noise: give '
                   f"noise='white' or a WhiteNoise, not {noise!r}")
            raise ValueError(msg)
        self.noise = noise
        self.mask_bad_pixels = bool(mask_bad_pixels)
        self.max_rounds = check_integer(max_rounds, 'max_rounds', 0)
        self.progress_bar = progress_bar
        self._last = None

    def __repr__(self) -> str:
        return make_repr(self)

    def _repr_html_(self) -> str:
        if self._last is None:
            return f'<code>{html.escape(repr(self))}</code>'
        rows = ''.join(
            f'<tr><th style="text-align: left">{html.escape(name)}</th>'
            f'<td style="text-align: left">{html.escape(text)}</td></tr>'
            for name, text in summarize_sources(
                self.results, self.rejected).items())
        return (f'<table><caption>{type(self).__name__}</caption>{rows}'
                '</table>')

    @property
    def results(self) -> QTable | None:
        """
        The table of the last call, an `~astropy.table.QTable` or `None`.
        """
        return getattr(self._last, 'table', None)

    @property
    def rejected(self) -> QTable | None:
        """
        The detections of the last call that have no row in its table.

        An `~astropy.table.QTable` or `None`: their position (``x_init``,
        ``y_init``, and ``sky_centroid`` for a map with a WCS), ``snr``, the
        ``search`` that found them (0 on the map, 1 and more on the residual),
        and the ``reason``, see
        `~hyperphotutils.photometry.REJECTION_REASONS`.
        """
        return getattr(self._last, 'rejected', None)

    @property
    def rms(self) -> FloatOrQuantity | None:
        """
        The noise of the last map, a float, a `~astropy.units.Quantity`, or
        `None`.

        It is the median rms about local planes with all sources subtracted
        (see `~hyperphotutils.background.local_rms`), or the median of the
        given errors.
        """
        return getattr(self._last, 'rms', None)

    @property
    def detection_rms(self) -> FloatOrQuantity | None:
        """
        The typical rms of the last filtered map, to which the threshold of a
        `~hyperphotutils.detection.HighPassStarFinder` referred.
        """
        return getattr(self._last, 'detection_rms', None)

    def __call__(self, data: ImageLike, *, wcs: WCS | None = None,
                 mask: ArrayLike | None = None, error: ArrayLike | None = None,
                 weight_map: ArrayLike | None = None,
                 init_params: Table | None = None) -> QTable | None:
        """
        Measure the sources of a map.

        Parameters
        ----------
        data : 2D array_like, `~astropy.units.Quantity`, or \
                `~astropy.nddata.NDData`
            The map, best in Jy/pixel as
            `~hyperphotutils.maps.read_map` gives it. Pixels that are
            not finite are ignored.

        wcs : `~astropy.wcs.WCS`, optional
            Gives the sky columns; that of an `~astropy.nddata.NDData`
            by default.

        mask : 2D bool array_like, optional
            `True` for pixels to ignore; merged with that of an
            `~astropy.nddata.NDData`.

        error : float or 2D array_like, optional
            The standard deviation of the pixels, with the unit of
            ``data``. By default, the noise is taken from the residuals
            of the fits. The covariance of correlated noise is measured
            on the map in any case; only its variation over the map is
            then taken from ``error``.

        weight_map : 2D array_like, optional
            The map for a fitter with the ``weights`` ``'map'`` or
            ``'mask'``; see `~hyperphotutils.blend.BlendGroupFitter`.

        init_params : `~astropy.table.Table`, optional
            The sources to measure instead of detecting them; see
            `~hyperphotutils.blend.BlendGroupFitter`. No other sources
            are detected.

        Returns
        -------
        table : `~astropy.table.QTable` or `None`
            One row per source, or `None` (with a warning) if no sources
            are found.
        """
        warn_of_other_beam(self.fwhm, data)
        with one_blas_thread():
            search = open_search(self, data, wcs, mask, error, weight_map)
            table = (search.detect_and_measure() if init_params is None
                     else search.measure(init_params))
            # The results are stored in one step, for calls in several
            # threads.
            self._last = made = (make_empty_results(search) if table is None
                                 else make_results(self, search, table))
        if made.table is None:
            msg = 'No sources were found.'
            warnings.warn(msg, NoDetectionsWarning, stacklevel=2)
            return None
        # The caller may change the table.
        return made.table.copy()

    def measure_noise(self, data: ImageLike, *, wcs: WCS | None = None,
                      mask: ArrayLike | None = None,
                      error: ArrayLike | None = None) -> MapNoise:
        """
        Measure the noise of a map after a first fit of its sources.

        Use it to apply one noise model to parts of a map, or to several
        maps with the same noise.

        Parameters
        ----------
        data, wcs, mask, error
            The map, as for a call.

        Returns
        -------
        noise : `~hyperphotutils.photometry.MapNoise`
            The noise, which can be the ``noise`` of a `HyperPhotometry`.

        Raises
        ------
        ValueError
            If there are no detections.
        """
        with one_blas_thread():
            search = open_search(self, data, wcs, mask, error, None)
            return search.measure_noise()

    def results_to_init_params(self, *, remove_invalid: bool = True,
                               reset_ids: bool = True) -> QTable:
        """
        Make initial values for another fit from the results.

        Parameters
        ----------
        remove_invalid : bool, optional
            Whether to leave out the rows without a fit.

        reset_ids : bool, optional
            Whether to number the rows from 1 if ``remove_invalid`` is
            `True`; their ``id`` is kept otherwise.

        Returns
        -------
        init_params : `~astropy.table.QTable`
            The columns ``id``, ``group_id``, ``x_init``, ``y_init``,
            ``fwhm_major_init``, ``fwhm_minor_init``, and ``theta_init``.

        Raises
        ------
        ValueError
            If there are no results yet, or no sources were found.

        See Also
        --------
        photutils.psf.PSFPhotometry.results_to_init_params
        """
        return as_init_params(self._last_results,
                              remove_invalid=remove_invalid,
                              reset_ids=reset_ids)

    def make_model_image(self, shape: tuple[int, int] | None = None, *,
                         include_local_bkg: bool = False) -> ArrayOrQuantity:
        """
        Make an image of all sources of the last map.

        Parameters
        ----------
        shape : tuple of 2 ints, optional
            The ``(ny, nx)`` of the image; that of the map by default.

        include_local_bkg : bool, optional
            Whether to add the backgrounds where they are known.

        Returns
        -------
        image : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The image.
        """
        images = self._last_images
        model = _reshape(images.model(), shape, 0.0)
        if include_local_bkg:
            model += np.nan_to_num(_reshape(images.background(), shape, 0.0))
        return model

    def make_background_image(self, shape: tuple[int, int] | None = None
                              ) -> ArrayOrQuantity:
        """
        Make an image of the fitted backgrounds of the last map.

        Parameters
        ----------
        shape : tuple of 2 ints, optional
            The ``(ny, nx)`` of the image; that of the map by default.

        Returns
        -------
        image : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The image, NaN far from all sources.
        """
        return _reshape(self._last_images.background(), shape, np.nan)

    def make_residual_image(self, data: ImageLike | None = None, *,
                            include_local_bkg: bool = True) -> ArrayOrQuantity:
        """
        Subtract all sources and backgrounds from an image.

        Parameters
        ----------
        data : 2D array_like, `~astropy.units.Quantity`, or \
                `~astropy.nddata.NDData`, optional
            The image; the last map by default.

        include_local_bkg : bool, optional
            Whether to subtract the backgrounds, too, where they are
            known. The default is `True`, unlike that of
            `photutils.psf.PSFPhotometry`.

        Returns
        -------
        image : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The image minus the sources and backgrounds.
        """
        if data is None:
            data = self._last_images.data
        data, _, _ = open_nddata(data)
        return data - self.make_model_image(
            np.shape(data), include_local_bkg=include_local_bkg)

    def summary(self) -> str:
        """
        Summarize the sources of the last map.

        Returns
        -------
        text : str
            A line each for the numbers of sources, groups, and rejected
            detections, the noise, and the flags.

        Examples
        --------
        >>> from hyperphotutils.datasets import make_blended_map
        >>> from hyperphotutils.photometry import HyperPhotometry
        >>> sky = make_blended_map((120, 120), 12, blend_fraction=0, seed=1)
        >>> phot = HyperPhotometry(fwhm=sky.image.meta['beam_fwhm_pix'])
        >>> table = phot(sky.image)
        >>> print(phot.summary().splitlines()[0])
        sources: 12 measured: 12 detected on the map
        """
        _ = self._last_images  # raises an error before the first call
        return '\n'.join(f'{name}: {text}' for name, text
                         in summarize_sources(self.results,
                                              self.rejected).items())

    def plot(self) -> Figure:
        """
        Plot the last map with its sources, background, model, and
        residual.

        Returns
        -------
        figure : `~matplotlib.figure.Figure`
            The figure, see `~hyperphotutils.visualization.plot_overview`;
            ``figure.savefig(path)`` writes it.

        Examples
        --------
        >>> from hyperphotutils.datasets import make_blended_map
        >>> from hyperphotutils.photometry import HyperPhotometry
        >>> sky = make_blended_map((120, 120), 12, blend_fraction=0, seed=1)
        >>> phot = HyperPhotometry(fwhm=sky.image.meta['beam_fwhm_pix'])
        >>> table = phot(sky.image)
        >>> figure = phot.plot()
        >>> figure.axes[0].get_title(loc='right')
        '12 sources, ellipses: 2 FWHM'
        """
        from hyperphotutils.visualization.maps import plot_overview

        images = self._last_images
        return plot_overview(
            images.data, self.results, wcs=images.wcs, mask=images.mask,
            background=self.make_background_image(),
            model=self.make_model_image(),
            residual=self.make_residual_image(), beam=self.fwhm,
            rms=self.rms)

    def plot_group(self, group_id: int) -> Figure:
        """
        Plot the fit of a group of the last map: data, background, model,
        and residual.

        Parameters
        ----------
        group_id : int
            The group, from the column ``group_id``.

        Returns
        -------
        figure : `~matplotlib.figure.Figure`
            The figure, see `~hyperphotutils.visualization.plot_group`.

        Raises
        ------
        ValueError
            If no source of the group has a fit.

        Examples
        --------
        >>> from hyperphotutils.datasets import make_blended_map
        >>> from hyperphotutils.photometry import HyperPhotometry
        >>> sky = make_blended_map((120, 120), 12, blend_fraction=0, seed=1)
        >>> phot = HyperPhotometry(fwhm=sky.image.meta['beam_fwhm_pix'])
        >>> table = phot(sky.image)
        >>> figure = phot.plot_group(table['group_id'][0])
        """
        from hyperphotutils.visualization.fits import plot_group

        images = self._last_images
        return plot_group(images.data, self._last_results, group_id,
                          wcs=images.wcs, mask=images.mask,
                          model=self.make_model_image(),
                          background=self.make_background_image(),
                          beam=self.fwhm, rms=self.rms)

    def explain(self, source_id: int | str) -> str:
        """
        Explain in words how a source of the last map was measured.

        Parameters
        ----------
        source_id : int or str
            The ``id`` of the source.

        Returns
        -------
        text : str
            The explanation, see
            `~hyperphotutils.photometry.explain_source`.

        Raises
        ------
        ValueError
            If there is no such source, or no source at all.

        Examples
        --------
        >>> from hyperphotutils.datasets import make_blended_map
        >>> from hyperphotutils.photometry import HyperPhotometry
        >>> sky = make_blended_map((120, 120), 12, blend_fraction=0, seed=1)
        >>> phot = HyperPhotometry(fwhm=sky.image.meta['beam_fwhm_pix'])
        >>> table = phot(sky.image)
        >>> print(phot.explain(1).splitlines()[1])
        Group: fitted alone.
        """
        return explain_source(self._last_results, source_id, fwhm=self.fwhm)

    def total_flux(self, ids: ArrayLike | None = None
                   ) -> tuple[FloatOrQuantity, FloatOrQuantity]:
        """
        Sum the fluxes of sources of the last map; the error includes
        the covariances of sources that were fitted together.

        Parameters
        ----------
        ids : int, str, or 1D array_like, optional
            The ``id`` of the sources, of one group or of several; all
            by default. Sources that were fitted in different groups are
            independent.

        Returns
        -------
        flux, flux_err : float or `~astropy.units.Quantity`
            The sum of ``flux_fit`` and its standard error; NaN when one
            of the fluxes is.

        Raises
        ------
        ValueError
            If there is no such source, or no source at all.

        Examples
        --------
        >>> from hyperphotutils.datasets import make_blended_map
        >>> from hyperphotutils.photometry import HyperPhotometry
        >>> sky = make_blended_map(shape=(120, 120), n_sources=12, seed=3)
        >>> phot = HyperPhotometry(fwhm=sky.image.meta['beam_fwhm_pix'])
        >>> table = phot(sky.image)
        >>> group = table['group_id'] == table['group_id'][0]
        >>> flux, flux_err = phot.total_flux(table['id'][group])
        >>> flux.unit
        Unit("Jy")
        """
        _ = self._last_results  # raises an error without any
        return total_flux(ids, *self._last.fluxes)

    @staticmethod
    def decode_flags(flags: ArrayLike) -> list[str] | list[list[str]]:
        """
        Decode the values of the ``flags`` column.

        Parameters
        ----------
        flags : int or 1D array_like of int
            The bit masks.

        Returns
        -------
        names : list of str or list of list of str
            The names of the bits that are set.
        """
        return decode_flags(flags)

    @property
    def _last_results(self):
        """
        The results of the last call.
        """
        if self.results is None:
            msg = ('no results: call the object first, or no sources were '
                   'found')
            raise ValueError(msg)
        return self.results

    @property
    def _last_images(self):
        """
        The images of the last call.
        """
        if self._last is None:
            msg = 'no map has been measured yet: call the object first'
            raise ValueError(msg)
        return self._last.images


def _reshape(image, shape, fill):
    """
    Return an image cut or extended to another shape.
    """
    if shape is None or tuple(shape) == image.shape:
        return image
    extended = np.full_like(image, fill, shape=shape)
    common = tuple(slice(min(sizes))
                   for sizes in zip(shape, image.shape, strict=True))
    extended[common] = image[common]
    return extended


def _check_ellipse(ellipse, limits):
    """
    Check the ellipse of apertures that do not depend on the fits.
    """
    if limits is not None:
        msg = ('aperture_ellipse and fwhm_limits are mutually exclusive: '
               'give only one of them')
        raise ValueError(msg)
    try:
        values = [np.asarray(value, dtype=float) for value in ellipse]
    except (TypeError, ValueError):
        values = []
    if (len(values) != 3 or np.any([np.isinf(value).any()
                                    for value in values])
            or np.any([np.any(width <= 0.0) for width in values[:2]])):
        msg = ('aperture_ellipse must be two positive FWHMs and an angle: '
               f'{ellipse!r}')
        raise ValueError(msg)
