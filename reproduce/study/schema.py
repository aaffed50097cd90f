"""The paper as data: `study.yaml`, read into frozen, validated types. Knows neither torch nor MLflow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from reproduce.errors import shown
from reproduce.study.trial import (
    SCHEDULERS,
    SIZES,
    Count,
    Dataset,
    Epochs,
    Frozen,
    Optimizer,
    Rate,
    Schedule,
    Scheduler,
    Seed,
    Trial,
)
from reproduce.study.yaml_lines import Document

PAPER_FILE = Path(__file__).parent.parent / "studies" / "lenet5_mnist" / "study.yaml"
Protocol = Literal["as-drawn", "as-written"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
Proposed = Literal["proposed"]  # in place of a rate
PROPOSED: Proposed = "proposed"
Keys = tuple[int | str, ...]  # the way to a value through mappings and lists
Text = Annotated[str, Field(min_length=1, pattern=r"^[^\n]*$")]
Real = Annotated[float, Field(strict=True)]
AtLeastZero = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]


class Reported(Frozen):
    """What the paper reports of one model. Accuracy is a fraction, a mean over test batches; loss an epoch's mean."""

    learning_rate: Rate
    test_accuracy: Annotated[AtLeastZero, Field(le=1)]
    train_loss: AtLeastZero
    source: Literal["printed", "plot"]  # of the accuracy; every loss is read off a plot
    said: Text


class Sweep(Frozen):
    """One schedule at several rates, as a figure of the paper shows it; no figure where the paper only mentions it."""

    scheduler: Scheduler
    figure: str | None
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1)]
    reported: tuple[Reported, ...]


class ReportedProposal(Frozen):
    """The rate the paper proposes and the step it reads it at."""

    proposed_learning_rate: Rate
    step: Count


class RangeTest(Frozen):
    """The paper's ramp. `smoothing` is the weight of the past in the average that smooths the loss, in [0, 1)."""

    figures: tuple[Text, ...]
    lr_start: Rate
    lr_end: Rate
    epochs: Epochs
    smoothing: Annotated[float, Field(ge=0, lt=1)]
    reported: ReportedProposal


class Defaults(Frozen):
    """What every trial of the paper has in common."""

    dataset: Dataset
    train_size: Count
    optimizer: Optimizer
    epochs: Epochs
    batch_size: Count
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]


class Grid(Frozen):
    """The fixed rates that a proposal is compared with, and after how many epochs."""

    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=2)]
    epochs_compared: Annotated[tuple[Epochs, ...], Field(min_length=1)]


class Model(Frozen):
    """Which model a claim is about: one of the paper's, or one at what its own range test proposes."""

    scheduler: Scheduler
    learning_rate: Rate | Proposed
    protocol: Protocol = "as-drawn"
    optimizer: Optimizer = "adam"


class Test(Frozen):
    """The range test, and the grid, that a claim is about: the paper's, or that of another optimizer."""

    optimizer: Optimizer = "adam"


RangeTestKind = Literal["onset_step", "descent_steps", "explosion_step", "steepest_step", "proposed_log10"]
ModelKind = Literal["final_accuracy", "accuracy_after_10_epochs", "epochs_to_95_percent", "fall_gained_by_decay"]
GridKind = Literal["best_log10", "decades_from_best", "final_regret"]


class Measure(Frozen):
    """What a claim is about, one number a seed; `analysis/claims.py` says how each kind is taken."""

    kind: RangeTestKind | ModelKind | GridKind
    of: Model | Test = Test()
    minus: Model | Test | None = None

    @property
    def is_of_grid(self) -> bool:
        """Whether the grid's runs are wanted, beside the range test."""
        return self.kind in get_args(GridKind)

    @property
    def is_rate(self) -> bool:
        """Whether its values are the logarithms of learning rates, to base ten."""
        return self.kind in ("proposed_log10", "best_log10") and self.minus is None

    @model_validator(mode="after")
    def _is_of_its_kind(self) -> Measure:
        wanted = Model if self.kind in get_args(ModelKind) else Test
        for term in filter(None, (self.of, self.minus)):
            if not isinstance(term, wanted):
                raise ValueError(
                    f"a measure of kind {self.kind} is of a {'model' if wanted is Model else 'range test'}"
                )
        if self.is_of_grid and self.minus is not None:
            raise ValueError("a grid's measure has nothing to subtract")
        return self


class Claim(Frozen):
    """One statement of the paper that can be settled by itself, and when it counts as reproduced."""

    id: Text
    says: Text
    where: Text
    measure: Measure
    expected: tuple[Real, Real]
    reading: AtLeastZero
    reason: Text

    @property
    def is_an_order(self) -> bool:
        """Whether the paper gives no number for it that another run of its own might have moved."""
        return any(map(math.isinf, self.expected)) or self.measure.kind == "decades_from_best"

    @field_validator("expected")
    @classmethod
    def _from_low_to_high(cls, expected: tuple[float, float]) -> tuple[float, float]:
        if not expected[0] <= expected[1]:
            raise ValueError("expected goes from low to high")
        if not any(map(math.isfinite, expected)):
            raise ValueError("expected has a number on one side at least")
        return expected


class Contradiction(Frozen):
    """Where the paper disagrees with itself, and the claims that it is between; none where it is not about results."""

    says: Text
    claims: tuple[Text, ...] = ()


