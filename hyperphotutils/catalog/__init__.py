# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Catalog and region files of the measured sources, source lists, and the
matching of catalogs.
"""

from hyperphotutils.catalog.columns import *  # noqa: F403
from hyperphotutils.catalog.errors import *  # noqa: F403
from hyperphotutils.catalog.formats import *  # noqa: F403
from hyperphotutils.catalog.matching import *  # noqa: F403
from hyperphotutils.catalog.regions import *  # noqa: F403
from hyperphotutils.catalog.sources import *  # noqa: F403
from hyperphotutils.catalog.units import *  # noqa: F403
