# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of explanations.
"""

import numpy as np
import pytest

from hyperphotutils.datasets import make_blended_map
from hyperphotutils.photometry import HyperPhotometry, explain_source
from hyperphotutils.utils import FLAG_DESCRIPTIONS, FLAGS


@pytest.fixture(scope='module')
def table():
    sim = make_blended_map((150, 150), 20, seed=1)
    return HyperPhotometry(fwhm=4.0)(sim.image)


class TestExplainSource:
    def test_every_source(self, table):
        """
        Every source has a line on each step.
        """
        for row in table:
            text = explain_source(table, row['id'], fwhm=4.0)
            starts = [line.split(':')[0] for line in text.splitlines()]
            assert starts[:7] == [
                'Detection', 'Group', 'Background', 'Flux',
                'Signal-to-noise ratio', 'Size', 'Goodness of fit']
            assert f'{row["snr"]:.1f}' in text

    def test_group(self, table):
        """
        The nearest source of the group is named.
        """
        row = table[table['group_size'] > 1][0]
        text = explain_source(table, row['id'], fwhm=4.0).splitlines()[1]
        others = table[(table['group_id'] == row['group_id'])
                       & (table['id'] != row['id'])]
        distance = np.hypot(others['x_fit'] - row['x_fit'],
                            others['y_fit'] - row['y_fit'])
        nearest = others['id'][np.argmin(distance)]
        assert f'with {len(others)} other' in text
        assert f'id {nearest}, {distance.min() / 4.0:.1f} beams' in text

    @pytest.mark.parametrize('name', FLAGS)
    def test_flags(self, table, name):
        """
        Every flag is described.
        """
        flagged = table[:1].copy()
        flagged['flags'] = FLAGS[name]
        text = explain_source(flagged, flagged['id'][0], fwhm=4.0)
        assert f'Flag {name}: {FLAG_DESCRIPTIONS[name]}' in text

    def test_source_without_fit(self, table):
        """
        A source without a fit has no numbers.
        """
        empty = table[:1].copy()
        empty['flux_fit'] = np.nan
        empty['flags'] = FLAGS['off_map']
        lines = explain_source(empty, empty['id'][0], fwhm=4.0).splitlines()
        assert lines[1] == 'Fit: none, and all values are missing.'
        assert lines[2].startswith('Flag off_map')

    def test_unknown_id(self, table):
        with pytest.raises(ValueError, match='no source with id 1000; its '
                                             'ids are 1 to 20'):
            explain_source(table, 1000, fwhm=4.0)
