"""The study as data: the frozen, validated types of `study.yaml`. Knows neither torch nor MLflow."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from reproduce.study import location
from reproduce.study.claim import AtLeastZero, Claim, Contradiction, Protocol, Text
from reproduce.study.fields import (
    Arguments,
    Code,
    Count,
    Dataset,
    Epochs,
    Frozen,
    Optimizer,
    Preparation,
    Rate,
    Reference,
    Seed,
    Sha256,
)
from reproduce.study.own_code import REFERENCE, OwnCode
from reproduce.study.range_test import RangeTest
from reproduce.study.schedules import SCHEDULERS, OwnSchedule, Scheduler
from reproduce.study.trial import Trial

# What the rounding of a printed mean may come to.
MEAN_ROUNDING = 6e-5
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
    and verdict are None where the paper has none. `runs` are the accuracies that the printed one is the mean of, where
    they are known.
    """

    learning_rate: Rate
    test_accuracy: Annotated[AtLeastZero, Field(le=1)]
    train_loss: AtLeastZero | None = None
    source: Literal["printed", "plot"] = "printed"
    said: Text | None = None
    runs: tuple[Annotated[AtLeastZero, Field(le=1)], ...] = ()

    @model_validator(mode="after")
    def _is_their_mean(self) -> Reported:
        if self.runs and abs(fmean(self.runs) - self.test_accuracy) > MEAN_ROUNDING:
            raise ValueError(f"test_accuracy is not the mean of its runs, {fmean(self.runs):.6g}")
        return self


class Sweep(Frozen):
    """One schedule at several rates, as a figure of the paper shows it; no figure where the paper only mentions it.

    `epochs` are those of the protocol unless it has its own. One that is `on_demand` is trained only where its schedule
    is requested.
    """

    scheduler: Scheduler
    epochs: Epochs | None = None
    on_demand: bool = False
    figure: Text | None = None
    caption: Text | None = None
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1)]
    reported: tuple[Reported, ...] = ()


class Part(Frozen):
    """A class or function of the study's own, and its arguments; in the file its name alone may stand for both."""

    code: Reference
    arguments: Arguments = ()


def _as_part(value: object) -> object:
    return {"code": value} if isinstance(value, str) else value


OwnPart = Annotated[Part, BeforeValidator(_as_part)]


class Defaults(Frozen):
    """The values that every trial of the paper has in common.

    A data set of the study's own is a function, with the SHA-256 of the arrays that it returns. Without a network it is
    the one that the package has a kernel for.
    """

    dataset: Dataset
    data_sha256: Sha256 | None = None
    preparation: Preparation | None = None
    train_size: Count
    network: OwnPart | None = None
    loss: Literal["cross_entropy", "mse"] | OwnPart = "cross_entropy"
    optimizer: Optimizer
    optimizer_arguments: Arguments = ()
    epochs: Epochs
    batch_size: Count
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]


HALF_DECADES = (1e-6, 3.16e-6, 1e-5, 3.16e-5, 1e-4, 3.16e-4, 1e-3, 3.16e-3, 0.01, 0.0316, 0.1)


class Grid(Frozen):
    """The fixed rates that a proposal is compared with, and after how many epochs."""

    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=2)] = HALF_DECADES
    epochs_compared: Annotated[tuple[Epochs, ...], Field(min_length=1)] = (1, 5, 30)


class Variant(Frozen):
    """How a variant of the study differs beside its schedules."""

    optimizer_arguments: Arguments = ()


