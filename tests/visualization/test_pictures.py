# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the main figures against stored images.

The comparison needs ``--mpl`` and the version of matplotlib in
``tox.ini``: others round the edges of pixels differently, which changes
an image by more than a missing ellipse does. After an intended change,
make the images again and look at them::

    tox -e figures -- --mpl-generate-path tests/visualization/baseline
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable
from matplotlib.figure import Figure
from matplotlib.text import Text

from hyperphotutils.background import PolynomialBackground2D
from hyperphotutils.datasets import make_blended_map
from hyperphotutils.detection import HighPassStarFinder
from hyperphotutils.noise import CorrelatedNoise
from hyperphotutils.photometry import CompletenessCurve
from hyperphotutils.utils import add_gaussians
from hyperphotutils.visualization import (
    plot_group,
    plot_image,
    plot_overview,
)

pytest.importorskip('pytest_mpl')
# A figure without its ellipses differs by 1.7 or more.
compare = pytest.mark.mpl_image_compare(
    baseline_dir='baseline', style='default', tolerance=0.8,
    savefig_kwargs={'dpi': 50})


@pytest.fixture(scope='module')
def sim():
    return make_blended_map((64, 72), 5, seed=4)


@pytest.fixture(scope='module')
def data(sim):
    return sim.image.data << sim.image.unit


@pytest.fixture(scope='module')
def model(sim):
    image = np.zeros(sim.image.shape)
    add_gaussians(image, *(np.asarray(sim.truth[name]) for name in (
        'x_fit', 'y_fit', 'amplitude_fit', 'fwhm_major_fit',
        'fwhm_minor_fit', 'theta_fit')))
    return image << sim.image.unit


def new_axes():
    return Figure(figsize=(5, 4)).add_subplot()


def without_text(figure):
    """
    The same figure without what depends on the fonts of a machine.
    """
    for text in figure.findobj(Text):
        text.set_visible(False)
    return figure


@compare
def test_overview(sim, data, model):
    return without_text(plot_overview(
        data, sim.truth, background=sim.background, model=model,
        residual=data - sim.background - model, beam=4.0))


@compare
def test_group(sim, data, model):
    table = QTable(sim.truth)
    table['group_id'] = [1, 2, 1, 1, 1]
    return without_text(plot_group(data, table, 1, model=model,
                                   background=sim.background))


@compare
def test_image(sim, data):
    ax = plot_image(data, sim.truth, ax=new_axes(), beam=4.0)
    return without_text(ax.figure)


@compare
def test_finder(data):
    finder = HighPassStarFinder(fwhm=4.0, n_sigma=5.0)
    return without_text(finder.plot(data, ax=new_axes()).figure)


@compare
def test_background():
    y, x = np.mgrid[:40, :50]
    background = PolynomialBackground2D(2.0 + 0.1 * x - 0.002 * y**2)
    return without_text(background.plot(ax=new_axes()).figure)


@compare
def test_noise():
    noise = CorrelatedNoise.from_beam(1.0, fwhm=4.0)
    return without_text(noise.plot(ax=new_axes()).figure)


@compare
def test_completeness():
    curve = CompletenessCurve(-1.0, 0.2, 0.95, np.diag([1e-3, 0.1, 1e-3]),
                              u.Jy)
    return without_text(curve.plot(ax=new_axes()).figure)
