# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The configurations of the commands that work on images and on pairs of
images: ``hyperphot sky``, ``psf``, ``stamps``, ``galaxies``, and
``subtract``.

As in `~hyperphotutils.pipeline.config`, a key, its default, its range, and
its description are written here only.

This module is light: it imports none of the scientific libraries.
"""

import csv
import os
import shlex
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from hyperphotutils.pipeline.config import (
    ConfigError,
    FolderOptions,
    JobsConfig,
    ProcessOptions,
    _Count,
    _Index,
    _List,
    _Options,
    _Path,
    _Positive,
    _Range,
)
from hyperphotutils.pipeline.jobs import read_list
from hyperphotutils.pipeline.text import expand_path

__all__ = [
    'GalaxiesOptions',
    'ImageConfig',
    'ImageOptions',
    'ImagesOptions',
    'KernelOptions',
    'PairOptions',
    'PairsOptions',
    'StampsOptions',
    'StepOptions',
    'SubtractConfig',
    'expand_pairs',
]

_FilePath = Annotated[
    str, BeforeValidator(lambda path: os.fspath(path)
                         if isinstance(path, os.PathLike) else path),
    AfterValidator(expand_path)]

_LISTS = ('.txt', '.lst', '.list', '.csv', '.ecsv')


class ImageOptions(_Options):
    """
    What is known of an image; what is null is found.
    """

    ext: _Index | str | None = Field(
        None, description='number or name of the HDU of the image')
    mask: _FilePath | None = Field(
        None, description='image that is not 0 at bad pixels')
    error: _FilePath | None = Field(
        None, description='image of the standard deviations')
    weight: _FilePath | None = Field(
        None, description='image of the inverse variances, 0 at bad pixels')
    gain: _Positive | Literal['counts', 'cps'] | None = Field(
        None, description=(
            "electrons for a unit of the data: a number, 'counts' for that "
            "of the header, or 'cps' for that times the exposure time; null "
            '= no photon noise of sources'))
    gain_key: str | None = Field(
        None, description='keyword of the gain')
    fwhm: _Positive | None = Field(
        None, description=(
            'full width at half maximum of the PSF in pixels; null = from '
            'stars'))
    zero_point: float | None = Field(
        None, description='magnitude of a flux of 1')
    subtract_sky: bool = Field(
        default=True, description='false = do not subtract the sky')
    sky_order: _Index = Field(
        3, description='order of the polynomial of the sky')
    sky_method: Literal['polynomial', 'median'] = Field(
        'polynomial', description=(
            'kind of the sky; see hyperphotutils.stamps.subtract_sky'))
    sky_grow: Annotated[float, Field(ge=0)] = Field(
        10.0, description='growth of the masks of sources in pixels')
    psf: _FilePath | None = Field(
        None, description=(
            'PSF, as hyperphot psf writes it, a .psf file of PSFEx, or an '
            'image; null = from stars'))
    psf_size: Annotated[int, Field(ge=3)] | None = Field(
        None, description='side of the PSF in pixels')
    psf_order: _Index | None = Field(
        None, description=(
            'degree of the variation of the PSF; null = by '
            'cross-validation'))
    psf_oversampling: _Count = Field(
        1, description='samples of the PSF for each pixel')
    # fainter ones cannot be told from compact galaxies
    min_snr: _Positive = Field(
        15.0, description=(
            'smallest signal-to-noise ratio of the stars of the PSF'))
    saturation: float | None = Field(
        None, description='value from which pixels are saturated')
    threshold: _Positive = Field(
        1.5, description=(
            'threshold of the detection of sources in units of the noise'))
    # a shape cannot be fitted to fewer, whose signal-to-noise ratio is below 9
    n_pixels: _Count = Field(
        12, description='smallest number of pixels of a source')
    contrast: Annotated[float, Field(ge=0, le=1)] = Field(
        0.005, description='contrast of the deblending')
    max_star_index: float = Field(
        0.5, description=(
            'sources with a larger index are stars, which get no stamp and '
            'no row, but are fitted as neighbors'))
    size: Annotated[int, Field(ge=16)] | None = Field(
        None, description='side of the stamps in pixels')
    margin: float = Field(
        0.0, description=(
            'sources nearer to the edge than so many pixels get no row'))


class ImagesOptions(_Options):
    """
    The images.
    """

    maps: _List[str] = Field((), description='FITS files, patterns, lists')
    sextracted: _Path | None = Field(
        None, description=(
            "folder of sex_dre ('Sextracted'), whose catalogs and check "
            'images replace the detection'))


class StampsOptions(_Options):
    """
    The files of stamps.
    """

    formats: _List[Literal['hdf5', 'dre', 'fits', 'galfit', 'galfits']] = (
        Field(('hdf5',), description=(
            'formats of the stamps: hdf5, dre, fits, galfit, galfits')))
    compression: Literal['none', 'low', 'medium', 'high'] = Field(
        'medium', description='compression of HDF5')


class GalaxiesOptions(_Options):
    """
    The fits of galaxies.
    """

    neighbors: Literal['fit', 'mask', 'ignore'] = Field(
        'fit', description=(
            'what is done with neighbors; see '
            'hyperphotutils.galaxy.SersicFitter'))
    n_bounds: _Range = Field(
        (0.3, 8.0), description='bounds of the Sersic index')
    max_radius: _Positive | None = Field(
        None, description=(
            'largest effective radius, r_eff sqrt(q), in pixels; null = an '
            'eighth of the stamp'))
    chi2: bool = Field(
        default=False, description=(
            'true = compare with all models of a grid, too, as DRE does'))
    cube: _Path | None = Field(
        None, description='file of models of DRE, for --chi2')
    mosaics: bool = Field(
        default=False, description=(
            'true = write data, model, and residual of all stamps'))
    truth: _Path | None = Field(
        None, description=(
            'table of the true sources, to compare with, with the columns '
            'x, y, and those of the parameters'))


class StepOptions(ProcessOptions):
    """
    The step, processes, and messages.
    """

    step: Literal['sky', 'psf', 'stamps', 'galaxies'] = Field(
        'galaxies', description='what is made')


class ImageConfig(JobsConfig):
    """
    The configuration of the sky, PSFs, stamps, and galaxies of images.

    Parameters
    ----------
    input, image, stamps, galaxies, output, run : dict or options
        The sections. All keys have defaults.

    Examples
    --------
    >>> from hyperphotutils.pipeline import ImageConfig, plan_jobs
    >>> config = ImageConfig(input={'maps': ['tile.fits']},
    ...                      run={'step': 'psf'})
    >>> [(job.map_id, job.kind) for job in plan_jobs(config)]
    [('tile', 'psf')]
    """

    noun: ClassVar[str] = 'image'

    input: ImagesOptions = Field(default_factory=ImagesOptions)
    image: ImageOptions = Field(default_factory=ImageOptions)
    stamps: StampsOptions = Field(default_factory=StampsOptions)
    galaxies: GalaxiesOptions = Field(default_factory=GalaxiesOptions)
    output: FolderOptions = Field(default_factory=FolderOptions)
    run: StepOptions = Field(default_factory=StepOptions)

    @property
    def kind(self):
        """
        The kind of the jobs.
        """
        return self.run.step

    @property
    def shared_files(self):
        """
        The files on which all results depend.
        """
        return tuple(filter(None, (
            self.image.mask, self.image.error, self.image.weight,
            self.image.psf, self.galaxies.cube, self.galaxies.truth,
            self.input.sextracted)))


class _PairFiles(_Options):
    """
    The files besides the two images.
    """

    error: _Path | None = Field(
        None, description=(
            'image of the standard deviations of SCIENCE; null = its '
            'robust scatter'))
    template_error: _Path | None = Field(
        None, description='image of the standard deviations of TEMPLATE')
    mask: _Path | None = Field(
        None, description='image that is not 0 at bad pixels of SCIENCE')
    template_mask: _Path | None = Field(
        None, description='image that is not 0 at bad pixels of TEMPLATE')
    positions: _Path | None = Field(
        None, description=(
            'table of the stars to fit the kernel to, with x and y (the '
            'first pixel is 0) or sky_centroid; null = they are found'))
    psf: _Path | None = Field(
        None, description=(
            'PSF of SCIENCE, as hyperphot psf writes it, or an image; null '
            '= measured'))


class PairOptions(_PairFiles):
    """
    A pair of images, and what belongs to it.
    """

    science: _Path = Field(description='the image')
    template: _Path = Field(description='what is subtracted from it')


class PairsOptions(_PairFiles):
    """
    The pairs of images; the other files are for those without their own.
    """

    pairs: _List[PairOptions] = Field((), description='the pairs')


class KernelOptions(_Options):
    """
    The arguments of ImageSubtractor; null = its default.
    """

    basis: Literal['gaussian', 'delta'] | None = Field(
        None, description=(
            'functions of the kernel: Gaussians times polynomials (the '
            'default), or one for each pixel'))
    kernel_radius: _Count | None = Field(
        None, description='half width of the kernel in pixels')
    kernel_order: _List[_Index] | None = Field(
        None, description=(
            'order with which the kernel varies over the image, or several '
            'to choose from, such as 0,1,2'))
    background_order: _Index | None = Field(
        None, description='order of the differential background')
    scale_order: _Index | None = Field(
        None, description='order with which the flux scale varies')
    convolve: Literal['auto', 'template', 'science'] | None = Field(
        None, description='image to convolve')
    normalize: Literal['science', 'template', 'unconvolved'] | None = Field(
        None, description='image whose flux scale the difference has')
    n_stamps: _List[_Count] | None = Field(
        None, description='cells for the selection of stars along y and x')
    stars_per_stamp: _Count | None = Field(
        None, description='largest number of stars in a cell')
    stamp_radius: _Count | None = Field(
        None, description='half width of the cutouts of stars in pixels')
    threshold: float | None = Field(
        None, gt=0, description='least signal-to-noise ratio of a star')
    sigma_clip: float | None = Field(
        None, gt=0, description='limit for stars that do not fit')
    mask_limit: float | None = Field(
        None, gt=0, description=(
            'largest error by bad pixels in units of the noise'))
    n_regions: _List[_Count] | None = Field(
        None, description='regions with their own kernel along y and x')
    decorrelate: bool = Field(
        default=True, description=(
            'false = do not make the decorrelated difference'))
    correlated_noise: bool = Field(
        default=True, description=(
            'false = do not measure the correlation of the noise'))
    align: Literal['wcs', 'stars'] | None = Field(
        None, description=(
            'resample TEMPLATE to the pixels of SCIENCE, by the WCSs or by '
            'common stars; null = they are on the same pixels'))
    hotpants: _Path | None = Field(
        None, description=(
            'a command line of HOTPANTS, or a configuration of pyhotpants; '
            'other options take precedence'))

    @model_validator(mode='after')
    def _check_basis(self):
        if self.basis == 'delta' and self.kernel_radius is None:
            msg = "basis 'delta' needs kernel_radius"
            raise ValueError(msg)
        for name in ('n_stamps', 'n_regions'):
            value = getattr(self, name)
            if value is not None and len(value) != 2:
                msg = f'{name} must be two numbers, along y and x'
                raise ValueError(msg)
        return self

    def read_hotpants(self):
        """
        Read the options of HOTPANTS.

        Returns
        -------
        options : `~hyperphotutils.compat.hotpants.HotpantsOptions` or \
                `None`
            The options, if a file is given.

        Raises
        ------
        ConfigError
            If the file cannot be used.
        """
        if self.hotpants is None:
            return None
        from hyperphotutils.compat.hotpants import read_hotpants

        try:
            # a name may look like an option
            return read_hotpants(Path(self.hotpants).resolve())
        except OSError as exc:
            reason = exc.strerror or str(exc)
        except ValueError as exc:
            reason = ' '.join(str(exc).split())
        raise ConfigError([f'{self.hotpants}: {reason}'])

    def make_subtractor(self, hotpants=None):
        """
        Make the subtractor.

        Parameters
        ----------
        hotpants : dict, optional
            Arguments that are replaced by those of this section.

        Returns
        -------
        subtractor : `~hyperphotutils.subtraction.ImageSubtractor`
            The subtractor.
        """
        from hyperphotutils.subtraction import DeltaBasis, ImageSubtractor

        given = {name: value for name, value in self
                 if value is not None
                 and name not in {'basis', 'align', 'hotpants'}}
        for name in ('decorrelate', 'correlated_noise'):
            if given[name]:
                del given[name]
        arguments = dict(hotpants or {}) | given
        if 'kernel_radius' in given or self.basis is not None:
            arguments.pop('basis', None)
        if self.basis == 'delta':
            arguments['basis'] = DeltaBasis(arguments.pop('kernel_radius'))
        return ImageSubtractor(**arguments)


class SubtractConfig(JobsConfig):
    """
    The configuration of image subtractions.

    Parameters
    ----------
    input, kernel, output, run : dict or options
        The sections. All keys have defaults.

    Examples
    --------
    >>> from hyperphotutils.pipeline import SubtractConfig, plan_jobs
    >>> pair = {'science': 'night2.fits', 'template': 'night1.fits'}
    >>> config = SubtractConfig(input={'pairs': [pair]})
    >>> [(job.map_id, job.files['template']) for job in plan_jobs(config)]
    [('night2', 'night1.fits')]
    """

    noun: ClassVar[str] = 'pair'

    input: PairsOptions = Field(default_factory=PairsOptions)
    kernel: KernelOptions = Field(default_factory=KernelOptions)
    output: FolderOptions = Field(default_factory=FolderOptions)
    run: ProcessOptions = Field(default_factory=ProcessOptions)

    @property
    def kind(self):
        """
        The kind of the jobs.
        """
        return 'subtraction'

    @property
    def shared_files(self):
        """
        The files on which all results depend.
        """
        return tuple(filter(None, (self.kernel.hotpants,)))

    def list_pairs(self):
        """
        List the files of each pair by their role.

        Returns
        -------
        pairs : list of dict
            ``'science'``, ``'template'``, and those of the others that
            are given; ``'hotpants_error'`` and so on are those that the
            options of HOTPANTS name.
        """
        hotpants = self.kernel.read_hotpants()
        theirs = {} if hotpants is None else {
            name: path for name, path in hotpants.inputs.items()
            if isinstance(path, str)}
        pairs = [dict(pair) for pair in self.input.pairs]
        if not pairs and {'science', 'template'} <= set(theirs):
            pairs = [{}]
        found = []
        for pair in pairs:
            files = {name: pair.get(name) or getattr(self.input, name)
                     for name in _PairFiles.model_fields}
            files = {name: path for name, path in files.items() if path}
            images = {name: pair.get(name) or theirs[name]
                      for name in ('science', 'template')}
            others = {f'hotpants_{name}': path
                      for name, path in theirs.items()
                      if name not in files and name not in images}
            found.append(images | files | others)
        return found


def expand_pairs(names):
    """
    Return the pairs of images of a command line.

    Parameters
    ----------
    names : list of str
        Images in the order SCIENCE TEMPLATE SCIENCE TEMPLATE ..., and
        lists: text files, ``'@name'`` or with the suffix ``.txt``,
        ``.lst``, or ``.list``, with SCIENCE and TEMPLATE on each line
        (``#`` starts a comment); or tables, ``.csv`` or ``.ecsv``, with
        the columns ``science`` and ``template``, and possibly ``error``,
        ``template_error``, ``mask``, ``template_mask``, ``positions``,
        and ``psf``. Their names are relative to the working folder.

    Returns
    -------
    pairs : list of dict
        The files of each pair.

    Raises
    ------
    ConfigError
        If a list cannot be read, or an image has no partner.

    Examples
    --------
    >>> from hyperphotutils.pipeline import expand_pairs
    >>> expand_pairs(['a.fits', 'ref.fits'])
    [{'science': 'a.fits', 'template': 'ref.fits'}]
    """
    pairs, waiting = [], None
    for name in names:
        if waiting is not None:
            pairs.append({'science': waiting, 'template': name})
            waiting = None
        elif name.startswith('@') or name.lower().endswith(_LISTS):
            pairs += _read_pairs(name.removeprefix('@'))
        else:
            waiting = name
    if waiting is not None:
        raise ConfigError([f'{waiting}: its TEMPLATE is missing: give '
                           'SCIENCE TEMPLATE, or a list of pairs (.txt, '
                           '.csv, .ecsv, or @FILE)'])
    return pairs


def _read_pairs(name):
    """
    Read a list of pairs.
    """
    try:
        path = expand_path(name)
    except ValueError as exc:
        raise ConfigError([f'{name}: not a list of pairs: {exc}']) from exc
    lines = [(number, line) for number, line
             in enumerate(read_list(path, 'pair'), 1)
             if line.strip() and not line.lstrip().startswith('#')]
    if path.lower().endswith(('.csv', '.ecsv')):
        pairs = _read_rows(path, lines)
    else:
        pairs = [_split_line(path, *line) for line in lines]
    if not pairs:
        raise ConfigError([f'{path}: the list names no pair'])
    return pairs


def _read_rows(path, lines):
    """
    Read the rows of a table, CSV or ECSV; its comments are left out.
    """
    known = tuple(PairOptions.model_fields)
    head = lines[0][1] if lines else ''
    delimiter = ',' if ',' in head else ' '
    rows = csv.DictReader((line for _, line in lines), delimiter=delimiter,
                          skipinitialspace=True)
    columns = [name.strip() for name in rows.fieldnames or ()]
    missing = [name for name in ('science', 'template')
               if name not in columns]
    unknown = [name for name in columns if name not in known]
    if missing or unknown:
        problem = (f'has no column {", ".join(missing)}' if missing
                   else f'unknown column {", ".join(unknown)}')
        raise ConfigError([f'{path}: {problem}; the columns can be '
                           f'{", ".join(known)}'])
    rows.fieldnames = columns
    pairs = []
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise ConfigError([f'{path}: row {number} has not the '
                               f'{len(columns)} columns of the head'])
        pair = {name: value.strip() for name, value in row.items()}
        pair = {name: value for name, value in pair.items() if value}
        if not {'science', 'template'} <= set(pair):
            raise ConfigError([f'{path}: row {number} lacks science or '
                               'template'])
        pairs.append(pair)
    return pairs


def _split_line(path, number, line):
    """
    Split a line of a text file; names with blanks are quoted.
    """
    try:
        words = shlex.split(line, comments=True)
    except ValueError as exc:
        raise ConfigError([f'{path}: line {number}: {exc}']) from exc
    if len(words) != 2:
        raise ConfigError([f'{path}: line {number} must have SCIENCE and '
                           f'TEMPLATE: {line.strip()}'])
    return {'science': words[0], 'template': words[1]}
