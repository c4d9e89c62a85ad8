# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Subtraction of images of the same field, for what has changed in it.
"""

from hyperphotutils.subtraction.basis import *  # noqa: F401, F403
from hyperphotutils.subtraction.subtractor import *  # noqa: F401, F403
