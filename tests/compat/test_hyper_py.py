# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the configurations of Hyper-py.
"""

import re

import pytest
import yaml
from astropy.utils.exceptions import AstropyUserWarning

from hyperphotutils.catalog import read_catalog
from hyperphotutils.compat.hyper_py import hyper_py_to_yaml, read_hyper_py
from hyperphotutils.pipeline import (
    ConfigError,
    PipelineConfig,
    config_to_yaml,
    read_config,
    run,
)
from hyperphotutils.pipeline.cli import main

# All keys of Hyper-py with the values of the file that it comes with
DEFAULT = """
paths:
  input: {dir_maps: Maps}
  output: {dir_root: output, dir_table_out: params, dir_region_out: regions,
           dir_log_out: logs}
files: {file_map_name: 'maps_list.txt', file_table_base: params,
        file_region_base: region_files, file_log_name: hyper_py.log}
control: {parallel_maps: true, n_cores: 2, detection_only: false,
          datacube: false, dir_datacube_slices: maps}
units: {convert_mJy: true}
survey: {survey_code: 15}
detection:
  sigma_thres: 5.0
  use_manual_rms: false
  rms_value: 1.e-6
  kernel_size_pix: 0
  roundlim: [-4.0, 4.0]
  sharplim: [-2.0, 2.0]
  use_fixed_source_table: false
  fixed_source_table_path: source_table.txt
  fixed_peaks: false
  xcen_fix: [0.0]
  ycen_fix: [-0.0]
photometry: {aper_inf: 1.0, aper_sup: 2.0, fwhm_radius_ratio: 0.5,
             fixed_radius: false, fwhm_1: [0.0], fwhm_2: [0.0],
             PA_val: [0.0]}
fit_options:
  fit_method: least_squares
  loss: linear
  f_scale: 0.1
  max_nfev: 50000
  xtol: 1e-8
  ftol: 1e-8
  gtol: 1e-8
  weights: snr
  power_snr: 5
  calc_covar: false
  min_method: nmse
  verbose: false
  use_l2_regularization: true
  lambda_l2: 1e-4
  vary: false
  bg_fitters: [least_squares]
  huber_epsilons: [1.1, 1.35, 1.7, 2.0]
background: {fit_gauss_and_bg_separately: true,
             pol_orders_separate: [0, 1, 2], fix_min_box: 3, fix_max_box: 5,
             fit_gauss_and_bg_together: false, polynomial_orders: [0],
             pol_orders_bkg_no_sources: [0]}
fits_output:
  fits_fitting: false
  fits_deblended: false
  fits_bg_separate: false
  fits_output_dir_fitting: fits/fitting
  fits_output_dir_deblended: fits/deblended
  fits_output_dir_bg_separate: fits/bg_separate
visualization:
  visualize_fitting: false
  visualize_deblended: false
  visualize_bg_separate: false
  output_dir_fitting: plots/fitting
  output_dir_deblended: plots/deblended
  output_dir_bg_separate: plots/bg_separate
