"""The report: tables, figures, verdicts and a page, from recorded runs alone. Needs no GPU, no data and no checkpoint.

The same runs give the same bytes: what is written depends on the runs and on nothing else. They are written beside it,
so that `check` can make it again from them.
"""

import fcntl
import json
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from reproduce.analysis.lr_range_test import PAPERS_RULE
from reproduce.errors import UserError
from reproduce.progress import say
from reproduce.report import conclusion_figure, crate, figures, markdown, tables
from reproduce.report.report_data import ReportData, gather
from reproduce.results import archive, comparisons, verdicts
from reproduce.results.archive import Archive
from reproduce.results.run_collection import RunCollection
from reproduce.study import planning
from reproduce.study.config import command_line
from reproduce.study.schema import load_paper
from reproduce.tracking.reader import Result

PAGES = (
    "index.html", "report.md", "claims.json", "summary.csv", "summary.md", "summary.json", "range-test.csv",
    "environment.json", archive.NAME, crate.METADATA,
)  # fmt: skip
FIGURE_FORMATS = ("svg", "png")
LOCK_SECONDS = 300  # to wait for another command that writes a report to the same place
WRITING = ".writing"  # the folder in which the next report is put together
CHANGED, MISSING, ADDED = "changed", "missing", "added"
IMAGE = re.compile(r"data:image/[^\"']*")


def check_output(output: Path) -> None:
    """UserError unless `output` is free for a report: absent, empty, or holding a report's files and nothing else.

    A report takes the place of the one before, so whatever else stood there would be lost.
    """
    if not output.exists():
        return
    foreign = sorted(path.name for path in _files(output) if path.is_dir() or not _is_ours(path.name))
    if foreign:
        raise UserError(
            f"--output {output} holds {foreign[0]!r}, which is no part of a report: "
            "name a directory that is new or empty, or holds a report only"
        )


def _is_ours(name: str) -> bool:
    path = Path(name)
    return name in PAGES or (name.startswith("figure-") and path.suffix.removeprefix(".") in FIGURE_FORMATS)


def write(
    collection: RunCollection, output: Path, ui: str | None = None, keep: Callable[[Path], None] = lambda output: None
) -> int:
    """Write the report into `output`, in place of the one before, and return how many runs are missing.

    `ui` is where MLflow's UI is, for the page to link runs to. `keep` is given the folder as long as nobody else may
    write to it. UserError where `output` holds anything else, or holds a
    report and there is no run at all to replace it with.
    """
    check_output(output)
    content = gather(collection, ui)
    if len(content.missing) == len(content.rows) + len(content.tests) and (output / "report.md").exists():
        raise _kept(collection, output)
    with _held(output):
        whole = output / WRITING
        whole.mkdir()
        _fill(content, whole)
        # The page goes first and comes back last: where it is, all of one report is.
        for earlier in sorted(_files(output), key=lambda path: path.name != PAGES[0]):
            earlier.unlink()
        for path in sorted(_files(whole), key=lambda path: path.name == PAGES[0]):
            path.rename(output / path.name)
        whole.rmdir()
        keep(output)
    return len(content.missing)


def check_replaced(collection: RunCollection, output: Path) -> None:
    """UserError where `output` holds a report and there is no run at all to replace it with."""
    paper, config = collection.paper, collection.config
    planned = planning.range_tests(paper, config) + planning.trials(paper, config)
    if (output / "report.md").exists() and not any(map(collection.has, planned)):
        raise _kept(collection, output)


def _kept(collection: RunCollection, output: Path) -> UserError:
    return UserError(
        f"{collection.store.source} has no run of this kind, and {output} holds a report, which is kept: "
        "give the options that the runs were made with, as --epochs 1 --train-size 10000"
    )


def command(output: Path) -> str:
    """What a user types to have the report that is in `output` written anew there. UserError where it has no record."""
    recorded = Archive(output / archive.NAME)
    again = command_line("report", load_paper(), recorded.config, recorded.smoothing)
    return f"{again} --output {shlex.quote(str(output))}"


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != WRITING]


@contextmanager
def _held(output: Path) -> Iterator[None]:
    """`output` as this process's alone to write to, without what one that was killed had begun there."""
    output.mkdir(parents=True, exist_ok=True)
    directory = os.open(output, os.O_RDONLY)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _wait_for(directory, f"another command is writing a report to {output}")
        begun = output / WRITING
        if begun.exists():
            shutil.rmtree(begun)
        try:
            yield
        finally:
            shutil.rmtree(begun, ignore_errors=True)
    finally:
        os.close(directory)


def _wait_for(directory: int, why: str) -> None:
    """Lock a directory, once whoever has it locked lets it go. UserError after a while."""
    say(f"{why}; waiting for it, for up to {LOCK_SECONDS} s")
    for _ in range(LOCK_SECONDS):
        time.sleep(1)
        with suppress(BlockingIOError):
            return fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    raise UserError(f"{why}, and has been for {LOCK_SECONDS} s: end it, as it may be suspended")


