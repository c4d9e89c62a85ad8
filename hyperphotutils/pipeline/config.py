# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The configuration of a run: its sections and keys.

The models are the only place where a key, its default, its range, and
its description are written: validation, error messages, the commented
template, and the options of the command line are made from them. Each
section builds the class that it configures. Lengths in beam FWHM become
pixels there.

This module is imported by ``hyperphot --help``: whatever needs numpy or
astropy is imported in the functions that use it.
"""

import math
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    create_model,
    model_validator,
)

from hyperphotutils.pipeline.products import (
    COMBINED,
    DIAGNOSTICS,
    list_output_keys,
    list_unused_output_keys,
)
from hyperphotutils.pipeline.text import expand_path, printable

if TYPE_CHECKING:
    from astropy.nddata import CCDData
    from astropy.table import QTable
    from astropy.units import UnitBase
    from astropy.wcs import WCS
    from radio_beam import Beam

    from hyperphotutils.background.cube import CubeBackground
    from hyperphotutils.background.local import LocalPolynomialBackground
    from hyperphotutils.blend.beams import BeamProfile
    from hyperphotutils.blend.fitter import BlendGroupFitter
    from hyperphotutils.blend.grouper import SeparationGrouper
    from hyperphotutils.detection.highpass import HighPassStarFinder
    from hyperphotutils.maps.cubes import MapCube
    from hyperphotutils.photometry.extractor import HyperPhotometry
    from hyperphotutils.photometry.forced import ForcedPhotometry

__all__ = [
    'BackgroundOptions',
    'BandsOptions',
    'ConfigError',
    'CubesOptions',
    'DetectionOptions',
    'EllipseOptions',
    'FitOptions',
    'FolderOptions',
    'GroupingOptions',
    'InputOptions',
    'JobsConfig',
    'OutputOptions',
    'PhotometryOptions',
    'PipelineConfig',
    'ProcessOptions',
    'RunOptions',
    'ShoulderOptions',
    'SourcesOptions',
]

# Problems that a message lists
_MAX_PROBLEMS = 20

# Maps of more pixels are measured in tiles of this side.
_MAX_WHOLE = 4096**2
_TILE_SIZE = 2048


class ConfigError(ValueError):
    """
    An invalid configuration.

    Parameters
    ----------
    problems : iterable of str
        One line for each problem.

    Attributes
    ----------
    problems : tuple of str
        The first of these lines, each once; the message consists of them.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        lines = list(dict.fromkeys(printable(line) for line in problems))
        n_more = len(lines) - _MAX_PROBLEMS
        # (a copy of an error has one line more)
        if n_more > 1:
            lines[_MAX_PROBLEMS:] = [f'and {n_more} more problems']
        self.problems: tuple[str, ...] = tuple(lines)
        super().__init__('\n'.join(self.problems))

    def __reduce__(self):
        return type(self), (list(self.problems),)


def _check_range(limits):
    if limits[0] >= limits[1]:
        msg = (f'{list(limits)} is not allowed, must be [lower, upper] with '
               'lower < upper')
        raise ValueError(msg)
    return limits


def _check_kernel_size(size):
    if size and (size < 3 or size % 2 == 0):
        msg = f'{size} is not allowed, must be odd, and at least 3'
        raise ValueError(msg)
    return size


# YAML has lists, the models have tuples: only this conversion is allowed.
_T = TypeVar('_T')
_List = Annotated[tuple[_T, ...], Field(strict=False)]
_NonEmptyList = Annotated[tuple[_T, ...], Field(strict=False, min_length=1)]
_Positive = Annotated[float, Field(gt=0)]
_Range = Annotated[tuple[float, float], Field(strict=False),
                   AfterValidator(_check_range)]
_PositiveRange = Annotated[tuple[_Positive, _Positive], Field(strict=False),
                           AfterValidator(_check_range)]
_Index = Annotated[int, Field(ge=0)]
_Count = Annotated[int, Field(ge=1)]
_Path = Annotated[str, AfterValidator(expand_path)]
_Order = Annotated[int, Field(ge=0, le=4)]
_FitOrder = Annotated[int, Field(ge=-1, le=4)]
_Criterion = Literal['nmse', 'reduced_chi2', 'bic']
_Weights = Literal['inverse_rms', 'snr', 'power_snr', 'spatial', 'map',
                   'mask']


def _key(description, default=None, **limits):
    return Field(default, description=description, **limits)


class _Options(BaseModel):
    """
    Base class of the sections: no unknown keys, no silent conversion.
    """

    model_config = ConfigDict(extra='forbid', strict=True, frozen=True,
                              allow_inf_nan=False)

    # The key that is set by a plain number in place of a mapping
    number_key: ClassVar[str] = ''

    @model_validator(mode='before')
    @classmethod
    def _expand_number(cls, value):
        if (cls.number_key and isinstance(value, int | float)
                and not isinstance(value, bool)):
            return {cls.number_key: value}
        return value

    @model_validator(mode='after')
    def _check(self):
        if msg := self._find_problem():
            raise ValueError(msg)
        return self

    def _find_problem(self):
        """
        Return what is wrong with values that are valid by themselves, or
        an empty text.
        """
        return ''


