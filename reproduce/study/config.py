"""What a user requests of a study, and the options that a user types for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import Field

from reproduce.study.claim import Protocol
from reproduce.study.fields import Count, Dataset, Engine, Epochs, Frozen, Optimizer, Rate, Seed
from reproduce.study.schedules import Scheduler
from reproduce.study.schema import Paper


class StudyConfig(Frozen):
    """A user's request; None is the paper's value. Schedule parameters are set only for the schedules that have them.

    `proposed_rates` requests the rates that each seed's range test proposes; once known, they are `rates_by_seed`.
    The engine depends on the machine. All engines compute the same within rounding, so none departs from the paper.
    """

    dataset: Dataset | None = None
    optimizer: Optimizer | None = None
    epochs: Epochs | None = None
    batch_size: Count | None = None
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    train_size: Count | None = None
    engine: Engine = "torch"
    protocol: Protocol | None = None
    schedulers: Annotated[tuple[Scheduler, ...], Field(min_length=1)] | None = None
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1)] | None = None
    # Of what was recorded the rates are known.
    proposed_rates: bool = Field(default=False, exclude=True)
    rates_by_seed: dict[Seed, tuple[Rate, ...]] | None = None
    schedule_parameters: dict[str, int | float | tuple[int, ...]] = Field(default_factory=dict)
    lr_start: Rate | None = None
    lr_end: Rate | None = None
    range_test_epochs: Epochs | None = None
    validation_size: Count | None = None
    validation_interval: Count | None = None
    stop_factor: Rate | None = None

    @property
    def only_scheduler(self) -> Scheduler | None:
        """Return the schedule, where one alone is requested."""
        return self.schedulers[0] if self.schedulers and len(self.schedulers) == 1 else None


def without_usual(paper: Paper, config: StudyConfig) -> StudyConfig:
    """Return the configuration with None for the schedules and the protocol that are the paper's own."""
    usual = {"schedulers": paper.schedulers, "protocol": paper.protocols[0]}
    return config.model_copy(update={key: None for key, value in usual.items() if getattr(config, key) == value})


def are_own_epochs(paper: Paper, config: StudyConfig) -> bool:
    """Return whether each schedule of the configuration is trained for as long as the study trains it."""
    return config.epochs is None or paper.lengths(config.schedulers) == (config.epochs,)


def join_words(values: Iterable[object]) -> str:
    """Return values as a choice: 12, 25 or 85."""
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}" if first else last


def describe_lengths(lengths: Sequence[int]) -> str:
    """Return lengths of training as words: 1 epoch, 30 epochs, 12, 25 or 85 epochs."""
    return f"{join_words(lengths)} epoch{'s' * (tuple(lengths) != (1,))}"


def option_name(field: str) -> str:
    """Return the option of a field: `--train-size` of `train_size`."""
    return "--" + field.replace("_", "-")


def option_words(paper: Paper, config: StudyConfig) -> list[str]:
    """Return what a user types for the configuration, as `--epochs 1`, except the engine and what is the paper's."""
    own = {"engine", "schedulers", "rates_by_seed", "schedule_parameters"}
    fields = config.model_dump(exclude_defaults=True, exclude=own)
    usual = dict(paper.protocol) | {"epochs": config.epochs if are_own_epochs(paper, config) else None}
    found = {key: value for key, value in fields.items() if value != usual.get(key)}
    if config.only_scheduler:
        found["scheduler"] = config.only_scheduler
    if config.rates_by_seed or config.proposed_rates:
        found["learning_rates"] = "proposed"
    if config.seeds and "seeds" in found:
        found["seeds"] = seed_spans(config.seeds)
    return [
        f"{option_name(key)} {','.join(map(str, value)) if isinstance(value, (tuple, list)) else value}"
        for key, value in (found | config.schedule_parameters).items()
    ]


def seed_spans(seeds: Iterable[int]) -> str:
    """Return seeds as they are typed, three or more in a row as a span: 0-4,7,9."""
    spans: list[list[int]] = []
    for seed in seeds:
        if spans and seed == spans[-1][-1] + 1:
            spans[-1].append(seed)
        else:
            spans.append([seed])
    return ",".join(f"{span[0]}-{span[-1]}" if len(span) > 2 else ",".join(map(str, span)) for span in spans)


def command_line(name: str, paper: Paper, config: StudyConfig, smoothing: float) -> str:
    """Return what a user types for a command with exactly this configuration.

    Args:
        name: `report`, `verify` or `main`.
        paper: The study, whose own values need no option.
        config: The configuration.
        smoothing: The weight of the past in the average that smooths the loss.
    """
    # The engine fused needs no option, because auto chooses it.
    options = option_words(paper, config) + ["--engine torch"] * (config.engine == "torch")
    own_smoothing = [f"--smoothing {smoothing}"] if smoothing != paper.range_test.smoothing else []
    return " ".join([paper.command(name), *options, *own_smoothing])