SCHEDULE: TypeAdapter[Schedule] = TypeAdapter(Schedule)


class Paper(Frozen):
    """`study.yaml`, validated."""

    protocol: Defaults
    range_test: RangeTest
    schedules: dict[Protocol, dict[Scheduler, dict[str, Any]]]
    sweeps: tuple[Sweep, ...]
    grid: Grid
    claims: Annotated[tuple[Claim, ...], Field(min_length=1)]
    contradictions: tuple[Contradiction, ...]

    def sweep(self, scheduler: str) -> Sweep:
        """The paper's sweep of that schedule."""
        return next(sweep for sweep in self.sweeps if sweep.scheduler == scheduler)

    def reported(self, trial: Trial) -> Reported | None:
        """What the paper reports for that schedule and rate, if anything."""
        rows = self.sweep(trial.schedule.name).reported
        return next((row for row in rows if row.learning_rate == trial.learning_rate), None)


def disagreements(paper: Paper) -> Iterator[tuple[Keys, str]]:
    """Where its parts do not go together: the keys and positions that lead there, and what is wrong."""
    protocol, test, grid = paper.protocol, paper.range_test, paper.grid
    yield from _twice(protocol.seeds, ("protocol", "seeds"))
    if protocol.train_size > SIZES[protocol.dataset]:
        yield ("protocol", "train_size"), f"there are {SIZES[protocol.dataset]} images"
    if protocol.batch_size > protocol.train_size:
        yield ("protocol", "batch_size"), f"there are {protocol.train_size} images to train on"
    if not test.lr_start < test.lr_end:
        yield ("range_test", "lr_end"), f"must be above lr_start {test.lr_start:g}"
    if not test.lr_start <= test.reported.proposed_learning_rate <= test.lr_end:
        yield ("range_test", "reported", "proposed_learning_rate"), "must be from lr_start to lr_end"
    steps = test.epochs * math.ceil(protocol.train_size / protocol.batch_size)
    if test.reported.step >= steps:
        yield ("range_test", "reported", "step"), f"the test has {steps} steps"
    for variant in PROTOCOLS:
        for scheduler in SCHEDULERS:
            keys = ("schedules", variant, scheduler)
            if scheduler not in paper.schedules.get(variant, {}):
                yield keys, "is missing"
                continue
            try:
                SCHEDULE.validate_python({**paper.schedules[variant][scheduler], "name": scheduler})
            except ValidationError as error:
                first = error.errors()[0]
                yield keys + first["loc"][1:], _said(first)
    yield from _twice([sweep.scheduler for sweep in paper.sweeps], ("sweeps",), "scheduler")
    for scheduler in {*SCHEDULERS} - {sweep.scheduler for sweep in paper.sweeps}:
        yield ("sweeps",), f"there is none of {scheduler}"
    for number, sweep in enumerate(paper.sweeps):
        yield from _twice(sweep.learning_rates, ("sweeps", number, "learning_rates"))
        rates = [row.learning_rate for row in sweep.reported]
        yield from _twice(rates, ("sweeps", number, "reported"), "learning_rate")
        for position in (position for position, rate in enumerate(rates) if rate not in sweep.learning_rates):
            yield ("sweeps", number, "reported", position, "learning_rate"), "is none of the sweep's learning_rates"
    for key, values in (("learning_rates", grid.learning_rates), ("epochs_compared", grid.epochs_compared)):
        if list(values) != sorted(set(values)):
            yield ("grid", key), "must rise, each one once"
    if max(grid.epochs_compared) > protocol.epochs:
        yield ("grid", "epochs_compared"), f"must not be after the {protocol.epochs} epochs that are trained"
    yield from _twice([claim.id for claim in paper.claims], ("claims",), "id")
    for number, claim in enumerate(paper.claims):
        for term, model in (("of", claim.measure.of), ("minus", claim.measure.minus)):
            if not isinstance(model, Model) or model.learning_rate == PROPOSED:
                continue
            if model.learning_rate not in paper.sweep(model.scheduler).learning_rates:
                yield ("claims", number, "measure", term, "learning_rate"), f"is in no sweep of {model.scheduler}"
    known = {claim.id for claim in paper.claims}
    for number, contradiction in enumerate(paper.contradictions):
        for position, name in enumerate(contradiction.claims):
            if name not in known:
                yield ("contradictions", number, "claims", position), f"there is no claim {name}"


def _twice(values: Sequence[Any], keys: Keys, *below: str) -> Iterator[tuple[Keys, str]]:
    """The second place of whatever is there twice."""
    for position, value in enumerate(values):
        if value in values[:position]:
            yield (*keys, position, *below), f"{value} is there twice"


@cache
def load_paper(path: Path = PAPER_FILE) -> Paper:
    """The paper from its file; UserError names the file, the line and the key that is wrong."""
    document = Document(path)
    try:
        paper = Paper.model_validate(document.data)
    except ValidationError as error:
        first = error.errors()[0]
        keys, said = first["loc"], _said(first)
    else:
        keys, said = next(disagreements(paper), ((), ""))
        if not said:
            return paper
    where = ".".join(map(str, keys))
    raise document.error(document.line(keys), f"{where}: {said}" if where else said)


def _said(error: Any) -> str:
    """What is wrong with a value, and what was got."""
    message = error["msg"].removeprefix("Value error, ")
    return message if error["type"] in ("value_error", "missing") else f"{message}, got {shown(error['input'])}"
