# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The subtraction of pairs of images.
"""

import time
from dataclasses import dataclass, field, replace

import numpy as np

from hyperphotutils.catalog import read_catalog
from hyperphotutils.pipeline.logs import format_rows
from hyperphotutils.pipeline.progress import Stages
from hyperphotutils.pipeline.psf_files import open_psf
from hyperphotutils.subtraction import SubtractionResult, align

__all__ = ['Subtraction', 'SubtractionKind']

_STAGES = ('find stars', 'choose direction', 'fit kernel', 'subtract',
           'write')
_IMAGES = ('error', 'template_error', 'mask', 'template_mask')


@dataclass(frozen=True, eq=False)
class Subtraction:
    """
    The result of the subtraction of one pair.

    Parameters
    ----------
    result : `~hyperphotutils.subtraction.SubtractionResult`
        The difference and all that belongs to it.

    files : dict
        The files by their role.

    subtractor : `~hyperphotutils.subtraction.ImageSubtractor`
        What has made it.

    outcomes : tuple of `~hyperphotutils.compat.hotpants.HotpantsOutcome`
        What became of the options of HOTPANTS.

    times : dict
        The duration of each step in seconds.
    """

    result: SubtractionResult
    files: dict
    subtractor: object
    outcomes: tuple = ()
    times: dict = field(default_factory=dict)

    # of the outcome, see process.py
    table_name = 'subtraction.fits'
    earlier = ''
    table = None

    @property
    def numbers(self):
        """
        The numbers of stars, and how well the images were subtracted.
        """
        stats = self.result.stats
        numbers = {name: stats[name] for name in (
            'convolve', 'kernel_order', 'n_stamps', 'chi2', 'pull')}
        ny, nx = self.result.mask.shape
        scale, _ = self.result.kernel_sum(0.5 * (nx - 1), 0.5 * (ny - 1))
        return numbers | {'scale': scale, 'masked_part': float(
            np.mean(self.result.mask))}

    @property
    def summary(self):
        """
        How well the images were subtracted, as text.
        """
        numbers = self.numbers
        shared = ('; the images share their noise: the errors are wrong'
                  if 'shared_noise' in self.result.meta else '')
        return (f'{numbers["convolve"]} convolved, kernel of order '
                f'{numbers["kernel_order"]} by {numbers["n_stamps"]} stars, '
                f'chi2 {numbers["chi2"]:.2f}; difference/error '
                f'{numbers["pull"]:.3f}, '
                f'{100.0 * numbers["masked_part"]:.1f} % masked{shared}')

    def describe(self):
        """
        Describe the pair, its subtraction, and the options of HOTPANTS.
        """
        sections = [format_rows(self.files.items()), self.result.summary(),
                    f'call          {self.subtractor!r}']
        if self.outcomes:
            sections.append('\n'.join(
                ['options of HOTPANTS',
                 *(f'  {outcome}' for outcome in self.outcomes)]))
        return sections


class SubtractionKind:
    """
    The kind of jobs that subtract images, see
    `~hyperphotutils.pipeline.process`.
    """

    keeps_parts = False

    def read(self, job, config):
        """
        Return the arguments of the subtractor, and the outcomes of the
        options of HOTPANTS.
        """
        hotpants = config.kernel.read_hotpants()
        files = job.files
        if hotpants is None:
            call = {'science': job.path} | {
                name: files[name] for name in ('template', *_IMAGES)
                if name in files}
        else:
            given = {name: files[name] for name in _IMAGES if name in files}
            call = replace(hotpants, inputs=hotpants.inputs | given
                           ).arguments(job.path, files['template'])
        if config.kernel.align is not None:
            call['template'] = align(
                call['science'], call['template'],
                method=config.kernel.align,
                template_error=call.pop('template_error', None),
                template_mask=call.pop('template_mask', None))
        if 'positions' in files:
            table = read_catalog(files['positions'])
            call['positions'] = (table['sky_centroid'] if 'sky_centroid'
                                 in table.colnames else table)
        psf = open_psf(files['psf']) if 'psf' in files else None
        return call, psf, hotpants

    def measure(self, data, job, config, folder, *, executor=None,
                progress_bar=False, report=None):
        """
        Subtract the images, and write the products.
        """
        call, psf, hotpants = data
        subtract = config.kernel.make_subtractor(
            None if hotpants is None else hotpants.subtractor)
        start = time.perf_counter()
        with Stages(_STAGES, progress_bar) as stages:
            stages.begin('find stars')
            stamps = subtract.find_stamps(**call)
            stages.begin('choose direction')
            direction = subtract.choose_direction(stamps)
            stages.begin('fit kernel')
            fit = subtract.fit(stamps, direction)
            stages.begin('subtract')
            result = subtract.subtract(fit, psf=psf)
            seconds = time.perf_counter() - start
            stages.begin('write')
            # each file is written by the result itself
            result.write_products(folder)
        return Subtraction(
            result, {'science': job.path, **job.files}, subtract,
            () if hotpants is None else hotpants.outcomes,
            {'subtracting': seconds})
