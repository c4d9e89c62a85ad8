# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figures of maps, fits, and cubes with their sources.
"""

from hyperphotutils.visualization.channels import *
from hyperphotutils.visualization.fits import *
from hyperphotutils.visualization.images import *
from hyperphotutils.visualization.maps import *
from hyperphotutils.visualization.report import *
