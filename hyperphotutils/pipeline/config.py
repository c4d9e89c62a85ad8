# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The configuration of a run: its sections and keys, YAML files, and checks.

The models are the only place where a key, its default, its range, and
its description are written: validation, error messages, the commented
template, and the options of the command line are made from them. Each
section builds the class that it configures. Lengths in beam FWHM become
pixels there.

This module is imported by ``hyperphot --help``: whatever needs numpy or
astropy is imported in the functions that use it.
"""

import difflib
import math
import os
import re
import textwrap
import warnings
from types import NoneType
from typing import Annotated, ClassVar, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from hyperphotutils.pipeline.products import (
    COMBINED,
    DIAGNOSTICS,
    list_output_keys,
)
from hyperphotutils.pipeline.text import (
    expand_path,
    printable,
    quote,
    read_text,
)

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
    'config_template',
    'config_to_yaml',
    'override_config',
    'read_config',
]

# Limits of a configuration file, so that reading it takes about a second
# at most.
_MAX_CHARACTERS = 2**19
_MAX_VALUES = 20_000
_MAX_DEPTH = 20
_MAX_INTEGER = 2**63 - 1

_MAX_PROBLEMS = 20
_LINE_WIDTH = 76


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

    def __init__(self, problems):
        lines = list(dict.fromkeys(printable(line) for line in problems))
        n_more = len(lines) - _MAX_PROBLEMS
        # (a copy of an error has one line more)
        if n_more > 1:
            lines[_MAX_PROBLEMS:] = [f'and {n_more} more problems']
        self.problems = tuple(lines)
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
# Maps of more pixels are measured in tiles of this side.
_MAX_WHOLE = 4096**2
_TILE_SIZE = 2048

_Index = Annotated[int, Field(ge=0)]
_Count = Annotated[int, Field(ge=1)]
_Path = Annotated[str, AfterValidator(expand_path)]
_Order = Annotated[int, Field(ge=0, le=4)]
_FitOrder = Annotated[int, Field(ge=-1, le=4)]
_Criterion = Literal['nmse', 'reduced_chi2', 'bic']
_Weights = Literal['inverse_rms', 'snr', 'power_snr', 'spatial', 'map',
                   'mask']


class _Options(BaseModel):
    """
    Base class of the sections: no unknown keys, no silent conversion.
    """

    # Sections that are not used need no validator: it is made when needed.
    model_config = ConfigDict(extra='forbid', strict=True, frozen=True,
                              allow_inf_nan=False, defer_build=True)

    # The key that is set by a plain number in place of a mapping
    number_key: ClassVar[str] = ''

    @model_validator(mode='before')
    @classmethod
    def _expand_number(cls, value):
        if (cls.number_key and isinstance(value, int | float)
                and not isinstance(value, bool)):
            return {cls.number_key: value}
        return value


class EllipseOptions(_Options):
    """
    An ellipse on the sky; a number means a circle.
    """

    number_key: ClassVar[str] = 'major'

    major: _Positive = Field(description='FWHM of the major axis in arcsec')
    minor: _Positive | None = Field(
        None, description='FWHM of the minor axis in arcsec; null = circle')
    position_angle: float = Field(
        0.0, description='position angle in deg, from North through East')

    @model_validator(mode='after')
    def _check_axes(self):
        if self.minor is not None and self.minor > self.major:
            msg = (f'minor must not be larger than major: {self.minor} > '
                   f'{self.major}')
            raise ValueError(msg)
        return self

    def make_beam(self):
        """
        Return the ellipse as a `~radio_beam.Beam`.

        Returns
        -------
        beam : `~radio_beam.Beam`
            The beam.
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

    maps: _List[str] = Field(
        (), description=(
            'FITS files, patterns such as maps/*.fits, and text files '
            '(@name or name.txt) with one of these in a line, relative to '
            'the working folder; maps on the command line replace this list'))
    datacube: bool = Field(
        default=False, description=(
            'true = the files are cubes, and each channel is a map; see the '
            'section cubes'))
    extension: _Index | str | None = Field(
        None, description=(
            'number or name of the HDU; null = the first image whose name '
            'is not that of an error, weight, mask, or background'))
    error_extension: _Index | str | Literal[False] | None = Field(
        None, union_mode='left_to_right',  # 0 is not False
        description=(
            'number or name of the HDU with the errors of the map; null = '
            'recognized by its name, such as ERR, STDDEV, RMS or VAR; false '
            '= none'))
    fill_value: float | _List[float] | Literal[False] | None = Field(
        None, union_mode='left_to_right',
        description=(
            'value or list of values in the file that mean no data; null = '
            'recognized, such as zeros around a field; false = none'))
    unit: str | None = Field(
        None, description=(
            "unit of the pixel values, such as 'Jy/beam', 'MJy/sr', "
            "'Jy/pix' or 'K'; null = BUNIT of the header"))
    beam: EllipseOptions | None = Field(
        None, description=(
            'FWHM of the beam in arcsec; or axes and angle in arcsec and '
            'deg, such as {major: 14.5, minor: 12.0, position_angle: 30}; '
            'null = from the header or the survey'))
    psf: _Path | _NonEmptyList[_Path | None] | None = Field(
        None, union_mode='left_to_right', description=(
            'FITS file of the measured beam: its image, or a PSF of hyperphot '
            'psf or PSFEx; or a list with one for each map, null = '
            'a Gaussian'))
    survey: str | Annotated[int, Field(ge=1, le=8)] | None = Field(
        None, description=(
            "survey that sets the beam, such as 'spire250' or 'jcmt850', or "
            "Hyper's number of it; null = none"))
    frequency: _Positive | None = Field(
        None, description=(
            'frequency in GHz (of cubes: the rest frequency), needed for '
            'maps in K; null = from the header'))

    @model_validator(mode='before')
    @classmethod
    def _make_list(cls, values):
        if isinstance(values, dict) and isinstance(values.get('maps'), str):
            return values | {'maps': (values['maps'],)}
        return values

    @model_validator(mode='after')
    def _check_beam(self):
        if self.beam is not None and self.survey is not None:
            msg = 'beam and survey both set the beam: give only one of them'
            raise ValueError(msg)
        return self

    def make_reader_options(self):
        """
        Return the arguments that `~hyperphotutils.maps.read_map` and
        `~hyperphotutils.maps.read_cube` have in common.

        Returns
        -------
        options : dict
            The keyword arguments.
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

    table: _Path | None = Field(
        None, description=(
            'IPAC, ECSV, FITS, VOTable or CSV file, of any suffix, with RA '
            'and DEC or GLON and GLAT (deg), and optionally ID, FWHM_1, '
            'FWHM_2 (arcsec) and PA (deg); null = none'))
    x: _NonEmptyList[float] | None = Field(
        None, description=(
            'instead of a table, the longitudes in deg; null = none'))
    y: _NonEmptyList[float] | None = Field(
        None, description='the latitudes in deg; null = none')
    frame: str | None = Field(
        None, description=(
            "frame of the coordinates, such as 'icrs', 'fk5', 'fk4' or "
            "'galactic'; null = for lists that of each map, for a table "
            'that of the file'))
    fwhm_major: _Positive | _List[float] | None = Field(
        None, description=(
            'FWHMs along position_angle in arcsec, one for all or one for '
            'each; null = those of the table, or the beam'))
    fwhm_minor: _Positive | _List[float] | None = Field(
        None, description=(
            'FWHMs across position_angle in arcsec, one for all or one for '
            'each'))
    position_angle: float | _List[float] | None = Field(
        None, description='position angles in deg, from North through East')

    @property
    def given(self):
        """
        Whether there are known sources.
        """
        return self.table is not None or self.x is not None

    @model_validator(mode='after')
    def _check_lists(self):
        msg = ''
        n_sources = None if self.x is None else len(self.x)
        shape = {name: value for name, value in self if value is not None
                 and name in {'fwhm_major', 'fwhm_minor', 'position_angle'}}
        if self.table is not None and (self.x, self.y) != (None, None):
            msg = ('table and the lists x, y both set the positions: give '
                   'only one of them')
        elif (self.x is None) != (self.y is None):
            missing = 'x' if self.x is None else 'y'
            msg = f'x and y are needed together: {missing} is missing'
        elif self.x is not None and n_sources != len(self.y):
            msg = ('x and y must have the same length: got '
                   f'{n_sources} and {len(self.y)}')
        elif shape and not self.given:
            msg = (f'{", ".join(shape)}: shapes need positions: give table, '
                   'or x and y')
        elif shape and not {'fwhm_major', 'fwhm_minor'} <= shape.keys():
            msg = 'fwhm_major and fwhm_minor must both be given'
        elif n_sources is not None:
            for name, value in shape.items():
                if isinstance(value, tuple) and len(value) != n_sources:
                    msg = (f'{name} must be one number or one for each of '
                           f'the {n_sources} positions: got {len(value)}')
                    break
        if msg:
            raise ValueError(msg)
        return self

    def read_table(self, wcs=None):
        """
        Read the table, or make one of the lists.

        Parameters
        ----------
        wcs : `~astropy.wcs.WCS` or `None`, optional
            The celestial WCS of the map. Lists without a frame are in
            its frame, by default in ICRS.

        Returns
        -------
        table : `~astropy.table.QTable`
            The sources on the sky.

        Raises
        ------
        OSError, ValueError
            If the table cannot be read, or a position is not on the sky.
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

    max_score: Annotated[float, Field(ge=0, le=1)] = Field(
        description='largest shoulder_score that a source may have')
    ring_factor: _Positive = Field(
        1.5, description='radius of the ring in beam FWHM')
    n_angles: Annotated[int, Field(ge=3)] = Field(
        32, description='number of directions')
    mask_neighbors: bool = Field(
        default=False, description=(
            'true = ignore pixels that are closer to another detection'))


