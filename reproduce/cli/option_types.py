"""The types of the command line's options. The word `paper` stands for the paper's own value.

Each value is checked before any work: MLflow passes parameters on as text and checks none.
"""

import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import urlsplit

import click
from click.shell_completion import CompletionItem
from pydantic import TypeAdapter

from reproduce import paths
from reproduce.errors import nearest, shown
from reproduce.study import location
from reproduce.study.claim import Protocol
from reproduce.study.fields import MAX_EPOCHS, MAX_RATE, MAX_SEED, MAX_STEPS, MIN_RATE, SIZES

PAPER = "paper"
AUTO = "auto"
LOCAL = "local"
PROPOSED = "proposed"
MAX_IMAGES = max(SIZES.values())
# On one machine, each running trial is a process of 0.7 GiB.
MAX_JOBS = 1000
# The most values in a list.
MAX_VALUES = 1000
# MLflow cuts off a parameter that has more characters.
MAX_TEXT = 6000
# int() and float() also accept 1_0, and the digits of every script.
WHOLE = re.compile(r"[0-9]{1,30}")
HOST_NAME = re.compile(r"[A-Za-z0-9._:%-]{1,255}")
REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


T = TypeVar("T")
Parsed = TypeVar("Parsed", int, float)


class RefusedError(ValueError):
    """The reason why a value is refused, if that is more than what was expected."""


class OrWord(click.ParamType[T | None, object], Generic[T]):
    """A value of some kind, or a word, `paper` as a rule, which becomes None.

    Args:
        name: the placeholder for the value in the help.
        expected: what an error message says was expected.
        parse: parses the text. It raises ValueError or RefusedError if it cannot.
        word: the word; None if there is none.
    """

    def __init__(self, name: str, expected: str, parse: Callable[[str], T], word: str | None = PAPER) -> None:
        self.name, self.expected, self.parse, self.word = name, expected, parse, word

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return what a shell may complete: the word, and for a directory those that there are."""
        words = [CompletionItem(self.word)] if self.word and incomplete and self.word.startswith(incomplete) else []
        return words or ([CompletionItem(incomplete, type="dir")] if self.name == "directory" else [])

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> T | None:
        """Return the parsed value, or None for the word."""
        if value == self.word:
            return None
        text = str(value)
        expected = self.expected if self.word is None else f"{self.expected}, or the word {self.word}"
        try:
            return self.parse(text)
        except RefusedError as refusal:
            self.fail(f"got {shown(text)}, {refusal}; expected {expected}", param, ctx)
        # RuntimeError is raised for the home of an unknown user, as in ~nobody/x.
        except (ValueError, OSError, RuntimeError):
            self.fail(f"got {shown(text)}, expected {expected}", param, ctx)


class Named(click.Choice[str]):
    """One of several names. The error for a wrong name suggests the nearest."""

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name as it is."""
        text = str(value)
        if text not in self.choices:
            expected = f"expected one of {', '.join(self.choices)}{nearest(text, self.choices)}"
            self.fail(f"got {shown(text)}, {expected}", param, ctx)
        return text


SCHEDULE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


