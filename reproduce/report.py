"""The report: tables, figures and a page, from the tracking store alone. Needs no GPU, no data set and no checkpoint.

The same runs give the same bytes: what is written depends on the runs and on nothing else.
"""

import csv
import io
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from reproduce import figures, range_test, spread, study, suggestions, verdicts
from reproduce.errors import UserError
from reproduce.evidence import Evidence
from reproduce.paper import Paper, Reported
from reproduce.provenance import ROOT
from reproduce.study import Wishes
from reproduce.tracking import Result, Store
from reproduce.trial import Trial, format_rate

TEMPLATE = ROOT / "report" / "report.md.j2"
COLUMNS = (
    "optimizer", "scheduler", "learning_rate", "seed", "protocol", "epochs", "engine", "train_loss", "test_accuracy",
    "test_accuracy_batch_mean", "outcome", "run_id",
)  # fmt: skip
PAGES = ("report.md", "claims.json", "summary.csv", "summary.md", "summary.json", "range-test.csv", "environment.json")
FIGURE_FORMATS = ("svg", "png")


@dataclass(frozen=True)
class Row:
    """One trial of the table, and what the paper reports of it; None where it is missing or the paper is silent."""

    trial: Trial
    protocol: str
    result: Result | None
    reported: Reported | None

    def values(self) -> dict[str, Any]:
        """The columns of summary.csv, under their names; None where there is no run."""
        trial, result = self.trial, self.result
        measured = {
            metric: result.last(metric) if result else None
            for metric in ("train_loss", "test_accuracy", "test_accuracy_batch_mean")
        }
        return {
            "optimizer": trial.optimizer,
            "scheduler": trial.schedule.name,
            "learning_rate": trial.learning_rate,
            "seed": trial.seed,
            "protocol": self.protocol,
            "epochs": trial.epochs,
            "engine": trial.engine,
            **measured,
            "outcome": result.outcome if result else "missing",
            "run_id": result.run_id if result else None,
        }


def proposals(store: Store, paper: Paper, wishes: Wishes, smoothing: float) -> dict[Trial, range_test.Proposal | None]:
    """What each finished range test proposes; None for one whose loss never fell."""
    tests = store.results(study.range_tests(paper, wishes))
    return {trial: range_test.propose(_curve(store, result), smoothing) for trial, result in tests.items()}


def check_output(output: Path) -> None:
    """UserError unless `output` is free for a report: absent, empty, or holding a report's files and nothing else.

    A report takes the place of the one before, so whatever else stood there would be lost.
    """
    if not output.exists():
        return
    foreign = sorted(path.name for path in output.iterdir() if path.is_dir() or not _is_ours(path.name))
    if foreign:
        raise UserError(
            f"--output {output} holds {foreign[0]!r}, which is no part of a report: "
            "name a directory that is new or empty, or holds a report only"
        )


def _is_ours(name: str) -> bool:
    path = Path(name)
    return name in PAGES or (name.startswith("figure-") and path.suffix.removeprefix(".") in FIGURE_FORMATS)


def write(store: Store, paper: Paper, wishes: Wishes, smoothing: float, output: Path) -> int:
    """Write the report into `output`, in place of the one before, and return how many runs are missing.

    UserError where `output` holds anything else, or holds a report and there is no run at all to replace it with.
    """
    check_output(output)
    tests, trials = study.range_tests(paper, wishes), study.trials(paper, wishes)
    found = store.results(tests + trials)
    if not found and (output / "report.md").exists():
        raise UserError(
            f"the store has no run of this kind, and {output} holds a report, which is kept: "
            "give the options that the runs were made with, as --epochs 1 --train-size 10000"
        )
    rows = [Row(trial, wishes.protocol, found.get(trial), paper.reported(trial)) for trial in trials]
    curves = {trial.seed: _curve(store, found[trial]) for trial in tests if trial in found}
    proposed = {seed: range_test.propose(curve, smoothing) for seed, curve in curves.items()}
    suggested = _suggested(curves, smoothing)
    missing = [trial for trial in tests + trials if trial not in found]
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".report-") as folder:
        whole = Path(folder) / "report"
        whole.mkdir()
        drawn = _draw(paper, rows, curves, smoothing, proposed, suggested, whole)
        environment = _environment(list(found.values()))
        # What departs from the paper's study says nothing about the paper's claims.
        seeds = wishes.seeds or paper.protocol.seeds
        evidence = Evidence(store, paper, wishes, smoothing)
        judgements = [] if study.departures(paper, wishes) else verdicts.judge_all(evidence, seeds)
        if judgements:
            (whole / "claims.json").write_text(json.dumps(verdicts.data(judgements), indent=1) + "\n")
        page = _render(
            paper, wishes, rows, smoothing, tests, found, curves, proposed, suggested, missing, drawn, environment,
            judgements,
        )  # fmt: skip
        (whole / "report.md").write_text(page, encoding="utf-8")
        (whole / "summary.csv").write_text(_csv(rows), encoding="utf-8")
        (whole / "summary.md").write_text(_markdown(rows), encoding="utf-8")
        (whole / "summary.json").write_text(
            json.dumps(
                _json(paper, wishes, rows, smoothing, tests, found, proposed, suggested), indent=1, allow_nan=True
            )
            + "\n"
        )
        if curves:
            (whole / "range-test.csv").write_text(_curves_csv(curves, smoothing), encoding="utf-8")
        (whole / "environment.json").write_text(json.dumps(environment, indent=1) + "\n")
        output.mkdir(exist_ok=True)
        for earlier in output.iterdir():  # nothing but a report's own files, as check_output saw to
            earlier.unlink()
        for path in whole.iterdir():
            path.rename(output / path.name)
    return len(missing)


