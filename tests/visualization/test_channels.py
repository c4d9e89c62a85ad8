# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the pictures of cubes.
"""

import io

import numpy as np
import pytest
from astropy.table import Table

from hyperphotutils.datasets import make_map_cube
from hyperphotutils.maps import read_cube
from hyperphotutils.visualization import choose_channels, plot_channels


@pytest.fixture(scope='module')
def sim():
    return make_map_cube((5, 60, 80), 4, seed=3)


class TestChooseChannels:
    def test_all_or_those_with_sources(self):
        """
        Few channels are all shown, of many those with sources.
        """
        table = Table({'channel': [7, 7, 20, 31]})
        assert choose_channels(4, table) == [0, 1, 2, 3]
        assert choose_channels(41, table) == [7, 20, 31]
        assert choose_channels(41, table[:0], n_max=3) == [0, 20, 40]
        many = Table({'channel': np.arange(10, 40)})
        assert choose_channels(41, many, n_max=4) == [10, 20, 29, 39]


class TestPlotChannels:
    def test_panels(self, sim):
        """
        Each channel has a panel with its sources, without background,
        in the same colors.
        """
        figure = plot_channels(sim.cube, sim.truth,
                               background=sim.background, title='cube')
        panels = figure.axes[:5]
        for i, axes in enumerate(panels):
            n_sources = np.count_nonzero(sim.truth['channel'] == i)
            plural = '' if n_sources == 1 else 's'
            assert axes.get_title(loc='right') == f'{n_sources} source{plural}'
            assert axes.get_title(loc='left').startswith(f'{i}: ')
            assert len(axes.collections[0].get_offsets()) == n_sources
            expected = sim.cube.plane(i) - sim.background[i].value
            np.testing.assert_allclose(
                axes.images[0].get_array().filled(np.nan), 1e3 * expected,
                rtol=1e-6)
        assert len({id(axes.images[0].norm) for axes in panels}) == 1
        assert 'mJy' in figure.axes[-1].get_ylabel()
        figure.savefig(io.BytesIO())

    def test_large_planes(self, sim):
        """
        Large planes are averaged in blocks, which keeps the positions.
        """
        data = np.zeros((1, 1100, 700))
        data[0, 900:903, 300:303] = 9.0
        data[0, :20] = np.nan
        cube = read_cube((data, sim.cube.header))
        image = plot_channels(cube, channels=[0]).axes[0].images[0]
        shown = image.get_array()
        assert shown.shape == (367, 234)
        row, column = np.unravel_index(shown.argmax(), shown.shape)
        assert (row, column) == (300, 100)
        assert image.get_extent() == [-0.5, 701.5, -0.5, 1100.5]
        assert shown.mask[:6].all()
        assert not shown.mask[7:366, :233].any()

    def test_no_values(self, sim):
        """
        A picture of nothing is an error that names the channels.
        """
        cube = read_cube((np.full((2, 9, 9), np.nan), sim.cube.header))
        with pytest.raises(ValueError, match=r'channels 0, 1 of the array'):
            plot_channels(cube)

    def test_no_unit_and_no_beam(self, sim):
        """
        Neither is needed.
        """
        header = sim.cube.header.copy()
        for key in ('BUNIT', 'BMAJ', 'BMIN', 'BPA'):
            del header[key]
        figure = plot_channels(read_cube((sim.hdu.data, header)))
        assert figure.axes[-1].get_ylabel() == 'asinh scale'
