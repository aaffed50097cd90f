"""The page as text: what a number and an interval become."""

import math

import pytest

from helpers.pages import WHOLE, replace
from reproduce.analysis.intervals import Interval
from reproduce.report import html


@pytest.mark.parametrize(
    ("allowed", "interval", "expected"),
    [
        # 0.08 of the claim's scale is 40 percent of the plot.
        ((0.9, 0.98), Interval(0.95, 0.94, 0.96), (30, 70, 50, 55, 60)),
        # The far end, 0.25 from the bound, stands 26 percent from it.
        ((0.5, math.inf), Interval(0.7, 0.6, 0.75), (30, 100, 40.4, 50.8, 56)),
        ((-math.inf, 0.2), Interval(0.2, 0.1, 0.4), (0, 70, 57, 70, 96)),
        # What is off the scale stands at its edge.
        ((0.0, 1.0), Interval(0.5, -2.0, 3.0), (30, 70, 4, 50, 96)),
        # An interval without ends leaves the mean to give the scale.
        ((-math.inf, 0.2), Interval(0.1, -math.inf, math.inf), (0, 70, 4, 44, 96)),
    ],
    ids=["two bounds", "no upper bound", "no lower bound", "off the scale", "an endless interval"],
)
def test_an_interval_is_plotted_to_the_scale_of_its_claim(allowed, interval, expected):
    assert html.plotted(interval, allowed) == pytest.approx(expected)


@pytest.mark.parametrize("number", ["6e-4", "1.03e-2", "≤ -0.5", "≈ 0.88", "≥ 1876", "≈ 6.2e-5", "n = 3"])
def test_no_line_ends_within_a_number(number):
    assert html.unbroken(f"<{number}>, or.") == f'&lt;<span class="whole">{number}</span>&gt;, or.'


def test_the_same_page_gives_the_same_bytes():
    assert html.render(vars(WHOLE)).encode() == html.render(vars(replace(WHOLE))).encode()


def test_the_made_up_page_has_the_keys_that_a_page_has():
    runs = [run for claim in WHOLE.claims for run in claim.runs]
    for kind, made in (
        (html.Page, [WHOLE]), (html.Claim, WHOLE.claims), (html.Run, runs), (html.Figure, WHOLE.figures),
        (html.Table, WHOLE.tables),
    ):  # fmt: skip
        assert made
        assert all(vars(part).keys() == kind.__annotations__.keys() for part in made), kind