class DetectionOptions(_Options):
    """
    Detection of sources (HighPassStarFinder).
    """

    n_sigma: _Positive = Field(
        5.0, description=(
            'detection threshold in units of the rms of the filtered map'))
    kernel: Literal['gaussian', 'box'] = Field(
        'gaussian', description=(
            "high-pass filter: 'gaussian' = difference of Gaussians, "
            "'box' = as in Hyper"))
    kernel_size: Annotated[_Index, AfterValidator(
        _check_kernel_size)] | None = Field(
        None, description=(
            'side in pixels of the box of the local background, an odd '
            'number from 3; null or 0 = from the beam'))
    rms: _Positive | None = Field(
        None, description=(
            'rms of the filtered map in Jy/pixel; null = measured on the '
            'map'))
    sharpness_range: _Range | None = Field(
        None, description='[lower, upper] of the sharpness; null = no limits')
    roundness_range: _Range | None = Field(
        None, description='[lower, upper] of the roundness; null = no limits')
    min_separation: Annotated[float, Field(ge=0, le=100)] = Field(
        0.6, description=(
            'smallest distance between two sources in beam FWHM'))
    exclude_border: bool = Field(
        default=False, description=(
            'true = drop sources within half the kernel size of the edge'))
    n_brightest: _Count | None = Field(
        None, description=(
            'number of sources to keep, the brightest first; null = all'))
    snap_radius: Annotated[float, Field(ge=0, le=20)] | None = Field(
        None, description=(
            'move each detection to the highest pixel of the map within '
            'this radius in beam FWHM; null or 0 = do not'))
    shoulder_filter: ShoulderOptions | None = Field(
        None, description=(
            'drop detections on the flanks of brighter structures: their '
            'largest score, or all options, such as {max_score: 0.7, '
            'ring_factor: 1.5, n_angles: 32, mask_neighbors: false}; null = '
            'drop none'))

    def make_finder(self, fwhm, *, unit=None):
        """
        Make the finder.

        Parameters
        ----------
        fwhm : float
            The FWHM of the beam in pixels.

        unit : `~astropy.units.UnitBase` or `None`, optional
            The unit of the data, for ``rms``. With `None` (default),
            ``rms`` is ignored and measured on the data.

        Returns
        -------
        finder : `~hyperphotutils.detection.HighPassStarFinder`
            The finder.
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

    max_separation: Annotated[float, Field(gt=0, le=100)] = Field(
        2.0, description=(
            'sources closer than this, in beam FWHM, are in one group; '
            'groups that share a source are joined'))
    max_group_size: _Count = Field(
        25, description='larger groups are split, and flagged')

    def make_grouper(self, fwhm):
        """
        Make the grouper.

        Parameters
        ----------
        fwhm : float
            The FWHM of the beam in pixels.

        Returns
        -------
        grouper : `~hyperphotutils.blend.SeparationGrouper`
            The grouper.
        """
        from hyperphotutils.blend import SeparationGrouper

        return SeparationGrouper(self.max_separation * fwhm)


class FitOptions(_Options):
    """
    The joint fit of Gaussians and background (BlendGroupFitter).
    """

    noise: Literal['correlated', 'white'] = Field(
        'correlated', description=(
            "'correlated' = weight the pixels by their covariance, measured "
            "on the map, 'white' = independent pixels"))
    mask_bad_pixels: bool = Field(
        default=True, description=(
            'true = find glitches, flat tops of saturated sources, and fill '
            'values on the map, ignore these pixels, and flag the sources '
            'next to them; false = fit all pixels'))
    fixed: _List[Literal['position', 'shape']] = Field(
        (), description=(
            'parameters that keep their initial values: [position], [shape] '
            'or [position, shape]'))
    poly_order: _FitOrder | _NonEmptyList[_FitOrder] | None = Field(
        None, description=(
            'order of the background polynomial of a group, or a list of '
            'orders to choose from; -1 = none, for maps without background; '
            'null = 1, or 0 with correlated noise'))
    criterion: _Criterion = Field(
        'bic', description='criterion to choose among several orders')
    fit_radius: Annotated[float, Field(ge=0.5, le=20)] = Field(
        2.0, description=(
            'radius of the fitted pixels around a source in beam FWHM'))
    fwhm_range: _PositiveRange = Field(
        (0.5, 3.0), description=(
            '[lower, upper] limit of the fitted FWHMs in beam FWHM'))
    max_shift: Annotated[float, Field(gt=0, le=20)] = Field(
        1.0, description=(
            'largest shift of a fitted position along x and y in beam FWHM'))
    max_iter: _Count = Field(
        200, description='largest number of iterations of a fit')
    loss: Literal['linear', 'soft_l1', 'huber', 'cauchy'] = Field(
        'linear', description=(
            'loss function of the residuals; all but the first reduce the '
            'weight of outliers'))
    f_scale: _Positive = Field(
        1.0, description=(
            'residual, in units of the errors, beyond which a robust loss '
            'treats a pixel as an outlier'))
    ridge: Annotated[float, Field(ge=0)] = Field(
        0.0, description='L2 penalty on the coefficients of the background')
    weights: _Weights | _List[_Weights] | None = Field(
        None, description=(
            'weights of the residuals of the pixels, one or the product of '
            'a list, in place of the covariance of their noise; null = '
            "none, 'snr' = signal-to-noise ratio, 'power_snr' = its power, "
            "'spatial' = Gaussian of the distance, 'map' = weight_map, "
            "'mask' = 1 where that is positive"))
    weight_power: _Positive = Field(
        2.0, description="power of the weights 'power_snr'")
    weight_map: _Path | None = Field(
        None, description=(
            "FITS file of the weights 'map' or 'mask', an image of the shape "
            'of the map, relative to the working folder'))
    bias_correction: bool = Field(
        default=True, description=(
            'true = subtract the mean bias that noise causes in the fitted '
            'values of faint sources'))
    ftol: _Positive = Field(
        1e-8, description=(
            'a fit has converged if a step would reduce chi2 by less than '
            'this fraction'))
    xtol: _Positive | None = Field(
        None, description=(
            'or if a step is shorter than this fraction of the parameters; '
            'null = not tested'))
    gtol: _Positive | None = Field(
        None, description=(
            'or if no cosine between the residuals and a derivative is '
            'larger than this; null = not tested'))
    tile_size: _Index | None = Field(
        None, description=(
            'side in pixels of the tiles in which a map is measured, at '
            'least 12 FWHM of the beam; 0 = the map as a whole, null = 2048 '
            'for maps of more than 4096 x 4096 pixels'))
    max_rounds: _Index = Field(
        2, description=(
            'largest number of searches for missed sources on the residual '
            'of the fit'))

    @model_validator(mode='after')
    def _check_weights(self):
        names = ((self.weights,) if isinstance(self.weights, str)
                 else self.weights or ())
        needing = [name for name in ('map', 'mask') if name in names]
        msg = ''
        for pair in (('snr', 'power_snr'), ('map', 'mask')):
            if set(pair) <= set(names):
                msg = f'weights cannot be both {pair[0]} and {pair[1]}'
        if needing and self.weight_map is None:
            msg = msg or f'weights: {needing[0]} needs weight_map, a FITS file'
        if self.weight_map is not None and not needing:
            msg = msg or 'weight_map needs weights: map or weights: mask'
        if msg:
            raise ValueError(msg)
        return self

    def make_fitter(self, fwhm, grouping, *, fixed=None, psf=None):
        """
        Make the fitter.

        Parameters
        ----------
        fwhm : float
            The FWHM of the beam in pixels.

        grouping : `GroupingOptions`
            The section ``grouping``.

        fixed : tuple of str or `None`, optional
            The parameters that are not fitted. With `None` (default),
            those of the section.

        psf : `~hyperphotutils.blend.BeamProfile` or `None`, optional
            The measured beam.

        Returns
        -------
        fitter : `~hyperphotutils.blend.BlendGroupFitter`
            The fitter.
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

    box_sizes: _NonEmptyList[Annotated[float, Field(ge=0)]] | None = Field(
        None, description=(
            'sides of the boxes around a source to choose from, in beam '
            'FWHM; 0 = the whole map; null = joint fit'))
    orders: _NonEmptyList[_Order] = Field(
        (0, 1, 2), description='orders of the polynomials to choose from')
    methods: _NonEmptyList[Literal['lsq', 'huber', 'theilsen']] = Field(
        ('lsq',), description='methods to choose from')
    criterion: _Criterion = Field(
        'nmse', description='criterion to choose among them')
    huber_epsilons: _NonEmptyList[Annotated[float, Field(gt=1)]] = Field(
        (1.1, 1.35, 1.7, 2.0), description=(
            "values of epsilon of the method 'huber' to choose from"))

    def make_background(self, fwhm):
        """
        Make the background of a map.

        Parameters
        ----------
        fwhm : float
            The FWHM of the beam in pixels.

        Returns
        -------
        background : \
`~hyperphotutils.background.LocalPolynomialBackground` or `None`
            The background, `None` without ``box_sizes``.
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

    empty_orders: _NonEmptyList[_Order] | None = Field(
        None, description=(
            'orders for channels without sources; null = background.orders'))
    detect_on: Literal['channel', 'moment0'] | _Index = Field(
        'channel', description=(
            "where the sources to mask are detected: 'channel' = in each, "
            "'moment0' or the number of a channel, from 0, = once for all"))
    mask_factor: Annotated[float, Field(gt=0, le=20)] = Field(
        2.0, description=(
            'radius of the masks of sources in units of their FWHM'))
    smoothing: Annotated[float, Field(ge=0)] = Field(
        0.0, description=(
            'smooth the backgrounds along the spectral axis with this '
            'standard deviation in channels; 0 = do not'))
    region: _Path | None = Field(
        None, description=(
            'DS9 file of the regions in which the background is measured, '
            'and NaN outside; null = whole planes'))
    around_sources: bool = Field(
        default=False, description=(
            'true = only the background in boxes around the sources of the '
            'section sources'))
    subtract: bool = Field(
        default=False, description=(
            'true = also write subtracted.fits, the cube without its '
            'background, and measure the sources on it'))


class PhotometryOptions(_Options):
    """
    The aperture photometry of the fitted sources.
    """

    fwhm_radius_ratio: Annotated[float, Field(ge=0.1, le=10)] = Field(
        1.0, description='semiaxes of the aperture in units of the FWHMs')
    fwhm_limits: _PositiveRange | None = Field(
        None, description=(
            '[lower, upper] limit of the FWHMs used for apertures in beam '
            'FWHM; null = none'))
    aperture: Literal['sources'] | EllipseOptions | None = Field(
        None, description=(
            'FWHM in arcsec of all apertures, for any fitted shape, or axes '
            'and angle in arcsec and deg, such as {major: 14.5, minor: 12.0, '
            "position_angle: 30}; 'sources' = those of the known sources; "
            'null = those of each fit'))
    aperture_correction: bool = Field(
        default=True, description=(
            'true = divide by the fraction of the Gaussian inside the '
            'aperture'))

    @model_validator(mode='after')
    def _check_aperture(self):
        if self.fwhm_limits is not None and self.aperture is not None:
            msg = ('fwhm_limits and aperture exclude each other: give only '
                   'one of them')
            raise ValueError(msg)
        return self


class BandsOptions(_Options):
    """
    One catalog of several maps of the same sky.
    """

    merge: bool = Field(
        default=False, description=(
            'true = match the sources of all maps, measure them on the maps '
            'in which they were not detected, and write catalog_bands.ecsv'))
    names: _List[Annotated[str, Field(min_length=1)]] | None = Field(
        None, description=(
            'a name for each map, such as [250um, 350um], the suffix of its '
            'columns; null = the names of the files'))
    max_separation: Annotated[float, Field(gt=0, le=10)] = Field(
        0.5, description=(
            'largest separation of the same source in two maps, in units of '
            'the larger beam'))
    measure: Literal['missing', 'all', 'none'] = Field(
        'missing', description=(
            'sources to measure with the position and the ellipse of the '
            'map with the smallest beam: those missing in a map, all, or '
            'none'))


class FolderOptions(_Options):
    """
    The folder of the products.
    """

    directory: _Path = Field(
        'hyperphot_output', description=(
            'folder of all products, with a folder for each map; relative '
            'to the working folder'))
    overwrite: bool = Field(
        default=False, description=(
            'true = replace the products of an earlier run; false = refuse'))


class _OutputOptions(FolderOptions):
    """
    Keys of the section ``output`` that enable no product.
    """

    flux_unit: Literal['Jy', 'mJy', 'uJy'] = Field(
        'Jy', description='unit of the fluxes in all catalogs')
    peak_unit: Literal['Jy/pix', 'mJy/pix', 'uJy/pix', 'Jy/beam',
                       'mJy/beam', 'uJy/beam'] = Field(
        'Jy/pix', description=(
            'unit of the peaks and backgrounds in all catalogs'))
    region_frame: Literal['sky', 'pixel'] = Field(
        'sky', description='coordinates of the DS9 files')


# The other keys come from the registry of products.
OutputOptions = create_model(
    'OutputOptions', __base__=_OutputOptions, __module__=__name__,
    __doc__='The products.',
    **{key: (bool, Field(default=default, description=description))
       for key, (default, description) in list_output_keys().items()})


class ProcessOptions(_Options):
    """
    Processes and messages.
    """

    n_workers: _Count = Field(
        1, description=(
            'number of files, or channels of a cube, to process at the same '
            'time'))
    scheduler: _Path | None = Field(
        None, description=(
            'address of a dask scheduler, such as tcp://10.0.0.1:8786, or '
            'its scheduler file, whose workers process the files; null = '
            'this machine'))
    quiet: bool = Field(default=False, description='true = print only errors')


class RunOptions(ProcessOptions):
    """
    Processes, steps, and messages.
    """

    detection_only: bool = Field(
        default=False, description=(
            'true = only detect sources: no fit and no photometry'))
    background_only: bool = Field(
        default=False, description=(
            'true = only measure the backgrounds of cubes: no photometry'))


class JobsConfig(_Options):
    """
    Base class of the configurations of runs.

    A subclass has the sections ``output`` and ``run`` at least.
    """

    # The word for one of the jobs
    noun: ClassVar[str] = 'map'

    @property
    def kind(self):
        """
        The kind of the jobs.
        """
        raise NotImplementedError

    @property
    def shared_files(self):
        """
        The files on which all results depend.
        """
        return ()

    @property
    def table_of_all(self):
        """
        The file with a table of all jobs, `None` if there is none.
        """
        return DIAGNOSTICS

    @property
    def merges_bands(self):
        """
        Whether the tables of all jobs are merged into one of bands.
        """
        return False

    @property
    def writes_pages(self):
        """
        Whether each job, and the run, has a report as a web page.
        """
        return False


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

    @model_validator(mode='after')
    def _check_sections(self):
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
        for applies, msg in rules:
            if applies:
                raise ValueError(msg)
        return self

    @property
    def kind(self):
        """
        The kind of the jobs: ``'map'`` or ``'cube'``.
        """
        return 'cube' if self.input.datacube else 'map'

    @property
    def shared_files(self):
        """
        The files on which all results depend.
        """
        return tuple(filter(None, (self.sources.table, self.fit.weight_map,
                                   self.cubes.region)))

    @property
    def table_of_all(self):
        """
        The file with a table of all maps, `None` if there is none.
        """
        return None if self.run.background_only else COMBINED

    @property
    def merges_bands(self):
        """
        Whether the tables of all maps are merged into one of bands.
        """
        return self.bands.merge

    @property
    def writes_pages(self):
        """
        Whether each map, and the run, has a report as a web page.
        """
        return self.output.report

    def make_finder(self, image):
        """
        Make the finder for a map.

        Parameters
        ----------
        image : `~astropy.nddata.CCDData`
            The map, as `~hyperphotutils.maps.read_map` returns it.

        Returns
        -------
        finder : `~hyperphotutils.detection.HighPassStarFinder`
            The finder.
        """
        return self.detection.make_finder(image.meta['beam_fwhm_pix'],
                                          unit=image.unit)

    def find_tile_size(self, shape):
        """
        Return the side of the tiles in which a map is measured.

        Parameters
        ----------
        shape : tuple of ints
            The shape of the map.

        Returns
        -------
        tile_size : int
            The side in pixels; 0 for a map that is measured as a whole.
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

    def make_photometry(self, image, *, progress_bar=False):
        """
        Make the photometry of a map.

        Parameters
        ----------
        image : `~astropy.nddata.CCDData`
            The map, as `~hyperphotutils.maps.read_map` returns it.

        progress_bar : bool, optional
            Whether to show the progress of the fits.

        Returns
        -------
        phot : `~hyperphotutils.photometry.HyperPhotometry`
            The photometry.

        Raises
        ------
        ValueError
            If the configuration does not suit the map.
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
            sky_to_pixel_ellipse,
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
        ny, nx = image.shape
        center = image.wcs.pixel_to_world([(nx - 1) / 2], [(ny - 1) / 2])
        beam = aperture.make_beam()
        *_, major, minor, theta = sky_to_pixel_ellipse(
            image.wcs, center, beam.major.reshape(1), beam.minor.reshape(1),
            beam.pa.reshape(1))
        return float(major[0]), float(minor[0]), float(theta[0])

    def make_forced(self, **kwargs):
        """
        Make the forced photometry of several maps.

        Parameters
        ----------
        **kwargs
            More arguments of
            `~hyperphotutils.photometry.ForcedPhotometry`, such as
            ``ellipse`` and ``reference_beam``.

        Returns
        -------
        phot : `~hyperphotutils.photometry.ForcedPhotometry`
            The photometry.
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

    def make_cube_background(self, cube):
        """
        Make the background estimator of a cube.

        Parameters
        ----------
        cube : `~hyperphotutils.maps.MapCube`
            The cube.

        Returns
        -------
        bkg : `~hyperphotutils.background.CubeBackground`
            The estimator.

        Raises
        ------
        ~hyperphotutils.maps.MapError
            If the configuration does not suit the cube.
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


def read_config(path):
    """
    Read a YAML configuration file.

    Parameters
    ----------
    path : str or path-like
        The file. Missing sections and keys have their defaults.

    Returns
    -------
    config : `PipelineConfig`
        The configuration.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not YAML, or has an unknown key or
        a value of the wrong type or range. The message names file, line,
        key, value, and the allowed values.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from hyperphotutils.pipeline import read_config
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, 'hyperphot.yaml')
    ...     _ = path.write_text('detection: {n_sigma: 5}')
    ...     config = read_config(path)
    >>> config.detection.n_sigma
    5.0
    """
    return make_config(*read_yaml(path), path)


def make_config(values, lines, path):
    """
    Make a configuration of the result of `read_yaml`.

    ``path`` is the name of the file in messages.
    """
    # a section all of whose keys are commented out
    values = {key: value for key, value in values.items()
              if value is not None or key not in PipelineConfig.model_fields}

    def locate(loc):
        # the line of the innermost part of the key that is in the file
        for end in range(len(loc), 0, -1):
            if loc[:end] in lines:
                return f'{path}: line {lines[loc[:end]]}'
        return str(path)

    return _validate(values, locate, PipelineConfig)


def override_config(config, values, *, names=None):
    """
    Return a copy of a configuration with some values replaced.

    Parameters
    ----------
    config : `PipelineConfig` or another `JobsConfig`
        The configuration.

    values : dict
        The new values by key, such as ``{'detection.n_sigma': 5}``.

    names : dict, optional
        The origins of values in error messages, by key, such as
        ``{'detection.n_sigma': '--n-sigma'}``.

    Returns
    -------
    config : object
        The new configuration, of the same class.

    Raises
    ------
    ConfigError
        If a key is unknown, or a value has the wrong type or range.

    Examples
    --------
    >>> from hyperphotutils.pipeline import PipelineConfig, override_config
    >>> config = override_config(PipelineConfig(), {'run.n_workers': 4})
    >>> config.run.n_workers
    4
    """
    names = names or {}
    tree = config.model_dump()
    for key, value in values.items():
        *sections, last = key.split('.')
        branch = tree
        for section in sections:
            if not isinstance(branch.get(section), dict):
                branch[section] = {}
            branch = branch[section]
        branch[last] = value

    def locate(loc):
        for end in range(len(loc), 0, -1):
            key = '.'.join(map(str, loc[:end]))
            if key in names:
                return names[key]
        return 'configuration'

    return _validate(tree, locate, type(config))


def config_template():
    """
    Return a commented YAML file of all keys and defaults.

    Returns
    -------
    text : str
        The text of the file.

    Examples
    --------
    >>> from hyperphotutils.pipeline import config_template
    >>> 'n_sigma' in config_template()
    True
    """
    return config_to_yaml(PipelineConfig())


def config_to_yaml(config, *, comments=True, origins=None):
    """
    Convert a configuration to YAML.

    Parameters
    ----------
    config : `PipelineConfig`
        The configuration.

    comments : bool, optional
        Whether to add the description of each key.

    origins : dict, optional
        Comments on the origins of values, by key, such as
        ``{'detection.n_sigma': 'line 3'}``.

    Returns
    -------
    text : str
        The text, from which `read_config` makes an equal configuration.

    Examples
    --------
    >>> from hyperphotutils.pipeline import PipelineConfig, config_to_yaml
    >>> text = config_to_yaml(PipelineConfig(), comments=False)
    >>> print(text[text.index('run:'):])
    run:
      n_workers: 1
      scheduler: null
      quiet: false
      detection_only: false
      background_only: false
    """
    def comment(text, indent):
        return textwrap.wrap(
            ' '.join(text.split()), _LINE_WIDTH, break_on_hyphens=False,
            initial_indent=f'{indent}# ', subsequent_indent=f'{indent}#   ')

    lines = []
    if comments:
        what = ('their defaults' if config == PipelineConfig()
                else 'those of this run')
        lines += ['# Configuration of hyperphot. All keys are optional; the',
                  f'# values below are {what}.']
    for name, section in config:
        if comments:
            lines += ['', *comment(type(section).__doc__, '')]
        lines.append(f'{name}:')
        for key, value in section.model_dump().items():
            field = type(section).model_fields[key]
            if comments:
                allowed = _describe_allowed(field.annotation, field.metadata)
                lines += comment(f'{field.description} ({allowed})', '  ')
            value = list(value) if isinstance(value, tuple) else value
            text = yaml.safe_dump(value, default_flow_style=True,
                                  width=2**20, sort_keys=False)
            line = f'  {key}: ' + text.removesuffix('...\n').strip()
            origin = (origins or {}).get(f'{name}.{key}')
            lines.append(f'{line}  # {origin}' if origin else line)
    return '\n'.join(lines) + '\n'


def check_config(config, origins=None):
    """
    Check that the unit, the survey, and the files of a configuration can
    be used, before any map is read.

    ``origins`` are the origins of values in messages, by key.
    """
    checks = {
        'input.unit': _check_unit,
        'input.survey': _check_survey,
        'sources.table': lambda _: config.sources.read_table(),
        'sources.x': lambda _: config.sources.read_table(),
        'fit.weight_map': _check_weight_map,
        'cubes.region': _check_region,
    }
    problems = []
    for key, check in checks.items():
        section, name = key.split('.')
        value = getattr(getattr(config, section), name)
        if value is None:
            continue
        try:
            check(config)
        except (OSError, ValueError) as exc:
            reason = ' '.join(str(exc).split())
            if isinstance(exc, OSError) and exc.strerror:
                reason = f'{exc.filename or value}: {exc.strerror}'
            parts = ((origins or {}).get(key), key, reason)
            problems.append(': '.join(filter(None, parts)))
    if problems:
        raise ConfigError(problems)


def _check_unit(config):
    import astropy.units as u

    from hyperphotutils.maps import flux_factor, parse_unit

    unit = parse_unit(config.input.unit)
    if not config.run.background_only:
        area = 1.0 * u.arcsec**2
        flux_factor(unit, pixel_area=area, beam_area=area,
                    frequency=1.0 * u.GHz)


def _check_survey(config):
    from hyperphotutils.maps import get_survey

    get_survey(config.input.survey)


def _check_weight_map(config):
    from hyperphotutils.maps import MapError
    from hyperphotutils.maps.images import find_image

    path = config.fit.weight_map
    try:
        with warnings.catch_warnings():
            # they are listed in the log of a map
            warnings.simplefilter('ignore')
            with find_image(path):
                pass
    except MapError as exc:
        msg = f'{path}: {exc}'
        raise MapError(msg) from None


def _check_region(config):
    from hyperphotutils.catalog import read_regions

    read_regions(config.cubes.region)


def find_unused_keys(config):
    """
    Describe the keys that differ from their defaults but have no effect,
    in a line for each reason.
    """
    fit, is_cube = config.fit, config.input.datacube
    boxes = config.background.box_sizes is not None
    several = isinstance(fit.poly_order, tuple) and len(fit.poly_order) > 1
    rules = (
        (is_cube, 'output', list_output_keys(without='cube'),
         'for maps, not for cubes'),
        (not is_cube, 'cubes', None, 'for input.datacube: true'),
        (not is_cube and not boxes, 'background', None, 'for '
         'background.box_sizes; the background is a part of the fit, see '
         'fit.poly_order'),
        (boxes, 'fit', ['poly_order', 'criterion'], 'for a background that '
         'is a part of the fit, not for background.box_sizes'),
        (not several and not boxes, 'fit', ['criterion'], 'for a list of '
         'orders in fit.poly_order'),
        ('power_snr' not in (fit.weights or ()), 'fit', ['weight_power'],
         'for fit.weights: power_snr'),
        (fit.loss == 'linear', 'fit', ['f_scale'], 'for a robust fit.loss'),
        (config.run.detection_only, 'input', ['psf'], 'for fits, not for '
         'run.detection_only'),
        (not config.bands.merge, 'bands', None, 'for bands.merge: true'),
    )
    lines = []
    for applies, section, names, reason in rules:
        options = getattr(config, section)
        fields = type(options).model_fields
        changed = [f'{section}.{name}' for name in names or fields
                   if getattr(options, name) != fields[name].default]
        if applies and changed:
            verb = 'has' if len(changed) == 1 else 'have'
            pronoun = 'it is' if len(changed) == 1 else 'they are'
            lines.append(f'{", ".join(changed)} {verb} no effect: {pronoun} '
                         f'{reason}')
    return lines


def _validate(values, locate, model):
    """
    Make a configuration, a ``model``, of nested dictionaries.

    ``locate`` returns the origin of a key, a tuple, for messages.
    """
    try:
        return model.model_validate(values)
    except ValidationError as exc:
        errors = exc.errors(include_url=False)

    def precision(error):
        return error['type'] == 'value_error', len(error['loc'])

    # A value that may have one of several types has an error for each of
    # them: keep the innermost, and those of keys rather than that of
    # their mapping.
    chosen = {}
    for error in errors:
        loc = error['loc']
        keys = _find_field(model, loc)[0]
        if error['type'] in {'extra_forbidden', 'invalid_key'}:
            keys = (*_find_field(model, loc[:-1])[0], loc[-1])
        if keys not in chosen or precision(error) > precision(chosen[keys]):
            chosen[keys] = error
    parents = {keys[:end] for keys in chosen for end in range(len(keys))}
    raise ConfigError(_describe_problem(model, keys, error, locate)
                      for keys, error in chosen.items()
                      if keys not in parents)


def _find_field(model, loc):
    """
    Return the keys in a location of pydantic, which also has the types of
    unions and the indices of lists, and the type and limits of the value.
    """
    keys, annotation, metadata = [], model, ()
    for part in loc:
        field = _find_model(annotation).model_fields.get(part)
        if field is not None:
            annotation, metadata = field.annotation, field.metadata
            keys.append(part)
    return tuple(keys), annotation, metadata


def _find_model(annotation):
    """
    Return the model in a type, an empty one if there is none.
    """
    return next((part for part in (annotation, *get_args(annotation))
                 if isinstance(part, type) and issubclass(part, BaseModel)),
                BaseModel)


def _describe_problem(model, keys, error, locate):
    kind = error['type']
    if kind == 'extra_forbidden':
        return f'{locate(keys)}: {_describe_unknown_key(model, keys)}'
    if kind == 'invalid_key':
        parent = '.'.join(keys[:-1])
        return (f'{locate(keys[:-1])}: {parent + ": " if parent else ""}the '
                f'key {keys[-1]!r} is not allowed, must be text')
    key = '.'.join(keys)
    prefix = f'{locate(keys)}: {key}' if key else locate(keys)
    if kind == 'value_error':
        return f'{prefix}: {error["ctx"]["error"]}'
    if kind == 'missing' and isinstance(error['loc'][-1], str):
        return f'{prefix}: is required'
    allowed = _describe_allowed(*_find_field(model, keys)[1:])
    return (f'{prefix}: {quote(error["input"])} is not allowed, must be '
            f'{allowed}')


def _describe_unknown_key(model, keys):
    *parents, key = keys
    key = str(key)
    fields = _find_model(_find_field(model, parents)[1]).model_fields
    known = {name: '.'.join((*parents, name)) for name in fields}
    near = difflib.get_close_matches(key, known, n=1)
    if near:
        hint = f"did you mean '{known[near[0]]}'?"
    else:
        elsewhere = {name: f'{section}.{name}' for section, field
                     in model.model_fields.items()
                     for name in field.annotation.model_fields}
        near = difflib.get_close_matches(key, elsewhere, n=1, cutoff=0.8)
        hint = f"did you mean '{elsewhere[near[0]]}'? " if near else ''
        hint += f'known here: {", ".join(known)}'
    path = '.'.join((*parents, key))
    return f"unknown key '{path}'; {hint}"


def _describe_allowed(annotation, metadata=()):
    """
    Describe the values of a type, with limits from its metadata.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        for item in args[1:]:
            metadata = (*getattr(item, 'metadata', (item,)), *metadata)
        return _describe_allowed(args[0], metadata)
    if origin is Literal:
        return ' or '.join('false' if arg is False else repr(arg)
                           for arg in args)
    limits = {name: getattr(item, name) for item in metadata
              for name in ('gt', 'ge', 'lt', 'le', 'min_length')
              if getattr(item, name, None) is not None}
    if origin is tuple:
        size = 'any length'
        if args[-1] is not Ellipsis:
            size = f'{len(args)}'
        elif 'min_length' in limits:
            size = f'{limits["min_length"]} or more'
        return f'a list of {size}, each {_describe_allowed(args[0])}'
    if args:
        return ' or '.join(map(_describe_allowed, args))
    if issubclass(annotation, BaseModel):
        fields = annotation.model_fields
        text = f'the keys {", ".join(fields)}'
        if annotation.number_key:
            field = fields[annotation.number_key]
            number = _describe_allowed(field.annotation, field.metadata)
            text = f'{number} or {text}'
        return text
    text = {NoneType: 'null', bool: 'true or false', int: 'a whole number',
            float: 'a finite number', str: 'a text'}[annotation]
    signs = {'gt': '>', 'ge': '>=', 'lt': '<', 'le': '<='}
    limits = [f'{signs[name]} {limit:g}' for name, limit in limits.items()
              if name in signs]
    return ' '.join(filter(None, (text, ' and '.join(limits))))


