# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Photometry of blended sources on structured backgrounds.

hyperphotutils brings the method of HYPER (Traficante et al. 2015, A&A,
574, A119) to the tools of astropy and photutils. Import what you need
from its subpackages; importing this package alone loads nothing else.
"""

try:
    from hyperphotutils._version import version as __version__
except ImportError:  # a source tree from which nothing was built yet
    __version__ = '0.1.dev0'

__all__ = ['__version__']
