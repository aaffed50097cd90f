"""The page put together from a report's data: its claims, figures and tables in the order in which they are shown."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from reproduce.analysis.claims import Judgement
from reproduce.report import crate, html, tables, wording
from reproduce.report.commands import commands
from reproduce.report.report_data import ReportData
from reproduce.results import comparisons, verdicts
from reproduce.results.table import Table
from reproduce.study.claim import PROPOSED, Model
from reproduce.study.trial import format_rate

PROPOSED_RATE_DASHED = "The dashed line is the rate that the range test proposes."
GRID_BETWEEN = (
    " Where a grid was run, its accuracy stands between, with what each rule's proposal came to: the gap is the regret."
)


def render(data: ReportData, drawn: Mapping[str, str], folder: Path) -> str:
    """Return index.html. `drawn` names the figures' files in `folder`, without ending, by what they show."""
    publication = data.paper.publication
    return html.render(
        html.Page(
            title=data.paper.title,
            original=publication.citation,
            original_url=publication.url,
            verdict=verdicts.sentence(data.judgements) if data.judgements else None,
            departures=tuple(data.departures),
            missing=tuple(trial.label for trial in data.missing),
            wanted=len(data.trials),
            differing=tuple(data.differing),
            claims=tuple(_claim_row(judgement, data, drawn) for judgement in data.judgements),
            figures=tuple(_figures(data, drawn, folder)),
            tables=tuple(_tables(data)),
            environment=tuple((name, ", ".join(values)) for name, values in data.environment.items()),
            commands=tuple(commands(data)),
            citation=_citation(publication.citation),
            files=tuple((path.name, crate.description(path.name)) for path in _files(folder)),
        )
    )


def _files(folder: Path) -> list[Path]:
    """Return what is beside the page, without figures. The crate is written last, as it describes the page too."""
    written = [path for path in folder.iterdir() if path.suffix not in (".svg", ".png")]
    return sorted([*written, folder / crate.METADATA])


def _citation(original: str) -> str:
    own = yaml.safe_load(crate.CITATION.read_text(encoding="utf-8"))
    names = ", ".join(author["name"] for author in own["authors"])
    return f"{names}: {own['title']}. Version {own['version']}. It reruns {original}."


def _claim_row(judgement: Judgement, data: ReportData, drawn: Mapping[str, str]) -> html.ClaimRow:
    claim = judgement.claim
    interval = judgement.interval
    notes = [found.says for found in data.paper.contradictions if claim.id in found.claims]
    return html.ClaimRow(
        id=claim.id,
        says=claim.says,
        where=claim.where,
        paper_value=verdicts.paper_value(claim),
        our_value=verdicts.our_value(judgement),
        verdict=judgement.verdict,
        rule=judgement.rule,
        reason=claim.reason,
        by_seed=tuple((str(seed), verdicts.one_value(claim, value)) for seed, value in judgement.values.items()),
        runs=tuple(_run(label, run_id, data) for label, run_id in judgement.runs.items()),
        missing=tuple(judgement.missing),
        command=verdicts.command(judgement),
        figure=_figure_key(judgement, drawn),
        note=" ".join(notes) or None,
        interval=html.Interval(judgement.allowed, interval.low, interval.mean, interval.high) if interval else None,
    )


def _figure_key(judgement: Judgement, drawn: Mapping[str, str]) -> str | None:
    """Return the key of the figure that shows the claim, if that was drawn."""
    measure = judgement.claim.measure
    key: str | None = "conclusion" if measure.is_of_grid else "zoomed"
    if isinstance(measure.of, Model):
        key = measure.of.scheduler if measure.of.learning_rate != PROPOSED else None
    return key if key in drawn else None


def _run(label: str, run_id: str, data: ReportData) -> html.Run:
    if data.ui is None:
        return html.Run(label, run_id)
    experiments = {result.run_id: result.experiment_id for result in data.collection.results_read()}
    return html.Run(label, run_id, f"{data.ui}/#/experiments/{experiments[run_id]}/runs/{run_id}")


