"""The report put into words: as Markdown and as the page, from one content. What is said is said in both."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml

from reproduce import escaping
from reproduce.analysis import intervals
from reproduce.analysis.claims import Judgement
from reproduce.data import datasets
from reproduce.report import crate, html, tables
from reproduce.report.report_data import ReportData
from reproduce.results import comparisons, verdicts
from reproduce.study.config import StudyConfig, command_line
from reproduce.study.departures import main_trains
from reproduce.study.schema import Model
from reproduce.study.trial import format_rate
from reproduce.training.provenance import ROOT

TEMPLATE = ROOT / "report" / "report.md.j2"
TITLE = "LeNet-5 on MNIST: learning rates and schedules, run again"
ORIGINAL = "P. Manocha, “CS5260 Assignment 6”, National University of Singapore, 2022"
BEYOND_MAIN = ("reproduce grid", "--optimizer", "as-written", "proposed")  # in commands whose runs main does not make
REGRET_INTRO = (
    "The best test accuracy on a grid of fixed rates less that of a model trained at the rate each rule proposes, in "
    "percentage points: what following the rule costs. Below zero the proposal beat the whole grid. The best of many "
    "values is lucky besides, so that a regret errs on the high side."
)
OPTIMIZERS_INTRO = (
    "Each optimizer without a schedule, at the rate its own range test proposes for each seed, ten times it, and a "
    "tenth of it; in the order of the seeds. What is marked weak is a proposal on weak ground."
)
RULES_INTRO = (
    "What learning-rate finders read off the same smoothed curves. The first rule is the paper's. Those that look at "
    "the whole curve can be drawn into the explosion, where the smoothed loss also falls now and then; by the rate "
    "itself, a fall within the noise at the tiniest rates counts most. A reading is weak at the first rate, where the "
    "loss has not fallen beyond its noise, after its minimum, and where the fall rests on one batch."
)
RATE_DASHED = "The dashed line is the rate that the range test proposes."
GRID_BETWEEN = (
    " Where a grid was run, its accuracy stands between, with what each rule's proposal came to: the gap is the regret."
)


def markdown(content: ReportData, drawn: Mapping[str, str]) -> str:
    """report.md. `drawn` names the figures' files, without ending, by what they show."""
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent), trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False,
    ).get_template(TEMPLATE.name)  # fmt: skip
    paper, config = content.collection.paper, content.collection.config
    sections = [
        {"name": tables.NAMES[scheduler], "figure": paper.sweep(scheduler).figure, "file": drawn[scheduler]}
        for scheduler in config.schedulers if scheduler in drawn
    ]  # fmt: skip
    return template.render(
        title=TITLE,
        over_seeds=_over_seeds(content),
        several=_seeds(content) if _seeds(content) > 1 else None,
        departures=content.departures,
        verdict=verdicts.sentence(content.judgements) if content.judgements else None,
        claims=verdicts.markdown(content.judgements) if content.judgements else None,
        contradictions=_contradictions(content),
        wanted=len(content.rows) + len(content.tests),
        missing=[trial.label for trial in content.missing],
        readings=_readings(content),
        rules=tables.markdown(*_rules(content)) if content.suggested else None,
        rules_intro=RULES_INTRO,
        regret=tables.markdown(*comparisons.regret_rows(content.regrets)) if content.regrets else None,
        regret_intro=REGRET_INTRO,
        costs=comparisons.cost_lines(content.regrets) if content.regrets else [],
        optimizers=tables.markdown(*content.optimizers) if len(content.optimizers[1]) > 1 else None,
        optimizers_intro=OPTIMIZERS_INTRO,
        reported=paper.range_test.reported,
        reported_rate=format_rate(paper.range_test.reported.proposed_learning_rate),
        smoothing=content.collection.smoothing,
        table=tables.markdown(tables.HEAD, tables.cells(content.rows)) if content.rows else None,
        drawn=drawn,
        sections=sections,
        environment={
            escaping.markdown(name): list(map(escaping.markdown, values))
            for name, values in content.environment.items()
        },
        differing=[escaping.markdown(name) for name, values in content.environment.items() if len(values) > 1],
        runs=[(result.trial.label, escaping.markdown(result.run_id)) for result in content.collection.used()],
    )


def _seeds(content: ReportData) -> int:
    return len({trial.seed for trial in (*content.tests, *(row.trial for row in content.rows))})


def _over_seeds(content: ReportData) -> list[str] | None:
    """The proposed rate over seeds and its interval."""
    rates = [proposal.learning_rate for proposal in content.proposed.values() if proposal]
    return [format_rate(rate, 3) for rate in intervals.of_rates(rates)] if len(rates) > 1 else None


