"""The rules by which learning-rate finders read a rate off a range test's curve, side by side, as pure functions.

Every rule takes the rates (steps,) float64 and the smoothed losses (steps,) float64 of one curve, all finite, and gives
a `Proposal`, or None where it has nothing to say. They are checked against the packages they come from in
`bench/suggestions.py`; the packages trim the curve's ends in their own ways before, which is no part of the rules.
"""

from bisect import bisect_left
from collections.abc import Callable

import numpy as np

from reproduce.range_test import Proposal, steepest

SLIDE_STEPS, SLIDE_THRESHOLD = 15, 0.005  # fastai's own


def steepest_by_step(learning_rates: np.ndarray, smoothed: np.ndarray) -> Proposal | None:
    """Where the loss falls most from step to step, on the whole curve. pytorch-lr-finder's, in `LRFinder.plot`.

    On an exponential ramp steps are even in the logarithm of the rate: it differs from the paper's rule only where the
    loss falls faster after its minimum, as it can once it explodes.
    """
    if len(smoothed) < 2:
        return None
    return _at(learning_rates, int(np.argmin(np.gradient(smoothed))))


def steepest_by_rate(learning_rates: np.ndarray, smoothed: np.ndarray) -> Proposal | None:
    """Where the loss falls most against the rate itself, on the whole curve. Lightning's, in `_LRFinder.suggestion`.

    At the start of an exponential ramp the rates lie a thousand times closer than in its middle, so that a fall within
    the noise counts for more there than the descent does.
    """
    if len(smoothed) < 2:
        return None
    return _at(learning_rates, int(np.argmin(np.gradient(smoothed, learning_rates))))


def tenth_of_minimum(learning_rates: np.ndarray, smoothed: np.ndarray) -> Proposal | None:
    """A tenth of the rate at which the loss is least. fastai's `minimum`. Its step is that of the minimum."""
    if not len(smoothed):
        return None
    step = int(np.argmin(smoothed))
    return Proposal(float(learning_rates[step]) / 10, step)


def valley(learning_rates: np.ndarray, smoothed: np.ndarray) -> Proposal | None:
    """Half-way through the longest strictly falling subsequence of losses, or nearly so. fastai's `valley`.

    The subsequence may skip points, yet its length is taken for its extent; the rule goes a third and half a third of
    that length on from where it would then have begun.
    """
    if not len(smoothed):
        return None
    lengths, tails = [], []  # of the longest falling subsequence that ends at each point
    for loss in smoothed:
        place = bisect_left(tails, -loss)
        tails[place : place + 1] = [-loss]
        lengths.append(place + 1)
    end = int(np.argmax(lengths))
    if end == 0:
        return None
    third = lengths[end] / 3
    return _at(learning_rates, end - lengths[end] + int(third) + int(third / 2))


def slide(learning_rates: np.ndarray, smoothed: np.ndarray) -> Proposal | None:
    """From the end back until the slope no longer differs over 15 steps. fastai's `slide`.

    Made for coarse curves: on one of thousands of steps it stops wherever the explosion pauses.
    """
    if len(smoothed) < SLIDE_STEPS + 2:
        return None
    slopes = np.gradient(smoothed)
    right, left = len(smoothed) - 1, len(smoothed) - 1 - SLIDE_STEPS
    found = left
    while left >= 0 and abs(slopes[right] - slopes[left]) > SLIDE_THRESHOLD:
        found = left
        right, left = right - 1, left - 1
    return _at(learning_rates, found)


def _at(learning_rates: np.ndarray, step: int) -> Proposal:
    return Proposal(float(learning_rates[step]), step)


PAPERS_RULE = "steepest by log rate"
# In the order of the report, the paper's own first.
RULES: dict[str, Callable[[np.ndarray, np.ndarray], Proposal | None]] = {
    PAPERS_RULE: steepest,
    "steepest by step": steepest_by_step,
    "steepest by rate": steepest_by_rate,
    "minimum / 10": tenth_of_minimum,
    "valley": valley,
    "slide": slide,
}
