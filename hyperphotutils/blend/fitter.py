# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Joint fits of blended sources and their background.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from copy import copy
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from hyperphotutils.blend.beams import BeamProfile
from hyperphotutils.blend.covariance import total_flux
from hyperphotutils.blend.group_solver import GroupSolver
from hyperphotutils.blend.grouper import SeparationGrouper
from hyperphotutils.blend.joint import JointFit
from hyperphotutils.blend.responses import make_responses
from hyperphotutils.blend.results import (
    as_init_params,
    make_covariance,
    make_models,
    make_table,
)
from hyperphotutils.blend.weights import WEIGHT_MAPS
from hyperphotutils.noise.model import NoiseModel
from hyperphotutils.noise.white import WhiteNoise
from hyperphotutils.utils.checks import (
    check_part,
    check_positive,
    check_range,
)
from hyperphotutils.utils.executors import one_blas_thread
from hyperphotutils.utils.flags import decode_flags
from hyperphotutils.utils.tables import (
    as_masked_image,
    make_repr,
    open_nddata,
    strip_units,
)

if TYPE_CHECKING:
    from astropy.modeling import CompoundModel
    from astropy.table import QTable, Table
    from matplotlib.figure import Figure

    from hyperphotutils.blend.covariance import SourceCovariance
    from hyperphotutils.utils.typing import (
        ArrayOrQuantity,
        FloatOrQuantity,
        ImageLike,
        PSFLike,
    )

__all__ = ['BlendGroupFitter']


