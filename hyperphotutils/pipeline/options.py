# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What a run can be told: the sections of a configuration.

The models below are the only place where a key, its default, its range
and its explanation are written: the checks, the error messages and the
commented template are all made from them.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from hyperphotutils.pipeline.names import expand_path

__all__ = [
    'ApertureOptions',
    'BackgroundOptions',
    'BandsOptions',
    'BeamOptions',
    'CubesOptions',
    'DetectionOptions',
    'FitOptions',
    'GroupingOptions',
    'InputOptions',
    'OutputOptions',
    'PhotometryOptions',
    'PipelineConfig',
    'RunOptions',
    'ShoulderOptions',
    'SourcesOptions',
]


class _Options(BaseModel):
    """
    What all sections share: nothing unknown, no silent conversion.
    """

    model_config = ConfigDict(
        extra='forbid', strict=True, frozen=True, allow_inf_nan=False
    )

    # what may stand for the keys, in words
    short_form: ClassVar[str] = ''


def _check_order(name, limits):
    if limits is not None and limits[0] >= limits[1]:
        msg = f'{name} must be [lower, upper] with lower < upper'
        raise ValueError(msg)


# YAML knows lists, Python tuples: only that conversion is allowed
_Pair = Annotated[tuple[float, float], Field(strict=False)]
_Floats = Annotated[tuple[float, ...], Field(strict=False)]
_Positive = Annotated[float, Field(gt=0)]
# The name of a file or folder
_Path = Annotated[str, AfterValidator(expand_path)]
_Order = Annotated[int, Field(ge=0, le=4)]
# -1 is none at all
_FitOrder = Annotated[int, Field(ge=-1, le=4)]
_Weights = Literal['inverse_rms', 'snr', 'power_snr', 'spatial', 'map',
                   'mask']


class BeamOptions(_Options):
    """
    The beam of the maps, where their headers do not say it.

    A number means a round beam.
    """

    short_form: ClassVar[str] = 'a finite number > 0 or '

    major: _Positive = Field(description='FWHM of the major axis in arcsec')
    minor: _Positive | None = Field(
        default=None,
        description='FWHM of the minor axis in arcsec; null = round beam',
    )
    position_angle: float = Field(
        default=0.0,
        description='position angle in deg, from North through East',
    )

    @model_validator(mode='before')
    @classmethod
    def _number_is_round(cls, value):
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {'major': value}
        return value

    @model_validator(mode='after')
    def _minor_is_smaller(self):
        if self.minor is not None and self.minor > self.major:
            msg = (
                f'minor must not be larger than major: {self.minor} > '
                f'{self.major}'
            )
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


class ApertureOptions(BeamOptions):
    """
    The ellipse of all apertures, whatever is fitted.

    A number means a circle.
    """


