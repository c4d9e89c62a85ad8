# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Forced photometry: one catalog measured on the maps of several bands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Literal

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.nddata import NDData
from astropy.stats import gaussian_sigma_to_fwhm
from astropy.table import QTable, Table
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame
from numpy.typing import ArrayLike

from hyperphotutils.aperture.local import measure_sources
from hyperphotutils.blend.beams import BeamProfile
from hyperphotutils.blend.fitter import BlendGroupFitter
from hyperphotutils.catalog.columns import describe_columns
from hyperphotutils.catalog.units import to_readable_units
from hyperphotutils.maps.errors import MapError
from hyperphotutils.maps.units import flux_factor
from hyperphotutils.photometry.error_propagation import (
    pixel_deviations,
    propagated_variances,
)
from hyperphotutils.photometry.explain import count_flags
from hyperphotutils.photometry.measurement import MeasuredMap, check_noise
from hyperphotutils.utils.areas import PixelAreas
from hyperphotutils.utils.checks import check_positive
from hyperphotutils.utils.flags import FLAGS, decode_flags
from hyperphotutils.utils.gaussians import (
    gaussian_flux,
    gaussian_matrix,
    wrap_angle,
)
from hyperphotutils.utils.tables import (
    as_masked_image,
    list_columns,
    make_repr,
    open_nddata,
    result_meta,
)
from hyperphotutils.utils.wcs import (
    pixel_scale,
    position_angle_in_frame,
    sky_to_pixel_ellipse,
)

if TYPE_CHECKING:
    from astropy.nddata import CCDData
    from radio_beam import Beam

    from hyperphotutils.noise.model import NoiseModel

__all__ = ['ForcedPhotometry']

_SHAPE = ('fwhm_major_sky', 'fwhm_minor_sky', 'position_angle')
_ERRORS = {'lon': 'lon_err', 'lat': 'lat_err', 'major': 'fwhm_major_sky_err',
           'minor': 'fwhm_minor_sky_err', 'angle': 'position_angle_err'}
_PIXEL_UNIT = u.Jy / u.pix
# Results of the fit for each band, in the order of the columns.
_MEASURED = ('flux_fit', 'flux_err', 'aperture_flux', 'aperture_flux_err',
             'amplitude_fit', 'local_bkg', 'flags')
# Sources up to this size in beams are fitted on the footprint of the beam: on
# a larger one, a polynomial describes structured backgrounds less well.
_COMPACT = 1.5
# The difference between a source and its model with a measured beam. In noise
# that the beam has smoothed, and with positions 0.05 beams off, the fluxes of
# sources of 100 times the noise scatter by 3 %, and by 10 % without it. A
# floor of white noise does not help: the difference grows with the flux.
_MODEL_ERROR = 0.02


