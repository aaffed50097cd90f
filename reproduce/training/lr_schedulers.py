"""PyTorch's scheduler of a schedule, stepped after every batch, and the rates that it gives."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim import lr_scheduler

from reproduce.study.own_code import NO_CODE, OwnCode, OwnCodeError
from reproduce.study.schedules import (
    Constant,
    ExponentialDecay,
    MultiStepDecay,
    OneCycle,
    OwnSchedule,
    Ramp,
    Schedule,
    StepDecay,
)


@dataclass(frozen=True)
class Now:
    """Where training is, for a study's own schedule. Steps count from 0; `learning_rate` is the trial's."""

    step: int
    total_steps: int
    steps_per_epoch: int
    learning_rate: float

    @property
    def epoch(self) -> float:
        """Return how many epochs are done, with their fraction."""
        return self.step / self.steps_per_epoch

    @property
    def total_epochs(self) -> float:
        """Return how many epochs there are."""
        return self.total_steps / self.steps_per_epoch


class OwnLR(lr_scheduler.LRScheduler):
    """A study's own schedule: a function of `Now` that returns a rate, or a rate and a momentum, for each step.

    The momentum is SGD's, or the first beta of Adam's family.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, function: Callable[[Now], Any], total_steps: int, steps: int
    ) -> None:
        self.function, self.total_steps, self.steps_per_epoch = function, total_steps, steps
        super().__init__(optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Return its state without the study's function, which each rank loads itself."""
        return {key: value for key, value in super().state_dict().items() if key != "function"}  # type: ignore[no-untyped-call]

    def get_lr(self) -> list[float]:
        """Return the rate of each group for the step that comes, and set its momentum. OwnCodeError for no number."""
        rates = []
        for group, start in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            returned = self.function(Now(self.last_epoch, self.total_steps, self.steps_per_epoch, start))
            has_momentum = isinstance(returned, tuple) and len(returned) == 2
            rate, momentum = returned if has_momentum else (returned, 0.0)
            if not (_is_number(rate) and _is_number(momentum) and momentum < 1):
                raise OwnCodeError(
                    f"the schedule returned {returned!r} for step {self.last_epoch}, expected a rate of at least 0, or "
                    "a rate and a momentum from 0 to below 1"
                )
            if has_momentum:
                self._set_momentum(group, float(momentum))
            rates.append(float(rate))
        return rates

    def _set_momentum(self, group: dict[str, object], momentum: float) -> None:
        if isinstance(betas := group.get("betas"), tuple):
            group["betas"] = (momentum, *betas[1:])
        else:
            group["momentum"] = momentum


def _is_number(value: object) -> bool:
    """Return whether a value is a finite number of at least 0; those of NumPy count, truth values do not."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < np.inf


def build(
    schedule: Schedule, optimizer: torch.optim.Optimizer, total_steps: int, steps_per_epoch: int = 1,
    code: OwnCode = NO_CODE,
) -> lr_scheduler.LRScheduler:  # fmt: skip
    """Return PyTorch's scheduler over an optimizer whose rate is the trial's `learning_rate`.

    Args:
        schedule: The trial's.
        optimizer: Whose rate it sets.
        total_steps: In the whole trial.
        steps_per_epoch: For a study's own schedule.
        code: The study's own Python, for its own schedule.
    """
    start = optimizer.param_groups[0]["lr"]
    match schedule:
        case Constant():
            return lr_scheduler.ConstantLR(optimizer, factor=1.0)
        case StepDecay():
            return lr_scheduler.StepLR(optimizer, schedule.decay_steps, schedule.gamma)
        case MultiStepDecay():
            return lr_scheduler.MultiStepLR(optimizer, list(schedule.milestones), schedule.gamma)
        case ExponentialDecay():
            return lr_scheduler.ExponentialLR(optimizer, schedule.gamma ** (1 / schedule.decay_steps))
        case Ramp():
            # LambdaLR computes each rate from the start; ExponentialLR would pile up rounding over thousands of steps.
            growth = schedule.lr_end / start
            return lr_scheduler.LambdaLR(optimizer, lambda step: float(growth ** (step / total_steps)))
        case OwnSchedule():
            function = code.load(schedule.code)
            return OwnLR(optimizer, partial(function, **dict(schedule.arguments)), total_steps, steps_per_epoch)
        case OneCycle():
            return lr_scheduler.OneCycleLR(
                optimizer,
                max_lr=start,
                total_steps=total_steps,
                pct_start=schedule.pct_start,
                div_factor=schedule.div_factor,
                final_div_factor=schedule.final_div_factor,
            )


def compute_rates(
    schedule: Schedule, learning_rate: float, total_steps: int, steps_per_epoch: int = 1, code: OwnCode = NO_CODE
) -> NDArray[np.float64]:
    """Return the rate in force at each step, (total_steps,) float64, as the scheduler gives it to plain SGD.

    The arguments are those of `build`.
    """
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=learning_rate, momentum=0.9)
    scheduler = build(schedule, optimizer, total_steps, steps_per_epoch, code)
    rates = np.empty(total_steps)
    for step in range(total_steps):
        rates[step] = optimizer.param_groups[0]["lr"]
        optimizer.step()
        scheduler.step()
    return rates