class EllipseOptions(_Options):
    """
    An ellipse on the sky; a number means a circle.
    """

    number_key: ClassVar[str] = 'major'

    major: _Positive = _key('FWHM of the major axis in arcsec', ...)
    minor: _Positive | None = _key(
        'FWHM of the minor axis in arcsec; null = circle')
    position_angle: float = _key(
        'position angle in deg, from North through East', 0.0)

    def _find_problem(self):
        if self.minor is None or self.minor <= self.major:
            return ''
        return (f'minor must not be larger than major: {self.minor} > '
                f'{self.major}')

    def make_beam(self) -> 'Beam':
        """
        Return the ellipse as a `~radio_beam.Beam`.
        """
        import astropy.units as u
        from radio_beam import Beam

        minor = self.major if self.minor is None else self.minor
        return Beam(major=self.major * u.arcsec, minor=minor * u.arcsec,
                    pa=self.position_angle * u.deg)


class InputOptions(_Options):
    """
    The maps to read, and values that their headers lack.
    """

    maps: Annotated[_List[str], BeforeValidator(
        lambda maps: (maps,) if isinstance(maps, str) else maps)] = _key(
        'FITS files, patterns such as maps/*.fits, and text files (@name or '
        'name.txt) with one of these in a line, relative to the working '
        'folder; maps on the command line replace this list', ())
    datacube: bool = _key(
        'true = the files are cubes, and each channel is a map; see the '
        'section cubes', default=False)
    extension: _Index | str | None = _key(
        'number or name of the HDU; null = the first image whose name is not '
        'that of an error, weight, mask, or background')
    error_extension: _Index | str | Literal[False] | None = _key(
        'number or name of the HDU with the errors of the map; null = '
        'recognized by its name, such as ERR, STDDEV, RMS or VAR; false = '
        'none', union_mode='left_to_right')  # 0 is not False
    fill_value: float | _List[float] | Literal[False] | None = _key(
        'value or list of values in the file that mean no data; null = '
        'recognized, such as zeros around a field; false = none',
        union_mode='left_to_right')
    unit: str | None = _key(
        "unit of the pixel values, such as 'Jy/beam', 'MJy/sr', 'Jy/pix' or "
        "'K'; null = BUNIT of the header")
    beam: EllipseOptions | None = _key(
        'FWHM of the beam in arcsec; or axes and angle in arcsec and deg, '
        'such as {major: 14.5, minor: 12.0, position_angle: 30}; null = from '
        'the header or the survey')
    psf: _Path | _NonEmptyList[_Path | None] | None = _key(
        'FITS file of the measured beam: its image, or a PSF of hyperphot psf '
        'or PSFEx; or a list with one for each map, null = a Gaussian',
        union_mode='left_to_right')
    survey: str | Annotated[int, Field(ge=1, le=8)] | None = _key(
        "survey that sets the beam, such as 'spire250' or 'jcmt850', or "
        "Hyper's number of it; null = none")
    frequency: _Positive | None = _key(
        'frequency in GHz (of cubes: the rest frequency), needed for maps in '
        'K; null = from the header')

    def _find_problem(self):
        if self.beam is None or self.survey is None:
            return ''
        return 'beam and survey both set the beam: give only one of them'

    def make_reader_options(self) -> dict:
        """
        Return the arguments that `~hyperphotutils.maps.read_map` and
        `~hyperphotutils.maps.read_cube` have in common.
        """
        import astropy.units as u

        return {'ext': self.extension, 'unit': self.unit,
                'survey': self.survey, 'fill_value': self.fill_value,
                'beam': None if self.beam is None else self.beam.make_beam(),
                'frequency': (None if self.frequency is None
                              else self.frequency * u.GHz)}


class SourcesOptions(_Options):
    """
    Known sources, which are measured instead of detected ones.

    They are a table or lists; fit.fixed sets which of their parameters
    are not fitted.
    """

    table: _Path | None = _key(
        'IPAC, ECSV, FITS, VOTable or CSV file, of any suffix, with RA and '
        'DEC or GLON and GLAT (deg), and optionally ID, FWHM_1, FWHM_2 '
        '(arcsec) and PA (deg); null = none')
    x: _NonEmptyList[float] | None = _key(
        'instead of a table, the longitudes in deg; null = none')
    y: _NonEmptyList[float] | None = _key('the latitudes in deg; null = none')
    frame: str | None = _key(
        "frame of the coordinates, such as 'icrs', 'fk5', 'fk4' or "
        "'galactic'; null = for lists that of each map, for a table that of "
        'the file')
    fwhm_major: _Positive | _List[float] | None = _key(
        'FWHMs along position_angle in arcsec, one for all or one for each; '
        'null = those of the table, or the beam')
    fwhm_minor: _Positive | _List[float] | None = _key(
        'FWHMs across position_angle in arcsec, one for all or one for each')
    position_angle: float | _List[float] | None = _key(
        'position angles in deg, from North through East')

    @property
    def given(self) -> bool:
        """
        Whether there are known sources.
        """
        return self.table is not None or self.x is not None

    def _find_problem(self):
        n_sources = None if self.x is None else len(self.x)
        shape = {name: value for name, value in self if value is not None
                 and name in {'fwhm_major', 'fwhm_minor', 'position_angle'}}
        if self.table is not None and (self.x, self.y) != (None, None):
            return ('table and the lists x, y both set the positions: give '
                    'only one of them')
        if (self.x is None) != (self.y is None):
            missing = 'x' if self.x is None else 'y'
            return f'x and y are needed together: {missing} is missing'
        if self.x is not None and n_sources != len(self.y):
            return ('x and y must have the same length: got '
                    f'{n_sources} and {len(self.y)}')
        if shape and not self.given:
            return (f'{", ".join(shape)}: shapes need positions: give table, '
                    'or x and y')
        if shape and not {'fwhm_major', 'fwhm_minor'} <= shape.keys():
            return 'fwhm_major and fwhm_minor must both be given'
        return next(
            (f'{name} must be one number or one for each of the {n_sources} '
             f'positions: got {len(value)}' for name, value in shape.items()
             if n_sources and isinstance(value, tuple)
             and len(value) != n_sources), '')

    def read_table(self, wcs: 'WCS | None' = None) -> 'QTable':
        """
        Read the table of sources, or make one of the lists.

        Lists without a frame are in that of ``wcs``, the celestial WCS of
        the map, by default in ICRS. Raises an `OSError` or `ValueError` if
        the table cannot be read, or a position is not on the sky.
        """
        from astropy.wcs.utils import wcs_to_celestial_frame

        from hyperphotutils.catalog import read_source_list

        values = self.model_dump()
        source = values.pop('table')
        if source is None and values['frame'] is None:
            values['frame'] = ('icrs' if wcs is None
                               else wcs_to_celestial_frame(wcs))
        return read_source_list(source, **values)


