"""How far a mean over seeds can be trusted: Student's t interval. Student, "The Probable Error of a Mean", 1908.

Values are taken as independent draws from one normal distribution.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scipy import stats

from reproduce.study.fields import MAX_RATE, MIN_RATE

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean, and from where to where its 95% interval goes."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class MeanInterval:
    """A mean, and half the width of its 95% interval; None with fewer than two values."""

    mean: float
    half_width: float | None

    def text(self, digits: int = 4) -> str:
        """Return `0.9885 ± 0.0004` with so many decimals, or the mean alone where it has no finite interval."""
        return self.formatted(f".{digits}f", f".{digits}f")

    def formatted(self, mean: str, half_width: str) -> str:
        """Return the mean ± half the width, each in its format."""
        if self.half_width is None or not math.isfinite(self.half_width):
            return f"{self.mean:{mean}}"
        return f"{self.mean:{mean}} ± {self.half_width:{half_width}}"


def mean(values: Sequence[float]) -> float:
    """Return the mean. Equal infinities have one too."""
    return values[0] if len(set(values)) == 1 else statistics.fmean(values)


def deviation(values: Sequence[float]) -> float:
    """Return the sample's standard deviation: 0 with fewer than two different values, infinite if one is not finite."""
    if len(set(values)) < 2:
        return 0.0
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.inf


def t_quantile(n: int) -> float:
    """Return how many standard errors the 95% interval of a mean of `n` values reaches to each side; 0 below two."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) if n > 1 else 0.0


def half_width(spread_of: Sequence[float], n: int) -> float:
    """Return half the width of the 95% interval of a mean of `n` values that spread as `spread_of` do."""
    return t_quantile(len(spread_of)) * deviation(spread_of) / math.sqrt(n)


def prediction_half_width(values: Sequence[float]) -> float:
    """Return how far one more value may lie from the mean of these, with 95% confidence; 0 for fewer than two."""
    return t_quantile(len(values)) * deviation(values) * math.sqrt(1 + 1 / max(len(values), 1))


def mean_interval(values: Sequence[float]) -> MeanInterval:
    """Return the mean of at least one value and its interval."""
    n = len(values)
    return MeanInterval(mean(values), half_width(values, n) if n > 1 else None)


def mean_rate_interval(rates: Sequence[float]) -> Interval:
    """Return the geometric mean of learning rates and its 95% interval; of one rate, that rate three times.

    Rates are spread over orders of magnitude: their logarithms are what is normal, if anything is. An interval that
    reaches beyond what a learning rate can be is cut off there.
    """
    found = mean_interval([math.log(rate) for rate in rates])
    half = found.half_width or 0.0
    low, high = max(found.mean - half, math.log(MIN_RATE)), min(found.mean + half, math.log(MAX_RATE))
    return Interval(*map(math.exp, (found.mean, low, high)))