def _suggested(
    curves: dict[int, range_test.Curve], smoothing: float
) -> dict[str, dict[int, range_test.Proposal | None]]:
    """What each rule suggests for each seed."""
    return {
        name: {
            seed: rule(curve.learning_rates, range_test.smooth(curve.losses, smoothing))
            for seed, curve in curves.items()
        }
        for name, rule in suggestions.RULES.items()
    }


def _curve(store: Store, result: Result) -> range_test.Curve:
    return range_test.until_not_finite(*store.curve(result.run_id))


def _draw(
    paper: Paper,
    rows: Sequence[Row],
    curves: dict[int, range_test.Curve],
    smoothing: float,
    proposed: dict[int, range_test.Proposal | None],
    suggested: dict[str, dict[int, range_test.Proposal | None]],
    folder: Path,
) -> dict[str, str]:
    """Draw every figure for which there are runs; the names of the files, without ending, by what they show."""
    drawn = {}

    def keep(what: str, name: str, draw, *arguments, **named) -> None:
        for ending in FIGURE_FORMATS:
            figures.save(draw(*arguments, **named), folder / f"{name}.{ending}")
        drawn[what] = name

    if curves:
        keep("rules", "figure-rules", figures.rules, curves, smoothing, suggested)
        keep("whole", "figure-1", figures.range_test, curves, smoothing, proposed, paper)
        keep("zoomed", "figure-2", figures.range_test, curves, smoothing, proposed, paper, zoomed=True)
    results = [row.result for row in rows if row.result is not None]
    for scheduler, of_schedule in study.by_scheduler(result.trial for result in results).items():
        chosen = [result for result in results if result.trial in of_schedule]
        number = paper.sweep(scheduler).figure
        keep(scheduler, f"figure-{number or scheduler}", figures.schedule, scheduler, chosen, paper)
    if results and curves:
        keep("conclusion", "figure-conclusion", figures.conclusion, results, curves, smoothing, proposed)
    return drawn


def _environment(results: list[Result]) -> dict[str, list[str]]:
    """What the runs were made with and on: for each name its values, more than one where the runs differ."""
    names = {"commit": "commit", "uncommitted_changes": "uncommitted changes", "code_sha256": "code"}
    keys = sorted({key for result in results for key in result.tags if key.startswith("environment.")})
    names |= {key: key.removeprefix("environment.") for key in keys}
    found = {name: sorted({result.tags.get(key, "unknown") for result in results}) for key, name in names.items()}
    return found | {"engine": sorted({result.trial.engine for result in results})}


