"""The report's tables, as Markdown, CSV and data: every model of a study, the paper's value beside ours."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reproduce import escaping
from reproduce.analysis import intervals, lr_range_test
from reproduce.analysis.lr_range_test import Curve, Reading
from reproduce.results.archive import finite
from reproduce.study.schema import Reported
from reproduce.study.trial import Trial, format_rate
from reproduce.tracking.reader import Result

NAMES = {"none": "no schedule", "step": "StepLR", "multistep": "MultiStepLR", "onecycle": "OneCycleLR",
         "exponential": "ExponentialLR"}  # fmt: skip
COLUMNS = (
    "optimizer", "scheduler", "learning_rate", "seed", "protocol", "epochs", "engine", "train_loss", "test_accuracy",
    "test_accuracy_batch_mean", "outcome", "run_id",
)  # fmt: skip
HEAD = ("schedule", "rate", "accuracy, paper", "accuracy, here", "over 10,000, here", "loss, paper", "loss, here",
        "outcome", "the paper's word")  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One trial, and what the paper reports of it; None where it is missing or the paper is silent.

    `model` tells which trials are one model under several seeds: they share it though their rates may differ, where
    each seed has its own proposal.
    """

    trial: Trial
    model: tuple[str, int]
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


def models(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each model, one a seed, in the order given."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.model, []).append(row)
    return list(groups.values())


def rate_of(trials: Sequence[Trial]) -> str:
    """The rate of a model as text; about their middle, where the seeds have rates of their own."""
    rates = [trial.learning_rate for trial in trials]
    return format_rate(rates[0]) if len(set(rates)) == 1 else f"≈ {format_rate(intervals.of_rates(rates)[0], 3)}"


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """The summary table under HEAD, a row a model. Accuracies are means over test batches.

    With several seeds a cell is their mean and its 95% interval.
    """
    table = []
    for of_model in models(rows):
        reported, results = of_model[0].reported, [row.result for row in of_model if row.result]
        about = "≈ " if reported and reported.source == "plot" else ""
        outcomes = Counter(row.result.outcome if row.result else "missing" for row in of_model)
        table.append([
            NAMES[of_model[0].trial.schedule.name],
            rate_of([row.trial for row in of_model]),
            f"{about}{reported.test_accuracy:.{2 if about else 4}f}" if reported else "—",
            _over_seeds(results, "test_accuracy_batch_mean"),
            _over_seeds(results, "test_accuracy"),
            f"≈ {reported.train_loss:g}" if reported else "—",
            _over_seeds(results, "train_loss"),
            ", ".join(outcomes if len(outcomes) == 1 else (f"{n} {outcome}" for outcome, n in outcomes.items())),
            reported.said if reported else "—",
        ])  # fmt: skip
    return table


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Any table as Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "-|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(escaping.markdown, row)) + " |" for row in rows]) + "\n"


def _over_seeds(results: Sequence[Result], metric: str) -> str:
    """The mean of a final value and its interval."""
    if not results:
        return "missing"
    found = intervals.of([result.last(metric) for result in results])
    if metric != "train_loss":
        return found.text()
    return f"{found.mean:.4g}" if found.half_width is None else f"{found.mean:.4g} ± {found.half_width:.2g}"


def as_csv(rows: Sequence[Row]) -> str:
    """Every trial under COLUMNS."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.values() for row in rows)
    return text.getvalue()


def curves_csv(curves: Mapping[int, Curve], smoothing: float) -> str:
    """Every step of every range test, with the digits that give the same floats back."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["seed", "step", "learning_rate", "loss", "smoothed_loss"])
    for seed, curve in curves.items():
        columns = (curve.learning_rates, curve.losses, lr_range_test.smooth(curve.losses, smoothing))
        for step, row in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
            writer.writerow([seed, step, *map(repr, row)])
    return text.getvalue()


def trials_data(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every trial as data, with the paper's values beside."""
    return [
        {key: finite(value) if isinstance(value, float) else value for key, value in row.values().items()}
        | {"paper": row.reported.model_dump() if row.reported else None, "parameters": row.trial.parameters()}
        for row in rows
    ]


def range_tests_data(
    tests: Sequence[Trial],
    run_ids: Mapping[Trial, str],
    suggested: Mapping[int, Mapping[str, Reading]],
    papers_rule: str,
    smoothing: float,
    reported: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Every range test as data: what each rule suggests for its seed, and what the paper proposes."""
    data = []
    for test in tests:
        found = suggested.get(test.seed, {})
        proposal = found.get(papers_rule)
        data.append({
            **test.parameters(),
            "smoothing": smoothing,
            "proposed_learning_rate": proposal.learning_rate if proposal else None,
            "step": proposal.step if proposal else None,
            "suggestions": {name: other.learning_rate if other else None for name, other in found.items()},
            "doubts": {name: other.doubt for name, other in found.items() if other.doubt},
            "paper": dict(reported),
            "run_id": run_ids.get(test),
        })  # fmt: skip
    return data
