# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Joint fits of groups of blended sources.
"""

from hyperphotutils.blend.beams import *  # noqa: F401, F403
from hyperphotutils.blend.covariance import *  # noqa: F401, F403
from hyperphotutils.blend.fitter import *  # noqa: F401, F403
from hyperphotutils.blend.group_solver import *  # noqa: F401, F403
from hyperphotutils.blend.grouper import *  # noqa: F401, F403
from hyperphotutils.blend.models import *  # noqa: F401, F403
