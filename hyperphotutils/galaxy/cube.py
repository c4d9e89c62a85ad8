# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Galaxies compared with all models of a grid, as DRE does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Literal

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import QTable
from numpy.typing import ArrayLike, NDArray
from photutils.psf import ImagePSF
from scipy.signal import fftconvolve
from scipy.special import chdtri

from hyperphotutils.catalog.columns import describe_columns
from hyperphotutils.galaxy.grid import Models, make_basis, match_grid
from hyperphotutils.galaxy.mixture import INDEX_RANGE
from hyperphotutils.galaxy.render import coordinates_of, make_kernel, render
from hyperphotutils.galaxy.transforms import sample_psf
from hyperphotutils.utils.output import atomic_output
from hyperphotutils.utils.tables import make_repr, result_meta, strip_units

if TYPE_CHECKING:
    from hyperphotutils.utils.typing import FilePath, PSFLike

__all__ = ['ChiSquareCube', 'SersicCube']

AXES = ('n', 'q', 'theta', 'r_eff')

# Header keys of DRE for the number of values, the first, and the step.
_DRE_KEYS = {'n': ('NINDEX', 'INDEX0', 'DINDEX'),
             'q': ('NAXRAT', 'AXRAT0', 'DAXRAT'),
             'theta': ('NPOSANG', 'POSANG0', 'DPOSANG'),
             'r_eff': ('NLOGH', 'LOGH0', 'DLOGH')}
# Models without INDEX keys are de Vaucouleurs profiles.
_DRE_INDEX = 4.0

# Samples per pixel of models that are not convolved, and the number of
# models in one batch.
_PIXEL_SAMPLES = 5
_CHUNK = 64
# 8190 models of 128 pixels, as DRE has, are 0.5 GB with 'f4'.
_DEFAULT_MEMORY = 2**30

# Initial number of images of a basis, and the largest residual of a model
# relative to its norm.
_RANK = 320
_MAX_RESIDUAL = 1e-5


