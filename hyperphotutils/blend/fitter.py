# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Joint fits of blended sources and their background.
"""

from collections.abc import Collection, Sequence
from functools import cached_property
from numbers import Integral, Real

import numpy as np

from hyperphotutils.blend.covariance import total_flux
from hyperphotutils.blend.grouper import SeparationGrouper
from hyperphotutils.blend.joint import JointFit
from hyperphotutils.blend.responses import make_responses
from hyperphotutils.blend.results import (
    make_covariance,
    make_models,
    make_table,
)
from hyperphotutils.blend.weights import WEIGHT_MAPS, WEIGHTS
from hyperphotutils.noise.model import NoiseModel
from hyperphotutils.noise.white import WhiteNoise
from hyperphotutils.utils.checks import check_part, check_positive
from hyperphotutils.utils.executors import one_blas_thread
from hyperphotutils.utils.flags import decode_flags
from hyperphotutils.utils.tables import (
    as_masked_image,
    make_repr,
    open_nddata,
    strip_units,
)

__all__ = ['BlendGroupFitter']

_LOSSES = ('linear', 'soft_l1', 'huber', 'cauchy')
_CRITERIA = ('nmse', 'reduced_chi2', 'bic')


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

    poly_order : int or sequence of int, optional
        The total degree of the background polynomial, from 0 to 4, or
        -1 for no background, where that has been subtracted. The default
        is 1, and 0 with correlated ``noise``, whose covariance holds the
        structure of the background, unless there are ``weights``. Each
        group is fitted with all degrees of a sequence, and keeps the
        best.

    criterion : {'bic', 'nmse', 'reduced_chi2'}, optional
        What the best of several degrees has the smallest of. Lower
        degrees win a tie, as
        `~hyperphotutils.background.select_candidate` has it: a
        difference of 2 in 'bic', and of 1 percent or of 10 pixels in the
        others. 'nmse' has no other penalty for a higher degree.

    fit_radius : float, optional
        The radius in pixels around each source that is fitted. The
        default is ``2 * fwhm``.

    grouper : callable, optional
        Called with the x and y positions, returns an integer group for
        each source, as `photutils.psf.SourceGrouper` does. The default
        is a `~hyperphotutils.blend.SeparationGrouper` with a
        ``min_separation`` of ``2 * fwhm``. It is not used when
        ``init_params`` has a column ``group_id``. Groups that turn out to
        overlap too much to be fitted apart become one.

    fwhm_range : tuple of 2 floats, optional
        The bounds of the fitted widths in units of ``fwhm``.

    max_shift : float, optional
        How far in pixels, along x and along y, a position may move from
        its start. The default is ``fwhm``.

    fixed : tuple of str, optional
        What is held at its start value: ``'position'``, ``'shape'``
        (both widths and the angle), or both.

    fitter : `~astropy.modeling.fitting.Fitter`, optional
        An astropy fitter that takes the place of the kernel: slower, one
        group after the other. Errors are NaN with one that gives no
        covariance.

    max_group_size : int, optional
        Larger groups are split into compact parts, and flagged; the
        models of the other parts are subtracted then.

    loss : {'linear', 'soft_l1', 'huber', 'cauchy'}, optional
        How chi2 grows with the residuals, as in
        `scipy.optimize.least_squares`. All but the first give less
        weight to pixels that deviate, and biased fluxes where the
        profile of the source itself deviates.

    f_scale : float, optional
        The residual, in units of the errors of the pixels (of the data
        when there are none), beyond which a robust loss grows slower.

    ridge : float, optional
        The strength of an L2 penalty on the coefficients of the
        background: chi2 grows by ``ridge`` times the square of each
        coefficient in units of the errors.

    weights : str or tuple of str, optional
        What the residuals are multiplied by before they are squared,
        besides the inverse of the errors: the product of one or several
        of

        * ``'inverse_rms'``: nothing more, as by default;
        * ``'snr'``: the signal-to-noise ratio of the pixels;
        * ``'power_snr'``: that to the power ``weight_power``;
        * ``'spatial'``: a Gaussian of the distance from the nearest
          starting position, with ``fwhm`` as standard deviation;
        * ``'map'``: the ``weight_map`` of the call;
        * ``'mask'``: 1 where that is positive and 0 elsewhere.

        See the notes. With correlated ``noise``, they take the place of
        the inverse of its covariance, which the errors still have in
        them.

    weight_power : float, optional
        The power of the weights ``'power_snr'``.

    bias_correction : bool, optional
        Whether to take off the fitted columns what the noise adds to
        them on the average: a tenth of the flux of a source whose peak
        is 5 times the noise, nothing for bright ones. The errors of the
        pixels have to be those of the noise. Models and model images
        stay those of the fit, as do fits with a robust loss or with
        ``weights``.

    ftol : float, optional
        A fit ends when a step promises to lower chi2 by less than this
        fraction. The default leaves about a thousandth of an error on
        a footprint of some hundred pixels.

    xtol : float, optional
        It also ends when a step is shorter than this fraction of the
        parameters, both scaled by the lengths of the columns of the
        Jacobian matrix. As ``gtol``, it has the meaning of the method
        'lm' of `scipy.optimize.least_squares`. It is not looked at by
        default: ``ftol`` alone ends the fit then.

    gtol : float, optional
        It also ends when no cosine of the angle between the residuals
        and a column of the Jacobian matrix is larger than this.

    max_iter : int, optional
        The largest number of steps of the kernel, each with one
        evaluation of the model (``max_nfev`` in
        `scipy.optimize.least_squares` and in Hyper-py).

    progress_bar : bool, optional
        Whether to show a progress bar.

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
    has the covariances of the amplitude with both widths in it. They
    are right for noise that is independent from pixel to pixel, or whose
    covariance is given as ``noise``; :math:`W` is then the inverse of the
    covariance matrix of the pixels.
    Parameters that ended at a bound are treated as if they were free.
    Without ``error`` the covariance is scaled by the variance of the
    residuals of the group, which ``reduced_chi2`` then holds.

    With ``weights`` the fit minimizes :math:`\\sum (w r)^2` with the
    residuals :math:`r` in units of the errors. Weights say what a pixel
    shall count, not what its error is. The covariance is therefore
    :math:`N^{-1} J^T w^2 C w^2 J N^{-1}` with :math:`N = J^T w^2 J` and
    the covariance :math:`C` of :math:`r` (1, unless ``noise`` is given),
    which holds for any weights; and ``nmse``, ``reduced_chi2`` and
    ``bic`` are those of the residuals without them. No weights give
    smaller errors than the inverse of the covariance of the pixels, with
    which fits are made by default.

    The signal of ``'snr'`` and ``'power_snr'`` is that of the sources of
    the group as a first fit sees them, not that of the data: pixels with
    positive noise would count more otherwise. Pixels with a
    signal-to-noise ratio below 1 count as if it were 1, and no pixel
    less than a tenth of the best one of its group. Without
    ``error`` the noise is the median rms about local planes. Weights are
    scaled to a mean square of 1 over the pixels of each group, so that
    ``f_scale`` keeps its meaning.

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

    _repr_params = ('fwhm', 'poly_order', 'criterion', 'fit_radius', 'grouper',
                    'fwhm_range', 'max_shift', 'fixed', 'fitter',
                    'max_group_size', 'loss', 'f_scale', 'ridge',
                    'weights', 'weight_power', 'bias_correction', 'ftol',
                    'xtol', 'gtol', 'max_iter', 'progress_bar')

    def __init__(self, fwhm, *, poly_order=None, criterion='bic',
                 fit_radius=None, grouper=None,
                 fwhm_range=(0.5, 3.0), max_shift=None, fixed=(),
                 fitter=None, max_group_size=25, loss='linear',
                 f_scale=1.0, ridge=0.0, weights=None, weight_power=2.0,
                 bias_correction=False, ftol=1e-8, xtol=None, gtol=None,
                 max_iter=200, progress_bar=False):
        self.fwhm = check_positive(fwhm, 'fwhm')
        self.poly_order = _check_order(poly_order)
        if criterion not in _CRITERIA:
            msg = f'criterion must be one of {_CRITERIA}: {criterion!r}'
            raise ValueError(msg)
        self.criterion = criterion
        self.fit_radius = check_positive(
            2.0 * self.fwhm if fit_radius is None else fit_radius,
            'fit_radius')
        self.grouper = (SeparationGrouper(min_separation=2.0 * self.fwhm)
                        if grouper is None
                        else check_part(grouper, 'grouper'))
        self.fwhm_range = _ordered_pair(fwhm_range, 'fwhm_range')
        self.max_shift = check_positive(
            self.fwhm if max_shift is None else max_shift, 'max_shift')
        self.fixed = _names(fixed, 'fixed', ('position', 'shape'))
        self.fitter = check_part(fitter, 'fitter')
        self.max_group_size = _positive_integer(max_group_size,
                                                'max_group_size')
        if loss not in _LOSSES:
            msg = f'loss must be one of {_LOSSES}: {loss!r}'
            raise ValueError(msg)
        self.loss = loss
        self.f_scale = check_positive(f_scale, 'f_scale')
        if not isinstance(ridge, Real) or not 0.0 <= ridge < np.inf:
            msg = f'ridge must be a number of at least 0: {ridge!r}'
            raise ValueError(msg)
        self.ridge = float(ridge)
        self.weights = _weight_names(weights)
        self.weight_power = check_positive(weight_power, 'weight_power')
        self.bias_correction = bool(bias_correction)
        self.ftol = check_positive(ftol, 'ftol')
        self.xtol = None if xtol is None else check_positive(xtol, 'xtol')
        self.gtol = None if gtol is None else check_positive(gtol, 'gtol')
        self.max_iter = _positive_integer(max_iter, 'max_iter')
        self.progress_bar = progress_bar
        self._fit = None
        self._unit = None
        self._fluxes = None

    def __repr__(self):
        return make_repr(self)

    def __call__(self, data, *, mask=None, error=None, noise=None,
                 poly_order=None, weight_map=None, extra_variance=None,
                 preliminary=False, init_params):
        """
        Fit the sources at the given positions.

        Parameters
        ----------
        data : 2D array_like, `~astropy.units.Quantity`, or \
                `~astropy.nddata.NDData`
            The image. Pixels that are not finite are ignored.

        mask : 2D bool array_like, optional
            `True` for pixels to ignore.

        error : float or 2D array_like, optional
            The standard deviation of each pixel, with the unit of
            ``data``. Pixels whose error is not finite are ignored.

        noise : `~hyperphotutils.noise.NoiseModel`, optional
            The noise of the pixels, with the unit of ``data``, in place
            of ``error``. If it is correlated, the fit is one of
            generalized least squares.

        poly_order : int or sequence of int, optional
            The degree of the background of this call; that of the fitter
            by default.

        weight_map : 2D array_like, optional
            The weights of the pixels, of at least 0, for the ``weights``
            ``'map'`` and ``'mask'``. Pixels without a positive weight
            are ignored.

        extra_variance : 2D `~numpy.ndarray`, optional
            The variance of each pixel beyond that of ``noise``, which
            must be given, in the square of the unit of ``data``: for
            example that of the differences between bright sources and
            Gaussians.

        preliminary : bool, optional
            Whether the fit only has to tell where a better one begins:
            it then ends when a step promises to lower chi2 by less than
            a thousandth.

        init_params : `~astropy.table.Table`
            A row a source. The columns ``x_init`` and ``y_init`` are
            needed (``x_centroid``, ``x_fit``, and ``x``, with those of
            y, are also understood); ``fwhm_major_init``,
            ``fwhm_minor_init`` (pixels), ``theta_init`` (degrees; their
            ``_fit`` names are understood as well), ``group_id``, and
            ``id`` are used when they are there.

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
        data, mask, error = open_nddata(data, mask, error)
        if noise is not None and not isinstance(noise, NoiseModel):
            msg = f'noise must be a NoiseModel or None: {noise!r}'
            raise TypeError(msg)
        rms = None if noise is None else noise.rms
        values, self._unit = strip_units(data=data, error=error, noise=rms)
        data, mask = as_masked_image(values['data'], mask)
        self._check_options(weight_map)
        if noise is None:
            noise = _independent(values['error'], mask)
        elif error is not None or (self.fitter is not None
                                   and noise.is_correlated):
            msg = ('noise cannot be used together with error or with '
                   'an astropy fitter')
            raise ValueError(msg)
        relative_rms = noise.relative_rms
        if relative_rms is not None:
            if relative_rms.shape != data.shape:
                msg = ('noise.relative_rms must have the shape of data, '
                       f'{data.shape}, got {relative_rms.shape}')
                raise ValueError(msg)
            mask = mask | ~np.isfinite(relative_rms)
        if weight_map is not None:
            weight_map, mask = _usable_weights(weight_map, mask)
        for name in ('models', 'source_covariance', 'held_responses'):
            self.__dict__.pop(name, None)
        self._fit = JointFit(self, data, mask, noise, init_params,
                             poly_order=_check_order(poly_order),
                             weight_map=weight_map,
                             extra_variance=extra_variance,
                             preliminary=preliminary)
        with one_blas_thread():
            self._fit.run()
        table = make_table(self._fit, self._unit, self)
        self._fluxes = (table['flux_fit'].copy(), table['flux_err'].copy())
        return table

    def _check_options(self, weight_map):
        """
        Refuse options that exclude each other.
        """
        if self.fitter is not None:
            for name, given in (('loss', self.loss != 'linear'),
                                ('ridge', self.ridge),
                                ('weights', self.weights)):
                if given:
                    msg = (f'{name} is an option of the kernel, not of '
                           'astropy fitters: leave out fitter or '
                           f'{name}={getattr(self, name)!r}')
                    raise ValueError(msg)
        needing = [name for name in WEIGHT_MAPS if name in self.weights]
        if needing and weight_map is None:
            msg = (f'weights={needing[0]!r} needs a weight_map in the call')
            raise ValueError(msg)
        if weight_map is not None and not needing:
            msg = ("weight_map needs weights='map' or weights='mask': the "
                   f'fitter has weights={self.weights!r}')
            raise ValueError(msg)

    @property
    def fit_info(self):
        """
        What the fits of the last call said: a list with a dictionary
        for each fitted group with ``'group_id'``, ``'id'`` (of its
        sources), ``'n_iter'``, ``'converged'``, ``'chi2'``,
        ``'n_pixels'``, and ``'covariance'``, in the order of the
        parameters of its model in `models`.
        """
        return [info for info, _ in make_models(self._last_fit)]

    @cached_property
    def models(self):
        """
        The fitted groups of the last call as astropy models, by group.
        """
        return {info['group_id']: model
                for info, model in make_models(self._last_fit)}

    @cached_property
    def source_covariance(self):
        """
        The `~hyperphotutils.blend.SourceCovariance` of the last call:
        how the parameters of a source, and the fluxes of companions,
        go together.
        """
        return make_covariance(self._last_fit)

    @cached_property
    def held_responses(self):
        """
        How the amplitudes of the last call would change with the
        positions and shapes of all sources of a group, if these were
        held elsewhere: for each batch of groups a named tuple of
        ``rows``, ``sources``, ``response``, and ``correlation``.
        """
        return make_responses(self._last_fit)

    def total_flux(self, ids=None):
        """
        Sum the fluxes of sources of the last call, with an error that
        knows of the covariance between companions.

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
            If there is no such source, or a source is named twice, or
            none is.

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

    def make_model_image(self, shape=None):
        """
        Make an image of all fitted sources, without background.

        Parameters
        ----------
        shape : tuple of 2 ints, optional
            The ``(ny, nx)`` of the image; that of the fitted data by
            default.

        Returns
        -------
        image : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The image.
        """
        fit = self._last_fit
        image = np.zeros(fit.data.shape if shape is None else shape)
        fit.add_sources(image)
        return image if self._unit is None else image << self._unit

    def make_background_image(self, shape=None):
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

    def make_residual_image(self, data):
        """
        Subtract all fitted sources and backgrounds from an image.

        Parameters
        ----------
        data : 2D array_like or `~astropy.units.Quantity`
            The image.

        Returns
        -------
        residual : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The image minus the sources, and minus the background where
            it is known.
        """
        shape = np.shape(data)
        background = np.nan_to_num(self.make_background_image(shape))
        return data - self.make_model_image(shape) - background

    @staticmethod
    def decode_flags(flags):
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


def _ordered_pair(pair, name):
    """
    Check two positive numbers in rising order.
    """
    if (np.shape(pair) != (2,)
            or not all(isinstance(value, Real) for value in pair)
            or not 0.0 < pair[0] < pair[1] < np.inf):
        msg = (f'{name} must be two positive numbers, the smaller one '
               f'first: {pair!r}')
        raise ValueError(msg)
    return (float(pair[0]), float(pair[1]))


def _positive_integer(value, name):
    """
    Check a positive integer.
    """
    if not isinstance(value, Integral) or value < 1:
        msg = f'{name} must be a positive integer: {value!r}'
        raise ValueError(msg)
    return int(value)


def _names(names, name, allowed):
    """
    Check one or several names.
    """
    names = (names,) if isinstance(names, str) else names
    if not isinstance(names, Collection) or set(names) - set(allowed):
        msg = f'{name} must hold nothing but {allowed}: {names!r}'
        raise ValueError(msg)
    return tuple(names)


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


def _weight_names(weights):
    """
    Check the names of the weights.
    """
    names = _names(() if weights is None else weights, 'weights', WEIGHTS)
    for pair in (('snr', 'power_snr'), ('map', 'mask')):
        if set(pair) <= set(names):
            msg = f'weights must not hold both {pair[0]!r} and {pair[1]!r}'
            raise ValueError(msg)
    return tuple(dict.fromkeys(names))


def _usable_weights(weight_map, mask):
    """
    Return the map of weights, and the mask with the pixels without.
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
               f'{weight_map[~mask].min():g}: use 0 for pixels that shall '
               'not be used')
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
