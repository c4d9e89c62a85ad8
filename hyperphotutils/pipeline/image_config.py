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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from hyperphotutils.pipeline.config import (
    ConfigError,
    FolderOptions,
    JobsConfig,
    ProcessOptions,
    _Count,
    _Index,
    _key,
    _List,
    _Options,
    _Path,
    _Positive,
    _Range,
)
from hyperphotutils.pipeline.jobs import expand_name, read_list
from hyperphotutils.pipeline.text import expand_path

if TYPE_CHECKING:
    from hyperphotutils.compat.hotpants import HotpantsOptions
    from hyperphotutils.subtraction.subtractor import ImageSubtractor

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


def _check_psf_size(size):
    if size < 5 or size % 2 == 0:
        msg = f'{size} is not allowed, must be odd, and at least 5'
        raise ValueError(msg)
    return size


class ImageOptions(_Options):
    """
    What is known of an image; what is null is found.
    """

    ext: _Index | str | None = _key('number or name of the HDU of the image')
    mask: _FilePath | None = _key('image that is not 0 at bad pixels')
    error: _FilePath | None = _key('image of the standard deviations')
    weight: _FilePath | None = _key(
        'image of the inverse variances, 0 at bad pixels')
    gain: _Positive | Literal['counts', 'cps'] | None = _key(
        "electrons for a unit of the data: a number, 'counts' for that of the "
        "header, or 'cps' for that times the exposure time; null = no photon "
        'noise of sources')
    gain_key: str | None = _key('keyword of the gain')
    fwhm: _Positive | None = _key(
        'full width at half maximum of the PSF in pixels; null = from stars')
    zero_point: float | None = _key('magnitude of a flux of 1')
    subtract_sky: bool = _key('false = do not subtract the sky', default=True)
    sky_order: _Index = _key('order of the polynomial of the sky', 3)
    sky_method: Literal['polynomial', 'median'] = _key(
        'kind of the sky; see hyperphotutils.stamps.subtract_sky',
        'polynomial')
    sky_grow: Annotated[float, Field(ge=0)] = _key(
        'growth of the masks of sources in pixels', 10.0)
    psf: _FilePath | None = _key(
        'PSF, as hyperphot psf writes it, a .psf file of PSFEx, or an image; '
        'null = from stars')
    psf_size: Annotated[int, AfterValidator(_check_psf_size)] | None = _key(
        'side of the PSF in pixels, an odd number from 5')
    psf_order: _Index | None = _key(
        'degree of the variation of the PSF; null = by cross-validation')
    psf_oversampling: _Count = _key(
        'samples of the PSF in each pixel, along each axis', 1)
    # fainter ones cannot be told from compact galaxies
    min_snr: _Positive = _key(
        'smallest signal-to-noise ratio of the stars of the PSF', 15.0)
    saturation: float | None = _key('value from which pixels are saturated')
    threshold: _Positive = _key(
        'threshold of the detection of sources in units of the noise', 1.5)
    # a shape cannot be fitted to fewer, whose signal-to-noise ratio is below 9
    n_pixels: _Count = _key('smallest number of pixels of a source', 12)
    contrast: Annotated[float, Field(ge=0, le=1)] = _key(
        'contrast of the deblending', 0.005)
    max_star_index: float = _key(
        'sources with a larger index are stars, which get no stamp and no '
        'row; fits treat them as neighbors, and they stay in the residual',
        0.5)
    size: Annotated[int, Field(ge=16)] | None = _key(
        'side of the stamps in pixels')
    margin: float = _key(
        'sources nearer to the edge than so many pixels get no row', 0.0)


class ImagesOptions(_Options):
    """
    The images.
    """

    maps: _List[str] = _key('FITS files, patterns, lists', ())
    sextracted: _Path | None = _key(
        "folder of sex_dre ('Sextracted'), whose catalogs and check images "
        'replace the detection')


class StampsOptions(_Options):
    """
    The files of stamps.
    """

    formats: _List[Literal['hdf5', 'dre', 'fits', 'galfit', 'galfits']] = _key(
        'formats of the stamps: hdf5, dre, fits, galfit, galfits', ('hdf5',))
    compression: Literal['none', 'low', 'medium', 'high'] = _key(
        'compression of HDF5', 'medium')


class GalaxiesOptions(_Options):
    """
    The fits of galaxies.
    """

    neighbors: Literal['fit', 'mask', 'ignore'] = _key(
        'what is done with neighbors; see hyperphotutils.galaxy.SersicFitter',
        'fit')
    n_bounds: _Range = _key('bounds of the Sersic index', (0.3, 8.0))
    max_radius: _Positive | None = _key(
        'largest effective radius, r_eff sqrt(q), in pixels; null = an eighth '
        'of the stamp')
    chi2: bool = _key(
        'true = compare with all models of a grid, too, as DRE does',
        default=False)
    cube: _Path | None = _key('file of models of DRE, for --chi2')
    mosaics: bool = _key(
        'true = write data, model, and residual of all stamps', default=False)
    truth: _Path | None = _key(
        'table of the true sources, to compare with, with the columns x, y, '
        'and those of the parameters')


class StepOptions(ProcessOptions):
    """
    The step, processes, and messages.
    """

    step: Literal['sky', 'psf', 'stamps', 'galaxies'] = _key(
        'what is made', 'galaxies')


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
    def kind(self) -> str:
        """
        The kind of the jobs.
        """
        return self.run.step

    @property
    def shared_files(self) -> tuple[str, ...]:
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

    error: _Path | None = _key(
        'image of the standard deviations of SCIENCE; null = its robust '
        'scatter')
    template_error: _Path | None = _key(
        'image of the standard deviations of TEMPLATE')
    mask: _Path | None = _key('image that is not 0 at bad pixels of SCIENCE')
    template_mask: _Path | None = _key(
        'image that is not 0 at bad pixels of TEMPLATE')
    positions: _Path | None = _key(
        'table of the stars to fit the kernel to, with x and y (the first '
        'pixel is 0) or sky_centroid; null = they are found')
    psf: _Path | None = _key(
        'PSF of SCIENCE, as hyperphot psf writes it, or an image; null = '
        'measured')