class InputOptions(_Options):
    """
    Which maps are read, and what their headers do not say.
    """

    maps: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(),
        description=(
            'FITS files, patterns such as maps/*.fits, and text files '
            '(@name or name.txt) with one of these in a line, relative to '
            'the working folder; what the command line names replaces this '
            'list'
        ),
    )
    datacube: bool = Field(
        default=False,
        description=(
            'true = the files are cubes, each channel of which is a map; see '
            'the section cubes'
        ),
    )
    extension: Annotated[int, Field(ge=0)] | str | None = Field(
        default=None,
        description=(
            'number or name of the HDU; null = the first image that is no '
            'error, weight, mask, or background by its name'
        ),
    )
    error_extension: (
        Annotated[int, Field(ge=0)] | str | Literal[False] | None
    ) = Field(
        default=None,
        union_mode='left_to_right',  # 0 is no False
        description=(
            'number or name of the HDU with the errors of the map; null = '
            'recognized by its name, such as ERR, STDDEV, RMS or VAR; false '
            '= none'
        ),
    )
    fill_value: float | _Floats | Literal[False] | None = Field(
        default=None,
        union_mode='left_to_right',
        description=(
            'value or list of values in the file that stand for no data; '
            'null = recognized, such as zeros around a field; false = none'
        ),
    )
    unit: str | None = Field(
        default=None,
        description=(
            "unit of the pixel values, such as 'Jy/beam', 'MJy/sr', "
            "'Jy/pix' or 'K'; null = BUNIT of the header"
        ),
    )
    beam: BeamOptions | None = Field(
        default=None,
        description=(
            'FWHM of the beam in arcsec, or axes and angle in arcsec and '
            'deg, such as {major: 14.5, minor: 12.0, position_angle: 30}; '
            'null = from the header or the survey'
        ),
    )
    survey: str | Annotated[int, Field(ge=1, le=8)] | None = Field(
        default=None,
        description=(
            "name in the survey table, such as 'spire250' or 'jcmt850', "
            "or Hyper's number, for the beam; null = none"
        ),
    )
    frequency: _Positive | None = Field(
        default=None,
        description=(
            'frequency in GHz (of cubes: the rest frequency), needed for '
            'maps in K; null = from the header'
        ),
    )

    @model_validator(mode='before')
    @classmethod
    def _text_is_a_list(cls, values):
        if isinstance(values, dict) and isinstance(values.get('maps'), str):
            return values | {'maps': (values['maps'],)}
        return values

    @model_validator(mode='after')
    def _beam_is_said_once(self):
        if self.beam is not None and self.survey is not None:
            msg = 'beam and survey both state the beam: give only one of them'
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
    Sources to measure instead of those that are detected.

    They come from a table or from lists; see fit.fixed for what the fit
    may not change of them.
    """

    table: _Path | None = Field(
        default=None,
        description=(
            'IPAC, ECSV, FITS, VOTable or CSV file, of any suffix, with RA '
            'and DEC or GLON and GLAT (deg), and perhaps ID, FWHM_1, FWHM_2 '
            '(arcsec) and PA (deg); null = none'
        ),
    )
    x: _Floats | None = Field(
        default=None,
        description='instead of a table, the longitudes in deg; null = none',
    )
    y: _Floats | None = Field(
        default=None,
        description='the latitudes in deg; null = none',
    )
    frame: str | None = Field(
        default=None,
        description=(
            "frame of the coordinates, such as 'icrs', 'fk5', 'fk4' or "
            "'galactic'; null = that of each map for lists, that which the "
            'file says for tables'
        ),
    )
    fwhm_major: _Positive | _Floats | None = Field(
        default=None,
        description=(
            'FWHMs along position_angle in arcsec, one for all or one for '
            'each; null = those of the table, or the beam'
        ),
    )
    fwhm_minor: _Positive | _Floats | None = Field(
        default=None,
        description='FWHMs across position_angle in arcsec, likewise',
    )
    position_angle: float | _Floats | None = Field(
        default=None,
        description='position angles in deg, from North through East',
    )

    @property
    def given(self):
        """
        Whether there are sources, so that none are detected.
        """
        return self.table is not None or self.x is not None

    @model_validator(mode='after')
    def _positions_are_said_once(self):
        if self.table is not None and (self.x, self.y) != (None, None):
            msg = ('table and the lists x, y both state the positions: give '
                   'only one of them')
            raise ValueError(msg)
        if (self.x is None) != (self.y is None):
            missing = 'x' if self.x is None else 'y'
            msg = f'x and y are needed together: {missing} is missing'
            raise ValueError(msg)
        if self.x is not None and len(self.x) != len(self.y):
            msg = ('x and y must have the same length: got '
                   f'{len(self.x)} and {len(self.y)}')
            raise ValueError(msg)
        if self.x == ():
            msg = 'x and y are empty: give positions, or null for none'
            raise ValueError(msg)
        return self

    @model_validator(mode='after')
    def _shapes_suit_positions(self):
        shape = {name: getattr(self, name) for name in
                 ('fwhm_major', 'fwhm_minor', 'position_angle')
                 if getattr(self, name) is not None}
        if shape and not self.given:
            msg = (f'{", ".join(shape)}: shapes need positions: give table, '
                   'or x and y')
            raise ValueError(msg)
        if shape and not {'fwhm_major', 'fwhm_minor'} <= set(shape):
            msg = 'fwhm_major and fwhm_minor must both be given'
            raise ValueError(msg)
        for name, value in shape.items():
            if (self.x is not None and isinstance(value, tuple)
                    and len(value) != len(self.x)):
                msg = (f'{name} must be one number or one for each of the '
                       f'{len(self.x)} positions: got {len(value)}')
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
    Which detections on the flanks of something brighter are dropped.

    A number is the highest score.
    """

    short_form: ClassVar[str] = 'a finite number >= 0 and <= 1 or '

    max_score: Annotated[float, Field(ge=0, le=1)] = Field(
        description='highest shoulder_score that a source may have',
    )
    ring_factor: _Positive = Field(
        default=1.5,
        description='radius of the ring in beam widths (FWHM)',
    )
    n_angles: Annotated[int, Field(ge=3)] = Field(
        default=32,
        description='number of directions',
    )
    mask_neighbors: bool = Field(
        default=False,
        description='true = ignore what is nearer to another detection',
    )

    @model_validator(mode='before')
    @classmethod
    def _number_is_score(cls, value):
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {'max_score': value}
        return value


