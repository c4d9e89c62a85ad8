# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Small tools shared by the other subpackages.
"""

from hyperphotutils.utils.areas import *
from hyperphotutils.utils.checks import *
from hyperphotutils.utils.executors import *  # noqa: F401, F403
from hyperphotutils.utils.flags import *  # noqa: F401, F403
from hyperphotutils.utils.gaussians import *  # noqa: F401, F403
from hyperphotutils.utils.mixtures import *  # noqa: F401, F403
from hyperphotutils.utils.stored import *  # noqa: F401, F403
from hyperphotutils.utils.tables import *  # noqa: F401, F403
from hyperphotutils.utils.wcs import *  # noqa: F401, F403