def read_yaml(path):
    """
    Return the nested values of a YAML file, and the line of each key (a
    tuple of names).
    """
    try:
        path = expand_path(path)
    except ValueError as exc:
        raise ConfigError([str(exc)]) from exc
    try:
        text = read_text(path)
    except UnicodeDecodeError as exc:
        line = exc.object.count(b'\n', 0, exc.start) + 1
        msg = f'{path}: line {line}: not a text file in UTF-8 ({exc.reason})'
        raise ConfigError([msg]) from exc
    except OSError as exc:
        raise ConfigError([f'{path}: {exc.strerror}']) from exc
    except ValueError as exc:
        msg = f'{path}: not a configuration: {exc}'
        raise ConfigError([msg]) from exc
    if len(text) > _MAX_CHARACTERS:
        msg = (f'{path}: too large for a configuration: {len(text)} '
               f'characters, at most {_MAX_CHARACTERS} are read')
        raise ConfigError([msg])
    return _parse(text, path)


def _parse(text, path):
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as exc:
        line = text.count('\n', 0, exc.position) + 1
        msg = f'{path}: line {line}: a character that YAML does not allow'
        raise ConfigError([msg]) from exc
    try:
        node = loader.get_single_node()
        values = {} if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = mark.line + 1 if mark else 1
        problem = ' '.join(filter(None, (exc.context, exc.problem)))
        raise ConfigError([f'{path}: line {line}: {problem}']) from exc
    except (ValueError, OverflowError) as exc:
        # PyYAML does not check the numbers in escapes and directives.
        msg = (f'{path}: line {loader.line + 1}: a character escape or '
               'directive is out of range')
        raise ConfigError([msg]) from exc
    finally:
        loader.dispose()
    if values is None:
        return {}, {}
    if not isinstance(values, dict):
        msg = f'{path}: must have sections, each with its keys'
        raise ConfigError([msg])
    return values, dict(_find_lines(node, ()))