class BlendGroupFitter:
    """
    Fit groups of blended sources, each with a common background.

    A group is the sum of elliptical Gaussians and a polynomial. All
    its parameters are fitted together, on the pixels within
    ``fit_radius`` of its sources, with the models of the sources of
    other groups subtracted. Groups with the same number of sources are
    fitted at once by a Levenberg-Marquardt kernel with analytic
    derivatives.

    Parameters
    ----------
    fwhm : float
        The FWHM of the beam in pixels; the geometric mean for an
        elliptical beam. Fits begin with it where ``init_params`` gives
        no widths.

    psf : 2D array_like, photutils PSF model, \
            `~hyperphotutils.psf.EmpiricalPSF`, or `BeamProfile`, optional
        The measured beam, as the part of the flux in each pixel. Arrays
        have an odd size, the center on the central pixel, and a sum of
        1. Sources are then Gaussians convolved with this beam, and point
        sources the beam itself; see the notes. The default is a
        Gaussian beam.

    poly_order : int or sequence of int, optional
        The total degree of the background polynomial, from 0 to 4, or
        -1 for no background, where that has been subtracted. The default
        is 1. Each group is fitted with all degrees of a sequence, and
        keeps the best (see ``criterion`` of
        `~hyperphotutils.blend.GroupSolver`).

    fit_radius : float, optional
        The radius in pixels around each source that is fitted. The
        default is ``2 * fwhm``.

    grouper : callable, optional
        Called with the x and y positions, returns an integer group for
        each source, as `photutils.psf.SourceGrouper` does. The default
        is a `~hyperphotutils.blend.SeparationGrouper` with a
        ``min_separation`` of ``2 * fwhm``. It is not used when
        ``init_params`` has a column ``group_id``. Groups that overlap
        too much to be fitted separately are merged.

    fwhm_range : tuple of 2 floats, optional
        The bounds of the fitted widths in units of ``fwhm``.

    max_shift : float, optional
        The largest shift in pixels, along x and along y, of a position
        from its start. The default is ``fwhm``.

    fixed : str or tuple of str, optional
        The parameters held at their initial values: ``'position'``,
        ``'shape'`` (both widths and the angle), or both.

    solver : `~hyperphotutils.blend.GroupSolver`, optional
        The settings of the least-squares fits: tolerances, losses,
        weights, bias correction, or an astropy fitter. The default is
        ``GroupSolver()``.

    progress_bar : bool, optional
        Whether to show a progress bar.

    Attributes
    ----------
    results : `~astropy.table.QTable` or None
        The table of the last call.

    beam : `~hyperphotutils.blend.BeamProfile` or None
        The Gaussians that represent ``psf``.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    See Also
    --------
    hyperphotutils.photometry.HyperPhotometry

    Notes
    -----
    Errors are the square roots of the diagonal of
    :math:`(J^T W J)^{-1}`, with the derivatives :math:`J` at the
    solution and the inverse variances :math:`W`; the error of the flux
    includes the covariances of the amplitude with both widths. They
    are right for noise that is independent from pixel to pixel, or whose
    covariance is given as ``noise``; :math:`W` is then the inverse of the
    covariance matrix of the pixels.
    Parameters that ended at a bound are treated as if they were free.
    Without ``error`` the covariance is scaled by the residual variance
    of the group; ``reduced_chi2`` then contains this variance.

    A ``psf`` (that at the center of the field, if it varies) is
    represented by a sum of up to eight concentric Gaussians, some of
    which may be negative [1]_. A source is the convolution of
    that sum with an intrinsic elliptical Gaussian. The remaining
    difference from the PSF (a few thousandths of the peak) is evaluated
    at the previous iteration and subtracted from the data. It is included
    in all images, but not in `models`.
    ``amplitude_fit`` is the peak of the convolved source and ``flux_fit``
    its flux in all wings of the PSF. ``fwhm_major_fit`` and
    ``fwhm_minor_fit`` are the widths of the intrinsic Gaussian added in
    quadrature to the FWHM of the PSF: they can be compared with this FWHM
    as those of a fit without ``psf``, and are equal to it for a point
    source. Noise makes some point sources appear smaller than the PSF; the
    smallest width is that for which the sum of Gaussians is a valid
    profile, and at least 0.7 times the FWHM. ``fixed='shape'`` fits point
    sources.

    References
    ----------
    .. [1] Bendinelli, O. 1991, ApJ, 366, 599

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.table import QTable
    >>> from hyperphotutils.blend import BlendGroupFitter
    >>> from hyperphotutils.utils import add_gaussians
    >>> data = np.full((51, 51), 0.5)
    >>> add_gaussians(data, [22.0, 27.5], [25.0, 26.0], [10.0, 6.0],
    ...               [5.0, 6.0], [4.0, 5.0], [20.0, 70.0])
    >>> init = QTable({'x_init': [22.3, 27.0], 'y_init': [25.3, 26.0]})
    >>> fitter = BlendGroupFitter(fwhm=4.0)
    >>> result = fitter(data, init_params=init)
    >>> for name in ('x_fit', 'fwhm_major_fit', 'flux_fit'):
    ...     result[name].info.format = '.3f'
    >>> print(result['id', 'x_fit', 'fwhm_major_fit', 'flux_fit'])
     id x_fit  fwhm_major_fit flux_fit
    --- ------ -------------- --------
      1 22.000          5.000  226.618
      2 27.500          6.000  203.956
    """

    _repr_params = ('fwhm', 'psf', 'poly_order', 'fit_radius', 'grouper',
                    'fwhm_range', 'max_shift', 'fixed', 'solver',
                    'progress_bar')

    def __init__(
            self, fwhm: float, *, psf: PSFLike | BeamProfile | None = None,
            poly_order: int | Sequence[int] | np.ndarray | None = None,
            fit_radius: float | None = None, grouper: Callable | None = None,
            fwhm_range: tuple[float, float] = (0.5, 3.0),
            max_shift: float | None = None, fixed: str | tuple[str, ...] = (),
            solver: GroupSolver | None = None,
            progress_bar: bool = False) -> None:
        self.fwhm = check_positive(fwhm, 'fwhm', of='pixels')
        self.psf = psf
        self.beam = (psf if psf is None or isinstance(psf, BeamProfile)
                     else BeamProfile.from_psf(psf, self.fwhm))
        self.poly_order = _check_order(poly_order)
        self.fit_radius = check_positive(
            2.0 * self.fwhm if fit_radius is None else fit_radius,
            'fit_radius')
        self.grouper = (SeparationGrouper(min_separation=2.0 * self.fwhm)
                        if grouper is None
                        else check_part(grouper, 'grouper'))
        self.fwhm_range = check_range(fwhm_range, 'fwhm_range')
        self.max_shift = check_positive(
            self.fwhm if max_shift is None else max_shift, 'max_shift')
        fixed = (fixed,) if isinstance(fixed, str) else fixed
        if (not isinstance(fixed, Collection)
                or set(fixed) - {'position', 'shape'}):
            msg = ("fixed can contain only 'position' and 'shape': "
                   f'{fixed!r}')
            raise ValueError(msg)
        self.fixed = tuple(fixed)
        if solver is not None and not isinstance(solver, GroupSolver):
            msg = f'solver must be a GroupSolver or None: {solver!r}'
            raise TypeError(msg)
        self.solver = GroupSolver() if solver is None else solver
        self.progress_bar = progress_bar
        self.results: QTable | None = None
        self._fit = None
        self._unit = None
        self._fluxes = None

    def __repr__(self) -> str:
        return make_repr(self)

    def __call__(self, data: ImageLike, init_params: Table, *,
                 mask: ArrayLike | None = None, error: ArrayLike | None = None,
                 noise: NoiseModel | None = None,
                 weight_map: ArrayLike | None = None) -> QTable:
        """
        Fit the sources at the given positions.

        Parameters
        ----------
        data : 2D array_like, `~astropy.units.Quantity`, or \
                `~astropy.nddata.NDData`
            The image. Pixels that are not finite are ignored.

        init_params : `~astropy.table.Table`
            One row for each source. The columns ``x_init`` and
            ``y_init`` are required (``x_centroid``, ``x_fit``, and
            ``x``, with those of y, are also accepted);
            ``fwhm_major_init``, ``fwhm_minor_init`` (pixels),
            ``theta_init`` (degrees; their ``_fit`` names are accepted
            as well), ``group_id``, and ``id`` are optional. So are
            ``position_prior``, ``x_previous``, ``y_previous``,
            ``hold_shape``, and ``positive``, which restrict the fit of
            single sources.

        mask : 2D bool array_like, optional
            `True` for pixels to ignore.

        error : float or 2D array_like, optional
            The standard deviation of each pixel, with the unit of
            ``data``. Pixels whose error is not finite are ignored.

        noise : `~hyperphotutils.noise.NoiseModel`, optional
            The noise of the pixels, with the unit of ``data``, in place
            of ``error``. If it is correlated, the fit is one of
            generalized least squares.

        weight_map : 2D array_like, optional
            The weights of the pixels, of at least 0, for a solver with
            the ``weights`` ``'map'`` or ``'mask'``. Pixels without a
            positive weight are ignored.

        Returns
        -------
        table : `~astropy.table.QTable`
            A row for each row of ``init_params``, with NaN and a flag
            where nothing could be fitted. See `decode_flags` for
            ``flags``. Values have the unit of ``data``, fluxes that
            unit integrated over pixels.

        Raises
        ------
        ValueError
            If the inputs do not fit together.
        """
        return self._fit_image(data, init_params, mask=mask, error=error,
                               noise=noise, weight_map=weight_map)

    def _fit_image(self, data, init_params, *, mask=None, error=None,
                   noise=None, weight_map=None, poly_order=None,
                   extra_variance=None, preliminary=False, pixel_rms=None):
        """
        Fit the sources of one step of `HyperPhotometry`, with the arguments of
        a call and others.

        ``poly_order`` replaces that of the fitter. ``extra_variance`` is that
        of the differences between bright sources and their models, in addition
        to that of ``noise``, which must be given. A ``preliminary`` fit only
        gives the initial values of a better one: it ends when a step promises
        to lower chi2 by less than a thousandth. ``pixel_rms`` (without unit)
        is used if ``noise.rms`` is `None`; it is measured by default.
        """
        data, mask, error = open_nddata(data, mask, error)
        if noise is not None and not isinstance(noise, NoiseModel):
            msg = f'noise must be a NoiseModel or None: {noise!r}'
            raise TypeError(msg)
        rms = None if noise is None else noise.rms
        values, self._unit = strip_units(data=data, error=error, noise=rms)
        data, mask = as_masked_image(values['data'], mask)
        if noise is None:
            noise = _independent(values['error'], mask)
        elif error is not None or (self.solver.astropy_fitter is not None
                                   and noise.is_correlated):
            msg = ('noise and error are mutually exclusive, and an astropy '
                   'fitter cannot use correlated noise')
            raise ValueError(msg)
        relative_rms = noise.relative_rms
        if relative_rms is not None:
            if relative_rms.shape != data.shape:
                msg = ('noise.relative_rms must have the shape of data, '
                       f'{data.shape}, got {relative_rms.shape}')
                raise ValueError(msg)
            mask = mask | ~np.isfinite(relative_rms)
        needs_map = [name for name in WEIGHT_MAPS
                     if name in self.solver.weights]
        if needs_map and weight_map is None:
            msg = f'weights={needs_map[0]!r} needs a weight_map in the call'
            raise ValueError(msg)
        if weight_map is not None:
            if not needs_map:
                msg = ("weight_map needs weights='map' or weights='mask': "
                       f'the solver has weights={self.solver.weights!r}')
                raise ValueError(msg)
            weight_map, mask = usable_weights(weight_map, mask)
        for name in ('models', 'source_covariance', 'held_responses'):
            self.__dict__.pop(name, None)
        # This object holds the fit: if the fit held it, too, the memory of
        # both would be kept until Python searches for circles.
        config = copy(self)
        vars(config).update(_fit=None, results=None, _fluxes=None)
        self._fit = JointFit(config, data, mask, noise, init_params,
                             poly_order=poly_order,
                             weight_map=weight_map,
                             extra_variance=extra_variance,
                             preliminary=preliminary, pixel_rms=pixel_rms)
        with one_blas_thread():
            self._fit.run()
        self.results = make_table(self._fit, self._unit, self)
        self._fluxes = tuple(self.results[name].copy()
                             for name in ('flux_fit', 'flux_err'))
        return self.results

    @property
    def fit_info(self) -> list[dict]:
        """
        The details of the fits of the last call: a list with a
        dictionary for each fitted group with ``'group_id'``, ``'id'``
        (of its sources), ``'n_iter'``, ``'converged'``, ``'chi2'``,
        ``'n_pixels'``, and ``'covariance'``, in the order of the
        parameters of its model in `models`.
        """
        return [info for info, _ in make_models(self._last_fit)]

    @cached_property
    def models(self) -> dict[int, CompoundModel]:
        """
        The fitted groups of the last call as astropy models, by group.
        """
        return {info['group_id']: model
                for info, model in make_models(self._last_fit)}

    @cached_property
    def source_covariance(self) -> SourceCovariance:
        """
        The `~hyperphotutils.blend.SourceCovariance` of the last call:
        the covariances of the parameters of each source, and the
        correlations of the fluxes of sources fitted together.
        """
        return make_covariance(self._last_fit)

    @cached_property
    def held_responses(self) -> list:
        """
        The derivatives of the amplitudes of the last call with respect
        to the fixed positions and shapes of all sources of a group: for
        each batch of groups a named tuple of ``rows``, ``sources``,
        ``response``, and ``correlation``.
        """
        return make_responses(self._last_fit)

    def total_flux(self, ids: ArrayLike | None = None
                   ) -> tuple[FloatOrQuantity, FloatOrQuantity]:
        """
        Sum the fluxes of sources of the last call; the error includes
        the covariances of sources that were fitted together.

        Parameters
        ----------
        ids : int, str, or 1D array_like, optional
            The ``id`` of the sources, each once, of one group or of
            several; all by default. Sources that were fitted in
            different groups are independent.

        Returns
        -------
        flux, flux_err : float or `~astropy.units.Quantity`
            The sum of ``flux_fit`` and its standard error; NaN when one
            of the fluxes is.

        Raises
        ------
        ValueError
            If a source is not in the table or given twice, or if none
            is given.

        Examples
        --------
        >>> import numpy as np
        >>> from astropy.table import QTable
        >>> from hyperphotutils.blend import BlendGroupFitter
        >>> from hyperphotutils.utils import add_gaussians
        >>> data = np.random.default_rng(1).normal(0.0, 0.1, (41, 41))
        >>> add_gaussians(data, [18.0, 22.0], [20.0, 20.0], [5.0, 5.0],
        ...               [4.0, 4.0], [4.0, 4.0], [0.0, 0.0])
        >>> init = QTable({'x_init': [18.0, 22.0], 'y_init': [20.0, 20.0]})
        >>> fitter = BlendGroupFitter(fwhm=4.0)
        >>> table = fitter(data, error=0.1, init_params=init)
        >>> flux, flux_err = fitter.total_flux([1, 2])
        >>> print(f'{flux:.0f} {flux_err:.1f}')
        183 1.4
        >>> print(table['flux_err'].round(1))
        [3.7 3.7]
        """
        return total_flux(ids, self._last_fit.start.id, *self._fluxes,
                          self.source_covariance)

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
            If there are no results yet.

        See Also
        --------
        photutils.psf.PSFPhotometry.results_to_init_params
        """
        _ = self._last_fit
        return as_init_params(self.results, remove_invalid=remove_invalid,
                              reset_ids=reset_ids)

    def make_model_image(self, shape: tuple[int, int] | None = None, *,
                         include_local_bkg: bool = False) -> ArrayOrQuantity:
        """
        Make an image of all fitted sources.

        Parameters
        ----------
        shape : tuple of 2 ints, optional
            The ``(ny, nx)`` of the image; that of the fitted data by
            default.

        include_local_bkg : bool, optional
            Whether to add the fitted backgrounds where they are known.

        Returns
        -------
        image : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The image.
        """
        fit = self._last_fit
        image = np.zeros(fit.data.shape if shape is None else shape)
        fit.add_sources(image)
        if include_local_bkg:
            image += np.nan_to_num(fit.background_image(image.shape))
        return image if self._unit is None else image << self._unit

    def make_background_image(self, shape: tuple[int, int] | None = None
                              ) -> ArrayOrQuantity:
        """
        Make an image of the fitted backgrounds.

        Where footprints overlap, the backgrounds are averaged with
        weights that fall with the distance from the sources of each.

        Parameters
        ----------
        shape : tuple of 2 ints, optional
            The ``(ny, nx)`` of the image; that of the fitted data by
            default.

        Returns
        -------
        image : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The image, NaN farther than ``fit_radius`` from all sources.
        """
        fit = self._last_fit
        image = fit.background_image(
            fit.data.shape if shape is None else shape)
        return image if self._unit is None else image << self._unit

    def make_residual_image(self, data: ImageLike | None = None, *,
                            include_local_bkg: bool = True) -> ArrayOrQuantity:
        """
        Subtract all fitted sources and backgrounds from an image.

        Parameters
        ----------
        data : 2D array_like, `~astropy.units.Quantity`, or \
                `~astropy.nddata.NDData`, optional
            The image; the fitted data by default.

        include_local_bkg : bool, optional
            Whether to subtract the fitted backgrounds, too, where they
            are known. The default is `True`, unlike that of
            `photutils.psf.PSFPhotometry`, as the background is a part
            of the fit.

        Returns
        -------
        residual : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The image minus the sources and backgrounds.
        """
        if data is None:
            data = self._last_fit.data
            data = data if self._unit is None else data << self._unit
        data, _, _ = open_nddata(data)
        return data - self.make_model_image(
            np.shape(data), include_local_bkg=include_local_bkg)

    def plot_group(self, group_id: int) -> Figure:
        """
        Plot the fit of a group: data, background, model, and residual.

        Parameters
        ----------
        group_id : int
            The group.

        Returns
        -------
        figure : `~matplotlib.figure.Figure`
            The figure, see `~hyperphotutils.visualization.plot_group`.

        Raises
        ------
        ValueError
            If no source of the group has a fit.
        """
        from hyperphotutils.visualization.fits import plot_group

        fit = self._last_fit
        data = fit.data if self._unit is None else fit.data << self._unit
        return plot_group(data, self.results, group_id, mask=fit.mask,
                          model=self.make_model_image(),
                          background=self.make_background_image(),
                          margin=self.fit_radius + 1.0, beam=self.fwhm)

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

        See Also
        --------
        hyperphotutils.utils.decode_flags
        """
        return decode_flags(flags)

    @property
    def _last_fit(self):
        """
        The last fit.
        """
        if self._fit is None:
            msg = 'no fit has been made yet: call the fitter with data first'
            raise ValueError(msg)
        return self._fit