class ForcedPhotometry:
    """
    Class to measure the sources of one catalog on the maps of several bands.

    Positions and shapes are taken from the catalog; the fluxes of all
    sources of a group are fitted together, with the background. Each
    band has its own beam, pixels, projection, celestial frame, and
    unit.

    Parameters
    ----------
    ellipse : {'same', 'matched'}, optional
        The shape of a source in a band:

        * ``'same'``: that of the catalog, in every band, for maps with
          a common beam;
        * ``'matched'``: that of the catalog, deconvolved from the
          reference beam and convolved with the beam of the band, so
          that the intrinsic source is the same in every band.

    reference_beam : `~radio_beam.Beam`, `~astropy.units.Quantity`, str, \
            or dict, optional
        The beam of the shapes in the catalog: a beam (with its position
        angle in the frame of the catalog), the FWHM of a round one, or
        the name of a band. A dictionary has a beam or FWHM for each name
        in the column ``reference_band`` of the catalog, as
        `~hyperphotutils.catalog.match_catalogs` makes it. Required for
        ``'matched'`` and not used otherwise.

    make_fitter : callable, optional
        The factory of the fitter of each band. It is called with the
        FWHM of the beam in pixels (or the typical FWHM of the sources,
        if it is larger than 1.5 beams or the beam is unknown), and with
        ``fixed=('position', 'shape')``, and with ``psf`` for bands with
        a measured beam; the default is
        `~hyperphotutils.blend.BlendGroupFitter`. Use `functools.partial`
        to set its options.

    noise : {'correlated', 'white'}, \
            `~hyperphotutils.noise.NoiseModel`, or dict, optional
        The weights of the pixels. With ``'correlated'``, the default,
        the covariance of noise and structured background is measured on
        each map after a first fit, and all sources are fitted again by
        generalized least squares. With ``'white'`` pixels are
        independent. A `~hyperphotutils.noise.NoiseModel`, in the
        unit of the map, is used unchanged. A dictionary has one of these
        for each band.

    fwhm_radius_ratio : float, optional
        The semi-axes of the apertures in units of the FWHMs.

    aperture_correction : bool, optional
        Whether to divide the sum in the aperture by the fraction of the
        Gaussian inside it.

    catalog_errors : bool, optional
        Whether the errors of the fluxes include the errors of the
        catalog, if it has them: those of the positions (``lon_err``,
        ``lat_err``) and of the shapes (``fwhm_major_sky_err``,
        ``fwhm_minor_sky_err``, ``position_angle_err``). The errors in
        ``tables`` never include them.

    progress_bar : bool, optional
        Whether to show a progress bar over the bands.

    Attributes
    ----------
    tables : dict of `~astropy.table.QTable`
        The tables of the fits of the last call by band, with pixel
        positions and all other columns of the fitter.

    fitters : dict of `~hyperphotutils.blend.BlendGroupFitter`
        The fitters of the last call by band, for images of models,
        backgrounds, and residuals in Jy/pixel.

    See Also
    --------
    hyperphotutils.blend.BlendGroupFitter :
        Fixes only positions or only shapes on a single map.

    Notes
    -----
    With the covariance matrices :math:`C` of the Gaussians in the plane
    tangent to the sky at the source, a matched ellipse is

    .. math::

        C_{band} = [C_{source} - B_{reference}]_+ + B_{band}

    where :math:`[\\,]_+` sets negative eigenvalues to zero, so that no
    source is narrower than the beam. Sources with a negative eigenvalue
    have the flag ``near_bound``.

    The errors of the catalog are propagated linearly: the fitted
    amplitudes and backgrounds depend on the fixed positions and shapes
    as :math:`-(L^T L)^{-1} L^T P`, with the derivatives of the weighted
    model with respect to amplitudes and background, :math:`L`, and with
    respect to positions and shapes, :math:`P`. A catalog does not
    contain the correlations between the errors of a source and its
    neighbors: those of a free fit on the map of the band are used.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_blended_map
    >>> from hyperphotutils.photometry import ForcedPhotometry
    >>> sim = make_blended_map((100, 100), 10, seed=1)
    >>> phot = ForcedPhotometry()
    >>> table = phot(sim.truth, {'a': sim.image})
    >>> print(len(table), table['flux_fit_a'].unit)
    10 Jy
    """

    _repr_params = ('ellipse', 'reference_beam', 'make_fitter', 'noise',
                    'fwhm_radius_ratio', 'aperture_correction',
                    'catalog_errors', 'progress_bar')

    def __init__(self, *, ellipse: Literal['same', 'matched'] = 'same',
                 reference_beam: Beam | u.Quantity | str | dict | None = None,
                 make_fitter: Callable | None = None,
                 noise: Literal['correlated', 'white'] | NoiseModel
                     | dict = 'correlated', fwhm_radius_ratio: float = 1.0,
                 aperture_correction: bool = True, catalog_errors: bool = True,
                 progress_bar: bool = False) -> None:
        if ellipse not in {'same', 'matched'}:
            msg = f"ellipse must be 'same' or 'matched': {ellipse!r}"
            raise ValueError(msg)
        if ellipse == 'matched' and reference_beam is None:
            msg = ("ellipse='matched' needs reference_beam, the beam with "
                   'which the shapes of the sources were measured')
            raise ValueError(msg)
        if ellipse == 'same' and reference_beam is not None:
            msg = "reference_beam is for ellipse='matched' only"
            raise ValueError(msg)
        for beam in (reference_beam.values()
                     if isinstance(reference_beam, Mapping)
                     else (reference_beam,)):
            if beam is not None and not isinstance(beam, str):
                _beam_axes(beam, 'reference_beam')
        if isinstance(noise, Mapping):
            for name, kind in noise.items():
                check_noise(kind, f'noise[{name!r}]')
        else:
            check_noise(noise)
        if make_fitter is not None and not callable(make_fitter):
            msg = f'make_fitter must be callable: {make_fitter!r}'
            raise TypeError(msg)
        self.ellipse = ellipse
        self.reference_beam = reference_beam
        self.make_fitter = (BlendGroupFitter if make_fitter is None
                            else make_fitter)
        self.noise = noise
        self.fwhm_radius_ratio = check_positive(fwhm_radius_ratio,
                                                'fwhm_radius_ratio')
        self.aperture_correction = bool(aperture_correction)
        self.catalog_errors = bool(catalog_errors)
        self.progress_bar = progress_bar
        self.tables: dict[str, QTable] = {}
        self.fitters: dict[str, BlendGroupFitter] = {}

    def __repr__(self) -> str:
        return make_repr(self)

    def __call__(self, sources: Table, bands: Mapping[str, CCDData], *,
                 error: dict | None = None) -> QTable:
        """
        Measure the sources on the maps.

        Parameters
        ----------
        sources : `~astropy.table.Table`
            The sources, one per row, such as the result of
            `~hyperphotutils.photometry.HyperPhotometry`. The column
            ``sky_centroid`` is required; ``id`` is kept;
            ``fwhm_major_sky``, ``fwhm_minor_sky``, and
            ``position_angle`` (east of north in the frame of
            ``sky_centroid``) give the shapes. Sources without a width
            are point sources and have the beam of each band. Errors of
            positions and shapes are used, too.

        bands : dict of `~astropy.nddata.CCDData`
            The maps by name, as returned by
            `~hyperphotutils.maps.read_map`, or any objects with
            ``data``, ``unit``, ``wcs``, ``meta['beam']``, and optionally
            ``mask`` and ``meta['psf']``, the measured beam, as for
            `~hyperphotutils.blend.BlendGroupFitter`. Any unit of
            `~hyperphotutils.maps.flux_factor` is accepted.

        error : dict, optional
            The standard deviations of the pixels (a number, an array,
            or a `~astropy.units.Quantity`) by band, in the unit of the
            map. The default is the uncertainty of the map or, without
            one, the scatter of the residuals of the fits. With
            ``'correlated'`` noise, only their variation over the map is
            used: their scale is measured.

        Returns
        -------
        table : `~astropy.table.QTable`
            The rows of ``sources``, in their order: ``id``, the given
            positions and shapes, and for each band
            ``flux_fit_<band>``, ``flux_err_<band>``,
            ``aperture_flux_<band>``, ``aperture_flux_err_<band>`` in
            Jy, ``amplitude_fit_<band>`` and ``local_bkg_<band>`` in
            Jy/pixel, and ``flags_<band>``. Sources that are not on the
            map of a band have NaN and the flag ``off_map`` there.

        Raises
        ------
        ValueError
            If a column, a beam, or a unit is missing or wrong.
        """
        catalog = _Catalog(sources)
        # check the maps and convert them to Jy/pixel
        if not isinstance(bands, Mapping):
            msg = ('bands must be a dictionary of maps by name, got '
                   f'{type(bands).__name__}')
            raise TypeError(msg)
        if len(bands) == 0:
            msg = 'bands must hold one map at least'
            raise ValueError(msg)
        error = {} if error is None else error
        if not isinstance(error, Mapping) or set(error) - set(bands):
            msg = ('error must be a dictionary by the names of bands '
                   f'({", ".join(map(str, bands))}): {error!r}')
            raise ValueError(msg)
        bands = {name: _open_band(name, image, error.get(name))
                 for name, image in bands.items()}
        if isinstance(self.noise, Mapping) and set(bands) - set(self.noise):
            msg = ('noise must have an entry for each band '
                   f'({", ".join(bands)}): {self.noise!r}')
            raise ValueError(msg)
        reference = catalog.reference_beams(self.reference_beam, bands)
        table = QTable({'id': catalog.id})
        for name in ('sky_centroid', *_SHAPE):
            if name in sources.colnames:
                table[name] = sources[name]
        table.meta |= result_meta(self)
        table.meta |= {'bands': list(bands), 'rms': {}}
        self.tables, self.fitters = {}, {}
        names = list(bands)
        if self.progress_bar:
            from tqdm.auto import tqdm
            names = tqdm(names, desc='Measure bands')
        for name in names:
            band = bands[name]
            measured = self._measure(name, band, catalog, reference)
            table.meta['rms'][name] = self.tables[name].meta['rms']
            for column in _MEASURED:
                table[f'{column}_{name}'] = measured[column]
        return describe_columns(table)

    def summary(self) -> str:
        """
        Summarize the measurements of the last call.

        Returns
        -------
        text : str
            A line for each band: the number of measured sources, the
            noise, and the flags.

        Raises
        ------
        ValueError
            If no bands have been measured yet.

        Examples
        --------
        >>> from hyperphotutils.datasets import make_blended_map
        >>> from hyperphotutils.photometry import ForcedPhotometry
        >>> sim = make_blended_map((100, 100), 10, seed=1)
        >>> phot = ForcedPhotometry()
        >>> table = phot(sim.truth, {'a': sim.image})
        >>> print(phot.summary().partition(';')[0])
        a: 10 of 10 sources measured
        """
        if not self.tables:
            msg = 'no bands have been measured yet: call the object first'
            raise ValueError(msg)
        lines = []
        for name, table in self.tables.items():
            measured = np.count_nonzero(np.isfinite(table['flux_fit']))
            rms = to_readable_units(table).meta['rms']
            lines.append(
                f'{name}: {measured} of {len(table)} sources measured; rms '
                f'{rms:.4g}; flags: {count_flags(table["flags"])}')
        return '\n'.join(lines)

    @staticmethod
    def decode_flags(flags: ArrayLike) -> list[str] | list[list[str]]:
        """
        Decode the values of a column of flags.

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

    def _measure(self, name, band, catalog, reference):
        """
        Measure all sources on the map of one band.
        """
        init, clipped = self._place(band, catalog, reference)
        init['id'] = catalog.id
        # The footprints of the fits follow from this width: with that of
        # the beam alone they would lie within sources of several beams.
        sizes = np.sqrt(init['fwhm_major_init'] * init['fwhm_minor_init'])
        sizes = sizes[band.is_on_map(init['x_init'], init['y_init'])]
        fwhm = float(np.median(sizes)) if len(sizes) else 1.0
        if band.beam is not None:
            fwhm = max(band.beam_fwhm, fwhm / _COMPACT)
        image = band.image
        psf = {} if image.profile is None else {'psf': image.profile}
        fitter = self.make_fitter(fwhm, fixed=('position', 'shape'), **psf)
        self.fitters[name] = fitter

        def fit():
            weights = {'noise': image.noise}
            call = fitter
            if (image.profile is not None and image.noise.is_correlated
                    and isinstance(fitter, BlendGroupFitter)):
                # Fixed positions and shapes are not exact. Noise that a beam
                # has smoothed entirely would amplify any difference.
                weights['extra_variance'] = (_MODEL_ERROR * image.model)**2
                call = fitter._fit_image  # noqa: SLF001
            table = call(image.values << _PIXEL_UNIT, mask=image.mask,
                         init_params=init, **weights)
            image.model = fitter.make_model_image().value
            return table

        # The covariance is that of the residual: ordinary least squares with
        # a local background first, which needs none.
        table = fit()
        image.measure_pixel_noise(fitter.fwhm)
        noise = (self.noise[name] if isinstance(self.noise, Mapping)
                 else self.noise)
        if not isinstance(noise, str):
            image.noise = band.convert_noise(noise)
            table = fit()
        elif noise == 'correlated' and np.any(table['n_pixels_fit'] > 0):
            image.noise = image.measure_covariance(
                table, fitter.fwhm, relative_rms=image.relative_error(),
                varying_structure=False)
            table = fit()
        table['flags'][clipped] |= FLAGS['near_bound']
        apertures = self._add_apertures(table, band, fitter)
        table.meta['rms'] = image.pixel_noise.rms << _PIXEL_UNIT
        self.tables[name] = table
        if self.catalog_errors and catalog.errors is not None:
            table = self._add_catalog_errors(table, band, fitter, apertures,
                                             catalog, init, clipped)
        return table

    def _add_catalog_errors(self, table, band, fitter, apertures, catalog,
                            init, clipped):
        """
        Return a copy of a table, with the errors of the catalog
        included in the errors of the fluxes.
        """
        major, minor, angle = catalog.shape
        turn = position_angle_in_frame(
            catalog.sky, np.zeros(len(angle)),
            wcs_to_celestial_frame(band.wcs)).to_value(u.deg)
        deviations = pixel_deviations(
            band.wcs, init, (major, minor, angle + turn), catalog.errors,
            turn)
        # The shape of a clipped ellipse is that of the beam, which is known.
        deviations[clipped, 2:] = 0.0
        table = table.copy()
        variances = propagated_variances(
            fitter.held_responses, deviations, apertures,
            np.isfinite(table['aperture_flux'].value),
            # 1 - exp(-r^2 / (2 sigma^2)), with r in units of the FWHM
            fraction=1.0 - 0.5**(4.0 * self.fwhm_radius_ratio**2),
            correction=np.asarray(table['aperture_correction']),
            beam=getattr(fitter, 'beam', None))
        for name, variance in zip(('flux_err', 'aperture_flux_err'),
                                  variances, strict=True):
            # Errors of the catalog and of the map are taken as independent.
            error = np.sqrt(variance) << table[name].unit
            table[name] = np.hypot(table[name], error)
        return table

    def _place(self, band, catalog, reference):
        """
        Return positions and ellipses in the pixels of a band, and which
        of the ellipses were clipped.
        """
        sky = catalog.sky
        major, minor, angle = catalog.shape
        # North of the catalog and of the map differ, such as in equatorial
        # and Galactic coordinates: by 59 degrees at the Galactic center.
        frame = wcs_to_celestial_frame(band.wcs)
        angle = position_angle_in_frame(sky, angle, frame).to_value(u.deg)
        clipped = np.zeros(len(sky), dtype=bool)
        if self.ellipse == 'matched':
            (*widths, beam_angle), origin = reference
            place = sky if origin is None else sky.transform_to(origin)
            beam_angle = position_angle_in_frame(place, beam_angle, frame)
            major, minor, angle, clipped = _match_ellipses(
                (major, minor, angle), (*widths, beam_angle.to_value(u.deg)),
                band.need_beam())
        # what a point source looks like in this band
        is_point = ~np.isfinite(major)
        if is_point.any():
            major, minor, angle = (
                np.where(is_point, beam, value) for beam, value in zip(
                    band.need_beam(), (major, minor, angle), strict=True))
        x, y, major, minor, theta = sky_to_pixel_ellipse(
            band.wcs, sky, major * u.arcsec, minor * u.arcsec, angle)
        init = QTable({'x_init': x, 'y_init': y, 'fwhm_major_init': major,
                       'fwhm_minor_init': minor, 'theta_init': theta})
        return init, clipped & ~is_point

    def _add_apertures(self, table, band, fitter):
        """
        Add the aperture photometry, on the map without background and
        neighbors.
        """
        measured, apertures = measure_sources(
            band.image.residual, table, band.image.known_noise,
            mask=band.image.mask, radius=2.0 * fitter.fwhm,
            fwhm_radius_ratio=self.fwhm_radius_ratio,
            correct=self.aperture_correction,
            beam=getattr(fitter, 'beam', None))
        for name in ('aperture_flux', 'aperture_flux_err'):
            table[name] = measured[name] << u.Jy
        table['aperture_correction'] = measured['aperture_correction']
        table['flags'] |= np.where(measured['partial'],
                                   FLAGS['partial_aperture'], 0)
        return apertures


class _Catalog:
    """
    Class for the checked input sources of `ForcedPhotometry`.
    """

    def __init__(self, sources):
        if not isinstance(sources, Table):
            msg = ('sources must be an astropy Table, got '
                   f'{type(sources).__name__}')
            raise TypeError(msg)
        self.table = sources
        names = sources.colnames
        if 'sky_centroid' not in names:
            msg = ('sources needs the column sky_centroid; it has '
                   f'{list_columns(sources)}')
            raise ValueError(msg)
        sky = sources['sky_centroid']
        if not isinstance(sky, SkyCoord):
            msg = ('the column sky_centroid of sources must hold a SkyCoord, '
                   f'got {type(sky).__name__}')
            raise TypeError(msg)
        if getattr(sky, 'masked', False):
            sky = sky.filled(np.nan)
        # without distances, which the frame of a map cannot use
        self.sky = SkyCoord(sky.spherical.lon, sky.spherical.lat,
                            frame=sky.frame.replicate_without_data())
        self.id = np.arange(1, len(sources) + 1)
        if 'id' in names:
            self.id = np.asarray(sources['id'])
            unique, counts = np.unique(self.id, return_counts=True)
            if np.any(counts > 1):
                twice = unique[counts > 1]
                msg = (f'sources has {len(twice)} values of id more than '
                       f'once, the first is {twice[0]!s}')
                raise ValueError(msg)
        self.shape = self._read_shape()
        self.errors = None
        if not set(_ERRORS.values()).isdisjoint(names):
            self.errors = dict.fromkeys(_ERRORS, np.zeros(len(sources)))
            for key, name in _ERRORS.items():
                if name in names:
                    self.errors[key] = np.nan_to_num(self._read_angle(
                        name, u.deg if key == 'angle' else u.arcsec),
                        posinf=0.0, neginf=0.0)

    def reference_beams(self, beams, bands):
        """
        Return the beam of the shapes, or one for each source, and the frame
        of its position angle (`None`: that of the catalog).
        """
        if isinstance(beams, str):
            if beams not in bands:
                msg = (f'reference_beam {beams!r} is not one of the bands: '
                       f'{", ".join(bands)}')
                raise ValueError(msg)
            band = bands[beams]
            return band.need_beam(), wcs_to_celestial_frame(band.wcs)
        if not isinstance(beams, Mapping):
            return (None if beams is None
                    else _beam_axes(beams, 'reference_beam')), None
        if 'reference_band' not in self.table.colnames:
            msg = ('sources needs the column reference_band for a '
                   'dictionary of reference beams')
            raise ValueError(msg)
        names, number = np.unique(np.asarray(self.table['reference_band']),
                                  return_inverse=True)
        missing = [name for name in names.tolist() if name not in beams]
        if missing:
            msg = ('reference_beam has no beam for the reference_band '
                   f'{missing[0]!r}: {", ".join(map(str, beams))}')
            raise ValueError(msg)
        axes = [_beam_axes(beams[name], 'reference_beam')
                for name in names.tolist()]
        return tuple(np.array(axes).reshape(-1, 3)[number].T), None

    def _read_shape(self):
        """
        Return the widths in arcsec and the angle in degrees, all NaN for
        point sources.
        """
        missing = [name for name in _SHAPE if name not in self.table.colnames]
        if len(missing) == len(_SHAPE):
            return tuple(np.full(len(self.table), np.nan) for _ in _SHAPE)
        if missing:
            msg = ('sources must have all or none of the columns '
                   f'{", ".join(_SHAPE)}: {", ".join(missing)} missing')
            raise ValueError(msg)
        major, minor, angle = (
            self._read_angle(name, unit) for name, unit in zip(
                _SHAPE, (u.arcsec, u.arcsec, u.deg), strict=True))
        wrong = (major <= 0.0) | (minor <= 0.0)
        if wrong.any():
            msg = ('the widths in sources must be positive: '
                   f'{major[wrong][0]} x {minor[wrong][0]} arcsec for id '
                   f'{self.id[wrong][0]}')
            raise ValueError(msg)
        is_point = ~np.isfinite(major + minor + angle)
        return tuple(np.where(is_point, np.nan, value)
                     for value in (major, minor, angle))

    def _read_angle(self, name, unit):
        """
        Return a column of angles as plain numbers.
        """
        column = self.table[name]
        given = getattr(column, 'unit', None)
        if given is None or not given.is_equivalent(unit):
            msg = (f'the column {name} of sources must be an angle, its unit '
                   f'is {given or "missing"}')
            raise ValueError(msg)
        if hasattr(column, 'filled'):
            column = column.astype(float).filled(np.nan)
        return np.asarray(u.Quantity(column, given).to_value(unit),
                          dtype=float)


@dataclass
class _Band:
    """
    Class for a map in Jy/pixel, with the FWHMs in arcsec and the position
    angle in degrees of its beam (or `None`), its original unit, and the factor
    that converts from that to Jy/pixel.
    """

    name: str
    image: MeasuredMap
    beam: tuple | None
    unit: u.UnitBase
    factor: float

    @property
    def wcs(self):
        """
        The WCS.
        """
        return self.image.wcs

    @property
    def beam_fwhm(self):
        """
        The geometric mean FWHM of the beam in pixels.
        """
        scale = pixel_scale(self.wcs, self.image.values.shape)
        return float(np.sqrt(self.beam[0] * self.beam[1])
                     / scale.to_value(u.arcsec))

    def need_beam(self):
        """
        Return the beam, or raise an error if it is unknown.
        """
        if self.beam is None:
            msg = (f"band {self.name!r} needs a beam in meta['beam'], for "
                   'matched ellipses and for sources without widths')
            raise ValueError(msg)
        return self.beam

    def convert_noise(self, noise):
        """
        Convert a given noise from the unit of the map to Jy/pixel.
        """
        factor = self.factor
        if isinstance(noise.rms, u.Quantity):
            factor *= noise.rms.unit.to(self.unit)
        return noise.scale(factor, _PIXEL_UNIT)

    def is_on_map(self, x, y):
        """
        Return which positions are on the map.
        """
        ny, nx = self.image.values.shape
        return ((np.abs(x - 0.5 * (nx - 1)) <= 0.5 * nx)
                & (np.abs(y - 0.5 * (ny - 1)) <= 0.5 * ny))


def _beam_axes(beam, name):
    """
    Return the FWHMs of a beam in arcsec and its angle in degrees.
    """
    # a radio_beam.Beam is also a Quantity, its solid angle
    if isinstance(beam, u.Quantity) and not hasattr(beam, 'major'):
        axes = (beam, beam, 0.0 * u.deg)
    else:
        axes = tuple(getattr(beam, key, None)
                     for key in ('major', 'minor', 'pa'))
    if not all(isinstance(axis, u.Quantity) and axis.isscalar
               and axis.unit.is_equivalent(u.deg) for axis in axes):
        # copy.deepcopy, which CCDData.copy calls, loses the axes
        given = ('a Beam that lost its axes in a copy: set it again'
                 if type(beam).__name__ == 'Beam' else repr(beam))
        msg = (f'{name} must be a radio_beam.Beam or the FWHM as a Quantity, '
               f'such as 18 * u.arcsec, got {given}')
        raise TypeError(msg)
    major, minor = (float(axis.to_value(u.arcsec)) for axis in axes[:2])
    if not 0.0 < minor <= major < np.inf:
        msg = f'{name} must have a positive FWHM: {beam!r}'
        raise ValueError(msg)
    return major, minor, float(axes[2].to_value(u.deg))


def _open_band(name, image, error):
    """
    Convert one map to Jy/pixel.
    """
    if not isinstance(name, str) or not name:
        msg = f'the names of bands must be strings: {name!r}'
        raise ValueError(msg)
    wcs = getattr(image, 'wcs', None)
    if not isinstance(wcs, WCS):
        msg = (f'band {name!r} must be a map, not the name of a file: read '
               f'{str(image)!r} by hyperphotutils.maps.read_map'
               if isinstance(image, str | PathLike) else
               f'band {name!r} needs a wcs, a WCS of astropy: {wcs!r}')
        raise TypeError(msg)
    meta = getattr(image, 'meta', None) or {}
    beam = meta.get('beam')
    if beam is not None:
        beam = _beam_axes(beam, f'the beam of band {name!r}')
    data, mask, error = open_nddata(image, None, error)
    if not isinstance(image, NDData):
        data, mask = image.data, getattr(image, 'mask', None)
    unit = getattr(data, 'unit', None) or getattr(image, 'unit', None)
    values, mask = as_masked_image(getattr(data, 'value', data), mask,
                                   name=f'band {name!r}')
    factor = _flux_factor(name, unit, wcs, values.shape, meta, beam)
    if error is not None:
        if isinstance(error, u.Quantity):
            error = error.to_value(unit)
        error = factor * np.asarray(error, dtype=float) << _PIXEL_UNIT
    in_pixels = None
    if beam is not None:
        ny, nx = values.shape
        _, _, major, minor, theta = sky_to_pixel_ellipse(
            wcs, wcs.pixel_to_world(0.5 * (nx - 1), 0.5 * (ny - 1)),
            beam[0] * u.arcsec, beam[1] * u.arcsec, beam[2])
        in_pixels = {'fwhm': float(major[0]), 'fwhm_minor': float(minor[0]),
                     'theta': float(theta[0])}
    psf = meta.get('psf')
    if psf is not None and not isinstance(psf, BeamProfile):
        if in_pixels is None:
            msg = f"band {name!r} needs a beam in meta['beam'] for its psf"
            raise ValueError(msg)
        psf = BeamProfile.from_psf(psf, np.sqrt(
            in_pixels['fwhm'] * in_pixels['fwhm_minor']))
    image = MeasuredMap(factor * values << _PIXEL_UNIT, wcs, mask, error,
                        beam=in_pixels, profile=psf)
    return _Band(name, image, beam, u.Unit(unit), float(np.median(factor)))


def _flux_factor(name, unit, wcs, shape, meta, beam):
    """
    Return the factor from the unit of a map to Jy/pixel, for each pixel if
    it varies.
    """
    if unit is None:
        msg = (f'band {name!r} has no unit, without which there are no '
               'fluxes in Jy: read the map with read_map, or set its unit')
        raise ValueError(msg)
    pixel_area = pixel_scale(wcs, shape)**2
    # A measured solid angle includes wings that the FWHM does not: that of
    # Herschel-SPIRE is larger by more than 10 % (Griffin et al. 2013, MNRAS
    # 434, 992).
    beam_area = None
    if 'beam_area_pix' in meta:
        beam_area = meta['beam_area_pix'] * pixel_area
    elif beam is not None:
        beam_area = gaussian_flux(1.0, *beam[:2]) * u.arcsec**2
    try:
        factor = flux_factor(u.Unit(unit), pixel_area=pixel_area,
                             beam_area=beam_area,
                             frequency=meta.get('frequency'))
    except MapError as error:
        msg = f'band {name!r}: {error}'
        raise MapError(msg) from None
    # Fluxes per pixel do not depend on its area, which varies over a wide map
    # (Calabretta & Greisen 2002, A&A 395, 1077); all other units do.
    areas = PixelAreas(wcs, shape)
    if areas.is_constant or u.Unit(unit).is_equivalent(
            u.Jy / u.pix) or u.Unit(unit).is_equivalent(u.Jy):
        return factor
    return factor * areas.relative(slice(None))


def _match_ellipses(ellipse, reference, beam):
    """
    Deconvolve ellipses from one beam and convolve them with another.

    All are tuples of the two FWHMs and the position angle in degrees.
    Ellipses that have become narrower than half of the second beam get
    its width, and are also returned as a mask.
    """
    # Covariance matrices, on axes to the North and to the East, of Gaussians
    # that are convolved add up (Wild 1970, Aust. J. Phys. 23, 113).
    source, reference, beam = (np.array(gaussian_matrix(*axes))
                               for axes in (ellipse, reference, beam))
    # Widths that noise has made smaller than the reference beam are not
    # increased to it: that would widen the ellipses on average.
    nn, ne, ee = (source.T - reference.T + beam.T).T
    # the eigenvalues of a symmetric 2 x 2 matrix, mean +- spread
    mean, spread = 0.5 * (nn + ee), np.hypot(0.5 * (nn - ee), ne)
    angle = np.arctan2(ne, 0.5 * (nn - ee))
    beam_mean = 0.5 * (beam[0] + beam[2])
    beam_spread = np.hypot(0.5 * (beam[0] - beam[2]), beam[1])
    narrowest = beam_mean - beam_spread
    # variances, of half the width
    clipped = mean - spread < 0.25 * narrowest
    large, small = (np.where(clipped, np.maximum(value, narrowest), value)
                    for value in (mean + spread, mean - spread))
    major, minor = gaussian_sigma_to_fwhm * np.sqrt([large, small])
    return major, minor, wrap_angle(0.5 * np.rad2deg(angle)), clipped