class ShoulderOptions(_Options):
    """
    Detections on the flanks of brighter structures, which are dropped.
    """

    number_key: ClassVar[str] = 'max_score'

    max_score: Annotated[float, Field(ge=0, le=1)] = _key(
        'largest shoulder_score that a source may have', ...)
    ring_factor: _Positive = _key('radius of the ring in beam FWHM', 1.5)
    n_angles: Annotated[int, Field(ge=3)] = _key('number of directions', 32)
    mask_neighbors: bool = _key(
        'true = ignore pixels that are closer to another detection',
        default=False)


class DetectionOptions(_Options):
    """
    Detection of sources (HighPassStarFinder).
    """

    n_sigma: _Positive = _key(
        'detection threshold in units of the rms of the filtered map', 5.0)
    kernel: Literal['gaussian', 'box'] = _key(
        "high-pass filter: 'gaussian' = difference of Gaussians, 'box' = as "
        'in Hyper', 'gaussian')
    kernel_size: Annotated[_Index, AfterValidator(
        _check_kernel_size)] | None = _key(
        'side in pixels of the box of the local background, an odd number '
        'from 3; null or 0 = from the beam')
    rms: _Positive | None = _key(
        'rms of the filtered map in Jy/pixel; null = measured on the map')
    sharpness_range: _Range | None = _key(
        '[lower, upper] of the sharpness; null = no limits')
    roundness_range: _Range | None = _key(
        '[lower, upper] of the roundness; null = no limits')
    min_separation: Annotated[float, Field(ge=0, le=100)] = _key(
        'smallest distance between two sources in beam FWHM', 0.6)
    exclude_border: bool = _key(
        'true = drop sources within half the kernel size of the edge',
        default=False)
    n_brightest: _Count | None = _key(
        'number of sources to keep, the brightest first; null = all')
    snap_radius: Annotated[float, Field(ge=0, le=20)] | None = _key(
        'move each detection to the highest pixel of the map within this '
        'radius in beam FWHM; null or 0 = do not')
    shoulder_filter: ShoulderOptions | None = _key(
        'drop detections on the flanks of brighter structures: their largest '
        'score, or all options, such as {max_score: 0.7, ring_factor: 1.5, '
        'n_angles: 32, mask_neighbors: false}; null = drop none')

    def make_finder(self, fwhm: float, *,
                    unit: 'UnitBase | None' = None) -> 'HighPassStarFinder':
        """
        Make the `~hyperphotutils.detection.HighPassStarFinder` for a beam
        of this FWHM in pixels.

        Without the unit of the data, the key ``rms`` is ignored, and the rms
        is measured.
        """
        from hyperphotutils.detection import (
            HighPassStarFinder,
            ShoulderFilter,
        )

        snap, shoulder = self.snap_radius, self.shoulder_filter
        use_rms = self.rms is not None and unit is not None
        return HighPassStarFinder(
            fwhm=fwhm, n_sigma=self.n_sigma, kernel=self.kernel,
            kernel_size=self.kernel_size,
            rms=self.rms * unit if use_rms else None,
            sharpness_range=self.sharpness_range,
            roundness_range=self.roundness_range,
            min_separation=self.min_separation * fwhm,
            exclude_border=self.exclude_border, n_brightest=self.n_brightest,
            snap_radius=None if snap is None else snap * fwhm,
            shoulder_filter=(None if shoulder is None else
                             ShoulderFilter(**shoulder.model_dump())))


class GroupingOptions(_Options):
    """
    Groups of sources that are fitted together (SeparationGrouper).
    """

    max_separation: Annotated[float, Field(gt=0, le=100)] = _key(
        'sources closer than this, in beam FWHM, are in one group; groups '
        'that share a source are joined', 2.0)
    max_group_size: _Count = _key('larger groups are split, and flagged', 25)

    def make_grouper(self, fwhm: float) -> 'SeparationGrouper':
        """
        Make the `~hyperphotutils.blend.SeparationGrouper` for a beam of
        this FWHM in pixels.
        """
        from hyperphotutils.blend import SeparationGrouper

        return SeparationGrouper(self.max_separation * fwhm)


