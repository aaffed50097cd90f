"""The command line's types and options. The word `paper` stands for what the paper did, and is every default.

MLflow passes each parameter on as text and does not check it, so everything is checked here, before any work.
"""

import difflib
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from reproduce import paths
from reproduce.errors import shown
from reproduce.study.trial import (
    MAX_EPOCHS,
    MAX_RATE,
    MAX_SEED,
    MAX_STEPS,
    MIN_RATE,
    OPTIMIZERS,
    SCHEDULERS,
    SIZES,
)

PAPER = "paper"
AUTO = "auto"
LOCAL = "local"
PROPOSED = "proposed"
MAX_IMAGES = max(SIZES.values())
MAX_JOBS = 1000  # on one machine each is a process that takes 0.7 GiB
MAX_VALUES = 1000  # in a list
MAX_TEXT = 6000  # characters of a parameter: MLflow cuts what is longer
WHOLE = re.compile(r"[0-9]{1,30}")  # int() and float() also take 1_0, and the digits of every script
HOST_NAME = re.compile(r"[A-Za-z0-9._:%-]{1,255}")
REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class RefusedError(ValueError):
    """Why a value cannot be, in words that say more than what was expected of its kind."""


class OrPaper(click.ParamType):
    """A value of some kind, or the word `paper` (another one where given), which becomes None."""

    def __init__(self, name: str, expected: str, parse: Callable[[str], Any], word: str | None = PAPER) -> None:
        self.name, self.expected, self.parse, self.word = name, expected, parse, word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The parsed value, None for the word; what is already parsed stays."""
        if not isinstance(value, str) or value == self.word:
            return None if value == self.word else value
        expected = self.expected if self.word is None else f"{self.expected}, or the word {self.word}"
        try:
            return self.parse(value)
        except RefusedError as refusal:
            self.fail(f"got {shown(value)}, {refusal}; expected {expected}", param, ctx)
        except (ValueError, OSError, RuntimeError):  # the last for the home of nobody, as in ~nobody/x
            self.fail(f"got {shown(value)}, expected {expected}", param, ctx)


class Named(click.Choice):
    """One of some names; a wrong one is answered with the nearest."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name as it is."""
        if value in self.choices or value is None:
            return value
        expected = f"expected one of {', '.join(self.choices)}{nearest(str(value), self.choices)}"
        self.fail(f"got {shown(value)}, {expected}", param, ctx)


class YesOrNo(click.ParamType):
    """A switch that MLflow can pass on, as text."""

    name = "true|false"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        """The answer; click would take nothing at all for a no."""
        if isinstance(value, bool):
            return value
        if value not in ("true", "false"):
            self.fail(f"got {shown(value)}, expected true or false", param, ctx)
        return value == "true"


def nearest(text: str, known: Any) -> str:
    """The end of a message that offers the nearest of what is known; empty where nothing is near."""
    near = difflib.get_close_matches(text[:100], list(known), n=1)
    return f", did you mean {near[0]}?" if near else ""


def _whole(low: int, high: int, text: str) -> int:
    if not WHOLE.fullmatch(text) or not low <= int(text) <= high:
        raise ValueError
    return int(text)


def _real(text: str, low: float, high: float, low_included: bool = True, high_included: bool = True) -> float:
    number = float(text) if REAL.fullmatch(text) else float("nan")
    # False for what is not a number too.
    if not (low < number < high or (low_included and number == low) or (high_included and number == high)):
        raise ValueError
    return number


def _rate(text: str) -> float:
    return _real(text, MIN_RATE, MAX_RATE)


def _list(parse: Callable[[str], Any], text: str) -> tuple:
    parts = text.split(",")
    if len(parts) > MAX_VALUES:
        raise RefusedError(f"which are {len(parts)}, more than {MAX_VALUES}")
    return _recorded_whole(tuple(parse(part.strip()) for part in parts))


def _recorded_whole(values: tuple) -> tuple:
    length = len(",".join(map(str, values)))
    if length > MAX_TEXT:
        raise RefusedError(f"which is a text of {length} characters, where MLflow records {MAX_TEXT} of a parameter")
    return values


