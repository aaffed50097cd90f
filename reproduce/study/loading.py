"""A study from its file: found, read, and checked for parts that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from reproduce.errors import UserError, shown
from reproduce.study import location
from reproduce.study.claim import PROPOSED, Model
from reproduce.study.schema import Paper
from reproduce.study.trial import SIZES, Schedule
from reproduce.study.yaml_lines import Document

# The way to a value through mappings and lists.
Keys = tuple[int | str, ...]
SCHEDULE: TypeAdapter[Schedule] = TypeAdapter(Schedule)


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
            return paper.read_from(path, named)
    where = ".".join(map(str, keys))
    raise document.error(document.line(keys), f"{where}: {said}" if where else said)


def _describe(error: ErrorDetails) -> str:
    """Return what is wrong with a value, and what it is."""
    message = error["msg"].removeprefix("Value error, ")
    return message if error["type"] in ("value_error", "missing") else f"{message}, got {shown(error['input'])}"


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
