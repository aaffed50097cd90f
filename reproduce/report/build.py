"""The report: tables, figures, verdicts and a page, from recorded runs alone. Needs no GPU, no data and no checkpoint.

The same runs give the same bytes: what is written depends on the runs and on nothing else. They are written beside it,
so that `check` can write it again from them.
"""

import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from reproduce.analysis.lr_range_test import PAPERS_RULE
from reproduce.errors import UserError
from reproduce.report import (
    conclusion_figure,
    crate,
    figure_style,
    figures,
    markdown,
    output_folder,
    page,
    tables,
    wording,
)
from reproduce.report.report_data import ReportData, collect_report_data
from reproduce.results import archive, comparisons, verdicts
from reproduce.results.archive import Archive
from reproduce.results.run_collection import RunCollection
from reproduce.study import planning
from reproduce.study.config import command_line, without_usual
from reproduce.study.fields import loss_name
from reproduce.study.loading import load_paper
from reproduce.study.location import FILE as STUDY
from reproduce.study.location import shipped
from reproduce.study.own_code import NO_CODE, OwnCode
from reproduce.study.trial import Trial
from reproduce.tracking.reader import Result

CHANGED, MISSING, ADDED = "changed", "missing", "added"
IMAGE = re.compile(r"data:image/[^\"']*")
# Of more than nine digits, the last ones differ between versions of libraries.
LONG_NUMBER = re.compile(r"\d+\.\d{9,}(?:e[+-]?\d+)?")


def write(
    collection: RunCollection,
    output: Path,
    ui: str | None = None,
    when_written: Callable[[Path], None] = lambda output: None,
) -> ReportData:
    """Write the report, in place of the one before, and return what is in it.

    UserError where `output` holds anything else, or holds a report and there is no run at all to replace it with.

    Args:
        collection: The runs.
        output: The folder to write to.
        ui: The address of MLflow's UI, for links to the runs.
        when_written: Called with the folder while no other command can write to it.
    """
    output_folder.check_output(output)
    data = collect_report_data(collection, ui)
    if len(data.missing) == len(data.trials) and output_folder.holds_report(output):
        raise _nothing_to_report(collection, output)
    with output_folder.hold(output) as unfinished:
        fill(data, unfinished)
        output_folder.replace_report(unfinished)
        when_written(output)
    return data


def check_replaced(collection: RunCollection, output: Path) -> None:
    """Raise UserError where `output` holds a report and there is no run at all to replace it with."""
    paper, config = collection.paper, collection.config
    planned = planning.range_tests(paper, config) + planning.trials(paper, config)
    if output_folder.holds_report(output) and not any(map(collection.has, planned)):
        raise _nothing_to_report(collection, output)


def _nothing_to_report(collection: RunCollection, output: Path) -> UserError:
    return UserError(
        f"{collection.source} has no run of this kind, and {output} holds a report, which is kept: "
        "give the options that made the runs, such as --epochs 1 --train-size 10000"
    )


def command(output: Path) -> str:
    """Return what to type to write the report in `output` again. UserError where it has no record of its runs."""
    recorded = _recorded_runs(output, Archive(output / archive.NAME))
    again = command_line("report", recorded.paper, recorded.config, recorded.smoothing)
    return f"{again} --output {shlex.quote(str(output))}"


def _recorded_runs(folder: Path, recorded: Archive) -> RunCollection:
    """Return the runs behind a report, of the package's study, or of the copy in the report of a user's own."""
    paper = load_paper(recorded.study, None if recorded.study in shipped() else folder / STUDY)
    return RunCollection(recorded, paper, without_usual(paper, recorded.config), recorded.smoothing)


def fill(data: ReportData, folder: Path) -> None:
    """Write every file of the report into an empty folder."""
    collection, drawn = data.collection, _draw(data, folder)
    texts = {
        "report.md": markdown.render(data, drawn),
        "summary.csv": tables.models_csv(data.rows),
        "summary.md": tables.models_table(data.rows).markdown(),
        "summary.json": _json(_summary(data)),
        "environment.json": _json(data.environment),
    }
    if data.judgements:
        texts["claims.json"] = _json(verdicts.data(data.judgements, data.paper))
    if data.curves:
        texts["range-test.csv"] = tables.curves_csv(data.curves, collection.smoothing)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    archive.write(folder / archive.NAME, collection, data.ui)
    shutil.copyfile(data.paper.file, folder / STUDY)
    for name, text in data.paper.code.files:
        (folder / name).write_text(text, encoding="utf-8")
    # The page lists the files beside it, and the crate describes the page as well.
    (folder / output_folder.PAGE).write_text(page.render(data, drawn, folder), encoding="utf-8")
    crate.write(
        folder, collection.results_read(), data.paper.publication, wording.commands(data)[0][1], data.environment,
        data.trials[0].dataset, data.trials[0].data_sha256,
    )  # fmt: skip


