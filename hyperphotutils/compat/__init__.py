# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Configurations and files of other programs, a module for each program.
"""
