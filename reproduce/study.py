"""What is to be run: the paper and a user's wishes, read into frozen, validated types.

Knows neither torch nor MLflow. A `Trial` is the whole specification of one training run; everything that decides its
numbers is a field of it, or goes into its fingerprint beside it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from reproduce.errors import UserError

PAPER_FILE = Path(__file__).with_name("paper.yaml")
TEST_BATCH_SIZE = 128  # 79 batches of the 10,000 test images: the paper's printed accuracies are means over 79
SIZES = {"mnist": 60_000, "fashion-mnist": 60_000}  # training images

Dataset = Literal["mnist", "fashion-mnist"]
Optimizer = Literal["adam", "adamw", "sgd", "radam", "lamb", "lars", "hybridadam"]
Engine = Literal["torch"]
Protocol = Literal["as-drawn", "as-written"]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what every generator involved accepts
Fraction = Annotated[float, Field(gt=0, lt=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Constant(_Frozen):
    """The same rate at every step."""

    name: Literal["none"] = "none"


class StepDecay(_Frozen):
    """Rate × gamma every `decay_steps` steps."""

    name: Literal["step"] = "step"
    decay_steps: Count
    gamma: Rate


class MultiStepDecay(_Frozen):
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


class OneCycle(_Frozen):
    """Up from rate / div_factor to the rate in `pct_start` of all steps, then down to the start / final_div_factor.

    With Adam's family it also cycles beta1 between 0.85 and 0.95, with SGD the momentum, as PyTorch does.
    """

    name: Literal["onecycle"] = "onecycle"
    pct_start: Fraction
    div_factor: Rate
    final_div_factor: Rate


class ExponentialDecay(_Frozen):
    """Rate × gamma every `decay_steps` steps, as StepDecay, but in equal ratios at every step."""

    name: Literal["exponential"] = "exponential"
    decay_steps: Count
    gamma: Rate


class Ramp(_Frozen):
    """The range test: the rate rises exponentially and would reach `lr_end` one step after the last."""

    name: Literal["ramp"] = "ramp"
    lr_end: Rate


Schedule = Annotated[
    Constant | StepDecay | MultiStepDecay | OneCycle | ExponentialDecay | Ramp, Field(discriminator="name")
]
SCHEDULERS = ("none", "step", "multistep", "onecycle", "exponential")  # those of a sweep, in the paper's order


class Trial(_Frozen):
    """One training run, completely specified: the same trial gives the same bits on the same kind of machine.

    Rates are per step, sizes are numbers of images. `learning_rate` is the rate of the first step, except that OneCycle
    takes it as its highest.
    """

    dataset: Dataset
    train_size: Count
    optimizer: Optimizer
    schedule: Schedule
    learning_rate: Rate
    epochs: Count
    batch_size: Count
    seed: Seed
    engine: Engine

    @model_validator(mode="after")
    def _fits(self) -> Trial:
        if self.train_size > SIZES[self.dataset]:
            raise ValueError(f"train_size {self.train_size} is more than the {SIZES[self.dataset]} images there are")
        if self.batch_size > self.train_size:
            raise ValueError(f"batch_size {self.batch_size} is more than the {self.train_size} training images")
        if isinstance(self.schedule, OneCycle) and self.schedule.pct_start * self.total_steps <= 1:
            raise ValueError(
                f"onecycle rises over pct_start {self.schedule.pct_start:g} of {self.total_steps} steps, "
                "which must be more than one step: train for longer, or raise pct_start"
            )
        if self.is_range_test and self.schedule.lr_end <= self.learning_rate:
            raise ValueError(f"lr_end {self.schedule.lr_end:g} must be above lr_start {self.learning_rate:g}")
        return self

    @property
    def is_range_test(self) -> bool:
        """Whether this is a range test, which ramps the rate and is not evaluated on the test set."""
        return isinstance(self.schedule, Ramp)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, the last short one included."""
        return math.ceil(self.train_size / self.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps in the whole trial."""
        return self.epochs * self.steps_per_epoch

    @property
    def label(self) -> str:
        """A name to read, unique within one sweep: `step 6e-04 seed 0`."""
        if self.is_range_test:
            return f"range_test {self.optimizer} seed {self.seed}"
        return f"{self.schedule.name} {format_rate(self.learning_rate)} seed {self.seed}"

    def parameters(self) -> dict[str, Any]:
        """The specification flat, under the names it has in MLflow: the schedule's own parameters beside the rest."""
        flat = self.model_dump(exclude={"schedule"})
        schedule = self.schedule.model_dump()
        flat["scheduler"] = schedule.pop("name")
        if "milestones" in schedule:
            schedule["milestones"] = ",".join(map(str, schedule["milestones"]))
        return flat | schedule

    @property
    def specification(self) -> str:
        """SHA-256 of the specification: what a report looks a trial up by, whatever code or machine made it."""
        return _digest(self.model_dump(mode="json"))

    def fingerprint(self, surroundings: Mapping[str, str]) -> str:
        """SHA-256 of the specification and all else that decides the numbers: data, code, versions, kind of device."""
        return _digest({"trial": self.model_dump(mode="json"), "surroundings": dict(surroundings)})


class Reported(_Frozen):
    """What the paper reports of one model. Accuracy is a fraction, a mean over test batches; loss an epoch's mean."""

    learning_rate: Rate
    test_accuracy: float
    train_loss: float
    source: Literal["printed", "plot"]  # of the accuracy; every loss is read off a plot
    said: str


class Sweep(_Frozen):
    """One schedule at several rates, as a figure of the paper shows it; no figure where the paper only mentions it."""

    scheduler: Literal[SCHEDULERS]
    figure: str | None
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1)]
    reported: tuple[Reported, ...]


