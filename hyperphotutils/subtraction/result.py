# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The result of a subtraction.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.table import QTable
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from hyperphotutils.subtraction.difference import (
    MASKED_BITS,
    add_polynomial,
)
from hyperphotutils.subtraction.flags import DIFFERENCE_FLAGS
from hyperphotutils.subtraction.frames import NoiseGrid
from hyperphotutils.subtraction.kernel import kernel_from_hdu
from hyperphotutils.subtraction.polynomials import polynomial_surface
from hyperphotutils.subtraction.tiling import smoothed
from hyperphotutils.utils.output import atomic_output

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from photutils.psf import ImagePSF

    from hyperphotutils.subtraction.fit import KernelFit, StampCutouts
    from hyperphotutils.subtraction.kernel import RegionKernel, SpatialKernel
    from hyperphotutils.utils.typing import ArrayOrQuantity, FilePath

__all__ = ['DecorrelatedDifference', 'SubtractionResult', 'make_result']

# With fewer, the kernels of simulated pairs were sometimes wrong
_FEW_STARS = 30
_SKIPPED_META = ('version',)
# Why an image was convolved, see `Direction`
_REASONS = {'given': ' as given by convolve',
            'widths': ' (its PSF is narrower)',
            'trial': ' (both were tried; this gives the smaller errors)'}
_NOISE_NAMES = 'TARGET_NOISE', 'SOURCE_NOISE'


class _Image:
    """
    A difference with its error and mask.
    """

    def __init__(self, difference: np.ndarray, error: np.ndarray,
                 mask: NDArray[np.bool_], unit: u.UnitBase | None,
                 wcs: WCS | None) -> None:
        self._difference = difference
        self._error = error
        self.mask = mask
        self.unit = unit
        self.wcs = wcs

    @property
    def difference(self) -> ArrayOrQuantity:
        """
        The difference, NaN where it is masked; positive where the
        science image is brighter.
        """
        return self._with_unit(self._difference)

    @property
    def error(self) -> ArrayOrQuantity:
        """
        The standard deviation of each pixel, NaN where it is masked.
        """
        return self._with_unit(self._error)

    @property
    def significance(self) -> np.ndarray:
        """
        The difference in units of its error.
        """
        return self._difference / self._error

    def to_ccddata(self) -> CCDData:
        """
        Return the difference with its error, mask, and WCS.

        Returns
        -------
        image : `~astropy.nddata.CCDData`
            The image, dimensionless if the science image has no unit.
        """
        return CCDData(self._difference, mask=self.mask, wcs=self.wcs,
                       unit=self.unit or u.dimensionless_unscaled,
                       uncertainty=StdDevUncertainty(self._error))

    def _with_unit(self, values):
        return values if self.unit is None else values << self.unit


class DecorrelatedDifference(_Image):
    """
    A difference whose noise is white.

    It is the difference convolved with a kernel whose sum is one. The
    best detection image for point sources is its convolution with its
    PSF, and PSF photometry on it has the smallest possible errors, both
    with white noise taken for granted, as photutils does.

    Parameters
    ----------
    difference, error : 2D `~numpy.ndarray`
        The values.

    mask : 2D bool `~numpy.ndarray`
        The pixels to ignore.

    kernel : `SpatialKernel`
        The kernel.

    point_spread : `SpatialKernel`
        The PSF of the difference before the convolution.

    unit : `~astropy.units.Unit` or None
        The unit.

    wcs : `~astropy.wcs.WCS` or None
        The WCS.
    """

    def __init__(self, difference: np.ndarray, error: np.ndarray,
                 mask: NDArray[np.bool_], *, kernel: SpatialKernel,
                 point_spread: SpatialKernel, unit: u.UnitBase | None = None,
                 wcs: WCS | None = None) -> None:
        super().__init__(difference, error, mask, unit, wcs)
        self.kernel = kernel
        self._point_spread = point_spread

    def psf(self, x: float, y: float) -> np.ndarray:
        """
        Return the PSF at a position.

        Parameters
        ----------
        x, y : float
            The position in pixels.

        Returns
        -------
        psf : 2D `~numpy.ndarray`
            The PSF of a source at the center of a pixel.
        """
        return fftconvolve(self._point_spread(x, y), self.kernel(x, y),
                           mode='same')

    def psf_model(self, x: float, y: float) -> ImagePSF:
        """
        Return the PSF at a position as a model for PSF photometry.

        Parameters
        ----------
        x, y : float
            The position in pixels.

        Returns
        -------
        model : `~photutils.psf.ImagePSF`
            The model.
        """
        from photutils.psf import ImagePSF
        return ImagePSF(self.psf(x, y))


