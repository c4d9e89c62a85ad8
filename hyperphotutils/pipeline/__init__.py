# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Many maps, files, logs and the command line.
"""

import sys

# With "python -m" this package is imported before its __main__ module
if sys.argv[:1] == ['-m'] and __name__ in sys.orig_argv:
    from hyperphotutils.startup import quit_on_interrupt

    quit_on_interrupt()

# Only the light modules: the others are imported by what needs them, so
# that the command line starts quickly.
from hyperphotutils.pipeline.bands import *
from hyperphotutils.pipeline.config import *
from hyperphotutils.pipeline.hyper_py import *
from hyperphotutils.pipeline.options import *
from hyperphotutils.pipeline.planning import *
from hyperphotutils.pipeline.runner import *
from hyperphotutils.pipeline.search import *