def _render(
    paper, wishes, rows, smoothing, tests, found, curves, proposed, suggested, missing, drawn, environment, judgements
) -> str:
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent), trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False,
    ).get_template(TEMPLATE.name)  # fmt: skip
    sections = [
        {"scheduler": scheduler, "name": figures.NAMES[scheduler], "figure": paper.sweep(scheduler).figure,
         "file": drawn[scheduler]}
        for scheduler in wishes.schedulers if scheduler in drawn
    ]  # fmt: skip
    readings = [
        {"seed": test.seed, "steps": len(curves[test.seed].losses), "run_id": found[test].run_id,
         "rate": format_rate(proposed[test.seed].learning_rate, 3) if proposed[test.seed] else "none",
         "step": proposed[test.seed].step if proposed[test.seed] else "—"}
        for test in tests if test in found
    ]  # fmt: skip
    proposals = [found.learning_rate for found in proposed.values() if found]
    seeds = sorted({row.trial.seed for row in rows})
    return template.render(
        over_seeds=[format_rate(rate, 3) for rate in spread.of_rates(proposals)] if len(proposals) > 1 else None,
        several=len(seeds) if len(seeds) > 1 else None,
        departures=study.departures(paper, wishes),
        verdict=verdicts.sentence(judgements) if judgements else None,
        claims=verdicts.markdown(judgements) if judgements else None,
        wanted=len(rows) + len(tests),
        missing=[trial.label for trial in missing],
        readings=readings,
        seeds=sorted(curves),
        rules={
            name: [format_rate(found.learning_rate, 3) if found else "none" for found in by_seed.values()]
            for name, by_seed in suggested.items()
        },
        reported=paper.range_test.reported,
        reported_rate=format_rate(paper.range_test.reported.proposed_learning_rate),
        smoothing=smoothing,
        table=_markdown(rows),
        drawn=drawn,
        sections=sections,
        environment=environment,
        differing=[name for name, values in environment.items() if len(values) > 1],
        runs=[(row.trial.label, row.result.run_id) for row in rows if row.result],
    )


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.values() for row in rows)
    return text.getvalue()


def _markdown(rows: Sequence[Row]) -> str:
    """The summary table, the paper's value and ours side by side. Accuracies are means over test batches.

    With several seeds a row is their mean and its 95% interval.
    """
    head = ["schedule", "rate", "accuracy, paper", "accuracy, here", "over 10,000, here", "loss, paper", "loss, here",
            "outcome", "the paper's word"]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "-|" * len(head)]
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row.trial.schedule, row.trial.learning_rate), []).append(row)
    for (schedule, rate), of_model in groups.items():
        reported, results = of_model[0].reported, [row.result for row in of_model if row.result]
        about = "≈ " if reported and reported.source == "plot" else ""
        outcomes = Counter(row.result.outcome if row.result else "missing" for row in of_model)
        cells = [
            figures.NAMES[schedule.name],
            format_rate(rate),
            f"{about}{reported.test_accuracy:.{2 if about else 4}f}" if reported else "—",
            _over_seeds(results, "test_accuracy_batch_mean"),
            _over_seeds(results, "test_accuracy"),
            f"≈ {reported.train_loss:g}" if reported else "—",
            _over_seeds(results, "train_loss"),
            ", ".join(outcomes if len(outcomes) == 1 else (f"{n} {outcome}" for outcome, n in outcomes.items())),
            reported.said if reported else "—",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _over_seeds(results: Sequence[Result], metric: str) -> str:
    """The mean of a final value and its interval."""
    if not results:
        return "missing"
    found = spread.of([result.last(metric) for result in results])
    if metric != "train_loss":
        return found.text()
    return f"{found.mean:.4g}" if found.half_width is None else f"{found.mean:.4g} ± {found.half_width:.2g}"


def _curves_csv(curves: dict[int, range_test.Curve], smoothing: float) -> str:
    """Every step of every range test, with the digits that give the same floats back."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["seed", "step", "learning_rate", "loss", "smoothed_loss"])
    for seed, curve in curves.items():
        columns = (curve.learning_rates, curve.losses, range_test.smooth(curve.losses, smoothing))
        for step, row in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
            writer.writerow([seed, step, *map(repr, row)])
    return text.getvalue()


def _json(paper, wishes, rows, smoothing, tests, found, proposed, suggested) -> dict[str, Any]:
    """The same as data: every row and range test with the paper's values beside, and where this departs from it."""
    reported = paper.range_test.reported
    return {
        "departures": study.departures(paper, wishes),
        "range_tests": [
            {
                **test.parameters(),
                "smoothing": smoothing,
                "proposed_learning_rate": proposed[test.seed].learning_rate if proposed.get(test.seed) else None,
                "step": proposed[test.seed].step if proposed.get(test.seed) else None,
                "suggestions": {
                    name: by_seed[test.seed].learning_rate if by_seed.get(test.seed) else None
                    for name, by_seed in suggested.items()
                },
                "paper": reported.model_dump(),
                "run_id": found[test].run_id if test in found else None,
            }
            for test in tests
        ],
        "trials": [
            row.values()
            | {"paper": row.reported.model_dump() if row.reported else None, "parameters": row.trial.parameters()}
            for row in rows
        ],
    }
