# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Command lines of HOTPANTS, and configurations of pyhotpants, in terms of
`~hyperphotutils.subtraction.ImageSubtractor`.

The tables ``_RULES`` and ``_DROPPED`` have a line for each option of
HOTPANTS, and ``_FLAGS`` one for each key of pyhotpants.
"""

import ast
import difflib
import shlex
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from astropy.io import fits
from astropy.nddata import NDData, StdDevUncertainty

from hyperphotutils.subtraction import (
    FixedBasis,
    GaussianPolynomialBasis,
    ccd_error,
)
from hyperphotutils.subtraction.inputs import read_image

__all__ = ['HotpantsOptions', 'HotpantsOutcome', 'read_hotpants']

# The half width of the kernel of HOTPANTS (Becker 2015, ascl:1504.004), if
# none is given
_RADIUS = 10
_IMAGES = {'t': 'template', 'i': 'science'}


class HotpantsOutcome(NamedTuple):
    """
    The conversion of one option of HOTPANTS.

    Parameters
    ----------
    option : str
        The option as it was given, with its value.

    mapped : bool
        Whether it has an effect.

    text : str
        The converted parameter, or the reason why it is ignored.
    """

    option: str
    mapped: bool
    text: str

    def __str__(self):
        word = 'mapped to' if self.mapped else 'dropped:'
        return f'{self.option} {word} {self.text}'


@dataclass(frozen=True)
class HotpantsOptions:
    """
    The options of a run of HOTPANTS in terms of ours.

    Options that were not given have our defaults, not those of HOTPANTS.

    Parameters
    ----------
    subtractor : dict
        The arguments of `~hyperphotutils.subtraction.ImageSubtractor`.

    inputs : dict
        The files ``science``, ``template``, ``error``,
        ``template_error``, ``mask``, ``template_mask``, and
        ``positions``, as far as they were given.

    cameras : dict
        For ``'science'`` and ``'template'``, what was given of ``gain``,
        ``read_noise``, ``pedestal``, and of the limits ``lower`` and
        ``upper`` of valid pixels.

    output : path or None
        The file of the difference.

    overwrite : bool
        Whether existing files are replaced.

    outcomes : tuple of `HotpantsOutcome`
        The conversion of each option, in their order.
    """

    subtractor: dict
    inputs: dict
    cameras: dict
    output: str | None
    overwrite: bool
    outcomes: tuple

    def arguments(self, science=None, template=None):
        """
        Return the arguments of the call of the subtractor.

        Parameters
        ----------
        science, template : path, HDU, `~astropy.nddata.NDData`, or 2D \
                array_like, optional
            The images, if not those of the options.

        Returns
        -------
        arguments : dict
            ``science`` and ``template``, as `~astropy.nddata.NDData` with
            errors from the gain and the read noise, and with a mask from
            the limits of valid pixels, if these were given; and
            ``positions``.

        Raises
        ------
        ValueError
            If there is no image, or one cannot be used.
        """
        arguments = {}
        for name, given, prefix in (('science', science, ''),
                                    ('template', template, 'template_')):
            source = given if given is not None else self.inputs.get(name)
            if source is None:
                flag = '-inim' if name == 'science' else '-tmplim'
                msg = f'{name} must be given, or {flag} in the options'
                raise ValueError(msg)
            image = read_image(
                source, name, self.inputs.get(f'{prefix}error'),
                f'{name} error', self.inputs.get(f'{prefix}mask'),
                f'{name} mask')
            data, error, mask = image.data, image.error, image.mask
            camera = self.cameras[name]
            if error is None and camera.keys() & {'gain', 'read_noise'}:
                error = ccd_error(data, camera.get('gain', 1.0),
                                  camera.get('read_noise', 0.0),
                                  pedestal=camera.get('pedestal', 0.0))
            if 'lower' in camera or 'upper' in camera:
                with np.errstate(invalid='ignore'):
                    invalid = ~((data >= camera.get('lower', -np.inf))
                                & (data <= camera.get('upper', np.inf)))
                mask = invalid if mask is None else mask | invalid
            arguments[name] = NDData(
                data, mask=mask, unit=image.unit, wcs=image.wcs,
                uncertainty=(None if error is None
                             else StdDevUncertainty(error)))
        if 'positions' in self.inputs:
            positions = self.inputs['positions']
            if isinstance(positions, str | PathLike):
                # HOTPANTS counts pixels from 1
                positions = np.loadtxt(positions, usecols=(0, 1),
                                       ndmin=2) - 1.0
            arguments['positions'] = positions
        return arguments


def read_hotpants(options):
    """
    Read the options of HOTPANTS or of pyhotpants.

    Parameters
    ----------
    options : str, path, mapping, sequence of str, or object
        A command line of HOTPANTS as one string or as a list; a file with
        a command line, with keys and values in YAML, or with Python code
        that calls ``HotpantsConfig`` with constants (the code is not
        run); a dictionary of these keys; or a ``HotpantsConfig``.

    Returns
    -------
    options : `HotpantsOptions`
        The options in terms of ours.

    Raises
    ------
    ValueError
        If an option is unknown or has a wrong value.

    Examples
    --------
    >>> from hyperphotutils.compat.hotpants import read_hotpants
    >>> options = read_hotpants('hotpants -r 15 -c t -kcs 21')
    >>> options.subtractor
    {'kernel_radius': 15, 'convolve': 'template'}
    >>> for outcome in options.outcomes:
    ...     print(outcome)
    -r 15 mapped to kernel_radius
    -c t mapped to convolve
    -kcs 21 dropped: each pixel has its own kernel
    """
    given = _read(options)
    found = {'subtractor': {}, 'inputs': {}, 'output': {},
             'cameras': {'science': {}, 'template': {}}}
    grid, gaussians = {}, {}
    outcomes = []
    for option, flag, values in given:
        label = ' '.join([option, *map(str, values)])
        if flag in _DROPPED:
            outcomes.append(HotpantsOutcome(
                label, mapped=False, text=_DROPPED[flag][1]))
            continue
        rule = _RULES[flag]
        try:
            value = rule.convert(*values)
        except (TypeError, ValueError, OSError) as error:
            msg = f'{label}: {error}'
            raise ValueError(msg) from None
        outcomes.append(HotpantsOutcome(
            label, mapped=True,
            text=rule.text or rule.names[-1]))
        part, *names = rule.names
        if part == 'grid':
            grid[names[0]] = value
        elif part == 'gaussians':
            gaussians.update(value)
        elif part == 'cameras':
            found['cameras'][names[0]][names[1]] = value
        else:
            found[part][names[0]] = value
    _combine(found['subtractor'], grid, gaussians)
    return HotpantsOptions(
        subtractor=found['subtractor'], inputs=found['inputs'],
        cameras=found['cameras'], output=found['output'].get('output'),
        overwrite=found['output'].get('overwrite', True),
        outcomes=tuple(outcomes))


def _combine(subtractor, grid, gaussians):
    """
    Make arguments of those options that belong together.
    """
    regions = grid.get('nry', 1), grid.get('nrx', 1)
    if regions != (1, 1):
        subtractor['n_regions'] = regions
    # The default number of stamps of HOTPANTS is 10 along each axis.
    if 'nsx' in grid or 'nsy' in grid:
        # theirs are the numbers in each region
        subtractor['n_stamps'] = tuple(
            grid.get(name, 10) * n
            for name, n in zip(('nsy', 'nsx'), regions, strict=True))
    # sums of Gaussians times polynomials (Alard & Lupton 1998, ApJ, 503, 325)
    if gaussians:
        missing = {'degrees', 'sigmas'} - gaussians.keys()
        if missing:
            msg = (f'the Gaussians need {" and ".join(sorted(missing))}, too: '
                   'give deg_fixe and sigma_gauss, or -ng with both')
            raise ValueError(msg)
        number = gaussians.get('number', len(gaussians['sigmas']))
        if not number == len(gaussians['sigmas']) == len(
                gaussians['degrees']):
            msg = (f'there must be {number} degrees and sigmas for '
                   f'ngauss={number}')
            raise ValueError(msg)
        subtractor['basis'] = GaussianPolynomialBasis(
            gaussians['sigmas'], gaussians['degrees'],
            subtractor.get('kernel_radius', _RADIUS))
    if 'basis' in subtractor:
        # the basis has its own
        subtractor.pop('kernel_radius', None)


class _Rule(NamedTuple):
    n_values: int
    convert: object
    names: tuple
    text: str = ''


def _whole(value):
    # YAML and Python may have 10.0
    number = float(value)
    if number != int(number):
        msg = f'must be a whole number: {value!r}'
        raise ValueError(msg)
    return int(number)


def _choice(**choices):
    def convert(value):
        if value not in choices:
            msg = f'must be one of {", ".join(choices)}: {value!r}'
            raise ValueError(msg)
        return choices[value]

    return convert


def _gaussians(number, *pairs):
    """
    Return the Gaussians of ``-ng``, or only their number of ``ngauss``.
    """
    found = {'number': _whole(number)}
    if pairs:
        found |= {**_degrees(pairs[::2]), **_sigmas(pairs[1::2])}
    return found


def _degrees(values):
    return {'degrees': [_whole(value) for value in values]}


def _sigmas(values):
    return {'sigmas': [float(value) for value in values]}


def _fixed_basis(*values):
    """
    Return the basis of ``-pca``, or of a list of files or images.
    """
    images = values[0] if len(values) == 1 else values[1:]
    # the command line has the number of files first
    return FixedBasis([
        fits.getdata(image) if isinstance(image, str | PathLike) else image
        for image in images])


def _camera(image, name, text):
    return _Rule(1, float, ('cameras', image, name), text)


def _same(value):
    return value


_UPPER = 'the mask of pixels above it'
_LOWER = 'the mask of pixels below it'
_GAUSSIANS = 'basis, a GaussianPolynomialBasis'
_NOISE = 'the errors, by ccd_error, if no error image is given'

# For each flag: the number of its values, their converter, and the parameter
# that they set.
_RULES = {
    'inim': _Rule(1, _same, ('inputs', 'science')),
    'tmplim': _Rule(1, _same, ('inputs', 'template')),
    'ini': _Rule(1, _same, ('inputs', 'error')),
    'tni': _Rule(1, _same, ('inputs', 'template_error')),
    'imi': _Rule(1, _same, ('inputs', 'mask')),
    'tmi': _Rule(1, _same, ('inputs', 'template_mask')),
    'ssf': _Rule(1, _same, ('inputs', 'positions')),
    'outim': _Rule(1, str, ('output', 'output'),
                   'the file of all results'),
    'nc': _Rule(0, lambda: False, ('output', 'overwrite'),
                'overwrite=False'),
    'iu': _camera('science', 'upper', _UPPER),
    'il': _camera('science', 'lower', _LOWER),
    'tu': _camera('template', 'upper', _UPPER),
    'tl': _camera('template', 'lower', _LOWER),
    'ig': _camera('science', 'gain', _NOISE),
    'ir': _camera('science', 'read_noise', _NOISE),
    'ip': _camera('science', 'pedestal', _NOISE),
    'tg': _camera('template', 'gain', _NOISE),
    'tr': _camera('template', 'read_noise', _NOISE),
    'tp': _camera('template', 'pedestal', _NOISE),
    'r': _Rule(1, _whole, ('subtractor', 'kernel_radius')),
    'ko': _Rule(1, _whole, ('subtractor', 'kernel_order')),
    'bgo': _Rule(1, _whole, ('subtractor', 'background_order')),
    'c': _Rule(1, _choice(t='template', i='science', b='auto'),
               ('subtractor', 'convolve')),
    'n': _Rule(1, _choice(t='template', i='science', u='unconvolved'),
               ('subtractor', 'normalize')),
    'ft': _Rule(1, float, ('subtractor', 'threshold')),
    'ks': _Rule(1, float, ('subtractor', 'sigma_clip')),
    'nss': _Rule(1, _whole, ('subtractor', 'stars_per_stamp')),
    'rss': _Rule(1, _whole, ('subtractor', 'stamp_radius')),
    'pca': _Rule(None, _fixed_basis, ('subtractor', 'basis'),
                 'basis, a FixedBasis'),
    'nsx': _Rule(1, _whole, ('grid', 'nsx'), 'n_stamps'),
    'nsy': _Rule(1, _whole, ('grid', 'nsy'), 'n_stamps'),
    'nrx': _Rule(1, _whole, ('grid', 'nrx'), 'n_regions'),
    'nry': _Rule(1, _whole, ('grid', 'nry'), 'n_regions'),
    # pyhotpants has three keys for it
    'ng': _Rule(None, _gaussians, ('gaussians',), _GAUSSIANS),
    'deg_fixe': _Rule(1, _degrees, ('gaussians',), _GAUSSIANS),
    'sigma_gauss': _Rule(1, _sigmas, ('gaussians',), _GAUSSIANS),
}

_ALL_IN_ONE = 'it is in the one file of all results'
_BAD_PIXELS = ('bad pixels are masked by the error that they cause; '
               'mask_limit changes it')
_STORED = 'images are stored as 32-bit floating-point numbers'

# For each ignored flag: the number of its values, and the reason.
_DROPPED = {
    'iuk': (1, 'stars with masked pixels are not used, and those that do '
               'not fit are clipped'),
    'tuk': (1, 'stars with masked pixels are not used, and those that do '
               'not fit are clipped'),
    'ki': (1, 'kernels of HOTPANTS cannot be read; SpatialKernel.read reads '
              'those of this package'),
    'oki': (1, 'the kernel is in the one file of all results'),
    'hki': (0, 'the kernel is in the one file of all results'),
    'kcs': (1, 'each pixel has its own kernel'),
    'sft': (1, 'the threshold is not changed; lower it for sparse fields'),
    'nft': (1, 'the threshold is not changed; lower it for sparse fields'),
    'mins': (1, 'bad pixels have no weight in the fit'),
    'mous': (1, _BAD_PIXELS),
    'kfm': (1, _BAD_PIXELS),
    'okn': (0, 'the errors have the uncertainty of filled pixels'),
    'omi': (1, _ALL_IN_ONE + ', as FLAGS'),
    'oni': (1, _ALL_IN_ONE + ', as ERROR'),
    'ond': (1, 'difference / error is the attribute significance of the '
               'result'),
    'oci': (1, _ALL_IN_ONE + ', as CONVOLVED'),
    'nim': (0, _ALL_IN_ONE + ', as ERROR'),
    'ndm': (0, 'difference / error is the attribute significance of the '
               'result'),
    'cim': (0, _ALL_IN_ONE + ', as CONVOLVED'),
    'allm': (0, 'all images are always in the one file of all results'),
    'gd': (4, 'cut the images before'),
    'rf': (1, 'regions are of equal size: n_regions'),
    'rkw': (2, 'regions are of equal size: n_regions'),
    'cmp': (1, 'give the stars as positions'),
    'afssc': (1, 'given positions are the only stars, and without them '
                 'stars are found'),
    'savexy': (1, 'the stars are in the table STAMPS of the file of all '
                  'results'),
    'fom': (1, 'the direction with the smaller error of the flux of a '
               'transient is chosen'),
    'sconv': (0, 'all regions have the same direction'),
    'ssig': (1, 'the statistics of the result are robust'),
    'fi': (1, 'masked pixels are NaN'),
    'fin': (1, 'masked pixels are NaN'),
    'convvar': (0, 'variances are always convolved with the square of the '
                   'kernel'),
    'sht': (0, _STORED),
    'obs': (1, _STORED),
    'obz': (1, _STORED),
    'nsht': (0, _STORED),
    'nbs': (1, _STORED),
    'nbz': (1, _STORED),
    'nx': (1, 'the size is that of the images'),
    'v': (1, 'use the logging of Python'),
}

# Names above that are not flags of HOTPANTS.
_KEYS_ONLY = {'deg_fixe', 'sigma_gauss', 'nx'}

# The flag of HOTPANTS for each key of pyhotpants
_FLAGS = {
    'image_data': 'inim', 'template_data': 'tmplim', 'output_file': 'outim',
    'i_error': 'ini', 't_error': 'tni', 'i_mask': 'imi', 't_mask': 'tmi',
    'star_catalog': 'ssf', 'iuthresh': 'iu', 'ilthresh': 'il',
    'tuthresh': 'tu', 'tlthresh': 'tl', 'iuktresh': 'iuk',
    'tuktresh': 'tuk', 'iukthresh': 'iuk', 'tukthresh': 'tuk',
    'igain': 'ig', 'irdnoise': 'ir', 'ipedestal': 'ip',
    'tgain': 'tg', 'trdnoise': 'tr', 'tpedestal': 'tp',
    'rkernel': 'r', 'hwkernel': 'r', 'ko': 'ko', 'bgo': 'bgo',
    'force_convolve': 'c', 'normalize': 'n', 'fitthresh': 'ft', 'ks': 'ks',
    'nss': 'nss', 'rss': 'rss', 'use_pca': 'pca', 'nstampx': 'nsx',
    'nstampy': 'nsy', 'nregx': 'nrx', 'nregy': 'nry', 'ngauss': 'ng',
    'deg_fixe': 'deg_fixe', 'sigma_gauss': 'sigma_gauss',
    'scale_fitthresh': 'sft', 'min_frac_stamps': 'nft',
    'kf_spread_mask1': 'mins', 'kfm': 'kfm', 'rescale_ok': 'okn',
    'mask_image_file': 'omi', 'noise_image_file': 'oni',
    'sigma_image_file': 'ond', 'convolved_image_file': 'oci',
    'stamp_region_file': 'savexy', 'fom': 'fom', 'stat_sig': 'ssig',
    'fillval': 'fi', 'fillval_noise': 'fin', 'conv_var': 'convvar',
    'verbose': 'v', 'nx': 'nx', 'ny': 'nx',
}


def _read(options):
    """
    Return the name, the flag, and the values of each option.
    """
    if isinstance(options, str | PathLike):
        text = str(options)
        if not text.lstrip().startswith(('-', 'hotpants ')):
            text = Path(options).expanduser().read_text(encoding='utf-8')
            lines = [line for line in text.splitlines()
                     if not line.lstrip().startswith('#')]
            text = '\n'.join(lines)
        if 'HotpantsConfig(' in text:
            return _from_mapping(_constants_of(text))
        if not text.lstrip().startswith(('-', 'hotpants ')):
            mapping = yaml.safe_load(text)
            if not isinstance(mapping, dict):
                msg = ('options must be flags, as "-r 10", or keys and '
                       f'values, as "rkernel: 10": {text[:40]!r}')
                raise ValueError(msg)
            return _from_mapping(mapping)
        return _from_words(shlex.split(text.replace('\\\n', ' ')))
    if isinstance(options, list | tuple):
        return _from_words([str(word) for word in options])
    if not hasattr(options, 'items'):
        options = vars(options)
    return _from_mapping(options)


def _constants_of(text):
    """
    Return the arguments of ``HotpantsConfig(...)`` in Python code.
    """
    # parsed, not run: a configuration of a stranger must not execute code
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        msg = f'the Python code cannot be read: {error}'
        raise ValueError(msg) from None
    found = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or ast.unparse(
                node.func).rpartition('.')[2] != 'HotpantsConfig':
            continue
        for keyword in node.keywords:
            try:
                found[keyword.arg] = ast.literal_eval(keyword.value)
            except (ValueError, TypeError):
                msg = (f'{keyword.arg or "**"} of HotpantsConfig must be a '
                       f'constant: {ast.unparse(keyword.value)}')
                raise ValueError(msg) from None
    return found


def _from_words(words):
    words = list(words)
    if words and Path(words[0]).name == 'hotpants':
        del words[0]
    flags = (_RULES.keys() | _DROPPED.keys()) - _KEYS_ONLY
    given = []
    while words:
        option = words.pop(0)
        flag = option.removeprefix('-')
        if not option.startswith('-') or flag not in flags:
            _raise_unknown(option, [f'-{name}' for name in flags])
        n_values = (_RULES.get(flag) or _DROPPED[flag])[0]
        if n_values is None:
            # the first value is the number of those that follow
            number = int(words[0]) if words and words[0].isdigit() else 0
            n_values = 1 + number * (2 if flag == 'ng' else 1)
        if len(words) < n_values:
            msg = f'{option} needs {n_values} values: got {len(words)}'
            raise ValueError(msg)
        values, words = words[:n_values], words[n_values:]
        given.append((option, flag, values))
    return given


def _from_mapping(mapping):
    """
    Return the options of a dictionary; those that are `None` or `False`
    are not set.
    """
    given = []
    for key, value in mapping.items():
        if key not in _FLAGS:
            _raise_unknown(key, _FLAGS)
        # pyhotpants has False for a flag that is not set
        if value is None or value is False:
            continue
        flag = _FLAGS[key]
        rule = _RULES.get(flag)
        values = [] if rule is not None and rule.n_values == 0 else [value]
        given.append((key, flag, values))
    return given


def _raise_unknown(option, known):
    close = difflib.get_close_matches(str(option), list(known), n=1)
    hint = f'; did you mean {close[0]}?' if close else ''
    msg = f'{option!r} is not an option of HOTPANTS{hint}'
    raise ValueError(msg)
