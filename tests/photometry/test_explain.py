# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of explanations.
"""

import astropy.units as u
import numpy as np
import pytest

from hyperphotutils.background import LocalPolynomialBackground
from hyperphotutils.blend import BlendGroupFitter
from hyperphotutils.datasets import make_blended_map
from hyperphotutils.photometry import (
    HyperPhotometry,
    explain_source,
    explain_sources,
    summarize_sources,
)
from hyperphotutils.utils import FLAG_DESCRIPTIONS, FLAGS


@pytest.fixture(scope='module')
def sky():
    return make_blended_map((150, 150), 20, seed=1).image


@pytest.fixture(scope='module')
def phot():
    return HyperPhotometry(fwhm=4.0)


@pytest.fixture(scope='module')
def table(sky, phot):
    return phot(sky)


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

    def test_given_sources(self, sky, table):
        """
        Given sources were not detected, and given shapes not fitted.
        """
        phot = HyperPhotometry(4.0, fitter=BlendGroupFitter(
            4.0, fixed=('shape',)))
        given = phot(sky, init_params=table['id', 'x_fit', 'y_fit'])
        text = phot.explain(given['id'][0])
        assert text.startswith('Position: given at x = ')
        assert 'not fitted' in text.split('Size: ')[1].splitlines()[0]
        assert 'Detection' not in text
        assert phot.summary().startswith('sources: 20 given, 20 measured')

    def test_white_noise(self, sky):
        """
        The signal-to-noise ratio is that of a pixel, and the numbers of
        the summary are those of the table.
        """
        phot = HyperPhotometry(4.0, noise='white')
        table = phot(sky)
        assert 'units of the rms of a pixel' in phot.explain(table['id'][0])
        assert 'independent pixels' in phot.summary()
        assert f'{len(table)} measured' in phot.summary()

    def test_separate_background(self, sky):
        """
        The method of a background that was subtracted is named.
        """
        phot = HyperPhotometry(
            4.0, background=LocalPolynomialBackground(25))
        table = phot(sky)
        line = phot.explain(table['id'][0]).splitlines()[2]
        assert 'subtracted before the fit' in line
        assert str(table['bkg_method'][0]) in line

    def test_fluxes(self, table):
        """
        Fluxes have the unit that suits them, and end at the second digit
        of their error.
        """
        small = table[:1].copy()
        small['flux_fit'] = [0.0123456] * u.Jy
        small['flux_err'] = [0.0001234] * u.Jy
        text = explain_source(small, small['id'][0], fwhm=4.0)
        assert 'Flux: 12.35 ± 0.12 mJy from the fit' in text
        assert small['flux_fit'].unit == 'Jy'

    def test_unknown_id(self, table):
        with pytest.raises(ValueError, match='no source with id 1000; its '
                                             'ids are 1 to 20'):
            explain_source(table, 1000, fwhm=4.0)
        with pytest.raises(ValueError, match="'1'; its ids are 1 to 20; they "
                                             'are integers: give a number'):
            explain_source(table, '1', fwhm=4.0)

    def test_origins_in_the_summary_are_those_of_the_flags(self, table):
        companions = table.copy()
        companions.meta |= {'n_detected': 17, 'n_companions': 3}
        companions['flags'] = 0
        companions['flags'][:2] = FLAGS['residual_detection']
        companions['flags'][2:4] = FLAGS['split_pair']
        assert summarize_sources(companions)['sources'] == (
            '20 measured: 17 detected on the map, 2 in its residual, '
            '1 by splitting detections in two')


class TestObject:
    def test_before_a_call(self):
        """
        There is nothing to explain, and the HTML is the call.
        """
        phot = HyperPhotometry(fwhm=4.0)
        with pytest.raises(ValueError, match='no results: call the'):
            phot.explain(1)
        with pytest.raises(ValueError, match='no map has been measured yet'):
            phot.summary()
        assert phot._repr_html_().startswith('<code>HyperPhotometry(fwhm')

    def test_same_texts(self, phot, table):
        """
        The object explains sources as the functions do, whatever becomes
        of the table.
        """
        texts = explain_sources(table, fwhm=4.0)
        for row, text in zip(table, texts, strict=True):
            assert phot.explain(row['id']) == text
        table['flux_fit'][3] *= 2.0
        assert phot.explain(table['id'][3]) == texts[3]
        table['flux_fit'][3] /= 2.0

    def test_html(self, phot, table):
        """
        The facts of the summary are in the HTML.
        """
        page = phot._repr_html_()
        assert f'{len(table)} measured' in page
        assert page.count('<tr>') == len(phot.summary().splitlines())