class DetectionOptions(_Options):
    """
    How sources are found (HighPassStarFinder).
    """

    n_sigma: _Positive = Field(
        default=5.0,
        description='threshold in units of the rms of the filtered map',
    )
    kernel: Literal['gaussian', 'box'] = Field(
        default='gaussian',
        description=(
            "high-pass filter: 'gaussian' = difference of Gaussians, "
            "'box' = as in Hyper"
        ),
    )
    kernel_size: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description=(
            'side in pixels of the box of the local background, an odd '
            'number from 3; null or 0 = from the beam'
        ),
    )
    rms: _Positive | None = Field(
        default=None,
        description=(
            'rms of the filtered map in Jy/pixel; null = measured on the map'
        ),
    )
    sharpness_range: _Pair | None = Field(
        default=None,
        description='[lower, upper] of the sharpness; null = no limits',
    )
    roundness_range: _Pair | None = Field(
        default=None,
        description='[lower, upper] of the roundness; null = no limits',
    )
    min_separation: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.6,
        description='smallest distance of two sources in beam widths (FWHM)',
    )
    exclude_border: bool = Field(
        default=False,
        description=(
            'true = drop sources within half the kernel size of the edge'
        ),
    )
    n_brightest: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description='keep only so many sources; null = all',
    )
    snap_radius: Annotated[float, Field(ge=0, le=20)] | None = Field(
        default=None,
        description=(
            "move detections to the map's highest pixel within so many beam "
            'widths (FWHM); null or 0 = do not'
        ),
    )
    shoulder_filter: ShoulderOptions | None = Field(
        default=None,
        description=(
            'drop detections on the flanks of something brighter: their '
            'highest score, or such as {max_score: 0.7, ring_factor: 1.5, '
            'n_angles: 32, mask_neighbors: false}; null = drop none'
        ),
    )

    @model_validator(mode='after')
    def _kernel_is_odd(self):
        size = self.kernel_size
        if size and (size < 3 or size % 2 == 0):
            msg = f'kernel_size must be odd, and at least 3: {size}'
            raise ValueError(msg)
        return self

    @model_validator(mode='after')
    def _ranges_are_ordered(self):
        _check_order('sharpness_range', self.sharpness_range)
        _check_order('roundness_range', self.roundness_range)
        return self

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
            self.n_sigma, fwhm, kernel=self.kernel,
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
    Which sources are fitted together.
    """

    max_separation: Annotated[float, Field(gt=0, le=100)] = Field(
        default=2.0,
        description=(
            'sources closer than this many beam widths (FWHM) are one '
            'group, transitively'
        ),
    )
    max_group_size: Annotated[int, Field(ge=1)] = Field(
        default=25,
        description='larger groups are split, and flagged',
    )

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
        default='correlated',
        description=(
            "'correlated' = the covariance of the pixels is measured on the "
            "map and weights the fit, 'white' = independent pixels"
        ),
    )
    mask_bad_pixels: bool = Field(
        default=True,
        description=(
            'true = find glitches, flat tops of saturated sources and fill '
            'values on the map, leave these pixels out, and flag the sources '
            'beside them; false = fit all pixels'
        ),
    )
    fixed: Annotated[
        tuple[Literal['position', 'shape'], ...], Field(strict=False)
    ] = Field(
        default=(),
        description=(
            'what the fit may not change of where it begins: [position], '
            '[shape] or [position, shape]'
        ),
    )
    poly_order: (
        _FitOrder | Annotated[tuple[_FitOrder, ...], Field(strict=False)]
        | None
    ) = Field(
        default=None,
        description=(
            'order of the background polynomial of a group, or a list of '
            'orders, the best of which is taken; -1 = none, where it has '
            'been subtracted; null = 1, and 0 with correlated noise'
        ),
    )
    criterion: Literal['nmse', 'reduced_chi2', 'bic'] = Field(
        default='bic',
        description='what chooses among several orders',
    )
    fit_radius: Annotated[float, Field(ge=0.5, le=20)] = Field(
        default=2.0,
        description=(
            'radius of the fitted pixels around a source in beam widths '
            '(FWHM)'
        ),
    )
    fwhm_range: _Pair = Field(
        default=(0.5, 3.0),
        description='[lower, upper] limit of the fitted FWHMs in beam widths',
    )
    max_shift: Annotated[float, Field(gt=0, le=20)] = Field(
        default=1.0,
        description=(
            'largest shift of a fitted position along x and y in beam widths'
        ),
    )
    max_iter: Annotated[int, Field(ge=1)] = Field(
        default=200,
        description='largest number of iterations of a fit',
    )
    loss: Literal['linear', 'soft_l1', 'huber', 'cauchy'] = Field(
        default='linear',
        description=(
            'how chi2 grows with the residuals; all but the first give less '
            'weight to pixels that deviate'
        ),
    )
    f_scale: _Positive = Field(
        default=1.0,
        description=(
            'residual in units of the errors beyond which a robust loss '
            'grows slower'
        ),
    )
    ridge: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description='L2 penalty on the coefficients of the background',
    )
    weights: (
        _Weights | Annotated[tuple[_Weights, ...], Field(strict=False)] | None
    ) = Field(
        default=None,
        description=(
            'what the residuals of the pixels are multiplied by, one or the '
            'product of a list, in place of the covariance of their noise; '
            "null = nothing, 'snr' = signal-to-noise ratio, 'power_snr' = its "
            "power, 'spatial' = Gaussian of the distance, 'map' = weight_map, "
            "'mask' = 1 where that is positive"
        ),
    )
    weight_power: _Positive = Field(
        default=2.0,
        description="power of the weights 'power_snr'",
    )
    weight_map: _Path | None = Field(
        default=None,
        description=(
            "FITS file of the weights 'map' or 'mask', an image of the shape "
            'of the map, relative to the working folder'
        ),
    )
    bias_correction: bool = Field(
        default=True,
        description=(
            'whether to take off what the noise adds to the fitted values '
            'of faint sources on the average'
        ),
    )
    ftol: _Positive = Field(
        default=1e-8,
        description=(
            'a fit ends when a step promises to lower chi2 by less than '
            'this fraction'
        ),
    )
    xtol: _Positive | None = Field(
        default=None,
        description=(
            'or when a step is shorter than this fraction of the parameters; '
            'null = not looked at'
        ),
    )
    gtol: _Positive | None = Field(
        default=None,
        description=(
            'or when no cosine between the residuals and a derivative is '
            'larger than this; null = not looked at'
        ),
    )
    max_rounds: Annotated[int, Field(ge=0)] = Field(
        default=2,
        description=(
            'largest number of searches for missed companions on the '
            'residual of the fit'
        ),
    )

    @model_validator(mode='after')
    def _range_is_ordered(self):
        _check_order('fwhm_range', self.fwhm_range)
        if self.fwhm_range[0] <= 0:
            msg = f'fwhm_range must be positive: {list(self.fwhm_range)}'
            raise ValueError(msg)
        return self

    @model_validator(mode='after')
    def _some_order_is_tried(self):
        if self.poly_order == ():
            msg = 'poly_order is empty: give one order or several, or null'
            raise ValueError(msg)
        return self

    @model_validator(mode='after')
    def _weights_suit_the_rest(self):
        names = ((self.weights,) if isinstance(self.weights, str)
                 else self.weights or ())
        for pair in (('snr', 'power_snr'), ('map', 'mask')):
            if set(pair) <= set(names):
                msg = f'weights cannot be both {pair[0]} and {pair[1]}'
                raise ValueError(msg)
        needing = [name for name in ('map', 'mask') if name in names]
        if needing and self.weight_map is None:
            msg = f'weights: {needing[0]} needs weight_map, a FITS file'
            raise ValueError(msg)
        if self.weight_map is not None and not needing:
            msg = 'weight_map needs weights: map or weights: mask'
            raise ValueError(msg)
        return self

    def make_fitter(self, fwhm, grouping, *, fixed=None):
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

        Returns
        -------
        fitter : `~hyperphotutils.blend.BlendGroupFitter`
            The fitter.
        """
        from hyperphotutils.blend import BlendGroupFitter

        return BlendGroupFitter(
            fwhm, poly_order=self.poly_order, criterion=self.criterion,
            fit_radius=self.fit_radius * fwhm,
            grouper=grouping.make_grouper(fwhm),
            fwhm_range=self.fwhm_range, max_shift=self.max_shift * fwhm,
            max_group_size=grouping.max_group_size,
            fixed=self.fixed if fixed is None else fixed, loss=self.loss,
            f_scale=self.f_scale, ridge=self.ridge, weights=self.weights,
            weight_power=self.weight_power,
            bias_correction=self.bias_correction, ftol=self.ftol,
            xtol=self.xtol, gtol=self.gtol, max_iter=self.max_iter)


