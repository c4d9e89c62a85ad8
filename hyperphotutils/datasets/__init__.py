# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated maps whose sources and noise are known exactly.
"""

from hyperphotutils.datasets.simulated import *  # noqa: F403
