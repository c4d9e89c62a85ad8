# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the beams module.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from numpy.testing import assert_allclose
from radio_beam import Beam

from hyperphotutils.maps import (
    MapError,
    find_beam,
    get_survey,
    header_beam,
)

SIZE = {'pixel_scale': 2.0 * u.arcsec, 'shape': (50, 100)}


def make_header(major=10.0, minor=8.0, angle=30.0, **cards):
    """
    Make a header with a beam given in arcsec.
    """
    return fits.Header({'BMAJ': major / 3600, 'BMIN': minor / 3600,
                        'BPA': angle, **cards})


def history_header(*lines):
    """
    Make a header with HISTORY only.
    """
    header = fits.Header()
    for line in lines:
        header['HISTORY'] = line
    return header


def assert_beam(beam, major, minor, angle):
    assert isinstance(beam, Beam)
    assert_allclose(beam.major.to_value(u.arcsec), major, rtol=1e-4)
    assert_allclose(beam.minor.to_value(u.arcsec), minor, rtol=1e-4)
    assert_allclose(beam.pa.to_value(u.deg), angle, atol=1e-3)


AIPS = 'AIPS   CLEAN BMAJ=  1.7599E-03 BMIN=  1.5740E-03 BPA=   2.61'
CASA = ('Fri Feb 17 14:30:14 2012  HISTORY imager::clean() [] Beam used in '
        'restor', '>ation: 1.85764 by 1.36853 (arcsec) at pa 175.817 (deg)')


class TestHeaderBeam:
    def test_keywords(self):
        """
        BMAJ, BMIN and BPA are degrees.
        """
        beam, origin = header_beam(make_header())
        assert_beam(beam, 10.0, 8.0, 30.0)
        assert origin == 'BMAJ/BMIN'

    def test_only_bmaj(self):
        """
        BMAJ alone means a round beam.
        """
        beam, _ = header_beam(fits.Header({'BMAJ': 0.01}))
        assert_beam(beam, 36.0, 36.0, 0.0)

    def test_aips(self):
        """
        AIPS notes the beam of its last CLEAN in degrees.
        """
        header = history_header(AIPS.replace('1.7', '2.7'), 'something', AIPS)
        beam, origin = header_beam(header)
        assert_beam(beam, 6.33564, 5.6664, 2.61)
        assert origin == 'HISTORY (AIPS)'

    def test_casa_across_lines(self):
        """
        CASA breaks its note in the middle of words.
        """
        beam, origin = header_beam(history_header(*CASA, 'more'))
        assert_beam(beam, 1.85764, 1.36853, 175.817)
        assert origin == 'HISTORY (CASA)'

    def test_last_note_counts(self):
        """
        The note written last is the map's.
        """
        assert header_beam(history_header(*CASA, AIPS))[1].endswith('(AIPS)')
        assert header_beam(history_header(AIPS, *CASA))[1].endswith('(CASA)')

    def test_keywords_before_history(self):
        """
        HISTORY tells of steps on the way; the keywords of the result.
        """
        header = make_header()
        header['HISTORY'] = AIPS
        assert header_beam(header)[1] == 'BMAJ/BMIN'

    def test_beams_table(self):
        """
        CASA's table serves a map without keywords.
        """
        table = Table({'BMAJ': [5.0, 5.0] * u.arcsec,
                       'BMIN': [4.0, 4.0] * u.arcsec,
                       'BPA': [20.0, 20.0] * u.deg})
        beam, origin = header_beam(fits.Header(), table)
        assert_beam(beam, 5.0, 4.0, 20.0)
        assert origin == 'the BEAMS table'
        table['BMAJ'][1] = 6.0
        with pytest.raises(MapError, match='BEAMS table lists beams of diff'):
            header_beam(fits.Header(), table)

    def test_none(self):
        """
        No statement is no beam.
        """
        header = history_header('beam me up', 'BMAJ= big')
        assert header_beam(header) == (None, None)

    @pytest.mark.parametrize(('major', 'minor'), [
        (8.0, 10.0), (0.0, 0.0), (-5.0, -5.0), (5.0, 0.0), (5.0, -5.0)])
    def test_impossible(self, major, minor):
        """
        Beams swapped, zero or negative name their keywords.
        """
        with pytest.raises(MapError, match='BMAJ/BMIN states a beam of'):
            header_beam(make_header(major, minor))

    @pytest.mark.parametrize('key', ['BMAJ', 'BMIN', 'BPA'])
    def test_not_a_number(self, key):
        """
        A keyword that is text names itself.
        """
        header = make_header(**{key: 'unknown'})
        with pytest.raises(MapError,
                           match=f"{key} = 'unknown' is not a number: "):
            header_beam(header)

    def test_nan_card(self):
        """
        A card that FITS does not allow is no traceback.
        """
        header = fits.Header.fromstring(f'{"BMAJ    = NaN":80s}'
                                        f'{"END":80s}')
        with pytest.raises(MapError, match='card of BMAJ is not valid FITS'):
            header_beam(header)


