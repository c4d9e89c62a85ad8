# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The command ``hyperphot``.

Each subcommand is a function decorated with `_command`, which lists its
options. Options named by a key of the configuration, such as
``'detection.n_sigma'``, replace the value of that key; their help and
types are those of the configuration, by default `PipelineConfig`.
"""

import argparse
import contextlib
import difflib
import math
import os
import sys
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from hyperphotutils import __version__
from hyperphotutils.pipeline.bands import bands_overlap, summarize_bands
from hyperphotutils.pipeline.config import (
    ConfigError,
    EllipseOptions,
    PipelineConfig,
    check_config,
    find_unused_keys,
)
from hyperphotutils.pipeline.config_files import (
    config_template,
    override_config,
)
from hyperphotutils.pipeline.image_config import (
    GalaxiesOptions,
    ImageConfig,
    ImageOptions,
    KernelOptions,
    StampsOptions,
    SubtractConfig,
    expand_pairs,
)
from hyperphotutils.pipeline.jobs import (
    OutputError,
    PipelineError,
    expand_name,
    plan_jobs,
)
from hyperphotutils.pipeline.loading import load_config, show_config
from hyperphotutils.pipeline.process import merge_outcomes, process_maps
from hyperphotutils.pipeline.recover import recover_map, summarize_recovery
from hyperphotutils.pipeline.streams import (
    flush_output,
    open_closed_streams,
    print_error,
    print_line,
    write_output,
)
from hyperphotutils.startup import raise_on_interrupt

__all__ = ['main']

_DONE, _FAILED, _USAGE, _INTERRUPTED = 0, 1, 2, 130

_EPILOG = """\
exit status: 0 success, 1 some map failed (the others are completed) or the
output could not be written, 2 invalid usage (nothing was done), 130
interrupted; rerun the same command to continue a run that was stopped or
killed
"""

_RERUN = 'rerun the same command to continue'

# Options with other names than the last part of their keys
_NAMES = {'output.directory': '--output-dir', 'run.n_workers': '--jobs',
          'input.maps': 'MAP', 'kernel.hotpants': '--hotpants-config'}
_METAVARS = {
    'input.beam': 'FWHM', 'input.survey': 'NAME', 'input.frequency': 'GHZ',
    'input.psf': 'FILE', 'input.unit': 'UNIT', 'output.directory': 'DIR',
    'cubes.region': 'FILE', 'cubes.smoothing': 'N', 'run.scheduler': 'ADDRESS',
    'kernel.kernel_order': 'N,...', 'kernel.n_stamps': 'NY,NX',
    'kernel.n_regions': 'NY,NX', 'stamps.formats': 'NAME,...',
    'galaxies.n_bounds': 'MIN,MAX', 'image.gain_key': 'KEY',
    'input.sextracted': 'DIR',
}
_EXCLUSIVE = ('input.beam', 'input.survey')

# The options for values that headers lack
_HEADER = ('input.unit', 'input.beam', 'input.survey', 'input.frequency')

# The options of all commands with jobs
_JOBS = ('output.directory', 'run.n_workers', 'output.overwrite',
         'run.scheduler', 'run.quiet')

_commands = {}


def main(argv=None):
    """
    Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    status : int
        The exit status: 0 success, 1 some map failed or the standard
        output cannot be written, 2 invalid usage, 130 interrupted.

    Examples
    --------
    >>> from hyperphotutils.pipeline.cli import main
    >>> status = main(['config'])
    # Configuration of hyperphot. All keys are optional; the
    ...
    >>> status
    0
    """
    open_closed_streams()
    interrupted = 'nothing was done'
    try:
        raise_on_interrupt()
        options, unknown = _make_parser().parse_known_args(argv)
        if unknown:
            options.parser.reject(unknown)
        interrupted = options.interrupted
        status = _call(options)
    except SystemExit as exc:
        # from --help, --version, and invalid arguments
        if flush_output() is None:
            raise
        status = exc.code
    except KeyboardInterrupt:
        print_error(f'interrupted; {interrupted}')
        return _INTERRUPTED
    fault = flush_output()
    if fault is not None:
        print_error(f'the standard output cannot be written: {fault.strerror}')
        return max(status, _FAILED)
    return status


def _call(options):
    """
    Run a command, and print its errors without a traceback.
    """
    try:
        return options.function(options)
    except ConfigError as exc:
        for line in exc.problems:
            print_error(line)
        return _USAGE
    except OutputError as exc:
        print_error(exc)
        return _USAGE
    except PipelineError as exc:
        print_error(exc)
        return _FAILED
    except OSError as exc:
        # from the system, for example if the working folder was removed
        print_error(f'{exc.filename or Path()}: {exc.strerror or exc}')
        return _FAILED


class _Parser(argparse.ArgumentParser):
    """
    A parser whose errors are one line.
    """

    def error(self, message):
        files = [name for name in message.partition(': ')[2].split()
                 if name.startswith('-') and os.path.lexists(name)]
        if files:
            message += f'; write ./{files[0]} for a file of this name'
        print_error(f'{message} (see {self.prog} --help)')
        self.exit(_USAGE)

    def reject(self, arguments):
        """
        Exit because of unknown arguments, and suggest similar options.
        """
        message = f'unrecognized arguments: {" ".join(arguments)}'
        for argument in arguments:
            similar = difflib.get_close_matches(
                argument.partition('=')[0], self._option_string_actions, n=1)
            if similar and argument.startswith('--'):
                message += f'; did you mean {similar[0]}?'
        self.error(message)


def _make_parser():
    parser = _Parser(
        prog='hyperphot', allow_abbrev=False,
        description='Photometry of blended sources on structured '
                    'backgrounds.')
    parser.add_argument('--version', action='version',
                        version=f'hyperphot {__version__}')
    commands = parser.add_subparsers(title='commands', required=True,
                                     metavar='COMMAND')
    for name, (function, arguments, model, defaults,
               texts) in _commands.items():
        command = commands.add_parser(name, allow_abbrev=False, **texts)
        command.set_defaults(function=function, parser=command, **defaults)
        group = None
        for argument in arguments:
            is_key = isinstance(argument, str)
            place = command
            if argument in _EXCLUSIVE if is_key else argument[2]:
                # an empty group would be an error
                group = group or command.add_mutually_exclusive_group()
                place = group
            if is_key:
                _add_key(place, model, argument)
            else:
                args, kwargs, _ = argument
                place.add_argument(*args, **kwargs)
    return parser


def _add_key(command, model, key):
    """
    Add the option of a key of a configuration.
    """
    section, name = key.split('.')
    field = model.model_fields[section].annotation.model_fields[name]
    kind, choices = field.annotation, None
    if get_origin(kind) in {Union, UnionType}:
        parts = [part for part in get_args(kind) if part is not NoneType]
        kind = parts[0]
        if len(parts) > 1 and kind is not str and parts[1] is not bool:
            kind = _parse_value
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        kind, choices = str, get_args(kind)
    if get_origin(kind) is tuple:
        kind = _parse_values
    text = field.description.partition(';')[0].removeprefix('true = ')
    option = _option_of(key)
    if kind is bool and field.default:
        option = option.replace('--', '--no-', 1)
        command.add_argument(option, dest=key, action='store_false',
                             default=None,
                             help=f'{text.removeprefix("false = ")} [{key}]')
        return
    if kind is bool:
        command.add_argument(option, dest=key, action='store_true',
                             default=None, help=f'{text} [{key}]')
        return
    if kind is EllipseOptions:
        kind, text = _parse_ellipse, f'{text}, or MAJOR,MINOR,PA'
    metavar = _METAVARS.get(key, None if choices else {
        float: 'X', int: 'N', str: 'FILE', _parse_value: 'VALUE',
        _parse_values: 'X,...'}.get(kind))
    command.add_argument(option, dest=key, type=kind, choices=choices,
                         metavar=metavar, help=f'{text} [{key}]')


def _option_of(key):
    return _NAMES.get(key, f'--{key.split(".")[1].replace("_", "-")}')


def _command(name, *arguments, summary, description, interrupted, epilog=None,
             model=PipelineConfig, **defaults):
    """
    Return a decorator that makes a function a subcommand.

    Arguments are keys of the configuration ``model``, or results of
    `_argument`.
    The function is called with the parsed arguments, and returns the exit
    status. ``interrupted`` is the message after Ctrl-C.
    """
    texts = {'help': summary, 'description': description, 'epilog': epilog}
    defaults['interrupted'] = interrupted

    def register(function):
        _commands[name] = function, arguments, model, defaults, texts
        return function

    return register


def _argument(*args, exclusive=False, **kwargs):
    return args, kwargs, exclusive


def _maps_argument(metavar):
    name = metavar.lower()
    return _argument(
        'maps', nargs='*', metavar=metavar,
        help=f"a FITS file, a pattern ('{name}s/*.fits'), or a text file "
             f'with a {name} in each line (@FILE, or .txt); or a '
             'configuration (.yaml)')


_CONFIG = _argument(
    '--config', metavar='FILE',
    help="a configuration file of hyperphot, see 'hyperphot config', or of "
         'Hyper-py (default: hyperphot.yaml in the current directory, else '
         "the user's file)")


def _parse_ellipse(text):
    try:
        numbers = [float(part) for part in text.split(',')]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        return numbers[0]
    if len(numbers) == 3:
        return dict(zip(('major', 'minor', 'position_angle'), numbers,
                        strict=True))
    msg = f'must be FWHM or MAJOR,MINOR,PA in arcsec and deg: {text!r}'
    raise argparse.ArgumentTypeError(msg)


def _parse_value(text):
    """
    Return a number if it is one, and text otherwise.
    """
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _parse_values(text):
    return tuple(_parse_value(part.strip()) for part in text.split(','))


def _parse_count(text):
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        msg = f'must be a number of at least 1: {text!r}'
        raise argparse.ArgumentTypeError(msg)
    return number


def _parse_snr(text):
    try:
        low, high = (float(part) for part in text.split(','))
    except ValueError:
        low = high = 0.0
    if not 0.0 < low < high < math.inf:
        msg = f'must be MIN,MAX with 0 < MIN < MAX: {text!r}'
        raise argparse.ArgumentTypeError(msg)
    # bins of a factor of about sqrt(2)
    n_bins = max(1, round(2.0 * math.log2(high / low)))
    return [low * (high / low)**(number / n_bins)
            for number in range(n_bins + 1)]


def _load(path, options):
    """
    Return the loaded configuration, the configuration with the options
    applied, and the origin of each value.
    """
    loaded = load_config(path)
    values, names = _values_of(options)
    if any(key in values for key in _EXCLUSIVE):
        values = dict.fromkeys(_EXCLUSIVE) | values
    config = override_config(loaded.config, values, names=names)
    origins = {key: f'{loaded.source}: {line}'
               for key, line in loaded.origins.items()}
    return loaded, config, origins | names


def _values_of(options):
    """
    Return the values of the options that belong to keys, and the names of
    the options.
    """
    values = {key: value for key, value in vars(options).items()
              if '.' in key and value not in (None, [])}
    return values, {key: _option_of(key) for key in values}


@_command(
    'run', _maps_argument('MAP'), _CONFIG, 'output.directory', *_HEADER,
    'input.psf', 'detection.n_sigma', 'fit.tile_size', 'run.n_workers',
    'input.datacube',
    'run.detection_only', 'bands.merge', 'output.overwrite', 'run.scheduler',
    'run.quiet',
    summary='extract the sources of maps',
    description='Detect, fit and measure the compact sources of maps. '
                'Options take precedence over the configuration file, whose '
                'keys are in brackets.',
    epilog=_EPILOG,
    interrupted=f'completed maps are kept; {_RERUN}')
def _run(options):
    files = [name for name in options.maps
             if name.lower().endswith(('.yaml', '.yml'))]
    maps = [name for name in options.maps if name not in files]
    if options.config is not None:
        files.append(options.config)
    if len(files) > 1:
        msg = f'more than one configuration: {", ".join(files)}'
        raise ConfigError([msg])
    setattr(options, 'input.maps', maps)
    loaded, config, origins = _load(files[0] if files else None, options)
    report = None if config.run.quiet else print_line
    converted = loaded.hyper_py
    if report and converted is not None:
        report(f'{loaded.source}: a configuration of Hyper-py: '
               f'{len(converted.converted)} settings converted, '
               f'{len(converted.dropped)} dropped, '
               f'{len(converted.unsupported)} not converted (list them with '
               f"'hyperphot config --from-hyper-py {loaded.source}')")
        for row in converted.unsupported:
            report(f'not converted: {row}')
    elif report and loaded.source is not None and not files:
        report(f'configuration: {loaded.source}')
    if not config.input.maps:
        msg = ('no map: name one on the command line, or in input.maps of '
               'the configuration')
        raise ConfigError([msg])
    check_config(config, origins)
    if report and converted is None:
        for line in find_unused_keys(config):
            print_error(f'note: {line}')
    progress_bar = _show_progress(config)
    outcomes = process_maps(config, progress_bar=progress_bar,
                            origin=loaded.origin, report=report)
    status = _report_jobs(outcomes, config)
    if config.bands.merge and not _merge(outcomes, config, report,
                                         progress_bar=progress_bar):
        return _FAILED
    return status


def _merge(outcomes, config, report, *, progress_bar):
    """
    Merge the catalogs of a run, and return whether it could be done.
    """
    try:
        table, path = merge_outcomes(outcomes, config,
                                     progress_bar=progress_bar)
    except PipelineError as exc:
        print_error(exc)
        return False
    if report:
        report(f'{summarize_bands(table)} -> {path}')
    if not bands_overlap(table):
        print_error('warning: the maps do not overlap: each source is on only '
                    'one of them')
    return True


_command(
    'background', _maps_argument('CUBE'), _CONFIG, 'output.directory',
    *_HEADER, 'detection.n_sigma', 'cubes.subtract', 'cubes.region',
    'cubes.smoothing', 'run.n_workers', 'output.overwrite', 'run.scheduler',
    'run.quiet',
    summary='measure the background of each channel of cubes',
    description='Mask the sources in each channel of cubes, and write the '
                'backgrounds, without photometry. Options take precedence '
                'over the configuration file, whose keys are in brackets.',
    epilog=_EPILOG,
    interrupted=f'completed channels are kept; {_RERUN}',
    **{'input.datacube': True, 'run.background_only': True})(_run)


@_command(
    'subtract',
    _argument('names', nargs='*', metavar='PAIR',
              help='SCIENCE TEMPLATE, the images of a pair, or of several; '
                   'or a list of pairs: a text file (.txt, @FILE) with both '
                   'names on a line, or a table (.csv, .ecsv) with the '
                   'columns science and template, and those of the options '
                   'below'),
    *(f'input.{name}' for name in (
        'error', 'template_error', 'mask', 'template_mask', 'positions',
        'psf')),
    *(f'kernel.{name}' for name in KernelOptions.model_fields),
    *_JOBS, model=SubtractConfig,
    summary='subtract a template from an image of the same field',
    description='Match the PSFs of two images of the same field by '
                'convolving one of them, then subtract TEMPLATE from '
                'SCIENCE. Keys are in brackets.',
    epilog=_EPILOG.replace('some map', 'some pair'),
    interrupted=f'completed pairs are kept; {_RERUN}',
    **{'output.directory': 'hyperphot_subtract'})
def _subtract(options):
    values, names = _values_of(options)
    values['input.pairs'] = expand_pairs(options.names)
    names['input.pairs'] = 'SCIENCE TEMPLATE'
    config = override_config(SubtractConfig(), values, names=names)
    if not config.run.quiet and config.kernel.hotpants is not None:
        hotpants = config.kernel.read_hotpants()
        n_mapped = sum(outcome.mapped for outcome in hotpants.outcomes)
        print_line(f'{config.kernel.hotpants}: options of HOTPANTS: '
                   f'{n_mapped} mapped, '
                   f'{len(hotpants.outcomes) - n_mapped} dropped (see '
                   'run.log)')
    return _process_jobs(config)


_SKY = ('subtract_sky', 'sky_order', 'sky_method', 'sky_grow', 'fwhm')
_STARS = ('error', 'weight', 'gain', 'gain_key', 'psf_size', 'psf_order',
          'psf_oversampling', 'min_snr', 'saturation')


def _image_command(step, options, more=(), **texts):
    """
    Return the decorator of a command for images.
    """
    return _command(
        step, _argument('maps', nargs='*', metavar='IMAGE',
                        help="a FITS file, a pattern ('images/*.fits'), or a "
                             'text file with an image in each line (@FILE, '
                             'or .txt)'),
        *(f'image.{name}' for name in dict.fromkeys(
            ('ext', 'mask', *options))), *more,
        *_JOBS, model=ImageConfig,
        epilog=_EPILOG.replace('some map', 'some image'),
        interrupted=f'completed images are kept; {_RERUN}',
        **{'output.directory': f'hyperphot_{step}', 'run.step': step},
        **texts)


@_image_command(
    'sky', _SKY, summary='subtract the sky of images',
    description='Mask the sources of images, and subtract the sky. '
                'Missing inputs are determined from the image; run.log '
                'records how.')
@_image_command(
    'psf', (*_SKY, *_STARS), summary='measure the PSF of images',
    description='Select the stars of images, and build the PSF. Missing '
                'inputs are determined from the image; run.log records how.')
@_image_command(
    'stamps', ImageOptions.model_fields,
    ('input.sextracted', *(f'stamps.{name}'
                           for name in StampsOptions.model_fields)),
    summary='cut out galaxies',
    description='Detect the galaxies of images, and write a stamp of each '
                'with error, mask, segments, and PSF. Missing inputs are '
                'determined from the image; run.log records how.')
@_image_command(
    'galaxies', ImageOptions.model_fields,
    ('input.sextracted', *(f'galaxies.{name}'
                           for name in GalaxiesOptions.model_fields)),
    summary='fit the galaxies of images with Sersic profiles',
    description='Detect the galaxies of images, and fit Sersic profiles '
                'that are convolved with the PSF. Missing inputs are '
                'determined from the image; run.log records how.')
def _process_images(options):
    values, names = _values_of(options)
    values['input.maps'] = options.maps
    config = override_config(ImageConfig(), values,
                             names=names | {'input.maps': 'IMAGE'})
    return _process_jobs(config)


def _process_jobs(config):
    """
    Process the jobs of a configuration, and report them.
    """
    outcomes = process_maps(
        config, progress_bar=_show_progress(config), origin='command line',
        report=None if config.run.quiet else print_line)
    return _report_jobs(outcomes, config)


@_command(
    'recover', _argument('map', metavar='MAP', help='a FITS file'), _CONFIG,
    _argument('--output-dir', metavar='DIR', default='hyperphot_recovery',
              help='folder of tables and plot (default: %(default)s)'),
    *_HEADER, 'detection.n_sigma',
    _argument('--snr', type=_parse_snr, metavar='MIN,MAX',
              help='range of the injected peaks in units of the rms '
                   '(default: 3,48)'),
    _argument('--n-repeats', type=_parse_count, metavar='N', default=20,
              help='number of maps with injected sources (default: '
                   '%(default)s)'),
    _argument('--seed', type=int, metavar='N', default=0,
              help='seed of the artificial sources (default: %(default)s)'),
    _argument('--jobs', type=_parse_count, metavar='N', default=1,
              help='number of processes (default: %(default)s)'),
    _argument('--overwrite', action='store_true',
              help='replace earlier results'),
    'run.scheduler', 'run.quiet',
    summary='inject artificial sources into a map and recover them',
    description='Add artificial sources to a map, a few at a time, extract '
                'them as a run would, and report the completeness, the '
                'reliability, and the accuracy of the errors.',
    interrupted='nothing was written')
def _recover(options):
    _, config, origins = _load(options.config, options)
    check_config(config, origins)
    result = recover_map(
        options.map, config, options.output_dir,
        overwrite=options.overwrite, snr=options.snr, seed=options.seed,
        n_repeats=options.n_repeats, n_workers=options.jobs,
        progress_bar=_show_progress(config))
    if not config.run.quiet:
        for line in summarize_recovery(result):
            print_line(line)
        print_line(f'-> {options.output_dir}')
    return _DONE


@_command(
    'example',
    _argument('--output-dir', metavar='DIR', default='hyperphot_example',
              help='folder of map and products (default: %(default)s)'),
    'run.quiet',
    summary='extract the sources of a simulated map',
    description='Simulate a map, extract its sources, and compare them with '
                'the truth. An earlier example in the same folder is '
                'replaced.',
    interrupted='rerun the command to start over')
def _example(options):
    directory = Path(expand_name(options.output_dir, '--output-dir'))
    config = PipelineConfig(
        input={'maps': [str(directory / 'simulated_map.fits')]},
        output={'directory': str(directory), 'overwrite': True},
        run={'quiet': bool(vars(options)['run.quiet'])})
    # slow to import
    from hyperphotutils.pipeline.example import (
        compare_with_truth,
        write_example,
    )

    try:
        _, simulated = write_example(directory)
    except OSError as exc:
        msg = f'{directory}: cannot be written: {exc.strerror or exc}'
        raise OutputError(msg) from exc
    outcomes = process_maps(config, progress_bar=_show_progress(config))
    status = _report_jobs(outcomes, config)
    if status == _DONE and not config.run.quiet:
        for line in compare_with_truth(outcomes[0].table, simulated):
            print_line(line)
        folder = plan_jobs(config)[0].folder
        print_line(f'map and truth         {directory}')
        names = sorted(item.name for item in folder.iterdir())
        print_line(f'products              {folder}: {", ".join(names)}')
    return status


@_command(
    'report',
    _argument('directory', metavar='DIR',
              help='output directory of a run, or folder of one map'),
    'run.quiet',
    summary='make the web pages of an earlier run',
    description='Write report.html into the folders of an earlier run, from '
                'its files. Cut-outs of the sources need the maps.',
    interrupted='rerun the command to start over')
def _report(options):
    # slow to import
    from hyperphotutils.pipeline.restore import restore_pages

    directory = Path(expand_name(options.directory, 'DIR'))
    for path in restore_pages(directory):
        if not vars(options)['run.quiet']:
            print_line(f'-> {path}')
    return _DONE


@_command(
    'config',
    _argument('--show', action='store_true', exclusive=True,
              help='print the configuration that a run here would use, and '
                   'the origin of each value'),
    _argument('--from-hyper-py', metavar='FILE', exclusive=True,
              help='convert a configuration of Hyper-py'),
    _argument('--config', metavar='FILE',
              help='with --show: the configuration file of the run'),
    summary='print a commented configuration file',
    description='Print a configuration file with all keys, their defaults '
                'and descriptions; or the configuration that a run would '
                'use; or a converted configuration of Hyper-py.',
    interrupted='nothing was done')
def _print_config(options):
    if options.config is not None and not options.show:
        msg = '--config: can be used only with --show'
        raise ConfigError([msg])
    if options.show:
        text = show_config(load_config(options.config))
    elif options.from_hyper_py is not None:
        from hyperphotutils.compat.hyper_py import hyper_py_to_yaml

        text = hyper_py_to_yaml(options.from_hyper_py)
    else:
        text = config_template()
    write_output(text)
    return _DONE


def _show_progress(config):
    return (sys.stderr is not None and sys.stderr.isatty()
            and not config.run.quiet)


def _report_jobs(outcomes, config):
    """
    Print a line for each job, failed ones last, and return the status.
    """
    noun = config.noun
    if not config.run.quiet:
        n_maps = len(outcomes)
        if all(outcome.earlier for outcome in outcomes):
            done = (f'all {n_maps} {noun}s are done' if n_maps > 1
                    else f'{outcomes[0].job.folder} is done')
            print_line(f'nothing left to do: {done} (use --overwrite to '
                       'repeat it)')
        for outcome in outcomes:
            if not outcome.reason and not outcome.earlier:
                print_line(f'{outcome.job.map_id}: {outcome.summary} -> '
                           f'{outcome.job.folder}')
    failed = [outcome for outcome in outcomes if outcome.reason]
    if failed and len(outcomes) > 1:
        print_error(f'{len(failed)} of {len(outcomes)} {noun}s failed:')
    for outcome in failed:
        print_error(outcome.reason)
    return _FAILED if failed else _DONE


if __name__ == '__main__':
    sys.exit(main())
