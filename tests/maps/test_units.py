# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the units module.
"""

import astropy.units as u
import numpy as np
import pytest
from numpy.testing import assert_allclose

from hyperphotutils.maps import MapError, flux_factor, parse_unit

PIXEL = 4.0 * u.arcsec**2
BEAM = 100.0 * u.arcsec**2
SR = (np.pi / 180 / 3600)**2 * 4.0


@pytest.mark.parametrize('text', [
    'Jy/beam', 'beam-1 Jy', 'JY/BEAM', 'Jy beam-1', 'Jy/Beam', 'jy/beam',
    'Jy beam^-1', 'Jy beam**-1', 'Jy beam^{-1}', 'Jy.beam-1', 'Jy/bm',
    'Jansky per beam', '[Jy/beam]', ' Jy / beam ', 'BEAM-1 JY', 'Jy/beams',
])
def test_spellings_of_jansky_per_beam(text):
    """
    However it is spelled, it is Jy/beam.
    """
    assert parse_unit(text) == u.Jy / u.beam


@pytest.mark.parametrize(('text', 'expected'), [
    ('Jy', u.Jy),
    ('JY', u.Jy),
    ('Jy/pixel', u.Jy / u.pix),
    ('JY/PIXEL', u.Jy / u.pix),
    ('Jy/px', u.Jy / u.pix),
    ('Jy pix-1', u.Jy / u.pix),
    ('mJy', u.mJy),
    ('mJy/beam', u.mJy / u.beam),
    ('mjy/beam', u.mJy / u.beam),
    ('mJansky/beam', u.mJy / u.beam),
    ('uJy/beam', u.uJy / u.beam),
    ('UJY/BEAM', u.uJy / u.beam),
    ('µJy/beam', u.uJy / u.beam),
    ('μJy/beam', u.uJy / u.beam),
    ('nJy', u.nJy),
    ('kJy/sr', u.kJy / u.sr),
    ('MJy/sr', u.MJy / u.sr),
    ('MJY/SR', u.MJy / u.sr),
    ('MJy sr^-1', u.MJy / u.sr),
    ('Jy/sr', u.Jy / u.sr),
    ('mJy/arcsec**2', u.mJy / u.arcsec**2),
    ('mJy/sqarcsec', u.mJy / u.arcsec**2),
    ('W/m^2/Hz/sr', u.W / u.m**2 / u.Hz / u.sr),
    ('K', u.K),
    ('k', u.K),
    ('Kelvin', u.K),
    ('KELVIN', u.K),
    ('mK', u.mK),
    ('K (Tmb)', u.K),
    ('K (T_MB)', u.K),
    ('K_RJ', u.K),
    ('mK(Tmb)', u.mK),
    ('Tmb [K]', u.K),
    ('mJanskys/beam', u.mJy / u.beam),
    ('microJy/beam', u.uJy / u.beam),
    ('MegaJy/sr', u.MJy / u.sr),
    ('mJY/beam', u.mJy / u.beam),
    ("'Jy/beam'", u.Jy / u.beam),
    ('mJy/sq.arcsec', u.mJy / u.arcsec**2),
    ('Jy / square arcsec', u.Jy / u.arcsec**2),
    ('Jy/sq. deg', u.Jy / u.deg**2),
    ('Jy/"^2', u.Jy / u.arcsec**2),
    ('MJy sr$^{-1}$', u.MJy / u.sr),
    (r'$\mu$Jy\,beam$^{-1}$', u.uJy / u.beam),
    ('(Jy/beam)', u.Jy / u.beam),
])
def test_spellings(text, expected):
    """
    Every unit of a map is read in the spellings of headers.
    """
    assert parse_unit(text) == expected
    assert parse_unit(expected) is expected


@pytest.mark.parametrize('text', ['MJY/BEAM', 'MJY', 'mjy/sr', 'MK'])
def test_mega_or_milli(text):
    """
    A prefix that may mean 1e6 or 1e-3 is not guessed.
    """
    with pytest.raises(MapError, match='mega or milli: give unit='):
        parse_unit(text)


@pytest.mark.parametrize('text', ['K (Ta*)', 'K (TA)', 'K(T_A*)', 'mK (Ta)'])
def test_antenna_temperature(text):
    """
    An antenna temperature needs an efficiency that no header tells.
    """
    with pytest.raises(MapError, match='antenna temperature: divide'):
        parse_unit(text)


@pytest.mark.parametrize('text', [
    'bananas', 'Jy/banana', 'K_CMB', '3x', '1/0 Jy', 'nan Jy/beam',
    'Jy\x00/beam', '(' * 60, 'Jy ' * 1000, '10**999999999 Jy'])
def test_no_unit(text):
    """
    What is no unit is named, with the argument that helps.
    """
    with pytest.raises(MapError, match='cannot be read: give unit='):
        parse_unit(text)


@pytest.mark.parametrize('unit', [
    'dex(Jy/beam)', 'mag', '-1 Jy/beam', '1e400 Jy/beam', u.dex(u.Jy),
    -1 * u.Jy / u.beam, u.Unit(-2 * u.Jy)])
def test_no_factor(unit):
    """
    Values are not multiplied by the scale of a logarithm, or to negative
    fluxes.
    """
    if isinstance(unit, u.Quantity):
        unit = u.Unit(unit)
    with pytest.raises(MapError, match=r'is logarithmic|not have a positive'):
        parse_unit(unit)


def test_wrong_kind():
    """
    A unit is a string or a unit.
    """
    with pytest.raises(TypeError, match='a string or a unit: got int'):
        parse_unit(3)


@pytest.mark.parametrize(('unit', 'expected'), [
    (u.Jy, 1.0),
    (u.mJy, 1e-3),
    (u.uJy / u.pix, 1e-6),
    (u.Jy / u.beam, 0.04),
    (u.mJy / u.beam, 4e-5),
    (u.MJy / u.sr, 1e6 * SR),
    (u.Jy / u.sr, SR),
    (u.mJy / u.arcsec**2, 4e-3),
    (u.W / u.m**2 / u.Hz / u.sr, 1e26 * SR),
])
def test_flux_factor(unit, expected):
    """
    The factor is that of hand arithmetic.
    """
    factor = flux_factor(unit, pixel_area=PIXEL, beam_area=BEAM)
    assert isinstance(factor, float)
    assert_allclose(factor, expected, rtol=1e-12)


@pytest.mark.parametrize(('unit', 'scale'), [(u.K, 1.0), (u.mK, 1e-3)])
def test_brightness_temperature(unit, scale):
    """
    The Rayleigh-Jeans formula with the constants written out.
    """
    k_b, c, nu = 1.380649e-23, 299792458.0, 230e9
    expected = scale * 2 * k_b * nu**2 / c**2 * 1e26 * SR
    factor = flux_factor(unit, pixel_area=PIXEL, frequency=230 * u.GHz)
    assert_allclose(factor, expected, rtol=1e-9)


def test_missing_beam():
    """
    A flux per beam without a beam says which argument it lacks.
    """
    with pytest.raises(MapError, match='needs the beam: give beam='):
        flux_factor(u.Jy / u.beam, pixel_area=PIXEL)


def test_missing_frequency():
    """
    A temperature without a frequency says which argument it lacks.
    """
    with pytest.raises(MapError, match=r'RESTFRQ.*give frequency='):
        flux_factor(u.K, pixel_area=PIXEL)


@pytest.mark.parametrize('unit', [u.adu, u.pW, u.Jy * u.km / u.s / u.beam,
                                  u.m, u.dimensionless_unscaled])
def test_no_flux(unit):
    """
    A unit that is no flux is named.
    """
    with pytest.raises(MapError, match='not a flux or brightness: a map must'):
        flux_factor(unit, pixel_area=PIXEL, beam_area=BEAM)