class TestFindBeam:
    def test_header(self):
        """
        The header's beam and the area of its Gaussian.
        """
        beam, area = find_beam(make_header(), **SIZE)
        assert_beam(beam, 10.0, 8.0, 30.0)
        assert_allclose(area.to_value(u.arcsec**2),
                        np.pi / (4 * np.log(2)) * 80.0, rtol=1e-6)

    @pytest.mark.parametrize('beam', [
        18.0 * u.arcsec, 0.3 * u.arcmin, Beam(18.0 * u.arcsec)])
    def test_argument(self, beam):
        """
        The argument supplies what the header lacks.
        """
        found, _ = find_beam(fits.Header(), beam=beam, **SIZE)
        assert_beam(found, 18.0, 18.0, 0.0)

    def test_elliptical_argument(self):
        """
        A Beam keeps its shape and angle.
        """
        beam = Beam(major=18 * u.arcsec, minor=12 * u.arcsec, pa=40 * u.deg)
        found, _ = find_beam(fits.Header(), beam=beam, **SIZE)
        assert_beam(found, 18.0, 12.0, 40.0)

    def test_missing(self):
        """
        No beam at all names the keyword and both arguments.
        """
        with pytest.raises(MapError, match=r'no BMAJ.*beam=.*or survey='):
            find_beam(fits.Header(), **SIZE)

    def test_argument_agrees(self):
        """
        To say it twice is no contradiction.
        """
        beam, _ = find_beam(make_header(10.0, 10.0), beam=10.05 * u.arcsec,
                            **SIZE)
        assert_beam(beam, 10.05, 10.05, 0.0)

    def test_argument_contradicts(self):
        """
        Two beams for one map: the user must say which to drop.
        """
        with pytest.raises(MapError, match='BMAJ/BMIN, 10 x 8 arcsec, '
                           'contradicts beam=, 12 x 12 arcsec: drop beam='):
            find_beam(make_header(), beam=12 * u.arcsec, **SIZE)

    @pytest.mark.parametrize('header', [
        make_header(0.0, 0.0), make_header(8.0, 10.0),
        make_header(BMAJ='?'), make_header(33.0 * 3600, 33.0 * 3600)])
    def test_argument_replaces_what_cannot_be(self, header):
        """
        A beam that cannot be true yields to the argument.
        """
        with pytest.raises(MapError, match='beam'):
            find_beam(header, **SIZE)
        beam, _ = find_beam(header, beam=33 * u.arcsec, **SIZE)
        assert_beam(beam, 33.0, 33.0, 0.0)

    def test_size(self):
        """
        A beam below a pixel or beyond the map is a wrong unit.
        """
        with pytest.raises(MapError, match='smaller than a pixel of 2 arcsec'
                                           '; correct the header'):
            find_beam(make_header(1.5, 1.5), **SIZE)
        with pytest.raises(MapError, match=r'larger than the map of 200 arc.*'
                                           r'BMAJ is in degrees.*beam='):
            find_beam(make_header(300.0, 300.0), **SIZE)
        with pytest.raises(MapError, match='from beam= is smaller than'):
            find_beam(fits.Header(), beam=1 * u.arcsec, **SIZE)

    @pytest.mark.parametrize('beam', [18.0, '18', [18]])
    def test_argument_of_wrong_kind(self, beam):
        """
        A beam without a unit is not guessed.
        """
        with pytest.raises(TypeError, match='Beam or a FWHM with a unit'):
            find_beam(fits.Header(), beam=beam, **SIZE)

    @pytest.mark.parametrize('beam', [
        0 * u.arcsec, -3 * u.arcsec, np.nan * u.arcsec, np.inf * u.arcsec])
    def test_impossible_argument(self, beam):
        """
        A FWHM is positive and finite.
        """
        with pytest.raises(MapError, match='beam= states a beam of'):
            find_beam(fits.Header(), beam=beam, **SIZE)

    @pytest.mark.parametrize('beam', [3 * u.Jy, [3, 4] * u.arcsec])
    def test_argument_no_angle(self, beam):
        """
        A beam is one angle.
        """
        with pytest.raises(MapError, match='beam must be one beam or one'):
            find_beam(fits.Header(), beam=beam, **SIZE)

    def test_survey(self):
        """
        A survey gives the FWHM and, where published, the area.
        """
        beam, area = find_beam(fits.Header(), survey=get_survey('spire250'),
                               **SIZE)
        assert_beam(beam, 18.0, 18.0, 0.0)
        assert_allclose(area.to_value(u.arcsec**2), 423.0)
        beam, area = find_beam(fits.Header(), survey=get_survey('pacs70'),
                               **SIZE)
        assert_allclose(area.to_value(u.sr), beam.sr.to_value(u.sr))

    def test_survey_with_header(self):
        """
        The header knows the shape better, the survey the area.
        """
        beam, area = find_beam(make_header(18.9, 17.6),
                               survey=get_survey('spire250'), **SIZE)
        assert_beam(beam, 18.9, 17.6, 30.0)
        assert_allclose(area.to_value(u.arcsec**2), 423.0)

    def test_survey_contradicts(self):
        """
        A beam of another band is a wrong survey or a wrong header.
        """
        with pytest.raises(MapError, match="contradicts survey='spire250'"):
            find_beam(make_header(34.0, 34.0),
                      survey=get_survey('spire250'), **SIZE)

    def test_survey_and_argument(self):
        """
        Two arguments for one beam are one too many.
        """
        with pytest.raises(MapError, match='only one of them'):
            find_beam(fits.Header(), survey=get_survey(4),
                      beam=18 * u.arcsec, **SIZE)

    def test_pixels_per_beam(self):
        """
        A stated beam area must be that of the stated beam.
        """
        pixels = np.pi / (4 * np.log(2)) * 80.0 / 4.0
        find_beam(make_header(PPBEAM=pixels), **SIZE)
        with pytest.raises(MapError, match=r'PPBEAM = 30 contradicts.*22\.66 '
                                           r'pixels.*give beam='):
            find_beam(make_header(PPBEAM=30.0), **SIZE)
        agreed = Beam(major=10 * u.arcsec, minor=8 * u.arcsec)
        find_beam(make_header(PPBEAM=30.0), beam=agreed, **SIZE)


