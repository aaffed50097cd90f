"""What a range test's curve says: the smoothed loss, and the rate to propose, as pure functions of the curve.

The test: L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv 1506.01186, section 3.3, on an
exponential ramp. The ramp itself is a schedule like the others, and its run a trial like the others.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from reproduce.analysis import noise
from reproduce.study.fields import format_rate
from reproduce.training.epoch_record import EpochRecord

# Follows a rate that is to be doubted where there is no room for the reason.
WEAK = " (weak)"
RISES = "the loss rises and has not fallen before: lower --lr-start or raise --epochs"


@dataclass(frozen=True)
class Curve:
    """A range test, step by step: rates (steps,) float64 and raw batch losses (steps,) float64, all finite.

    `diverged` tells that the test ended there, before its ramp did.
    """

    learning_rates: np.ndarray
    losses: np.ndarray
    diverged: bool = False


@dataclass(frozen=True)
class Proposal:
    """The rate to propose, the step, from 0, that it was read at, and why it is to be doubted; empty if it is not."""

    learning_rate: float
    step: int
    weak: str = ""

    def __bool__(self) -> Literal[True]:
        """Return True."""
        return True

    def __str__(self) -> str:
        """Return the rate in three digits, and why it is weak if it is."""
        return format_rate(self.learning_rate, 3) + (f", {self.doubt}" if self.doubt else "")

    @property
    def doubt(self) -> str:
        """Return `weak: why`; empty where the rate is sound."""
        return f"weak: {self.weak}" if self.weak else ""

    @property
    def short(self) -> str:
        """Return the rate in three digits, marked where it is weak."""
        return format_rate(self.learning_rate, 3) + WEAK * bool(self.weak)


@dataclass(frozen=True)
class NoProposal:
    """The absence of a rate to propose, and why. It is false, so that `if proposal` asks whether there is a rate."""

    reason: str

    def __bool__(self) -> Literal[False]:
        """Return False."""
        return False

    def __str__(self) -> str:
        """Return `none: the reason`."""
        return f"none: {self.reason}"

    short = doubt = property(__str__)


Suggestion = Proposal | NoProposal


@dataclass(frozen=True)
class Rule:
    """A rule that reads a rate off a curve: its name, the points it needs, and its reading of so many.

    The reading is a function of rates (steps,) and smoothed losses (steps,), both float64 and finite.
    """

    name: str
    points: int
    at: Callable[[np.ndarray, np.ndarray], Suggestion]


def curve(history: list[EpochRecord]) -> Curve:
    """Return the curve of all epochs, up to the first loss that is not finite, without it."""
    rates = np.concatenate([record.step_learning_rates for record in history])
    losses = np.concatenate([record.step_losses for record in history]).astype(np.float64)
    return until_not_finite(rates, losses, history[-1].diverged)


def validation(history: list[EpochRecord]) -> np.ndarray:
    """Return (times, 3) float64: step from 0, loss and accuracy on the held-out images, of all epochs."""
    return np.concatenate([record.validation for record in history])


def until_not_finite(learning_rates: np.ndarray, losses: np.ndarray, diverged: bool = False) -> Curve:
    """Return the curve up to the first loss that is not finite, without it; one that has such a loss has diverged."""
    bad = np.flatnonzero(~np.isfinite(losses))
    end = bad[0] if bad.size else len(losses)
    return Curve(learning_rates[:end], losses[:end], diverged or bool(bad.size))


def smooth(losses: np.ndarray, factor: float) -> np.ndarray:
    """Return the exponential average of (steps,) losses, in which the past has the weight `factor`, in [0, 1).

    It is corrected for its start at zero by dividing by 1 - factor^(t + 1), as D. P. Kingma and J. Ba do in "Adam",
    arXiv 1412.6980, section 3.
    """
    result, average = np.empty(len(losses)), 0.0
    for step, loss in enumerate(losses):
        average = factor * average + (1 - factor) * loss
        result[step] = average / (1 - factor ** (step + 1))
    return result


def curve_rows(found: Curve, factor: float) -> Iterator[tuple[float, float, float]]:
    """Yield the rate, the loss and the smoothed loss of every step."""
    columns = (found.learning_rates, found.losses, smooth(found.losses, factor))
    return zip(*(column.tolist() for column in columns), strict=True)


def steepest(learning_rates: np.ndarray, smoothed: np.ndarray) -> Suggestion:
    """Return where the smoothed loss falls most steeply against the logarithm of the rate, before its minimum.

    Slopes are central differences inside and one-sided at both ends of the part up to the minimum. No proposal from a
    curve that starts at its minimum.
    """
    end = int(np.argmin(smoothed)) + 1
    if end < 2:
        return NoProposal("the loss never falls below where it starts")
    slopes = np.gradient(smoothed[:end], np.log(learning_rates[:end]))
    step = int(np.argmin(slopes))
    return Proposal(float(learning_rates[step]), step)


PAPERS_RULE = Rule("steepest by log rate", 2, steepest)


def propose(found: Curve, smoothing: float) -> Suggestion:
    """Return the rate that a range test proposes by the paper's rule."""
    return read(PAPERS_RULE, found, smoothing)