def _figures(data: ReportData, drawn: Mapping[str, str], folder: Path) -> list[html.Figure]:
    """Return the figures that were drawn, the conclusion first."""
    order = ["conclusion", *(key for key in drawn if key != "conclusion")]
    return [
        html.Figure(key, *_figure_words(key, data), svg=(folder / f"{drawn[key]}.svg").read_text(encoding="utf-8"))
        for key in order
        if key in drawn
    ]


def _figure_words(key: str, data: ReportData) -> tuple[str, str, str]:
    """Return a figure's title, its text for who cannot see it, and its caption."""
    of_curves = dict(data.paper.range_test.figures)
    if key in of_curves:
        figure = of_curves[key]
        return f"Figure {figure.number}: {figure.title}", figure.alt, figure.caption
    if key == "rules":
        alt = "The smoothed loss by rate with a marker for each rule's suggestion."
        return "What each rule suggests", alt, wording.RULES_INTRO
    if key == "conclusion":
        alt = (
            "Final accuracy by initial rate for every schedule, above the range test's loss on the same axis of rates, "
            "the proposed rate marked."
        )
        return "Accuracy and the proposed rate", alt, PROPOSED_RATE_DASHED + GRID_BETWEEN * bool(data.regrets)
    return _schedule_figure_words(key, data)


def _schedule_figure_words(scheduler: str, data: ReportData) -> tuple[str, str, str]:
    name, sweep = tables.NAMES[scheduler], data.paper.sweep(scheduler)
    is_as_long = any(
        row.reported is not None and row.trial.epochs == data.paper.protocol.epochs
        for row in data.rows
        if row.trial.schedule.name == scheduler
    )
    return (
        f"Figure {sweep.figure}: {name}" if sweep.figure else f"{name} (not shown in the paper)",
        f"Training loss and test accuracy by epoch, {name}, a line for each initial rate.",
        sweep.caption or ("Hollow markers are the paper's final values." if is_as_long else ""),
    )


def _tables(data: ReportData) -> list[html.Table]:
    found = [_models(data)] if data.rows else []
    if readings := wording.curve_readings(data):
        found.append(_proposals(readings, data))
        found.append(_plain("What other rules suggest", wording.RULES_INTRO, wording.rules_table(data)))
    if data.regrets:
        costs = " ".join(f"{line}." for line in comparisons.cost_lines(data.regrets))
        found.append(_plain("Regret", f"{wording.REGRET_INTRO} {costs}", comparisons.regret_table(data.regrets)))
    if len(data.optimizers.rows) > 1:
        found.append(_plain("Optimizers", wording.OPTIMIZERS_INTRO, data.optimizers))
    return found


def _plain(title: str, intro: str, table: Table) -> html.Table:
    return html.Table(
        title, intro, tuple(table.head), tuple(map(tuple, table.rows)), numeric=(False,) * len(table.head)
    )


def _models(data: ReportData) -> html.Table:
    seeds = wording.seed_count(data)
    several = f" “±” is half the 95% interval of the mean over {seeds} seeds." if seeds > 1 else ""
    meaning = f"Values after the last epoch. An accuracy is {wording.ACCURACY_MEANING}"
    table = tables.models_table(data.rows)
    return html.Table(
        "Models",
        f"{meaning}; “≈” is read off a plot.{several}",
        tuple(table.head),
        tuple(map(tuple, table.rows)),
        sortable=True,
        numeric=(False, True, True, True, True, True, True, False, False),
    )


def _proposals(readings: list[wording.CurveReading], data: ReportData) -> html.Table:
    reported, steps = data.paper.range_test.reported, data.paper.range_test_steps
    rows = [["the paper", format_rate(reported.proposed_learning_rate), f"around {reported.step}", str(steps)]]
    rows += [[f"seed {reading.seed}", reading.rate, reading.step, str(reading.steps)] for reading in readings]
    if mean := wording.mean_proposal(data):
        rows.append(["all seeds", f"{mean[0]} (95% interval {mean[1]} to {mean[2]})", "", ""])
    return _plain("What the range test proposes", "", Table(["proposed by", "rate", "at step", "steps run"], rows))
