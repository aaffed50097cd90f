"""The page put together from a report's data: its claims, figures and tables in the order in which they are shown."""

from collections.abc import Collection, Mapping
from pathlib import Path

import yaml

from reproduce.analysis.claims import Judgement
from reproduce.report import crate, html, output_folder, tables, wording
from reproduce.report.report_data import ReportData
from reproduce.results import comparisons, verdicts
from reproduce.results.table import Table
from reproduce.study.claim import PROPOSED, Model
from reproduce.study.fields import format_rate
from reproduce.tracking.ui_views import VIEWS

PROPOSED_RATE_DASHED = "The dashed line is the rate that the range test proposes."
GRID_BETWEEN = (
    " Where a grid was run, its accuracy stands between, with what each rule's proposal came to: the gap is the regret."
)


def render(data: ReportData, drawn: Mapping[str, str], folder: Path) -> str:
    """Return index.html. `drawn` names the figures' files in `folder`, without ending, by what they show.

    The models are the first of the tables.
    """
    publication = data.paper.publication
    # What is beside the page, without figures. The crate is written last, as it describes the page too.
    beside = [path.name for path in folder.iterdir() if path.suffix not in (".svg", ".png")]
    return html.render(
        {
            "title": data.paper.title,
            "original": publication.citation,
            "original_url": publication.url,
            "views": _views(data),
            "verdict": verdicts.sentence(data.judgements) if data.judgements else None,
            "departures": data.departures,
            "missing": [trial.label for trial in data.missing],
            "trial_count": len(data.trials),
            "differing": data.differing,
            "claims": [_claim(judgement, data, drawn) for judgement in data.judgements],
            "figures": _figures(data, drawn, folder),
            "tables": _tables(data),
            "environment": [(name, ", ".join(values)) for name, values in data.environment.items()],
            "commands": wording.commands(data),
            "citation": _citation(publication.citation),
            "files": [(name, crate.description(name)) for name in sorted([*beside, output_folder.METADATA])],
        }
    )


def _views(data: ReportData) -> list[tuple[str, str]]:
    """Return the views of MLflow's UI that compare the runs, name and address; none where no UI is known."""
    results = data.collection.results_read()
    if data.ui is None or not results:
        return []
    return [(view.name, view.link(results[0].experiment_id, data.ui)) for view in VIEWS]


def _citation(original: str) -> str:
    own = yaml.safe_load(crate.CITATION.read_text(encoding="utf-8"))
    names = ", ".join(author["name"] for author in own["authors"])
    return f"{names}: {own['title']}. Version {own['version']}. It reruns {original}."


def _claim(judgement: Judgement, data: ReportData, drawn: Mapping[str, str]) -> html.Claim:
    claim = judgement.claim
    experiments = {result.run_id: result.experiment_id for result in data.collection.results_read()}
    runs: list[html.Run] = [
        {
            "label": label,
            "run_id": run_id,
            "url": data.ui and f"{data.ui}/#/experiments/{experiments[run_id]}/runs/{run_id}",
        }
        for label, run_id in judgement.runs.items()
    ]
    return {
        "id": claim.id,
        "says": claim.says,
        "where": claim.where,
        "paper_value": verdicts.paper_value(claim),
        "our_value": verdicts.our_value(judgement),
        "verdict": judgement.verdict,
        "rule": judgement.rule,
        "reason": claim.reason,
        "by_seed": [(seed, verdicts.one_value(claim, value)) for seed, value in judgement.values.items()],
        "runs": runs,
        "missing": list(judgement.missing),
        "command": verdicts.command(judgement, data.paper),
        "figure": _figure_key(judgement, drawn),
        "note": " ".join(found.says for found in data.paper.contradictions if claim.id in found.claims),
        "interval": judgement.interval,
        "allowed": judgement.allowed,
    }


def _figure_key(judgement: Judgement, drawn: Mapping[str, str]) -> str | None:
    """Return the key of the figure that shows the claim, if that was drawn."""
    measure = judgement.claim.measure
    key: str | None = "conclusion" if measure.is_of_grid else "zoomed"
    if isinstance(measure.of, Model):
        key = measure.of.scheduler if measure.of.learning_rate != PROPOSED else None
    return key if key in drawn else None


