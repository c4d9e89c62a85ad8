# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
A beam that can be copied.
"""

from copy import deepcopy

from radio_beam import Beam

__all__ = ['CopyableBeam']


class CopyableBeam(Beam):
    """
    Class for a `~radio_beam.Beam` whose copies keep its axes.

    Those of radio_beam are attributes beside the array, which no copy of
    a `~astropy.units.Quantity` has:
    https://github.com/radio-astro-tools/radio-beam/issues/71
    """

    def copy(self, order='C'):
        """
        Return a copy.
        """
        copied = super().copy(order)
        vars(copied).update(deepcopy(vars(self)))
        return copied

    __copy__ = copy
