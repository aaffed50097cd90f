"""The study as data: `study.yaml`, read into frozen, validated types. Knows neither torch nor MLflow."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from reproduce.errors import UserError, shown
from reproduce.study import location
from reproduce.study.claim import PROPOSED, AtLeastZero, Claim, Contradiction, Model, Protocol, Text
from reproduce.study.trial import (
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
    publisher: Publisher | None = None
    year: Count
    url: Address | None = None

    @property
    def citation(self) -> str:
        """Return the citation in one line: authors, title, publisher if there is one, year."""
        publisher = [self.publisher.name] if self.publisher else []
        return ", ".join([*self.authors, f"“{self.title}”", *publisher, str(self.year)])


class Reported(Frozen):
    """The paper's results of one model. Accuracy is a fraction, a mean over test batches; loss an epoch's mean.

    `source` is that of the accuracy; every loss is read off a plot. `said` is the paper's verdict in our words. Loss
    and verdict are None where the paper has none.
    """

    learning_rate: Rate
    test_accuracy: Annotated[AtLeastZero, Field(le=1)]
    train_loss: AtLeastZero | None = None
    source: Literal["printed", "plot"] = "printed"
    said: Text | None = None


class Sweep(Frozen):
    """One schedule at several rates, as a figure of the paper shows it; no figure where the paper only mentions it."""

    scheduler: Scheduler
    figure: Text | None = None
    caption: Text | None = None
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1)]
    reported: tuple[Reported, ...] = ()


class ReportedProposal(Frozen):
    """The rate the paper proposes and the step it reads it at."""

    proposed_learning_rate: Rate
    step: Count


class CurveFigure(Frozen):
    """A figure of the range test: its number in the paper, the words for ours, and the part of the ramp it shows.

    The number is None where the paper has no such figure.
    """

    number: Text | None = None
    title: Text
    alt: Text
    caption: Text
    shows: tuple[Fraction, Fraction]


class CurveFigures(Frozen):
    """The figures of the range test: the whole ramp, and its descent."""

    whole: CurveFigure
    zoomed: CurveFigure | None = None

    def by_key(self) -> dict[str, CurveFigure]:
        """Return those that there are, by `whole` and `zoomed`."""
        return {"whole": self.whole} | ({"zoomed": self.zoomed} if self.zoomed else {})


WHOLE_RAMP = CurveFigure(
    title="the range test",
    alt="Loss against step and rate, linear up to 2.5 and logarithmic above, with the proposed rates marked.",
    caption="The whole ramp. The loss axis is linear up to 2.5 and logarithmic above.",
    shows=(0, 1),
)


class RangeTest(Frozen):
    """The paper's ramp. `smoothing` is the weight of the past in the average that smooths the loss, in [0, 1).

    A study that says nothing of one has the first study's, which only the commands for range test and grid train.
    """

    figures: CurveFigures = CurveFigures(whole=WHOLE_RAMP)
    lr_start: Rate = 1e-6
    lr_end: Rate = 1.0
    epochs: Epochs = 5
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.98
    reported: ReportedProposal | None = None


class Defaults(Frozen):
    """The values that every trial of the paper has in common."""

    dataset: Dataset
    train_size: Count
    optimizer: Optimizer
    epochs: Epochs
    batch_size: Count
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]


HALF_DECADES = (1e-6, 3.16e-6, 1e-5, 3.16e-5, 1e-4, 3.16e-4, 1e-3, 3.16e-3, 0.01, 0.0316, 0.1)


class Grid(Frozen):
    """The fixed rates that a proposal is compared with, and after how many epochs."""

    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=2)] = HALF_DECADES
    epochs_compared: Annotated[tuple[Epochs, ...], Field(min_length=1)] = (1, 5, 30)


SCHEDULE: TypeAdapter[Schedule] = TypeAdapter(Schedule)


class Paper(Frozen):
    """`study.yaml`, validated: what a paper trained, reports and claims. `title` is that of a report on it."""

    title: Text
    publication: Publication
    protocol: Defaults
    range_test: RangeTest = RangeTest()
    schedules: dict[Protocol, dict[Scheduler, dict[str, object]]] = Field({"as-stated": {}}, min_length=1)
    sweeps: Annotated[tuple[Sweep, ...], Field(min_length=1)]
    optimizers: tuple[Optimizer, ...] = ()
    grid: Grid = Grid()
    claims: tuple[Claim, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()
    # Where it was read from, and the text that named it.
    _file: Path = PrivateAttr()
    _named: str = PrivateAttr()

    @property
    def file(self) -> Path:
        """Return the study.yaml that this was read from."""
        return self._file

    @property
    def named(self) -> str:
        """Return what names the study: the name of one that is shipped, or a path."""
        return self._named

    @property
    def is_shipped(self) -> bool:
        """Return whether the study is part of the package."""
        return self._named in location.shipped()

    @property
    def option(self) -> str | None:
        """Return what to type to choose the study, `--study FOLDER`; None for the default."""
        return None if self._named == location.DEFAULT else f"--study {shlex.quote(self._named)}"

    @property
    def slug(self) -> str:
        """Return the study's name for an experiment: that of its folder."""
        return self._file.resolve().parent.name.replace("_", "-")

    @property
    def model_count(self) -> int:
        """Return how many models the paper trained, one a schedule and a rate."""
        return sum(len(sweep.learning_rates) for sweep in self.sweeps)

    @property
    def range_test_steps(self) -> int:
        """Return how many steps the paper's range test has."""
        return self.range_test.epochs * math.ceil(self.protocol.train_size / self.protocol.batch_size)

    @property
    def has_range_test(self) -> bool:
        """Return whether a range test is part of the study."""
        return "range_test" in self.model_fields_set

    @property
    def smoothing(self) -> float:
        """Return the weight of the past in the average that smooths a range test's loss, in [0, 1)."""
        return self.range_test.smoothing

    @property
    def schedulers(self) -> tuple[Scheduler, ...]:
        """Return the schedules that the study trains with, in its order."""
        return tuple(sweep.scheduler for sweep in self.sweeps)

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """Return the variants of the schedules, the usual one first."""
        return tuple(self.schedules)

    def sweep(self, scheduler: str) -> Sweep | None:
        """Return the paper's sweep of that schedule; None where it has none."""
        return next((sweep for sweep in self.sweeps if sweep.scheduler == scheduler), None)

    def figure(self, scheduler: str) -> str | None:
        """Return the number of the paper's figure of that schedule; None where it has none."""
        sweep = self.sweep(scheduler)
        return sweep.figure if sweep else None

    def reported(self, trial: Trial) -> Reported | None:
        """Return what the paper reports for that schedule and rate; None where it is silent."""
        sweep = self.sweep(trial.schedule.name)
        rows = sweep.reported if sweep else ()
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
    if test.reported and not test.lr_start <= test.reported.proposed_learning_rate <= test.lr_end:
        yield ("range_test", "reported", "proposed_learning_rate"), "must be from lr_start to lr_end"
    if test.reported and test.reported.step >= paper.range_test_steps:
        yield ("range_test", "reported", "step"), f"the test has {paper.range_test_steps} steps"
    for name, figure in test.figures.by_key().items():
        if not figure.shows[0] < figure.shows[1]:
            yield ("range_test", "figures", name, "shows"), "must go from low to high"
    for variant, stated in paper.schedules.items():
        for scheduler in paper.schedulers:
            if scheduler not in stated and scheduler != "none":
                yield ("schedules", variant, scheduler), "is missing"
        for scheduler, parameters in stated.items():
            keys = ("schedules", variant, scheduler)
            try:
                SCHEDULE.validate_python({**parameters, "name": scheduler})
            except ValidationError as error:
                first = error.errors()[0]
                yield keys + first["loc"][1:], _describe(first)
    yield from _twice([sweep.scheduler for sweep in paper.sweeps], ("sweeps",), "scheduler")
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
    if "grid" in paper.model_fields_set and max(grid.epochs_compared) > protocol.epochs:
        yield ("grid", "epochs_compared"), f"must not be after the {protocol.epochs} epochs that are trained"
    yield from _twice([claim.id for claim in paper.claims], ("claims",), "id")
    for number, claim in enumerate(paper.claims):
        for term, model in (("of", claim.measure.of), ("minus", claim.measure.minus)):
            yield from _model_disagreements(paper, model, ("claims", number, "measure", term))
    known = {claim.id for claim in paper.claims}
    for number, contradiction in enumerate(paper.contradictions):
        for position, name in enumerate(contradiction.claims):
            if name not in known:
                yield ("contradictions", number, "claims", position), f"there is no claim {name}"