def _figures(data: ReportData, drawn: Mapping[str, str], folder: Path) -> list[html.Figure]:
    """Return the figures that were drawn, each as the text of an SVG under its key, the conclusion first."""
    found: list[html.Figure] = []
    for key in sorted(drawn, key=lambda key: key != "conclusion"):
        title, alt, caption = _figure_words(key, data)
        svg = (folder / f"{drawn[key]}.svg").read_text(encoding="utf-8")
        found.append({"key": key, "title": title, "alt": alt, "caption": caption, "svg": svg})
    return found


def _figure_words(key: str, data: ReportData) -> tuple[str, str, str]:
    """Return a figure's title, its text for who cannot see it, and its caption."""
    curve_figures = data.paper.range_test.figures.by_key()
    if key in curve_figures:
        figure = curve_figures[key]
        title = f"Figure {figure.number}: {figure.title}" if figure.number else figure.title.capitalize()
        return title, figure.alt, figure.caption
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
    name, sweep = tables.schedule_name(scheduler), data.paper.sweep(scheduler)
    is_as_long = any(
        row.reported is not None and row.trial.epochs == data.paper.epochs(scheduler)
        for row in data.rows
        if row.trial.schedule.name == scheduler
    )
    return (
        f"Figure {sweep.figure}: {name}" if sweep and sweep.figure else f"{name} (not shown in the paper)",
        f"Training loss and test accuracy by epoch, {name}, a line for each initial rate.",
        (sweep and sweep.caption) or ("Hollow markers are the paper's final values." if is_as_long else ""),
    )


def _tables(data: ReportData) -> list[html.Table]:
    found = [_models(data)] if data.rows else []
    if data.test_results:
        found.append(_table("What the range test proposes", "", _proposals(data)))
        found.append(_table("What other rules suggest", wording.RULES_INTRO, wording.rules_table(data)))
    if data.regrets:
        costs = " ".join(f"{line}." for line in comparisons.cost_lines(data.regrets))
        found.append(_table("Regret", f"{wording.REGRET_INTRO} {costs}", comparisons.regret_table(data.regrets)))
    if len(data.optimizers.rows) > 1:
        found.append(_table("Optimizers", wording.OPTIMIZERS_INTRO, data.optimizers))
    return found


def _table(title: str, intro: str, table: Table, numeric: Collection[int] = ()) -> html.Table:
    """Return a table of the page. One with numbers, in the columns `numeric`, can be sorted.

    Args:
        title: Its heading.
        intro: What is said of it.
        table: Its head and rows.
        numeric: The columns with numbers, from 0.
    """
    return {
        "title": title,
        "intro": intro,
        "head": table.head,
        "rows": table.rows,
        "sortable": bool(numeric),
        "numeric": [column in numeric for column in range(len(table.head))],
    }


def _models(data: ReportData) -> html.Table:
    seeds = wording.seed_count(data)
    several = f" “±” is half the 95% interval of the mean over {seeds} seeds." if seeds > 1 else ""
    meaning = f"Values after the last epoch. An accuracy is {wording.ACCURACY_MEANING}"
    table = tables.models_table(data.rows)
    return _table("Models", f"{meaning}; “≈” is read off a plot.{several}", table, numeric=range(1, 7))


def _proposals(data: ReportData) -> Table:
    reported, steps, rows = data.paper.range_test.reported, data.paper.range_test_steps, []
    if reported:
        rows = [["the paper", format_rate(reported.proposed_learning_rate), f"around {reported.step}", str(steps)]]
    for result, proposal, steps in wording.curve_readings(data):
        step = str(proposal.step) if proposal else "—"
        rows.append([f"seed {result.trial.seed}", str(proposal), step, str(steps)])
    if mean := wording.mean_proposal(data):
        rows.append(["all seeds", f"{mean[0]} (95% interval {mean[1]} to {mean[2]})", "", ""])
    return Table(["proposed by", "rate", "at step", "steps run"], rows)
