"""The rules by which learning-rate finders read a rate off a range test's curve, side by side, as pure functions.

Every rule takes the rates (steps,) float64 and the smoothed losses (steps,) float64 of one curve, all finite, and gives
a `Proposal` or why it has none. Call `lr_range_test.read`, which handles a curve that is shorter than the rule needs or
does not fall. `bench/suggestions.py` checks the rules against the packages they come from; the packages trim the
curve's ends in their own ways before, which is no part of the rules.
"""

from bisect import bisect_left

import numpy as np

from reproduce.analysis.lr_range_test import PAPERS_RULE, Curve, NoProposal, Proposal, Rule, Suggestion, read

# fastai's own.
SLIDE_STEPS, SLIDE_THRESHOLD = 15, 0.005
# The fewest points whose third is a step.
VALLEY_POINTS = 3


def steepest_by_step(learning_rates: np.ndarray, smoothed: np.ndarray) -> Proposal:
    """Return where the loss falls most from step to step, on the whole curve. pytorch-lr-finder's, in `LRFinder.plot`.

    On an exponential ramp steps are even in the logarithm of the rate: it differs from the paper's rule only where the
    loss falls faster after its minimum, as it can once it explodes.
    """
    return _at(learning_rates, int(np.argmin(np.gradient(smoothed))))


def steepest_by_rate(learning_rates: np.ndarray, smoothed: np.ndarray) -> Proposal:
    """Return where the loss falls most against the rate itself. Lightning's, in `_LRFinder.suggestion`.

    At the start of an exponential ramp the rates lie a thousand times closer than in its middle, so that a fall within
    the noise counts for more there than the descent does.
    """
    return _at(learning_rates, int(np.argmin(np.gradient(smoothed, learning_rates))))


def tenth_of_minimum(learning_rates: np.ndarray, smoothed: np.ndarray) -> Proposal:
    """Return a tenth of the rate at which the loss is least. fastai's `minimum`. Its step is that of the minimum."""
    step = int(np.argmin(smoothed))
    return Proposal(float(learning_rates[step]) / 10, step)


def valley(learning_rates: np.ndarray, smoothed: np.ndarray) -> Suggestion:
    """Return half-way through the longest strictly falling subsequence of losses, or nearly so. fastai's `valley`.

    The subsequence may skip points, yet its length is taken for its extent; the rule goes a third and half a third of
    that length on from where it would then have begun, which for a fall over two points can be before the first.
    """
    # Of the longest falling subsequence that ends at each point.
    lengths: list[int] = []
    tails: list[float] = []
    for loss in smoothed:
        place = bisect_left(tails, -loss)
        tails[place : place + 1] = [-loss]
        lengths.append(place + 1)
    end = int(np.argmax(lengths))
    if lengths[end] < VALLEY_POINTS:
        return NoProposal(f"valley needs a fall over {VALLEY_POINTS} points, the longest here is over {lengths[end]}")
    third = lengths[end] / 3
    return _at(learning_rates, end - lengths[end] + int(third) + int(third / 2))


def slide(learning_rates: np.ndarray, smoothed: np.ndarray) -> Proposal:
    """Return where, from the end back, the slope stops to differ over 15 steps. fastai's `slide`.

    Made for coarse curves: on one of thousands of steps it stops wherever the explosion pauses.
    """
    slopes = np.gradient(smoothed)
    right, left = len(smoothed) - 1, len(smoothed) - 1 - SLIDE_STEPS
    found = left
    while left >= 0 and abs(slopes[right] - slopes[left]) > SLIDE_THRESHOLD:
        found = left
        right, left = right - 1, left - 1
    return _at(learning_rates, found)


def _at(learning_rates: np.ndarray, step: int) -> Proposal:
    return Proposal(float(learning_rates[step]), step)


# In the order of a report, the paper's own first.
RULES = {
    rule.name: rule
    for rule in (
        PAPERS_RULE,
        Rule("steepest by step", 2, steepest_by_step),
        Rule("steepest by rate", 2, steepest_by_rate),
        Rule("minimum / 10", 2, tenth_of_minimum),
        Rule("valley", VALLEY_POINTS, valley),
        Rule("slide", SLIDE_STEPS + 2, slide),
    )
}


def read_all(found: Curve, smoothing: float) -> dict[str, Suggestion]:
    """Return what each rule reads off the curve, by its name."""
    return {name: read(rule, found, smoothing) for name, rule in RULES.items()}
