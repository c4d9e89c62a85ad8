# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tools that measure the noise of a map.
"""

from hyperphotutils.noise.bad_pixels import *
from hyperphotutils.noise.clipped import *
from hyperphotutils.noise.correlated import *
from hyperphotutils.noise.factors import *
from hyperphotutils.noise.fill import *
from hyperphotutils.noise.local import *
from hyperphotutils.noise.model import *
from hyperphotutils.noise.white import *  # noqa: F401, F403
