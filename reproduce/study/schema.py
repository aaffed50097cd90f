"""The study as data: `study.yaml`, read into frozen, validated types. Knows neither torch nor MLflow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from reproduce.errors import shown
from reproduce.study.claim import PROPOSED, PROTOCOLS, AtLeastZero, Claim, Contradiction, Model, Protocol, Text
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
# The way to a value through mappings and lists.
Keys = tuple[int | str, ...]
Fraction = Annotated[float, Field(ge=0, le=1)]
Address = Annotated[str, Field(pattern=r"^https?://[^\s]+$")]


class Publisher(Frozen):
    """The publisher of a paper, and the publisher's own site."""

    name: Text
    url: Address


class Publication(Frozen):
    """A paper as a citation names it. `url` is where it can be read, None where that is nowhere."""

    title: Text
    authors: Annotated[tuple[Text, ...], Field(min_length=1)]
    publisher: Publisher
    year: Count
    url: Address | None

    @property
    def citation(self) -> str:
        """Return the citation in one line: authors, title, publisher, year."""
        return f"{', '.join(self.authors)}, “{self.title}”, {self.publisher.name}, {self.year}"


class Reported(Frozen):
    """The paper's results of one model. Accuracy is a fraction, a mean over test batches; loss an epoch's mean.

    `source` is that of the accuracy; every loss is read off a plot. `said` is the paper's verdict in our words.
    """

    learning_rate: Rate
    test_accuracy: Annotated[AtLeastZero, Field(le=1)]
    train_loss: AtLeastZero
    source: Literal["printed", "plot"]
    said: Text


class Sweep(Frozen):
    """One schedule at several rates, as a figure of the paper shows it; no figure where the paper only mentions it."""

    scheduler: Scheduler
    figure: Text | None
    caption: Text | None = None
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1)]
    reported: tuple[Reported, ...]


class ReportedProposal(Frozen):
    """The rate the paper proposes and the step it reads it at."""

    proposed_learning_rate: Rate
    step: Count


class CurveFigure(Frozen):
    """A figure of the range test: its number in the paper, the words for ours, and the part of the ramp it shows."""

    number: Text
    title: Text
    alt: Text
    caption: Text
    shows: tuple[Fraction, Fraction]


class CurveFigures(Frozen):
    """The figures of the range test: the whole ramp, and its descent."""

    whole: CurveFigure
    zoomed: CurveFigure


class RangeTest(Frozen):
    """The paper's ramp. `smoothing` is the weight of the past in the average that smooths the loss, in [0, 1)."""

    figures: CurveFigures
    lr_start: Rate
    lr_end: Rate
    epochs: Epochs
    smoothing: Annotated[float, Field(ge=0, lt=1)]
    reported: ReportedProposal


class Defaults(Frozen):
    """The values that every trial of the paper has in common."""

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


SCHEDULE: TypeAdapter[Schedule] = TypeAdapter(Schedule)


class Paper(Frozen):
    """`study.yaml`, validated: what a paper trained, reports and claims. `title` is that of a report on it."""

    title: Text
    publication: Publication
    protocol: Defaults
    range_test: RangeTest
    schedules: dict[Protocol, dict[Scheduler, dict[str, object]]]
    sweeps: tuple[Sweep, ...]
    optimizers: Annotated[tuple[Optimizer, ...], Field(min_length=1)]
    grid: Grid
    claims: Annotated[tuple[Claim, ...], Field(min_length=1)]
    contradictions: tuple[Contradiction, ...]

    @property
    def model_count(self) -> int:
        """Return how many models the paper trained, one a schedule and a rate."""
        return sum(len(sweep.learning_rates) for sweep in self.sweeps)

    @property
    def range_test_steps(self) -> int:
        """Return how many steps the paper's range test has."""
        return self.range_test.epochs * math.ceil(self.protocol.train_size / self.protocol.batch_size)

    def sweep(self, scheduler: str) -> Sweep:
        """Return the paper's sweep of that schedule."""
        return next(sweep for sweep in self.sweeps if sweep.scheduler == scheduler)

    def reported(self, trial: Trial) -> Reported | None:
        """Return what the paper reports for that schedule and rate; None where it is silent."""
        rows = self.sweep(trial.schedule.name).reported
        return next((row for row in rows if row.learning_rate == trial.learning_rate), None)


def _disagreements(paper: Paper) -> Iterator[tuple[Keys, str]]:
    """Yield where its parts contradict each other: the keys and positions that lead there, and what is wrong."""
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
    if test.reported.step >= paper.range_test_steps:
        yield ("range_test", "reported", "step"), f"the test has {paper.range_test_steps} steps"
    for name, figure in test.figures:
        if not figure.shows[0] < figure.shows[1]:
            yield ("range_test", "figures", name, "shows"), "must go from low to high"
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
                yield keys + first["loc"][1:], _describe(first)
    yield from _twice([sweep.scheduler for sweep in paper.sweeps], ("sweeps",), "scheduler")
    for scheduler in {*SCHEDULERS} - {sweep.scheduler for sweep in paper.sweeps}:
        yield ("sweeps",), f"there is none of {scheduler}"
    for number, sweep in enumerate(paper.sweeps):
        yield from _twice(sweep.learning_rates, ("sweeps", number, "learning_rates"))
        rates = [row.learning_rate for row in sweep.reported]
        yield from _twice(rates, ("sweeps", number, "reported"), "learning_rate")
        for position in (position for position, rate in enumerate(rates) if rate not in sweep.learning_rates):
            yield ("sweeps", number, "reported", position, "learning_rate"), "is none of the sweep's learning_rates"
    yield from _twice(paper.optimizers, ("optimizers",))
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


def _twice(values: Sequence[object], keys: Keys, *below: str) -> Iterator[tuple[Keys, str]]:
    """Yield the second place of each value that is there twice."""
    for position, value in enumerate(values):
        if value in values[:position]:
            yield (*keys, position, *below), f"{value} is there twice"


@cache
def load_paper(path: Path = PAPER_FILE) -> Paper:
    """Return the study in a file. UserError names the file, the line and the key that is wrong."""
    document = Document(path)
    try:
        paper = Paper.model_validate(document.data)
    except ValidationError as error:
        first = error.errors()[0]
        keys, said = first["loc"], _describe(first)
    else:
        keys, said = next(_disagreements(paper), ((), ""))
        if not said:
            return paper
    where = ".".join(map(str, keys))
    raise document.error(document.line(keys), f"{where}: {said}" if where else said)


def _describe(error: ErrorDetails) -> str:
    """Return what is wrong with a value, and what it is."""
    message = error["msg"].removeprefix("Value error, ")
    return message if error["type"] in ("value_error", "missing") else f"{message}, got {shown(error['input'])}"
