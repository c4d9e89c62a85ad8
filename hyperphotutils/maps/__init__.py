# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reading of maps and cubes, with their flux unit, beam, and sky coordinates.
"""

from hyperphotutils.maps.beams import *  # noqa: F401, F403
from hyperphotutils.maps.cubes import *  # noqa: F401, F403
from hyperphotutils.maps.errors import *  # noqa: F401, F403
from hyperphotutils.maps.images import *  # noqa: F401, F403
from hyperphotutils.maps.reader import *  # noqa: F401, F403
from hyperphotutils.maps.surveys import *  # noqa: F401, F403
from hyperphotutils.maps.units import *  # noqa: F401, F403
from hyperphotutils.maps.writer import *  # noqa: F401, F403
