"""The schedules of the learning rate, as data: PyTorch's by name with their parameters, the ramp, and a study's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from reproduce.study.fields import Code, Count, Fraction, Frozen, Rate

# The name of a schedule.
NAME = r"^[a-z0-9][a-z0-9_-]*$"


class Constant(Frozen):
    """The same rate at every step."""

    name: Literal["none"] = "none"


class StepDecay(Frozen):
    """Rate × gamma every `decay_steps` steps."""

    name: Literal["step"] = "step"
    decay_steps: Count
    gamma: Rate


class MultiStepDecay(Frozen):
    """Rate × gamma at each of `milestones`, counted in steps."""

    name: Literal["multistep"] = "multistep"
    milestones: Annotated[tuple[Count, ...], Field(min_length=1)]
    gamma: Rate

    @field_validator("milestones")
    @classmethod
    def _rising(cls, milestones: tuple[int, ...]) -> tuple[int, ...]:
        if list(milestones) != sorted(set(milestones)):
            raise ValueError("milestones must rise, each one once")
        return milestones


class OneCycle(Frozen):
    """A rise from rate / div_factor to the rate in `pct_start` of all steps, then a fall to start / final_div_factor.

    With Adam's family it also cycles beta1 between 0.85 and 0.95, with SGD the momentum, as PyTorch does.
    """

    name: Literal["onecycle"] = "onecycle"
    pct_start: Fraction
    div_factor: Rate
    final_div_factor: Rate


class ExponentialDecay(Frozen):
    """Rate × gamma every `decay_steps` steps, as StepDecay, but in equal ratios at every step."""

    name: Literal["exponential"] = "exponential"
    decay_steps: Count
    gamma: Rate


class Ramp(Frozen):
    """The range test: the rate rises exponentially and would reach `lr_end` one step after the last.

    The last `validation_size` training images are held out, and judged by the network after every `validation_interval`
    steps, from the first on. With a `stop_factor` the test ends once the average of its losses exceeds that many times
    the least average so far.
    """

    name: Literal["ramp"] = "ramp"
    lr_end: Rate
    validation_size: Annotated[int, Field(ge=0)] = 0
    validation_interval: Count = 20
    stop_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = None


class OwnSchedule(Code):
    """A study's own schedule: a function of where training is, that returns a rate, or a rate and a momentum."""

    name: Annotated[str, Field(pattern=NAME, max_length=40)]


# Those of a sweep that need no code of a study's own.
BY_NAME: dict[str, type[Frozen]] = {
    "none": Constant,
    "step": StepDecay,
    "multistep": MultiStepDecay,
    "onecycle": OneCycle,
    "exponential": ExponentialDecay,
}
SCHEDULERS = tuple(BY_NAME)
OWN = "own"


def _kind_of_schedule(value: object) -> str | None:
    name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    return name if name in (*SCHEDULERS, "ramp") else OWN if isinstance(name, str) else None


Schedule = Annotated[
    Annotated[Constant, Tag("none")]
    | Annotated[StepDecay, Tag("step")]
    | Annotated[MultiStepDecay, Tag("multistep")]
    | Annotated[OneCycle, Tag("onecycle")]
    | Annotated[ExponentialDecay, Tag("exponential")]
    | Annotated[Ramp, Tag("ramp")]
    | Annotated[OwnSchedule, Tag(OWN)],
    Discriminator(_kind_of_schedule),
]
# A schedule's name.
Scheduler = Annotated[str, Field(pattern=NAME, max_length=40)]
