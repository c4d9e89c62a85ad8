# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Small images of single sources, ready for fits: sky, errors, masks, and
files.
"""

from hyperphotutils.stamps.galfit import *  # noqa: F401, F403
from hyperphotutils.stamps.masks import *  # noqa: F401, F403
from hyperphotutils.stamps.readers import *  # noqa: F401, F403
from hyperphotutils.stamps.sigma import *  # noqa: F401, F403
from hyperphotutils.stamps.sky import *  # noqa: F401, F403
from hyperphotutils.stamps.stamps import *  # noqa: F401, F403
