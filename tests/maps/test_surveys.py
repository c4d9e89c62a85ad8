# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the surveys module.
"""

import astropy.units as u
import pytest

from hyperphotutils.maps import SURVEYS, MapError, get_survey


@pytest.mark.parametrize(('name', 'code', 'fwhm', 'area'), [
    ('pacs70', 1, 5.2, None),
    ('pacs100', 2, 6.8, None),
    ('pacs160', 3, 12.0, None),
    ('spire250', 4, 18.0, 423.0),
    ('spire350', 5, 24.0, 751.0),
    ('spire500', 6, 34.5, 1587.0),
    ('jcmt450', 7, 8.0, None),
    ('jcmt850', 8, 14.5, None),
])
def test_table(name, code, fwhm, area):
    """
    Each band has its published beam, by name and by number.
    """
    survey = get_survey(name)
    assert get_survey(code) is survey
    assert get_survey(str(code)) is survey
    assert get_survey(survey) is survey
    assert survey is SURVEYS[name]
    assert survey.fwhm == fwhm * u.arcsec
    if area is None:
        assert survey.beam_area is None
    else:
        assert survey.beam_area == area * u.arcsec**2


@pytest.mark.parametrize(('text', 'name'), [
    ('SPIRE 250', 'spire250'),
    ('Herschel/SPIRE-250um', 'spire250'),
    ('herschel pacs 70', 'pacs70'),
    ('PACS_160', 'pacs160'),
    ('SCUBA-2 850', 'jcmt850'),
    ('JCMT SCUBA 450 micron', 'jcmt450'),
])
def test_spellings(text, name):
    """
    Names are read in any spelling.
    """
    assert get_survey(text).name == name


@pytest.mark.parametrize('name', ['spire', 'pacs250', 9, 0, '', None])
def test_unknown(name):
    """
    An unknown name lists the known ones.
    """
    with pytest.raises(MapError, match=r'one of pacs70 \(1\).*jcmt850 \(8\)'):
        get_survey(name)


def test_frozen():
    """
    Nobody changes a beam for everybody.
    """
    with pytest.raises(AttributeError, match='cannot assign'):
        get_survey(1).fwhm = 3 * u.arcsec
    with pytest.raises(TypeError, match='item assignment'):
        SURVEYS['pacs70'] = None
