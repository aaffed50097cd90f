"""One training run, completely specified: its schedule, everything that decides its numbers, and its names.

Knows neither torch nor MLflow. What decides the numbers is a field of `Trial`, or goes into its cache key beside it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from reproduce.study.fields import (
    MAX_STEPS,
    SIZES,
    Arguments,
    Code,
    Count,
    Dataset,
    Engine,
    Epochs,
    Frozen,
    Optimizer,
    Preparation,
    Rate,
    Seed,
    Sha256,
    format_rate,
)
from reproduce.study.schedules import OneCycle, OwnSchedule, Ramp, Schedule

# The 10,000 test images make 79 batches: the paper's printed accuracies are means over 79.
TEST_BATCH_SIZE = 128
# The least rise of the logarithm of a ramp's rate per step. A smaller rise is lost in the rounding of float64.
LEAST_RISE = 1e-12
# What was not there before is left out where a trial does not use it, so that the hash of a configuration stays.
LATER = {"network": None, "preparation": None, "data_sha256": None, "loss": "cross_entropy", "optimizer_arguments": ()}


class Trial(Frozen):
    """One training run, completely specified: the same trial gives the same bits on the same kind of machine.

    Rates are per step, sizes are numbers of images. `learning_rate` is the rate of the first step, except that OneCycle
    takes it as its highest. Without a network it is the one that the package has a kernel for, on images of 32×32.
    `data_sha256` is that of a study's own data. Arguments of the optimizer that are not named are as in its library,
    except for SGD's momentum.
    """

    dataset: Dataset
    data_sha256: Sha256 | None = None
    preparation: Preparation | None = None
    train_size: Count
    network: Code | None = None
    loss: Literal["cross_entropy", "mse"] | Code = "cross_entropy"
    optimizer: Optimizer
    optimizer_arguments: Arguments = ()
    schedule: Schedule
    learning_rate: Rate
    epochs: Epochs
    batch_size: Count
    seed: Seed
    engine: Engine

    @model_validator(mode="after")
    def _fits(self) -> Trial:
        if self.train_size > SIZES.get(self.dataset, MAX_STEPS):
            raise ValueError(f"--train-size {self.train_size} is more than the {SIZES[self.dataset]} images there are")
        if self.held_out >= self.train_size:
            raise ValueError(f"--validation-size {self.held_out} leaves none of the {self.train_size} training images")
        if self.batch_size > self.images_per_epoch:
            left = f" that --validation-size {self.held_out} leaves" if self.held_out else ""
            raise ValueError(
                f"--batch-size {self.batch_size} is more than the {self.images_per_epoch} training images{left}"
            )
        if isinstance(self.schedule, OneCycle) and self.schedule.pct_start * self.total_steps <= 1:
            raise ValueError(
                f"onecycle rises over --pct-start {self.schedule.pct_start:g} of {self.total_steps} steps, "
                "which must be more than one step: train for longer, or raise --pct-start"
            )
        if isinstance(self.schedule, Ramp):
            self._rises(self.schedule)
        return self

    def _rises(self, ramp: Ramp) -> None:
        """Raise ValueError unless every step of the ramp has a higher rate than the step before, as slopes need."""
        ends = f"--lr-end {format_rate(ramp.lr_end)}", f"--lr-start {format_rate(self.learning_rate)}"
        if ramp.lr_end <= self.learning_rate:
            raise ValueError(f"{ends[0]} must be above {ends[1]}")
        if math.log(ramp.lr_end / self.learning_rate) / self.total_steps < LEAST_RISE:
            raise ValueError(
                f"{ends[0]} is so near to {ends[1]} that the ramp's {self.total_steps} steps would be at one rate: "
                "raise --lr-end"
            )

    @property
    def is_range_test(self) -> bool:
        """Whether this is a range test, which ramps the rate and is not evaluated on the test set."""
        return isinstance(self.schedule, Ramp)

    @property
    def held_out(self) -> int:
        """How many of the training images are not trained on."""
        return self.schedule.validation_size if isinstance(self.schedule, Ramp) else 0

    @property
    def images_per_epoch(self) -> int:
        """How many images are trained on in an epoch."""
        return self.train_size - self.held_out

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, the last short one included."""
        return math.ceil(self.images_per_epoch / self.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps in the whole trial."""
        return self.epochs * self.steps_per_epoch

    @property
    def label(self) -> str:
        """A name to read, unique within one sweep: `step 6e-4 seed 0`."""
        if self.is_range_test:
            return f"range_test {self.optimizer} seed {self.seed}"
        name = f"{self.schedule.name} {format_rate(self.learning_rate)} seed {self.seed}"
        # The paper's optimizer is not in the name.
        return name if self.optimizer == "adam" else f"{self.optimizer} {name}"

    @property
    def run_name(self) -> str:
        """The label and how long the trial trains: `step 6e-4 seed 0, 1 epoch of 10000 images`."""
        length = f"{self.epochs} epoch{'s' * (self.epochs > 1)}"
        part = f" of {self.train_size} images" if self.train_size < SIZES.get(self.dataset, 0) else ""
        return f"{self.label}, {length}{part}"

    def parameters(self) -> dict[str, Any]:
        """Return the configuration flat, by its names in MLflow: the schedule's own parameters beside the rest."""
        flat = self.model_dump(exclude={"schedule", *LATER})
        schedule = self.schedule.model_dump()
        flat["scheduler"] = schedule.pop("name")
        if "milestones" in schedule:
            schedule["milestones"] = ",".join(map(str, schedule["milestones"]))
        if isinstance(self.schedule, OwnSchedule):
            schedule = {"schedule": _call(self.schedule)}
        return flat | schedule | self._own_parameters()

    def _own_parameters(self) -> dict[str, Any]:
        """Return what differs from what a trial was before a study could have its own."""
        own = {key: getattr(self, key) for key, usual in LATER.items() if getattr(self, key) != usual}
        if isinstance(prepared := own.pop("preparation", None), Preparation):
            own |= {f"image_{key}": value for key, value in prepared.model_dump(exclude_defaults=True).items()}
        own |= {f"optimizer_{key}": value for key, value in own.pop("optimizer_arguments", ())}
        return {key: _call(value) if isinstance(value, Code) else value for key, value in own.items()}

    @model_serializer(mode="wrap")
    def _without_unused(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = dump(self)
        return {key: value for key, value in dumped.items() if key not in LATER or getattr(self, key) != LATER[key]}

    @property
    def config_hash(self) -> str:
        """The SHA-256 of the configuration, by which a report finds a trial, whatever code or machine trained it."""
        return _digest(self.model_dump(mode="json"))

    def cache_key(self, numerics_environment: Mapping[str, str]) -> str:
        """Return the SHA-256 of the configuration and what else decides the numbers: data, code, versions, device."""
        return _digest({"trial": self.model_dump(mode="json"), "surroundings": dict(numerics_environment)})


def _call(code: Code) -> str:
    """Return what of a study's own code is called, as it would be written: network.py:Net(hidden=64)."""
    return f"{code.code}({', '.join(f'{key}={value}' for key, value in code.arguments)})"


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
