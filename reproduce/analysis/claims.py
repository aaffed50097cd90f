"""Claim × results → verdict, purely: the paper's statements judged by what was measured, each by a rule it can show.

A verdict needs an interval. With three seeds or more it is Student's t over them; with fewer, the spread between seeds
is borrowed from the archived reference. The interval has to lie wholly inside what the claim allows to be `reproduced`,
wholly outside to be `not reproduced`; anything else is `inconclusive`.

The tolerance has two parts: how well the paper's number can be read, and how far one more run may lie from it. Where
the paper gives an order there is no number that chance may have moved, and so no second part.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from reproduce.analysis import regret
from reproduce.analysis.intervals import CONFIDENCE
from reproduce.analysis.lr_range_test import Curve, propose, smooth
from reproduce.study.schema import Claim, Measure
from reproduce.study.trial import format_rate

Verdict = Literal["reproduced", "not reproduced", "inconclusive"]
ENOUGH_SEEDS = 3  # for a spread of one's own
ONSET, END = 0.1, 0.9  # of the way from the first loss to the least: the usual 10 to 90% of a fall
CONVERGED = 0.95  # the accuracy whose epoch is counted
EPOCHS_COMPARED = 3  # on either side of a decay


@dataclass(frozen=True)
class Judgement:
    """A claim's verdict and what it rests on.

    `values` are the measure's, one a seed; `low` to `high` is the interval of their mean, `allowed` where it must lie
    to be reproduced.
    `runs` are the ids of those it rests on, by name; `missing` names those that it wants and the store has not, each
    with its seed.
    """

    claim: Claim
    verdict: Verdict
    values: dict[int, float]
    mean: float | None
    low: float | None
    high: float | None
    allowed: tuple[float, float]
    rule: str
    runs: Mapping[str, str]
    missing: Mapping[str, int]


# Measures of a range test: a curve and its smoothing to a number.


def of_curve(kind: str, curve: Curve, smoothing: float) -> float:
    """That measure of a curve; NaN where the curve has no such point."""
    if not len(curve.losses):
        return math.nan
    smoothed = smooth(curve.losses, smoothing)
    lowest = int(np.argmin(smoothed))
    fallen = (smoothed[0] - smoothed[: lowest + 1]) / (smoothed[0] - smoothed[lowest] or math.nan)
    onset, end = (_first(fallen >= part) for part in (ONSET, END))
    proposal = propose(curve, smoothing)
    match kind:
        case "onset_step":
            return onset
        case "descent_steps":
            return end - onset
        case "explosion_step":
            return lowest + _first(smoothed[lowest:] > smoothed[0])
        case "steepest_step":
            return proposal.step if proposal else math.nan
        case "proposed_log10":
            return math.log10(proposal.learning_rate) if proposal else math.nan
    raise ValueError(kind)


def _first(where: np.ndarray) -> float:
    found = np.flatnonzero(where)
    return float(found[0]) if found.size else math.nan


# Measures of a model: what it recorded by epoch, to a number.


def of_epochs(kind: str, epochs: Mapping[str, Sequence[float]], decay_epoch: int | None) -> float:
    """That measure of a trial's metrics by epoch. `decay_epoch` is the one in which its rate first falls, from 1.

    Infinite for an accuracy never reached, NaN for an epoch that was never trained.
    """
    accuracy, loss = epochs["test_accuracy_batch_mean"], epochs["train_loss"]
    match kind:
        case "final_accuracy":
            return accuracy[-1]
        case "accuracy_after_10_epochs":
            return accuracy[9] if len(accuracy) >= 10 else math.nan
        case "epochs_to_95_percent":
            return next((epoch for epoch, value in enumerate(accuracy, 1) if value >= CONVERGED), math.inf)
        case "fall_gained_by_decay":
            # Whole epochs before the one with the decay in it, and from its end on; losses are counted from 0 here.
            before, after = (decay_epoch or 0) - 2, (decay_epoch or 0) - 1
            if before - EPOCHS_COMPARED < 0 or after + EPOCHS_COMPARED >= len(loss):
                return math.nan
            fall_before = (loss[before - EPOCHS_COMPARED] - loss[before]) / EPOCHS_COMPARED
            return (loss[after] - loss[after + EPOCHS_COMPARED]) / EPOCHS_COMPARED - fall_before
    raise ValueError(kind)


# Measures of a grid: accuracies by epoch at each of its rates and at the proposed one, to a number.


def of_grid(kind: str, grid: Mapping[float, Sequence[float]], rate: float, proposed: Sequence[float]) -> float:
    """That measure after the last epoch; NaN where a training did not get there. `rate` is the proposed one."""
    epochs = max(map(len, grid.values()))
    best, _ = regret.best(grid, epochs)
    match kind:
        case "best_log10":
            return math.log10(best)
        case "decades_from_best":
            return math.log10(rate / best)
        case "final_regret":
            return regret.regret(grid, proposed, epochs)
    raise ValueError(kind)


# Judging.


def tolerance(claim: Claim, reference: Sequence[float]) -> float:
    """The reading error, plus a prediction interval: how far one more run may lie from the mean of the reference's.

    Of an order the reading error alone.
    """
    if claim.is_an_order:
        return claim.reading
    return claim.reading + _t(len(reference)) * _deviation(reference) * math.sqrt(1 + 1 / max(len(reference), 1))


def judge(
    claim: Claim,
    values: Mapping[int, float],
    reference: Sequence[float],
    runs: Mapping[str, str] | None = None,
    missing: Mapping[str, int] | None = None,
) -> Judgement:
    """The verdict on a claim from its measure's values by seed, and those of the archived reference.

    While a run is missing that is wanted, nothing is concluded from the others.
    """
    beyond = tolerance(claim, reference)
    least, most = _possible(claim)
    low, high = claim.expected[0] - beyond, claim.expected[1] + beyond
    anything = low <= least and most <= high
    allowed = (low if math.isinf(low) else max(low, least), high if math.isinf(high) else min(high, most))
    own = list(values.values())

    def result(verdict: Verdict, rule: str, interval: tuple[float, float, float] | None = None) -> Judgement:
        mean, low, high = interval or (None, None, None)
        return Judgement(
            claim, verdict, dict(values), mean, low, high, allowed, rule, dict(runs or {}), dict(missing or {})
        )

    if missing or not own:
        return result("inconclusive", "runs are missing")
    if anything:
        return result("inconclusive", f"seeds differ so much that every value would do: give or take {beyond:.3g}")
    if any(math.isnan(value) for value in own):
        return result("inconclusive", "the measure is not there in every run")
    if not all(map(math.isfinite, own)) and len(set(own)) > 1:
        return result("inconclusive", "some seeds get there, others never do")
    if len(own) >= ENOUGH_SEEDS:
        half, how = _half_width(own, own), f"Student's t over {len(own)} seeds"
    elif len(reference) >= ENOUGH_SEEDS:
        half = _half_width(own, reference)
        how = f"{len(own)} seed{'s'[: len(own) > 1]}, spread borrowed from the reference's {len(reference)}"
    else:
        return result("inconclusive", f"{len(own)} of at least {ENOUGH_SEEDS} seeds, and no reference to borrow from")
    mean = _mean(own)
    low, high = mean - half, mean + half
    inside, outside = allowed[0] <= low and high <= allowed[1], high < allowed[0] or allowed[1] < low
    verdict: Verdict = "reproduced" if inside else "not reproduced" if outside else "inconclusive"
    where = {"reproduced": "inside", "not reproduced": "outside", "inconclusive": "across a bound of"}[verdict]
    rule = f"the mean's interval ({how}) lies {where} {_text(claim.measure, allowed)}"
    if allowed != claim.expected:
        unit = " decades" if claim.measure.is_rate else ""
        rule += f": {_text(claim.measure, claim.expected)} give or take {beyond:.3g}{unit}"
    return result(verdict, rule, (mean, low, high))


def _possible(claim: Claim) -> tuple[float, float]:
    """The least and the most that the measure can be: a claim that no run could fail is not settled by any."""
    kind = claim.measure.kind
    if "accuracy" not in kind and "regret" not in kind:
        return -math.inf, math.inf
    return (-1.0, 1.0) if claim.measure.minus or "regret" in kind else (0.0, 1.0)


def _mean(values: Sequence[float]) -> float:
    return values[0] if len(set(values)) == 1 else statistics.fmean(values)  # equal infinities have a mean too


def _t(n: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) if n > 1 else 0.0


def _deviation(values: Sequence[float]) -> float:
    if len(set(values)) < 2:
        return 0.0
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.inf


def _half_width(own: Sequence[float], spread_of: Sequence[float]) -> float:
    return _t(len(spread_of)) * _deviation(spread_of) / math.sqrt(len(own))


def _text(measure: Measure, bounds: tuple[float, float]) -> str:
    low, high = (format_rate(10**bound, 3) if measure.is_rate else f"{bound:.5g}" for bound in bounds)
    if low == high:
        return low
    if math.isinf(bounds[0]):
        return f"at most {high}"
    return f"at least {low}" if math.isinf(bounds[1]) else f"{low} to {high}"
