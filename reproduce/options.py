"""The command line's types and options. The word `paper` stands for what the paper did, and is every default.

MLflow passes each parameter on as text and does not check it, so everything is checked here, before any work.
"""

import difflib
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from reproduce.trial import SCHEDULERS, SIZES

PAPER = "paper"
AUTO = "auto"
PROPOSED = "proposed"
MAX_SEED = 2**32 - 1


class OrPaper(click.ParamType):
    """A value of some kind, or the word `paper` (another one where given), which becomes None."""

    def __init__(self, name: str, expected: str, parse: Callable[[str], Any], word: str = PAPER) -> None:
        self.name, self.expected, self.parse, self.word = name, expected, parse, word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The parsed value, None for the word; what is already parsed stays."""
        if not isinstance(value, str) or value == self.word:
            return None if value == self.word else value
        try:
            return self.parse(value)
        except ValueError:
            self.fail(f"got {value!r}, expected {self.expected}, or the word {self.word}", param, ctx)


class Named(click.Choice):
    """One of some names; a wrong one is answered with the nearest."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name as it is."""
        if value in self.choices or value is None:
            return value
        near = difflib.get_close_matches(str(value), self.choices, n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        self.fail(f"got {value!r}, expected one of {', '.join(self.choices)}{hint}", param, ctx)


def _whole(low: int, text: str) -> int:
    number = int(text)
    if number < low:
        raise ValueError
    return number


def _real(text: str, low: float = 0.0, high: float = math.inf, low_included: bool = False) -> float:
    number = float(text)
    if not (low < number < high or (low_included and number == low)):  # false for NaN too
        raise ValueError
    return number


def _list(parse: Callable[[str], Any], text: str) -> tuple:
    return tuple(parse(part.strip()) for part in text.split(","))


def _address(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError
    return text.rstrip("/")


def _rates_or_proposed(text: str) -> tuple[float, ...] | str:
    return PROPOSED if text == PROPOSED else _list(_real, text)


def _seeds(text: str) -> tuple[int, ...]:
    seeds = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        start = _whole(0, first)
        end = _whole(start, last) if dash else start
        if end > MAX_SEED or end - start > 10_000:
            raise ValueError
        seeds += range(start, end + 1)
    return tuple(seeds)


def _directory(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_dir():
        raise ValueError
    return path


COUNT = OrPaper("count", "a whole number above 0", functools.partial(_whole, 1))
RATE = OrPaper("rate", "a number above 0", _real)
FRACTION = OrPaper("fraction", "a number between 0 and 1", functools.partial(_real, high=1.0))
SMOOTHING = OrPaper("factor", "a number from 0 to below 1", functools.partial(_real, high=1.0, low_included=True))
RATES = OrPaper("rates", "numbers above 0 with commas between, as 1e-3,3e-4", functools.partial(_list, _real))
OWN_RATES = OrPaper("rates", "numbers above 0 with commas between, as 1e-3,3e-4, the word proposed", _rates_or_proposed)
FACTOR = OrPaper("factor", "a number above 1", functools.partial(_real, low=1.0), word="none")
HELD_OUT = OrPaper("count", "a whole number above 0", functools.partial(_whole, 1), word="none")
STEPS = OrPaper(
    "steps", "whole numbers above 0 with commas between", functools.partial(_list, functools.partial(_whole, 1))
)
JOBS = OrPaper("count", "a whole number above 0", functools.partial(_whole, 1), word=AUTO)
DIRECTORY = OrPaper("directory", "a directory that is there", _directory, word="none")
SEEDS = OrPaper("seeds", "whole numbers from 0 below 2^32, as 0,1,2 or 0-4", _seeds)
EVERY_SEED = OrPaper("seeds", "whole numbers from 0 below 2^32, as 0,1,2 or 0-4", _seeds, word="all")
OPTIMIZERS = ("adam", "adamw", "sgd", "radam", "lamb", "lars", "hybridadam")


def _option(name: str, kind: click.ParamType, text: str, default: Any = PAPER, **more: Any) -> Callable:
    return click.option(name, type=kind, default=default, show_default=True, help=text, **more)


OPTION: dict[str, Callable] = {
    "dataset": _option("--dataset", Named(tuple(SIZES)), "The images.", "mnist"),
    "data_dir": _option("--data-dir", DIRECTORY, "Look here first for the four IDX files, plain or as .gz.", "none"),
    "optimizer": _option("--optimizer", Named(OPTIMIZERS), "Adam is the paper's; HybridAdam needs a GPU.", "adam"),
    "epochs": _option("--epochs", COUNT, "Epochs of every trial: 30 in the paper's models, 5 in its range test."),
    "batch_size": _option("--batch-size", COUNT, "Images a step: 128 in the paper."),
    "seeds": _option("--seeds", SEEDS, "One run for each of these: 0,1,2 or 0-4. A seed sets weights and data order."),
    "every_seed": _option("--seeds", EVERY_SEED, "Judge by these seeds; all is every one in the store.", "all"),
    "strict": click.option("--strict", type=bool, default=False, is_flag=False, flag_value="true", show_default=True,
                           help="Exit with 1 if any claim is not reproduced."),
    "train_size": _option("--train-size", COUNT, "Train on the first N images only, for a quick look."),
    "protocol": _option(
        "--protocol", Named(("as-drawn", "as-written")),
        "When the rate decays: as the paper's curves show, or as its text says.", "as-drawn",
    ),
    "scheduler": _option("--scheduler", Named((*SCHEDULERS, "all")), "One schedule, or all five.", "all"),
    "learning_rates": _option(
        "--learning-rates", OWN_RATES,
        "Initial rates (max_lr for onecycle): three in the paper. proposed is what the newest range test of the same "
        "optimizer, data and seed proposes, ten times that, and a tenth of it.",
    ),
    "grid_rates": _option("--learning-rates", RATES, "The grid's rates: half-decades from 1e-6 to 0.1."),
    "validation_size": _option("--validation-size", HELD_OUT, "Hold so many of the last training images out, and "
                               "judge them along the ramp.", "none"),
    "validation_interval": _option("--validation-interval", COUNT, "Steps from one judgement to the next: 20."),
    "stop_factor": _option("--stop-factor", FACTOR, "Stop once the average loss is so many times its least.", "none"),
    "decay_steps": _option("--decay-steps", COUNT, "step, exponential: steps for one factor of gamma."),
    "milestones": _option("--milestones", STEPS, "multistep: the steps at which the rate falls."),
    "gamma": _option("--gamma", RATE, "step, multistep, exponential: the factor of each decay."),
    "pct_start": _option("--pct-start", FRACTION, "onecycle: the part of all steps in which the rate rises."),
    "div_factor": _option("--div-factor", RATE, "onecycle: it starts at max_lr over this."),
    "final_div_factor": _option("--final-div-factor", RATE, "onecycle: it ends at its start over this."),
    "lr_start": _option("--lr-start", RATE, "The ramp's first rate."),
    "lr_end": _option("--lr-end", RATE, "The rate that the ramp would reach one step after its last."),
    "range_test_epochs": _option("--range-test-epochs", COUNT, "The range test's epochs."),
    "smoothing": _option("--smoothing", SMOOTHING, "The past's weight in the average that smooths the loss."),
    "jobs": _option("--jobs", JOBS, "Trials at once; auto is as many as there are cores.", "auto"),
    "engine": _option(
        "--engine", Named(("auto", "torch", "fused")),
        "PyTorch's layers or our kernel for CPUs; auto takes the kernel where it can be had.", AUTO,
    ),
    "device": _option("--device", Named(("auto", "cpu", "cuda")), "auto takes a GPU where there is one.", "auto"),
    "force": click.option("--force", type=bool, default=False, is_flag=False, flag_value="true", show_default=True,
                          help="Train again what is finished."),
    "ui_url": _option("--ui-url", OrPaper("address", "an http address", _address, word="none"),
                      "Where MLflow's UI is, for the page to link runs to.", "http://127.0.0.1:5000"),
    "check": click.option("--check", type=bool, default=False, is_flag=False, flag_value="true", show_default=True,
                          help="Write nothing; say whether the report in --output is what its own runs give."),
    "output": click.option("--output", type=click.Path(path_type=Path, file_okay=False), default="report/output",
                           show_default=True, help="Where the report goes."),
}  # fmt: skip

SCHEDULE_PARAMETERS = ("decay_steps", "milestones", "gamma", "pct_start", "div_factor", "final_div_factor")
_COMMON = ("dataset", "optimizer", "batch_size", "seeds", "train_size", "engine")
_WORK = ("data_dir", "jobs", "device", "force")
_RAMP = ("lr_start", "lr_end", "validation_size", "validation_interval", "stop_factor", "smoothing")
_MODELS = ("scheduler", "learning_rates", *SCHEDULE_PARAMETERS)
# The options of each command, and so the parameters of each entry point of MLproject.
COMMANDS = {
    "main": (*_COMMON, "epochs", "range_test_epochs", "protocol", *_WORK, "output", "ui_url"),
    "range_test": (*_COMMON, "epochs", *_RAMP, *_WORK),
    "sweep": (*_COMMON, "epochs", "protocol", *_MODELS, *_WORK),
    "grid": (*_COMMON, "epochs", "grid_rates", "range_test_epochs", *_RAMP, *_WORK),
    "report": (*_COMMON, "epochs", "protocol", *_MODELS, "range_test_epochs", *_RAMP, "output", "ui_url", "check"),
    "verify": ("every_seed", "engine", "strict"),
}  # fmt: skip


def options(command: str) -> Callable:
    """Give a function all the options of a command, in their order."""

    def decorate(function: Callable) -> Callable:
        for name in reversed(COMMANDS[command]):
            function = OPTION[name](function)
        return function

    return decorate