class BackgroundOptions(_Options):
    """
    A background that is estimated apart from the sources.

    For maps (LocalPolynomialBackground), without box_sizes it is a part
    of the joint fit; then the other keys say nothing. For the
    backgrounds of cubes (CubeBackground), without box_sizes it is that
    of the whole plane.
    """

    box_sizes: Annotated[
        tuple[Annotated[float, Field(ge=0)], ...], Field(strict=False)
    ] | None = Field(
        default=None,
        description=(
            'sides of the boxes around a source in beam widths (FWHM), all '
            'of which are tried; 0 = the whole map; null = joint fit'
        ),
    )
    orders: Annotated[
        tuple[_Order, ...], Field(strict=False)
    ] = Field(
        default=(0, 1, 2),
        description='orders of the polynomials that are tried',
    )
    methods: Annotated[
        tuple[Literal['lsq', 'huber', 'theilsen'], ...], Field(strict=False)
    ] = Field(
        default=('lsq',),
        description='methods that are tried',
    )
    criterion: Literal['nmse', 'reduced_chi2', 'bic'] = Field(
        default='nmse',
        description='what chooses among them',
    )
    huber_epsilons: Annotated[
        tuple[Annotated[float, Field(gt=1)], ...], Field(strict=False)
    ] = Field(
        default=(1.1, 1.35, 1.7, 2.0),
        description="values that the method 'huber' tries",
    )

    @model_validator(mode='after')
    def _something_is_tried(self):
        for name in ('box_sizes', 'orders', 'methods', 'huber_epsilons'):
            if getattr(self, name) == ():
                msg = f'{name} is empty: there is nothing to try'
                raise ValueError(msg)
        return self

    def make_background(self, fwhm):
        """
        Make the background that is subtracted before the fit.

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

    Orders, methods, criterion and boxes are those of the section
    background, and the sources to mask are found as in the section
    detection, or are those of the section sources.
    """

    empty_orders: Annotated[
        tuple[_Order, ...], Field(strict=False)
    ] | None = Field(
        default=None,
        description=(
            'orders for channels without sources; null = background.orders'
        ),
    )
    detect_on: Literal['channel', 'moment0'] | Annotated[
        int, Field(ge=0)] = Field(
        default='channel',
        description=(
            "where the sources to mask are found: 'channel' = in each, "
            "'moment0' or the number of a channel, from 0, = once for all"
        ),
    )
    mask_factor: Annotated[float, Field(gt=0, le=20)] = Field(
        default=2.0,
        description='radius of the masks of sources in units of their FWHM',
    )
    smoothing: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description=(
            'standard deviation in channels with which backgrounds are '
            'smoothed along the spectral axis'
        ),
    )
    region: _Path | None = Field(
        default=None,
        description=(
            'DS9 file with regions outside of which the background is NaN; '
            'null = whole planes'
        ),
    )
    around_sources: bool = Field(
        default=False,
        description=(
            'true = only the background in boxes around the sources of the '
            'section sources'
        ),
    )
    subtract: bool = Field(
        default=False,
        description=(
            'true = write subtracted.fits, too, the cube without its '
            'background, and measure the sources on it'
        ),
    )

    @model_validator(mode='after')
    def _some_order_is_tried(self):
        if self.empty_orders == ():
            msg = 'empty_orders is empty: there is nothing to try'
            raise ValueError(msg)
        return self

    def make_background(self, cube, background, detection, sources):
        """
        Make the background estimator of a cube.

        Parameters
        ----------
        cube : `~hyperphotutils.maps.MapCube`
            The cube.

        background : `BackgroundOptions`
            The section ``background``.

        detection : `DetectionOptions`
            The section ``detection``, for the sources to mask.

        sources : `SourcesOptions`
            The section ``sources``. Its sources, if there are any, are
            masked instead of detected ones.

        Returns
        -------
        bkg : `~hyperphotutils.background.CubeBackground`
            The estimator.

        Raises
        ------
        ~hyperphotutils.maps.MapError
            If the channel of ``detect_on`` does not exist, or the regions
            cannot be read.
        """
        import numpy as np

        from hyperphotutils.background import CubeBackground
        from hyperphotutils.catalog import CatalogError, read_regions
        from hyperphotutils.maps import MapError

        finder = positions = region = box_sizes = None
        widths = cube.beam_fwhm_pix[np.isfinite(cube.beam_fwhm_pix)]
        if sources.given:
            positions = sources.read_table(cube.wcs)
        else:
            # The planes are in the unit of the file, for which
            # detection.rms is not meant.
            finder = detection.make_finder(widths[0])
        n_channels = len(cube)
        if isinstance(self.detect_on, int) and self.detect_on >= n_channels:
            msg = (f'{cube.name}: cubes.detect_on is channel '
                   f'{self.detect_on}, but it has {n_channels} channels, 0 '
                   f'to {n_channels - 1}')
            raise MapError(msg)
        if self.region is not None:
            try:
                region = read_regions(self.region)
            except (OSError, CatalogError) as error:
                msg = (f'{self.region}: cubes.region cannot be read: '
                       f'{error}')
                raise MapError(msg) from None
        if background.box_sizes is not None:
            fwhm = float(np.median(widths))
            box_sizes = [size * fwhm for size in background.box_sizes]
        return CubeBackground(
            orders=background.orders, empty_orders=self.empty_orders,
            methods=background.methods, criterion=background.criterion,
            huber_epsilons=background.huber_epsilons, box_sizes=box_sizes,
            positions=positions if self.around_sources else None,
            region=region, finder=finder, detect_on=self.detect_on,
            sources=positions, mask_factor=self.mask_factor,
            smoothing=self.smoothing)