class SubtractionResult(_Image):
    """
    The difference of two images and how it was made.

    It is returned by `ImageSubtractor` and by `SubtractionResult.read`.

    Parameters
    ----------
    difference, error : 2D `~numpy.ndarray`
        The difference and its standard deviation, NaN where masked.

    flags : 2D `~numpy.ndarray` of uint8
        Why a pixel is masked, or was filled: see
        `~hyperphotutils.subtraction.DIFFERENCE_FLAGS`.

    convolved : 2D `~numpy.ndarray`
        The convolved image with the differential background.

    kernel : `SpatialKernel` or `RegionKernel`
        The kernel; ``kernel(x, y)`` is its image at a position, and
        ``kernel.image(grid)`` a mosaic of it.

    noise : object
        The variances of the skies of both images.

    point_spread : `SpatialKernel`
        The PSF of the difference.

    background : 1D `~numpy.ndarray`
        The coefficients of the differential background.

    levels : tuple of 2 floats
        The levels of the sky of the image that is not convolved, and
        of the other.

    factor : float
        The factor between the image that is not convolved minus the
        other, and ``difference``; negative if the science image is
        convolved.

    stamps : `~astropy.table.QTable`
        The stars, what became of each, and how it was fitted.

    kernel_sum_error : float
        The standard error of the sum of the kernel.

    decorrelated : `DecorrelatedDifference`, optional
        The difference with white noise.

    fit : `KernelFit`, optional
        The fit of the kernel; `None` if the result was read from a file.

    unit : `~astropy.units.Unit`, optional
        The unit.

    wcs : `~astropy.wcs.WCS`, optional
        The WCS.

    meta : dict, optional
        How the result was made.
    """

    def __init__(self, *, difference: np.ndarray, error: np.ndarray,
                 flags: NDArray[np.uint8], convolved: np.ndarray,
                 kernel: SpatialKernel | RegionKernel, noise: Any,
                 point_spread: SpatialKernel, background: np.ndarray,
                 levels: tuple[float, float], factor: float, stamps: QTable,
                 kernel_sum_error: float,
                 decorrelated: DecorrelatedDifference | None = None,
                 fit: KernelFit | None = None, unit: u.UnitBase | None = None,
                 wcs: WCS | None = None, meta: dict | None = None) -> None:
        super().__init__(difference, error, (flags & MASKED_BITS) > 0, unit,
                         wcs)
        self.flags = flags
        self._convolved = convolved
        self.kernel = kernel
        self.decorrelated = decorrelated
        self.stamps = stamps
        self.fit = fit
        self.meta = meta or {}
        self._noise = noise
        self._point_spread = point_spread
        self._background = background
        self._levels = levels
        self.factor = factor
        self._kernel_sum_error = kernel_sum_error

    def __repr__(self) -> str:
        unit = '' if self.unit is None else f', {self.unit}'
        return (f'<SubtractionResult; shape={self.flags.shape}{unit}, '
                f'convolved: {self.meta.get("convolve")}, kernel: order '
                f'{self.kernel.order}, radius {self.kernel.radius}>')

    @property
    def convolved(self) -> ArrayOrQuantity:
        """
        The convolved image with the differential background.
        """
        return self._with_unit(self._convolved)

    @property
    def background(self) -> ArrayOrQuantity:
        """
        The differential background: what the convolved image lacks.
        """
        ny, nx = self.flags.shape
        surface = polynomial_surface(np.arange(nx), np.arange(ny),
                                     self._background, (ny, nx))
        target, source = self._levels
        middle = 0.5 * (nx - 1), 0.5 * (ny - 1)
        # the levels were subtracted before the fit
        surface += target - source * self.kernel.sum(*middle)
        return self._with_unit(surface * abs(self.factor))

    @property
    def stats(self) -> dict[str, Any]:
        """
        The statistics of the difference, a dict.

        ``x2norm`` is the mean of the squares of ``significance``,
        ``mean``, ``std``, and ``pull`` are the mean, the standard
        deviation, and the robust standard deviation of it.
        """
        pulls = self.significance[~self.mask]
        if not pulls.size:
            pulls = np.array([np.nan])
        status = np.asarray(self.stamps['status'])
        used = status == 'USED'
        center = np.median(pulls)
        return {
            'convolve': self.meta.get('convolve'),
            'kernel_order': self.kernel.order,
            'kernel_radius': self.kernel.radius,
            'n_stamps': int(np.count_nonzero(used)),
            'n_clipped': int(np.count_nonzero(status == 'CLIPPED')),
            'chi2': (float(np.mean(self.stamps['chi2'][used]))
                     if used.any() else np.nan),
            'n_pixels': int(np.count_nonzero(~self.mask)),
            'x2norm': float(np.mean(pulls.astype(float)**2)),
            'mean': float(np.mean(pulls, dtype=float)),
            'std': float(np.std(pulls, dtype=float)),
            'pull': float(1.4826 * np.median(np.abs(pulls - center))),
        }

    def kernel_sum(self, x: float, y: float) -> tuple[float, float]:
        """
        Return the sum of the kernel and its standard error.

        It is the flux scale of the image that is not convolved over
        that of the other.

        Parameters
        ----------
        x, y : float
            The position in pixels.

        Returns
        -------
        total, error : float
            The sum and its standard error.
        """
        return float(self.kernel.sum(x, y)), self._kernel_sum_error

    def stamp(self, number: int) -> StampCutouts:
        """
        Return the cutouts of a star.

        Parameters
        ----------
        number : int
            Its ``id`` in ``stamps``.

        Returns
        -------
        cutouts : `StampCutouts`
            The images, models, and residuals.

        Raises
        ------
        ValueError
            If the result was read from a file, which does not have the
            images.
        """
        if self.fit is None:
            msg = ('a result that was read from a file has no cutouts: '
                   'subtract the images again')
            raise ValueError(msg)
        return self.fit.stamp(number)

    def psf(self, x: float, y: float) -> np.ndarray:
        """
        Return the PSF of the difference at a position.

        It is that of sources of the science image; if that was
        convolved, their PSF convolved with the kernel. The positions are
        those in the science image, even if the kernel shifts it. For the
        PSF of the decorrelated difference see ``decorrelated.psf``.

        Parameters
        ----------
        x, y : float
            The position in pixels.

        Returns
        -------
        psf : 2D `~numpy.ndarray`
            The PSF of a source at the center of a pixel.
        """
        return self._point_spread(x, y)

    def covariance(self, x: float, y: float) -> ArrayOrQuantity:
        """
        Return the covariance of the sky noise of neighboring pixels.

        Parameters
        ----------
        x, y : float
            The position in pixels.

        Returns
        -------
        covariance : 2D `~numpy.ndarray` or `~astropy.units.Quantity`
            The covariance of a pixel with those around it; the variance
            is at the center.
        """
        # independent noise of variance V, convolved with a kernel, has V
        # times the autocorrelation of the kernel as its covariance
        point = np.zeros((2 * self.kernel.radius + 1,) * 2)
        point[self.kernel.radius, self.kernel.radius] = 1.0
        covariance = 0.0
        for variance, kernel, noise in zip(
                self._noise(x, y), (point, self.kernel(x, y)),
                self._noise.kernels, strict=True):
            kernel = smoothed(kernel[None], noise)[0]
            covariance = covariance + variance * fftconvolve(
                kernel, kernel[::-1, ::-1])
        covariance *= self.factor**2
        return (covariance if self.unit is None
                else covariance << self.unit**2)

    def write(self, path: FilePath, *, overwrite: bool = False) -> None:
        """
        Write all images and the kernel to one FITS file.

        Parameters
        ----------
        path : str or path-like
            The file.

        overwrite : bool, optional
            Whether an existing file is replaced.

        Notes
        -----
        The file appears under its name only when it is complete.
        """
        with atomic_output(path, overwrite=overwrite) as temporary:
            self.to_hdus().writeto(temporary)

    def write_products(self, folder: FilePath, *,
                       overwrite: bool = False) -> list[Path]:
        """
        Write all that the subtraction has made into a folder.

        Parameters
        ----------
        folder : str or path-like
            The folder; it is made if there is none.

        overwrite : bool, optional
            Whether existing files are replaced.

        Returns
        -------
        paths : list of `~pathlib.Path`
            The files: ``stamps.ecsv``, the stars of the fit;
            ``stamps.reg``, the same as regions of DS9, in colors by
            status; ``overview.png``, the figure of ``plot``;
            ``summary.txt``; and ``subtraction.fits``, all images and the
            kernels, see ``write``.

        Raises
        ------
        FileExistsError
            If a file exists and ``overwrite`` is `False`.

        Notes
        -----
        Each file appears only when it is complete, and
        ``subtraction.fits`` after all others: a folder that has it is
        complete.
        """
        from hyperphotutils.subtraction.overview import stamp_regions
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        regions = stamp_regions(self).serialize(format='ds9')
        writers = {
            'stamps.ecsv': lambda path: self.stamps.write(
                path, format='ascii.ecsv'),
            'stamps.reg': lambda path: path.write_text(
                regions, encoding='utf-8'),
            'overview.png': lambda path: self.plot().savefig(path, dpi=120),
            'summary.txt': lambda path: path.write_text(
                self.summary() + '\n', encoding='utf-8'),
            'subtraction.fits': self.to_hdus().writeto,
        }
        paths = [folder / name for name in writers]
        if overwrite:
            # until all is new the folder is not complete
            paths[-1].unlink(missing_ok=True)
        for path, write in zip(paths, writers.values(), strict=True):
            with atomic_output(path, overwrite=overwrite) as temporary:
                write(temporary)
        return paths

    def to_hdus(self) -> fits.HDUList:
        """
        Return all images and the kernel as extensions of a FITS file.

        Returns
        -------
        hdus : `~astropy.io.fits.HDUList`
            The extensions ``DIFFERENCE``, ``ERROR``, ``FLAGS``,
            ``CONVOLVED``, those of the decorrelated difference, of the
            kernels, and the table ``STAMPS``; ``KERNEL_MOSAIC`` has the
            kernels at the centers of 5 x 5 cells of the image.
        """
        header = fits.Header() if self.wcs is None else self.wcs.to_header()
        primary = fits.PrimaryHDU()
        for name, value in self.meta.items():
            if name not in _SKIPPED_META:
                primary.header[f'HIERARCH HP {name}'] = str(value)
        for name, version in self.meta.get('version', {}).items():
            primary.header[f'HIERARCH HP version {name}'] = version
        images = [('DIFFERENCE', self._difference), ('ERROR', self._error),
                  ('FLAGS', self.flags), ('CONVOLVED', self._convolved)]
        kernels = [('KERNEL', self.kernel), ('PSF', self._point_spread)]
        if self.decorrelated is not None:
            white = self.decorrelated
            images += [('DECORRELATED', white._difference),  # noqa: SLF001
                       ('DECORRELATED_ERROR', white._error),  # noqa: SLF001
                       ('DECORRELATED_MASK', white.mask.astype(np.uint8))]
            kernels.append(('WHITENING', white.kernel))
        hdus = fits.HDUList([primary])
        for name, data in images:
            hdu = fits.ImageHDU(data, header=header.copy(), name=name)
            if self.unit is not None and data.dtype.kind == 'f':
                hdu.header['BUNIT'] = self.unit.to_string('fits')
            hdus.append(hdu)
        for name, bit in DIFFERENCE_FLAGS.items():
            hdus['FLAGS'].header[f'HIERARCH BIT {name}'] = bit
        for name, kernel in kernels:
            hdu = kernel.to_hdu()
            hdu.name = name
            hdus.append(hdu)
        hdus.append(fits.ImageHDU(self.kernel.image(), name='KERNEL_MOSAIC'))
        hdu = fits.ImageHDU(self._background, name='BACKGROUND')
        hdu.header['LEVEL1'], hdu.header['LEVEL2'] = self._levels
        hdu.header['FACTOR'] = self.factor
        hdu.header['SUMERR'] = self._kernel_sum_error
        hdus.append(hdu)
        hdus.append(fits.ImageHDU(self._noise.values, name='SKY_VARIANCE'))
        hdus.extend(fits.ImageHDU(kernel, name=name)
                    for name, kernel in zip(_NOISE_NAMES,
                                            self._noise.kernels, strict=True)
                    if kernel is not None)
        table = fits.table_to_hdu(self.stamps)
        table.name = 'STAMPS'
        hdus.append(table)
        return hdus

    @classmethod
    def read(cls, path: FilePath) -> SubtractionResult:
        """
        Read what `write` has written.

        Parameters
        ----------
        path : str or path-like
            The file.

        Returns
        -------
        result : `SubtractionResult`
            The result, without ``fit``.

        Raises
        ------
        ValueError
            If it is no such file.
        """
        with fits.open(Path(path), memmap=False) as hdus:
            missing = [name for name in ('DIFFERENCE', 'KERNEL', 'PSF',
                                         'BACKGROUND') if name not in hdus]
            if missing:
                msg = (f'{path} is no result of a subtraction: it lacks '
                       f'{", ".join(missing)}')
                raise ValueError(msg)
            header = hdus['DIFFERENCE'].header
            unit = header.get('BUNIT')
            common = {'unit': None if unit is None else u.Unit(unit),
                      'wcs': (WCS(header) if 'CTYPE1' in header else None)}
            images = {name: _native(hdus[name].data)
                      for name in ('DIFFERENCE', 'ERROR', 'FLAGS',
                                   'CONVOLVED')}
            psf = kernel_from_hdu(hdus['PSF'])
            white = None
            if 'DECORRELATED' in hdus:
                white = DecorrelatedDifference(
                    _native(hdus['DECORRELATED'].data),
                    _native(hdus['DECORRELATED_ERROR'].data),
                    hdus['DECORRELATED_MASK'].data > 0,
                    kernel=kernel_from_hdu(hdus['WHITENING']),
                    point_spread=psf, **common)
            background = hdus['BACKGROUND']
            primary = hdus[0].header
            meta = {name.removeprefix('HP '): primary[name]
                    for name in primary if name.startswith('HP ')}
            return cls(
                difference=images['DIFFERENCE'], error=images['ERROR'],
                flags=images['FLAGS'], convolved=images['CONVOLVED'],
                kernel=kernel_from_hdu(hdus['KERNEL']),
                noise=NoiseGrid(*hdus['SKY_VARIANCE'].data,
                                shape=images['FLAGS'].shape,
                                kernels=[_native(hdus[name].data)
                                         if name in hdus else None
                                         for name in _NOISE_NAMES]),
                point_spread=psf, background=_native(background.data),
                levels=(background.header['LEVEL1'],
                        background.header['LEVEL2']),
                factor=background.header['FACTOR'],
                stamps=QTable.read(hdus['STAMPS']), decorrelated=white,
                kernel_sum_error=background.header['SUMERR'], meta=meta,
                **common)

    def summary(self) -> str:
        """
        Return the most important numbers of the subtraction as text.

        Returns
        -------
        text : str
            Some lines, for a log or a screen.
        """
        stats = self.stats
        ny, nx = self.mask.shape
        total, error = self.kernel_sum(0.5 * (nx - 1), 0.5 * (ny - 1))
        status, counts = np.unique(np.asarray(self.stamps['status']),
                                   return_counts=True)
        names, bits = zip(*DIFFERENCE_FLAGS.items(), strict=True)
        parts = [100.0 * np.mean((self.flags & bit) > 0) for bit in bits]
        lines = [
            f'{stats["convolve"]} image convolved'
            f'{_REASONS.get(self.meta.get("direction_reason"), "")}; '
            'kernel of radius '
            f'{stats["kernel_radius"]} and order {stats["kernel_order"]}, '
            f'sum {total:.5g} +- {error:.2g}',
            f'{stats["n_stamps"]} stars fitted with reduced chi2 '
            f'{stats["chi2"]:.2f}; difference / error: robust std '
            f'{stats["pull"]:.3f}, mean {stats["mean"]:.3f}',
            'stars: ' + ', '.join(f'{count} {name}' for name, count
                                  in zip(status, counts, strict=True)),
            'masked: ' + f'{100.0 * np.mean(self.mask):.2f} %; ' + ', '.join(
                f'{name} {part:.2f} %' for name, part
                in zip(names, parts, strict=True)),
        ]
        if stats['n_stamps'] < _FEW_STARS:
            lines.append(f'fewer than {_FEW_STARS} stars: the kernel may be '
                         'wrong by more than its error; look at the '
                         'residuals of the stars')
        if self.decorrelated is not None:
            white = self.decorrelated
            pulls = white.significance[~white.mask]
            pull = (1.4826 * np.median(np.abs(pulls - np.median(pulls)))
                    if pulls.size else np.nan)
            lines.append('decorrelated difference / error: robust std '
                         f'{pull:.3f}; masked: '
                         f'{100.0 * np.mean(white.mask):.2f} %')
        if 'shared_noise' in self.meta:
            lines.append('the noise of the images has a correlation of '
                         f'{self.meta["shared_noise"]}: the kernel and all '
                         'errors are wrong')
        lines += [f'{name.replace("_", " ")}: {self.meta[name]}'
                  for name in ('error', 'template_error', 'mask',
                               'template_mask') if name in self.meta]
        return '\n'.join(lines)

    def plot(self, *, figure: Figure | None = None) -> Figure:
        """
        Draw an overview of the subtraction.

        Parameters
        ----------
        figure : `~matplotlib.figure.Figure`, optional
            The figure to draw into; made if `None`, without pyplot.

        Returns
        -------
        figure : `~matplotlib.figure.Figure`
            The science image, the convolved image, the difference in
            units of its error, the kernel over the field, the stars by
            status, and the histogram of the significance with that of
            a normal distribution.
        """
        from hyperphotutils.subtraction.overview import plot_result
        return plot_result(self, figure)


