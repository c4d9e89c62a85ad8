# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What the tests of several pictures need.
"""

from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.transforms import Bbox


@pytest.fixture
def drawn_lines(monkeypatch):
    """
    Return a function that draws a figure and returns the texts of the
    horizontal lines of text in it with their boxes in pixels.
    """
    draw_text = RendererAgg.draw_text

    def draw(figure):
        lines = []

        def note(renderer, gc, x, y, text, prop, angle, **kwargs):
            if angle == 0 and text.strip():
                width, height, _ = renderer.get_text_width_height_descent(
                    text, prop, ismath=False)
                y_up = renderer.height - y
                lines.append((text, Bbox.from_bounds(x, y_up, width, height)))
            draw_text(renderer, gc, x, y, text, prop, angle, **kwargs)

        monkeypatch.setattr(RendererAgg, 'draw_text', note)
        figure.canvas.draw()
        return lines

    return draw


@pytest.fixture
def check_lines(drawn_lines):
    """
    Return a function that checks that the lines of text of a figure are
    inside it and do not touch.
    """
    def check(figure):
        lines = drawn_lines(figure)
        outside = [text for text, box in lines
                   if figure.bbox.count_contains(box.corners()) < 4]
        touching = [(text, other)
                    for (text, box), (other, other_box) in combinations(
                        lines, 2)
                    if Bbox.from_extents(box.x0 - 3, box.y0, box.x1 + 3,
                                         box.y1).overlaps(other_box)]
        assert (outside, touching) == ([], [])
        return [text for text, _ in lines]

    return check
