"""What a range test's curve says: the smoothed loss, and the rate to propose, as pure functions of the curve.

The test: L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv 1506.01186, section 3.3, on an
exponential ramp. The ramp itself is a schedule like the others, and its run a trial like the others.
"""

from dataclasses import dataclass

import numpy as np

from reproduce.checkpoints import EpochRecord


@dataclass(frozen=True)
class Curve:
    """A range test, step by step: rates (steps,) float64 and raw batch losses (steps,) float64, all finite."""

    learning_rates: np.ndarray
    losses: np.ndarray


@dataclass(frozen=True)
class Proposal:
    """The rate to propose and the step, from 0, that it was read at."""

    learning_rate: float
    step: int


def curve(history: list[EpochRecord]) -> Curve:
    """The curve of all epochs, up to the first loss that is not finite, without it."""
    rates = np.concatenate([record.step_learning_rates for record in history])
    losses = np.concatenate([record.step_losses for record in history]).astype(np.float64)
    return until_not_finite(rates, losses)


def validation(history: list[EpochRecord]) -> np.ndarray:
    """(times, 3) float64: step from 0, loss and accuracy on the held-out images, of all epochs; none without any."""
    return np.concatenate([record.validation for record in history])


def until_not_finite(learning_rates: np.ndarray, losses: np.ndarray) -> Curve:
    """The curve up to the first loss that is not finite, without it."""
    bad = np.flatnonzero(~np.isfinite(losses))
    end = bad[0] if bad.size else len(losses)
    return Curve(learning_rates[:end], losses[:end])


def smooth(losses: np.ndarray, factor: float) -> np.ndarray:
    """Exponential average of (steps,) losses, the past weighted by `factor` in [0, 1), corrected for its start at zero.

    The correction divides by 1 - factor^(t + 1), as D. P. Kingma and J. Ba do in "Adam", arXiv 1412.6980, section 3.
    """
    result, average = np.empty(len(losses)), 0.0
    for step, loss in enumerate(losses):
        average = factor * average + (1 - factor) * loss
        result[step] = average / (1 - factor ** (step + 1))
    return result


def steepest(learning_rates: np.ndarray, smoothed: np.ndarray) -> Proposal | None:
    """Where the smoothed loss falls most steeply against the logarithm of the rate, before its minimum.

    Slopes are central differences inside and one-sided at both ends of the part up to the minimum. None where there is
    no fall: fewer than two points, or a curve that starts at its minimum.
    """
    end = int(np.argmin(smoothed)) + 1 if len(smoothed) else 0
    if end < 2:
        return None
    slopes = np.gradient(smoothed[:end], np.log(learning_rates[:end]))
    step = int(np.argmin(slopes))
    return Proposal(float(learning_rates[step]), step)


def propose(found: Curve, smoothing: float) -> Proposal | None:
    """The rate that a range test proposes; None if its loss never fell."""
    return steepest(found.learning_rates, smooth(found.losses, smoothing))