class PhotometryOptions(_Options):
    """
    The aperture photometry of the fitted sources.
    """

    fwhm_radius_ratio: Annotated[float, Field(ge=0.1, le=10)] = Field(
        default=1.0,
        description='semi-axes of the aperture in units of the fitted FWHMs',
    )
    fwhm_limits: _Pair | None = Field(
        default=None,
        description=(
            '[lower, upper] limit of the widths that apertures are made for '
            'in beam widths; null = none'
        ),
    )
    aperture: Literal['sources'] | ApertureOptions | None = Field(
        default=None,
        description=(
            'FWHM in arcsec that apertures are made for whatever is fitted, '
            'or axes and angle in arcsec and deg, such as {major: 14.5, '
            "minor: 12.0, position_angle: 30}; 'sources' = those of the given "
            'sources; null = those of each fit'
        ),
    )
    aperture_correction: bool = Field(
        default=True,
        description=(
            'true = divide by the fraction of the Gaussian inside of the '
            'aperture'
        ),
    )

    @model_validator(mode='after')
    def _limits_are_ordered(self):
        _check_order('fwhm_limits', self.fwhm_limits)
        if self.fwhm_limits is not None and self.aperture is not None:
            msg = ('fwhm_limits and aperture exclude each other: give only '
                   'one of them')
            raise ValueError(msg)
        if self.fwhm_limits is not None and self.fwhm_limits[0] <= 0:
            msg = f'fwhm_limits must be positive: {list(self.fwhm_limits)}'
            raise ValueError(msg)
        return self

    def make_aperture_ellipse(self, image, sources):
        """
        Convert the ellipse of apertures that do not depend on the fits
        to pixels.

        Parameters
        ----------
        image : `~astropy.nddata.CCDData`
            The map.

        sources : `SourcesOptions`
            The section ``sources``, for ``aperture: sources``.

        Returns
        -------
        ellipse : tuple or `None`
            The FWHMs in pixels and the angle in degrees: three numbers
            (those at the center of the map), three arrays for
            ``aperture: sources``, or `None` without ``aperture``.

        Raises
        ------
        ValueError
            If the sources have no FWHMs.
        """
        if self.aperture is None:
            return None
        import astropy.units as u
        import numpy as np

        from hyperphotutils.utils.wcs import (
            sky_to_pixel_ellipse,
            sources_to_pixels,
        )

        if self.aperture == 'sources':
            init = sources_to_pixels(sources.read_table(image.wcs),
                                     image.wcs)
            names = ('fwhm_major_init', 'fwhm_minor_init', 'theta_init')
            if names[0] not in init.colnames:
                msg = ("photometry.aperture is 'sources', but the sources "
                       'have no FWHMs')
                raise ValueError(msg)
            return tuple(np.asarray(u.Quantity(init[name]).value)
                         for name in names)
        ny, nx = image.shape
        center = image.wcs.pixel_to_world([(nx - 1) / 2], [(ny - 1) / 2])
        ellipse = self.aperture.make_beam()
        *_, major, minor, theta = sky_to_pixel_ellipse(
            image.wcs, center, ellipse.major.reshape(1),
            ellipse.minor.reshape(1), ellipse.pa.reshape(1))
        return float(major[0]), float(minor[0]), float(theta[0])


