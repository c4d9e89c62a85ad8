# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the units module.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable, Table
from numpy.testing import assert_allclose, assert_array_equal

from hyperphotutils.catalog import convert_flux_units
from hyperphotutils.catalog.units import (
    in_map_unit,
    map_unit,
    to_readable_units,
)


def make_table():
    table = QTable({'id': [1, 2], 'amplitude_fit': [1.0, 2.0] * u.Jy / u.pix,
                    'local_bkg': [0.1, np.nan] * u.Jy / u.pix,
                    'flux_fit': [5.0, 7.0] * u.Jy, 'snr': [9.0, 8.0],
                    'fwhm_major_sky': [3.0, 4.0] * u.arcsec},
                   meta={'beam_area_pix': 25.0, 'rms': 0.01 * u.Jy / u.pix})
    table['flux_fit'].info.description = 'The flux'
    return table


def test_peaks_are_those_of_a_map_per_beam():
    """
    The peak of a source as large as the beam is its flux in Jy/beam.
    """
    area = np.pi / (4 * np.log(2)) * 5.0 * 4.0
    table = QTable({'flux_fit': [3.0] * u.Jy,
                    'amplitude_fit': [3.0 / area] * u.Jy / u.pix})
    result = convert_flux_units(table, peak_unit='Jy/beam',
                                beam_area_pix=area)
    assert_allclose(result['amplitude_fit'].to_value('Jy/beam'), 3.0)


def test_all_columns_of_a_kind():
    """
    Fluxes and peaks are converted wherever they are, nothing else.
    """
    table = make_table()
    result = convert_flux_units(table, flux_unit='mJy', peak_unit='mJy/beam')
    assert result['flux_fit'].unit == u.mJy
    assert_allclose(result['flux_fit'].value, [5000, 7000])
    for name in ('amplitude_fit', 'local_bkg'):
        assert result[name].unit == u.mJy / u.beam
        assert_allclose(result[name].value, 25e3 * table[name].value)
    for name in ('id', 'snr', 'fwhm_major_sky'):
        assert_array_equal(result[name], table[name])
    assert result['flux_fit'].info.description == 'The flux'
    assert u.isclose(result.meta['rms'], 250 * u.mJy / u.beam)
    assert table['flux_fit'].unit == u.Jy
    assert table.meta['rms'] == 0.01 * u.Jy / u.pix


def test_area_of_each_row():
    """
    Where the pixels vary over the map, each row has its own beam area.
    """
    table = make_table()
    expected = [20.0, 60.0]
    result = convert_flux_units(table, peak_unit='Jy/beam',
                                beam_area_pix=[20.0, 30.0])
    assert_allclose(result['amplitude_fit'].value, expected)
    assert u.isclose(result.meta['rms'], 0.25 * u.Jy / u.beam)
    table['beam_area_pix'] = [20.0, 30.0]
    result = convert_flux_units(table, peak_unit='Jy/beam')
    assert_allclose(result['amplitude_fit'].value, expected)
    back = convert_flux_units(result, peak_unit='Jy/pix')
    assert_allclose(back['amplitude_fit'].value, [1.0, 2.0])
    table['beam_area_pix'] = [20.0, np.nan]
    result = convert_flux_units(table, peak_unit='Jy/beam')
    assert_allclose(result['amplitude_fit'].value, [20.0, np.nan])
    for area in ([20.0], [20.0, -1.0], 'large', np.nan):
        with pytest.raises(ValueError, match='one for each of the 2 rows'):
            convert_flux_units(table, peak_unit='Jy/beam',
                               beam_area_pix=area)


@pytest.mark.parametrize('unit', ['Jy/pix', 'Jy/pixel', u.Jy / u.pix])
def test_round_trip(unit):
    """
    To peaks per beam and back gives the table.
    """
    table = Table(make_table())
    result = convert_flux_units(table, peak_unit='Jy/beam')
    result = convert_flux_units(result, peak_unit=unit)
    assert result['amplitude_fit'].unit == u.Jy / u.pix
    assert_allclose(result['amplitude_fit'].value, [1.0, 2.0])


def test_rms_of_another_kind_is_left():
    """
    An rms that is no flux density stays as it is.
    """
    for rms in (0.25, 'unknown', 0.25 * u.K):
        table = make_table()
        table.meta['rms'] = rms
        result = convert_flux_units(table, peak_unit='mJy/pix')
        assert result.meta['rms'] == rms


def test_bad_units_raise():
    """
    Units of another kind, and beams that are not known, are refused.
    """
    table = make_table()
    for unit in ('K', 'Jy/beam', 'foo', 5.5 * u.s):
        with pytest.raises(ValueError, match='flux_unit must be a unit such'):
            convert_flux_units(table, flux_unit=unit)
    for unit in ('Jy', 'MJy/sr'):
        with pytest.raises(ValueError, match='peak_unit must be a unit such'):
            convert_flux_units(table, peak_unit=unit)
    with pytest.raises(ValueError, match='beam_area_pix must be positive, o'):
        convert_flux_units(table, peak_unit='Jy/beam', beam_area_pix=-1)
    del table.meta['beam_area_pix']
    with pytest.raises(ValueError, match='needs the area of the beam'):
        convert_flux_units(table, peak_unit='Jy/beam')
    plain = QTable({'flux_fit': [1.0]})
    with pytest.raises(ValueError, match="cannot convert to flux_unit='mJy'"):
        convert_flux_units(plain, flux_unit='mJy')
    with pytest.raises(TypeError, match='table must be an astropy Table: got'):
        convert_flux_units(None, flux_unit='mJy')


@pytest.mark.parametrize(('text', 'unit'), [
    ('Jy/beam', 'Jy/beam'), ('JY/BEAM', 'Jy/beam'), ('mJy beam-1', 'mJy/beam'),
    ('MJy/sr', None), ('Jy/pix', None), ('K', None), ('', None)])
def test_readers_see_the_unit_of_the_map(text, unit):
    """
    Results of maps per beam are shown in that unit, and fluxes with its
    prefix; those of others in a unit per beam with few digits.
    """
    table = make_table()
    table.meta['original_unit'] = text
    rms = table.meta['rms']
    assert map_unit(table.meta) == (None if unit is None else u.Unit(unit))
    shown = to_readable_units(table)
    expected = u.Unit(unit or 'Jy/beam')
    assert shown['local_bkg'].unit == shown.meta['rms'].unit == expected
    assert shown['flux_fit'].unit == expected * u.beam
    assert in_map_unit(rms, table.meta).unit == (
        rms.unit if unit is None else expected)
    assert_allclose(shown.meta['rms'].to_value('Jy/beam'), 0.25)
