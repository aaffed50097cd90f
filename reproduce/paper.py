"""The paper as data: `paper.yaml`, read into frozen, validated types. Knows neither torch nor MLflow."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from reproduce.errors import UserError
from reproduce.trial import SCHEDULERS, Count, Dataset, Frozen, Optimizer, Rate, Seed, Trial

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


class Grid(Frozen):
    """The fixed rates that a proposal is compared with, and after how many epochs."""

    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=2)]
    epochs_compared: Annotated[tuple[Count, ...], Field(min_length=1)]


class Model(Frozen):
    """Which model a claim is about: one of the paper's, or one at what its own range test proposes."""

    scheduler: Literal[SCHEDULERS]
    learning_rate: Rate | Literal["proposed"]
    protocol: Protocol = "as-drawn"
    optimizer: Optimizer = "adam"


class Test(Frozen):
    """The range test, and the grid, that a claim is about: the paper's, or that of another optimizer."""

    optimizer: Optimizer = "adam"


RangeTestKind = Literal["onset_step", "descent_steps", "explosion_step", "steepest_step", "proposed_log10"]
ModelKind = Literal["final_accuracy", "accuracy_after_10_epochs", "epochs_to_95_percent", "fall_gained_by_decay"]
GridKind = Literal["best_log10", "decades_from_best", "final_regret"]


class Measure(Frozen):
    """What a claim is about, one number a seed; `claims.py` says how each kind is taken."""

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

    id: str
    says: str
    where: str
    measure: Measure
    expected: tuple[float, float]
    reading: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    reason: str

    @property
    def is_an_order(self) -> bool:
        """Whether the paper gives no number for it that another run of its own might have moved."""
        return any(map(math.isinf, self.expected)) or self.measure.kind == "decades_from_best"

    @field_validator("expected")
    @classmethod
    def _from_low_to_high(cls, expected: tuple[float, float]) -> tuple[float, float]:
        if not expected[0] <= expected[1]:
            raise ValueError("expected goes from low to high")
        return expected


class Contradiction(Frozen):
    """Where the paper disagrees with itself, and the claims that it is between; none where it is not about results."""

    says: str
    claims: tuple[str, ...] = ()


class Paper(Frozen):
    """`paper.yaml`, validated."""

    protocol: Defaults
    range_test: RangeTest
    schedules: dict[Protocol, dict[Literal[SCHEDULERS], dict[str, Any]]]
    sweeps: tuple[Sweep, ...]
    grid: Grid
    claims: tuple[Claim, ...]
    contradictions: tuple[Contradiction, ...]

    @model_validator(mode="after")
    def _contradict_claims(self) -> Paper:
        known = {claim.id for claim in self.claims}
        for name in (name for contradiction in self.contradictions for name in contradiction.claims):
            if name not in known:
                raise ValueError(f"contradictions: there is no claim {name}")
        return self

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
