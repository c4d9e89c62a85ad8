# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The command ``hyperphot``, also as ``python -m hyperphotutils``.
"""

import gc
import sys

from hyperphotutils.startup import quit_on_interrupt

_GC_THRESHOLD = 100_000


def main():
    """
    Run the command line.

    Returns
    -------
    status : int
        The exit status, see `hyperphotutils.pipeline.cli.main`.
    """
    quit_on_interrupt()
    # The imports make hundreds of thousands of objects and no garbage:
    # searching it with the default threshold takes 7 % of a run.
    gc.set_threshold(_GC_THRESHOLD)
    # takes time
    from hyperphotutils.pipeline.cli import main as run_command

    return run_command()


if __name__ == '__main__':
    sys.exit(main())
