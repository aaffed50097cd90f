"""PyTorch's scheduler of a schedule, stepped after every batch, and the rates that it gives."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim import lr_scheduler

from reproduce.study.trial import Constant, ExponentialDecay, MultiStepDecay, OneCycle, Ramp, Schedule, StepDecay


def build(schedule: Schedule, optimizer: torch.optim.Optimizer, total_steps: int) -> lr_scheduler.LRScheduler:
    """Return PyTorch's scheduler over an optimizer whose rate is the trial's `learning_rate`."""
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
        case OneCycle():
            return lr_scheduler.OneCycleLR(
                optimizer,
                max_lr=start,
                total_steps=total_steps,
                pct_start=schedule.pct_start,
                div_factor=schedule.div_factor,
                final_div_factor=schedule.final_div_factor,
            )


def compute_rates(schedule: Schedule, learning_rate: float, total_steps: int) -> NDArray[np.float64]:
    """Return the rate in force at each step, (total_steps,) float64, as the scheduler gives it to plain SGD."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=learning_rate, momentum=0.9)
    scheduler = build(schedule, optimizer, total_steps)
    rates = np.empty(total_steps)
    for step in range(total_steps):
        rates[step] = optimizer.param_groups[0]["lr"]
        optimizer.step()
        scheduler.step()
    return rates