def _check_order(poly_order):
    """
    Check the degree of the background, or several.
    """
    if poly_order is None:
        return None
    several = (isinstance(poly_order, Sequence | np.ndarray)
               and not isinstance(poly_order, str))
    orders = tuple(poly_order) if several else (poly_order,)
    if len(orders) == 0 or not all(
            isinstance(order, Integral) and not isinstance(order, bool)
            and -1 <= order <= 4 for order in orders):
        msg = ('poly_order must be an integer from -1 to 4, or several: '
               f'{poly_order!r}')
        raise ValueError(msg)
    return tuple(map(int, orders)) if several else int(poly_order)


def usable_weights(weight_map, mask):
    """
    Return a checked map of weights, 0 where it is not finite, and the mask
    with the pixels without weight.
    """
    weight_map = np.asanyarray(weight_map)
    if weight_map.dtype.kind not in 'bfiu' or hasattr(weight_map, 'unit'):
        msg = ('weight_map must hold plain numbers, got '
               f'{type(weight_map).__name__} of {weight_map.dtype}')
        raise TypeError(msg)
    if weight_map.shape != mask.shape:
        msg = ('weight_map must have the shape of data, '
               f'{mask.shape}, got {weight_map.shape}')
        raise ValueError(msg)
    weight_map = np.where(np.isfinite(weight_map), weight_map, 0.0)
    if np.any(weight_map[~mask] < 0.0):
        msg = ('weight_map must not be negative, its smallest value is '
               f'{weight_map[~mask].min():g}: set the weight to 0 to exclude '
               'pixels')
        raise ValueError(msg)
    return weight_map, mask | (weight_map <= 0.0)


def _independent(error, mask):
    """
    Return the noise of independent pixels with given errors.
    """
    if error is not None and np.shape(error) not in {(), mask.shape}:
        msg = (f'error must be a number or have the shape of data, '
               f'{mask.shape}, got {np.shape(error)}')
        raise ValueError(msg)
    return WhiteNoise.from_error(error, mask=mask)