class FitOptions(_Options):
    """
    The joint fit of Gaussians and background (BlendGroupFitter).
    """

    noise: Literal['correlated', 'white'] = _key(
        "'correlated' = weight the pixels by their covariance, measured on "
        "the map, 'white' = independent pixels", 'correlated')
    mask_bad_pixels: bool = _key(
        'true = find glitches, flat tops of saturated sources, and fill '
        'values on the map, ignore these pixels, and flag the sources next to '
        'them; false = fit all pixels', default=True)
    fixed: _List[Literal['position', 'shape']] = _key(
        'parameters that keep their initial values: [position], [shape] or '
        '[position, shape]', ())
    poly_order: _FitOrder | _NonEmptyList[_FitOrder] | None = _key(
        'order of the background polynomial of a group, or a list of orders '
        'to choose from; -1 = none, for maps without background; null = 1, or '
        '0 with correlated noise')
    criterion: _Criterion = _key(
        'criterion to choose among several orders', 'bic')
    fit_radius: Annotated[float, Field(ge=0.5, le=20)] = _key(
        'radius of the fitted pixels around a source in beam FWHM', 2.0)
    fwhm_range: _PositiveRange = _key(
        '[lower, upper] limit of the fitted FWHMs in beam FWHM', (0.5, 3.0))
    max_shift: Annotated[float, Field(gt=0, le=20)] = _key(
        'largest shift of a fitted position along x and y in beam FWHM', 1.0)
    max_iter: _Count = _key('largest number of iterations of a fit', 200)
    loss: Literal['linear', 'soft_l1', 'huber', 'cauchy'] = _key(
        'loss function of the residuals; all but the first reduce the weight '
        'of outliers', 'linear')
    f_scale: _Positive = _key(
        'residual, in units of the errors, beyond which a robust loss treats '
        'a pixel as an outlier', 1.0)
    ridge: Annotated[float, Field(ge=0)] = _key(
        'L2 penalty on the coefficients of the background', 0.0)
    weights: _Weights | _List[_Weights] | None = _key(
        'weights of the residuals of the pixels, one or the product of a '
        "list, in place of the covariance of their noise; null = none, 'snr' "
        "= signal-to-noise ratio, 'power_snr' = its power, 'spatial' = "
        "Gaussian of the distance, 'map' = weight_map, 'mask' = 1 where that "
        'is positive')
    weight_power: _Positive = _key("power of the weights 'power_snr'", 2.0)
    weight_map: _Path | None = _key(
        "FITS file of the weights 'map' or 'mask', an image of the shape of "
        'the map, relative to the working folder')
    bias_correction: bool = _key(
        'true = subtract the mean bias that noise causes in the fitted values '
        'of faint sources', default=True)
    ftol: _Positive = _key(
        'a fit has converged if a step would reduce chi2 by less than this '
        'fraction', 1e-8)
    xtol: _Positive | None = _key(
        'or if a step is shorter than this fraction of the parameters; null = '
        'not tested')
    gtol: _Positive | None = _key(
        'or if no cosine between the residuals and a derivative is larger '
        'than this; null = not tested')
    tile_size: _Index | None = _key(
        'side in pixels of the tiles in which a map is measured, at least 12 '
        'FWHM of the beam; 0 = the map as a whole, null = 2048 for maps of '
        'more than 4096 x 4096 pixels')
    max_rounds: _Index = _key(
        'largest number of searches for missed sources on the residual of the '
        'fit', 2)

    def _find_problem(self):
        names = ((self.weights,) if isinstance(self.weights, str)
                 else self.weights or ())
        needing = [name for name in ('map', 'mask') if name in names]
        for pair in (('map', 'mask'), ('snr', 'power_snr')):
            if set(pair) <= set(names):
                return f'weights cannot be both {pair[0]} and {pair[1]}'
        if needing and self.weight_map is None:
            return f'weights: {needing[0]} needs weight_map, a FITS file'
        if self.weight_map is not None and not needing:
            return 'weight_map needs weights: map or weights: mask'
        return ''

    def make_fitter(self, fwhm: float, grouping: 'GroupingOptions', *,
                    fixed: tuple[str, ...] | None = None,
                    psf: 'BeamProfile | None' = None) -> 'BlendGroupFitter':
        """
        Make the `~hyperphotutils.blend.BlendGroupFitter` for a beam of this
        FWHM in pixels.

        ``grouping`` are the `GroupingOptions`, ``fixed`` replaces the key of
        this name, and ``psf`` is the
        `~hyperphotutils.blend.BeamProfile` of a measured beam.
        """
        from hyperphotutils.blend import BlendGroupFitter, GroupSolver

        solver = GroupSolver(
            criterion=self.criterion, max_group_size=grouping.max_group_size,
            loss=self.loss, f_scale=self.f_scale, ridge=self.ridge,
            weights=self.weights, weight_power=self.weight_power,
            bias_correction=self.bias_correction, ftol=self.ftol,
            xtol=self.xtol, gtol=self.gtol, max_iter=self.max_iter)
        return BlendGroupFitter(
            fwhm, psf=psf, poly_order=self.poly_order,
            fit_radius=self.fit_radius * fwhm,
            grouper=grouping.make_grouper(fwhm),
            fwhm_range=self.fwhm_range, max_shift=self.max_shift * fwhm,
            fixed=self.fixed if fixed is None else fixed, solver=solver)


