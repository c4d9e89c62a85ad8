# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the selection of stars.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.nddata import NDData, StdDevUncertainty
from astropy.table import MaskedColumn, QTable, Table
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from numpy.testing import assert_allclose
from photutils.utils.exceptions import NoDetectionsWarning

from hyperphotutils.datasets import make_star_field
from hyperphotutils.detection.moments import weighted_moments
from hyperphotutils.psf import StarSelector, decode_star_flags


def kinds_of(stars, truth):
    """
    The kind of the true source next to each star.
    """
    distance = np.hypot(
        np.asarray(stars['x_centroid'])[:, None] - np.asarray(truth['x']),
        np.asarray(stars['y_centroid'])[:, None] - np.asarray(truth['y']))
    kinds = np.asarray(truth['kind'])[distance.argmin(1)]
    return np.where(distance.min(1) < 1.5, kinds, 'none')


def test_moments_of_a_gaussian():
    """
    Moments of a Gaussian under a Gaussian weight are analytic.
    """
    y, x = np.mgrid[:41, :41]
    sigma, fwhm = 2.0, 2.0 * np.sqrt(8.0 * np.log(2.0))
    image = np.exp(-0.5 * ((x - 20.3)**2 + (y - 19.8)**2) / sigma**2)
    moments = weighted_moments(image, np.ones_like(image), np.array([20]),
                               np.array([20]), fwhm)
    assert_allclose([moments['x'][0], moments['y'][0]], [20.3, 19.8],
                    atol=2e-3)
    # the product of both Gaussians: 1 / s^2 + 1 / (1.4 s)^2
    assert_allclose(moments['size'], sigma / np.sqrt(1 + 1.4**-2),
                    rtol=2e-3)
    assert_allclose(moments['flux'], 2.0 * np.pi * sigma**2, rtol=2e-3)
    assert_allclose(moments['e1'], 0.0, atol=2e-3)


def test_most_accepted_are_stars(field, stars):
    """
    Most stars that are bright and alone are accepted, and no cosmic ray.
    """
    kinds = kinds_of(stars[stars['accepted']], field.truth)
    assert np.count_nonzero(kinds == 'star') > 0.7 * 30
    assert np.count_nonzero(kinds == 'galaxy') <= 5
    assert not np.any(kinds == 'none')


@pytest.mark.parametrize('fwhm', [2.0, 4.5])
def test_fwhm_is_found(fwhm):
    """
    Without the FWHM, the same stars are selected as with it.
    """
    field = make_star_field((320, 320), 30, fwhm=fwhm, n_galaxies=10,
                            n_cosmic_rays=30, seed=4)
    given = StarSelector(fwhm)(field.data, error=field.error)
    found = StarSelector()(field.data, error=field.error)
    assert_allclose(found.meta['fwhm'], given.meta['fwhm'], rtol=0.1)
    n_given, n_found = given['accepted'].sum(), found['accepted'].sum()
    assert n_found > 0.8 * n_given > 10


def test_every_detection_has_a_reason(stars):
    """
    All detections keep a row; those that are not accepted have flags.
    """
    accepted = stars['accepted']
    assert 0 < accepted.sum() < len(stars)
    assert np.array_equal(stars['flags'] == 0, accepted)
    assert np.array_equal(stars['reason'] == '', accepted)
    assert list(stars['id']) == list(range(1, len(stars) + 1))
    assert 'cosmic_ray' in ' '.join(stars['reason'])


def test_units_make_no_difference(field, stars):
    """
    Quantities and NDData give the same stars, with units.
    """
    unit = u.MJy / u.sr
    image = NDData(field.data, unit=unit,
                   uncertainty=StdDevUncertainty(field.error))
    table = StarSelector(3.0, saturation=1e9 * unit)(image)
    assert_allclose(table['flux'].value, stars['flux'])
    assert table['peak'].unit == unit
    with pytest.raises(ValueError, match='data, error must all have the'):
        StarSelector(3.0)(field.data << unit, error=field.error)


def test_bad_and_saturated_pixels(field, stars):
    """
    A star with a NaN, masked, or saturated pixel in its core is flagged
    so; one NaN is allowed if the tolerance is 1.
    """
    chosen = stars[stars['accepted']][:3]
    x, y = (np.rint(chosen[name]).astype(int)
            for name in ('x_centroid', 'y_centroid'))
    data, mask = field.data.copy(), np.zeros(field.data.shape, bool)
    data[y[0], x[0] + 1] = np.nan
    mask[y[1] + 1, x[1]] = True
    data[y[2], x[2]] = 1e6
    arguments = {'error': field.error, 'mask': mask}
    table = StarSelector(3.0, saturation=1e5)(data, **arguments)

    def reason_of(number, table):
        distance = np.hypot(table['x_centroid'] - x[number],
                            table['y_centroid'] - y[number])
        assert distance.min() < 2.0
        return table['reason'][distance.argmin()]

    assert 'bad_pixels' in reason_of(0, table)
    assert 'bad_pixels' in reason_of(1, table)
    assert 'saturated' in reason_of(2, table)
    tolerant = StarSelector(3.0, central_tolerance=1)(data, **arguments)
    assert 'bad_pixels' not in reason_of(0, tolerant)
    # bad pixels are no reason to be faint
    assert 'faint' not in reason_of(0, table)


