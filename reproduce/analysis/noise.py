"""Whether a smoothed loss falls beyond what rounding and noise make of a level one. Pure; no constant is fitted.

Each raw loss is taken as a level plus independent normal noise of one variance. J. von Neumann, R. H. Kent,
H. R. Bellinson and B. I. Hart, "The Mean Square Successive Difference", Annals of Mathematical Statistics 12, 1941,
estimate that variance by half the mean of the squared differences of neighbours, which a slow trend hardly changes.
A fast one makes it larger, so that the test errs towards seeing no fall.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

# That a level curve shows a fall anywhere: the convention of 95% intervals.
CHANCE = 0.05


@dataclass(frozen=True)
class Fall:
    """The largest fall to a step, in standard errors, and how many of them noise alone reaches with 5% chance."""

    errors: float
    needed: float

    @property
    def is_real(self) -> bool:
        """Return whether it is beyond rounding and noise."""
        return self.errors > self.needed


def fall(losses: np.ndarray, smoothed: np.ndarray, factor: float, step: int) -> Fall:
    """Return the largest fall, in standard errors, from any earlier smoothed loss to that of `step`.

    A smoothed loss at k is a weighted mean of that at j < k and of the average M of the k - j losses since, smoothed in
    the same way from a start of its own. M has the share (1 - b^(k-j)) / (1 - b^(k+1)), where b is the factor, and is
    independent of what was before. The fall is so that share of their difference, and its variance that share squared
    times the sum of their variances.

    Args:
        losses: (steps,), the raw losses of a whole curve.
        smoothed: (steps,), the same as `lr_range_test.smooth` gives them with that factor.
        factor: The weight of the past in the average, in [0, 1).
        step: Where the fall ends, 1 or more.
    """
    earlier = np.arange(step)
    falls = smoothed[:step] - smoothed[step]
    falls = np.where(falls > rounding(smoothed[: step + 1], factor), falls, 0.0)
    share = (1 - factor ** (step - earlier)) / (1 - factor ** (step + 1))
    variances = share**2 * (variance_left(factor, earlier + 1) + variance_left(factor, step - earlier))
    errors = np.sqrt(variances * np.mean(np.diff(losses[: step + 1]) ** 2) / 2)
    beyond = np.divide(falls, errors, out=np.where(falls > 0, np.inf, 0.0), where=errors > 0)
    return Fall(float(beyond.max()), needed(len(losses), step))


def variance_left(factor: float, count: np.ndarray) -> np.ndarray:
    """Return what part of one loss's variance is left in the corrected exponential average of `count` losses.

    The weights are (1 - b) b^i / (1 - b^t) for i from 0 to t - 1, and their squares sum to
    (1 - b)^2 / (1 - b^t)^2 · (1 - b^2t) / (1 - b^2) = (1 - b) (1 + b^t) / ((1 + b) (1 - b^t)): 1 for one loss, since
    nothing is averaged yet, and (1 - b) / (1 + b) in the end.
    """
    power: np.ndarray = np.power(float(factor), count)
    return (1 - factor) * (1 + power) / ((1 + factor) * (1 - power))


def needed(points: int, step: int) -> float:
    """Return how many standard errors a level curve of so many points falls by with 5% chance, at most.

    Every pair of points is a fall that could have been found, so the chance is shared among all of them (Bonferroni's
    inequality). The variance is estimated from the `step` differences up to the step. By von Neumann's formula that
    estimate is as uncertain as one with 2 step² / (3 step - 1) degrees of freedom, and so the quantile is that of
    Student's t with as many.
    """
    return -float(stdtrit(2 * step**2 / (3 * step - 1), CHANCE / (points * (points - 1) / 2)))


def rounding(smoothed: np.ndarray, factor: float) -> float:
    """Return the largest difference of two smoothed losses that rounding alone can make.

    A raw loss is a float32, wrong by half a float32 epsilon at most, relative to the largest loss; so is any mean of
    them. Each step of the average rounds three times in float64, which adds up to 3 / (1 - b) halves of a float64
    epsilon. The correction adds 1 / (1 - b) for the power and 2 for the rest. A difference has twice all that.
    """
    float32, float64 = np.finfo(np.float32).eps, np.finfo(np.float64).eps
    return float((float32 + (4 / (1 - factor) + 2) * float64) * np.abs(smoothed).max())