class BackgroundOptions(_Options):
    """
    A background that is subtracted before the fit.

    It is a LocalPolynomialBackground for maps, if box_sizes is set; by
    default the background is a part of the joint fit, and these keys
    have no effect. For cubes it is a CubeBackground, without box_sizes
    one polynomial for each plane.
    """

    box_sizes: _NonEmptyList[Annotated[float, Field(ge=0)]] | None = _key(
        'sides of the boxes around a source to choose from, in beam FWHM; 0 = '
        'the whole map; null = joint fit')
    orders: _NonEmptyList[_Order] = _key(
        'orders of the polynomials to choose from', (0, 1, 2))
    methods: _NonEmptyList[Literal['lsq', 'huber', 'theilsen']] = _key(
        'methods to choose from', ('lsq',))
    criterion: _Criterion = _key('criterion to choose among them', 'nmse')
    huber_epsilons: _NonEmptyList[Annotated[float, Field(gt=1)]] = _key(
        "values of epsilon of the method 'huber' to choose from",
        (1.1, 1.35, 1.7, 2.0))

    def make_background(self,
                        fwhm: float) -> 'LocalPolynomialBackground | None':
        """
        Make the `~hyperphotutils.background.LocalPolynomialBackground` for
        a beam of this FWHM in pixels; `None` without ``box_sizes``.
        """
        if self.box_sizes is None:
            return None
        from hyperphotutils.background import LocalPolynomialBackground

        return LocalPolynomialBackground(
            [size * fwhm for size in self.box_sizes], orders=self.orders,
            methods=self.methods, criterion=self.criterion,
            huber_epsilons=self.huber_epsilons, fwhm=fwhm)


class CubesOptions(_Options):
    """
    The backgrounds of cubes (CubeBackground).

    Orders, methods, criterion, and boxes are set in the section
    background; the masked sources are detected as set in the section
    detection, or are those of the section sources.
    """

    empty_orders: _NonEmptyList[_Order] | None = _key(
        'orders for channels without sources; null = background.orders')
    detect_on: Literal['channel', 'moment0'] | _Index = _key(
        "where the sources to mask are detected: 'channel' = in each, "
        "'moment0' or the number of a channel, from 0, = once for all",
        'channel')
    mask_factor: Annotated[float, Field(gt=0, le=20)] = _key(
        'radius of the masks of sources in units of their FWHM', 2.0)
    smoothing: Annotated[float, Field(ge=0)] = _key(
        'smooth the backgrounds along the spectral axis with this standard '
        'deviation in channels; 0 = do not', 0.0)
    region: _Path | None = _key(
        'DS9 file of the regions in which the background is measured, and NaN '
        'outside; null = whole planes')
    around_sources: bool = _key(
        'true = only the background in boxes around the sources of the '
        'section sources', default=False)
    subtract: bool = _key(
        'true = also write subtracted.fits, the cube without its background, '
        'and measure the sources on it', default=False)


class PhotometryOptions(_Options):
    """
    The aperture photometry of the fitted sources.
    """

    fwhm_radius_ratio: Annotated[float, Field(ge=0.1, le=10)] = _key(
        'semiaxes of the aperture in units of the FWHMs', 1.0)
    fwhm_limits: _PositiveRange | None = _key(
        '[lower, upper] limit of the FWHMs used for apertures in beam FWHM; '
        'null = none')
    aperture: Literal['sources'] | EllipseOptions | None = _key(
        'FWHM in arcsec of all apertures, for any fitted shape, or axes and '
        'angle in arcsec and deg, such as {major: 14.5, minor: 12.0, '
        "position_angle: 30}; 'sources' = those of the known sources; null = "
        'those of each fit')
    aperture_correction: bool = _key(
        'true = divide by the fraction of the Gaussian inside the aperture',
        default=True)

    def _find_problem(self):
        if self.fwhm_limits is None or self.aperture is None:
            return ''
        return ('fwhm_limits and aperture exclude each other: give only one '
                'of them')


class BandsOptions(_Options):
    """
    One catalog of several maps of the same sky.
    """

    merge: bool = _key(
        'true = match the sources of all maps, measure them on the maps in '
        'which they were not detected, and write catalog_bands.ecsv',
        default=False)
    names: _List[Annotated[str, Field(min_length=1)]] | None = _key(
        'a name for each map, such as [250um, 350um], the suffix of its '
        'columns; null = the names of the files')
    max_separation: Annotated[float, Field(gt=0, le=10)] = _key(
        'largest separation of the same source in two maps, in units of the '
        'larger beam', 0.5)
    measure: Literal['missing', 'all', 'none'] = _key(
        'sources to measure with the position and the ellipse of the map with '
        'the smallest beam: those missing in a map, all, or none', 'missing')


class FolderOptions(_Options):
    """
    The folder of the products.
    """

    directory: _Path = _key(
        'folder of all products, with a folder for each map; relative to the '
        'working folder', 'hyperphot_output')
    overwrite: bool = _key(
        'true = replace the products of an earlier run; false = refuse',
        default=False)


class _OutputOptions(FolderOptions):
    """
    Keys of the section ``output`` that enable no product.
    """

    flux_unit: Literal['Jy', 'mJy', 'uJy'] = _key(
        'unit of the fluxes in all catalogs', 'Jy')
    peak_unit: Literal['Jy/pix', 'mJy/pix', 'uJy/pix', 'Jy/beam',
                       'mJy/beam', 'uJy/beam'] = _key(
        'unit of the peaks and backgrounds in all catalogs', 'Jy/pix')
    region_frame: Literal['sky', 'pixel'] = _key(
        'coordinates of the DS9 files', 'sky')