def _address(text: str) -> str:
    found = urlsplit(text)  # whose port is checked as it is read
    if found.scheme not in ("http", "https") or not found.hostname or found.port == 0 or "@" in found.netloc:
        raise ValueError  # with credentials in it too: it is recorded, and on the page
    if not (text.isascii() and text.isprintable()) or set(text) & set(" \"'<>\\"):
        raise ValueError
    return text.rstrip("/")


def _rates_or_proposed(text: str) -> tuple[float, ...] | str:
    return PROPOSED if text == PROPOSED else _list(_rate, text)


def _seeds(text: str) -> tuple[int, ...]:
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        start = _whole(0, MAX_SEED, first)
        end = _whole(0, MAX_SEED, last) if dash else start
        if end < start:
            raise RefusedError(f"of which {start}-{end} runs backwards")
        if len(seeds) + end - start >= MAX_VALUES:
            raise RefusedError(f"which are more than {MAX_VALUES}")
        seeds += range(start, end + 1)
    return _recorded_whole(tuple(seeds))


def _seeds_or_paper(text: str) -> tuple[int, ...] | str:
    return PAPER if text == PAPER else _seeds(text)


def _path(text: str) -> Path:
    text.encode()  # MLflow could not record what is not UTF-8
    if not text.strip() or "\0" in text:
        raise ValueError
    return Path(text).expanduser()


def _data_dir(text: str) -> Path:
    path = _path(text)
    if (why := paths.why_no_data(path)) is not None:
        raise RefusedError(f"but {why}")
    return path


def _place(text: str) -> Path:
    path = _path(text)
    if path.exists() and not path.is_dir():
        raise RefusedError("which is a file")
    return path


def _host(text: str) -> str:
    if not HOST_NAME.fullmatch(text):
        raise ValueError
    return text


def _ray_address(text: str) -> str:
    if text == LOCAL:
        return text
    if "://" in text:
        raise RefusedError("which is that of Ray's client or dashboard")
    found = urlsplit(f"//{text}")  # whose port is checked as it is read
    if not found.hostname or not found.port or found.netloc != text or "@" in text:
        raise ValueError
    if not HOST_NAME.fullmatch(found.hostname):
        raise ValueError
    return text


def _count(name: str, high: int, word: str | None = PAPER) -> OrPaper:
    return OrPaper(name, f"a whole number from 1 to {high}", functools.partial(_whole, 1, high), word)


EPOCHS = _count("count", MAX_EPOCHS)
IMAGES = _count("count", MAX_IMAGES)
INTERVAL = _count("count", MAX_STEPS)
JOBS = _count("count", MAX_JOBS, word=AUTO)
PORT = _count("port", 65535, word=None)
HELD_OUT = _count("count", MAX_IMAGES - 1, word="none")  # one is left to train on
RATE_RANGE = f"{MIN_RATE:g} to {MAX_RATE:g}"
RATE = OrPaper("rate", f"a number from {RATE_RANGE}", _rate)
FRACTION = OrPaper(
    "fraction", "a number between 0 and 1",
    functools.partial(_real, low=0.0, high=1.0, low_included=False, high_included=False),
)  # fmt: skip
SMOOTHING = OrPaper(
    "factor", "a number from 0 to below 1", functools.partial(_real, low=0.0, high=1.0, high_included=False)
)
RATES_EXPECTED = f"numbers from {RATE_RANGE} with commas between, as 1e-3,3e-4"
RATES = OrPaper("rates", RATES_EXPECTED, functools.partial(_list, _rate))
OWN_RATES = OrPaper("rates", f"{RATES_EXPECTED}, the word proposed", _rates_or_proposed)
FACTOR = OrPaper(
    "factor", f"a number above 1, at most {MAX_RATE:g}",
    functools.partial(_real, low=1.0, high=MAX_RATE, low_included=False), word="none",
)  # fmt: skip
STEPS = OrPaper(
    "steps", f"rising whole numbers from 1 to {MAX_STEPS} with commas between",
    functools.partial(_list, functools.partial(_whole, 1, MAX_STEPS)),
)  # fmt: skip
DATA_DIR = OrPaper("directory", paths.DATA_EXPECTED, _data_dir, word="none")
PLACE = OrPaper("directory", "a directory, there or not", _place, word=None)
HOST = OrPaper("host", "a name or an address", _host, word=None)
RAY_ADDRESS = OrPaper(
    "address", f"HOST:PORT of a Ray cluster's head, as 10.0.0.1:6379, the word {LOCAL}", _ray_address, word=AUTO
)
PART_OF_GPU = OrPaper(
    "part", "a number above 0, at most 1", functools.partial(_real, low=0.0, high=1.0, low_included=False), word=None
)
SEEDS_EXPECTED = f"at most {MAX_VALUES} whole numbers from 0 to {MAX_SEED}, as 0,1,2 or 0-4"
SEEDS = OrPaper("seeds", SEEDS_EXPECTED, _seeds)
EVERY_SEED = OrPaper("seeds", f"{SEEDS_EXPECTED}, the word {PAPER}", _seeds_or_paper, word="all")


