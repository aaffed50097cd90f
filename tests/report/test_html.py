"""The page as text: what is refused, and what a number and an interval become."""

import math
from dataclasses import replace

import pytest

from helpers.pages import CURVE, FAILED, HELD, WHOLE
from reproduce.report import html


def test_a_figure_without_a_text_is_refused():
    with pytest.raises(ValueError, match="'step' needs a text that says what it shows"):
        html.render(replace(WHOLE, figures=(replace(CURVE, alt=" "),)))


@pytest.mark.parametrize(
    ("twice", "told"),
    [({"figures": (CURVE, CURVE)}, "every figure needs a name of its own, got 'step' twice"),
     ({"claims": (HELD, FAILED, HELD)}, "every claim needs a name of its own, got 'C1' twice")],
    ids=["figure", "claim"],
)  # fmt: skip
def test_two_of_one_name_are_refused(twice, told):
    with pytest.raises(ValueError, match=told):
        html.render(replace(WHOLE, **twice))


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        # 0.08 of the claim's scale is 40 percent of the plot.
        (html.Interval((0.9, 0.98), 0.94, 0.95, 0.96), (30, 70, 50, 55, 60)),
        # The far end, 0.25 from the bound, stands 26 percent from it.
        (html.Interval((0.5, math.inf), 0.6, 0.7, 0.75), (30, 100, 40.4, 50.8, 56)),
        (html.Interval((-math.inf, 0.2), 0.1, 0.2, 0.4), (0, 70, 57, 70, 96)),
        # What is off the scale stands at its edge.
        (html.Interval((0.0, 1.0), -2.0, 0.5, 3.0), (30, 70, 4, 50, 96)),
        # An interval without ends leaves the mean to give the scale.
        (html.Interval((-math.inf, 0.2), -math.inf, 0.1, math.inf), (0, 70, 4, 44, 96)),
    ],
    ids=["two bounds", "no upper bound", "no lower bound", "off the scale", "an endless interval"],
)
def test_an_interval_is_plotted_to_the_scale_of_its_claim(interval, expected):
    assert html.plotted(interval) == pytest.approx(expected)


@pytest.mark.parametrize("number", ["6e-4", "1.03e-2", "≤ -0.5", "≈ 0.88", "≥ 1876", "≈ 6.2e-5", "n = 3"])
def test_no_line_ends_within_a_number(number):
    assert html.unbroken(f"<{number}>, or.") == f'&lt;<span class="whole">{number}</span>&gt;, or.'


def test_the_same_page_gives_the_same_bytes():
    assert html.render(WHOLE).encode() == html.render(replace(WHOLE)).encode()
