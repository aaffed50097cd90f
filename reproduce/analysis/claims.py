"""Judge the paper's statements by what was measured, each by a rule that it can show. Pure functions.

A verdict needs an interval. With three seeds or more it is Student's t over them; with fewer, the spread between seeds
is borrowed from the archived reference. The interval has to lie wholly inside what the claim allows to be `reproduced`,
wholly outside to be `not reproduced`; anything else is `inconclusive`.

The tolerance has two parts: how well the paper's number can be read, and how far one more run may lie from it. Where
the paper gives an order there is no number that chance may have moved, and so no second part.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from reproduce.analysis import intervals, regret
from reproduce.analysis.intervals import Interval
from reproduce.analysis.lr_range_test import Curve, propose, smooth
from reproduce.study.claim import Claim, Measure
from reproduce.study.fields import format_rate

Verdict = Literal["reproduced", "not reproduced", "inconclusive"]
# How the rule begins where a measure of the study's own could not be taken.
FAILED = "its measure failed: "
# For a spread of one's own.
ENOUGH_SEEDS = 3
# Of the way from the first loss to the least: the usual 10 to 90% of a fall.
ONSET, END = 0.1, 0.9
# The accuracy whose epoch is counted.
CONVERGED = 0.95
# On either side of a decay.
EPOCHS_COMPARED = 3


@dataclass(frozen=True)
class Judgement:
    """A claim's verdict and what it rests on.

    `values` are the measure's, one a seed; `interval` is that of their mean, None where none was taken, and `allowed`
    where it must lie to be reproduced. `runs` are the ids of those it rests on, by name; `missing` names those that it
    needs and the store does not have, each with its seed.
    """

    claim: Claim
    verdict: Verdict
    values: dict[int, float]
    interval: Interval | None
    allowed: tuple[float, float]
    rule: str
    runs: Mapping[str, str]
    missing: Mapping[str, int]


# Measures of a range test: a curve and its smoothing to a number.


def measure_curve(kind: str, curve: Curve, smoothing: float) -> float:
    """Return that measure of a curve; NaN where the curve has no such point."""
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


def measure_epochs(kind: str, epochs: Mapping[str, Sequence[float]], decay_epoch: int | None) -> float:
    """Return that measure of a trial's metrics by epoch. `decay_epoch`, from 1, is where its rate first falls.

    It is infinite for an accuracy never reached, and NaN for an epoch that was never trained.
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


def measure_grid(kind: str, grid: Mapping[float, Sequence[float]], rate: float, proposed: Sequence[float]) -> float:
    """Return that measure after the last epoch; NaN where a training did not get there.

    Args:
        kind: Which measure.
        grid: Test accuracies by epoch, by rate.
        rate: The proposed rate.
        proposed: Test accuracies by epoch at that rate.
    """
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
    """Return the reading error, plus how far one more run may lie from the mean of the reference's.

    Of an order it is the reading error alone.
    """
    return claim.reading + (0.0 if claim.is_an_order else intervals.prediction_half_width(reference))


def judge(
    claim: Claim,
    values: Mapping[int, float],
    reference: Sequence[float],
    runs: Mapping[str, str] | None = None,
    missing: Mapping[str, int] | None = None,
    failed: str = "",
) -> Judgement:
    """Return the verdict on a claim. While a run is missing, nothing is concluded from the others.

    Args:
        claim: What the paper says.
        values: The claim's measure, by seed.
        reference: The same of the archived runs, for the spread between seeds.
        runs: Ids of the runs that the values are of, by name.
        missing: Seeds of the runs that are needed and not there, by name.
        failed: Why a measure of the study's own could not be taken; empty where it could.
    """
    beyond = tolerance(claim, reference)
    low, high = claim.expected[0] - beyond, claim.expected[1] + beyond
    least, most = _possible(claim)
    allowed = (low if math.isinf(low) else max(low, least), high if math.isinf(high) else min(high, most))
    own = list(values.values())

    def judgement(verdict: Verdict, rule: str, interval: Interval | None = None) -> Judgement:
        return Judgement(claim, verdict, dict(values), interval, allowed, rule, dict(runs or {}), dict(missing or {}))

    if missing or not own:
        return judgement("inconclusive", "runs are missing")
    if failed:
        return judgement("inconclusive", f"{FAILED}{failed}")
    if low <= least and most <= high:
        rule = f"seeds differ so much that every value would do: give or take {beyond:.3g}"
        return judgement("inconclusive", rule)
    if any(map(math.isnan, own)):
        return judgement("inconclusive", "the measure is not there in every run")
    if not all(map(math.isfinite, own)) and len(set(own)) > 1:
        return judgement("inconclusive", "some seeds get there, others never do")
    if len(own) >= ENOUGH_SEEDS:
        spread_of, how = own, f"Student's t over {len(own)} seeds"
    elif len(reference) >= ENOUGH_SEEDS:
        spread_of = list(reference)
        how = f"{len(own)} seed{'s'[: len(own) > 1]}, spread borrowed from the reference's {len(reference)}"
    else:
        rule = f"{len(own)} of at least {ENOUGH_SEEDS} seeds, and no reference to borrow from"
        return judgement("inconclusive", rule)
    mean, half = intervals.mean(own), intervals.half_width(spread_of, len(own))
    interval = Interval(mean, mean - half, mean + half)
    verdict, where = _compare(interval, allowed)
    rule = f"the mean's interval ({how}) lies {where} {_text(claim.measure, allowed)}"
    if allowed != claim.expected:
        unit = " decades" if claim.measure.is_rate else ""
        rule += f": {_text(claim.measure, claim.expected)} give or take {beyond:.3g}{unit}"
    return judgement(verdict, rule, interval)


def _compare(interval: Interval, allowed: tuple[float, float]) -> tuple[Verdict, str]:
    """Return the verdict on an interval, and where it lies from what is allowed."""
    if allowed[0] <= interval.low and interval.high <= allowed[1]:
        return "reproduced", "inside"
    if interval.high < allowed[0] or allowed[1] < interval.low:
        return "not reproduced", "outside"
    return "inconclusive", "across a bound of"


def _possible(claim: Claim) -> tuple[float, float]:
    """Return the least and the most that the measure can be: a claim that no run could fail is not settled by any."""
    kind = claim.measure.kind
    if claim.measure.is_own or ("accuracy" not in kind and "regret" not in kind):
        return -math.inf, math.inf
    return (-1.0, 1.0) if claim.measure.minus or "regret" in kind else (0.0, 1.0)


def _text(measure: Measure, bounds: tuple[float, float]) -> str:
    low, high = (format_rate(10**bound, 3) if measure.is_rate else f"{bound:.5g}" for bound in bounds)
    if low == high:
        return low
    if math.isinf(bounds[0]):
        return f"at most {high}"
    return f"at least {low}" if math.isinf(bounds[1]) else f"{low} to {high}"