@pytest.mark.parametrize(('flux', 'distance', 'disturbs'), [
    (0.5, 6.0, True), (0.5, 14.0, False), (0.01, 6.0, False)])
def test_isolation(flux, distance, disturbs):
    """
    A star is rejected for a neighbor that is near and bright.
    """
    y, x = np.mgrid[:120, :120]
    sigma = 3.0 / np.sqrt(8.0 * np.log(2.0))
    data = np.random.default_rng(1).normal(0.0, 0.1, x.shape)
    for x0, y0, f in ((30, 30, 1.0), (90, 40, 1.0), (40, 90, 1.0),
                      (30 + distance, 30, flux)):
        data += 100.0 * f * np.exp(
            -0.5 * ((x - x0)**2 + (y - y0)**2) / sigma**2)
    table = StarSelector(3.0)(data, error=np.full(data.shape, 0.1))
    nearest = np.argmin(np.hypot(table['x_centroid'] - 30,
                                 table['y_centroid'] - 30))
    assert ('neighbor' in table['reason'][nearest]) == disturbs


def test_given_positions(field, stars):
    """
    With positions in pixels or on the sky, only those are accepted.
    """
    wanted = stars[stars['accepted']][[1, 4, 7]]
    pixels = np.stack([wanted['x_centroid'], wanted['y_centroid']], axis=1)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    wcs.wcs.cdelt = [-1e-5, 1e-5]
    sky = wcs.pixel_to_world(*pixels.T)
    tables = [pixels, QTable({'x': pixels[:, 0], 'y': pixels[:, 1]}), sky,
              QTable({'ra': sky.ra.deg, 'dec': sky.dec.deg})]
    for positions in tables:
        table = StarSelector(3.0, positions=positions)(
            field.data, error=field.error, wcs=wcs)
        assert list(table['id'][table['accepted']]) == list(wanted['id'])
    with pytest.raises(ValueError, match='wcs must be given'):
        StarSelector(3.0, positions=SkyCoord(0, 0, unit='deg'))(
            field.data, error=field.error)
    with pytest.raises(ValueError, match=r'positions must have the shape'):
        StarSelector(3.0, positions=[1.0, 2.0])(field.data,
                                                error=field.error)


def test_unknown_positions_are_no_stars(field, stars):
    """
    Positions may be masked, not finite, or outside of the projection.
    """
    x, y = (np.asarray(stars[name][stars['accepted']])
            for name in ('x_centroid', 'y_centroid'))
    first = np.arange(len(x)) == 0
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    wcs.wcs.cdelt = [-1e-5, 1e-5]
    sky = wcs.pixel_to_world(x, y)
    for positions in (
            Table({'x': MaskedColumn(x, mask=first), 'y': y}),
            np.stack([np.where(first, np.nan, x), y], axis=1),
            SkyCoord(sky.ra + 180.0 * u.deg * first, sky.dec)):
        table = StarSelector(3.0, positions=positions)(
            field.data, error=field.error, wcs=wcs)
        assert list(table['x_centroid'][table['accepted']]) == list(x[1:])


def test_reject_and_largest_number(field, stars):
    """
    Ids can be rejected, and the number of stars limited to the
    brightest.
    """
    ids = list(stars['id'][stars['accepted']])
    table = StarSelector(3.0, reject=ids[:1], max_stars=5)(
        field.data, error=field.error)
    assert decode_star_flags(table['flags'][ids[0] - 1]) == ['rejected_id']
    assert table['accepted'].sum() == 5
    left = table[table['accepted']]['snr'].min()
    dim = [('not_brightest' in reason) for reason in table['reason']]
    assert np.all(table['snr'][dim] <= left)


def test_nothing_there():
    """
    Noise alone gives a warning and None; unusable stars a warning.
    """
    noise = np.random.default_rng(1).normal(size=(120, 120))
    with pytest.warns(NoDetectionsWarning, match='no sources were found'):
        assert StarSelector()(0.1 * noise, error=1.0) is None
    field = make_star_field((120, 120), 5, seed=1)
    with pytest.warns(AstropyUserWarning, match='detections is a usable'):
        table = StarSelector(3.0, min_snr=1e6)(field.data,
                                               error=field.error)
    assert len(table) > 0
    assert all('faint' in reason for reason in table['reason'])


@pytest.mark.parametrize(('name', 'value'), [
    ('fwhm', -1.0), ('min_snr', 0.0), ('max_ellipticity', np.nan),
    ('isolation', -0.1), ('max_stars', 0)])
def test_arguments_are_checked(name, value):
    with pytest.raises(ValueError, match=name):
        StarSelector(**{name: value})


def test_error_must_fit_the_data(field):
    with pytest.raises(ValueError, match='error must have the shape'):
        StarSelector(3.0)(field.data, error=np.ones((3, 3)))
