"""What was typed, as two typed objects: what is studied, and where and how it runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import click
from click.core import ParameterSource

from reproduce.cli.option_types import AUTO, PAPER, PROPOSED, OrWord
from reproduce.cli.options import SCHEDULE_PARAMETERS, WITHOUT_EFFECT, list_options
from reproduce.execution.run_options import RunOptions
from reproduce.progress import say
from reproduce.study.config import StudyConfig, option_name
from reproduce.study.schema import load_paper

STUDIED = StudyConfig.model_fields.keys() - {"schedulers", "proposed_rates", "rates_by_seed", "schedule_parameters"}
# Click's values, by the names of the options.
Values = Mapping[str, object]


@dataclass(frozen=True)
class Request:
    """One command as it was typed. `texts` are its options as text, as `mlflow run` records them."""

    command: str
    config: StudyConfig
    options: RunOptions
    texts: Mapping[str, str]

    def with_config(self, **fields: object) -> Request:
        """Return the request with some of its configuration's fields replaced."""
        return replace(self, config=self.config.model_copy(update=fields))


def study_command(group: click.Group, name: str) -> Callable[[Callable[[Request], int]], click.Command]:
    """Return a decorator that makes a command of the group out of a function, with the options of that command."""

    def decorate(function: Callable[[Request], int]) -> click.Command:
        def invoke(**values: object) -> int:
            return function(read_request(name, click.get_current_context(), values))

        command = click.Command(name, callback=invoke, params=list(list_options(name)), help=inspect.getdoc(function))
        group.add_command(command)
        return command

    return decorate


def read_request(command: str, context: click.Context, values: Values) -> Request:
    """Read what click has parsed. Options that have no effect on the command are named, and left out."""
    unused = WITHOUT_EFFECT.get(command, ())
    typed = [option_name(name) for name in unused if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if typed:
        say(f"{', '.join(typed)} {'have' if len(typed) > 1 else 'has'} no effect on {command}, which trains nothing")
    used = {name: value for name, value in values.items() if name not in unused}
    return Request(command, read_config(used), _read_options(used), _as_texts(context.command, used))


def read_config(values: Values) -> StudyConfig:
    """Return what is to be studied; the words paper, auto and proposed leave a field as the study has it."""
    fields = {key: values[key] for key in STUDIED if values.get(key) not in (None, AUTO, PROPOSED)}
    # Where none are named, the seeds of some commands are all that are recorded.
    if values.get("seeds") == PAPER:
        fields["seeds"] = load_paper().protocol.seeds
    if values.get("scheduler", "all") != "all":
        fields["schedulers"] = (values["scheduler"],)
    fields["schedule_parameters"] = {key: values[key] for key in SCHEDULE_PARAMETERS if values.get(key) is not None}
    fields["proposed_rates"] = values.get("learning_rates") == PROPOSED
    return StudyConfig.model_validate(fields)


def _read_options(values: Values) -> RunOptions:
    fields = {key: values[key] for key in RunOptions.model_fields if values.get(key) is not None}
    return RunOptions.model_validate({"smoothing": load_paper().range_test.smoothing} | fields)


def _as_texts(command: click.Command, values: Values) -> dict[str, str]:
    words = {option.name: option.type.word for option in command.params if isinstance(option.type, OrWord)}

    def text(key: str, value: object) -> str:
        if value is None:
            return str(words[key])
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

    return {key: text(key, value) for key, value in values.items()}
