# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Configurations of Hyper-py, converted to those of ``hyperphot``.

The table ``_RULES`` has the documented default of each key of Hyper-py,
and its `_Conversion`, or the rule that returns it when it is called with
the value and a function that returns the values of other keys.
"""

import difflib
import textwrap
from pathlib import Path
from typing import NamedTuple

from hyperphotutils.pipeline.config import ConfigError, PipelineConfig
from hyperphotutils.pipeline.config_files import (
    config_to_yaml,
    override_config,
    read_yaml,
)
from hyperphotutils.pipeline.text import (
    expand_path,
    printable,
    quote,
    read_text,
)

__all__ = [
    'HyperPyConfig',
    'hyper_py_to_yaml',
    'is_hyper_py',
    'read_hyper_py',
]

# Sections that exist only in Hyper-py
_SECTIONS = frozenset({'paths', 'files', 'control', 'units', 'survey',
                       'fit_options', 'fits_output', 'visualization'})

_FITS = ('.fits', '.fit', '.fts', '.fits.gz', '.fit.gz', '.fts.gz')

_WIDTH = 79

# What Hyper-py always does, without a key for it: value and reason
_FIXED = {
    'detection.kernel': ('box', 'the filter of Hyper-py'),
    'fit.max_rounds': (
        0, 'Hyper-py does not search the residual for missed sources, the '
        'default here'),
    'photometry.aperture_correction': (
        False, 'Hyper-py does not correct apertures; true returns the flux '
        'of the whole source'),
}


class HyperPyConfig(NamedTuple):
    """
    A converted configuration of Hyper-py.

    Parameters
    ----------
    config : `~hyperphotutils.pipeline.PipelineConfig`
        The configuration.

    converted : tuple of str
        A line for each converted key, and for each value that is set
        because Hyper-py has no key for it.

    dropped : tuple of str
        A line for each key that has no effect here, with the reason.

    unsupported : tuple of str
        A line for each key that could not be converted, with the reason.

    origins : dict
        The line of the file, by key of the configuration.
    """

    config: PipelineConfig
    converted: tuple
    dropped: tuple
    unsupported: tuple
    origins: dict


def is_hyper_py(values):
    """
    Return whether the values of a file are a configuration of Hyper-py.

    Parameters
    ----------
    values : dict
        The nested values.

    Returns
    -------
    result : bool
        `True` if there is a section that exists only in Hyper-py.

    Examples
    --------
    >>> from hyperphotutils.compat.hyper_py import is_hyper_py
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
        The file. Missing keys have Hyper-py's documented defaults.
        Relative folders refer to the working folder or, if they do not
        exist there, to the folder of the file.

    Returns
    -------
    result : `HyperPyConfig`
        The configuration, and a report on the conversion.

    Raises
    ------
    ConfigError
        If the file cannot be read, has a key unknown to Hyper-py or a
        value of the wrong type, or if options exclude each other.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from hyperphotutils.compat.hyper_py import read_hyper_py
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
    _check_types(given, where)

    def get(key):
        return given[key] if key in given else _RULES[key][0]

    given[_FOLDER] = path.parent
    results = {key: rule(get(key), get) if callable(rule) else rule
               for key, (_, rule) in _RULES.items()}
    ours = {name: value for name, (value, _) in _FIXED.items()}
    names = {}
    for key, result in results.items():
        ours |= result.values
        place = where.get(key, str(path))
        names |= dict.fromkeys(result.values, f'{place}: {key}')
    config = override_config(PipelineConfig(), ours, names=names)
    # one line per key
    report = {'converted': [], 'dropped': [], 'unsupported': []}
    for key, result in results.items():
        if key not in given and not result.values:
            continue
        value = (f' = {_format(given[key])}' if key in given
                 else " (Hyper-py's default)")
        ours = ', '.join(f'{name} = {_format(item)}'
                         for name, item in result.values.items())
        reason = '; '.join(filter(None, (ours, result.reason)))
        report[result.kind].append(
            f'{key}{value}: {reason}' if reason else f'{key}{value}')
    report['converted'] += [f'{name} = {_format(value)}: {reason}'
                            for name, (value, reason) in _FIXED.items()]
    return HyperPyConfig(config, *map(tuple, report.values()), {
        name: f'line {line_of[key]}: {key}'
        for key, result in results.items() if key in given
        for name in result.values})