def _readings(content: ReportData) -> list[dict[str, Any]]:
    """What each range test proposes."""
    found = []
    for test in content.tests:
        if test.seed in content.curves:
            proposal = content.proposed[test.seed]
            found.append({
                "seed": test.seed, "steps": len(content.curves[test.seed].losses),
                "run_id": escaping.markdown(content.collection.result(test).run_id),
                "rate": str(proposal),
                "step": proposal.step if proposal else "—",
            })  # fmt: skip
    return found


def _rules(content: ReportData) -> tuple[list[str], list[list[str]]]:
    """The table of rules: its head, and a row a rule."""
    head = ["rule", *(f"seed {seed}" for seed in content.suggested)]
    rows = [[name, *(found.short for found in by_seed.values())] for name, by_seed in content.by_rule.items()]
    return head, rows


def _contradictions(content: ReportData) -> list[dict[str, str]]:
    """Where the paper disagrees with itself, beside what was found."""
    found = {judgement.claim.id: judgement for judgement in content.judgements}
    return [
        {
            "says": contradiction.says,
            "found": "; ".join(
                f"{key}: {found[key].verdict}, ours {verdicts.our_value(found[key])}" for key in contradiction.claims
            ),
        }
        for contradiction in content.collection.paper.contradictions
        if found
    ]


def page_html(content: ReportData, drawn: Mapping[str, str], folder: Path) -> str:
    """index.html, with the figures that were drawn into `folder`."""
    return html.render(
        html.Page(
            title=TITLE,
            original=ORIGINAL,
            verdict=verdicts.sentence(content.judgements) if content.judgements else None,
            departures=tuple(content.departures),
            missing=tuple(trial.label for trial in content.missing),
            wanted=len(content.rows) + len(content.tests),
            differing=tuple(name for name, values in content.environment.items() if len(values) > 1),
            claims=tuple(_claim(judgement, content, drawn) for judgement in content.judgements),
            figures=tuple(_figures(content, drawn, folder)),
            tables=tuple(_tables(content)),
            environment=tuple((name, ", ".join(values)) for name, values in content.environment.items()),
            commands=_commands(content),
            citation=_citation(),
            files=tuple((path.name, crate.description(path.name)) for path in _files(folder)),
        )
    )


def _files(folder: Path) -> list[Path]:
    written = [path for path in folder.iterdir() if path.suffix not in (".svg", ".png")]
    return sorted([*written, folder / crate.METADATA])  # which is written last, as it describes this page too


def _claim(judgement: Judgement, content: ReportData, drawn: Mapping[str, str]) -> html.ClaimRow:
    claim = judgement.claim
    notes = [found.says for found in content.collection.paper.contradictions if claim.id in found.claims]
    interval = None
    if judgement.mean is not None:
        interval = html.Interval(judgement.allowed, judgement.low, judgement.mean, judgement.high)
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
        runs=tuple(_run(label, run_id, content) for label, run_id in judgement.runs.items()),
        missing=tuple(judgement.missing),
        command=verdicts.command(judgement),
        figure=_figure_of(judgement, drawn),
        note=" ".join(notes) or None,
        interval=interval,
    )


def _figure_of(judgement: Judgement, drawn: Mapping[str, str]) -> str | None:
    """The figure that shows it, if it was drawn."""
    measure = judgement.claim.measure
    if isinstance(measure.of, Model):
        what = measure.of.scheduler if measure.of.learning_rate != "proposed" else None
    else:
        what = "conclusion" if measure.is_of_grid else "zoomed"
    return what if what in drawn else None


def _run(label: str, run_id: str, content: ReportData) -> html.Run:
    experiments = {result.run_id: result.experiment_id for result in content.collection.used()}
    url = f"{content.ui}/#/experiments/{experiments[run_id]}/runs/{run_id}" if content.ui else None
    return html.Run(label, run_id, url)


def _figures(content: ReportData, drawn: Mapping[str, str], folder: Path) -> list[html.Figure]:
    words = {
        "whole": ("Figure 1: the whole range test",
                  "Loss against step and rate, linear up to 2.5 and logarithmic above: flat, then falling, then "
                  "exploding near the end.", "The whole ramp."),
        "zoomed": ("Figure 2: the descent", "The same loss around its descent, with the proposed rates marked.",
                   "The descent, closer, with what each seed and the paper propose."),
        "rules": ("What each rule suggests", "The smoothed loss by rate with a marker for each rule's suggestion.",
                  RULES_INTRO),
        "conclusion": ("Accuracy and the proposed rate",
                       "Final accuracy by initial rate for every schedule, above the range test's loss on the same "
                       "axis of rates, the proposed rate marked.",
                       RATE_DASHED + GRID_BETWEEN * bool(content.regrets)),
    }  # fmt: skip
    epochs = content.collection.paper.protocol.epochs
    compared = {
        row.trial.schedule.name for row in content.rows if row.reported is not None and row.trial.epochs == epochs
    }
    for scheduler, name in tables.NAMES.items():
        number = content.collection.paper.sweep(scheduler).figure
        beside = "Hollow markers are the paper's final values." if scheduler in compared else ""
        words[scheduler] = (
            f"Figure {number}: {name}" if number else f"{name} (not shown in the paper)",
            f"Training loss and test accuracy by epoch, {name}, a line for each initial rate.",
            beside if number else "The paper says only: the same pattern.",
        )
    order = ["conclusion", *(key for key in drawn if key != "conclusion")]
    return [
        html.Figure(key, *words[key], svg=(folder / f"{drawn[key]}.svg").read_text(encoding="utf-8"))
        for key in order if key in drawn
    ]  # fmt: skip


