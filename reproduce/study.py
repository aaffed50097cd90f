"""What is to be run: the paper and a user's wishes, read into frozen, validated types, and expanded into trials.

Knows neither torch nor MLflow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from reproduce.errors import UserError
from reproduce.trial import (
    SCHEDULERS,
    SIZES,
    Count,
    Dataset,
    Engine,
    Frozen,
    Optimizer,
    Rate,
    Seed,
    Trial,
)  # fmt: skip

SHOWN = 100  # characters of what was wrong
PAPER_FILE = Path(__file__).with_name("paper.yaml")
Protocol = Literal["as-drawn", "as-written"]


class Reported(Frozen):
    """What the paper reports of one model. Accuracy is a fraction, a mean over test batches; loss an epoch's mean."""

    learning_rate: Rate
    test_accuracy: float
    train_loss: float
    source: Literal["printed", "plot"]  # of the accuracy; every loss is read off a plot
    said: str


class Sweep(Frozen):
    """One schedule at several rates, as a figure of the paper shows it; no figure where the paper only mentions it."""

    scheduler: Literal[SCHEDULERS]
    figure: str | None
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1)]
    reported: tuple[Reported, ...]


class ReportedProposal(Frozen):
    """The rate the paper proposes and the step it reads it at."""

    proposed_learning_rate: Rate
    step: Count


class RangeTest(Frozen):
    """The paper's ramp. `smoothing` is the weight of the past in the average that smooths the loss, in [0, 1)."""

    figures: tuple[str, ...]
    lr_start: Rate
    lr_end: Rate
    epochs: Count
    smoothing: Annotated[float, Field(ge=0, lt=1)]
    reported: ReportedProposal


class Defaults(Frozen):
    """What every trial of the paper has in common."""

    dataset: Dataset
    train_size: Count
    optimizer: Optimizer
    epochs: Count
    batch_size: Count
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]


class Model(Frozen):
    """Which of the paper's models a claim is about."""

    scheduler: Literal[SCHEDULERS]
    learning_rate: Rate
    protocol: Protocol = "as-drawn"


RangeTestKind = Literal["onset_step", "descent_steps", "explosion_step", "steepest_step", "proposed_log10"]
ModelKind = Literal["final_accuracy", "accuracy_after_10_epochs", "epochs_to_95_percent", "fall_gained_by_decay"]


class Measure(Frozen):
    """What a claim is about, one number a seed; `claims.py` says how each kind is taken."""

    kind: RangeTestKind | ModelKind
    of: Model | None = None
    minus: Model | None = None

    @model_validator(mode="after")
    def _has_its_model(self) -> Measure:
        if (self.of is None) != (self.kind in get_args(RangeTestKind)):
            raise ValueError(f"a measure of kind {self.kind} is of {'the range test' if self.of else 'a model'}")
        if self.of is None and self.minus is not None:
            raise ValueError("a range test's measure has nothing to subtract")
        return self


class Claim(Frozen):
    """One statement of the paper that can be settled by itself, and when it counts as reproduced."""

    id: str
    says: str
    where: str
    measure: Measure
    expected: tuple[float, float]
    reading: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    reason: str

    @field_validator("expected")
    @classmethod
    def _from_low_to_high(cls, expected: tuple[float, float]) -> tuple[float, float]:
        if not expected[0] <= expected[1]:
            raise ValueError("expected goes from low to high")
        return expected


class Paper(Frozen):
    """`paper.yaml`, validated."""

    protocol: Defaults
    range_test: RangeTest
    schedules: dict[Protocol, dict[Literal[SCHEDULERS], dict[str, Any]]]
    sweeps: tuple[Sweep, ...]
    claims: tuple[Claim, ...]

    @field_validator("claims")
    @classmethod
    def _named_once(cls, claims: tuple[Claim, ...]) -> tuple[Claim, ...]:
        doubles = [name for name, times in Counter(claim.id for claim in claims).items() if times > 1]
        if doubles:
            raise ValueError(f"claim {doubles[0]} is there twice")
        return claims

    def sweep(self, scheduler: str) -> Sweep:
        """The paper's sweep of that schedule."""
        return next(sweep for sweep in self.sweeps if sweep.scheduler == scheduler)

    def reported(self, trial: Trial) -> Reported | None:
        """What the paper reports for that schedule and rate, if anything."""
        rows = self.sweep(trial.schedule.name).reported
        return next((row for row in rows if row.learning_rate == trial.learning_rate), None)


class Wishes(Frozen):
    """What a user asks for; None is the paper's. Schedule parameters are set only for the schedules that have them.

    The engine, which computes the same within rounding, is the machine's to say and no departure from the paper.
    """

    dataset: Dataset | None = None
    optimizer: Optimizer | None = None
    epochs: Count | None = None
    batch_size: Count | None = None
    seeds: tuple[Seed, ...] | None = None
    train_size: Count | None = None
    engine: Engine = "torch"
    protocol: Protocol = "as-drawn"
    schedulers: tuple[Literal[SCHEDULERS], ...] = SCHEDULERS
    learning_rates: tuple[Rate, ...] | None = None
    schedule_parameters: dict[str, Any] = Field(default_factory=dict)
    lr_start: Rate | None = None
    lr_end: Rate | None = None
    range_test_epochs: Count | None = None
    validation_size: Count | None = None
    validation_interval: Count | None = None
    stop_factor: Rate | None = None


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
    got = repr(first["input"])
    return f"{where}: {message}, got {got if len(got) <= SHOWN else got[:SHOWN] + '…'}"


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
    for key in ("validation_size", "validation_interval", "stop_factor"):  # the paper had none of them
        if (value := getattr(wishes, key)) is not None:
            ramp[key] = value
    if wishes.validation_interval and not wishes.validation_size:
        raise UserError("--validation-interval has no effect without --validation-size: give both, or neither")
    rate = wishes.lr_start or paper.range_test.lr_start
    seeds = _once("seeds", wishes.seeds or paper.protocol.seeds)
    return [_valid(Trial, **common, schedule=ramp, learning_rate=rate, seed=seed) for seed in seeds]


def of_model(paper: Paper, wishes: Wishes, model: Model) -> list[Trial]:
    """The paper's own trials of that model, one a seed; of the wishes only seeds and engine count."""
    own = Wishes(
        seeds=wishes.seeds,
        engine=wishes.engine,
        protocol=model.protocol,
        schedulers=(model.scheduler,),
        learning_rates=(model.learning_rate,),
    )
    return trials(paper, own)


def departures(paper: Paper, wishes: Wishes) -> list[str]:
    """In what a study is not the paper's, one phrase each; empty when it is the paper's own protocol as drawn."""
    wanted, stated = _common(paper, wishes), _common(paper, Wishes())
    names = {"train_size": "training images", "batch_size": "images a batch"}
    if wanted["epochs"] == 1:
        names["epochs"] = "epoch"
    found = [
        f"{wanted[key]} {names.get(key, key)} instead of {stated[key]}"
        for key in stated
        if key != "engine" and wanted[key] != stated[key]
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
        "engine": wishes.engine,
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


def by_scheduler(items: Iterable[Trial]) -> dict[str, list[Trial]]:
    """Trials grouped by schedule, both in the order given."""
    groups: dict[str, list[Trial]] = {}
    for trial in items:
        groups.setdefault(trial.schedule.name, []).append(trial)
    return groups
