# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Pictures of maps and of what was measured on them.
"""

from hyperphotutils.visualization.channels import *
from hyperphotutils.visualization.fits import *
from hyperphotutils.visualization.maps import *