def _option(name: str, kind: click.ParamType, text: str, default: Any = PAPER, **more: Any) -> Callable:
    return click.option(name, type=kind, default=default, show_default=True, help=text, **more)


def _switch(name: str, text: str) -> Callable:
    """One that may be typed alone, or with true or false as `mlflow run` does."""
    return _option(name, YesOrNo(), text, False, is_flag=False, flag_value="true")


OPTION: dict[str, Callable] = {
    "dataset": _option("--dataset", Named(tuple(SIZES)), "The images.", "mnist"),
    "data_dir": _option("--data-dir", DATA_DIR, "Look here first for the four IDX files: in a directory and what is in "
                        "it, plain, as .gz or in a zip or tar, or in one archive.", "none"),
    "optimizer": _option("--optimizer", Named(OPTIMIZERS), "Adam is the paper's; HybridAdam needs a GPU.", "adam"),
    "epochs": _option("--epochs", EPOCHS, "Epochs of every trial: 30 in the paper's models, 5 in its range test."),
    "batch_size": _option("--batch-size", IMAGES, "Images a step: 128 in the paper."),
    "seeds": _option("--seeds", SEEDS, "One run for each of these, as 0,1,2 or 0-4; 0 for the paper's one. "
                     "A seed sets weights and data order."),
    "every_seed": _option("--seeds", EVERY_SEED, "Judge by these seeds; all is every one in the store.", "all"),
    "strict": _switch("--strict", "Exit with 1 if any claim is not reproduced."),
    "train_size": _option("--train-size", IMAGES, "Train on the first N images only, for a quick look: 60,000 in "
                          "the paper."),
    "protocol": _option(
        "--protocol", Named(("as-drawn", "as-written")),
        "When the rate decays: as the paper's curves show, or as its text says.", "as-drawn",
    ),
    "scheduler": _option("--scheduler", Named((*SCHEDULERS, "all")), "One schedule, or all five.", "all"),
    "learning_rates": _option(
        "--learning-rates", OWN_RATES,
        "Initial rates (max_lr for onecycle): 0.6,6e-4,6e-6 in the paper, and without a schedule 0.06,6e-5,6e-6. "
        "proposed is what the newest range test of the same optimizer, data and seed proposes, ten times that, and a "
        "tenth of it.",
    ),
    "grid_rates": _option("--learning-rates", RATES, "The grid's rates: half-decades from 1e-6 to 0.1."),
    "validation_size": _option("--validation-size", HELD_OUT, "Hold so many of the last training images out, and "
                               "judge them along the ramp.", "none"),
    "validation_interval": _option("--validation-interval", INTERVAL, "Steps from one judgement to the next: 20."),
    "stop_factor": _option("--stop-factor", FACTOR, "Stop once the average loss is so many times its least.", "none"),
    "decay_steps": _option("--decay-steps", INTERVAL, "step, exponential: steps for one factor of gamma: 4500 and "
                           "4690 as drawn, 2345 and 4690 as written."),
    "milestones": _option("--milestones", STEPS, "multistep: the steps at which the rate falls: 2500,7500,10000 as "
                          "drawn, 2345,7035,9380 as written."),
    "gamma": _option("--gamma", RATE, "step, multistep, exponential: the factor of each decay: 0.1 in the paper."),
    "pct_start": _option("--pct-start", FRACTION, "onecycle: the part of all steps in which the rate rises: "
                         "0.3, as in PyTorch."),
    "div_factor": _option("--div-factor", RATE, "onecycle: it starts at max_lr over this: 25, as in PyTorch."),
    "final_div_factor": _option("--final-div-factor", RATE, "onecycle: it ends at its start over this: 10000, as in "
                                "PyTorch."),
    "lr_start": _option("--lr-start", RATE, "The ramp's first rate: 1e-6 in the paper."),
    "lr_end": _option("--lr-end", RATE, "The rate that the ramp would reach one step after its last: 1 in the paper."),
    "range_test_epochs": _option("--range-test-epochs", EPOCHS, "The range test's epochs: 5 in the paper."),
    "smoothing": _option("--smoothing", SMOOTHING, "The past's weight in the average that smooths the loss: 0.98, as "
                         "the paper names none."),
    "jobs": _option("--jobs", JOBS, "Trials at once; auto is as many as there are cores, and 1,000 on Ray.", "auto"),
    "engine": _option(
        "--engine", Named(("auto", "torch", "fused")),
        "PyTorch's layers or our kernel for CPUs; auto takes the kernel where it can be had.", AUTO,
    ),
    "device": _option("--device", Named(("auto", "cpu", "cuda")), "auto takes a GPU where there is one.", "auto"),
    "executor": _option("--executor", Named(("local", "ray")), "This machine's cores, or a Ray cluster.", "local"),
    "ray_address": _option(
        "--ray-address", RAY_ADDRESS,
        "auto is what RAY_ADDRESS says, else the cluster started on this machine, else one for this command, as local.",
        AUTO,
    ),
    "gpus_per_trial": _option("--gpus-per-trial", PART_OF_GPU, "How much of a GPU a trial takes on Ray.", "1"),
    "force": _switch("--force", "Train again what is finished."),
    "ui_url": _option("--ui-url", OrPaper("address", "an address without credentials, as http://127.0.0.1:5000",
                                          _address, word="none"),
                      "Where MLflow's UI is, for the page to link runs to.", "http://127.0.0.1:5000"),
    "check": _switch("--check", "Write nothing; say whether the report in --output is what its own runs give."),
    "output": _option("--output", PLACE, "Where the report goes.", "report/output"),
}  # fmt: skip

