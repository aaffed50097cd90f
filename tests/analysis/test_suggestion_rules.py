import numpy as np
import pytest

from reproduce.analysis.lr_range_test import Curve, NoProposal, Proposal
from reproduce.analysis.suggestion_rules import (
    RULES,
    read_all,
    slide,
    steepest_by_rate,
    steepest_by_step,
    tenth_of_minimum,
    valley,
)

RATES = np.logspace(-5, -1, 5)  # 1e-5 to 1e-1


def test_steepest_by_step_looks_beyond_the_minimum_and_the_papers_rule_does_not():
    losses = np.array([2.0, 1.0, 0.5, 9.0, 0.6])  # falls of 1, 0.75 and then, from 9 to 0.6, 8.4
    assert steepest_by_step(RATES, losses) == Proposal(pytest.approx(1e-1), 4)
    assert RULES["steepest by log rate"].at(RATES, losses).step == 0


def test_steepest_by_rate_weighs_a_fall_by_how_close_the_rates_lie():
    assert steepest_by_rate(RATES, np.array([2.0, 1.9, 0.9, 0.5, 0.6])) == Proposal(pytest.approx(1e-5), 0)
    assert steepest_by_step(RATES, np.array([2.0, 1.9, 0.9, 0.5, 0.6])).step == 2  # (0.5 - 1.9) / 2, the least
    even = np.arange(1.0, 6.0)
    assert steepest_by_rate(even, np.array([2.0, 1.9, 0.9, 0.5, 0.6])).step == 2  # no closer here than there


def test_a_tenth_of_the_rate_at_the_minimum():
    assert tenth_of_minimum(RATES, np.array([2.0, 1.0, 0.5, 0.4, 0.6])) == Proposal(pytest.approx(1e-3), 3)


def longest_falling(losses):
    """The slow twin: lengths of the longest falling subsequence that ends at each point."""
    lengths = [1] * len(losses)
    for i in range(len(losses)):
        for j in range(i):
            if losses[i] < losses[j]:
                lengths[i] = max(lengths[i], lengths[j] + 1)
    return lengths


@pytest.mark.parametrize("seed", range(5))
def test_the_valley_is_that_of_its_slow_twin(seed):
    losses = np.random.default_rng(seed).normal(size=200).round(1) + np.linspace(0, -3, 200)  # with ties
    lengths = longest_falling(losses)
    end = lengths.index(max(lengths))
    expected = end - max(lengths) + int(max(lengths) / 3) + int(max(lengths) / 6)
    rates = np.logspace(-6, 0, 200)
    assert valley(rates, losses) == Proposal(rates[expected], expected)


def test_the_valley_in_worked_numbers():
    # Falls over points 0 to 8, nine of them: it would begin at 8 - 9 = -1, a third is 3, half a third 1.
    assert valley(np.logspace(-6, 0, 10), np.array([9.0, 8, 7, 6, 5, 4, 3, 2, 1, 5])).step == 3


def test_the_slide_stops_where_the_slope_has_become_even():
    steps, rates = np.arange(100), np.logspace(-6, 0, 100)
    bend = np.where(steps < 70, 1.0, 1.0 + 0.009 * (steps - 70.0) ** 2)
    # The slope is 0.018 (s - 70) beyond 70 and 0.0045 at 70 itself, within the threshold of the flat part's 0. Going
    # back, the right end of the 15 steps last differs at step 71: the left end is then at 56.
    assert slide(rates, bend) == Proposal(rates[56], 56)
    assert slide(rates, np.ones(100)).step == 84  # even at once: 15 steps before the last
    assert slide(rates, 0.1 * steps).step == 84  # and so is a straight climb


@pytest.mark.parametrize("name", sorted(set(RULES) - {"slide"}))
def test_every_rule_but_the_slide_ignores_what_the_loss_is_counted_from(name):
    rates = np.logspace(-6, 0, 400)
    losses = 2.3 / (1 + (rates / 1.0173e-3) ** 2) + np.where(rates > 0.05, 40 * (rates - 0.05), 0)
    assert RULES[name].at(rates, losses) == RULES[name].at(rates, losses + 8)


def test_each_rule_says_how_many_points_it_needs():
    found = read_all(Curve(RATES[:2], np.array([2.0, 1.0])), 0.98)
    after = "points, the curve has 2: train more steps"
    assert found["valley"] == NoProposal(f"valley needs 3 {after}")
    assert found["slide"] == NoProposal(f"slide needs 17 {after}")
    assert not any(found.values())


def test_the_valley_never_reads_before_the_first_rate():
    # Falls over points 0 and 1: it would begin at 1 - 2 = -1, of which a third and half a third are no step.
    assert valley(RATES, np.array([2.0, 1.0, 5.0, 5.0, 5.0])) == NoProposal(
        "valley needs a fall over 3 points, the longest here is over 2"
    )
    assert valley(RATES, np.array([3.0, 2.0, 1.0, 5.0, 5.0])).step == 0


def test_what_is_read_after_the_minimum_is_weak():
    steps = np.arange(300)
    losses = 2.3 / (1 + np.exp((steps - 100) / 10)) + np.where(steps > 200, 0.1 * (steps - 200), 0)
    losses[250:] -= 3
    found = read_all(Curve(np.logspace(-6, 0, 300), losses), 0.5)
    assert found["steepest by step"].weak == "the loss is past its minimum there"
    assert found["steepest by log rate"].weak == ""
