# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the flags module.
"""

import numpy as np
import pytest

from hyperphotutils.utils import FLAG_DESCRIPTIONS, FLAGS, decode_flags


def test_every_flag_has_its_own_bit_and_description():
    """
    Values are distinct powers of two; each has a description.
    """
    bits = list(FLAGS.values())
    assert bits == [1 << i for i in range(len(bits))]
    assert FLAG_DESCRIPTIONS.keys() == FLAGS.keys()


def test_registry_is_frozen():
    """
    Nobody can change a bit.
    """
    with pytest.raises(TypeError, match='does not support item assignment'):
        FLAGS['at_bound'] = 3


def test_decode_flags_inverts_the_bits():
    """
    Names in, the sum of their bits, names out.
    """
    names = ['too_few_pixels', 'at_bound', 'no_covariance']
    value = sum(FLAGS[name] for name in names)
    assert decode_flags(value) == names
    assert decode_flags(np.array([0, value])) == [[], names]


def test_decode_flags_refuses_what_it_does_not_know():
    """
    A bit from elsewhere and a float are errors.
    """
    with pytest.raises(ValueError, match='unknown bits: 1099511627776'):
        decode_flags(1 << 40)
    with pytest.raises(TypeError, match='must be integers, got dtype float'):
        decode_flags(1.0)