class Schedule(Named):
    """The name of a schedule. A study may have its own, so another name is for whoever knows the study to refuse."""

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name as it is; what can be none is refused as any wrong name is."""
        text = str(value)
        return text if SCHEDULE_NAME.fullmatch(text) else super().convert(value, param, ctx)


def _truth(text: str) -> bool:
    # Click's own type would take an empty text for a no.
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


def _whole(low: int, high: int, text: str) -> int:
    if not WHOLE.fullmatch(text) or not low <= int(text) <= high:
        raise ValueError
    return int(text)


def _real(name: str, expected: str, is_right: Callable[[float], bool], word: str | None = PAPER) -> OrWord[float]:
    """Make the type of a number.

    Args:
        name: `OrWord`'s.
        expected: `OrWord`'s.
        is_right: tells a right number. A text that is no number is given as NaN.
        word: `OrWord`'s.
    """

    def parse(text: str) -> float:
        number = float(text) if REAL.fullmatch(text) else math.nan
        if not is_right(number):
            raise ValueError
        return number

    return OrWord(name, expected, parse, word)


def _list(parse: Callable[[str], Parsed], text: str) -> tuple[Parsed, ...]:
    parts = text.split(",")
    if len(parts) > MAX_VALUES:
        raise RefusedError(f"which has {len(parts)} values, more than {MAX_VALUES}")
    return _check_length(tuple(parse(part.strip()) for part in parts))


def _check_length(values: tuple[Parsed, ...]) -> tuple[Parsed, ...]:
    length = len(",".join(map(str, values)))
    if length > MAX_TEXT:
        raise RefusedError(f"which has {length} characters, but MLflow records at most {MAX_TEXT} of a parameter")
    return values


def _address(text: str) -> str:
    # Reading the port checks it. Credentials are refused, because the address is recorded and shown on the page.
    found = urlsplit(text)
    if found.scheme not in ("http", "https") or not found.hostname or found.port == 0 or "@" in found.netloc:
        raise ValueError
    if not (text.isascii() and text.isprintable()) or set(text) & set(" \"'<>\\"):
        raise ValueError
    return text.rstrip("/")


def _rates_or_proposed(text: str) -> tuple[float, ...] | str:
    return PROPOSED if text == PROPOSED else _list(RATE.parse, text)


def _seeds(text: str) -> tuple[int, ...]:
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        start = _whole(0, MAX_SEED, first)
        end = _whole(0, MAX_SEED, last) if dash else start
        if end < start:
            raise RefusedError(f"in which the range {start}-{end} runs backwards")
        if len(seeds) + end - start >= MAX_VALUES:
            raise RefusedError(f"which has more than {MAX_VALUES} seeds")
        seeds += range(start, end + 1)
    return _check_length(tuple(seeds))


def _seeds_or_paper(text: str) -> tuple[int, ...] | str:
    return PAPER if text == PAPER else _seeds(text)


def _path(text: str) -> Path:
    # MLflow cannot record text that is not UTF-8.
    text.encode()
    if not text.strip() or "\0" in text:
        raise ValueError
    return Path(text).expanduser()


def _data_dir(text: str) -> Path:
    path = _path(text)
    if (why := paths.why_no_data(path)) is not None:
        raise RefusedError(f"but {why}")
    return path


def _output_dir(text: str) -> Path:
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
        raise RefusedError("which is an address of Ray's client or dashboard")
    # Reading the port checks it.
    found = urlsplit(f"//{text}")
    if not found.hostname or not found.port or found.netloc != text or "@" in text:
        raise ValueError
    if not HOST_NAME.fullmatch(found.hostname):
        raise ValueError
    return text


def _count(name: str, high: int, word: str | None = PAPER) -> OrWord[int]:
    return OrWord(name, f"a whole number from 1 to {high}", functools.partial(_whole, 1, high), word)


def _study(text: str) -> str:
    try:
        location.find(text)
    except location.NoStudyError as error:
        raise RefusedError(str(error)) from error
    return text


# The option types.
EPOCHS = _count("count", MAX_EPOCHS)
IMAGES = _count("count", MAX_IMAGES)
INTERVAL = _count("count", MAX_STEPS)
JOBS = _count("count", MAX_JOBS, word=AUTO)
PORT = _count("port", 65535, word=None)
# At least one image must be left to train on.
HELD_OUT = _count("count", MAX_IMAGES - 1, word="none")
RATE_RANGE = f"{MIN_RATE:g} to {MAX_RATE:g}"
RATE = _real("rate", f"a number from {RATE_RANGE}", lambda rate: MIN_RATE <= rate <= MAX_RATE)
FRACTION = _real("fraction", "a number between 0 and 1", lambda part: 0 < part < 1)
SMOOTHING = _real("factor", "a number from 0 to below 1", lambda factor: 0 <= factor < 1)
FACTOR = _real("factor", f"a number above 1, at most {MAX_RATE:g}", lambda factor: 1 < factor <= MAX_RATE, word="none")
PART_OF_GPU = _real("part", "a number above 0, at most 1", lambda part: 0 < part <= 1, word=None)
RATES_EXPECTED = f"numbers from {RATE_RANGE} separated by commas, such as 1e-3,3e-4"
RATES = OrWord("rates", RATES_EXPECTED, functools.partial(_list, RATE.parse))
OWN_RATES = OrWord("rates", f"{RATES_EXPECTED}, the word proposed", _rates_or_proposed)
STEPS = OrWord(
    "steps", f"rising whole numbers from 1 to {MAX_STEPS} separated by commas",
    functools.partial(_list, functools.partial(_whole, 1, MAX_STEPS)),
)  # fmt: skip
DATA_DIR = OrWord("directory", paths.DATA_EXPECTED, _data_dir, word="none")
PLACE = OrWord("directory", "a directory, existing or new", _output_dir, word=None)
HOST = OrWord("host", "a name or an address", _host, word=None)
RAY_ADDRESS = OrWord(
    "address", f"HOST:PORT of a Ray cluster's head, such as 10.0.0.1:6379, the word {LOCAL}", _ray_address, word=AUTO
)
STUDY = OrWord("study", location.expected(), _study, word=None)
VARIANT = OrWord("variant", "the name of one of the study's variants", TypeAdapter(Protocol).validate_python)
SEEDS_EXPECTED = f"at most {MAX_VALUES} whole numbers from 0 to {MAX_SEED}, such as 0,1,2 or 0-4"
SEEDS = OrWord("seeds", SEEDS_EXPECTED, _seeds)
EVERY_SEED = OrWord("seeds", f"{SEEDS_EXPECTED}, the word {PAPER}", _seeds_or_paper, word="all")
UI_URL = OrWord("address", "an address without credentials, such as http://127.0.0.1:5000", _address, word="none")
# A switch that MLflow can pass on.
SWITCH = OrWord("true|false", "true or false", _truth, word=None)
