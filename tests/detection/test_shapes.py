# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests for the shapes module.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.modeling.models import Gaussian2D
from numpy.testing import assert_allclose, assert_array_equal

from hyperphotutils.detection import shoulder_score
from hyperphotutils.detection.shapes import fit_peaks

FWHM = 4.0
SIGMA = FWHM / 2.3548200450309493


def make_image(*sources, level=0.0):
    """
    Return an image of round sources, (x, y, amplitude) each.
    """
    yy, xx = np.mgrid[:61, :61]
    image = np.full(xx.shape, float(level))
    for x, y, amplitude in sources:
        image += Gaussian2D(amplitude, x, y, SIGMA, SIGMA)(xx, yy)
    return image


class TestShoulderScore:
    """
    The lopsidedness of the surroundings.
    """

    @pytest.mark.parametrize('level', [0.0, 50.0, -3.0])
    def test_isolated_source(self, level):
        """
        Zero for a round source on any constant background.
        """
        image = make_image((30, 30, 1.0), level=level)
        assert shoulder_score(image, 30, 30, FWHM) < 0.02

    def test_definition(self):
        """
        The score is that of the documented averages.
        """
        image = make_image((30, 30, 1.0), (35, 32, 2.0))
        angle = 2 * np.pi * np.arange(32) / 32
        radius = FWHM * np.array([0.75, 1.0, 1.25, 1.5])[:, np.newaxis]
        model = (Gaussian2D(1, 30, 30, SIGMA, SIGMA)
                 + Gaussian2D(2, 35, 32, SIGMA, SIGMA))
        ring = model(30 + radius * np.cos(angle),
                     30 + radius * np.sin(angle))
        level = np.median(ring, axis=1, keepdims=True)
        excess = (ring - level).mean(axis=0).max()
        height = image[30, 30] - level.mean()
        assert_allclose(shoulder_score(image, 30, 30, FWHM),
                        excess / (excess + height), atol=0.02)

    def test_grows_with_the_neighbour(self):
        """
        From 0 to 1 as the neighbour gets brighter, whatever side it is
        on.
        """
        scores = [shoulder_score(make_image((30, 30, 1), (25, 30, height)),
                                 30, 30, FWHM) for height in (0, 1, 3, 10)]
        assert np.all(np.diff(scores) > 0.1)
        assert 0.7 < scores[-1] <= 1.0
        sides = [shoulder_score(make_image((30, 30, 1),
                                           (30 + 5 * dx, 30 + 5 * dy, 3)),
                                30, 30, FWHM)
                 for dx, dy in ((1, 0), (0, 1), (-1, 0), (0.6, -0.8))]
        assert_allclose(sides, scores[2], atol=0.02)

    def test_no_rise_above_the_surroundings(self):
        """
        One in a hole with an uneven rim, zero in a constant image.
        """
        image = make_image((37, 30, 5.0), level=1.0)
        image[30, 30] = -20.0
        assert shoulder_score(image, 30, 30, FWHM) == 1.0
        assert shoulder_score(np.ones((40, 40)), 20, 20, FWHM) == 0.0

    def test_masked_directions_are_ignored(self):
        """
        A masked neighbour has no influence; borders are no neighbours.
        """
        image = make_image((30, 30, 1.0))
        mask = np.zeros(image.shape, dtype=bool)
        mask[25:36, 34:] = True
        image[mask] = 1000.0
        assert shoulder_score(image, 30, 30, FWHM, mask=mask) < 0.02
        image[mask] = np.nan
        assert shoulder_score(image, 30, 30, FWHM) < 0.02
        corner = make_image((0, 0, 1.0))
        assert shoulder_score(corner, 0, 0, FWHM) < 0.02

    def test_nothing_to_measure(self):
        """
        NaN off the image and among masked pixels only.
        """
        image = make_image((30, 30, 1.0))
        image[40:, 40:] = np.nan
        score = shoulder_score(image, [-20, 55, 30], [30, 55, 30], FWHM)
        assert_array_equal(np.isnan(score), [True, True, False])

    def test_shapes_and_units(self):
        """
        Scalars and arrays; the unit of the data does not matter.
        """
        image = make_image((30, 30, 1.0), (35, 32, 2.0))
        score = shoulder_score(image, 30.0, 30.0, FWHM)
        assert np.ndim(score) == 0
        scores = shoulder_score(image << u.Jy, [30.0], [30.0], FWHM)
        assert scores.shape == (1,)
        assert scores[0] == score


class TestFitPeaks:
    """
    The tops of sources.
    """

    @pytest.mark.parametrize('fwhm', [2.5, 4.0, 8.0])
    def test_centers(self, fwhm):
        """
        The center is right to a few hundredths of a pixel, round or
        not, on any plane that leaves a top.
        """
        yy, xx = np.mgrid[:41, :41]
        sigma = fwhm / 2.3548200450309493
        for x, y, ratio, theta in ((20.4, 19.7, 1, 0), (20, 20.5, 1.3, 0.5),
                                   (19.6, 20.3, 1.5, 2.0)):
            image = Gaussian2D(1, x, y, ratio * sigma, sigma, theta)(xx, yy)
            found = fit_peaks(image + 5.0, np.array([20]), np.array([20]),
                              fwhm)
            assert_allclose(np.ravel(found), [x, y], atol=0.04)

    def test_masked_pixels(self):
        """
        Missing pixels do not pull.
        """
        image = make_image((30.2, 29.8, 1.0))
        image[29:32, 31] = np.nan
        found = fit_peaks(image, np.array([30]), np.array([30]), FWHM)
        assert_allclose(np.ravel(found), [30.2, 29.8], atol=0.1)

    def test_no_top(self):
        """
        NaN on a slope, in a hole, on a flat, on too few pixels.
        """
        slope = np.add.outer(np.arange(30.0), np.arange(30.0))
        hole = -make_image((15, 15, 1.0))[:30, :30]
        lonely = np.full((30, 30), np.nan)
        lonely[15, 15:17] = 1.0
        for image in (slope, hole, np.ones((30, 30)), lonely):
            found = fit_peaks(image, np.array([15]), np.array([15]), FWHM)
            assert np.isnan(found).all()
