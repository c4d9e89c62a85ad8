# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Polynomial backgrounds of maps, around sources, and of cubes.
"""

from hyperphotutils.background.cube import *
from hyperphotutils.background.interface import *
from hyperphotutils.background.local import *
from hyperphotutils.background.masks import *
from hyperphotutils.background.polynomial import *
from hyperphotutils.background.regressors import *
from hyperphotutils.background.rms import *
from hyperphotutils.background.selection import *
