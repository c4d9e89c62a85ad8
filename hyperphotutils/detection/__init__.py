# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Detection of compact sources on structured backgrounds, and of extended
sources.
"""

from hyperphotutils.detection.extended import *  # noqa: F403
from hyperphotutils.detection.filters import *  # noqa: F403
from hyperphotutils.detection.highpass import *  # noqa: F403
from hyperphotutils.detection.shapes import *  # noqa: F403
from hyperphotutils.detection.shoulders import *  # noqa: F403
