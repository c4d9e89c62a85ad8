# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the tables module.
"""

from functools import partial
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import NDData

from hyperphotutils import __version__
from hyperphotutils.utils import (
    as_masked_image,
    make_repr,
    open_nddata,
    result_meta,
    strip_units,
)


def test_strip_units_gives_the_shared_unit():
    """
    One unit or none; None is handed through.
    """
    values, unit = strip_units(data=np.ones(2) << u.Jy, error=None)
    assert unit == u.Jy
    assert type(values['data']) is np.ndarray
    assert values['error'] is None
    assert strip_units(data=np.ones(2))[1] is None


def test_strip_units_knows_equal_units():
    """
    The root of a squared unit is that unit.
    """
    root = (u.Jy**2)**0.5
    values, unit = strip_units(data=np.ones(2) << u.Jy, rms=2.0 * root)
    assert unit == u.Jy
    assert values['rms'] == 2.0


def test_strip_units_refuses_a_mixture():
    """
    The message names the arguments and their units.
    """
    match = r'data, error must all have the same unit \(data: Jy, error: none'
    with pytest.raises(ValueError, match=match):
        strip_units(data=np.ones(2) << u.Jy, error=np.ones(2))


def test_as_masked_image_masks_what_is_not_finite():
    """
    NaN, infinity, and the given mask are merged.
    """
    data = np.ones((3, 4))
    data[0, 0], data[1, 1] = np.nan, np.inf
    mask = np.zeros(data.shape, dtype=bool)
    mask[2, 2] = True
    _, merged = as_masked_image(data, mask)
    assert sorted(zip(*np.nonzero(merged), strict=True)) == [
        (0, 0), (1, 1), (2, 2)]
    assert mask.sum() == 1


@pytest.mark.parametrize(('data', 'mask', 'error', 'match'), [
    (np.ones(3), None, ValueError, r'must be 2D, got the shape \(3,\)'),
    (np.ones((2, 2), complex), None, TypeError, 'real numbers, got complex'),
    (fits.PrimaryHDU(), None, TypeError, 'real numbers, got PrimaryHDU'),
    ('map.fits', None, TypeError, "not the name of a file: read 'map.fits' "
     'by hyperphotutils.maps.read_map'),
    (Path('map.fits'), None, TypeError, "read 'map.fits' by"),
    (np.ones((2, 2)), np.zeros((3, 3)), ValueError,
     r'mask must have the shape of data, \(2, 2\), got \(3, 3\)'),
    (np.full((2, 2), np.nan), None, ValueError, 'has no usable pixel')])
def test_as_masked_image_refuses(data, mask, error, match):
    """
    Each kind of wrong image has its own message.
    """
    with pytest.raises(error, match=match):
        as_masked_image(data, mask)


def test_repr_and_meta_say_how_a_result_was_made():
    """
    The call stands in the record; big arrays by their shape only.
    """
    class Tool:
        _repr_params = ('fwhm', 'error')

        def __init__(self, fwhm, error):
            self.fwhm = fwhm
            self.error = error

    tool = Tool(np.float64(3.0), np.ones((5, 6)) << u.Jy)
    text = 'Tool(fwhm=3.0, error=<array; shape=(5, 6), Jy>)'
    assert make_repr(tool) == text
    meta = result_meta(tool)
    assert meta['call'] == text
    assert {'numpy', 'photutils', 'hyperphotutils'} <= set(meta['version'])


def test_one_version_of_the_package():
    """
    Results have the version that the package states, not that of metadata
    of an earlier installation.
    """
    assert result_meta()['version']['hyperphotutils'] == __version__


def test_functions_in_the_record_have_no_address():
    """
    The same call is the same text in another process.
    """
    class Tool:
        _repr_params = ('function', 'tool')

        def __init__(self, function, tool):
            self.function = function
            self.tool = tool

    def measure():
        """
        A function of the user.
        """

    text = make_repr(Tool(measure, partial(measure, order=2)))
    assert text.startswith('Tool(function=measure, tool=functools.partial(')
    assert text.endswith('measure>, order=2))')
    assert '0x' not in text
    assert '0x' not in make_repr(Tool(object(), [Tool.__init__]))


def test_mask_of_another_shape_is_refused():
    image = NDData(np.ones((2, 3)), mask=np.zeros((2, 3), dtype=bool))
    with pytest.raises(ValueError, match=r'mask must have the shape of data, '
                       r'\(2, 3\), got \(3, 2\)'):
        open_nddata(image, mask=np.zeros((3, 2), dtype=bool))
