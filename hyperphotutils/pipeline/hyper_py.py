# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Configurations of Hyper-py in terms of ours.

The table ``_RULES`` has a line for each key of Hyper-py: its documented
default, and what becomes of it. A rule gets the value and a function
that gives those of other keys, and returns an `_Outcome`.
"""

import difflib
import textwrap
from pathlib import Path
from typing import NamedTuple

from hyperphotutils.pipeline.config import (
    config_to_yaml,
    override_config,
)
from hyperphotutils.pipeline.names import (
    expand_path,
    printable,
    read_text,
)
from hyperphotutils.pipeline.options import PipelineConfig
from hyperphotutils.pipeline.yaml_files import ConfigError, read_yaml

__all__ = [
    'HyperPyConfig',
    'hyper_py_to_yaml',
    'is_hyper_py',
    'read_hyper_py',
]

# Sections that only Hyper-py has
_SECTIONS = frozenset({'paths', 'files', 'control', 'units', 'survey',
                       'fit_options', 'fits_output', 'visualization'})

_FITS = ('.fits', '.fit', '.fts', '.fits.gz', '.fit.gz', '.fts.gz')

_WIDTH = 79

# More would only hide the first
_MAX_PROBLEMS = 20

# What is so in Hyper-py without a key
_ALWAYS = {
    'detection.kernel': 'box',
    'fit.max_rounds': 0,
    'photometry.aperture_correction': False,
}


class HyperPyConfig(NamedTuple):
    """
    A configuration of Hyper-py in terms of ours.

    Parameters
    ----------
    config : `PipelineConfig`
        Our configuration.

    kept : tuple of str
        A line for each key that was taken over, and for what is set
        because Hyper-py has no key for it.

    dropped : tuple of str
        A line for each key that has nothing to say here, with the
        reason.

    unsupported : tuple of str
        A line for each key whose value cannot be had, with the reason.

    origins : dict
        The line of the file by the key path in our configuration.
    """

    config: PipelineConfig
    kept: tuple
    dropped: tuple
    unsupported: tuple
    origins: dict


def is_hyper_py(values):
    """
    Tell whether the values of a file are a configuration of Hyper-py.

    Parameters
    ----------
    values : dict
        The nested values.

    Returns
    -------
    result : bool
        `True` if there is a section that only Hyper-py has.

    Examples
    --------
    >>> from hyperphotutils.pipeline import is_hyper_py
    >>> is_hyper_py({'detection': {'n_sigma': 5}})
    False
    >>> is_hyper_py({'survey': {'survey_code': 15}})
    True
    """
    return bool(_SECTIONS & set(values))


def read_hyper_py(path):
    """
    Read a configuration file of Hyper-py.

    Parameters
    ----------
    path : str or path-like
        The file. Keys that it does not name have Hyper-py's documented
        defaults. Relative folders in it begin at the working folder or,
        where that lacks them, at the folder of the file.

    Returns
    -------
    result : `HyperPyConfig`
        Our configuration, and what became of each key.

    Raises
    ------
    ConfigError
        If the file cannot be read, has a key that Hyper-py does not
        know or a value of the wrong kind, or if options exclude each
        other.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from hyperphotutils.pipeline import read_hyper_py
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, 'hyper_config.yaml')
    ...     _ = path.write_text('detection: {sigma_thres: 6}')
    ...     result = read_hyper_py(path)
    >>> result.config.detection.n_sigma
    6.0
    """
    values, lines = read_yaml(path)
    path = Path(expand_path(path))
    given = dict(_flatten(values))
    line_of = {'.'.join(loc): number for loc, number in lines.items()}
    where = {key: f'{path}: line {line_of[key]}' for key in given}
    _check(given, where)

    def get(key):
        return given[key] if key in given else _RULES[key][0]

    # not a key: relative folders may begin there
    given[_FOLDER] = path.parent
    outcomes = {key: rule(get(key), get)
                for key, (_, rule) in _RULES.items()}
    ours, names = dict(_ALWAYS), {}
    for key, outcome in outcomes.items():
        ours |= outcome.values
        told = where.get(key, str(path))
        names |= dict.fromkeys(outcome.values, f'{told}: {key}')
    config = override_config(PipelineConfig(), ours, names=names)
    return HyperPyConfig(config, *_tell(outcomes, given), {
        name: f'line {line_of[key]}: {key}'
        for key, outcome in outcomes.items() if key in given
        for name in outcome.values})


def hyper_py_to_yaml(path):
    """
    Write a configuration of Hyper-py as one of ours.

    Parameters
    ----------
    path : str or path-like
        The file of Hyper-py.

    Returns
    -------
    text : str
        A commented YAML file. Its head says what became of each key.

    Raises
    ------
    ConfigError
        As `read_hyper_py`.
    """
    result = read_hyper_py(path)
    head = [f'Made from {path}, a configuration of Hyper-py.']
    for title, rows in (('Taken over:', result.kept),
                        ('Not taken over:', result.unsupported),
                        ('Dropped:', result.dropped)):
        if rows:
            head += ['', title, *(f'  {row}' for row in rows)]
    lines = []
    for row in head:
        indent = '#     ' if row.startswith(' ') else '# '
        lines += textwrap.wrap(
            f'# {printable(row)}', _WIDTH, subsequent_indent=indent,
            break_on_hyphens=False, break_long_words=False) or ['#']
    lines = [line.rstrip() for line in lines]
    return '\n'.join(lines) + '\n\n' + config_to_yaml(result.config)


def _flatten(values, above=()):
    """
    Yield key paths and values, down to the keys that Hyper-py has.
    """
    for name, value in values.items():
        path = (*above, str(name))
        key = '.'.join(path)
        if isinstance(value, dict) and key not in _RULES:
            yield from _flatten(value, path)
        elif value is not None or key in _RULES or key not in _BRANCHES:
            yield key, value


def _check(given, where):
    """
    Refuse unknown keys and values of the wrong kind, all at once.
    """
    problems = []
    for key, value in given.items():
        if len(problems) == _MAX_PROBLEMS:
            problems.append('and perhaps more problems')
            break
        if key not in _RULES:
            near = difflib.get_close_matches(key, _RULES, n=1, cutoff=0.6)
            hint = f"; did you mean '{near[0]}'?" if near else ''
            problems.append(f"{where[key]}: unknown key '{key}' of "
                            f'Hyper-py{hint}')
            continue
        kind = _kind(_RULES[key][0])
        if not _KINDS[kind](value) and (key, value) != _NO_WEIGHTS:
            problems.append(f'{where[key]}: {key}: '
                            f'{_quoted(value)} is not allowed, '
                            f'must be {kind}')
    if problems:
        raise ConfigError(problems)


def _quoted(value):
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list(value):
    values = value if isinstance(value, list) else [value]
    return len(values) > 0 and all(_is_number(item) or isinstance(item, str)
                                   for item in values)


# The only key that may be null
_NO_WEIGHTS = ('fit_options.weights', None)

_KINDS = {
    'true or false': lambda value: isinstance(value, bool),
    'a number': _is_number,
    'a text': lambda value: isinstance(value, str) and value != '',
    'a list': _is_list,
}


def _kind(default):
    if isinstance(default, bool):
        return 'true or false'
    if _is_number(default):
        return 'a number'
    return 'a list' if isinstance(default, list) else 'a text'


def _tell(outcomes, given):
    """
    Say what became of the keys of a file, in three lists.
    """
    told = {'kept': [], 'dropped': [], 'unsupported': []}
    for key, outcome in outcomes.items():
        if key not in given and not outcome.values:
            continue
        value = (f' = {_shown(given[key])}' if key in given
                 else " (Hyper-py's default)")
        ours = ', '.join(f'{name} = {_shown(item)}'
                         for name, item in outcome.values.items())
        reason = '; '.join(filter(None, (ours, outcome.reason)))
        told[outcome.kind].append(
            f'{key}{value}: {reason}' if reason else f'{key}{value}')
    told['kept'] += [f'{name} = {_shown(value)}: {_REASONS[name]}'
                     for name, value in _ALWAYS.items()]
    return tuple(tuple(rows) for rows in told.values())


_REASONS = {
    'detection.kernel': 'the filter of Hyper-py',
    'fit.max_rounds': 'Hyper-py does not search the residual; 2 does',
    'photometry.aperture_correction': (
        'apertures of Hyper-py are not corrected; true gives the flux of '
        'the whole source'),
}


def _shown(value):
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return 'null'
    if isinstance(value, list | tuple):
        text = ', '.join(_shown(item) for item in value[:5])
        return f'[{text}, ...]' if len(value) > 5 else f'[{text}]'
    if isinstance(value, dict):
        text = ', '.join(f'{key}: {_shown(item)}'
                         for key, item in value.items())
        return f'{{{text}}}'
    return str(value)


class _Outcome(NamedTuple):
    """
    What becomes of a key: 'kept', 'dropped' or 'unsupported'.
    """

    kind: str
    values: dict
    reason: str = ''


def _to(*names):
    """
    The same value under our name.
    """
    return lambda value, _: _Outcome('kept', dict.fromkeys(names, value))


def _dropped(reason):
    return lambda *_: _Outcome('dropped', {}, reason)


def _with(key):
    return lambda *_: _Outcome('kept', {}, f'see {key}')


_NAMES_ARE_FIXED = ('each map has one folder in output.directory with all '
                    'of its files, under fixed names')

# Stands for the folder of the file among the keys
_FOLDER = '/folder'


def _maps(name, get):
    folder = _anchored(get('paths.input.dir_maps'), get)
    path = folder / name
    if name.lower().endswith(_FITS):
        return _Outcome('kept', {'input.maps': [str(path)]})
    try:
        text = read_text(path)
    except (OSError, ValueError):
        reason = (f'{path} cannot be read: name the maps in input.maps, or '
                  'on the command line')
        return _Outcome('unsupported', {}, reason)
    rows = [line.strip() for line in text.splitlines()]
    maps = [str(folder / row) for row in rows
            if row and not row.startswith('#')]
    return _Outcome('kept', {'input.maps': maps})


def _anchored(name, get):
    """
    Return a path below the working folder or that of the file.
    """
    try:
        name = expand_path(name)
    except ValueError as exc:
        raise ConfigError([str(exc)]) from exc
    beside = get(_FOLDER) / name
    if not Path(name).exists() and beside.exists():
        return beside
    return Path(name)


def _jobs(value, get):
    jobs = value if get('control.parallel_maps') else 1
    return _Outcome('kept', {'run.n_workers': jobs})


def _empty_orders(value, get):
    if not get('control.datacube'):
        return _Outcome('dropped', {}, 'it is for cubes')
    return _Outcome('kept', {'cubes.empty_orders': _as_list(value)})


def _units(value, _):
    prefix = 'm' * value
    return _Outcome('kept', {'output.flux_unit': f'{prefix}Jy',
                             'output.peak_unit': f'{prefix}Jy/beam'})


def _survey(value, _):
    if value == 15:
        return _Outcome('kept', {}, 'the beam is read from the header')
    return _Outcome('kept', {'input.survey': value})


def _rms(value, get):
    if not get('detection.use_manual_rms'):
        return _Outcome('dropped', {}, 'use_manual_rms is false')
    reason = ('of the filtered map, whose noise is not that of the map that '
              'Hyper-py filters: check it, or leave it out')
    if get('units.convert_mJy'):
        return _Outcome('kept', {'detection.rms': value / 1000.0},
                        'with convert_mJy, Hyper-py takes it in mJy/pixel; '
                        + reason)
    return _Outcome('kept', {'detection.rms': value},
                    'in Jy/pixel; ' + reason)


def _kernel_size(value, _):
    return _Outcome('kept', {'detection.kernel_size': value or None})


def _table(value, get):
    if not get('detection.use_fixed_source_table'):
        return _Outcome('dropped', {}, 'use_fixed_source_table is false')
    path = _anchored(str(Path(get('paths.output.dir_root')) / value), get)
    reason = ('' if get('detection.fixed_peaks') else
              'note that Hyper-py 1.2.3 takes the positions of the table only '
              'if fixed_peaks is true too')
    return _Outcome('kept', {'sources.table': str(path)}, reason)


def _position(name):
    def rule(value, get):
        if get('detection.use_fixed_source_table'):
            return _Outcome('dropped', {}, 'the table has the positions')
        if not get('detection.fixed_peaks'):
            return _Outcome('dropped', {}, 'fixed_peaks is false')
        return _Outcome('kept', {name: _as_list(value)})

    return rule


def _as_list(value):
    return value if isinstance(value, list) else [value]


def _fixed(value, _):
    """
    Return what is fixed: never the shapes, only apertures are.
    """
    return _Outcome('kept', {'fit.fixed': [] if value else ['position']})


_SHAPE = {'photometry.fwhm_1': 'fwhm_major', 'photometry.fwhm_2': 'fwhm_minor',
          'photometry.PA_val': 'position_angle'}


def _fixed_radius(value, get):
    """
    Return the ellipse of apertures that do not depend on the fits.
    """
    if not value:
        return _Outcome('kept', {}, 'apertures follow the fits')
    if get('detection.use_fixed_source_table'):
        return _Outcome('kept', {'photometry.aperture': 'sources'},
                        'those of the table')
    lists = {name: _as_list(get(key)) for key, name in _SHAPE.items()}
    if all(len(values) == 1 for values in lists.values()):
        major, minor, angle = (values[0] for values in lists.values())
        if minor > major:
            major, minor, angle = minor, major, angle + 90.0
        return _Outcome('kept', {'photometry.aperture': {
            'major': major, 'minor': minor, 'position_angle': angle}})
    if not get('detection.fixed_peaks'):
        reason = ('ellipses that differ need given positions: fixed_peaks, or '
                  'a table')
        return _Outcome('unsupported', {}, reason)
    values = {f'sources.{name}': items[0] if len(items) == 1 else items
              for name, items in lists.items()}
    return _Outcome('kept', {'photometry.aperture': 'sources', **values})


def _shape(_, get):
    if not get('photometry.fixed_radius'):
        return _Outcome('dropped', {}, 'fixed_radius is false')
    if get('detection.use_fixed_source_table'):
        return _Outcome('dropped', {}, 'the table has the shapes')
    return _Outcome('kept', {}, 'see photometry.fixed_radius')


def _limits(value, get):
    """
    Return what depends on the largest aperture.
    """
    limits = [get('photometry.aper_inf'), value]
    ratio = get('photometry.fwhm_radius_ratio')
    values = {'fit.fwhm_range': limits,
              'grouping.max_separation': 2.0 * value * ratio}
    if not get('photometry.fixed_radius'):
        values['photometry.fwhm_limits'] = limits
    return _Outcome('kept', values)


def _joint_orders(value, get):
    if not get('background.fit_gauss_and_bg_together'):
        return _Outcome('dropped', {}, 'fit_gauss_and_bg_together is false')
    orders = _as_list(value)
    return _Outcome('kept', {
        'fit.poly_order': orders if len(orders) > 1 else orders[0]})


def _separate(name, convert=lambda value: value):
    """
    What only matters to a background that is estimated first.
    """
    def rule(value, get):
        if not get('background.fit_gauss_and_bg_separately'):
            return _Outcome('dropped', {},
                            'fit_gauss_and_bg_separately is false')
        return _Outcome('kept', {name: convert(value)})

    return rule


def _methods(value):
    return ['lsq' if name == 'least_squares' else name
            for name in _as_list(value)]


def _criterion(value, get):
    """
    Return what chooses among the backgrounds, fitted apart or together.
    """
    names = [name for name, key in (
        ('background.criterion', 'background.fit_gauss_and_bg_separately'),
        ('fit.criterion', 'background.fit_gauss_and_bg_together'))
        if get(key)]
    if not names:
        return _Outcome('dropped', {}, 'no background is fitted')
    ours = 'reduced_chi2' if value == 'redchi' else value
    return _Outcome('kept', dict.fromkeys(names, ours))


def _boxes(value, get):
    """
    Return all boxes in steps of half a beam width.

    The keys say how far the boxes of Hyper-py reach beyond the largest
    aperture on each side, as the sizes of its FITS files show.
    """
    if not get('background.fit_gauss_and_bg_separately'):
        return _Outcome('dropped', {}, 'fit_gauss_and_bg_separately is false')
    smallest = get('background.fix_min_box')
    if smallest <= 0:
        return _Outcome('kept', {'background.box_sizes': [0.0]},
                        'fix_min_box = 0 is the whole map')
    smallest, largest = (2.0 * (size + get('photometry.aper_sup'))
                         for size in (smallest, value))
    n_steps = max(0, int((largest - smallest) / 0.5 + 1e-9))
    sizes = [smallest + 0.5 * step for step in range(n_steps + 1)]
    return _Outcome('kept', {'background.box_sizes': sizes},
                    'a box has a side of 2 (fix_box + aper_sup) beam widths')


def _of_maps(name):
    """
    Files that maps can have, but not cubes.
    """
    def rule(value, get):
        if value and get('control.datacube'):
            return _Outcome('unsupported', {},
                            'cubes have no files of single groups or sources')
        return _Outcome('kept', {name: value})

    return rule


def _group_files(value, get):
    """
    Return what becomes of models and backgrounds: one file for both.
    """
    wanted = value or get('fits_output.fits_fitting')
    return _of_maps('output.fits_groups')(wanted, get)


def _scale(value, get):
    if get('fit_options.loss') == 'linear':
        return _Outcome('dropped', {}, 'fit_options.loss is linear')
    return _Outcome('kept', {'fit.f_scale': value})


def _steps(value, _):
    if value < PipelineConfig().fit.max_iter:
        return _Outcome('kept', {'fit.max_iter': value})
    return _Outcome('dropped', {}, 'fit.max_iter is enough')


def _weights(value, _):
    """
    Return the weights of the pixels.
    """
    if value is None or value in {'null', 'none', 'None'}:
        return _Outcome('kept', {}, 'the noise weights the pixels: fit.noise')
    if value == 'inverse_rms':
        reason = 'the rms of a map is one number: fit.noise does better'
        return _Outcome('kept', {}, reason)
    if value == 'mask':
        return _Outcome('kept', {}, 'masked pixels are always ignored')
    if value == 'map':
        reason = ('give the file of the weights as fit.weight_map, with '
                  'fit.weights: map')
        return _Outcome('unsupported', {}, reason)
    return _Outcome('kept', {'fit.weights': value},
                    'with the signal of the fit, not of the data'
                    if value in {'snr', 'power_snr'} else '')


def _power(value, get):
    if get('fit_options.weights') != 'power_snr':
        return _Outcome('dropped', {}, 'fit_options.weights is not power_snr')
    return _Outcome('kept', {'fit.weight_power': value})


def _ridge(value, get):
    if not get('fit_options.use_l2_regularization'):
        return _Outcome('dropped', {}, 'use_l2_regularization is false')
    if not get('background.fit_gauss_and_bg_together'):
        return _Outcome('dropped', {}, 'fit_gauss_and_bg_together is false')
    return _Outcome('kept', {'fit.ridge': value})


# Hyper-py's key: its documented default, and what becomes of it
_RULES = {
    'paths.input.dir_maps': ('./maps', _with('files.file_map_name')),
    'paths.output.dir_root': ('./output', _to('output.directory')),
    'paths.output.dir_table_out': ('params', _dropped(_NAMES_ARE_FIXED)),
    'paths.output.dir_region_out': ('regions', _dropped(_NAMES_ARE_FIXED)),
    'paths.output.dir_log_out': ('logs', _dropped(_NAMES_ARE_FIXED)),
    'files.file_map_name': ('maps_list.txt', _maps),
    'files.file_table_base': ('params', _dropped(_NAMES_ARE_FIXED)),
    'files.file_region_base': ('region_files', _dropped(_NAMES_ARE_FIXED)),
    'files.file_log_name': ('hyper_py.log', _dropped(_NAMES_ARE_FIXED)),
    'control.parallel_maps': (True, _with('control.n_cores')),
    'control.n_cores': (2, _jobs),
    'control.detection_only': (False, _to('run.detection_only')),
    'control.datacube': (False, _to('input.datacube')),
    'control.dir_datacube_slices': (
        'maps', _dropped('cubes are not cut into files')),
    'units.convert_mJy': (False, _units),
    'survey.survey_code': (15, _survey),
    'detection.sigma_thres': (4.0, _to('detection.n_sigma')),
    'detection.use_manual_rms': (False, _with('detection.rms_value')),
    'detection.rms_value': (1e-6, _rms),
    'detection.kernel_size_pix': (0, _kernel_size),
    'detection.roundlim': ([-4.0, 4.0], _to('detection.roundness_range')),
    'detection.sharplim': ([-2.0, 2.0], _to('detection.sharpness_range')),
    'detection.use_fixed_source_table': (
        False, _with('detection.fixed_source_table_path')),
    'detection.fixed_source_table_path': ('source_table.txt', _table),
    'detection.fixed_peaks': (False, _with('detection.xcen_fix')),
    'detection.xcen_fix': ([1.0, 1.0], _position('sources.x')),
    'detection.ycen_fix': ([1.0, 1.0], _position('sources.y')),
    'photometry.aper_inf': (1.0, _with('photometry.aper_sup')),
    'photometry.aper_sup': (2.0, _limits),
    'photometry.fwhm_radius_ratio': (
        1.0, _to('photometry.fwhm_radius_ratio')),
    'photometry.fixed_radius': (False, _fixed_radius),
    'photometry.fwhm_1': ([0.0], _shape),
    'photometry.fwhm_2': ([0.0], _shape),
    'photometry.PA_val': ([0.0], _shape),
    'fit_options.fit_method': (
        'least_squares', _dropped('the only one there, and here')),
    'fit_options.loss': ('linear', _to('fit.loss')),
    'fit_options.f_scale': (0.1, _scale),
    'fit_options.max_nfev': (50000, _steps),
    'fit_options.xtol': (1e-8, _to('fit.xtol')),
    'fit_options.ftol': (1e-8, _to('fit.ftol')),
    'fit_options.gtol': (1e-8, _to('fit.gtol')),
    'fit_options.weights': ('snr', _weights),
    'fit_options.power_snr': (5, _power),
    'fit_options.calc_covar': (
        False, _dropped('errors come from the covariance, always')),
    'fit_options.min_method': ('nmse', _criterion),
    'fit_options.verbose': (
        False, _dropped('the table has the results of each fit')),
    'fit_options.use_l2_regularization': (
        True, _with('fit_options.lambda_l2')),
    'fit_options.lambda_l2': (
        1e-4, _ridge),
    'fit_options.vary': (False, _fixed),
    'fit_options.bg_fitters': (
        ['least_squares'], _separate('background.methods', _methods)),
    'fit_options.huber_epsilons': (
        [1.1, 1.35, 1.7, 2.0],
        _separate('background.huber_epsilons', _as_list)),
    'background.fit_gauss_and_bg_separately': (
        True, _with('background.fix_max_box')),
    'background.pol_orders_separate': (
        [0, 1, 2], _separate('background.orders', _as_list)),
    'background.fix_min_box': (3, _with('background.fix_max_box')),
    'background.fix_max_box': (5, _boxes),
    'background.fit_gauss_and_bg_together': (
        False, _with('background.polynomial_orders')),
    'background.polynomial_orders': ([0], _joint_orders),
    'background.pol_orders_bkg_no_sources': (
        [0], _empty_orders),
    'fits_output.fits_fitting': (
        False, _with('fits_output.fits_bg_separate')),
    'fits_output.fits_deblended': (False, _of_maps('output.fits_sources')),
    'fits_output.fits_bg_separate': (False, _group_files),
    'fits_output.fits_output_dir_fitting': (
        'fits/fitting', _dropped(_NAMES_ARE_FIXED)),
    'fits_output.fits_output_dir_deblended': (
        'fits/deblended', _dropped(_NAMES_ARE_FIXED)),
    'fits_output.fits_output_dir_bg_separate': (
        'fits/bg_separate', _dropped(_NAMES_ARE_FIXED)),
    'visualization.visualize_fitting': (
        False, _of_maps('output.plots_groups')),
    'visualization.visualize_deblended': (
        False, _of_maps('output.plots_sources')),
    'visualization.visualize_bg_separate': (
        False, _of_maps('output.plots_backgrounds')),
    'visualization.output_dir_fitting': (
        'plots/fitting', _dropped(_NAMES_ARE_FIXED)),
    'visualization.output_dir_deblended': (
        'plots/deblended', _dropped(_NAMES_ARE_FIXED)),
    'visualization.output_dir_bg_separate': (
        'plots/bg_separate', _dropped(_NAMES_ARE_FIXED)),
}

# Key paths above those: empty ones say nothing
_BRANCHES = frozenset(key.rsplit('.', depth)[0] for key in _RULES
                      for depth in (1, 2))