def _tables(content: ReportData) -> list[html.Table]:
    def table(title: str, intro: str, head: Any, rows: Any, numeric: tuple[bool, ...] = (), sortable: bool = False):
        return html.Table(title, intro, tuple(head), tuple(map(tuple, rows)), sortable, numeric or (False,) * len(head))

    several = f" “±” is half the 95% interval of the mean over {_seeds(content)} seeds." if _seeds(content) > 1 else ""
    numbers = (False, True, True, True, True, True, True, False, False)
    intro = (
        "Values after the last epoch. An accuracy is the mean over test batches of each batch's accuracy, as the paper "
        f"counts it, unless it says over 10,000; “≈” is read off a plot.{several}"
    )
    found = [table("Models", intro, tables.HEAD, tables.cells(content.rows), numbers, True)] if content.rows else []
    readings = _readings(content)
    if readings:
        rows = [[f"seed {row['seed']}", row["rate"], str(row["step"]), str(row["steps"])] for row in readings]
        if over := _over_seeds(content):
            rows.append(["all seeds", f"{over[0]} (95% interval {over[1]} to {over[2]})", "", ""])
        reported = content.collection.paper.range_test.reported
        rows.insert(0, ["the paper", format_rate(reported.proposed_learning_rate), f"around {reported.step}", "2345"])
        found.append(table("What the range test proposes", "", ["proposed by", "rate", "at step", "steps run"], rows))
        found.append(table("What other rules suggest", RULES_INTRO, *_rules(content)))
    if content.regrets:
        costs = " ".join(f"{line}." for line in comparisons.cost_lines(content.regrets))
        found.append(table("Regret", f"{REGRET_INTRO} {costs}", *comparisons.regret_rows(content.regrets)))
    if len(content.optimizers[1]) > 1:
        found.append(table("Optimizers", OPTIMIZERS_INTRO, *content.optimizers))
    return found


def _commands(content: ReportData) -> tuple[tuple[str, str], ...]:
    """What gives the runs again, where one command does, and this page."""
    paper, config, smoothing = content.collection.paper, content.collection.config, content.collection.smoothing
    is_whole = main_trains(paper, config, smoothing)
    if content.departures:
        whole = [("main", "the range test, all 15 models and this page")] * is_whole
        return tuple(
            (what, command_line(name, paper, config, smoothing))
            for name, what in (*whole, ("report", "the same page again"))
        )
    seeds = ",".join(map(str, sorted({row.trial.seed for row in content.rows})))
    settled = {command: None for judgement in content.judgements if judgement.runs and not judgement.missing
               for command in verdicts.commands(judgement.claim.measure, seeds)}  # fmt: skip
    further = [command for command in settled if any(word in command for word in BEYOND_MAIN)]

    def of_seeds(name: str, like: StudyConfig) -> str:
        """The seeds are named even where they are the paper's."""
        return command_line(name, paper, like.model_copy(update={"seeds": None}), smoothing) + f" --seeds {seeds}"

    everything = ("the range test, all 15 models and this page", of_seeds("main", config))
    return (
        *[everything] * is_whole,
        *(
            (f"what further claims rest on, {number} of {len(further)}", command)
            for number, command in enumerate(further, 1)
        ),
        ("the verdicts alone", of_seeds("verify", StudyConfig(engine=config.engine))),
        ("the same page again", of_seeds("report", config)),
    )


def _citation() -> str:
    own = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    names = ", ".join(author["name"] for author in own["authors"])
    return f"{names}: {own['title']}. Version {own['version']}. It reruns {ORIGINAL}."


def provenance(content: ReportData) -> dict[str, Any]:
    """What the crate wants to know of how the report came about."""
    versions = {name: ", ".join(values) for name, values in content.environment.items()
                if name in crate.HOMES}  # fmt: skip
    dataset = (*content.tests, *(row.trial for row in content.rows))[0].dataset
    return {
        "command": _commands(content)[0][1],
        "commit": ", ".join(content.environment["commit"]),
        "uncommitted_changes": ", ".join(content.environment["uncommitted changes"]),
        "versions": versions,
        "dataset": datasets.SHA256[dataset],
        "dataset_name": dataset,
    }