class BandsOptions(_Options):
    """
    One catalog of several maps of the same sky.
    """

    merge: bool = Field(
        default=False,
        description=(
            'match the sources of all maps, measure them on those maps where '
            'they were not found, and write catalog_bands.ecsv'
        ),
    )
    names: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)
    ] | None = Field(
        default=None,
        description=(
            'a name for each map, such as [250um, 350um], with which the '
            'names of its columns end; null = those of the files'
        ),
    )
    max_separation: Annotated[float, Field(gt=0, le=10)] = Field(
        default=0.5,
        description=(
            'sources of two maps within so many beams (of the larger beam) '
            'are the same'
        ),
    )
    measure: Literal['missing', 'all', 'none'] = Field(
        default='missing',
        description=(
            'which sources are measured with the position and the ellipse of '
            'the map with the smallest beam: those missing in a map, all, or '
            'none'
        ),
    )


class OutputOptions(_Options):
    """
    What is written, and where.
    """

    directory: _Path = Field(
        default='hyperphot_output',
        description=(
            'folder of all products, relative to the working folder; every '
            'map gets a folder of its own in it'
        ),
    )
    overwrite: bool = Field(
        default=False,
        description=(
            'true = replace the products of an earlier run, false = refuse'
        ),
    )
    ipac: bool = Field(
        default=True,
        description="write catalog.ipac with Hyper's columns",
    )
    csv: bool = Field(
        default=False,
        description="write catalog.csv with Hyper's columns",
    )
    flux_unit: Literal['Jy', 'mJy', 'uJy'] = Field(
        default='Jy',
        description='unit of the fluxes in all catalogs',
    )
    peak_unit: Literal[
        'Jy/pix', 'mJy/pix', 'uJy/pix', 'Jy/beam', 'mJy/beam', 'uJy/beam'
    ] = Field(
        default='Jy/pix',
        description='unit of the peaks and backgrounds in all catalogs',
    )
    regions: bool = Field(
        default=True,
        description=(
            'write the DS9 files ellipses.reg, centroids.reg and rejected.reg'
        ),
    )
    region_frame: Literal['sky', 'pixel'] = Field(
        default='sky',
        description='coordinates of the DS9 files',
    )
    overview: bool = Field(
        default=True,
        description='write the picture overview.png',
    )
    fits_groups: bool = Field(
        default=False,
        description=(
            'write a FITS file for each group, with cut-outs of the map, of '
            'its fitted pixels, of model, residual and background'
        ),
    )
    fits_sources: bool = Field(
        default=False,
        description=(
            'write a FITS file for each source, without background and '
            'companions'
        ),
    )
    plots_groups: bool = Field(
        default=False,
        description='write a picture of the fit of each group',
    )
    plots_sources: bool = Field(
        default=False,
        description=(
            'write a picture of each source, without background and '
            'companions'
        ),
    )
    plots_backgrounds: bool = Field(
        default=False,
        description='write a picture of the background of each group',
    )


