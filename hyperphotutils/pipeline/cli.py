# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The command ``hyperphot``.
"""

import argparse
import math
import os
import sys
from pathlib import Path

from hyperphotutils import __version__
from hyperphotutils.pipeline.bands import summarize_bands
from hyperphotutils.pipeline.checking import check_config, find_idle_keys
from hyperphotutils.pipeline.config import (
    ConfigError,
    config_template,
    override_config,
)
from hyperphotutils.pipeline.hyper_py import hyper_py_to_yaml
from hyperphotutils.pipeline.names import expand_path
from hyperphotutils.pipeline.options import PipelineConfig
from hyperphotutils.pipeline.planning import (
    OutputError,
    PipelineError,
    plan_jobs,
)
from hyperphotutils.pipeline.recover import recover_map, summarize_recovery
from hyperphotutils.pipeline.runner import merge_outcomes, process_maps
from hyperphotutils.pipeline.search import load_config, show_config
from hyperphotutils.pipeline.streams import (
    complain,
    flush_output,
    occupy_streams,
    say,
    write_output,
)
from hyperphotutils.startup import raise_on_interrupt

__all__ = ['main']

_DONE, _FAILED, _USAGE, _INTERRUPTED = 0, 1, 2, 130

_EXAMPLE_FOLDER = 'hyperphot_example'
_RECOVERY_FOLDER = 'hyperphot_recovery'

# Which key of the configuration an option replaces
_KEYS = {
    'maps': 'input.maps',
    'unit': 'input.unit',
    'beam': 'input.beam',
    'survey': 'input.survey',
    'frequency': 'input.frequency',
    'output_dir': 'output.directory',
    'n_sigma': 'detection.n_sigma',
    'jobs': 'run.n_workers',
    'detection_only': 'run.detection_only',
    'merge': 'bands.merge',
    'datacube': 'input.datacube',
    'background_only': 'run.background_only',
    'subtract': 'cubes.subtract',
    'region': 'cubes.region',
    'smoothing': 'cubes.smoothing',
    'overwrite': 'output.overwrite',
    'quiet': 'run.quiet',
    'scheduler': 'run.scheduler',
}

_EPILOG = """\
exit status: 0 all done, 1 some map failed (the others are done) or the
output could not be written, 2 bad usage (nothing was done), 130
interrupted; the same command continues a run that was stopped or killed
"""


def main(argv=None):
    """
    Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; those of the process by default.

    Returns
    -------
    status : int
        The exit status: 0 done, 1 some map failed or the standard output
        cannot be written, 2 bad usage, 130 interrupted.

    Examples
    --------
    >>> from hyperphotutils.pipeline.cli import main
    >>> status = main(['config'])
    # Configuration of hyperphot. Every key may be left out: the
    ...
    >>> status
    0
    """
    occupy_streams()
    interrupted = 'nothing was done'
    try:
        raise_on_interrupt()
        options = _parser().parse_args(argv)
        interrupted = options.interrupted
        status = _do(options)
    except SystemExit as exc:
        # of --help, --version, and wrong arguments
        if flush_output() is None:
            raise
        status = exc.code
    except KeyboardInterrupt:
        complain(f'interrupted; {interrupted}')
        return _INTERRUPTED
    fault = flush_output()
    if fault is not None:
        complain(f'the standard output cannot be written: {fault.strerror}')
        return max(status, _FAILED)
    return status


def _do(options):
    """
    Do what a command says, and report what it cannot do in one line.
    """
    try:
        return options.function(options)
    except ConfigError as exc:
        for line in exc.problems:
            complain(line)
        return _USAGE
    except OutputError as exc:
        complain(exc)
        return _USAGE
    except PipelineError as exc:
        complain(exc)
        return _FAILED
    except OSError as exc:
        # of the system: the working folder is gone, for example
        complain(f'{exc.filename or Path()}: {exc.strerror or exc}')
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
        complain(f'{message} (see {self.prog} --help)')
        self.exit(_USAGE)


def _parser():
    parser = _Parser(
        prog='hyperphot', allow_abbrev=False,
        description='Photometry of blended sources on structured '
                    'backgrounds.')
    parser.add_argument('--version', action='version',
                        version=f'hyperphot {__version__}')
    commands = parser.add_subparsers(title='commands', required=True,
                                     metavar='COMMAND')
    _add_run(commands)
    _add_background(commands)
    _add_recover(commands)
    _add_example(commands)
    _add_config(commands)
    return parser


def _add_run(commands):
    command = commands.add_parser(
        'run', allow_abbrev=False, help='extract the sources of maps',
        description='Detect, fit and measure the compact sources of maps. '
                    'Options take precedence over the configuration file.',
        epilog=_EPILOG)
    command.add_argument('maps', nargs='*', metavar='MAP',
                         help="a FITS file, a pattern ('maps/*.fits'), or a "
                              'text file with a map in each line (@FILE, '
                              'or .txt); or a configuration, ours or one of '
                              'Hyper-py (.yaml)')
    command.add_argument('--config', metavar='FILE',
                         help="a YAML file; see 'hyperphot config' (default: "
                              'hyperphot.yaml here, or that of the user)')
    command.add_argument('--output-dir', metavar='DIR',
                         help='folder of the products (default: '
                              'hyperphot_output)')
    _add_missing(command)
    command.add_argument('--n-sigma', type=float, metavar='X',
                         help='detection threshold in units of the rms')
    command.add_argument('--jobs', type=int, metavar='N',
                         help='maps worked on at the same time')
    command.add_argument('--datacube', action='store_true', default=None,
                         help='the files are cubes, each channel of which '
                              'is a map')
    command.add_argument('--detection-only', action='store_true',
                         default=None, help='no fit and no photometry')
    command.add_argument('--merge', action='store_true', default=None,
                         help='match the sources of all maps, and measure '
                              'on each map those found on others')
    command.add_argument('--overwrite', action='store_true', default=None,
                         help='replace the products of an earlier run')
    _add_scheduler(command)
    _add_quiet(command)
    command.set_defaults(
        function=_run, interrupted='what is finished is whole; the same '
        'command continues')


def _add_background(commands):
    command = commands.add_parser(
        'background', allow_abbrev=False,
        help='estimate the background of each channel of cubes',
        description='Mask the sources in each channel of cubes, and write '
                    'the background of the cubes, without photometry. '
                    'Options take precedence over the configuration file.',
        epilog=_EPILOG)
    command.add_argument('maps', nargs='*', metavar='CUBE',
                         help="a FITS file, a pattern ('cubes/*.fits'), or a "
                              'text file with a cube in each line (@FILE, '
                              'or .txt); or a configuration (.yaml)')
    command.add_argument('--config', metavar='FILE',
                         help="a YAML file; see 'hyperphot config'")
    command.add_argument('--output-dir', metavar='DIR',
                         help='folder of the products (default: '
                              'hyperphot_output)')
    _add_missing(command)
    command.add_argument('--n-sigma', type=float, metavar='X',
                         help='threshold of the sources to mask in units of '
                              'the rms')
    command.add_argument('--subtract', action='store_true', default=None,
                         help='write the cube without its background, too')
    command.add_argument('--region', metavar='FILE',
                         help='only inside the regions of this DS9 file')
    command.add_argument('--smoothing', type=float, metavar='N',
                         help='smooth over so many channels')
    command.add_argument('--jobs', type=int, metavar='N',
                         help='channels worked on at the same time')
    command.add_argument('--overwrite', action='store_true', default=None,
                         help='replace the products of an earlier run')
    _add_scheduler(command)
    _add_quiet(command)
    command.set_defaults(
        function=_run, datacube=True, background_only=True,
        interrupted='the channels that are done are kept; the same command '
        'continues')


def _add_recover(commands):
    command = commands.add_parser(
        'recover', allow_abbrev=False,
        help='inject artificial sources into a map and recover them',
        description='Add artificial sources to a map, a few at a time, '
                    'extract them as a run would, and tell completeness, '
                    'reliability, and whether the errors hold.')
    command.add_argument('map', metavar='MAP', help='a FITS file')
    command.add_argument('--config', metavar='FILE',
                         help="a YAML file; see 'hyperphot config'")
    command.add_argument('--output-dir', metavar='DIR',
                         default=_RECOVERY_FOLDER,
                         help='folder of tables and plot (default: '
                              '%(default)s)')
    _add_missing(command)
    command.add_argument('--n-sigma', type=float, metavar='X',
                         help='detection threshold in units of the rms')
    command.add_argument('--snr', type=_snr_edges, metavar='MIN,MAX',
                         help='range of the injected peaks in units of the '
                              'rms (default: 3,48)')
    command.add_argument('--n-repeats', type=_count, metavar='N', default=20,
                         help='how often sources are added (default: '
                              '%(default)s)')
    command.add_argument('--seed', type=int, metavar='N', default=0,
                         help='seed of the artificial sources (default: '
                              '%(default)s)')
    command.add_argument('--jobs', type=_count, metavar='N', default=1,
                         help='number of processes (default: %(default)s)')
    command.add_argument('--overwrite', action='store_true',
                         help='replace earlier results')
    _add_scheduler(command)
    _add_quiet(command)
    command.set_defaults(function=_recover,
                         interrupted='nothing was written')


def _count(text):
    """
    Read a number of at least 1.
    """
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        msg = f'must be a number of at least 1: {text!r}'
        raise argparse.ArgumentTypeError(msg)
    return number


def _snr_edges(text):
    """
    Read a range and cut it into bins of a factor of about sqrt(2).
    """
    try:
        low, high = (float(part) for part in text.split(','))
    except ValueError:
        low = high = 0.0
    if not 0.0 < low < high < math.inf:
        msg = f'must be MIN,MAX with 0 < MIN < MAX: {text!r}'
        raise argparse.ArgumentTypeError(msg)
    n_bins = max(1, round(2.0 * math.log2(high / low)))
    return [low * (high / low)**(number / n_bins)
            for number in range(n_bins + 1)]


def _add_missing(command):
    """
    Add the options for what headers do not say.
    """
    command.add_argument('--unit', metavar='UNIT',
                         help="unit of the pixel values, such as 'Jy/beam'")
    beam = command.add_mutually_exclusive_group()
    beam.add_argument('--beam', type=_beam, metavar='FWHM',
                      help='FWHM of the beam in arcsec, or MAJOR,MINOR,PA '
                           'in arcsec, arcsec and deg (North through East)')
    beam.add_argument('--survey', metavar='NAME',
                      help="survey whose beam it is, such as 'spire250' or "
                           "'jcmt850'")
    command.add_argument('--frequency', type=float, metavar='GHZ',
                         help='frequency of maps in K in GHz (of cubes: the '
                              'rest frequency)')


def _beam(text):
    """
    Read the text of the option --beam.
    """
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


def _add_example(commands):
    command = commands.add_parser(
        'example', allow_abbrev=False,
        help='try it on a simulated map',
        description='Simulate a map, extract its sources, and compare them '
                    'with the truth. An earlier example in the same folder '
                    'is replaced.')
    command.add_argument('--output-dir', metavar='DIR',
                         default=_EXAMPLE_FOLDER,
                         help='folder of map and products (default: '
                              '%(default)s)')
    _add_quiet(command)
    command.set_defaults(function=_example,
                         interrupted='the same command begins again')


def _add_scheduler(command):
    command.add_argument('--scheduler', metavar='ADDRESS',
                         help='work on the cluster of this dask scheduler '
                              '(or scheduler file) instead')


def _add_quiet(command):
    command.add_argument('--quiet', action='store_true', default=None,
                         help='print nothing but errors')


def _add_config(commands):
    command = commands.add_parser(
        'config', allow_abbrev=False,
        help='print a commented configuration file',
        description='Print a configuration file with all keys, their '
                    'defaults and what they mean; or the one that a run '
                    'would use; or one of Hyper-py in terms of ours.')
    what = command.add_mutually_exclusive_group()
    what.add_argument('--show', action='store_true',
                      help='print the configuration that a run here would '
                           'use, and where each key comes from')
    what.add_argument('--from-hyper-py', metavar='FILE',
                      help='convert a configuration of Hyper-py')
    command.add_argument('--config', metavar='FILE',
                         help='with --show: the file that the run is given')
    command.set_defaults(function=_print_config,
                         interrupted='nothing was done')


def _print_config(options):
    if options.config is not None and not options.show:
        msg = '--config: goes with --show only'
        raise ConfigError([msg])
    if options.show:
        text = show_config(load_config(options.config))
    elif options.from_hyper_py is not None:
        text = hyper_py_to_yaml(options.from_hyper_py)
    else:
        text = config_template()
    write_output(text)
    return _DONE


def _take_config(options):
    """
    Take a configuration that stands among the maps to its place.
    """
    files = [name for name in options.maps
             if name.lower().endswith(('.yaml', '.yml'))]
    options.maps = [name for name in options.maps if name not in files]
    if options.config is not None:
        files.append(options.config)
    if len(files) > 1:
        msg = f'more than one configuration: {", ".join(files)}'
        raise ConfigError([msg])
    return files[0] if files else None


def _announce(loaded, asked):
    """
    Say what cannot be known from the command line.
    """
    converted = loaded.hyper_py
    if converted is not None:
        say(f'{loaded.source}: a configuration of Hyper-py, '
             f'{len(converted.kept)} settings taken over, '
             f'{len(converted.dropped)} dropped, '
             f"{len(converted.unsupported)} not taken over (all are told by "
             f"'hyperphot config --from-hyper-py {loaded.source}')")
        for row in converted.unsupported:
            say(f'not taken over: {row}')
    elif loaded.source is not None and not asked:
        say(f'configuration: {loaded.source}')


def _run(options):
    path = _take_config(options)
    loaded = load_config(path)
    config = loaded.config
    values = {key: getattr(options, name) for name, key in _KEYS.items()
              if getattr(options, name, None) not in (None, [])}
    # one statement of the beam takes the place of the other
    for one, other in (('beam', 'survey'), ('survey', 'beam')):
        if getattr(options, one) is not None:
            values[_KEYS[other]] = None
    names = {key: 'MAP' if name == 'maps' else f'--{name.replace("_", "-")}'
             for name, key in _KEYS.items()}
    config = override_config(config, values, names=names)
    if not config.run.quiet:
        _announce(loaded, asked=path is not None)
    if not config.input.maps:
        msg = ('no map: name one on the command line, or in input.maps of '
               'the configuration')
        raise ConfigError([msg])
    check_config(config, _places(loaded, {key: names[key] for key in values}))
    if not config.run.quiet and loaded.hyper_py is None:
        for line in find_idle_keys(config):
            complain(f'note: {line}')
    outcomes = process_maps(config, progress_bar=_show_progress(config),
                            origin=loaded.origin,
                            tell=None if config.run.quiet else say)
    status = _report(outcomes, config)
    return max(status, _merge(outcomes, config)) if config.bands.merge else (
        status)


def _places(loaded, options):
    """
    Tell where each key comes from: from an option, or a line of a file.
    """
    lines = {key: f'{loaded.source}: {line}'
             for key, line in loaded.origins.items()}
    return lines | options


def _merge(outcomes, config):
    """
    Merge the catalogs of the maps.
    """
    try:
        table, path = merge_outcomes(outcomes, config,
                                     progress_bar=_show_progress(config))
    except PipelineError as exc:
        complain(exc)
        return _FAILED
    if not config.run.quiet:
        say(f'{summarize_bands(table)} -> {path}')
    return _DONE


def _recover(options):
    loaded = load_config(options.config)
    config = loaded.config
    names = ('unit', 'beam', 'survey', 'frequency', 'n_sigma', 'scheduler',
             'quiet')
    values = {_KEYS[name]: getattr(options, name) for name in names
              if getattr(options, name) is not None}
    for one, other in (('beam', 'survey'), ('survey', 'beam')):
        if getattr(options, one) is not None:
            values[_KEYS[other]] = None
    names = {_KEYS[name]: f'--{name.replace("_", "-")}' for name in names}
    config = override_config(config, values, names=names)
    check_config(config, _places(loaded, {key: names[key] for key in values
                                          if key in names}))
    result = recover_map(
        options.map, config, options.output_dir,
        overwrite=options.overwrite, snr=options.snr, seed=options.seed,
        n_repeats=options.n_repeats, n_jobs=options.jobs,
        progress_bar=_show_progress(config))
    if not config.run.quiet:
        for line in summarize_recovery(result):
            say(line)
        say(f'-> {options.output_dir}')
    return _DONE


def _show_progress(config):
    return (sys.stderr is not None and sys.stderr.isatty()
            and not config.run.quiet)


def _report(outcomes, config):
    """
    Say what became of the maps; the failed ones last, to be seen.
    """
    if not config.run.quiet:
        _say_earlier(outcomes)
        for outcome in outcomes:
            if not outcome.reason and not outcome.earlier:
                say(f'{outcome.job.map_id}: {outcome.summary} -> '
                     f'{outcome.job.folder}')
    failed = [outcome for outcome in outcomes if outcome.reason]
    if failed and len(outcomes) > 1:
        complain(f'{len(failed)} of {len(outcomes)} maps failed:')
    for outcome in failed:
        complain(outcome.reason)
    return _FAILED if failed else _DONE


def _say_earlier(outcomes):
    """
    Say what was done already.
    """
    n_maps = len(outcomes)
    n_earlier = sum(outcome.earlier for outcome in outcomes)
    if n_earlier == n_maps:
        what = (f'all {n_maps} maps are done' if n_maps > 1
                else f'{outcomes[0].job.folder} is done')
        say(f'nothing left to do: {what} (--overwrite does it again)')


def _example(options):
    try:
        directory = Path(expand_path(options.output_dir))
    except ValueError as exc:
        raise ConfigError([f'--output-dir: {exc}']) from exc
    config = PipelineConfig(
        input={'maps': [str(directory / 'simulated_map.fits')]},
        output={'directory': str(directory), 'overwrite': True},
        run={'quiet': bool(options.quiet)})
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
    status = _report(outcomes, config)
    if status == _DONE and not config.run.quiet:
        for line in compare_with_truth(outcomes[0].table, simulated):
            say(line)
        folder = plan_jobs(config)[0].folder
        say(f'map and truth         {directory}')
        say(f'products              {folder}: '
             + ', '.join(sorted(item.name for item in folder.iterdir())))
    return status


if __name__ == '__main__':
    sys.exit(main())