# The other keys come from the registry of products.
OutputOptions = create_model(
    'OutputOptions', __base__=_OutputOptions, __module__=__name__,
    __doc__='The products.',
    **{key: (bool, _key(description, default))
       for key, (default, description) in list_output_keys().items()})


class ProcessOptions(_Options):
    """
    Processes and messages.
    """

    n_workers: _Count = _key(
        'number of files, or channels of a cube, to process at the same time',
        1)
    scheduler: _Path | None = _key(
        'address of a dask scheduler, such as tcp://10.0.0.1:8786, or its '
        'scheduler file, whose workers process the files; null = this machine')
    quiet: bool = _key('true = print only errors', default=False)


class RunOptions(ProcessOptions):
    """
    Processes, steps, and messages.
    """

    detection_only: bool = _key(
        'true = only detect sources: no fit and no photometry', default=False)
    background_only: bool = _key(
        'true = only measure the backgrounds of cubes: no photometry',
        default=False)


class JobsConfig(_Options):
    """
    Base class of the configurations of runs.

    A subclass has the sections ``output`` and ``run`` at least.
    """

    # The word for a job, and the kind of the jobs
    noun: ClassVar[str] = 'map'
    kind: ClassVar[str] = ''
    # The files on which all results depend
    shared_files: ClassVar[tuple] = ()
    # The file with a table of all jobs, None if there is none
    table_of_all: ClassVar[str | None] = DIAGNOSTICS
    # Whether the tables of all jobs are merged into one of bands
    merges_bands: ClassVar[bool] = False
    # Whether each job, and the run, has a report as a web page
    writes_pages: ClassVar[bool] = False


