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

    def test_grows_with_the_neighbor(self):
        """
        From 0 to 1 as the neighbor gets brighter, whatever side it is
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
        A masked neighbor has no influence; borders are no neighbors.
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

    @pytest.mark.parametrize('mask_neighbors', [False, True])
    def test_ring_of_other_size(self, mask_neighbors):
        """
        Radius, directions and neighbors as documented, sample by
        sample.
        """
        sources = [(30, 30), (34, 31), (33, 24)]
        model = (Gaussian2D(1, 30, 30, SIGMA, SIGMA)
                 + Gaussian2D(2, 34, 31, SIGMA, SIGMA)
                 + Gaussian2D(1.5, 33, 24, SIGMA, SIGMA))
        yy, xx = np.mgrid[:61, :61]
        circles = []
        for radius in FWHM * 2.0 * np.array([3, 4, 5, 6]) / 6:
            circles.append([])
            for angle in 2 * np.pi * np.arange(12) / 12:
                x = 30 + radius * np.cos(angle)
                y = 30 + radius * np.sin(angle)
                own, *others = (np.hypot(x - x_0, y - y_0)
                                for x_0, y_0 in sources)
                nearer = mask_neighbors and min(others) < own
                circles[-1].append(np.nan if nearer else model(x, y))
        ring = np.array(circles)
        assert np.isnan(ring).any() == mask_neighbors
        level = np.nanmedian(ring, axis=1, keepdims=True)
        known = np.isfinite(ring).any(axis=0)
        excess = np.nanmean((ring - level)[:, known], axis=0).max()
        expected = excess / (excess + model(30, 30) - level.mean())
        scores = shoulder_score(model(xx, yy), *np.transpose(sources), FWHM,
                                ring_factor=2.0, n_angles=12,
                                mask_neighbors=mask_neighbors)
        assert_allclose(scores[0], expected, atol=0.02)

    def test_masked_neighbor(self):
        """
        Equal neighbors do not count with mask_neighbors, unless they
        are unknown; the same position twice is no neighbor.
        """
        image = make_image((30, 30, 1.0), (36, 30, 1.0))
        scores = [shoulder_score(image, x, [30, 30], FWHM,
                                 mask_neighbors=mask)[0]
                  for x, mask in (([30, 36], False), ([30, 36], True),
                                  ([30, 10], True), ([30, np.nan], True),
                                  ([30, 30], True))]
        assert scores[0] > 0.4
        assert scores[1] < 0.5 * scores[0]
        assert_array_equal(scores[2:], scores[0])

    @pytest.mark.parametrize(('kwargs', 'error', 'match'), [
        ({'ring_factor': 0}, ValueError, 'ring_factor must be positive'),
        ({'ring_factor': np.nan}, ValueError, 'ring_factor must be pos'),
        ({'n_angles': 2}, ValueError, 'n_angles must be at least 3'),
        ({'n_angles': 8.0}, TypeError, 'n_angles must be an integer')])
    def test_bad_ring(self, kwargs, error, match):
        """
        A ring that cannot be is named.
        """
        with pytest.raises(error, match=match):
            shoulder_score(make_image(), 30, 30, FWHM, **kwargs)

    def test_masked_array(self):
        """
        The mask of a masked array counts.
        """
        image = make_image((30, 30, 1.0))
        mask = np.zeros(image.shape, dtype=bool)
        mask[25:36, 34:] = True
        image[mask] = 1000.0
        score = shoulder_score(np.ma.array(image, mask=mask), 30, 30, FWHM)
        assert score == shoulder_score(image, 30, 30, FWHM, mask=mask)

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