class TestMeasuredBeam:
    @pytest.mark.parametrize('stated', [
        {}, {'beam': Beam(10 * u.arcsec, 8 * u.arcsec)},
        {'survey': get_survey('spire250')}])
    def test_replaces_stated_beams(self, stated):
        """
        A measured beam is used with its own solid angle.
        """
        measured = Beam(18 * u.arcsec if 'survey' in stated
                        else 9 * u.arcsec), 1e-8 * u.sr
        header = make_header() if 'survey' not in stated else fits.Header()
        assert find_beam(header, measured=measured, **stated,
                         **SIZE) == measured

    def test_must_agree(self):
        """
        It is that of the map to 20 percent.
        """
        with pytest.raises(MapError, match='psf has a FWHM of 12 arcsec, but '
                                           'BMAJ/BMIN states'):
            find_beam(make_header(9.0, 9.0), **SIZE,
                      measured=(Beam(12 * u.arcsec), 1e-8 * u.sr))


@pytest.mark.parametrize(('columns', 'match'), [
    ({'BMAJ': [], 'BMIN': [], 'BPA': []}, 'is empty'),
    ({'BMAJ': [10.0], 'BPA': [0.0]}, 'no column BMIN, only BMAJ, BPA'),
    ({'BMAJ': ['a'], 'BMIN': [8.0], 'BPA': [0.0]},
     'the column BMAJ of the BEAMS table is not an angle'),
    ({'BMAJ': [[10.0, 10.0]], 'BMIN': [8.0], 'BPA': [0.0]},
     'differ in length'),
    ({'BMAJ': [10.0, 12.0], 'BMIN': [8.0, 8.0], 'BPA': [0.0, 0.0]},
     'beams of different sizes')])
def test_damaged_beams_table(columns, match):
    with pytest.raises(MapError, match=match):
        header_beam(fits.Header(), Table(columns))


def test_argument_without_an_angle():
    beam = Beam(10 * u.arcsec, 8 * u.arcsec, np.nan * u.deg)
    with pytest.raises(MapError, match='position angle nan'):
        find_beam(fits.Header(), beam=beam, **SIZE)


def test_damaged_pixels_per_beam_are_ignored():
    """
    They are a check only.
    """
    beam, _ = find_beam(make_header(PPBEAM='many'), **SIZE)
    assert_beam(beam, 10.0, 8.0, 30.0)


def test_infinite_card():
    header = fits.Header([fits.Card.fromstring('BMAJ    =   1E400')])
    with pytest.raises(MapError, match='BMAJ = inf is not a finite number'):
        header_beam(header)
