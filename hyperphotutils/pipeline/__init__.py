# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Many maps, files, logs and the command line.
"""

# First: with "python -m" it takes care of Ctrl-C during the other imports
from hyperphotutils.startup import raise_on_interrupt as _  # isort: skip

# Only the light modules: the others are imported by what needs them, so
# that the command line starts quickly.
from hyperphotutils.pipeline.bands import *
from hyperphotutils.pipeline.config import *
from hyperphotutils.pipeline.hyper_py import *
from hyperphotutils.pipeline.options import *
from hyperphotutils.pipeline.planning import *
from hyperphotutils.pipeline.runner import *
from hyperphotutils.pipeline.search import *
