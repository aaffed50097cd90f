"""The claims of a paper: statements that can be judged one by one, and the measure that each is about."""

from __future__ import annotations

import math
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from reproduce.study.fields import Arguments, Frozen, Optimizer, Rate, Reference
from reproduce.study.schedules import Scheduler

# The name of a variant of the schedules, where the paper's text and its curves disagree, say.
Protocol = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=40)]
# In place of a rate.
Proposed = Literal["proposed"]
PROPOSED: Proposed = "proposed"
Text = Annotated[str, Field(min_length=1, pattern=r"^[^\n]*$")]
Real = Annotated[float, Field(strict=True)]
AtLeastZero = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]


class Model(Frozen):
    """The model that a claim is about: one of the paper's, or one at what its own range test proposes.

    Optimizer and protocol are the paper's where none is named.
    """

    scheduler: Scheduler
    learning_rate: Rate | Proposed
    protocol: Protocol | None = None
    optimizer: Optimizer | None = None


class OptimizerRangeTest(Frozen):
    """The range test, and the grid, that a claim is about: the paper's, or that of another optimizer."""

    optimizer: Optimizer | None = None


RangeTestKind = Literal["onset_step", "descent_steps", "explosion_step", "steepest_step", "proposed_log10"]
ModelKind = Literal["final_accuracy", "accuracy_after_10_epochs", "epochs_to_95_percent", "fall_gained_by_decay"]
GridKind = Literal["best_log10", "decades_from_best", "final_regret"]


class Measure(Frozen):
    """The quantity that a claim is about, one number a seed; `analysis/claims.py` says how each kind is taken.

    A study's own kind is a function of what a model recorded by epoch, and `arguments` are its.
    """

    kind: RangeTestKind | ModelKind | GridKind | Reference
    arguments: Arguments = ()
    of: Model | OptimizerRangeTest = OptimizerRangeTest()
    minus: Model | OptimizerRangeTest | None = None

    @property
    def is_own(self) -> bool:
        """Return whether it is a function of the study's own."""
        return ":" in self.kind

    @property
    def is_of_grid(self) -> bool:
        """Return whether it needs the grid's runs beside the range test."""
        return self.kind in get_args(GridKind)

    @property
    def is_rate(self) -> bool:
        """Return whether its values are the logarithms of learning rates, to base ten."""
        return self.kind in ("proposed_log10", "best_log10") and self.minus is None

    @model_validator(mode="after")
    def _is_of_its_kind(self) -> Measure:
        needed = Model if self.kind in get_args(ModelKind) or self.is_own else OptimizerRangeTest
        for term in filter(None, (self.of, self.minus)):
            if not isinstance(term, needed):
                raise ValueError(
                    f"a measure of kind {self.kind} is of a {'model' if needed is Model else 'range test'}"
                )
        if self.is_of_grid and self.minus is not None:
            raise ValueError("a grid's measure has nothing to subtract")
        if self.arguments and not self.is_own:
            raise ValueError(f"a measure of kind {self.kind} takes no arguments")
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
        """Return whether the paper gives no number for it that another run of its own might have moved."""
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
    """A place where the paper disagrees with itself, and the claims involved; none where it is not about results."""

    says: Text
    claims: tuple[Text, ...] = ()