class PipelineConfig(JobsConfig):
    """
    The configuration of a run.

    Parameters
    ----------
    input, sources, detection, grouping, fit, background, cubes, photometry, \
bands, output, run : dict or options
        The sections. All keys have defaults.

    Raises
    ------
    pydantic.ValidationError
        If there is an unknown key or a value of the wrong type or
        range. `read_config` and `override_config` raise a `ConfigError`
        with clearer messages instead.

    Examples
    --------
    >>> from hyperphotutils.pipeline import PipelineConfig
    >>> config = PipelineConfig(detection={'n_sigma': 5.0})
    >>> config.detection.n_sigma
    5.0
    >>> config.fit.make_fitter(4.0, config.grouping).fit_radius
    8.0
    """

    # (made when needed: the validators of sections take time)
    input: InputOptions = Field(default_factory=InputOptions)
    sources: SourcesOptions = Field(default_factory=SourcesOptions)
    detection: DetectionOptions = Field(default_factory=DetectionOptions)
    grouping: GroupingOptions = Field(default_factory=GroupingOptions)
    fit: FitOptions = Field(default_factory=FitOptions)
    background: BackgroundOptions = Field(default_factory=BackgroundOptions)
    cubes: CubesOptions = Field(default_factory=CubesOptions)
    photometry: PhotometryOptions = Field(default_factory=PhotometryOptions)
    bands: BandsOptions = Field(default_factory=BandsOptions)
    output: OutputOptions = Field(default_factory=OutputOptions)
    run: RunOptions = Field(default_factory=RunOptions)

    def _find_problem(self):
        is_cube, given = self.input.datacube, self.sources.given
        boxes = self.background.box_sizes is not None
        rules = (
            (given and self.run.detection_only,
             'run.detection_only cannot be used with known sources: there is '
             'nothing to detect'),
            (self.bands.merge and self.run.detection_only
             and self.bands.measure != 'none',
             'run.detection_only (--detection-only) excludes the '
             'measurements of bands.merge (--merge): use only one of them, '
             'or set bands.measure: none'),
            (self.photometry.aperture == 'sources' and not given,
             "photometry.aperture: 'sources' needs known sources: set "
             'sources.table, or sources.x and sources.y'),
            (self.run.background_only and not is_cube,
             'run.background_only needs input.datacube: true'),
            (is_cube and self.input.psf is not None,
             'input.psf is for maps: it cannot be used with input.datacube, '
             'as the beam of a cube depends on the channel'),
            (is_cube and self.bands.merge,
             'bands.merge is for maps: it cannot be used with '
             'input.datacube'),
            (self.cubes.smoothing > 0 and boxes,
             'cubes.smoothing is for whole planes: it cannot be used with '
             'background.box_sizes'),
            (self.cubes.around_sources and not (given and boxes),
             'cubes.around_sources needs positions in the section sources, '
             'and background.box_sizes'))
        return next((msg for applies, msg in rules if applies), '')

    @property
    def kind(self) -> str:
        """
        The kind of the jobs: ``'map'`` or ``'cube'``.
        """
        return 'cube' if self.input.datacube else 'map'

    @property
    def shared_files(self) -> tuple[str, ...]:
        """
        The files on which all results depend.
        """
        return tuple(filter(None, (self.sources.table, self.fit.weight_map,
                                   self.cubes.region)))

    @property
    def table_of_all(self) -> str | None:
        """
        The file with a table of all maps, `None` if there is none.
        """
        return None if self.run.background_only else COMBINED

    @property
    def merges_bands(self) -> bool:
        """
        Whether the tables of all maps are merged into one of bands.
        """
        return self.bands.merge

    @property
    def writes_pages(self) -> bool:
        """
        Whether each map, and the run, has a report as a web page.
        """
        return self.output.report

    def make_finder(self, image: 'CCDData') -> 'HighPassStarFinder':
        """
        Make the `~hyperphotutils.detection.HighPassStarFinder` for a map of
        `~hyperphotutils.maps.read_map`.
        """
        return self.detection.make_finder(image.meta['beam_fwhm_pix'],
                                          unit=image.unit)

    def find_tile_size(self, shape: tuple[int, ...]) -> int:
        """
        Return the side in pixels of the tiles in which a map of this shape
        is measured; 0 for a map that is measured as a whole.
        """
        tile_size = self.fit.tile_size
        if self.run.detection_only or tile_size == 0:
            return 0
        if tile_size is not None:
            return tile_size
        # these concern the map as a whole
        is_whole = (self.background.box_sizes is not None
                    or self.detection.n_brightest is not None)
        return _TILE_SIZE * (math.prod(shape) > _MAX_WHOLE and not is_whole)

    def make_photometry(self, image: 'CCDData', *,
                        progress_bar: bool = False) -> 'HyperPhotometry':
        """
        Make the `~hyperphotutils.photometry.HyperPhotometry` for a map of
        `~hyperphotutils.maps.read_map`.

        Raises a `ValueError` if the configuration does not suit the map.
        """
        from hyperphotutils.photometry import HyperPhotometry

        fwhm = image.meta['beam_fwhm_pix']
        fitter = self.fit.make_fitter(fwhm, self.grouping,
                                      psf=image.meta.get('psf'))
        options = self.photometry
        return HyperPhotometry(
            fwhm, finder=self.make_finder(image), grouper=fitter.grouper,
            fitter=fitter, fwhm_radius_ratio=options.fwhm_radius_ratio,
            aperture_correction=options.aperture_correction,
            fwhm_limits=options.fwhm_limits,
            aperture_ellipse=self._make_aperture_ellipse(image),
            background=self.background.make_background(fwhm),
            noise=self.fit.noise, mask_bad_pixels=self.fit.mask_bad_pixels,
            max_rounds=self.fit.max_rounds, progress_bar=progress_bar)

    def _make_aperture_ellipse(self, image):
        """
        Return the ellipse of apertures that do not depend on the fits, in
        pixels and degrees: one at the center of the map, or those of all
        known sources.
        """
        aperture = self.photometry.aperture
        if aperture is None:
            return None
        import astropy.units as u
        import numpy as np

        from hyperphotutils.utils.wcs import (
            sky_to_pixel_ellipse_at,
            sources_to_pixels,
        )

        if aperture == 'sources':
            sources = sources_to_pixels(self.sources.read_table(image.wcs),
                                        image.wcs)
            names = ('fwhm_major_init', 'fwhm_minor_init', 'theta_init')
            if names[0] not in sources.colnames:
                msg = ("photometry.aperture is 'sources', but the sources "
                       'have no FWHMs')
                raise ValueError(msg)
            return tuple(np.asarray(u.Quantity(sources[name]).value)
                         for name in names)
        y, x = (0.5 * (size - 1) for size in image.shape)
        beam = aperture.make_beam()
        return tuple(float(values[0]) for values in sky_to_pixel_ellipse_at(
            image.wcs, x, y, beam.major, beam.minor, beam.pa))

    def make_forced(self, **kwargs: Any) -> 'ForcedPhotometry':
        """
        Make the `~hyperphotutils.photometry.ForcedPhotometry` of several
        maps; the arguments are more of its own, such as ``ellipse``.
        """
        from hyperphotutils.photometry import ForcedPhotometry

        def make_fitter(fwhm, *, fixed, psf=None):
            return self.fit.make_fitter(fwhm, self.grouping, fixed=fixed,
                                        psf=psf)

        return ForcedPhotometry(
            make_fitter=make_fitter, noise=self.fit.noise,
            fwhm_radius_ratio=self.photometry.fwhm_radius_ratio,
            aperture_correction=self.photometry.aperture_correction,
            **kwargs)

    def make_cube_background(self, cube: 'MapCube') -> 'CubeBackground':
        """
        Make the `~hyperphotutils.background.CubeBackground` of a
        `~hyperphotutils.maps.MapCube`.

        Raises a `~hyperphotutils.maps.MapError` if the configuration does
        not suit the cube.
        """
        import numpy as np

        from hyperphotutils.background import CubeBackground
        from hyperphotutils.catalog import CatalogError, read_regions
        from hyperphotutils.maps import MapError

        options, background = self.cubes, self.background
        finder = sources = region = box_sizes = None
        widths = cube.beam_fwhm_pix[np.isfinite(cube.beam_fwhm_pix)]
        if self.sources.given:
            sources = self.sources.read_table(cube.wcs)
        else:
            # The planes are in the unit of the file, not in Jy/pixel as
            # detection.rms.
            finder = self.detection.make_finder(widths[0])
        channel, n_channels = options.detect_on, len(cube)
        if isinstance(channel, int) and channel >= n_channels:
            msg = (f'{cube.name}: cubes.detect_on is channel {channel}, but '
                   f'it has {n_channels} channels, 0 to {n_channels - 1}')
            raise MapError(msg)
        if options.region is not None:
            try:
                region = read_regions(options.region)
            except (OSError, CatalogError) as error:
                msg = (f'{options.region}: cubes.region cannot be read: '
                       f'{error}')
                raise MapError(msg) from None
        if background.box_sizes is not None:
            fwhm = float(np.median(widths))
            box_sizes = [size * fwhm for size in background.box_sizes]
        return CubeBackground(
            orders=background.orders, empty_orders=options.empty_orders,
            methods=background.methods, criterion=background.criterion,
            huber_epsilons=background.huber_epsilons, box_sizes=box_sizes,
            positions=sources if options.around_sources else None,
            region=region, finder=finder, detect_on=channel,
            sources=sources, mask_factor=options.mask_factor,
            smoothing=options.smoothing)


