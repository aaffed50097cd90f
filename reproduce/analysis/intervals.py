"""How far a mean over seeds can be trusted: Student's t interval. Student, "The Probable Error of a Mean", 1908."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

CONFIDENCE = 0.95
LEAST, MOST = 1e-38, 1e38  # of a learning rate, as `trial` has it


@dataclass(frozen=True)
class Spread:
    """A mean of `n` values, and half the width of its 95% interval; None with fewer than two values."""

    mean: float
    half_width: float | None
    n: int

    def text(self, digits: int = 4) -> str:
        """`0.9885 ± 0.0004`, or the value alone."""
        if self.half_width is None or math.isnan(self.half_width):
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} ± {self.half_width:.{digits}f}"


def of(values: Sequence[float]) -> Spread:
    """The spread of at least one value, taken as independent draws from one normal distribution."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Spread(mean, None, len(values))
    if not math.isfinite(mean):
        return Spread(mean, math.nan, len(values))
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return Spread(mean, t * statistics.stdev(values) / math.sqrt(len(values)), len(values))


def of_rates(rates: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of learning rates and its 95% interval, one on their order of magnitude; one rate is all three.

    Rates are spread over orders of magnitude: their logarithms are what is normal, if anything is. An interval that
    reaches beyond what a learning rate can be is cut off there.
    """
    found = of([math.log(rate) for rate in rates])
    half = found.half_width or 0.0
    low, high = max(found.mean - half, math.log(LEAST)), min(found.mean + half, math.log(MOST))
    return math.exp(found.mean), math.exp(low), math.exp(high)
