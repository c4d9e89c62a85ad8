# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Beams of surveys whose maps often have no beam in the header.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType

import astropy.units as u

from hyperphotutils.maps.errors import MapError

__all__ = ['SURVEYS', 'Survey', 'get_survey']


@dataclass(frozen=True)
class Survey:
    """
    A band of a survey and its beam.

    Parameters
    ----------
    name : str
        The name of the instrument and the wavelength in micrometers,
        such as ``'spire250'``.

    code : int
        The number of the band in the program Hyper.

    fwhm : `~astropy.units.Quantity`
        The nominal full width at half maximum of the (round) beam.

    beam_area : `~astropy.units.Quantity` or `None`
        The published solid angle of the beam, which includes the wings
        that a Gaussian lacks. If `None`, the solid angle of a Gaussian
        with ``fwhm`` is used.

    Examples
    --------
    >>> from hyperphotutils.maps import get_survey
    >>> survey = get_survey('spire250')
    >>> print(survey.fwhm, survey.beam_area)
    18.0 arcsec 423.0 arcsec2
    """

    name: str
    code: int
    fwhm: u.Quantity
    beam_area: u.Quantity | None = None


# name, Hyper's code, FWHM in arcsec, published beam area in arcsec2
_ROWS = (
    ('pacs70', 1, 5.2, None),
    ('pacs100', 2, 6.8, None),
    ('pacs160', 3, 12.0, None),
    ('spire250', 4, 18.0, 423.0),
    ('spire350', 5, 24.0, 751.0),
    ('spire500', 6, 34.5, 1587.0),
    ('jcmt450', 7, 8.0, None),
    ('jcmt850', 8, 14.5, None),
)

#: The known surveys, by name.
SURVEYS = MappingProxyType({
    name: Survey(name, code, fwhm * u.arcsec,
                 None if area is None else area * u.arcsec**2)
    for name, code, fwhm, area in _ROWS
})


def get_survey(survey: str | int | Survey) -> Survey:
    """
    Find a survey by its name or number.

    Parameters
    ----------
    survey : str, int or `~hyperphotutils.maps.Survey`
        A name of `~hyperphotutils.maps.SURVEYS` in any spelling
        (``'spire250'``, ``'SPIRE 250'``, ``'Herschel/SPIRE-250'``) or
        Hyper's number of the band, 1 to 8.

    Returns
    -------
    survey : `~hyperphotutils.maps.Survey`
        The band and its beam.

    Raises
    ------
    MapError
        If there is no such survey.

    Examples
    --------
    >>> from hyperphotutils.maps import get_survey
    >>> print(get_survey('JCMT 850').fwhm)
    14.5 arcsec
    >>> print(get_survey(4).name)
    spire250
    """
    if isinstance(survey, Survey):
        return survey
    key = re.sub(r'[^a-z0-9]', '', str(survey).lower())
    key = re.sub(r'^herschel|(?<=\d)(um|micron|microns)$', '', key)
    key = re.sub(r'^(jcmt)?scuba2?(?=[48]50$)', 'jcmt', key)
    for known in SURVEYS.values():
        if key in {known.name, str(known.code)}:
            return known
    names = ', '.join(f'{known.name} ({known.code})'
                      for known in SURVEYS.values())
    msg = f'survey must be one of {names}: got {survey!r}'
    raise MapError(msg)