def _find_lines(node, loc):
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            keys = (*loc, key.value)
            yield keys, key.start_mark.line + 1
            yield from _find_lines(value, keys)


class _Loader(yaml.SafeLoader):
    """
    A YAML loader without tags, and of limited size.

    Numbers are those of YAML 1.2: ``1e-3`` is a number, ``05:35:17`` is
    not. Each alias counts as all of its values, so that a small file
    cannot expand to a huge configuration.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 (an attribute of PyYAML)
    yaml_constructors = {}  # noqa: RUF012

    def __init__(self, text):
        super().__init__(text)
        self.n_values = 0
        self.depth = 0
        # number of values in each completed node
        self.sizes = {}

    def compose_node(self, parent, index):
        event = self.peek_event()
        n_before = self.n_values
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            _refuse('values are nested too deeply', event)
        node = super().compose_node(parent, index)
        if not isinstance(event, yaml.AliasEvent):
            self.n_values += 1
        elif node in self.sizes:
            self.n_values += self.sizes[node]
        else:
            _refuse(f'the alias {event.anchor!r} is part of itself', event)
        if self.n_values > _MAX_VALUES:
            _refuse(f'more than {_MAX_VALUES} values; write long lists of '
                    'maps or sources into files of their own', event)
        self.sizes.setdefault(node, self.n_values - n_before)
        self.depth -= 1
        return node

    def construct_text(self, node):
        text = self.construct_scalar(node)
        try:
            if '\0' in text:
                _refuse('the character NUL is not allowed', node)
            os.fsencode(text)
        except UnicodeEncodeError:
            _refuse(f'{text!r} contains half of a character (a surrogate)',
                    node)
        return text

    def construct_number(self, node):
        text = self.construct_scalar(node)
        kind = node.tag.rpartition(':')[2]
        try:
            if kind == 'float':
                # '.inf' and '.nan' of YAML are 'inf' and 'nan' of Python
                return float(re.sub(r'\.(?=[in])', '', text.lower()))
            number = int(text, 16 if 'x' in text else 10)
        except ValueError:
            if len(text) <= 20:
                _refuse(f'{text!r} is not a number ({kind})', node)
            number = _MAX_INTEGER + 1
        if abs(number) > _MAX_INTEGER:
            _refuse(f'a number with too many digits ({len(text)})', node)
        return number

    def construct_bool(self, node):
        text = self.construct_scalar(node)
        if text.lower() not in self.bool_values:
            _refuse(f'{text!r} is not true or false', node)
        return self.bool_values[text.lower()]

    def construct_list(self, node):
        return self.construct_sequence(node, deep=True)

    def construct_keys(self, node):
        if not isinstance(node, yaml.MappingNode):
            _refuse('must be keys and values', node)
        values = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                _refuse(f'the key {key!r} is not allowed, must be text',
                        key_node)
            if key in values:
                _refuse(f'the key {key!r} is given twice', key_node)
            values[key] = self.construct_object(value_node, deep=True)
        return values

    def construct_unknown(self, node):
        tag = node.tag.replace('tag:yaml.org,2002:', '!!')
        _refuse(f'the tag {tag!r} is not allowed', node)


def _refuse(problem, place):
    """
    Raise a YAML error with the position of a node or event.
    """
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


for _kind, _first, _pattern, _construct in (
        ('bool', 'yYnNtTfFoO', r'(?i:yes|no|true|false|on|off)',
         _Loader.construct_bool),
        ('null', ['~', 'n', 'N', ''], r'~|null|Null|NULL|',
         _Loader.construct_yaml_null),
        ('int', '-+0123456789', r'[-+]?[0-9]+|0x[0-9a-fA-F]+',
         _Loader.construct_number),
        ('float', '-+.0123456789',
         r'[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?'
         r'|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)',
         _Loader.construct_number),
        ('str', '', '', _Loader.construct_text),
        ('seq', '', '', _Loader.construct_list),
        ('map', '', '', _Loader.construct_keys)):
    _tag = f'tag:yaml.org,2002:{_kind}'
    _Loader.add_constructor(_tag, _construct)
    if _first:
        _Loader.add_implicit_resolver(
            _tag, re.compile(f'(?:{_pattern})$'), list(_first))
_Loader.add_constructor(None, _Loader.construct_unknown)
