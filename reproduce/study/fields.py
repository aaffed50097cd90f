"""The values that a study and its trials are made of, each with its bounds. Knows neither torch nor MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from reproduce.study.own_code import REFERENCE

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
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return tuple(sorted(value.items()))
    return value


Word = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Value = bool | int | Number | str | tuple[bool | int | Number | str, ...]
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


CROSS_ENTROPY = "cross entropy"


def loss_name(loss: str | Code) -> str:
    """Return a trial's loss as it is read: cross entropy, mean squared error, losses.py:smoothed."""
    if isinstance(loss, Code):
        return loss.code
    return {"cross_entropy": CROSS_ENTROPY, "mse": "mean squared error"}[loss]


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
