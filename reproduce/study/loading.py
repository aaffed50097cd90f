"""A study from its file: found, read, and checked for parts that contradict each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from reproduce.errors import UserError, nearest, shown
from reproduce.study import location
from reproduce.study.claim import PROPOSED, Model
from reproduce.study.fault_words import Keys, describe
from reproduce.study.fields import OPTIMIZER_ARGUMENTS, SIZES, WITH_KERNEL, Arguments
from reproduce.study.own_code import OwnCode, OwnCodeError
from reproduce.study.schedules import BY_NAME, SCHEDULERS, OwnSchedule, Schedule
from reproduce.study.schema import Defaults, Paper
from reproduce.study.yaml_lines import Document

# Where something is wrong, and what.
Fault = tuple[Keys, str]
# Of data of a study's own.
UNSTATED: Fault = (("protocol", "data_sha256"), "is missing: reproduce check-study says what it is")
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
    paper, faults = _parse(document, named)
    if paper is None or faults:
        raise _as_error(document, faults[0])
    return paper


def find_faults(named: str, try_out: Callable[[Paper], Iterable[Fault]]) -> tuple[Paper | None, list[str]]:
    """Return a study, and in one line each all that is wrong with it, by line and column of its file.

    UserError where there is no such study, or its file is no YAML.

    Args:
        named: What names the study.
        try_out: Yields further faults of a study whose file is right.
    """
    try:
        path = location.find(named)
    except location.NoStudyError as error:
        raise UserError(f"the study is {shown(named)}, {error}; expected {location.expected()}") from error
    document = Document(path)
    paper, faults = _parse(document, named)
    # Which hash it is shows where the data is tried.
    if paper is not None and not set(faults) - {UNSTATED}:
        faults = list(try_out(paper))
    return paper, [str(_as_error(document, fault)) for fault in faults]


def _as_error(document: Document, fault: Fault) -> UserError:
    keys, said = fault
    where = ".".join(map(str, keys))
    return document.error(document.place(keys), f"{where}: {said}" if where else said)


def _parse(document: Document, named: str) -> tuple[Paper | None, list[Fault]]:
    """Return the study in a file, None where its parts are not of the right kinds, and all that is wrong with it."""
    try:
        paper = Paper.model_validate(document.data)
    except ValidationError as error:
        return None, describe(Paper, document.data, error.errors())
    faults = list(_code_faults(paper, document.path, named))
    return paper, faults or list(_disagreements(paper))


def _code_faults(paper: Paper, path: Path, named: str) -> Iterator[Fault]:
    """Read the study's own Python beside its file; yield what is wrong with it, and where the file names it."""
    paper.read_from(path, named, OwnCode())
    faults, references = False, list(paper.references())
    for keys, reference in references:
        try:
            OwnCode.read(path.parent, [reference])
        except OwnCodeError as error:
            faults = True
            yield keys, str(error)
    if not faults:
        paper.read_from(path, named, OwnCode.read(path.parent, (reference for _, reference in references)))


def _disagreements(paper: Paper) -> Iterator[Fault]:
    """Yield where its parts contradict each other: the keys and positions that lead there, and what is wrong."""
    protocol, test, grid = paper.protocol, paper.range_test, paper.grid
    yield from _twice(protocol.seeds, ("protocol", "seeds"))
    if protocol.train_size > SIZES.get(protocol.dataset, protocol.train_size):
        yield ("protocol", "train_size"), f"there are {SIZES[protocol.dataset]} images"
    if protocol.data_sha256 is None and ":" in protocol.dataset:
        yield UNSTATED
    if protocol.data_sha256 is not None and ":" not in protocol.dataset:
        yield ("protocol", "data_sha256"), f"is of no use: the files of {protocol.dataset} have hashes of their own"
    if protocol.network is None and protocol.dataset not in WITH_KERNEL:
        yield ("protocol", "network"), f"is missing; only {' and '.join(WITH_KERNEL)} have one that is built in"
    if protocol.network is None and protocol.preparation is not None:
        yield ("protocol", "preparation"), "is of no use without a network of your own"
    yield from _argument_disagreements(protocol, protocol.optimizer_arguments, ("protocol",))
    for variant, own in paper.variants.items():
        if variant not in paper.protocols:
            yield ("variants", variant), f"there is no such variant, expected one of {', '.join(paper.protocols)}"
        yield from _argument_disagreements(protocol, own.optimizer_arguments, ("variants", variant))
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
        for scheduler in (sweep.scheduler for sweep in paper.sweeps):
            if scheduler not in stated and scheduler != "none":
                yield ("schedules", variant, scheduler), "is missing"
        for scheduler, parameters in stated.items():
            keys = ("schedules", variant, scheduler)
            if scheduler not in SCHEDULERS and "code" not in parameters:
                named = f"one of {', '.join(SCHEDULERS)}, or a name of your own with code: FILE.py:NAME"
                yield keys, f"there is no such schedule; expected {named}{nearest(scheduler, SCHEDULERS)}"
                continue
            try:
                SCHEDULE.validate_python(paper.schedule(scheduler, parameters))
            except ValidationError as error:
                kind = BY_NAME.get(scheduler, OwnSchedule)
                yield from ((keys + below, said) for below, said in describe(kind, parameters, error.errors()))
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


def _argument_disagreements(protocol: Defaults, arguments: Arguments, keys: Keys) -> Iterator[Fault]:
    """Yield which arguments the study's optimizer does not take."""
    allowed = OPTIMIZER_ARGUMENTS[protocol.optimizer]
    for key, _ in arguments:
        if key not in allowed:
            expected = f"expected one of {', '.join(allowed)}{nearest(key, allowed)}"
            yield (*keys, "optimizer_arguments", key), f"{protocol.optimizer} has no such argument, {expected}"


def _model_disagreements(paper: Paper, model: object, keys: Keys) -> Iterator[Fault]:
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


def _twice(values: Sequence[object], keys: Keys, *below: str) -> Iterator[Fault]:
    """Yield the second place of each value that is there twice."""
    for position, value in enumerate(values):
        if value in values[:position]:
            yield (*keys, position, *below), f"{value} is there twice"