def hyper_py_to_yaml(path):
    """
    Convert a configuration of Hyper-py to YAML text.

    Parameters
    ----------
    path : str or path-like
        The file of Hyper-py.

    Returns
    -------
    text : str
        A commented configuration of ``hyperphot``, with a report on the
        conversion of each key at the top.

    Raises
    ------
    ConfigError
        As in `read_hyper_py`.
    """
    result = read_hyper_py(path)
    head = [f'Made from {path}, a configuration of Hyper-py.']
    for title, rows in (('Converted:', result.converted),
                        ('Not converted:', result.unsupported),
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
    Yield the keys of Hyper-py, such as 'paths.input.dir_maps', and their
    values.
    """
    for name, value in values.items():
        path = (*above, str(name))
        key = '.'.join(path)
        if isinstance(value, dict) and key not in _RULES:
            yield from _flatten(value, path)
        elif value is not None or key in _RULES or key not in _BRANCHES:
            yield key, value


def _check_types(given, where):
    """
    Raise an error for unknown keys and values of the wrong type.
    """
    problems = []
    for key, value in given.items():
        if key not in _RULES:
            near = difflib.get_close_matches(key, _RULES, n=1, cutoff=0.6)
            hint = f"; did you mean '{near[0]}'?" if near else ''
            problems.append(f"{where[key]}: unknown key '{key}' of "
                            f'Hyper-py{hint}')
            continue
        default = _RULES[key][0]
        items = value if isinstance(value, list) else [value]
        if isinstance(default, bool):
            allowed, is_valid = 'true or false', isinstance(value, bool)
        elif _is_number(default):
            allowed, is_valid = 'a number', _is_number(value)
        elif isinstance(default, list):
            allowed, is_valid = 'a list', bool(items) and all(
                _is_number(item) or isinstance(item, str) for item in items)
        else:
            allowed = 'a text'
            is_valid = isinstance(value, str) and value != ''
        # the only key that may be null
        if not is_valid and (key, value) != ('fit_options.weights', None):
            problems.append(f'{where[key]}: {key}: {quote(value)} is not '
                            f'allowed, must be {allowed}')
    if problems:
        raise ConfigError(problems)


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _format(value):
    """
    Format a value as in YAML, long lists abbreviated.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return 'null'
    if isinstance(value, list | tuple):
        text = ', '.join(map(_format, value[:5]))
        return f'[{text}, ...]' if len(value) > 5 else f'[{text}]'
    if isinstance(value, dict):
        text = ', '.join(f'{key}: {_format(item)}'
                         for key, item in value.items())
        return f'{{{text}}}'
    return str(value)


class _Conversion(NamedTuple):
    """
    The result of a rule: kind, new values by key, and reason.
    """

    kind: str
    values: dict
    reason: str = ''


def _converted(values, reason=''):
    return _Conversion('converted', values, reason)


def _dropped(reason):
    return _Conversion('dropped', {}, reason)


def _unsupported(reason):
    return _Conversion('unsupported', {}, reason)


def _to(*names, convert=lambda value: value):
    """
    Return a rule that sets keys to the value.
    """
    return lambda value, _: _converted(dict.fromkeys(names, convert(value)))


def _with(key):
    """
    Return the conversion of a key that is converted with another one.
    """
    return _converted({}, f'see {key}')


def _if(key, rule):
    """
    Return a rule that drops a key if another one is false.
    """
    name = key.rpartition('.')[2]

    def conditional(value, get):
        return rule(value, get) if get(key) else _dropped(f'{name} is false')

    return conditional


def _of_maps(name):
    """
    Return a rule for products that maps have, but not cubes.
    """
    def rule(value, get):
        if value and get('control.datacube'):
            return _unsupported('cubes have no files of single groups or '
                                'sources')
        return _converted({name: value})

    return rule


_FIXED_NAMES = ('each map has one folder in output.directory with all of '
                'its files, under fixed names')

# The folder of the configuration, stored like a key
_FOLDER = '/folder'


def _find_path(name, get):
    """
    Return a path in the working folder or that of the configuration.
    """
    try:
        name = expand_path(name)
    except ValueError as exc:
        raise ConfigError([str(exc)]) from exc
    beside = get(_FOLDER) / name
    if not Path(name).exists() and beside.exists():
        return beside
    return Path(name)


def _as_list(value):
    return value if isinstance(value, list) else [value]


def _maps(name, get):
    folder = _find_path(get('paths.input.dir_maps'), get)
    path = folder / name
    if name.lower().endswith(_FITS):
        return _converted({'input.maps': [str(path)]})
    try:
        text = read_text(path)
    except (OSError, ValueError):
        return _unsupported(f'{path} cannot be read: name the maps in '
                            'input.maps, or on the command line')
    rows = [line.strip() for line in text.splitlines()]
    maps = [str(folder / row) for row in rows
            if row and not row.startswith('#')]
    return _converted({'input.maps': maps})


def _rms(value, get):
    reason = 'in Jy/pixel'
    if get('units.convert_mJy'):
        value /= 1000.0
        reason = 'with convert_mJy, Hyper-py takes it in mJy/pixel'
    return _converted({'detection.rms': value}, (
        f'{reason}; of the filtered map, whose noise is not that of the map '
        'filtered by Hyper-py: check it, or omit it'))


def _table(value, get):
    path = _find_path(str(Path(get('paths.output.dir_root')) / value), get)
    reason = ('' if get('detection.fixed_peaks') else
              'note that Hyper-py 1.2.3 uses the positions of the table only '
              'if fixed_peaks is also true')
    return _converted({'sources.table': str(path)}, reason)


def _position(name):
    def rule(value, get):
        if get('detection.use_fixed_source_table'):
            return _dropped('the table has the positions')
        return _if('detection.fixed_peaks', _to(name, convert=_as_list))(
            value, get)

    return rule


_SHAPE = {'photometry.fwhm_1': 'fwhm_major', 'photometry.fwhm_2': 'fwhm_minor',
          'photometry.PA_val': 'position_angle'}


def _fixed_radius(value, get):
    # In Hyper-py, only the apertures have a fixed shape, not the fits.
    if not value:
        return _converted({}, 'apertures follow the fits')
    if get('detection.use_fixed_source_table'):
        return _converted({'photometry.aperture': 'sources'},
                          'those of the table')
    lists = {name: _as_list(get(key)) for key, name in _SHAPE.items()}
    if all(len(values) == 1 for values in lists.values()):
        major, minor, angle = (values[0] for values in lists.values())
        if minor > major:
            major, minor, angle = minor, major, angle + 90.0
        return _converted({'photometry.aperture': {
            'major': major, 'minor': minor, 'position_angle': angle}})
    if not get('detection.fixed_peaks'):
        return _unsupported('different ellipses need given positions: '
                            'fixed_peaks, or a table')
    values = {f'sources.{name}': items[0] if len(items) == 1 else items
              for name, items in lists.items()}
    return _converted({'photometry.aperture': 'sources', **values})


def _shape(_, get):
    if get('detection.use_fixed_source_table'):
        return _dropped('the table has the shapes')
    return _converted({}, 'see photometry.fixed_radius')


def _limits(value, get):
    # At twice the largest semiaxis, two of the largest apertures touch.
    limits = [get('photometry.aper_inf'), value]
    ratio = get('photometry.fwhm_radius_ratio')
    values = {'fit.fwhm_range': limits,
              'grouping.max_separation': 2.0 * value * ratio}
    if not get('photometry.fixed_radius'):
        values['photometry.fwhm_limits'] = limits
    return _converted(values)


def _weights(value, _):
    if value is None or value in {'null', 'none', 'None'}:
        return _converted({}, 'the noise weights the pixels: fit.noise')
    if value == 'inverse_rms':
        return _converted({}, 'the rms of a map is one number; use fit.noise '
                          'instead')
    if value == 'mask':
        return _converted({}, 'masked pixels are always ignored')
    if value == 'map':
        return _unsupported('give the file of the weights as fit.weight_map, '
                            'with fit.weights: map')
    return _converted({'fit.weights': value},
                      'with the signal of the fit, not of the data'
                      if value in {'snr', 'power_snr'} else '')


def _criterion(value, get):
    names = [name for name, key in (
        ('background.criterion', 'background.fit_gauss_and_bg_separately'),
        ('fit.criterion', 'background.fit_gauss_and_bg_together'))
        if get(key)]
    if not names:
        return _dropped('no background is fitted')
    criterion = 'reduced_chi2' if value == 'redchi' else value
    return _converted(dict.fromkeys(names, criterion))


def _boxes(value, get):
    # The keys are the distances from the largest aperture to the edge of
    # the box, as the sizes of Hyper-py's FITS files show.
    smallest = get('background.fix_min_box')
    if smallest <= 0:
        return _converted({'background.box_sizes': [0.0]},
                          'fix_min_box = 0 means the whole map')
    smallest, largest = (2.0 * (size + get('photometry.aper_sup'))
                         for size in (smallest, value))
    n_steps = max(0, int((largest - smallest) / 0.5 + 1e-9))
    sizes = [smallest + 0.5 * step for step in range(n_steps + 1)]
    return _converted({'background.box_sizes': sizes},
                      'the side of a box is 2 (fix_box + aper_sup) beam FWHM')


_SEPARATE = 'background.fit_gauss_and_bg_separately'
_TOGETHER = 'background.fit_gauss_and_bg_together'

# The documented default of each key of Hyper-py, and its rule
_RULES = {
    'paths.input.dir_maps': ('./maps', _with('files.file_map_name')),
    'paths.output.dir_root': ('./output', _to('output.directory')),
    'paths.output.dir_table_out': ('params', _dropped(_FIXED_NAMES)),
    'paths.output.dir_region_out': ('regions', _dropped(_FIXED_NAMES)),
    'paths.output.dir_log_out': ('logs', _dropped(_FIXED_NAMES)),
    'files.file_map_name': ('maps_list.txt', _maps),
    'files.file_table_base': ('params', _dropped(_FIXED_NAMES)),
    'files.file_region_base': ('region_files', _dropped(_FIXED_NAMES)),
    'files.file_log_name': ('hyper_py.log', _dropped(_FIXED_NAMES)),
    'control.parallel_maps': (True, _with('control.n_cores')),
    'control.n_cores': (2, lambda value, get: _converted({
        'run.n_workers': value if get('control.parallel_maps') else 1})),
    'control.detection_only': (False, _to('run.detection_only')),
    'control.datacube': (False, _to('input.datacube')),
    'control.dir_datacube_slices': (
        'maps', _dropped('cubes are not cut into files')),
    'units.convert_mJy': (False, lambda value, _: _converted({
        'output.flux_unit': f'{"m" * value}Jy',
        'output.peak_unit': f'{"m" * value}Jy/beam'})),
    'survey.survey_code': (15, lambda value, _: _converted(
        {}, 'the beam is read from the header') if value == 15
        else _converted({'input.survey': value})),
    'detection.sigma_thres': (4.0, _to('detection.n_sigma')),
    'detection.use_manual_rms': (False, _with('detection.rms_value')),
    'detection.rms_value': (
        1e-6, _if('detection.use_manual_rms', _rms)),
    'detection.kernel_size_pix': (
        0, _to('detection.kernel_size', convert=lambda size: size or None)),
    'detection.roundlim': ([-4.0, 4.0], _to('detection.roundness_range')),
    'detection.sharplim': ([-2.0, 2.0], _to('detection.sharpness_range')),
    'detection.use_fixed_source_table': (
        False, _with('detection.fixed_source_table_path')),
    'detection.fixed_source_table_path': (
        'source_table.txt',
        _if('detection.use_fixed_source_table', _table)),
    'detection.fixed_peaks': (False, _with('detection.xcen_fix')),
    'detection.xcen_fix': ([1.0, 1.0], _position('sources.x')),
    'detection.ycen_fix': ([1.0, 1.0], _position('sources.y')),
    'photometry.aper_inf': (1.0, _with('photometry.aper_sup')),
    'photometry.aper_sup': (2.0, _limits),
    'photometry.fwhm_radius_ratio': (
        1.0, _to('photometry.fwhm_radius_ratio')),
    'photometry.fixed_radius': (False, _fixed_radius),
    'photometry.fwhm_1': (
        [0.0], _if('photometry.fixed_radius', _shape)),
    'photometry.fwhm_2': (
        [0.0], _if('photometry.fixed_radius', _shape)),
    'photometry.PA_val': (
        [0.0], _if('photometry.fixed_radius', _shape)),
    'fit_options.fit_method': (
        'least_squares',
        _dropped('there is only one method, in both programs')),
    'fit_options.loss': ('linear', _to('fit.loss')),
    'fit_options.f_scale': (0.1, lambda value, get: _dropped(
        'fit_options.loss is linear') if get('fit_options.loss') == 'linear'
        else _converted({'fit.f_scale': value})),
    'fit_options.max_nfev': (50000, lambda value, _: _converted({
        'fit.max_iter': value}) if value < PipelineConfig().fit.max_iter
        else _dropped('fit.max_iter is sufficient')),
    'fit_options.xtol': (1e-8, _to('fit.xtol')),
    'fit_options.ftol': (1e-8, _to('fit.ftol')),
    'fit_options.gtol': (1e-8, _to('fit.gtol')),
    'fit_options.weights': ('snr', _weights),
    'fit_options.power_snr': (5, lambda value, get: _converted({
        'fit.weight_power': value}) if get('fit_options.weights') ==
        'power_snr' else _dropped('fit_options.weights is not power_snr')),
    'fit_options.calc_covar': (
        False, _dropped('errors always come from the covariance')),
    'fit_options.min_method': ('nmse', _criterion),
    'fit_options.verbose': (
        False, _dropped('the table has the results of each fit')),
    'fit_options.use_l2_regularization': (
        True, _with('fit_options.lambda_l2')),
    'fit_options.lambda_l2': (
        1e-4, _if('fit_options.use_l2_regularization',
                  _if(_TOGETHER, _to('fit.ridge')))),
    'fit_options.vary': (
        False, _to('fit.fixed',
                   convert=lambda vary: [] if vary else ['position'])),
    'fit_options.bg_fitters': (
        ['least_squares'],
        _if(_SEPARATE, _to('background.methods', convert=lambda names: [
            'lsq' if name == 'least_squares' else name
            for name in _as_list(names)]))),
    'fit_options.huber_epsilons': (
        [1.1, 1.35, 1.7, 2.0],
        _if(_SEPARATE, _to('background.huber_epsilons', convert=_as_list))),
    'background.fit_gauss_and_bg_separately': (
        True, _with('background.fix_max_box')),
    'background.pol_orders_separate': (
        [0, 1, 2],
        _if(_SEPARATE, _to('background.orders', convert=_as_list))),
    'background.fix_min_box': (3, _with('background.fix_max_box')),
    'background.fix_max_box': (5, _if(_SEPARATE, _boxes)),
    'background.fit_gauss_and_bg_together': (
        False, _with('background.polynomial_orders')),
    'background.polynomial_orders': (
        [0], _if(_TOGETHER, _to('fit.poly_order', convert=lambda orders: (
            orders[0] if isinstance(orders, list) and len(orders) == 1
            else orders)))),
    'background.pol_orders_bkg_no_sources': (
        [0], _if('control.datacube',
                 _to('cubes.empty_orders', convert=_as_list))),
    'fits_output.fits_fitting': (
        False, _with('fits_output.fits_bg_separate')),
    'fits_output.fits_deblended': (False, _of_maps('output.fits_sources')),
    # models and backgrounds are in one file
    'fits_output.fits_bg_separate': (False, lambda value, get: _of_maps(
        'output.fits_groups')(value or get('fits_output.fits_fitting'), get)),
    'fits_output.fits_output_dir_fitting': (
        'fits/fitting', _dropped(_FIXED_NAMES)),
    'fits_output.fits_output_dir_deblended': (
        'fits/deblended', _dropped(_FIXED_NAMES)),
    'fits_output.fits_output_dir_bg_separate': (
        'fits/bg_separate', _dropped(_FIXED_NAMES)),
    'visualization.visualize_fitting': (
        False, _of_maps('output.plots_groups')),
    'visualization.visualize_deblended': (
        False, _of_maps('output.plots_sources')),
    'visualization.visualize_bg_separate': (
        False, _of_maps('output.plots_backgrounds')),
    'visualization.output_dir_fitting': (
        'plots/fitting', _dropped(_FIXED_NAMES)),
    'visualization.output_dir_deblended': (
        'plots/deblended', _dropped(_FIXED_NAMES)),
    'visualization.output_dir_bg_separate': (
        'plots/bg_separate', _dropped(_FIXED_NAMES)),
}

# The sections of these keys, which may be empty
_BRANCHES = frozenset(key.rsplit('.', depth)[0] for key in _RULES
                      for depth in (1, 2))
