# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The progress of the steps of one job on a terminal.
"""

__all__ = []  # shared by the modules of the pipeline only


class Stages:
    """
    A progress bar over the steps of a job, with these names.

    This is a context manager. The bar is removed at the end.
    """

    def __init__(self, names, progress_bar):
        self._names = list(names)
        self._shown = progress_bar
        self._bar = None

    def __enter__(self):
        # even a disabled bar of tqdm creates a lock
        if self._shown:
            from tqdm import tqdm

            self._bar = tqdm(total=len(self._names), unit='step',
                             leave=False)
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def begin(self, name):
        """
        Show that a step begins; steps that are left out count as done.
        """
        if self._bar is None:
            return
        number = self._names.index(name)
        self._bar.set_description(name, refresh=False)
        self._bar.update(max(0, number - self._bar.n))
        self._bar.refresh()
