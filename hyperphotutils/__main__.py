# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The command ``hyperphot``, also as ``python -m hyperphotutils``.
"""

import sys

from hyperphotutils.startup import quit_on_interrupt, tune_memory


def main():
    """
    Run the command line.

    Returns
    -------
    status : int
        The exit status, see `hyperphotutils.pipeline.cli.main`.
    """
    quit_on_interrupt()
    tune_memory()
    # takes time
    from hyperphotutils.pipeline.cli import main as run_command

    return run_command()


if __name__ == '__main__':
    sys.exit(main())
