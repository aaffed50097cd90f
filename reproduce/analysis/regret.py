"""How good a proposed rate was: its regret against a grid of fixed rates, and what either cost. Pure.

The regret after some epochs is the best test accuracy on the grid less that of the model trained at the proposed rate
itself; it is negative where the proposal beats the whole grid. Accuracies are means over test batches, as in the paper.
A constant rate makes the first epochs of a long training the same as a short one, so one run serves for all of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reproduce.study.trial import Trial

METRIC = "test_accuracy_batch_mean"


@dataclass(frozen=True)
class Cost:
    """Images trained on before the answer is there."""

    of_proposal: int
    of_grid: int


def best(grid: Mapping[float, Sequence[float]], epochs: int) -> tuple[float, float]:
    """Return the rate of the highest accuracy after `epochs`, the smaller of two that are equal, and that accuracy.

    `grid` has each rate's accuracies by epoch. A training that ended before, having diverged, is passed over, and so is
    one whose accuracy is NaN. NaN, NaN where none is left.
    """
    ended = {rate: accuracies[epochs - 1] for rate, accuracies in sorted(grid.items()) if len(accuracies) >= epochs}
    reached = {rate: accuracy for rate, accuracy in ended.items() if not math.isnan(accuracy)}
    if not reached:
        return math.nan, math.nan
    rate = max(reached, key=reached.__getitem__)
    return rate, reached[rate]


def regret(grid: Mapping[float, Sequence[float]], proposed: Sequence[float], epochs: int) -> float:
    """Return what the grid's best has more after `epochs` than the proposal; NaN where either never got there."""
    return best(grid, epochs)[1] - (proposed[epochs - 1] if len(proposed) >= epochs else math.nan)


def cost(test: Trial, grid: Sequence[Trial], epochs: int) -> Cost:
    """Return what the range test and one training at its proposal cost, and what the grid does, each of `epochs`."""
    one = grid[0].images_per_epoch * epochs
    return Cost(test.images_per_epoch * test.epochs + one, one * len(grid))
