"""What was typed, as two typed objects: what is studied, and where and how it runs."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import click
from click.core import ParameterSource

from reproduce.cli.option_types import AUTO, PAPER, PROPOSED, OrWord
from reproduce.cli.options import WITHOUT_EFFECT, list_options
from reproduce.cli.study_values import SCHEDULE_PARAMETERS
from reproduce.errors import UserError, nearest, shown
from reproduce.execution.run_options import RunOptions
from reproduce.progress import say
from reproduce.study import planning
from reproduce.study.config import StudyConfig, option_name, without_usual
from reproduce.study.loading import load_paper
from reproduce.study.location import DEFAULT, VARIABLE
from reproduce.study.schema import Paper

STUDIED = StudyConfig.model_fields.keys() - {"schedulers", "proposed_rates", "rates_by_seed", "schedule_parameters"}
# Click's values, by the names of the options.
Values = Mapping[str, object]


@dataclass(frozen=True)
class Request:
    """One command as it was typed, and the study that it is about.

    `texts` are its options as text, as `mlflow run` records them.
    """

    command: str
    paper: Paper
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
    used["study"] = used["study"] or context.find_root().obj or os.environ.get(VARIABLE) or DEFAULT
    paper = load_paper(str(used["study"]))
    config = read_config(paper, used)
    return Request(command, paper, config, _read_options(paper, config, used), _as_texts(context.command, used))


def read_config(paper: Paper, values: Values) -> StudyConfig:
    """Return what is to be studied; the words paper, auto and proposed leave a field as the study has it."""
    fields = {key: values[key] for key in STUDIED if values.get(key) not in (None, AUTO, PROPOSED, PAPER)}
    # Where none are named, the seeds of some commands are all that are recorded.
    if values.get("seeds") == PAPER:
        fields["seeds"] = paper.protocol.seeds
    if values.get("scheduler", "all") != "all":
        fields["schedulers"] = (values["scheduler"],)
    fields["schedule_parameters"] = {key: values[key] for key in SCHEDULE_PARAMETERS if values.get(key) is not None}
    fields["proposed_rates"] = values.get("learning_rates") == PROPOSED
    _refuse_unknown("protocol", values.get("protocol"), paper.protocols, (None, PAPER))
    _refuse_unknown("scheduler", values.get("scheduler"), (*paper.every_scheduler, "all"), (None,))
    return without_usual(paper, StudyConfig.model_validate(fields))


def _refuse_unknown(field: str, value: object, known: Sequence[str], words: Sequence[str | None]) -> None:
    """Raise UserError for a name that the study does not have, and that is none of the words for another."""
    if value not in (*words, *known):
        named, expected = str(value), f"expected one of {', '.join(known)}"
        # As click says it of an option whose values are known without a study.
        raise UserError(
            f"Invalid value for '{option_name(field)}': got {shown(named)}, {expected}{nearest(named, known)}"
        )


def _read_options(paper: Paper, config: StudyConfig, values: Values) -> RunOptions:
    fields = {key: values[key] for key in RunOptions.model_fields if values.get(key) is not None}
    own = planning.common_fields(paper, config)
    data = {"dataset": own["dataset"], "data_sha256": own["data_sha256"], "own_network": own["network"] is not None}
    code = {"code": paper.code, "packages": paper.trained_with()}
    return RunOptions.model_validate({"smoothing": paper.range_test.smoothing} | fields | data | code)


def _as_texts(command: click.Command, values: Values) -> dict[str, str]:
    words = {option.name: option.type.word for option in command.params if isinstance(option.type, OrWord)}

    def text(key: str, value: object) -> str:
        if value is None:
            return str(words[key])
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

    return {key: text(key, value) for key, value in values.items()}
