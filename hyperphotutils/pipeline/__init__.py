# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Many maps, files, logs and the command line.
"""

from hyperphotutils.pipeline.config import *
