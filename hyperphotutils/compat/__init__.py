# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Configurations and formats of other programs.
"""

from hyperphotutils.compat.hyper_py import *
