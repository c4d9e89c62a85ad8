# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the registry of products, and of the images of a map.
"""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose, assert_array_equal

from hyperphotutils.catalog import read_catalog
from hyperphotutils.maps import read_map
from hyperphotutils.pipeline import PipelineConfig, process_maps
from hyperphotutils.pipeline.products import (
    PRODUCTS,
    find_foreign_files,
    list_output_keys,
)
from hyperphotutils.utils.output import atomic_output

IMAGES = ('model', 'background', 'residual')


def test_products_are_known_by_their_registry(tmp_path):
    """
    Their keys are those of the configuration, with one default each; only
    their files may be replaced.
    """
    keys = list_output_keys()
    options = PipelineConfig().output
    assert {'ipac', 'csv', 'regions', 'overview', 'images', 'fits_groups',
            'fits_sources', 'plots_groups', 'plots_sources',
            'plots_backgrounds', 'report'} == set(keys)
    for product in PRODUCTS:
        (tmp_path / product.name).touch()
        if product.key is not None:
            assert getattr(options, product.key) == product.default
            assert product.name in keys[product.key][1]
    assert not find_foreign_files(tmp_path)
    (tmp_path / 'thesis.tex').touch()
    assert find_foreign_files(tmp_path) == ['thesis.tex']


def test_what_a_killed_process_leaves_is_not_foreign(tmp_path, monkeypatch):
    """
    The temporary file of a product is replaced with its folder.
    """
    with monkeypatch.context() as patch:
        # as if the process was killed before
        patch.setattr(Path, 'replace', lambda *_: None)
        patch.setattr(Path, 'unlink', lambda *_, **__: None)
        for name in ('report.html', 'thesis.tex'):
            with atomic_output(tmp_path / name) as temporary:
                temporary.touch()
    left, = tmp_path.glob('*.tex')
    assert len(list(tmp_path.iterdir())) == 2
    assert find_foreign_files(tmp_path) == [left.name]


@pytest.fixture(scope='module', name='folder')
def fixture_folder(map_file, tmp_path_factory):
    """
    The folder of a map with masked pixels, with the images.
    """
    path = tmp_path_factory.mktemp('images') / 'field.fits'
    with fits.open(map_file) as hdus:
        hdus[0].data[:, :8] = np.nan
        hdus.writeto(path)
    outcome, = process_maps(PipelineConfig(
        input={'maps': [str(path)]}, output={
            'directory': str(path.with_name('out')), 'overview': False,
            'images': True}))
    assert outcome.reason is None
    return outcome.job.folder


def test_images_add_up_to_the_map(folder):
    """
    data = model + background + residual where there is a background; the
    unit, the beam, and the WCS are those of the map.
    """
    data = read_map(folder.parents[1] / 'field.fits')
    scale = np.nanmax(np.abs(data.data))
    images = {}
    for name in IMAGES:
        image = read_map(folder / f'{name}.fits', fill_value=False)
        assert image.unit == data.unit
        assert_allclose(image.meta['beam_area_pix'],
                        data.meta['beam_area_pix'], rtol=1e-6)
        assert image.meta['beam'].major == data.meta['beam'].major
        sky = data.wcs.pixel_to_world([0, 50], [0, 60])
        assert_allclose(image.wcs.world_to_pixel(sky), ([0, 50], [0, 60]),
                        atol=1e-6)
        images[name] = np.where(image.mask, np.nan, image.data)
    known = np.isfinite(images['background']) & ~data.mask
    assert known.sum() > 300
    total = sum(images.values())
    assert_allclose(total[known], data.data[known], atol=1e-6 * scale)
    # elsewhere no background is subtracted
    far = ~np.isfinite(images['background']) & ~data.mask
    assert far.any()
    assert_allclose((images['model'] + images['residual'])[far],
                    data.data[far], atol=1e-6 * scale)
    assert_array_equal(np.isnan(images['residual']), data.mask)
    assert np.isfinite(images['model']).all()


def test_model_has_the_fluxes_of_the_catalog(folder):
    table = read_catalog(folder / 'catalog.ecsv')
    model = read_map(folder / 'model.fits', fill_value=False)
    assert_allclose(model.data.sum(), table['flux_fit'].value.sum(),
                    rtol=0.02)


def test_images_state_where_they_come_from(folder):
    for name in IMAGES:
        # Long lines are broken at spaces, which are lost.
        history = ''.join(fits.getheader(
            folder / f'{name}.fits')['HISTORY']).replace(' ', '')
        assert history.startswith(f'{name}of')
        assert 'field.fitsby' in history
        assert ',hyperphotutils' in history
        assert 'HyperPhotometry(' in history


def test_map_without_sources_has_images(map_file, tmp_path):
    outcome, = process_maps(PipelineConfig(
        input={'maps': [str(map_file)]}, detection={'n_sigma': 1e6},
        output={'directory': str(tmp_path), 'overview': False,
                'images': True}))
    data = read_map(map_file)
    residual = fits.getdata(outcome.job.folder / 'residual.fits')
    assert_allclose(residual, data.data, rtol=1e-6)
    assert not fits.getdata(outcome.job.folder / 'model.fits').any()
    assert np.isnan(fits.getdata(outcome.job.folder
                                 / 'background.fits')).all()


def test_images_are_for_fits_only(map_file, tmp_path):
    outcome, = process_maps(PipelineConfig(
        input={'maps': [str(map_file)]}, run={'detection_only': True},
        output={'directory': str(tmp_path), 'overview': False,
                'images': True}))
    assert outcome.reason is None
    assert not list(outcome.job.folder.glob('*.fits'))
