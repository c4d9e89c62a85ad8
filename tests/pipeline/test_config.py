# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the configuration.
"""

import pickle

import astropy.units as u
import pytest
import yaml

from hyperphotutils.datasets import make_blended_map, make_map_cube
from hyperphotutils.maps import MapError
from hyperphotutils.pipeline import (
    ConfigError,
    PipelineConfig,
    config_template,
    config_to_yaml,
    load_config,
    override_config,
    read_config,
)
from hyperphotutils.pipeline.config import find_unused_keys
from hyperphotutils.pipeline.extraction import read_input


@pytest.fixture(name='config_file')
def fixture_config_file(tmp_path):
    def write(text):
        path = tmp_path / 'hyperphot.yaml'
        path.write_text(text, encoding='utf-8')
        return path

    return write


def test_template_parses_to_exactly_the_defaults(config_file):
    assert read_config(config_file(config_template())) == PipelineConfig()


def test_template_names_and_explains_every_key():
    text = config_template()
    values = yaml.safe_load(text)
    config = PipelineConfig().model_dump()
    assert list(values) == list(config)
    for section, keys in config.items():
        assert list(values[section]) == list(keys)
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if ':' in line and not line.lstrip().startswith('#'):
            assert lines[number - 1].lstrip().startswith('#'), line
    assert all(len(line) <= 79 for line in lines)


def test_template_key_with_comment_removed_is_a_valid_file(config_file):
    """Every line of a section may be deleted or commented out."""
    text = '\n'.join(
        line
        for line in config_template().splitlines()
        if not line.startswith('  ')
    )
    assert read_config(config_file(text)) == PipelineConfig()


@pytest.mark.parametrize('comments', [True, False])
def test_written_configuration_reads_back_equal(config_file, comments):
    config = PipelineConfig(
        input={
            'maps': ['a: b.fits', "it's.fits"],
            'beam': {'major': 14.5, 'position_angle': -3.25},
            'unit': 'Jy/beam',
            'extension': 1,
        },
        sources={'x': [1, 2.5], 'y': [-1, 0], 'fwhm_major': 9,
                 'fwhm_minor': [7, 8], 'frame': 'fk5'},
        detection={'n_sigma': 1e-3, 'roundness_range': [-1, 1e20],
                   'shoulder_filter': 0.5},
        fit={'fixed': ['shape', 'position']},
        run={'n_workers': 3},
    )
    text = config_to_yaml(config, comments=comments)
    assert read_config(config_file(text)) == config


def test_whole_numbers_are_numbers_and_exponents_too(config_file):
    text = 'detection: {n_sigma: 5, min_separation: 1e-3, rms: 1.5E+3}'
    detection = read_config(config_file(text)).detection
    assert detection.n_sigma == 5
    assert detection.min_separation == 1e-3
    assert detection.rms == 1500


@pytest.mark.parametrize('number', ['14.5', '14'])
def test_beam_may_be_one_number(config_file, number):
    beam = read_config(config_file(f'input: {{beam: {number}}}')).input.beam
    assert beam.major == float(number)
    assert beam.minor is None


@pytest.mark.parametrize('survey', ['8', 'jcmt850'])
def test_survey_may_be_a_name_or_a_number(config_file, survey):
    config = read_config(config_file(f'input: {{survey: {survey}}}'))
    assert str(config.input.survey) == survey
    assert read_config(config_file(config_to_yaml(config))) == config


@pytest.mark.parametrize(('key', 'text', 'value'), [
    ('fill_value', '0', 0.0), ('fill_value', '-32768', -32768.0),
    ('fill_value', '[0, -1]', (0.0, -1.0)), ('fill_value', 'null', None),
    ('fill_value', 'false', False), ('error_extension', '0', 0),
    ('error_extension', 'ERR', 'ERR'), ('error_extension', 'null', None),
    ('error_extension', 'false', False)])
def test_zero_is_not_false(config_file, key, text, value):
    """
    Zero is a fill value or an extension, false means none.
    """
    config = read_config(config_file(f'input: {{{key}: {text}}}'))
    found = getattr(config.input, key)
    assert (found, type(found)) == (value, type(value))
    assert read_config(config_file(config_to_yaml(config))) == config


@pytest.mark.parametrize('text', ['', '# nothing\n', 'detection:\n', '{}'])
def test_empty_file_and_empty_section_mean_defaults(config_file, text):
    assert read_config(config_file(text)) == PipelineConfig()


@pytest.mark.parametrize(
    ('text', 'line', 'message'),
    [
        ('\ndetection:\n  n_sgima: 3', 3, "did you mean 'detection.n_sigma'"),
        ('detections: {}', 1, "did you mean 'detection'"),
        ('detection:\n  n_workers: 2', 2, "did you mean 'run.n_workers'"),
        ('fit: {zzzz: 1}', 1, 'known here: noise, mask_bad_pixels'),
        ('3: 4', None, 'the key 3 is not allowed, must be text'),
        ('detection: {n_sigma: -3}', 1, 'n_sigma: -3 is not allowed, must '
         'be a finite number > 0'),
        ('detection: {n_sigma: 0}', 1, 'finite number > 0'),
        ('detection: {n_sigma: .nan}', 1, 'finite number > 0'),
        ('detection: {n_sigma: .inf}', 1, 'finite number > 0'),
        ('detection: {n_sigma: nan}', 1, "'nan' is not allowed"),
        ('detection: {n_sigma: "5"}', 1, "'5' is not allowed"),
        ('detection: {n_sigma: true}', 1, 'True is not allowed'),
        ('detection: {n_sigma: null}', 1, 'None is not allowed'),
        ('detection: {kernel: blob}', 1, "'gaussian' or 'box'"),
        ('detection: {kernel_size: 4}', 1, '4 is not allowed, must be odd'),
        ('detection: {kernel_size: 1}', 1, '1 is not allowed, must be odd'),
        ('fit: {fit_radius: 0.4}', 1, 'number >= 0.5 and <= 20'),
        ('fit: {fit_radius: 21}', 1, 'number >= 0.5 and <= 20'),
        ('fit: {max_shift: 50}', 1, 'number > 0 and <= 20'),
        ('grouping: {max_separation: 1e3}', 1, 'number > 0 and <= 100'),
        ('detection: {min_separation: 1e3}', 1, 'number >= 0 and <= 100'),
        ('photometry: {fwhm_radius_ratio: 0.01}', 1, '>= 0.1 and <= 10'),
        ('input: {beam: -3}', 1, 'input.beam.major: -3 is not'),
        ('input: {beam: true}', 1,
         'must be a finite number > 0 or the keys major'),
        ('input: {beam: wide}', 1,
         'must be a finite number > 0 or the keys major'),
        ('input: {survey: 9}', 1,
         'must be a text or a whole number >= 1 and <= 8'),
        ('input: {survey: 1.5}', 1, 'must be a text or a whole number'),
        ('input: {survey: 8, beam: 14}', 1, 'give only one of them'),
        ('detection: {exclude_border: 1}', 1, 'true or false'),
        ('detection: {roundness_range: [1]}', 1,
         'a list of 2, each a finite number'),
        ('detection: {roundness_range: [2, 1]}', 1, 'lower < upper'),
        ('detection: {roundness_range: [2, .nan]}', 1, 'finite'),
        ('detection: 5', 1, 'must be the keys n_sigma, '),
        ('fit: {poly_order: 5}', 1, 'whole number >= -1 and <= 4'),
        ('fit: {poly_order: 1.0}', 1, 'whole number'),
        ('fit: {poly_order: [0, 5]}', 1,
         'or a list of 1 or more, each a whole number'),
        ('fit: {poly_order: []}', 1, 'a list of 1 or more'),
        ('fit: {criterion: aic}', 1, "'nmse' or 'reduced_chi2' or 'bic'"),
        ('fit: {weights: signal}', 1,
         "'signal' is not allowed, must be 'inverse_rms' or 'snr' or"),
        ('fit: {weights: [snr, power_snr]}', 1,
         'weights cannot be both snr and power_snr'),
        ('fit: {weights: map}', 1,
         'weights: map needs weight_map, a FITS file'),
        ('fit: {weights: [snr, mask]}', 1,
         'weights: mask needs weight_map'),
        ('fit: {weight_map: a.fits}', 1,
         'weight_map needs weights: map or weights: mask'),
        ('fit: {weight_power: 0}', 1, 'number > 0'),
        ('fit: {xtol: 0}', 1, 'number > 0 or null'),
        ('fit: {gtol: -1}', 1, 'number > 0 or null'),
        ('fit: {fwhm_range: [-1, 2]}', 1, 'each a finite number > 0'),
        ('input:\n  beam: {major: -3}', 2, 'input.beam.major: -3 is not'),
        ('input:\n  beam: {minor: 3}', 2, 'input.beam.major: is required'),
        ('input:\n  beam: {major: 3, minor: 4}', 2, 'must not be larger'),
        ('photometry: {aperture: {}}', 1,
         'photometry.aperture.major: is required'),
        ('photometry: {aperture: {major: 3, radius: 1}}', 1,
         "unknown key 'photometry.aperture.radius'"),
        ('input: {extension: -1}', 1, 'whole number >= 0 or a text or null'),
        ('input: {maps: 3}', 1, 'a list of any length, each a text'),
        ('run: {n_workers: 0}', 1, 'whole number >= 1'),
        ('output: {directory: ""}', 1, 'output.directory'),
        ('fit: {loss: square}', 1, "'linear' or 'soft_l1'"),
        ('fit: {ridge: -1}', 1, 'number >= 0'),
        ('photometry: {fwhm_limits: [2, 1]}', 1, 'lower < upper'),
        ('background: {box_sizes: [-1]}', 1, 'number >= 0'),
        ('background: {methods: [spline]}', 1, "'lsq' or 'huber'"),
        ('background: {orders: []}', 1, 'a list of 1 or more'),
        ('fit: {noise: pink}', 1, "'correlated' or 'white'"),
        ('fit: {fixed: [angle]}', 1, "'position' or 'shape'"),
        ('fit: {fixed: position}', 1, "each 'position' or 'shape'"),
        ('detection: {snap_radius: -1}', 1, 'number >= 0 and <= 20'),
        ('detection: {shoulder_filter: 2}', 1, 'max_score: 2 is not'),
        ('detection:\n  shoulder_filter: {n_angles: 8}', 2,
         'max_score: is required'),
        ('output: {flux_unit: erg}', 1, "'Jy' or 'mJy' or 'uJy'"),
        ('output: {peak_unit: Jy}', 1, "'Jy/beam'"),
        ('sources: {table: a.txt, x: [1], y: [1]}', 1, 'give only one of'),
        ('sources: {x: [1]}', 1, 'y is missing'),
        ('sources: {x: [1], y: [1, 2]}', 1, 'the same length: got 1 and 2'),
        ('sources: {x: [], y: [1]}', 1, 'x: [] is not allowed'),
        ('sources: {x: [a], y: [1]}', 1, 'each a finite number'),
        ('sources: {fwhm_major: 3, fwhm_minor: 3}', 1, 'need positions'),
        ('sources: {table: a.txt, fwhm_major: 3}', 1, 'must both be given'),
        ('sources: {x: [1], y: [1], fwhm_major: [1, 2], fwhm_minor: 1}', 1,
         'one for each of the 1 positions: got 2'),
        ('sources: {table: a.txt}\nrun: {detection_only: true}', None,
         'there is nothing to detect'),
        ('bands: {merge: true}\nrun: {detection_only: true}', None,
         'or set bands.measure: none'),
        ('detection:\n  n_sigma: 3\n  n_sigma: 4', 3, 'is given twice'),
        ('detection:\n  n_sigma: [3\nrun: {}', 3, 'while parsing'),
        ('detection:\n\tn_sigma: 3', 2, 'cannot start any token'),
        ('a: \x07', 1, 'a character that YAML does not allow'),
        ('- 1', None, 'must have sections'),
        ('hello', None, 'must have sections'),
    ],
)
def test_error_names_file_line_key_value_and_what_is_allowed(
    config_file, text, line, message
):
    path = config_file(text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert len(caught.value.problems) == 1
    where = f'{path}: line {line}: ' if line else f'{path}: '
    assert str(caught.value).startswith(where)
    assert message in str(caught.value)
    assert '\n' not in str(caught.value)


LAUGHS = 'a: &a0 [x, x, x, x, x, x, x, x, x, x]\n' + ''.join(
    f'b{i}: &a{i} [{", ".join(10 * [f"*a{i - 1}"])}]\n' for i in range(1, 9))


@pytest.mark.parametrize(
    ('text', 'line', 'message'),
    [
        (LAUGHS, 5, 'more than 20000 values'),
        (LAUGHS + 'input: {maps: *a8}', 5, 'more than 20000 values'),
        ('run: {n_workers: [' + 'x,' * 20001 + ']}', 1,
         'more than 20000 values'),
        ('input: &a\n  maps: *a', 2, "the alias 'a' is part of itself"),
        ('&a [*a]: 1', 1, 'part of itself'),
        ('input: &a\n  <<: *a', 2, 'part of itself'),
        ('run: *b', 1, "undefined alias 'b'"),
        ('a: ' + '[' * 50000, 1, 'nested too deeply'),
        ('a: ' + '{a: ' * 5000, 1, 'nested too deeply'),
        ('- ' * 5000, 1, 'nested too deeply'),
        ('input: !foo {}', 1, "the tag '!foo' is not allowed"),
        ('input: {maps: [!!binary "a"]}', 1, "tag '!!binary' is not allowed"),
        ('run: {n_workers: !!int "abc"}', 1, "'abc' is not a number"),
        ('run: {n_workers: !!float "abc"}', 1, "'abc' is not a number"),
        ('run: {quiet: !!bool "abc"}', 1, "'abc' is not true or false"),
        ('run: !!map [1]', 1, 'must be keys and values'),
        ('run: {n_workers: ' + '9' * 5000 + '}', 1, 'too many digits (5000)'),
        ('run: {n_workers: 0x' + 'f' * 5000 + '}', 1, 'too many digits'),
        ('run: {n_workers: 99999999999999999999}', 1, 'too many digits (20)'),
        ('detection: {n_sigma: 1e99999}', 1, 'inf is not allowed'),
        ('detection: {n_sigma: ' + '1' * 50000 + 'e}', 1, '11111111111... is '
         'not allowed'),
        ('sources: {x: [05:35:17], y: [1]}', 1, "'05:35:17' is not allowed"),
        ('output: {ipac: 2020-13-45}', 1, "'2020-13-45' is not allowed"),
        ('input: {maps: ["a\\0b"]}', 1, 'the character NUL'),
        ('input: {maps: ["a\\ud800b"]}', 1, 'half of a character'),
        ('input:\n  maps: ["a\\UFFFFFFFF"]', 2, 'out of range'),
        ('"a\\nb\\e[31m": 1', 1, r"unknown key 'a\nb\x1b[31m'"),
        ('run: &r {n_workers: 1}\nrun: *r', 2, 'is given twice'),
        ('run: {null: 1}', 1, 'the key None is not allowed'),
        ('{[a]: 1}', 1, "the key ['a'] is not allowed"),
        ('x' * 600000, None, 'too large for a configuration'),
    ],
    ids=range(31),
)
def test_hostile_files_are_refused_in_one_short_line(
    config_file, text, line, message
):
    path = config_file(text)
    for read in (read_config, load_config):
        with pytest.raises(ConfigError) as caught:
            read(path)
        problem, = caught.value.problems
        where = f'{path}: line {line}: ' if line else f'{path}: '
        assert problem.startswith(where)
        assert message in problem
        assert problem.isprintable()
        assert len(problem) < len(str(path)) + 300


def test_text_that_is_not_utf_8_is_refused_with_its_line(tmp_path):
    path = tmp_path / 'latin.yaml'
    path.write_bytes(b'run:\n  n_workers: 1 # \xe4\n')
    with pytest.raises(ConfigError, match='line 2: not a text file in UTF-8'):
        read_config(path)


def test_only_the_first_problems_are_listed(config_file):
    text = ''.join(f'k{number}: 1\n' for number in range(50))
    with pytest.raises(ConfigError, match='and 30 more problems') as caught:
        read_config(config_file(text))
    assert len(caught.value.problems) == 21


def test_dates_and_words_are_texts(config_file):
    config = read_config(config_file(
        'output: {directory: 2020-01-01}\ninput: {unit: "1_000"}\n'
        'run: {quiet: yes, n_workers: 010}'))
    assert config.output.directory == '2020-01-01'
    assert config.run.quiet is True
    assert config.run.n_workers == 10


def test_all_problems_are_reported_at_once(config_file):
    path = config_file('detection: {n_sigma: -1}\nrun: {n_workers: 0, job: 3}')
    with pytest.raises(ConfigError, match='n_sigma') as caught:
        read_config(path)
    assert len(caught.value.problems) == 3


def test_unreadable_files_are_one_line(tmp_path):
    missing = tmp_path / 'missing.yaml'
    with pytest.raises(ConfigError, match=r'missing.yaml: No such file'):
        read_config(missing)
    with pytest.raises(ConfigError, match='Is a directory'):
        read_config(tmp_path)
    binary = tmp_path / 'binary.yaml'
    binary.write_bytes(b'\xff\xfe\xfa')
    with pytest.raises(ConfigError, match='not a text file'):
        read_config(binary)


def test_defaults_are_those_of_the_classes():
    """
    Lengths are in beam FWHM in the configuration, in pixels in the classes.
    """
    from hyperphotutils.background import LocalPolynomialBackground
    from hyperphotutils.photometry import HyperPhotometry

    config = PipelineConfig()
    phot = HyperPhotometry(fwhm=4.0)
    finder, fitter = phot.finder, phot.fitter
    assert finder.n_sigma == config.detection.n_sigma
    assert finder.kernel == config.detection.kernel
    assert finder.min_separation == 4 * config.detection.min_separation
    assert finder.exclude_border == config.detection.exclude_border
    separation = 4 * config.grouping.max_separation
    assert phot.grouper.min_separation == separation
    assert fitter.grouper.min_separation == separation
    assert fitter.solver.max_group_size == config.grouping.max_group_size
    assert finder.snap_radius == config.detection.snap_radius
    assert finder.shoulder_filter == config.detection.shoulder_filter
    assert fitter.poly_order == config.fit.poly_order
    assert fitter.fixed == config.fit.fixed
    assert phot.noise == config.fit.noise
    for name in ('loss', 'f_scale', 'ridge', 'bias_correction', 'ftol',
                 'xtol', 'gtol', 'criterion', 'weight_power'):
        assert getattr(fitter.solver, name) == getattr(config.fit, name)
    assert fitter.solver.weights == (config.fit.weights or ())
    assert phot.fwhm_limits is config.photometry.fwhm_limits is None
    assert phot.background is config.background.box_sizes is None
    separate = LocalPolynomialBackground(21)
    for name in ('orders', 'methods', 'criterion', 'huber_epsilons'):
        assert getattr(separate, name) == getattr(config.background, name)
    assert fitter.fit_radius == 4 * config.fit.fit_radius
    assert fitter.max_shift == 4 * config.fit.max_shift
    assert tuple(fitter.fwhm_range) == config.fit.fwhm_range
    assert fitter.solver.max_iter == config.fit.max_iter
    assert phot.max_rounds == config.fit.max_rounds
    assert phot.fwhm_radius_ratio == config.photometry.fwhm_radius_ratio
    assert phot.aperture_correction == config.photometry.aperture_correction


def test_photometry_and_forced_photometry_share_the_fitter():
    """
    A class is built from its section in one place, with all keys.
    """
    config = PipelineConfig(grouping={'max_separation': 1.25},
                            fit={'fixed': ['position'], 'max_iter': 33})
    image = make_blended_map((60, 60), 2, seed=1).image
    phot = config.make_photometry(image)
    forced = config.make_forced()
    fitter = forced.make_fitter(phot.fwhm, fixed=('position',))
    assert repr(phot.fitter) == repr(fitter)
    assert phot.grouper is phot.fitter.grouper
    assert fitter.grouper.min_separation == 1.25 * phot.fwhm
    finder = config.make_finder(image)
    assert repr(finder) == repr(phot.finder)


@pytest.mark.parametrize(('unit', 'rms'), [('Jy/pix', 2.0), (None, None)])
def test_rms_is_only_used_with_a_unit(unit, rms):
    detection = PipelineConfig(detection={'rms': 2.0}).detection
    finder = detection.make_finder(4.0, unit=unit and u.Unit(unit))
    assert finder.rms == (rms and rms * u.Unit(unit))


def test_a_file_cannot_run_python(config_file):
    with pytest.raises(ConfigError, match='line 1'):
        read_config(config_file('!!python/object/apply:os.getcwd []'))


def test_override_replaces_only_what_it_names():
    config = PipelineConfig(detection={'n_sigma': 4.0, 'kernel': 'box'})
    new = override_config(config, {'detection.n_sigma': 7.0,
                                   'run.n_workers': 2})
    assert new.detection.n_sigma == 7
    assert new.detection.kernel == 'box'
    assert new.run.n_workers == 2
    assert config.detection.n_sigma == 4
    beam = override_config(config, {'input.beam.major': 3.0}).input.beam
    assert beam.major == 3


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -1.0, 0.0])
def test_override_error_names_the_option(value):
    with pytest.raises(ConfigError, match=r'--n-sigma: detection.n_sigma'):
        override_config(
            PipelineConfig(),
            {'detection.n_sigma': value},
            names={'detection.n_sigma': '--n-sigma'},
        )
    with pytest.raises(ConfigError, match='configuration: unknown key'):
        override_config(PipelineConfig(), {'detection.n_sigm': value})


def test_error_can_be_pickled():
    for error in (ConfigError(['one', 'two', 'one']),
                  ConfigError(map(str, range(50)))):
        again = pickle.loads(pickle.dumps(error))
        assert again.problems == error.problems
        assert str(again) == str(error) == '\n'.join(error.problems)
    assert error.problems[-2:] == ('19', 'and 30 more problems')


def test_configuration_cannot_be_changed():
    config = PipelineConfig()
    with pytest.raises(ValueError, match='frozen'):
        config.detection.n_sigma = 3.0


def test_keys_of_mappings_are_texts():
    with pytest.raises(ConfigError, match=r'detection\.shoulder_filter: the '
                       'key 1 is not allowed, must be text'):
        override_config(PipelineConfig(),
                        {'detection.shoulder_filter': {1: 2}})


def test_limits_and_sizes_of_apertures_exclude_each_other():
    with pytest.raises(ConfigError, match='fwhm_limits and aperture exclude '
                       'each other'):
        override_config(PipelineConfig(), {
            'photometry.fwhm_limits': (0.5, 2.0), 'photometry.aperture': 9.0})


def test_huge_file_is_no_configuration(tmp_path):
    path = tmp_path / 'a.yaml'
    with path.open('wb') as file:
        file.truncate(2**24 + 1)
    with pytest.raises(ConfigError, match='not a configuration: larger than '
                       '16 MiB'):
        read_config(path)


def test_apertures_of_sources_need_their_sizes():
    config = PipelineConfig(sources={'x': [83.8], 'y': [-5.4]},
                            photometry={'aperture': 'sources'})
    image = make_blended_map((64, 64), 1, seed=1).image
    with pytest.raises(ValueError, match='but the sources have no FWHMs'):
        config.make_photometry(image)


def test_region_of_a_cube_must_be_readable(tmp_path):
    config = PipelineConfig(input={'datacube': True},
                            cubes={'region': str(tmp_path / 'none.reg')})
    cube = make_map_cube((2, 48, 48), 1, seed=1).cube
    with pytest.raises(MapError, match=r'none\.reg: cubes\.region cannot be '
                       'read: .*No such file'):
        config.make_cube_background(cube)


def test_one_map_needs_one_beam():
    """
    A list of measured beams is for a run, which assigns them to its maps.
    """
    options = PipelineConfig(input={'psf': ['a.fits', None]}).input
    with pytest.raises(ConfigError, match=r'm\.fits: input\.psf is a list'):
        read_input('m.fits', options, psf=options.psf)


@pytest.mark.parametrize(('changed', 'lines'), [
    # maps in tiles
    ({'fit': {'tile_size': 200, 'poly_order': 2}}, []),
    ({'fit': {'tile_size': 20}, 'input': {'datacube': True}},
     ['fit.tile_size has no effect: it is for maps, not for cubes']),
    ({'fit': {'tile_size': 20, 'poly_order': 2, 'mask_bad_pixels': False},
      'grouping': {'max_group_size': 3},
      'photometry': {'fwhm_radius_ratio': 2.0},
      'output': {'images': True, 'csv': True, 'flux_unit': 'mJy',
                 'peak_unit': 'mJy/beam', 'report': False},
      'background': {'box_sizes': [6.0]}, 'run': {'detection_only': True}},
     ['fit.poly_order, fit.tile_size, grouping.max_group_size, '
      'photometry.fwhm_radius_ratio, output.flux_unit, output.images have '
      'no effect: they are for fits, not for run.detection_only',
      'background.box_sizes has no effect: it is for fits, not for '
      'run.detection_only']),
    ({'fit': {'tile_size': 20, 'mask_bad_pixels': False},
      'background': {'orders': [1]}, 'detection': {'rms': 0.1},
      'output': {'ipac': False, 'regions': False, 'images': True,
                 'report': False, 'overview': False},
      'input': {'datacube': True}, 'run': {'background_only': True}},
     ['output.images has no effect: it is for maps, not for cubes',
      'fit.mask_bad_pixels, fit.tile_size, detection.rms, output.ipac, '
      'output.regions have no effect: they are for sources, not for '
      'run.background_only']),
    ({'sources': {'x': [1.0], 'y': [2.0]}, 'detection': {'n_sigma': 3.0},
      'fit': {'max_rounds': 0, 'tile_size': 200}},
     ['detection.n_sigma, fit.max_rounds have no effect: they are for the '
      'detection of sources, not for known sources']),
    ({'background': {'orders': [1], 'huber_epsilons': [1.5]}},
     ['background.orders, background.huber_epsilons have no effect: they are '
      'for background.box_sizes; the background is a part of the fit, see '
      'fit.poly_order']),
    ({'background': {'huber_epsilons': [1.5], 'box_sizes': [6.0]}},
     ['background.huber_epsilons has no effect: it is for '
      'background.methods: huber']),
])
def test_keys_without_effect_in_a_mode_are_found(changed, lines):
    """
    Each is reported once, and keys that have an effect are not.
    """
    assert find_unused_keys(PipelineConfig(**changed)) == lines