def _draw(data: ReportData, folder: Path) -> dict[str, str]:
    """Draw every figure for which there are runs, and return the files' names, without ending, by what they show."""
    paper, smoothing = data.paper, data.collection.smoothing
    drawn: dict[str, str] = {}

    def save(key: str, name: str, draw: Callable[..., figure_style.Figure], *what: object) -> None:
        for ending in output_folder.FIGURE_FORMATS:
            # Drawn again for each format, as saving a figure lays it out.
            figure_style.save(draw(*what), folder / f"figure-{name}.{ending}")
        drawn[key] = f"figure-{name}"

    if data.curves:
        for key, figure in paper.range_test.figures.by_key().items():
            name = figure.number or f"range-test-{key}"
            shown = (data.curves, smoothing, data.proposed, paper, figure.shows, None, loss_name(paper.loss))
            save(key, name, figures.range_test, *shown)
        save("rules", "rules", figures.rules, data.curves, smoothing, data.by_rule, loss_name(paper.loss))
    # Of every model, one a seed, by their schedule.
    models: dict[str, list[list[Result]]] = {}
    for rows in tables.group_by_model(data.rows):
        if results := [row.result for row in rows if row.result]:
            models.setdefault(results[0].trial.schedule.name, []).append(results)
    for scheduler, schedule_models in models.items():
        save(scheduler, paper.figure(scheduler) or scheduler, figures.schedule, scheduler, schedule_models, paper)
    if models and data.curves:
        save("conclusion", "conclusion", conclusion_figure.draw, models, data)
    return drawn


def _json(content: object) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _summary(data: ReportData) -> dict[str, object]:
    """Return the tables as data, and where the study departs from the paper's."""
    return {
        "departures": data.departures,
        "range_tests": [_range_test(test, data) for test in data.tests],
        "trials": tables.trials_data(data.rows),
        "regret": comparisons.regret_data(data.regrets) if data.regrets else None,
    }


def _range_test(test: Trial, data: ReportData) -> dict[str, object]:
    """Return a range test as data: what each rule suggests, and what the paper proposes."""
    result, suggested = data.collection.result(test), data.suggested.get(test.seed, {})
    proposal = suggested.get(PAPERS_RULE.name)
    return {
        **test.parameters(),
        "smoothing": data.collection.smoothing,
        "proposed_learning_rate": proposal.learning_rate if proposal else None,
        "step": proposal.step if proposal else None,
        "suggestions": {name: found.learning_rate if found else None for name, found in suggested.items()},
        "doubts": {name: found.doubt for name, found in suggested.items() if found.doubt},
        "paper": reported.model_dump() if (reported := data.paper.range_test.reported) else None,
        "run_id": result.run_id if result else None,
    }


def check(folder: Path, trusted: OwnCode = NO_CODE) -> dict[str, str]:
    """Return the files of a report that are not what its own runs give: name to changed, missing or added.

    Figures are held to the hashes in the crate, everything else is written again and compared. Measures that are a
    study's own Python are taken again, which runs it: where it is changed nothing else is looked at.

    Args:
        folder: The report's.
        trusted: The Python that may be run.

    Raises:
        UserError: The report is of a study with measures of its own, and their code is not the trusted one.
    """
    recorded = Archive(folder / archive.NAME)
    collection = _recorded_runs(folder, recorded)
    code = collection.paper.code
    has_measures = any(claim.measure.is_own for claim in collection.paper.claims)
    # The code of a shipped study is the package's, not the report's.
    if has_measures and code != trusted and recorded.study not in shipped():
        names = [name for name, _ in code.files]
        if changed := output_folder.described_files(folder).keys() & set(crate.stale(folder)) & set(names):
            return dict.fromkeys(sorted(changed), CHANGED)
        raise UserError(
            f"{folder} holds Python of the study that it is of, {', '.join(names)}, and a check would run it: read it, "
            f"and if you trust it, add --study {shlex.quote(str(folder))}"
        )
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    stale = set(crate.stale(folder))
    if output_folder.METADATA in stale:
        # It cannot be read, and so says nothing of any other file.
        stale = {output_folder.METADATA}
    with tempfile.TemporaryDirectory() as again:
        fill(collect_report_data(collection, recorded.ui), Path(again))
        made = {path.name: path for path in Path(again).iterdir()}
        changed = {
            name
            for name in present & made.keys()
            if name in stale or (_is_compared(name) and _comparable(folder / name) != _comparable(made[name]))
        }
    found = dict.fromkeys(changed, CHANGED) | dict.fromkeys(made.keys() - present, MISSING)
    return dict(sorted((found | dict.fromkeys(present - made.keys(), ADDED)).items()))


def _is_compared(name: str) -> bool:
    """Return whether a file is the same on every machine: the last bits of a figure's coordinates may not be."""
    return Path(name).suffix.removeprefix(".") not in output_folder.FIGURE_FORMATS and name != output_folder.METADATA


def _comparable(path: Path) -> str:
    """Return the text without its pictures, and with numbers as another version of scipy gives them too."""
    text = IMAGE.sub("", path.read_text(encoding="utf-8", errors="surrogateescape"))
    return LONG_NUMBER.sub(lambda number: repr(float(f"{float(number[0]):.9g}")), text)