"""


def leaves(tree, above=''):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f'{above}{name}.')
        else:
            yield f'{above}{name}'


@pytest.fixture(name='hyper_file')
def fixture_hyper_file(tmp_path, monkeypatch):
    """
    A function that writes Hyper-py's file with some values replaced.
    """
    monkeypatch.chdir(tmp_path)

    def write(text=None, **sections):
        path = tmp_path / 'hyper_config.yaml'
        if text is None:
            tree = yaml.safe_load(DEFAULT)
            for section, values in sections.items():
                tree.setdefault(section, {}).update(values)
            text = yaml.safe_dump(tree)
        path.write_text(text, encoding='utf-8')
        return path

    return write


def test_report_has_each_key_once(hyper_file):
    result = read_hyper_py(hyper_file())
    found = [row.split(' ')[0] for rows in result[1:4] for row in rows]
    keys = list(leaves(yaml.safe_load(DEFAULT)))
    assert len(found) == len(set(found))
    assert set(keys) <= set(found)
    # dropped or not: with the reason
    assert all(': ' in row for rows in result[2:4] for row in rows)


def test_conversion_of_the_default_file(hyper_file):
    config = read_hyper_py(hyper_file()).config
    assert config.detection.n_sigma == 5
    assert config.detection.kernel == 'box'
    assert config.detection.kernel_size is None
    assert config.detection.rms is None
    assert config.detection.roundness_range == (-4, 4)
    assert config.detection.sharpness_range == (-2, 2)
    assert config.fit.fwhm_range == (1, 2)
    assert config.photometry.fwhm_limits == (1, 2)
    assert config.background.box_sizes == tuple(
        10 + 0.5 * step for step in range(9))
    assert config.background.methods == ('lsq',)
    assert config.background.orders == (0, 1, 2)
    assert config.background.criterion == 'nmse'
    assert config.fit.loss == 'linear'
    assert config.fit.weights == 'snr'
    assert config.fit.xtol == config.fit.gtol == config.fit.ftol == 1e-8
    assert config.fit.ridge == 0
    assert config.fit.fixed == ('position',)
    assert config.grouping.max_separation == 2
    assert config.photometry.fwhm_radius_ratio == 0.5
    assert not config.photometry.aperture_correction
    assert config.fit.max_rounds == 0
    assert config.output.flux_unit == 'mJy'
    assert config.output.peak_unit == 'mJy/beam'
    assert config.output.directory == 'output'
    assert config.run.n_workers == 2
    assert not config.sources.given


@pytest.mark.parametrize(
    ('sections', 'ours'),
    [
        ({'detection': {'use_manual_rms': True, 'rms_value': 2e-3}},
         {'detection.rms': 2e-6}),
        ({'detection': {'use_manual_rms': True, 'rms_value': 2e-3},
          'units': {'convert_mJy': False}}, {'detection.rms': 2e-3}),
        ({'detection': {'kernel_size_pix': 7}},
         {'detection.kernel_size': 7}),
        ({'control': {'parallel_maps': False}}, {'run.n_workers': 1}),
        ({'control': {'detection_only': True}},
         {'run.detection_only': True}),
        ({'units': {'convert_mJy': False}},
         {'output.flux_unit': 'Jy', 'output.peak_unit': 'Jy/beam'}),
        ({'survey': {'survey_code': 8}}, {'input.survey': 8}),
        ({'fit_options': {'vary': True}}, {'fit.fixed': ()}),
        ({'photometry': {'aper_inf': 0.8, 'aper_sup': 3,
                         'fwhm_radius_ratio': 1.0}},
         {'fit.fwhm_range': (0.8, 3), 'grouping.max_separation': 6}),
        ({'detection': {'use_fixed_source_table': True}},
         {'sources.table': 'output/source_table.txt', 'sources.x': None,
          'fit.fixed': ('position',), 'photometry.aperture': None,
          'photometry.fwhm_limits': (1, 2)}),
        ({'detection': {'use_fixed_source_table': True, 'fixed_peaks': True},
          'photometry': {'fixed_radius': True}},
         {'sources.table': 'output/source_table.txt', 'sources.x': None,
          'fit.fixed': ('position',), 'photometry.aperture': 'sources',
          'photometry.fwhm_limits': None}),
        ({'detection': {'fixed_peaks': True, 'xcen_fix': [1.0, 2.0],
                        'ycen_fix': [3.0, 4.0]}},
         {'sources.x': (1, 2), 'sources.y': (3, 4), 'sources.frame': None,
          'fit.fixed': ('position',)}),
        ({'detection': {'fixed_peaks': True, 'xcen_fix': 1.0,
                        'ycen_fix': 3.0},
          'photometry': {'fixed_radius': True, 'fwhm_1': [20.0],
                         'fwhm_2': [10.0], 'PA_val': [5]},
          'fit_options': {'vary': True}},
         {'sources.x': (1,), 'sources.fwhm_major': None, 'fit.fixed': (),
          'photometry.aperture': {'major': 20, 'minor': 10,
                                  'position_angle': 5}}),
        ({'detection': {'fixed_peaks': True, 'xcen_fix': [1.0, 2.0],
                        'ycen_fix': [3.0, 4.0]},
          'photometry': {'fixed_radius': True, 'fwhm_1': [20.0, 30.0],
                         'fwhm_2': [10.0], 'PA_val': [5, 6]}},
         {'sources.fwhm_major': (20, 30), 'sources.fwhm_minor': 10,
          'sources.position_angle': (5, 6), 'fit.fixed': ('position',),
          'photometry.aperture': 'sources'}),
        ({'photometry': {'fixed_radius': True, 'fwhm_1': [10.0],
                         'fwhm_2': [20.0], 'PA_val': [5]}},
         {'photometry.aperture': {'major': 20, 'minor': 10,
                                  'position_angle': 95},
          'photometry.fwhm_limits': None, 'sources.x': None}),
        ({'background': {'fit_gauss_and_bg_together': True,
                         'polynomial_orders': [2]}},
         {'fit.poly_order': 2, 'fit.ridge': 1e-4}),
        ({'fit_options': {'loss': 'cauchy', 'f_scale': 0.5, 'ftol': 1e-6,
                          'max_nfev': 100}},
         {'fit.loss': 'cauchy', 'fit.f_scale': 0.5, 'fit.ftol': 1e-6,
          'fit.max_iter': 100}),
        ({'fit_options': {'weights': 'power_snr', 'power_snr': 3}},
         {'fit.weights': 'power_snr', 'fit.weight_power': 3.0}),
        ({'fit_options': {'weights': 'spatial', 'xtol': 1e-5, 'gtol': 1e-6}},
         {'fit.weights': 'spatial', 'fit.xtol': 1e-5, 'fit.gtol': 1e-6}),
        *[({'fit_options': {'weights': name}},
           {'fit.weights': None})
          for name in (None, 'null', 'inverse_rms', 'mask')],
        ({'background': {'fit_gauss_and_bg_together': True,
                         'polynomial_orders': [0, 1]},
          'fit_options': {'min_method': 'redchi'}},
         {'fit.poly_order': (0, 1), 'fit.criterion': 'reduced_chi2',
          'background.criterion': 'reduced_chi2'}),
        ({'fit_options': {'bg_fitters': ['least_squares', 'theilsen'],
                          'min_method': 'redchi'},
          'background': {'pol_orders_separate': 1, 'fix_max_box': 4}},
         {'background.methods': ('lsq', 'theilsen'),
          'background.criterion': 'reduced_chi2',
          'background.orders': (1,),
          'background.box_sizes': (10, 10.5, 11, 11.5, 12)}),
        ({'control': {'datacube': True},
          'background': {'pol_orders_bkg_no_sources': [0, 1]}},
         {'input.datacube': True, 'cubes.empty_orders': (0, 1)}),
        ({'background': {'fix_min_box': 0}},
         {'background.box_sizes': (0,)}),
        ({'background': {'fit_gauss_and_bg_separately': False}},
         {'background.box_sizes': None}),
    ],
)
def test_values_have_the_new_keys(hyper_file, sections, ours):
    config = read_hyper_py(hyper_file(**sections)).config.model_dump()
    for key, value in ours.items():
        section, name = key.split('.')
        assert config[section][name] == value, key


def test_mappings_are_reported_as_yaml(hyper_file):
    result = read_hyper_py(hyper_file(photometry={
        'fixed_radius': True, 'fwhm_1': [20.0], 'fwhm_2': [10.0],
        'PA_val': [5]}))
    assert ('photometry.aperture = {major: 20.0, minor: 10.0, '
            'position_angle: 5') in ' '.join(result.converted)


@pytest.mark.parametrize(
    'sections',
    [
        {'fit_options': {'weights': 'map'}},
        {'photometry': {'fwhm_1': [1.0, 2.0], 'fixed_radius': True}},
    ],
)
def test_unsupported_values_are_reported(hyper_file, sections):
    result = read_hyper_py(hyper_file(**sections))
    (section, values), = sections.items()
    key = f'{section}.{list(values)[-1]}'
    assert any(row.startswith(f'{key} = ') for row in result.unsupported)


def test_files_that_cubes_do_not_have(hyper_file):
    """
    Files of single groups and sources are reported as unsupported.
    """
    wanted = {'fits_output': {'fits_fitting': True, 'fits_deblended': True},
              'visualization': {'visualize_fitting': True,
                                'visualize_deblended': False}}
    config = read_hyper_py(hyper_file(**wanted)).config
    assert config.output.plots_groups
    assert config.output.fits_groups
    result = read_hyper_py(hyper_file(**wanted, control={'datacube': True}))
    assert not result.config.output.plots_groups
    assert not result.config.output.fits_groups
    rows = [row for row in result.unsupported if 'cubes have no files' in row]
    assert [row.split(' = ')[0] for row in rows] == [
        'fits_output.fits_deblended', 'fits_output.fits_bg_separate',
        'visualization.visualize_fitting']


def test_missing_keys_have_the_documented_defaults(hyper_file):
    result = read_hyper_py(hyper_file('survey: {survey_code: 15}'))
    assert result.config.detection.n_sigma == 4
    assert result.config.output.flux_unit == 'Jy'
    assert any("detection.sigma_thres (Hyper-py's default): " in row
               for row in result.converted)
    assert read_hyper_py(hyper_file('paths: {input: }')).config


@pytest.mark.parametrize(
    ('text', 'line', 'message'),
    [
        ('survey: {}\ndetection:\n  sigma_thresh: 3', 3,
         "unknown key 'detection.sigma_thresh' of Hyper-py; did you mean "
         "'detection.sigma_thres'?"),
        ('survey: {}\nsharks: {teeth: 3}', 2, "unknown key 'sharks.teeth'"),
        ('survey: {}\ndetection: {sigma_thres: five}', 2, 'must be a number'),
        ('control: {detection_only: 1}', 1, 'must be true or false'),
        ('survey: {survey_code: 11}', 1, 'survey_code: input.survey: 11'),
        ('survey: {}\nfit_options: {weights: color}', 2,
         "fit_options.weights: fit.weights: 'color' is not allowed"),
        ('control: {n_cores: 0}', 1, 'control.n_cores: run.n_workers: 0'),
        ('survey: {}\nphotometry: {fixed_radius: true, fwhm_2: [3]}', 2,
         'photometry.fixed_radius: photometry.aperture.minor: 0.0 is'),
        ('survey: {}\ndetection: {fixed_peaks: true, xcen_fix: [1.0],\n'
         '  ycen_fix: [1.0, 2.0]}', None, 'must have the same length'),
    ],
)
def test_bad_file_is_a_clear_line(hyper_file, text, line, message):
    path = hyper_file(text)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        read_hyper_py(path)
    assert len(caught.value.problems) == 1
    if line is not None:
        assert str(caught.value).startswith(f'{path}: line {line}: ')


def test_maps_are_found_through_the_list(hyper_file, tmp_path):
    """
    Below the working folder, or beside the file.
    """
    folder = tmp_path / 'Maps'
    folder.mkdir()
    result = read_hyper_py(hyper_file())
    assert result.config.input.maps == ()
    assert 'files.file_map_name' in ' '.join(result.unsupported)
    (folder / 'maps_list.txt').write_text('a.fits\n\n# no\nsub/b.fits\n')
    assert read_hyper_py(hyper_file()).config.input.maps == (
        'Maps/a.fits', 'Maps/sub/b.fits')
    single = hyper_file(files={'file_map_name': 'one.FITS'})
    assert read_hyper_py(single).config.input.maps == ('Maps/one.FITS',)


def test_relative_folders_may_be_beside_the_file(hyper_file, tmp_path,
                                                 monkeypatch):
    path = hyper_file(files={'file_map_name': 'one.fits'})
    (tmp_path / 'Maps').mkdir()
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert read_hyper_py(path).config.input.maps == (
        str(tmp_path / 'Maps' / 'one.fits'),)


def test_converted_file_is_ours(hyper_file, tmp_path, capsys):
    path = hyper_file()
    assert main(['config', '--from-hyper-py', str(path)]) == 0
    text = capsys.readouterr().out
    assert text == hyper_py_to_yaml(path)
    assert '# Dropped:\n#   paths.output.dir_table_out = params: ' in text
    assert all(len(line) <= 79 for line in text.splitlines()
               if str(tmp_path) not in line)
    ours = tmp_path / 'ours.yaml'
    ours.write_text(text)
    assert read_config(ours) == read_hyper_py(path).config


def test_hyper_file_can_be_run_directly(hyper_file, write_map, tmp_path,
                                        capsys):
    """
    The command prints a notice, Python warns; the results are equal.
    """
    write_map('Maps/field.fits')
    path = hyper_file(files={'file_map_name': 'field.fits'},
                      fit_options={'weights': 'map'})
    assert main(['run', str(path), '--overwrite']) == 0
    out = capsys.readouterr().out
    assert out.startswith(f'{path}: a configuration of Hyper-py: ')
    assert 'not converted: ' in out
    assert 'fit_options.weights' in out
    stored = read_catalog(tmp_path / 'output' / 'field' / 'catalog.ecsv')
    assert str(stored['flux_fit'].unit) == 'mJy'
    (tmp_path / 'output').rename(tmp_path / 'before')
    with pytest.warns(AstropyUserWarning, match='of Hyper-py'):
        table = run(path)
    assert list(table['flux_fit']) == list(stored['flux_fit'])
    log = (tmp_path / 'output' / 'run.log').read_text('utf-8')
    assert 'configuration of Hyper-py)' in log


def test_report_is_printed_without_maps(hyper_file, capsys):
    """
    The report comes before the error about the missing list of maps.
    """
    path = hyper_file()
    assert main(['run', str(path)]) == 2
    out, err = capsys.readouterr()
    assert out.startswith(f'{path}: a configuration of Hyper-py: ')
    assert 'Maps/maps_list.txt cannot be read: name the maps' in out
    assert err.startswith('hyperphot: no map: ')


def test_own_file_is_not_read_as_hyper_py(tmp_path):
    path = tmp_path / 'ours.yaml'
    path.write_text(config_to_yaml(PipelineConfig()))
    with pytest.raises(ConfigError, match=r"unknown key 'input"):
        read_hyper_py(path)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ('name', 'n_sources'),
    [('test_2d_map_1.fits', 50), ('map_500_Gaussians_1.fits', None)],
)
def test_default_file_runs_on_the_maps_of_hyper_py(
    hyper_file, real_data, name, n_sources
):
    """
    Hyper-py 1.2.3 detects 50 sources on the first with this file.
    """
    path = real_data(name)
    hyper = hyper_file(files={'file_map_name': path.name},
                       paths={'input': {'dir_maps': str(path.parent)}})
    with pytest.warns(AstropyUserWarning, match='of Hyper-py'):
        table = run(hyper)
    assert len(table) == n_sources or (n_sources is None and len(table) > 300)
    assert str(table['aperture_flux'].unit) == 'mJy'
