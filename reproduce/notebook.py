"""A study from Python, for notebooks: run it or a part of it, and get its runs as frames and its verdicts as a table.

Everything goes through the same code as the command line, whose options are the named arguments here:
`study.run("sweep", scheduler="step", seeds=[0, 1])` is `reproduce sweep --scheduler step --seeds 0,1`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click
import pandas as pd

from reproduce.cli import main as commands
from reproduce.cli import reading, run_command
from reproduce.cli.options import COMMANDS
from reproduce.cli.request import Request, read_request
from reproduce.errors import UserError
from reproduce.study import location
from reproduce.study.loading import load_paper

if TYPE_CHECKING:
    from reproduce.analysis.claims import Judgement
    from reproduce.results.run_collection import RunCollection
    from reproduce.study.schema import Paper

Option = str | bool | float | Sequence[str | float]
# The columns of a trial in every frame.
WHICH = ["optimizer", "scheduler", "learning_rate", "seed"]


class Study:
    """A study and its runs in the tracking store. `named` is a shipped study's name, or the path of a folder.

    UserError where there is none, or something in its file is wrong.
    """

    def __init__(self, named: str = location.DEFAULT) -> None:
        self.named = named
        self.paper: Paper = load_paper(named)

    def __repr__(self) -> str:
        return f"Study({self.named!r})"

    def run(self, command: str = "main", **options: Option) -> None:
        """Run a command: `main`, `range_test`, `sweep` or `grid`.

        UserError for a wrong option, before anything is trained; TrialsFailedError where a trial failed.
        """
        context = self._context(command, options)
        with context:
            context.command.invoke(context)

    def trials(self, **options: Option) -> pd.DataFrame:
        """Return the models that the options choose, a row each, with their final values, or missing."""
        from reproduce.report.report_data import collect_report_data

        return pd.DataFrame([row.values() for row in collect_report_data(self._collection(options)).rows])

    def curves(self, **options: Option) -> pd.DataFrame:
        """Return what the models recorded, a row an epoch. Models without a run are left out."""
        from reproduce.report.report_data import collect_report_data

        rows = [row for row in collect_report_data(self._collection(options)).rows if row.result]
        frames = [
            pd.DataFrame(row.result.epochs).assign(**{key: row.values()[key] for key in WHICH})
            for row in rows
            if row.result
        ]
        if not frames:
            return pd.DataFrame(columns=[*WHICH, "epoch"])
        joined = pd.concat([frame.assign(epoch=range(1, len(frame) + 1)) for frame in frames], ignore_index=True)
        return joined[[*WHICH, "epoch", *(name for name in joined if name not in (*WHICH, "epoch"))]]

    def range_tests(self, **options: Option) -> pd.DataFrame:
        """Return the range tests that the options choose, a row a step: rate, loss and smoothed loss."""
        from reproduce.analysis.lr_range_test import curve_rows
        from reproduce.report.report_data import collect_report_data

        collection = self._collection(options)
        rows = [
            [seed, step, *values]
            for seed, curve in collect_report_data(collection).curves.items()
            for step, values in enumerate(curve_rows(curve, collection.smoothing))
        ]
        return pd.DataFrame(rows, columns=["seed", "step", "learning_rate", "loss", "smoothed_loss"])

    def verdicts(self, **options: Option) -> Verdicts:
        """Return the verdicts on the claims, or on those about the trials that the options choose."""
        return Verdicts(reading.judge(self._request("verify", options)).judgements)

    def _collection(self, options: Mapping[str, Option]) -> RunCollection:
        request = self._request("report", options)
        return reading.collect_recorded(run_command.open_store(request), request)

    def _request(self, command: str, options: Mapping[str, Option]) -> Request:
        context = self._context(command, options)
        with context:
            return read_request(command, context, context.params)

    def _context(self, command: str, options: Mapping[str, Option]) -> click.Context:
        """Return the command with these options as if they were typed. UserError for a wrong one."""
        found = commands.cli.commands.get(command)
        if found is None or command not in COMMANDS:
            raise UserError(f"there is no command {command!r}, expected one of {', '.join(COMMANDS)}")
        words = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", _text(value))]
        try:
            return found.make_context(command, [*words, "--study", self.named])
        except click.UsageError as error:
            raise UserError(error.format_message()) from error


class Verdicts(Sequence["Judgement"]):
    """The verdicts on a study's claims, which a notebook shows as a table."""

    def __init__(self, judgements: Sequence[Judgement]) -> None:
        self._judgements = list(judgements)

    def __len__(self) -> int:
        return len(self._judgements)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        """Return one verdict, or some of them."""
        return self._judgements[index] if isinstance(index, int) else Verdicts(self._judgements[index])

    def __iter__(self) -> Iterator[Judgement]:
        return iter(self._judgements)

    def frame(self) -> pd.DataFrame:
        """Return a row for each claim."""
        from reproduce.results import verdicts

        rows = [
            [found.claim.id, found.claim.says, verdicts.paper_value(found.claim), verdicts.our_value(found),
             found.verdict, found.rule]
            for found in self
        ]  # fmt: skip
        columns = ["claim", "says", "its value", "ours", "verdict", "rule"]
        return pd.DataFrame(rows, columns=columns).set_index("claim")

    def __repr__(self) -> str:
        return "\n".join(f"{found.claim.id}: {found.verdict}" for found in self)

    def _repr_html_(self) -> str:
        """Return the table, in which no text of a claim is markup."""
        with pd.option_context("display.max_colwidth", None):
            return str(self.frame().to_html())


def _text(value: Option) -> str:
    """Return a value as it is typed."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else ",".join(map(str, value)) if isinstance(value, Sequence) else str(value)
