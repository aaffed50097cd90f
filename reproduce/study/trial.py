"""One training run, completely specified: its schedule, everything that decides its numbers, and its names.

Knows neither torch nor MLflow. What decides the numbers is a field of `Trial`, or goes into its cache key beside it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from reproduce.study.own_code import REFERENCE

# The 10,000 test images make 79 batches: the paper's printed accuracies are means over 79.
TEST_BATCH_SIZE = 128
# Training images in each data set that has a name.
SIZES = {"mnist": 60_000, "fashion-mnist": 60_000, "digits": 1_437}

Reference = Annotated[str, Field(pattern=REFERENCE)]
# Of a study's own data, the function that returns them.
Dataset = Literal["mnist", "fashion-mnist", "digits"] | Reference
# Whose images the network takes that the package has a kernel for.
WITH_KERNEL = ("mnist", "fashion-mnist")
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Optimizer = Literal["adam", "adamw", "sgd", "radam", "lamb", "lars", "hybridadam"]
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
_ADAM = ("betas", "eps", "weight_decay")
# What a study may set of each, beside the rate.
OPTIMIZER_ARGUMENTS: dict[Optimizer, tuple[str, ...]] = {
    "adam": (*_ADAM, "amsgrad"),
    "adamw": (*_ADAM, "amsgrad"),
    "sgd": ("momentum", "dampening", "weight_decay", "nesterov"),
    "radam": (*_ADAM, "decoupled_weight_decay"),
    "lamb": _ADAM,
    "lars": ("momentum", "eeta", "epsilon", "weight_decay"),
    "hybridadam": _ADAM,
}
Engine = Literal["torch", "fused"]
# A checkpoint is written after every epoch and holds the rate and loss of every step so far. It is 56 MB after this
# many epochs of the paper's size.
MAX_EPOCHS = 10_000
# This is with one image per step.
MAX_STEPS = MAX_EPOCHS * max(SIZES.values())
# The weights are float32, whose range ends there.
MIN_RATE, MAX_RATE = 1e-38, 1e38
# The least rise of the logarithm of a ramp's rate per step. A smaller rise is lost in the rounding of float64.
LEAST_RISE = 1e-12
# Every random generator that is used accepts seeds up to this one.
MAX_SEED = 2**32 - 1
Rate = Annotated[float, Field(ge=MIN_RATE, le=MAX_RATE, strict=True)]
Count = Annotated[int, Field(gt=0, le=MAX_STEPS, strict=True)]
Epochs = Annotated[int, Field(gt=0, le=MAX_EPOCHS, strict=True)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class Frozen(BaseModel):
    """Fields that are checked, complete, and do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _as_pairs(value: object) -> object:
    """Return a mapping as pairs in order, which are hashable; anything else as it is."""
    return tuple(sorted(value.items())) if isinstance(value, Mapping) and all(map(_is_text, value)) else value


def _is_text(value: object) -> bool:
    return isinstance(value, str)


Word = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]
Value = bool | int | float | str | tuple[bool | int | float | str, ...]
# The named arguments of a call.
Arguments = Annotated[tuple[tuple[Word, Value], ...], BeforeValidator(_as_pairs)]


class Code(Frozen):
    """A class or function of a study's own Python, what it is called with, and the SHA-256 of what it does."""

    code: Reference
    arguments: Arguments = ()
    sha256: Sha256


class Preparation(Frozen):
    """How images become a network's input: (image - mean) / scale, in float32.

    `size` is the side of the square that images of one channel are resized to, by PIL's bilinear filter; None keeps
    their own. `mean` is in the images' unit, one number or one a channel, or `image`, the mean of the training images
    pixel by pixel. Without a scale it is 255 for images of bytes, and 1 for others.
    """

    size: Annotated[int, Field(gt=0, le=1024)] | None = None
    mean: float | Annotated[tuple[float, ...], Field(min_length=1)] | Literal["image"] = 0.0
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


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

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=40)]


# Those of a sweep that need no code of a study's own.
SCHEDULERS = ("none", "step", "multistep", "onecycle", "exponential")
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
Scheduler = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=40)]
LOSSES = ("cross_entropy", "mse")
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


def format_rate(rate: float, digits: int | None = None) -> str:
    """Return a learning rate as text: 0.6, 0.06, 6e-4, 6.05e-5, in so many significant digits at most.

    Without `digits` the text has as many as it needs to give the same rate back, so no two rates have the same text.
    """
    if digits is None:
        digits = next(digits for digits in range(6, 18) if float(f"{rate:.{digits - 1}e}") == rate)
    if rate >= 0.01:
        return f"{rate:.{digits}g}"
    mantissa, exponent = f"{rate:.{digits - 1}e}".split("e")
    return f"{float(mantissa):.{digits}g}e{int(exponent)}"


def can_be_held(rate: float) -> bool:
    """Return whether float32 weights can be trained at that rate; a proposed or computed one may lie outside."""
    return MIN_RATE <= rate <= MAX_RATE


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
