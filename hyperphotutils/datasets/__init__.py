# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated maps, cubes, and images with exactly known sources and noise.
"""

from hyperphotutils.datasets.cubes import *  # noqa: F401, F403
from hyperphotutils.datasets.galaxy_field import *  # noqa: F403
from hyperphotutils.datasets.image_pairs import *  # noqa: F401, F403
from hyperphotutils.datasets.simulated import *  # noqa: F403
from hyperphotutils.datasets.star_field import *  # noqa: F403