def check_config(config, origins=None):
    """
    Check that the unit, the survey, and the files of a configuration can
    be used, before any map is read.

    ``origins`` are the origins of values in messages, by key.
    """
    import astropy.units as u

    from hyperphotutils.catalog import read_regions
    from hyperphotutils.maps import (
        MapError,
        flux_factor,
        get_survey,
        parse_unit,
    )
    from hyperphotutils.maps.images import find_image

    def check_unit(unit):
        unit = parse_unit(unit)
        if not config.run.background_only:
            area = 1.0 * u.arcsec**2
            flux_factor(unit, pixel_area=area, beam_area=area,
                        frequency=1.0 * u.GHz)

    def check_image(path):
        try:
            with warnings.catch_warnings():
                # they are listed in the log of a map
                warnings.simplefilter('ignore')
                with find_image(path):
                    pass
        except MapError as exc:
            msg = f'{path}: {exc}'
            raise MapError(msg) from None

    checks = {
        'input.unit': check_unit,
        'input.survey': get_survey,
        'sources.table': lambda _: config.sources.read_table(),
        'sources.x': lambda _: config.sources.read_table(),
        'fit.weight_map': check_image,
        'cubes.region': read_regions,
    }
    problems = []
    for key, check in checks.items():
        section, name = key.split('.')
        value = getattr(getattr(config, section), name)
        if value is None:
            continue
        try:
            check(value)
        except (OSError, ValueError) as exc:
            reason = ' '.join(str(exc).split())
            if isinstance(exc, OSError) and exc.strerror:
                reason = f'{exc.filename or value}: {exc.strerror}'
            parts = ((origins or {}).get(key), key, reason)
            problems.append(': '.join(filter(None, parts)))
    if problems:
        raise ConfigError(problems)


def find_unused_keys(config):
    """
    Describe the keys that differ from their defaults but have no effect,
    in a line for each reason.
    """
    lines, described = [], set()
    for applies, keys, reason in _list_unused_keys(config):
        if not applies:
            continue
        changed = [key for key in keys
                   if key not in described and _is_changed(config, key)]
        described.update(changed)
        if changed:
            verb = 'has' if len(changed) == 1 else 'have'
            pronoun = 'it is' if len(changed) == 1 else 'they are'
            lines.append(f'{", ".join(changed)} {verb} no effect: {pronoun} '
                         f'{reason}')
    return lines


def _list_unused_keys(config):
    """
    Return when keys have no effect, which these are, and the reason.

    The modes of a run are first: of several reasons, a key has the first.
    """
    fit, is_cube, run = config.fit, config.input.datacube, config.run
    boxes = config.background.box_sizes is not None
    several = isinstance(fit.poly_order, tuple) and len(fit.poly_order) > 1
    given = config.sources.given

    def keys_of(section, *without):
        names = type(getattr(config, section)).model_fields
        return [f'{section}.{name}' for name in names if name not in without]

    def products(*missing):
        return [f'output.{name}' for name
                in list_unused_output_keys(config.kind, missing)]

    measured = [*keys_of('grouping'), *keys_of('photometry')]
    return (
        (is_cube, products(), 'for maps, not for cubes'),
        (not is_cube, keys_of('cubes'), 'for input.datacube: true'),
        (not config.bands.merge, keys_of('bands'), 'for bands.merge: true'),
        (run.background_only,
         [*keys_of('fit'), *measured, 'detection.rms', 'run.detection_only',
          'output.flux_unit', 'output.peak_unit', 'output.region_frame',
          *products('table', 'rejected')],
         'for sources, not for run.background_only'),
        (run.detection_only,
         ['input.psf', *keys_of('fit', 'mask_bad_pixels'), *measured,
          'output.flux_unit', *products('model', 'background', 'residual')],
         'for fits, not for run.detection_only'),
        (run.detection_only and not is_cube, keys_of('background'),
         'for fits, not for run.detection_only'),
        (given, [*keys_of('detection'), 'fit.max_rounds', 'cubes.detect_on'],
         'for the detection of sources, not for known sources'),
        (is_cube, ['fit.tile_size'], 'for maps, not for cubes'),
        (not is_cube and not boxes, keys_of('background'), 'for '
         'background.box_sizes; the background is a part of the fit, see '
         'fit.poly_order'),
        (not several, ['fit.criterion'], 'for a list of orders in '
         'fit.poly_order'),
        ('huber' not in config.background.methods,
         ['background.huber_epsilons'], 'for background.methods: huber'),
        ('power_snr' not in (fit.weights or ()), ['fit.weight_power'],
         'for fit.weights: power_snr'),
        (fit.loss == 'linear', ['fit.f_scale'], 'for a robust fit.loss'),
    )


def _is_changed(config, key):
    section, name = key.split('.')
    options = getattr(config, section)
    return getattr(options, name) != type(options).model_fields[name].default
