# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From a map to a catalog.
"""

from hyperphotutils.photometry.acceptance import *  # noqa: F401, F403
from hyperphotutils.photometry.completeness import *  # noqa: F401, F403
from hyperphotutils.photometry.explain import *  # noqa: F401, F403
from hyperphotutils.photometry.extractor import *  # noqa: F401, F403
from hyperphotutils.photometry.forced import *  # noqa: F401, F403
from hyperphotutils.photometry.measurement import MapNoise  # noqa: F401
from hyperphotutils.photometry.recovery import *  # noqa: F401, F403
from hyperphotutils.photometry.sizes import *
from hyperphotutils.photometry.tiles import *