class ReportedProposal(_Frozen):
    """The rate the paper proposes and the step it reads it at."""

    proposed_learning_rate: Rate
    step: Count


class RangeTest(_Frozen):
    """The paper's ramp. `smoothing` is the weight of the past in the average that smooths the loss, in [0, 1)."""

    figures: tuple[str, ...]
    lr_start: Rate
    lr_end: Rate
    epochs: Count
    smoothing: Annotated[float, Field(ge=0, lt=1)]
    reported: ReportedProposal


class Defaults(_Frozen):
    """What every trial of the paper has in common."""

    dataset: Dataset
    train_size: Count
    optimizer: Optimizer
    epochs: Count
    batch_size: Count
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    engine: Engine


class Paper(_Frozen):
    """`paper.yaml`, validated."""

    protocol: Defaults
    range_test: RangeTest
    schedules: dict[Protocol, dict[Literal[SCHEDULERS], dict[str, Any]]]
    sweeps: tuple[Sweep, ...]

    def sweep(self, scheduler: str) -> Sweep:
        """The paper's sweep of that schedule."""
        return next(sweep for sweep in self.sweeps if sweep.scheduler == scheduler)

    def reported(self, trial: Trial) -> Reported | None:
        """What the paper reports for that schedule and rate, if anything."""
        rows = self.sweep(trial.schedule.name).reported
        return next((row for row in rows if row.learning_rate == trial.learning_rate), None)


class Wishes(_Frozen):
    """What a user asks for; None is the paper's. Schedule parameters are set only for the schedules that have them."""

    dataset: Dataset | None = None
    optimizer: Optimizer | None = None
    epochs: Count | None = None
    batch_size: Count | None = None
    seeds: tuple[Seed, ...] | None = None
    train_size: Count | None = None
    engine: Engine | None = None
    protocol: Protocol = "as-drawn"
    schedulers: tuple[Literal[SCHEDULERS], ...] = SCHEDULERS
    learning_rates: tuple[Rate, ...] | None = None
    schedule_parameters: dict[str, Any] = {}
    lr_start: Rate | None = None
    lr_end: Rate | None = None
    range_test_epochs: Count | None = None


@cache
def load_paper(path: Path = PAPER_FILE) -> Paper:
    """The paper from its file; UserError names the file and the key that is wrong."""
    try:
        return Paper.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error)}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def describe(error: ValidationError) -> str:
    """The first thing wrong, in one line: where, what, and what was got."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where}: {message}, got {first['input']!r}"


def trials(paper: Paper, wishes: Wishes) -> list[Trial]:
    """The trials of a sweep: schedules × rates × seeds, in the paper's order. UserError where a wish cannot be met."""
    common = _common(paper, wishes)
    seeds = _once("seeds", wishes.seeds or paper.protocol.seeds)
    result = []
    for scheduler in wishes.schedulers:
        schedule = _schedule(paper, wishes, scheduler)
        rates = _once("learning_rates", wishes.learning_rates or paper.sweep(scheduler).learning_rates)
        for rate in rates:
            for seed in seeds:
                result.append(_valid(Trial, **common, schedule=schedule, learning_rate=rate, seed=seed))
    _refuse_unused(wishes, result)
    return result


