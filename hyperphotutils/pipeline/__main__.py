# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The command line as ``python -m hyperphotutils.pipeline``.
"""

import sys

from hyperphotutils.__main__ import main

if __name__ == '__main__':
    sys.exit(main())
