# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Benchmarks for asv: time and memory of each part, from commit to commit.
"""
