# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Stars in an image, and the point spread function that they have.
"""

from hyperphotutils.psf.builder import *  # noqa: F401, F403
from hyperphotutils.psf.empirical import *  # noqa: F401, F403
from hyperphotutils.psf.flags import *  # noqa: F401, F403
from hyperphotutils.psf.plots import *  # noqa: F401, F403
from hyperphotutils.psf.readers import *  # noqa: F401, F403
from hyperphotutils.psf.selector import *  # noqa: F401, F403
