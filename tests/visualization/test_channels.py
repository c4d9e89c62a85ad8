# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the pictures of cubes.
"""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table

from hyperphotutils.datasets import make_map_cube
from hyperphotutils.maps import read_cube
from hyperphotutils.utils.flags import FLAGS
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
            image = axes.images[0]
            np.testing.assert_array_equal(image.get_array(), image.cmap(
                image.norm(np.ma.masked_invalid(1e3 * expected)), bytes=True))
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
        assert shown.shape == (367, 234, 4)
        bright = (shown == shown[300, 100]).all(axis=2)
        assert np.argwhere(bright).tolist() == [[300, 100]]
        for x, y, row in ((300.0, 899.6, 300), (302.4, 902.4, 300)):
            color = image.get_cursor_data(SimpleNamespace(xdata=x, ydata=y))
            np.testing.assert_array_equal(color, shown[row, 100])
        missing = (shown == shown[0, 0]).all(axis=2)
        assert missing[:6].all()
        assert not missing[7:366, :233].any()

    @pytest.mark.parametrize(('n_channels', 'shape'), [
        (12, (400, 40)), (12, (200, 100)), (12, (100, 100)),
        (12, (40, 400)), (1, (100, 60))])
    def test_titles_fit(self, sim, check_lines, n_channels, shape):
        """
        Nothing is printed over a title, whatever the shape of the cube.
        What holds for all panels is said once.
        """
        header = sim.cube.header.copy()
        header.update(CTYPE3='FREQ', CUNIT3='Hz', CRVAL3=229.7632e9,
                      CDELT3=4.8e5)
        rng = np.random.default_rng(5)
        cube = read_cube((rng.normal(size=(n_channels, *shape)), header))
        n_sources = 24 * n_channels
        table = Table({
            'channel': np.arange(n_sources) % n_channels,
            'x_fit': rng.uniform(0, shape[1] - 1, n_sources),
            'y_fit': rng.uniform(0, shape[0] - 1, n_sources),
            'fwhm_major_fit': np.full(n_sources, 2.0),
            'fwhm_minor_fit': np.full(n_sources, 2.0),
            'theta_fit': np.zeros(n_sources),
            'flags': np.full(n_sources, FLAGS['doubtful'])})
        lines = check_lines(plot_channels(cube, table, title='a title ' * 15))
        assert ' '.join(lines).count('24 sources') == n_channels
        for note in ('ellipses: 2 FWHM', 'dashed: doubtful'):
            assert ' '.join(lines).count(note) == 1

    def test_ellipses_of_all_panels_are_alike(self, sim):
        """
        They are enlarged in all panels, or in none if one is crowded.
        """
        table = Table({
            'channel': np.repeat([0, 1], [2, 60]),
            **{name: np.full(62, value) for name, value in (
                ('x_fit', 30.0), ('y_fit', 30.0), ('fwhm_major_fit', 3.0),
                ('fwhm_minor_fit', 3.0), ('theta_fit', 0.0))}})
        for rows, factor in ((slice(2), 2), (slice(None), 1)):
            figure = plot_channels(sim.cube, table[rows])
            sizes = figure.axes[0].collections[0].get_widths()
            np.testing.assert_allclose(sizes, 3.0 * factor)
            titles = ' '.join(text.get_text() for text in figure.texts)
            assert ('ellipses: 2 FWHM' in titles) == (factor == 2)

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