def _model_disagreements(paper: Paper, model: object, keys: Keys) -> Iterator[tuple[Keys, str]]:
    """Yield why a claim's model is none of the study's."""
    if not isinstance(model, Model):
        return
    if model.protocol not in (None, *paper.protocols):
        yield (*keys, "protocol"), f"there is no such protocol, expected one of {', '.join(paper.protocols)}"
    if model.learning_rate == PROPOSED:
        return
    sweep = paper.sweep(model.scheduler)
    if sweep is None:
        yield (*keys, "scheduler"), f"there is no sweep of {model.scheduler}"
    elif model.learning_rate not in sweep.learning_rates:
        yield (*keys, "learning_rate"), f"is in no sweep of {model.scheduler}"


def _twice(values: Sequence[object], keys: Keys, *below: str) -> Iterator[tuple[Keys, str]]:
    """Yield the second place of each value that is there twice."""
    for position, value in enumerate(values):
        if value in values[:position]:
            yield (*keys, position, *below), f"{value} is there twice"


def load_paper(named: str = location.DEFAULT, copy: Path | None = None) -> Paper:
    """Return the study that a text names, as `location.find` does; from a copy of its file, where there is one.

    UserError where there is none; where something in its file is wrong, it names the file, the line and the key.
    """
    if copy is None and named in location.shipped():
        return _load_shipped(named)
    try:
        return _read(copy or location.find(named), named)
    except location.NoStudyError as error:
        raise UserError(f"the study is {shown(named)}, {error}; expected {location.expected()}") from error


@cache
def _load_shipped(name: str) -> Paper:
    return _read(location.find(name), name)


def _read(path: Path, named: str) -> Paper:
    document = Document(path)
    try:
        paper = Paper.model_validate(document.data)
    except ValidationError as error:
        first = error.errors()[0]
        keys, said = first["loc"], _describe(first)
    else:
        keys, said = next(_disagreements(paper), ((), ""))
        if not said:
            paper._file, paper._named = path, named
            return paper
    where = ".".join(map(str, keys))
    raise document.error(document.line(keys), f"{where}: {said}" if where else said)


def _describe(error: ErrorDetails) -> str:
    """Return what is wrong with a value, and what it is."""
    message = error["msg"].removeprefix("Value error, ")
    return message if error["type"] in ("value_error", "missing") else f"{message}, got {shown(error['input'])}"