def _fill(content: ReportData, folder: Path) -> None:
    """Write every file of the report into an empty folder."""
    collection = content.collection
    drawn = _draw(content, folder)

    def keep(name: str, text: str) -> None:
        (folder / name).write_text(text, encoding="utf-8")

    if content.judgements:
        keep("claims.json", _json(verdicts.data(content.judgements)))
    keep("report.md", markdown.markdown(content, drawn))
    keep("summary.csv", tables.as_csv(content.rows))
    keep("summary.md", tables.markdown(tables.HEAD, tables.cells(content.rows)))
    keep("summary.json", _json(_summary(content)))
    if content.curves:
        keep("range-test.csv", tables.curves_csv(content.curves, collection.smoothing))
    keep("environment.json", _json(content.environment))
    used = collection.used()
    curves = {result.run_id: collection.curve(result.trial) for result in used if result.trial.is_range_test}
    archive.write(folder / archive.NAME, collection.config, collection.smoothing, content.ui, used, curves)
    keep("index.html", markdown.page_html(content, drawn, folder))
    crate.write(folder, [_action(result) for result in used], **markdown.provenance(content))


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _summary(content: ReportData) -> dict[str, Any]:
    """The tables as data, and where the study departs from the paper's."""
    collection = content.collection
    run_ids = {test: result.run_id for test in content.tests if (result := collection.result(test))}
    reported = collection.paper.range_test.reported.model_dump()
    return {
        "departures": content.departures,
        "range_tests": tables.range_tests_data(
            content.tests, run_ids, content.suggested, PAPERS_RULE.name, collection.smoothing, reported
        ),
        "trials": tables.trials_data(content.rows),
        "regret": comparisons.regret_data(content.regrets) if content.regrets else None,
    }


def _action(result: Result) -> crate.Action:
    return crate.Action(
        result.trial.label,
        result.run_id,
        result.started_at,
        result.ended_at,
        {key: str(value) for key, value in result.trial.parameters().items()},
        {name: values[-1] for name, values in result.epochs.items()},
        result.outcome,
    )


def _draw(content: ReportData, folder: Path) -> dict[str, str]:
    """Draw every figure for which there are runs; the names of the files, without ending, by what they show."""
    paper, smoothing = content.collection.paper, content.collection.smoothing
    drawn = {}

    def keep(what: str, name: str, draw, *arguments, **named) -> None:
        for ending in FIGURE_FORMATS:
            figures.save(draw(*arguments, **named), folder / f"{name}.{ending}")
        drawn[what] = name

    if content.curves:
        keep("whole", "figure-1", figures.range_test, content.curves, smoothing, content.proposed, paper)
        keep("zoomed", "figure-2", figures.range_test, content.curves, smoothing, content.proposed, paper, zoomed=True)
        keep("rules", "figure-rules", figures.rules, content.curves, smoothing, content.by_rule)
    models: dict[str, list[list[Result]]] = {}
    for of_model in tables.models(content.rows):
        if results := [row.result for row in of_model if row.result]:
            models.setdefault(results[0].trial.schedule.name, []).append(results)
    for scheduler, of_schedule in models.items():
        number = paper.sweep(scheduler).figure
        keep(scheduler, f"figure-{number or scheduler}", figures.schedule, scheduler, of_schedule, paper)
    if models and content.curves:
        shown = (models, content.curves, smoothing, content.proposed, content.regrets)
        keep("conclusion", "figure-conclusion", conclusion_figure.draw, *shown)
    return drawn


def check(folder: Path) -> dict[str, str]:
    """The files of a report that are not what its own runs give: name to changed, missing or added.

    Figures are held to the hashes in the crate, everything else is made again and compared.
    """
    recorded = Archive(folder / archive.NAME)
    collection = RunCollection(recorded, load_paper(), recorded.config, recorded.smoothing)
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    otherwise = set(crate.stale(folder))
    if crate.METADATA in otherwise:  # it cannot be read, and so says nothing of any other
        otherwise = {crate.METADATA}
    with tempfile.TemporaryDirectory() as again:
        _fill(gather(collection, recorded.ui), Path(again))
        made = {path.name: path for path in Path(again).iterdir()}
        changed = {
            name for name in present & made.keys()
            if name in otherwise or (_is_text(name) and _compared(folder / name) != _compared(made[name]))
        }  # fmt: skip
    found = dict.fromkeys(changed, CHANGED) | dict.fromkeys(made.keys() - present, MISSING)
    return dict(sorted((found | dict.fromkeys(present - made.keys(), ADDED)).items()))


def _is_text(name: str) -> bool:
    """Whether a file is the same on every machine: the last bits of a figure's coordinates may not be."""
    return Path(name).suffix.removeprefix(".") not in FIGURE_FORMATS and name != crate.METADATA


def _compared(path: Path) -> str:
    return IMAGE.sub("", path.read_text(encoding="utf-8", errors="surrogateescape"))
