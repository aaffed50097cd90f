"""The rate that a schedule gives at a step, in closed form, and the first that training cannot hold. Pure.

In training PyTorch computes the rates. Here the same is known before anything starts, without PyTorch, and also where a
rate is beyond what a float can be.
"""

import functools
import math
from bisect import bisect_left, bisect_right
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext

from reproduce.study.fields import MAX_RATE, MIN_RATE
from reproduce.study.schedules import Constant, ExponentialDecay, MultiStepDecay, OneCycle, OwnSchedule, Ramp, StepDecay
from reproduce.study.trial import Trial

# Ten thousand epochs of a gamma of 1e38 reach an exponent of ten digits.
WIDE = Context(prec=20, Emax=MAX_EMAX, Emin=MIN_EMIN)
# PyTorch multiplies step by step, which rounds each time: a rate as near to a bound as this is taken for the bound.
ROUNDING = Decimal("1e-6")
LOWEST, HIGHEST = Decimal(MIN_RATE) * (1 - ROUNDING), Decimal(MAX_RATE) * (1 + ROUNDING)


def rate_at(trial: Trial, step: int) -> Decimal:
    """Return the rate at that step, from 0, as the trial's scheduler gives it within rounding."""
    schedule, start = trial.schedule, Decimal(trial.learning_rate)
    with localcontext(WIDE):
        match schedule:
            case Constant():
                return start
            case StepDecay():
                return start * Decimal(schedule.gamma) ** (step // schedule.decay_steps)
            case MultiStepDecay():
                return start * Decimal(schedule.gamma) ** bisect_right(schedule.milestones, step)
            case ExponentialDecay():
                return start * Decimal(schedule.gamma) ** (Decimal(step) / schedule.decay_steps)
            case Ramp():
                return start * (Decimal(schedule.lr_end) / start) ** (Decimal(step) / trial.total_steps)
            case OneCycle():
                return Decimal(_one_cycle(schedule, trial.learning_rate, trial.total_steps, step))
    raise ValueError(schedule.name)


def _one_cycle(schedule: OneCycle, highest: float, total_steps: int, step: int) -> float:
    """Return the rate of PyTorch's OneCycleLR, in its own order of operations.

    It counts from the end of a phase back to its start, so that a start far below the end is lost in rounding: with a
    div_factor of 1e17 the first rate is exactly 0.

    Args:
        schedule: Its parameters.
        highest: The rate at the peak.
        total_steps: All steps of the trial.
        step: Which step, from 0.
    """
    start = highest / schedule.div_factor
    end = start / schedule.final_div_factor
    peak, last = schedule.pct_start * total_steps - 1, total_steps - 1
    low, high, part = (start, highest, step / peak) if step <= peak else (highest, end, (step - peak) / (last - peak))
    return high + (low - high) / 2 * (math.cos(math.pi * part) + 1)


def first_beyond(trial: Trial) -> tuple[int, Decimal] | None:
    """Return the first step, from 0, whose rate training cannot hold, and that rate; None where it can hold all."""
    # The rates of the first two lie between two rates that were checked. What a study's own code gives is for training.
    if isinstance(trial.schedule, Constant | Ramp | OwnSchedule):
        return None
    at, last = functools.partial(rate_at, trial), trial.total_steps - 1
    # All other rates lie between the first and the highest, or between the highest and the last.
    if isinstance(trial.schedule, OneCycle):
        return next(((step, at(step)) for step in (0, last) if _is_beyond(at(step))), None)
    # The rate only rises or only falls, so the last is the most extreme.
    if not _is_beyond(at(last)):
        return None
    step = bisect_left(range(last), True, key=lambda step: _is_beyond(at(step)))
    return step, at(step)


def _is_beyond(rate: Decimal) -> bool:
    return not LOWEST <= rate <= HIGHEST


def as_text(rate: Decimal) -> str:
    """Return the rate in three digits, however small or large."""
    if rate == 0:
        return "0"
    mantissa, exponent = f"{rate:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent):+d}"
