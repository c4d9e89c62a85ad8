# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the flags module.
"""

import numpy as np
import pytest
from photutils.psf import decode_psf_flags

from hyperphotutils.utils import FLAG_DESCRIPTIONS, FLAGS, decode_flags


def test_every_flag_has_its_own_bit_and_description():
    """
    Values are distinct powers of two, in order; each has a description.
    """
    bits = list(FLAGS.values())
    assert bits == sorted(set(bits))
    assert all(bit.bit_count() == 1 for bit in bits)
    assert FLAG_DESCRIPTIONS.keys() == FLAGS.keys()
    assert all(FLAG_DESCRIPTIONS.values())


@pytest.mark.parametrize('name', FLAGS)
def test_photutils_decodes_our_flags(name):
    """
    photutils gives a flag the name that it has here, or none.
    """
    bit = FLAGS[name]
    assert decode_psf_flags(bit) == ([name] if bit < 2**16 else [])
    assert decode_psf_flags(np.array([bit])) == [decode_psf_flags(bit)]


def test_registry_is_frozen():
    """
    Nobody can change a bit.
    """
    with pytest.raises(TypeError, match='does not support item assignment'):
        FLAGS['near_bound'] = 3


def test_decode_flags_inverts_the_bits():
    """
    Names in, the sum of their bits, names or bits out.
    """
    names = ['near_bound', 'too_few_pixels', 'grid_edge']
    bits = [FLAGS[name] for name in names]
    value = sum(bits)
    assert decode_flags(value) == names
    assert decode_flags(np.array([0, value])) == [[], names]
    assert decode_flags(value, return_bit_values=True) == bits
    assert decode_flags([0, value], return_bit_values=True) == [[], bits]


@pytest.mark.parametrize('flags', [
    0, 40, np.int64(1), np.array(33), [], [0, 1], (8, 16, 0),
    np.array([[1, 2**20], [256, 0]]) & 0xffff])
def test_decode_flags_takes_what_photutils_takes(flags):
    """
    Scalars and arrays of any shape are decoded as by photutils.
    """
    assert decode_flags(flags) == decode_psf_flags(flags)


def test_decode_flags_refuses_what_it_does_not_know():
    """
    A bit from elsewhere, a negative value, and a float are errors.
    """
    with pytest.raises(ValueError, match='unknown bits: 1099511627776'):
        decode_flags(1 << 40)
    with pytest.raises(ValueError, match='must not be negative: got -1'):
        decode_flags([0, -1])
    for flags in (1.0, [0.5], 'near_bound'):
        with pytest.raises(TypeError, match='must be integers: got'):
            decode_flags(flags)