SCHEDULE_PARAMETERS = ("decay_steps", "milestones", "gamma", "pct_start", "div_factor", "final_div_factor")
_COMMON = ("dataset", "optimizer", "batch_size", "seeds", "train_size", "engine")
_WORK = ("data_dir", "jobs", "device", "executor", "ray_address", "gpus_per_trial", "force")
_RAMP = ("lr_start", "lr_end", "validation_size", "validation_interval", "stop_factor", "smoothing")
_MODELS = ("scheduler", "learning_rates", *SCHEDULE_PARAMETERS)
# The options of each command, and so the parameters of each entry point of MLproject.
COMMANDS = {
    "main": (*_COMMON, "epochs", "range_test_epochs", "protocol", *_WORK, "output", "ui_url"),
    "range_test": (*_COMMON, "epochs", *_RAMP, *_WORK),
    "sweep": (*_COMMON, "epochs", "protocol", *_MODELS, *_WORK),
    "grid": (*_COMMON, "epochs", "grid_rates", "range_test_epochs", *_RAMP, *_WORK),
    "report": (*_COMMON, "epochs", "protocol", *_MODELS, "range_test_epochs", *_RAMP, "output", "ui_url", "check"),
    "verify": ("dataset", "optimizer", "batch_size", "every_seed", "train_size", "engine", "epochs", "protocol",
               *_MODELS, "range_test_epochs", *_RAMP, "strict"),
}  # fmt: skip
# What the commands that train take besides, taken too and without effect: so the same words follow every command.
WITHOUT_EFFECT = {"report": _WORK, "verify": (*_WORK, "output", "ui_url")}


def options(command: str) -> Callable:
    """Give a function all the options of a command, in their order; those without effect stay out of its help."""

    def decorate(function: Callable) -> Callable:
        for name in reversed(WITHOUT_EFFECT.get(command, ())):
            function = OPTION[name](function)
            function.__click_params__[-1].hidden = True
        for name in reversed(COMMANDS[command]):
            function = OPTION[name](function)
        return function

    return decorate