def make_result(products, white, *, kernel, noise, psf, background, factor,
                fit, levels, meta):
    """
    Apply scale, masks, and units to the products of the tiles, in place.

    ``white`` is the decorrelated difference, its error, its mask, and the
    kernel; ``factor`` is what the difference is multiplied with, and
    ``levels`` are those of the sky that were subtracted from target and
    source.
    """
    difference, convolved, error, flags = products
    unit, wcs = fit.stamps.unit, fit.stamps.wcs
    # in place and in single precision: each image may be a large part of
    # the memory
    size = abs(factor)
    difference *= np.float32(factor)
    error *= np.float32(size)
    masked = (flags & MASKED_BITS) > 0
    difference[masked] = np.nan
    error[masked] = np.nan
    add_polynomial(convolved, background)
    convolved += np.float32(levels[0])
    convolved *= np.float32(size)
    decorrelated = None
    if white is not None:
        values, errors, mask, whitening = white
        values *= np.float32(factor)
        errors *= np.float32(size)
        values[mask] = np.nan
        errors[mask] = np.nan
        decorrelated = DecorrelatedDifference(
            values, errors, mask, kernel=whitening, point_spread=psf,
            unit=unit, wcs=wcs)
    meta = {**meta, 'kernel_order': kernel.order,
            'kernel_radius': kernel.radius,
            'ridge': fit.solutions[0].ridge,
            'direction_reason': fit.direction.reason, **fit.stamps.origins}
    if fit.stamps.shared_noise:
        meta['shared_noise'] = round(fit.stamps.shared_noise, 3)
    return SubtractionResult(
        difference=difference, error=error, flags=flags,
        convolved=convolved, kernel=kernel, noise=noise, point_spread=psf,
        background=background, levels=levels, factor=factor,
        stamps=fit.table, fit=fit, unit=unit, wcs=wcs,
        decorrelated=decorrelated, meta=meta,
        kernel_sum_error=max(solution.scale_error
                             for solution in fit.solutions))


def _native(array):
    """
    Return an array in the byte order of this machine.
    """
    return array.astype(array.dtype.newbyteorder('='))