class RunOptions(_Options):
    """
    How the work is done.
    """

    n_workers: Annotated[int, Field(ge=1)] = Field(
        default=1,
        description=(
            'maps, or channels of a cube, that are worked on at the same time'
        ),
    )
    scheduler: _Path | None = Field(
        default=None,
        description=(
            'address of a dask scheduler, such as tcp://10.0.0.1:8786, or '
            'its scheduler file, whose workers do the work; null = work here'
        ),
    )
    detection_only: bool = Field(
        default=False,
        description='true = only find sources: no fit and no photometry',
    )
    background_only: bool = Field(
        default=False,
        description=(
            'true = only estimate the backgrounds of cubes: no photometry'
        ),
    )
    quiet: bool = Field(
        default=False,
        description='true = say nothing but errors',
    )


class PipelineConfig(_Options):
    """
    Everything that a run can be told.

    Parameters
    ----------
    input, sources, detection, grouping, fit, background, cubes, photometry, \
bands, output, run : dict or options
        The sections; each has defaults for everything.

    Raises
    ------
    pydantic.ValidationError
        If there is an unknown key or a value of the wrong type or
        range. `read_config` and `override_config` raise the same as
        `ConfigError`, in plain words.

    Examples
    --------
    >>> from hyperphotutils.pipeline import PipelineConfig
    >>> config = PipelineConfig(detection={'n_sigma': 5.0})
    >>> config.detection.n_sigma
    5.0
    >>> config.run.n_workers
    1
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
    def _there_is_something_to_detect(self):
        if self.sources.given and self.run.detection_only:
            msg = ('sources are given, and run.detection_only is true: there '
                   'is nothing to detect')
            raise ValueError(msg)
        if (self.bands.merge and self.run.detection_only
                and self.bands.measure != 'none'):
            msg = ('run.detection_only (--detection-only) measures nothing, '
                   'but bands.merge (--merge) is to measure what a map '
                   'lacks: leave out one of them, or set bands.measure: none')
            raise ValueError(msg)
        if self.photometry.aperture == 'sources' and not self.sources.given:
            msg = ("photometry.aperture is 'sources', but none are given: "
                   'name sources.table, or sources.x and sources.y')
            raise ValueError(msg)
        return self

    @model_validator(mode='after')
    def _cubes_are_said_to_be_cubes(self):
        cubes = self.input.datacube
        if self.run.background_only and not cubes:
            msg = 'run.background_only needs input.datacube: true'
            raise ValueError(msg)
        if cubes and self.bands.merge:
            msg = 'bands.merge is for maps: it does not go with input.datacube'
            raise ValueError(msg)
        if self.cubes.smoothing > 0 and self.background.box_sizes is not None:
            msg = ('cubes.smoothing is for whole planes: it does not go with '
                   'background.box_sizes')
            raise ValueError(msg)
        if self.cubes.around_sources and (
                not self.sources.given or self.background.box_sizes is None):
            msg = ('cubes.around_sources needs positions in the section '
                   'sources, and background.box_sizes')
            raise ValueError(msg)
        return self

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
        fitter = self.fit.make_fitter(fwhm, self.grouping)
        options = self.photometry
        return HyperPhotometry(
            fwhm, finder=self.make_finder(image), grouper=fitter.grouper,
            fitter=fitter, fwhm_radius_ratio=options.fwhm_radius_ratio,
            aperture_correction=options.aperture_correction,
            fwhm_limits=options.fwhm_limits,
            aperture_ellipse=options.make_aperture_ellipse(image,
                                                           self.sources),
            background=self.background.make_background(fwhm),
            noise=self.fit.noise, mask_bad_pixels=self.fit.mask_bad_pixels,
            max_rounds=self.fit.max_rounds, progress_bar=progress_bar)

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

        def make_fitter(fwhm, *, fixed):
            return self.fit.make_fitter(fwhm, self.grouping, fixed=fixed)

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
        return self.cubes.make_background(cube, self.background,
                                          self.detection, self.sources)