class Paper(Frozen):
    """`study.yaml`, validated: what a paper trained, reports and claims. `title` is that of a report on it."""

    title: Text
    publication: Publication
    protocol: Defaults
    range_test: RangeTest = RangeTest()
    schedules: dict[Protocol, dict[Scheduler, dict[str, object]]] = Field({"as-stated": {}}, min_length=1)
    variants: dict[Protocol, Variant] = Field(default_factory=dict)
    sweeps: Annotated[tuple[Sweep, ...], Field(min_length=1)]
    optimizers: tuple[Optimizer, ...] = ()
    grid: Grid = Grid()
    claims: tuple[Claim, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()
    # Where it was read from, the text that named it, and the study's own Python.
    _file: Path = PrivateAttr()
    _named: str = PrivateAttr()
    _code: OwnCode = PrivateAttr(default_factory=OwnCode)

    def read_from(self, file: Path, named: str, code: OwnCode) -> Paper:
        """Note the file that this was read from, what named it, and its own Python, and return this."""
        self._file, self._named, self._code = file, named, code
        return self

    @property
    def code(self) -> OwnCode:
        """Return the study's own Python."""
        return self._code

    def references(self) -> Iterator[tuple[tuple[int | str, ...], str]]:
        """Yield where the file names a class or function of the study's own, as keys, and its name."""
        protocol = self.protocol
        if ":" in protocol.dataset:
            yield ("protocol", "dataset"), protocol.dataset
        for key in ("network", "loss"):
            if isinstance(part := getattr(protocol, key), Part):
                yield ("protocol", key), part.code
        for variant, stated in self.schedules.items():
            for name, parameters in stated.items():
                # Whatever else stands there is told as no reference, and no file is looked for.
                if isinstance(code := parameters.get("code"), str) and re.search(REFERENCE, code):
                    yield ("schedules", variant, name, "code"), code
        for number, claim in enumerate(self.claims):
            if claim.measure.is_own:
                yield ("claims", number, "measure", "kind"), claim.measure.kind

    def trained_with(self) -> tuple[str, ...]:
        """Return the packages that its own network, loss and schedules import, by their names in Python."""
        named = [reference for keys, reference in self.references() if keys[0] != "claims" and keys[1] != "dataset"]
        return tuple(sorted(self._code.packages(named)))

    def schedule(self, scheduler: Scheduler, parameters: Mapping[str, object]) -> dict[str, Any]:
        """Return a schedule as a trial has it: of its own code, the function's arguments and its hash too."""
        if scheduler in SCHEDULERS:
            return {"name": scheduler, **parameters}
        arguments = {key: value for key, value in parameters.items() if key != "code"}
        part = Part.model_validate({"code": parameters.get("code"), "arguments": arguments})
        return OwnSchedule(name=scheduler, **dict(self._with_hash(part))).model_dump()

    @property
    def network(self) -> Code | None:
        """Return the study's own network, with the hash of its code; None where it has none."""
        return None if self.protocol.network is None else self._with_hash(self.protocol.network)

    @property
    def loss(self) -> str | Code:
        """Return the name of the loss, or the study's own with the hash of its code."""
        loss = self.protocol.loss
        return self._with_hash(loss) if isinstance(loss, Part) else loss

    def _with_hash(self, part: Part) -> Code:
        return Code(code=part.code, arguments=part.arguments, sha256=self._code.sha256(part.code))

    @property
    def file(self) -> Path:
        """Return the study.yaml that this was read from."""
        return self._file

    @property
    def named(self) -> str:
        """Return what names the study: the name of one that is shipped, or a path."""
        return self._named

    def command(self, name: str) -> str:
        """Return what to type for that command on this study, without further options."""
        study = "" if self._named == location.DEFAULT else f" --study {shlex.quote(self._named)}"
        return f"reproduce {name}{study}"

    @property
    def slug(self) -> str:
        """Return the study's name for an experiment: that of its folder."""
        return self._file.resolve().parent.name.replace("_", "-")

    @property
    def model_count(self) -> int:
        """Return how many models the study trains unless asked for more, one a schedule and a rate."""
        return sum(len(sweep.learning_rates) for sweep in self.sweeps if not sweep.on_demand)

    @property
    def range_test_steps(self) -> int:
        """Return how many steps the paper's range test has."""
        return self.range_test.epochs * math.ceil(self.protocol.train_size / self.protocol.batch_size)

    @property
    def has_range_test(self) -> bool:
        """Return whether a range test is part of the study."""
        return "range_test" in self.model_fields_set

    @property
    def schedulers(self) -> tuple[Scheduler, ...]:
        """Return the schedules that the study trains with unless asked for more, in its order."""
        return tuple(sweep.scheduler for sweep in self.sweeps if not sweep.on_demand)

    @property
    def every_scheduler(self) -> tuple[Scheduler, ...]:
        """Return the schedules that can be trained with, those of the sweeps first, and the constant rate."""
        swept = (sweep.scheduler for sweep in self.sweeps)
        stated = (name for schedules in self.schedules.values() for name in schedules)
        return tuple(dict.fromkeys((*swept, *stated, "none")))

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """Return the variants of the schedules, the usual one first."""
        return tuple(self.schedules)

    def sweep(self, scheduler: str) -> Sweep | None:
        """Return the paper's sweep of that schedule; None where it has none."""
        return next((sweep for sweep in self.sweeps if sweep.scheduler == scheduler), None)

    def epochs(self, scheduler: str) -> int:
        """Return for how many epochs the study trains a schedule."""
        sweep = self.sweep(scheduler)
        return (sweep.epochs if sweep else None) or self.protocol.epochs

    def lengths(self, schedulers: Iterable[str] | None = None) -> tuple[int, ...]:
        """Return for how many epochs the study trains these schedules, by default those of `main`, each length once."""
        return tuple(sorted({self.epochs(scheduler) for scheduler in schedulers or self.schedulers}))

    def optimizer_arguments(self, variant: Protocol) -> Arguments:
        """Return the optimizer's arguments in a variant."""
        own = self.variants.get(variant)
        is_own = own is not None and "optimizer_arguments" in own.model_fields_set
        return own.optimizer_arguments if own is not None and is_own else self.protocol.optimizer_arguments

    def figure(self, scheduler: str) -> str | None:
        """Return the number of the paper's figure of that schedule; None where it has none."""
        sweep = self.sweep(scheduler)
        return sweep.figure if sweep else None

    def reported(self, trial: Trial) -> Reported | None:
        """Return what the paper reports for that schedule and rate; None where it is silent."""
        sweep = self.sweep(trial.schedule.name)
        rows = sweep.reported if sweep else ()
        return next((row for row in rows if row.learning_rate == trial.learning_rate), None)
