# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What of a configuration can be checked before any map is read, beside the
types and ranges of its keys.

This module is light, like the runner: what a check needs is imported
where it is done.
"""

import warnings

from hyperphotutils.pipeline.yaml_files import ConfigError

__all__ = ['check_config', 'find_idle_keys']


# Files of single groups and sources, which cubes do not have
_MAPS_ONLY = ('fits_groups', 'fits_sources', 'plots_groups',
              'plots_sources', 'plots_backgrounds')


def check_config(config, places=None):
    """
    Check what the keys of a configuration name: unit, survey, and files.

    Parameters
    ----------
    config : `~hyperphotutils.pipeline.PipelineConfig`
        The configuration.

    places : dict, optional
        What the messages call the place of a key, by key path, such as
        ``{'input.unit': '--unit'}``.

    Raises
    ------
    ConfigError
        If something is not known, or a file is missing or no such file.

    Examples
    --------
    >>> from hyperphotutils.pipeline import PipelineConfig
    >>> from hyperphotutils.pipeline.checking import check_config
    >>> check_config(PipelineConfig(input={'unit': 'Jy/beam'}))
    """
    checks = {
        'input.unit': _check_unit,
        'input.survey': _check_survey,
        'sources.table': _check_sources,
        'sources.x': _check_sources,
        'fit.weight_map': _check_image,
        'cubes.region': _check_region,
    }
    problems = []
    for key, check in checks.items():
        section, name = key.split('.')
        value = getattr(getattr(config, section), name)
        if value is None:
            continue
        try:
            check(value, config)
        except (OSError, ValueError) as exc:
            reason = ' '.join(str(exc).split())
            if isinstance(exc, OSError) and exc.strerror:
                reason = f'{exc.filename or value}: {exc.strerror}'
            place = (places or {}).get(key)
            problems.append(f'{place}: {key}: {reason}' if place
                            else f'{key}: {reason}')
    if problems:
        raise ConfigError(problems)


def _check_unit(unit, config):
    import astropy.units as u

    from hyperphotutils.maps import flux_factor, parse_unit

    unit = parse_unit(unit)
    if not config.run.background_only:
        area = 1.0 * u.arcsec**2
        flux_factor(unit, pixel_area=area, beam_area=area,
                    frequency=1.0 * u.GHz)


def _check_survey(survey, _):
    from hyperphotutils.maps import get_survey

    get_survey(survey)


def _check_sources(_, config):
    config.sources.read_table()


def _check_image(path, _):
    from hyperphotutils.maps import MapError
    from hyperphotutils.maps.images import find_image

    try:
        with warnings.catch_warnings():
            # (the log of a map tells them)
            warnings.simplefilter('ignore')
            with find_image(path):
                pass
    except MapError as exc:
        msg = f'{path}: {exc}'
        raise MapError(msg) from None


def _check_region(path, _):
    from hyperphotutils.catalog import read_regions

    read_regions(path)


def find_idle_keys(config):
    """
    Find keys that differ from their defaults and have no effect.

    Parameters
    ----------
    config : `~hyperphotutils.pipeline.PipelineConfig`
        The configuration.

    Returns
    -------
    lines : list of str
        A line for each reason.

    Examples
    --------
    >>> from hyperphotutils.pipeline import PipelineConfig
    >>> from hyperphotutils.pipeline.checking import find_idle_keys
    >>> find_idle_keys(PipelineConfig(cubes={'smoothing': 2.0}))
    ['cubes.smoothing has no effect: it is for input.datacube: true']
    """
    fit, background = config.fit, config.background
    cube = config.input.datacube
    boxes = background.box_sizes is not None
    several = isinstance(fit.poly_order, tuple) and len(fit.poly_order) > 1
    weights = fit.weights or ()
    rules = (
        (cube, 'output', _MAPS_ONLY, 'for maps, not for cubes'),
        (not cube, 'cubes', None, 'for input.datacube: true'),
        (not cube and not boxes, 'background', None, 'for '
         'background.box_sizes; the background is a part of the fit, see '
         'fit.poly_order'),
        (boxes, 'fit', ['poly_order', 'criterion'], 'for a background that '
         'is a part of the fit, not for background.box_sizes'),
        (not several and not boxes, 'fit', ['criterion'], 'for a list of '
         'orders in fit.poly_order'),
        ('power_snr' not in weights, 'fit', ['weight_power'], 'for '
         'fit.weights: power_snr'),
        (fit.loss == 'linear', 'fit', ['f_scale'], 'for a robust fit.loss'),
        (not config.bands.merge, 'bands', None, 'for bands.merge: true'),
    )
    lines = []
    for applies, section, names, reason in rules:
        changed = _changed_keys(getattr(config, section), names)
        if applies and changed:
            keys = ', '.join(f'{section}.{name}' for name in changed)
            verb, it = (('has', 'it is') if len(changed) == 1
                        else ('have', 'they are'))
            lines.append(f'{keys} {verb} no effect: {it} {reason}')
    return lines


def _changed_keys(options, names):
    """
    List the keys of a section that do not have their defaults.
    """
    fields = type(options).model_fields
    return [name for name in names or fields
            if getattr(options, name) != fields[name].default]