class SersicCube:
    """
    A grid of Sersic models that are compared with galaxies all at once.

    The models have all combinations of the given indices, axis ratios,
    angles, and radii, and one center. For each galaxy, flux and sky are
    fitted to each model, which gives a cube of chi-squared with a global
    minimum, and confidence regions of any shape. This is the method of
    DRE (Discrete Radius Ellipticals), whose model files are read and
    written. `SersicFitter` is more accurate where a single minimum is
    all that is wanted.

    Parameters
    ----------
    psf : 2D array_like, photutils PSF model, \
            `~hyperphotutils.psf.EmpiricalPSF`, or None
        The PSF, see `SersicFitter`. With `None` the models are only
        integrated over the pixels.

    n, r_eff, q, theta : float or 1D array_like
        The Sersic indices, the effective radii along the major axis in
        pixels, the axis ratios, and the angles of the major axis in
        degrees, counterclockwise from the x axis; increasing.

    size : int, optional
        The side of the stamps in pixels.

    center : tuple of 2 floats, optional
        The center (x, y) of the models in pixels; the default is the
        pixel ``size // 2`` along both axes.

    dtype : {'f4', 'f8'}, optional
        The type of the models. With 'f4', many models are compared as sums
        of some hundred images, exact to 1e-5 of their norm, which is ten
        times as fast; with 'f8', one by one.

    max_memory : int, optional
        The largest number of bytes of models that are kept. Those of a
        larger cube are drawn part by part whenever they are needed: with
        'f4', when the sums are found in the first call; with 'f8', in each
        call.

    Raises
    ------
    ValueError
        If an axis is not increasing or out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from photutils.psf import CircularGaussianPRF
    >>> from hyperphotutils.galaxy import SersicCube, SersicRenderer
    >>> psf = CircularGaussianPRF(fwhm=3.0)
    >>> galaxy = SersicRenderer(psf, 64)(flux=500.0, x=32.0, y=32.0,
    ...                                  r_eff=3.2, n=1.0, q=0.6, theta=60.0)
    >>> cube = SersicCube(psf, n=[1, 4], r_eff=np.geomspace(1, 10, 11),
    ...                   q=[0.4, 0.6, 0.8, 1.0],
    ...                   theta=np.arange(0, 180, 30), size=64)
    >>> result = cube.fit(galaxy, error=0.1)
    >>> print(result.chi2.shape)
    (2, 4, 6, 11)
    >>> best = result.minimum
    >>> print(best['n_grid'][0], best['q_grid'][0], best['theta_grid'][0])
    1.0 0.6 60.0 deg
    >>> print(result.parabola()['r_eff_parabola'][0].round(1))
    3.2
    """

    _repr_params = ('n', 'r_eff', 'q', 'theta', 'size', 'center', 'dtype')

    def __init__(self, psf: PSFLike | None, *, n: ArrayLike, r_eff: ArrayLike,
                 q: ArrayLike, theta: ArrayLike, size: int = 128,
                 center: tuple[float, float] | None = None,
                 dtype: Literal['f4', 'f8'] = 'f4',
                 max_memory: int = _DEFAULT_MEMORY) -> None:
        self.psf = psf
        self.n = _check_axis(n, 'n', INDEX_RANGE)
        self.r_eff = _check_axis(r_eff, 'r_eff', (1e-3, np.inf))
        self.q = _check_axis(q, 'q', (0.01, 1.0))
        self.theta = _check_axis(theta, 'theta', (-360.0, 360.0))
        self.size = int(size)
        self.center = ((self.size // 2,) * 2 if center is None
                       else tuple(map(float, center)))
        if dtype not in {'f4', 'f8'}:
            msg = f"dtype must be 'f4' or 'f8': {dtype!r}"
            raise ValueError(msg)
        self.dtype = dtype
        self.max_memory = max_memory
        self._images = None
        self._source = None
        self._basis = None

    def __repr__(self) -> str:
        return make_repr(self)

    @property
    def shape(self) -> tuple[int, ...]:
        """
        The number of indices, axis ratios, angles, and radii.
        """
        return tuple(len(getattr(self, name)) for name in AXES)

    @property
    def models(self) -> np.ndarray:
        """
        The models of unit flux, shape ``(n, q, theta, r_eff, size,
        size)``.
        """
        images = self._images
        if images is None:
            images = np.concatenate([part for _, part in self._parts()])
        return images.reshape(*self.shape, self.size, self.size)

    def convolve(self, psf: PSFLike) -> SersicCube:
        """
        Return the cube convolved with a PSF.

        Parameters
        ----------
        psf : 2D array_like, photutils PSF model, or \
                `~hyperphotutils.psf.EmpiricalPSF`
            The PSF.

        Returns
        -------
        cube : `SersicCube`
            Models that were given by their parameters are drawn with the
            PSF. Images that were read from a file are convolved.
        """
        cube = SersicCube(psf, n=self.n, r_eff=self.r_eff, q=self.q,
                          theta=self.theta, size=self.size,
                          center=self.center, dtype=self.dtype,
                          max_memory=self.max_memory)
        # Binned images have lost where in its pixel a cusp was: the center of
        # a fit to a galaxy of n = 7 then is off by 0.05 pixels. Models that
        # are known by their parameters are therefore drawn again.
        if self._source is not None:
            samples, oversampling = sample_psf(psf)
            if oversampling != 1:
                msg = ('psf must be sampled by pixels, to be convolved with '
                       f'images: its oversampling is {oversampling}')
                raise ValueError(msg)
            cube._source = self._source
            cube._images = np.concatenate([
                fftconvolve(part, samples, mode='same', axes=(1, 2))
                for part in np.array_split(
                    self._source, 1 + len(self._source) // _CHUNK)
            ]).astype(self.dtype).reshape(len(self._source), -1)
        return cube

    def fit(self, data: ArrayLike | u.Quantity, error: ArrayLike | None = None,
            mask: ArrayLike | None = None, *,
            sky: Literal['constant', 'none'] = 'constant') -> ChiSquareCube:
        """
        Compare galaxies with all models.

        Parameters
        ----------
        data : 2D or 3D array_like or `~astropy.units.Quantity`
            A stamp of shape ``(size, size)``, or several. Pixels that are
            not finite are ignored.

        error : float or array_like, optional
            The standard deviations of the pixels, 1 by default.

        mask : bool array_like, optional
            `True` for pixels to ignore, such as those of neighbors.

        sky : {'constant', 'none'}, optional
            Whether a constant sky is fitted with each model (DRE has
            none).

        Returns
        -------
        result : `ChiSquareCube`
            Chi-squared of all models.

        Raises
        ------
        ValueError
            If the stamps have another size.
        """
        values, unit = strip_units(data=data, error=error)
        data = np.asarray(values['data'], dtype=float)
        is_single = data.ndim == 2
        data = np.atleast_3d(data.T).T if is_single else data
        if data.ndim != 3 or data.shape[1:] != (self.size, self.size):
            msg = (f'data must be stamps of ({self.size}, {self.size}) '
                   f'pixels: {np.shape(values["data"])}')
            raise ValueError(msg)
        if sky not in {'constant', 'none'}:
            msg = f"sky must be 'constant' or 'none': {sky!r}"
            raise ValueError(msg)
        good = np.isfinite(data)
        if mask is not None:
            good &= ~np.broadcast_to(np.asarray(mask, dtype=bool),
                                     data.shape)
        error = 1.0 if values['error'] is None else values['error']
        error = np.broadcast_to(np.asarray(error, dtype=float), data.shape)
        good &= np.isfinite(error) & (error > 0.0)
        # variances of the data: those of DRE add the model, with a gain of 1
        weight = np.where(good, 1.0, 0.0) / np.where(good, error, 1.0)**2
        data = np.where(good, data, 0.0).reshape(len(data), -1)
        weight = weight.reshape(len(data), -1)
        n_models = int(np.prod(self.shape))
        chi2, flux, level = (np.empty((len(data), n_models))
                             for _ in range(3))
        low_precision = data.astype(self.dtype), weight.astype(self.dtype)
        # a basis pays only if it is much smaller than the number of models
        if self.dtype == 'f4' and self._basis is None:
            rank, residual = _RANK, np.inf
            while residual > _MAX_RESIDUAL and 2 * rank <= n_models:
                self._basis, residual = make_basis(
                    self._parts, n_models, self.size**2, rank=rank)
                rank *= 2
            if residual > _MAX_RESIDUAL:
                self._basis = None
        parts = (((part, Models(images)) for part, images in self._parts())
                 if self._basis is None
                 else [(slice(0, n_models), self._basis)])
        for part, models in parts:
            chi2[:, part], flux[:, part], level[:, part] = match_grid(
                models, *low_precision, fit_sky=sky != 'none')
        axes = {name: getattr(self, name) for name in AXES}
        shape = self.shape if is_single else (len(data), *self.shape)
        return ChiSquareCube(
            chi2.reshape(shape), **axes, flux=flux.reshape(shape),
            sky=level.reshape(shape), n_pixels=good.sum(axis=(1, 2)),
            unit=unit, meta=result_meta(self))

    @classmethod
    def read(cls, path: FilePath, *, center: tuple[float, float] | None = None,
             dtype: Literal['f4', 'f8'] = 'f4') -> SersicCube:
        """
        Read a file of models in the layout of DRE.

        Parameters
        ----------
        path : str or path-like
            The FITS file: images along the axes (n, q, theta, r_eff, y,
            x) and the keys ``NINDEX, INDEX0, DINDEX`` (number of values,
            first value, step), ``NAXRAT``, ``AXRAT0``, ``DAXRAT``, and
            so for ``POSANG`` and ``LOGH``, the logarithm of base 10 of
            the effective radius in pixels. Without ``NINDEX`` all models
            have n = 4.

        center : tuple of 2 floats, optional
            The center of the models, as for `SersicCube`.

        dtype : {'f4', 'f8'}, optional
            The type of the models.

        Returns
        -------
        cube : `SersicCube`
            The models as they are, with unit sums; see `convolve`.

        Raises
        ------
        ValueError
            If the file has another layout, or is damaged.
        """
        # the maps bring libraries that arrays do not need
        from hyperphotutils.maps.images import refuse_damaged_file

        with (refuse_damaged_file(path, 'its models cannot be read'),
              fits.open(path) as hdus):
            hdu = next((hdu for hdu in hdus
                        if hdu.is_image and hdu.data is not None), None)
            if hdu is None:
                msg = f'{path} has no image'
                raise ValueError(msg)
            header, images = hdu.header, np.asarray(hdu.data, dtype=float)
        axes = {}
        for name, (number, first, step) in _DRE_KEYS.items():
            if name == 'n' and number not in header:
                axes[name] = np.array([_DRE_INDEX])
                continue
            missing = [key for key in (number, first, step)
                       if key not in header]
            if missing:
                msg = (f'{path} is not a model cube of DRE: no '
                       f'{", ".join(missing)} in its header')
                raise ValueError(msg)
            axes[name] = header[first] + header[step] * np.arange(
                header[number])
        axes['r_eff'] = 10.0**axes['r_eff']
        size = images.shape[-1]
        n_models = int(np.prod([len(axis) for axis in axes.values()]))
        if images.size != n_models * size * size:
            msg = (f'{path} has images of the shape {images.shape}, but its '
                   f'header has {n_models} models')
            raise ValueError(msg)
        cube = cls(None, **axes, size=size, center=center, dtype=dtype)
        images = images.reshape(n_models, size, size)
        cube._source = (images / images.sum(
            axis=(1, 2), keepdims=True)).astype(dtype)
        cube._images = cube._source.reshape(n_models, -1)
        return cube

    def write(self, path: FilePath, *, overwrite: bool = False) -> None:
        """
        Write the models in the layout of DRE.

        Parameters
        ----------
        path : str or path-like
            The FITS file; see `read`.

        overwrite : bool, optional
            Whether to replace a file.

        Raises
        ------
        ValueError
            If the steps of an axis are not even, those of r_eff in its
            logarithm: the layout has no others.
        """
        header = fits.Header()
        for name, (number, first, step) in _DRE_KEYS.items():
            axis = getattr(self, name)
            axis = np.log10(axis) if name == 'r_eff' else axis
            steps = np.diff(axis)
            if len(steps) and np.ptp(steps) > 1e-6 * abs(steps[0]):
                logarithm = 'the logarithm of ' if name == 'r_eff' else ''
                msg = (f'a model cube of DRE needs even steps in {logarithm}'
                       f'{name}: {axis}')
                raise ValueError(msg)
            header[number] = len(axis)
            header[first] = axis[0]
            header[step] = float(steps.mean()) if len(steps) else 0.0
        header['BOXSIZE'] = self.size
        fits.PrimaryHDU(self.models, header).writeto(path,
                                                     overwrite=overwrite)

    def _parts(self):
        """
        Yield slices of the models and their images as rows.
        """
        n_models = int(np.prod(self.shape))
        slices = [slice(low, min(low + _CHUNK, n_models))
                  for low in range(0, n_models, _CHUNK)]
        if self._images is not None:
            for part in slices:
                yield part, self._images[part]
            return
        psf = self.psf
        if psf is None:
            n = _PIXEL_SAMPLES
            psf = ImagePSF(np.ones((n, n)), oversampling=n)
        kernel = make_kernel(psf, self.size, dtype={
            'f4': 'float32', 'f8': 'float64'}[self.dtype])
        n, q, theta, r_eff = (value.ravel() for value in np.meshgrid(
            *(getattr(self, name) for name in AXES), indexing='ij'))
        coords = coordinates_of(*self.center, r_eff, n, q, np.deg2rad(theta))
        keep = n_models * self.size**2 * int(self.dtype[1]) <= (
            self.max_memory)
        kept = []
        for part in slices:
            images = render(kernel, coords[part]).astype(
                self.dtype, copy=False).reshape(-1, self.size**2)
            if keep:
                kept.append(images)
            yield part, images
        if keep:
            self._images = np.concatenate(kept)


class ChiSquareCube:
    """
    Chi-squared of one or several galaxies for all models of a grid.

    It is made by `SersicCube.fit`. Chi-squared is the sum over all
    pixels, so that a difference of 1 from the minimum is an error of 1
    sigma of one parameter.

    Parameters
    ----------
    chi2 : `~numpy.ndarray`
        Shape ``(n, q, theta, r_eff)``, or with an axis of galaxies
        before.

    n, q, theta, r_eff : 1D `~numpy.ndarray`
        The axes.

    flux, sky : `~numpy.ndarray`
        The best flux and sky of each model.

    n_pixels : 1D int `~numpy.ndarray`
        The number of pixels of each galaxy.

    unit : `~astropy.units.Unit`, optional
        The unit of the data.

    meta : dict, optional
        The metadata, such as the constructor call.
    """

    def __init__(self, chi2: np.ndarray, *, n: np.ndarray, q: np.ndarray,
                 theta: np.ndarray, r_eff: np.ndarray, flux: np.ndarray,
                 sky: np.ndarray, n_pixels: NDArray[np.integer],
                 unit: u.UnitBase | None = None,
                 meta: dict | None = None) -> None:
        self.chi2 = chi2
        self.n = n
        self.q = q
        self.theta = theta
        self.r_eff = r_eff
        self.flux = flux
        self.sky = sky
        self.n_pixels = np.atleast_1d(n_pixels)
        self.unit = unit
        self.meta = {} if meta is None else meta

    def __repr__(self) -> str:
        return f'<ChiSquareCube(shape={self.chi2.shape})>'

    @property
    def _cubes(self):
        return self.chi2.reshape(-1, *self.chi2.shape[-4:])

    @cached_property
    def _best(self):
        """
        The index of the minimum of each galaxy, a row each.
        """
        cubes = self._cubes
        flat = cubes.reshape(len(cubes), -1).argmin(axis=1)
        return np.column_stack(np.unravel_index(flat, cubes.shape[1:]))

    @property
    def minimum(self) -> QTable:
        """
        The best models as a `~astropy.table.QTable`, a row a galaxy:
        ``n_grid``, ``q_grid``, ``theta_grid``, ``r_eff_grid``,
        ``chi2_grid``, ``flux_grid``, ``sky_grid``, and ``model_index``,
        the number of the model in the order of the cube.
        """
        rows = np.arange(len(self._best))
        index = (rows, *self._best.T)
        table = QTable(meta=self.meta)
        for k, name in enumerate(AXES):
            table[f'{name}_grid'] = getattr(self, name)[self._best[:, k]]
        table['theta_grid'] <<= u.deg
        table['chi2_grid'] = self._cubes[index]
        for name in ('flux', 'sky'):
            table[f'{name}_grid'] = getattr(self, name).reshape(
                self._cubes.shape)[index]
        table['model_index'] = np.ravel_multi_index(
            tuple(self._best.T), self._cubes.shape[1:])
        return describe_columns(table, unit=self.unit)

    def parabola(self, axis: Literal['r_eff', 'all'] = 'r_eff') -> QTable:
        """
        Fit a parabola to chi-squared around the minimum.

        Parameters
        ----------
        axis : {'r_eff', 'all'}, optional
            The axis: the radius, with all others at the best model, as
            in DRE; or all axes together, with their correlations.

        Returns
        -------
        table : `~astropy.table.QTable`
            A row a galaxy, with ``r_eff_parabola`` and
            ``r_eff_parabola_err``, for 'all' those of n, q, and theta,
            too. Errors are where the parabola has grown by 1. NaN where
            the minimum is at the edge of the grid or the parabola has no
            minimum.

        Raises
        ------
        ValueError
            If ``axis`` is unknown.

        Notes
        -----
        Parabolas are in the logarithms of r_eff and n, and in q and
        theta. That of 'r_eff' is through three points. That of 'all' is
        the least-squares fit to the 3^m nearest models, where m is the
        number of axes with at least 3 values. Angles are periodic if
        their grid covers 180 degrees.
        """
        if axis == 'r_eff':
            chosen = [3]
        elif axis == 'all':
            chosen = [k for k, name in enumerate(AXES)
                      if len(getattr(self, name)) >= 3]
        else:
            msg = f"axis must be 'r_eff' or 'all': {axis!r}"
            raise ValueError(msg)
        place, error = (np.full((len(self._best), len(chosen)), np.nan)
                        for _ in range(2))
        for i, (cube, best) in enumerate(zip(self._cubes, self._best,
                                             strict=True)):
            found = self._fit_parabola(cube, best, chosen)
            if found is not None:
                place[i], error[i] = found
        table = QTable(meta=self.meta)
        for j, k in enumerate(chosen):
            name, value, sigma = AXES[k], place[:, j], error[:, j]
            if name in {'r_eff', 'n'}:
                value = np.exp(value)
                sigma = value * sigma
            unit = u.deg if name == 'theta' else None
            for suffix, column in (('', value), ('_err', sigma)):
                table[f'{name}_parabola{suffix}'] = (
                    column if unit is None else column << unit)
        return describe_columns(table)

    def confidence(self, level: float = 0.683, *,
                   n_params: int = 1) -> NDArray[np.bool_]:
        """
        Return the confidence region of each galaxy.

        Parameters
        ----------
        level : float, optional
            The probability.

        n_params : int, optional
            The number of parameters of interest.

        Returns
        -------
        region : bool `~numpy.ndarray`
            `True` for models whose chi-squared exceeds the minimum by
            less than the quantile of the distribution of chi-squared;
            the shape is that of ``chi2``.
        """
        if not 0.0 < level < 1.0:
            msg = f'level must be between 0 and 1: {level!r}'
            raise ValueError(msg)
        # Avni (1976, ApJ 210, 642): of the parameters of interest alone, with
        # the best values of all others
        limit = chdtri(n_params, 1.0 - level)
        lowest = self.chi2.min(axis=(-4, -3, -2, -1), keepdims=True)
        return self.chi2 <= lowest + limit

    def summary(self,
                style: Literal['hyperphotutils', 'dre'] = 'hyperphotutils'
                ) -> QTable:
        """
        Return the best models with the parabola in the radius.

        Parameters
        ----------
        style : {'hyperphotutils', 'dre'}, optional
            The names of the columns. Those of DRE are ``INDEX``,
            ``LOGR``, ``AX_RATIO``, ``ANGLE``, ``CHI``, ``LOGR_PARAB``,
            ``LOGR_STD``, and ``MODEL_IDX``: logarithms are of base 10,
            and CHI is divided by the number of pixels, as there; but
            LOGR_STD is the error of 1 sigma, which that of DRE is not.

        Returns
        -------
        table : `~astropy.table.QTable`
            A row a galaxy.

        Raises
        ------
        ValueError
            If ``style`` is unknown.
        """
        best, parabola = self.minimum, self.parabola()
        if style == 'hyperphotutils':
            for name in parabola.colnames:
                best[name] = parabola[name]
            return best
        if style != 'dre':
            msg = f"style must be 'hyperphotutils' or 'dre': {style!r}"
            raise ValueError(msg)
        # DRE fits its parabola to ln(chi2 / n_pixels), whose growth by 1 is no
        # error; here it is that of chi2
        radius = parabola['r_eff_parabola']
        return QTable({
            'INDEX': best['n_grid'], 'LOGR': np.log10(best['r_eff_grid']),
            'AX_RATIO': best['q_grid'], 'ANGLE': best['theta_grid'].value,
            'CHI': best['chi2_grid'] / np.maximum(self.n_pixels, 1),
            'LOGR_PARAB': np.log10(radius),
            'LOGR_STD': parabola['r_eff_parabola_err'] / radius
            / np.log(10.0),
            'MODEL_IDX': best['model_index']}, meta=self.meta)

    def write(self, path: FilePath,
              names: Sequence[str] | None = None) -> None:
        """
        Write chi-squared to an HDF5 file.

        Parameters
        ----------
        path : str or path-like
            The file; an existing one is replaced when the new one is
            complete.

        names : sequence of str, optional
            The names of the galaxies; the default is ``'00_0001'``,
            ``'00_0002'``, ... as in DRE.

        Raises
        ------
        ImportError
            If the package h5py is missing.
        """
        try:
            import h5py
        except ImportError:
            msg = 'HDF5 files need the package h5py: pip install h5py'
            raise ImportError(msg) from None
        cubes = self._cubes
        if names is None:
            names = [f'00_{i + 1:04d}' for i in range(len(cubes))]
        with (atomic_output(path, overwrite=True) as temporary,
              h5py.File(temporary, 'w') as file):
            scales = [file.create_dataset(name, data=getattr(self, name))
                      for name in AXES]
            for scale, name in zip(scales, AXES, strict=True):
                scale.make_scale(name)
            for name, cube in zip(names, cubes, strict=True):
                data = file.create_dataset(f'chi2/{name}',
                                           data=cube.astype('f4'))
                for dimension, scale in zip(data.dims, scales, strict=True):
                    dimension.attach_scale(scale)

    def _fit_parabola(self, cube, best, chosen):
        """
        Return the place and the errors of the minimum, or `None`.
        """
        offsets, middle, where = [], [], list(best)
        grids = np.ix_(*[range(3)] * len(chosen))
        for k, grid in zip(chosen, grids, strict=True):
            name = AXES[k]
            axis = getattr(self, name)
            # chi2 is closer to a parabola in the logarithms of scales
            if name in {'r_eff', 'n'}:
                axis = np.log(axis)
            index = best[k] + np.array([-1, 0, 1])
            length = len(axis)
            turn = 0.0
            if name == 'theta' and length > 2 and np.isclose(
                    axis[-1] - axis[0] + axis[1] - axis[0], 180.0):
                # an axis of symmetry returns after half a turn
                turn, index = 180.0 * (index // length), index % length
            elif index[0] < 0 or index[-1] >= length:
                return None
            values = axis[index] + turn
            offsets.append(values - values[1])
            middle.append(values[1])
            where[k] = index[grid]
        # in units of the steps, for well-scaled equations
        scale = np.array([0.5 * (o[2] - o[0]) for o in offsets])
        points = np.array(list(product(*offsets))) / scale
        height = cube[tuple(where)].ravel() - cube[tuple(best)]
        m = len(chosen)
        pairs = np.triu_indices(m)
        design = np.column_stack([
            np.ones(len(points)), points,
            points[:, pairs[0]] * points[:, pairs[1]]])
        coefficients = np.linalg.lstsq(design, height, rcond=None)[0]
        # chi2 = constant + slope x + x^T matrix x
        matrix = np.zeros((m, m))
        matrix[pairs] = 0.5 * coefficients[1 + m:]
        matrix += matrix.T
        # a saddle has no minimum
        if np.linalg.eigvalsh(matrix)[0] <= 0.0:
            return None
        covariance = np.linalg.inv(matrix)
        shift = -0.5 * covariance @ coefficients[1:1 + m]
        return (middle + shift * scale,
                np.sqrt(np.diag(covariance)) * scale)


def _check_axis(values, name, limits):
    """
    Check an axis of the grid.
    """
    values = np.atleast_1d(np.asarray(values, dtype=float))
    if values.ndim != 1 or len(values) == 0 or np.any(np.diff(values) <= 0):
        msg = f'{name} must be increasing numbers: {values}'
        raise ValueError(msg)
    if values[0] < limits[0] or values[-1] > limits[1]:
        msg = (f'{name} must be from {limits[0]:g} to {limits[1]:g}: '
               f'{values}')
        raise ValueError(msg)
    return values
