# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fits of galaxies by Sersic profiles convolved with the PSF.
"""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from astropy.modeling.models import Sersic2D
from astropy.table import QTable
from numpy.typing import ArrayLike

from hyperphotutils.galaxy.joint import (
    GalaxyFit,
    StartGrid,
    sky_basis,
    to_numpy,
)
from hyperphotutils.galaxy.mixture import INDEX_RANGE, sersic_flux
from hyperphotutils.galaxy.render import make_kernel, render
from hyperphotutils.galaxy.results import make_table
from hyperphotutils.galaxy.targets import Stamps, find_targets
from hyperphotutils.utils.checks import check_integer, check_positive
from hyperphotutils.utils.executors import one_blas_thread
from hyperphotutils.utils.flags import decode_flags
from hyperphotutils.utils.gaussians import add_stamp
from hyperphotutils.utils.tables import make_repr, open_nddata, strip_units

if TYPE_CHECKING:
    from types import ModuleType

    from astropy.table import Table
    from astropy.units import Quantity
    from astropy.wcs import WCS
    from photutils.segmentation import SegmentationImage

    from hyperphotutils.utils.typing import ArrayOrQuantity, ImageLike, PSFLike

__all__ = ['SersicFitter']

_PRIORS = ('ln_n', 'ln_r_eff', 'elongation')
_LOSSES = ('linear', 'soft_l1', 'huber', 'cauchy')


class SersicFitter:
    """
    Fit galaxies by Sersic profiles that are convolved with the PSF.

    Each galaxy is fitted on a stamp around it, jointly with its neighbors
    and the sky. All parameters are free: flux, position, effective
    radius, Sersic index, axis ratio, and angle. A fit begins with the
    best of 600 models, and goes on by Levenberg-Marquardt steps with
    analytic derivatives, for many galaxies at once.

    Parameters
    ----------
    psf : 2D array_like, photutils PSF model, or \
            `~hyperphotutils.psf.EmpiricalPSF`
        The PSF as the part of the flux in each pixel, as all PSFs of
        photutils: it includes the response of the pixel. An array is
        sampled by pixels, of odd size, and centered on its central
        pixel. A PSF whose FWHM is below 2.5 pixels should be a model
        that is oversampled. A PSF that varies over the image is taken at
        the position of each galaxy.

    size : int, optional
        The side of the stamps in pixels. It should be at least 8
        effective radii and 10 FWHM of the PSF, more for large indices.

    n_bounds : tuple of 2 floats, optional
        The bounds of the Sersic index, between 0.3 and 8. Equal bounds
        fix it.

    r_e_bounds : tuple of 2 floats, optional
        The bounds of the radius ``r_eff sqrt(q)`` in pixels. The upper
        one is ``size`` when `None`.

    q_min : float, optional
        The smallest axis ratio.

    sky : {'constant', 'plane', 'none'}, optional
        The sky that is fitted on each stamp. With a large index the sky
        and the wings of a galaxy look alike: a sky that is subtracted
        before, and not fitted, biases n.

    neighbors : {'fit', 'mask', 'ignore'}, optional
        Whether other sources on the stamp are fitted too, with an index
        of 1; masked by their segments; or ignored.

    max_neighbors : int, optional
        The largest number of neighbors that are fitted; fainter and more
        distant ones are masked.

    start : {'grid', 'init'}, optional
        Whether fits begin with the best model of a grid, or with the
        columns ``r_eff_init``, ``n_init``, ``q_init``, and
        ``theta_init`` of ``init_params``.

    grid : dict, optional
        The values of ``n``, ``r_eff``, ``q``, and ``theta`` (degrees) of
        the grid; those of 600 models by default.

    priors : dict, optional
        Gaussian priors ``(mean, standard deviation)`` of ``'ln_n'``,
        ``'ln_r_eff'``, or ``'elongation'`` (-ln q). Without them, sources
        that are faint and not resolved often end at a bound. With
        ``ln_n`` = (0.4, 0.7) they do not, but a galaxy of n = 6 to 8 is
        shifted by about its error.

    loss : {'linear', 'soft_l1', 'huber', 'cauchy'}, optional
        The loss function of the residuals, as in
        `scipy.optimize.least_squares`; for spiral arms and other
        structure that no Sersic profile has.

    fixed : tuple of str, optional
        Parameters fixed at their initial values: ``'position'``,
        ``'shape'`` (radius, axis ratio, and angle), ``'n'``.

    max_iterations : int, optional
        The largest number of steps.

    batch : int, optional
        The number of sources that are fitted at once: 16 for processors
        with their caches, 512 or more for graphics cards. It bounds the
        memory.

    dtype : {'float32', 'float64'}, optional
        The precision of the images. The sums of squares are always
        formed with 64 bits; 32 bits for the images take half of the time
        and change no value by more than 1 % of its error.

    xp : module, optional
        The library that does the work, with the functions of the Python
        array API standard: `numpy` by default, ``cupy``, or
        ``array_api_compat.torch``.

    device : object, optional
        A device of that library.

    Raises
    ------
    TypeError
        If ``psf`` is not a PSF.

    ValueError
        If an argument is out of its range.

    See Also
    --------
    hyperphotutils.galaxy.SersicCube : Chi-squared on a grid of models.

    Notes
    -----
    Profiles are sums of Gaussians that are convolved with the PSF in
    Fourier space (see `SersicRenderer`), not values at the centers of
    pixels, so that the position of the cusp of a profile is preserved.

    Errors are derived from the inverse of the normal matrix of all
    parameters of the stamp, including the sky and the neighbors. They
    assume that the errors of the pixels are correct: scale them by the
    square root of ``reduced_chi2`` if these are too small. Without
    ``error``, the noise of each stamp is the scatter of its pixels
    without sources.

    A fit ends when no step is predicted to lower chi2 by more than 0.05;
    it then is within about 0.05 errors of the minimum if all parameters are
    well constrained, and within 0.3 if they are degenerate.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_galaxy_field
    >>> from hyperphotutils.galaxy import SersicFitter
    >>> field = make_galaxy_field((150, 150), 3, seed=2)
    >>> fitter = SersicFitter(field.psf, size=48)
    >>> table = fitter(field.data, error=field.error,
    ...                init_params=field.truth['x', 'y'])
    >>> print(len(table), fitter.decode_flags(table['flags'][0]))
    3 []
    """

    _repr_params = ('psf', 'size', 'n_bounds', 'r_e_bounds', 'q_min', 'sky',
                    'neighbors', 'max_neighbors', 'start', 'grid', 'priors',
                    'loss', 'fixed', 'max_iterations', 'batch', 'dtype')

    def __init__(
            self, psf: PSFLike, *, size: int = 64,
            n_bounds: tuple[float, float] = (0.3, 8.0),
            r_e_bounds: tuple[float, float] = (0.03, None),
            q_min: float = 0.05,
            sky: Literal['constant', 'plane', 'none'] = 'constant',
            neighbors: Literal['fit', 'mask', 'ignore'] = 'fit',
            max_neighbors: int = 4, start: Literal['grid', 'init'] = 'grid',
            grid: dict | None = None, priors: dict | None = None,
            loss: Literal['linear', 'soft_l1', 'huber', 'cauchy'] = 'linear',
            fixed: tuple[str, ...] = (), max_iterations: int = 30,
            batch: int = 16, dtype: Literal['float32', 'float64'] = 'float32',
            xp: ModuleType | None = None, device: Any = None) -> None:
        self.psf = psf
        self.size = check_integer(size, 'size', 16)
        low, high = n_bounds
        if not INDEX_RANGE[0] <= low <= high <= INDEX_RANGE[1]:
            msg = ('n_bounds must be two increasing numbers from '
                   f'{INDEX_RANGE[0]:g} to {INDEX_RANGE[1]:g}: {n_bounds!r}')
            raise ValueError(msg)
        self.n_bounds = float(low), float(high)
        low, high = r_e_bounds
        if not low > 0.0 or (high is not None and high <= low):
            msg = ('r_e_bounds must be two increasing positive numbers: '
                   f'{r_e_bounds!r}')
            raise ValueError(msg)
        self.r_e_bounds = float(low), None if high is None else float(high)
        self.q_min = check_positive(q_min, 'q_min')
        if self.q_min >= 1.0:
            msg = f'q_min must be less than 1: {q_min!r}'
            raise ValueError(msg)
        self.sky = _check_name(sky, 'sky', ('constant', 'plane', 'none'))
        self.neighbors = _check_name(neighbors, 'neighbors',
                                     ('fit', 'mask', 'ignore'))
        self.max_neighbors = check_integer(max_neighbors, 'max_neighbors', 0)
        self.start = _check_name(start, 'start', ('grid', 'init'))
        self.grid = grid
        if unknown := set(grid or ()) - {'n', 'r_eff', 'q', 'theta'}:
            msg = f'grid has unknown keys: {sorted(unknown)}'
            raise ValueError(msg)
        # none by default: they pull galaxies of n = 6 to 8 by about an error
        self.priors = priors
        if unknown := set(priors or ()) - set(_PRIORS):
            msg = f'priors must be of {_PRIORS}: {sorted(unknown)}'
            raise ValueError(msg)
        # means and inverse standard deviations, 0 without a prior
        self.prior = None if not priors else np.array([
            (mean, 1.0 / deviation) for mean, deviation in (
                priors.get(name, (0.0, np.inf)) for name in _PRIORS)])
        self.loss = _check_name(loss, 'loss', _LOSSES)
        self.fixed = (fixed,) if isinstance(fixed, str) else tuple(fixed)
        for name in self.fixed:
            _check_name(name, 'fixed', ('position', 'shape', 'n'))
        self.max_iterations = check_integer(max_iterations, 'max_iterations')
        # the arrays of 8 to 32 sources fit into the cache of a processor
        self.batch = check_integer(batch, 'batch')
        self.dtype = _check_name(dtype, 'dtype', ('float32', 'float64'))
        self.namespace = np if xp is None else xp
        self.device = device
        # one kernel, unless the PSF depends on the position; made now, which
        # checks the PSF
        varies = (getattr(psf, 'grid_xypos', None) is not None
                  or getattr(psf, 'order', 0))
        self._kernel = None if varies else make_kernel(
            psf, self.size, dtype=self.dtype, xp=self.namespace,
            device=device)
        self._start_grid = None
        self._fit = None
        self._unit = None
        self._shape = None

    def __repr__(self) -> str:
        return make_repr(self)

    def __getstate__(self):
        # modules cannot be pickled
        return self.__dict__ | {'namespace': self.namespace.__name__}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.namespace = import_module(self.namespace)

    def __call__(self, data: ImageLike | Stamps, *,
                 init_params: Table | None = None,
                 segmentation: ArrayLike | SegmentationImage | None = None,
                 mask: ArrayLike | None = None, error: ArrayLike | None = None,
                 wcs: WCS | None = None) -> QTable:
        """
        Fit galaxies of an image, or one on each stamp of a stack.

        Parameters
        ----------
        data : 2D or 3D array_like, `~astropy.units.Quantity`, \
                `~astropy.nddata.NDData`, or `~hyperphotutils.stamps.Stamps`
            The image, or stamps of shape ``(n, size, size)`` with a
            galaxy in the center of each. Pixels that are not finite are
            ignored. With `~hyperphotutils.stamps.Stamps`, nothing else
            is needed, and positions are those in the image.

        init_params : `~astropy.table.Table`, optional
            A row a galaxy, with the columns ``x_init`` and ``y_init``
            (``x_centroid``, ``x_fit``, and ``x`` are also understood, and
            those of y) in pixels, and ``id`` if it is there. For stamps,
            the rows are those of the stack, and positions are those on
            the stamp. Without it, all segments are fitted, or the
            central one of each stamp.

        segmentation : 2D or 3D int array_like or \
                `~photutils.segmentation.SegmentationImage`, optional
            The segments of all sources, 0 elsewhere. Segments with
            negative labels, such as those of sources that are subtracted
            already, are masked.

        mask : bool array_like, optional
            `True` for pixels to ignore.

        error : float or array_like, optional
            The standard deviation of each pixel, with the unit of
            ``data``. Pixels whose error is not finite or not positive
            are ignored.

        wcs : `~astropy.wcs.WCS`, optional
            The coordinates of an image, for the columns on the sky.

        Returns
        -------
        table : `~astropy.table.QTable`
            A row a galaxy, in the order of ``init_params``, of the
            labels, or of the stamps:

            * ``id``, and ``group_size``, the number of sources that were
              fitted on the stamp;
            * ``x``, ``y`` (pixels), ``flux``, ``r_eff`` (along the major
              axis, in pixels), ``n``, ``q``, ``theta`` (degrees from the
              x axis, counterclockwise), each with ``_init``, ``_fit``,
              and ``_err``; the flux is that to infinity;
            * ``flux_stamp_fit``, the flux on the stamp, which is better
              known for large indices;
            * ``sky_fit`` and ``sky_err``, the sky at the position;
            * ``n_grid``, ``r_eff_grid``, ``q_grid``, ``theta_grid``,
              ``chi2_grid``, the best model of the grid on the central
              pixels;
            * ``chi2``, ``reduced_chi2``, ``n_pixels_fit``,
              ``n_iterations``, ``snr``, and ``flags``;
            * ``sky_centroid``, ``orientation`` (position angle on the
              sky, east of north), and ``r_eff_sky_fit``, with a
              ``wcs``.

        Raises
        ------
        ValueError
            If shapes or units do not fit together, or it is not known
            what to fit.
        """
        offset = 0.0
        if hasattr(data, 'positions') and hasattr(data, 'table'):
            cuts, wcs = data, data.wcs if wcs is None else wcs
            offset = np.stack([np.asarray(cuts.table[name], dtype=float)
                               for name in ('x0', 'y0')], axis=1)
            data, error = (
                array if array is None or cuts.unit is None
                else array << cuts.unit for array in (cuts.data, cuts.error))
            mask, segmentation = cuts.mask, cuts.segmentation
            x, y = cuts.positions.T
            init_params = QTable({'id': cuts.table['id'], 'x': x, 'y': y})
        data, mask, error = open_nddata(data, mask, error)
        values, unit = strip_units(data=data, error=error)
        stamps = Stamps(values['data'], values['error'], mask,
                        getattr(segmentation, 'data', segmentation),
                        self.size)
        targets = find_targets(stamps, init_params)
        if self.start == 'init' and init_params is None:
            msg = "start='init' needs init_params"
            raise ValueError(msg)
        if self.start == 'grid' and self._start_grid is None:
            # 0.4 s for a PSF, which most fitters use for many galaxies
            self._start_grid = StartGrid(
                self.psf, self.size, **(self.grid or {}),
                n_bounds=self.n_bounds)
        fit = GalaxyFit(self, stamps, targets, self._start_grid, self._kernel)
        # the matrices (8 x 4096 for a source of 64 pixels) are too small to be
        # shared by threads
        with one_blas_thread():
            fit.run()
        fit.start[:, 1:3] += offset
        fit.params[:, 1:3] += offset
        self._fit, self._unit = fit, unit
        self._shape = stamps.data.shape[stamps.is_image:]
        for name in ('models', 'fit_info'):
            self.__dict__.pop(name, None)
        return make_table(fit, unit, self, wcs)

    @property
    def covariance(self) -> np.ndarray:
        """
        The covariances of flux, x, y, r_eff, n, q, and theta (radians)
        of the last call, shape ``(n, 7, 7)``.
        """
        return self._last_fit.covariance

    @cached_property
    def models(self) -> list[None | Sersic2D]:  # noqa: RUF036
        """
        The galaxies of the last call as a list of
        `~astropy.modeling.functional_models.Sersic2D`, not convolved, in
        the order of the table; `None` for those without a fit.
        """
        # For their parameters: astropy samples at the centers of pixels, where
        # the central one of a galaxy of n = 4 is wrong by 10 % to 100 %.
        result = []
        for flux, x, y, r_eff, n, q, theta in self._last_fit.params:
            model = None
            if np.isfinite(flux):
                model = Sersic2D(flux / sersic_flux(1.0, r_eff, n, q), r_eff,
                                 n, x, y, 1.0 - q, theta)
            result.append(model)
        return result

    @cached_property
    def fit_info(self) -> list[dict]:
        """
        A list with a dictionary for each galaxy of the last call: its
        ``'id'``, and what was fitted on its stamp: ``'params'``, a row
        for it and for each neighbor (flux, x, y, r_eff, n, q, theta in
        radians), and ``'sky'``.
        """
        fit = self._last_fit
        info = []
        for i, row in enumerate(fit.rows):
            entry = {'id': fit.targets.id[row]}
            if i in fit.solutions:
                flux, coords, sky, x0, y0 = fit.solutions[i]
                size = np.hypot(coords[:, 3], coords[:, 4])
                entry['params'] = np.column_stack([
                    flux, coords[:, 0] + x0, coords[:, 1] + y0,
                    np.exp(coords[:, 2] + 0.5 * size),
                    np.exp(coords[:, 5]), np.exp(-size),
                    0.5 * np.arctan2(coords[:, 4], coords[:, 3])])
                entry['sky'] = sky
            info.append(entry)
        return info

    @property
    def _last_fit(self):
        if self._fit is None:
            msg = 'there is no result before the first call'
            raise ValueError(msg)
        return self._fit

    def make_model_image(self, shape: tuple[int, int] | None = None, *,
                         rows: ArrayLike | None = None) -> ArrayOrQuantity:
        """
        Make an image of the fitted galaxies, without sky.

        Parameters
        ----------
        shape : tuple of 2 ints, optional
            The ``(ny, nx)`` of the image; that of the fitted data by
            default.

        rows : 1D bool array_like, optional
            `True` for the rows of the table that are drawn; all by
            default.

        Returns
        -------
        image : 2D or 3D `~numpy.ndarray` or `~astropy.units.Quantity`
            For an image, the sum of the galaxies of the table, each on
            its stamp. For stamps, all that was fitted on each, neighbors
            included.

        Raises
        ------
        ValueError
            If ``rows`` has not an element for each row.
        """
        fit = self._last_fit
        is_stack = len(self._shape) == 3
        if shape is not None and is_stack:
            msg = 'shape is for images: stamps have that of the data'
            raise ValueError(msg)
        n_rows = len(fit.rows)
        rows = np.ones(n_rows, bool) if rows is None else np.asarray(rows)
        if rows.shape != (n_rows,) or rows.dtype != bool:
            msg = (f'rows must be {n_rows} bools, one for each row of the '
                   f'table: got shape {rows.shape} of {rows.dtype}')
            raise ValueError(msg)
        image = np.zeros(self._shape if shape is None else shape)
        xp = self.namespace
        for i, (flux, coords, _, x0, y0) in fit.solutions.items():
            if not rows[i]:
                continue
            # in an image, a neighbor has its own row, or is none of the table
            shown = slice(None if is_stack else 1)
            own = fit.rows[i:i + 1]
            kernel = self._kernel or make_kernel(
                self.psf, self.size, x=fit.targets.x[own],
                y=fit.targets.y[own], dtype=self.dtype, xp=xp,
                device=self.device)
            images = render(kernel, xp.asarray(coords[shown],
                                               device=self.device))
            add_stamp(image[i] if is_stack else image, np.tensordot(
                flux[shown], to_numpy(images), 1), x0, y0)
        return image if self._unit is None else image << self._unit

    def make_residual_image(self,
                            data: ArrayLike | Quantity) -> ArrayOrQuantity:
        """
        Subtract all that was fitted from the data.

        Parameters
        ----------
        data : 2D or 3D array_like or `~astropy.units.Quantity`
            The image or the stamps.

        Returns
        -------
        residual : `~numpy.ndarray` or `~astropy.units.Quantity`
            An image without the galaxies of the table; stamps without
            galaxies, neighbors, and sky.
        """
        model = self.make_model_image()
        fit = self._last_fit
        if len(self._shape) == 3 and self.sky != 'none':
            basis = sky_basis(self.sky, self.size)
            for i, (*_, sky, _, _) in fit.solutions.items():
                plane = (sky @ basis).reshape(self.size, self.size)
                model[i] += (plane if self._unit is None
                             else plane << self._unit)
        return data - model

    decode_flags = staticmethod(decode_flags)


def _check_name(value, name, allowed):
    if value not in allowed:
        msg = f'{name} must be one of {allowed}: {value!r}'
        raise ValueError(msg)
    return value
