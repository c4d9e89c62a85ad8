# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Subtraction of images of the same field, for what has changed in it.
"""

from hyperphotutils.subtraction.align import *
from hyperphotutils.subtraction.basis import *
from hyperphotutils.subtraction.fit import (
    Direction,
    KernelFit,
    StampCutouts,
)
from hyperphotutils.subtraction.flags import *
from hyperphotutils.subtraction.inputs import ccd_error
from hyperphotutils.subtraction.kernel import RegionKernel, SpatialKernel
from hyperphotutils.subtraction.result import (
    DecorrelatedDifference,
    SubtractionResult,
)
from hyperphotutils.subtraction.solver import Solution
from hyperphotutils.subtraction.stamps import Stamps
from hyperphotutils.subtraction.subtractor import *  # noqa: F401, F403