def range_tests(paper: Paper, wishes: Wishes) -> list[Trial]:
    """One range test a seed. UserError where a wish cannot be met."""
    common = _common(paper, wishes) | {"epochs": wishes.range_test_epochs or paper.range_test.epochs}
    ramp = {"name": "ramp", "lr_end": wishes.lr_end or paper.range_test.lr_end}
    rate = wishes.lr_start or paper.range_test.lr_start
    seeds = _once("seeds", wishes.seeds or paper.protocol.seeds)
    return [_valid(Trial, **common, schedule=ramp, learning_rate=rate, seed=seed) for seed in seeds]


def departures(paper: Paper, wishes: Wishes) -> list[str]:
    """In what a study is not the paper's, one phrase each; empty when it is the paper's own protocol as drawn."""
    wanted, stated = _common(paper, wishes), _common(paper, Wishes())
    names = {"train_size": "training images", "batch_size": "images a batch"}
    if wanted["epochs"] == 1:
        names["epochs"] = "epoch"
    found = [
        f"{wanted[key]} {names.get(key, key)} instead of {stated[key]}" for key in stated if wanted[key] != stated[key]
    ]
    if wishes.learning_rates:
        found.append("learning rates of your own")
    if wishes.schedule_parameters:
        found.append("schedule parameters of your own")
    if wishes.protocol != "as-drawn":
        found.append(f"schedules {wishes.protocol.replace('-', ' ')} instead of as drawn")
    ramp, default_ramp = range_tests(paper, wishes)[0], range_tests(paper, Wishes())[0]
    if (ramp.schedule, ramp.learning_rate, ramp.epochs) != (
        default_ramp.schedule,
        default_ramp.learning_rate,
        default_ramp.epochs,
    ):
        found.append("a range test of your own")
    return found


def format_rate(rate: float, digits: int = 6) -> str:
    """A learning rate as the field writes it, 0.6, 0.06, 6e-4, 6.05e-5, in so many significant digits at most."""
    if rate >= 0.01:
        return f"{rate:.{digits}g}"
    mantissa, exponent = f"{rate:.{digits - 1}e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _common(paper: Paper, wishes: Wishes) -> dict[str, Any]:
    stated = paper.protocol
    dataset = wishes.dataset or stated.dataset
    size = stated.train_size if dataset == stated.dataset else SIZES[dataset]
    return {
        "dataset": dataset,
        "train_size": wishes.train_size or size,
        "optimizer": wishes.optimizer or stated.optimizer,
        "epochs": wishes.epochs or stated.epochs,
        "batch_size": wishes.batch_size or stated.batch_size,
        "engine": wishes.engine or stated.engine,
    }


def _schedule(paper: Paper, wishes: Wishes, scheduler: str) -> dict[str, Any]:
    defaults = paper.schedules[wishes.protocol][scheduler]
    own = {key: value for key, value in wishes.schedule_parameters.items() if key in defaults}
    return {"name": scheduler, **defaults, **own}


def _refuse_unused(wishes: Wishes, result: list[Trial]) -> None:
    for key in wishes.schedule_parameters:
        if not any(key in type(trial.schedule).model_fields for trial in result):
            option = "--" + key.replace("_", "-")
            raise UserError(f"{option} has no effect on scheduler {', '.join(wishes.schedulers)}: leave it out")


def _once(name: str, values: tuple) -> tuple:
    doubles = [value for value in values if values.count(value) > 1]
    if doubles:
        raise UserError(f"{name}: {doubles[0]:g} is given twice; give each value once")
    return values


def _valid(kind: type[Trial], **fields: Any) -> Trial:
    try:
        return kind(**fields)
    except ValidationError as error:
        raise UserError(describe(error)) from error


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def by_scheduler(items: Iterable[Trial]) -> dict[str, list[Trial]]:
    """Trials grouped by schedule, both in the order given."""
    groups: dict[str, list[Trial]] = {}
    for trial in items:
        groups.setdefault(trial.schedule.name, []).append(trial)
    return groups