class PairOptions(_PairFiles):
    """
    A pair of images, and what belongs to it.
    """

    science: _Path = _key('the image', ...)
    template: _Path = _key('what is subtracted from it', ...)


class PairsOptions(_PairFiles):
    """
    The pairs of images; the other files are for those without their own.
    """

    pairs: _List[PairOptions] = _key('the pairs', ())


class KernelOptions(_Options):
    """
    The arguments of ImageSubtractor; null = its default.
    """

    basis: Literal['gaussian', 'delta'] | None = _key(
        'functions of the kernel: Gaussians times polynomials (the default), '
        'or one for each pixel')
    kernel_radius: _Count | None = _key('half width of the kernel in pixels')
    kernel_order: _List[_Index] | None = _key(
        'order with which the kernel varies over the image, or several to '
        'choose from, such as 0,1,2')
    background_order: _Index | None = _key(
        'order of the differential background')
    scale_order: _Index | None = _key('order with which the flux scale varies')
    convolve: Literal['auto', 'template', 'science'] | None = _key(
        'image to convolve')
    normalize: Literal['science', 'template', 'unconvolved'] | None = _key(
        'image whose flux scale the difference has')
    n_stamps: _List[_Count] | None = _key(
        'cells for the selection of stars along y and x')
    stars_per_stamp: _Count | None = _key('largest number of stars in a cell')
    stamp_radius: _Count | None = _key(
        'half width of the cutouts of stars in pixels')
    threshold: float | None = _key(
        'least signal-to-noise ratio of a star', gt=0)
    sigma_clip: float | None = _key('limit for stars that do not fit', gt=0)
    mask_limit: float | None = _key(
        'largest error by bad pixels in units of the noise', gt=0)
    n_regions: _List[_Count] | None = _key(
        'regions with their own kernel along y and x')
    decorrelate: bool = _key(
        'false = do not make the decorrelated difference', default=True)
    correlated_noise: bool = _key(
        'false = do not measure the correlation of the noise', default=True)
    align: Literal['wcs', 'stars'] | None = _key(
        'resample TEMPLATE to the pixels of SCIENCE, by the WCSs or by common '
        'stars; null = they are on the same pixels')
    hotpants: _Path | None = _key(
        'a command line of HOTPANTS, or a configuration of pyhotpants; other '
        'options take precedence')

    def _find_problem(self):
        if self.basis == 'delta' and self.kernel_radius is None:
            return "basis 'delta' needs kernel_radius"
        for name in ('n_stamps', 'n_regions'):
            value = getattr(self, name)
            if value is not None and len(value) != 2:
                return f'{name} must be two numbers, along y and x'
        return ''

    def read_hotpants(self) -> 'HotpantsOptions | None':
        """
        Read the `~hyperphotutils.compat.hotpants.HotpantsOptions`; `None` if
        no file is given.

        Raises a `ConfigError` if the file cannot be used.
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

    def make_subtractor(self,
                        hotpants: dict | None = None) -> 'ImageSubtractor':
        """
        Make the `~hyperphotutils.subtraction.ImageSubtractor`.

        The dictionary ``hotpants`` has arguments that are replaced by those
        of this section.
        """
        from hyperphotutils.subtraction import DeltaBasis, ImageSubtractor

        # (True is the default of all that are true or false)
        given = {name: value for name, value in self
                 if value is not None and value is not True
                 and name not in {'basis', 'align', 'hotpants'}}
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
    kind: ClassVar[str] = 'subtraction'

    input: PairsOptions = Field(default_factory=PairsOptions)
    kernel: KernelOptions = Field(default_factory=KernelOptions)
    output: FolderOptions = Field(default_factory=FolderOptions)
    run: ProcessOptions = Field(default_factory=ProcessOptions)

    @property
    def shared_files(self) -> tuple[str, ...]:
        """
        The files on which all results depend.
        """
        return tuple(filter(None, (self.kernel.hotpants,)))

    def list_pairs(self) -> list[dict]:
        """
        List the files of each pair, dictionaries by role.

        The roles are ``'science'``, ``'template'``, and those of the others
        that are given; ``'hotpants_error'`` and so on are those that the
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


def expand_pairs(names: Sequence[str]) -> list[dict]:
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
    path = expand_name(name, f'{name}: not a list of pairs')
    lines = [(number, line) for number, line
             in enumerate(read_list(path, 'pair'), 1)
             if line.strip() and not line.lstrip().startswith('#')]
    if path.lower().endswith(('.csv', '.ecsv')):
        pairs = _read_rows(path, lines)
    else:
        pairs = []
        for number, line in lines:
            try:
                # names with blanks are quoted
                words = shlex.split(line, comments=True)
            except ValueError as exc:
                raise ConfigError([f'{path}: line {number}: {exc}']) from exc
            if len(words) != 2:
                raise ConfigError([
                    f'{path}: line {number} must have SCIENCE and TEMPLATE: '
                    f'{line.strip()}'])
            pairs.append({'science': words[0], 'template': words[1]})
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
        pair = {name: value.strip() for name, value in row.items()
                if value.strip()}
        if not {'science', 'template'} <= set(pair):
            raise ConfigError([f'{path}: row {number} lacks science or '
                               'template'])
        pairs.append(pair)
    return pairs
