# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Runs on many maps: configuration, products, logs, and the command line.
"""

# First: handles Ctrl-C during the other imports with "python -m"
from hyperphotutils.startup import raise_on_interrupt as _  # isort: skip

# Only modules that import no numpy; the others are imported where they
# are used, so that the command line starts quickly.
from hyperphotutils.pipeline.bands import *
from hyperphotutils.pipeline.config import *
from hyperphotutils.pipeline.config_files import *
from hyperphotutils.pipeline.image_config import *
from hyperphotutils.pipeline.jobs import *
from hyperphotutils.pipeline.loading import *
from hyperphotutils.pipeline.process import *