def read(rule: Rule, found: Curve, smoothing: float) -> Suggestion:
    """Return what a rule reads off a curve; no proposal where there is nothing to read, whatever the rule would say."""
    points = len(found.losses)
    if points < rule.points and (found.diverged or points == 0):
        return NoProposal(f"diverged at step {max(points, 1)}: lower --lr-start")
    if points < rule.points:
        return NoProposal(f"{rule.name} needs {rule.points} points, the curve has {points}: train more steps")
    smoothed = smooth(found.losses, smoothing)
    nothing = _without_fall(found, smoothed, smoothing)
    if nothing:
        return NoProposal(nothing)
    proposal = rule.at(found.learning_rates, smoothed)
    return replace(proposal, weak=_weakness(found, smoothed, smoothing, proposal.step)) if proposal else proposal


def _without_fall(found: Curve, smoothed: np.ndarray, smoothing: float) -> str:
    """Return why the curve has no descent to read a rate off; empty where it has one."""
    losses = found.losses
    lowest, last = int(np.argmin(smoothed)), len(losses) - 1
    fall = noise.fall(losses, smoothed, smoothing, lowest) if lowest else noise.Fall(0.0, 0.0)
    if fall.is_real and lowest == last and not found.diverged:
        rate = format_rate(float(found.learning_rates[last]), 3)
        return f"the loss still falls at the ramp's end, {rate}: raise --lr-end"
    if fall.is_real:
        return ""
    if noise.fall(-losses, -smoothed, smoothing, last).is_real:
        return RISES
    size = f" ({fall.errors:.1f} standard errors, over {fall.needed:.1f} needed)" if fall.errors else ""
    if found.diverged:
        return f"diverged at step {len(losses)} with no fall beyond rounding and noise before{size}: lower --lr-start"
    return f"no fall beyond rounding and noise{size}: raise --lr-end or --epochs"


def _weakness(found: Curve, smoothed: np.ndarray, smoothing: float, step: int) -> str:
    """Return why a reading at that step is to be doubted; empty where it is not.

    A reading is sound where the loss has fallen beyond its noise, not by one batch alone, and is on its way to a
    minimum inside the ramp.

    Args:
        found: The curve.
        smoothed: (steps,), its smoothed losses.
        smoothing: The weight of the past in them.
        step: Where the rate was read, from 0.
    """
    lowest, last = int(np.argmin(smoothed)), len(smoothed) - 1
    doubts = []
    if step == 0:
        doubts.append("this is the first rate: lower --lr-start")
    elif step > lowest:
        doubts.append("the loss is past its minimum there")
    elif not noise.fall(found.losses, smoothed, smoothing, step).is_real:
        doubts.append("the loss has not fallen beyond its noise there")
    elif not _falls_without_its_best(found.losses, smoothing, step):
        doubts.append("the fall to there rests on one batch")
    if lowest == last:
        doubts.append(f"the loss falls up to step {len(smoothed)}, where it diverged")
    return "; ".join(doubts)


def _falls_without_its_best(losses: np.ndarray, smoothing: float, step: int) -> bool:
    """Return whether the fall to the step is still there if the best batch had the loss of the one before it."""
    others = losses.copy()
    best = 1 + int(np.argmin(losses[1 : step + 1]))
    others[best] = losses[best - 1]
    return noise.fall(others, smooth(others, smoothing), smoothing, step).is_real
